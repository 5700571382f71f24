//! Namespaces for one command: what it sees of the machine, and what it can change.
//!
//! Its root is new and has, read-only, what the root of the machine has; but `/tmp` and its like are empty and its
//! own, `/proc` shows its own processes only, the workspace is an empty directory, and the stage stands at
//! a path that is the same everywhere. It is user 1000 there, on every machine, with the rights that whoever
//! started the run has on files. The process in between is the first one of the namespace: when it ends, the
//! kernel ends all others.

use super::{
    between::Between,
    start::{Confined, Starter, Streams},
};
use netbuild_proto::spawn::{Command, Exit, Namespaces, Observed};
use rustix::{
    io::Errno,
    process::{self, WaitOptions},
};
use std::{
    ffi::{CString, OsStr},
    fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{
            ffi::OsStrExt as _,
            fs::{DirBuilderExt as _, symlink},
        },
    },
    path::{Path, PathBuf},
    ptr,
};

/// User and group inside.
const INSIDE: u32 = 1000;
/// The name of the machine inside.
const HOST: &[u8] = b"netbuild";
/// Entries of the root that are not those of the machine.
const OURS: [&str; 4] = ["proc", "tmp", "netbuild", "dev"];
/// Devices that a command finds. A mount that is read-only keeps nobody from writing to a disk through its
/// device, so there is no other.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Links that stand beside them.
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
/// Directories for temporary files beside `/tmp`, made empty where they exist.
const TEMPORARY: [&str; 2] = ["var/tmp", "dev/shm"];

/// What failed, and why.
#[derive(Debug)]
struct Refused(String, Errno);

/// Starts a command in namespaces of its own.
pub(super) fn start(
    starter: &mut Starter,
    command: &Command,
    namespaces: &Namespaces,
    streams: &Streams,
) -> Result<Between, Exit> {
    let mut flags = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS;
    if !namespaces.network {
        flags |= libc::CLONE_NEWNET;
    }
    let (user, group) = (process::geteuid().as_raw(), process::getegid().as_raw());
    let inside = || {
        let exit = match enter(namespaces, user, group) {
            Ok(()) => run(starter, command, streams),
            Err(Refused(what, errno)) => Exit::Refused(what, errno.raw_os_error()),
        };
        (exit, Observed::default())
    };
    Between::fork(flags, inside)
        .map_err(|errno| Exit::Refused("no namespaces".to_owned(), errno.raw_os_error()))
}

/// Runs the command as the first process does: it also buries what has nobody else.
fn run(starter: &mut Starter, command: &Command, streams: &Streams) -> Exit {
    let started = match starter.start(command, streams, &Confined::namespaces()) {
        Ok(started) => started,
        Err(why) => return super::not_started(why),
    };
    loop {
        match process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == started.pid => return super::exit_of(status),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Exit::NotStarted(errno.raw_os_error()),
        }
    }
}

fn enter(namespaces: &Namespaces, user: u32, group: u32) -> Result<(), Refused> {
    let map = |name: &str, content: String| {
        fs::write(Path::new("/proc/self").join(name), content).map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            Refused(format!("cannot write /proc/self/{name}"), errno)
        })
    };
    map("setgroups", "deny".to_owned())?;
    map("uid_map", format!("{INSIDE} {user} 1"))?;
    map("gid_map", format!("{INSIDE} {group} 1"))?;
    rustix::system::sethostname(HOST)
        .map_err(|errno| Refused("cannot set the name of the host".into(), errno))?;
    if !namespaces.network {
        // Tests talk to themselves.
        loopback_up()
            .map_err(|errno| Refused("cannot set up the loopback device".into(), errno))?;
    }
    let place = Build::new(&namespaces.root);
    place.root(namespaces)
}

/// A root under construction.
struct Build {
    at: PathBuf,
}

impl Build {
    fn new(at: &[u8]) -> Self {
        Self { at: PathBuf::from(OsStr::from_bytes(at)) }
    }

