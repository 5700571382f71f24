//! What stands at paths, by the stamps that tell without reading it, and what a run has looked at of it.

use netbuild_proto::workspace::{Look, Stamp};
use rustix::{
    fs::{AtFlags, FileType, Stat},
    io::Errno,
};
use std::{
    collections::HashSet,
    ffi::OsStr,
    fs::Metadata,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

/// Two seconds: the coarsest time stamps in use (FAT) count in these.
pub(crate) const RACY_NS: i64 = 2_000_000_000;

/// What was looked at, by paths relative to a workspace or absolute, as long as that is all that counts. Used from
/// several threads.
#[derive(Debug)]
pub struct Looks(Mutex<Option<All>>);

type All = HashSet<(Vec<u8>, Look)>;

impl Looks {
    /// Nothing was looked at yet.
    pub fn begin() -> Self {
        Self(Mutex::new(Some(All::new())))
    }

    /// Nobody is to know.
    pub fn none() -> Self {
        Self(Mutex::new(None))
    }

    /// Before what stands at an absolute path is used, links followed.
    pub fn handle_use(&self, path: &Path) {
        if !self.are_wanted() {
            return;
        }
        match path.canonicalize() {
            Ok(real) => {
                let real = real.as_os_str().as_bytes();
                self.add(path.as_os_str().as_bytes(), Look::Leads(Some(real.to_vec())));
                self.note_there(rustix::fs::CWD, real);
            }
            Err(_) => self.note_there(rustix::fs::CWD, path.as_os_str().as_bytes()),
        }
    }

    /// Before the names in a directory at an absolute path are used.
    pub fn handle_list(&self, path: &Path) {
        self.note_listed(rustix::fs::CWD, path.as_os_str().as_bytes());
    }

    /// What was looked at is not all that counts.
    pub fn forget(&self) {
        *self.all() = None;
    }

    pub(crate) fn add(&self, path: &[u8], look: Look) {
        let mut all = self.all();
        let Some(known) = &mut *all else { return };
        match &look {
            Look::There(stamp) | Look::Listed(stamp) if !is_old(stamp, now_ns()) => *all = None,
            _ => drop(known.insert((path.to_vec(), look))),
        }
    }

    pub(crate) fn note_there(&self, directory: impl AsFd, path: &[u8]) {
        if !self.are_wanted() {
            return;
        }
        match look(directory, path, false) {
            Ok(None) => self.add(path, Look::Absent),
            Ok(Some(stamp)) if !is_link(&stamp) => self.add(path, Look::There(of_directory(stamp))),
            _ => self.forget(),
        }
    }

    pub(crate) fn note_listed(&self, directory: impl AsFd, path: &[u8]) {
        // A run that does something lists directories, too.
        if !self.are_wanted() {
            return;
        }
        match look(directory, path, true) {
            Ok(None) => self.add(path, Look::Absent),
            Ok(Some(stamp)) => self.add(path, Look::Listed(stamp)),
            Err(_) => self.forget(),
        }
    }

    /// All of it; `None` when that is not all that counts.
    pub(crate) fn take(&self) -> Option<Vec<(Vec<u8>, Look)>> {
        Some(self.all().take()?.into_iter().collect())
    }

    fn are_wanted(&self) -> bool {
        self.all().is_some()
    }

    fn all(&self) -> MutexGuard<'_, Option<All>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stamp of what stands at a path; `None` when nothing does.
pub(crate) fn look(directory: impl AsFd, path: &[u8], follow: bool) -> io::Result<Option<Stamp>> {
    let flags = if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
    // The workspace itself has no name in itself.
    let path = if path.is_empty() { b"." } else { path };
    match rustix::fs::statat(directory, path, flags) {
        Ok(stat) => Ok(Some(stamp_of_stat(&stat))),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether at a path is what was found there. Links are read as little as files.
pub(crate) fn stands(directory: &OwnedFd, root: &Path, path: &[u8], was: &Look) -> bool {
    match was {
        Look::Absent => matches!(look(directory, path, false), Ok(None)),
        Look::There(stamp) => {
            look(directory, path, false).is_ok_and(|is| is.map(of_directory) == Some(*stamp))
        }
        Look::Listed(stamp) => look(directory, path, true).is_ok_and(|is| is == Some(*stamp)),
        Look::Leads(real) => {
            let is = root.join(OsStr::from_bytes(path)).canonicalize().ok();
            is.as_ref().map(|is| is.as_os_str().as_bytes()) == real.as_deref()
        }
    }
}

/// Whether a change after `at_ns` shows in the stamp.
pub(crate) fn is_old(stamp: &Stamp, at_ns: i64) -> bool {
    newest(stamp).saturating_add(RACY_NS) <= at_ns
}

pub(crate) fn newest(stamp: &Stamp) -> i64 {
    stamp.mtime_ns.max(stamp.ctime_ns)
}

pub(crate) fn is_regular(stamp: &Stamp) -> bool {
    FileType::from_raw_mode(stamp.mode) == FileType::RegularFile
}

fn is_link(stamp: &Stamp) -> bool {
    FileType::from_raw_mode(stamp.mode) == FileType::Symlink
}

fn stamp_of_stat(stat: &Stat) -> Stamp {
    let nanoseconds =
        |seconds: i64, rest: u64| seconds.saturating_mul(1_000_000_000).saturating_add(rest as i64);
    Stamp {
        dev: stat.st_dev,
        ino: stat.st_ino,
        size: stat.st_size as u64,
        mtime_ns: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
        ctime_ns: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
        mode: stat.st_mode,
        nlink: stat.st_nlink,
    }
}

/// The stamp of a file or a link.
pub(crate) fn stamp_of(metadata: &Metadata) -> Stamp {
    let nanoseconds = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000) + rest;
    Stamp {
        dev: metadata.dev(),
        ino: metadata.ino(),
        size: metadata.size(),
        mtime_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
        ctime_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        mode: metadata.mode(),
        nlink: metadata.nlink(),
    }
}

/// A directory's own stamp changes with whatever happens in it; only that it is one counts.
pub(crate) fn of_directory(stamp: Stamp) -> Stamp {
    match FileType::from_raw_mode(stamp.mode) {
        FileType::Directory => Stamp { size: 0, mtime_ns: 0, ctime_ns: 0, nlink: 0, ..stamp },
        _ => stamp,
    }
}

pub(crate) fn now_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}
