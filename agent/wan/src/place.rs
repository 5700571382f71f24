//! The files of an emulator by its name: the lock that says that it runs, with what has to be
//! removed after it, and its control socket. All are in a directory of root's.

use crate::error::WanError;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// The name of an emulator when nobody says.
pub const DEFAULT_NAME: &str = "netbuild";
/// Where the files are: gone after a restart of the machine, as the namespaces are.
const DIRECTORY: &str = "/run/netbuild-wan";
/// Longest name of an emulator, in bytes.
const MAX_NAME: usize = 32;
/// Largest state that is read; what this program writes is far smaller.
const MAX_STATE: u64 = 64 * 1024;

/// What is written of a running emulator.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    /// The process.
    pub(crate) pid: i32,
    /// Commands of `ip` that remove what it made. Written before anything is made.
    pub(crate) undo: Vec<String>,
}

/// The place of one emulator.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    name: String,
    directory: PathBuf,
}

impl Place {
    pub(crate) fn of(name: &str) -> Result<Self, WanError> {
        let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let good = (1..=MAX_NAME).contains(&name.len())
            && name.bytes().all(allowed)
            && !name.starts_with('-');
        if !good {
            return Err(WanError::Name(name.to_owned()));
        }
        Ok(Self { name: name.to_owned(), directory: PathBuf::from(DIRECTORY) })
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join(format!("{}.sock", self.name))
    }

    fn log(&self) -> PathBuf {
        self.directory.join(format!("{}.log", self.name))
    }

    fn state(&self) -> PathBuf {
        self.directory.join(format!("{}.state", self.name))
    }

    fn create_directory(&self) -> Result<(), WanError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .map_err(WanError::file("create", &self.directory))
    }

    /// Takes the name for this process.
    pub(crate) fn take(&self) -> Result<Taken, WanError> {
        self.create_directory()?;
        let path = self.state();
        loop {
            let mut file = OpenOptions::new()
                .create(true)
                .read(true)
                .write(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(WanError::file("open", &path))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    let pid = read(&mut file).pid;
                    return Err(WanError::AlreadyUp { name: self.name.clone(), pid });
                }
                Err(error) => return Err(WanError::file("lock", &path)(error)),
            }
            // The one before removes its file at its end; a lock on that file says nothing.
            if same_file(&file, &path) {
                return Ok(Taken { place: self.clone(), file });
            }
        }
    }

    /// The process that has the name.
    pub(crate) fn running(&self) -> Result<i32, WanError> {
        if !self.state().exists() {
            return Err(WanError::NotUp(self.name.clone()));
        }
        match self.take() {
            Err(WanError::AlreadyUp { pid, .. }) => Ok(pid),
            // What a killed one left stays until `up` or `down` remove it.
            Ok(_) => Err(WanError::NotUp(self.name.clone())),
            Err(error) => Err(error),
        }
    }
}

/// Where a detached emulator of this name writes its log. Its directory is made.
///
/// # Errors
/// When it cannot be a name, or the directory cannot be made.
pub fn log_path(name: &str) -> Result<PathBuf, WanError> {
    let place = Place::of(name)?;
    place.create_directory()?;
    Ok(place.log())
}

fn read(file: &mut File) -> State {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(MAX_STATE).read_to_string(&mut text));
    // An empty or torn one was not written to its end, so nothing had been made yet.
    read.ok().and_then(|_| serde_json::from_str(&text).ok()).unwrap_or_default()
}

fn same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// A name that this process has, until the value is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct Taken {
    place: Place,
    file: File,
}

impl Taken {
    /// What a process that was killed has left behind.
    pub(crate) fn left_behind(&mut self) -> State {
        read(&mut self.file)
    }

    /// Writes what this process is about to make.
    pub(crate) fn write(&mut self, state: &State) -> Result<(), WanError> {
        let path = self.place.state();
        let failed = || WanError::file("write", &path);
        let text = serde_json::to_string(state)
            .map_err(|error| WanError::file("write", &path)(std::io::Error::other(error)))?;
        self.file.rewind().and_then(|()| self.file.set_len(0)).map_err(failed())?;
        self.file.write_all(text.as_bytes()).map_err(failed())
    }

    /// Gives the name back, when nothing is left behind. Only the log of an emulator that did not
    /// end in order stays.
    pub(crate) fn give_back(self) {
        for path in [self.place.socket(), self.place.log(), self.place.state()] {
            drop(fs::remove_file(path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(directory: &Path) -> Place {
        Place { name: "test".to_owned(), directory: directory.to_owned() }
    }

    #[test]
    fn a_name_is_taken_once_and_tells_what_was_left() {
        let directory = tempfile::tempdir().unwrap();
        let place = place(directory.path());
        assert!(matches!(place.running(), Err(WanError::NotUp(_))));
        let mut taken = place.take().unwrap();
        assert!(taken.left_behind().undo.is_empty());
        let state = State { pid: 42, undo: vec!["netns delete test-a".to_owned()] };
        taken.write(&state).unwrap();
        assert!(matches!(place.take(), Err(WanError::AlreadyUp { pid: 42, .. })));
        assert_eq!(place.running().unwrap(), 42);
        // Killed: the lock is gone, the file is not.
        drop(taken);
        assert!(matches!(place.running(), Err(WanError::NotUp(_))));
        let mut again = place.take().unwrap();
        assert_eq!(again.left_behind().undo, state.undo);
        again.give_back();
        assert!(place.take().unwrap().left_behind().undo.is_empty());
    }

    #[test]
    fn names_cannot_lead_elsewhere() {
        for bad in ["", "-a", "../a", "a/b", "A", &"a".repeat(MAX_NAME + 1)] {
            assert!(matches!(Place::of(bad), Err(WanError::Name(_))), "{bad}");
        }
        assert!(Place::of(DEFAULT_NAME).is_ok());
    }
}
