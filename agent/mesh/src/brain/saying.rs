//! What this agent says to the whole mesh, and when.

use super::Brain;
use crate::roster::Signed;
use netbuild_core::peer::PeerId;
use netbuild_proto::membership::Announcement;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Least time between two presences when one is said out of turn: gossip tells a new neighbour by itself
/// what is younger than this.
const PRESENCE_GAP: Duration = Duration::from_secs(5);
/// Least time between two contradictions of the rumour that this agent is gone; a liar makes one
/// rumour of his cost one of ours, not more.
const CONTRADICT: Duration = Duration::from_secs(5);
/// Whoever lost its connection to a member waits for up to this before it says so: most of its
/// neighbours lose it at the same time, and one has to tell the others.
const GONE_SPREAD: Duration = Duration::from_secs(3);
/// Most members that are about to be said to be gone; of more, such as a region that was cut off,
/// silence tells.
const MAX_GONE: usize = 64;

/// When to say what.
#[derive(Debug)]
pub(super) struct Saying {
    presence_due: Instant,
    presence_said: Option<Instant>,
    presence_sequence: u64,
    contradicted: Option<Instant>,
    sweep_due: Instant,
    /// Members that were lost, with their life and when to say so.
    gone: BTreeMap<PeerId, (u64, Instant)>,
}

impl Saying {
    pub(super) fn new(first_presence: Instant) -> Self {
        Self {
            presence_due: first_presence,
            presence_said: None,
            presence_sequence: 0,
            contradicted: None,
            sweep_due: first_presence,
            gone: BTreeMap::new(),
        }
    }

    pub(super) fn next_timeout(&self) -> Instant {
        let gone = self.gone.values().map(|(_, due)| *due);
        gone.fold(self.presence_due.min(self.sweep_due), Instant::min)
    }

    /// The number of the last presence of this agent; 0 before the first.
    pub(super) fn presence_sequence(&self) -> u64 {
        self.presence_sequence
    }

    /// Takes note that a peer is back.
    pub(super) fn handle_back(&mut self, peer: &PeerId) {
        self.gone.remove(peer);
    }

    /// Takes note that another said that a peer is gone.
    pub(super) fn handle_told(&mut self, peer: &PeerId) {
        self.gone.remove(peer);
    }

    pub(super) fn is_time_to_sweep(&self, now: Instant) -> bool {
        self.sweep_due <= now
    }

    /// Silence is looked for twice in an interval of presences.
    pub(super) fn handle_swept(&mut self, interval: Duration, now: Instant) {
        self.sweep_due = now + interval / 2;
    }

    fn poll_gone(&mut self, now: Instant) -> Option<(PeerId, u64)> {
        let (peer, _) = self.gone.iter().find(|(_, (_, due))| *due <= now)?;
        let peer = *peer;
        let (started, _) = self.gone.remove(&peer)?;
        Some((peer, started))
    }
}

impl Brain {
    /// Says the next thing that is due; `false` if there is none.
    pub(super) fn speak(&mut self, now: Instant) -> bool {
        if let Some(held) = self.batch.poll(now) {
            self.say(&Announcement::Held(held), now);
            return true;
        }
        if let Some(links) = self.links.poll(self.links_interval(), now) {
            self.say(&Announcement::Links(links), now);
            return true;
        }
        if let Some((peer, started)) = self.saying.poll_gone(now) {
            self.say(&Announcement::Gone { peer, started }, now);
            return true;
        }
        if self.saying.presence_due <= now {
            self.saying.presence_due = now + self.presence_interval();
            self.saying.presence_said = Some(now);
            let said = self.say(&Announcement::Presence(self.presence.clone()), now);
            self.saying.presence_sequence = said.unwrap_or(self.saying.presence_sequence);
            return true;
        }
        false
    }

    /// Says this, and under which number.
    fn say(&mut self, announcement: &Announcement, now: Instant) -> Option<u64> {
        // No announcement within its own bounds is too long.
        let Signed { sequence, body } = self.voice.say(announcement)?;
        self.gossip.say(body, now).ok()?;
        self.counters.published += 1;
        Some(sequence)
    }

    pub(super) fn say_presence_soon(&mut self, now: Instant) {
        let gap = PRESENCE_GAP.min(self.presence_interval() / 6);
        let earliest = self.saying.presence_said.map_or(now, |said| said + gap);
        let soon = earliest.max(now + self.timing.batch);
        self.saying.presence_due = self.saying.presence_due.min(soon);
    }

    /// Says that this agent is here, because it was said to be gone.
    pub(super) fn contradict(&mut self, now: Instant) {
        let pause = CONTRADICT.min(self.presence_interval());
        if self.saying.contradicted.is_none_or(|last| now >= last + pause) {
            self.saying.contradicted = Some(now);
            self.say_presence_soon(now);
        }
    }

    /// Forgets a member whose connection broke, and sees to it that those hear of it who had none.
    pub(super) fn leave_and_tell(&mut self, id: &PeerId, now: Instant) {
        let started = self.roster.get(id).map(|known| known.presence.started);
        self.leave(id);
        let unconnected = self.roster.len() > self.roster.connected();
        let room = self.saying.gone.len() < MAX_GONE;
        if let Some(started) = started.filter(|_| unconnected && room) {
            let draw = u32::from(id.0[0] ^ self.me.0[0]);
            let due = now + GONE_SPREAD * draw / 256;
            self.saying.gone.insert(*id, (started, due));
        }
    }

    /// Takes leave of the members that are not connected; the others see the connection close.
    pub(crate) fn farewell(&mut self, now: Instant) {
        self.batch.flush(now);
        if self.roster.len() > self.roster.connected() {
            let (peer, started) = (self.me, self.presence.started);
            self.say(&Announcement::Gone { peer, started }, now);
        }
    }

    /// Whether anybody is connected on whom this agent could call.
    pub(super) fn is_alone(&self) -> bool {
        self.peers.members().next().is_none()
    }
}
