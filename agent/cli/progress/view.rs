//! What a run looks like now, as lines.

use crate::{
    moving::results,
    table::{Look, Style},
    text::{clean, duration, size},
};
use netbuild_core::{cache::Source, moved};
use netbuild_runner::Ended;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Most lines of running tasks in the view.
const MAX_LINES: usize = 12;
/// Running tasks that a sign of life names.
const SHOWN_RUNNING: usize = 4;
/// Widest bar.
const MAX_BAR: usize = 24;

/// How far a run is.
#[derive(Debug)]
pub(super) struct State {
    pub(super) tasks: usize,
    pub(super) ended: usize,
    began: Instant,
    running: Vec<(String, Instant)>,
    /// Results on their way, by task.
    moving: BTreeMap<String, moved::Progress>,
    executed: usize,
    disk: usize,
    peers: usize,
    tiers: usize,
    failed: usize,
    bytes: u64,
}

impl State {
    pub(super) fn new(tasks: usize, began: Instant) -> Self {
        Self {
            tasks,
            ended: 0,
            began,
            running: Vec::new(),
            moving: BTreeMap::new(),
            executed: 0,
            disk: 0,
            peers: 0,
            tiers: 0,
            failed: 0,
            bytes: 0,
        }
    }

    pub(super) fn started(&mut self, task: &str, now: Instant) {
        // Whatever of its result was on its way, it is built now.
        self.moving.remove(task);
        self.running.push((task.to_owned(), now));
    }

    pub(super) fn moving(&mut self, task: &str, progress: &moved::Progress) {
        self.moving.insert(task.to_owned(), progress.clone());
    }

    pub(super) fn finished(&mut self, task: &str, ended: &Ended) {
        self.running.retain(|(running, _)| running != task);
        self.moving.remove(task);
        self.ended += 1;
        match ended {
            Ended::UpToDate | Ended::Hit { source: Source::Disk, .. } => self.disk += 1,
            Ended::Hit { source, bytes } => {
                match source {
                    Source::Tier(_) => self.tiers += 1,
                    _ => self.peers += 1,
                }
                self.bytes += bytes;
            }
            Ended::Executed => self.executed += 1,
            Ended::Failed(_) => self.failed += 1,
            Ended::Skipped(_) => {}
        }
    }

    /// The view, in so many columns and at most so many rows.
    pub(super) fn lines(
        &self,
        now: Instant,
        columns: usize,
        rows: usize,
        style: Style,
    ) -> Vec<String> {
        let mut lines = vec![self.bar(now, columns, style)];
        if let Some(fetching) = results(&self.moving) {
            lines.push(cut(&format!("  {fetching}"), columns));
        }
        // A row for what is printed above, and one for the shell below.
        let room = rows.saturating_sub(lines.len() + 2).clamp(1, MAX_LINES);
        let all = self.running.len();
        let shown = if all > room { room - 1 } else { all };
        for (task, since) in self.running.iter().take(shown) {
            let age = duration(now.saturating_duration_since(*since));
            let room = columns.saturating_sub(11);
            let name = elide(&clean(task), room, style);
            lines.push(cut(&format!("{age:>9}  {name}"), columns));
        }
        if all > shown {
            lines.push(cut(&format!("           and {} more", all - shown), columns));
        }
        lines
    }

    /// The first line: how much is done, and what came from where; what does not fit is left out.
    fn bar(&self, now: Instant, columns: usize, style: Style) -> String {
        let width = (columns / 4).min(MAX_BAR);
        let done = (width * self.ended).checked_div(self.tasks).unwrap_or(width);
        let (full, empty) = if style.unicode { ("\u{2501}", "\u{2500}") } else { ("=", "-") };
        let bar = (full.repeat(done), empty.repeat(width - done.min(width)));
        let count = format!("{}/{}", self.ended, self.tasks);
        let mut rest = format!(" {count} {}", elapsed(now.saturating_duration_since(self.began)));
        let failed =
            if self.failed > 0 { format!("  {} FAILED", self.failed) } else { String::new() };
        let figures = [
            (self.failed, failed),
            (self.executed, format!("  {} executed", self.executed)),
            (self.disk, format!("  {} from disk", self.disk)),
            (self.peers, format!("  {} from peers", self.peers)),
            (self.tiers, format!("  {} from tiers", self.tiers)),
            (usize::from(self.bytes > 0), format!("  {} fetched", size(self.bytes))),
        ];
        for (_, figure) in figures.iter().filter(|(number, _)| *number > 0) {
            if width + rest.chars().count() + figure.chars().count() <= columns {
                rest += figure;
            }
        }
        let look = if self.failed > 0 { Look::Red } else { Look::Green };
        let rest = cut(&rest, columns.saturating_sub(width));
        format!("{}{}{rest}", look.paint(&bar.0, style), Look::Dim.paint(&bar.1, style))
    }

