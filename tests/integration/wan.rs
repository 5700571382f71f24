//! The emulated links do what they say: measured with ping and iperf3, and compared with what the
//! emulator counts itself.

use crate::support::{netbuild, through, wait_until};
use rustix::process::Signal;
use serde_json::Value;
use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

/// The name of an emulation of this test alone.
fn new_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("w{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Ends the test with what to install when something is missing.
#[track_caller]
fn need(tools: &[(&str, &str)]) {
    assert!(rustix::process::geteuid().is_root(), "emulated links need root");
    assert!(Path::new("/dev/net/tun").exists(), "no /dev/net/tun: modprobe tun");
    for (tool, package) in tools {
        let found = Command::new(tool).arg("-V").output().is_ok();
        assert!(found, "no `{tool}`: apt-get install {package}");
    }
}

const IP: (&str, &str) = ("ip", "iproute2");
const PING: (&str, &str) = ("ping", "iputils-ping");
const IPERF: (&str, &str) = ("iperf3", "iperf3");

/// Emulated links; removed when dropped.
struct Wan {
    name: String,
}

impl Wan {
    #[track_caller]
    fn up(args: &[&str]) -> Self {
        let wan = Self { name: new_name() };
        wan.expect("up", &[&["--detach"], args].concat());
        wan
    }

    fn command(&self, command: &str, args: &[&str]) -> Command {
        let mut netbuild = netbuild();
        netbuild.args(["wan", command, "--name", &self.name]).args(args);
        netbuild
    }

    fn try_to(&self, command: &str, args: &[&str]) -> Output {
        self.command(command, args).output().expect("netbuild runs")
    }

    #[track_caller]
    fn expect(&self, command: &str, args: &[&str]) -> String {
        success(self.try_to(command, args))
    }

    /// The error of a command that must fail.
    #[track_caller]
    fn refused(&self, command: &str, args: &[&str]) -> String {
        let output = self.try_to(command, args);
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.expect("status", &["--json"])).expect("JSON")
    }

    /// The sum of a counter over all directions.
    fn count(&self, counter: &str) -> u64 {
        let status = self.status();
        let links = status["links"].as_array().expect("links");
        links.iter().map(|link| link[counter].as_u64().expect("a number")).sum()
    }

    fn exec(&self, site: &str, command: &[&str]) -> Command {
        self.command("exec", &[&[site, "--"], command].concat())
    }

    /// Least round-trip time in milliseconds of some pings, if any came back.
    fn ping(&self, from: &str, to: &str) -> Option<f64> {
        least_rtt(self.exec(from, &["ping", "-q", "-c", "4", "-i", "0.2", "-W", "2", to]))
    }

    fn namespaces(&self) -> usize {
        let all = success(Command::new("ip").args(["netns", "list"]).output().expect("ip runs"));
        all.lines().filter(|line| line.starts_with(&self.name)).count()
    }

    fn kill(&self) {
        let pid = self.status()["pid"].as_u64().expect("a pid");
        crate::support::signal(u32::try_from(pid).expect("a pid"), Signal::KILL);
        wait_until("it is gone", || {
            let output = self.try_to("status", &[]);
            String::from_utf8_lossy(&output.stderr).contains("no emulated links")
        });
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        drop(self.try_to("down", &[]));
    }
}

