//! What the brain wants done, done on the swarm.

use super::Driver;
use crate::{
    behaviour, border,
    brain::Action,
    codec::Codec,
    dialer::{Dial, Target},
    peers::Token,
    seal::NONCE,
};
use libp2p::{
    gossipsub::PublishError,
    request_response::{self, ResponseChannel},
    swarm::dial_opts::DialOpts,
};
use netbuild_core::key::ActionKey;
use netbuild_proto::membership::{Announcement, MAX_HELD, Response};
use std::{sync::Arc, time::Instant};

/// Pages read from the catalog at once; more than the threads of a small machine, fewer than would
/// keep the store from its other work. Who is left out asks again.
const MAX_SERVING: usize = 16;

impl Driver {
    pub(super) fn act(&mut self, action: Action, now: Instant) {
        match action {
            Action::Dial(dial) => self.dial(dial, now),
            Action::Ask { peer, number, request } => {
                if let Some(peer) = border::to_libp2p(&peer) {
                    let requests = &mut self.swarm.behaviour_mut().requests;
                    self.asks.insert(requests.send_request(&peer, request), number);
                }
            }
            Action::Answer { token, response } => {
                if let Some(channel) = self.answers.remove(&token) {
                    self.answer(channel, response);
                }
            }
            Action::Page { token, after } => self.serve(token, after),
            Action::Ignore { token } => {
                self.answers.remove(&token);
            }
            Action::Close { peer } => {
                if let Some(peer) = border::to_libp2p(&peer) {
                    // It may have closed by itself.
                    let _ = self.swarm.disconnect_peer_id(peer);
                }
            }
            Action::Favour { peer, member } => {
                if let Some(peer) = border::to_libp2p(&peer) {
                    let limits = &mut self.swarm.behaviour_mut().limits;
                    if member {
                        limits.bypass_peer_id(&peer);
                    } else {
                        limits.remove_peer_id(&peer);
                    }
                }
            }
            Action::Publish(announcement) => self.publish(announcement, now),
        }
    }

    fn dial(&mut self, dial: Dial, now: Instant) {
        let addresses = dial.addresses.iter().copied().map(border::to_multiaddr);
        let options = match &dial.target {
            Target::Peer(peer) => match border::to_libp2p(peer) {
                Some(peer) => DialOpts::peer_id(peer).addresses(addresses.collect()).build(),
                None => return,
            },
            Target::Address(address) => {
                DialOpts::unknown_peer_id().address(border::to_multiaddr(*address)).build()
            }
        };
        self.dials.insert(options.connection_id(), dial.target);
        let connection = options.connection_id();
        if let Err(error) = self.swarm.dial(options) {
            self.dials.remove(&connection);
            self.handle_dial_error(&dial.target, &error, now);
        }
    }

    pub(super) fn answer(&mut self, channel: ResponseChannel<Response>, response: Response) {
        let requests: &mut request_response::Behaviour<Codec> =
            &mut self.swarm.behaviour_mut().requests;
        if requests.send_response(channel, response).is_err() {
            tracing::debug!("a requester did not wait for its answer");
        }
    }

    fn serve(&mut self, token: Token, after: Option<ActionKey>) {
        let Some(channel) = self.answers.remove(&token) else {
            return;
        };
        if self.pages.len() >= MAX_SERVING {
            tracing::debug!("too many peers catch up at once; one of them has to ask again");
            return;
        }
        let catalog = Arc::clone(&self.catalog);
        let page = self.pages.spawn_blocking(move || catalog.held_after(after.as_ref(), MAX_HELD));
        self.serving.insert(page.id(), channel);
    }

    fn publish(&mut self, announcement: Announcement, now: Instant) {
        let mut nonce = [0; NONCE];
        let sealed = match getrandom::fill(&mut nonce) {
            Ok(()) => self.brain.seal(&announcement, nonce),
            Err(error) => {
                tracing::warn!(%error, "no randomness, so nothing is announced");
                None
            }
        };
        let Some(sealed) = sealed else {
            self.brain.handle_unpublished(announcement, now);
            return;
        };
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        match gossip.publish(behaviour::topic(), sealed) {
            Ok(_) => self.brain.counters_mut().published += 1,
            Err(PublishError::NoPeersSubscribedToTopic | PublishError::AllQueuesFull(_)) => {
                self.brain.handle_unpublished(announcement, now);
            }
            Err(error) => {
                tracing::warn!(%error, "gossip refused an announcement");
                if let Announcement::Held(held) = announcement {
                    self.brain.count_dropped(held.len());
                }
            }
        }
    }
}
