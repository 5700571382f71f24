//! Coded runs that were sent lately: the second requester of a run costs no work.

use bytes::Bytes;
use netbuild_core::{
    chunk::Chunk,
    codec::{Codec, Kind},
    digest::{Digest, Hash},
};
use std::collections::{BTreeMap, HashMap};

/// Most bytes that are kept: a debug binary of 200 MB as zstd leaves it, and small beside what the
/// connections of a busy provider take.
const MAX_HOT: usize = 64 << 20;
/// What an entry is taken to cost beside its body, so that many small ones are bounded too.
const ENTRY: usize = 256;

/// A coded run.
#[derive(Clone, Debug)]
pub(crate) struct Hot {
    /// None for a patch.
    pub(crate) codec: Option<Codec>,
    /// The kind of its data, if that was looked at.
    pub(crate) kind: Option<Kind>,
    pub(crate) body: Bytes,
}

/// The name of a run: the hash of its chunks' hashes, and before them of the base of a patch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct RunKey(Hash);

impl RunKey {
    pub(crate) fn of(chunks: &[Chunk]) -> Self {
        let hashes: Vec<u8> =
            chunks.iter().flat_map(|chunk| chunk.hash.as_bytes()).copied().collect();
        Self(Hash::of(&hashes))
    }

    /// The name of a run as a patch against a base.
    pub(crate) fn of_patch(base: &Digest, chunks: &[Chunk]) -> Self {
        let Self(run) = Self::of(chunks);
        Self(Hash::of(&[b"patch of a run\0", &base.hash.as_bytes()[..], run.as_bytes()].concat()))
    }
}

/// The coded runs, one form of each, of which the longest unused go first.
#[derive(Debug, Default)]
pub(crate) struct HotRuns {
    runs: HashMap<RunKey, (u64, Hot)>,
    by_use: BTreeMap<u64, RunKey>,
    uses: u64,
    bytes: usize,
}

impl HotRuns {
    /// The coded form of a run, if `fits`; it then counts as used.
    pub(crate) fn get(&mut self, key: &RunKey, fits: impl FnOnce(&Hot) -> bool) -> Option<Hot> {
        let (used, hot) = self.runs.get_mut(key)?;
        if !fits(hot) {
            return None;
        }
        self.by_use.remove(used);
        self.uses += 1;
        *used = self.uses;
        self.by_use.insert(self.uses, *key);
        Some(hot.clone())
    }

    /// Keeps the coded form of a run in place of the one before.
    pub(crate) fn put(&mut self, key: RunKey, hot: Hot) {
        self.remove(&key);
        self.bytes += hot.body.len() + ENTRY;
        self.uses += 1;
        self.runs.insert(key, (self.uses, hot));
        self.by_use.insert(self.uses, key);
        while self.bytes > MAX_HOT
            && let Some((_, oldest)) = self.by_use.first_key_value()
        {
            let oldest = *oldest;
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, key: &RunKey) {
        if let Some((used, hot)) = self.runs.remove(key) {
            self.by_use.remove(&used);
            self.bytes -= hot.body.len() + ENTRY;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> RunKey {
        RunKey::of(&[Chunk { hash: Hash::of(&number.to_le_bytes()), len: 1 }])
    }

    fn hot(len: usize) -> Hot {
        Hot { codec: Some(Codec::Zstd(1)), kind: None, body: vec![0; len].into() }
    }

    #[test]
    fn what_was_used_lately_stays_and_the_memory_is_bounded() {
        let mut runs = HotRuns::default();
        for number in 0..200 {
            runs.put(key(number), hot(1 << 20));
            runs.put(key(number), hot(1 << 20));
            assert!(runs.get(&key(0), |_| true).is_some(), "{number}");
            assert!(runs.bytes <= MAX_HOT && runs.by_use.len() == runs.runs.len());
        }
        assert!(runs.get(&key(1), |_| true).is_none());
        assert!(runs.get(&key(199), |_| true).is_some());
        assert!(runs.get(&key(199), |hot| hot.codec > Some(Codec::Zstd(1))).is_none());
        (0..1_000_000).for_each(|number| runs.put(key(number), hot(0)));
        assert!(runs.runs.len() <= MAX_HOT / ENTRY);
        runs.put(key(0), hot(MAX_HOT + 1));
        assert_eq!((runs.bytes, runs.by_use.len()), (0, 0));
    }
}
