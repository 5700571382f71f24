//! Valid messages of every kind, at random.

use netbuild_core::{
    backend::{TierKind, TierName},
    cache::{NewRecord, Source},
    chunk::{Chunk, MAX_CHUNK, Manifest},
    codec::{Codec, Codecs, Policy},
    digest::{Digest, Hash},
    gossip,
    hlc::Hlc,
    key::ActionKey,
    ledger::{Cost, Item, Ledger},
    moved::{Coding, Moved, Movement, Progress, Resumed},
    peer::{Identity, PeerId},
    reconcile::{Message, Session, Step, respond},
    record::{ActionResult, Execution, Output, OutputKind, Record, Sandbox},
    tree::Entry,
};
use netbuild_proto::{
    control::{
        self, Attempt, ConflictRow, Decision, Member, MonitorRow, MonitorSnapshot, PeerState, Rows,
        Status, SyncOrder, Version,
    },
    data, exchange,
    gossip::Envelope,
    listing,
    log::{Log, Stream},
    membership::{Announcement, Held, LinkReport, Presence, Request, Response, Rolled},
    record::SealedRecord,
    segment::{self, Filed, Index},
    ticket::{MeshKey, Ticket},
};
use std::{collections::BTreeMap, net::SocketAddr, sync::LazyLock};

/// Numbers at random, the same for the same seed: SplitMix64 (Steele, Lea and Flood, 2014).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    fn bool(&mut self) -> bool {
        self.next() & 1 == 1
    }

    /// A number of any magnitude: small ones are as likely as large ones.
    fn number(&mut self) -> u64 {
        let shift = self.below(64);
        self.next() >> shift
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    fn some<T>(&mut self, one: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.bool().then(|| one(self))
    }

    fn list<T>(&mut self, bound: usize, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = self.below(bound);
        (0..count).map(|_| one(self)).collect()
    }

    fn text(&mut self) -> String {
        self.list(20, |random| char::from(b'a' + random.byte() % 26)).into_iter().collect()
    }
}

fn peer(random: &mut Random) -> PeerId {
    PeerId(random.bytes())
}

fn key(random: &mut Random) -> ActionKey {
    ActionKey(random.bytes())
}

fn digest(random: &mut Random) -> Digest {
    Digest { hash: Hash(random.bytes()), size: random.number() }
}

fn address(random: &mut Random) -> SocketAddr {
    let port = random.next() as u16;
    match random.bool() {
        true => (random.bytes::<4>(), port).into(),
        false => (random.bytes::<16>(), port).into(),
    }
}

fn path(random: &mut Random) -> Vec<u8> {
    let name = |random: &mut Random| format!("x{}", random.text());
    let names: Vec<_> = std::iter::repeat_with(|| name(random)).take(3).collect();
    names[..1 + random.below(3)].join("/").into_bytes()
}

// -- the mesh --

fn held(random: &mut Random) -> Held {
    Held {
        key: key(random),
        hlc: Hlc(random.number()),
        sum: random.next(),
        build_ms: random.number() as u32,
        bytes: random.number(),
    }
}

fn presence(random: &mut Random) -> Presence {
    Presence {
        region: random.text(),
        mesh_addresses: random.list(17, address),
        data_port: random.next() as u16,
        started: random.next(),
    }
}

fn link(random: &mut Random) -> LinkReport {
    LinkReport {
        peer: peer(random),
        rtt_us: (random.number() % 60_000_001) as u32,
        jitter_us: (random.number() % 60_000_001) as u32,
        loss_ppm: (random.number() % 1_000_001) as u32,
        goodput: random.number() % 1_000_000_000_001,
        age_s: random.number() as u32,
    }
}

pub(crate) fn announcement(random: &mut Random) -> Vec<u8> {
    match random.below(4) {
        0 => Announcement::Presence(presence(random)),
        1 => Announcement::Held(random.list(40, held)),
        2 => Announcement::Links(random.list(65, link)),
        _ => Announcement::Gone { peer: peer(random), started: random.next() },
    }
    .encode()
}

pub(crate) fn membership_request(random: &mut Random) -> Vec<u8> {
    match random.below(5) {
        0 => Request::Admit {
            proof: random.bytes(),
            presence: presence(random),
            seen: address(random),
            roll: random.next(),
            heard: random.number(),
        },
        1 => Request::Gossip(gossip_message(random)),
        2 => Request::Exchange(exchange_request(random)),
        3 => Request::Roll { after: random.some(peer) },
        _ => Request::Part,
    }
    .encode()
}

