//! A member that knows the mesh key and lies: honest agents build as before, and say what they saw.

use crate::{
    sample::{TASKS, sample},
    support::{Agent, Place, Workspace, netbuild, netbuild_agent, wait_until},
};
use netbuild_core::{
    chunk::{Chunk, Manifest},
    digest::Digest,
    hlc::Hlc,
    key::ActionKey,
    ledger::{Cost, Item, Ledger},
    peer::{Identity, PeerId},
    reconcile::respond,
    record::{Output, OutputKind, Record},
};
use netbuild_mesh::{Event, Exchange, Mesh, Seed, Timing};
use netbuild_proto::{
    exchange::{Request, Response},
    membership::{Held, LinkReport},
    record::SealedRecord,
    ticket::Ticket,
};
use netbuild_transfer::{Endpoint, Holder, Patience, Provide};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{runtime::Runtime, sync::mpsc, task::AbortHandle};

/// Five hours ahead, in milliseconds of the hybrid clock: later than every honest stamp, and not so
/// far that it is refused.
const AHEAD: u64 = 5 * 3_600_000;
/// Most resident memory of an agent with hardly any records, whatever is said to it. Without a lie it
/// has 30 MB; what one member may make it remember (`MAX_HEARD_PER_PEER`) takes some 80 MB.
const MOST_MEMORY_KB: u64 = 200 * 1024;

/// What a liar makes of the honest record of an action.
type Lie = fn(&SealedRecord, &Identity) -> Vec<u8>;

/// What a liar says when it is asked.
#[derive(Debug)]
struct Liar {
    /// What it says to have, for whoever compares records with it.
    ledger: Mutex<Ledger>,
    /// The records that it gives.
    records: Mutex<BTreeMap<ActionKey, Vec<u8>>>,
}

impl Exchange for Liar {
    fn answer(&self, _: &PeerId, request: Vec<u8>) -> Option<Vec<u8>> {
        let Ok(Request::Reconcile(question)) = Request::decode(&request) else { return None };
        let answer = respond(&self.ledger.lock().expect("no panic"), &question).ok()?;
        Some(Response::Reconcile(answer).encode())
    }
}

impl Provide for Liar {
    fn record(&self, key: &ActionKey) -> Option<Vec<u8>> {
        let records = self.records.lock().expect("no panic");
        Some(records.get(key).cloned().unwrap_or_else(|| b"no record".to_vec()))
    }

    fn manifest(&self, blob: &Digest) -> Option<Manifest> {
        Manifest::single(*blob)
    }

    fn chunk(&self, chunk: &Chunk) -> Option<Vec<u8>> {
        Some(vec![b'!'; chunk.len as usize])
    }

    fn has(&self, _: &Digest) -> bool {
        true
    }

    fn bring(&self, _: &PeerId, blobs: &[Digest]) -> Vec<bool> {
        vec![true; blobs.len()]
    }
}

/// A member made of the crates that agents are made of, with answers of its own.
struct Rogue {
    runtime: Runtime,
    identity: Identity,
    mesh: Mesh,
    endpoint: Endpoint,
    liar: Arc<Liar>,
    events: mpsc::Receiver<Event>,
    flooding: Option<AbortHandle>,
    /// Of the honest agent that it met.
    victim: Option<Holder>,
    /// What honest agents announced.
    heard: BTreeMap<ActionKey, Held>,
}

impl Rogue {
    fn join(ticket: &str, region: &str) -> Self {
        let ticket: Ticket = ticket.parse().expect("a ticket");
        let runtime = Runtime::new().expect("a runtime");
        let identity = Identity::from_seed(&[66; 32]);
        let liar = Arc::new(Liar { ledger: Mutex::default(), records: Mutex::default() });
        let started = runtime.block_on(async {
            let endpoint = Endpoint::bind(netbuild_transfer::Options {
                listen: "127.0.0.1:0".parse()?,
                identity: identity.clone(),
                admits: Arc::new(|_| true),
                provide: Arc::<Liar>::clone(&liar),
                policy: netbuild_core::codec::Policy::default(),
                toll: None,
                samples: mpsc::channel(1).0,
            })?;
            let (mesh, events) = Mesh::start(netbuild_mesh::Options {
                identity: identity.clone(),
                mesh_key: ticket.mesh_key,
                listen: "127.0.0.1:0".parse()?,
                announce: None,
                allowed: None,
                region: region.to_owned(),
                data_port: endpoint.local_addr().port(),
                seeds: vec![Seed { peer: Some(ticket.peer), addresses: ticket.addresses }],
                mdns: false,
                exchange: Arc::<Liar>::clone(&liar),
                timing: Timing { batch: Duration::from_millis(1), ..Timing::default() },
            })
            .await?;
            Ok::<_, Box<dyn std::error::Error>>((endpoint, mesh, events))
        });
        let (endpoint, mesh, events) = started.expect("it starts");
        let heard = BTreeMap::new();
        let (flooding, victim) = (None, None);
        Self { runtime, identity, mesh, endpoint, liar, events, flooding, victim, heard }
    }

