//! Frames on a QUIC stream: a 32-bit little-endian length, then that many bytes.
//!
//! Reading is bounded in memory and in idle time: the caller sees the length before a byte is
//! allocated, memory grows only as bytes arrive, and each wait for bytes has a deadline.

use crate::{
    endpoint::Toll,
    error::code,
    link::Metering,
    pace::{Pace, Patience},
};
use bytes::{Bytes, BytesMut};
use netbuild_core::peer::PeerId;
use netbuild_proto::data::Priority;
use quinn::{ReadError, RecvStream, SendStream, StoppedError, VarInt, WriteError};
use std::{
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    time::{Duration, Instant},
};
use tokio::time::{sleep, timeout};

/// Longest time without a byte that the requester takes, or sends of its next request. Longer than
/// [`PROGRESS_TIMEOUT`](crate::PROGRESS_TIMEOUT): it may be waiting for its own disk, and costs the
/// provider only memory that is bounded anyway.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a frame's length.
const HEADER: usize = 4;
/// Bytes that are allocated before any have arrived, whatever length the other end claims.
const FIRST_ALLOCATION: usize = 64 * 1024;

/// Most and least bytes that wait together for what is sent to be within its limit.
const MOST_AT_ONCE: usize = 16 * 1024;
const LEAST_AT_ONCE: usize = 1024;
/// A wait from which on smaller pieces are sent.
const SMOOTH: Duration = Duration::from_millis(250);

/// A frame did not arrive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// No byte, or too few, in the time that the reader has [`Patience`] for.
    #[error("no progress")]
    Stalled,
    /// The stream ended before the frame did.
    #[error("the stream ended early")]
    Ended,
    /// The stream broke.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Reads frames. Dropped before the end of the stream it tells the other end to send no more.
#[derive(Debug)]
pub(crate) struct FrameReader {
    stream: RecvStream,
    pace: Pace,
    metering: Option<Metering>,
}

impl FrameReader {
    pub(crate) fn new(stream: RecvStream, patience: Patience) -> Self {
        Self { stream, pace: Pace::new(patience), metering: None }
    }

    /// Counts what arrives as goodput.
    pub(crate) fn metered(mut self, metering: Metering) -> Self {
        self.metering = Some(metering);
        self
    }

    /// Waits for the next frame as for the first one.
    pub(crate) fn begin_anew(&mut self) {
        self.pace.begin_anew();
    }

    /// Does not judge the pace by what came so far.
    pub(crate) fn forgive(&mut self) {
        self.pace.forgive();
    }

    /// What was seen of the pace of the link so far does not count.
    pub(crate) fn spoil(&mut self) {
        self.metering.iter().for_each(Metering::spoil);
    }

    /// The length of the next frame, as the other end claims it.
    pub(crate) async fn length(&mut self) -> Result<usize, FrameError> {
        self.length_or_end().await?.ok_or(FrameError::Ended)
    }

    /// The length of the next frame; `None` when the stream ends before it.
    pub(crate) async fn length_or_end(&mut self) -> Result<Option<usize>, FrameError> {
        let Some(start) = self.some(HEADER).await? else {
            return Ok(None);
        };
        let rest = self.content(HEADER - start.len()).await?;
        let header = start.iter().chain(&rest);
        Ok(Some(header.rev().fold(0, |length, byte| (length << 8) | usize::from(*byte))))
    }

    /// The next `length` bytes.
    pub(crate) async fn content(&mut self, length: usize) -> Result<Bytes, FrameError> {
        self.content_heard(length, |_| ()).await
    }

    /// The same; `hear` is told how many are here whenever some more are.
    pub(crate) async fn content_heard(
        &mut self,
        length: usize,
        mut hear: impl FnMut(usize),
    ) -> Result<Bytes, FrameError> {
        let mut content = BytesMut::with_capacity(length.min(FIRST_ALLOCATION));
        while content.len() < length {
            match self.some(length - content.len()).await? {
                Some(bytes) => {
                    content.extend_from_slice(&bytes);
                    hear(content.len());
                }
                None => return Err(FrameError::Ended),
            }
        }
        Ok(content.freeze())
    }

    /// Reads `length` bytes for nothing but their time.
    pub(crate) async fn discard(&mut self, mut length: usize) -> Result<(), FrameError> {
        while length > 0 {
            length -= self.some(length).await?.ok_or(FrameError::Ended)?.len();
        }
        Ok(())
    }

