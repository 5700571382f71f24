//! Where everything is: a map that can always be made again from the journal and the blob files.
//!
//! A value that cannot be read is a miss, and marks the index to be made again at the next opening. Nothing
//! served is ever believed because the index says so: who reads, checks.

use super::{
    boot,
    engine::{Change, Engine, EngineError},
    entry::{
        BlobEntry, ChunkEntry, Entry, EvidenceEntry, RecordEntry, SketchEntry, decode_manifest,
        encode_manifest,
    },
    journal::{Location, Position},
    layout::{Layout, open_or_create, remove_file},
    leaf::Item,
    seal,
};
use crate::{StoreError, error::FileError, recent::Recent};
use netbuild_core::{
    chunk::{MAX_CHUNK, Manifest},
    digest::{Digest, Hash},
    key::ActionKey,
    merge::Evidence,
    record::Record,
    sketch::Sketch,
};
use std::{
    collections::HashMap,
    fmt, fs,
    ops::ControlFlow,
    sync::atomic::{AtomicBool, Ordering},
};

const BLOB: u8 = b'b';
const CHUNK: u8 = b'c';
const MANIFEST: u8 = b'm';
const RECORD: u8 = b'r';
const EVIDENCE: u8 = b'x';
/// By the hash of an output's path and the time of a record, newest first: the blob that the record
/// names there. Nothing is read when one is added, so that many records are kept as fast as before.
const OUTPUT: u8 = b'o';
const SKETCH: u8 = b's';
/// By a feature of sketches: the newest blobs that have it.
const FEATURE: u8 = b'f';
/// When a blob or a record was last used.
const USE: u8 = b'u';
/// Up to where the journal has been indexed.
const POSITION: &[u8] = b"p";

/// Most chunks of a manifest that is kept: a value of about one megabyte, for a blob of about 16 GiB. The
/// manifest of a larger blob is made again when it is asked for.
const MAX_KEPT_CHUNKS: usize = 32 * 1024;
/// Outputs of one path that are looked at, newest first. A blob that is here from before so many
/// others is no good base any more.
const MAX_OUTPUTS_READ: usize = 64;
/// Entries taken from the engine, or given to it, at once when there are many: sled frees nothing of what a
/// batch replaces before its end, and a batch of 30,000 changes grows a process by half a gigabyte.
const PAGE: usize = 1024;

/// Typed access to the engine.
#[derive(Debug)]
pub(super) struct Index {
    engine: Engine,
    layout: Layout,
    damaged: AtomicBool,
    /// Whether it is made beside the one in use, to take its place.
    beside: bool,
}

impl Index {
    pub(super) fn open(layout: &Layout) -> Result<Self, EngineError> {
        Ok(Self {
            engine: Engine::open(&layout.index())?,
            layout: layout.clone(),
            damaged: AtomicBool::new(false),
            beside: false,
        })
    }

    /// Makes an empty index beside the one in use. It is gone when nobody gives it to
    /// [`Index::become_that`].
    pub(super) fn beside(layout: &Layout) -> Result<Self, EngineError> {
        Ok(Self {
            engine: Engine::open(&layout.index_new())?,
            layout: layout.clone(),
            damaged: AtomicBool::new(false),
            beside: true,
        })
    }

    /// An empty index in memory, for when there is no room for one on disk.
    pub(super) fn in_memory(layout: &Layout) -> Self {
        Self {
            engine: Engine::in_memory(),
            layout: layout.clone(),
            damaged: AtomicBool::new(false),
            beside: false,
        }
    }

    /// Whether it is nowhere but in memory.
    pub(super) fn is_in_memory(&self) -> bool {
        self.engine.is_in_memory()
    }

    /// Has what `other` has in memory in place of what it had.
    pub(super) fn become_memory(&self, other: &Self) {
        self.engine.become_that(&other.engine);
    }

    /// Has `other`, which was made beside this one, in place of what it had. `aside` moves the old
    /// files away.
    pub(super) fn become_that(
        &self,
        mut other: Self,
        aside: impl FnOnce() -> Result<(), FileError>,
    ) -> Result<(), StoreError> {
        other.close();
        if other.is_damaged() {
            return Err(StoreError::Index("it was damaged while it was made again".to_owned()));
        }
        let (dir, new) = (self.layout.index(), self.layout.index_new());
        let swapped = self.engine.exchange(&dir, || {
            aside()?;
            fs::rename(&new, &dir).map_err(FileError::at(&new))?;
            Ok(())
        });
        swapped.inspect_err(|error: &StoreError| {
            self.mark_damaged(&error);
        })?;
        self.damaged.store(false, Ordering::Relaxed);
        Ok(remove_file(&self.layout.index_damaged())?)
    }

