//! From a file to a graph: names become ids, defaults are merged, groups expanded.

use super::{
    Graph, code, cycle,
    fields::{Command, Fields},
    file::{Entry, File, JOBS},
    interactive, missing_edge,
    outputs::{self, Output},
    overlap,
    paths::{Syntax, normalise},
    patterns::{Groups, Inputs, Patterns},
    read::Located,
    report::{Report, quote},
    service,
    suggest::did_you_mean,
    task::{Dependency, DependencyKind, PoolId, SandboxWish, Task, TaskId, ToolSource, ToolSpec},
};
use crate::record::Sandbox;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Names that may be compared for "did you mean" while a file is loaded: enough for every mistake
/// that a person makes, too few to be made to wait by a hostile file.
const MAX_COMPARED: usize = 2_000_000;
/// Most names of a cycle that are shown.
const MAX_SHOWN: usize = 100;
/// Longest argument or variable that Linux passes to a process, with its NUL (`MAX_ARG_STRLEN`).
const MAX_ARGUMENT: usize = 128 << 10;
/// Longest list of arguments and variables: what Linux takes with the usual stack of 8 MiB.
const MAX_ARGUMENTS: usize = 2 << 20;

/// An edge with its place in the file.
#[derive(Clone, Copy)]
struct Edge {
    dependency: Dependency,
    at: u32,
}

/// A task with the places that later checks report.
pub(super) struct Checked {
    pub(super) task: Task,
    pub(super) at: u32,
    pub(super) inputs: Vec<u32>,
    pub(super) outputs: Vec<Output>,
}

pub(super) fn resolve(file: &File<'_>, report: &mut Report) -> Graph {
    let mut names = Names::new(&file.tasks, report);
    let edges: Vec<_> =
        (0..file.tasks.len()).map(|index| edges(file, index, &mut names, report)).collect();
    let sound = check_cycles(file, &edges, report) && names.all_found;
    for (entry, edges) in file.tasks.iter().zip(&edges) {
        for edge in edges.iter().filter(|edge| edge.dependency.kind == DependencyKind::Data) {
            let needed = &file.tasks[edge.dependency.task.index()];
            service::check_edge(entry, needed, edge.at, report);
        }
    }
    let mut merger = Merger::new(file, report);
    let tasks: Vec<_> = file
        .tasks
        .iter()
        .zip(&edges)
        .map(|(entry, edges)| merger.task(entry, edges, report))
        .collect();
    overlap::check(&tasks, report);
    // Without its real edges a graph has too few paths, and every finding would be doubtful.
    if sound {
        missing_edge::check(&tasks, report);
    }
    let default_targets = default_targets(file, &edges, &mut names, report);
    let by_name = names.by_name.into_iter();
    Graph {
        by_name: by_name.map(|(name, id)| (name.to_owned(), id)).collect(),
        tasks: tasks.into_iter().map(|checked| checked.task).collect(),
        default_targets,
        namespace: file.namespace.clone(),
        salt: file.salt.clone(),
        max_parallel: file.max_parallel,
        pools: file.pools.clone(),
        warnings: Vec::new(),
    }
}

/// Looks names up, and suggests others.
struct Names<'f> {
    by_name: HashMap<&'f str, TaskId>,
    compared: usize,
    all_found: bool,
}

impl<'f> Names<'f> {
    fn new(tasks: &'f [Entry<'_>], report: &mut Report) -> Self {
        let mut by_name = HashMap::with_capacity(tasks.len());
        for (index, entry) in (0..).zip(tasks) {
            let first = *by_name.entry(&*entry.name).or_insert(TaskId(index));
            // Names that are equal as keys are reported with all other duplicate keys.
            let nested = entry.parent.is_some() || tasks[first.index()].parent.is_some();
            if first != TaskId(index) && nested && entry.parent != tasks[first.index()].parent {
                let message = format!("two tasks are called {}", quote(&entry.name));
                report.error(entry.at, code::DUPLICATE, message);
            }
        }
        Self { by_name, compared: 0, all_found: true }
    }

    fn find(&mut self, report: &mut Report, name: Located<&str>, user: &str) -> Option<TaskId> {
        if let Some(id) = self.by_name.get(name.value) {
            return Some(*id);
        }
        self.all_found = false;
        let message = format!("{user} names {}, which is not a task", quote(name.value));
        self.compared += self.by_name.len();
        let hint = if self.compared <= MAX_COMPARED {
            did_you_mean(name.value, self.by_name.keys().copied())
        } else {
            None
        };
        report.error_with(name.at, code::MISSING_TASK, message, hint);
        None
    }
}

