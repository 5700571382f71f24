//! Whom to dial and when.
//!
//! Seeds are dialled for ever, so that an agent may start before its seed, and so that two parts of a
//! mesh find each other again; members that were lost and peers that others told of are dialled until
//! nothing was heard of them for long. Each has a pause that doubles with every failure and starts anew
//! once it was admitted. Known members to which this agent does not want to be connected are left alone.

use netbuild_core::{gossip::MAX_NEIGHBOURS, peer::PeerId};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Most targets that are not seeds: everybody that can be connected, and three times as many that are
/// only heard of or were lost.
const MAX_TARGETS: usize = 4 * MAX_NEIGHBOURS;
/// Most dials at once: each may be a hundred packets into the void.
const MAX_DIALS: usize = 8;
/// A target of which nothing was heard for this long is forgotten, unless it is a seed: a machine
/// that was away for longer dials by itself when it is back.
const FORGET_AFTER: Duration = Duration::from_secs(3600);
/// Attempts at a bare address that somebody told, without knowing who is there.
const HINT_ATTEMPTS: u32 = 3;

/// Who or what is dialled.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Target {
    /// This peer, at any of its addresses.
    Peer(PeerId),
    /// Whoever is at this address.
    Address(SocketAddr),
}

/// One dial to be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Dial {
    pub(crate) target: Target,
    pub(crate) addresses: Vec<SocketAddr>,
}

#[derive(Debug)]
struct Entry {
    /// Where the configuration says it is; empty if it is not a seed.
    configured: Vec<SocketAddr>,
    /// Where it was last said or seen to be.
    heard_at: Vec<SocketAddr>,
    /// Who answered at a bare address.
    resolved: Option<PeerId>,
    /// Whether it was never known as a member.
    hinted: bool,
    dialing: bool,
    failures: u32,
    due: Instant,
    heard: Instant,
}

/// Every target with its state.
#[derive(Debug)]
pub(crate) struct Dialer {
    first_pause: Duration,
    last_pause: Duration,
    targets: BTreeMap<Target, Entry>,
    /// Peers with a connection, admitted or not.
    connected: BTreeSet<PeerId>,
    members: BTreeSet<PeerId>,
    /// Members that this agent knows and does not want to be connected to.
    spared: BTreeSet<PeerId>,
}

impl Dialer {
    pub(crate) fn new(first_pause: Duration, last_pause: Duration) -> Self {
        Self {
            first_pause,
            last_pause,
            targets: BTreeMap::new(),
            connected: BTreeSet::new(),
            members: BTreeSet::new(),
            spared: BTreeSet::new(),
        }
    }

    /// Adds a seed, to be dialled for ever.
    pub(crate) fn add_seed(
        &mut self,
        peer: Option<PeerId>,
        addresses: &[SocketAddr],
        now: Instant,
    ) {
        for address in addresses {
            let target = peer.map_or(Target::Address(*address), Target::Peer);
            let entry = self.targets.entry(target).or_insert_with(|| Entry::new(now));
            entry.configured.push(*address);
        }
    }

    /// Takes note of where a peer is said to be; it is dialled from `due` on if it is not met yet.
    pub(crate) fn heard_of(
        &mut self,
        peer: PeerId,
        addresses: Vec<SocketAddr>,
        now: Instant,
        due: Instant,
    ) {
        if addresses.is_empty() {
            return;
        }
        let target = Target::Peer(peer);
        if !self.targets.contains_key(&target) {
            if !self.make_room() {
                return;
            }
            self.targets.insert(target, Entry::new(due));
        }
        if let Some(entry) = self.targets.get_mut(&target) {
            (entry.heard_at, entry.heard, entry.hinted) = (addresses, now, false);
        }
    }

    /// Takes note of where a peer may be that somebody outside the mesh told of: whether it is a member
    /// is not known, so it is given up after a few attempts.
    pub(crate) fn hint_peer(&mut self, peer: PeerId, addresses: Vec<SocketAddr>, due: Instant) {
        let target = Target::Peer(peer);
        if let Some(entry) = self.targets.get_mut(&target) {
            if !addresses.is_empty() {
                entry.heard_at = addresses;
            }
        } else if !addresses.is_empty() && self.make_room() {
            let entry = Entry { heard_at: addresses, hinted: true, ..Entry::new(due) };
            self.targets.insert(target, entry);
        }
    }

