mod bottleneck;
mod rival;

use super::*;
use bottleneck::{Flow, Link, World};
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);
const ENDLESS: u64 = u64::MAX;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn link(rtt: u64, mbit: u64, loss_ppm: u32) -> Link {
    Link { rtt: ms(rtt), mbit, loss_ppm, queue: 1.0 }
}

/// A link with one of ours that has found its rate.
fn settled(link: Link) -> (World, usize) {
    let mut world = World::new(link, 1);
    let flow = world.add(Flow::ours(1), ENDLESS);
    world.run(10 * SECOND);
    world.reset_queue();
    (world, flow)
}

/// Part of the link that `flow` gets in the next seconds, in percent.
fn share(world: &mut World, flow: usize, seconds: u32) -> f64 {
    let before = world.delivered(flow);
    world.run(seconds * SECOND);
    world.share(world.delivered(flow) - before, f64::from(seconds))
}

#[test]
fn a_link_is_full_and_its_queue_short_with_and_without_loss() {
    for (rtt, mbit) in [(1, 1000), (10, 100), (50, 100), (100, 50), (150, 25), (50, 1000)] {
        for loss in [0, 10_000] {
            let (mut world, flow) = settled(link(rtt, mbit, loss));
            let used = share(&mut world, flow, 10);
            let told = world.report(flow);
            assert!(used >= 95.0, "{rtt} ms {mbit} Mbit/s {loss} ppm: {used:.1}% {told}");
            assert!(world.mean_queue() < 0.2, "{rtt} ms {mbit} Mbit/s {loss} ppm: {told}");
            assert!(world.drops() <= 2.0, "{rtt} ms {mbit} Mbit/s {loss} ppm: {told}");
        }
    }
}

#[test]
fn a_whole_transfer_overflows_the_queue_by_less_than_two_percent() {
    for (rtt, mbit) in [(50, 100), (100, 50), (150, 25), (150, 8), (300, 4)] {
        let mut world = World::new(link(rtt, mbit, 0), 1);
        let flow = world.add(Flow::ours(1), (mbit.min(25) << 20) * 4);
        world.run(60 * SECOND);
        assert!(world.is_done(flow), "{}", world.report(flow));
        assert!(world.drops() <= 2.0, "{}", world.report(flow));
    }
}

#[test]
fn heavy_loss_costs_some_but_not_the_link() {
    let (mut world, flow) = settled(link(150, 25, 50_000));
    let used = share(&mut world, flow, 20);
    assert!(used >= 60.0, "{used:.1}% {}", world.report(flow));
}

#[test]
fn two_of_ours_come_to_share_a_link() {
    for (rtt, mbit) in [(50, 100), (100, 50), (150, 25)] {
        let (mut world, first) = settled(link(rtt, mbit, 0));
        let second = world.add(Flow::ours(2), ENDLESS);
        world.run(30 * SECOND);
        let before = world.delivered(first);
        world.reset_queue();
        let seconds = share(&mut world, second, 30);
        assert!(world.drops() <= 3.0, "{}", world.report(first));
        let firsts = world.share(world.delivered(first) - before, 30.0);
        let part = firsts / (firsts + seconds);
        assert!((0.4..=0.6).contains(&part), "{rtt} ms {mbit} Mbit/s: {part:.2}");
        assert!(firsts + seconds >= 95.0, "{rtt} ms {mbit} Mbit/s: {firsts:.1} {seconds:.1}");
    }
}

/// Our part of what both get in a minute, in percent, half a minute after the second has come.
fn part_beside(rival: fn() -> Flow, link: Link, ours_first: bool) -> f64 {
    let mut world = World::new(link, 1);
    let (ours, theirs) = if ours_first {
        let ours = world.add(Flow::ours(1), ENDLESS);
        world.run(10 * SECOND);
        (ours, world.add(rival(), ENDLESS))
    } else {
        let theirs = world.add(rival(), ENDLESS);
        world.run(10 * SECOND);
        (world.add(Flow::ours(1), ENDLESS), theirs)
    };
    world.run(30 * SECOND);
    let before = world.delivered(theirs);
    let part = share(&mut world, ours, 60);
    part * 100.0 / (part + world.share(world.delivered(theirs) - before, 60.0))
}

