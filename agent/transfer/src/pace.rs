//! How long to wait for bytes, and what counts as progress.

use std::time::Duration;

/// The usual [`Patience`]: well over the worst round trip with a few retransmissions, well under
/// what a build would wait for a chunk.
pub const PROGRESS_TIMEOUT: Duration = Duration::from_secs(3);
/// What has to arrive in each [`FLOOR_PERIOD`] of waiting, in bytes a second: less than any link
/// gives that is of use, more than a trickle that is meant to keep us waiting.
const FLOOR: u64 = 1024;
/// Waiting time after which the pace is judged.
const FLOOR_PERIOD: Duration = Duration::from_secs(5);

/// How long a caller waits for the bytes of a holder.
///
/// Bytes are progress, not whole answers: a chunk of two megabytes may take as long as it needs
/// over a slow link, as long as its bytes keep coming. A trickle of less than 1 KiB/s over five
/// seconds of waiting is no progress. The time that the caller itself takes, such as to deliver
/// a chunk, does not count, nor does that of connecting ([`CONNECT_TIMEOUT`](crate::CONNECT_TIMEOUT)
/// for each address) and of waiting for other requests of this endpoint on the same connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// From the request to the first byte of its answer.
    pub first: Duration,
    /// Between two arrivals of bytes.
    pub between: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { first: PROGRESS_TIMEOUT, between: PROGRESS_TIMEOUT }
    }
}

/// Judges the arrivals of one stream.
#[derive(Debug)]
pub(crate) struct Pace {
    patience: Patience,
    /// Whether nothing came yet of what is waited for.
    first: bool,
    /// What came since the pace was last judged, and how long that was waited for.
    bytes: u64,
    waited: Duration,
}

impl Pace {
    pub(crate) fn new(patience: Patience) -> Self {
        Self { patience, first: true, bytes: 0, waited: Duration::ZERO }
    }

    /// Something new is waited for, that may take its time before it begins.
    pub(crate) fn begin_anew(&mut self) {
        *self = Self::new(self.patience);
    }

    /// What came was a sign of life, and counts for no pace.
    pub(crate) fn forgive(&mut self) {
        (self.bytes, self.waited) = (0, Duration::ZERO);
    }

    /// Longest time to wait for the next byte.
    pub(crate) fn wait(&self) -> Duration {
        if self.first { self.patience.first } else { self.patience.between }
    }

    /// Bytes came, after so long a wait. Says whether that is progress.
    pub(crate) fn arrived(&mut self, bytes: usize, waited: Duration) -> bool {
        // The first wait is that for the holder to begin, and says nothing about its pace.
        if !std::mem::take(&mut self.first) {
            self.waited += waited;
        }
        self.bytes += bytes as u64;
        // One wait that the caller allows is never too slow by itself.
        if self.waited < FLOOR_PERIOD.max(self.patience.between * 2) {
            return true;
        }
        let enough = self.bytes as f64 >= FLOOR as f64 * self.waited.as_secs_f64();
        (self.bytes, self.waited) = (0, Duration::ZERO);
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_slow_stream_that_flows_is_progress_and_a_trickle_is_not() {
        let mut pace = Pace::new(Patience::default());
        assert!((0..3600).all(|_| pace.arrived(1100, SECOND)));
        let mut pace = Pace::new(Patience::default());
        let lasted = (0..).take_while(|_| pace.arrived(100, SECOND)).count();
        assert!((5..8).contains(&lasted), "{lasted}");
    }

    #[test]
    fn waits_that_the_caller_allows_are_no_stall() {
        let patience = Patience { first: SECOND * 60, between: SECOND * 10 };
        let mut pace = Pace::new(patience);
        assert_eq!(pace.wait(), patience.first);
        assert!(pace.arrived(4, SECOND * 59));
        assert_eq!(pace.wait(), patience.between);
        assert!(pace.arrived(1, SECOND * 9));
        pace.begin_anew();
        assert_eq!(pace.wait(), patience.first);
    }
}
