//! Graphs with mistakes: each is told where it is and what to do, and nothing is changed.

use crate::support::{Place, Run};
use serde_json::Value;
use std::fs;

/// Runs this text as a graph; it must be refused, with all of `parts` in what is said.
#[track_caller]
fn refused(text: &str, parts: &[&str]) {
    refused_with(text, &[], parts);
}

#[track_caller]
fn refused_with(text: &str, args: &[&str], parts: &[&str]) {
    let place = Place::new();
    let workspace = place.workspace("w", &Value::Null, &[]);
    workspace.write("graph.json", text);
    let run = Run::of(workspace.command(&["--json"]).args(args));
    assert_eq!(run.code(), Some(2), "{}", run.stderr);
    for part in parts {
        assert!(run.stderr.contains(part), "no `{part}` in: {}", run.stderr);
    }
    assert!(run.summary.is_null(), "{}", run.summary);
    let left: Vec<_> = fs::read_dir(&workspace.root).expect("a list").flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(!workspace.data_dir.exists());
}

#[test]
fn a_cycle_is_shown_whole() {
    refused(
        "{\"tasks\": {\n  \"a\": {\"command\": \"x\", \"deps\": [\"b\"]},\n  \"b\": {\"command\": \
         \"x\", \"deps\": [\"c\"]},\n  \"c\": {\"command\": \"x\", \"deps\": [\"a\"]}}}",
        &["graph.json:2:", "G009", "a -> b -> c -> a"],
    );
    refused(
        r#"{"tasks": {"a": {"command": "x", "deps": ["a"]}}}"#,
        &["graph.json:1:", "G008", "`a`"],
    );
}

#[test]
fn a_misspelt_field_is_told_with_the_right_one() {
    refused(
        "{\"tasks\": {\n  \"a\": {\"comand\": \"x\"}}}",
        &["graph.json:2:9", "G002", "comand", "did you mean `command`?"],
    );
}

#[test]
fn a_key_that_stands_twice_is_told() {
    refused(
        "{\"tasks\": {\n  \"a\": {\"command\": \"x\"},\n  \"a\": {\"command\": \"y\"}}}",
        &["graph.json:3:3", "G004", "`a`"],
    );
}

#[test]
fn outputs_must_stay_in_the_workspace_and_belong_to_one_task() {
    for output in ["../out", "/etc/out", "a/../../out"] {
        refused(
            &format!(
                "{{\"tasks\": {{\n\"a\": {{\"command\": \"x\", \"outputs\": [\"{output}\"]}}}}}}"
            ),
            &["graph.json:2:", "G010", output],
        );
    }
    refused(
        "{\"tasks\": {\n\"a\": {\"command\": \"x\", \"outputs\": [\"out/\"]},\n\
         \"b\": {\"command\": \"x\", \"outputs\": [\"out/file\"]}}}",
        &["graph.json:3:", "G011", "`a`", "out/file"],
    );
    for output in [".netbuild/x", ".git/config"] {
        refused(
            &format!(
                "{{\"tasks\": {{\"a\": {{\"command\": \"x\", \"outputs\": [\"{output}\"]}}}}}}"
            ),
            &["G012"],
        );
    }
}

#[test]
fn an_unknown_task_is_told_with_one_of_a_similar_name() {
    let graph = r#"{"tasks": {"network-build": {"command": "x"}}}"#;
    refused_with(graph, &["network-buid"], &["`network-buid`", "did you mean `network-build`?"]);
    refused(
        "{\"tasks\": {\"compile\": {\"command\": \"x\"},\n\"a\": {\"command\": \"x\", \
         \"deps\": [\"complie\"]}}}",
        &["graph.json:2:", "G007", "`complie`", "did you mean `compile`?"],
    );
}

#[test]
fn what_is_no_graph_at_all_is_told() {
    refused("tasks: {}\n", &["graph.json:1:", "G001"]);
    refused("{\"tasks\": {\n\"a\": {\"command\": \"x\"\n", &["graph.json:", "G001"]);
    refused("", &["graph.json:1:1", "G001"]);
    refused("[]", &["graph.json:1:1", "G032"]);
    refused("{\"tasks\": {\"a\": {}}}", &["G006"]);
    refused_with(
        "{}",
        &["--graph", "elsewhere/graph.json"],
        &["elsewhere/graph.json", "hint: run in the directory of a graph.json"],
    );
}

#[test]
fn all_mistakes_are_told_at_once() {
    refused(
        "{\"tasks\": {\n\"a\": {\"command\": \"x\", \"outputs\": [\"../x\"]},\n\
         \"b\": {\"command\": \"x\", \"depz\": []},\n\"c\": {\"command\": 3}}}",
        &["graph.json:2:", "graph.json:3:", "graph.json:4:", "G010", "G002"],
    );
}
