//! A data directory that was damaged, killed or taken: never a wrong byte, and the rest is still served.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod common;

use common::{noise, put, read, record};
use netbuild_core::{chunk::MAX_CHUNK, digest::Digest};
use netbuild_proto::record::SealedRecord;
use netbuild_store::{DiskStore, OpenError, Store, StoreError};
use std::{
    ffi::OsStr,
    fs,
    io::Read as _,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
};

/// A data directory with a bit of everything, and what was put into it.
struct Filled {
    dir: tempfile::TempDir,
    blobs: Vec<(Digest, Vec<u8>)>,
    records: Vec<SealedRecord>,
}

impl Filled {
    fn new() -> Self {
        let mut filled =
            Self { dir: tempfile::tempdir().unwrap(), blobs: Vec::new(), records: Vec::new() };
        let store = filled.open();
        for size in [0, 10, 300, 5_000, 20_000, 70_000, 5 << 20] {
            let bytes = noise(size, 11);
            let blob = store.put_content(&mut &bytes[..]).unwrap();
            filled.blobs.push((blob, bytes));
        }
        for key in 0..6 {
            let sealed = record(key, 3, 0);
            put(&store, &sealed);
            filled.records.push(sealed);
        }
        filled
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn open(&self) -> DiskStore {
        DiskStore::open(self.path(), "test").unwrap()
    }

    /// Opens the store, checks that it serves nothing wrong, and says how many things it lost.
    fn lost(&self) -> usize {
        let store = self.open();
        let lost = self.missing(&store);
        // What was lost can be put again, and is then there.
        for (blob, bytes) in &self.blobs {
            store.put_blob(blob, &mut &bytes[..]).unwrap();
            assert_eq!(read(&store, blob).as_ref(), Some(bytes));
        }
        for sealed in &self.records {
            put(&store, sealed);
            let kept = store.record(&sealed.record().key).unwrap();
            assert_eq!(kept.as_ref(), Some(sealed));
        }
        lost
    }

    fn missing(&self, store: &DiskStore) -> usize {
        let mut missing = 0;
        for (blob, bytes) in &self.blobs {
            if let Some(manifest) = store.manifest(blob).unwrap() {
                for (offset, chunk) in manifest.offsets() {
                    let part = &bytes[offset as usize..][..chunk.len as usize];
                    if let Some(served) = store.chunk(&chunk).unwrap() {
                        assert_eq!(served, part);
                    }
                }
            }
            match read(store, blob) {
                Some(served) => assert_eq!(&served, bytes),
                None => {
                    missing += 1;
                    assert!(!store.has_blob(blob).unwrap());
                }
            }
        }
        for sealed in &self.records {
            match store.record(&sealed.record().key).unwrap() {
                Some(served) => assert_eq!(&served, sealed),
                None => missing += 1,
            }
        }
        missing
    }
}

fn flip(path: &Path, bit: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[bit / 8] ^= 1 << (bit % 8);
    fs::write(path, bytes).unwrap();
}

/// Every file below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Names and bytes of every file below a directory.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let read = |path: PathBuf| (path.clone(), fs::read(path).unwrap());
    files(dir).into_iter().map(read).collect()
}

/// A copy of a data directory, as a kill at this moment would leave it.
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

/// Numbers that look random and are the same in every run.
fn dice(count: usize, below: usize, seed: u64) -> Vec<usize> {
    let bytes = noise(count * 8, seed);
    let (numbers, _) = bytes.as_chunks::<8>();
    let roll = |number: &[u8; 8]| (u64::from_le_bytes(*number) % below as u64) as usize;
    numbers.iter().map(roll).collect()
}

#[test]
fn everything_is_there_after_a_clean_close_and_no_index_is_made_again() {
    let filled = Filled::new();
    for _ in 0..20 {
        assert_eq!(filled.lost(), 0);
    }
    assert!(files(&filled.path().join("quarantine")).is_empty());
}

