//! The processes under which commands run, so that none of them ever outlives the build.
//!
//! ```text
//! netbuild run ──socket──► spawner (netbuild __spawn)      one thread, no files open but the socket
//!       │                     └─ fork ─► supervisor         one for each running command
//!       └───────control socket──────────►   └─ exec ─► the command and all that it starts
//! ```
//!
//! A supervisor is a *subreaper*: every process that its command leaves behind, however it hid,
//! becomes the supervisor's child and is killed when the command ends, when the runner asks for
//! it, or when the runner is gone (its end of the control socket closes, even on SIGKILL). When
//! somebody kills a supervisor, the spawner inherits what it watched over, and kills that.
//!
//! Commands are started from the spawner and not from the runner because the runner has threads
//! that write executables: a fork in one of them would inherit the descriptor and make the next
//! start of that executable fail with "text file busy".

use netbuild_proto::spawn::{Command, Exit, Signal};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::Mode,
    io::Errno,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags},
    process::{self, Pid, PidfdFlags, WaitOptions, WaitStatus},
};
use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
    fs::File,
    io::{self, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::{ffi::OsStringExt as _, net::UnixStream, process::CommandExt as _},
    },
    process::Stdio,
    time::{Duration, Instant},
};

/// The hidden subcommand of the executable that starts a spawner.
pub const SPAWN_COMMAND: &str = "__spawn";
/// How often the spawner and the supervisors look for processes that have ended: a supervisor that
/// was killed, what a command left behind.
const REAP_INTERVAL: Duration = Duration::from_secs(1);
/// How long a supervisor tries to kill what its command left behind. Only a process stuck in the
/// kernel survives SIGKILL for longer.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// The control socket, standard output and standard error of a command.
pub(crate) const DESCRIPTORS: usize = 3;

