//! `netbuild-agent`, and `netbuild stop`, which ends one.

use super::{existing, print};
use crate::{
    args::{AgentArgs, StopArgs},
    errors::{CliError, EXIT_USAGE},
    log,
    otlp::Traces,
    settings, supervised,
};
use netbuild_node::{config::Settings, run_agent};
use opentelemetry::KeyValue;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    fs::{self, OpenOptions},
    io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
    os::unix::{fs::DirBuilderExt as _, process::CommandExt as _},
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

/// How long `netbuild stop` waits for an agent to end: longer than its parts may take.
const STOP_LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn agent(args: &AgentArgs) -> Result<ExitCode, CliError> {
    let settings = settings(&args.flags())?;
    if args.detach {
        return detach(&settings);
    }
    log::start(&settings.log_filter, settings.log_format)?;
    let region = KeyValue::new("netbuild.region", settings.region.clone());
    let traces = Traces::of("netbuild-agent", vec![region]);
    run_agent(&settings, |agent| {
        if let Some(traces) = traces {
            agent.tell_decisions(Box::new(move |decision| traces.handle_decision(decision)));
        }
        let addresses: Vec<_> = agent.addresses().iter().map(ToString::to_string).collect();
        tracing::info!(
            region = settings.region,
            peer = %agent.peer_id(),
            data_dir = %settings.data_dir.display(),
            mesh = addresses.join(" "),
            data = %agent.data_address(),
            page = agent.page().unwrap_or_else(|| "off".to_owned()),
            "serving; the line on standard output is the ticket with which others join"
        );
        print(&format!("{}\n", agent.ticket()));
        supervised::ready(&format!("serves at UDP {}", addresses.join(" ")));
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Starts this command again without `--detach`, away from the terminal, and returns with its
/// ticket once it serves.
fn detach(settings: &Settings) -> Result<ExitCode, CliError> {
    let path = settings.data_dir.join("agent.log");
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&settings.data_dir)
        .map_err(|error| CliError::io("create", &settings.data_dir, &error))?;
    let opened = OpenOptions::new().create(true).append(true).read(true).open(&path);
    let mut log = opened.map_err(|error| CliError::io("write", &path, &error))?;
    let start = |error| CliError::io("start", Path::new("netbuild-agent"), &error);
    let mut child = Command::new(std::env::current_exe().map_err(start)?)
        // The file may be that of `netbuild`, which goes by its name.
        .arg0("netbuild-agent")
        .args(std::env::args_os().skip(1).filter(|arg| arg != "--detach"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log.try_clone().map_err(start)?)
        // Ctrl-C in the terminal is not for it.
        .process_group(0)
        .spawn()
        .map_err(start)?;
    let began = log.seek(SeekFrom::End(0)).map_err(start)?;
    let mut ticket = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut ticket).map_err(start)?;
    }
    if ticket.is_empty() {
        let status = child.wait().map_err(start)?;
        let mut said = String::new();
        log.seek(SeekFrom::Start(began))
            .and_then(|_| log.read_to_string(&mut said))
            .map_err(start)?;
        let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(EXIT_USAGE);
        let said = said.trim_end();
        let said = said.strip_prefix("netbuild-agent: ").unwrap_or(said);
        return Err(CliError::failed(said).with_code(code));
    }
    print(&ticket);
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn stop(args: &StopArgs) -> Result<ExitCode, CliError> {
    let settings = settings(&args.common.flags())?;
    let dir = settings.data_dir.display();
    let first = existing(&settings)?.status()?;
    if first.role != "agent" {
        return Err(CliError::failed(format!("no agent runs on `{dir}`")));
    }
    let pid = i32::try_from(first.pid).ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or_else(|| CliError::failed(format!("the agent on `{dir}` tells no pid")))?;
    let failed = |error: rustix::io::Errno| {
        let pid = first.pid;
        CliError::failed(format!("cannot stop the agent on `{dir}`, pid {pid}: {error}"))
    };
    // A handle, so that another process that gets the number meanwhile is not waited for.
    let agent =
        rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).map_err(failed)?;
    rustix::process::pidfd_send_signal(&agent, rustix::process::Signal::TERM).map_err(failed)?;
    // It becomes readable when the process ends.
    let mut ended = [PollFd::new(&agent, PollFlags::IN)];
    match poll(&mut ended, Timespec::try_from(STOP_LIMIT).ok().as_ref()).map_err(failed)? {
        0 => Err(CliError::failed(format!("the agent, pid {}, is still stopping", first.pid))),
        _ => Ok(ExitCode::SUCCESS),
    }
}
