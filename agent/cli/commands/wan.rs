//! `netbuild wan`: emulated links between sites on this machine.

use super::{print, print_json};
use crate::{
    args::{
        DEFAULT_SITES, WanCommand, WanExecArgs, WanNameArgs, WanSetArgs, WanStatusArgs, WanUpArgs,
    },
    errors::{CliError, EXIT_USAGE},
};
use netbuild_core::wan::{PROFILES, Profile, SiteSpec};
use netbuild_wan::{Mode, Options, Request, Response, Status, WanError};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::{
    ffi::OsString,
    fmt::Write as _,
    fs::OpenOptions,
    io::{BufRead as _, BufReader, Read as _, Seek as _},
    os::{
        fd::AsFd as _,
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::Path,
    process::{Command, ExitCode, Stdio},
};

/// The exit codes of shells for a command that cannot be run, and for one that is not there.
const EXIT_CANNOT_RUN: u8 = 126;
const EXIT_NOT_FOUND: u8 = 127;

pub(crate) fn wan(command: &WanCommand) -> Result<ExitCode, CliError> {
    match command {
        WanCommand::Up(args) if args.detach => detach(&args.which.name),
        WanCommand::Up(args) => up(args),
        WanCommand::Set(args) => set(args),
        WanCommand::Status(args) => status(args),
        WanCommand::Exec(args) => exec(args),
        WanCommand::Down(args) => down(args),
        WanCommand::Profiles => {
            print(&PROFILES.iter().map(describe).collect::<String>());
            Ok(ExitCode::SUCCESS)
        }
    }
}

impl From<WanError> for CliError {
    fn from(error: WanError) -> Self {
        let hint = error.hint();
        let error = Self::usage(error);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

fn up(args: &WanUpArgs) -> Result<ExitCode, CliError> {
    let sites = if args.sites.is_empty() {
        let parsed = DEFAULT_SITES.iter().map(|name| name.parse::<SiteSpec>());
        parsed.collect::<Result<_, _>>().map_err(WanError::from)?
    } else {
        args.sites.clone()
    };
    let options = Options {
        name: args.which.name.clone(),
        mode: if args.router { Mode::Router } else { Mode::Namespaces },
        sites,
        links: args.links.clone(),
        seed: args.seed,
    };
    let failed = |error| CliError::io("catch signals for", Path::new("netbuild wan"), &error);
    let (stop, signalled) = UnixStream::pair().map_err(failed)?;
    for signal in [SIGINT, SIGTERM] {
        signal_hook::low_level::pipe::register(signal, signalled.try_clone().map_err(failed)?)
            .map_err(failed)?;
    }
    netbuild_wan::up(&options, stop.as_fd(), |status| {
        let sites = status.sites.iter().map(|site| {
            format!("{} {}", site.name, site.address.as_deref().unwrap_or(&site.prefix))
        });
        print(&format!("{} is up: {}\n", status.name, sites.collect::<Vec<_>>().join(", ")));
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Starts this command again without `--detach`, away from the terminal, and returns with its
/// first line once packets pass.
fn detach(name: &str) -> Result<ExitCode, CliError> {
    if !rustix::process::geteuid().is_root() {
        return Err(WanError::NotRoot.into());
    }
    let path = netbuild_wan::log_path(name)?;
    let opened = OpenOptions::new().create(true).append(true).read(true).open(&path);
    let mut log = opened.map_err(|error| CliError::io("write", &path, &error))?;
    let start = |error| CliError::io("start", Path::new("netbuild wan up"), &error);
    let began = log.metadata().map_err(start)?.len();
    let mut child = Command::new(std::env::current_exe().map_err(start)?)
        .args(std::env::args_os().skip(1).filter(|arg| arg != "--detach"))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log.try_clone().map_err(start)?)
        // Ctrl-C in the terminal is not for it.
        .process_group(0)
        .spawn()
        .map_err(start)?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).map_err(start)?;
    }
    if line.is_empty() {
        let code = child.wait().map_err(start)?.code();
        let code = code.and_then(|code| u8::try_from(code).ok()).unwrap_or(EXIT_USAGE);
        let mut said = String::new();
        log.seek(std::io::SeekFrom::Start(began))
            .and_then(|_| log.read_to_string(&mut said))
            .map_err(start)?;
        let said = said.trim_end();
        let said = said.strip_prefix("netbuild: ").unwrap_or(said);
        return Err(CliError::failed(said).with_code(code));
    }
    print(&line);
    Ok(ExitCode::SUCCESS)
}

fn set(args: &WanSetArgs) -> Result<ExitCode, CliError> {
    let target = args.target.clone();
    let request = match &args.profile {
        Some(profile) => Request::Set { target, profile: profile.clone() },
        None => Request::Reset { target },
    };
    netbuild_wan::ask(&args.which.name, &request)?;
    Ok(ExitCode::SUCCESS)
}

fn status(args: &WanStatusArgs) -> Result<ExitCode, CliError> {
    let Response::Status(status) = netbuild_wan::ask(&args.which.name, &Request::Status)? else {
        return Err(CliError::failed("the emulator answered something else"));
    };
    if args.json {
        let value = serde_json::to_value(&status);
        print_json(&value.map_err(|error| CliError::failed(error.to_string()))?);
    } else {
        print(&to_text(&status));
    }
    Ok(ExitCode::SUCCESS)
}

fn exec(args: &WanExecArgs) -> Result<ExitCode, CliError> {
    let [program, rest @ ..] = args.command.as_slice() else {
        return Err(CliError::failed("there is no command"));
    };
    netbuild_wan::enter(&args.which.name, &args.site)?;
    let error = Command::new(program).args(rest).exec();
    let code = match error.kind() {
        std::io::ErrorKind::NotFound => EXIT_NOT_FOUND,
        _ => EXIT_CANNOT_RUN,
    };
    let program: &OsString = program;
    Err(CliError::io("run", Path::new(program), &error).with_code(code))
}

fn down(args: &WanNameArgs) -> Result<ExitCode, CliError> {
    if netbuild_wan::down(&args.name)? {
        return Ok(ExitCode::SUCCESS);
    }
    Err(CliError::failed(format!("no emulated links named `{}` are up", args.name)))
}

fn describe(profile: &Profile) -> String {
    let shape = &profile.shape;
    let what = if shape.is_cut() {
        "nothing passes".to_owned()
    } else if let Some(variation) = &profile.variation {
        format!(
            "{}-{} ms, {}-{} Mbit/s, a step every {} s",
            variation.delay_us.start() / 500,
            variation.delay_us.end() / 500,
            variation.rate_bits.start() / 1_000_000,
            variation.rate_bits.end() / 1_000_000,
            variation.every.as_secs(),
        )
    } else {
        let rtt_ms = shape.delay_us as f64 / 500.0;
        let loss = match shape.loss_ppm {
            0 => String::new(),
            ppm => format!(", {} % loss", f64::from(ppm) / 1e4),
        };
        format!("{rtt_ms} ms, {} Mbit/s{loss}", shape.rate_bits / 1_000_000)
    };
    format!("{:<11} {what:<44} {}\n", profile.name, profile.about)
}

fn to_text(status: &Status) -> String {
    let mut text = String::new();
    let mode = if status.router { "router" } else { "namespaces" };
    let late = if status.realtime { "" } else { ", without real-time priority" };
    // Writing to a string does not fail.
    let _ = writeln!(text, "{} is up: pid {}, {mode}{late}", status.name, status.pid);
    for site in &status.sites {
        let address = site.address.as_deref().unwrap_or(&site.prefix);
        let _ = writeln!(text, "  {:<16} {address}", site.name);
    }
    for link in &status.links {
        let _ = write!(text, "{} -> {}: {}", link.from, link.to, link.profile);
        if !link.cut {
            let _ = write!(text, ", {} ms, {} Mbit/s", link.delay_ms, link.rate_mbit);
            if link.loss > 0.0 {
                let _ = write!(text, ", {} % loss", link.loss * 1e2);
            }
        }
        let _ = write!(
            text,
            "; {} bytes wait; {} packets ({} bytes) passed",
            link.queued_bytes, link.passed, link.passed_bytes
        );
        let drops =
            [(link.dropped_queue, "queue"), (link.dropped_loss, "loss"), (link.dropped_cut, "cut")];
        for (count, why) in drops.into_iter().filter(|(count, _)| *count > 0) {
            let _ = write!(text, ", {count} dropped ({why})");
        }
        text.push('\n');
    }
    if status.unroutable + status.undelivered > 0 {
        let (lost, refused) = (status.unroutable, status.undelivered);
        let _ = writeln!(text, "{lost} packets between no two sites, {refused} not delivered");
    }
    text
}
