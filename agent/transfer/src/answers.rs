//! The answers to the requests of one stream, as they come.

use crate::{
    FetchError, Patience,
    codec::BadBody,
    counters::add,
    endpoint::Inner,
    error::code,
    frame::{FrameError, FrameReader, FrameWriter, SendError},
    link::{Link, Metering},
    links::Links,
    socket::STREAM_WINDOW,
};
use bytes::Bytes;
use netbuild_core::{
    chunk::{AVG_CHUNK, Chunk},
    digest::Hash,
};
use netbuild_proto::data::{Coding, MAX_BEATS, MAX_ITEMS, MAX_RUN, RUN_HEADER, Request, RunHeader};
use quinn::{ReadError, WriteError};
use std::{
    collections::VecDeque,
    slice,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

/// Most bytes of chunks that are asked for on one stream before they are there: twice what a stream
/// may have under way, so that while the link is full of answers the next request waits at the
/// provider already.
pub(crate) const IN_FLIGHT: u64 = 2 * STREAM_WINDOW as u64;
/// The same while nothing is known of the link, and on a slow one: each request brings the provider
/// what was learned of it since, by which it codes what is left.
pub(crate) const FEW_IN_FLIGHT: u64 = 8 << 20;
/// Requests of one stream under way at once, each of at most 64 KiB: less than a stream may have
/// under way, so sending them never has to wait for answers.
pub(crate) const MAX_IN_FLIGHT: usize = 64;

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

/// What a request counts for, of [`FEW_IN_FLIGHT`] or more. Of those for patches, of which a little
/// comes for much that is asked, and of other ones two are under way at least; of those for a few chunks more, as what
/// is behind them would wait for a round trip.
fn weight(request: &Request) -> u64 {
    match request {
        Request::Chunks { chunks, .. } => chunks.iter().map(|chunk| u64::from(chunk.len)).sum(),
        Request::Delta { target, count, .. } => {
            let about = u64::from(*count) * AVG_CHUNK as u64;
            about.min(target.size).min(FEW_IN_FLIGHT / 2)
        }
        _ => FEW_IN_FLIGHT / 2,
    }
}

/// A run of chunks, its body not yet decoded.
#[derive(Debug)]
pub(crate) struct CodedRun {
    pub(crate) header: RunHeader,
    pub(crate) body: Bytes,
    /// Bytes of its frame.
    pub(crate) wire: u64,
}

/// A run of chunks of which the first bytes are here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Coming {
    /// How many of the next chunks are in it.
    pub chunks: usize,
    /// How it is coded.
    pub coding: Coding,
    /// Bytes of these chunks.
    pub decoded: u64,
    /// Bytes that it takes to send them, and how many of these are here.
    pub wire: u64,
    /// See `wire`.
    pub here: u64,
}

/// One stream with its requests and their answers. Dropped, it stops both.
pub(crate) struct Answers<R: Requests> {
    inner: Arc<Inner>,
    link: Arc<Link>,
    requests: R,
    /// The next request, when it was taken already.
    next_request: Option<Request>,
    /// Whether there may be more requests later when there is none now.
    lazy: bool,
    /// Until the last request is sent.
    writer: Option<FrameWriter>,
    frames: FrameReader,
    patience: Patience,
    asked: Instant,
    /// What each of the requests under way counts for.
    in_flight: VecDeque<u64>,
    /// Bytes of the runs that came, and of the chunks in them.
    wire: u64,
    logical: u64,
    /// Length of the next frame, when it was read already.
    next_length: Option<usize>,
    _room: OwnedSemaphorePermit,
}

impl<R: Requests> Answers<R> {
    /// Sends the first requests and waits for the first answer to begin.
    pub(crate) async fn begin(
        inner: Arc<Inner>,
        link: Arc<Link>,
        mut requests: R,
        patience: Patience,
    ) -> Result<Self, FetchError> {
        let next_request = requests.next();
        let lazy = matches!(next_request, Some(Request::Chunks { .. } | Request::Delta { .. }));
        let (room, metered) = match &next_request {
            Some(Request::Chunks { .. } | Request::Delta { .. }) => (&link.chunk_requests, true),
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
            next_request,
            lazy,
            writer: Some(FrameWriter::new(send)),
            frames,
            patience,
            asked,
            in_flight: VecDeque::new(),
            wire: 0,
            logical: 0,
            next_length: None,
            _room: room,
        };
        answers.fill().await?;
        answers.next_length = Some(answers.length().await?);
        Ok(answers)
    }

    /// Sends more requests, if there are any: to be called when one was answered.
    pub(crate) async fn advance(&mut self) -> Result<(), FetchError> {
        self.in_flight.pop_front();
        self.fill().await
    }

