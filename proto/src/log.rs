//! Logs of commands: what they printed, by stream, in the order it was read.

use crate::codec::DecodeError;

/// Version of the format, the first byte of every log.
const VERSION: u8 = 1;
/// Most bytes of output that a log keeps; a command that prints more has its log cut, and the log
/// says so.
pub const MAX_LOG: usize = 64 * 1024 * 1024;
/// Bytes before each frame's output: stream, milliseconds, length.
const HEADER: usize = 9;

/// Where a command printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Some bytes of one stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// Milliseconds since the command started.
    pub at_ms: u32,
    /// The stream.
    pub stream: Stream,
    /// What was printed.
    pub bytes: &'a [u8],
}

/// A log in the making.
#[derive(Clone, Debug)]
pub struct Log {
    bytes: Vec<u8>,
    cut: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self { bytes: vec![VERSION], cut: false }
    }
}

impl Log {
    /// Adds what was read from a stream.
    pub fn push(&mut self, at_ms: u32, stream: Stream, bytes: &[u8]) {
        if self.cut {
            return;
        }
        if self.bytes.len() + bytes.len() + HEADER > MAX_LOG {
            self.cut = true;
            let note = format!("\n[netbuild: the log is cut here, after {MAX_LOG} bytes]\n");
            return self.append(at_ms, Stream::Stderr, note.as_bytes());
        }
        self.append(at_ms, stream, bytes);
    }

    fn append(&mut self, at_ms: u32, stream: Stream, bytes: &[u8]) {
        self.bytes.push(match stream {
            Stream::Stdout => 1,
            Stream::Stderr => 2,
        });
        self.bytes.extend_from_slice(&at_ms.to_le_bytes());
        self.bytes.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether nothing was printed.
    pub fn is_empty(&self) -> bool {
        self.bytes.len() == 1
    }

    /// The log as a blob.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All of standard output, then all of standard error.
    pub fn by_stream(&self) -> Vec<u8> {
        let frames = frames(&self.bytes).unwrap_or_default();
        let of = |stream| frames.iter().filter(move |f| f.stream == stream).flat_map(|f| f.bytes);
        of(Stream::Stdout).chain(of(Stream::Stderr)).copied().collect()
    }

    /// Both streams in the order they were read.
    pub fn interleaved(&self) -> Vec<u8> {
        frames(&self.bytes)
            .map(|frames| frames.iter().flat_map(|frame| frame.bytes).copied().collect())
            .unwrap_or_default()
    }
}

/// The frames of a log blob.
pub fn frames(log: &[u8]) -> Result<Vec<Frame<'_>>, DecodeError> {
    let Some((&VERSION, mut rest)) = log.split_first() else {
        return Err(DecodeError::Invalid("log of an unknown version".into()));
    };
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let cut = || DecodeError::Malformed("the log ends within a frame".into());
        let (header, body) = rest.split_first_chunk::<HEADER>().ok_or_else(cut)?;
        let [stream, t0, t1, t2, t3, l0, l1, l2, l3] = *header;
        let stream = match stream {
            1 => Stream::Stdout,
            2 => Stream::Stderr,
            other => return Err(DecodeError::Invalid(format!("log stream {other}"))),
        };
        let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let (bytes, after) = body.split_at_checked(len).ok_or_else(cut)?;
        frames.push(Frame { at_ms: u32::from_le_bytes([t0, t1, t2, t3]), stream, bytes });
        rest = after;
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn streams_come_back_apart_and_in_order() {
        let mut log = Log::default();
        log.push(1, Stream::Stdout, b"a\n");
        log.push(2, Stream::Stderr, b"\xff\0");
        let frames = frames(log.as_bytes()).unwrap();
        assert_eq!(frames[0], Frame { at_ms: 1, stream: Stream::Stdout, bytes: b"a\n" });
        assert_eq!(frames[1], Frame { at_ms: 2, stream: Stream::Stderr, bytes: b"\xff\0" });
        assert_eq!(log.interleaved(), b"a\n\xff\0");
    }

    #[test]
    fn an_endless_log_is_cut_and_says_so() {
        let mut log = Log::default();
        let block = vec![b'x'; 1 << 20];
        (0..70).for_each(|_| log.push(0, Stream::Stdout, &block));
        assert!(log.as_bytes().len() < MAX_LOG + 200);
        let frames = frames(log.as_bytes()).unwrap();
        assert!(frames.last().unwrap().bytes.starts_with(b"\n[netbuild: the log is cut here"));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = frames(&bytes);
        }
    }
}
