use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn peer(number: u8) -> PeerId {
    PeerId([number; 32])
}

fn body(number: u32) -> Body {
    Body::from(number.to_le_bytes().as_slice())
}

fn accept(_: &Body) -> Verdict {
    Verdict::Accept
}

/// A machine with `count` neighbours, all near, from which what it said at first is drained.
fn machine(count: u8, now: Instant) -> Gossip {
    let mut gossip = Gossip::new(Config::default(), 1);
    for number in 1..=count {
        assert!(gossip.handle_neighbour(peer(number), true, now));
    }
    drain(&mut gossip, now);
    gossip
}

/// All that is to be sent now, acknowledged at once.
fn drain(gossip: &mut Gossip, now: Instant) -> Vec<(PeerId, Message)> {
    let mut sent = Vec::new();
    while let Some((to, message)) = gossip.poll_message(now) {
        assert!(message.is_bounded() && !message.is_empty());
        gossip.handle_sent(&to, now);
        sent.push((to, message));
    }
    sent
}

/// All that is sent within `time`.
fn drain_for(gossip: &mut Gossip, start: Instant, time: Duration) -> Vec<(PeerId, Message)> {
    let mut sent = drain(gossip, start);
    while let Some(due) = gossip.next_timeout().filter(|due| *due <= start + time) {
        sent.extend(drain(gossip, due));
    }
    sent
}

fn rumours(rumours: impl IntoIterator<Item = Body>) -> Message {
    Message { rumours: rumours.into_iter().collect(), ..Message::default() }
}

#[test]
fn a_rumour_after_a_quiet_time_leaves_at_once_and_the_next_ones_together() {
    let start = Instant::now();
    let mut gossip = machine(1, start);
    let later = start + Duration::from_secs(1);
    gossip.say(body(1), later).unwrap();
    assert_eq!(drain(&mut gossip, later), [(peer(1), rumours([body(1)]))]);
    gossip.say(body(2), later).unwrap();
    gossip.say(body(3), later).unwrap();
    assert_eq!(drain(&mut gossip, later), []);
    let due = gossip.next_timeout().unwrap();
    assert_eq!(due, later + Config::default().pace);
    assert_eq!(drain(&mut gossip, due), [(peer(1), rumours([body(2), body(3)]))]);
}

#[test]
fn a_rumour_is_judged_once_and_its_second_bringer_is_told_to_stop() {
    let start = Instant::now();
    let mut gossip = machine(3, start);
    let later = start + Duration::from_secs(1);
    let mut judged = 0;
    let mut judge = |_: &Body| {
        judged += 1;
        Verdict::Accept
    };
    gossip.handle_message(peer(1), rumours([body(1)]), &mut judge, later);
    gossip.handle_message(peer(2), rumours([body(1)]), &mut judge, later);
    assert_eq!(judged, 1);
    let sent = drain(&mut gossip, later);
    let to_2 = sent.iter().find(|(to, _)| *to == peer(2)).unwrap();
    assert!(to_2.1.prune && to_2.1.rumours.is_empty(), "{to_2:?}");
    assert!(sent.iter().all(|(to, _)| *to != peer(1)), "not back to where it came from");
    assert!(sent.contains(&(peer(3), rumours([body(1)]))));
}

#[test]
fn of_two_bringers_the_far_one_is_told_to_stop() {
    let start = Instant::now();
    let mut gossip = Gossip::new(Config::default(), 1);
    gossip.handle_neighbour(peer(1), false, start);
    gossip.handle_neighbour(peer(2), true, start);
    drain(&mut gossip, start);
    let later = start + Duration::from_secs(1);
    gossip.handle_message(peer(1), rumours([body(1)]), &mut accept, later);
    gossip.handle_message(peer(2), rumours([body(1)]), &mut accept, later);
    let eager: Vec<_> = gossip.neighbours().filter(|(_, eager)| *eager).collect();
    assert_eq!(eager, [(&peer(2), true)]);
}

