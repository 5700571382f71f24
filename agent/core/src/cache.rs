//! The seam between who runs tasks and who keeps their results.
//!
//! The runner sees a [`Cache`] and never a peer; behind it are the store of this process, the
//! agent of the data directory, and, behind that, the mesh.

use crate::{
    backend::TierName,
    digest::Digest,
    key::ActionKey,
    moved::{Movement, Watch},
    peer::PeerId,
    record::{ActionResult, Execution, Record},
};
use std::{
    fmt,
    io::Read,
    path::{Path, PathBuf},
};

/// Where a hit came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// This agent's disk.
    Disk,
    /// Another agent.
    Peer {
        /// Which one.
        peer: PeerId,
        /// Its region; empty when it has none.
        region: String,
    },
    /// Storage that agents share.
    Tier(TierName),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk => f.write_str("disk"),
            Self::Peer { peer, region } if region.is_empty() => write!(f, "peer {}", peer.short()),
            Self::Peer { peer, region } => write!(f, "{region} (peer {})", peer.short()),
            Self::Tier(tier) => tier.fmt(f),
        }
    }
}

/// A record that the cache has for a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hit {
    /// The record, its signature checked.
    pub record: Record,
    /// Where the record was, or its blobs when those came from farther away.
    pub source: Source,
    /// Bytes that others sent to make the hit complete here, as they were sent.
    pub bytes: u64,
    /// Who sent them, and how.
    pub movement: Movement,
}

/// What it took to bring blobs to this disk.
#[derive(Clone, PartialEq, Debug)]
pub struct Fetched {
    /// Where they were; of several sources, the one that sent most.
    pub source: Source,
    /// Who sent what, and how. Empty when all was here.
    pub movement: Movement,
    /// Seconds until the last byte was verified and on this disk.
    pub seconds: f64,
}

/// What became of blobs that were to be brought.
#[derive(Clone, PartialEq, Debug)]
pub struct FetchedAll {
    /// Those that nobody has, in the order in which they were asked for.
    pub missing: Vec<Digest>,
    /// What it took to bring the others.
    pub fetched: Fetched,
}

/// A result to be recorded; the cache adds who and when, and signs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewRecord {
    /// The action.
    pub key: ActionKey,
    /// Its result.
    pub result: ActionResult,
    /// How it came about.
    pub execution: Execution,
}

/// Bytes to be kept.
pub enum Content<'a> {
    /// In memory.
    Bytes(&'a [u8]),
    /// In a file that nobody writes any more.
    File(&'a Path),
    /// Still to arrive. Unlike the others, it can be read once only.
    Reader(&'a mut dyn Read),
}

impl fmt::Debug for Content<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Reader(_) => f.write_str("Reader"),
        }
    }
}

/// The cache could not do what it was asked. Never a reason to fail a build.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CacheError {
    /// The cache is not there at all: no agent, no store.
    #[error("the cache cannot be reached: {0}")]
    Unreachable(String),
    /// This operation failed; others may work.
    #[error("{0}")]
    Failed(String),
}

/// Where results are kept. Calls block; every implementation may be used from several threads.
pub trait Cache: Send + Sync + fmt::Debug {
    /// The record of an action, once every blob that it names, and that its listings name, is on
    /// this disk. `None` is a miss. While blobs come, `watch` hears how far they are. Those of a result that
    /// obtained less than [`Watch::least`] need not be there.
    fn lookup(&self, key: &ActionKey, watch: &dyn Watch) -> Result<Option<Hit>, CacheError>;

    /// The record of an action that is on this disk, whether or not what it names is.
    fn peek(&self, _: &ActionKey) -> Result<Option<Record>, CacheError> {
        Ok(None)
    }

    /// Brings to this disk what the records of these keys name that are here, of all at once, for
    /// lookups that follow: a hit then says who sent its part. What cannot be had is left to these.
    fn bring(&self, _: &[ActionKey], _: &dyn Watch) -> Result<(), CacheError> {
        Ok(())
    }

    /// Brings blobs to this disk, all at once, so that [`Cache::open`] finds them. Those that can
    /// be had are kept even if others cannot. While they come, `watch` hears how far they are.
    fn fetch_all(&self, blobs: &[Digest], watch: &dyn Watch) -> Result<FetchedAll, CacheError>;

    /// Brings one blob to this disk. `None` when nobody has it.
    fn fetch(&self, blob: &Digest, watch: &dyn Watch) -> Result<Option<Fetched>, CacheError> {
        let all = self.fetch_all(std::slice::from_ref(blob), watch)?;
        Ok(all.missing.is_empty().then_some(all.fetched))
    }

    /// Opens a blob on this disk. The reader verifies: it ends with an error, and not with the
    /// end of the file, when the bytes are not those that the digest names.
    fn open(&self, blob: &Digest) -> Result<Option<Box<dyn Read + Send>>, CacheError>;

    /// A file of this machine that has the blob's bytes, if there is one. Nobody has verified them, and
    /// it may go at any time.
    fn path(&self, _: &Digest) -> Option<PathBuf> {
        None
    }

    /// Keeps `content`, which must be the bytes that `blob` names.
    fn put_blob(&self, blob: &Digest, content: Content<'_>) -> Result<(), CacheError>;

    /// Keeps a result whose blobs were put before, and announces it.
    fn put_record(&self, record: NewRecord) -> Result<(), CacheError>;

    /// Returns once all that was put is durable.
    fn flush(&self) -> Result<(), CacheError>;
}
