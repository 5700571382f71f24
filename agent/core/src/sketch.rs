//! Which of many blobs is most like another, from 128 bytes of each.
//!
//! A sketch is a min-hash (Broder, "On the resemblance and containment of documents", 1997) in one
//! pass over one permutation (Li, Owen and Zhang, "One Permutation Hashing", 2012): every window of
//! eight bytes is hashed, one in 64 is a sample, as in Odess (Zou et al., 2021), the hash
//! sorts the samples into bins, and each bin keeps its least. Two blobs agree in a bin about as
//! often as they have samples in common, so the share of equal bins estimates the resemblance of
//! the sets of samples, with a standard deviation of 0.09 at most.
//!
//! Windows are as short as eight bytes because in a relinked program every other stretch of
//! sixteen has an address in it, and every address is another. Where things lie in a blob and how
//! often they occur does not count.

/// Bins of a sketch, each of which keeps four bytes.
pub const BINS: usize = 32;
/// Index keys of a sketch: blobs that resemble one another by half agree in one of eight with a
/// probability of 99.6 %, those that do by a quarter with 90 %.
pub const FEATURES: usize = 8;
/// One window in so many is a sample: a thousand in 64 KiB, below which a delta saves little.
const SAMPLED: u64 = 64;
/// Bytes of a window.
const WINDOW: usize = 8;

/// The sketch of one blob.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sketch([u32; BINS]);

impl Sketch {
    /// Estimated share of distinct samples that both blobs have, 0 to 1: the equal bins among those
    /// that are filled in either. Blobs without samples are like nothing.
    pub fn similarity(&self, other: &Self) -> f64 {
        let filled = self.0.iter().zip(&other.0).filter(|(a, b)| **a != 0 || **b != 0);
        let (equal, all) =
            filled.fold((0, 0), |(equal, all), (a, b)| (equal + u32::from(a == b), all + 1));
        if all == 0 { 0.0 } else { f64::from(equal) / f64::from(all) }
    }

    /// Keys for an index of sketches: blobs that are alike share at least one, most likely. An
    /// empty bin has none.
    pub fn features(&self) -> [Option<u64>; FEATURES] {
        std::array::from_fn(|bin| {
            let value = self.0[bin];
            (value != 0).then(|| (bin as u64) << 32 | u64::from(value))
        })
    }

