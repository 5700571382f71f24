//! What the swarm reports, put into the words of the brain.

use super::Driver;
use crate::{
    addresses,
    behaviour::BehaviourEvent,
    border,
    brain::{Gossip, Verdict},
    dialer::Target,
    peers::Token,
};
use libp2p::{
    core::ConnectedPoint,
    gossipsub::{self, MessageAcceptance},
    identify, ping,
    request_response::{self, InboundFailure, Message, OutboundFailure},
    swarm::{ConnectionId, DialError, ListenError, SwarmEvent},
};
use netbuild_proto::membership::{Request, Response};
use std::{io, time::Instant};

impl Driver {
    pub(super) fn handle_swarm(&mut self, event: SwarmEvent<BehaviourEvent>, now: Instant) {
        match event {
            SwarmEvent::Behaviour(event) => self.handle_behaviour(event, now),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.handle_connected(&peer_id, connection_id, &endpoint, now);
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, cause, .. } => {
                tracing::debug!(peer = %peer_id, ?cause, "disconnected");
                if let Some(peer) = border::from_libp2p(&peer_id) {
                    self.brain.handle_disconnected(&peer, now);
                }
            }
            SwarmEvent::IncomingConnectionError { error, .. } => {
                tracing::debug!(%error, "refused a connection");
                if matches!(error, ListenError::Denied { .. }) {
                    self.brain.counters_mut().refused_connections += 1;
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                if let Some(target) = self.dials.remove(&connection_id) {
                    self.handle_dial_error(&target, &error, now);
                }
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                self.addresses.extend(border::from_multiaddr(&address));
                self.handle_addresses(now);
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                let gone = border::from_multiaddr(&address);
                self.addresses.retain(|address| Some(*address) != gone);
                self.handle_addresses(now);
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::debug!(%error, "the mesh port had an error");
            }
            SwarmEvent::ListenerClosed { reason, .. } => {
                tracing::warn!(?reason, "the mesh port is closed: no peer can dial this agent");
            }
            _ => {}
        }
    }

    pub(super) fn handle_addresses(&mut self, now: Instant) {
        self.addresses = addresses::in_order(std::mem::take(&mut self.addresses));
        self.brain.handle_listening(&self.addresses, now);
    }

    fn handle_connected(
        &mut self,
        peer: &libp2p::PeerId,
        connection: ConnectionId,
        endpoint: &ConnectedPoint,
        now: Instant,
    ) {
        let dialled = self.dials.remove(&connection);
        let seen = border::from_multiaddr(endpoint.get_remote_address());
        let (Some(id), Some(seen)) = (border::from_libp2p(peer), seen) else {
            tracing::debug!(%peer, "refused a peer whose key is not Ed25519");
            self.brain.counters_mut().refused_connections += 1;
            self.swarm.close_connection(connection);
            return;
        };
        tracing::debug!(peer = %id, %seen, dialled = dialled.is_some(), "connected");
        self.brain.handle_connected(id, seen, dialled, now);
    }

    pub(super) fn handle_dial_error(&mut self, target: &Target, error: &DialError, now: Instant) {
        tracing::debug!(?target, %error, "a dial failed");
        match error {
            DialError::LocalPeerId { .. } => self.brain.handle_dialled_self(target),
            _ => self.brain.handle_dial_failed(target, now),
        }
    }

    fn handle_behaviour(&mut self, event: BehaviourEvent, now: Instant) {
        match event {
            BehaviourEvent::Requests(event) => self.handle_requests(event, now),
            BehaviourEvent::Gossip(event) => self.handle_gossip(event, now),
            BehaviourEvent::Ping(event) => self.handle_ping(event),
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                tracing::debug!(peer = %peer_id, version = info.agent_version, "identified");
            }
            BehaviourEvent::Identify(_) => {}
        }
    }

    fn handle_ping(&mut self, event: ping::Event) {
        match event.result {
            Ok(rtt) => {
                if let Some(peer) = border::from_libp2p(&event.peer) {
                    self.brain.handle_rtt(peer, rtt);
                }
            }
            // A stranger that does not ping has no other virtue; its probation ends soon.
            Err(ping::Failure::Unsupported) => {}
            Err(error) => {
                tracing::debug!(peer = %event.peer, %error, "a ping failed");
                self.swarm.close_connection(event.connection);
            }
        }
    }

    fn handle_requests(&mut self, event: request_response::Event<Request, Response>, now: Instant) {
        match event {
            request_response::Event::Message { peer, message, .. } => {
                let Some(peer) = border::from_libp2p(&peer) else {
                    return;
                };
                match message {
                    Message::Request { request, channel, .. } => {
                        let token = Token(self.next_token);
                        self.next_token += 1;
                        self.answers.insert(token, channel);
                        self.brain.handle_request(peer, token, request, now);
                    }
                    Message::Response { request_id, response } => {
                        if let Some(number) = self.asks.remove(&request_id) {
                            self.brain.handle_response(peer, number, response, now);
                        }
                    }
                }
            }
            request_response::Event::OutboundFailure { peer, request_id, error, .. } => {
                tracing::debug!(%peer, %error, "a request got no answer");
                if let OutboundFailure::Io(error) = &error {
                    self.count_broken(error);
                }
                let peer = border::from_libp2p(&peer);
                if let (Some(number), Some(peer)) = (self.asks.remove(&request_id), peer) {
                    self.brain.handle_unanswered(&peer, number, now);
                }
            }
            request_response::Event::InboundFailure { peer, error, .. } => {
                tracing::debug!(%peer, %error, "a request was not answered");
                if let InboundFailure::Io(error) = &error {
                    self.count_broken(error);
                }
            }
            request_response::Event::ResponseSent { .. } => {}
        }
    }

    fn count_broken(&mut self, error: &io::Error) {
        if error.kind() == io::ErrorKind::InvalidData {
            self.brain.counters_mut().rejected_messages += 1;
        }
    }

    fn handle_gossip(&mut self, event: gossipsub::Event, now: Instant) {
        match event {
            gossipsub::Event::Message { propagation_source, message_id, message } => {
                let verdict = self.judge(&propagation_source, &message, now);
                let acceptance = match verdict {
                    Verdict::Accept => MessageAcceptance::Accept,
                    Verdict::Ignore => MessageAcceptance::Ignore,
                    Verdict::Reject => MessageAcceptance::Reject,
                };
                let gossip = &mut self.swarm.behaviour_mut().gossip;
                gossip.report_message_validation_result(
                    &message_id,
                    &propagation_source,
                    acceptance,
                );
            }
            gossipsub::Event::Subscribed { peer_id, .. } => {
                if let Some(peer) = border::from_libp2p(&peer_id) {
                    self.brain.handle_subscribed(&peer, now);
                }
            }
            gossipsub::Event::SlowPeer { peer_id, .. } => {
                tracing::debug!(peer = %peer_id, "a peer takes gossip slowly");
            }
            gossipsub::Event::Unsubscribed { .. }
            | gossipsub::Event::GossipsubNotSupported { .. } => {}
        }
    }

    fn judge(
        &mut self,
        forwarder: &libp2p::PeerId,
        message: &gossipsub::Message,
        now: Instant,
    ) -> Verdict {
        let sender = message.source.as_ref().and_then(border::from_libp2p);
        let (Some(forwarder), Some(sender), Some(sequence)) =
            (border::from_libp2p(forwarder), sender, message.sequence_number)
        else {
            return Verdict::Reject;
        };
        let gossip = Gossip { forwarder, sender, sequence, sealed: &message.data };
        self.brain.handle_gossip(gossip, now)
    }
}
