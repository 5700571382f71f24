//! Built once in one region, warm in every other.

use crate::{
    sample::{NOWHERE, TASKS, Tree, example, sample},
    support::{Agent, Place, Run, netbuild, netbuild_agent, refused, wait_until},
};
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

/// Where an agent can be reached by those who know the mesh key, as it says itself.
fn multiaddress(agent: &Agent) -> String {
    agent.status()["mesh_addresses"][0].as_str().expect("a multiaddress").to_owned()
}

fn peer(agent: &Agent) -> String {
    agent.status()["peer"].as_str().expect("a peer id").to_owned()
}

fn counter(agent: &Agent, name: &str) -> u64 {
    agent.status()["counters"][name].as_u64().expect("a counter")
}

/// An agent with a configuration file that lets in only these peers.
fn picky_agent(data_dir: &Path, region: &str, peers: &[&str], join: &[&str]) -> Agent {
    let config = data_dir.with_extension("toml");
    fs::write(&config, format!("[mesh]\npeers = {}\n", json!(peers))).expect("a file");
    let mut command = netbuild_agent();
    command.arg("--config").arg(&config).arg("--data-dir").arg(data_dir);
    command.args(["--region", region, "--listen", "127.0.0.1:0"]);
    for member in join {
        command.arg("--join").arg(member);
    }
    Agent::spawn(command, data_dir)
}

