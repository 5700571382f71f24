//! The records that lost against another result for their action.
//!
//! For each action it holds, of every result but the kept one, the greatest record: a set that
//! depends on which records came, not on their order. It is bounded, since a member could invent
//! results without end.

use super::Rank;
use crate::{digest::Hash, key::ActionKey};
use std::collections::BTreeMap;

/// Most actions with evidence. Beyond, the one that was quiet for longest is forgotten and counted:
/// a mesh with this many unreliable actions needs no longer list to see it.
pub const MAX_CONFLICTS: usize = 1_000;
/// Most results of one action that are held next to the kept one; the greatest stay.
pub const MAX_VARIANTS: usize = 4;

/// A record that lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Variant<P> {
    /// Its place among the records of its action.
    pub rank: Rank,
    /// Name of its result.
    pub result: Hash,
    /// Where the record is.
    pub place: P,
}

/// Records that lost, by action. `P` is where a store has a record, or the record itself.
#[derive(Clone, Debug)]
pub struct Evidence<P> {
    actions: BTreeMap<ActionKey, (u64, Vec<Variant<P>>)>,
    clock: u64,
    forgotten: u64,
}

impl<P> Default for Evidence<P> {
    fn default() -> Self {
        Self { actions: BTreeMap::new(), clock: 0, forgotten: 0 }
    }
}

impl<P> Evidence<P> {
    /// Whether a record that lost would be held. Asked first by those to whom keeping it is a cost.
    pub fn admits(&self, key: &ActionKey, rank: &Rank, result: &Hash) -> bool {
        let variants = self.variants(key);
        match variants.iter().find(|variant| variant.result == *result) {
            Some(known) => *rank > known.rank,
            None => {
                variants.len() < MAX_VARIANTS
                    || variants.last().is_some_and(|least| *rank > least.rank)
            }
        }
    }

    /// Holds a record that lost against one with the result `kept`. Says which action was forgotten
    /// in its stead, if one was.
    pub fn add(&mut self, key: ActionKey, kept: &Hash, variant: Variant<P>) -> Option<ActionKey> {
        // First, as it makes room: the result that won may be one that lost before.
        self.handle_kept(&key, kept);
        if !self.admits(&key, &variant.rank, &variant.result) {
            return None;
        }
        self.clock += 1;
        let (stamp, variants) = self.actions.entry(key).or_default();
        *stamp = self.clock;
        variants.retain(|known| known.result != variant.result);
        variants.push(variant);
        variants.sort_unstable_by_key(|variant| std::cmp::Reverse(variant.rank));
        variants.truncate(MAX_VARIANTS);
        self.forget_oldest()
    }

    /// Takes back what was held before, with the stamp that [`Evidence::stamp`] told.
    pub fn restore(&mut self, key: ActionKey, stamp: u64, mut variants: Vec<Variant<P>>) {
        variants.sort_unstable_by_key(|variant| std::cmp::Reverse(variant.rank));
        variants.truncate(MAX_VARIANTS);
        if !variants.is_empty() {
            self.clock = self.clock.max(stamp);
            self.actions.insert(key, (stamp, variants));
            self.forget_oldest();
        }
    }

    /// Notes the result that is kept for an action from now on: it is none that lost. Says whether
    /// something changed.
    pub fn handle_kept(&mut self, key: &ActionKey, result: &Hash) -> bool {
        let Some((_, variants)) = self.actions.get_mut(key) else { return false };
        let before = variants.len();
        variants.retain(|variant| variant.result != *result);
        let changed = variants.len() < before;
        if variants.is_empty() {
            self.actions.remove(key);
        }
        changed
    }

    /// Notes that a record that lost lies elsewhere: the one with this rank. Says whether it is held.
    pub fn relocate(&mut self, key: &ActionKey, rank: &Rank, place: P) -> bool {
        let variants = self.actions.get_mut(key).map(|(_, variants)| variants);
        let found = variants.into_iter().flatten().find(|variant| variant.rank == *rank);
        found.map(|variant| variant.place = place).is_some()
    }

    /// Forgets an action whose record was removed. Says whether something was held.
    pub fn forget(&mut self, key: &ActionKey) -> bool {
        self.actions.remove(key).is_some()
    }

    /// All records that lost.
    pub fn iter(&self) -> impl Iterator<Item = (&ActionKey, &Variant<P>)> {
        let each = self.actions.iter();
        each.flat_map(|(key, (_, variants))| variants.iter().map(move |variant| (key, variant)))
    }

    /// The records of an action that lost, greatest first.
    pub fn variants(&self, key: &ActionKey) -> &[Variant<P>] {
        self.actions.get(key).map_or(&[], |(_, variants)| variants)
    }

    /// When something was last added for an action: greater is later.
    pub fn stamp(&self, key: &ActionKey) -> Option<u64> {
        self.actions.get(key).map(|(stamp, _)| *stamp)
    }

    /// Actions with evidence, that to which something was added last first.
    pub fn newest(&self) -> Vec<ActionKey> {
        let mut keys: Vec<_> = self.actions.iter().collect();
        keys.sort_unstable_by_key(|(_, (stamp, _))| std::cmp::Reverse(*stamp));
        keys.into_iter().map(|(key, _)| *key).collect()
    }

    /// Number of actions with evidence.
    pub fn len(&self) -> usize {
        self.actions.len()
    }

    /// Whether no action has evidence.
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }

    /// Number of actions whose evidence was forgotten for want of room.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    fn forget_oldest(&mut self) -> Option<ActionKey> {
        if self.actions.len() <= MAX_CONFLICTS {
            return None;
        }
        let (oldest, _) = self.actions.iter().min_by_key(|(_, (stamp, _))| *stamp)?;
        let oldest = *oldest;
        self.actions.remove(&oldest);
        self.forgotten += 1;
        Some(oldest)
    }
}
