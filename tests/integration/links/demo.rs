//! `netbuild demo`, told to its end and cut short, in network namespaces and without them.

use crate::support::{Place, Running, netbuild, signal, through, wait_until};
use rustix::process::Signal;
use serde_json::Value;
use std::{fs, path::PathBuf, process::Command};

/// Where a demo runs, and where nothing may be left of it.
struct Stage {
    place: Place,
}

impl Stage {
    fn new() -> Self {
        Self { place: Place::new() }
    }

    fn demo(&self, args: &[&str]) -> Command {
        let mut demo = netbuild();
        demo.args(["demo", "--fast"]).args(args).env("TMPDIR", self.place.path(""));
        demo
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&fs::read(self.place.path("json")).expect("a file")).expect("JSON")
    }

    /// The directory of a demo.
    fn directory(&self) -> Option<PathBuf> {
        let list = fs::read_dir(self.place.path("")).expect("a directory");
        let mut paths = list.map(|entry| entry.expect("an entry").path());
        paths
            .find(|path| path.file_name().is_some_and(|name| is_of_a_demo(&name.to_string_lossy())))
    }

    /// Processes that have something in the stage open as their directory or on their command line.
    fn processes(&self) -> Vec<String> {
        let stage = self.place.path("");
        let stage = stage.to_str().expect("UTF-8").trim_end_matches('/').to_owned();
        let list = fs::read_dir("/proc").expect("processes");
        let pids = list.map(|entry| entry.expect("an entry").path());
        let pids = pids.filter(|path| path.join("cmdline").exists());
        pids.filter_map(|path| {
            // It may end meanwhile.
            let words = fs::read(path.join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            let directory = fs::read_link(path.join("cwd")).unwrap_or_default();
            let there = words.contains(&stage) || directory.starts_with(&stage);
            there.then_some(words)
        })
        .collect()
    }

    fn expect_no_processes(&self) {
        wait_until("no process of the demo is left", || self.processes().is_empty());
    }

    #[track_caller]
    fn expect_nothing_left(&self, pid: u32) {
        assert_eq!(self.processes(), Vec::<String>::new());
        assert_eq!(self.directory(), None);
        assert_eq!(namespaces(pid), Vec::<String>::new());
    }
}

fn is_of_a_demo(name: &str) -> bool {
    name.starts_with("netbuild-demo-")
}

/// The network namespaces of a demo.
fn namespaces(pid: u32) -> Vec<String> {
    let list = fs::read_dir("/run/netns").into_iter().flatten();
    let names =
        list.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(&format!("demo-{pid}-"))).collect()
}

/// Runs a demo to its end: it measures everything, every region serves, and nothing is left.
#[track_caller]
fn tell(stage: &Stage, demo: &mut Command, links: &str) -> String {
    let running = Running::start(demo);
    let pid = running.pid();
    let Ended { stdout, stderr, code } = Ended::of(running);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let json = stage.json();
    assert_eq!((&json["result"], &json["links"]), (&"success".into(), &links.into()), "{json}");
    let figures = json["figures"].as_array().expect("a list");
    let names: Vec<&str> = figures.iter().filter_map(|figure| figure["name"].as_str()).collect();
    assert_eq!(
        names,
        [
            "warm_near",
            "warm_us_west",
            "warm_far",
            "recovery",
            "incremental",
            "sync",
            "slow_link_first",
            "slow_link_update",
            "thin_link"
        ]
    );
    assert!(figures.iter().all(|figure| figure["value"].is_number()), "{json}");
    for region in json["regions"].as_array().expect("a list") {
        assert!(region["bytes_served"].as_u64() > Some(0), "{json}");
    }
    stage.expect_nothing_left(pid);
    stdout
}

struct Ended {
    stdout: String,
    stderr: String,
    code: Option<i32>,
}

impl Ended {
    fn of(running: Running) -> Self {
        let output = running.output();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Self {
            stdout: text(output.stdout),
            stderr: text(output.stderr),
            code: output.status.code(),
        }
    }
}

