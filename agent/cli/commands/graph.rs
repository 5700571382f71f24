//! `netbuild graph`.

mod export;
mod suggest;

use super::{print, print_json};
use crate::{
    args::{CheckArgs, FmtArgs, GraphCommand, GraphFileArgs, ImportArgs, ListArgs, ShowArgs},
    errors::{CliError, EXIT_FAILED, EXIT_USAGE},
    graph_file::{self, Loaded},
    table::{Align, Style, Table},
    text::count,
};
use netbuild_core::graph::{self, Graph, Problem, Severity, TaskId};
use serde_json::{Value, json};
use std::{
    io::{IsTerminal as _, Read as _},
    path::Path,
    process::ExitCode,
};

pub(crate) fn graph(command: &GraphCommand) -> Result<ExitCode, CliError> {
    match command {
        GraphCommand::Check(args) => return check(args),
        GraphCommand::List(args) => list(args)?,
        GraphCommand::Show(args) => show(args)?,
        GraphCommand::Fmt(args) => return fmt(args),
        GraphCommand::Suggest(args) => return suggest::suggest(args),
        GraphCommand::Schema => print(graph::SCHEMA),
        GraphCommand::Import(args) => import(args)?,
        GraphCommand::Export(args) => export::export(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Says everything that is wrong, on standard output as it is what was asked for.
fn check(args: &CheckArgs) -> Result<ExitCode, CliError> {
    let path = &args.graph.graph;
    let file = path.display().to_string();
    let is_graph = path.extension().is_none_or(|extension| extension != "ninja")
        && path.file_stem().is_none_or(|stem| stem != "turbo");
    let loaded = match is_graph {
        true => graph::load(&graph_file::read(path)?),
        // The importers stop at the first mistake, which is an error of the command.
        false => Ok(graph_file::load(&args.graph)?.graph),
    };
    let (problems, omitted, tasks) = match &loaded {
        Ok(graph) => (graph.warnings(), 0, graph.tasks().len()),
        Err(problems) => (problems.as_slice(), problems.omitted(), 0),
    };
    if args.json {
        print_json(&json!({
            "ok": loaded.is_ok(),
            "tasks": tasks,
            "problems": problems.iter().map(problem_to_json).collect::<Vec<_>>(),
            "omitted": omitted,
        }));
    } else {
        let mut text: String =
            problems.iter().map(|problem| format!("{}\n", problem.in_file(&file))).collect();
        let errors = problems.iter().filter(|p| p.severity == Severity::Error).count() + omitted;
        text += &match loaded {
            Ok(_) => format!("{file}: {}, no errors\n", count(tasks as u64, "task")),
            Err(_) => format!("{file}: {}\n", count(errors as u64, "error")),
        };
        print(&text);
    }
    Ok(match loaded {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(EXIT_USAGE),
    })
}

fn problem_to_json(problem: &Problem) -> Value {
    json!({
        "code": problem.code,
        "severity": match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        },
        "pointer": problem.pointer,
        "line": problem.line,
        "column": problem.column,
        "message": problem.message,
        "hint": problem.hint,
    })
}

fn list(args: &ListArgs) -> Result<(), CliError> {
    if args.names {
        let graph = graph_file::load_quietly(&args.graph)?.graph;
        print(&graph.tasks().iter().map(|task| format!("{}\n", task.name)).collect::<String>());
        return Ok(());
    }
    let graph = graph_file::load(&args.graph)?.graph;
    if args.json {
        let tasks: Vec<_> = graph.iter().map(|(id, _)| task_to_json(&graph, id)).collect();
        print_json(&Value::from(tasks));
        return Ok(());
    }
    let mut table = Table::new([("task", Align::Left), ("needs", Align::Right), ("", Align::Left)]);
    for task in graph.tasks() {
        let what = task.description.as_deref().unwrap_or_default();
        table.row([task.name.as_str().into(), task.deps.len().to_string().into(), what.into()]);
    }
    print(&table.to_text(Style::of_stdout(std::io::stdout().is_terminal())));
    Ok(())
}

fn task_to_json(graph: &Graph, id: TaskId) -> Value {
    let task = &graph[id];
    let deps: Vec<_> = task.deps.iter().map(|dep| graph[dep.task].name.as_str()).collect();
    json!({
        "name": task.name,
        "description": task.description,
        "deps": deps,
        "command": task.command,
        "cacheable": task.is_cacheable(),
        "sandbox": { "level": task.sandbox.level.as_str(), "fallback": task.sandbox.fallback },
        "default": graph.default_targets().contains(&id),
    })
}

fn show(args: &ShowArgs) -> Result<(), CliError> {
    let graph = graph_file::load(&args.graph)?.graph;
    let found = graph.find(&args.task);
    let id = found.map_err(|error| graph_file::unknown(&graph, error))?;
    let json = graph.task_to_json(id);
    if args.json {
        print(&json);
        return Ok(());
    }
    let dependents = graph.iter().filter(|(_, task)| task.deps.iter().any(|dep| dep.task == id));
    let dependents: Vec<_> = dependents.map(|(_, task)| task.name.as_str()).collect();
    let cached = match graph[id].is_cacheable() {
        true => "its result is kept",
        false => "it always runs",
    };
    let needed = match dependents.len() {
        0 => "nothing needs it".to_owned(),
        _ => format!("needed by {}", dependents.join(", ")),
    };
    let wish = graph[id].sandbox;
    let or_lower = if wish.fallback { " or a lower one" } else { "" };
    let level = format!("level {}{or_lower}", wish.level.as_str());
    print(&format!("{}: {cached}; {level}; {needed}\n{json}", graph[id].name));
    Ok(())
}

fn fmt(args: &FmtArgs) -> Result<ExitCode, CliError> {
    let stdin = args.file == Path::new("-");
    let mut bytes = Vec::new();
    if stdin {
        std::io::stdin()
            .read_to_end(&mut bytes)
            .map_err(|error| CliError::io("read", Path::new("standard input"), &error))?;
    } else {
        bytes = graph_file::read(&args.file)?;
    }
    // A graph with mistakes can be formatted; a text that is no JSON cannot.
    if let Err(problems) = graph::load(&bytes)
        && problems.as_slice().iter().any(|p| ["G001", "G022", "G023"].contains(&p.code))
    {
        return Err(CliError::graph(&args.file, &problems));
    }
    let text = String::from_utf8(bytes).map_err(CliError::usage)?;
    let formatted = graph::format(&text)
        .ok_or_else(|| CliError::wrong(format!("`{}` cannot be formatted", args.file.display())))?;
    let changed = formatted != text;
    if args.check {
        let name = args.file.display();
        if changed {
            print(&format!("{name} would change\n"));
        }
        return Ok(ExitCode::from(if changed { EXIT_FAILED } else { 0 }));
    }
    if stdin {
        print(&formatted);
    } else if changed {
        replace(&args.file, &formatted)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a file beside another and puts it in its place, so that neither is ever half there.
fn replace(path: &Path, text: &str) -> Result<(), CliError> {
    // Through a link, what it leads to is rewritten.
    let real = path.canonicalize().map_err(|error| CliError::io("find", path, &error))?;
    let mut name = real.clone().into_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let new = std::path::PathBuf::from(name);
    let permissions = std::fs::metadata(&real).map(|meta| meta.permissions());
    let written = std::fs::write(&new, text)
        .and_then(|()| permissions.and_then(|same| std::fs::set_permissions(&new, same)))
        .and_then(|()| std::fs::rename(&new, &real));
    written.map_err(|error| {
        drop(std::fs::remove_file(&new));
        CliError::io("rewrite", path, &error)
    })
}

fn import(args: &ImportArgs) -> Result<(), CliError> {
    let (graph, workspace) = (args.file.clone(), args.workspace.clone());
    let Loaded { graph, root, notes } =
        graph_file::load_quietly(&GraphFileArgs { graph, workspace })?;
    for note in notes {
        tracing::warn!("{note}");
    }
    let silent = graph
        .tasks()
        .iter()
        .filter(|task| task.command.is_some() && task.inputs.is_none() && task.outputs.is_none());
    let silent = silent.count() as u64;
    if silent > 0 {
        tracing::warn!("{} without inputs and outputs: they always run", count(silent, "task"));
    }
    tracing::info!("its place is `{}`", root.join("graph.json").display());
    print(&graph.to_json());
    Ok(())
}
