//! One task from its inputs to its outputs: up to date, restored, or executed.

use crate::{
    beneath::{join, remove_all, shown},
    discovered::{self, Discovered},
    environment::Environment,
    event::{Ended, Event, Levels},
    files::{FileError, Seen},
    inputs::{self, InputError, Inputs},
    jobserver::{JobServer, pipe_of},
    outputs::{self, Collected, OutputError},
    process::{Ending, Finished},
    restore,
    run::{Entries, Run},
    sandbox::{self, Findings, Ground, Stage, StageError, declared},
    terminal::{self, TerminalError},
    tools::ToolError,
};
use memchr::memmem::Finder;
use netbuild_core::{
    cache::{CacheError, Content, NewRecord, Source},
    digest::{Digest, Hash},
    explain::{Cause, Deed, Ingredients, RunEnd, Turn},
    glob::Glob,
    graph::{CachePolicy, PlatformKey, Task, TaskId},
    key::{Action, ActionKey, OutputDeclaration, OutputShape, Platform},
    moved::{Progress, Watch},
    record::{ActionResult, Execution, Output, OutputKind, Record, Sandbox},
    sooner::{Building, Slow},
    tree::{self, Entry},
};
use netbuild_proto::{
    log::{self, Log},
    spawn::{Command, Namespaces},
    workspace::{Stamp, TaskState},
};
use std::{
    io::Read as _,
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// How often a task whose inputs changed under it is run again.
const RERUNS: usize = 1;

/// Largest log that is shown again, in bytes: as large as they come, with the note that one is cut.
const MAX_LOG_BLOB: u64 = log::MAX_LOG as u64 + 4096;

/// The name of a cache that has none: it was never used, or cannot be.
pub const NO_CACHE: Hash = Hash([0; 32]);

/// What tells a make, and others that understand it, of the jobserver. Not part of the key.
const MAKEFLAGS: &[u8] = b"MAKEFLAGS";
/// Where the C library is.
const LIBRARIES: &str = "/lib";
/// Said of a command that was to be watched.
const UNTOLD: &str = "what it did with files was not told";

/// What a task has become, with what its dependents read.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) ended: Ended,
    pub(crate) entries: Arc<Entries>,
    pub(crate) log: Vec<u8>,
    /// What the command took when it ran, now or earlier.
    pub(crate) duration: Duration,
    /// How closed it ran, now or earlier.
    pub(crate) levels: Option<Levels>,
}

/// Why a task failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TaskError {
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error("G030 working directory `{0}` does not exist")]
    WorkingDir(String),
    #[error("{0}")]
    Output(#[from] OutputError),
    #[error("the command {0}")]
    Command(Ending),
    #[error("the command could not be supervised: {0}")]
    Supervise(std::io::Error),
    #[error("cannot prepare the outputs: {0}")]
    Prepare(String),
    #[error(transparent)]
    Workspace(#[from] crate::workspace::WorkspaceError),
    #[error(
        "level `{level}` cannot be had here: {why}; say `{{\"level\": \"{level}\", \"fallback\": true}}` \
         where a lower one will do",
        level = .0.as_str(), why = .1
    )]
    Unavailable(Sandbox, String),
    #[error("{0}")]
    Undeclared(String),
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error(transparent)]
    Terminal(#[from] TerminalError),
    #[error("the service {0}")]
    Service(String),
    #[error("G011 `{0}` is an output of `{1}`, too: each path has one owner")]
    Owned(String, String),
    #[error("it needs `{0}`")]
    Needs(String),
    #[error("the run was cancelled")]
    Cancelled,
}

impl From<FileError> for TaskError {
    fn from(error: FileError) -> Self {
        Self::Input(error.into())
    }
}

/// A failed task with what its command printed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: TaskError,
    pub(crate) log: Vec<u8>,
}

impl<E: Into<TaskError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { error: error.into(), log: Vec::new() }
    }
}

/// A task with all that its key depends on, as it stands now.
struct Prepared {
    id: TaskId,
    environment: Arc<Environment>,
    inputs: Inputs,
    /// Further inputs, from the dep file of an earlier run; `None` when there was none.
    discovered: Option<Discovered>,
    action: Action,
    key: ActionKey,
}

/// What a look into the cache came to.
enum Found {
    Hit(Done),
    Miss(Cause),
}

/// What the execution of a command came to, when that did well.
enum Executed {
    Done {
        done: Done,
        end: RunEnd,
        /// With the inputs that were discovered, if there are any.
        with_discovered: Option<Box<Prepared>>,
    },
    /// The inputs changed meanwhile, in this way, and the task should be looked at anew.
    Again(String),
}