#[test]
fn a_flipped_bit_of_a_blob_file_is_a_miss_and_the_file_is_put_aside() {
    let filled = Filled::new();
    for path in files(&filled.path().join("blobs")) {
        let bits = fs::metadata(&path).unwrap().len() as usize * 8;
        for bit in dice(6, bits, 1) {
            flip(&path, bit);
            assert_eq!(filled.lost(), 1, "bit {bit} of {}", path.display());
        }
    }
    assert_eq!(files(&filled.path().join("quarantine")).len(), 18);
}

#[test]
fn damage_to_a_chunk_is_noticed_when_only_the_chunk_is_read() {
    let filled = Filled::new();
    let store = filled.open();
    let (blob, _) = filled.blobs.iter().max_by_key(|(blob, _)| blob.size).unwrap();
    assert!(blob.size > MAX_CHUNK as u64);
    let manifest = store.manifest(blob).unwrap().unwrap();
    let name = blob.hash.to_string();
    flip(&filled.path().join("blobs").join(&name[..2]).join(&name), 80);
    let last = manifest.chunks().last().unwrap();
    assert!(store.chunk(last).unwrap().is_some());
    assert!(store.chunk(&manifest.chunks()[0]).unwrap().is_none());
    assert!(!store.has_blob(blob).unwrap());
    assert!(store.chunk(last).unwrap().is_none());
    assert_eq!(store.stats().quarantined, 1);
}

#[test]
fn truncated_lengthened_and_missing_blob_files_are_misses() {
    let damages: [fn(&Path); 3] = [
        |path| fs::write(path, &fs::read(path).unwrap()[1..]).unwrap(),
        |path| fs::write(path, [fs::read(path).unwrap(), vec![0]].concat()).unwrap(),
        |path| fs::remove_file(path).unwrap(),
    ];
    for damage in damages {
        let filled = Filled::new();
        let blobs = files(&filled.path().join("blobs"));
        blobs.iter().for_each(|path| damage(path));
        assert_eq!(filled.lost(), blobs.len());
        assert_eq!(filled.lost(), 0);
    }
}

#[test]
fn a_flipped_bit_in_the_journal_costs_one_entry_with_and_without_the_index() {
    let filled = Filled::new();
    let journal = filled.path().join("journal/00000001.log");
    let good = fs::read(&journal).unwrap();
    let clean = tempfile::tempdir().unwrap();
    copy(filled.path(), clean.path());
    for (round, bit) in dice(60, good.len() * 8, 2).into_iter().enumerate() {
        fs::remove_dir_all(filled.path().join("index")).unwrap();
        if round % 2 == 0 {
            copy(&clean.path().join("index"), &filled.path().join("index"));
            fs::copy(clean.path().join("index.seal"), filled.path().join("index.seal")).unwrap();
        }
        fs::write(&journal, &good).unwrap();
        flip(&journal, bit);
        assert_eq!(filled.lost(), 1, "bit {bit}, round {round}");
    }
}

#[test]
fn conflicts_are_known_again_when_the_index_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let open = || DiskStore::open(dir.path(), "test").unwrap();
    let store = open();
    for (key, results) in [(2, vec![1, 2, 3, 2]), (4, vec![5, 5]), (6, vec![1, 2, 3, 4, 5, 6, 7])] {
        for (hlc, exit_code) in (1..).zip(results) {
            put(&store, &record(key, hlc, exit_code));
        }
    }
    put(&store, &record(6, 0, 9));
    let conflicts = store.conflicts(9).unwrap();
    assert_eq!(conflicts.iter().map(|c| c.key.0[0]).collect::<Vec<_>>(), [6, 2]);
    assert_eq!(conflicts.iter().map(|c| c.others.len()).collect::<Vec<_>>(), [4, 2]);
    drop(store);
    assert_eq!(open().conflicts(9).unwrap(), conflicts);
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    let store = open();
    assert_eq!(store.conflicts(9).unwrap(), conflicts);
    assert_eq!((store.stats().conflicts, store.stats().records), (2, 3));
    // And again by an agent that was killed before it wrote its index.
    put(&store, &record(4, 9, 1));
    let killed = tempfile::tempdir().unwrap();
    copy(dir.path(), killed.path());
    let again = DiskStore::open(killed.path(), "test").unwrap();
    assert_eq!(again.conflicts(9).unwrap(), store.conflicts(9).unwrap());
    assert_eq!(again.stats().conflicts, 3);
}

