//! What was done about a task in the workspace here, and why, field by field.

use crate::{
    table::{Look, Style},
    text::{ago, clean, seconds, size},
};
use netbuild_core::explain::{Cause, Change, Deed, Difference, RunEnd, Turn, nearest};
use serde_json::{Value, json};

/// Most differences of one kind that are shown to a person.
const SHOWN: usize = 20;

/// The latest `last` turns of a task as text, the latest last; `turns` are all that are known.
pub(super) fn to_text(turns: &[Turn], last: usize, now_ms: u64, style: Style) -> String {
    let from = turns.len().saturating_sub(last);
    let texts: Vec<_> = (from..turns.len()).map(|at| one(turns, at, now_ms, style)).collect();
    texts.join("\n")
}

fn one(turns: &[Turn], at: usize, now_ms: u64, style: Style) -> String {
    let turn = &turns[at];
    let task = clean(&turn.task);
    let (when, took) = (ago(turn.at_ms, now_ms), seconds(turn.took_ms as f64 / 1e3));
    let mut text = format!("{}: ", Look::Bold.paint(&task, style));
    text += &match &turn.deed {
        Deed::Restored { source, bytes } => {
            let bytes = if *bytes > 0 { format!("{}, ", size(*bytes)) } else { String::new() };
            format!(
                "restored {when} from {}, verified, {bytes}{took}\n",
                clean(&source.to_string())
            )
        }
        Deed::Ran { cause, end } => {
            let end = match end {
                RunEnd::Kept => String::new(),
                RunEnd::NotKept(why) => format!("; its result was not kept: {}", clean(why)),
                RunEnd::Failed(how) => format!("; it failed: {}", clean(how)),
            };
            format!("ran {when}, {took}, because {}{end}\n", clean(&why(cause)))
        }
    };
    text += &format!("  key {}\n", turn.key.short());
    if let Some(line) = same_key(turns, at, now_ms) {
        text += &format!("  {line}\n");
        return text;
    }
    let Some((before, differences)) = nearest(&turns[..at], turn) else {
        text += "  nothing is known of an earlier run of it here\n";
        return text;
    };
    let (when, key) = (ago(before.at_ms, now_ms), before.key.short());
    text += &format!("  the nearest earlier one, {when}, key {key}, differs in\n");
    for difference in differences.iter().take(SHOWN) {
        let (field, what) = told(difference);
        text += &format!("    {field:<9}  {}\n", clean(&what));
    }
    if differences.len() > SHOWN {
        text += &format!("    and {} more\n", differences.len() - SHOWN);
    }
    text
}

/// What is to be said of an earlier turn with the same key, if there is one: it did not leave a result,
/// or that is gone or was not taken.
fn same_key(turns: &[Turn], at: usize, now_ms: u64) -> Option<String> {
    let turn = &turns[at];
    let before = turns[..at].iter().rev().find(|before| before.key == turn.key)?;
    let when = ago(before.at_ms, now_ms);
    Some(match (&before.deed, &turn.deed) {
        (_, Deed::Restored { .. }) => {
            format!("the same key as {when}; its outputs were gone or changed")
        }
        (Deed::Ran { end: RunEnd::Failed(_), .. }, _) => {
            format!("the same key as {when}; that run failed")
        }
        (Deed::Ran { end: RunEnd::NotKept(_), .. }, _) => {
            format!("the same key as {when}; the result of that run was not kept")
        }
        (_, Deed::Ran { cause: Cause::NoRecord, .. }) => {
            format!("the same key as {when}; the cache of this run does not have that result")
        }
        _ => format!("the same key as {when}"),
    })
}

fn why(cause: &Cause) -> String {
    match cause {
        Cause::NeverCached => "it is never cached".into(),
        Cause::InputsUnknown => "the inputs that its dep file names were not known here".into(),
        Cause::NoRecord => "no result is known for its key".into(),
        Cause::BoundElsewhere => {
            "the only result for its key contains the path of another workspace".into()
        }
        Cause::CacheFailed(why) => format!("the cache could not be asked: {why}"),
        Cause::NotRestored(why) => format!("its result could not be restored: {why}"),
        Cause::RanOver(what) => format!("{what}, and so it ran again"),
        Cause::SoonerBuilt(why) => format!("building was expected to be sooner: {why}"),
    }
}

