//! The data plane: records, manifests and chunks over QUIC, between peers that know one another.
//!
//! One [`Endpoint`] is both ends: it serves what a [`Provide`] hands out to the peers that
//! [`Options::admits`] lets in, and it requests from [`Holder`]s. Both sides prove their
//! [`PeerId`](netbuild_core::peer::PeerId) with a raw Ed25519 key in the TLS handshake; there are
//! no certificates. What a holder sends is believed only after its hash or signature was checked.
//!
//! A connection serves both ends, so that a peer which cannot be dialled can be asked on the
//! connection that it opened. What the traffic shows of a link goes to [`Options::samples`].
//!
//! It does not decide whom to ask, does not keep anything, and has no deadline for a whole
//! transfer: a transfer lives as long as it makes progress, by the caller's [`Patience`], and every
//! future that is dropped ends its request.

mod answers;
mod auth;
mod batch;
mod bring;
mod client;
mod codec;
#[cfg(test)]
mod coding_tests;
mod congestion;
mod counters;
pub mod delta;
mod dial;
mod endpoint;
mod error;
#[cfg(test)]
mod fixture;
mod frame;
mod hot;
mod link;
mod links;
mod load;
mod meter;
#[cfg(test)]
mod order_tests;
mod pace;
mod patches;
mod probe;
mod provider;
mod reach;
mod requester;
mod runs;
mod seats;
mod socket;
mod speed;
#[cfg(test)]
mod tests;

pub use answers::Coming;
pub use auth::Admits;
pub use congestion::Modelled;
pub use counters::Counters;
pub use dial::{CONNECT_TIMEOUT, Holder};
pub use endpoint::{Endpoint, Options, Toll};
pub use error::{Blame, FetchError};
pub use load::Load;
pub use pace::{PROGRESS_TIMEOUT, Patience};
pub use provider::Provide;
pub use reach::{Buffers, reach};
pub use requester::{Arrival, Order, Probed, Terms};
pub use socket::{BindError, MAX_PACKET, transport};
