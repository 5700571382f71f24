//! Codes and decodes the bytes of runs. Everything here blocks for as long as the work takes.

use crate::delta;
use bytes::Bytes;
use flate2::{Compression, bufread::GzDecoder, write::GzEncoder};
use netbuild_core::codec::Codec;
use netbuild_proto::data::Coding;
use std::io::{Read, Write};

/// Pieces of a run that are looked at to tell what kind of data it is, and the length of each:
/// together they take some tens of microseconds, little against sending half a mebibyte on any
/// link that is slow enough for coding to pay.
const SAMPLES: usize = 3;
const SAMPLE: usize = 4 * 1024;
/// The level that samples are coded with: the fastest.
const SAMPLE_LEVEL: i32 = 1;

/// A body that is not what it claims to be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadBody {
    /// The codec does not take it, or it is longer than it claims to be.
    #[error("not decoded: {0}")]
    Codec(#[from] std::io::Error),
    /// It is shorter than it claims to be.
    #[error("{len} bytes instead of {expected}")]
    Short {
        /// What there is.
        len: usize,
        /// What was claimed.
        expected: usize,
    },
    /// Something follows the end.
    #[error("something follows its end")]
    Trailing,
    /// A patch that is none, or not one against its base.
    #[error("not patched: {0}")]
    Patch(#[from] delta::DecodeError<OutOfBase>),
    /// It names a base that was not asked for.
    #[error("a patch against base {0}")]
    Base(u8),
    /// This coding has no body, or none that can be decoded alone.
    #[error("a body of {0}")]
    NotHere(Coding),
}

/// Codes bytes; `None` when the result would not be shorter.
pub(crate) fn encode(codec: Codec, bytes: &[u8]) -> Option<Vec<u8>> {
    let coded = match codec {
        Codec::Identity => return None,
        Codec::Gzip(level) => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level.into()));
            encoder.write_all(bytes).and_then(|()| encoder.finish())
        }
        Codec::Zstd(level) => zstd::bulk::compress(bytes, level.into()),
    };
    // Neither fails for anything but a level that does not exist, or memory that does not.
    let coded = coded.inspect_err(|error| tracing::warn!(%codec, %error, "cannot code"));
    coded.ok().filter(|coded| coded.len() < bytes.len())
}

/// How a codec is told on the wire.
pub(crate) fn coding(codec: Codec) -> Coding {
    match codec {
        Codec::Identity => Coding::Identity,
        Codec::Gzip(_) => Coding::Gzip,
        Codec::Zstd(_) => Coding::Zstd,
    }
}

/// Decodes a body that must be of exactly `expected` bytes. No more memory than that is taken,
/// whatever the body says: zstd decodes into the result itself and needs no window beside it.
pub(crate) fn decode(coding: Coding, body: &Bytes, expected: usize) -> Result<Bytes, BadBody> {
    let decoded = match coding {
        Coding::Identity => return Ok(body.clone()),
        Coding::Zstd => zstd::bulk::decompress(body, expected)?,
        Coding::Gzip => {
            let mut decoder = GzDecoder::new(&body[..]);
            let mut decoded = vec![0; expected];
            decoder.read_exact(&mut decoded)?;
            // The end is read for its checksum, and for what a bomb has beyond its claim.
            if decoder.read(&mut [0])? > 0 || !decoder.into_inner().is_empty() {
                return Err(BadBody::Trailing);
            }
            decoded
        }
        Coding::Absent | Coding::Delta => return Err(BadBody::NotHere(coding)),
    };
    if decoded.len() != expected {
        return Err(BadBody::Short { len: decoded.len(), expected });
    }
    Ok(decoded.into())
}

/// A patch reads beyond its base.
#[derive(Debug, thiserror::Error)]
#[error("it is not in the base")]
pub(crate) struct OutOfBase;

/// Makes the bytes of a run from a patch of `base`. No more memory is taken than for those, and for
/// the patch unpacked, which is bounded by their length.
pub(crate) fn apply(base: &[u8], patch: &[u8], expected: usize) -> Result<Bytes, BadBody> {
    let read = |at: u64, into: &mut [u8]| {
        let from = usize::try_from(at).ok().and_then(|at| base.get(at..)?.get(..into.len()));
        into.copy_from_slice(from.ok_or(OutOfBase)?);
        Ok(())
    };
    Ok(delta::decode(base.len() as u64, read, patch, expected)?.into())
}