#[test]
fn earlier_outputs_and_sketches_are_known_again_when_the_index_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let open = || DiskStore::open(dir.path(), "test").unwrap();
    let store = open();
    let bytes = noise(300_000, 8);
    let blob = store.put_content(&mut &bytes[..]).unwrap();
    for hlc in 1..9 {
        let output = [("bin/a", Digest::of(&[hlc as u8])), ("bin/b", blob)];
        put(&store, &common::with_outputs(hlc as u8, hlc, &output));
    }
    let (previous, sketch) = (store.previous(b"bin/a").unwrap(), store.sketch(&blob).unwrap());
    assert_eq!(previous.len(), 4);
    assert!(sketch.is_some());
    drop(store);
    for lose in [false, true] {
        if lose {
            fs::remove_dir_all(dir.path().join("index")).unwrap();
        }
        let store = open();
        assert_eq!(store.previous(b"bin/a").unwrap(), previous);
        assert_eq!(store.previous(b"bin/b").unwrap(), [blob]);
        assert_eq!(store.sketch(&blob).unwrap(), sketch);
        assert_eq!(store.similar(&sketch.unwrap(), 9).unwrap(), [(blob, 1.0)]);
    }
}

#[test]
fn damaged_evidence_is_evidence_no_more_and_harms_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let open = || DiskStore::open(dir.path(), "test").unwrap();
    let all = [record(2, 1, 1), record(2, 2, 2), record(2, 3, 3)];
    all.iter().for_each(|record| put(&open(), record));
    let journal = dir.path().join("journal/00000001.log");
    let good = fs::read(&journal).unwrap();
    for bit in dice(60, good.len() * 8, 5) {
        for keep_index in [true, false] {
            fs::write(&journal, &good).unwrap();
            flip(&journal, bit);
            if !keep_index {
                fs::remove_dir_all(dir.path().join("index")).unwrap();
            }
            let store = open();
            let kept = store.record(&all[2].record().key).unwrap();
            for conflict in store.conflicts(9).unwrap() {
                assert_eq!(Some(&conflict.kept), kept.as_ref());
                assert!(conflict.others.iter().all(|lost| all.contains(lost)));
            }
            // What was served is one of those that were put, and the best can be put again.
            assert!(kept.is_none_or(|kept| all.contains(&kept)));
            put(&store, &all[2]);
            assert_eq!(store.record(&all[2].record().key).unwrap().as_ref(), Some(&all[2]));
        }
    }
}

#[test]
fn a_record_that_is_damaged_in_the_journal_is_healed_by_putting_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let sealed = record(1, 5, 0);
    put(&DiskStore::open(dir.path(), "test").unwrap(), &sealed);
    flip(&dir.path().join("journal/00000001.log"), 800);
    let store = DiskStore::open(dir.path(), "test").unwrap();
    put(&store, &sealed);
    assert_eq!(store.record(&sealed.record().key).unwrap(), Some(sealed));
    assert_eq!((store.stats().quarantined, store.stats().records), (1, 1));
}

#[test]
fn a_truncated_journal_keeps_every_entry_before_the_cut() {
    let filled = Filled::new();
    let journal = filled.path().join("journal/00000001.log");
    let good = fs::read(&journal).unwrap();
    let mut last = usize::MAX;
    let mut cuts = dice(30, good.len(), 3);
    cuts.sort_unstable();
    for cut in cuts {
        fs::write(&journal, &good[..cut]).unwrap();
        let lost = filled.lost();
        assert!(lost >= 1 && lost <= last, "cut at {cut}");
        last = lost;
        assert_eq!(filled.lost(), 0);
    }
}

