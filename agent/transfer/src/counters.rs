//! What an endpoint has done since it was bound.

use netbuild_core::moved::{Coding, Moved};
use netbuild_proto::data;
use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

/// A snapshot of the counts of one endpoint; they start at zero and only grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Peers turned away: not admitted, without a key, or over a limit of connections.
    pub connections_refused: u64,
    /// Requests of others that were answered to the end.
    pub requests_served: u64,
    /// Requests of others that were malformed.
    pub requests_refused: u64,
    /// Bytes handed to QUIC for others: records, manifests, and runs of chunks as they are coded.
    pub bytes_served: u64,
    /// Bytes of chunks that these runs stand for.
    pub logical_served: u64,
    /// The same by coding, in the order of [`Coding::ALL`]: runs of chunks only.
    pub served: [Moved; Coding::ALL.len()],
    /// Runs that were coded for others.
    pub runs_coded: u64,
    /// Runs that had been coded before.
    pub runs_hot: u64,
    /// Connections that this endpoint tried to open.
    pub dials: u64,
    /// Requests that this endpoint made.
    pub requests_made: u64,
    /// Bytes of records, manifests, and runs of chunks as they are coded, that arrived.
    pub bytes_fetched: u64,
    /// Bytes of chunks that these runs were decoded to, verified or not.
    pub logical_fetched: u64,
    /// Measurements of links that nobody took in time.
    pub samples_dropped: u64,
}

/// The live counts behind [`Counters`].
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) connections_refused: AtomicU64,
    pub(crate) requests_served: AtomicU64,
    pub(crate) requests_refused: AtomicU64,
    pub(crate) bytes_served: AtomicU64,
    pub(crate) logical_served: AtomicU64,
    served: [[AtomicU64; 2]; Coding::ALL.len()],
    pub(crate) runs_coded: AtomicU64,
    pub(crate) runs_hot: AtomicU64,
    pub(crate) dials: AtomicU64,
    pub(crate) requests_made: AtomicU64,
    pub(crate) bytes_fetched: AtomicU64,
    pub(crate) logical_fetched: AtomicU64,
    pub(crate) samples_dropped: AtomicU64,
    /// Requests of others that are being answered; goes up and down.
    pub(crate) serving: AtomicU32,
    /// Requests for chunks that somebody here waits for; goes up and down.
    pub(crate) fetching: AtomicU32,
}

impl Tally {
    /// A run of chunks was handed to QUIC.
    pub(crate) fn served(&self, coding: data::Coding, moved: Moved) {
        add(&self.bytes_served, moved.wire);
        add(&self.logical_served, moved.logical);
        let coding = match coding {
            // The provider lacks these: there is no body.
            data::Coding::Absent => return,
            data::Coding::Identity => Coding::Identity,
            data::Coding::Gzip => Coding::Gzip,
            data::Coding::Zstd => Coding::Zstd,
            data::Coding::Delta => Coding::Delta,
        };
        let [logical, wire] = &self.served[coding as usize];
        add(logical, moved.logical);
        add(wire, moved.wire);
    }

    pub(crate) fn snapshot(&self) -> Counters {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counters {
            connections_refused: get(&self.connections_refused),
            requests_served: get(&self.requests_served),
            requests_refused: get(&self.requests_refused),
            bytes_served: get(&self.bytes_served),
            logical_served: get(&self.logical_served),
            served: std::array::from_fn(|at| {
                let [logical, wire] = &self.served[at];
                Moved { logical: get(logical), wire: get(wire) }
            }),
            runs_coded: get(&self.runs_coded),
            runs_hot: get(&self.runs_hot),
            dials: get(&self.dials),
            requests_made: get(&self.requests_made),
            bytes_fetched: get(&self.bytes_fetched),
            logical_fetched: get(&self.logical_fetched),
            samples_dropped: get(&self.samples_dropped),
        }
    }
}

/// Counts one more of what goes up and down, until it is dropped.
#[derive(Debug)]
pub(crate) struct OneMore(Arc<Tally>, fn(&Tally) -> &AtomicU32);

impl OneMore {
    pub(crate) fn of(tally: Arc<Tally>, which: fn(&Tally) -> &AtomicU32) -> Self {
        which(&tally).fetch_add(1, Ordering::Relaxed);
        Self(tally, which)
    }
}

impl Drop for OneMore {
    fn drop(&mut self) {
        self.1(&self.0).fetch_sub(1, Ordering::Relaxed);
    }
}

/// Adds to a count.
pub(crate) fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}
