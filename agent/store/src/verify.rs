//! A reader that checks a blob while it is read.

use netbuild_core::digest::{Digest, DigestBuilder};
use std::{
    fmt,
    io::{self, Read},
};

/// Gives the bytes of a blob, and `InvalidData` in place of its last bytes when they are damaged.
///
/// The verdict comes before the last byte and not after it, as some callers read exactly the size of the
/// blob and never see the end. Bytes behind the size are not read.
pub(crate) struct VerifyingReader<R> {
    inner: R,
    blob: Digest,
    seen: DigestBuilder,
    on_damage: Option<Box<dyn FnOnce() + Send>>,
    damaged: bool,
}

impl<R: Read> VerifyingReader<R> {
    /// Reads `blob` from `inner`; `on_damage` is called once if it turns out to be something else.
    pub(crate) fn new(inner: R, blob: Digest, on_damage: Box<dyn FnOnce() + Send>) -> Self {
        Self { inner, blob, seen: DigestBuilder::new(), on_damage: Some(on_damage), damaged: false }
    }

    fn fail(&mut self) -> io::Error {
        self.damaged = true;
        if let Some(on_damage) = self.on_damage.take() {
            on_damage();
        }
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("stored bytes are not those of blob {}", self.blob),
        )
    }
}

impl<R: Read> Read for VerifyingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.damaged {
            return Err(self.fail());
        }
        let left = self.blob.size - self.seen.size();
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let got = self.inner.read(&mut buffer[..want])?;
        self.seen.update(&buffer[..got]);
        let ended = got == 0 || got as u64 == left;
        if ended && self.seen.finish() != self.blob {
            // The caller's buffer must not keep what was refused.
            buffer[..got].fill(0);
            return Err(self.fail());
        }
        Ok(got)
    }
}

impl<R> fmt::Debug for VerifyingReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyingReader")
            .field("blob", &self.blob)
            .field("seen", &self.seen.size())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    fn read(stored: &[u8], blob: Digest, exactly: bool) -> (io::Result<Vec<u8>>, usize) {
        let alarms = Arc::new(AtomicUsize::new(0));
        let counter = alarms.clone();
        let mut reader = VerifyingReader::new(
            stored,
            blob,
            Box::new(move || {
                counter.fetch_add(1, Ordering::Relaxed);
            }),
        );
        let mut bytes = vec![0; if exactly { blob.size as usize } else { 0 }];
        let result = if exactly {
            reader.read_exact(&mut bytes).map(|()| 0)
        } else {
            reader.read_to_end(&mut bytes)
        };
        assert_eq!(reader.read(&mut [0; 8]).is_err(), result.is_err());
        (result.map(|_| bytes), alarms.load(Ordering::Relaxed))
    }

    #[test]
    fn good_bytes_come_through_and_damage_is_an_error_before_the_last_byte() {
        let blob = Digest::of(b"some bytes");
        for exactly in [true, false] {
            let (result, alarms) = read(b"some bytes", blob, exactly);
            assert_eq!((result.unwrap(), alarms), (b"some bytes".to_vec(), 0));
            for bad in [&b"some bytez"[..], b"some byte", b""] {
                let (result, alarms) = read(bad, blob, exactly);
                assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidData);
                assert_eq!(alarms, 1);
            }
        }
    }
}
