//! Logs of both programs: to standard error, by the directives of `log.filter`.

use crate::errors::CliError;
use std::io::IsTerminal as _;
use tracing_subscriber::{filter::Targets, fmt, prelude::*};

/// Starts logging. `directives` are such as `info` or `warn,netbuild_mesh=debug`.
pub(crate) fn start(directives: &str) -> Result<(), CliError> {
    let targets: Targets = directives.parse().map_err(|error| {
        CliError::usage(std::io::Error::other(format!("log filter `{directives}`: {error}")))
            .hint("write a level such as `info`, or `info,netbuild_mesh=debug`")
    })?;
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(colour).with_target(false);
    tracing_subscriber::registry().with(layer.with_filter(targets)).init();
    Ok(())
}
