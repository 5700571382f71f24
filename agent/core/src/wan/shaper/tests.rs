use super::*;
use crate::wan::{CUT, PROFILES, find};
use proptest::prelude::*;

const FULL: usize = 1_500;

/// A shaper with a clock of its own.
struct Link {
    shaper: Shaper<u32>,
    start: Instant,
    sent: u32,
}

impl Link {
    fn new(profile: &str) -> Self {
        let start = Instant::now();
        Self { shaper: Shaper::new(find(profile).unwrap(), 1, start), start, sent: 0 }
    }

    fn at(&self, us: u64) -> Instant {
        self.start + Duration::from_micros(us)
    }

    /// Sends a packet; the time of its arrival in microseconds, or why there is none.
    fn send(&mut self, len: usize, us: u64) -> Result<u64, DropReason> {
        self.sent += 1;
        match self.shaper.handle_packet(self.sent, len, self.at(us)) {
            Verdict::Deliver(at) => Ok(at.duration_since(self.start).as_micros() as u64),
            Verdict::Dropped(why, packet) => {
                assert_eq!(packet, self.sent, "a dropped packet is given back");
                Err(why)
            }
        }
    }

    fn arrived(&mut self, us: u64) -> Vec<u32> {
        let now = self.at(us);
        std::iter::from_fn(|| self.shaper.poll_packet(now)).collect()
    }
}

#[test]
fn a_lone_packet_takes_the_delay_and_not_less() {
    for profile in PROFILES.iter().filter(|profile| !profile.shape.is_cut()) {
        let mut link = Link::new(profile.name);
        let sent = 1_000_000;
        let at = link.send(100, sent).unwrap();
        let shape = link.shaper.shape(link.at(sent));
        let delay = at - sent;
        let sending = shape.time_to_send(100).unwrap().as_micros() as u64;
        assert!((shape.delay_us..=shape.delay_us + sending + 1).contains(&delay), "{profile:?}");
    }
}

#[test]
fn a_steady_stream_arrives_at_the_rate() {
    let mut link = Link::new("us-east");
    // Packets of 1500 bytes at 100 Mbit/s: one in 120 us. They are offered at twice the rate for
    // a second.
    let mut arrivals: Vec<_> = (0..16_666).filter_map(|i| link.send(FULL, i * 60).ok()).collect();
    let all = arrivals.len();
    arrivals.retain(|at| *at <= 1_000_000 + 25_000);
    let expected = 1_000_000 / 120;
    assert!((expected..expected + 20).contains(&arrivals.len()), "{}", arrivals.len());
    // The rest waited when the second was over: one queue.
    let queue = 625_000 / FULL;
    assert!((queue - 1..=queue + 1).contains(&(all - arrivals.len())), "{all}");
    assert_eq!(link.shaper.counters().dropped_queue, 16_666 - all as u64);
}

#[test]
fn a_burst_beyond_the_queue_is_dropped_at_its_tail() {
    let mut link = Link::new("eu-central");
    let sent: Vec<_> = (0..400).map(|_| link.send(FULL, 0)).collect();
    let taken = sent.iter().filter(|verdict| verdict.is_ok()).count();
    // 468750 bytes wait. A link that was idle sends the first four at once: BURST at 25 Mbit/s.
    assert!((312..=317).contains(&taken), "{taken}");
    assert!(sent[taken..].iter().all(|verdict| *verdict == Err(DropReason::Queue)));
    let now = link.at(0);
    assert!(link.shaper.queued_bytes(now) <= 468_750);
    let now = link.at(10_000_000);
    assert_eq!(link.shaper.queued_bytes(now), 0);
}

#[test]
fn the_counters_add_up() {
    let mut link = Link::new("lossy");
    for i in 0..20_000 {
        let _ = link.send(FULL, i * 400);
    }
    link.arrived(100_000_000);
    let counters = link.shaper.counters();
    let dropped = counters.dropped_queue + counters.dropped_loss + counters.dropped_cut;
    assert_eq!(counters.passed + dropped, 20_000);
    assert_eq!(counters.passed_bytes, counters.passed * FULL as u64);
    // One of a hundred, six standard deviations around it.
    let lost = counters.dropped_loss;
    assert!((100..=300).contains(&lost), "{lost}");
}

