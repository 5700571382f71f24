//! Deltas as they are sent: a segment of a target, encoded against a base that both ends hold.
//!
//! An encoded segment is a tag and either the four streams of a [`Patch`], each packed by zstd, or
//! one zstd frame whose prefix is the part of the base around the segment. It says nothing of which
//! base and which segment it is: the request does. It is checked against every bound before
//! anything is allocated, but that it makes the right bytes only their digest can tell.

use bytes::Bytes;
use netbuild_core::delta::{self, DeltaError, Index, MAX_BASE, Method, Patch, diff};
use std::io::{Read, Write};
use std::sync::OnceLock;
use zstd::stream::{read, write};

/// Longest segment in bytes: a run of whole chunks that was cut at 8 MiB, with room for what goes
/// over. It bounds the memory of both ends.
pub const MAX_SEGMENT: usize = 16 << 20;
/// Bytes of the base before and after a segment that are its prefix. A program grows less than this
/// by one change, and zstd reads all of the prefix for every segment.
const AROUND: usize = 8 << 20;
/// Longest prefix in bytes.
const MAX_PREFIX: usize = MAX_SEGMENT + 2 * AROUND;
/// Logarithm of the window that a prefix and a segment fit, and the most that a decoder grants.
const WINDOW_LOG: u32 = 26;
/// Level of zstd with a prefix. This method is for links on which speed counts.
const PREFIX_LEVEL: i32 = 3;
/// Level of zstd for the streams of a patch, which are a twentieth of a segment. Of real pairs, level 19
/// saves up to 5 % of the patch for three times the seconds, and level 3 loses 4 to 34 %.
const PATCH_LEVEL: i32 = 15;
/// Level for a stream that is not short: literals of a segment that is unlike the base.
const LONG_LEVEL: i32 = 6;
/// A stream is long from this share of its segment on.
const LONG_SHARE: usize = 4;

/// 1 was a patch without guessed adjustments.
const TAG_PATCH: u8 = 3;
const TAG_PREFIX: u8 = 2;

/// Why a segment cannot be encoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// Longer than [`MAX_SEGMENT`].
    #[error("a segment of {0} bytes is too long for a delta")]
    Segment(usize),
    /// The base is longer than [`MAX_BASE`].
    #[error("a base of {0} bytes is too long for a delta")]
    Base(usize),
    /// zstd failed, for want of memory most likely.
    #[error("zstd cannot pack a delta")]
    Zstd(#[source] std::io::Error),
}

