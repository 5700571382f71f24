//! How much may be under way on a link: a congestion controller that models the link.
//!
//! The model is the one of BBR (Cardwell and others, draft-ietf-ccwg-bbr): a path has a bottleneck
//! rate and a round trip without queues, and their product is what fills the link and no queue. The
//! rate is the best delivery rate of late, the round trip the shortest. Loss by itself says
//! nothing: only more than [`LOSS_TOLERATED`] of a round counts.
//!
//! BBR paces and bounds what is in flight by two separate means. Here is only one, the window: the
//! caller paces, if at all, by the window and the round trip. A window of one product is a rate of
//! one bottleneck, and a window above it is a queue. So a queue of others has to be told from our own:
//! every few rounds the window goes just below the product, and if the round trip does not fall
//! then, somebody else keeps the queue filled. Against such a one the window follows the round trip
//! and some more, up to twice the product, as it would starve otherwise; without one it stays just
//! above the product, and the queue stays short.
//!
//! Those others mostly heed loss, as Cubic does: then we yield to little of it, as they do. Where
//! rounds keep losing all the same, they do not, as BBR does not; then we yield no sooner than alone.
//!
//! | phase | window | ends |
//! |---|---|---|
//! | startup | doubles each round | rate stops to grow, or loss |
//! | drain | `DRAIN_GAIN` products | queue is gone, or `DRAIN_ROUNDS` rounds |
//! | cruise | `CRUISE_GAIN` products and what arrives in bursts | six to nine rounds |
//! | probe | `PROBE_GAIN` products, more while the rate grows | rate does not grow |
//! | refresh | `REFRESH_GAIN` products | one round, each `MIN_RTT_AGE` without a short round trip |
//!
//! Times when the sender has nothing to send never lower the model.

mod model;
mod samples;
#[cfg(test)]
mod tests;

use model::Model;
use samples::Samples;
use std::time::{Duration, Instant};

