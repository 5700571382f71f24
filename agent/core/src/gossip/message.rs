//! What goes over one hop, and how large it may be.

use std::sync::Arc;

/// A rumour: opaque here; made, sealed, signed and judged by the owner of the machine.
pub type Body = Arc<[u8]>;

/// The longest rumour, in bytes. One fits into a message beside everything else that a message holds.
pub const MAX_BODY: usize = 24 * 1024;
/// The longest message as [`Message::wire_len`] counts it, in bytes. Below the 64 KiB at which
/// transports begin to cut frames, with room for the owner's framing.
pub const MAX_MESSAGE: usize = 48 * 1024;
/// Most rumour ids that a message lists as had, and as many as wanted: 8 KiB each, so that with
/// the longest rumour a message stays below [`MAX_MESSAGE`].
pub const MAX_IDS: usize = 1024;
/// Bytes of a message besides its rumours and ids: flags and three counts.
const HEADER: usize = 8;
/// Bytes that a rumour takes besides its body: its length.
const PER_RUMOUR: usize = 4;

/// A rumour's name: the first eight bytes of the BLAKE3 hash of its body, little-endian.
///
/// Eight bytes, because ids are most of what crosses the links that do not carry the rumours. Two
/// bodies of one id can be made on purpose with 2^32 tries; the second is then taken for a
/// duplicate, which harms only the one who made both.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RumourId(pub u64);

impl RumourId {
    /// The id of a body.
    pub fn of(body: &[u8]) -> Self {
        let hash = blake3::hash(body);
        let mut first = [0; 8];
        first.copy_from_slice(&hash.as_bytes()[..8]);
        Self(u64::from_le_bytes(first))
    }
}

/// What one agent tells a neighbour at once. The owner encodes it, sends it and reports its fate by
/// `Gossip::handle_sent` or `Gossip::handle_unsent`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Message {
    /// Rumours, whole. At most [`MAX_MESSAGE`] bytes together with the rest, each at most [`MAX_BODY`].
    pub rumours: Vec<Body>,
    /// Rumours that the sender has and believes the receiver may lack; at most [`MAX_IDS`].
    pub have: Vec<RumourId>,
    /// Rumours that the receiver announced and the sender lacks; at most [`MAX_IDS`].
    pub want: Vec<RumourId>,
    /// The sender gets what it needs from others: announce, do not push. Goes before `graft`.
    pub prune: bool,
    /// The sender wants rumours pushed to it from now on, and will push.
    pub graft: bool,
}

impl Message {
    /// Bytes of this message in a plain encoding: 8 for the flags and counts, 4 and the body for each
    /// rumour, 8 for each id. An encoding must not need more.
    pub fn wire_len(&self) -> usize {
        let bodies: usize = self.rumours.iter().map(|body| cost(body)).sum();
        HEADER + bodies + 8 * (self.have.len() + self.want.len())
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.rumours.is_empty()
            && self.have.is_empty()
            && self.want.is_empty()
            && !self.prune
            && !self.graft
    }

    /// Whether it keeps to the bounds above.
    pub fn is_bounded(&self) -> bool {
        self.have.len() <= MAX_IDS
            && self.want.len() <= MAX_IDS
            && self.rumours.iter().all(|body| body.len() <= MAX_BODY)
            && self.wire_len() <= MAX_MESSAGE
    }
}

/// Bytes that a rumour takes in a message.
pub(super) fn cost(body: &[u8]) -> usize {
    PER_RUMOUR + body.len()
}

const _: () = assert!(HEADER + PER_RUMOUR + MAX_BODY + 2 * 8 * MAX_IDS <= MAX_MESSAGE);
