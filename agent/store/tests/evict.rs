//! A store that is full: what goes, what stays, and that nobody is hurt by it.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod common;

use common::{at, noise, put, read, record, with_outputs};
use netbuild_core::{
    digest::{Digest, Hash},
    evict::{Limits, Pin, Why},
    key::ActionKey,
};
use netbuild_store::{DiskStore, Evicted, Evicting, Store};
use std::{
    fs,
    ops::ControlFlow,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

fn open(dir: &Path) -> DiskStore {
    DiskStore::open(dir, "test").unwrap()
}

fn limits(max_bytes: u64) -> Limits {
    Limits { max_bytes, min_free: 0, max_age: None, grace: Duration::ZERO }
}

fn evict(store: &DiskStore, limits: &Limits, elsewhere: &[u8], dry_run: bool) -> Evicted {
    let refetch = |key: &ActionKey, _: &[u64]| {
        let held = elsewhere.iter().any(|n| *key == ActionKey([*n; 32]));
        held.then(|| Duration::from_millis(100))
    };
    let tell = |_: &str, part: f64| {
        assert!((0.0..=1.0).contains(&part));
        ControlFlow::Continue(())
    };
    let expire = limits.max_age.is_some();
    store.evict(limits, &Evicting { refetch: &refetch, expire, dry_run, tell: &tell }).unwrap()
}

/// Results of one small and one large blob each.
fn fill(store: &DiskStore, keys: impl Iterator<Item = u8>) -> Vec<(u8, [Digest; 2])> {
    keys.map(|key| {
        let blobs = [3_000, 100_000].map(|size| {
            let bytes = noise(size, u64::from(key) * 1_000 + size as u64);
            store.put_content(&mut &bytes[..]).unwrap()
        });
        put(store, &with_outputs(key, 5, &[("a", blobs[0]), ("b", blobs[1])]));
        (key, blobs)
    })
    .collect()
}

fn is_whole(store: &DiskStore, (key, blobs): &(u8, [Digest; 2])) -> bool {
    store.record(&ActionKey([*key; 32])).unwrap().is_some()
        && store.find_missing(blobs).unwrap().is_empty()
}

#[test]
fn what_others_have_goes_first_and_is_known_still() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let results = fill(&store, 1..=40);
    let elsewhere: Vec<u8> = (11..=40).collect();
    let total = store.usage().unwrap().total();
    let limits = limits(total * 3 / 4);
    let would = evict(&store, &limits, &elsewhere, true);
    assert!(results.iter().all(|result| is_whole(&store, result)), "a dry run");
    let done = evict(&store, &limits, &elsewhere, false);
    // What was noted of the first look takes a little of the index too.
    assert!(!would.actions.is_empty() && done.actions.starts_with(&would.actions));
    assert!(store.usage().unwrap().total() < total * 2 / 3);
    assert!(done.reasons.keys().eq([&Why::HeldElsewhere]), "{done:?}");
    assert_eq!(done.hints, done.actions.len() as u64);
    for result in &results {
        let key = ActionKey([result.0; 32]);
        assert!(store.record(&key).unwrap().is_some());
        assert_eq!(is_whole(&store, result), !done.actions.contains(&key));
        if done.actions.contains(&key) {
            assert_eq!(store.find_missing(&result.1).unwrap(), result.1);
        }
    }
    // With room, nothing goes.
    assert_eq!(evict(&store, &limits, &elsewhere, false), Evicted::default());
}

#[test]
fn what_nobody_else_has_goes_with_its_record_and_shared_blobs_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let results = fill(&store, 1..=10);
    let shared = results[0].1[0];
    put(&store, &with_outputs(99, 5, &[("a", shared)]));
    store.pin(Pin::Action(ActionKey([99; 32])), "").unwrap();
    let done = evict(&store, &limits(0), &[], false);
    assert_eq!((done.actions.len(), done.blobs, done.hints), (10, 19, 0));
    assert_eq!(store.stats().records, 1);
    assert!(store.has_blob(&shared).unwrap());
    assert_eq!(store.stats().blobs, 1);
}

