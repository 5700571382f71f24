use super::*;
use crate::gossip::dice::Dice;
use proptest::prelude::*;

const CHUNK: u32 = 512 * 1024;

/// A source of the simulation.
#[derive(Clone, Debug)]
struct Peer {
    rtt: Duration,
    /// Bytes per second.
    rate: f64,
    /// What it is believed to give.
    believed: f64,
    lacks: BTreeSet<usize>,
    /// From when on it answers nothing, and the time after which that is noticed.
    dies: Option<(Duration, Duration)>,
    joins: Duration,
    /// When it tells that it has which item; from the beginning it has all but those that it lacks.
    grows: Option<Vec<(Duration, usize)>>,
}

impl Peer {
    fn new(rtt_ms: u64, mbit: f64) -> Self {
        Self {
            rtt: Duration::from_millis(rtt_ms),
            rate: mbit * 1e6 / 8.0,
            believed: mbit * 1e6 / 8.0,
            lacks: BTreeSet::new(),
            dies: None,
            joins: Duration::ZERO,
            grows: None,
        }
    }

    /// It gets one item after the other itself, at this rate, of `count`.
    fn growing(self, count: usize, mbit: f64) -> Self {
        let each = f64::from(CHUNK) / (mbit * 1e6 / 8.0);
        let told = |item| (Duration::from_secs_f64(each * (item + 1) as f64), item);
        Self { grows: Some((0..count).map(told).collect()), ..self }
    }
}

/// Times in milliseconds.
fn pace(rtt: u64, goodput: f64, patience: u64) -> Pace {
    let [rtt, patience] = [rtt, patience].map(Duration::from_millis);
    Pace { rtt, goodput, patience, alone: false }
}

#[test]
fn one_that_is_alone_is_asked_for_more_ahead_until_another_joins() {
    let now = Instant::now();
    let asked = |alone, beside| {
        let mut spread = Spread::new();
        (0..100).for_each(|_| _ = spread.add(CHUNK));
        let id = spread.join(Pace { alone, ..pace(150, 1e6, 100) }, now);
        if beside {
            spread.join(pace(150, 1e6, 100), now);
        }
        let polls = std::iter::repeat_with(|| spread.poll(id, now).len());
        polls.take_while(|count| *count > 0).sum::<usize>() as u64 * u64::from(CHUNK)
    };
    let ordinary = asked(false, false);
    assert!((1_150_000..1_150_000 + u64::from(CHUNK)).contains(&ordinary), "{ordinary}");
    assert_eq!(asked(true, true), ordinary);
    // Of what shrinks to a fifth, that is most of a second.
    let alone = asked(true, false);
    assert!(alone > ordinary * 2, "{alone} {ordinary}");
}

#[derive(Debug)]
struct Outcome {
    /// When the last item was there; `None` when some never came.
    took: Option<Duration>,
    /// Bytes that were sent beyond those that were needed.
    twice: u64,
    by: Vec<u64>,
}

