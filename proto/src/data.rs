//! The data plane: what a requester asks of a provider on one QUIC stream, and how it is answered.
//!
//! A stream carries request frames one after the other, until the requester ends it, and their
//! answers in the same order; a requester may send the next request before the answers to the last
//! one are there. A frame is its length as 32-bit little-endian, then that many bytes.
//!
//! | request | answer |
//! |---|---|
//! | records, manifests | a frame for each thing asked for, an empty one when the provider lacks it |
//! | chunks | raw: a frame of exactly the chunk's length, or an empty one |
//! | has | one frame, a [bitmap](encode_bitmap) |
//! | bring | [`HEARTBEAT`] frames while the provider works on it, then the bitmap |
//! | probe | one frame of exactly the length asked for, or an empty one when there was enough of that |

use crate::{
    codec::{self, DecodeError},
    record::DigestV1,
};
use bincode::{Decode, Encode};
use netbuild_core::{
    chunk::{Chunk, MAX_CHUNKS, Manifest},
    digest::{Digest, Hash},
    key::ActionKey,
};

/// Most bytes of a request frame.
pub const MAX_REQUEST: usize = 64 * 1024;
/// Most bytes of a manifest frame: [`MAX_CHUNKS`] chunks of at most 37 bytes.
pub const MAX_MANIFEST: usize = MAX_CHUNKS * 37 + 64;
/// Most bytes of one chunk of a manifest: a hash and a number.
const MAX_CHUNK_BYTES: usize = 37;
/// Most keys, blobs or chunks in one request, well within [`MAX_REQUEST`].
pub const MAX_ITEMS: usize = 1024;
/// Most bytes that a probe may ask for: enough to fill 100 Mbit/s over 80 ms.
pub const MAX_PROBE: u32 = 1 << 20;
/// Content of the frame that says "still at it" in answer to [`Request::Bring`]. No bitmap is as
/// short.
pub const HEARTBEAT: [u8; 1] = [0];
/// Most bytes of a bitmap frame: its count and a bit for each of [`MAX_ITEMS`].
pub const MAX_BITMAP: usize = 2 + MAX_ITEMS / 8;

/// What a requester asks for on one stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Sealed records, one frame each.
    Records(Vec<ActionKey>),
    /// Manifests of blobs, one frame each.
    Manifests(Vec<Digest>),
    /// Chunks of any blobs, one frame each.
    Chunks(Vec<Chunk>),
    /// Which of these blobs the provider has whole.
    Has(Vec<Digest>),
    /// The provider should get these blobs from wherever it can, and then say which it has.
    Bring(Vec<Digest>),
    /// Bytes without meaning, to measure the way; at most [`MAX_PROBE`].
    Probe {
        /// How many.
        bytes: u32,
    },
}

#[derive(Encode, Decode)]
struct ChunkV1 {
    hash: [u8; 32],
    len: u32,
}

#[derive(Encode, Decode)]
enum RequestV1 {
    Records(Vec<[u8; 32]>),
    Manifests(Vec<DigestV1>),
    Chunks(Vec<ChunkV1>),
    Has(Vec<DigestV1>),
    Bring(Vec<DigestV1>),
    Probe(u32),
}

fn blobs_to_wire(blobs: &[Digest]) -> Vec<DigestV1> {
    blobs.iter().copied().map(DigestV1::from).collect()
}

fn blobs_from_wire(wire: Vec<DigestV1>) -> Vec<Digest> {
    wire.into_iter().map(Digest::from).collect()
}

fn chunks_to_wire(chunks: &[Chunk]) -> Vec<ChunkV1> {
    chunks.iter().map(|chunk| ChunkV1 { hash: chunk.hash.0, len: chunk.len }).collect()
}

fn chunks_from_wire(wire: Vec<ChunkV1>) -> Vec<Chunk> {
    wire.into_iter().map(|chunk| Chunk { hash: Hash(chunk.hash), len: chunk.len }).collect()
}

impl Request {
    /// The frame's content. At most [`MAX_ITEMS`] items may be asked for at once.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(&match self {
            Self::Records(keys) => RequestV1::Records(keys.iter().map(|key| key.0).collect()),
            Self::Manifests(blobs) => RequestV1::Manifests(blobs_to_wire(blobs)),
            Self::Chunks(chunks) => RequestV1::Chunks(chunks_to_wire(chunks)),
            Self::Has(blobs) => RequestV1::Has(blobs_to_wire(blobs)),
            Self::Bring(blobs) => RequestV1::Bring(blobs_to_wire(blobs)),
            Self::Probe { bytes } => RequestV1::Probe(*bytes),
        })
    }

    /// Reads and checks a request frame.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let request = match codec::decode::<RequestV1, MAX_REQUEST>(bytes)? {
            RequestV1::Records(keys) => Self::Records(keys.into_iter().map(ActionKey).collect()),
            RequestV1::Manifests(blobs) => Self::Manifests(blobs_from_wire(blobs)),
            RequestV1::Chunks(chunks) => Self::Chunks(chunks_from_wire(chunks)),
            RequestV1::Has(blobs) => Self::Has(blobs_from_wire(blobs)),
            RequestV1::Bring(blobs) => Self::Bring(blobs_from_wire(blobs)),
            RequestV1::Probe(bytes) if bytes <= MAX_PROBE => Self::Probe { bytes },
            RequestV1::Probe(bytes) => {
                return Err(DecodeError::Invalid(format!("a probe of {bytes} bytes")));
            }
        };
        match request.items() {
            0..=MAX_ITEMS => Ok(request),
            count => Err(DecodeError::Invalid(format!("{count} things asked for at once"))),
        }
    }

    /// How many things are asked for.
    pub fn items(&self) -> usize {
        match self {
            Self::Records(keys) => keys.len(),
            Self::Manifests(blobs) | Self::Has(blobs) | Self::Bring(blobs) => blobs.len(),
            Self::Chunks(chunks) => chunks.len(),
            Self::Probe { .. } => 1,
        }
    }
}

