//! How long to wait before trying again.

use std::time::Duration;

/// Doubling delays up to a limit, each shortened by up to a half, so that clients that failed
/// together do not come back together. An iterator: one delay for each new try.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
    limit: Duration,
    tries_left: u32,
    seed: u64,
}

impl Backoff {
    /// `tries` delays that start at `first` and never pass `limit`; the seed tells clients apart.
    pub fn new(first: Duration, limit: Duration, tries: u32, seed: u64) -> Backoff {
        Backoff { next: first.min(limit), limit, tries_left: tries, seed }
    }

    /// Runs `attempt` until it succeeds or the delays are used up; the last error is the result.
    pub fn retry<T, E>(
        self,
        mut wait: impl FnMut(Duration),
        mut attempt: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        let mut result = attempt();
        for delay in self {
            if result.is_ok() {
                break;
            }
            wait(delay);
            result = attempt();
        }
        result
    }
}

impl Iterator for Backoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.tries_left = self.tries_left.checked_sub(1)?;
        let full = self.next;
        self.next = full.saturating_mul(2).min(self.limit);
        // One step of a linear congruential generator; its upper bits are the random ones.
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let thousandths = (self.seed >> 33) as u32 % 501;
        Some(full - full * thousandths / 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);
    const LIMIT: Duration = Duration::from_secs(2);

    #[test]
    fn delays_double_up_to_the_limit_within_their_jitter() {
        let mut full = FIRST;
        for delay in Backoff::new(FIRST, LIMIT, 40, 1) {
            assert!(delay <= full && delay >= full / 2, "{delay:?} of {full:?}");
            full = (full * 2).min(LIMIT);
        }
        assert_eq!(full, LIMIT);
    }

    #[test]
    fn two_clients_wait_differently_and_one_always_the_same() {
        let delays = |seed| Backoff::new(FIRST, LIMIT, 8, seed).collect::<Vec<_>>();
        assert_eq!(delays(1), delays(1));
        assert_ne!(delays(1), delays(2));
    }

    #[test]
    fn retrying_stops_at_the_first_success() {
        let mut tries = 0;
        let mut waits = 0;
        let result = Backoff::new(FIRST, LIMIT, 5, 1).retry(
            |_| waits += 1,
            || {
                tries += 1;
                if tries == 3 { Ok(tries) } else { Err("not yet") }
            },
        );
        assert_eq!((result, waits), (Ok(3), 2));
    }

    #[test]
    fn the_last_error_is_told_when_all_tries_fail() {
        let mut tries = 0;
        let result: Result<(), _> = Backoff::new(FIRST, LIMIT, 5, 1).retry(
            |_| {},
            || {
                tries += 1;
                Err(tries)
            },
        );
        assert_eq!(result, Err(6));
    }
}
