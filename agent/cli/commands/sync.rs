//! `netbuild sync`.

use super::{agent_of, print, print_json_of};
use crate::{
    args::SyncArgs,
    errors::{CliError, EXIT_FAILED},
    settings,
    signals::{Interrupt, exit_code},
    table::{Align, Style, Table},
    text::{clean, count, rate, region, seconds, size},
};
use indicatif::{ProgressBar, ProgressStyle};
use netbuild_proto::control::{SyncOrder, SyncPair, SyncProgress, SyncReport};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::{
    io::{IsTerminal as _, Write as _},
    ops::ControlFlow,
    process::ExitCode,
    time::{Duration, Instant},
};

pub(crate) fn sync(args: &SyncArgs) -> Result<ExitCode, CliError> {
    let settings = settings(&args.common.flags())?;
    let (agent, _) = agent_of(&settings)?;
    let order = SyncOrder {
        from: args.from.clone(),
        to: args.to.clone(),
        all: args.all,
        dry_run: args.dry_run,
        force: args.force,
    };
    let interrupt = Interrupt::catch(&[SIGINT, SIGTERM])?;
    let mut shown = Shown::new();
    let report = agent.sync(&order, &mut |progress| {
        shown.show(&progress, Instant::now());
        if interrupt.signal().is_some() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    shown.bar.finish_and_clear();
    let Some(report) = report? else {
        let text =
            "netbuild: stopped; what was copied is kept, and the same command goes on there\n";
        drop(std::io::stderr().lock().write_all(text.as_bytes()));
        return Ok(exit_code(interrupt.signal().unwrap_or(SIGINT)));
    };
    if args.json {
        print_json_of(&report)?;
    } else {
        print(&to_text(&report, Style::of_stdout(std::io::stdout().is_terminal())));
    }
    let failed = report.pairs.iter().any(|pair| pair.error.is_some());
    Ok(if failed { ExitCode::from(EXIT_FAILED) } else { ExitCode::SUCCESS })
}

/// The line that shows how far it is, on terminals only.
struct Shown {
    bar: ProgressBar,
    /// When the first bytes of this phase were seen, and how many there were already.
    began: Option<(String, Instant, u64)>,
}

impl Shown {
    fn new() -> Self {
        let live = std::io::stderr().is_terminal();
        let bar = if live { ProgressBar::new(1) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {elapsed} {wide_msg}") {
            bar.set_style(style);
        }
        if live {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Self { bar, began: None }
    }

    fn show(&mut self, progress: &SyncProgress, now: Instant) {
        let began = match self.began.take() {
            Some(began) if began.0 == progress.phase => began,
            _ => (progress.phase.clone(), now, progress.bytes_done),
        };
        let elapsed = now.saturating_duration_since(began.1).as_secs_f64();
        let bytes = progress.bytes_done.saturating_sub(began.2);
        let speed = (elapsed > 0.0 && bytes > 0).then(|| (bytes as f64 / elapsed) as u64);
        self.began = Some(began);
        // A bar without a length would be full.
        self.bar.set_length(progress.bytes_total.max(1));
        self.bar.set_position(progress.bytes_done);
        self.bar.set_message(describe(progress, speed));
    }
}

/// The figures first: a narrow terminal cuts the line.
fn describe(progress: &SyncProgress, speed: Option<u64>) -> String {
    let mut parts = Vec::new();
    if progress.artifacts_total > 0 {
        let SyncProgress { artifacts_done, artifacts_total, .. } = progress;
        parts.push(format!("{artifacts_done}/{}", count(*artifacts_total, "artifact")));
        parts.push(format!("{} of {}", size(progress.bytes_done), size(progress.bytes_total)));
    }
    parts.extend(speed.map(rate));
    parts.push(clean(&progress.phase).into_owned());
    parts.retain(|part| !part.is_empty());
    parts.join(", ")
}

fn to_text(report: &SyncReport, style: Style) -> String {
    let done = if report.dry_run { "to copy" } else { "copied" };
    let mut text = String::new();
    if !report.pairs.is_empty() {
        let mut table = Table::new([
            ("from", Align::Left),
            ("to", Align::Left),
            ("artifacts", Align::Right),
            ("size", Align::Right),
            ("sent", Align::Right),
            ("time", Align::Right),
            ("rate", Align::Right),
            ("", Align::Left),
        ]);
        for pair in &report.pairs {
            table.row(cells(pair, report.dry_run));
        }
        text += &table.to_text(style);
    }
    let artifacts = count(report.artifacts, "artifact");
    text += &format!("{artifacts} {done}, {}", size(report.bytes_logical));
    if !report.dry_run {
        text += &format!(", {} sent, in {}", size(report.bytes_on_wire), seconds(report.seconds));
    }
    text.push('\n');
    if report.conflicts > 0 {
        let conflicts = count(report.conflicts, "conflict");
        text += &format!("{conflicts} came to light: see `netbuild conflicts`\n");
    }
    if report.pairs.iter().any(|pair| pair.error.is_some()) {
        text += "not everything was copied; the same command goes on where it stopped\n";
    }
    text
}

fn cells(pair: &SyncPair, dry_run: bool) -> [crate::table::Cell; 8] {
    let unless_dry = |text: String| if dry_run { "-".to_owned() } else { text };
    let sent = (pair.seconds > 0.0).then(|| (pair.bytes_on_wire as f64 / pair.seconds) as u64);
    [
        region(&pair.from).into(),
        region(&pair.to).into(),
        pair.artifacts.to_string().into(),
        size(pair.bytes_logical).into(),
        unless_dry(size(pair.bytes_on_wire)).into(),
        unless_dry(seconds(pair.seconds)).into(),
        unless_dry(crate::text::known(sent, rate)).into(),
        pair.error.as_ref().map(|why| format!("FAILED: {why}")).unwrap_or_default().into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_reads_as_a_line() {
        let progress = SyncProgress {
            phase: "copying us-east to eu-central".into(),
            artifacts_done: 3,
            artifacts_total: 12,
            bytes_done: 5_000_000,
            bytes_total: 33_000_000,
        };
        assert_eq!(
            describe(&progress, Some(12_500_000)),
            "3/12 artifacts, 5.0 MB of 33.0 MB, 12.5 MB/s, copying us-east to eu-central"
        );
        assert_eq!(describe(&SyncProgress::default(), None), "");
    }

    #[test]
    fn a_report_has_a_line_for_each_pair_and_says_what_failed() {
        let good = SyncPair {
            from: "us-east".into(),
            to: "eu-central".into(),
            artifacts: 12,
            bytes_logical: 33_000_000,
            bytes_on_wire: 25_000_000,
            seconds: 2.0,
            error: None,
        };
        let bad = SyncPair {
            to: "us-west".into(),
            seconds: 0.0,
            error: Some("no agent there".into()),
            ..good.clone()
        };
        let report = SyncReport {
            pairs: vec![good.clone(), bad],
            artifacts: 12,
            bytes_logical: 33_000_000,
            bytes_on_wire: 25_000_000,
            seconds: 2.5,
            conflicts: 1,
            dry_run: false,
        };
        assert_eq!(
            to_text(&report, Style::default()),
            "from     to          artifacts     size     sent   time       rate\n\
             us-east  eu-central         12  33.0 MB  25.0 MB  2.0 s  12.5 MB/s\n\
             us-east  us-west            12  33.0 MB  25.0 MB   0 ms          -  FAILED: no agent there\n\
             12 artifacts copied, 33.0 MB, 25.0 MB sent, in 2.5 s\n\
             1 conflict came to light: see `netbuild conflicts`\n\
             not everything was copied; the same command goes on where it stopped\n"
        );
        let dry = SyncReport { pairs: vec![good], conflicts: 0, dry_run: true, ..report };
        assert_eq!(
            to_text(&dry, Style::default()),
            "from     to          artifacts     size  sent  time  rate\n\
             us-east  eu-central         12  33.0 MB     -     -     -\n\
             12 artifacts to copy, 33.0 MB\n"
        );
    }
}
