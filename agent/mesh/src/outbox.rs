//! Events that wait for their receiver, bounded however slow it is.
//!
//! Coming and going is never lost, but it is shortened: what a receiver has not yet seen of a peer
//! that left again is taken back. Records are the only bulk; whoever adds them asks [`Outbox::has_room`]
//! first.

use crate::event::Event;
use netbuild_core::peer::PeerId;
use netbuild_proto::membership::{Held, Presence};
use std::{collections::VecDeque, net::SocketAddr, time::Duration};

/// Events that may wait before records are held back: a hundred full pages, some five megabytes.
const MAX_WAITING: usize = 100;

/// Events in the order in which they are to be received.
#[derive(Debug, Default)]
pub(crate) struct Outbox(VecDeque<Event>);

impl Outbox {
    /// Whether records may be added.
    pub(crate) fn has_room(&self) -> bool {
        self.0.len() < MAX_WAITING
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next event.
    pub(crate) fn pop(&mut self) -> Option<Event> {
        self.0.pop_front()
    }

    /// Drops everything: nobody will receive it.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds records that a member told.
    pub(crate) fn held(&mut self, peer: PeerId, held: Vec<Held>) {
        self.0.push_back(Event::Held { peer, held });
    }

    /// Adds that a peer joined or, if it was a member before, that it changed.
    pub(crate) fn presence(&mut self, event: Event) {
        let Event::Updated { peer, presence, addresses } = &event else {
            self.0.push_back(event);
            return;
        };
        for waiting in self.0.iter_mut().rev() {
            if let Some(slot) = presence_of(waiting, peer) {
                (*slot.0, *slot.1) = (presence.clone(), addresses.clone());
                return;
            }
        }
        self.0.push_back(event);
    }

    /// Adds a round trip; only the latest waits.
    pub(crate) fn rtt(&mut self, peer: PeerId, rtt: Duration) {
        self.0.retain(|event| !matches!(event, Event::Rtt { peer: p, .. } if *p == peer));
        self.0.push_back(Event::Rtt { peer, rtt });
    }

    /// Adds that a catch-up is complete, after the records that it brought.
    pub(crate) fn caught_up(&mut self, peer: PeerId) {
        self.0.retain(|event| !matches!(event, Event::CaughtUp { peer: p } if *p == peer));
        self.0.push_back(Event::CaughtUp { peer });
    }

    /// Adds that a member left, and takes back what is now without meaning.
    pub(crate) fn left(&mut self, peer: PeerId) {
        let mut unseen = false;
        self.0.retain(|event| {
            unseen |= matches!(event, Event::Joined { peer: p, .. } if *p == peer);
            who(event) != &peer || matches!(event, Event::Left { .. })
        });
        if !unseen {
            self.0.push_back(Event::Left { peer });
        }
    }
}

fn who(event: &Event) -> &PeerId {
    match event {
        Event::Joined { peer, .. }
        | Event::Updated { peer, .. }
        | Event::Left { peer }
        | Event::Held { peer, .. }
        | Event::CaughtUp { peer }
        | Event::Rtt { peer, .. } => peer,
    }
}

/// The presence of `peer` in a waiting event.
fn presence_of<'a>(
    event: &'a mut Event,
    wanted: &PeerId,
) -> Option<(&'a mut Presence, &'a mut Vec<SocketAddr>)> {
    match event {
        Event::Joined { peer, presence, addresses }
        | Event::Updated { peer, presence, addresses }
            if peer == wanted =>
        {
            Some((presence, addresses))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn presence(data_port: u16) -> Presence {
        Presence { region: String::new(), mesh_addresses: Vec::new(), data_port }
    }

    fn joined(peer: PeerId, port: u16) -> Event {
        let (presence, addresses) = (presence(port), Vec::new());
        Event::Joined { peer, presence, addresses }
    }

    fn updated(peer: PeerId, port: u16) -> Event {
        let (presence, addresses) = (presence(port), Vec::new());
        Event::Updated { peer, presence, addresses }
    }

    const A: PeerId = PeerId([1; 32]);

    #[test]
    fn a_visit_that_nobody_saw_leaves_no_trace() {
        let mut outbox = Outbox::default();
        outbox.presence(joined(A, 1));
        outbox.held(A, Vec::new());
        outbox.left(A);
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_change_that_nobody_saw_is_folded_in() {
        let mut outbox = Outbox::default();
        outbox.presence(joined(A, 1));
        outbox.presence(updated(A, 2));
        assert_eq!(outbox.pop(), Some(joined(A, 2)));
        assert_eq!(outbox.pop(), None);
    }

    proptest! {
        /// Whatever happens and however the receiver dawdles, it sees each peer come and go in turn,
        /// nothing of a peer that is away, ends with the truth, and little waits for it.
        #[test]
        fn the_receiver_ends_with_the_truth(
            steps in prop::collection::vec((0u8..3, 0u8..6, any::<u16>()), 0..400),
        ) {
            let mut outbox = Outbox::default();
            let mut truth: BTreeMap<PeerId, u16> = BTreeMap::new();
            let mut view: BTreeMap<PeerId, u16> = BTreeMap::new();
            let receive = |event: Event, view: &mut BTreeMap<PeerId, u16>| match event {
                Event::Joined { peer, presence, .. } => assert!(view.insert(peer, presence.data_port).is_none()),
                Event::Updated { peer, presence, .. } => assert!(view.insert(peer, presence.data_port).is_some()),
                Event::Left { peer } => assert!(view.remove(&peer).is_some()),
                other => assert!(view.contains_key(who(&other))),
            };
            for (who, what, port) in steps {
                let peer = PeerId([who; 32]);
                match (what, truth.contains_key(&peer)) {
                    (0, false) => { truth.insert(peer, port); outbox.presence(joined(peer, port)); }
                    (0, true) => { truth.insert(peer, port); outbox.presence(updated(peer, port)); }
                    (1, true) => { truth.remove(&peer); outbox.left(peer); }
                    (2, true) => outbox.rtt(peer, Duration::ZERO),
                    (3, true) => outbox.caught_up(peer),
                    (4, true) if outbox.has_room() => outbox.held(peer, Vec::new()),
                    (5, _) => if let Some(event) = outbox.pop() { receive(event, &mut view) },
                    _ => {}
                }
                prop_assert!(outbox.0.len() <= MAX_WAITING + 3 * 5);
            }
            while let Some(event) = outbox.pop() {
                receive(event, &mut view);
            }
            prop_assert_eq!(view, truth);
        }
    }
}
