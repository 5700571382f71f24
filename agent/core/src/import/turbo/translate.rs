//! From packages and their tasks to a graph.

use super::{
    error,
    packages::Packages,
    pipeline::{Definition, Pipelines},
};
use crate::{
    glob::Glob,
    graph::{
        CachePolicy, Dependency, DependencyKind, Graph, InputPattern, Parts, Readiness, Service,
        Task, TaskId, ToolSource, ToolSpec,
    },
    import::{Files, ImportError, Imported, Kind, task_name},
    key::{OutputDeclaration, OutputShape},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

/// Time that a persistent task has to start; turbo waits for none.
const START: Duration = Duration::from_secs(60);
/// Files at the top whose content changes what every task does.
const SHARED: [&str; 2] = ["package.json", "tsconfig.json"];

/// A task of a package before it is known whether it does anything.
struct Node<'p> {
    package: usize,
    task: String,
    definition: &'p Definition,
    deps: Vec<usize>,
    has_script: bool,
}

pub(super) fn translate(
    files: &dyn Files,
    path: &str,
    root: &str,
    packages: &Packages,
    pipelines: &Pipelines,
) -> Result<Imported, ImportError> {
    let mut nodes = nodes(packages, pipelines);
    link(path, packages, &mut nodes)?;
    let mut builder = Builder { path, packages, pipelines, nodes: &nodes, notes: BTreeSet::new() };
    let order = builder.order()?;
    // What a package without the script hands on: the files of packages, and tasks that do run.
    let mut handed: Vec<Option<(BTreeSet<usize>, BTreeSet<usize>)>> = Vec::new();
    handed.resize_with(nodes.len(), || None);
    let mut ids: HashMap<usize, TaskId> = HashMap::new();
    let mut tasks: Vec<Task> = Vec::new();
    for index in order {
        let node = &nodes[index];
        let (mut near, mut below) = (BTreeSet::new(), BTreeSet::new());
        for dep in &node.deps {
            match &handed[*dep] {
                Some((packages, real)) => {
                    near.extend(packages.iter().copied());
                    below.extend(real.iter().copied());
                }
                None => drop(below.insert(*dep)),
            }
        }
        if !node.has_script {
            near.insert(node.package);
            handed[index] = Some((near, below));
            continue;
        }
        let mut task = builder.task(files, root, index, &near)?;
        for dep in below {
            if nodes[dep].definition.persistent {
                let message = format!("`{}` depends on a persistent task", task.name);
                return Err(error(path, message, "turbo refuses this, too"));
            }
            task.deps.push(Dependency { task: ids[&dep], kind: DependencyKind::Data });
        }
        ids.insert(index, TaskId::at(tasks.len() as u32));
        tasks.push(task);
    }
    let mut aliases = Vec::new();
    for (index, id) in &ids {
        let node = &nodes[*index];
        aliases.push((format!("{}#{}", packages.all[node.package].name, node.task), *id));
    }
    let default_targets = groups(pipelines, &nodes, &ids, &mut tasks);
    if tasks.is_empty() {
        return Err(error(path, "no package has a script for any of its tasks", ""));
    }
    let mut notes = pipelines.notes.clone();
    notes.extend(builder.notes);
    let parts = Parts { tasks, default_targets, pools: Vec::new(), aliases };
    Ok(Imported { graph: Graph::of(parts), notes })
}

/// A task for each name that stands for all packages; those are what runs without a name, unless
/// they only serve others or stay.
fn groups(
    pipelines: &Pipelines,
    nodes: &[Node<'_>],
    ids: &HashMap<usize, TaskId>,
    tasks: &mut Vec<Task>,
) -> Vec<TaskId> {
    let mut targets = Vec::new();
    let taken: BTreeSet<String> = tasks.iter().map(|task| task.name.clone()).collect();
    for name in pipelines.names() {
        let members = nodes.iter().enumerate().filter(|(_, node)| node.task == name);
        let of_name: Vec<_> = members.filter_map(|(index, _)| ids.get(&index).copied()).collect();
        let group = task_name(&name);
        if of_name.is_empty() || taken.contains(&group) {
            continue;
        }
        let stays = of_name.iter().any(|id| tasks[id.index()].service.is_some());
        let kind = if stays { DependencyKind::Order } else { DependencyKind::Data };
        let deps = of_name.iter().map(|task| Dependency { task: *task, kind }).collect();
        if !stays {
            targets.push(TaskId::at(tasks.len() as u32));
        }
        tasks.push(Task { name: group, deps, ..Task::default() });
    }
    targets
}

fn nodes<'p>(packages: &Packages, pipelines: &'p Pipelines) -> Vec<Node<'p>> {
    let mut nodes = Vec::new();
    for name in pipelines.names() {
        for (place, package) in packages.all.iter().enumerate() {
            if let Some(definition) = pipelines.of(packages, place, &name) {
                let has_script = package.scripts.contains(&name);
                let (task, deps) = (name.clone(), Vec::new());
                nodes.push(Node { package: place, task, definition, deps, has_script });
            }
        }
    }
    nodes
}

