//! How much of a blob a provider has: the answer to [`Request::Parts`](crate::data::Request::Parts).
//!
//! A frame says it of one blob. It is empty when the provider has nothing of it to give, the byte 1
//! when it has it whole, and else the byte 2, the [list](netbuild_core::chunk::Manifest::list_id) of its chunks and their
//! count as little-endian, and a bit for each of them.

use crate::{
    codec::DecodeError,
    data::{packed, unpacked},
};
use netbuild_core::{
    chunk::{MAX_CHUNKS, MIN_CHUNK},
    digest::Digest,
};

const WHOLE: u8 = 1;
const ARRIVING: u8 = 2;
/// Bytes before the bits: what it is, the list, the count.
const HEAD: usize = 1 + 8 + 4;
/// Most bytes of a frame.
pub const MAX_PARTS: usize = HEAD + MAX_CHUNKS / 8;

/// What a provider has of a blob.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Parts {
    /// Nothing.
    None,
    /// All of it.
    Whole,
    /// It is on its way there.
    Arriving {
        /// The [list](netbuild_core::chunk::Manifest::list_id) of chunks in which it arrives.
        list: u64,
        /// Which of these chunks are there.
        has: Vec<bool>,
    },
}

/// Most bytes of a frame about a blob of this size.
pub fn most_bytes(blob: &Digest) -> usize {
    let chunks =
        usize::try_from(blob.size / MIN_CHUNK as u64).map_or(MAX_CHUNKS, |count| count + 1);
    HEAD + chunks.min(MAX_CHUNKS).div_ceil(8)
}

/// The content of a frame.
pub fn encode(parts: &Parts) -> Vec<u8> {
    match parts {
        Parts::None => Vec::new(),
        Parts::Whole => vec![WHOLE],
        Parts::Arriving { list, has } => {
            let mut bytes = vec![ARRIVING];
            bytes.extend(list.to_le_bytes());
            bytes.extend((has.len() as u32).to_le_bytes());
            bytes.extend(packed(has));
            bytes
        }
    }
}

/// Reads a frame about a blob.
pub fn decode(blob: &Digest, bytes: &[u8]) -> Result<Parts, DecodeError> {
    let limit = most_bytes(blob);
    if bytes.len() > limit {
        return Err(DecodeError::TooLong { len: bytes.len(), limit });
    }
    let parts = match (bytes.first(), bytes.split_first_chunk::<HEAD>()) {
        (None, _) => Parts::None,
        (Some(&WHOLE), _) => Parts::Whole,
        (Some(&ARRIVING), Some(([_, a, b, c, d, e, f, g, h, k, l, m, n], bits))) => {
            let list = u64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]);
            let count = u32::from_le_bytes([*k, *l, *m, *n]);
            // No more bits than there are bytes for: that is bounded above.
            Parts::Arriving { list, has: unpacked(count as usize, bits) }
        }
        _ => return Err(DecodeError::Invalid("what somebody has of a blob is cut off".into())),
    };
    // There is one way to say it, and this is it.
    if bytes == encode(&parts) {
        return Ok(parts);
    }
    Err(DecodeError::Invalid(format!("{} bytes say nothing of a blob", bytes.len())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::digest::Hash;
    use proptest::prelude::*;

    fn blob(size: u64) -> Digest {
        Digest { hash: Hash([7; 32]), size }
    }

    #[test]
    fn nothing_and_everything_are_short() {
        for (parts, len) in [(Parts::None, 0), (Parts::Whole, 1)] {
            let bytes = encode(&parts);
            assert_eq!(bytes.len(), len);
            assert_eq!(decode(&blob(0), &bytes).unwrap(), parts);
        }
        let most = Parts::Arriving { list: 0, has: vec![true; MAX_CHUNKS] };
        let bytes = encode(&most);
        assert_eq!((bytes.len(), most_bytes(&blob(u64::MAX))), (MAX_PARTS, MAX_PARTS));
        assert_eq!(decode(&blob(u64::MAX), &bytes).unwrap(), most);
        assert!(decode(&blob(1 << 20), &bytes).is_err(), "more chunks than it can have");
    }

    proptest! {
        #[test]
        fn parts_read_back_and_only_as_what_they_are(
            has in prop::collection::vec(any::<bool>(), 0..300), list: u64,
            flip in any::<prop::sample::Index>(),
        ) {
            let parts = Parts::Arriving { list, has };
            let size = 300 * MIN_CHUNK as u64;
            let mut bytes = encode(&parts);
            prop_assert_eq!(&decode(&blob(size), &bytes).unwrap(), &parts);
            let at = flip.index(bytes.len() * 8);
            bytes[at / 8] ^= 1 << (at % 8);
            prop_assert!(decode(&blob(size), &bytes).map_or(true, |other| other != parts));
        }

        #[test]
        fn any_bytes_are_refused_or_read_back(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(parts) = decode(&blob(1 << 30), &bytes) {
                prop_assert_eq!(encode(&parts), bytes);
            }
        }
    }
}
