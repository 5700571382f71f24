//! An agent is watched: metrics, health and logs for programs, and the page for people.

mod browser;
mod page;

use crate::support::{Agent, Place, Workspace, netbuild, netbuild_agent, refused, wait_until};
use netbuild_servers::Redis;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Tasks that make something worth fetching, and one that depends on it.
fn graph() -> Value {
    json!({ "tasks": {
        "words": { "command": "seq 1 60000 > words", "inputs": [], "outputs": ["words"] },
        "count": { "command": "wc -l < words > count", "inputs": [], "deps": ["words"], "outputs": ["count"] },
    } })
}

/// The page of an agent: where it is.
fn page(agent: &Agent) -> String {
    agent.status()["page"].as_str().expect("a page").to_owned()
}

/// The answer to a GET: its status and its body.
fn get(page: &str, path: &str) -> (u16, String) {
    let address = page.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(address).expect("the agent listens");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")
        .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("a status"), body.to_owned())
}

/// What is measured: the value of each sample by its name and labels, as they are written.
fn scrape(page: &str) -> BTreeMap<String, f64> {
    let (status, body) = get(page, "/metrics");
    assert_eq!(status, 200, "{body}");
    let lines = body.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        (name.to_owned(), value.parse().expect("a number"))
    };
    lines.map(sample).collect()
}

/// The sum of the samples of a metric that have all of these in their labels.
fn sum(samples: &BTreeMap<String, f64>, name: &str, labels: &[&str]) -> f64 {
    let is_meant = |of: &str| {
        let (of, with) = of.split_once('{').unwrap_or((of, ""));
        of == name && labels.iter().all(|label| with.contains(label))
    };
    let meant: Vec<f64> =
        samples.iter().filter(|(of, _)| is_meant(of)).map(|(_, sum)| *sum).collect();
    assert!(!meant.is_empty(), "no {name} {labels:?} in {samples:#?}");
    meant.iter().sum()
}

fn observe(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/observe").join(file)
}

/// Runs promtool, which says what is wrong and fails, or says something all the same.
fn promtool(args: &[&str], input: &str) -> String {
    let mut child = Command::new("promtool")
        .args(args)
        .current_dir(observe(""))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {args:?}: {said}");
    said.into_owned()
}

/// Names of metrics in an expression, or in anything that has some.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    let meant = |word: &&str| {
        (word.starts_with("netbuild_") || word.starts_with("process_")) && !word.ends_with('_')
    };
    words.filter(meant).map(str::to_owned).collect()
}

fn built_in(place: &Place, name: &str, data_dir: &Path) -> Workspace {
    place.workspace(name, &graph(), &[]).with_data_dir(data_dir)
}

#[test]
fn metrics_tell_what_a_build_took_from_where_and_dashboards_know_their_names() {
    let (place, redis) = (Place::new(), Redis::start(&[]));
    let start = |region: &str, join: &[&str]| {
        let data_dir = place.path(&format!("{region}.data"));
        let mut command = netbuild_agent();
        command.arg("--region").arg(region).arg("--data-dir").arg(&data_dir);
        command.args(["--listen", "127.0.0.1:0", "--backend"]);
        command.arg(format!("{}?policy=read-only", redis.url()));
        for ticket in join {
            command.args(["--join", ticket]);
        }
        Agent::spawn(command, &data_dir)
    };
    let east = start("us-east", &[]);
    built_in(&place, "first", &east.data_dir).run(&[]).expect_success();
    let central = start("eu-central", &[&east.ticket]);
    central.wait_for_members(1, 2);
    let run = built_in(&place, "second", &central.data_dir).run(&[]).expect_success();
    assert_eq!((run.executed(), run.count("/hits/peer")), (0, 2), "{}", run.summary);

    let built = scrape(&page(&east));
    assert!((sum(&built, "netbuild_build_tasks_total", &["executed"]) - 2.0).abs() < 0.1);
    assert!((sum(&built, "netbuild_cache_lookups_total", &["miss"]) - 2.0).abs() < 0.1);
    assert!(sum(&built, "netbuild_transfer_logical_bytes_total", &["out"]) > 300_000.0);

    let page = page(&central);
    // A link is measured, and its region put in order, a moment after the first bytes.
    wait_until("the link is known", || {
        let names: BTreeSet<String> = scrape(&page).into_keys().collect();
        let known = |start: &str| names.iter().any(|name| name.starts_with(start));
        ["round_trip_seconds", "loss_ratio"]
            .iter()
            .all(|what| known(&format!("netbuild_link_{what}")))
            && known("netbuild_region_order")
            && known("netbuild_tier_round_trip_seconds")
    });
    let (_, text) = get(&page, "/metrics");
    assert_eq!(promtool(&["check", "metrics"], &text), "");
    let taken = scrape(&page);
    let has = |name: &str, labels: &[&str], value: f64| {
        let found = sum(&taken, name, labels);
        assert!((found - value).abs() < 0.1, "{name} {labels:?} is {found}");
    };
    has("netbuild_agent_info", &["region=\"eu-central\""], 1.0);
    has("netbuild_builds_total", &[], 1.0);
    has("netbuild_builds_running", &[], 0.0);
    has("netbuild_build_tasks_total", &["peer"], 2.0);
    has("netbuild_cache_hits_total", &["source=\"peer\"", "region=\"us-east\""], 2.0);
    has("netbuild_region_up", &["us-east"], 1.0);
    has("netbuild_mesh_members", &[], 1.0);
    has("netbuild_tier_up", &["kind=\"redis\""], 1.0);
    has("netbuild_store_records", &[], 2.0);
    has("netbuild_transfers_running", &[], 0.0);
    for (name, labels) in [
        ("netbuild_transfer_logical_bytes_total", "in"),
        ("netbuild_transfer_wire_bytes_total", "in"),
        ("netbuild_region_received_bytes_total", "us-east"),
        ("netbuild_transfer_duration_seconds_count", "fetched"),
        ("netbuild_gossip_bytes_total", "out"),
        ("netbuild_link_round_trip_seconds", "from=\"us-east\""),
        ("netbuild_http_requests_total", "path=\"/metrics\""),
        ("process_resident_memory_bytes", ""),
        ("process_cpu_seconds_total", ""),
        ("process_start_time_seconds", ""),
    ] {
        assert!(sum(&taken, name, &[labels]) > 0.0, "{name}");
    }
    assert!(!text.contains("12D3KooW"), "a label names a peer: {text}");

    let mut names: BTreeSet<&str> =
        taken.keys().map(|sample| sample.split('{').next().unwrap_or(sample)).collect();
    // The bandwidth of loopback is not known: a probe is over before it has filled it.
    names.insert("netbuild_link_goodput_bytes_per_second");
    let mut files = vec![observe("rules.yml"), observe("rules.test.yml")];
    let dashboards = fs::read_dir(observe("grafana/dashboards")).expect("dashboards");
    files.extend(dashboards.map(|file| file.expect("a file").path()));
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let text = fs::read_to_string(&file).expect("a file");
        let used = metrics_in(&text);
        assert!(used.len() > 5, "{}: {used:?}", file.display());
        for name in used {
            assert!(names.contains(name.as_str()), "{}: there is no {name}", file.display());
        }
        if file.extension().is_some_and(|kind| kind == "json") {
            let _: Value = serde_json::from_str(&text).expect("JSON");
        }
    }
}

