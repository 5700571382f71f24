//! What is said, passed on, counted and held against whom.

use super::*;

#[test]
fn a_rumour_counts_once_and_only_under_its_own_name() {
    let now = Instant::now();
    let mut brain = brain(now);
    let_in(&mut brain, peer(2), now);
    let_in(&mut brain, peer(3), now);
    let news = voice(2).say(&Announcement::Held(held(3))).unwrap();
    let stolen: Body = {
        let mut stolen = news.body.to_vec();
        stolen[..32].copy_from_slice(&peer(3).0);
        stolen.into()
    };
    let mut later = news.body.to_vec();
    later[39] = later[39].wrapping_add(1);
    let outsider = Voice::new(identity(2), &MeshKey([8; 32]), 1000, &[1; 32])
        .say(&Announcement::Held(held(3)))
        .unwrap();
    // By a stranger, under another's name, with another number, under another key, cut short; then the
    // truth, and the truth again.
    hear(&mut brain, peer(9), vec![news.body.clone()], now);
    let forged = vec![stolen, later.into(), outsider.body, news.body[1..].into()];
    hear(&mut brain, peer(3), forged, now);
    assert_eq!(events(&mut brain), []);
    assert_eq!(brain.counters().rejected_gossip, 4);
    hear(&mut brain, peer(3), vec![news.body.clone()], now);
    hear(&mut brain, peer(2), vec![news.body], now);
    let told = events(&mut brain);
    assert_eq!(told, [Event::Held { peer: peer(2), held: held(3) }]);
}

#[test]
fn who_passes_on_what_is_forged_is_shut_out_and_the_others_are_heard() {
    let now = Instant::now();
    let mut brain = brain(now);
    let_in(&mut brain, peer(2), now);
    let_in(&mut brain, peer(3), now);
    for n in 0..MOST_OFFENCES {
        let forged = [&peer(2).0[..], &n.to_be_bytes(), &[0; 200]].concat();
        hear(&mut brain, peer(3), vec![forged.into()], now);
    }
    assert!(actions(&mut brain, now).contains(&Action::Close { peer: peer(3) }));
    assert_eq!(events(&mut brain), [Event::Left { peer: peer(3) }]);
    assert_eq!(brain.counters().banned, 1);
    // It comes back at once, and later.
    brain.handle_disconnected(&peer(3), now);
    brain.handle_connected(peer(3), address(3), false, None, now + SECOND);
    assert!(actions(&mut brain, now + SECOND).contains(&Action::Close { peer: peer(3) }));
    let news = rumour(&mut voice(2), &Announcement::Held(held(1)));
    hear(&mut brain, peer(2), vec![news], now);
    assert_eq!(events(&mut brain).len(), 1);
    let later = now + brain.timing.ban;
    let_in(&mut brain, peer(3), later);
}

#[test]
fn what_cannot_be_read_counts_against_its_sender() {
    let now = Instant::now();
    let mut brain = brain(now);
    let_in(&mut brain, peer(2), now);
    for _ in 1..MOST_OFFENCES {
        brain.handle_request(peer(2), Token(1), Request::Gossip(vec![0xff; 9]), now);
        assert!(brain.can_ask(&peer(2)));
    }
    brain.handle_broken(&peer(2), now);
    assert!(!brain.can_ask(&peer(2)));
    let counters = brain.counters();
    assert_eq!(counters.rejected_gossip, u64::from(MOST_OFFENCES) - 1);
    assert_eq!((counters.rejected_messages, counters.banned), (1, 1));
}

#[test]
fn a_flood_is_not_looked_at_and_its_sender_is_shut_out() {
    let now = Instant::now();
    let mut brain = brain(now);
    let_in(&mut brain, peer(2), now);
    let_in(&mut brain, peer(3), now);
    let mut flooder = voice(3);
    let mut heard = 0;
    while brain.can_ask(&peer(3)) {
        let many = (0..100).map(|_| rumour(&mut flooder, &Announcement::Held(held(1))));
        hear(&mut brain, peer(3), many.collect(), now);
        heard += events(&mut brain).len();
        assert!(heard < 5000);
    }
    assert_eq!(brain.counters().banned, 1);
    assert!(brain.can_ask(&peer(2)));
}

