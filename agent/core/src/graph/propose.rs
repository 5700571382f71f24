//! Declarations that fit what a task was seen to do.
//!
//! Nothing is taken back: what a task declares and did not use this time, it may use the next time.

use super::{Dependency, DependencyKind, Graph, InputPattern, Task, TaskId};
use crate::{glob::Glob, key::OutputShape};
use std::collections::{BTreeMap, BTreeSet};

/// From how many files on a pattern stands for them.
const WORTH_A_PATTERN: usize = 2;
/// Programs that do the same everywhere: as tools they would only keep machines from sharing results.
const PLAIN: &[&str] = &[
    "basename", "bash", "cat", "chmod", "cmp", "cp", "cut", "dash", "date", "dirname", "echo",
    "env", "expr", "false", "find", "grep", "head", "install", "ln", "ls", "mkdir", "mktemp", "mv",
    "printf", "pwd", "readlink", "realpath", "rm", "rmdir", "sed", "sh", "sleep", "sort", "tail",
    "tee", "test", "touch", "tr", "true", "uname", "uniq", "wc", "xargs",
];

/// What one task did with files; paths are relative to the workspace.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Doings {
    /// What it read that it did not make.
    pub read: Vec<String>,
    /// What it made, changed, moved or removed.
    pub written: Vec<String>,
    /// Names of programs in `PATH` that it ran and that are not among its tools.
    pub programs: Vec<String>,
    /// Whether it may have done more, so that nothing can be proposed.
    pub partly: bool,
}

/// What is to be added to a task.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Proposal {
    /// Further inputs; `None` when the task has inputs and needs no more.
    pub inputs: Option<Vec<String>>,
    /// Further outputs, likewise.
    pub outputs: Option<Vec<String>>,
    /// Further tools.
    pub tools: Vec<String>,
    /// Tasks whose outputs it read without depending on them.
    pub deps: Vec<String>,
    /// What a person has to see to.
    pub notes: Vec<String>,
}

impl Proposal {
    /// Whether there is nothing to add.
    pub fn is_empty(&self) -> bool {
        self.inputs.is_none()
            && self.outputs.is_none()
            && self.tools.is_empty()
            && self.deps.is_empty()
    }
}

/// Proposes declarations. `doings` has what each task did that was run, `standing` all files that are in the
/// workspace now, relative to it.
pub fn propose(
    graph: &Graph,
    doings: &BTreeMap<TaskId, Doings>,
    standing: &BTreeSet<String>,
) -> BTreeMap<TaskId, Proposal> {
    let mut makers: BTreeMap<&str, TaskId> = BTreeMap::new();
    for (id, did) in doings {
        for path in did.written.iter().filter(|path| !did.read.contains(path)) {
            makers.entry(path).or_insert(*id);
        }
    }
    let sources: BTreeSet<&str> =
        standing.iter().map(String::as_str).filter(|path| !makers.contains_key(path)).collect();
    let standing: BTreeSet<&str> = standing.iter().map(String::as_str).collect();
    let all = Standing { makers, sources, standing };
    doings.iter().map(|(id, did)| (*id, all.of(graph, *id, did))).collect()
}

struct Standing<'a> {
    /// Who made what.
    makers: BTreeMap<&'a str, TaskId>,
    /// What nobody made.
    sources: BTreeSet<&'a str>,
    standing: BTreeSet<&'a str>,
}

impl Standing<'_> {
    fn of(&self, graph: &Graph, id: TaskId, did: &Doings) -> Proposal {
        let task = &graph[id];
        let mut proposal = Proposal::default();
        if did.partly {
            proposal.notes.push("not all of what it did was seen; nothing is proposed".into());
            return proposal;
        }
        let written: BTreeSet<&str> = did.written.iter().map(String::as_str).collect();
        let read: BTreeSet<&str> = did
            .read
            .iter()
            .map(String::as_str)
            .filter(|path| self.sources.contains(path))
            .collect();
        for path in read.intersection(&written) {
            proposal.notes.push(format!("it changes `{path}`, which it also reads"));
        }
        for path in did.read.iter().filter(|path| is_pattern(path)) {
            proposal.notes.push(format!("`{path}` has characters of a pattern in its name"));
        }
        let known = task.inputs.as_deref().unwrap_or_default();
        let undeclared: BTreeSet<&str> = read
            .iter()
            .copied()
            .filter(|path| !InputPattern::select(known, path.as_bytes()) && !is_pattern(path))
            .filter(|path| !has_output(task, path))
            .collect();
        let inputs = fold(&undeclared, &read, &self.sources);
        proposal.inputs = (task.inputs.is_none() || !inputs.is_empty()).then_some(inputs);
        let left: BTreeSet<&str> = written
            .iter()
            .copied()
            .filter(|path| self.standing.contains(path) && !read.contains(path))
            .filter(|path| !has_output(task, path) && !is_pattern(path))
            .collect();
        let outputs = directories(&left, &written, &self.standing);
        proposal.outputs = (task.outputs.is_none() || !outputs.is_empty()).then_some(outputs);
        let always_runs = task.inputs.is_none() && task.outputs.is_none();
        if always_runs && proposal.outputs.as_ref().is_some_and(Vec::is_empty) {
            // What it does elsewhere would be skipped the next time.
            let what = "it makes nothing here; if it need not run again for the same inputs, declare \
                        them and `\"outputs\": []`";
            proposal.notes.push(what.into());
            (proposal.inputs, proposal.outputs) = (None, None);
        }
        let tools = did.programs.iter().filter(|name| !PLAIN.contains(&name.as_str()));
        proposal.tools = tools.cloned().collect();
        proposal.tools.sort();
        proposal.tools.dedup();
        let needed = data_of(graph, task);
        let makers: BTreeSet<TaskId> = did
            .read
            .iter()
            .filter_map(|path| self.makers.get(path.as_str()).copied())
            .filter(|maker| *maker != id && !needed.contains(maker))
            .collect();
        for maker in makers {
            let name = &graph[maker].name;
            // A dependency against the order of the run would be a cycle.
            if graph.closure(&[maker]).contains(&id) {
                proposal.notes.push(format!("it reads what `{name}` makes, which needs it"));
            } else {
                proposal.deps.push(name.clone());
            }
        }
        proposal
    }
}

