//! What the tests share: a provider in memory, agents on loopback, and peers that misbehave.

use crate::{
    Admits, Arrival, BindError, Endpoint, FetchError, Holder, Modelled, Options, Order, Provide,
    Terms, auth, socket,
};
use bytes::Bytes;
use netbuild_core::{
    chunk::{Chunk, Chunker, Manifest},
    codec::Policy,
    digest::{Digest, Hash},
    key::ActionKey,
    link::Sample,
    peer::{Identity, PeerId},
    record::{ActionResult, Execution, Record, Sandbox},
};
use netbuild_proto::{
    data::{Coding, MAX_ITEMS, RUN_HEADER, Request, RunHeader},
    record::SealedRecord,
};
use quinn::{ClientConfig, Connection, RecvStream, SendStream, ServerConfig, TokioRuntime};
use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    future::Future,
    iter,
    net::SocketAddr,
    ops::ControlFlow,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::UdpSocket,
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};

/// Everything held, in memory.
#[derive(Default)]
pub(crate) struct Shelf {
    pub(crate) records: HashMap<ActionKey, Vec<u8>>,
    pub(crate) manifests: HashMap<Digest, Manifest>,
    pub(crate) chunks: HashMap<Hash, Vec<u8>>,
    pub(crate) blobs: HashMap<Digest, Bytes>,
    pub(crate) sketches: HashMap<Digest, Vec<u8>>,
    /// Chunks that were read.
    pub(crate) reads: Arc<AtomicUsize>,
    /// Taken by every read of a chunk: a test that holds it stalls the provider.
    pub(crate) gate: Arc<Mutex<()>>,
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shelf of {} chunks", self.chunks.len())
    }
}

impl Provide for Shelf {
    fn record(&self, key: &ActionKey) -> Option<Vec<u8>> {
        self.records.get(key).cloned()
    }

    fn manifest(&self, blob: &Digest) -> Option<Manifest> {
        self.manifests.get(blob).cloned()
    }

    fn chunk(&self, chunk: &Chunk) -> Option<Vec<u8>> {
        let _open = self.gate.lock().unwrap();
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.chunks.get(&chunk.hash).cloned()
    }

    fn sketch(&self, blob: &Digest) -> Option<Vec<u8>> {
        self.sketches.get(blob).cloned()
    }

    fn blob(&self, blob: &Digest, limit: u64) -> Option<Bytes> {
        self.blobs.get(blob).filter(|_| blob.size <= limit).cloned()
    }

    fn has(&self, blob: &Digest) -> bool {
        self.chunks.contains_key(&blob.hash)
    }

    fn bring(&self, _: &PeerId, blobs: &[Digest]) -> Vec<bool> {
        let _open = self.gate.lock().unwrap();
        blobs.iter().map(|blob| self.has(blob)).collect()
    }
}

impl Shelf {
    /// Puts these chunks on the shelf.
    pub(crate) fn put(&mut self, contents: impl IntoIterator<Item = Vec<u8>>) -> Vec<Chunk> {
        let put = |bytes: Vec<u8>| {
            let chunk = chunk(&bytes);
            self.chunks.insert(chunk.hash, bytes);
            chunk
        };
        contents.into_iter().map(put).collect()
    }

    /// Puts a blob on the shelf, its manifest, and all its chunks.
    pub(crate) fn put_blob(&mut self, bytes: &Bytes) -> Manifest {
        let mut chunker = Chunker::new();
        chunker.update(bytes);
        let manifest = chunker.finish();
        let mut rest = bytes.clone();
        for chunk in manifest.chunks() {
            self.put([rest.split_to(chunk.len as usize).to_vec()]);
        }
        self.manifests.insert(manifest.blob(), manifest.clone());
        self.blobs.insert(manifest.blob(), bytes.clone());
        manifest
    }

    /// Puts `count` chunks of `len` bytes on the shelf.
    pub(crate) fn stock(&mut self, count: u32, len: usize) -> Vec<Chunk> {
        let make = |number: u32| {
            let mut bytes = number.to_le_bytes().repeat(len.div_ceil(4));
            bytes.truncate(len);
            let chunk = chunk(&bytes);
            self.chunks.insert(chunk.hash, bytes);
            chunk
        };
        (0..count).map(make).collect()
    }
}

/// Most bytes of chunks in one of the orders here: a few runs, and more than a request for patches
/// of one run.
const ORDER: u64 = 16 << 20;

/// These chunks in parts, each with its place: what goes in orders of at most so many things.
fn parts(chunks: &[Chunk], items: usize) -> impl Iterator<Item = (usize, &[Chunk])> {
    let mut at = 0;
    iter::from_fn(move || {
        let left = &chunks[at..];
        let mut bytes = 0;
        let fits = left.iter().take(items).take_while(|chunk| {
            bytes += u64::from(chunk.len);
            bytes <= ORDER
        });
        let part = &left[..fits.count()];
        at += part.len();
        (!part.is_empty()).then_some((at - part.len(), part))
    })
}

