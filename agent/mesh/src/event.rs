//! What the mesh tells its user: events one by one, and counters at any time.

use netbuild_core::peer::PeerId;
use netbuild_proto::membership::{Held, Presence};
use std::{net::SocketAddr, time::Duration};

/// Something that happened in the mesh.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A peer was admitted.
    Joined {
        /// Who.
        peer: PeerId,
        /// What it says of itself.
        presence: Presence,
        /// UDP addresses of its data plane: the host that it was seen at first, then those it told.
        /// Empty when it has no data plane.
        addresses: Vec<SocketAddr>,
    },
    /// A member says something else of itself than before.
    Updated {
        /// Who.
        peer: PeerId,
        /// What it says of itself now.
        presence: Presence,
        /// UDP addresses of its data plane, as in [`Event::Joined`].
        addresses: Vec<SocketAddr>,
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
    /// Everything that a member held a moment ago has been told. Comes after it joined, and again
    /// whenever the whole was told again.
    CaughtUp {
        /// Who.
        peer: PeerId,
    },
    /// A round trip to a member was measured.
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
    /// Members now.
    pub members: u64,
    /// Peers that did not prove in time that they know the mesh key, or for which there was no room.
    pub refused_admissions: u64,
    /// Times that another peer refused this agent.
    pub refused_by_others: u64,
    /// Connections cut in the handshake: not on the list of allowed peers, or too many.
    pub refused_connections: u64,
    /// Gossip messages that were forged, replayed or malformed.
    pub rejected_gossip: u64,
    /// Requests or answers that broke the protocol.
    pub rejected_messages: u64,
    /// Gossip messages published.
    pub published: u64,
    /// Records whose announcement was dropped for lack of room; the next catch-up tells them.
    pub dropped_announcements: u64,
    /// Records that others announced and for which the user of the events had no room; a catch-up
    /// brings them again.
    pub dropped_held: u64,
}
