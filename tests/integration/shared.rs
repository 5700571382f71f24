//! Agents and runs that share nothing but storage: a bucket of SeaweedFS, or a Redis.

use crate::{
    sample::{NOWHERE, TASKS, Tree, built, example, sample},
    support::{
        Place, Run, Running, Workspace, netbuild, netbuild_agent, signal, wait_until,
        without_privileges,
    },
};
use netbuild_servers::{Fault, KEY, Proxy, Redis, SECRET, Seaweed};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
};

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

    /// Another command on a data directory.
    fn ask(&self, data_dir: &Path, args: &[&str]) -> Output {
        let mut command = self.with(netbuild());
        command.args(args).arg("--data-dir").arg(data_dir).output().expect("netbuild runs")
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
    // Where peers are shown, it is shown as they are.
    let ask = |args: &[&str]| -> Value {
        let output = shared.ask(&four.data_dir, &[args, &["--json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{args:?}: {output:?}"))
    };
    let tier = &ask(&["peers"])[0];
    assert_eq!(
        (&tier["kind"], &tier["order"], &tier["state"]),
        (&json!(kind), &json!(1), &json!("ok"))
    );
    assert!(tier["rtt_us"].as_u64() > Some(0), "{tier}");
    let link = &ask(&["links"])[0];
    assert_eq!((&link["from"], &link["source"]), (&tier["tier"], &json!("measured")), "{link}");
    let step = &ask(&["plan", NOWHERE])["steps"][0];
    assert_eq!((&step["source"], &step["state"]), (&tier["tier"], &json!("ok")), "{step}");
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
fn the_example_of_this_repository_is_shared_over_a_bucket_and_nothing_else() {
    let seaweed = Seaweed::start();
    let shared = Shared::s3(seaweed.port());
    let place = Place::new();
    let one = example(&place, "one");
    let built = shared.run(&one).expect_success();
    assert!(built.executed() > 10, "{}", built.summary);
    assert!(shared.flush(&one.data_dir).0);
    // A bucket that is late once is left alone for that task, as a build does not wait for it: on a busy
    // machine, more than one may have to look.
    let all_from_there = (0..5).any(|n| {
        let other = example(&place, &format!("other-{n}"));
        let run = shared.run(&other).expect_success();
        other.outputs().expect_same(&one.outputs());
        assert!(run.count("/hits/s3") > 0, "{}: {}", run.summary, run.stderr);
        run.executed() == 0
    });
    assert!(all_from_there);
}

#[test]
fn a_file_that_was_put_is_had_by_those_who_share_a_bucket() {
    let seaweed = Seaweed::start();
    let shared = Shared::s3(seaweed.port());
    let place = Place::new();
    for (name, with_agent) in [("alone", false), ("served", true)] {
        let (file, data_dir) = (place.path(name), place.path(&format!("{name}.data")));
        fs::write(&file, format!("{name}\n").repeat(100_000)).expect("a file");
        let agent = with_agent.then(|| shared.agent("here", &data_dir));
        let put = shared.ask(&data_dir, &["put", file.to_str().expect("UTF-8")]);
        assert!(put.status.success(), "{put:?}");
        let digest = String::from_utf8_lossy(&put.stdout).trim().to_owned();
        let (all, tiers) = shared.flush(&data_dir);
        assert!(all && tiers[0]["sent"].as_u64() <= Some(1), "{tiers:?}");
        drop(agent);
        let (there, copy) = (place.path(&format!("{name}.there")), place.path("copy"));
        let get = ["get", &digest, "-o", copy.to_str().expect("UTF-8")];
        let got = shared.ask(&there, &get);
        assert!(got.status.success(), "{got:?}");
        assert_eq!(fs::read(&copy).expect("a file"), fs::read(&file).expect("a file"));
        fs::remove_file(&copy).expect("a file");
    }
}

#[test]
fn what_a_bucket_holds_heals_what_the_disk_has_damaged() {
    let seaweed = Seaweed::start();
    let shared = Shared::s3(seaweed.port());
    let place = Place::new();
    let one = sample(&place, "one");
    assert_eq!(shared.run(&one).expect_success().executed(), TASKS);
    assert!(shared.flush(&one.data_dir).0);
    let blobs: Vec<_> = Tree::of(&one.data_dir.join("blobs"))
        .files()
        .map(|(name, content)| (one.data_dir.join("blobs").join(name), content.to_vec()))
        .collect();
    assert!(blobs.len() >= 2, "files of blobs");
    for with_agent in [false, true] {
        for (at, (path, content)) in blobs.iter().enumerate() {
            match at % 2 {
                0 => fs::write(path, vec![0; content.len()]).expect("a file"),
                _ => fs::remove_file(path).expect("a file"),
            }
        }
        let agent = with_agent.then(|| shared.agent("here", &one.data_dir));
        let repaired = shared.ask(&one.data_dir, &["verify", "--deep", "--repair", "--json"]);
        assert!(repaired.status.success(), "{repaired:?}");
        let report: Value = serde_json::from_slice(&repaired.stdout).expect("JSON");
        let count = |field: &str| report[field].as_u64().expect("a number");
        let found = count("damaged") + count("missing");
        assert_eq!((found, count("healed")), (blobs.len() as u64, found), "{report}");
        for (path, content) in &blobs {
            assert!(fs::read(path).expect("a blob") == *content, "{}", path.display());
        }
        drop(agent);
    }
}

#[test]
fn a_run_that_writes_through_ends_when_the_tier_has_all() {
    let redis = Redis::start(&[]);
    let shared = |policy: &str, seconds: &str| {
        let url = format!("redis://127.0.0.1:{}?policy={policy}", redis.port());
        let config =
            format!("[cache]\nexit_budget_seconds = 0\nwrite_through_seconds = {seconds}\n");
        (Shared(vec![("CACHE_BACKEND", url)]), config)
    };
    let place = Place::new();
    let config = place.path("netbuild.toml");
    let run = |name: &str, policy: &str, seconds: &str| {
        let (shared, text) = shared(policy, seconds);
        fs::write(&config, text).expect("a file");
        let workspace = sample(&place, name);
        let mut command = shared.with(workspace.command(&["--json", "--config"]));
        let run = Run::of(command.arg(&config)).expect_success();
        (workspace, run)
    };
    let (one, through) = run("one", "write-through", "3600");
    assert_eq!(through.executed(), TASKS);
    assert!(!through.stderr.contains("still to be copied"), "{}", through.stderr);
    // Nobody flushed.
    let (two, hit) = run("two", "read-only", "0");
    expect_from(hit, "redis", (&two.outputs(), &one.outputs()));
    // A tier that stops in the middle of it does not keep the run longer than was said.
    redis.cli(&["FLUSHALL"]);
    redis.freeze();
    let (_, frozen) = run("three", "write-through", "1");
    assert_eq!(frozen.executed(), TASKS);
    assert!(frozen.stderr.contains("still to be copied"), "{}", frozen.stderr);
    redis.thaw();
}

#[test]
fn an_interrupt_ends_the_wait_for_a_tier() {
    let redis = Redis::start(&[]);
    // It is there, and takes nothing.
    redis.cli(&["CONFIG", "SET", "maxmemory", "1mb"]);
    let shared = Shared::redis(redis.port());
    let place = Place::new();
    let one = sample(&place, "one");
    let config = place.path("netbuild.toml");
    // Nothing but the signal ends it within the patience of this test.
    let hour = "[cache]\nexit_budget_seconds = 3600\nwrite_through_seconds = 3600\n";
    fs::write(&config, hour).expect("a file");
    let mut command = shared.with(one.command(&["--json", "--config"]));
    let running = Running::start(command.arg(&config));
    wait_until("all results wait", || {
        let status = shared.ask(&one.data_dir, &["status", "--json"]);
        let status: Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
        status["tiers"][0]["waiting"].as_u64() == Some(TASKS)
    });
    signal(running.pid(), Signal::INT);
    assert_eq!(running.wait().code(), Some(130));
}

#[test]
fn a_redis_that_is_full_and_a_bucket_with_another_clock_cost_no_build_and_get_all_later() {
    let (redis, seaweed) = (Redis::start(&[]), Seaweed::start());
    let proxy = Proxy::start(seaweed.port());
    redis.cli(&["CONFIG", "SET", "maxmemory", "1mb"]);
    let skewed = "<Error><Code>RequestTimeTooSkewed</Code></Error>";
    proxy.set(Fault::Answer("403 Forbidden", skewed));
    let mut shared = Shared::s3(proxy.port());
    shared.0[0].1 = format!("s3://netbuild/full+redis://127.0.0.1:{}", redis.port());
    let place = Place::new();
    let one = sample(&place, "one");
    assert_eq!(shared.run(&one).expect_success().executed(), TASKS);
    let mut command = shared.with(netbuild());
    command.args(["flush", "--json", "--timeout", "5", "--data-dir"]).arg(&one.data_dir);
    let output = command.output().expect("netbuild runs");
    let tiers: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let of = |kind: &str| {
        let tiers = tiers.as_array().expect("a list").iter();
        tiers.clone().find(|tier| tier["kind"] == kind).expect("a tier").clone()
    };
    assert!(of("redis")["waiting"].as_u64() > Some(0), "{tiers}");
    assert!(of("redis")["why"].to_string().contains("OOM"), "{tiers}");
    let told = format!("{tiers}{}", String::from_utf8_lossy(&output.stderr));
    assert!(of("s3")["waiting"] == json!(TASKS), "{told}");
    // Both are mended.
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    proxy.set(Fault::None);
    let (all, tiers) = shared.flush(&one.data_dir);
    assert!(all, "{tiers:?}");
    for (name, kind, chain) in [
        ("two", "redis", format!("redis://127.0.0.1:{}", redis.port())),
        ("three", "s3", "s3://netbuild/full".to_owned()),
    ] {
        let workspace = sample(&place, name);
        shared.0[0].1 = chain;
        let run = shared.run(&workspace).expect_success();
        let hits = run.count(&format!("/hits/{kind}"));
        // What is over 1 MiB is in the bucket only.
        assert!(hits >= TASKS - 2 && hits + run.executed() == TASKS, "{}", run.summary);
        workspace.outputs().expect_same(&one.outputs());
    }
}

#[test]
fn what_is_kept_in_memory_lives_as_long_as_its_process() {
    let shared = Shared(vec![("CACHE_BACKEND", "memory://".to_owned())]);
    let place = Place::new();
    let one = sample(&place, "one");
    assert_eq!(shared.run(&one).expect_success().executed(), TASKS);
    one.forget_outputs();
    assert_eq!(shared.run(&one).expect_success().executed(), TASKS, "nothing was kept");
    assert!(
        !one.data_dir.join("blobs").exists()
            || Tree::of(&one.data_dir.join("blobs")).files().count() == 0
    );
    let _agent = shared.agent("here", &one.data_dir);
    one.forget_outputs();
    assert_eq!(shared.run(&one).expect_success().executed(), TASKS);
    one.forget_outputs();
    let run = shared.run(&one).expect_success();
    assert_eq!((run.executed(), run.count("/hits/disk")), (0, TASKS), "{}", run.summary);
}

#[test]
fn without_a_place_for_a_data_directory_results_come_from_the_tier() {
    let redis = Redis::start(&[]);
    let shared = Shared::redis(redis.port());
    let place = Place::new();
    let one = sample(&place, "one");
    assert_eq!(shared.run(&one).expect_success().executed(), TASKS);
    assert!(shared.flush(&one.data_dir).0);
    let closed = place.path("closed");
    fs::create_dir(&closed).expect("a directory");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).expect("permissions");
    let two = sample(&place, "two").with_data_dir(&closed.join("data"));
    let run = Run::of(&mut shared.with(without_privileges(&two.command(&["--json"]))));
    assert!(run.stderr.contains("data directory cannot be used"), "{}", run.stderr);
    expect_from(run, "redis", (&two.outputs(), &one.outputs()));
    // What is built there gets to the tier, too.
    two.write("src/a.txt", "changed\n");
    let mut command = shared.with(without_privileges(&two.command(&["--json"])));
    let executed = Run::of(&mut command).expect_success().executed();
    assert!((1..TASKS).contains(&executed), "{executed}");
    let three = sample(&place, "three");
    three.write("src/a.txt", "changed\n");
    expect_from(shared.run(&three), "redis", (&three.outputs(), &two.outputs()));
}

#[test]
fn more_results_than_may_wait_are_counted_and_the_others_all_get_through() {
    use netbuild_core::{
        key::ActionKey,
        outbox::{MAX_WAITING, Parcel},
    };
    use netbuild_proto::outbox::{HEADER, Lane, added};
    let redis = Redis::start(&[]);
    let place = Place::new();
    let url = format!("redis://127.0.0.1:{}", redis.port());
    let shared = Shared(vec![("CACHE_BACKEND", url.clone())]);
    let one = sample(&place, "one");
    // Nobody shares it yet; then, as if it had waited for months, there are too many for its tier.
    assert_eq!(one.run(&[]).expect_success().executed(), TASKS);
    let mut log = HEADER.to_vec();
    let lane = Lane::of(&url);
    for number in 0..MAX_WAITING as u64 + 500 {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_le_bytes());
        log.extend_from_slice(&added(lane, Parcel::result(ActionKey(key), 1)));
    }
    fs::write(one.data_dir.join("outbox"), log).expect("a file");
    let status = shared.ask(&one.data_dir, &["status", "--json"]);
    let status: Value = serde_json::from_slice(&status.stdout).expect("JSON");
    assert_eq!(status["tiers"][0]["left_out"], json!(500), "{status}");
    let len = fs::metadata(one.data_dir.join("outbox")).expect("a file").len();
    assert!(len < 7_000_000, "{len}");
    let (all, tiers) = shared.flush(&one.data_dir);
    assert!(all, "{tiers:?}");
    // There is room again: what is built from now on gets there.
    one.write("src/a.txt", "changed\n");
    let executed = shared.run(&one).expect_success().executed();
    assert!((1..TASKS).contains(&executed), "{executed}");
    assert!(shared.flush(&one.data_dir).0);
    let two = sample(&place, "two");
    two.write("src/a.txt", "changed\n");
    let run = shared.run(&two).expect_success();
    assert_eq!(run.count("/hits/redis"), executed, "{}", run.summary);
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
    said += &fs::read_to_string(log).expect("a log");
    for name in ["outbox", "cursors", "links"] {
        said += &fs::read_to_string(workspace.data_dir.join(name)).unwrap_or_default();
    }
    assert!(said.contains("s3://netbuild"), "something was said");
    assert!(!said.contains("geheim"), "{said}");
}
