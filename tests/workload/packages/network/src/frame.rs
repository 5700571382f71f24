//! One message on the wire: its length in four bytes, big-endian, then its bytes.

use std::io::{self, ErrorKind, Read, Write};

/// The longest message, in bytes. The largest order is a few kilobytes; the limit keeps a peer from
/// making us reserve memory for whatever length it claims.
pub const MAX_FRAME: usize = 1 << 20;

/// Writes one frame and flushes, so that the other side can go on.
pub fn write_frame(to: &mut impl Write, message: &[u8]) -> io::Result<()> {
    if message.len() > MAX_FRAME {
        return Err(too_long(message.len()));
    }
    to.write_all(&(message.len() as u32).to_be_bytes())?;
    to.write_all(message)?;
    to.flush()
}

/// Reads one frame; `None` when the other side ended between two frames.
pub fn read_frame(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut header = Vec::with_capacity(4);
    from.by_ref().take(4).read_to_end(&mut header)?;
    if header.is_empty() {
        return Ok(None);
    }
    let header = header.try_into().map_err(|_| io::Error::from(ErrorKind::UnexpectedEof))?;
    let length = u32::from_be_bytes(header) as usize;
    if length > MAX_FRAME {
        return Err(too_long(length));
    }
    let mut message = vec![0; length];
    from.read_exact(&mut message)?;
    Ok(Some(message))
}

fn too_long(length: usize) -> io::Error {
    let reason = format!("a message of {length} bytes is longer than {MAX_FRAME}");
    io::Error::new(ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in() {
        let messages = [&b""[..], b"one", &[0xff; 70_000], &[7; MAX_FRAME]];
        let mut wire = Vec::new();
        for message in messages {
            write_frame(&mut wire, message).unwrap();
        }
        let mut wire = &wire[..];
        for message in messages {
            assert_eq!(read_frame(&mut wire).unwrap().as_deref(), Some(message));
        }
        assert!(read_frame(&mut wire).unwrap().is_none());
    }

    #[test]
    fn an_end_inside_a_frame_is_an_error() {
        let mut wire = Vec::new();
        write_frame(&mut wire, b"hello").unwrap();
        for end in 1..wire.len() {
            let error = read_frame(&mut &wire[..end]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "cut at {end}");
        }
    }

    #[test]
    fn a_frame_beyond_the_limit_is_refused_on_both_sides() {
        let claimed = (MAX_FRAME as u32 + 1).to_be_bytes();
        let read = read_frame(&mut &claimed[..]).unwrap_err();
        let written = write_frame(&mut Vec::new(), &vec![0; MAX_FRAME + 1]).unwrap_err();
        assert_eq!(read.to_string(), "a message of 1048577 bytes is longer than 1048576");
        assert_eq!(written.kind(), ErrorKind::InvalidData);
    }
}
