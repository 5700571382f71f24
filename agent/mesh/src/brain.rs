//! What the mesh does about all that happens, without a socket or a clock.
//!
//! The driver reports what happened with `handle_*`, tells the time, and carries out what
//! [`Brain::poll_action`] says. Each peer is on probation from its first connection on; whoever dials
//! proves first that it knows the mesh key, the other proves it in its answer, and until then neither
//! says anything else.

mod admission;
mod hearing;
#[cfg(test)]
mod tests;

use crate::{
    batch::Batch,
    dialer::{Dial, Dialer, Target},
    event::Counters,
    options::{Options, Timing},
    outbox::Outbox,
    peers::{Peer, Peers, Standing, Token},
    proof::Prover,
    replay::Replays,
    seal::{NONCE, Seal},
};
use netbuild_core::{key::ActionKey, peer::PeerId};
use netbuild_proto::membership::{Announcement, Held, MAX_ADDRESSES, Presence, Request, Response};
use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Least time between two presences: peers may come and go in bursts.
const PRESENCE_GAP: Duration = Duration::from_secs(1);

/// Something for the driver to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// Dial, and report the outcome under this target.
    Dial(Dial),
    /// Send a request, and report its outcome under this number.
    Ask { peer: PeerId, number: u64, request: Request },
    /// Answer a request.
    Answer { token: Token, response: Response },
    /// Answer a request with a page of the catalog.
    Page { token: Token, after: Option<ActionKey> },
    /// Leave a request without an answer.
    Ignore { token: Token },
    /// Close all connections to a peer.
    Close { peer: PeerId },
    /// Spare this peer from limits: it is a member, or no longer.
    Favour { peer: PeerId, member: bool },
    /// Gossip this; report with [`Brain::handle_unpublished`] if it went nowhere.
    Publish(Announcement),
}

/// A gossip message as it arrived. Gossipsub has checked that the sender signed it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gossip<'a> {
    /// Who passed it on.
    pub(crate) forwarder: PeerId,
    /// Who signed it.
    pub(crate) sender: PeerId,
    /// The sender's signed sequence number.
    pub(crate) sequence: u64,
    pub(crate) sealed: &'a [u8],
}

/// What becomes of a gossip message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It is passed on.
    Accept,
    /// It is not passed on, and nobody is to blame.
    Ignore,
    /// It is not passed on, and was forged, replayed or malformed.
    Reject,
}

/// The state of the mesh as one agent sees it.
pub(crate) struct Brain {
    me: PeerId,
    presence: Presence,
    timing: Timing,
    prover: Prover,
    seal: Seal,
    replays: Replays,
    peers: Peers,
    dialer: Dialer,
    batch: Batch,
    outbox: Outbox,
    counters: Counters,
    actions: VecDeque<Action>,
    next_number: u64,
    presence_due: Instant,
    presence_said: Option<Instant>,
}

impl Brain {
    pub(crate) fn new(options: &Options, now: Instant) -> Self {
        let me = options.identity.peer_id();
        let timing = options.timing.clone();
        let mut dialer = Dialer::new(timing.first_redial, timing.last_redial);
        for seed in options.seeds.iter().filter(|seed| seed.peer != Some(me)) {
            dialer.add_seed(seed.peer, &seed.addresses, now);
        }
        Self {
            me,
            presence: Presence {
                region: options.region.clone(),
                mesh_addresses: Vec::new(),
                data_port: options.data_port,
            },
            prover: Prover::new(&options.mesh_key),
            seal: Seal::new(&options.mesh_key),
            replays: Replays::default(),
            peers: Peers::default(),
            dialer,
            batch: Batch::new(timing.batch),
            outbox: Outbox::default(),
            counters: Counters::default(),
            actions: VecDeque::new(),
            next_number: 0,
            presence_due: now + timing.presence,
            presence_said: None,
            timing,
        }
    }

    // -- getters --

    pub(crate) fn counters(&self) -> Counters {
        let members = self.peers.members().count();
        Counters { members: u64::try_from(members).unwrap_or(u64::MAX), ..self.counters }
    }

