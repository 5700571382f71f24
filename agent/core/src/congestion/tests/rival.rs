//! BBR as Linux has it (version 1, `tcp_bbr.c`), reduced to what decides how a link is shared: model,
//! gains, cycle, and that loss takes no more from the window than what was lost.

use super::super::samples::{Sample, Samples};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

const HIGH_GAIN: f64 = 2.885;
const WINDOW_GAIN: f64 = 2.0;
const CYCLE: [f64; 8] = [1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
/// Rounds of which the best rate is remembered.
const RATE_ROUNDS: u64 = 10;
const MIN_RTT_AGE: Duration = Duration::from_secs(10);
const PROBE_RTT: Duration = Duration::from_millis(200);
const LEAST_PACKETS: f64 = 4.0;
/// Linux paces by a hundredth less than the rate.
const PACING_MARGIN: f64 = 0.99;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Mode {
    Startup,
    Drain,
    Cycle { phase: usize, since: Instant },
    ProbeRtt { until: Option<Instant> },
}

#[derive(Debug)]
pub(super) struct Bbr {
    packet: f64,
    samples: Samples,
    mode: Mode,
    rates: VecDeque<(u64, f64)>,
    round: u64,
    round_end: u64,
    full: (f64, u32),
    filled: bool,
    min_rtt: Duration,
    min_rtt_at: Instant,
    window: f64,
    before_probe: f64,
    lost: bool,
    in_flight: u64,
    acked: u64,
    rtt: Option<Duration>,
}

impl Bbr {
    pub(super) fn new(now: Instant, packet: u64) -> Self {
        Self {
            packet: packet as f64,
            samples: Samples::new(now),
            mode: Mode::Startup,
            rates: VecDeque::new(),
            round: 0,
            round_end: 0,
            full: (0.0, 0),
            filled: false,
            min_rtt: Duration::MAX,
            min_rtt_at: now,
            window: 10.0 * packet as f64,
            before_probe: 0.0,
            lost: false,
            in_flight: 0,
            acked: 0,
            rtt: None,
        }
    }

    fn rate(&self) -> f64 {
        self.rates.iter().map(|(_, rate)| *rate).fold(0.0, f64::max)
    }

    fn product(&self) -> f64 {
        if self.min_rtt == Duration::MAX { 0.0 } else { self.rate() * self.min_rtt.as_secs_f64() }
    }

    fn gain(&self) -> f64 {
        match self.mode {
            Mode::Startup => HIGH_GAIN,
            Mode::Drain => 1.0 / HIGH_GAIN,
            Mode::Cycle { phase, .. } => CYCLE[phase],
            Mode::ProbeRtt { .. } => 1.0,
        }
    }

    pub(super) fn window(&self) -> u64 {
        match self.mode {
            Mode::ProbeRtt { .. } => self.window.min(LEAST_PACKETS * self.packet) as u64,
            _ => self.window.max(LEAST_PACKETS * self.packet) as u64,
        }
    }

    /// Bytes per second; none before a round trip is known.
    pub(super) fn pacing(&self) -> Option<f64> {
        let rate = self.rate();
        (rate > 0.0).then_some(rate * self.gain() * PACING_MARGIN)
    }

    pub(super) fn on_sent(&mut self, now: Instant, bytes: u64) {
        self.samples.sent(now, bytes, self.in_flight);
    }

    pub(super) fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.samples.acked(now, sent, bytes);
        self.acked += bytes;
        let rtt = now - sent;
        self.rtt = Some(self.rtt.map_or(rtt, |before| before.min(rtt)));
    }

    pub(super) fn on_loss(&mut self, sent: Instant, bytes: u64) {
        self.samples.lost(sent);
        self.in_flight = self.in_flight.saturating_sub(bytes);
        self.window = (self.window - bytes as f64).max(LEAST_PACKETS * self.packet);
        self.lost = true;
    }

    pub(super) fn on_end_acks(&mut self, now: Instant, in_flight: u64) {
        self.in_flight = in_flight;
        let acked = std::mem::take(&mut self.acked) as f64;
        let (Some(rtt), Some(sample)) = (self.rtt.take(), self.samples.take(now)) else {
            return;
        };
        let round = self.on_sample(sample);
        let expired = now - self.min_rtt_at > MIN_RTT_AGE;
        if rtt <= self.min_rtt || expired {
            (self.min_rtt, self.min_rtt_at) = (rtt, now);
        }
        self.advance(now, round, expired);
        let most = WINDOW_GAIN * self.product() + 3.0 * self.packet;
        let most = if self.filled { most } else { f64::INFINITY };
        self.window = (self.window + acked).min(most);
    }

    /// Whether the sample begins a round.
    fn on_sample(&mut self, sample: Sample) -> bool {
        let began = sample.delivered_before >= self.round_end;
        if began {
            self.round += 1;
            self.round_end = self.samples.delivered();
        }
        if !sample.app_limited || sample.rate > self.rate() {
            match self.rates.back_mut().filter(|(round, _)| *round == self.round) {
                Some((_, best)) => *best = best.max(sample.rate),
                None => self.rates.push_back((self.round, sample.rate)),
            }
        }
        let round = self.round;
        self.rates.retain(|(at, _)| at + RATE_ROUNDS > round);
        began
    }

    fn advance(&mut self, now: Instant, round: bool, expired: bool) {
        let (rate, product, in_flight) = (self.rate(), self.product(), self.in_flight as f64);
        if round && !self.filled {
            if rate >= self.full.0 * 1.25 {
                self.full = (rate, 0);
            } else {
                self.full.1 += 1;
                self.filled = self.full.1 >= 3;
            }
        }
        let cycle = |phase| Mode::Cycle { phase, since: now };
        let lost = std::mem::take(&mut self.lost);
        match self.mode {
            Mode::Startup if self.filled => self.mode = Mode::Drain,
            Mode::Drain if in_flight <= product => self.mode = cycle(2 + self.round as usize % 6),
            Mode::Cycle { phase, since } => {
                let full = now - since > self.min_rtt;
                let next = match CYCLE[phase] {
                    gain if gain > 1.0 => full && (lost || in_flight >= gain * product),
                    gain if gain < 1.0 => full || in_flight <= product,
                    _ => full,
                };
                if next {
                    self.mode = cycle((phase + 1) % CYCLE.len());
                }
            }
            _ => {}
        }
        match self.mode {
            Mode::ProbeRtt { until: None } if in_flight <= LEAST_PACKETS * self.packet => {
                self.mode = Mode::ProbeRtt { until: Some(now + PROBE_RTT) };
            }
            Mode::ProbeRtt { until: Some(until) } if now > until => {
                self.min_rtt_at = now;
                self.window = self.window.max(self.before_probe);
                self.mode = if self.filled { cycle(2) } else { Mode::Startup };
            }
            Mode::ProbeRtt { .. } => {}
            _ if expired => {
                self.before_probe = self.window;
                self.mode = Mode::ProbeRtt { until: None };
            }
            _ => {}
        }
    }
}
