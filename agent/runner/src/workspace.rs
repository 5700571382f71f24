//! The directory of `graph.json`, and what netbuild keeps in its `.netbuild/`.
//!
//! ```text
//! .netbuild/.gitignore     everything in here is ours
//! .netbuild/state          digests and last results; losing it costs time only
//! .netbuild/witness        what the last run looked at, if it found nothing to do
//! .netbuild/history        what was done about tasks, and why
//! .netbuild/tasks.lock     one run at a time executes a task
//! .netbuild/tmp/RUN/       staging of one run, removed with it, or by a later run when it was killed
//! .netbuild/sandbox/RUN/   stages of its commands, likewise
//! ```

use crate::{
    beneath::{Beneath, remove_all},
    files::FileTable,
    history::History,
    locks::{Locks, TaskLock},
    looks::Looks,
    process::Cancel,
};
use netbuild_core::digest::Hash;
use netbuild_proto::workspace::{State, TaskState};
use rustix::fs::FlockOperation;
use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
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

pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> WorkspaceError + '_ {
    |source| WorkspaceError { path: path.to_owned(), source }
}

/// What a workspace remembers, on its way from the disk: it is read while the graph is.
#[derive(Debug)]
pub struct Memory(JoinHandle<State>);

impl Memory {
    /// Begins to read what the workspace at `root` remembers. What cannot be read is as good as nothing.
    pub fn recall(root: &Path) -> Self {
        let path = root.join(DIRECTORY).join("state");
        Self(std::thread::spawn(move || read_state(&path)))
    }
}

/// An opened workspace, used from several threads.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    /// Names the workspace in results that are good in no other one.
    pub(crate) id: Hash,
    pub(crate) files: FileTable,
    pub(crate) beneath: Beneath,
    pub(crate) history: History,
    tasks: Mutex<HashMap<String, Arc<TaskState>>>,
    tasks_changed: AtomicBool,
    /// Made with the first use.
    staging: Mutex<Option<Arc<Staging>>>,
    locks: Locks,
    /// Directories for temporary files of commands that none has now, all empty.
    scratches: Mutex<Vec<Scratch>>,
}

impl Workspace {
    /// Opens the workspace at `root`, an existing directory. Nothing is written before there is
    /// something to write.
    pub(crate) fn open(root: &Path, memory: Memory, looks: Looks) -> Result<Self, WorkspaceError> {
        let root = root.canonicalize().map_err(at(root))?;
        let directory = root.join(DIRECTORY);
        let state = memory.0.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(Self {
            id: Hash::of(root.as_os_str().as_encoded_bytes()),
            files: FileTable::new(&root, state.files, looks).map_err(at(&root))?,
            beneath: Beneath::open(&root).map_err(at(&root))?,
            history: History::new(&root),
            tasks: Mutex::new(
                state.tasks.into_iter().map(|(name, task)| (name, Arc::new(task))).collect(),
            ),
            tasks_changed: AtomicBool::new(false),
            staging: Mutex::default(),
            locks: Locks::new(directory.join("tasks.lock")),
            scratches: Mutex::default(),
            root,
        })
    }

    /// What a task left last.
    pub(crate) fn task(&self, name: &str) -> Option<Arc<TaskState>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Remembers what a task left.
    pub(crate) fn remember(&self, name: &str, state: TaskState) {
        self.tasks_changed.store(true, Ordering::Relaxed);
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.insert(name.to_owned(), Arc::new(state));
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
        let tasks = tasks.iter().map(|(name, task)| (name.clone(), TaskState::clone(task)));
        let tasks = tasks.collect();
        let state = State { files: self.files.snapshot(), tasks };
        self.replace("state", &state.encode())
    }

    /// Writes a file of ours as a whole.
    pub(crate) fn replace(&self, name: &str, content: &[u8]) -> Result<(), WorkspaceError> {
        let path = self.root.join(DIRECTORY).join(name);
        let new = self.staging_path()?;
        fs::write(&new, content).map_err(at(&new))?;
        fs::rename(&new, &path).map_err(at(&path))
    }