    async fn some(&mut self, most: usize) -> Result<Option<Bytes>, FrameError> {
        let Self { stream, pace, metering } = self;
        let mut began = None;
        let mut read = pin!(stream.read_chunk(most, true));
        let read = poll_fn(|context| {
            let polled = read.as_mut().poll(context);
            if polled.is_pending() && began.is_none() {
                began = Some(Instant::now());
                metering.iter_mut().for_each(Metering::wait);
            }
            polled
        });
        let Ok(chunk) = timeout(pace.wait(), read).await else {
            return Err(FrameError::Stalled);
        };
        let Some(bytes) = chunk?.map(|chunk| chunk.bytes) else {
            return Ok(None);
        };
        // The clock is read only when there was a wait.
        let now = began.map(|_| Instant::now());
        metering.iter_mut().for_each(|metering| metering.arrived(now, bytes.len()));
        let waited = now.zip(began).map_or(Duration::ZERO, |(now, began)| now - began);
        if pace.arrived(bytes.len(), waited) { Ok(Some(bytes)) } else { Err(FrameError::Stalled) }
    }
}

/// A frame did not get away.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// The other end took no byte for [`DRAIN_TIMEOUT`].
    #[error("the other end takes nothing")]
    Stalled,
    /// The stream broke, or the other end has had enough.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Writes frames. Dropped before [`FrameWriter::finish`] it resets the stream, which would
/// otherwise end as if all were said.
pub(crate) struct FrameWriter {
    stream: SendStream,
    ended: bool,
    toll: Option<(PeerId, Toll)>,
}

impl fmt::Debug for FrameWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameWriter").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl FrameWriter {
    pub(crate) fn new(stream: SendStream) -> Self {
        Self { stream, ended: false, toll: None }
    }

    /// What is sent from now on waits for this.
    pub(crate) fn with_toll(mut self, toll: Option<(PeerId, Toll)>) -> Self {
        self.toll = toll;
        self
    }

    /// Sends before the streams that are less urgent.
    pub(crate) fn be_urgent(&self) {
        self.be(Priority::Urgent);
    }

    /// Sends before the streams of less priority, and after those of more.
    pub(crate) fn be(&self, priority: Priority) {
        let priority = match priority {
            Priority::Background => -1,
            Priority::Normal => 0,
            Priority::Urgent => 1,
        };
        // Fails only when the stream is over already.
        let _ = self.stream.set_priority(priority);
    }

    /// Sends parts of frames, made by [`put_frame`].
    pub(crate) async fn send(&mut self, parts: &mut [Bytes]) -> Result<(), SendError> {
        let Some((peer, toll)) = self.toll.clone() else { return self.write(parts).await };
        let mut piece = MOST_AT_ONCE;
        for part in parts {
            while !part.is_empty() {
                let wait = toll(&peer, part.len().min(piece) as u64);
                let now = part.split_to(part.len().min(piece));
                sleep(wait).await;
                self.write(&mut [now]).await?;
                // On a slow one the other end should see that it goes on.
                piece = if wait > SMOOTH { (piece / 2).max(LEAST_AT_ONCE) } else { MOST_AT_ONCE };
            }
        }
        Ok(())
    }

    async fn write(&mut self, mut parts: &mut [Bytes]) -> Result<(), SendError> {
        while !parts.is_empty() {
            match timeout(DRAIN_TIMEOUT, self.stream.write_chunks(parts)).await {
                Ok(written) => parts = &mut parts[written?.chunks..],
                Err(_) => return Err(SendError::Stalled),
            }
        }
        Ok(())
    }

    /// Sends one frame.
    pub(crate) async fn send_frame(&mut self, content: Bytes) -> Result<(), SendError> {
        let mut parts = Vec::with_capacity(2);
        put_frame(&mut parts, content);
        self.send(&mut parts).await
    }

    /// Waits until the other end wants no more, or the connection ends.
    pub(crate) fn stopped(
        &self,
    ) -> impl Future<Output = Result<Option<VarInt>, StoppedError>> + Send + Sync + 'static {
        self.stream.stopped()
    }

    /// Ends the stream after what was sent.
    pub(crate) fn finish(mut self) {
        // Fails only when the stream is over already, and then there is nothing left to tell.
        let _ = self.stream.finish();
        self.ended = true;
    }

    /// Ends the stream after what was sent, and waits until that has arrived. When the other end wants no more of it,
    /// what is still here is not sent: QUIC itself would go on with what it was handed.
    pub(crate) async fn settle(mut self) {
        if self.stream.finish().is_err() {
            return;
        }
        self.ended = true;
        if let Ok(Some(code)) = self.stream.stopped().await {
            let _ = self.stream.reset(code);
        }
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