#[track_caller]
fn success(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Least round-trip time that this ping saw.
fn least_rtt(mut ping: Command) -> Option<f64> {
    let output = ping.output().expect("ping runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let (_, times) = said.split_once("min/avg/max/mdev = ")?;
    times.split('/').next()?.parse().ok()
}

#[track_caller]
fn is_about(rtt: Option<f64>, expected: f64) {
    let rtt = rtt.expect("an answer");
    assert!((expected..=expected * 1.1 + 2.0).contains(&rtt), "{rtt} ms instead of {expected} ms");
}

#[test]
fn round_trips_take_what_the_profile_says() {
    need(&[IP, PING]);
    let profiles = [
        ("rack=datacenter", 0.5),
        ("us-east", 50.0),
        ("us-west", 100.0),
        ("eu-central", 150.0),
        ("ship=satellite", 600.0),
    ];
    let sites = profiles.iter().flat_map(|(site, _)| ["--site", site]);
    let wan = Wan::up(&["--site", "hub=datacenter"].into_iter().chain(sites).collect::<Vec<_>>());
    thread::scope(|scope| {
        for (number, (_, expected)) in profiles.iter().enumerate() {
            let wan = &wan;
            let address = format!("10.77.{}.1", number + 2);
            scope.spawn(move || is_about(wan.ping("hub", &address), *expected));
        }
    });
    assert_eq!(wan.count("dropped_queue") + wan.count("dropped_cut"), 0);
}

/// An iperf3 server that is listening; it ends with its first client.
fn iperf_server(wan: &Wan, site: &str) -> Child {
    let command = ["iperf3", "-s", "-1", "--forceflush"];
    let mut server = wan.exec(site, &command).stdout(Stdio::piped()).spawn().expect("iperf3 runs");
    let said = BufReader::new(server.stdout.as_mut().expect("piped"));
    let listens = said.lines().any(|line| line.expect("a line").contains("listening"));
    assert!(listens, "iperf3 does not listen");
    server
}

/// Mbit/s of one TCP stream by cubic, not counting its first second.
fn tcp_mbit(wan: &Wan, from: &str, to: &str, address: &str) -> f64 {
    let mut server = iperf_server(wan, to);
    let command = ["iperf3", "-c", address, "-C", "cubic", "-O", "1", "-t", "2", "-J"];
    let said = wan.exec(from, &command).output().expect("iperf3 runs");
    drop(server.kill());
    drop(server.wait());
    let report: Value = serde_json::from_slice(&said.stdout).expect("JSON");
    let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
    rate.unwrap_or_else(|| panic!("{report}")) / 1e6
}

#[test]
fn a_stream_gets_the_rate_of_the_profile_and_not_more() {
    need(&[IP, IPERF]);
    let wan = Wan::up(&["--site", "hub=datacenter", "--site", "us-east", "--site", "us-west"]);
    thread::scope(|scope| {
        for (site, address, rate) in
            [("us-east", "10.77.2.1", 100.0), ("us-west", "10.77.3.1", 50.0)]
        {
            let wan = &wan;
            scope.spawn(move || {
                let got = tcp_mbit(wan, "hub", site, address);
                assert!((rate * 0.75..=rate * 1.01).contains(&got), "{site}: {got} Mbit/s");
            });
        }
    });
}

#[test]
fn one_packet_of_a_hundred_is_lost() {
    need(&[IP, PING]);
    let wan = Wan::up(&["--site", "a=lossy", "--site", "b"]);
    // As fast as answers come, up to 200 on their way.
    let ping = ["ping", "-q", "-f", "-l", "200", "-c", "2000", "-W", "2", "10.77.2.1"];
    let said = success(wan.exec("a", &ping).output().expect("ping runs"));
    let status = wan.status();
    let count = |direction: usize, counter: &str| {
        status["links"][direction][counter].as_u64().expect("a number")
    };
    // Whatever was not lost on its way there was answered, and the answer came or was lost.
    let lost = [0, 1].map(|direction| count(direction, "dropped_loss"));
    assert_eq!(count(0, "passed"), 2_000 - lost[0]);
    assert_eq!(count(1, "passed"), count(0, "passed") - lost[1]);
    // 1 % of 2000 there and about as many back; four standard deviations around it.
    let lost = lost[0] + lost[1];
    assert!((15..=65).contains(&lost), "{lost}");
    // A busy machine drops more, when ping does not take its answers in time.
    let received = said.split(" received").next().and_then(|said| said.rsplit(' ').next());
    let received: u64 = received.and_then(|count| count.parse().ok()).expect("a count");
    assert!((1_000..=2_000 - lost).contains(&received), "{lost} lost: {said}");
}

#[test]
fn links_are_changed_cut_and_reset_while_they_are_up() {
    need(&[IP, PING]);
    let wan = Wan::up(&["--site", "a", "--site", "b", "--site", "c", "--link", "a:b=us-east"]);
    is_about(wan.ping("a", "10.77.2.1"), 50.0);
    wan.expect("set", &["b:a", "--profile", "us-west"]);
    is_about(wan.ping("a", "10.77.2.1"), 100.0);
    is_about(wan.ping("a", "10.77.3.1"), 0.5);
    wan.expect("set", &["b", "--profile", "cut"]);
    let ping = ["ping", "-q", "-c", "1", "-W", "1", "10.77.2.1"];
    assert_eq!(least_rtt(wan.exec("a", &ping)), None);
    assert_eq!(wan.count("dropped_cut"), 1);
    is_about(wan.ping("a", "10.77.3.1"), 0.5);
    wan.expect("set", &["--reset"]);
    is_about(wan.ping("a", "10.77.2.1"), 50.0);
    assert!(wan.refused("set", &["d", "--profile", "cut"]).contains("the sites are a, b, c"));
    assert!(wan.refused("set", &["a", "--profile", "moon"]).contains("us-east"));
}

#[test]
fn a_command_runs_in_a_site_and_its_exit_code_comes_back() {
    need(&[IP]);
    let wan = Wan::up(&["--site", "a", "--site", "b"]);
    let shown = success(wan.exec("b", &["ip", "-4", "address"]).output().expect("it runs"));
    assert!(shown.contains("10.77.2.1/24"), "{shown}");
    let code = |site, command: &[&str]| wan.exec(site, command).status().expect("it runs").code();
    assert_eq!(code("a", &["sh", "-c", "exit 7"]), Some(7));
    assert_eq!(code("a", &["no-such-command"]), Some(127));
    assert!(wan.refused("exec", &["c", "--", "true"]).contains("no site `c`"));
}

#[test]
fn what_a_killed_emulator_left_is_removed() {
    need(&[IP]);
    let sites = ["--site", "a", "--site", "b"];
    let wan = Wan::up(&sites);
    let again = wan.refused("up", &sites);
    assert!(again.contains("are up already") && again.contains("hint:"), "{again}");
    wan.kill();
    assert_eq!(wan.namespaces(), 2);
    wan.expect("up", &["--detach", "--site", "c", "--site", "d", "--site", "e"]);
    assert_eq!(wan.namespaces(), 3);
    wan.kill();
    wan.expect("down", &[]);
    assert_eq!(wan.namespaces(), 0);
    assert!(wan.refused("down", &[]).contains("no emulated links"));
    assert!(wan.refused("status", &[]).contains("hint:"));
}

/// Two networks, and a router between them; removed when dropped.
struct Networks {
    name: String,
}

impl Networks {
    fn new() -> Self {
        let networks = Self { name: new_name() };
        let name = &networks.name;
        let mut commands = vec![format!("netns add {name}-r")];
        for (site, third) in [("a", 1), ("b", 2)] {
            commands.extend([
                format!("netns add {name}-{site}"),
                format!(
                    "link add to-{site} netns {name}-r type veth peer name eth netns {name}-{site}"
                ),
                format!("-n {name}-r address add 172.30.{third}.254/24 dev to-{site}"),
                format!("-n {name}-r link set to-{site} up"),
                format!("-n {name}-{site} address add 172.30.{third}.1/24 dev eth"),
                format!("-n {name}-{site} link set eth up"),
                format!("-n {name}-{site} route add default via 172.30.{third}.254"),
            ]);
        }
        for command in commands {
            success(Command::new("ip").args(command.split(' ')).output().expect("ip runs"));
        }
        success(
            networks.at("r", &["sysctl", "-qw", "net.ipv4.ip_forward=1"]).output().expect("runs"),
        );
        networks
    }

    fn at(&self, site: &str, command: &[&str]) -> Command {
        let mut ip = Command::new("ip");
        ip.args(["netns", "exec", &format!("{}-{site}", self.name)]).args(command);
        ip
    }

    fn ping(&self, from: &str, to: &str) -> Option<f64> {
        least_rtt(self.at(from, &["ping", "-q", "-c", "3", "-i", "0.2", "-W", "1", to]))
    }
}

impl Drop for Networks {
    fn drop(&mut self) {
        for site in ["r", "a", "b"] {
            let namespace = format!("{}-{site}", self.name);
            drop(Command::new("ip").args(["netns", "delete", &namespace]).output());
        }
    }
}

#[test]
fn a_router_delays_what_goes_between_real_networks() {
    need(&[IP, PING]);
    let networks = Networks::new();
    let wan = Wan { name: new_name() };
    let router = format!("{}-r", networks.name);
    let sites = ["--site", "a=172.30.1.0/24=us-east", "--site", "b=172.30.2.0/24"];
    let up = wan.command("up", &[&["--detach", "--router"], &sites[..]].concat());
    success(through(&["ip", "netns", "exec", &router], &up).output().expect("it runs"));
    is_about(networks.ping("a", "172.30.2.1"), 50.0);
    // The router itself is at no site.
    is_about(networks.ping("r", "172.30.2.1"), 0.0);
    assert_eq!(wan.count("passed"), 6);
    wan.expect("set", &["a", "--profile", "cut"]);
    assert_eq!(networks.ping("a", "172.30.2.1"), None);
    wan.expect("down", &[]);
    is_about(networks.ping("a", "172.30.2.1"), 0.0);
    let rules = success(networks.at("r", &["ip", "rule"]).output().expect("ip runs"));
    assert_eq!(rules.lines().count(), 3, "{rules}");
    let without = wan.refused("up", &["--router", "--site", "a", "--site", "b"]);
    assert!(without.contains("has no addresses"), "{without}");
}
