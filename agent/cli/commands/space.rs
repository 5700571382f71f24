//! `netbuild du` and `netbuild gc`.

use super::{existing, print, print_json_of};
use crate::{
    args::{GcArgs, ReportArgs},
    errors::CliError,
    settings,
    signals::{Interrupt, exit_code},
    text::{clean, count, region, seconds, size},
};
use indicatif::{ProgressBar, ProgressStyle};
use netbuild_core::cache::CacheError;
use netbuild_proto::control::{GcOrder, GcReport, GcRow, SpaceReport, SpaceShare};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::{
    fmt::Write as _,
    io::{IsTerminal as _, Write as _},
    ops::ControlFlow,
    process::ExitCode,
    time::Duration,
};

/// Things that went, shown one by one at most; `--json` has more.
const SHOWN: usize = 20;

pub(crate) fn du(args: &ReportArgs) -> Result<ExitCode, CliError> {
    let settings = settings(&args.common.flags())?;
    let session = existing(&settings)?;
    let told = "netbuild: stopped\n";
    let report = match step(told, |tell| session.space(tell))? {
        Ok(report) => report,
        Err(code) => return Ok(code),
    };
    if args.json {
        print_json_of(&report)?;
    } else {
        print(&space_to_text(&report, &settings.data_dir.display().to_string()));
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn gc(args: &GcArgs) -> Result<ExitCode, CliError> {
    let settings = settings(&args.common.flags())?;
    let session = existing(&settings)?;
    let order = GcOrder { dry_run: args.dry_run, max_bytes: args.max_size };
    let told = "netbuild: stopped; what went by then is gone, the rest stays\n";
    let report = match step(told, |tell| session.gc(order, tell))? {
        Ok(report) => report,
        Err(code) => return Ok(code),
    };
    if args.json {
        print_json_of(&report)?;
    } else {
        print(&gc_to_text(&report));
    }
    Ok(ExitCode::SUCCESS)
}

/// Does what may take long, shows how far it is, and ends it with Ctrl-C: then there is a code to
/// end with.
fn step<T>(
    told: &str,
    work: impl FnOnce(&(dyn Fn(&str, f64) -> ControlFlow<()> + Sync)) -> Result<Option<T>, CacheError>,
) -> Result<Result<T, ExitCode>, CliError> {
    let interrupt = Interrupt::catch(&[SIGINT, SIGTERM])?;
    let bar = bar();
    let done = work(&|what, part| {
        bar.set_position((part * 1000.0) as u64);
        bar.set_message(clean(what).into_owned());
        if interrupt.signal().is_some() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    bar.finish_and_clear();
    let done = done?;
    match (done, interrupt.signal()) {
        (Some(report), None) => Ok(Ok(report)),
        (_, signal) => {
            drop(std::io::stderr().lock().write_all(told.as_bytes()));
            Ok(Err(exit_code(signal.unwrap_or(SIGINT))))
        }
    }
}

/// The line that shows how far it is, on terminals only.
fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(1000);
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {elapsed} {wide_msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn space_to_text(report: &SpaceReport, data_dir: &str) -> String {
    let mut text = format!(
        "{} of at most {} in {data_dir}; {} free there, at least {} stay so\n",
        size(report.total),
        size(report.max_bytes),
        size(report.free),
        size(report.min_free),
    );
    let mut line = |name: &str, bytes: u64, note: String| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {:>9}  {name}{note}", size(bytes));
    };
    let (blobs, records) = (count(report.blobs, "blob"), count(report.records, "record"));
    line("blobs in files", report.blob_files, String::new());
    line("small blobs", report.small_blobs, format!(" ({blobs} in all)"));
    line("records", report.record_bytes, format!(" ({records})"));
    line("conflicts, notes of removal", report.notes, String::new());
    line("dead in the journal", report.dead, ", given back when half of a segment is dead".into());
    line("index", report.index, String::new());
    line("arriving", report.arriving, String::new());
    line("put aside as damaged", report.quarantine, String::new());
    shares(&mut text, "last used", &report.ages, &|name| name.to_owned());
    shares(&mut text, "built in", &report.regions, &|name| region(name).to_owned());
    shares(&mut text, "largest", &report.paths, &|name| match name {
        "" => "(no record names it)".to_owned(),
        path => path.to_owned(),
    });
    if report.pins > 0 {
        let _ = writeln!(text, "{}: see `netbuild pin`", count(report.pins, "pin"));
    }
    text
}

fn shares(text: &mut String, title: &str, shares: &[SpaceShare], name: &dyn Fn(&str) -> String) {
    if shares.iter().all(|share| share.results == 0) {
        return;
    }
    let _ = writeln!(text, "{title}");
    for share in shares.iter().filter(|share| share.results > 0) {
        let (name, results) = (name(&share.name), count(share.results, "result"));
        let _ = writeln!(text, "  {:>9}  {} ({results})", size(share.bytes), clean(&name));
    }
}

fn gc_to_text(report: &GcReport) -> String {
    let mut text = String::new();
    for row in report.removed.rows.iter().take(SHOWN) {
        text += &row_to_text(row);
    }
    let all = report.reasons.iter().map(|reason| reason.results).sum::<u64>();
    let more = all.saturating_sub(report.removed.rows.len().min(SHOWN) as u64);
    if more > 0 {
        let _ = writeln!(text, "... and {more} more");
    }
    for SpaceShare { name, results, bytes } in &report.reasons {
        let _ = writeln!(text, "{name}: {}, {}", count(*results, "result"), size(*bytes));
    }
    if report.hints > 0 {
        let results = count(report.hints, "result");
        let _ = writeln!(text, "{results} known still, as other agents have what they name");
    }
    let (before, after, most) = (size(report.before), size(report.after), size(report.max_bytes));
    if report.dry_run {
        let _ =
            writeln!(text, "{before} would become {after}, of at most {most}; nothing was removed");
    } else {
        let took = seconds(report.seconds);
        let _ = writeln!(text, "{before} became {after}, of at most {most}, in {took}");
    }
    text
}

fn row_to_text(row: &GcRow) -> String {
    let name = if row.path.is_empty() { &row.what } else { &row.path };
    let mut why = vec![row.why.clone()];
    if !row.path.is_empty() {
        why.push(format!("{} to build", seconds(row.rebuild_s)));
    }
    why.extend(row.refetch_s.map(|time| format!("{} to fetch", seconds(time))));
    why.push(format!("used {} ago", seconds(row.idle_s as f64)));
    format!("{:>9}  {}: {}\n", size(row.bytes), clean(name), why.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_proto::control::Rows;

    #[test]
    fn what_goes_is_told_with_its_reason() {
        let row = GcRow {
            what: "action 07".into(),
            path: "bin/app".into(),
            why: "held elsewhere".into(),
            bytes: 5_000_000,
            idle_s: 7_200,
            rebuild_s: 90.0,
            refetch_s: Some(0.4),
        };
        let reason = SpaceShare { name: "held elsewhere".into(), results: 1, bytes: 5_000_000 };
        let report = GcReport {
            dry_run: true,
            before: 20_000_000,
            after: 15_000_000,
            max_bytes: 16_000_000,
            results: 1,
            hints: 1,
            blobs: 1,
            reasons: vec![reason],
            removed: Rows::fitting(vec![row]),
            seconds: 0.1,
        };
        assert_eq!(
            gc_to_text(&report),
            "   5.0 MB  bin/app: held elsewhere, 90.0 s to build, 400 ms to fetch, used 2 h 0 min ago\n\
             held elsewhere: 1 result, 5.0 MB\n\
             1 result known still, as other agents have what they name\n\
             20.0 MB would become 15.0 MB, of at most 16.0 MB; nothing was removed\n"
        );
    }

    #[test]
    fn the_space_is_told_by_kind_age_region_and_path() {
        let share = |name: &str| SpaceShare { name: name.into(), results: 2, bytes: 3_000_000 };
        let report = SpaceReport {
            total: 9_000_000,
            max_bytes: 50_000_000_000,
            ages: vec![share("less than a day"), SpaceShare::default()],
            regions: vec![share("eu\u{1b}")],
            paths: vec![share("")],
            pins: 1,
            ..SpaceReport::default()
        };
        let text = space_to_text(&report, "/data");
        assert!(text.starts_with("9.0 MB of at most 50.0 GB in /data; "), "{text}");
        assert!(text.contains("last used\n     3.0 MB  less than a day (2 results)\n"), "{text}");
        assert!(text.contains("(no record names it) (2 results)\n1 pin: see"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}
