//! `.netbuild/history`: what was done about each task, and by which inputs, variables and tools. A run
//! only appends to it, so that one without work does not touch it; `netbuild why` reads it.

use crate::workspace::DIRECTORY;
use netbuild_core::explain::{Marker, Turn};
use netbuild_proto::history;
use rustix::fs::FlockOperation;
use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// A larger file is made smaller when a run opens it, in bytes.
const LARGE: u64 = 64 << 20;
/// How small, in bytes.
const COMPACTED: usize = 32 << 20;
/// From this size on turns are kept without their inputs one by one, in bytes.
const CROWDED: u64 = 128 << 20;
/// A file of this size takes no more, in bytes.
const FULL: u64 = 256 << 20;

/// The history of one workspace, used from several threads.
#[derive(Debug)]
pub(crate) struct History {
    path: PathBuf,
    opened: Mutex<Option<Opened>>,
    failed: AtomicBool,
}

#[derive(Debug)]
struct Opened {
    file: File,
    marker: Marker,
}

impl History {
    pub(crate) fn new(root: &Path) -> Self {
        Self { path: path_in(root), opened: Mutex::default(), failed: AtomicBool::new(false) }
    }

    /// Takes down a turn. That it cannot be done costs an explanation.
    pub(crate) fn note(&self, turn: impl FnOnce(&Marker) -> Turn) {
        if self.failed.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = self.append(turn) {
            self.failed.store(true, Ordering::Relaxed);
            tracing::info!(path = %self.path.display(), %error, "`netbuild why` will lack this run");
        }
    }

    fn append(&self, turn: impl FnOnce(&Marker) -> Turn) -> io::Result<()> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        // Another run may have compacted the file, or a task removed it.
        let opened = match opened.take() {
            Some(known) if known.file.metadata()?.nlink() > 0 => opened.insert(known),
            _ => opened.insert(open(&self.path)?),
        };
        let size = opened.file.metadata()?.size();
        if size >= FULL {
            return Ok(());
        }
        let mut turn = turn(&opened.marker);
        if size >= CROWDED {
            turn.ingredients.inputs = None;
        }
        // At once, so that it comes as a whole beside those of other runs.
        opened.file.write_all(&history::frame(&turn))
    }
}

fn path_in(root: &Path) -> PathBuf {
    root.join(DIRECTORY).join("history")
}

/// Opens the file, with a header if it has none of this version.
fn open(path: &Path) -> io::Result<Opened> {
    loop {
        let mut file = File::options()
            .create(true)
            .append(true)
            .read(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        // Held until the header is there: two runs may begin at once.
        rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
        let opened = match is_named(&file, path)? {
            true if file.metadata()?.size() > LARGE => {
                compact(&mut file, path)?;
                None
            }
            true => Some(marker(&mut file)?),
            false => None,
        };
        rustix::fs::flock(&file, FlockOperation::Unlock)?;
        if let Some(marker) = opened {
            return Ok(Opened { file, marker });
        }
    }
}

/// Whether the file is still the one at the path.
fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    let (ours, there) = (file.metadata()?, path.symlink_metadata()?);
    Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino()))
}

fn marker(file: &mut File) -> io::Result<Marker> {
    let mut start = Vec::new();
    file.take(history::HEADER as u64).read_to_end(&mut start)?;
    if let Some(secret) = history::secret(&start) {
        return Ok(Marker::new(secret));
    }
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(io::Error::other)?;
    file.set_len(0)?;
    file.write_all(&history::header(&secret))?;
    Ok(Marker::new(secret))
}

/// Puts a smaller file in place of a large one.
fn compact(file: &mut File, path: &Path) -> io::Result<()> {
    let mut whole = Vec::new();
    file.read_to_end(&mut whole)?;
    let Some(smaller) = history::compact(&whole, COMPACTED) else {
        return file.set_len(0);
    };
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let write = || {
        let mut options = File::options();
        options.create(true).truncate(true).write(true).mode(0o600);
        options.open(&new)?.write_all(&smaller)?;
        fs::rename(&new, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&new)))
}

/// What was done about a task of the workspace at `root` in earlier runs, the latest last. Turns in
/// which it was up to date are not among them.
///
/// # Errors
/// When the history cannot be read; that there is none is no error.
pub fn turns(root: &Path, task: &str) -> io::Result<Vec<Turn>> {
    match fs::read(path_in(root)) {
        Ok(file) => Ok(history::turns(&file, task)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::{
        digest::Hash,
        explain::{Cause, Deed, Ingredients, RunEnd},
        key::ActionKey,
    };
    use std::os::unix::fs::PermissionsExt as _;

    fn turn(at_ms: u64) -> Turn {
        let ingredients = Ingredients {
            salts: [None; 3],
            argv: Vec::new(),
            working_dir: ".".into(),
            env: Default::default(),
            pass_env: Default::default(),
            secret_env: Default::default(),
            platform: None,
            tools: Default::default(),
            inputs: None,
            input_root: Hash([0; 32]),
            outputs: Default::default(),
            clean: true,
        };
        let deed = Deed::Ran { cause: Cause::NoRecord, end: RunEnd::Kept };
        Turn { task: "t".into(), at_ms, took_ms: 0, key: ActionKey([0; 32]), ingredients, deed }
    }

    #[test]
    fn runs_append_to_one_file_and_it_does_not_grow_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(DIRECTORY)).unwrap();
        assert_eq!(turns(dir.path(), "t").unwrap(), []);
        let (one, other) = (History::new(dir.path()), History::new(dir.path()));
        one.note(|_| turn(1));
        other.note(|_| turn(2));
        one.note(|_| turn(3));
        let times = || turns(dir.path(), "t").unwrap().iter().map(|t| t.at_ms).collect::<Vec<_>>();
        assert_eq!(times(), [1, 2, 3]);
        let path = path_in(dir.path());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);

        // As large as it may become, with what nobody can read behind the turns.
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(LARGE + 1).unwrap();
        History::new(dir.path()).note(|_| turn(4));
        assert_eq!(times(), [1, 2, 3, 4]);
        assert!(path.metadata().unwrap().size() < 4096);
        // Those that had the other file open go on with this one.
        one.note(|_| turn(5));
        assert_eq!(times(), [1, 2, 3, 4, 5]);
        // Another version is not appended to.
        fs::write(&path, "something else").unwrap();
        History::new(dir.path()).note(|_| turn(6));
        assert_eq!(times(), [6]);
    }
}