#[test]
fn what_a_member_says_is_passed_on_to_the_others() {
    let now = Instant::now();
    let mut brain = brain(now);
    let_in(&mut brain, peer(2), now);
    let_in(&mut brain, peer(3), now);
    let news = Announcement::Held(held(2));
    let body = rumour(&mut voice(2), &news);
    hear(&mut brain, peer(2), vec![body], now);
    let done = let_pass(&mut brain, now, now + SECOND);
    let to_third: Vec<Action> = done
        .into_iter()
        .filter(|action| matches!(action, Action::Ask { peer: p, .. } if *p == peer(3)))
        .collect();
    assert!(said(&to_third).contains(&news));
}

#[test]
fn what_a_slow_user_misses_is_counted() {
    let now = Instant::now();
    let mut brain = brain(now);
    let_in(&mut brain, peer(2), now);
    let mut speaker = voice(2);
    while brain.counters().dropped_held == 0 {
        let news = rumour(&mut speaker, &Announcement::Held(held(MAX_HELD)));
        hear(&mut brain, peer(2), vec![news], now);
    }
    assert_eq!(brain.counters().dropped_held, MAX_HELD as u64);
    events(&mut brain);
    let news = rumour(&mut speaker, &Announcement::Held(held(1)));
    hear(&mut brain, peer(2), vec![news], now);
    assert_eq!(events(&mut brain).len(), 1);
}

#[test]
fn an_agent_whose_clock_was_set_back_goes_on_where_others_heard_it() {
    let now = Instant::now();
    let mut brain = brain(now);
    brain.handle_connected(peer(2), address(5), false, None, now);
    let before = 5_000_000;
    let proof = Prover::new(&KEY).prove(&peer(2), &brain.me);
    let (presence, seen) = (presence(9), address(1));
    let request = Request::Admit { proof, presence, seen, roll: 0, heard: before };
    brain.handle_request(peer(2), Token(1), request, now);
    let done = let_pass(&mut brain, now, now + 5 * SECOND);
    let mut spoken = done.iter().filter_map(|action| match action {
        Action::Ask { request: Request::Gossip(bytes), .. } => gossip::decode(bytes).ok(),
        _ => None,
    });
    let body = spoken.find_map(|message| message.rumours.first().cloned()).unwrap();
    let Signed { sequence, .. } = Ear::new(&KEY).hear(&body).unwrap().signed;
    assert!(sequence > before);
}

#[test]
fn a_new_agent_learns_of_all_from_one_and_whoever_is_between_tells_the_others() {
    let now = Instant::now();
    let mut old = brain(now);
    let_in(&mut old, peer(2), now);
    let rumours = (10..200u8)
        .map(|n| rumour(&mut voice(n), &Announcement::Presence(presence_at(1000 + u16::from(n)))));
    hear(&mut old, peer(2), rumours.collect(), now);
    // Another agent, which knows peer 3, is asked by the test to read the roll of peer 4.
    let mut between = brain(now);
    let_in(&mut between, peer(3), now);
    let_in(&mut between, peer(4), now);
    events(&mut between);
    let mut after = None;
    let mut pages = 0;
    between.compare_rolls(peer(4), 12345, now + 20 * SECOND);
    let now = now + 20 * SECOND;
    let mut told = Vec::new();
    loop {
        let done = actions(&mut between, now);
        told.extend(said(&done));
        let asked = done.into_iter().find_map(|action| match action {
            Action::Ask { number, request: Request::Roll { after }, .. } => Some((number, after)),
            _ => None,
        });
        let Some((number, next)) = asked else { break };
        assert!(pages == 0 || next > after);
        after = next;
        let page = old.page_of_roll(&peer(2), after, now).unwrap();
        between.handle_response(peer(4), number, page, now);
        pages += 1;
        assert!(pages < 10);
    }
    let joined = events(&mut between);
    assert_eq!(joined.iter().filter(|e| matches!(e, Event::Joined { .. })).count(), 190);
    told.extend(said(&let_pass(&mut between, now, now + 5 * SECOND)));
    let told = told.iter().filter(|said| matches!(said, Announcement::Presence(_))).count();
    assert!(told >= 190, "{told}");
}
