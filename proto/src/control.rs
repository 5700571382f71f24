//! The control socket: what a command of netbuild and the process that owns the data directory
//! tell one another on one machine.
//!
//! Both ends send frames: the length as 32-bit little-endian, then that many bytes. A connection
//! starts with [`Request::Hello`] and [`Response::Welcome`]; then requests are answered one by
//! one. Blob content goes as raw frames of at most [`MAX_DATA`] bytes, ended by an empty one, or by
//! one of impossible length when the sender cannot go on.

mod content;
mod moved;
mod report;
mod space;
mod status;
mod sync;
mod verify;

pub use content::{ContentReader, MAX_DATA, write_content};
pub use report::{
    Attempt, ConflictRow, Decision, LinkRow, LinkSource, MonitorRow, MonitorSnapshot, Output,
    PlanReport, PlanStep, Rows, Version,
};
pub use space::{GcOrder, GcReport, GcRow, PinRow, SpaceReport, SpaceShare};
pub use status::{Member, PeerState, ScrubStatus, Status, StoreStatus, TierRow};
pub use sync::{SyncOrder, SyncPair, SyncProgress, SyncReport};
pub use verify::{MAX_FINDINGS, VerifyFinding, VerifyOrder, VerifyProgress, VerifyReport};

use crate::{
    codec::{self, DecodeError},
    frame::{self, invalid},
    record::{DigestV1, MAX_RECORD, NewRecordV1, SandboxV1, SealedRecord, check_region},
};
use bincode::{Decode, Encode};
use moved::{MovementV3, ProgressV3, SourceV4, check_figure};
use netbuild_core::{
    cache::{NewRecord, Source},
    digest::Digest,
    evict::Pin,
    key::ActionKey,
    moved::{Movement, Progress},
    record::Sandbox,
    sooner::{Building, Slow},
};
use std::{
    io::{self, Read, Write},
    time::Duration,
};

/// Version of the protocol. Both ends come from one installation, but an agent may outlive an
/// upgrade of the command next to it.
pub const VERSION: u32 = 10;
/// Most blobs of one [`Request::Fetch`]; of more, each so many are a request. The files of a large
/// tree of outputs are fewer, and their digests fit into a few megabytes.
pub const MAX_FETCH: usize = 100_000;
/// Most keys of one [`Request::Bring`].
pub const MAX_BRING: usize = 4096;
/// Bytes of a digest among others: 32 of the hash and at most 9 of the size, or 40 in memory, which
/// decoding counts as well.
const DIGEST_BYTES: usize = 41;
/// Most bytes of a request. The largest carries as many digests as may be, or a record.
const MAX_REQUEST: usize = 2 * MAX_RECORD + MAX_FETCH * DIGEST_BYTES;
/// Most bytes of a response. The largest is the state of an agent that knows thousands of others.
const MAX_RESPONSE: usize = 4 * 1024 * 1024;

/// What a command asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Starts a connection.
    Hello {
        /// [`VERSION`] of the sender.
        version: u32,
    },
    /// `Cache::lookup`.
    Lookup(ActionKey),
    /// The same, of who uses no result that obtained less than this level, and may build instead:
    /// `Watch::building`.
    LookupFrom(ActionKey, Sandbox, Option<Building>),
    /// `Cache::peek`.
    Peek(ActionKey),
    /// `Cache::bring`, at most [`MAX_BRING`]; ends early when the connection is closed.
    Bring(Vec<ActionKey>),
    /// `Cache::fetch_all`, at most [`MAX_FETCH`].
    Fetch(Vec<Digest>),
    /// `Cache::open`: content frames follow the answer.
    Open(Digest),
    /// `Cache::put_blob`: content frames follow the request.
    PutBlob(Digest),
    /// `Cache::put_record`.
    PutRecord(NewRecord),
    /// `Cache::flush`.
    Flush,
    /// Waits until the tiers have what is to be copied to them.
    Drain {
        /// Milliseconds that are waited at most.
        timeout_ms: u64,
    },
    /// Asks for a [`Status`].
    Status,
    /// Asks for what is known of the links between agents.
    Links,
    /// Asks how a blob would be had now.
    Plan(Digest),
    /// Asks for the decisions of late, the latest first.
    Why {
        /// Only those about this: the first hex digits of a digest or an action key, or a part of
        /// a task's name.
        about: Option<String>,
        /// At most so many.
        limit: u32,
    },
    /// Asks for the actions with results that differ.
    Conflicts,
    /// Copies between regions; ends early when the connection is closed.
    Sync(SyncOrder),
    /// Asks for a [`MonitorSnapshot`].
    Monitor,
    /// Looks through the store; ends early when the connection is closed.
    Verify(VerifyOrder),
    /// Asks what takes the space; ends early when the connection is closed.
    Space,
    /// Makes space; ends early when the connection is closed.
    Gc(GcOrder),
    /// Keeps something whatever else goes.
    Pin {
        /// What.
        pin: Pin,
        /// What to call it.
        label: String,
    },
    /// Lets something go like anything else.
    Unpin(Pin),
    /// Asks for what is pinned.
    Pins,
    /// A blob that was put, and that no result names, is to be copied to the tiers.
    Share(Digest),
}

