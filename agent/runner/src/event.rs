//! What happens during a run, for whoever shows it.

use netbuild_core::{cache::Source, graph::LogPolicy, moved::Progress, record::Sandbox};
use std::{fmt, time::Duration};

/// How a task ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ended {
    /// Its outputs stood in the workspace already.
    UpToDate,
    /// Its outputs were restored.
    Hit {
        /// From where.
        source: Source,
        /// Bytes that peers sent for it, as they were sent.
        bytes: u64,
    },
    /// Its command ran and succeeded.
    Executed,
    /// It failed, for this reason.
    Failed(String),
    /// It did not run, for this reason.
    Skipped(String),
}

/// The level of hermeticity of a result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Levels {
    /// What the task asked for.
    pub asked: Sandbox,
    /// What it got.
    pub obtained: Sandbox,
}

/// What a command did with files, for whoever writes declarations: paths are relative to the workspace, sorted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Observation {
    /// What it read that it did not make.
    pub read: Vec<String>,
    /// What it made, changed, moved or removed; directories, too.
    pub written: Vec<String>,
    /// Absolute paths of files that it used outside of the workspace and of the system's directories.
    pub outside: Vec<String>,
    /// Absolute paths of programs that it ran and that are not among its tools.
    pub programs: Vec<String>,
    /// Why it may have done more than this.
    pub unseen: Vec<String>,
}

/// One event.
#[derive(Debug)]
pub enum Event<'a> {
    /// A command is started.
    Started {
        /// The task.
        task: &'a str,
    },
    /// The result of a task is on its way from other agents, so far.
    Moving {
        /// The task.
        task: &'a str,
        /// How far it is.
        progress: &'a Progress,
    },
    /// A task has ended.
    Finished {
        /// The task.
        task: &'a str,
        /// How.
        ended: Ended,
        /// How long it took, from its turn to its end.
        took: Duration,
        /// What its command printed, now or when its result came about, both streams as they came;
        /// empty when its outputs stood there.
        log: Vec<u8>,
        /// How much of the log the graph wants shown.
        log_policy: LogPolicy,
        /// How closed the command ran, now or earlier; `None` where that is not known.
        levels: Option<Levels>,
    },
    /// What the command of a task did, in a run that watches all commands.
    Observed {
        /// The task.
        task: &'a str,
        /// What it did.
        observation: Observation,
    },
    /// From now on a command has the terminal, and nothing is to be shown on it; or it has it no more.
    Terminal {
        /// Whether it has it.
        lent: bool,
    },
    /// Something that a person should know and that fails nothing.
    Warning {
        /// The task, if it is about one.
        task: Option<&'a str>,
        /// What it is.
        message: String,
    },
}

/// Shows nothing.
#[derive(Debug)]
pub(crate) struct Nobody;

impl Observer for Nobody {
    fn event(&self, _: Event<'_>) {}
}

/// Shows events. Called from several threads.
pub trait Observer: Send + Sync + fmt::Debug {
    /// Takes an event.
    fn event(&self, event: Event<'_>);
}
