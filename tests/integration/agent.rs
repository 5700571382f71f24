//! The life of an agent and of its data directory, and what is said when something is wrong.

use crate::{
    sample::{NOWHERE, TASKS, Tree, built, sample},
    support::{
        Agent, Place, Run, Running, Workspace, netbuild, netbuild_agent, refused, signal,
        wait_until,
    },
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    fs,
    net::UdpSocket,
    path::Path,
    process::{Command, Stdio},
};

/// A graph whose first task says `started` and then waits for the file `go`, and whose second
/// needs it.
fn waiting(place: &Place, name: &str) -> Workspace {
    let wait = "echo x > started; while ! [ -e go ]; do sleep 0.02; done; echo first > first";
    let graph = json!({
        "version": "1",
        "tasks": {
            "first": { "command": wait, "inputs": [], "outputs": ["first"] },
            "second": { "command": "cat first > second", "deps": ["first"], "inputs": [], "outputs": ["second"] },
        }
    });
    place.workspace(name, &graph, &[])
}

/// Starts a run of [`waiting`] and returns when its first task is under way.
fn started(workspace: &Workspace) -> Running {
    let running = Running::start(workspace.command(&["second"]).arg("--json"));
    wait_until("the first task runs", || workspace.exists("started"));
    running
}

fn agent_command(data_dir: &Path, args: &[&str]) -> Command {
    let mut command = netbuild_agent();
    command.arg("--data-dir").arg(data_dir).args(["--listen", "127.0.0.1:0"]).args(args);
    command
}

fn netbuild_on(data_dir: &Path, args: &[&str]) -> Command {
    let mut command = netbuild();
    command.args(args).arg("--data-dir").arg(data_dir);
    command
}

/// Ends the test unless the command refuses with exit code 2, one line that says all of this, and
/// leaves no panic or trace.
#[track_caller]
fn expect_usage_error(command: &mut Command, said: &[&str]) {
    let run = refused(command);
    assert_eq!(run.code(), Some(2), "{command:?}: {}", run.stderr);
    for part in said {
        assert!(run.stderr.contains(part), "{command:?} does not say {part:?}: {}", run.stderr);
    }
    assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
}

#[test]
fn an_agent_ends_in_order_and_keeps_what_it_was_given() {
    let place = Place::new();
    let workspace = sample(&place, "here");
    for end in [Signal::TERM, Signal::INT] {
        let mut agent = workspace.agent("us-east", &[]);
        workspace.forget_outputs();
        workspace.run(&[]).expect_success();
        assert!(agent.end(end).success());
        assert!(!workspace.data_dir.join("control.sock").exists());
    }
    // No agent any more, and nothing to build.
    workspace.forget_outputs();
    assert_eq!(workspace.run(&[]).expect_success().executed(), 0);
}

#[test]
fn a_run_survives_the_crash_of_its_agent_and_then_owns_the_data_directory() {
    let place = Place::new();
    let workspace = waiting(&place, "here");
    let mut agent = workspace.agent("us-east", &[]);
    workspace.write("kept", "");
    let run = started(&workspace);
    agent.kill();
    workspace.write("go", "");
    let run = run.wait().expect_success();
    assert_eq!(run.executed(), 2, "{}", run.summary);
    assert_eq!(workspace.read("second"), "first\n");

    // Both results were kept, by the run itself: nothing waits for `go`, which is gone.
    for path in ["go", "first", "second", ".netbuild"] {
        workspace.remove(path);
    }
    let again = workspace.run(&["second"]).expect_success();
    assert_eq!((again.executed(), again.count("/hits/disk")), (0, 2), "{}", again.summary);
    let mut status = netbuild_on(&workspace.data_dir, &["status", "--json"]);
    assert_eq!(Run::of(&mut status).summary["agent"], json!(false));
}

#[test]
fn a_second_agent_on_a_data_directory_names_the_first() {
    let place = Place::new();
    let data_dir = place.path("data");
    let agent = Agent::start("us-east", &data_dir, &[]);
    let pid = agent.status()["pid"].to_string();
    expect_usage_error(
        &mut agent_command(&data_dir, &[]),
        &["netbuild-agent", &pid, "hint: ", "--data-dir"],
    );
    // The first one is none the worse for it.
    assert_eq!(agent.status()["pid"].to_string(), pid);
}