#[test]
fn a_cut_drops_what_comes_and_what_is_on_its_way_and_a_new_profile_mends_it() {
    let mut link = Link::new("us-east");
    link.send(FULL, 0).unwrap();
    let now = link.at(1_000);
    assert_eq!(link.shaper.set_profile(CUT, now), [1]);
    assert_eq!(link.send(FULL, 2_000), Err(DropReason::Cut));
    assert_eq!(link.arrived(1_000_000), []);
    assert_eq!(link.shaper.counters().dropped_cut, 2);
    assert_eq!(link.shaper.next_timeout(), None);
    let now = link.at(1_000_000);
    assert_eq!(link.shaper.set_profile(find("datacenter").unwrap(), now), []);
    let at = link.send(FULL, 1_000_000).unwrap();
    assert!((1_000_250..1_000_260).contains(&at), "{at}");
    assert_eq!(link.arrived(at), [3]);
}

#[test]
fn many_small_packets_are_bounded_too() {
    let mut link = Link::new("satellite");
    let taken = (0..MAX_PACKETS * 2).filter(|_| link.send(20, 0).is_ok()).count();
    assert_eq!(taken, MAX_PACKETS);
}

/// What may happen to a link.
#[derive(Clone, Debug)]
enum Event {
    Packet(usize),
    Profile(usize),
    Poll,
}

fn events() -> impl Strategy<Value = Vec<(u64, Event)>> {
    let event = prop_oneof![
        20 => (20..=FULL).prop_map(Event::Packet),
        1 => (0..PROFILES.len()).prop_map(Event::Profile),
        4 => Just(Event::Poll),
    ];
    prop::collection::vec((0..3_000u64, event), 1..400)
}

proptest! {
    #[test]
    fn nothing_is_reordered_made_up_or_faster_than_allowed(seed: u64, events in events()) {
        let start = Instant::now();
        let mut now = start;
        let mut shaper = Shaper::new(&PROFILES[0], seed, now);
        let mut sent = 0u32;
        let mut last_seen = None;
        let mut last_at = start;
        for (pause, event) in events {
            now += Duration::from_micros(pause);
            match event {
                Event::Packet(len) => {
                    sent += 1;
                    if let Verdict::Deliver(at) = shaper.handle_packet(sent, len, now) {
                        prop_assert!(at >= last_at, "overtakes the packet before");
                        prop_assert!(at >= now + shaper.shape(now).delay(), "too early");
                        last_at = at;
                    }
                    let limit = shaper.shape(now).queue_bytes;
                    let queued = shaper.queued_bytes(now);
                    // A profile with a smaller queue may find more in it than it would take.
                    prop_assert!(queued <= limit.max(1_500_000));
                }
                Event::Profile(index) => {
                    shaper.set_profile(&PROFILES[index], now);
                    if PROFILES[index].shape.is_cut() {
                        last_at = now;
                    }
                }
                Event::Poll => {
                    while let Some(packet) = shaper.poll_packet(now) {
                        prop_assert!(Some(packet) > last_seen);
                        last_seen = Some(packet);
                    }
                    prop_assert!(shaper.next_timeout().is_none_or(|at| at > now));
                }
            }
        }
        let held = shaper.held() as u64;
        let Counters { passed, dropped_queue, dropped_loss, dropped_cut, .. } = shaper.counters();
        prop_assert_eq!(
            passed + dropped_queue + dropped_loss + dropped_cut + held,
            u64::from(sent)
        );
    }

    #[test]
    fn no_interval_gets_more_than_the_rate_and_the_bucket(
        packets in prop::collection::vec((0..2_000u64, 20..=FULL), 2..300),
    ) {
        let mut link = Link::new("eu-central");
        let mut us = 0;
        let mut arrived = Vec::new();
        for (pause, len) in packets {
            us += pause;
            if let Ok(at) = link.send(len, us) {
                arrived.push((at, len));
            }
        }
        for (i, (from, _)) in arrived.iter().enumerate() {
            let mut bits = 0;
            for (to, len) in &arrived[i..] {
                bits += len * 8;
                // 25 bits in a microsecond; the bucket, and the packet at the edge.
                let allowed = 25 * (to - from + 1 + 2_000) as usize + FULL * 8;
                prop_assert!(bits <= allowed, "{bits} bits in {} us", to - from);
            }
        }
    }
}
