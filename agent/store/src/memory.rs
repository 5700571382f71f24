//! A store in memory: for tests, and for agents that must leave nothing on a disk.

use crate::{
    Conflict, Kept, PartialBlob, Pinned, RecordHead, Stats, Store, StoreError,
    arrival::{Arrival, Places},
    recent::Recent,
    store::{MAX_BLOB, SKETCHED},
};
use netbuild_core::{
    chunk::{Chunk, Chunker, Manifest},
    digest::{Digest, Hash},
    evict::Pin,
    key::ActionKey,
    merge::{Evidence, Level, Outcome, Trust, Variant, merge, result_id},
    sketch::{Sketch, Sketcher},
};
use netbuild_proto::record::SealedRecord;
use std::{
    collections::{BTreeMap, HashMap},
    io::{Cursor, Read},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Keeps everything in memory, without a bound of its own. A clone is another handle to the same store.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Mutex<Shelves>>);

#[derive(Debug, Default)]
struct Shelves {
    blobs: HashMap<Hash, (Arc<[u8]>, Manifest)>,
    chunks: HashMap<Hash, (Hash, usize, usize)>,
    records: BTreeMap<ActionKey, SealedRecord>,
    evidence: Evidence<SealedRecord>,
    outputs: HashMap<Vec<u8>, Recent>,
    sketches: HashMap<Digest, Sketch>,
    pins: BTreeMap<Pin, String>,
    /// Unfinished blobs that nobody is working on, that which was left last at the end.
    idle: Vec<Unfinished>,
    /// The blobs that somebody is working on, and what has come of them.
    busy: HashMap<Hash, Busy>,
}

/// What others may read of a blob that is arriving.
#[derive(Debug)]
struct Busy {
    places: Arc<Places>,
    bytes: Arc<Mutex<Vec<u8>>>,
}

/// What has come of a blob.
#[derive(Debug)]
struct Unfinished {
    arrival: Arrival,
    bytes: Arc<Mutex<Vec<u8>>>,
}

/// Unfinished blobs that are kept, at most; memory is scarcer than disk.
const MAX_IDLE: usize = 8;

impl Shelves {
    fn keep(&mut self, key: ActionKey, sealed: &SealedRecord) {
        let Self { blobs, outputs, records, .. } = self;
        let record = sealed.record();
        for output in &record.result.outputs {
            if let Some(blob) = output.blob() {
                let newest = outputs.entry(output.path.clone()).or_default();
                newest.add(record.hlc.0, blob, |known| blobs.contains_key(&known.hash));
            }
        }
        records.insert(key, sealed.clone());
    }

    /// The bytes of a chunk from a blob that is arriving.
    fn arriving(&self, chunk: &Chunk) -> Option<Vec<u8>> {
        let mut busy = self.busy.values();
        let (start, bytes) =
            busy.find_map(|busy| Some((busy.places.find(chunk)? as usize, &busy.bytes)))?;
        let bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.get(start..start + chunk.len as usize).map(<[u8]>::to_vec)
    }

    fn conflict(&self, key: &ActionKey) -> Option<Conflict> {
        let kept = self.records.get(key)?.clone();
        let result = result_id(&kept.record().result);
        let others = self.evidence.variants(key).iter().filter(|lost| lost.result != result);
        let others: Vec<SealedRecord> = others.map(|lost| lost.place.clone()).collect();
        (!others.is_empty()).then_some(Conflict { key: *key, kept, others })
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, bytes: Vec<u8>, expected: Option<&Digest>) -> Result<Digest, StoreError> {
        let mut chunker = Chunker::new();
        chunker.update(&bytes);
        let manifest = chunker.finish();
        let blob = manifest.blob();
        if let Some(expected) = expected.filter(|expected| **expected != blob) {
            return Err(StoreError::Mismatch(*expected));
        }
        let sketch = SKETCHED.contains(&blob.size).then(|| {
            let mut sketcher = Sketcher::new();
            sketcher.update(&bytes);
            sketcher.finish()
        });
        let mut shelves = self.shelves();
        shelves.sketches.extend(sketch.map(|sketch| (blob, sketch)));
        for (offset, chunk) in manifest.offsets() {
            let place = (blob.hash, offset as usize, chunk.len as usize);
            shelves.chunks.insert(chunk.hash, place);
        }
        shelves.blobs.insert(blob.hash, (bytes.into(), manifest));
        Ok(blob)
    }
}

