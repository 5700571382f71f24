//! One process per data directory: an advisory lock that dies with its holder.

use super::{
    layout::{Layout, open_or_create},
    open_error::{Holder, OpenError},
};
use crate::error::FileError;
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::File,
    io::{self, Read, Write},
};

/// Bytes of the lock file that are read and written; a process id and a role need fewer.
const MAX_LEN: usize = 256;

/// The lock on a data directory, held until it is dropped or the process ends in any way.
#[derive(Debug)]
pub(super) struct DirLock {
    file: File,
}

impl DirLock {
    /// Takes the lock without waiting, and names nobody yet.
    pub(super) fn acquire(layout: &Layout) -> Result<Self, OpenError> {
        let file = take(layout, open_or_create(&layout.lock())?)?;
        // Whoever was killed with the lock has left its name.
        empty(&file);
        Ok(Self { file })
    }

    /// The same in a directory that cannot be written: it names nobody.
    pub(super) fn acquire_as_it_is(layout: &Layout) -> Result<Self, OpenError> {
        let path = layout.lock();
        let file = File::open(&path).map_err(FileError::at(&path))?;
        Ok(Self { file: take(layout, file)? })
    }

    /// Says who holds the lock, for those who come while it is held. On a full disk they are told
    /// less.
    pub(super) fn announce(&mut self, layout: &Layout, role: &str) {
        let role: String = role
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || " ._-".contains(*c))
            .take(MAX_LEN / 2)
            .collect();
        let text = format!("{{\"pid\":{},\"role\":\"{role}\"}}\n", std::process::id());
        let written = self.file.set_len(0).and_then(|()| self.file.write_all(text.as_bytes()));
        if let Err(error) = written {
            tracing::debug!(path = %layout.lock().display(), %error, "owner is not told to others");
        }
    }
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // So that the next holder is not mistaken for this one before it has announced itself.
        empty(&self.file);
    }
}

/// Who holds the lock, if anybody does. Looks for a moment only, and changes nothing.
pub(super) fn holder(layout: &Layout) -> Result<Option<Holder>, OpenError> {
    let path = layout.lock();
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(FileError::at(&path))?,
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(None),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(Some(read_holder(&file))),
        Err(error) => Err(FileError::at(&path)(error.into()).into()),
    }
}

fn take(layout: &Layout, file: File) -> Result<File, OpenError> {
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(OpenError::InUse { dir: layout.root().to_owned(), holder: read_holder(&file) })
        }
        Err(error) => Err(FileError::at(&layout.lock())(error.into()).into()),
    }
}

fn empty(file: &File) {
    if let Err(error) = file.set_len(0) {
        tracing::debug!(%error, "lock file cannot be emptied");
    }
}

/// What the lock file says; it may be empty or stale for a moment, so nothing depends on it. A
/// process that has ended is not named: the lock is another one's, who has yet to say so.
fn read_holder(file: &File) -> Holder {
    let mut text = Vec::new();
    let read: io::Result<usize> = file.take(MAX_LEN as u64).read_to_end(&mut text);
    match read {
        Ok(_) => parse_holder(&String::from_utf8_lossy(&text)).living(),
        Err(_) => Holder::default(),
    }
}

fn parse_holder(text: &str) -> Holder {
    let after = |label: &str| text.split_once(label).map(|(_, rest)| rest);
    let pid = after("\"pid\":").and_then(|rest| rest.split([',', '}']).next()?.parse().ok());
    let role = after("\"role\":\"")
        .and_then(|rest| Some(rest.split_once('"')?.0))
        .filter(|role| !role.is_empty() && role.chars().all(|c| !c.is_control()))
        .map(str::to_owned);
    Holder { pid, role }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_to_come_is_told_who_was_first() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let mut first = DirLock::acquire(&layout).unwrap();
        first.announce(&layout, "agent \"x\"\n");
        let Err(OpenError::InUse { holder, .. }) = DirLock::acquire(&layout) else {
            panic!("two processes hold one lock");
        };
        assert_eq!(holder.pid, Some(std::process::id()));
        assert_eq!(holder.role.as_deref(), Some("agent x"));
        drop(first);
        DirLock::acquire(&layout).unwrap();
    }

    #[test]
    fn who_only_looks_is_told_and_holds_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        assert_eq!(holder(&layout).unwrap(), None);
        let mut lock = DirLock::acquire(&layout).unwrap();
        lock.announce(&layout, "agent");
        let known = holder(&layout).unwrap().unwrap();
        assert_eq!(known.role.as_deref(), Some("agent"));
        drop(lock);
        assert_eq!(holder(&layout).unwrap(), None);
        DirLock::acquire(&layout).unwrap();
    }

    #[test]
    fn a_process_that_has_ended_is_not_said_to_hold_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        let lock = DirLock::acquire(&layout).unwrap();
        let text = format!("{{\"pid\":{},\"role\":\"agent\"}}", ended.id());
        std::fs::write(layout.lock(), text).unwrap();
        let Err(OpenError::InUse { holder, .. }) = DirLock::acquire(&layout) else {
            panic!("two processes hold one lock");
        };
        assert_eq!(holder, Holder::default());
        drop(lock);
    }

    #[test]
    fn a_name_that_was_left_is_gone_once_the_lock_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        std::fs::write(layout.lock(), "{\"pid\":1,\"role\":\"agent\"}").unwrap();
        let _lock = DirLock::acquire(&layout).unwrap();
        assert_eq!(std::fs::read(layout.lock()).unwrap(), b"");
    }

    #[test]
    fn garbage_in_the_lock_file_names_nobody() {
        for text in ["", "{", "{\"pid\":-1}", "{\"pid\":99999999999}", "{\"role\":\"a"] {
            assert_eq!(parse_holder(text), Holder::default(), "{text}");
        }
    }
}
