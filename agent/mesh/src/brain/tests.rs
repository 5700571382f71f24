//! Stories of one agent among peers that are played by the test.

use super::{admission::REFUSAL_LINGER, hearing::REPUBLISH_PAUSE, *};
use crate::{dialer::MAX_MEMBERS, event::Event, options::Catalog, seed::Seed};
use netbuild_core::{hlc::Hlc, peer::Identity};
use netbuild_proto::{membership::MAX_HELD, ticket::MeshKey};
use proptest::prelude::*;
use std::sync::Arc;

const KEY: MeshKey = MeshKey([7; 32]);
const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Nothing;

impl Catalog for Nothing {
    fn held_after(&self, _: Option<&ActionKey>, _: usize) -> Vec<Held> {
        Vec::new()
    }
}

fn brain(now: Instant) -> Brain {
    let options = Options {
        identity: Identity::from_seed(&[1; 32]),
        mesh_key: KEY,
        listen: address(1),
        allowed: None,
        region: String::new(),
        data_port: 1,
        seeds: vec![Seed { peer: None, addresses: vec![address(2)] }],
        catalog: Arc::new(Nothing),
        timing: Timing::default(),
    };
    Brain::new(&options, now)
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}

fn peer(n: u8) -> PeerId {
    PeerId([n; 32])
}

fn presence(data_port: u16) -> Presence {
    Presence { region: "r".into(), mesh_addresses: Vec::new(), data_port }
}

fn admit(brain: &Brain, id: PeerId) -> Request {
    Request::Admit { proof: Prover::new(&KEY).prove(&id, &brain.me), presence: presence(9) }
}

fn actions(brain: &mut Brain, now: Instant) -> Vec<Action> {
    std::iter::from_fn(|| brain.poll_action(now)).collect()
}

fn events(brain: &mut Brain) -> Vec<Event> {
    std::iter::from_fn(|| brain.outbox_mut().pop()).collect()
}

fn held(count: usize) -> Vec<Held> {
    let one =
        |n: usize| Held { key: ActionKey(*blake3::hash(&n.to_be_bytes()).as_bytes()), hlc: Hlc(1) };
    (0..count).map(one).collect()
}

/// Lets a peer in that dialled, and forgets what was done about it.
fn let_in(brain: &mut Brain, id: PeerId, now: Instant) {
    brain.handle_connected(id, address(id.0[0].into()), None, now);
    let request = admit(brain, id);
    brain.handle_request(id, Token(u64::from(id.0[0])), request, now);
    assert!(brain.peers.member(&id).is_some());
    actions(brain, now);
    events(brain);
}

#[test]
fn a_peer_with_a_proof_is_answered_and_read() {
    let now = Instant::now();
    let mut brain = brain(now);
    brain.handle_connected(peer(2), address(5), None, now);
    let request = admit(&brain, peer(2));
    brain.handle_request(peer(2), Token(1), request, now);
    let done = actions(&mut brain, now);
    let proof = Prover::new(&KEY).prove(&brain.me, &peer(2));
    assert!(done.iter().any(|action| matches!(
        action,
        Action::Answer { token: Token(1), response: Response::Admitted { proof: p, .. } } if *p == proof
    )));
    assert!(done.iter().any(|action| matches!(
        action,
        Action::Ask { request: Request::Held { after: None }, peer: p, .. } if *p == peer(2)
    )));
    let addresses = vec![SocketAddr::new(address(0).ip(), 9)];
    let joined = Event::Joined { peer: peer(2), presence: presence(9), addresses };
    assert_eq!(events(&mut brain), [joined]);
}

#[test]
fn a_wrong_proof_is_refused_once_and_cut() {
    let now = Instant::now();
    let mut brain = brain(now);
    brain.handle_connected(peer(2), address(5), None, now);
    let wrong = Request::Admit { proof: [0; 32], presence: presence(9) };
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
    brain.handle_connected(peer(2), address(5), None, now);
    let held = Request::Held { after: None };
    brain.handle_request(peer(2), Token(1), held, now);
    let ignored = Action::Ignore { token: Token(1) };
    assert!(actions(&mut brain, now).contains(&ignored));
    let close = Action::Close { peer: peer(2) };
    for late in [5, 10, 15] {
        assert!(actions(&mut brain, now + late * SECOND).contains(&close));
    }
    assert_eq!(brain.counters().refused_admissions, 1);
}

