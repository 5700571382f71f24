//! How much this endpoint has to do for others.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How far back [`Load::bytes_per_second`] looks.
const RECENT: Duration = Duration::from_secs(10);

/// What an endpoint does for others right now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Load {
    /// Requests that are being answered.
    pub serving: u32,
    /// Payload bytes handed to QUIC for others, per second over the last ten seconds.
    pub bytes_per_second: u64,
}

/// The pace at which a count grows.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    /// What the count was when, oldest first; one entry for each [`Growth::note`] within
    /// [`RECENT`], and one from before.
    seen: VecDeque<(Instant, u64)>,
}

impl Growth {
    /// Remembers what the count is now.
    pub(crate) fn note(&mut self, now: Instant, count: u64) {
        while self.seen.get(1).is_some_and(|(then, _)| now.duration_since(*then) >= RECENT) {
            self.seen.pop_front();
        }
        self.seen.push_back((now, count));
    }

    /// Growth per second up to `count`, which it is now.
    pub(crate) fn per_second(&self, now: Instant, count: u64) -> u64 {
        let Some((then, before)) = self.seen.front() else {
            return 0;
        };
        // A moment ago is no measure of a pace.
        let elapsed = now.duration_since(*then).max(Duration::from_secs(1));
        (count.saturating_sub(*before) as f64 / elapsed.as_secs_f64()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_that_of_the_last_ten_seconds() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut growth = Growth::default();
        assert_eq!(growth.per_second(start, 1000), 0);
        growth.note(start, 0);
        assert_eq!(growth.per_second(start, 50), 50);
        (1..=20).for_each(|second| growth.note(at(second), second * 100));
        assert_eq!(growth.per_second(at(20), 2000), 100);
        (21..=40).for_each(|second| growth.note(at(second), 2000));
        assert_eq!(growth.per_second(at(40), 2000), 0);
        assert!(growth.seen.len() <= 11);
    }
}
