//! Sites with emulated links between them, and agents in these sites.

use crate::support::{Agent, Place, Workspace, netbuild, netbuild_agent, through, wait_until};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// The sites of the profiles of regions, and one that is as far from each as its profile says.
pub(crate) const REGIONS: [&str; 4] = ["us-east", "us-west", "eu-central", "office=datacenter"];

/// Sites that are up until this is dropped.
pub(crate) struct Sites {
    name: String,
    pub(crate) place: Place,
    addresses: BTreeMap<String, String>,
}

impl Sites {
    /// Makes sites. `test` must be another one in each test.
    #[track_caller]
    pub(crate) fn up(test: &str, sites: &[&str]) -> Self {
        assert!(rustix::process::geteuid().is_root(), "emulated links need root");
        assert!(Path::new("/dev/net/tun").exists(), "no /dev/net/tun: modprobe tun");
        let name = format!("{test}-{}", std::process::id());
        let mut sites_up = Self { name, place: Place::new(), addresses: BTreeMap::new() };
        let mut up = vec!["up", "--detach"];
        for site in sites {
            up.extend(["--site", site]);
        }
        sites_up.wan(&up);
        let status: Value =
            serde_json::from_str(&sites_up.wan(&["status", "--json"])).expect("JSON");
        let site = |site: &Value| {
            let text = |key: &str| site[key].as_str().expect("a text").to_owned();
            (text("name"), text("address"))
        };
        let list = status["sites"].as_array().expect("sites");
        sites_up.addresses = list.iter().map(site).collect();
        sites_up
    }

    fn wan(&self, args: &[&str]) -> String {
        let mut command = netbuild();
        command.arg("wan").arg(args[0]).args(["--name", &self.name]).args(&args[1..]);
        said(&mut command)
    }

    /// Bytes of all packets that have left one site for another and arrived.
    pub(crate) fn crossed(&self, from: &str, to: &str) -> u64 {
        let status: Value = serde_json::from_str(&self.wan(&["status", "--json"])).expect("JSON");
        let links = status["links"].as_array().expect("links");
        let link = links.iter().find(|link| link["from"] == from && link["to"] == to);
        link.expect("a link")["passed_bytes"].as_u64().expect("a number")
    }

    /// Gives a link, or all links of a site, another profile.
    pub(crate) fn set(&self, target: &str, profile: &str) {
        self.wan(&["set", target, "--profile", profile]);
    }

    /// Gives a link, or all links of a site, the profile that it began with.
    pub(crate) fn reset(&self, target: &str) {
        self.wan(&["set", target, "--reset"]);
    }

    /// Starts an agent in a site, whose name is its region.
    pub(crate) fn agent(&self, site: &str, join: &[&Agent]) -> Agent {
        self.agent_of(site, site, &["--region", site], "", join)
    }

    /// Starts an agent in a site with arguments and a configuration, its data directory called
    /// `name`, and waits until it knows those whom it joins.
    pub(crate) fn agent_of(
        &self,
        site: &str,
        name: &str,
        args: &[&str],
        config: &str,
        join: &[&Agent],
    ) -> Agent {
        let data_dir = self.data_dir(name);
        let file = data_dir.with_extension("toml");
        fs::write(&file, config).expect("a file");
        let mut command = netbuild_agent();
        command.arg("--data-dir").arg(&data_dir).arg("--config").arg(&file).args(args);
        command.args(["--listen", &format!("{}:0", self.addresses[site])]);
        for member in join {
            command.args(["--join", &member.ticket]);
        }
        let program = env!("CARGO_BIN_EXE_netbuild");
        let inside = [program, "wan", "exec", "--name", &self.name, site, "--"];
        let agent = Agent::spawn(through(&inside, &command), &data_dir);
        wait_until("it has met those whom it joins", || {
            let members = agent.members();
            members.iter().filter(|m| m.is_connected() && m.is_measured()).count() >= join.len()
        });
        agent
    }

    fn data_dir(&self, name: &str) -> PathBuf {
        self.place.path(&format!("{name}.data"))
    }

    /// A workspace that is run with the data directory of an agent.
    pub(crate) fn workspace(&self, agent: &str, graph: &Value) -> Workspace {
        self.place.workspace(agent, graph, &[])
    }