#[test]
fn a_page_that_is_asked_too_early_is_served_when_the_answer_arrives() {
    let now = Instant::now();
    let mut brain = brain(now);
    let target = Target::Address(address(2));
    brain.handle_connected(peer(2), address(2), Some(target), now);
    let done = actions(&mut brain, now);
    let asked = done.iter().find_map(|action| match action {
        Action::Ask { number, .. } => Some(*number),
        _ => None,
    });
    brain.handle_request(peer(2), Token(1), Request::Held { after: None }, now);
    let page = Action::Page { token: Token(1), after: None };
    assert!(!actions(&mut brain, now).contains(&page));
    let answer = Response::Admitted {
        proof: Prover::new(&KEY).prove(&peer(2), &brain.me),
        presence: presence(9),
        members: vec![address(77)],
    };
    brain.handle_response(peer(2), asked.unwrap(), answer, now);
    let done = actions(&mut brain, now);
    assert!(done.contains(&page));
    let meet = Target::Address(address(77));
    assert!(done.iter().any(|a| matches!(a, Action::Dial(dial) if dial.target == meet)));
}

#[test]
fn a_dialled_peer_has_to_prove_itself_too() {
    let now = Instant::now();
    let mut brain = brain(now);
    let target = Target::Address(address(2));
    brain.handle_connected(peer(2), address(2), Some(target), now);
    actions(&mut brain, now);
    let answer =
        Response::Admitted { proof: [0; 32], presence: presence(9), members: vec![address(77)] };
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
    let number = brain.next_number;
    brain.handle_response(peer(2), number, Response::Held(Vec::new()), now);
    assert_eq!(events(&mut brain), [Event::CaughtUp { peer: peer(2) }]);
    brain.handle_connected(peer(2), address(2), None, now);
    let anew = Request::Admit {
        proof: Prover::new(&KEY).prove(&peer(2), &brain.me),
        presence: presence(10),
    };
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
    brain.handle_connected(peer(2), address(2), None, now);
    brain.handle_connected(peer(2), address(2), Some(Target::Address(address(2))), now);
    let number = brain.next_number;
    let proof = Prover::new(&KEY).prove(&peer(2), &brain.me);
    let answer = Response::Admitted { proof, presence: presence(9), members: Vec::new() };
    brain.handle_response(peer(2), number, answer, now);
    actions(&mut brain, now);
    let request = admit(&brain, peer(2));
    brain.handle_request(peer(2), Token(5), request, now);
    let done = actions(&mut brain, now);
    assert!(done.iter().any(|action| matches!(action, Action::Answer { token: Token(5), .. })));
    let told = events(&mut brain);
    assert!(matches!(&told[..], [Event::Joined { .. }]), "{told:?}");
}

#[test]
fn a_full_mesh_refuses() {
    let now = Instant::now();
    let mut brain = brain(now);
    for n in 0..MAX_MEMBERS {
        let_in(&mut brain, peer(u8::try_from(n + 10).unwrap()), now);
    }
    brain.handle_connected(peer(200), address(5), None, now);
    let request = admit(&brain, peer(200));
    brain.handle_request(peer(200), Token(1), request, now);
    let refused = Action::Answer { token: Token(1), response: Response::Refused };
    assert_eq!(actions(&mut brain, now), [refused]);
}

fn sealed(sender: PeerId, announcement: &Announcement) -> Vec<u8> {
    let seal = Seal::new(&KEY);
    seal.seal(&sender, [1; NONCE], &announcement.encode()).unwrap()
}

fn gossip(forwarder: PeerId, sender: PeerId, sequence: u64, sealed: &[u8]) -> Gossip<'_> {
    Gossip { forwarder, sender, sequence, sealed }
}

#[test]
fn gossip_counts_once_and_only_under_its_own_name() {
    let now = Instant::now();
    let mut brain = brain(now);
    let_in(&mut brain, peer(2), now);
    let_in(&mut brain, peer(3), now);
    let news = sealed(peer(2), &Announcement::Held(held(3)));
    let hear = |brain: &mut Brain, via, from, sequence, bytes: &[u8]| {
        brain.handle_gossip(gossip(peer(via), peer(from), sequence, bytes), now)
    };
    // By a stranger, stolen by a member, garbled; then the truth, and the truth again.
    assert_eq!(hear(&mut brain, 9, 2, 100, &news), Verdict::Ignore);
    assert_eq!(hear(&mut brain, 3, 3, 100, &news), Verdict::Reject);
    assert_eq!(hear(&mut brain, 2, 2, 100, &news[1..]), Verdict::Reject);
    assert_eq!(events(&mut brain), []);
    assert_eq!(hear(&mut brain, 3, 2, 100, &news), Verdict::Accept);
    assert_eq!(hear(&mut brain, 3, 2, 100, &news), Verdict::Reject);
    assert_eq!(events(&mut brain).len(), 1);
    assert_eq!(brain.counters().rejected_gossip, 3);
    // A member that was not met yet is passed on and dialled, its records are read later.
    let far = sealed(peer(8), &Announcement::Held(held(3)));
    assert_eq!(hear(&mut brain, 3, 8, 1, &far), Verdict::Accept);
    let mut here = presence(9);
    here.mesh_addresses = vec![address(88)];
    let here = sealed(peer(8), &Announcement::Presence(here));
    assert_eq!(hear(&mut brain, 3, 8, 2, &here), Verdict::Accept);
    assert_eq!(events(&mut brain), []);
    let later = now + brain.timing.first_redial;
    let meet = Target::Peer(peer(8));
    assert!(
        actions(&mut brain, later)
            .iter()
            .any(|a| matches!(a, Action::Dial(dial) if dial.target == meet))
    );
}