    /// Has the system take back what is remembered, with the process.
    pub(crate) fn leave_memory(&self) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::forget(std::mem::take(&mut *tasks));
        self.files.leave_memory();
    }

    /// A path for one temporary file or directory of this run, on the workspace's file system.
    pub(crate) fn staging_path(&self) -> Result<PathBuf, WorkspaceError> {
        let staging = self.ensure_staging()?;
        let number = staging.next.fetch_add(1, Ordering::Relaxed);
        Ok(staging.directory.join(number.to_string()))
    }

    /// Makes an empty directory for the copies of inputs that one command sees.
    pub(crate) fn stage_path(&self) -> Result<PathBuf, WorkspaceError> {
        let staging = self.ensure_staging()?;
        let number = staging.next.fetch_add(1, Ordering::Relaxed);
        let path = staging.sandboxes.join(number.to_string());
        for own in [staging.sandboxes.parent(), Some(&*staging.sandboxes)] {
            own.map_or(Ok(()), own_directory)?;
        }
        fs::create_dir(&path).map_err(at(&path))?;
        Ok(path)
    }

    /// Makes the directory of [`Self::staging_path`], and again when a task has removed it.
    pub(crate) fn ensure_staging(&self) -> Result<Arc<Staging>, WorkspaceError> {
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(staging) = &*staging {
            let directory = &staging.directory;
            for own in [directory.ancestors().nth(2), directory.parent(), Some(directory)] {
                own.map_or(Ok(()), own_directory)?;
            }
            return Ok(Arc::clone(staging));
        }
        let directory = self.root.join(DIRECTORY);
        let tmp = directory.join("tmp");
        own_directory(&directory)?;
        own_directory(&tmp)?;
        let gitignore = directory.join(".gitignore");
        match File::create_new(&gitignore).and_then(|mut file| file.write_all(b"*\n")) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(at(&gitignore)(error));
            }
            _ => {}
        }
        Ok(Arc::clone(staging.insert(Arc::new(Staging::create(&tmp)?))))
    }

    /// Keeps other runs from executing the task `name` until the lock is dropped. `None` when
    /// the run was cancelled meanwhile.
    pub(crate) fn lock(
        &self,
        name: &str,
        cancel: &Cancel,
    ) -> Result<Option<TaskLock>, WorkspaceError> {
        loop {
            if let Some(lock) = self.locks.try_lock(name)? {
                return Ok(Some(lock));
            }
            if cancel.is_requested() {
                return Ok(None);
            }
            std::thread::sleep(LOCK_POLL);
        }
    }

    /// An empty directory for the temporary files of one command.
    pub(crate) fn scratch(&self) -> Result<Scratch, WorkspaceError> {
        let used = self.scratches.lock().unwrap_or_else(PoisonError::into_inner).pop();
        // It was empty when it was given back; a command may have removed all of ours since.
        if let Some(scratch) = used.filter(Scratch::is_there) {
            return Ok(scratch);
        }
        let path = self.staging_path()?;
        Scratch::make(&path).map_err(at(&path))
    }

    /// Takes back the directory of a command that has ended.
    pub(crate) fn give_back(&self, scratch: Scratch) {
        if scratch.is_as_made() {
            self.scratches.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
        } else {
            // What a command leaves there is nobody's; the rest goes with the staging directory.
            drop(remove_all(&scratch.path));
        }
    }
}

/// A directory for temporary files. Making one for each command would be a large part of what a
/// short one costs.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    mode: u32,
}

impl Scratch {
    fn make(path: &Path) -> io::Result<Self> {
        fs::create_dir(path)?;
        Ok(Self { path: path.to_owned(), mode: path.symlink_metadata()?.mode() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is there, with the permissions that it was made with.
    fn is_there(&self) -> bool {
        self.path.symlink_metadata().is_ok_and(|metadata| metadata.mode() == self.mode)
    }

    /// The same, and empty.
    fn is_as_made(&self) -> bool {
        self.is_there() && fs::read_dir(&self.path).is_ok_and(|mut list| list.next().is_none())
    }
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

/// Makes a directory of ours. A link in its place would lead what is written, and what is cleaned up,
/// to where it leads: a repository may bring one along.
fn own_directory(path: &Path) -> Result<(), WorkspaceError> {
    let is_directory = || path.symlink_metadata().is_ok_and(|found| found.is_dir());
    if is_directory() {
        return Ok(());
    }
    fs::create_dir(path)
        .or_else(|error| match error.kind() {
            // Another run may have made it meanwhile.
            io::ErrorKind::AlreadyExists if is_directory() => Ok(()),
            io::ErrorKind::AlreadyExists => {
                let what = "a link or a file stands there; remove it";
                Err(io::Error::new(io::ErrorKind::NotADirectory, what))
            }
            _ => Err(error),
        })
        .map_err(at(path))
}

/// Opens a file of ours for writing, made if it is not there, and never another one through a link.
pub(crate) fn open_own(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.create(true).truncate(false).write(true).custom_flags(libc::O_NOFOLLOW);
    options.open(path)
}

/// A directory for this run's temporary files, locked as long as the run lives.
#[derive(Debug)]
pub(crate) struct Staging {
    directory: PathBuf,
    sandboxes: PathBuf,
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
            let lock = open_own(&lock_path).map_err(at(&lock_path))?;
            if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                let sandboxes = sandboxes_of(&directory);
                remove_all(&directory).map_err(at(&directory))?;
                remove_stages(&sandboxes).map_err(at(&sandboxes))?;
                fs::create_dir(&directory).map_err(at(&directory))?;
                let next = AtomicU64::new(0);
                return Ok(Self { directory, sandboxes, next, lock_path, _lock: lock });
            }
        }
        Err(at(tmp)(io::Error::from(io::ErrorKind::AlreadyExists)))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed now is removed by a later run.
        drop(remove_all(&self.directory));
        drop(remove_stages(&self.sandboxes));
        drop(fs::remove_file(&self.lock_path));
    }
}

/// Where the stages of the run are whose staging directory this is.
fn sandboxes_of(directory: &Path) -> PathBuf {
    let tmp = directory.parent().and_then(Path::parent).unwrap_or(directory);
    tmp.join("sandbox").join(directory.file_name().unwrap_or_default())
}

/// Removes the stages of a run; nothing where a link stands in the place of the directory of all stages,
/// as they are not behind it.
fn remove_stages(sandboxes: &Path) -> io::Result<()> {
    let all = sandboxes.parent().and_then(|all| all.symlink_metadata().ok());
    if all.is_some_and(|all| all.is_dir()) { remove_all(sandboxes) } else { Ok(()) }
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
            let directory = path.with_extension("");
            drop(remove_all(&directory));
            drop(remove_stages(&sandboxes_of(&directory)));
            drop(fs::remove_file(&path));
        }
    }
}