/// Packets that may be under way before anything is known: they are spread over a round trip, and
/// the queue of a slow link (64 KiB) takes them.
const INITIAL_PACKETS: u64 = 32;
/// What any link is taken to carry, in bytes per second: over a long round trip, more than [`INITIAL_PACKETS`] are
/// under way at first. On a link of a fourth of that, [`INITIAL_MOST`] make a queue of half a second, once.
const INITIAL_RATE: f64 = 1e6;
const INITIAL_MOST: u64 = 128;
/// Packets that may always be under way: an acknowledgement covers two, and one may be on its way
/// back. BBR has the same.
const LEAST_PACKETS: u64 = 4;
/// Packets that an acknowledgement may wait for.
const ACK_PACKETS: u64 = 2;
/// Loss in a round, as a part, that is taken for noise of the link. BBRv2 has the same.
pub const LOSS_TOLERATED: f64 = 0.02;
/// Standard deviations by which losses may exceed [`LOSS_TOLERATED`] by chance. With three, a link
/// that loses one packet in a hundred at random passes for overloaded once in a thousand rounds.
const LOSS_DEVIATIONS: f64 = 3.0;
/// Growth of the rate in a round below which the link is full, as in BBR.
const FULL_GROWTH: f64 = 1.25;
/// Rounds without growth that end the startup, as in BBR.
const FULL_ROUNDS: u32 = 3;
/// Round trip, as a multiple of the shortest, from which there is a queue.
const QUEUE_RTT: f64 = 1.25;
/// Round trip, as a multiple of the shortest, from which the startup grows no more. What has caused
/// it left a round trip ago, and the window has doubled since.
const FILLING_RTT: f64 = 1.0625;
/// Variation of round trips that is no queue: timers and batches of both ends.
const RTT_NOISE: Duration = Duration::from_millis(2);
/// Window of a drain, in products. Above 0.97 an estimate that is too high drains nothing.
const DRAIN_GAIN: f64 = 0.96;
/// Rounds in which our own queue is gone, once no more is under way than the window of a drain.
const DRAIN_ROUNDS: u32 = 2;
/// Window of a cruise, in products: more than one by what [`LOSS_TOLERATED`] takes off the rate
/// that is measured, and some, so that the measured rate does not feed on itself.
const CRUISE_GAIN: f64 = 1.04;
/// Rounds of a cruise: at least so many, and up to [`CRUISE_SPREAD`] more by chance, so that those
/// who share a link do not probe in step.
const CRUISE_ROUNDS: u32 = 6;
const CRUISE_SPREAD: u64 = 4;
/// Shortest cruise: on a path of microseconds rounds say little about a link that is shared by
/// processes that take turns of milliseconds.
const CRUISE_TIME: Duration = Duration::from_millis(40);
/// Window against others who keep a queue, in products of the rate and the round trip of late: it
/// claims some more than it has, as they do.
const CONTENDED_GAIN: f64 = 1.1;
/// Probes without a drain while others keep a queue: each drain gives them room.
const CONTENDED_PROBES: u32 = 3;
/// Loss in a round, as a part, to which we yield beside others who heed loss too: any but chance.
const CONTENDED_LOSS: f64 = 0.002;
/// What [`CONTENDED_LOSS`] leaves of the window, in products.
const CONTENDED_LEAST: f64 = 0.7;
/// Loss in a round that counts as one of a queue that overflows, as a part.
const OVERFLOWING_LOSS: f64 = 0.005;
/// Weight of a round in how often they lose, and how often they do beside others who do not heed it.
/// Cubic alone loses once in some hundred rounds, Linux's BBR beside another in most.
const LOSING_WEIGHT: f64 = 1.0 / 32.0;
const HEEDLESS_FROM: f64 = 0.2;
const HEEDLESS_UNTIL: f64 = 0.05;
/// Window of a probe, in products, as in BBR; it grows while the rate does, up to [`MOST_GAIN`].
const PROBE_GAIN: f64 = 1.25;
/// Most products in the window, against others who fill the queue. BBR has the same.
const MOST_GAIN: f64 = 2.0;
/// Growth of the rate in a probe that makes it go on.
const PROBE_GROWTH: f64 = 1.1;
/// Window of a refresh, in products: short of the link by enough to empty the queue that two of us
/// may hold.
const REFRESH_GAIN: f64 = 0.5;
/// After so long without one as short, the shortest round trip is measured anew, as in BBR.
const MIN_RTT_AGE: Duration = Duration::from_secs(10);
/// What more than tolerated loss leaves of the window, but never less than [`CEILING_LEAST`] of
/// the product: what was delivered is what the link takes.
const CEILING_BACKOFF: f64 = 0.8;
const CEILING_LEAST: f64 = 0.9;
/// Growth of that bound in a round without such loss.
const CEILING_GROWTH: f64 = 1.0625;
/// Rounds at less than [`SLOWER`] of the believed rate after which the link has become slower.
const SLOWER_ROUNDS: u32 = 3;
const SLOWER: f64 = 0.7;
/// Time without anything to send after which a link is looked at anew: it may carry more by now than before, when
/// others shared it or this machine was busy.
const PAUSE: Duration = Duration::from_secs(1);
/// Part of the product that a hint may make the first window.
const HINT_GAIN: f64 = 0.7;
/// Most bytes that a hint may put on a link unproven: 0.7 of 100 Mbit/s over 230 ms, or of
/// 500 Mbit/s over 48 ms. A hint that is wrong costs a queue that much once.
const HINT_MOST: u64 = 2 << 20;

/// The window with which a link starts that is believed to carry `goodput` bytes per second with
/// this round trip. Bounded, whatever the belief.
pub fn hinted_window(goodput: u64, rtt: Duration) -> u64 {
    let product = goodput as f64 * rtt.as_secs_f64() * HINT_GAIN;
    // `as` saturates, and makes 0 of what is no number.
    (product as u64).min(HINT_MOST)
}

