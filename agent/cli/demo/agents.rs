//! The agents of a demo, and the machines that build beside them.

use super::{
    links::Links,
    place::Place,
    processes::{LOOK, Process, Ran, Runner, command},
};
use crate::{commands::executable, errors::CliError};
use netbuild_core::cache::CacheError;
use netbuild_gateway::{SocketCache, socket_path};
use netbuild_proto::control::{LinkRow, LinkSource, PeerState, Rows, Status};
use rustix::process::Signal;
use serde_json::Value;
use std::{
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

/// The program that is an agent when it is called by this name.
pub(super) const AGENT: &str = "netbuild-agent";

/// A site with an agent, whose name is its region, and a workspace of its own.
pub(crate) struct Agent {
    pub(crate) site: &'static str,
    pub(crate) data_dir: PathBuf,
    pub(crate) workspace: PathBuf,
    config: PathBuf,
    ticket: String,
    process: Process,
}

/// What agents are started and asked with.
pub(crate) struct World<'a> {
    pub(crate) place: &'a Place,
    pub(crate) links: &'a Links,
    pub(crate) runner: &'a Runner,
    /// Commands that were run.
    pub(crate) count: AtomicUsize,
}

impl World<'_> {
    /// Starts an agent at a site and waits until it serves. `config` is added to its mesh.toml.
    pub(crate) fn agent(
        &self,
        site: &'static str,
        config: &str,
        join: &[&Agent],
    ) -> Result<Agent, CliError> {
        let data_dir = self.place.join(site);
        let file = self.place.join(&format!("{site}.toml"));
        let port = self.links.listening(site)?.data_port;
        // Members are named, so that no agent of somebody else takes part.
        let text = format!(
            "[agent]\ndata_port = {port}\n[mesh]\nmdns = false\n[store]\nscrub = \"off\"\n{config}"
        );
        fs::write(&file, text).map_err(|error| CliError::io("write", &file, &error))?;
        let (process, ticket) = self.start(site, &data_dir, &file, join)?;
        let workspace = self.place.join(&format!("{site}.workspace"));
        Ok(Agent { site, data_dir, workspace, config: file, ticket, process })
    }

    /// Starts an agent again that was killed.
    pub(crate) fn start_again(&self, agent: &mut Agent, join: &[&Agent]) -> Result<(), CliError> {
        let started = self.start(agent.site, &agent.data_dir, &agent.config, join)?;
        (agent.process, agent.ticket) = started;
        Ok(())
    }

    fn start(
        &self,
        site: &str,
        data_dir: &Path,
        config: &Path,
        join: &[&Agent],
    ) -> Result<(Process, String), CliError> {
        let listening = self.links.listening(site)?;
        let mut command = self.links.command_at(site, &self.place.join(AGENT))?;
        command.args(["--region", site, "--listen", &listening.listen]);
        command.arg("--data-dir").arg(data_dir).arg("--config").arg(config);
        if let Some(address) = &listening.announce {
            command.args(["--announce", address]);
        }
        for member in join {
            command.args(["--join", &member.ticket]);
        }
        let log = self.place.join(&format!("{site}.log"));
        let mut process = Process::start(command.stdout(Stdio::piped()), &log, Signal::TERM)?;
        let mut ticket = String::new();
        if let Some(stdout) = process.child().stdout.take() {
            // An end without a word is told below.
            drop(BufReader::new(stdout).read_line(&mut ticket));
        }
        let ticket = ticket.trim().to_owned();
        if ticket.is_empty() {
            let said = process.said();
            return Err(CliError::failed(format!("the agent of {site} does not start:\n  {said}")));
        }
        Ok((process, ticket))
    }

    /// Waits until each of these is connected to all others, asks them, and knows how far they are.
    pub(crate) fn wait_until_met(&self, agents: &[&Agent]) -> Result<(), CliError> {
        for agent in agents {
            self.runner.wait_until(&format!("{} has met the others", agent.site), || {
                let status = agent.status()?;
                let met = |other: &&&Agent| {
                    status.members.iter().any(|member| {
                        member.region == other.site
                            && member.connected
                            && member.state == PeerState::Ok
                            && member.rtt_us.is_some()
                    })
                };
                Ok(agents.iter().filter(|other| other.site != agent.site).all(|other| met(&other)))
            })?;
        }
        Ok(())
    }

    /// Waits until an agent has measured what the link from another carries, as one that runs for days has. On
    /// loopback a short try does not find that.
    pub(crate) fn wait_until_tried(&self, agent: &Agent, from: &Agent) -> Result<(), CliError> {
        if matches!(self.links, Links::Loopback(_)) {
            return Ok(());
        }
        let peer = from.status()?.peer;
        let what = format!("{} has tried its link from {}", agent.site, from.site);
        self.runner.wait_until(&what, || {
            let links = agent.links()?;
            Ok(links.rows.iter().any(|link| {
                link.from == peer && link.source == LinkSource::Measured && link.goodput.is_some()
            }))
        })
    }

    /// Waits until an agent knows of so many results, wherever they are: what is nowhere is known
    /// without asking.
    pub(crate) fn wait_for_records(&self, agent: &Agent, records: u64) -> Result<(), CliError> {
        let what = format!("{} knows of {records} results", agent.site);
        self.runner.wait_until(&what, || Ok(agent.status()?.store.records >= records))
    }

    /// Runs a command of netbuild with the data directory of an agent, and looks on.
    pub(crate) fn netbuild(
        &self,
        agent: &Agent,
        args: &[&OsStr],
        look: impl FnMut() -> Result<(), CliError>,
    ) -> Result<Ran, CliError> {
        let mut command = self.command(agent, args)?;
        self.runner.run(&mut command, &self.fresh("command"), look)
    }

    pub(crate) fn command(&self, agent: &Agent, args: &[&OsStr]) -> Result<Command, CliError> {
        let mut command = command(&executable()?);
        command.args(args).arg("--data-dir").arg(&agent.data_dir);
        if agent.workspace.exists() {
            command.current_dir(&agent.workspace);
        }
        Ok(command)
    }

    /// The same for one that prints JSON.
    pub(crate) fn json(&self, agent: &Agent, args: &[&OsStr]) -> Result<Value, CliError> {
        let ran = self.netbuild(agent, args, || Ok(()))?;
        parse(&ran.stdout)
    }

    /// A path in the place that nothing has used yet.
    pub(crate) fn fresh(&self, name: &str) -> PathBuf {
        self.place.join(&format!("{name}-{}", self.count.fetch_add(1, Ordering::Relaxed)))
    }
}

