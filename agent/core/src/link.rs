//! What is believed of a link: round trips, their jitter, loss and goodput, each as old as its last
//! sample.
//!
//! An estimate is a mean whose weights decay with time, so that it follows a link that changes
//! within a few samples and is steady on one that jitters. Nothing here asks for samples; what is
//! too old says so, and whoever probes decides whether a new one is worth its bytes.

use crate::peer::PeerId;
use std::time::{Duration, Instant};

/// How fast an old round trip loses weight. With a sample each second a small change of the link
/// makes up three quarters of the estimate after three seconds; see [`SHIFT`] for a great one.
const RTT_MEMORY: Duration = Duration::from_secs(2);
/// How fast old packets lose weight in the share of lost ones: long enough for a percent to show.
const LOSS_MEMORY: Duration = Duration::from_secs(30);
/// How fast an old goodput loses weight.
const GOODPUT_MEMORY: Duration = Duration::from_secs(60);
/// Most weight of what was known against one new goodput sample: a link that got slower shows in
/// two or three transfers, however many went before.
const GOODPUT_INERTIA: f64 = 2.0;
/// Two samples in a row that differ from the estimate by more than this factor, in the same
/// direction, are a new link and not an outlier.
const SHIFT: f64 = 2.0;
/// Round trips in seconds that differ by less are of the same link: on a local network a busy
/// machine makes that difference, and no decision hangs on it.
const LEAST_SHIFT: f64 = 0.005;

fn is_far(value: f64, from: f64) -> bool {
    value > from * SHIFT || value < from / SHIFT
}

/// Fewest packets that say something about loss.
const MIN_PACKETS: f64 = 50.0;
/// After this, an idle link may have changed and its goodput is worth a probe.
pub const STALE_GOODPUT: Duration = Duration::from_secs(60);
/// After this, an idle link that was measured once only is worth another probe: on a busy machine a
/// single one may be far off.
const UNCONFIRMED_GOODPUT: Duration = Duration::from_secs(10);
/// After this, the round-trip time of a link is a guess.
pub const STALE_RTT: Duration = Duration::from_secs(10);
/// Longest round trip and greatest goodput (bytes per second) that are believed from anybody.
pub const MAX_RTT: Duration = Duration::from_secs(60);
/// See [`MAX_RTT`]: 8 Tbit/s.
pub const MAX_GOODPUT: f64 = 1e12;

/// One observation of a link, from real traffic or from a probe.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Sample {
    /// A round trip took this long.
    Rtt(Duration),
    /// Packets that this end sent since the last such sample, and how many of them were lost.
    Loss {
        /// Packets sent.
        sent: u64,
        /// Of these, packets declared lost.
        lost: u64,
    },
    /// Payload arrived at the pace of the link, not at that of its sender or receiver.
    Goodput {
        /// Payload bytes.
        bytes: u64,
        /// From the first of them to the last.
        elapsed: Duration,
    },
    /// Payload arrived at this pace before it was that of the link: it carries at least this.
    AtLeast {
        /// Payload bytes.
        bytes: u64,
        /// From the first of them to the last.
        elapsed: Duration,
    },
}

/// Bytes per second, if that can be a goodput.
fn rate(bytes: u64, elapsed: Duration) -> Option<f64> {
    let rate = bytes as f64 / elapsed.as_secs_f64();
    (rate.is_finite() && (1.0..=MAX_GOODPUT).contains(&rate)).then_some(rate)
}

/// What one agent tells the others of its link to a peer.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Report {
    /// The other end.
    pub peer: PeerId,
    /// Round-trip time.
    pub rtt: Duration,
    /// See [`Belief::jitter`].
    pub jitter: Duration,
    /// See [`Belief::loss`]; 0 when not known.
    pub loss: f64,
    /// See [`Belief::goodput`].
    pub goodput: Option<f64>,
    /// How old the round-trip time is.
    pub age: Duration,
}

/// A mean whose samples lose weight with time.
#[derive(Clone, Copy, Debug)]
struct Decayed {
    mean: f64,
    weight: f64,
    at: Instant,
}

impl Decayed {
    fn new(value: f64, at: Instant) -> Self {
        Self { mean: value, weight: 1.0, at }
    }

