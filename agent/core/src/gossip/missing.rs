//! Rumours that neighbours announced and that have not come.

use super::message::RumourId;
use crate::peer::PeerId;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// Most rumours awaited at once: more than a minute of a busy mesh. What does not fit is left to the
/// owner's reconciliation.
const MAX_MISSING: usize = 8192;
/// Most rumours awaited on the word of one neighbour, so that one that invents ids leaves room.
const MAX_FROM_ONE: usize = 1024;
/// Most neighbours remembered as having one rumour, and so most times that it is asked for.
const MAX_ANNOUNCERS: usize = 6;

#[derive(Clone, Debug)]
struct Awaited {
    due: Instant,
    /// The first of those that announced it; its share of [`MAX_MISSING`] is used.
    first: PeerId,
    /// Those that announced it and have not been asked.
    announcers: Vec<PeerId>,
    /// The one that was asked last.
    asked: Option<PeerId>,
}

/// A rumour whose time has come.
#[derive(Clone, Debug)]
pub(super) struct Due {
    pub(super) id: RumourId,
    /// Whom to ask: at least one, unless all were asked in vain.
    pub(super) announcers: Vec<PeerId>,
    /// Who was asked before and did not answer.
    pub(super) silent: Option<PeerId>,
}

/// The rumours that are awaited.
#[derive(Clone, Debug, Default)]
pub(super) struct Missing {
    awaited: BTreeMap<RumourId, Awaited>,
    dues: BTreeSet<(Instant, RumourId)>,
    shares: BTreeMap<PeerId, usize>,
}

impl Missing {
    /// `peer` announced a rumour that is not here. False when there is no room to await it.
    pub(super) fn handle_announced(&mut self, id: RumourId, peer: PeerId, due: Instant) -> bool {
        if let Some(awaited) = self.awaited.get_mut(&id) {
            if awaited.announcers.len() < MAX_ANNOUNCERS && !awaited.announcers.contains(&peer) {
                awaited.announcers.push(peer);
            }
            return true;
        }
        let share = self.shares.get(&peer).copied().unwrap_or(0);
        if self.awaited.len() >= MAX_MISSING || share >= MAX_FROM_ONE {
            return false;
        }
        self.shares.insert(peer, share + 1);
        self.dues.insert((due, id));
        let awaited = Awaited { due, first: peer, announcers: vec![peer], asked: None };
        self.awaited.insert(id, awaited);
        true
    }

    /// The rumour came. Those that announced it before it came and were not asked for it.
    pub(super) fn handle_came(&mut self, id: &RumourId) -> Vec<PeerId> {
        self.remove(id).map(|awaited| awaited.announcers).unwrap_or_default()
    }

    /// When the first is due.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.dues.first().map(|(due, _)| *due)
    }

    /// A rumour that is due. One without announcers left is awaited no more; for another one
    /// [`Missing::ask`] has to follow.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Due> {
        let &(due, id) = self.dues.first().filter(|(due, _)| *due <= now)?;
        self.dues.remove(&(due, id));
        let awaited = self.awaited.get_mut(&id)?;
        let (announcers, silent) = (awaited.announcers.clone(), awaited.asked.take());
        if announcers.is_empty() {
            self.remove(&id);
        }
        Some(Due { id, announcers, silent })
    }

    /// `peer` is asked for a rumour that was due, and has until then; nobody can be asked now when it
    /// is none.
    pub(super) fn ask(&mut self, id: RumourId, peer: Option<PeerId>, until: Instant) {
        if let Some(awaited) = self.awaited.get_mut(&id) {
            match peer {
                Some(peer) => awaited.announcers.retain(|other| *other != peer),
                None => awaited.announcers.clear(),
            }
            awaited.asked = peer;
            awaited.due = until;
            self.dues.insert((until, id));
        }
    }

    /// Whether this rumour was asked of `peer`.
    pub(super) fn is_asked(&self, id: &RumourId, peer: &PeerId) -> bool {
        self.awaited.get(id).is_some_and(|awaited| awaited.asked.as_ref() == Some(peer))
    }

    fn remove(&mut self, id: &RumourId) -> Option<Awaited> {
        let awaited = self.awaited.remove(id)?;
        self.dues.remove(&(awaited.due, *id));
        if let Some(share) = self.shares.get_mut(&awaited.first) {
            *share -= 1;
            if *share == 0 {
                self.shares.remove(&awaited.first);
            }
        }
        Some(awaited)
    }
}

/// How long one that was asked may take: two round trips, and the pace of both ends.
pub(super) fn patience(rtt: Option<Duration>, pace: Duration) -> Duration {
    /// Assumed of a neighbour whose distance is not known: half way round the world.
    const UNKNOWN: Duration = Duration::from_millis(300);
    rtt.unwrap_or(UNKNOWN) * 2 + pace * 3
}
