//! Which of two records of one action stays, and which pairs are evidence of an action that does
//! not always give the same result.
//!
//! The order is total: trust in the writer, then the stamp, then the hash of the sealed bytes. So
//! agents that trust alike keep the same record, in whatever order and how often the records
//! arrive. Wall clocks play no part: a stamp orders two records and is compared with nothing else.

mod evidence;

pub use evidence::{Evidence, MAX_CONFLICTS, MAX_VARIANTS, Variant};

use crate::{
    digest::Hash,
    encode::Encoder,
    hlc::Hlc,
    peer::PeerId,
    record::{ActionResult, OutputKind, Record},
};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// Context of the hash that names a result.
const RESULT_CONTEXT: &str = "netbuild 2026-11 action result v1";

/// How far the records of a writer are trusted. Greater is more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Level {
    /// Its records are not taken.
    Refused,
    /// Its records replace those of other normal writers when they are newer.
    #[default]
    Normal,
    /// Its records cannot be replaced by those of a normal writer.
    Trusted,
}

impl Level {
    /// The word for this level in `mesh.toml`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Normal => "normal",
            Self::Trusted => "trusted",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is no level of trust.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no level of trust; there are `refused`, `normal` and `trusted`")]
pub struct ParseLevelError;

impl FromStr for Level {
    type Err = ParseLevelError;

    fn from_str(text: &str) -> Result<Self, ParseLevelError> {
        [Self::Refused, Self::Normal, Self::Trusted]
            .into_iter()
            .find(|level| level.as_str() == text)
            .ok_or(ParseLevelError)
    }
}

/// Whom this agent trusts how far, from its configuration.
///
/// The agent's own records have the level that is written for its own id, like anybody's. Were they
/// always above the others, each of two agents with a result of its own would keep that one, and no
/// exchange of records would ever make them equal.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trust {
    default: Level,
    levels: BTreeMap<PeerId, Level>,
}

impl Trust {
    /// The named writers have their level, all others `default`.
    pub fn new(default: Level, levels: BTreeMap<PeerId, Level>) -> Self {
        Self { default, levels }
    }

    /// The level of a writer.
    pub fn level(&self, writer: &PeerId) -> Level {
        self.levels.get(writer).copied().unwrap_or(self.default)
    }
}

/// What decides which record stays: the greatest does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Rank {
    /// Trust in the writer.
    pub level: Level,
    /// When the record was written.
    pub hlc: Hlc,
    /// BLAKE3 of the sealed bytes.
    pub hash: Hash,
}

/// What is to be known of a record to merge it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Version {
    /// Who signed the record.
    pub writer: PeerId,
    /// When it was written.
    pub hlc: Hlc,
    /// BLAKE3 of the sealed bytes.
    pub hash: Hash,
    /// Name of the result, see [`result_id`].
    pub result: Hash,
    /// The workspace that the result is good for, if it is good for one only.
    pub bound_to: Option<Hash>,
}

impl Version {
    /// The version that a record is; `hash` is BLAKE3 of its sealed bytes.
    pub fn of(record: &Record, hash: Hash) -> Self {
        Self {
            writer: record.writer,
            hlc: record.hlc,
            hash,
            result: result_id(&record.result),
            bound_to: record.execution.bound_to,
        }
    }

    /// Its place among all versions, for somebody who trusts so.
    pub fn rank(&self, trust: &Trust) -> Rank {
        Rank { level: trust.level(&self.writer), hlc: self.hlc, hash: self.hash }
    }

    /// Whether the two cannot both be what the action gives. Results that are good for different
    /// workspaces may differ.
    pub fn conflicts_with(&self, other: &Self) -> bool {
        self.result != other.result && self.bound_to == other.bound_to
    }
}

/// Names what an action gave: a hash of exit code and outputs. The log is left out, since times and
/// the order of lines differ between runs that gave the same.
pub fn result_id(result: &ActionResult) -> Hash {
    let mut encoder = Encoder::default();
    encoder.bytes(&result.exit_code.to_le_bytes());
    encoder.count(result.outputs.len());
    for output in &result.outputs {
        encoder.bytes(&output.path);
        match &output.kind {
            OutputKind::File { executable, .. } => encoder.byte(1 + u8::from(*executable)),
            OutputKind::Symlink { target } => {
                encoder.byte(3);
                encoder.bytes(target);
            }
            OutputKind::Tree { .. } => encoder.byte(4),
            OutputKind::Files { .. } => encoder.byte(5),
            OutputKind::Absent => encoder.byte(6),
        }
        if let Some(blob) = output.blob() {
            encoder.bytes(blob.hash.as_bytes());
            encoder.count(usize::try_from(blob.size).unwrap_or(usize::MAX));
        }
    }
    Hash(blake3::derive_key(RESULT_CONTEXT, encoder.as_bytes()))
}

/// What becomes of a record that arrives where there is one already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is not taken: its writer is refused.
    Refused,
    /// It is the one that is here.
    Same,
    /// The one that is here stays.
    Stays {
        /// Whether the results differ.
        conflict: bool,
    },
    /// The new one takes its place.
    Replaces {
        /// Whether the results differ.
        conflict: bool,
    },
}

/// Decides between the record that is kept and one that arrives.
///
/// A refused writer is no witness: what it wrote before it was refused gives way to anybody's
/// record, and is no evidence against it.
pub fn merge(kept: &Version, new: &Version, trust: &Trust) -> Outcome {
    let (old, rank) = (kept.rank(trust), new.rank(trust));
    if rank.level == Level::Refused {
        return Outcome::Refused;
    }
    if kept.hash == new.hash {
        return Outcome::Same;
    }
    let conflict = old.level != Level::Refused && new.conflicts_with(kept);
    if rank > old { Outcome::Replaces { conflict } } else { Outcome::Stays { conflict } }
}

#[cfg(test)]
mod tests;
