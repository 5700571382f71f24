//! Which chunks of an arriving blob are here, and where each belongs.

use crate::StoreError;
use netbuild_core::{
    chunk::{Chunk, Manifest},
    digest::{Digest, Hash},
};

/// Bookkeeping of one blob that arrives chunk by chunk.
#[derive(Debug)]
pub(crate) struct Arrival {
    blob: Digest,
    /// Offset, chunk and whether it came, in the order of the blob.
    places: Vec<(u64, Chunk, bool)>,
}

impl Arrival {
    pub(crate) fn new(manifest: &Manifest) -> Self {
        Self {
            blob: manifest.blob(),
            places: manifest.offsets().map(|(offset, chunk)| (offset, chunk, false)).collect(),
        }
    }

    pub(crate) fn blob(&self) -> Digest {
        self.blob
    }

    /// Checks a chunk and says at which offset to write it; `None` when it is already here.
    pub(crate) fn admit(&self, index: usize, bytes: &[u8]) -> Result<Option<u64>, StoreError> {
        let blob = self.blob;
        let (offset, chunk, came) =
            self.places.get(index).ok_or(StoreError::NoSuchChunk { blob, index })?;
        if bytes.len() as u64 != u64::from(chunk.len) || Hash::of(bytes) != chunk.hash {
            return Err(StoreError::ChunkMismatch { blob, index });
        }
        Ok((!came).then_some(*offset))
    }

    /// Notes that an admitted chunk was written.
    pub(crate) fn wrote(&mut self, index: usize) {
        if let Some((_, _, came)) = self.places.get_mut(index) {
            *came = true;
        }
    }

    /// Fails while chunks are missing.
    pub(crate) fn complete(&self) -> Result<(), StoreError> {
        match self.places.iter().filter(|(_, _, came)| !came).count() {
            0 => Ok(()),
            missing => Err(StoreError::Incomplete { blob: self.blob, missing }),
        }
    }
}
