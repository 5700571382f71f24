//! Segments: many small blobs and records in one piece, as they lie in a bucket.
//!
//! A segment begins with its index, which has a checksum; the records follow, then the blobs, in the
//! order of the index and without anything between them. Records have their signatures, blobs their
//! digests, so what the index says of them is checked where they are read.

use crate::{
    codec::{self, DecodeError},
    record::{DigestV1, MAX_RECORD},
};
use bincode::{Decode, Encode};
use netbuild_core::{
    digest::{Digest, Hash},
    key::ActionKey,
};

/// What a segment begins with; the last byte is the version.
const MAGIC: [u8; 8] = *b"nbseg\0\0\x01";
/// Length of the index behind the magic, little-endian.
const LENGTH: usize = 4;
/// The hash behind the index.
const CHECKSUM: usize = 32;
/// Most bytes of an index, and what decoding it may allocate.
pub const MAX_INDEX: usize = 32 << 20;

#[derive(Encode, Decode)]
struct HeldV1 {
    digest: DigestV1,
    written: u64,
}

#[derive(Encode, Decode)]
struct FiledV1 {
    key: [u8; 32],
    hlc: u64,
    len: u32,
    written: u64,
    blobs: Vec<u32>,
}

#[derive(Encode, Decode)]
struct IndexV1 {
    merged: bool,
    blobs: Vec<HeldV1>,
    named: Vec<DigestV1>,
    records: Vec<FiledV1>,
}

/// A blob that a segment holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// Its name.
    pub digest: Digest,
    /// When it was written or last found useful, in seconds since the Unix epoch by the clock of the
    /// server.
    pub written: u64,
}

/// A record that a segment holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filed {
    /// The action.
    pub key: ActionKey,
    /// When the record was made, in mesh time.
    pub hlc: u64,
    /// Length of the sealed record in bytes.
    pub len: u32,
    /// When it was written, as in [`Held`].
    pub written: u64,
    /// The blobs that its result needs, by number: those that the segment holds are counted first,
    /// then those that it only names.
    pub blobs: Vec<u32>,
}

/// What a segment holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Index {
    /// Whether it was put together from other segments.
    pub merged: bool,
    /// The blobs in it.
    pub blobs: Vec<Held>,
    /// Further blobs that its records need, which lie elsewhere.
    pub named: Vec<Digest>,
    /// The records in it.
    pub records: Vec<Filed>,
}

impl Index {
    /// The blob with this number.
    pub fn blob(&self, number: u32) -> Option<Digest> {
        let number = number as usize;
        let held = self.blobs.get(number).map(|held| held.digest);
        held.or_else(|| self.named.get(number.checked_sub(self.blobs.len())?).copied())
    }

    /// Bytes of all records together.
    pub fn records_len(&self) -> u64 {
        self.records.iter().map(|filed| u64::from(filed.len)).sum()
    }

    /// The bytes that a segment begins with.
    pub fn encode(&self) -> Vec<u8> {
        let held = |held: &Held| HeldV1 { digest: held.digest.into(), written: held.written };
        let index = codec::encode(&IndexV1 {
            merged: self.merged,
            blobs: self.blobs.iter().map(held).collect(),
            named: self.named.iter().map(|digest| (*digest).into()).collect(),
            records: self.records.iter().map(FiledV1::from).collect(),
        });
        let mut bytes = MAGIC.to_vec();
        bytes.extend((index.len() as u32).to_le_bytes());
        bytes.extend(index);
        let checksum = Hash::of(&bytes);
        bytes.extend(checksum.0);
        bytes
    }