/// The level that a task asks for. Services run in the workspace with a clean environment, what has the terminal
/// and tasks with a dep file in the workspace; where they say another level themselves it is a mistake, and one of
/// `defaults` is not for them.
fn sandbox(fields: &Fields<'_>, defaults: &Fields<'_>, report: &mut Report) -> SandboxWish {
    let why_not = |level: Sandbox| match (&fields.service, &fields.dep_file) {
        (Some(_), _) if level != Sandbox::Env => {
            Some("is for tasks that end: services run at \"env\"")
        }
        _ if fields.interactive.is_some() && level > Sandbox::Env => {
            Some("has no terminal: interactive tasks run at \"env\" or \"loose\"")
        }
        (None, Some(_)) if level.is_staged() => Some(
            "needs all inputs before the command runs, and a dep file names some only afterwards",
        ),
        _ => None,
    };
    match (fields.sandbox, defaults.sandbox) {
        (Some(wish), _) => match why_not(wish.value.level) {
            Some(why) => {
                let message = format!("level \"{}\" {why}", wish.value.level.as_str());
                let hint = "leave `sandbox` out".to_owned();
                report.error_with(wish.at, code::NOT_SUPPORTED, message, hint);
                SandboxWish::default()
            }
            None => wish.value,
        },
        (None, Some(wish)) if why_not(wish.value.level).is_none() => wish.value,
        (None, _) => SandboxWish::default(),
    }
}

/// The edges of one task: what it names and its nested tasks, each task once.
fn edges(file: &File<'_>, index: usize, names: &mut Names<'_>, report: &mut Report) -> Vec<Edge> {
    let entry = &file.tasks[index];
    let user = quote(&entry.name);
    let mut edges: Vec<Edge> = Vec::new();
    let mut seen: HashMap<TaskId, usize> = HashMap::new();
    for named in &entry.fields.deps {
        // Nested tasks know their siblings by their short names.
        let sibling = entry.parent.and_then(|parent| {
            let full = format!("{}:{}", file.tasks[parent].name, named.name.value);
            names.by_name.get(&*full).copied()
        });
        let Some(task) = sibling.or_else(|| names.find(report, named.name, &user)) else {
            continue;
        };
        let at = named.name.at;
        if task.index() == index {
            let message = format!("{user} depends on itself");
            report.error(at, code::SELF_DEPENDENCY, message);
            continue;
        }
        let kind = named.kind;
        match seen.get(&task) {
            // The stronger of two edges to one task is the one that counts.
            Some(&first) if kind == DependencyKind::Data => edges[first].dependency.kind = kind,
            Some(_) => {}
            None => {
                seen.insert(task, edges.len());
                let dependency = Dependency { task, kind };
                edges.push(Edge { dependency, at });
            }
        }
    }
    for &child in &entry.children {
        let task = TaskId(child as u32);
        if seen.insert(task, edges.len()).is_none() {
            let kind = DependencyKind::Data;
            let dependency = Dependency { task, kind };
            let at = file.tasks[child].at;
            edges.push(Edge { dependency, at });
        }
    }
    edges
}

