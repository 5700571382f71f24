//! The runner's side of running a command: start it under a supervisor, read what it prints, wait,
//! and stop it on a time-out or a cancellation.

use crate::{
    masking::Masker,
    supervisor::{DESCRIPTORS, SPAWN_COMMAND},
};
use netbuild_proto::{
    log::{Log, Stream},
    spawn::{Command, Exit, Signal},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags},
    pipe::{PipeFlags, pipe_with},
};
use std::{
    fmt,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Child, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

/// Between asking a command to end and killing it.
pub(crate) const GRACE: Duration = Duration::from_secs(5);
/// How often a waiting runner looks for time-outs and cancellation.
const TICK: Duration = Duration::from_millis(50);
/// Bytes read from a pipe at once: the size of a Linux pipe.
const PIPE_BYTES: usize = 64 * 1024;

/// Asks a run to stop; shared with whoever may ask.
#[derive(Debug, Default)]
pub struct Cancel(AtomicU8);

impl Cancel {
    /// Stops new work, and asks what runs to end. Asked again, kills it.
    pub fn request(&self) {
        // A race of two requests may count as one; the third makes up for it.
        let level = self.0.load(Ordering::SeqCst);
        self.0.store(level.saturating_add(1).min(2), Ordering::SeqCst);
    }

    /// Whether the run is to stop.
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }

    fn is_hard(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 1
    }
}

/// How a command ended, and what it printed.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) ending: Ending,
    pub(crate) log: Log,
    pub(crate) duration: Duration,
}

/// How a command ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    Code(i32),
    Signal(i32),
    TimedOut,
    Cancelled,
    NotStarted(String),
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
            Self::Lost => f.write_str("lost its supervisor, which somebody killed"),
        }
    }
}

/// Starts commands through one helper process. Used from several threads.
#[derive(Debug)]
pub(crate) struct Spawner {
    socket: Mutex<UnixStream>,
    child: Mutex<Child>,
}

impl Spawner {
    /// Starts the helper: `executable` must call `spawner_main` when its first argument says so.
    pub(crate) fn start(executable: &std::path::Path) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let child = std::process::Command::new(executable)
            .arg(SPAWN_COMMAND)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { socket: Mutex::new(ours), child: Mutex::new(child) })
    }

    /// Runs a command to its end. The values of `secrets` do not show in its log.
    pub(crate) fn run(
        &self,
        command: &Command,
        timeout: Option<Duration>,
        cancel: &Cancel,
        secrets: &[Vec<u8>],
    ) -> io::Result<Finished> {
        let (control, their_control) = UnixStream::pair()?;
        let (stdout, their_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, their_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        self.hand_over([their_control.as_fd(), their_stdout.as_fd(), their_stderr.as_fd()])?;
        drop((their_control, their_stdout, their_stderr));
        command.write(&mut &control)?;
        let started = Instant::now();
        let program = command.argv.first().map(|name| String::from_utf8_lossy(name).into_owned());
        let running = Running {
            program: program.unwrap_or_default(),
            control,
            pipes: [(Stream::Stdout, stdout), (Stream::Stderr, stderr)].map(|(stream, pipe)| {
                Pipe { stream, open: Some(pipe), masker: Masker::new(secrets) }
            }),
            log: Log::default(),
            started,
            deadline: timeout.map(|timeout| started + timeout),
            stopping: None,
        };
        running.wait(cancel)
    }

    fn hand_over(&self, descriptors: [BorrowedFd<'_>; DESCRIPTORS]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let byte = [IoSlice::new(&[1])];
            let sent = rustix::net::sendmsg(&*socket, &byte, &mut ancillary, SendFlags::NOSIGNAL);
            match sent {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => return Ok(()),
            }
        }
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        let socket = self.socket.get_mut().unwrap_or_else(PoisonError::into_inner);
        // The helper ends when it reads the end of the stream; nothing can be done if it is gone.
        drop(socket.shutdown(std::net::Shutdown::Both));
        drop(self.child.get_mut().unwrap_or_else(PoisonError::into_inner).wait());
    }
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

#[derive(Debug)]
struct Running {
    program: String,
    control: UnixStream,
    pipes: [Pipe; 2],
    log: Log,
    started: Instant,
    deadline: Option<Instant>,
    stopping: Option<Stopping>,
}

impl Running {
    fn wait(mut self, cancel: &Cancel) -> io::Result<Finished> {
        let mut buffer = vec![0; PIPE_BYTES];
        let mut ended = None;
        while ended.is_none() || self.pipes.iter().any(|pipe| pipe.open.is_some()) {
            let ready = self.poll(ended.is_none())?;
            // A command ends after all that it started. A pipe that is still open then is held by
            // a process out of reach, which must not hold up the run.
            if ended.is_some() && ready.pipes == [false; 2] {
                break;
            }
            self.read_pipes(&ready, &mut buffer)?;
            if ended.is_none() {
                if ready.control {
                    let exit = Exit::read(&mut self.control)?;
                    ended = Some((exit, self.started.elapsed()));
                } else {
                    self.enforce(Instant::now(), cancel);
                }
            }
        }
        let at_ms = self.at_ms();
        for pipe in self.pipes.iter_mut().filter(|pipe| pipe.open.is_some()) {
            let shown = pipe.masker.finish();
            if !shown.is_empty() {
                self.log.push(at_ms, pipe.stream, &shown);
            }
        }
        let (exit, duration) = ended.unwrap_or((None, self.started.elapsed()));
        let ending = match (self.stopping, exit) {
            (Some(stopping), _) => stopping.ending,
            (None, Some(Exit::Code(code))) => Ending::Code(code),
            (None, Some(Exit::Signal(signal))) => Ending::Signal(signal),
            (None, Some(Exit::NotStarted(errno))) => {
                let error = io::Error::from_raw_os_error(errno);
                Ending::NotStarted(format!("`{}`: {error}", self.program))
            }
            (None, None) => Ending::Lost,
        };
        Ok(Finished { ending, log: self.log, duration })
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
        let pipes = [next(self.pipes[0].open.is_some()), next(self.pipes[1].open.is_some())];
        Ok(Ready { pipes, control: next(with_control) })
    }

    fn at_ms(&self) -> u32 {
        u32::try_from(self.started.elapsed().as_millis()).unwrap_or(u32::MAX)
    }

    fn read_pipes(&mut self, ready: &Ready, buffer: &mut [u8]) -> io::Result<()> {
        let at_ms = self.at_ms();
        for (pipe, ready) in self.pipes.iter_mut().zip(ready.pipes) {
            let Some(open) = pipe.open.as_ref().filter(|_| ready) else {
                continue;
            };
            let shown = match rustix::io::read(open, &mut *buffer) {
                Ok(0) => {
                    pipe.open = None;
                    pipe.masker.finish()
                }
                Ok(count) => pipe.masker.push(&buffer[..count]),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            if !shown.is_empty() {
                self.log.push(at_ms, pipe.stream, &shown);
            }
        }
        Ok(())
    }

    /// Stops the command when its time is over or the run is cancelled, and kills it when it does
    /// not stop. A supervisor that is gone already needs no signal.
    fn enforce(&mut self, now: Instant, cancel: &Cancel) {
        let kill_at = now + GRACE;
        match &mut self.stopping {
            None if cancel.is_requested() => {
                drop(Signal::Interrupt.write(&mut &self.control));
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

#[derive(Debug)]
struct Ready {
    pipes: [bool; 2],
    control: bool,
}
