//! Who becomes a connected member: connections, proofs, answers, and what follows from them.

use super::{Action, Brain};
use crate::{
    addresses,
    dialer::Target,
    event::Event,
    peers::{Member, Peer, Standing, Token},
    roster::News,
};
use netbuild_core::{
    gossip::MAX_NEIGHBOURS,
    neighbourhood::{FULL, MAX_INBOUND},
    peer::PeerId,
};
use netbuild_proto::membership::{Presence, Request, Response};
use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

/// How long a refused peer has to read the refusal before it is cut.
pub(super) const REFUSAL_LINGER: Duration = Duration::from_millis(500);

/// What the other end of an admission says beside its presence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    /// Where it sees this agent.
    pub(super) seen: SocketAddr,
    /// A digest of whom it knows.
    pub(super) roll: u64,
    /// The highest sequence of a rumour by this agent that it has heard.
    pub(super) heard: u64,
}

impl Brain {
    // -- connections --

    /// A connection stands. `outbound` when this agent made it; `dialled` is the target that led to it,
    /// if the dialer did.
    pub(crate) fn handle_connected(
        &mut self,
        id: PeerId,
        seen: SocketAddr,
        outbound: bool,
        dialled: Option<Target>,
        now: Instant,
    ) {
        self.dialer.handle_connected(id, dialled, now);
        if self.conduct.is_banned(&id, now) {
            self.actions.push_back(Action::Close { peer: id });
            return;
        }
        let deadline = now + self.timing.admission;
        let standing = Standing::Probation { deadline, asked: None, early: VecDeque::new() };
        let peer = self.peers.entry_or(id, Peer { seen, dialled: outbound, standing });
        if !outbound || !matches!(peer.standing, Standing::Probation { asked: None, .. }) {
            return;
        }
        let request = Request::Admit {
            proof: self.prover.prove(&self.me, &id),
            presence: self.presence.clone(),
            seen,
            roll: self.digest_for(&id),
            heard: self.ear.highest(&id),
        };
        let number = self.ask_about_admission(id, request);
        if let Some(Peer { standing: Standing::Probation { asked, .. }, .. }) =
            self.peers.get_mut(&id)
        {
            *asked = Some(number);
        }
    }

    /// The last connection to a peer is gone.
    pub(crate) fn handle_disconnected(&mut self, id: &PeerId, now: Instant) {
        self.dialer.handle_disconnected(id, now);
        let Some(peer) = self.peers.remove(id) else {
            return;
        };
        match peer.standing {
            Standing::Member(member) if member.parting.is_some() => {
                tracing::debug!(peer = %id, "a member closed its connection and lives on");
                self.disconnect(id, now);
                self.roster.handle_parted(id, now);
                self.outbox.connection(*id, false);
            }
            Standing::Member(_) => {
                tracing::debug!(peer = %id, "a member left");
                self.disconnect(id, now);
                self.leave_and_tell(id, now);
            }
            Standing::Probation { early, .. } => self.ignore_early(early),
            Standing::Refused { .. } => {}
        }
    }

    pub(crate) fn handle_dial_failed(&mut self, target: &Target, now: Instant) {
        self.dialer.handle_failed(target, now);
    }

    /// A dial led to this agent itself.
    pub(crate) fn handle_dialled_self(&mut self, target: &Target) {
        self.dialer.handle_self(target);
    }

    pub(crate) fn handle_rtt(&mut self, id: PeerId, rtt: Duration) {
        if self.peers.is_member(&id) {
            self.roster.handle_rtt(&id, rtt);
            if let Some(rtt) = self.roster.get(&id).and_then(|known| known.rtt) {
                self.gossip.handle_rtt(&id, rtt);
            }
            self.outbox.rtt(id, rtt);
        }
    }

    // -- admission --

