//! The mesh: which agents belong together, where they are, and who holds which record.
//!
//! Owns the libp2p swarm and everything that is said over it: admission of peers that know the mesh
//! key, sealed gossip of presence and of new records, catch-up of peers that were away, and round-trip
//! times. Bytes of blobs never pass here, they have a data plane of their own.
//!
//! Promises: nothing but the handshake is said to a peer before it has proved that it knows the mesh
//! key; a peer's [`Event::Joined`] comes before anything else about it and is always followed by its
//! [`Event::Left`]; an announcement that gossip loses arrives with the next catch-up. What a peer says
//! that it holds is a hint, never proof.
//!
//! The decisions are in plain state machines without a socket or a clock (`brain` and the modules it
//! is made of); `driver` is the one task that joins them to the swarm.

mod addresses;
mod batch;
mod behaviour;
mod border;
mod brain;
mod catch_up;
mod codec;
mod dialer;
mod driver;
mod event;
#[cfg(test)]
mod hostile_tests;
mod mesh;
mod options;
mod outbox;
mod peers;
mod proof;
mod replay;
mod seal;
mod seed;

pub use event::{Counters, Event};
pub use mesh::{Mesh, StartError};
pub use options::{Catalog, Options, Timing};
pub use seed::{ParseSeedError, Seed, format_multiaddr, parse_multiaddr};
