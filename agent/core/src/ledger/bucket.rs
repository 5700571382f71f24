//! Records whose keys start with the same 16 bits, sorted, with a running sum of those that this
//! agent has.

use super::{Cost, Item, slots::OWN};
use crate::{hlc::Hlc, key::ActionKey};

/// Bytes in one step of a remembered size.
const STEP: u64 = 1024;
/// Room that a full bucket gains at least, in entries. Small, since 65,536 buckets gain it.
const GROWTH: usize = 2;

/// A record as it is remembered: 64 bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    key: ActionKey,
    hlc: Hlc,
    sum: u64,
    /// Bits of the slots of those that hold it.
    pub(super) holders: u64,
    build_ms: u32,
    /// Size of its blobs in steps.
    steps: u32,
}

const _: () = assert!(size_of::<Entry>() == 64);

impl Entry {
    pub(super) fn new(item: Item, cost: Cost, holders: u64) -> Self {
        let steps = u32::try_from(cost.bytes.div_ceil(STEP)).unwrap_or(u32::MAX);
        let Item { key, hlc, sum } = item;
        Self { key, hlc, sum, holders, build_ms: cost.build_ms, steps }
    }

    pub(super) fn is_had(&self) -> bool {
        self.holders & OWN != 0
    }

    /// This entry once the agent has `item`.
    pub(super) fn had(self, item: Item, cost: Cost) -> Self {
        Self::new(item, cost, self.holders | OWN)
    }

    /// This entry once somebody announced `item`. Of a record that the agent has, only its own
    /// version is remembered, otherwise the newest.
    pub(super) fn heard(self, item: Item, cost: Cost, bit: u64) -> Self {
        let holders = self.holders | bit;
        if self.is_had() || (item.hlc, item.sum) < (self.hlc, self.sum) {
            Self { holders, ..self }
        } else {
            Self::new(item, cost, holders)
        }
    }

    pub(super) fn item(&self) -> Item {
        Item { key: self.key, hlc: self.hlc, sum: self.sum }
    }

    pub(super) fn cost(&self) -> Cost {
        Cost { build_ms: self.build_ms, bytes: u64::from(self.steps) * STEP }
    }
}

/// How many items, and the sum of their elements: two sets with equal summaries are equal, as far as
/// one does not look for sets that are not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Summary {
    pub(crate) count: u64,
    pub(crate) sum: u128,
}

impl Summary {
    pub(crate) fn add(&mut self, other: Self) {
        self.count += other.count;
        self.sum = self.sum.wrapping_add(other.sum);
    }

    pub(crate) fn of(item: &Item) -> Self {
        Self { count: 1, sum: element(item) }
    }

    fn remove(&mut self, other: Self) {
        self.count -= other.count;
        self.sum = self.sum.wrapping_sub(other.sum);
    }
}

/// An item as a number that looks random: 128 bits of BLAKE3.
pub(crate) fn element(item: &Item) -> u128 {
    let mut bytes = [0; 48];
    bytes[..32].copy_from_slice(&item.key.0);
    bytes[32..40].copy_from_slice(&item.hlc.0.to_le_bytes());
    bytes[40..].copy_from_slice(&item.sum.to_le_bytes());
    let hash = blake3::hash(&bytes);
    let mut element = [0; 16];
    element.copy_from_slice(&hash.as_bytes()[..16]);
    u128::from_le_bytes(element)
}

/// The records of one bucket.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bucket {
    entries: Vec<Entry>,
    summary: Summary,
}

impl Bucket {
    /// Of all items that the agent has.
    pub(crate) fn summary(&self) -> Summary {
        self.summary
    }

    /// The items that the agent has, in order.
    pub(crate) fn had(&self) -> impl Iterator<Item = Item> {
        self.entries.iter().filter(|entry| entry.is_had()).map(Entry::item)
    }

    /// The items that the agent has whose keys are in a range, in order.
    pub(crate) fn had_between(
        &self,
        first: ActionKey,
        last: ActionKey,
    ) -> impl Iterator<Item = Item> {
        let start = self.entries.partition_point(|entry| entry.key < first);
        let end = self.entries.partition_point(|entry| entry.key <= last);
        let entries = self.entries.get(start..end).unwrap_or_default();
        entries.iter().filter(|entry| entry.is_had()).map(Entry::item)
    }

    /// Bytes on the heap.
    #[cfg(test)]
    pub(super) fn allocated(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>()
    }

    pub(super) fn find(&self, key: &ActionKey) -> Result<usize, usize> {
        self.entries.binary_search_by(|entry| entry.key.cmp(key))
    }

    pub(super) fn entry(&self, at: usize) -> Entry {
        self.entries[at]
    }

    pub(super) fn insert(&mut self, at: usize, entry: Entry) {
        // Doubling would leave a third of the memory empty.
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(GROWTH.max(self.entries.len() / 8));
        }
        if entry.is_had() {
            self.summary.add(Summary::of(&entry.item()));
        }
        self.entries.insert(at, entry);
    }

    pub(super) fn replace(&mut self, at: usize, new: Entry) {
        let old = std::mem::replace(&mut self.entries[at], new);
        if old.is_had() && new.is_had() && old.item() == new.item() {
            return;
        }
        if old.is_had() {
            self.summary.remove(Summary::of(&old.item()));
        }
        if new.is_had() {
            self.summary.add(Summary::of(&new.item()));
        }
    }

    /// Clears bits of an entry's holders; says whether the entry went with the last of them.
    pub(super) fn drop_holders(&mut self, at: usize, bits: u64) -> bool {
        let old = self.entries[at];
        self.replace(at, Entry { holders: old.holders & !bits, ..old });
        let gone = self.entries[at].holders == 0;
        if gone {
            self.entries.remove(at);
        }
        gone
    }

    /// Clears bits of all entries' holders, which must not be the agent's own; says how many entries
    /// went with the last of them.
    pub(super) fn drop_holders_of_all(&mut self, bits: u64) -> usize {
        debug_assert_eq!(bits & OWN, 0);
        let before = self.entries.len();
        self.entries.retain_mut(|entry| {
            entry.holders &= !bits;
            entry.holders != 0
        });
        if self.entries.len() < before {
            self.entries.shrink_to(self.entries.len() + GROWTH);
        }
        before - self.entries.len()
    }
}