/// Brings the outputs of a task about. `argv` is its command.
pub(crate) fn process(
    run: &Run<'_>,
    id: TaskId,
    task: &Task,
    argv: &[String],
) -> Result<Done, Failure> {
    let cacheable = task.is_cacheable() && !run.observe;
    let mut again = None;
    for attempt in 0..=RERUNS {
        let began = Instant::now();
        let prepared = prepare(run, id, task, argv, discovered_earlier(run, task))?;
        let findable = cacheable && is_findable(task, &prepared);
        let knows = |cache| cache == (run.cache_id)();
        let standing = if findable { up_to_date(run, task, &prepared).ok() } else { None };
        let standing = match standing {
            Some((done, cache)) if knows(cache) => {
                check_owners(run, id, task, &done.entries)?;
                return Ok(done);
            }
            standing => standing,
        };
        run.workspace.files.forget_looks();
        run.workspace.ensure_staging()?;
        let Some(_lock) = run.workspace.lock(&task.name, run.cancel)? else {
            return Err(TaskError::Cancelled.into());
        };
        let mut missed = if cacheable { Cause::InputsUnknown } else { Cause::NeverCached };
        if findable {
            match from_cache(run, task, &prepared, true)? {
                Found::Hit(done) => return restored(run, task, &prepared, began, done),
                Found::Miss(why) => missed = why,
            }
        }
        // Outputs that only another cache knows are made again, so that this one comes to have
        // them; unless this one cannot have them, as even a lookup has not given it a name.
        if let Some((done, _)) = standing
            && knows(NO_CACHE)
        {
            return Ok(done);
        }
        let last = !cacheable || attempt == RERUNS;
        let cause = again.take().unwrap_or(missed);
        match execute(run, task, argv, &prepared, last) {
            Ok(Executed::Done { done, end, with_discovered }) => {
                let prepared = with_discovered.as_deref().unwrap_or(&prepared);
                if matches!(cause, Cause::SoonerBuilt(_)) {
                    run.count_sooner_built();
                }
                note(run, task, prepared, began, Deed::Ran { cause, end });
                return Ok(done);
            }
            Ok(Executed::Again(what)) => again = Some(Cause::RanOver(what)),
            Err(failure) => {
                // Others have its result, and it would have come.
                if matches!(cause, Cause::SoonerBuilt(_))
                    && !matches!(failure.error, TaskError::Cancelled)
                    && let Found::Hit(done) = from_cache(run, task, &prepared, false)?
                {
                    let what = "what others have is used, though it was later to come";
                    run.warn(task, format!("{}; {what}", failure.error));
                    // What is missing here for this one may be missing for others.
                    run.build_no_sooner();
                    return restored(run, task, &prepared, began, done);
                }
                if !matches!(failure.error, TaskError::Cancelled | TaskError::Needs(_)) {
                    let end = RunEnd::Failed(failure.error.to_string());
                    note(run, task, &prepared, began, Deed::Ran { cause, end });
                }
                return Err(failure);
            }
        }
    }
    Err(TaskError::Prepare("its inputs never stood still".into()).into())
}

/// Ends the turn of a task whose outputs were restored.
fn restored(
    run: &Run<'_>,
    task: &Task,
    prepared: &Prepared,
    began: Instant,
    done: Done,
) -> Result<Done, Failure> {
    check_owners(run, prepared.id, task, &done.entries)?;
    if let Ended::Hit { source, bytes } = &done.ended {
        let deed = Deed::Restored { source: source.clone(), bytes: *bytes };
        note(run, task, prepared, began, deed);
    }
    Ok(done)
}

/// Whether a task has outputs of which only a run tells where they are.
fn has_patterns(task: &Task) -> bool {
    declared(task).iter().any(|output| output.shape == OutputShape::Glob)
}

/// Refuses what a pattern of a task has matched and one of another matches, too.
fn check_owners(
    run: &Run<'_>,
    id: TaskId,
    task: &Task,
    entries: &[(Vec<u8>, Entry)],
) -> Result<(), TaskError> {
    if !has_patterns(task) {
        return Ok(());
    }
    let made = entries.iter().filter(|(_, entry)| *entry != Entry::Directory);
    match run.other_owner(id, made.map(|(path, _)| path.as_slice())) {
        Some((path, other)) => Err(TaskError::Owned(shown(path), other.name.clone())),
        None => Ok(()),
    }
}

/// Takes down what was done about a task, for `netbuild why`.
fn note(run: &Run<'_>, task: &Task, prepared: &Prepared, began: Instant, deed: Deed) {
    run.workspace.history.note(|marker| {
        let inputs = prepared.inputs.iter().map(|(path, seen)| (path.as_slice(), &seen.entry));
        Turn {
            task: task.name.clone(),
            at_ms: millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
            took_ms: millis(began.elapsed()),
            key: prepared.key,
            ingredients: Ingredients::of(&prepared.action, inputs, marker),
            deed,
        }
    });
}

/// The inputs that the task's dep file named when the task ran last.
fn discovered_earlier(run: &Run<'_>, task: &Task) -> Option<Discovered> {
    task.dep_file.as_ref()?;
    run.workspace.task(&task.name).map(|state| state.discovered.clone())
}

/// Whether all inputs are known: without them a task has no key to look for.
fn is_findable(task: &Task, prepared: &Prepared) -> bool {
    task.dep_file.is_none() || prepared.discovered.is_some()
}

fn prepare(
    run: &Run<'_>,
    id: TaskId,
    task: &Task,
    argv: &[String],
    discovered: Option<Discovered>,
) -> Result<Prepared, TaskError> {
    if task.working_dir != "." && !run.workspace.files.is_directory(task.working_dir.as_bytes()) {
        return Err(TaskError::WorkingDir(task.working_dir.clone()));
    }
    let inputs = current_inputs(run, id, task, discovered.as_ref())?;
    for pattern in inputs::unmatched(task.inputs.as_deref().unwrap_or_default(), &inputs) {
        run.warn_of_pattern(task, pattern);
    }
    with_inputs(run, id, task, argv, discovered, inputs)
}

