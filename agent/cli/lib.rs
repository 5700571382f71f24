//! Both programs: arguments, printing, progress and exit codes. Everything else is below.

mod args;
mod commands;
mod demo;
mod diff;
mod errors;
mod graph_file;
mod log;
mod memory;
mod moving;
mod otlp;
mod progress;
mod recorder;
mod signals;
mod supervised;
mod table;
mod text;
mod trace;
mod trend;

use args::{AgentArgs, Args, Command};
use clap::Parser as _;
use errors::CliError;
use netbuild_node::{
    config::{Settings, resolve},
    hush_contained_panics,
};
use std::{path::PathBuf, process::ExitCode};

/// The program `netbuild`; under the name `netbuild-agent`, that one: an image needs one file for both.
pub fn netbuild_main() -> ExitCode {
    // Before anything that could start a thread, see `supervisor`.
    if std::env::args_os().nth(1).is_some_and(|arg| arg == netbuild_runner::SPAWN_COMMAND) {
        return ExitCode::from(u8::from(netbuild_runner::spawner_main() != 0));
    }
    let name = std::env::args_os().next().map(PathBuf::from);
    if name.is_some_and(|path| path.ends_with("netbuild-agent")) {
        return agent_main();
    }
    hush_contained_panics();
    let args = Args::parse();
    log::start_command()
        .and_then(|()| run(args.command))
        .unwrap_or_else(|error| error.print("netbuild"))
}

fn run(command: Command) -> Result<ExitCode, CliError> {
    match command {
        Command::Run(args) => commands::run(&args),
        Command::Graph(command) => commands::graph(&command),
        Command::Status(args) => commands::status(&args),
        Command::Peers(args) => commands::peers(&args),
        Command::Links(args) => commands::links(&args),
        Command::Plan(args) => commands::plan(&args),
        Command::Why(args) => commands::why(&args),
        Command::Log(args) => commands::log(&args),
        Command::Conflicts(args) => commands::conflicts(&args),
        Command::Sync(args) => commands::sync(&args),
        Command::Monitor(args) => commands::monitor(&args),
        Command::Put(args) => commands::put(&args),
        Command::Get(args) => commands::get(&args),
        Command::Verify(args) => commands::verify(&args),
        Command::Du(args) => commands::du(&args),
        Command::Gc(args) => commands::gc(&args),
        Command::Pin(args) => commands::pin(&args),
        Command::Unpin(args) => commands::unpin(&args),
        Command::Ticket(args) => commands::ticket(&args),
        Command::Flush(args) => commands::flush(&args),
        Command::Stop(args) => commands::stop(&args),
        Command::Doctor(args) => commands::doctor(&args),
        Command::Demo(args) => demo::demo(&args),
        Command::Wan(command) => commands::wan(&command),
        Command::Completions { shell, agent } => commands::completions(shell, agent),
        Command::Man(args) => commands::man(&args),
    }
}

/// The program `netbuild-agent`.
pub fn agent_main() -> ExitCode {
    memory::keep_small();
    hush_contained_panics();
    let args = AgentArgs::parse();
    commands::agent(&args).unwrap_or_else(|error| error.print("netbuild-agent"))
}

/// The configuration with what the command line and the environment say.
fn settings(flags: &netbuild_node::config::Flags) -> Result<Settings, CliError> {
    resolve(flags, &|name| std::env::var_os(name)).map_err(CliError::usage)
}
