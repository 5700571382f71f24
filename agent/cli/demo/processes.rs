//! The processes of a demo: each is in a group of its own, so that Ctrl-C is for the demo alone, and
//! none outlives it, however it ends.

use crate::{errors::CliError, signals::Interrupt};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// From one look at a process, or at what an agent says, to the next.
pub(crate) const LOOK: Duration = Duration::from_millis(5);
/// How long anything may take that takes seconds; a build takes as long as it does.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a process may take to end in order before it is killed.
const END_LIMIT: Duration = Duration::from_secs(10);
/// Lines of a log that an error repeats.
const SHOWN_LINES: usize = 4;
/// Variables that would change what agents and builds do.
const OURS: [&str; 7] = [
    "NETBUILD_",
    "AWS_",
    "REDIS_",
    "CACHE_BACKEND",
    "PRIMARY_CACHE",
    "FORCE_CACHE",
    "BUILD_REGION",
];

/// A command with nothing of the caller's environment that concerns netbuild.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if OURS.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// A process that goes on beside the demo; ended when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command, which gets `signal` should the demo be killed; what it says on standard
    /// error goes to a file.
    pub(crate) fn start(
        command: &mut Command,
        log: &Path,
        signal: Signal,
    ) -> Result<Self, CliError> {
        let program = PathBuf::from(command.get_program());
        let file = File::create(log).map_err(|error| CliError::io("write", log, &error))?;
        die_with_parent(command.process_group(0).stderr(file), signal);
        let child = command.spawn().map_err(|error| CliError::io("start", &program, &error))?;
        Ok(Self { child, log: log.to_owned() })
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// The last that it said.
    pub(crate) fn said(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n  ")
    }

    /// SIGKILL, and its end.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// SIGTERM, if it has not ended.
    pub(crate) fn ask_to_end(&mut self) {
        if self.has_ended().is_some() {
            return;
        }
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may end at this moment.
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// Asks it to end, and makes it.
    fn end(&mut self) {
        self.ask_to_end();
        let limit = Instant::now() + END_LIMIT;
        while self.has_ended().is_none() && Instant::now() < limit {
            std::thread::sleep(LOOK);
        }
        self.kill();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Lets the kernel end the process with this one.
#[expect(
    unsafe_code,
    reason = "what runs between fork and exec has no safe form; it makes two system calls"
)]
fn die_with_parent(command: &mut Command, signal: Signal) {
    let parent = rustix::process::getpid();
    let ask = move || {
        set_parent_process_death_signal(Some(signal))?;
        // It may have died before it was asked for.
        match rustix::process::getppid() {
            Some(pid) if pid == parent => Ok(()),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    };
    // SAFETY: the closure allocates nothing and takes no lock.
    unsafe { command.pre_exec(ask) };
}

/// What a command printed, and how long it took.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) stdout: String,
    pub(crate) seconds: f64,
}

/// Runs commands to their end, unless somebody interrupts the demo.
#[derive(Debug)]
pub(crate) struct Runner {
    interrupt: Interrupt,
}

impl Runner {
    pub(crate) fn new(interrupt: Interrupt) -> Self {
        Self { interrupt }
    }

    pub(crate) fn interrupted(&self) -> Option<i32> {
        self.interrupt.signal()
    }

    /// Pauses for a moment; an error when the demo is interrupted.
    pub(crate) fn pause(&self) -> Result<(), CliError> {
        if self.interrupted().is_some() {
            return Err(CliError::failed("interrupted"));
        }
        std::thread::sleep(LOOK);
        Ok(())
    }

    /// Waits for something that takes seconds at most.
    pub(crate) fn wait_until(
        &self,
        what: &str,
        mut done: impl FnMut() -> Result<bool, CliError>,
    ) -> Result<(), CliError> {
        let limit = Instant::now() + PATIENCE;
        while !done()? {
            self.pause()?;
            if Instant::now() > limit {
                let seconds = PATIENCE.as_secs();
                return Err(CliError::failed(format!("waited {seconds} s in vain until {what}")));
            }
        }
        Ok(())
    }

    /// Runs a command that must succeed, and looks on while it runs.
    pub(crate) fn run(
        &self,
        command: &mut Command,
        at: &Path,
        mut look: impl FnMut() -> Result<(), CliError>,
    ) -> Result<Ran, CliError> {
        let stdout = at.with_extension("out");
        let file = File::create(&stdout).map_err(|error| CliError::io("write", &stdout, &error))?;
        let began = Instant::now();
        let mut process =
            Process::start(command.stdout(file), &at.with_extension("err"), Signal::TERM)?;
        let status = loop {
            if let Some(status) = process.has_ended() {
                break status;
            }
            look()?;
            self.pause()?;
        };
        let seconds = began.elapsed().as_secs_f64();
        if !status.success() {
            let words: Vec<_> =
                command.get_args().take(2).map(|arg| arg.to_string_lossy()).collect();
            let (words, said) = (words.join(" "), process.said());
            return Err(CliError::failed(format!(
                "`netbuild {words}` failed, {status}:\n  {said}"
            )));
        }
        let stdout =
            fs::read_to_string(&stdout).map_err(|error| CliError::io("read", &stdout, &error))?;
        Ok(Ran { stdout, seconds })
    }
}
