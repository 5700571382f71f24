//! Graphs far larger than the example.

use crate::support::Place;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

fn graph(default: &str, tasks: Map<String, Value>) -> Value {
    json!({ "version": "1", "default": default, "tasks": tasks })
}

#[test]
fn of_ten_thousand_tasks_only_what_an_edit_touches_runs_again() {
    const TASKS: usize = 10_000;
    let mut tasks = Map::new();
    for n in 0..TASKS {
        let (input, output) = (format!("in/{}", n % 100), format!("out/{n}"));
        let command = format!("read it < {input}; echo \"$it {n}\" > {output}");
        tasks.insert(
            format!("t{n}"),
            json!({ "command": command, "inputs": [input], "outputs": [output] }),
        );
    }
    let all: Vec<String> = tasks.keys().cloned().collect();
    tasks.insert("all".to_owned(), json!({ "deps": all }));
    let inputs: Vec<String> = (0..100).map(|n| format!("in/{n}")).collect();
    let files: Vec<(&str, &str)> = inputs.iter().map(|path| (path.as_str(), "first\n")).collect();
    let place = Place::new();
    let here = place.workspace("many", &graph("all", tasks), &files);

    assert_eq!(here.run(&["-q"]).expect_success().executed(), TASKS as u64);
    assert_eq!(here.read("out/9999"), "first 9999\n");
    assert_eq!(here.run(&["-q"]).expect_success().executed(), 0);
    here.write("in/7", "second\n");
    assert_eq!(here.run(&["-q"]).expect_success().executed(), TASKS as u64 / 100);
    assert_eq!(here.read("out/9907"), "second 9907\n");
    assert_eq!(here.read("out/9908"), "first 9908\n");
}

#[test]
fn a_chain_of_a_hundred_thousand_tasks_is_planned() {
    const TASKS: usize = 100_000;
    let mut text = String::from("{\"version\":\"1\",\"default\":\"t99999\",\"tasks\":{\n");
    for n in 0..TASKS {
        let dep = n.checked_sub(1).map_or(String::new(), |n| format!("\"t{n}\""));
        let end = if n + 1 == TASKS { "}}" } else { "," };
        writeln!(
            text,
            "\"t{n}\":{{\"command\":\"echo {n} > {n}\",\"deps\":[{dep}],\"inputs\":[],\"outputs\":[\"{n}\"]}}{end}"
        )
        .expect("memory");
    }
    let place = Place::new();
    let here = place.workspace("chain", &json!({}), &[]);
    here.write("graph.json", &text);
    let output = here.command(&["--dry-run"]).output().expect("netbuild runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.lines().count() >= TASKS, "{} lines", said.lines().count());
    let first = said.lines().next().unwrap_or_default();
    assert!(first.contains("t0"), "{first}");
}

#[test]
fn a_task_with_twenty_thousand_inputs_sees_an_edit_of_one() {
    const FILES: usize = 20_000;
    let place = Place::new();
    let command = "ls in | wc -l > count; cat in/19999 >> count";
    let tasks = json!({ "t": { "command": command, "inputs": ["in/*"], "outputs": ["count"] } });
    let here = place.workspace("wide", &json!({ "version": "1", "tasks": tasks }), &[]);
    std::fs::create_dir(here.root.join("in")).expect("a directory");
    for n in 0..FILES {
        std::fs::write(here.root.join(format!("in/{n}")), format!("{n}\n")).expect("a file");
    }
    assert_eq!(here.run(&[]).expect_success().executed(), 1);
    assert_eq!(here.read("count"), "20000\n19999\n");
    assert_eq!(here.run(&[]).expect_success().executed(), 0);
    here.write("in/19999", "edited\n");
    assert_eq!(here.run(&[]).expect_success().executed(), 1);
    assert_eq!(here.read("count"), "20000\nedited\n");
}
