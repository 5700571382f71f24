//! Blob content on the control socket: raw frames, an empty one at the end.

use crate::{codec::DecodeError, frame::invalid};
use std::io::{self, Read, Write};

/// Most bytes of a content frame.
pub const MAX_DATA: usize = 256 * 1024;
/// Length that stands for "the content ends here, and is not whole".
const ABORT: u32 = u32::MAX;

/// Sends all that `content` yields, and its end. A reader that fails is passed on as an abort
/// and returned as the inner error; the outer one is the socket's.
pub fn write_content(
    socket: &mut impl Write,
    content: &mut dyn Read,
) -> io::Result<Result<(), io::Error>> {
    let mut buffer = vec![0; MAX_DATA];
    loop {
        match content.read(&mut buffer) {
            Ok(0) => {
                socket.write_all(&0_u32.to_le_bytes())?;
                return Ok(Ok(()));
            }
            Ok(count) => {
                socket.write_all(&(count as u32).to_le_bytes())?;
                socket.write_all(&buffer[..count])?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                socket.write_all(&ABORT.to_le_bytes())?;
                return Ok(Err(error));
            }
        }
    }
}

/// Content frames as a reader. Must be read to its end before the socket is used again.
#[derive(Debug)]
pub struct ContentReader<S> {
    socket: S,
    left: usize,
    ended: bool,
}

impl<S: Read> ContentReader<S> {
    /// Reads the content that comes next on `socket`.
    pub fn new(socket: S) -> Self {
        Self { socket, left: 0, ended: false }
    }

    /// The socket, to be used again once the end was read.
    pub fn into_inner(self) -> S {
        self.socket
    }
}

impl<S: Read> Read for ContentReader<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            let mut len = [0; 4];
            self.socket.read_exact(&mut len)?;
            match u32::from_le_bytes(len) {
                0 => {
                    self.ended = true;
                    return Ok(0);
                }
                ABORT => {
                    self.ended = true;
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the other end could not read the content to its end",
                    ));
                }
                len if len as usize > MAX_DATA => {
                    return Err(invalid(DecodeError::TooLong {
                        len: len as usize,
                        limit: MAX_DATA,
                    }));
                }
                len => self.left = len as usize,
            }
        }
        let most = self.left.min(buffer.len());
        let count = self.socket.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn content_arrives_whole_or_is_known_not_to() {
        let content = vec![7; MAX_DATA * 2 + 5];
        let mut bytes = Vec::new();
        write_content(&mut bytes, &mut content.as_slice()).unwrap().unwrap();
        let mut read = Vec::new();
        ContentReader::new(bytes.as_slice()).read_to_end(&mut read).unwrap();
        assert_eq!(read, content);
        bytes.truncate(MAX_DATA + 100);
        assert!(ContentReader::new(bytes.as_slice()).read_to_end(&mut Vec::new()).is_err());

        struct Failing(bool);
        impl Read for Failing {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                if std::mem::replace(&mut self.0, true) {
                    return Err(io::ErrorKind::Other.into());
                }
                buffer[0] = 1;
                Ok(1)
            }
        }
        let mut bytes = Vec::new();
        assert!(write_content(&mut bytes, &mut Failing(false)).unwrap().is_err());
        assert!(ContentReader::new(bytes.as_slice()).read_to_end(&mut Vec::new()).is_err());
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = ContentReader::new(bytes.as_slice()).read_to_end(&mut Vec::new());
        }
    }
}