fn with_inputs(
    run: &Run<'_>,
    id: TaskId,
    task: &Task,
    argv: &[String],
    discovered: Option<Discovered>,
    inputs: Inputs,
) -> Result<Prepared, TaskError> {
    if task.platform_key == PlatformKey::OsArchLibc {
        run.workspace.files.note_listed(LIBRARIES.as_bytes());
    }
    let environment = run.environment(task);
    let mut tools = std::collections::BTreeMap::new();
    for tool in &task.tools {
        let digest = run.tools.digest(tool, &environment, run)?;
        tools.insert(tool.name.clone(), digest);
    }
    let entries = inputs.iter().map(|(path, seen)| (path.as_slice(), &seen.entry));
    let action = Action {
        namespace: run.graph.namespace().map(str::to_owned),
        salt: run.graph.salt().map(str::to_owned),
        key_salt: task.key_salt.clone(),
        argv: argv.to_vec(),
        working_dir: task.working_dir.clone(),
        env: environment.keyed.clone(),
        pass_env: environment.passed.clone(),
        secret_env: environment.secret.keys().cloned().collect(),
        platform: platform(task.platform_key),
        tools,
        input_root: tree::root_hash(entries).map_err(InputError::from)?,
        outputs: declared(task).iter().cloned().collect(),
        clean: task.clean,
    };
    let key = action.key();
    Ok(Prepared { id, environment, inputs, discovered, action, key })
}

/// Outputs that are removed before the command runs.
fn cleaned(task: &Task) -> &[OutputDeclaration] {
    if task.clean { declared(task) } else { &[] }
}

/// Declared inputs, the outputs of data dependencies, and what was discovered.
fn current_inputs(
    run: &Run<'_>,
    id: TaskId,
    task: &Task,
    discovered: Option<&Discovered>,
) -> Result<Inputs, InputError> {
    let patterns = task.inputs.as_deref().unwrap_or_default();
    let nothing = inputs::Awaited::new();
    let mut inputs = inputs::collect(&run.workspace.files, &run.ignored, patterns, &nothing)?;
    for entries in run.data_of(id) {
        for (path, _) in &*entries {
            inputs::add_path(&run.workspace.files, &mut inputs, path)?;
        }
    }
    if let Some(paths) = discovered {
        discovered::add(run, paths, &mut inputs)?;
    }
    Ok(inputs)
}

fn platform(key: PlatformKey) -> Option<Platform> {
    let (os, arch) = (std::env::consts::OS.to_owned(), std::env::consts::ARCH.to_owned());
    match key {
        PlatformKey::OsArch => Some(Platform { os, arch, libc: None }),
        PlatformKey::OsArchLibc => Some(Platform { os, arch, libc: Some(libc_name()) }),
        PlatformKey::Any => None,
    }
}

/// The C library that programs of this system use, with its major version.
fn libc_name() -> String {
    let musl = |name: &std::ffi::OsStr| name.as_bytes().starts_with(b"ld-musl-");
    let is_musl = std::fs::read_dir(LIBRARIES)
        .is_ok_and(|list| list.flatten().any(|entry| musl(&entry.file_name())));
    if is_musl { "musl1".into() } else { "glibc2".into() }
}

/// The outputs of the last run, if they stand in the workspace and are what a run would make now,
/// with the cache that has them; else why they do not.
fn up_to_date(
    run: &Run<'_>,
    task: &Task,
    prepared: &Prepared,
) -> Result<(Done, Hash), &'static str> {
    let state = run.workspace.task(&task.name).ok_or("it never ran here")?;
    if state.key != prepared.key {
        return Err("its command, environment, tools or inputs changed");
    }
    if state.sandbox_obtained < least(run, task) {
        return Err("its outputs were made at a level that is not taken any more");
    }
    if !restore::is_exact(&run.workspace, &state.outputs, &state.entries, cleaned(task)) {
        return Err("its outputs changed");
    }
    let done = Done {
        ended: Ended::UpToDate,
        entries: Arc::clone(&state.entries),
        log: Vec::new(),
        duration: Duration::from_millis(state.duration_ms),
        levels: Some(Levels { asked: state.sandbox_asked, obtained: state.sandbox_obtained }),
    };
    Ok((done, state.cache))
}

/// The level from which on a result of a task is taken, whoever made it.
fn least(run: &Run<'_>, task: &Task) -> Sandbox {
    match task.sandbox.level {
        Sandbox::Loose => run.accept_from,
        // What was made at `loose` saw an environment that the task does not have.
        _ => run.accept_from.max(Sandbox::Env),
    }
}