/// Whether a path cannot be written as it is.
fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '[', ']', '{', '}', '\\']) || path.starts_with(['!', '@'])
}

fn has_output(task: &Task, path: &str) -> bool {
    task.outputs.iter().flatten().any(|output| {
        let place = output.place();
        match output.shape {
            OutputShape::Path => path == place,
            OutputShape::Tree => path.strip_prefix(place).is_some_and(|rest| rest.starts_with('/')),
            OutputShape::Glob => Glob::new(place).is_ok_and(|glob| glob.matches(path.as_bytes())),
        }
    })
}

/// The tasks whose outputs are inputs of a task: through groups, too.
fn data_of(graph: &Graph, task: &Task) -> BTreeSet<TaskId> {
    let data = |deps: &[Dependency]| -> Vec<TaskId> {
        let data = deps.iter().filter(|dep| dep.kind == DependencyKind::Data);
        data.map(|dep| dep.task).collect()
    };
    let mut found = BTreeSet::new();
    let mut open = data(&task.deps);
    while let Some(id) = open.pop() {
        if found.insert(id) && graph[id].command.is_none() {
            open.extend(data(&graph[id].deps));
        }
    }
    found
}

/// The directory of a path; empty for what is at the top.
fn directory(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}

fn is_below(path: &str, directory: &str) -> bool {
    directory.is_empty() || path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

fn extension(path: &str) -> Option<&str> {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.rsplit_once('.').filter(|(stem, _)| !stem.is_empty()).map(|(_, extension)| extension)
}

/// Patterns for `wanted`: one for all files with an extension in or below a directory when every such file was
/// read, else the paths. Below the workspace itself is too much to take in with one.
fn fold(wanted: &BTreeSet<&str>, read: &BTreeSet<&str>, existing: &BTreeSet<&str>) -> Vec<String> {
    let mut left = wanted.clone();
    let mut found = Vec::new();
    let mut places: BTreeSet<&str> = BTreeSet::new();
    for path in wanted {
        let mut place = directory(path);
        while places.insert(place) && !place.is_empty() {
            place = directory(place);
        }
    }
    // From the top, so that the widest pattern that fits is taken.
    for place in places {
        let kinds: BTreeSet<&str> =
            left.iter().filter(|path| is_below(path, place)).filter_map(|p| extension(p)).collect();
        for kind in kinds {
            let of_kind = |path: &&str| extension(path) == Some(kind);
            let direct = |path: &&str| directory(path) == place;
            let all = |set: &BTreeSet<&str>, deep: bool| {
                let here = set.iter().copied().filter(of_kind);
                here.filter(|path| if deep { is_below(path, place) } else { direct(path) }).count()
            };
            let fits = |deep| all(read, deep) == all(existing, deep);
            let deep = !place.is_empty() && fits(true) && all(read, true) > all(read, false);
            if all(read, deep) < WORTH_A_PATTERN || !fits(deep) {
                continue;
            }
            let slash = if place.is_empty() { "" } else { "/" };
            let many = if deep { "**/" } else { "" };
            found.push(format!("{place}{slash}{many}*.{kind}"));
            left.retain(|path| {
                !of_kind(path) || !(if deep { is_below(path, place) } else { direct(path) })
            });
        }
    }
    found.extend(left.into_iter().map(str::to_owned));
    found.sort();
    found
}

/// What a task left, as whole directories where it made them and nobody else has a file in them.
fn directories(
    left: &BTreeSet<&str>,
    written: &BTreeSet<&str>,
    standing: &BTreeSet<&str>,
) -> Vec<String> {
    let mut rest = left.clone();
    let mut found = Vec::new();
    let mut places: BTreeSet<&str> = BTreeSet::new();
    for path in left {
        let mut place = directory(path);
        while !place.is_empty() && places.insert(place) {
            place = directory(place);
        }
    }
    for place in places {
        let count = |set: &BTreeSet<&str>| set.iter().filter(|path| is_below(path, place)).count();
        let own = standing.iter().filter(|p| is_below(p, place)).all(|path| written.contains(path));
        // One that stood before would be missed by the next run, as outputs are removed first.
        if own && written.contains(place) && count(&rest) >= WORTH_A_PATTERN {
            found.push(format!("{place}/"));
            rest.retain(|path| !is_below(path, place));
        }
    }
    found.extend(rest.into_iter().map(str::to_owned));
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::load;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    fn standing(list: &[&str]) -> BTreeSet<String> {
        texts(list).into_iter().collect()
    }

    fn set<'a>(list: &[&'a str]) -> BTreeSet<&'a str> {
        list.iter().copied().collect()
    }

    #[test]
    fn patterns_take_in_what_was_read_and_nothing_else() {
        for (read, existing, expected) in [
            (&["src/a.c", "src/b.c"][..], &["src/a.c", "src/b.c"][..], &["src/*.c"][..]),
            (&["src/a.c", "src/x/b.c"], &["src/a.c", "src/x/b.c"], &["src/**/*.c"]),
            (&["src/a.c", "src/b.c"], &["src/a.c", "src/b.c", "src/no.c"], &["src/a.c", "src/b.c"]),
            (&["src/a.c", "src/b.c"], &["src/a.c", "src/b.c", "src/x/no.c"], &["src/*.c"]),
            (&["a.c", "b.c", "Makefile"], &["a.c", "b.c", "Makefile"], &["*.c", "Makefile"]),
            (&["p/a.go", "q/b.go"], &["p/a.go", "q/b.go"], &["p/a.go", "q/b.go"]),
            (&[".rc"], &[".rc", "x.rc"], &[".rc"]),
        ] {
            assert_eq!(fold(&set(read), &set(read), &set(existing)), expected, "{read:?}");
        }
    }

    #[test]
    fn a_directory_is_an_output_when_all_in_it_is_the_tasks_own() {
        let written = set(&["out/a", "out/b/c", "bin/x", "bin", "out"]);
        let left = set(&["out/a", "out/b/c", "bin/x"]);
        let standing = set(&["out/a", "out/b/c", "bin/x", "bin/y"]);
        assert_eq!(directories(&left, &written, &standing), ["bin/x", "out/"]);
    }

    #[test]
    fn what_another_task_made_becomes_a_dependency_and_what_is_declared_stays() {
        let graph = load(
            br#"{"tasks": {
                "gen": {"command": "g", "outputs": ["gen.h"]},
                "cc": {"command": "c", "inputs": ["a.c"], "tools": ["gcc"]},
                "ld": {"command": "l", "deps": [{"task": "cc", "kind": "order"}]}}}"#,
        )
        .unwrap();
        let id = |name: &str| graph.find(name).unwrap();
        let doings = BTreeMap::from([
            (id("gen"), Doings { written: texts(&["gen.h", "tmp"]), ..Doings::default() }),
            (
                id("cc"),
                Doings {
                    read: texts(&["a.c", "b.h", "gen.h"]),
                    written: texts(&["a.o"]),
                    programs: texts(&["as", "cat"]),
                    partly: false,
                },
            ),
            (
                id("ld"),
                Doings { read: texts(&["a.o"]), written: texts(&["x"]), ..Doings::default() },
            ),
        ]);
        let found = propose(&graph, &doings, &standing(&["a.c", "b.h", "gen.h", "a.o", "x"]));
        let gen_h = &found[&id("gen")];
        assert_eq!((gen_h.inputs.clone(), gen_h.outputs.clone()), (Some(Vec::new()), None));
        let cc = &found[&id("cc")];
        assert_eq!(cc.inputs.as_deref().unwrap(), ["b.h"]);
        assert_eq!(cc.outputs.as_deref().unwrap(), ["a.o"]);
        assert_eq!((cc.tools.clone(), cc.deps.clone()), (texts(&["as"]), texts(&["gen"])));
        assert_eq!(found[&id("ld")].deps, ["cc"]);
    }

    #[test]
    fn nothing_is_proposed_that_would_skip_what_was_not_seen() {
        let graph =
            load(br#"{"tasks": {"test": {"command": "t"}, "net": {"command": "n"}}}"#).unwrap();
        let id = |name: &str| graph.find(name).unwrap();
        let read = Doings { read: texts(&["a.c"]), ..Doings::default() };
        let partly = Doings { written: texts(&["x"]), partly: true, ..read.clone() };
        let doings = BTreeMap::from([(id("test"), read), (id("net"), partly)]);
        let found = propose(&graph, &doings, &standing(&["a.c", "x"]));
        assert!(found.values().all(|proposal| proposal.is_empty() && proposal.notes.len() == 1));
    }
}