#[test]
fn ours_and_cubic_share_whoever_was_first() {
    for (rtt, mbit) in [(50, 100), (100, 50), (150, 25)] {
        for ours_first in [true, false] {
            let part = part_beside(Flow::cubic, link(rtt, mbit, 0), ours_first);
            assert!(
                (35.0..=65.0).contains(&part),
                "{rtt} ms {mbit} Mbit/s {ours_first}: {part:.1}"
            );
        }
    }
}

#[test]
fn bbr_of_linux_leaves_us_something() {
    for (rtt, mbit) in [(50, 100), (150, 25)] {
        for ours_first in [true, false] {
            let part = part_beside(Flow::bbr, link(rtt, mbit, 0), ours_first);
            assert!(part >= 10.0, "{rtt} ms {mbit} Mbit/s {ours_first}: {part:.1}");
        }
    }
}

#[test]
fn a_link_that_changes_is_full_again_in_seconds() {
    let before = link(50, 100, 0);
    for (rtt, mbit) in [(50, 400), (50, 25), (150, 100), (15, 100), (50, 1000), (50, 10)] {
        let (mut world, flow) = settled(before);
        world.change(link(rtt, mbit, 0));
        world.run(6 * SECOND);
        let used = share(&mut world, flow, 10);
        assert!(used >= 92.0, "{mbit} Mbit/s {rtt} ms: {used:.1}% {}", world.report(flow));
    }
}

#[test]
fn pauses_of_the_sender_do_not_lower_the_rate() {
    let link = link(50, 100, 0);
    let mut world = World::new(link, 1);
    let flow = world.add(Flow::ours(1), 30 << 20);
    world.run(10 * SECOND);
    // A little now and then, as records and pings are.
    for _ in 0..200 {
        world.more(flow, 3_000);
        world.run(ms(100));
    }
    let before = world.delivered(flow);
    world.more(flow, 10 << 20);
    world.run(SECOND);
    // A cold start of a second gets 75 % of the link at most.
    let used = world.share(world.delivered(flow) - before, 1.0);
    assert!(used > 80.0, "{used:.1}% {}", world.report(flow));
}

#[test]
fn what_begins_after_a_pause_soon_fills_a_link_that_was_slower_before() {
    // In whatever phase the pause begins; after 2 MiB there is still a bound of the window from the overflow at the start.
    for mib in 3..8 {
        let mut world = World::new(link(150, 8, 0), 1);
        let flow = world.add(Flow::ours(1), mib << 20);
        world.run(12 * SECOND);
        assert!(world.is_done(flow), "{}", world.report(flow));
        // The sender's machine was busy, say; nobody tells the controller that it is not any more.
        world.change(link(150, 25, 0));
        let before = world.delivered(flow);
        world.more(flow, 20 << 20);
        world.run(2 * SECOND);
        let used = world.share(world.delivered(flow) - before, 2.0);
        assert!(used > 75.0, "{used:.1}% {}", world.report(flow));
        world.reset_queue();
        world.run(4 * SECOND);
        assert!(world.drops() <= 2.0, "{}", world.report(flow));
    }
}

#[test]
fn a_link_that_was_cut_is_used_again() {
    let (mut world, flow) = settled(link(50, 100, 0));
    world.change(Link { mbit: 0, ..link(50, 100, 0) });
    world.run(3 * SECOND);
    world.change(link(50, 100, 0));
    world.run(5 * SECOND);
    let used = share(&mut world, flow, 5);
    assert!(used >= 90.0, "{used:.1}% {}", world.report(flow));
}