impl MemoryStore {
    /// Gives all blobs and then all records to another store; what was taken is here no more. After an
    /// error all of it is.
    pub(crate) fn hand_over(
        &self,
        blob: &dyn Fn(&[u8]) -> Result<(), StoreError>,
        record: &dyn Fn(&SealedRecord) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (blobs, records) = {
            let shelves = self.shelves();
            let blobs = shelves.blobs.iter().map(|(hash, (bytes, _))| (*hash, Arc::clone(bytes)));
            (blobs.collect::<HashMap<_, _>>(), shelves.records.clone())
        };
        blobs.values().try_for_each(|bytes| blob(bytes))?;
        records.values().try_for_each(record)?;
        let mut shelves = self.shelves();
        shelves.blobs.retain(|hash, _| !blobs.contains_key(hash));
        shelves.chunks.retain(|_, (of, ..)| !blobs.contains_key(of));
        shelves.records.retain(|key, known| records.get(key) != Some(known));
        Ok(())
    }
}

impl Store for MemoryStore {
    fn put_blob(&self, blob: &Digest, content: &mut dyn Read) -> Result<(), StoreError> {
        if self.has_blob(blob)? {
            return Ok(());
        }
        let bytes = read_all(content, blob.size)?.ok_or(StoreError::Mismatch(*blob))?;
        self.keep(bytes, Some(blob)).map(drop)
    }

    fn put_content(&self, content: &mut dyn Read) -> Result<Digest, StoreError> {
        let limit = MAX_BLOB;
        let bytes = read_all(content, limit)?.ok_or(StoreError::TooLarge { limit })?;
        self.keep(bytes, None)
    }

    fn has_blob(&self, blob: &Digest) -> Result<bool, StoreError> {
        Ok(self.manifest(blob)?.is_some())
    }

    fn open_blob(&self, blob: &Digest) -> Result<Option<Box<dyn Read + Send>>, StoreError> {
        let shelves = self.shelves();
        let found = shelves.blobs.get(&blob.hash);
        Ok(found
            .filter(|(_, manifest)| manifest.blob() == *blob)
            .map(|(bytes, _)| Box::new(Cursor::new(bytes.clone())) as Box<dyn Read + Send>))
    }

    fn manifest(&self, blob: &Digest) -> Result<Option<Manifest>, StoreError> {
        let shelves = self.shelves();
        let found = shelves.blobs.get(&blob.hash).map(|(_, manifest)| manifest);
        Ok(found.filter(|manifest| manifest.blob() == *blob).cloned())
    }

    fn chunk(&self, chunk: &Chunk) -> Result<Option<Vec<u8>>, StoreError> {
        let shelves = self.shelves();
        let Some((blob, offset, len)) = shelves.chunks.get(&chunk.hash) else {
            return Ok(shelves.arriving(chunk));
        };
        let bytes =
            shelves.blobs.get(blob).and_then(|(bytes, _)| bytes.get(*offset..*offset + *len));
        Ok(bytes.filter(|bytes| bytes.len() as u64 == u64::from(chunk.len)).map(<[u8]>::to_vec))
    }

    fn held(&self, manifest: &Manifest) -> Result<Vec<bool>, StoreError> {
        let shelves = self.shelves();
        let here = manifest.chunks().iter().map(|chunk| {
            let known = shelves.chunks.get(&chunk.hash);
            known.is_some_and(|(_, _, len)| *len == chunk.len as usize)
                || shelves.busy.values().any(|busy| busy.places.find(chunk).is_some())
        });
        Ok(here.collect())
    }

    fn arriving(&self, blob: &Digest) -> Option<(Manifest, Vec<bool>)> {
        let places = self.shelves().busy.get(&blob.hash)?.places.clone();
        places.so_far().filter(|(manifest, _)| manifest.blob() == *blob)
    }

    fn doubt(&self, _: &Digest) {}

    fn previous(&self, path: &[u8]) -> Result<Vec<Digest>, StoreError> {
        Ok(self.shelves().outputs.get(path).map(Recent::blobs).unwrap_or_default())
    }

