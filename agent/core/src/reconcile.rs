//! Finds in which records two agents differ, at a cost that follows the difference and not the size
//! of the sets.
//!
//! After Meyer, "Range-Based Set Reconciliation" (2023), and the negentropy protocol, with ranges
//! that are prefixes of keys: keys are hashes, so prefixes halve a set about evenly and need no
//! bounds on the wire. The initiator sends fingerprints of sub-ranges; each answer compares, drops
//! what is equal and goes one step deeper where it is not, until few records are left, which are
//! told by short ids. In full are told only records that the initiator lacks.
//!
//! Fingerprints are sums of hashed records, kept by the ledger, hashed once more under the
//! session's nonce and cut to 4 bytes: a collision hides a difference in one session and hardly in
//! the next, which has another nonce. Only the root, which ends most sessions, has 16 bytes. A member
//! that invents records could make sums collide on purpose; it would hide records of its own making.
//!
//! The responder keeps no state: each request says all that its answer needs. Messages are bounded
//! by [`MAX_MESSAGE`], and so is the work for one, as its ranges never overlap. Sets may change
//! during a session; it still ends, and the next finds what it missed.

mod range;
mod respond;
mod session;
#[cfg(test)]
mod tests;
mod wire;

pub use respond::respond;
pub use session::{Difference, MAX_DIFFERENCE, MAX_ROUNDS, Session, Step};
pub use wire::{BadMessage, MAX_MESSAGE, Message};

use crate::ledger::{Item, Summary, element};

/// Context of the key that a nonce makes.
const KEY_CONTEXT: &str = "netbuild 2026-11 set reconciliation v1";
/// Records in a range that are told by ids rather than by more fingerprints: 8 ids are 40 bytes, and
/// a split into 4 costs 16 before it has told anything.
const LEAF: u64 = 8;
/// Most records of a range that are listed at once. Only keys that somebody invented share their
/// first 64 bits, where ranges end; of more than these no others take part.
const MAX_LISTED: usize = 32;
/// Fingerprints that a message has room for without being called large, about 16 KiB. As long as few
/// ranges differ each is split into more parts, which saves round trips where bytes are cheap.
const WANTED_FINGERPRINTS: usize = 4096;
/// Least and most bits by which a range is split. Splitting into 4 costs the fewest bytes per
/// difference; more than 64 parts for one range are never needed.
const SPLIT_BITS: (u32, u32) = (2, 6);

/// A short name of an item, good within one range of one session.
type Id = [u8; 5];

/// The hashes of one session.
#[derive(Clone, Debug)]
struct Keyed([u8; 32]);

impl Keyed {
    fn new(nonce: u64) -> Self {
        Self(blake3::derive_key(KEY_CONTEXT, &nonce.to_le_bytes()))
    }

    fn hash(&self, tag: u8, value: u128, count: u64) -> [u8; 32] {
        let mut bytes = [tag; 25];
        bytes[1..17].copy_from_slice(&value.to_le_bytes());
        bytes[17..].copy_from_slice(&count.to_le_bytes());
        *blake3::keyed_hash(&self.0, &bytes).as_bytes()
    }

    /// The fingerprint of a range; 0 is that of an empty one and of no other.
    fn fingerprint(&self, summary: Summary) -> u32 {
        if summary.count == 0 {
            return 0;
        }
        let [a, b, c, d, ..] = self.hash(0, summary.sum, summary.count);
        u32::from_le_bytes([a, b, c, d]).max(1)
    }

    fn root(&self, summary: Summary) -> [u8; 16] {
        let mut root = [0; 16];
        root.copy_from_slice(&self.hash(1, summary.sum, summary.count)[..16]);
        root
    }

    fn id(&self, item: &Item) -> Id {
        let [a, b, c, d, e, ..] = self.hash(2, element(item), 1);
        [a, b, c, d, e]
    }
}

/// By how many bits to split a range with `count` records when `ranges` are split in one message.
fn split_bits(count: u64, ranges: usize) -> u32 {
    let (least, most) = SPLIT_BITS;
    let room = (WANTED_FINGERPRINTS / ranges.max(1)).max(1).ilog2().clamp(least, most);
    // So that half a leaf is left in each part.
    let needed = count.div_ceil(LEAF / 2).next_power_of_two().ilog2();
    room.min(needed.max(1))
}
