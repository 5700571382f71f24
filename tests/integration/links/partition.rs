//! A mesh that was in two parts for a while.

use super::sites::Sites;
use crate::support::{Agent, wait_until};
use serde_json::{Map, Value, json};

/// Tasks that only one side runs, and tasks that both run, with another result each time.
const OWN: usize = 12;
const SHARED: usize = 3;

fn graph(side: &str) -> Value {
    let mut tasks = Map::new();
    let mut add = |name: String, content: &str| {
        let command = format!("mkdir -p out && {content} > out/{name}");
        let outputs = json!([format!("out/{name}")]);
        let task = json!({ "command": command, "deps": [], "inputs": [], "outputs": outputs });
        tasks.insert(name, task);
    };
    (0..OWN).for_each(|n| add(format!("{side}{n}"), &format!("echo {side}{n}")));
    (0..SHARED).for_each(|n| add(format!("same{n}"), "head -c 16 /dev/urandom"));
    let all: Vec<String> = tasks.keys().cloned().collect();
    tasks.insert("all".to_owned(), json!({ "deps": all }));
    json!({ "version": "1", "default": "all", "tasks": tasks })
}

fn records(agent: &Agent) -> u64 {
    agent.status()["store"]["records"].as_u64().expect("a number")
}

/// Which result of which action an agent keeps, of those that differ.
fn kept(agent: &Agent) -> Vec<(String, String)> {
    let conflicts = agent.json(&["conflicts"]);
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let conflict = |row: &Value| (text(&row["key"]), text(&row["kept"]["outputs"][0]["digest"]));
    let mut kept: Vec<_> = conflicts.as_array().expect("a list").iter().map(conflict).collect();
    kept.sort_unstable();
    kept
}

#[test]
fn both_sides_of_a_partition_have_all_records_and_the_same_conflicts_when_it_is_over() {
    let sites = Sites::up("partition", &["us-east", "eu-central"]);
    let named = |site: &str, name: &str, join: &[&Agent]| {
        sites.agent_of(site, name, &["--region", site], "", join)
    };
    let east = named("us-east", "east", &[]);
    let east_too = named("us-east", "east-too", &[&east]);
    let central = named("eu-central", "central", &[&east]);
    let central_too = named("eu-central", "central-too", &[&central]);
    let all = [&east, &east_too, &central, &central_too];
    wait_until("everybody knows everybody", || {
        all.iter().all(|agent| agent.members().len() == all.len() - 1)
    });

    sites.set("all", "cut");
    let sides = ["east", "central"].map(|side| {
        let workspace = sites.workspace(side, &graph(side));
        move || assert_eq!(workspace.run(&[]).expect_success().executed(), (OWN + SHARED) as u64)
    });
    sides.iter().for_each(|run| run());
    wait_until("each side has noticed that the other is gone", || {
        all.iter().all(|agent| agent.members().iter().filter(|m| m.is_connected()).count() == 1)
    });
    wait_until("each side has its own records", || {
        all.iter().all(|agent| records(agent) == (OWN + SHARED) as u64)
    });

    sites.reset("all");
    wait_until("everybody has all records", || {
        all.iter().all(|agent| records(agent) == (2 * OWN + SHARED) as u64)
    });
    wait_until("everybody has the conflicts", || {
        all.iter().all(|agent| kept(agent).len() == SHARED)
    });
    let first = kept(all[0]);
    assert!(all.iter().all(|agent| kept(agent) == first));
    for conflict in east.json(&["conflicts"]).as_array().expect("a list") {
        assert_eq!(conflict["others"].as_array().map(Vec::len), Some(1), "nothing is lost");
    }
}