#[test]
fn what_a_slow_user_misses_is_read_again() {
    let now = Instant::now();
    let mut brain = brain(now);
    let_in(&mut brain, peer(2), now);
    let number = brain.next_number;
    brain.handle_response(peer(2), number, Response::Held(Vec::new()), now);
    let mut sequence = 0;
    while brain.counters().dropped_held == 0 {
        sequence += 1;
        let news = sealed(peer(2), &Announcement::Held(held(MAX_HELD)));
        let heard = brain.handle_gossip(gossip(peer(2), peer(2), sequence, &news), now);
        assert_eq!(heard, Verdict::Accept);
    }
    assert!(!actions(&mut brain, now).iter().any(|a| matches!(a, Action::Ask { .. })));
    assert!(brain.next_timeout() > now, "nothing can be done until there is room");
    events(&mut brain);
    assert!(actions(&mut brain, now).iter().any(|a| matches!(a, Action::Ask { .. })));
}

#[test]
fn what_found_no_way_out_is_said_again_while_there_are_members() {
    let now = Instant::now();
    let mut brain = brain(now);
    brain.handle_unpublished(Announcement::Held(held(1)), now);
    let_in(&mut brain, peer(2), now);
    brain.handle_unpublished(Announcement::Held(held(2)), now);
    assert!(
        actions(&mut brain, now + REPUBLISH_PAUSE)
            .contains(&Action::Publish(Announcement::Held(held(2))))
    );
}

/// One thing that a stranger may do.
#[derive(Clone, Debug)]
enum Trick {
    Connect(bool),
    Disconnect,
    Admit([u8; 32]),
    Page,
    Answer(u64, Response),
    Gossip(Vec<u8>),
    Subscribe,
    Wait(u64),
}

fn trick() -> impl Strategy<Value = Trick> {
    let response = prop_oneof![
        Just(Response::Refused),
        any::<[u8; 32]>().prop_map(|proof| Response::Admitted {
            proof,
            presence: presence(9),
            members: vec![address(3)],
        }),
        (0usize..3).prop_map(|count| Response::Held(held(count))),
    ];
    prop_oneof![
        any::<bool>().prop_map(Trick::Connect),
        Just(Trick::Disconnect),
        any::<[u8; 32]>().prop_map(Trick::Admit),
        Just(Trick::Page),
        (0u64..5, response).prop_map(|(number, response)| Trick::Answer(number, response)),
        prop::collection::vec(any::<u8>(), 0..80).prop_map(Trick::Gossip),
        Just(Trick::Subscribe),
        (0u64..8000).prop_map(Trick::Wait),
    ]
}

proptest! {
    /// Whatever peers without the key do, in any order: no event, no page, no proof, no member; and
    /// the brain never asks to be polled at once for ever.
    #[test]
    fn a_stranger_gets_nothing(tricks in prop::collection::vec((2u8..5, trick()), 0..80)) {
        let mut now = Instant::now();
        let mut brain = brain(now);
        for (token, (n, trick)) in (0..).zip(tricks) {
            let id = peer(n);
            match trick {
                Trick::Connect(dialled) => {
                    let target = dialled.then(|| Target::Address(address(2)));
                    brain.handle_connected(id, address(2), target, now);
                }
                Trick::Disconnect => brain.handle_disconnected(&id, now),
                Trick::Admit(proof) => {
                    let request = Request::Admit { proof, presence: presence(9) };
                    brain.handle_request(id, Token(token), request, now);
                }
                Trick::Page => brain.handle_request(id, Token(token), Request::Held { after: None }, now),
                Trick::Answer(number, response) => brain.handle_response(id, number, response, now),
                Trick::Gossip(bytes) => {
                    let verdict = brain.handle_gossip(gossip(id, id, token, &bytes), now);
                    prop_assert_eq!(verdict, Verdict::Ignore);
                }
                Trick::Subscribe => brain.handle_subscribed(&id, now),
                Trick::Wait(millis) => now += Duration::from_millis(millis),
            }
            for action in actions(&mut brain, now) {
                let admitted = matches!(action, Action::Answer { response: Response::Admitted { .. }, .. });
                prop_assert!(!admitted && !matches!(action, Action::Page { .. }), "{:?}", action);
                if let Action::Dial(dial) = action {
                    brain.handle_dial_failed(&dial.target, now);
                }
            }
            prop_assert!(brain.next_timeout() > now);
            prop_assert!(brain.outbox().is_empty());
            prop_assert_eq!(brain.counters().members, 0);
        }
    }
}
