//! The processes under which commands run, so that none of them ever outlives the build.
//!
//! ```text
//! netbuild run ──socket──► spawner (netbuild __spawn)      one thread, no files open but the socket
//!       │                     └─ fork ─► supervisor         one for each command that runs at once
//!       └───────control socket──────────►   └─ exec ─► the command and all that it starts
//! ```
//!
//! A supervisor runs one command after the other. It is a *subreaper*: every process that its
//! command leaves behind, however it hid, becomes the supervisor's child and is killed when the
//! command ends, when the runner asks for it, or when the runner is gone (its end of the control
//! socket closes, even on SIGKILL). When somebody kills a supervisor, the spawner inherits what it
//! watched over, and kills that.
//!
//! Below a spawner of the second kind, in the session of the run, are the commands that have its terminal. A
//! supervisor there also tells when its command is stopped, as by Ctrl-Z; `terminal` says what the run does then.
//!
//! Commands are started from there and not from the runner because the runner has threads
//! that write executables: a fork in one of them would inherit the descriptor and make the next
//! start of that executable fail with "text file busy".

mod audit;
mod between;
mod descendants;
mod landlock;
mod namespaces;
mod start;

pub(crate) use audit::USED_NETWORK;
pub(crate) use landlock::version as landlock_version;

use crate::descriptors::Receiver;
use between::Between;
use descendants::{kill_descendants, signal_descendants};
use netbuild_proto::spawn::{Command, Confinement, Exit, Observed, Signal};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::Mode,
    io::Errno,
    process::{self, Pid, WaitOptions, WaitStatus},
};
use start::{Confined, NotStarted, Started, Starter, Streams};
use std::{
    collections::HashSet,
    fs::File,
    io::{self, Read as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
    time::Duration,
};

/// The hidden subcommand of the executable that starts a spawner.
pub const SPAWN_COMMAND: &str = "__spawn";
/// Its argument when commands below it are to have the terminal.
pub(crate) const AT_TERMINAL: &str = "at-terminal";
/// How often the spawner and the supervisors look for processes that have ended: a supervisor that
/// was killed, what a command left behind.
const REAP_INTERVAL: Duration = Duration::from_secs(1);
/// How often a supervisor looks whether a command that has the terminal was stopped: a person waits for it.
const STOP_INTERVAL: Duration = Duration::from_millis(50);

/// Runs as the spawner until the runner closes its end of the socket on standard input.
/// Must be called before the process starts any thread.
pub fn spawner_main() -> i32 {
    // Ctrl-C is for the runner, which then decides about the commands. In the session of the terminal a group of
    // its own keeps it away; elsewhere a session does. The latter fails only for a process that leads its group
    // already, which is as good.
    if std::env::args_os().any(|argument| argument == AT_TERMINAL) {
        let _ = process::setpgid(None, None);
    } else {
        let _ = process::setsid();
    }
    close_inherited();
    // Without it, what a killed supervisor leaves is nobody's, as with any other parent.
    let _ = process::set_child_subreaper(Some(process::getpid()));
    let tick = Timespec::try_from(REAP_INTERVAL).ok();
    let socket = io::stdin();
    let mut supervisors = HashSet::new();
    loop {
        let readable = poll(&mut [PollFd::new(&socket, PollFlags::IN)], tick.as_ref());
        bury(&mut supervisors);
        match readable {
            Ok(0) | Err(Errno::INTR) => continue,
            Ok(_) => {}
            Err(_) => return 1,
        }
        let mut receiver = Receiver::new(socket.as_fd());
        match receiver.read(&mut [0]) {
            Ok(0) => return 0,
            Ok(_) => {}
            Err(_) => return 1,
        }
        let Ok([control]) = receiver.take() else { return 1 };
        match fork_here() {
            0 => return supervise(control.into()),
            pid => supervisors.extend(Pid::from_raw(pid.max(0))),
        }
    }
}

/// Closes all descriptors but the standard ones: those that whoever started the runner left open
/// are no business of a command.
#[expect(unsafe_code, reason = "descriptors that nothing here knows of have no safe form")]
fn close_inherited() {
    const FIRST: libc::c_uint = 3;
    // SAFETY: the process has just begun and has opened nothing, so nobody owns these descriptors.
    // A kernel before 5.9 refuses, and they stay open.
    unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, 0) };
}

/// Forks; 0 in the child. A failed fork (-1) closes the descriptor, which the runner sees.
#[expect(unsafe_code, reason = "fork has no safe form; this process has only one thread")]
fn fork_here() -> i32 {
    // SAFETY: the spawner never starts a thread, so the child's memory is consistent.
    unsafe { libc::fork() }
}

/// Collects supervisors that have ended, and kills what those left that did not end well.
fn bury(supervisors: &mut HashSet<Pid>) {
    let mut orphans = false;
    while let Ok(Some((pid, status))) = process::wait(WaitOptions::NOHANG) {
        orphans |= supervisors.remove(&pid) && status.exit_status() != Some(0);
    }
    if orphans {
        kill_descendants(supervisors);
    }
}

