//! `netbuild verify`.

use super::{existing, print, print_json_of};
use crate::{
    args::VerifyArgs,
    errors::{CliError, EXIT_FAILED},
    settings,
    signals::{Interrupt, exit_code},
    text::{clean, count, rate, seconds, size},
};
use indicatif::{ProgressBar, ProgressStyle};
use netbuild_proto::control::{MAX_FINDINGS, VerifyOrder, VerifyProgress, VerifyReport};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::{
    io::{IsTerminal as _, Write as _},
    ops::ControlFlow,
    process::ExitCode,
    time::{Duration, Instant},
};

pub(crate) fn verify(args: &VerifyArgs) -> Result<ExitCode, CliError> {
    let settings = settings(&args.common.flags())?;
    let session = existing(&settings)?;
    let order = VerifyOrder { deep: args.deep, repair: args.repair };
    let interrupt = Interrupt::catch(&[SIGINT, SIGTERM])?;
    let (bar, began) = (bar(), Instant::now());
    let report = session.verify(&order, &mut |progress| {
        show(&bar, &progress, began.elapsed());
        if interrupt.signal().is_some() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    bar.finish_and_clear();
    let Some(report) = report? else {
        let text = "netbuild: stopped; what was mended stays so\n";
        drop(std::io::stderr().lock().write_all(text.as_bytes()));
        return Ok(exit_code(interrupt.signal().unwrap_or(SIGINT)));
    };
    if args.json {
        print_json_of(&report)?;
    } else {
        print(&to_text(&report));
    }
    Ok(if report.remaining > 0 { ExitCode::from(EXIT_FAILED) } else { ExitCode::SUCCESS })
}

/// The line that shows how far it is, on terminals only.
fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(1);
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {elapsed} {wide_msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn show(bar: &ProgressBar, progress: &VerifyProgress, elapsed: Duration) {
    let (done, total) = match progress.bytes_total {
        0 => (
            progress.blobs_done + progress.records_done,
            progress.blobs_total + progress.records_total,
        ),
        total => (progress.bytes_done, total),
    };
    // A bar without a length would be full, and what came meanwhile is in no total.
    bar.set_length(total.max(done).max(1));
    bar.set_position(done);
    bar.set_message(describe(progress, elapsed));
}

/// The figures first: a narrow terminal cuts the line.
fn describe(progress: &VerifyProgress, elapsed: Duration) -> String {
    let mut parts = Vec::new();
    if progress.bytes_total > 0 {
        parts.push(format!("{} of {}", size(progress.bytes_done), size(progress.bytes_total)));
        let seconds = elapsed.as_secs_f64();
        if seconds > 0.0 && progress.bytes_done > 0 {
            parts.push(rate((progress.bytes_done as f64 / seconds) as u64));
        }
    }
    parts.push(count(progress.blobs_done, "blob"));
    parts.push(count(progress.records_done, "record"));
    if progress.found > 0 {
        parts.push(format!("{} found", progress.found));
    }
    parts.push(clean(&progress.phase).into_owned());
    parts.retain(|part| !part.is_empty());
    parts.join(", ")
}

fn to_text(report: &VerifyReport) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let (what, detail) = (clean(&finding.what), clean(&finding.detail));
        text += &format!("{:<8} {:<10} {what}: {detail}\n", finding.outcome, finding.fault);
    }
    let found = report.damaged + report.missing + report.orphaned + report.stray;
    if found > MAX_FINDINGS as u64 {
        text += &format!("and {} more\n", found - report.findings.len() as u64);
    }
    let (blobs, records) = (count(report.blobs, "blob"), count(report.records, "record"));
    let how = if report.deep { "read" } else { "looked at" };
    text += &format!("{blobs} and {records} {how}");
    if report.deep {
        let speed = (report.seconds > 0.0).then(|| (report.bytes as f64 / report.seconds) as u64);
        let speed = speed.map(|speed| format!(" at {}", rate(speed))).unwrap_or_default();
        text += &format!(", {}{speed}", size(report.bytes));
    }
    text += &format!(", in {}: ", seconds(report.seconds));
    let counts = [
        (report.damaged, "damaged"),
        (report.missing, "missing"),
        (report.orphaned, "not in the index"),
        (report.stray, "not netbuild's"),
        (report.healed, "healed from others"),
        (report.lost, "lost"),
    ];
    let counts: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    text += &if counts.is_empty() { "all is well".to_owned() } else { counts.join(", ") };
    text.push('\n');
    if report.remaining > 0 && !report.repair {
        text += "mend it with: netbuild verify --repair";
        text += if report.deep { " --deep\n" } else { "\n" };
    } else if report.lost > 0 {
        text += "what was lost is built again when it is needed\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_proto::control::VerifyFinding;

    #[test]
    fn a_store_in_order_is_one_line() {
        let report = VerifyReport { blobs: 7, records: 1, seconds: 0.02, ..Default::default() };
        assert_eq!(to_text(&report), "7 blobs and 1 record looked at, in 20 ms: all is well\n");
        let (bytes, seconds) = (5_000_000, 2.0);
        let report = VerifyReport { deep: true, bytes, seconds, ..report };
        assert_eq!(
            to_text(&report),
            "7 blobs and 1 record read, 5.0 MB at 2.5 MB/s, in 2.0 s: all is well\n"
        );
    }

    #[test]
    fn damage_is_listed_with_what_became_of_it_and_what_to_do() {
        let finding = VerifyFinding {
            what: "blob ab/9".into(),
            fault: "damaged".into(),
            detail: "its bytes are others".into(),
            outcome: "left".into(),
        };
        let report = VerifyReport {
            blobs: 2,
            seconds: 1.0,
            damaged: 1,
            remaining: 1,
            findings: vec![finding.clone()],
            ..VerifyReport::default()
        };
        assert_eq!(
            to_text(&report),
            "left     damaged    blob ab/9: its bytes are others\n\
             2 blobs and 0 records looked at, in 1.0 s: 1 damaged\n\
             mend it with: netbuild verify --repair\n"
        );
        let findings = vec![VerifyFinding { outcome: "lost".into(), ..finding }];
        let report = VerifyReport { repair: true, lost: 1, findings, ..report };
        assert!(
            to_text(&report)
                .ends_with(": 1 damaged, 1 lost\nwhat was lost is built again when it is needed\n")
        );
    }

    #[test]
    fn progress_reads_as_a_line() {
        let progress = VerifyProgress {
            phase: "blobs".into(),
            blobs_done: 3,
            bytes_done: 5_000_000,
            bytes_total: 33_000_000,
            found: 1,
            ..VerifyProgress::default()
        };
        assert_eq!(
            describe(&progress, Duration::from_secs(2)),
            "5.0 MB of 33.0 MB, 2.5 MB/s, 3 blobs, 0 records, 1 found, blobs"
        );
    }
}
