//! The plan for one fetch: the sources in the order in which they are asked, each with its reason.
//! A source is another agent, or storage that agents share; both are measured, and scored alike.
//!
//! Health comes before score, and what a person forces comes before both. The order within that is
//! the score at the size of the thing; the primary region keeps a small advantage, so that jitter
//! does not send every second blob elsewhere. Now and then a source that has not been used for long
//! is asked first, for something small, so that one that recovered is found again.

mod order;

pub use order::{Order, RegionScore};

use crate::{
    health::Health,
    link::{Basis, Belief},
    peer::PeerId,
    score::{Prediction, Weights, predict},
    tiers::TierId,
};
use std::{collections::BTreeMap, fmt, time::Duration};

/// Advantage of the sources in the primary region: their score counts so much less.
const PRIMARY_ADVANTAGE: f64 = 0.1;
/// Share of the plans that try something else first.
pub const EXPLORE_SHARE: f64 = 0.02;
/// Most sources that are asked for one thing at once from the beginning.
pub const MAX_TEAM: usize = 4;
/// Seconds that a fetch must be expected to take before several sources are asked at once.
const WORTH_A_TEAM: f64 = 0.3;
/// Part of the rate of all before it that a source must add to be asked beside them: a link that is
/// thin next to them is left to those who have no other.
const LEAST_SHARE: f64 = 0.1;
/// Largest thing in bytes that is fetched to explore.
const EXPLORE_SIZE: u64 = 1024 * 1024;
/// A source that was used within this needs no exploring.
const EXPLORE_AFTER: Duration = Duration::from_secs(30);
/// A source that is expected to take so many times as long as the best one is not explored.
const EXPLORE_FACTOR: f64 = 4.0;

/// Who may be asked: a source other than this disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Who {
    /// Another agent.
    Peer(PeerId),
    /// A tier of this agent's chain.
    Tier(TierId),
}

impl Who {
    /// The agent, if it is one.
    pub fn peer(self) -> Option<PeerId> {
        match self {
            Self::Peer(peer) => Some(peer),
            Self::Tier(_) => None,
        }
    }
}

/// A region, a single agent or a tier, as `PRIMARY_CACHE` names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// All agents of a region.
    Region(String),
    /// One agent.
    Peer(PeerId),
    /// A tier, by its place such as `s3://bucket/prefix`, or all of its kind, as in `s3`.
    Tier(String),
}

impl Target {
    fn covers(&self, offer: &Offer<'_>) -> bool {
        match (self, offer.who) {
            (Self::Region(region), Who::Peer(_)) => offer.region == region,
            (Self::Peer(peer), who) => who == Who::Peer(*peer),
            (Self::Tier(name), Who::Tier(_)) => {
                let scheme = offer.region.split(':').next().unwrap_or_default();
                offer.region == name || scheme == name || scheme.strip_suffix('s') == Some(name)
            }
            (Self::Region(_), Who::Tier(_)) | (Self::Tier(_), Who::Peer(_)) => false,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Region(name) | Self::Tier(name) => f.write_str(name),
            Self::Peer(peer) => write!(f, "peer {}", peer.short()),
        }
    }
}

/// What the configuration says about plans.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Policy {
    /// What counts how much.
    pub weights: Weights,
    /// Asked first while it can be asked (`PRIMARY_CACHE`).
    pub primary: Option<Target>,
    /// Nothing but the primary is asked (`FORCE_CACHE`); without a primary, nothing changes.
    pub force: bool,
    /// What can be had is waited for, though it may come later than it is built.
    pub waits: bool,
}

/// A source that may be asked, as it is known now.
#[derive(Clone, PartialEq, Debug)]
pub struct Offer<'a> {
    /// Who.
    pub who: Who,
    /// Its region; empty for none. A tier is a region of its own, which has its place for a name.
    pub region: &'a str,
    /// Whether it can be asked.
    pub health: Health,
    /// What is believed of the link.
    pub link: Belief,
    /// Fetches under way over it.
    pub queue: u32,
    /// Whether it has the thing, as far as it said.
    pub holds: Option<bool>,
    /// Since when it was not used; `None` for never.
    pub unused: Option<Duration>,
}