    /// A file of so many bytes that nothing compresses, put into the stores of agents; its digest.
    pub(crate) fn put(&self, bytes: usize, holders: &[&Agent]) -> String {
        let file = self.place.path(&format!("{bytes}.blob"));
        fs::write(&file, noise(bytes)).expect("a file");
        let path = file.to_str().expect("UTF-8");
        let digests = holders.iter().map(|agent| agent.ask(&["put", path]).trim().to_owned());
        let digests: Vec<String> = digests.collect();
        assert!(digests.windows(2).all(|pair| pair[0] == pair[1]));
        digests[0].clone()
    }

    /// What [`Sites::put`] put.
    pub(crate) fn is_blob(&self, bytes: usize, got: &Path) -> bool {
        fs::read(got).expect("a file") == noise(bytes)
    }
}

impl Drop for Sites {
    fn drop(&mut self) {
        let mut down = netbuild();
        drop(down.args(["wan", "down", "--name", &self.name]).output());
    }
}

/// Bytes without any pattern, always the same (xorshift64).
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut noise: Vec<u8> = (0..bytes.div_ceil(8)).flat_map(|_| next()).collect();
    noise.truncate(bytes);
    noise
}

fn said(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("netbuild runs");
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("UTF-8")
}

/// Another agent as an agent sees it.
pub(crate) struct Member(Value);

impl Member {
    pub(crate) fn region(&self) -> &str {
        self.0["region"].as_str().expect("a region")
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.0["connected"] == json!(true)
    }

    fn is_measured(&self) -> bool {
        self.0["rtt_ms"].is_number()
    }
}

impl Agent {
    /// What a command says about this agent, or does with it.
    pub(crate) fn ask(&self, args: &[&str]) -> String {
        said(&mut self.command(args))
    }

    /// A command for this agent, not started yet.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = netbuild();
        command.arg(args[0]).arg("--data-dir").arg(&self.data_dir).args(&args[1..]);
        command
    }

    /// The same as JSON.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = args.iter().chain(&["--json"]).copied().collect();
        serde_json::from_str(&self.ask(&args)).expect("JSON")
    }

    pub(crate) fn members(&self) -> Vec<Member> {
        self.status()["members"].as_array().expect("a list").iter().cloned().map(Member).collect()
    }

    pub(crate) fn primary(&self) -> String {
        self.status()["primary"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.status()["counters"][name].as_u64().expect("a counter")
    }

    /// Why what was fetched last came from where it came from.
    pub(crate) fn why(&self, about: &str) -> Decision {
        Decision(self.json(&["why", about, "--last", "1"])[0].clone())
    }
}

/// A decision that an agent remembers.
#[derive(Debug)]
pub(crate) struct Decision(Value);

impl Decision {
    pub(crate) fn outcome(&self) -> &str {
        self.0["outcome"].as_str().expect("an outcome")
    }

    /// The region, outcome and bytes of each source that was asked, or passed over.
    pub(crate) fn attempts(&self) -> Vec<Attempt> {
        let attempt = |attempt: &Value| Attempt {
            region: attempt["region"].as_str().expect("a region").to_owned(),
            outcome: attempt["outcome"].as_str().expect("an outcome").to_owned(),
            reason: attempt["reason"].as_str().expect("a reason").to_owned(),
            predicted_s: attempt["predicted_s"].as_f64(),
            actual_s: attempt["actual_s"].as_f64(),
            bytes: attempt["bytes"].as_u64().expect("bytes"),
        };
        self.0["attempts"].as_array().expect("attempts").iter().map(attempt).collect()
    }

    /// The one that gave what was wanted.
    #[track_caller]
    pub(crate) fn fetched_from(&self) -> Attempt {
        let fetched = self.attempts().into_iter().find(|attempt| attempt.outcome == "fetched");
        fetched.unwrap_or_else(|| panic!("{self:?}"))
    }
}

/// A source of a decision.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) region: String,
    pub(crate) outcome: String,
    pub(crate) reason: String,
    pub(crate) predicted_s: Option<f64>,
    pub(crate) actual_s: Option<f64>,
    pub(crate) bytes: u64,
}
