//! The top level of a graph file, in netbuild's shape (`tasks`) and in gaffer's (`graphs`).

use super::{
    code,
    fields::{Fields, Owner},
    read::{Located, at, integer, mismatch, name_of, object, string, strings, unknown_field},
    report::{Report, quote},
    task::{Pool, ToolSource},
    values,
};
use jsonc_parser::ast::{ObjectProp, Value};
use std::collections::HashMap;

/// Most tasks in a graph.
const MAX_TASKS: usize = 500_000;
/// Longest task name in bytes; names become file names.
const MAX_NAME: usize = 128;

const FIELDS: &[&str] = &[
    "$schema",
    "version",
    "tasks",
    "graphs",
    "defaults",
    "groups",
    "tools",
    "inputs",
    "cache",
    "description",
    "default",
    "parallelism",
    "pools",
];
/// Most slots of a pool, as of `--jobs`.
const MAX_DEPTH: i64 = 4096;
/// The pool that every task is in.
pub(super) const JOBS: &str = "jobs";

/// A task as the file has it.
pub(super) struct Entry<'t> {
    pub(super) name: String,
    pub(super) at: u32,
    pub(super) fields: Fields<'t>,
    /// The entry whose nested task it is.
    pub(super) parent: Option<usize>,
    /// The entries of its nested tasks.
    pub(super) children: Vec<usize>,
}

/// The file, each value checked on its own.
#[derive(Default)]
pub(super) struct File<'t> {
    pub(super) tasks: Vec<Entry<'t>>,
    pub(super) defaults: Fields<'t>,
    pub(super) groups: Vec<(&'t str, Vec<Located<&'t str>>)>,
    pub(super) tools: HashMap<&'t str, ToolSource>,
    pub(super) inputs: Vec<Located<&'t str>>,
    pub(super) default: Option<Vec<Located<&'t str>>>,
    pub(super) namespace: Option<String>,
    pub(super) salt: Option<String>,
    pub(super) max_parallel: Option<u32>,
    pub(super) pools: Vec<Pool>,
    /// It has more tasks than were read.
    full: bool,
}

impl<'t> File<'t> {
    /// Reads the file, and lets go of its tree on the way: of a large one the two together would take
    /// too much memory.
    pub(super) fn read(root: Value<'t>, report: &mut Report) -> Self {
        let mut file = Self::default();
        let root = match root {
            Value::Object(root) => root,
            other => {
                mismatch(report, &other, "the graph", "an object");
                return file;
            }
        };
        if root.get("version").is_none()
            && root.get("tasks").is_none()
            && root.get("graphs").is_some()
        {
            let message = "`graphs` without `version`".to_owned();
            let hint = "add \"version\": \"1\", or call it `tasks`";
            report.error_with(at(&root), code::VERSION, message, hint.to_owned());
        }
        match (root.get("tasks"), root.get("graphs")) {
            (Some(_), Some(graphs)) => {
                let message = "both `tasks` and `graphs`".to_owned();
                let hint = "they are two names of one field; keep `tasks`";
                report.error_with(at(graphs), code::TASKS_AND_GRAPHS, message, hint.to_owned());
            }
            (None, None) => {
                let message = "a graph without `tasks`".to_owned();
                report.error(at(&root), code::NOTHING_TO_DO, message);
            }
            _ => {}
        }
        for property in root.properties {
            match (name_of(&property), property.value) {
                (name @ ("tasks" | "graphs"), value) => match value {
                    Value::Object(tasks) => {
                        for task in tasks.properties {
                            file.read_task(&task, None, report);
                        }
                    }
                    other => mismatch(report, &other, name, "an object"),
                },
                (_, value) => file.read_field(&ObjectProp { value, ..property }, report),
            }
        }
        file
    }

    fn read_field(&mut self, property: &ObjectProp<'t>, report: &mut Report) {
        let (name, value) = (property.name.as_str(), &property.value);
        match name {
            "$schema" => {}
            "description" => drop(string(report, value, name)),
            "version" => version(report, value),
            "defaults" => {
                if let Some(defaults) = object(report, value, name) {
                    self.defaults = Fields::read(defaults, Owner::Defaults, report);
                }
            }
            "groups" => {
                for group in object(report, value, name).map_or(&[][..], |o| &o.properties) {
                    let name = name_of(group);
                    let patterns = strings(report, &group.value, name).unwrap_or_default();
                    self.groups.push((name, patterns));
                }
            }
            "tools" => {
                for tool in object(report, value, name).map_or(&[][..], |o| &o.properties) {
                    if let Some(source) = tool_source(report, tool) {
                        self.tools.insert(name_of(tool), source);
                    }
                }
            }
            "inputs" => self.inputs = strings(report, value, name).unwrap_or_default(),
            "cache" => self.read_cache(value, report),
            "default" => {
                self.default = match value {
                    Value::StringLit(_) => string(report, value, name).map(|name| vec![name]),
                    _ => strings(report, value, name),
                };
            }
            "parallelism" => self.max_parallel = values::parallelism(report, value),
            "pools" => {
                for pool in object(report, value, name).map_or(&[][..], |o| &o.properties) {
                    self.read_pool(pool, report);
                }
            }
            _ => unknown_field(report, property, "the graph", FIELDS, &[]),
        }
    }

