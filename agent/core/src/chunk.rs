//! Content-defined chunks of blobs: FastCDC-2020 as REAPI specifies it, so that one layout serves
//! mesh, disk and `SplitBlob`.

mod cutter;

pub use cutter::{Chunker, Cutter};

use crate::digest::{Digest, Hash};
use cutter::{GEAR, mask};

/// Smallest chunk in bytes, except a blob's last: a quarter of the average, as REAPI wants it.
pub const MIN_CHUNK: usize = AVG_CHUNK / 4;
/// Average chunk in bytes: REAPI's recommendation.
pub const AVG_CHUNK: usize = 512 * 1024;
/// Largest chunk in bytes. A blob that is not larger than this is one chunk, named like the blob.
pub const MAX_CHUNK: usize = AVG_CHUNK * 4;
/// Most chunks in one manifest: a blob of at least 128 GiB.
pub const MAX_CHUNKS: usize = 1 << 20;

/// Bytes that decide whether a chunk ends behind the last but one of them: the gear hash shifts by
/// one bit for each byte, so older ones have left it.
pub const CUT_WINDOW: usize = 64;

/// One chunk of a blob.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// BLAKE3 of the chunk's bytes.
    pub hash: Hash,
    /// Length in bytes, 1 to [`MAX_CHUNK`].
    pub len: u32,
}

/// The ordered chunks of one blob.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    blob: Digest,
    chunks: Vec<Chunk>,
}

/// Why a list of chunks cannot be the manifest of a blob.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ManifestError {
    /// The lengths do not add up to the blob's size.
    #[error("chunks of {sum} bytes cannot make a blob of {size} bytes")]
    Sum {
        /// Sum of the lengths in bytes.
        sum: u64,
        /// Size that the digest states.
        size: u64,
    },
    /// A chunk is empty or larger than [`MAX_CHUNK`].
    #[error("a chunk of {0} bytes is out of range")]
    Length(u32),
    /// More than [`MAX_CHUNKS`] chunks.
    #[error("{0} chunks are too many")]
    Count(usize),
}

impl Manifest {
    /// Checks that `chunks` can make up `blob`.
    pub fn new(blob: Digest, chunks: Vec<Chunk>) -> Result<Self, ManifestError> {
        if chunks.len() > MAX_CHUNKS {
            return Err(ManifestError::Count(chunks.len()));
        }
        if let Some(bad) = chunks.iter().find(|c| c.len == 0 || c.len as usize > MAX_CHUNK) {
            return Err(ManifestError::Length(bad.len));
        }
        let sum = chunks.iter().map(|c| u64::from(c.len)).sum();
        if sum != blob.size {
            return Err(ManifestError::Sum { sum, size: blob.size });
        }
        Ok(Self { blob, chunks })
    }

    /// The manifest of a blob of at most [`MAX_CHUNK`] bytes: itself, or nothing when it is empty.
    pub fn single(blob: Digest) -> Option<Self> {
        let len = u32::try_from(blob.size).ok().filter(|len| *len as usize <= MAX_CHUNK)?;
        let chunks = if len == 0 { Vec::new() } else { vec![Chunk { hash: blob.hash, len }] };
        Some(Self { blob, chunks })
    }

    /// The blob that the chunks make up.
    pub fn blob(&self) -> Digest {
        self.blob
    }

    /// The chunks in the order of the blob.
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// Tells this list of chunks from other lists of the same blob: the first 8 bytes of BLAKE3 over
    /// the hash and the length of each chunk, little-endian.
    pub fn list_id(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        for chunk in &self.chunks {
            hasher.update(chunk.hash.as_bytes()).update(&chunk.len.to_le_bytes());
        }
        let hash = hasher.finalize();
        let (head, _) = hash.as_bytes().split_first_chunk().unwrap_or((&[0; 8], &[]));
        u64::from_le_bytes(*head)
    }

    /// The chunks with their offsets in bytes from the start of the blob.
    pub fn offsets(&self) -> impl Iterator<Item = (u64, Chunk)> + '_ {
        self.chunks.iter().scan(0, |offset, chunk| {
            let at = *offset;
            *offset += u64::from(chunk.len);
            Some((at, *chunk))
        })
    }
}