/// Codes a few pieces of a run: how many bytes were looked at, and what they became.
pub(crate) fn sample(run: &[u8]) -> (usize, usize) {
    let step = run.len() / SAMPLES;
    let pieces: Vec<u8> = if step <= SAMPLE {
        run[..run.len().min(SAMPLES * SAMPLE)].to_vec()
    } else {
        let piece = |number: usize| &run[number * step + (step - SAMPLE) / 2..][..SAMPLE];
        (0..SAMPLES).flat_map(piece).copied().collect()
    };
    let coded = zstd::bulk::compress(&pieces, SAMPLE_LEVEL);
    (pieces.len(), coded.map_or(usize::MAX, |coded| coded.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::codec::Kind;
    use proptest::prelude::*;

    const CODECS: [Codec; 4] = [Codec::Gzip(1), Codec::Gzip(9), Codec::Zstd(1), Codec::Zstd(22)];

    fn text(len: usize) -> Vec<u8> {
        (0..len).map(|at| b"some words, again and again"[at % 27] ^ (at / 5000) as u8).collect()
    }

    /// SplitMix64 (Steele, Lea and Flood, 2014).
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed ^ (mixed >> 31)) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn what_was_coded_is_decoded_and_noise_is_not_coded() {
        let (text, noise) = (text(100_000), noise(100_000));
        for codec in CODECS {
            let coded = encode(codec, &text).unwrap();
            assert!(coded.len() < 5000, "{codec}: {}", coded.len());
            assert_eq!(decode(coding(codec), &coded.into(), text.len()).unwrap(), text);
            assert_eq!(encode(codec, &noise), None);
            assert_eq!(encode(codec, b""), None);
        }
        assert_eq!(encode(Codec::Identity, &text), None);
    }

    #[test]
    fn a_body_is_exactly_as_long_as_it_claims_or_nothing() {
        let text = text(100_000);
        for codec in CODECS {
            let coded = encode(codec, &text).unwrap();
            let bad = |body: Vec<u8>, expected| {
                assert!(decode(coding(codec), &body.into(), expected).is_err(), "{codec}");
            };
            bad(coded.clone(), text.len() - 1);
            bad(coded.clone(), text.len() + 1);
            bad(coded[..coded.len() - 1].to_vec(), text.len());
            bad([&coded[..], b"!"].concat(), text.len());
            bad([&coded[..], &coded].concat(), text.len());
            bad(Vec::new(), 1);
        }
        assert!(decode(Coding::Absent, &Bytes::new(), 0).is_err());
        assert!(decode(Coding::Delta, &Bytes::new(), 0).is_err());
    }

    #[test]
    fn a_bomb_takes_no_more_memory_than_was_asked_for() {
        let zeroes = vec![0; 64 << 20];
        for codec in [Codec::Gzip(9), Codec::Zstd(19)] {
            let bomb = Bytes::from(encode(codec, &zeroes).unwrap());
            assert!(bomb.len() < 100_000);
            assert!(decode(coding(codec), &bomb, 100_000).is_err());
        }
    }

    #[test]
    fn a_sample_tells_text_from_noise() {
        for len in [1, 100, 12_287, 12_288, 12_289, 300_000] {
            let (looked, coded) = sample(&noise(len));
            assert_eq!((looked, Kind::of(looked, coded)), (len.min(SAMPLES * SAMPLE), None));
        }
        let (looked, coded) = sample(&text(300_000));
        assert!(Kind::of(looked, coded).is_some());
    }

    proptest! {
        #[test]
        fn a_hostile_body_never_panics(
            body in prop::collection::vec(any::<u8>(), 0..500),
            expected in 0..2000_usize,
        ) {
            for coding in [Coding::Gzip, Coding::Zstd] {
                if let Ok(bytes) = decode(coding, &body.clone().into(), expected) {
                    prop_assert_eq!(bytes.len(), expected);
                }
            }
        }

        #[test]
        fn a_damaged_body_never_panics_and_has_the_right_length_at_most(
            flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u8), 1..4),
            which in 0..CODECS.len(),
        ) {
            let (codec, text) = (CODECS[which], text(20_000));
            let mut coded = encode(codec, &text).unwrap();
            for (at, bit) in flips {
                let at = at.index(coded.len());
                coded[at] ^= 1 << bit;
            }
            if let Ok(bytes) = decode(coding(codec), &coded.into(), text.len()) {
                prop_assert_eq!(bytes.len(), text.len());
            }
        }
    }
}
