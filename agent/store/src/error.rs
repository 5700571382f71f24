//! Why a store could not do what it was asked.

use netbuild_core::digest::Digest;
use std::{
    io,
    path::{Path, PathBuf},
};

/// Why a store could not do what it was asked. "Not found" is no error.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The bytes are not those that the digest names; nothing was kept.
    #[error("content is not that of blob {0}")]
    Mismatch(Digest),
    /// The reader that was handed in failed; nothing was kept.
    #[error("cannot read the content to be stored")]
    Content(#[source] io::Error),
    /// The blob is larger than [`MAX_BLOB`](crate::MAX_BLOB); nothing was kept.
    #[error("blob is larger than {limit} bytes")]
    TooLarge {
        /// Bytes allowed.
        limit: u64,
    },
    /// The bytes are not those of the chunk at this place.
    #[error("bytes are not those of chunk {index} of blob {blob}")]
    ChunkMismatch {
        /// The blob that is arriving.
        blob: Digest,
        /// Place of the chunk in the manifest, from 0.
        index: usize,
    },
    /// The manifest has no chunk at this place.
    #[error("blob {blob} has no chunk {index}")]
    NoSuchChunk {
        /// The blob that is arriving.
        blob: Digest,
        /// Place that was asked for, from 0.
        index: usize,
    },
    /// The blob was finished before all of its chunks had come; those that have are kept.
    #[error("blob {blob} lacks {missing} of its chunks")]
    Incomplete {
        /// The blob that was arriving.
        blob: Digest,
        /// Chunks that never came.
        missing: usize,
    },
    /// So much is pinned already that this is not.
    #[error("{limit} things are pinned, and more cannot be: unpin some")]
    TooManyPins {
        /// How many may be.
        limit: usize,
    },
    /// The operating system refused; what was stored before is intact.
    #[error("cannot use `{}`", path.display())]
    Io {
        /// The file or directory concerned.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The index failed. It is made again by `Store::mend`, or when the store is next opened.
    #[error("index cannot be used: {0}")]
    Index(String),
}

/// An I/O error with the path that it happened on.
#[derive(Debug)]
pub(crate) struct FileError {
    pub(crate) path: PathBuf,
    pub(crate) source: io::Error,
}

impl FileError {
    /// Names the path that an I/O error happened on, for `map_err`.
    pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { path, source }
    }
}

impl From<FileError> for StoreError {
    fn from(FileError { path, source }: FileError) -> Self {
        Self::Io { path, source }
    }
}
