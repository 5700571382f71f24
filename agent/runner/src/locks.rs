//! Locks of tasks, so that of several runs in a workspace one at a time executes a task.
//!
//! Each task is a byte of one file, which is locked for the file's description: a file for each task
//! would be made anew in each new workspace, which costs as much as starting a command.

use crate::workspace::{WorkspaceError, at, open_own};
use netbuild_core::digest::Hash;
use std::{
    fs::{self, File},
    io,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// The locks of one workspace, shared by the threads of a run.
#[derive(Debug)]
pub(crate) struct Locks {
    path: PathBuf,
    file: Mutex<Option<Arc<File>>>,
}

/// The right to execute a task in this workspace.
#[derive(Debug)]
pub(crate) struct TaskLock {
    file: Arc<File>,
    byte: i64,
}

impl Locks {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, file: Mutex::default() }
    }

    /// The lock of a task, unless another run has it. One run must not ask for a lock that it has.
    pub(crate) fn try_lock(&self, task: &str) -> Result<Option<TaskLock>, WorkspaceError> {
        let file = self.file().map_err(at(&self.path))?;
        // The first 63 bits: two tasks of a graph share them once in a billion billions.
        let [a, b, c, d, e, f, g, h, ..] = Hash::of(task.as_bytes()).0;
        let byte = i64::from_le_bytes([a, b, c, d, e, f, g, h]) & i64::MAX;
        match set(&file, byte, libc::F_WRLCK) {
            Ok(()) => Ok(Some(TaskLock { file, byte })),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(at(&self.path)(error)),
        }
    }

    /// The file, made again when a task has removed it.
    fn file(&self) -> io::Result<Arc<File>> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        match &*file {
            Some(file) if file.metadata()?.nlink() > 0 => Ok(Arc::clone(file)),
            _ => Ok(Arc::clone(file.insert(Arc::new(create(&self.path)?)))),
        }
    }
}

fn create(path: &Path) -> io::Result<File> {
    let open = || open_own(path);
    match (open(), path.parent()) {
        (Err(error), Some(directory)) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(directory)?;
            open()
        }
        (opened, _) => opened,
    }
}

#[expect(unsafe_code, reason = "locks of a file description have no safe form")]
fn set(file: &File, byte: i64, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: all of its fields are numbers.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = byte;
    lock.l_len = 1;
    loop {
        // SAFETY: the descriptor is open, and the kernel only reads `lock`.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
        let error = io::Error::last_os_error();
        match result {
            0 => return Ok(()),
            _ if error.kind() == io::ErrorKind::Interrupted => {}
            _ => return Err(error),
        }
    }
}

impl Drop for TaskLock {
    fn drop(&mut self) {
        // It cannot fail for a lock that is held; and all end with the process.
        drop(set(&self.file, self.byte, libc::F_UNLCK));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_the_lock_of_a_task_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("below/locks");
        let (one, other) = (Locks::new(path.clone()), Locks::new(path.clone()));
        let a = one.try_lock("a").unwrap().unwrap();
        let b = one.try_lock("b").unwrap().unwrap();
        assert!(other.try_lock("a").unwrap().is_none());
        drop(a);
        let a = other.try_lock("a").unwrap().unwrap();
        assert!(one.try_lock("a").unwrap().is_none());
        assert!(other.try_lock("b").unwrap().is_none());
        drop((a, b));
        // Those of a file that was removed are no longer seen, so all go to the new one.
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        let held = one.try_lock("a").unwrap().unwrap();
        assert!(other.try_lock("a").unwrap().is_none());
        drop(held);
    }
}
