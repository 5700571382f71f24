//! Hybrid logical clock: order of records across agents whose wall clocks disagree.
//!
//! After Kulkarni et al., "Logical Physical Clocks" (2014): the upper 48 bits are milliseconds
//! since the Unix epoch, the lower 16 a counter for events within one millisecond.

/// One instant of the hybrid clock. Later is greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Hlc(pub u64);

/// How far ahead of the wall clock, in milliseconds, a foreign stamp may pull this clock. One hour:
/// an agent with a broken clock must not drag everybody's stamps into the far future.
pub const MAX_AHEAD_MS: u64 = 3_600_000;

impl Hlc {
    /// Milliseconds since the Unix epoch of the physical part.
    pub fn millis(self) -> u64 {
        self.0 >> 16
    }

    /// The next stamp: after `self`, and not before the wall clock.
    #[must_use]
    pub fn tick(self, wall_ms: u64) -> Self {
        Self((wall_ms << 16).max(self.0.saturating_add(1)))
    }

    /// Takes a foreign stamp into account, unless it is absurdly far ahead of the wall clock.
    #[must_use]
    pub fn observe(self, foreign: Self, wall_ms: u64) -> Self {
        if foreign.millis() > wall_ms.saturating_add(MAX_AHEAD_MS) {
            return self;
        }
        self.max(foreign)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_goes_back_even_if_the_wall_clock_does() {
        let first = Hlc::default().tick(1_000);
        let second = first.tick(10);
        assert!(second > first);
        assert_eq!(second.millis(), 1_000);
        assert_eq!(second.tick(2_000).millis(), 2_000);
    }

    #[test]
    fn a_foreign_stamp_orders_what_follows_but_cannot_run_away() {
        let here = Hlc::default().tick(1_000);
        let near = Hlc(5_000 << 16);
        assert!(here.observe(near, 1_000).tick(1_000) > near);
        let far = Hlc((1_001 + MAX_AHEAD_MS) << 16);
        assert_eq!(here.observe(far, 1_000), here);
    }
}
