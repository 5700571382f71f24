//! What is believed of a path: its rate, its shortest round trip, and how unevenly it
//! acknowledges.

use super::{FILLING_RTT, MIN_RTT_AGE, QUEUE_RTT, RTT_NOISE};
use std::time::{Duration, Instant};

/// Round trips within this part of the shortest are as good as it.
const SHORTEST_RTT: f64 = 1.02;
/// Variation that is allowed with it, for paths of less than some milliseconds.
const SHORTEST_NOISE: Duration = Duration::from_micros(300);
/// Weight of one sample in the smoothed round trip.
const SMOOTHING: f64 = 0.125;
/// Most bytes for uneven acknowledgements: a part of the product, or on short paths as much time at
/// the rate as an operating system may take to let a process run.
const BURST_PART: f64 = 0.25;
const BURST_TIME: f64 = 0.004;

/// A round trip that was seen is believed for so long although the path shows only longer ones, when
/// they are somebody else's queue.
const MIN_RTT_KEPT: Duration = Duration::from_secs(60);

/// The beliefs.
#[derive(Clone, Debug)]
pub(super) struct Model {
    /// Best rates of the last cycle and of this one, in bytes per second.
    rates: [f64; 2],
    min_rtt: Option<Duration>,
    /// When it was seen, or looked for.
    min_rtt_at: Instant,
    min_rtt_seen: Instant,
    /// Smoothed round trip.
    rtt: Duration,
    /// Most that came beyond the rate, in the last cycle and in this one, in bytes.
    bursts: [f64; 2],
    epoch: Instant,
    epoch_acked: u64,
}

impl Model {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            rates: [0.0; 2],
            min_rtt: None,
            min_rtt_at: now,
            min_rtt_seen: now,
            rtt: Duration::ZERO,
            bursts: [0.0; 2],
            epoch: now,
            epoch_acked: 0,
        }
    }

    /// The rate of the link in bytes per second; 0 when nothing is known.
    pub(super) fn rate(&self) -> f64 {
        self.rates[0].max(self.rates[1])
    }

    /// The round trip of late.
    pub(super) fn rtt(&self) -> Duration {
        self.rtt
    }

    /// The round trip without queues, once one was seen.
    pub(super) fn min_rtt(&self) -> Option<Duration> {
        self.min_rtt
    }

    /// Bytes that fill the link.
    pub(super) fn product(&self) -> f64 {
        self.min_rtt.map_or(0.0, |rtt| self.rate() * rtt.as_secs_f64())
    }

    /// Bytes above the product that uneven acknowledgements need.
    pub(super) fn burst(&self) -> f64 {
        let most = (self.product() * BURST_PART).max(self.rate() * BURST_TIME);
        self.bursts[0].max(self.bursts[1]).min(most)
    }

    /// Whether a round trip like this one has a queue in it.
    pub(super) fn is_queue(&self, rtt: Duration) -> bool {
        self.is_longer(rtt, QUEUE_RTT)
    }

    /// Whether a queue begins to show in a round trip like this one.
    pub(super) fn is_filling(&self, rtt: Duration) -> bool {
        self.is_longer(rtt, FILLING_RTT)
    }

    fn is_longer(&self, rtt: Duration, gain: f64) -> bool {
        self.min_rtt.is_some_and(|shortest| rtt > shortest.mul_f64(gain) + RTT_NOISE)
    }

    /// Whether a round trip is as short as they get.
    pub(super) fn is_shortest(&self, rtt: Duration) -> bool {
        self.min_rtt.is_some_and(|shortest| rtt <= shortest.mul_f64(SHORTEST_RTT) + SHORTEST_NOISE)
    }

    pub(super) fn min_rtt_is_old(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.min_rtt_at) > MIN_RTT_AGE
    }

    pub(super) fn on_rtt(&mut self, now: Instant, rtt: Duration) {
        let rtt = rtt.max(Duration::from_micros(1));
        let before = if self.rtt.is_zero() { rtt } else { self.rtt };
        self.rtt = before.mul_f64(1.0 - SMOOTHING) + rtt.mul_f64(SMOOTHING);
        let shortest = self.min_rtt.map_or(rtt, |shortest| shortest.min(rtt));
        self.min_rtt = Some(shortest);
        if self.is_shortest(rtt) {
            self.min_rtt_at = now;
            self.min_rtt_seen = now;
        }
    }

    pub(super) fn on_rate(&mut self, rate: f64) {
        self.rates[1] = self.rates[1].max(rate);
    }

    /// Notes how much came, as compared to the rate (extra_acked of BBR).
    pub(super) fn on_acked(&mut self, now: Instant, acked: u64, counts: bool) {
        let elapsed = now.saturating_duration_since(self.epoch).as_secs_f64();
        let mut expected = self.rate() * elapsed;
        if !counts || self.epoch_acked as f64 <= expected {
            self.epoch = now;
            self.epoch_acked = 0;
            expected = 0.0;
        }
        self.epoch_acked = self.epoch_acked.saturating_add(acked);
        if counts {
            self.bursts[1] = self.bursts[1].max(self.epoch_acked as f64 - expected);
        }
    }

    /// A probe begins: what was seen before the last one is forgotten.
    pub(super) fn next_cycle(&mut self) {
        self.rates = [self.rates[1], 0.0];
        self.bursts = [self.bursts[1], 0.0];
    }

    /// The link has changed: all that is known of its rate is this.
    pub(super) fn forget_rates(&mut self, rate: f64) {
        self.rates = [0.0, rate];
    }

    pub(super) fn forget_burst(&mut self, now: Instant) {
        self.bursts = [0.0; 2];
        self.epoch = now;
        self.epoch_acked = 0;
    }

    /// `shortest` is what a look for a shorter round trip has found; `queue_of_others` says that it is
    /// likely to have somebody else's queue in it.
    pub(super) fn renew_min_rtt(
        &mut self,
        now: Instant,
        shortest: Duration,
        queue_of_others: bool,
    ) {
        self.min_rtt_at = now;
        let seen = now.saturating_duration_since(self.min_rtt_seen);
        if !queue_of_others || seen >= MIN_RTT_KEPT {
            self.min_rtt_seen = now;
            self.min_rtt = Some(shortest.max(Duration::from_micros(1)));
        }
    }
}