pub(crate) fn membership_response(random: &mut Random) -> Vec<u8> {
    match random.below(6) {
        0 => Response::Admitted {
            proof: random.bytes(),
            presence: presence(random),
            seen: address(random),
            roll: random.next(),
            heard: random.number(),
            members: random.list(17, address),
        },
        1 => Response::Full { members: random.list(17, address) },
        2 => Response::Refused,
        3 => Response::Taken,
        4 => Response::Exchange(exchange_response(random)),
        _ => Response::Roll(random.list(9, |random| Rolled {
            age_s: random.number() as u32,
            rumour: random.list(600, Random::byte),
        })),
    }
    .encode()
}

pub(crate) fn envelope(random: &mut Random) -> Vec<u8> {
    static IDENTITY: LazyLock<Identity> = LazyLock::new(|| Identity::from_seed(&[1; 32]));
    let sealed = announcement(random);
    Envelope::sign(&IDENTITY, random.number(), sealed).map_or_else(Vec::new, |said| said.encode())
}

pub(crate) fn gossip_message(random: &mut Random) -> Vec<u8> {
    let ids = |random: &mut Random| random.list(40, |random| gossip::RumourId(random.next()));
    let message = gossip::Message {
        rumours: random.list(6, |random| random.list(300, Random::byte).into()),
        have: ids(random),
        want: ids(random),
        prune: random.bool(),
        graft: random.bool(),
    };
    netbuild_proto::gossip::encode(&message).unwrap_or_default()
}

// -- comparing records --

fn item(n: u64) -> Item {
    Item { key: ActionKey(Hash::of(&n.to_le_bytes()).0), hlc: Hlc(n), sum: n }
}

fn ledger(numbers: impl Iterator<Item = u64>) -> Ledger {
    let mut ledger = Ledger::default();
    // Keys that somebody invented: they share the bits by which ranges are split.
    let invented = (0..40).map(|n| Item { key: ActionKey([7; 32]), ..item(n) });
    let invented = invented.map(|mut item| {
        item.key.0[31] = item.sum as u8;
        item
    });
    let all = numbers.map(item).chain(invented);
    all.for_each(|item| ledger.handle_have(item, Cost::default()));
    ledger
}

/// What the two that are compared have: `OURS` begins, `THEIRS` answers.
pub(crate) static OURS: LazyLock<Ledger> = LazyLock::new(|| ledger(0..500));
pub(crate) static THEIRS: LazyLock<Ledger> = LazyLock::new(|| ledger(200..640));
/// One round of an honest session.
pub(crate) struct Round {
    pub(crate) session: Session,
    question: Message,
    answer: Message,
}

/// All of them.
pub(crate) static ROUNDS: LazyLock<Vec<Round>> = LazyLock::new(|| {
    let (mut session, mut question) = Session::start(&OURS, 5);
    let mut rounds = Vec::new();
    while let Ok(answer) = respond(&THEIRS, &question) {
        let before = session.clone();
        let step = session.handle(&OURS, &answer);
        rounds.push(Round { session: before, question, answer });
        match step {
            Ok(Step::Send(next)) => question = next,
            _ => break,
        }
    }
    rounds
});

pub(crate) fn reconcile_question(random: &mut Random) -> Vec<u8> {
    ROUNDS[random.below(ROUNDS.len())].question.as_bytes().to_vec()
}

/// The number of a round, and the answer that comes in it.
pub(crate) fn reconcile_answer(random: &mut Random) -> Vec<u8> {
    let round = random.below(ROUNDS.len());
    [&[round as u8], ROUNDS[round].answer.as_bytes()].concat()
}

