//! How a rumour reaches every agent, at the price of about one copy each.
//!
//! An epidemic broadcast tree: Leitão, Pereira, Rodrigues, "Epidemic Broadcast Trees" (SRDS 2007,
//! known as Plumtree). Rumours are pushed along eager links only. A neighbour that brings what came
//! already is told to stop (prune), so the eager links become a tree. Over the other links go ids.
//! A rumour that was announced and does not come is asked for, and its link becomes eager (graft):
//! that repairs the tree. Where this machine differs from the paper:
//!
//! - What goes to one neighbour goes in batches: the first rumour after a quiet time leaves at once, the
//!   next after [`Config::pace`]. A busy mesh pays the overhead of a message a few times per second and link.
//! - A rumour that came twice closes a cycle of eager links. Not the later copy's link is cut but the
//!   worse: far before near, slow before fast. So the tree crosses between regions rarely.
//! - The number of eager links of one agent is bounded ([`Config::eager`]), so no agent carries much more
//!   than its share; a further one that wants to be served is told to look elsewhere.
//! - An id is not announced to a neighbour that announced it first.
//!
//! What a rumour means is the owner's matter, who judges each once. Nothing is retried for ever: what
//! all announcers fail to give, a long absence, or a full queue is left to the owner's
//! reconciliation, and counted.

mod bucket;
pub(crate) mod dice;
mod memory;
mod message;
mod missing;
mod neighbour;
mod outgoing;
#[cfg(test)]
mod tests;
mod tree;

pub use memory::{KEEP_BODY, KEEP_ID, MAX_KEPT_BYTES, MAX_KEPT_IDS};
pub use message::{Body, MAX_BODY, MAX_IDS, MAX_MESSAGE, Message, RumourId};
pub use neighbour::{
    ANSWER_BURST, ANSWER_RATE, BYTE_BURST, BYTE_RATE, MAX_IN_FLIGHT, MAX_QUEUE, RUMOUR_BURST,
    RUMOUR_RATE,
};

use crate::peer::PeerId;
use dice::Dice;
use memory::{Memory, Slots};
use missing::Missing;
use neighbour::Neighbour;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Most neighbours at once; who has what is one 64-bit set per rumour.
pub const MAX_NEIGHBOURS: usize = 64;
/// A new neighbour is told of rumours this young: those that may have been under way to it over a
/// link that broke.
const TELL_NEW: Duration = Duration::from_secs(5);

/// Times and degrees. The defaults are for meshes from two agents to some thousands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Least time between two messages to one neighbour.
    pub pace: Duration,
    /// How long an id waits to be announced, on average; half of it at least, one and a half of it
    /// at most. Longer makes larger batches and lets the neighbour announce it first.
    pub tell: Duration,
    /// How long a rumour that was announced may take to be pushed before it is asked for.
    pub await_push: Duration,
    /// Eager links beyond which this agent takes on no further neighbour.
    pub eager: usize,
    /// Neighbours that are told ids at a time. Which ones changes every few seconds, so that each
    /// way serves as the spare one at times, and the price does not grow with the connections.
    pub lazy: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pace: Duration::from_millis(100),
            tell: Duration::from_millis(600),
            await_push: Duration::from_millis(700),
            eager: 4,
            lazy: 3,
        }
    }
}

/// What the owner thinks of a rumour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// New and good: passed on.
    Accept,
    /// Nobody's fault, but not to be passed on: too old, or from an unknown member.
    Ignore,
    /// Malformed or forged. An honest neighbour would not have passed it on, so it counts against it.
    Reject,
}

/// A rumour longer than [`MAX_BODY`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a rumour of {0} bytes is too long, at most {MAX_BODY} fit")]
pub struct TooLong(pub usize);

