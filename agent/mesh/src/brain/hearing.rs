//! What members say: gossip, and pages of what they hold.

use super::{Brain, Gossip, Verdict};
use crate::{addresses, catch_up::Progress, peers::Peer};
use netbuild_core::peer::PeerId;
use netbuild_proto::membership::{Announcement, Held, Presence};
use std::time::{Duration, Instant};

/// When gossip found no way out, it is tried again after this: new members tell their subscriptions
/// within a round trip.
pub(super) const REPUBLISH_PAUSE: Duration = Duration::from_secs(1);

impl Brain {
    pub(crate) fn handle_gossip(&mut self, gossip: Gossip<'_>, now: Instant) -> Verdict {
        // Admission may still be on its way, and the catch-up after it brings what is lost here.
        if self.peers.member(&gossip.forwarder).is_none() {
            return Verdict::Ignore;
        }
        let opened = self.seal.open(&gossip.sender, gossip.sealed);
        let announcement = opened.and_then(|message| Announcement::decode(&message).ok());
        let Some(announcement) = announcement else {
            return self.reject(&gossip);
        };
        if !self.replays.is_new(gossip.sender, gossip.sequence) {
            return self.reject(&gossip);
        }
        match announcement {
            Announcement::Presence(presence) => self.handle_presence(&gossip, presence, now),
            Announcement::Held(held) => self.handle_news(gossip.sender, held, now),
        }
        Verdict::Accept
    }

    fn reject(&mut self, gossip: &Gossip<'_>) -> Verdict {
        tracing::debug!(sender = %gossip.sender, forwarder = %gossip.forwarder, "rejected gossip");
        self.counters.rejected_gossip += 1;
        Verdict::Reject
    }

    fn handle_presence(&mut self, gossip: &Gossip<'_>, presence: Presence, now: Instant) {
        let id = gossip.sender;
        if id == self.me {
            return;
        }
        if self.peers.member(&id).is_some() {
            self.update(id, presence, now);
            return;
        }
        let on_loopback = self.is_on_loopback(&gossip.forwarder);
        let told = addresses::of_stranger(&presence.mesh_addresses, on_loopback);
        // Both ends hear of each other at about the same time; one of them dials first.
        let due = if self.me < id { now } else { now + self.timing.first_redial };
        self.dialer.heard_of(id, told, now, due);
    }

    fn handle_news(&mut self, id: PeerId, held: Vec<Held>, now: Instant) {
        let has_room = self.outbox.has_room();
        // What a peer says before it was met is asked for when it is.
        let Some(member) = self.peers.get_mut(&id).and_then(Peer::member_mut) else {
            return;
        };
        if has_room {
            self.outbox.held(id, held);
        } else {
            self.counters.dropped_held += u64::try_from(held.len()).unwrap_or(u64::MAX);
            member.catch_up.restart(now);
        }
    }

    /// Gossip that [`super::Action::Publish`] asked for went nowhere.
    pub(crate) fn handle_unpublished(&mut self, announcement: Announcement, now: Instant) {
        // Without members, whoever joins reads everything anyway.
        let Announcement::Held(held) = announcement else {
            return;
        };
        if self.peers.members().next().is_some() {
            let dropped = self.batch.put_back(held, now, REPUBLISH_PAUSE);
            self.count_dropped(dropped);
        }
    }

    pub(super) fn handle_page(&mut self, id: PeerId, number: u64, page: Vec<Held>, now: Instant) {
        if self.is_asked(&id, number) {
            self.counters.rejected_messages += 1;
            self.cut(&id, now);
            return;
        }
        let Some(member) = self.peers.get_mut(&id).and_then(Peer::member_mut) else {
            return;
        };
        let progress = member.catch_up.handle_page(number, &page, now);
        match progress {
            Progress::Stale => return,
            Progress::Disorder => {
                self.counters.rejected_messages += 1;
                tracing::warn!(peer = %id, "a member's list of records has no order");
                return;
            }
            Progress::More | Progress::Complete => {}
        }
        if !page.is_empty() {
            self.outbox.held(id, page);
        }
        if progress == Progress::Complete {
            self.outbox.caught_up(id);
        }
    }
}
