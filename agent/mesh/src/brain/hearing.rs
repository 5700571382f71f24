//! What members say to the whole mesh, once it is known to be theirs.

use super::Brain;
use crate::{addresses, ear::Heard, event::Event, peers::Standing, roster::News, roster::Signed};
use netbuild_core::peer::PeerId;
use netbuild_proto::membership::{Announcement, Held, Presence};
use std::time::Instant;

impl Brain {
    /// Takes a rumour that `via` passed on.
    pub(super) fn handle_rumour(&mut self, via: &PeerId, rumour: Heard, now: Instant) {
        let Heard { origin, signed, announcement } = rumour;
        if origin == self.me || !self.is_allowed(&origin) {
            if origin == self.me && self.voice.handle_remembered(signed.sequence) {
                self.say_presence_soon(now);
            }
            return;
        }
        self.roster.handle_heard(&origin, now);
        match announcement {
            Announcement::Presence(presence) => {
                self.handle_presence(via, origin, presence, signed, now, now);
            }
            Announcement::Held(held) => self.handle_news(origin, held),
            Announcement::Links(links) => {
                if self.roster.get(&origin).is_some() {
                    self.outbox.links(origin, links);
                }
            }
            Announcement::Gone { peer, started } => self.handle_told_gone(peer, started, now),
        }
    }

    /// Takes a presence of the roll, heard at `heard`; says whether the member was not known.
    pub(super) fn handle_old_presence(
        &mut self,
        via: &PeerId,
        rumour: Heard,
        heard: Instant,
        now: Instant,
    ) -> bool {
        let Heard { origin, signed, announcement } = rumour;
        if origin == self.me {
            if self.voice.handle_remembered(signed.sequence) {
                self.say_presence_soon(now);
            }
            return false;
        }
        let Announcement::Presence(presence) = announcement else {
            return false;
        };
        if !self.is_allowed(&origin) {
            return false;
        }
        let known = self.roster.get(&origin).is_some();
        self.handle_presence(via, origin, presence, signed, heard, now);
        !known
    }

    fn handle_presence(
        &mut self,
        via: &PeerId,
        id: PeerId,
        presence: Presence,
        signed: Signed,
        heard: Instant,
        now: Instant,
    ) {
        let seen = self
            .peers
            .get(&id)
            .filter(|peer| matches!(peer.standing, Standing::Member(_)))
            .map(|peer| peer.seen);
        let known = self.roster.get(&id).map(|known| known.presence.started);
        match (known, seen) {
            // It was started anew: what stands of its former life is dead.
            (Some(started), Some(_)) if started < presence.started => self.cut(&id, now),
            (Some(started), None) if started != presence.started => self.leave(&id),
            _ => {}
        }
        let connected = seen.filter(|_| self.peers.is_member(&id));
        let mesh = match connected {
            Some(seen) => addresses::of_mesh(seen, &presence.mesh_addresses),
            None => addresses::of_stranger(&presence.mesh_addresses, self.is_on_loopback(via)),
        };
        let news = self.roster.handle_presence(id, presence.clone(), mesh.clone(), signed, heard);
        let data = addresses::of_data(&mesh, presence.data_port);
        match news {
            News::Joined => {
                tracing::debug!(peer = %id, region = presence.region, "a member was heard of");
                self.saying.handle_back(&id);
                let joined =
                    Event::Joined { peer: id, presence, addresses: data, connected: false };
                self.outbox.presence(joined);
                self.meeting.reconsider(now);
            }
            News::Updated => {
                self.outbox.presence(Event::Updated { peer: id, presence, addresses: data });
                self.dialer.moved(&id, &mesh, now);
            }
            News::Same => self.dialer.moved(&id, &mesh, now),
            News::Stale => {}
            News::NoRoom => self.counters.refused_for_room += 1,
        }
    }

    fn handle_news(&mut self, id: PeerId, held: Vec<Held>) {
        // What a peer says before it is known comes to light when the members compare what they hold.
        if self.roster.get(&id).is_none() {
            return;
        }
        if self.outbox.has_room() {
            self.outbox.held(id, held);
        } else {
            self.counters.dropped_held += u64::try_from(held.len()).unwrap_or(u64::MAX);
        }
    }

    /// Somebody lost its connection to a peer, or the peer takes leave itself.
    fn handle_told_gone(&mut self, id: PeerId, started: u64, now: Instant) {
        if id == self.me {
            // The last connection of many to this agent broke, or somebody lies.
            if started == self.presence.started {
                self.contradict(now);
            }
            return;
        }
        self.saying.handle_told(&id);
        // Whoever is connected knows better.
        let of_this_life =
            self.roster.get(&id).is_some_and(|known| known.presence.started == started);
        if of_this_life && !self.peers.is_member(&id) {
            tracing::debug!(peer = %id, "a member is said to be gone");
            self.leave(&id);
        }
    }

    /// Forgets the next member that was silent for too long.
    pub(super) fn leave_silent(&mut self, now: Instant) -> bool {
        if !self.saying.is_time_to_sweep(now) {
            return false;
        }
        let interval = self.presence_interval();
        let Some(silent) = self.roster.next_silent(interval, now) else {
            self.saying.handle_swept(interval, now);
            return false;
        };
        tracing::debug!(peer = %silent, "nothing was heard of a member for long");
        self.leave(&silent);
        true
    }
}
