//! What two admitted agents ask of each other besides membership: set reconciliation, and orders to
//! fetch what another region has.

pub use crate::membership::MAX_EXCHANGE;

use crate::{
    codec::{self, DecodeError},
    record::{SealedRecord, check_region},
};
use bincode::{Decode, Encode};
use netbuild_core::{
    digest::Hash,
    key::ActionKey,
    reconcile::{self, MAX_MESSAGE},
};

/// Version of the format, the first byte of every message.
const VERSION: u8 = 1;
/// Most pairs of regions in one status: 256 of at most 180 bytes, well within [`MAX_EXCHANGE`].
pub const MAX_PAIRS: usize = 256;
/// Most bytes of a text that says why something failed. What is longer is cut.
pub const MAX_REASON: usize = 500;

/// Most records that lost and are named in one answer: as many as are kept as evidence.
pub const MAX_EVIDENCE: usize = 4000;
/// Most records that lost and are asked for at once.
pub const MAX_LOST: usize = 256;

const _: () = assert!(MAX_EVIDENCE * 48 <= MAX_EXCHANGE);
const _: () = assert!(MAX_MESSAGE + 16 <= MAX_EXCHANGE);

/// What one agent asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// A step of finding in which records the two differ.
    Reconcile(reconcile::Message),
    /// Fetch what is missing in the region of the agent asked.
    Sync(SyncOrder),
    /// How far an order is that was given before.
    SyncStatus {
        /// What [`Response::Sync`] named.
        id: u64,
    },
    /// Which records lost against others with different results, unless these are the same as those
    /// of the asker.
    Evidence {
        /// [`summary`] of what the asker has.
        summary: u64,
    },
    /// Records that lost, at most [`MAX_LOST`] of them.
    Lost(Vec<Lost>),
}

/// Names a record that lost against another one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Lost {
    /// The action.
    pub key: ActionKey,
    /// The first 8 bytes of BLAKE3 of the sealed record, little-endian.
    pub sum: u64,
}

/// One number for a set of records that lost, the same for the same set; 0 for none.
pub fn summary<'a>(lost: impl IntoIterator<Item = &'a Lost>) -> u64 {
    let mix = |lost: &Lost| {
        let bytes = [&lost.key.0[..], &lost.sum.to_le_bytes()].concat();
        crate::record::sum_of(&Hash::of(&bytes))
    };
    lost.into_iter().fold(0, |sum: u64, lost| sum.wrapping_add(mix(lost)))
}

/// What the other answers.
#[derive(Clone, PartialEq, Debug)]
pub enum Response {
    /// The answer to a step.
    Reconcile(reconcile::Message),
    /// The order is being carried out.
    Sync {
        /// Name of the order, for [`Request::SyncStatus`].
        id: u64,
    },
    /// How far it is.
    SyncStatus(SyncStatus),
    /// The records that lost, at most [`MAX_EVIDENCE`]; none when the asker knows them all.
    Evidence(Vec<Lost>),
    /// The records that were asked for, as far as they are there and have room.
    Lost(Vec<SealedRecord>),
    /// The question cannot be answered; why, in a few words for people.
    Refused(String),
}

/// An order to fetch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SyncOrder {
    /// The region to fetch from; from any if it is not said.
    pub from: Option<String>,
    /// Only say what would be fetched.
    pub dry_run: bool,
    /// Also read what is there already, and fetch again what is damaged.
    pub force: bool,
}

/// How far an order is.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct SyncStatus {
    /// Whether it is over.
    pub done: bool,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// What went between which regions.
    pub pairs: Vec<Pair>,
    /// Artifacts to be fetched.
    pub artifacts_total: u64,
    /// Their bytes.
    pub bytes_total: u64,
    /// Artifacts that are here by now.
    pub artifacts_done: u64,
    /// Their bytes.
    pub bytes_done: u64,
    /// Records found that differ from the one kept here.
    pub conflicts: u64,
}

/// What went from one region to another.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Pair {
    /// The region that had it.
    pub from: String,
    /// The region that got it.
    pub to: String,
    /// Artifacts that went.
    pub artifacts: u64,
    /// Their bytes.
    pub bytes_logical: u64,
    /// Bytes that crossed the link for them.
    pub bytes_on_wire: u64,
    /// How long it took, in seconds; finite and not negative.
    pub seconds: f64,
}

