//! The command lines of both programs.

use clap::{Parser, Subcommand, ValueHint};
use clap_complete::Shell;
use netbuild_node::config::Flags;
use std::path::PathBuf;

/// Builds once, and finds the result warm in every region.
#[derive(Debug, Parser)]
#[command(name = "netbuild", version, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run tasks of a graph, taking from the cache what was built before
    Run(RunArgs),
    /// Show the state of this data directory's agent, its mesh and its store
    Status(ReportArgs),
    /// Keep a file as a blob and print its digest
    Put(PutArgs),
    /// Get a blob from here or from another agent
    Get(GetArgs),
    /// Print the ticket with which another agent joins the mesh of this one
    Ticket(ReportArgs),
    /// Stop the agent of this data directory, in order
    Stop(StopArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// What every command takes.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Common {
    /// Directory of blobs, records and keys [env: NETBUILD_DATA_DIR] [default: ~/.cache/netbuild]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    data_dir: Option<PathBuf>,
    /// Configuration file [env: NETBUILD_CONFIG] [default: built in]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
}

impl Common {
    pub(crate) fn flags(&self) -> Flags {
        Flags { config: self.config.clone(), data_dir: self.data_dir.clone(), ..Flags::default() }
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 done, 1 a task failed, 2 wrong usage or graph, \
                        130 interrupted, 143 terminated")]
pub(crate) struct RunArgs {
    /// Tasks to run, with all that they need [default: what the graph says]
    #[arg(value_name = "TASK")]
    pub(crate) tasks: Vec<String>,
    /// The graph file; its directory is the workspace
    #[arg(long, value_name = "FILE", default_value = "graph.json", value_hint = ValueHint::FilePath)]
    pub(crate) graph: PathBuf,
    /// Most commands at once [env: NETBUILD_JOBS] [default: number of processors]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) jobs: Option<u32>,
    /// After a failure, go on with what does not depend on it
    #[arg(short, long)]
    pub(crate) keep_going: bool,
    /// Write a summary of the run as JSON to a file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) summary: Option<PathBuf>,
    /// Print the summary as JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
    /// Also name tasks that were up to date
    #[arg(short, long, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
    /// Name only what failed
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ReportArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, clap::Args)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PutArgs {
    /// The file
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, clap::Args)]
pub(crate) struct GetArgs {
    /// The digest, as `netbuild put` printed it
    #[arg(value_name = "DIGEST")]
    pub(crate) digest: String,
    /// Where to write the blob [default: standard output]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
    /// Print JSON about the transfer
    #[arg(long, requires = "output")]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Serves one region of a mesh of build caches.
///
/// On start it prints one line on standard output: the ticket with which another agent joins
/// (`netbuild-agent --join TICKET`). Whoever has the ticket can join; keep it as a password.
#[derive(Debug, Parser)]
#[command(name = "netbuild-agent", version, max_term_width = 100)]
pub(crate) struct AgentArgs {
    /// Name of the region that this agent serves [env: NETBUILD_REGION]
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// UDP address of the mesh; port 0 takes a free one [env: NETBUILD_LISTEN] [default: 0.0.0.0:0]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Meet this member first: a ticket or a multiaddress; repeatable [env: NETBUILD_JOIN]
    #[arg(long, value_name = "TICKET|MULTIADDR")]
    join: Vec<String>,
    /// Go on in the background once it serves; the log goes to agent.log in the data directory
    #[arg(long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    common: Common,
}

impl AgentArgs {
    pub(crate) fn flags(&self) -> Flags {
        Flags {
            region: self.region.clone(),
            listen: self.listen.clone(),
            join: self.join.clone(),
            ..self.common.flags()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_lines_are_consistent() {
        Args::command().debug_assert();
        AgentArgs::command().debug_assert();
    }
}
