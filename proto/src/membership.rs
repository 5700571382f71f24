//! What agents tell one another over the mesh: admission, presence, who holds which record, and how
//! their links are.

use crate::{
    codec::{self, DecodeError},
    record::check_region,
};
use bincode::{Decode, Encode};
use netbuild_core::{hlc::Hlc, key::ActionKey, peer::PeerId};
use std::net::SocketAddr;

/// Most bytes of one announcement before sealing: a rumour with its envelope, nonce and tag has to
/// fit into [`netbuild_core::gossip::MAX_BODY`].
pub const MAX_GOSSIP: usize = 20 * 1024;
/// Most records in one announcement: 62 bytes each at most, within [`MAX_GOSSIP`] and small enough
/// to share a message with others.
pub const MAX_HELD: usize = 256;
/// Most addresses that an agent tells.
pub const MAX_ADDRESSES: usize = 16;
/// Most links in one report: as many as an agent is likely to measure; 61 bytes each at most.
pub const MAX_LINKS: usize = 64;
/// Most bytes of a question or an answer between two members; what is in it is not known here.
pub const MAX_EXCHANGE: usize = 256 * 1024;
/// Most bytes of a request or a response: the longest exchange with its framing.
pub const MAX_MESSAGE: usize = MAX_EXCHANGE + 1024;
/// Most presences in one page of the roll: some 200 bytes each, and a signature to check for each.
pub const MAX_ROLL: usize = 64;
/// Most bytes of one presence in the roll: the longest is some 600 bytes in its envelope.
pub const MAX_ROLLED: usize = 1024;

/// No round trip takes longer; a minute is beyond every link that still carries a connection.
const MAX_RTT_US: u32 = 60_000_000;
/// All packets are lost.
const MAX_LOSS_PPM: u32 = 1_000_000;
/// Bytes per second that no link of this decade carries.
const MAX_GOODPUT: u64 = 1_000_000_000_000;

/// One record that an agent holds with all its blobs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// The action.
    pub key: ActionKey,
    /// When the record was written.
    pub hlc: Hlc,
    /// The first eight bytes of the BLAKE3 hash of the sealed record.
    pub sum: u64,
    /// What the action took, in milliseconds.
    pub build_ms: u32,
    /// Bytes of all its outputs.
    pub bytes: u64,
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
    /// When it started, in microseconds since 1970 by its own clock: which of its lives this is.
    pub started: u64,
}

/// How the link from one peer to the sender of the report is, as the sender measured it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkReport {
    /// The other end.
    pub peer: PeerId,
    /// Smoothed round trip, in microseconds; at most a minute.
    pub rtt_us: u32,
    /// How much the round trip varies, in microseconds; at most a minute.
    pub jitter_us: u32,
    /// Packets lost of a million.
    pub loss_ppm: u32,
    /// Payload bytes per second from the peer to the sender; 0 when it is not known.
    pub goodput: u64,
    /// Seconds since the last measurement.
    pub age_s: u32,
}

