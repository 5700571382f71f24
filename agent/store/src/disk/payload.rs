//! What the payloads of journal frames hold: the name first, so that the index can be made again
//! without hashing blobs or checking signatures.

use super::entry::{decode_level, encode_level};
use netbuild_core::{digest::Hash, hlc::Hlc, key::ActionKey, merge::Level};
use netbuild_proto::record::{MAX_RECORD, SealedRecord};

use super::frame::MAX_PAYLOAD;

/// Largest blob in bytes that lies in the journal: a file of its own would take more room, and more
/// time to make durable, than its content.
pub(super) const INLINE_MAX: usize = 16 * 1024;
/// Key, time and whether the record may be shared, before the sealed record.
const RECORD_HEAD: usize = 32 + 8 + 1;

/// Trust in the writer, and the result that won, before a sealed record that lost.
const EVIDENCE_HEAD: usize = 1 + 32;

const _: () = assert!(RECORD_HEAD + MAX_RECORD <= MAX_PAYLOAD);
const _: () = assert!(EVIDENCE_HEAD + MAX_RECORD <= MAX_PAYLOAD);
const _: () = assert!(32 + INLINE_MAX <= MAX_PAYLOAD);

/// The head of a record's payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RecordHead {
    pub(super) key: ActionKey,
    pub(super) hlc: Hlc,
    pub(super) shared: bool,
}

impl RecordHead {
    pub(super) fn of(sealed: &SealedRecord) -> Self {
        let record = sealed.record();
        Self { key: record.key, hlc: record.hlc, shared: record.execution.is_shared() }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.key.0.to_vec();
        bytes.extend_from_slice(&self.hlc.0.to_le_bytes());
        bytes.push(u8::from(self.shared));
        bytes
    }

    /// The head and the sealed record behind it.
    pub(super) fn split(payload: &[u8]) -> Option<(Self, &[u8])> {
        let (key, rest) = payload.split_first_chunk()?;
        let (hlc, rest) = rest.split_first_chunk()?;
        let (shared, sealed) = rest.split_first()?;
        let head =
            Self { key: ActionKey(*key), hlc: Hlc(u64::from_le_bytes(*hlc)), shared: *shared != 0 };
        Some((head, sealed))
    }
}

/// The head of the payload of a record that lost. It says how that was decided, as the configuration
/// may be another when the index is made again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct EvidenceHead {
    /// Trust in its writer at that time.
    pub(super) level: Level,
    /// Name of the result that won.
    pub(super) kept: Hash,
}

impl EvidenceHead {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![encode_level(self.level)];
        bytes.extend_from_slice(self.kept.as_bytes());
        bytes
    }

    /// The head and the sealed record behind it.
    pub(super) fn split(payload: &[u8]) -> Option<(Self, &[u8])> {
        let (level, rest) = payload.split_first()?;
        let (kept, sealed) = rest.split_first_chunk()?;
        Some((Self { level: decode_level(*level)?, kept: Hash(*kept) }, sealed))
    }
}

/// What a note of removal is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Gone {
    /// A blob in the journal.
    Blob(Hash),
    /// A record, and the evidence next to it.
    Record(ActionKey),
}

impl Gone {
    pub(super) fn encode(&self) -> Vec<u8> {
        let (what, name) = match self {
            Self::Blob(hash) => (b'b', &hash.0),
            Self::Record(key) => (b'r', &key.0),
        };
        [&[what], &name[..]].concat()
    }

    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let (what, name) = payload.split_first()?;
        let name = name.try_into().ok()?;
        match what {
            b'b' => Some(Self::Blob(Hash(name))),
            b'r' => Some(Self::Record(ActionKey(name))),
            _ => None,
        }
    }
}

/// The hash and the bytes of a small blob.
pub(super) fn split_blob(payload: &[u8]) -> Option<(Hash, &[u8])> {
    let (hash, bytes) = payload.split_first_chunk()?;
    Some((Hash(*hash), bytes))
}
