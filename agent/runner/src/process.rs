//! The runner's side of running a command: start it under a supervisor, read what it prints, wait,
//! and stop it on a time-out or a cancellation.

use crate::{
    descriptors::Sender,
    masking::Masker,
    service::Ear,
    supervisor::{AT_TERMINAL, SPAWN_COMMAND},
    terminal::Lent,
};
use netbuild_proto::{
    log::{Log, Stream},
    spawn::{Command, Confinement, Exit, Observed, Signal},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
};
use std::{
    fmt,
    io::{self, Write as _},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Child, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

/// Between asking a command to end and killing it.
pub(crate) const GRACE: Duration = Duration::from_secs(5);
/// How often a waiting runner looks for time-outs and cancellation.
const TICK: Duration = Duration::from_millis(50);
/// Bytes read from a pipe at once: the size of a Linux pipe.
const PIPE_BYTES: usize = 64 * 1024;
const LEAST_BYTES: usize = 4 * 1024;

/// Asks a run to stop; shared with whoever may ask.
#[derive(Debug, Default)]
pub struct Cancel {
    level: AtomicU8,
    by_key: AtomicBool,
}

impl Cancel {
    /// Stops new work, and asks what runs to end. Asked again, kills it.
    pub fn request(&self) {
        // A race of two requests may count as one; the third makes up for it.
        let level = self.level.load(Ordering::SeqCst);
        self.level.store(level.saturating_add(1).min(2), Ordering::SeqCst);
    }

    /// The same, since Ctrl-C ended a command that had the terminal, so that the run did not hear of it.
    fn interrupt(&self) {
        self.by_key.store(true, Ordering::SeqCst);
        self.request();
    }

    /// Whether the run is to stop since Ctrl-C ended a command that had the terminal.
    pub fn is_by_key(&self) -> bool {
        self.by_key.load(Ordering::SeqCst)
    }

    /// Whether the run is to stop.
    pub fn is_requested(&self) -> bool {
        self.level.load(Ordering::SeqCst) > 0
    }

    pub(crate) fn is_hard(&self) -> bool {
        self.level.load(Ordering::SeqCst) > 1
    }
}

/// How a command ended, and what it printed.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) ending: Ending,
    pub(crate) log: Log,
    pub(crate) duration: Duration,
    /// What it did, when it was watched.
    pub(crate) observed: Option<Observed>,
}

/// How a command ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    Code(i32),
    Signal(i32),
    TimedOut,
    Cancelled,
    NotStarted(String),
    /// It could not be confined as it was to be, for this reason, and was not started.
    Refused {
        why: String,
        /// It may be otherwise the next time.
        passing: bool,
    },
    /// The supervisor vanished; somebody killed it.
    Lost,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(signal) => write!(f, "was ended by signal {signal}"),
            Self::TimedOut => f.write_str("took longer than its timeout"),
            Self::Cancelled => f.write_str("was cancelled"),
            Self::NotStarted(error) => write!(f, "could not be started: {error}"),
            Self::Refused { why, .. } => write!(f, "could not be confined: {why}"),
            Self::Lost => f.write_str("lost its supervisor, which somebody killed"),
        }
    }
}

/// Starts commands through one helper process and the supervisors that it forks. Used from
/// several threads.
#[derive(Debug)]
pub(crate) struct Spawner {
    socket: UnixStream,
    child: Mutex<Child>,
    /// Control sockets of supervisors that have nothing to do.
    idle: Mutex<Vec<UnixStream>>,
}