/// Why a step stands where it stands, or is left out.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Reason {
    /// By its score.
    Score,
    /// It is in the primary region, and no other is better by more than its advantage.
    Primary,
    /// `PRIMARY_CACHE` names it.
    Preferred,
    /// It has not been used for long and is tried.
    Explored,
    /// It failed; this is the request that shows whether it is back.
    HalfOpen,
    /// It turned up while others were being asked.
    Joined,
    /// It is fetching the thing itself, and gives what it has by now.
    Arriving,
    /// Left out: it failed, and is asked again after this.
    Open(Duration),
    /// Left out: `FORCE_CACHE` allows only the primary.
    NotForced,
    /// Left out: it says that it lacks the thing.
    Lacks,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Score => f.write_str("by its score"),
            Self::Primary => f.write_str("primary region"),
            Self::Preferred => f.write_str("named by PRIMARY_CACHE"),
            Self::Explored => f.write_str("explored: not used for a while"),
            Self::HalfOpen => f.write_str("half open: tried once after it failed"),
            Self::Joined => f.write_str("turned up while others were asked"),
            Self::Arriving => f.write_str("fetching it itself: gives what it has by now"),
            Self::Open(rest) => write!(f, "failed; asked again in {:.1} s", rest.as_secs_f64()),
            Self::NotForced => f.write_str("left out: FORCE_CACHE allows only the primary"),
            Self::Lacks => f.write_str("left out: it lacks it"),
        }
    }
}

/// One source of a plan.
#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    /// Who.
    pub who: Who,
    /// Its region; empty for none. That of a tier is its place.
    pub region: String,
    /// What is believed of the link.
    pub link: Belief,
    /// Whether it has the thing, as far as it said.
    pub holds: Option<bool>,
    /// Expected seconds.
    pub prediction: Prediction,
    /// Weighted seconds, by which it was put in order.
    pub score: f64,
    /// Why it stands here.
    pub reason: Reason,
}

impl Step {
    /// Whether the prediction rests on something measured, here or by others.
    pub fn is_known(&self) -> bool {
        self.link.basis != Basis::Assumed
    }

    /// Whether a source that turns up while `left` bytes are missing, for which this step was
    /// planned, is to be asked beside those that give `rate` bytes per second together: when the rest
    /// takes a while, and it adds to the whole what is worth a request.
    pub fn helps(&self, left: u64, rate: f64) -> bool {
        let rest = left as f64 / rate.max(1.0);
        let own = left as f64 / self.prediction.transfer.max(1e-9);
        rest >= WORTH_A_TEAM && own >= LEAST_SHARE * rate && self.prediction.latency < rest / 2.0
    }
}

/// Where to look for one thing.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Plan {
    /// Its size in bytes.
    pub size: u64,
    /// The sources to ask, in order.
    pub steps: Vec<Step>,
    /// Those that are not asked, with the reason.
    pub left_out: Vec<Step>,
}

impl Plan {
    /// How many of the first steps are to be asked at once: more than one when the first alone would
    /// take long, it holds the thing and the next ones do too, and each adds to the whole what is
    /// worth a request. Whoever is named by the configuration is asked alone.
    pub fn team(&self) -> usize {
        let Some(first) = self.steps.first() else { return 0 };
        let rate = |step: &Step| self.size as f64 / step.prediction.transfer.max(1e-9);
        let mut sum = rate(first);
        let helps = |step: &&Step| {
            let helps = step.holds == Some(true)
                && !matches!(step.reason, Reason::HalfOpen | Reason::Preferred)
                && rate(step) >= LEAST_SHARE * sum
                && step.prediction.latency < self.size as f64 / sum;
            sum += rate(step);
            helps
        };
        if first.prediction.seconds() < WORTH_A_TEAM
            || first.holds != Some(true)
            || matches!(first.reason, Reason::HalfOpen | Reason::Preferred)
        {
            return 1;
        }
        1 + self.steps[1..].iter().take(MAX_TEAM - 1).take_while(helps).count()
    }
}

/// Plans a fetch of `size` bytes. `primary` is the primary region; `dice` is a random number from 0
/// to 1 that decides about exploring, 1 for never.
pub fn plan<'a>(
    offers: impl IntoIterator<Item = Offer<'a>>,
    size: u64,
    primary: Option<&str>,
    policy: &Policy,
    dice: f64,
) -> Plan {
    let mut plan = Plan { size, ..Plan::default() };
    let mut ranked = Vec::new();
    for offer in offers {
        let unused = offer.unused;
        let (step, rank) = rank(&offer, size, primary, policy);
        match rank {
            Some(rank) => ranked.push((rank, step, unused)),
            None => plan.left_out.push(step),
        }
    }
    ranked.sort_by(|(a, x, _), (b, y, _)| a.compare(b).then(x.who.cmp(&y.who)));
    explore(&mut ranked, size, dice);
    plan.steps = ranked.into_iter().map(|(_, step, _)| step).collect();
    plan
}

