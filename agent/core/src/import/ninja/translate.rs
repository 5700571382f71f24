//! From the statements of a manifest to tasks.

use super::manifest::{Edge, Manifest, push_quoted};
use crate::{
    glob::Glob,
    graph::{
        CachePolicy, Dependency, DependencyKind, Graph, InputPattern, Parts, Pool, PoolId, Task,
        TaskId, ToolSource, ToolSpec,
    },
    import::{Files, ImportError, Imported, Kind, absolute, task_name, within},
    key::{OutputDeclaration, OutputShape},
};
use std::{
    collections::{BTreeSet, HashMap},
    rc::Rc,
    sync::Arc,
};

/// Characters that mean something in the patterns of a graph.
const SPECIAL: [char; 6] = ['*', '?', '[', ']', '{', '}'];
/// Words of a shell, which are no programs.
const SHELL_WORDS: [&str; 18] = [
    "cd", "test", "[", "if", "for", "while", "case", "export", "set", "exec", "eval", "echo",
    "printf", "true", "false", "umask", "command", ".",
];
/// Most bytes that Linux takes as one argument, with its NUL.
const MAX_ARGUMENT: usize = 128 << 10;

pub(super) fn translate(
    manifest: &Manifest,
    files: &dyn Files,
    path: &str,
    root: &str,
) -> Result<Imported, ImportError> {
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    let mut translator = Translator {
        manifest,
        files,
        directory,
        root,
        makers: HashMap::new(),
        ids: Vec::new(),
        globs: HashMap::new(),
        seen_through: vec![None; manifest.edges.len()],
        outside: BTreeSet::new(),
    };
    let left_out = translator.index(path)?;
    translator.check_cycles()?;
    let mut notes = Vec::new();
    if left_out > 0 {
        notes.push(format!(
            "the statement that makes `{path}` itself is left out: run its generator when its inputs change"
        ));
    }
    let mut tasks = Vec::new();
    for (index, edge) in manifest.edges.iter().enumerate() {
        if translator.ids[index].is_some() {
            tasks.push(translator.task(index, edge)?);
        }
    }
    let (names, aliases) = translator.names();
    for (task, name) in tasks.iter_mut().zip(names) {
        task.name = name;
    }
    if !translator.outside.is_empty() {
        let count = translator.outside.len();
        let first = translator.outside.first().cloned().unwrap_or_default();
        notes.push(format!(
            "{count} paths outside of the workspace `{root}` cannot be watched, `{first}` among them: \
             the tasks that name them always run"
        ));
    }
    let pools = manifest.pools.iter().filter(|(_, depth)| *depth > 0);
    let parts = Parts {
        default_targets: translator.defaults(&tasks)?,
        pools: pools.map(|(name, depth)| Pool { name: name.clone(), depth: *depth }).collect(),
        aliases,
        tasks,
    };
    Ok(Imported { graph: Graph::of(parts), notes })
}

struct Translator<'m> {
    manifest: &'m Manifest,
    files: &'m dyn Files,
    /// Where commands run, and the workspace; absolute.
    directory: &'m str,
    root: &'m str,
    /// The statement that makes a path, by absolute path.
    makers: HashMap<String, usize>,
    /// The task of each statement.
    ids: Vec<Option<TaskId>>,
    globs: HashMap<String, Arc<Glob>>,
    /// What phony statements stand for, as far as it is known.
    seen_through: Vec<Option<Rc<Behind<'m>>>>,
    outside: BTreeSet<String>,
}

/// What a phony statement stands for besides the tasks among its inputs.
#[derive(Default)]
struct Behind<'m> {
    /// ninja always takes it for changed: it has no inputs and no file, or such a one among them.
    always: bool,
    /// Files among its inputs.
    sources: Vec<&'m str>,
}

impl<'m> Translator<'m> {
    fn full(&self, path: &str) -> String {
        absolute(self.directory, path)
    }

