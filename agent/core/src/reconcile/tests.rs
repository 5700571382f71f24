use super::*;
use crate::{
    hlc::Hlc,
    key::ActionKey,
    ledger::{Cost, Ledger},
};
use proptest::prelude::*;
use std::{collections::BTreeSet, sync::LazyLock};

fn key(n: u64) -> ActionKey {
    ActionKey(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

fn item(n: u64) -> Item {
    Item { key: key(n), hlc: Hlc(n), sum: n }
}

fn ledger(items: impl IntoIterator<Item = Item>) -> Ledger {
    let mut ledger = Ledger::default();
    items.into_iter().for_each(|item| ledger.handle_have(item, Cost::default()));
    ledger
}

/// How a session went.
struct Run {
    difference: Difference,
    rounds: u32,
    bytes: usize,
}

/// Runs a session to its end; between round trips the sets may be changed.
fn run_with(
    ours: &mut Ledger,
    theirs: &mut Ledger,
    nonce: u64,
    mut between: impl FnMut(&mut Ledger, &mut Ledger),
) -> Run {
    let (mut session, mut request) = Session::start(ours, nonce);
    let mut bytes = 0;
    loop {
        let answer = respond(theirs, &request).unwrap();
        for message in [&request, &answer] {
            assert!(message.as_bytes().len() <= MAX_MESSAGE);
            bytes += message.as_bytes().len();
        }
        between(ours, theirs);
        match session.handle(ours, &answer).unwrap() {
            Step::Send(next) => request = next,
            Step::Done(difference) => {
                return Run { difference, rounds: session.rounds(), bytes };
            }
        }
    }
}

fn run(ours: &mut Ledger, theirs: &mut Ledger, nonce: u64) -> Run {
    run_with(ours, theirs, nonce, |_, _| {})
}

fn sorted(items: &[Item]) -> Vec<Item> {
    let set: BTreeSet<Item> = items.iter().copied().collect();
    assert_eq!(set.len(), items.len(), "told twice");
    set.into_iter().collect()
}

fn assert_finds_all(ours: &mut Ledger, theirs: &mut Ledger, nonce: u64) -> Run {
    let all = |ledger: &Ledger| -> BTreeSet<Item> {
        ledger.have_after(None, usize::MAX).into_iter().collect()
    };
    let (mine, other) = (all(ours), all(theirs));
    let run = run(ours, theirs, nonce);
    assert!(run.difference.complete);
    assert_eq!(
        sorted(&run.difference.theirs),
        other.difference(&mine).copied().collect::<Vec<_>>()
    );
    assert_eq!(sorted(&run.difference.ours), mine.difference(&other).copied().collect::<Vec<_>>());
    run
}

#[test]
fn a_million_records_that_differ_in_a_thousand_cost_little() {
    const N: u64 = 1_000_000;
    let mut ours = ledger((0..N).map(item));
    let mut theirs = ours.clone();
    let same = run(&mut ours, &mut theirs, 1);
    assert_eq!(same.difference, Difference { complete: true, ..Difference::default() });
    assert!(same.bytes <= 1024 && same.rounds == 1, "{} bytes", same.bytes);

    // All of the thousand on the other side, which is the dearest: each is told in full.
    (N..N + 1000).for_each(|n| theirs.handle_have(item(n), Cost::default()));
    let added = run(&mut ours, &mut theirs, 2);
    assert_eq!(
        sorted(&added.difference.theirs),
        sorted(&(N..N + 1000).map(item).collect::<Vec<_>>())
    );
    assert!(added.difference.ours.is_empty() && added.difference.complete);
    println!("1000 theirs: {} bytes, {} round trips", added.bytes, added.rounds);
    assert!(added.bytes <= 200_000 && added.rounds <= 6, "{} in {}", added.bytes, added.rounds);

    // All on this side.
    let run_back = run(&mut theirs, &mut ours, 3);
    println!("1000 ours: {} bytes, {} round trips", run_back.bytes, run_back.rounds);
    assert_eq!(run_back.difference.ours.len(), 1000);
    assert!(run_back.bytes <= 200_000 && run_back.rounds <= 6);

    // One record alone, in another version.
    (N..N + 1000).for_each(|n| ours.handle_have(item(n), Cost::default()));
    theirs.handle_have(Item { hlc: Hlc(7), ..item(5) }, Cost::default());
    let one = run(&mut ours, &mut theirs, 4);
    assert_eq!((one.difference.theirs.len(), one.difference.ours.len()), (1, 1));
    println!("one: {} bytes, {} round trips", one.bytes, one.rounds);
    assert!(one.bytes <= 4096 && one.rounds <= 6, "{} in {}", one.bytes, one.rounds);
}

#[test]
fn an_empty_side_is_told_everything_in_bounded_messages() {
    const N: u64 = 20_000;
    for (mine, other) in [(0, N), (N, 0), (3, N), (N, 3)] {
        let (mut ours, mut theirs) = (ledger((0..mine).map(item)), ledger((0..other).map(item)));
        let run = assert_finds_all(&mut ours, &mut theirs, 1);
        let told = run.difference.theirs.len() * 46;
        assert!(run.bytes <= told + told / 3 + 2048, "{} bytes for {told}", run.bytes);
    }
}

#[test]
fn a_session_that_meets_its_bound_is_gone_on_with_by_the_next() {
    const N: u64 = MAX_DIFFERENCE as u64 + 10_000;
    let mut ours = ledger([]);
    let mut theirs = ledger((0..N).map(item));
    let first = run(&mut ours, &mut theirs, 1);
    assert_eq!((first.difference.theirs.len(), first.difference.complete), (MAX_DIFFERENCE, false));
    first.difference.theirs.iter().for_each(|item| ours.handle_have(*item, Cost::default()));
    let second = assert_finds_all(&mut ours, &mut theirs, 2);
    assert_eq!(second.difference.theirs.len(), 10_000);
}

#[test]
fn what_is_found_may_be_taken_on_the_way() {
    let (ours, theirs) = (ledger([]), ledger((0..20_000).map(item)));
    let (mut session, mut request) = Session::start(&ours, 1);
    let (mut found, mut parts) = (Vec::new(), 0);
    let rest = loop {
        match session.handle(&ours, &respond(&theirs, &request).unwrap()).unwrap() {
            Step::Send(next) => request = next,
            Step::Done(rest) => break rest,
        }
        let part = session.take_found();
        parts += usize::from(!part.theirs.is_empty());
        found.extend(part.theirs);
    };
    found.extend(rest.theirs);
    assert!(rest.complete && parts > 1);
    assert_eq!(sorted(&found).len(), 20_000);
}

#[test]
fn keys_that_share_their_first_bits_cost_round_trips_and_no_more() {
    // Invented keys: all alike but for bits 40 to 72.
    let crafted = |n: u32| {
        let mut key = [0x55; 32];
        key[5..9].copy_from_slice(&n.to_be_bytes());
        Item { key: ActionKey(key), hlc: Hlc(1), sum: 1 }
    };
    let spread = |n: u32| crafted(n.wrapping_mul(0x9e37_79b9));
    let mut ours = ledger((0..400).map(spread));
    let mut theirs = ledger((100..500).map(spread));
    assert_finds_all(&mut ours, &mut theirs, 1);
    // Many beyond the end of ranges: the session ends, and others are found all the same.
    let mut theirs = ledger((0..300).map(crafted).chain((0..50).map(item)));
    let run = run(&mut ours, &mut theirs, 2);
    assert!((0..50).all(|n| run.difference.theirs.contains(&item(n))));
}

#[test]
fn sets_that_change_meanwhile_are_equal_after_the_next_session() {
    let mut ours = ledger((0..3000).map(item));
    let mut theirs = ledger((1000..4000).map(item));
    let mut n = 10_000;
    let changing = run_with(&mut ours, &mut theirs, 1, |ours, theirs| {
        for _ in 0..50 {
            n += 1;
            ours.handle_have(item(n), Cost::default());
            theirs.handle_have(item(n + 100_000), Cost::default());
            ours.handle_lost(&key(n - 9_000));
        }
    });
    for found in changing.difference.theirs {
        ours.handle_have(found, Cost::default());
    }
    let last = assert_finds_all(&mut ours, &mut theirs, 2);
    assert!(last.rounds <= 8);
}

#[test]
fn answers_to_something_else_are_refused() {
    let (ours, theirs) = (ledger((0..100).map(item)), ledger((50..150).map(item)));
    let (mut session, hello) = Session::start(&ours, 1);
    assert!(respond(&theirs, &respond(&theirs, &hello).unwrap()).is_err());
    assert!(session.handle(&ours, &hello).is_err());
    // More ranges answered than asked about.
    let mut answer = respond(&theirs, &hello).unwrap().as_bytes().to_vec();
    answer[2] = 2;
    let (mut session, _) = Session::start(&ours, 1);
    assert!(session.handle(&ours, &Message::from_bytes(answer).unwrap()).is_err());
    // A peer that never answers anything ends the session.
    let (mut session, _) = Session::start(&ours, 1);
    let nothing = Message::from_bytes(vec![1, 2, 0, 0, 0, 0]).unwrap();
    let step = session.handle(&ours, &nothing).unwrap();
    assert!(matches!(step, Step::Done(Difference { complete: false, .. })));
    assert!(Message::from_bytes(vec![0; MAX_MESSAGE + 1]).is_err());
}

#[test]
fn the_format_is_pinned() {
    let (mut ours, mut theirs) = (ledger((0..300).map(item)), ledger((5..305).map(item)));
    let (mut session, mut request) = Session::start(&ours, 1);
    let mut hasher = blake3::Hasher::new();
    loop {
        let answer = respond(&theirs, &request).unwrap();
        hasher.update(request.as_bytes()).update(answer.as_bytes());
        match session.handle(&ours, &answer).unwrap() {
            Step::Send(next) => request = next,
            Step::Done(_) => break,
        }
    }
    assert_finds_all(&mut ours, &mut theirs, 1);
    assert_eq!(
        hasher.finalize().to_hex().as_str(),
        "f1a78306c1720770882b55c72a9d22e7d021307d0d4854a03101a92c1a453c4e"
    );
}

/// Keys that are near one another as well as far apart.
fn items() -> impl Strategy<Value = Vec<Item>> {
    let one = (0..80u8, prop::sample::select(vec![0usize, 1, 2, 7, 8, 31]), 0..3u64);
    let one = one.prop_map(|(byte, at, hlc)| {
        let mut key = [0; 32];
        key[at] = byte;
        Item { key: ActionKey(key), hlc: Hlc(hlc), sum: hlc }
    });
    prop_oneof![
        prop::collection::vec((0..500u64).prop_map(item), 0..300),
        prop::collection::vec(one, 0..25)
    ]
}

/// Made once, as an empty ledger is already a few megabytes.
static SOME: LazyLock<Ledger> = LazyLock::new(|| ledger((0..500).map(item)));
static OTHERS: LazyLock<Ledger> = LazyLock::new(|| ledger((300..800).map(item)));

proptest! {
    #[test]
    fn it_finds_what_a_naive_comparison_finds(ours in items(), theirs in items(), nonce: u64) {
        let (mut ours, mut theirs) = (ledger(ours), ledger(theirs));
        assert_finds_all(&mut ours, &mut theirs, nonce);
    }

    #[test]
    fn hostile_requests_are_answered_within_bounds_or_refused(
        kind in 0..3u8, bytes in prop::collection::vec(prop_oneof![0..4u8, 0x40..0x44u8, 0x80..0x84u8, any::<u8>()], 0..400)
    ) {
        let message = Message::from_bytes([&[1, kind][..], &bytes].concat()).unwrap();
        let ledger = &*SOME;
        if let Ok(answer) = respond(ledger, &message) {
            prop_assert!(answer.as_bytes().len() <= MAX_MESSAGE);
        }
    }

    #[test]
    fn a_hostile_responder_can_only_end_a_session(
        answers in prop::collection::vec((0..3u8, prop::collection::vec(prop_oneof![0..8u8, any::<u8>()], 0..200)), 1..8)
    ) {
        let ledger = &*SOME;
        let (mut session, _) = Session::start(ledger, 1);
        for (answered, bytes) in answers {
            let answer = [&[1, 2, answered, 0, 0, 0][..], &bytes].concat();
            match session.handle(ledger, &Message::from_bytes(answer).unwrap()) {
                Ok(Step::Send(next)) => prop_assert!(next.as_bytes().len() <= MAX_MESSAGE),
                Ok(Step::Done(_)) | Err(_) => break,
            }
        }
    }

    #[test]
    fn a_damaged_answer_is_refused_or_gives_records_of_the_ranges_asked_about(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)
    ) {
        let (ours, theirs) = (&*OTHERS, &*SOME);
        let (mut session, mut request) = Session::start(ours, 1);
        for _ in 0..=MAX_ROUNDS {
            let mut bytes = respond(theirs, &request).unwrap().as_bytes().to_vec();
            for (at, flip) in &flips {
                let at = at.index(bytes.len());
                bytes[at] ^= flip;
            }
            match session.handle(ours, &Message::from_bytes(bytes).unwrap()) {
                Ok(Step::Send(next)) => request = next,
                Ok(Step::Done(_)) | Err(_) => return Ok(()),
            }
        }
        prop_assert!(false, "the session did not end");
    }
}
