//! Where everything lies in a data directory, and with which permissions it is made.

use crate::error::FileError;
use netbuild_core::digest::Hash;
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Directories of the store, below the data directory.
pub(super) const DIRECTORIES: [&str; 6] =
    ["blobs", "journal", "index", "quarantine", "partial", "tmp"];

/// Where a data directory has a blob that is large enough for a file of its own.
pub fn blob_path(data_dir: &Path, blob: &Hash) -> PathBuf {
    Layout::new(data_dir).blob(blob)
}

/// The paths of one data directory.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn format(&self) -> PathBuf {
        self.root.join("format")
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    /// The file of a large blob, in one of 256 directories so that none grows too long.
    pub(super) fn blob(&self, hash: &Hash) -> PathBuf {
        let name = hash.to_string();
        self.blobs().join(&name[..2]).join(name)
    }

    pub(super) fn journal(&self) -> PathBuf {
        self.root.join("journal")
    }

    pub(super) fn index(&self) -> PathBuf {
        self.root.join("index")
    }

    /// The index that is being made to take the place of the other.
    pub(super) fn index_new(&self) -> PathBuf {
        self.root.join("index.new")
    }

    /// The boot of the machine in which the index was last opened; absent once it was closed.
    pub(super) fn index_boot(&self) -> PathBuf {
        self.root.join("index.boot")
    }

    /// Checksum of the index as it was closed; absent while it is open and after a crash.
    pub(super) fn index_seal(&self) -> PathBuf {
        self.root.join("index.seal")
    }

    /// Present when the index was found damaged and has to be made again.
    pub(super) fn index_damaged(&self) -> PathBuf {
        self.root.join("index.damaged")
    }

    pub(super) fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    /// Unfinished blobs that may be gone on with.
    pub(super) fn partial(&self) -> PathBuf {
        self.root.join("partial")
    }

    /// What somebody pinned.
    pub(super) fn pins(&self) -> PathBuf {
        self.root.join("pins")
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }
}

/// Makes a directory that only its owner may enter, and those above it; an existing one is left as it is.
pub(super) fn create_dir(path: &Path) -> Result<(), FileError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(FileError::at(path))
}

/// Opens a file for reading and writing, made for its owner only when it is not there.
pub(super) fn open_or_create(path: &Path) -> Result<File, FileError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(FileError::at(path))
}

/// Makes a file that must not exist yet, for its owner only.
pub(super) fn create_new(path: &Path) -> Result<File, FileError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(FileError::at(path))
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(FileError::at(path))
}

/// Removes a file if it is there.
pub(super) fn remove_file(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::at(path)(error)),
        _ => Ok(()),
    }
}