/// Runs a transfer in virtual time; every source sends what it was asked for one after the other.
fn run(lens: &[u32], peers: &[Peer]) -> Outcome {
    #[derive(Debug)]
    enum Event {
        Join(usize),
        Answer(usize, usize),
        Offer(usize, usize),
        Gone(usize),
        Look,
    }
    let start = Instant::now();
    let mut spread = Spread::new();
    lens.iter().for_each(|len| {
        spread.add(*len);
    });
    let mut ids: Vec<Option<SourceId>> = vec![None; peers.len()];
    let mut busy_until = vec![Duration::ZERO; peers.len()];
    let mut by = vec![0; peers.len()];
    let mut events: BTreeMap<(Duration, u64), Event> = BTreeMap::new();
    let mut count = 0;
    let mut push = |events: &mut BTreeMap<_, _>, at: Duration, event| {
        count += 1;
        events.insert((at, count), event);
    };
    for (number, peer) in peers.iter().enumerate() {
        push(&mut events, peer.joins, Event::Join(number));
        for (at, item) in peer.grows.iter().flatten() {
            push(&mut events, *at, Event::Offer(number, *item));
        }
        if let Some((at, noticed)) = peer.dies {
            push(&mut events, at + noticed, Event::Gone(number));
        }
    }
    push(&mut events, Duration::ZERO, Event::Look);
    let (mut arrived, mut twice) = (vec![0_u32; lens.len()], 0);
    while let Some(((at, _), event)) = events.pop_first() {
        let now = start + at;
        match event {
            Event::Join(number) => {
                let peer = &peers[number];
                if peer.dies.is_some_and(|(dies, noticed)| dies + noticed <= at) {
                    continue;
                }
                let patience = Duration::from_millis(50) + peer.rtt * 2;
                let pace = Pace {
                    rtt: peer.rtt,
                    goodput: peer.believed,
                    patience,
                    alone: peers.len() == 1,
                };
                let Some(grows) = &peer.grows else {
                    ids[number] = Some(spread.join(pace, now));
                    continue;
                };
                let id = spread.join_without(pace, now);
                for (_, item) in grows.iter().filter(|(told, _)| *told <= at) {
                    spread.handle_offered(id, *item);
                }
                ids[number] = Some(id);
            }
            Event::Offer(number, item) => {
                if let Some(id) = ids[number] {
                    spread.handle_offered(id, item);
                }
            }
            Event::Gone(number) => {
                if let Some(id) = ids[number].take() {
                    spread.leave(id);
                }
            }
            Event::Answer(number, item) => {
                let Some(id) = ids[number] else { continue };
                if peers[number].lacks.contains(&item) {
                    spread.handle_absent(id, item, now);
                } else if spread.handle_arrived(id, item, now) {
                    arrived[item] += 1;
                    by[number] += u64::from(lens[item]);
                } else {
                    twice += u64::from(lens[item]);
                }
            }
            Event::Look => {
                let waits = ids.iter().any(Option::is_some) || peers.iter().any(|p| p.joins > at);
                if waits && at < Duration::from_secs(3600) {
                    push(&mut events, at + Duration::from_millis(50), Event::Look);
                }
            }
        }
        if spread.is_whole() {
            assert!(arrived.iter().all(|times| *times == 1), "each item counts once");
            return Outcome { took: Some(at), twice, by };
        }
        for (number, peer) in peers.iter().enumerate() {
            let Some(id) = ids[number] else { continue };
            for item in spread.poll(id, now) {
                let told = |grows: &Vec<(Duration, usize)>| {
                    grows.iter().any(|(told, other)| *other == item && *told <= at)
                };
                assert!(peer.grows.as_ref().is_none_or(told), "asked for what it does not have");
                let len = if peer.lacks.contains(&item) { 0.0 } else { f64::from(lens[item]) };
                let begins = busy_until[number].max(at + peer.rtt);
                busy_until[number] = begins + Duration::from_secs_f64(len / peer.rate);
                if peer.dies.is_none_or(|(dies, _)| busy_until[number] < dies) {
                    push(&mut events, busy_until[number], Event::Answer(number, item));
                }
            }
        }
        let over = ids.iter().flatten().all(|id| spread.is_exhausted(*id));
        let more = events.values().any(|event| matches!(event, Event::Join(_) | Event::Offer(..)));
        if over && !more {
            break;
        }
    }
    assert!(arrived.iter().all(|times| *times <= 1));
    Outcome { took: None, twice, by }
}

fn seconds(outcome: &Outcome) -> f64 {
    outcome.took.expect("all arrived").as_secs_f64()
}

#[test]
fn two_sources_give_the_sum_of_their_links() {
    let lens = vec![CHUNK; 200];
    let outcome = run(&lens, &[Peer::new(50, 50.0), Peer::new(150, 25.0)]);
    let ideal = 200.0 * f64::from(CHUNK) / (75e6 / 8.0);
    assert!(ideal / seconds(&outcome) > 0.96, "{outcome:?}, ideally {ideal} s");
    assert_eq!(outcome.twice, 0);
}

#[test]
fn a_wrong_belief_is_corrected_while_the_transfer_runs() {
    let lens = vec![CHUNK; 200];
    let (mut fast, mut slow) = (Peer::new(20, 90.0), Peer::new(20, 10.0));
    std::mem::swap(&mut fast.believed, &mut slow.believed);
    let outcome = run(&lens, &[fast, slow]);
    let ideal = 200.0 * f64::from(CHUNK) / (100e6 / 8.0);
    assert!(ideal / seconds(&outcome) > 0.85, "{outcome:?}, ideally {ideal} s");
}