    fn peer(&self) -> String {
        self.identity.peer_id().to_string()
    }

    /// Listens until it has heard of so many records.
    fn listen(&mut self, records: usize) {
        let listening = async {
            while self.victim.is_none() || self.heard.len() < records {
                match self.events.recv().await.expect("the mesh goes on") {
                    Event::Joined { peer, addresses, .. } => {
                        self.victim.get_or_insert(Holder { peer, addresses });
                    }
                    Event::Held { held, .. } => {
                        self.heard.extend(held.into_iter().map(|held| (held.key, held)));
                    }
                    _ => {}
                }
            }
        };
        let limited = async { tokio::time::timeout(crate::support::PATIENCE, listening).await };
        self.runtime.block_on(limited).expect("it hears of them");
    }

    /// Makes a lie of every record that it heard of, and says to hold it.
    fn lie(&self, lie: impl Fn(usize) -> Lie) {
        let keys: Vec<ActionKey> = self.heard.keys().copied().collect();
        let victim = self.victim.as_ref().expect("it met somebody");
        let asking = self.endpoint.records(victim, &keys, Patience::default());
        let honest = self.runtime.block_on(asking).expect("the records");
        let mut announced = Vec::new();
        for (n, honest) in honest.into_iter().enumerate() {
            let honest = honest.expect("it was announced");
            let bytes = lie(n)(&honest, &self.identity);
            // As if it were fine: what is announced looks like the best version that there is.
            let hlc = Hlc(honest.record().hlc.0 + (AHEAD << 16));
            let item = Item { hlc, sum: n as u64, ..honest.item() };
            self.liar.ledger.lock().expect("no panic").handle_have(item, Cost::default());
            self.liar.records.lock().expect("no panic").insert(item.key, bytes);
            announced.push(held(item));
        }
        self.mesh.announce(announced);
    }

    /// Says to hold what nobody has, as fast as it can, until it ends.
    fn flood(&mut self, records: u64) {
        let mesh = self.mesh.clone();
        let invented = move |n: u64| Item { key: key(n), hlc: Hlc(n), sum: n };
        let mut ledger = self.liar.ledger.lock().expect("no panic");
        (0..records).for_each(|n| ledger.handle_have(invented(n), Cost::default()));
        let task = async move {
            for n in (records..).step_by(256) {
                mesh.announce((n..n + 256).map(|n| held(invented(n))).collect());
                mesh.flush().await;
            }
        };
        self.flooding = Some(self.runtime.spawn(task).abort_handle());
    }

    /// Says that all its links are better than any can be, those of nobody as well.
    fn boast(&self, peers: impl IntoIterator<Item = PeerId>) {
        let link = |peer| LinkReport {
            peer,
            rtt_us: 0,
            jitter_us: 0,
            loss_ppm: 0,
            goodput: 1_000_000_000_000,
            age_s: 0,
        };
        let ghosts = (0..30).map(|n| PeerId([n; 32]));
        self.mesh.report_links(peers.into_iter().chain(ghosts).map(link).collect(), true);
    }
}

impl Drop for Rogue {
    fn drop(&mut self) {
        if let Some(task) = self.flooding.take() {
            task.abort();
        }
        self.runtime.block_on(async {
            self.mesh.shutdown().await;
            self.endpoint.shutdown().await;
        });
    }
}

fn key(n: u64) -> ActionKey {
    ActionKey(Digest::of(&n.to_le_bytes()).hash.0)
}