    /// Judges a peer that asks to be admitted.
    ///
    /// A member that asks in another life than the one it was admitted in was started anew, while its
    /// old connection is not yet missed. What is under way over that is lost, so all connections are
    /// cut, and both sides dial as if they had never met.
    pub(super) fn handle_admit(
        &mut self,
        id: PeerId,
        token: Token,
        proof: &[u8; 32],
        presence: Presence,
        told: Told,
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
        let (seen, dialled) = (peer.seen, peer.dialled);
        if !self.prover.verify(proof, &id, &self.me) {
            tracing::debug!(peer = %id, "refused a peer: it does not know the mesh key");
            self.counters.refused_admissions += 1;
            self.refuse(&id, token, Response::Refused, now);
            return;
        }
        if !self.peers.is_member(&id) && self.is_full(dialled) {
            tracing::debug!(peer = %id, "no room for the connection of a member");
            self.counters.refused_for_room += 1;
            let members = self.members_to_tell(&id, seen);
            self.refuse(&id, token, Response::Full { members }, now);
            return;
        }
        let lives = self.roster.get(&id).map(|known| known.presence.started);
        if self.peers.is_member(&id) && lives.is_some_and(|started| started != presence.started) {
            tracing::debug!(peer = %id, "a member started anew before its old connection was missed");
            self.actions.push_back(Action::Ignore { token });
            self.cut(&id, now);
            return;
        }
        let response = Response::Admitted {
            proof: self.prover.prove(&self.me, &id),
            presence: self.presence.clone(),
            seen,
            roll: self.digest_for(&id),
            heard: self.ear.highest(&id),
            members: self.members_to_tell(&id, seen),
        };
        self.actions.push_back(Action::Answer { token, response });
        self.admit(id, presence, told, now);
    }

    /// The answer to the question whether this agent is admitted.
    pub(super) fn handle_admission_answer(
        &mut self,
        id: PeerId,
        number: u64,
        response: Response,
        now: Instant,
    ) {
        let asked = self.is_asked(&id, number);
        // When both dial at once, the other's question may have made it a member already.
        if !asked && !self.peers.is_member(&id) {
            return;
        }
        match response {
            Response::Admitted { proof, presence, seen, roll, heard, members } => {
                if !self.prover.verify(&proof, &id, &self.me) {
                    tracing::warn!(peer = %id, "a peer that was dialled does not know the mesh key");
                    self.counters.refused_admissions += 1;
                    self.cut(&id, now);
                    return;
                }
                for address in members {
                    self.hint(&id, address, now);
                }
                if asked {
                    self.admit(id, presence, Told { seen, roll, heard }, now);
                }
            }
            Response::Full { members } if asked => {
                for address in members {
                    self.hint(&id, address, now);
                }
                self.meeting.handle_full(id, now);
                self.cut(&id, now);
            }
            Response::Refused if asked => {
                // Others that are found on the local network may well be of another mesh.
                if self.counters.refused_by_others == 0 && self.dialer.is_seed(&id) {
                    tracing::warn!(peer = %id, "a peer refuses this agent: is the mesh key the same?");
                }
                self.counters.refused_by_others += 1;
                self.cut(&id, now);
            }
            _ if asked => self.cut(&id, now),
            _ => {}
        }
    }

    /// Makes a peer that proved itself a member, or renews it: when both dial at once, both ask.
    fn admit(&mut self, id: PeerId, presence: Presence, told: Told, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let seen = peer.seen;
        let mesh = addresses::of_mesh(seen, &presence.mesh_addresses);
        let early = match &mut peer.standing {
            Standing::Member(_) => {
                self.take_admitted(id, presence, mesh, now);
                return;
            }
            Standing::Probation { early, .. } => std::mem::take(early),
            Standing::Refused { .. } => return,
        };
        peer.standing = Standing::Member(Member::new(now));
        let known = self.roster.get(&id).map(|known| known.presence.started);
        if known.is_some_and(|started| started != presence.started) {
            self.leave(&id);
        }
        if let Some(other) = self.roster.in_the_way_of(&id) {
            self.leave(&other);
        }
        tracing::debug!(peer = %id, region = presence.region, "a member is connected");
        let near = !presence.region.is_empty() && presence.region == self.presence.region;
        self.take_admitted(id, presence, mesh, now);
        self.gossip.handle_neighbour(id, near, now);
        self.actions.push_back(Action::Favour { peer: id, member: true });
        self.dialer.handle_admitted(&id, now);
        self.saying.handle_back(&id);
        let unheard = self.voice.handle_remembered(told.heard)
            || told.heard < self.saying.presence_sequence();
        if self.observed.handle_told(told.seen, seen) {
            self.tell_addresses(now);
        }
        // Whoever knows others passes on who this agent is; a newcomer has just been told itself.
        if unheard && !self.is_newcomer(&id, told.roll) {
            self.say_presence_soon(now);
        }
        self.compare_rolls(id, told.roll, now);
        self.meeting.reconsider(now);
        for (token, request) in early {
            self.handle_request(id, token, request, now);
        }
    }

