//! What a run looked at that found nothing to do. While all of it stands, another run that is asked the same finds
//! nothing to do either, and needs neither the graph nor the digests to know that: it looks at as many paths as
//! ninja does.
//!
//! This is a verifying trace of the whole run (Mokhov, Mitchell, Peyton Jones: Build systems à la carte, 2018) with
//! stamps for hashes. A stamp is believed under the same conditions as that of a file whose digest is known.

use crate::{
    environment::Caller,
    looks::{Looks, stands},
    run::Run,
    summary::{Hits, Summary},
    workspace::{DIRECTORY, WorkspaceError},
};
use netbuild_core::{digest::Hash, graph::Task, record::Sandbox};
use netbuild_proto::workspace::{Look, Witness};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::fd::OwnedFd,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// Its name in the workspace's directory of ours.
const FILE: &str = "witness";
/// Fewest paths for which another thread is worth its start.
const SHARE: usize = 1024;
/// Paths after which a thread asks whether another one has found a change.
const STRIDE: usize = 64;

/// What a run is asked, apart from its environment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Question(Hash);

impl Question {
    /// The question for tasks of the graph in this file in the workspace at `root`.
    pub fn new(
        (root, graph): (&Path, &Path),
        tasks: &[String],
        strict: bool,
        accept_from: Sandbox,
        cache_id: Hash,
    ) -> Self {
        let places = [root, graph].map(|path| path.canonicalize().ok());
        let asked = (env!("CARGO_PKG_VERSION"), places, tasks, strict, accept_from, cache_id);
        Self(Hash::of(format!("{asked:?}").as_bytes()))
    }
}

/// What a run is asked whose looks are to be remembered when it has nothing to do.
#[derive(Debug)]
pub struct Asked {
    /// The question.
    pub question: Question,
    /// What was looked at to know the graph.
    pub looks: Looks,
    /// What was said of the graph.
    pub said: Vec<String>,
}

/// What a run would come to that is asked this in the workspace at `root`, and what is to be said of its graph, if it
/// has nothing to do and that is already known. `None` says nothing.
pub fn nothing_to_do(
    root: &Path,
    question: &Question,
    caller: &Caller,
    jobs: usize,
) -> Option<(Summary, Vec<String>)> {
    let began = Instant::now();
    let bytes = fs::read(root.join(DIRECTORY).join(FILE)).ok()?;
    let decoded = Witness::decode(&bytes);
    let witness = decoded.inspect_err(|error| tracing::info!(%error, "looking anew")).ok()?;
    let Witness { question: asked, variables, secret_variables, environment, .. } = &witness;
    let is_asked =
        *asked == question.0.0 && caller.digest(variables, secret_variables).0 == *environment;
    if !is_asked || !all_stand(root, &witness.looks, jobs) {
        return None;
    }
    let tasks = usize::try_from(witness.tasks).ok()?;
    let summary = Summary {
        tasks,
        hits: Hits { disk: tasks, ..Hits::default() },
        elapsed: began.elapsed(),
        saved: Duration::from_millis(witness.saved_ms),
        unchanged: true,
        ..Summary::default()
    };
    Some((summary, witness.said))
}

fn all_stand(root: &Path, looks: &[(Vec<u8>, Look)], jobs: usize) -> bool {
    let Ok(directory) = File::open(root).map(OwnedFd::from) else { return false };
    let changed = AtomicBool::new(false);
    let look = |some: &[(Vec<u8>, Look)]| {
        for some in some.chunks(STRIDE) {
            if changed.load(Ordering::Relaxed) {
                return;
            }
            if !some.iter().all(|(path, was)| stands(&directory, root, path, was)) {
                changed.store(true, Ordering::Relaxed);
            }
        }
    };
    let share = looks.len().div_ceil(jobs.max(1)).max(SHARE);
    std::thread::scope(|scope| {
        let mut shares = looks.chunks(share);
        let own = shares.next().unwrap_or_default();
        for some in shares {
            scope.spawn(|| look(some));
        }
        look(own);
    });
    !changed.into_inner()
}

/// Remembers what a run looked at that found nothing to do.
pub(crate) fn remember(
    run: &Run<'_>,
    question: &Question,
    said: &[String],
    summary: &Summary,
) -> Result<(), WorkspaceError> {
    let workspace = &run.workspace;
    // Without what is remembered of the tasks, they are done again; whoever removes it may want that.
    let state = [DIRECTORY, "/state"].concat();
    let Some(looks) = workspace.files.looks(state.as_bytes()) else { return Ok(()) };
    let closure = run.closure();
    let names = |of: fn(&Task) -> &BTreeSet<String>| -> Vec<String> {
        let names: BTreeSet<_> = closure.iter().flat_map(|id| of(&run.graph[*id])).collect();
        names.into_iter().cloned().collect()
    };
    let (passed, secret) = (names(|task| &task.pass_env), names(|task| &task.secret_env));
    let witness = Witness {
        question: question.0.0,
        environment: run.caller.digest(&passed, &secret).0,
        variables: passed,
        secret_variables: secret,
        said: said.to_vec(),
        tasks: summary.tasks as u64,
        saved_ms: u64::try_from(summary.saved.as_millis()).unwrap_or(u64::MAX),
        looks,
    };
    workspace.replace(FILE, &witness.encode())
}
