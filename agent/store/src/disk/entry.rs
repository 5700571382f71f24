//! How the values of the index are laid out in bytes. Everything is little-endian and of fixed width.

use super::journal::{Location, Position};
use crate::recent::Recent;
use netbuild_core::{
    chunk::{Chunk, Manifest},
    digest::{Digest, Hash},
    hlc::Hlc,
    merge::{Level, Rank, Variant},
    sketch::{BINS, Sketch},
};

/// Bytes of one chunk in a manifest: hash and length.
const CHUNK: usize = 32 + 4;
/// Bytes of one of the newest blobs of a name: time, hash and size.
const RECENT: usize = 8 + 32 + 8;
/// Bytes of one record that lost: level, time, hash, result and location.
const VARIANT: usize = 1 + 8 + 32 + 32 + 16;

/// Where a blob lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// In the file that is named after it.
    File,
    /// In the journal.
    Journal(Location),
}

/// What the index knows of a blob.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BlobEntry {
    pub(super) size: u64,
    pub(super) place: Place,
}

/// What the index knows of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RecordEntry {
    pub(super) location: Location,
    pub(super) hlc: Hlc,
    pub(super) shared: bool,
    /// The first 8 bytes of BLAKE3 of the sealed record.
    pub(super) sum: u64,
}

/// The records of an action that lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct EvidenceEntry {
    /// When something was last added; greater is later.
    pub(super) stamp: u64,
    pub(super) variants: Vec<Variant<Location>>,
}

/// Which part of which blob a chunk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ChunkEntry {
    pub(super) blob: Hash,
    pub(super) offset: u64,
    pub(super) len: u32,
}

/// What a blob is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SketchEntry {
    /// Of the blob.
    pub(super) size: u64,
    pub(super) sketch: Sketch,
}

/// A value of the index.
pub(super) trait Entry: Sized {
    fn encode(&self) -> Vec<u8>;
    /// `None` when the bytes are not such a value.
    fn decode(bytes: &[u8]) -> Option<Self>;
}

impl Entry for Location {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.segment.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.offset.to_le_bytes());
        bytes.extend_from_slice(&self.len.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (segment, rest) = bytes.split_first_chunk()?;
        let (offset, len) = rest.split_first_chunk()?;
        Some(Self {
            segment: u32::from_le_bytes(*segment),
            offset: u64::from_le_bytes(*offset),
            len: u32::from_le_bytes(len.try_into().ok()?),
        })
    }
}

impl Entry for Position {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.segment.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.offset.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (segment, offset) = bytes.split_first_chunk()?;
        Some(Self {
            segment: u32::from_le_bytes(*segment),
            offset: u64::from_le_bytes(offset.try_into().ok()?),
        })
    }
}

impl Entry for BlobEntry {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.size.to_le_bytes().to_vec();
        match self.place {
            Place::File => bytes.push(0),
            Place::Journal(location) => {
                bytes.push(1);
                bytes.extend(location.encode());
            }
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (size, rest) = bytes.split_first_chunk()?;
        let place = match rest.split_first()? {
            (0, []) => Place::File,
            (1, location) => Place::Journal(Location::decode(location)?),
            _ => return None,
        };
        Some(Self { size: u64::from_le_bytes(*size), place })
    }
}

impl Entry for RecordEntry {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.hlc.0.to_le_bytes().to_vec();
        bytes.push(u8::from(self.shared));
        bytes.extend_from_slice(&self.sum.to_le_bytes());
        bytes.extend(self.location.encode());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (hlc, rest) = bytes.split_first_chunk()?;
        let (shared, rest) = rest.split_first()?;
        let (sum, location) = rest.split_first_chunk()?;
        Some(Self {
            location: Location::decode(location)?,
            hlc: Hlc(u64::from_le_bytes(*hlc)),
            shared: *shared != 0,
            sum: u64::from_le_bytes(*sum),
        })
    }
}

impl Entry for EvidenceEntry {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.stamp.to_le_bytes().to_vec();
        for Variant { rank, result, place } in &self.variants {
            bytes.push(encode_level(rank.level));
            bytes.extend_from_slice(&rank.hlc.0.to_le_bytes());
            bytes.extend_from_slice(rank.hash.as_bytes());
            bytes.extend_from_slice(result.as_bytes());
            bytes.extend(place.encode());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (stamp, rest) = bytes.split_first_chunk()?;
        let (variants, []) = rest.as_chunks::<VARIANT>() else { return None };
        let variants = variants.iter().map(|variant| decode_variant(variant));
        let variants = variants.collect::<Option<Vec<_>>>()?;
        Some(Self { stamp: u64::from_le_bytes(*stamp), variants })
    }
}

impl Entry for SketchEntry {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.size.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.sketch.to_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (size, sketch) = bytes.split_first_chunk()?;
        let sketch: &[u8; BINS * 4] = sketch.try_into().ok()?;
        Some(Self { size: u64::from_le_bytes(*size), sketch: Sketch::from_bytes(sketch) })
    }
}

