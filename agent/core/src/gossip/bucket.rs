//! A token bucket: what one neighbour may make this agent take or give.

use std::time::{Duration, Instant};

/// Tokens that come back with time.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    /// Tokens per second.
    rate: u64,
    /// The most that it holds.
    burst: u64,
    tokens: u64,
    /// Up to when tokens have been added.
    filled: Instant,
}

impl Bucket {
    /// A full bucket.
    pub(super) fn new(rate: u64, burst: u64, now: Instant) -> Self {
        Self { rate, burst, tokens: burst, filled: now }
    }

    /// Takes `tokens` if there are as many.
    pub(super) fn take(&mut self, tokens: u64, now: Instant) -> bool {
        self.fill(now);
        let enough = self.tokens >= tokens;
        if enough {
            self.tokens -= tokens;
        }
        enough
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled);
        let full_after = Duration::from_secs(self.burst / self.rate.max(1) + 1);
        let micros = passed.min(full_after).as_micros() as u64;
        let added = micros.saturating_mul(self.rate) / 1_000_000;
        // Fractions of a token are kept by not moving the clock before a whole one has come.
        if added > 0 {
            self.tokens = self.tokens.saturating_add(added).min(self.burst);
            self.filled = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10, 5, start);
        assert!(bucket.take(5, start) && !bucket.take(1, start));
        let later = start + Duration::from_millis(100);
        assert!(bucket.take(1, later) && !bucket.take(1, later));
        let much_later = start + Duration::from_secs(3_600);
        assert!(bucket.take(5, much_later) && !bucket.take(1, much_later));
    }
}
