//! When things were last used. A use is noted in memory; many go to the index together.

use super::{index::Index, inner::Inner};
use netbuild_core::digest::Hash;
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

/// Uses that wait to be written, at most: a few megabytes, and no more than a second of work.
const MAX_WAITING: usize = 32 * 1024;

/// Uses that are not in the index yet: by the name of a blob or record, in seconds since the Unix epoch.
#[derive(Debug, Default)]
pub(super) struct Uses(Mutex<HashMap<Hash, u64>>);

/// Seconds since the Unix epoch.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Uses {
    fn waiting(&self) -> MutexGuard<'_, HashMap<Hash, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, name: Hash, at: u64) -> bool {
        let mut waiting = self.waiting();
        waiting.insert(name, at);
        waiting.len() >= MAX_WAITING
    }

    /// When something was last used, as far as it was noted.
    pub(super) fn last(&self, name: &Hash, index: &Index) -> Option<u64> {
        let waiting = self.waiting().get(name).copied();
        waiting.or_else(|| index.used(name))
    }

    /// Likewise, with what the index has of many.
    pub(super) fn last_of(&self, name: &Hash, indexed: &HashMap<Hash, u64>) -> Option<u64> {
        self.waiting().get(name).or_else(|| indexed.get(name)).copied()
    }
}

impl Inner {
    /// Notes that a blob or record is used now.
    pub(super) fn used(&self, name: &Hash) {
        if self.uses.note(*name, now()) {
            self.write_uses();
        }
    }

    /// Writes all that was noted to the index.
    pub(super) fn write_uses(&self) {
        let noted = std::mem::take(&mut *self.uses.waiting());
        // What was removed meanwhile needs none.
        let here = noted.into_iter().filter(|(name, _)| {
            self.index.blob(name).is_some()
                || self.index.record(&netbuild_core::key::ActionKey(name.0)).is_some()
        });
        // It is only what goes first that depends on it; a failure has marked the index already.
        let _ = self.index.put_uses(here.collect());
    }
}
