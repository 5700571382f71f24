//! `netbuild run`.

mod watch;

use crate::{
    args::{LinkArg, RunArgs},
    errors::{CliError, EXIT_FAILED},
    graph_file::{self, Loaded},
    otlp,
    progress::{Detail, Progress, longest},
    recorder::Recorder,
    settings,
};
use netbuild_core::{
    digest::Hash,
    graph::{Graph, TaskId},
};
use netbuild_node::{
    Session,
    config::{Flags, Settings},
};
use netbuild_runner::{
    Asked, Caller, Cancel, Event, Link, Looks, Memory, Observer, Options, Prediction, Question,
    Summary, nothing_to_do,
};
use serde_json::json;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::{Handle, Signals},
};
use std::{
    mem::ManuallyDrop,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::Duration,
};
use watch::Watch;

pub(crate) fn run(args: &RunArgs) -> Result<ExitCode, CliError> {
    let jobs = args.jobs.map(|jobs| jobs as usize);
    let settings = settings(&Flags { jobs, ..args.common.flags() })?;
    let session = super::session(&settings)?;
    if args.dry_run {
        let memory = Memory::recall(&graph_file::root_of(&args.graph)?);
        let (loaded, targets) = graph_and_targets(args, &Looks::none())?;
        let (executable, id) = (executable()?, || session.id());
        let options = options(args, &settings, memory, &loaded, targets, (1, executable), &id);
        return dry_run(&loaded.graph, netbuild_runner::predict(options)?, args.json);
    }
    let (success, signal) = stopping(|cancel| match args.watch {
        true => again_and_again(args, &settings, &session, cancel).map(|()| true),
        false => graph_file::root_of(&args.graph).and_then(|root| {
            let question = question(args, &root, &settings, &session);
            if let Some(question) = &question
                && let Some((summary, said)) =
                    nothing_to_do(&root, question, &caller(), settings.jobs.get())
            {
                said.iter().for_each(|text| tracing::warn!("{text}"));
                let progress = Progress::new(detail(args), summary.tasks);
                return conclude(args, &session, cancel, &summary, progress, None);
            }
            let memory = Memory::recall(&root);
            let looks = question.map_or_else(Looks::none, |_| Looks::begin());
            let (loaded, targets) = graph_and_targets(args, &looks)?;
            // The process ends after it, which is quicker than to take a large graph apart.
            let loaded = ManuallyDrop::new(loaded);
            let said = |question| Asked { question, looks, said: loaded.said(&args.graph.graph) };
            let asked = question.map(said);
            once(args, &settings, &session, (memory, asked), &loaded, targets, cancel)
        }),
    })?;
    Ok(match (signal, success) {
        // As a shell says that a signal ended a program.
        (Some(signal), _) => ExitCode::from(128 + signal as u8),
        (None, true) => ExitCode::SUCCESS,
        (None, false) => ExitCode::from(EXIT_FAILED),
    })
}

fn graph_and_targets(args: &RunArgs, looks: &Looks) -> Result<(Loaded, Vec<TaskId>), CliError> {
    let loaded = graph_file::load_looking(&args.graph, looks)?;
    let targets = graph_file::targets(&loaded.graph, &args.tasks)?;
    Ok((loaded, targets))
}

/// What a run is asked, when nobody is to see each task of it.
fn question(
    args: &RunArgs,
    root: &Path,
    settings: &Settings,
    session: &Session,
) -> Option<Question> {
    let shows_each = detail(args) == Detail::Verbose
        || args.json_events.is_some()
        || args.trace.is_some()
        || otlp::is_on();
    let ask = || {
        let places = (root, args.graph.graph.as_path());
        Question::new(places, &args.tasks, args.strict, settings.accept_from, session.id())
    };
    (!shows_each).then(ask)
}

fn detail(args: &RunArgs) -> Detail {
    match (args.quiet, args.verbose) {
        (true, _) => Detail::Quiet,
        (_, true) => Detail::Verbose,
        _ => Detail::Normal,
    }
}