#[derive(Encode, Decode)]
enum RequestV1 {
    Reconcile(Vec<u8>),
    Sync { from: Option<String>, dry_run: bool, force: bool },
    SyncStatus { id: u64 },
    Evidence { summary: u64 },
    Lost(Vec<LostV1>),
}

#[derive(Encode, Decode)]
struct LostV1 {
    key: [u8; 32],
    sum: u64,
}

#[derive(Encode, Decode)]
enum ResponseV1 {
    Reconcile(Vec<u8>),
    Sync { id: u64 },
    SyncStatus(SyncStatusV1),
    Refused(String),
    Evidence(Vec<LostV1>),
    Lost(Vec<Vec<u8>>),
}

fn lost_to_wire(lost: &[Lost], most: usize) -> Vec<LostV1> {
    lost.iter().take(most).map(|lost| LostV1 { key: lost.key.0, sum: lost.sum }).collect()
}

fn lost_from_wire(wire: Vec<LostV1>, most: usize) -> Result<Vec<Lost>, DecodeError> {
    if wire.len() > most {
        return Err(DecodeError::Invalid(format!("{} records that lost", wire.len())));
    }
    Ok(wire.into_iter().map(|lost| Lost { key: ActionKey(lost.key), sum: lost.sum }).collect())
}

/// The sealed bytes of the first records that fit into one answer.
fn fitting(records: &[SealedRecord]) -> Vec<Vec<u8>> {
    let mut room = MAX_EXCHANGE - 1024;
    let fits = |record: &&SealedRecord| match room.checked_sub(record.as_bytes().len() + 8) {
        Some(left) => {
            room = left;
            true
        }
        None => false,
    };
    let records = records.iter().take(MAX_LOST).take_while(fits);
    records.map(|record| record.as_bytes().to_vec()).collect()
}

#[derive(Encode, Decode)]
struct SyncStatusV1 {
    done: bool,
    error: Option<String>,
    pairs: Vec<PairV1>,
    artifacts_total: u64,
    bytes_total: u64,
    artifacts_done: u64,
    bytes_done: u64,
    conflicts: u64,
}

#[derive(Encode, Decode)]
struct PairV1 {
    from: String,
    to: String,
    artifacts: u64,
    bytes_logical: u64,
    bytes_on_wire: u64,
    seconds: f64,
}

impl Request {
    /// The bytes to be sent, at most [`MAX_EXCHANGE`].
    pub fn encode(&self) -> Vec<u8> {
        seal(&match self {
            Self::Reconcile(message) => RequestV1::Reconcile(message.as_bytes().to_vec()),
            Self::Sync(SyncOrder { from, dry_run, force }) => {
                RequestV1::Sync { from: from.clone(), dry_run: *dry_run, force: *force }
            }
            Self::SyncStatus { id } => RequestV1::SyncStatus { id: *id },
            Self::Evidence { summary } => RequestV1::Evidence { summary: *summary },
            Self::Lost(lost) => RequestV1::Lost(lost_to_wire(lost, MAX_LOST)),
        })
    }

    /// Reads and checks a request.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(match open(bytes)? {
            RequestV1::Reconcile(bytes) => Self::Reconcile(reconciliation(bytes)?),
            RequestV1::Sync { from, dry_run, force } => {
                from.as_deref().map_or(Ok(()), check_region)?;
                Self::Sync(SyncOrder { from, dry_run, force })
            }
            RequestV1::SyncStatus { id } => Self::SyncStatus { id },
            RequestV1::Evidence { summary } => Self::Evidence { summary },
            RequestV1::Lost(lost) => Self::Lost(lost_from_wire(lost, MAX_LOST)?),
        })
    }
}

impl Response {
    /// The bytes to be sent, at most [`MAX_EXCHANGE`]: pairs beyond [`MAX_PAIRS`] are left out, and
    /// long texts cut.
    pub fn encode(&self) -> Vec<u8> {
        seal(&match self {
            Self::Reconcile(message) => ResponseV1::Reconcile(message.as_bytes().to_vec()),
            Self::Sync { id } => ResponseV1::Sync { id: *id },
            Self::SyncStatus(status) => ResponseV1::SyncStatus(status_to_wire(status)),
            Self::Evidence(lost) => ResponseV1::Evidence(lost_to_wire(lost, MAX_EVIDENCE)),
            Self::Lost(records) => ResponseV1::Lost(fitting(records)),
            Self::Refused(reason) => ResponseV1::Refused(printable(reason)),
        })
    }

