//! Shows a run: a line for each task that ended, and, on a terminal, what runs now.

use crate::{
    moving::results,
    text::{duration, size},
};
use indicatif::{ProgressBar, ProgressStyle};
use netbuild_core::{cache::Source, graph::LogPolicy, moved};
use netbuild_runner::{Ended, Event, Observer, Summary};
use std::{
    collections::BTreeMap,
    io::{IsTerminal as _, Write as _},
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Longest list of running tasks in the progress line.
const SHOWN_RUNNING: usize = 4;

/// How much is shown.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Detail {
    Quiet,
    Normal,
    Verbose,
}

/// Writes to standard error, from several threads.
#[derive(Debug)]
pub(crate) struct Progress {
    detail: Detail,
    bar: ProgressBar,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    tasks: usize,
    ended: usize,
    running: Vec<String>,
    /// Results on their way, by task.
    moving: BTreeMap<String, moved::Progress>,
}

impl Progress {
    /// Shows a run of `tasks` tasks.
    pub(crate) fn new(detail: Detail, tasks: usize) -> Self {
        let live = std::io::stderr().is_terminal() && detail > Detail::Quiet;
        let bar = if live { ProgressBar::new(tasks as u64) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} {elapsed} {wide_msg}")
        {
            bar.set_style(style);
        }
        if live {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Self { detail, bar, state: Mutex::new(State { tasks, ..State::default() }) }
    }

    /// Prints the last line.
    pub(crate) fn finish(&self, summary: &Summary) {
        self.bar.finish_and_clear();
        if self.detail > Detail::Quiet || !summary.is_success() {
            self.print(&[describe(summary).as_bytes()]);
        }
    }

    /// Prints lines above the progress line, each ended.
    fn print(&self, parts: &[&[u8]]) {
        self.bar.suspend(|| {
            let mut stderr = std::io::stderr().lock();
            for part in parts {
                let end: &[u8] = if part.ends_with(b"\n") || part.is_empty() { b"" } else { b"\n" };
                // A closed standard error is no reason to end a build.
                drop(stderr.write_all(part).and_then(|()| stderr.write_all(end)));
            }
        });
    }
}

impl Observer for Progress {
    fn event(&self, event: Event<'_>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Started { task } => {
                // Whatever of its result was on its way, it is built now.
                state.moving.remove(task);
                state.running.push(task.to_owned());
            }
            Event::Moving { task, progress } => {
                state.moving.insert(task.to_owned(), progress.clone());
            }
            Event::Warning { task, message } => {
                let task = task.map(|task| format!("{task}: ")).unwrap_or_default();
                self.print(&[format!("warning: {task}{message}").as_bytes()]);
            }
            Event::Finished { task, ended, took, log, log_policy } => {
                state.running.retain(|running| running != task);
                state.moving.remove(task);
                state.ended += 1;
                self.bar.set_position(state.ended as u64);
                if self.detail >= wanted(&ended) {
                    let line = line(&state, task, &ended, took);
                    let failed = matches!(ended, Ended::Failed(_));
                    let show_log = match log_policy {
                        LogPolicy::Full => failed || self.detail > Detail::Quiet,
                        LogPolicy::Errors => failed,
                        LogPolicy::None => false,
                    };
                    self.print(&[line.as_bytes(), if show_log { &log } else { &[] }]);
                }
            }
        }
        if !self.bar.is_hidden() {
            self.bar.set_message(now(&state));
        }
    }
}

