//! Seeds: the members that an agent is told of, and their text form, the multiaddress.

use crate::border;
use libp2p::{Multiaddr, multiaddr::Protocol};
use netbuild_core::peer::{ParsePeerIdError, PeerId};
use std::net::SocketAddr;

/// Longest part of a mistyped address that an error repeats, in characters.
const MAX_SHOWN: usize = 80;

/// A member that an agent dials until it answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seed {
    /// Who must answer; `None` for anyone that proves to be a member.
    pub peer: Option<PeerId>,
    /// UDP addresses of its mesh port.
    pub addresses: Vec<SocketAddr>,
}

/// A text that is not the multiaddress of a mesh port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseSeedError {
    /// Not a multiaddress at all.
    #[error("`{0}` is not a multiaddress (/ip4/192.0.2.1/udp/4001/quic-v1)")]
    Malformed(String),
    /// A host name instead of an address.
    #[error("`{0}` has a host name; write its address (/ip4/... or /ip6/...)")]
    HostName(String),
    /// Another transport than QUIC.
    #[error("`{0}` is not /ip4 or /ip6, /udp, /quic-v1 and at most /p2p")]
    NotQuic(String),
    /// An address that nobody can be reached at.
    #[error("`{0}` has no host or no port that could be dialled")]
    Undiallable(String),
    /// A peer id that no agent can have.
    #[error(transparent)]
    PeerId(#[from] ParsePeerIdError),
}

/// Reads `/ip4/ADDRESS/udp/PORT/quic-v1`, or the same with `/ip6`, optionally followed by
/// `/p2p/PEER`.
pub fn parse_multiaddr(text: &str) -> Result<Seed, ParseSeedError> {
    let shown = || text.chars().take(MAX_SHOWN).collect::<String>();
    let parsed: Multiaddr = text.parse().map_err(|_| ParseSeedError::Malformed(shown()))?;
    let mut rest = parsed.iter().skip(3);
    let peer = match (rest.next(), rest.next()) {
        (None, None) => None,
        (Some(Protocol::P2p(peer)), None) => match border::from_libp2p(&peer) {
            Some(peer) => Some(peer),
            None => Some(peer.to_string().parse::<PeerId>()?),
        },
        _ => return Err(ParseSeedError::NotQuic(shown())),
    };
    if let Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) | Protocol::Dnsaddr(_)) =
        parsed.iter().next()
    {
        return Err(ParseSeedError::HostName(shown()));
    }
    let address =
        border::from_multiaddr(&parsed).ok_or_else(|| ParseSeedError::NotQuic(shown()))?;
    if address.port() == 0 || address.ip().is_unspecified() || address.ip().is_multicast() {
        return Err(ParseSeedError::Undiallable(shown()));
    }
    Ok(Seed { peer, addresses: vec![address] })
}

/// The text that [`parse_multiaddr`] reads back.
pub fn format_multiaddr(address: SocketAddr, peer: Option<&PeerId>) -> String {
    let text = border::to_multiaddr(address).to_string();
    match peer {
        Some(peer) => format!("{text}/p2p/{peer}"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::peer::Identity;
    use proptest::prelude::*;

    #[test]
    fn a_multiaddress_reads_back() {
        let peer = Identity::from_seed(&[3; 32]).peer_id();
        for address in ["192.0.2.1:4001", "[2001:db8::7]:1"] {
            let address: SocketAddr = address.parse().unwrap();
            for peer in [None, Some(peer)] {
                let text = format_multiaddr(address, peer.as_ref());
                let addresses = vec![address];
                assert_eq!(parse_multiaddr(&text), Ok(Seed { peer, addresses }));
            }
        }
    }

    #[test]
    fn what_cannot_be_dialled_is_said() {
        let error = |text: &str| parse_multiaddr(text).unwrap_err();
        assert!(matches!(error("host:1"), ParseSeedError::Malformed(_)));
        assert!(matches!(error(""), ParseSeedError::NotQuic(_)));
        assert!(matches!(error("/dns4/seed.example/udp/1/quic-v1"), ParseSeedError::HostName(_)));
        assert!(matches!(error("/ip4/192.0.2.1/tcp/1"), ParseSeedError::NotQuic(_)));
        assert!(matches!(
            error("/ip4/192.0.2.1/udp/1/quic-v1/webtransport"),
            ParseSeedError::NotQuic(_)
        ));
        assert!(matches!(error("/ip4/0.0.0.0/udp/1/quic-v1"), ParseSeedError::Undiallable(_)));
        assert!(matches!(error("/ip4/192.0.2.1/udp/0/quic-v1"), ParseSeedError::Undiallable(_)));
        assert!(matches!(
            error(
                "/ip4/192.0.2.1/udp/1/quic-v1/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"
            ),
            ParseSeedError::PeerId(_)
        ));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,100}") {
            let _ = parse_multiaddr(&text);
        }
    }
}
