//! The terminal of the run, which an interactive command has as long as it runs.
//!
//! It is lent as a shell lends it to a job: keys, and Ctrl-C among them, reach the command and not the run, until it
//! ends or is stopped by Ctrl-Z. Then the run takes the terminal back, with the modes that it had, and in the second
//! case stops itself, so that whoever started it has the prompt; when it goes on in the foreground, so does the command.

use crate::process::Cancel;
use rustix::{
    io::Errno,
    process::{Pid, getpgrp},
    termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetpgrp, tcsetattr, tcsetpgrp},
};
use std::{
    io::{self, Stdin},
    time::Duration,
};

/// How often a run in the background looks whether it is in the foreground.
const TICK: Duration = Duration::from_millis(100);

/// There is no terminal for a command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TerminalError {
    #[error(
        "it is interactive, and this run has no terminal: start `netbuild run` in one, with its \
         standard input"
    )]
    None,
    #[error("the terminal cannot be lent: {0}")]
    Refused(#[from] Errno),
}

/// Whether the run has a terminal that it can lend.
pub(crate) fn check() -> Result<(), TerminalError> {
    let stdin = io::stdin();
    // Of another session's terminal it cannot say whom keys reach.
    match isatty(&stdin) && tcgetpgrp(&stdin).is_ok() {
        true => Ok(()),
        false => Err(TerminalError::None),
    }
}

/// Waits until keys reach the run; says so when they do not. `false` when the run was cancelled meanwhile.
pub(crate) fn wait_for_foreground(
    cancel: &Cancel,
    say: impl FnOnce(&'static str),
) -> Result<bool, TerminalError> {
    let mut say = Some(say);
    while tcgetpgrp(io::stdin())? != getpgrp() {
        if cancel.is_requested() {
            return Ok(false);
        }
        if let Some(say) = say.take() {
            say(
                "it waits for the terminal, as this run is in the background: say `fg` to the shell",
            );
        }
        std::thread::sleep(TICK);
    }
    Ok(!cancel.is_requested())
}

/// The terminal, from before a command has it; the run's again when dropped.
#[derive(Debug)]
pub(crate) struct Lent {
    terminal: Stdin,
    /// As the run had it.
    modes: Termios,
    own_group: Pid,
    /// While the run is not the one whom keys reach, it is not stopped for what it does to the terminal.
    _unstopped: Unstopped,
}

impl Lent {
    pub(crate) fn new() -> Result<Self, TerminalError> {
        let terminal = io::stdin();
        let modes = tcgetattr(&terminal)?;
        Ok(Self { terminal, modes, own_group: getpgrp(), _unstopped: Unstopped::new() })
    }

    /// The command, which has the terminal, was stopped: stops the run as well, and lends the terminal again when it
    /// goes on in the foreground. `false` when the run was cancelled meanwhile.
    pub(crate) fn rest(&self, cancel: &Cancel) -> Result<bool, TerminalError> {
        // A job of the command, if that has jobs of its own.
        let group = tcgetpgrp(&self.terminal)?;
        let modes = tcgetattr(&self.terminal)?;
        self.take_back();
        stop_this_process();
        if !wait_for_foreground(cancel, |_| ())? {
            return Ok(false);
        }
        tcsetattr(&self.terminal, OptionalActions::Now, &modes)?;
        tcsetpgrp(&self.terminal, group)?;
        Ok(true)
    }

    /// A terminal that is gone needs nothing.
    fn take_back(&self) {
        let _ = tcsetpgrp(&self.terminal, self.own_group);
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.modes);
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.take_back();
    }
}

/// Ignores SIGTTOU until it is dropped.
#[derive(Debug)]
struct Unstopped(libc::sighandler_t);

impl Unstopped {
    #[expect(unsafe_code, reason = "dispositions of signals have no safe form")]
    fn new() -> Self {
        // SAFETY: no handler is installed.
        Self(unsafe { libc::signal(libc::SIGTTOU, libc::SIG_IGN) })
    }
}

impl Drop for Unstopped {
    #[expect(unsafe_code, reason = "dispositions of signals have no safe form")]
    fn drop(&mut self) {
        // SAFETY: it is what was there before.
        unsafe { libc::signal(libc::SIGTTOU, self.0) };
    }
}

/// Stops this process as Ctrl-Z does, until it is continued. Where nobody could continue it, the kernel does not.
#[expect(unsafe_code, reason = "rustix cannot signal this very thread, which is at once")]
fn stop_this_process() {
    // SAFETY: always sound.
    unsafe { libc::raise(libc::SIGTSTP) };
}
