//! A data directory that cannot be written: what is in it is served, and what comes is kept in memory, until
//! it can; then it goes to the disk.

use super::{
    format::{self, Mark},
    inner::Inner,
    layout::{DIRECTORIES, Layout, create_dir, open_or_create},
    lock::DirLock,
    open_error::OpenError,
    promises::Pins,
    quarantine::Quarantine,
    recover,
};
use crate::{MemoryStore, PartialBlob, Store as _, StoreError, error::FileError};
use netbuild_core::{chunk::Manifest, digest::Digest};
use netbuild_proto::record::SealedRecord;
use std::{
    io,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

/// Most bytes of blobs that are kept in memory in place of a disk that takes none.
const MAX_MEANWHILE: u64 = 1 << 30;

/// Whether the system lets nobody write there, whatever is written.
pub(super) fn refuses(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

/// Opens a directory of this format, as it is, without changing anything.
pub(super) fn open(dir: &Path) -> Result<Inner, OpenError> {
    let layout = Layout::new(dir);
    if format::check(&layout)? != Mark::Present {
        return Err(OpenError::BadFormat { file: layout.format() });
    }
    let lock = DirLock::acquire_as_it_is(&layout)?;
    let quarantine = Quarantine::new(layout.quarantine());
    let recovered = recover::recover_to_read(&layout)?;
    let pins = Pins::load(&layout)?;
    let inner = Inner::new(layout, lock, quarantine, recovered, pins);
    inner.read_only.store(true, Ordering::Relaxed);
    Ok(inner)
}

impl Inner {
    /// Whether the directory was opened as one that cannot be written, and could not be since.
    pub(super) fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed)
    }

    /// Fails while the directory cannot be written.
    pub(super) fn must_be_writable(&self) -> Result<(), FileError> {
        match self.is_read_only() {
            true => {
                let refused = io::Error::from(io::ErrorKind::ReadOnlyFilesystem);
                Err(FileError::at(self.layout.root())(refused))
            }
            false => Ok(()),
        }
    }

    /// Goes on as a directory that is written, if it can be by now.
    pub(super) fn become_writable(&self) -> Result<(), StoreError> {
        if !self.is_read_only() {
            return Ok(());
        }
        // The lock on it is held already.
        open_or_create(&self.layout.lock())?;
        for name in DIRECTORIES {
            create_dir(&self.layout.root().join(name))?;
        }
        super::empty(&self.layout.tmp())?;
        let mut catalog = self.catalog();
        let (tail, _) = self.segments.tail(catalog.tail.position())?;
        catalog.tail = tail;
        self.read_only.store(false, Ordering::Relaxed);
        tracing::info!(dir = %self.layout.root().display(), "data directory can be written again");
        Ok(())
    }
}

/// What came while the directory could not be written. It is durable once it was brought in.
#[derive(Debug, Default)]
pub(super) struct Meanwhile {
    pub(super) store: MemoryStore,
    bytes: AtomicU64,
}

impl Meanwhile {
    /// Takes a blob in, while there is room.
    pub(super) fn take(
        &self,
        inner: &Inner,
        size: u64,
        put: impl FnOnce(&MemoryStore) -> Result<Digest, StoreError>,
    ) -> Result<Digest, StoreError> {
        self.make_room(inner, size)?;
        let blob = put(&self.store)?;
        self.bytes.fetch_add(blob.size, Ordering::Relaxed);
        Ok(blob)
    }

    /// The same for one whose chunks come one by one.
    pub(super) fn begin(
        &self,
        inner: &Inner,
        manifest: &Manifest,
    ) -> Result<Box<dyn PartialBlob>, StoreError> {
        let size = manifest.blob().size;
        self.make_room(inner, size)?;
        let begun = self.store.begin_blob(manifest)?;
        self.bytes.fetch_add(size, Ordering::Relaxed);
        Ok(begun)
    }

    /// Fails when there is no room for a blob of so many bytes.
    fn make_room(&self, inner: &Inner, size: u64) -> Result<(), StoreError> {
        let taken = self.bytes.load(Ordering::Relaxed);
        if taken.saturating_add(size) > MAX_MEANWHILE {
            inner.must_be_writable()?;
        }
        Ok(())
    }

    /// Gives all of it to the disk.
    pub(super) fn bring_in(
        &self,
        blob: &dyn Fn(&[u8]) -> Result<(), StoreError>,
        record: &dyn Fn(&SealedRecord) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.store.hand_over(blob, record)?;
        self.bytes.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Whether there is anything.
    pub(super) fn is_used(&self) -> bool {
        let stats = self.store.stats();
        stats.blobs + stats.records > 0
    }

    /// Whether it has a blob.
    pub(super) fn has(&self, blob: &Digest) -> bool {
        self.store.has_blob(blob).unwrap_or(false)
    }
}
