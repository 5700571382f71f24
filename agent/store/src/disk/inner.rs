//! What all handles of one open data directory share, and the steps that change it.

use super::{
    catalog::{Catalog, Waiting},
    checked::Checked,
    entry::{BlobEntry, Place},
    frame::Kind,
    index::Index,
    journal::{Location, MAX_SEGMENT, Segments},
    layout::{Layout, create_dir, sync_dir},
    lock::DirLock,
    outgoing::Outgoing,
    partial::Arrivals,
    promises::{Pins, Promises},
    quarantine::Quarantine,
    tally::Totals,
    uses::Uses,
};
use crate::{Stats, StoreError, error::FileError};
use netbuild_core::{
    chunk::{MAX_CHUNK, Manifest},
    digest::{Digest, Hash},
    sketch::Sketch,
};
use std::{
    collections::BTreeSet,
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// An open data directory.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) layout: Layout,
    pub(super) index: Index,
    pub(super) segments: Segments,
    pub(super) arrivals: Arrivals,
    pub(super) checked: Checked,
    catalog: Mutex<Catalog>,
    pub(super) quarantine: Quarantine,
    /// Held while the index is made again, or segments are written anew: one at a time.
    pub(super) mending: Mutex<()>,
    /// Held for a whole flush: one that finds nothing to do must not return before another has done it.
    flushing: Mutex<()>,
    pub(super) uses: Uses,
    promises: Mutex<Promises>,
    pins: Mutex<Pins>,
    /// Held while space is made.
    pub(super) evicting: Mutex<()>,
    outgoing: Mutex<Outgoing>,
    /// Told when it has been looked what goes.
    pub(super) looked: Condvar,
    /// Whether blob files were compared with the index since the store was opened.
    pub(super) reconciled: AtomicBool,
    /// Whether the directory could not be written when it was opened, nor since.
    pub(super) read_only: AtomicBool,
    tmp_names: AtomicU64,
    pub(super) quarantined: AtomicU64,
    /// The last field, as it is given up last.
    _lock: DirLock,
}

/// Which file it was that somebody opened, whatever has its name now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FileId(u64, u64);

impl FileId {
    pub(super) fn of(meta: &Metadata) -> Self {
        Self(meta.dev(), meta.ino())
    }
}

impl Inner {
    pub(super) fn new(
        layout: Layout,
        lock: DirLock,
        quarantine: Quarantine,
        recovered: super::recover::Recovered,
        pins: Pins,
    ) -> Self {
        Self {
            arrivals: Arrivals::new(layout.partial()),
            checked: Checked::default(),
            layout,
            index: recovered.index,
            segments: recovered.segments,
            catalog: Mutex::new(Catalog::new(recovered.tail, recovered.evidence)),
            quarantine,
            mending: Mutex::default(),
            flushing: Mutex::default(),
            uses: Uses::default(),
            promises: Mutex::default(),
            pins: Mutex::new(pins),
            evicting: Mutex::default(),
            outgoing: Mutex::default(),
            looked: Condvar::new(),
            reconciled: AtomicBool::new(false),
            read_only: AtomicBool::new(false),
            tmp_names: AtomicU64::new(0),
            quarantined: AtomicU64::new(0),
            _lock: lock,
        }
    }

    pub(super) fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn promises(&self) -> MutexGuard<'_, Promises> {
        self.promises.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn pins(&self) -> MutexGuard<'_, Pins> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn outgoing(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A name in `tmp` that was not used before: `tmp` was emptied when the directory was locked.
    pub(super) fn tmp_path(&self) -> PathBuf {
        let number = self.tmp_names.fetch_add(1, Ordering::Relaxed);
        self.layout.tmp().join(number.to_string())
    }

    /// Keeps a blob in the journal. `bytes` must be those of `blob`.
    pub(super) fn keep_small(&self, blob: Digest, bytes: &[u8]) -> Result<(), StoreError> {
        let mut catalog = self.catalog();
        let old = self.index.blob(&blob.hash);
        self.used(&blob.hash);
        if old.is_some_and(|entry| entry.size == blob.size) {
            return Ok(());
        }
        let location = self.append(&mut catalog, Kind::Blob, blob.hash.as_bytes(), bytes)?;
        let entry = BlobEntry { size: blob.size, place: Place::Journal(location) };
        let indexed = Some(catalog.tail.position());
        self.index.put_blob(&blob.hash, &entry, indexed)?;
        catalog.tally.blob_changed(&blob.hash, old, Some(entry));
        drop(catalog);
        self.added(blob.size);
        Ok(())
    }

    /// Keeps a blob as a file, which holds what `manifest` says and to which `keep` gives its
    /// lasting name.
    pub(super) fn keep_large(
        &self,
        manifest: &Manifest,
        sketch: Option<Sketch>,
        keep: impl FnOnce(&Path) -> Result<(), FileError>,
    ) -> Result<(), StoreError> {
        let blob = manifest.blob();
        let path = self.layout.blob(&blob.hash);
        if let Some(dir) = path.parent() {
            create_dir(dir)?;
        }
        let full = {
            let mut catalog = self.catalog();
            self.used(&blob.hash);
            // Over a file that may be there: it could be damaged without anybody knowing yet.
            keep(&path)?;
            self.note_file(&mut catalog, &blob);
            catalog.waiting.blobs.push(blob.hash);
            catalog.waiting.is_full()
        };
        // The manifest can be made again from the file; a failure has marked the index already.
        let _ = self.index.put_manifest(manifest);
        if blob.size > MAX_CHUNK as u64 {
            self.arrivals.forget(&blob.hash);
        }
        if let Some(sketch) = sketch {
            self.keep_sketch(&blob, &sketch);
        }
        self.added(blob.size);
        if full { self.flush() } else { Ok(()) }
    }

