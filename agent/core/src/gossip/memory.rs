//! What this agent has heard: ids for a long time, bodies for a short one, and which neighbour is
//! known to have what.

use super::message::{Body, RumourId};
use crate::peer::PeerId;
use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

/// How long an id is remembered, so that its rumour is a duplicate. Far beyond the time that a rumour
/// needs through the largest mesh; what returns later is the owner's to judge.
pub const KEEP_ID: Duration = Duration::from_secs(300);
/// Most ids remembered: [`KEEP_ID`] at 200 rumours per second, about 6 MB.
pub const MAX_KEPT_IDS: usize = 65_536;
/// How long a body is remembered to be given to neighbours that ask.
pub const KEEP_BODY: Duration = Duration::from_secs(30);
/// Most bytes of bodies remembered: [`KEEP_BODY`] at four times the rate that one neighbour may send
/// on average.
pub const MAX_KEPT_BYTES: usize = 16 * 1024 * 1024;

/// A set of neighbours by slot.
pub(super) type Slots = u64;

/// One rumour that was heard.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    /// Its place in the sequence of those that are passed on; none for what is not.
    place: Option<u64>,
    /// The neighbour that it came from; none when it is of this agent.
    pub(super) from: Option<PeerId>,
    /// It was judged malformed or forged, and whoever sends it is at fault.
    pub(super) rejected: bool,
}

/// A rumour that is passed on.
#[derive(Clone, Debug)]
struct Passed {
    at: Instant,
    id: RumourId,
    body: Body,
    /// Neighbours that are known to have it, or that have been told of it.
    known_by: Slots,
}

/// All that was heard. Rumours that are passed on have a place in an ever-growing sequence; a
/// neighbour that is told of rumours in batches needs one number only.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    heard: BTreeMap<RumourId, Heard>,
    ids: VecDeque<(Instant, RumourId)>,
    /// Oldest first; the first has the place `first`.
    sequence: VecDeque<Passed>,
    first: u64,
    bytes: usize,
}

impl Memory {
    pub(super) fn get_mut(&mut self, id: &RumourId) -> Option<&mut Heard> {
        self.heard.get_mut(id)
    }

    pub(super) fn get(&self, id: &RumourId) -> Option<&Heard> {
        self.heard.get(id)
    }

    /// The body of a rumour that is passed on, while it is kept.
    pub(super) fn body(&self, id: &RumourId) -> Option<&Body> {
        let place = self.place(id)?.checked_sub(self.first)?;
        self.sequence.get(place as usize).map(|passed| &passed.body)
    }

    /// Remembers what is not passed on.
    pub(super) fn insert(&mut self, id: RumourId, from: PeerId, rejected: bool, now: Instant) {
        self.ids.push_back((now, id));
        self.heard.insert(id, Heard { place: None, from: Some(from), rejected });
        self.forget_old(now);
    }

    /// Remembers a rumour that is passed on. The place it gets.
    pub(super) fn pass_on(
        &mut self,
        id: RumourId,
        body: Body,
        from: Option<PeerId>,
        now: Instant,
    ) -> u64 {
        let place = self.end();
        self.bytes += body.len();
        self.sequence.push_back(Passed { at: now, id, body, known_by: 0 });
        self.ids.push_back((now, id));
        self.heard.insert(id, Heard { place: Some(place), from, rejected: false });
        self.forget_old(now);
        place
    }

    /// The neighbours at `slots` have the rumour, or have been told of it.
    pub(super) fn mark(&mut self, id: &RumourId, slots: Slots) {
        if let Some(place) = self.place(id).and_then(|place| place.checked_sub(self.first))
            && let Some(passed) = self.sequence.get_mut(place as usize)
        {
            passed.known_by |= slots;
        }
    }

    /// The place of a rumour that is passed on.
    pub(super) fn place(&self, id: &RumourId) -> Option<u64> {
        self.heard.get(id)?.place
    }

    /// The place that the next rumour gets.
    pub(super) fn end(&self) -> u64 {
        self.first + self.sequence.len() as u64
    }

    /// The place of the first rumour heard after `since`.
    pub(super) fn place_after(&self, since: Option<Instant>) -> u64 {
        let older = since.map_or(0, |since| self.sequence.partition_point(|it| it.at < since));
        self.first + older as u64
    }

    /// Lists rumours from `place` on that the neighbour at `slot` is not known to have, at most
    /// `most`, and marks them as known. Also the place to go on from.
    pub(super) fn tell(&mut self, place: u64, slot: Slots, most: usize) -> (Vec<RumourId>, u64) {
        let mut ids = Vec::new();
        let from = place.saturating_sub(self.first) as usize;
        let mut next = self.end();
        let from = from.min(self.sequence.len());
        for (index, passed) in self.sequence.range_mut(from..).enumerate() {
            if ids.len() == most {
                next = self.first + (from + index) as u64;
                break;
            }
            if passed.known_by & slot == 0 {
                passed.known_by |= slot;
                ids.push(passed.id);
            }
        }
        (ids, next)
    }

    /// The rumours from `place` on may be unknown to the neighbour at `slot` after all.
    pub(super) fn doubt(&mut self, place: u64, slot: Slots) {
        let from = (place.saturating_sub(self.first) as usize).min(self.sequence.len());
        self.sequence.range_mut(from..).for_each(|passed| passed.known_by &= !slot);
    }

    /// Number of ids and bytes of bodies remembered.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.heard.len(), self.bytes)
    }

    fn forget_old(&mut self, now: Instant) {
        let old = |at: Instant, keep| now.saturating_duration_since(at) > keep;
        while let Some(oldest) = self.sequence.front()
            && (old(oldest.at, KEEP_BODY) || self.bytes > MAX_KEPT_BYTES)
        {
            self.bytes -= oldest.body.len();
            self.sequence.pop_front();
            self.first += 1;
        }
        while let Some(&(at, id)) = self.ids.front()
            && (old(at, KEEP_ID) || self.ids.len() > MAX_KEPT_IDS)
        {
            self.ids.pop_front();
            self.heard.remove(&id);
        }
    }
}
