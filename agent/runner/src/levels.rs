//! Which levels of hermeticity this system has: each is tried with a command that does nothing.

use crate::{
    event::{Ended, Event, Observer},
    predict::NoCache,
    process::Cancel,
    run::{Options, Run, execute},
    sharing::Link,
    supervisor::landlock_version,
    task::NO_CACHE,
    workspace::Memory,
};
use netbuild_core::{digest::Hash, graph, record::Sandbox, schedule::OnFailure};
use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LevelsHere {
    /// Levels that not every system has, and why one cannot be had.
    pub tried: Vec<(Sandbox, Option<String>)>,
    /// The version of Landlock that the kernel has; 0 for none.
    pub landlock: u32,
}

/// The others are there wherever a command can run.
const TRIED: [Sandbox; 4] = [Sandbox::Audit, Sandbox::Stage, Sandbox::Landlock, Sandbox::Ns];

/// Tries the levels, in a workspace of its own among the temporary files. `executable` becomes the spawner.
///
/// # Errors
/// When no workspace can be made there.
pub fn levels_here(executable: PathBuf, cancel: &Cancel) -> io::Result<LevelsHere> {
    let place = Place::make()?;
    let task = |level: &Sandbox| {
        let name = level.as_str();
        format!("\"{name}\": {{\"command\": [\"true\"], \"sandbox\": \"{name}\"}}")
    };
    let tasks: Vec<_> = TRIED.iter().map(task).collect();
    let text = format!("{{\"tasks\": {{{}}}}}", tasks.join(", "));
    let graph =
        graph::load(text.as_bytes()).map_err(|problems| io::Error::other(problems.to_string()))?;
    let failures = Failures::default();
    let id = || -> Hash { NO_CACHE };
    let options = Options {
        root: place.0.clone(),
        memory: Memory::recall(&place.0),
        targets: graph.iter().map(|(id, _)| id).collect(),
        graph: &graph,
        jobs: 1,
        keep_going: true,
        link: Link::Copy,
        caller: std::env::vars_os().collect(),
        executable,
        strict: false,
        observe: false,
        publish_from: Sandbox::Env,
        accept_from: Sandbox::Loose,
        owns_stdout: false,
        prefers_cache: false,
        is_last: false,
        cache_id: &id,
        asked: None,
    };
    let run = Run::new(options, &NoCache, &failures, cancel).map_err(io::Error::other)?;
    execute(&run, OnFailure::KeepGoing);
    let failures = failures.0.lock().unwrap_or_else(PoisonError::into_inner);
    let why = |level: Sandbox| {
        let failed = failures.get(level.as_str())?;
        Some(run.unavailable(level).unwrap_or_else(|| failed.clone()))
    };
    let tried = TRIED.iter().map(|level| (*level, why(*level))).collect();
    Ok(LevelsHere { tried, landlock: landlock_version() })
}

/// What failed, and how.
#[derive(Debug, Default)]
struct Failures(Mutex<BTreeMap<String, String>>);

impl Observer for Failures {
    fn event(&self, event: Event<'_>) {
        if let Event::Finished { task, ended: Ended::Failed(why) | Ended::Skipped(why), .. } = event
        {
            let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            failures.insert(task.to_owned(), why);
        }
    }
}

/// A directory that nobody else has, and that is removed in the end.
struct Place(PathBuf);

impl Place {
    fn make() -> io::Result<Self> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let name = format!("netbuild-levels-{}-{}", std::process::id(), now.as_nanos());
        let path = std::env::temp_dir().join(name);
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What is left there harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_fails_says_why_and_the_others_are_tried() {
        // Without a program that can become the spawner no command runs.
        let found = levels_here("/nonexistent/netbuild".into(), &Cancel::default()).unwrap();
        let levels: Vec<_> = found.tried.iter().map(|(level, _)| *level).collect();
        assert_eq!(levels, TRIED);
        assert!(found.tried.iter().all(|(_, why)| why.is_some()), "{found:?}");
    }
}
