//! `netbuild run`.

use crate::{
    args::RunArgs,
    errors::{CliError, EXIT_FAILED},
    progress::{Detail, Progress},
    settings,
};
use netbuild_core::graph::{self, Graph, TaskId, UnknownTask};
use netbuild_node::{Session, config::Flags};
use netbuild_runner::{Cancel, Options, Summary};
use serde_json::json;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::{Handle, Signals},
};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
};

pub(crate) fn run(args: &RunArgs) -> Result<ExitCode, CliError> {
    let jobs = args.jobs.map(|jobs| jobs as usize);
    let settings = settings(&Flags { jobs, ..args.common.flags() })?;
    let graph = load(&args.graph)?;
    let targets = targets(&graph, &args.tasks)?;
    let session = Session::new(&settings.data_dir, &settings.region, &settings.trust)?
        .with_bounds(settings.store);
    let detail = match (args.quiet, args.verbose) {
        (true, _) => Detail::Quiet,
        (_, true) => Detail::Verbose,
        _ => Detail::Normal,
    };
    let commands =
        graph.closure(&targets).iter().filter(|id| graph[**id].command.is_some()).count();
    let progress = Progress::new(detail, commands);
    let cancel = Arc::new(Cancel::default());
    let signals = Stopper::start(Arc::clone(&cancel))?;
    let limit = graph.max_parallel().map_or(usize::MAX, |most| most as usize);
    let options = Options {
        root: root_of(&args.graph),
        graph: &graph,
        targets,
        jobs: settings.jobs.get().min(limit),
        keep_going: args.keep_going,
        caller: std::env::vars_os().collect(),
        executable: std::env::current_exe()
            .map_err(|error| CliError::io("find", Path::new("netbuild"), &error))?,
        cache_id: &|| session.id(),
    };
    let summary = netbuild_runner::run(options, &session, &progress, &cancel)?;
    progress.finish(&summary);
    let signal = signals.stop();
    let json = to_json(&summary);
    if args.json {
        super::print_json(&json);
    }
    if let Some(path) = &args.summary {
        std::fs::write(path, format!("{json}\n"))
            .map_err(|error| CliError::io("write the summary to", path, &error))?;
    }
    Ok(match signal {
        // As a shell says that a signal ended a program.
        Some(signal) => ExitCode::from(128 + signal as u8),
        None if summary.is_success() => ExitCode::SUCCESS,
        None => ExitCode::from(EXIT_FAILED),
    })
}

fn load(path: &Path) -> Result<Graph, CliError> {
    let bytes = std::fs::read(path).map_err(|error| {
        let failed = CliError::io("read the graph", path, &error);
        match error.kind() {
            std::io::ErrorKind::NotFound => {
                failed.hint("run in the directory of a graph.json, or name one with --graph")
            }
            _ => failed,
        }
    })?;
    let graph = graph::load(&bytes).map_err(|problems| CliError::graph(path, &problems))?;
    let name = path.display().to_string();
    for warning in graph.warnings() {
        tracing::warn!("{}", warning.in_file(&name));
    }
    Ok(graph)
}

/// Longest list of task names in an error.
const SHOWN_NAMES: usize = 12;

fn targets(graph: &Graph, names: &[String]) -> Result<Vec<TaskId>, CliError> {
    if names.is_empty() {
        return Ok(graph.default_targets().to_vec());
    }
    names.iter().map(|name| graph.find(name).map_err(|error| unknown(graph, error))).collect()
}

/// Says what there is, when no name is near to the one that was asked for.
fn unknown(graph: &Graph, error: UnknownTask) -> CliError {
    let near = error.suggestion.is_some();
    let error = CliError::from(error);
    if near {
        return error;
    }
    let names: Vec<&str> = graph.tasks().iter().map(|task| task.name.as_str()).collect();
    let shown = names.iter().take(SHOWN_NAMES).copied().collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(SHOWN_NAMES);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    error.hint(format!("the tasks are {shown}{rest}"))
}

/// The directory of the graph file.
fn root_of(graph: &Path) -> PathBuf {
    match graph.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn to_json(summary: &Summary) -> serde_json::Value {
    let result = match (summary.cancelled, summary.is_success()) {
        (true, _) => "cancelled",
        (_, true) => "success",
        _ => "failure",
    };
    let seconds = |duration: std::time::Duration| (duration.as_secs_f64() * 1e3).round() / 1e3;
    json!({
        "result": result,
        "tasks": summary.tasks,
        "executed": summary.executed,
        "hits": {
            "disk": summary.hits.disk,
            "peer": summary.hits.peer,
            "redis": summary.hits.redis,
            "s3": summary.hits.s3,
        },
        "failed": summary.failed,
        "skipped": summary.skipped,
        "sources": summary.sources,
        "bytes_fetched": summary.bytes_fetched,
        "seconds": seconds(summary.elapsed),
        "seconds_saved": seconds(summary.saved),
    })
}

/// Turns SIGINT and SIGTERM into a request to stop; a second one into a hard one.
struct Stopper {
    first: Arc<AtomicI32>,
    handle: Handle,
    thread: std::thread::JoinHandle<()>,
}

impl Stopper {
    fn start(cancel: Arc<Cancel>) -> Result<Self, CliError> {
        let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(CliError::usage)?;
        let handle = signals.handle();
        let first = Arc::new(AtomicI32::new(0));
        let seen = Arc::clone(&first);
        let thread = std::thread::spawn(move || {
            for signal in signals.forever() {
                // Only the first signal decides about the exit code.
                let _ = seen.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst);
                cancel.request();
            }
        });
        Ok(Self { first, handle, thread })
    }

    /// Ends; returns the first signal that came.
    fn stop(self) -> Option<i32> {
        self.handle.close();
        if self.thread.join().is_err() {
            tracing::error!("the thread that waits for signals panicked");
        }
        Some(self.first.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
    }
}
