use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const HOUR: u64 = 3600;

fn limits(max_bytes: u64) -> Limits {
    Limits { max_bytes, min_free: 0, max_age: None, grace: Duration::ZERO }
}

fn holding(part: u32, idle: u64, rebuild: u64, refetch: Option<u64>) -> Holding {
    Holding {
        bytes: 0,
        parts: vec![part],
        whole: true,
        idle: Duration::from_secs(idle),
        rebuild: Duration::from_secs(rebuild),
        refetch: refetch.map(Duration::from_secs),
        kept: false,
    }
}

fn parts(count: usize) -> Vec<Part> {
    vec![Part { bytes: 1000, kept: false }; count]
}

fn order(holdings: &[Holding]) -> Vec<(usize, Why)> {
    let gone = choose(holdings, &parts(holdings.len()), &limits(0), u64::MAX);
    gone.iter().map(|gone| (gone.holding, gone.why)).collect()
}

#[test]
fn what_others_have_goes_first_and_what_took_long_and_nobody_has_goes_last() {
    let holdings = [
        holding(0, HOUR, 600, None),
        holding(1, HOUR, 600, Some(1)),
        holding(2, HOUR, 60, None),
        holding(3, 100 * HOUR, 600, None),
        Holding { whole: false, ..holding(4, 0, 600, None) },
        holding(5, HOUR, 600, Some(60)),
    ];
    let expected = [
        (4, Why::Incomplete),
        (1, Why::HeldElsewhere),
        (3, Why::LeastWorth),
        (2, Why::LeastWorth),
        (5, Why::HeldElsewhere),
        (0, Why::LeastWorth),
    ];
    assert_eq!(order(&holdings), expected);
}

#[test]
fn what_is_kept_in_use_or_shared_stays() {
    let mut holdings = [
        holding(0, HOUR, 1, None),
        holding(1, HOUR, 1, None),
        holding(2, 5, 1, None),
        holding(3, HOUR, 1, None),
    ];
    holdings[1].kept = true;
    // The blob of the first is also one of a result that stays; the blob of the last is promised, so that it
    // stays whole.
    holdings[1].parts.push(0);
    let mut parts = parts(4);
    parts[3].kept = true;
    let limits = Limits { grace: Duration::from_secs(60), ..limits(0) };
    let gone = choose(&holdings, &parts, &limits, u64::MAX);
    assert!(gone.iter().all(|gone| gone.parts.is_empty() && gone.bytes == 0), "{gone:?}");
    assert_eq!(gone.iter().map(|gone| gone.holding).collect::<Vec<_>>(), [0]);
}

#[test]
fn a_record_stays_known_as_long_as_others_have_what_it_names() {
    let elsewhere = Holding { bytes: 300, ..holding(0, HOUR, 9, Some(1)) };
    let hint = Holding { parts: Vec::new(), whole: false, ..elsewhere.clone() };
    let nobody = Holding { bytes: 300, ..holding(1, HOUR, 9, None) };
    let gone = choose(&[elsewhere, hint, nobody], &parts(2), &limits(0), u64::MAX);
    let told: Vec<_> = gone.iter().map(|gone| (gone.holding, gone.hint, gone.bytes)).collect();
    assert_eq!(told, [(0, true, 1000), (2, false, 1300)]);
}

#[test]
fn the_old_goes_although_there_is_room_and_nothing_else_does() {
    let holdings = [holding(0, 31, 9, None), holding(1, 29, 9, None), holding(2, 40, 9, Some(1))];
    let limits = Limits { max_age: Some(Duration::from_secs(30)), ..limits(u64::MAX) };
    let gone = choose(&holdings, &parts(3), &limits, 0);
    let told: Vec<_> = gone.iter().map(|gone| (gone.holding, gone.why, gone.hint)).collect();
    assert_eq!(told, [(2, Why::Expired, false), (0, Why::Expired, false)]);
}

