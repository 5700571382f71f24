//! Giving back the space of what is dead in the journal: what is still of use in a segment is added to
//! the journal's end, and the segment removed.
//!
//! A crash at any moment loses nothing. Until a segment is removed its frames are there, and it is removed
//! only when their copies, and an index that points to the copies, are on the disk. A frame that is there
//! twice says the same twice; and as a copy is made only of what counts at that moment, it is never newer
//! than what replaced it.

use super::{
    catalog::Catalog,
    entry::{BlobEntry, Place, RecordEntry},
    frame::Kind,
    inner::Inner,
    journal::{Location, SegmentReader},
    payload::{EvidenceHead, Gone, RecordHead, split_blob},
    tally::frame_len,
};
use crate::{StoreError, store::Compacted};
use netbuild_core::{
    digest::Hash,
    merge::{Rank, result_id},
};
use netbuild_proto::record::SealedRecord;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    sync::TryLockError,
};

/// A segment is written anew when at least this part of it is dead: the journal is then at most twice as
/// large as what is in it, and a byte is copied at most once for each byte that is given back.
const DEAD: f64 = 0.5;
/// A segment that is still written to is ended for that only from this length on, in bytes.
const MIN_SEGMENT: u64 = 4 << 20;
/// Bytes of frames that are copied under one hold of the lock.
const COPIED_AT_ONCE: usize = 256 << 10;
/// Entries of the index that are looked at together.
const PAGE: usize = 1024;

/// A frame that may have to be copied.
struct Candidate {
    kind: Kind,
    at: Location,
    payload: Vec<u8>,
}

impl Inner {
    /// Writes segments anew that are mostly dead. `pace` hears how many bytes were read or written
    /// since it was last called; it may wait, and may say that this is enough for now.
    pub(super) fn compact(
        &self,
        pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Compacted, StoreError> {
        // Segments must not go while the index is made again from them; later is soon enough.
        let _one = match self.mending.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(Compacted::default()),
        };
        self.totals();
        let mut done = Compacted::default();
        while let Some((segment, len, oldest)) = self.most_dead()? {
            let before = done.copied_bytes;
            let copied = self.copy_live(segment, oldest, &mut done, pace)?;
            if copied.is_break() {
                break;
            }
            self.rescue(segment, oldest)?;
            self.flush()?;
            self.index.persist()?;
            self.segments.remove(segment)?;
            done.segments += 1;
            done.freed_bytes += len;
            tracing::debug!(
                segment,
                bytes = len,
                copied = done.copied_bytes - before,
                "segment of the journal was written anew"
            );
        }
        Ok(done)
    }

    /// The segment that it pays most to write anew with its length, and whether it is the oldest.
    fn most_dead(&self) -> Result<Option<(u32, u64, bool)>, StoreError> {
        let mut catalog = self.catalog();
        let list = self.segments.list()?;
        catalog.tally.keep_segments(&list.keys().copied().collect::<BTreeSet<_>>());
        let tail = catalog.tail.position();
        let evidence = evidence_bytes(&catalog);
        let dead = |segment: u32, len: u64| {
            let oldest = list.keys().next() == Some(&segment);
            let (tally, evidence) = (&catalog.tally, evidence.get(&segment));
            // What the oldest segment says is gone is in no other.
            let gone = if oldest { 0 } else { tally.gone(segment) };
            let live = tally.live(segment) + evidence.copied().unwrap_or_default() + gone;
            len.saturating_sub(live)
        };
        if tail.offset >= MIN_SEGMENT
            && dead(tail.segment, tail.offset) as f64 >= DEAD * tail.offset as f64
        {
            self.rotate(&mut catalog, MIN_SEGMENT)?;
            return Ok(Some((
                tail.segment,
                tail.offset,
                list.keys().next() == Some(&tail.segment),
            )));
        }
        let ended = list.iter().filter(|(segment, _)| **segment < tail.segment);
        let ratio = |segment: u32, len: u64| dead(segment, len) as f64 / len.max(1) as f64;
        let worst = ended
            .map(|(segment, len)| (*segment, *len, ratio(*segment, *len)))
            .filter(|(_, len, ratio)| *len == 0 || *ratio >= DEAD)
            .max_by(|(_, _, a), (_, _, b)| a.total_cmp(b));
        Ok(worst.map(|(segment, len, _)| (segment, len, list.keys().next() == Some(&segment))))
    }