    /// Takes note of where a member is now, if it is to be dialled at all.
    pub(crate) fn moved(&mut self, peer: &PeerId, addresses: &[SocketAddr], now: Instant) {
        if let Some(entry) = self.targets.get_mut(&Target::Peer(*peer)) {
            entry.heard = now;
            if !addresses.is_empty() {
                entry.heard_at = addresses.to_vec();
            }
        }
    }

    /// Takes note of all members that are known and not wanted. They are not dialled, whoever told of
    /// them, and those that are not seeds are forgotten.
    pub(crate) fn spare(&mut self, spared: BTreeSet<PeerId>) {
        self.spared = spared;
        let spared = &self.spared;
        self.targets.retain(|target, entry| {
            entry.is_seed()
                || entry.dialing
                || !entry.peer(target).is_some_and(|peer| spared.contains(&peer))
        });
    }

    /// Whether a peer is a seed, or was found at the address of one.
    pub(crate) fn is_seed(&self, peer: &PeerId) -> bool {
        self.targets
            .iter()
            .any(|(target, entry)| entry.is_seed() && entry.peer(target).as_ref() == Some(peer))
    }

    /// Dials a peer not before `until`.
    pub(crate) fn suspend(&mut self, peer: &PeerId, until: Instant) {
        for entry in self.entries_of(peer) {
            entry.due = entry.due.max(until);
        }
    }

    /// Takes note of an address at which there is said to be a member, unless one is known there.
    pub(crate) fn hint(&mut self, address: SocketAddr, now: Instant) {
        let known = self.targets.values().any(|entry| entry.addresses().contains(&address));
        if !known && self.make_room() {
            let mut entry = Entry::new(now);
            entry.heard_at.push(address);
            self.targets.insert(Target::Address(address), entry);
        }
    }

    /// Takes note of a connection, and of the target whose dial led to it.
    pub(crate) fn handle_connected(&mut self, peer: PeerId, dialled: Option<Target>, now: Instant) {
        self.connected.insert(peer);
        let Some(target) = dialled else {
            return;
        };
        if let Some(entry) = self.targets.get_mut(&target) {
            entry.dialing = false;
            entry.resolved = Some(peer);
            entry.heard = now;
            // Until it is admitted, this counts as an attempt like any other.
            entry.fail(now, self.first_pause, self.last_pause);
            let tried = entry.hinted && entry.failures >= HINT_ATTEMPTS;
            if !entry.is_seed() && (tried || matches!(target, Target::Address(_))) {
                self.targets.remove(&target);
            }
        }
    }

    /// Takes note that a peer proved to be a member.
    pub(crate) fn handle_admitted(&mut self, peer: &PeerId, now: Instant) {
        self.members.insert(*peer);
        self.spared.remove(peer);
        for entry in self.entries_of(peer) {
            entry.failures = 0;
            entry.heard = now;
            entry.hinted = false;
        }
    }

    /// Takes note that the last connection to a peer is gone.
    pub(crate) fn handle_disconnected(&mut self, peer: &PeerId, now: Instant) {
        self.connected.remove(peer);
        if !self.members.remove(peer) {
            return;
        }
        let due = now + self.first_pause;
        for entry in self.entries_of(peer) {
            (entry.due, entry.heard) = (due, now);
        }
    }

    /// Takes note that a dial failed.
    pub(crate) fn handle_failed(&mut self, target: &Target, now: Instant) {
        let Some(entry) = self.targets.get_mut(target) else {
            return;
        };
        entry.dialing = false;
        entry.fail(now, self.first_pause, self.last_pause);
        let hopeless = match target {
            _ if entry.hinted => entry.failures >= HINT_ATTEMPTS,
            Target::Address(_) => entry.failures >= HINT_ATTEMPTS,
            Target::Peer(_) => now.saturating_duration_since(entry.heard) >= FORGET_AFTER,
        };
        if hopeless && !entry.is_seed() {
            self.targets.remove(target);
        }
    }

    /// Forgets a target that turned out to be this agent.
    pub(crate) fn handle_self(&mut self, target: &Target) {
        self.targets.remove(target);
    }

