//! A store in a data directory: large blobs as files, records and small blobs in a journal, and an index
//! that is made again from the two when it is lost.
//!
//! Durability is asked for with `flush`. Correctness never depends on it: everything is checked when it is
//! read, and what a crash has torn is a miss.

mod behind;
mod boot;
mod catalog;
mod checked;
mod chunk_log;
mod compact;
mod cutting;
mod engine;
mod entry;
mod evict;
mod format;
mod frame;
mod incoming;
mod index;
mod inner;
mod inspect;
mod journal;
mod layout;
mod leaf;
mod lock;
mod mend;
mod open_error;
mod outgoing;
mod partial;
mod payload;
mod pieces;
mod promises;
mod quarantine;
mod read;
mod read_only;
mod records;
mod recover;
mod removal;
mod seal;
mod sketches;
mod tally;
mod usage;
mod uses;

pub use engine::hush_contained_panics;
pub use layout::blob_path;
pub use open_error::{Holder, OpenError};

use crate::{
    Compacted, Conflict, Cursor, Finding, Inspect, Inspected, Kept, MemoryStore, PartialBlob,
    RecordHead, Stats, Store, StoreError,
    error::FileError,
    space::{Evicted, Evicting, Pinned, Survey, Tell, Usage},
};
use format::Mark;
use incoming::{DiskBlob, Received, receive};
use inner::Inner;
use layout::{DIRECTORIES, Layout, create_dir, remove_file, sync_dir};
use lock::DirLock;
use netbuild_core::{
    chunk::{Chunk, Manifest},
    digest::Digest,
    evict::{Limits, Pin},
    key::ActionKey,
    merge::Trust,
    sketch::Sketch,
};
use netbuild_proto::record::SealedRecord;
use promises::Pins;
use quarantine::Quarantine;
use read_only::Meanwhile;
use std::{
    fs,
    io::Read,
    ops::ControlFlow,
    path::Path,
    sync::{Arc, OnceLock},
    time::Instant,
};

/// The store of a data directory. One process has it open at a time; it is closed when this and every
/// reader and partial blob that came from it are dropped.
#[derive(Debug)]
pub struct DiskStore {
    inner: Arc<Inner>,
    /// Empty but for a directory that could not be written when it was opened.
    meanwhile: OnceLock<Meanwhile>,
}

impl DiskStore {
    /// Says whether a data directory could be opened as far as its format goes: it is not there
    /// yet, or this version knows it. Changes nothing and takes no lock.
    pub fn check(dir: &Path) -> Result<(), OpenError> {
        format::check(&Layout::new(dir)).map(drop)
    }

    /// Who has a data directory open, if anybody does. Changes nothing and keeps nothing locked.
    pub fn holder(dir: &Path) -> Result<Option<Holder>, OpenError> {
        lock::holder(&Layout::new(dir))
    }

    /// Opens a data directory, or makes one. `role` is what [`OpenError::InUse`] calls this process to
    /// others: a word or two. One that the system lets nobody write is opened as it is: it serves what it
    /// has, keeps what comes in memory, and is written again after [`Store::mend`] found that it can be.
    pub fn open(dir: &Path, role: &str) -> Result<Self, OpenError> {
        let error = match Self::open_to_write(dir, role) {
            Err(OpenError::Io { path, source }) if read_only::refuses(&source) => {
                OpenError::Io { path, source }
            }
            other => return other,
        };
        match read_only::open(dir) {
            Ok(inner) => {
                tracing::warn!(dir = %dir.display(), error = %recover::chain(&error),
                    "data directory cannot be written; what it has is used, and what comes is kept in memory");
                Ok(Self { inner: Arc::new(inner), meanwhile: OnceLock::new() })
            }
            Err(in_use @ OpenError::InUse { .. }) => Err(in_use),
            Err(_) => Err(error),
        }
    }

    /// Whether the directory cannot be written, so that what comes is in memory.
    pub fn is_read_only(&self) -> bool {
        self.inner.is_read_only()
    }

    fn open_to_write(dir: &Path, role: &str) -> Result<Self, OpenError> {
        let layout = Layout::new(dir);
        // Looked at before the lock too, whose file must not appear in a directory that is not ours.
        format::check(&layout)?;
        create_dir(dir)?;
        let mut lock = DirLock::acquire(&layout)?;
        let mark = format::check(&layout)?;
        match mark {
            Mark::Present => {}
            Mark::Missing => format::write(&layout)?,
            Mark::Older(found) => format::migrate(&layout, found)?,
        }
        lock.announce(&layout, role);
        for name in DIRECTORIES {
            create_dir(&dir.join(name))?;
        }
        if mark == Mark::Missing {
            sync_dir(dir)?;
        }
        empty(&layout.tmp())?;
        let quarantine = Quarantine::new(layout.quarantine());
        let recovered = recover::recover(&layout, &quarantine)?;
        let pins = Pins::load(&layout)?;
        let inner = Arc::new(Inner::new(layout, lock, quarantine, recovered, pins));
        Ok(Self { inner, meanwhile: OnceLock::new() })
    }

