//! Which of the addresses that are told or seen are worth dialling.

use netbuild_proto::membership::MAX_ADDRESSES;
use std::net::{IpAddr, SocketAddr};

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

    proptest! {
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
