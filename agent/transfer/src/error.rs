//! Why a fetch failed, and whose fault that is; and the codes with which peers tell one another.

use netbuild_core::{chunk::Chunk, peer::PeerId};
use quinn::{ConnectionError, TransportErrorCode, VarInt};

/// Application error codes on the wire: of a closed connection, a reset or a stopped stream.
pub(crate) mod code {
    use quinn::VarInt;

    /// The endpoint is going away.
    pub(crate) const SHUTDOWN: VarInt = VarInt::from_u32(0);
    /// The peer is not admitted (any more).
    pub(crate) const REFUSED: VarInt = VarInt::from_u32(1);
    /// A limit is reached; later may be better.
    pub(crate) const BUSY: VarInt = VarInt::from_u32(2);
    /// What came does not follow the protocol.
    pub(crate) const MALFORMED: VarInt = VarInt::from_u32(3);
    /// The provider could not go on.
    pub(crate) const INTERNAL: VarInt = VarInt::from_u32(4);
    /// Bytes came that are not those asked for.
    pub(crate) const WRONG_BYTES: VarInt = VarInt::from_u32(5);
}

/// Alerts of TLS as QUIC transports them (RFC 9001, 4.8).
const CRYPTO_ERRORS: std::ops::RangeInclusive<u64> = 0x100..=0x1ff;

/// Why a holder did not give what it was asked for.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FetchError {
    /// No connection to any of the holder's addresses.
    #[error("cannot connect to peer {}: {why}", .peer.short())]
    Connect {
        /// The holder.
        peer: PeerId,
        /// Each address with its reason.
        why: String,
    },
    /// The holder does not admit this agent.
    #[error("peer {} does not admit this agent", .peer.short())]
    Refused {
        /// The holder.
        peer: PeerId,
    },
    /// The holder has reached a limit of connections or requests.
    #[error("peer {} is busy", .peer.short())]
    Busy {
        /// The holder.
        peer: PeerId,
    },
    /// Nothing, or too little, came or could be sent in the time that the caller has
    /// [`Patience`](crate::Patience) for. The connection stays.
    #[error("peer {} made no progress in time", .peer.short())]
    Stalled {
        /// The holder.
        peer: PeerId,
    },
    /// The connection or the stream broke.
    #[error("lost peer {}: {why}", .peer.short())]
    Lost {
        /// The holder.
        peer: PeerId,
        /// What QUIC says about it.
        why: String,
    },
    /// The holder sent what no answer to the request can be.
    #[error("malformed answer of peer {}: {why}", .peer.short())]
    Malformed {
        /// The holder.
        peer: PeerId,
        /// What is wrong with it.
        why: String,
    },
    /// The holder sent bytes that do not have the hash asked for.
    #[error("peer {} sent wrong bytes for chunk {}", .peer.short(), .chunk.hash.short())]
    WrongBytes {
        /// The holder.
        peer: PeerId,
        /// The chunk that was asked for.
        chunk: Chunk,
    },
    /// This endpoint was shut down.
    #[error("the data plane is shut down; peer {} is not asked", .peer.short())]
    Closed {
        /// The holder.
        peer: PeerId,
    },
}

/// Whose fault a failed fetch is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blame {
    /// The peer broke the protocol or sent wrong bytes; asking it again is not wise.
    Peer,
    /// The way to it, or its host, is slow or gone; later may be better.
    Link,
    /// Nobody: it said no, it has no room now, or this endpoint is closed.
    Nobody,
}

impl FetchError {
    /// The holder that was asked.
    pub fn peer(&self) -> PeerId {
        match self {
            Self::Connect { peer, .. }
            | Self::Refused { peer }
            | Self::Busy { peer }
            | Self::Stalled { peer }
            | Self::Lost { peer, .. }
            | Self::Malformed { peer, .. }
            | Self::WrongBytes { peer, .. }
            | Self::Closed { peer } => *peer,
        }
    }

    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Malformed { .. } | Self::WrongBytes { .. } => Blame::Peer,
            Self::Connect { .. } | Self::Stalled { .. } | Self::Lost { .. } => Blame::Link,
            Self::Refused { .. } | Self::Busy { .. } | Self::Closed { .. } => Blame::Nobody,
        }
    }

    /// What the end of a connection to `peer` means. A refusal comes this late because a client's
    /// handshake is over before the server has seen the client's key.
    pub(crate) fn of_connection(peer: PeerId, error: &ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => {
                Self::of_code(peer, close.error_code, error)
            }
            ConnectionError::ConnectionClosed(close)
                if CRYPTO_ERRORS.contains(&u64::from(close.error_code)) =>
            {
                Self::Refused { peer }
            }
            ConnectionError::ConnectionClosed(close)
                if close.error_code == TransportErrorCode::CONNECTION_REFUSED =>
            {
                Self::Busy { peer }
            }
            _ => Self::lost(peer, error),
        }
    }

    /// What an application code of `peer` means; `error` is what it came with.
    pub(crate) fn of_code(peer: PeerId, code: VarInt, error: &dyn std::error::Error) -> Self {
        match code {
            code::REFUSED => Self::Refused { peer },
            code::BUSY => Self::Busy { peer },
            _ => Self::lost(peer, error),
        }
    }

    fn lost(peer: PeerId, error: &dyn std::error::Error) -> Self {
        Self::Lost { peer, why: error.to_string() }
    }
}