/// What one rumour says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Announcement {
    /// The sender is here.
    Presence(Presence),
    /// The sender holds these records.
    Held(Vec<Held>),
    /// The sender measured these links, and these are all that it knows.
    Links(Vec<LinkReport>),
    /// A peer has lost its connection to the sender, or takes leave itself.
    Gone {
        /// Who.
        peer: PeerId,
        /// Which of its lives ended; a later one is not meant.
        started: u64,
    },
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
        /// Where the sender sees the receiver.
        seen: SocketAddr,
        /// Digest of the ids of all members that the sender knows, both ends included.
        roll: u64,
        /// The highest sequence of a rumour by the receiver that the sender has heard; 0 for none.
        heard: u64,
    },
    /// Carries a message of `gossip`.
    Gossip(Vec<u8>),
    /// A question whose meaning is not known here; at most [`MAX_EXCHANGE`] bytes.
    Exchange(Vec<u8>),
    /// Asks for the presences of all known members, in the order of their ids.
    Roll {
        /// The last id of the page before.
        after: Option<PeerId>,
    },
    /// The sender is about to close its connection and goes on living.
    Part,
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
        /// Where the sender sees the requester.
        seen: SocketAddr,
        /// Digest of the ids of all members that the sender knows, both ends included.
        roll: u64,
        /// The highest sequence of a rumour by the receiver that the sender has heard; 0 for none.
        heard: u64,
        /// Other members, to be met as well.
        members: Vec<SocketAddr>,
    },
    /// The requester is a member, but the sender has as many connections as it can bear.
    Full {
        /// Other members, to be met instead.
        members: Vec<SocketAddr>,
    },
    /// The requester is not a member, or the question is not answered.
    Refused,
    /// The request was taken.
    Taken,
    /// The answer to an exchange; at most [`MAX_EXCHANGE`] bytes.
    Exchange(Vec<u8>),
    /// A page of the roll, at most [`MAX_ROLL`] presences; an empty one is the last.
    Roll(Vec<Rolled>),
}

/// The presence of one member in the roll.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rolled {
    /// Seconds since the sender heard it.
    pub age_s: u32,
    /// The rumour, as its origin signed it; at most [`MAX_ROLLED`] bytes.
    pub rumour: Vec<u8>,
}

#[derive(Encode, Decode)]
struct HeldV2 {
    key: [u8; 32],
    hlc: [u8; 8],
    sum: [u8; 8],
    build_ms: u32,
    bytes: u64,
}

#[derive(Encode, Decode)]
struct PresenceV2 {
    region: String,
    mesh_addresses: Vec<SocketAddr>,
    data_port: u16,
    started: [u8; 8],
}

#[derive(Encode, Decode)]
struct LinkV2 {
    peer: [u8; 32],
    rtt_us: u32,
    jitter_us: u32,
    loss_ppm: u32,
    goodput: u64,
    age_s: u32,
}

#[derive(Encode, Decode)]
enum AnnouncementV2 {
    Presence(PresenceV2),
    Held(Vec<HeldV2>),
    Links(Vec<LinkV2>),
    Gone { peer: [u8; 32], started: u64 },
}

#[derive(Encode, Decode)]
enum RequestV2 {
    Admit { proof: [u8; 32], presence: PresenceV2, seen: SocketAddr, roll: [u8; 8], heard: [u8; 8] },
    Gossip(Vec<u8>),
    Exchange(Vec<u8>),
    Roll { after: Option<[u8; 32]> },
    Part,
}

#[derive(Encode, Decode)]
enum ResponseV2 {
    Admitted {
        proof: [u8; 32],
        presence: PresenceV2,
        seen: SocketAddr,
        roll: [u8; 8],
        heard: [u8; 8],
        members: Vec<SocketAddr>,
    },
    Full {
        members: Vec<SocketAddr>,
    },
    Refused,
    Taken,
    Exchange(Vec<u8>),
    Roll(Vec<RolledV2>),
}

#[derive(Encode, Decode)]
struct RolledV2 {
    age_s: u32,
    rumour: Vec<u8>,
}

fn held_to_wire(held: &[Held]) -> Vec<HeldV2> {
    let one = |held: &Held| HeldV2 {
        key: held.key.0,
        hlc: held.hlc.0.to_be_bytes(),
        sum: held.sum.to_be_bytes(),
        build_ms: held.build_ms,
        bytes: held.bytes,
    };
    held.iter().map(one).collect()
}

fn held_from_wire(wire: Vec<HeldV2>) -> Result<Vec<Held>, DecodeError> {
    if wire.len() > MAX_HELD {
        return Err(DecodeError::Invalid(format!("{} records at once", wire.len())));
    }
    let one = |held: HeldV2| Held {
        key: ActionKey(held.key),
        hlc: Hlc(u64::from_be_bytes(held.hlc)),
        sum: u64::from_be_bytes(held.sum),
        build_ms: held.build_ms,
        bytes: held.bytes,
    };
    Ok(wire.into_iter().map(one).collect())
}

