//! `netbuild doctor`.

use super::{print, print_json};
use crate::{
    args::DoctorArgs,
    commands::run::executable,
    errors::{CliError, EXIT_FAILED},
    table::{Look as Paint, Style},
    text::{self, clean},
};
use netbuild_core::doctor::{Configuration, Finding, Levels, Verdict, judge};
use netbuild_node::{
    config::{Settings, file_of, resolve},
    doctor::{FOR_EACH, Looking, examine},
};
use netbuild_runner::{Cancel, levels_here};
use serde_json::json;
use std::{fmt::Write as _, io::IsTerminal as _, process::ExitCode, sync::Arc, time::Duration};

/// Columns of the verdict and of what was looked at.
const VERDICT: usize = 8;
const CHECK: usize = 15;

pub(crate) fn doctor(args: &DoctorArgs) -> Result<ExitCode, CliError> {
    let variable = |name: &str| std::env::var_os(name);
    let flags = args.flags();
    let settings = resolve(&flags, &variable);
    let configuration = Configuration {
        file: file_of(&flags, &variable).map(|path| path.display().to_string()),
        error: settings.as_ref().err().map(|error| netbuild_node::chain(error)),
    };
    let settings = settings.ok();
    let cancel = Arc::new(Cancel::default());
    let all = Duration::from_secs(args.timeout.into());
    let levels = levels(settings.as_ref(), &cancel, all.mul_f64(FOR_EACH))?;
    let mut facts = examine(configuration, settings.as_ref(), all);
    facts.levels = levels.take().flatten();
    // Those that are late are not waited for at the end either.
    cancel.request();
    let findings = judge(&facts);
    if args.json {
        print_json(&to_json(&findings));
    } else {
        let style = Style::of_stdout(std::io::stdout().is_terminal());
        print(&to_text(&findings, style));
    }
    Ok(match count(&findings, Verdict::Problem) {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(EXIT_FAILED),
    })
}

/// Begins to find out which levels there are, beside what else is looked at.
fn levels(
    settings: Option<&Settings>,
    cancel: &Arc<Cancel>,
    limit: Duration,
) -> Result<Looking<Option<Levels>>, CliError> {
    let (executable, cancel) = (executable()?, Arc::clone(cancel));
    let from = settings
        .map_or_else(Default::default, |settings| (settings.publish_from, settings.accept_from));
    Ok(Looking::start(limit, move || {
        let here = levels_here(executable, &cancel);
        let here = here.inspect_err(|error| {
            let temporary = std::env::temp_dir();
            tracing::warn!("levels of hermeticity: `{}`: {error}", temporary.display());
        });
        let here = here.ok()?;
        let (publish_from, accept_from) = from;
        Some(Levels { tried: here.tried, landlock: here.landlock, publish_from, accept_from })
    }))
}

fn count(findings: &[Finding], verdict: Verdict) -> usize {
    findings.iter().filter(|finding| finding.verdict == verdict).count()
}

fn to_json(findings: &[Finding]) -> serde_json::Value {
    let checks = findings.iter().map(|finding| {
        json!({
            "check": finding.check,
            "verdict": finding.verdict.as_str(),
            "says": finding.says,
            "remedy": finding.remedy,
        })
    });
    json!({
        "problems": count(findings, Verdict::Problem),
        "warnings": count(findings, Verdict::Warning),
        "notes": count(findings, Verdict::Note),
        "checks": checks.collect::<Vec<_>>(),
    })
}

/// A line for each finding, and one below it for what mends it.
fn to_text(findings: &[Finding], style: Style) -> String {
    let mut text = String::new();
    for Finding { check, verdict, says, remedy } in findings {
        let word = paint(*verdict)
            .map_or_else(|| verdict.to_string(), |paint| paint.paint(verdict.as_str(), style));
        let fill = VERDICT.saturating_sub(verdict.as_str().len());
        // Writing to a string does not fail.
        let _ = writeln!(text, "{word}{:fill$} {check:<CHECK$} {}", "", clean(says));
        if let Some(remedy) = remedy {
            let _ = writeln!(text, "{:VERDICT$} {:CHECK$} -> {}", "", "", clean(remedy));
        }
    }
    let counted = |verdict, noun| text::count(count(findings, verdict) as u64, noun);
    let _ = writeln!(
        text,
        "{}, {}, {}",
        counted(Verdict::Problem, "problem"),
        counted(Verdict::Warning, "warning"),
        counted(Verdict::Note, "note")
    );
    text
}

fn paint(verdict: Verdict) -> Option<Paint> {
    match verdict {
        Verdict::Ok => Some(Paint::Green),
        Verdict::Note => None,
        Verdict::Warning => Some(Paint::Yellow),
        Verdict::Problem => Some(Paint::Red),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_has_a_line_and_what_mends_it_another() {
        let finding = |check, verdict, says: &str, remedy: Option<&str>| Finding {
            check,
            verdict,
            says: says.to_owned(),
            remedy: remedy.map(str::to_owned),
        };
        let findings = [
            finding("clock", Verdict::Ok, "it shows the year 2026", None),
            finding("space", Verdict::Problem, "no\u{1b}[2J room", Some("make some")),
            finding("agent", Verdict::Note, "none runs", None),
        ];
        assert_eq!(
            to_text(&findings, Style::default()),
            "ok       clock           it shows the year 2026\n\
             problem  space           no\u{fffd}[2J room\n\
             \u{20}                        -> make some\n\
             note     agent           none runs\n\
             1 problem, 0 warnings, 1 note\n"
        );
        let json = to_json(&findings);
        assert_eq!(
            (&json["problems"], &json["checks"][1]["remedy"]),
            (&json!(1), &json!("make some"))
        );
    }
}
