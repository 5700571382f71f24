//! Who breaks the rules how often, and who is shut out for it.
//!
//! Each peer has a bucket of offences that leaks. An honest peer may pass on something wrong now and
//! then, as when it restarts in the middle of a message; one that does little else fills its bucket
//! and stays outside for a while.

use netbuild_core::peer::PeerId;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Offences that fill a bucket.
pub(crate) const MOST_OFFENCES: u32 = 20;
/// The bucket leaks one offence in this time.
const LEAK: Duration = Duration::from_secs(5);
/// Most peers that are remembered, with their offences or their ban: several times the connections
/// that there can be.
const MAX_PEERS: usize = 1024;

#[derive(Clone, Copy, Debug)]
struct Bucket {
    level: u32,
    /// When it last leaked or was empty.
    since: Instant,
}

/// The conduct of every peer that broke a rule.
#[derive(Debug)]
pub(crate) struct Conduct {
    ban: Duration,
    buckets: BTreeMap<PeerId, Bucket>,
    banned: BTreeMap<PeerId, Instant>,
}

impl Conduct {
    pub(crate) fn new(ban: Duration) -> Self {
        Self { ban, buckets: BTreeMap::new(), banned: BTreeMap::new() }
    }

    /// Takes note of offences; says until when the peer is shut out for them, if it is.
    pub(crate) fn offend(&mut self, peer: PeerId, offences: u32, now: Instant) -> Option<Instant> {
        make_room(&mut self.buckets, &peer, |bucket| bucket.since);
        let bucket = self.buckets.entry(peer).or_insert(Bucket { level: 0, since: now });
        bucket.leak(now);
        bucket.level = bucket.level.saturating_add(offences);
        if bucket.level < MOST_OFFENCES {
            return None;
        }
        self.buckets.remove(&peer);
        let until = now + self.ban;
        make_room(&mut self.banned, &peer, |until| *until);
        self.banned.insert(peer, until);
        Some(until)
    }

    /// Whether the peer is shut out now.
    pub(crate) fn is_banned(&self, peer: &PeerId, now: Instant) -> bool {
        self.banned.get(peer).is_some_and(|until| *until > now)
    }
}

impl Bucket {
    fn leak(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since).as_millis() / LEAK.as_millis();
        let leaked = u32::try_from(passed).unwrap_or(u32::MAX);
        if leaked >= self.level {
            *self = Self { level: 0, since: now };
        } else {
            self.level -= leaked;
            self.since += LEAK * leaked;
        }
    }
}

/// Forgets the oldest when there are too many.
fn make_room<T>(of: &mut BTreeMap<PeerId, T>, peer: &PeerId, age: impl Fn(&T) -> Instant) {
    if of.len() >= MAX_PEERS && !of.contains_key(peer) {
        let oldest = of.iter().min_by_key(|(_, entry)| age(entry)).map(|(peer, _)| *peer);
        if let Some(oldest) = oldest {
            of.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAN: Duration = Duration::from_secs(600);
    const A: PeerId = PeerId([1; 32]);

    #[test]
    fn many_offences_at_once_shut_out_for_a_while() {
        let (mut conduct, now) = (Conduct::new(BAN), Instant::now());
        assert_eq!(conduct.offend(A, MOST_OFFENCES - 1, now), None);
        assert!(!conduct.is_banned(&A, now));
        assert_eq!(conduct.offend(A, 1, now), Some(now + BAN));
        assert!(conduct.is_banned(&A, now) && !conduct.is_banned(&PeerId([2; 32]), now));
        assert!(!conduct.is_banned(&A, now + BAN));
    }

    #[test]
    fn an_offence_now_and_then_is_forgiven() {
        let (mut conduct, start) = (Conduct::new(BAN), Instant::now());
        for n in 0..10 * MOST_OFFENCES {
            assert_eq!(conduct.offend(A, 1, start + LEAK * n), None);
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut conduct, mut now) = (Conduct::new(BAN), Instant::now());
        for peer in 0..4 * MAX_PEERS {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&peer.to_be_bytes());
            let offences = if peer % 2 == 0 { 1 } else { MOST_OFFENCES };
            conduct.offend(PeerId(id), offences, now);
            now += Duration::from_millis(1);
        }
        assert!(conduct.buckets.len() <= MAX_PEERS && conduct.banned.len() <= MAX_PEERS);
    }
}