fn held(item: Item) -> Held {
    Held { key: item.key, hlc: item.hlc, sum: item.sum, build_ms: 3_600_000, bytes: 1 }
}

fn sealed(record: Record, identity: &Identity) -> Vec<u8> {
    let record = Record { writer: identity.peer_id(), ..record };
    SealedRecord::seal(record, identity).expect("it is small").as_bytes().to_vec()
}

/// The same action hours later, with another result.
fn other_result(honest: &SealedRecord, identity: &Identity) -> Vec<u8> {
    let mut record = honest.record().clone();
    record.hlc = Hlc(record.hlc.0 + (AHEAD << 16));
    record.result.exit_code = 0;
    for output in &mut record.result.outputs {
        output.kind = OutputKind::File { digest: Digest::of(b"!"), executable: true };
    }
    record.result.outputs.push(Output { path: b"out/extra".into(), kind: OutputKind::Absent });
    sealed(record, identity)
}

/// An output outside of the workspace.
fn escaping(honest: &SealedRecord, identity: &Identity) -> Vec<u8> {
    let mut record = honest.record().clone();
    let kind = OutputKind::File { digest: Digest::of(b"!"), executable: true };
    record.result.outputs.push(Output { path: b"../escaped".into(), kind });
    sealed(record, identity)
}

/// A changed bit under the signature of an honest agent.
fn unsigned(honest: &SealedRecord, _: &Identity) -> Vec<u8> {
    let mut bytes = honest.as_bytes().to_vec();
    bytes[1] ^= 1;
    bytes
}

/// The record of another action.
fn misplaced(honest: &SealedRecord, identity: &Identity) -> Vec<u8> {
    sealed(Record { key: key(1), ..honest.record().clone() }, identity)
}

/// Somebody else's name, and the liar's signature.
fn in_the_name_of_another(honest: &SealedRecord, identity: &Identity) -> Vec<u8> {
    let genuine = other_result(honest, identity);
    let (liar, victim) = (identity.peer_id().0, honest.record().writer.0);
    let at = genuine.windows(32).position(|part| part == liar).expect("the writer");
    [&genuine[..at], &victim, &genuine[at + 32..]].concat()
}

fn nothing(_: &SealedRecord, _: &Identity) -> Vec<u8> {
    b"no record".to_vec()
}

fn counter(agent: &Agent, name: &str) -> u64 {
    agent.status()["counters"][name].as_u64().expect("a counter")
}

