//! Starts a command without copying this process.
//!
//! `fork` copies the tables of all memory, and each page again that either side writes to; a child
//! that shares the memory until it executes (`clone` with `CLONE_VM | CLONE_VFORK`, as in
//! posix_spawn) costs a fifth of that. posix_spawn itself cannot set the parent-death signal.

use crate::jobserver::INHERITED;
use netbuild_proto::spawn::Command;
use rustix::{io::Errno, process::Pid};
use std::{
    ffi::{CString, c_char, c_int, c_void},
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    ptr,
};

/// Stack of the child until it executes something: a few calls deep, each with little on it.
const STACK: usize = 64 * 1024;
/// Where programs are looked for when a command has no `PATH`, as in `execvp`.
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";
/// What runs a file that is executable and that the kernel does not know how to execute.
const SHELL: &std::ffi::CStr = c"/bin/sh";

/// What a command reads from and prints to.
#[derive(Debug)]
pub(super) struct Streams {
    /// `None` for what this process reads.
    pub(super) terminal: Option<OwnedFd>,
    pub(super) printed: [OwnedFd; 2],
}

/// A command that runs.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) pid: Pid,
    /// Readable once it has ended.
    pub(super) pidfd: OwnedFd,
}

/// Why a command was not started.
#[derive(Debug)]
pub(super) enum NotStarted {
    /// It cannot be executed.
    Command(Errno),
    /// It cannot be kept in as it was to be.
    Confinement(Errno),
}

/// What a command puts on itself before it is executed.
#[derive(Debug, Default)]
pub(super) struct Confined<'a> {
    /// No program that it executes may have more rights than it.
    gives_up: bool,
    /// Landlock.
    rules: Option<BorrowedFd<'a>>,
    /// System calls that a tracer sees.
    filter: Option<&'a [libc::sock_filter]>,
    /// Where it waits for its tracer.
    gate: Option<BorrowedFd<'a>>,
}

impl<'a> Confined<'a> {
    pub(super) fn namespaces() -> Self {
        Self { gives_up: true, ..Self::default() }
    }

    pub(super) fn landlock(rules: BorrowedFd<'a>) -> Self {
        Self { gives_up: true, rules: Some(rules), ..Self::default() }
    }

    pub(super) fn traced(filter: &'a [libc::sock_filter], gate: BorrowedFd<'a>) -> Self {
        Self { gives_up: true, filter: Some(filter), gate: Some(gate), ..Self::default() }
    }
}

/// Starts commands, one at a time.
#[derive(Debug)]
pub(super) struct Starter {
    stack: Vec<u128>,
}

impl Default for Starter {
    fn default() -> Self {
        Self { stack: vec![0; STACK / size_of::<u128>()] }
    }
}

/// What the child needs, all of it made before.
struct Child {
    /// The terminal, or -1 for what this process reads.
    stdin: c_int,
    stdout: c_int,
    stderr: c_int,
    working_dir: *const c_char,
    /// Files to try, null at the end.
    programs: *const *const c_char,
    argv: *const *const c_char,
    /// `/bin/sh`, room for the file, and the arguments after the first.
    shell_argv: *mut *const c_char,
    env: *const *const c_char,
    /// Null, or the pipe to have open.
    jobserver: *const c_char,
    /// A pipe to read a byte from first, or -1.
    gate: c_int,
    gives_up: bool,
    /// A ruleset, or -1.
    rules: c_int,
    /// Null, or a filter.
    filter: *const libc::sock_fprog,
    /// Why it did not execute anything; 0 when it did.
    error: c_int,
    /// Whether that was since it could not be confined.
    refused: bool,
}

impl Starter {
    /// Starts `command` with its streams. The process must have a single thread.
    pub(super) fn start(
        &mut self,
        command: &Command,
        streams: &Streams,
        confined: &Confined<'_>,
    ) -> Result<Started, NotStarted> {
        // `CLONE_VFORK` keeps this process waiting until the child has executed something or ended.
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
        let ((), started) = self.clone(command, streams, confined, flags, |_| ())?;
        Ok(started)
    }

    /// The same, but `meanwhile` runs beside the command from before it does anything, and returns when it
    /// has executed something or ended.
    pub(super) fn start_beside<T>(
        &mut self,
        command: &Command,
        streams: &Streams,
        confined: &Confined<'_>,
        meanwhile: impl FnOnce(Pid) -> T,
    ) -> Result<T, NotStarted> {
        let flags = libc::CLONE_VM | libc::CLONE_PIDFD | libc::SIGCHLD;
        Ok(self.clone(command, streams, confined, flags, meanwhile)?.0)
    }