    /// Finds who makes what, and numbers the tasks; says how many statements are left out.
    fn index(&mut self, manifest_path: &str) -> Result<usize, ImportError> {
        let mut left_out = BTreeSet::new();
        for (index, edge) in self.manifest.edges.iter().enumerate() {
            for path in &edge.outputs {
                let path = self.full(path);
                if path == manifest_path {
                    left_out.insert(index);
                }
                if let Some(other) = self.makers.insert(path, index)
                    && other != index
                {
                    let message = format!("multiple rules generate {}", edge.outputs[0]);
                    return Err(self.manifest.error(edge, message, "ninja refuses this, too"));
                }
            }
        }
        for index in &left_out {
            let outputs = &self.manifest.edges[*index].outputs;
            let paths: Vec<_> = outputs.iter().map(|path| self.full(path)).collect();
            self.makers.retain(|path, _| !paths.contains(path));
        }
        let mut next = 0;
        for (index, edge) in self.manifest.edges.iter().enumerate() {
            // A phony statement without tasks among its inputs only stands for files.
            let other = |path: &String| self.maker(path).is_some_and(|maker| maker != index);
            let works = edge.rule.is_some() || edge.inputs.iter().any(other);
            let named = self.manifest.defaults.contains(&edge.outputs[0]);
            let is_task = (works || named) && !left_out.contains(&index);
            self.ids.push(is_task.then(|| {
                next += 1;
                TaskId::at(next - 1)
            }));
        }
        Ok(left_out.len())
    }

    fn maker(&self, path: &str) -> Option<usize> {
        self.makers.get(&self.full(path)).copied()
    }

    fn check_cycles(&mut self) -> Result<(), ImportError> {
        let edges: Vec<Vec<u32>> = (0..)
            .zip(&self.manifest.edges)
            .map(|(index, edge)| {
                let makers = edge.inputs.iter().filter_map(|path| self.maker(path));
                // Generators write `build x: phony x`, which ninja takes as `build x: phony`.
                let itself = edge.rule.is_none().then_some(index);
                makers.filter(|maker| Some(*maker) != itself).map(|maker| maker as u32).collect()
            })
            .collect();
        let of = |index: u32| &self.manifest.edges[index as usize];
        let own = (0..).zip(&edges).find(|(index, inputs)| inputs.contains(index));
        let found = crate::graph::cycles(&edges).into_iter().next();
        let Some(cycle) = own.map(|(index, _)| vec![index]).or(found) else {
            return Ok(());
        };
        let mut names: Vec<_> =
            cycle.iter().take(20).map(|index| of(*index).outputs[0].as_str()).collect();
        names.push(names[0]);
        let message = format!("dependency cycle: {}", names.join(" -> "));
        Err(self.manifest.error(of(cycle[0]), message, ""))
    }