/// How a cacheable task stands, before anything is done about it.
pub(crate) enum Standing {
    /// Its outputs are those of a run now.
    UpToDate(Arc<Entries>),
    /// They are not, for this reason.
    Stale(&'static str),
}

/// Looks at a cacheable task whose data dependencies are up to date.
pub(crate) fn standing(
    run: &Run<'_>,
    id: TaskId,
    task: &Task,
    argv: &[String],
) -> Result<Standing, TaskError> {
    let prepared = prepare(run, id, task, argv, discovered_earlier(run, task))?;
    if !is_findable(task, &prepared) {
        return Ok(Standing::Stale("its dep file was never read here"));
    }
    let id = (run.cache_id)();
    Ok(match up_to_date(run, task, &prepared) {
        // A run asks a cache that cannot be used, too, and then takes what stands.
        Ok((done, cache)) if cache == id || id == NO_CACHE => Standing::UpToDate(done.entries),
        Ok(_) => Standing::Stale("this cache does not have its result"),
        Err(why) => Standing::Stale(why),
    })
}

/// What is expected of a task before its turn.
pub(crate) enum Expected {
    /// Its outputs stand in the workspace.
    UpToDate(Arc<Entries>),
    /// They are in this record, which would be taken.
    Record(Box<Record>),
}

/// What a cacheable task leaves when those that it reads leave `read`, as far as that can be known
/// without running anything but the version commands of its tools; `None` when it cannot.
pub(crate) fn expect(
    run: &Run<'_>,
    id: TaskId,
    task: &Task,
    argv: &[String],
    read: &[Arc<Entries>],
) -> Option<Expected> {
    let discovered = discovered_earlier(run, task);
    let mut expected = inputs::Awaited::new();
    for (path, entry) in read.iter().flat_map(|entries| entries.iter()) {
        // What a link leads to counts, and may not be there yet.
        if matches!(entry, Entry::Symlink { .. }) {
            return None;
        }
        expected.insert(path.as_slice(), entry);
    }
    let patterns = task.inputs.as_deref().unwrap_or_default();
    let mut inputs =
        inputs::collect(&run.workspace.files, &run.ignored, patterns, &expected).ok()?;
    if let Some(paths) = &discovered {
        discovered::add(run, paths, &mut inputs).ok()?;
    }
    for (path, entry) in expected {
        inputs.insert(path.to_vec(), Seen { entry: entry.clone(), stamp: Stamp::default() });
    }
    let prepared = with_inputs(run, id, task, argv, discovered, inputs).ok()?;
    if !is_findable(task, &prepared) {
        return None;
    }
    if let Ok((done, cache)) = up_to_date(run, task, &prepared)
        && cache == (run.cache_id)()
    {
        return Some(Expected::UpToDate(done.entries));
    }
    let record = run.cache.peek(&prepared.key).ok().flatten()?;
    refusal(run, task, &record).is_none().then(|| Expected::Record(Box::new(record)))
}

/// Why a result is not taken, if it is not.
fn refusal(run: &Run<'_>, task: &Task, record: &Record) -> Option<Cause> {
    let execution = &record.execution;
    if execution.bound_to.is_some_and(|id| id != run.workspace.id) {
        return Some(Cause::BoundElsewhere);
    }
    if execution.sandbox_obtained < run.accept_from {
        let (made_at, least) = (execution.sandbox_obtained.as_str(), run.accept_from.as_str());
        let why = format!("it was made at level `{made_at}`, and `min_accept_level` is `{least}`");
        return Some(Cause::NotRestored(why));
    }
    // It saw an environment that the task does not have any more.
    if execution.sandbox_obtained == Sandbox::Loose && task.sandbox.level != Sandbox::Loose {
        let why = "it was made at level `loose`, which the task has no more".to_owned();
        return Some(Cause::NotRestored(why));
    }
    let code = record.result.exit_code;
    (code != 0).then(|| Cause::NotRestored(format!("its command ended with exit code {code}")))
}

/// Tells the observer of a run how far the result of a task is.
struct Fetching<'a> {
    run: &'a Run<'a>,
    id: TaskId,
    task: &'a Task,
    /// Whether it may be built instead.
    may_build: bool,
    /// Why it does not come, if it could.
    slow: Mutex<Option<Slow>>,
}

impl Watch for Fetching<'_> {
    fn moving(&self, progress: &Progress) {
        self.run.ahead.handle_far();
        // While nobody sends, it waits for what is brought already, which shows by itself.
        if progress.sources.is_empty() {
            return;
        }
        self.run.observer.event(Event::Moving { task: &self.task.name, progress });
    }

    fn least(&self) -> Sandbox {
        least(self.run, self.task)
    }

    fn building(&self) -> Option<Building> {
        // Of one that asks people nobody can say how long it takes.
        let may_build = self.may_build && !self.task.interactive;
        may_build.then(|| self.run.building(self.id)).flatten()
    }

    fn sooner_built(&self, slow: &Slow) {
        *self.slow.lock().unwrap_or_else(PoisonError::into_inner) = Some(*slow);
    }

    fn is_over(&self) -> bool {
        self.run.cancel.is_requested()
    }
}

