//! `netbuild sync`, and agents of one region that want the same.

use super::sites::{Decision, Sites};
use crate::support::{Agent, Running, Workspace, wait_until};
use rustix::process::Signal;
use serde_json::{Map, Value, json};
use std::process::{Child, Stdio};

/// Actions of the build, and bytes of what each of them makes.
const ACTIONS: u64 = 6;
const BYTES: u64 = 1_000_000;

/// A build whose results nothing compresses or has in common.
fn graph(name: &str) -> Value {
    let mut tasks = Map::new();
    for n in 0..ACTIONS {
        let task = format!("{name}{n}");
        let command = format!("mkdir -p out && head -c {BYTES} /dev/urandom > out/{task}");
        let outputs = json!([format!("out/{task}")]);
        tasks.insert(
            task,
            json!({ "command": command, "deps": [], "inputs": [], "outputs": outputs }),
        );
    }
    let all: Vec<String> = tasks.keys().cloned().collect();
    tasks.insert("all".to_owned(), json!({ "deps": all }));
    json!({ "version": "1", "default": "all", "tasks": tasks })
}

/// One agent in the east that has built, and two in another region that know of it.
struct Mesh {
    sites: Sites,
    built: Workspace,
    east: Agent,
    central: Agent,
    central_too: Agent,
}

fn mesh(test: &str) -> Mesh {
    let sites = Sites::up(test, &["us-east", "eu-central"]);
    let named = |name: &str, site: &str, join: &[&Agent]| {
        sites.agent_of(site, name, &["--region", site], "", join)
    };
    let east = named("east", "us-east", &[]);
    let central = named("central", "eu-central", &[&east]);
    let central_too = named("central-too", "eu-central", &[&east, &central]);
    let built = sites.workspace("east", &graph("east"));
    built.run(&[]).expect_success();
    wait_until("all know what there is", || {
        [&central, &central_too].iter().all(|agent| records(agent) == ACTIONS)
    });
    Mesh { sites, built, east, central, central_too }
}

fn records(agent: &Agent) -> u64 {
    agent.status()["store"]["records"].as_u64().expect("a number")
}

fn stored(agent: &Agent) -> u64 {
    agent.status()["store"]["blob_bytes"].as_u64().expect("a number")
}

/// Artifacts, bytes, and bytes as they were sent, without the few that frame them.
fn figures(report: &Value) -> [u64; 3] {
    let figures = ["artifacts", "bytes_logical", "bytes_on_wire"];
    let [artifacts, logical, wire] = figures.map(|key| report[key].as_u64().expect(key));
    let framed = wire > logical && wire - logical < 100 * artifacts;
    [artifacts, logical, if framed { logical } else { wire }]
}

#[test]
fn a_region_is_filled_once_and_what_is_there_is_not_copied_again() {
    let Mesh { sites, built, east, central, central_too } = mesh("copying");
    let all = ACTIONS * BYTES;
    let fetched = |agent: &Agent| agent.counter("data_bytes_fetched");
    let crossed = || fetched(&central).max(fetched(&central_too));

    let dry = central.json(&["sync", "--dry-run"]);
    assert_eq!((figures(&dry), &dry["dry_run"]), ([ACTIONS, all, 0], &true.into()));
    assert_eq!(stored(&central), 0);
    assert!(fetched(&central) < BYTES, "nothing but records");
    let pair = &dry["pairs"][0];
    assert_eq!((&pair["from"], &pair["to"]), (&"us-east".into(), &"eu-central".into()));

    let copied = central.json(&["sync", "--from", "us-east"]);
    assert_eq!(figures(&copied), [ACTIONS, all, all], "{copied}");
    assert_eq!(copied["pairs"][0]["from"], "us-east", "{copied}");
    assert_eq!(stored(&central), all);
    let again = central.json(&["sync", "--from", "us-east"]);
    assert_eq!(figures(&again), [0, 0, 0], "{again}");
    assert_eq!(figures(&central.json(&["sync", "--force"])), [0, 0, 0]);

    // The other agent of the region has it from the first one.
    let near = central_too.json(&["sync"]);
    assert_eq!(figures(&near)[..2], [ACTIONS, all], "{near}");
    assert!(crossed() < all * 3 / 2 && stored(&central_too) == all);

    // What is built in the other region, ordered from the first one.
    let central_built = sites.workspace("central", &graph("central"));
    central_built.run(&[]).expect_success();
    wait_until("the east knows of it", || records(&east) == 2 * ACTIONS);
    let ordered = east.json(&["sync", "--from", "eu-central", "--to", "us-east"]);
    assert_eq!(figures(&ordered), [ACTIONS, all, all], "{ordered}");
    built.write("graph.json", &graph("next").to_string());
    built.run(&[]).expect_success();
    wait_until("all know of it", || records(&central) == 3 * ACTIONS);
    let everywhere = east.json(&["sync", "--all"]);
    let pairs = everywhere["pairs"].as_array().expect("a list");
    let crossing: Vec<_> = pairs.iter().filter(|pair| pair["from"] != pair["to"]).collect();
    assert_eq!(crossing.len(), 1, "{everywhere}");
    assert_eq!(figures(crossing[0]), [ACTIONS, all, all], "{everywhere}");
    assert_eq!(
        (&crossing[0]["from"], &crossing[0]["to"]),
        (&"us-east".into(), &"eu-central".into())
    );
    let refused = east.command(&["sync", "--from", "mars"]).output().expect("netbuild runs");
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("eu-central, us-east"));
}

