//! What this agent says to the whole mesh: sealed, signed and numbered.

use crate::roster::Signed;
use crate::seal::{NONCE, Seal};
use netbuild_core::peer::Identity;
use netbuild_proto::{gossip::Envelope, membership::Announcement, ticket::MeshKey};

/// How far ahead of what one member remembers this agent goes on: others remember somewhat later things.
const HEADROOM: u64 = 1 << 20;
/// How far ahead of this agent's clock others may send it, in microseconds: a year. A liar could
/// exhaust the numbers otherwise.
const MAX_AHEAD: u64 = 365 * 24 * 3600 * 1_000_000;

/// Tells the key of the nonces apart from every other use of the randomness that they come from.
const CONTEXT: &str = "netbuild 2026-11 gossip nonces v1";

/// The voice of this agent.
pub(crate) struct Voice {
    identity: Identity,
    seal: Seal,
    started: u64,
    sequence: u64,
    nonces: [u8; 32],
    drawn: u64,
}

impl Voice {
    /// `started` is this life of the agent in microseconds since 1970: numbers grow from there, and so
    /// across its lives. `entropy` is fresh from the system's randomness.
    pub(crate) fn new(
        identity: Identity,
        mesh_key: &MeshKey,
        started: u64,
        entropy: &[u8; 32],
    ) -> Self {
        let nonces = blake3::derive_key(CONTEXT, entropy);
        Self { identity, seal: Seal::new(mesh_key), started, sequence: started, nonces, drawn: 0 }
    }

    /// The rumour that says this. `None` for what is too long, which no announcement within its own
    /// bounds is.
    pub(crate) fn say(&mut self, announcement: &Announcement) -> Option<Signed> {
        let nonce = self.draw();
        let sealed = self.seal.seal(&self.identity.peer_id(), nonce, &announcement.encode())?;
        self.sequence = self.sequence.checked_add(1)?;
        let envelope = Envelope::sign(&self.identity, self.sequence, sealed)?;
        Some(Signed { sequence: self.sequence, body: envelope.encode().into() })
    }

    /// Takes note of what this agent said in an earlier life and a member remembers: were its clock set
    /// back since, everything that it says now would look old. Says whether it goes on from there.
    pub(crate) fn handle_remembered(&mut self, sequence: u64) -> bool {
        let ahead = sequence > self.sequence && sequence <= self.started.saturating_add(MAX_AHEAD);
        if ahead {
            self.sequence = sequence.saturating_add(HEADROOM);
        }
        ahead
    }

    /// A nonce that was never drawn before: numbered hashes under a key that was drawn at random.
    fn draw(&mut self) -> [u8; NONCE] {
        let hash = blake3::keyed_hash(&self.nonces, &self.drawn.to_le_bytes());
        self.drawn += 1;
        let mut nonce = [0; NONCE];
        nonce.copy_from_slice(&hash.as_bytes()[..NONCE]);
        nonce
    }
}
