//! The answering end: accepts connections of admitted peers and answers their requests.
//!
//! Whatever a peer does costs it its own connection at most. Memory is bounded by the number of
//! connections and requests times two batches, plus what QUIC keeps for retransmission.

use crate::{
    auth::{self, Admits},
    counters::{Tally, add},
    error::code,
    frame::{FrameError, FrameReader, FrameWriter, SendError, put_frame},
    seats::{MAX_CONNECTIONS, Seats},
};
use bytes::Bytes;
use netbuild_core::{
    chunk::{Chunk, MAX_CHUNK, Manifest},
    digest::Digest,
    key::ActionKey,
    peer::PeerId,
};
use netbuild_proto::{
    data::{MAX_REQUEST, Request, encode_manifest},
    record::MAX_RECORD,
};
use quinn::{Connection, ConnectionError, Incoming, RecvStream, SendStream};
use std::{fmt, fmt::Debug, sync::Arc, time::Duration};
use tokio::{sync::Semaphore, task::JoinSet, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Longest handshake that is waited for, so that strangers cannot keep seats for nothing.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Reads of the disk at once: enough to keep an SSD busy, few enough to leave it to the build.
const MAX_READS: usize = 16;
/// Payload bytes after which a batch is sent: one average chunk, or many small things.
const BATCH: usize = 512 * 1024;

/// What a provider may hand out. The calls block; they are made on tokio's blocking pool.
pub trait Provide: Send + Sync + Debug + 'static {
    /// The sealed record of an action.
    fn record(&self, key: &ActionKey) -> Option<Vec<u8>>;
    /// The manifest of a blob that is here whole.
    fn manifest(&self, blob: &Digest) -> Option<Manifest>;
    /// The bytes of a chunk, verified against its hash.
    fn chunk(&self, chunk: &Chunk) -> Option<Vec<u8>>;
}

/// The provider of one endpoint.
pub(crate) struct Provider {
    provide: Arc<dyn Provide>,
    admits: Admits,
    tasks: TaskTracker,
    closing: CancellationToken,
    tally: Arc<Tally>,
    seats: Seats,
    room: Arc<Semaphore>,
    reads: Arc<Semaphore>,
}

