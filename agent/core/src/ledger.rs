//! What one agent knows of every record in the mesh: which it has, and who else says to hold which.
//!
//! Compact, as there may be a million: 64 bytes a record and a little for the buckets that they lie
//! in. What it says of others is a hint: a holder may have lost what it announced, and a record that
//! nobody announced may exist all the same. What it says of this agent is what it was told by its
//! owner, and only that takes part in [`crate::reconcile`].

mod bucket;
mod elsewhere;
mod slots;
#[cfg(test)]
mod tests;

use crate::{hlc::Hlc, key::ActionKey, peer::PeerId};
use bucket::{Bucket, Entry};
use elsewhere::Elsewhere;
use slots::{OWN, Slots};

pub(crate) use bucket::{Summary, element};
pub use elsewhere::MAX_ELSEWHERE;
pub use slots::MAX_HOLDERS;

/// Most records that are remembered on the word of one peer.
pub const MAX_HEARD_PER_PEER: usize = 1_000_000;
/// Most records that are remembered at all before announcements of more are not: about 150 MB. The
/// agent's own records always are. What is not remembered makes misses of what would have been hits.
pub const MAX_RECORDS: usize = 2_000_000;
/// Buckets: one for each value of the first 16 bits of a key. With a million records each has 15.
const BUCKETS: usize = 1 << 16;

/// One version of one record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Item {
    /// The action.
    pub key: ActionKey,
    /// When the record was written.
    pub hlc: Hlc,
    /// The first 8 bytes of BLAKE3 of the sealed record, little-endian.
    pub sum: u64,
}

/// What a record is worth and what it takes to have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cost {
    /// How long the action ran, in milliseconds.
    pub build_ms: u32,
    /// Bytes of all its blobs; remembered in steps of 1 KiB, rounded up, at most 4 TiB.
    pub bytes: u64,
}

/// Records by the first bits of their keys.
#[derive(Clone, Debug)]
pub struct Ledger {
    buckets: Vec<Bucket>,
    slots: Slots,
    elsewhere: Elsewhere,
    len: usize,
    have: usize,
}

impl Default for Ledger {
    fn default() -> Self {
        let mut buckets = Vec::new();
        buckets.resize_with(BUCKETS, Bucket::default);
        Self { buckets, slots: Slots::default(), elsewhere: Elsewhere::default(), len: 0, have: 0 }
    }
}

impl Ledger {
    /// Notes that this agent has a record with all its blobs, in place of any other version.
    pub fn handle_have(&mut self, item: Item, cost: Cost) {
        let bucket = &mut self.buckets[bucket_of(&item.key)];
        match bucket.find(&item.key) {
            Ok(at) => {
                let known = bucket.entry(at);
                self.have += usize::from(!known.is_had());
                bucket.replace(at, known.had(item, cost));
            }
            Err(at) => {
                bucket.insert(at, Entry::new(item, cost, OWN));
                self.have += 1;
                self.len += 1;
            }
        }
    }

    /// Notes that this agent has a record no more. Others may still hold it.
    pub fn handle_lost(&mut self, key: &ActionKey) {
        let bucket = &mut self.buckets[bucket_of(key)];
        let Ok(at) = bucket.find(key) else { return };
        if bucket.entry(at).is_had() {
            self.have -= 1;
            self.len -= usize::from(bucket.drop_holders(at, OWN));
        }
    }

