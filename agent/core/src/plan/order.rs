//! The order of regions: primary, secondary, tertiary and so on, without flapping.
//!
//! Scores of links that jitter cross all the time. A region becomes primary only when it has been
//! clearly better for a moment; one that has just been left must be better by far. A region without
//! a source that can be asked goes to the back at once.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// How much better a region must be to take the place of the one before it.
const MARGIN: f64 = 0.2;
/// How much better a region must be that was left not long ago.
const RETURN_MARGIN: f64 = 0.5;
/// What is not long ago.
const RETURN_WINDOW: Duration = Duration::from_secs(60);
/// How long it must have been better without a break.
const HOLD: Duration = Duration::from_secs(2);
/// How long after a region was met first its score is still finding itself, and the best one is
/// taken at once.
const WARM_UP: Duration = Duration::from_secs(3);

/// What is known of a region when the order is made.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RegionScore {
    /// Weighted seconds at the reference size, of its best source.
    pub score: f64,
    /// Whether one of its sources can be asked.
    pub healthy: bool,
}

/// The order of regions, kept from one look to the next.
#[derive(Clone, Debug, Default)]
pub struct Order {
    regions: Vec<String>,
    met: BTreeMap<String, Instant>,
    challenger: Option<(String, Instant)>,
    left: BTreeMap<String, Instant>,
    switches: u64,
}

impl Order {
    /// The regions, the primary first.
    pub fn regions(&self) -> &[String] {
        &self.regions
    }

    /// The primary region.
    pub fn primary(&self) -> Option<&str> {
        self.regions.first().map(String::as_str)
    }

    /// How often the primary has changed from one region to another.
    pub fn switches(&self) -> u64 {
        self.switches
    }

    /// Takes the scores of now; says whether the primary changed.
    pub fn handle_scores(&mut self, scores: &BTreeMap<String, RegionScore>, now: Instant) -> bool {
        self.met.retain(|region, _| scores.contains_key(region));
        self.left.retain(|_, at| now.saturating_duration_since(*at) < RETURN_WINDOW);
        for region in scores.keys() {
            self.met.entry(region.clone()).or_insert(now);
        }
        let before = self.primary().map(str::to_owned);
        self.regions = self.sorted(scores, before.as_deref(), now);
        let after = self.primary().map(str::to_owned);
        let changed = before != after;
        if changed {
            self.challenger = None;
            if let Some(before) = before {
                self.switches += 1;
                self.left.insert(before, now);
            }
        }
        changed
    }

    fn sorted(
        &mut self,
        scores: &BTreeMap<String, RegionScore>,
        primary: Option<&str>,
        now: Instant,
    ) -> Vec<String> {
        let place = |region: &str| {
            self.regions.iter().position(|known| known == region).unwrap_or(usize::MAX)
        };
        let mut regions: Vec<(&String, RegionScore)> =
            scores.iter().map(|(region, score)| (region, *score)).collect();
        // A better place before is worth a margin, so that the tail does not flap either.
        let weighed = |region: &str, score: f64| match place(region) {
            usize::MAX => score * (1.0 + MARGIN),
            place => score * (1.0 + MARGIN * (place.min(8) as f64) / 8.0),
        };
        regions.sort_by(|(a, x), (b, y)| {
            (y.healthy.cmp(&x.healthy))
                .then(weighed(a, x.score).total_cmp(&weighed(b, y.score)))
                .then(a.cmp(b))
        });
        let best = regions
            .iter()
            .min_by(|(_, x), (_, y)| (y.healthy.cmp(&x.healthy)).then(x.score.total_cmp(&y.score)));
        let mut sorted: Vec<String> = regions.iter().map(|(region, _)| (*region).clone()).collect();
        let Some((best, best_score)) = best.map(|(region, score)| ((*region).clone(), *score))
        else {
            return sorted;
        };
        let first = match primary.and_then(|primary| Some((primary, scores.get(primary)?))) {
            Some((primary, current)) if current.healthy || !best_score.healthy => {
                self.stays_or(primary, *current, &best, best_score, now)
            }
            _ => best,
        };
        sorted.retain(|region| *region != first);
        sorted.insert(0, first);
        sorted
    }

    /// The primary, or the region that has earned its place.
    fn stays_or(
        &mut self,
        primary: &str,
        current: RegionScore,
        best: &str,
        best_score: RegionScore,
        now: Instant,
    ) -> String {
        let margin = if self.left.contains_key(best) { RETURN_MARGIN } else { MARGIN };
        if best == primary || best_score.score * (1.0 + margin) > current.score {
            self.challenger = None;
            return primary.to_owned();
        }
        let is_new = |region: &str| {
            self.met.get(region).is_none_or(|met| now.saturating_duration_since(*met) < WARM_UP)
        };
        if is_new(primary) || is_new(best) {
            return best.to_owned();
        }
        match &self.challenger {
            Some((challenger, since)) if challenger == best => {
                if now.saturating_duration_since(*since) >= HOLD {
                    return best.to_owned();
                }
            }
            _ => self.challenger = Some((best.to_owned(), now)),
        }
        primary.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        link::{Estimate, Sample},
        score::{REFERENCE_SIZE, Weights, predict},
    };
    use proptest::prelude::*;

