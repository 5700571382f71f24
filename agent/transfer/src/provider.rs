//! The answering end: accepts connections of admitted peers and answers requests, also on the
//! connections that were dialled here.
//!
//! Whatever a peer does costs it its own connection at most. Memory is bounded by the number of
//! connections and requests times two batches or runs, plus what QUIC keeps for retransmission.

use crate::{
    auth::{self, Admits},
    batch::Batch,
    bring::BringRoom,
    client::Client,
    counters::{OneMore, Tally, add},
    endpoint::Toll,
    error::code,
    frame::{DRAIN_TIMEOUT, FrameError, FrameReader, FrameWriter, SendError},
    links::Links,
    pace::{PROGRESS_TIMEOUT, Patience},
    patches::{Bases, Wanted},
    probe::{Allowances, filling},
    runs::{Asked, Stream},
    seats::{MAX_CONNECTIONS, MAX_CONNECTIONS_PER_PEER, Seats},
    speed::Coder,
};
use bytes::Bytes;
use netbuild_core::{
    chunk::{Chunk, Manifest},
    codec::Policy,
    digest::Digest,
    key::ActionKey,
    peer::PeerId,
};
use netbuild_proto::{
    data::{MAX_REQUEST, Priority, Request, encode_bitmap},
    parts::Parts,
};
use quinn::{Connection, ConnectionError, Incoming, RecvStream, SendStream};
use std::{
    fmt,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::{
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Longest handshake that is waited for, so that strangers cannot keep seats for nothing.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Reads of the disk at once: enough to keep an SSD busy, few enough to leave it to the build.
const MAX_READS: usize = 16;
/// Waits for a request. A requester that takes its time with one answer sends the next request
/// late.
const REQUEST_PATIENCE: Patience = Patience { first: DRAIN_TIMEOUT, between: PROGRESS_TIMEOUT };

/// What a provider may hand out. The calls block; they are made on tokio's blocking pool.
pub trait Provide: Send + Sync + Debug + 'static {
    /// The sealed record of an action.
    fn record(&self, key: &ActionKey) -> Option<Vec<u8>>;
    /// The manifest of a blob that is here, or on its way here.
    fn manifest(&self, blob: &Digest) -> Option<Manifest>;
    /// The bytes of a chunk, verified against its hash.
    fn chunk(&self, chunk: &Chunk) -> Option<Vec<u8>>;
    /// A sketch of a blob that is here whole, by which similar ones are found: opaque here, of at
    /// most [`MAX_SKETCH`](netbuild_proto::data::MAX_SKETCH) bytes.
    fn sketch(&self, _blob: &Digest) -> Option<Vec<u8>> {
        None
    }
    /// The bytes of a blob that is here whole and has at most `limit` bytes, verified.
    fn blob(&self, _blob: &Digest, _limit: u64) -> Option<Bytes> {
        None
    }
    /// How much of a blob is here. The answer may be old when it arrives.
    fn parts(&self, blob: &Digest) -> Parts {
        if self.has(blob) { Parts::Whole } else { Parts::None }
    }
    /// `from_peer` says that what came as this chunk is something else. Looks anew, and says whether
    /// the chunk is here. It is not asked about more than a few mebibytes at once.
    fn doubt(&self, _from_peer: &PeerId, chunk: &Chunk) -> bool {
        self.chunk(chunk).is_some()
    }
    /// Whether a blob is here whole. Many are asked about at once, so it must be quick.
    fn has(&self, blob: &Digest) -> bool;
    /// Gets what is lacking of `blobs`, on behalf of `for_peer`, and says of each whether it is
    /// here now. May take as long as it makes sense; who asked may have given up in the meantime.
    /// The result is as long as `blobs`.
    fn bring(&self, for_peer: &PeerId, blobs: &[Digest]) -> Vec<bool>;
}

/// The provider of one endpoint.
pub(crate) struct Provider {
    pub(crate) provide: Arc<dyn Provide>,
    admits: Admits,
    tasks: TaskTracker,
    closing: CancellationToken,
    pub(crate) tally: Arc<Tally>,
    seats: Seats,
    room: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    pub(crate) brings: BringRoom,
    allowances: Mutex<Allowances>,
    pub(crate) policy: Policy,
    toll: Option<Toll>,
    pub(crate) coder: Arc<Coder>,
    pub(crate) bases: Bases,
}

impl Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider").field("provide", &self.provide).finish_non_exhaustive()
    }
}

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("malformed request: {0}")]
    Malformed(String),
    #[error("the peer is not admitted any more")]
    Refused,
    #[error("no room for more of such requests")]
    Busy,
    #[error("request not received: {0}")]
    Receive(#[from] FrameError),
    #[error("answer not sent: {0}")]
    Send(#[from] SendError),
    #[error("the requester has had enough")]
    Stopped,
    #[error("reading what was asked for panicked")]
    Read,
}

impl Provider {
    pub(crate) fn new(
        provide: Arc<dyn Provide>,
        admits: Admits,
        policy: Policy,
        toll: Option<Toll>,
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
            seats: Seats::of(MAX_CONNECTIONS_PER_PEER),
            room: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            reads: Arc::new(Semaphore::new(MAX_READS)),
            brings: BringRoom::default(),
            allowances: Mutex::default(),
            policy,
            toll,
            coder: Arc::default(),
            bases: Bases::default(),
        }
    }

    /// Accepts connections until the endpoint closes.
    pub(crate) async fn accept(self: Arc<Self>, quic: quinn::Endpoint, links: Arc<Links>) {
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
            let (provider, links) = (self.clone(), links.clone());
            self.tasks.spawn(async move {
                let served = provider.serve_accepted(incoming, &links);
                provider.closing.run_until_cancelled(served).await;
                drop(room);
            });
        }
    }

    /// Answers requests until the connection ends or the peer is no longer admitted.
    async fn serve_accepted(self: &Arc<Self>, incoming: Incoming, links: &Arc<Links>) {
        let address = incoming.remote_address();
        let Ok(connecting) = incoming.accept_with(links.server_config(address)) else {
            return;
        };
        let connection = match timeout(HANDSHAKE_TIMEOUT, connecting).await {
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
        let _accepted = links.accept(peer, connection.clone());
        let client = Client::new(peer, connection.clone());
        let mut requests = JoinSet::new();
        while let Ok((send, receive)) = connection.accept_bi().await {
            if !(self.admits)(&peer) {
                return self.turn_away(&connection, code::REFUSED);
            }
            self.spawn(&mut requests, &client, send, receive);
        }
    }

    /// Answers requests on a connection that was dialled here, until it ends. A peer that is not
    /// admitted gets nothing, but the connection stays for what is asked of the peer.
    pub(crate) async fn serve_dialled(self: Arc<Self>, connection: Connection, peer: PeerId) {
        let client = Client::new(peer, connection.clone());
        let mut requests = JoinSet::new();
        let accepted = || self.closing.run_until_cancelled(connection.accept_bi());
        while let Some(Ok((send, receive))) = accepted().await {
            if (self.admits)(&peer) {
                self.spawn(&mut requests, &client, send, receive);
            } else {
                FrameWriter::new(send).reset(code::REFUSED);
            }
        }
    }

    fn spawn(
        self: &Arc<Self>,
        requests: &mut JoinSet<()>,
        client: &Arc<Client>,
        send: SendStream,
        receive: RecvStream,
    ) {
        // QUIC's limit of streams bounds how many run; those that have ended are let go.
        while requests.try_join_next().is_some() {}
        requests.spawn(self.clone().handle(client.clone(), send, receive));
    }

    fn turn_away(&self, connection: &Connection, code: quinn::VarInt) {
        add(&self.tally.connections_refused, 1);
        connection.close(code, &[]);
    }

    async fn handle(self: Arc<Self>, client: Arc<Client>, send: SendStream, receive: RecvStream) {
        let toll = self.toll.clone().map(|toll| (client.peer, toll));
        let mut writer = FrameWriter::new(send).with_toll(toll);
        let Err(error) = self.answer_all(&client, receive, &mut writer).await else {
            return writer.settle().await;
        };
        let peer = client.peer;
        tracing::debug!(%peer, %error, "request failed");
        match error {
            ServeError::Malformed(_) => {
                add(&self.tally.requests_refused, 1);
                writer.reset(code::MALFORMED);
            }
            ServeError::Refused => writer.reset(code::REFUSED),
            ServeError::Busy => writer.reset(code::BUSY),
            _ => {}
        }
    }

    /// Answers the requests of a stream, one after the other.
    async fn answer_all(
        &self,
        client: &Arc<Client>,
        receive: RecvStream,
        writer: &mut FrameWriter,
    ) -> Result<(), ServeError> {
        let mut stream = None;
        let mut frames = FrameReader::new(receive, REQUEST_PATIENCE);
        let mut next = read_request(&mut frames).await?.ok_or(FrameError::Ended)?;
        loop {
            let serving = OneMore::of(self.tally.clone(), |tally| &tally.serving);
            self.answer(client, &mut stream, next, writer).await?;
            add(&self.tally.requests_served, 1);
            drop(serving);
            frames.begin_anew();
            match read_request(&mut frames).await? {
                None => return Ok(()),
                Some(_) if !(self.admits)(&client.peer) => return Err(ServeError::Refused),
                Some(request) => next = request,
            }
        }
    }

    async fn answer(
        &self,
        client: &Arc<Client>,
        stream: &mut Option<Stream>,
        request: Request,
        writer: &mut FrameWriter,
    ) -> Result<(), ServeError> {
        let peer = client.peer;
        match request {
            Request::Chunks { chunks, accept } => {
                client.expect(accept.goodput);
                writer.be(accept.priority);
                let stream = stream.get_or_insert_with(|| Stream::new(client));
                let asked = Asked::new(chunks, accept, None, stream);
                self.answer_chunks(&asked, stream, writer).await
            }
            Request::Delta { target, bases, first, count, accept } => {
                client.expect(accept.goodput);
                writer.be(accept.priority);
                let stream = stream.get_or_insert_with(|| Stream::new(client));
                let wanted = Wanted { target, bases, first, count };
                self.answer_delta(wanted, accept, stream, writer).await
            }
            Request::Probe { bytes } => {
                // Others can measure this link when nobody here needs it.
                writer.be(Priority::Background);
                let idle = self.tally.fetching.load(Ordering::Relaxed) == 0;
                let may = idle && self.allows(peer, bytes);
                let content = if may { filling(bytes) } else { Bytes::new() };
                let length = content.len() as u64;
                writer.send_frame(content).await?;
                add(&self.tally.bytes_served, length);
                Ok(())
            }
            // Somebody waits for one of these before chunks can be asked for at all.
            Request::Records(_) | Request::Manifests(_) | Request::Parts(_) => {
                writer.be_urgent();
                self.answer_items(request, writer).await
            }
            Request::Has(blobs) => {
                writer.be_urgent();
                let provide = self.provide.clone();
                let has = move || blobs.iter().map(|blob| provide.has(blob)).collect::<Vec<_>>();
                let bitmap = encode_bitmap(&self.read(has).await?);
                Ok(writer.send_frame(bitmap.into()).await?)
            }
            Request::Doubt(chunks) => {
                // A liar costs no more reads than one who asks for probes costs bytes.
                let bytes = chunks.iter().map(|chunk| chunk.len).fold(0, u32::saturating_add);
                if !self.allows(peer, bytes) {
                    return Err(ServeError::Busy);
                }
                let provide = self.provide.clone();
                let look = move || {
                    chunks.iter().map(|chunk| provide.doubt(&peer, chunk)).collect::<Vec<_>>()
                };
                let bitmap = encode_bitmap(&self.read(look).await?);
                Ok(writer.send_frame(bitmap.into()).await?)
            }
            Request::Bring(blobs) => {
                writer.be_urgent();
                self.answer_bring(peer, blobs, writer).await
            }
        }
    }

    /// Sends the answers in order, and reads the next batch while one is sent.
    async fn answer_items(
        &self,
        request: Request,
        writer: &mut FrameWriter,
    ) -> Result<(), ServeError> {
        let request = Arc::new(request);
        let mut answered = 0;
        let mut batch = self.batch(&request, answered).await?;
        while batch.answered > 0 {
            answered += batch.answered;
            let (sent, next) =
                tokio::join!(writer.send(&mut batch.parts), self.batch(&request, answered));
            sent?;
            add(&self.tally.bytes_served, batch.payload);
            batch = next?;
        }
        Ok(())
    }

    async fn batch(&self, request: &Arc<Request>, from: usize) -> Result<Batch, ServeError> {
        if from == request.items() {
            return Ok(Batch::empty());
        }
        let (provide, request) = (self.provide.clone(), request.clone());
        self.read(move || Batch::collect(&*provide, &request, from)).await
    }

    /// Does something that blocks for as long as the disk needs.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        what: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ServeError> {
        let permit = self.reads.clone().acquire_owned().await;
        let read = self.block(move || {
            let result = what();
            drop(permit);
            result
        });
        read.await.map_err(|_| ServeError::Read)
    }

    /// Begins something that blocks.
    pub(crate) fn block<T: Send + 'static>(
        &self,
        what: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        self.tasks.spawn_blocking(what)
    }

    fn allows(&self, peer: PeerId, bytes: u32) -> bool {
        let mut allowances = self.allowances.lock().unwrap_or_else(PoisonError::into_inner);
        allowances.take(peer, bytes, Instant::now())
    }
}

