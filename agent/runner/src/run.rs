//! One run of a graph: threads take ready tasks from the schedule until none is left.

use crate::{
    ahead::{self, Ahead},
    environment::{Caller, Environment},
    event::{Ended, Event, Observer},
    inputs::Ignored,
    jobserver::{JobServer, Tokens, knows_named_pipes},
    looks::Looks,
    patterns::Patterns,
    predict::NoCache,
    process::{self, Cancel, Finished, Session, Sink, Spawner, Stdout},
    service,
    sharing::{Link, Sharing},
    summary::Summary,
    task::{self, Done, Failure, TaskError},
    terminal::Lent,
    tools::Tools,
    witness::{self, Asked, Question},
    workspace::{Memory, Workspace, WorkspaceError},
};
use netbuild_core::{
    cache::{Cache, CacheError},
    digest::Hash,
    graph::{DependencyKind, Graph, Task, TaskId},
    record::Sandbox,
    schedule::{OnFailure, Outcome, Schedule},
    sooner::Building,
    tree::Entry,
};
use netbuild_proto::spawn::Command;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// How often an idle thread looks whether the run was cancelled.
const TICK: Duration = Duration::from_millis(100);
/// Expected time of a task that never ran, in milliseconds: long, against one that is known to be
/// quick, and short against one that is known to be long.
const UNKNOWN_COST_MS: u64 = 1_000;

/// Most jobs: that many tokens fit into the pipe of a jobserver.
const MOST_JOBS: usize = 4096;
/// A make that does not tell its version in this time hangs.
const MAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// What to run, with what.
pub struct Options<'a> {
    /// Directory of the graph file; every path in the graph is relative to it.
    pub root: PathBuf,
    /// What is remembered of it.
    pub memory: Memory,
    /// The graph.
    pub graph: &'a Graph,
    /// What is wanted of it.
    pub targets: Vec<TaskId>,
    /// Most commands at once, at least 1.
    pub jobs: usize,
    /// Whether to go on with what does not depend on a failed task.
    pub keep_going: bool,
    /// How restored files come by their bytes.
    pub link: Link,
    /// The environment of whoever started the run.
    pub caller: Caller,
    /// The executable that becomes the spawner: this one, ordinarily.
    pub executable: PathBuf,
    /// Whether what is undeclared fails a task that is watched or has a stage.
    pub strict: bool,
    /// Whether results of others are waited for, though they may come later than they are built.
    pub prefers_cache: bool,
    /// Whether all commands run, watched, and what they did is told instead of kept.
    pub observe: bool,
    /// Whether standard output is for what the run prints, so that commands that have the terminal print to
    /// standard error.
    pub owns_stdout: bool,
    /// Whether the process ends after it, which is quicker than to take apart what is known of a large graph.
    pub is_last: bool,
    /// The level from which on others hear of a result.
    pub publish_from: Sandbox,
    /// The level from which on a result is taken.
    pub accept_from: Sandbox,
    /// The name that tells the cache from others, or [`NO_CACHE`](crate::NO_CACHE). A new one gets its name when it
    /// is first used. Outputs that stand in the workspace are looked up all the same when
    /// another cache had them, so that this one comes to have them too.
    pub cache_id: &'a (dyn Fn() -> Hash + Sync),
    /// What it is asked, when it may be remembered that there was nothing to do.
    pub asked: Option<Asked>,
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
    let on_failure = if options.keep_going { OnFailure::KeepGoing } else { OnFailure::Stop };
    let is_last = options.is_last;
    let run = Run::new(options, cache, observer, cancel)?;
    let summary = execute(&run, on_failure);
    if is_last {
        run.workspace.leave_memory();
    }
    Ok(summary)
}

