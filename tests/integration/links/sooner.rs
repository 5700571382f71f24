//! What is built because that is sooner than fetching it.

use super::sites::Sites;
use crate::support::{Agent, Run, Workspace, netbuild, signal, wait_until};
use rustix::process::Signal;
use serde_json::{Map, Value, json};
use std::fs;

/// Bytes that nothing compresses, made in a moment and sent in 10 s over 25 Mbit/s.
const BYTES: u64 = 30_000_000;
/// Tasks that take their time and leave little.
const SMALL: usize = 6;

fn noise(seed: &str) -> String {
    let key = "openssl enc -aes-128-ctr -nosalt -md sha256 -pbkdf2 -pass pass:";
    format!("head -c {BYTES} /dev/zero | {key}{seed} -out large.{seed}")
}

fn large(seed: &str, before: &str) -> Value {
    let command = format!("{before}{}", noise(seed));
    json!({ "command": command, "inputs": [], "outputs": [format!("large.{seed}")] })
}

fn graph(tasks: Map<String, Value>) -> Value {
    json!({ "version": "1", "tasks": tasks })
}

/// Two that are large, and some that take their time.
fn mixed() -> Value {
    let mut tasks = Map::new();
    for seed in ["a", "b"] {
        tasks.insert(format!("large.{seed}"), large(seed, ""));
    }
    for n in 0..SMALL {
        let command = format!("sleep 2; seq {n} 9999 > small.{n}");
        let task = json!({ "command": command, "inputs": [], "outputs": [format!("small.{n}")] });
        tasks.insert(format!("small.{n}"), task);
    }
    graph(tasks)
}

/// How many tasks came from peers, ran, and of these were sooner built.
fn counts(run: &Run) -> (u64, u64, u64) {
    (run.count("/hits/peer"), run.executed(), run.count("/sooner_built"))
}

fn run(workspace: &Workspace, args: &[&str]) -> Run {
    Run::of(workspace.choosing(args).arg("--json")).expect_success()
}

fn why(workspace: &Workspace, task: &str) -> String {
    let mut command = netbuild();
    let output = command.current_dir(&workspace.root).args(["why", task]).output();
    String::from_utf8(output.expect("netbuild runs").stdout).expect("text")
}

fn bytes(workspace: &Workspace, file: &str) -> Vec<u8> {
    fs::read(workspace.root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn know(agent: &Agent, records: usize) {
    wait_until("it knows of all", || {
        agent.status()["store"]["records"].as_u64() == Some(records as u64)
    });
}

#[test]
fn what_takes_longer_to_come_than_to_build_is_built_and_the_rest_is_fetched() {
    let sites = Sites::up("sooner", &["us-east", "eu-central"]);
    let east = sites.agent("us-east", &[]);
    let built = sites.workspace("us-east", &mixed());
    built.run(&["-j", "8"]).expect_success();

    let central = sites.agent_of("eu-central", "eu-central", &["--region", "eu"], "", &[&east]);
    know(&central, SMALL + 2);
    let restored = sites.workspace("eu-central", &mixed());
    let came = run(&restored, &["-j", "4"]);
    assert_eq!(counts(&came), (SMALL as u64, 2, 2), "{}", came.summary);
    for file in ["large.a", "large.b", "small.0"] {
        assert!(bytes(&restored, file) == bytes(&built, file), "{file} differs");
    }
    assert!(central.counter("data_bytes_fetched") < 2 * BYTES, "all of it came all the same");
    let told = why(&restored, "large.a");
    assert!(told.contains("building was expected to be sooner: it takes 0."), "{told}");
    let decisions = central.json(&["why", "--last", "100"]);
    let outcomes =
        decisions.as_array().expect("a list").iter().filter_map(|it| it["outcome"].as_str());
    assert_eq!(outcomes.filter(|it| it.starts_with("left to be built: ")).count(), 2);

    // What somebody has decided to fetch is fetched: in a run, or by an agent.
    let all = (SMALL as u64 + 2, 0, 0);
    let other = sites.agent_of("eu-central", "other", &["--region", "eu3"], "", &[&east]);
    know(&other, SMALL + 2);
    let prefers = run(&sites.workspace("other", &mixed()), &["-j", "4", "--prefer-cache"]);
    assert_eq!(counts(&prefers), all);
    let config = "[plan]\nbuild = \"last\"\n";
    let patient = sites.agent_of("eu-central", "patient", &["--region", "eu2"], config, &[&east]);
    know(&patient, SMALL + 2);
    let came = run(&sites.workspace("patient", &mixed()), &["-j", "4"]);
    assert_eq!(counts(&came), all, "{}", came.summary);
}

#[test]
fn a_source_that_says_nothing_is_not_waited_for_longer_than_building_takes() {
    let sites = Sites::up("silent", &["us-east", "eu-central"]);
    let east = sites.agent("us-east", &[]);
    let tasks = || graph(Map::from_iter([("large.a".to_owned(), large("a", "sleep 1; "))]));
    let built = sites.workspace("us-east", &tasks());
    built.run(&[]).expect_success();
    let central = sites.agent_of("eu-central", "eu-central", &["--region", "eu"], "", &[&east]);
    know(&central, 1);
    signal(east.pid(), Signal::STOP);
    let restored = sites.workspace("eu-central", &tasks());
    let came = run(&restored, &[]);
    signal(east.pid(), Signal::CONT);
    assert_eq!(counts(&came), (0, 1, 1), "{}", came.summary);
    assert!(bytes(&restored, "large.a") == bytes(&built, "large.a"));
    let told = why(&restored, "large.a");
    assert!(told.contains("building was expected to be sooner: it takes 1."), "{told}");
}

#[test]
fn what_was_to_be_sooner_built_and_fails_here_is_fetched() {
    let sites = Sites::up("fails", &["us-east", "eu-central"]);
    let east = sites.agent("us-east", &[]);
    let broken = sites.place.path("broken");
    // What the command finds outside of the workspace is no part of the key.
    let unless = format!("[ ! -e {} ] || exit 3; ", broken.display());
    let tasks = || graph(Map::from_iter([("large.a".to_owned(), large("a", &unless))]));
    let built = sites.workspace("us-east", &tasks());
    built.run(&[]).expect_success();
    let central = sites.agent_of("eu-central", "eu-central", &["--region", "eu"], "", &[&east]);
    know(&central, 1);
    fs::write(&broken, "").expect("a file");
    let restored = sites.workspace("eu-central", &tasks());
    let came = run(&restored, &[]);
    assert_eq!(counts(&came), (1, 0, 0), "{}", came.summary);
    let said = "exited with code 3; what others have is used";
    assert!(came.stderr.contains(said), "{}", came.stderr);
    assert!(bytes(&restored, "large.a") == bytes(&built, "large.a"));
}
