//! The join ticket: all that a machine needs to join a mesh, in one word that can be copied.

use crate::codec::{self, DecodeError};
use bincode::{Decode, Encode};
use data_encoding::{BASE32_NOPAD, Encoding};
use netbuild_core::peer::PeerId;
use std::{fmt, net::SocketAddr, str::FromStr};

/// What every ticket starts with; the number is the format's.
pub const PREFIX: &str = "netbuild1";
/// Most addresses in a ticket.
pub const MAX_ADDRESSES: usize = 16;
const MAX_BYTES: usize = 1024;
const TEXT: Encoding = BASE32_NOPAD;

/// The secret that makes an agent a member of a mesh. Never shown but in a ticket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MeshKey(pub [u8; 32]);

impl fmt::Debug for MeshKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MeshKey(secret)")
    }
}

/// Where one member is, who it is, and the key of its mesh.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// The member's peer id.
    pub peer: PeerId,
    /// UDP addresses of its mesh port, nearest first.
    pub addresses: Vec<SocketAddr>,
    /// The key of the mesh.
    pub mesh_key: MeshKey,
}

#[derive(Encode, Decode)]
struct TicketV1 {
    peer: [u8; 32],
    addresses: Vec<SocketAddr>,
    mesh_key: [u8; 32],
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = codec::encode(&TicketV1 {
            peer: self.peer.0,
            addresses: self.addresses.iter().take(MAX_ADDRESSES).copied().collect(),
            mesh_key: self.mesh_key.0,
        });
        write!(f, "{PREFIX}{}", TEXT.encode(&bytes).to_ascii_lowercase())
    }
}

impl FromStr for Ticket {
    type Err = DecodeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || DecodeError::Malformed("not a netbuild ticket".into());
        let encoded = text.trim().strip_prefix(PREFIX).ok_or_else(malformed)?;
        let bytes = TEXT
            .decode(encoded.to_ascii_uppercase().as_bytes())
            .map_err(|_| DecodeError::Malformed("the ticket is cut or mistyped".into()))?;
        let wire = codec::decode::<TicketV1, MAX_BYTES>(&bytes)?;
        if wire.addresses.is_empty() || wire.addresses.len() > MAX_ADDRESSES {
            return Err(DecodeError::Invalid(format!("{} addresses", wire.addresses.len())));
        }
        Ok(Self {
            peer: PeerId(wire.peer),
            addresses: wire.addresses,
            mesh_key: MeshKey(wire.mesh_key),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_one_word_that_reads_back() {
        let ticket = Ticket {
            peer: PeerId([1; 32]),
            addresses: vec!["127.0.0.1:4001".parse().unwrap(), "[::1]:4001".parse().unwrap()],
            mesh_key: MeshKey([2; 32]),
        };
        let text = ticket.to_string();
        assert!(text.starts_with("netbuild1") && text.chars().all(char::is_alphanumeric), "{text}");
        assert_eq!(text.parse::<Ticket>().unwrap(), ticket);
        for bad in ["", "netbuild1", &text[..text.len() - 3], &text.replace('1', "8")] {
            assert!(bad.parse::<Ticket>().is_err(), "{bad}");
        }
    }
}
