//! Delivery rates, after draft-cheng-iccrg-delivery-rate-estimation: what was delivered between the
//! departure of a packet and its acknowledgement, by the longer of the times that sending and
//! acknowledging it took.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Most departures that are remembered: those of 10 Gbit/s over 600 ms in bursts of ten packets.
/// Beyond it samples are fewer, and nothing else is lost.
const MAX_BURSTS: usize = 1 << 16;
/// A datagram up to this length may hold nothing but acknowledgements, which nobody acknowledges.
const ONLY_ACKS: u64 = 200;

/// What was known when some packets left together.
#[derive(Clone, Copy, Debug)]
struct Burst {
    sent: Instant,
    delivered: u64,
    delivered_at: Instant,
    /// Departure of the packet whose arrival `delivered_at` is.
    first_sent: Instant,
    app_limited: bool,
}

/// What one acknowledgement shows.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Sample {
    /// Bytes per second.
    pub(super) rate: f64,
    /// What had been delivered in all when the packet left.
    pub(super) delivered_before: u64,
    /// Whether the sender had nothing more to send at that time.
    pub(super) app_limited: bool,
}

/// The samples of one connection.
#[derive(Clone, Debug)]
pub(super) struct Samples {
    bursts: VecDeque<Burst>,
    delivered: u64,
    delivered_at: Instant,
    first_sent: Instant,
    /// Sent since the last acknowledgement, without what may be acknowledgements only.
    since: u64,
    /// Whatever leaves before so much is delivered says little.
    app_limited_until: u64,
    /// The packet that left last, of those acknowledged now.
    newest: Option<Burst>,
}

impl Samples {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            bursts: VecDeque::new(),
            delivered: 0,
            delivered_at: now,
            first_sent: now,
            since: 0,
            app_limited_until: 0,
            newest: None,
        }
    }

    /// Bytes that were delivered in all.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Something left; `in_flight` was under way after the last acknowledgement.
    pub(super) fn sent(&mut self, now: Instant, bytes: u64, in_flight: u64) {
        if in_flight == 0 && self.since == 0 {
            // A silence is not part of the time that a delivery takes.
            self.first_sent = now;
            self.delivered_at = now;
        }
        if bytes > ONLY_ACKS {
            self.since = self.since.saturating_add(bytes);
        }
        if self.bursts.back().is_some_and(|burst| burst.sent >= now) {
            return;
        }
        if self.bursts.len() >= MAX_BURSTS {
            self.bursts.pop_front();
        }
        self.bursts.push_back(Burst {
            sent: now,
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent: self.first_sent,
            app_limited: self.delivered < self.app_limited_until,
        });
    }

    /// A packet that left at `sent` has arrived.
    pub(super) fn acked(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.delivered = self.delivered.saturating_add(bytes);
        self.delivered_at = now;
        if self.newest.is_some_and(|newest| newest.sent >= sent) {
            return;
        }
        if let Ok(at) = self.bursts.binary_search_by(|burst| burst.sent.cmp(&sent)) {
            let burst = self.bursts[at];
            self.first_sent = self.first_sent.max(burst.sent);
            self.newest = Some(burst);
            // Older ones are of no more use: later acknowledgements of them are old news.
            self.bursts.drain(..at);
        }
    }

    /// Everything that left at `sent` or before has arrived or is lost.
    pub(super) fn lost(&mut self, sent: Instant) {
        self.since = 0;
        let gone = self.bursts.partition_point(|burst| burst.sent < sent);
        self.bursts.drain(..gone);
    }

    /// The sender had nothing to send while `in_flight` was under way.
    pub(super) fn app_limited(&mut self, in_flight: u64) {
        self.app_limited_until = self.delivered.saturating_add(in_flight).saturating_add(1);
    }

    /// What the packets show that were acknowledged since the last call.
    pub(super) fn take(&mut self, now: Instant) -> Option<Sample> {
        self.since = 0;
        let burst = self.newest.take()?;
        let sending = burst.sent.saturating_duration_since(burst.first_sent);
        let acking = now.saturating_duration_since(burst.delivered_at);
        let elapsed = sending.max(acking).max(Duration::from_micros(1));
        Some(Sample {
            rate: self.delivered.saturating_sub(burst.delivered) as f64 / elapsed.as_secs_f64(),
            delivered_before: burst.delivered,
            app_limited: burst.app_limited,
        })
    }
}
