//! The jobserver of GNU make, so that make, cargo and ninja inside of commands count among the jobs.
//!
//! As many tokens as there are jobs are in a named pipe. A command takes one before it starts, and
//! whatever understands `MAKEFLAGS` below it takes another one for each job beyond its first. When
//! the run itself is a job of make, the tokens are those of that make.
//!
//! Protocol: <https://www.gnu.org/software/make/manual/html_node/POSIX-Jobserver.html>.

use crate::{process::Cancel, workspace::WorkspaceError};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{CWD, FileType, Mode, OFlags},
    io::Errno,
};
use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// How often a command that waits for a token looks whether the run was cancelled.
const TICK: Duration = Duration::from_millis(50);
/// The byte that stands for a token; make takes any.
const TOKEN: u8 = b'+';
/// The descriptors of the pipe in a command whose make does not know named ones.
pub(crate) const INHERITED: [i32; 2] = [30, 31];

/// Where commands get tokens.
#[derive(Debug)]
pub(crate) enum JobServer {
    /// The run's own.
    Own(Tokens),
    /// That of the make that started the run. One command at a time has the run's own token.
    Parent {
        /// The pipe.
        client: jobserver::Client,
        /// Whether a command has the run's own.
        own_taken: Mutex<bool>,
    },
}

/// The right of a command to run.
#[derive(Debug)]
pub(crate) struct Token<'a> {
    server: &'a JobServer,
    /// Of the parent's, unless it is the one that the run itself has.
    taken: Option<jobserver::Acquired>,
}

impl JobServer {
    /// The server of the make that started this process, if one did.
    #[expect(unsafe_code, reason = "the variable may name descriptors that are something else")]
    pub(crate) fn of_parent() -> Option<Self> {
        // SAFETY: the crate checks that they are open pipes; make promises what they are.
        let client = unsafe { jobserver::Client::from_env_ext(true) }.client.ok()?;
        Some(Self::Parent { client, own_taken: Mutex::default() })
    }

    /// A token, once there is one. `None` when the run was cancelled meanwhile.
    pub(crate) fn acquire(&self, cancel: &Cancel) -> io::Result<Option<Token<'_>>> {
        loop {
            let taken = match self {
                Self::Own(tokens) => tokens.try_take()?.then_some(None),
                Self::Parent { client, own_taken } => {
                    let mut own_taken = own_taken.lock().unwrap_or_else(PoisonError::into_inner);
                    match std::mem::replace(&mut *own_taken, true) {
                        false => Some(None),
                        true => match client.try_acquire() {
                            // A pipe that can only be waited for: the run keeps to its own token.
                            Err(error) if error.kind() == io::ErrorKind::Unsupported => None,
                            taken => taken?.map(Some),
                        },
                    }
                }
            };
            match taken {
                Some(taken) => return Ok(Some(Token { server: self, taken })),
                None if cancel.is_requested() => return Ok(None),
                None => self.wait(),
            }
        }
    }

    fn wait(&self) {
        match self {
            Self::Own(tokens) => tokens.wait(),
            Self::Parent { .. } => std::thread::sleep(TICK),
        }
    }

    /// The value of `MAKEFLAGS` for a command, and the pipe that it inherits.
    pub(crate) fn flags(&self) -> Option<(String, Option<&Path>)> {
        match self {
            Self::Own(tokens) => Some(tokens.flags()),
            // A named pipe of the parent is there for commands too; its descriptors are not.
            Self::Parent { .. } => {
                let flags = std::env::var("MAKEFLAGS").ok()?;
                flags.contains("--jobserver-auth=fifo:").then_some((flags, None))
            }
        }
    }
}

/// The named pipe that flags of make speak of.
pub(crate) fn pipe_of(flags: &str) -> Option<&str> {
    let (_, rest) = flags.split_once("--jobserver-auth=fifo:")?;
    rest.split_ascii_whitespace().next()
}

impl Drop for Token<'_> {
    fn drop(&mut self) {
        match (self.server, self.taken.take()) {
            (JobServer::Own(tokens), _) => tokens.put_back(),
            (JobServer::Parent { .. }, Some(taken)) => drop(taken),
            (JobServer::Parent { own_taken, .. }, None) => {
                *own_taken.lock().unwrap_or_else(PoisonError::into_inner) = false;
            }
        }
    }
}

/// The tokens of a run.
#[derive(Debug)]
pub(crate) struct Tokens {
    path: PathBuf,
    pipe: Arc<OwnedFd>,
    jobs: usize,
    /// Whether the make in `PATH` knows named pipes (4.4 and newer) or there is none.
    named: bool,
    /// Commands that have a token.
    running: Mutex<usize>,
}