    /// Takes what a connected member says of itself.
    fn take_admitted(
        &mut self,
        id: PeerId,
        presence: Presence,
        mesh: Vec<SocketAddr>,
        now: Instant,
    ) {
        let connected = self.roster.get(&id).is_some_and(|known| known.connected);
        let news = self.roster.handle_admitted(id, presence.clone(), mesh.clone(), now);
        self.dialer.heard_of(id, mesh.clone(), now, now);
        self.actions.push_back(Action::Route { peer: id, addresses: mesh.clone() });
        let addresses = addresses::of_data(&mesh, presence.data_port);
        match news {
            News::Joined => {
                let connected = true;
                self.outbox.presence(Event::Joined { peer: id, presence, addresses, connected });
                return;
            }
            News::Updated => {
                self.outbox.presence(Event::Updated { peer: id, presence, addresses });
            }
            News::Same | News::Stale | News::NoRoom => {}
        }
        if !connected {
            self.outbox.connection(id, true);
        }
    }

    /// Whether there is no room for the connection of another member.
    fn is_full(&self, dialled: bool) -> bool {
        let small = self.roster.len() < FULL;
        let inbound = !small && !dialled && self.peers.inbound() >= MAX_INBOUND;
        inbound || self.roster.connected() >= MAX_NEIGHBOURS
    }

    // -- the end of a connection --

    fn refuse(&mut self, id: &PeerId, token: Token, response: Response, now: Instant) {
        self.actions.push_back(Action::Answer { token, response });
        self.demote(id, now + REFUSAL_LINGER, now);
    }

    /// Closes the connections to a peer; nothing that it says until they are closed counts.
    pub(super) fn cut(&mut self, id: &PeerId, now: Instant) {
        self.demote(id, now + self.timing.admission, now);
        self.actions.push_back(Action::Close { peer: *id });
    }

    fn demote(&mut self, id: &PeerId, deadline: Instant, now: Instant) {
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        let before = std::mem::replace(&mut peer.standing, Standing::Refused { deadline });
        match before {
            Standing::Probation { early, .. } => self.ignore_early(early),
            Standing::Member(_) => {
                self.disconnect(id, now);
                self.leave(id);
            }
            Standing::Refused { .. } => {}
        }
    }

    fn disconnect(&mut self, id: &PeerId, now: Instant) {
        self.gossip.handle_gone(id, now);
        self.actions.push_back(Action::Favour { peer: *id, member: false });
        self.meeting.reconsider(now);
    }

    /// Forgets a member and tells so.
    pub(super) fn leave(&mut self, id: &PeerId) {
        if self.roster.remove(id).is_some() {
            self.outbox.left(*id);
            self.actions.push_back(Action::Route { peer: *id, addresses: Vec::new() });
        }
    }

    /// Closes the next peer that had its time.
    pub(super) fn cut_overdue(&mut self, now: Instant) -> bool {
        let Some((id, peer)) = self.peers.overdue(now) else {
            return false;
        };
        match peer.standing {
            Standing::Probation { .. } => {
                tracing::debug!(peer = %id, "a peer did not ask to be admitted");
                self.counters.refused_admissions += 1;
            }
            Standing::Member(_) => {
                if let Some(member) = self.peers.member_mut(&id) {
                    member.parting = Some(now + self.timing.admission);
                }
                self.actions.push_back(Action::Close { peer: id });
                return true;
            }
            Standing::Refused { .. } => {}
        }
        // Should closing be slow, it is tried again, but not counted again.
        self.cut(&id, now);
        true
    }

    fn ignore_early(&mut self, early: VecDeque<(Token, Request)>) {
        self.actions.extend(early.into_iter().map(|(token, _)| Action::Ignore { token }));
    }

    /// Whether the request of this number asked the peer to admit this agent.
    pub(super) fn is_asked(&self, id: &PeerId, number: u64) -> bool {
        self.peers.get(id).is_some_and(|peer| {
            matches!(peer.standing, Standing::Probation { asked: Some(asked), .. } if asked == number)
        })
    }
}
