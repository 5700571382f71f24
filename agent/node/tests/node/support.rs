//! What the tests are told with: agents, things to keep, and a peer whose answers a test makes up.

use netbuild_core::{
    cache::{Cache, Content, Hit, NewRecord},
    chunk::{Chunk, Manifest},
    digest::{Digest, Hash},
    hlc::Hlc,
    key::ActionKey,
    ledger::{Cost, Item, Ledger},
    merge::Trust,
    peer::{Identity, PeerId},
    reconcile,
    record::{ActionResult, Execution, Output, OutputKind, Record, Sandbox},
    tree::Entry,
};
use netbuild_gateway::{SocketCache, socket_path};
use netbuild_mesh::{Event, Exchange, Mesh, Seed, Timing};
use netbuild_node::{
    Agent, Session,
    config::{Flags, Join, Settings, resolve},
};
use netbuild_proto::{
    control::Status,
    exchange::{Request, Response},
    listing,
    record::SealedRecord,
};
use netbuild_transfer::{Endpoint, Provide};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{runtime::Runtime, sync::mpsc};

pub(crate) const KEY: ActionKey = ActionKey([7; 32]);

pub(crate) fn settings(data_dir: &Path, join: Vec<Join>) -> Settings {
    let flags = Flags {
        data_dir: Some(data_dir.to_owned()),
        region: Some("eu".into()),
        listen: Some("127.0.0.1:0".into()),
        jobs: Some(1),
        ..Flags::default()
    };
    Settings { join, ..resolve(&flags, &|_| None).unwrap() }
}

/// An agent with its data directory, and a session with it.
pub(crate) struct Region {
    runtime: Runtime,
    agent: Option<Agent>,
    pub(crate) session: Session,
    pub(crate) data_dir: PathBuf,
    _dir: TempDir,
}

impl Region {
    pub(crate) fn start(join: Vec<Join>) -> Self {
        Self::start_with(join, |settings| settings)
    }

    /// Starts an agent with other settings than those of the tests.
    pub(crate) fn start_with(join: Vec<Join>, change: impl FnOnce(Settings) -> Settings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        let runtime = Runtime::new().unwrap();
        let agent = runtime.block_on(Agent::start(&change(settings(&data_dir, join)))).unwrap();
        let session = Session::new(&data_dir, "eu", &Trust::default()).unwrap();
        Self { runtime, agent: Some(agent), session, data_dir, _dir: dir }
    }

    pub(crate) fn agent(&self) -> &Agent {
        self.agent.as_ref().expect("it has not stopped")
    }

    pub(crate) fn joining(&self) -> Vec<Join> {
        vec![Join::Ticket(self.agent().ticket())]
    }

    pub(crate) fn status(&self) -> Status {
        self.session.status().unwrap()
    }

    /// What commands that ask about the mesh talk to.
    pub(crate) fn agent_socket(&self) -> SocketCache {
        SocketCache::connect(&socket_path(&self.data_dir)).unwrap()
    }

    /// Waits for so many members.
    pub(crate) fn wait_for_members(&self, members: usize) {
        wait_until("the members are there", || {
            let list = self.status().members;
            list.len() == members && list.iter().all(|member| member.connected)
        });
    }

    /// Waits for so many members, with which this agent shares so many records.
    pub(crate) fn wait_for(&self, members: usize, records: u64) {
        wait_until("the members have the same records", || {
            let list = self.status().members;
            list.len() == members && list.iter().all(|member| member.records == records)
        });
    }

    pub(crate) fn keep(&self, goods: &Goods) {
        for (digest, bytes) in &goods.blobs {
            self.session.put_blob(digest, Content::Bytes(bytes)).unwrap();
        }
        self.session.put_record(goods.record.clone()).unwrap();
        self.session.flush().unwrap();
    }

    pub(crate) fn lookup(&self) -> Option<Hit> {
        self.session.lookup(&KEY, &()).unwrap()
    }

