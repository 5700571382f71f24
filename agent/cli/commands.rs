//! The commands, one function each.

mod agent;
mod conflicts;
mod doctor;
mod flush;
mod get;
mod graph;
mod links;
mod log;
mod man;
mod monitor;
mod peers;
mod pin;
mod plan;
mod put;
mod run;
mod space;
mod status;
mod sync;
mod verify;
mod wan;
mod why;

pub(crate) use agent::{agent, stop};
pub(crate) use conflicts::conflicts;
pub(crate) use doctor::doctor;
pub(crate) use flush::flush;
pub(crate) use get::get;
pub(crate) use graph::graph;
pub(crate) use links::links;
pub(crate) use log::log;
pub(crate) use man::man;
pub(crate) use monitor::monitor;
pub(crate) use peers::peers;
pub(crate) use pin::{pin, unpin};
pub(crate) use plan::plan;
pub(crate) use put::put;
pub(crate) use run::{executable, run};
pub(crate) use space::{du, gc};
pub(crate) use status::{status, ticket};
pub(crate) use sync::sync;
pub(crate) use verify::verify;
pub(crate) use wan::wan;
pub(crate) use why::why;

use crate::{
    args::{AgentArgs, Args, GraphFileArgs},
    errors::CliError,
    graph_file,
};
use clap::CommandFactory as _;
use clap_complete::Shell;
use netbuild_core::digest::{Digest, ParseDigestError};
use netbuild_gateway::{ConnectError, SocketCache, socket_path};
use netbuild_node::{Session, config::Settings};
use netbuild_proto::{
    control::{Rows, Status},
    workspace::{State, TaskState},
};
use serde::Serialize;
use std::{
    io::Write as _,
    path::Path,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

/// What completes the names of tasks, which the script of clap knows nothing of.
const TASK_NAMES: &str = include_str!("completions.bash");

/// Prints a completion script, of this program or of the agent.
pub(crate) fn completions(shell: Shell, agent: bool) -> Result<ExitCode, CliError> {
    let mut script = Vec::new();
    let (mut command, name) = match agent {
        true => (AgentArgs::command(), "netbuild-agent"),
        false => (Args::command(), "netbuild"),
    };
    clap_complete::generate(shell, &mut command, name, &mut script);
    if shell == Shell::Bash && !agent {
        script.extend_from_slice(TASK_NAMES.as_bytes());
    }
    print(&String::from_utf8_lossy(&script));
    Ok(ExitCode::SUCCESS)
}

/// A session with the data directory and the tiers of the settings.
fn session(settings: &Settings) -> Result<Session, CliError> {
    let session = Session::new(&settings.data_dir, &settings.region, &settings.trust)?;
    Ok(session.with_bounds(settings.store).with_tiers(&settings.cache, &settings.policy))
}

/// The same for a command that must not make the directory.
fn existing(settings: &Settings) -> Result<Session, CliError> {
    if settings.data_dir.exists() {
        return session(settings);
    }
    let dir = settings.data_dir.display();
    Err(CliError::failed(format!("there is no data directory `{dir}`"))
        .hint("the first `netbuild run`, `netbuild put` or `netbuild-agent` makes it"))
}

/// Gives the tiers a moment to get what was put, as long as `going` says, and says what they still lack.
fn finish(session: &Session, going: &dyn Fn() -> bool) {
    if session.finish(going) {
        return;
    }
    let tiers = session.status().map(|status| status.tiers).unwrap_or_default();
    for tier in tiers.iter().filter(|tier| tier.waiting > 0) {
        tracing::warn!("{}; `netbuild flush` or the next run goes on with it", flush::line(tier));
    }
}

/// Names and action keys of the tasks that were run in the workspace of a graph.
fn keys_in(graph: &GraphFileArgs) -> Result<Vec<(String, String)>, CliError> {
    let tasks = tasks_in(&graph_file::root_of(graph)?).into_iter();
    Ok(tasks.map(|(name, task)| (name, task.key.to_string())).collect())
}

/// What the tasks that were run in a workspace left last, by name.
fn tasks_in(root: &Path) -> Vec<(String, TaskState)> {
    let path = root.join(netbuild_runner::DIRECTORY).join("state");
    let state = std::fs::read(path).ok().and_then(|bytes| State::decode(&bytes).ok());
    state.map(|state| state.tasks).unwrap_or_default()
}

/// The agent of the data directory, with its state. A process that is no agent does not know what
/// these commands ask for, and this one must not become the owner of the directory by asking.
fn agent_of(settings: &Settings) -> Result<(SocketCache, Status), CliError> {
    let agent = match SocketCache::connect(&socket_path(&settings.data_dir)) {
        Ok(agent) => agent,
        Err(ConnectError::NobodyThere(_)) => return Err(no_agent(settings)),
        Err(error) => return Err(CliError::usage(error)),
    };
    let status = agent.status()?;
    if status.role == "agent" { Ok((agent, status)) } else { Err(no_agent(settings)) }
}

fn no_agent(settings: &Settings) -> CliError {
    let dir = settings.data_dir.display();
    CliError::failed(format!("no agent runs on `{dir}`"))
        .hint(format!("start one: netbuild-agent --data-dir {dir} --detach"))
}

fn parse_digest(text: &str) -> Result<Digest, CliError> {
    text.parse().map_err(|error: ParseDigestError| {
        CliError::usage(error).hint("give the digest as `netbuild put` printed it")
    })
}

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Prints data on standard output. A reader that has gone away has read enough.
pub(crate) fn print(text: &str) {
    try_print(text);
}

/// Prints data on standard output; whether somebody still reads it.
fn try_print(text: &str) -> bool {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_ok()
}

/// Prints a JSON value as one line.
fn print_json(value: &serde_json::Value) {
    print(&format!("{value}\n"));
}

/// Prints something as one line of JSON; whether somebody still reads it.
fn print_json_of(value: &impl Serialize) -> Result<bool, CliError> {
    let json = serde_json::to_string(value).map_err(CliError::usage)?;
    Ok(try_print(&format!("{json}\n")))
}

/// Prints rows as an array of JSON.
fn print_rows(rows: &Rows<impl Serialize>) -> Result<(), CliError> {
    if rows.left_out > 0 {
        tracing::warn!("{} more rows did not fit into the answer of the agent", rows.left_out);
    }
    print_json_of(&rows.rows).map(drop)
}
