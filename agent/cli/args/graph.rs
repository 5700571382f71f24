//! The command line of `netbuild graph`, and how a graph is named everywhere.

use clap::{Subcommand, ValueEnum, ValueHint};
use std::path::PathBuf;

/// Which graph.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct GraphFileArgs {
    /// A graph.json, whose directory is the workspace; or a build.ninja or turbo.json
    #[arg(long, value_name = "FILE", default_value = "graph.json", value_hint = ValueHint::FilePath)]
    pub(crate) graph: PathBuf,
    /// The workspace of a build.ninja [default: CMake's source directory, the git repository around
    /// it, or its directory]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) workspace: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GraphCommand {
    /// Say all that is wrong with a graph
    Check(CheckArgs),
    /// Name the tasks
    List(ListArgs),
    /// Show a task with everything that it takes from defaults, groups and tools
    Show(ShowArgs),
    /// Rewrite a graph.json in its one layout, comments kept
    Fmt(FmtArgs),
    /// Run tasks while they are watched, and propose inputs, outputs and tools that they should declare
    Suggest(SuggestArgs),
    /// Print the JSON Schema of graph.json
    Schema,
    /// Print a build.ninja, a turbo.json or a gaffer file as graph.json
    Import(ImportArgs),
    /// Print a graph as dot, as JSON, or as the trace of a run as it would be planned
    Export(ExportArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 fine, 2 not.")]
pub(crate) struct CheckArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) graph: GraphFileArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the names only, one a line, and no warnings
    #[arg(long, conflicts_with = "json")]
    pub(crate) names: bool,
    #[command(flatten)]
    pub(crate) graph: GraphFileArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// The task
    #[arg(value_name = "TASK")]
    pub(crate) task: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) graph: GraphFileArgs,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 done, 1 with --check when it would change, 2 not JSON.")]
pub(crate) struct FmtArgs {
    /// The file; `-` formats standard input to standard output
    #[arg(value_name = "FILE", default_value = "graph.json", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// Change nothing; say whether it would
    #[arg(long)]
    pub(crate) check: bool,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "All commands run, in the workspace, and nothing is taken from or left in a cache. What is \
                        proposed is printed as a patch; what a person has to see to, on standard error.\n\
                        Exit codes: 0 done, 1 a task failed, about which nothing is proposed, 2 wrong usage \
                        or graph."
)]
pub(crate) struct SuggestArgs {
    /// Tasks to watch, with all that they need [default: what the graph says]
    #[arg(value_name = "TASK")]
    pub(crate) tasks: Vec<String>,
    /// Write what is proposed into the file, comments kept
    #[arg(long)]
    pub(crate) write: bool,
    /// Most commands at once [env: NETBUILD_JOBS] [default: number of processors]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) jobs: Option<u32>,
    #[command(flatten)]
    pub(crate) graph: GraphFileArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    /// The file
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// The workspace of a build.ninja, for which the graph.json is meant; see `netbuild run`
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) workspace: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ExportFormat {
    /// For Graphviz
    Dot,
    /// A graph.json with everything resolved
    Json,
    /// For Perfetto and Chrome: when each task would run, by the times of earlier runs
    Trace,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// Only these tasks, with all that they need [default: what the graph says]
    #[arg(value_name = "TASK")]
    pub(crate) tasks: Vec<String>,
    /// What to print
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "dot")]
    pub(crate) format: ExportFormat,
    /// Commands at once in a planned trace [default: number of processors]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) jobs: Option<u32>,
    #[command(flatten)]
    pub(crate) graph: GraphFileArgs,
}