#[test]
fn a_hint_begins_near_the_rate_and_is_bounded() {
    let now = Instant::now();
    let fresh = Congestion::new(now, 1_472, 1);
    assert_eq!(fresh.window(0), fresh.initial_window());
    let hinted = hinted_window(12_500_000, ms(50));
    assert_eq!(hinted, 437_500);
    assert_eq!(fresh.window(hinted), hinted);
    // A hint never slows down, and never floods.
    assert_eq!(fresh.window(hinted_window(1, ms(50))), fresh.initial_window());
    assert_eq!(fresh.window(hinted_window(u64::MAX, Duration::MAX)), HINT_MOST);
    assert_eq!(fresh.window(u64::MAX), HINT_MOST);
}

#[test]
fn a_hint_that_is_right_makes_a_transfer_quicker() {
    let moved = |hint| {
        let mut world = World::new(link(150, 25, 0), 1);
        let flow = world.add(Flow::hinted(1, hint), ENDLESS);
        world.run(SECOND);
        (world.delivered(flow), world.drops())
    };
    let (cold, _) = moved(0);
    let (warm, drops) = moved(hinted_window(3_125_000, ms(150)));
    assert!(warm > 2_200_000 && cold > 1_500_000, "{cold} {warm}");
    // The startup ends in this second, and overflows the queue by a part of a product.
    assert!(drops <= 8.0, "{drops}");
}

#[test]
fn a_hint_that_is_wrong_is_given_up() {
    let mut world = World::new(link(50, 10, 0), 1);
    let flow = world.add(Flow::hinted(1, hinted_window(1_000_000_000, ms(50))), ENDLESS);
    world.run(5 * SECOND);
    world.reset_queue();
    let used = share(&mut world, flow, 10);
    assert!(used >= 95.0, "{used:.1}% {}", world.report(flow));
    assert!(world.drops() <= 2.0, "{}", world.report(flow));
}

/// What may happen to a controller, in any order.
#[derive(Clone, Debug)]
enum Event {
    Wait(u64),
    Sent(u64),
    Acked(u64, u64),
    AcksEnd(u64, bool),
    Lost(u64, u64, bool),
    Marked,
    Mtu(u16),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        prop_oneof![0..1_000u64, any::<u32>().prop_map(u64::from)].prop_map(Event::Wait),
        prop_oneof![0..100_000u64, any::<u64>()].prop_map(Event::Sent),
        (0..20u64, prop_oneof![0..70_000u64, any::<u64>()])
            .prop_map(|(back, bytes)| Event::Acked(back, bytes)),
        (any::<u64>(), any::<bool>()).prop_map(|(bytes, idle)| Event::AcksEnd(bytes, idle)),
        (0..20u64, any::<u64>(), any::<bool>())
            .prop_map(|(back, bytes, persistent)| Event::Lost(back, bytes, persistent)),
        Just(Event::Marked),
        any::<u16>().prop_map(Event::Mtu),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_something_may_be_sent(
        events in prop::collection::vec(event(), 1..300),
        hint: u64,
    ) {
        let mut now = Instant::now();
        let mut model = Congestion::new(now, 1_200, hint);
        let mut departures = vec![now];
        let departure = |departures: &[Instant], back: u64| {
            departures[departures.len().saturating_sub(1 + back as usize)]
        };
        for event in events {
            match event {
                Event::Wait(micros) => now += Duration::from_micros(micros),
                Event::Sent(bytes) => {
                    departures.push(now);
                    model.on_sent(now, bytes);
                }
                Event::Acked(back, bytes) => model.on_ack(now, departure(&departures, back), bytes),
                Event::AcksEnd(in_flight, idle) => model.on_end_acks(now, in_flight, idle),
                Event::Lost(back, bytes, persistent) => {
                    model.on_loss(now, departure(&departures, back), bytes, persistent);
                }
                Event::Marked => model.on_mark(now),
                Event::Mtu(mtu) => model.on_mtu(mtu),
            }
            prop_assert!(model.window(0) > 0);
            prop_assert!(model.window(hint) >= model.window(0));
        }
    }
}