/// Resident memory of an agent, in KiB.
fn memory(agent: &Agent) -> u64 {
    let pid = agent.status()["pid"].as_u64().expect("a process");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its state");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn conflicts(agent: &Agent) -> Vec<Value> {
    let mut command = netbuild();
    command.args(["conflicts", "--json", "--data-dir"]).arg(&agent.data_dir);
    let output = command.output().expect("netbuild runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    rows.as_array().or_else(|| rows["rows"].as_array()).expect("rows").clone()
}

/// An agent with this section of a configuration file.
fn trusting(data_dir: &Path, region: &str, join: &[&str], trust: &str) -> Agent {
    let config = data_dir.with_extension("toml");
    fs::write(&config, trust).expect("a file");
    let mut command = netbuild_agent();
    command.arg("--config").arg(&config).arg("--data-dir").arg(data_dir);
    command.args(["--region", region, "--listen", "127.0.0.1:0"]);
    for member in join {
        command.arg("--join").arg(member);
    }
    Agent::spawn(command, data_dir)
}

/// Two checkouts, an agent of the first that trusts itself, and a liar who has heard of all that was
/// built there.
fn built_before_a_liar(place: &Place) -> (Workspace, Workspace, Agent, Rogue) {
    let (east, west) = (sample(place, "east"), sample(place, "west"));
    let me = peer(&east.agent("us-east", &[]));
    let agent = trusting(&east.data_dir, "us-east", &[], &trusts(&me));
    // As near to the one that will ask as can be.
    let mut rogue = Rogue::join(&agent.ticket, "us-west");
    rogue.listen(0);
    east.run(&[]).expect_success();
    rogue.listen(TASKS as usize);
    (east, west, agent, rogue)
}

fn peer(agent: &Agent) -> String {
    agent.status()["peer"].as_str().expect("a peer id").to_owned()
}

/// The part of a configuration file that trusts a peer more than all others.
fn trusts(peer: &str) -> String {
    format!("[trust.peers]\n\"{peer}\" = \"trusted\"\n")
}

#[test]
fn records_that_are_not_genuine_are_refused_and_the_build_is_right() {
    let place = Place::new();
    let (east, west, honest, rogue) = built_before_a_liar(&place);
    let lies: [Lie; 5] = [escaping, unsigned, misplaced, in_the_name_of_another, nothing];
    rogue.lie(|n| lies[n % lies.len()]);
    let agent = west.agent("us-west", &[&honest.ticket]);
    agent.wait_for_members(2, 0);
    west.run(&[]).expect_from_peers("us-east");
    east.outputs().expect_same(&west.outputs());
    assert!(!place.path("escaped").exists() && !west.exists("../escaped"));
    for agent in [&agent, &honest] {
        // A lie that is no record proves nothing against the one that is kept.
        assert_eq!(conflicts(agent), Vec::<Value>::new());
    }
    // Asked for what nobody has, it lies once more, and it is seen who did.
    west.write("src/a.txt", "changed\n");
    assert!(west.run(&[]).expect_success().executed() > 0);
    let liar = rogue.peer();
    wait_until("the liar rests", || {
        let status = agent.status();
        let mut members = status["members"].as_array().expect("a list").iter();
        members.any(|member| member["peer"] == liar.as_str() && member["resting"].is_string())
    });
}

#[test]
fn another_result_for_every_action_does_not_replace_a_trusted_one_and_is_shown() {
    let place = Place::new();
    let (east, west, honest, rogue) = built_before_a_liar(&place);
    rogue.lie(|_| other_result);
    let me = peer(&honest);
    let agent = trusting(&west.data_dir, "us-west", &[&honest.ticket], &trusts(&me));
    // Trust decides between records that are here, so the build waits until both are.
    wait_until("every conflict is shown", || conflicts(&agent).len() == rogue.heard.len());
    west.run(&[]).expect_success();
    east.outputs().expect_same(&west.outputs());
    for conflict in conflicts(&agent) {
        assert_eq!(conflict["kept"]["writer"], me.as_str(), "{conflict}");
        assert_eq!(conflict["others"][0]["writer"], rogue.peer().as_str(), "{conflict}");
    }
}

#[test]
fn a_refused_writer_is_not_believed_although_it_is_the_nearest() {
    let place = Place::new();
    let (east, west, honest, rogue) = built_before_a_liar(&place);
    rogue.lie(|_| other_result);
    let me = peer(&honest);
    let trust = format!("[trust]\ndefault = \"refused\"\n[trust.peers]\n\"{me}\" = \"normal\"\n");
    let agent = trusting(&west.data_dir, "us-west", &[&honest.ticket], &trust);
    agent.wait_for_members(2, 0);
    // It may have to build what it asked the liar for first.
    west.run(&[]).expect_success();
    east.outputs().expect_same(&west.outputs());
    assert_eq!(conflicts(&agent), Vec::<Value>::new());
}

#[test]
fn a_flood_of_what_nobody_has_costs_bounded_memory_and_no_build() {
    let place = Place::new();
    let (east, west, honest, mut rogue) = built_before_a_liar(&place);
    rogue.flood(20_000);
    rogue.boast(rogue.victim.as_ref().map(|victim| victim.peer));
    let agent = west.agent("us-west", &[&honest.ticket]);
    agent.wait_for_members(2, 0);
    west.run(&[]).expect_from_peers("us-east");
    east.outputs().expect_same(&west.outputs());
    // Both hear it, and both go on.
    for agent in [&agent, &honest] {
        wait_until("it was heard", || counter(agent, "records_known") > 2_000);
    }
    east.write("src/a.txt", "changed\n");
    west.write("src/a.txt", "changed\n");
    assert!(east.run(&[]).expect_success().executed() > 0);
    west.run(&[]).expect_success();
    east.outputs().expect_same(&west.outputs());
    for agent in [&agent, &honest] {
        let memory = memory(agent);
        assert!(memory < MOST_MEMORY_KB, "{memory} KiB");
        assert_eq!(conflicts(agent), Vec::<Value>::new());
    }
}
