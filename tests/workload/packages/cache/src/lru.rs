//! A bounded map that forgets what was not used for longest, and everything past its age.
//!
//! It reads no clock: whoever calls says what time it is, as a duration since any fixed moment.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::Duration;

/// The cache. All operations take logarithmic time.
#[derive(Debug)]
pub struct Lru<K, V> {
    capacity: usize,
    time_to_live: Duration,
    entries: HashMap<K, Entry<V>>,
    /// Keys by the use that was their last; the first is the next to go.
    by_use: BTreeMap<u64, K>,
    uses: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    expires: Duration,
    last_use: u64,
}

impl<K: Clone + Eq + Hash, V> Lru<K, V> {
    /// An empty cache for `capacity` entries, each good for `time_to_live` from when it was put in.
    pub fn new(capacity: usize, time_to_live: Duration) -> Lru<K, V> {
        let (entries, by_use) = (HashMap::new(), BTreeMap::new());
        Lru { capacity, time_to_live, entries, by_use, uses: 0 }
    }

    /// How many entries it holds, old ones included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The value, unless it was never put in, was pushed out, or is too old.
    pub fn get(&mut self, key: &K, now: Duration) -> Option<&V> {
        if self.entries.get(key)?.expires <= now {
            self.remove(key);
            return None;
        }
        self.uses += 1;
        let entry = self.entries.get_mut(key)?;
        let key = self.by_use.remove(&entry.last_use)?;
        entry.last_use = self.uses;
        self.by_use.insert(self.uses, key);
        Some(&entry.value)
    }

    /// Puts a value in, in place of an earlier one; pushes out the least recently used if full.
    pub fn put(&mut self, key: K, value: V, now: Duration) {
        if self.capacity == 0 {
            return;
        }
        self.remove(&key);
        if self.entries.len() == self.capacity {
            if let Some((_, oldest)) = self.by_use.pop_first() {
                self.entries.remove(&oldest);
            }
        }
        self.uses += 1;
        let expires = now.saturating_add(self.time_to_live);
        self.by_use.insert(self.uses, key.clone());
        self.entries.insert(key, Entry { value, expires, last_use: self.uses });
    }

    fn remove(&mut self, key: &K) {
        if let Some(entry) = self.entries.remove(key) {
            self.by_use.remove(&entry.last_use);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut cache = Lru::new(2, TTL);
        cache.put("a", 1, at(0));
        cache.put("b", 2, at(0));
        assert_eq!(cache.get(&"a", at(1)), Some(&1));
        cache.put("c", 3, at(1));
        assert_eq!(cache.get(&"b", at(1)), None);
        assert_eq!(cache.get(&"a", at(1)), Some(&1));
        assert_eq!(cache.get(&"c", at(1)), Some(&3));
    }

    #[test]
    fn an_entry_grows_old_even_if_it_is_used() {
        let mut cache = Lru::new(2, TTL);
        cache.put("a", 1, at(0));
        assert_eq!(cache.get(&"a", at(9)), Some(&1));
        assert_eq!(cache.get(&"a", at(10)), None);
        assert!(cache.is_empty());
    }

    #[test]
    fn putting_again_replaces_and_starts_a_new_life() {
        let mut cache = Lru::new(2, TTL);
        cache.put("a", 1, at(0));
        cache.put("a", 2, at(5));
        assert_eq!(cache.len(), 1);
        assert_eq!(cache.get(&"a", at(14)), Some(&2));
    }

    #[test]
    fn a_cache_without_room_holds_nothing() {
        let mut cache = Lru::new(0, TTL);
        cache.put("a", 1, at(0));
        assert_eq!(cache.get(&"a", at(0)), None);
    }

    #[test]
    fn both_indexes_agree_after_many_operations() {
        let mut cache = Lru::new(8, TTL);
        for step in 0..10_000_u64 {
            let key = step * step % 23;
            if cache.get(&key, at(step / 3)).is_none() {
                cache.put(key, step, at(step / 3));
            }
            assert!(cache.len() <= 8);
            assert_eq!(cache.entries.len(), cache.by_use.len());
        }
    }
}
