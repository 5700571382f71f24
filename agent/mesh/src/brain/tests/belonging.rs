//! Who is admitted, known, and gone.

use super::*;

#[test]
fn a_peer_with_a_proof_is_answered_and_told_of() {
    let now = Instant::now();
    let mut brain = brain(now);
    brain.handle_connected(peer(2), address(5), false, None, now);
    let request = admit(&brain, peer(2));
    brain.handle_request(peer(2), Token(1), request, now);
    let done = actions(&mut brain, now);
    let proof = Prover::new(&KEY).prove(&brain.me, &peer(2));
    assert!(done.iter().any(|action| matches!(
        action,
        Action::Answer { token: Token(1), response: Response::Admitted { proof: p, .. } } if *p == proof
    )));
    let addresses = vec![SocketAddr::new(address(0).ip(), 9)];
    let joined = Event::Joined { peer: peer(2), presence: presence(9), addresses, connected: true };
    assert_eq!(events(&mut brain), [joined]);
}

#[test]
fn a_wrong_proof_is_refused_once_and_cut() {
    let now = Instant::now();
    let mut brain = brain(now);
    brain.handle_connected(peer(2), address(5), false, None, now);
    let wrong = Request::Admit {
        proof: [0; 32],
        presence: presence(9),
        seen: address(1),
        roll: 0,
        heard: 0,
    };
    let refused = Action::Answer { token: Token(1), response: Response::Refused };
    brain.handle_request(peer(2), Token(1), wrong.clone(), now);
    assert!(actions(&mut brain, now).contains(&refused));
    // Neither another guess nor the truth helps on the same connection.
    brain.handle_request(peer(2), Token(2), wrong, now);
    let right = admit(&brain, peer(2));
    brain.handle_request(peer(2), Token(3), right, now);
    let ignored = [2, 3].map(|n| Action::Ignore { token: Token(n) });
    assert_eq!(actions(&mut brain, now), ignored);
    let close = Action::Close { peer: peer(2) };
    assert!(actions(&mut brain, now + REFUSAL_LINGER).contains(&close));
    assert_eq!(brain.counters().refused_admissions, 1);
    assert_eq!(events(&mut brain), []);
}

#[test]
fn a_silent_peer_is_cut_and_counted_once() {
    let now = Instant::now();
    let mut brain = brain(now);
    brain.handle_connected(peer(2), address(5), false, None, now);
    for (token, request) in
        [Request::Roll { after: None }, Request::Exchange(vec![1]), Request::Part]
            .into_iter()
            .enumerate()
    {
        let token = Token(token as u64);
        brain.handle_request(peer(2), token, request, now);
        assert!(actions(&mut brain, now).contains(&Action::Ignore { token }));
    }
    let close = Action::Close { peer: peer(2) };
    for late in [5, 10, 15] {
        assert!(actions(&mut brain, now + late * SECOND).contains(&close));
    }
    assert_eq!(brain.counters().refused_admissions, 1);
}

#[test]
fn what_is_asked_too_early_is_served_when_the_answer_arrives() {
    let now = Instant::now();
    let mut brain = brain(now);
    let target = Target::Address(address(2));
    brain.handle_connected(peer(2), address(2), true, Some(target), now);
    let done = actions(&mut brain, now);
    let asked = done.iter().find_map(|action| match action {
        Action::Ask { number, request: Request::Admit { .. }, .. } => Some(*number),
        _ => None,
    });
    let question = vec![1, 2, 3];
    let early = Action::Exchange { token: Token(1), peer: peer(2), question: question.clone() };
    brain.handle_request(peer(2), Token(1), Request::Exchange(question), now);
    assert!(!actions(&mut brain, now).contains(&early));
    let answer = admitted(&brain, peer(2), vec![address(77)]);
    brain.handle_response(peer(2), asked.unwrap(), answer, now);
    let done = actions(&mut brain, now);
    assert!(done.contains(&early));
    let meet = Target::Address(address(77));
    assert!(done.iter().any(|a| matches!(a, Action::Dial(dial) if dial.target == meet)));
}

