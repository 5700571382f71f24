//! What is put into a tier at once.

use super::{Class, TierError};
use bytes::Bytes;
use netbuild_core::digest::{Digest, DigestBuilder};
use netbuild_proto::record::SealedRecord;
use std::{
    fmt,
    io::{self, Read},
};

/// Most blobs that one record may name, those in its listings included: 10 MB of digests.
pub const MAX_NAMED: usize = 1 << 18;

/// The bytes of a blob on their way into a tier.
pub enum Blob {
    /// In memory, as small ones are.
    Bytes(Bytes),
    /// From wherever they are. It is read once, on a thread where it may block.
    Reader(Box<dyn Read + Send>),
}

impl Blob {
    /// The whole blob in memory, checked. Blocks.
    pub(crate) fn load(self, blob: &Digest, tier: &str) -> Result<Bytes, TierError> {
        let bytes = match self {
            Self::Bytes(bytes) => bytes,
            Self::Reader(reader) => {
                let mut bytes = Vec::new();
                let read = reader.take(blob.size.saturating_add(1)).read_to_end(&mut bytes);
                read.map_err(|error| unreadable(tier, blob, error))?;
                bytes.into()
            }
        };
        if blob.matches(&bytes) { Ok(bytes) } else { Err(wrong(tier, blob)) }
    }

    /// The bytes piece by piece.
    pub(crate) fn pieces(self, blob: Digest) -> Pieces {
        let reader: Box<dyn Read + Send> = match self {
            Self::Bytes(bytes) => Box::new(io::Cursor::new(bytes)),
            Self::Reader(reader) => reader,
        };
        Pieces { blob, reader, seen: DigestBuilder::new() }
    }
}

/// A blob that is read piece by piece. When its bytes are not those of its digest, the last piece is
/// an error.
pub(crate) struct Pieces {
    blob: Digest,
    reader: Box<dyn Read + Send>,
    seen: DigestBuilder,
}

impl Pieces {
    /// The next `len` bytes, or as many as are left; `None` behind the last.
    pub(crate) async fn next(
        mut self,
        len: u64,
        tier: &str,
    ) -> Result<(Self, Option<Bytes>), TierError> {
        let name = tier.to_owned();
        let read = tokio::task::spawn_blocking(move || {
            let piece = self.read(len, &name)?;
            Ok((self, piece))
        });
        read.await.unwrap_or_else(|error| {
            Err(TierError::new(tier, "put", Class::Content)
                .because("the content could not be read")
                .from(error))
        })
    }

    fn read(&mut self, len: u64, tier: &str) -> Result<Option<Bytes>, TierError> {
        let left = self.blob.size - self.seen.size();
        if left == 0 {
            return Ok(None);
        }
        let ends = left <= len;
        // One byte more than there should be shows that there is more.
        let limit = if ends { left + 1 } else { len };
        let mut piece = Vec::with_capacity(limit as usize);
        let read = self.reader.by_ref().take(limit).read_to_end(&mut piece);
        read.map_err(|error| unreadable(tier, &self.blob, error))?;
        let short = (piece.len() as u64) < left.min(len);
        if short || piece.len() as u64 > left {
            return Err(wrong(tier, &self.blob));
        }
        self.seen.update(&piece);
        if ends && self.seen.finish() != self.blob {
            return Err(wrong(tier, &self.blob));
        }
        Ok(Some(piece.into()))
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::Reader(_) => f.write_str("Reader"),
        }
    }
}

/// A record with what its result consists of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// The record.
    pub record: SealedRecord,
    /// All blobs that the result needs: those that the record names and those that its listings
    /// name, at most [`MAX_NAMED`], wherever they are. A tier that expires what it holds keeps those
    /// of them that it has for as long as the record.
    pub blobs: Vec<Digest>,
}

/// What is put into a tier at once.
#[derive(Debug, Default)]
pub struct Batch {
    /// Blobs with their bytes.
    pub blobs: Vec<(Digest, Blob)>,
    /// Records, which are written after the blobs.
    pub records: Vec<Offer>,
}

impl Batch {
    /// Refuses what no tier or not this one takes, before anything is written.
    pub(crate) fn check(&self, tier: &str, largest: u64) -> Result<(), TierError> {
        if let Some((blob, _)) = self.blobs.iter().find(|(blob, _)| blob.size > largest) {
            return Err(TierError::new(tier, "put", Class::TooLarge)
                .because(format!("blob {blob} is over its limit of {largest} bytes")));
        }
        let large = self.records.iter().find(|offer| offer.blobs.len() > MAX_NAMED);
        large.map_or(Ok(()), |offer| {
            let (key, count) = (offer.record.record().key.short(), offer.blobs.len());
            Err(TierError::new(tier, "put", Class::TooLarge)
                .because(format!("record {key} needs {count} blobs, and {MAX_NAMED} is the limit")))
        })
    }
}

fn unreadable(tier: &str, blob: &Digest, error: io::Error) -> TierError {
    TierError::new(tier, "put", Class::Content)
        .because(format!("blob {blob} cannot be read"))
        .from(error)
}

fn wrong(tier: &str, blob: &Digest) -> TierError {
    TierError::new(tier, "put", Class::Content)
        .because(format!("content is not that of blob {blob}"))
}
