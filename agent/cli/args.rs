//! The command lines of both programs.

mod demo;
mod graph;
mod wan;

pub(crate) use demo::DemoArgs;

pub(crate) use graph::{
    CheckArgs, ExportArgs, ExportFormat, FmtArgs, GraphCommand, GraphFileArgs, ImportArgs,
    ListArgs, ShowArgs, SuggestArgs,
};

pub(crate) use wan::{
    DEFAULT_SITES, WanCommand, WanExecArgs, WanNameArgs, WanSetArgs, WanStatusArgs, WanUpArgs,
};

use clap::{Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use netbuild_core::evict::Amount;
use netbuild_node::config::Flags;
use netbuild_proto::record::check_region;
use std::{path::PathBuf, time::Duration};

/// Builds once, and finds the result warm in every region.
#[derive(Debug, Parser)]
#[command(
    name = "netbuild",
    version,
    max_term_width = 100,
    after_help = "`netbuild run` builds what the graph.json of this directory says. `netbuild-agent --detach` shares \
                  results with other machines, and `netbuild doctor` says what keeps it from that.\n\n\
                  A blob is the content of a file, named by its digest; an action key names a command with all \
                  its inputs; a tier is storage that agents share, Redis or S3. All of it is kept in the data \
                  directory, which an agent and the commands beside it have in common."
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run tasks of a graph, taking from the cache what was built before
    Run(RunArgs),
    /// Check, show, format, import and export graphs
    #[command(subcommand)]
    Graph(GraphCommand),
    /// Show the state of this data directory's agent, its mesh and its store
    Status(ReportArgs),
    /// Show the other agents: their region, how far they are, and whether they are asked
    Peers(ReportArgs),
    /// Show round-trip time, bandwidth and loss from each region to each
    Links(ReportArgs),
    /// Show from where a blob would be taken now, what that would take, and why
    Plan(PlanArgs),
    /// Explain what was done about a task, field by field; or what was taken from where of late
    Why(WhyArgs),
    /// Print what the command of a task printed, byte for byte
    Log(LogArgs),
    /// Show actions for which agents recorded results that differ
    Conflicts(ConflictsArgs),
    /// Copy what other regions have built, before somebody needs it
    Sync(SyncArgs),
    /// Watch the regions of the mesh, live
    Monitor(MonitorArgs),
    /// Keep a file as a blob and print its digest
    Put(PutArgs),
    /// Get blobs from here or from other agents
    Get(GetArgs),
    /// Check everything that is stored here, and mend it
    Verify(VerifyArgs),
    /// Show what takes the space of this data directory
    Du(ReportArgs),
    /// Make space in this data directory, or say what would go and why
    Gc(GcArgs),
    /// Keep a blob, or a result with all its blobs, whatever else goes; list what is kept so
    Pin(PinArgs),
    /// Let what was pinned go like anything else
    Unpin(UnpinArgs),
    /// Print the ticket with which another agent joins the mesh of this one
    Ticket(ReportArgs),
    /// Wait until the tiers have all results that are to be copied to them
    Flush(FlushArgs),
    /// Stop the agent of this data directory, in order
    Stop(StopArgs),
    /// Check this machine, its agent, its peers and tiers, and say what to change
    Doctor(DoctorArgs),
    /// See a build in one region come warm to others, measured on this machine
    Demo(DemoArgs),
    /// Emulate wide-area links between sites on this machine
    #[command(subcommand)]
    Wan(WanCommand),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
        /// The script of netbuild-agent
        #[arg(long)]
        agent: bool,
    },
    /// Print a manual page, or write those of all commands
    Man(ManArgs),
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
    /// Storage to share, such as redis://host+s3://bucket [env: CACHE_BACKEND]
    // Never with its value from the environment: it may have a password in it.
    #[arg(long, value_name = "CHAIN")]
    backend: Option<String>,
}

