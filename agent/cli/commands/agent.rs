//! `netbuild-agent`.

use super::print;
use crate::{args::AgentArgs, errors::CliError, log, settings};
use netbuild_node::run_agent;
use std::process::ExitCode;

pub(crate) fn agent(args: &AgentArgs) -> Result<ExitCode, CliError> {
    let settings = settings(&args.flags())?;
    log::start(&settings.log_filter)?;
    run_agent(&settings, |agent| {
        let addresses: Vec<_> = agent.addresses().iter().map(ToString::to_string).collect();
        tracing::info!(
            region = settings.region,
            peer = %agent.peer_id(),
            data_dir = %settings.data_dir.display(),
            mesh = addresses.join(" "),
            data = %agent.data_address(),
            "serving; the next line is the ticket with which others join"
        );
        print(&format!("{}\n", agent.ticket()));
    })?;
    Ok(ExitCode::SUCCESS)
}
