//! Space that is given back: what is removed stays so, what is not is not lost, and the journal shrinks.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod common;

use common::{noise, put, read, record, with_outputs};
use netbuild_core::{digest::Digest, key::ActionKey};
use netbuild_proto::record::SealedRecord;
use netbuild_store::{DiskStore, Store};
use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

/// Small blobs that are put: three segments of the least length that is written anew.
const BLOBS: u64 = 1500;
/// Bytes of each.
const SIZE: usize = 8 << 10;

fn open(dir: &Path) -> DiskStore {
    DiskStore::open(dir, "test").unwrap()
}

fn journal_bytes(dir: &Path) -> u64 {
    let segments = fs::read_dir(dir.join("journal")).unwrap();
    segments.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

fn without_pause(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The first record of an action; some have an output.
fn first(n: u8) -> SealedRecord {
    if n % 4 == 3 { with_outputs(n, 10, &[("out", Digest::of(&[n]))]) } else { record(n, 10, 1) }
}

/// What is in a store and what was removed from it.
#[derive(Default)]
struct Known {
    here: Vec<(Digest, Vec<u8>)>,
    gone: Vec<Digest>,
    records: Vec<SealedRecord>,
    conflicts: Vec<(SealedRecord, Vec<SealedRecord>)>,
    gone_records: Vec<ActionKey>,
}

impl Known {
    /// Puts many small blobs, a large one, records and conflicts, and removes most of them.
    fn fill(store: &DiskStore) -> Self {
        let mut known = Self::default();
        let all: Vec<_> = (0..BLOBS).map(|seed| noise(SIZE, seed)).collect();
        let blobs: Vec<_> = all.iter().map(|bytes| Digest::of(bytes)).collect();
        for (index, (blob, bytes)) in blobs.iter().zip(&all).enumerate() {
            store.put_blob(blob, &mut &bytes[..]).unwrap();
            if index.is_multiple_of(6) {
                let n = (index / 6) as u8;
                put(store, &first(n));
                if n.is_multiple_of(10) {
                    // Replaced by another result, which loses in its turn.
                    put(store, &record(n, 11, 2));
                    put(store, &record(n, 12, 3));
                }
            }
        }
        for (index, (blob, bytes)) in blobs.into_iter().zip(all).enumerate() {
            if index % 7 == 3 {
                known.here.push((blob, bytes));
            } else {
                assert!(store.remove_blob(&blob).unwrap());
                known.gone.push(blob);
            }
        }
        let large = noise(300_000, 7);
        let blob = store.put_content(&mut &large[..]).unwrap();
        known.here.push((blob, large));
        for n in 0..=((BLOBS - 1) / 6) as u8 {
            let key = ActionKey([n; 32]);
            if n % 4 == 1 {
                assert!(store.remove_record(&key).unwrap());
                known.gone_records.push(key);
            } else if n.is_multiple_of(10) {
                let lost = vec![record(n, 11, 2), first(n)];
                known.conflicts.push((record(n, 12, 3), lost));
            } else {
                known.records.push(first(n));
            }
        }
        // One was removed and put again.
        let again = known.gone.pop().unwrap();
        let bytes = noise(SIZE, BLOBS - 1);
        assert_eq!(Digest::of(&bytes), again);
        store.put_blob(&again, &mut &bytes[..]).unwrap();
        known.here.push((again, bytes));
        known
    }

    fn check(&self, store: &dyn Store) {
        for (blob, bytes) in &self.here {
            assert_eq!(read(store, blob).as_ref(), Some(bytes));
        }
        let missing = store.find_missing(&self.gone).unwrap();
        assert_eq!(missing.len(), self.gone.len());
        for record in &self.records {
            assert_eq!(store.record(&record.record().key).unwrap().as_ref(), Some(record));
        }
        for key in &self.gone_records {
            assert_eq!(store.record(key).unwrap(), None);
            assert_eq!(store.conflict(key).unwrap(), None);
        }
        for (kept, lost) in &self.conflicts {
            let conflict = store.conflict(&kept.record().key).unwrap().unwrap();
            assert_eq!((&conflict.kept, &conflict.others), (kept, lost));
        }
        let stats = store.stats();
        assert_eq!(stats.blobs, self.here.len() as u64);
        let bytes: usize = self.here.iter().map(|(_, bytes)| bytes.len()).sum();
        assert_eq!(stats.blob_bytes, bytes as u64);
        assert_eq!(stats.records, (self.records.len() + self.conflicts.len()) as u64);
        assert_eq!(stats.quarantined, 0);
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// Opens what a kill left, with its index and without.
fn check_after_kill(known: &Known, killed: &Path) {
    for index_too in [true, false] {
        if !index_too {
            fs::remove_dir_all(killed.join("index")).unwrap();
        }
        known.check(&open(killed));
    }
}

#[test]
fn space_of_what_is_removed_is_given_back_at_once_and_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let known = {
        let store = open(dir.path());
        let known = Known::fill(&store);
        known.check(&store);
        let before = journal_bytes(dir.path());
        let done = store.compact(&mut without_pause).unwrap();
        known.check(&store);
        let after = journal_bytes(dir.path());
        assert!(done.segments > 0, "{done:?}");
        assert_eq!(before + done.copied_bytes - done.freed_bytes, after);
        assert!(after < before / 3, "{before} bytes became {after}");
        // What is left is of use.
        assert_eq!(store.compact(&mut without_pause).unwrap().segments, 0);
        known
    };
    known.check(&open(dir.path()));
    check_after_kill(&known, dir.path());
    // Notes of removal alone do not keep a store busy.
    let store = open(dir.path());
    for (blob, _) in &known.here {
        store.remove_blob(blob).unwrap();
    }
    store.compact(&mut without_pause).unwrap();
    assert_eq!(store.compact(&mut without_pause).unwrap().segments, 0);
    drop(store);
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    assert_eq!(open(dir.path()).stats().blobs, 0);
}

#[test]
fn a_kill_while_a_segment_is_written_anew_loses_nothing_and_brings_nothing_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let known = Known::fill(&store);
    let killed = tempfile::tempdir().unwrap();
    let mut copies: Vec<PathBuf> = Vec::new();
    let mut moment = 0;
    let mut keep = |store: &Path| {
        moment += 1;
        if !u32::is_multiple_of(moment, 3) {
            return;
        }
        let copied = killed.path().join(copies.len().to_string());
        copy(store, &copied);
        copies.push(copied);
    };
    let mut steps = 0;
    store
        .compact(&mut |_| {
            steps += 1;
            keep(dir.path());
            // Given up in the middle, it is gone on with.
            if steps == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    store
        .compact(&mut |_| {
            keep(dir.path());
            ControlFlow::Continue(())
        })
        .unwrap();
    (0..3).for_each(|_| keep(dir.path()));
    known.check(&store);
    drop(store);
    assert!(copies.len() > 5, "{} moments", copies.len());
    for killed in copies {
        check_after_kill(&known, &killed);
        // What was begun is ended after the crash.
        let store = open(&killed);
        store.compact(&mut without_pause).unwrap();
        known.check(&store);
        drop(store);
        check_after_kill(&known, &killed);
        fs::remove_dir_all(killed).unwrap();
    }
}

#[test]
fn damage_in_a_segment_that_is_written_anew_costs_what_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let known = Known::fill(&open(dir.path()));
    let path = dir.path().join("journal/00000001.log");
    let mut bytes = fs::read(&path).unwrap();
    let (blob, content) = &known.here[5];
    let at = bytes.windows(content.len()).position(|part| part == &content[..]).unwrap();
    bytes[at + 100] ^= 1;
    fs::write(&path, bytes).unwrap();
    let store = open(dir.path());
    store.compact(&mut without_pause).unwrap();
    assert!(!path.exists());
    assert_eq!(read(&store, blob), None);
    let rest = known.here.iter().filter(|(other, _)| other != blob);
    assert!(rest.clone().all(|(blob, bytes)| read(&store, blob).as_ref() == Some(bytes)));
    assert_eq!(store.stats().blobs, rest.count() as u64);
    assert_eq!(store.stats().quarantined, 1);
    store.put_blob(blob, &mut &content[..]).unwrap();
    known.here.iter().for_each(|(blob, bytes)| {
        assert_eq!(read(&store, blob).as_ref(), Some(bytes));
    });
}

#[test]
fn readers_and_writers_go_on_while_segments_are_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = &open(dir.path());
    let known = &Known::fill(store);
    let ended = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                let mut round = 0;
                while !ended.load(Ordering::Relaxed) || round < 20 {
                    for (blob, bytes) in known.here.iter().skip(thread).step_by(4) {
                        assert_eq!(read(store, blob).as_ref(), Some(bytes));
                    }
                    for record in &known.records {
                        let found = store.record(&record.record().key).unwrap();
                        assert_eq!(found.as_ref(), Some(record));
                    }
                    for (kept, lost) in &known.conflicts {
                        let conflict = store.conflict(&kept.record().key).unwrap().unwrap();
                        assert_eq!(&conflict.others, lost);
                    }
                    let bytes = noise(5_000, 1_000_000 + thread as u64 * 1_000 + round);
                    let blob = store.put_content(&mut &bytes[..]).unwrap();
                    assert_eq!(read(store, &blob), Some(bytes));
                    assert!(store.remove_blob(&blob).unwrap());
                    round += 1;
                }
            });
        }
        scope.spawn(|| {
            for round in 0..6 {
                // Makes garbage, so that there is always something to do.
                for seed in 0..600 {
                    let bytes = noise(SIZE, 5_000_000 + round * 1_000 + seed);
                    let blob = store.put_content(&mut &bytes[..]).unwrap();
                    assert!(store.remove_blob(&blob).unwrap());
                }
                store.compact(&mut without_pause).unwrap();
            }
            ended.store(true, Ordering::Relaxed);
        });
    });
    known.check(store);
    store.compact(&mut without_pause).unwrap();
    known.check(store);
}
