//! A small build with every kind of output, and the comparison of two directories.

use crate::support::{Agent, Place, Run, Workspace};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, path::Path};

/// Tasks of the sample that have a command.
pub(crate) const TASKS: u64 = 8;
/// A digest that nothing has.
pub(crate) const NOWHERE: &str =
    "00000000000000000000000000000000000000000000000000000000000000aa/7";

/// Every command leaves its mark in `ran`, which no task declares: whatever a summary says, a
/// workspace without that file has executed nothing.
fn graph() -> Value {
    let task = |name: &str, command: &str, deps: Value, inputs: Value, outputs: Value| {
        let command = format!("echo {name} >> ran && mkdir -p out && {command}");
        json!({ "command": command, "deps": deps, "inputs": inputs, "outputs": outputs })
    };
    let (none, order) = (json!([]), json!([{ "task": "check", "kind": "order" }]));
    let tree = "mkdir -p out/tree/deep out/tree/bare && cp out/text out/tree/deep/text \
                && ln -s deep/text out/tree/link && : > out/tree/deep/zero \
                && cp out/tool out/tree/tool && seq 1 30000 > out/tree/numbers";
    json!({
        "version": "1",
        "default": "all",
        "tasks": {
            "text": task("text", "cat src/*.txt > out/text", none.clone(), json!(["src/*.txt"]), json!(["out/text"])),
            "tool": task("tool", "printf '#!/bin/sh\\necho hi\\n' > out/tool && chmod +x out/tool",
                none.clone(), none.clone(), json!(["out/tool"])),
            "zero": task("zero", ": > out/zero", none.clone(), none.clone(), json!(["out/zero"])),
            "link": task("link", "ln -s text out/link", json!(["text"]), none.clone(), json!(["out/link"])),
            "large": task("large", "seq 1 800000 > out/large", none.clone(), none.clone(), json!(["out/large"])),
            "tree": task("tree", tree, json!(["text", "tool"]), none.clone(), json!(["out/tree/"])),
            "check": task("check", "test -x out/tool && test -s out/large", json!(["tool", "large"]),
                none.clone(), none.clone()),
            "after": task("after", "echo done > out/after", order, none, json!(["out/after"])),
            "all": { "deps": ["text", "tool", "zero", "link", "large", "tree", "check", "after"] },
        }
    })
}

/// The example of this repository, copied to a place of its own.
pub(crate) fn example(place: &Place, name: &str) -> Workspace {
    let from = Path::new(env!("CARGO_MANIFEST_DIR"));
    let graph = fs::read_to_string(from.join("graph.json")).expect("the graph");
    let graph = serde_json::from_str(&graph).expect("JSON");
    let workspace = place.workspace(name, &graph, &[]);
    for (file, content) in Tree::of(&from.join("tests/workload")).files() {
        workspace.write(&format!("tests/workload/{file}"), &String::from_utf8_lossy(content));
    }
    workspace
}

/// A workspace of the sample, with a data directory of its own.
pub(crate) fn sample(place: &Place, name: &str) -> Workspace {
    place.workspace(name, &graph(), &[("src/a.txt", "one\n"), ("src/b.txt", "two\n")])
}

/// The sample in one data directory, and what it is like when it is built there from nothing.
pub(crate) fn built(place: &Place, name: &str) -> (Workspace, Tree) {
    let workspace = sample(place, name);
    assert_eq!(workspace.run(&[]).expect_success().executed(), TASKS);
    let outputs = workspace.outputs();
    (workspace, outputs)
}

impl Workspace {
    /// An agent of this workspace's data directory.
    pub(crate) fn agent(&self, region: &str, join: &[&str]) -> Agent {
        Agent::start(region, &self.data_dir, join)
    }

    /// What is below `out/`.
    pub(crate) fn outputs(&self) -> Tree {
        Tree::of(&self.root.join("out"))
    }

    /// Removes the outputs, and all that remembers what they were.
    pub(crate) fn forget_outputs(&self) {
        for path in ["out", ".netbuild", "ran"] {
            if self.exists(path) {
                self.remove(path);
            }
        }
    }
}

impl Run {
    /// Ends the test unless every task of the sample was taken from peers in `region`.
    #[track_caller]
    pub(crate) fn expect_from_peers(self, region: &str) -> Self {
        let run = self.expect_success();
        assert_eq!((run.executed(), run.count("/hits/peer")), (0, TASKS), "{}", run.summary);
        assert_eq!(run.summary["sources"], json!({ region: TASKS }));
        run
    }
}

/// All that is below a directory, byte for byte.
#[derive(PartialEq, Eq)]
pub(crate) struct Tree(BTreeMap<String, Node>);

#[derive(PartialEq, Eq)]
enum Node {
    Directory,
    File {
        executable: bool,
        content: Vec<u8>,
    },
    Link(std::path::PathBuf),
    /// A socket, for one.
    Other,
}

impl Tree {
    pub(crate) fn of(root: &Path) -> Self {
        let mut tree = BTreeMap::new();
        let mut open = vec![root.to_owned()];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(&dir).unwrap_or_else(|error| panic!("{dir:?}: {error}")) {
                let path = entry.expect("an entry").path();
                let meta = path.symlink_metadata().expect("metadata");
                let node = if meta.is_symlink() {
                    Node::Link(fs::read_link(&path).expect("a link"))
                } else if meta.is_dir() {
                    open.push(path.clone());
                    Node::Directory
                } else if !meta.is_file() {
                    Node::Other
                } else {
                    let executable = meta.permissions().mode() & 0o111 != 0;
                    Node::File { executable, content: fs::read(&path).expect("a file") }
                };
                let name = path.strip_prefix(root).expect("it is below").to_string_lossy();
                tree.insert(name.into_owned(), node);
            }
        }
        Self(tree)
    }

    /// The names of the files, with their contents.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().filter_map(|(name, node)| match node {
            Node::File { content, .. } => Some((name.as_str(), content.as_slice())),
            _ => None,
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ends the test, with the names of what differs, unless the other one is the same.
    #[track_caller]
    pub(crate) fn expect_same(&self, other: &Self) {
        let names = self.0.keys().chain(other.0.keys());
        let differs: Vec<_> =
            names.filter(|name| self.0.get(*name) != other.0.get(*name)).collect();
        assert!(differs.is_empty(), "these differ: {differs:?}");
    }
}