    /// The sketch as bytes.
    pub fn to_bytes(&self) -> [u8; BINS * 4] {
        let mut bytes = [0; BINS * 4];
        for (to, value) in bytes.chunks_exact_mut(4).zip(self.0) {
            to.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// The inverse of [`to_bytes`](Self::to_bytes); any bytes are a sketch.
    pub fn from_bytes(bytes: &[u8; BINS * 4]) -> Self {
        let (values, _) = bytes.as_chunks();
        Self(std::array::from_fn(|bin| u32::from_le_bytes(values[bin])))
    }
}

/// Sketches a blob that arrives in pieces.
#[derive(Clone, Debug)]
pub struct Sketcher {
    least: [u64; BINS],
    /// The end of what was seen, at most a window less one byte.
    tail: Vec<u8>,
}

impl Default for Sketcher {
    fn default() -> Self {
        Self { least: [u64::MAX; BINS], tail: Vec::new() }
    }
}

impl Sketcher {
    /// A sketcher that has seen no bytes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        // Windows that start in the tail end within the first bytes of the piece.
        let mut seam = std::mem::take(&mut self.tail);
        seam.extend_from_slice(&bytes[..bytes.len().min(WINDOW - 1)]);
        self.sample(&seam);
        self.sample(bytes);
        let end = if bytes.len() < WINDOW { seam.as_slice() } else { bytes };
        self.tail = end[end.len().saturating_sub(WINDOW - 1)..].to_vec();
    }

    /// Ends the blob.
    pub fn finish(&self) -> Sketch {
        // The least of many hashes is a small number, so what tells blobs apart is another hash of
        // it. The lowest bit marks a bin that has a sample.
        Sketch(self.least.map(|least| match least {
            u64::MAX => 0,
            least => (mix(least) >> 32) as u32 | 1,
        }))
    }

    fn sample(&mut self, bytes: &[u8]) {
        for window in bytes.windows(WINDOW) {
            let Some(window) = window.first_chunk() else { return };
            let hash = (u64::from_le_bytes(*window) ^ SALT).wrapping_mul(GOLDEN);
            if hash < u64::MAX / SAMPLED {
                let hash = mix(hash);
                let least = &mut self.least[hash as usize % BINS];
                *least = hash.min(*least);
            }
        }
    }
}

/// Keeps runs of zeros, which say nothing, from being a sample.
const SALT: u64 = 0x5bf0_3635_dcf9_8e51;
/// 2^64 divided by the golden ratio, for multiplicative hashing (Knuth).
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of MurmurHash3 by Appleby, a bijection.
fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes that look random and are the same everywhere (SplitMix64, Steele et al. 2014).
    fn noise(len: usize, mut seed: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            seed = seed.wrapping_add(GOLDEN);
            bytes.extend_from_slice(&mix(seed).to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    fn sketch(bytes: &[u8]) -> Sketch {
        let mut sketcher = Sketcher::new();
        sketcher.update(bytes);
        sketcher.finish()
    }

    fn share_a_key(a: &Sketch, b: &Sketch) -> bool {
        a.features().iter().zip(b.features()).any(|(a, b)| a.is_some() && *a == b)
    }

    #[test]
    fn unrelated_blobs_share_nothing_and_equal_ones_everything() {
        let sketches: Vec<_> = (0..40).map(|seed| sketch(&noise(100_000, seed))).collect();
        for (number, one) in sketches.iter().enumerate() {
            assert_eq!(one.similarity(one), 1.0);
            for other in &sketches[..number] {
                assert!(one.similarity(other) < 0.1 && !share_a_key(one, other));
            }
        }
        let nothing = sketch(b"short");
        assert_eq!(nothing.similarity(&nothing), 0.0);
        assert!(!share_a_key(&nothing, &nothing));
        assert_eq!(sketch(&[0; 5000]), nothing);
    }

    #[test]
    fn blobs_alike_by_half_share_a_key() {
        let mut found = 0;
        for seed in 0..100 {
            // Two thirds of each are common, so half of all.
            let common = noise(200_000, seed);
            let with = |seed| [noise(100_000, seed), common.clone()].concat();
            let (one, other) = (sketch(&with(1000 + seed)), sketch(&with(2000 + seed)));
            found += usize::from(share_a_key(&one, &other));
            assert!((0.15..0.85).contains(&one.similarity(&other)));
        }
        assert!(found >= 97, "{found} of 100");
    }

    #[test]
    fn a_relinked_program_is_found() {
        let mut found = 0;
        for seed in 0..100 {
            let mut program = noise(400_000, seed);
            let old = sketch(&program);
            // An address every 24 bytes, and all have moved.
            for word in program.chunks_exact_mut(8).skip(1).step_by(3) {
                let address = u32::from_le_bytes([word[2], word[3], word[4], word[5]]);
                word[2..6].copy_from_slice(&address.wrapping_add(0x1240).to_le_bytes());
            }
            found += usize::from(share_a_key(&old, &sketch(&program)));
        }
        assert!(found >= 90, "{found} of 100");
    }

    proptest! {
        #[test]
        fn a_sketch_does_not_depend_on_the_pieces(
            len in 0usize..5000, seed: u64, pieces in proptest::collection::vec(1usize..300, 1..9)
        ) {
            let bytes = noise(len, seed);
            let mut sketcher = Sketcher::new();
            let (mut rest, mut turn) = (bytes.as_slice(), pieces.iter().cycle());
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(*turn.next().unwrap()));
                sketcher.update(now);
                rest = later;
            }
            let sketch = sketch(&bytes);
            prop_assert_eq!(sketcher.finish(), sketch);
            prop_assert_eq!(Sketch::from_bytes(&sketch.to_bytes()), sketch);
        }
    }
}
