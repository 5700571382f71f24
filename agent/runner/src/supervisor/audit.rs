//! Watches what a command, and all that it starts, does with files.
//!
//! A seccomp filter stops each system call that names a file, and a tracer (ptrace) looks at it: so
//! nothing escapes by being static, by another libc, by threads or by forks. What was opened is asked of the
//! kernel after the call, so links and directories are resolved as they were for the command. That a file
//! exists, and what a directory lists, is not told. Where the filter cannot see (io_uring) the call fails as it
//! does on a kernel without it; what else cannot be seen is told as such.

use super::{
    between::Between,
    start::{Confined, Starter, Streams},
};
use netbuild_proto::spawn::{Audit, Command, Exit, Observed, Use};
use rustix::{
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    process::Pid,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::OsStr,
    fs, io,
    os::{fd::AsFd as _, unix::ffi::OsStrExt as _},
    path::{Component, Path, PathBuf},
    ptr,
};

/// Most files that are told of one command, and most bytes of their paths: they travel in one message.
const MOST_FILES: usize = 50_000;
const MOST_BYTES: usize = 3 << 20;
/// Longest path, as in Linux.
const PATH_MAX: usize = 4096;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xC000_00B7;
/// Numbers from here on are of another table (x32).
#[cfg(target_arch = "x86_64")]
const OTHER_TABLE: u32 = 0x4000_0000;

/// Why a command may have done more than what is told of it.
const FOREIGN: &str = "it made system calls of another architecture";
const TOO_MANY: &str = "it used more files than can be told";
const TALKED: &str = "it talked to a process that is not its own";
/// The same; no reason for a task that is given the network.
pub(crate) const USED_NETWORK: &str = "it used the network";
const HIDDEN: &str = "it ran a program that hides what it opens";
const MOVED: &str = "it changed what paths lead to";

/// How a call names files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Call {
    /// Opens the path at this argument; the flags are at the next one.
    Open(usize),
    /// The same, with its flags behind a pointer.
    OpenHow,
    Create,
    /// Changes what a path leads to: the arguments of the directory, if there is one, and of the path.
    Change(Option<usize>, usize),
    /// Makes something at a path where nothing is.
    Make(Option<usize>, usize),
    /// Removes what is at a path.
    Remove(Option<usize>, usize),
    /// Moves a path to another.
    Move([(Option<usize>, usize); 2]),
    /// Makes another name for a file, which so may be read.
    Link([(Option<usize>, usize); 2]),
    Connect,
    Listen,
    /// Makes it impossible to say what was used.
    Unseen(&'static str),
}