    /// Whether it answers nothing any more.
    pub(super) fn is_broken(&self) -> bool {
        self.engine.is_broken()
    }

    /// Refuses while it answers nothing: what it does not know may be here all the same, and come back
    /// when it is made again.
    pub(super) fn must_answer(&self) -> Result<(), StoreError> {
        if self.is_broken() { Err(EngineError::Broken.into()) } else { Ok(()) }
    }

    pub(super) fn blob(&self, hash: &Hash) -> Option<BlobEntry> {
        self.get(&key(BLOB, &hash.0))
    }

    pub(super) fn record(&self, action: &ActionKey) -> Option<RecordEntry> {
        self.get(&key(RECORD, &action.0))
    }

    pub(super) fn chunk(&self, hash: &Hash) -> Option<ChunkEntry> {
        self.get(&key(CHUNK, &hash.0))
    }

    pub(super) fn position(&self) -> Option<Position> {
        self.get(POSITION)
    }

    pub(super) fn manifest(&self, blob: Digest) -> Option<Manifest> {
        let value = self.value(&key(MANIFEST, &blob.hash.0))?;
        decode_manifest(blob, &value)
    }

    /// At most `limit` records in the order of their keys, from the first after `after`.
    pub(super) fn records_after(
        &self,
        after: Option<&ActionKey>,
        limit: usize,
    ) -> Vec<(ActionKey, RecordEntry)> {
        let after = after.map_or(&[][..], |key| &key.0);
        let found = self.page(RECORD, after, limit);
        let records = found.iter().filter_map(|(key, value)| {
            let action = ActionKey(key[1..].try_into().ok()?);
            Some((action, RecordEntry::decode(value)?))
        });
        records.collect()
    }

    /// At most `limit` blobs in the order of their hashes, from the first after `after`.
    pub(super) fn blobs_after(&self, after: Option<&Hash>, limit: usize) -> Vec<(Hash, BlobEntry)> {
        let after = after.map_or(&[][..], |hash| &hash.0);
        let found = self.page(BLOB, after, limit);
        let blobs = found.iter().filter_map(|(key, value)| {
            Some((Hash(key[1..].try_into().ok()?), BlobEntry::decode(value)?))
        });
        blobs.collect()
    }

    /// Notes a blob and, in the same write, how far the journal is indexed if that has changed.
    pub(super) fn put_blob(
        &self,
        hash: &Hash,
        entry: &BlobEntry,
        indexed: Option<Position>,
    ) -> Result<(), StoreError> {
        let blob = (key(BLOB, &hash.0), Some(entry.encode()));
        let position = indexed.map(|indexed| (POSITION.to_vec(), Some(indexed.encode())));
        self.put([blob].into_iter().chain(position).collect())
    }

    /// Notes a record with its outputs and, in the same write, how far the journal is indexed.
    pub(super) fn put_record(
        &self,
        record: &Record,
        entry: &RecordEntry,
        indexed: Position,
    ) -> Result<(), StoreError> {
        let outputs = record.result.outputs.iter().filter_map(|output| {
            let name = output_key(&output.path, entry.hlc.0);
            Some((name, Some(Recent(vec![(entry.hlc.0, output.blob()?)]).encode())))
        });
        let own = [
            (key(RECORD, &record.key.0), Some(entry.encode())),
            (POSITION.to_vec(), Some(indexed.encode())),
        ];
        self.put(outputs.chain(own).collect())
    }

    /// The newest blobs that records name at a path, and of those before them some that are here.
    pub(super) fn outputs_at(&self, path: &[u8]) -> Recent {
        let found = self.page(OUTPUT, &output_name(path), MAX_OUTPUTS_READ);
        let of_path = found.iter().take_while(|(key, _)| key[1..].starts_with(&output_name(path)));
        let mut newest = Recent::default();
        for (_, value) in of_path.collect::<Vec<_>>().into_iter().rev() {
            for (time, blob) in Recent::decode(value).unwrap_or_default().0 {
                newest.add(time, blob, |blob| self.blob(&blob.hash).is_some());
            }
        }
        newest
    }

