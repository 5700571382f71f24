//! What peers without a slot announced lately: of each record the last of them to say so. A mesh may
//! have a thousand agents, and what is new is asked for most.

use crate::{key::ActionKey, peer::PeerId};
use std::collections::{BTreeMap, VecDeque};

/// Most records whose holders are remembered so, about 10 MB. The oldest announcement is forgotten.
pub const MAX_ELSEWHERE: usize = 1 << 16;

/// One holder for each of the last records.
#[derive(Clone, Debug, Default)]
pub(super) struct Elsewhere {
    holders: BTreeMap<ActionKey, (PeerId, u64)>,
    /// Announcements, oldest first; one counts as long as its number is that of the record.
    order: VecDeque<(u64, ActionKey)>,
    announced: u64,
}

impl Elsewhere {
    pub(super) fn note(&mut self, key: ActionKey, peer: PeerId) {
        self.announced += 1;
        self.holders.insert(key, (peer, self.announced));
        self.order.push_back((self.announced, key));
        // Twice as many announcements as records, as some were said again.
        while self.holders.len() > MAX_ELSEWHERE || self.order.len() > 2 * MAX_ELSEWHERE {
            let Some((number, oldest)) = self.order.pop_front() else { return };
            if self.holders.get(&oldest).is_some_and(|(_, last)| *last == number) {
                self.holders.remove(&oldest);
            }
        }
    }

    pub(super) fn of(&self, key: &ActionKey) -> Option<PeerId> {
        self.holders.get(key).map(|(peer, _)| *peer)
    }

    pub(super) fn missing(&mut self, peer: &PeerId, key: &ActionKey) {
        if self.of(key) == Some(*peer) {
            self.holders.remove(key);
        }
    }

    pub(super) fn forget(&mut self, peer: &PeerId) {
        self.holders.retain(|_, (holder, _)| holder != peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_announcements_are_remembered_however_often_one_is_repeated() {
        let key = |n: usize| ActionKey(*blake3::hash(&n.to_le_bytes()).as_bytes());
        let peer = |n: usize| PeerId([n as u8; 32]);
        let mut elsewhere = Elsewhere::default();
        for n in 0..MAX_ELSEWHERE + 10 {
            elsewhere.note(key(n), peer(n));
        }
        assert_eq!((elsewhere.of(&key(9)), elsewhere.of(&key(10))), (None, Some(peer(10))));
        for n in 0..3 * MAX_ELSEWHERE {
            elsewhere.note(key(20), peer(n));
        }
        assert!(elsewhere.order.len() <= 2 * MAX_ELSEWHERE);
        assert_eq!(elsewhere.of(&key(20)), Some(peer(3 * MAX_ELSEWHERE - 1)));
    }
}
