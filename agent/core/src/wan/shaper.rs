//! One direction of a link: a token bucket on a virtual clock, a byte-limited drop-tail queue
//! before it, and a delay line behind it that never reorders.
//!
//! The virtual clock (Zhang 1990) says when the link has sent all that it took. A packet leaves at
//! that time or now, whichever is later, takes its length divided by the rate to leave, and
//! arrives one delay afterwards. So the time of arrival is known when the packet comes, and no
//! timer is needed for the rate.

use super::{
    profile::{Profile, Shape},
    walk::{Random, Walk},
};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Most packets that one direction holds, waiting or on their way, whatever their size: with the
/// buffers of an emulator, some 25 MB.
pub const MAX_PACKETS: usize = 16_384;

/// Depth of the token bucket, as time at the rate: what the link may make up for when whoever
/// drives it woke late. It never shortens the delay.
const BURST: Duration = Duration::from_millis(2);

/// Why a packet was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DropReason {
    /// It did not fit into the queue.
    Queue,
    /// Lost at random on its way.
    Loss,
    /// Nothing passes.
    Cut,
}

/// What becomes of a packet. A dropped one is given back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict<P> {
    /// It arrives then; see [`Shaper::poll_packet`].
    Deliver(Instant),
    /// It does not arrive.
    Dropped(DropReason, P),
}

/// What went through a shaper since it was made, in packets where it does not say bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// Arrived.
    pub passed: u64,
    /// Bytes of those.
    pub passed_bytes: u64,
    /// Did not fit into the queue.
    pub dropped_queue: u64,
    /// Lost at random.
    pub dropped_loss: u64,
    /// Came, or were on their way, while nothing passed.
    pub dropped_cut: u64,
}

/// One direction of a link. `P` is whatever stands for a packet.
#[derive(Debug)]
pub struct Shaper<P> {
    profile: &'static Profile,
    walk: Walk,
    random: Random,
    /// When the link has sent all that it took.
    free_at: Instant,
    /// When each packet that still waits has left, with its length.
    waiting: VecDeque<(Instant, u64)>,
    waiting_bytes: u64,
    /// When each packet arrives, with its length.
    line: VecDeque<(Instant, u64, P)>,
    counters: Counters,
}

impl<P> Shaper<P> {
    /// An idle direction of a link of this profile. The seed decides what is lost and how the
    /// profile varies.
    pub fn new(profile: &'static Profile, seed: u64, now: Instant) -> Self {
        Self {
            profile,
            walk: Walk::new(profile, now),
            random: Random::new(seed),
            free_at: now,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            line: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// The profile.
    pub fn profile(&self) -> &'static Profile {
        self.profile
    }

    /// What the profile does now; differs from its table entry when it varies.
    pub fn shape(&mut self, now: Instant) -> Shape {
        self.walk.shape(now, &mut self.random)
    }

    /// Bytes that wait to leave.
    pub fn queued_bytes(&mut self, now: Instant) -> u64 {
        self.forget_sent(now);
        self.waiting_bytes
    }

    /// Packets that are held, waiting or on their way.
    pub fn held(&self) -> usize {
        self.line.len()
    }

    /// The counters.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Changes the profile. What waits or is on its way arrives as it would have, and what comes
    /// later arrives after it; but a cut link drops it all, and hands it back.
    pub fn set_profile(&mut self, profile: &'static Profile, now: Instant) -> Vec<P> {
        self.profile = profile;
        self.walk = Walk::new(profile, now);
        if !profile.shape.is_cut() {
            return Vec::new();
        }
        self.counters.dropped_cut += self.line.len() as u64;
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.free_at = now;
        self.line.drain(..).map(|(_, _, packet)| packet).collect()
    }

    /// Takes a packet of `len` bytes.
    pub fn handle_packet(&mut self, packet: P, len: usize, now: Instant) -> Verdict<P> {
        let shape = self.shape(now);
        let len = len as u64;
        let Some(sending) = shape.time_to_send(len) else {
            self.counters.dropped_cut += 1;
            return Verdict::Dropped(DropReason::Cut, packet);
        };
        self.forget_sent(now);
        let fits = self.waiting_bytes.saturating_add(len) <= shape.queue_bytes;
        if !fits || self.line.len() >= MAX_PACKETS {
            self.counters.dropped_queue += 1;
            return Verdict::Dropped(DropReason::Queue, packet);
        }
        // Unused tokens: no further back than the bucket is deep.
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        self.free_at = self.free_at.max(earliest) + sending;
        let left = self.free_at.max(now);
        self.waiting.push_back((left, len));
        self.waiting_bytes += len;
        // After the queue, as on a real path: a lost packet has used up its part of the rate.
        if self.random.happens(shape.loss_ppm) {
            self.counters.dropped_loss += 1;
            return Verdict::Dropped(DropReason::Loss, packet);
        }
        let before = self.line.back().map(|(at, ..)| *at);
        let at = (left + shape.delay()).max(before.unwrap_or(left));
        self.line.push_back((at, len, packet));
        Verdict::Deliver(at)
    }

    /// The next packet that has arrived by `now`.
    pub fn poll_packet(&mut self, now: Instant) -> Option<P> {
        let (_, len, packet) = self.line.pop_front_if(|(at, ..)| *at <= now)?;
        self.counters.passed += 1;
        self.counters.passed_bytes += len;
        Some(packet)
    }

    /// When [`Self::poll_packet`] has something next.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.line.front().map(|(at, ..)| *at)
    }

    fn forget_sent(&mut self, now: Instant) {
        while let Some((_, len)) = self.waiting.pop_front_if(|(left, _)| *left <= now) {
            self.waiting_bytes -= len;
        }
    }
}

#[cfg(test)]
mod tests;