/// Whether our own cut may end a chunk of `len` bytes where a stranger says that one ends. `last`
/// are the last bytes of that chunk, at least [`CUT_WINDOW`] less one of them, and `next` is the
/// byte behind it.
///
/// It looks at these bytes only, which costs next to nothing beside a whole cut. What it cannot see
/// is an end that was left out: a list of chunks all of whose ends pass may have fewer of them than
/// our own.
pub fn may_end(len: usize, last: &[u8], next: u8) -> bool {
    if !(MIN_CHUNK..MAX_CHUNK).contains(&len) {
        return len == MAX_CHUNK;
    }
    // The hash starts anew behind the smallest chunk.
    let window = (len - MIN_CHUNK).min(CUT_WINDOW - 1);
    let Some(start) = last.len().checked_sub(window) else { return false };
    let hash = GEAR.after(GEAR.after(0, &last[start..]), &[next]);
    hash & mask(len) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastcdc::v2020::{FastCDC, Normalization};
    use proptest::prelude::*;

    /// Bytes that look random and are the same everywhere (SplitMix64, Steele et al. 2014).
    fn noise(len: usize, mut seed: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = seed;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bytes.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    fn manifest_of(bytes: &[u8], piece: usize) -> Manifest {
        let mut chunker = Chunker::new();
        bytes.chunks(piece.max(1)).for_each(|piece| chunker.update(piece));
        chunker.finish()
    }

    /// Length of the first chunk of non-empty `bytes`, as the library cuts it.
    fn first_cut(bytes: &[u8], min: usize, avg: usize, max: usize) -> usize {
        let mut cutter = FastCDC::with_level(bytes, min, avg, max, Normalization::Level2);
        cutter.next().map_or(bytes.len(), |chunk| chunk.length)
    }

    fn cuts(bytes: &[u8], min: usize, avg: usize, max: usize) -> Vec<usize> {
        let mut lengths = Vec::new();
        let mut start = 0;
        while start < bytes.len() {
            let len = first_cut(&bytes[start..], min, avg, max);
            lengths.push(len);
            start += len;
        }
        lengths
    }

    /// The lengths come from an implementation of FastCDC-2020 of our own in another language, byte
    /// by byte and with its table made from MD5, which gives every offset and SHA-256 of the vectors
    /// that REAPI publishes (fastcdc2020_test_vectors.txt, seed 0; their input is an image that
    /// is not ours to include, so the vectors here are over bytes that anyone can make).
    #[test]
    fn cut_points_are_those_of_fastcdc_2020() {
        assert_eq!(
            cuts(&noise(200_001, 1), 4096, 16384, 65534),
            [
                16594, 11534, 16852, 17194, 19591, 26473, 7440, 16946, 19436, 20507, 8036, 17012,
                2386
            ]
        );
        assert_eq!(
            cuts(&vec![0; 300_000], 4096, 16384, 65534),
            [65534, 65534, 65534, 65534, 37864]
        );
        let bytes = noise(6_000_001, 7);
        let ours = [
            590_547, 398_241, 629_566, 575_282, 760_984, 855_651, 693_946, 821_670, 568_082,
            106_032,
        ];
        assert_eq!(cuts(&bytes, MIN_CHUNK, AVG_CHUNK, MAX_CHUNK), ours);
        assert_eq!(lengths(&manifest_of(&bytes, 100_000)), ours);
    }

    fn lengths(manifest: &Manifest) -> Vec<usize> {
        manifest.chunks().iter().map(|chunk| chunk.len as usize).collect()
    }

    /// A pair of bytes that is torn apart where a chunk ends, and one whose second byte never comes.
    #[test]
    fn a_chunk_ends_where_the_library_ends_it_wherever_pieces_and_blobs_end() {
        let bytes = noise(12_000_000, 5);
        let whole = cuts(&bytes, MIN_CHUNK, AVG_CHUNK, MAX_CHUNK);
        assert_eq!(lengths(&manifest_of(&bytes, bytes.len())), whole);
        let (mut end, mut parities) = (0, [0, 0]);
        for len in &whole[..whole.len() - 1] {
            end += len;
            parities[len % 2] += 1;
            for at in end - 1..=end + 2 {
                let mut chunker = Chunker::new();
                [&bytes[..at], &[], &bytes[at..]].iter().for_each(|piece| chunker.update(piece));
                assert_eq!(lengths(&chunker.finish()), whole, "torn at {at}, {end}");
                if at > MAX_CHUNK {
                    let cut = cuts(&bytes[..at], MIN_CHUNK, AVG_CHUNK, MAX_CHUNK);
                    assert_eq!(lengths(&manifest_of(&bytes[..at], at)), cut, "over at {at}");
                    assert_eq!(lengths(&manifest_of(&bytes[..at], 4095)), cut, "over at {at}");
                }
            }
        }
        assert!(parities.iter().all(|times| *times > 2), "{parities:?}");
    }

    #[test]
    fn what_repeats_itself_is_cut_as_the_library_cuts_it() {
        for period in [1, 2, 3, 64, 65, 1000, 4096, 150_000] {
            for seed in 0..4 {
                let part = noise(period, seed);
                let bytes: Vec<u8> = part.iter().copied().cycle().take(5_000_001).collect();
                let cut = cuts(&bytes, MIN_CHUNK, AVG_CHUNK, MAX_CHUNK);
                assert_eq!(lengths(&manifest_of(&bytes, 1 << 18)), cut, "{period}, {seed}");
                assert_eq!(lengths(&manifest_of(&bytes, 777)), cut, "{period}, {seed}");
            }
        }
    }

    #[test]
    fn a_blob_up_to_the_largest_chunk_is_one_chunk_named_like_the_blob() {
        for len in [0, 1, MAX_CHUNK] {
            let bytes = noise(len, 1);
            let manifest = manifest_of(&bytes, 4096);
            assert_eq!(Some(&manifest), Manifest::single(Digest::of(&bytes)).as_ref());
            assert_eq!(manifest.chunks().len(), usize::from(len > 0));
        }
        assert!(manifest_of(&noise(MAX_CHUNK + 1, 1), 1 << 20).chunks().len() > 1);
    }

    #[test]
    fn every_end_of_our_own_cut_may_be_one_and_hardly_any_other_place() {
        let bytes = noise(40_000_000, 21);
        let manifest = manifest_of(&bytes, 1 << 20);
        let may = |start: usize, len: usize| {
            let end = start + len;
            may_end(len, &bytes[start..end], bytes[end])
        };
        let mut wrong = 0;
        let ends = manifest.chunks().len() - 1;
        for (start, chunk) in manifest.offsets().take(ends) {
            let (start, len) = (start as usize, chunk.len as usize);
            assert!(may(start, len), "{start}");
            wrong += [len - 1, len - 1000, len / 2].iter().filter(|len| may(start, **len)).count();
        }
        assert_eq!(wrong, 0, "of {ends}");
        assert!(!may_end(MIN_CHUNK - 1, &bytes[..1000], 0));
        assert!(may_end(MAX_CHUNK, &bytes[..1000], 0));
        assert!(!may_end(AVG_CHUNK, &bytes[..10], 0));
    }

    #[test]
    fn an_end_right_behind_the_smallest_chunk_is_known_too() {
        // Some seed in about 30,000 ends the chunk within the window.
        let mut bytes = vec![0; MIN_CHUNK + CUT_WINDOW];
        let found = (0..2_000_000).find_map(|seed| {
            bytes[MIN_CHUNK..].copy_from_slice(&noise(CUT_WINDOW, seed));
            let len = first_cut(&bytes, MIN_CHUNK, AVG_CHUNK, MAX_CHUNK);
            (len < bytes.len()).then_some(len)
        });
        let len = found.unwrap();
        assert!(may_end(len, &bytes[..len], bytes[len]), "{len}");
    }

    #[test]
    fn an_insertion_changes_only_the_chunks_near_it() {
        let old = noise(12 << 20, 2);
        let mut new = old.clone();
        new.splice(3 << 20..3 << 20, *b"a few bytes more");
        let (old, new) = (manifest_of(&old, 1 << 16), manifest_of(&new, 1 << 16));
        let known: std::collections::HashSet<_> = old.chunks().iter().map(|c| c.hash).collect();
        let changed = new.chunks().iter().filter(|c| !known.contains(&c.hash)).count();
        assert!(changed <= 2, "{changed} of {}", new.chunks().len());
    }

    #[test]
    fn a_hostile_manifest_is_refused() {
        let blob = Digest { hash: Hash([1; 32]), size: 10 };
        let chunk = |len| Chunk { hash: Hash([2; 32]), len };
        assert!(matches!(Manifest::new(blob, vec![chunk(9)]), Err(ManifestError::Sum { .. })));
        assert!(matches!(
            Manifest::new(blob, vec![chunk(10), chunk(0)]),
            Err(ManifestError::Length(0))
        ));
        let huge = Digest { size: u64::from(u32::MAX), ..blob };
        assert!(matches!(
            Manifest::new(huge, vec![chunk(u32::MAX)]),
            Err(ManifestError::Length(_))
        ));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn chunks_make_up_the_blob_however_it_arrives(
            len in 0usize..(6 << 20), seed: u64, piece in 1usize..(3 << 20)
        ) {
            let bytes = noise(len, seed);
            let manifest = manifest_of(&bytes, piece);
            prop_assert_eq!(&manifest, &manifest_of(&bytes, len));
            if len > MAX_CHUNK {
                prop_assert_eq!(lengths(&manifest), cuts(&bytes, MIN_CHUNK, AVG_CHUNK, MAX_CHUNK));
            }
            prop_assert_eq!(manifest.blob(), Digest::of(&bytes));
            for (at, chunk) in manifest.offsets() {
                let part = &bytes[at as usize..][..chunk.len as usize];
                prop_assert_eq!(chunk.hash, Hash::of(part));
            }
            prop_assert!(Manifest::new(manifest.blob(), manifest.chunks().to_vec()).is_ok());
        }
    }
}
