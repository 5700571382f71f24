//! What changes under the one lock of a disk store: the journal's end, the counts, and what waits to be
//! made durable. The lock is held for single writes, never while a blob is read or hashed.

use super::{
    index::Index,
    journal::{Location, Tail},
    tally::{Counted, Tally},
};
use netbuild_core::{digest::Hash, merge::Evidence};
use std::{fs::File, sync::Arc};

/// Blob files that may wait for a flush; at this many a put flushes by itself, so that neither the list nor
/// the time of a later flush grows without end.
const MAX_WAITING: usize = 1024;
/// Entries that are counted under one hold of the lock: a millisecond or two.
const COUNTED_AT_ONCE: usize = 1024;

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
    pub(super) tally: Tally,
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
        let tally = Tally::default();
        Self { tail, waiting: Waiting::default(), evidence, touched: None, tally }
    }

    /// Notes that the file of a blob comes or goes.
    pub(super) fn touch(&mut self, hash: &Hash) {
        if let Some(touched) = &mut self.touched {
            touched.push(*hash);
        }
    }

    /// Counts the next entries of the index; says whether all are counted.
    pub(super) fn count_on(&mut self, index: &Index) -> bool {
        match self.tally.counted() {
            Counted::Blobs(upto) => {
                self.tally.count_blobs(&index.blobs_after(upto.as_ref(), COUNTED_AT_ONCE));
            }
            Counted::Records(upto) => {
                self.tally.count_records(&index.records_after(upto.as_ref(), COUNTED_AT_ONCE));
            }
            Counted::Everything => return true,
        }
        false
    }
}