/// What a step is sorted by.
#[derive(Clone, Copy, Debug)]
struct Rank {
    preferred: bool,
    half_open: bool,
    unsure: bool,
    score: f64,
}

impl Rank {
    fn compare(&self, other: &Self) -> std::cmp::Ordering {
        let class = |rank: &Self| (!rank.preferred, rank.half_open, rank.unsure);
        class(self).cmp(&class(other)).then(self.score.total_cmp(&other.score))
    }
}

fn rank(
    offer: &Offer<'_>,
    size: u64,
    primary: Option<&str>,
    policy: &Policy,
) -> (Step, Option<Rank>) {
    let prediction = predict(&offer.link, size, offer.queue);
    let score = prediction.score(policy.weights);
    let named = policy.primary.as_ref().is_some_and(|target| target.covers(offer));
    let is_primary = !offer.region.is_empty() && primary == Some(offer.region);
    let out = if policy.force && policy.primary.is_some() && !named {
        Some(Reason::NotForced)
    } else if offer.holds == Some(false) {
        Some(Reason::Lacks)
    } else {
        match offer.health {
            Health::Open(rest) => Some(Reason::Open(rest)),
            Health::Closed | Health::HalfOpen => None,
        }
    };
    let half_open = offer.health == Health::HalfOpen;
    let reason = out.unwrap_or(match (named, half_open, is_primary) {
        (_, true, _) => Reason::HalfOpen,
        (true, ..) => Reason::Preferred,
        (_, _, true) => Reason::Primary,
        _ => Reason::Score,
    });
    let step = Step {
        who: offer.who,
        region: offer.region.to_owned(),
        link: offer.link,
        holds: offer.holds,
        prediction,
        score,
        reason,
    };
    let rank = Rank {
        preferred: named && !half_open,
        half_open,
        unsure: offer.holds.is_none(),
        score: if is_primary { score * (1.0 - PRIMARY_ADVANTAGE) } else { score },
    };
    (step, out.is_none().then_some(rank))
}

/// Puts a source first that has not been used for a while, if this thing is cheap enough to try.
fn explore(ranked: &mut [(Rank, Step, Option<Duration>)], size: u64, dice: f64) {
    if dice >= EXPLORE_SHARE || size > EXPLORE_SIZE {
        return;
    }
    let Some((first, best, _)) = ranked.first().cloned() else { return };
    if first.preferred {
        return;
    }
    let limit = best.prediction.seconds() * EXPLORE_FACTOR;
    let worth = |(rank, step, unused): &(Rank, Step, Option<Duration>)| {
        !rank.half_open
            && rank.unsure == first.unsure
            && step.region != best.region
            && unused.is_none_or(|unused| unused >= EXPLORE_AFTER)
            && step.prediction.seconds() <= limit
    };
    if let Some(at) = ranked.iter().position(worth) {
        ranked[..=at].rotate_right(1);
        ranked[0].1.reason = Reason::Explored;
    }
}