/// What the controller does at the moment.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Phase {
    /// Looks for the rate.
    Startup { window: u64, best: f64, stale: u32 },
    /// Lets the queue go, for so many rounds since no more than the window was under way.
    Drain { rounds: u32, shortest: Duration },
    /// Keeps the link full.
    Cruise { rounds: u32, until: Instant },
    /// Looks for more; `before` is the rate to exceed.
    Probe { rounds: u32, gain: f64, before: f64 },
    /// Looks for a shorter round trip; `settled` once no more than the window was under way.
    Refresh { settled: bool, shortest: Duration },
}

/// What came in one round.
#[derive(Clone, Copy, Debug)]
struct Round {
    began: Instant,
    /// Ends with the first sample that was sent after so many bytes were delivered.
    end: u64,
    delivered: u64,
    lost: u64,
    app_limited: bool,
    /// Shortest round trip.
    rtt: Duration,
    /// Whether the loss of this round has been reacted to.
    reacted: bool,
}

impl Round {
    fn new(now: Instant, end: u64) -> Self {
        let rtt = Duration::MAX;
        Self { began: now, end, delivered: 0, lost: 0, app_limited: false, rtt, reacted: false }
    }

    /// Whether more was lost than chance explains where a part of `tolerated` is; `packet` is the
    /// length of one.
    fn is_lossy(&self, packet: u64, tolerated: f64) -> bool {
        let packets = |bytes: u64| bytes as f64 / packet as f64;
        let tolerated = tolerated * packets(self.delivered.saturating_add(self.lost));
        packets(self.lost) > (tolerated + LOSS_DEVIATIONS * tolerated.sqrt()).max(1.5)
    }

    /// Bytes per second.
    fn rate(&self, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.began).as_secs_f64();
        if elapsed > 0.0 { self.delivered as f64 / elapsed } else { 0.0 }
    }
}

/// The controller of one direction of one connection.
#[derive(Clone, Debug)]
pub struct Congestion {
    mtu: u64,
    dice: u64,
    samples: Samples,
    model: Model,
    phase: Phase,
    round: Round,
    /// Whether somebody else keeps a queue.
    contended: bool,
    /// Part of the rounds of late in which a queue overflowed, and whether that says that others do
    /// not heed loss.
    losing: f64,
    heedless: bool,
    /// When something was lost last.
    lost_at: Option<Instant>,
    /// Probes since the last drain.
    probes: u32,
    /// Bound of the window after too much loss.
    ceiling: Option<u64>,
    /// Rounds in a row with less than the believed rate, and the best of them.
    slower: u32,
    slower_rate: f64,
    /// Bytes acknowledged since the last [`Self::on_end_acks`].
    acked: u64,
    /// Round trip of the packet that was sent last, of those acknowledged since.
    rtt: Option<Duration>,
    in_flight: u64,
    /// When something was sent last.
    sent_at: Instant,
    /// The hint no longer counts: something is known.
    proven: bool,
}

impl Congestion {
    /// A controller that knows nothing. `mtu` is the largest packet in bytes, `seed` decides how
    /// long cruises are.
    pub fn new(now: Instant, mtu: u16, seed: u64) -> Self {
        let mtu = u64::from(mtu).max(1);
        Self {
            mtu,
            dice: seed,
            samples: Samples::new(now),
            model: Model::new(now),
            phase: Phase::Startup { window: INITIAL_PACKETS * mtu, best: 0.0, stale: 0 },
            round: Round::new(now, 0),
            contended: false,
            losing: 0.0,
            heedless: false,
            lost_at: None,
            probes: 0,
            ceiling: None,
            slower: 0,
            slower_rate: 0.0,
            acked: 0,
            rtt: None,
            in_flight: 0,
            sent_at: now,
            proven: false,
        }
    }

    /// Bytes that may be under way before anything is known.
    pub fn initial_window(&self) -> u64 {
        INITIAL_PACKETS * self.mtu
    }

