//! Graphs from the files of other build tools.
//!
//! What is read decides what a run does, so an importer keeps the meaning of the other tool or says
//! in an error that it cannot; what it must leave out it says in a note.

pub mod ninja;
pub mod turbo;

use crate::graph::Graph;
use std::fmt;

/// Largest file that is read: as large as a graph file may be.
pub const MAX_FILE: usize = 64 << 20;

/// What stands at a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Nothing, or nothing that can be looked at.
    Missing,
    /// A file.
    File,
    /// A file that can be executed.
    Executable,
    /// A directory.
    Directory,
}

/// The files that an importer looks at, by absolute paths.
pub trait Files {
    /// The content of a file of at most [`MAX_FILE`] bytes; the error says what is wrong with it.
    fn read(&self, path: &str) -> Result<Vec<u8>, String>;
    /// What stands at a path.
    fn kind(&self, path: &str) -> Kind;
    /// The names in a directory, sorted; none when it cannot be read.
    fn list(&self, path: &str) -> Vec<String>;
}

/// A graph of another tool's file.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The graph.
    pub graph: Graph,
    /// What a person should know of what became of the file: sentences without a full stop.
    pub notes: Vec<String>,
}

/// A file that cannot be imported.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct ImportError {
    /// The file.
    pub file: String,
    /// Line, from 1; 0 when it is about the whole file.
    pub line: u32,
    /// Column in bytes, from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// What would help.
    pub hint: Option<String>,
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.message)?,
            line => write!(f, "{}:{line}:{}: {}", self.file, self.column, self.message)?,
        }
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// An absolute path, or one relative to `directory`, without `.`, `..` and double slashes.
pub(crate) fn absolute(directory: &str, path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    let start = if path.starts_with('/') { "" } else { directory };
    for name in start.split('/').chain(path.split('/')) {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    format!("/{}", names.join("/"))
}

/// An absolute path as the workspace at `root` has it; `None` outside of it.
pub(crate) fn within<'p>(root: &str, path: &'p str) -> Option<&'p str> {
    let rest = match root {
        "/" => path.strip_prefix('/')?,
        _ => path.strip_prefix(root)?,
    };
    match rest.strip_prefix('/') {
        Some(rest) => Some(rest),
        None if rest.is_empty() => Some("."),
        None if root == "/" => Some(rest),
        None => None,
    }
}

/// A name that a task can have, made of any text.
pub(crate) fn task_name(text: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.@/:+-".contains(c);
    let mut name: String = text.chars().map(|c| if allowed(c) { c } else { '_' }).collect();
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
        name.insert(0, '_');
    }
    if name.len() > MAX_NAME {
        // What is cut off still tells names apart.
        let hash = crate::digest::Hash::of(text.as_bytes()).short();
        let from = name.len() - (MAX_NAME - hash.len() - 1);
        name = format!("{hash}-{}", &name[from..]);
        if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            name.replace_range(..1, "_");
        }
    }
    name
}

/// Longest task name of a graph file in bytes.
const MAX_NAME: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_one_form_and_know_their_workspace() {
        assert_eq!(absolute("/w/build", "../src/./a.c"), "/w/src/a.c");
        assert_eq!(absolute("/w", "/x//y/.."), "/x");
        assert_eq!(absolute("/w", "../../.."), "/");
        assert_eq!(within("/w", "/w/a/b"), Some("a/b"));
        assert_eq!(within("/w", "/w"), Some("."));
        assert_eq!(within("/w", "/wide"), None);
        assert_eq!(within("/", "/a"), Some("a"));
    }

    #[test]
    fn any_text_makes_a_name() {
        assert_eq!(task_name("lib/a b$.o"), "lib/a_b_.o");
        assert_eq!(task_name("/x"), "_/x");
        assert_eq!(task_name(""), "_");
        let (one, two) = (task_name(&format!("a{}", "x".repeat(300))), task_name(&"x".repeat(301)));
        assert_eq!((one.len(), one == two), (MAX_NAME, false));
    }
}