impl Spawner {
    /// Starts the helper: `executable` must call `spawner_main` when its first argument says so.
    pub(crate) fn start(executable: &std::path::Path, session: Session) -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        let child = std::process::Command::new(executable)
            .arg(SPAWN_COMMAND)
            .args((session == Session::OfTerminal).then_some(AT_TERMINAL))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { socket, child: Mutex::new(child), idle: Mutex::default() })
    }

    /// Runs a command to its end. The values of `secrets` do not show in its log.
    pub(crate) fn run(
        &self,
        command: &Command,
        timeout: Option<Duration>,
        cancel: &Cancel,
        secrets: &[Vec<u8>],
    ) -> io::Result<Finished> {
        let mut running = self.begin(command, secrets, Sink::Log(Log::default()))?;
        running.deadline = timeout.map(|timeout| running.started + timeout);
        let (finished, control) = running.wait(cancel)?;
        self.idle().extend(control);
        Ok(finished)
    }

    /// Runs a command that has the terminal to its end.
    pub(crate) fn run_at_terminal(
        &self,
        command: &Command,
        lent: Lent,
        timeout: Option<Duration>,
        cancel: &Cancel,
        stdout: Stdout,
    ) -> io::Result<Finished> {
        let (stdin, stderr, own_stdout) = (io::stdin(), io::stderr(), io::stdout());
        let stdout = match stdout {
            Stdout::OfRun => own_stdout.as_fd(),
            Stdout::Stderr => stderr.as_fd(),
        };
        let control = self.hand_over(command, &[stdout, stderr.as_fd(), stdin.as_fd()])?;
        let mut running = Running::new(command, control, Vec::new(), Sink::Log(Log::default()));
        running.lent = Some(lent);
        running.deadline = timeout.map(|timeout| running.started + timeout);
        let (finished, control) = running.wait(cancel)?;
        self.idle().extend(control);
        Ok(finished)
    }

    /// Starts a command, of which somebody else has to wait for the end.
    pub(crate) fn begin(
        &self,
        command: &Command,
        secrets: &[Vec<u8>],
        sink: Sink,
    ) -> io::Result<Running> {
        let (stdout, their_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, their_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        let control = self.hand_over(command, &[their_stdout.as_fd(), their_stderr.as_fd()])?;
        drop((their_stdout, their_stderr));
        let pipes = [(Stream::Stdout, stdout), (Stream::Stderr, stderr)];
        let pipes = pipes.map(|(stream, pipe)| Pipe {
            stream,
            open: Some(pipe),
            masker: Masker::new(secrets),
        });
        Ok(Running::new(command, control, pipes.into(), sink))
    }

    /// Gives a command to a supervisor that has nothing to do; its control socket.
    fn hand_over(&self, command: &Command, streams: &[BorrowedFd<'_>]) -> io::Result<UnixStream> {
        loop {
            let idle = self.idle().pop();
            let is_new = idle.is_none();
            let control = idle.map_or_else(|| self.supervisor(), Ok)?;
            match command.write(&mut Sender::new(&control, streams)) {
                Ok(()) => return Ok(control),
                // Somebody killed it while it had nothing to do.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe && !is_new => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<UnixStream>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes another supervisor; its control socket.
    fn supervisor(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        Sender::new(&self.socket, &[theirs.as_fd()]).write_all(&[1])?;
        Ok(ours)
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        // Supervisors end with their sockets, and the helper when it reads the end of its own; nothing
        // can be done if it is gone.
        self.idle.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        drop(self.socket.shutdown(std::net::Shutdown::Both));
        drop(self.child.get_mut().unwrap_or_else(PoisonError::into_inner).wait());
    }
}

/// The session of the terminals of a helper and its commands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Session {
    /// One of its own, without a terminal.
    Own,
    /// That of the run, for commands that have its terminal.
    OfTerminal,
}

/// What standard output is for a command that has the terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stdout {
    /// As for the run.
    OfRun,
    /// Standard error, as the run prints data on its standard output.
    Stderr,
}

/// Why a command was told to stop, and when it will be killed for not doing so.
#[derive(Debug)]
struct Stopping {
    ending: Ending,
    kill_at: Instant,
    killed: bool,
}

/// One stream that a command prints to.
#[derive(Debug)]
struct Pipe {
    stream: Stream,
    /// `None` once every process that could write to it is gone.
    open: Option<OwnedFd>,
    masker: Masker,
}

/// Who takes what a command prints.
#[derive(Debug)]
pub(crate) enum Sink {
    /// The log of a task.
    Log(Log),
    /// Whoever listens to a service.
    Ear(Arc<Ear>),
}

impl Sink {
    fn take(&mut self, at_ms: u32, stream: Stream, bytes: &[u8]) {
        match self {
            _ if bytes.is_empty() => {}
            Self::Log(log) => log.push(at_ms, stream, bytes),
            Self::Ear(ear) => ear.hear(bytes),
        }
    }

    /// The signal that asks a command to end: a task is interrupted, a service was not to end by itself.
    fn polite(&self) -> Signal {
        match self {
            Self::Log(_) => Signal::Interrupt,
            Self::Ear(_) => Signal::Terminate,
        }
    }
}

/// A command that runs.
#[derive(Debug)]
pub(crate) struct Running {
    /// Whether what it did is told after its end.
    is_watched: bool,
    program: String,
    control: UnixStream,
    pipes: Vec<Pipe>,
    sink: Sink,
    started: Instant,
    deadline: Option<Instant>,
    stopping: Option<Stopping>,
    /// The terminal, if the command has it.
    lent: Option<Lent>,
}

impl Running {
    fn new(command: &Command, control: UnixStream, pipes: Vec<Pipe>, sink: Sink) -> Self {
        let program = command.argv.first().map(|name| String::from_utf8_lossy(name).into_owned());
        Self {
            is_watched: matches!(command.confinement, Some(Confinement::Audit(_))),
            program: program.unwrap_or_default(),
            control,
            pipes,
            sink,
            started: Instant::now(),
            deadline: None,
            stopping: None,
            lent: None,
        }
    }

    /// Waits for the end; also gives back the control socket of a supervisor that can take another
    /// command.
    pub(crate) fn wait(mut self, cancel: &Cancel) -> io::Result<(Finished, Option<UnixStream>)> {
        let mut buffer = Vec::new();
        let mut ended = None;
        let mut observed = None;
        while ended.is_none() || self.pipes.iter().any(|pipe| pipe.open.is_some()) {
            let ready = self.poll(ended.is_none())?;
            // A command ends after all that it started. A pipe that is still open then is held by
            // a process out of reach, which must not hold up the run.
            if ended.is_some() && !ready.pipes.contains(&true) {
                break;
            }
            self.read_pipes(&ready, &mut buffer)?;
            if ended.is_none() {
                if ready.control {
                    let exit = Exit::read(&mut self.control)?;
                    if exit == Some(Exit::Stopped) {
                        self.rest(cancel)?;
                        continue;
                    }
                    if self.is_watched {
                        observed = Observed::read(&mut self.control)?;
                    }
                    ended = Some((exit, self.started.elapsed()));
                } else {
                    self.enforce(Instant::now(), cancel);
                }
            }
        }
        let at_ms = self.at_ms();
        for pipe in self.pipes.iter_mut().filter(|pipe| pipe.open.is_some()) {
            self.sink.take(at_ms, pipe.stream, &pipe.masker.finish());
        }
        let (exit, duration) = ended.unwrap_or((None, self.started.elapsed()));
        // A supervisor that was told to stop a command may read of it only when it is over.
        let reusable = exit.is_some() && self.stopping.is_none();
        let ending = match (self.stopping, exit) {
            (Some(stopping), _) => stopping.ending,
            (None, Some(Exit::Signal(libc::SIGINT))) if self.lent.is_some() => {
                cancel.interrupt();
                Ending::Cancelled
            }
            (None, Some(Exit::Code(code))) => Ending::Code(code),
            (None, Some(Exit::Signal(signal))) => Ending::Signal(signal),
            (None, Some(Exit::NotStarted(errno))) => {
                let error = io::Error::from_raw_os_error(errno);
                Ending::NotStarted(format!("`{}`: {error}", self.program))
            }
            (None, Some(Exit::Refused(what, errno))) => refused(what, errno),
            (None, None | Some(Exit::Stopped)) => Ending::Lost,
        };
        let control = reusable.then_some(self.control);
        let log = match self.sink {
            Sink::Log(log) => log,
            Sink::Ear(_) => Log::default(),
        };
        Ok((Finished { ending, log, duration, observed }, control))
    }

    fn poll(&self, with_control: bool) -> io::Result<Ready> {
        let mut fds = Vec::with_capacity(3);
        for pipe in &self.pipes {
            fds.extend(pipe.open.as_ref().map(|open| PollFd::new(open, PollFlags::IN)));
        }
        if with_control {
            fds.push(PollFd::new(&self.control, PollFlags::IN));
        }
        let wait = if with_control { TICK } else { Duration::ZERO };
        match poll(&mut fds, Timespec::try_from(wait).ok().as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut revents = fds.iter().map(|fd| !fd.revents().is_empty());
        let mut next = |present: bool| present && revents.next().unwrap_or(false);
        let pipes = self.pipes.iter().map(|pipe| next(pipe.open.is_some())).collect();
        Ok(Ready { pipes, control: next(with_control) })
    }

    fn at_ms(&self) -> u32 {
        u32::try_from(self.started.elapsed().as_millis()).unwrap_or(u32::MAX)
    }

    fn read_pipes(&mut self, ready: &Ready, buffer: &mut Vec<u8>) -> io::Result<()> {
        let at_ms = self.at_ms();
        // Most commands say little or nothing.
        if buffer.is_empty() {
            buffer.resize(LEAST_BYTES, 0);
        }
        for (pipe, ready) in self.pipes.iter_mut().zip(&ready.pipes) {
            let Some(open) = pipe.open.as_ref().filter(|_| *ready) else {
                continue;
            };
            let shown = match rustix::io::read(open, &mut buffer[..]) {
                Ok(0) => {
                    pipe.open = None;
                    pipe.masker.finish()
                }
                Ok(count) => {
                    let shown = pipe.masker.push(&buffer[..count]);
                    if count == buffer.len() {
                        buffer.resize(PIPE_BYTES, 0);
                    }
                    shown
                }
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            self.sink.take(at_ms, pipe.stream, &shown);
        }
        Ok(())
    }

    /// Stops with the command, which has the terminal and was stopped, and goes on with it. The time that it has does
    /// not go on meanwhile.
    fn rest(&mut self, cancel: &Cancel) -> io::Result<()> {
        let Some(lent) = &self.lent else { return Ok(()) };
        let began = Instant::now();
        let goes_on = lent.rest(cancel).map_err(io::Error::other)?;
        self.deadline = self.deadline.map(|deadline| deadline + began.elapsed());
        if !goes_on {
            // It is to end, which a stopped one does not.
            self.enforce(Instant::now(), cancel);
        }
        drop(Signal::Continue.write(&mut &self.control));
        Ok(())
    }

    /// Stops the command when its time is over or the run is cancelled, and kills it when it does
    /// not stop. A supervisor that is gone already needs no signal.
    fn enforce(&mut self, now: Instant, cancel: &Cancel) {
        let kill_at = now + GRACE;
        match &mut self.stopping {
            None if cancel.is_requested() => {
                drop(self.sink.polite().write(&mut &self.control));
                let ending = Ending::Cancelled;
                self.stopping = Some(Stopping { ending, kill_at, killed: false });
            }
            None if self.deadline.is_some_and(|deadline| now >= deadline) => {
                drop(Signal::Terminate.write(&mut &self.control));
                let ending = Ending::TimedOut;
                self.stopping = Some(Stopping { ending, kill_at, killed: false });
            }
            Some(stopping) if !stopping.killed && (now >= stopping.kill_at || cancel.is_hard()) => {
                drop(Signal::Kill.write(&mut &self.control));
                stopping.killed = true;
            }
            _ => {}
        }
    }
}

/// A system that lacks memory, processes or descriptors now has them again later.
fn refused(what: String, errno: i32) -> Ending {
    const PASSING: [Errno; 6] =
        [Errno::AGAIN, Errno::NOMEM, Errno::MFILE, Errno::NFILE, Errno::INTR, Errno::BUSY];
    // Without a number, such as where the cause is no call of the system, it is none of them.
    let passing = PASSING.iter().any(|known| known.raw_os_error() == errno);
    match errno {
        0 => Ending::Refused { why: what, passing },
        _ => {
            let why = format!("{what}: {}", io::Error::from_raw_os_error(errno));
            Ending::Refused { why, passing }
        }
    }
}

#[derive(Debug)]
struct Ready {
    pipes: Vec<bool>,
    control: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_that_lacks_something_now_is_told_from_one_that_never_has_it() {
        for (errno, expected) in
            [(libc::EAGAIN, true), (libc::EMFILE, true), (libc::EPERM, false), (0, false)]
        {
            let ending = refused("no namespaces".into(), errno);
            assert!(matches!(ending, Ending::Refused { passing, .. } if passing == expected));
        }
    }
}
