//! One open connection: room for requests on it, and what it shows of the link.

use crate::{
    counters::{Tally, add},
    meter::{Arrivals, Goodput, Told},
    socket::STREAM_WINDOW,
};
use netbuild_core::{link::Sample, peer::PeerId};
use quinn::{Connection, ConnectionStats};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{Semaphore, mpsc};

/// Chunk requests of ours under way on one connection. Three full stream windows leave a quarter of
/// the connection's window free, so a caller that is slow to take its chunks holds up no other.
const CHUNK_REQUESTS: usize = 3;
/// Other requests of ours under way on one connection; with the above, below the other end's limit.
const SMALL_REQUESTS: usize = 32;
/// Unread bytes from which the sender of a stream may be held back. QUIC renews its permission to
/// send when an eighth of the window was read, so half of it is safely before that.
const MOST_UNREAD: u64 = STREAM_WINDOW as u64 / 2;

/// Where measurements go.
#[derive(Clone, Debug)]
pub(crate) struct Samples {
    pub(crate) to: mpsc::Sender<(PeerId, Sample)>,
    pub(crate) tally: Arc<Tally>,
}

impl Samples {
    /// Hands a sample on, if there is room: a measurement is worth no wait.
    fn give(&self, peer: PeerId, sample: Sample) {
        if self.to.try_send((peer, sample)).is_err() {
            add(&self.tally.samples_dropped, 1);
        }
    }
}

/// A connection to or from a peer.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: PeerId,
    pub(crate) connection: Connection,
    pub(crate) chunk_requests: Arc<Semaphore>,
    pub(crate) small_requests: Arc<Semaphore>,
    arrivals: Mutex<Arrivals>,
    /// Bytes per second that were last reported; 0 before that.
    reported: AtomicU64,
    path: Mutex<Path>,
    samples: Samples,
}

impl Link {
    /// Reports the round trip of the handshake.
    pub(crate) fn new(peer: PeerId, connection: Connection, samples: Samples) -> Arc<Self> {
        let link = Self {
            peer,
            connection,
            chunk_requests: Arc::new(Semaphore::new(CHUNK_REQUESTS)),
            small_requests: Arc::new(Semaphore::new(SMALL_REQUESTS)),
            arrivals: Mutex::new(Arrivals::new(MOST_UNREAD)),
            reported: AtomicU64::new(0),
            path: Mutex::default(),
            samples,
        };
        link.observe();
        Arc::new(link)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// Reports what QUIC has learned of the path since the last time.
    pub(crate) fn observe(&self) {
        let seen = Seen::from(self.connection.stats());
        let mut path = self.path.lock().unwrap_or_else(PoisonError::into_inner);
        for sample in path.observe(seen) {
            self.samples.give(self.peer, sample);
        }
    }

    /// What the current transfer on this connection has shown of the link.
    pub(crate) fn goodput(&self) -> Option<Goodput> {
        self.arrivals().so_far()
    }

    /// Bytes per second that the link gives, as it was last seen on this connection.
    pub(crate) fn believed(&self) -> Option<u64> {
        let now = self.goodput().map(|goodput| goodput.rate() as u64);
        now.or(Some(self.reported.load(Ordering::Relaxed))).filter(|rate| *rate > 0)
    }

    fn report(&self, told: Option<Told>) {
        let Some(told) = told else { return };
        match told {
            Told::Full(goodput) => self.reported.store(goodput.rate() as u64, Ordering::Relaxed),
            Told::AtLeast(goodput) => {
                self.reported.fetch_max(goodput.rate() as u64, Ordering::Relaxed);
            }
        }
        self.samples.give(self.peer, told.into());
    }

    fn arrivals(&self) -> MutexGuard<'_, Arrivals> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request whose answers count as goodput of its connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Metering {
    link: Arc<Link>,
    waiting: bool,
    /// Bytes that were read without a wait, since the last one.
    unread: u64,
}

impl Metering {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        link.arrivals().open();
        Self { link, waiting: false, unread: 0 }
    }