/// Finds what each task waits for.
fn link(path: &str, packages: &Packages, nodes: &mut [Node<'_>]) -> Result<(), ImportError> {
    let places: BTreeMap<(usize, String), usize> =
        nodes.iter().enumerate().map(|(i, n)| ((n.package, n.task.clone()), i)).collect();
    for node in nodes.iter_mut() {
        let mut deps = BTreeSet::new();
        for text in &node.definition.depends_on {
            let wanted: Vec<(usize, &str)> = if let Some(task) = text.strip_prefix('^') {
                let others = packages.all[node.package].dependencies.iter();
                others.map(|other| (*other, task)).collect()
            } else if let Some((package, task)) = text.rsplit_once('#') {
                let place = if package == "//" { Some(&0) } else { packages.by_name.get(package) };
                let place = *place.ok_or_else(|| {
                    error(path, format!("`{text}` names a package that does not exist"), "")
                })?;
                vec![(place, task)]
            } else {
                vec![(node.package, text.as_str())]
            };
            let found = wanted.iter().filter_map(|(p, t)| places.get(&(*p, (*t).to_owned())));
            deps.extend(found.copied());
        }
        node.deps = deps.into_iter().collect();
    }
    Ok(())
}

struct Builder<'b> {
    path: &'b str,
    packages: &'b Packages,
    pipelines: &'b Pipelines,
    nodes: &'b [Node<'b>],
    notes: BTreeSet<String>,
}

