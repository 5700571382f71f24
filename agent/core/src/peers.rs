//! The other agents as seen from here: where they are, how far, and whether to ask them.
//!
//! Health comes before distance: a peer that failed rests for a while, twice as long after each
//! further failure, and is then asked again. Among those that do not rest, the nearest by smoothed
//! round-trip time comes first.

use crate::peer::PeerId;
use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

/// How long a peer rests after its first failure.
pub const FIRST_REST: Duration = Duration::from_secs(2);
/// The longest rest.
pub const LONGEST_REST: Duration = Duration::from_secs(60);
/// Most peers that are known at once, as many as the mesh meets.
pub const MAX_PEERS: usize = 64;
/// Weight of a new sample in the smoothed round-trip time, as in RFC 6298: 1/8.
const SMOOTHING: u32 = 8;

/// One peer.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its region; empty when it has none.
    pub region: String,
    /// Addresses of its data plane, the best first.
    pub addresses: Vec<SocketAddr>,
    /// Whether the mesh has a connection to it.
    pub connected: bool,
    rtt: Option<Duration>,
    failures: u32,
    rests_until: Option<Instant>,
}

impl Peer {
    /// Smoothed round-trip time, once measured.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// How much longer it rests.
    pub fn rest(&self, now: Instant) -> Option<Duration> {
        self.rests_until?.checked_duration_since(now).filter(|rest| !rest.is_zero())
    }
}

/// Why a candidate stands where it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// By its round-trip time.
    Rtt(Duration),
    /// Nothing is known of its distance yet; such peers come last.
    Unmeasured,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rtt(rtt) => write!(f, "rtt {:.1} ms", rtt.as_secs_f64() * 1e3),
            Self::Unmeasured => f.write_str("rtt not measured yet"),
        }
    }
}

/// A peer to be asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Which one.
    pub peer: PeerId,
    /// Its region.
    pub region: String,
    /// Where to reach it.
    pub addresses: Vec<SocketAddr>,
    /// Why it stands here.
    pub reason: Reason,
}

/// All known peers.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    known: BTreeMap<PeerId, Peer>,
}

impl Peers {
    /// A peer joined. What failed before is forgotten. When there is no room, one that left makes
    /// it; a mesh of so many members is not fully known.
    pub fn handle_joined(&mut self, peer: PeerId, region: String, addresses: Vec<SocketAddr>) {
        if self.known.len() >= MAX_PEERS && !self.known.contains_key(&peer) {
            let left = self.known.iter().find(|(_, known)| !known.connected);
            let Some(left) = left.map(|(left, _)| *left) else { return };
            self.known.remove(&left);
        }
        let rtt = self.known.get(&peer).and_then(Peer::rtt);
        let joined =
            Peer { region, addresses, connected: true, rtt, failures: 0, rests_until: None };
        self.known.insert(peer, joined);
    }

    /// A peer says something else of itself. What failed is forgotten only when it failed elsewhere.
    pub fn handle_updated(&mut self, peer: &PeerId, region: String, addresses: Vec<SocketAddr>) {
        if let Some(known) = self.known.get_mut(peer) {
            if known.addresses != addresses {
                (known.failures, known.rests_until) = (0, None);
            }
            (known.region, known.addresses) = (region, addresses);
        }
    }

    /// The mesh lost its connection to a peer.
    pub fn handle_left(&mut self, peer: &PeerId) {
        if let Some(known) = self.known.get_mut(peer) {
            known.connected = false;
        }
    }

    /// A round trip to a peer was measured.
    pub fn handle_rtt(&mut self, peer: &PeerId, sample: Duration) {
        if let Some(known) = self.known.get_mut(peer) {
            known.rtt =
                Some(known.rtt.map_or(sample, |rtt| (rtt * (SMOOTHING - 1) + sample) / SMOOTHING));
        }
    }

    /// A peer answered.
    pub fn handle_success(&mut self, peer: &PeerId) {
        if let Some(known) = self.known.get_mut(peer) {
            known.failures = 0;
            known.rests_until = None;
        }
    }

    /// A peer did not answer, or not rightly.
    pub fn handle_failure(&mut self, peer: &PeerId, now: Instant) {
        if let Some(known) = self.known.get_mut(peer) {
            let rest = FIRST_REST.saturating_mul(1 << known.failures.min(16)).min(LONGEST_REST);
            known.failures = known.failures.saturating_add(1);
            known.rests_until = Some(now + rest);
        }
    }

    /// Whether a peer is a member of the mesh.
    pub fn contains(&self, peer: &PeerId) -> bool {
        self.known.contains_key(peer)
    }

    /// Every known peer.
    pub fn iter(&self) -> impl Iterator<Item = (&PeerId, &Peer)> {
        self.known.iter()
    }

