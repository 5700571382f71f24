//! Reading from a data directory. Whatever comes out was checked; what fails the check is put aside.

use super::{
    checked::{Found, Stamp},
    entry::Place,
    frame::Kind,
    incoming::cut,
    inner::{FileId, Inner},
    journal::Location,
    payload::{INLINE_MAX, split_blob},
};
use crate::{StoreError, error::FileError, verify::VerifyingReader};
use netbuild_core::{
    chunk::{Chunk, MAX_CHUNK, Manifest},
    digest::{Digest, Hash},
};
use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Cursor, Read},
    os::unix::fs::FileExt,
    sync::Arc,
    time::SystemTime,
};

impl Inner {
    /// Where a blob lies; a file that the index has lost is found by its name.
    pub(super) fn locate(&self, blob: &Digest) -> Option<Place> {
        if let Some(entry) = self.index.blob(&blob.hash) {
            return (entry.size == blob.size).then_some(entry.place);
        }
        let found = blob.size > INLINE_MAX as u64 && self.has_file(blob);
        found.then(|| {
            self.adopt(blob);
            Place::File
        })
    }

    fn has_file(&self, blob: &Digest) -> bool {
        fs::symlink_metadata(self.layout.blob(&blob.hash))
            .is_ok_and(|meta| meta.is_file() && meta.len() == blob.size)
    }

    pub(super) fn has(&self, blob: &Digest) -> bool {
        match self.locate(blob) {
            Some(Place::Journal(_)) => true,
            Some(Place::File) => self.has_file(blob),
            None => false,
        }
    }

    pub(super) fn open(
        self: &Arc<Self>,
        blob: &Digest,
    ) -> Result<Option<Box<dyn Read + Send>>, StoreError> {
        let opened = self.open_unused(blob)?;
        if opened.is_some() {
            self.used(&blob.hash);
        }
        Ok(opened)
    }

    /// The same, but that does not count as a use.
    pub(super) fn open_unused(
        self: &Arc<Self>,
        blob: &Digest,
    ) -> Result<Option<Box<dyn Read + Send>>, StoreError> {
        match self.locate(blob) {
            None => Ok(None),
            Some(Place::Journal(location)) => {
                let bytes = self.small(blob, location)?;
                Ok(bytes.map(|bytes| Box::new(Cursor::new(bytes)) as Box<dyn Read + Send>))
            }
            Some(Place::File) => {
                let Some((file, id)) = self.file(blob)? else {
                    return Ok(None);
                };
                let (inner, hash) = (self.clone(), blob.hash);
                let on_damage = Box::new(move || inner.quarantine(&hash, id));
                Ok(Some(Box::new(VerifyingReader::new(file, *blob, on_damage))))
            }
        }
    }

    /// The bytes of a blob in the journal.
    fn small(&self, blob: &Digest, mut at: Location) -> Result<Option<Vec<u8>>, StoreError> {
        loop {
            let payload = self.segments.read(at, Kind::Blob)?;
            let bytes = payload
                .as_deref()
                .and_then(split_blob)
                .filter(|(_, bytes)| blob.matches(bytes))
                .map(|(_, bytes)| bytes.to_vec());
            if bytes.is_some() {
                return Ok(bytes);
            }
            // Its segment may have been written anew since it was located.
            match self.index.blob(&blob.hash).map(|entry| entry.place) {
                Some(Place::Journal(now)) if now != at => at = now,
                _ => {
                    self.lost_small(&blob.hash, at);
                    return Ok(None);
                }
            }
        }
    }

    /// The file of a blob that the index knows, if its length is right.
    fn file(&self, blob: &Digest) -> Result<Option<(File, FileId)>, StoreError> {
        let Some((file, meta)) = self.open_file(&blob.hash)? else {
            self.lost_file(&blob.hash);
            return Ok(None);
        };
        let id = FileId::of(&meta);
        if meta.len() != blob.size {
            self.quarantine(&blob.hash, id);
            return Ok(None);
        }
        Ok(Some((file, id)))
    }

