//! Events that wait for their receiver, bounded however slow it is.
//!
//! Coming and going is never lost, but it is shortened: what a receiver has not yet seen of a peer
//! that left again is taken back. Records are the only bulk; whoever adds them asks [`Outbox::has_room`]
//! first.

use crate::event::Event;
use netbuild_core::peer::PeerId;
use netbuild_proto::membership::{Held, LinkReport, Presence};
use std::{collections::VecDeque, net::SocketAddr, time::Duration};

/// Events that may wait before records are held back: some four megabytes if all of them are records.
const MAX_WAITING: usize = 256;

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

    /// Adds how a member's links are; only the latest waits.
    pub(crate) fn links(&mut self, peer: PeerId, links: Vec<LinkReport>) {
        self.0.retain(|event| !matches!(event, Event::Links { peer: p, .. } if *p == peer));
        self.0.push_back(Event::Links { peer, links });
    }

    /// Adds that a member is connected, or no longer; what was not seen yet is brought up to date.
    pub(crate) fn connection(&mut self, peer: PeerId, up: bool) {
        for waiting in &mut self.0 {
            if let Event::Joined { peer: p, connected, .. } = waiting
                && *p == peer
            {
                *connected = up;
                return;
            }
        }
        let before = self.0.len();
        self.0.retain(|event| {
            !matches!(event, Event::Connected { peer: p } | Event::Disconnected { peer: p } if *p == peer)
        });
        // A change and its reverse that nobody saw cancel each other.
        if self.0.len() == before {
            self.0.push_back(if up {
                Event::Connected { peer }
            } else {
                Event::Disconnected { peer }
            });
        }
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
        | Event::Connected { peer }
        | Event::Disconnected { peer }
        | Event::Links { peer, .. }
        | Event::Rtt { peer, .. } => peer,
    }
}

/// The presence of `peer` in a waiting event.
fn presence_of<'a>(
    event: &'a mut Event,
    wanted: &PeerId,
) -> Option<(&'a mut Presence, &'a mut Vec<SocketAddr>)> {
    match event {
        Event::Joined { peer, presence, addresses, .. }
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
        Presence { region: String::new(), mesh_addresses: Vec::new(), data_port, started: 1 }
    }

    fn joined(peer: PeerId, port: u16) -> Event {
        let (presence, addresses) = (presence(port), Vec::new());
        Event::Joined { peer, presence, addresses, connected: false }
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

    #[test]
    fn a_connection_that_came_and_went_unseen_leaves_no_trace() {
        let mut outbox = Outbox::default();
        outbox.presence(joined(A, 1));
        outbox.connection(A, true);
        let seen = outbox.pop();
        assert!(matches!(seen, Some(Event::Joined { connected: true, .. })), "{seen:?}");
        outbox.connection(A, false);
        outbox.connection(A, true);
        assert!(outbox.is_empty());
    }

    proptest! {
        /// Whatever happens and however the receiver dawdles, it sees each peer come and go in turn,
        /// nothing of a peer that is away, ends with the truth, and little waits for it.
        #[test]
        fn the_receiver_ends_with_the_truth(
            steps in prop::collection::vec((0u8..3, 0u8..7, any::<u16>()), 0..400),
        ) {
            let mut outbox = Outbox::default();
            let mut truth: BTreeMap<PeerId, (u16, bool)> = BTreeMap::new();
            let mut view: BTreeMap<PeerId, (u16, bool)> = BTreeMap::new();
            for (who, what, port) in steps {
                let peer = PeerId([who; 32]);
                match (what, truth.get(&peer).copied()) {
                    (0, None) => {
                        truth.insert(peer, (port, false));
                        outbox.presence(joined(peer, port));
                    }
                    (0, Some((_, up))) => {
                        truth.insert(peer, (port, up));
                        outbox.presence(updated(peer, port));
                    }
                    (1, Some(_)) => { truth.remove(&peer); outbox.left(peer); }
                    (2, Some(_)) => outbox.rtt(peer, Duration::ZERO),
                    (3, Some(_)) => outbox.links(peer, Vec::new()),
                    (4, Some(_)) if outbox.has_room() => outbox.held(peer, Vec::new()),
                    (5, Some((port, up))) => {
                        truth.insert(peer, (port, !up));
                        outbox.connection(peer, !up);
                    }
                    (6, _) => if let Some(event) = outbox.pop() { receive(event, &mut view) },
                    _ => {}
                }
                prop_assert!(outbox.0.len() <= MAX_WAITING + 3 * 6);
            }
            while let Some(event) = outbox.pop() {
                receive(event, &mut view);
            }
            prop_assert_eq!(view, truth);
        }
    }

    fn receive(event: Event, view: &mut BTreeMap<PeerId, (u16, bool)>) {
        match event {
            Event::Joined { peer, presence, connected, .. } => {
                assert!(view.insert(peer, (presence.data_port, connected)).is_none());
            }
            Event::Updated { peer, presence, .. } => {
                view.get_mut(&peer).unwrap().0 = presence.data_port;
            }
            Event::Connected { peer } => {
                assert!(!std::mem::replace(&mut view.get_mut(&peer).unwrap().1, true));
            }
            Event::Disconnected { peer } => {
                assert!(std::mem::replace(&mut view.get_mut(&peer).unwrap().1, false));
            }
            Event::Left { peer } => assert!(view.remove(&peer).is_some()),
            other => assert!(view.contains_key(who(&other))),
        }
    }
}