    /// Bytes that may be under way; never 0. `hinted` is [`hinted_window`], or 0 without a hint; it
    /// counts until the startup is over or too much is lost.
    pub fn window(&self, hinted: u64) -> u64 {
        let product = self.model.product();
        let cruise = || {
            let product = product * CRUISE_GAIN;
            let most = self.model.product() * MOST_GAIN;
            let followed = self.model.rate() * self.model.rtt().as_secs_f64() * CONTENDED_GAIN;
            let base = if self.contended { followed.clamp(product, most) } else { product };
            base + self.model.burst() + (ACK_PACKETS * self.mtu) as f64
        };
        let window = match self.phase {
            Phase::Startup { window, .. } if self.proven => window,
            Phase::Startup { window, .. } => {
                let most = INITIAL_MOST * self.mtu;
                let initial =
                    self.model.min_rtt().map_or(0.0, |rtt| INITIAL_RATE * rtt.as_secs_f64());
                window.max(hinted.min(HINT_MOST)).max((initial as u64).min(most))
            }
            Phase::Drain { .. } => (product * DRAIN_GAIN) as u64,
            Phase::Cruise { .. } => cruise() as u64,
            Phase::Probe { gain, .. } => cruise().max(product * gain + self.model.burst()) as u64,
            Phase::Refresh { .. } => (product * REFRESH_GAIN) as u64,
        };
        let ceiling = self.ceiling.map_or(u64::MAX, |ceiling| match self.phase {
            // A bound that is never put to the test would never rise again.
            Phase::Probe { gain, .. } => (ceiling as f64 * gain) as u64,
            _ => ceiling,
        });
        window.min(ceiling).max(LEAST_PACKETS * self.mtu)
    }

    /// The largest packet has changed.
    pub fn on_mtu(&mut self, mtu: u16) {
        let mtu = u64::from(mtu).max(1);
        if let Phase::Startup { window, .. } = &mut self.phase {
            *window = (*window).max(INITIAL_PACKETS * mtu);
        }
        self.mtu = mtu;
    }

    /// `bytes` were sent.
    pub fn on_sent(&mut self, now: Instant, bytes: u64) {
        let idle = now.saturating_duration_since(self.sent_at);
        self.sent_at = now;
        // Any queue of ours is gone, so a drain is over as well.
        let known = matches!(self.phase, Phase::Cruise { .. } | Phase::Drain { .. });
        if idle >= PAUSE && self.in_flight == 0 && known {
            let before = self.model.rate();
            self.phase = Phase::Probe { rounds: 0, gain: PROBE_GAIN, before };
            self.round = Round::new(now, self.samples.delivered());
        }
        self.samples.sent(now, bytes, self.in_flight);
    }