/// Runs all that a run is to do.
pub(crate) fn execute(run: &Run<'_>, on_failure: OnFailure) -> Summary {
    let started = Instant::now();
    let closure = run.closure();
    let with_command = |id: &&TaskId| run.graph[**id].command.is_some();
    let cost = |id: TaskId| run.cost_ms(id).unwrap_or(UNKNOWN_COST_MS);
    {
        let mut progress = run.progress();
        progress.schedule =
            Schedule::new(run.graph, &run.targets, on_failure, run.jobs as u32, cost);
        progress.summary.tasks = closure.iter().filter(with_command).count();
    }
    std::thread::scope(|scope| {
        let _ending = ahead::Ending(&run.ahead);
        let threads = run.jobs.min(closure.len().max(1));
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| run.work())).collect();
        scope.spawn(|| ahead::look(run, scope));
        for worker in workers {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    run.end_services();
    // The last command is over; a result that is not durable yet only costs time later.
    if !run.observe
        && let Err(error) = run.cache.flush()
    {
        run.warn_of_cache(&error);
    }
    if let Err(error) = run.workspace.save() {
        // What is not remembered only costs time later.
        run.observer.event(Event::Warning { task: None, message: error.to_string() });
    }
    let mut summary = run.progress().summary.clone();
    summary.cancelled = run.cancel.is_requested();
    summary.skipped = summary.tasks - summary.executed - summary.hits.total() - summary.failed;
    let is_idle = summary.is_success() && summary.hits.disk == summary.tasks;
    if let Some((question, said)) = run.question.as_ref().filter(|_| is_idle)
        && let Err(error) = witness::remember(run, question, said, &summary)
    {
        tracing::info!(%error, "what was looked at is not remembered");
    }
    summary.elapsed = started.elapsed();
    summary
}

/// Runs all commands in the workspace, and tells by [`Event::Observed`] what each did; no cache is used, and services
/// are not watched.
///
/// # Errors
/// As of [`run()`].
pub fn observe(
    options: Options<'_>,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Summary, WorkspaceError> {
    run(Options { observe: true, ..options }, &NoCache, observer, cancel)
}

/// The parts of a run that its threads share.
pub(crate) struct Run<'a> {
    pub(crate) workspace: Workspace,
    pub(crate) ignored: Ignored,
    pub(crate) graph: &'a Graph,
    targets: Vec<TaskId>,
    /// Which tasks of the graph leave something that another reads.
    is_read: Vec<bool>,
    pub(crate) caller: Caller,
    question: Option<(Question, Vec<String>)>,
    /// The environment of tasks that say nothing of theirs, which most do.
    plain: OnceLock<Arc<Environment>>,
    pub(crate) cache: &'a dyn Cache,
    /// Most commands at once, at least 1.
    pub(crate) jobs: usize,
    pub(crate) sharing: Sharing,
    job_server: Mutex<Option<Arc<JobServer>>>,
    /// In the order in which they became ready.
    services: Mutex<Vec<service::Running>>,
    /// Whether each service whose turn has come stands; it is started with the first command that
    /// needs it.
    standing: BTreeMap<TaskId, Mutex<Standing>>,
    pub(crate) ahead: Ahead,
    pub(crate) observer: &'a dyn Observer,
    pub(crate) cancel: &'a Cancel,
    pub(crate) tools: Tools,
    executable: PathBuf,
    pub(crate) cache_id: &'a (dyn Fn() -> Hash + Sync),
    pub(crate) strict: bool,
    pub(crate) observe: bool,
    owns_stdout: bool,
    pub(crate) publish_from: Sandbox,
    pub(crate) accept_from: Sandbox,
    /// Levels that the system does not have, and why.
    unavailable: Mutex<BTreeMap<Sandbox, String>>,
    spawner: Mutex<Option<Arc<Spawner>>>,
    /// That of commands that have the terminal.
    terminal_spawner: Mutex<Option<Arc<Spawner>>>,
    cache_warned: AtomicBool,
    only_fetches: AtomicBool,
    /// Made when the first task with such outputs has ended.
    patterns: OnceLock<Patterns>,
    /// Patterns that were told to match nothing.
    patterns_warned: Mutex<BTreeSet<String>>,
    progress: Mutex<Progress>,
    changed: Condvar,
}

/// What has become of a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    /// Its turn has not come.
    Waits,
    /// Nothing has needed it yet.
    NotNeeded,
    Stands,
    Failed,
}

/// Files, links and directories with their paths in the workspace.
pub(crate) type Entries = Vec<(Vec<u8>, Entry)>;

#[derive(Debug, Default)]
struct Progress {
    schedule: Schedule,
    summary: Summary,
    /// What finished tasks left, for those that read it.
    data: BTreeMap<TaskId, Arc<Entries>>,
    /// Threads that wait for a task.
    waiting: usize,
}