/// Restores the outputs from the cache. Whatever is wrong with the cache is a miss, and so is, unless it is the
/// last resort, what is sooner built.
fn from_cache(
    run: &Run<'_>,
    task: &Task,
    prepared: &Prepared,
    may_build: bool,
) -> Result<Found, TaskError> {
    let mut lost = String::new();
    // A second look finds what a first one found damaged, if another agent has it whole.
    for _ in 0..2 {
        let fetching = Fetching { run, id: prepared.id, task, may_build, slow: Mutex::default() };
        let found = run.cache.lookup(&prepared.key, &fetching);
        let slow = fetching.slow.into_inner().unwrap_or_else(PoisonError::into_inner);
        let hit = match found {
            Ok(Some(hit)) => hit,
            Ok(None) if let Some(slow) = slow => {
                return Ok(Found::Miss(Cause::SoonerBuilt(slow.to_string())));
            }
            Ok(None) if lost.is_empty() => return Ok(Found::Miss(Cause::NoRecord)),
            Ok(None) => break,
            Err(_) if run.cancel.is_requested() => return Err(TaskError::Cancelled),
            Err(error) => {
                run.warn_of_cache(&error);
                return Ok(Found::Miss(Cause::CacheFailed(error.to_string())));
            }
        };
        if let Some(why) = refusal(run, task, &hit.record) {
            return Ok(Found::Miss(why));
        }
        let execution = &hit.record.execution;
        let outputs = &hit.record.result.outputs;
        let restored = restore::expand(outputs, run.cache).and_then(|entries| {
            restore::restore(run, outputs, &entries, cleaned(task))?;
            Ok(Arc::new(entries))
        });
        match restored {
            Ok(entries) => {
                let duration_ms = execution.duration_ms;
                let levels =
                    Levels { asked: execution.sandbox_asked, obtained: execution.sandbox_obtained };
                let state = TaskState {
                    key: prepared.key,
                    cache: (run.cache_id)(),
                    duration_ms,
                    sandbox_asked: levels.asked,
                    sandbox_obtained: levels.obtained,
                    outputs: outputs.clone(),
                    entries: Arc::clone(&entries),
                    discovered: prepared.discovered.clone().unwrap_or_default(),
                };
                run.workspace.remember(&task.name, state);
                return Ok(Found::Hit(Done {
                    ended: Ended::Hit { source: hit.source, bytes: hit.bytes },
                    entries,
                    log: replay(run, hit.record.result.log),
                    duration: Duration::from_millis(duration_ms),
                    levels: Some(levels),
                }));
            }
            Err(error) => {
                lost = error.to_string();
                run.warn(task, format!("its result cannot be restored: {lost}"));
            }
        }
    }
    Ok(Found::Miss(Cause::NotRestored(lost)))
}

/// Runs the command and keeps the result. The `last` attempt is never to be made again.
fn execute(
    run: &Run<'_>,
    task: &Task,
    argv: &[String],
    prepared: &Prepared,
    last: bool,
) -> Result<Executed, Failure> {
    if run.cancel.is_requested() {
        return Err(TaskError::Cancelled.into());
    }
    run.need_services_of(prepared.id)?;
    run.observer.event(Event::Started { task: &task.name });
    let started = SystemTime::now();
    let (attempted, flaky) = attempts(run, task, argv, prepared)?;
    let Attempted { finished, level, stage } = attempted;
    let log = finished.log.interleaved();
    let with_log = |error: TaskError| Failure { error, log: log.clone() };
    let root = run.workspace.root.as_os_str().as_bytes();
    let mut collected = match &stage {
        Some(stage) => {
            take_from(run, prepared.id, task, stage, &Finder::new(root)).map_err(with_log)?
        }
        None => outputs::collect(&run.workspace.files, declared(task), &Finder::new(root), None)
            .map_err(|error| with_log(error.into()))?,
    };
    drop(stage);
    let entries = Arc::new(std::mem::take(&mut collected.entries));
    check_owners(run, prepared.id, task, &entries).map_err(with_log)?;
    let levels = Levels { asked: task.sandbox.level, obtained: level };
    let done = |end| Executed::Done {
        done: Done {
            ended: Ended::Executed,
            entries: Arc::clone(&entries),
            log: log.clone(),
            duration: finished.duration,
            levels: Some(levels),
        },
        end,
        with_discovered: None,
    };
    let not_kept = |why: &str| {
        run.warn(task, format!("{why}; its result is not kept"));
        done(RunEnd::NotKept(why.to_owned()))
    };
    if let Some(why) = sandbox::unenforced(task, level) {
        run.warn(task, why.to_owned());
    }
    if run.observe && task.interactive {
        run.warn(task, "it has the terminal, and is not watched".to_owned());
        return Ok(done(RunEnd::NotKept("it is never cached".into())));
    }
    if run.observe {
        let Some(observed) = &finished.observed else {
            return Err(with_log(TaskError::Unavailable(level, UNTOLD.into())));
        };
        let observation = sandbox::observation(run, task, observed);
        run.observer.event(Event::Observed { task: &task.name, observation });
        return Ok(done(RunEnd::NotKept("it was only watched".into())));
    }
    if !task.is_cacheable() {
        if let Some(what) =
            judge(run, task, &prepared.inputs, &finished, level).map_err(with_log)?
        {
            run.warn(task, what);
        }
        return Ok(done(RunEnd::NotKept("it is never cached".into())));
    }
    if let Some(what) = drift(run, task, prepared) {
        if last {
            return Ok(not_kept(&what));
        }
        run.warn(task, format!("{what}; it runs again"));
        return Ok(Executed::Again(what));
    }
    let found = match &task.dep_file {
        None => None,
        Some(dep_file) => match discover(run, task, argv, prepared, dep_file, started) {
            Ok(found) => Some(Box::new(found)),
            Err(why) => return Ok(not_kept(&why)),
        },
    };
    let prepared = found.as_deref().unwrap_or(prepared);
    if let Some(what) = judge(run, task, &prepared.inputs, &finished, level).map_err(with_log)? {
        return Ok(not_kept(&what));
    }
    if let Some(why) = &collected.uncacheable {
        return Ok(not_kept(why));
    }
    if let Some(path) = &collected.names_stage {
        let path = shown(path);
        let what = "contains the path of its stage, which is gone: its result stays here";
        run.warn(task, format!("output `{path}` {what}; at level `ns` it is the same everywhere"));
    }
    let absent = |output: &Output| output.kind == OutputKind::Absent;
    if task.cache == CachePolicy::Complete && collected.outputs.iter().any(absent) {
        return Ok(done(RunEnd::NotKept("an output was not made".into())));
    }
    let end = match task.cache {
        CachePolicy::ReadOnly => RunEnd::NotKept("the graph says so".into()),
        _ => match keep(run, task, prepared, (&finished, levels, flaky), &collected, &entries) {
            Ok(()) => RunEnd::Kept,
            Err(error) => {
                run.warn_of_cache(&error);
                RunEnd::NotKept(error.to_string())
            }
        },
    };
    let state = TaskState {
        key: prepared.key,
        cache: (run.cache_id)(),
        duration_ms: millis(finished.duration),
        sandbox_asked: levels.asked,
        sandbox_obtained: levels.obtained,
        outputs: collected.outputs.clone(),
        entries: Arc::clone(&entries),
        discovered: prepared.discovered.clone().unwrap_or_default(),
    };
    run.workspace.remember(&task.name, state);
    Ok(match done(end) {
        Executed::Done { done, end, .. } => Executed::Done { done, end, with_discovered: found },
        again => again,
    })
}

