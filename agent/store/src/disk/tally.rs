//! How much there is of everything, and how much of each segment is still of use.
//!
//! Counting a large index takes seconds, in which puts must go on. So it is counted in pages, and a
//! change counts only when it lies where counting has been: what lies ahead is counted as it is then.

use super::{
    entry::{BlobEntry, Place, RecordEntry},
    frame::HEADER,
    journal::Location,
};
use netbuild_core::{digest::Hash, key::ActionKey};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::AddAssign,
};

/// Sums over the whole store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Totals {
    pub(super) blobs: u64,
    pub(super) blob_bytes: u64,
    /// Of `blob_bytes`, those that lie in files of their own.
    pub(super) file_bytes: u64,
    pub(super) records: u64,
    /// Bytes of the frames of records in the journal.
    pub(super) record_bytes: u64,
}

/// How far the index has been counted: what comes up to here is in the sums.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Counted {
    /// Blobs up to this name; `None` before the first.
    Blobs(Option<Hash>),
    /// All blobs, and records up to this key.
    Records(Option<ActionKey>),
    Everything,
}

/// What was counted so far.
#[derive(Debug)]
pub(super) struct Tally {
    totals: Totals,
    /// Bytes of frames that the index points to, by segment.
    live: BTreeMap<u32, u64>,
    /// Bytes of notes of removal, by segment, as far as this process wrote them.
    gone: BTreeMap<u32, u64>,
    counted: Counted,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            totals: Totals::default(),
            live: BTreeMap::new(),
            gone: BTreeMap::new(),
            counted: Counted::Blobs(None),
        }
    }
}

/// A damaged index may have lost what was counted before.
fn subtract(sum: &mut u64, part: u64) {
    *sum = sum.saturating_sub(part);
}

/// Bytes of the frame at a place.
pub(super) fn frame_len(location: &Location) -> u64 {
    HEADER as u64 + u64::from(location.len)
}

impl Tally {
    /// Starts again, as the index is another.
    pub(super) fn recount(&mut self) {
        *self = Self { gone: std::mem::take(&mut self.gone), ..Self::default() };
    }

    pub(super) fn counted(&self) -> Counted {
        self.counted
    }

    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    /// Takes blobs that follow those that were counted, up to the end when there are none.
    pub(super) fn count_blobs(&mut self, page: &[(Hash, BlobEntry)]) {
        page.iter().for_each(|(_, entry)| self.add_blob(entry));
        self.counted =
            page.last().map_or(Counted::Records(None), |(hash, _)| Counted::Blobs(Some(*hash)));
    }

    /// Takes records that follow those that were counted, up to the end when there are none.
    pub(super) fn count_records(&mut self, page: &[(ActionKey, RecordEntry)]) {
        page.iter().for_each(|(_, entry)| self.add_record(entry));
        self.counted =
            page.last().map_or(Counted::Everything, |(key, _)| Counted::Records(Some(*key)));
    }

    /// Notes that the entry of a blob is another now.
    pub(super) fn blob_changed(
        &mut self,
        hash: &Hash,
        old: Option<BlobEntry>,
        new: Option<BlobEntry>,
    ) {
        let counted = match self.counted {
            Counted::Blobs(upto) => upto.is_some_and(|upto| *hash <= upto),
            Counted::Records(_) | Counted::Everything => true,
        };
        if !counted {
            return;
        }
        if let Some(entry) = old {
            subtract(&mut self.totals.blobs, 1);
            subtract(&mut self.totals.blob_bytes, entry.size);
            match entry.place {
                Place::File => subtract(&mut self.totals.file_bytes, entry.size),
                Place::Journal(location) => self.drop_live(&location),
            }
        }
        if let Some(entry) = new {
            self.add_blob(&entry);
        }
    }

    /// Notes that the entry of a record is another now.
    pub(super) fn record_changed(
        &mut self,
        key: &ActionKey,
        old: Option<RecordEntry>,
        new: Option<RecordEntry>,
    ) {
        let counted = match self.counted {
            Counted::Blobs(_) => false,
            Counted::Records(upto) => upto.is_some_and(|upto| *key <= upto),
            Counted::Everything => true,
        };
        if !counted {
            return;
        }
        if let Some(entry) = old {
            subtract(&mut self.totals.records, 1);
            subtract(&mut self.totals.record_bytes, frame_len(&entry.location));
            self.drop_live(&entry.location);
        }
        if let Some(entry) = new {
            self.add_record(&entry);
        }
    }

    fn add_blob(&mut self, entry: &BlobEntry) {
        self.totals.blobs += 1;
        self.totals.blob_bytes += entry.size;
        match entry.place {
            Place::File => self.totals.file_bytes += entry.size,
            Place::Journal(location) => self.add_live(&location),
        }
    }