    /// Gives the disk what is in memory instead; fails while it takes nothing.
    fn bring_in(&self) -> Result<(), StoreError> {
        let Some(meanwhile) = self.meanwhile.get().filter(|it| it.is_used()) else { return Ok(()) };
        self.inner.must_be_writable()?;
        meanwhile.bring_in(
            &|bytes| self.put(&mut &bytes[..], None).map(drop),
            // Which of two stays was decided when it came.
            &|record| self.inner.keep_record(record, &Trust::default()).map(drop),
        )
    }

    /// Where what comes goes while the directory cannot be written.
    fn instead(&self) -> Option<&Meanwhile> {
        self.inner.is_read_only().then(|| self.meanwhile.get_or_init(Meanwhile::default))
    }

    fn put(&self, content: &mut dyn Read, expected: Option<&Digest>) -> Result<Digest, StoreError> {
        match receive(&self.inner, content, expected)? {
            Received::Small(blob, bytes) => {
                self.inner.keep_small(blob, &bytes)?;
                Ok(blob)
            }
            Received::Large(manifest, sketch, mut tmp) => {
                // Before the lock is taken, as it may take long.
                tmp.prepare(&self.inner.layout.blob(&manifest.blob().hash))?;
                self.inner.keep_large(&manifest, sketch, |path| tmp.keep(path))?;
                Ok(manifest.blob())
            }
        }
    }
}

/// Removes what a killed process left behind.
fn empty(tmp: &Path) -> Result<(), FileError> {
    for entry in fs::read_dir(tmp).map_err(FileError::at(tmp))? {
        let entry = entry.map_err(FileError::at(tmp))?;
        remove_file(&entry.path())?;
    }
    Ok(())
}

impl Store for DiskStore {
    fn put_blob(&self, blob: &Digest, content: &mut dyn Read) -> Result<(), StoreError> {
        if self.has_blob(blob)? {
            return Ok(());
        }
        if let Some(instead) = self.instead() {
            let put = |store: &MemoryStore| store.put_blob(blob, content).map(|()| *blob);
            return instead.take(&self.inner, blob.size, put).map(drop);
        }
        self.put(content, Some(blob)).map(drop)
    }

    fn put_content(&self, content: &mut dyn Read) -> Result<Digest, StoreError> {
        if let Some(instead) = self.instead() {
            return instead.take(&self.inner, 0, |store| store.put_content(content));
        }
        self.put(content, None)
    }

    fn has_blob(&self, blob: &Digest) -> Result<bool, StoreError> {
        Ok(self.inner.has(blob) || self.meanwhile.get().is_some_and(|it| it.has(blob)))
    }

    fn open_blob(&self, blob: &Digest) -> Result<Option<Box<dyn Read + Send>>, StoreError> {
        match (self.inner.open(blob)?, self.meanwhile.get()) {
            (None, Some(meanwhile)) => meanwhile.store.open_blob(blob),
            (found, _) => Ok(found),
        }
    }

    fn manifest(&self, blob: &Digest) -> Result<Option<Manifest>, StoreError> {
        match (self.inner.manifest(blob)?, self.meanwhile.get()) {
            (None, Some(meanwhile)) => meanwhile.store.manifest(blob),
            (found, _) => Ok(found),
        }
    }

    fn chunk(&self, chunk: &Chunk) -> Result<Option<Vec<u8>>, StoreError> {
        match (self.inner.chunk(chunk)?, self.meanwhile.get()) {
            (None, Some(meanwhile)) => meanwhile.store.chunk(chunk),
            (found, _) => Ok(found),
        }
    }

    fn held(&self, manifest: &Manifest) -> Result<Vec<bool>, StoreError> {
        Ok(self.inner.held(manifest))
    }

    fn arriving(&self, blob: &Digest) -> Option<(Manifest, Vec<bool>)> {
        self.inner.arrivals.so_far(blob)
    }

    fn doubt(&self, name: &Digest) {
        self.inner.doubt(&name.hash);
    }

    fn previous(&self, path: &[u8]) -> Result<Vec<Digest>, StoreError> {
        Ok(self.inner.index.outputs_at(path).blobs())
    }

