//! What a watched command did, held against what its task declares.

use super::declared;
use crate::{
    beneath::shown,
    event::Observation,
    inputs::{EXTERNAL, Inputs},
    run::Run,
    supervisor::USED_NETWORK,
    workspace::DIRECTORY,
};
use netbuild_core::{
    glob::Glob,
    graph::Task,
    key::{OutputDeclaration, OutputShape},
    tree::Entry,
};
use netbuild_proto::spawn::Observed;
use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fmt::Write as _,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

/// Most names that a message has of each kind.
const SHOWN: usize = 10;

/// What a command did that its task does not declare.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    read: Vec<String>,
    written: Vec<String>,
    /// Programs that are not among the task's tools.
    programs: Vec<String>,
    /// Why there may be more.
    unseen: Vec<String>,
}

impl Findings {
    /// Holds what was observed against the task. `inputs` are all of it.
    pub(crate) fn new(run: &Run<'_>, task: &Task, inputs: &Inputs, observed: &Observed) -> Self {
        let files = &run.workspace.files;
        // What a link leads to is keyed with it.
        let led_to: BTreeSet<PathBuf> = inputs
            .iter()
            .filter(|(path, seen)| {
                matches!(seen.entry, Entry::Symlink { .. }) && !path.starts_with(EXTERNAL)
            })
            .filter_map(|(path, _)| files.absolute(path).canonicalize().ok())
            .collect();
        let outputs = Outputs::new(declared(task));
        let tools = Programs::new(run, task);
        let mut findings = Self::default();
        for (path, how) in &observed.files {
            let path = Path::new(OsStr::from_bytes(path));
            let inside = path.strip_prefix(&run.workspace.root).ok();
            if inside.is_some_and(|path| path.starts_with(DIRECTORY)) {
                continue;
            }
            let bytes = inside.map(|path| path.as_os_str().as_bytes());
            let name = bytes.map_or_else(|| path.display().to_string(), shown);
            let is_input =
                led_to.contains(path) || bytes.is_some_and(|path| inputs.contains_key(path));
            let is_output = bytes.is_some_and(|path| outputs.has(path));
            if (how.read || how.executed && inside.is_some()) && !is_input && !is_output {
                findings.read.push(name.clone());
            }
            let leads_there = path.is_dir() && bytes.is_some_and(|path| outputs.is_below(path));
            if how.written && !is_output && !leads_there {
                findings.written.push(name.clone());
            }
            if how.executed && inside.is_none() && !tools.has(path) {
                findings.programs.push(name);
            }
        }
        let network = |why: &&String| !(task.network == Some(true) && *why == USED_NETWORK);
        findings.unseen = observed.unseen.iter().filter(network).cloned().collect();
        findings
    }

    /// What a result may depend on, or leaves behind, beside what is declared; nothing when there is no such
    /// thing.
    pub(crate) fn undeclared(&self) -> Option<String> {
        let lists = [("it read", &self.read), ("it wrote", &self.written)];
        let mut parts: Vec<String> = lists
            .into_iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(what, list)| format!("{what} {}, undeclared", names(list)))
            .collect();
        parts.extend(self.unseen.iter().cloned());
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// The programs that it used without declaring them as tools.
    pub(crate) fn programs(&self) -> Option<String> {
        let list = &self.programs;
        (!list.is_empty()).then(|| format!("it used {}, not among its `tools`", names(list)))
    }
}

/// A few names in a sentence.
pub(crate) fn names(list: &[String]) -> String {
    let mut text = String::new();
    for (place, name) in list.iter().take(SHOWN).enumerate() {
        // Writing to a string does not fail.
        let _ = write!(text, "{}`{name}`", if place == 0 { "" } else { ", " });
    }
    if list.len() > SHOWN {
        let _ = write!(text, " and {} more", list.len() - SHOWN);
    }
    text
}

struct Outputs<'a> {
    declared: &'a [OutputDeclaration],
    globs: Vec<Glob>,
}

impl<'a> Outputs<'a> {
    fn new(declared: &'a [OutputDeclaration]) -> Self {
        let globs = declared.iter().filter(|output| output.shape == OutputShape::Glob);
        Self { declared, globs: globs.filter_map(|o| Glob::new(&o.pattern).ok()).collect() }
    }

    fn places(&self) -> impl Iterator<Item = (&[u8], OutputShape)> {
        self.declared.iter().map(|output| (output.place().as_bytes(), output.shape))
    }

    /// Whether a path is one of them.
    fn has(&self, path: &[u8]) -> bool {
        self.globs.iter().any(|glob| glob.matches(path))
            || self.places().any(|(place, shape)| match shape {
                OutputShape::Path => path == place,
                OutputShape::Tree => is_at_or_below(path, place),
                OutputShape::Glob => false,
            })
    }

    /// Whether one of them is below a path, so that its directory may be made.
    fn is_below(&self, path: &[u8]) -> bool {
        self.globs.iter().any(|glob| {
            is_at_or_below(glob.literal_prefix().as_bytes(), path) || glob.may_match_below(path)
        }) || self.places().any(|(place, _)| is_at_or_below(place, path))
    }
}

fn is_at_or_below(path: &[u8], place: &[u8]) -> bool {
    path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// Executables that are part of a task's key, or of its command.
struct Programs(BTreeSet<PathBuf>);

impl Programs {
    fn new(run: &Run<'_>, task: &Task) -> Self {
        let environment = run.environment(task);
        let find = |name: &str| environment.find_program(name, &run.workspace.root);
        let named = task.tools.iter().filter_map(|tool| tool.source.program());
        // The shell that a command text needs is named by the format.
        let shell = task.command.iter().flatten().take(1).map(String::as_str);
        let shell = shell.filter(|program| *program == "/bin/sh" || *program == "bash");
        let found = named.chain(shell).filter_map(find);
        Self(found.map(|path| path.canonicalize().unwrap_or(path)).collect())
    }

    fn has(&self, path: &Path) -> bool {
        self.0.contains(path)
    }
}

/// What was observed, for whoever proposes declarations from it.
pub(crate) fn observation(run: &Run<'_>, task: &Task, observed: &Observed) -> Observation {
    let tools = Programs::new(run, task);
    let mut told = Observation { unseen: observed.unseen.clone(), ..Observation::default() };
    for (path, how) in &observed.files {
        let path = Path::new(OsStr::from_bytes(path));
        let Ok(inside) = path.strip_prefix(&run.workspace.root) else {
            if how.read || how.written {
                told.outside.push(path.display().to_string());
            }
            if how.executed && !tools.has(path) {
                told.programs.push(path.display().to_string());
            }
            continue;
        };
        if inside.starts_with(DIRECTORY) {
            continue;
        }
        let Some(name) = inside.to_str() else {
            told.unseen.push(format!("the name of `{}` is not UTF-8", inside.display()));
            continue;
        };
        if how.written {
            told.written.push(name.to_owned());
        }
        if how.read || how.executed && !how.written {
            told.read.push(name.to_owned());
        }
    }
    told
}
