//! What the tests share: a provider in memory, agents on loopback, and peers that misbehave.

use crate::{Admits, BindError, Endpoint, Holder, Options, Provide, auth, socket};
use netbuild_core::{
    chunk::{Chunk, Manifest},
    digest::{Digest, Hash},
    key::ActionKey,
    link::Sample,
    peer::{Identity, PeerId},
    record::{ActionResult, Execution, Record, Sandbox},
};
use netbuild_proto::{
    data::{MAX_REQUEST, Request},
    record::SealedRecord,
};
use quinn::{ClientConfig, Connection, RecvStream, SendStream, ServerConfig, TokioRuntime};
use std::{
    collections::HashMap,
    fmt,
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

/// Everything held, in memory.
#[derive(Default)]
pub(crate) struct Shelf {
    pub(crate) records: HashMap<ActionKey, Vec<u8>>,
    pub(crate) manifests: HashMap<Digest, Manifest>,
    pub(crate) chunks: HashMap<Hash, Vec<u8>>,
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
        self.chunks.get(&chunk.hash).cloned()
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
    let (samples, measured) = mpsc::channel(1000);
    let provide = Arc::new(shelf);
    let identity = identity(number);
    let endpoint = Endpoint::bind(Options { listen, identity, admits, provide, samples })?;
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
    let tls = auth::server(&identity(number), everyone()).unwrap();
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(socket::accepted_transport());
    let quic = raw_endpoint(Some(config));
    let holder =
        Holder { peer: identity(number).peer_id(), addresses: vec![quic.local_addr().unwrap()] };
    let mut tasks = JoinSet::new();
    let answer = Arc::new(answer);
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Some(incoming) = quic.accept().await {
            let answer = answer.clone();
            connections.spawn(async move {
                let Ok(connection) = incoming.await else {
                    return;
                };
                let mut requests = JoinSet::new();
                while let Ok((send, receive)) = connection.accept_bi().await {
                    let answer = answer.clone();
                    requests.spawn(async move {
                        answer(request_of(receive).await, send).await;
                    });
                }
            });
        }
    });
    Rogue { holder, _tasks: tasks }
}

async fn request_of(mut receive: RecvStream) -> Request {
    let bytes = receive.read_to_end(MAX_REQUEST + 4).await.unwrap();
    Request::decode(&bytes[4..]).unwrap()
}

/// Connects to an agent as peer `number`, for requests that no requester of ours would make.
pub(crate) async fn raw_connection(number: u8, to: &Holder) -> Connection {
    let config = Arc::new(auth::client(&identity(number)).unwrap());
    let mut config = ClientConfig::new(config);
    config.transport_config(socket::dialled_transport());
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
