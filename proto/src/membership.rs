//! What agents tell one another over the mesh: admission, presence, who holds which record.

use crate::{
    codec::{self, DecodeError},
    record::check_region,
};
use bincode::{Decode, Encode};
use netbuild_core::{hlc::Hlc, key::ActionKey};
use std::net::SocketAddr;

/// Most bytes of one gossip message before sealing: under gossipsub's 64 KiB with room for its
/// envelope.
pub const MAX_GOSSIP: usize = 48 * 1024;
/// Most records in one announcement: 44 bytes each at most, within [`MAX_GOSSIP`].
pub const MAX_HELD: usize = 1000;
/// Most addresses that an agent tells.
pub const MAX_ADDRESSES: usize = 16;
/// Most bytes of a request or a response of the membership protocol.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// One record that an agent holds with all its blobs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// The action.
    pub key: ActionKey,
    /// When the record was written.
    pub hlc: Hlc,
}

/// Where an agent is and can be reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Presence {
    /// Its region; empty when it has none.
    pub region: String,
    /// UDP addresses of its mesh port.
    pub mesh_addresses: Vec<SocketAddr>,
    /// UDP port of its data plane, on the same hosts.
    pub data_port: u16,
}

/// One gossip message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Announcement {
    /// The sender is here.
    Presence(Presence),
    /// The sender holds these records.
    Held(Vec<Held>),
}

/// A request of one agent to another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Asks to be admitted.
    Admit {
        /// Proof that the sender knows the mesh key.
        proof: [u8; 32],
        /// Where the sender is.
        presence: Presence,
    },
    /// Asks for the next page of records that the receiver holds, in the order of their keys.
    Held {
        /// The last key of the page before.
        after: Option<ActionKey>,
    },
}

/// The answer to a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Response {
    /// The requester is admitted.
    Admitted {
        /// Proof that the sender knows the mesh key too.
        proof: [u8; 32],
        /// Where the sender is.
        presence: Presence,
        /// Other members, to be met as well.
        members: Vec<SocketAddr>,
    },
    /// The requester is not a member.
    Refused,
    /// Some records; fewer than [`MAX_HELD`] when they are the last.
    Held(Vec<Held>),
}

#[derive(Encode, Decode)]
struct HeldV1 {
    key: [u8; 32],
    hlc: u64,
}

#[derive(Encode, Decode)]
struct PresenceV1 {
    region: String,
    mesh_addresses: Vec<SocketAddr>,
    data_port: u16,
}

#[derive(Encode, Decode)]
enum AnnouncementV1 {
    Presence(PresenceV1),
    Held(Vec<HeldV1>),
}

#[derive(Encode, Decode)]
enum RequestV1 {
    Admit { proof: [u8; 32], presence: PresenceV1 },
    Held { after: Option<[u8; 32]> },
}

#[derive(Encode, Decode)]
enum ResponseV1 {
    Admitted { proof: [u8; 32], presence: PresenceV1, members: Vec<SocketAddr> },
    Refused,
    Held(Vec<HeldV1>),
}

fn held_to_wire(held: &[Held]) -> Vec<HeldV1> {
    held.iter().map(|held| HeldV1 { key: held.key.0, hlc: held.hlc.0 }).collect()
}

fn held_from_wire(wire: Vec<HeldV1>) -> Result<Vec<Held>, DecodeError> {
    if wire.len() > MAX_HELD {
        return Err(DecodeError::Invalid(format!("{} records at once", wire.len())));
    }
    Ok(wire.into_iter().map(|h| Held { key: ActionKey(h.key), hlc: Hlc(h.hlc) }).collect())
}

fn presence_to_wire(presence: &Presence) -> PresenceV1 {
    PresenceV1 {
        region: presence.region.clone(),
        mesh_addresses: presence.mesh_addresses.iter().take(MAX_ADDRESSES).copied().collect(),
        data_port: presence.data_port,
    }
}

