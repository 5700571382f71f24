//! `netbuild run`.

use crate::{
    args::RunArgs,
    errors::{CliError, EXIT_FAILED},
    graph_file::{self, Loaded},
    progress::{Detail, Progress, longest},
    recorder::Recorder,
    settings,
};
use netbuild_node::{Session, config::Flags};
use netbuild_runner::{Cancel, Event, Observer, Options, Summary};
use serde_json::json;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::{Handle, Signals},
};
use std::{
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::Duration,
};

pub(crate) fn run(args: &RunArgs) -> Result<ExitCode, CliError> {
    let jobs = args.jobs.map(|jobs| jobs as usize);
    let settings = settings(&Flags { jobs, ..args.common.flags() })?;
    let Loaded { graph, root, .. } = graph_file::load(&args.graph)?;
    let targets = graph_file::targets(&graph, &args.tasks)?;
    let session = super::session(&settings)?;
    let detail = match (args.quiet, args.verbose) {
        (true, _) => Detail::Quiet,
        (_, true) => Detail::Verbose,
        _ => Detail::Normal,
    };
    let commands =
        graph.closure(&targets).iter().filter(|id| graph[**id].command.is_some()).count();
    let recorder = Recorder::start(&graph, args.json_events.as_deref())?;
    let seeing = Seeing { recorder, progress: Progress::new(detail, commands) };
    let cancel = Arc::new(Cancel::default());
    let signals = Stopper::start(Arc::clone(&cancel))?;
    let limit = graph.max_parallel().map_or(usize::MAX, |most| most as usize);
    let options = Options {
        root,
        graph: &graph,
        targets,
        jobs: settings.jobs.get().min(limit),
        keep_going: args.keep_going,
        caller: std::env::vars_os().collect(),
        executable: std::env::current_exe()
            .map_err(|error| CliError::io("find", Path::new("netbuild"), &error))?,
        cache_id: &|| session.id(),
    };
    let summary = netbuild_runner::run(options, &session, &seeing, &cancel)?;
    let Seeing { recorder, progress } = seeing;
    let (critical, long) = longest(&graph, &|id| recorder.took(id));
    progress.finish(&summary, &critical, long);
    let signal = signals.stop();
    if signal.is_none() {
        finish(&session);
    }
    let mut json = to_json(&summary);
    json["critical_path"] = json!({
        "seconds": seconds(long),
        "tasks": critical.iter().take(SHOWN_PATH).collect::<Vec<_>>(),
    });
    recorder.finish(&json, args.trace.as_deref())?;
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

/// Gives the tiers a moment to get the results, and says what they still lack.
fn finish(session: &Session) {
    if session.finish() {
        return;
    }
    let tiers = session.status().map(|status| status.tiers).unwrap_or_default();
    for tier in tiers.iter().filter(|tier| tier.waiting > 0) {
        tracing::warn!(
            "{}; `netbuild flush` or the next run goes on with it",
            super::flush::line(tier)
        );
    }
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