/// The content of the frame that answers [`Request::Has`] and [`Request::Bring`]: how many bits as
/// 16-bit little-endian, then the bits, the first in the lowest place of the first byte and zeroes
/// behind the last. There are at most [`MAX_ITEMS`].
pub fn encode_bitmap(bits: &[bool]) -> Vec<u8> {
    let mut bytes = (bits.len() as u16).to_le_bytes().to_vec();
    bytes.extend(bits.chunks(8).map(|eight| {
        eight.iter().enumerate().fold(0, |byte, (place, bit)| byte | (u8::from(*bit) << place))
    }));
    bytes
}

/// Reads a bitmap, which must be of exactly `count` bits.
pub fn decode_bitmap(count: usize, bytes: &[u8]) -> Result<Vec<bool>, DecodeError> {
    let bits: Vec<bool> = bytes
        .iter()
        .skip(2)
        .flat_map(|byte| (0..8).map(move |place| byte >> place & 1 == 1))
        .take(count)
        .collect();
    // There is one way to write each bitmap, and this is it.
    if bits.len() == count && count <= MAX_ITEMS && bytes == encode_bitmap(&bits) {
        return Ok(bits);
    }
    Err(DecodeError::Invalid(format!("{} bytes are no bitmap of {count}", bytes.len())))
}

/// The content of a manifest frame; the blob's digest is known to both ends.
pub fn encode_manifest(manifest: &Manifest) -> Vec<u8> {
    codec::encode(&chunks_to_wire(manifest.chunks()))
}

/// Reads a manifest frame and checks that its chunks can make up `blob`.
pub fn decode_manifest(blob: Digest, bytes: &[u8]) -> Result<Manifest, DecodeError> {
    if bytes.len() > MAX_MANIFEST {
        return Err(DecodeError::TooLong { len: bytes.len(), limit: MAX_MANIFEST });
    }
    let mut chunks = Vec::new();
    codec::decode_each::<ChunkV1, MAX_CHUNK_BYTES>(bytes, |chunk| {
        chunks.push(Chunk { hash: Hash(chunk.hash), len: chunk.len });
        Ok(())
    })?;
    Manifest::new(blob, chunks).map_err(|error| DecodeError::Invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::chunk::MAX_CHUNK;
    use proptest::prelude::*;

    #[test]
    fn requests_read_back_and_are_bounded() {
        let chunk = Chunk { hash: Hash([1; 32]), len: u32::MAX };
        let blob = Digest { hash: Hash([2; 32]), size: u64::MAX };
        for request in [
            Request::Records(vec![ActionKey([3; 32]); MAX_ITEMS]),
            Request::Manifests(vec![blob; MAX_ITEMS]),
            Request::Chunks(vec![chunk; MAX_ITEMS]),
            Request::Has(vec![blob; MAX_ITEMS]),
            Request::Bring(vec![blob; MAX_ITEMS]),
            Request::Probe { bytes: MAX_PROBE },
        ] {
            let bytes = request.encode();
            assert!(bytes.len() <= MAX_REQUEST);
            assert_eq!(Request::decode(&bytes).unwrap(), request);
        }
        for request in [
            Request::Chunks(vec![chunk; MAX_ITEMS + 1]),
            Request::Has(vec![blob; MAX_ITEMS + 1]),
            Request::Bring(vec![blob; MAX_ITEMS + 1]),
            Request::Probe { bytes: MAX_PROBE + 1 },
        ] {
            assert!(Request::decode(&request.encode()).is_err());
        }
    }

    #[test]
    fn a_manifest_reads_back_only_for_its_blob() {
        let size = (MAX_CHUNK + 5) as u64;
        let blob = Digest { hash: Hash([2; 32]), size };
        let chunks =
            [(1, MAX_CHUNK as u32), (2, 5)].map(|(b, len)| Chunk { hash: Hash([b; 32]), len });
        let manifest = Manifest::new(blob, chunks.to_vec()).unwrap();
        let bytes = encode_manifest(&manifest);
        assert_eq!(decode_manifest(blob, &bytes).unwrap(), manifest);
        assert!(decode_manifest(Digest { size: size + 1, ..blob }, &bytes).is_err());
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let blob = Digest { hash: Hash([2; 32]), size: 100 };
            let _ = (Request::decode(&bytes), decode_manifest(blob, &bytes));
        }

        #[test]
        fn a_bitmap_reads_back_and_only_as_what_it_is(
            bits in prop::collection::vec(any::<bool>(), 0..MAX_ITEMS),
            flip in any::<prop::sample::Index>(),
        ) {
            let mut bytes = encode_bitmap(&bits);
            prop_assert!(bytes.len() <= MAX_BITMAP && bytes.len() > HEARTBEAT.len());
            prop_assert_eq!(&decode_bitmap(bits.len(), &bytes).unwrap(), &bits);
            prop_assert!(decode_bitmap(bits.len() + 1, &bytes).is_err());
            let at = flip.index(bytes.len() * 8);
            bytes[at / 8] ^= 1 << (at % 8);
            prop_assert!(decode_bitmap(bits.len(), &bytes).ok() != Some(bits));
        }

        #[test]
        fn a_hostile_bitmap_never_panics(
            count in 0..3000_usize,
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            if let Ok(bits) = decode_bitmap(count, &bytes) {
                prop_assert_eq!(bits.len(), count);
                prop_assert_eq!(encode_bitmap(&bits), bytes);
            }
        }
    }
}