/// Runs a graph; whether all of it did well.
fn once(
    args: &RunArgs,
    settings: &Settings,
    session: &Session,
    (memory, asked): (Memory, Option<Asked>),
    loaded: &Loaded,
    targets: Vec<TaskId>,
    cancel: &Cancel,
) -> Result<bool, CliError> {
    let graph = &loaded.graph;
    let commands =
        graph.closure(&targets).iter().filter(|id| graph[**id].command.is_some()).count();
    let recorder = Recorder::start(graph, args.json_events.as_deref(), args.trace.is_some())?;
    let seeing = Seeing { recorder, progress: Progress::new(detail(args), commands) };
    let limit = graph.max_parallel().map_or(usize::MAX, |most| most as usize);
    let (jobs, executable) = (settings.jobs.get().min(limit), executable()?);
    let id = || session.id();
    let mut options = options(args, settings, memory, loaded, targets, (jobs, executable), &id);
    options.asked = asked;
    let summary = netbuild_runner::run(options, session, &seeing, cancel)?;
    let Seeing { recorder, progress } = seeing;
    conclude(args, session, cancel, &summary, progress, Some((graph, recorder)))
}

/// Says what a run came to; whether all of it did well.
fn conclude(
    args: &RunArgs,
    session: &Session,
    cancel: &Cancel,
    summary: &Summary,
    progress: Progress,
    recorded: Option<(&Graph, Recorder<'_>)>,
) -> Result<bool, CliError> {
    let (critical, long) = recorded
        .as_ref()
        .map(|(graph, recorder)| longest(graph, &|id| recorder.took(id)))
        .unwrap_or_default();
    progress.finish(summary, &critical, long);
    if !cancel.is_requested() {
        super::finish(session, &|| !cancel.is_requested());
    }
    let mut json = to_json(summary);
    json["critical_path"] = json!({
        "seconds": seconds(long),
        "tasks": critical.iter().take(SHOWN_PATH).collect::<Vec<_>>(),
    });
    if let Some((_, recorder)) = recorded {
        recorder.finish(&json, args.trace.as_deref())?;
    }
    if args.json {
        super::print_json(&json);
    }
    if let Some(path) = &args.summary {
        std::fs::write(path, format!("{json}\n"))
            .map_err(|error| CliError::io("write the summary to", path, &error))?;
    }
    Ok(summary.is_success())
}

/// How often in a row a run is repeated for what changed during it: oftener than somebody edits in
/// the middle of one run after the other.
const MOST_REPEATS: usize = 8;

/// Runs a graph, and again whenever what it depends on has changed, until that is cancelled.
fn again_and_again(
    args: &RunArgs,
    settings: &Settings,
    session: &Session,
    cancel: &Cancel,
) -> Result<(), CliError> {
    let root = graph_file::root_of(&args.graph)?;
    let watch = Watch::start(&root)?;
    let file = watch.relative(&args.graph.graph);
    let mut repeats = 0;
    while !cancel.is_requested() {
        let memory = Memory::recall(&root);
        let (loaded, targets) = match graph_and_targets(args, &Looks::none()) {
            Ok(loaded) => loaded,
            Err(error) => {
                // It is told, and tried again when something has changed.
                error.print("netbuild");
                watch.wait(cancel);
                watch.settled();
                continue;
            }
        };
        let graph = &loaded.graph;
        let tasks = graph.closure(&targets);
        once(args, settings, session, (memory, None), &loaded, targets, cancel)?;
        // What changed during the run may have been too late for it; but a task that writes what it reads
        // must not keep it going.
        let concerns = watch.settled().concern(graph, &tasks, file.as_deref());
        repeats = if concerns { repeats + 1 } else { 0 };
        if (1..=MOST_REPEATS).contains(&repeats) {
            continue;
        }
        if concerns {
            tracing::warn!("each run changed an input of its own; waiting for the next change");
            repeats = 0;
        }
        // What a dep file names may be any file.
        let undeclared = tasks.iter().map(|id| &graph[*id]).any(|task| {
            task.command.is_some() && (task.inputs.is_none() || task.dep_file.is_some())
        });
        while watch.wait(cancel) {
            let changes = watch.settled();
            if changes.concern(graph, &tasks, file.as_deref())
                || undeclared && changes.are_foreign(graph, &tasks)
            {
                break;
            }
        }
    }
    Ok(())
}

fn options<'a>(
    args: &RunArgs,
    settings: &Settings,
    memory: Memory,
    loaded: &'a Loaded,
    targets: Vec<TaskId>,
    (jobs, executable): (usize, PathBuf),
    cache_id: &'a (dyn Fn() -> Hash + Sync),
) -> Options<'a> {
    Options {
        root: loaded.root.clone(),
        memory,
        graph: &loaded.graph,
        targets,
        jobs,
        keep_going: args.keep_going,
        link: match args.link {
            LinkArg::Copy => Link::Copy,
            LinkArg::Hard => Link::Hard,
        },
        caller: caller(),
        executable,
        strict: args.strict,
        prefers_cache: args.prefer_cache,
        observe: false,
        owns_stdout: args.json,
        is_last: !args.watch,
        publish_from: settings.publish_from,
        accept_from: settings.accept_from,
        cache_id,
        asked: None,
    }
}