fn presence_to_wire(presence: &Presence) -> PresenceV2 {
    PresenceV2 {
        region: presence.region.clone(),
        mesh_addresses: some_addresses(&presence.mesh_addresses),
        data_port: presence.data_port,
        started: presence.started.to_be_bytes(),
    }
}

fn presence_from_wire(wire: PresenceV2) -> Result<Presence, DecodeError> {
    check_region(&wire.region)?;
    check_addresses(&wire.mesh_addresses)?;
    Ok(Presence {
        region: wire.region,
        mesh_addresses: wire.mesh_addresses,
        data_port: wire.data_port,
        started: u64::from_be_bytes(wire.started),
    })
}

fn links_to_wire(links: &[LinkReport]) -> Vec<LinkV2> {
    let one = |link: &LinkReport| LinkV2 {
        peer: link.peer.0,
        rtt_us: link.rtt_us.min(MAX_RTT_US),
        jitter_us: link.jitter_us.min(MAX_RTT_US),
        loss_ppm: link.loss_ppm.min(MAX_LOSS_PPM),
        goodput: link.goodput.min(MAX_GOODPUT),
        age_s: link.age_s,
    };
    links.iter().take(MAX_LINKS).map(one).collect()
}

fn links_from_wire(wire: Vec<LinkV2>) -> Result<Vec<LinkReport>, DecodeError> {
    if wire.len() > MAX_LINKS {
        return Err(DecodeError::Invalid(format!("{} links at once", wire.len())));
    }
    wire.into_iter().map(link_from_wire).collect()
}

fn link_from_wire(wire: LinkV2) -> Result<LinkReport, DecodeError> {
    let LinkV2 { peer, rtt_us, jitter_us, loss_ppm, goodput, age_s } = wire;
    let absurd = rtt_us > MAX_RTT_US
        || jitter_us > MAX_RTT_US
        || loss_ppm > MAX_LOSS_PPM
        || goodput > MAX_GOODPUT;
    if absurd {
        let text = format!("a link of {rtt_us} us, {jitter_us} us, {loss_ppm} ppm, {goodput} B/s");
        return Err(DecodeError::Invalid(text));
    }
    Ok(LinkReport { peer: PeerId(peer), rtt_us, jitter_us, loss_ppm, goodput, age_s })
}

fn some_addresses(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    addresses.iter().take(MAX_ADDRESSES).copied().collect()
}

fn check_addresses(addresses: &[SocketAddr]) -> Result<(), DecodeError> {
    if addresses.len() > MAX_ADDRESSES {
        return Err(DecodeError::Invalid(format!("{} addresses", addresses.len())));
    }
    Ok(())
}

fn check_exchange(bytes: Vec<u8>) -> Result<Vec<u8>, DecodeError> {
    if bytes.len() > MAX_EXCHANGE {
        return Err(DecodeError::TooLong { len: bytes.len(), limit: MAX_EXCHANGE });
    }
    Ok(bytes)
}

fn roll_from_wire(wire: Vec<RolledV2>) -> Result<Vec<Rolled>, DecodeError> {
    let longest = wire.iter().map(|rolled| rolled.rumour.len()).max().unwrap_or(0);
    if wire.len() > MAX_ROLL || longest > MAX_ROLLED {
        let text = format!("{} presences of up to {longest} bytes", wire.len());
        return Err(DecodeError::Invalid(text));
    }
    Ok(wire.into_iter().map(|RolledV2 { age_s, rumour }| Rolled { age_s, rumour }).collect())
}