/// Whether there is no cycle.
fn check_cycles(file: &File<'_>, edges: &[Vec<Edge>], report: &mut Report) -> bool {
    let targets = |edges: &Vec<Edge>| edges.iter().map(|e| e.dependency.task.0).collect();
    let plain: Vec<Vec<u32>> = edges.iter().map(targets).collect();
    let cycles = cycle::cycles(&plain);
    for cycle in &cycles {
        let first = cycle[0] as usize;
        let second = cycle[1 % cycle.len()];
        let edge = edges[first].iter().find(|e| e.dependency.task.0 == second);
        let at = edge.map_or(file.tasks[first].at, |edge| edge.at);
        let name = |task: &u32| file.tasks[*task as usize].name.as_str();
        let mut shown: Vec<_> = cycle.iter().take(MAX_SHOWN).map(name).collect();
        let more = format!("({} more tasks)", cycle.len().saturating_sub(MAX_SHOWN));
        if cycle.len() > MAX_SHOWN {
            shown.push(&more);
        }
        shown.push(name(&cycle[0]));
        let message = format!("cycle: {}", shown.join(" -> "));
        let hint = "remove one of these dependencies".to_owned();
        report.error_with(at, code::CYCLE, message, hint);
    }
    cycles.is_empty()
}

fn default_targets(
    file: &File<'_>,
    edges: &[Vec<Edge>],
    names: &mut Names<'_>,
    report: &mut Report,
) -> Vec<TaskId> {
    if let Some(default) = &file.default {
        let mut seen = HashSet::new();
        let found = default.iter().filter_map(|name| names.find(report, *name, "`default`"));
        return found.filter(|task| seen.insert(*task)).collect();
    }
    let mut needed = vec![false; file.tasks.len()];
    for edge in edges.iter().flatten() {
        needed[edge.dependency.task.index()] = true;
    }
    let tasks = (0..file.tasks.len() as u32).map(TaskId);
    tasks.filter(|task| !needed[task.index()]).collect()
}

/// Makes tasks of entries.
struct Merger<'f, 't> {
    file: &'f File<'t>,
    patterns: Patterns,
    groups: Groups<'t>,
    global: Inputs,
    /// Places of names of pools that do not exist.
    unknown_pools: HashSet<u32>,
}

impl<'f, 't> Merger<'f, 't> {
    fn new(file: &'f File<'t>, report: &mut Report) -> Self {
        let mut patterns = Patterns::default();
        let mut groups = Groups::new();
        for (name, written) in &file.groups {
            let compiled = written.iter().filter_map(|text| patterns.input(report, *text));
            groups.insert(name, compiled.collect());
        }
        let global = patterns.inputs(report, &file.inputs, &groups, &Inputs::default());
        Self { file, patterns, groups, global, unknown_pools: HashSet::new() }
    }

    fn task(&mut self, entry: &Entry<'_>, edges: &[Edge], report: &mut Report) -> Checked {
        let (fields, defaults) = (&entry.fields, &self.file.defaults);
        if !fields.has_work {
            let message = format!("{} has neither command nor deps", quote(&entry.name));
            report.error(entry.at, code::NOTHING_TO_DO, message);
        }
        let added = defaults.env.len() + defaults.pass_env.len() + defaults.secret_env.len();
        let added = added + defaults.tools.len();
        let merged = match self.patterns.may_expand(report, entry.at, added) {
            true => Some(defaults),
            false => None,
        };
        let inputs = fields
            .inputs
            .as_ref()
            .map(|written| self.patterns.inputs(report, written, &self.groups, &self.global));
        let outputs = fields.outputs.as_ref().map(|written| {
            let written = written.iter();
            let outputs = written.filter_map(|o| outputs::declare(report, &mut self.patterns, *o));
            outputs.collect::<Vec<_>>()
        });
        let (inputs, places) = match inputs {
            Some(inputs) => (Some(inputs.patterns), inputs.places),
            None => (None, Vec::new()),
        };
        let variables = Variables::merge(entry, merged, report);
        let task = Task {
            name: entry.name.clone(),
            command: self.command(fields, report),
            deps: edges.iter().map(|edge| edge.dependency).collect(),
            inputs,
            outputs: outputs
                .as_ref()
                .map(|all| all.iter().map(|o| o.declaration.clone()).collect()),
            working_dir: fields.working_dir.clone().unwrap_or_else(|| ".".to_owned()),
            env: variables.set,
            pass_env: variables.passed,
            secret_env: variables.secret,
            tools: self.tools(fields, merged, report),
            platforms: fields.platforms.clone().unwrap_or_default(),
            platform_key: fields.platform_key,
            cache: fields.cache,
            clean: fields.clean.unwrap_or(true),
            timeout: fields.timeout.or(defaults.timeout),
            retry: fields.retry.as_ref().or(defaults.retry.as_ref()).cloned().unwrap_or_default(),
            key_salt: fields.key_salt.clone(),
            description: fields.description.clone(),
            log: fields.log,
            priority: fields.priority,
            pool: self.pool(fields, report),
            weight: fields.weight.unwrap_or(1),
            service: fields.service.as_ref().map(|service| service.value.clone()),
            interactive: fields.interactive.is_some(),
            dep_file: fields.dep_file.as_ref().map(|path| path.value.clone()),
            sandbox: sandbox(fields, defaults, report),
            network: fields.network,
        };
        service::check(entry, &task, report);
        interactive::check(entry, &task, report);
        check_size(&task, entry.at, report);
        Checked { task, at: entry.at, inputs: places, outputs: outputs.unwrap_or_default() }
    }

