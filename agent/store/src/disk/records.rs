//! Records in a data directory: which of two stays, the evidence of different results, and reading.

use super::{
    catalog::Catalog,
    entry::RecordEntry,
    frame::Kind,
    inner::Inner,
    journal::Location,
    payload::{EvidenceHead, RecordHead},
};
use crate::{Conflict, Kept, StoreError};
use netbuild_core::{
    digest::Hash,
    key::ActionKey,
    merge::{Level, Outcome, Trust, Variant, merge, result_id},
};
use netbuild_proto::record::{SealedRecord, sum_of};
use std::sync::atomic::Ordering;

impl Inner {
    /// Keeps a record, unless the one that is here stays; the loser too, if it has another result.
    pub(super) fn keep_record(
        &self,
        sealed: &SealedRecord,
        trust: &Trust,
    ) -> Result<Kept, StoreError> {
        let new = sealed.version();
        if trust.level(&new.writer) == Level::Refused {
            return Ok(Kept::Refused);
        }
        let key = sealed.record().key;
        let mut catalog = self.catalog();
        let entry = self.index.record(&key);
        // One that it does not know of could be better, and the last in the journal counts.
        self.index.must_answer()?;
        let old = match entry {
            Some(entry) => {
                let old = self.read_record(&key, &entry)?;
                if old.is_none() {
                    // Its entry is replaced below.
                    self.tell_damaged(&key, entry.location);
                }
                old
            }
            None => None,
        };
        if let Some(old) = old {
            let kept = old.version();
            match merge(&kept, &new, trust) {
                Outcome::Refused => return Ok(Kept::Refused),
                Outcome::Same => return Ok(Kept::Same),
                Outcome::Stays { conflict } => {
                    if conflict {
                        self.keep_evidence(&mut catalog, sealed, kept.result, trust)?;
                    }
                    return Ok(Kept::Older);
                }
                // Before the record that wins: after a crash in between the loser is still here.
                Outcome::Replaces { conflict: true } => {
                    self.keep_evidence(&mut catalog, &old, new.result, trust)?;
                }
                Outcome::Replaces { conflict: false } => {
                    if catalog.evidence.handle_kept(&key, &new.result) {
                        self.note_evidence(&catalog, &key)?;
                    }
                }
            }
        }
        let head = RecordHead::of(sealed);
        let location =
            self.append(&mut catalog, Kind::Record, &head.encode(), sealed.as_bytes())?;
        let sum = sum_of(&new.hash);
        let record = RecordEntry { location, hlc: head.hlc, shared: head.shared, sum };
        self.index.put_record(sealed.record(), &record, catalog.tail.position())?;
        catalog.tally.record_changed(&key, entry, Some(record));
        drop(catalog);
        self.added(sealed.as_bytes().len() as u64);
        Ok(Kept::Stored)
    }

    /// Keeps a record that lost against one with the result `kept`, if there is room for it.
    fn keep_evidence(
        &self,
        catalog: &mut Catalog,
        lost: &SealedRecord,
        kept: Hash,
        trust: &Trust,
    ) -> Result<(), StoreError> {
        let key = lost.record().key;
        let version = lost.version();
        let (rank, result) = (version.rank(trust), version.result);
        if !catalog.evidence.admits(&key, &rank, &result) {
            return Ok(());
        }
        let head = EvidenceHead { level: rank.level, kept }.encode();
        let place = self.append(catalog, Kind::Evidence, &head, lost.as_bytes())?;
        let forgotten = catalog.evidence.add(key, &kept, Variant { rank, result, place });
        tracing::warn!(%key, writer = %version.writer.short(),
            "an action has given different results");
        for key in [Some(key), forgotten].iter().flatten() {
            self.note_evidence(catalog, key)?;
        }
        Ok(())
    }

    fn note_evidence(&self, catalog: &Catalog, key: &ActionKey) -> Result<(), StoreError> {
        self.index.put_evidence(key, &catalog.evidence, catalog.tail.position())
    }

