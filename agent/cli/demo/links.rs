//! The emulated links of a demo: between network namespaces where this process may make them, else
//! between addresses of the loopback interface.

use super::{
    place::Place,
    processes::{Process, command},
};
use crate::{commands::executable, errors::CliError};
use netbuild_core::wan::SiteSpec;
use netbuild_wan::{Loopback, Request, Response, Status};
use rustix::process::Signal;
use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The file through which TUN devices are made.
const TUN: &str = "/dev/net/tun";
/// Decides what is lost, on links that lose something.
const SEED: u64 = 1;

/// Links that are up until this is dropped.
pub(crate) enum Links {
    Namespaces { name: String, _emulator: Process },
    Loopback(Loopback),
}

impl Links {
    /// Makes sites, and links between them. Also why they are on loopback, if somebody may wonder.
    pub(crate) fn up(
        sites: &[&str],
        loopback: bool,
        place: &Place,
    ) -> Result<(Self, Option<String>), CliError> {
        let mut why = None;
        if !loopback && may_make_namespaces() {
            match Self::namespaces(sites, place)? {
                Ok(links) => return Ok((links, None)),
                Err(said) => why = Some(said),
            }
        }
        let parsed = sites.iter().map(|site| site.parse::<SiteSpec>());
        let sites: Vec<_> = parsed.collect::<Result<_, _>>().map_err(CliError::usage)?;
        Ok((Self::Loopback(Loopback::start(&sites, &[], SEED)?), why))
    }

    /// Sites that are namespaces, or what the emulator said instead of making them.
    fn namespaces(sites: &[&str], place: &Place) -> Result<Result<Self, String>, CliError> {
        let name = format!("demo-{}", std::process::id());
        let mut up = command(&executable()?);
        up.args(["wan", "up", "--name", &name]).stdout(Stdio::piped());
        for site in sites {
            up.args(["--site", site]);
        }
        // Asked to end in order, it removes the namespaces.
        let mut emulator = Process::start(&mut up, &place.join("links.log"), Signal::TERM)?;
        let mut line = String::new();
        if let Some(stdout) = emulator.child().stdout.take() {
            // It says so once packets pass; an end without a word is told below.
            drop(BufReader::new(stdout).read_line(&mut line));
        }
        if line.is_empty() {
            let said = emulator.said();
            return Ok(Err(said.trim_start_matches("netbuild: ").replace('\n', " ")));
        }
        Ok(Ok(Self::Namespaces { name, _emulator: emulator }))
    }

    /// The way in which they are emulated, in a word.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Namespaces { .. } => "namespaces",
            Self::Loopback(_) => "loopback",
        }
    }

    /// How they are emulated.
    pub(crate) fn describe(&self) -> &'static str {
        match self {
            Self::Namespaces { .. } => "links emulated between network namespaces",
            Self::Loopback(_) => "links emulated on loopback, without root",
        }
    }

    /// The command that cuts a link, for people.
    pub(crate) fn to_cut(&self, link: &str) -> Option<String> {
        match self {
            Self::Namespaces { name, .. } => {
                Some(format!("netbuild wan set {link} --profile cut --name {name}"))
            }
            Self::Loopback(_) => None,
        }
    }

    /// A program at a site, not started yet.
    pub(crate) fn command_at(&self, site: &str, program: &Path) -> Result<Command, CliError> {
        Ok(match self {
            Self::Loopback(_) => command(program),
            Self::Namespaces { name, .. } => {
                let mut exec = command(&executable()?);
                exec.args(["wan", "exec", "--name", name, site, "--"]).arg(program);
                exec
            }
        })
    }

    /// How an agent at a site listens, so that all that others send to it comes through the links.
    pub(crate) fn listening(&self, site: &str) -> Result<Listening, CliError> {
        match self {
            Self::Loopback(links) => {
                let door = links.door(site).ok_or_else(|| no_site(site))?;
                let [mesh, data] = door.ports;
                Ok(Listening {
                    listen: format!("{}:{mesh}", door.inner),
                    announce: Some(door.outer.to_string()),
                    data_port: data,
                })
            }
            Self::Namespaces { .. } => {
                let status = self.status()?;
                let found = status.sites.into_iter().find(|found| found.name == site);
                let address = found.and_then(|site| site.address).ok_or_else(|| no_site(site))?;
                Ok(Listening { listen: format!("{address}:0"), announce: None, data_port: 0 })
            }
        }
    }

    fn ask(&self, request: Request) -> Result<Response, CliError> {
        Ok(match self {
            Self::Namespaces { name, .. } => netbuild_wan::ask(name, &request)?,
            Self::Loopback(links) => links.ask(request)?,
        })
    }

    fn status(&self) -> Result<Status, CliError> {
        match self.ask(Request::Status)? {
            Response::Status(status) => Ok(status),
            _ => Err(CliError::failed("the emulator answered something else")),
        }
    }

    /// Lets nothing pass between two sites any more.
    pub(crate) fn cut(&self, link: &str) -> Result<(), CliError> {
        self.ask(Request::Set { target: link.to_owned(), profile: "cut".to_owned() }).map(drop)
    }

    /// Gives a link back what it began with.
    pub(crate) fn mend(&self, link: &str) -> Result<(), CliError> {
        self.ask(Request::Reset { target: link.to_owned() }).map(drop)
    }
}

/// What an agent is told.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) listen: String,
    pub(crate) announce: Option<String>,
    /// 0 for any.
    pub(crate) data_port: u16,
}

fn no_site(site: &str) -> CliError {
    CliError::failed(format!("there is no site `{site}`"))
}

/// Whether it is worth trying: in a container, root may do less than it seems.
fn may_make_namespaces() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has_ip = || std::env::split_paths(&path).any(|dir: PathBuf| dir.join("ip").exists());
    rustix::process::geteuid().is_root() && Path::new(TUN).exists() && has_ip()
}
