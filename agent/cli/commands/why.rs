//! `netbuild why`: what was done about a task, and what was taken from where.

mod turns;

use super::{agent_of, now_ms, print, print_json, print_rows, tasks_in};
use crate::{
    args::WhyArgs,
    errors::CliError,
    graph_file, settings,
    table::{Align, Look, Style, Table},
    text::{ago, clean, known, seconds, size},
};
use netbuild_core::explain::Turn;
use netbuild_proto::control::{Decision, Rows};
use serde_json::json;
use std::{io::IsTerminal as _, process::ExitCode};

/// Decisions that are shown when nobody says how many.
const DECISIONS: u32 = 10;
/// Turns of a task, likewise: the latest.
const TURNS: u32 = 1;

pub(crate) fn why(args: &WhyArgs) -> Result<ExitCode, CliError> {
    let about = args.about.as_deref();
    let done = about.map_or(Ok(Vec::new()), |task| turns_of(args, task))?;
    match about {
        Some(task) if !done.is_empty() => of_task(args, task, &done),
        _ => of_agent(args),
    }
}

/// What was done about a task in the workspace of the graph.
fn turns_of(args: &WhyArgs, task: &str) -> Result<Vec<Turn>, CliError> {
    let root = graph_file::root_of(&args.graph)?;
    let unreadable = |error| CliError::io("read the history of", &root, &error);
    netbuild_runner::turns(&root, task).map_err(unreadable)
}

/// Explains a task that was run here, with what the agent decided about its result, if there is an
/// agent and it remembers that.
fn of_task(args: &WhyArgs, task: &str, done: &[Turn]) -> Result<ExitCode, CliError> {
    let settings = settings(&args.common.flags())?;
    let last = args.last.unwrap_or(TURNS);
    let key = done.last().map(|turn| turn.key.to_string());
    let decisions = agent_of(&settings)
        .and_then(|(agent, _)| Ok(agent.decisions(key.as_deref(), last)?))
        .map_or_else(|_| Vec::new(), |decisions| decisions.rows);
    if args.json {
        let turns = turns::to_json(done, last as usize);
        print_json(&json!({"task": task, "turns": turns, "decisions": decisions}));
        return Ok(ExitCode::SUCCESS);
    }
    let style = Style::of_stdout(std::io::stdout().is_terminal());
    let mut text = turns::to_text(done, last as usize, now_ms(), style);
    if !decisions.is_empty() {
        text += &format!("\n{}", to_text(&decisions, now_ms(), style));
    }
    print(&text);
    Ok(ExitCode::SUCCESS)
}

