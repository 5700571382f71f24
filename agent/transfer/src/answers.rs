//! The answers to the requests of one stream, as they come.

use crate::{
    FetchError, Patience,
    counters::add,
    endpoint::Inner,
    error::code,
    frame::{FrameError, FrameReader, FrameWriter, SendError},
    link::{Link, Metering},
    links::Links,
};
use bytes::Bytes;
use netbuild_core::{chunk::Chunk, digest::Hash};
use netbuild_proto::data::{MAX_ITEMS, Request};
use quinn::{ReadError, WriteError};
use std::{
    iter::{Fuse, Peekable},
    slice,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

/// Requests of one stream that are sent before their answers are there: while one is answered the
/// next one waits at the provider already.
const IN_FLIGHT: usize = 2;

/// The requests of one stream, all of one kind.
pub(crate) trait Requests: Iterator<Item = Request> {}

impl<I: Iterator<Item = Request>> Requests for I {}

/// Requests for any number of things, as many in each as one may have.
#[derive(Clone)]
pub(crate) struct Batches<'a, T> {
    things: slice::Chunks<'a, T>,
    request: fn(&[T]) -> Request,
}

impl<'a, T> Batches<'a, T> {
    pub(crate) fn of(things: &'a [T], request: fn(&[T]) -> Request) -> Self {
        Self { things: things.chunks(MAX_ITEMS), request }
    }
}

impl<T> Iterator for Batches<'_, T> {
    type Item = Request;

    fn next(&mut self) -> Option<Request> {
        self.things.next().map(self.request)
    }
}

/// One stream with its requests and their answers. Dropped, it stops both.
pub(crate) struct Answers<R: Requests> {
    inner: Arc<Inner>,
    link: Arc<Link>,
    requests: Peekable<Fuse<R>>,
    /// Until the last request is sent.
    writer: Option<FrameWriter>,
    frames: FrameReader,
    patience: Patience,
    asked: Instant,
    first_byte: Duration,
    /// Length of the next frame, when it was read already.
    next_length: Option<usize>,
    _room: OwnedSemaphorePermit,
}

impl<R: Requests> Answers<R> {
    /// Sends the first requests and waits for the first answer to begin.
    pub(crate) async fn begin(
        inner: Arc<Inner>,
        link: Arc<Link>,
        requests: R,
        patience: Patience,
    ) -> Result<Self, FetchError> {
        let mut requests = requests.fuse().peekable();
        let (room, metered) = match requests.peek() {
            Some(Request::Chunks(_)) => (&link.chunk_requests, true),
            first => (&link.small_requests, matches!(first, Some(Request::Probe { .. }))),
        };
        let Ok(room) = room.clone().acquire_owned().await else {
            return Err(FetchError::Closed { peer: link.peer });
        };
        let asked = Instant::now();
        let (send, receive) = match timeout(patience.first, link.connection.open_bi()).await {
            Ok(Ok(streams)) => streams,
            Ok(Err(error)) => {
                return Err(fail(&inner, &link, ReadError::ConnectionLost(error).into()));
            }
            Err(_) => return Err(fail(&inner, &link, FrameError::Stalled)),
        };
        let frames = FrameReader::new(receive, patience);
        let frames = if metered { frames.metered(Metering::new(link.clone())) } else { frames };
        let mut answers = Self {
            inner,
            link,
            requests,
            writer: Some(FrameWriter::new(send)),
            frames,
            patience,
            asked,
            first_byte: Duration::ZERO,
            next_length: None,
            _room: room,
        };
        for _ in 0..IN_FLIGHT {
            answers.advance().await?;
        }
        answers.next_length = Some(answers.length().await?);
        answers.first_byte = asked.elapsed();
        Ok(answers)
    }

    /// Sends the next request, if there is one: to be called when one was answered.
    pub(crate) async fn advance(&mut self) -> Result<(), FetchError> {
        let Some(writer) = &mut self.writer else {
            return Ok(());
        };
        if let Some(request) = self.requests.next() {
            // At most MAX_REQUEST, as no request has more than MAX_ITEMS things.
            let sending = writer.send_frame(request.encode().into());
            match timeout(self.patience.between, sending).await {
                Ok(Ok(())) => {}
                Ok(Err(SendError::Write(WriteError::ConnectionLost(error)))) => {
                    let lost = ReadError::ConnectionLost(error).into();
                    return Err(fail(&self.inner, &self.link, lost));
                }
                // The holder wants no more requests; its answer says why.
                Ok(Err(SendError::Write(_))) => {}
                Ok(Err(SendError::Stalled)) | Err(_) => {
                    return Err(fail(&self.inner, &self.link, FrameError::Stalled));
                }
            }
        }
        if self.requests.peek().is_none()
            && let Some(writer) = self.writer.take()
        {
            writer.finish();
        }
        Ok(())
    }

    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// When the requests were begun to be sent.
    pub(crate) fn asked(&self) -> Instant {
        self.asked
    }