/// Orders for all these chunks, each of at most so many.
pub(crate) fn orders(chunks: &[Chunk], items: usize) -> impl Iterator<Item = Order> {
    parts(chunks, items).map(|(_, part)| Order::Chunks(part.to_vec()))
}

/// Orders for all of a blob as patches, each of at most so many chunks.
pub(crate) fn patches<'a>(
    manifest: &'a Manifest,
    bases: &[Digest],
    items: usize,
) -> impl Iterator<Item = Order> + use<'a> {
    let (target, bases) = (manifest.blob(), bases.to_vec());
    parts(manifest.chunks(), items).map(move |(first, part)| Order::Patches {
        target,
        first,
        chunks: part.to_vec(),
        bases: bases.clone(),
    })
}

/// For orders without patches.
pub(crate) fn no_base(_: &Digest) -> Option<Bytes> {
    panic!("nobody asked for patches")
}

/// What came in one coding.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Coded {
    /// Shares in the frames.
    pub(crate) wire: u64,
    /// Bytes of the chunks.
    pub(crate) logical: u64,
}

/// What came of some orders. Places count through all of them.
#[derive(PartialEq, Eq, Debug, Default)]
pub(crate) struct Report {
    /// Places of the chunks that came, and of those that the holder lacks.
    pub(crate) arrived: Vec<usize>,
    pub(crate) missing: Vec<usize>,
    /// Bytes of the chunks that came.
    pub(crate) bytes: u64,
    /// The same by coding.
    pub(crate) codings: BTreeMap<Coding, Coded>,
}

impl Report {
    /// Bytes of all frames that had chunks in them.
    pub(crate) fn bytes_on_wire(&self) -> u64 {
        self.codings.values().map(|coded| coded.wire).sum()
    }
}

/// Asks for what is ordered, and makes sure that what is delivered are those chunks in that order.
/// The report is good whatever the result.
pub(crate) async fn gather(
    by: &Endpoint,
    from: &Holder,
    mut orders: impl Iterator<Item = Order>,
    load: impl Fn(&Digest) -> Option<Bytes> + Send + Sync + 'static,
    terms: impl Into<Terms>,
    mut deliver: impl FnMut(usize, &Bytes) -> ControlFlow<()>,
) -> (Report, Result<(), FetchError>) {
    let asked = RefCell::new(VecDeque::new());
    let next = || {
        let order = orders.next()?;
        asked.borrow_mut().extend(order.chunks().iter().copied());
        Some(order)
    };
    let (mut report, mut enough) = (Report::default(), false);
    let mut place = 0;
    let take = |answer: Option<Arrival>| {
        let wanted = asked.borrow_mut().pop_front().expect("an answer that nobody asked for");
        let index = place;
        place += 1;
        let Some(Arrival { bytes, wire, coding }) = answer else {
            report.missing.push(index);
            return ControlFlow::Continue(());
        };
        assert_eq!(chunk(&bytes), wanted, "delivered unverified");
        report.arrived.push(index);
        report.bytes += bytes.len() as u64;
        let coded = report.codings.entry(coding).or_default();
        coded.wire += wire;
        coded.logical += bytes.len() as u64;
        let flow = deliver(index, &bytes);
        enough = flow.is_break();
        flow
    };
    let result = soon(by.chunks(from, next, load, terms, |_| (), take)).await;
    assert!(result.is_err() || enough || asked.borrow().is_empty(), "not all was answered");
    (report, result)
}

/// Asks for all these chunks.
pub(crate) async fn fetch(
    by: &Endpoint,
    from: &Holder,
    chunks: &[Chunk],
    terms: impl Into<Terms>,
) -> Result<Report, FetchError> {
    let go_on = |_: usize, _: &Bytes| ControlFlow::Continue(());
    let (report, result) = gather(by, from, orders(chunks, MAX_ITEMS), no_base, terms, go_on).await;
    result.map(|()| report)
}

/// Bytes without any order: SplitMix64 (Steele, Lea and Flood, 2014).
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Bytes that shrink well, and are not the same for another number.
pub(crate) fn prose(number: u32, len: usize) -> Vec<u8> {
    const WORDS: [&str; 8] =
        ["link ", "chunk ", "holder ", "of ", "the ", "cache ", "build\n", "mesh "];
    let bytes = noise(number.into(), len).into_iter();
    let mut text: Vec<u8> =
        bytes.flat_map(|byte| WORDS[usize::from(byte) % 8].bytes()).take(len).collect();
    text.truncate(len);
    text
}

