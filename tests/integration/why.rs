//! `netbuild why` and `netbuild log`: what a run did about a task, and what its command printed.

use crate::support::{Agent, Place, Run, Workspace, netbuild, snapshot};
use serde_json::{Value, json};
use std::{fs, path::Path, process::Output};

/// A value that must not be found anywhere but in the environment.
const HIDDEN: &str = "hidden-7c1d5f";

fn output(workspace: &Workspace, command: &str, args: &[&str]) -> Output {
    let mut program = netbuild();
    program.current_dir(&workspace.root).arg(command).args(args);
    program.arg("--data-dir").arg(&workspace.data_dir).output().expect("netbuild runs")
}

/// What `netbuild why` says to a person.
#[track_caller]
fn why(workspace: &Workspace, task: &str) -> String {
    let output = output(workspace, "why", &[task]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The latest turn of a task.
#[track_caller]
fn turn(workspace: &Workspace, task: &str) -> Value {
    let output = output(workspace, "why", &[task, "--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(told["task"], task);
    told["turns"][0].clone()
}

/// The fields in which the latest turn differs from the nearest earlier one.
#[track_caller]
fn differs(workspace: &Workspace) -> Vec<(String, String, String)> {
    let turn = turn(workspace, "t");
    let text = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    let rows = turn["nearest"]["differs"].as_array().unwrap_or_else(|| panic!("{turn}"));
    rows.iter().map(|row| (text(row, "field"), text(row, "name"), text(row, "change"))).collect()
}

fn graph() -> Value {
    json!({"tools": {"v": {"value": "1"}}, "tasks": {"t": {
        "command": "cat src/* > out", "inputs": ["src/*"], "outputs": ["out"], "tools": ["v"],
        "env": {"SET": "one"}, "pass_env": ["PASSED"], "secret_env": ["TOKEN"]}}})
}

fn files_with(directory: &Path, needle: &str) -> Vec<String> {
    let mut found = Vec::new();
    for path in fs::read_dir(directory).expect("a list").map(|entry| entry.expect("one").path()) {
        let kind = path.symlink_metadata().expect("its state");
        if kind.is_dir() {
            found.extend(files_with(&path, needle));
        } else if kind.is_file() {
            let bytes = fs::read(&path).expect("a file");
            if memchr(&bytes, needle.as_bytes()) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

fn memchr(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn a_task_is_explained_field_by_field_whatever_ran_since() {
    let place = Place::new();
    let files = [("src/a", "a"), ("src/b", "b")];
    let mut graph = graph();
    let workspace = place.workspace("w", &graph, &files);
    let run = |passed: Option<&str>| {
        let mut command = workspace.command(&["--json"]);
        command.env("TOKEN", HIDDEN).env_remove("PASSED");
        passed.map(|value| command.env("PASSED", value));
        Run::of(&mut command).expect_success()
    };
    run(None);
    let first = turn(&workspace, "t");
    assert_eq!((&first["did"], &first["ended"]), (&json!("ran"), &json!("kept")));
    assert_eq!(first["why"], "no result is known for its key");
    assert!(why(&workspace, "t").contains("nothing is known of an earlier run"), "{first}");
    let told = |field: &str, name: &str, change: &str| {
        (field.to_owned(), name.to_owned(), change.to_owned())
    };

    workspace.write("src/a", "A");
    workspace.remove("src/b");
    workspace.write("src/c", "c");
    run(None);
    assert_eq!(
        differs(&workspace),
        [
            told("inputs", "src/a", "modified"),
            told("inputs", "src/b", "removed"),
            told("inputs", "src/c", "added")
        ]
    );
    // What is up to date is no turn: the explanation stays.
    assert_eq!(run(None).executed(), 0);
    let text = why(&workspace, "t");
    for part in ["t: ran ", "because no result is known", "inputs", "src/a (modified)"] {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }

    run(Some(HIDDEN));
    assert_eq!(differs(&workspace), [told("env", "PASSED", "set now")]);
    run(Some("another"));
    assert_eq!(differs(&workspace), [told("env", "PASSED", "modified")]);
    graph["tasks"]["t"]["command"] = json!("cat src/* src/* > out");
    workspace.write("graph.json", &graph.to_string());
    run(Some("another"));
    let [(field, _, change)] = &differs(&workspace)[..] else { panic!() };
    assert_eq!(field, "command");
    assert!(change.contains("`cat src/* src/* > out` instead of `cat src/* > out`"), "{change}");
    graph["tools"]["v"]["value"] = json!("2");
    graph["tasks"]["t"]["outputs"] = json!(["out", {"path": "more", "optional": true}]);
    workspace.write("graph.json", &graph.to_string());
    run(Some("another"));
    assert_eq!(
        differs(&workspace),
        [told("tool", "v", "modified"), told("outputs", "more", "added")]
    );

    // Whoever asks changes nothing.
    let before = snapshot(&place.path(""));
    why(&workspace, "t");
    assert_eq!(snapshot(&place.path("")), before);
    // None of the turns tells what was in the environment.
    assert_eq!(files_with(&workspace.root, HIDDEN), Vec::<String>::new());
    assert_eq!(files_with(&workspace.data_dir, HIDDEN), Vec::<String>::new());
    let all = output(&workspace, "why", &["t", "--last", "100", "--json"]);
    let all: Value = serde_json::from_slice(&all.stdout).expect("JSON");
    assert_eq!(all["turns"].as_array().map(Vec::len), Some(6), "{all}");
}

#[test]
fn a_failure_and_a_lost_result_are_reasons_too() {
    let place = Place::new();
    let graph = |command: &str| {
        json!({"tasks": {"t": {"command": command, "inputs": [], "outputs": ["out"]},
                         "always": {"command": "true"}}})
    };
    let workspace = place.workspace("w", &graph("test -e ../ok && echo x > out"), &[]);
    assert_eq!(workspace.run(&["t"]).code(), Some(1));
    assert_eq!(turn(&workspace, "t")["ended"], "failed");
    fs::write(place.path("ok"), "").unwrap();
    workspace.run(&[]).expect_success();
    let text = why(&workspace, "t");
    assert!(text.contains("that run failed"), "{text}");
    assert!(why(&workspace, "always").contains("it is never cached"));
    workspace.remove("out");
    workspace.run(&["t"]).expect_success();
    let restored = turn(&workspace, "t");
    assert_eq!((&restored["did"], &restored["source"]), (&json!("restored"), &json!("disk")));
    // A new cache does not have it.
    workspace.remove("out");
    let other = workspace.with_data_dir(&place.path("other"));
    other.run(&["t"]).expect_success();
    let text = why(&workspace, "t");
    assert!(text.contains("does not have that result"), "{text}");

    let unknown = output(&workspace, "why", &["tt"]);
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert_eq!(unknown.status.code(), Some(1), "{said}");
    assert!(said.contains("no run here did anything about a task `tt`"), "{said}");
}

#[test]
fn a_hit_tells_where_it_came_from() {
    let place = Place::new();
    let workspace = place.workspace("w", &graph(), &[("src/a", "a")]);
    let east = Agent::start("us-east", &place.path("east"), &[]);
    workspace.with_data_dir(&east.data_dir).run(&[]).expect_success();
    let west = Agent::start("us-west", &place.path("west"), &[&east.ticket]);
    west.wait_for_members(1, 0);
    // By another name it is the same action, and no part of what the agent calls that.
    let renamed = json!({"tools": graph()["tools"], "tasks": {"zebra": graph()["tasks"]["t"]}});
    let other = place.workspace("v", &renamed, &[("src/a", "a")]).with_data_dir(&west.data_dir);
    let run = other.run(&[]).expect_success();
    assert_eq!(run.count("/hits/peer"), 1, "{}", run.stderr);
    let turn = turn(&other, "zebra");
    assert_eq!((&turn["did"], &turn["verified"]), (&json!("restored"), &json!(true)));
    let source = turn["source"].as_str().expect("a source");
    assert!(source.starts_with("us-east (peer "), "{source}");
    assert!(turn["took_ms"].is_u64() && turn["key"].as_str().map(str::len) == Some(64), "{turn}");
    let text = why(&other, "zebra");
    assert!(text.contains("restored ") && text.contains("from us-east (peer "), "{text}");
    assert!(text.contains(", verified, "), "{text}");

    // The agent knows by the key of the task, from whatever directory one asks.
    other.remove(".netbuild/history");
    let mut asked = netbuild();
    asked.current_dir(place.path(".")).args([
        "why",
        "zebra",
        "--graph",
        "v/graph.json",
        "--data-dir",
    ]);
    let output = asked.arg(&other.data_dir).output().expect("netbuild runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let text = String::from_utf8(output.stdout).expect("text");
    let key = turn["key"].as_str().expect("a key");
    assert!(text.contains(key) && text.contains("fetched"), "{text}");
}

#[test]
fn what_a_command_printed_comes_back_byte_for_byte() {
    let place = Place::new();
    let script = "printf 'one\\n'; printf '\\033[31mred\\033[0m' >&2; printf '\\377\\000two'";
    let graph = json!({"tasks": {
        "t": {"command": script, "inputs": [], "outputs": []},
        "quiet": {"command": "true", "inputs": [], "outputs": []},
        "errors": {"command": "echo hush", "inputs": [], "outputs": [], "log": "errors"}}});
    let workspace = place.workspace("w", &graph, &[]);
    let printed = |workspace: &Workspace, task: &str| {
        let run = workspace.command(&[task]).output().expect("netbuild runs");
        assert!(run.status.success());
        // The first line says how the task ended, and the last one what the run came to.
        let lines: Vec<&[u8]> = run.stderr.split_inclusive(|byte| *byte == b'\n').collect();
        lines[1..lines.len() - 1].concat()
    };
    let first = printed(&workspace, "t");
    assert!(memchr(&first, b"\x1b[31mred\x1b[0m"), "{first:?}");
    // Another workspace has the result from the cache, and shows the same.
    let other = place.workspace("v", &graph, &[]).with_data_dir(&workspace.data_dir);
    assert_eq!(printed(&other, "t"), first);
    let log = output(&workspace, "log", &["t"]);
    assert_eq!(log.stdout, b"one\n\xff\0two");
    assert_eq!(log.stderr, b"\x1b[31mred\x1b[0m");

    printed(&workspace, "errors");
    assert_eq!(printed(&other, "errors"), b"");
    assert_eq!(output(&other, "log", &["errors"]).stdout, b"hush\n");
    printed(&workspace, "quiet");
    let log = output(&workspace, "log", &["quiet"]);
    assert!(log.status.success() && log.stdout.is_empty() && log.stderr.is_empty());
    let unknown = output(&workspace, "log", &["nothing"]);
    assert_eq!(unknown.status.code(), Some(1));
}

#[test]
fn a_task_that_never_ran_has_nothing_of_others_and_results_are_pinned_from_elsewhere() {
    let place = Place::new();
    let graph = json!({"tasks": {
        "t": {"command": "echo x > out", "inputs": [], "outputs": ["out"]},
        "a": {"command": "true"}, "blob": {"command": "true"}}});
    let workspace = place.workspace("w", &graph, &[]);
    let _agent = Agent::start("one", &workspace.data_dir, &[]);
    let mut run = workspace.command(&["t", "--json"]);
    Run::of(&mut run).expect_success();
    // What the agent decided about the result of `t` has these letters in it.
    for task in ["a", "blob"] {
        let output = output(&workspace, "why", &[task]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("did anything about the task `{task}`")), "{said}");
    }
    let file = workspace.root.join("graph.json").display().to_string();
    let elsewhere = Workspace { root: place.path(""), data_dir: workspace.data_dir.clone() };
    let pins = |args: &[&str]| {
        let output = output(&elsewhere, "pin", args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    assert!(!output(&elsewhere, "pin", &["t"]).status.success());
    pins(&["t", "--graph", &file]);
    assert!(pins(&[]).contains("  t\n"), "{}", pins(&[]));
    assert!(output(&elsewhere, "unpin", &["t", "--graph", &file]).status.success());
    assert_eq!(pins(&[]), "");
    assert!(output(&elsewhere, "conflicts", &["--graph", &file]).status.success());
}
