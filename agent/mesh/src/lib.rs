//! The mesh: which agents belong together, where they are, and who holds which record.
//!
//! Owns the libp2p swarm and everything that is said over it: admission of peers that know the mesh
//! key, gossip of presence, of new records and of links, questions between members, and round-trip
//! times. Bytes of blobs never pass here, they have a data plane of their own.
//!
//! Promises: nothing but the handshake is said to a peer before it has proved that it knows the mesh
//! key; a peer's [`Event::Joined`] comes before anything else about it and is always followed by its
//! [`Event::Left`]; what a peer is quoted with, it signed. Gossip may lose an announcement: whoever needs
//! to know for sure asks ([`Mesh::ask`]). What a peer says that it holds is a hint, never proof.
//!
//! A member is whoever said so lately under the mesh key; with how many of them there are connections
//! is another matter: with all in a small mesh, with some in a large one. Members find each other by
//! seeds, by what members tell of others, by multicast DNS and by asking the way (`router`).
//!
//! The decisions are in plain state machines without a socket or a clock (`brain` and the modules it
//! is made of); `driver` is the one task that joins them to the swarm.

mod addresses;
mod batch;
mod behaviour;
mod border;
mod brain;
mod codec;
mod conduct;
mod dialer;
mod driver;
mod ear;
mod event;
#[cfg(test)]
mod hostile_tests;
mod links;
mod mesh;
mod options;
mod outbox;
mod peers;
mod proof;
mod reach;
mod replay;
mod roster;
mod router;
mod seal;
mod seed;
mod voice;

pub use event::{Counters, Event};
pub use mesh::{AskError, Mesh, StartError};
pub use options::{Exchange, Options, Timing};
pub use reach::reach;
pub use seed::{ParseSeedError, Seed, format_multiaddr, parse_multiaddr};