#[test]
fn a_hopelessly_slow_source_is_left_alone() {
    let outcome = run(&[CHUNK; 8], &[Peer::new(10, 1000.0), Peer::new(300, 0.2)]);
    assert_eq!((outcome.by[1], outcome.twice), (0, 0));
}

#[test]
fn a_source_that_joins_late_takes_its_share() {
    let mut late = Peer::new(20, 100.0);
    late.joins = Duration::from_secs(2);
    let outcome = run(&[CHUNK; 100], &[Peer::new(20, 50.0), late]);
    let share = outcome.by[1] as f64 / (100.0 * f64::from(CHUNK));
    assert!(share > 0.45, "{outcome:?}");
}

#[test]
fn a_fast_source_of_a_part_gives_all_of_that_part() {
    let mut part = Peer::new(5, 1000.0);
    part.lacks = (0..50).collect();
    let outcome = run(&[CHUNK; 100], &[Peer::new(100, 25.0), part]);
    assert!(outcome.by[1] >= 49 * u64::from(CHUNK), "{outcome:?}");
}

#[test]
fn one_that_is_fetching_itself_gives_what_it_has_as_it_comes() {
    let near = Peer::new(1, 1000.0).growing(100, 25.0);
    let outcome = run(&[CHUNK; 100], &[near]);
    let alone = 100.0 * f64::from(CHUNK) / (25e6 / 8.0);
    assert!(seconds(&outcome) < alone * 1.02, "{outcome:?}, it had all after {alone} s");
    // Beside one who has everything, both together are faster, and nothing comes twice.
    let near = Peer::new(1, 1000.0).growing(100, 25.0);
    let outcome = run(&[CHUNK; 100], &[Peer::new(100, 25.0), near]);
    assert!(seconds(&outcome) < alone * 0.6, "{outcome:?}");
    assert!(outcome.twice <= 2 * u64::from(CHUNK), "{outcome:?}");
}

#[test]
fn what_comes_up_later_is_not_expected_of_one_that_has_told_what_it_has() {
    let now = Instant::now();
    let mut spread = Spread::new();
    spread.add(CHUNK);
    let pace = pace(0, 1e6, 50);
    let part = spread.join_without(pace, now);
    spread.add(CHUNK);
    assert_eq!(spread.poll(part, now), []);
    assert!(spread.is_exhausted(part));
    spread.handle_offered(part, 1);
    assert_eq!(spread.poll(part, now), [1]);
    // It said so, and gives nothing: the other one is asked for both.
    spread.handle_absent(part, 1, now);
    let all = spread.join(pace, now);
    assert_eq!([spread.poll(all, now), spread.poll(all, now)], [[1], [0]]);
    spread.handle_grown(part);
    spread.add(CHUNK);
    assert_eq!(spread.poll(part, now), [2], "it has everything now");
    spread.leave(part);
    assert!([0, 1, 2].into_iter().all(|item| spread.handle_arrived(all, item, now)));
    assert!(spread.is_whole());
}

#[test]
fn a_source_that_dies_costs_no_more_than_what_it_was_asked_for() {
    let mut dies = Peer::new(50, 50.0);
    dies.dies = Some((Duration::from_secs(3), Duration::from_secs(4)));
    let outcome = run(&[CHUNK; 100], &[dies, Peer::new(50, 50.0)]);
    // 3 s together, then alone; what the dead one owes is taken over before its end is noticed.
    let ideal = 3.0 + (100.0 * f64::from(CHUNK) - 3.0 * 100e6 / 8.0) / (50e6 / 8.0);
    assert!(seconds(&outcome) < ideal + 0.5, "{outcome:?}, ideally {ideal} s");
    assert_eq!(outcome.twice, 0);
}

#[test]
fn ten_thousand_small_blobs_are_handed_out_in_few_requests() {
    let now = Instant::now();
    let mut spread = Spread::new();
    (0..10_000).for_each(|_| {
        spread.add(2048);
    });
    let goodput = 50e6 / 8.0;
    let rtt = Duration::from_millis(100);
    let id = spread.join(Pace { rtt, goodput, patience: rtt, alone: false }, now);
    let handed = spread.poll(id, now);
    assert_eq!(handed, (0..MOST_ITEMS).collect::<Vec<_>>());
    assert!(spread.poll(id, now).len() > 500, "more than one request is under way");
}

