//! Runs that have nothing to do, and know that from what an earlier one looked at.

use crate::support::{Place, Run, Workspace, wait_until};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command, thread};

/// Tasks that look at everything that a task can look at.
fn graph() -> Value {
    json!({
        "tools": {"maker": {"path": "maker"}},
        "tasks": {
            "literal": {"command": "cat in > literal.out", "inputs": ["in"], "outputs": ["literal.out"]},
            "reader": {"command": "cat literal.out > reader.out", "deps": ["literal"], "inputs": [],
                       "outputs": ["reader.out"]},
            "globbed": {"command": "cat src/*.txt > globbed.out", "inputs": ["src/**/*.txt"],
                        "outputs": ["globbed.out"]},
            "tree": {"command": "mkdir -p tree/d; cp in tree/d/f", "inputs": ["in"], "outputs": ["tree/"]},
            "matched": {"command": "touch made/a.x", "inputs": [], "outputs": ["made/*.x"]},
            "maybe": {"command": "true", "inputs": ["in"],
                      "outputs": [{"path": "maybe.out", "optional": true}]},
            "linked": {"command": "cat link > linked.out", "inputs": ["link"], "outputs": ["linked.out"]},
            "tool": {"command": "maker > tool.out", "tools": ["maker"], "inputs": [],
                     "outputs": ["tool.out"]},
            "passed": {"command": "echo ${GREETING-none} > passed.out", "pass_env": ["GREETING"], "inputs": [],
                       "outputs": ["passed.out"]},
            "headers": {"command": "cat h > h.out; echo 'h.out: h' > h.d", "inputs": [], "dep_file": "h.d",
                        "outputs": ["h.out"]},
            "below": {"command": "pwd > /dev/null; echo x > here", "working_dir": "sub", "inputs": [],
                      "outputs": ["sub/here"]},
        },
    })
}

const FILES: [(&str, &str); 7] = [
    ("in", "1\n"),
    ("h", "1\n"),
    ("src/a.txt", "a\n"),
    ("behind", "1\n"),
    ("before", "1\n"),
    ("sub/keep", ""),
    ("late/maker", "#!/bin/sh\necho late\n"),
];

fn executable(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("permissions");
}

/// A run that finds its tool in one of two directories, not started yet.
fn command(workspace: &Workspace, args: &[&str]) -> Command {
    let mut command = workspace.command(args);
    let (early, late) = (workspace.root.join("early"), workspace.root.join("late"));
    command.env("PATH", format!("{}:{}:/usr/bin:/bin", early.display(), late.display()));
    command.arg("--json");
    command
}

fn run(workspace: &Workspace, args: &[&str]) -> Run {
    Run::of(&mut command(workspace, args)).expect_success()
}

fn is_unchanged(run: &Run) -> bool {
    run.summary["unchanged"].as_bool().expect("it says so")
}

/// A workspace in which everything is up to date, and known to be.
fn idle(place: &Place, name: &str) -> Workspace {
    let workspace = place.workspace(name, &graph(), &FILES);
    executable(&workspace.root.join("late/maker"));
    std::os::unix::fs::symlink("behind", workspace.root.join("link")).expect("a link");
    let first = run(&workspace, &[]);
    assert_eq!(first.executed(), first.count("/tasks"));
    // Not before a further change would show in the time stamps.
    wait_until("nothing has changed", || is_unchanged(&run(&workspace, &[])));
    workspace
}

