//! The roll: whom a member knows, page by page, asked by whoever knows others.
//!
//! A new agent learns of all members so at once, and where two parts of a mesh meet, the agent between
//! them learns of the other part and passes on what is new. What is passed are presences as their
//! origins signed them, so nobody can invent a member.

use super::Brain;
use crate::ear::Fault;
use netbuild_core::{gossip::Body, peer::PeerId};
use netbuild_proto::membership::{Announcement, Response, Rolled};
use std::time::{Duration, Instant};

/// Most pages that a member is given over one connection: all members, several times.
const MAX_PAGES_GIVEN: u32 = 256;
/// Most pages that are read at once: all members that there can be.
const MAX_PAGES_READ: u32 = 64;

/// The reading of a roll.
#[derive(Debug, Default)]
pub(super) struct Rolls {
    reading: Option<Reading>,
    begun: Option<Instant>,
}

#[derive(Debug)]
struct Reading {
    number: u64,
    after: Option<PeerId>,
    pages: u32,
    /// Whether this agent knew others already: then two parts of the mesh may meet here, and what is
    /// new to it may be to those.
    between: bool,
}

impl Brain {
    /// A digest of whom this agent knows, for `peer`: the same on both sides if they know the same.
    pub(super) fn digest_for(&self, peer: &PeerId) -> u64 {
        self.roster.digest_with(peer) ^ short(&self.me)
    }

    /// Reads the roll of a new member that knows others. One is read at a time, and when something is
    /// connected already, at most one in half an interval of presences: gossip brings the same.
    pub(super) fn compare_rolls(&mut self, id: PeerId, theirs: u64, now: Instant) {
        let nothing_new = theirs == self.digest_for(&id) || self.is_newcomer(&id, theirs);
        if nothing_new || self.rolls.reading.is_some() {
            return;
        }
        let pause = self.presence_interval() / 2;
        let lately = self.rolls.begun.is_some_and(|begun| now < begun + pause);
        if lately && self.roster.connected() > 1 {
            return;
        }
        self.rolls.begun = Some(now);
        let number = self.ask_about_roll(id, None);
        let between = self.roster.connected() > 1;
        self.rolls.reading = Some(Reading { number, after: None, pages: 0, between });
    }

    /// Whether this digest says that a peer knows nobody but this agent.
    pub(super) fn is_newcomer(&self, id: &PeerId, theirs: u64) -> bool {
        theirs == short(id) ^ short(&self.me)
    }

    pub(super) fn page_of_roll(
        &mut self,
        id: &PeerId,
        after: Option<PeerId>,
        now: Instant,
    ) -> Option<Response> {
        let member = self.peers.member_mut(id)?;
        member.pages += 1;
        let given = member.pages <= MAX_PAGES_GIVEN;
        given.then(|| Response::Roll(self.roster.roll(after, now)))
    }

    pub(super) fn handle_no_roll(&mut self, number: u64) {
        if self.rolls.reading.as_ref().is_some_and(|reading| reading.number == number) {
            self.rolls.reading = None;
        }
    }

    pub(super) fn handle_roll(&mut self, id: PeerId, number: u64, page: Vec<Rolled>, now: Instant) {
        let Some(reading) = self.rolls.reading.take_if(|reading| reading.number == number) else {
            return;
        };
        let mut last = reading.after;
        for rolled in page {
            let body: Body = rolled.rumour.into();
            let origin = origin_of(&body);
            if origin <= last {
                tracing::debug!(peer = %id, "a roll without order");
                self.offend(id, 1, now);
                return;
            }
            last = origin;
            let age = Duration::from_secs(rolled.age_s.into());
            let joined = self.handle_rolled(&id, &body, age, now);
            if joined && reading.between {
                // A presence in the roll is far shorter than the longest rumour.
                let _ = self.gossip.say(body, now);
            }
        }
        let pages = reading.pages + 1;
        if last != reading.after && pages < MAX_PAGES_READ && self.peers.is_member(&id) {
            let number = self.ask_about_roll(id, last);
            self.rolls.reading = Some(Reading { number, after: last, pages, ..reading });
        }
    }

    /// Takes a presence of the roll; says whether it is of a member that was not known.
    fn handle_rolled(&mut self, via: &PeerId, body: &Body, age: Duration, now: Instant) -> bool {
        // What is that old may be of a member that is gone.
        let fresh = age < 2 * self.presence_interval();
        match self.ear.hear(body) {
            Ok(heard) if matches!(heard.announcement, Announcement::Presence(_)) && fresh => {
                let heard_at = now.checked_sub(age).unwrap_or(now);
                return self.handle_old_presence(via, heard, heard_at, now);
            }
            Err(Fault::Forged) => {
                self.counters.rejected_gossip += 1;
                self.offend(*via, 1, now);
            }
            Ok(_) | Err(Fault::Heard | Fault::Old) => {}
        }
        false
    }
}

/// Who a rumour claims to be from.
fn origin_of(body: &[u8]) -> Option<PeerId> {
    body.first_chunk::<32>().copied().map(PeerId)
}

/// Eight bytes of an id, as in the digest.
fn short(peer: &PeerId) -> u64 {
    crate::roster::short(peer)
}
