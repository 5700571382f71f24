//! Looking through a store on somebody's order. The names are those of what `--json` prints.

use bincode::{Decode, Encode};
use serde::Serialize;

/// Most findings of one report; more are counted only. Nobody reads more, and they fit the answer.
pub const MAX_FINDINGS: usize = 1000;

/// What `netbuild verify` asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct VerifyOrder {
    /// Read all bytes and check all signatures; else names, sizes and places only.
    pub deep: bool,
    /// Mend what is found, and get from others what was lost.
    pub repair: bool,
}

/// How far a verification is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode, Serialize)]
pub struct VerifyProgress {
    /// What it does now, such as `blobs` or `healing`.
    pub phase: String,
    /// Blobs that were looked at.
    pub blobs_done: u64,
    /// Blobs in all.
    pub blobs_total: u64,
    /// Records that were looked at.
    pub records_done: u64,
    /// Records in all.
    pub records_total: u64,
    /// Bytes that were read.
    pub bytes_done: u64,
    /// Bytes to be read in all; 0 when few are read.
    pub bytes_total: u64,
    /// Things found so far that are not as they should be.
    pub found: u64,
}

/// What a verification found.
#[derive(Clone, PartialEq, Debug, Default, Encode, Decode, Serialize)]
pub struct VerifyReport {
    /// Whether all bytes were read.
    pub deep: bool,
    /// Whether what was found was mended.
    pub repair: bool,
    /// Blobs that were looked at.
    pub blobs: u64,
    /// Records that were looked at.
    pub records: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// Blobs and records whose bytes are others.
    pub damaged: u64,
    /// Blobs that the index has and the disk does not.
    pub missing: u64,
    /// Blobs and records that the index does not have, or not rightly.
    pub orphaned: u64,
    /// Files that are not netbuild's, where only its own should be.
    pub stray: u64,
    /// Of what was lost, how much others had and is here again.
    pub healed: u64,
    /// Of what was lost, how much is not here again.
    pub lost: u64,
    /// How much damage remains: what was not mended, and what was lost.
    pub remaining: u64,
    /// The findings themselves, the first [`MAX_FINDINGS`].
    pub findings: Vec<VerifyFinding>,
}

/// Something that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode, Serialize)]
pub struct VerifyFinding {
    /// What it is about: `blob` with its digest, `record` with its key, `file` with its path, or `index`.
    pub what: String,
    /// `damaged`, `missing`, `orphaned`, `misplaced` or `stray`.
    pub fault: String,
    /// More about it.
    pub detail: String,
    /// `left` as it is, `mended`, `healed` from others, or `lost`.
    pub outcome: String,
}
