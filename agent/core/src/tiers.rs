//! The tiers of this agent's chain as sources: what is believed of the way to each, and whether it is
//! asked.
//!
//! They are measured by the requests that they answer, and scored as peers are. A tier that failed is
//! asked by nobody but one probe in the background, so that no build waits to find out whether it is
//! back; pauses between probes double, and are never shorter than [`LEAST_PAUSE`].

use crate::{
    backend::TierName,
    health::{Breaker, Fault, Health},
    link::{Belief, Estimate, Sample},
    outbox::Terms,
    peers::Over,
    plan::{Offer, Who},
    score::predict,
};
use std::time::{Duration, Instant};

/// Shortest time between two probes of one tier.
pub const LEAST_PAUSE: Duration = Duration::from_secs(1);
/// After this without an answer, the way to a tier is measured anew.
const STALE: Duration = Duration::from_secs(60);
/// After this without an answer, a first probe counts as lost.
const LOST: Duration = Duration::from_secs(10);
/// Wrong blobs from which on a tier is taken to be broken, and not one of its blobs.
const MANY_WRONG: u32 = 3;

/// A tier, by its place in the chain, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TierId(pub u8);

/// One tier.
#[derive(Clone, Debug)]
pub struct Tier {
    /// How it is shown.
    pub name: TierName,
    /// Requests of this agent that it is working on.
    pub queue: u32,
    estimate: Estimate,
    breaker: Breaker,
    used: Option<Instant>,
    probed: Option<Instant>,
    wrong: u32,
}

impl Tier {
    /// Whether it can be asked. It is half open while its probe is due or under way.
    pub fn health(&self, now: Instant) -> Health {
        self.breaker.health(now)
    }

    /// What this agent has measured.
    pub fn belief(&self, now: Instant) -> Belief {
        self.estimate.belief(now)
    }

    /// Blobs that it gave and that were not what their names say.
    pub fn wrong(&self) -> u32 {
        self.wrong
    }

    /// It gave a blob that is not what its name says. Once, that is one bad blob, and the tier rests a
    /// moment; from the third on, nothing of it is believed for a while.
    fn handle_wrong(&mut self, dice: f64, now: Instant) {
        self.wrong = self.wrong.saturating_add(1);
        let many = self.wrong >= MANY_WRONG;
        let fault = if many { Fault::Hostile } else { Fault::Unavailable };
        self.breaker.handle_fault(fault, dice, now);
    }
}

/// All tiers of a chain.
#[derive(Clone, Debug, Default)]
pub struct Tiers(Vec<Tier>);

impl Tiers {
    /// Tiers of which nothing is known yet.
    pub fn new(names: impl IntoIterator<Item = TierName>) -> Self {
        let tier = |name| Tier {
            name,
            queue: 0,
            estimate: Estimate::default(),
            breaker: Breaker::default(),
            used: None,
            probed: None,
            wrong: 0,
        };
        Self(names.into_iter().take(usize::from(u8::MAX)).map(tier).collect())
    }

    // -- getters --

    /// One tier.
    pub fn get(&self, id: TierId) -> Option<&Tier> {
        self.0.get(usize::from(id.0))
    }

    /// All of them, as in the chain.
    pub fn iter(&self) -> impl Iterator<Item = (TierId, &Tier)> {
        (0..).map(TierId).zip(&self.0)
    }

    /// Whether a tier may be asked for what somebody waits for.
    pub fn is_open_to(&self, id: TierId, now: Instant) -> bool {
        self.get(id).is_some_and(|tier| tier.health(now) == Health::Closed)
    }

