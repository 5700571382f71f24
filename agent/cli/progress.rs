//! Shows a run on standard error: a line for each task that ended, and what runs now. On a terminal
//! that is a view that is drawn again and again, elsewhere a line from time to time.

mod heart;
mod held;
mod view;

use crate::{
    table::Style,
    text::{duration, size},
    trace::critical_path,
};
use heart::Heart;
use held::Held;
use indicatif::{ProgressBar, ProgressStyle};
use netbuild_core::{
    cache::Source,
    graph::{Graph, LogPolicy, TaskId},
    record::Sandbox,
};
use netbuild_runner::{Ended, Event, Levels, Observer, Summary};
use std::{
    io::{IsTerminal as _, Write as _},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use view::State;

/// From one drawing of the view to the next.
const FRAME: Duration = Duration::from_millis(200);
/// From one sign of life to the next where there is no view: services that run builds end those
/// that are silent for minutes.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// A shorter critical path is not worth a line.
const LONG: Duration = Duration::from_secs(1);
/// Names of a critical path that are shown at either end.
const SHOWN_ENDS: usize = 3;
/// The size of a terminal that does not tell it.
const USUAL: (usize, usize) = (80, 24);

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
    inner: Arc<Inner>,
    heart: Option<Heart>,
}

#[derive(Debug)]
struct Inner {
    detail: Detail,
    /// Logs are folded as GitHub Actions folds them.
    folded: bool,
    style: Style,
    bar: ProgressBar,
    /// Columns and rows of the view, 16 bits each.
    size: AtomicUsize,
    state: Mutex<State>,
    /// What is to be printed when no command has the terminal any more.
    held: Mutex<Option<Held>>,
}

impl Progress {
    /// Shows a run of `tasks` tasks.
    pub(crate) fn new(detail: Detail, tasks: usize) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let live = terminal && detail > Detail::Quiet;
        let bar = if live { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            bar.set_style(style);
        }
        let inner = Arc::new(Inner {
            detail,
            folded: !terminal && std::env::var_os("GITHUB_ACTIONS").is_some_and(|on| on == "true"),
            style: Style::of_stdout(terminal),
            bar,
            size: AtomicUsize::new((USUAL.0 - 1) << 16 | USUAL.1),
            state: Mutex::new(State::new(tasks, Instant::now())),
            held: Mutex::default(),
        });
        let shown = Arc::clone(&inner);
        let heart = match (live, detail) {
            (true, _) => Some(Heart::start(FRAME, move || shown.draw())),
            (false, Detail::Quiet) => None,
            (false, _) => Some(Heart::start(HEARTBEAT, move || shown.sign())),
        };
        Self { inner, heart }
    }

    /// Prints the last lines.
    pub(crate) fn finish(mut self, summary: &Summary, critical: &[String], long: Duration) {
        drop(self.heart.take());
        self.inner.bar.finish_and_clear();
        if self.inner.detail > Detail::Quiet || !summary.is_success() {
            self.inner.print(&[describe(summary).as_bytes()]);
        }
        if self.inner.detail > Detail::Quiet && long >= LONG && critical.len() > 1 {
            self.inner.print(&[describe_path(critical, long).as_bytes()]);
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves the terminal to a command, or goes on with it.
    fn lend(&self, lent: bool) {
        let mut held = self.held();
        if lent {
            self.bar.finish_and_clear();
            *held = Some(Held::default());
            return;
        }
        let parts = held.take().map(Held::finish).unwrap_or_default();
        self.bar.reset();
        self.write(&[&parts]);
    }

    /// Draws the view.
    fn draw(&self) {
        let state = self.state();
        // Kept to the end, so that nothing is drawn after the terminal is lent.
        let held = self.held();
        if held.is_some() {
            return;
        }
        let (columns, rows) = match rustix::termios::tcgetwinsize(std::io::stderr()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                (usize::from(size.ws_col), usize::from(size.ws_row))
            }
            _ => USUAL,
        };
        // At the border the cursor would go on to the next line.
        self.size.store(columns.saturating_sub(1) << 16 | rows, Ordering::Relaxed);
        self.refresh(&state);
        self.bar.tick();
    }

    /// Makes the view that is drawn next, in the size of the last drawing.
    fn refresh(&self, state: &State) {
        if self.bar.is_hidden() {
            return;
        }
        let size = self.size.load(Ordering::Relaxed);
        let lines = state.lines(Instant::now(), size >> 16, size & 0xffff, self.style);
        self.bar.set_message(lines.join("\n"));
    }

    /// Says that the run goes on, which whoever has the terminal can see.
    fn sign(&self) {
        if self.held().is_some() {
            return;
        }
        let sign = self.state().sign(Instant::now());
        if let Some(sign) = sign {
            self.print(&[sign.as_bytes()]);
        }
    }

    /// Prints lines above the view, each ended; later, while a command has the terminal.
    fn print(&self, parts: &[&[u8]]) {
        match &mut *self.held() {
            Some(held) => held.take(parts),
            None => self.write(parts),
        }
    }

    fn write(&self, parts: &[&[u8]]) {
        self.bar.suspend(|| {
            let mut stderr = std::io::stderr().lock();
            for part in parts {
                let end: &[u8] = if part.ends_with(b"\n") || part.is_empty() { b"" } else { b"\n" };
                // A closed standard error is no reason to end a build.
                drop(stderr.write_all(part).and_then(|()| stderr.write_all(end)));
            }
        });
    }

    fn print_end(&self, line: &str, ended: &Ended, log: &[u8]) {
        match (self.folded, ended) {
            (true, Ended::Failed(_)) => {
                self.print(&[line.as_bytes(), log, format!("::error::{line}").as_bytes()]);
            }
            (true, _) if !log.is_empty() => {
                self.print(&[format!("::group::{line}").as_bytes(), log, b"::endgroup::"]);
            }
            _ => self.print(&[line.as_bytes(), log]),
        }
    }
}