    /// How long after that the first byte came.
    pub(crate) fn first_byte(&self) -> Duration {
        self.first_byte
    }

    /// Takes what came for a sign of life, however slowly such signs come.
    pub(crate) fn forgive(&mut self) {
        self.frames.forgive();
    }

    /// The next answer of at most `limit` bytes; `None` when the holder lacks the thing.
    pub(crate) async fn next(&mut self, limit: usize) -> Result<Option<Bytes>, FetchError> {
        match self.next_length(limit).await? {
            0 => Ok(None),
            length => Ok(Some(self.content(length).await?)),
        }
    }

    /// The next answer, which must be exactly `chunk`.
    pub(crate) async fn chunk(&mut self, chunk: &Chunk) -> Result<Option<Bytes>, FetchError> {
        let Some(bytes) = self.next(chunk.len as usize).await? else {
            return Ok(None);
        };
        if bytes.len() == chunk.len as usize && Hash::of(&bytes) == chunk.hash {
            return Ok(Some(bytes));
        }
        let peer = self.link.peer;
        tracing::warn!(%peer, chunk = %chunk.hash, "peer sent wrong bytes, nothing of it is kept");
        Links::close(&self.link, code::WRONG_BYTES);
        Err(FetchError::WrongBytes { peer, chunk: chunk.hash })
    }

    /// The next answer, which must be `bytes` bytes of any kind, or none.
    pub(crate) async fn probe(&mut self, bytes: usize) -> Result<(), FetchError> {
        let length = self.next_length(bytes).await?;
        if length != 0 && length != bytes {
            return Err(self.malformed(format!("{length} bytes for a probe of {bytes}")));
        }
        let discarded = self.frames.discard(length).await;
        discarded.map_err(|error| fail(&self.inner, &self.link, error))
    }

    async fn next_length(&mut self, limit: usize) -> Result<usize, FetchError> {
        let length = match self.next_length.take() {
            Some(length) => length,
            None => self.length().await?,
        };
        if length <= limit {
            return Ok(length);
        }
        Err(self.malformed(format!("frame of {length} bytes, limit {limit}")))
    }

    async fn length(&mut self) -> Result<usize, FetchError> {
        let length = self.frames.length().await;
        length.map_err(|error| fail(&self.inner, &self.link, error))
    }

    async fn content(&mut self, length: usize) -> Result<Bytes, FetchError> {
        let content = self.frames.content(length).await;
        let content = content.map_err(|error| fail(&self.inner, &self.link, error))?;
        add(&self.inner.tally.bytes_fetched, length as u64);
        Ok(content)
    }

    pub(crate) fn malformed(&self, why: String) -> FetchError {
        malformed(&self.link, why)
    }
}

/// What a frame that did not come means, and what becomes of the connection. One that stalls stays:
/// its holder may just be slow, and QUIC notices a dead one by itself.
fn fail(inner: &Inner, link: &Link, error: FrameError) -> FetchError {
    let peer = link.peer;
    if inner.closing.is_cancelled() {
        return FetchError::Closed { peer };
    }
    match error {
        FrameError::Stalled => FetchError::Stalled { peer },
        FrameError::Ended => malformed(link, error.to_string()),
        FrameError::Read(ReadError::ConnectionLost(error)) => {
            FetchError::of_connection(peer, &error)
        }
        FrameError::Read(ReadError::Reset(code)) => FetchError::of_code(peer, code, &error),
        FrameError::Read(_) => FetchError::Lost { peer, why: error.to_string() },
    }
}

fn malformed(link: &Link, why: String) -> FetchError {
    let peer = link.peer;
    tracing::warn!(%peer, why, "peer does not follow the protocol");
    Links::close(link, code::MALFORMED);
    FetchError::Malformed { peer, why }
}