    /// Reads the index that `bytes` begin with, and says how long it is.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), DecodeError> {
        let short = || DecodeError::Malformed("shorter than the index of a segment".into());
        let (magic, rest) = bytes.split_first_chunk::<8>().ok_or_else(short)?;
        if magic != &MAGIC {
            let [name @ .., version] = magic;
            return Err(if *name == MAGIC[..7] {
                DecodeError::unknown_version("segment", *version, MAGIC[7])
            } else {
                DecodeError::Malformed("not a segment".into())
            });
        }
        let (length, rest) = rest.split_first_chunk::<LENGTH>().ok_or_else(short)?;
        let length = u32::from_le_bytes(*length) as usize;
        let index = rest.get(..length).ok_or_else(short)?;
        let checked = MAGIC.len() + LENGTH + length;
        let checksum = rest.get(length..length + CHECKSUM).ok_or_else(short)?;
        if Hash::of(&bytes[..checked]).0[..] != *checksum {
            return Err(DecodeError::Malformed("the index has another checksum".into()));
        }
        let index = codec::decode::<IndexV1, MAX_INDEX>(index)?;
        Ok((Self::check(index)?, checked + CHECKSUM))
    }

    fn check(index: IndexV1) -> Result<Self, DecodeError> {
        let index = Self {
            merged: index.merged,
            blobs: index
                .blobs
                .into_iter()
                .map(|held| Held { digest: held.digest.into(), written: held.written })
                .collect(),
            named: index.named.into_iter().map(Digest::from).collect(),
            records: index.records.into_iter().map(Filed::from).collect(),
        };
        let invalid = |text: &str| Err(DecodeError::Invalid(text.to_owned()));
        let mut sizes = index.blobs.iter().map(|held| held.digest.size);
        if sizes.try_fold(0u64, u64::checked_add).is_none() {
            return invalid("the blobs of a segment are larger than can be");
        }
        if index.records.iter().any(|filed| filed.len as usize > MAX_RECORD) {
            return invalid("a record of a segment is longer than can be");
        }
        let known = (index.blobs.len() + index.named.len()) as u64;
        let mut numbers = index.records.iter().flat_map(|filed| &filed.blobs);
        if numbers.any(|number| u64::from(*number) >= known) {
            return invalid("a record of a segment needs a blob that has no name");
        }
        Ok(index)
    }
}

impl From<&Filed> for FiledV1 {
    fn from(filed: &Filed) -> Self {
        Self {
            key: filed.key.0,
            hlc: filed.hlc,
            len: filed.len,
            written: filed.written,
            blobs: filed.blobs.clone(),
        }
    }
}

impl From<FiledV1> for Filed {
    fn from(filed: FiledV1) -> Self {
        Self {
            key: ActionKey(filed.key),
            hlc: filed.hlc,
            len: filed.len,
            written: filed.written,
            blobs: filed.blobs,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> Index {
        let blob = |text: &[u8]| Digest::of(text);
        Index {
            merged: false,
            blobs: vec![
                Held { digest: blob(b"a"), written: 7 },
                Held { digest: blob(b"bc"), written: 8 },
            ],
            named: vec![blob(b"elsewhere")],
            records: vec![Filed {
                key: ActionKey([5; 32]),
                hlc: 11,
                len: 300,
                written: 9,
                blobs: vec![1, 2],
            }],
        }
    }

    #[test]
    fn an_index_comes_back_and_the_format_stays() {
        let index = index();
        let mut bytes = index.encode();
        let len = bytes.len();
        assert_eq!(
            Hash::of(&bytes).to_string(),
            "a9c304d64c73874f82ca28bafc0f3930e96b186f50c7a1ee48af7334a996b69c",
            "the format has changed: it needs a new version"
        );
        bytes.extend(b"records and blobs");
        assert_eq!(Index::decode(&bytes).unwrap(), (index.clone(), len));
        assert_eq!(index.blob(1), Some(Digest::of(b"bc")));
        assert_eq!(index.blob(2), Some(Digest::of(b"elsewhere")));
        assert_eq!(index.blob(3), None);
    }

    #[test]
    fn every_flipped_bit_and_every_missing_end_is_noticed() {
        let bytes = index().encode();
        for at in 0..bytes.len() {
            assert!(Index::decode(&bytes[..at]).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << bit;
                assert!(Index::decode(&bytes).is_err(), "bit {bit} of {at}");
            }
        }
        let mut newer = bytes;
        newer[7] = 2;
        assert!(matches!(Index::decode(&newer), Err(DecodeError::Newer { .. })));
    }

    #[test]
    fn what_cannot_be_is_refused_although_the_checksum_is_right() {
        let mut needs = index();
        needs.records[0].blobs.push(3);
        let mut long = index();
        long.records[0].len = MAX_RECORD as u32 + 1;
        let mut large = index();
        large.blobs[0].digest.size = u64::MAX;
        for bad in [needs, long, large] {
            assert!(matches!(Index::decode(&bad.encode()), Err(DecodeError::Invalid(_))));
        }
    }
}