impl Common {
    pub(crate) fn flags(&self) -> Flags {
        Flags {
            config: self.config.clone(),
            data_dir: self.data_dir.clone(),
            backend: self.backend.clone(),
            ..Flags::default()
        }
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 done, 1 a task failed, 2 wrong usage or graph, \
                        130 interrupted, 143 terminated")]
pub(crate) struct RunArgs {
    /// Tasks to run, with all that they need [default: what the graph says]
    #[arg(value_name = "TASK")]
    pub(crate) tasks: Vec<String>,
    #[command(flatten)]
    pub(crate) graph: GraphFileArgs,
    /// Most commands at once [env: NETBUILD_JOBS] [default: number of processors]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) jobs: Option<u32>,
    /// After a failure, go on with what does not depend on it
    #[arg(short, long)]
    pub(crate) keep_going: bool,
    /// How restored files come by their bytes: as clones or copies, or, if they are not executable, as
    /// read-only hard links to the store
    #[arg(long, value_name = "HOW", value_enum, default_value = "copy")]
    pub(crate) link: LinkArg,
    /// Restore whatever can be had, though it may come later than building it here would take; as does
    /// `[plan] build = "last"` in the configuration of the agent
    #[arg(long)]
    pub(crate) prefer_cache: bool,
    /// Fail tasks that are watched (`"sandbox": "audit"`) or staged and use or leave what they do not declare
    #[arg(long)]
    pub(crate) strict: bool,
    /// Say what a run would do, and do nothing
    #[arg(long, conflicts_with_all = ["summary", "keep_going"])]
    pub(crate) dry_run: bool,
    /// Run again whenever files change that tasks depend on, until interrupted
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) watch: bool,
    /// Write a summary of the run as JSON to a file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) summary: Option<PathBuf>,
    /// Print the summary as JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
    /// Write what happens to a file as it happens: a line of JSON for each event
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) json_events: Option<PathBuf>,
    /// Write when each task ran to a file, for Perfetto or Chrome's tracing
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) trace: Option<PathBuf>,
    /// Also name tasks that were up to date
    #[arg(short, long, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
    /// Name only what failed
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// See [`netbuild_runner::Link`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LinkArg {
    Copy,
    Hard,
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
#[command(after_help = "Exit codes: 0 all is copied, 1 something still waits, 2 wrong usage")]
pub(crate) struct FlushArgs {
    /// Longest time to wait, in seconds; what is not copied then still waits
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = parse_seconds)]
    pub(crate) timeout: Duration,
    /// Print the state of the tiers as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 no problem was found, 1 there is one, 2 wrong usage.\n\
                  It needs no agent and no root, and changes nothing.")]
pub(crate) struct DoctorArgs {
    /// Also try to reach this member, before an agent joins it: a ticket or a multiaddress
    #[arg(long, value_name = "TICKET|MULTIADDR")]
    join: Vec<String>,
    /// Check whether an agent could listen on this address [default: as configured]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Longest time that all of it may take, in seconds, 1 to 600; what has not answered then is late
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=600))]
    pub(crate) timeout: u16,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    common: Common,
}