impl Observer for Progress {
    fn event(&self, event: Event<'_>) {
        let inner = &*self.inner;
        let mut state = inner.state();
        match event {
            Event::Started { task } => state.started(task, Instant::now()),
            Event::Moving { task, progress } => state.moving(task, progress),
            Event::Warning { task, message } => {
                let task = task.map(|task| format!("{task}: ")).unwrap_or_default();
                inner.print(&[format!("warning: {task}{message}").as_bytes()]);
            }
            Event::Observed { .. } => {}
            Event::Terminal { lent } => inner.lend(lent),
            Event::Finished { task, ended, took, log, log_policy, levels } => {
                state.finished(task, &ended);
                // What is printed above the view must not contradict it.
                inner.refresh(&state);
                if inner.detail < wanted(&ended) {
                    return;
                }
                let line = line(&state, task, &ended, took, levels);
                let failed = matches!(ended, Ended::Failed(_));
                let show_log = match log_policy {
                    LogPolicy::Full => failed || inner.detail > Detail::Quiet,
                    LogPolicy::Errors => failed,
                    LogPolicy::None => false,
                };
                inner.print_end(&line, &ended, if show_log { &log } else { &[] });
            }
        }
    }
}

/// The names of the chain of tasks that took longest, and its time.
pub(crate) fn longest(graph: &Graph, took: &dyn Fn(TaskId) -> Duration) -> (Vec<String>, Duration) {
    let path = critical_path(graph, took);
    let names = path.iter().map(|id| graph[*id].name.clone()).collect();
    (names, path.iter().map(|id| took(*id)).sum())
}

fn describe_path(names: &[String], long: Duration) -> String {
    let shown = if names.len() <= 2 * SHOWN_ENDS {
        names.join(" -> ")
    } else {
        let (first, last) = (&names[..SHOWN_ENDS], &names[names.len() - SHOWN_ENDS..]);
        format!("{} -> ... -> {}", first.join(" -> "), last.join(" -> "))
    };
    format!("critical path {}: {shown}", duration(long))
}

/// From which detail on an end is worth a line.
fn wanted(ended: &Ended) -> Detail {
    match ended {
        Ended::Failed(_) => Detail::Quiet,
        Ended::UpToDate => Detail::Verbose,
        Ended::Hit { .. } | Ended::Executed | Ended::Skipped(_) => Detail::Normal,
    }
}

fn line(
    state: &State,
    task: &str,
    ended: &Ended,
    took: Duration,
    levels: Option<Levels>,
) -> String {
    let width = state.tasks.to_string().len();
    let how = match ended {
        Ended::UpToDate => "up to date".to_owned(),
        Ended::Hit { source: Source::Disk, .. } => format!("from disk, {}", duration(took)),
        Ended::Hit { source, bytes } => {
            format!("from {source}, {}, {}", size(*bytes), duration(took))
        }
        Ended::Executed => format!("executed{}, {}", at_level(levels), duration(took)),
        Ended::Failed(reason) => format!("FAILED: {reason}"),
        Ended::Skipped(reason) => format!("skipped: {reason}"),
    };
    format!("[{:>width$}/{}] {task}: {how}", state.ended, state.tasks)
}

/// At which level a command ran, where it is not the ordinary one or not the one that was asked for.
fn at_level(levels: Option<Levels>) -> String {
    match levels {
        Some(Levels { asked, obtained }) if asked != obtained => {
            format!(" at level {} instead of {}", obtained.as_str(), asked.as_str())
        }
        Some(Levels { obtained, .. }) if obtained != Sandbox::default() => {
            format!(" at level {}", obtained.as_str())
        }
        _ => String::new(),
    }
}

/// Whether a source is the place of a tier: no region has such a name.
fn is_tier(source: &str) -> bool {
    source.contains("://")
}

fn describe(summary: &Summary) -> String {
    let sooner = match summary.sooner_built {
        0 => String::new(),
        count => format!(" ({count} sooner than it would have come)"),
    };
    let mut parts = vec![format!("{} executed{sooner}", summary.executed)];
    parts.push(format!("{} from disk", summary.hits.disk));
    if summary.hits.peer > 0 {
        let name =
            |region: &String| if region.is_empty() { "no region".into() } else { region.clone() };
        let peers = summary.sources.iter().filter(|(source, _)| !is_tier(source));
        let regions: Vec<_> = peers.map(|(region, n)| format!("{n} {}", name(region))).collect();
        parts.push(format!("{} from peers ({})", summary.hits.peer, regions.join(", ")));
    }
    for (count, what) in [(summary.hits.redis, "redis"), (summary.hits.s3, "s3")] {
        if count > 0 {
            parts.push(format!("{count} from {what}"));
        }
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
    use netbuild_runner::Hits;

    #[test]
    fn a_summary_reads_as_a_sentence() {
        let summary = Summary {
            tasks: 18,
            executed: 2,
            sooner_built: 1,
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
            "18 tasks in 1.2 s: 2 executed (1 sooner than it would have come), 3 from disk, 12 from peers (12 us-east), 1 failed; \
             fetched 3.5 MB; saved 2 min 0 s"
        );
        let names: Vec<_> = (0..8).map(|i| format!("t{i}")).collect();
        assert_eq!(
            describe_path(&names, Duration::from_secs(2)),
            "critical path 2.0 s: t0 -> t1 -> t2 -> ... -> t5 -> t6 -> t7"
        );
    }
}
