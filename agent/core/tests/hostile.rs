//! Members that lie, against the parts of an agent that decide.

use netbuild_core::{
    digest::Hash,
    hlc::Hlc,
    key::ActionKey,
    ledger::{Cost, Item, Ledger},
    link::{Report, Sample},
    peer::PeerId,
    peers::Peers,
    plan::Policy,
    reconcile::{
        Difference, MAX_DIFFERENCE, MAX_MESSAGE, MAX_ROUNDS, Message, Session, Step, respond,
    },
};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

fn item(n: u64) -> Item {
    Item { key: ActionKey(Hash::of(&n.to_le_bytes()).0), hlc: Hlc(n), sum: n }
}

fn ledger(numbers: impl IntoIterator<Item = u64>) -> Ledger {
    let mut ledger = Ledger::default();
    numbers.into_iter().for_each(|n| ledger.handle_have(item(n), Cost::default()));
    ledger
}

/// How a session with a liar went: how often it was answered, and what was believed.
struct Told {
    rounds: u32,
    difference: Option<Difference>,
}

/// Holds a session of one who is honest; whatever is answered, it must end and stay in its bounds.
fn session_with(ours: &Ledger, mut answer: impl FnMut(u32, &Message) -> Option<Message>) -> Told {
    let (mut session, mut question) = Session::start(ours, 7);
    let mut rounds = 0;
    loop {
        assert!(question.as_bytes().len() <= MAX_MESSAGE && rounds < MAX_ROUNDS);
        rounds += 1;
        let Some(answer) = answer(rounds, &question) else {
            return Told { rounds, difference: None };
        };
        match session.handle(ours, &answer) {
            Ok(Step::Send(next)) => question = next,
            Ok(Step::Done(found)) => {
                assert!(found.theirs.len().max(found.ours.len()) <= MAX_DIFFERENCE);
                return Told { rounds, difference: Some(found) };
            }
            Err(_) => return Told { rounds, difference: None },
        }
    }
}

/// The question as if it had been asked under another nonce, for which every fingerprint is wrong.
fn under_another_nonce(question: &Message, nonce: u64) -> Message {
    let mut bytes = question.as_bytes().to_vec();
    bytes[2..10].copy_from_slice(&nonce.to_le_bytes());
    Message::from_bytes(bytes).expect("it is as long as it was")
}

#[test]
fn one_who_says_that_everything_differs_is_heard_to_an_end() {
    let ours = ledger(0..20_000);
    let told = session_with(&ours, |round, question| {
        respond(&ours, &under_another_nonce(question, u64::from(round))).ok()
    });
    // The sets are equal, so all that it can have invented is that versions differ.
    assert!(told.rounds <= MAX_ROUNDS);
    if let Some(difference) = told.difference {
        let here: BTreeSet<Item> = (0..20_000).map(item).collect();
        assert!(difference.ours.iter().all(|item| here.contains(item)));
        assert!(difference.theirs.is_empty(), "what is here is not wanted");
    }
}

#[test]
fn one_who_invents_records_in_every_round_is_heard_to_an_end() {
    let ours = ledger(0..2_000);
    let mut theirs = ledger(1_000..3_000);
    let mut invented = 10_000_u64;
    let told = session_with(&ours, |_, question| {
        let answer = respond(&theirs, question).ok();
        (0..5_000).for_each(|n| theirs.handle_have(item(invented + n), Cost::default()));
        invented += 5_000;
        answer
    });
    assert!(told.rounds < MAX_ROUNDS);
}

#[test]
fn one_who_answers_the_same_for_ever_is_left() {
    let (ours, theirs) = (ledger(0..20_000), ledger(10_000..30_000));
    let mut first = None;
    let told = session_with(&ours, |_, question| {
        first.get_or_insert_with(|| respond(&theirs, question).unwrap()).clone().into()
    });
    assert!(told.rounds < 10, "{} rounds", told.rounds);
}

#[test]
fn one_who_swaps_sides_or_cuts_answers_is_left() {
    let (ours, theirs) = (ledger(0..5_000), ledger(2_000..7_000));
    assert_eq!(session_with(&ours, |_, question| Some(question.clone())).rounds, 1);
    let told = session_with(&ours, |_, question| {
        let answer = respond(&theirs, question).unwrap();
        let bytes = answer.as_bytes();
        Message::from_bytes(bytes[..bytes.len() * 2 / 3].to_vec()).ok()
    });
    assert!(told.rounds < MAX_ROUNDS);
}

#[test]
fn a_short_question_is_not_answered_at_more_than_the_length_of_a_message() {
    let theirs = ledger(0..100_000);
    let (_, short) = Session::start(&ledger([]), 1);
    let (_, long) = Session::start(&ledger(200_000..300_000), 1);
    for question in [short, long] {
        for nonce in 0..4 {
            let question = under_another_nonce(&question, nonce);
            let answer = respond(&theirs, &question).unwrap();
            assert!(answer.as_bytes().len() <= MAX_MESSAGE);
        }
    }
}

#[test]
fn absurd_reports_change_nothing_of_what_was_measured() {
    let id = |n: u8| PeerId([n; 32]);
    let now = Instant::now();
    let mut peers = Peers::new(Policy::default(), "here".into());
    for (peer, region) in [(1, "near"), (2, "far"), (3, "here")] {
        peers.handle_joined(id(peer), region.into(), Vec::new());
    }
    for (peer, ms, bytes) in [(1, 10, 50_000_000), (2, 200, 1_000_000)] {
        let rtt = Sample::Rtt(Duration::from_millis(ms));
        let goodput = Sample::Goodput { bytes, elapsed: Duration::from_secs(1) };
        [rtt, goodput].into_iter().for_each(|sample| peers.handle_sample(&id(peer), sample, now));
    }
    let order = |peers: &Peers| -> Vec<PeerId> {
        let plan = peers.plan(1 << 20, &|peer, _| *peer != id(3), false, &|_| None, 0.5, now);
        plan.steps.iter().filter_map(|step| step.who.peer()).collect()
    };
    let before = (order(&peers), [1, 2].map(|peer| peers.belief(&id(peer), now)));
    let report = |peer, rtt, goodput| Report {
        peer: id(peer),
        rtt,
        jitter: Duration::ZERO,
        loss: 0.0,
        goodput,
        age: Duration::ZERO,
    };
    // The near one is the worst there is, the far one is here, and so is one that does not exist.
    let lies = vec![
        report(1, Duration::from_secs(60), Some(1.0)),
        report(2, Duration::ZERO, Some(1e12)),
        report(77, Duration::ZERO, Some(f64::INFINITY)),
        report(3, Duration::ZERO, Some(f64::NAN)),
    ];
    for teller in [3, 77] {
        peers.handle_reports(id(teller), lies.clone(), now);
    }
    assert_eq!(before.0, [id(1), id(2)]);
    assert_eq!((order(&peers), [1, 2].map(|peer| peers.belief(&id(peer), now))), before);
}