/// Takes the declared outputs from a stage into the workspace, and names what else is there. A result that is not
/// to be had leaves the workspace as it is.
fn take_from(
    run: &Run<'_>,
    id: TaskId,
    task: &Task,
    stage: &Stage,
    workspace: &Finder<'_>,
) -> Result<Collected, TaskError> {
    let collected = stage.collect(declared(task), workspace)?;
    check_owners(run, id, task, &collected.entries)?;
    let strays = stage.strays(&collected.entries);
    if !strays.is_empty() {
        let what = format!("it wrote {}, undeclared", sandbox::names(&strays));
        if run.strict {
            return Err(TaskError::Undeclared(what));
        }
        run.warn(task, format!("{what}; that is not kept"));
    }
    stage.deliver(run, &collected, cleaned(task))?;
    Ok(collected)
}

/// Holds what a watched command did against what its task declares; what is not declared, if anything. What is not
/// watched is believed.
fn judge(
    run: &Run<'_>,
    task: &Task,
    inputs: &Inputs,
    finished: &Finished,
    level: Sandbox,
) -> Result<Option<String>, TaskError> {
    let Some(observed) = &finished.observed else {
        return match (level, run.strict) {
            (Sandbox::Audit, true) => Err(TaskError::Undeclared(UNTOLD.into())),
            (Sandbox::Audit, false) => Ok(Some(UNTOLD.into())),
            _ => Ok(None),
        };
    };
    let findings = Findings::new(run, task, inputs, observed);
    if let Some(programs) = findings.programs() {
        run.warn(task, programs);
    }
    match findings.undeclared() {
        Some(what) if run.strict => Err(TaskError::Undeclared(what)),
        found => Ok(found),
    }
}

/// The task with the inputs that its command named in its dep file.
fn discover(
    run: &Run<'_>,
    task: &Task,
    argv: &[String],
    before: &Prepared,
    dep_file: &str,
    started: SystemTime,
) -> Result<Prepared, String> {
    let paths = discovered::read(run, task, dep_file)?;
    let prepared = prepare(run, before.id, task, argv, Some(paths)).map_err(|e| e.to_string())?;
    let started = started.duration_since(UNIX_EPOCH).unwrap_or_default();
    let started = i64::try_from(started.as_nanos()).unwrap_or(i64::MAX);
    match discovered::changed(run, &before.inputs, &prepared.inputs, started) {
        Some(what) => Err(what),
        None => Ok(prepared),
    }
}

/// What changed among the inputs since they were read for the key.
fn drift(run: &Run<'_>, task: &Task, prepared: &Prepared) -> Option<String> {
    match current_inputs(run, prepared.id, task, prepared.discovered.as_ref()) {
        Ok(after) => inputs::drift(&prepared.inputs, &after),
        Err(error) => Some(error.to_string()),
    }
}

/// A command that ran.
struct Attempted {
    finished: Finished,
    /// How closed it ran.
    level: Sandbox,
    /// Where its outputs are, when that is not the workspace.
    stage: Option<Stage>,
}

