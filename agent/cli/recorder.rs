//! Writes down what happens in a run: events for programs, spans for a trace.

use crate::{
    errors::CliError,
    otlp,
    trace::{Kind, Span, Trace},
};
use netbuild_core::{
    backend::TierKind,
    cache::Source,
    graph::{Graph, TaskId},
};
use netbuild_runner::{Ended, Event, Levels};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufWriter, Write as _},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// Takes part in a run from its beginning to its end.
#[derive(Debug)]
pub(crate) struct Recorder<'g> {
    graph: &'g Graph,
    began: Instant,
    began_at: SystemTime,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    events: Option<BufWriter<File>>,
    /// Whether the trace is wanted.
    traced: bool,
    /// Why no more events can be written.
    broken: Option<io::Error>,
    trace: Trace,
    jobs: Rows,
    transfers: Rows,
    running: HashMap<String, (usize, Duration)>,
    moving: HashMap<String, (usize, Duration)>,
    took: HashMap<TaskId, Duration>,
}

/// When each row is free again.
#[derive(Debug, Default)]
struct Rows(Vec<Duration>);

impl Rows {
    /// The first row that is free from `start` on, taken until further notice.
    fn take(&mut self, start: Duration) -> usize {
        let free = self.0.iter().position(|end| *end <= start);
        let row = free.unwrap_or(self.0.len());
        if row == self.0.len() {
            self.0.push(Duration::ZERO);
        }
        self.0[row] = Duration::MAX;
        row
    }

    fn free(&mut self, row: usize, end: Duration) {
        self.0[row] = end;
    }
}