impl<'a> Run<'a> {
    /// A run that has nothing to do yet.
    pub(crate) fn new(
        options: Options<'a>,
        cache: &'a dyn Cache,
        observer: &'a dyn Observer,
        cancel: &'a Cancel,
    ) -> Result<Self, WorkspaceError> {
        let (looks, question) = match options.asked {
            Some(Asked { question, looks, said }) => (looks, Some((question, said))),
            None => (Looks::none(), None),
        };
        let workspace = Workspace::open(&options.root, options.memory, looks)?;
        Ok(Self {
            ignored: Ignored::read(&workspace.files),
            workspace,
            graph: options.graph,
            caller: options.caller,
            question,
            plain: OnceLock::new(),
            cache,
            jobs: options.jobs.clamp(1, MOST_JOBS),
            sharing: Sharing::new(options.link),
            job_server: Mutex::default(),
            services: Mutex::default(),
            standing: options
                .graph
                .iter()
                .filter(|(_, task)| task.service.is_some())
                .map(|(id, _)| (id, Mutex::new(Standing::Waits)))
                .collect(),
            targets: options.targets,
            is_read: is_read(options.graph),
            ahead: Ahead::default(),
            observer,
            cancel,
            tools: Tools::default(),
            executable: options.executable,
            cache_id: options.cache_id,
            strict: options.strict,
            observe: options.observe,
            owns_stdout: options.owns_stdout,
            publish_from: options.publish_from,
            accept_from: options.accept_from,
            unavailable: Mutex::default(),
            spawner: Mutex::default(),
            terminal_spawner: Mutex::default(),
            cache_warned: AtomicBool::new(false),
            only_fetches: AtomicBool::new(options.prefers_cache),
            patterns: OnceLock::new(),
            patterns_warned: Mutex::default(),
            progress: Mutex::default(),
            changed: Condvar::new(),
        })
    }
}

fn is_read(graph: &Graph) -> Vec<bool> {
    let mut is_read = vec![false; graph.iter().count()];
    let deps = graph.iter().flat_map(|(_, task)| &task.deps);
    for dep in deps.filter(|dep| dep.kind == DependencyKind::Data) {
        is_read[dep.task.index()] = true;
    }
    is_read
}

