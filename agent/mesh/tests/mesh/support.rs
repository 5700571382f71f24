//! One agent of a test: a mesh, and the events that it told.

use netbuild_core::{
    hlc::Hlc,
    key::ActionKey,
    peer::{Identity, PeerId},
};
use netbuild_mesh::{Event, Exchange, Mesh, Options, Seed, Timing};
use netbuild_proto::{membership::Held, ticket::MeshKey};
use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// No step of a test takes this long, even on a machine that is busy with something else.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) const KEY: MeshKey = MeshKey([42; 32]);

/// Answers with the question backwards, and refuses an empty one.
#[derive(Debug)]
pub(crate) struct Backwards;

impl Exchange for Backwards {
    fn answer(&self, _: &PeerId, request: Vec<u8>) -> Option<Vec<u8>> {
        (!request.is_empty()).then(|| request.into_iter().rev().collect())
    }
}

/// Distinct records.
pub(crate) fn records(from: u32, count: u32) -> Vec<Held> {
    (from..from + count)
        .map(|n| Held {
            key: ActionKey(*blake3::hash(&n.to_be_bytes()).as_bytes()),
            hlc: Hlc(u64::from(n)),
            sum: u64::from(n),
            build_ms: n,
            bytes: u64::from(n),
        })
        .collect()
}

pub(crate) fn timing() -> Timing {
    Timing {
        admission: Duration::from_secs(3),
        batch: Duration::from_millis(20),
        presence: Duration::from_millis(500),
        links: Duration::from_millis(200),
        first_redial: Duration::from_millis(50),
        last_redial: Duration::from_millis(400),
        ping: Duration::from_millis(500),
        idle: Duration::from_secs(4),
        ask: Duration::from_secs(20),
        walk: Duration::from_millis(300),
        ban: Duration::from_secs(60),
    }
}

pub(crate) fn id(seed: u8) -> PeerId {
    Identity::from_seed(&[seed; 32]).peer_id()
}

/// Options of the agent with this identity, alone on any port of 127.0.0.1.
pub(crate) fn options(seed: u8) -> Options {
    Options {
        identity: Identity::from_seed(&[seed; 32]),
        mesh_key: KEY,
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        announce: None,
        allowed: None,
        region: format!("region-{seed}"),
        data_port: 1000 + u16::from(seed),
        seeds: Vec::new(),
        mdns: false,
        exchange: Arc::new(Backwards),
        timing: timing(),
    }
}

pub(crate) fn seed(of: &Agent) -> Seed {
    Seed { peer: None, addresses: of.mesh.addresses() }
}

pub(crate) struct Agent {
    pub(crate) mesh: Mesh,
    events: mpsc::Receiver<Event>,
}

impl Agent {
    pub(crate) async fn start(options: Options) -> Self {
        let (mesh, events) = Mesh::start(options).await.expect("a free port");
        Self { mesh, events }
    }

    pub(crate) async fn next(&mut self) -> Event {
        tokio::time::timeout(DEADLINE, self.events.recv())
            .await
            .expect("an event in time")
            .expect("a running mesh")
    }

    /// Drops events until one answers.
    pub(crate) async fn wait<T>(&mut self, mut answer: impl FnMut(Event) -> Option<T>) -> T {
        loop {
            if let Some(found) = answer(self.next().await) {
                return found;
            }
        }
    }

    pub(crate) async fn joined(&mut self, peer: PeerId) -> Vec<SocketAddr> {
        self.wait(|event| match event {
            Event::Joined { peer: p, addresses, .. } if p == peer => Some(addresses),
            _ => None,
        })
        .await
    }

    pub(crate) async fn left(&mut self, peer: PeerId) {
        self.wait(|event| (event == Event::Left { peer }).then_some(())).await;
    }

    /// Collects what a peer holds until that many keys are known.
    pub(crate) async fn holds(&mut self, peer: PeerId, count: usize) -> BTreeSet<ActionKey> {
        let mut keys = BTreeSet::new();
        while keys.len() < count {
            let held = self.wait(|event| match event {
                Event::Held { peer: p, held } if p == peer => Some(held),
                _ => None,
            });
            keys.extend(held.await.iter().map(|held| held.key));
        }
        keys
    }

    /// Every event so far, without waiting.
    pub(crate) fn seen(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }

    /// Waits until a counter has the wanted value.
    pub(crate) async fn counts(&self, wanted: impl Fn(netbuild_mesh::Counters) -> bool) {
        let look = async {
            while !wanted(self.mesh.counters()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(DEADLINE, look).await.is_err() {
            panic!("still {:?}", self.mesh.counters());
        }
    }
}