/// A frame that answers `count` chunks of together `decoded` bytes.
pub(crate) fn run_frame(coding: Coding, count: usize, decoded: usize, body: &[u8]) -> Vec<u8> {
    let (count, decoded) = (count as u16, decoded as u32);
    let header = RunHeader { coding, late: false, count, decoded };
    let length = ((RUN_HEADER + body.len()) as u32).to_le_bytes();
    [&length[..], &header.encode(), body].concat()
}

pub(crate) fn chunk(bytes: &[u8]) -> Chunk {
    Chunk { hash: Hash::of(bytes), len: bytes.len() as u32 }
}

pub(crate) fn identity(number: u8) -> Identity {
    Identity::from_seed(&[number; 32])
}

pub(crate) fn everyone() -> Admits {
    Arc::new(|_| true)
}

pub(crate) fn only(peer: PeerId) -> Admits {
    Arc::new(move |other| *other == peer)
}

/// An agent on a free port of loopback.
pub(crate) fn agent(number: u8, admits: Admits, shelf: Shelf) -> Endpoint {
    bind(number, "127.0.0.1:0".parse().unwrap(), admits, shelf).unwrap()
}

/// An agent with nothing on its shelf, on a given address.
pub(crate) fn agent_at(number: u8, listen: SocketAddr) -> Result<Endpoint, BindError> {
    bind(number, listen, everyone(), Shelf::default())
}

fn control() -> socket::Control {
    Arc::new(Modelled::new(0))
}

fn bind(
    number: u8,
    listen: SocketAddr,
    admits: Admits,
    shelf: Shelf,
) -> Result<Endpoint, BindError> {
    sampled(number, listen, admits, shelf).map(|(endpoint, _)| endpoint)
}

/// An agent, and what it measures.
pub(crate) fn sampled(
    number: u8,
    listen: SocketAddr,
    admits: Admits,
    shelf: Shelf,
) -> Result<(Endpoint, mpsc::Receiver<(PeerId, Sample)>), BindError> {
    bind_with(number, listen, admits, Policy::Adaptive, shelf)
}

/// An agent on a free port of loopback, with a policy of how runs are coded.
pub(crate) fn coded_agent(number: u8, policy: Policy, shelf: Shelf) -> Endpoint {
    let listen = "127.0.0.1:0".parse().unwrap();
    bind_with(number, listen, everyone(), policy, shelf).unwrap().0
}

fn bind_with(
    number: u8,
    listen: SocketAddr,
    admits: Admits,
    policy: Policy,
    shelf: Shelf,
) -> Result<(Endpoint, mpsc::Receiver<(PeerId, Sample)>), BindError> {
    let (samples, measured) = mpsc::channel(1000);
    let provide = Arc::new(shelf);
    let identity = identity(number);
    let options = Options { listen, identity, admits, provide, policy, toll: None, samples };
    let endpoint = Endpoint::bind(options)?;
    Ok((endpoint, measured))
}

/// How to reach [`agent`] `number`.
pub(crate) fn holder(number: u8, endpoint: &Endpoint) -> Holder {
    Holder { peer: identity(number).peer_id(), addresses: vec![endpoint.local_addr()] }
}

pub(crate) fn sealed(number: u8, key: ActionKey) -> SealedRecord {
    let writer = identity(number);
    let record = Record {
        key,
        result: ActionResult { exit_code: 0, outputs: Vec::new(), log: None },
        execution: Execution {
            duration_ms: 1,
            finished_at_ms: 1,
            sandbox_asked: Sandbox::Env,
            sandbox_obtained: Sandbox::Env,
            tools: Vec::new(),
            netbuild_version: "0".into(),
            flaky: false,
            drift_checked: true,
            bound_to: None,
            local: false,
        },
        writer: writer.peer_id(),
        region: String::new(),
        hlc: netbuild_core::hlc::Hlc(1),
    };
    SealedRecord::seal(record, &writer).unwrap()
}

/// Fails the test instead of hanging; generous, as it is no measurement.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), what).await.expect("the test takes far too long")
}

