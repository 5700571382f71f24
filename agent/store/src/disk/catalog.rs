//! What changes under the one lock of a disk store: the journal's end, the counts, and what waits to be
//! made durable. The lock is held for single writes, never while a blob is read or hashed.

use super::{
    entry::BlobEntry,
    index::{Index, Totals},
    journal::{Location, Tail},
};
use netbuild_core::{digest::Hash, merge::Evidence};
use std::{fs::File, sync::Arc};

/// Blob files that may wait for a flush; at this many a put flushes by itself, so that neither the list nor
/// the time of a later flush grows without end.
const MAX_WAITING: usize = 1024;

/// The state behind the lock.
#[derive(Debug)]
pub(super) struct Catalog {
    pub(super) tail: Tail,
    pub(super) waiting: Waiting,
    /// Records that lost; the index has the same.
    pub(super) evidence: Evidence<Location>,
    /// While the index is made again: the blobs whose files came or went meanwhile.
    pub(super) touched: Option<Vec<Hash>>,
    /// Counted when first asked for.
    totals: Option<Totals>,
}

/// What was put but is not durable yet.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Blobs with files.
    pub(super) blobs: Vec<Hash>,
    /// Journal segments that are no longer written to.
    pub(super) ended: Vec<Arc<File>>,
    /// Whether the segment being written to has new frames.
    pub(super) journal: bool,
}

impl Waiting {
    pub(super) fn is_full(&self) -> bool {
        self.blobs.len() >= MAX_WAITING
    }

    /// Takes back what could not be made durable.
    pub(super) fn restore(&mut self, mut failed: Self) {
        self.blobs.append(&mut failed.blobs);
        self.ended.append(&mut failed.ended);
        self.journal |= failed.journal;
    }
}

impl Catalog {
    pub(super) fn new(tail: Tail, evidence: Evidence<Location>) -> Self {
        Self { tail, waiting: Waiting::default(), evidence, touched: None, totals: None }
    }

    pub(super) fn totals(&mut self, index: &Index) -> Totals {
        *self.totals.get_or_insert_with(|| index.count())
    }

    /// Forgets the counts, as the index is another.
    pub(super) fn recount(&mut self) {
        self.totals = None;
    }

    /// Notes that the file of a blob comes or goes.
    pub(super) fn touch(&mut self, hash: &Hash) {
        if let Some(touched) = &mut self.touched {
            touched.push(*hash);
        }
    }

    /// Keeps the counts true when a blob's entry changes.
    pub(super) fn blob_changed(&mut self, old: Option<BlobEntry>, new: Option<BlobEntry>) {
        if let Some(totals) = &mut self.totals {
            let size = |entry: Option<BlobEntry>| entry.map_or(0, |entry| entry.size);
            let count = |entry: Option<BlobEntry>| u64::from(entry.is_some());
            totals.blobs = (totals.blobs + count(new)).saturating_sub(count(old));
            totals.blob_bytes = (totals.blob_bytes + size(new)).saturating_sub(size(old));
        }
    }

    /// Keeps the counts true when a record comes or goes.
    pub(super) fn record_changed(&mut self, was: bool, is: bool) {
        if let Some(totals) = &mut self.totals {
            totals.records = (totals.records + u64::from(is)).saturating_sub(u64::from(was));
        }
    }
}