    /// The sources that may be asked; `holds` says of each whether it has the thing.
    pub fn offers<'a>(
        &'a self,
        holds: &'a dyn Fn(Who) -> Option<bool>,
        now: Instant,
    ) -> impl Iterator<Item = Offer<'a>> {
        self.iter().map(move |(id, tier)| Offer {
            who: Who::Tier(id),
            region: &tier.name.place,
            health: match tier.health(now) {
                // Only the probe finds out.
                Health::HalfOpen => Health::Open(Duration::ZERO),
                health => health,
            },
            link: tier.belief(now),
            queue: tier.queue,
            holds: holds(Who::Tier(id)),
            unused: tier.used.map(|used| now.saturating_duration_since(used)),
        })
    }

    // -- what came in --

    fn tier(&mut self, id: TierId) -> Option<&mut Tier> {
        self.0.get_mut(usize::from(id.0))
    }

    /// A request was answered: this is what it showed of the way.
    pub fn handle_sample(&mut self, id: TierId, sample: Sample, now: Instant) {
        if let Some(tier) = self.tier(id) {
            tier.estimate.handle_sample(sample, now);
        }
    }

    /// A request goes out.
    pub fn handle_asked(&mut self, id: TierId, now: Instant) {
        if let Some(tier) = self.tier(id) {
            tier.queue = tier.queue.saturating_add(1);
            tier.used = Some(now);
        }
    }

    /// The request is over. `dice` is a random number from 0 to 1.
    pub fn handle_over(&mut self, id: TierId, over: Over, dice: f64, now: Instant) {
        let Some(tier) = self.tier(id) else { return };
        tier.queue = tier.queue.saturating_sub(1);
        match over {
            // An answer that was under way when others failed is no sign that it is back.
            Over::Answered if tier.health(now) != Health::Closed => {}
            Over::Answered => tier.breaker.handle_answer(),
            Over::Failed(Fault::Hostile) => tier.handle_wrong(dice, now),
            Over::Failed(fault) => tier.breaker.handle_fault(fault, dice, now),
            Over::Dropped => {}
        }
    }

    /// A tier to probe now, because it failed and may be back, or was not heard of for long. The
    /// caller probes it, and says with [`Tiers::handle_probed`] what came of it.
    pub fn poll_probe(&mut self, now: Instant) -> Option<TierId> {
        let since = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at));
        let wanted = |tier: &Tier| {
            since(tier.probed).is_none_or(|passed| passed >= LEAST_PAUSE)
                && match tier.health(now) {
                    Health::Closed => {
                        let belief = tier.belief(now);
                        let stale = belief.rtt.is_none() || belief.rtt_age >= STALE;
                        stale && since(tier.probed).is_none_or(|passed| passed >= LOST)
                    }
                    Health::HalfOpen => true,
                    Health::Open(_) => false,
                }
        };
        let at = self.0.iter().position(wanted)?;
        let tier = &mut self.0[at];
        tier.probed = Some(now);
        tier.breaker.handle_asked(now);
        Some(TierId(at as u8))
    }

    /// A probe is over: it took so long, or failed.
    pub fn handle_probed(
        &mut self,
        id: TierId,
        answer: Result<Duration, Fault>,
        dice: f64,
        now: Instant,
    ) {
        let Some(tier) = self.tier(id) else { return };
        match answer {
            Ok(rtt) => {
                tier.breaker.handle_answer();
                tier.estimate.handle_sample(Sample::Rtt(rtt), now);
            }
            Err(fault) => tier.breaker.handle_fault(fault, dice, now),
        }
    }
}

