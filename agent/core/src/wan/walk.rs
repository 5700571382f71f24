//! Randomness of a link: what is lost, and the walk of a profile that varies. The same seed gives
//! the same link.

use super::profile::{Profile, Shape, Variation};
use std::{
    ops::RangeInclusive,
    time::{Duration, Instant},
};

/// Most steps that are made up for after a silence; a walk has forgotten where it was by then.
const MAX_STEPS_AT_ONCE: u32 = 64;
/// A step goes at most this part of the range, up or down.
const STEP: u64 = 4;

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, or 0. The remainder favours small numbers by less than one part in
    /// 2^30 for the bounds of this module.
    fn below(&mut self, bound: u64) -> u64 {
        self.next().checked_rem(bound).unwrap_or(0)
    }

    /// Whether something happens that happens `ppm` times of a million.
    pub(super) fn happens(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.below(1_000_000) < u64::from(ppm)
    }
}

/// The shape of a profile as it changes with time.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    shape: Shape,
    variation: Option<Variation>,
    next_step: Instant,
}

impl Walk {
    pub(super) fn new(profile: &Profile, now: Instant) -> Self {
        let variation = profile.variation.clone();
        let every = variation.as_ref().map_or(Duration::ZERO, |variation| variation.every);
        Self { shape: profile.shape, variation, next_step: now + every }
    }

    /// The shape at `now`. An earlier `now` than before changes nothing.
    pub(super) fn shape(&mut self, now: Instant, random: &mut Random) -> Shape {
        let Some(variation) = &self.variation else {
            return self.shape;
        };
        for _ in 0..MAX_STEPS_AT_ONCE {
            if self.next_step > now {
                return self.shape;
            }
            self.shape.delay_us = step(self.shape.delay_us, &variation.delay_us, random);
            self.shape.rate_bits = step(self.shape.rate_bits, &variation.rate_bits, random);
            self.next_step += variation.every;
        }
        self.next_step = self.next_step.max(now + variation.every);
        self.shape
    }
}

fn step(value: u64, range: &RangeInclusive<u64>, random: &mut Random) -> u64 {
    let reach = range.end().saturating_sub(*range.start()) / STEP;
    let moved = value.saturating_add(random.below(2 * reach + 1)).saturating_sub(reach);
    moved.clamp(*range.start(), *range.end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wan::find;

    #[test]
    fn a_varying_profile_moves_inside_its_range_and_the_same_for_the_same_seed() {
        let mobile = find("mobile").unwrap();
        let start = Instant::now();
        let walked = |seed| {
            let mut random = Random::new(seed);
            let mut walk = Walk::new(mobile, start);
            (0..1_000u64)
                .map(|i| walk.shape(start + Duration::from_secs(i), &mut random))
                .collect::<Vec<_>>()
        };
        let shapes = walked(7);
        let variation = mobile.variation.clone().unwrap();
        assert!(shapes.iter().all(|shape| variation.delay_us.contains(&shape.delay_us)
            && variation.rate_bits.contains(&shape.rate_bits)));
        let spread = |of: fn(&Shape) -> u64| {
            shapes.iter().map(of).max().unwrap() - shapes.iter().map(of).min().unwrap()
        };
        // A thousand seconds lead it through most of its range.
        assert!(spread(|shape| shape.delay_us) > 50_000, "{shapes:?}");
        assert!(spread(|shape| shape.rate_bits) > 18_000_000, "{shapes:?}");
        assert_eq!(shapes, walked(7));
        assert_ne!(shapes, walked(8));
    }

    #[test]
    fn a_long_silence_costs_few_steps() {
        let start = Instant::now();
        let mut walk = Walk::new(find("mobile").unwrap(), start);
        let year = Duration::from_secs(365 * 24 * 3600);
        walk.shape(start + year, &mut Random::new(1));
        assert_eq!(walk.next_step, start + year + Duration::from_secs(3));
    }
}