    /// The arguments to execute.
    fn command(&self, fields: &Fields<'_>, report: &mut Report) -> Option<Vec<String>> {
        let command = fields.command.as_ref()?;
        let text = match &command.value {
            Command::Arguments(arguments) => return Some(arguments.clone()),
            Command::Text(text) => (*text).to_owned(),
        };
        let shell = fields.shell.as_ref().or(self.file.defaults.shell.as_ref());
        let mut arguments = match shell {
            Some(arguments) => arguments.clone(),
            None => vec!["/bin/sh".to_owned(), "-c".to_owned()],
        };
        if arguments.is_empty() {
            let message = "a command that is one string needs a shell".to_owned();
            let hint = "write the command as an array, or leave `shell` out".to_owned();
            report.error_with(command.at, code::COMMAND, message, hint);
        }
        arguments.push(text);
        Some(arguments)
    }

    /// The pool of a task; that of `defaults` is reported where it stands, with the first task.
    fn pool(&mut self, fields: &Fields<'_>, report: &mut Report) -> Option<PoolId> {
        // Tasks that have the terminal wait for one another; a pool of `defaults` is not for them.
        let of_defaults = self.file.defaults.pool.filter(|_| fields.interactive.is_none());
        let name = fields.pool.or(of_defaults)?;
        if name.value == JOBS {
            return None;
        }
        let found = (0..).zip(&self.file.pools).find(|(_, pool)| pool.name == name.value);
        if found.is_none() && self.unknown_pools.insert(name.at) {
            let message = format!("there is no pool {}", quote(name.value));
            let names = self.file.pools.iter().map(|pool| pool.name.as_str());
            let hint = did_you_mean(name.value, names)
                .unwrap_or_else(|| "declare it in `pools`".to_owned());
            report.error_with(name.at, code::POOL, message, hint);
        }
        found.map(|(index, _)| PoolId(index))
    }

    /// Tools by name: declared ones, executables, paths.
    fn tools(
        &self,
        fields: &Fields<'_>,
        defaults: Option<&Fields<'_>>,
        report: &mut Report,
    ) -> Vec<ToolSpec> {
        let shared = defaults.map_or(&[][..], |defaults| &defaults.tools);
        let mut seen = HashSet::new();
        let mut tools = Vec::new();
        for text in shared.iter().chain(&fields.tools) {
            if !seen.insert(text.value) {
                continue;
            }
            let source = match self.file.tools.get(text.value) {
                Some(source) => source.clone(),
                None => match undeclared_tool(*text, report) {
                    Some(source) => source,
                    None => continue,
                },
            };
            let name = text.value.to_owned();
            tools.push(ToolSpec { name, source });
        }
        tools
    }
}