/// What happened so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Messages handed out.
    pub messages_sent: u64,
    /// Messages that came.
    pub messages_received: u64,
    /// Bytes of the messages handed out, by [`Message::wire_len`].
    pub bytes_sent: u64,
    /// Bytes of the messages that came.
    pub bytes_received: u64,
    /// Rumours that came and were accepted.
    pub accepted: u64,
    /// Rumours that came and were ignored by the judge.
    pub ignored: u64,
    /// Rumours that came and were rejected.
    pub rejected: u64,
    /// Rumours that came though they were known.
    pub duplicates: u64,
    /// Rumours, or whole messages, beyond a neighbour's rate; not looked at.
    pub flooded: u64,
    /// Rumours that found a neighbour's queue full and were announced to it instead.
    pub overflowed: u64,
    /// Ids sent because the neighbour may lack the rumours.
    pub announced: u64,
    /// Rumours asked for.
    pub asked: u64,
    /// Rumours given because they were asked for.
    pub answered: u64,
    /// Awaited rumours that nobody gave, and announced ones that there was no room to await.
    pub gave_up: u64,
    /// Links made eager because something was missing.
    pub grafts: u64,
    /// Links cut because they brought duplicates.
    pub prunes: u64,
    /// Messages that did not reach the neighbour.
    pub unsent: u64,
}

/// The machine. See the module for what it does.
#[derive(Clone, Debug)]
pub struct Gossip {
    config: Config,
    dice: Dice,
    neighbours: BTreeMap<PeerId, Neighbour>,
    memory: Memory,
    missing: Missing,
    /// The neighbour that was served last, so that all get their turn.
    served: Option<PeerId>,
    improved: Option<Instant>,
    /// When the first rumour was heard.
    listening: Option<Instant>,
    /// The neighbours that are not told ids at present, and until when.
    untold: Slots,
    untold_until: Option<Instant>,
    counters: Counters,
}

impl Gossip {
    /// A machine without neighbours. The seed spreads its timers; agents should have different ones.
    pub fn new(config: Config, seed: u64) -> Self {
        Self {
            config,
            dice: Dice::new(seed),
            neighbours: BTreeMap::new(),
            memory: Memory::default(),
            missing: Missing::default(),
            served: None,
            improved: None,
            listening: None,
            untold: 0,
            untold_until: None,
            counters: Counters::default(),
        }
    }

    /// A connection to a member stands; `near` when it is of the same region. False when there are
    /// [`MAX_NEIGHBOURS`] already: nothing is told to it, and nothing it says is heard.
    pub fn handle_neighbour(&mut self, peer: PeerId, near: bool, now: Instant) -> bool {
        if let Some(known) = self.neighbours.get_mut(&peer) {
            known.near = near;
            return true;
        }
        let used = self.neighbours.values().fold(0, |used, neighbour| used | neighbour.slot);
        let free = (!used).trailing_zeros();
        let Some(slot) = 1_u64.checked_shl(free) else { return false };
        let eager = self.eager_links() < self.config.eager;
        let told = self.memory.place_after(now.checked_sub(TELL_NEW));
        let mut neighbour = Neighbour::new(slot, near, eager, told, now);
        // Both ends have to agree; the other one refuses when it has enough.
        neighbour.graft = eager;
        if told < self.memory.end() {
            neighbour.tell_at = Some(now + self.config.pace);
        }
        self.neighbours.insert(peer, neighbour);
        true
    }

    /// A round trip to a neighbour takes this long; the owner smooths it.
    pub fn handle_rtt(&mut self, peer: &PeerId, rtt: Duration) {
        if let Some(neighbour) = self.neighbours.get_mut(peer) {
            neighbour.rtt = Some(rtt);
        }
    }

    /// The connection to a neighbour is gone.
    pub fn handle_gone(&mut self, peer: &PeerId, now: Instant) {
        if let Some(gone) = self.neighbours.remove(peer) {
            self.memory.doubt(0, gone.slot);
            if gone.eager {
                self.ensure_eager(now);
            }
        }
    }

