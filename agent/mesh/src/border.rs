//! The border where libp2p's identities and addresses become ours and back.

use libp2p::{Multiaddr, multiaddr::Protocol};
use netbuild_core::peer::{Identity, PeerId};
use std::net::{IpAddr, SocketAddr};

/// The bytes that libp2p puts before an Ed25519 key to make a peer id.
const ED25519_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// The libp2p form of a peer id. `None` only if libp2p stopped accepting inlined keys.
pub(crate) fn to_libp2p(peer: &PeerId) -> Option<libp2p::PeerId> {
    let mut bytes = ED25519_PREFIX.to_vec();
    bytes.extend_from_slice(&peer.0);
    libp2p::PeerId::from_bytes(&bytes).ok()
}

/// Our form of a peer id; `None` for keys that are not Ed25519.
pub(crate) fn from_libp2p(peer: &libp2p::PeerId) -> Option<PeerId> {
    let bytes = peer.to_bytes();
    let key = bytes.strip_prefix(&ED25519_PREFIX)?;
    key.try_into().ok().map(PeerId)
}

/// The key pair that libp2p signs and shakes hands with.
pub(crate) fn keypair(
    identity: &Identity,
) -> Result<libp2p::identity::Keypair, libp2p::identity::DecodingError> {
    libp2p::identity::Keypair::ed25519_from_bytes(identity.seed())
}

/// The QUIC multiaddress of a UDP address.
pub(crate) fn to_multiaddr(address: SocketAddr) -> Multiaddr {
    Multiaddr::empty()
        .with(match address.ip() {
            IpAddr::V4(ip) => Protocol::Ip4(ip),
            IpAddr::V6(ip) => Protocol::Ip6(ip),
        })
        .with(Protocol::Udp(address.port()))
        .with(Protocol::QuicV1)
}

/// The UDP address of a QUIC multiaddress, whatever follows it.
pub(crate) fn from_multiaddr(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    match (parts.next()?, parts.next()?) {
        (Protocol::Udp(port), Protocol::QuicV1) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_the_same_on_both_sides() {
        let identity = Identity::from_seed(&[9; 32]);
        let theirs = keypair(&identity).unwrap().public().to_peer_id();
        assert_eq!(to_libp2p(&identity.peer_id()), Some(theirs));
        assert_eq!(from_libp2p(&theirs), Some(identity.peer_id()));
        assert_eq!(theirs.to_string(), identity.peer_id().to_string());
    }

    #[test]
    fn addresses_are_the_same_on_both_sides() {
        for text in ["10.1.2.3:4001", "[2001:db8::1]:9"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(from_multiaddr(&to_multiaddr(address)), Some(address));
        }
        let tcp: Multiaddr = "/ip4/10.1.2.3/tcp/1".parse().unwrap();
        assert_eq!(from_multiaddr(&tcp), None);
    }
}
