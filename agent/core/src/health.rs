//! Whether a source is asked at all: a circuit breaker for each, with half-open probes.
//!
//! A closed breaker lets everything through. A failure opens it for a while that doubles with each
//! further one, up to a cap, and varies at random so that many agents do not come back at once.
//! When that time is over the breaker is half open: one request goes through as a probe, and its
//! outcome closes the breaker or opens it for longer. A miss is no failure.

use std::time::{Duration, Instant};

/// First pause after a failure.
pub const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Share of a pause by which it varies, each way.
const JITTER: f64 = 0.2;
/// Pause after wrong bytes or a broken protocol: such a peer is not asked again soon.
pub const PENALTY: Duration = Duration::from_secs(300);
/// How long a probe may be under way before another may go: its asker may be gone.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// What a source did wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It did not answer, was lost or stalled.
    Unavailable,
    /// It sent wrong bytes or broke the protocol.
    Hostile,
}

/// The state of a breaker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// It is asked.
    Closed,
    /// It may be asked once, to see whether it is back.
    HalfOpen,
    /// It is not asked for so long.
    Open(Duration),
}

/// The breaker of one source.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    failures: u32,
    open_until: Option<Instant>,
    probe_since: Option<Instant>,
}

impl Breaker {
    /// The state now.
    pub fn health(&self, now: Instant) -> Health {
        match self.open_until {
            None => Health::Closed,
            Some(until) if now < until => Health::Open(until - now),
            Some(_) => match self.probe_since {
                Some(since) if now < since + PROBE_LIMIT => {
                    Health::Open((since + PROBE_LIMIT) - now)
                }
                _ => Health::HalfOpen,
            },
        }
    }

    /// A request goes out. While the breaker is half open it is the probe.
    pub fn handle_asked(&mut self, now: Instant) {
        if self.health(now) == Health::HalfOpen {
            self.probe_since = Some(now);
        }
    }

    /// The source answered, if only that it lacks what was asked for.
    pub fn handle_answer(&mut self) {
        *self = Self::default();
    }

    /// The request was given up before it came to anything: nobody knows how the source is.
    pub fn handle_dropped(&mut self) {
        self.probe_since = None;
    }

    /// The source failed. `dice` is a random number from 0 to 1. Requests that were under way
    /// together fail together, and count as one failure.
    pub fn handle_fault(&mut self, fault: Fault, dice: f64, now: Instant) {
        if matches!(self.health(now), Health::Open(_)) && self.probe_since.is_none() {
            return;
        }
        let pause = match fault {
            Fault::Unavailable => backoff(self.failures, FIRST_PAUSE, LONGEST_PAUSE, dice),
            Fault::Hostile => PENALTY,
        };
        self.failures = self.failures.saturating_add(1);
        self.open_until = Some(now + pause);
        self.probe_since = None;
    }
}

/// A pause that doubles with each failure before it, up to `longest`, varied by a fifth each way.
/// `dice` is a random number from 0 to 1.
pub fn backoff(failures: u32, first: Duration, longest: Duration, dice: f64) -> Duration {
    let doubled = first.saturating_mul(1_u32.checked_shl(failures.min(31)).unwrap_or(u32::MAX));
    doubled.min(longest).mul_f64(1.0 + JITTER * (2.0 * dice.clamp(0.0, 1.0) - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIDDLE: f64 = 0.5;

    #[test]
    fn pauses_double_and_one_probe_goes_through() {
        let (mut breaker, mut now) = (Breaker::default(), Instant::now());
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            breaker.handle_fault(Fault::Unavailable, MIDDLE, now);
            assert_eq!(breaker.health(now), Health::Open(Duration::from_secs(seconds)));
            now += Duration::from_secs(seconds);
            assert_eq!(breaker.health(now), Health::HalfOpen);
            breaker.handle_asked(now);
            assert!(matches!(breaker.health(now), Health::Open(_)), "one probe only");
        }
        breaker.handle_answer();
        assert_eq!(breaker.health(now), Health::Closed);
        breaker.handle_fault(Fault::Unavailable, MIDDLE, now);
        assert_eq!(breaker.health(now), Health::Open(FIRST_PAUSE), "an answer starts anew");
    }

    #[test]
    fn requests_that_fail_together_are_one_failure() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..20 {
            breaker.handle_fault(Fault::Unavailable, MIDDLE, now);
        }
        assert_eq!(breaker.health(now), Health::Open(FIRST_PAUSE));
    }

    #[test]
    fn a_probe_that_is_given_up_or_lost_makes_room_for_another() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        breaker.handle_fault(Fault::Unavailable, MIDDLE, start);
        let now = start + FIRST_PAUSE;
        breaker.handle_asked(now);
        breaker.handle_dropped();
        assert_eq!(breaker.health(now), Health::HalfOpen);
        breaker.handle_asked(now);
        assert_eq!(breaker.health(now + PROBE_LIMIT), Health::HalfOpen);
    }

    #[test]
    fn wrong_bytes_cost_more_than_silence() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        breaker.handle_fault(Fault::Hostile, MIDDLE, now);
        assert_eq!(breaker.health(now), Health::Open(PENALTY));
    }

    proptest! {
        #[test]
        fn a_pause_is_bounded(failures: u32, dice in -1.0f64..2.0) {
            let pause = backoff(failures, FIRST_PAUSE, LONGEST_PAUSE, dice);
            prop_assert!(pause >= FIRST_PAUSE.mul_f64(0.79) && pause <= LONGEST_PAUSE.mul_f64(1.21));
        }
    }
}