    #[expect(
        unsafe_code,
        reason = "the parent-death signal can only be set between clone and exec"
    )]
    fn clone<T>(
        &mut self,
        command: &Command,
        streams: &Streams,
        confined: &Confined<'_>,
        flags: c_int,
        meanwhile: impl FnOnce(Pid) -> T,
    ) -> Result<(T, Started), NotStarted> {
        let argv = strings(&command.argv)?;
        let program = command.argv.first().ok_or(Errno::INVAL)?;
        let env: Vec<Vec<u8>> =
            command.env.iter().map(|(name, value)| [name, &b"="[..], value].concat()).collect();
        let env = strings(&env)?;
        let programs = strings(&candidates(program, &command.env))?;
        let working_dir = string(&command.working_dir)?;
        let jobserver = command.jobserver.as_deref().map(string).transpose()?;
        let (argv, env, programs) = (pointers(&argv), pointers(&env), pointers(&programs));
        let mut shell_argv = vec![SHELL.as_ptr(), ptr::null()];
        shell_argv.extend(&argv[1..]);
        let filter = confined.filter.map(|filter| libc::sock_fprog {
            len: filter.len() as libc::c_ushort,
            filter: filter.as_ptr().cast_mut(),
        });
        let mut child = Child {
            stdin: streams.terminal.as_ref().map_or(-1, |terminal| terminal.as_raw_fd()),
            stdout: streams.printed[0].as_raw_fd(),
            stderr: streams.printed[1].as_raw_fd(),
            working_dir: working_dir.as_ptr(),
            programs: programs.as_ptr(),
            argv: argv.as_ptr(),
            shell_argv: shell_argv.as_mut_ptr(),
            env: env.as_ptr(),
            jobserver: jobserver.as_ref().map_or(ptr::null(), |path| path.as_ptr()),
            gate: confined.gate.map_or(-1, |gate| gate.as_raw_fd()),
            gives_up: confined.gives_up,
            rules: confined.rules.map_or(-1, |rules| rules.as_raw_fd()),
            filter: filter.as_ref().map_or(ptr::null(), ptr::from_ref),
            error: 0,
            refused: false,
        };
        let told = ptr::from_mut(&mut child);
        let mut pidfd: c_int = -1;
        // SAFETY: this process, which has no other thread, leaves all that `child` points to alone and in place
        // until the child has executed something or ended: while the kernel keeps it waiting, or while
        // `meanwhile` runs. The child makes system calls only, on a stack of its own.
        let pid = unsafe {
            let top = self.stack.as_mut_ptr().add(self.stack.len()).cast();
            libc::clone(become_command, top, flags, told.cast(), ptr::from_mut(&mut pidfd))
        };
        let pid = Pid::from_raw(pid.max(0)).ok_or_else(last_error)?;
        // SAFETY: the kernel has just made it, and nobody else knows of it.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        let then = meanwhile(pid);
        // SAFETY: the child wrote it, if at all, before it ended or executed something.
        let (errno, refused) = unsafe {
            (
                ptr::read_volatile(&raw const (*told).error),
                ptr::read_volatile(&raw const (*told).refused),
            )
        };
        if errno == 0 {
            return Ok((then, Started { pid, pidfd }));
        }
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
        let errno = Errno::from_raw_os_error(errno);
        Err(if refused { NotStarted::Confinement(errno) } else { NotStarted::Command(errno) })
    }
}

impl From<Errno> for NotStarted {
    fn from(errno: Errno) -> Self {
        Self::Command(errno)
    }
}

/// What the child does; it never returns.
#[expect(unsafe_code, reason = "between clone and exec there are only system calls")]
extern "C" fn become_command(child: *mut c_void) -> c_int {
    let child: *mut Child = child.cast();
    // SAFETY: `child` is what `clone` made, which leaves it alone. Signal dispositions and descriptors are the
    // child's own, as neither `CLONE_SIGHAND` nor `CLONE_FILES` was asked for.
    unsafe {
        let child = &mut *child;
        let mut byte = 0_u8;
        if child.gate >= 0 && libc::read(child.gate, ptr::from_mut(&mut byte).cast(), 1) != 1 {
            libc::_exit(127);
        }
        let mut none = std::mem::zeroed();
        // A group of its own: a command that signals its group must not hit the supervisor.
        let prepared = libc::setpgid(0, 0) == 0
            && (child.stdin < 0 || take_terminal(child.stdin))
            && libc::sigemptyset(&mut none) == 0
            && libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut()) == 0
            // The Rust runtime ignores it, which commands must not inherit.
            && libc::signal(libc::SIGPIPE, libc::SIG_DFL) != libc::SIG_ERR
            && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0
            && libc::dup2(child.stdout, 1) == 1
            && libc::dup2(child.stderr, 2) == 2
            && libc::chdir(child.working_dir) == 0;
        if !child.jobserver.is_null() {
            inherit(child.jobserver);
        }
        if !prepared {
            child.error = errno();
            libc::_exit(127);
        }
        if !confine(child) {
            child.refused = true;
            child.error = errno();
            libc::_exit(127);
        }
        child.error = execute(child);
        libc::_exit(127)
    }
}