    /// A rumour of this agent, to be told to all. One that was said or heard already is not said
    /// again: make each body unique.
    ///
    /// # Errors
    /// [`TooLong`] when it has more than [`MAX_BODY`] bytes.
    pub fn say(&mut self, body: Body, now: Instant) -> Result<(), TooLong> {
        if body.len() > MAX_BODY {
            return Err(TooLong(body.len()));
        }
        let id = RumourId::of(&body);
        if self.memory.get(&id).is_none() {
            self.spread(id, body, None, 0, now);
        }
        Ok(())
    }

    /// A message came from a neighbour. Each rumour in it that is new goes to `judge` once.
    pub fn handle_message(
        &mut self,
        from: PeerId,
        message: Message,
        judge: &mut dyn FnMut(&Body) -> Verdict,
        now: Instant,
    ) {
        let Some(neighbour) = self.neighbours.get_mut(&from) else { return };
        let bytes = message.wire_len() as u64;
        self.counters.messages_received += 1;
        self.counters.bytes_received += bytes;
        if !message.is_bounded() {
            neighbour.offences = neighbour.offences.saturating_add(1);
            return;
        }
        if !neighbour.byte_bucket.take(bytes, now) {
            self.counters.flooded += 1;
            return;
        }
        if message.prune {
            self.handle_prune(&from, now);
        }
        if message.graft {
            self.handle_graft(&from, now);
        }
        if let Some(neighbour) = self.neighbours.get_mut(&from) {
            for id in message.want {
                // What is about to be pushed anyway is not sent twice.
                if !self.memory.place(&id).is_some_and(|place| neighbour.is_queued(place)) {
                    neighbour.asks(id);
                }
            }
        }
        for id in message.have {
            self.handle_have(id, from, now);
        }
        for body in message.rumours {
            self.handle_rumour(body, from, judge, now);
        }
    }

    /// The oldest message under way to a neighbour was acknowledged.
    pub fn handle_sent(&mut self, to: &PeerId, _now: Instant) {
        if let Some(neighbour) = self.neighbours.get_mut(to) {
            neighbour.in_flight.pop_front();
        }
    }

    /// The oldest message under way to a neighbour was lost. What was in it is announced once more.
    pub fn handle_unsent(&mut self, to: &PeerId, now: Instant) {
        self.counters.unsent += 1;
        let Some(neighbour) = self.neighbours.get_mut(to) else { return };
        if let Some(place) = neighbour.in_flight.pop_front() {
            self.memory.doubt(place, neighbour.slot);
            neighbour.told = neighbour.told.min(place);
            neighbour.tell_at.get_or_insert(now + self.config.tell);
        }
    }

    /// The next message to be sent. Call it until it is none, after every `handle_*`, `say` and timeout.
    pub fn poll_message(&mut self, now: Instant) -> Option<(PeerId, Message)> {
        self.ask_for_missing(now);
        loop {
            let ready = |(_, neighbour): &(&PeerId, &Neighbour)| {
                neighbour.ready_at().is_some_and(|at| at <= now)
            };
            let served = self.served;
            let after = self.neighbours.iter().find(|it| Some(*it.0) > served && ready(it));
            let (&peer, _) = after.or_else(|| self.neighbours.iter().find(ready))?;
            self.served = Some(peer);
            let message = self.compose(&peer, now)?;
            if !message.is_empty() {
                self.counters.messages_sent += 1;
                self.counters.bytes_sent += message.wire_len() as u64;
                return Some((peer, message));
            }
        }
    }

