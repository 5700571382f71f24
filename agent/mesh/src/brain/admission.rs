//! Who becomes a member: proofs, answers, and what follows from them.

use super::{Action, Brain};
use crate::{
    addresses,
    catch_up::CatchUp,
    dialer::MAX_MEMBERS,
    event::Event,
    peers::{EarlyPage, Member, Peer, Standing, Token},
};
use netbuild_core::{key::ActionKey, peer::PeerId};
use netbuild_proto::membership::{Presence, Request, Response};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// How long a refused peer has to read the refusal before it is cut.
pub(super) const REFUSAL_LINGER: Duration = Duration::from_millis(500);

impl Brain {
    pub(crate) fn handle_request(
        &mut self,
        id: PeerId,
        token: Token,
        request: Request,
        now: Instant,
    ) {
        match request {
            Request::Admit { proof, presence } => {
                self.handle_admit(id, token, &proof, presence, now);
            }
            Request::Held { after } => self.handle_held(&id, token, after),
        }
    }

    /// Judges a peer that asks to be admitted.
    ///
    /// A member that dialled again and asks was started anew, while its old connection is not yet
    /// missed. Gossip tells its subscriptions only over a first connection, and would go on without
    /// the new one; so all connections are cut, and both sides dial as if they had never met.
    fn handle_admit(
        &mut self,
        id: PeerId,
        token: Token,
        proof: &[u8; 32],
        presence: Presence,
        now: Instant,
    ) {
        let Some(peer) = self.peers.get(&id) else {
            self.actions.push_back(Action::Ignore { token });
            return;
        };
        if matches!(peer.standing, Standing::Refused { .. }) {
            self.actions.push_back(Action::Ignore { token });
            return;
        }
        let seen = peer.seen;
        if !self.prover.verify(proof, &id, &self.me) {
            tracing::debug!(peer = %id, "refused a peer: it does not know the mesh key");
            self.refuse(&id, token, now);
            return;
        }
        if self.peers.member(&id).is_none() && self.peers.members().count() >= MAX_MEMBERS {
            tracing::warn!(peer = %id, limit = MAX_MEMBERS, "refused a peer: the mesh is full");
            self.refuse(&id, token, now);
            return;
        }
        if self.peers.member(&id).is_some_and(|member| member.dialled_again) {
            tracing::debug!(peer = %id, "a member started anew before its old connection was missed");
            self.actions.push_back(Action::Ignore { token });
            self.cut(&id, now);
            return;
        }
        let response = Response::Admitted {
            proof: self.prover.prove(&self.me, &id),
            presence: self.presence.clone(),
            members: self.peers.to_tell(&id, seen),
        };
        self.actions.push_back(Action::Answer { token, response });
        self.admit(id, presence, now);
    }

    fn handle_held(&mut self, id: &PeerId, token: Token, after: Option<ActionKey>) {
        let action = match self.peers.get_mut(id).map(|peer| &mut peer.standing) {
            Some(Standing::Member(_)) => Action::Page { token, after },
            Some(Standing::Probation { asked: Some(_), early: early @ None, .. }) => {
                *early = Some(EarlyPage { token, after });
                return;
            }
            _ => Action::Ignore { token },
        };
        self.actions.push_back(action);
    }

    /// The answer to the request of this number.
    pub(crate) fn handle_response(
        &mut self,
        id: PeerId,
        number: u64,
        response: Response,
        now: Instant,
    ) {
        match response {
            Response::Admitted { proof, presence, members } => {
                self.handle_admitted(id, number, &proof, presence, members, now);
            }
            Response::Refused if self.is_asked(&id, number) => {
                if self.counters.refused_by_others == 0 {
                    tracing::warn!(peer = %id, "a peer refuses this agent: is the mesh key the same?");
                }
                self.counters.refused_by_others += 1;
                self.cut(&id, now);
            }
            Response::Held(page) => self.handle_page(id, number, page, now),
            Response::Refused => self.handle_unanswered(&id, number, now),
        }
    }

    fn handle_admitted(
        &mut self,
        id: PeerId,
        number: u64,
        proof: &[u8; 32],
        presence: Presence,
        members: Vec<SocketAddr>,
        now: Instant,
    ) {
        let asked = self.is_asked(&id, number);
        // When both dial at once, the other's question may have made it a member already.
        if !asked && self.peers.member(&id).is_none() {
            return;
        }
        if !self.prover.verify(proof, &id, &self.me) {
            tracing::warn!(peer = %id, "a peer that was dialled does not know the mesh key");
            self.counters.refused_admissions += 1;
            self.cut(&id, now);
            return;
        }
        for address in members {
            self.hint(&id, address, now);
        }
        if asked {
            self.admit(id, presence, now);
        }
    }

