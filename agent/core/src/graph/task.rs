//! What a task of a checked graph says: the values that the runner works with.
//!
//! Everything is resolved: defaults are merged, groups expanded, paths normalised and relative to
//! the workspace, shells turned into argument lists.

use crate::{glob::Glob, key::OutputDeclaration, record::Sandbox};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// A task of one [`Graph`](super::Graph): its place in the order of the file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TaskId(pub(crate) u32);

impl TaskId {
    /// The task at a place.
    pub(crate) fn at(place: u32) -> Self {
        Self(place)
    }

    /// Its place among the tasks of its graph, from 0.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What one task waits for another for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DependencyKind {
    /// Its outputs are inputs of the dependent, and so part of its key.
    Data,
    /// Only the order of the two counts.
    Order,
}

/// An edge of the graph.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dependency {
    /// The task that comes first.
    pub task: TaskId,
    /// What it is waited for.
    pub kind: DependencyKind,
}

/// One entry of `inputs`.
#[derive(Clone, Debug)]
pub struct InputPattern {
    /// What it matches, relative to the workspace; a directory `dir/` stands as `dir/**`.
    pub glob: Arc<Glob>,
    /// Whether it removes what earlier patterns selected (`!pattern`).
    pub negated: bool,
}

impl InputPattern {
    /// Whether `patterns`, in their order, select `path`: the last one that matches decides.
    pub fn select(patterns: &[Self], path: &[u8]) -> bool {
        patterns
            .iter()
            .rev()
            .find(|pattern| pattern.glob.matches(path))
            .is_some_and(|pattern| !pattern.negated)
    }
}

/// How the digest of a tool is to be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ToolSource {
    /// Hash the executable: a bare name is looked up in `PATH`, anything else is a path, relative
    /// to the workspace unless it starts with `/`.
    Path(String),
    /// Hash what this argument list prints.
    Version(Vec<String>),
    /// Hash this text.
    Value(String),
}

impl ToolSource {
    /// The program that it stands for, if it names one.
    pub fn program(&self) -> Option<&str> {
        match self {
            Self::Path(path) => Some(path),
            Self::Version(argv) => argv.first().map(String::as_str),
            Self::Value(_) => None,
        }
    }
}

/// A tool that is part of the key of a task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ToolSpec {
    /// The name in the task's `tools`, unique there.
    pub name: String,
    /// Where its digest comes from.
    pub source: ToolSource,
}

/// What of a platform a result depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PlatformKey {
    /// Operating system and processor architecture.
    #[default]
    OsArch,
    /// These and the C library.
    OsArchLibc,
    /// Nothing: the result is good everywhere.
    Any,
}

/// One entry of `platforms`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlatformFilter {
    /// Operating system, as `std::env::consts::OS` says it.
    pub os: &'static str,
    /// Processor architecture, as `std::env::consts::ARCH` says it; `None` takes all.
    pub arch: Option<&'static str>,
}

/// What the cache may do for a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CachePolicy {
    /// Look up and store, here and in the mesh.
    #[default]
    Full,
    /// Neither look up nor store.
    Off,
    /// Look up and store, but tell nobody.
    Local,
    /// Look up, never store.
    ReadOnly,
    /// Look up and store, but no result that lacks an optional output.
    Complete,
}

/// How much of a task's log is shown; it is always stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogPolicy {
    /// All of it.
    #[default]
    Full,
    /// Only when the task failed.
    Errors,
    /// Nothing.
    None,
}

/// Which ends of an attempt are worth another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetryOn {
    /// A non-zero exit code.
    pub exit: bool,
    /// The timeout.
    pub timeout: bool,
    /// A signal that netbuild did not send.
    pub signal: bool,
}

/// How often a failed task is tried again, and when.
#[derive(Clone, PartialEq, Debug)]
pub struct Retry {
    /// Attempts in all, at least 1.
    pub max_attempts: u32,
    /// Pause before the second attempt.
    pub initial_delay: Duration,
    /// Longest pause.
    pub max_delay: Duration,
    /// Factor from one pause to the next, finite and at least 1.
    pub backoff_multiplier: f64,
    /// What is retried.
    pub on: RetryOn,
}

impl Retry {
    /// The pause after `failed` attempts have failed, or `None` when none is left.
    pub fn delay_after(&self, failed: u32) -> Option<Duration> {
        if failed >= self.max_attempts {
            return None;
        }
        let exponent = i32::try_from(failed.saturating_sub(1)).unwrap_or(i32::MAX);
        let factor = self.backoff_multiplier.powi(exponent);
        let longest = self.max_delay.as_secs_f64();
        // `min` also takes an overflow to infinity back to the longest pause.
        let seconds = (self.initial_delay.as_secs_f64() * factor).min(longest);
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(self.max_delay))
    }
}

impl Default for Retry {
    /// One attempt.
    fn default() -> Self {
        Self {
            max_attempts: 1,
            initial_delay: Duration::ZERO,
            max_delay: Duration::from_secs(60),
            backoff_multiplier: 2.0,
            on: RetryOn { exit: true, timeout: true, signal: true },
        }
    }
}

/// A pool of a graph: its place in [`Graph::pools`](super::Graph::pools).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PoolId(pub(crate) u32);