fn presence_from_wire(wire: PresenceV1) -> Result<Presence, DecodeError> {
    check_region(&wire.region)?;
    check_addresses(&wire.mesh_addresses)?;
    Ok(Presence {
        region: wire.region,
        mesh_addresses: wire.mesh_addresses,
        data_port: wire.data_port,
    })
}

fn check_addresses(addresses: &[SocketAddr]) -> Result<(), DecodeError> {
    if addresses.len() > MAX_ADDRESSES {
        return Err(DecodeError::Invalid(format!("{} addresses", addresses.len())));
    }
    Ok(())
}

impl Announcement {
    /// The bytes to be sealed and gossiped.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(&match self {
            Self::Presence(presence) => AnnouncementV1::Presence(presence_to_wire(presence)),
            Self::Held(held) => AnnouncementV1::Held(held_to_wire(held)),
        })
    }

    /// Reads and checks an unsealed gossip message.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(match codec::decode::<AnnouncementV1, MAX_GOSSIP>(bytes)? {
            AnnouncementV1::Presence(presence) => Self::Presence(presence_from_wire(presence)?),
            AnnouncementV1::Held(held) => Self::Held(held_from_wire(held)?),
        })
    }
}

impl Request {
    /// The bytes to be sent.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(&match self {
            Self::Admit { proof, presence } => {
                RequestV1::Admit { proof: *proof, presence: presence_to_wire(presence) }
            }
            Self::Held { after } => RequestV1::Held { after: after.map(|key| key.0) },
        })
    }

    /// Reads and checks a request.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(match codec::decode::<RequestV1, MAX_MESSAGE>(bytes)? {
            RequestV1::Admit { proof, presence } => {
                Self::Admit { proof, presence: presence_from_wire(presence)? }
            }
            RequestV1::Held { after } => Self::Held { after: after.map(ActionKey) },
        })
    }
}

impl Response {
    /// The bytes to be sent.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(&match self {
            Self::Admitted { proof, presence, members } => ResponseV1::Admitted {
                proof: *proof,
                presence: presence_to_wire(presence),
                members: members.iter().take(MAX_ADDRESSES).copied().collect(),
            },
            Self::Refused => ResponseV1::Refused,
            Self::Held(held) => ResponseV1::Held(held_to_wire(held)),
        })
    }

    /// Reads and checks a response.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(match codec::decode::<ResponseV1, MAX_MESSAGE>(bytes)? {
            ResponseV1::Admitted { proof, presence, members } => {
                check_addresses(&members)?;
                Self::Admitted { proof, presence: presence_from_wire(presence)?, members }
            }
            ResponseV1::Refused => Self::Refused,
            ResponseV1::Held(held) => Self::Held(held_from_wire(held)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn presence() -> Presence {
        Presence {
            region: "eu-central".into(),
            mesh_addresses: vec!["127.0.0.1:1".parse().unwrap()],
            data_port: 2,
        }
    }

    #[test]
    fn messages_read_back() {
        let held = vec![Held { key: ActionKey([1; 32]), hlc: Hlc(u64::MAX) }; MAX_HELD];
        for message in [Announcement::Presence(presence()), Announcement::Held(held.clone())] {
            assert!(message.encode().len() <= MAX_GOSSIP);
            assert_eq!(Announcement::decode(&message.encode()).unwrap(), message);
        }
        let after = Some(ActionKey([3; 32]));
        for message in
            [Request::Admit { proof: [4; 32], presence: presence() }, Request::Held { after }]
        {
            assert_eq!(Request::decode(&message.encode()).unwrap(), message);
        }
        let members = vec!["[::1]:9".parse().unwrap()];
        let admitted = Response::Admitted { proof: [5; 32], presence: presence(), members };
        for message in [admitted, Response::Refused, Response::Held(held)] {
            assert_eq!(Response::decode(&message.encode()).unwrap(), message);
        }
    }

    #[test]
    fn a_region_is_a_plain_word() {
        let mut bad = presence();
        bad.region = "a\n[31m".into();
        assert!(Announcement::decode(&Announcement::Presence(bad).encode()).is_err());
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = (Announcement::decode(&bytes), Request::decode(&bytes), Response::decode(&bytes));
        }
    }
}
