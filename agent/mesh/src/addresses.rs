//! Which of the addresses that are told or seen are worth dialling.

use netbuild_proto::membership::MAX_ADDRESSES;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

/// Hosts that have to see this agent at an address before it tells that address to others: one may lie,
/// and behind some routers each peer sees another port, which is of no use to anybody else.
const WITNESSES: usize = 2;
/// Most addresses at which this agent was seen that are remembered.
const MAX_OBSERVED: usize = 32;
/// Most of them that are told.
const MAX_TOLD: usize = 4;

/// Where a peer's mesh port may be: where it was seen first, then what it told.
///
/// A loopback address means another machine to everyone that tells it, so it counts only when the
/// peer was seen on this machine.
pub(crate) fn of_mesh(seen: SocketAddr, told: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut usable = Vec::new();
    for address in std::iter::once(&seen).chain(told) {
        let local = address.ip().is_loopback() && !seen.ip().is_loopback();
        if is_dialable(address) && !local && !usable.contains(address) {
            usable.push(*address);
        }
    }
    usable.truncate(MAX_ADDRESSES);
    usable
}

/// Where a peer that was never seen may be.
pub(crate) fn of_stranger(told: &[SocketAddr], on_loopback: bool) -> Vec<SocketAddr> {
    told.iter()
        .filter(|address| is_dialable(address))
        .filter(|address| on_loopback || !address.ip().is_loopback())
        .take(MAX_ADDRESSES)
        .copied()
        .collect()
}

/// Where a peer's data plane may be, on the hosts of its mesh port; nowhere when `port` is 0.
pub(crate) fn of_data(mesh: &[SocketAddr], port: u16) -> Vec<SocketAddr> {
    let mut usable = Vec::new();
    for address in mesh.iter().map(|mesh| SocketAddr::new(mesh.ip(), port)) {
        if is_dialable(&address) && !usable.contains(&address) {
            usable.push(address);
        }
    }
    usable
}

/// The one address to tell of a peer to somebody seen at `asker`.
pub(crate) fn to_tell(mesh: &[SocketAddr], asker: SocketAddr) -> Option<SocketAddr> {
    let local = asker.ip().is_loopback();
    mesh.iter().find(|address| local || !address.ip().is_loopback()).copied()
}

/// Addresses to listen at, for others: loopback last, because it is of use on this machine only.
pub(crate) fn in_order(mut own: Vec<SocketAddr>) -> Vec<SocketAddr> {
    own.retain(is_dialable);
    own.sort_by_key(|address| (address.ip().is_loopback(), address.is_ipv6(), *address));
    own.dedup();
    own
}

/// What to tell instead of where this agent listens: the same ports of the host at which others
/// reach them.
pub(crate) fn announced(listening: &[SocketAddr], host: Option<IpAddr>) -> Vec<SocketAddr> {
    let Some(host) = host else { return listening.to_vec() };
    let mut told: Vec<SocketAddr> = Vec::new();
    for port in listening.iter().map(SocketAddr::port) {
        if !told.iter().any(|address| address.port() == port) {
            told.push(SocketAddr::new(host, port));
        }
    }
    told
}

/// Where others see this agent: behind a router this is not where it listens.
#[derive(Debug, Default)]
pub(crate) struct Observed(BTreeMap<SocketAddr, BTreeSet<IpAddr>>);

impl Observed {
    /// Takes note that the member at `witness` sees this agent at `address`; says whether enough
    /// members do since now.
    pub(crate) fn handle_told(&mut self, address: SocketAddr, witness: SocketAddr) -> bool {
        if !is_dialable(&address) || address.ip().is_loopback() {
            return false;
        }
        if !self.0.contains_key(&address) && self.0.len() >= MAX_OBSERVED {
            let least = self.0.iter().min_by_key(|(_, witnesses)| witnesses.len());
            if let Some(least) = least.map(|(address, _)| *address) {
                self.0.remove(&least);
            }
        }
        let witnesses = self.0.entry(address).or_default();
        let before = witnesses.len();
        if before < WITNESSES {
            witnesses.insert(witness.ip());
        }
        before < WITNESSES && witnesses.len() >= WITNESSES
    }

