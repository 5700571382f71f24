//! The data plane: what a requester asks of a provider on one QUIC stream, and how it is answered.
//!
//! A stream carries one request frame and its answers. A frame is its length as 32-bit
//! little-endian, then that many bytes. Records and manifests come as one frame for each thing
//! asked for, an empty frame when the provider lacks it. Chunks come raw: a frame of exactly the
//! chunk's length, or an empty one.

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
/// Most keys, blobs or chunks in one request, well within [`MAX_REQUEST`].
pub const MAX_ITEMS: usize = 1024;

/// What a requester asks for on one stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Sealed records, one frame each.
    Records(Vec<ActionKey>),
    /// Manifests of blobs, one frame each.
    Manifests(Vec<Digest>),
    /// Chunks of any blobs, one frame each.
    Chunks(Vec<Chunk>),
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
            Self::Manifests(blobs) => {
                RequestV1::Manifests(blobs.iter().copied().map(DigestV1::from).collect())
            }
            Self::Chunks(chunks) => RequestV1::Chunks(chunks_to_wire(chunks)),
        })
    }

    /// Reads and checks a request frame.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let request = match codec::decode::<RequestV1, MAX_REQUEST>(bytes)? {
            RequestV1::Records(keys) => Self::Records(keys.into_iter().map(ActionKey).collect()),
            RequestV1::Manifests(blobs) => {
                Self::Manifests(blobs.into_iter().map(Digest::from).collect())
            }
            RequestV1::Chunks(chunks) => Self::Chunks(chunks_from_wire(chunks)),
        };
        match request.items() {
            0..=MAX_ITEMS => Ok(request),
            count => Err(DecodeError::Invalid(format!("{count} things asked for at once"))),
        }
    }

    /// How many things are asked for, and so how many frames answer.
    pub fn items(&self) -> usize {
        match self {
            Self::Records(keys) => keys.len(),
            Self::Manifests(blobs) => blobs.len(),
            Self::Chunks(chunks) => chunks.len(),
        }
    }
}

/// The content of a manifest frame; the blob's digest is known to both ends.
pub fn encode_manifest(manifest: &Manifest) -> Vec<u8> {
    codec::encode(&chunks_to_wire(manifest.chunks()))
}

/// Reads a manifest frame and checks that its chunks can make up `blob`.
pub fn decode_manifest(blob: Digest, bytes: &[u8]) -> Result<Manifest, DecodeError> {
    let chunks = chunks_from_wire(codec::decode::<Vec<ChunkV1>, MAX_MANIFEST>(bytes)?);
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
        ] {
            let bytes = request.encode();
            assert!(bytes.len() <= MAX_REQUEST);
            assert_eq!(Request::decode(&bytes).unwrap(), request);
        }
        assert!(Request::decode(&Request::Chunks(vec![chunk; MAX_ITEMS + 1]).encode()).is_err());
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
    }
}
