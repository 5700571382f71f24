//! A graph for other programs.

use super::{graph_file, print};
use crate::{
    args::{ExportArgs, ExportFormat},
    errors::CliError,
    trace::{Kind, Span, Trace},
};
use netbuild_core::{
    graph::{DependencyKind, Graph, TaskId},
    schedule::{OnFailure, Outcome, Schedule},
};
use netbuild_proto::workspace::State;
use serde_json::json;
use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap},
    path::Path,
    time::Duration,
};

/// Time of a task that has never run, in milliseconds.
const UNKNOWN_MS: u64 = 1000;

pub(super) fn export(args: &ExportArgs) -> Result<(), CliError> {
    let loaded = graph_file::load(&args.graph)?;
    let graph = &loaded.graph;
    let targets = graph_file::targets(graph, &args.tasks)?;
    match args.format {
        ExportFormat::Json => print(&graph.to_json()),
        ExportFormat::Dot => print(&dot(graph, &graph.closure(&targets))),
        ExportFormat::Trace => {
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            let jobs = args.jobs.map_or(processors, |jobs| jobs as usize);
            let known = durations(&loaded.root);
            let cost = |id: TaskId| match graph[id].command {
                Some(_) => known.get(&graph[id].name).copied().unwrap_or(UNKNOWN_MS),
                None => 0,
            };
            print(&planned(graph, &targets, jobs, cost).to_json());
        }
    }
    Ok(())
}

fn dot(graph: &Graph, tasks: &[TaskId]) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let mut text = String::from("digraph netbuild {\n  rankdir=LR;\n  node [shape=box];\n");
    for id in tasks {
        let task = &graph[*id];
        let style = if task.command.is_some() { "" } else { " [style=dashed]" };
        text += &format!("  {}{style};\n", quoted(&task.name));
        for dep in &task.deps {
            let style = match dep.kind {
                DependencyKind::Data => "",
                DependencyKind::Order => " [style=dotted]",
            };
            let (from, to) = (quoted(&graph[dep.task].name), quoted(&task.name));
            text += &format!("  {from} -> {to}{style};\n");
        }
    }
    text += "}\n";
    text
}

/// What tasks took when they ran last here, in milliseconds.
fn durations(root: &Path) -> HashMap<String, u64> {
    let bytes = std::fs::read(root.join(".netbuild/state"));
    let state = bytes.ok().and_then(|bytes| State::decode(&bytes).ok()).unwrap_or_default();
    state.tasks.into_iter().map(|(name, task)| (name, task.duration_ms)).collect()
}

/// Runs the schedule in thought.
fn planned(graph: &Graph, targets: &[TaskId], jobs: usize, cost: impl Fn(TaskId) -> u64) -> Trace {
    let mut schedule = Schedule::new(graph, targets, OnFailure::Stop, jobs as u32, &cost);
    let mut free: BTreeSet<usize> = (0..jobs).collect();
    let mut running: BinaryHeap<Reverse<(u64, usize, TaskId)>> = BinaryHeap::new();
    let mut trace = Trace::default();
    let mut now = 0;
    loop {
        while let Some(&slot) = free.first() {
            let Some(id) = schedule.poll_ready() else { break };
            let took = cost(id);
            free.remove(&slot);
            running.push(Reverse((now + took, slot, id)));
            if graph[id].command.is_some() {
                trace.add(Span {
                    name: graph[id].name.clone(),
                    id: Some(id),
                    kind: Kind::Job(slot),
                    start: Duration::from_millis(now),
                    took: Duration::from_millis(took),
                    fields: json!({"how": "planned"}),
                });
            }
        }
        let Some(Reverse((end, slot, id))) = running.pop() else { break };
        now = end;
        free.insert(slot);
        schedule.finish(id, Outcome::Succeeded);
    }
    trace.flag_critical(graph);
    trace
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::graph::load;

    #[test]
    fn a_graph_is_drawn_and_planned() {
        let text =
            br#"{"tasks": {"a": {"command": "x"}, "b\u002d": {"command": "x", "deps": ["a"]},
            "c": {"command": "x"}, "all": {"deps": ["b-", {"task": "c", "kind": "order"}]}}}"#;
        let graph = load(text).unwrap();
        let tasks = graph.closure(graph.default_targets());
        let drawn = dot(&graph, &tasks);
        for line in
            ["\"a\" -> \"b-\";", "\"c\" -> \"all\" [style=dotted];", "\"all\" [style=dashed];"]
        {
            assert!(drawn.contains(line), "{drawn}");
        }
        let c = graph.find("c").unwrap();
        let cost = |id| if id == c { 2500 } else { 1000 };
        let trace = planned(&graph, graph.default_targets(), 2, cost);
        let json: serde_json::Value = serde_json::from_str(&trace.to_json()).unwrap();
        let events = json["traceEvents"].as_array().unwrap();
        let of = |name: &str| events.iter().find(|e| e["ph"] == "X" && e["name"] == name).unwrap();
        assert_eq!((&of("b-")["ts"], &of("b-")["dur"]), (&1_000_000.into(), &1_000_000.into()));
        assert_eq!(of("c")["args"]["critical"], true);
        assert_eq!(of("a")["args"]["critical"], false);
    }
}