/// Runs commands until the runner has no more of them; 0 when nothing is left behind.
fn supervise(mut control: UnixStream) -> i32 {
    // The spawner's socket must close when the spawner dies, whatever its supervisors do.
    let Ok(null) = File::open("/dev/null") else { return 1 };
    if rustix::stdio::dup2_stdin(null).is_err()
        || process::set_child_subreaper(Some(process::getpid())).is_err()
    {
        return 1;
    }
    process::umask(Mode::from_raw_mode(0o022));
    let mut starter = Starter::default();
    loop {
        let mut receiver = Receiver::new(control.as_fd());
        let command = match Command::read(&mut receiver) {
            Ok(Some(command)) => command,
            Ok(None) => return 0,
            Err(_) => return 1,
        };
        // They stay open here until the runner knows the end, which so hears of it once.
        let streams = match command.has_terminal {
            true => receiver.take().map(|[stdout, stderr, terminal]| Streams {
                terminal: Some(terminal),
                printed: [stdout, stderr],
            }),
            false => receiver.take().map(|printed| Streams { terminal: None, printed }),
        };
        let Ok(streams) = streams else { return 1 };
        if !run_one(&mut starter, &command, &streams, &mut control) {
            return 0;
        }
    }
}

/// Runs one command and reports how it ended. Says whether the runner is still there.
fn run_one(
    starter: &mut Starter,
    command: &Command,
    streams: &Streams,
    control: &mut UnixStream,
) -> bool {
    let (exit, observed) = match start(starter, command, streams) {
        Ok(Process::Command(started)) => {
            (watch(&started, control, command.has_terminal), Observed::default())
        }
        Ok(Process::Between(between)) => {
            let ended = watch(&between.started, control, false);
            // Whoever told of the command has ended, and with it all that it watched.
            between.told(ended)
        }
        Err(exit) => (exit, Observed::default()),
    };
    kill_descendants(&mut HashSet::new());
    let watched = matches!(command.confinement, Some(Confinement::Audit(_)));
    exit.write(control).is_ok() && (!watched || observed.write(control).is_ok())
}

/// What a supervisor waits for.
enum Process {
    Command(Started),
    Between(Between),
}

fn start(starter: &mut Starter, command: &Command, streams: &Streams) -> Result<Process, Exit> {
    let rules = match &command.confinement {
        Some(Confinement::Namespaces(namespaces)) => {
            let started = namespaces::start(starter, command, namespaces, streams);
            return started.map(Process::Between);
        }
        Some(Confinement::Audit(audit)) => {
            return audit::start(starter, command, audit, streams).map(Process::Between);
        }
        Some(Confinement::Landlock(wanted)) => Some(landlock::rules(wanted)?),
        None => None,
    };
    let confined = match &rules {
        Some(rules) => Confined::landlock(rules.as_fd()),
        None => Confined::default(),
    };
    starter.start(command, streams, &confined).map(Process::Command).map_err(not_started)
}

fn not_started(why: NotStarted) -> Exit {
    match why {
        NotStarted::Command(errno) => Exit::NotStarted(errno.raw_os_error()),
        NotStarted::Confinement(errno) => {
            Exit::Refused("the kernel refused to confine it".to_owned(), errno.raw_os_error())
        }
    }
}

/// Waits until the command ends or the runner is gone. Of one that has the terminal it tells when it is stopped.
fn watch(child: &Started, control: &mut UnixStream, has_terminal: bool) -> Exit {
    let (tick, wanted) = match has_terminal {
        true => (STOP_INTERVAL, WaitOptions::NOHANG | WaitOptions::UNTRACED),
        false => (REAP_INTERVAL, WaitOptions::NOHANG),
    };
    let tick = Timespec::try_from(tick).ok();
    loop {
        let mut ready = [
            PollFd::new(&child.pidfd, PollFlags::IN),
            PollFd::from_borrowed_fd(control.as_fd(), PollFlags::IN),
        ];
        if let Err(error) = poll(&mut ready, tick.as_ref())
            && error != Errno::INTR
        {
            return Exit::NotStarted(error.raw_os_error());
        }
        let asked = !ready[1].revents().is_empty();
        while let Ok(Some((pid, status))) = process::wait(wanted) {
            match pid == child.pid {
                true if !status.stopped() => return exit_of(status),
                // When the runner has gone, the next look at its socket says so.
                true => drop(Exit::Stopped.write(control)),
                false => {}
            }
        }
        if asked {
            match Signal::read(control) {
                Ok(Some(Signal::Interrupt)) => signal_descendants(process::Signal::INT),
                Ok(Some(Signal::Terminate)) => signal_descendants(process::Signal::TERM),
                Ok(Some(Signal::Continue)) => signal_descendants(process::Signal::CONT),
                Ok(Some(Signal::Kill)) | Ok(None) | Err(_) => {
                    kill_descendants(&mut HashSet::new());
                    return Exit::Signal(process::Signal::KILL.as_raw());
                }
            }
        }
    }
}

fn exit_of(status: WaitStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, signal) => Exit::Signal(signal.unwrap_or(0)),
    }
}