    /// Notes a blob file that the index has lost.
    pub(super) fn adopt(&self, blob: &Digest) {
        self.note_file(&mut self.catalog(), blob);
    }

    fn note_file(&self, catalog: &mut Catalog, blob: &Digest) {
        catalog.touch(&blob.hash);
        let old = self.index.blob(&blob.hash);
        let entry = BlobEntry { size: blob.size, place: Place::File };
        // A blob file is found by its name too; a failure has marked the index already.
        if self.index.put_blob(&blob.hash, &entry, None).is_ok() {
            catalog.tally.blob_changed(&blob.hash, old, Some(entry));
        }
    }

    pub(super) fn append(
        &self,
        catalog: &mut Catalog,
        kind: Kind,
        head: &[u8],
        body: &[u8],
    ) -> Result<Location, FileError> {
        self.must_be_writable()?;
        self.rotate(catalog, MAX_SEGMENT)?;
        let location = self.segments.append(&mut catalog.tail, kind, head, body)?;
        catalog.waiting.journal = true;
        Ok(location)
    }

    /// Starts another segment if the one that is written to has at least `full` bytes.
    pub(super) fn rotate(&self, catalog: &mut Catalog, full: u64) -> Result<(), FileError> {
        let ended = self.segments.rotate(&mut catalog.tail, full)?;
        catalog.waiting.ended.extend(ended);
        Ok(())
    }

    /// Forgets a small blob whose frame is damaged, unless it was put again meanwhile.
    pub(super) fn lost_small(&self, hash: &Hash, location: Location) {
        let mut catalog = self.catalog();
        let old = self.index.blob(hash);
        if old.is_some_and(|entry| entry.place == Place::Journal(location)) {
            self.quarantined.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(blob = %hash, segment = location.segment, offset = location.offset,
                "blob is damaged in the journal");
            self.forget(&mut catalog, hash, old);
        }
    }

    /// Forgets a blob whose file is gone.
    pub(super) fn lost_file(&self, hash: &Hash) {
        let mut catalog = self.catalog();
        let old = self.index.blob(hash);
        let gone = !fs::exists(self.layout.blob(hash)).unwrap_or(true);
        if gone && old.is_some_and(|entry| entry.place == Place::File) {
            self.forget(&mut catalog, hash, old);
        }
    }

    /// Puts a damaged blob file aside, unless its name means another file by now.
    pub(super) fn quarantine(&self, hash: &Hash, id: FileId) {
        let mut catalog = self.catalog();
        let path = self.layout.blob(hash);
        if !fs::symlink_metadata(&path).is_ok_and(|meta| FileId::of(&meta) == id) {
            return;
        }
        self.quarantined.fetch_add(1, Ordering::Relaxed);
        match self.quarantine.take(&path, &hash.to_string()) {
            Ok(now) => {
                tracing::warn!(blob = %hash, path = %now.display(), "damaged blob was put aside");
            }
            Err(FileError { path, source }) => {
                tracing::warn!(blob = %hash, path = %path.display(), error = %source,
                    "damaged blob cannot be put aside");
            }
        }
        let old = self.index.blob(hash);
        self.forget(&mut catalog, hash, old);
    }

    pub(super) fn forget(&self, catalog: &mut Catalog, hash: &Hash, old: Option<BlobEntry>) {
        catalog.touch(hash);
        // What the index cannot forget is found damaged again.
        if self.index.forget_blob(hash).is_ok() {
            catalog.tally.blob_changed(hash, old, None);
        }
    }

    /// Makes everything that was put before durable.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        let _one = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let (waiting, tail) = {
            let mut catalog = self.catalog();
            (std::mem::take(&mut catalog.waiting), catalog.tail.file())
        };
        self.sync(&waiting, &tail).map_err(|error| {
            self.catalog().waiting.restore(waiting);
            StoreError::from(error)
        })?;
        // That is a write without a sync; a failure has marked the index, which can be made again.
        self.index.hand_over();
        Ok(())
    }

    fn sync(&self, waiting: &Waiting, tail: &File) -> Result<(), FileError> {
        let mut dirs = BTreeSet::new();
        for hash in &waiting.blobs {
            let path = self.layout.blob(hash);
            sync_file(&path)?;
            dirs.extend(path.parent().map(Path::to_owned));
        }
        dirs.iter().try_for_each(|dir| sync_dir(dir))?;
        if !dirs.is_empty() {
            sync_dir(&self.layout.blobs())?;
        }
        let journal = self.layout.journal();
        for file in waiting.ended.iter().map(|file| &**file) {
            file.sync_data().map_err(FileError::at(&journal))?;
        }
        if waiting.journal {
            tail.sync_data().map_err(FileError::at(&journal))?;
            sync_dir(&journal)?;
        }
        Ok(())
    }

    /// Counts of everything, which take time in proportion when they are first asked for.
    pub(super) fn totals(&self) -> Totals {
        loop {
            // The lock is free between two pages.
            let mut catalog = self.catalog();
            if catalog.count_on(&self.index) {
                return catalog.tally.totals();
            }
        }
    }

    pub(super) fn stats(&self) -> Stats {
        let totals = self.totals();
        let conflicts = self.catalog().evidence.len() as u64;
        Stats {
            blobs: totals.blobs,
            blob_bytes: totals.blob_bytes,
            records: totals.records,
            conflicts,
            quarantined: self.quarantined.load(Ordering::Relaxed),
        }
    }
}

/// Makes a blob file durable; one that was put aside meanwhile needs it no more.
fn sync_file(path: &Path) -> Result<(), FileError> {
    match File::open(path).and_then(|file| file.sync_data()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::at(path)(error)),
        _ => Ok(()),
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.write_uses();
        self.index.close();
    }
}
