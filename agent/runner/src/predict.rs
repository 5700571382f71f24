//! What a run would do, found out without changing anything.

use crate::{
    run::{Options, Run},
    task::{self, Standing},
    terminal,
    workspace::WorkspaceError,
};
use netbuild_core::{
    cache::{Cache, CacheError, Content, FetchedAll, Hit, NewRecord},
    digest::Digest,
    graph::{DependencyKind, TaskId},
    key::ActionKey,
    moved::Watch,
};
use std::{
    collections::{HashMap, HashSet},
    io::Read,
    sync::Arc,
};

/// What a run would do with a task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Prediction {
    /// Nothing: its outputs stand.
    UpToDate,
    /// Restore its result if a cache has it, and else run it; why.
    Stale(String),
    /// Run it, as it is never cached.
    Runs,
    /// That depends on what this task will make.
    DependsOn(TaskId),
    /// Skip it, for this reason.
    Skipped(String),
    /// Fail, for this reason, unless what runs before changes that.
    Fails(String),
}

/// Says what a run with these options would do with each task that has a command, dependencies
/// first. The disk is left as it is, the cache is not asked, and of commands only those run that tell the
/// version of a tool.
///
/// # Errors
/// When the workspace cannot be read.
pub fn predict(options: Options<'_>) -> Result<Vec<(TaskId, Prediction)>, WorkspaceError> {
    let (observer, cancel) = (crate::event::Nobody, crate::process::Cancel::default());
    let order = options.graph.closure(&options.targets);
    let targets = options.targets.clone();
    let run = Run::new(options, &NoCache, &observer, &cancel)?;
    let mut predictions = Vec::new();
    let mut of = HashMap::new();
    for id in order {
        let task = &run.graph[id];
        let prediction = predict_one(&run, id, &of);
        if task.command.is_some() {
            predictions.push((id, prediction.clone()));
        }
        of.insert(id, prediction);
    }
    for (id, prediction) in &mut predictions {
        if run.graph[*id].service.is_some() && *prediction == Prediction::Runs {
            *prediction = of_service(&run, &targets, *id, &of);
        }
    }
    Ok(predictions)
}

/// A service runs when it was asked for by name, or something that runs needs it.
fn of_service(
    run: &Run<'_>,
    targets: &[TaskId],
    service: TaskId,
    of: &HashMap<TaskId, Prediction>,
) -> Prediction {
    let mut prediction = Prediction::Skipped("nothing that would run needs it".into());
    if targets.contains(&service) {
        return Prediction::Runs;
    }
    let (mut pending, mut seen) = (vec![service], HashSet::from([service]));
    while let Some(needed) = pending.pop() {
        for (id, task) in run.graph.iter().filter(|(id, _)| of.contains_key(id)) {
            if !task.deps.iter().any(|dep| dep.task == needed) || !seen.insert(id) {
                continue;
            }
            match &of[&id] {
                _ if task.command.is_none() => pending.push(id),
                _ if task.service.is_some() => {
                    if targets.contains(&id) {
                        return Prediction::Runs;
                    }
                    pending.push(id);
                }
                Prediction::Runs => return Prediction::Runs,
                Prediction::Stale(_) => prediction = Prediction::DependsOn(id),
                Prediction::DependsOn(cause) => prediction = Prediction::DependsOn(*cause),
                Prediction::UpToDate | Prediction::Skipped(_) | Prediction::Fails(_) => {}
            }
        }
    }
    prediction
}

fn predict_one(run: &Run<'_>, id: TaskId, of: &HashMap<TaskId, Prediction>) -> Prediction {
    let task = &run.graph[id];
    if !task.runs_on(std::env::consts::OS, std::env::consts::ARCH) {
        return Prediction::Skipped(format!("not for {}", std::env::consts::OS));
    }
    let mut changes = None;
    for dep in task.deps.iter().filter(|dep| dep.kind == DependencyKind::Data) {
        match of.get(&dep.task) {
            Some(Prediction::Skipped(_)) => {
                let cause = &run.graph[dep.task].name;
                return Prediction::Skipped(format!("it needs `{cause}`"));
            }
            Some(Prediction::DependsOn(cause)) => changes = changes.or(Some(*cause)),
            Some(Prediction::UpToDate) | None => {}
            Some(_) => changes = changes.or(Some(dep.task)),
        }
    }
    let Some(argv) = &task.command else {
        let entries = run.passed_on(id);
        run.pass_on(id, Arc::new(entries));
        return changes.map_or(Prediction::UpToDate, Prediction::DependsOn);
    };
    if task.interactive
        && let Err(error) = terminal::check()
    {
        return Prediction::Fails(error.to_string());
    }
    if !task.is_cacheable() {
        return Prediction::Runs;
    }
    if let Some(cause) = changes {
        return Prediction::DependsOn(cause);
    }
    match task::standing(run, id, task, argv) {
        Ok(Standing::UpToDate(entries)) => {
            run.pass_on(id, entries);
            Prediction::UpToDate
        }
        Ok(Standing::Stale(why)) => Prediction::Stale(why.to_owned()),
        Err(error) => Prediction::Fails(error.to_string()),
    }
}

/// The cache of who must not use one.
#[derive(Debug)]
pub(crate) struct NoCache;

impl NoCache {
    fn refuse<T>() -> Result<T, CacheError> {
        Err(CacheError::Unreachable("no cache is asked".into()))
    }
}

impl Cache for NoCache {
    fn lookup(&self, _: &ActionKey, _: &dyn Watch) -> Result<Option<Hit>, CacheError> {
        Self::refuse()
    }

    fn fetch_all(&self, _: &[Digest], _: &dyn Watch) -> Result<FetchedAll, CacheError> {
        Self::refuse()
    }

    fn open(&self, _: &Digest) -> Result<Option<Box<dyn Read + Send>>, CacheError> {
        Self::refuse()
    }

    fn put_blob(&self, _: &Digest, _: Content<'_>) -> Result<(), CacheError> {
        Self::refuse()
    }

    fn put_record(&self, _: NewRecord) -> Result<(), CacheError> {
        Self::refuse()
    }

    fn flush(&self) -> Result<(), CacheError> {
        Self::refuse()
    }
}