/// What goes on: the commands that run, and the results that are fetched.
fn now(state: &State) -> String {
    let shown = state.running.iter().take(SHOWN_RUNNING);
    let mut running = shown.map(String::as_str).collect::<Vec<_>>().join(", ");
    if state.running.len() > SHOWN_RUNNING {
        running += &format!(" and {} more", state.running.len() - SHOWN_RUNNING);
    }
    let parts = [Some(running).filter(|running| !running.is_empty()), results(&state.moving)];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// From which detail on an end is worth a line.
fn wanted(ended: &Ended) -> Detail {
    match ended {
        Ended::Failed(_) => Detail::Quiet,
        Ended::UpToDate => Detail::Verbose,
        Ended::Hit { .. } | Ended::Executed | Ended::Skipped(_) => Detail::Normal,
    }
}

fn line(state: &State, task: &str, ended: &Ended, took: Duration) -> String {
    let width = state.tasks.to_string().len();
    let how = match ended {
        Ended::UpToDate => "up to date".to_owned(),
        Ended::Hit { source: Source::Disk, .. } => format!("from disk, {}", duration(took)),
        Ended::Hit { source, bytes } => {
            format!("from {source}, {}, {}", size(*bytes), duration(took))
        }
        Ended::Executed => format!("executed, {}", duration(took)),
        Ended::Failed(reason) => format!("FAILED: {reason}"),
        Ended::Skipped(reason) => format!("skipped: {reason}"),
    };
    format!("[{:>width$}/{}] {task}: {how}", state.ended, state.tasks)
}

fn describe(summary: &Summary) -> String {
    let mut parts = vec![format!("{} executed", summary.executed)];
    parts.push(format!("{} from disk", summary.hits.disk));
    if summary.hits.peer > 0 {
        let name =
            |region: &String| if region.is_empty() { "no region".into() } else { region.clone() };
        let regions: Vec<_> =
            summary.sources.iter().map(|(region, n)| format!("{n} {}", name(region))).collect();
        parts.push(format!("{} from peers ({})", summary.hits.peer, regions.join(", ")));
    }
    for (count, what) in [(summary.failed, "failed"), (summary.skipped, "skipped")] {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    }
    let mut text =
        format!("{} tasks in {}: {}", summary.tasks, duration(summary.elapsed), parts.join(", "));
    if summary.bytes_fetched > 0 {
        text += &format!("; fetched {}", size(summary.bytes_fetched));
    }
    if summary.saved >= Duration::from_millis(50) {
        text += &format!("; saved {}", duration(summary.saved));
    }
    if summary.cancelled {
        text += "; cancelled";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::peer::PeerId;
    use netbuild_runner::Hits;

    #[test]
    fn a_run_shows_what_is_fetched_until_it_is_there_or_built() {
        let progress = Progress::new(Detail::Quiet, 3);
        let shown = || now(&progress.state.lock().unwrap());
        let region = "us-east".into();
        let so_far = moved::Progress {
            total: 4_000_000,
            done: 1_000_000,
            per_second: 500_000.0,
            sources: vec![Source::Peer { peer: PeerId([1; 32]), region }],
            ..moved::Progress::default()
        };
        let fetching = "fetching lib: 1.0 MB of 4.0 MB, 500.0 kB/s from us-east";
        progress.event(Event::Moving { task: "lib", progress: &so_far });
        assert_eq!(shown(), fetching);
        progress.event(Event::Started { task: "app" });
        assert_eq!(shown(), format!("app; {fetching}"));
        progress.event(Event::Finished {
            task: "lib",
            ended: Ended::UpToDate,
            took: Duration::ZERO,
            log: Vec::new(),
            log_policy: LogPolicy::None,
        });
        assert_eq!(shown(), "app");
        progress.event(Event::Moving { task: "package", progress: &so_far });
        progress.event(Event::Started { task: "package" });
        assert_eq!(shown(), "app, package");
    }

    #[test]
    fn a_summary_reads_as_a_sentence() {
        let summary = Summary {
            tasks: 18,
            executed: 2,
            hits: Hits { disk: 3, peer: 12, ..Hits::default() },
            failed: 1,
            sources: [("us-east".to_owned(), 12)].into(),
            bytes_fetched: 3_456_789,
            elapsed: Duration::from_millis(1234),
            saved: Duration::from_millis(119_700),
            ..Summary::default()
        };
        assert_eq!(
            describe(&summary),
            "18 tasks in 1.2 s: 2 executed, 3 from disk, 12 from peers (12 us-east), 1 failed; \
             fetched 3.5 MB; saved 2 min 0 s"
        );
    }
}