    /// Notes the records of an action that lost, as `evidence` has them now, and, in the same write,
    /// how far the journal is indexed.
    pub(super) fn put_evidence(
        &self,
        action: &ActionKey,
        evidence: &Evidence<Location>,
        indexed: Position,
    ) -> Result<(), StoreError> {
        let entry = evidence.stamp(action).map(|stamp| {
            let variants = evidence.variants(action).to_vec();
            EvidenceEntry { stamp, variants }.encode()
        });
        self.put(vec![
            (key(EVIDENCE, &action.0), entry),
            (POSITION.to_vec(), Some(indexed.encode())),
        ])
    }

    /// The sketch of a blob.
    pub(super) fn sketch(&self, hash: &Hash) -> Option<SketchEntry> {
        self.get(&key(SKETCH, &hash.0))
    }

    /// Notes the sketch of a blob, which came at this time in milliseconds since the Unix epoch.
    pub(super) fn put_sketch(
        &self,
        blob: &Digest,
        sketch: &Sketch,
        time: u64,
    ) -> Result<(), StoreError> {
        let features = sketch.features().into_iter().flatten().map(|feature| {
            let mut newest = self.with_feature(feature);
            newest.add(time, *blob, |blob| self.blob(&blob.hash).is_some());
            (feature_key(feature), Some(newest.encode()))
        });
        let entry = SketchEntry { size: blob.size, sketch: *sketch };
        let own = (key(SKETCH, &blob.hash.0), Some(entry.encode()));
        self.put(features.chain([own]).collect())
    }

    /// The newest blobs whose sketches have a feature.
    pub(super) fn with_feature(&self, feature: u64) -> Recent {
        self.get(&feature_key(feature)).unwrap_or_default()
    }

    /// All records that lost.
    pub(super) fn evidence(&self) -> Evidence<Location> {
        let mut evidence = Evidence::default();
        self.visit(EVIDENCE, &[], |action, value| {
            match EvidenceEntry::decode(value) {
                Some(entry) => evidence.restore(ActionKey(action), entry.stamp, entry.variants),
                None => self.mark_damaged(&EngineError::BadValue),
            }
            ControlFlow::Continue(())
        });
        evidence
    }

    pub(super) fn put_position(&self, indexed: Position) -> Result<(), StoreError> {
        self.put(vec![(POSITION.to_vec(), Some(indexed.encode()))])
    }

    /// Notes the chunks of a blob of several; that of a smaller one is the blob itself.
    pub(super) fn put_manifest(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let blob = manifest.blob();
        if blob.size <= MAX_CHUNK as u64 || manifest.chunks().len() > MAX_KEPT_CHUNKS {
            return Ok(());
        }
        let chunks = manifest.offsets().map(|(offset, chunk)| {
            let entry = ChunkEntry { blob: blob.hash, offset, len: chunk.len };
            (key(CHUNK, &chunk.hash.0), Some(entry.encode()))
        });
        let whole = (key(MANIFEST, &blob.hash.0), Some(encode_manifest(manifest)));
        self.put_each([whole].into_iter().chain(chunks))
    }

    pub(super) fn forget_blob(&self, hash: &Hash) -> Result<(), StoreError> {
        self.put(vec![(key(BLOB, &hash.0), None), (key(USE, &hash.0), None)])
    }

    pub(super) fn forget_record(&self, action: &ActionKey) -> Result<(), StoreError> {
        self.put(vec![(key(RECORD, &action.0), None)])
    }

    /// Notes that a small blob was removed and, in the same write, how far the journal is indexed.
    pub(super) fn remove_small(&self, hash: &Hash, indexed: Position) -> Result<(), StoreError> {
        self.put(vec![
            (key(BLOB, &hash.0), None),
            (key(USE, &hash.0), None),
            (POSITION.to_vec(), Some(indexed.encode())),
        ])
    }

