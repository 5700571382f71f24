//! Lists of chunks that come with records, before anybody wants the blobs: whoever wants one then asks for its chunks at
//! once, a round trip sooner. A list is a hint like any: the blob alone proves it.

use netbuild_core::{chunk::MAX_CHUNK, digest::Digest, peer::PeerId};
use netbuild_proto::data::Described;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Most chunks in all lists: of 128 GiB of blobs, in some 10 MiB of memory. The oldest lists go first.
const MOST_CHUNKS: usize = 1 << 18;
/// Largest sum of blobs whose lists come with the records of one pull: some 100 KiB.
const MOST_BYTES: u64 = 1 << 30;

/// A list of chunks, with the sketch of the blob, and who told it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Listed {
    pub(crate) described: Described,
    pub(crate) by: PeerId,
}

/// Lists of blobs that nobody has wanted yet.
#[derive(Debug, Default)]
pub(crate) struct Lists(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    lists: BTreeMap<Digest, Listed>,
    /// In the order in which they came; also of those that were taken since.
    order: VecDeque<(Digest, usize)>,
    /// Chunks of all in `order`.
    chunks: usize,
}

impl Lists {
    /// Keeps a list.
    pub(crate) fn put(&self, blob: Digest, listed: Listed) {
        let (mut known, chunks) = (self.known(), listed.described.manifest.chunks().len());
        if known.lists.contains_key(&blob) {
            return;
        }
        known.lists.insert(blob, listed);
        known.order.push_back((blob, chunks));
        known.chunks += chunks;
        while known.chunks > MOST_CHUNKS
            && let Some((oldest, chunks)) = known.order.pop_front()
        {
            known.chunks -= chunks;
            known.lists.remove(&oldest);
        }
    }

    /// What a peer that is asked for a blob now has told of its chunks. Not what another one has: that would lead this
    /// one, who knows better, to say that it has nothing of it. It is told once: it may turn out to be wrong.
    pub(crate) fn take(&self, blob: &Digest, by: &PeerId) -> Option<Described> {
        let mut known = self.known();
        let is_by = known.lists.get(blob).is_some_and(|listed| listed.by == *by);
        is_by.then(|| known.lists.remove(blob)).flatten().map(|listed| listed.described)
    }

    /// Whether a blob has more than one chunk.
    pub(crate) fn is_worth_asking(blob: &Digest) -> bool {
        blob.size > MAX_CHUNK as u64
    }

    /// Those of these blobs whose lists nobody has told yet; the first ones if they are many.
    pub(crate) fn unknown(&self, blobs: &[Digest]) -> Vec<Digest> {
        let (known, mut sum) = (self.known(), 0_u64);
        let unknown = blobs.iter().filter(|blob| !known.lists.contains_key(blob));
        let few = unknown.take_while(|blob| {
            sum = sum.saturating_add(blob.size);
            sum <= MOST_BYTES
        });
        few.copied().collect()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::chunk::{Chunk, Manifest};
    use netbuild_core::{digest::Hash, peer::Identity};

    fn listed(number: usize, chunks: usize) -> (Digest, Listed) {
        let chunk = Chunk { hash: Hash([1; 32]), len: MAX_CHUNK as u32 };
        let hash = Hash::of(&number.to_le_bytes());
        let blob = Digest { hash, size: (chunks * MAX_CHUNK) as u64 };
        let manifest = Manifest::new(blob, vec![chunk; chunks]).unwrap();
        let by = Identity::from_seed(&[1; 32]).peer_id();
        (blob, Listed { described: Described { manifest, sketch: None }, by })
    }

    #[test]
    fn a_list_is_told_once_and_the_oldest_go_first() {
        let (lists, each) = (Lists::default(), MOST_CHUNKS / 4);
        let all: Vec<_> = (0..6).map(|number| listed(number, each)).collect();
        for (blob, list) in &all {
            lists.put(*blob, list.clone());
            lists.put(*blob, list.clone());
        }
        let (by, other) = (all[0].1.by, Identity::from_seed(&[2; 32]).peer_id());
        assert!(all.iter().all(|(blob, _)| lists.take(blob, &other).is_none()));
        let known: Vec<bool> =
            all.iter().map(|(blob, _)| lists.take(blob, &by).is_some()).collect();
        assert_eq!(known, [false, false, true, true, true, true]);
        assert!(all.iter().all(|(blob, _)| lists.take(blob, &by).is_none()));
    }
}