fn told(bytes: Vec<u8>) -> Message {
    Message::from_bytes(bytes).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn exchange_request(random: &mut Random) -> Vec<u8> {
    match random.below(3) {
        0 => exchange::Request::Reconcile(told(reconcile_question(random))),
        1 => exchange::Request::Sync(exchange::SyncOrder {
            from: random.some(Random::text),
            dry_run: random.bool(),
            force: random.bool(),
        }),
        _ => exchange::Request::SyncStatus { id: random.next() },
    }
    .encode()
}

pub(crate) fn exchange_response(random: &mut Random) -> Vec<u8> {
    let pair = |random: &mut Random| exchange::Pair {
        from: random.text(),
        to: random.text(),
        artifacts: random.number(),
        bytes_logical: random.number(),
        bytes_on_wire: random.number(),
        seconds: random.number() as f64 / 1e3,
    };
    match random.below(4) {
        0 => exchange::Response::Reconcile(told(reconcile_answer(random))),
        1 => exchange::Response::Sync { id: random.next() },
        2 => exchange::Response::SyncStatus(exchange::SyncStatus {
            done: random.bool(),
            error: random.some(Random::text),
            pairs: random.list(9, pair),
            artifacts_total: random.number(),
            ..exchange::SyncStatus::default()
        }),
        _ => exchange::Response::Refused(random.text()),
    }
    .encode()
}

// -- the data plane --

fn accept(random: &mut Random) -> data::Accept {
    let policies = [
        Policy::Adaptive,
        Policy::Tiers,
        Policy::Off,
        Policy::Fixed(Codec::Identity),
        Policy::Fixed(Codec::Gzip(9)),
        Policy::Fixed(Codec::Zstd(22)),
    ];
    let priorities = [data::Priority::Background, data::Priority::Normal, data::Priority::Urgent];
    data::Accept {
        codecs: Codecs::from_bits(random.byte()),
        goodput: random.number(),
        decode: random.number(),
        policy: policies[random.below(policies.len())],
        priority: priorities[random.below(priorities.len())],
    }
}

pub(crate) fn data_request(random: &mut Random) -> Vec<u8> {
    let chunk = |random: &mut Random| {
        let len = 1 + random.number() % MAX_CHUNK as u64;
        Chunk { hash: Hash(random.bytes()), len: len as u32 }
    };
    match random.below(9) {
        0 => data::Request::Records(random.list(40, key)),
        1 => data::Request::Manifests(random.list(40, digest)),
        2 => data::Request::Chunks { chunks: random.list(40, chunk), accept: accept(random) },
        3 => data::Request::Has(random.list(40, digest)),
        4 => data::Request::Bring(random.list(40, digest)),
        5 => data::Request::Delta {
            target: digest(random),
            bases: (0..=random.below(data::MAX_BASES)).map(|_| digest(random)).collect(),
            first: random.below(1 << 20) as u32,
            count: 1 + random.below(data::MAX_ITEMS) as u32,
            accept: accept(random),
        },
        6 => data::Request::Parts(random.list(40, digest)),
        7 => data::Request::Doubt(
            (0..=random.below(data::MAX_DOUBTED)).map(|_| chunk(random)).collect(),
        ),
        _ => data::Request::Probe { bytes: (random.number() % (1 << 20)) as u32 },
    }
    .encode()
}

/// The blob that manifests are for.
pub(crate) const BLOB: Digest = Digest { hash: Hash([2; 32]), size: 1_000_000 };

pub(crate) fn manifest(random: &mut Random) -> Vec<u8> {
    let mut left = BLOB.size as u32;
    let mut chunks = Vec::new();
    while left > 0 {
        let len = left.min(1 + random.below(200_000) as u32);
        chunks.push(Chunk { hash: Hash(random.bytes()), len });
        left -= len;
    }
    let sketch = (0..random.below(data::MAX_SKETCH + 1)).map(|_| random.byte()).collect::<Vec<_>>();
    let encode = |fine| data::encode_manifest(&fine, Some(&sketch));
    Manifest::new(BLOB, chunks).map_or_else(|_| Vec::new(), encode)
}

/// The chunks that runs answer.
pub(crate) const ASKED: [Chunk; 4] = {
    const fn chunk(len: u32) -> Chunk {
        Chunk { hash: Hash([3; 32]), len }
    }
    [chunk(1), chunk(2048), chunk(100), chunk(300)]
};

/// The header of a run and its body.
pub(crate) fn run(random: &mut Random) -> Vec<u8> {
    let codings = [
        data::Coding::Absent,
        data::Coding::Identity,
        data::Coding::Gzip,
        data::Coding::Zstd,
        data::Coding::Delta,
    ];
    let coding = codings[random.below(codings.len())];
    // The first chunk alone has no body that is shorter than itself.
    let count = 2 + random.below(ASKED.len() - 1);
    let sum = ASKED[..count].iter().map(|chunk| chunk.len).sum::<u32>();
    let (decoded, body) = match coding {
        data::Coding::Absent => (0, 0),
        data::Coding::Identity => (sum, sum as usize),
        _ => (sum, 1 + random.below(sum as usize - 1)),
    };
    let header = data::RunHeader { coding, late: random.bool(), count: count as u16, decoded };
    let body = (0..body).map(|_| random.byte());
    header.encode().into_iter().chain(body).collect()
}

/// How many bits a bitmap is expected to have, and the bitmap.
pub(crate) fn bitmap(random: &mut Random) -> Vec<u8> {
    let bits = random.list(256, Random::bool);
    [&[bits.len() as u8][..], &data::encode_bitmap(&bits)].concat()
}

pub(crate) fn ticket(random: &mut Random) -> Vec<u8> {
    let addresses = vec![address(random), address(random)];
    let ticket = Ticket { peer: peer(random), addresses, mesh_key: MeshKey(random.bytes()) };
    ticket.to_string().into_bytes()
}

// -- what lasts --

fn new_record(random: &mut Random) -> NewRecord {
    let output = |random: &mut Random| Output {
        path: path(random),
        kind: match random.below(5) {
            0 => OutputKind::File { digest: digest(random), executable: random.bool() },
            1 => OutputKind::Symlink { target: path(random) },
            2 => OutputKind::Tree { listing: digest(random) },
            3 => OutputKind::Files { listing: digest(random) },
            _ => OutputKind::Absent,
        },
    };
    NewRecord {
        key: key(random),
        result: ActionResult {
            exit_code: random.number() as i32,
            outputs: random.list(9, output),
            log: random.some(digest),
        },
        execution: Execution {
            duration_ms: random.number(),
            finished_at_ms: random.number(),
            sandbox_asked: Sandbox::Env,
            sandbox_obtained: Sandbox::Env,
            tools: random.list(4, Random::text),
            netbuild_version: random.text(),
            flaky: random.bool(),
            drift_checked: random.bool(),
            bound_to: random.some(|random| Hash(random.bytes())),
            local: random.bool(),
        },
    }
}

fn sealed(random: &mut Random) -> SealedRecord {
    static IDENTITY: LazyLock<Identity> = LazyLock::new(|| Identity::from_seed(&[1; 32]));
    let NewRecord { key, result, execution } = new_record(random);
    let (writer, region, hlc) = (IDENTITY.peer_id(), random.text(), Hlc(random.number() >> 2));
    let record = Record { key, result, execution, writer, region, hlc };
    SealedRecord::seal(record, &IDENTITY).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn record(random: &mut Random) -> Vec<u8> {
    sealed(random).as_bytes().to_vec()
}

pub(crate) fn listing(random: &mut Random) -> Vec<u8> {
    let entries: BTreeMap<Vec<u8>, Entry> = random
        .list(30, |random| {
            let entry = match random.below(3) {
                0 => Entry::File { digest: digest(random), executable: random.bool() },
                1 => Entry::Symlink { target: path(random) },
                _ => Entry::Directory,
            };
            (path(random), entry)
        })
        .into_iter()
        .collect();
    listing::encode(&entries.into_iter().collect::<Vec<_>>())
}

/// The index of a segment without the frame whose checksum would keep every change out.
pub(crate) fn segment_index(random: &mut Random) -> Vec<u8> {
    let named = |random: &mut Random| Digest { size: random.next() >> 40, ..digest(random) };
    let held =
        |random: &mut Random| segment::Held { digest: named(random), written: random.next() };
    let (blobs, others) = (random.list(20, held), random.list(20, named));
    let known = blobs.len() + others.len();
    let filed = |random: &mut Random| Filed {
        key: key(random),
        hlc: random.next(),
        len: random.below(1000) as u32,
        written: random.next(),
        blobs: (0..known as u32).filter(|_| random.bool()).collect(),
    };
    let records = random.list(10, filed);
    let bytes = Index { merged: random.bool(), blobs, named: others, records }.encode();
    bytes[12..bytes.len() - 32].to_vec()
}

pub(crate) fn log(random: &mut Random) -> Vec<u8> {
    let mut log = Log::default();
    for _ in 0..random.below(9) {
        let stream = if random.bool() { Stream::Stdout } else { Stream::Stderr };
        let bytes = random.list(100, Random::byte);
        log.push(random.number() as u32, stream, &bytes);
    }
    log.as_bytes().to_vec()
}

// -- the control socket --

pub(crate) fn control_request(random: &mut Random) -> Vec<u8> {
    let order = |random: &mut Random| SyncOrder {
        from: random.some(Random::text),
        to: random.some(Random::text),
        all: random.bool(),
        ..SyncOrder::default()
    };
    let request = match random.below(10) {
        0 => control::Request::Hello { version: random.number() as u32 },
        1 => control::Request::Lookup(key(random)),
        2 => control::Request::PutBlob(digest(random)),
        3 => control::Request::PutRecord(new_record(random)),
        4 => control::Request::Why { about: random.some(Random::text), limit: 3 },
        5 => control::Request::Sync(order(random)),
        6 => control::Request::Plan(digest(random)),
        7 => control::Request::Fetch(random.list(9, digest)),
        8 => control::Request::Drain { timeout_ms: random.number() },
        _ => control::Request::Monitor,
    };
    let mut bytes = Vec::new();
    request.write(&mut bytes).unwrap_or_else(|error| panic!("{error}"));
    bytes
}

fn status(random: &mut Random) -> Status {
    let member = |random: &mut Random| Member {
        peer: random.text(),
        addresses: random.list(4, Random::text),
        state: [PeerState::Ok, PeerState::HalfOpen][random.below(2)],
        resting: random.some(Random::text),
        rtt_us: random.some(Random::number),
        ..Member::default()
    };
    Status {
        members: random.list(5, member),
        counters: random.list(9, |random| (random.text(), random.number())),
        uptime_s: random.number() as f64,
        ..Status::default()
    }
}

fn decision(random: &mut Random) -> Decision {
    let attempt = |random: &mut Random| Attempt {
        source: random.text(),
        began_ms: random.number(),
        actual_s: random.some(|random| random.number() as f64),
        ..Attempt::default()
    };
    Decision { what: random.text(), attempts: random.list(4, attempt), ..Decision::default() }
}

fn conflict(random: &mut Random) -> ConflictRow {
    let version = |random: &mut Random| Version {
        writer: random.text(),
        outputs: random
            .list(4, |random| control::Output { path: random.text(), digest: random.text() }),
        ..Version::default()
    };
    ConflictRow {
        key: random.text(),
        task_hint: random.text(),
        kept: version(random),
        others: random.list(4, version),
    }
}

pub(crate) fn control_response(random: &mut Random) -> Vec<u8> {
    let source = |random: &mut Random| match random.below(3) {
        0 => Source::Disk,
        1 => Source::Peer { peer: peer(random), region: random.text() },
        _ => Source::Tier(TierName { kind: TierKind::S3, place: random.text() }),
    };
    let resumed = |random: &mut Random| {
        let chunks_here = random.below(100) as u32;
        Resumed { chunks_here, chunks: chunks_here + random.below(100) as u32 }
    };
    let movement = |random: &mut Random| {
        let mut movement = Movement {
            resumed: random.some(resumed),
            base: random.some(digest),
            ..Movement::default()
        };
        for _ in 0..random.below(5) {
            let coding = Coding::ALL[random.below(Coding::ALL.len())];
            let moved = Moved { logical: random.number(), wire: random.number() };
            movement.add(&source(random), coding, moved);
        }
        movement
    };
    let response = match random.below(9) {
        0 => control::Response::Hit {
            record: sealed(random),
            source: source(random),
            bytes: random.number(),
            movement: movement(random),
        },
        1 => control::Response::Fetched {
            missing: random.list(5, |random| random.number() as u32),
            source: source(random),
            movement: movement(random),
            seconds: random.number() as f64 / 1e3,
        },
        7 => control::Response::Moving(Progress {
            total: random.number(),
            done: random.number(),
            wire: random.number(),
            per_second: random.number() as f64,
            sources: random.list(4, source),
            coding: random.some(|random| Coding::ALL[random.below(Coding::ALL.len())]),
            resumed: random.some(resumed),
        }),
        2 => control::Response::Failed(random.text()),
        3 => control::Response::Status(Box::new(status(random))),
        4 => control::Response::Why(Rows::fitting(random.list(5, decision))),
        5 => control::Response::Conflicts(Rows::fitting(random.list(5, conflict))),
        6 => control::Response::Monitor(MonitorSnapshot {
            rows: random.list(5, |random| MonitorRow {
                region: random.text(),
                order: random.some(|random| random.number() as u32),
                ..MonitorRow::default()
            }),
            ..MonitorSnapshot::default()
        }),
        _ => control::Response::Working,
    };
    let mut bytes = Vec::new();
    response.write(&mut bytes).unwrap_or_else(|error| panic!("{error}"));
    bytes
}

/// Content of a blob, as it follows a request.
pub(crate) fn content(random: &mut Random) -> Vec<u8> {
    let content = random.list(3_000, Random::byte);
    let mut bytes = Vec::new();
    let sent = control::write_content(&mut bytes, &mut content.as_slice());
    sent.and_then(|inner| inner).unwrap_or_else(|error| panic!("{error}"));
    bytes
}
