//! The seam between who runs tasks and who keeps their results.
//!
//! The runner sees a [`Cache`] and never a peer; behind it are the store of this process, the
//! agent of the data directory, and, behind that, the mesh.

use crate::{
    digest::Digest,
    key::ActionKey,
    peer::PeerId,
    record::{ActionResult, Execution, Record},
};
use std::{fmt, io::Read};

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
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk => f.write_str("disk"),
            Self::Peer { peer, region } if region.is_empty() => write!(f, "peer {}", peer.short()),
            Self::Peer { peer, region } => write!(f, "{region} (peer {})", peer.short()),
        }
    }
}

/// A record that the cache has for a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hit {
    /// The record, its signature checked.
    pub record: Record,
    /// Where the record was.
    pub source: Source,
}

/// What it took to bring blobs to this disk.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Fetched {
    /// Payload bytes that other agents sent.
    pub bytes: u64,
    /// The agents that sent something.
    pub sources: Vec<Source>,
    /// Blobs that could not be had anywhere.
    pub missing: Vec<Digest>,
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
    /// The record of an action, from here or from a peer. `None` is a miss.
    fn lookup(&self, key: &ActionKey) -> Result<Option<Hit>, CacheError>;

    /// Brings blobs to this disk, so that [`Cache::open`] finds them.
    fn fetch(&self, blobs: &[Digest]) -> Result<Fetched, CacheError>;

    /// Opens a blob on this disk. The reader verifies: it ends with an error, and not with the
    /// end of the file, when the bytes are not those that the digest names.
    fn open(&self, blob: &Digest) -> Result<Option<Box<dyn Read + Send>>, CacheError>;

    /// Keeps the bytes that `content` yields; they must be those that `blob` names.
    fn put_blob(&self, blob: &Digest, content: &mut dyn Read) -> Result<(), CacheError>;

    /// Keeps a result whose blobs were put before, and announces it.
    fn put_record(&self, record: NewRecord) -> Result<(), CacheError>;

    /// Returns once all that was put is durable.
    fn flush(&self) -> Result<(), CacheError>;
}