#[test]
fn rules_and_the_configuration_of_prometheus_are_right() {
    promtool(&["check", "rules", "rules.yml"], "");
    promtool(&["test", "rules", "rules.test.yml"], "");
    promtool(&["check", "config", "prometheus.yml"], "");
}

#[test]
fn an_agent_says_whether_it_serves_and_where_it_is_watched() {
    let place = Place::new();
    let mut first = Agent::start("us-east", &place.path("one.data"), &[]);
    let at = page(&first);
    assert_eq!(get(&at, "/healthz"), (200, "serving\n".to_owned()));
    let (status, board) = get(&at, "/api/status");
    let board: Value = serde_json::from_str(&board).expect("JSON");
    assert_eq!((status, &board["region"]), (200, &json!("us-east")));
    assert!(!board.to_string().contains(&first.ticket), "a ticket is as good as a password");

    let command = |data_dir: &Path, http: &str| {
        let mut command = netbuild_agent();
        command.arg("--data-dir").arg(data_dir).args(["--listen", "127.0.0.1:0", "--http", http]);
        command
    };
    // Its port is taken: another one does.
    let data_dir = place.path("two.data");
    let taken = at.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let second = Agent::spawn(command(&data_dir, &taken), &data_dir);
    assert_ne!(page(&second), at);
    assert_eq!(get(&page(&second), "/healthz").0, 200);
    let log = fs::read_to_string(Agent::log(&data_dir)).expect("a log");
    assert!(log.contains(&format!("cannot listen on {taken}")), "{log}");

    let data_dir = place.path("three.data");
    let third = Agent::spawn(command(&data_dir, "off"), &data_dir);
    assert_eq!(third.status()["page"], Value::Null);
    let mut status = netbuild();
    status.args(["status", "--data-dir"]).arg(&second.data_dir);
    let text = String::from_utf8(status.output().expect("netbuild runs").stdout).expect("text");
    assert!(text.contains(&format!("page       {}", page(&second))), "{text}");

    let wrong = refused(&mut command(&place.path("four.data"), "here"));
    assert_eq!(wrong.code(), Some(2));
    assert!(wrong.stderr.contains("--http: `here` is neither"), "{}", wrong.stderr);

    // Somebody who is connected and says nothing does not keep it from its end.
    let silent = TcpStream::connect(&taken).expect("it listens");
    assert!(first.stop().success());
    drop(silent);
}

#[test]
fn logs_are_json_where_that_is_wanted() {
    let (place, mut command) = (Place::new(), netbuild_agent());
    let data_dir = place.path("data");
    command.arg("--data-dir").arg(&data_dir).args(["--listen", "127.0.0.1:0"]);
    command.args(["--region", "us-east", "--log-format", "json"]);
    let mut agent = Agent::spawn(command, &data_dir);
    let at = page(&agent);
    assert!(agent.stop().success());
    let log = fs::read_to_string(Agent::log(&data_dir)).expect("a log");
    let line =
        |line: &str| serde_json::from_str::<Value>(line).unwrap_or_else(|_| panic!("{line}"));
    let lines: Vec<Value> = log.lines().map(line).collect();
    let serving =
        lines.iter().find(|line| line["page"] == at.as_str()).unwrap_or_else(|| panic!("{log}"));
    assert_eq!((&serving["level"], &serving["region"]), (&json!("INFO"), &json!("us-east")));
    assert!(lines.iter().any(|line| line["message"] == "stopped"), "{log}");
}