/// What the owner of the data directory answers.
#[derive(Clone, PartialEq, Debug)]
pub enum Response {
    /// The connection is open.
    Welcome {
        /// [`VERSION`] of the sender.
        version: u32,
    },
    /// Still at it; more answers follow.
    Working,
    /// What was asked for is on its way, so far; more answers follow.
    Moving(Progress),
    /// What was asked for is not there.
    Missing,
    /// What was looked up is known, and is sooner built than here.
    SoonerBuilt(Slow),
    /// A hit.
    Hit {
        /// The record.
        record: SealedRecord,
        /// Where it was.
        source: Source,
        /// Bytes that peers sent, as they were sent.
        bytes: u64,
        /// Who sent them, and how.
        movement: Movement,
    },
    /// A record that is here.
    Record(SealedRecord),
    /// The blobs are on disk, as far as they can be had.
    Fetched {
        /// Those that cannot: their places among those that were asked for, in order.
        missing: Vec<u32>,
        /// Where the others were.
        source: Source,
        /// Who sent what, and how.
        movement: Movement,
        /// Seconds that it took.
        seconds: f64,
    },
    /// It is done; for `Open`, the content follows.
    Done,
    /// It failed, for this reason.
    Failed(String),
    /// The state of the process.
    Status(Box<Status>),
    /// What is known of links.
    Links(Rows<LinkRow>),
    /// How a blob would be had now.
    Plan(PlanReport),
    /// Decisions of late.
    Why(Rows<Decision>),
    /// Actions with results that differ.
    Conflicts(Rows<ConflictRow>),
    /// A sync goes on; more answers follow.
    Syncing(SyncProgress),
    /// A sync is done.
    Synced(SyncReport),
    /// The mesh at this moment.
    Monitor(MonitorSnapshot),
    /// A verification goes on; more answers follow.
    Verifying(VerifyProgress),
    /// A verification is done.
    Verified(VerifyReport),
    /// Work goes on; more answers follow.
    Doing {
        /// What is done now.
        what: String,
        /// How far it is, from 0 to 1.
        part: f64,
    },
    /// What takes the space.
    Space(SpaceReport),
    /// Space was made.
    Cleared(GcReport),
    /// What is pinned.
    Pins(Rows<PinRow>),
}

#[derive(Encode, Decode)]
enum RequestV4 {
    Hello { version: u32 },
    Lookup([u8; 32]),
    Fetch(Vec<DigestV1>),
    Open(DigestV1),
    PutBlob(DigestV1),
    PutRecord(NewRecordV1),
    Flush,
    Drain { timeout_ms: u64 },
    Status,
    Links,
    Plan(DigestV1),
    Why { about: Option<String>, limit: u32 },
    Conflicts,
    Sync(SyncOrder),
    Monitor,
    Verify(VerifyOrder),
    Space,
    Gc(GcOrder),
    Pin { pin: PinV4, label: String },
    Unpin(PinV4),
    Pins,
    Share(DigestV1),
    LookupFrom([u8; 32], SandboxV1, Option<BuildingV9>),
    Peek([u8; 32]),
    Bring(Vec<[u8; 32]>),
}

/// Times in milliseconds, as are those of [`SlowV9`].
#[derive(Encode, Decode)]
struct BuildingV9 {
    own: Option<u64>,
    after: u64,
}