    pub(super) fn record(&self, key: &ActionKey) -> Result<Option<SealedRecord>, StoreError> {
        let mut found = self.index.record(key);
        while let Some(entry) = found {
            let sealed = self.read_record(key, &entry)?;
            if sealed.is_some() {
                self.used(&Hash(key.0));
                return Ok(sealed);
            }
            // Its segment may have been written anew since it was located.
            found = self.index.record(key).filter(|now| now.location != entry.location);
            if found.is_none() {
                self.lost_record(key, entry.location);
            }
        }
        Ok(None)
    }

    /// The record that an entry points to; `None` when it is damaged.
    ///
    /// The signature is not checked again. It was when the record came, since nobody can have a
    /// [`SealedRecord`] without; and that these are still the same bytes is told by the checksum of
    /// the frame and by their hash, which the index has had since then. Whoever could change both
    /// could as well take the key that signs.
    pub(super) fn read_record(
        &self,
        key: &ActionKey,
        entry: &RecordEntry,
    ) -> Result<Option<SealedRecord>, StoreError> {
        let payload = self.segments.read(entry.location, Kind::Record)?;
        Ok(payload
            .as_deref()
            .and_then(RecordHead::split)
            .filter(|(_, bytes)| sum_of(&Hash::of(bytes)) == entry.sum)
            .and_then(|(_, bytes)| SealedRecord::reopen(bytes).ok())
            .filter(|sealed| sealed.record().key == *key))
    }

    /// Forgets a record whose frame is damaged, unless it was put again meanwhile.
    pub(super) fn lost_record(&self, key: &ActionKey, location: Location) {
        let mut catalog = self.catalog();
        let old = self.index.record(key);
        if old.is_some_and(|entry| entry.location == location) {
            self.tell_damaged(key, location);
            if self.index.forget_record(key).is_ok() {
                catalog.tally.record_changed(key, old, None);
            }
        }
    }

    fn tell_damaged(&self, key: &ActionKey, location: Location) {
        self.quarantined.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(%key, segment = location.segment, offset = location.offset,
            "record is damaged in the journal");
    }

    /// The different results of one action.
    pub(super) fn conflict(&self, key: &ActionKey) -> Result<Option<Conflict>, StoreError> {
        loop {
            let variants = self.catalog().evidence.variants(key).to_vec();
            let conflict = self.conflict_of(key, &variants)?;
            // Their segments may have been written anew meanwhile.
            if self.catalog().evidence.variants(key) == variants {
                return Ok(conflict);
            }
        }
    }

    /// Actions with different results, that which was last noticed first.
    pub(super) fn conflicts(&self, limit: usize) -> Result<Vec<Conflict>, StoreError> {
        let newest = self.catalog().evidence.newest();
        let mut conflicts = Vec::new();
        for key in newest {
            if conflicts.len() == limit {
                break;
            }
            conflicts.extend(self.conflict(&key)?);
        }
        Ok(conflicts)
    }

    /// Evidence that is damaged or has become the record is none.
    fn conflict_of(
        &self,
        key: &ActionKey,
        variants: &[Variant<Location>],
    ) -> Result<Option<Conflict>, StoreError> {
        if variants.is_empty() {
            return Ok(None);
        }
        let Some(kept) = self.record(key)? else { return Ok(None) };
        let result = result_id(&kept.record().result);
        let mut others = Vec::new();
        for lost in variants.iter().filter(|lost| lost.result != result) {
            others.extend(self.read_evidence(lost)?);
        }
        Ok((!others.is_empty()).then_some(Conflict { key: *key, kept, others }))
    }

    fn read_evidence(&self, lost: &Variant<Location>) -> Result<Option<SealedRecord>, StoreError> {
        let payload = self.segments.read(lost.place, Kind::Evidence)?;
        Ok(payload
            .as_deref()
            .and_then(EvidenceHead::split)
            .filter(|(_, bytes)| Hash::of(bytes) == lost.rank.hash)
            .and_then(|(_, bytes)| SealedRecord::reopen(bytes).ok()))
    }
}