/// Why an encoded segment cannot be decoded. `E` is the error of reading the base.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError<E> {
    /// Not an encoded segment, or one that breaks a bound.
    #[error("malformed delta: {0}")]
    Malformed(&'static str),
    /// What zstd says of a stream.
    #[error("malformed delta")]
    Zstd(#[source] std::io::Error),
    /// The patch does not apply, or the base could not be read.
    #[error(transparent)]
    Patch(#[from] DeltaError<E>),
}

/// Encodes segments of targets against one base. Cheap to share, since it never changes.
#[derive(Debug)]
pub struct Encoder {
    base: Bytes,
    index: OnceLock<Index>,
}

impl Encoder {
    /// An encoder with a base of at most [`MAX_BASE`] bytes. The index is made with the first patch;
    /// it takes at most [`MAX_TABLE`](netbuild_core::delta::MAX_TABLE) bytes beside the base.
    pub fn new(base: Bytes) -> Result<Self, EncodeError> {
        match base.len() <= MAX_BASE {
            true => Ok(Self { base, index: OnceLock::new() }),
            false => Err(EncodeError::Base(base.len())),
        }
    }

    /// Encodes the segment that starts at `offset` in its target. [`Method::Whole`] makes a frame
    /// without a prefix.
    ///
    /// A patch that is larger than [`decode`] accepts, which only a segment unlike the base can
    /// have, becomes a frame with a prefix.
    pub fn encode(
        &self,
        segment: &[u8],
        offset: u64,
        method: Method,
    ) -> Result<Vec<u8>, EncodeError> {
        if segment.len() > MAX_SEGMENT {
            return Err(EncodeError::Segment(segment.len()));
        }
        let near = usize::try_from(offset).unwrap_or(usize::MAX).min(self.base.len());
        match method {
            Method::Whole => prefixed(&self.base, 0..0, segment),
            Method::Prefix => prefixed(&self.base, self.around(near, segment.len()), segment),
            Method::Patch => {
                let index = self.index.get_or_init(|| Index::new(&self.base));
                let patch = diff(index, &self.base, segment, near);
                match patch.fits(segment.len()) {
                    true => packed(&patch, segment.len() / LONG_SHARE),
                    false => prefixed(&self.base, self.around(near, segment.len()), segment),
                }
            }
        }
        .map_err(EncodeError::Zstd)
    }

    fn around(&self, near: usize, len: usize) -> std::ops::Range<usize> {
        near.saturating_sub(AROUND)..self.base.len().min(near + len + AROUND)
    }
}

/// Most bytes that a segment of `len` bytes is encoded in: what a receiver has to accept.
pub fn max_encoded(len: usize) -> usize {
    let streams: usize = Patch::limits(len).into_iter().map(zstd::zstd_safe::compress_bound).sum();
    1 + HEADER + streams
}

/// Decodes what [`Encoder::encode`] made of `expected` bytes.
///
/// `read` fills a buffer with the bytes of the base at an offset, within `base_len`. Memory is the
/// segment, and the streams of its patch, or the prefix and at most 64 MiB for the window of zstd.
pub fn decode<E>(
    base_len: u64,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
    encoded: &[u8],
    expected: usize,
) -> Result<Vec<u8>, DecodeError<E>> {
    if expected > MAX_SEGMENT {
        return Err(DecodeError::Malformed("the segment is too long"));
    }
    match encoded.split_first() {
        Some((&TAG_PATCH, rest)) => {
            let patch = unpacked(rest, expected)?;
            Ok(delta::apply(base_len, read, &patch, expected)?)
        }
        Some((&TAG_PREFIX, rest)) => {
            let (at, len, frame) = prefix_header(rest)
                .ok_or(DecodeError::Malformed("the header of the prefix is cut short"))?;
            if len > MAX_PREFIX || at.checked_add(len as u64).is_none_or(|end| end > base_len) {
                return Err(DecodeError::Malformed("the prefix is not in the base"));
            }
            let mut prefix = vec![0; len];
            read(at, &mut prefix).map_err(DeltaError::Read)?;
            unprefixed(&prefix, frame, expected)
        }
        _ => Err(DecodeError::Malformed("the tag is unknown")),
    }
}

/// Bytes of the header of a patch: for each stream its length and its packed length.
const HEADER: usize = 8 * 4;

fn packed(patch: &Patch, long: usize) -> std::io::Result<Vec<u8>> {
    let mut out = vec![TAG_PATCH];
    let mut payload = Vec::new();
    for stream in [&patch.control, &patch.gaps, &patch.adjustments, &patch.literals] {
        let level = if stream.len() > long { LONG_LEVEL } else { PATCH_LEVEL };
        let pack = zstd::bulk::compress(stream, level)?;
        // Both are below the limits of a patch of MAX_SEGMENT bytes.
        out.extend_from_slice(&(stream.len() as u32).to_le_bytes());
        out.extend_from_slice(&(pack.len() as u32).to_le_bytes());
        payload.extend_from_slice(&pack);
    }
    out.extend_from_slice(&payload);
    Ok(out)
}

fn unpacked<E>(bytes: &[u8], expected: usize) -> Result<Patch, DecodeError<E>> {
    let cut = DecodeError::Malformed("the streams are cut short");
    let Some((header, mut payload)) = bytes.split_at_checked(HEADER) else { return Err(cut) };
    let mut numbers = header.chunks_exact(4).map(|b| load(b) as usize);
    let mut stream = |limit: usize| {
        let (len, packed) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if len > limit {
            return Err(DecodeError::Malformed("a stream is too long"));
        }
        let Some((now, later)) = payload.split_at_checked(packed) else {
            return Err(DecodeError::Malformed("the streams are cut short"));
        };
        payload = later;
        let stream = zstd::bulk::decompress(now, len).map_err(DecodeError::Zstd)?;
        match stream.len() == len {
            true => Ok(stream),
            false => Err(DecodeError::Malformed("a stream is shorter than it says")),
        }
    };
    let [control, gaps, adjustments, literals] = Patch::limits(expected);
    let patch = Patch {
        control: stream(control)?,
        gaps: stream(gaps)?,
        adjustments: stream(adjustments)?,
        literals: stream(literals)?,
    };
    match payload.is_empty() {
        true => Ok(patch),
        false => Err(DecodeError::Malformed("there are bytes after the streams")),
    }
}

fn prefixed(
    base: &[u8],
    prefix: std::ops::Range<usize>,
    segment: &[u8],
) -> std::io::Result<Vec<u8>> {
    let mut out = vec![TAG_PREFIX];
    out.extend_from_slice(&(prefix.start as u64).to_le_bytes());
    out.extend_from_slice(&(prefix.len() as u32).to_le_bytes());
    let mut encoder = write::Encoder::with_ref_prefix(out, PREFIX_LEVEL, &base[prefix])?;
    encoder.window_log(WINDOW_LOG)?;
    encoder.long_distance_matching(true)?;
    encoder.set_pledged_src_size(Some(segment.len() as u64))?;
    encoder.write_all(segment)?;
    encoder.finish()
}

fn prefix_header(bytes: &[u8]) -> Option<(u64, usize, &[u8])> {
    let (at, rest) = bytes.split_first_chunk()?;
    let (len, frame) = rest.split_first_chunk()?;
    Some((u64::from_le_bytes(*at), u32::from_le_bytes(*len) as usize, frame))
}

fn unprefixed<E>(prefix: &[u8], frame: &[u8], expected: usize) -> Result<Vec<u8>, DecodeError<E>> {
    let mut decoder = read::Decoder::with_ref_prefix(frame, prefix).map_err(DecodeError::Zstd)?;
    decoder.window_log_max(WINDOW_LOG).map_err(DecodeError::Zstd)?;
    let mut made = Vec::with_capacity(expected);
    // One byte more than expected tells that there is more.
    let read = decoder.take(expected as u64 + 1).read_to_end(&mut made);
    read.map_err(DecodeError::Zstd)?;
    match made.len() == expected {
        true => Ok(made),
        false => Err(DecodeError::Malformed("the frame has another length")),
    }
}

fn load(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::convert::Infallible;

    const METHODS: [Method; 3] = [Method::Whole, Method::Prefix, Method::Patch];

    fn encoder(base: &[u8]) -> Encoder {
        Encoder::new(Bytes::copy_from_slice(base)).unwrap()
    }

    fn decoded(
        base: &[u8],
        encoded: &[u8],
        expected: usize,
    ) -> Result<Vec<u8>, DecodeError<Infallible>> {
        let read = |at: u64, into: &mut [u8]| {
            into.copy_from_slice(&base[at as usize..][..into.len()]);
            Ok(())
        };
        decode(base.len() as u64, read, encoded, expected)
    }

    /// Bytes that look random and are the same everywhere (SplitMix64, Steele et al. 2014).
    fn noise(len: usize, mut seed: u64) -> Vec<u8> {
        let next = || {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = seed;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) as u8
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    fn changed(base: &[u8]) -> Vec<u8> {
        let mut target = base.to_vec();
        target.iter_mut().step_by(97).for_each(|byte| *byte = byte.wrapping_add(3));
        let at = target.len() / 2;
        target.splice(at..at, *b"a new function");
        target
    }

    #[test]
    fn every_method_gives_the_segment_back() {
        let base = noise(300_000, 1);
        let target = changed(&base);
        let encoder = encoder(&base);
        for method in METHODS {
            let mut made = Vec::new();
            for (number, segment) in target.chunks(100_000).enumerate() {
                let offset = number as u64 * 100_000;
                let encoded = encoder.encode(segment, offset, method).unwrap();
                assert!(encoded.len() <= max_encoded(segment.len()));
                made.extend(decoded(&base, &encoded, segment.len()).unwrap());
            }
            assert!(made == target, "{method:?}");
        }
    }

    #[test]
    fn a_patch_of_scattered_changes_is_a_fraction_of_the_other_methods() {
        let base = noise(300_000, 1);
        let target = changed(&base);
        let encoder = encoder(&base);
        let [whole, prefix, patch] = METHODS.map(|m| encoder.encode(&target, 0, m).unwrap().len());
        assert!(patch * 5 < prefix && patch * 20 < whole, "{patch}, {prefix}, {whole}");
    }

    #[test]
    fn a_bomb_or_a_lie_about_the_size_is_refused() {
        let base = noise(1000, 1);
        let encoder = encoder(&base);
        let zeros = vec![0; MAX_SEGMENT];
        for method in METHODS {
            let bomb = encoder.encode(&zeros, 0, method).unwrap();
            assert!(decoded(&base, &bomb, 100).is_err(), "{method:?}");
            assert!(decoded(&base, &bomb, MAX_SEGMENT - 1).is_err(), "{method:?}");
        }
        // A stream that claims to be short and unpacks to much more.
        let bomb = zstd::bulk::compress(&zeros, 19).unwrap();
        let mut encoded = vec![TAG_PATCH];
        for (len, packed) in [(10, bomb.len()), (0, 0), (0, 0), (0, 0)] {
            encoded.extend((len as u32).to_le_bytes());
            encoded.extend((packed as u32).to_le_bytes());
        }
        encoded.extend(bomb);
        assert!(matches!(decoded(&base, &encoded, 100), Err(DecodeError::Zstd(_))));
        let huge = vec![0; MAX_SEGMENT + 1];
        assert!(matches!(encoder.encode(&huge, 0, Method::Patch), Err(EncodeError::Segment(_))));
        assert!(decoded(&base, &[], 0).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_segment_of_any_base_comes_back(
            base in vec(any::<u8>(), 0..4000), segment in vec(0u8..4, 0..4000), offset: u64
        ) {
            let encoder = encoder(&base);
            for method in METHODS {
                let encoded = encoder.encode(&segment, offset, method).unwrap();
                prop_assert!(encoded.len() <= max_encoded(segment.len()));
                prop_assert_eq!(&decoded(&base, &encoded, segment.len()).unwrap(), &segment);
            }
        }

        #[test]
        fn a_damaged_delta_makes_the_expected_length_or_an_error(
            damage in vec((any::<usize>(), any::<u8>()), 1..5), cut: usize, method in 0usize..3
        ) {
            let base = noise(5000, 1);
            let target = changed(&base);
            let mut encoded = encoder(&base).encode(&target, 0, METHODS[method]).unwrap();
            for (at, byte) in damage {
                let at = at % encoded.len();
                encoded[at] = byte;
            }
            if cut % 4 == 0 {
                encoded.truncate(cut % encoded.len());
            }
            if let Ok(made) = decoded(&base, &encoded, target.len()) {
                prop_assert_eq!(made.len(), target.len());
            }
        }
    }
}
