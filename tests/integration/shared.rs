//! Agents and runs that share nothing but storage: a bucket of SeaweedFS, or a Redis.

use crate::{
    sample::{TASKS, Tree, built, sample},
    support::{Place, Run, Workspace, netbuild, netbuild_agent, wait_until},
};
use netbuild_servers::{Fault, KEY, Proxy, Redis, SECRET, Seaweed};
use serde_json::{Value, json};
use std::{path::Path, process::Command};

/// The environment that names what is shared.
struct Shared(Vec<(&'static str, String)>);

impl Shared {
    fn s3(port: u16) -> Self {
        Self(vec![
            ("CACHE_BACKEND", "s3://netbuild/sample".to_owned()),
            ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}")),
            ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
        ])
    }

    fn redis(port: u16) -> Self {
        Self(vec![("CACHE_BACKEND", format!("redis://127.0.0.1:{port}"))])
    }

    fn with(&self, mut command: Command) -> Command {
        command.envs(self.0.iter().map(|(name, value)| (name, value)));
        command
    }

    fn run(&self, workspace: &Workspace) -> Run {
        let mut command = workspace.command(&["--json"]);
        command.envs(self.0.iter().map(|(name, value)| (name, value)));
        Run::of(&mut command)
    }

    fn agent(&self, region: &str, data_dir: &Path) -> crate::support::Agent {
        let mut command = self.with(netbuild_agent());
        command.arg("--region").arg(region).arg("--data-dir").arg(data_dir);
        // No mesh between the two: each has a mesh key of its own.
        command.args(["--listen", "127.0.0.1:0"]);
        crate::support::Agent::spawn(command, data_dir)
    }

    /// `netbuild flush`, which ends well when all is copied.
    fn flush(&self, data_dir: &Path) -> (bool, Vec<Value>) {
        let mut command = self.with(netbuild());
        let output =
            command.args(["flush", "--json", "--timeout", "60", "--data-dir"]).arg(data_dir);
        let output = output.output().expect("netbuild runs");
        let tiers = serde_json::from_slice(&output.stdout);
        let tiers = tiers.unwrap_or_else(|_| panic!("{output:?}"));
        (output.status.success(), tiers)
    }
}

/// Ends the test unless every task was taken from tiers of this kind.
#[track_caller]
fn expect_from(run: Run, kind: &str, outputs: (&Tree, &Tree)) {
    let run = run.expect_success();
    let hits = (run.executed(), run.count(&format!("/hits/{kind}")));
    assert_eq!(hits, (0, TASKS), "{}: {}", run.summary, run.stderr);
    outputs.0.expect_same(outputs.1);
}

/// One builds and another one, without a route to it, gets all of it: first without agents, then
/// with an agent beside each.
fn shares(shared: &Shared, kind: &str) {
    let place = Place::new();
    let one = sample(&place, "one");
    assert_eq!(shared.run(&one).expect_success().executed(), TASKS);
    assert!(shared.flush(&one.data_dir).0);
    let outputs = one.outputs();

    let two = sample(&place, "two");
    expect_from(shared.run(&two), kind, (&two.outputs(), &outputs));

    let three = sample(&place, "three");
    let _agent = shared.agent("far", &three.data_dir);
    expect_from(shared.run(&three), kind, (&three.outputs(), &outputs));
    three.write("src/a.txt", "changed\n");
    let executed = shared.run(&three).expect_success().executed();
    assert!((1..TASKS).contains(&executed), "{executed}");
    assert!(shared.flush(&three.data_dir).0);

    let four = sample(&place, "four");
    four.write("src/a.txt", "changed\n");
    let agent = shared.agent("near", &four.data_dir);
    expect_from(shared.run(&four), kind, (&four.outputs(), &three.outputs()));
    let status = agent.status();
    assert_eq!(status["tiers"][0]["kind"], json!(kind));
    assert_eq!(status["members"], json!([]), "they share nothing else");
}

#[test]
fn a_bucket_is_enough_to_share_results() {
    let seaweed = Seaweed::start();
    shares(&Shared::s3(seaweed.port()), "s3");
}

#[test]
fn a_redis_is_enough_to_share_results() {
    let redis = Redis::start(&[]);
    shares(&Shared::redis(redis.port()), "redis");
}

#[test]
fn a_chain_of_both_is_used_by_what_is_measured_and_survives_the_loss_of_one() {
    let (mut redis, seaweed) = (Redis::start(&[]), Seaweed::start());
    let mut shared = Shared::s3(seaweed.port());
    shared.0[0].1 = format!("s3://netbuild/chain+redis://127.0.0.1:{}", redis.port());
    let place = Place::new();
    let one = sample(&place, "one");
    assert_eq!(shared.run(&one).expect_success().executed(), TASKS);
    assert!(shared.flush(&one.data_dir).0);
    redis.kill();
    let two = sample(&place, "two");
    expect_from(shared.run(&two), "s3", (&two.outputs(), &one.outputs()));
}

#[test]
fn a_tier_that_is_away_costs_no_build_and_gets_all_when_it_is_back() {
    let mut redis = Redis::start(&[]);
    let shared = Shared::redis(redis.port());
    let place = Place::new();
    redis.kill();
    let one = sample(&place, "one");
    let run = shared.run(&one).expect_success();
    assert_eq!(run.executed(), TASKS);
    assert!(run.stderr.contains("still to be copied"), "{}", run.stderr);
    let two = sample(&place, "two");
    assert_eq!(shared.run(&two).expect_success().executed(), TASKS);

    // An agent that is killed forgets nothing of what waits.
    let mut agent = shared.agent("east", &two.data_dir);
    assert!(agent.status()["tiers"][0]["waiting"].as_u64() > Some(0));
    agent.kill();
    redis.restart();
    for workspace in [&one, &two] {
        let (all, tiers) = shared.flush(&workspace.data_dir);
        assert!(all, "{tiers:?}");
    }
    let three = sample(&place, "three");
    expect_from(shared.run(&three), "redis", (&three.outputs(), &one.outputs()));

    // Emptied: what is there no more is built, in the same run, and copied again.
    redis.cli(&["FLUSHALL"]);
    let four = sample(&place, "four");
    assert_eq!(shared.run(&four).expect_success().executed(), TASKS);
    let five = sample(&place, "five");
    assert!(shared.flush(&four.data_dir).0);
    expect_from(shared.run(&five), "redis", (&five.outputs(), &one.outputs()));
}

#[test]
fn whatever_a_bucket_does_builds_go_on_and_no_wrong_byte_is_used() {
    let seaweed = Seaweed::start();
    let proxy = Proxy::start(seaweed.port());
    let shared = Shared::s3(proxy.port());
    let place = Place::new();
    let one = sample(&place, "one");
    assert_eq!(shared.run(&one).expect_success().executed(), TASKS);
    assert!(shared.flush(&one.data_dir).0);
    let faults = [
        ("broken", Fault::Close),
        ("silent", Fault::Stall),
        ("failing", Fault::Answer("500 Internal Server Error", "")),
        ("throttled", Fault::Answer("503 Slow Down", "")),
        ("wrong", Fault::Flip),
    ];
    for (name, fault) in faults {
        proxy.set(fault);
        let workspace = sample(&place, name);
        let run = shared.run(&workspace).expect_success();
        workspace.outputs().expect_same(&one.outputs());
        assert!(run.executed() > 0, "{name}: {}", run.summary);
    }
    proxy.set(Fault::None);
    let after = sample(&place, "after");
    expect_from(shared.run(&after), "s3", (&after.outputs(), &one.outputs()));
}

#[test]
fn passwords_and_keys_are_shown_nowhere() {
    let place = Place::new();
    let redis = Redis::start(&["--requirepass", "geheim-1"]);
    let (workspace, _) = built(&place, "one");
    let variables = [
        ("CACHE_BACKEND", format!("redis://:geheim-1@127.0.0.1:{}+s3://netbuild", redis.port())),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9".to_owned()),
        ("AWS_ACCESS_KEY_ID", "geheim-2".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "geheim-3".to_owned()),
    ];
    let mut said = String::new();
    let mut ask = |args: &[&str]| {
        let mut command = netbuild();
        command.args(args).arg("--data-dir").arg(&workspace.data_dir).current_dir(&workspace.root);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        command.env("NETBUILD_LOG", "trace");
        let output = command.output().expect("netbuild runs");
        said += &String::from_utf8_lossy(&output.stdout);
        said += &String::from_utf8_lossy(&output.stderr);
    };
    workspace.forget_outputs();
    for args in [
        &["run", "-v"][..],
        &["status"],
        &["status", "--json"],
        &["flush", "--timeout", "0"],
        &["run", "--backend", "redis://u:geheim-4@host:port"],
        &["run", "--backend", "redis://u:geheim-5@host?policy=no"],
        &["run", "--backend", "s3://geheim-6:geheim-7@bucket"],
        &["--help"],
    ] {
        ask(args);
    }
    let log = crate::support::Agent::log(&workspace.data_dir);
    {
        let mut command = netbuild_agent();
        command.args(["--region", "x", "--listen", "127.0.0.1:0", "--data-dir"]);
        command.arg(&workspace.data_dir).env("NETBUILD_LOG", "trace");
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        let agent = crate::support::Agent::spawn(command, &workspace.data_dir);
        wait_until("the agent has asked its tiers", || {
            let tiers = agent.status()["tiers"].as_array().cloned().unwrap_or_default();
            tiers.len() == 2 && tiers.iter().all(|tier| tier["requests"].as_u64() > Some(0))
        });
        said += &agent.status().to_string();
    }
    said += &std::fs::read_to_string(log).expect("a log");
    for name in ["outbox", "cursors", "links"] {
        said += &std::fs::read_to_string(workspace.data_dir.join(name)).unwrap_or_default();
    }
    assert!(said.contains("s3://netbuild"), "something was said");
    assert!(!said.contains("geheim"), "{said}");
}