impl Announcement {
    /// The bytes to be sealed and gossiped.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(&match self {
            Self::Presence(presence) => AnnouncementV2::Presence(presence_to_wire(presence)),
            Self::Held(held) => AnnouncementV2::Held(held_to_wire(held)),
            Self::Links(links) => AnnouncementV2::Links(links_to_wire(links)),
            Self::Gone { peer, started } => {
                AnnouncementV2::Gone { peer: peer.0, started: *started }
            }
        })
    }

    /// Reads and checks an unsealed announcement. Counts and measurements beyond every bound are
    /// refused, not cut.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(match codec::decode::<AnnouncementV2, MAX_GOSSIP>(bytes)? {
            AnnouncementV2::Presence(presence) => Self::Presence(presence_from_wire(presence)?),
            AnnouncementV2::Held(held) => Self::Held(held_from_wire(held)?),
            AnnouncementV2::Links(links) => Self::Links(links_from_wire(links)?),
            AnnouncementV2::Gone { peer, started } => Self::Gone { peer: PeerId(peer), started },
        })
    }
}

impl Request {
    /// The bytes to be sent.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(&match self {
            Self::Admit { proof, presence, seen, roll, heard } => RequestV2::Admit {
                proof: *proof,
                presence: presence_to_wire(presence),
                seen: *seen,
                roll: roll.to_be_bytes(),
                heard: heard.to_be_bytes(),
            },
            Self::Gossip(bytes) => RequestV2::Gossip(bytes.clone()),
            Self::Exchange(bytes) => RequestV2::Exchange(bytes.clone()),
            Self::Roll { after } => RequestV2::Roll { after: after.map(|peer| peer.0) },
            Self::Part => RequestV2::Part,
        })
    }

    /// Reads and checks a request.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(match codec::decode::<RequestV2, MAX_MESSAGE>(bytes)? {
            RequestV2::Admit { proof, presence, seen, roll, heard } => Self::Admit {
                proof,
                presence: presence_from_wire(presence)?,
                seen,
                roll: u64::from_be_bytes(roll),
                heard: u64::from_be_bytes(heard),
            },
            RequestV2::Gossip(bytes) => Self::Gossip(bytes),
            RequestV2::Exchange(bytes) => Self::Exchange(check_exchange(bytes)?),
            RequestV2::Roll { after } => Self::Roll { after: after.map(PeerId) },
            RequestV2::Part => Self::Part,
        })
    }
}

impl Response {
    /// The bytes to be sent.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(&match self {
            Self::Admitted { proof, presence, seen, roll, heard, members } => {
                ResponseV2::Admitted {
                    proof: *proof,
                    presence: presence_to_wire(presence),
                    seen: *seen,
                    roll: roll.to_be_bytes(),
                    heard: heard.to_be_bytes(),
                    members: some_addresses(members),
                }
            }
            Self::Full { members } => ResponseV2::Full { members: some_addresses(members) },
            Self::Refused => ResponseV2::Refused,
            Self::Taken => ResponseV2::Taken,
            Self::Exchange(bytes) => ResponseV2::Exchange(bytes.clone()),
            Self::Roll(roll) => ResponseV2::Roll(
                roll.iter()
                    .map(|Rolled { age_s, rumour }| RolledV2 {
                        age_s: *age_s,
                        rumour: rumour.clone(),
                    })
                    .collect(),
            ),
        })
    }

    /// Reads and checks a response.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(match codec::decode::<ResponseV2, MAX_MESSAGE>(bytes)? {
            ResponseV2::Admitted { proof, presence, seen, roll, heard, members } => {
                check_addresses(&members)?;
                Self::Admitted {
                    proof,
                    presence: presence_from_wire(presence)?,
                    seen,
                    roll: u64::from_be_bytes(roll),
                    heard: u64::from_be_bytes(heard),
                    members,
                }
            }
            ResponseV2::Full { members } => {
                check_addresses(&members)?;
                Self::Full { members }
            }
            ResponseV2::Refused => Self::Refused,
            ResponseV2::Taken => Self::Taken,
            ResponseV2::Exchange(bytes) => Self::Exchange(check_exchange(bytes)?),
            ResponseV2::Roll(roll) => Self::Roll(roll_from_wire(roll)?),
        })
    }
}

#[cfg(test)]
mod tests;