    fn behind(&mut self, index: usize) -> Rc<Behind<'m>> {
        let mut pending = vec![index];
        while let Some(&index) = pending.last() {
            if self.seen_through[index].is_some() {
                pending.pop();
                continue;
            }
            let edge = &self.manifest.edges[index];
            let mut behind = Behind::default();
            let mut unknown = Vec::new();
            if edge.rule.is_none() && edge.inputs.is_empty() {
                match self.files.kind(&self.full(&edge.outputs[0])) {
                    Kind::Missing => behind.always = true,
                    _ => behind.sources.push(&edge.outputs[0]),
                }
            } else if edge.rule.is_none() {
                for path in &edge.inputs[..edge.data_inputs] {
                    match self.maker(path) {
                        Some(maker) if maker == index => {}
                        None => behind.sources.push(path),
                        Some(maker) => match &self.seen_through[maker] {
                            None => unknown.push(maker),
                            Some(further) => {
                                behind.always |= further.always;
                                behind.sources.extend(&further.sources);
                            }
                        },
                    }
                }
            }
            match unknown.is_empty() {
                true => self.seen_through[index] = Some(Rc::new(behind)),
                false => pending.extend(unknown),
            }
        }
        self.seen_through[index].clone().unwrap_or_default()
    }

    fn task(&mut self, index: usize, edge: &'m Edge) -> Result<Task, ImportError> {
        let mut task = Task::default();
        let mut kinds: HashMap<TaskId, usize> = HashMap::new();
        let mut sources: Vec<&str> = Vec::new();
        let mut always = false;
        for (place, path) in edge.inputs.iter().enumerate() {
            let data = place < edge.data_inputs;
            let maker = self.maker(path).filter(|maker| *maker != index);
            match maker {
                None if data => sources.push(path),
                Some(maker) if data => {
                    let behind = self.behind(maker);
                    always |= behind.always;
                    sources.extend(&behind.sources);
                }
                _ => {}
            }
            let Some(id) = maker.and_then(|maker| self.ids[maker]) else { continue };
            let kind = if data { DependencyKind::Data } else { DependencyKind::Order };
            match kinds.get(&id) {
                Some(&first) if data => task.deps[first].kind = kind,
                Some(_) => {}
                None => {
                    kinds.insert(id, task.deps.len());
                    task.deps.push(Dependency { task: id, kind });
                }
            }
        }
        if edge.rule.is_none() {
            return Ok(task);
        }
        let mut inputs: Vec<InputPattern> = Vec::new();
        let mut seen = BTreeSet::new();
        for path in sources.into_iter().filter(|path| seen.insert(*path)) {
            match self.input(edge, path)? {
                Ok(input) => inputs.push(input),
                Err(Some(tool)) => task.tools.push(tool),
                Err(None) => always = true,
            }
        }
        self.fill(&mut task, edge)?;
        if always {
            task.cache = CachePolicy::Off;
        }
        if task.outputs.is_some() {
            task.inputs = Some(inputs);
        }
        Ok(task)
    }

    /// What only statements with a rule have.
    fn fill(&mut self, task: &mut Task, edge: &Edge) -> Result<(), ImportError> {
        let manifest = self.manifest;
        let fail = |message: &str, hint: &str| Err(manifest.error(edge, message.to_owned(), hint));
        if !manifest.path_binding(edge, "dyndep")?.is_empty() {
            let hint = "dependencies that are found out during the build need ninja";
            return fail("`dyndep` is not supported", hint);
        }
        let deps = manifest.binding(edge, "deps")?;
        let dep_file = manifest.path_binding(edge, "depfile")?;
        match deps.as_str() {
            "" => {}
            "gcc" if !dep_file.is_empty() => {}
            "gcc" => return fail("`deps = gcc` without `depfile`", ""),
            other => return fail(&format!("`deps = {other}` is not supported"), "gcc's are"),
        }
        let command = self.command(edge)?;
        task.tools.extend(program(&command).map(|name| ToolSpec {
            name: name.to_owned(),
            source: ToolSource::Path(name.to_owned()),
        }));
        let mut names = BTreeSet::new();
        task.tools.retain(|tool| names.insert(tool.name.clone()));
        task.command = Some(shell(command));
        task.cache = CachePolicy::Complete;
        task.clean = false;
        let description = manifest.binding(edge, "description")?;
        task.description = Some(description).filter(|text| !text.is_empty());
        match manifest.binding(edge, "pool")?.as_str() {
            "" => {}
            // Such statements print to the terminal at once; here their output waits for their end.
            "console" => {}
            name => {
                let Some((_, depth)) = manifest.pools.iter().find(|(pool, _)| pool == name) else {
                    return fail(&format!("unknown pool `{name}`"), "");
                };
                let limited = manifest.pools.iter().filter(|(_, depth)| *depth > 0);
                if *depth > 0 {
                    let place = limited.take_while(|(pool, _)| pool != name).count();
                    task.pool = Some(PoolId::at(place as u32));
                }
            }
        }
        match within(self.root, self.directory) {
            Some(directory) => task.working_dir = directory.to_owned(),
            None => return fail("it would run outside of the workspace", "choose --workspace"),
        }
        if !dep_file.is_empty() {
            let full = self.full(&dep_file);
            let path = within(self.root, &full).map(str::to_owned);
            task.dep_file = Some(path.ok_or_else(|| {
                manifest.error(edge, format!("`{dep_file}` is outside of the workspace"), "")
            })?);
        }
        task.outputs = self.outputs(edge)?;
        Ok(())
    }

    fn command(&self, edge: &Edge) -> Result<String, ImportError> {
        let manifest = self.manifest;
        let mut command = manifest.binding(edge, "command")?;
        let file = manifest.path_binding(edge, "rspfile")?;
        if !file.is_empty() {
            let (mut name, mut content) = (String::new(), String::new());
            push_quoted(&file, &mut name);
            push_quoted(&manifest.binding(edge, "rspfile_content")?, &mut content);
            // As ninja: written before, removed after a success.
            command = format!(
                "printf %s {content} > {name} || exit\n({command}\n) || exit\nrm -f {name}"
            );
        }
        let message = if command.trim().is_empty() {
            "an empty command".to_owned()
        } else if command.len() >= MAX_ARGUMENT {
            format!("a command of more than {} KiB", MAX_ARGUMENT >> 10)
        } else {
            return Ok(command);
        };
        Err(manifest.error(edge, message, "ninja could not start it, either"))
    }

    /// An input in the workspace, or else the tool that it is; neither when it cannot be watched.
    fn input(
        &mut self,
        edge: &Edge,
        path: &str,
    ) -> Result<Result<InputPattern, Option<ToolSpec>>, ImportError> {
        let full = self.full(path);
        let Some(path) = within(self.root, &full) else {
            if self.files.kind(&full) == Kind::Executable {
                return Ok(Err(Some(ToolSpec {
                    name: full.clone(),
                    source: ToolSource::Path(full),
                })));
            }
            self.outside.insert(full);
            return Ok(Err(None));
        };
        if let Some(glob) = self.globs.get(path) {
            return Ok(Ok(InputPattern { glob: Arc::clone(glob), negated: false }));
        }
        self.check_text(edge, path)?;
        let text = if path == "." { "**" } else { path };
        let glob = Glob::new(text).map_err(|e| self.manifest.error(edge, e.to_string(), ""))?;
        let glob = Arc::new(glob);
        self.globs.insert(path.to_owned(), Arc::clone(&glob));
        Ok(Ok(InputPattern { glob, negated: false }))
    }

    /// `None` when one of them is outside of the workspace, so that none can be kept.
    fn outputs(&mut self, edge: &Edge) -> Result<Option<Vec<OutputDeclaration>>, ImportError> {
        let mut outputs: Vec<OutputDeclaration> = Vec::new();
        for path in &edge.outputs {
            let full = self.full(path);
            let Some(path) = within(self.root, &full).filter(|path| *path != ".") else {
                self.outside.insert(full);
                return Ok(None);
            };
            self.check_text(edge, path)?;
            if [".git", ".netbuild"].contains(&path.split('/').next().unwrap_or_default()) {
                let message = format!("output `{path}` is where netbuild or git keep their files");
                return Err(self.manifest.error(edge, message, ""));
            }
            if !outputs.iter().any(|output| output.pattern == path) {
                let (pattern, shape) = (path.to_owned(), OutputShape::Path);
                outputs.push(OutputDeclaration { pattern, shape, optional: true });
            }
        }
        Ok(Some(outputs))
    }

    fn check_text(&self, edge: &Edge, path: &str) -> Result<(), ImportError> {
        if path.contains(SPECIAL) || path.contains('\\') {
            let message = format!("`{path}` has a character that is special in patterns");
            return Err(self.manifest.error(edge, message, "rename the file"));
        }
        Ok(())
    }

    /// A name for each task, by its first output, and the other outputs that name it.
    fn names(&self) -> (Vec<String>, Vec<(String, TaskId)>) {
        let mut taken = HashMap::new();
        let (mut names, mut aliases) = (Vec::new(), Vec::new());
        for (edge, id) in self.manifest.edges.iter().zip(&self.ids) {
            let Some(id) = *id else { continue };
            let first = task_name(&self.shown(&edge.outputs[0]));
            let mut name = first.clone();
            let mut number = 1;
            while taken.contains_key(&name) {
                number += 1;
                name = task_name(&format!("{number}-{first}"));
            }
            taken.insert(name.clone(), id);
            names.push(name);
        }
        for (edge, id) in self.manifest.edges.iter().zip(&self.ids) {
            let Some(id) = *id else { continue };
            for path in &edge.outputs {
                if !taken.contains_key(path) {
                    taken.insert(path.clone(), id);
                    aliases.push((path.clone(), id));
                }
            }
        }
        (names, aliases)
    }

    /// A path as people name it: without the workspace before it.
    fn shown(&self, path: &str) -> String {
        let inside = if path.starts_with('/') { within(self.root, path) } else { None };
        inside.unwrap_or(path).to_owned()
    }

    fn defaults(&self, tasks: &[Task]) -> Result<Vec<TaskId>, ImportError> {
        if !self.manifest.defaults.is_empty() {
            let mut targets = Vec::new();
            for path in &self.manifest.defaults {
                let Some(maker) = self.maker(path) else {
                    return Err(ImportError {
                        file: format!("{}/build.ninja", self.directory),
                        line: 0,
                        column: 0,
                        message: format!("unknown target `{path}` of `default`"),
                        hint: None,
                    });
                };
                targets.extend(self.ids[maker]);
            }
            return Ok(targets);
        }
        let mut needed = vec![false; tasks.len()];
        for dep in tasks.iter().flat_map(|task| &task.deps) {
            needed[dep.task.index()] = true;
        }
        let ids = (0..tasks.len() as u32).map(TaskId::at);
        Ok(ids.filter(|id| !needed[id.index()]).collect())
    }
}

