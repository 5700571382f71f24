//! The directory of `graph.json`, and what netbuild keeps in its `.netbuild/`.
//!
//! ```text
//! .netbuild/.gitignore     everything in here is ours
//! .netbuild/state          digests and last results; losing it costs time only
//! .netbuild/locks/NAME     one run at a time executes a task
//! .netbuild/tmp/RUN/       staging of one run, removed with it, or by a later run when it was killed
//! ```

use crate::{
    beneath::{Beneath, remove_all},
    files::FileTable,
    process::Cancel,
};
use netbuild_core::digest::Hash;
use netbuild_proto::workspace::{State, TaskState};
use rustix::fs::FlockOperation;
use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// Name of the directory.
pub const DIRECTORY: &str = ".netbuild";
/// How often a task that another run executes is asked about.
const LOCK_POLL: Duration = Duration::from_millis(10);

/// The workspace cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use `{}`: {source}", path.display())]
pub struct WorkspaceError {
    /// The file or directory.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> WorkspaceError + '_ {
    |source| WorkspaceError { path: path.to_owned(), source }
}

/// An opened workspace, used from several threads.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    /// Names the workspace in results that are good in no other one.
    pub(crate) id: Hash,
    pub(crate) files: FileTable,
    pub(crate) beneath: Beneath,
    tasks: Mutex<HashMap<String, TaskState>>,
    tasks_changed: AtomicBool,
    staging: Staging,
}

impl Workspace {
    /// Opens the workspace at `root`, an existing directory.
    pub(crate) fn open(root: &Path) -> Result<Self, WorkspaceError> {
        let root = root.canonicalize().map_err(at(root))?;
        let directory = root.join(DIRECTORY);
        for name in ["locks", "tmp"] {
            let path = directory.join(name);
            fs::create_dir_all(&path).map_err(at(&path))?;
        }
        let gitignore = directory.join(".gitignore");
        if !gitignore.exists() {
            fs::write(&gitignore, "*\n").map_err(at(&gitignore))?;
        }
        let state = read_state(&directory.join("state"));
        Ok(Self {
            id: Hash::of(root.as_os_str().as_encoded_bytes()),
            files: FileTable::new(&root, state.files),
            beneath: Beneath::open(&root).map_err(at(&root))?,
            tasks: Mutex::new(state.tasks.into_iter().collect()),
            tasks_changed: AtomicBool::new(false),
            staging: Staging::create(&directory.join("tmp"))?,
            root,
        })
    }

    /// What a task left last.
    pub(crate) fn task(&self, name: &str) -> Option<TaskState> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Remembers what a task left.
    pub(crate) fn remember(&self, name: &str, state: TaskState) {
        self.tasks_changed.store(true, Ordering::Relaxed);
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), state);
    }

    /// How long a task took when it ran last, in milliseconds.
    pub(crate) fn duration_ms(&self, name: &str) -> Option<u64> {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.get(name).map(|task| task.duration_ms)
    }

    /// Writes the memory of the workspace, when there is something new to remember.
    pub(crate) fn save(&self) -> Result<(), WorkspaceError> {
        if !self.tasks_changed.load(Ordering::Relaxed) && !self.files.is_changed() {
            return Ok(());
        }
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let tasks = tasks.iter().map(|(name, task)| (name.clone(), task.clone())).collect();
        let state = State { files: self.files.snapshot(), tasks };
        let path = self.root.join(DIRECTORY).join("state");
        self.ensure_staging()?;
        let new = self.staging_path();
        fs::write(&new, state.encode()).map_err(at(&new))?;
        fs::rename(&new, &path).map_err(at(&path))
    }

    /// A path for one temporary file or directory of this run, on the workspace's file system.
    pub(crate) fn staging_path(&self) -> PathBuf {
        let number = self.staging.next.fetch_add(1, Ordering::Relaxed);
        self.staging.directory.join(number.to_string())
    }

    /// Makes the directory of [`Self::staging_path`] again, which a task may have removed.
    pub(crate) fn ensure_staging(&self) -> Result<(), WorkspaceError> {
        fs::create_dir_all(&self.staging.directory).map_err(at(&self.staging.directory))
    }

    /// Keeps other runs from executing the task `name` until the lock is dropped. `None` when
    /// the run was cancelled meanwhile.
    pub(crate) fn lock(
        &self,
        name: &str,
        cancel: &Cancel,
    ) -> Result<Option<TaskLock>, WorkspaceError> {
        let file_name = Hash::of(name.as_bytes()).short();
        let directory = self.root.join(DIRECTORY).join("locks");
        let path = directory.join(file_name);
        let file = match File::create(&path) {
            // A task may have removed the directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&directory).and_then(|()| File::create(&path))
            }
            other => other,
        }
        .map_err(at(&path))?;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    return Ok(Some(TaskLock { _file: file }));
                }
                Err(rustix::io::Errno::WOULDBLOCK) if cancel.is_requested() => return Ok(None),
                Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(LOCK_POLL),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(at(&path)(error.into())),
            }
        }
    }
}

/// The right to execute a task in this workspace.
#[derive(Debug)]
pub(crate) struct TaskLock {
    _file: File,
}

fn read_state(path: &Path) -> State {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), %error, "cannot read the workspace state");
            }
            return State::default();
        }
    };
    State::decode(&bytes).unwrap_or_else(|error| {
        tracing::info!(path = %path.display(), %error, "starting with a new workspace state");
        State::default()
    })
}

/// A directory for this run's temporary files, locked as long as the run lives.
#[derive(Debug)]
struct Staging {
    directory: PathBuf,
    next: AtomicU64,
    lock_path: PathBuf,
    _lock: File,
}

impl Staging {
    fn create(tmp: &Path) -> Result<Self, WorkspaceError> {
        remove_dead(tmp);
        // A name is free as soon as its lock can be had: process ids come again.
        for attempt in 0_u32.. {
            let directory = tmp.join(format!("{}-{attempt}", std::process::id()));
            let lock_path = directory.with_extension("lock");
            let lock = File::create(&lock_path).map_err(at(&lock_path))?;
            if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                fs::create_dir_all(&directory).map_err(at(&directory))?;
                return Ok(Self { directory, next: AtomicU64::new(0), lock_path, _lock: lock });
            }
        }
        Err(at(tmp)(io::Error::from(io::ErrorKind::AlreadyExists)))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed now is removed by a later run.
        drop(remove_all(&self.directory));
        drop(fs::remove_file(&self.lock_path));
    }
}

/// Removes what runs left that were killed.
fn remove_dead(tmp: &Path) {
    let Ok(list) = fs::read_dir(tmp) else { return };
    for path in list.flatten().map(|entry| entry.path()) {
        if path.extension().is_none_or(|extension| extension != "lock") {
            continue;
        }
        let Ok(lock) = File::open(&path) else {
            continue;
        };
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            drop(remove_all(&path.with_extension("")));
            drop(fs::remove_file(&path));
        }
    }
}