/// Runs as the spawner until the runner closes its end of the socket on standard input.
/// Must be called before the process starts any thread.
pub fn spawner_main() -> i32 {
    // Away from the terminal: Ctrl-C is for the runner, which then decides about the commands.
    // Fails only for a process that leads its group already, which is as good.
    let _ = process::setsid();
    close_inherited();
    // Without it, what a killed supervisor leaves is nobody's, as with any other parent.
    let _ = process::set_child_subreaper(Some(process::getpid()));
    let tick = rustix::event::Timespec::try_from(REAP_INTERVAL).ok();
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
        match receive(socket.as_fd()) {
            Ok(Some(descriptors)) => match fork_here() {
                0 => return supervise(descriptors),
                pid => supervisors.extend(Pid::from_raw(pid.max(0))),
            },
            Ok(None) => return 0,
            Err(_) => return 1,
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

/// Forks; 0 in the child. A failed fork (-1) closes the descriptors, which the runner sees.
#[expect(unsafe_code, reason = "fork has no safe form; this process has only one thread")]
fn fork_here() -> i32 {
    // SAFETY: the spawner never starts a thread, so the child's memory is consistent.
    unsafe { libc::fork() }
}

/// Receives the descriptors of the next command; `None` when the runner is gone.
fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<[OwnedFd; DESCRIPTORS]>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let message = loop {
        let mut buffers = [io::IoSliceMut::new(&mut byte)];
        match rustix::net::recvmsg(socket, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    if message.bytes == 0 {
        return Ok(None);
    }
    let descriptors: Vec<OwnedFd> = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => Some(rights),
            _ => None,
        })
        .flatten()
        .collect();
    match <[OwnedFd; DESCRIPTORS]>::try_from(descriptors) {
        Ok(descriptors) => Ok(Some(descriptors)),
        Err(_) => Err(io::Error::from(io::ErrorKind::InvalidData)),
    }
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

/// Runs one command and reports how it ended; the supervisor's exit code is of no interest.
fn supervise([control, stdout, stderr]: [OwnedFd; DESCRIPTORS]) -> i32 {
    // The spawner's socket must close when the spawner dies, whatever its supervisors do.
    let Ok(null) = File::open("/dev/null") else {
        return 1;
    };
    if rustix::stdio::dup2_stdin(null).is_err() {
        return 1;
    }
    let mut control = UnixStream::from(control);
    let Ok(Some(command)) = Command::read(&mut control) else {
        return 1;
    };
    if process::set_child_subreaper(Some(process::getpid())).is_err() {
        return 1;
    }
    process::umask(Mode::from_raw_mode(0o022));
    let exit = match start(&command, stdout, stderr) {
        Ok(child) => watch(child, &mut control),
        Err(error) => Exit::NotStarted(error.raw_os_error().unwrap_or(0)),
    };
    kill_descendants(&mut HashSet::new());
    i32::from(exit.write(&mut control).and_then(|()| control.flush()).is_err())
}

#[expect(unsafe_code, reason = "the parent-death signal can only be set between fork and exec")]
fn start(command: &Command, stdout: OwnedFd, stderr: OwnedFd) -> io::Result<Pid> {
    let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let mut argv = command.argv.iter().map(|arg| text(arg));
    let program = argv.next().ok_or(io::ErrorKind::InvalidInput)?;
    let mut child = std::process::Command::new(program);
    child
        .args(argv)
        .env_clear()
        .envs(command.env.iter().map(|(name, value)| (text(name), text(value))))
        .current_dir(text(&command.working_dir))
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        // A group of its own: a command that signals its group must not hit the supervisor.
        .process_group(0);
    // SAFETY: prctl is async-signal-safe and allocates nothing.
    unsafe {
        child.pre_exec(|| {
            process::set_parent_process_death_signal(Some(process::Signal::KILL))?;
            Ok(())
        });
    }
    let child = child.spawn()?;
    Ok(Pid::from_child(&child))
}

/// Waits until the command ends or the runner is gone.
fn watch(child: Pid, control: &mut UnixStream) -> Exit {
    let Ok(pidfd) = process::pidfd_open(child, PidfdFlags::empty()) else {
        // The kernel is too old, or out of descriptors: the command cannot be supervised.
        return Exit::NotStarted(Errno::NOSYS.raw_os_error());
    };
    let tick = rustix::event::Timespec::try_from(REAP_INTERVAL).ok();
    loop {
        let mut ready = [
            PollFd::new(&pidfd, PollFlags::IN),
            PollFd::from_borrowed_fd(control.as_fd(), PollFlags::IN),
        ];
        if let Err(error) = poll(&mut ready, tick.as_ref())
            && error != Errno::INTR
        {
            return Exit::NotStarted(error.raw_os_error());
        }
        let asked = !ready[1].revents().is_empty();
        while let Ok(Some((pid, status))) = process::wait(WaitOptions::NOHANG) {
            if pid == child {
                return exit_of(status);
            }
        }
        if asked {
            match Signal::read(control) {
                Ok(Some(Signal::Interrupt)) => signal_descendants(process::Signal::INT),
                Ok(Some(Signal::Terminate)) => signal_descendants(process::Signal::TERM),
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

/// Kills every process below this one, until there is none but the `spared` children, with what is
/// below them.
fn kill_descendants(spared: &mut HashSet<Pid>) {
    let deadline = Instant::now() + KILL_LIMIT;
    while Instant::now() < deadline {
        match process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, _))) => {
                spared.remove(&pid);
            }
            // No children, and so no descendants: the orphaned ones are children of a subreaper.
            Err(Errno::CHILD) => return,
            _ => {
                let left = descendants(spared);
                // Where no child is spared, the end of all of them is sure only when there is no
                // child to wait for: the list may miss one that moves up while it is made.
                if left.is_empty() && !spared.is_empty() {
                    return;
                }
                signal_all(process::Signal::KILL, &left);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

fn signal_descendants(signal: process::Signal) {
    signal_all(signal, &descendants(&HashSet::new()));
}

fn signal_all(signal: process::Signal, pids: &[Pid]) {
    for pid in pids {
        // It may have ended meanwhile.
        let _ = process::kill_process(*pid, signal);
    }
}

/// Every process below this one but the `spared` and what is below them, parents before children.
fn descendants(spared: &HashSet<Pid>) -> Vec<Pid> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    for entry in entries.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        let parent = pid.and_then(parent_of);
        if let (Some(pid), Some(parent)) = (pid, parent)
            && !Pid::from_raw(pid).is_some_and(|pid| spared.contains(&pid))
        {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![process::getpid().as_raw_pid()];
    let mut next = 0;
    while next < found.len() {
        found.extend(children.remove(&found[next]).unwrap_or_default());
        next += 1;
    }
    found.into_iter().skip(1).filter_map(Pid::from_raw).collect()
}

/// The parent in `/proc/PID/stat`, the second field after the parenthesised command name.
fn parent_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let rest = std::str::from_utf8(&stat[after_name..]).ok()?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}
