//! The seam between those who need bytes and records and the backends that keep them.

use crate::{
    Cursor, Evicted, Evicting, Finding, Inspect, Inspected, Pinned, StoreError, Survey, Tell, Usage,
};
use netbuild_core::{
    chunk::{Chunk, MAX_CHUNKS, MIN_CHUNK, Manifest},
    digest::Digest,
    evict::{Limits, Pin},
    hlc::Hlc,
    key::ActionKey,
    merge::Trust,
    sketch::Sketch,
};
use netbuild_proto::record::SealedRecord;
use std::{
    fmt::Debug,
    io::{self, Read},
    ops::{ControlFlow, RangeInclusive},
};

/// Largest blob in bytes: one whose chunks, were they all the smallest, still fit one manifest.
pub const MAX_BLOB: u64 = MIN_CHUNK as u64 * MAX_CHUNKS as u64;

/// Sizes in bytes of blobs that are sketched. Of a smaller one a patch saves little; a larger one is
/// patched against what the same task made before, and to sketch it would take half a second a GiB.
pub const SKETCHED: RangeInclusive<u64> = 64 << 10..=256 << 20;

/// What a listing of records says of each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordHead {
    /// The action.
    pub key: ActionKey,
    /// When the record was written, in mesh time.
    pub hlc: Hlc,
    /// The first 8 bytes of BLAKE3 of the sealed record, little-endian.
    pub sum: u64,
    /// Whether other agents may hear of the result.
    pub shared: bool,
}

/// What became of a record that was put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kept {
    /// It is the record of its action now.
    Stored,
    /// It was the record of its action before.
    Same,
    /// Another stays, which has the greater rank.
    Older,
    /// It is not taken, as its writer is refused.
    Refused,
}

/// An action for which there are different results.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// The action.
    pub key: ActionKey,
    /// The record that is served.
    pub kept: SealedRecord,
    /// Records with other results that lost, greatest first: one for each result.
    pub others: Vec<SealedRecord>,
}

/// How much a store holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Blobs.
    pub blobs: u64,
    /// Sum of their sizes in bytes.
    pub blob_bytes: u64,
    /// Records.
    pub records: u64,
    /// Actions for which there are different results.
    pub conflicts: u64,
    /// Blobs and records found damaged since the store was opened; each is a miss since then.
    pub quarantined: u64,
}

/// What came of writing a journal anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Compacted {
    /// Segments that were removed.
    pub segments: u64,
    /// Bytes that these had.
    pub freed_bytes: u64,
    /// Bytes in them that were still of use, and were copied.
    pub copied_bytes: u64,
}

/// Keeps blobs and records. May be used from many threads at once.
pub trait Store: Send + Sync + Debug {
    /// Keeps bytes that must be those `blob` names, else [`StoreError::Mismatch`] and nothing is kept.
    /// A blob that is already here costs nothing: `content` is then left unread.
    fn put_blob(&self, blob: &Digest, content: &mut dyn Read) -> Result<(), StoreError>;

    /// Keeps bytes whose name is not known yet, at most [`MAX_BLOB`] of them, and says the name.
    fn put_content(&self, content: &mut dyn Read) -> Result<Digest, StoreError>;

    /// Whether the blob is here, as far as can be told without reading it.
    fn has_blob(&self, blob: &Digest) -> Result<bool, StoreError>;

    /// The bytes of a blob. The reader checks what it reads: instead of a blob's last bytes it gives
    /// `InvalidData` when they are not those of `blob`. A damaged blob is a miss from then on.
    fn open_blob(&self, blob: &Digest) -> Result<Option<Box<dyn Read + Send>>, StoreError>;

    /// The chunks of a blob that is here.
    fn manifest(&self, blob: &Digest) -> Result<Option<Manifest>, StoreError>;

    /// The bytes of a chunk, from whichever blob holds it, be that one that is still arriving.
    /// Damage is a miss.
    ///
    /// The bytes are checked, unless this process has found them right before and their file was
    /// not touched since. Whoever takes them over the network checks them anyway.
    fn chunk(&self, chunk: &Chunk) -> Result<Option<Vec<u8>>, StoreError>;