    fn add_record(&mut self, entry: &RecordEntry) {
        self.totals.records += 1;
        self.totals.record_bytes += frame_len(&entry.location);
        self.add_live(&entry.location);
    }

    fn add_live(&mut self, location: &Location) {
        self.live.entry(location.segment).or_default().add_assign(frame_len(location));
    }

    fn drop_live(&mut self, location: &Location) {
        if let Some(live) = self.live.get_mut(&location.segment) {
            subtract(live, frame_len(location));
        }
    }

    /// Notes that a note of removal was written.
    pub(super) fn gone_added(&mut self, location: &Location) {
        self.gone.entry(location.segment).or_default().add_assign(frame_len(location));
    }

    /// Bytes of a segment that the index points to.
    pub(super) fn live(&self, segment: u32) -> u64 {
        self.live.get(&segment).copied().unwrap_or_default()
    }

    /// Bytes of a segment that are notes of removal.
    pub(super) fn gone(&self, segment: u32) -> u64 {
        self.gone.get(&segment).copied().unwrap_or_default()
    }

    /// Forgets all segments but these.
    pub(super) fn keep_segments(&mut self, there: &BTreeSet<u32>) {
        self.live.retain(|segment, _| there.contains(segment));
        self.gone.retain(|segment, _| there.contains(segment));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::hlc::Hlc;
    use proptest::prelude::*;

    fn blob(size: u64) -> BlobEntry {
        let place = match size % 3 {
            0 => Place::File,
            segment => {
                Place::Journal(Location { segment: segment as u32, offset: 0, len: size as u32 })
            }
        };
        BlobEntry { size, place }
    }

    fn record(n: u64) -> RecordEntry {
        let location = Location { segment: (n % 4) as u32, offset: 0, len: n as u32 };
        RecordEntry { location, hlc: Hlc(n), shared: true, sum: n }
    }

    fn sum(blobs: &BTreeMap<Hash, BlobEntry>, records: &BTreeMap<ActionKey, RecordEntry>) -> Tally {
        let mut tally = Tally::default();
        tally.count_blobs(&blobs.clone().into_iter().collect::<Vec<_>>());
        tally.count_blobs(&[]);
        tally.count_records(&records.clone().into_iter().collect::<Vec<_>>());
        tally.count_records(&[]);
        tally
    }

    proptest! {
        /// Whatever changes between which pages, the sums are those of what is there at the end.
        #[test]
        fn what_changes_while_it_is_counted_counts_once(
            steps in prop::collection::vec((any::<u8>(), 0_u8..16, prop::option::of(0_u64..50)), 0..120)
        ) {
            let (mut blobs, mut records) = (BTreeMap::new(), BTreeMap::new());
            let mut tally = Tally::default();
            let name = |n: u8| [n; 32];
            for (what, n, value) in steps {
                match what % 5 {
                    0 | 1 => {
                        let new = value.map(blob);
                        let hash = Hash(name(n));
                        let old = match new {
                            Some(new) => blobs.insert(hash, new),
                            None => blobs.remove(&hash),
                        };
                        tally.blob_changed(&hash, old, new);
                    }
                    2 | 3 => {
                        let new = value.map(record);
                        let key = ActionKey(name(n));
                        let old = match new {
                            Some(new) => records.insert(key, new),
                            None => records.remove(&key),
                        };
                        tally.record_changed(&key, old, new);
                    }
                    _ => count_on(&mut tally, &blobs, &records),
                }
            }
            while tally.counted() != Counted::Everything {
                count_on(&mut tally, &blobs, &records);
            }
            let expected = sum(&blobs, &records);
            prop_assert_eq!(tally.totals(), expected.totals());
            for segment in 0..4 {
                prop_assert_eq!(tally.live(segment), expected.live(segment));
            }
        }
    }

    fn count_on(
        tally: &mut Tally,
        blobs: &BTreeMap<Hash, BlobEntry>,
        records: &BTreeMap<ActionKey, RecordEntry>,
    ) {
        match tally.counted() {
            Counted::Blobs(upto) => {
                let rest = blobs.iter().filter(|(hash, _)| upto.is_none_or(|upto| **hash > upto));
                tally.count_blobs(&rest.take(2).map(|(hash, e)| (*hash, *e)).collect::<Vec<_>>());
            }
            Counted::Records(upto) => {
                let rest = records.iter().filter(|(key, _)| upto.is_none_or(|upto| **key > upto));
                tally.count_records(&rest.take(2).map(|(key, e)| (*key, *e)).collect::<Vec<_>>());
            }
            Counted::Everything => {}
        }
    }
}