impl<'g> Recorder<'g> {
    /// Records for a trace, if it is wanted; to a file as well, if one is named.
    pub(crate) fn start(
        graph: &'g Graph,
        events: Option<&Path>,
        traced: bool,
    ) -> Result<Self, CliError> {
        let open = |path: &Path| {
            File::create(path).map_err(|error| CliError::io("write events to", path, &error))
        };
        let events = events.map(open).transpose()?.map(BufWriter::new);
        let traced = traced || otlp::is_on();
        let state = Mutex::new(State { events, traced, ..State::default() });
        Ok(Self { graph, began: Instant::now(), began_at: SystemTime::now(), state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes down an event.
    pub(crate) fn note(&self, event: &Event<'_>) {
        let now = self.began.elapsed();
        let mut state = self.state();
        match event {
            Event::Started { task } => {
                state.end_transfer(task, now, "given up");
                let row = state.jobs.take(now);
                state.running.insert((*task).to_owned(), (row, now));
                state.write(now, "started", || json!({"task": task}));
            }
            Event::Moving { task, progress } => {
                if !state.moving.contains_key(*task) {
                    let row = state.transfers.take(now);
                    state.moving.insert((*task).to_owned(), (row, now));
                }
                let (done, total) = (progress.done, progress.total);
                state.write(now, "moving", || json!({"task": task, "done": done, "total": total}));
            }
            Event::Warning { task, message } => {
                state.write(now, "warning", || json!({"task": task, "message": message}));
            }
            // Nobody records a run that only watches; and whoever has the terminal has started.
            Event::Observed { .. } | Event::Terminal { .. } => {}
            Event::Finished { task, ended, took, log, levels, .. } => {
                let how = how(ended);
                state.end_transfer(task, now, how);
                let id = self.graph.find(task).ok();
                let (row, start) = state.running.remove(*task).unwrap_or_else(|| {
                    let start = now.saturating_sub(*took);
                    (state.jobs.take(start), start)
                });
                state.jobs.free(row, now);
                let ran = !matches!(ended, Ended::Skipped(_));
                if let Some(id) = id.filter(|_| ran) {
                    state.took.insert(id, *took);
                }
                let fields = || finished(task, ended, *took, log.len(), levels.as_ref());
                if ran {
                    state.span(task, id, Kind::Job(row), (start, now), &fields);
                }
                state.write(now, "finished", fields);
            }
        }
    }

    /// How long a task took in this run; nothing when it did not take part.
    pub(crate) fn took(&self, id: TaskId) -> Duration {
        self.state().took.get(&id).copied().unwrap_or_default()
    }

    /// Ends the events with the summary, and writes the trace if a file for it is named.
    pub(crate) fn finish(&self, summary: &Value, trace: Option<&Path>) -> Result<(), CliError> {
        let mut state = self.state();
        state.write(self.began.elapsed(), "summary", || summary.clone());
        let flushed = state.events.as_mut().map_or(Ok(()), BufWriter::flush);
        if let Some(error) = state.broken.take().or(flushed.err()) {
            tracing::warn!("not all events could be written: {error}");
        }
        otlp::tell_run(self.began_at, state.trace.spans(), summary);
        let Some(path) = trace else { return Ok(()) };
        state.trace.flag_critical(self.graph);
        std::fs::write(path, state.trace.to_json())
            .map_err(|error| CliError::io("write the trace to", path, &error))
    }
}

fn how(ended: &Ended) -> &'static str {
    match ended {
        Ended::UpToDate => "up to date",
        Ended::Hit { source, .. } => match source {
            Source::Disk => "from disk",
            Source::Peer { .. } => "from a peer",
            Source::Tier(tier) => match tier.kind {
                TierKind::Redis => "from redis",
                TierKind::S3 => "from s3",
                TierKind::Memory => "from memory",
            },
        },
        Ended::Executed => "executed",
        Ended::Failed(_) => "failed",
        Ended::Skipped(_) => "skipped",
    }
}

/// What is told of a task that has ended.
fn finished(
    task: &str,
    ended: &Ended,
    took: Duration,
    log: usize,
    levels: Option<&Levels>,
) -> Value {
    let mut fields = json!({
        "task": task,
        "how": how(ended),
        "seconds": took.as_secs_f64(),
        "log_bytes": log,
    });
    if let Some(Levels { asked, obtained }) = levels {
        fields["sandbox"] = json!({"asked": asked.as_str(), "obtained": obtained.as_str()});
    }
    match ended {
        Ended::Hit { source, bytes } => {
            fields["bytes"] = (*bytes).into();
            match source {
                Source::Disk => {}
                Source::Peer { peer, region } => {
                    fields["peer"] = peer.to_string().into();
                    fields["region"] = region.as_str().into();
                }
                Source::Tier(tier) => fields["tier"] = tier.place.as_str().into(),
            }
        }
        Ended::Failed(reason) | Ended::Skipped(reason) => {
            fields["reason"] = reason.as_str().into();
        }
        Ended::UpToDate | Ended::Executed => {}
    }
    fields
}

impl State {
    /// One line of JSON. What cannot be written is said in the end: it is no reason to end a build.
    fn write(&mut self, now: Duration, event: &str, fields: impl FnOnce() -> Value) {
        let Some(file) = self.events.as_mut().filter(|_| self.broken.is_none()) else { return };
        let mut fields = fields();
        fields["event"] = event.into();
        fields["at"] = ((now.as_secs_f64() * 1e6).round() / 1e6).into();
        // Whoever follows the file wants to see what happens when it does.
        let written = writeln!(file, "{fields}").and_then(|()| file.flush());
        self.broken = written.err();
    }

    fn end_transfer(&mut self, task: &str, now: Duration, how: &str) {
        if let Some((row, start)) = self.moving.remove(task) {
            self.transfers.free(row, now);
            self.span(task, None, Kind::Transfer(row), (start, now), &|| json!({"how": how}));
        }
    }

    /// A span of the trace, from one time to another.
    fn span(
        &mut self,
        task: &str,
        id: Option<TaskId>,
        kind: Kind,
        (start, end): (Duration, Duration),
        fields: &dyn Fn() -> Value,
    ) {
        if self.traced {
            let (name, took, fields) = (task.to_owned(), end.saturating_sub(start), fields());
            self.trace.add(Span { name, id, kind, start, took, fields });
        }
    }
}