#[test]
fn a_dialled_peer_has_to_prove_itself_too() {
    let now = Instant::now();
    let mut brain = brain(now);
    let target = Target::Address(address(2));
    brain.handle_connected(peer(2), address(2), true, Some(target), now);
    actions(&mut brain, now);
    let mut answer = admitted(&brain, peer(2), vec![address(77)]);
    if let Response::Admitted { proof, .. } = &mut answer {
        *proof = [0; 32];
    }
    brain.handle_response(peer(2), 1, answer, now);
    assert_eq!(actions(&mut brain, now), [Action::Close { peer: peer(2) }]);
    assert_eq!(brain.counters().refused_admissions, 1);
    assert_eq!(events(&mut brain), []);
}

#[test]
fn a_member_that_started_anew_is_cut_so_that_both_begin_afresh() {
    let now = Instant::now();
    let mut brain = brain(now);
    let_in(&mut brain, peer(2), now);
    brain.handle_connected(peer(2), address(2), false, None, now);
    let anew = Presence { started: 2000, ..presence(10) };
    let anew = admit_as(&brain, peer(2), anew);
    brain.handle_request(peer(2), Token(5), anew, now);
    let done = actions(&mut brain, now);
    assert!(done.contains(&Action::Close { peer: peer(2) }), "{done:?}");
    assert!(done.contains(&Action::Ignore { token: Token(5) }), "{done:?}");
    assert_eq!(events(&mut brain), [Event::Left { peer: peer(2) }]);
    assert_eq!(brain.counters().refused_admissions, 0);
    brain.handle_disconnected(&peer(2), now);
    let_in(&mut brain, peer(2), now);
}

#[test]
fn a_member_that_dialled_at_the_same_time_is_answered_and_stays() {
    let now = Instant::now();
    let mut brain = brain(now);
    brain.handle_connected(peer(2), address(2), false, None, now);
    let_in(&mut brain, peer(2), now);
    let request = admit(&brain, peer(2));
    brain.handle_request(peer(2), Token(5), request, now);
    let done = actions(&mut brain, now);
    assert!(done.iter().any(|action| matches!(action, Action::Answer { token: Token(5), .. })));
    assert!(!done.contains(&Action::Close { peer: peer(2) }));
    assert_eq!(events(&mut brain), []);
}

#[test]
fn a_member_too_many_is_told_of_others() {
    let now = Instant::now();
    let mut brain = brain(now);
    let members = u8::try_from(MAX_INBOUND).unwrap();
    for n in 0..members {
        let_in(&mut brain, peer(n + 10), now);
    }
    brain.handle_connected(peer(200), address(5), false, None, now);
    let request = admit(&brain, peer(200));
    brain.handle_request(peer(200), Token(1), request, now);
    let done = actions(&mut brain, now);
    assert!(
        matches!(&done[..], [Action::Answer { response: Response::Full { members }, .. }] if !members.is_empty()),
        "{done:?}"
    );
    assert_eq!(brain.counters().refused_for_room, 1);
}

#[test]
fn a_member_that_is_only_heard_of_is_one_until_it_is_silent_for_long() {
    let now = Instant::now();
    let mut brain = brain(now);
    let_in(&mut brain, peer(2), now);
    let here = rumour(&mut voice(8), &Announcement::Presence(presence_at(88)));
    hear(&mut brain, peer(2), vec![here], now);
    let joined = Event::Joined {
        peer: peer(8),
        presence: presence_at(88),
        addresses: vec![address(9)],
        connected: false,
    };
    assert_eq!(events(&mut brain), [joined]);
    let counters = brain.counters();
    assert_eq!((counters.members, counters.connected), (2, 1));
    // It is met, in so small a mesh.
    let done = let_pass(&mut brain, now, now + 2 * SECOND);
    let meet = Target::Peer(peer(8));
    assert!(done.iter().any(|a| matches!(a, Action::Dial(dial) if dial.target == meet)));
    let interval = brain.timing.presence;
    let_pass(&mut brain, now, now + 3 * interval);
    assert_eq!(events(&mut brain), []);
    let_pass(&mut brain, now + 3 * interval, now + 4 * interval);
    assert_eq!(events(&mut brain), [Event::Left { peer: peer(8) }]);
    assert_eq!(brain.counters().members, 1, "a connected member need not speak");
}