    /// Sends requests until enough of them are under way, or all.
    async fn fill(&mut self) -> Result<(), FetchError> {
        while self.writer.is_some()
            && self.in_flight.len() < MAX_IN_FLIGHT
            && self.in_flight.iter().sum::<u64>() < self.enough()
            && self.send_next().await?
        {}
        Ok(())
    }

    /// How much is to be under way: what the link gives in a second, decoded.
    fn enough(&self) -> u64 {
        let rate = self.link.believed().unwrap_or(0) as f64;
        let swells = self.logical as f64 / self.wire.max(1) as f64;
        ((rate * swells.max(1.0)) as u64).clamp(FEW_IN_FLIGHT, IN_FLIGHT)
    }

    /// Sends one request; says whether there was one. After the last one the stream ends.
    async fn send_next(&mut self) -> Result<bool, FetchError> {
        let Some(writer) = &mut self.writer else {
            return Ok(false);
        };
        let request = self.next_request.take().or_else(|| self.requests.next());
        let sent = request.is_some();
        if let Some(mut request) = request {
            self.in_flight.push_back(weight(&request));
            if let Request::Chunks { accept, .. } | Request::Delta { accept, .. } = &mut request {
                // What this connection has shown is newer than what the caller believes.
                accept.goodput = self.link.believed().unwrap_or(accept.goodput);
                accept.decode = self.inner.decodes.load(Ordering::Relaxed);
            }
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
        if !self.lazy {
            self.next_request = self.requests.next();
        }
        let over = match self.lazy {
            true => !sent && self.in_flight.is_empty(),
            false => self.next_request.is_none(),
        };
        if over && let Some(writer) = self.writer.take() {
            writer.finish();
        }
        Ok(sent)
    }

    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// When the requests were begun to be sent.
    pub(crate) fn asked(&self) -> Instant {
        self.asked
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

    /// The next run of an answer, of the chunks that are still to be answered in the same request. `hear` is told
    /// of it while it comes.
    pub(crate) async fn run(
        &mut self,
        asked: &[Chunk],
        hear: &mut impl FnMut(&Coming),
    ) -> Result<CodedRun, FetchError> {
        let mut beats = 0;
        let length = loop {
            match self.next_length(RUN_HEADER + MAX_RUN).await? {
                0 if beats == MAX_BEATS => {
                    return Err(FetchError::Stalled { peer: self.link.peer });
                }
                0 => beats += 1,
                length => break length,
            }
            self.frames.forgive();
        };
        let Some(body) = length.checked_sub(RUN_HEADER) else {
            return Err(self.malformed(format!("a run in {length} bytes")));
        };
        let header = self.frames.content(RUN_HEADER).await;
        let header = header.map_err(|error| fail(&self.inner, &self.link, error))?;
        let mut bytes = [0; RUN_HEADER];
        bytes.copy_from_slice(&header);
        let header = RunHeader::decode(bytes, body, asked)
            .map_err(|error| self.malformed(error.to_string()))?;
        if header.late {
            self.frames.spoil();
        }
        let mut coming = Coming {
            chunks: header.count.into(),
            coding: header.coding,
            decoded: header.decoded.into(),
            wire: body as u64,
            here: 0,
        };
        let content = self.frames.content_heard(body, |here| {
            coming.here = here as u64;
            hear(&coming);
        });
        let content = content.await;
        let body = self.counted(content)?;
        add(&self.inner.tally.logical_fetched, header.decoded.into());
        // What it takes with the length before it, and with the empty frames.
        let wire = (4 + length) as u64 + 4 * u64::from(beats);
        self.wire += wire;
        self.logical += u64::from(header.decoded);
        Ok(CodedRun { header, body, wire })
    }

    /// Makes sure that these bytes of a run are the chunk.
    pub(crate) fn check(&self, chunk: &Chunk, bytes: &[u8]) -> Result<(), FetchError> {
        if Hash::of(bytes) == chunk.hash {
            return Ok(());
        }
        let peer = self.link.peer;
        tracing::warn!(%peer, chunk = %chunk.hash, "peer sent wrong bytes, nothing of it is kept");
        Links::close(&self.link, code::WRONG_BYTES);
        Err(FetchError::WrongBytes { peer, chunk: *chunk })
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

    /// Ends the connection for a run that makes no sense.
    pub(crate) fn bad_body(&self, error: &BadBody) -> FetchError {
        self.malformed(error.to_string())
    }

    async fn content(&mut self, length: usize) -> Result<Bytes, FetchError> {
        let content = self.frames.content(length).await;
        self.counted(content)
    }

    fn counted(&self, content: Result<Bytes, FrameError>) -> Result<Bytes, FetchError> {
        let content = content.map_err(|error| fail(&self.inner, &self.link, error))?;
        add(&self.inner.tally.bytes_fetched, content.len() as u64);
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
