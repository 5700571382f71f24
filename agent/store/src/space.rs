//! What takes space in a store, and what was given up to have some.

use netbuild_core::{
    evict::{Pin, Why},
    key::ActionKey,
};
use std::{
    collections::BTreeMap,
    fmt::{self, Debug},
    ops::ControlFlow,
    time::Duration,
};

/// Things given up that a report names one by one; of more, it has the sums.
pub(crate) const MAX_NAMED_GONE: usize = 1000;

/// Something that is pinned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pinned {
    /// What.
    pub pin: Pin,
    /// What the person who did it called it.
    pub label: String,
}

/// What takes space, in bytes on disk unless it says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
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
    /// What lost against records and notes of removal, in the journal.
    pub notes: u64,
    /// The rest of the journal: what was removed or replaced.
    pub dead: u64,
    /// The index.
    pub index: u64,
    /// Blobs that are arriving.
    pub arriving: u64,
    /// What was found damaged and put aside.
    pub quarantine: u64,
    /// What is free on the file system for who runs this.
    pub free: u64,
    /// What the file system holds in all.
    pub capacity: u64,
}

impl Usage {
    /// All that is taken.
    pub fn total(&self) -> u64 {
        self.blob_files + self.journal() + self.index + self.arriving + self.quarantine
    }

    /// The journal.
    pub fn journal(&self) -> u64 {
        self.small_blobs + self.record_bytes + self.notes + self.dead
    }
}

/// Hears what is done and how far it is, in parts of all from 0 to 1, and may break it off.
pub type Tell<'a> = &'a (dyn Fn(&str, f64) -> ControlFlow<()> + Sync);

/// Results that have something in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Share {
    /// Number of results.
    pub count: u64,
    /// Bytes; of what several have, an equal part for each.
    pub bytes: u64,
}

/// Who takes the space.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Survey {
    /// By the region of who built it. What no record names has none, and is under the empty name.
    pub regions: BTreeMap<String, Share>,
    /// By the first path of the outputs: those that take most, the largest first, at most 20.
    pub paths: Vec<(Vec<u8>, Share)>,
    /// By the time since the last use: less than a day, a week, 30 days, 90 days, and more.
    pub ages: [Share; 5],
}

/// How things are given up.
pub struct Evicting<'a> {
    /// How long it is expected to take to have the result of an action from elsewhere, as blobs of
    /// these sizes in bytes; `None` when nobody else has it.
    pub refetch: &'a dyn Fn(&ActionKey, &[u64]) -> Option<Duration>,
    /// Whether to look for what is too old although there is room, which takes as long as to look
    /// for what to give up.
    pub expire: bool,
    /// Only say what would be given up.
    pub dry_run: bool,
    /// Hears how far it is.
    pub tell: Tell<'a>,
}

impl Debug for Evicting<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Evicting").field("dry_run", &self.dry_run).finish_non_exhaustive()
    }
}

/// One thing that was given up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Removed {
    /// A record, or a blob that no record names.
    pub what: Pin,
    /// The first path of its outputs, as it stands in the record.
    pub path: Vec<u8>,
    /// Why.
    pub why: Why,
    /// Bytes that came free.
    pub bytes: u64,
    /// Since it was last used.
    pub idle: Duration,
    /// How long it takes to build it again.
    pub rebuild: Duration,
    /// How long it is expected to take to have it from elsewhere.
    pub refetch: Option<Duration>,
}

/// What was given up.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Evicted {
    /// Records that are not here whole any more, whether or not they stay known.
    pub actions: Vec<ActionKey>,
    /// Of these, those that are not known here any more either.
    pub forgotten: Vec<ActionKey>,
    /// Number of the others, which stay known as somebody else has what they name.
    pub hints: u64,
    /// Number of blobs.
    pub blobs: u64,
    /// Bytes that came free, once the journal is written anew.
    pub bytes: u64,
    /// Number and bytes for each reason.
    pub reasons: BTreeMap<Why, (u64, u64)>,
    /// The first thousand, in the order in which they went.
    pub named: Vec<Removed>,
    /// Whether it was broken off.
    pub broken_off: bool,
}