/// The next request of a stream; `None` at its end.
async fn read_request(frames: &mut FrameReader) -> Result<Option<Request>, ServeError> {
    // A requester that gives up resets the stream; one that ends it in mid-request is mistaken.
    let early = |error| match error {
        FrameError::Ended => ServeError::Malformed("it ends early".into()),
        error => error.into(),
    };
    let Some(length) = frames.length_or_end().await.map_err(early)? else {
        return Ok(None);
    };
    if length > MAX_REQUEST {
        return Err(ServeError::Malformed(format!("frame of {length} bytes")));
    }
    let content = frames.content(length).await.map_err(early)?;
    let request = Request::decode(&content);
    Ok(Some(request.map_err(|error| ServeError::Malformed(error.to_string()))?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Endpoint, FetchError, Holder,
        fixture::{
            Relay, Shelf, agent, everyone, fetch, holder, noise, raw_connection, soon, until,
        },
        seats::MAX_CONNECTIONS_PER_PEER,
        socket::MAX_STREAMS,
    };
    use netbuild_core::digest::Hash;
    use netbuild_proto::data::Accept;
    use quinn::ReadToEndError;

    fn stocked() -> (Endpoint, Holder, Vec<Chunk>) {
        let mut shelf = Shelf::default();
        let chunks = shelf.put((0..8).map(|seed| noise(seed, 512 * 1024)));
        let endpoint = agent(1, everyone(), shelf);
        let at = holder(1, &endpoint);
        (endpoint, at, chunks)
    }

    /// Whether someone else is served in full.
    async fn others_are_served(at: &Holder, chunks: &[Chunk]) {
        let other = agent(9, everyone(), Shelf::default());
        let report = fetch(&other, at, chunks, Patience::default()).await.unwrap();
        assert_eq!((report.arrived.len(), report.missing.len()), (chunks.len(), 0));
    }

    fn asking(chunks: Vec<Chunk>) -> Request {
        Request::Chunks { chunks, accept: Accept::default() }
    }

    fn framed(request: &Request) -> Vec<u8> {
        let content = request.encode();
        [&(content.len() as u32).to_le_bytes()[..], &content].concat()
    }

    #[tokio::test]
    async fn requests_that_are_none_are_refused_and_counted() {
        let (endpoint, at, chunks) = stocked();
        let odd = |len| Chunk { hash: Hash([0; 32]), len };
        let mut trailing = framed(&Request::Records(Vec::new()));
        trailing.push(0);
        let bad = [
            [&4_u32.to_le_bytes()[..], b"junk"].concat(),
            vec![0xff; 2000],
            trailing,
            framed(&asking(vec![odd(0)])),
            framed(&asking(vec![odd(u32::MAX)])),
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
        let request = framed(&asking(vec![chunks[0]; 1000]));
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
    async fn what_nobody_wants_any_more_does_not_fill_the_link() {
        let (endpoint, at, chunks) = stocked();
        let link = Relay::to(at.addresses[0]).await;
        let through = Holder { addresses: vec![link.address], ..at };
        let connection = soon(raw_connection(2, &through)).await;
        let ask = async |request: Request| {
            let (mut send, receive) = soon(connection.open_bi()).await.unwrap();
            soon(send.write_all(&framed(&request))).await.unwrap();
            send.finish().unwrap();
            receive
        };
        link.hold();
        let mut unwanted = ask(asking(chunks[1..].to_vec())).await;
        // All of the answer waits for the link.
        until(|| endpoint.counters().requests_served == 1).await;
        unwanted.stop(code::INTERNAL).unwrap();
        link.release();
        // What is less urgent is sent after anything that is left of it.
        let accept = Accept { priority: Priority::Background, ..Accept::default() };
        let mut rest = ask(Request::Chunks { chunks: chunks[..1].to_vec(), accept }).await;
        let len = soon(rest.read_to_end(1 << 20)).await.unwrap().len() as u64;
        assert!(len > u64::from(chunks[0].len));
        let beyond = link.carried() - len;
        assert!(beyond < 512 * 1024, "{beyond} bytes, most of what nobody wanted");
    }

    #[tokio::test]
    async fn ten_thousand_streams_that_are_dropped_at_once_do_no_harm() {
        let (endpoint, at, chunks) = stocked();
        let connection = soon(raw_connection(2, &at)).await;
        let request = framed(&asking(chunks.clone()));
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
        let fetch = || fetch(&late, &at, &chunks, Patience::default());
        assert_eq!(fetch().await, Err(FetchError::Busy { peer: at.peer }));
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
        let error = fetch(&other, &at, &chunks, Patience::default()).await.unwrap_err();
        assert!(matches!(error, FetchError::Lost { .. }), "{error}");
        let blobs = soon(other.manifests(&at, &[Digest::of(b"")], Patience::default())).await;
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