fn blob(data_dir: &Path, command: &str, args: &[&str]) -> Output {
    let mut netbuild: Command = netbuild();
    netbuild.arg(command).arg("--data-dir").arg(data_dir).args(args);
    netbuild.output().expect("netbuild runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

#[test]
fn what_one_region_built_another_restores_without_executing_anything() {
    let place = Place::new();
    let (east, west) = (sample(&place, "east/checkout"), sample(&place, "west/elsewhere/checkout"));
    let first = east.agent("us-east", &[]);
    assert_eq!(east.run(&[]).expect_success().executed(), TASKS);

    // Right after it has joined, so that nobody may have told it anything yet. How strongly agents code by themselves
    // depends on how fast this machine is just now.
    let config = place.path("mesh.toml");
    fs::write(&config, "[transfer]\ncodec = \"zstd-3\"\n").expect("a file");
    let mut command = Agent::on_loopback("us-west", &west.data_dir, &[&first.ticket]);
    command.arg("--config").arg(&config);
    let second = Agent::spawn(command, &west.data_dir);
    let run = west.run(&[]).expect_from_peers("us-east");
    // It shrinks well, and is more than five mebibytes as it is.
    assert!((100_000..2 << 20).contains(&run.count("/bytes_fetched")), "{}", run.summary);
    east.outputs().expect_same(&west.outputs());
    assert!(!west.exists("ran"));

    west.forget_outputs();
    let again = west.run(&[]).expect_success();
    assert_eq!((again.executed(), again.count("/hits/disk")), (0, TASKS), "{}", again.summary);
    assert_eq!(again.count("/bytes_fetched"), 0);
    east.outputs().expect_same(&west.outputs());
    drop((first, second));
}

#[test]
fn the_example_is_restored_byte_for_byte_at_another_path() {
    let place = Place::new();
    let (east, west) = (example(&place, "one"), example(&place, "a/longer/path/two"));
    let first = east.agent("us-east", &[]);
    let cold = east.run(&[]).expect_success();
    assert_eq!(cold.executed(), cold.count("/tasks"));
    let _second = west.agent("us-west", &[&first.ticket]);
    let warm = west.run(&[]).expect_success();
    assert_eq!(
        (warm.executed(), warm.count("/hits/peer")),
        (0, cold.executed()),
        "{}",
        warm.summary
    );
    assert!(!east.outputs().is_empty());
    east.outputs().expect_same(&west.outputs());
}

#[test]
fn a_region_goes_on_building_when_the_other_is_gone() {
    let place = Place::new();
    let (east, west) = (sample(&place, "east"), sample(&place, "west"));
    let mut first = east.agent("us-east", &[]);
    east.run(&[]).expect_success();
    let _second = west.agent("us-west", &[&first.ticket]);
    west.run(&[]).expect_from_peers("us-east");

    let rebuilds = |content: &str| {
        west.write("src/a.txt", content);
        let run = west.run(&[]).expect_success();
        // `text`, and `tree`, which copies it; the link does not follow it.
        assert!(west.read("out/tree/deep/text").starts_with(content));
        assert!(run.executed() >= 2, "{}", run.summary);
    };
    assert!(first.stop().success());
    rebuilds("after an orderly stop\n");
    let mut first = east.agent("us-east", &[]);
    first.wait_for_members(1, TASKS);
    first.kill();
    rebuilds("after a crash\n");
}

#[test]
fn a_crash_that_nobody_noticed_yet_costs_only_a_rebuild() {
    let place = Place::new();
    let (east, west) = (sample(&place, "east"), sample(&place, "west"));
    let mut first = east.agent("us-east", &[]);
    east.run(&[]).expect_success();
    let second = west.agent("us-west", &[&first.ticket]);
    second.wait_for_members(1, TASKS);
    first.kill();
    // The second still believes that the first holds everything. Results without content, which
    // came with their records, are all that it can have.
    let run = west.run(&[]).expect_success();
    assert_eq!(run.executed() + run.count("/hits/peer"), TASKS, "{}", run.summary);
    assert!(run.executed() > 0, "{}", run.summary);
    east.outputs().expect_same(&west.outputs());
}

#[test]
fn a_third_region_gets_from_the_second_what_the_first_and_the_second_had() {
    let place = Place::new();
    let [east, west, north] = ["east", "west", "north"].map(|name| sample(&place, name));
    let mut first = east.agent("us-east", &[]);
    east.run(&["text", "tool", "tree"]).expect_success();
    let _second = west.agent("us-west", &[&first.ticket]);
    let run = west.run(&[]).expect_success();
    assert_eq!((run.executed(), run.count("/hits/peer")), (TASKS - 3, 3), "{}", run.summary);

    // It is told of the first only, and meets the second through it.
    let third = north.agent("eu-north", &[&first.ticket]);
    wait_until("the third region has heard of everything that the second holds", || {
        let status = third.status();
        let members = status["members"].as_array().expect("a list");
        members.iter().any(|m| m["region"] == "us-west" && m["records"] == json!(TASKS))
    });
    assert!(first.stop().success());
    let run = north.run(&[]).expect_success();
    assert_eq!((run.executed(), run.count("/hits/peer")), (0, TASKS), "{}", run.summary);
    // Results without content came with their records, perhaps from the first.
    assert!(run.count("/sources/us-west") >= TASKS - 3, "{}", run.summary);
    west.outputs().expect_same(&north.outputs());
}

#[test]
fn agents_find_each_other_again_after_a_restart_without_being_told() {
    let place = Place::new();
    let (east, west) = (sample(&place, "east"), sample(&place, "west"));
    let mut first = east.agent("us-east", &[]);
    let mut second = west.agent("us-west", &[&first.ticket]);
    first.wait_for_members(1, 0);
    second.wait_for_members(1, 0);
    let before = multiaddress(&first);
    let member = peer(&second);

    assert!(second.stop().success());
    let second = west.agent("us-west", &[]);
    assert_eq!(peer(&second), member);
    second.wait_for_members(1, 0);

    // The other side too, at the port that it had, after a crash that nobody has noticed yet.
    first.kill();
    let first = east.agent("us-east", &[]);
    assert_eq!(multiaddress(&first), before);
    first.wait_for_members(1, 0);
    east.run(&[]).expect_success();
    second.wait_for_members(1, TASKS);
    west.run(&[]).expect_from_peers("us-east");
}

#[test]
fn an_address_is_enough_for_whoever_has_the_mesh_key() {
    let place = Place::new();
    let (east, west) = (sample(&place, "east"), sample(&place, "west"));
    let first = east.agent("us-east", &[]);
    east.run(&[]).expect_success();
    fs::create_dir(&west.data_dir).expect("a directory");
    fs::copy(east.data_dir.join("mesh.key"), west.data_dir.join("mesh.key")).expect("a copy");
    let _second = west.agent("us-west", &[&multiaddress(&first)]);
    west.run(&[]).expect_from_peers("us-east");
}

#[test]
fn a_stranger_is_refused_and_counted_and_gets_nothing() {
    let place = Place::new();
    let (east, strange) = (sample(&place, "east"), sample(&place, "strange"));
    let first = east.agent("us-east", &[]);
    east.run(&[]).expect_success();
    // It makes a mesh of its own, and so has another key. It knows where, but not who is there.
    let address = multiaddress(&first);
    let (address, _) = address.split_once("/p2p/").expect("it says who is there");
    let stranger = strange.agent("us-west", &[address]);
    wait_until("the stranger is refused", || counter(&first, "mesh_refused_admissions") > 0);
    let run = strange.run(&[]).expect_success();
    assert_eq!((run.executed(), run.count("/hits/peer")), (TASKS, 0), "{}", run.summary);
    for agent in [&first, &stranger] {
        assert_eq!(agent.status()["members"], json!([]));
    }
    assert_eq!(counter(&first, "data_requests_served"), 0);
}

#[test]
fn a_ticket_of_another_mesh_is_refused_and_the_key_is_kept() {
    let place = Place::new();
    let (east, west) = (sample(&place, "east"), sample(&place, "west"));
    let first = east.agent("us-east", &[]);
    assert!(west.agent("us-west", &[]).stop().success());
    let key = west.data_dir.join("mesh.key");
    let before = fs::read(&key).expect("a key");
    let mut command = netbuild_agent();
    command.arg("--data-dir").arg(&west.data_dir);
    let run = refused(command.args(["--listen", "127.0.0.1:0", "--join", &first.ticket]));
    assert_eq!(run.code(), Some(2));
    assert!(
        run.stderr.contains("mesh.key") && run.stderr.contains("another mesh"),
        "{}",
        run.stderr
    );
    assert_eq!(fs::read(&key).expect("a key"), before);
}

#[test]
fn a_list_of_peers_lets_in_those_and_no_others() {
    let place = Place::new();
    let [east, west, north] = ["east", "west", "north"].map(|name| sample(&place, name));
    let mut second = west.agent("us-west", &[]);
    let admitted = peer(&second);
    assert!(second.stop().success());
    fs::remove_file(west.data_dir.join("mesh.key")).expect("a key");

    let first = picky_agent(&east.data_dir, "us-east", &[&admitted], &[]);
    east.run(&[]).expect_success();
    let second = west.agent("us-west", &[&first.ticket]);
    first.wait_for_members(1, 0);
    west.run(&[]).expect_from_peers("us-east");

    // It has the ticket and with it the mesh key, and is still not let in.
    let third = north.agent("eu-north", &[&first.ticket]);
    wait_until("the third is refused", || {
        counter(&first, "mesh_refused_admissions") + counter(&first, "mesh_refused_connections") > 0
    });
    let members: Vec<Value> = first.status()["members"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|m| m["peer"].clone())
        .collect();
    assert_eq!(members, [json!(admitted)]);
    drop((second, third));
}

#[test]
fn files_put_in_one_region_are_got_in_another() {
    let place = Place::new();
    let (east, west) = (place.path("east"), place.path("west"));
    let first = Agent::start("us-east", &east, &[]);
    let second = Agent::start("us-west", &west, &[&first.ticket]);
    second.wait_for_members(1, 0);
    let large: Vec<u8> = (0..10_u32 << 18).flat_map(u32::to_le_bytes).collect();
    for content in [b"".as_slice(), b"a few bytes", &large] {
        let file = place.path("file");
        fs::write(&file, content).expect("a file");
        let put = blob(&east, "put", &[&file.to_string_lossy()]);
        assert!(put.status.success(), "{}", text(&put.stderr));
        let digest = text(&put.stdout);
        let got = place.path("got");
        let get = |region: Option<&str>| {
            let output = blob(&west, "get", &[&digest, "--json", "-o", &got.to_string_lossy()]);
            assert!(output.status.success(), "{}", text(&output.stderr));
            let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            assert_eq!(said["bytes_logical"], json!(content.len()));
            assert!(fs::read(&got).expect("the file") == content);
            // Nobody has to be asked for nothing.
            let region = region.filter(|_| !content.is_empty());
            let sources = said["sources"].as_array().expect("a list");
            let from = sources.iter().map(|source| source["region"].as_str().expect("a region"));
            assert!(from.eq(region), "{said}");
            let wire = said["bytes_on_wire"].as_u64().expect("a number");
            assert_eq!(wire > 0, region.is_some(), "{said}");
            let sent = sources.iter().map(|source| source["bytes_on_wire"].as_u64());
            assert_eq!(sent.sum::<Option<u64>>(), Some(wire), "{said}");
            let told = text(&output.stderr);
            let from = format!(" from {} in ", region.unwrap_or("disk"));
            assert!(told.starts_with("got ") && told.contains(&from), "{told}");
        };
        get(Some("us-east"));
        get(None);
        let quiet = blob(&west, "get", &[&digest, "--quiet"]);
        assert!(quiet.stdout == content && quiet.stderr.is_empty());
    }
}

#[test]
fn many_blobs_are_got_at_once_and_those_that_nobody_has_are_named() {
    let place = Place::new();
    let (east, west) = (place.path("east"), place.path("west"));
    let first = Agent::start("us-east", &east, &[]);
    let second = Agent::start("us-west", &west, &[&first.ticket]);
    second.wait_for_members(1, 0);
    let contents: Vec<String> = (0..30).map(|n| format!("{n}").repeat(1 + n * 100)).collect();
    let digests: Vec<String> = contents
        .iter()
        .map(|content| {
            let file = place.path("file");
            fs::write(&file, content).expect("a file");
            text(&blob(&east, "put", &[&file.to_string_lossy()]).stdout)
        })
        .collect();
    let (list, outputs) = (place.path("list"), place.path("some/outputs"));
    let get = |digests: &[String]| {
        fs::write(&list, digests.join("\n")).expect("a file");
        let (list, outputs) = (list.to_string_lossy(), outputs.to_string_lossy());
        // One is named twice.
        let more = [&digests[0], "--json", "--from-file", &list, "--output-dir", &outputs];
        blob(&west, "get", &more)
    };

    let output = get(&digests);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let bytes: usize = contents.iter().map(String::len).sum();
    assert_eq!((&said["blobs"], &said["missing"]), (&json!(30), &json!([])), "{said}");
    assert_eq!(said["bytes_logical"], json!(bytes));
    assert_eq!(said["sources"][0]["region"], "us-east", "{said}");
    for (digest, content) in digests.iter().zip(&contents) {
        let hash = digest.split('/').next().expect("a hash");
        assert!(fs::read(outputs.join(hash)).expect("the file") == content.as_bytes());
    }
    assert_eq!(fs::read_dir(&outputs).expect("a directory").count(), 30);

    let with_one_more: Vec<String> =
        digests[..5].iter().cloned().chain([NOWHERE.to_owned()]).collect();
    let output = get(&with_one_more);
    assert_eq!(output.status.code(), Some(1));
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&said["blobs"], &said["missing"]), (&json!(5), &json!([NOWHERE])), "{said}");
    let told = text(&output.stderr);
    assert!(told.contains("1 of 6 blobs are not to be had: ") && told.contains(NOWHERE), "{told}");

    for (lines, part) in [("\nnonsense\n", "line 2 of"), ("\n\n", "names no digest")] {
        fs::write(&list, lines).expect("a file");
        let (list, outputs) = (list.to_string_lossy(), outputs.to_string_lossy());
        let output = blob(&west, "get", &["--from-file", &list, "--output-dir", &outputs]);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(part), "{}", text(&output.stderr));
    }
    let output = blob(&west, "get", &[&digests[0], &digests[1]]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--output-dir"), "{}", text(&output.stderr));
}

#[test]
fn a_blob_that_nobody_has_and_a_digest_that_is_none_leave_nothing_behind() {
    let place = Place::new();
    let (east, west) = (place.path("east"), place.path("west"));
    let first = Agent::start("us-east", &east, &[]);
    let second = Agent::start("us-west", &west, &[&first.ticket]);
    second.wait_for_members(1, 0);
    fs::create_dir(place.path("outputs")).expect("a directory");
    let output = place.path("outputs/got");
    for (digest, code, hint) in [(NOWHERE, 1, "neither"), ("b10b", 2, "netbuild put")] {
        // Through an agent with a member to ask, and without any.
        for data_dir in [&west, &place.path("alone")] {
            let mut get = netbuild();
            get.args(["get", digest, "-o"]).arg(&output).arg("--data-dir").arg(data_dir);
            let run = Run::of(&mut get);
            assert_eq!(run.code(), Some(code), "{}", run.stderr);
            assert!(run.stderr.contains("hint: ") && run.stderr.contains(hint), "{}", run.stderr);
            assert!(Tree::of(&place.path("outputs")).is_empty());
        }
    }
}
