//! Which chunks of blob files were read and found right by this process, so that a chunk that is
//! handed out many times is hashed once.
//!
//! That holds as long as the file is untouched, told by its stamp. It does not tell of a disk that
//! forgets: whoever takes a chunk over the network checks it, and says so when it is wrong.

use netbuild_core::digest::Hash;
use std::{
    collections::HashMap,
    fs::Metadata,
    os::unix::fs::MetadataExt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

/// Chunks that are remembered: about 10 GiB of them in 3 MB of memory. At more all are forgotten,
/// and hashed again.
const MAX_CHECKED: usize = 16 * 1024;
/// A file that was changed so short a time ago may be changed again and keep its stamp, whose clock
/// ticks every few milliseconds; two seconds is what the coarsest file systems have.
const SETTLED: Duration = Duration::from_secs(2);

/// What changes when a file is written to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(meta: &Metadata) -> Self {
        Self {
            file: (meta.dev(), meta.ino()),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    fn is_settled(&self, now: SystemTime) -> bool {
        let (Ok(seconds), Ok(nanos)) = (self.changed.0.try_into(), self.changed.1.try_into())
        else {
            return false;
        };
        let changed = SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos));
        changed.is_some_and(|at| now.duration_since(at).is_ok_and(|age| age > SETTLED))
    }
}

/// A chunk in a file, as it was found right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Found {
    pub(super) blob: Hash,
    /// In bytes from the start of the file.
    pub(super) offset: u64,
    pub(super) len: u32,
    /// From before the chunk was read.
    pub(super) stamp: Stamp,
}

/// What was found right.
#[derive(Debug, Default)]
pub(super) struct Checked(Mutex<HashMap<Hash, Found>>);

impl Checked {
    fn found(&self) -> MutexGuard<'_, HashMap<Hash, Found>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this was found right before.
    pub(super) fn has(&self, chunk: &Hash, found: &Found) -> bool {
        self.found().get(chunk) == Some(found)
    }

    /// Remembers that the bytes that `found` tells of are those of `chunk`.
    pub(super) fn add(&self, chunk: Hash, found: Found, now: SystemTime) {
        if !found.stamp.is_settled(now) {
            return;
        }
        let mut all = self.found();
        if all.len() >= MAX_CHECKED {
            all.clear();
        }
        all.insert(chunk, found);
    }

    /// Forgets a chunk, or all chunks found in the file of a blob.
    pub(super) fn doubt(&self, name: &Hash) {
        self.found().retain(|chunk, found| chunk != name && found.blob != *name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_counts_until_the_file_changes_or_somebody_doubts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, b"bytes").unwrap();
        let stamp = || Stamp::of(&std::fs::metadata(&path).unwrap());
        let (blob, chunk) = (Hash([1; 32]), Hash([2; 32]));
        let found = Found { blob, offset: 3, len: 2, stamp: stamp() };
        let checked = Checked::default();
        let now = SystemTime::now();
        checked.add(chunk, found, now);
        assert!(!checked.has(&chunk, &found), "a file that was just written");
        let later = now + 2 * SETTLED;
        checked.add(chunk, found, later);
        assert!(checked.has(&chunk, &found));
        assert!(!checked.has(&chunk, &Found { offset: 4, ..found }));
        std::fs::write(&path, b"others").unwrap();
        assert!(!checked.has(&chunk, &Found { stamp: stamp(), ..found }));
        for name in [blob, chunk] {
            checked.add(chunk, found, later);
            checked.doubt(&Hash([3; 32]));
            assert!(checked.has(&chunk, &found));
            checked.doubt(&name);
            assert!(!checked.has(&chunk, &found));
        }
        for n in 0..=MAX_CHECKED {
            checked.add(Hash::of(&n.to_le_bytes()), found, later);
        }
        assert_eq!(checked.found().len(), 1);
    }
}