fn shell(command: String) -> Vec<String> {
    vec!["/bin/sh".to_owned(), "-c".to_owned(), command]
}

/// The program that a command of a shell starts first, when that is plain to see: its content is
/// part of the key, as a compiler is an input that manifests do not name.
fn program(command: &str) -> Option<&str> {
    let mut rest = command.trim_start();
    loop {
        if let Some(after) = rest.strip_prefix(": && ") {
            rest = after.trim_start();
        } else if let Some(after) = rest.strip_prefix("cd ") {
            rest = after.split_once(" && ")?.1.trim_start();
        } else {
            break;
        }
    }
    let word = rest.split([' ', '\n', '\t']).next()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "_+-./".contains(c);
    let relative = word.contains('/') && !word.starts_with('/');
    let program = !word.is_empty() && word.chars().all(plain) && !relative;
    (program && !SHELL_WORDS.contains(&word) && !word.starts_with('-')).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::program;

    #[test]
    fn the_program_of_a_command_is_seen_when_it_is_plain() {
        for (command, expected) in [
            ("gcc -c a.c", Some("gcc")),
            ("/usr/bin/c++ -o x", Some("/usr/bin/c++")),
            (": && /usr/bin/cc a && :", Some("/usr/bin/cc")),
            ("cd /b/x && /usr/bin/cmake -E touch", Some("/usr/bin/cmake")),
            ("cd x; make", None),
            ("./gen x", None),
            ("A=1 gcc", None),
            ("(gcc)", None),
            ("test -f x", None),
            ("", None),
        ] {
            assert_eq!(program(command), expected, "{command}");
        }
    }
}