/// The calls that the tracer looks at.
const CALLS: &[(libc::c_long, Call)] = &[
    (libc::SYS_openat, Call::Open(1)),
    (libc::SYS_openat2, Call::OpenHow),
    (libc::SYS_mkdirat, Call::Make(Some(0), 1)),
    (libc::SYS_mknodat, Call::Make(Some(0), 1)),
    (libc::SYS_unlinkat, Call::Remove(Some(0), 1)),
    (libc::SYS_symlinkat, Call::Make(Some(1), 2)),
    (libc::SYS_fchmodat, Call::Change(Some(0), 1)),
    (libc::SYS_truncate, Call::Change(None, 0)),
    (libc::SYS_renameat2, Call::Move([(Some(0), 1), (Some(2), 3)])),
    (libc::SYS_linkat, Call::Link([(Some(0), 1), (Some(2), 3)])),
    (libc::SYS_connect, Call::Connect),
    (libc::SYS_listen, Call::Listen),
    (libc::SYS_open_by_handle_at, Call::Unseen("it opened files without naming them")),
    (libc::SYS_chroot, Call::Unseen(MOVED)),
    (libc::SYS_pivot_root, Call::Unseen(MOVED)),
    (libc::SYS_mount, Call::Unseen(MOVED)),
    (libc::SYS_move_mount, Call::Unseen(MOVED)),
    (libc::SYS_setns, Call::Unseen(MOVED)),
    (libc::SYS_renameat, Call::Move([(Some(0), 1), (Some(2), 3)])),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, Call::Open(0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_creat, Call::Create),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, Call::Make(None, 0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mknod, Call::Make(None, 0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, Call::Remove(None, 0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rmdir, Call::Remove(None, 0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_symlink, Call::Make(None, 1)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chmod, Call::Change(None, 0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rename, Call::Move([(None, 0), (None, 1)])),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_link, Call::Link([(None, 0), (None, 1)])),
];

/// Starts a command under a tracer.
pub(super) fn start(
    starter: &mut Starter,
    command: &Command,
    audit: &Audit,
    streams: &Streams,
) -> Result<Between, Exit> {
    Between::fork(0, || trace(starter, command, audit, streams))
        .map_err(|errno| Exit::Refused("no process for the tracer".into(), errno.raw_os_error()))
}

/// Runs the command to its end, as the tracer.
fn trace(
    starter: &mut Starter,
    command: &Command,
    audit: &Audit,
    streams: &Streams,
) -> (Exit, Observed) {
    let failed = |what: &str, errno: Errno| {
        (Exit::Refused(what.to_owned(), errno.raw_os_error()), Observed::default())
    };
    let (gate, opener) = match pipe_with(PipeFlags::CLOEXEC) {
        Ok(ends) => ends,
        Err(errno) => return failed("no pipe for the tracer", errno),
    };
    let filter = filter();
    let confined = Confined::traced(&filter, gate.as_fd());
    let traced = starter.start_beside(command, streams, &confined, |pid| {
        // What ends the command is not for who watches it.
        ignore_signals();
        if let Err(errno) = seize(pid) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            return Err(errno);
        }
        if rustix::io::write(&opener, &[1]).is_err() {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        let mut tracer = Tracer::new(audit);
        Ok((tracer.run(pid), tracer.finish()))
    });
    match traced {
        Ok(Ok((exit, observed))) => (exit, observed),
        Ok(Err(errno)) => failed("the kernel does not let it be traced", errno),
        Err(why) => (super::not_started(why), Observed::default()),
    }
}

/// What a command did so far.
struct Tracer<'a> {
    untold: Vec<&'a Path>,
    readable: Vec<&'a Path>,
    /// Calls of threads that have not returned yet.
    pending: HashMap<i32, Pending>,
    files: BTreeMap<Vec<u8>, Use>,
    /// Those of them that were not there before the command: when it removes them, nothing was done.
    made: BTreeSet<Vec<u8>>,
    bytes: usize,
    unseen: BTreeSet<&'static str>,
    /// Whether one of its processes waits for connections, which may then be to it.
    listens: bool,
}

/// What a call will have done when it succeeds.
enum Pending {
    Open { read: bool, written: bool, made: bool },
    Uses(Vec<(PathBuf, Use)>),
    Made(PathBuf),
    Removed(PathBuf),
    Moved { from: PathBuf, to: PathBuf, made: bool },
    Connect(Option<&'static str>),
    Listen,
    Unseen(&'static str),
}

const READ: Use = Use { read: true, written: false, executed: false };
const WRITTEN: Use = Use { read: false, written: true, executed: false };
const EXECUTED: Use = Use { read: false, written: false, executed: true };

impl<'a> Tracer<'a> {
    fn new(audit: &'a Audit) -> Self {
        let paths = |list: &'a [Vec<u8>]| {
            list.iter().map(|path| Path::new(OsStr::from_bytes(path))).collect()
        };
        Self {
            untold: paths(&audit.untold),
            readable: paths(&audit.readable),
            pending: HashMap::new(),
            files: BTreeMap::new(),
            made: BTreeSet::new(),
            bytes: 0,
            unseen: BTreeSet::new(),
            listens: false,
        }
    }

    fn finish(self) -> Observed {
        Observed {
            files: self.files.into_iter().collect(),
            unseen: self.unseen.into_iter().map(str::to_owned).collect(),
        }
    }

    /// Watches until the first process has ended. The kernel kills what is left when the tracer ends.
    fn run(&mut self, first: Pid) -> Exit {
        loop {
            let (thread, status) = match wait() {
                Ok(stopped) => stopped,
                Err(Errno::INTR) => continue,
                Err(errno) => {
                    return Exit::Refused("lost what is traced".into(), errno.raw_os_error());
                }
            };
            if libc::WIFSTOPPED(status) {
                self.stopped(thread, status);
                continue;
            }
            self.pending.remove(&thread);
            if thread == first.as_raw_pid() {
                return match libc::WIFEXITED(status) {
                    true => Exit::Code(libc::WEXITSTATUS(status)),
                    false => Exit::Signal(libc::WTERMSIG(status)),
                };
            }
        }
    }

    fn stopped(&mut self, thread: i32, status: i32) {
        const STOP: i32 = libc::PTRACE_EVENT_STOP;
        let signal = libc::WSTOPSIG(status);
        match status >> 16 {
            libc::PTRACE_EVENT_SECCOMP => {
                if let Some(pending) = self.enter(thread) {
                    self.pending.insert(thread, pending);
                }
                self.go_on(thread, 0);
            }
            libc::PTRACE_EVENT_EXEC => {
                // The thread that executed has the number of the first one now.
                let former = message(thread).and_then(|number| i32::try_from(number).ok());
                self.pending.remove(&former.unwrap_or(thread));
                self.pending.remove(&thread);
                if let Ok(program) = fs::read_link(format!("/proc/{thread}/exe")) {
                    self.note(program, EXECUTED);
                }
                self.go_on(thread, 0);
            }
            // Stopped as a whole, as by Ctrl-Z: it stays so until it is continued.
            STOP if matches!(
                signal,
                libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU
            ) =>
            {
                ask(libc::PTRACE_LISTEN, thread, 0, 0);
            }
            0 if signal == libc::SIGTRAP | 0x80 => {
                self.leave(thread);
                self.go_on(thread, 0);
            }
            0 => self.go_on(thread, signal),
            // Forks and new threads, which are traced from their beginning.
            _ => self.go_on(thread, 0),
        }
    }

    /// Lets a thread go on, to the end of its call if that is waited for.
    fn go_on(&self, thread: i32, signal: i32) {
        let how = match self.pending.contains_key(&thread) {
            true => libc::PTRACE_SYSCALL,
            false => libc::PTRACE_CONT,
        };
        // It may have been killed meanwhile.
        ask(how, thread, 0, signal as usize);
    }

    /// What a call that begins will have done.
    fn enter(&mut self, thread: i32) -> Option<Pending> {
        let info = call_info(thread)?;
        let [number, arguments @ ..] = info.words;
        if info.architecture != ARCHITECTURE {
            self.unseen.insert(FOREIGN);
            return None;
        }
        let Some((_, call)) = CALLS.iter().find(|(known, _)| *known as u64 == number) else {
            self.unseen.insert(FOREIGN);
            return None;
        };
        let uses = |list: &[((Option<usize>, usize), Use)]| {
            let named = list.iter().map(|((directory, path), how)| {
                let directory = directory.map(|at| arguments[at]);
                Some((resolve(thread, directory, arguments[*path])?, *how))
            });
            named.collect::<Option<Vec<_>>>().map(Pending::Uses)
        };
        let named = |(directory, path): (Option<usize>, usize)| {
            resolve(thread, directory.map(|at| arguments[at]), arguments[path])
        };
        let is_free = |path: &Path| path.symlink_metadata().is_err();
        let makes = |flags: i32, directory, path| {
            flags & libc::O_CREAT != 0
                && named((directory, path)).is_some_and(|path| is_free(&path))
        };
        match *call {
            Call::Open(path) => {
                let flags = arguments[path + 1] as i32;
                opened(flags, makes(flags, path.checked_sub(1), path))
            }
            Call::OpenHow => {
                let mut how = [0; 8];
                read_memory(thread, arguments[2], &mut how);
                let flags = u64::from_ne_bytes(how) as i32;
                opened(flags, makes(flags, Some(0), 1))
            }
            Call::Create => {
                let made = makes(libc::O_CREAT, None, 0);
                Some(Pending::Open { read: false, written: true, made })
            }
            Call::Change(directory, path) => uses(&[((directory, path), WRITTEN)]),
            Call::Make(directory, path) => named((directory, path)).map(Pending::Made),
            Call::Remove(directory, path) => named((directory, path)).map(Pending::Removed),
            Call::Move([from, to])
                if number == libc::SYS_renameat2 as u64
                    && arguments[4] & u64::from(libc::RENAME_EXCHANGE) != 0 =>
            {
                uses(&[(from, WRITTEN), (to, WRITTEN)])
            }
            Call::Move([from, to]) => {
                let (from, to) = (named(from)?, named(to)?);
                let made = is_free(&to);
                Some(Pending::Moved { from, to, made })
            }
            Call::Link([from, to]) => uses(&[(from, READ), (to, WRITTEN)]),
            Call::Connect => Some(Pending::Connect(self.connects(thread, arguments))),
            Call::Listen => Some(Pending::Listen),
            Call::Unseen(why) => Some(Pending::Unseen(why)),
        }
    }

    /// Why a connection may do what is not seen.
    fn connects(&self, thread: i32, arguments: [u64; 7]) -> Option<&'static str> {
        let mut address = [0; 128];
        let length = (arguments[2] as usize).min(address.len());
        read_memory(thread, arguments[1], &mut address[..length]);
        let family = i32::from(u16::from_ne_bytes([address[0], address[1]]));
        let is_own = self.listens;
        match family {
            libc::AF_UNIX => {
                let name = address[2..].split(|byte| *byte == 0).next().unwrap_or_default();
                // Who is asked for names of users and hosts does not work for the command.
                let service = ["/run/systemd/", "/run/nscd/", "/var/run/nscd/"]
                    .iter()
                    .any(|prefix| name.starts_with(prefix.as_bytes()));
                (!service && !is_own).then_some(TALKED)
            }
            libc::AF_INET if address[4] == 127 => (!is_own).then_some(TALKED),
            libc::AF_INET6 if address[8..24] == std::net::Ipv6Addr::LOCALHOST.octets() => {
                (!is_own).then_some(TALKED)
            }
            libc::AF_INET | libc::AF_INET6 => Some(USED_NETWORK),
            _ => None,
        }
    }

    /// A call has returned.
    fn leave(&mut self, thread: i32) {
        const IN_PROGRESS: i64 = -(libc::EINPROGRESS as i64);
        let Some(pending) = self.pending.remove(&thread) else { return };
        let Some(result) = call_info(thread).map(|info| info.words[0] as i64) else { return };
        match pending {
            Pending::Connect(Some(why)) if result >= 0 || result == IN_PROGRESS => {
                self.unseen.insert(why);
            }
            _ if result < 0 => {}
            Pending::Open { read, written, made } => {
                let path = match fs::read_link(format!("/proc/{thread}/fd/{result}")) {
                    Ok(path) => path,
                    Err(error) => {
                        // One that has ended meanwhile has read nothing; another one hides it.
                        if error.kind() == io::ErrorKind::PermissionDenied {
                            self.unseen.insert(HIDDEN);
                        }
                        return;
                    }
                };
                let bytes = path.as_os_str().as_bytes();
                // By another one, since it was opened.
                let bytes = bytes.strip_suffix(b" (deleted)").unwrap_or(bytes);
                let path = Path::new(OsStr::from_bytes(bytes));
                // Pipes and the like have no path.
                if path.is_absolute() && !bytes.starts_with(b"/memfd:") {
                    self.note(path.to_owned(), Use { read, written, executed: false });
                    if made {
                        self.note_made(path);
                    }
                }
            }
            Pending::Uses(uses) => uses.into_iter().for_each(|(path, how)| self.note(path, how)),
            Pending::Made(path) => {
                self.note(path.clone(), WRITTEN);
                self.note_made(&path);
            }
            Pending::Removed(path) => {
                if self.forget(path.as_os_str().as_bytes()).is_none() {
                    self.note(path, WRITTEN);
                }
            }
            Pending::Moved { from, to, made } => self.moved(&from, to, made),
            Pending::Listen => self.listens = true,
            Pending::Unseen(why) => {
                self.unseen.insert(why);
            }
            Pending::Connect(_) => {}
        }
    }

    /// Nothing was at a path before it was written to.
    fn note_made(&mut self, path: &Path) {
        let bytes = path.as_os_str().as_bytes();
        if self.files.contains_key(bytes) {
            self.made.insert(bytes.to_vec());
        }
    }

    /// Forgets a path that the command made and that is gone; what it did there.
    fn forget(&mut self, path: &[u8]) -> Option<Use> {
        if !self.made.remove(path) {
            return None;
        }
        self.bytes -= path.len();
        self.files.remove(path)
    }

    /// What was made and then moved was made where it is now, with all that is in it.
    fn moved(&mut self, from: &Path, to: PathBuf, made: bool) {
        if !self.made.contains(from.as_os_str().as_bytes()) {
            self.note(from.to_owned(), WRITTEN);
            self.note(to.clone(), WRITTEN);
            if made {
                self.note_made(&to);
            }
            return;
        }
        let start = from.as_os_str().as_bytes();
        let below = self.made.range(start.to_vec()..).take_while(|path| path.starts_with(start));
        let below: Vec<PathBuf> = below
            .map(|path| PathBuf::from(OsStr::from_bytes(path)))
            .filter(|path| path.starts_with(from))
            .collect();
        for path in below {
            let Some(how) = self.forget(path.as_os_str().as_bytes()) else { continue };
            let now = match path.strip_prefix(from) {
                Ok(rest) if !rest.as_os_str().is_empty() => to.join(rest),
                _ => to.clone(),
            };
            self.note(now.clone(), Use { written: true, ..how });
            if made {
                self.note_made(&now);
            }
        }
    }

    fn note(&mut self, path: PathBuf, how: Use) {
        let is_in = |places: &[&Path]| places.iter().any(|place| path.starts_with(place));
        let untold = is_in(&self.untold) || !how.written && is_in(&self.readable);
        if untold && !how.executed {
            return;
        }
        let bytes = path.as_os_str().as_bytes();
        if let Some(known) = self.files.get_mut(bytes) {
            // What it wrote itself it may read.
            known.read |= how.read && !known.written;
            known.written |= how.written;
            known.executed |= how.executed;
            return;
        }
        // Names in a directory are not told, and so is it.
        if how == READ && path.is_dir() {
            return;
        }
        if self.files.len() >= MOST_FILES || self.bytes + bytes.len() > MOST_BYTES {
            self.unseen.insert(TOO_MANY);
            return;
        }
        self.bytes += bytes.len();
        // A file that it makes by opening it for both is its own.
        let read = how.read && !how.written;
        self.files.insert(bytes.to_vec(), Use { read, ..how });
    }
}

/// What is done by opening with these flags, which may have made the file.
fn opened(flags: i32, made: bool) -> Option<Pending> {
    if flags & libc::O_PATH != 0 || flags & libc::O_TMPFILE == libc::O_TMPFILE {
        return None;
    }
    let mode = flags & libc::O_ACCMODE;
    let written = mode != libc::O_RDONLY || flags & (libc::O_CREAT | libc::O_TRUNC) != 0;
    Some(Pending::Open { read: mode != libc::O_WRONLY, written, made })
}

/// The absolute path that a thread names, with the links on the way to its last name resolved.
fn resolve(thread: i32, directory: Option<u64>, pointer: u64) -> Option<PathBuf> {
    let bytes = read_string(thread, pointer)?;
    let named = Path::new(OsStr::from_bytes(&bytes));
    let base = match directory.map(|fd| fd as i32) {
        _ if named.is_absolute() => PathBuf::new(),
        Some(fd) if fd != libc::AT_FDCWD => {
            fs::read_link(format!("/proc/{thread}/fd/{fd}")).ok()?
        }
        _ => fs::read_link(format!("/proc/{thread}/cwd")).ok()?,
    };
    let whole = base.join(named);
    let (Some(parent), Some(Component::Normal(name))) =
        (whole.parent(), whole.components().next_back())
    else {
        return fs::canonicalize(&whole).ok();
    };
    Some(fs::canonicalize(parent).unwrap_or_else(|_| parent.to_owned()).join(name))
}

/// The filter: calls of [`CALLS`] stop for the tracer.
fn filter() -> Vec<libc::sock_filter> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const NUMBER: u32 = 0;
    const ARCH: u32 = 4;
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    // The last two instructions let a call pass, and stop it.
    let calls = CALLS.len() as u8;
    let mut program = vec![step(LOAD, ARCH, 0, 0), step(EQUAL, ARCHITECTURE, 1, 0)];
    program.push(step(RETURN, libc::SECCOMP_RET_TRACE, 0, 0));
    program.push(step(LOAD, NUMBER, 0, 0));
    #[cfg(target_arch = "x86_64")]
    {
        const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
        program.push(step(AT_LEAST, OTHER_TABLE, 0, 1));
        program.push(step(RETURN, libc::SECCOMP_RET_TRACE, 0, 0));
    }
    program.push(step(EQUAL, libc::SYS_io_uring_setup as u32, 0, 1));
    program.push(step(RETURN, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32, 0, 0));
    for (left, (number, _)) in (0..calls).rev().zip(CALLS) {
        program.push(step(EQUAL, *number as u32, left + 1, 0));
    }
    program.push(step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0));
    program.push(step(RETURN, libc::SECCOMP_RET_TRACE, 0, 0));
    program
}