    /// A sign of life; none when there is nothing to tell.
    pub(super) fn sign(&self, now: Instant) -> Option<String> {
        let aged = |(task, since): &(String, Instant)| {
            format!("{task} ({})", duration(now.saturating_duration_since(*since)))
        };
        let mut running: Vec<_> = self.running.iter().take(SHOWN_RUNNING).map(aged).collect();
        if self.running.len() > SHOWN_RUNNING {
            running.push(format!("{} more", self.running.len() - SHOWN_RUNNING));
        }
        running.extend(results(&self.moving));
        let time = duration(now.saturating_duration_since(self.began));
        let far = format!("[{}/{}] after {time}", self.ended, self.tasks);
        (!running.is_empty()).then(|| format!("{far}, still running: {}", running.join(", ")))
    }
}

/// Whole seconds, which do not flicker.
fn elapsed(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// A name in so many columns: of a long one both ends, as names of tasks differ in their ends.
fn elide(name: &str, columns: usize, style: Style) -> String {
    let dots = if style.unicode { "\u{2026}" } else { "..." };
    let (long, gap) = (name.chars().count(), dots.chars().count());
    if long <= columns || columns <= 2 * gap {
        return cut(name, columns);
    }
    let start = (columns - gap) / 3;
    let end: String = name.chars().skip(long - (columns - gap - start)).collect();
    format!("{}{dots}{end}", cut(name, start))
}

fn cut(line: &str, columns: usize) -> String {
    line.chars().take(columns).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::peer::PeerId;

    fn fetching() -> moved::Progress {
        moved::Progress {
            total: 4_000_000,
            done: 1_000_000,
            per_second: 500_000.0,
            sources: vec![Source::Peer { peer: PeerId([1; 32]), region: "us-east".into() }],
            ..moved::Progress::default()
        }
    }

    fn hit() -> Ended {
        let source = Source::Peer { peer: PeerId([1; 32]), region: "us-east".into() };
        Ended::Hit { source, bytes: 2_500_000 }
    }

    #[test]
    fn a_view_shows_what_runs_with_its_age_and_fits_in_the_terminal() {
        let began = Instant::now();
        let at = |seconds: u64| began + Duration::from_secs(seconds);
        let mut state = State::new(40, began);
        state.started("lib", at(1));
        state.started("a\u{1b}[2Jpp", at(61));
        state.moving("data", &fetching());
        state.finished("x", &Ended::Executed);
        state.finished("y", &hit());
        state.finished("z", &Ended::UpToDate);
        let lines = state.lines(at(63), 79, 24, Style::default());
        assert_eq!(
            lines,
            [
                "=------------------ 3/40 1:03  1 executed  1 from disk  1 from peers",
                "  fetching data: 1.0 MB of 4.0 MB, 500.0 kB/s from us-east",
                "   62.0 s  lib",
                "    2.0 s  a\u{fffd}[2Jpp",
            ]
        );
        for columns in [0, 1, 10, 39, 79, 199] {
            for rows in [1, 3, 24] {
                let lines = state.lines(at(63), columns, rows, Style::default());
                assert!(lines.len() <= rows.max(3), "{lines:?}");
                assert!(lines.iter().all(|line| line.chars().count() <= columns), "{lines:?}");
            }
        }
        for task in 0..30 {
            state.started(&format!("t{task}"), at(62));
        }
        let lines = state.lines(at(63), 39, 10, Style::default());
        assert_eq!((lines.len(), lines.last().unwrap().trim()), (8, "and 27 more"));
        assert_eq!(lines[0], "--------- 3/40 1:03  1 executed");
    }

    #[test]
    fn of_a_long_name_both_ends_are_shown() {
        let name = "packages/some-library-10:build";
        let unicode = Style { unicode: true, ..Style::default() };
        assert_eq!(elide(name, 30, unicode), name);
        assert_eq!(elide(name, 28, unicode), "packages/\u{2026}e-library-10:build");
        assert_eq!(elide(name, 28, Style::default()), "packages...-library-10:build");
        for columns in 0..40 {
            assert!(elide(name, columns, unicode).chars().count() <= columns);
            assert!(elide(name, columns, Style::default()).chars().count() <= columns);
        }
    }

    #[test]
    fn a_sign_of_life_names_what_runs() {
        let began = Instant::now();
        let mut state = State::new(3, began);
        let now = began + Duration::from_secs(30);
        assert_eq!(state.sign(now), None);
        state.started("app", began);
        state.moving("lib", &fetching());
        assert_eq!(
            state.sign(now).unwrap(),
            "[0/3] after 30.0 s, still running: app (30.0 s), \
             fetching lib: 1.0 MB of 4.0 MB, 500.0 kB/s from us-east"
        );
        state.finished("app", &Ended::Executed);
        state.started("lib", now);
        assert_eq!(state.sign(now).unwrap(), "[1/3] after 30.0 s, still running: lib (0 ms)");
    }
}