    /// The request of this number gets no answer.
    pub(crate) fn handle_unanswered(&mut self, id: &PeerId, number: u64, now: Instant) {
        if self.is_asked(id, number) {
            self.cut(id, now);
        } else if let Some(member) = self.peers.get_mut(id).and_then(Peer::member_mut) {
            member.catch_up.handle_failure(number, now);
        }
    }

    /// Makes a peer that proved itself a member, or renews it: when both dial at once, both ask.
    pub(super) fn admit(&mut self, id: PeerId, presence: Presence, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if let Some(member) = peer.member_mut() {
            member.catch_up.restart(now);
            self.update(id, presence, now);
            return;
        }
        let mesh = addresses::of_mesh(peer.seen, &presence.mesh_addresses);
        let member = Member {
            presence: presence.clone(),
            mesh: mesh.clone(),
            catch_up: CatchUp::new(self.timing.catch_up, self.timing.catch_up_retry, now),
            dialled_again: false,
        };
        let before = std::mem::replace(&mut peer.standing, Standing::Member(Box::new(member)));
        if let Standing::Probation { early: Some(page), .. } = before {
            let EarlyPage { token, after } = page;
            self.actions.push_back(Action::Page { token, after });
        }
        tracing::debug!(peer = %id, region = presence.region, "a member joined");
        self.favour(id, true);
        self.outbox.presence(Event::Joined {
            peer: id,
            addresses: addresses::of_data(&mesh, presence.data_port),
            presence,
        });
        self.dialer.heard_of(id, mesh, now, now);
        self.dialer.handle_admitted(&id, now);
        self.say_presence_soon(now);
    }

    /// Takes what a member now says of itself.
    pub(super) fn update(&mut self, id: PeerId, presence: Presence, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let seen = peer.seen;
        let Some(member) = peer.member_mut() else {
            return;
        };
        let mesh = addresses::of_mesh(seen, &presence.mesh_addresses);
        self.dialer.heard_of(id, mesh.clone(), now, now);
        if member.presence == presence {
            return;
        }
        (member.presence, member.mesh) = (presence.clone(), mesh.clone());
        self.outbox.presence(Event::Updated {
            peer: id,
            addresses: addresses::of_data(&mesh, presence.data_port),
            presence,
        });
    }

    fn refuse(&mut self, id: &PeerId, token: Token, now: Instant) {
        self.counters.refused_admissions += 1;
        let response = Response::Refused;
        self.actions.push_back(Action::Answer { token, response });
        self.demote(id, now + REFUSAL_LINGER);
    }

    /// Closes the connections to a peer; nothing that it says until they are closed counts.
    pub(super) fn cut(&mut self, id: &PeerId, now: Instant) {
        self.demote(id, now + self.timing.admission);
        self.actions.push_back(Action::Close { peer: *id });
    }

    fn demote(&mut self, id: &PeerId, deadline: Instant) {
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        let before = std::mem::replace(&mut peer.standing, Standing::Refused { deadline });
        match before {
            Standing::Probation { early, .. } => self.ignore_early(early),
            Standing::Member(_) => {
                self.outbox.left(*id);
                self.favour(*id, false);
            }
            Standing::Refused { .. } => {}
        }
    }

    pub(super) fn ignore_early(&mut self, early: Option<EarlyPage>) {
        if let Some(EarlyPage { token, .. }) = early {
            self.actions.push_back(Action::Ignore { token });
        }
    }

    pub(super) fn favour(&mut self, peer: PeerId, member: bool) {
        self.actions.push_back(Action::Favour { peer, member });
    }

    fn hint(&mut self, teller: &PeerId, address: SocketAddr, now: Instant) {
        let on_loopback = self.is_on_loopback(teller);
        let own = self.presence.mesh_addresses.contains(&address);
        for address in addresses::of_stranger(&[address], on_loopback) {
            if !own {
                self.dialer.hint(address, now);
            }
        }
    }

    /// Whether the request of this number asked the peer to admit this agent.
    pub(super) fn is_asked(&self, id: &PeerId, number: u64) -> bool {
        self.peers.get(id).is_some_and(|peer| {
            matches!(peer.standing, Standing::Probation { asked: Some(asked), .. } if asked == number)
        })
    }
}