    fn take(&mut self, value: f64, at: Instant, memory: Duration, inertia: f64) {
        let passed = at.saturating_duration_since(self.at).as_secs_f64();
        let kept = (self.weight * (-passed / memory.as_secs_f64()).exp()).min(inertia);
        self.mean = (self.mean * kept + value) / (kept + 1.0);
        self.weight = kept + 1.0;
        self.at = self.at.max(at);
    }
}

/// What is believed of a link now. `None` where nothing was measured.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Belief {
    /// Round-trip time.
    pub rtt: Option<Duration>,
    /// Mean deviation of round trips from their mean.
    pub jitter: Duration,
    /// Share of packets lost on the way to the other end, 0 to 1.
    pub loss: Option<f64>,
    /// Payload bytes per second that arrive from the other end.
    pub goodput: Option<f64>,
    /// How old the round-trip time is.
    pub rtt_age: Duration,
    /// How old the goodput is.
    pub goodput_age: Duration,
    /// Whether the link carries no more than its goodput, as this agent saw itself.
    pub full: bool,
    /// Who measured it.
    pub basis: Basis,
}

/// Where a belief comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Basis {
    /// Measured by this agent.
    Measured,
    /// Told by an agent of this region about that peer or its region.
    Told,
    /// Nothing is known; a cautious guess.
    #[default]
    Assumed,
}

/// The estimate of one link.
#[derive(Clone, Debug, Default)]
pub struct Estimate {
    rtt: Option<Decayed>,
    jitter: Option<Decayed>,
    /// The last round trip in seconds when it was far from the estimate.
    odd_rtt: Option<f64>,
    sent: f64,
    lost: f64,
    loss_at: Option<Instant>,
    goodput: Option<Decayed>,
    /// The last goodput sample when it was far from the estimate.
    odd: Option<f64>,
    /// The round-trip time when goodput was measured last, in seconds, and what was believed of it then.
    rtt_at_goodput: Option<f64>,
    measured: Option<f64>,
    /// See [`Belief::full`].
    full: bool,
}

impl Estimate {
    /// Takes a sample; one that cannot be is ignored. Says whether it shows that this is another
    /// link now, of which what was known before says little.
    pub fn handle_sample(&mut self, sample: Sample, now: Instant) -> bool {
        match sample {
            Sample::Rtt(rtt) => return self.handle_rtt(rtt, now),
            Sample::Loss { sent, lost } => self.handle_loss(sent, lost, now),
            Sample::Goodput { bytes, elapsed } => {
                if let Some(goodput) = rate(bytes, elapsed) {
                    self.handle_goodput(goodput, now);
                    self.full = true;
                }
            }
            // A sample that was not limited by the link counts when it is more than is believed
            // all the same: the rule of BBR for senders that had nothing more to send.
            Sample::AtLeast { bytes, elapsed } => {
                let believed = crate::score::goodput(&self.belief(now));
                if let Some(goodput) = rate(bytes, elapsed).filter(|rate| *rate > believed) {
                    self.handle_goodput(goodput, now);
                    self.full = false;
                }
            }
        }
        false
    }

    fn handle_rtt(&mut self, rtt: Duration, now: Instant) -> bool {
        if rtt.is_zero() || rtt > MAX_RTT {
            return false;
        }
        let value = rtt.as_secs_f64();
        let Some(known) = &mut self.rtt else {
            self.rtt = Some(Decayed::new(value, now));
            return false;
        };
        let before = known.mean;
        let far = is_far(value, before) && (value - before).abs() >= LEAST_SHIFT;
        let odd = far.then_some(value);
        let last = std::mem::replace(&mut self.odd_rtt, odd);
        if odd.is_some() && last.is_some_and(|last| (last > before) == (value > before)) {
            *known = Decayed::new(value, now);
            (self.jitter, self.odd_rtt) = (None, None);
            if let Some(goodput) = &mut self.goodput {
                // By Little's law, what was under way in one round trip takes a longer one now. That
                // is a guess, which the next sample replaces, or the end of the detour.
                let then = self.rtt_at_goodput.unwrap_or(before);
                let measured = self.measured.unwrap_or(goodput.mean);
                goodput.mean = (measured * (then / value).min(1.0)).max(1.0);
                goodput.weight = 0.0;
                (self.odd, self.full) = (None, false);
            }
            return true;
        }
        if odd.is_none() {
            known.take(value, now, RTT_MEMORY, f64::INFINITY);
        }
        let deviation = (value - before).abs();
        match &mut self.jitter {
            Some(jitter) => jitter.take(deviation, now, RTT_MEMORY * 2, f64::INFINITY),
            None => self.jitter = Some(Decayed::new(deviation, now)),
        }
        false
    }