/// Runs the command until it succeeds or no retry is left. Says whether it took a retry.
fn attempts(
    run: &Run<'_>,
    task: &Task,
    argv: &[String],
    prepared: &Prepared,
) -> Result<(Attempted, bool), Failure> {
    let mut failed = 0;
    loop {
        let attempted = attempt(run, task, argv, prepared)?;
        let finished = &attempted.finished;
        let retried = match &finished.ending {
            Ending::Code(0) => return Ok((attempted, failed > 0)),
            Ending::Code(_) => task.retry.on.exit,
            Ending::TimedOut => task.retry.on.timeout,
            Ending::Signal(_) => task.retry.on.signal,
            Ending::Cancelled | Ending::NotStarted(_) | Ending::Refused { .. } | Ending::Lost => {
                false
            }
        };
        failed += 1;
        let log = finished.log.interleaved();
        let delay = task.retry.delay_after(failed).filter(|_| retried);
        let Some(delay) = delay.filter(|_| !run.cancel.is_requested()) else {
            if attempted.stage.is_some() && matches!(finished.ending, Ending::Code(_)) {
                let (level, name) = (attempted.level.as_str(), &task.name);
                let hint = format!("`netbuild graph suggest {name}` says what it uses");
                run.warn(task, format!("at level {level} only declared inputs are there; {hint}"));
            }
            let error = match attempted.finished.ending {
                Ending::Cancelled => TaskError::Cancelled,
                ending => TaskError::Command(ending),
            };
            return Err(Failure { error, log });
        };
        run.warn(task, format!("the command {}; trying again in {delay:?}", finished.ending));
        if !run.pause(delay) {
            return Err(Failure { error: TaskError::Cancelled, log });
        }
    }
}

/// Runs the command once, at the level that it asks for or at the next one that will do.
fn attempt(
    run: &Run<'_>,
    task: &Task,
    argv: &[String],
    prepared: &Prepared,
) -> Result<Attempted, TaskError> {
    if task.interactive {
        terminal::check()?;
        let say = |what: &str| run.warn(task, what.to_owned());
        if !terminal::wait_for_foreground(run.cancel, say)? {
            return Err(TaskError::Cancelled);
        }
    }
    let server = run.job_server()?;
    let Some(token) = server.acquire(run.cancel).map_err(TaskError::Supervise)? else {
        return Err(TaskError::Cancelled);
    };
    let watched = run.observe && !task.interactive;
    let mut level = if watched { Sandbox::Audit } else { task.sandbox.level };
    let attempted = loop {
        let why = match run.unavailable(level) {
            Some(why) => why,
            None => {
                let attempted = attempt_at(run, task, argv, prepared, &server, level)?;
                let Ending::Refused { why, passing } = attempted.finished.ending else {
                    break attempted;
                };
                if !passing {
                    run.note_unavailable(level, &why);
                }
                why
            }
        };
        // Whoever asks what a task does is not served by not knowing it.
        match level.fallback().filter(|_| task.sandbox.fallback && !run.observe) {
            Some(next) => {
                let (asked, got) = (level.as_str(), next.as_str());
                run.warn(task, format!("level {asked} cannot be had here ({why}); trying {got}"));
                level = next;
            }
            None => return Err(TaskError::Unavailable(level, why)),
        }
    };
    drop(token);
    Ok(attempted)
}

fn attempt_at(
    run: &Run<'_>,
    task: &Task,
    argv: &[String],
    prepared: &Prepared,
    server: &JobServer,
    level: Sandbox,
) -> Result<Attempted, TaskError> {
    let scratch = run.workspace.scratch()?;
    let (stage, aside) = match level.is_staged() {
        true => (Some(Stage::set(run, task, &prepared.inputs)?), Vec::new()),
        false => (None, make_way(run, task)?),
    };
    let flags = server.flags();
    let pipe = flags.as_ref().and_then(|(flags, inherited)| {
        inherited.or_else(|| pipe_of(flags).map(std::path::Path::new))
    });
    let ground = Ground { level, stage: stage.as_ref(), scratch: scratch.path(), pipe };
    let working_dir = ground.root(run).join(&task.working_dir);
    let mut command = Command {
        argv: argv.iter().map(|arg| arg.clone().into_bytes()).collect(),
        env: match level {
            Sandbox::Loose => run.loose_environment(task),
            _ => prepared.environment.variables(ground.temporary()),
        },
        working_dir: working_dir.as_os_str().as_bytes().to_vec(),
        jobserver: None,
        confinement: ground.confinement(run, task, &prepared.environment),
        has_terminal: task.interactive,
    };
    let says = |name: &[u8]| command.env.iter().any(|(known, _)| known == name);
    if let Some((flags, inherited)) = flags.as_ref().filter(|_| !says(MAKEFLAGS)) {
        let inside = level == Sandbox::Ns;
        let flags = match pipe_of(flags).filter(|_| inside) {
            Some(outside) => flags.replace(outside, Namespaces::JOBSERVER),
            None => flags.clone(),
        };
        command.env.push((MAKEFLAGS.to_vec(), flags.into_bytes()));
        let inherited = inherited.map(|path| match inside {
            true => Namespaces::JOBSERVER.as_bytes().to_vec(),
            false => path.as_os_str().as_bytes().to_vec(),
        });
        command.jobserver = inherited;
    }
    let secrets: Vec<Vec<u8>> = prepared.environment.secret.values().flatten().cloned().collect();
    let finished = match task.interactive {
        true => run.command_at_terminal(&command, task.timeout),
        false => run.command(&command, task.timeout, &secrets),
    };
    let finished = finished.map_err(TaskError::Supervise);
    let started = matches!(&finished, Ok(finished) if !is_not_started(&finished.ending));
    for (path, from) in aside {
        if started {
            // What cannot be removed goes with the staging directory, or stays there.
            drop(remove_all(&from));
        } else if let Err(error) = run.workspace.beneath.place(&from, &path) {
            run.warn(task, format!("cannot put `{}` back: {error}", shown(&path)));
        }
    }
    run.workspace.give_back(scratch);
    Ok(Attempted { finished: finished?, level, stage })
}