    fn sketch(&self, blob: &Digest) -> Result<Option<Sketch>, StoreError> {
        Ok(self.shelves().sketches.get(blob).copied())
    }

    fn similar(&self, sketch: &Sketch, limit: usize) -> Result<Vec<(Digest, f64)>, StoreError> {
        let shelves = self.shelves();
        let alike = shelves.sketches.iter().map(|(blob, other)| (*blob, sketch.similarity(other)));
        let mut alike: Vec<_> = alike.filter(|(_, similarity)| *similarity > 0.0).collect();
        alike.sort_by(|(one, a), (other, b)| b.total_cmp(a).then(one.cmp(other)));
        alike.truncate(limit);
        Ok(alike)
    }

    fn begin_blob(&self, manifest: &Manifest) -> Result<Box<dyn PartialBlob>, StoreError> {
        let mut shelves = self.shelves();
        let hash = manifest.blob().hash;
        let shared = manifest.chunks().len() > 1 && !shelves.busy.contains_key(&hash);
        let idle = shelves.idle.iter().position(|idle| idle.arrival.blob().hash == hash);
        let left = idle.filter(|_| shared).map(|at| shelves.idle.remove(at));
        let Unfinished { arrival, bytes } =
            left.filter(|left| left.arrival.manifest() == manifest).unwrap_or_else(|| Unfinished {
                arrival: Arrival::new(manifest),
                bytes: Arc::default(),
            });
        if shared {
            let (places, bytes) = (arrival.places().clone(), bytes.clone());
            shelves.busy.insert(hash, Busy { places, bytes });
        }
        let store = self.clone();
        Ok(Box::new(MemoryBlob { store, arrival, bytes, shared, done: false }))
    }

    fn put_record(&self, record: &SealedRecord, trust: &Trust) -> Result<Kept, StoreError> {
        let new = record.version();
        if trust.level(&new.writer) == Level::Refused {
            return Ok(Kept::Refused);
        }
        let key = record.record().key;
        let mut guard = self.shelves();
        let shelves = &mut *guard;
        let Some(old) = shelves.records.get(&key).cloned() else {
            shelves.keep(key, record);
            return Ok(Kept::Stored);
        };
        let kept = old.version();
        match merge(&kept, &new, trust) {
            Outcome::Refused => return Ok(Kept::Refused),
            Outcome::Same => return Ok(Kept::Same),
            Outcome::Stays { conflict } => {
                if conflict {
                    let rank = new.rank(trust);
                    let lost = Variant { rank, result: new.result, place: record.clone() };
                    shelves.evidence.add(key, &kept.result, lost);
                }
                return Ok(Kept::Older);
            }
            Outcome::Replaces { conflict: true } => {
                let lost = Variant { rank: kept.rank(trust), result: kept.result, place: old };
                shelves.evidence.add(key, &new.result, lost);
            }
            Outcome::Replaces { conflict: false } => {
                shelves.evidence.handle_kept(&key, &new.result);
            }
        }
        shelves.keep(key, record);
        Ok(Kept::Stored)
    }

    fn record(&self, key: &ActionKey) -> Result<Option<SealedRecord>, StoreError> {
        Ok(self.shelves().records.get(key).cloned())
    }