    /// The peers worth asking now, in the order in which to ask: those in `first`, then, when
    /// `others` says so, the rest.
    pub fn candidates(&self, first: &[PeerId], others: bool, now: Instant) -> Vec<Candidate> {
        let worth = |peer: &&Peer| peer.connected && peer.rest(now).is_none();
        let mut found: Vec<(bool, Duration, PeerId, &Peer)> = self
            .known
            .iter()
            .filter(|(id, peer)| worth(peer) && (others || first.contains(id)))
            .map(|(id, peer)| (!first.contains(id), peer.rtt.unwrap_or(Duration::MAX), *id, peer))
            .collect();
        found.sort_by_key(|(later, rtt, id, _)| (*later, *rtt, *id));
        let candidate = |(_, _, id, peer): (bool, Duration, PeerId, &Peer)| Candidate {
            peer: id,
            region: peer.region.clone(),
            addresses: peer.addresses.clone(),
            reason: peer.rtt.map_or(Reason::Unmeasured, Reason::Rtt),
        };
        found.into_iter().map(candidate).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerId = PeerId([1; 32]);
    const B: PeerId = PeerId([2; 32]);
    const C: PeerId = PeerId([3; 32]);

    fn peers() -> Peers {
        let mut peers = Peers::default();
        for peer in [A, B, C] {
            peers.handle_joined(peer, String::new(), Vec::new());
        }
        peers.handle_rtt(&A, Duration::from_millis(80));
        peers.handle_rtt(&B, Duration::from_millis(20));
        peers
    }

    fn order(peers: &Peers, first: &[PeerId], others: bool, now: Instant) -> Vec<PeerId> {
        peers.candidates(first, others, now).into_iter().map(|c| c.peer).collect()
    }

    #[test]
    fn the_nearest_holder_comes_first_and_the_unmeasured_last() {
        let (peers, now) = (peers(), Instant::now());
        assert_eq!(order(&peers, &[A, B, C], false, now), [B, A, C]);
        assert_eq!(order(&peers, &[A], false, now), [A]);
        assert_eq!(order(&peers, &[A], true, now), [A, B, C]);
    }

    #[test]
    fn a_failing_peer_rests_longer_each_time_and_comes_back() {
        let (mut peers, now) = (peers(), Instant::now());
        for expected in [2, 4, 8, 16, 32, 60, 60] {
            peers.handle_failure(&B, now);
            let rest = Duration::from_secs(expected);
            assert_eq!(order(&peers, &[B], false, now + rest - Duration::from_millis(1)), []);
            assert_eq!(order(&peers, &[B], false, now + rest), [B]);
        }
        peers.handle_success(&B);
        assert_eq!(order(&peers, &[B], false, now), [B]);
    }

    #[test]
    fn a_peer_that_left_is_not_asked_until_it_joins_again() {
        let (mut peers, now) = (peers(), Instant::now());
        peers.handle_left(&B);
        assert_eq!(order(&peers, &[A, B], true, now), [A, C]);
        peers.handle_joined(B, String::new(), Vec::new());
        assert_eq!(order(&peers, &[A, B], true, now), [B, A, C]);
    }

    #[test]
    fn a_peer_that_fails_rests_on_whatever_it_says_until_it_is_elsewhere() {
        let (mut peers, now) = (peers(), Instant::now());
        peers.handle_failure(&B, now);
        peers.handle_updated(&B, "eu".into(), Vec::new());
        assert_eq!(order(&peers, &[B], false, now), []);
        peers.handle_updated(&B, "eu".into(), vec!["192.0.2.1:7".parse().unwrap()]);
        assert_eq!(order(&peers, &[B], false, now), [B]);
    }

    #[test]
    fn a_peer_that_left_makes_room_for_one_that_joins() {
        let peer = |number: usize| PeerId([number as u8; 32]);
        let mut peers = Peers::default();
        (0..=MAX_PEERS).for_each(|n| peers.handle_joined(peer(n), String::new(), Vec::new()));
        assert!(!peers.contains(&peer(MAX_PEERS)), "nobody left, so there was no room");
        peers.handle_left(&peer(7));
        peers.handle_joined(peer(MAX_PEERS), String::new(), Vec::new());
        assert!(peers.contains(&peer(MAX_PEERS)) && !peers.contains(&peer(7)));
        assert_eq!(peers.iter().count(), MAX_PEERS);
    }

    #[test]
    fn one_slow_round_trip_moves_the_estimate_by_an_eighth() {
        let mut peers = peers();
        peers.handle_rtt(&A, Duration::from_millis(160));
        let rtt = peers.iter().find(|(id, _)| **id == A).and_then(|(_, peer)| peer.rtt());
        assert_eq!(rtt, Some(Duration::from_millis(90)));
    }
}