impl From<Building> for BuildingV9 {
    fn from(building: Building) -> Self {
        Self { own: building.own.map(millis), after: millis(building.after) }
    }
}

impl From<BuildingV9> for Building {
    fn from(wire: BuildingV9) -> Self {
        Self { own: wire.own.map(Duration::from_millis), after: Duration::from_millis(wire.after) }
    }
}

#[derive(Encode, Decode)]
struct SlowV9 {
    build: u64,
    fetch: Option<u64>,
    waited: u64,
}

impl From<Slow> for SlowV9 {
    fn from(slow: Slow) -> Self {
        Self {
            build: millis(slow.build),
            fetch: slow.fetch.map(millis),
            waited: millis(slow.waited),
        }
    }
}

impl From<SlowV9> for Slow {
    fn from(wire: SlowV9) -> Self {
        Self {
            build: Duration::from_millis(wire.build),
            fetch: wire.fetch.map(Duration::from_millis),
            waited: Duration::from_millis(wire.waited),
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Encode, Decode)]
enum PinV4 {
    Blob(DigestV1),
    Action([u8; 32]),
}

impl From<Pin> for PinV4 {
    fn from(pin: Pin) -> Self {
        match pin {
            Pin::Blob(blob) => Self::Blob(blob.into()),
            Pin::Action(key) => Self::Action(key.0),
        }
    }
}

impl From<PinV4> for Pin {
    fn from(pin: PinV4) -> Self {
        match pin {
            PinV4::Blob(blob) => Self::Blob(blob.into()),
            PinV4::Action(key) => Self::Action(ActionKey(key)),
        }
    }
}

#[derive(Encode, Decode)]
enum ResponseV4 {
    Welcome { version: u32 },
    Working,
    Moving(ProgressV3),
    Missing,
    Hit { record: Vec<u8>, source: SourceV4, bytes: u64, movement: MovementV3 },
    Fetched { missing: Vec<u32>, source: SourceV4, movement: MovementV3, seconds: f64 },
    Done,
    Failed(String),
    Status(Box<Status>),
    Links(Rows<LinkRow>),
    Plan(PlanReport),
    Why(Rows<Decision>),
    Conflicts(Rows<ConflictRow>),
    Syncing(SyncProgress),
    Synced(SyncReport),
    Monitor(MonitorSnapshot),
    Verifying(VerifyProgress),
    Verified(VerifyReport),
    Doing { what: String, part: f64 },
    Space(SpaceReport),
    Cleared(GcReport),
    Pins(Rows<PinRow>),
    Record(Vec<u8>),
    SoonerBuilt(SlowV9),
}

impl Request {
    /// Sends the request.
    pub fn write(&self, socket: &mut impl Write) -> io::Result<()> {
        let wire = match self {
            Self::Hello { version } => RequestV4::Hello { version: *version },
            Self::Lookup(key) => RequestV4::Lookup(key.0),
            Self::LookupFrom(key, least, building) => {
                RequestV4::LookupFrom(key.0, (*least).into(), building.map(Into::into))
            }
            Self::Peek(key) => RequestV4::Peek(key.0),
            Self::Bring(keys) => RequestV4::Bring(keys.iter().map(|key| key.0).collect()),
            Self::Fetch(blobs) => {
                RequestV4::Fetch(blobs.iter().map(|blob| (*blob).into()).collect())
            }
            Self::Open(blob) => RequestV4::Open((*blob).into()),
            Self::PutBlob(blob) => RequestV4::PutBlob((*blob).into()),
            Self::PutRecord(record) => RequestV4::PutRecord(record.into()),
            Self::Flush => RequestV4::Flush,
            Self::Drain { timeout_ms } => RequestV4::Drain { timeout_ms: *timeout_ms },
            Self::Status => RequestV4::Status,
            Self::Links => RequestV4::Links,
            Self::Plan(blob) => RequestV4::Plan((*blob).into()),
            Self::Why { about, limit } => RequestV4::Why { about: about.clone(), limit: *limit },
            Self::Conflicts => RequestV4::Conflicts,
            Self::Sync(order) => RequestV4::Sync(order.clone()),
            Self::Monitor => RequestV4::Monitor,
            Self::Verify(order) => RequestV4::Verify(*order),
            Self::Space => RequestV4::Space,
            Self::Gc(order) => RequestV4::Gc(*order),
            Self::Pin { pin, label } => RequestV4::Pin { pin: (*pin).into(), label: label.clone() },
            Self::Unpin(pin) => RequestV4::Unpin((*pin).into()),
            Self::Pins => RequestV4::Pins,
            Self::Share(blob) => RequestV4::Share((*blob).into()),
        };
        frame::write(socket, &codec::encode(&wire))
    }