#[test]
fn of_many_agents_that_start_at_once_one_serves_and_the_others_name_it() {
    let place = Place::new();
    let data_dir = place.path("data");
    // A lock file of one that was killed says nothing.
    let mut killed = Agent::start("us-east", &data_dir, &[]);
    let stale = killed.status()["pid"].to_string();
    killed.kill();
    let log = Agent::log(&data_dir);
    let start = |n: usize| {
        let said = fs::File::create(log.with_extension(n.to_string())).expect("a file");
        let mut command = agent_command(&data_dir, &[]);
        command.stdout(Stdio::null()).stderr(said).spawn().expect("netbuild-agent starts")
    };
    let mut agents: Vec<_> = (0..10).map(start).collect();
    let mut ended = vec![None; 10];
    wait_until("all but one have ended", || {
        for (agent, ended) in agents.iter_mut().zip(&mut ended) {
            *ended = ended.or_else(|| agent.try_wait().expect("a child"));
        }
        ended.iter().flatten().count() >= 9
    });
    let serving = ended.iter().position(Option::is_none).expect("one serves");
    let pid = agents[serving].id().to_string();
    for (n, ended) in ended.iter().enumerate().filter(|(n, _)| *n != serving) {
        let said = fs::read_to_string(log.with_extension(n.to_string())).expect("a log");
        assert_eq!(ended.and_then(|ended| ended.code()), Some(2), "{said}");
        assert!(said.contains("in use by") && said.contains("hint: "), "{said}");
        assert!(!said.contains(&format!("pid {stale})")), "{said}");
    }
    wait_until("it serves", || {
        let status = netbuild_on(&data_dir, &["status", "--json"]).output().expect("netbuild runs");
        String::from_utf8_lossy(&status.stdout).contains(&format!("\"pid\":{pid}"))
    });
    for agent in &mut agents {
        drop(agent.kill());
        drop(agent.wait());
    }
}

#[test]
fn a_run_goes_through_the_agent_of_its_data_directory() {
    let place = Place::new();
    let workspace = sample(&place, "here");
    let agent = workspace.agent("us-east", &[]);
    assert_eq!(agent.status()["store"]["records"], 0);
    assert_eq!(workspace.run(&[]).expect_success().executed(), TASKS);
    assert_eq!(agent.status()["store"]["records"], json!(TASKS));
    workspace.forget_outputs();
    assert_eq!(workspace.run(&[]).expect_success().executed(), 0);
}

#[test]
fn two_runs_at_once_share_a_data_directory_without_an_agent() {
    let place = Place::new();
    let first = waiting(&place, "first");
    let second = waiting(&place, "second").with_data_dir(&first.data_dir);
    let (one, two) = (started(&first), started(&second));
    first.write("go", "");
    assert_eq!(one.wait().expect_success().executed(), 2);
    second.write("go", "");
    // Its second task is what the other run did meanwhile, although that has ended.
    let two = two.wait().expect_success();
    assert_eq!((two.executed(), two.count("/hits/disk")), (1, 1), "{}", two.summary);
    let third = waiting(&place, "third").with_data_dir(&first.data_dir);
    let run = third.run(&["second"]).expect_success();
    assert_eq!((run.executed(), run.count("/hits/disk")), (0, 2), "{}", run.summary);
}

#[test]
fn a_run_uses_what_another_run_that_still_goes_on_has_put() {
    let place = Place::new();
    let first = waiting(&place, "first");
    let running = started(&first);
    let second = sample(&place, "second").with_data_dir(&first.data_dir);
    assert_eq!(second.run(&[]).expect_success().executed(), TASKS);
    second.forget_outputs();
    assert_eq!(second.run(&[]).expect_success().executed(), 0);
    first.write("go", "");
    running.wait().expect_success();
    second.forget_outputs();
    assert_eq!(second.run(&[]).expect_success().executed(), 0);
}

#[test]
fn an_agent_waits_for_a_run_that_owns_its_data_directory_and_then_serves() {
    let place = Place::new();
    let workspace = waiting(&place, "here");
    let run = started(&workspace);
    let command = agent_command(&workspace.data_dir, &[]);
    let agent = std::thread::scope(|scope| {
        let agent = scope.spawn(|| Agent::spawn(command, &workspace.data_dir));
        wait_until("the agent says that it waits", || {
            let log = fs::read_to_string(Agent::log(&workspace.data_dir));
            log.unwrap_or_default().contains(&format!("pid {}", run.pid()))
        });
        workspace.write("go", "");
        run.wait().expect_success();
        agent.join().expect("the agent serves")
    });
    assert_eq!(agent.status()["store"]["records"], 2);
}