    fn root(&self, wanted: &Namespaces) -> Result<(), Refused> {
        mount(None, Path::new("/"), None, libc::MS_REC | libc::MS_PRIVATE, None)
            .map_err(|errno| Refused("cannot make the mounts private".into(), errno))?;
        // Taken before the new root covers them.
        let stage = tree(Path::new(OsStr::from_bytes(&wanted.stage)), false)
            .map_err(|errno| Refused("cannot take the stage".into(), errno))?;
        let pipe = match &wanted.jobserver {
            Some(path) => {
                Some(tree(Path::new(OsStr::from_bytes(path)), false).map_err(|errno| {
                    Refused("cannot take the pipe of the jobserver".into(), errno)
                })?)
            }
            None => None,
        };
        let entries = entries().map_err(|error| refused("cannot list /", &error))?;
        self.tmpfs(Path::new(""), "mode=0755,size=1m", 0)?;
        let devices = devices()?;
        for directory in ["proc", "tmp", "dev", "netbuild", "netbuild/ws"] {
            self.directory(directory)?;
        }
        fs::write(self.at.join("netbuild/jobserver"), "")
            .map_err(|error| refused("cannot write to the new root", &error))?;
        for (name, entry) in entries {
            let at = self.at.join(&name);
            match entry {
                Entry::Link(target) => {
                    symlink(target, &at).map_err(|error| refused("cannot make a link", &error))?;
                }
                Entry::Tree(tree) => {
                    self.directory(&name)?;
                    place(&tree, &at).map_err(|errno| {
                        Refused(format!("cannot mount {}", at.display()), errno)
                    })?;
                }
            }
        }
        let closed = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID;
        set_attributes(&self.at, true, closed | libc::MOUNT_ATTR_NODEV)
            .map_err(|errno| Refused("cannot make the root read-only".into(), errno))?;
        self.devices(&devices)?;
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        mount(Some(c"proc"), &self.at.join("proc"), Some(c"proc"), flags, None)
            .map_err(|errno| Refused("cannot mount /proc".into(), errno))?;
        self.tmpfs(Path::new("tmp"), "mode=1777", 0)?;
        for directory in TEMPORARY.iter().map(Path::new) {
            if self.at.join(directory).is_dir() {
                self.tmpfs(directory, "mode=1777", 0)?;
            }
        }
        // It is gone already when it is in one of these.
        let hidden = Path::new(OsStr::from_bytes(&wanted.hidden));
        let hidden = hidden.strip_prefix("/").unwrap_or(hidden);
        if self.at.join(hidden).is_dir() {
            self.tmpfs(hidden, "mode=0555,size=4k", libc::MS_RDONLY)?;
        }
        place(&stage, &self.at.join("netbuild/ws"))
            .map_err(|errno| Refused("cannot mount the stage".into(), errno))?;
        if let Some(pipe) = pipe {
            place(&pipe, &self.at.join("netbuild/jobserver"))
                .map_err(|errno| Refused("cannot mount the pipe of the jobserver".into(), errno))?;
        }
        process::chdir(&self.at)
            .and_then(|()| pivot())
            .and_then(|()| process::chdir("/"))
            .map_err(|errno| Refused("cannot enter the new root".into(), errno))
    }

    /// Fills `/dev`: [`DEVICES`], terminals of its own, and room for shared memory.
    fn devices(&self, devices: &[(&str, OwnedFd)]) -> Result<(), Refused> {
        self.tmpfs(Path::new("dev"), "mode=0755,size=64k", 0)?;
        let at = self.at.join("dev");
        for (name, device) in devices {
            let node = at.join(name);
            fs::write(&node, "").map_err(|error| refused("cannot write to /dev", &error))?;
            place(device, &node)
                .map_err(|errno| Refused(format!("cannot mount {}", node.display()), errno))?;
        }
        for (name, target) in DEVICE_LINKS {
            symlink(target, at.join(name))
                .map_err(|error| refused("cannot make a link", &error))?;
        }
        self.directory("dev/shm")?;
        self.directory("dev/pts")?;
        set_attributes(&at, false, libc::MOUNT_ATTR_RDONLY)
            .map_err(|errno| Refused("cannot make /dev read-only".into(), errno))?;
        let flags = libc::MS_NOSUID | libc::MS_NOEXEC;
        let options = Some("newinstance,ptmxmode=0666,mode=620");
        mount(Some(c"devpts"), &at.join("pts"), Some(c"devpts"), flags, options)
            .map_err(|errno| Refused("cannot mount /dev/pts".into(), errno))
    }

    fn directory(&self, name: impl AsRef<Path>) -> Result<(), Refused> {
        fs::DirBuilder::new()
            .mode(0o755)
            .create(self.at.join(name))
            .map_err(|error| refused("cannot write to the new root", &error))
    }

    fn tmpfs(&self, at: &Path, options: &str, more: libc::c_ulong) -> Result<(), Refused> {
        // An empty path at the end would ask for a directory, which it is.
        let at = if at.as_os_str().is_empty() { self.at.clone() } else { self.at.join(at) };
        let flags = libc::MS_NOSUID | libc::MS_NODEV | more;
        mount(Some(c"tmpfs"), &at, Some(c"tmpfs"), flags, Some(options))
            .map_err(|errno| Refused(format!("cannot mount a tmpfs at {}", at.display()), errno))
    }
}

/// Those of [`DEVICES`] that this machine has.
fn devices() -> Result<Vec<(&'static str, OwnedFd)>, Refused> {
    let there = DEVICES.map(|name| (name, Path::new("/dev").join(name)));
    let there = there.into_iter().filter(|(_, path)| path.exists());
    there
        .map(|(name, path)| match tree(&path, false) {
            Ok(device) => Ok((name, device)),
            Err(errno) => Err(Refused(format!("cannot take {}", path.display()), errno)),
        })
        .collect()
}