#[test]
fn space_is_made_before_it_is_short_and_more_than_needed() {
    let limits = Limits { min_free: 100, ..limits(1000) };
    for (used, free, excess) in [
        (900, 5_000, 0),
        (951, 5_000, 101),
        (2_000, 5_000, 1_150),
        // The file system is shared: what others take is taken from ours.
        (500, 100, 75),
        (500, 700, 0),
        (500, 0, 160),
        (50, 0, 50),
    ] {
        assert_eq!(limits.excess(used, free), excess, "{used} used, {free} free");
    }
}

proptest! {
    #[test]
    fn what_goes_is_counted_once_and_no_more_goes_than_it_takes(
        all in prop::collection::vec((0_u64..99, prop::collection::btree_set(0_u32..12, 0..4), any::<bool>(), any::<bool>(), 0_u64..1000, 0_u64..99, prop::option::of(0_u64..9)), 0..20),
        sizes in prop::collection::vec((1_u64..1000, any::<bool>()), 12), excess in 0_u64..5000, grace in 0_u64..200,
    ) {
        let holdings: Vec<Holding> = all.into_iter().map(|(bytes, parts, whole, kept, idle, rebuild, refetch)| Holding {
            bytes, parts: parts.into_iter().collect(), whole, kept, idle: Duration::from_secs(idle),
            rebuild: Duration::from_secs(rebuild), refetch: refetch.map(Duration::from_secs),
        }).collect();
        let parts: Vec<Part> = sizes.into_iter().map(|(bytes, kept)| Part { bytes, kept }).collect();
        let limits = Limits { grace: Duration::from_secs(grace), ..limits(0) };
        let gone = choose(&holdings, &parts, &limits, excess);
        let mut seen = BTreeSet::new();
        let left: BTreeSet<usize> = (0..holdings.len()).filter(|at| gone.iter().all(|gone| gone.holding != *at)).collect();
        for one in &gone {
            let holding = &holdings[one.holding];
            prop_assert!(!holding.kept && holding.idle >= limits.grace);
            for part in &one.parts {
                prop_assert!(seen.insert(*part), "a blob goes twice");
                prop_assert!(!parts[*part as usize].kept);
                prop_assert!(left.iter().all(|at| !holdings[*at].parts.contains(part)), "a blob that something else needs");
            }
            let bytes: u64 = one.parts.iter().map(|part| parts[*part as usize].bytes).sum();
            prop_assert_eq!(one.bytes, bytes + if one.hint { 0 } else { holding.bytes });
        }
        let freed: u64 = gone.iter().map(|gone| gone.bytes).sum();
        if let Some(last) = gone.last() {
            prop_assert!(freed - last.bytes < excess, "one more than it takes");
        }
        if freed < excess {
            let gives = |holding: &Holding| holding.parts.is_empty() || holding.parts.iter().any(|part| !parts[*part as usize].kept);
            let may = holdings.iter().enumerate().filter(|(_, holding)| !holding.kept && holding.idle >= limits.grace && !holding.is_hint() && gives(holding));
            prop_assert_eq!(gone.len(), may.count(), "more might have gone");
        }
    }
}

/// Numbers that look random and are the same in every run (SplitMix64, Steele et al. 2014).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A result that builds ask for.
#[derive(Clone)]
struct Item {
    bytes: u64,
    rebuild: u64,
    refetch: Option<u64>,
    /// When it was last used, if it is in the cache.
    used: Option<u64>,
}