impl Entry for Recent {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.0.len() * RECENT);
        for (time, blob) in &self.0 {
            bytes.extend_from_slice(&time.to_le_bytes());
            bytes.extend_from_slice(blob.hash.as_bytes());
            bytes.extend_from_slice(&blob.size.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (blobs, []) = bytes.as_chunks::<RECENT>() else { return None };
        let blobs = blobs.iter().map(|bytes| {
            let (time, rest) = bytes.split_first_chunk()?;
            let (hash, size) = rest.split_first_chunk()?;
            let size = u64::from_le_bytes(size.try_into().ok()?);
            Some((u64::from_le_bytes(*time), Digest { hash: Hash(*hash), size }))
        });
        blobs.collect::<Option<Vec<_>>>().map(Self)
    }
}

fn decode_variant(bytes: &[u8]) -> Option<Variant<Location>> {
    let (level, rest) = bytes.split_first()?;
    let (hlc, rest) = rest.split_first_chunk()?;
    let (hash, rest) = rest.split_first_chunk()?;
    let (result, place) = rest.split_first_chunk()?;
    let hlc = Hlc(u64::from_le_bytes(*hlc));
    Some(Variant {
        rank: Rank { level: decode_level(*level)?, hlc, hash: Hash(*hash) },
        result: Hash(*result),
        place: Location::decode(place)?,
    })
}

/// The byte for a level of trust.
pub(super) fn encode_level(level: Level) -> u8 {
    match level {
        Level::Refused => 0,
        Level::Normal => 1,
        Level::Trusted => 2,
    }
}

/// The level of trust that a byte stands for.
pub(super) fn decode_level(byte: u8) -> Option<Level> {
    [Level::Refused, Level::Normal, Level::Trusted].into_iter().find(|l| encode_level(*l) == byte)
}

impl Entry for ChunkEntry {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.blob.0.to_vec();
        bytes.extend_from_slice(&self.offset.to_le_bytes());
        bytes.extend_from_slice(&self.len.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (blob, rest) = bytes.split_first_chunk()?;
        let (offset, len) = rest.split_first_chunk()?;
        Some(Self {
            blob: Hash(*blob),
            offset: u64::from_le_bytes(*offset),
            len: u32::from_le_bytes(len.try_into().ok()?),
        })
    }
}

/// The chunks of a manifest; its blob is in the key.
pub(super) fn encode_manifest(manifest: &Manifest) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(manifest.chunks().len() * CHUNK);
    for chunk in manifest.chunks() {
        bytes.extend_from_slice(chunk.hash.as_bytes());
        bytes.extend_from_slice(&chunk.len.to_le_bytes());
    }
    bytes
}

/// The manifest of `blob`; `None` when the bytes cannot be one.
pub(super) fn decode_manifest(blob: Digest, bytes: &[u8]) -> Option<Manifest> {
    let (entries, rest) = bytes.as_chunks::<CHUNK>();
    let chunks = entries.iter().map(|entry| {
        let (hash, len) = entry.split_first_chunk()?;
        Some(Chunk { hash: Hash(*hash), len: u32::from_le_bytes(len.try_into().ok()?) })
    });
    let chunks = chunks.collect::<Option<Vec<_>>>()?;
    rest.is_empty().then(|| Manifest::new(blob, chunks).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip<E: Entry + PartialEq + std::fmt::Debug>(entry: E) {
        let bytes = entry.encode();
        assert_eq!(E::decode(&bytes[..bytes.len() - 1]), None);
        assert_eq!(E::decode(&[&bytes[..], &[0]].concat()), None);
        assert_eq!(E::decode(&bytes), Some(entry));
    }

    proptest! {
        #[test]
        fn entries_come_back_as_they_were(segment: u32, offset: u64, len: u32, hash: [u8; 32], shared: bool) {
            let location = Location { segment, offset, len };
            round_trip(location);
            round_trip(Position { segment, offset });
            round_trip(BlobEntry { size: offset, place: Place::File });
            round_trip(BlobEntry { size: offset, place: Place::Journal(location) });
            round_trip(RecordEntry { location, hlc: Hlc(offset), shared, sum: offset ^ 1 });
            let rank = Rank { level: Level::Trusted, hlc: Hlc(offset), hash: Hash(hash) };
            let lost = Variant { rank, result: Hash(hash), place: location };
            round_trip(EvidenceEntry { stamp: offset, variants: vec![lost.clone(), lost] });
            let blob = Digest { hash: Hash(hash), size: offset };
            let sketch = Sketch::from_bytes(&std::array::from_fn(|at| hash[at % 32]));
            round_trip(SketchEntry { size: offset, sketch });
            round_trip(Recent(vec![(offset, blob), (7, blob)]));
            round_trip(ChunkEntry { blob: Hash(hash), offset, len });
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (Location::decode(&bytes), BlobEntry::decode(&bytes), RecordEntry::decode(&bytes));
            let _ = (ChunkEntry::decode(&bytes), Position::decode(&bytes), EvidenceEntry::decode(&bytes));
            let _ = (Recent::decode(&bytes), SketchEntry::decode(&bytes));
            let _ = decode_manifest(Digest::of(&bytes), &bytes);
        }
    }
}