    fn open_file(&self, hash: &Hash) -> Result<Option<(File, fs::Metadata)>, StoreError> {
        let path = self.layout.blob(hash);
        let opened = File::open(&path).and_then(|file| {
            let meta = file.metadata()?;
            Ok((file, meta))
        });
        match opened {
            Ok(opened) => Ok(Some(opened)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(FileError::at(&path)(error).into()),
        }
    }

    pub(super) fn manifest(&self, blob: &Digest) -> Result<Option<Manifest>, StoreError> {
        if !self.has(blob) {
            return Ok(None);
        }
        if let Some(manifest) = Manifest::single(*blob).or_else(|| self.index.manifest(*blob)) {
            return Ok(Some(manifest));
        }
        let Some((mut file, id)) = self.file(blob)? else {
            return Ok(None);
        };
        let path = self.layout.blob(&blob.hash);
        let manifest = cut(&mut file).map_err(FileError::at(&path))?;
        if manifest.blob() != *blob {
            self.quarantine(&blob.hash, id);
            return Ok(None);
        }
        // It can be made again; a failure has marked the index already.
        let _ = self.index.put_manifest(&manifest);
        Ok(Some(manifest))
    }

    pub(super) fn chunk(&self, chunk: &Chunk) -> Result<Option<Vec<u8>>, StoreError> {
        if chunk.len as usize > MAX_CHUNK {
            return Ok(None);
        }
        let whole = Digest { hash: chunk.hash, size: u64::from(chunk.len) };
        let bytes = match self.locate(&whole) {
            Some(Place::Journal(location)) => self.small(&whole, location)?,
            Some(Place::File) => self.range(&whole.hash, 0, chunk)?,
            None => None,
        };
        if bytes.is_some() {
            self.used(&whole.hash);
            return Ok(bytes);
        }
        let entry = self.index.chunk(&chunk.hash);
        if let Some(entry) = entry.filter(|entry| entry.len == chunk.len) {
            let bytes = self.range(&entry.blob, entry.offset, chunk)?;
            if bytes.is_some() {
                self.used(&entry.blob);
                return Ok(bytes);
            }
            // The next blob with this chunk takes its place; a failure has marked the index already.
            let _ = self.index.forget_chunk(&chunk.hash);
        }
        Ok(self.arriving(chunk))
    }

    /// The bytes of a chunk from a blob that is arriving. If it cannot be read, the arrival finds
    /// out.
    fn arriving(&self, chunk: &Chunk) -> Option<Vec<u8>> {
        let (file, offset) = self.arrivals.find(chunk)?;
        let mut bytes = vec![0; chunk.len as usize];
        file.read_exact_at(&mut bytes, offset).ok()?;
        (Hash::of(&bytes) == chunk.hash).then_some(bytes)
    }

    /// Which chunks of a manifest are here.
    pub(super) fn held(&self, manifest: &Manifest) -> Vec<bool> {
        if self.has(&manifest.blob()) {
            return vec![true; manifest.chunks().len()];
        }
        // Most chunks lie in one or two files.
        let mut files = HashMap::<Hash, bool>::new();
        let mut in_blob = |chunk: &Chunk| {
            let entry = self.index.chunk(&chunk.hash).filter(|entry| entry.len == chunk.len);
            entry.is_some_and(|entry| {
                *files
                    .entry(entry.blob)
                    .or_insert_with(|| fs::exists(self.layout.blob(&entry.blob)).unwrap_or(false))
            })
        };
        let here = manifest.chunks().iter().map(|chunk| {
            in_blob(chunk)
                || self.has(&Digest { hash: chunk.hash, size: u64::from(chunk.len) })
                || self.arrivals.find(chunk).is_some()
        });
        here.collect()
    }

    /// Checks what has this name anew when it is next asked for, and the blob that it is a part of.
    pub(super) fn doubt(&self, name: &Hash) {
        self.checked.doubt(name);
        if let Some(entry) = self.index.chunk(name) {
            self.checked.doubt(&entry.blob);
        }
    }

    /// The bytes of a chunk that is known to lie at `offset` of a blob file.
    fn range(
        &self,
        blob: &Hash,
        offset: u64,
        chunk: &Chunk,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let Some((file, meta)) = self.open_file(blob)? else {
            self.lost_file(blob);
            return Ok(None);
        };
        let found = Found { blob: *blob, offset, len: chunk.len, stamp: Stamp::of(&meta) };
        let mut bytes = vec![0; chunk.len as usize];
        let good = match file.read_exact_at(&mut bytes, offset) {
            Ok(()) if self.checked.has(&chunk.hash, &found) => return Ok(Some(bytes)),
            Ok(()) => Hash::of(&bytes) == chunk.hash,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
            Err(error) => return Err(FileError::at(&self.layout.blob(blob))(error).into()),
        };
        if good {
            self.checked.add(chunk.hash, found, SystemTime::now());
        } else {
            self.quarantine(blob, FileId::of(&meta));
        }
        Ok(good.then_some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DiskStore, Store};
    use std::time::Duration;

    #[test]
    fn a_chunk_found_right_before_is_checked_again_when_somebody_doubts_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = DiskStore::open(dir.path(), "test").unwrap();
        let bytes = vec![7; 100_000];
        for doubt_it in [false, true] {
            let blob = store.put_content(&mut &bytes[..]).unwrap();
            let chunk = Chunk { hash: blob.hash, len: blob.size as u32 };
            let path = store.inner.layout.blob(&blob.hash);
            let mut bad = bytes.clone();
            bad[5] ^= 1;
            fs::write(&path, &bad).unwrap();
            // As if the disk had forgotten the byte after the chunk was checked.
            let stamp = Stamp::of(&fs::metadata(&path).unwrap());
            let found = Found { blob: blob.hash, offset: 0, len: chunk.len, stamp };
            let later = SystemTime::now() + Duration::from_secs(60);
            store.inner.checked.add(chunk.hash, found, later);
            if doubt_it {
                store.doubt(&blob);
                assert_eq!(store.chunk(&chunk).unwrap(), None);
            } else {
                assert_eq!(store.chunk(&chunk).unwrap().as_ref(), Some(&bad));
                // A reader on this machine does not get it all the same.
                assert_eq!(store.blob_bytes(&blob, u64::MAX).unwrap(), None);
            }
            assert!(!store.has_blob(&blob).unwrap());
        }
    }
}
