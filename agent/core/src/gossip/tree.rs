//! The eager links: when one is made, when one is cut, and who is told ids beside them.

use super::{Gossip, memory::Slots, message::RumourId};
use crate::peer::PeerId;
use std::time::{Duration, Instant};

/// How long a neighbour that refused to push is not asked to push again.
const REFUSED: Duration = Duration::from_secs(5);
/// A pruned neighbour that still pushes after this time is told again; the first prune was lost.
pub(super) const PRUNE_AGAIN: Duration = Duration::from_secs(2);
/// Rumours are counted over this time to choose the pilots among them.
const PILOT_WINDOW: Duration = Duration::from_secs(8);
/// A rate measured over less than this says nothing.
const SHORTEST_AGE: Duration = Duration::from_millis(500);
/// At most so many pilots in [`PILOT_WINDOW`]: a rumour needs about two seconds through a large mesh.
const PILOTS: u64 = 4;
/// For how long the same neighbours are told ids.
const TURN: Duration = Duration::from_secs(4);
/// How often a far link on which rumours come may be tried against a near one that has them too. Each
/// try costs a second or two of duplicates.
const IMPROVE: Duration = Duration::from_secs(60);

impl Gossip {
    /// Whether the tree may be changed because of this rumour. Rumours of several origins that are under way
    /// at once meet at several places of one cycle; if all of them cut, the tree would fall apart. So
    /// only few rumours count, so few that they are under way one at a time, and all agents
    /// agree on which: those whose ids end in as many zeros as the present rate demands.
    pub(super) fn is_pilot(&self, id: RumourId, now: Instant) -> bool {
        let lately = self.memory.end() - self.memory.place_after(now.checked_sub(PILOT_WINDOW));
        if lately <= PILOTS {
            return true;
        }
        // One that began to listen lately goes by the rate since then.
        let age = self.listening.map_or(PILOT_WINDOW, |since| now.saturating_duration_since(since));
        let age = age.clamp(SHORTEST_AGE, PILOT_WINDOW);
        let lately = lately * PILOT_WINDOW.as_millis() as u64 / age.as_millis() as u64;
        let zeros = (lately / PILOTS).checked_ilog2().map_or(0, |log| log + 1);
        id.0.trailing_zeros() >= zeros
    }

    pub(super) fn eager_links(&self) -> usize {
        self.neighbours.values().filter(|neighbour| neighbour.eager).count()
    }

    /// An agent without eager links would hear of rumours late.
    pub(super) fn ensure_eager(&mut self, now: Instant) {
        if self.eager_links() == 0
            && let Some(best) = self.neighbours.values_mut().min_by_key(|it| it.rank(now))
        {
            (best.eager, best.graft) = (true, true);
            self.counters.grafts += 1;
        }
    }

    pub(super) fn handle_prune(&mut self, from: &PeerId, now: Instant) {
        let Some(neighbour) = self.neighbours.get_mut(from) else { return };
        neighbour.eager = false;
        neighbour.refuses_until = Some(now + REFUSED);
        if let Some(place) = neighbour.unqueue() {
            self.memory.doubt(place, neighbour.slot);
            neighbour.told = neighbour.told.min(place);
            neighbour.tell_at.get_or_insert(now + self.config.tell);
        }
        self.ensure_eager(now);
    }

    pub(super) fn handle_graft(&mut self, from: &PeerId, now: Instant) {
        let room = self.eager_links() < self.config.eager;
        if let Some(neighbour) = self.neighbours.get_mut(from) {
            neighbour.eager |= room;
            neighbour.prune = !neighbour.eager;
            neighbour.pruned = Some(now).filter(|_| neighbour.prune);
        }
    }

