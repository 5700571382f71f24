//! The commands, one function each.

mod agent;
mod blob;
mod run;
mod status;

pub(crate) use agent::{agent, stop};
pub(crate) use blob::{get, put};
pub(crate) use run::run;
pub(crate) use status::{status, ticket};

use crate::{args::Args, errors::CliError};
use clap::CommandFactory as _;
use clap_complete::Shell;
use netbuild_node::{Session, config::Settings};
use std::{io::Write as _, process::ExitCode};

/// Prints a completion script.
pub(crate) fn completions(shell: Shell) -> Result<ExitCode, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "netbuild", &mut script);
    print(&String::from_utf8_lossy(&script));
    Ok(ExitCode::SUCCESS)
}

/// A session with the data directory of the settings, for a command that must not make one.
fn existing(settings: &Settings) -> Result<Session, CliError> {
    if settings.data_dir.exists() {
        return Ok(Session::new(&settings.data_dir, &settings.region)?);
    }
    let dir = settings.data_dir.display();
    Err(CliError::failed(format!("there is no data directory `{dir}`"))
        .hint("the first `netbuild run`, `netbuild put` or `netbuild-agent` makes it"))
}

/// Prints data on standard output. A reader that has gone away has read enough.
fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    drop(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()));
}

/// Prints a JSON value as one line.
fn print_json(value: &serde_json::Value) {
    print(&format!("{value}\n"));
}