/// `struct ptrace_syscall_info`.
#[repr(C)]
struct CallInfo {
    kind: u8,
    padding: [u8; 3],
    architecture: u32,
    at: u64,
    stack: u64,
    /// The number and six arguments of a call that begins, the result of one that ends.
    words: [u64; 8],
}

fn call_info(thread: i32) -> Option<CallInfo> {
    const GET_SYSCALL_INFO: libc::c_uint = 0x420e;
    let mut info =
        CallInfo { kind: 0, padding: [0; 3], architecture: 0, at: 0, stack: 0, words: [0; 8] };
    let size = size_of::<CallInfo>();
    let got = ask(GET_SYSCALL_INFO, thread, size, ptr::from_mut(&mut info).expose_provenance());
    got.then_some(info)
}

/// What a stop of a thread has to say beside its kind.
fn message(thread: i32) -> Option<u64> {
    let mut number: libc::c_ulong = 0;
    let at = ptr::from_mut(&mut number).expose_provenance();
    ask(libc::PTRACE_GETEVENTMSG, thread, 0, at).then_some(number)
}

#[expect(unsafe_code, reason = "ptrace has no safe form")]
fn ask(request: libc::c_uint, thread: i32, address: usize, data: usize) -> bool {
    // SAFETY: each caller passes numbers, or the address and size of what the kernel is to fill in.
    unsafe { libc::ptrace(request, thread, address, data) >= 0 }
}

