//! A tier in the memory of this process, for tests of what stands on tiers.

use super::{
    Answer, Batch, Bring, ChangeCursor, Changes, Counts, Kind, Limits, MAX_SMALL, Meter, Operation,
    Stored, Tended, Tier, TierError,
};
use crate::MAX_BLOB;
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, stream};
use netbuild_core::{digest::Digest, key::ActionKey};
use netbuild_proto::record::SealedRecord;
use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Bytes in one piece of a stream.
const PIECE: usize = 64 << 10;
/// Records that one answer to `changes` has at most.
const MAX_CHANGES: usize = 256;

/// Keeps everything in memory, without a bound. A clone is another agent's handle to the same tier,
/// with counts of its own.
#[derive(Debug, Default)]
pub struct MemoryTier {
    shelves: Arc<Mutex<Shelves>>,
    meter: Meter,
}

#[derive(Debug, Default)]
struct Shelves {
    blobs: HashMap<Digest, Bytes>,
    records: HashMap<ActionKey, SealedRecord>,
    /// All records in the order in which they came.
    log: Vec<SealedRecord>,
}

impl Clone for MemoryTier {
    fn clone(&self) -> Self {
        Self { shelves: self.shelves.clone(), meter: Meter::default() }
    }
}

impl MemoryTier {
    /// An empty tier.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets everything, as a server that was flushed does.
    pub fn flush(&self) {
        *self.shelves() = Shelves::default();
    }

    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn got<'a>(&self, operation: Operation, bytes: impl Iterator<Item = &'a [u8]>) {
        self.meter.request(operation, 0);
        self.meter.received(operation, bytes.map(|bytes| bytes.len() as u64).sum());
    }

    fn keep(&self, batch: Batch) -> Result<Stored, TierError> {
        batch.check(self.name(), self.limits().blob)?;
        let mut stored = Stored::default();
        let mut sent = 0;
        for (digest, blob) in batch.blobs {
            if self.shelves().blobs.contains_key(&digest) {
                stored.present += 1;
                continue;
            }
            let bytes = blob.load(&digest, self.name())?;
            stored.blobs += 1;
            stored.bytes += digest.size;
            sent += digest.size;
            self.shelves().blobs.insert(digest, bytes);
        }
        let mut shelves = self.shelves();
        for offer in batch.records {
            let key = offer.record.record().key;
            if super::is_latest(&offer.record, shelves.records.get(&key)) {
                sent += offer.record.as_bytes().len() as u64;
                stored.records += 1;
                shelves.log.push(offer.record.clone());
                shelves.records.insert(key, offer.record);
            }
        }
        self.meter.request(Operation::Put, sent);
        Ok(stored)
    }

    fn since(&self, after: &ChangeCursor) -> Changes {
        let shelves = self.shelves();
        // A place behind the end is one of before a flush.
        let from = after.0.parse().ok().filter(|from| *from <= shelves.log.len()).unwrap_or(0);
        let to = shelves.log.len().min(from + MAX_CHANGES);
        let records = shelves.log[from..to].to_vec();
        self.got(Operation::Changes, records.iter().map(SealedRecord::as_bytes));
        Changes { records, cursor: ChangeCursor(to.to_string()), more: to < shelves.log.len() }
    }
}

/// An answer that is there at once.
fn ready<'a, T: Send + 'a>(value: T) -> Answer<'a, T> {
    async { Ok(value) }.boxed()
}

impl Tier for MemoryTier {
    fn name(&self) -> &str {
        "memory:"
    }

    fn kind(&self) -> Kind {
        Kind::Memory
    }

    fn limits(&self) -> Limits {
        Limits { blob: MAX_BLOB, batch: 8 << 20 }
    }

    fn find<'a>(&'a self, blobs: &'a [Digest]) -> Answer<'a, Vec<bool>> {
        self.got(Operation::Find, std::iter::empty());
        let shelves = self.shelves();
        ready(blobs.iter().map(|blob| shelves.blobs.contains_key(blob)).collect())
    }

    fn small<'a>(&'a self, blobs: &'a [Digest]) -> Answer<'a, Vec<Option<Bytes>>> {
        let shelves = self.shelves();
        let small = |blob: &&Digest| blob.size <= MAX_SMALL;
        let found = blobs
            .iter()
            .map(|blob| Some(blob).filter(small).and_then(|blob| shelves.blobs.get(blob)).cloned());
        let found: Vec<_> = found.collect();
        self.got(Operation::Small, found.iter().flatten().map(|bytes| &bytes[..]));
        ready(found)
    }

    fn read<'a>(&'a self, blob: &'a Digest, range: Range<u64>) -> Answer<'a, Option<Bring>> {
        let found = self.shelves().blobs.get(blob).cloned();
        let part = found.map(|bytes| bytes.slice(range.start as usize..range.end as usize));
        self.got(Operation::Read, part.iter().map(|bytes| &bytes[..]));
        ready(part.map(|part| {
            let pieces = (0..part.len()).step_by(PIECE);
            stream::iter(pieces)
                .map(move |at| Ok(part.slice(at..part.len().min(at + PIECE))))
                .boxed()
        }))
    }

    fn records<'a>(&'a self, keys: &'a [ActionKey]) -> Answer<'a, Vec<Option<SealedRecord>>> {
        let shelves = self.shelves();
        let found: Vec<_> = keys.iter().map(|key| shelves.records.get(key).cloned()).collect();
        self.got(Operation::Records, found.iter().flatten().map(SealedRecord::as_bytes));
        ready(found)
    }

    fn put(&self, batch: Batch) -> Answer<'_, Stored> {
        async { self.keep(batch) }.boxed()
    }

    fn changes<'a>(&'a self, after: &'a ChangeCursor) -> Answer<'a, Changes> {
        ready(self.since(after))
    }

    fn doubt<'a>(&'a self, blob: &'a Digest) -> Answer<'a, ()> {
        self.got(Operation::Tend, std::iter::empty());
        let mut shelves = self.shelves();
        if shelves.blobs.get(blob).is_some_and(|bytes| !blob.matches(bytes)) {
            shelves.blobs.remove(blob);
        }
        ready(())
    }

    fn probe(&self) -> Answer<'_, ()> {
        self.got(Operation::Probe, std::iter::empty());
        ready(())
    }

    fn try_writing(&self) -> Answer<'_, ()> {
        ready(())
    }

    fn ahead(&self) -> Answer<'_, Option<i64>> {
        ready(None)
    }

    fn tend(&self) -> Answer<'_, Tended> {
        self.meter.request(Operation::Tend, 0);
        ready(Tended::default())
    }

    fn counts(&self) -> Counts {
        self.meter.counts()
    }
}
