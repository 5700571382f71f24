//! `netbuild run --watch`: which changes of files are worth another run, and waiting for them.

use crate::errors::CliError;
use netbuild_core::{
    glob::Glob,
    graph::{Graph, InputPattern, TaskId},
    key::OutputShape,
};
use netbuild_runner::Cancel;
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use std::{
    collections::BTreeSet,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long nothing may change before a run: editors and checkouts change many files in a row.
const QUIET: Duration = Duration::from_millis(100);
/// Longest time that changes are waited out.
const RESTLESS: Duration = Duration::from_secs(2);
/// How often it is looked whether the watch was ended.
const TICK: Duration = Duration::from_millis(100);
/// Most paths that are remembered; more count as a change of everything.
const MOST_PATHS: usize = 10_000;
/// Directories in which nothing is an input.
const NEVER: [&str; 4] = [".git", ".hg", ".svn", ".netbuild"];

/// Watches a workspace.
#[derive(Debug)]
pub(super) struct Watch {
    root: PathBuf,
    seen: Arc<Seen>,
    _watcher: RecommendedWatcher,
}

#[derive(Debug, Default)]
struct Seen {
    changes: Mutex<Changes>,
    changed: Condvar,
}

/// What has changed.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Relative to the workspace.
    paths: BTreeSet<PathBuf>,
    /// More than is known: events were lost.
    everything: bool,
}

impl Seen {
    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, root: &Path, event: notify::Result<Event>) {
        let mut changes = self.changes();
        match event {
            // Reading changes nothing.
            Ok(event) if event.kind.is_access() => return,
            Ok(event) => {
                changes.everything |= event.need_rescan();
                for path in &event.paths {
                    let Ok(below) = path.strip_prefix(root) else { continue };
                    if below
                        .components()
                        .any(|part| NEVER.iter().any(|name| part.as_os_str() == *name))
                    {
                        continue;
                    }
                    // Of what came with a new directory nothing else is told.
                    changes.everything |= !event.kind.is_remove() && path.is_dir();
                    changes.paths.insert(below.to_owned());
                }
            }
            Err(_) => changes.everything = true,
        }
        if changes.paths.len() > MOST_PATHS {
            changes.paths.clear();
            changes.everything = true;
        }
        self.changed.notify_all();
    }
}

impl Watch {
    /// Watches all that is below `root`.
    pub(super) fn start(root: &Path) -> Result<Self, CliError> {
        let failed = |error: notify::Error| {
            CliError::wrong(format!("cannot watch `{}`: {error}", root.display()))
                .hint("the system may watch too few files: sysctl fs.inotify.max_user_watches")
        };
        let root = root.canonicalize().map_err(|error| CliError::io("watch", root, &error))?;
        let seen = Arc::new(Seen::default());
        let (seeing, below) = (Arc::clone(&seen), root.clone());
        let mut watcher =
            notify::recommended_watcher(move |event| seeing.take(&below, event)).map_err(failed)?;
        watcher.watch(&root, RecursiveMode::Recursive).map_err(failed)?;
        Ok(Self { root, seen, _watcher: watcher })
    }

    /// What has changed since the last call, once nothing has for a moment.
    pub(super) fn settled(&self) -> Changes {
        let began = Instant::now();
        let mut changes = self.seen.changes();
        loop {
            let before = (changes.paths.len(), changes.everything);
            let waited = self.seen.changed.wait_timeout(changes, QUIET);
            let (now, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            changes = now;
            let quiet = timeout.timed_out() && before == (changes.paths.len(), changes.everything);
            if quiet || began.elapsed() > RESTLESS {
                return std::mem::take(&mut *changes);
            }
        }
    }

    /// Waits until something has changed; false when the watch was ended.
    pub(super) fn wait(&self, cancel: &Cancel) -> bool {
        let mut changes = self.seen.changes();
        while changes.paths.is_empty() && !changes.everything {
            if cancel.is_requested() {
                return false;
            }
            let waited = self.seen.changed.wait_timeout(changes, TICK);
            changes = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// The path of a file in the workspace, relative to it.
    pub(super) fn relative(&self, file: &Path) -> Option<PathBuf> {
        Some(file.canonicalize().ok()?.strip_prefix(&self.root).ok()?.to_owned())
    }
}

impl Changes {
    /// Whether a declared input of a task, or the graph itself, is among them.
    pub(super) fn concern(&self, graph: &Graph, tasks: &[TaskId], file: Option<&Path>) -> bool {
        let is_input = |path: &[u8]| {
            let inputs = tasks.iter().filter_map(|id| graph[*id].inputs.as_deref());
            inputs.into_iter().any(|patterns| InputPattern::select(patterns, path))
        };
        self.everything
            || self
                .paths
                .iter()
                .any(|path| Some(path.as_path()) == file || is_input(path.as_os_str().as_bytes()))
    }

    /// Whether anything that no task makes is among them.
    pub(super) fn are_foreign(&self, graph: &Graph, tasks: &[TaskId]) -> bool {
        let is_output = |path: &[u8]| {
            tasks.iter().flat_map(|id| graph[*id].outputs.iter().flatten()).any(|output| {
                let pattern = output.pattern.as_bytes();
                match output.shape {
                    OutputShape::Path => path == pattern,
                    OutputShape::Tree => path
                        .strip_prefix(pattern)
                        .is_some_and(|rest| rest.is_empty() || rest[0] == b'/'),
                    OutputShape::Glob => {
                        Glob::new(&output.pattern).is_ok_and(|glob| glob.matches(path))
                    }
                }
            })
        };
        self.everything || self.paths.iter().any(|path| !is_output(path.as_os_str().as_bytes()))
    }
}