    /// The addresses to tell: where this agent listens, and where enough others see it.
    pub(crate) fn with_own(&self, own: &[SocketAddr]) -> Vec<SocketAddr> {
        let seen = self
            .0
            .iter()
            .filter(|(address, witnesses)| witnesses.len() >= WITNESSES && !own.contains(address))
            .map(|(address, _)| *address)
            .take(MAX_TOLD);
        let room = MAX_ADDRESSES - MAX_TOLD;
        // Loopback stays last.
        let (far, local): (Vec<SocketAddr>, Vec<SocketAddr>) =
            own.iter().take(room).partition(|address| !address.ip().is_loopback());
        far.into_iter().chain(seen).chain(local).collect()
    }
}

fn is_dialable(address: &SocketAddr) -> bool {
    let link_local = match address.ip() {
        IpAddr::V4(ip) => ip.is_broadcast(),
        // Of no use without the interface, which a message cannot carry.
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let ip = address.ip();
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !link_local
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn where_a_peer_was_seen_comes_first_and_a_foreign_loopback_never() {
        let seen = "192.0.2.1:7".parse().unwrap();
        let told = parse(&["127.0.0.1:7", "10.0.0.1:7", "192.0.2.1:7", "0.0.0.0:7", "10.0.0.2:0"]);
        let mesh = of_mesh(seen, &told);
        assert_eq!(mesh, parse(&["192.0.2.1:7", "10.0.0.1:7"]));
        assert_eq!(of_data(&mesh, 9), parse(&["192.0.2.1:9", "10.0.0.1:9"]));
        assert!(of_data(&mesh, 0).is_empty());
        let local = of_mesh("127.0.0.1:7".parse().unwrap(), &told);
        assert_eq!(local, parse(&["127.0.0.1:7", "10.0.0.1:7", "192.0.2.1:7"]));
        assert_eq!(to_tell(&local, seen), Some("10.0.0.1:7".parse().unwrap()));
    }

    #[test]
    fn own_addresses_have_loopback_last() {
        let own = parse(&["127.0.0.1:7", "[fe80::1]:7", "[2001:db8::1]:7", "10.0.0.1:7"]);
        let ordered = parse(&["10.0.0.1:7", "[2001:db8::1]:7", "127.0.0.1:7"]);
        assert_eq!(in_order(own), ordered);
    }

    #[test]
    fn a_host_that_is_announced_stands_for_all_at_which_this_agent_listens() {
        let own = parse(&["10.0.0.1:7", "127.0.0.1:7", "[2001:db8::1]:9"]);
        assert_eq!(announced(&own, None), own);
        let host = Some("192.0.2.7".parse().unwrap());
        assert_eq!(announced(&own, host), parse(&["192.0.2.7:7", "192.0.2.7:9"]));
    }

    #[test]
    fn where_this_agent_is_seen_counts_when_two_hosts_say_so() {
        let [at, a, b, own] = ["198.51.100.1:7", "192.0.2.1:1", "192.0.2.2:1", "127.0.0.1:7"]
            .map(|a| a.parse().unwrap());
        let mut observed = Observed::default();
        assert!(!observed.handle_told(at, a) && !observed.handle_told(at, a));
        assert_eq!(observed.with_own(&[own]), [own]);
        assert!(observed.handle_told(at, b));
        assert_eq!(observed.with_own(&[own]), [at, own]);
        assert!(!observed.handle_told(own, a) && !observed.handle_told(own, b));
        assert_eq!(observed.with_own(&[own]), [at, own]);
    }

    proptest! {
        #[test]
        fn where_this_agent_is_seen_stays_bounded(
            told in prop::collection::vec((any::<SocketAddr>(), any::<SocketAddr>()), 0..100),
            own in prop::collection::vec(any::<SocketAddr>(), 0..40),
        ) {
            let mut observed = Observed::default();
            for (address, witness) in told {
                observed.handle_told(address, witness);
            }
            prop_assert!(observed.0.len() <= MAX_OBSERVED);
            prop_assert!(observed.with_own(&own).len() <= MAX_ADDRESSES);
        }

        #[test]
        fn whatever_is_told_stays_bounded_and_dialable(
            seen in any::<SocketAddr>(),
            told in prop::collection::vec(any::<SocketAddr>(), 0..40),
        ) {
            for list in [of_mesh(seen, &told), of_stranger(&told, false), of_data(&told, 1)] {
                prop_assert!(list.len() <= MAX_ADDRESSES.max(told.len()));
                prop_assert!(list.iter().all(is_dialable));
            }
        }
    }
}
