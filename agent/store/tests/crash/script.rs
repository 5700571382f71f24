//! What the process does that is killed: a long row of operations that follow from a seed, and what
//! has to be there after some of them.

use crate::common::{at, noise, read};
use netbuild_core::{
    chunk::{Chunker, Manifest},
    digest::Digest,
    key::ActionKey,
    merge::Trust,
};
use netbuild_proto::record::SealedRecord;
use netbuild_store::{Cursor, DiskStore, Inspect, Store, StoreError};
use std::{collections::BTreeMap, num::NonZeroUsize, ops::ControlFlow, sync::OnceLock};

/// Different blobs and records that there may be.
pub(crate) const BLOBS: u16 = 240;
const KEYS: u8 = 40;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    Put(u16),
    Arrive(u16),
    Remove(u16),
    Get(u16),
    Record(u8),
    RemoveRecord(u8),
    Flush,
    Compact,
    /// Look through everything, as a scrub and `verify --repair` do.
    Inspect,
    /// Make the index again and take it where it differs.
    CheckIndex,
}

fn dice(seed: u64, n: u64) -> u64 {
    let bytes = noise(8, seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    u64::from_le_bytes(bytes.try_into().unwrap())
}

/// The operation with this number.
pub(crate) fn op(seed: u64, n: u64) -> Op {
    let dice = dice(seed, n);
    let (blob, key) = ((dice >> 8) as u16 % BLOBS, (dice >> 8) as u8 % KEYS);
    match dice % 100 {
        0..40 => Op::Put(blob),
        40..44 => Op::Arrive(blob),
        44..64 => Op::Remove(blob),
        64..74 => Op::Get(blob),
        74..86 => Op::Record(key),
        86..89 => Op::RemoveRecord(key),
        89..96 => Op::Flush,
        96..98 => Op::Compact,
        98 => Op::Inspect,
        _ => Op::CheckIndex,
    }
}

/// The name and the bytes of a blob: most lie in the journal, some in files, few come in several
/// chunks.
fn blob(number: u16) -> &'static (Digest, Vec<u8>) {
    static ALL: [OnceLock<(Digest, Vec<u8>)>; BLOBS as usize] =
        [const { OnceLock::new() }; BLOBS as usize];
    ALL[usize::from(number)].get_or_init(|| {
        let sizes = [40, 900, 5_000, 12_000, 16_000, 16_384, 15_000, 16_385, 30_000, 90_000];
        let large = number % 120 == 119;
        let size = if large { 2_500_000 } else { sizes[usize::from(number) % 10] };
        let bytes = noise(size, u64::from(number) + 1000);
        (Digest::of(&bytes), bytes)
    })
}

fn content(number: u16) -> &'static [u8] {
    &blob(number).1
}

fn digest(number: u16) -> Digest {
    blob(number).0
}

fn key(key: u8) -> ActionKey {
    ActionKey([key; 32])
}

/// The record that operation `n` writes; some differ in their result.
fn record(of: u8, n: u64) -> SealedRecord {
    at(1, key(of), n + 1, (n % 3) as i32)
}

fn manifest(bytes: &[u8]) -> Manifest {
    let mut chunker = Chunker::new();
    chunker.update(bytes);
    chunker.finish()
}