    /// Reads and checks a response.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(match open(bytes)? {
            ResponseV1::Reconcile(bytes) => Self::Reconcile(reconciliation(bytes)?),
            ResponseV1::Sync { id } => Self::Sync { id },
            ResponseV1::SyncStatus(status) => Self::SyncStatus(status_from_wire(status)?),
            ResponseV1::Evidence(lost) => Self::Evidence(lost_from_wire(lost, MAX_EVIDENCE)?),
            ResponseV1::Lost(records) if records.len() > MAX_LOST => {
                return Err(DecodeError::Invalid(format!("{} records that lost", records.len())));
            }
            ResponseV1::Lost(records) => {
                let open = |bytes: &Vec<u8>| SealedRecord::open(bytes);
                Self::Lost(records.iter().map(open).collect::<Result<_, _>>()?)
            }
            ResponseV1::Refused(reason) => Self::Refused(printable(&reason)),
        })
    }
}

fn seal<T: Encode>(message: &T) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend(codec::encode(message));
    bytes
}

fn open<T: Decode<()>>(bytes: &[u8]) -> Result<T, DecodeError> {
    match bytes.split_first() {
        Some((&VERSION, message)) => codec::decode::<T, MAX_EXCHANGE>(message),
        Some((&version, _)) => {
            Err(DecodeError::unknown_version("question or answer", version, VERSION))
        }
        None => Err(DecodeError::Malformed("empty".into())),
    }
}

fn reconciliation(bytes: Vec<u8>) -> Result<reconcile::Message, DecodeError> {
    reconcile::Message::from_bytes(bytes).map_err(|error| DecodeError::Invalid(error.to_string()))
}

/// A text of somebody else, without what would move a cursor, and not longer than [`MAX_REASON`].
fn printable(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_REASON);
    text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn status_to_wire(status: &SyncStatus) -> SyncStatusV1 {
    let pair = |pair: &Pair| PairV1 {
        from: pair.from.clone(),
        to: pair.to.clone(),
        artifacts: pair.artifacts,
        bytes_logical: pair.bytes_logical,
        bytes_on_wire: pair.bytes_on_wire,
        seconds: pair.seconds,
    };
    SyncStatusV1 {
        done: status.done,
        error: status.error.as_deref().map(printable),
        pairs: status.pairs.iter().take(MAX_PAIRS).map(pair).collect(),
        artifacts_total: status.artifacts_total,
        bytes_total: status.bytes_total,
        artifacts_done: status.artifacts_done,
        bytes_done: status.bytes_done,
        conflicts: status.conflicts,
    }
}

fn status_from_wire(wire: SyncStatusV1) -> Result<SyncStatus, DecodeError> {
    if wire.pairs.len() > MAX_PAIRS {
        return Err(DecodeError::Invalid(format!("{} pairs of regions", wire.pairs.len())));
    }
    Ok(SyncStatus {
        done: wire.done,
        error: wire.error.as_deref().map(printable),
        pairs: wire.pairs.into_iter().map(pair_from_wire).collect::<Result<_, _>>()?,
        artifacts_total: wire.artifacts_total,
        bytes_total: wire.bytes_total,
        artifacts_done: wire.artifacts_done,
        bytes_done: wire.bytes_done,
        conflicts: wire.conflicts,
    })
}