    fn sketch(&self, blob: &Digest) -> Result<Option<Sketch>, StoreError> {
        self.inner.sketch(blob)
    }

    fn similar(&self, sketch: &Sketch, limit: usize) -> Result<Vec<(Digest, f64)>, StoreError> {
        Ok(self.inner.similar(sketch, limit))
    }

    fn begin_blob(&self, manifest: &Manifest) -> Result<Box<dyn PartialBlob>, StoreError> {
        if let Some(instead) = self.instead() {
            return instead.begin(&self.inner, manifest);
        }
        Ok(Box::new(DiskBlob::begin(self.inner.clone(), manifest)?))
    }

    fn put_record(&self, record: &SealedRecord, trust: &Trust) -> Result<Kept, StoreError> {
        let Some(instead) = self.instead() else { return self.inner.keep_record(record, trust) };
        // Which of two stays is decided as on the disk.
        if let Some(known) = self.inner.record(&record.record().key)? {
            instead.store.put_record(&known, trust)?;
        }
        instead.store.put_record(record, trust)
    }

    fn record(&self, key: &ActionKey) -> Result<Option<SealedRecord>, StoreError> {
        let meanwhile = self.meanwhile.get().map(|it| it.store.record(key));
        match meanwhile.transpose()?.flatten() {
            Some(record) => Ok(Some(record)),
            None => self.inner.record(key),
        }
    }

    fn records_after(
        &self,
        after: Option<&ActionKey>,
        limit: usize,
    ) -> Result<Vec<RecordHead>, StoreError> {
        let records = self.inner.index.records_after(after, limit);
        let heads = records.into_iter().map(|(key, entry)| RecordHead {
            key,
            hlc: entry.hlc,
            sum: entry.sum,
            shared: entry.shared,
        });
        Ok(heads.collect())
    }

    fn conflict(&self, key: &ActionKey) -> Result<Option<Conflict>, StoreError> {
        self.inner.conflict(key)
    }

    fn conflicts(&self, limit: usize) -> Result<Vec<Conflict>, StoreError> {
        self.inner.conflicts(limit)
    }

    fn promise(&self, owner: Option<u64>, blobs: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        {
            // With the catalog locked: nothing goes between the promise and the look.
            let _catalog = self.inner.catalog();
            let hashes = blobs.iter().map(|blob| blob.hash);
            self.inner.promises().add(owner, hashes, Instant::now());
        }
        self.find_missing(blobs)
    }

    fn release(&self, owner: u64) {
        self.inner.promises().release(owner);
    }

    fn pin(&self, pin: Pin, label: &str) -> Result<bool, StoreError> {
        self.inner.pin(pin, label)
    }

    fn unpin(&self, pin: &Pin) -> Result<bool, StoreError> {
        self.inner.unpin(pin)
    }

    fn pins(&self) -> Vec<Pinned> {
        self.inner.pins().list()
    }

    fn evict(&self, limits: &Limits, how: &Evicting<'_>) -> Result<Evicted, StoreError> {
        // Nothing can be removed.
        if self.inner.is_read_only() {
            Ok(Evicted::default())
        } else {
            self.inner.evict(limits, how)
        }
    }

    fn compact(
        &self,
        pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Compacted, StoreError> {
        if self.inner.is_read_only() { Ok(Compacted::default()) } else { self.inner.compact(pace) }
    }

    fn usage(&self) -> Result<Usage, StoreError> {
        self.inner.usage()
    }

    fn survey(&self, tell: Tell<'_>) -> Result<Option<Survey>, StoreError> {
        self.inner.survey(tell)
    }

    fn remove_blob(&self, blob: &Digest) -> Result<bool, StoreError> {
        self.inner.remove_blob(blob)
    }

    fn remove_record(&self, key: &ActionKey) -> Result<bool, StoreError> {
        self.inner.remove_record(key)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.bring_in()?;
        self.inner.flush()
    }

    fn inspect(&self, from: &Cursor, how: &Inspect<'_>) -> Result<Inspected, StoreError> {
        self.inner.inspect(from, how)
    }

    fn check_index(
        &self,
        repair: bool,
        going: &dyn Fn() -> ControlFlow<()>,
    ) -> Result<Option<Vec<Finding>>, StoreError> {
        self.inner.compare_index(repair, going)
    }

    fn mend(&self) -> Result<bool, StoreError> {
        self.inner.become_writable()?;
        self.bring_in()?;
        self.inner.mend()
    }

    fn stats(&self) -> Stats {
        self.inner.stats()
    }
}