#[test]
fn the_last_item_of_a_slow_source_is_asked_of_a_fast_one_too() {
    let now = Instant::now();
    let mut spread = Spread::new();
    spread.add(CHUNK);
    let pace = |mbit: f64| pace(10, mbit * 1e6 / 8.0, 50);
    let slow = spread.join(pace(1.0), now);
    assert_eq!(spread.poll(slow, now), [0]);
    let fast = spread.join(pace(1000.0), now);
    assert_eq!(spread.poll(fast, now), [0]);
    assert!(spread.handle_arrived(fast, 0, now));
    assert!(!spread.handle_arrived(slow, 0, now), "whoever was first counts");
    assert!(spread.is_whole());
}

#[test]
fn what_a_patch_is_to_bring_is_asked_of_others_once_that_is_late() {
    let now = Instant::now();
    let mut spread = Spread::new();
    spread.add(CHUNK);
    let patience = Duration::from_millis(50);
    let pace = Pace { rtt: patience, goodput: 1e6, patience, alone: false };
    let (patches, other) = (spread.join(pace, now), spread.join(pace, now));
    assert!(spread.claim(patches, &[0], now) && !spread.claim(other, &[0], now));
    assert_eq!(spread.poll(other, now), []);
    assert_eq!(spread.poll(other, now + Duration::from_secs(5)), [0]);
    spread.leave(patches);
    assert!(spread.handle_arrived(other, 0, now) && spread.is_whole());
}

fn peer() -> impl Strategy<Value = Peer> {
    let rates = (1_u64..300, 1.0..1000.0_f64, 0.1..10.0_f64);
    let dies = prop::option::of((0_u64..5000, 1_u64..5000));
    let lacks = prop::collection::btree_set(0_usize..120, 0..60);
    let grows = prop::collection::vec((0_u64..5000, 0_usize..120), 0..120);
    (rates, dies, 0_u64..3000, lacks, prop::option::of(grows)).prop_map(
        |((rtt, mbit, wrong), dies, joins, lacks, grows)| Peer {
            grows: grows.map(|told| {
                told.into_iter().map(|(at, item)| (Duration::from_millis(at), item)).collect()
            }),
            believed: mbit * wrong * 1e6 / 8.0,
            dies: dies
                .map(|(at, noticed)| (Duration::from_millis(at), Duration::from_millis(noticed))),
            joins: Duration::from_millis(joins),
            lacks,
            ..Peer::new(rtt, mbit)
        },
    )
}

