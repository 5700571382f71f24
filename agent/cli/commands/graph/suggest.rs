//! `netbuild graph suggest`: runs tasks while they are watched, and proposes what they should declare.

use super::{print, replace};
use crate::{
    args::SuggestArgs,
    commands::run::{executable, stopping},
    diff,
    errors::{CliError, EXIT_FAILED},
    graph_file,
    progress::{Detail, Progress},
    settings,
};
use netbuild_core::{
    digest::Hash,
    graph::{self, Doings, Graph, TaskId},
    record::Sandbox,
};
use netbuild_node::config::Flags;
use netbuild_runner::{Event, Link, Memory, NO_CACHE, Observation, Observer, Options, standing};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Mutex, PoisonError},
};

pub(crate) fn suggest(args: &SuggestArgs) -> Result<ExitCode, CliError> {
    let file = &args.graph.graph;
    let not_editable = || {
        let message = format!("`{}` cannot be edited", file.display());
        CliError::wrong(message).hint("`netbuild graph import` makes a graph.json of other files")
    };
    if !graph_file::is_graph_json(file) {
        return Err(not_editable());
    }
    let text = String::from_utf8(graph_file::read(file)?).map_err(CliError::usage)?;
    let memory = Memory::recall(&graph_file::root_of(&args.graph)?);
    let loaded = graph_file::load(&args.graph)?;
    let graph = &loaded.graph;
    let targets = graph_file::targets(graph, &args.tasks)?;
    let jobs = args.jobs.map(|jobs| jobs as usize);
    let settings = settings(&Flags { jobs, ..Flags::default() })?;
    let limit = graph.max_parallel().map_or(usize::MAX, |most| most as usize);
    let with_command = |id: &&TaskId| graph[**id].command.is_some();
    let commands = graph.closure(&targets).iter().filter(with_command).count();
    let watching =
        Watching { progress: Progress::new(Detail::Quiet, commands), seen: Mutex::default() };
    let id = || -> Hash { NO_CACHE };
    let options = Options {
        root: loaded.root.clone(),
        memory,
        graph,
        targets,
        jobs: settings.jobs.get().min(limit),
        keep_going: true,
        caller: std::env::vars_os().collect(),
        executable: executable()?,
        strict: false,
        observe: true,
        owns_stdout: true,
        prefers_cache: false,
        is_last: true,
        publish_from: Sandbox::Env,
        accept_from: Sandbox::Loose,
        link: Link::Copy,
        cache_id: &id,
        asked: None,
    };
    let (summary, signal) = stopping(|cancel| {
        netbuild_runner::observe(options, &watching, cancel).map_err(Into::into)
    })?;
    if let Some(signal) = signal {
        return Ok(ExitCode::from(128 + signal as u8));
    }
    let seen = watching.seen.into_inner().unwrap_or_else(PoisonError::into_inner);
    watching.progress.finish(&summary, &[], std::time::Duration::ZERO);
    let proposals = propose(graph, &loaded.root, &seen)?;
    let additions = proposals.iter().filter(|(_, proposal)| !proposal.is_empty());
    let additions = additions.map(|(id, proposal)| (graph[*id].name.as_str(), proposal));
    let (edited, not_found) = graph::add(&text, additions).ok_or_else(not_editable)?;
    for name in not_found {
        tracing::warn!("task `{name}` does not stand in the file under this name");
    }
    print(&diff::unified(&file.display().to_string(), &text, &edited));
    if args.write && edited != text {
        if let Err(problems) = graph::load(edited.as_bytes()) {
            return Err(CliError::graph(file, &problems)
                .hint("the file was left as it is; mend what is proposed by hand"));
        }
        replace(file, &edited)?;
    }
    Ok(match summary.is_success() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(EXIT_FAILED),
    })
}

fn propose(
    graph: &Graph,
    root: &Path,
    seen: &BTreeMap<String, Observation>,
) -> Result<BTreeMap<TaskId, graph::Proposal>, CliError> {
    let standing =
        standing(root).map_err(|error| CliError::io("list the files of", root, &error))?;
    let programs = Programs::in_path();
    let mut doings = BTreeMap::new();
    for (name, observation) in seen {
        let Ok(id) = graph.find(name) else { continue };
        for why in &observation.unseen {
            tracing::warn!("{name}: {why}");
        }
        for path in &observation.outside {
            tracing::warn!("{name}: it uses `{path}`, outside of the workspace");
        }
        let names = observation.programs.iter().filter_map(|path| programs.name(path));
        let did = Doings {
            read: observation.read.clone(),
            written: observation.written.clone(),
            programs: names.collect(),
            partly: !observation.unseen.is_empty(),
        };
        doings.insert(id, did);
    }
    let proposals = graph::propose(graph, &doings, &standing);
    for (id, proposal) in &proposals {
        for note in &proposal.notes {
            tracing::warn!("{}: {note}", graph[*id].name);
        }
    }
    Ok(proposals)
}

/// The names of programs in `PATH` by what they lead to, the shortest of each.
struct Programs(BTreeMap<PathBuf, String>);

impl Programs {
    fn in_path() -> Self {
        let mut names: BTreeMap<PathBuf, String> = BTreeMap::new();
        let path = std::env::var_os("PATH").unwrap_or_default();
        for directory in std::env::split_paths(&path) {
            for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
                let Ok(name) = entry.file_name().into_string() else { continue };
                let Ok(real) = entry.path().canonicalize() else { continue };
                let better = |known: &String| (name.len(), &name) < (known.len(), known);
                if names.get(&real).is_none_or(better) {
                    names.insert(real, name);
                }
            }
        }
        Self(names)
    }

    fn name(&self, path: &str) -> Option<String> {
        self.0.get(Path::new(path)).cloned()
    }
}

/// Shows a run, and keeps what was observed.
#[derive(Debug)]
struct Watching {
    progress: Progress,
    seen: Mutex<BTreeMap<String, Observation>>,
}

impl Observer for Watching {
    fn event(&self, event: Event<'_>) {
        if let Event::Observed { task, observation } = event {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.insert(task.to_owned(), observation);
        } else {
            self.progress.event(event);
        }
    }
}