    /// Receives a request; `None` when the other end is gone.
    pub fn read(socket: &mut impl Read) -> io::Result<Option<Self>> {
        let Some(wire) = frame::read::<RequestV4, MAX_REQUEST>(socket)? else { return Ok(None) };
        Ok(Some(match wire {
            RequestV4::Hello { version } => Self::Hello { version },
            RequestV4::Lookup(key) => Self::Lookup(ActionKey(key)),
            RequestV4::LookupFrom(key, least, building) => {
                Self::LookupFrom(ActionKey(key), least.into(), building.map(Into::into))
            }
            RequestV4::Peek(key) => Self::Peek(ActionKey(key)),
            RequestV4::Bring(keys) => {
                check_length(keys.len(), MAX_BRING)?;
                Self::Bring(keys.into_iter().map(ActionKey).collect())
            }
            RequestV4::Fetch(blobs) => {
                check_length(blobs.len(), MAX_FETCH)?;
                Self::Fetch(blobs.into_iter().map(Into::into).collect())
            }
            RequestV4::Open(blob) => Self::Open(blob.into()),
            RequestV4::PutBlob(blob) => Self::PutBlob(blob.into()),
            RequestV4::PutRecord(record) => Self::PutRecord(record.try_into().map_err(invalid)?),
            RequestV4::Flush => Self::Flush,
            RequestV4::Drain { timeout_ms } => Self::Drain { timeout_ms },
            RequestV4::Status => Self::Status,
            RequestV4::Links => Self::Links,
            RequestV4::Plan(blob) => Self::Plan(blob.into()),
            RequestV4::Why { about, limit } => Self::Why { about, limit },
            RequestV4::Conflicts => Self::Conflicts,
            RequestV4::Sync(order) => {
                let regions = order.from.iter().chain(&order.to);
                regions.map(String::as_str).try_for_each(check_region).map_err(invalid)?;
                Self::Sync(order)
            }
            RequestV4::Monitor => Self::Monitor,
            RequestV4::Verify(order) => Self::Verify(order),
            RequestV4::Space => Self::Space,
            RequestV4::Gc(order) => Self::Gc(order),
            RequestV4::Pin { pin, label } => Self::Pin { pin: pin.into(), label },
            RequestV4::Unpin(pin) => Self::Unpin(pin.into()),
            RequestV4::Pins => Self::Pins,
            RequestV4::Share(blob) => Self::Share(blob.into()),
        }))
    }
}

fn check_length(len: usize, limit: usize) -> io::Result<()> {
    if len > limit { Err(invalid(DecodeError::TooLong { len, limit })) } else { Ok(()) }
}

impl Response {
    /// Sends the response; one that is too large as [`Response::Failed`].
    pub fn write(&self, socket: &mut impl Write) -> io::Result<()> {
        let wire = match self {
            Self::Welcome { version } => ResponseV4::Welcome { version: *version },
            Self::Working => ResponseV4::Working,
            Self::Moving(progress) => ResponseV4::Moving(progress.into()),
            Self::Missing => ResponseV4::Missing,
            Self::SoonerBuilt(slow) => ResponseV4::SoonerBuilt((*slow).into()),
            Self::Hit { record, source, bytes, movement } => ResponseV4::Hit {
                record: record.as_bytes().to_vec(),
                source: source.into(),
                bytes: *bytes,
                movement: movement.into(),
            },
            Self::Record(record) => ResponseV4::Record(record.as_bytes().to_vec()),
            Self::Fetched { missing, source, movement, seconds } => ResponseV4::Fetched {
                missing: missing.clone(),
                source: source.into(),
                movement: movement.into(),
                seconds: *seconds,
            },
            Self::Done => ResponseV4::Done,
            Self::Failed(reason) => ResponseV4::Failed(reason.clone()),
            Self::Status(status) => ResponseV4::Status(status.clone()),
            Self::Links(rows) => ResponseV4::Links(rows.clone()),
            Self::Plan(plan) => ResponseV4::Plan(plan.clone()),
            Self::Why(rows) => ResponseV4::Why(rows.clone()),
            Self::Conflicts(rows) => ResponseV4::Conflicts(rows.clone()),
            Self::Syncing(progress) => ResponseV4::Syncing(progress.clone()),
            Self::Synced(report) => ResponseV4::Synced(report.clone()),
            Self::Monitor(snapshot) => ResponseV4::Monitor(snapshot.clone()),
            Self::Verifying(progress) => ResponseV4::Verifying(progress.clone()),
            Self::Verified(report) => ResponseV4::Verified(report.clone()),
            Self::Doing { what, part } => ResponseV4::Doing { what: what.clone(), part: *part },
            Self::Space(report) => ResponseV4::Space(report.clone()),
            Self::Cleared(report) => ResponseV4::Cleared(report.clone()),
            Self::Pins(rows) => ResponseV4::Pins(rows.clone()),
        };
        let mut body = codec::encode(&wire);
        if body.len() > MAX_RESPONSE {
            let reason = format!("the answer has {} bytes, more than can be sent", body.len());
            body = codec::encode(&ResponseV4::Failed(reason));
        }
        frame::write(socket, &body)
    }