    fn copy_live(
        &self,
        segment: u32,
        oldest: bool,
        done: &mut Compacted,
        pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, StoreError> {
        let mut reader = SegmentReader::open(&self.segments, segment, 0)?;
        let mut read_to = 0;
        loop {
            let mut batch = Vec::new();
            let more = reader.advance(|at, frame| {
                batch.push(Candidate { kind: frame.kind, at, payload: frame.payload.to_vec() });
            })?;
            let mut bytes = reader.end.saturating_sub(read_to);
            read_to = reader.end;
            let mut rest = &batch[..];
            while !rest.is_empty() {
                let mut size = 0;
                let count = rest.iter().take_while(|frame| {
                    let fits = size < COPIED_AT_ONCE;
                    size += frame.payload.len();
                    fits
                });
                let (now, later) = rest.split_at(count.count());
                let copied = self.copy_batch(now, oldest)?;
                done.copied_bytes += copied;
                if pace(copied + std::mem::take(&mut bytes)).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                rest = later;
            }
            if !more {
                return Ok(ControlFlow::Continue(()));
            }
        }
    }

    fn copy_batch(&self, frames: &[Candidate], oldest: bool) -> Result<u64, StoreError> {
        let mut catalog = self.catalog();
        let mut copied = 0;
        for Candidate { kind, at, payload } in frames {
            let moved = match kind {
                Kind::Blob => self.copy_blob(&mut catalog, at, payload),
                Kind::Record => self.copy_record(&mut catalog, at, payload),
                Kind::Evidence => self.copy_evidence(&mut catalog, at, payload),
                Kind::Gone => self.copy_gone(&mut catalog, payload, oldest),
            }?;
            copied += moved.as_ref().map_or(0, frame_len);
        }
        Ok(copied)
    }

    fn copy_blob(
        &self,
        catalog: &mut Catalog,
        at: &Location,
        payload: &[u8],
    ) -> Result<Option<Location>, StoreError> {
        let Some((hash, _)) = split_blob(payload) else { return Ok(None) };
        let old = self.index.blob(&hash).filter(|entry| entry.place == Place::Journal(*at));
        let Some(entry) = old else { return Ok(None) };
        let to = self.append(catalog, Kind::Blob, payload, b"")?;
        let new = BlobEntry { place: Place::Journal(to), ..entry };
        self.index.put_blob(&hash, &new, Some(catalog.tail.position()))?;
        catalog.tally.blob_changed(&hash, old, Some(new));
        Ok(Some(to))
    }

    fn copy_record(
        &self,
        catalog: &mut Catalog,
        at: &Location,
        payload: &[u8],
    ) -> Result<Option<Location>, StoreError> {
        let Some((head, _)) = RecordHead::split(payload) else { return Ok(None) };
        let old = self.index.record(&head.key).filter(|entry| entry.location == *at);
        let Some(entry) = old else { return Ok(None) };
        let to = self.append(catalog, Kind::Record, payload, b"")?;
        let new = RecordEntry { location: to, ..entry };
        self.index.move_record(&head.key, &new, catalog.tail.position())?;
        catalog.tally.record_changed(&head.key, old, Some(new));
        Ok(Some(to))
    }

    fn copy_evidence(
        &self,
        catalog: &mut Catalog,
        at: &Location,
        payload: &[u8],
    ) -> Result<Option<Location>, StoreError> {
        let Some((head, bytes)) = EvidenceHead::split(payload) else { return Ok(None) };
        let Ok(lost) = SealedRecord::reopen(bytes) else { return Ok(None) };
        let (key, version) = (lost.record().key, lost.version());
        let rank = Rank { level: head.level, hlc: version.hlc, hash: version.hash };
        let variants = catalog.evidence.variants(&key);
        if !variants.iter().any(|variant| variant.rank == rank && variant.place == *at) {
            return Ok(None);
        }
        // It is the last frame about this action now, and must not say that what has lost since won.
        let kept = match self.index.record(&key) {
            Some(entry) => self.read_record(&key, &entry)?,
            None => None,
        };
        let kept = kept.map_or(head.kept, |sealed| result_id(&sealed.record().result));
        let head = EvidenceHead { kept, ..head }.encode();
        let to = self.append(catalog, Kind::Evidence, &head, bytes)?;
        catalog.evidence.relocate(&key, &rank, to);
        self.index.put_evidence(&key, &catalog.evidence, catalog.tail.position())?;
        Ok(Some(to))
    }

    /// A note of removal counts as long as there may be older frames of what it names.
    fn copy_gone(
        &self,
        catalog: &mut Catalog,
        payload: &[u8],
        oldest: bool,
    ) -> Result<Option<Location>, StoreError> {
        let here = match Gone::decode(payload) {
            Some(Gone::Blob(hash)) => self.index.blob(&hash).is_some(),
            Some(Gone::Record(key)) => self.index.record(&key).is_some(),
            None => true,
        };
        if oldest || here {
            return Ok(None);
        }
        let to = self.append(catalog, Kind::Gone, payload, b"")?;
        catalog.tally.gone_added(&to);
        self.index.put_position(catalog.tail.position())?;
        Ok(Some(to))
    }

    /// What the index still has in a segment whose intact frames were copied is damaged there, and
    /// forgotten. But it is looked at once more before the only bytes of it go.
    fn rescue(&self, segment: u32, oldest: bool) -> Result<(), StoreError> {
        if self.catalog().tally.live(segment) == 0 {
            return Ok(());
        }
        let mut after: Option<Hash> = None;
        loop {
            let page = self.index.blobs_after(after.as_ref(), PAGE);
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            for (hash, entry) in page {
                if let Place::Journal(at) = entry.place
                    && at.segment == segment
                {
                    match self.segments.read(at, Kind::Blob)? {
                        Some(payload) => {
                            let frame = Candidate { kind: Kind::Blob, at, payload };
                            self.copy_batch(&[frame], oldest)?;
                        }
                        None => self.lost_small(&hash, at),
                    }
                }
            }
        }
        let mut after = None;
        loop {
            let page = self.index.records_after(after.as_ref(), PAGE);
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            for (key, entry) in page {
                let at = entry.location;
                if at.segment != segment {
                    continue;
                }
                match self.segments.read(at, Kind::Record)? {
                    Some(payload) => {
                        let frame = Candidate { kind: Kind::Record, at, payload };
                        self.copy_batch(&[frame], oldest)?;
                    }
                    None => self.lost_record(&key, at),
                }
            }
        }
        Ok(())
    }
}

/// Bytes of evidence in each segment. There is never much of it.
pub(super) fn evidence_bytes(catalog: &Catalog) -> BTreeMap<u32, u64> {
    let mut bytes = BTreeMap::new();
    for (_, variant) in catalog.evidence.iter() {
        *bytes.entry(variant.place.segment).or_default() += frame_len(&variant.place);
    }
    bytes
}
