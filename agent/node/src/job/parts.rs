//! Sources that are still fetching themselves: what they have by now, asked again and again.

use super::{Job, Part, Peering, State};
use netbuild_core::{digest::Digest, peer::PeerId, spread::SourceId};
use netbuild_proto::parts::Parts;
use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::sleep;

/// How often a source is asked what it has by now: a chunk takes that long at 40 Mbit/s.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// And this on top for each chunk that it tells of: 0.4 s for a blob of 10 GiB, whose answer has 3 KB.
const FOR_A_CHUNK: Duration = Duration::from_micros(20);
/// Blobs that are asked about at once. What is missing beyond them has its turn when they are here.
const MAX_LOOKED_AT: usize = 256;

/// What a source is known to have of the blobs of a job.
#[derive(Debug, Default)]
struct Shown {
    whole: BTreeSet<usize>,
    /// Chunks of each blob, by their places. One that it said to have and did not give is not
    /// expected of it again.
    parts: BTreeMap<usize, Vec<bool>>,
}

impl Job<'_> {
    /// The first blobs that are missing.
    pub(crate) fn first_missing(&self) -> Vec<(usize, Digest)> {
        let blobs = self.blobs.borrow();
        let missing = |(_, wanted): &(usize, &super::Wanted)| {
            !matches!(wanted.state, State::Done | State::GivenUp)
        };
        let missing = blobs.iter().enumerate().filter(missing).take(MAX_LOOKED_AT);
        missing.map(|(index, wanted)| (index, wanted.blob)).collect()
    }

    /// Whether who has these parts of the [first](Self::first_missing) blobs has something that is
    /// missing here.
    pub(crate) fn lacks_any(&self, parts: &[Parts]) -> bool {
        let missing = self.first_missing();
        let blobs = self.blobs.borrow();
        let spread = self.spread.borrow();
        missing.iter().zip(parts).any(|((index, _), part)| match (part, &blobs[*index].state) {
            (Parts::None, _) => false,
            (Parts::Whole, _) => true,
            (Parts::Arriving { list, has }, State::Open(open)) => {
                let mut there = open.items.iter().zip(has).filter(|(_, has)| **has);
                open.list == *list
                    && there.any(|(item, _)| item.is_some_and(|item| !spread.has(item)))
            }
            (Parts::Arriving { has, .. }, _) => has.contains(&true),
        })
    }

    /// From now on the peer has all that is wanted.
    pub(crate) fn handle_whole(&self, peer: PeerId) {
        self.whole.borrow_mut().insert(peer);
        self.changed.notify_waiters();
    }

    /// Looks what a source has by now, until it does not get any more.
    pub(super) async fn watch(
        &self,
        id: SourceId,
        trial: &Peering<'_>,
        grows: &Cell<bool>,
    ) -> Part<()> {
        let mut shown = Shown::default();
        loop {
            let missing = self.first_missing();
            if self.whole.borrow().contains(&trial.whom.peer) {
                self.spread.borrow_mut().handle_grown(id);
                break;
            }
            let blobs: Vec<Digest> = missing.iter().map(|(_, blob)| *blob).collect();
            let parts = trial.endpoint.parts(&trial.whom.holder(), &blobs, trial.silence()).await;
            let parts = match parts {
                Ok(parts) => parts,
                Err(error) => return Ok(Err(error)),
            };
            let (mut chunks, mut has_some) = (0, false);
            for ((blob, _), part) in missing.into_iter().zip(parts) {
                has_some |= part != Parts::None;
                match part {
                    Parts::None => {}
                    Parts::Whole if shown.whole.contains(&blob) => {}
                    Parts::Whole => {
                        if self.offer_whole(id, blob) {
                            shown.whole.insert(blob);
                        }
                    }
                    Parts::Arriving { list, has } => {
                        chunks += has.len();
                        self.offer_parts(id, blob, list, has, &mut shown);
                    }
                }
            }
            if !has_some && !self.brings.borrow().contains(&trial.whom.peer) {
                break;
            }
            sleep(LOOK_AGAIN + FOR_A_CHUNK * u32::try_from(chunks).unwrap_or(u32::MAX)).await;
        }
        grows.set(false);
        self.changed.notify_waiters();
        Ok(Ok(()))
    }

    /// The source has all of a blob. Says whether its chunks are known.
    fn offer_whole(&self, id: SourceId, blob: usize) -> bool {
        let blobs = self.blobs.borrow();
        let mut spread = self.spread.borrow_mut();
        match &blobs[blob].state {
            State::Open(open) => {
                open.items.iter().flatten().for_each(|item| spread.handle_offered(id, *item));
            }
            State::Small(item) => spread.handle_offered(id, *item),
            State::Unknown | State::Done | State::GivenUp | State::Impossible => return false,
        }
        self.changed.notify_waiters();
        true
    }

    /// The source has these chunks of a blob.
    fn offer_parts(&self, id: SourceId, blob: usize, list: u64, has: Vec<bool>, shown: &mut Shown) {
        let blobs = self.blobs.borrow();
        // Another list of chunks says nothing of those that are asked for here.
        let State::Open(open) = &blobs[blob].state else { return };
        if open.list != list || open.items.len() != has.len() {
            return;
        }
        let mut spread = self.spread.borrow_mut();
        let before = shown.parts.entry(blob).or_insert_with(|| vec![false; has.len()]);
        let mut news = false;
        for (at, item) in open.items.iter().copied().enumerate() {
            if has[at] && !before[at] {
                before[at] = true;
                news = true;
                item.into_iter().for_each(|item| spread.handle_offered(id, item));
            }
        }
        drop(spread);
        if news {
            self.changed.notify_waiters();
        }
    }
}