/// A tool that is not in the top-level `tools`: the name of an executable, or a path to one.
fn undeclared_tool(text: Located<&str>, report: &mut Report) -> Option<ToolSource> {
    let name = text.value;
    if name.contains('/') && !name.starts_with('/') {
        return match normalise(name, Syntax::Literal) {
            // A path without a `/` would be looked up in `PATH`.
            Ok(normal) if !normal.path.contains('/') => {
                Some(ToolSource::Path(format!("./{}", normal.path)))
            }
            Ok(normal) => Some(ToolSource::Path(normal.path)),
            Err(error) => {
                report.error_with(text.at, error.code, error.message, error.hint);
                None
            }
        };
    }
    if name.is_empty() || name.contains('\0') {
        let message = format!("{} is not the name of a tool", quote(name));
        report.error(text.at, code::VALUE, message);
        return None;
    }
    Some(ToolSource::Path(name.to_owned()))
}

/// The variables of a task.
struct Variables {
    set: BTreeMap<String, String>,
    passed: BTreeSet<String>,
    secret: BTreeSet<String>,
}

impl Variables {
    /// What the task says wins: a default for a name that it mentions anywhere is dropped.
    fn merge(entry: &Entry<'_>, defaults: Option<&Fields<'_>>, report: &mut Report) -> Self {
        let own = &entry.fields;
        check_one_source(own, report);
        let mut merged = Self {
            set: BTreeMap::new(),
            passed: own.pass_env.keys().map(|&name| name.to_owned()).collect(),
            secret: own.secret_env.keys().map(|&name| name.to_owned()).collect(),
        };
        if let Some(defaults) = defaults {
            let free = |name: &str| {
                !own.env.contains_key(name)
                    && !own.pass_env.contains_key(name)
                    && !own.secret_env.contains_key(name)
            };
            let names = |map: &BTreeMap<&str, u32>| {
                let free = map.keys().filter(|name| free(name));
                free.map(|&name| name.to_owned()).collect::<Vec<_>>()
            };
            merged.passed.extend(names(&defaults.pass_env));
            merged.secret.extend(names(&defaults.secret_env));
            let set = defaults.env.iter().filter(|(name, _)| free(name));
            merged.set.extend(set.map(|(&name, text)| (name.to_owned(), text.value.to_owned())));
        }
        let set = own.env.iter();
        merged.set.extend(set.map(|(&name, text)| (name.to_owned(), text.value.to_owned())));
        merged
    }
}

/// Reports a variable that has two sources in one task or in `defaults`.
pub(super) fn check_one_source(fields: &Fields<'_>, report: &mut Report) {
    for (name, text) in &fields.env {
        for (map, field) in [(&fields.pass_env, "pass_env"), (&fields.secret_env, "secret_env")] {
            if map.contains_key(name) {
                let message = format!("{} is both in `env` and in `{field}`", quote(name));
                report.error(text.at, code::ENV_NAME, message);
            }
        }
    }
    for (name, at) in &fields.pass_env {
        if fields.secret_env.contains_key(name) {
            let message = format!("{} is both in `pass_env` and in `secret_env`", quote(name));
            report.error(*at, code::ENV_NAME, message);
        }
    }
}

/// Reports a command that the operating system would refuse to start.
fn check_size(task: &Task, at: u32, report: &mut Report) {
    let arguments = task.command.iter().flatten().map(|text| text.len() + 1);
    let variables = task.env.iter().map(|(name, text)| name.len() + text.len() + 2);
    let (mut longest, mut total) = (0, 0);
    for size in arguments.chain(variables) {
        longest = longest.max(size);
        // Each takes a pointer, too.
        total += size + size_of::<usize>();
    }
    let message = if longest > MAX_ARGUMENT {
        format!("an argument or variable of more than {} KiB", MAX_ARGUMENT >> 10)
    } else if total > MAX_ARGUMENTS {
        format!("arguments and variables of more than {} MiB", MAX_ARGUMENTS >> 20)
    } else {
        return;
    };
    let message = format!("{} has {message}", quote(&task.name));
    let hint = "put the text into a file".to_owned();
    report.error_with(at, code::TOO_LARGE, message, hint);
}