/// The field of a difference, and what is different.
fn told(difference: &Difference) -> (&'static str, String) {
    let path = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    match difference {
        Difference::Input(name, change) => {
            ("inputs", format!("{} ({})", path(name), word(*change)))
        }
        Difference::Inputs => ("inputs", "some of very many".into()),
        Difference::Argument(at, before, now) => {
            let shown = |argument: &Option<String>| match argument {
                Some(argument) => format!("`{}`", shorter(argument)),
                None => "nothing".into(),
            };
            ("command", format!("argument {at}: {} instead of {}", shown(now), shown(before)))
        }
        Difference::WorkingDir(before, now) => {
            ("directory", format!("`{now}` instead of `{before}`"))
        }
        Difference::Env(name, change) | Difference::PassEnv(name, change) => {
            let change = match change {
                Change::Modified => "value changed",
                other => word(*other),
            };
            ("env", format!("{name} ({change})"))
        }
        Difference::SecretEnv(name, change) => {
            ("env", format!("{name} (secret, {})", word(*change)))
        }
        Difference::Tool(name, change) => ("tool", format!("{name} ({})", word(*change))),
        Difference::Output(pattern, change) => {
            ("outputs", format!("{pattern} ({})", word(*change)))
        }
        Difference::Clean(now) => {
            let now = if *now { "removed" } else { "left" };
            ("clean", format!("outputs are {now} before the command runs"))
        }
        Difference::Platform(before, now) => ("platform", format!("{now} instead of {before}")),
        Difference::Salt(name) => ("salt", format!("{name} (value changed)")),
    }
}

fn word(change: Change) -> &'static str {
    match change {
        Change::Added => "added",
        Change::Removed => "removed",
        Change::Modified => "modified",
        Change::MadeExecutable => "made executable",
        Change::MadeNotExecutable => "not executable any more",
        Change::Replaced => "of another kind",
        Change::Unset => "not set any more",
        Change::Set => "set now",
    }
}

/// An argument, with its middle left out if it is long: scripts are arguments.
fn shorter(argument: &str) -> String {
    const ENDS: usize = 60;
    let count = argument.chars().count();
    if count <= 2 * ENDS {
        return argument.to_owned();
    }
    let (start, end): (String, String) =
        (argument.chars().take(ENDS).collect(), argument.chars().skip(count - ENDS).collect());
    format!("{start}...{end}")
}

/// The latest `last` turns as JSON, the latest first.
pub(super) fn to_json(turns: &[Turn], last: usize) -> Value {
    let from = turns.len().saturating_sub(last);
    let rows = (from..turns.len()).rev().map(|at| {
        let turn = &turns[at];
        let mut row = json!({
            "at_ms": turn.at_ms,
            "took_ms": turn.took_ms,
            "key": turn.key.to_string(),
        });
        match &turn.deed {
            Deed::Restored { source, bytes } => {
                row["did"] = "restored".into();
                row["source"] = source.to_string().into();
                row["verified"] = true.into();
                row["bytes"] = (*bytes).into();
            }
            Deed::Ran { cause, end } => {
                row["did"] = "ran".into();
                row["why"] = why(cause).into();
                let (ended, reason) = match end {
                    RunEnd::Kept => ("kept", None),
                    RunEnd::NotKept(why) => ("not kept", Some(why)),
                    RunEnd::Failed(how) => ("failed", Some(how)),
                };
                row["ended"] = ended.into();
                row["reason"] = reason.map(String::as_str).into();
            }
        }
        row["nearest"] = nearest(&turns[..at], turn).map_or(Value::Null, |(before, found)| {
            let differs: Vec<_> = found.iter().map(difference_to_json).collect();
            json!({"at_ms": before.at_ms, "key": before.key.to_string(), "differs": differs})
        });
        row
    });
    rows.collect()
}

fn difference_to_json(difference: &Difference) -> Value {
    let (field, what) = told(difference);
    match difference {
        Difference::Input(path, change) => {
            json!({"field": field, "name": String::from_utf8_lossy(path), "change": word(*change)})
        }
        Difference::Env(name, change)
        | Difference::PassEnv(name, change)
        | Difference::SecretEnv(name, change)
        | Difference::Tool(name, change)
        | Difference::Output(name, change) => {
            json!({"field": field, "name": name, "change": word(*change)})
        }
        _ => json!({"field": field, "change": what}),
    }
}
