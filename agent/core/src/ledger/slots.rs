//! Which bit of a record's holders stands for which peer.

use crate::peer::PeerId;

/// Most peers of which all is remembered that they hold. An agent has fewer neighbours; of the other
/// agents of a large mesh only their last announcements are remembered.
pub const MAX_HOLDERS: usize = 63;
/// The bit of this agent.
pub(super) const OWN: u64 = 1 << MAX_HOLDERS;

/// One peer's place, below [`MAX_HOLDERS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Slot(usize);

impl Slot {
    pub(super) fn bit(self) -> u64 {
        1 << self.0
    }
}

/// The table of slots, with how many records each peer holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots {
    peers: Vec<Option<(PeerId, usize)>>,
}

impl Slots {
    pub(super) fn of(&self, peer: &PeerId) -> Option<Slot> {
        let is_it = |slot: &Option<(PeerId, usize)>| slot.is_some_and(|(id, _)| id == *peer);
        self.peers.iter().position(is_it).map(Slot)
    }

    /// The peer's slot, a free one if it has none, `None` when there is none free.
    pub(super) fn of_or_new(&mut self, peer: &PeerId) -> Option<Slot> {
        if let Some(slot) = self.of(peer) {
            return Some(slot);
        }
        let free = self.peers.iter().position(Option::is_none);
        let at = free.unwrap_or(self.peers.len());
        if at >= MAX_HOLDERS {
            return None;
        }
        if at == self.peers.len() {
            self.peers.push(None);
        }
        self.peers[at] = Some((*peer, 0));
        Some(Slot(at))
    }

    /// Frees the slot of a peer. Its bit must then be cleared everywhere.
    pub(super) fn release(&mut self, peer: &PeerId) -> Option<Slot> {
        let slot = self.of(peer)?;
        self.peers[slot.0] = None;
        Some(slot)
    }

    pub(super) fn count(&self, slot: Slot) -> usize {
        self.peers[slot.0].map_or(0, |(_, count)| count)
    }

    pub(super) fn add(&mut self, slot: Slot, records: usize) {
        if let Some((_, count)) = &mut self.peers[slot.0] {
            *count += records;
        }
    }

    pub(super) fn remove(&mut self, slot: Slot, records: usize) {
        if let Some((_, count)) = &mut self.peers[slot.0] {
            *count = count.saturating_sub(records);
        }
    }

    /// The peers whose bits are set.
    pub(super) fn peers(&self, bits: u64) -> Vec<PeerId> {
        let set = self.peers.iter().enumerate().filter(|(at, _)| bits & Slot(*at).bit() != 0);
        set.filter_map(|(_, slot)| slot.map(|(peer, _)| peer)).collect()
    }
}