    /// Which chunks of a manifest are here, in any blob, be that one that is still arriving; as far
    /// as can be told without reading them.
    fn held(&self, manifest: &Manifest) -> Result<Vec<bool>, StoreError>;

    /// What has come of a blob that is arriving: its chunks, and which of them [`Store::chunk`] would
    /// give.
    fn arriving(&self, blob: &Digest) -> Option<(Manifest, Vec<bool>)>;

    /// Somebody says that bytes that came from here are not those of this blob or chunk: they are
    /// checked anew when they are next asked for.
    fn doubt(&self, name: &Digest);

    /// A whole blob, checked, in memory; `None` when it is not here, damaged, or larger than
    /// `limit` bytes.
    fn blob_bytes(&self, blob: &Digest, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
        if blob.size > limit {
            return Ok(None);
        }
        let Some(mut reader) = self.open_blob(blob)? else { return Ok(None) };
        // The size is right if the blob is here, but it is not believed before the bytes have come.
        let mut bytes = Vec::new();
        match reader.read_to_end(&mut bytes) {
            Ok(_) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(None),
            Err(error) => Err(StoreError::Content(error)),
        }
    }

    /// Blobs that records name as output at this path, a file's content or a listing: the newest
    /// few of all records that were kept, newest first. They need not be here; of those before the
    /// newest, some that are here are preferred.
    fn previous(&self, path: &[u8]) -> Result<Vec<Digest>, StoreError>;

    /// The sketch of a blob that is here and of a size in [`SKETCHED`]. It is made when a blob is
    /// put or finished, or when it is asked for and the index has lost it.
    fn sketch(&self, blob: &Digest) -> Result<Option<Sketch>, StoreError>;

    /// At most `limit` blobs here that are most like the one with this sketch, by
    /// [`Sketch::similarity`], from 0 to 1, greatest first; those that are like it by less than
    /// half may be missed.
    fn similar(&self, sketch: &Sketch, limit: usize) -> Result<Vec<(Digest, f64)>, StoreError>;

    /// Starts a blob that arrives chunk by chunk in any order, or goes on with it where an earlier
    /// arrival with the same chunks ended. While one arrival of a blob is worked on, a second one
    /// shares nothing with it.
    fn begin_blob(&self, manifest: &Manifest) -> Result<Box<dyn PartialBlob>, StoreError>;

    /// Keeps a record, unless the one that is here stays: [`netbuild_core::merge`] decides, so that
    /// agents which trust alike agree. Of two with different results the one that loses is kept as
    /// evidence, within the bounds of [`netbuild_core::merge::Evidence`].
    fn put_record(&self, record: &SealedRecord, trust: &Trust) -> Result<Kept, StoreError>;

    /// The record of an action. A damaged record is a miss.
    fn record(&self, key: &ActionKey) -> Result<Option<SealedRecord>, StoreError>;

    /// At most `limit` records in the order of their keys, from the first key after `after`.
    fn records_after(
        &self,
        after: Option<&ActionKey>,
        limit: usize,
    ) -> Result<Vec<RecordHead>, StoreError>;

    /// The different results of one action; `None` when it has one, or none at all.
    fn conflict(&self, key: &ActionKey) -> Result<Option<Conflict>, StoreError>;

    /// At most `limit` actions for which there are different results, that which was last noticed
    /// first.
    fn conflicts(&self, limit: usize) -> Result<Vec<Conflict>, StoreError>;

    /// Removes a blob, its manifest and its sketch; says whether it was here. A reader that is open
    /// reads on to the end. Chunks that only this blob has are gone with it.
    fn remove_blob(&self, blob: &Digest) -> Result<bool, StoreError>;

    /// Removes the record of an action with what lost against it; says whether it was here. Its
    /// blobs stay.
    fn remove_record(&self, key: &ActionKey) -> Result<bool, StoreError>;

    /// Which of these blobs are not here, in the order in which they are asked for: as far as can be
    /// told without reading them, and at one moment for each.
    fn find_missing(&self, blobs: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        let mut missing = Vec::new();
        for blob in blobs {
            if !self.has_blob(blob)? {
                missing.push(*blob);
            }
        }
        Ok(missing)
    }

