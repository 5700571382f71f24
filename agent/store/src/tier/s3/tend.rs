//! Housekeeping of a bucket: small segments are put together, and what expired is deleted.
//!
//! Any agent may do it at any time, several at once too. A merged segment is written before those it
//! was made of are deleted, and what is made of the same segments has the same name and the same
//! bytes, so doing it twice is doing it once. What expires is judged by the clock of the server and
//! later by `slack` than what a new record may rely on, so nothing is deleted that somebody has just
//! found present. Who finds a segment gone looks for the one that took its place.

use super::{
    S3Tier,
    segment::{Pack, Packed, Segment},
    upload::SEGMENT,
};
use crate::tier::{Operation, Tended, TierError};
use netbuild_core::digest::Digest;
use std::{collections::HashSet, sync::Arc, time::Duration};

/// Small segments from which on they are put together.
const MERGE_AT: usize = 16;
/// A segment below this size is small.
const SMALL: u64 = SEGMENT / 4;
/// Groups that are put together in one go, so that one call is bounded.
const MAX_GROUPS: usize = 8;

const TEND: Operation = Operation::Tend;

/// What is still of use.
struct Use {
    /// What was written at this time or later is.
    since: u64,
    /// These blobs are, as records need them.
    needed: HashSet<Digest>,
}

impl Use {
    fn blob(&self, blob: &Digest, written: u64) -> bool {
        written >= self.since || self.needed.contains(blob)
    }

    /// Bytes of a segment that are of no use.
    fn waste(&self, segment: &Segment) -> u64 {
        let index = &segment.index;
        let blobs = index.blobs.iter().filter(|held| !self.blob(&held.digest, held.written));
        let records = index.records.iter().filter(|filed| filed.written < self.since);
        blobs.map(|held| held.digest.size).sum::<u64>()
            + records.map(|filed| u64::from(filed.len)).sum::<u64>()
    }
}

impl S3Tier {
    pub(super) async fn tidy(&self) -> Result<Tended, TierError> {
        self.refresh(TEND, Duration::ZERO).await?;
        let mut done = Tended::default();
        let usage = self.usage();
        for group in self.groups(&usage) {
            self.merge(&group, &usage, &mut done).await?;
        }
        if usage.since > 0 {
            self.expire(&usage, &mut done).await?;
        }
        Ok(done)
    }

    fn usage(&self) -> Use {
        let state = self.state();
        // When not everything is known, nothing is known to be of no use.
        let expire = self.options.expire.filter(|_| !state.shelf.partial);
        let kept = expire.map(|expire| expire.as_secs() + self.options.slack.as_secs());
        let since = kept.map_or(0, |kept| self.bucket.clock.now().saturating_sub(kept));
        Use { since, needed: state.shelf.needed(since) }
    }

    /// Segments that are put together, oldest first.
    fn groups(&self, usage: &Use) -> Vec<Vec<Arc<Segment>>> {
        let state = self.state();
        let listed = state.shelf.segments().filter(|segment| segment.modified > 0);
        let (small, others): (Vec<_>, Vec<_>) =
            listed.cloned().partition(|segment| segment.size < SMALL);
        let many = small.len() >= MERGE_AT;
        let (small, few) = if many { (small, Vec::new()) } else { (Vec::new(), small) };
        // Those that hold little of use any more are written anew without the rest.
        let wasted = others.into_iter().chain(few);
        let wasted =
            wasted.filter(|segment| usage.waste(segment) * 2 > segment.size - segment.size / 8);
        let mut chosen: Vec<_> = small.into_iter().chain(wasted).collect();
        chosen.sort_by(|a, b| a.name.cmp(&b.name));
        let mut groups: Vec<Vec<Arc<Segment>>> = Vec::new();
        let mut bytes = 0;
        for segment in chosen {
            if groups.is_empty() || bytes + segment.size > 2 * SEGMENT {
                bytes = 0;
                groups.push(Vec::new());
            }
            bytes += segment.size;
            if let Some(group) = groups.last_mut() {
                group.push(segment);
            }
        }
        groups.retain(|group| group.len() > 1 || group.iter().any(|one| usage.waste(one) > 0));
        groups.truncate(MAX_GROUPS);
        groups
    }

    /// Writes what is of use in these segments as one, and deletes them.
    async fn merge(
        &self,
        group: &[Arc<Segment>],
        usage: &Use,
        done: &mut Tended,
    ) -> Result<(), TierError> {
        let mut pack = Pack::merged();
        let mut gone = HashSet::new();
        let mut freed = 0;
        for segment in group {
            let path = self.bucket.segment(&segment.name);
            match self.bucket.get(TEND, &path, None).await? {
                Some(bytes) if bytes.len() as u64 != segment.size => continue,
                Some(bytes) => {
                    add(&mut pack, segment, &bytes, usage);
                    freed += segment.size;
                }
                // Somebody else is putting it together with others, and has all of them in a segment by now: what
                // is left of them would be there twice. Whoever asks next has to look where it went.
                None => {
                    self.state().refreshed = None;
                    return Ok(());
                }
            }
            gone.insert(segment.name.clone());
        }
        if !pack.is_empty() {
            let time = group.iter().map(|segment| segment.modified).max().unwrap_or(0);
            let Some((merged, parts)) = pack.finish(time) else { return Ok(()) };
            // It is made of these segments only: were it one of them, it would be deleted next.
            if gone.contains(&merged.name) {
                return Ok(());
            }
            freed = freed.saturating_sub(merged.size);
            self.bucket.put(TEND, &self.bucket.segment(&merged.name), parts).await?;
            self.state().shelf.add(merged);
        }
        let paths = gone.iter().map(|name| self.bucket.segment(name)).collect();
        self.bucket.delete(TEND, paths).await?;
        self.state().shelf.remove(&gone);
        done.merged += group.len() as u64;
        done.deleted += gone.len() as u64;
        done.freed += freed;
        Ok(())
    }

    /// Deletes large blobs that are of no use.
    async fn expire(&self, usage: &Use, done: &mut Tended) -> Result<(), TierError> {
        let blobs = self.bucket.blobs(TEND).await?;
        let dead: Vec<_> =
            blobs.into_iter().filter(|(blob, modified)| !usage.blob(blob, *modified)).collect();
        if dead.is_empty() {
            return Ok(());
        }
        let paths = dead.iter().map(|(blob, _)| self.bucket.blob(blob)).collect();
        self.bucket.delete(TEND, paths).await?;
        done.deleted += dead.len() as u64;
        done.freed += dead.iter().map(|(blob, _)| blob.size).sum::<u64>();
        Ok(())
    }
}

/// Adds what is of use and sound in a segment.
fn add(pack: &mut Pack, segment: &Segment, bytes: &bytes::Bytes, usage: &Use) {
    let part = |at: std::ops::Range<u64>| bytes.slice(at.start as usize..at.end as usize);
    for (number, held) in segment.index.blobs.iter().enumerate() {
        let content = part(segment.blob(number));
        if usage.blob(&held.digest, held.written) && held.digest.matches(&content) {
            pack.add_blob(*held, content);
        }
    }
    for (number, filed) in segment.index.records.iter().enumerate() {
        if filed.written >= usage.since {
            pack.add_record(Packed {
                key: filed.key,
                hlc: filed.hlc,
                written: filed.written,
                bytes: part(segment.record(number)),
                blobs: filed.blobs.iter().filter_map(|blob| segment.index.blob(*blob)).collect(),
            });
        }
    }
}