/// The score of each region at the reference size: that of its best source.
pub fn region_scores<'a>(
    offers: impl IntoIterator<Item = Offer<'a>>,
    size: u64,
    weights: Weights,
) -> BTreeMap<String, RegionScore> {
    let mut regions: BTreeMap<String, RegionScore> = BTreeMap::new();
    for offer in offers.into_iter().filter(|offer| !offer.region.is_empty()) {
        // Without the queue: the order of regions is about links, the plan about this moment.
        let score = predict(&offer.link, size, 0).score(weights);
        let healthy = offer.health == Health::Closed;
        let here = RegionScore { score, healthy };
        let known = regions.entry(offer.region.to_owned()).or_insert(here);
        if (here.healthy, -here.score) > (known.healthy, -known.score) {
            *known = here;
        }
    }
    regions
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: PeerId = PeerId([1; 32]);
    const B: PeerId = PeerId([2; 32]);
    const C: PeerId = PeerId([3; 32]);
    const NEVER: f64 = 1.0;

    fn offer(peer: PeerId, region: &'static str, rtt_ms: u64) -> Offer<'static> {
        let link = Belief {
            rtt: Some(Duration::from_millis(rtt_ms)),
            goodput: Some(12.5e6),
            basis: Basis::Measured,
            ..Belief::default()
        };
        Offer {
            who: Who::Peer(peer),
            region,
            health: Health::Closed,
            link,
            queue: 0,
            holds: Some(true),
            unused: None,
        }
    }

    fn three() -> [Offer<'static>; 3] {
        [offer(A, "us-east", 50), offer(B, "us-west", 100), offer(C, "eu", 150)]
    }

    fn order(plan: &Plan) -> Vec<PeerId> {
        plan.steps.iter().filter_map(|step| step.who.peer()).collect()
    }

    fn planned(offers: &[Offer<'static>], policy: &Policy) -> Plan {
        plan(offers.iter().cloned(), 1000, None, policy, NEVER)
    }

    fn planned_for(offers: &[Offer<'static>], size: u64) -> Plan {
        plan(offers.iter().cloned(), size, None, &Policy::default(), NEVER)
    }

    fn team(offers: &[Offer<'static>], size: u64, policy: &Policy) -> usize {
        plan(offers.iter().cloned(), size, None, policy, NEVER).team()
    }

    #[test]
    fn several_sources_are_asked_at_once_for_what_takes_long() {
        let policy = Policy::default();
        assert_eq!(team(&three(), 100 << 20, &policy), 3);
        assert_eq!(team(&three(), 10_000, &policy), 1, "one answers before two could share");
        assert_eq!(team(&[], 1 << 20, &policy), 0);
        // One that may not have it, one that is slow beside the others, one that was named.
        let mut offers = three();
        offers[1].holds = None;
        assert_eq!(team(&offers, 100 << 20, &policy), 2);
        let mut offers = three();
        offers[2].link.goodput = Some(1e6);
        assert_eq!(team(&offers, 100 << 20, &policy), 2);
        let named = Policy { primary: Some(Target::Region("eu".into())), ..Policy::default() };
        assert_eq!(team(&three(), 100 << 20, &named), 1);
    }

    #[test]
    fn a_source_that_turns_up_helps_when_it_adds_something_while_there_is_time() {
        let left = 10 << 20;
        let step = &planned_for(&[offer(A, "us-east", 50)], left).steps[0];
        assert!(step.helps(left, 12.5e6) && step.helps(left, 0.0));
        assert!(!step.helps(left, 200e6), "a drop in the sea");
        let left = 1 << 20;
        let step = &planned_for(&[offer(A, "us-east", 50)], left).steps[0];
        assert!(!step.helps(left, 12.5e6), "it is over in a moment");
    }

    #[test]
    fn the_score_decides_and_health_comes_before_it() {
        let mut offers = three();
        assert_eq!(order(&planned(&offers, &Policy::default())), [A, B, C]);
        offers[0].health = Health::HalfOpen;
        assert_eq!(order(&planned(&offers, &Policy::default())), [B, C, A]);
        offers[1].health = Health::Open(Duration::from_secs(3));
        let plan = planned(&offers, &Policy::default());
        assert_eq!(order(&plan), [C, A]);
        assert_eq!(plan.left_out[0].reason.to_string(), "failed; asked again in 3.0 s");
    }

    #[test]
    fn a_known_holder_comes_before_one_that_did_not_say_and_one_that_lacks_it_is_left_out() {
        let mut offers = three();
        offers[0].holds = None;
        offers[1].holds = Some(false);
        let plan = planned(&offers, &Policy::default());
        assert_eq!(order(&plan), [C, A]);
        assert_eq!(plan.left_out[0].reason, Reason::Lacks);
    }

    #[test]
    fn load_moves_a_fetch_elsewhere() {
        let mut offers = three();
        offers[0].queue = 20;
        let plan = plan(offers, 10 << 20, None, &Policy::default(), NEVER);
        assert_eq!(order(&plan), [B, C, A]);
    }

    #[test]
    fn primary_cache_is_preferred_while_it_can_be_asked() {
        let policy = Policy { primary: Some(Target::Region("eu".into())), ..Policy::default() };
        let mut offers = three();
        assert_eq!(order(&planned(&offers, &policy)), [C, A, B]);
        offers[2].health = Health::Open(Duration::from_secs(1));
        assert_eq!(order(&planned(&offers, &policy)), [A, B]);
    }

    #[test]
    fn force_cache_leaves_all_others_out() {
        let primary = Some(Target::Peer(B));
        let policy = Policy { primary, force: true, ..Policy::default() };
        let plan = planned(&three(), &policy);
        assert_eq!(order(&plan), [B]);
        assert!(plan.left_out.iter().all(|step| step.reason == Reason::NotForced));
        let without = Policy { force: true, ..Policy::default() };
        assert_eq!(order(&planned(&three(), &without)), [A, B, C]);
    }

    #[test]
    fn a_tier_stands_where_its_score_puts_it_and_can_be_named() {
        let tier =
            |region: &'static str, ms| Offer { who: Who::Tier(TierId(0)), ..offer(A, region, ms) };
        let who = |policy: &Policy, ms| {
            let offers = three().into_iter().chain([tier("rediss://host:6379", ms)]);
            plan(offers, 1000, None, policy, NEVER).steps[0].who
        };
        let policy = Policy::default();
        assert_eq!(who(&policy, 10), Who::Tier(TierId(0)));
        assert_eq!(who(&policy, 60), Who::Peer(A));
        for name in ["redis", "rediss://host:6379"] {
            let primary = Some(Target::Tier(name.into()));
            let named = Policy { primary, ..Policy::default() };
            assert_eq!(who(&named, 500), Who::Tier(TierId(0)), "{name}");
        }
        let other = Policy { primary: Some(Target::Tier("s3".into())), ..Policy::default() };
        assert_eq!(who(&other, 60), Who::Peer(A));
    }

    #[test]
    fn the_primary_region_keeps_its_place_against_one_that_is_hardly_better() {
        let offers = || [offer(A, "us-east", 50), offer(B, "us-west", 48)];
        let primary = Some("us-east");
        let near = plan(offers(), 1000, primary, &Policy::default(), NEVER);
        assert_eq!((order(&near), near.steps[0].reason), (vec![A, B], Reason::Primary));
        assert_eq!(order(&plan(offers(), 1000, None, &Policy::default(), NEVER)), [B, A]);
    }

    #[test]
    fn an_unused_source_is_explored_with_something_small() {
        let mut offers = three();
        offers[1].unused = Some(Duration::from_secs(1));
        let policy = Policy::default();
        let small = plan(offers.clone(), 1000, None, &policy, 0.0);
        assert_eq!((order(&small), small.steps[0].reason), (vec![C, A, B], Reason::Explored));
        assert_eq!(order(&plan(offers.clone(), 10 << 20, None, &policy, 0.0)), [A, B, C]);
        let named = Policy { primary: Some(Target::Peer(A)), ..Policy::default() };
        assert_eq!(order(&plan(offers, 1000, None, &named, 0.0)), [A, B, C]);
    }

    #[test]
    fn a_region_is_as_good_as_its_best_agent_that_can_be_asked() {
        let mut near = offer(A, "us", 10);
        near.health = Health::Open(Duration::from_secs(1));
        let scores = region_scores(
            [near, offer(B, "us", 90), offer(C, "us", 50), offer(PeerId([4; 32]), "", 1)],
            1000,
            Weights::default(),
        );
        assert_eq!(scores.len(), 1);
        let expected = predict(&offer(C, "us", 50).link, 1000, 0).score(Weights::default());
        assert_eq!(scores["us"], RegionScore { score: expected, healthy: true });
    }

    proptest! {
        #[test]
        fn every_offer_is_in_the_plan_once(
            offers in prop::collection::vec((0u64..500, 0u8..3, 0u8..3, 0u8..4), 0..20),
            dice in 0.0f64..1.0, force: bool, size in 0u64..1 << 40,
        ) {
            const REGIONS: [&str; 4] = ["", "us", "eu", "ap"];
            let offers: Vec<Offer<'_>> = offers
                .iter()
                .enumerate()
                .map(|(n, (ms, health, holds, region))| Offer {
                    health: match health {
                        0 => Health::Closed,
                        1 => Health::HalfOpen,
                        _ => Health::Open(Duration::from_secs(1)),
                    },
                    holds: [None, Some(true), Some(false)][usize::from(*holds)],
                    ..offer(PeerId([n as u8; 32]), REGIONS[usize::from(*region)], *ms)
                })
                .collect();
            let count = offers.len();
            let policy =
                Policy { primary: Some(Target::Region("us".into())), force, ..Policy::default() };
            let plan = plan(offers, size, Some("eu"), &policy, dice);
            let mut all: Vec<Who> =
                plan.steps.iter().chain(&plan.left_out).map(|step| step.who).collect();
            all.sort_unstable();
            all.dedup();
            prop_assert_eq!(all.len(), count);
            prop_assert!(plan.steps.iter().all(|step| !matches!(step.reason, Reason::Open(_))));
        }
    }
}
