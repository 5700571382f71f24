//! Blobs on their way: from all who have them, on from where they were, and only what differs.

use crate::support::{Agent, Place, netbuild, netbuild_agent, wait_until};
use serde_json::Value;
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

const MEBIBYTE: usize = 1 << 20;

/// Bytes that nothing makes smaller.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..len.div_ceil(8)).flat_map(|_| next()).take(len).collect()
}

/// An agent with a section `[transfer]` of its own.
fn agent(place: &Place, region: &str, transfer: &str, join: &[&str]) -> Agent {
    let (data_dir, config) = (place.path(region), place.path(&format!("{region}.toml")));
    fs::write(&config, format!("[transfer]\n{transfer}\n")).expect("a file");
    let mut command = netbuild_agent();
    command.arg("--config").arg(&config).arg("--data-dir").arg(&data_dir);
    command.args(["--region", region, "--listen", "127.0.0.1:0"]);
    for member in join {
        command.arg("--join").arg(member);
    }
    Agent::spawn(command, &data_dir)
}

fn command(name: &str, data_dir: &Path) -> Command {
    let mut command = netbuild();
    command.arg(name).arg("--data-dir").arg(data_dir);
    command
}

/// Keeps bytes, and says their digest.
fn put(place: &Place, region: &str, bytes: &[u8]) -> String {
    let file = place.path(&format!("{region}.put"));
    fs::write(&file, bytes).expect("a file");
    let output = command("put", &place.path(region)).arg(&file).output().expect("netbuild runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Gets a blob that must be these bytes; what `--json` says of it, and what people are told.
fn get(place: &Place, region: &str, digest: &str, bytes: &[u8]) -> (Value, String) {
    let file = place.path("got");
    let mut command = command("get", &place.path(region));
    let output = command.args(["--json", digest, "-o"]).arg(&file).output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
    assert!(fs::read(&file).expect("the file") == bytes, "other bytes");
    let json = serde_json::from_slice(&output.stdout).expect("JSON");
    (json, String::from_utf8_lossy(&output.stderr).into_owned())
}

fn counter(agent: &Agent, name: &str) -> u64 {
    agent.status()["counters"][name].as_u64().expect("a counter")
}

#[test]
fn two_regions_give_their_parts_of_one_blob_at_once() {
    let place = Place::new();
    let slow = "limit = \"24 Mbit/s\"";
    let east = agent(&place, "us-east", slow, &[]);
    let west = agent(&place, "us-west", slow, &[&east.ticket]);
    let bytes = noise(1, 12 * MEBIBYTE);
    let digest = put(&place, "us-east", &bytes);
    assert_eq!(put(&place, "us-west", &bytes), digest);
    let office = agent(&place, "office", "", &[&east.ticket]);
    office.wait_for_members(2, 0);
    west.wait_for_members(2, 0);
    // Both links have to be known as slow before it pays to ask both at once.
    for (seed, region) in [(2, "us-east"), (3, "us-west")] {
        let small = noise(seed, 2 * MEBIBYTE);
        let digest = put(&place, region, &small);
        get(&place, "office", &digest, &small);
    }
    let (json, told) = get(&place, "office", &digest, &bytes);
    let sources = json["sources"].as_array().expect("sources");
    let parts: Vec<u64> = sources.iter().filter_map(|source| source["bytes"].as_u64()).collect();
    assert_eq!(parts.iter().sum::<u64>(), bytes.len() as u64, "{json}");
    assert!(parts.len() == 2 && parts.iter().all(|part| *part > 3 << 20), "{json}");
    assert!(told.contains("us-east") && told.contains("us-west"), "{told}");
}

#[test]
fn one_who_comes_up_in_mid_transfer_gives_its_part() {
    let place = Place::new();
    let slow = "limit = \"16 Mbit/s\"";
    let east = agent(&place, "us-east", slow, &[]);
    let bytes = noise(11, 24 * MEBIBYTE);
    let digest = put(&place, "us-east", &bytes);
    // Without an agent, so far.
    assert_eq!(put(&place, "us-west", &bytes), digest);
    let office = agent(&place, "office", "", &[&east.ticket]);
    office.wait_for_members(1, 0);
    let small = noise(12, 2 * MEBIBYTE);
    let known = put(&place, "us-east", &small);
    get(&place, "office", &known, &small);

    let file = place.path("late");
    let mut getting = command("get", &place.path("office"));
    getting.args(["--json", &digest, "-o"]).arg(&file);
    let getting = getting.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it runs");
    wait_until("it is under way", || counter(&office, "data_bytes_fetched") > 5 << 20);
    let _west = agent(&place, "us-west", slow, &[&east.ticket]);
    let output = getting.wait_with_output().expect("it ends");
    assert!(output.status.success() && fs::read(&file).expect("the file") == bytes);
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let sources = json["sources"].as_array().expect("sources");
    let parts: Vec<u64> = sources.iter().filter_map(|source| source["bytes"].as_u64()).collect();
    assert_eq!(parts.iter().sum::<u64>(), bytes.len() as u64, "{json}");
    assert!(parts.len() == 2 && parts.iter().all(|part| *part > 2 << 20), "{json}");
}

#[test]
fn an_agent_that_is_killed_goes_on_where_it_was() {
    let place = Place::new();
    let east = agent(&place, "us-east", "limit = \"40 Mbit/s\"", &[]);
    let bytes = noise(4, 24 * MEBIBYTE);
    let digest = put(&place, "us-east", &bytes);
    let mut office = agent(&place, "office", "", &[&east.ticket]);
    office.wait_for_members(1, 0);
    let mut getting = command("get", &place.path("office"));
    getting.args([&digest, "-o"]).arg(place.path("never"));
    let mut getting = getting.stderr(Stdio::null()).spawn().expect("netbuild runs");
    wait_until("more than half is there", || counter(&office, "data_bytes_fetched") > 13 << 20);
    let before = counter(&office, "data_bytes_fetched");
    office.kill();
    getting.wait().expect("it ends");

    let office = agent(&place, "office", "", &[&east.ticket]);
    office.wait_for_members(1, 0);
    let (json, told) = get(&place, "office", &digest, &bytes);
    let again = json["bytes_on_wire"].as_u64().expect("bytes");
    // What was on its way when it was killed is the only loss.
    let twice = (before + again).saturating_sub(bytes.len() as u64);
    assert!(twice < 4 << 20, "{before} and {again} of {}", bytes.len());
    assert!(json["resumed"]["chunks_here"].as_u64().is_some_and(|chunks| chunks > 10), "{json}");
    assert!(told.contains("resumed at chunk "), "{told}");
}

#[test]
fn whoever_is_killed_however_often_the_blob_comes_and_nearly_nothing_twice() {
    const KILLS: u64 = 4;
    let place = Place::new();
    let bytes = noise(21, 24 * MEBIBYTE);
    let slow = "limit = \"64 Mbit/s\"";
    let mut east = agent(&place, "us-east", slow, &[]);
    let digest = put(&place, "us-east", &bytes);
    let mut office = agent(&place, "office", "", &[&east.ticket]);
    let seed = std::env::var("NETBUILD_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or(1);
    println!("NETBUILD_SEED={seed}");
    let dice = noise(seed, 16 * KILLS as usize);
    let mut fetched = 0;
    for kill in dice.chunks(16) {
        office.wait_for_members(1, 0);
        let start = || {
            let mut getting = command("get", &place.path("office"));
            getting.args([&digest, "-o"]).arg(place.path("never"));
            getting.stderr(Stdio::null()).spawn().expect("netbuild runs")
        };
        let mut getting = start();
        // Each time a sixteenth of it at most, so that something is left for the last one.
        let until = counter(&office, "data_bytes_fetched")
            + u64::from(kill[0]) * bytes.len() as u64 / (16 * 256);
        wait_until("it goes on", || {
            // One that is back is heard of a moment later.
            if getting.try_wait().expect("a child").is_some() {
                getting = start();
            }
            counter(&office, "data_bytes_fetched") > until
        });
        if kill[1] % 2 == 0 {
            fetched += counter(&office, "data_bytes_fetched");
            office.kill();
            getting.wait().expect("it ends");
            office = agent(&place, "office", "", &[&east.ticket]);
        } else {
            east.kill();
            // Nobody else has it, which is said.
            assert!(!getting.wait().expect("it ends").success());
            east = agent(&place, "us-east", slow, &[&office.ticket]);
        }
    }
    wait_until("the holder is back", || {
        let plan = command("plan", &place.path("office")).args(["--json", &digest]).output();
        let plan: Value = serde_json::from_slice(&plan.expect("it runs").stdout).expect("JSON");
        let steps = plan["steps"].as_array().expect("steps");
        steps.iter().any(|step| step["holds"] == true)
    });
    let (json, _) = get(&place, "office", &digest, &bytes);
    assert!(json["resumed"]["chunks_here"].as_u64().is_some_and(|chunks| chunks > 0), "{json}");
    fetched += counter(&office, "data_bytes_fetched");
    // What was on its way at each kill is the only loss.
    let twice = fetched.saturating_sub(bytes.len() as u64);
    assert!(twice < KILLS * 2 * MEBIBYTE as u64, "{fetched} of {}", bytes.len());
}

#[test]
fn a_source_that_crawls_holds_nothing_up() {
    let place = Place::new();
    let east = agent(&place, "us-east", "limit = \"64 Mbit/s\"", &[]);
    // A kilobyte a second: its share would take hours.
    let west = agent(&place, "us-west", "limit = \"8 kbit/s\"", &[&east.ticket]);
    let bytes = noise(31, 24 * MEBIBYTE);
    let digest = put(&place, "us-east", &bytes);
    assert_eq!(put(&place, "us-west", &bytes), digest);
    let office = agent(&place, "office", "", &[&east.ticket]);
    office.wait_for_members(2, 0);
    west.wait_for_members(2, 0);
    let (json, _) = get(&place, "office", &digest, &bytes);
    let sources = json["sources"].as_array().expect("sources");
    let of = |region: &str| {
        let source = sources.iter().find(|source| source["region"] == region);
        source.and_then(|source| source["bytes"].as_u64()).unwrap_or(0)
    };
    assert_eq!(of("us-east") + of("us-west"), bytes.len() as u64, "{json}");
    assert!(of("us-west") < 2 * MEBIBYTE as u64, "{json}");
}

#[test]
fn of_a_blob_like_one_that_is_here_only_what_differs_is_sent_on_a_slow_link() {
    let place = Place::new();
    let east = agent(&place, "us-east", "limit = \"24 Mbit/s\"", &[]);
    let office = agent(&place, "office", "", &[&east.ticket]);
    office.wait_for_members(1, 0);
    let old = noise(5, 6 * MEBIBYTE);
    // A few bytes here and there, so that no chunk stays the same.
    let mut new = old.clone();
    (0..new.len()).step_by(100_000).for_each(|at| new[at] ^= 0x55);
    let digest = put(&place, "us-east", &old);
    // This also shows that the link is slow.
    get(&place, "office", &digest, &old);
    let digest = put(&place, "us-east", &new);
    let (json, _) = get(&place, "office", &digest, &new);
    assert!(json["bytes_on_wire"].as_u64().is_some_and(|wire| wire < 100_000), "{json}");
    assert!(json["codecs"]["delta"].is_object() && json["base"].is_string(), "{json}");
}

#[test]
fn what_shrinks_is_sent_smaller_on_a_slow_link_unless_somebody_says_otherwise() {
    let place = Place::new();
    let east = agent(&place, "us-east", "limit = \"24 Mbit/s\"", &[]);
    let text: Vec<u8> =
        (0..400_000_u32).flat_map(|n| format!("{n} lines\n").into_bytes()).collect();
    let digest = put(&place, "us-east", &text);
    let office = agent(&place, "office", "", &[&east.ticket]);
    let plain = agent(&place, "plain", "codec = \"off\"", &[&east.ticket]);
    office.wait_for_members(2, 0);
    plain.wait_for_members(2, 0);
    let (json, _) = get(&place, "office", &digest, &text);
    let wire = json["bytes_on_wire"].as_u64().expect("bytes");
    assert!(wire * 2 < text.len() as u64, "{json}");
    // From whomever it comes now, this one wants it as it is.
    let (json, _) = get(&place, "plain", &digest, &text);
    assert_eq!(json["codecs"]["identity"]["bytes"], text.len() as u64, "{json}");
}