#[test]
fn a_lost_index_loses_nothing() {
    let filled = Filled::new();
    fs::remove_dir_all(filled.path().join("index")).unwrap();
    assert_eq!(filled.lost(), 0);
    for file in files(&filled.path().join("index")) {
        fs::write(file, b"").unwrap();
        assert_eq!(filled.lost(), 0);
    }
    let stats = filled.open().stats();
    assert_eq!((stats.blobs, stats.records), (7, 6));
}

#[test]
fn a_damaged_index_loses_nothing_whether_or_not_it_was_closed() {
    let filled = Filled::new();
    let index = filled.path().join("index");
    for sealed in [true, false] {
        for round in 0..20 {
            assert_eq!(filled.lost(), 0);
            let file = &files(&index)[round % files(&index).len()];
            let len = fs::metadata(file).unwrap().len() as usize;
            if len == 0 {
                continue;
            }
            if round % 5 == 4 {
                let bytes = fs::read(file).unwrap();
                fs::write(file, &bytes[..dice(1, len, round as u64)[0]]).unwrap();
            } else {
                // Most of the file is empty; its start is where the pages are.
                flip(file, dice(1, len.min(4096) * 8, round as u64)[0]);
            }
            if !sealed {
                fs::remove_file(filled.path().join("index.seal")).unwrap();
            }
            assert_eq!(filled.lost(), 0, "round {round}, sealed {sealed}");
        }
    }
}

#[test]
fn everything_acknowledged_survives_a_kill() {
    let filled = Filled::new();
    let store = filled.open();
    let mut acknowledged = Vec::new();
    for round in 0..40u64 {
        let bytes = noise(1 + 900 * round as usize, round);
        let blob = store.put_content(&mut &bytes[..]).unwrap();
        acknowledged.push((blob, bytes));
        put(&store, &record(round as u8, round + 4, 9));
        if round % 8 == 7 {
            let killed = tempfile::tempdir().unwrap();
            copy(filled.path(), killed.path());
            let again = DiskStore::open(killed.path(), "test").unwrap();
            for (blob, bytes) in &acknowledged {
                assert_eq!(read(&again, blob).as_ref(), Some(bytes), "round {round}");
            }
            for key in 0..=round {
                let key = netbuild_core::key::ActionKey([key as u8; 32]);
                assert!(again.record(&key).unwrap().is_some(), "round {round}");
            }
        }
    }
}

#[test]
fn what_a_kill_left_in_tmp_is_gone() {
    let filled = Filled::new();
    fs::write(filled.path().join("tmp/7"), b"half").unwrap();
    drop(filled.open());
    assert!(files(&filled.path().join("tmp")).is_empty());
}

#[test]
fn a_put_that_the_system_refuses_names_the_path_and_harms_nothing() {
    let filled = Filled::new();
    let store = filled.open();
    let tmp = filled.path().join("tmp");
    fs::remove_dir(&tmp).unwrap();
    let bytes = noise(100_000, 77);
    let error = store.put_content(&mut &bytes[..]).unwrap_err();
    assert!(matches!(&error, StoreError::Io { path, .. } if path.starts_with(&tmp)));
    assert!(!store.has_blob(&Digest::of(&bytes)).unwrap());
    assert_eq!(filled.missing(&store), 0);
    fs::create_dir(&tmp).unwrap();
    store.put_content(&mut &bytes[..]).unwrap();
}

