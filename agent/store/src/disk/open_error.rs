//! Why a data directory cannot be opened.

use crate::error::FileError;
use rustix::{
    io::Errno,
    process::{Pid, test_kill_process},
};
use std::{fmt, io, path::PathBuf};

/// Why a data directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("data directory `{}` is in use by {holder}", dir.display())]
    InUse {
        /// The data directory.
        dir: PathBuf,
        /// Who has it.
        holder: Holder,
    },
    /// A newer netbuild made it; nothing was changed.
    #[error("`{}` says format {found}, but this netbuild knows formats up to {supported}", file.display())]
    NewerFormat {
        /// The format file.
        file: PathBuf,
        /// Number found.
        found: u64,
        /// Greatest number known here.
        supported: u64,
    },
    /// The format file holds something else; nothing was changed.
    #[error("`{}` is not the format file of a netbuild data directory", file.display())]
    BadFormat {
        /// The format file.
        file: PathBuf,
    },
    /// The directory has entries that the store would use, but no format file; nothing was changed.
    #[error("`{}` has `{entry}` but no `format` file: it is not a netbuild data directory", dir.display())]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// The entry that is in the way.
        entry: String,
    },
    /// The operating system refused.
    #[error("cannot use `{}`", path.display())]
    Io {
        /// The file or directory concerned.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not even an empty index can be made.
    #[error("cannot make an index in `{}`: {reason}", dir.display())]
    Index {
        /// Directory of the index.
        dir: PathBuf,
        /// What the engine said.
        reason: String,
    },
}

/// Who has a data directory open, as far as its lock file tells.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Holder {
    /// Process id.
    pub pid: Option<u32>,
    /// What the process is, in its own words.
    pub role: Option<String>,
}

impl Holder {
    /// Nobody, when this process runs no more.
    pub(super) fn living(self) -> Self {
        let pid = self.pid.and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        let ended = pid.is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH));
        if ended { Self::default() } else { self }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.role.as_deref().unwrap_or("another process"))?;
        self.pid.map_or(Ok(()), |pid| write!(f, " (pid {pid})"))
    }
}

impl From<FileError> for OpenError {
    fn from(FileError { path, source }: FileError) -> Self {
        Self::Io { path, source }
    }
}
