//! What a build will want comes at once, and not level by level.

use super::sites::Sites;
use crate::support::{Agent, Running, signal, wait_until};
use rustix::process::Signal;
use serde_json::{Map, Value, json};

/// Tasks one after the other.
const TASKS: u64 = 24;
/// The one of them that leaves a directory, which names its files in a listing.
const TREE: u64 = 12;

/// Each task reads what the one before it left, and says something; `edited` is the first that is
/// another than in the graph of others.
fn chain(edited: u64) -> Value {
    let output = |n: u64| if n == TREE { "out/tree/".to_owned() } else { format!("out/{n}") };
    let file = |n: u64| if n == TREE { "out/tree/a".to_owned() } else { format!("out/{n}") };
    let mut tasks = Map::new();
    for n in 0..TASKS {
        let before = n.checked_sub(1).map_or("/dev/null".to_owned(), file);
        let word = if n >= edited { "edited" } else { "first" };
        let make = format!("mkdir -p out/tree && seq {n} 3000 | cat {before} - > {}", file(n));
        let deps: Vec<String> = n.checked_sub(1).map(|n| format!("t{n}")).into_iter().collect();
        tasks.insert(
            format!("t{n}"),
            json!({
                "command": format!("{make} && echo {word} {n}"),
                "inputs": [], "deps": deps, "outputs": [output(n)],
            }),
        );
    }
    json!({ "version": "1", "default": format!("t{}", TASKS - 1), "tasks": tasks })
}

/// How often the agent has decided whom to ask for something.
fn decisions(agent: &Agent) -> usize {
    let all = agent.json(&["why", "--last", "1000"]);
    all.as_array().expect("a list").len()
}

#[test]
fn a_chain_from_afar_comes_in_a_few_fetches_and_each_result_counts_with_its_bytes() {
    let sites = Sites::up("ahead", &["us-east", "eu-central"]);
    let east = sites.agent("us-east", &[]);
    let central = sites.agent("eu-central", &[&east]);
    let built = sites.workspace("us-east", &chain(TASKS));
    built.run(&[]).expect_success();
    let know = |records: u64| {
        wait_until("central knows of it", || {
            central.status()["store"]["records"].as_u64() == Some(records)
        });
    };
    know(TASKS);

    let before = central.counter("data_bytes_fetched");
    let restored = sites.workspace("eu-central", &chain(TASKS));
    let run = restored.run(&[]).expect_success();
    assert_eq!((run.executed(), run.count("/hits/peer")), (0, TASKS), "{}", run.summary);
    let last = format!("out/{}", TASKS - 1);
    assert_eq!(restored.read(&last), built.read(&last));
    // The first lookup, all up to the directory, its listing, and the rest.
    let made = decisions(&central);
    assert!(made <= 6, "{made} fetches for {TASKS} tasks");
    let (told, sent) =
        (run.count("/bytes_fetched"), central.counter("data_bytes_fetched") - before);
    let framed = told.saturating_sub(100 * TASKS)..=told;
    assert!(told > 0 && framed.contains(&sent), "{told} of {sent} bytes");

    // Two tasks that nobody else has edited are made here. They leave what they left before, so
    // those after them come from afar, and those before stand.
    built.write("graph.json", &chain(TASKS - 4).to_string());
    assert_eq!(built.run(&[]).expect_success().executed(), 4);
    know(TASKS + 4);
    restored.write("graph.json", &chain(TASKS - 6).to_string());
    let run = restored.run(&[]).expect_success();
    let came = (run.executed(), run.count("/hits/peer"), run.count("/hits/disk"));
    assert_eq!(came, (2, 4, TASKS - 6), "{}", run.summary);
}

#[test]
fn ctrl_c_does_not_wait_for_what_is_on_its_way() {
    const BYTES: u64 = 30_000_000;
    let sites = Sites::up("ahead-cut", &["us-east", "eu-central"]);
    let east = sites.agent("us-east", &[]);
    let central = sites.agent("eu-central", &[&east]);
    let task = json!({
        "command": format!("head -c {BYTES} /dev/urandom > blob"), "inputs": [], "outputs": ["blob"],
    });
    let graph = json!({ "version": "1", "tasks": { "t": task } });
    sites.workspace("us-east", &graph).run(&[]).expect_success();
    wait_until("central knows of it", || central.status()["store"]["records"] == 1);
    let restored = sites.workspace("eu-central", &graph);
    let running = Running::start(&mut restored.command(&[]));
    wait_until("it is on its way", || central.counter("data_bytes_fetched") > BYTES / 20);
    signal(running.pid(), Signal::INT);
    assert_eq!(running.wait().code(), Some(130));
    assert_eq!(central.status()["store"]["blobs"], 0, "the run waited for all of it");
}
