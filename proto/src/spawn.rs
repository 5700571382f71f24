//! What the runner and the supervisor of a command tell one another over a socket pair.

use crate::{codec, frame};
use bincode::{Decode, Encode};
use std::io::{self, Read, Write};

/// Most bytes of one message: argv and environment are at most 2 MiB on Linux, plus room.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// A command to be run.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Command {
    /// Program and arguments.
    pub argv: Vec<Vec<u8>>,
    /// The whole environment.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Absolute path of the working directory.
    pub working_dir: Vec<u8>,
    /// The named pipe of a jobserver that the command is to inherit, open.
    pub jobserver: Option<Vec<u8>>,
    /// What keeps the command in, or watches it.
    pub confinement: Option<Confinement>,
    /// Whether it has the terminal: what it reads from comes with it, and it becomes the one whom keys reach.
    pub has_terminal: bool,
}

/// What keeps a command in, or watches it. Paths are absolute.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Confinement {
    /// Nothing is kept from it, and what it does with files is told.
    Audit(Audit),
    /// The kernel refuses what is not named.
    Landlock(Landlock),
    /// It has namespaces of its own.
    Namespaces(Namespaces),
}

/// What is not told of a command that is watched.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Audit {
    /// Files and directories, with all below them, that may be used without being told.
    pub untold: Vec<Vec<u8>>,
    /// Those that may be read so.
    pub readable: Vec<Vec<u8>>,
}

/// What the kernel allows a command. A path that does not exist is left out.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Landlock {
    /// To be read and executed, with all below.
    pub readable: Vec<Vec<u8>>,
    /// To be changed as well, with all below.
    pub writable: Vec<Vec<u8>>,
    /// Whether it may use TCP.
    pub network: bool,
}

/// The file system that a command sees in namespaces of its own.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Namespaces {
    /// The directory that stands at [`Namespaces::WORKSPACE`], the only one that it can change for good.
    pub stage: Vec<u8>,
    /// A directory that is empty for it.
    pub hidden: Vec<u8>,
    /// An empty directory, on which its root is mounted.
    pub root: Vec<u8>,
    /// A named pipe that stands at [`Namespaces::JOBSERVER`].
    pub jobserver: Option<Vec<u8>>,
    /// Whether it has the network of this machine.
    pub network: bool,
}

impl Namespaces {
    /// Where the stage stands.
    pub const WORKSPACE: &str = "/netbuild/ws";
    /// Where the pipe of the jobserver stands.
    pub const JOBSERVER: &str = "/netbuild/jobserver";
}

/// What the runner may ask of a supervisor whose command runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Signal {
    /// SIGINT to every process of the task.
    Interrupt,
    /// SIGTERM to every process of the task.
    Terminate,
    /// SIGKILL to every process of the task.
    Kill,
    /// SIGCONT to every process of the task.
    Continue,
}

/// How a command ended, or that it rests.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Exit {
    /// It could not be started: the operating system's error number.
    NotStarted(i32),
    /// It exited with this code.
    Code(i32),
    /// It was ended by this signal.
    Signal(i32),
    /// It was not started, since it could not be confined: what failed, and the error number, 0 for none.
    Refused(String, i32),
    /// Not an end: it has the terminal and was stopped, as by Ctrl-Z, until it is told to continue.
    Stopped,
}

/// What a command did with one file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Encode, Decode)]
pub struct Use {
    /// It was opened for reading.
    pub read: bool,
    /// It was made, changed, moved or removed.
    pub written: bool,
    /// It was executed.
    pub executed: bool,
}

/// What a command that was watched did, told after its [`Exit`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Observed {
    /// Files by their absolute paths, sorted.
    pub files: Vec<(Vec<u8>, Use)>,
    /// Why it may have done more than what is told; empty when that is all.
    pub unseen: Vec<String>,
}

macro_rules! framed {
    ($($message:ty),*) => {$(
        impl $message {
            /// Writes the message as one frame.
            pub fn write(&self, socket: &mut impl Write) -> io::Result<()> {
                frame::write(socket, &codec::encode(self))
            }

            /// Reads one frame; `None` at the end of the stream.
            pub fn read(socket: &mut impl Read) -> io::Result<Option<Self>> {
                frame::read::<Self, MAX_MESSAGE>(socket)
            }
        }
    )*};
}

framed!(Command, Signal, Exit, Observed);
