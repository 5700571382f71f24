//! What the mesh tells its user: events one by one, and counters at any time.

use netbuild_core::peer::PeerId;
use netbuild_proto::membership::{Held, LinkReport, Presence};
use std::{net::SocketAddr, time::Duration};

/// Something that happened in the mesh.
///
/// Of each peer, [`Event::Joined`] comes first and [`Event::Left`] last; between them
/// [`Event::Connected`] and [`Event::Disconnected`] take turns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A peer is a member: it was admitted, or its presence was heard.
    Joined {
        /// Who.
        peer: PeerId,
        /// What it says of itself.
        presence: Presence,
        /// UDP addresses of its data plane: the host that it was seen at first, then those it told.
        /// Empty when it has no data plane.
        addresses: Vec<SocketAddr>,
        /// Whether this agent has a connection to it.
        connected: bool,
    },
    /// A member says something else of itself than before, or was seen elsewhere.
    Updated {
        /// Who.
        peer: PeerId,
        /// What it says of itself now.
        presence: Presence,
        /// UDP addresses of its data plane, as in [`Event::Joined`].
        addresses: Vec<SocketAddr>,
    },
    /// There is a connection to a member now: it can be asked, and round trips are measured.
    Connected {
        /// Who.
        peer: PeerId,
    },
    /// There is no connection to a member any more; it stays a member.
    Disconnected {
        /// Who.
        peer: PeerId,
    },
    /// A member is gone: nothing that it held can be had from it until it joins again.
    Left {
        /// Who.
        peer: PeerId,
    },
    /// A member says that it holds records.
    Held {
        /// Who.
        peer: PeerId,
        /// The records, at most [`netbuild_proto::membership::MAX_HELD`].
        held: Vec<Held>,
    },
    /// A member says how its links are; this replaces what it said before.
    Links {
        /// Who measured.
        peer: PeerId,
        /// The links, at most [`netbuild_proto::membership::MAX_LINKS`].
        links: Vec<LinkReport>,
    },
    /// A round trip to a connected member was measured.
    Rtt {
        /// Who.
        peer: PeerId,
        /// From question to answer.
        rtt: Duration,
    },
}

/// Counts since the start, and how many members there are now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Members known now, this agent not counted.
    pub members: u64,
    /// Members connected now.
    pub connected: u64,
    /// Peers that the routing table of the mesh holds now.
    pub routed: u64,
    /// Peers that did not prove in time that they know the mesh key.
    pub refused_admissions: u64,
    /// Members that there was no room for: as connections, or as known members.
    pub refused_for_room: u64,
    /// Times that another peer refused this agent.
    pub refused_by_others: u64,
    /// Connections cut in the handshake: not on the list of allowed peers, or too many.
    pub refused_connections: u64,
    /// Rumours and gossip messages that were forged or malformed.
    pub rejected_gossip: u64,
    /// Rumours that were heard before or are too old to tell.
    pub replayed_gossip: u64,
    /// Requests or answers that broke the protocol.
    pub rejected_messages: u64,
    /// Peers that were cut and shut out because they broke the rules too often.
    pub banned: u64,
    /// Announcements of this agent that were gossiped.
    pub published: u64,
    /// Messages of gossip sent, rumours of others included.
    pub gossip_sent: u64,
    /// Bytes of these messages.
    pub gossip_sent_bytes: u64,
    /// Messages of gossip received.
    pub gossip_received: u64,
    /// Bytes of these messages.
    pub gossip_received_bytes: u64,
    /// Records whose announcement was dropped for lack of room.
    pub dropped_announcements: u64,
    /// Records that others announced and for which the user of the events had no room.
    pub dropped_held: u64,
}
