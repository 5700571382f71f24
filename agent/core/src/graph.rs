//! The graph of tasks that `graph.json` describes, loaded and checked as a whole.
//!
//! [`load`] reports every problem of a file at once, each with its place. A [`Graph`] that it
//! returns has no cycle, every dependency in it exists, no path in it leaves the workspace, and no
//! two tasks claim the same output, as far as that can be said without looking at a disk.

mod claims;
mod code;
mod cycle;
mod document;
mod edit;
mod fields;
mod file;
mod format;
mod interactive;
mod missing_edge;
mod outputs;
mod overlap;
mod paths;
mod patterns;
mod problem;
mod propose;
mod read;
mod report;
mod resolve;
mod service;
mod suggest;
mod task;
mod values;
mod write;

pub(crate) use cycle::cycles;
pub use edit::add;
pub use format::format;
pub use problem::{Problem, Problems, Severity};
pub use propose::{Doings, Proposal, propose};
pub use task::{
    CachePolicy, Dependency, DependencyKind, InputPattern, LogPolicy, PlatformFilter, PlatformKey,
    Pool, PoolId, Readiness, Retry, RetryOn, SandboxWish, Service, Task, TaskId, ToolSource,
    ToolSpec,
};

pub(crate) use suggest::did_you_mean;

use file::File;
use report::Report;
use std::collections::HashMap;

/// The JSON Schema (2020-12) of graph files, for editors. It accepts what [`load`] accepts, and of
/// what [`load`] refuses as much as a schema can.
pub const SCHEMA: &str = include_str!("graph/schema.json");

/// A checked graph.
#[derive(Clone, Debug)]
pub struct Graph {
    tasks: Vec<Task>,
    by_name: HashMap<String, TaskId>,
    default_targets: Vec<TaskId>,
    namespace: Option<String>,
    salt: Option<String>,
    max_parallel: Option<u32>,
    pools: Vec<Pool>,
    warnings: Vec<Problem>,
}

/// What an importer makes a graph of.
pub(crate) struct Parts {
    pub(crate) tasks: Vec<Task>,
    pub(crate) default_targets: Vec<TaskId>,
    pub(crate) pools: Vec<Pool>,
    /// Further names of tasks.
    pub(crate) aliases: Vec<(String, TaskId)>,
}

/// A name that is not the name of a task.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there is no task `{name}`")]
pub struct UnknownTask {
    /// The name as it was given.
    pub name: String,
    /// The nearest name that exists.
    pub suggestion: Option<String>,
}

/// Loads and checks a graph file: JSON, comments and trailing commas allowed.
///
/// # Errors
///
/// All problems of the file, warnings among them, when at least one of them is an error.
pub fn load(bytes: &[u8]) -> Result<Graph, Problems> {
    let mut report = Report::default();
    let text = document::text(bytes, &mut report);
    // What follows a byte that is not text is unknown, so a partial text is not worth parsing.
    let is_whole = !report.has_errors();
    let mut root = if is_whole { document::parse(text, &mut report) } else { None };
    let texts = root.as_mut().map(document::take_texts).unwrap_or_default();
    let graph = root.map(|mut root| {
        document::lend(&mut root, &texts);
        let file = File::read(root, &mut report);
        resolve::resolve(&file, &mut report)
    });
    let sound = graph.filter(|_| !report.has_errors());
    let parse_again = |text| document::parse(text, &mut Report::default()).filter(|_| is_whole);
    let (found, omitted) = report.finish(text, parse_again);
    match sound {
        Some(graph) => Ok(Graph { warnings: found, ..graph }),
        None => Err(Problems { found, omitted }),
    }
}

impl Graph {
    /// A graph of an importer, which has checked it.
    pub(crate) fn of(parts: Parts) -> Self {
        let Parts { tasks, default_targets, pools, aliases } = parts;
        let named = (0..).map(TaskId).zip(&tasks).map(|(id, task)| (task.name.clone(), id));
        let by_name = aliases.into_iter().chain(named).collect();
        Self {
            tasks,
            by_name,
            default_targets,
            namespace: None,
            salt: None,
            max_parallel: None,
            pools,
            warnings: Vec::new(),
        }
    }

    /// The tasks in the order of the file; a [`TaskId`] is an index into them.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// The tasks with their ids, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = (TaskId, &Task)> {
        (0..).map(TaskId).zip(&self.tasks)
    }

    /// What runs when no task is named: `default`, or else every task that nothing depends on.
    pub fn default_targets(&self) -> &[TaskId] {
        &self.default_targets
    }

    /// Separate key space of this graph (`cache.namespace`).
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// Disowns every earlier result of this graph when changed (`cache.salt`).
    pub fn salt(&self) -> Option<&str> {
        self.salt.as_deref()
    }

    /// Most tasks that the file lets run at once.
    pub fn max_parallel(&self) -> Option<u32> {
        self.max_parallel
    }

    /// The limits that tasks share; a [`PoolId`] is an index into them.
    pub fn pools(&self) -> &[Pool] {
        &self.pools
    }

    /// What a person should look at although the graph can run, in the order of the file.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// The task of a name.
    pub fn find(&self, name: &str) -> Result<TaskId, UnknownTask> {
        self.by_name.get(name).copied().ok_or_else(|| UnknownTask {
            name: name.to_owned(),
            suggestion: suggest::nearest(name, self.tasks.iter().map(|task| &*task.name))
                .map(str::to_owned),
        })
    }

    /// `targets` and all that they need, each once, dependencies first.
    pub fn closure(&self, targets: &[TaskId]) -> Vec<TaskId> {
        let mut order = Vec::new();
        let mut seen = vec![false; self.tasks.len()];
        for &target in targets {
            let mut walk = Vec::new();
            if !std::mem::replace(&mut seen[target.index()], true) {
                walk.push((target, 0));
            }
            while let Some((task, next)) = walk.last_mut() {
                match self[*task].deps.get(*next) {
                    None => {
                        order.push(*task);
                        walk.pop();
                    }
                    Some(dep) => {
                        *next += 1;
                        if !std::mem::replace(&mut seen[dep.task.index()], true) {
                            walk.push((dep.task, 0));
                        }
                    }
                }
            }
        }
        order
    }
}

impl std::ops::Index<TaskId> for Graph {
    type Output = Task;

    fn index(&self, id: TaskId) -> &Task {
        &self.tasks[id.index()]
    }
}