    pub(crate) fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }

    pub(crate) fn outbox_mut(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Seals an announcement as said by this agent.
    pub(crate) fn seal(&self, announcement: &Announcement, nonce: [u8; NONCE]) -> Option<Vec<u8>> {
        self.seal.seal(&self.me, nonce, &announcement.encode())
    }

    // -- what came in: commands --

    pub(crate) fn announce(&mut self, held: Vec<Held>, now: Instant) {
        let dropped = self.batch.add(held, now);
        self.count_dropped(dropped);
    }

    pub(crate) fn flush(&mut self, now: Instant) {
        self.batch.flush(now);
    }

    pub(crate) fn count_dropped(&mut self, records: usize) {
        let records = u64::try_from(records).unwrap_or(u64::MAX);
        self.counters.dropped_announcements =
            self.counters.dropped_announcements.saturating_add(records);
    }

    // -- what came in: connections --

    /// The addresses at which this agent listens have changed.
    pub(crate) fn handle_listening(&mut self, own: &[SocketAddr], now: Instant) {
        let told: Vec<SocketAddr> = own.iter().take(MAX_ADDRESSES).copied().collect();
        if told != self.presence.mesh_addresses {
            self.presence.mesh_addresses = told;
            self.say_presence_soon(now);
        }
    }

    /// A connection stands; `dialled` is the target that led to it, if this agent dialled.
    pub(crate) fn handle_connected(
        &mut self,
        id: PeerId,
        seen: SocketAddr,
        dialled: Option<Target>,
        now: Instant,
    ) {
        self.dialer.handle_connected(id, dialled, now);
        let fresh = Peer {
            seen,
            standing: Standing::Probation {
                deadline: now + self.timing.admission,
                asked: None,
                early: None,
            },
        };
        let peer = self.peers.entry_or(id, fresh);
        let asked = match &mut peer.standing {
            Standing::Probation { asked, .. } => asked,
            Standing::Member(member) => {
                member.dialled_again |= dialled.is_none();
                return;
            }
            Standing::Refused { .. } => return,
        };
        if dialled.is_none() || asked.is_some() {
            return;
        }
        self.next_number += 1;
        *asked = Some(self.next_number);
        let request = Request::Admit {
            proof: self.prover.prove(&self.me, &id),
            presence: self.presence.clone(),
        };
        self.actions.push_back(Action::Ask { peer: id, number: self.next_number, request });
    }

    /// The last connection to a peer is gone.
    pub(crate) fn handle_disconnected(&mut self, id: &PeerId, now: Instant) {
        let Some(peer) = self.peers.remove(id) else {
            return;
        };
        self.dialer.handle_disconnected(id, now);
        match peer.standing {
            Standing::Member(_) => {
                tracing::debug!(peer = %id, "a member left");
                self.outbox.left(*id);
                self.favour(*id, false);
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

    /// A peer can be gossiped to from now on.
    pub(crate) fn handle_subscribed(&mut self, id: &PeerId, now: Instant) {
        if self.peers.member(id).is_some() {
            self.say_presence_soon(now);
        }
    }

    pub(crate) fn handle_rtt(&mut self, id: PeerId, rtt: Duration) {
        if self.peers.member(&id).is_some() {
            self.outbox.rtt(id, rtt);
        }
    }

    // -- what must go out --

    /// The next thing to do.
    pub(crate) fn poll_action(&mut self, now: Instant) -> Option<Action> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        if let Some(action) = self.poll_overdue(now) {
            return Some(action);
        }
        if let Some(dial) = self.dialer.poll(now) {
            return Some(Action::Dial(dial));
        }
        if let Some(action) = self.poll_catch_up(now) {
            return Some(action);
        }
        if let Some(held) = self.batch.poll(now) {
            return Some(Action::Publish(Announcement::Held(held)));
        }
        if self.presence_due <= now {
            self.presence_due = now + self.timing.presence;
            self.presence_said = Some(now);
            let announcement = Announcement::Presence(self.presence.clone());
            return Some(Action::Publish(announcement));
        }
        None
    }

    /// When to poll again if nothing happens before.
    pub(crate) fn next_timeout(&self) -> Instant {
        let catch_up = self
            .outbox
            .has_room()
            .then(|| {
                self.peers.members().filter_map(|(_, member)| member.catch_up.next_timeout()).min()
            })
            .flatten();
        [
            self.peers.next_deadline(),
            self.dialer.next_timeout(),
            self.batch.next_timeout(),
            catch_up,
        ]
        .into_iter()
        .flatten()
        .fold(self.presence_due, Instant::min)
    }

    fn poll_overdue(&mut self, now: Instant) -> Option<Action> {
        let (id, peer) = self.peers.overdue(now).next()?;
        let id = *id;
        if matches!(peer.standing, Standing::Probation { .. }) {
            tracing::debug!(peer = %id, "a peer did not ask to be admitted");
            self.counters.refused_admissions += 1;
        }
        // Should closing be slow, it is tried again, but not counted again.
        self.cut(&id, now);
        self.actions.pop_front()
    }

    fn poll_catch_up(&mut self, now: Instant) -> Option<Action> {
        if !self.outbox.has_room() {
            return None;
        }
        let number = self.next_number + 1;
        let (id, after) = self
            .peers
            .members_mut()
            .find_map(|(id, member)| Some((*id, member.catch_up.poll(now, number)?)))?;
        self.next_number = number;
        Some(Action::Ask { peer: id, number, request: Request::Held { after } })
    }

    fn is_on_loopback(&self, id: &PeerId) -> bool {
        self.peers.get(id).is_some_and(|peer| peer.seen.ip().is_loopback())
    }

    fn say_presence_soon(&mut self, now: Instant) {
        let earliest = self.presence_said.map_or(now, |said| said + PRESENCE_GAP);
        self.presence_due = self.presence_due.min(earliest.max(now + self.timing.batch));
    }
}
