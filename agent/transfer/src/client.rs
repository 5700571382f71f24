//! What a provider knows of one connection that asks.

use crate::congestion;
use netbuild_core::{
    codec::{Choices, UNKNOWN_GOODPUT},
    peer::PeerId,
};
use quinn::Connection;
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

/// Share of QUIC's window for a round trip that counts as the link's, when the requester knows
/// nothing: in slow start over a deep queue it was seen to be seven times as much.
const UNKNOWN_SHARE: f64 = 1.0 / 8.0;
/// The same when the requester knows something: a window may be a queue longer than its link.
const KNOWN_SHARE: f64 = 0.5;

/// A connection on which requests come.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) peer: PeerId,
    connection: Connection,
    choices: Mutex<Choices>,
    /// Requests for chunks that are being answered on it.
    streams: AtomicUsize,
}

impl Client {
    pub(crate) fn new(peer: PeerId, connection: Connection) -> Arc<Self> {
        Arc::new(Self { peer, connection, choices: Mutex::default(), streams: AtomicUsize::new(0) })
    }

    /// The requester believes that the link gives so many bytes per second, or 0: a connection that
    /// has not seen that yet begins near it.
    pub(crate) fn expect(&self, goodput: u64) {
        if goodput > 0 {
            congestion::expect(&self.connection, goodput, None);
        }
    }

    /// The codecs in use on the connection.
    pub(crate) fn choices(&self) -> MutexGuard<'_, Choices> {
        self.choices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more request for chunks is answered, until the result is dropped.
    pub(crate) fn stream(self: &Arc<Self>) -> ClientStream {
        self.streams.fetch_add(1, Ordering::Relaxed);
        ClientStream(self.clone())
    }

    /// Bytes per second that QUIC sends at most now.
    pub(crate) fn most(&self) -> f64 {
        let path = self.connection.stats().path;
        path.cwnd as f64 / path.rtt.as_secs_f64().max(1e-6)
    }

    /// Bytes per second that one of the requests for chunks may expect of the link, of which the
    /// requester believes that it gives `told`, or 0.
    ///
    /// The requester cannot know of a link that is better than what it was ever asked to carry, but
    /// QUIC's window shows that here. While it grows it may be several times what the link carries,
    /// and all of that in a queue; so only a part of it counts, and never more than twice what the
    /// requester has seen, if it has seen anything.
    pub(crate) fn goodput(&self, told: u64) -> f64 {
        let window = self.most();
        let link = match told as f64 {
            0.0 => UNKNOWN_GOODPUT.max(window * UNKNOWN_SHARE),
            told => told.max((window * KNOWN_SHARE).min(told * 2.0)),
        };
        link / self.streams.load(Ordering::Relaxed).max(1) as f64
    }
}

/// A request for chunks that is being answered.
#[derive(Debug)]
pub(crate) struct ClientStream(Arc<Client>);

impl ClientStream {
    pub(crate) fn client(&self) -> &Arc<Client> {
        &self.0
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}