    /// Notes that the record of an action was removed, with its outputs as `record` has them and
    /// what lost against it, and, in the same write, how far the journal is indexed.
    pub(super) fn remove_record(
        &self,
        action: &ActionKey,
        record: Option<&Record>,
        indexed: Position,
    ) -> Result<(), StoreError> {
        let outputs = record.into_iter().flat_map(|record| {
            let outputs = record.result.outputs.iter();
            outputs.map(|output| (output_key(&output.path, record.hlc.0), None))
        });
        let own = [
            (key(RECORD, &action.0), None),
            (key(EVIDENCE, &action.0), None),
            (key(USE, &action.0), None),
            (POSITION.to_vec(), Some(indexed.encode())),
        ];
        self.put(outputs.chain(own).collect())
    }

    /// Notes that the frame of a record lies elsewhere and, in the same write, how far the journal is
    /// indexed.
    pub(super) fn move_record(
        &self,
        action: &ActionKey,
        entry: &RecordEntry,
        indexed: Position,
    ) -> Result<(), StoreError> {
        self.put(vec![
            (key(RECORD, &action.0), Some(entry.encode())),
            (POSITION.to_vec(), Some(indexed.encode())),
        ])
    }

    /// Forgets what was derived from the bytes of a blob that was removed: its manifest, the chunks
    /// that are looked for in it, its sketch.
    pub(super) fn forget_parts(&self, blob: &Digest) -> Result<(), StoreError> {
        let manifest = self.manifest(*blob);
        let chunks = manifest.iter().flat_map(|manifest| manifest.chunks());
        let chunks = chunks
            .filter(|chunk| self.chunk(&chunk.hash).is_some_and(|entry| entry.blob == blob.hash));
        let mut changes: Vec<Change> =
            chunks.map(|chunk| (key(CHUNK, &chunk.hash.0), None)).collect();
        changes.extend(manifest.as_ref().map(|_| (key(MANIFEST, &blob.hash.0), None)));
        if let Some(entry) = self.sketch(&blob.hash) {
            for feature in entry.sketch.features().into_iter().flatten() {
                let mut newest = self.with_feature(feature);
                newest.0.retain(|(_, known)| known != blob);
                let value = (!newest.0.is_empty()).then(|| newest.encode());
                changes.push((feature_key(feature), value));
            }
            changes.push((key(SKETCH, &blob.hash.0), None));
        }
        self.put_each(changes.into_iter())
    }

    /// Sees to it that what was put survives this process. The journal would bring most of it back, but
    /// not that there are blob files: those are found by their names only when somebody asks for them.
    pub(super) fn hand_over(&self) {
        if let Err(error) = self.engine.hand_over(|| self.mark_damaged(&EngineError::BadValue)) {
            self.mark_damaged(&error);
        }
    }

    /// When a blob or a record was last used, in seconds since the Unix epoch.
    pub(super) fn used(&self, name: &Hash) -> Option<u64> {
        let value = self.value(&key(USE, &name.0))?;
        Some(u64::from_le_bytes(value.try_into().ok()?))
    }

    /// When blobs and records were last used whose names come after `after`, up to `last`. To ask for each of
    /// many would be to wait for each.
    pub(super) fn uses_between(&self, after: Option<&Hash>, last: &Hash) -> HashMap<Hash, u64> {
        let mut uses = HashMap::new();
        let after = after.map_or(&[][..], |hash| &hash.0);
        self.visit(USE, after, |name, value| {
            if Hash(name) > *last {
                return ControlFlow::Break(());
            }
            match value.try_into() {
                Ok(at) => drop(uses.insert(Hash(name), u64::from_le_bytes(at))),
                Err(_) => self.mark_damaged(&EngineError::BadValue),
            }
            ControlFlow::Continue(())
        });
        uses
    }

    /// Notes when blobs and records were last used.
    pub(super) fn put_uses(&self, uses: Vec<(Hash, u64)>) -> Result<(), StoreError> {
        let change = |(name, at): (Hash, u64)| (key(USE, &name.0), Some(at.to_le_bytes().to_vec()));
        self.put_each(uses.into_iter().map(change))
    }

    /// Returns when all that was put is on the disk, so that an index that is opened after a crash
    /// points to nothing that was moved or removed before.
    pub(super) fn persist(&self) -> Result<(), StoreError> {
        let persisted = self.engine.persist(|| self.mark_damaged(&EngineError::BadValue));
        persisted.map_err(|error| {
            self.mark_damaged(&error);
            StoreError::Index(error.to_string())
        })
    }