    fn read_pool(&mut self, pool: &ObjectProp<'t>, report: &mut Report) {
        let name = pool.name.as_str();
        if name.is_empty() || name == JOBS {
            let message = format!("{} cannot be the name of a pool", quote(name));
            let hint = "every task is in `jobs`; `--jobs` and `parallelism` set its depth";
            report.error_with(at(pool), code::POOL, message, hint.to_owned());
        } else if let Some(depth) = integer(report, &pool.value, name, code::POOL, 1..=MAX_DEPTH) {
            self.pools.push(Pool { name: name.to_owned(), depth: depth as u32 });
        }
    }

    /// Reads a task and the tasks nested in it; recursion ends with the nesting of the file.
    fn read_task(&mut self, property: &ObjectProp<'t>, parent: Option<usize>, report: &mut Report) {
        if self.tasks.len() == MAX_TASKS {
            // Said once; what follows is not read.
            if !self.full {
                let message = format!("more than {MAX_TASKS} tasks");
                report.error(at(property), code::LIMIT, message);
            }
            self.full = true;
            return;
        }
        let name = match parent {
            Some(parent) => format!("{}:{}", self.tasks[parent].name, property.name.as_str()),
            None => property.name.as_str().to_owned(),
        };
        check_name(report, &name, at(property));
        let Some(object) = object(report, &property.value, "a task") else { return };
        let fields = Fields::read(object, Owner::Task, report);
        let index = self.tasks.len();
        self.tasks.push(Entry { name, at: at(property), fields, parent, children: Vec::new() });
        if let Some(parent) = parent {
            self.tasks[parent].children.push(index);
        }
        if let Some(Value::Object(nested)) = object.get("graphs").map(|graphs| &graphs.value) {
            for task in &nested.properties {
                self.read_task(task, Some(index), report);
            }
        }
    }

    fn read_cache(&mut self, value: &Value<'t>, report: &mut Report) {
        for property in object(report, value, "cache").map_or(&[][..], |o| &o.properties) {
            let (name, value) = (property.name.as_str(), &property.value);
            match name {
                "namespace" => self.namespace = values::plain_text(report, value, name),
                "salt" => self.salt = values::plain_text(report, value, name),
                _ => unknown_field(report, property, "`cache`", &["namespace", "salt"], &[]),
            }
        }
    }
}

fn version(report: &mut Report, value: &Value<'_>) {
    let one = match value {
        Value::StringLit(text) => text.value == "1",
        Value::NumberLit(number) => number.value == "1",
        _ => false,
    };
    if !one {
        let message = "unknown version of the format".to_owned();
        let hint = "this version of netbuild reads \"version\": \"1\"";
        report.error_with(at(value), code::VERSION, message, hint.to_owned());
    }
}

fn check_name(report: &mut Report, name: &str, at: u32) {
    let first = name.bytes().next();
    let starts_well = first.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_.@/:+-".contains(&b);
    if name.len() > MAX_NAME {
        let message = format!("task name {} has more than {MAX_NAME} bytes", quote(name));
        report.error(at, code::TASK_NAME, message);
    } else if !starts_well || !name.bytes().all(allowed) {
        let message = format!("bad task name {}", quote(name));
        let hint = "a letter, digit or `_`, then letters, digits and `_.@/:+-`";
        report.error_with(at, code::TASK_NAME, message, hint.to_owned());
    }
}

/// One entry of `tools`.
fn tool_source(report: &mut Report, tool: &ObjectProp<'_>) -> Option<ToolSource> {
    let fields = object(report, &tool.value, tool.name.as_str())?;
    let mut sources = Vec::new();
    for property in &fields.properties {
        let (name, value) = (property.name.as_str(), &property.value);
        sources.push(match name {
            "path" => {
                let text = values::plain_text(report, value, name)?;
                if text.is_empty() {
                    report.error(at(value), code::PATH, "an empty path".to_owned());
                }
                ToolSource::Path(text)
            }
            "version" => {
                let arguments = strings(report, value, name)?;
                let nul = arguments.iter().any(|a| a.value.contains('\0'));
                if nul || arguments.first().is_none_or(|first| first.value.is_empty()) {
                    let message = "an empty command, or a NUL in it".to_owned();
                    report.error(at(value), code::COMMAND, message);
                }
                ToolSource::Version(arguments.iter().map(|a| a.value.to_owned()).collect())
            }
            "value" => ToolSource::Value(string(report, value, name)?.value.to_owned()),
            _ => {
                unknown_field(report, property, "a tool", &["path", "version", "value"], &[]);
                return None;
            }
        });
    }
    if sources.len() != 1 {
        let message = "a tool has one of `path`, `version` and `value`".to_owned();
        report.error(at(&tool.value), code::VALUE, message);
    }
    sources.pop()
}