/// Waits until something is so that another task brings about.
pub(crate) async fn until(is_so: impl Fn() -> bool) {
    soon(async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// A peer with a valid key whose answers are up to the test. It serves until it is dropped.
pub(crate) struct Rogue {
    pub(crate) holder: Holder,
    _tasks: JoinSet<()>,
}

/// Starts a [`Rogue`] that reads each request and leaves the stream to `answer`.
pub(crate) fn rogue<F, R>(number: u8, answer: F) -> Rogue
where
    F: Fn(Request, SendStream) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let answer = Arc::new(answer);
    rogue_host(number, move |connection| {
        let answer = answer.clone();
        async move {
            let mut requests = JoinSet::new();
            while let Ok((send, receive)) = connection.accept_bi().await {
                let answer = answer.clone();
                requests.spawn(async move {
                    let (request, _receive) = request_of(receive).await;
                    answer(request, send).await;
                });
            }
        }
    })
}

/// Starts a [`Rogue`] that leaves each connection to `serve`.
pub(crate) fn rogue_host<F, R>(number: u8, serve: F) -> Rogue
where
    F: Fn(Connection) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let tls = auth::server(&identity(number), everyone()).unwrap();
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    let anybody = "127.0.0.1:0".parse().unwrap();
    config.transport_config(Arc::new(socket::transport(anybody, control())));
    let quic = raw_endpoint(Some(config));
    let holder =
        Holder { peer: identity(number).peer_id(), addresses: vec![quic.local_addr().unwrap()] };
    let mut tasks = JoinSet::new();
    let serve = Arc::new(serve);
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Some(incoming) = quic.accept().await {
            let serve = serve.clone();
            connections.spawn(async move {
                if let Ok(connection) = incoming.await {
                    serve(connection).await;
                }
            });
        }
    });
    Rogue { holder, _tasks: tasks }
}

/// The first request of a stream, and the stream, on which more may follow.
async fn request_of(mut receive: RecvStream) -> (Request, RecvStream) {
    let mut length = [0; 4];
    receive.read_exact(&mut length).await.unwrap();
    let mut content = vec![0; u32::from_le_bytes(length) as usize];
    receive.read_exact(&mut content).await.unwrap();
    (Request::decode(&content).unwrap(), receive)
}

/// Connects to an agent as peer `number`, for requests that no requester of ours would make.
pub(crate) async fn raw_connection(number: u8, to: &Holder) -> Connection {
    let config = Arc::new(auth::client(&identity(number)).unwrap());
    let mut config = ClientConfig::new(config);
    config.transport_config(Arc::new(socket::dialled_transport(to.addresses[0], control())));
    raw_endpoint(None)
        .connect_with(config, to.addresses[0], &auth::server_name(&to.peer))
        .unwrap()
        .await
        .unwrap()
}

fn raw_endpoint(config: Option<ServerConfig>) -> quinn::Endpoint {
    let socket = socket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let runtime = Arc::new(TokioRuntime);
    quinn::Endpoint::new(quinn::EndpointConfig::default(), config, socket, runtime).unwrap()
}

/// A gate of a shelf that is kept closed.
pub(crate) struct Closed {
    stop: std::sync::mpsc::Sender<()>,
    keeper: std::thread::JoinHandle<()>,
}

impl Closed {
    /// Closes the gate, before it returns.
    pub(crate) fn keep(gate: Arc<Mutex<()>>) -> Self {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let (locked, is_locked) = std::sync::mpsc::channel();
        let keeper = std::thread::spawn(move || {
            let _closed = gate.lock().unwrap();
            locked.send(()).unwrap();
            let _ = stopped.recv();
        });
        is_locked.recv().unwrap();
        Self { stop, keeper }
    }

    /// Opens it again.
    pub(crate) fn open(self) {
        drop(self.stop);
        self.keeper.join().unwrap();
    }
}

/// A link to a provider, on which what the provider sends can be held up.
pub(crate) struct Relay {
    /// Where the provider seems to be.
    pub(crate) address: SocketAddr,
    held: watch::Sender<bool>,
    carried: Arc<AtomicU64>,
    _task: JoinSet<()>,
}

impl Relay {
    /// A link for one requester.
    pub(crate) async fn to(provider: SocketAddr) -> Self {
        let bind = async || UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = (bind().await, bind().await);
        far.connect(provider).await.unwrap();
        let address = near.local_addr().unwrap();
        let (held, mut may_pass) = watch::channel(false);
        let carried = Arc::<AtomicU64>::default();
        let count = carried.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
            let mut requester = None;
            loop {
                let open = !*may_pass.borrow_and_update();
                tokio::select! {
                    Ok((len, from)) = near.recv_from(&mut up) => {
                        requester = Some(from);
                        let _ = far.send(&up[..len]).await;
                    }
                    Ok(len) = far.recv(&mut down), if open => {
                        if let Some(requester) = requester {
                            count.fetch_add(len as u64, Ordering::Relaxed);
                            let _ = near.send_to(&down[..len], requester).await;
                        }
                    }
                    Ok(()) = may_pass.changed() => {}
                }
            }
        });
        Self { address, held, carried, _task: task }
    }

    /// Holds up what the provider sends, as far as the socket takes it.
    pub(crate) fn hold(&self) {
        self.held.send_replace(true);
    }

    /// Lets it pass.
    pub(crate) fn release(&self) {
        self.held.send_replace(false);
    }

    /// Bytes of packets that the provider has sent.
    pub(crate) fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }
}