    const TICK: Duration = Duration::from_millis(500);

    fn scores(list: &[(&str, f64)]) -> BTreeMap<String, RegionScore> {
        let score = |score| RegionScore { score, healthy: score < 100.0 };
        list.iter().map(|(region, value)| ((*region).to_owned(), score(*value))).collect()
    }

    fn settled(list: &[(&str, f64)]) -> (Order, Instant) {
        let (mut order, start) = (Order::default(), Instant::now());
        order.handle_scores(&scores(list), start);
        order.handle_scores(&scores(list), start + WARM_UP);
        (order, start + WARM_UP)
    }

    #[test]
    fn the_first_look_sorts_and_a_new_better_region_is_taken_at_once() {
        let (mut order, now) = settled(&[("a", 1.0), ("b", 2.0), ("c", 3.0)]);
        assert_eq!(order.regions(), ["a", "b", "c"]);
        assert!(order.handle_scores(&scores(&[("a", 1.0), ("b", 2.0), ("d", 0.5)]), now));
        assert_eq!(order.regions(), ["d", "a", "b"]);
    }

    #[test]
    fn a_clearly_better_region_takes_over_after_a_moment() {
        let (mut order, now) = settled(&[("a", 1.0), ("b", 2.0)]);
        let swapped = scores(&[("a", 5.0), ("b", 2.0)]);
        assert!(!order.handle_scores(&swapped, now));
        assert!(!order.handle_scores(&swapped, now + HOLD - TICK));
        assert!(order.handle_scores(&swapped, now + HOLD));
        assert_eq!(order.regions(), ["b", "a"]);
        // Back again only when it is better by far.
        let hardly = scores(&[("a", 1.5), ("b", 2.0)]);
        assert!(!order.handle_scores(&hardly, now + HOLD * 2));
        assert!(!order.handle_scores(&hardly, now + HOLD * 10));
        let clearly = scores(&[("a", 1.0), ("b", 2.0)]);
        order.handle_scores(&clearly, now + HOLD * 11);
        assert!(order.handle_scores(&clearly, now + HOLD * 12));
    }

    #[test]
    fn a_region_that_cannot_be_asked_is_left_at_once() {
        let (mut order, now) = settled(&[("a", 1.0), ("b", 2.0), ("c", 3.0)]);
        assert!(order.handle_scores(&scores(&[("a", 200.0), ("b", 2.0), ("c", 3.0)]), now));
        assert_eq!(order.regions(), ["b", "c", "a"]);
        assert!(order.handle_scores(&scores(&[("c", 3.0)]), now));
        assert_eq!(order.regions(), ["c"]);
        order.handle_scores(&BTreeMap::new(), now);
        assert_eq!(order.primary(), None);
    }

    #[test]
    fn an_interrupted_lead_counts_from_the_start() {
        let (mut order, now) = settled(&[("a", 1.0), ("b", 2.0)]);
        for second in 0..20_u32 {
            let a = if second % 2 == 0 { 3.0 } else { 2.0 };
            let at = now + Duration::from_secs(1) * second;
            assert!(!order.handle_scores(&scores(&[("a", a), ("b", 2.0)]), at));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// Ten minutes on the three classical links with 20 % jitter on everything that is measured:
        /// the right primary throughout, and so at most one switch in any minute.
        #[test]
        fn jitter_does_not_flap_the_order(seed: u64) {
            let mut random = seed | 1;
            let mut noise = || {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                1.0 + 0.2 * ((random >> 11) as f64 / (1_u64 << 52) as f64 - 1.0)
            };
            let links = [("us-east", 50.0, 100.0), ("us-west", 60.0, 90.0), ("eu", 150.0, 25.0)];
            let mut estimates = vec![Estimate::default(); links.len()];
            let (mut order, start) = (Order::default(), Instant::now());
            let mut switches = Vec::new();
            for second in 0..600_u32 {
                let now = start + Duration::from_secs(1) * second;
                let mut scores = BTreeMap::new();
                for (estimate, (region, ms, mbit)) in estimates.iter_mut().zip(links) {
                    let rtt = Duration::from_secs_f64(ms * noise() / 1e3);
                    estimate.handle_sample(Sample::Rtt(rtt), now);
                    if second % 5 == 0 {
                        let bytes = (mbit * noise() * 125_000.0) as u64;
                        let elapsed = Duration::from_secs(1);
                        estimate.handle_sample(Sample::Goodput { bytes, elapsed }, now);
                    }
                    let belief = estimate.belief(now);
                    let score = predict(&belief, REFERENCE_SIZE, 0).score(Weights::default());
                    scores.insert(region.to_owned(), RegionScore { score, healthy: true });
                }
                if order.handle_scores(&scores, now) {
                    switches.push(second);
                }
            }
            let settled: Vec<_> = switches.iter().filter(|second| **second > 3).collect();
            prop_assert!(settled.windows(2).all(|pair| pair[1] - pair[0] >= 60), "{switches:?}");
        }
    }
}