fn seize(pid: Pid) -> Result<(), Errno> {
    let options = libc::PTRACE_O_EXITKILL
        | libc::PTRACE_O_TRACESYSGOOD
        | libc::PTRACE_O_TRACESECCOMP
        | libc::PTRACE_O_TRACEEXEC
        | libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK;
    match ask(libc::PTRACE_SEIZE, pid.as_raw_pid(), 0, options as usize) {
        true => Ok(()),
        false => Err(super::start::last_error()),
    }
}

/// The next thread that stopped or ended, and how.
#[expect(unsafe_code, reason = "rustix does not wait for threads")]
fn wait() -> Result<(i32, i32), Errno> {
    let mut status = 0;
    // SAFETY: the status is ours to fill in.
    let thread = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL) };
    if thread < 0 { Err(super::start::last_error()) } else { Ok((thread, status)) }
}

#[expect(unsafe_code, reason = "std has no form for it")]
fn ignore_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
        // SAFETY: no handler is installed.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Reads from the memory of a thread; what cannot be read stays as it is.
#[expect(unsafe_code, reason = "the memory of another process has no safe form")]
fn read_memory(thread: i32, from: u64, into: &mut [u8]) -> usize {
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let remote = libc::iovec {
        iov_base: ptr::with_exposed_provenance_mut(from as usize),
        iov_len: into.len(),
    };
    // SAFETY: the kernel writes to `into` only, and checks the other address.
    let read =
        unsafe { libc::process_vm_readv(thread, &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(read).unwrap_or(0)
}

/// A string that ends with NUL. It is read a page at a time, as the next one may not be there.
fn read_string(thread: i32, from: u64) -> Option<Vec<u8>> {
    const PAGE: u64 = 4096;
    let mut bytes = Vec::new();
    let mut at = from;
    while bytes.len() < PATH_MAX {
        let mut buffer = [0; 256];
        let room = (PAGE - at % PAGE).min(buffer.len() as u64) as usize;
        let read = read_memory(thread, at, &mut buffer[..room]);
        let piece = &buffer[..read];
        if let Some(end) = piece.iter().position(|byte| *byte == 0) {
            bytes.extend_from_slice(&piece[..end]);
            return Some(bytes);
        }
        if read == 0 {
            return None;
        }
        bytes.extend_from_slice(piece);
        at += read as u64;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracer(audit: &Audit) -> Tracer<'_> {
        Tracer::new(audit)
    }

    #[test]
    fn no_more_is_kept_than_can_be_told_and_that_is_said() {
        let audit = Audit { untold: Vec::new(), readable: Vec::new() };
        let mut told = tracer(&audit);
        for number in 0..=MOST_FILES {
            told.note(PathBuf::from(format!("/{number}")), WRITTEN);
        }
        let observed = told.finish();
        assert_eq!((observed.files.len(), observed.unseen.len()), (MOST_FILES, 1));
        let mut told = tracer(&audit);
        for number in 0..=MOST_BYTES / PATH_MAX {
            told.note(PathBuf::from(format!("/{number:0width$}", width = PATH_MAX)), WRITTEN);
        }
        let observed = told.finish();
        assert_eq!(observed.unseen, [TOO_MANY]);
        let mut message = Vec::new();
        observed.write(&mut message).unwrap();
        assert_eq!(Observed::read(&mut message.as_slice()).unwrap(), Some(observed));
    }

    #[test]
    fn what_a_command_made_it_may_read_and_what_it_read_first_stays_read() {
        let audit =
            Audit { untold: vec![b"/untold".to_vec()], readable: vec![b"/system".to_vec()] };
        let mut tracer = tracer(&audit);
        for (path, how) in [
            ("/own", WRITTEN),
            ("/own", READ),
            ("/other", READ),
            ("/other", WRITTEN),
            ("/untold/x", READ),
            ("/untold/x", WRITTEN),
            ("/system/lib", READ),
            ("/system/etc", WRITTEN),
            ("/untold/program", EXECUTED),
        ] {
            tracer.note(PathBuf::from(path), how);
        }
        let both = Use { read: true, ..WRITTEN };
        let expected = [
            ("/other", both),
            ("/own", WRITTEN),
            ("/system/etc", WRITTEN),
            ("/untold/program", EXECUTED),
        ];
        let expected = expected.map(|(path, how)| (path.as_bytes().to_vec(), how));
        assert_eq!(tracer.finish().files, expected);
    }

    #[test]
    fn what_was_made_counts_where_it_is_in_the_end() {
        let audit = Audit { untold: Vec::new(), readable: Vec::new() };
        let mut tracer = tracer(&audit);
        let make = |tracer: &mut Tracer<'_>, path: &str| {
            tracer.note(PathBuf::from(path), WRITTEN);
            tracer.note_made(Path::new(path));
        };
        let moved = |tracer: &mut Tracer<'_>, from: &str, to: &str, made: bool| {
            tracer.moved(Path::new(from), PathBuf::from(to), made);
        };
        for path in ["/out.tmp", "/d", "/d/a", "/d.x", "/gone"] {
            make(&mut tracer, path);
        }
        moved(&mut tracer, "/out.tmp", "/out", false);
        moved(&mut tracer, "/d", "/e", true);
        moved(&mut tracer, "/source", "/e/source", true);
        assert!(tracer.forget(b"/gone").is_some());
        assert!(tracer.forget(b"/e/a").is_some(), "it is still its own");
        assert!(tracer.forget(b"/out").is_none(), "something was there before");
        let observed = tracer.finish();
        let told = ["/d.x", "/e", "/e/source", "/out", "/source"];
        assert_eq!(observed.files, told.map(|path| (path.as_bytes().to_vec(), WRITTEN)));
    }
}