/// What is done to a workspace, and the output that must then be as a build from nothing would make it.
type Change = (&'static str, fn(&Workspace), &'static str, &'static str);

const CHANGES: [Change; 13] = [
    ("input", |w| w.write("in", "2\n"), "reader.out", "2\n"),
    ("output", |w| w.write("literal.out", "!\n"), "reader.out", "1\n"),
    ("gone", |w| w.remove("tree/d/f"), "tree/d/f", "1\n"),
    ("appeared", |w| w.write("src/b.txt", "b\n"), "globbed.out", "a\nb\n"),
    ("deeper", |w| w.write("src/d/c.txt", "c\n"), "globbed.out", "a\n"),
    ("vanished", |w| w.remove("tree"), "tree/d/f", "1\n"),
    ("behind", |w| w.write("behind", "2\n"), "linked.out", "2\n"),
    ("header", |w| w.write("h", "2\n"), "h.out", "2\n"),
    ("memory", |w| w.remove(".netbuild/state"), "literal.out", "1\n"),
    (
        "relinked",
        |w| {
            w.remove("link");
            w.write("before", "3\n");
            std::os::unix::fs::symlink("before", w.root.join("link")).expect("a link");
        },
        "linked.out",
        "3\n",
    ),
    (
        "tool",
        |w| {
            w.write("early/maker", "#!/bin/sh\necho early\n");
            executable(&w.root.join("early/maker"));
        },
        "tool.out",
        "early\n",
    ),
    (
        "graph",
        |w| w.write("graph.json", &graph().to_string().replace("none", "nobody")),
        "passed.out",
        "nobody\n",
    ),
    ("touched", |w| w.write("in", "1\n"), "literal.out", "1\n"),
];

#[test]
fn every_change_is_seen_by_a_run_that_had_nothing_to_do() {
    let place = Place::new();
    thread::scope(|scope| {
        for (name, change, output, expected) in CHANGES {
            let place = &place;
            scope.spawn(move || {
                let workspace = idle(place, name);
                change(&workspace);
                let second = run(&workspace, &[]);
                assert!(!is_unchanged(&second), "{name}: {}", second.summary);
                assert_eq!(workspace.read(output), expected, "{name}");
            });
        }
    });
}

#[test]
fn strangers_among_outputs_go_although_there_was_nothing_to_do() {
    let place = Place::new();
    thread::scope(|scope| {
        for stranger in ["tree/d/stranger", "made/b.x", "maybe.out"] {
            let place = &place;
            scope.spawn(move || {
                let workspace = idle(place, &stranger.replace('/', "-"));
                workspace.write(stranger, "?");
                assert!(!is_unchanged(&run(&workspace, &[])), "{stranger}");
                assert!(!workspace.exists(stranger), "{stranger}");
            });
        }
    });
}

#[test]
fn what_is_asked_counts() {
    let place = Place::new();
    let workspace = idle(&place, "w");
    let other = |what: &str, change: fn(&mut Command) -> &mut Command| {
        wait_until("nothing has changed", || is_unchanged(&run(&workspace, &[])));
        let run = Run::of(change(&mut command(&workspace, &[]))).expect_success();
        assert!(!is_unchanged(&run), "{what}: {}", run.summary);
        run
    };
    other("some tasks", |command| command.arg("literal"));
    other("strict", |command| command.arg("--strict"));
    other("each task is shown", |command| command.arg("-v"));
    other("another environment", |command| command.env("GREETING", "hello"));
    assert_eq!(workspace.read("passed.out"), "hello\n");
    let data_dir = place.path("other");
    let mut elsewhere = workspace.with_data_dir(&data_dir).command(&["--json", "literal"]);
    let run = Run::of(&mut elsewhere).expect_success();
    assert_eq!((is_unchanged(&run), run.executed()), (false, 1), "this cache has nothing yet");
}

#[test]
fn a_run_that_warns_warns_again() {
    let place = Place::new();
    let task = json!({"command": "touch out", "inputs": ["src/*.none"], "outputs": ["out"]});
    let workspace = place.workspace("w", &json!({"tasks": {"t": task}}), &[("src/a", "")]);
    run(&workspace, &[]);
    // Long enough for all stamps to be old.
    let aged = idle(&place, "aged");
    assert!(is_unchanged(&run(&aged, &[])));
    for _ in 0..3 {
        let run = run(&workspace, &[]);
        assert!(run.stderr.contains("G026") && !is_unchanged(&run), "{}", run.stderr);
    }
}

#[test]
fn a_damaged_memory_of_it_is_no_memory() {
    let place = Place::new();
    let workspace = idle(&place, "w");
    let path = workspace.root.join(".netbuild/witness");
    let whole = fs::read(&path).expect("it is remembered");
    for at in [0, 20, 60, whole.len() / 2, whole.len() - 1] {
        let mut bad = whole.clone();
        bad[at] ^= 1;
        fs::write(&path, &bad).expect("a file");
        assert!(!is_unchanged(&run(&workspace, &[])), "byte {at}");
        wait_until("it is remembered again", || is_unchanged(&run(&workspace, &[])));
    }
}

#[test]
fn a_graph_of_another_tool_is_not_read_again_and_says_what_it_said() {
    let place = Place::new();
    let files = [
        (
            "build.ninja",
            "include rules.ninja\nbuild out: cat in\nbuild build.ninja: cat rules.ninja\n",
        ),
        ("rules.ninja", "rule cat\n  command = cat $in > $out\n"),
        ("in", "x"),
    ];
    let workspace = place.workspace("w", &json!({"tasks": {}}), &files);
    let ninja = ["--graph", "build.ninja"];
    assert_eq!(run(&workspace, &ninja).executed(), 1);
    wait_until("nothing has changed", || is_unchanged(&run(&workspace, &ninja)));
    let unchanged = run(&workspace, &ninja);
    assert!(is_unchanged(&unchanged) && unchanged.stderr.contains("left out"), "{unchanged:?}");
    workspace.write("rules.ninja", "rule cat\n  command = cat $in $in > $out\n");
    let changed = run(&workspace, &ninja);
    assert_eq!((is_unchanged(&changed), workspace.read("out").as_str()), (false, "xx"));
}
