//! Room for what others want of us, such as connections: so much for one peer, however eager.

use netbuild_core::peer::PeerId;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Most connections that are served at once: a mesh of hundreds of agents, each with one, within
/// the memory that their windows may take.
pub(crate) const MAX_CONNECTIONS: usize = 256;
/// Most connections of one peer: it needs one, and a few while dead ones of a process that was
/// killed are not yet noticed.
pub(crate) const MAX_CONNECTIONS_PER_PEER: usize = 8;

/// Who has how many seats.
#[derive(Clone, Debug)]
pub(crate) struct Seats {
    per_peer: usize,
    taken: Arc<Mutex<HashMap<PeerId, usize>>>,
}

/// Room for one connection or request of one peer, until it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    seats: Seats,
    peer: PeerId,
}

impl Seats {
    /// Seats of which each peer may have so many.
    pub(crate) fn of(per_peer: usize) -> Self {
        Self { per_peer, taken: Arc::default() }
    }

    /// Room for one more of `peer`, if there is any.
    pub(crate) fn take(&self, peer: PeerId) -> Option<Seat> {
        let mut taken = self.lock();
        let count = taken.entry(peer).or_default();
        if *count >= self.per_peer {
            return None;
        }
        *count += 1;
        Some(Seat { seats: self.clone(), peer })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PeerId, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock();
        if let Some(count) = taken.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_cannot_take_the_room_of_others() {
        let seats = Seats::of(MAX_CONNECTIONS_PER_PEER);
        let (a, b) = (PeerId([1; 32]), PeerId([2; 32]));
        let mut taken: Vec<_> =
            (0..MAX_CONNECTIONS_PER_PEER).map(|_| seats.take(a).unwrap()).collect();
        assert!(seats.take(a).is_none());
        assert!(seats.take(b).is_some());
        taken.pop();
        assert!(seats.take(a).is_some());
        taken.clear();
        assert!(seats.lock().is_empty());
    }
}
