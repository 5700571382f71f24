//! What was sent for blobs before anybody looked up what names them.

use netbuild_core::{cache::Source, digest::Digest};
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Most blobs that are remembered: with more, the first are forgotten, and count for no hit.
const MAX: usize = 200_000;

/// Who sent blobs that were brought for lookups to come, and how many bytes.
#[derive(Debug, Default)]
pub(crate) struct Credits(Mutex<BTreeMap<Digest, (Source, u64)>>);

impl Credits {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, (Source, u64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A blob was brought.
    pub(crate) fn add(&self, blob: Digest, source: Source, sent: u64) {
        let mut credits = self.lock();
        if credits.len() >= MAX && !credits.contains_key(&blob) {
            credits.pop_first();
        }
        credits.insert(blob, (source, sent));
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// What was sent for these, which count once: the source that sent most of it, and the bytes of all.
    pub(crate) fn take(&self, blobs: &[Digest]) -> Option<(Source, u64)> {
        let mut credits = self.lock();
        let taken: Vec<_> = blobs.iter().filter_map(|blob| credits.remove(blob)).collect();
        let all = taken.iter().map(|(_, sent)| sent).sum();
        let (source, _) = taken.into_iter().max_by_key(|(_, sent)| *sent)?;
        Some((source, all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::peer::PeerId;

    #[test]
    fn what_was_sent_for_a_blob_counts_once() {
        let peer = |n| Source::Peer { peer: PeerId([n; 32]), region: String::new() };
        let [a, b, c] = [Digest::of(b"a"), Digest::of(b"b"), Digest::of(b"c")];
        let credits = Credits::default();
        assert!(credits.is_empty());
        credits.add(a, peer(1), 10);
        credits.add(b, peer(2), 20);
        assert_eq!(credits.take(&[c]), None);
        assert_eq!(credits.take(&[a, b, c]), Some((peer(2), 30)));
        assert_eq!(credits.take(&[a, b, c]), None);
    }
}
