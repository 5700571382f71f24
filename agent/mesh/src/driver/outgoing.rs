//! What the brain wants done, done on the swarm.

use super::{Asker, Driver, Reply};
use crate::{
    border,
    brain::Action,
    codec::Codec,
    dialer::{Dial, Target},
    mesh::AskError,
};
use libp2p::{
    request_response::{self, ResponseChannel},
    swarm::dial_opts::DialOpts,
};
use netbuild_core::peer::PeerId;
use netbuild_proto::membership::{Request, Response};
use std::time::Instant;

/// Bytes of the key that a walk looks for.
const WALK_KEY: usize = 32;
/// Questions of the user to one member that may be open at once, below what the member takes.
const MAX_ASKS_PER_PEER: usize = 4;

impl Driver {
    pub(super) fn act(&mut self, action: Action, now: Instant) {
        match action {
            Action::Dial(dial) => self.dial(dial, now),
            Action::Ask { peer, number, request } => {
                self.ask(peer, request, Asker::Brain(number));
            }
            Action::Answer { token, response } => {
                if let Some(channel) = self.answers.remove(&token) {
                    self.answer(channel, response);
                }
            }
            Action::Exchange { token, peer, question } => self.exchange(token, peer, question),
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
                    let behaviour = self.swarm.behaviour_mut();
                    if member {
                        behaviour.limits.bypass_peer_id(&peer);
                        behaviour.router.admit(peer);
                    } else {
                        behaviour.limits.remove_peer_id(&peer);
                        behaviour.router.dismiss(&peer);
                    }
                }
            }
            Action::Route { peer, addresses } => {
                if let Some(peer) = border::to_libp2p(&peer) {
                    let router = &mut self.swarm.behaviour_mut().router;
                    router.route(&peer, addresses.into_iter().map(border::to_multiaddr));
                    self.routed = u64::try_from(router.len()).unwrap_or(u64::MAX);
                }
            }
            Action::Walk => self.walk(),
        }
    }

    fn ask(&mut self, peer: PeerId, request: Request, asker: Asker) {
        if let Some(to) = border::to_libp2p(&peer) {
            let requests = &mut self.swarm.behaviour_mut().requests;
            self.asks.insert(requests.send_request(&to, Ok(request)), (peer, asker));
        }
    }

    pub(super) fn ask_for_user(&mut self, peer: PeerId, question: Vec<u8>, reply: Reply) {
        let open =
            self.asks.values().filter(|(to, asker)| *to == peer && matches!(asker, Asker::User(_)));
        let error = if !self.brain.can_ask(&peer) {
            AskError::NotConnected
        } else if open.count() >= MAX_ASKS_PER_PEER {
            AskError::Busy
        } else {
            self.ask(peer, Request::Exchange(question), Asker::User(reply));
            return;
        };
        let _ = reply.send(Err(error));
    }

    /// Looks for members near this agent, and near any key: the one finds those that should know it,
    /// the other parts of the mesh of which it knows nothing.
    fn walk(&mut self) {
        let mut key = vec![0; WALK_KEY];
        if let Err(error) = getrandom::fill(&mut key) {
            tracing::warn!(%error, "no randomness, so no walk");
            return;
        }
        let me = self.swarm.local_peer_id().to_bytes();
        let router = &mut self.swarm.behaviour_mut().router;
        router.walk(me);
        router.walk(key);
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
}