#[test]
fn pinned_promised_and_just_used_things_stay_and_pins_outlive_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let results = {
        let store = open(dir.path());
        let results = fill(&store, 1..=8);
        assert!(store.pin(Pin::Action(ActionKey([1; 32])), "lib\n:x").unwrap());
        assert!(store.pin(Pin::Blob(results[1].1[1]), "").unwrap());
        assert!(store.pin(Pin::Blob(results[2].1[1]), "").unwrap());
        assert!(store.unpin(&Pin::Blob(results[2].1[1])).unwrap());
        assert!(!store.unpin(&Pin::Blob(results[2].1[1])).unwrap());
        results
    };
    let store = open(dir.path());
    let pins: Vec<_> = store.pins().into_iter().map(|pin| (pin.pin, pin.label)).collect();
    let expected = [
        (Pin::Blob(results[1].1[1]), String::new()),
        (Pin::Action(ActionKey([1; 32])), "lib:x".to_owned()),
    ];
    assert_eq!(pins, expected);
    let absent = Digest::of(b"absent");
    let wanted = [results[3].1[1], absent];
    assert_eq!(store.promise(Some(7), &wanted).unwrap(), [absent]);
    assert_eq!(store.promise(None, &[results[4].1[1]]).unwrap(), []);
    evict(&store, &limits(0), &[], false);
    let stay = [results[1].1[1], results[3].1[1], results[4].1[1]];
    assert!(is_whole(&store, &results[0]));
    assert_eq!(store.find_missing(&stay).unwrap(), []);
    assert_eq!(store.stats().blobs, 5);
    // Its owner is gone.
    store.release(7);
    evict(&store, &limits(0), &[], false);
    assert_eq!(store.find_missing(&stay).unwrap(), [results[3].1[1]]);

    let grace = Limits { grace: Duration::from_secs(600), ..limits(0) };
    let bytes = noise(50_000, 4);
    let blob = store.put_content(&mut &bytes[..]).unwrap();
    evict(&store, &grace, &[], false);
    assert_eq!(read(&store, &blob), Some(bytes));
}

#[test]
fn what_is_old_goes_although_there_is_room_and_a_use_makes_it_young() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    // By the stamps of their records, both were last used in 1970.
    put(&store, &record(1, 1, 0));
    put(&store, &record(2, 1, 0));
    let old = Limits { max_age: Some(Duration::from_secs(3600)), ..limits(u64::MAX) };
    assert!(store.record(&ActionKey([2; 32])).unwrap().is_some());
    drop(store);
    // The use is known to the next process.
    let store = open(dir.path());
    let done = evict(&store, &old, &[1, 2], false);
    assert_eq!((done.actions, done.hints), (vec![ActionKey([1; 32])], 0));
    assert!(store.record(&ActionKey([1; 32])).unwrap().is_none());
    assert!(store.record(&ActionKey([2; 32])).unwrap().is_some());
}

#[test]
fn a_file_that_the_index_lost_in_a_crash_does_not_take_space_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let blob = store.put_content(&mut &noise(200_000, 1)[..]).unwrap();
    let other = Digest::of(&noise(90_000, 2));
    let name = other.hash.to_string();
    fs::create_dir_all(dir.path().join("blobs").join(&name[..2])).unwrap();
    let path = dir.path().join("blobs").join(&name[..2]).join(&name);
    fs::write(&path, noise(90_000, 2)).unwrap();
    let done = evict(&store, &limits(0), &[], false);
    assert_eq!(done.blobs, 2);
    assert!(!path.exists() && !store.has_blob(&blob).unwrap());
}

