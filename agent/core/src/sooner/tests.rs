use super::*;
use crate::moved::Meter;
use proptest::prelude::*;

const LOOK: Duration = Duration::from_millis(50);
const MB: f64 = 1e6;

/// A fetch of `size` bytes over a link that carries `rates` one after the other, each for so many seconds, and the
/// last for ever; after `latency` seconds.
#[derive(Clone, Debug)]
struct Fetch {
    size: f64,
    latency: f64,
    rates: Vec<(f64, f64)>,
}

impl Fetch {
    fn steady(size: f64, latency: f64, rate: f64) -> Self {
        Self { size, latency, rates: vec![(f64::INFINITY, rate)] }
    }

    /// Bytes that have come by then.
    fn done(&self, at: f64) -> f64 {
        let (mut left, mut done) = ((at - self.latency).max(0.0), 0.0);
        for (lasts, rate) in &self.rates {
            let time = left.min(*lasts);
            done += time * rate;
            left -= time;
        }
        let (_, rate) = self.rates[self.rates.len() - 1];
        (done + left * rate).min(self.size)
    }

    /// When the result is there, in seconds, and whether it was built then.
    fn ends(&self, building: &Building, time: Duration, believed: Option<f64>) -> (f64, bool) {
        let began = Instant::now();
        let mut pace = Pace::new(began);
        if let Some(rate) = believed {
            pace.expect(self.latency, Some(rate));
        }
        let (mut meter, patience) = (Meter::default(), building.patience(time));
        for step in 0.. {
            let waited = LOOK * step;
            let (now, at) = (began + waited, waited.as_secs_f64());
            let done = self.done(at);
            if done >= self.size {
                return (at, false);
            }
            if done > 0.0 && self.done(at - LOOK.as_secs_f64()) < done {
                pace.handle_progress(plain(meter.per_second(now, done as u64)), now);
            }
            let left = (self.size - done) as u64;
            if pace.outlook(left, 0, now).is_too_late(waited, patience) {
                return (at + time.as_secs_f64(), true);
            }
        }
        unreachable!("a fetch ends, or is given up")
    }
}

fn plain(per_second: f64) -> Speed {
    Speed { per_second, swells: 1.0 }
}

fn leaf() -> Building {
    Building::default()
}

#[test]
fn what_comes_sooner_than_it_is_built_is_waited_for() {
    let fetch = Fetch::steady(30.0 * MB, 0.3, 3.0 * MB);
    for believed in [None, Some(3.0 * MB), Some(0.8 * MB)] {
        let (at, built) = fetch.ends(&leaf(), Duration::from_secs(20), believed);
        assert!(!built && at < 10.5, "{believed:?}: {at}");
    }
}

#[test]
fn what_takes_longer_than_building_is_built_as_soon_as_that_shows() {
    let fetch = Fetch::steady(300.0 * MB, 0.3, 3.0 * MB);
    let (at, built) = fetch.ends(&leaf(), Duration::from_secs(5), None);
    assert!(built && at < 5.8, "{at}");
    // Where the link is known, that is when something should have come.
    let (at, built) = fetch.ends(&leaf(), Duration::from_secs(5), Some(3.0 * MB));
    assert!(built && at < 5.4, "{at}");
    // What may come coded is given the time to show it.
    let coded = Fetch::steady(30.0 * MB, 0.3, 12.0 * MB);
    let (at, built) = coded.ends(&leaf(), Duration::from_secs(5), Some(3.0 * MB));
    assert!(!built && at < 3.0, "{at}");
}

#[test]
fn a_link_that_breaks_costs_no_more_than_building_once_more() {
    let breaks = Fetch { size: 30.0 * MB, latency: 0.3, rates: vec![(4.0, 3.0 * MB), (1e9, 0.0)] };
    let (at, built) = breaks.ends(&leaf(), Duration::from_secs(8), Some(3.0 * MB));
    assert!(built && at < 4.3 + 8.0 * 2.25 + 1.5, "{at}");
    let never = Fetch::steady(30.0 * MB, 1e9, 1.0);
    let (at, built) = never.ends(&leaf(), Duration::from_secs(8), None);
    assert!(built && at < 8.0 * 2.25 + 0.5, "{at}");
}

#[test]
fn what_much_waits_for_is_fetched_though_building_would_be_a_little_sooner() {
    let fetch = Fetch::steady(30.0 * MB, 0.3, 3.0 * MB);
    let time = Duration::from_secs(5);
    assert!(fetch.ends(&leaf(), time, None).1);
    let stake = Building { after: Duration::from_secs(120), ..leaf() };
    assert!(!fetch.ends(&stake, time, None).1);
}

