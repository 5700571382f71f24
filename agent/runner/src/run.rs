//! One run of a graph: threads take ready tasks from the schedule until none is left.

use crate::{
    environment::Caller,
    event::{Ended, Event, Observer},
    inputs::Ignored,
    process::{Cancel, Finished, Spawner},
    summary::Summary,
    task::{self, Done, Failure, TaskError},
    tools::Tools,
    workspace::{Workspace, WorkspaceError},
};
use netbuild_core::{
    cache::{Cache, CacheError},
    digest::Hash,
    graph::{DependencyKind, Graph, Task, TaskId},
    schedule::{OnFailure, Outcome, Schedule},
    tree::Entry,
};
use netbuild_proto::spawn::Command;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// How often an idle thread looks whether the run was cancelled.
const TICK: Duration = Duration::from_millis(100);
/// Expected time of a task that never ran, in milliseconds: long, against one that is known to be
/// quick, and short against one that is known to be long.
const UNKNOWN_COST_MS: u64 = 1_000;

/// What to run, with what.
pub struct Options<'a> {
    /// Directory of the graph file; every path in the graph is relative to it.
    pub root: PathBuf,
    /// The graph.
    pub graph: &'a Graph,
    /// What is wanted of it.
    pub targets: Vec<TaskId>,
    /// Most commands at once, at least 1.
    pub jobs: usize,
    /// Whether to go on with what does not depend on a failed task.
    pub keep_going: bool,
    /// The environment of whoever started the run.
    pub caller: Caller,
    /// The executable that becomes the spawner: this one, ordinarily.
    pub executable: PathBuf,
    /// The name that tells the cache from others, or [`NO_CACHE`](crate::NO_CACHE). A new one gets its name when it
    /// is first used. Outputs that stand in the workspace are looked up all the same when
    /// another cache had them, so that this one comes to have them too.
    pub cache_id: &'a (dyn Fn() -> Hash + Sync),
}

impl fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("root", &self.root)
            .field("targets", &self.targets)
            .field("jobs", &self.jobs)
            .finish_non_exhaustive()
    }
}

/// Runs tasks.
///
/// # Errors
/// Only when the workspace itself cannot be used; failed tasks are in the summary.
pub fn run(
    options: Options<'_>,
    cache: &dyn Cache,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Summary, WorkspaceError> {
    let started = Instant::now();
    let workspace = Workspace::open(&options.root)?;
    let on_failure = if options.keep_going { OnFailure::KeepGoing } else { OnFailure::Stop };
    let cost =
        |id: TaskId| workspace.duration_ms(&options.graph[id].name).unwrap_or(UNKNOWN_COST_MS);
    let schedule = Schedule::new(options.graph, &options.targets, on_failure, cost);
    let closure = options.graph.closure(&options.targets);
    let with_command = |id: &&TaskId| options.graph[**id].command.is_some();
    let summary =
        Summary { tasks: closure.iter().filter(with_command).count(), ..Summary::default() };
    let run = Run {
        ignored: Ignored::read(&workspace.root),
        workspace,
        graph: options.graph,
        caller: options.caller,
        cache,
        observer,
        cancel,
        tools: Tools::default(),
        executable: options.executable,
        cache_id: options.cache_id,
        spawner: Mutex::new(None),
        cache_warned: AtomicBool::new(false),
        patterns_warned: Mutex::default(),
        progress: Mutex::new(Progress { schedule, summary, data: BTreeMap::new() }),
        changed: Condvar::new(),
    };
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.clamp(1, closure.len().max(1)) {
            scope.spawn(|| run.work());
        }
    });
    // The last command is over; a result that is not durable yet only costs time later.
    if let Err(error) = cache.flush() {
        run.warn_of_cache(&error);
    }
    if let Err(error) = run.workspace.save() {
        // What is not remembered only costs time later.
        run.observer.event(Event::Warning { task: None, message: error.to_string() });
    }
    let mut summary = run.progress().summary.clone();
    summary.cancelled = cancel.is_requested();
    summary.skipped = summary.tasks - summary.executed - summary.hits.total() - summary.failed;
    summary.elapsed = started.elapsed();
    Ok(summary)
}

/// The parts of a run that its threads share.
pub(crate) struct Run<'a> {
    pub(crate) workspace: Workspace,
    pub(crate) ignored: Ignored,
    pub(crate) graph: &'a Graph,
    pub(crate) caller: Caller,
    pub(crate) cache: &'a dyn Cache,
    pub(crate) observer: &'a dyn Observer,
    pub(crate) cancel: &'a Cancel,
    pub(crate) tools: Tools,
    executable: PathBuf,
    pub(crate) cache_id: &'a (dyn Fn() -> Hash + Sync),
    spawner: Mutex<Option<Arc<Spawner>>>,
    cache_warned: AtomicBool,
    /// Patterns that were told to match nothing.
    patterns_warned: Mutex<BTreeSet<String>>,
    progress: Mutex<Progress>,
    changed: Condvar,
}

/// Files, links and directories with their paths in the workspace.
type Entries = Vec<(Vec<u8>, Entry)>;

#[derive(Debug)]
struct Progress {
    schedule: Schedule,
    summary: Summary,
    /// What finished tasks left, for those that read it.
    data: BTreeMap<TaskId, Arc<Entries>>,
}