    fn handle_loss(&mut self, sent: u64, lost: u64, now: Instant) {
        if let Some(at) = self.loss_at {
            let passed = now.saturating_duration_since(at).as_secs_f64();
            let kept = (-passed / LOSS_MEMORY.as_secs_f64()).exp();
            self.sent *= kept;
            self.lost *= kept;
        }
        self.loss_at = Some(now);
        self.sent += sent as f64;
        self.lost += lost.min(sent) as f64;
    }

    fn handle_goodput(&mut self, goodput: f64, now: Instant) {
        self.rtt_at_goodput = self.rtt.map(|rtt| rtt.mean);
        let Some(known) = &mut self.goodput else {
            self.goodput = Some(Decayed::new(goodput, now));
            self.measured = Some(goodput);
            return;
        };
        let same_side = |odd: f64| (odd > known.mean) == (goodput > known.mean);
        if !is_far(goodput, known.mean) {
            self.odd = None;
            known.take(goodput, now, GOODPUT_MEMORY, GOODPUT_INERTIA);
        } else if self.odd.is_some_and(same_side) {
            self.odd = None;
            *known = Decayed::new(goodput, now);
        } else {
            self.odd = Some(goodput);
            known.take(goodput, now, GOODPUT_MEMORY, GOODPUT_INERTIA);
        }
        self.measured = Some(known.mean);
    }

    /// What is believed now; the basis is [`Basis::Measured`] once there is a round trip.
    pub fn belief(&self, now: Instant) -> Belief {
        let age =
            |value: &Option<Decayed>| value.map_or(Duration::MAX, |v| now.duration_since(v.at));
        let loss = (self.sent >= MIN_PACKETS).then(|| self.lost / self.sent);
        Belief {
            rtt: self.rtt.map(|rtt| Duration::from_secs_f64(rtt.mean)),
            jitter: self.jitter.map_or(Duration::ZERO, |j| Duration::from_secs_f64(j.mean)),
            loss,
            goodput: self.goodput.map(|goodput| goodput.mean),
            rtt_age: age(&self.rtt),
            goodput_age: age(&self.goodput),
            full: self.full,
            basis: if self.rtt.is_some() { Basis::Measured } else { Basis::Assumed },
        }
    }

    /// Measured bytes per second, however old.
    pub fn goodput(&self) -> Option<f64> {
        self.goodput.map(|goodput| goodput.mean)
    }

    /// Whether the goodput is worth a probe: never measured, measured once, too old, or measured when
    /// the link had another length.
    pub fn wants_probe(&self, now: Instant) -> bool {
        let Some(goodput) = &self.goodput else { return true };
        let lasts = if goodput.weight > 1.0 { STALE_GOODPUT } else { UNCONFIRMED_GOODPUT };
        if now.saturating_duration_since(goodput.at) >= lasts {
            return true;
        }
        let (Some(then), Some(rtt)) = (self.rtt_at_goodput, &self.rtt) else { return false };
        let jitter = self.jitter.map_or(0.0, |jitter| jitter.mean);
        let moved = (rtt.mean - then).abs();
        moved > then.min(rtt.mean) * 0.5 && moved > jitter && moved >= LEAST_SHIFT
    }

