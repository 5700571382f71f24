//! Content on its way in: a file in `tmp` that is gone unless it is kept.

use super::{
    inner::Inner,
    layout::{create_new, remove_file},
    payload::INLINE_MAX,
};
use crate::{PartialBlob, StoreError, arrival::Arrival, error::FileError, store::MAX_BLOB};
use netbuild_core::{
    chunk::{Chunker, Manifest},
    digest::Digest,
};
use std::{
    fmt,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Bytes moved at once: enough for the hash to run at full speed, little enough for many threads.
const PIECE: usize = 256 * 1024;

/// A file in `tmp`, removed when dropped.
#[derive(Debug)]
pub(super) struct TmpFile {
    path: PathBuf,
    file: File,
    kept: bool,
}

impl TmpFile {
    pub(super) fn create(path: PathBuf) -> Result<Self, FileError> {
        let file = create_new(&path)?;
        Ok(Self { path, file, kept: false })
    }

    fn at(&self) -> impl FnOnce(io::Error) -> FileError {
        FileError::at(&self.path)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.file.write_all(bytes).map_err(self.at())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), FileError> {
        self.file.write_all_at(bytes, offset).map_err(self.at())
    }

    /// Gives the file its lasting name.
    pub(super) fn keep(mut self, path: &Path) -> Result<(), FileError> {
        fs::rename(&self.path, path).map_err(FileError::at(path))?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for TmpFile {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Err(FileError { path, source }) = remove_file(&self.path) {
            // The next opening empties `tmp`.
            tracing::debug!(path = %path.display(), error = %source, "temporary file stays");
        }
    }
}

/// Content that was read to its end and given its name.
pub(super) enum Received {
    Small(Digest, Vec<u8>),
    Large(Manifest, TmpFile),
}

/// Reads content to its end, refusing what cannot be `expected`.
pub(super) fn receive(
    inner: &Inner,
    content: &mut dyn Read,
    expected: Option<&Digest>,
) -> Result<Received, StoreError> {
    let limit = expected.map_or(MAX_BLOB, |blob| blob.size);
    if limit > MAX_BLOB {
        return Err(StoreError::TooLarge { limit: MAX_BLOB });
    }
    // One byte more tells content that ends from content that goes on.
    let mut content = content.take(limit + 1);
    let mut head = Vec::new();
    content
        .by_ref()
        .take(INLINE_MAX as u64 + 1)
        .read_to_end(&mut head)
        .map_err(StoreError::Content)?;
    let received = if head.len() <= INLINE_MAX {
        Received::Small(Digest::of(&head), head)
    } else {
        receive_large(inner, &head, content)?
    };
    let blob = match &received {
        Received::Small(blob, _) => *blob,
        Received::Large(manifest, _) => manifest.blob(),
    };
    match expected {
        Some(expected) if *expected != blob => Err(StoreError::Mismatch(*expected)),
        None if blob.size > limit => Err(StoreError::TooLarge { limit }),
        _ => Ok(received),
    }
}

fn receive_large(
    inner: &Inner,
    head: &[u8],
    mut content: impl Read,
) -> Result<Received, StoreError> {
    let mut tmp = TmpFile::create(inner.tmp_path())?;
    let mut chunker = Chunker::new();
    chunker.update(head);
    tmp.write(head)?;
    let mut piece = vec![0; PIECE];
    loop {
        match content.read(&mut piece) {
            Ok(0) => return Ok(Received::Large(chunker.finish(), tmp)),
            Ok(len) => {
                chunker.update(&piece[..len]);
                tmp.write(&piece[..len])?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(StoreError::Content(error)),
        }
    }
}

/// Where the chunks of an arriving blob are put.
#[derive(Debug)]
enum Content {
    Memory(Vec<u8>),
    File(TmpFile),
}

/// A blob that arrives chunk by chunk.
pub(super) struct DiskBlob {
    inner: Arc<Inner>,
    arrival: Arrival,
    content: Content,
}

impl DiskBlob {
    pub(super) fn begin(inner: Arc<Inner>, manifest: &Manifest) -> Result<Self, StoreError> {
        let size = manifest.blob().size;
        let content = if size <= INLINE_MAX as u64 {
            Content::Memory(vec![0; size as usize])
        } else {
            Content::File(TmpFile::create(inner.tmp_path())?)
        };
        Ok(Self { arrival: Arrival::new(manifest), inner, content })
    }
}

impl PartialBlob for DiskBlob {
    fn write_chunk(&mut self, index: usize, bytes: &[u8]) -> Result<(), StoreError> {
        let Some(offset) = self.arrival.admit(index, bytes)? else {
            return Ok(());
        };
        match &mut self.content {
            Content::Memory(blob) => {
                let start = offset as usize;
                blob[start..start + bytes.len()].copy_from_slice(bytes);
            }
            Content::File(tmp) => tmp.write_at(bytes, offset)?,
        }
        self.arrival.wrote(index);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), StoreError> {
        self.arrival.complete()?;
        let blob = self.arrival.blob();
        match self.content {
            Content::Memory(bytes) if blob.matches(&bytes) => self.inner.keep_small(blob, &bytes),
            Content::Memory(_) => Err(StoreError::Mismatch(blob)),
            Content::File(tmp) => {
                // Cut anew: the chunks are kept under the names that our own cut gives them.
                let manifest =
                    cut(&mut File::open(&tmp.path).map_err(tmp.at())?).map_err(tmp.at())?;
                if manifest.blob() != blob {
                    return Err(StoreError::Mismatch(blob));
                }
                self.inner.keep_large(&manifest, tmp)
            }
        }
    }
}

/// Reads and cuts what is left of a file.
pub(super) fn cut(file: &mut File) -> io::Result<Manifest> {
    let mut chunker = Chunker::new();
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(chunker.finish()),
            Ok(len) => chunker.update(&piece[..len]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

impl fmt::Debug for DiskBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskBlob")
            .field("blob", &self.arrival.blob())
            .field("content", &matches!(self.content, Content::File(_)))
            .finish_non_exhaustive()
    }
}