/// Builds of a repository for some weeks: each asks for the results of all tasks that it needs, most of
/// them those of the newest versions, some of a branch of days ago; tasks that many depend on change
/// seldom. A tenth of the tasks make up most of the time to build, another tenth most of the bytes.
/// A third of all results others have too.
fn trace(seed: u64) -> (Vec<Item>, Vec<(u64, usize)>) {
    let mut dice = Dice(seed);
    let (mut items, mut asked) = (Vec::new(), Vec::new());
    let tasks: Vec<(u64, u64, bool)> = (0..80)
        .map(|_| {
            let bytes = if dice.one_in(10) { 40_000 } else { 200 + dice.below(2_000) };
            let rebuild = if dice.one_in(10) { 600 } else { 2 + dice.below(30) };
            (bytes, rebuild, dice.one_in(3))
        })
        .collect();
    let mut versions: Vec<Vec<usize>> = vec![Vec::new(); tasks.len()];
    let mut now = 0;
    for build in 0..400_u64 {
        now += 600 + dice.below(3_000);
        let branch = dice.below(12);
        for (task, (bytes, rebuild, shared)) in tasks.iter().enumerate() {
            // The later tasks depend on more, and change more often.
            if build == 0 || dice.below(80 * 6) < task as u64 {
                let refetch = (*shared).then(|| 1 + bytes / 10_000);
                versions[task].push(items.len());
                items.push(Item { bytes: *bytes, rebuild: *rebuild, refetch, used: None });
            }
            let newest = versions[task].len() - 1;
            let back = if branch == 0 { dice.below(20) as usize } else { 0 };
            asked.push((now, versions[task][newest - back.min(newest)]));
        }
    }
    (items, asked)
}

/// Seconds that builds wait for what the cache had not, when `go` says which of the cached items go.
fn waited(seed: u64, capacity: u64, go: impl Fn(&[Item], &[usize], u64, u64) -> Vec<usize>) -> u64 {
    let (mut items, asked) = trace(seed);
    let (mut waited, mut used) = (0, 0);
    let limits = limits(capacity);
    for (now, at) in asked {
        let item = &mut items[at];
        if item.used.replace(now).is_none() {
            waited += item.refetch.unwrap_or(item.rebuild).min(item.rebuild);
            used += item.bytes;
        }
        let excess = limits.excess(used, u64::MAX / 2);
        if excess > 0 {
            let here: Vec<usize> =
                (0..items.len()).filter(|at| items[*at].used.is_some()).collect();
            for gone in go(&items, &here, now, excess) {
                items[gone].used = None;
                used -= items[gone].bytes;
            }
        }
    }
    waited
}

fn ours(items: &[Item], here: &[usize], now: u64, excess: u64) -> Vec<usize> {
    let parts: Vec<Part> =
        here.iter().map(|at| Part { bytes: items[*at].bytes, kept: false }).collect();
    let holdings: Vec<Holding> = (0..)
        .zip(here)
        .map(|(part, at)| {
            let item = &items[*at];
            holding(part, now - item.used.unwrap_or(now), item.rebuild, item.refetch)
        })
        .collect();
    let gone = choose(&holdings, &parts, &limits(0), excess);
    gone.iter().map(|gone| here[gone.holding]).collect()
}

fn least_recently_used(items: &[Item], here: &[usize], _: u64, excess: u64) -> Vec<usize> {
    let mut order = here.to_vec();
    order.sort_by_key(|at| items[*at].used);
    let mut freed = 0;
    order.retain(|at| {
        let goes = freed < excess;
        freed += items[*at].bytes;
        goes
    });
    order
}

#[test]
fn builds_wait_less_than_with_the_least_recently_used_going_first() {
    let mut ratios = Vec::new();
    for seed in 1..=2 {
        for capacity in [150_000, 400_000, 1_000_000] {
            let ours = waited(seed, capacity, ours);
            let lru = waited(seed, capacity, least_recently_used);
            let ratio = ours as f64 / lru as f64;
            println!("seed {seed}, {capacity} bytes: {ours} s, LRU {lru} s, {ratio:.2}");
            ratios.push(ratio);
        }
    }
    let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
    println!("mean {mean:.2}");
    assert!(mean < 0.7, "{ratios:.2?}");
    assert!(ratios.iter().all(|ratio| *ratio < 1.02), "{ratios:.2?}");
}
