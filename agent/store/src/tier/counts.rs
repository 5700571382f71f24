//! What a tier was asked, by kind of operation: what it costs.

use std::sync::atomic::{AtomicU64, Ordering};

/// A kind of operation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Operation {
    /// [`Tier::find`](super::Tier::find).
    Find,
    /// [`Tier::small`](super::Tier::small).
    Small,
    /// [`Tier::read`](super::Tier::read).
    Read,
    /// [`Tier::records`](super::Tier::records).
    Records,
    /// [`Tier::put`](super::Tier::put).
    Put,
    /// [`Tier::changes`](super::Tier::changes).
    Changes,
    /// [`Tier::probe`](super::Tier::probe).
    Probe,
    /// [`Tier::tend`](super::Tier::tend).
    Tend,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Find,
        Self::Small,
        Self::Read,
        Self::Records,
        Self::Put,
        Self::Changes,
        Self::Probe,
        Self::Tend,
    ];

    /// The word in errors, tables and labels of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Find => "find",
            Self::Small => "small",
            Self::Read => "read",
            Self::Records => "records",
            Self::Put => "put",
            Self::Changes => "changes",
            Self::Probe => "probe",
            Self::Tend => "tend",
        }
    }
}

/// What operations of one kind took.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Count {
    /// Questions put to the server, each of which waits for an answer: HTTP requests, those that
    /// were repeated included, or batches of Redis commands.
    pub requests: u64,
    /// Bytes of content that were sent.
    pub sent: u64,
    /// Bytes of content that were received.
    pub received: u64,
}

/// What a tier was asked by this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts([Count; Operation::ALL.len()]);

impl Counts {
    /// What operations of this kind took.
    pub fn of(&self, operation: Operation) -> Count {
        self.0[operation as usize]
    }

    /// What all took together.
    pub fn total(&self) -> Count {
        self.0.iter().fold(Count::default(), |sum, count| Count {
            requests: sum.requests + count.requests,
            sent: sum.sent + count.sent,
            received: sum.received + count.received,
        })
    }
}

/// Counts while a tier works.
#[derive(Debug, Default)]
pub(crate) struct Meter([[AtomicU64; 3]; Operation::ALL.len()]);

impl Meter {
    pub(crate) fn request(&self, operation: Operation, sent: u64) {
        let [requests, bytes, _] = &self.0[operation as usize];
        requests.fetch_add(1, Ordering::Relaxed);
        bytes.fetch_add(sent, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, operation: Operation, bytes: u64) {
        self.0[operation as usize][2].fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts(std::array::from_fn(|at| {
            let [requests, sent, received] = &self.0[at];
            Count {
                requests: requests.load(Ordering::Relaxed),
                sent: sent.load(Ordering::Relaxed),
                received: received.load(Ordering::Relaxed),
            }
        }))
    }
}