#[test]
fn what_was_announced_and_does_not_come_is_asked_for_from_one_after_the_other() {
    let start = Instant::now();
    let mut gossip = machine(2, start);
    let id = RumourId::of(&body(7));
    let have = Message { have: vec![id], ..Message::default() };
    gossip.handle_message(peer(1), have.clone(), &mut accept, start);
    gossip.handle_message(peer(2), have, &mut accept, start);
    let sent = drain_for(&mut gossip, start, Duration::from_secs(10));
    let asked: BTreeSet<PeerId> =
        sent.iter().filter(|(_, message)| message.want == [id]).map(|(to, _)| *to).collect();
    assert_eq!(asked, BTreeSet::from([peer(1), peer(2)]));
    assert_eq!((gossip.counters().asked, gossip.counters().gave_up), (2, 1));
    assert_eq!(gossip.next_timeout(), None, "it is not awaited for ever");
}

#[test]
fn one_who_asks_is_given_what_is_remembered() {
    let start = Instant::now();
    let mut gossip = machine(1, start);
    gossip.handle_message(
        peer(1),
        Message { prune: true, ..Message::default() },
        &mut accept,
        start,
    );
    drain(&mut gossip, start);
    gossip.say(body(1), start).unwrap();
    let want = Message { want: vec![RumourId::of(&body(1))], ..Message::default() };
    gossip.handle_message(peer(1), want.clone(), &mut accept, start);
    let sent = drain_for(&mut gossip, start, Duration::from_secs(1));
    assert!(sent.iter().any(|(_, message)| message.rumours == [body(1)]), "{sent:?}");
    let much_later = start + KEEP_BODY + Duration::from_secs(1);
    gossip.say(body(2), much_later).unwrap();
    gossip.handle_message(peer(1), want, &mut accept, much_later);
    let sent = drain_for(&mut gossip, much_later, Duration::from_secs(2));
    assert!(sent.iter().all(|(_, message)| !message.rumours.contains(&body(1))), "{sent:?}");
}

#[test]
fn what_was_lost_is_announced() {
    let start = Instant::now();
    let mut gossip = machine(1, start);
    let later = start + Duration::from_secs(1);
    gossip.say(body(1), later).unwrap();
    assert!(gossip.poll_message(later).is_some());
    gossip.handle_unsent(&peer(1), later);
    let sent = drain_for(&mut gossip, later, Duration::from_secs(2));
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].1.have, [RumourId::of(&body(1))]);
}

#[test]
fn a_neighbour_that_takes_nothing_gets_nothing_more_and_costs_a_bounded_queue() {
    let start = Instant::now();
    let mut gossip = machine(1, start);
    let mut now = start;
    let mut sent = 0;
    for number in 0..1000_u32 {
        now += Duration::from_millis(100);
        let mut long = vec![0; 1024];
        long[..4].copy_from_slice(&number.to_le_bytes());
        gossip.say(Body::from(long), now).unwrap();
        sent += usize::from(gossip.poll_message(now).is_some());
    }
    assert_eq!(sent, MAX_IN_FLIGHT);
    assert!(gossip.counters().overflowed >= 1000 - (MAX_QUEUE / 1024 + MAX_IN_FLIGHT + 1) as u64);
    assert_eq!(gossip.next_timeout(), None);
}

#[test]
fn forged_rumours_count_against_who_passes_them_on_and_go_no_further() {
    let start = Instant::now();
    let mut gossip = machine(3, start);
    let mut reject = |_: &Body| Verdict::Reject;
    gossip.handle_message(peer(1), rumours([body(1)]), &mut reject, start);
    gossip.handle_message(peer(2), rumours([body(1)]), &mut accept, start);
    assert_eq!(gossip.offences(&peer(1)), 1);
    assert_eq!(gossip.offences(&peer(2)), 1, "it is remembered as forged");
    let sent = drain_for(&mut gossip, start, Duration::from_secs(2));
    assert!(sent.iter().all(|(_, it)| it.rumours.is_empty() && it.have.is_empty()));
}

#[test]
fn a_flood_is_cut_at_the_rate_of_one_neighbour() {
    let now = Instant::now();
    let mut gossip = machine(2, now);
    for number in 0..10_000_u32 {
        gossip.handle_message(peer(1), rumours([body(number)]), &mut accept, now);
    }
    assert_eq!(gossip.counters().accepted, RUMOUR_BURST);
    gossip.handle_message(peer(2), rumours([body(20_000)]), &mut accept, now);
    assert_eq!(gossip.counters().accepted, RUMOUR_BURST + 1, "others are not affected");
}

