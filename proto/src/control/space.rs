//! The space of a data directory. The names are those of what `--json` prints.

use super::Rows;
use bincode::{Decode, Encode};
use serde::Serialize;

/// What `netbuild gc` asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct GcOrder {
    /// Only say what would go.
    pub dry_run: bool,
    /// Bytes that may stay, in place of what the configuration says.
    pub max_bytes: Option<u64>,
}

/// What takes the space, in bytes on disk unless it says otherwise.
#[derive(Clone, PartialEq, Debug, Default, Encode, Decode, Serialize)]
pub struct SpaceReport {
    /// All of it.
    pub total: u64,
    /// What it may be at most.
    pub max_bytes: u64,
    /// What stays free on the file system for others.
    pub min_free: u64,
    /// What is free there.
    pub free: u64,
    /// Number of blobs.
    pub blobs: u64,
    /// Blobs with files of their own.
    pub blob_files: u64,
    /// Blobs in the journal.
    pub small_blobs: u64,
    /// Number of records.
    pub records: u64,
    /// Records, in the journal.
    pub record_bytes: u64,
    /// What lost against records, and notes of removal.
    pub notes: u64,
    /// What was removed or replaced in the journal, and is given back with its segments.
    pub dead: u64,
    /// The index.
    pub index: u64,
    /// Blobs that are arriving.
    pub arriving: u64,
    /// What was found damaged and put aside.
    pub quarantine: u64,
    /// Number of pins.
    pub pins: u64,
    /// Results by the region that built them.
    pub regions: Vec<SpaceShare>,
    /// Results by the first path of their outputs, those that take most.
    pub paths: Vec<SpaceShare>,
    /// Results by the time since they were last used.
    pub ages: Vec<SpaceShare>,
}

/// Results that have something in common.
#[derive(Clone, PartialEq, Debug, Default, Encode, Decode, Serialize)]
pub struct SpaceShare {
    /// What.
    pub name: String,
    /// Number of results.
    pub results: u64,
    /// Bytes; of what several have, an equal part for each.
    pub bytes: u64,
}

/// What was given up.
#[derive(Clone, PartialEq, Debug, Default, Encode, Decode, Serialize)]
pub struct GcReport {
    /// Whether nothing went, and this is what would.
    pub dry_run: bool,
    /// Bytes that were taken before.
    pub before: u64,
    /// Bytes that are taken now; of a dry run, that would be.
    pub after: u64,
    /// What may stay at most.
    pub max_bytes: u64,
    /// Number of results that are not here whole any more.
    pub results: u64,
    /// Of these, those that are known still, as others have them.
    pub hints: u64,
    /// Number of blobs that went.
    pub blobs: u64,
    /// By reason.
    pub reasons: Vec<SpaceShare>,
    /// One by one, in the order in which they went; of very many, the first.
    pub removed: Rows<GcRow>,
    /// Seconds that it took.
    pub seconds: f64,
}

/// One thing that was given up.
#[derive(Clone, PartialEq, Debug, Default, Encode, Decode, Serialize)]
pub struct GcRow {
    /// `blob` with a digest, or `action` with a key.
    pub what: String,
    /// The first path of the outputs; empty for a blob that no record names.
    pub path: String,
    /// Why.
    pub why: String,
    /// Bytes.
    pub bytes: u64,
    /// Seconds since it was last used.
    pub idle_s: u64,
    /// Seconds that it takes to build it.
    pub rebuild_s: f64,
    /// Seconds that it is expected to take to have it from elsewhere.
    pub refetch_s: Option<f64>,
}

/// Something that is pinned.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode, Serialize)]
pub struct PinRow {
    /// `blob` with a digest, or `action` with a key.
    pub what: String,
    /// What it was called when it was pinned, such as the name of a task.
    pub label: String,
}
