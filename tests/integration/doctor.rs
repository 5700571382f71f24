//! `netbuild doctor`: what it finds on a machine, and that it harms nothing there.

use crate::support::{Agent, Place, netbuild, wait_until};
use netbuild_servers::{Redis, Seaweed};
use rustix::process::{Pid, Signal};
use serde_json::Value;
use std::{
    fs,
    net::UdpSocket,
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixDatagram, UnixListener},
    },
    path::Path,
    process::Command,
};

/// What `netbuild doctor --json` said, and its exit code.
struct Checkup {
    code: Option<i32>,
    said: Value,
}

impl Checkup {
    /// With time enough for a machine that is busy with other things.
    fn of(data_dir: &Path, args: &[&str]) -> Self {
        Self::by(netbuild().args(["doctor", "--timeout", "300"]).args(args), data_dir)
    }

    fn by(command: &mut Command, data_dir: &Path) -> Self {
        let output = command.arg("--json").arg("--data-dir").arg(data_dir).output();
        let output = output.expect("netbuild runs");
        let said = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
        });
        Self { code: output.status.code(), said }
    }

    /// The findings of a check.
    fn about(&self, check: &str) -> Vec<&Value> {
        let all = self.said["checks"].as_array().expect("a list").iter();
        let about: Vec<_> = all.filter(|finding| finding["check"] == check).collect();
        assert!(!about.is_empty(), "nothing about {check} in {}", self.said);
        about
    }

    /// One finding has this verdict, says this and is mended so.
    #[track_caller]
    fn expect(&self, check: &str, verdict: &str, says: &str, remedy: &str) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let found = self.about(check).into_iter().any(|finding| {
            finding["verdict"] == verdict
                && text(&finding["says"]).contains(says)
                && text(&finding["remedy"]).contains(remedy)
        });
        assert!(found, "no {verdict} `{says}`, `{remedy}` about {check} in {:#}", self.said);
        assert_eq!(self.code, Some(i32::from(self.said["problems"] != 0)), "{:#}", self.said);
    }
}

#[test]
fn an_agent_with_a_peer_is_well() {
    let place = Place::new();
    let first = Agent::start("us-east", &place.path("a"), &[]);
    let second = Agent::start("eu-central", &place.path("b"), &[&first.ticket]);
    second.wait_for_members(1, 0);
    let found = Checkup::of(&second.data_dir, &[]);
    assert_eq!(found.said["problems"], 0, "{:#}", found.said);
    found.expect("agent", "ok", "region eu-central", "");
    found.expect("peers", "ok", "1 of 1 answer", "");
    found.expect("ports", "ok", "mesh: the agent answers at UDP 127.0.0.1", "");
    found.expect("ports", "ok", "data: the agent answers at UDP 127.0.0.1", "");
    found.expect("ports", "note", "only loopback", "--listen");
    found.expect("data directory", "ok", "", "");
    found.expect("disk", "ok", "synced in", "");
    found.expect("hermeticity", "ok", "loose, env, audit, stage, landlock, ns", "");
    // It was only looked at.
    assert_eq!(second.status()["members"].as_array().map(Vec::len), Some(1));
    assert_eq!(fs::read_dir(second.data_dir.join("tmp")).unwrap().count(), 0);
}

#[test]
fn without_anything_it_says_what_is_there_to_be_had_and_makes_nothing() {
    let place = Place::new();
    let data_dir = place.path("none");
    let found = Checkup::of(&data_dir, &["--listen", "127.0.0.1:0"]);
    assert_eq!(found.code, Some(0), "{:#}", found.said);
    found.expect("agent", "note", "none runs", "netbuild-agent --detach");
    found.expect("data directory", "note", "the first command makes it", "");
    found.expect("ports", "note", "any free port of 127.0.0.1", "data_port");
    assert!(!data_dir.exists());
}

#[test]
fn a_member_is_reached_before_it_is_joined_and_a_wrong_ticket_is_told() {
    let place = Place::new();
    let mut member = Agent::start("us-east", &place.path("a"), &[]);
    let nobody = place.path("b");
    let found = Checkup::of(&nobody, &["--join", &member.ticket]);
    found.expect("join", "ok", "the member answers at UDP 127.0.0.1", "");
    assert!(!nobody.exists());

    let other = Agent::start("us-west", &place.path("c"), &[]);
    let found = Checkup::of(&other.data_dir, &["--join", &member.ticket]);
    found.expect("join", "problem", "another mesh", "mesh.key");

    // Somebody else at the address is not the member.
    let port = member.status()["mesh_addresses"][0].as_str().unwrap().to_owned();
    let at = other.status()["mesh_addresses"][0].as_str().unwrap().to_owned();
    let wrong = format!(
        "{}/p2p/{}",
        at.split("/p2p/").next().unwrap(),
        port.split("/p2p/").nth(1).unwrap()
    );
    let found = Checkup::of(&other.data_dir, &["--join", &wrong]);
    found.expect("join", "problem", "another agent answers", "netbuild doctor");

    member.kill();
    let mut command = netbuild();
    let found =
        Checkup::by(command.args(["doctor", "--timeout", "20", "--join", &member.ticket]), &nobody);
    found.expect("join", "problem", "UDP 127.0.0.1", "is let in there");
}