    /// Promises that blobs stay, and says which of them are not here, so that of the others none goes:
    /// until [`Store::release`] of their owner, or, without one, for a minute.
    fn promise(&self, owner: Option<u64>, blobs: &[Digest]) -> Result<Vec<Digest>, StoreError>;

    /// Whoever was promised something under this name is gone.
    fn release(&self, owner: u64);

    /// Keeps something whatever else goes, from now on; it need not be here yet. Says whether that
    /// is new. The label is for people.
    fn pin(&self, pin: Pin, label: &str) -> Result<bool, StoreError>;

    /// Lets something go like anything else; says whether it was pinned.
    fn unpin(&self, pin: &Pin) -> Result<bool, StoreError>;

    /// What is pinned.
    fn pins(&self) -> Vec<Pinned>;

    /// Gives things up until what is left is within `limits`, or nothing more may go. Others work on
    /// meanwhile; what they use, and what they were promised, stays. The space that the journal takes
    /// comes back with [`Store::compact`]. A store without a bound gives up nothing.
    fn evict(&self, _limits: &Limits, _how: &Evicting<'_>) -> Result<Evicted, StoreError> {
        Ok(Evicted::default())
    }

    /// Gives back the space of what was removed or replaced in the journal, where it is at least
    /// half of a segment. `pace` hears how many bytes were read or written since it was last called;
    /// it may wait, and may say that this is enough for now. Others work on meanwhile.
    fn compact(
        &self,
        _pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Compacted, StoreError> {
        Ok(Compacted::default())
    }

    /// What takes space on disk. The first time it takes as long as going through the index.
    fn usage(&self) -> Result<Usage, StoreError> {
        Ok(Usage::default())
    }

    /// Who takes the space, and since when nobody used it; `None` when `tell` broke it off.
    fn survey(&self, _tell: Tell<'_>) -> Result<Option<Survey>, StoreError> {
        Ok(Some(Survey::default()))
    }

    /// Returns when all that was put before survives the loss of power.
    fn flush(&self) -> Result<(), StoreError>;

    /// Looks at some of what is here, from a place on, and says where to go on: all of it in as many
    /// calls as it takes. A store that nothing outside of it can damage has nothing to look at.
    fn inspect(&self, _from: &Cursor, _how: &Inspect<'_>) -> Result<Inspected, StoreError> {
        Ok(Inspected::default())
    }

    /// Compares the index with what is here by making it again beside, which reads the whole
    /// journal; with `repair`, takes the new one where they differ. `None` when `going`, which is
    /// called often, broke it off. A store without an index finds nothing.
    fn check_index(
        &self,
        _repair: bool,
        _going: &dyn Fn() -> ControlFlow<()>,
    ) -> Result<Option<Vec<Finding>>, StoreError> {
        Ok(Some(Vec::new()))
    }

    /// Makes the index again if it has failed since the store was opened, while others work on; says
    /// whether it had.
    fn mend(&self) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// How much is here.
    fn stats(&self) -> Stats;
}

/// A blob on its way in. What has come by the time when it is dropped, or when the process is
/// killed, is found again by [`Store::begin_blob`], within bounds: the oldest of many is forgotten.
pub trait PartialBlob: Send + Debug {
    /// Whether the chunk at place `index` of the manifest, from 0, has come, now or earlier.
    fn has(&self, index: usize) -> bool;

    /// Keeps the chunk at place `index` of the manifest, from 0, if the bytes are those it names. A
    /// chunk that came before is not written again.
    fn write_chunk(&mut self, index: usize, bytes: &[u8]) -> Result<(), StoreError>;

    /// Checks the whole against the digest, as the manifest may be a stranger's, and keeps the
    /// blob. If it is wrong, nothing is kept; if chunks are missing or the system refuses, what has
    /// come is.
    fn finish(self: Box<Self>) -> Result<(), StoreError>;

    /// Gives the blob up and leaves nothing behind.
    fn discard(self: Box<Self>);
}