#[test]
fn too_long_rumours_are_not_taken_from_anybody() {
    let now = Instant::now();
    let mut gossip = machine(1, now);
    let long: Body = vec![0; MAX_BODY + 1].into();
    assert_eq!(gossip.say(long.clone(), now), Err(TooLong(MAX_BODY + 1)));
    gossip.handle_message(peer(1), rumours([long]), &mut accept, now);
    assert_eq!((gossip.offences(&peer(1)), gossip.counters().accepted), (1, 0));
    gossip.say(vec![0; MAX_BODY].into(), now).unwrap();
    gossip.say(vec![1; MAX_BODY].into(), now).unwrap();
    let sent = drain_for(&mut gossip, now, Duration::from_secs(1));
    assert_eq!(sent.iter().map(|(_, message)| message.rumours.len()).sum::<usize>(), 2);
}

#[derive(Clone, Debug)]
enum Step {
    Joins(u8, bool),
    Leaves(u8),
    Says(u32),
    Sends(u8, Message),
    Acknowledges(u8),
    Loses(u8),
    Passes(u64),
    Polls,
}

fn message() -> impl Strategy<Value = Message> {
    let id = prop_oneof![
        any::<u64>().prop_map(RumourId),
        (0_u32..50).prop_map(|number| RumourId::of(&body(number))),
    ];
    let ids = || prop::collection::vec(id.clone(), 0..20);
    let bodies = prop::collection::vec((0_u32..50).prop_map(body), 0..8);
    (bodies, ids(), ids(), any::<bool>(), any::<bool>()).prop_map(
        |(rumours, have, want, prune, graft)| Message { rumours, have, want, prune, graft },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let who = || 0_u8..70;
    prop_oneof![
        (who(), any::<bool>()).prop_map(|(peer, near)| Step::Joins(peer, near)),
        who().prop_map(Step::Leaves),
        (0_u32..50).prop_map(Step::Says),
        (0_u8..8, message()).prop_map(|(peer, message)| Step::Sends(peer, message)),
        who().prop_map(Step::Acknowledges),
        who().prop_map(Step::Loses),
        (0_u64..40_000).prop_map(Step::Passes),
        Just(Step::Polls),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens in whatever order: no panic, bounded messages, no message to strangers, every
    /// body judged at most once while it is remembered, and time makes progress.
    #[test]
    fn any_order_of_events_keeps_the_bounds(steps in prop::collection::vec(step(), 0..200)) {
        let mut now = Instant::now();
        let mut gossip = Gossip::new(Config::default(), 3);
        let mut judged = BTreeSet::new();
        for step in steps {
            match step {
                Step::Joins(number, near) => {
                    gossip.handle_neighbour(peer(number), near, now);
                }
                Step::Leaves(number) => gossip.handle_gone(&peer(number), now),
                Step::Says(number) => gossip.say(body(number), now).unwrap(),
                Step::Sends(number, message) => {
                    let mut judge = |body: &Body| {
                        assert!(judged.insert(body.clone()), "judged twice");
                        match body[0] % 3 {
                            0 => Verdict::Accept,
                            1 => Verdict::Ignore,
                            _ => Verdict::Reject,
                        }
                    };
                    gossip.handle_message(peer(number), message, &mut judge, now);
                }
                Step::Acknowledges(number) => gossip.handle_sent(&peer(number), now),
                Step::Loses(number) => gossip.handle_unsent(&peer(number), now),
                Step::Passes(millis) => {
                    now += Duration::from_millis(millis);
                    if millis > 1_000 {
                        judged.clear();
                    }
                }
                Step::Polls => {
                    let known: BTreeSet<PeerId> = gossip.neighbours().map(|it| *it.0).collect();
                    prop_assert!(known.len() <= MAX_NEIGHBOURS);
                    let mut count = 0;
                    while let Some((to, message)) = gossip.poll_message(now) {
                        prop_assert!(message.is_bounded() && known.contains(&to));
                        count += 1;
                    }
                    prop_assert!(count <= MAX_NEIGHBOURS, "one message to each at one time");
                    prop_assert!(gossip.next_timeout().is_none_or(|due| due > now));
                }
            }
        }
    }
}