impl Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider").field("provide", &self.provide).finish_non_exhaustive()
    }
}

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("malformed request: {0}")]
    Malformed(String),
    #[error("request not received: {0}")]
    Receive(#[from] FrameError),
    #[error("answer not sent: {0}")]
    Send(#[from] SendError),
    #[error("reading what was asked for panicked")]
    Read,
}

/// Frames ready to be sent.
struct Batch {
    parts: Vec<Bytes>,
    payload: u64,
    /// How many of the request's things are answered with this batch.
    answered: usize,
}

impl Provider {
    pub(crate) fn new(
        provide: Arc<dyn Provide>,
        admits: Admits,
        tasks: TaskTracker,
        closing: CancellationToken,
        tally: Arc<Tally>,
    ) -> Self {
        Self {
            provide,
            admits,
            tasks,
            closing,
            tally,
            seats: Seats::default(),
            room: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            reads: Arc::new(Semaphore::new(MAX_READS)),
        }
    }

    /// Accepts connections until the endpoint closes.
    pub(crate) async fn accept(self: Arc<Self>, quic: quinn::Endpoint) {
        while let Some(Some(incoming)) = self.closing.run_until_cancelled(quic.accept()).await {
            let Ok(room) = self.room.clone().try_acquire_owned() else {
                add(&self.tally.connections_refused, 1);
                incoming.refuse();
                continue;
            };
            // When room gets scarce, it is only for those who can be reached where they claim to be.
            if self.room.available_permits() < MAX_CONNECTIONS / 2 && incoming.may_retry() {
                // Fails only when a retry is not possible, which was just asked.
                let _ = incoming.retry();
                continue;
            }
            let provider = self.clone();
            self.tasks.spawn(async move {
                let served = provider.serve(incoming);
                provider.closing.run_until_cancelled(served).await;
                drop(room);
            });
        }
    }

    async fn serve(self: &Arc<Self>, incoming: Incoming) {
        let address = incoming.remote_address();
        let connection = match timeout(HANDSHAKE_TIMEOUT, incoming).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                // An error that this side found: no key, no admitted key, or not this protocol.
                if matches!(error, ConnectionError::TransportError(_)) {
                    add(&self.tally.connections_refused, 1);
                }
                tracing::debug!(%address, %error, "handshake failed");
                return;
            }
            Err(_) => return,
        };
        // A resumed session brings the peer's key without asking the verifier again.
        let Some(peer) = auth::peer_of(&connection).filter(|peer| (self.admits)(peer)) else {
            return self.turn_away(&connection, code::REFUSED);
        };
        let Some(_seat) = self.seats.take(peer) else {
            return self.turn_away(&connection, code::BUSY);
        };
        self.serve_peer(&connection, peer).await;
    }

    /// Answers requests until the connection ends or the peer is no longer admitted.
    async fn serve_peer(self: &Arc<Self>, connection: &Connection, peer: PeerId) {
        let mut requests = JoinSet::new();
        while let Ok((send, receive)) = connection.accept_bi().await {
            if !(self.admits)(&peer) {
                return self.turn_away(connection, code::REFUSED);
            }
            // QUIC's limit of streams bounds how many run; those that have ended are let go.
            while requests.try_join_next().is_some() {}
            requests.spawn(self.clone().handle(peer, send, receive));
        }
    }

    fn turn_away(&self, connection: &Connection, code: quinn::VarInt) {
        add(&self.tally.connections_refused, 1);
        connection.close(code, &[]);
    }

    async fn handle(self: Arc<Self>, peer: PeerId, send: SendStream, receive: RecvStream) {
        let mut writer = FrameWriter::new(send);
        let result = match read_request(receive).await {
            Ok(request) => self.answer(Arc::new(request), &mut writer).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => {
                writer.finish();
                add(&self.tally.requests_served, 1);
            }
            Err(error) => {
                tracing::debug!(%peer, %error, "request failed");
                if matches!(error, ServeError::Malformed(_)) {
                    add(&self.tally.requests_refused, 1);
                    writer.reset(code::MALFORMED);
                }
            }
        }
    }

    /// Sends the answers in order, and reads the next batch while one is sent.
    async fn answer(
        &self,
        request: Arc<Request>,
        writer: &mut FrameWriter,
    ) -> Result<(), ServeError> {
        // A record or a manifest is what somebody waits for before chunks can be asked for at all.
        if !matches!(*request, Request::Chunks(_)) {
            writer.be_urgent();
        }
        let mut answered = 0;
        let mut batch = self.read(&request, answered).await?;
        while batch.answered > 0 {
            answered += batch.answered;
            let (sent, next) =
                tokio::join!(writer.send(&mut batch.parts), self.read(&request, answered));
            sent?;
            add(&self.tally.bytes_served, batch.payload);
            batch = next?;
        }
        Ok(())
    }

    async fn read(&self, request: &Arc<Request>, from: usize) -> Result<Batch, ServeError> {
        if from == request.items() {
            return Ok(Batch::empty());
        }
        let permit = self.reads.clone().acquire_owned().await;
        let (provide, request) = (self.provide.clone(), request.clone());
        let read = self.tasks.spawn_blocking(move || {
            let batch = Batch::collect(&*provide, &request, from);
            drop(permit);
            batch
        });
        read.await.map_err(|_| ServeError::Read)
    }
}

impl Batch {
    fn empty() -> Self {
        Self { parts: Vec::new(), payload: 0, answered: 0 }
    }

    fn collect(provide: &dyn Provide, request: &Request, from: usize) -> Self {
        let mut batch = Self::empty();
        for index in from..request.items() {
            let content = content(provide, request, index);
            batch.payload += content.len() as u64;
            put_frame(&mut batch.parts, content.into());
            batch.answered += 1;
            if batch.payload >= BATCH as u64 {
                break;
            }
        }
        batch
    }
}

/// The content of the frame that answers one thing of the request; empty when it is not here.
fn content(provide: &dyn Provide, request: &Request, index: usize) -> Vec<u8> {
    let content = match request {
        Request::Records(keys) => {
            provide.record(&keys[index]).filter(|record| record.len() <= MAX_RECORD)
        }
        Request::Manifests(blobs) => {
            provide.manifest(&blobs[index]).map(|manifest| encode_manifest(&manifest))
        }
        Request::Chunks(chunks) => {
            provide.chunk(&chunks[index]).filter(|bytes| bytes.len() == chunks[index].len as usize)
        }
    };
    content.unwrap_or_default()
}