    pub(crate) fn read(&self, blob: &Digest) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut reader = self.session.open(blob).unwrap().expect("the blob is there");
        reader.read_to_end(&mut bytes).unwrap();
        bytes
    }

    pub(crate) fn stop(&mut self) {
        if let Some(agent) = self.agent.take() {
            self.runtime.block_on(agent.shutdown());
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A record with all its blobs.
#[derive(Clone)]
pub(crate) struct Goods {
    pub(crate) blobs: Vec<(Digest, Vec<u8>)>,
    pub(crate) record: NewRecord,
}

/// Bytes that do not repeat.
pub(crate) fn noise(seed: u8, len: usize) -> Vec<u8> {
    let block = |index: usize| Hash::of(&[&[seed], &index.to_le_bytes()[..]].concat()).0;
    (0..len.div_ceil(32)).flat_map(block).take(len).collect()
}

fn blob(bytes: &[u8]) -> (Digest, Vec<u8>) {
    (Digest::of(bytes), bytes.to_vec())
}

/// A record of a file of many chunks and of a directory with a small file and an empty one.
pub(crate) fn goods() -> Goods {
    let (large, small, empty) = (blob(&noise(1, 5 << 20)), blob(b"small"), blob(b""));
    let file = |digest| Entry::File { digest, executable: false };
    let entries = [(b"empty".to_vec(), file(empty.0)), (b"small".to_vec(), file(small.0))];
    let listing = blob(&listing::encode(&entries));
    let outputs = vec![
        output("a", OutputKind::File { digest: large.0, executable: true }),
        output("b", OutputKind::Tree { listing: listing.0 }),
    ];
    Goods { blobs: vec![large, small, empty, listing], record: record(outputs) }
}

pub(crate) fn output(path: &str, kind: OutputKind) -> Output {
    Output { path: path.into(), kind }
}

pub(crate) fn record(outputs: Vec<Output>) -> NewRecord {
    NewRecord {
        key: KEY,
        result: ActionResult { exit_code: 0, outputs, log: None },
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
    }
}

/// What a [`Rogue`] answers: whatever the test puts here, true or not.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pub(crate) record: Option<Vec<u8>>,
    pub(crate) manifests: HashMap<Digest, Manifest>,
    pub(crate) chunks: HashMap<Hash, Vec<u8>>,
    pub(crate) manifests_asked: AtomicUsize,
    pub(crate) records_asked: AtomicUsize,
    /// While it is set, a request for records is broken off.
    pub(crate) breaks: AtomicBool,
    /// While a test holds it, no question about blobs is answered.
    pub(crate) has_gate: Mutex<()>,
}

impl Answers {
    /// The truth about `goods`, as `writer` says it.
    pub(crate) fn of(goods: &Goods, writer: &Identity) -> Self {
        Self::of_record(goods, writer, Hlc(1 << 16))
    }

    /// The same, with a record of this time.
    pub(crate) fn of_record(goods: &Goods, writer: &Identity, hlc: Hlc) -> Self {
        let record = Some(seal(&goods.record, writer, hlc));
        let mut answers = Self { record, ..Self::default() };
        for (digest, bytes) in &goods.blobs {
            let mut chunker = netbuild_core::chunk::Chunker::new();
            chunker.update(bytes);
            let manifest = chunker.finish();
            for (offset, chunk) in manifest.offsets() {
                let offset = offset as usize;
                let bytes = bytes[offset..offset + chunk.len as usize].to_vec();
                answers.chunks.insert(chunk.hash, bytes);
            }
            answers.manifests.insert(*digest, manifest);
        }
        answers
    }
}

fn seal(new: &NewRecord, writer: &Identity, hlc: Hlc) -> Vec<u8> {
    let record = Record {
        key: new.key,
        result: new.result.clone(),
        execution: new.execution.clone(),
        writer: writer.peer_id(),
        region: "rogue".into(),
        hlc,
    };
    SealedRecord::seal(record, writer).unwrap().as_bytes().to_vec()
}

impl Provide for Answers {
    fn record(&self, _: &ActionKey) -> Option<Vec<u8>> {
        self.records_asked.fetch_add(1, Ordering::Relaxed);
        assert!(!self.breaks.load(Ordering::Relaxed), "on purpose");
        self.record.clone()
    }

    fn manifest(&self, blob: &Digest) -> Option<Manifest> {
        self.manifests_asked.fetch_add(1, Ordering::Relaxed);
        self.manifests.get(blob).cloned()
    }

    fn chunk(&self, chunk: &Chunk) -> Option<Vec<u8>> {
        self.chunks.get(&chunk.hash).cloned()
    }

    fn has(&self, blob: &Digest) -> bool {
        let _open = self.has_gate.lock().unwrap();
        self.manifests.contains_key(blob) || self.chunks.contains_key(&blob.hash)
    }

    fn bring(&self, _: &PeerId, blobs: &[Digest]) -> Vec<bool> {
        blobs.iter().map(|blob| self.has(blob)).collect()
    }
}

/// Says that it has a record of [`KEY`].
#[derive(Debug)]
struct Claim(Ledger);

impl Claim {
    fn new() -> Self {
        let mut ledger = Ledger::default();
        ledger.handle_have(Item { key: KEY, hlc: Hlc(1 << 16), sum: 1 }, Cost::default());
        Self(ledger)
    }
}

impl Exchange for Claim {
    fn answer(&self, _: &PeerId, request: Vec<u8>) -> Option<Vec<u8>> {
        let Ok(Request::Reconcile(message)) = Request::decode(&request) else { return None };
        let answer = reconcile::respond(&self.0, &message).ok()?;
        Some(Response::Reconcile(answer).encode())
    }
}

/// A member that claims to hold [`KEY`], and answers what the test says.
pub(crate) struct Rogue {
    pub(crate) runtime: Runtime,
    pub(crate) endpoint: Endpoint,
    pub(crate) answers: Arc<Answers>,
    mesh: Mesh,
    _events: mpsc::Receiver<Event>,
}

impl Rogue {
    /// Joins the mesh of `region`, with answers made by its identity.
    pub(crate) fn join(region: &Region, answers: impl FnOnce(&Identity) -> Answers) -> Self {
        let identity = Identity::from_seed(&[99; 32]);
        let answers = Arc::new(answers(&identity));
        let ticket = region.agent().ticket();
        let runtime = Runtime::new().unwrap();
        let listen = "127.0.0.1:0".parse().unwrap();
        let (endpoint, (mesh, events)) = runtime.block_on(async {
            let endpoint = Endpoint::bind(netbuild_transfer::Options {
                listen,
                identity: identity.clone(),
                admits: Arc::new(|_| true),
                provide: Arc::<Answers>::clone(&answers),
                policy: netbuild_core::codec::Policy::default(),
                toll: None,
                samples: mpsc::channel(1).0,
            });
            let endpoint = endpoint.unwrap();
            let mesh = Mesh::start(netbuild_mesh::Options {
                identity,
                mesh_key: ticket.mesh_key,
                listen,
                announce: None,
                allowed: None,
                region: "rogue".into(),
                data_port: endpoint.local_addr().port(),
                seeds: vec![Seed { peer: Some(ticket.peer), addresses: ticket.addresses }],
                mdns: false,
                exchange: Arc::new(Claim::new()),
                timing: Timing::default(),
            });
            (endpoint, mesh.await.unwrap())
        });
        Self { runtime, endpoint, answers, mesh, _events: events }
    }
}

impl Drop for Rogue {
    fn drop(&mut self) {
        self.runtime.block_on(async {
            self.mesh.shutdown().await;
            self.endpoint.shutdown().await;
        });
    }
}

#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