#[test]
fn a_directory_that_cannot_be_used_is_a_problem_for_who_is_not_root() {
    let place = Place::new();
    let theirs = place.path("theirs");
    fs::create_dir(&theirs).unwrap();
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o755)).unwrap();
    // The test itself may be root, whom nothing is refused.
    fs::set_permissions(place.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let program = place.path("netbuild");
    fs::copy(env!("CARGO_BIN_EXE_netbuild"), &program).unwrap();
    let of_nobody = |data_dir: &Path| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.env_clear().env("PATH", "/usr/bin:/bin");
        Checkup::by(command.arg(&program).args(["doctor", "--timeout", "300"]), data_dir)
    };
    let found = of_nobody(&theirs);
    found.expect("data directory", "problem", "belongs to user 0", "chown -R 65534");
    let found = of_nobody(&theirs.join("below"));
    found.expect("data directory", "problem", "cannot be made", "--data-dir");

    let file = place.path("file");
    fs::write(&file, "").unwrap();
    Checkup::of(&file, &[]).expect("data directory", "problem", "no directory", "--data-dir");
    let foreign = place.path("foreign");
    fs::create_dir_all(foreign.join("blobs")).unwrap();
    Checkup::of(&foreign, &[]).expect("data directory", "problem", "not a netbuild", "--data-dir");
}

#[test]
fn a_configuration_that_is_wrong_does_not_keep_it_from_the_rest() {
    let place = Place::new();
    let config = place.path("my.toml");
    fs::write(&config, "[agent]\nregoin = \"x\"\n").unwrap();
    let found = Checkup::of(&place.path("data"), &["--config", config.to_str().unwrap()]);
    found.expect("configuration", "problem", "regoin", "mend");
    found.expect("clock", "ok", "", "");
    found.expect("hermeticity", "ok", "stage", "");
}

#[test]
fn an_address_that_somebody_has_is_named() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let place = Place::new();
    let found = Checkup::of(&place.path("data"), &["--listen", &address]);
    found.expect("ports", "problem", "Address already in use", "ss -ulpn");
}

#[test]
fn an_agent_that_hangs_or_babbles_holds_nobody_up() {
    let place = Place::new();
    let agent = Agent::start("us-east", &place.path("a"), &[]);
    let pid = agent.status()["pid"].as_i64().unwrap();
    let pid = Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, Signal::STOP).unwrap();
    let found = Checkup::by(netbuild().arg("doctor"), &agent.data_dir);
    rustix::process::kill_process(pid, Signal::CONT).unwrap();
    found.expect("agent", "warning", "no answer within 3.0 s", "hangs");

    let babbling = place.path("b");
    fs::create_dir(&babbling).unwrap();
    let socket = UnixListener::bind(babbling.join("control.sock")).unwrap();
    let talker = std::thread::spawn(move || {
        let (mut stream, _) = socket.accept().unwrap();
        drop(std::io::Write::write_all(&mut stream, &[0xff; 4096]));
    });
    let found = Checkup::of(&babbling, &[]);
    talker.join().unwrap();
    assert!(["note", "problem"].map(Value::from).contains(&found.about("agent")[0]["verdict"]));
}

#[test]
fn whoever_holds_the_directory_and_serves_nothing_is_named() {
    let place = Place::new();
    let mut agent = Agent::start("us-east", &place.path("a"), &[]);
    fs::remove_file(agent.data_dir.join("control.sock")).unwrap();
    let found = Checkup::of(&agent.data_dir, &[]);
    found.expect("agent", "problem", "agent (pid", "end that process");
    agent.kill();
    Checkup::of(&agent.data_dir, &[]).expect("agent", "note", "none runs", "");
}

#[test]
fn tiers_are_tried_and_keep_nothing_of_it() {
    let (redis, bucket) = (Redis::start(&[]), Seaweed::start());
    let place = Place::new();
    let chain = format!("{}+s3://netbuild?endpoint={}", redis.url(), bucket.endpoint());
    let with = |secret: &str| {
        let mut command = netbuild();
        command.args(["doctor", "--timeout", "300", "--backend", &chain]);
        command.env("AWS_ACCESS_KEY_ID", netbuild_servers::KEY);
        command.env("AWS_SECRET_ACCESS_KEY", secret);
        Checkup::by(&mut command, &place.path("data"))
    };
    let found = with(netbuild_servers::SECRET);
    found.expect("tier", "ok", "redis://127.0.0.1", "");
    found.expect("tier", "ok", "lets read, write and delete", "");
    assert_eq!(found.about("tier").len(), 2, "{:#}", found.said);
    let found = with("wrong");
    found.expect("tier", "problem", "refused", "AWS_ACCESS_KEY_ID");
    let keys = redis.cli(&["KEYS", "*"]);
    assert_eq!(keys.trim(), "");
    drop((redis, bucket));
    let found = with(netbuild_servers::SECRET);
    found.expect("tier", "problem", "redis://127.0.0.1", "host and port");
}

#[test]
fn an_agent_tells_its_supervisor_that_it_serves() {
    let place = Place::new();
    let path = place.path("notify");
    let supervisor = UnixDatagram::bind(&path).unwrap();
    supervisor.set_nonblocking(true).unwrap();
    let data_dir = place.path("data");
    let mut command = crate::support::netbuild_agent();
    command.args(["--listen", "127.0.0.1:0", "--data-dir"]).arg(&data_dir);
    command.env("NOTIFY_SOCKET", &path);
    let agent = Agent::spawn(command, &data_dir);
    let mut heard = [0; 512];
    let mut text = String::new();
    wait_until("it has said so", || match supervisor.recv(&mut heard) {
        Ok(length) => {
            text = String::from_utf8_lossy(&heard[..length]).into_owned();
            true
        }
        Err(_) => false,
    });
    assert!(text.starts_with("READY=1\nSTATUS=serves at UDP 127.0.0.1:"), "{text}");
    drop(agent);
}