fn caller() -> Caller {
    std::env::vars_os().collect()
}

/// Runs something that SIGINT and SIGTERM ask to stop; also the first of these that came.
pub(crate) fn stopping<T>(
    run: impl FnOnce(&Cancel) -> Result<T, CliError>,
) -> Result<(T, Option<i32>), CliError> {
    let cancel = Arc::new(Cancel::default());
    let signals = Stopper::start(Arc::clone(&cancel))?;
    let ended = run(&cancel);
    let signal = signals.stop().or(cancel.is_by_key().then_some(SIGINT));
    Ok((ended?, signal))
}

pub(crate) fn executable() -> Result<PathBuf, CliError> {
    std::env::current_exe().map_err(|error| CliError::io("find", Path::new("netbuild"), &error))
}

/// Prints what a run would do.
fn dry_run(
    graph: &Graph,
    predictions: Vec<(TaskId, Prediction)>,
    as_json: bool,
) -> Result<ExitCode, CliError> {
    let rows = predictions.into_iter().map(|(id, prediction)| {
        let (word, why) = match prediction {
            Prediction::UpToDate => ("up to date", String::new()),
            Prediction::Stale(why) => ("would be restored or run", why),
            Prediction::Runs => ("would run", "it is never cached".into()),
            Prediction::DependsOn(task) => {
                ("may run", format!("that depends on what `{}` makes", graph[task].name))
            }
            Prediction::Skipped(why) => ("would be skipped", why),
            Prediction::Fails(why) => ("would fail", why),
        };
        (graph[id].name.as_str(), word, why)
    });
    if as_json {
        let rows: Vec<_> = rows
            .map(|(task, would, why)| json!({"task": task, "would": would, "why": why}))
            .collect();
        super::print_json(&json!(rows));
        return Ok(ExitCode::SUCCESS);
    }
    let lines = rows.map(|(task, would, why)| match why.is_empty() {
        true => format!("{task}: {would}\n"),
        false => format!("{task}: {would}: {why}\n"),
    });
    super::print(&lines.collect::<String>());
    Ok(ExitCode::SUCCESS)
}

/// Most names of a critical path in the summary.
const SHOWN_PATH: usize = 100;

/// Shows and records a run.
#[derive(Debug)]
struct Seeing<'g> {
    recorder: Recorder<'g>,
    progress: Progress,
}

impl Observer for Seeing<'_> {
    fn event(&self, event: Event<'_>) {
        self.recorder.note(&event);
        self.progress.event(event);
    }
}

/// Seconds, to the millisecond.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e3).round() / 1e3
}

fn to_json(summary: &Summary) -> serde_json::Value {
    let result = match (summary.cancelled, summary.is_success()) {
        (true, _) => "cancelled",
        (_, true) => "success",
        _ => "failure",
    };
    json!({
        "result": result,
        "tasks": summary.tasks,
        "unchanged": summary.unchanged,
        "executed": summary.executed,
        "sooner_built": summary.sooner_built,
        "hits": {
            "disk": summary.hits.disk,
            "peer": summary.hits.peer,
            "redis": summary.hits.redis,
            "s3": summary.hits.s3,
        },
        "sandbox": summary.levels.iter()
            .map(|(level, count)| (level.as_str().to_owned(), (*count).into()))
            .collect::<serde_json::Map<_, _>>(),
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