impl Builder<'_> {
    fn name(&self, index: usize) -> String {
        let node = &self.nodes[index];
        let package = match self.packages.all[node.package].name.as_str() {
            "//" => "root",
            name => name.trim_start_matches('@'),
        };
        task_name(&format!("{package}:{}", node.task))
    }

    /// The nodes, dependencies first.
    fn order(&self) -> Result<Vec<usize>, ImportError> {
        let edges: Vec<Vec<u32>> =
            self.nodes.iter().map(|n| n.deps.iter().map(|d| *d as u32).collect()).collect();
        let own = self.nodes.iter().enumerate().find(|(index, node)| node.deps.contains(index));
        let own = own.map(|(index, _)| vec![index as u32]);
        if let Some(cycle) = own.or_else(|| crate::graph::cycles(&edges).into_iter().next()) {
            let mut names: Vec<_> = cycle.iter().map(|i| self.name(*i as usize)).collect();
            names.push(names[0].clone());
            return Err(error(self.path, format!("cycle: {}", names.join(" -> ")), ""));
        }
        let mut order = Vec::new();
        let mut seen = vec![false; self.nodes.len()];
        for start in 0..self.nodes.len() {
            let mut walk = vec![(start, 0)];
            if std::mem::replace(&mut seen[start], true) {
                continue;
            }
            while let Some((index, next)) = walk.last_mut() {
                match self.nodes[*index].deps.get(*next).copied() {
                    None => {
                        order.push(*index);
                        walk.pop();
                    }
                    Some(dep) => {
                        *next += 1;
                        if !std::mem::replace(&mut seen[dep], true) {
                            walk.push((dep, 0));
                        }
                    }
                }
            }
        }
        Ok(order)
    }

    fn task(
        &mut self,
        files: &dyn Files,
        root: &str,
        index: usize,
        near: &BTreeSet<usize>,
    ) -> Result<Task, ImportError> {
        let node = &self.nodes[index];
        let definition = node.definition;
        let directory = &self.packages.all[node.package].directory;
        let mut task = Task {
            name: self.name(index),
            working_dir: directory.clone(),
            log: definition.log,
            // Of a service, turbo passes on what is typed while a person looks at it.
            interactive: definition.interactive && !definition.persistent,
            clean: false,
            ..Task::default()
        };
        let manager = self.packages.manager;
        task.command = Some([manager, "run", &node.task].map(str::to_owned).to_vec());
        let tool = |name: &str| ToolSpec {
            name: name.to_owned(),
            source: ToolSource::Path(name.to_owned()),
        };
        task.tools = vec![tool("node"), tool(manager)];
        self.variables(&mut task, definition);
        if definition.uncached {
            task.cache = CachePolicy::Off;
        }
        if definition.persistent {
            task.cache = CachePolicy::Off;
            task.service = Some(Service { ready_when: Readiness::Started, timeout: START });
            return Ok(task);
        }
        task.outputs = Some(self.outputs(directory, &definition.outputs)?);
        let mut inputs = self.inputs(node.package, definition.inputs.as_deref())?;
        for other in near.iter().filter(|other| **other != node.package) {
            inputs.extend(self.inputs(*other, None)?);
        }
        for pattern in &self.pipelines.global_inputs {
            self.push(".", pattern, &mut inputs)?;
        }
        for name in SHARED.into_iter().chain(self.packages.lock) {
            if files.kind(&format!("{root}/{name}")) == Kind::File {
                self.push(".", name, &mut inputs)?;
            }
        }
        task.inputs = Some(inputs);
        Ok(task)
    }

    fn variables(&mut self, task: &mut Task, definition: &Definition) {
        for name in definition.env.iter().chain(&self.pipelines.global_env) {
            if name.starts_with('!') || name == "*" {
                self.notes.insert(format!("`{name}` in `env` has no effect here"));
            } else {
                task.pass_env.insert(name.clone());
            }
        }
        for name in definition.pass_through.iter().chain(&self.pipelines.global_pass_through) {
            if name.starts_with('!') || name.contains('*') {
                self.notes.insert(format!("`{name}` in `passThroughEnv` has no effect here"));
            } else if !task.pass_env.contains(name) {
                task.secret_env.insert(name.clone());
            }
        }
    }

    /// The files of a package that its tasks read.
    fn inputs(
        &mut self,
        package: usize,
        written: Option<&[String]>,
    ) -> Result<Vec<InputPattern>, ImportError> {
        let directory = self.packages.all[package].directory.clone();
        let mut inputs = Vec::new();
        match written {
            None => self.everything(package, &mut inputs)?,
            Some(patterns) => {
                for pattern in patterns {
                    match pattern.strip_prefix("$TURBO_ROOT$/") {
                        _ if pattern == "$TURBO_DEFAULT$" => {
                            self.everything(package, &mut inputs)?;
                        }
                        Some(pattern) => self.push(".", pattern, &mut inputs)?,
                        None => self.push(&directory, pattern, &mut inputs)?,
                    }
                }
                self.push(&directory, "package.json", &mut inputs)?;
            }
        }
        Ok(inputs)
    }

    /// A package without what its tasks make, what is installed in it, and packages inside of it.
    fn everything(
        &mut self,
        package: usize,
        inputs: &mut Vec<InputPattern>,
    ) -> Result<(), ImportError> {
        let directory = self.packages.all[package].directory.clone();
        self.push(&directory, "**", inputs)?;
        for made in ["!**/node_modules/**", "!.turbo/**"] {
            self.push(&directory, made, inputs)?;
        }
        let below = format!("{directory}/");
        let inside = self.packages.all.iter().enumerate().filter(|(place, other)| {
            *place != package && (package == 0 || other.directory.starts_with(&below))
        });
        for (_, other) in inside.collect::<Vec<_>>() {
            self.push(".", &format!("!{}/**", other.directory), inputs)?;
        }
        for node in self.nodes.iter().filter(|node| node.package == package) {
            for output in &node.definition.outputs {
                let output = output.trim_end_matches('/');
                self.push(&directory, &format!("!{output}"), inputs)?;
                if !output.contains('*') {
                    self.push(&directory, &format!("!{output}/**"), inputs)?;
                }
            }
        }
        Ok(())
    }

    /// Adds a pattern that is relative to a directory.
    fn push(
        &self,
        directory: &str,
        pattern: &str,
        inputs: &mut Vec<InputPattern>,
    ) -> Result<(), ImportError> {
        let (negated, pattern) = match pattern.strip_prefix('!') {
            Some(pattern) => (true, pattern),
            None => (false, pattern),
        };
        let glob = Arc::new(self.glob(directory, pattern)?);
        inputs.push(InputPattern { glob, negated });
        Ok(())
    }

    fn glob(&self, directory: &str, pattern: &str) -> Result<Glob, ImportError> {
        let mut names: Vec<&str> = directory.split('/').filter(|name| *name != ".").collect();
        for name in pattern.trim_start_matches("$TURBO_ROOT$/").split('/') {
            match name {
                "" | "." => {}
                ".." if names.pop().is_none() => {
                    let message = format!("`{pattern}` leaves the workspace");
                    return Err(error(self.path, message, ""));
                }
                ".." => {}
                name => names.push(name),
            }
        }
        let text = if names.is_empty() { "**".to_owned() } else { names.join("/") };
        Glob::new(&text).map_err(|problem| error(self.path, problem.to_string(), ""))
    }

    fn outputs(
        &self,
        directory: &str,
        written: &[String],
    ) -> Result<Vec<OutputDeclaration>, ImportError> {
        let mut outputs: Vec<OutputDeclaration> = Vec::new();
        for pattern in written {
            let glob = self.glob(directory, pattern)?;
            let text = glob.as_str();
            let (pattern, shape) = match text.strip_suffix("/**") {
                Some(tree) if !tree.contains(['*', '?', '[', '{']) => (tree, OutputShape::Tree),
                _ if glob.is_literal() => (text, OutputShape::Path),
                _ => (text, OutputShape::Glob),
            };
            if matches!(pattern, "**" | ".") {
                let message = format!("output `{text}` is the whole workspace");
                return Err(error(self.path, message, "name the directory that the task makes"));
            }
            if !outputs.iter().any(|output| output.pattern == pattern) {
                let pattern = pattern.to_owned();
                outputs.push(OutputDeclaration { pattern, shape, optional: true });
            }
        }
        Ok(outputs)
    }
}