impl Run<'_> {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(id) = self.next() {
            let started = Instant::now();
            let task = &self.graph[id];
            let result = self.take_turn(id, task);
            self.finish(id, task, result, started.elapsed());
        }
    }

    fn next(&self) -> Option<TaskId> {
        let mut progress = self.progress();
        loop {
            if self.cancel.is_requested() {
                return None;
            }
            if let Some(id) = progress.schedule.poll_ready() {
                return Some(id);
            }
            if progress.schedule.is_done() {
                return None;
            }
            let waited = self.changed.wait_timeout(progress, TICK);
            progress = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn take_turn(&self, id: TaskId, task: &Task) -> Result<Done, Failure> {
        if !task.runs_on(std::env::consts::OS, std::env::consts::ARCH) {
            return Ok(Done {
                ended: Ended::Skipped(format!("not for {}", std::env::consts::OS)),
                entries: Vec::new(),
                log: Vec::new(),
                duration: Duration::ZERO,
            });
        }
        match &task.command {
            Some(argv) => task::process(self, id, task, argv),
            // A group passes on what its members left.
            None => Ok(Done {
                ended: Ended::UpToDate,
                entries: self.data_of(id),
                log: Vec::new(),
                duration: Duration::ZERO,
            }),
        }
    }

    fn finish(&self, id: TaskId, task: &Task, result: Result<Done, Failure>, took: Duration) {
        let (ended, log, outcome) = match result {
            Ok(Done { ended: ended @ Ended::Skipped(_), log, .. }) => {
                (ended, log, Outcome::Skipped)
            }
            Ok(done) => {
                let mut progress = self.progress();
                if task.command.is_some() {
                    match task::source_of(&done.ended) {
                        Some((source, bytes)) => {
                            progress.summary.hit(&source, bytes, done.duration, took);
                        }
                        None => progress.summary.executed += 1,
                    }
                }
                progress.data.insert(id, Arc::new(done.entries));
                (done.ended, done.log, Outcome::Succeeded)
            }
            Err(Failure { error: error @ TaskError::Cancelled, log }) => {
                (Ended::Skipped(error.to_string()), log, Outcome::Failed)
            }
            Err(Failure { error, log }) => {
                self.progress().summary.failed += 1;
                (Ended::Failed(error.to_string()), log, Outcome::Failed)
            }
        };
        if task.command.is_some() {
            let (name, log_policy) = (task.name.as_str(), task.log);
            self.observer.event(Event::Finished { task: name, ended, took, log, log_policy });
        }
        let skips = self.progress().schedule.finish(id, outcome);
        for skip in skips {
            let (skipped, cause) = (&self.graph[skip.task], &self.graph[skip.cause].name);
            if skipped.command.is_some() {
                self.observer.event(Event::Finished {
                    task: &skipped.name,
                    ended: Ended::Skipped(format!("it needs `{cause}`")),
                    took: Duration::ZERO,
                    log: Vec::new(),
                    log_policy: skipped.log,
                });
            }
        }
        self.changed.notify_all();
    }

    /// What the data dependencies of a task left.
    pub(crate) fn data_of(&self, id: TaskId) -> Entries {
        let found: Vec<_> = {
            let progress = self.progress();
            let data = self.graph[id].deps.iter().filter(|dep| dep.kind == DependencyKind::Data);
            data.filter_map(|dep| progress.data.get(&dep.task).cloned()).collect()
        };
        found.iter().flat_map(|entries| entries.iter().cloned()).collect()
    }

    /// What a finished task left at a path.
    pub(crate) fn left_at(&self, path: &[u8]) -> Option<Entry> {
        let left: Vec<_> = self.progress().data.values().cloned().collect();
        let mut entries = left.iter().flat_map(|entries| entries.iter());
        entries.find(|(left, _)| left == path).map(|(_, entry)| entry.clone())
    }

    /// Runs a command to its end; the values of `secrets` do not show in its log.
    pub(crate) fn command(
        &self,
        command: &Command,
        timeout: Option<Duration>,
        secrets: &[Vec<u8>],
    ) -> io::Result<Finished> {
        let spawner = self.spawner()?;
        match spawner.run(command, timeout, self.cancel, secrets) {
            // Somebody killed the helper, so the command did not start; another one starts it.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.forget(&spawner);
                self.spawner()?.run(command, timeout, self.cancel, secrets)
            }
            other => other,
        }
    }

    /// The helper that starts commands, itself started with the first one.
    fn spawner(&self) -> io::Result<Arc<Spawner>> {
        let mut spawner = self.spawner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(spawner) = &*spawner {
            return Ok(Arc::clone(spawner));
        }
        Ok(Arc::clone(spawner.insert(Arc::new(Spawner::start(&self.executable)?))))
    }

    fn forget(&self, gone: &Arc<Spawner>) {
        let mut spawner = self.spawner.lock().unwrap_or_else(PoisonError::into_inner);
        spawner.take_if(|current| Arc::ptr_eq(current, gone));
    }

    pub(crate) fn warn(&self, task: &Task, message: String) {
        self.observer.event(Event::Warning { task: Some(&task.name), message });
    }

    /// Says once that a pattern matches nothing: many tasks may share it.
    pub(crate) fn warn_of_pattern(&self, task: &Task, pattern: &str) {
        let mut warned = self.patterns_warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.insert(pattern.to_owned()) {
            self.warn(task, format!("G026 input pattern `{pattern}` matches nothing"));
        }
    }

    /// Says once that the cache is in trouble; the build goes on without it.
    pub(crate) fn warn_of_cache(&self, error: &CacheError) {
        if self.cache_warned.swap(true, Ordering::Relaxed) {
            tracing::debug!(%error, "cache trouble again");
            return;
        }
        let message = format!("{error}; building without what the cache cannot do");
        self.observer.event(Event::Warning { task: None, message });
    }

    /// Waits, unless the run is cancelled meanwhile.
    pub(crate) fn pause(&self, delay: Duration) -> bool {
        let end = Instant::now() + delay;
        while !self.cancel.is_requested() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(TICK));
        }
        false
    }
}