    /// The next dial that is due.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Dial> {
        if !self.may_dial() {
            return None;
        }
        let (connected, spared) = (&self.connected, &self.spared);
        let (target, entry) = self
            .targets
            .iter_mut()
            .filter(|(target, entry)| {
                entry.is_wanted(target, connected, spared) && entry.due <= now
            })
            .min_by_key(|(_, entry)| entry.due)?;
        entry.dialing = true;
        Some(Dial { target: *target, addresses: entry.addresses() })
    }

    /// When [`Self::poll`] has something.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        if !self.may_dial() {
            return None;
        }
        self.targets
            .iter()
            .filter(|(target, entry)| entry.is_wanted(target, &self.connected, &self.spared))
            .map(|(_, entry)| entry.due)
            .min()
    }

    fn may_dial(&self) -> bool {
        let dialing = self.targets.values().filter(|entry| entry.dialing).count();
        dialing < MAX_DIALS && self.members.len() < MAX_NEIGHBOURS
    }

    fn entries_of(&mut self, peer: &PeerId) -> impl Iterator<Item = &mut Entry> {
        self.targets
            .iter_mut()
            .filter(|(target, entry)| entry.peer(target).as_ref() == Some(peer))
            .map(|(_, entry)| entry)
    }

    /// Forgets the target that failed most often when there are too many; `false` if none did.
    fn make_room(&mut self) -> bool {
        let count = self.targets.values().filter(|entry| !entry.is_seed()).count();
        if count < MAX_TARGETS {
            return true;
        }
        let worst = self
            .targets
            .iter()
            .filter(|(_, entry)| !entry.is_seed() && !entry.dialing && entry.failures > 0)
            .filter(|(target, entry)| entry.is_wanted(target, &self.connected, &self.spared))
            .max_by_key(|(_, entry)| entry.failures)
            .map(|(target, _)| *target);
        worst.is_some_and(|worst| self.targets.remove(&worst).is_some())
    }
}

impl Entry {
    fn new(now: Instant) -> Self {
        Self {
            configured: Vec::new(),
            heard_at: Vec::new(),
            resolved: None,
            hinted: false,
            dialing: false,
            failures: 0,
            due: now,
            heard: now,
        }
    }

    fn is_seed(&self) -> bool {
        !self.configured.is_empty()
    }

    /// Everywhere it may be, the latest news first.
    fn addresses(&self) -> Vec<SocketAddr> {
        let mut all = self.heard_at.clone();
        all.extend(self.configured.iter().filter(|address| !self.heard_at.contains(address)));
        all
    }

    fn peer(&self, target: &Target) -> Option<PeerId> {
        match target {
            Target::Peer(peer) => Some(*peer),
            Target::Address(_) => self.resolved,
        }
    }

    /// Whether this is to be dialled, sooner or later.
    fn is_wanted(
        &self,
        target: &Target,
        connected: &BTreeSet<PeerId>,
        spared: &BTreeSet<PeerId>,
    ) -> bool {
        let unwanted = |peer: PeerId| connected.contains(&peer) || spared.contains(&peer);
        !self.dialing && !self.peer(target).is_some_and(unwanted)
    }