/// Writers and readers with a limit that they exceed many times: every answer is right, and what is
/// taken stays near the limit. `examples/churn.rs` does it for longer and with more of them.
#[test]
fn many_use_it_while_it_is_full() {
    const LIMIT: u64 = 24 << 20;
    let dir = tempfile::tempdir().unwrap();
    let store = &open(dir.path());
    let (ended, most) = (&AtomicBool::new(false), &AtomicU64::new(0));
    let started = Instant::now();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8_u64)
            .map(|worker| {
                scope.spawn(move || {
                    let mut hits = 0;
                    for round in 0..150 {
                        let n = worker * 10_000 + round;
                        let bytes = noise(if n % 3 == 0 { 120_000 } else { 9_000 }, n);
                        let blob = Digest::of(&bytes);
                        store.put_blob(&blob, &mut &bytes[..]).unwrap();
                        let key = ActionKey(Hash::of(&n.to_le_bytes()).0);
                        let sealed = at(1, key, 5 + round, 0);
                        put(store, &sealed);
                        let promised = store.promise(Some(worker), &[blob]).unwrap().is_empty();
                        let found = read(store, &blob);
                        assert!(found.is_some() || !promised, "what was promised is gone");
                        assert!(found.is_none_or(|found| found == bytes));
                        store.release(worker);
                        let back = worker * 10_000 + round / 2;
                        let key = ActionKey(Hash::of(&back.to_le_bytes()).0);
                        if let Some(found) = store.record(&key).unwrap() {
                            assert_eq!(found.record().key, key);
                            hits += 1;
                        }
                    }
                    hits
                })
            })
            .collect();
        scope.spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                evict(store, &limits(LIMIT), &[], false);
                store.compact(&mut |_| ControlFlow::Continue(())).unwrap();
                most.fetch_max(store.usage().unwrap().total(), Ordering::Relaxed);
            }
        });
        let hits: u64 = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
        ended.store(true, Ordering::Relaxed);
        println!("{hits} records found in {:?}", started.elapsed());
        assert!(hits > 0);
    });
    evict(store, &limits(LIMIT), &[], false);
    store.compact(&mut |_| ControlFlow::Continue(())).unwrap();
    let usage = store.usage().unwrap();
    // One segment that is not written anew yet, at most.
    assert!(usage.total() < LIMIT + (5 << 20), "{usage:?}");
    assert_eq!(store.stats().quarantined, 0);
}

#[test]
fn who_adds_to_a_full_store_takes_away_what_goes_next_and_nothing_that_was_used_since() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let results = fill(&store, 1..=40);
    let bound = limits(store.usage().unwrap().total());
    let mut gone = evict(&store, &bound, &[], false).forgotten;
    assert!(!gone.is_empty());
    let left = |gone: &[ActionKey]| {
        let stays = |key: &u8| !gone.contains(&ActionKey([*key; 32]));
        results.iter().map(|(key, _)| *key).filter(stays).collect::<Vec<_>>()
    };
    // A use has the precision of a second.
    let used = left(&gone)[0];
    let looked = Instant::now();
    while looked.elapsed() < Duration::from_millis(1100) {
        store.record(&ActionKey([used; 32])).unwrap().unwrap();
    }
    // Nobody makes space meanwhile.
    let new = fill(&store, 101..=112);
    assert!(new.iter().all(|result| is_whole(&store, result)));
    let total = store.usage().unwrap().total();
    assert!(total <= bound.max_bytes + 300_000, "{total} of {}", bound.max_bytes);
    // What went is told by the next who asks.
    let told = evict(&store, &limits(u64::MAX), &[], false);
    assert!(!told.forgotten.is_empty() && told.bytes > 0);
    gone.extend(told.forgotten);
    assert!(left(&gone).contains(&used));
    for result in &results {
        assert_eq!(is_whole(&store, result), !gone.contains(&ActionKey([result.0; 32])));
    }
    assert!(evict(&store, &limits(u64::MAX), &[], false).forgotten.is_empty());
    // Without a bound nothing more goes.
    let more = fill(&store, 121..=132);
    assert!(more.iter().chain(&new).all(|result| is_whole(&store, result)));
}