pub(crate) fn parse(json: &str) -> Result<Value, CliError> {
    serde_json::from_str(json).map_err(|error| {
        CliError::failed(format!("netbuild printed something else than JSON: {error}"))
    })
}

impl Agent {
    /// What it says of itself, or that it is gone.
    pub(crate) fn status(&self) -> Result<Status, CliError> {
        self.ask(SocketCache::status)
    }

    /// What it knows of the links between agents.
    fn links(&self) -> Result<Rows<LinkRow>, CliError> {
        self.ask(SocketCache::links)
    }

    fn ask<T>(
        &self,
        question: impl FnOnce(&SocketCache) -> Result<T, CacheError>,
    ) -> Result<T, CliError> {
        let asked = SocketCache::connect(&socket_path(&self.data_dir));
        let answer = question(&asked.map_err(|error| self.gone(&error.to_string()))?);
        answer.map_err(|error| self.gone(&error.to_string()))
    }

    fn gone(&self, error: &str) -> CliError {
        let (site, said) = (self.site, self.process.said());
        CliError::failed(format!(
            "{site} serves nothing: its agent does not answer: {error}\n  {said}"
        ))
    }

    pub(crate) fn counter(&self, name: &str) -> Result<u64, CliError> {
        let counters = self.status()?.counters;
        Ok(counters.iter().find(|(known, _)| known == name).map_or(0, |(_, count)| *count))
    }

    pub(crate) fn ask_to_end(&mut self) {
        self.process.ask_to_end();
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }
}

/// A fetch of a blob, as it was seen from outside.
#[derive(Debug)]
pub(crate) struct Fetch {
    /// What `netbuild get --json` says of it.
    pub(crate) report: Value,
    /// From its start to its end.
    pub(crate) seconds: f64,
    /// From its start to the first bytes.
    pub(crate) first: f64,
    /// When the disturbance came, and how many bytes were here by then.
    pub(crate) disturbed: Option<(f64, u64)>,
}

impl World<'_> {
    /// Gets a blob, and does something once so many bytes of it are here.
    pub(crate) fn fetch(
        &self,
        agent: &Agent,
        digest: &str,
        at: u64,
        mut disturb: impl FnMut() -> Result<(), CliError>,
    ) -> Result<Fetch, CliError> {
        let before = agent.counter("data_bytes_fetched")?;
        let out = self.fresh("blob");
        let args = ["get", digest, "--json", "--quiet", "--output"].map(OsStr::new);
        let began = Instant::now();
        let (mut first, mut disturbed) = (None, None);
        let ran = self.netbuild(agent, &[&args[..], &[out.as_os_str()]].concat(), || {
            if disturbed.is_some() {
                return Ok(());
            }
            let here = agent.counter("data_bytes_fetched")?.saturating_sub(before);
            let elapsed = began.elapsed().as_secs_f64();
            if here > 0 {
                first.get_or_insert(elapsed);
            }
            if here >= at {
                disturb()?;
                disturbed = Some((elapsed, here));
            }
            Ok(())
        })?;
        // It would only take space.
        drop(fs::remove_file(&out));
        let first = first.unwrap_or(LOOK.as_secs_f64());
        Ok(Fetch { report: parse(&ran.stdout)?, seconds: ran.seconds, first, disturbed })
    }

    /// A file of bytes that nothing compresses, kept by some agents; its digest.
    pub(crate) fn noise(&self, bytes: u64, holders: &[&Agent]) -> Result<String, CliError> {
        let path = self.fresh("noise");
        let failed = |error| CliError::io("write", &path, &error);
        let random = fs::File::open("/dev/urandom").map_err(failed)?;
        let mut file = fs::File::create(&path).map_err(failed)?;
        std::io::copy(&mut std::io::Read::take(random, bytes), &mut file).map_err(failed)?;
        let mut digest = String::new();
        for holder in holders {
            let put = self.netbuild(holder, &[OsStr::new("put"), path.as_os_str()], || Ok(()))?;
            digest = put.stdout.trim().to_owned();
        }
        drop(fs::remove_file(&path));
        Ok(digest)
    }
}
