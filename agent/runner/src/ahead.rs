//! Looking ahead: which results a run will want, found out from records alone, so that all that is
//! not on this disk comes at once.
//!
//! The key of a task needs the digests of what the tasks before it leave, and not their bytes;
//! their records have these. A run that waited for the bytes of each task before it looked up the
//! next would pay the round trips of a far cache once for each level of the graph.
//!
//! Nothing depends on this: what is found wrong here is found rightly when the task has its turn.

use crate::{
    event::Event,
    restore::{self, RestoreError},
    run::{Entries, Run},
    task::{self, Expected},
};
use netbuild_core::{
    digest::Digest,
    graph::{DependencyKind, TaskId},
    key::ActionKey,
    moved::{Progress, Watch},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::Scope,
};

/// Results that are brought at once: the first come while later ones are still found out.
const BATCH: usize = 1024;
/// Most batches under way: with as many, the walk waits for one to end.
const MOST_BATCHES: usize = 8;

/// Whether it is time to look ahead.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    /// How many are under way.
    batches: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Phase {
    /// All that was looked up was on this disk.
    #[default]
    Near,
    /// Something is not.
    Far,
    Over,
}

impl Ahead {
    /// A result that is known is not on this disk.
    pub(crate) fn handle_far(&self) {
        let mut state = self.state();
        if state.phase == Phase::Near {
            state.phase = Phase::Far;
            self.changed.notify_all();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while something holds; `false` when the run is over by then.
    fn wait_while(&self, holds: impl Fn(&State) -> bool) -> bool {
        let waited = self
            .changed
            .wait_while(self.state(), |state| state.phase != Phase::Over && holds(state));
        waited.unwrap_or_else(PoisonError::into_inner).phase != Phase::Over
    }
}

/// Ends the looking ahead when it is dropped: the run has nothing more to do.
#[derive(Debug)]
pub(crate) struct Ending<'a>(pub(crate) &'a Ahead);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.state().phase = Phase::Over;
        self.0.changed.notify_all();
    }
}

/// A batch under way, until it is dropped.
struct Batch<'a>(&'a Ahead);

impl<'a> Batch<'a> {
    fn begin(ahead: &'a Ahead) -> Self {
        ahead.state().batches += 1;
        Self(ahead)
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.0.state().batches -= 1;
        self.0.changed.notify_all();
    }
}

/// Looks ahead once the run lacks something, and brings what it will want.
pub(crate) fn look<'scope>(run: &'scope Run<'_>, scope: &'scope Scope<'scope, '_>) {
    if !run.ahead.wait_while(|state| state.phase == Phase::Near) {
        return;
    }
    let watch = Bringing { run, last: None };
    let mut walk = Walk { run, known: BTreeMap::new(), found: Vec::new() };
    let mut left = run.closure();
    loop {
        let mut later = Vec::new();
        for id in left {
            if watch.is_over() {
                return;
            }
            let left = walk.visit(id);
            if matches!(left, Left::Later(_)) {
                later.push(id);
            }
            walk.known.insert(id, left);
            if walk.found.len() >= BATCH {
                bring(run, scope, std::mem::take(&mut walk.found));
            }
        }
        bring(run, scope, std::mem::take(&mut walk.found));
        // What is in a directory tells its listing, and without that nobody knows the keys of
        // those that read it.
        let listings = walk.listings();
        if listings.is_empty() {
            return;
        }
        match run.cache.fetch_all(&listings, &watch) {
            Ok(brought) if brought.missing.is_empty() => left = later,
            _ => return,
        }
    }
}

/// Brings results, in a thread of its own.
fn bring<'scope>(
    run: &'scope Run<'_>,
    scope: &'scope Scope<'scope, '_>,
    found: Vec<(TaskId, ActionKey)>,
) {
    let Some((last, _)) = found.last() else { return };
    let last = *last;
    if !run.ahead.wait_while(|state| state.batches >= MOST_BATCHES) {
        return;
    }
    let batch = Batch::begin(&run.ahead);
    scope.spawn(move || {
        let _batch = batch;
        let keys: Vec<ActionKey> = found.iter().map(|(_, key)| *key).collect();
        if let Err(error) = run.cache.bring(&keys, &Bringing { run, last: Some(last) }) {
            // Those whose turn it is ask for themselves, and say what is wrong.
            tracing::debug!(%error, "results could not be brought");
        }
    });
}

/// Shows what comes as of the last task that it is for.
struct Bringing<'a> {
    run: &'a Run<'a>,
    last: Option<TaskId>,
}

impl Watch for Bringing<'_> {
    fn moving(&self, progress: &Progress) {
        let Some(last) = self.last.filter(|_| !progress.sources.is_empty()) else { return };
        // Of one that has ended nobody would say when this ends.
        if !self.is_over() && self.run.left_by(last).is_none() {
            self.run.observer.event(Event::Moving { task: &self.run.graph[last].name, progress });
        }
    }

    fn is_over(&self) -> bool {
        self.run.cancel.is_requested() || self.run.ahead.state().phase == Phase::Over
    }
}

/// What a task leaves, as far as records tell.
enum Left {
    Known(Arc<Entries>),
    /// Listings are missing: its own, or one of a task before it.
    Later(Vec<Digest>),
    /// It runs first.
    Unknown,
}

struct Walk<'a, 'r> {
    run: &'a Run<'r>,
    known: BTreeMap<TaskId, Left>,
    /// Results to bring, in the order of the graph.
    found: Vec<(TaskId, ActionKey)>,
}

impl Walk<'_, '_> {
    /// Looks at a task after those that it reads.
    fn visit(&mut self, id: TaskId) -> Left {
        let (run, task) = (self.run, &self.run.graph[id]);
        if let Some(entries) = run.left_by(id) {
            return Left::Known(entries);
        }
        let mut read = Vec::new();
        for dep in task.deps.iter().filter(|dep| dep.kind == DependencyKind::Data) {
            match self.known.get(&dep.task) {
                Some(Left::Known(entries)) => read.push(Arc::clone(entries)),
                Some(Left::Later(_)) => return Left::Later(Vec::new()),
                Some(Left::Unknown) | None => return Left::Unknown,
            }
        }
        let Some(argv) = &task.command else {
            return Left::Known(Arc::new(read.iter().flat_map(|it| it.iter().cloned()).collect()));
        };
        let is_cached = task.is_cacheable()
            && task.service.is_none()
            && task.runs_on(std::env::consts::OS, std::env::consts::ARCH);
        match is_cached.then(|| task::expect(run, id, task, argv, &read)) {
            Some(Some(Expected::UpToDate(entries))) => Left::Known(entries),
            Some(Some(Expected::Record(record))) => {
                let is_second =
                    matches!(self.known.get(&id), Some(Left::Later(own)) if !own.is_empty());
                if !is_second {
                    self.found.push((id, record.key));
                }
                match restore::expand(&record.result.outputs, run.cache) {
                    Ok(entries) => Left::Known(Arc::new(entries)),
                    // One that was fetched and is not there is damaged.
                    Err(RestoreError::Lost(_)) if !is_second => {
                        Left::Later(record.listings().collect())
                    }
                    Err(_) => Left::Unknown,
                }
            }
            _ => Left::Unknown,
        }
    }

    /// All listings that are missing.
    fn listings(&self) -> Vec<Digest> {
        let missing = |left: &Left| match left {
            Left::Later(missing) => missing.clone(),
            Left::Known(_) | Left::Unknown => Vec::new(),
        };
        self.known.values().flat_map(missing).collect()
    }
}