fn refused(what: &str, error: &io::Error) -> Refused {
    Refused(what.to_owned(), Errno::from_io_error(error).unwrap_or(Errno::IO))
}

/// An entry of the root of the machine.
enum Entry {
    Tree(OwnedFd),
    Link(PathBuf),
}

/// What the new root has of the old one. Directories that cannot be taken are left out; so are files.
fn entries() -> io::Result<Vec<(PathBuf, Entry)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/")? {
        let entry = entry?;
        let name = PathBuf::from(entry.file_name());
        if OURS.iter().any(|ours| Path::new(ours) == name) {
            continue;
        }
        let kind = entry.file_type()?;
        if kind.is_symlink() {
            found.push((name, Entry::Link(fs::read_link(entry.path())?)));
        } else if kind.is_dir()
            && let Ok(tree) = tree(&entry.path(), true)
        {
            found.push((name, Entry::Tree(tree)));
        }
    }
    Ok(found)
}

fn c_string(path: &Path) -> Result<CString, Errno> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)
}

fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result < 0 { Err(super::start::last_error()) } else { Ok(result) }
}

#[expect(unsafe_code, reason = "the features of rustix for mounts are not built in")]
fn mount(
    source: Option<&std::ffi::CStr>,
    target: &Path,
    kind: Option<&std::ffi::CStr>,
    flags: libc::c_ulong,
    options: Option<&str>,
) -> Result<(), Errno> {
    let target = c_string(target)?;
    let options = options.map(CString::new).transpose().map_err(|_| Errno::INVAL)?;
    let pointer = |text: Option<&std::ffi::CStr>| text.map_or(ptr::null(), |text| text.as_ptr());
    // SAFETY: all are strings that end with NUL, or null where that is allowed.
    let result = unsafe {
        let data = options.as_ref().map_or(ptr::null(), |text| text.as_ptr().cast());
        libc::mount(pointer(source), target.as_ptr(), pointer(kind), flags, data)
    };
    check(result.into()).map(drop)
}

/// A copy of the mount at a path, to be put elsewhere; with all mounts below if they are wanted.
#[expect(unsafe_code, reason = "as for `mount`")]
fn tree(path: &Path, recursive: bool) -> Result<OwnedFd, Errno> {
    const CLONE: libc::c_uint = 1;
    let mut flags = CLONE | libc::O_CLOEXEC as libc::c_uint;
    if recursive {
        flags |= libc::AT_RECURSIVE as libc::c_uint;
    }
    let path = c_string(path)?;
    // SAFETY: the path ends with NUL; the descriptor is new and nobody else's.
    unsafe {
        let tree = check(libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags))?;
        Ok(OwnedFd::from_raw_fd(tree as libc::c_int))
    }
}

/// Puts what `tree` took at a path.
#[expect(unsafe_code, reason = "as for `mount`")]
fn place(tree: &OwnedFd, at: &Path) -> Result<(), Errno> {
    const FROM_DESCRIPTOR: libc::c_uint = 4;
    let at = c_string(at)?;
    // SAFETY: the paths end with NUL and the descriptor is open.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            at.as_ptr(),
            FROM_DESCRIPTOR,
        )
    };
    check(result).map(drop)
}

/// Adds attributes to a mount, and to all below it if they are wanted.
#[expect(unsafe_code, reason = "as for `mount`")]
fn set_attributes(at: &Path, recursive: bool, add: u64) -> Result<(), Errno> {
    let at = c_string(at)?;
    let flags = if recursive { libc::AT_RECURSIVE } else { 0 };
    let attributes = libc::mount_attr { attr_set: add, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the path ends with NUL, and the size is that of the structure.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            at.as_ptr(),
            flags,
            ptr::from_ref(&attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    check(result).map(drop)
}

/// Makes the current directory the root, and lets the old one go.
#[expect(unsafe_code, reason = "as for `mount`")]
fn pivot() -> Result<(), Errno> {
    // SAFETY: the paths end with NUL.
    unsafe {
        check(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()))?;
        check(libc::umount2(c".".as_ptr(), libc::MNT_DETACH).into()).map(drop)
    }
}

#[expect(unsafe_code, reason = "ioctls of network devices have no safe form")]
fn loopback_up() -> Result<(), Errno> {
    // SAFETY: the structure is plain data, its name ends with NUL, and the descriptor is closed by its owner.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        let socket = OwnedFd::from_raw_fd(check(socket.into())? as libc::c_int);
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        let result = libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, ptr::from_ref(&request));
        check(result.into()).map(drop)
    }
}
