//! What the runner and the supervisor of a command tell one another over a socket pair.

use crate::{codec, frame};
use bincode::{Decode, Encode};
use std::io::{self, Read, Write};

/// Most bytes of one message: argv and environment are at most 2 MiB on Linux, plus room.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;

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
}

/// How a command ended.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Exit {
    /// It could not be started: the operating system's error number.
    NotStarted(i32),
    /// It exited with this code.
    Code(i32),
    /// It was ended by this signal.
    Signal(i32),
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

framed!(Command, Signal, Exit);