#[test]
fn what_is_quick_to_build_is_not_waited_for_behind_what_is_large() {
    let began = Instant::now();
    let mut pace = Pace::new(began);
    pace.handle_progress(plain(0.0), began);
    pace.handle_progress(plain(1e6), began + Duration::from_secs(1));
    let patience = leaf().patience(Duration::from_millis(10));
    let now = began + Duration::from_millis(1100);
    let last = pace.outlook(99_000_000, 0, now);
    assert!(last.is_too_late(Duration::ZERO, patience), "{last:?}");
    let next = pace.outlook(100_000, 0, now);
    assert!(!next.is_too_late(Duration::ZERO, patience), "{next:?}");
    assert!(next.and(last).is_too_late(Duration::ZERO, patience));
}

#[test]
fn what_came_tells_how_well_the_rest_is_coded_unless_it_comes_as_a_patch() {
    let began = Instant::now();
    let mut pace = Pace::new(began);
    pace.expect(0.1, Some(1e6));
    let at = |ms| began + Duration::from_millis(ms);
    let remaining = |pace: &Pace, ms| pace.outlook(10_000_000, 0, at(ms)).remaining;
    assert_eq!(remaining(&pace, 200), Some(Duration::from_millis(2500)), "four times, perhaps");
    for ms in [200, 300] {
        pace.handle_progress(Speed { per_second: 1e5, swells: 2.5 }, at(ms));
    }
    assert_eq!(remaining(&pace, 299), None, "a moment is no speed");
    assert_eq!(remaining(&pace, 300), Some(Duration::from_secs(4)), "connections start slowly");
    assert_eq!(remaining(&pace, 1200), Some(Duration::from_secs(100)));
    pace.handle_patched();
    assert_eq!(remaining(&pace, 300), None);
}

#[test]
fn those_that_come_at_the_same_time_share_what_is_believed_of_the_link() {
    let began = Instant::now();
    let mut pace = Pace::new(began);
    pace.expect(0.0, Some(1e6));
    assert!(!pace.is_moving());
    pace.handle_progress(plain(1.0), began);
    assert!(pace.is_moving());
    let now = began + FIRST_KNOWN;
    let remaining = |others| pace.outlook(1_000_000, others, now).remaining;
    assert_eq!([0, 1, 3].map(remaining), [1, 2, 4].map(|s| Some(Duration::from_secs(s))));
}

#[test]
fn a_chunk_on_its_way_over_a_slow_link_is_no_silence() {
    let began = Instant::now();
    let mut pace = Pace::new(began);
    pace.expect(0.1, Some(f64::from(1 << 20)));
    pace.handle_progress(plain(0.0), began);
    pace.handle_progress(plain(1e6), began + Duration::from_secs(2));
    let outlook = pace.outlook(6 << 20, 0, began + Duration::from_secs(4));
    assert!(outlook.quiet < Duration::from_millis(100), "{outlook:?}");
}

proptest! {
    /// Whatever the link does and whatever was believed of it.
    #[test]
    fn it_is_never_much_later_than_building_at_once(
        size in 1e3..1e9, latency in 0.0..3.0,
        rates in prop::collection::vec((0.1..10.0, prop_oneof![Just(0.0), 1e3..1e8]), 1..6),
        build_ms in 1u64..20_000,
        believed in prop::option::of(1e3..1e9),
    ) {
        let time = Duration::from_millis(build_ms);
        let fetch = Fetch { size, latency, rates };
        let (at, built) = fetch.ends(&leaf(), time, believed);
        let most = MOST * leaf().patience(time).as_secs_f64() + 2.0 * LOOK.as_secs_f64();
        let build = if built { time.as_secs_f64() } else { 0.0 };
        prop_assert!(at <= most + build, "{at} against {most}");
    }

    /// A link that keeps its speed, which is known, is used whenever that is clearly better, and only then.
    #[test]
    fn over_a_steady_link_it_is_the_better_of_both(
        size in 1e3..1e9, latency in 0.0..0.2, rate in 1e4..1e8, build_ms in 500u64..20_000,
    ) {
        let time = Duration::from_millis(build_ms);
        let fetch = Fetch::steady(size, latency, rate);
        let (fetched, build) = (latency + size / rate, time.as_secs_f64());
        let (at, _) = fetch.ends(&leaf(), time, Some(rate));
        prop_assert!(at <= 1.25 * fetched.min(build) + 1.0, "{at} against {fetched} and {build}");
    }
}

#[test]
fn the_round_trips_before_the_first_byte_are_no_silence_whatever_the_link_carries() {
    let began = Instant::now();
    let mut pace = Pace::new(began);
    pace.expect(0.3, None);
    assert_eq!(pace.outlook(1000, 0, began + Duration::from_millis(300)).quiet, Duration::ZERO);
    let outlook = pace.outlook(1000, 0, began + Duration::from_millis(400));
    assert!(outlook.quiet > Duration::from_millis(99), "{outlook:?}");
    assert_eq!(outlook.remaining, None);
}