fn pair_from_wire(wire: PairV1) -> Result<Pair, DecodeError> {
    check_region(&wire.from)?;
    check_region(&wire.to)?;
    if !wire.seconds.is_finite() || wire.seconds < 0.0 {
        return Err(DecodeError::Invalid(format!("{} seconds", wire.seconds)));
    }
    Ok(Pair {
        from: wire.from,
        to: wire.to,
        artifacts: wire.artifacts,
        bytes_logical: wire.bytes_logical,
        bytes_on_wire: wire.bytes_on_wire,
        seconds: wire.seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair(from: &str, seconds: f64) -> Pair {
        let to = "x".repeat(64);
        let [artifacts, bytes_logical, bytes_on_wire] = [u64::MAX; 3];
        Pair { from: from.into(), to, artifacts, bytes_logical, bytes_on_wire, seconds }
    }

    fn status(pairs: Vec<Pair>) -> Response {
        let error = Some("e".repeat(MAX_REASON));
        Response::SyncStatus(SyncStatus { done: true, error, pairs, ..SyncStatus::default() })
    }

    #[test]
    fn messages_read_back_and_are_bounded() {
        let longest = || reconcile::Message::from_bytes(vec![1; MAX_MESSAGE]).unwrap();
        let order = SyncOrder { from: Some("us-east".into()), dry_run: true, force: false };
        for message in [
            Request::Reconcile(longest()),
            Request::Sync(order),
            Request::Sync(SyncOrder::default()),
            Request::SyncStatus { id: u64::MAX },
            Request::Evidence { summary: u64::MAX },
            Request::Lost(vec![lost(u64::MAX); MAX_LOST]),
        ] {
            let bytes = message.encode();
            assert!(bytes.len() <= MAX_EXCHANGE);
            assert_eq!(Request::decode(&bytes).unwrap(), message);
        }
        for message in [
            Response::Reconcile(longest()),
            Response::Sync { id: 7 },
            status(vec![pair(&"y".repeat(64), 1.5); MAX_PAIRS]),
            Response::Refused("busy".into()),
            Response::Evidence(vec![lost(u64::MAX); MAX_EVIDENCE]),
            Response::Lost(vec![sealed(); 3]),
        ] {
            let bytes = message.encode();
            assert!(bytes.len() <= MAX_EXCHANGE);
            assert_eq!(Response::decode(&bytes).unwrap(), message);
        }
    }

    fn lost(sum: u64) -> Lost {
        Lost { key: ActionKey([0xff; 32]), sum }
    }

    fn sealed() -> SealedRecord {
        let identity = netbuild_core::peer::Identity::from_seed(&[1; 32]);
        SealedRecord::seal(crate::record::tests::record(&identity), &identity).unwrap()
    }

    #[test]
    fn a_summary_tells_sets_apart_and_not_their_order() {
        assert_eq!(summary(&[]), 0);
        assert_eq!(summary(&[lost(1), lost(2)]), summary(&[lost(2), lost(1)]));
        assert_ne!(summary(&[lost(1)]), summary(&[lost(2)]));
    }

    #[test]
    fn more_records_than_fit_are_left_out() {
        let many = Response::Lost(vec![sealed(); MAX_LOST + 1]).encode();
        assert!(many.len() <= MAX_EXCHANGE);
        let Ok(Response::Lost(records)) = Response::decode(&many) else { panic!("no records") };
        assert!((1..=MAX_LOST).contains(&records.len()));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let order = SyncOrder { from: Some("a b".into()), ..SyncOrder::default() };
        assert!(Request::decode(&Request::Sync(order).encode()).is_err());
        for bad in
            [pair("a\n", 1.0), pair("a", f64::NAN), pair("a", -1.0), pair("a", f64::INFINITY)]
        {
            assert!(Response::decode(&status(vec![bad]).encode()).is_err());
        }
        let long = codec::encode(&RequestV1::Reconcile(vec![1; MAX_MESSAGE + 1]));
        assert!(Request::decode(&[&[VERSION], &long[..]].concat()).is_err());
    }

    #[test]
    fn a_newer_version_is_told_from_garbage() {
        let newer = Request::decode(&[VERSION + 1, 0xff]);
        assert!(matches!(newer, Err(DecodeError::Newer { version: 2, .. })));
        assert!(matches!(Request::decode(&[0, 0xff]), Err(DecodeError::Invalid(_))));
        assert!(matches!(Response::decode(&[]), Err(DecodeError::Malformed(_))));
    }

    #[test]
    fn a_reason_is_short_and_moves_no_cursor() {
        let reason = Response::Refused(format!("\u{1b}[31m{}", "ä".repeat(MAX_REASON)));
        let Response::Refused(read) = Response::decode(&reason.encode()).unwrap() else {
            panic!("another message")
        };
        assert!(read.len() <= MAX_REASON && read.starts_with(" [31mä"));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(prop_oneof![0..5u8, any::<u8>()], 0..300)) {
            let _ = (Request::decode(&bytes), Response::decode(&bytes));
            let versioned = [&[VERSION], &bytes[..]].concat();
            let _ = (Request::decode(&versioned), Response::decode(&versioned));
        }
    }
}
