//! Leaves: neighbouring keys with their values, packed into one value of sled.
//!
//! A page of sled holds sixteen keys at most, and takes several hundred bytes of memory for as long as
//! the database is open, whatever is in it. Packed, the same keys have a tenth of the pages: an index of
//! millions of keys opens in the time, and in the memory, that one of some hundred thousand took.
//!
//! A leaf is named after the smallest key that may be in it, and holds all keys from there to the name of
//! the next one; the first leaf has the empty name.

/// Bytes of keys and values in a leaf, unless it is a single one of more. More make a database of fewer
/// pages, of which each change writes more: with these, about 2 kB for each of two million changes of
/// random keys.
const MAX_LEAF: usize = 1000;
/// Bytes of a leaf that takes in the one behind it when both together have at most [`ROOMY`].
pub(super) const SMALL: usize = MAX_LEAF * 2 / 5;
/// So that what was put together is not split again soon.
pub(super) const ROOMY: usize = MAX_LEAF * 3 / 4;
/// Version of the envelope and of what is in it, the first byte of each leaf. An index with leaves of
/// another version is made again.
const VERSION: u8 = 4;
/// Version and CRC-32C before the keys.
const ENVELOPE: usize = 1 + 4;
/// Bytes before a key: its length and that of its value.
const LENGTHS: usize = 1 + 4;

/// A key with its value.
pub(super) type Item = (Vec<u8>, Vec<u8>);

/// The items of a leaf in the order of their keys; `None` when it is damaged.
pub(super) fn items<'a>(name: &[u8], sealed: &'a [u8]) -> Option<Vec<(&'a [u8], &'a [u8])>> {
    let (head, mut rest) = sealed.split_at_checked(ENVELOPE)?;
    if head[0] != VERSION || head[1..] != checksum(name, rest) {
        return None;
    }
    let mut items = Vec::new();
    while !rest.is_empty() {
        let (lengths, packed) = rest.split_first_chunk::<LENGTHS>()?;
        let [key, value @ ..] = lengths;
        let (key, packed) = packed.split_at_checked(usize::from(*key))?;
        let (value, packed) = packed.split_at_checked(u32::from_le_bytes(*value) as usize)?;
        items.push((key, value));
        rest = packed;
    }
    Some(items)
}

/// Likewise, as they are changed.
pub(super) fn owned(name: &[u8], sealed: &[u8]) -> Option<Vec<Item>> {
    let items = items(name, sealed)?.into_iter();
    Some(items.map(|(key, value)| (key.to_vec(), value.to_vec())).collect())
}

/// The leaves of the items that were or would be in the leaf of this name, which are in the order of
/// their keys: one, or several when they are too many for one.
pub(super) fn leaves(name: Vec<u8>, items: &[Item]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut leaves = Vec::new();
    split(name, items, &mut leaves);
    leaves
}

/// Bytes that items take in a leaf.
pub(super) fn size(items: &[Item]) -> usize {
    items.iter().map(size_of).sum()
}

fn size_of((key, value): &Item) -> usize {
    LENGTHS + key.len() + value.len()
}

fn split(name: Vec<u8>, items: &[Item], leaves: &mut Vec<(Vec<u8>, Vec<u8>)>) {
    let total = size(items);
    if total <= MAX_LEAF || items.len() < 2 {
        let sealed = seal(&name, items, total);
        leaves.push((name, sealed));
        return;
    }
    let mut sum = 0;
    let before_half = |item: &&Item| {
        sum += size_of(item);
        sum <= total / 2
    };
    let half = items.iter().take_while(before_half).count().clamp(1, items.len() - 1);
    let (low, high) = items.split_at(half);
    split(name, low, leaves);
    split(high[0].0.clone(), high, leaves);
}

fn seal(name: &[u8], items: &[Item], total: usize) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(ENVELOPE + total);
    sealed.push(VERSION);
    sealed.extend_from_slice(&[0; ENVELOPE - 1]);
    for (key, value) in items {
        // Keys are short: the index makes all of them.
        sealed.push(key.len() as u8);
        sealed.extend_from_slice(&(value.len() as u32).to_le_bytes());
        sealed.extend_from_slice(key);
        sealed.extend_from_slice(value);
    }
    let sum = checksum(name, &sealed[ENVELOPE..]);
    sealed[1..ENVELOPE].copy_from_slice(&sum);
    sealed
}

/// The checksum covers the name too, so that a leaf never counts under another one.
fn checksum(name: &[u8], packed: &[u8]) -> [u8; 4] {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&[VERSION]), name);
    crc32c::crc32c_append(crc, packed).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn any_flipped_bit_of_a_leaf_is_noticed() {
        let all = vec![(b"key".to_vec(), b"value".to_vec()), (b"l".to_vec(), Vec::new())];
        let good = seal(b"k", &all, 0);
        assert_eq!(owned(b"k", &good).unwrap(), all);
        assert!(items(b"j", &good).is_none());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(items(b"k", &bad).is_none(), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_back(
            sizes in prop::collection::btree_map(prop::collection::vec(any::<u8>(), 1..40), 0..3000_usize, 0..60),
        ) {
            let all: Vec<Item> = sizes.into_iter().map(|(key, len)| (key, vec![7; len])).collect();
            let leaves = leaves(Vec::new(), &all);
            prop_assert!(leaves.is_sorted_by(|(a, _), (b, _)| a < b));
            let mut back = Vec::new();
            for (at, (name, sealed)) in leaves.iter().enumerate() {
                let items = owned(name, sealed).unwrap();
                prop_assert!(sealed.len() <= ENVELOPE + MAX_LEAF || items.len() == 1);
                prop_assert!(at == 0 || items[0].0 == *name);
                back.extend(items);
            }
            prop_assert_eq!(back, all);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut sealed = [&[VERSION], &checksum(b"", &bytes)[..], &bytes].concat();
            let _ = items(b"", &sealed);
            sealed.truncate(3);
            prop_assert!(items(b"", &sealed).is_none());
        }
    }
}