impl Tokens {
    /// Makes the pipe at `path`, with `jobs` tokens in it.
    pub(crate) fn new(path: PathBuf, jobs: usize, named: bool) -> Result<Self, WorkspaceError> {
        let make = || {
            let mode = Mode::RUSR | Mode::WUSR;
            rustix::fs::mknodat(CWD, &path, FileType::Fifo, mode, 0)?;
            // For both, so that opening does not wait and the tokens stay when nobody else has it.
            let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
            rustix::fs::open(&path, flags, Mode::empty())
        };
        match make() {
            Ok(pipe) => {
                Ok(Self { pipe: Arc::new(pipe), path, jobs, named, running: Mutex::default() })
            }
            Err(error) => Err(WorkspaceError { path, source: error.into() }),
        }
    }

    fn try_take(&self) -> io::Result<bool> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if *running == 0 {
            // What was killed cannot give its tokens back, so they are counted anew when all must be here.
            self.refill()?;
        }
        let taken = self.read()? > 0;
        *running += usize::from(taken);
        Ok(taken)
    }

    fn read(&self) -> io::Result<usize> {
        match rustix::io::read(&*self.pipe, &mut [0; 1]) {
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            other => Ok(other?),
        }
    }

    fn refill(&self) -> io::Result<()> {
        while self.read()? > 0 {}
        rustix::io::write(&*self.pipe, &vec![TOKEN; self.jobs])?;
        Ok(())
    }

    fn wait(&self) {
        let tick = Timespec::try_from(TICK).ok();
        // Whatever it says, the next look tells.
        let _ = poll(&mut [PollFd::new(&*self.pipe, PollFlags::IN)], tick.as_ref());
    }

    fn put_back(&self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        *running -= 1;
        // A token that cannot be written is there again when nothing runs.
        let _ = rustix::io::write(&*self.pipe, &[TOKEN]);
    }

    fn flags(&self) -> (String, Option<&Path>) {
        let jobs = self.jobs;
        if self.named {
            let path = self.path.display();
            return (format!(" -j{jobs} --jobserver-auth=fifo:{path}"), None);
        }
        let [read, write] = INHERITED;
        (format!(" -j{jobs} --jobserver-auth={read},{write}"), Some(&self.path))
    }
}

/// Whether a make that says this of its version knows named pipes.
pub(crate) fn knows_named_pipes(version: &[u8]) -> bool {
    let text = String::from_utf8_lossy(version);
    let Some(rest) = text.lines().next().and_then(|line| line.strip_prefix("GNU Make ")) else {
        // Another make, which does not know jobservers at all.
        return true;
    };
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0_u32));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (4, 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_makes_are_told_by_their_version() {
        for (version, named) in [
            ("GNU Make 4.3\nBuilt for x86_64\n", false),
            ("GNU Make 3.81", false),
            ("GNU Make 4.4.1", true),
            ("GNU Make 5.0", true),
            ("GNU Make 4.10", true),
            ("bmake", true),
            ("", true),
        ] {
            assert_eq!(knows_named_pipes(version.as_bytes()), named, "{version}");
        }
    }

    #[test]
    fn the_runs_own_token_is_used_again_while_others_keep_those_of_the_make() {
        let client = jobserver::Client::new(1).unwrap();
        let others = client.acquire().unwrap();
        let server = JobServer::Parent { client, own_taken: Mutex::default() };
        let others = Token { server: &server, taken: Some(others) };
        let cancel = Cancel::default();
        cancel.request();
        let take = || server.acquire(&cancel).unwrap();
        let own = take().unwrap();
        assert!(take().is_none());
        drop(own);
        let own = take().unwrap();
        drop(others);
        assert!(take().is_none(), "it is still taken");
        drop(own);
        assert!(take().is_some());
    }

    #[test]
    fn there_are_as_many_tokens_as_jobs_and_lost_ones_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let server = JobServer::Own(Tokens::new(dir.path().join("jobs"), 2, true).unwrap());
        let cancel = Cancel::default();
        let take = || server.acquire(&cancel).unwrap().unwrap();
        let JobServer::Own(tokens) = &server else { unreachable!() };
        let (one, two) = (take(), take());
        assert!(!tokens.try_take().unwrap());
        drop(one);
        // Something below the other command takes the free one, and is killed.
        assert_eq!(tokens.read().unwrap(), 1);
        assert!(!tokens.try_take().unwrap());
        drop(two);
        let both = (take(), take());
        cancel.request();
        assert!(server.acquire(&cancel).unwrap().is_none());
        drop(both);
    }
}