    fn fail(&mut self, now: Instant, first: Duration, last: Duration) {
        // Beyond 2^16 the longest pause is reached whatever the first is.
        let factor = 1u32 << self.failures.min(16);
        self.due = now + first.saturating_mul(factor).min(last);
        self.failures = self.failures.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FIRST: Duration = Duration::from_secs(1);
    const LAST: Duration = Duration::from_secs(30);
    const A: PeerId = PeerId([1; 32]);

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn a_seed_is_dialled_for_ever_with_growing_pauses() {
        let (mut dialer, mut now) = (Dialer::new(FIRST, LAST), Instant::now());
        dialer.add_seed(None, &[address(1)], now);
        let mut pauses = Vec::new();
        for _ in 0..200 {
            let dial = dialer.poll(now).unwrap();
            assert_eq!(dial.addresses, [address(1)]);
            assert_eq!(dialer.poll(now), None);
            dialer.handle_failed(&dial.target, now);
            let next = dialer.next_timeout().unwrap();
            pauses.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(pauses[..7], [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn a_seed_that_turned_out_to_be_connected_is_left_alone_until_it_is_lost() {
        let (mut dialer, now) = (Dialer::new(FIRST, LAST), Instant::now());
        dialer.add_seed(None, &[address(1)], now);
        let dial = dialer.poll(now).unwrap();
        dialer.handle_connected(A, Some(dial.target), now);
        dialer.handle_admitted(&A, now);
        assert_eq!(dialer.next_timeout(), None);
        dialer.handle_disconnected(&A, now);
        assert_eq!(dialer.next_timeout(), Some(now + FIRST));
    }

    #[test]
    fn a_seed_that_does_not_admit_is_dialled_ever_more_rarely() {
        let (mut dialer, mut now) = (Dialer::new(FIRST, LAST), Instant::now());
        dialer.add_seed(Some(A), &[address(1)], now);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            let dial = dialer.poll(now).unwrap();
            dialer.handle_connected(A, Some(dial.target), now);
            dialer.handle_disconnected(&A, now);
            let next = dialer.next_timeout().unwrap();
            pauses.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn a_lost_member_is_dialled_until_it_is_forgotten() {
        let (mut dialer, start) = (Dialer::new(FIRST, LAST), Instant::now());
        dialer.handle_connected(A, None, start);
        dialer.heard_of(A, vec![address(1)], start, start);
        dialer.handle_admitted(&A, start);
        assert_eq!(dialer.poll(start), None);
        dialer.handle_disconnected(&A, start);
        let mut now = start;
        while let Some(next) = dialer.next_timeout() {
            now = next;
            let dial = dialer.poll(now).unwrap();
            dialer.handle_failed(&dial.target, now);
        }
        assert!(now >= start + FORGET_AFTER && now < start + FORGET_AFTER + LAST + LAST);
    }

    #[test]
    fn an_address_of_somebody_known_is_not_dialled_again() {
        let (mut dialer, now) = (Dialer::new(FIRST, LAST), Instant::now());
        dialer.handle_connected(A, None, now);
        dialer.heard_of(A, vec![address(1)], now, now);
        dialer.hint(address(1), now);
        assert_eq!(dialer.poll(now), None);
        dialer.hint(address(2), now);
        assert_eq!(dialer.poll(now).unwrap().target, Target::Address(address(2)));
    }

    #[test]
    fn a_seed_that_moved_is_dialled_at_its_new_address_and_the_configured_one() {
        let (mut dialer, now) = (Dialer::new(FIRST, LAST), Instant::now());
        dialer.add_seed(Some(A), &[address(1)], now);
        for port in 2..50 {
            dialer.heard_of(A, vec![address(port)], now, now);
        }
        let dial = dialer.poll(now).unwrap();
        assert_eq!(dial.addresses, [address(49), address(1)]);
    }

    #[test]
    fn this_agent_is_not_dialled_twice() {
        let (mut dialer, now) = (Dialer::new(FIRST, LAST), Instant::now());
        dialer.add_seed(None, &[address(1)], now);
        let dial = dialer.poll(now).unwrap();
        dialer.handle_self(&dial.target);
        assert_eq!(dialer.next_timeout(), None);
    }

    proptest! {
        /// Targets and dials stay bounded, nobody who is connected is dialled, and whenever
        /// something is due it can be had.
        #[test]
        fn dialling_is_bounded_and_never_stuck(
            steps in prop::collection::vec((0u8..8, 0u8..200), 0..600),
        ) {
            let (mut dialer, mut now) = (Dialer::new(FIRST, LAST), Instant::now());
            let mut dialing: Vec<Dial> = Vec::new();
            for (step, n) in steps {
                let peer = PeerId([n; 32]);
                match step {
                    0 => dialer.heard_of(peer, vec![address(n.into())], now, now),
                    1 => dialer.hint(address(1000 + u16::from(n)), now),
                    2 => dialer.handle_connected(peer, None, now),
                    3 => dialer.handle_disconnected(&peer, now),
                    4 => if let Some(dial) = dialing.pop() { dialer.handle_failed(&dial.target, now) },
                    5 => if let Some(dial) = dialing.pop() {
                        dialer.handle_connected(peer, Some(dial.target), now);
                    },
                    6 if dialer.connected.contains(&peer) => dialer.handle_admitted(&peer, now),
                    _ => now += Duration::from_secs(n.into()),
                }
                while let Some(dial) = dialer.poll(now) {
                    if let Target::Peer(peer) = dial.target {
                        prop_assert!(!dialer.connected.contains(&peer));
                    }
                    dialing.push(dial);
                }
                prop_assert!(dialing.len() <= MAX_DIALS);
                prop_assert!(dialer.targets.len() <= MAX_TARGETS);
                prop_assert!(dialer.next_timeout().is_none_or(|due| due > now));
            }
        }
    }
}
