//! A store that is looked through: whatever is wrong with it is found, named, and mended when asked.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

#[expect(dead_code, reason = "other tests take more of it")]
mod common;

use common::{noise, put, read, record};
use netbuild_core::digest::Digest;
use netbuild_store::{Cursor, DiskStore, Fault, Finding, Inspect, Store, Subject};
use std::{
    fs,
    num::NonZeroUsize,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

struct Filled {
    dir: tempfile::TempDir,
    blobs: Vec<(Digest, Vec<u8>)>,
}

impl Filled {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = DiskStore::open(dir.path(), "test").unwrap();
        let put_one = |n: u64| {
            let bytes = noise([300, 20_000, 70_000, 3 << 20][n as usize % 4] + n as usize, n);
            (store.put_content(&mut &bytes[..]).unwrap(), bytes)
        };
        let blobs = (0..40).map(put_one).collect();
        (0..20).for_each(|key| put(&store, &record(key, 3, 0)));
        drop(store);
        Self { dir, blobs }
    }

    fn open(&self) -> DiskStore {
        DiskStore::open(self.dir.path(), "test").unwrap()
    }

    fn file(&self, nth: usize) -> PathBuf {
        let name = self.large(nth).hash.to_string();
        self.dir.path().join("blobs").join(&name[..2]).join(name)
    }

    /// The nth blob that has a file.
    fn large(&self, nth: usize) -> Digest {
        let mut large = self.blobs.iter().map(|(blob, _)| *blob).filter(|blob| blob.size > 16_384);
        large.nth(nth).unwrap()
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// Looks through all of a store; says what was found, and how many blobs and records there were.
fn all(store: &DiskStore, deep: bool, repair: bool) -> (Vec<Finding>, u64, u64) {
    let pace = |_| ControlFlow::Continue(());
    let how = Inspect { deep, repair, threads: NonZeroUsize::new(3).unwrap(), pace: &pace };
    let (mut found, mut blobs, mut records) = (Vec::new(), 0, 0);
    let mut from = Some(Cursor::default());
    while let Some(cursor) = from {
        let step = store.inspect(&cursor, &how).unwrap();
        assert!(step.next.is_none_or(|next| next > cursor));
        (blobs, records) = (blobs + step.blobs, records + step.records);
        found.extend(step.findings);
        from = step.next;
    }
    (found, blobs, records)
}

#[test]
fn a_store_in_order_has_nothing_wrong_and_everything_is_looked_at() {
    let filled = Filled::new();
    for (deep, repair) in [(false, false), (true, false), (true, true)] {
        assert_eq!(all(&filled.open(), deep, repair), (Vec::new(), 40, 20));
    }
}

#[test]
fn damage_is_named_and_only_repair_puts_it_aside() {
    let filled = Filled::new();
    flip(&filled.file(0), 19_000);
    flip(&filled.file(1), 3);
    fs::write(filled.file(2), b"short").unwrap();
    fs::remove_file(filled.file(3)).unwrap();
    let store = filled.open();
    let faults = |found: &[Finding]| -> Vec<(Digest, Fault)> {
        let of = |one: &Finding| match one.subject {
            Subject::Blob(blob) => (blob, one.fault),
            _ => panic!("{one:?}"),
        };
        let mut faults: Vec<_> = found.iter().map(of).collect();
        faults.sort_by_key(|(blob, _)| (0..9).find(|nth| filled.large(*nth) == *blob));
        faults
    };
    let [bit, other_bit, short, missing] = [0, 1, 2, 3].map(|nth| filled.large(nth));
    let at_sight = [(short, Fault::Damaged), (missing, Fault::Missing)];
    let (found, ..) = all(&store, false, false);
    assert_eq!(faults(&found), at_sight);
    let whole = [&[(bit, Fault::Damaged), (other_bit, Fault::Damaged)], &at_sight[..]].concat();
    for repair in [false, false, true] {
        let (found, ..) = all(&store, true, repair);
        assert_eq!(faults(&found), whole);
        assert!(found.iter().all(|one| one.mended == repair), "{found:?}");
    }
    assert_eq!(all(&store, true, false), (Vec::new(), 36, 20));
    assert_eq!(fs::read_dir(filled.dir.path().join("quarantine")).unwrap().count(), 3);
    for (blob, bytes) in &filled.blobs {
        let lost = whole.iter().any(|(lost, _)| lost == blob);
        assert_eq!(store.has_blob(blob).unwrap(), !lost);
        store.put_blob(blob, &mut &bytes[..]).unwrap();
    }
    assert_eq!(all(&store, true, false), (Vec::new(), 40, 20));
}

#[test]
fn damage_in_the_journal_is_found_by_its_entries() {
    let filled = Filled::new();
    let journal = filled.dir.path().join("journal/00000001.log");
    let len = fs::metadata(&journal).unwrap().len() as usize;
    for eighth in 0..8 {
        flip(&journal, eighth * len / 8 + 40);
    }
    let store = filled.open();
    for repair in [false, true] {
        let (found, blobs, records) = all(&store, true, repair);
        assert_eq!((found.len(), blobs, records), (8, 40, 20), "{found:?}");
        assert!(found.iter().all(|one| one.fault == Fault::Damaged && one.mended == repair));
        assert!(found.iter().all(|one| one.fault.is_loss()));
    }
    let (found, blobs, records) = all(&store, true, false);
    assert_eq!((found, blobs + records), (Vec::new(), 52));
    // Nothing more is to be found in the journal than the index has.
    let going = || ControlFlow::Continue(());
    assert_eq!(store.check_index(false, &going).unwrap(), Some(Vec::new()));
}

#[test]
fn orphans_are_taken_in_when_they_are_what_they_say_and_strays_are_left_alone() {
    let (filled, other) = (Filled::new(), tempfile::tempdir().unwrap());
    let donor = DiskStore::open(other.path(), "test").unwrap();
    let store = filled.open();
    let orphans: Vec<Digest> =
        (90..93).map(|n| donor.put_content(&mut &noise(50_000, n)[..]).unwrap()).collect();
    let place = |root: &Path, blob: &Digest| {
        let name = blob.hash.to_string();
        root.join("blobs").join(&name[..2]).join(name)
    };
    for orphan in &orphans {
        let to = place(filled.dir.path(), orphan);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(place(other.path(), orphan), to).unwrap();
    }
    flip(&place(filled.dir.path(), &orphans[0]), 7);
    let strays = [filled.file(0).with_file_name("notes.txt"), filled.file(0).with_extension("bak")];
    strays.iter().for_each(|stray| fs::write(stray, b"somebody's").unwrap());

    let count = |found: &[Finding], fault| found.iter().filter(|one| one.fault == fault).count();
    let (found, ..) = all(&store, false, false);
    assert_eq!([Fault::Orphaned, Fault::Stray].map(|fault| count(&found, fault)), [3, 2]);
    let (found, ..) = all(&store, false, true);
    let kinds = [Fault::Orphaned, Fault::Damaged, Fault::Stray];
    assert_eq!(kinds.map(|fault| count(&found, fault)), [2, 1, 2]);
    assert!(read(&store, &orphans[1]).is_some() && read(&store, &orphans[0]).is_none());
    let (found, blobs, _) = all(&store, true, true);
    assert_eq!((found.len(), count(&found, Fault::Stray), blobs), (2, 2, 42));
    assert!(strays.iter().all(|stray| stray.exists()));
}

#[test]
fn what_a_new_index_lacks_of_blobs_comes_back_when_they_are_read() {
    let filled = Filled::new();
    let (blob, bytes) = filled.blobs.iter().max_by_key(|(blob, _)| blob.size).unwrap();
    let store = filled.open();
    let manifest = store.manifest(blob).unwrap().unwrap();
    let sketch = store.sketch(blob).unwrap().unwrap();
    drop(store);
    fs::remove_dir_all(filled.dir.path().join("index")).unwrap();
    let store = filled.open();
    let last = manifest.chunks().last().unwrap();
    assert!(store.chunk(last).unwrap().is_none() && store.similar(&sketch, 1).unwrap().is_empty());
    assert_eq!(all(&store, true, true).0, Vec::new());
    assert_eq!(store.similar(&sketch, 1).unwrap(), [(*blob, 1.0)]);
    let end = &bytes[bytes.len() - last.len as usize..];
    assert_eq!(store.chunk(last).unwrap().as_deref(), Some(end));
}

#[test]
fn a_look_through_can_be_broken_off_anywhere_and_gone_on_with() {
    let filled = Filled::new();
    flip(&filled.file(4), 9);
    let store = filled.open();
    let (calls, mut limit, mut looked_at) = (AtomicU64::new(0), 10, 0);
    let mut found = Vec::new();
    let mut from = Some(Cursor::default());
    while let Some(cursor) = from {
        calls.store(0, Ordering::Relaxed);
        let pace = |_| match calls.fetch_add(1, Ordering::Relaxed) >= limit {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let how = Inspect { deep: true, repair: false, threads: NonZeroUsize::MIN, pace: &pace };
        let step = store.inspect(&cursor, &how).unwrap();
        if step.next == Some(cursor) {
            limit += 40;
        }
        looked_at += step.blobs + step.records;
        found.extend(step.findings);
        from = step.next.map(|next| next.to_string().parse().unwrap());
    }
    assert_eq!((looked_at, found.len()), (60, 1));
}