proptest! {
    /// Whatever fails, joins and lacks: everything that a source which stays has arrives, once.
    #[test]
    fn nothing_is_lost_and_nothing_counts_twice(
        lens in prop::collection::vec(1_u32..(2 << 20), 1..120),
        mut peers in prop::collection::vec(peer(), 1..6),
        stays: bool,
    ) {
        if stays {
            let all = Peer { dies: None, lacks: BTreeSet::new(), ..peers[0].clone() };
            // Whoever gets everything sooner or later is as good, also if nobody else has it.
            let grows = all.grows.is_some().then(|| {
                (0..lens.len()).map(|item| (Duration::from_millis(item as u64 * 31), item)).collect()
            });
            peers[0] = Peer { grows, ..all };
        }
        let outcome = run(&lens, &peers);
        prop_assert!(!stays || outcome.took.is_some(), "{:?}", outcome);
        let size: u64 = lens.iter().map(|len| u64::from(*len)).sum();
        // What is asked twice is what was late or last; never more than each source may be ahead.
        prop_assert!(outcome.twice <= size.min(peers.len() as u64 * (MOST_AHEAD + (2 << 20))));
    }

    /// Sources as they were believed to be: near to the sum of their links, and little twice.
    #[test]
    fn steady_sources_are_used_to_the_full(
        links in prop::collection::vec((1_u64..200, 5.0..200.0_f64), 1..5),
        chunks in 100_usize..300,
    ) {
        let peers: Vec<_> = links.iter().map(|(rtt, mbit)| Peer::new(*rtt, *mbit)).collect();
        let outcome = run(&vec![CHUNK; chunks], &peers);
        let rate: f64 = peers.iter().map(|peer| peer.rate).sum();
        let ideal = chunks as f64 * f64::from(CHUNK) / rate;
        let slowest = peers.iter().map(|peer| f64::from(CHUNK) / peer.rate).fold(0.0, f64::max);
        prop_assert!(seconds(&outcome) <= ideal * 1.05 + 0.4 + slowest, "{outcome:?}, {ideal}");
        prop_assert!(outcome.twice <= 2 * peers.len() as u64 * u64::from(CHUNK), "{outcome:?}");
    }

    /// Calls in any order, also such as make no sense: no panic, and the sums stay right.
    #[test]
    fn any_order_of_calls_keeps_the_books(
        seed: u64,
        calls in 1_usize..400,
    ) {
        let (mut dice, start) = (Dice::new(seed), Instant::now());
        let mut spread = Spread::new();
        let mut ids = vec![];
        let mut here = BTreeSet::new();
        let mut lens = Vec::new();
        for step in 0..calls {
            let now = start + Duration::from_millis(step as u64 * 20);
            let index = dice.below(lens.len() as u64 + 2) as usize;
            let id = SourceId(dice.below(ids.len() as u64 + 2) as u32);
            match dice.below(14) {
                0 | 1 => {
                    let len = dice.below(2 << 20) as u32 + 1;
                    prop_assert_eq!(spread.add(len), lens.len());
                    lens.push(len);
                }
                2 => {
                    let goodput = [0.0, 1e3, 1e6, f64::NAN][dice.below(4) as usize];
                    let (rtt, patience) = (Duration::from_millis(9), Duration::from_millis(50));
                    ids.push(spread.join(Pace { rtt, goodput, patience, alone: false }, now));
                }
                3 | 4 => spread.poll(id, now).into_iter().for_each(|index| {
                    assert!(!here.contains(&index), "asked for though it is here");
                }),
                5 => {
                    let new = spread.handle_arrived(id, index, now);
                    prop_assert_eq!(new, index < lens.len() && here.insert(index));
                }
                6 => spread.handle_absent(id, index, now),
                7 => spread.handle_given_up(id),
                8 => assert!(!spread.claim(id, &[index], now) || !here.contains(&index)),
                9 => spread.handle_unclaimed(id, index, now),
                10 => {
                    let pace = pace(0, 1e6, 0);
                    ids.push(spread.join_without(pace, now));
                }
                11 => spread.handle_offered(id, index),
                12 => spread.handle_grown(id),
                _ => spread.leave(id),
            }
            here.retain(|index| *index < lens.len());
            let left: u64 = (0..lens.len()).filter(|i| !here.contains(i)).map(|i| u64::from(lens[i])).sum();
            prop_assert_eq!(spread.left_bytes(), left);
            prop_assert_eq!(spread.is_whole(), left == 0);
        }
    }
}

#[test]
fn nothing_is_left_to_a_fast_one_that_may_have_nothing() {
    let now = Instant::now();
    let pace = |goodput| pace(1, goodput, 10_000);
    let mut spread = Spread::new();
    for _ in 0..20 {
        spread.add(CHUNK);
    }
    let perhaps = spread.join_unsure(pace(1e9), now);
    let slow = spread.join(pace(1e6), now);
    let tried = spread.poll(perhaps, now);
    assert_eq!(tried, [0], "one, to see whether it has any");
    assert_eq!(spread.poll(perhaps, now), []);
    let theirs = spread.poll(slow, now);
    assert!(!theirs.is_empty());
    // It lacks the first, is asked for another, and has that: now it counts.
    spread.handle_absent(perhaps, 0, now);
    let again = spread.poll(perhaps, now);
    assert_eq!(again.len(), 1);
    assert!(spread.handle_arrived(perhaps, again[0], now));
    assert!(spread.poll(perhaps, now).len() > 1);
}

#[test]
fn what_was_claimed_and_comes_no_smaller_is_shared_with_others() {
    let now = Instant::now();
    let pace = |goodput| pace(100, goodput, 500);
    let mut spread = Spread::new();
    let all: Vec<usize> = (0..40).map(|_| spread.add(CHUNK)).collect();
    let (first, second) = (spread.join(pace(6e6), now), spread.join(pace(3e6), now));
    assert!(spread.claim(first, &all, now));
    assert_eq!(spread.poll(second, now), [], "a patch may bring all of it in a moment");
    assert!(spread.handle_arrived(first, 0, now));
    spread.handle_plain(first);
    let taken = spread.poll(second, now);
    assert_eq!(taken.first(), Some(&39), "from the end, to meet the other");
}