    /// Rumours come from `parent`, and `other` has them too. When its link is clearly better it is made
    /// eager; the first duplicate then cuts the worse of the two.
    pub(super) fn improve(&mut self, parent: Option<PeerId>, other: PeerId, now: Instant) {
        let recent = |at: Instant| now.saturating_duration_since(at) < IMPROVE;
        if self.improved.is_some_and(recent) {
            return;
        }
        let Some(worse) = parent.and_then(|parent| self.neighbours.get(&parent)) else { return };
        let Some(better) = self.neighbours.get(&other) else { return };
        let refuses = better.refuses_until.is_some_and(|until| now < until);
        if worse.eager && !better.eager && !refuses && better.is_clearly_better(worse) {
            self.improved = Some(now);
            self.graft(&other);
        }
    }

    pub(super) fn graft(&mut self, peer: &PeerId) {
        if let Some(neighbour) = self.neighbours.get_mut(peer)
            && !neighbour.eager
        {
            (neighbour.eager, neighbour.graft, neighbour.prune) = (true, true, false);
            self.counters.grafts += 1;
        }
    }

    pub(super) fn prune(&mut self, peer: &PeerId, now: Instant) {
        let Some(neighbour) = self.neighbours.get_mut(peer) else { return };
        let again = |at: Instant| now.saturating_duration_since(at) > PRUNE_AGAIN;
        if !neighbour.eager && !neighbour.pruned.is_none_or(again) {
            return;
        }
        (neighbour.eager, neighbour.prune, neighbour.graft) = (false, true, false);
        neighbour.pruned = Some(now);
        self.counters.prunes += 1;
        if let Some(place) = neighbour.unqueue() {
            self.memory.doubt(place, neighbour.slot);
            neighbour.told = neighbour.told.min(place);
            neighbour.tell_at.get_or_insert(now + self.config.tell);
        }
    }

    /// A rumour came from `first` and then from `second`: a cycle of eager links, unless one of the two
    /// is cut already.
    pub(super) fn handle_duplicate(
        &mut self,
        id: RumourId,
        first: Option<PeerId>,
        second: PeerId,
        now: Instant,
    ) {
        let better = first.and_then(|first| self.neighbours.get(&first)).is_some_and(|first| {
            first.eager
                && self
                    .neighbours
                    .get(&second)
                    .is_some_and(|second| second.eager && second.is_clearly_better(first))
        });
        if !self.is_pilot(id, now) {
            return;
        }
        match first {
            Some(first) if better => {
                self.prune(&first, now);
                if let Some(heard) = self.memory.get_mut(&id) {
                    heard.from = Some(second);
                }
            }
            _ if first == Some(second) => {}
            _ => self.prune(&second, now),
        }
    }

    /// Gives up the worst of too many eager links; those behind it find another way by a pilot.
    pub(super) fn shed(&mut self, now: Instant) {
        let eager = self.neighbours.iter().filter(|(_, neighbour)| neighbour.eager);
        let (count, worst) = (eager.clone().count(), eager.max_by_key(|(_, it)| it.rank(now)));
        if count > self.config.eager
            && let Some((&worst, _)) = worst
        {
            self.prune(&worst, now);
        }
    }

    /// Chooses at times who is told ids: half of them of the own region when there are both kinds.
    pub(super) fn take_turns(&mut self, now: Instant) {
        if self.untold_until.is_some_and(|until| now < until) {
            return;
        }
        self.untold_until = Some(now + TURN);
        self.shed(now);
        let lazy = self.neighbours.values().filter(|neighbour| !neighbour.eager);
        let mut order: Vec<(u64, bool, Slots)> =
            lazy.map(|neighbour| (self.dice.roll(), neighbour.near, neighbour.slot)).collect();
        order.sort_unstable();
        let mut told = 0_u64;
        for near in [true, false] {
            let kind = order.iter().filter(|(_, it, _)| *it == near);
            kind.take(self.config.lazy.div_ceil(2)).for_each(|(.., slot)| told |= slot);
        }
        for (.., slot) in &order {
            if (told.count_ones() as usize) < self.config.lazy {
                told |= slot;
            }
        }
        self.untold = order.iter().fold(0, |all, (.., slot)| all | slot) & !told;
    }
}