impl DoctorArgs {
    pub(crate) fn flags(&self) -> Flags {
        Flags { join: self.join.clone(), listen: self.listen.clone(), ..self.common.flags() }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// Write the pages of both programs and all their commands into this directory
    /// [default: print that of netbuild]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) dir: Option<PathBuf>,
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
#[command(group = clap::ArgGroup::new("target").args(["output", "output_dir"]))]
pub(crate) struct GetArgs {
    /// The digests, as `netbuild put` printed them
    #[arg(value_name = "DIGEST", required_unless_present = "from_file")]
    pub(crate) digests: Vec<String>,
    /// Where to write the blob [default: standard output]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
    /// Where to write several blobs, each into a file that is named by its hash
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) output_dir: Option<PathBuf>,
    /// Also get the digests in this file, one a line; `-` is standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "output_dir")]
    pub(crate) from_file: Option<PathBuf>,
    /// Print JSON about the transfer
    #[arg(long, requires = "target")]
    pub(crate) json: bool,
    /// Do not say how far it is and what it took
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PlanArgs {
    /// The digest, as `netbuild put` printed it
    #[arg(value_name = "DIGEST")]
    pub(crate) digest: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, clap::Args)]
pub(crate) struct WhyArgs {
    /// Only about this: a task, or the first digits of a digest or action key [default: all that the
    /// agent decided]
    #[arg(value_name = "TASK|DIGEST|KEY")]
    pub(crate) about: Option<String>,
    /// At most so many, the latest [default: 1 turn of a task, 10 decisions]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) last: Option<u32>,
    /// Print JSON, the latest first
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) graph: GraphFileArgs,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 printed, 1 there is no such log, 2 wrong usage")]
pub(crate) struct LogArgs {
    /// The task
    #[arg(value_name = "TASK")]
    pub(crate) task: String,
    #[command(flatten)]
    pub(crate) graph: GraphFileArgs,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ConflictsArgs {
    /// Exit with 1 when there are any
    #[arg(long)]
    pub(crate) fail: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) graph: GraphFileArgs,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 done, 1 something could not be copied, 2 wrong usage, \
                        130 interrupted, 143 terminated.\n\
                        What was copied stays when it is stopped; run it again to go on.")]
pub(crate) struct SyncArgs {
    /// Copy from this region [default: all others]
    #[arg(long, value_name = "REGION", value_parser = parse_region)]
    pub(crate) from: Option<String>,
    /// Copy to this region [default: that of the agent]
    #[arg(long, value_name = "REGION", value_parser = parse_region)]
    pub(crate) to: Option<String>,
    /// Copy to every region what every other has
    #[arg(long, conflicts_with_all = ["from", "to"])]
    pub(crate) all: bool,
    /// Copy nothing; say what would be copied
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Also read what is here, and copy again what is damaged
    #[arg(long)]
    pub(crate) force: bool,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 all is well, 1 damage remains, 2 wrong usage, 130 interrupted, \
                        143 terminated.\n\
                        An agent need not be stopped; what was lost comes from other agents only \
                        through one."
)]
pub(crate) struct VerifyArgs {
    /// Read all bytes and check all signatures; else names, sizes and places only
    #[arg(long)]
    pub(crate) deep: bool,
    /// Put damage aside, take in what the index has lost, and get from others what was lost
    #[arg(long)]
    pub(crate) repair: bool,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "What others have, is quick to build and was not used for long goes first. An agent \
                        makes space by itself, within [store] of the configuration."
)]
pub(crate) struct GcArgs {
    /// Remove nothing; say what would go, and why
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// What may stay, such as `20GB` [default: as configured]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) max_size: Option<u64>,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PinArgs {
    /// Digests, action keys, or tasks that were run here [default: list the pins]
    #[arg(value_name = "DIGEST|KEY|TASK")]
    pub(crate) what: Vec<String>,
    /// Print the list as JSON
    #[arg(long, conflicts_with = "what")]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) graph: GraphFileArgs,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, clap::Args)]
pub(crate) struct UnpinArgs {
    /// Digests, action keys, or tasks
    #[arg(value_name = "DIGEST|KEY|TASK", required = true)]
    pub(crate) what: Vec<String>,
    #[command(flatten)]
    pub(crate) graph: GraphFileArgs,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Ctrl-C ends it. Colours are left out with NO_COLOR set, trends on terminals \
                        without UTF-8."
)]
pub(crate) struct MonitorArgs {
    /// Print the table once; also when standard output is no terminal
    #[arg(long)]
    pub(crate) once: bool,
    /// Print JSON: a line at each interval, or one with --once
    #[arg(long)]
    pub(crate) json: bool,
    /// Seconds from one look to the next, 0.1 to 3600
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_interval)]
    pub(crate) interval: Duration,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Bytes; a part of the disk is for the configuration.
fn parse_size(text: &str) -> Result<u64, String> {
    match text.parse::<Amount>() {
        Ok(Amount::Bytes(bytes)) => Ok(bytes),
        Ok(Amount::Percent(_)) => Err("say bytes, such as 20GB".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn parse_region(text: &str) -> Result<String, String> {
    match check_region(text) {
        Ok(()) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err("a region is named with letters, digits, `.`, `_` and `-`".to_owned()),
    }
}

/// Seconds with a fraction. Shorter than a tenth nobody can see, and longer than an hour is no
/// watching.
fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|time| *time <= Duration::from_secs(24 * 3600))
        .ok_or_else(|| "from 0 to 86400 seconds".to_owned())
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("give seconds from 0.1 to 3600".to_owned()),
    }
}