    /// A packet of `bytes` that left at `sent` has arrived.
    pub fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.samples.acked(now, sent, bytes);
        self.acked = self.acked.saturating_add(bytes);
        let rtt = now.saturating_duration_since(sent);
        self.rtt = Some(self.rtt.map_or(rtt, |before| before.min(rtt)));
    }

    /// All that one acknowledgement says was told. `in_flight` is what is under way now;
    /// `app_limited` says that the sender had nothing to send.
    pub fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool) {
        self.in_flight = in_flight;
        let acked = std::mem::take(&mut self.acked);
        let Some(rtt) = self.rtt.take() else {
            return;
        };
        let sample = self.samples.take(now);
        if app_limited {
            self.samples.app_limited(in_flight);
        }
        self.round.delivered = self.round.delivered.saturating_add(acked);
        self.round.rtt = self.round.rtt.min(rtt);
        let startup = matches!(self.phase, Phase::Startup { .. });
        self.model.on_rtt(now, rtt);
        self.model.on_acked(now, acked, !startup);
        let Some(sample) = sample else {
            return;
        };
        self.round.app_limited |= sample.app_limited;
        // What the sender could not fill shows only that the link carries at least that much.
        if !sample.app_limited || sample.rate > self.model.rate() {
            self.model.on_rate(sample.rate);
        }
        self.grow(acked, rtt, in_flight, app_limited);
        if sample.delivered_before >= self.round.end {
            self.end_round(now);
        }
        self.watch(now, rtt);
    }

    /// `bytes` that left at `sent` or before were lost. `persistent` says that nothing has arrived
    /// for several round trips.
    pub fn on_loss(&mut self, now: Instant, sent: Instant, bytes: u64, persistent: bool) {
        self.samples.lost(sent);
        self.round.lost = self.round.lost.saturating_add(bytes);
        self.lost_at = Some(now);
        self.in_flight = self.in_flight.saturating_sub(bytes);
        if persistent {
            self.restart(now);
        } else {
            self.react(now);
        }
    }

    /// A packet was marked as having met a queue (ECN). It counts as one lost.
    pub fn on_mark(&mut self, now: Instant) {
        self.round.lost = self.round.lost.saturating_add(self.mtu);
        self.react(now);
    }

    fn react(&mut self, now: Instant) {
        let tolerated = if self.yields() { CONTENDED_LOSS } else { LOSS_TOLERATED };
        if self.round.is_lossy(self.mtu, tolerated) && !self.round.reacted {
            self.round.reacted = true;
            self.on_overload(now);
        }
    }

    /// Whether others keep a queue who yield when it overflows, so that we should too.
    fn yields(&self) -> bool {
        self.contended && !self.heedless
    }

    /// In the startup the window grows by what arrives, which doubles it in a round, until there is
    /// a queue: a bottleneck that holds one product in its queue then just takes what is under way.
    fn grow(&mut self, acked: u64, rtt: Duration, in_flight: u64, app_limited: bool) {
        if let Phase::Startup { window, .. } = &mut self.phase
            && !app_limited
            && !self.model.is_filling(rtt)
            && in_flight.saturating_add(acked) >= *window / 2
        {
            *window = window.saturating_add(acked);
        }
    }

    fn end_round(&mut self, now: Instant) {
        let round = std::mem::replace(&mut self.round, Round::new(now, self.samples.delivered()));
        if !round.reacted
            && let Some(ceiling) = &mut self.ceiling
        {
            *ceiling = ((*ceiling as f64 * CEILING_GROWTH) as u64).saturating_add(1);
            let product = self.model.product();
            self.ceiling = self.ceiling.filter(|ceiling| (*ceiling as f64) < product * MOST_GAIN);
        }
        if round.app_limited {
            return;
        }
        let lost = f64::from(u8::from(round.is_lossy(self.mtu, OVERFLOWING_LOSS)));
        self.losing += (lost - self.losing) * LOSING_WEIGHT;
        self.heedless = self.losing > if self.heedless { HEEDLESS_UNTIL } else { HEEDLESS_FROM };
        self.notice_slower(&round, now);
        let rate = self.model.rate();
        match &mut self.phase {
            Phase::Startup { best, stale, .. } => {
                if rate >= *best * FULL_GROWTH {
                    (*best, *stale) = (rate, 0);
                } else {
                    *stale += 1;
                    if *stale >= FULL_ROUNDS || self.model.is_queue(round.rtt) {
                        self.drain();
                    }
                }
            }
            Phase::Cruise { rounds, until } => {
                *rounds = rounds.saturating_sub(1);
                if *rounds == 0 && now >= *until {
                    self.phase = Phase::Probe { rounds: 0, gain: PROBE_GAIN, before: rate };
                    self.model.next_cycle();
                }
            }
            Phase::Probe { rounds, gain, before } => {
                *rounds += 1;
                if rate >= *before * PROBE_GROWTH {
                    *before = rate;
                    *gain = (*gain * PROBE_GAIN).min(MOST_GAIN);
                    *rounds = 1;
                } else if *rounds >= 2 {
                    self.probes += 1;
                    if self.contended && self.probes < CONTENDED_PROBES {
                        self.cruise(now);
                    } else {
                        self.drain();
                    }
                }
            }
            Phase::Drain { .. } | Phase::Refresh { .. } => {}
        }
    }

    /// A link that has become slower or longer shows at once, and not only when its best days are
    /// forgotten. Which of both it is shows in a refresh.
    fn notice_slower(&mut self, round: &Round, now: Instant) {
        let rate = round.rate(now);
        let full = matches!(self.phase, Phase::Cruise { .. } | Phase::Probe { .. });
        if !full || rate >= self.model.rate() * SLOWER {
            self.slower = 0;
            self.slower_rate = 0.0;
            return;
        }
        self.slower += 1;
        self.slower_rate = self.slower_rate.max(rate);
        if self.slower >= SLOWER_ROUNDS {
            self.model.forget_rates(self.slower_rate);
            // Who shares a link with the heedless is slower whenever they probe.
            if !(self.contended && self.heedless) {
                self.phase = Phase::Refresh { settled: false, shortest: Duration::MAX };
            }
            self.slower = 0;
            self.slower_rate = 0.0;
        }
    }

    /// What ends a phase in the middle of a round.
    fn watch(&mut self, now: Instant, rtt: Duration) {
        let settled_now = self.in_flight <= self.window(0);
        match &mut self.phase {
            Phase::Drain { rounds, shortest } => {
                *shortest = (*shortest).min(rtt);
                let began_now = self.round.delivered == 0;
                if settled_now && began_now {
                    *rounds += 1;
                }
                let gone = settled_now && self.model.is_shortest(rtt);
                if gone || *rounds > DRAIN_ROUNDS {
                    self.contended = self.model.is_queue(*shortest);
                    self.cruise(now);
                }
            }
            Phase::Refresh { settled, shortest } => {
                *shortest = (*shortest).min(rtt);
                if settled_now && !*settled {
                    *settled = true;
                    self.round = Round::new(now, self.samples.delivered());
                } else if *settled && self.round.delivered == 0 {
                    let shortest = *shortest;
                    // A path that has become longer loses nothing; a queue that others fill does.
                    let overflows = |at| now.saturating_duration_since(at) < MIN_RTT_AGE;
                    let others = self.contended && self.lost_at.is_some_and(overflows);
                    self.model.renew_min_rtt(now, shortest, others);
                    self.cruise(now);
                }
            }
            Phase::Cruise { .. } if self.model.min_rtt_is_old(now) => {
                self.phase = Phase::Refresh { settled: false, shortest: rtt };
            }
            _ => {}
        }
    }

    fn on_overload(&mut self, now: Instant) {
        self.proven = true;
        let product = self.model.product();
        match &mut self.phase {
            Phase::Startup { window, .. } if product <= 0.0 => {
                *window = (*window / 2).max(LEAST_PACKETS * self.mtu);
                return;
            }
            Phase::Startup { .. } => self.drain(),
            // Its rounds are what keeps the model true; they end soon.
            Phase::Probe { rounds, .. } if *rounds < 2 => return,
            Phase::Probe { .. } => self.drain(),
            _ => {}
        }
        let window = self.window(0) as f64;
        let least = product * if self.yields() { CONTENDED_LEAST } else { CEILING_LEAST };
        self.ceiling = Some((window * CEILING_BACKOFF).max(least) as u64);
        self.model.forget_burst(now);
    }

    /// Nothing gets through: begins anew, with what a link of this kind takes without harm.
    fn restart(&mut self, now: Instant) {
        self.proven = true;
        self.ceiling = None;
        self.contended = false;
        self.model.forget_rates(0.0);
        self.model.forget_burst(now);
        self.phase = Phase::Startup { window: INITIAL_PACKETS * self.mtu, best: 0.0, stale: 0 };
        self.round = Round::new(now, self.samples.delivered());
    }

    fn drain(&mut self) {
        self.proven = true;
        self.probes = 0;
        self.phase = Phase::Drain { rounds: 0, shortest: Duration::MAX };
    }

    fn cruise(&mut self, now: Instant) {
        if !self.contended {
            // Among our own kind short memories share more evenly; against others they lose.
            self.model.next_cycle();
        }
        // SplitMix64's increment (Steele, Lea, Flood 2014); its high bits are even enough here.
        self.dice = self.dice.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let spread = ((self.dice >> 32) % CRUISE_SPREAD) as u32;
        let until = now + CRUISE_TIME;
        self.phase = Phase::Cruise { rounds: CRUISE_ROUNDS + spread, until };
    }
}
