//! A small disk that is really full, and one that is really read-only.

use crate::{
    child::Orders,
    common::{noise, put, read, record},
};
use netbuild_core::digest::Digest;
use netbuild_store::{DiskStore, OpenError, Store, StoreError};
use std::{fs, io::ErrorKind, path::Path, process::Command};

/// Bytes of the disk.
const DISK: &str = "24m";
/// Bytes that somebody else takes of it, and gives back.
const BALLAST: usize = 8 << 20;
const BLOB: usize = 200_000;

fn mount(args: &[&str], dir: &Path) {
    let done = Command::new("mount").args(args).arg(dir).status().expect("mount");
    assert!(done.success(), "mount {args:?}");
}

/// What the child does, in a mount namespace of its own.
pub(crate) fn on_a_small_disk(disk: &Path) {
    mount(&["-t", "tmpfs", "-o", &format!("size={DISK}"), "none"], disk);
    let (data, ballast) = (disk.join("data"), disk.join("ballast"));
    fs::write(&ballast, vec![0; BALLAST]).unwrap();
    let store = DiskStore::open(&data, "child").unwrap();
    let mut kept: Vec<(Digest, Vec<u8>)> = Vec::new();
    let mut put_one = |store: &DiskStore, n: u64, size: usize| {
        let bytes = noise(size, n);
        store.put_content(&mut &bytes[..]).map(|blob| kept.push((blob, bytes)))
    };
    put(&store, &record(1, 1, 0));
    // Large ones until there is no room for one, then small ones until there is none for these.
    let mut n = 0;
    for size in [BLOB, 9_000, 100] {
        let refused = loop {
            n += 1;
            assert!(n < 100_000, "the disk does not fill");
            match put_one(&store, n, size).and_then(|()| store.flush()) {
                Ok(()) => {}
                // As an agent does every few seconds: then the index is in memory.
                Err(StoreError::Index(_)) => drop(store.mend()),
                Err(error) => break error,
            }
        };
        let StoreError::Io { path, source } = &refused else { panic!("{refused:?}") };
        assert!(path.starts_with(&data) && source.kind() == ErrorKind::StorageFull, "{refused:?}");
    }
    let check = |store: &DiskStore, kept: &[(Digest, Vec<u8>)]| {
        for (blob, bytes) in kept {
            assert!(read(store, blob).as_ref() == Some(bytes), "{blob}");
        }
        assert!(store.record(&record(1, 1, 0).record().key).unwrap().is_some());
    };
    store.mend().ok();
    // A process that is started now reads all that is there.
    drop(store);
    let store = DiskStore::open(&data, "child").unwrap();
    check(&store, &kept);

    fs::remove_file(&ballast).unwrap();
    store.mend().unwrap();
    let mut put_one = |store: &DiskStore, n: u64, size: usize| {
        let bytes = noise(size, n);
        store.put_content(&mut &bytes[..]).map(|blob| kept.push((blob, bytes)))
    };
    (200_000..200_020).for_each(|n| put_one(&store, n, BLOB).unwrap());
    (300_000..300_020).for_each(|n| put_one(&store, n, 100).unwrap());
    store.flush().unwrap();
    check(&store, &kept);

    drop(store);
    // Of this mount, as the files of an index that has failed stay open on the other.
    let itself = disk.to_str().unwrap();
    mount(&["--bind", itself], disk);
    mount(&["-o", "remount,bind,ro"], disk);
    let error = DiskStore::open(&disk.join("other"), "child").unwrap_err();
    let OpenError::Io { path, source } = &error else { panic!("{error:?}") };
    assert!(path.starts_with(disk) && source.kind() == ErrorKind::ReadOnlyFilesystem, "{error:?}");
    on_a_read_only_disk(disk, &data, &mut kept);
}

/// What is there is read, what comes is kept meanwhile, and the disk is written as soon as it can be.
fn on_a_read_only_disk(disk: &Path, data: &Path, kept: &mut Vec<(Digest, Vec<u8>)>) {
    let check = |store: &DiskStore, kept: &[(Digest, Vec<u8>)]| {
        for (blob, bytes) in kept {
            assert!(read(store, blob).as_ref() == Some(bytes), "{blob}");
        }
        assert!(store.record(&record(1, 1, 0).record().key).unwrap().is_some());
    };
    let store = DiskStore::open(data, "child").unwrap();
    assert!(store.is_read_only());
    let second = DiskStore::open(data, "child").unwrap_err();
    assert!(matches!(second, OpenError::InUse { .. }), "{second:?}");
    check(&store, kept);
    let mut came = Vec::new();
    for (n, size) in [(400_000, 100), (400_001, BLOB)] {
        let bytes = noise(size, n);
        came.push((store.put_content(&mut &bytes[..]).unwrap(), bytes));
    }
    put(&store, &record(9, 1, 0));
    let late = record(9, 1, 0).record().key;
    assert!(store.flush().is_err(), "that is in memory only");
    check(&store, &came);
    assert!(store.record(&late).unwrap().is_some());
    let refused = store.mend().unwrap_err();
    let StoreError::Io { source, .. } = &refused else { panic!("{refused:?}") };
    assert_eq!(source.kind(), ErrorKind::ReadOnlyFilesystem);

    mount(&["-o", "remount,bind,rw"], disk);
    store.mend().unwrap();
    assert!(!store.is_read_only());
    check(&store, &came);
    for n in 500_000..500_005 {
        for size in [100, BLOB] {
            let bytes = noise(size, n + size as u64);
            kept.push((store.put_content(&mut &bytes[..]).unwrap(), bytes));
        }
    }
    store.flush().unwrap();
    drop(store);
    let store = DiskStore::open(data, "child").unwrap();
    check(&store, kept);
    // What came in between was brought in.
    check(&store, &came);
    assert!(store.record(&late).unwrap().is_some());
}

#[test]
fn a_disk_that_is_full_or_read_only_is_named_and_used_again_when_it_has_room() {
    let place = tempfile::tempdir().unwrap();
    let (disk, log) = (place.path().join("disk"), place.path().join("log"));
    fs::create_dir(&disk).unwrap();
    let orders = Orders { mode: "full", dir: &disk, log: &log, seed: 0, from: 0, count: 0 };
    let child = orders.command();
    let mut alone = Command::new("unshare");
    alone
        .args(["--mount", "--map-root-user", "--"])
        .arg(child.get_program())
        .args(child.get_args());
    alone.envs(child.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = alone.output().expect("unshare, of util-linux");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stdout));
}
