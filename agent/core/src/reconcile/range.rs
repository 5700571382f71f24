//! Ranges of keys that share a prefix, and what a ledger has in them.

use crate::{
    key::ActionKey,
    ledger::{Item, Ledger, Summary},
};

/// Longest prefix in bits.
pub(super) const MAX_DEPTH: u32 = 64;
/// Length of the prefix that keys of one bucket share.
const BUCKET_DEPTH: u32 = 16;

/// All keys whose first `depth` bits are those of `start`; the other bits of `start` are 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) depth: u32,
}

impl Range {
    pub(super) const WHOLE: Self = Self { start: 0, depth: 0 };

    /// How many values of the first 64 bits it has.
    pub(super) fn width(self) -> u128 {
        1 << (MAX_DEPTH - self.depth)
    }

    /// The first value behind it.
    pub(super) fn end(self) -> u128 {
        u128::from(self.start) + self.width()
    }

    /// The last value in it.
    fn last(self) -> u64 {
        self.start | u64::MAX.checked_shr(self.depth).unwrap_or(0)
    }

    /// Its 2^`bits` equal parts, in order. `bits` must not lead beyond [`MAX_DEPTH`].
    pub(super) fn parts(self, bits: u32) -> impl Iterator<Item = Self> {
        let depth = self.depth + bits;
        let width = 1u128 << (MAX_DEPTH - depth);
        (0..1u128 << bits).map(move |part| {
            // Below 2^64, as part * width is less than the width of the whole.
            let offset = u64::try_from(part * width).unwrap_or(0);
            Self { start: self.start + offset, depth }
        })
    }

    /// Whether every key of `other` is in it.
    pub(super) fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }

    /// Whether a key is in it.
    pub(super) fn has(self, key: &ActionKey) -> bool {
        let mut first = [0; 8];
        first.copy_from_slice(&key.0[..8]);
        (self.start..=self.last()).contains(&u64::from_be_bytes(first))
    }

    /// Whether it cannot be split further.
    pub(super) fn is_deepest(self) -> bool {
        self.depth == MAX_DEPTH
    }

    fn keys(self) -> (ActionKey, ActionKey) {
        let (mut first, mut last) = ([0; 32], [0xff; 32]);
        first[..8].copy_from_slice(&self.start.to_be_bytes());
        last[..8].copy_from_slice(&self.last().to_be_bytes());
        (ActionKey(first), ActionKey(last))
    }

    fn buckets(self) -> impl Iterator<Item = u16> {
        let bucket = |value: u64| (value >> (MAX_DEPTH - BUCKET_DEPTH)) as u16;
        bucket(self.start)..=bucket(self.last())
    }

    /// Number and sum of the items that the ledger has in it.
    pub(super) fn summary(self, ledger: &Ledger) -> Summary {
        let mut summary = Summary::default();
        if self.depth <= BUCKET_DEPTH {
            self.buckets().for_each(|bucket| summary.add(ledger.bucket(bucket).summary()));
        } else {
            self.items(ledger).for_each(|item| summary.add(Summary::of(&item)));
        }
        summary
    }

    /// How many items the ledger has in it.
    pub(super) fn count(self, ledger: &Ledger) -> u64 {
        if self.depth <= BUCKET_DEPTH {
            self.summary(ledger).count
        } else {
            self.items(ledger).count() as u64
        }
    }

    /// The items that the ledger has in it, in order.
    pub(super) fn items(self, ledger: &Ledger) -> impl Iterator<Item = Item> {
        let (first, last) = self.keys();
        self.buckets().flat_map(move |bucket| ledger.bucket(bucket).had_between(first, last))
    }
}
