//! Keeps blobs and records on this machine, and never gives back a wrong byte.
//!
//! [`Store`] is the seam. [`DiskStore`] keeps blobs as files, records and small blobs in a journal, and
//! an index that can always be made again from the two; [`MemoryStore`] keeps everything in memory.
//! Both pass one conformance suite. Their calls block.
//!
//! [`Tier`] is the seam to storage that agents share, which is asynchronous and may fail at any time.

mod arrival;
mod disk;
mod error;
mod inspect;
mod memory;
mod recent;
mod space;
mod store;
mod tier;
mod verify;

pub use disk::{DiskStore, Holder, OpenError, blob_path, hush_contained_panics};
pub use error::StoreError;
pub use inspect::{Cursor, Fault, Finding, Inspect, Inspected, ParseCursorError, Stage, Subject};
pub use memory::MemoryStore;
pub use space::{Evicted, Evicting, Pinned, Removed, Share, Survey, Tell, Usage};
pub use store::{
    Compacted, Conflict, Kept, MAX_BLOB, PartialBlob, RecordHead, SKETCHED, Stats, Store,
};
pub use tier::{
    Answer, Batch, Blob, Bring, ChangeCursor, Changes, Class, Count, Counts, Kind, Limits,
    MAX_CURSOR, MAX_NAMED, MAX_SMALL, MemoryTier, Offer, Operation, RedisOptions, RedisTier,
    S3Options, S3Tier, Stored, Tended, Tier, TierError, Topology,
};