/// Does one operation.
pub(crate) fn act(store: &DiskStore, op: Op, n: u64) -> Result<(), StoreError> {
    match op {
        Op::Put(blob) => {
            let mut bytes = content(blob);
            store.put_content(&mut bytes).map(drop)
        }
        Op::Arrive(blob) => {
            let bytes = content(blob);
            let manifest = manifest(bytes);
            let mut partial = store.begin_blob(&manifest)?;
            for (index, (at, chunk)) in manifest.offsets().enumerate() {
                if !partial.has(index) {
                    partial.write_chunk(index, &bytes[at as usize..][..chunk.len as usize])?;
                }
            }
            partial.finish()
        }
        Op::Remove(blob) => store.remove_blob(&digest(blob)).map(drop),
        Op::Get(blob) => {
            let got = store.blob_bytes(&digest(blob), u64::MAX)?;
            assert!(got.is_none_or(|bytes| bytes == content(blob)), "wrong bytes of {blob}");
            Ok(())
        }
        Op::Record(of) => store.put_record(&record(of, n), &Trust::default()).map(drop),
        Op::RemoveRecord(of) => store.remove_record(&key(of)).map(drop),
        Op::Flush => store.flush(),
        Op::Compact => store.compact(&mut |_| ControlFlow::Continue(())).map(drop),
        Op::Inspect => {
            let pace = |_| ControlFlow::Continue(());
            let threads = NonZeroUsize::MIN;
            let how = Inspect { deep: true, repair: true, threads, pace: &pace };
            let mut from = Some(Cursor::default());
            while let Some(cursor) = from {
                from = store.inspect(&cursor, &how)?.next;
            }
            Ok(())
        }
        Op::CheckIndex => store.check_index(true, &|| ControlFlow::Continue(())).map(drop),
    }
}

/// What must be there. Of some things either of two is right.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    blobs: BTreeMap<u16, Vec<bool>>,
    records: BTreeMap<u8, Vec<Option<SealedRecord>>>,
}

impl Model {
    /// An operation was acknowledged.
    pub(crate) fn done(&mut self, op: Op, n: u64) {
        match op {
            Op::Put(blob) | Op::Arrive(blob) => drop(self.blobs.insert(blob, vec![true])),
            Op::Remove(blob) => drop(self.blobs.insert(blob, vec![false])),
            Op::Record(of) => drop(self.records.insert(of, vec![Some(record(of, n))])),
            Op::RemoveRecord(of) => drop(self.records.insert(of, vec![None])),
            _ => {}
        }
    }

    /// An operation was begun, and may or may not have come to its end.
    pub(crate) fn begun(&mut self, op: Op, n: u64) {
        let mut after = Self::default();
        after.done(op, n);
        for (blob, states) in after.blobs {
            self.blobs.entry(blob).or_insert_with(|| vec![false]).extend(states);
        }
        for (of, states) in after.records {
            self.records.entry(of).or_insert_with(|| vec![None]).extend(states);
        }
    }

    /// Compares with a store, and takes from it what either is right of.
    pub(crate) fn check(&mut self, store: &DiskStore, what: &str) {
        for blob in 0..BLOBS {
            let states = self.blobs.entry(blob).or_insert_with(|| vec![false]);
            let (name, bytes) = (digest(blob), content(blob));
            let here = match read(store, &name) {
                Some(got) => {
                    assert!(got == bytes, "{what}: wrong bytes of blob {blob}");
                    true
                }
                None => false,
            };
            assert!(states.contains(&here), "{what}: blob {blob} here {here}, right {states:?}");
            assert_eq!(store.has_blob(&name).unwrap(), here, "{what}: blob {blob}");
            *states = vec![here];
        }
        for of in 0..KEYS {
            let states = self.records.entry(of).or_insert_with(|| vec![None]);
            let here = store.record(&key(of)).unwrap();
            let hlc = |state: &Option<SealedRecord>| state.as_ref().map(|r| r.record().hlc);
            let right: Vec<_> = states.iter().map(hlc).collect();
            assert!(
                states.contains(&here),
                "{what}: record {of} {:?}, right {right:?}",
                hlc(&here)
            );
            *states = vec![here];
        }
    }
}

impl Model {
    /// Removals of blob files last only once their directory happens to be synced: the blob may come
    /// back, whole.
    pub(crate) fn back(&mut self, upto: u64, seed: u64) {
        for n in 0..upto {
            if let Op::Remove(blob) = op(seed, n) {
                let states = self.blobs.entry(blob).or_insert_with(|| vec![false]);
                if !states.contains(&true) {
                    states.push(true);
                }
            }
        }
    }
}
