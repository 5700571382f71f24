//! Frames on a QUIC stream: a 32-bit little-endian length, then that many bytes.
//!
//! Reading is bounded in memory and in idle time: the caller sees the length before a byte is
//! allocated, memory grows only as bytes arrive, and each wait for bytes has a deadline.

use crate::error::code;
use bytes::{Bytes, BytesMut};
use quinn::{ReadError, RecvStream, SendStream, VarInt, WriteError};
use std::time::Duration;
use tokio::time::timeout;

/// Longest time without a byte before the other end counts as stalled: well over the worst round
/// trip with a few retransmissions, well under what a build would wait for a chunk.
pub const PROGRESS_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest time without a byte that the requester takes. Longer than [`PROGRESS_TIMEOUT`]: it
/// may be waiting for its own disk, and costs the provider only memory that is bounded anyway.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a frame's length.
const HEADER: usize = 4;
/// Bytes that are allocated before any have arrived, whatever length the other end claims.
const FIRST_ALLOCATION: usize = 64 * 1024;

/// A frame did not arrive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// No byte for [`PROGRESS_TIMEOUT`].
    #[error("no progress")]
    Stalled,
    /// The stream ended before the frame did.
    #[error("the stream ended early")]
    Ended,
    /// The stream broke.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Reads frames.
#[derive(Debug)]
pub(crate) struct FrameReader(RecvStream);

impl FrameReader {
    pub(crate) fn new(stream: RecvStream) -> Self {
        Self(stream)
    }

    /// The length of the next frame, as the other end claims it.
    pub(crate) async fn length(&mut self) -> Result<usize, FrameError> {
        let header = self.content(HEADER).await?;
        Ok(header.iter().rev().fold(0, |length, byte| (length << 8) | usize::from(*byte)))
    }

    /// The next `length` bytes.
    pub(crate) async fn content(&mut self, length: usize) -> Result<Bytes, FrameError> {
        let mut content = BytesMut::with_capacity(length.min(FIRST_ALLOCATION));
        while content.len() < length {
            match self.some(length - content.len()).await? {
                Some(bytes) => content.extend_from_slice(&bytes),
                None => return Err(FrameError::Ended),
            }
        }
        Ok(content.freeze())
    }

    /// Whether the stream ends here. Waits for the next byte or the end.
    pub(crate) async fn ends(&mut self) -> Result<bool, FrameError> {
        Ok(self.some(1).await?.is_none())
    }

    async fn some(&mut self, most: usize) -> Result<Option<Bytes>, FrameError> {
        match timeout(PROGRESS_TIMEOUT, self.0.read_chunk(most, true)).await {
            Ok(chunk) => Ok(chunk?.map(|chunk| chunk.bytes)),
            Err(_) => Err(FrameError::Stalled),
        }
    }
}

/// An answer did not get away.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// The requester took no byte for [`DRAIN_TIMEOUT`].
    #[error("the requester takes nothing")]
    Stalled,
    /// The stream broke, or the requester has had enough.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Writes frames. Dropped before [`FrameWriter::finish`] it resets the stream, which would
/// otherwise end as if the answer were complete.
#[derive(Debug)]
pub(crate) struct FrameWriter {
    stream: SendStream,
    ended: bool,
}

impl FrameWriter {
    pub(crate) fn new(stream: SendStream) -> Self {
        Self { stream, ended: false }
    }

    /// Sends before the streams that are not urgent.
    pub(crate) fn be_urgent(&self) {
        // Fails only when the stream is over already.
        let _ = self.stream.set_priority(1);
    }

    /// Sends parts of frames, made by [`put_frame`].
    pub(crate) async fn send(&mut self, mut parts: &mut [Bytes]) -> Result<(), SendError> {
        while !parts.is_empty() {
            match timeout(DRAIN_TIMEOUT, self.stream.write_chunks(parts)).await {
                Ok(written) => parts = &mut parts[written?.chunks..],
                Err(_) => return Err(SendError::Stalled),
            }
        }
        Ok(())
    }

    /// Ends the stream after what was sent.
    pub(crate) fn finish(mut self) {
        // Fails only when the stream is over already, and then there is nothing left to tell.
        let _ = self.stream.finish();
        self.ended = true;
    }

    /// Ends the stream as failed.
    pub(crate) fn reset(mut self, code: VarInt) {
        let _ = self.stream.reset(code);
        self.ended = true;
    }
}

impl Drop for FrameWriter {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.stream.reset(code::INTERNAL);
        }
    }
}

/// Appends one frame to `parts`.
pub(crate) fn put_frame(parts: &mut Vec<Bytes>, content: Bytes) {
    // No frame that is sent comes near 4 GiB; MAX_MANIFEST is the longest.
    let length = content.len() as u32;
    parts.push(Bytes::copy_from_slice(&length.to_le_bytes()));
    if !content.is_empty() {
        parts.push(content);
    }
}