#[test]
fn in_network_namespaces_it_measures_everything_and_leaves_nothing() {
    assert!(rustix::process::geteuid().is_root(), "network namespaces need root");
    let stage = Stage::new();
    let [json, trace] = ["json", "trace"].map(|name| stage.place.path(name));
    let mut demo = stage.demo(&[]);
    demo.arg("--json").arg(&json).arg("--trace").arg(&trace);
    let stdout = tell(&stage, &mut demo, "namespaces");
    for part in ["resumed at chunk", "nothing executed", "at least 97 %", "sent to others"] {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }
    assert!(!stdout.contains('\x1b'), "{stdout}");
    let trace: Value = serde_json::from_slice(&fs::read(&trace).expect("a file")).expect("JSON");
    let events = trace["traceEvents"].as_array().expect("a list");
    for name in ["us-east: tasks", "eu-central: transfers"] {
        assert!(events.iter().any(|event| event["args"]["name"] == name), "{name}");
    }
    assert!(events.iter().any(|event| event["name"] == "build-worker" && event["ph"] == "X"));
}

#[test]
fn without_root_the_links_are_on_loopback() {
    let stage = Stage::new();
    let mut demo = stage.demo(&["--json"]);
    demo.arg(stage.place.path("json"));
    let mut demo = without_root(&demo);
    demo.env("TMPDIR", stage.place.path(""));
    let stdout = tell(&stage, &mut demo, "loopback");
    assert!(stdout.contains("without root"), "{stdout}");
}

/// The same command as a user without rights: nobody, in a user namespace. Files are those of the one who
/// runs the tests, as this tree, and Rust, may be in root's home.
fn without_root(command: &Command) -> Command {
    if !rustix::process::geteuid().is_root() {
        return through(&["env"], command);
    }
    through(&["unshare", "--user", "--map-user=65534", "--map-group=65534", "--"], command)
}

/// A demo that has come so far that `us-east` builds.
fn building(stage: &Stage, args: &[&str]) -> (Running, PathBuf) {
    let running = Running::start(&mut stage.demo(args));
    let directory = stage.place.path(&format!("netbuild-demo-{}", running.pid()));
    wait_until("us-east builds", || directory.join("us-east.workspace/out/gen").exists());
    (running, directory)
}

#[test]
fn a_region_whose_agent_is_killed_serves_nothing_and_that_is_a_failure() {
    let stage = Stage::new();
    let json = stage.place.path("json");
    let json = json.to_str().expect("UTF-8");
    let (running, directory) = building(&stage, &["--json", json]);
    let pid = running.pid();
    let status = netbuild()
        .args(["status", "--json", "--data-dir"])
        .arg(directory.join("us-west"))
        .output()
        .expect("netbuild runs");
    let status: Value = serde_json::from_slice(&status.stdout).expect("JSON");
    let agent = status["pid"].as_u64().expect("a pid");
    signal(u32::try_from(agent).expect("a pid"), Signal::KILL);
    let Ended { stderr, code, .. } = Ended::of(running);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("us-west serves nothing"), "{stderr}");
    let json = stage.json();
    assert_eq!(json["result"], "failure");
    assert!(json["error"].as_str().is_some_and(|error| error.contains("us-west")), "{json}");
    stage.expect_nothing_left(pid);
}

#[test]
fn ctrl_c_in_the_middle_leaves_nothing() {
    let stage = Stage::new();
    let (running, _) = building(&stage, &[]);
    let pid = running.pid();
    signal(pid, Signal::INT);
    let Ended { stderr, code, .. } = Ended::of(running);
    assert_eq!(code, Some(130), "{stderr}");
    stage.expect_nothing_left(pid);
}

#[test]
fn a_demo_that_is_killed_takes_its_processes_with_it_and_the_next_one_cleans_up() {
    let stage = Stage::new();
    let (running, directory) = building(&stage, &[]);
    let pid = running.pid();
    signal(pid, Signal::KILL);
    assert_eq!(Ended::of(running).code, None);
    stage.expect_no_processes();
    wait_until("its namespaces are removed", || namespaces(pid).is_empty());
    assert!(directory.exists());
    let (running, next) = building(&stage, &["--loopback"]);
    assert!(!directory.exists() && next != directory);
    let pid = running.pid();
    signal(pid, Signal::TERM);
    assert_eq!(Ended::of(running).code, Some(143));
    stage.expect_nothing_left(pid);
}

#[test]
fn a_directory_that_is_no_checkout_is_wrong_usage() {
    let stage = Stage::new();
    let mut demo = stage.demo(&["--workspace"]);
    let output = demo.arg(stage.place.path("nowhere")).output().expect("netbuild runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("graph.json") && stderr.contains("checkout"), "{stderr}");
}