impl PoolId {
    /// The pool at a place.
    pub(crate) fn at(place: u32) -> Self {
        Self(place)
    }

    /// Its place among the pools of its graph, from 0.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A limit that some tasks share.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pool {
    /// Its name in `pools`.
    pub name: String,
    /// Slots: most weight of its tasks that run at once, at least 1.
    pub depth: u32,
}

/// When a service has started.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Readiness {
    /// As soon as its process runs.
    Started,
    /// When a line that it prints contains this text.
    Line(String),
    /// When this TCP port of the loopback address accepts connections.
    Port(u16),
    /// When this command succeeds; it is tried again until then.
    Command(Vec<String>),
}

/// How a task that stays is waited for (`persistent`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// When what depends on it may start.
    pub ready_when: Readiness,
    /// Longest time until it is ready.
    pub timeout: Duration,
}

/// The level of hermeticity that a task asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SandboxWish {
    /// The level.
    pub level: Sandbox,
    /// Whether a lower one will do where the system does not have it; else the task fails there.
    pub fallback: bool,
}

/// One entry of the graph, checked.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its name, unique in the graph.
    pub name: String,
    /// The argument list to execute, the shell included; `None` for a task that only groups others.
    pub command: Option<Vec<String>>,
    /// What it waits for, each task once, in the order of the file.
    pub deps: Vec<Dependency>,
    /// Declared inputs in the order in which they apply; `None` when undeclared.
    pub inputs: Option<Vec<InputPattern>>,
    /// Declared outputs, relative to the workspace; `None` when undeclared. A whole directory has
    /// its path without a `/` at the end.
    pub outputs: Option<Vec<OutputDeclaration>>,
    /// Where the command runs: `/`-separated, relative to the workspace, `.` for its root.
    pub working_dir: String,
    /// Variables that are set.
    pub env: BTreeMap<String, String>,
    /// Variables that are taken from the caller: names, or prefixes as `PREFIX_*`.
    pub pass_env: BTreeSet<String>,
    /// Variables that are taken from the caller and whose values are neither keyed nor shown.
    pub secret_env: BTreeSet<String>,
    /// Tools that are part of the key, each name once.
    pub tools: Vec<ToolSpec>,
    /// Where the task runs; empty for everywhere.
    pub platforms: Vec<PlatformFilter>,
    /// What of the platform is part of the key.
    pub platform_key: PlatformKey,
    /// What the cache may do.
    pub cache: CachePolicy,
    /// Whether declared outputs are removed before the command runs.
    pub clean: bool,
    /// Longest time that one attempt may take.
    pub timeout: Option<Duration>,
    /// What happens after a failure.
    pub retry: Retry,
    /// Disowns every earlier result of this task when changed.
    pub key_salt: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// How much of the log is shown.
    pub log: LogPolicy,
    /// Breaks ties between tasks of equally long critical paths; higher goes first.
    pub priority: i32,
    /// The limit that it shares with others, beside the number of jobs.
    pub pool: Option<PoolId>,
    /// Slots that it takes of the jobs and of its pool, at least 1; more than there are counts as all.
    pub weight: u32,
    /// It stays until nothing needs it any more; it has no outputs and is not cached, and only its
    /// order counts for what depends on it.
    pub service: Option<Service>,
    /// It needs the terminal.
    pub interactive: bool,
    /// A file in which its command names further inputs, as `gcc -MD` writes it; relative to the
    /// workspace.
    pub dep_file: Option<String>,
    /// How closed its environment is.
    pub sandbox: SandboxWish,
    /// Whether it may use the network; `None` leaves it to the level. Obeyed where the level can.
    pub network: Option<bool>,
}

impl Default for Task {
    /// A task that does nothing, with what every field means when it is left out.
    fn default() -> Self {
        Self {
            name: String::new(),
            command: None,
            deps: Vec::new(),
            inputs: None,
            outputs: None,
            working_dir: ".".to_owned(),
            env: BTreeMap::new(),
            pass_env: BTreeSet::new(),
            secret_env: BTreeSet::new(),
            tools: Vec::new(),
            platforms: Vec::new(),
            platform_key: PlatformKey::default(),
            cache: CachePolicy::default(),
            clean: true,
            timeout: None,
            retry: Retry::default(),
            key_salt: None,
            description: None,
            log: LogPolicy::default(),
            priority: 0,
            pool: None,
            weight: 1,
            service: None,
            interactive: false,
            dep_file: None,
            sandbox: SandboxWish::default(),
            network: None,
        }
    }
}

impl Task {
    /// Whether it runs on an operating system and architecture, named as `std::env::consts` does.
    pub fn runs_on(&self, os: &str, arch: &str) -> bool {
        self.platforms.is_empty()
            || self
                .platforms
                .iter()
                .any(|p| p.os == os && p.arch.is_none_or(|wanted| wanted == arch))
    }

    /// Whether its result may come from the cache. A task that declares neither inputs nor outputs
    /// says nothing of what it does, and always runs.
    pub fn is_cacheable(&self) -> bool {
        self.command.is_some()
            && (self.inputs.is_some() || self.outputs.is_some())
            && self.cache != CachePolicy::Off
            && self.service.is_none()
            && !self.interactive
    }
}