impl Run<'_> {
    /// All tasks that the targets need, dependencies first.
    pub(crate) fn closure(&self) -> Vec<TaskId> {
        self.graph.closure(&self.targets)
    }

    fn cost_ms(&self, id: TaskId) -> Option<u64> {
        self.workspace.duration_ms(&self.graph[id].name)
    }

    /// What it takes to build a task here, as far as that is known; `None` when it is better fetched.
    pub(crate) fn building(&self, id: TaskId) -> Option<Building> {
        if self.only_fetches.load(Ordering::Relaxed) {
            return None;
        }
        let own = self.cost_ms(id);
        let after = self.progress().schedule.after(id, own.unwrap_or(UNKNOWN_COST_MS));
        Some(Building { own: own.map(Duration::from_millis), after: Duration::from_millis(after) })
    }

    /// From now on, whatever can be had is waited for.
    pub(crate) fn build_no_sooner(&self) {
        self.only_fetches.store(true, Ordering::Relaxed);
    }

    /// A task is built although others have its result.
    pub(crate) fn count_sooner_built(&self) {
        self.progress().summary.sooner_built += 1;
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(id) = self.next() {
            let started = Instant::now();
            let task = &self.graph[id];
            if task.service.is_some() {
                let outcome = self.turn_of_service(id, task);
                self.go_on(id, outcome);
                continue;
            }
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
            progress.waiting += 1;
            let waited = self.changed.wait_timeout(progress, TICK);
            progress = waited.unwrap_or_else(PoisonError::into_inner).0;
            progress.waiting -= 1;
        }
    }

    fn take_turn(&self, id: TaskId, task: &Task) -> Result<Done, Failure> {
        if !task.runs_on(std::env::consts::OS, std::env::consts::ARCH) {
            return Ok(Done {
                ended: Ended::Skipped(format!("not for {}", std::env::consts::OS)),
                entries: Arc::default(),
                log: Vec::new(),
                duration: Duration::ZERO,
                levels: None,
            });
        }
        match &task.command {
            Some(argv) => task::process(self, id, task, argv),
            // A group passes on what its members left, to those that read it.
            None => Ok(Done {
                ended: Ended::UpToDate,
                entries: match self.is_read[id.index()] {
                    true => Arc::new(self.passed_on(id)),
                    false => Arc::default(),
                },
                log: Vec::new(),
                duration: Duration::ZERO,
                levels: None,
            }),
        }
    }

    fn finish(&self, id: TaskId, task: &Task, result: Result<Done, Failure>, took: Duration) {
        let mut levels = None;
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
                progress.data.insert(id, done.entries);
                levels = done.levels;
                if let (Ended::Executed, Some(levels)) = (&done.ended, done.levels) {
                    *progress.summary.levels.entry(levels.obtained).or_default() += 1;
                }
                (done.ended, done.log, Outcome::Succeeded)
            }
            Err(Failure { error: error @ (TaskError::Cancelled | TaskError::Needs(_)), log }) => {
                (Ended::Skipped(error.to_string()), log, Outcome::Failed)
            }
            Err(Failure { error, log }) => {
                self.progress().summary.failed += 1;
                (Ended::Failed(error.to_string()), log, Outcome::Failed)
            }
        };
        if task.command.is_some() {
            let (name, log_policy) = (task.name.as_str(), task.log);
            self.observer.event(Event::Finished {
                task: name,
                ended,
                took,
                log,
                log_policy,
                levels,
            });
        }
        self.go_on(id, outcome);
    }

    /// Lets go on what waited for a task.
    fn go_on(&self, id: TaskId, outcome: Outcome) {
        let (skips, waiting) = {
            let mut progress = self.progress();
            (progress.schedule.finish(id, outcome), progress.waiting)
        };
        for skip in skips {
            let (skipped, cause) = (&self.graph[skip.task], &self.graph[skip.cause].name);
            if skipped.command.is_some() {
                self.tell_skipped(skipped, format!("it needs `{cause}`"));
            }
        }
        // Else it would be a call of the system for each task, which wakes nobody.
        if waiting > 0 {
            self.changed.notify_all();
        }
    }

    /// A service whose turn has come is started when it was asked for by name. Others wait for the
    /// first command that needs them: when all of these are up to date, none does.
    fn turn_of_service(&self, id: TaskId, task: &Task) -> Outcome {
        if !task.runs_on(std::env::consts::OS, std::env::consts::ARCH) {
            self.tell_skipped(task, format!("not for {}", std::env::consts::OS));
            return Outcome::Skipped;
        }
        if !self.targets.contains(&id) {
            if let Some(standing) = self.standing.get(&id) {
                *standing.lock().unwrap_or_else(PoisonError::into_inner) = Standing::NotNeeded;
            }
            return Outcome::Succeeded;
        }
        match self.need_services(&[id]) {
            Ok(()) => Outcome::Succeeded,
            Err(_) => Outcome::Failed,
        }
    }

    /// Starts the services that a task waits for, and those that they wait for, unless they stand.
    pub(crate) fn need_services_of(&self, id: TaskId) -> Result<(), TaskError> {
        if self.standing.is_empty() {
            return Ok(());
        }
        let deps: Vec<_> = self.graph[id].deps.iter().map(|dep| dep.task).collect();
        self.need_services(&deps)
    }

    /// Starts those of these tasks that are services, and those behind groups and services; the ones
    /// that others wait for first.
    fn need_services(&self, wanted: &[TaskId]) -> Result<(), TaskError> {
        let leads_on =
            |id: TaskId| self.graph[id].command.is_none() || self.standing.contains_key(&id);
        let mut seen = BTreeSet::new();
        let mut order = Vec::new();
        let mut pending: Vec<TaskId> = wanted.to_vec();
        while let Some(id) = pending.pop() {
            if leads_on(id) && seen.insert(id) {
                order.push(id);
                pending.extend(self.graph[id].deps.iter().map(|dep| dep.task));
            }
        }
        // What others wait for comes before them in a closure.
        for id in self.graph.closure(&order) {
            if let Some(standing) = self.standing.get(&id).filter(|_| seen.contains(&id)) {
                self.need_service(id, standing)?;
            }
        }
        Ok(())
    }

    fn need_service(&self, id: TaskId, standing: &Mutex<Standing>) -> Result<(), TaskError> {
        let task = &self.graph[id];
        let (Some(argv), Some(service)) = (&task.command, &task.service) else { return Ok(()) };
        // Held while it starts: others that need it wait for that.
        let mut standing = standing.lock().unwrap_or_else(PoisonError::into_inner);
        match *standing {
            Standing::Stands => return Ok(()),
            Standing::Failed => return Err(TaskError::Needs(task.name.clone())),
            Standing::Waits | Standing::NotNeeded => {}
        }
        let began = Instant::now();
        self.observer.event(Event::Started { task: &task.name });
        let (ended, log) = match service::start(self, task, argv, service) {
            Ok(running) => {
                *standing = Standing::Stands;
                self.services().push(running);
                self.progress().summary.executed += 1;
                (Ended::Executed, Vec::new())
            }
            Err(Failure { error: error @ TaskError::Cancelled, .. }) => return Err(error),
            Err(Failure { error, log }) => {
                *standing = Standing::Failed;
                self.progress().summary.failed += 1;
                (Ended::Failed(error.to_string()), log)
            }
        };
        let (name, log_policy, took) = (task.name.as_str(), task.log, began.elapsed());
        let levels = None;
        self.observer.event(Event::Finished { task: name, ended, took, log, log_policy, levels });
        match *standing {
            Standing::Failed => Err(TaskError::Needs(task.name.clone())),
            _ => Ok(()),
        }
    }

    fn tell_skipped(&self, task: &Task, why: String) {
        self.observer.event(Event::Finished {
            task: &task.name,
            ended: Ended::Skipped(why),
            took: Duration::ZERO,
            log: Vec::new(),
            log_policy: task.log,
            levels: None,
        });
    }

    /// What each data dependency of a task left.
    pub(crate) fn data_of(&self, id: TaskId) -> Vec<Arc<Entries>> {
        let deps = &self.graph[id].deps;
        if deps.is_empty() {
            return Vec::new();
        }
        let progress = self.progress();
        let data = deps.iter().filter(|dep| dep.kind == DependencyKind::Data);
        data.filter_map(|dep| progress.data.get(&dep.task).cloned()).collect()
    }

    /// Leaves what a task that did nothing has for those that read it.
    pub(crate) fn pass_on(&self, id: TaskId, entries: Arc<Entries>) {
        self.progress().data.insert(id, entries);
    }

    /// What a group passes on: what its members left.
    pub(crate) fn passed_on(&self, id: TaskId) -> Entries {
        self.data_of(id).iter().flat_map(|entries| entries.iter().cloned()).collect()
    }

    /// What a finished task left.
    pub(crate) fn left_by(&self, id: TaskId) -> Option<Arc<Entries>> {
        self.progress().data.get(&id).cloned()
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
        let run = |spawner: &Spawner| spawner.run(command, timeout, self.cancel, secrets);
        self.with_spawner(Session::Own, &run)
    }

    /// Runs a command that has the terminal to its end. The caller sees to it that keys reach the run.
    pub(crate) fn command_at_terminal(
        &self,
        command: &Command,
        timeout: Option<Duration>,
    ) -> io::Result<Finished> {
        let stdout = if self.owns_stdout { Stdout::Stderr } else { Stdout::OfRun };
        self.observer.event(Event::Terminal { lent: true });
        let finished = self.with_spawner(Session::OfTerminal, &|spawner| {
            let lent = Lent::new().map_err(io::Error::other)?;
            spawner.run_at_terminal(command, lent, timeout, self.cancel, stdout)
        });
        self.observer.event(Event::Terminal { lent: false });
        finished
    }

    fn with_spawner(
        &self,
        session: Session,
        run: &dyn Fn(&Spawner) -> io::Result<Finished>,
    ) -> io::Result<Finished> {
        let spawner = self.spawner(session)?;
        match run(&spawner) {
            // Somebody killed the helper, so the command did not start; another one starts it.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.forget(&spawner, session);
                run(&*self.spawner(session)?)
            }
            other => other,
        }
    }

    /// Where commands get the right to run, made with the first one.
    pub(crate) fn job_server(&self) -> Result<Arc<JobServer>, WorkspaceError> {
        let mut server = self.job_server.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = &*server {
            return Ok(Arc::clone(server));
        }
        let made = match JobServer::of_parent() {
            Some(parent) => parent,
            None => {
                let path = self.workspace.staging_path()?;
                JobServer::Own(Tokens::new(path, self.jobs, knows_named_pipes(&self.make_says()))?)
            }
        };
        Ok(Arc::clone(server.insert(Arc::new(made))))
    }

    /// What the make in the caller's `PATH` says of its version; nothing when there is none.
    fn make_says(&self) -> Vec<u8> {
        let command = Command {
            argv: vec![b"make".to_vec(), b"--version".to_vec()],
            env: self.caller.path().into_iter().map(|path| (b"PATH".to_vec(), path)).collect(),
            working_dir: b"/".to_vec(),
            jobserver: None,
            confinement: None,
            has_terminal: false,
        };
        let finished = self.command(&command, Some(MAKE_TIMEOUT), &[]);
        finished.map(|finished| finished.log.by_stream()).unwrap_or_default()
    }

    fn services(&self) -> MutexGuard<'_, Vec<service::Running>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a service.
    pub(crate) fn start_service(
        &self,
        command: &Command,
        secrets: &[Vec<u8>],
        sink: Sink,
    ) -> io::Result<process::Running> {
        self.spawner(Session::Own)?.begin(command, secrets, sink)
    }

    /// Ends the services, the last that was started first. Those that were asked for by name stay until the
    /// run is cancelled or one of them ends.
    fn end_services(&self) {
        let asked_for = self.targets.iter().any(|id| self.graph[*id].service.is_some());
        let all_stand = || self.services().iter().all(|service| service.ended().is_none());
        while asked_for
            && !self.cancel.is_requested()
            && self.progress().summary.failed == 0
            && all_stand()
        {
            std::thread::sleep(TICK);
        }
        for (id, standing) in
            self.closure().iter().filter_map(|id| Some((id, self.standing.get(id)?)))
        {
            let standing = *standing.lock().unwrap_or_else(PoisonError::into_inner);
            if standing == Standing::NotNeeded && !self.cancel.is_requested() {
                self.tell_skipped(&self.graph[*id], "nothing that ran needs it".into());
            }
        }
        let services = std::mem::take(&mut *self.services());
        for service in services.into_iter().rev() {
            if let Some(message) = service.ended() {
                let message = format!("a service ended before the run did: {message}");
                self.observer.event(Event::Warning { task: None, message });
            }
            service.stop(self.cancel);
        }
    }

    /// The helper that starts commands, itself started with the first one.
    fn spawner(&self, session: Session) -> io::Result<Arc<Spawner>> {
        let mut spawner = self.spawner_of(session);
        if let Some(spawner) = &*spawner {
            return Ok(Arc::clone(spawner));
        }
        Ok(Arc::clone(spawner.insert(Arc::new(Spawner::start(&self.executable, session)?))))
    }

    fn spawner_of(&self, session: Session) -> MutexGuard<'_, Option<Arc<Spawner>>> {
        let spawner = match session {
            Session::Own => &self.spawner,
            Session::OfTerminal => &self.terminal_spawner,
        };
        spawner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, gone: &Arc<Spawner>, session: Session) {
        let mut spawner = self.spawner_of(session);
        spawner.take_if(|current| Arc::ptr_eq(current, gone));
    }

    /// The environment of a task.
    pub(crate) fn environment(&self, task: &Task) -> Arc<Environment> {
        let make = || Arc::new(self.caller.environment(task));
        match !task.interactive
            && task.env.is_empty()
            && task.pass_env.is_empty()
            && task.secret_env.is_empty()
        {
            true => Arc::clone(self.plain.get_or_init(make)),
            false => make(),
        }
    }

    /// Why a level cannot be had, if that is known.
    pub(crate) fn unavailable(&self, level: Sandbox) -> Option<String> {
        let known = self.unavailable.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&level).cloned()
    }

    /// Remembers that a level cannot be had.
    pub(crate) fn note_unavailable(&self, level: Sandbox, why: &str) {
        let mut known = self.unavailable.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(level, why.to_owned());
    }

    /// The environment of a task at the level `loose`.
    pub(crate) fn loose_environment(&self, task: &Task) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.caller.loose(task)
    }

    pub(crate) fn warn(&self, task: &Task, message: String) {
        // Next time, too.
        self.workspace.files.forget_looks();
        self.observer.event(Event::Warning { task: Some(&task.name), message });
    }

    /// Another task whose pattern matches one of these paths, which it would remove before it runs.
    pub(crate) fn other_owner<'p>(
        &self,
        id: TaskId,
        paths: impl Iterator<Item = &'p [u8]>,
    ) -> Option<(&'p [u8], &Task)> {
        let patterns = self.patterns.get_or_init(|| Patterns::of(self.graph));
        let mut owned = paths.filter_map(|path| Some((path, patterns.other_owner(id, path)?)));
        owned.next().map(|(path, owner)| (path, &self.graph[owner]))
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
        self.workspace.files.forget_looks();
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