#[test]
fn a_port_in_use_is_named() {
    let place = Place::new();
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = taken.local_addr().expect("an address").to_string();
    let mut command = netbuild_agent();
    command.arg("--data-dir").arg(place.path("data")).args(["--listen", &address]);
    expect_usage_error(&mut command, &[&address, "in use", "hint: ", "--listen"]);

    let config = place.path("mesh.toml");
    let port = taken.local_addr().expect("an address").port();
    fs::write(&config, format!("[agent]\ndata_port = {port}\n")).expect("a file");
    let mut command = agent_command(&place.path("data"), &["--config"]);
    expect_usage_error(command.arg(&config), &[&address, "in use", "data_port"]);
}

#[test]
fn a_configuration_that_cannot_be_used_is_explained_and_changes_nothing() {
    let place = Place::new();
    let data_dir = place.path("data");
    let files = [
        ("[agent]\nregoin = \"x\"\n", &["line 2", "regoin", "`region`"] as &[&str]),
        ("[agent]\nregion = \"us east\"\n", &["agent.region", "us east", "letters"]),
        ("[agent]\nlisten = \"localhost\"\n", &["agent.listen", "localhost", "ADDRESS:PORT"]),
        ("[agent]\ndata_port = 70000\n", &["line 2", "70000"]),
        ("[mesh]\npeers = [\"12D3KooWnonsense\"]\n", &["mesh.peers"]),
        ("[mesh]\njoin = [\"nowhere\"]\n", &["mesh.join", "nowhere"]),
        ("[agent\n", &["line 1"]),
        ("[agent]\nregion = \"a\"\nregion = \"b\"\n", &["line 3", "region"]),
    ];
    for (index, (text, said)) in files.iter().enumerate() {
        let name = format!("bad-{index}.toml");
        let config = place.path(&name);
        fs::write(&config, text).expect("a file");
        let said: Vec<_> = said.iter().copied().chain([name.as_str()]).collect();
        let mut agent = netbuild_agent();
        agent.arg("--data-dir").arg(&data_dir).arg("--config").arg(&config);
        expect_usage_error(&mut agent, &said);
        let mut status = netbuild_on(&data_dir, &["status"]);
        expect_usage_error(status.env("NETBUILD_CONFIG", &config), &said);
    }
    let flags: [(&[&str], &[&str]); 6] = [
        (&["--region", "us east"], &["--region", "us east"]),
        (&["--join", "netbuild-nonsense"], &["--join", "`netbuild-nonsense`", "ticket"]),
        (&["--join", "netbuild1abcdef"], &["--join", "damaged"]),
        (&["--join", "/ip4/127.0.0.1/tcp/1"], &["--join", "/quic-v1"]),
        (&["--join", "/dns4/seed.example/udp/1/quic-v1"], &["--join", "host name"]),
        (&["--config", "/nowhere/mesh.toml"], &["/nowhere/mesh.toml", "No such file"]),
    ];
    for (args, said) in flags {
        expect_usage_error(&mut agent_command(&data_dir, args), said);
    }
    let mut directory = agent_command(&data_dir, &["--config"]);
    expect_usage_error(directory.arg(place.path("")), &["cannot read the configuration"]);
    assert!(!data_dir.exists());
}

#[test]
fn a_data_directory_of_a_newer_netbuild_is_left_as_it_is() {
    let place = Place::new();
    let (workspace, _) = built(&place, "here");
    let format = workspace.data_dir.join("format");
    let file = place.path("file");
    fs::write(&file, "content").expect("a file");
    for (content, said) in [("netbuild data 999\n", "999"), ("something else\n", "format")] {
        fs::write(&format, content).expect("a file");
        let before = Tree::of(&workspace.data_dir);
        let file = file.to_string_lossy();
        let put = ["put", file.as_ref()];
        let commands: [&[&str]; 5] = [&put, &["get", NOWHERE], &["status"], &["ticket"], &["stop"]];
        for args in commands {
            expect_usage_error(&mut netbuild_on(&workspace.data_dir, args), &[said, "hint: "]);
        }
        expect_usage_error(&mut agent_command(&workspace.data_dir, &[]), &[said, "hint: "]);
        expect_usage_error(&mut workspace.command(&[]), &[said, "hint: "]);
        before.expect_same(&Tree::of(&workspace.data_dir));
    }
}

#[test]
fn a_directory_of_something_else_is_not_taken_for_a_data_directory() {
    let place = Place::new();
    let data_dir = place.path("home");
    fs::create_dir_all(data_dir.join("tmp/precious")).expect("a directory");
    let before = Tree::of(&data_dir);
    expect_usage_error(&mut agent_command(&data_dir, &[]), &["tmp", "hint: "]);
    expect_usage_error(&mut netbuild_on(&data_dir, &["status"]), &["tmp", "hint: "]);
    before.expect_same(&Tree::of(&data_dir));
}