#[test]
fn a_lost_connection_is_told_to_those_that_had_none() {
    let now = Instant::now();
    let mut brain = brain(now);
    let_in(&mut brain, peer(2), now);
    let_in(&mut brain, peer(3), now);
    brain.handle_disconnected(&peer(3), now);
    assert_eq!(events(&mut brain), [Event::Left { peer: peer(3) }]);
    let gone = Announcement::Gone { peer: peer(3), started: 1000 };
    let done = let_pass(&mut brain, now, now + 5 * SECOND);
    assert!(!said(&done).contains(&gone), "everybody else saw it as well");

    let now = now + 5 * SECOND;
    let far = rumour(&mut voice(8), &Announcement::Presence(presence_at(88)));
    hear(&mut brain, peer(2), vec![far], now);
    let_in(&mut brain, peer(3), now);
    brain.handle_disconnected(&peer(3), now);
    let done = let_pass(&mut brain, now, now + 5 * SECOND);
    assert_eq!(said(&done).iter().filter(|said| **said == gone).count(), 1);
}

#[test]
fn who_is_said_to_be_gone_is_unless_connected_or_this_agent() {
    let now = Instant::now();
    let mut brain = brain(now);
    let_in(&mut brain, peer(2), now);
    let mut liar = voice(4);
    let far = rumour(&mut voice(8), &Announcement::Presence(presence_at(88)));
    let earlier = Announcement::Gone { peer: peer(8), started: 999 };
    let gone = Announcement::Gone { peer: peer(8), started: 1000 };
    let lie = Announcement::Gone { peer: peer(2), started: 1000 };
    let me = Announcement::Gone { peer: brain.me, started: 1000 };
    let rumours = vec![far, rumour(&mut liar, &earlier), rumour(&mut liar, &lie)];
    hear(&mut brain, peer(2), rumours, now);
    assert!(matches!(&events(&mut brain)[..], [Event::Joined { .. }]));
    hear(&mut brain, peer(2), vec![rumour(&mut liar, &gone)], now);
    assert_eq!(events(&mut brain), [Event::Left { peer: peer(8) }]);
    let_pass(&mut brain, now, now + 2 * SECOND);
    let now = now + 2 * SECOND;
    hear(&mut brain, peer(2), vec![rumour(&mut liar, &me)], now);
    let done = let_pass(&mut brain, now, now + 2 * SECOND);
    assert!(said(&done).iter().any(|said| matches!(said, Announcement::Presence(_))));
}

#[test]
fn a_member_that_takes_leave_stays_a_member() {
    let now = Instant::now();
    let mut brain = brain(now);
    let_in(&mut brain, peer(2), now);
    brain.handle_request(peer(2), Token(1), Request::Part, now);
    brain.handle_disconnected(&peer(2), now);
    assert_eq!(events(&mut brain), [Event::Disconnected { peer: peer(2) }]);
    assert!(!brain.can_ask(&peer(2)));
    let_in(&mut brain, peer(2), now);
    assert_eq!(brain.counters().members, 1);
}

#[test]
fn a_large_mesh_is_known_and_partly_connected() {
    let mut now = Instant::now();
    let mut brain = brain(now);
    let_in(&mut brain, peer(2), now);
    let here = |n: u8| Presence { region: String::new(), ..presence_at(1000 + u16::from(n)) };
    let rumours = (10..200u8).map(|n| rumour(&mut voice(n), &Announcement::Presence(here(n))));
    hear(&mut brain, peer(2), rumours.collect(), now);
    assert_eq!(events(&mut brain).len(), 190);
    let mut met = BTreeSet::new();
    for _ in 0..20 {
        for action in actions(&mut brain, now) {
            let Action::Dial(Dial { target: Target::Peer(peer), addresses }) = action else {
                continue;
            };
            met.insert(peer);
            let target = Some(Target::Peer(peer));
            brain.handle_connected(peer, addresses[0], true, target, now);
            let number = actions(&mut brain, now).into_iter().find_map(|action| match action {
                Action::Ask { number, request: Request::Admit { .. }, .. } => Some(number),
                _ => None,
            });
            let mut answer = admitted(&brain, peer, Vec::new());
            if let Response::Admitted { presence, .. } = &mut answer {
                presence.clone_from(&brain.roster.get(&peer).unwrap().presence);
            }
            brain.handle_response(peer, number.unwrap(), answer, now);
        }
        now += SECOND;
    }
    assert!((5..40).contains(&met.len()), "{}", met.len());
    let counters = brain.counters();
    assert_eq!(counters.members, 191);
    assert!(counters.connected < 40, "{counters:?}");
}