    /// A wait for bytes begins.
    pub(crate) fn wait(&mut self) {
        // A wait that was given up may be followed by another one.
        if !std::mem::replace(&mut self.waiting, true) {
            self.link.arrivals().wait(std::mem::take(&mut self.unread));
        }
    }

    /// The link had to wait for the holder.
    pub(crate) fn spoil(&self) {
        self.link.arrivals().spoil();
    }

    /// Bytes came, `now` if they were waited for.
    pub(crate) fn arrived(&mut self, now: Option<Instant>, bytes: usize) {
        let bytes = bytes as u64;
        let Some(now) = now else {
            self.unread += bytes;
            return;
        };
        if std::mem::take(&mut self.waiting) {
            let rtt = || self.link.connection.rtt();
            let goodput = self.link.arrivals().arrived(now, bytes, rtt);
            self.link.report(goodput);
        }
    }
}

impl Drop for Metering {
    fn drop(&mut self) {
        let goodput = self.link.arrivals().close(self.waiting);
        self.link.report(goodput);
    }
}

/// What QUIC counts on a path, as far as it matters here.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    rtt: Duration,
    /// Acknowledgements that came; each brings a round trip up to date.
    acks: u64,
    packets: u64,
    /// Frames in packets that the other end acknowledges.
    frames: u64,
    lost: u64,
}

impl From<ConnectionStats> for Seen {
    fn from(stats: ConnectionStats) -> Self {
        let sent = stats.frame_tx;
        let frames = [
            sent.crypto,
            sent.max_data,
            sent.max_stream_data,
            sent.max_streams_bidi,
            sent.new_connection_id,
            sent.ping,
            sent.reset_stream,
            sent.stop_sending,
            sent.stream,
        ];
        Self {
            rtt: stats.path.rtt,
            acks: stats.frame_rx.acks,
            packets: stats.path.sent_packets,
            frames: frames.iter().sum(),
            lost: stats.path.lost_packets,
        }
    }
}

/// What was reported of a path so far.
#[derive(Debug, Default)]
struct Path(Seen);

impl Path {
    fn observe(&mut self, seen: Seen) -> impl Iterator<Item = Sample> + use<> {
        let Self(before) = self;
        let rtt = (seen.acks > before.acks).then_some(Sample::Rtt(seen.rtt));
        // Nobody finds out what becomes of a packet that only acknowledges others. Such packets
        // count in `packets`, but have none of these frames; of the rest most have one.
        let sent = seen
            .packets
            .saturating_sub(before.packets)
            .min(seen.frames.saturating_sub(before.frames));
        // A loss is noticed later than the packet was sent; what is too much now is told next time.
        let lost = seen.lost.saturating_sub(before.lost).min(sent);
        *before = Seen { lost: before.lost + lost, ..seen };
        let loss = (sent > 0).then_some(Sample::Loss { sent, lost });
        rtt.into_iter().chain(loss)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(path: &mut Path, seen: Seen) -> Vec<Sample> {
        path.observe(seen).collect()
    }

    #[test]
    fn only_what_is_new_is_told() {
        let rtt = Duration::from_millis(30);
        let mut path = Path::default();
        let mut seen = Seen { rtt, acks: 2, packets: 10, frames: 8, lost: 1 };
        let loss = Sample::Loss { sent: 8, lost: 1 };
        assert_eq!(told(&mut path, seen), [Sample::Rtt(rtt), loss]);
        assert_eq!(told(&mut path, seen), []);
        // Acknowledgements of ours are not packets that can be seen to be lost.
        seen.packets += 1000;
        assert_eq!(told(&mut path, seen), []);
        seen.acks += 1;
        assert_eq!(told(&mut path, seen), [Sample::Rtt(rtt)]);
    }

    #[test]
    fn losses_are_never_more_than_what_was_sent_and_none_is_forgotten() {
        let mut path = Path::default();
        let mut seen = Seen { packets: 2, frames: 2, lost: 5, ..Seen::default() };
        assert_eq!(told(&mut path, seen), [Sample::Loss { sent: 2, lost: 2 }]);
        (seen.packets, seen.frames) = (12, 12);
        assert_eq!(told(&mut path, seen), [Sample::Loss { sent: 10, lost: 3 }]);
    }
}
