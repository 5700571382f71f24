//! Blobs that are like one another: what one may be patched against, and which come after others so that they can be.

use super::{Job, MAX_PATCHED, Part};
use crate::{
    bases::MAX_BASES,
    disk_cache::failed,
    underway::{self, After, Alike, Begun, OnItsWay},
};
use netbuild_core::{cache::CacheError, digest::Digest, peer::PeerId, sketch::Sketch};
use netbuild_proto::data::{Described, Priority};

/// Least share of what two blobs have in common for one to be the base of a patch of the other.
const ALIKE: f64 = 0.05;
/// The same where the base is on its way in as well, and the other has to come after it. Of two programs of one
/// workspace, of 33 and 38 MB and alike by a third, the second comes in a third of the bytes so.
const ALIKE_UNDERWAY: f64 = 0.2;
/// Payload bytes per second of a link below which blobs wait for one another. These programs take as long either
/// way at 12 MB/s, and at 125 MB/s a tenth of a second longer, as the provider makes an index of what comes first.
const SLOW: f64 = 20e6;

/// When a blob is begun.
pub(super) enum Turn {
    Now(Option<OnItsWay>),
    Later(Sketch),
}

/// A blob that is begun later.
#[derive(Debug)]
pub(super) struct Later {
    pub(super) described: Described,
    pub(super) sketch: Sketch,
    pub(super) told_by: PeerId,
}

/// Whether a link that is believed to give so many bytes per second is so slow that blobs are to wait for one another.
pub(crate) fn is_slow(goodput: f64) -> bool {
    goodput < SLOW
}

impl Job<'_> {
    /// When a blob is begun, if the link `is_slow`: later, if it is like another one that is on its way, or comes later
    /// itself, and like nothing that is here by as much.
    pub(super) fn turn(&self, described: &Described, is_slow: bool) -> Result<Turn, CacheError> {
        let blob = described.manifest.blob();
        let sketch = self.sketch(described).filter(|_| blob.size <= MAX_PATCHED);
        let Some(sketch) = sketch else { return Ok(Turn::Now(None)) };
        let new = self.begun(blob, sketch);
        if !is_slow || self.want.bases.contains_key(&blob) {
            return Ok(Turn::Now(self.underway.begin(new)));
        }
        let here = self.similar(&blob, &sketch)?.first().map_or(0.0, |(_, share)| *share);
        let is_enough = |share: f64| share >= ALIKE_UNDERWAY && share > here;
        let later = self.later.borrow();
        let mut latest = later.values().rev().take(underway::MOST);
        if latest.any(|other| is_enough(sketch.similarity(&other.sketch))) {
            return Ok(Turn::Later(sketch));
        }
        Ok(match self.underway.begin_unless_alike(new, is_enough) {
            Ok(way) => Turn::Now(way),
            Err(Alike) => Turn::Later(sketch),
        })
    }

    fn begun(&self, blob: Digest, sketch: Sketch) -> Begun {
        Begun { blob, sketch, urgent: self.want.priority != Priority::Background, job: self.id }
    }

    /// Begins the next blob of those that come later, which `may_wait` for another on its way; says whether there was one.
    pub(super) fn begin_later(&self, may_wait: bool) -> Part<bool> {
        loop {
            let next = self.later.borrow_mut().pop_first();
            let Some((index, Later { described, sketch, told_by })) = next else {
                return Ok(Ok(false));
            };
            // It may have come from a tier, or be wanted no more.
            if !self.is_unknown(index) {
                continue;
            }
            let new = self.begun(described.manifest.blob(), sketch);
            let is_enough = |share| may_wait && share >= ALIKE_UNDERWAY;
            let (after, way) = self.underway.begin_after(new, is_enough);
            return Ok(self.begin(index, &described, told_by, way, after)?.map(|()| true));
        }
    }

    fn sketch(&self, described: &Described) -> Option<Sketch> {
        let bytes = described.sketch.as_deref().filter(|_| self.want.alike)?;
        bytes.try_into().ok().map(Sketch::from_bytes)
    }

    /// What is here and looks like a blob, and how much of it.
    fn similar(&self, blob: &Digest, sketch: &Sketch) -> Result<Vec<(Digest, f64)>, CacheError> {
        let mut similar = self.store.similar(sketch, MAX_BASES).map_err(failed)?;
        similar.retain(|(base, share)| *share >= ALIKE && base != blob);
        Ok(similar)
    }

    /// What a blob may be patched against: what is known to resemble it, else what looks like it, also what it comes
    /// `after`.
    pub(super) fn bases(
        &self,
        described: &Described,
        after: Option<After>,
    ) -> Result<Vec<Digest>, CacheError> {
        let blob = described.manifest.blob();
        if let Some(bases) = self.want.bases.get(&blob) {
            return Ok(bases.clone());
        }
        let Some(sketch) = self.sketch(described) else { return Ok(Vec::new()) };
        let mut alike = self.similar(&blob, &sketch)?;
        if let Some(After { blob, share, same_job }) = after {
            // Of equal ones the one of the same job: it is here by then, and was made beside this one.
            let at = if same_job { 0 } else { alike.len() };
            alike.insert(at, (blob, share));
        }
        alike.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        Ok(alike.into_iter().map(|(base, _)| base).take(MAX_BASES).collect())
    }
}