async fn read_request(receive: RecvStream) -> Result<Request, ServeError> {
    let mut frames = FrameReader::new(receive);
    let length = frames.length().await?;
    if length > MAX_REQUEST {
        return Err(ServeError::Malformed(format!("frame of {length} bytes")));
    }
    let content = frames.content(length).await?;
    if !frames.ends().await? {
        return Err(ServeError::Malformed("bytes follow the request".into()));
    }
    let request =
        Request::decode(&content).map_err(|error| ServeError::Malformed(error.to_string()))?;
    if let Request::Chunks(chunks) = &request
        && let Some(bad) =
            chunks.iter().find(|chunk| chunk.len == 0 || chunk.len as usize > MAX_CHUNK)
    {
        return Err(ServeError::Malformed(format!("a chunk of {} bytes", bad.len)));
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Endpoint, FetchError, Holder,
        fixture::{Shelf, agent, everyone, holder, raw_connection, soon},
        seats::MAX_CONNECTIONS_PER_PEER,
        socket::MAX_STREAMS,
    };
    use netbuild_core::digest::Hash;
    use quinn::ReadToEndError;
    use std::ops::ControlFlow;

    fn stocked() -> (Endpoint, Holder, Vec<Chunk>) {
        let mut shelf = Shelf::default();
        let chunks = shelf.stock(8, 512 * 1024);
        let endpoint = agent(1, everyone(), shelf);
        let at = holder(1, &endpoint);
        (endpoint, at, chunks)
    }

    /// Whether someone else is served in full.
    async fn others_are_served(at: &Holder, chunks: &[Chunk]) {
        let other = agent(9, everyone(), Shelf::default());
        let fetch = other.chunks(at, chunks, |_, _| async { ControlFlow::Continue(()) });
        assert_eq!(soon(fetch).await.unwrap().missing, []);
    }

    fn framed(request: &Request) -> Vec<u8> {
        let content = request.encode();
        [&(content.len() as u32).to_le_bytes()[..], &content].concat()
    }

    #[tokio::test]
    async fn requests_that_are_none_are_refused_and_counted() {
        let (endpoint, at, chunks) = stocked();
        let odd = |len| Chunk { hash: Hash([0; 32]), len };
        let mut trailing = framed(&Request::Chunks(chunks.clone()));
        trailing.push(0);
        let bad = [
            [&4_u32.to_le_bytes()[..], b"junk"].concat(),
            vec![0xff; 2000],
            trailing,
            framed(&Request::Chunks(vec![odd(0)])),
            framed(&Request::Chunks(vec![odd(u32::MAX)])),
        ];
        let connection = soon(raw_connection(2, &at)).await;
        for bytes in &bad {
            let (mut send, mut receive) = soon(connection.open_bi()).await.unwrap();
            let _ = soon(send.write_all(bytes)).await;
            let _ = send.finish();
            let error = soon(receive.read_to_end(100)).await.unwrap_err();
            let ReadToEndError::Read(quinn::ReadError::Reset(reset)) = error else {
                panic!("{error}");
            };
            assert_eq!(reset, code::MALFORMED);
        }
        assert_eq!(endpoint.counters().requests_refused, bad.len() as u64);
        others_are_served(&at, &chunks).await;
    }

    #[tokio::test]
    async fn a_request_that_ends_early_or_asks_for_nothing_does_no_harm() {
        let (_endpoint, at, chunks) = stocked();
        let connection = soon(raw_connection(2, &at)).await;
        for bytes in [&b""[..], &[1, 0], &[200, 0, 0, 0, 1]] {
            let (mut send, mut receive) = soon(connection.open_bi()).await.unwrap();
            soon(send.write_all(bytes)).await.unwrap();
            send.finish().unwrap();
            assert!(soon(receive.read_to_end(100)).await.is_err());
        }
        let (mut send, mut receive) = soon(connection.open_bi()).await.unwrap();
        let nothing = framed(&Request::Records(Vec::new()));
        soon(send.write_all(&nothing)).await.unwrap();
        send.finish().unwrap();
        assert!(soon(receive.read_to_end(100)).await.unwrap().is_empty());
        others_are_served(&at, &chunks).await;
    }

    #[tokio::test]
    async fn requests_whose_answers_nobody_reads_do_not_keep_others_waiting() {
        let (_endpoint, at, chunks) = stocked();
        let connection = soon(raw_connection(2, &at)).await;
        let request = framed(&Request::Chunks(vec![chunks[0]; 1000]));
        let mut open = Vec::new();
        for _ in 0..MAX_STREAMS {
            let (mut send, receive) = soon(connection.open_bi()).await.unwrap();
            soon(send.write_all(&request)).await.unwrap();
            send.finish().unwrap();
            open.push((send, receive));
        }
        // One more is more than the provider lets be open.
        tokio::select! {
            biased;
            more = connection.open_bi() => panic!("{more:?}"),
            () = others_are_served(&at, &chunks) => {}
        }
    }

    #[tokio::test]
    async fn ten_thousand_streams_that_are_dropped_at_once_do_no_harm() {
        let (endpoint, at, chunks) = stocked();
        let connection = soon(raw_connection(2, &at)).await;
        let request = framed(&Request::Chunks(chunks.clone()));
        for number in 0..10_000 {
            let (mut send, mut receive) = soon(connection.open_bi()).await.unwrap();
            soon(send.write_all(&request[..number % request.len()])).await.unwrap();
            let _ = send.reset(code::INTERNAL);
            let _ = receive.stop(code::INTERNAL);
        }
        others_are_served(&at, &chunks).await;
        assert!(connection.close_reason().is_none());
        soon(endpoint.shutdown()).await;
    }

    #[tokio::test]
    async fn one_peer_has_a_few_connections_and_no_more() {
        let (endpoint, at, chunks) = stocked();
        let mut open = Vec::new();
        for _ in 0..=MAX_CONNECTIONS_PER_PEER {
            open.push(soon(raw_connection(2, &at)).await);
        }
        let closed = open.iter().map(|connection| Box::pin(connection.closed()));
        let (error, ..) = soon(futures::future::select_all(closed)).await;
        assert!(
            matches!(&error, ConnectionError::ApplicationClosed(close) if close.error_code == code::BUSY),
            "{error}"
        );
        assert_eq!(endpoint.counters().connections_refused, 1);
        others_are_served(&at, &chunks).await;
    }

    #[tokio::test]
    async fn a_full_provider_is_busy_until_there_is_room() {
        let (_endpoint, at, chunks) = stocked();
        let mut open = Vec::new();
        for number in 0..=255 {
            open.push(soon(raw_connection(number, &at)).await);
        }
        assert_eq!(open.len(), MAX_CONNECTIONS);
        let late = agent(9, everyone(), Shelf::default());
        let fetch = || late.chunks(&at, &chunks, |_, _| async { ControlFlow::Continue(()) });
        assert_eq!(soon(fetch()).await, Err(FetchError::Busy { peer: at.peer }));
        open.truncate(MAX_CONNECTIONS - 1);
        // The provider learns of the free seat a moment later.
        let again = async { while fetch().await.is_err() {} };
        soon(again).await;
    }

    #[tokio::test]
    async fn a_store_that_panics_fails_the_request_and_nothing_else() {
        let mut shelf = Shelf::default();
        let chunks = shelf.stock(1, 100);
        let gate = shelf.gate.clone();
        let poisoned = std::thread::spawn(move || {
            let _held = gate.lock().unwrap();
            panic!("on purpose");
        });
        assert!(poisoned.join().is_err());
        let endpoint = agent(1, everyone(), shelf);
        let at = holder(1, &endpoint);
        let other = agent(2, everyone(), Shelf::default());
        let fetch = other.chunks(&at, &chunks, |_, _| async { ControlFlow::Continue(()) });
        let error = soon(fetch).await.unwrap_err();
        assert!(matches!(error, FetchError::Lost { .. }), "{error}");
        let blobs = soon(other.manifests(&at, &[Digest::of(b"")])).await;
        assert_eq!(blobs.unwrap(), [None]);
        assert_eq!(other.counters().dials, 1);
    }

    #[tokio::test]
    async fn what_is_no_handshake_is_ignored() {
        let (_endpoint, at, chunks) = stocked();
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for len in 0..1400_usize {
            let noise: Vec<u8> = (0..len).map(|at| (at * 31 + len * 7) as u8).collect();
            let _ = socket.send_to(&noise, at.addresses[0]).await;
        }
        others_are_served(&at, &chunks).await;
    }
}
