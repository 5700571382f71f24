//! One neighbour: whether rumours are pushed to it, and what waits to go to it.

use super::{
    bucket::Bucket,
    memory::Slots,
    message::{Body, MAX_IDS, RumourId, cost},
};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Messages that a neighbour may have unacknowledged. Two fill the way at one message in a round trip;
/// four do so when one is lost. A neighbour that takes no more gets no more.
pub const MAX_IN_FLIGHT: usize = 4;
/// Most bytes of rumours that wait for one neighbour: a few full messages. What comes then is not
/// queued but announced, so a slow neighbour asks for it when nobody else gave it.
pub const MAX_QUEUE: usize = 192 * 1024;
/// Rumours per second that are taken from one neighbour: four times what a mesh of a thousand makes.
pub const RUMOUR_RATE: u64 = 256;
/// Rumours that are taken at once, such as those of a healed partition.
pub const RUMOUR_BURST: u64 = 2048;
/// Bytes per second that are taken from one neighbour, ids included.
pub const BYTE_RATE: u64 = 512 * 1024;
/// Bytes that are taken at once.
pub const BYTE_BURST: u64 = 4 * 1024 * 1024;
/// Bytes per second of rumours that one neighbour is given because it asked. An ask of eight bytes gets a
/// rumour of thousands; this bounds what asking costs.
pub const ANSWER_RATE: u64 = 128 * 1024;
/// Bytes of answers at once.
pub const ANSWER_BURST: u64 = 1024 * 1024;

/// A rumour that waits to be pushed.
#[derive(Clone, Debug)]
pub(super) struct Queued {
    /// Its place in the sequence of all rumours.
    pub(super) place: u64,
    pub(super) body: Body,
}

/// One neighbour.
#[derive(Clone, Debug)]
pub(super) struct Neighbour {
    /// Its bit in sets of neighbours.
    pub(super) slot: Slots,
    pub(super) near: bool,
    pub(super) rtt: Option<Duration>,
    /// Rumours are pushed to it, and it is expected to push.
    pub(super) eager: bool,
    /// When it was last told to push no more.
    pub(super) pruned: Option<Instant>,
    /// It pushes no more to this agent, by its own wish, and is not asked to before then.
    pub(super) refuses_until: Option<Instant>,
    queue: VecDeque<Queued>,
    queued: usize,
    /// Rumours that it asked for.
    pub(super) answers: VecDeque<RumourId>,
    pub(super) want: Vec<RumourId>,
    pub(super) prune: bool,
    pub(super) graft: bool,
    /// Rumours before this place have been announced to it, or pushed.
    pub(super) told: u64,
    /// When it is told of what was not pushed.
    pub(super) tell_at: Option<Instant>,
    /// The next message may leave from then on.
    pub(super) paced: Instant,
    /// For each message under way, oldest first: the place of the first rumour that it may have told.
    pub(super) in_flight: VecDeque<u64>,
    /// Malformed or forged things that it sent.
    pub(super) offences: u32,
    /// Rumours that it announced and did not give when asked.
    pub(super) silences: u32,
    pub(super) rumour_bucket: Bucket,
    pub(super) byte_bucket: Bucket,
    pub(super) answer_bucket: Bucket,
}

impl Neighbour {
    pub(super) fn new(slot: Slots, near: bool, eager: bool, told: u64, now: Instant) -> Self {
        Self {
            slot,
            near,
            rtt: None,
            eager,
            pruned: None,
            refuses_until: None,
            queue: VecDeque::new(),
            queued: 0,
            answers: VecDeque::new(),
            want: Vec::new(),
            prune: false,
            graft: false,
            told,
            tell_at: None,
            paced: now,
            in_flight: VecDeque::new(),
            offences: 0,
            silences: 0,
            rumour_bucket: Bucket::new(RUMOUR_RATE, RUMOUR_BURST, now),
            byte_bucket: Bucket::new(BYTE_RATE, BYTE_BURST, now),
            answer_bucket: Bucket::new(ANSWER_RATE, ANSWER_BURST, now),
        }
    }

    /// Queues a rumour to be pushed. False when the queue is full.
    pub(super) fn push(&mut self, place: u64, body: Body) -> bool {
        let fits = self.queued + cost(&body) <= MAX_QUEUE;
        if fits {
            self.queued += cost(&body);
            self.queue.push_back(Queued { place, body });
        }
        fits
    }

    /// Whether the rumour at this place waits to be pushed.
    pub(super) fn is_queued(&self, place: u64) -> bool {
        self.queue.binary_search_by_key(&place, |queued| queued.place).is_ok()
    }

    /// The next rumour to be pushed if it takes at most `room` bytes.
    pub(super) fn pop(&mut self, room: usize) -> Option<Queued> {
        let next = self.queue.pop_front_if(|next| cost(&next.body) <= room)?;
        self.queued -= cost(&next.body);
        Some(next)
    }

    /// Nothing is pushed any more. The place of the first rumour that waited, which has to be
    /// announced instead.
    pub(super) fn unqueue(&mut self) -> Option<u64> {
        let first = self.queue.iter().map(|queued| queued.place).min();
        self.queue.clear();
        self.queued = 0;
        first
    }

    /// It asks for a rumour.
    pub(super) fn asks(&mut self, id: RumourId) {
        if self.answers.len() < MAX_IDS && !self.answers.contains(&id) {
            self.answers.push_back(id);
        }
    }

    /// When a message to it may leave, if there is one.
    pub(super) fn ready_at(&self) -> Option<Instant> {
        if self.in_flight.len() >= MAX_IN_FLIGHT {
            return None;
        }
        let urgent = self.prune
            || self.graft
            || !self.want.is_empty()
            || !self.answers.is_empty()
            || !self.queue.is_empty();
        match (urgent, self.tell_at) {
            (true, _) => Some(self.paced),
            (false, Some(at)) => Some(at.max(self.paced)),
            (false, None) => None,
        }
    }

    /// How good it is as a source of rumours: less is better.
    pub(super) fn rank(&self, now: Instant) -> (u32, bool, bool, Duration) {
        let refuses = self.refuses_until.is_some_and(|until| now < until);
        (self.silences, refuses, !self.near, self.rtt.unwrap_or(Duration::MAX))
    }

    /// Whether the way to it is so much better than that to `other` that rumours should come over it.
    /// Only clear differences count, or two ways would take turns.
    pub(super) fn is_clearly_better(&self, other: &Self) -> bool {
        /// Below this difference the ways are alike.
        const MARGIN: Duration = Duration::from_millis(10);
        if self.near != other.near {
            return self.near;
        }
        matches!((self.rtt, other.rtt), (Some(here), Some(there)) if here * 2 + MARGIN < there)
    }
}