#[test]
fn a_damaged_key_is_named_and_kept() {
    let place = Place::new();
    let data_dir = place.path("data");
    assert!(Agent::start("us-east", &data_dir, &[]).stop().success());
    for name in ["mesh.key", "identity.key"] {
        let path = data_dir.join(name);
        let key = fs::read(&path).expect("a key");
        fs::write(&path, &key[..20]).expect("a file");
        expect_usage_error(&mut agent_command(&data_dir, &[]), &[name, "64 hexadecimal digits"]);
        assert_eq!(fs::read(&path).expect("a key"), &key[..20]);
        fs::write(&path, &key).expect("a file");
    }
}

#[test]
fn status_tells_what_there_is_with_an_agent_and_without() {
    let place = Place::new();
    let workspace = sample(&place, "here");
    let said = |args: &[&str]| {
        let output = netbuild_on(&workspace.data_dir, args).output().expect("netbuild runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    // Nothing was made yet, and asking does not make it.
    assert_eq!(said(&["status"]).0, Some(1));
    assert!(!workspace.data_dir.exists());

    workspace.run(&[]).expect_success();
    let (code, text) = said(&["status"]);
    assert_eq!(code, Some(0));
    assert!(text.contains("not running") && text.contains(&format!("{TASKS} records")), "{text}");
    let json: Value = serde_json::from_str(&said(&["status", "--json"]).1).expect("JSON");
    assert_eq!((&json["agent"], &json["pid"]), (&json!(false), &Value::Null));
    assert_eq!(said(&["ticket"]).0, Some(1));

    let agent = workspace.agent("us-east", &[]);
    let (code, text) = said(&["status"]);
    assert_eq!(code, Some(0));
    assert!(text.contains("running, pid") && text.contains("us-east"), "{text}");
    let status = agent.status();
    assert_eq!((&status["agent"], &status["region"]), (&json!(true), &json!("us-east")));
    assert_eq!(status["store"]["records"], json!(TASKS));
    assert_eq!(status["peer"], json["peer"]);
    assert_eq!(said(&["ticket"]), (Some(0), format!("{}\n", agent.ticket)));
}

#[test]
fn the_one_program_is_the_other_by_its_name() {
    let place = Place::new();
    let (data_dir, link) = (place.path("data"), place.path("netbuild-agent"));
    std::os::unix::fs::symlink(netbuild().get_program(), &link).expect("a link");
    let mut agent = Command::new(&link);
    agent.env_clear().arg("--data-dir").arg(&data_dir);
    agent.args(["--listen", "127.0.0.1:0", "--detach"]);
    // Its log goes on; only its first line is waited for.
    let ticket = agent.stderr(Stdio::null()).output().expect("it runs").stdout;
    let stop = || netbuild_on(&data_dir, &["stop"]).status().expect("netbuild runs");
    let told = netbuild_on(&data_dir, &["ticket"]).output().expect("netbuild runs").stdout;
    assert!(stop().success());
    assert!(!ticket.is_empty());
    assert_eq!(ticket, told);
}

#[test]
fn help_and_completions_are_there() {
    let commands = ["run", "status", "put", "get", "ticket", "completions"];
    let help = netbuild().arg("--help").output().expect("netbuild runs");
    let text = String::from_utf8_lossy(&help.stdout).into_owned();
    assert!(help.status.success() && commands.iter().all(|name| text.contains(name)), "{text}");
    for command in commands {
        let help = netbuild().args([command, "--help"]).output().expect("netbuild runs");
        assert!(help.status.success() && !help.stdout.is_empty());
    }
    let help = netbuild_agent().arg("--help").output().expect("netbuild-agent runs");
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("--join"));
    for shell in ["bash", "zsh", "fish"] {
        let script = netbuild().args(["completions", shell]).output().expect("netbuild runs");
        assert!(script.status.success());
        assert!(String::from_utf8_lossy(&script.stdout).contains("data-dir"));
    }
    expect_usage_error(netbuild().arg("biuld"), &["biuld", "Usage"]);
}

/// A signal to a run, for the sake of what it was writing.
#[test]
fn a_killed_run_leaves_a_data_directory_that_the_next_one_uses() {
    let place = Place::new();
    let workspace = waiting(&place, "here");
    let run = started(&workspace);
    signal(run.pid(), Signal::KILL);
    assert!(!run.wait().status.success());
    workspace.write("go", "");
    assert_eq!(workspace.run(&["second"]).expect_success().executed(), 2);
}
