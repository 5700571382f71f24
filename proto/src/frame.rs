//! Frames on local sockets: the length as 32-bit little-endian, then that many bytes.

use crate::codec::{self, DecodeError};
use bincode::Decode;
use std::io::{self, Read, Write};

/// Sends one frame.
pub(crate) fn write(socket: &mut impl Write, body: &[u8]) -> io::Result<()> {
    let len = u32::try_from(body.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    socket.write_all(&[&len.to_le_bytes(), body].concat())
}

/// Receives a message of at most `LIMIT` bytes; `None` when the other end is gone.
pub(crate) fn read<T: Decode<()>, const LIMIT: usize>(
    socket: &mut impl Read,
) -> io::Result<Option<T>> {
    let mut len = [0; 4];
    match socket.read_exact(&mut len) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let len = u32::from_le_bytes(len) as usize;
    if len > LIMIT {
        return Err(invalid(DecodeError::TooLong { len, limit: LIMIT }));
    }
    let mut body = vec![0; len];
    socket.read_exact(&mut body)?;
    codec::decode::<T, LIMIT>(&body).map(Some).map_err(invalid)
}

/// A message that cannot be, as the error of its socket.
pub(crate) fn invalid(error: DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
