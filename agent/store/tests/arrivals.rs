//! Transfers that a kill, a full disk or damage has interrupted: what had come is not fetched
//! again, and nothing wrong is taken for it.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

#[expect(dead_code, reason = "other tests take more of it")]
mod common;

use common::{noise, read};
use netbuild_core::{
    chunk::{Chunker, Manifest},
    digest::Digest,
};
use netbuild_store::{DiskStore, PartialBlob, Store, StoreError};
use std::{
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

/// Says to this program, started again by one of its tests, in which data directory to receive a
/// blob.
const CHILD: &str = "NETBUILD_TEST_ARRIVALS_IN";
/// Bytes of the blob: a dozen chunks or so.
const SIZE: usize = 9 << 20;

struct Blob {
    bytes: Vec<u8>,
    manifest: Manifest,
    parts: Vec<Vec<u8>>,
}

fn blob(seed: u64) -> Blob {
    let bytes = noise(SIZE, seed);
    let mut chunker = Chunker::new();
    chunker.update(&bytes);
    let manifest = chunker.finish();
    let part = |at: u64, len: u32| bytes[at as usize..][..len as usize].to_vec();
    let parts = manifest.offsets().map(|(at, chunk)| part(at, chunk.len)).collect();
    Blob { bytes, manifest, parts }
}

fn open(dir: &Path) -> DiskStore {
    DiskStore::open(dir, "test").unwrap()
}

/// The chunks that an arrival has.
fn came(partial: &dyn PartialBlob, blob: &Blob) -> Vec<usize> {
    (0..blob.parts.len()).filter(|index| partial.has(*index)).collect()
}

/// Leaves every second chunk of the blob in a data directory.
fn leave_half(dir: &Path, blob: &Blob) -> Vec<usize> {
    let half: Vec<usize> = (0..blob.parts.len()).step_by(2).collect();
    let mut partial = open(dir).begin_blob(&blob.manifest).unwrap();
    half.iter().for_each(|index| partial.write_chunk(*index, &blob.parts[*index]).unwrap());
    half
}

/// Goes on with the blob: brings what is missing, and says which chunks had come before.
fn complete(dir: &Path, blob: &Blob) -> Vec<usize> {
    let store = open(dir);
    let mut partial = store.begin_blob(&blob.manifest).unwrap();
    let before = came(&*partial, blob);
    for index in (0..blob.parts.len()).rev().filter(|index| !before.contains(index)) {
        partial.write_chunk(index, &blob.parts[index]).unwrap();
    }
    partial.finish().unwrap();
    assert_eq!(read(&store, &blob.manifest.blob()).as_ref(), Some(&blob.bytes));
    assert_eq!(fs::read_dir(dir.join("partial")).unwrap().count(), 0);
    before
}

fn partial_file(dir: &Path, blob: &Blob, ending: &str) -> PathBuf {
    dir.join("partial").join(format!("{}{ending}", blob.manifest.blob().hash))
}

/// Not a test of its own: receives chunks until it is killed or the system refuses, in a process
/// that a test below has started.
#[test]
fn child() {
    let Some(dir) = env::var_os(CHILD) else { return };
    let blob = blob(1);
    let mut partial = open(Path::new(&dir)).begin_blob(&blob.manifest).unwrap();
    let mut out = std::io::stdout();
    for (index, part) in blob.parts.iter().enumerate() {
        match partial.write_chunk(index, part) {
            Ok(()) => writeln!(out, "wrote {index}").unwrap(),
            Err(error) => writeln!(out, "refused {index}: {error}").unwrap(),
        }
    }
    writeln!(out, "end").unwrap();
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

/// The command that runs `child` in a data directory, under a shell that first runs `setup`.
fn child_in(dir: &Path, setup: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{setup}; exec \"$0\" \"$@\"")]).arg(env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture"]).env(CHILD, dir);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

#[test]
fn a_transfer_of_a_killed_process_goes_on_at_the_chunk_it_had_come_to() {
    let blob = blob(1);
    for kill_after in [0, 1, 5] {
        let dir = tempfile::tempdir().unwrap();
        let mut child = child_in(dir.path(), ":").spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut lines = lines.map(Result::unwrap);
        let reached = lines.any(|line| line.ends_with(&format!("wrote {kill_after}")));
        assert!(reached);
        child.kill().unwrap();
        child.wait().unwrap();
        let before = complete(dir.path(), &blob);
        assert!(before.len() > kill_after, "{before:?}");
        assert_eq!(before, (0..before.len()).collect::<Vec<_>>());
    }
}

#[test]
fn a_disk_that_takes_no_more_is_named_and_keeps_what_it_took() {
    let blob = blob(1);
    let dir = tempfile::tempdir().unwrap();
    // Files of at most 4 MiB (in units of 512 bytes), and an error instead of a signal for more.
    let mut child = child_in(dir.path(), "trap '' XFSZ; ulimit -f 8192").spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let said: Vec<String> = lines.take_while(|line| line != "end").collect();
    child.kill().unwrap();
    child.wait().unwrap();
    let refused: Vec<&String> = said.iter().filter(|line| line.contains("refused")).collect();
    let path = partial_file(dir.path(), &blob, "");
    assert!(!refused.is_empty(), "{said:?}");
    assert!(refused.iter().all(|line| line.contains(path.to_str().unwrap())), "{refused:?}");
    let wrote = said.iter().filter(|line| line.contains("wrote")).count();
    assert!(wrote > 3, "{said:?}");
    assert_eq!(complete(dir.path(), &blob).len(), wrote);
}

#[test]
fn what_an_open_store_was_given_survives_its_closing() {
    let (dir, blob) = (tempfile::tempdir().unwrap(), blob(2));
    let half = leave_half(dir.path(), &blob);
    assert_eq!(complete(dir.path(), &blob), half);
}

#[test]
fn what_is_left_of_a_transfer_goes_when_the_blob_comes_in_another_way() {
    let (dir, blob) = (tempfile::tempdir().unwrap(), blob(12));
    leave_half(dir.path(), &blob);
    open(dir.path()).put_content(&mut &blob.bytes[..]).unwrap();
    assert_eq!(fs::read_dir(dir.path().join("partial")).unwrap().count(), 0);
}

#[test]
fn a_damaged_chunk_of_a_transfer_is_forgotten_and_no_other() {
    let (dir, blob) = (tempfile::tempdir().unwrap(), blob(3));
    let half = leave_half(dir.path(), &blob);
    let path = partial_file(dir.path(), &blob, "");
    let mut bytes = fs::read(&path).unwrap();
    let (at, _) = blob.manifest.offsets().nth(2).unwrap();
    bytes[at as usize] ^= 1;
    // The last chunk is torn.
    bytes.truncate(bytes.len() - 1);
    fs::write(&path, bytes).unwrap();
    let left: Vec<usize> =
        half.iter().copied().filter(|index| ![2, half[half.len() - 1]].contains(index)).collect();
    assert_eq!(complete(dir.path(), &blob), left);
}

#[test]
fn any_damage_to_what_is_left_of_a_transfer_costs_chunks_and_is_never_taken_for_them() {
    let (dir, blob) = (tempfile::tempdir().unwrap(), blob(4));
    let half = leave_half(dir.path(), &blob);
    let log = partial_file(dir.path(), &blob, ".chunks");
    let data = partial_file(dir.path(), &blob, "");
    let (good_log, good_data) = (fs::read(&log).unwrap(), fs::read(&data).unwrap());
    let dice = noise(8 * 24, 5);
    let (dice, _) = dice.as_chunks::<8>();
    for (round, dice) in dice.iter().enumerate() {
        let at = u64::from_le_bytes(*dice) as usize % good_log.len();
        let mut bad = good_log.clone();
        match round % 4 {
            0 => bad.truncate(at),
            1 => bad[at] ^= 1 << (round % 8),
            2 => bad.extend_from_slice(&noise(at, round as u64)),
            _ => bad = noise(at, round as u64),
        }
        fs::write(&log, &bad).unwrap();
        fs::write(&data, &good_data).unwrap();
        let before = complete(dir.path(), &blob);
        assert!(before.iter().all(|index| half.contains(index)), "round {round}: {before:?}");
        assert!(round % 4 != 2 || before == half, "round {round}: {before:?}");
        // So that the next round does not find the whole blob.
        fs::remove_dir_all(dir.path().join("blobs")).unwrap();
    }
}

#[test]
fn a_lie_is_found_out_at_the_end_and_leaves_nothing_whether_or_not_it_was_interrupted() {
    let (dir, blob) = (tempfile::tempdir().unwrap(), blob(6));
    let lie = Digest { hash: netbuild_core::digest::Hash([1; 32]), ..blob.manifest.blob() };
    let manifest = Manifest::new(lie, blob.manifest.chunks().to_vec()).unwrap();
    let lying = Blob { manifest, bytes: Vec::new(), parts: blob.parts };
    leave_half(dir.path(), &lying);
    let store = open(dir.path());
    let mut partial = store.begin_blob(&lying.manifest).unwrap();
    for (index, part) in lying.parts.iter().enumerate() {
        partial.write_chunk(index, part).unwrap();
    }
    assert!(matches!(partial.finish(), Err(StoreError::Mismatch(blob)) if blob == lie));
    assert!(came(&*store.begin_blob(&lying.manifest).unwrap(), &lying).is_empty());
    assert_eq!(fs::read_dir(dir.path().join("partial")).unwrap().count(), 0);
    assert_eq!(store.stats().blobs, 0);
}

#[test]
fn bytes_that_a_disk_has_lost_meanwhile_are_not_blamed_on_a_peer_and_are_fetched_again() {
    let (dir, blob) = (tempfile::tempdir().unwrap(), blob(7));
    let store = open(dir.path());
    let mut partial = store.begin_blob(&blob.manifest).unwrap();
    for (index, part) in blob.parts.iter().enumerate().rev() {
        partial.write_chunk(index, part).unwrap();
    }
    let path = partial_file(dir.path(), &blob, "");
    let mut bytes = fs::read(&path).unwrap();
    let (at, _) = blob.manifest.offsets().nth(5).unwrap();
    bytes[at as usize] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = partial.finish().unwrap_err();
    assert!(matches!(&error, StoreError::Io { path: named, .. } if *named == path), "{error}");
    drop(store);
    assert_eq!(complete(dir.path(), &blob).len(), blob.parts.len() - 1);
}

#[test]
fn old_transfers_and_halves_of_them_are_cleared_away_but_none_that_is_worked_on() {
    let dir = tempfile::tempdir().unwrap();
    let (old, young, torn) = (blob(8), blob(9), blob(10));
    for blob in [&old, &young, &torn] {
        leave_half(dir.path(), blob);
    }
    let make_old = |path: &Path| {
        let month = SystemTime::now() - Duration::from_secs(30 * 24 * 3600);
        fs::File::options().write(true).open(path).unwrap().set_modified(month).unwrap();
    };
    let make_all_old = |blob: &Blob| {
        make_old(&partial_file(dir.path(), blob, ""));
        make_old(&partial_file(dir.path(), blob, ".chunks"));
    };
    make_all_old(&old);
    fs::remove_file(partial_file(dir.path(), &torn, "")).unwrap();
    let foreign = dir.path().join("partial/notes.txt");
    fs::write(&foreign, b"somebody's").unwrap();
    drop(open(dir.path()));
    assert!(foreign.exists());
    assert!(partial_file(dir.path(), &young, "").exists());
    assert_eq!(fs::read_dir(dir.path().join("partial")).unwrap().count(), 3);

    let store = open(dir.path());
    let mut worked_on = store.begin_blob(&young.manifest).unwrap();
    worked_on.write_chunk(0, &young.parts[0]).unwrap();
    make_all_old(&young);
    drop(store.begin_blob(&old.manifest).unwrap());
    assert!(partial_file(dir.path(), &young, "").exists());
    for (index, part) in young.parts.iter().enumerate() {
        worked_on.write_chunk(index, part).unwrap();
    }
    worked_on.finish().unwrap();
    assert_eq!(read(&store, &young.manifest.blob()).as_ref(), Some(&young.bytes));
}

#[test]
fn a_transfer_that_cannot_be_begun_says_where_and_harms_nothing() {
    let (dir, blob) = (tempfile::tempdir().unwrap(), blob(11));
    let store = open(dir.path());
    let partial = dir.path().join("partial");
    fs::remove_dir(&partial).unwrap();
    let error = store.begin_blob(&blob.manifest).unwrap_err();
    assert!(matches!(&error, StoreError::Io { path, .. } if path.starts_with(&partial)));
    drop(store);
    assert!(complete(dir.path(), &blob).is_empty());
}
