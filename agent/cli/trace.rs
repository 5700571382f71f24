//! When what ran, as Perfetto and Chrome's tracing show it (the Trace Event Format, JSON).
//!
//! Rows are the slots of jobs; transfers have rows of their own. The longest chain of tasks that
//! waited for each other is flagged.

use netbuild_core::graph::{Graph, TaskId};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

/// Number of the process of commands, and of that of transfers.
const JOBS: u32 = 1;
const TRANSFERS: u32 = 2;

/// In which row something stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    /// A slot for commands, from 0.
    Job(usize),
    /// A row of transfers, from 0.
    Transfer(usize),
}

/// Something that took its time.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) name: String,
    /// Its task, when the span is the whole of it.
    pub(crate) id: Option<TaskId>,
    pub(crate) kind: Kind,
    /// From the beginning of the run.
    pub(crate) start: Duration,
    pub(crate) took: Duration,
    /// How it ended, `how`, and what else is told of it: an object.
    pub(crate) fields: Value,
}

/// Spans in the order in which they were added.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    spans: Vec<Span>,
    critical: Vec<usize>,
}

impl Trace {
    pub(crate) fn add(&mut self, span: Span) {
        self.spans.push(span);
    }

    pub(crate) fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Finds the chain that the run could not have been shorter than.
    pub(crate) fn flag_critical(&mut self, graph: &Graph) {
        let spans = self.spans.iter().enumerate();
        let by_task: HashMap<TaskId, usize> =
            spans.filter_map(|(place, span)| Some((span.id?, place))).collect();
        let took = |id| by_task.get(&id).map_or(Duration::ZERO, |place| self.spans[*place].took);
        let path = critical_path(graph, &took);
        self.critical = path.iter().filter_map(|id| by_task.get(id).copied()).collect();
    }

    pub(crate) fn to_json(&self) -> String {
        let mut rows: BTreeMap<Kind, (u32, usize, String)> = BTreeMap::new();
        for span in &self.spans {
            rows.entry(span.kind).or_insert_with(|| match span.kind {
                Kind::Job(row) => (JOBS, row, format!("job {}", row + 1)),
                Kind::Transfer(row) => (TRANSFERS, row, format!("transfer {}", row + 1)),
            });
        }
        let name = |what: &str, process: u32, row: usize, name: &str| json!({"ph": "M", "name": what, "pid": process, "tid": row, "args": {"name": name}});
        let mut events = vec![
            name("process_name", JOBS, 0, "tasks"),
            name("process_name", TRANSFERS, 0, "transfers"),
        ];
        events
            .extend(rows.values().map(|(pid, row, label)| name("thread_name", *pid, *row, label)));
        for (place, span) in self.spans.iter().enumerate() {
            let (process, row, _) = &rows[&span.kind];
            let critical = self.critical.contains(&place);
            let mut event = json!({
                "ph": "X",
                "name": span.name,
                "cat": if critical { "critical" } else { "task" },
                "pid": process,
                "tid": row,
                "ts": micros(span.start),
                "dur": micros(span.took),
                "args": {"how": span.fields["how"], "critical": critical},
            });
            if critical {
                event["cname"] = Value::from("terrible");
            }
            events.push(event);
        }
        json!({"traceEvents": events, "displayTimeUnit": "ms"}).to_string() + "\n"
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The chain of tasks that took longest together, first to last.
pub(crate) fn critical_path(graph: &Graph, took: &dyn Fn(TaskId) -> Duration) -> Vec<TaskId> {
    let all: Vec<TaskId> = graph.iter().map(|(id, _)| id).collect();
    let mut until: HashMap<TaskId, (Duration, Option<TaskId>)> = HashMap::new();
    let mut end: Option<(Duration, TaskId)> = None;
    for id in graph.closure(&all) {
        let before = graph[id].deps.iter().map(|dep| (until[&dep.task].0, dep.task));
        let longest = before.max_by_key(|(time, _)| *time);
        let total = took(id) + longest.map_or(Duration::ZERO, |(time, _)| time);
        until.insert(id, (total, longest.map(|(_, task)| task)));
        if end.is_none_or(|(time, _)| total > time) {
            end = Some((total, id));
        }
    }
    let mut path = Vec::new();
    let mut next = end.map(|(_, id)| id);
    while let Some(id) = next {
        if !took(id).is_zero() {
            path.push(id);
        }
        next = until[&id].1;
    }
    path.reverse();
    path
}
