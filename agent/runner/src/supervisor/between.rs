//! A process between a supervisor and its command: the first one of namespaces, or a tracer.
//!
//! It is forked for one command, starts it, waits for its end, and leaves what it has to tell in a file without a
//! name that the supervisor reads when it is gone.

use super::start::Started;
use netbuild_proto::spawn::{Exit, Observed};
use rustix::{
    fs::MemfdFlags,
    io::Errno,
    process::{Pid, Signal},
};
use std::{
    fs::File,
    io::{Seek as _, Write as _},
    os::fd::{FromRawFd as _, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
};

/// A process that runs a command for the supervisor.
#[derive(Debug)]
pub(super) struct Between {
    pub(super) started: Started,
    report: File,
}

impl Between {
    /// Forks into these namespaces, none for 0. What `inside` returns is told; the new process has a copy of
    /// everything and must not return into what called this.
    #[expect(unsafe_code, reason = "clone has no safe form; this process has only one thread")]
    pub(super) fn fork(
        namespaces: libc::c_int,
        inside: impl FnOnce() -> (Exit, Observed),
    ) -> Result<Self, Errno> {
        let mut report = File::from(rustix::fs::memfd_create("netbuild", MemfdFlags::CLOEXEC)?);
        let mut pidfd: libc::c_int = -1;
        let flags = i64::from(namespaces | libc::CLONE_PIDFD | libc::SIGCHLD);
        // SAFETY: without a stack and without `CLONE_VM` this is a fork, of a process with a single thread; the
        // order of the null arguments behind the third differs between architectures.
        let pid = unsafe {
            libc::syscall(libc::SYS_clone, flags, 0_i64, ptr::from_mut(&mut pidfd), 0_i64, 0_i64)
        };
        if pid == 0 {
            let told = catch_unwind(AssertUnwindSafe(|| {
                // With the supervisor goes all that it watches over.
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                let (exit, observed) = inside();
                exit.write(&mut report)?;
                observed.write(&mut report)?;
                report.flush()
            }));
            let code = i32::from(!matches!(told, Ok(Ok(()))));
            // SAFETY: always sound; what the supervisor would do at its end is not this process's business.
            unsafe { libc::_exit(code) }
        }
        let pid = i32::try_from(pid).ok().and_then(|pid| Pid::from_raw(pid.max(0)));
        let pid = pid.ok_or_else(super::start::last_error)?;
        // SAFETY: the kernel has just made it, and nobody else knows of it.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(Self { started: Started { pid, pidfd }, report })
    }

    /// What the process told, which has ended as `ended` says.
    pub(super) fn told(mut self, ended: Exit) -> (Exit, Observed) {
        let mut read = || -> Option<(Exit, Observed)> {
            self.report.rewind().ok()?;
            let exit = Exit::read(&mut self.report).ok()??;
            Some((exit, Observed::read(&mut self.report).ok()??))
        };
        read().unwrap_or_else(|| {
            let unseen = vec!["the process that watched it was killed".to_owned()];
            let exit = match ended {
                // It failed itself; what it would have told of the command is not known.
                Exit::Code(_) => Exit::Refused("the process that starts it failed".to_owned(), 0),
                // Killed before it told anything, with the command.
                killed => killed,
            };
            (exit, Observed { files: Vec::new(), unseen })
        })
    }
}
