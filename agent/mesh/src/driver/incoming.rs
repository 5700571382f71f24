//! What the swarm reports, put into the words of the brain.

use super::{Asker, Driver};
use crate::{
    addresses, behaviour::BehaviourEvent, border, codec::Broken, dialer::Target, mesh::AskError,
    peers::Token,
};
use libp2p::{
    core::ConnectedPoint,
    mdns, ping,
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
                self.listening.extend(border::from_multiaddr(&address));
                self.handle_addresses(now);
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                let gone = border::from_multiaddr(&address);
                self.listening.retain(|address| Some(*address) != gone);
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
        self.listening = addresses::in_order(std::mem::take(&mut self.listening));
        self.addresses = addresses::announced(&self.listening, self.announce);
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
        let outbound = endpoint.is_dialer();
        tracing::debug!(peer = %id, %seen, outbound, "connected");
        self.brain.handle_connected(id, seen, outbound, dialled, now);
    }

    pub(super) fn handle_dial_error(&mut self, target: &Target, error: &DialError, now: Instant) {
        tracing::debug!(?target, %error, "a dial failed");
        match error {
            DialError::LocalPeerId { .. } => self.brain.handle_dialled_self(target),
            // The swarm leaves out addresses that it listens on itself, and there is only the one.
            DialError::NoAddresses if matches!(target, Target::Address(_)) => {
                self.brain.handle_dialled_self(target);
            }
            _ => self.brain.handle_dial_failed(target, now),
        }
    }

    fn handle_behaviour(&mut self, event: BehaviourEvent, now: Instant) {
        match event {
            BehaviourEvent::Requests(event) => self.handle_requests(event, now),
            BehaviourEvent::Ping(event) => self.handle_ping(event),
            BehaviourEvent::Router(found) => self.handle_found(&found.peer, &found.addresses, now),
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                for (peer, address) in found {
                    self.handle_found(&peer, &[address], now);
                }
            }
            BehaviourEvent::Mdns(mdns::Event::Expired(_)) => {}
        }
    }

    fn handle_found(
        &mut self,
        peer: &libp2p::PeerId,
        addresses: &[libp2p::Multiaddr],
        now: Instant,
    ) {
        if let Some(peer) = border::from_libp2p(peer) {
            let addresses: Vec<_> = addresses.iter().filter_map(border::from_multiaddr).collect();
            tracing::debug!(%peer, ?addresses, "found a peer");
            self.brain.handle_found(peer, &addresses, now);
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

    fn handle_requests(
        &mut self,
        event: request_response::Event<Result<Request, Broken>, Response>,
        now: Instant,
    ) {
        match event {
            request_response::Event::Message { peer, message, .. } => {
                let Some(peer) = border::from_libp2p(&peer) else {
                    return;
                };
                match message {
                    Message::Request { request: Err(Broken), .. } => {
                        self.brain.handle_broken(&peer, now);
                    }
                    Message::Request { request: Ok(request), channel, .. } => {
                        let token = Token(self.next_token);
                        self.next_token += 1;
                        self.answers.insert(token, channel);
                        self.brain.handle_request(peer, token, request, now);
                    }
                    Message::Response { request_id, response } => {
                        match self.asks.remove(&request_id) {
                            Some((_, Asker::Brain(number))) => {
                                self.brain.handle_response(peer, number, response, now);
                            }
                            Some((_, Asker::User(reply))) => {
                                // Whoever asked may have stopped waiting.
                                let _ = reply.send(match response {
                                    Response::Exchange(answer) => Ok(answer),
                                    _ => Err(AskError::Refused),
                                });
                            }
                            None => {}
                        }
                    }
                }
            }
            request_response::Event::OutboundFailure { peer, request_id, error, .. } => {
                tracing::debug!(%peer, %error, "a request got no answer");
                if let OutboundFailure::Io(error) = &error {
                    self.handle_broken(&peer, error, now);
                }
                match self.asks.remove(&request_id) {
                    Some((peer, Asker::Brain(number))) => {
                        self.brain.handle_unanswered(&peer, number, now);
                    }
                    Some((_, Asker::User(reply))) => {
                        let _ = reply.send(Err(match error {
                            OutboundFailure::Timeout => AskError::TimedOut,
                            OutboundFailure::DialFailure | OutboundFailure::ConnectionClosed => {
                                AskError::NotConnected
                            }
                            _ => AskError::Refused,
                        }));
                    }
                    None => {}
                }
            }
            request_response::Event::InboundFailure { peer, error, .. } => {
                tracing::debug!(%peer, %error, "a request was not answered");
                if let InboundFailure::Io(error) = &error {
                    self.handle_broken(&peer, error, now);
                }
            }
            request_response::Event::ResponseSent { .. } => {}
        }
    }

    fn handle_broken(&mut self, peer: &libp2p::PeerId, error: &io::Error, now: Instant) {
        if error.kind() == io::ErrorKind::InvalidData
            && let Some(peer) = border::from_libp2p(peer)
        {
            self.brain.handle_broken(&peer, now);
        }
    }
}