fn of_agent(args: &WhyArgs) -> Result<ExitCode, CliError> {
    let settings = settings(&args.common.flags())?;
    let about = match &args.about {
        Some(about) => match key_of_task(args, about)? {
            Some(key) => Some(key),
            // A name may look like the beginning of a digest.
            None if is_task(args, about) => {
                let nothing = format!("no run here did anything about the task `{about}`");
                return Err(CliError::failed(nothing).hint(format!("run it: netbuild run {about}")));
            }
            None => Some(about.clone()),
        },
        None => None,
    };
    let (agent, _) = agent_of(&settings).map_err(|error| match &args.about {
        Some(about) => error.hint(format!("and no run here did anything about a task `{about}`")),
        None => error,
    })?;
    let decisions: Rows<Decision> =
        agent.decisions(about.as_deref(), args.last.unwrap_or(DECISIONS))?;
    if args.json {
        print_rows(&decisions)?;
        return Ok(ExitCode::SUCCESS);
    }
    match &args.about {
        Some(about) if decisions.rows.is_empty() => {
            Err(CliError::failed(format!("nothing is remembered about `{about}`")).hint(
                "give a task that was run in this workspace, or the first digits of a digest or \
                 action key; `netbuild why` lists what the agent remembers",
            ))
        }
        _ => {
            let style = Style::of_stdout(std::io::stdout().is_terminal());
            print(&to_text(&decisions.rows, now_ms(), style));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The action key that a task had in its last run in the workspace of the graph.
fn key_of_task(args: &WhyArgs, name: &str) -> Result<Option<String>, CliError> {
    let mut tasks = tasks_in(&graph_file::root_of(&args.graph)?).into_iter();
    Ok(tasks.find(|(task, _)| task == name).map(|(_, task)| task.key.to_string()))
}

/// Whether the graph has a task of this name, if there is a graph.
fn is_task(args: &WhyArgs, name: &str) -> bool {
    graph_file::load_quietly(&args.graph).is_ok_and(|loaded| loaded.graph.find(name).is_ok())
}

/// The decisions, the latest last, where one looks first.
fn to_text(decisions: &[Decision], now_ms: u64, style: Style) -> String {
    if decisions.is_empty() {
        return "the agent has decided nothing yet\n".to_owned();
    }
    let texts: Vec<_> =
        decisions.iter().rev().map(|decision| one_to_text(decision, now_ms, style)).collect();
    texts.join("\n")
}

fn one_to_text(decision: &Decision, now_ms: u64, style: Style) -> String {
    let mut about = vec![ago(decision.at_ms, now_ms)];
    if decision.size > 0 {
        about.push(size(decision.size));
    }
    about.extend(decision.build_s.map(|s| format!("built in {}", seconds(s))));
    let what = clean(&decision.what);
    let mut text = format!(
        "{} ({}): {}\n",
        Look::Bold.paint(&what, style),
        about.join(", "),
        clean(&decision.outcome)
    );
    if decision.attempts.is_empty() {
        return text;
    }
    let mut table = Table::new([
        ("   source", Align::Left),
        ("outcome", Align::Left),
        ("expected", Align::Right),
        ("took", Align::Right),
        ("received", Align::Right),
        ("why", Align::Left),
    ]);
    for (index, attempt) in decision.attempts.iter().enumerate() {
        let received = (attempt.bytes > 0).then_some(attempt.bytes);
        table.row([
            format!("{:>2} {}", index + 1, attempt.source).into(),
            attempt.outcome.as_str().into(),
            known(attempt.predicted_s, seconds).into(),
            known(attempt.actual_s, seconds).into(),
            known(received, size).into(),
            attempt.reason.as_str().into(),
        ]);
    }
    text += &table.to_text(style);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_proto::control::Attempt;

    #[test]
    fn a_decision_tells_what_was_tried_and_what_came_of_it() {
        let failed = Attempt {
            source: "peer bbbbbbbb (us-east)".into(),
            region: "us-east".into(),
            reason: "nearest".into(),
            predicted_s: Some(0.2),
            began_ms: 1,
            actual_s: Some(2.0),
            bytes: 0,
            outcome: "late".into(),
        };
        let fetched = Attempt {
            source: "peer cccccccc (us-west)".into(),
            outcome: "fetched".into(),
            bytes: 3_300_000,
            reason: "next".into(),
            ..failed.clone()
        };
        let first = Decision {
            at_ms: 1_000,
            what: "task services/api".into(),
            size: 3_300_000,
            build_s: Some(12.0),
            attempts: vec![failed, fetched],
            outcome: "fetched".into(),
        };
        let second = Decision {
            at_ms: 31_000,
            what: "blob af".into(),
            outcome: "on disk".into(),
            ..Decision::default()
        };
        // The agent tells the latest first.
        assert_eq!(
            to_text(&[second, first], 31_500, Style::default()),
            "task services/api (30 s ago, 3.3 MB, built in 12.0 s): fetched\n   \
                source                   outcome  expected   took  received  why\n \
              1 peer bbbbbbbb (us-east)  late       200 ms  2.0 s         -  nearest\n \
              2 peer cccccccc (us-west)  fetched    200 ms  2.0 s    3.3 MB  next\n\
             \n\
             blob af (now): on disk\n"
        );
        assert_eq!(to_text(&[], 0, Style::default()), "the agent has decided nothing yet\n");
    }
}