    /// Receives a response.
    pub fn read(socket: &mut impl Read) -> io::Result<Self> {
        let wire = frame::read::<ResponseV4, MAX_RESPONSE>(socket)?;
        let wire = wire.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(match wire {
            ResponseV4::Welcome { version } => Self::Welcome { version },
            ResponseV4::Working => Self::Working,
            ResponseV4::Moving(progress) => Self::Moving(progress.try_into().map_err(invalid)?),
            ResponseV4::Missing => Self::Missing,
            ResponseV4::SoonerBuilt(slow) => Self::SoonerBuilt(slow.into()),
            ResponseV4::Hit { record, source, bytes, movement } => Self::Hit {
                record: SealedRecord::open(&record).map_err(invalid)?,
                source: source.try_into().map_err(invalid)?,
                bytes,
                movement: movement.try_into().map_err(invalid)?,
            },
            ResponseV4::Record(record) => {
                Self::Record(SealedRecord::open(&record).map_err(invalid)?)
            }
            ResponseV4::Fetched { missing, source, movement, seconds } => Self::Fetched {
                missing,
                source: source.try_into().map_err(invalid)?,
                movement: movement.try_into().map_err(invalid)?,
                seconds: check_figure(seconds).map_err(invalid)?,
            },
            ResponseV4::Done => Self::Done,
            ResponseV4::Failed(reason) => Self::Failed(reason),
            ResponseV4::Status(status) => Self::Status(status),
            ResponseV4::Links(rows) => Self::Links(rows),
            ResponseV4::Plan(plan) => Self::Plan(plan),
            ResponseV4::Why(rows) => Self::Why(rows),
            ResponseV4::Conflicts(rows) => Self::Conflicts(rows),
            ResponseV4::Syncing(progress) => Self::Syncing(progress),
            ResponseV4::Synced(report) => Self::Synced(report),
            ResponseV4::Monitor(snapshot) => Self::Monitor(snapshot),
            ResponseV4::Verifying(progress) => Self::Verifying(progress),
            ResponseV4::Verified(report) => Self::Verified(report),
            ResponseV4::Doing { what, part } => {
                Self::Doing { what, part: check_figure(part).map_err(invalid)? }
            }
            ResponseV4::Space(report) => Self::Space(report),
            ResponseV4::Cleared(report) => Self::Cleared(report),
            ResponseV4::Pins(rows) => Self::Pins(rows),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::record;
    use netbuild_core::{
        moved::{Coding, Moved, Resumed},
        peer::{Identity, PeerId},
    };
    use proptest::prelude::*;

    #[test]
    fn requests_and_responses_read_back() {
        let identity = Identity::from_seed(&[1; 32]);
        let full = record(&identity);
        let new = NewRecord {
            key: full.key,
            result: full.result.clone(),
            execution: full.execution.clone(),
        };
        let mut bytes = Vec::new();
        let requests = [
            Request::Hello { version: 1 },
            Request::PutRecord(new),
            Request::Flush,
            Request::Drain { timeout_ms: u64::MAX },
            Request::Fetch(vec![Digest::of(b"one"), Digest { size: u64::MAX, ..Digest::of(b"") }]),
            Request::Links,
            Request::Plan(Digest::of(b"blob")),
            Request::Why { about: Some("af13".into()), limit: 7 },
            Request::Conflicts,
            Request::Sync(SyncOrder { from: Some("us-east".into()), force: true, ..order() }),
            Request::Monitor,
            Request::Share(Digest::of(b"shared")),
            Request::LookupFrom(ActionKey([7; 32]), Sandbox::Landlock, None),
            Request::LookupFrom(
                ActionKey([7; 32]),
                Sandbox::Env,
                Some(Building {
                    own: Some(Duration::from_millis(9)),
                    after: Duration::from_secs(77),
                }),
            ),
            Request::Peek(ActionKey([8; 32])),
            Request::Bring(vec![ActionKey([9; 32]), ActionKey([10; 32])]),
            Request::Verify(VerifyOrder { deep: true, repair: false }),
        ];
        requests.iter().for_each(|request| request.write(&mut bytes).unwrap());
        let mut reader = bytes.as_slice();
        for request in requests {
            assert_eq!(Request::read(&mut reader).unwrap(), Some(request));
        }
        assert_eq!(Request::read(&mut reader).unwrap(), None);

        let source = Source::Peer { peer: identity.peer_id(), region: "us-east".into() };
        let record = SealedRecord::seal(full, &identity).unwrap();
        let mut responses = vec![
            Response::Record(record.clone()),
            Response::Hit { record, source: source.clone(), bytes: 7, movement: movement() },
            Response::Fetched { missing: vec![3, 9], source, movement: movement(), seconds: 0.5 },
        ];
        responses.extend(reports());
        let mut bytes = Vec::new();
        responses.iter().for_each(|response| response.write(&mut bytes).unwrap());
        let mut reader = bytes.as_slice();
        for response in responses {
            assert_eq!(Response::read(&mut reader).unwrap(), response);
        }
    }

    fn movement() -> Movement {
        let peer = Source::Peer { peer: PeerId([7; 32]), region: "us-east".into() };
        let mut movement = Movement::default();
        movement.add(&peer, Coding::Zstd, Moved { logical: 900, wire: 300 });
        movement
    }

    fn order() -> SyncOrder {
        SyncOrder::default()
    }

    /// One of each report.
    fn reports() -> Vec<Response> {
        let member = Member { state: PeerState::HalfOpen, queue: 3, ..Member::default() };
        let status = Status { members: vec![member], uptime_s: 1.5, ..Status::default() };
        let link = LinkRow {
            from: "a".into(),
            from_region: "us-east".into(),
            to: "b".into(),
            to_region: String::new(),
            rtt_ms: Some(50.25),
            jitter_ms: None,
            loss: Some(0.01),
            goodput: Some(12_500_000),
            age_s: 0.5,
            source: LinkSource::Gossip,
            score_s: None,
        };
        let step = PlanStep { state: Some(PeerState::Away), ..PlanStep::default() };
        let steps = vec![step, PlanStep::default()];
        let plan = PlanReport { what: "x".into(), size: 9, build_s: Some(1.0), steps };
        let attempts = vec![Attempt { actual_s: Some(0.25), ..Attempt::default() }];
        let decision = Decision { attempts, ..Decision::default() };
        let output = Output { path: "out".into(), digest: "af".into() };
        let kept = Version { exit_code: -1, outputs: vec![output], ..Version::default() };
        let conflict = ConflictRow {
            key: "k".into(),
            task_hint: "t".into(),
            kept,
            others: vec![Version::default()],
        };
        let rows = vec![MonitorRow { order: Some(1), ..MonitorRow::default() }];
        let moving = Progress {
            total: u64::MAX,
            per_second: 0.5,
            sources: movement().parts.into_iter().map(|part| part.source).collect(),
            coding: Some(Coding::Gzip),
            resumed: Some(Resumed { chunks_here: 60, chunks: 100 }),
            ..Progress::default()
        };
        let fetched = Response::Fetched {
            missing: vec![0],
            source: Source::Disk,
            movement: movement(),
            seconds: 1.0,
        };
        let pairs = vec![SyncPair { error: Some("late".into()), ..SyncPair::default() }];
        vec![
            Response::Moving(moving),
            fetched,
            Response::Status(Box::new(status)),
            Response::Links(Rows { rows: vec![link], left_out: 2 }),
            Response::Plan(plan),
            Response::Why(Rows::fitting(vec![decision])),
            Response::Conflicts(Rows::fitting(vec![conflict])),
            Response::Syncing(SyncProgress { bytes_total: u64::MAX, ..SyncProgress::default() }),
            Response::Synced(SyncReport { pairs, ..SyncReport::default() }),
            Response::Monitor(MonitorSnapshot { rows, ..MonitorSnapshot::default() }),
            Response::Verifying(VerifyProgress { found: 3, ..VerifyProgress::default() }),
            Response::Verified(VerifyReport {
                findings: vec![VerifyFinding { what: "blob".into(), ..VerifyFinding::default() }],
                ..VerifyReport::default()
            }),
        ]
    }

    #[test]
    fn regions_to_sync_must_be_names_of_regions() {
        let order = SyncOrder { to: Some("../us east".into()), ..order() };
        let mut bytes = Vec::new();
        Request::Sync(order).write(&mut bytes).unwrap();
        let error = Request::read(&mut bytes.as_slice()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_hundred_thousand_blobs_are_one_request_and_more_are_none() {
        let blob = Digest { size: u64::MAX, ..Digest::of(b"") };
        let mut request = Request::Fetch(vec![blob; MAX_FETCH]);
        let mut bytes = Vec::new();
        request.write(&mut bytes).unwrap();
        assert_eq!(Request::read(&mut bytes.as_slice()).unwrap().as_ref(), Some(&request));
        if let Request::Fetch(blobs) = &mut request {
            blobs.push(Digest::of(b""));
        }
        bytes.clear();
        request.write(&mut bytes).unwrap();
        let error = Request::read(&mut bytes.as_slice()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        // And when none of them can be had, the answer can say so.
        let missing: Vec<u32> = (0..MAX_FETCH as u32).collect();
        let answer =
            Response::Fetched { missing, source: Source::Disk, movement: movement(), seconds: 0.0 };
        bytes.clear();
        answer.write(&mut bytes).unwrap();
        assert_eq!(Response::read(&mut bytes.as_slice()).unwrap(), answer);
    }

    #[test]
    fn an_answer_that_is_too_large_is_told_as_a_failure() {
        let what = "x".repeat(MAX_RESPONSE);
        let plan = PlanReport { what, size: 0, build_s: None, steps: Vec::new() };
        let mut bytes = Vec::new();
        Response::Plan(plan).write(&mut bytes).unwrap();
        let answer = Response::read(&mut bytes.as_slice()).unwrap();
        assert!(matches!(&answer, Response::Failed(why) if why.contains("bytes")), "{answer:?}");
    }

    /// Bytes that decoders get to see: behind the length that they expect.
    fn framed(body: &[u8]) -> Vec<u8> {
        [&(body.len() as u32).to_le_bytes(), body].concat()
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(
            kind in 0..27_u8,
            body in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let body = [&[kind], &body[..]].concat();
            for bytes in [body.clone(), framed(&body)] {
                let _ = Request::read(&mut bytes.as_slice());
                let _ = Response::read(&mut bytes.as_slice());
            }
        }

        /// Nearly right is what gets deepest.
        #[test]
        fn damaged_messages_never_panic(
            which in any::<prop::sample::Index>(),
            place in any::<prop::sample::Index>(),
            with in any::<u8>(),
            keep in any::<prop::sample::Index>(),
        ) {
            let reports = reports();
            let mut bytes = Vec::new();
            which.get(&reports).write(&mut bytes).unwrap();
            let mut body = bytes.split_off(4);
            let place = place.index(body.len());
            body[place] = with;
            let _ = Response::read(&mut framed(&body).as_slice());
            body.truncate(keep.index(body.len()));
            let _ = Response::read(&mut framed(&body).as_slice());
        }
    }
}