    /// An estimate that was kept from an earlier life: a start, and old enough to be measured again.
    pub fn remembered(rtt: Option<Duration>, goodput: Option<f64>, then: Instant) -> Self {
        let rtt = rtt.filter(|rtt| !rtt.is_zero() && *rtt <= MAX_RTT);
        let goodput = goodput.filter(|goodput| (1.0..=MAX_GOODPUT).contains(goodput));
        Self {
            rtt: rtt.map(|rtt| Decayed::new(rtt.as_secs_f64(), then)),
            goodput: goodput.map(|goodput| Decayed::new(goodput, then)),
            rtt_at_goodput: rtt.map(|rtt| rtt.as_secs_f64()),
            measured: goodput,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ms(value: f64) -> Duration {
        Duration::from_secs_f64(value / 1e3)
    }

    fn after(samples: &[(u64, Sample)]) -> (Estimate, Instant) {
        let start = Instant::now();
        let mut estimate = Estimate::default();
        for (second, sample) in samples {
            estimate.handle_sample(*sample, start + *second as u32 * SECOND);
        }
        (estimate, start + samples.last().map_or(0, |(second, _)| *second) as u32 * SECOND)
    }

    fn goodput(mbytes: u64) -> Sample {
        Sample::Goodput { bytes: mbytes * 1_000_000, elapsed: SECOND }
    }

    #[test]
    fn a_changed_round_trip_shows_after_three_samples() {
        let samples: Vec<_> = (0..20)
            .map(|n| (n, Sample::Rtt(ms(50.0))))
            .chain((20..23).map(|n| (n, Sample::Rtt(ms(600.0)))))
            .collect();
        let (estimate, now) = after(&samples);
        assert_eq!(estimate.belief(now).rtt, Some(ms(600.0)));
        // One that is no other link, but longer.
        let samples: Vec<_> = (0..20)
            .map(|n| (n, Sample::Rtt(ms(50.0))))
            .chain((20..23).map(|n| (n, Sample::Rtt(ms(90.0)))))
            .collect();
        let (estimate, now) = after(&samples);
        let rtt = estimate.belief(now).rtt.unwrap();
        assert!(rtt > ms(78.0), "{rtt:?}");
        assert!(estimate.belief(now).jitter > ms(5.0));
    }

    #[test]
    fn two_round_trips_of_another_length_are_another_link_and_one_is_not() {
        let mut samples: Vec<_> = (0..20).map(|n| (n, Sample::Rtt(ms(50.0)))).collect();
        samples.extend([(20, goodput(12)), (21, Sample::Rtt(ms(600.0)))]);
        let (estimate, now) = after(&[&samples[..], &[(22, Sample::Rtt(ms(50.0)))]].concat());
        assert_eq!(estimate.belief(now).rtt, Some(ms(50.0)));
        assert_eq!(estimate.belief(now).goodput, Some(12e6));

        samples.push((22, Sample::Rtt(ms(620.0))));
        let (mut estimate, now) = after(&samples);
        let belief = estimate.belief(now);
        assert_eq!((belief.rtt, belief.jitter), (Some(ms(620.0)), Duration::ZERO));
        assert!(belief.goodput.unwrap() < 2e6, "a longer link carries less, as far as is known");
        assert!(estimate.wants_probe(now));
        // What is measured then counts alone.
        estimate.handle_sample(goodput(2), now);
        assert!((estimate.belief(now).goodput.unwrap() - 2e6).abs() < 1.0);
    }

    #[test]
    fn a_goodput_that_halves_twice_in_a_row_is_believed_and_one_outlier_is_not() {
        let steady: Vec<_> = (0..10).map(|n| (n, goodput(10))).collect();
        let (estimate, now) = after(&[steady.clone(), vec![(10, goodput(1))]].concat());
        assert!(estimate.belief(now).goodput.unwrap() > 6e6);
        let (estimate, now) = after(&[steady, vec![(10, goodput(1)), (11, goodput(1))]].concat());
        assert!((estimate.belief(now).goodput.unwrap() - 1e6).abs() < 1.0);
    }

    #[test]
    fn what_a_link_carries_at_least_raises_what_is_believed_and_never_lowers_it() {
        let at_least = |mbytes: u64| Sample::AtLeast { bytes: mbytes * 1_000_000, elapsed: SECOND };
        let rtt = (0, Sample::Rtt(ms(50.0)));
        // 5 MB/s are what an untried link of this length is trusted to carry.
        let (estimate, now) = after(&[rtt, (1, at_least(4))]);
        assert_eq!(estimate.belief(now).goodput, None);
        let (estimate, now) = after(&[rtt, (1, at_least(9))]);
        assert_eq!(estimate.belief(now).goodput, Some(9e6));
        let (estimate, now) = after(&[rtt, (1, goodput(3)), (2, at_least(2))]);
        assert_eq!(estimate.belief(now).goodput, Some(3e6));
        assert!(estimate.belief(now).full);
        let (estimate, now) = after(&[rtt, (1, goodput(3)), (2, at_least(5))]);
        assert!(!estimate.belief(now).full, "it carries more than it did when it was full");
        assert!(estimate.belief(now).goodput.unwrap() > 3.5e6);
    }

    #[test]
    fn loss_is_a_share_of_recent_packets() {
        let loss = |sent, lost| Sample::Loss { sent, lost };
        let (estimate, now) = after(&[(0, loss(10, 1))]);
        assert_eq!(estimate.belief(now).loss, None, "ten packets say nothing");
        let (estimate, now) = after(&[(0, loss(1000, 100)), (300, loss(1000, 10))]);
        let share = estimate.belief(now).loss.unwrap();
        assert!((share - 0.01).abs() < 0.001, "{share}");
    }

    #[test]
    fn a_link_that_is_as_short_again_as_it_was_carries_what_it_did() {
        let (mut estimate, mut now) = after(&[(0, Sample::Rtt(ms(50.0))), (1, goodput(12))]);
        let before = estimate.belief(now).goodput.unwrap();
        for (rtt, share) in [(600.0, 1.0 / 12.0), (50.0, 1.0), (150.0, 1.0 / 3.0), (20.0, 1.0)] {
            for _ in 0..3 {
                now += SECOND;
                estimate.handle_sample(Sample::Rtt(ms(rtt)), now);
            }
            let believed = estimate.belief(now).goodput.unwrap();
            assert!((believed / before - share).abs() < 0.02, "{rtt} ms: {believed}");
        }
    }

    #[test]
    fn a_probe_is_wanted_when_nothing_is_known_it_is_old_or_the_link_moved() {
        let (mut estimate, now) = after(&[(0, Sample::Rtt(ms(50.0)))]);
        assert!(estimate.wants_probe(now));
        estimate.handle_sample(goodput(10), now);
        assert!(!estimate.wants_probe(now + SECOND));
        let now = now + UNCONFIRMED_GOODPUT;
        assert!(estimate.wants_probe(now));
        estimate.handle_sample(goodput(10), now);
        assert!(!estimate.wants_probe(now + UNCONFIRMED_GOODPUT));
        assert!(estimate.wants_probe(now + STALE_GOODPUT));
        for second in 1..4 {
            estimate.handle_sample(Sample::Rtt(ms(600.0)), now + second * SECOND);
        }
        assert!(estimate.wants_probe(now + 4 * SECOND));
    }

    proptest! {
        #[test]
        fn estimates_stay_between_the_smallest_and_the_greatest_sample(
            values in prop::collection::vec((0u64..100, 1u32..50_000), 1..60),
        ) {
            let start = Instant::now();
            let mut estimate = Estimate::default();
            let mut now = start;
            for (passed, value) in &values {
                now += *passed as u32 * SECOND / 10;
                estimate.handle_sample(Sample::Rtt(ms(f64::from(*value))), now);
                estimate.handle_sample(
                    Sample::Goodput { bytes: u64::from(*value), elapsed: SECOND }, now);
                estimate.handle_sample(Sample::Loss { sent: 100, lost: u64::from(*value) }, now);
            }
            let belief = estimate.belief(now);
            let least = f64::from(*values.iter().map(|(_, v)| v).min().unwrap());
            let most = f64::from(*values.iter().map(|(_, v)| v).max().unwrap());
            let rtt = belief.rtt.unwrap().as_secs_f64() * 1e3;
            prop_assert!((least * 0.999..=most * 1.001).contains(&rtt));
            prop_assert!((least * 0.999..=most * 1.001).contains(&belief.goodput.unwrap()));
            prop_assert!((0.0..=1.0).contains(&belief.loss.unwrap()));
        }

        #[test]
        fn absurd_samples_change_nothing(bytes: u64, nanos in 0u64..100) {
            let now = Instant::now();
            let mut estimate = Estimate::default();
            let elapsed = Duration::from_nanos(nanos);
            estimate.handle_sample(Sample::Goodput { bytes, elapsed }, now);
            estimate.handle_sample(Sample::AtLeast { bytes, elapsed }, now);
            estimate.handle_sample(Sample::Rtt(Duration::MAX), now);
            let belief = estimate.belief(now);
            prop_assert!(belief.goodput.is_none_or(|g| g.is_finite() && g <= MAX_GOODPUT));
            prop_assert_eq!(belief.rtt, None);
        }
    }
}
