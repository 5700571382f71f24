//! The seam between an agent and storage that it shares with other agents, such as Redis or S3.
//!
//! A tier is far away, may be full, slow or gone, and may lose anything at any time: what it keeps is a
//! copy. So it is asked in batches, every answer is checked before it is given, and every call ends
//! in bounded time. What is not there is no error.

mod batch;
mod counts;
mod error;
mod memory;
mod redis;
mod s3;

pub use batch::{Batch, Blob, MAX_NAMED, Offer};
pub use counts::{Count, Counts, Operation};
pub use error::{Class, TierError};
pub use memory::MemoryTier;
pub use redis::{RedisOptions, RedisTier, Topology};
pub use s3::{S3Options, S3Tier};

pub(crate) use counts::Meter;

use bytes::Bytes;
use futures::{future::BoxFuture, stream::BoxStream};
use netbuild_core::{digest::Digest, key::ActionKey};
use netbuild_proto::record::SealedRecord;
use std::{fmt::Debug, ops::Range, time::SystemTime};

/// What a tier answers, some time later.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, TierError>>;

/// Bytes of a blob as they come in, in order. They are not checked: whoever reads them has the
/// chunks or the digest to do so, and goes on by range after an error.
pub type Bring = BoxStream<'static, Result<Bytes, TierError>>;

/// Largest blob in bytes that [`Tier::small`] brings. Larger ones are read by range, where a broken
/// connection costs what was on its way and not the whole.
pub const MAX_SMALL: u64 = 1 << 20;

/// Most bytes that a tier's position in [`Tier::changes`] has; more is somebody else's.
pub const MAX_CURSOR: usize = 1024;

/// What kind of storage a tier is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Memory of this process, for tests.
    Memory,
    /// A Redis server, a Sentinel set or a Redis Cluster.
    Redis,
    /// A bucket of S3, or of something that speaks like it.
    S3,
}

impl Kind {
    /// The word in plans, logs and labels of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Redis => "redis",
            Self::S3 => "s3",
        }
    }
}

/// What a tier takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Largest blob in bytes. A batch with a larger one is refused with [`Class::TooLarge`].
    pub blob: u64,
    /// Sum of the blobs and records of one batch, in bytes, from which on a second batch is as
    /// cheap; a batch may be larger.
    pub batch: u64,
}

/// How far [`Tier::changes`] has come: opaque, at most [`MAX_CURSOR`] bytes, good for as long as the
/// tier is the same and in other processes too. The default is the very beginning.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChangeCursor(pub String);

/// What came into a tier.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changes {
    /// Records, checked; some may have been told before, and of one action there may be several.
    pub records: Vec<SealedRecord>,
    /// From where to ask next.
    pub cursor: ChangeCursor,
    /// Whether there is more to be had at once.
    pub more: bool,
}

/// What was done with a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stored {
    /// Blobs that were written.
    pub blobs: u64,
    /// Sum of their sizes in bytes.
    pub bytes: u64,
    /// Blobs that were there already.
    pub present: u64,
    /// Records that were written.
    pub records: u64,
}

/// What housekeeping did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tended {
    /// Pieces that were put together into fewer.
    pub merged: u64,
    /// Pieces and blobs that were deleted, as they had expired or stood in a merged piece.
    pub deleted: u64,
    /// Bytes that this freed.
    pub freed: u64,
}

/// Storage that agents share. May be used from many tasks at once; dropping an answer before it has
/// come gives the call up and harms nothing.
pub trait Tier: Send + Sync + Debug {
    /// What people call it: its address as it was configured, without credentials. The same for
    /// the whole life of the tier.
    fn name(&self) -> &str;

    /// What kind of storage it is.
    fn kind(&self) -> Kind;

    /// What it takes.
    fn limits(&self) -> Limits;

    /// Which of the blobs are there, in the order of the question. What others put within the last
    /// few seconds may not be known yet; what is said to be there was there then.
    fn find<'a>(&'a self, blobs: &'a [Digest]) -> Answer<'a, Vec<bool>>;

    /// Whole blobs of at most [`MAX_SMALL`] bytes, checked, in the order of the question, with few
    /// round trips for many of them. `None` is one that is not there, was damaged, or is larger.
    /// All are in memory at once: a caller bounds the sum of their sizes.
    fn small<'a>(&'a self, blobs: &'a [Digest]) -> Answer<'a, Vec<Option<Bytes>>>;

    /// The bytes `range` of a blob, which must lie inside it. `None` when the blob is not there.
    /// The stream gives an error when bytes stop coming; what came before it is good to go on from.
    fn read<'a>(&'a self, blob: &'a Digest, range: Range<u64>) -> Answer<'a, Option<Bring>>;

    /// The records of actions, checked, in the order of the question; of several for one action the
    /// latest. A damaged record is a miss.
    fn records<'a>(&'a self, keys: &'a [ActionKey]) -> Answer<'a, Vec<Option<SealedRecord>>>;

    /// Keeps blobs and then records, so that no record is found before the blobs that came with it.
    /// What is there already is success, and costs no second writing. After an error some of it may
    /// be kept; the same batch may be put again. Content that is not what its digest says is an
    /// error of [`Class::Content`].
    fn put(&self, batch: Batch) -> Answer<'_, Stored>;

    /// Records that came into the tier since `after`, from this agent too, a bounded number at a
    /// time: how an agent learns what others put here, so that a miss costs no round trip.
    fn changes<'a>(&'a self, after: &'a ChangeCursor) -> Answer<'a, Changes>;

    /// Somebody says that bytes of this blob that came from here were not what they should be: they
    /// are looked at again, and when they are wrong the blob is not there any more, so that it can
    /// be put again.
    fn doubt<'a>(&'a self, blob: &'a Digest) -> Answer<'a, ()>;

    /// Asks for next to nothing, to see whether the tier answers and lets this agent in.
    fn probe(&self) -> Answer<'_, ()>;

    /// Writes something small that is no result and deletes it again, to see whether this agent may.
    fn try_writing(&self) -> Answer<'_, ()>;

    /// Seconds by which the clock of the tier is ahead of this machine's, where it tells the time.
    fn ahead(&self) -> Answer<'_, Option<i64>>;

    /// Housekeeping, to be called now and then by whoever has time: puts small pieces together,
    /// deletes what expired. Safe with several agents at once. Does nothing where nothing is to do.
    fn tend(&self) -> Answer<'_, Tended>;

    /// What the tier was asked so far by this process.
    fn counts(&self) -> Counts;
}

/// Seconds since 1970 by the clock of this machine.
pub(crate) fn local_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Whether a record is later than the one that a tier has of the same action. Tiers do not judge
/// writers: whom an agent trusts is decided where it takes a record in.
pub(crate) fn is_latest(new: &SealedRecord, old: Option<&SealedRecord>) -> bool {
    let rank = |record: &SealedRecord| (record.record().hlc, record.hash());
    old.is_none_or(|old| rank(new) > rank(old))
}

/// Blobs in memory, checked. Those that come from readers are read where it may block.
pub(crate) async fn load(
    tier: &str,
    blobs: Vec<(Digest, Blob)>,
) -> Result<Vec<(Digest, Bytes)>, TierError> {
    let name = tier.to_owned();
    let load = move || {
        let blobs = blobs.into_iter();
        blobs.map(|(digest, blob)| Ok((digest, blob.load(&digest, &name)?))).collect()
    };
    let loaded = tokio::task::spawn_blocking(load).await;
    loaded.unwrap_or_else(|error| {
        Err(TierError::new(tier, Operation::Put.as_str(), Class::Content)
            .because("the content could not be read")
            .from(error))
    })
}