#[test]
fn copying_that_was_interrupted_goes_on_where_it_was() {
    let mesh = mesh("interrupted");
    let Mesh { central, central_too, .. } = &mesh;
    let syncing = Running::start(&mut central.command(&["sync"]));
    let fetched =
        || central.counter("data_bytes_fetched") + central_too.counter("data_bytes_fetched");
    wait_until("it is under way", || fetched() > BYTES / 2);
    crate::support::signal(syncing.pid(), Signal::INT);
    let stopped = syncing.wait();
    assert_eq!(stopped.code(), Some(130), "{}", stopped.stderr);

    let rest = central.json(&["sync"]);
    assert_eq!(stored(central), ACTIONS * BYTES, "{rest}");
    // Nothing crossed twice but what was on its way, the probes of both agents and the headers of packets aside.
    let crossed = mesh.sites.crossed("us-east", "eu-central");
    let probes = 2 * 4 * (1 << 20);
    let allowed = (ACTIONS * BYTES + 2 * BYTES + probes) * 21 / 20;
    assert!(crossed <= allowed, "{crossed} of {allowed}");
}

#[test]
fn two_agents_of_a_region_that_want_the_same_blob_fetch_it_once() {
    const SIZE: usize = 3_000_000;
    let Mesh { sites, east, central, central_too, .. } = mesh("crossing");
    let digest = sites.put(SIZE, &[&east]);
    let agents = [&central, &central_too];
    wait_until("they know each other", || agents.iter().all(|agent| agent.members().len() == 2));
    let outs = ["one", "two"].map(|name| sites.place.path(name));
    let gets: Vec<Running> = agents
        .iter()
        .zip(&outs)
        .map(|(agent, out)| {
            let out = out.to_str().expect("UTF-8");
            Running::start(&mut agent.command(&["get", &digest, "--output", out, "--json"]))
        })
        .collect();
    gets.into_iter().for_each(|get| drop(get.wait().expect_success()));
    assert!(outs.iter().all(|out| sites.is_blob(SIZE, out)));

    let whys = agents.map(|agent| agent.why(&digest));
    let mut regions = whys.each_ref().map(|why| why.fetched_from().region);
    regions.sort_unstable();
    // One from afar, and one from its neighbour.
    assert_eq!(regions, ["eu-central", "us-east"], "{whys:?}");
}

#[test]
fn three_agents_of_a_region_share_one_crossing_while_it_lasts() {
    const SIZE: usize = 20_000_000;
    let Mesh { sites, east, central, central_too, .. } = mesh("sharing");
    let third =
        sites.agent_of("eu-central", "third", &["--region", "eu-central"], "", &[&east, &central]);
    let digest = sites.put(SIZE, &[&east]);
    let agents = [&central, &central_too, &third];
    wait_until("they know each other", || agents.iter().all(|agent| agent.members().len() == 3));
    let before: Vec<u64> = agents.iter().map(|agent| stored(agent)).collect();
    let outs = ["one", "two", "three"].map(|name| sites.place.path(name));
    let gets: Vec<Child> = agents
        .iter()
        .zip(&outs)
        .map(|(agent, out)| {
            let out = out.to_str().expect("UTF-8");
            let mut get = agent.command(&["get", &digest, "--output", out, "--json"]);
            get.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("netbuild runs")
        })
        .collect();
    let fetched = |agent: &Agent| agent.counter("data_bytes_fetched");
    let begun: Vec<u64> = agents.iter().map(|agent| fetched(agent)).collect();
    wait_until("all three are under way", || {
        agents.iter().zip(&begun).all(|(agent, begun)| fetched(agent) > begun + SIZE as u64 / 4)
    });
    let whole = agents.iter().zip(before).filter(|(agent, before)| stored(agent) > *before);
    assert_eq!(whole.count(), 0, "nobody waits until another one has all of it");
    let told: Vec<Value> = gets
        .into_iter()
        .map(|get| get.wait_with_output().expect("it ends"))
        .map(|output| serde_json::from_slice(&output.stdout).expect("JSON"))
        .collect();
    assert!(outs.iter().all(|out| sites.is_blob(SIZE, out)));
    let sources = told.iter().flat_map(|told| told["sources"].as_array().expect("sources"));
    let far = sources.filter(|source| source["region"] == "us-east");
    let crossed: u64 = far.map(|source| source["bytes"].as_u64().expect("bytes")).sum();
    let whys = agents.map(|agent| agent.why(&digest));
    assert!(crossed <= SIZE as u64 * 105 / 100, "{crossed} bytes crossed: {whys:?}");
    let slowest = told.iter().filter_map(|told| told["seconds"].as_f64()).fold(0.0, f64::max);
    let crossing = whys.iter().flat_map(Decision::attempts).filter(|it| it.region == "us-east");
    let crossing = crossing.filter_map(|attempt| attempt.actual_s).fold(0.0, f64::max);
    println!("the slowest took {slowest} s, the crossing itself {crossing} s");
}