    pub(super) fn forget_chunk(&self, hash: &Hash) -> Result<(), StoreError> {
        self.put(vec![(key(CHUNK, &hash.0), None)])
    }

    /// Whether something unreadable was met since it was opened.
    pub(super) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Closes the engine, and seals its files unless the index has to be made again.
    pub(super) fn close(&mut self) {
        if let Err(error) = self.engine.close() {
            self.mark_damaged(&error);
        }
        if !*self.damaged.get_mut() && !self.beside && !self.is_in_memory() {
            seal::write(&self.layout);
            boot::forget(&self.layout);
        }
    }

    /// Visits what is in a table behind `after`, in order.
    fn visit(
        &self,
        table: u8,
        after: &[u8],
        mut each: impl FnMut([u8; 32], &[u8]) -> ControlFlow<()>,
    ) {
        let mut after = after.to_vec();
        loop {
            let page = self.page(table, &after, PAGE);
            for (key, value) in &page {
                match key[1..].try_into() {
                    Ok(name) if each(name, value).is_break() => return,
                    Ok(_) => {}
                    Err(_) => self.mark_damaged(&EngineError::BadValue),
                }
            }
            match page.last() {
                Some((key, _)) => after = key[1..].to_vec(),
                None => return,
            }
        }
    }

    fn page(&self, table: u8, after: &[u8], limit: usize) -> Vec<Item> {
        let on_bad = || self.mark_damaged(&EngineError::BadValue);
        let found = self.engine.after(table, after, limit, on_bad);
        found.inspect_err(|error| self.mark_damaged(error)).unwrap_or_default()
    }

    fn get<E: Entry>(&self, key: &[u8]) -> Option<E> {
        let value = self.value(key)?;
        let entry = E::decode(&value);
        if entry.is_none() {
            self.mark_damaged(&EngineError::BadValue);
        }
        entry
    }

    fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.engine.get(key).inspect_err(|error| self.mark_damaged(error)).ok().flatten()
    }

    fn put(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let written = self.engine.write(changes, || self.mark_damaged(&EngineError::BadValue));
        written.map_err(|error| {
            self.mark_damaged(&error);
            self.refused(error)
        })
    }

    /// Takes many changes that need not come together.
    fn put_each(&self, mut changes: impl Iterator<Item = Change>) -> Result<(), StoreError> {
        loop {
            let some: Vec<Change> = changes.by_ref().take(PAGE).collect();
            if some.is_empty() {
                return Ok(());
            }
            self.put(some)?;
        }
    }

    /// The failure of the engine as callers see it: what the system refused, by its path.
    fn refused(&self, error: EngineError) -> StoreError {
        match error.refusal() {
            Ok(source) => FileError::at(&self.layout.index())(source).into(),
            Err(error) => error.into(),
        }
    }

    /// As if the engine had panicked.
    #[cfg(test)]
    pub(super) fn fail(&self, why: &str) {
        self.mark_damaged(&self.engine.fail(why));
    }

    /// Leaves a mark in the data directory, so that even a crash does not lose the finding.
    fn mark_damaged(&self, error: &dyn fmt::Display) {
        if self.damaged.swap(true, Ordering::Relaxed) || self.beside {
            return;
        }
        tracing::warn!(%error, dir = %self.layout.index().display(),
            "index is damaged; it is made again, by an agent soon, else when the store is next opened");
        if let Err(error) = open_or_create(&self.layout.index_damaged()) {
            tracing::debug!(path = %error.path.display(), error = %error.source, "no mark was left");
        }
    }
}

/// What the keys of all outputs of a path begin with. Half of a hash is enough to tell paths apart,
/// and two that are not would only be a bad base for a patch.
fn output_name(path: &[u8]) -> [u8; 16] {
    let hash = Hash::of(path).0;
    std::array::from_fn(|at| hash[at])
}

fn output_key(path: &[u8], time: u64) -> Vec<u8> {
    [&[OUTPUT], &output_name(path)[..], &(!time).to_be_bytes()].concat()
}

fn feature_key(feature: u64) -> Vec<u8> {
    [&[FEATURE], &feature.to_be_bytes()[..]].concat()
}

fn key(table: u8, name: &[u8; 32]) -> Vec<u8> {
    let mut key = Vec::with_capacity(33);
    key.push(table);
    key.extend_from_slice(name);
    key
}