/// Seconds that it is expected to take to have blobs of these sizes, in bytes, from tiers that hold them as
/// far as their terms go: each from the one that has it soonest. `None` when one of the blobs is in none.
pub fn seconds_from(holders: &[(Terms, Belief)], sizes: &[u64]) -> Option<f64> {
    let soonest = |size: u64| {
        let takers = holders.iter().enumerate().filter(|(_, (terms, _))| terms.takes(size));
        let seconds = takers.map(|(at, (_, link))| (at, predict(link, size, 0).seconds()));
        seconds.min_by(|one, other| one.1.total_cmp(&other.1))
    };
    let mut shares = vec![None; holders.len()];
    for size in sizes {
        let share = &mut shares[soonest(*size)?.0];
        *share = Some(share.unwrap_or(0_u64).saturating_add(*size));
    }
    if sizes.is_empty() {
        let alone = holders.iter().map(|(_, link)| predict(link, 0, 0).seconds());
        return alone.min_by(f64::total_cmp);
    }
    let asked = holders.iter().zip(shares);
    Some(asked.filter_map(|((_, link), share)| Some(predict(link, share?, 0).seconds())).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::TierKind,
        outbox::Writing,
        plan::{Policy, plan},
    };
    use proptest::prelude::*;

    const REDIS: TierId = TierId(0);
    const S3: TierId = TierId(1);
    const MIDDLE: f64 = 0.5;
    const FAILED: Over = Over::Failed(Fault::Unavailable);
    const WRONG: Over = Over::Failed(Fault::Hostile);

    fn tiers() -> Tiers {
        let name = |kind, place: &str| TierName { kind, place: place.into() };
        Tiers::new([name(TierKind::Redis, "redis://h:1"), name(TierKind::S3, "s3://bucket")])
    }

    fn order(tiers: &Tiers, size: u64, now: Instant) -> Vec<Who> {
        let offers = tiers.offers(&|_| None, now);
        plan(offers, size, None, &Policy::default(), 1.0).steps.iter().map(|s| s.who).collect()
    }

    fn measured(now: Instant) -> Tiers {
        let mut tiers = tiers();
        for (id, ms, goodput) in [(REDIS, 1, 5_000_000), (S3, 40, 80_000_000)] {
            tiers.handle_sample(id, Sample::Rtt(Duration::from_millis(ms)), now);
            let elapsed = Duration::from_secs(1);
            tiers.handle_sample(id, Sample::Goodput { bytes: goodput, elapsed }, now);
        }
        tiers
    }

    #[test]
    fn what_is_measured_puts_them_in_order_and_not_the_chain() {
        let now = Instant::now();
        let tiers = measured(now);
        assert_eq!(order(&tiers, 1000, now), [Who::Tier(REDIS), Who::Tier(S3)]);
        assert_eq!(order(&tiers, 64 << 20, now), [Who::Tier(S3), Who::Tier(REDIS)]);
    }

    #[test]
    fn one_that_is_dead_for_an_hour_is_probed_at_most_once_a_second_and_asked_by_nobody() {
        let start = Instant::now();
        let mut tiers = measured(start);
        tiers.handle_asked(S3, start);
        tiers.handle_over(S3, FAILED, MIDDLE, start);
        let (mut now, mut probes, mut last) = (start, 0, None::<Instant>);
        while now < start + Duration::from_secs(3600) {
            assert_eq!(order(&tiers, 1 << 20, now), [Who::Tier(REDIS)]);
            // The other one goes on.
            tiers.handle_sample(REDIS, Sample::Rtt(Duration::from_millis(1)), now);
            while let Some(id) = tiers.poll_probe(now) {
                assert_eq!(id, S3);
                assert!(last.is_none_or(|last| now - last >= LEAST_PAUSE));
                (probes, last) = (probes + 1, Some(now));
                tiers.handle_probed(id, Err(Fault::Unavailable), 0.0, now);
            }
            now += Duration::from_millis(100);
        }
        assert!((50..200).contains(&probes), "{probes}");
        while tiers.poll_probe(now).is_none() {
            now += Duration::from_secs(1);
        }
        tiers.handle_probed(S3, Ok(Duration::from_millis(40)), MIDDLE, now);
        assert_eq!(order(&tiers, 64 << 20, now)[0], Who::Tier(S3));
    }

    #[test]
    fn a_result_comes_from_the_tiers_that_take_its_blobs_or_from_none() {
        let link = |ms, goodput| Belief {
            rtt: Some(Duration::from_millis(ms)),
            goodput: Some(goodput),
            ..Belief::default()
        };
        let terms = |min_size, max_size| Terms { writing: Writing::Back, min_size, max_size };
        let redis = (terms(0, 1000), link(1, 10e6));
        let s3 = (terms(500, u64::MAX), link(50, 100e6));
        let seconds = |holders: &[(Terms, Belief)], sizes: &[u64]| seconds_from(holders, sizes);
        // Two round trips each; what both take comes from the one that has it soonest.
        assert_eq!(seconds(&[redis, s3], &[600]), Some(0.002 + 600.0 / 10e6));
        let both = seconds(&[redis, s3], &[100, 200, 100_000_000]).unwrap();
        assert!((both - (0.002 + 300.0 / 10e6 + 0.1 + 1.0)).abs() < 1e-9, "{both}");
        assert_eq!(seconds(&[redis], &[100, 100_000_000]), None, "it never got the large one");
        assert_eq!(seconds(&[s3], &[100, 100_000_000]), None, "nor that one the small one");
        assert_eq!(seconds(&[s3, redis], &[]), Some(0.002));
        assert_eq!(seconds(&[], &[]), None);
        assert_eq!(seconds(&[], &[1]), None);
    }

    #[test]
    fn a_wrong_blob_costs_a_moment_and_many_cost_long() {
        let mut now = Instant::now();
        let mut tiers = measured(now);
        for _ in 0..MANY_WRONG {
            tiers.handle_over(S3, WRONG, MIDDLE, now);
            assert!(!tiers.is_open_to(S3, now));
            now += Duration::from_secs(2);
            if tiers.poll_probe(now) == Some(S3) {
                tiers.handle_probed(S3, Ok(Duration::from_millis(40)), MIDDLE, now);
            }
        }
        assert!(!tiers.is_open_to(S3, now));
        assert!(tiers.poll_probe(now + Duration::from_secs(200)) != Some(S3));
        assert!(tiers.is_open_to(REDIS, now));
    }

    #[test]
    fn nothing_known_or_long_silence_is_a_reason_to_probe() {
        let mut now = Instant::now();
        let mut tiers = tiers();
        assert_eq!((tiers.poll_probe(now), tiers.poll_probe(now)), (Some(REDIS), Some(S3)));
        assert_eq!(tiers.poll_probe(now), None, "both are under way");
        for id in [REDIS, S3] {
            tiers.handle_probed(id, Ok(Duration::from_millis(3)), MIDDLE, now);
        }
        now += STALE / 2;
        assert_eq!(tiers.poll_probe(now), None);
        assert_eq!(tiers.poll_probe(now + STALE), Some(REDIS));
    }

    proptest! {
        #[test]
        fn whatever_happens_probes_keep_their_distance(
            events in prop::collection::vec((0u8..5, 0u64..3000, 0.0f64..1.0), 1..200),
        ) {
            let mut tiers = tiers();
            let mut now = Instant::now();
            let mut last = [None::<Instant>; 2];
            for (event, ms, dice) in events {
                now += Duration::from_millis(ms);
                match event {
                    0 => tiers.handle_over(S3, FAILED, dice, now),
                    1 => tiers.handle_over(S3, Over::Answered, dice, now),
                    2 => tiers.handle_probed(S3, Err(Fault::Unavailable), dice, now),
                    3 => tiers.handle_over(S3, WRONG, dice, now),
                    _ => tiers.handle_probed(S3, Ok(Duration::from_millis(1)), dice, now),
                }
                while let Some(id) = tiers.poll_probe(now) {
                    let last = &mut last[usize::from(id.0)];
                    prop_assert!(last.is_none_or(|last| now - last >= LEAST_PAUSE));
                    *last = Some(now);
                }
            }
        }
    }
}