    /// Takes an announcement of `peer`: it holds these records with all their blobs. Returns those
    /// that this agent does not have in this version, to be pulled.
    ///
    /// An older version is among them too: which of two stays is for [`crate::merge`] to say, which
    /// knows the writers, and the one that loses may be evidence of a conflict.
    pub fn handle_announced(
        &mut self,
        peer: PeerId,
        announced: impl IntoIterator<Item = (Item, Cost)>,
    ) -> Vec<Item> {
        let slot = self.slots.of_or_new(&peer);
        let mut wanted = Vec::new();
        for (item, cost) in announced {
            let bucket = &mut self.buckets[bucket_of(&item.key)];
            let found = bucket.find(&item.key);
            let ours = found.ok().map(|at| bucket.entry(at)).filter(Entry::is_had);
            if ours.is_none_or(|ours| ours.item() != item) {
                wanted.push(item);
            }
            let Some(slot) = slot else {
                self.elsewhere.note(item.key, peer);
                continue;
            };
            match found {
                Ok(at) => {
                    let known = bucket.entry(at);
                    if known.holders & slot.bit() == 0 {
                        if self.slots.count(slot) >= MAX_HEARD_PER_PEER {
                            continue;
                        }
                        self.slots.add(slot, 1);
                    }
                    bucket.replace(at, known.heard(item, cost, slot.bit()));
                }
                Err(at)
                    if self.len < MAX_RECORDS && self.slots.count(slot) < MAX_HEARD_PER_PEER =>
                {
                    bucket.insert(at, Entry::new(item, cost, slot.bit()));
                    self.slots.add(slot, 1);
                    self.len += 1;
                }
                Err(_) => {}
            }
        }
        wanted
    }

    /// Notes that `peer` did not have a record when asked.
    pub fn handle_missing(&mut self, peer: &PeerId, key: &ActionKey) {
        self.elsewhere.missing(peer, key);
        let Some(slot) = self.slots.of(peer) else { return };
        let bucket = &mut self.buckets[bucket_of(key)];
        let Ok(at) = bucket.find(key) else { return };
        if bucket.entry(at).holders & slot.bit() != 0 {
            self.slots.remove(slot, 1);
            self.len -= usize::from(bucket.drop_holders(at, slot.bit()));
        }
    }

    /// Forgets a peer and what only it holds. Takes time in proportion to all records.
    pub fn forget(&mut self, peer: &PeerId) {
        self.elsewhere.forget(peer);
        let Some(slot) = self.slots.release(peer) else { return };
        for bucket in &mut self.buckets {
            self.len -= bucket.drop_holders_of_all(slot.bit());
        }
    }

    /// The peers that say to hold a record, in some version. Of those beyond [`MAX_HOLDERS`] only the
    /// last is among them, and only for the last [`MAX_ELSEWHERE`] records that such peers announced.
    pub fn holders(&self, key: &ActionKey) -> Vec<PeerId> {
        let mut holders =
            self.entry(key).map_or_else(Vec::new, |entry| self.slots.peers(entry.holders));
        let elsewhere = self.elsewhere.of(key).filter(|peer| !holders.contains(peer));
        holders.extend(elsewhere);
        holders
    }

    /// The version of a record that this agent has.
    pub fn have(&self, key: &ActionKey) -> Option<Item> {
        self.entry(key).filter(Entry::is_had).map(|entry| entry.item())
    }

    /// What is known of the cost of a record.
    pub fn cost(&self, key: &ActionKey) -> Option<Cost> {
        self.entry(key).map(|entry| entry.cost())
    }

    /// How many records a peer says to hold, as far as it is one of [`MAX_HOLDERS`].
    pub fn count(&self, peer: &PeerId) -> usize {
        self.slots.of(peer).map_or(0, |slot| self.slots.count(slot))
    }

    /// Records that are known: had, or heard of from one of [`MAX_HOLDERS`] peers.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no record is known.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Records that this agent has.
    pub fn have_len(&self) -> usize {
        self.have
    }

    /// At most `limit` records that this agent has, in the order of their keys, from the first after
    /// `after`.
    pub fn have_after(&self, after: Option<&ActionKey>, limit: usize) -> Vec<Item> {
        let first = after.map_or(0, bucket_of);
        let later = |item: &Item| after.is_none_or(|after| item.key > *after);
        let buckets = self.buckets.iter().skip(first);
        buckets.flat_map(Bucket::had).filter(later).take(limit).collect()
    }

    fn entry(&self, key: &ActionKey) -> Option<Entry> {
        let bucket = &self.buckets[bucket_of(key)];
        bucket.find(key).ok().map(|at| bucket.entry(at))
    }

    /// The bucket that holds the keys with these first 16 bits.
    pub(crate) fn bucket(&self, first: u16) -> &Bucket {
        &self.buckets[usize::from(first)]
    }
}

fn bucket_of(key: &ActionKey) -> usize {
    usize::from(u16::from_be_bytes([key.0[0], key.0[1]]))
}