#[test]
fn a_blob_that_the_index_lost_is_found_by_its_name() {
    let filled = Filled::new();
    let other = Filled::new();
    let bytes = noise(100_000, 77);
    let blob = other.open().put_content(&mut &bytes[..]).unwrap();
    let store = filled.open();
    assert_eq!(store.stats().blobs, 7);
    copy(&other.path().join("blobs"), &filled.path().join("blobs"));
    assert_eq!(read(&store, &blob), Some(bytes));
    assert_eq!(store.stats().blobs, 8);
}

#[test]
fn the_second_to_open_a_directory_is_told_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = DiskStore::open(dir.path(), "agent").unwrap();
    // But the index: its engine may still be writing what it made.
    let outside_index = || -> Vec<_> {
        let all = contents(dir.path()).into_iter();
        all.filter(|(path, _)| !path.starts_with(dir.path().join("index"))).collect()
    };
    let before = outside_index();
    let error = DiskStore::open(dir.path(), "run").unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }));
    let expected = format!(
        "data directory `{}` is in use by agent (pid {})",
        dir.path().display(),
        std::process::id()
    );
    assert_eq!(error.to_string(), expected);
    assert_eq!(outside_index(), before);

    let blob = first.put_content(&mut &noise(100_000, 1)[..]).unwrap();
    let mut reader = first.open_blob(&blob).unwrap().unwrap();
    drop(first);
    reader.read_to_end(&mut Vec::new()).unwrap();
    drop(reader);
    DiskStore::open(dir.path(), "run").unwrap();
}

#[test]
fn a_newer_format_is_refused_and_nothing_is_changed() {
    let filled = Filled::new();
    fs::write(filled.path().join("format"), "netbuild data 3\n").unwrap();
    fs::write(filled.path().join("tmp/7"), b"theirs").unwrap();
    let before = contents(filled.path());
    let error = DiskStore::open(filled.path(), "test").unwrap_err();
    assert!(matches!(error, OpenError::NewerFormat { found: 3, supported: 2, .. }));
    assert_eq!(contents(filled.path()), before);
}

#[test]
fn a_directory_of_the_previous_format_is_brought_to_this_one_and_loses_nothing() {
    for closed in [true, false] {
        let filled = Filled::new();
        // As format 1 left it, closed or killed.
        fs::write(filled.path().join("format"), "netbuild data 1\n").unwrap();
        if !closed {
            fs::remove_file(filled.path().join("index.seal")).unwrap();
        }
        assert_eq!(filled.lost(), 0);
        let format = fs::read_to_string(filled.path().join("format")).unwrap();
        assert_eq!(format, "netbuild data 2\n");
        // Of an index that was open nobody knows whether it is whole.
        let aside = files(&filled.path().join("quarantine")).is_empty();
        assert_eq!(aside, closed);
        assert_eq!(filled.lost(), 0);
    }
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), b"").unwrap();
    let wanted = dir.path().join("file/data");
    let error = DiskStore::open(&wanted, "test").unwrap_err();
    assert!(matches!(&error, OpenError::Io { path, .. } if path.starts_with(dir.path())));
    assert!(error.to_string().contains("file"));
}

#[test]
fn only_the_owner_may_look_and_any_bytes_may_be_in_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let odd = dir.path().join(OsStr::from_bytes(b"a \xff\xfe\n'b"));
    let bytes = noise(100_000, 1);
    let store = DiskStore::open(&odd, "test").unwrap();
    let blob = store.put_content(&mut &bytes[..]).unwrap();
    put(&store, &record(1, 1, 0));
    drop(store);
    let store = DiskStore::open(&odd, "test").unwrap();
    assert_eq!(read(&store, &blob), Some(bytes));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for path in ["", "blobs", "journal", "tmp"] {
        assert_eq!(mode(&odd.join(path)), 0o700, "{path}");
    }
    for path in ["lock", "format", "journal/00000001.log"] {
        assert_eq!(mode(&odd.join(path)), 0o600, "{path}");
    }
    files(&odd.join("blobs")).iter().for_each(|path| assert_eq!(mode(path), 0o600));
}
