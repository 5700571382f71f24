//! Who holds which record, as far as announcements say.
//!
//! What it says is a hint: a holder may have lost what it announced, and a record that nobody
//! announced may exist all the same.

use crate::{hlc::Hlc, key::ActionKey, peer::PeerId};
use std::collections::{BTreeMap, HashMap};

/// Most records that are remembered of one peer: about 80 MB. Announcements beyond are dropped,
/// which makes misses of what would have been hits.
pub const MAX_RECORDS_PER_PEER: usize = 1_000_000;

/// Announced records by peer.
#[derive(Debug, Default)]
pub struct Holders {
    by_peer: BTreeMap<PeerId, HashMap<ActionKey, Hlc>>,
}

impl Holders {
    /// Takes an announcement; the newest stamp of a record wins.
    pub fn handle_announced(
        &mut self,
        peer: PeerId,
        held: impl IntoIterator<Item = (ActionKey, Hlc)>,
    ) {
        let records = self.by_peer.entry(peer).or_default();
        for (key, hlc) in held {
            if let Some(known) = records.get_mut(&key) {
                *known = hlc.max(*known);
            } else if records.len() < MAX_RECORDS_PER_PEER {
                records.insert(key, hlc);
            }
        }
    }

    /// Forgets that `peer` holds a record, since it did not have it when asked.
    pub fn handle_missing(&mut self, peer: &PeerId, key: &ActionKey) {
        if let Some(records) = self.by_peer.get_mut(peer) {
            records.remove(key);
        }
    }

    /// Forgets a peer.
    pub fn forget(&mut self, peer: &PeerId) {
        self.by_peer.remove(peer);
    }

    /// The peers that announced a record.
    pub fn of(&self, key: &ActionKey) -> Vec<PeerId> {
        let holds =
            |(peer, records): (&PeerId, &HashMap<_, _>)| records.contains_key(key).then_some(*peer);
        self.by_peer.iter().filter_map(holds).collect()
    }

    /// How many records a peer announced.
    pub fn count(&self, peer: &PeerId) -> usize {
        self.by_peer.get(peer).map_or(0, HashMap::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_come_and_go() {
        let (a, b) = (PeerId([1; 32]), PeerId([2; 32]));
        let (x, y) = (ActionKey([7; 32]), ActionKey([8; 32]));
        let mut holders = Holders::default();
        holders.handle_announced(a, [(x, Hlc(1)), (y, Hlc(1))]);
        holders.handle_announced(b, [(x, Hlc(2))]);
        assert_eq!(holders.of(&x), [a, b]);
        assert_eq!((holders.count(&a), holders.count(&b)), (2, 1));
        holders.handle_missing(&a, &x);
        assert_eq!(holders.of(&x), [b]);
        holders.forget(&b);
        assert_eq!(holders.of(&x), []);
        assert_eq!(holders.of(&y), [a]);
    }
}
