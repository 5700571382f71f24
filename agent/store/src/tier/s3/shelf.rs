//! What is known of the segments of a bucket.

use super::segment::{Name, Segment};
use netbuild_core::{digest::Digest, key::ActionKey};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

/// Most blobs in segments that are known at once, at some 80 bytes each; of more, those in the
/// oldest segments are not found.
pub(super) const MAX_KNOWN: usize = 2 << 20;

/// Most blobs that are remembered as damaged.
const MAX_DAMAGED: usize = 1 << 16;

/// A place in a segment.
pub(super) type Spot = (Arc<Segment>, usize);

/// What is known of the segments of a bucket.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    segments: BTreeMap<Name, Arc<Segment>>,
    numbers: HashMap<u32, Arc<Segment>>,
    next: u32,
    /// By the first bytes of the hash: who holds the blob.
    blobs: HashMap<u64, (u32, u32)>,
    /// By the first bytes of the key: who holds the latest record.
    records: HashMap<u64, (u32, u32)>,
    /// Blobs that were found damaged where they lie.
    damaged: HashSet<Digest>,
    /// Whether segments were left out, as they were too many or not to be read.
    pub(super) partial: bool,
}

fn short(bytes: &[u8; 32]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *bytes;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

impl Shelf {
    pub(super) fn segments(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.segments.values()
    }

    pub(super) fn knows(&self, name: &Name) -> bool {
        self.segments.contains_key(name)
    }

    pub(super) fn is_full(&self) -> bool {
        self.blobs.len() >= MAX_KNOWN
    }

    pub(super) fn add(&mut self, segment: Segment) {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let segment = Arc::new(segment);
        self.enter(number, &segment);
        self.segments.insert(segment.name.clone(), segment.clone());
        self.numbers.insert(number, segment);
    }

    fn enter(&mut self, number: u32, segment: &Arc<Segment>) {
        for (at, held) in segment.index.blobs.iter().enumerate() {
            let place = self.blobs.entry(short(&held.digest.hash.0)).or_insert((number, at as u32));
            let known = self.numbers.get(&place.0).map(|known| known.index.blobs[place.1 as usize]);
            if known.is_none_or(|known| known.written < held.written) {
                *place = (number, at as u32);
            }
            self.damaged.remove(&held.digest);
        }
        for (at, filed) in segment.index.records.iter().enumerate() {
            let place = self.records.entry(short(&filed.key.0)).or_insert((number, at as u32));
            let known = self.numbers.get(&place.0);
            if known.is_none_or(|known| known.index.records[place.1 as usize].hlc < filed.hlc) {
                *place = (number, at as u32);
            }
        }
    }

    /// Notes when the server says that a segment came.
    pub(super) fn listed(&mut self, name: &Name, modified: u64) {
        let Some(segment) = self.segments.get(name).filter(|known| known.modified == 0) else {
            return;
        };
        let Segment { size, index, .. } = &**segment;
        let len = (segment.name.head - index.records_len()) as usize;
        let again = Segment::new(name.clone(), *size, modified, index.clone(), len);
        let Some(again) = again.map(Arc::new) else { return };
        for known in self.numbers.values_mut().filter(|known| known.name == *name) {
            *known = again.clone();
        }
        self.segments.insert(name.clone(), again);
    }

    /// Forgets segments that are gone.
    pub(super) fn remove(&mut self, gone: &HashSet<Name>) {
        if gone.is_empty() {
            return;
        }
        self.segments.retain(|name, _| !gone.contains(name));
        self.numbers.retain(|_, segment| !gone.contains(&segment.name));
        self.blobs.clear();
        self.records.clear();
        let left: Vec<_> =
            self.numbers.iter().map(|(number, known)| (*number, known.clone())).collect();
        let damaged = std::mem::take(&mut self.damaged);
        for (number, segment) in left {
            self.enter(number, &segment);
        }
        self.damaged = damaged;
    }

    /// Where a blob lies.
    pub(super) fn blob(&self, blob: &Digest) -> Option<Spot> {
        let (number, at) = self.blobs.get(&short(&blob.hash.0))?;
        let segment = self.numbers.get(number)?;
        let right = segment.index.blobs[*at as usize].digest == *blob;
        (right && !self.damaged.contains(blob)).then(|| (segment.clone(), *at as usize))
    }

    /// Where the latest record of an action lies.
    pub(super) fn record(&self, key: &ActionKey) -> Option<Spot> {
        let (number, at) = self.records.get(&short(&key.0))?;
        let segment = self.numbers.get(number)?;
        let right = segment.index.records[*at as usize].key == *key;
        right.then(|| (segment.clone(), *at as usize))
    }

    /// A blob is not what it should be where it lies: it is not there any more.
    pub(super) fn damaged(&mut self, blob: &Digest) {
        if self.damaged.len() >= MAX_DAMAGED {
            // They are checked when they are read again.
            self.damaged.clear();
        }
        self.damaged.insert(*blob);
    }

    /// A blob was written anew.
    pub(super) fn mended(&mut self, blob: &Digest) {
        self.damaged.remove(blob);
    }

    pub(super) fn is_damaged(&self, blob: &Digest) -> bool {
        self.damaged.contains(blob)
    }

    /// The blobs that records which were written at `since` or later need.
    pub(super) fn needed(&self, since: u64) -> HashSet<Digest> {
        let segments = self.segments.values();
        let needed = segments.flat_map(|segment| {
            let live = segment.index.records.iter().filter(|filed| filed.written >= since);
            live.flat_map(|filed| filed.blobs.iter().filter_map(|n| segment.index.blob(*n)))
        });
        needed.collect()
    }
}
