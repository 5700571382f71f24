//! Where the windows of a base are.

/// Largest base in bytes that is indexed. Whoever makes patches has it in memory; positions in units of the
/// step would fit 24 bits up to twice as much.
pub const MAX_BASE: usize = 512 << 20;
/// Largest table of an index in bytes. An index of a smaller base is smaller.
pub const MAX_TABLE: usize = (BUCKET * 4) << MAX_BUCKETS_LOG;

/// Bytes of a window. Between two moved addresses in machine code lie some ten to thirty bytes, so
/// long windows find no place in it; short ones find too many.
pub(super) const WINDOW: usize = 16;
/// Places that a bucket remembers. Four fit a quarter of a cache line, and windows that occur more
/// often tell little.
const BUCKET: usize = 4;
/// Logarithm of the most buckets.
const MAX_BUCKETS_LOG: u32 = 22;
/// The finest sampling: windows start at multiples of it.
const MIN_STEP: usize = 4;

/// A bounded table of where sampled windows of a base start.
///
/// The base itself is not kept; [`diff`](super::diff()) takes the same bytes again.
#[derive(Clone, Debug)]
pub struct Index {
    /// A place is the number of its window shifted by eight, and a tag of its hash; 0 is no place.
    slots: Vec<u32>,
    shift: u32,
    step: usize,
    len: usize,
}

impl Index {
    /// Indexes `base`; of one that is larger than [`MAX_BASE`] only that much is indexed.
    pub fn new(base: &[u8]) -> Self {
        let indexed = &base[..base.len().min(MAX_BASE)];
        let most = BUCKET << MAX_BUCKETS_LOG;
        let step = (indexed.len() * 3 / 2).div_ceil(most).next_power_of_two().max(MIN_STEP);
        let windows = indexed.len() / step;
        let log = (windows * 3 / 2 / BUCKET).next_power_of_two().ilog2().clamp(4, MAX_BUCKETS_LOG);
        let mut index =
            Self { slots: vec![0; BUCKET << log], shift: 64 - log, step, len: base.len() };
        let mut last = 0;
        for number in 0..windows {
            let Some(window) = window(indexed, number * step) else { break };
            let hash = hash(window);
            // Of a run of equal windows, such as padding, the first is enough.
            if hash != last {
                index.insert(hash, number as u32);
            }
            last = hash;
        }
        index
    }

    /// Length in bytes of the base that was indexed.
    pub fn base_len(&self) -> usize {
        self.len
    }

    /// Bytes of memory that the table takes, at most [`MAX_TABLE`].
    pub fn memory(&self) -> usize {
        self.slots.len() * 4
    }

    fn insert(&mut self, hash: u64, number: u32) {
        let at = self.bucket(hash);
        let bucket = &mut self.slots[at..at + BUCKET];
        // A full bucket gives up one of its places in turn, so that neither the head nor the tail
        // of a base is favoured.
        let slot = bucket.iter().position(|slot| *slot == 0).unwrap_or(number as usize % BUCKET);
        bucket[slot] = number << 8 | tag(hash);
    }

    fn bucket(&self, hash: u64) -> usize {
        (hash >> self.shift) as usize * BUCKET
    }

    /// Positions in the base where a window like `window` may start.
    pub(super) fn places(&self, window: &[u8; WINDOW]) -> impl Iterator<Item = usize> + '_ {
        let hash = hash(window);
        let at = self.bucket(hash);
        let tag = tag(hash);
        let bucket = self.slots[at..at + BUCKET].iter();
        bucket.filter(move |slot| **slot & 0xff == tag).map(|slot| (slot >> 8) as usize * self.step)
    }
}

/// The window of `bytes` that starts at `at`.
pub(super) fn window(bytes: &[u8], at: usize) -> Option<&[u8; WINDOW]> {
    bytes.get(at..)?.first_chunk()
}

/// Both halves of the window, multiplied by odd constants (the golden ratio and a prime of xxHash).
fn hash(window: &[u8; WINDOW]) -> u64 {
    let whole = u128::from_le_bytes(*window);
    let low = (whole as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let high = ((whole >> 64) as u64).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
    let mixed = low ^ high.rotate_left(29);
    (mixed ^ (mixed >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Seven bits of a hash that the bucket does not depend on; never 0.
fn tag(hash: u64) -> u32 {
    (hash >> 24) as u32 & 0xff | 1
}