    /// When [`Gossip::poll_message`] has to be called though nothing happened.
    pub fn next_timeout(&self) -> Option<Instant> {
        let ready = self.neighbours.values().filter_map(Neighbour::ready_at);
        ready.chain(self.missing.next_timeout()).min()
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Malformed or forged things that a neighbour sent since it became one. An honest one sends none.
    pub fn offences(&self, peer: &PeerId) -> u32 {
        self.neighbours.get(peer).map_or(0, |neighbour| neighbour.offences)
    }

    /// The neighbours, and whether rumours are pushed to each.
    pub fn neighbours(&self) -> impl Iterator<Item = (&PeerId, bool)> {
        self.neighbours.iter().map(|(peer, neighbour)| (peer, neighbour.eager))
    }

    /// Ids and bytes of bodies that are remembered.
    pub fn remembered(&self) -> (usize, usize) {
        self.memory.size()
    }

    fn handle_have(&mut self, id: RumourId, from: PeerId, now: Instant) {
        let Some(neighbour) = self.neighbours.get(&from) else { return };
        if let Some(heard) = self.memory.get(&id) {
            let parent = heard.from;
            self.memory.mark(&id, neighbour.slot);
            self.improve(parent, from, now);
        } else {
            // Agents that lack it all at once should not ask all at once: one that asks serves others.
            let await_push = self.config.await_push.mul_f64(0.5 + self.dice.fraction());
            if !self.missing.handle_announced(id, from, now + await_push) {
                self.counters.gave_up += 1;
            }
        }
    }

    fn handle_rumour(
        &mut self,
        body: Body,
        from: PeerId,
        judge: &mut dyn FnMut(&Body) -> Verdict,
        now: Instant,
    ) {
        let Some(neighbour) = self.neighbours.get_mut(&from) else { return };
        if !neighbour.rumour_bucket.take(1, now) {
            self.counters.flooded += 1;
            return;
        }
        let id = RumourId::of(&body);
        if let Some(heard) = self.memory.get(&id) {
            self.counters.duplicates += 1;
            if heard.rejected {
                neighbour.offences = neighbour.offences.saturating_add(1);
            }
            let first = heard.from;
            self.memory.mark(&id, neighbour.slot);
            self.handle_duplicate(id, first, from, now);
            return;
        }
        let verdict = judge(&body);
        if verdict == Verdict::Reject {
            neighbour.offences = neighbour.offences.saturating_add(1);
        }
        if self.missing.is_asked(&id, &from) {
            neighbour.silences = 0;
        } else if neighbour
            .pruned
            .is_none_or(|at| now.saturating_duration_since(at) > tree::PRUNE_AGAIN)
        {
            // It pushes what is new, so it is on the way to the origin.
            neighbour.eager = true;
        }
        let counter = match verdict {
            Verdict::Accept => &mut self.counters.accepted,
            Verdict::Ignore => &mut self.counters.ignored,
            Verdict::Reject => &mut self.counters.rejected,
        };
        *counter += 1;
        let announcers = self.missing.handle_came(&id);
        if verdict == Verdict::Accept {
            // Those that announced it have it already: nothing is to be pushed or told to them.
            let known = announcers.iter().chain([&from]).filter_map(|it| self.neighbours.get(it));
            let known_by = known.fold(0, |slots, neighbour| slots | neighbour.slot);
            self.spread(id, body, Some(from), known_by, now);
        } else {
            self.memory.insert(id, from, verdict == Verdict::Reject, now);
        }
    }

    /// Remembers a new rumour and queues it for those that it is pushed to.
    fn spread(
        &mut self,
        id: RumourId,
        body: Body,
        from: Option<PeerId>,
        mut known_by: Slots,
        now: Instant,
    ) {
        self.listening.get_or_insert(now);
        self.take_turns(now);
        let place = self.memory.pass_on(id, body.clone(), from, now);
        for neighbour in self.neighbours.values_mut() {
            if known_by & neighbour.slot != 0 {
                continue;
            }
            if neighbour.eager {
                if neighbour.push(place, body.clone()) {
                    known_by |= neighbour.slot;
                    continue;
                }
                self.counters.overflowed += 1;
            } else if self.untold & neighbour.slot != 0 {
                known_by |= neighbour.slot;
                continue;
            }
            if neighbour.tell_at.is_none() {
                let tell = self.config.tell.mul_f64(0.5 + self.dice.fraction());
                neighbour.tell_at = Some(now + tell);
            }
        }
        self.memory.mark(&id, known_by);
    }
}