/// Makes the terminal what the command reads, and its group the one that keys reach. Who is not in that group yet
/// is stopped for it by default.
#[expect(unsafe_code, reason = "as in its caller")]
unsafe fn take_terminal(terminal: c_int) -> bool {
    // SAFETY: the set is the child's own, and so are its descriptors.
    unsafe {
        let mut stops = std::mem::zeroed();
        libc::sigemptyset(&mut stops) == 0
            && libc::sigaddset(&mut stops, libc::SIGTTOU) == 0
            && libc::sigprocmask(libc::SIG_BLOCK, &stops, ptr::null_mut()) == 0
            && libc::dup2(terminal, 0) == 0
            && libc::tcsetpgrp(0, libc::getpid()) == 0
    }
}

/// Gives up what the command is not to have.
#[expect(unsafe_code, reason = "as in its caller")]
unsafe fn confine(child: &Child) -> bool {
    const FILTER: libc::c_long = libc::SECCOMP_SET_MODE_FILTER as libc::c_long;
    // SAFETY: the descriptor and the filter are those of `clone`.
    unsafe {
        (!child.gives_up || libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)
            && (child.rules < 0
                || libc::syscall(libc::SYS_landlock_restrict_self, child.rules, 0) == 0)
            && (child.filter.is_null()
                || libc::syscall(libc::SYS_seccomp, FILTER, 0_i64, child.filter) == 0)
    }
}

/// Opens the pipe of a jobserver, for reading and for writing. A task may have removed it; commands then
/// go without, and make says so.
#[expect(unsafe_code, reason = "as in its caller")]
unsafe fn inherit(path: *const c_char) {
    // SAFETY: the path ends with a NUL, and the descriptors are the child's own.
    unsafe {
        let pipe = libc::open(path, libc::O_RDWR | libc::O_CLOEXEC);
        if pipe >= 0 {
            for number in INHERITED {
                libc::dup2(pipe, number);
            }
        }
    }
}

/// Tries one program after the other, as `execvp` does; the error that says most when none can be executed.
#[expect(unsafe_code, reason = "the arguments are pointers, as in C")]
unsafe fn execute(child: &mut Child) -> c_int {
    let mut refused = false;
    let mut program = child.programs;
    // SAFETY: the lists end with null, see `clone`.
    unsafe {
        while !(*program).is_null() {
            libc::execve(*program, child.argv, child.env);
            if errno() == libc::ENOEXEC {
                *child.shell_argv.add(1) = *program;
                libc::execve(SHELL.as_ptr(), child.shell_argv, child.env);
            }
            match errno() {
                libc::EACCES => refused = true,
                libc::ENOENT | libc::ENOTDIR => {}
                other => return other,
            }
            program = program.add(1);
        }
    }
    if refused { libc::EACCES } else { libc::ENOENT }
}

#[expect(unsafe_code, reason = "std's form is not said to be free of allocation")]
fn errno() -> c_int {
    // SAFETY: the location is always valid.
    unsafe { *libc::__errno_location() }
}

pub(super) fn last_error() -> Errno {
    Errno::from_raw_os_error(errno())
}

/// The files that a program may be, in order: itself when it is a path, else one for each directory of
/// the `PATH` that the command sees.
fn candidates(program: &[u8], env: &[(Vec<u8>, Vec<u8>)]) -> Vec<Vec<u8>> {
    if program.contains(&b'/') || program.is_empty() {
        return vec![program.to_vec()];
    }
    let path = env.iter().find(|(name, _)| name == b"PATH").map(|(_, path)| path.as_slice());
    let directories = path.unwrap_or(DEFAULT_PATH).split(|byte| *byte == b':');
    let name = std::ffi::OsStr::from_bytes(program);
    directories
        .map(|directory| {
            let directory = if directory.is_empty() { b"." } else { directory };
            let file = Path::new(std::ffi::OsStr::from_bytes(directory)).join(name);
            file.as_os_str().as_bytes().to_vec()
        })
        .collect()
}

fn string(bytes: &[u8]) -> Result<CString, Errno> {
    CString::new(bytes).map_err(|_| Errno::INVAL)
}

fn strings(list: &[Vec<u8>]) -> Result<Vec<CString>, Errno> {
    list.iter().map(|bytes| string(bytes)).collect()
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_for_as_execvp_does() {
        let find = |program: &str, path: Option<&str>| {
            let env: Vec<_> =
                path.iter().map(|path| (b"PATH".to_vec(), path.as_bytes().to_vec())).collect();
            let found = candidates(program.as_bytes(), &env);
            found.iter().map(|file| String::from_utf8_lossy(file).into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(find("./x", Some("/a")), ["./x"]);
        assert_eq!(find("/b/x", None), ["/b/x"]);
        assert_eq!(find("x", Some("/a:b::/c/")), ["/a/x", "b/x", "./x", "/c/x"]);
        assert_eq!(find("x", None), ["/bin/x", "/usr/bin/x"]);
    }
}