    fn records_after(
        &self,
        after: Option<&ActionKey>,
        limit: usize,
    ) -> Result<Vec<RecordHead>, StoreError> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let shelves = self.shelves();
        let range = shelves.records.range::<ActionKey, _>((start, Bound::Unbounded));
        let heads = range.take(limit).map(|(key, sealed)| RecordHead {
            key: *key,
            hlc: sealed.record().hlc,
            sum: sealed.item().sum,
            shared: sealed.record().execution.is_shared(),
        });
        Ok(heads.collect())
    }

    fn conflict(&self, key: &ActionKey) -> Result<Option<Conflict>, StoreError> {
        Ok(self.shelves().conflict(key))
    }

    fn conflicts(&self, limit: usize) -> Result<Vec<Conflict>, StoreError> {
        let shelves = self.shelves();
        let newest = shelves.evidence.newest().into_iter();
        Ok(newest.filter_map(|key| shelves.conflict(&key)).take(limit).collect())
    }

    /// Nothing goes by itself here, so there is nothing to remember.
    fn promise(&self, _: Option<u64>, blobs: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        self.find_missing(blobs)
    }

    fn release(&self, _: u64) {}

    fn pin(&self, pin: Pin, label: &str) -> Result<bool, StoreError> {
        Ok(self.shelves().pins.insert(pin, label.to_owned()).is_none())
    }

    fn unpin(&self, pin: &Pin) -> Result<bool, StoreError> {
        Ok(self.shelves().pins.remove(pin).is_some())
    }

    fn pins(&self) -> Vec<Pinned> {
        let shelves = self.shelves();
        let each = shelves.pins.iter();
        each.map(|(pin, label)| Pinned { pin: *pin, label: label.clone() }).collect()
    }

    fn remove_blob(&self, blob: &Digest) -> Result<bool, StoreError> {
        let mut shelves = self.shelves();
        let found = shelves.blobs.get(&blob.hash);
        if found.is_none_or(|(_, manifest)| manifest.blob() != *blob) {
            return Ok(false);
        }
        shelves.blobs.remove(&blob.hash);
        shelves.chunks.retain(|_, (holder, ..)| *holder != blob.hash);
        shelves.sketches.remove(blob);
        Ok(true)
    }

    fn remove_record(&self, key: &ActionKey) -> Result<bool, StoreError> {
        let mut shelves = self.shelves();
        let Some(gone) = shelves.records.remove(key) else { return Ok(false) };
        shelves.evidence.forget(key);
        for output in &gone.record().result.outputs {
            let (Some(blob), time) = (output.blob(), gone.record().hlc.0) else { continue };
            if let Some(newest) = shelves.outputs.get_mut(&output.path) {
                newest.0.retain(|known| *known != (time, blob));
            }
        }
        Ok(true)
    }

    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn stats(&self) -> Stats {
        let shelves = self.shelves();
        Stats {
            blobs: shelves.blobs.len() as u64,
            blob_bytes: shelves.blobs.values().map(|(_, m)| m.blob().size).sum(),
            records: shelves.records.len() as u64,
            conflicts: shelves.evidence.len() as u64,
            quarantined: 0,
        }
    }
}

/// Reads to the end; `None` when there are more than `limit` bytes.
fn read_all(content: &mut dyn Read, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let mut bytes = Vec::new();
    content.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(StoreError::Content)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

/// A blob that arrives chunk by chunk.
#[derive(Debug)]
struct MemoryBlob {
    store: MemoryStore,
    arrival: Arrival,
    bytes: Arc<Mutex<Vec<u8>>>,
    /// Whether others may read what has come, and what is left unfinished is kept.
    shared: bool,
    done: bool,
}

impl MemoryBlob {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PartialBlob for MemoryBlob {
    fn has(&self, index: usize) -> bool {
        self.arrival.has(index)
    }

    fn write_chunk(&mut self, index: usize, bytes: &[u8]) -> Result<(), StoreError> {
        if let Some(offset) = self.arrival.admit(index, bytes)? {
            let (start, end) = (offset as usize, offset as usize + bytes.len());
            {
                let mut blob = self.bytes();
                // Grown with what came, as the size is a stranger's word.
                if blob.len() < end {
                    blob.resize(end, 0);
                }
                blob[start..end].copy_from_slice(bytes);
            }
            self.arrival.wrote(index, bytes);
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), StoreError> {
        self.arrival.complete()?;
        self.done = true;
        let bytes = std::mem::take(&mut *self.bytes());
        self.store.keep(bytes, Some(&self.arrival.blob())).map(drop)
    }

    fn discard(mut self: Box<Self>) {
        self.done = true;
    }
}

impl Drop for MemoryBlob {
    fn drop(&mut self) {
        if !self.shared {
            return;
        }
        let mut shelves = self.store.shelves();
        shelves.busy.remove(&self.arrival.blob().hash);
        if !self.done && !self.arrival.places().is_empty() {
            let arrival = self.arrival.clone();
            shelves.idle.push(Unfinished { arrival, bytes: self.bytes.clone() });
            if shelves.idle.len() > MAX_IDLE {
                shelves.idle.remove(0);
            }
        }
    }
}