/// Serves one region of a mesh of build caches.
///
/// On start it prints one line on standard output: the ticket with which another agent joins
/// (`netbuild-agent --join TICKET`). Whoever has the ticket can join; keep it as a password.
#[derive(Debug, Parser)]
#[command(
    name = "netbuild-agent",
    version,
    max_term_width = 100,
    after_help = "Commands of netbuild with the same --data-dir go through it. SIGINT, SIGTERM and `netbuild stop` end it \
                  in order, and systemd is told when it serves. All settings are explained in mesh.toml."
)]
pub(crate) struct AgentArgs {
    /// Name of the region that this agent serves [env: NETBUILD_REGION]
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// UDP address of the mesh; port 0 takes a free one [env: NETBUILD_LISTEN] [default: 0.0.0.0:0]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// IP address at which others reach this agent, on the same ports, when that is not where it listens
    /// [env: NETBUILD_ANNOUNCE]
    #[arg(long, value_name = "IP")]
    announce: Option<String>,
    /// Meet this member first: a ticket or a multiaddress; repeatable [env: NETBUILD_JOIN]
    #[arg(long, value_name = "TICKET|MULTIADDR")]
    join: Vec<String>,
    /// Where to be watched by HTTP, a page and metrics; `off` for nowhere [env: NETBUILD_HTTP] [default:
    /// 127.0.0.1:7717, or a free port where that is taken]
    #[arg(long, value_name = "ADDR|off")]
    http: Option<String>,
    /// How lines of the log look [env: NETBUILD_LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORMAT", value_parser = ["text", "json"])]
    log_format: Option<String>,
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
            announce: self.announce.clone(),
            join: self.join.clone(),
            http: self.http.clone(),
            log_format: self.log_format.clone(),
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

    fn parse(line: &str) -> Result<Command, clap::error::ErrorKind> {
        let words = std::iter::once("netbuild").chain(line.split(' '));
        Args::try_parse_from(words).map(|args| args.command).map_err(|error| error.kind())
    }

    #[test]
    fn commands_about_the_mesh_take_what_their_help_says() {
        use clap::error::ErrorKind;
        let Ok(Command::Why(why)) = parse("why services/api --last 3 --json") else { panic!() };
        assert_eq!(
            (why.about.as_deref(), why.last, why.json),
            (Some("services/api"), Some(3), true)
        );
        let Ok(Command::Sync(sync)) = parse("sync --from us-east --dry-run") else { panic!() };
        assert_eq!((sync.from.as_deref(), sync.to, sync.dry_run), (Some("us-east"), None, true));
        let Ok(Command::Verify(verify)) = parse("verify --deep --json") else { panic!() };
        assert_eq!((verify.deep, verify.repair, verify.json), (true, false, true));
        let Ok(Command::Monitor(monitor)) = parse("monitor --interval 0.5") else { panic!() };
        assert_eq!(monitor.interval, Duration::from_millis(500));
        let Ok(Command::Get(get)) = parse("get a b --from-file - --output-dir d --json") else {
            panic!()
        };
        assert_eq!((get.digests.len(), get.from_file), (2, Some("-".into())));
        assert!(matches!(parse("conflicts --fail"), Ok(Command::Conflicts(args)) if args.fail));
        for (wrong, kind) in [
            ("why --last 0", ErrorKind::ValueValidation),
            ("monitor --interval 0", ErrorKind::ValueValidation),
            ("monitor --interval nan", ErrorKind::ValueValidation),
            ("sync --all --from us-east", ErrorKind::ArgumentConflict),
            ("sync --to us/east", ErrorKind::ValueValidation),
            ("plan", ErrorKind::MissingRequiredArgument),
            ("get", ErrorKind::MissingRequiredArgument),
            ("get x --json", ErrorKind::MissingRequiredArgument),
            ("get --from-file -", ErrorKind::MissingRequiredArgument),
            ("get x -o f --output-dir d", ErrorKind::ArgumentConflict),
        ] {
            assert_eq!(parse(wrong).err(), Some(kind), "{wrong}");
        }
    }

    #[test]
    fn completions_know_every_command() {
        let mut script = Vec::new();
        clap_complete::generate(Shell::Bash, &mut Args::command(), "netbuild", &mut script);
        let script = String::from_utf8(script).unwrap();
        for command in ["peers", "links", "plan", "why", "conflicts", "sync", "monitor"] {
            assert!(script.contains(&format!("netbuild,{command})")), "{command}");
        }
    }
}