fn is_not_started(ending: &Ending) -> bool {
    matches!(ending, Ending::NotStarted(_) | Ending::Refused { .. })
}

/// Moves earlier outputs aside and makes the directories that new ones will stand in.
fn make_way(run: &Run<'_>, task: &Task) -> Result<Vec<(Vec<u8>, PathBuf)>, TaskError> {
    let fail = |error: crate::beneath::BeneathError| TaskError::Prepare(error.to_string());
    let beneath = &run.workspace.beneath;
    let mut aside = Vec::new();
    for declaration in declared(task) {
        let path = declaration.place().as_bytes();
        let earlier = match declaration.shape {
            OutputShape::Path | OutputShape::Tree => {
                beneath.make_parent(path).map_err(fail)?;
                vec![path.to_vec()]
            }
            OutputShape::Glob => {
                let glob = Glob::new(&declaration.pattern).map_err(OutputError::from)?;
                let start = join(glob.literal_prefix().as_bytes(), b"x");
                beneath.make_parent(&start).map_err(fail)?;
                outputs::matching(&run.workspace.files, &glob)?
            }
        };
        if !task.clean {
            continue;
        }
        for path in earlier {
            // A path for what is not there would cost more than the look.
            if !run.workspace.files.is_there(&path) {
                continue;
            }
            let to = run.workspace.staging_path()?;
            if beneath.take(&path, &to).map_err(fail)? {
                aside.push((path, to));
            }
        }
    }
    Ok(aside)
}

/// Keeps a result: blobs first, the record last.
fn keep(
    run: &Run<'_>,
    task: &Task,
    prepared: &Prepared,
    (finished, levels, flaky): (&Finished, Levels, bool),
    collected: &Collected,
    entries: &Entries,
) -> Result<(), CacheError> {
    for (path, entry) in entries {
        if let Entry::File { digest, .. } = entry {
            let absolute = run.workspace.files.absolute(path);
            run.cache.put_blob(digest, Content::File(&absolute))?;
        }
    }
    for listing in &collected.listings {
        run.cache.put_blob(&Digest::of(listing), Content::Bytes(listing))?;
    }
    let result = ActionResult {
        exit_code: 0,
        outputs: collected.outputs.clone(),
        log: put_log(run, &finished.log)?,
    };
    let finished_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let execution = Execution {
        duration_ms: millis(finished.duration),
        finished_at_ms: millis(finished_at),
        sandbox_asked: levels.asked,
        sandbox_obtained: levels.obtained,
        tools: task.tools.iter().map(|tool| tool.name.clone()).collect(),
        netbuild_version: env!("CARGO_PKG_VERSION").to_owned(),
        flaky,
        drift_checked: true,
        bound_to: collected.bound.then_some(run.workspace.id),
        local: task.cache == CachePolicy::Local || levels.obtained < run.publish_from,
    };
    if collected.bound {
        let place = run.workspace.root.display();
        tracing::info!(task = %task.name, "an output contains `{place}`: its result stays here");
    }
    run.cache.put_record(NewRecord { key: prepared.key, result, execution })
}

/// What a command printed when it ran, both streams as they came. A log that cannot be read is no
/// reason to do without the outputs.
fn replay(run: &Run<'_>, log: Option<Digest>) -> Vec<u8> {
    let Some(digest) = log.filter(|digest| digest.size <= MAX_LOG_BLOB) else { return Vec::new() };
    let mut bytes = Vec::new();
    let whole = match run.cache.open(&digest) {
        Ok(Some(mut reader)) => reader.read_to_end(&mut bytes).is_ok(),
        _ => false,
    };
    let frames = if whole { log::frames(&bytes).unwrap_or_default() } else { Vec::new() };
    frames.iter().flat_map(|frame| frame.bytes).copied().collect()
}

fn put_log(run: &Run<'_>, log: &Log) -> Result<Option<Digest>, CacheError> {
    if log.is_empty() {
        return Ok(None);
    }
    let digest = Digest::of(log.as_bytes());
    run.cache.put_blob(&digest, Content::Bytes(log.as_bytes()))?;
    Ok(Some(digest))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The source of a hit, for the summary.
pub(crate) fn source_of(ended: &Ended) -> Option<(Source, u64)> {
    match ended {
        Ended::UpToDate => Some((Source::Disk, 0)),
        Ended::Hit { source, bytes } => Some((source.clone(), *bytes)),
        _ => None,
    }
}
