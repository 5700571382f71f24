//! Logs of both programs: to standard error, by the directives of `log.filter`.

use crate::errors::CliError;
use netbuild_node::config::{LogFormat, variable};
use std::io::IsTerminal as _;
use tracing_subscriber::{filter::Targets, fmt, prelude::*};

/// What the commands log when nobody says: what is damaged or has to be known. The rest they print
/// themselves.
const COMMANDS: &str = "warn";

/// Starts logging for a command.
pub(crate) fn start_command() -> Result<(), CliError> {
    let said = std::env::var(variable::LOG).ok().filter(|directives| !directives.is_empty());
    start(said.as_deref().unwrap_or(COMMANDS), LogFormat::Text)
}

/// Starts logging. `directives` are such as `info` or `warn,netbuild_mesh=debug`.
pub(crate) fn start(directives: &str, format: LogFormat) -> Result<(), CliError> {
    let targets: Targets = directives.parse().map_err(|error| {
        CliError::usage(std::io::Error::other(format!("log filter `{directives}`: {error}")))
            .hint("write a level such as `info`, or `info,netbuild_mesh=debug`")
    })?;
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let layer = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .with_target(false)
        // It would say them on standard error, and panic when nobody reads that any more.
        .log_internal_errors(false);
    let registry = tracing_subscriber::registry();
    match format {
        LogFormat::Text => registry.with(layer.with_filter(targets)).init(),
        LogFormat::Json => {
            // Whoever reads these with a program wants to know from which part they are.
            let layer = layer.json().flatten_event(true).with_ansi(false).with_target(true);
            registry.with(layer.with_filter(targets)).init();
        }
    }
    Ok(())
}
