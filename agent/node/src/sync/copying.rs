//! Copying what the records here name and this disk lacks.

use super::Syncer;
use crate::{
    disk_cache::failed,
    fetcher::{Scope, Taken, Want},
};
use netbuild_core::{
    cache::CacheError,
    digest::Digest,
    key::ActionKey,
    peer::PeerId,
    plan::Who,
    record::{OutputKind, Record},
};
use netbuild_proto::{
    data::Priority,
    exchange::{Pair, SyncOrder, SyncStatus},
    record::SealedRecord,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Mutex, PoisonError},
    time::Instant,
};
use tokio::task::yield_now;

/// Records whose heads are read at once.
const PAGE: usize = 4096;
/// Records that are looked at together: their blobs share requests.
const WINDOW: usize = 256;
/// Most members of one region whose records are compared first; they have the same.
const COMPARED: usize = 2;
/// Bytes of blobs that are fetched together, unless one is larger: few enough for progress to show.
const BATCH: u64 = 32 << 20;
/// How often each source is tried.
const ROUNDS: u32 = 3;

/// A record that lacks something here.
struct Candidate {
    key: ActionKey,
    build_ms: u64,
    hlc: u64,
}

/// How far it is, for whoever looks.
pub(super) type State = Mutex<SyncStatus>;

pub(super) fn update(state: &State, change: impl FnOnce(&mut SyncStatus)) {
    change(&mut state.lock().unwrap_or_else(PoisonError::into_inner));
}

impl Syncer {
    /// Copies to this agent what it lacks. What is here already is not copied again, so an order
    /// that was broken off goes on where it was.
    pub(super) async fn carry_out(
        &self,
        order: &SyncOrder,
        state: &State,
    ) -> Result<(), CacheError> {
        let conflicts = self.fetcher.disk.store().stats().conflicts;
        self.compare_with(order.from.as_deref()).await;
        let mut candidates = self.candidates(order, state).await?;
        // What took longest to build first, and of those the latest: who waits, waits for them.
        candidates.sort_by_key(|c| std::cmp::Reverse((c.build_ms, c.hlc)));
        for window in candidates.chunks(WINDOW) {
            self.copy_window(window, order, state).await?;
        }
        let now = self.fetcher.disk.store().stats().conflicts;
        update(state, |state| state.conflicts = now.saturating_sub(conflicts));
        Ok(())
    }

    /// Compares records with members of the regions to copy from, so that all of them are known.
    async fn compare_with(&self, from: Option<&str>) {
        let here = self.fetcher.disk.region();
        let mut chosen: BTreeMap<String, Vec<PeerId>> = BTreeMap::new();
        for peer in self.fetcher.view.connected() {
            let Some(whom) = self.fetcher.view.whom(&peer) else { continue };
            let wanted = from.map_or(whom.region != here || here.is_empty(), |r| r == whom.region);
            let members = chosen.entry(whom.region).or_default();
            if wanted && members.len() < COMPARED {
                members.push(peer);
            }
        }
        for peer in chosen.into_values().flatten() {
            if let Err(why) = self.compare(&peer).await {
                tracing::info!(peer = %peer.short(), why, "records were not compared");
            }
        }
    }

    /// The records that lack something, with totals.
    async fn candidates(
        &self,
        order: &SyncOrder,
        state: &State,
    ) -> Result<Vec<Candidate>, CacheError> {
        let store = self.fetcher.disk.store();
        let (mut candidates, mut seen) = (Vec::new(), BTreeSet::new());
        let mut after = None;
        loop {
            let heads = store.records_after(after.as_ref(), PAGE).map_err(failed)?;
            let Some(last) = heads.last() else { return Ok(candidates) };
            after = Some(last.key);
            for head in heads.iter().filter(|head| head.shared) {
                // Reading may take long, and whoever waits wants to see it, or to break it off.
                yield_now().await;
                let Some(record) = store.record(&head.key).map_err(failed)? else { continue };
                if !self.is_from(&record, order.from.as_deref()) {
                    continue;
                }
                if order.force {
                    self.check(&record)?;
                }
                let lacking = self.fetcher.disk.lacking(record.record())?;
                if lacking.is_empty() {
                    continue;
                }
                let new = lacking.blobs.iter().filter(|blob| seen.insert(**blob));
                let bytes: u64 = new.map(|blob| blob.size).sum();
                let artifacts = artifacts(&record);
                update(state, |state| {
                    state.artifacts_total += artifacts;
                    state.bytes_total += bytes;
                });
                if order.dry_run {
                    self.count(&record.record().region, artifacts, bytes, 0, 0.0, state);
                    continue;
                }
                candidates.push(Candidate {
                    key: head.key,
                    build_ms: record.record().execution.duration_ms,
                    hlc: head.hlc.0,
                });
            }
        }
    }

    /// Whether a region has, or made, what a record names.
    fn is_from(&self, record: &SealedRecord, from: Option<&str>) -> bool {
        let Some(from) = from else { return true };
        record.record().region == from
            || self
                .fetcher
                .view
                .holders(&record.record().key)
                .iter()
                .any(|peer| self.fetcher.view.whom(peer).is_some_and(|whom| whom.region == from))
    }

    /// Reads every blob of a record, so that damage is found and copied again.
    fn check(&self, record: &SealedRecord) -> Result<(), CacheError> {
        for blob in record.record().blobs() {
            if let Some(mut reader) = self.fetcher.disk.store().open_blob(&blob).map_err(failed)? {
                // The reader itself puts a damaged blob aside.
                if let Err(error) = io::copy(&mut reader, &mut io::sink()) {
                    tracing::warn!(%blob, %error, "damaged; it is copied again");
                }
            }
        }
        Ok(())
    }

    /// Copies what some records name: the blobs of one writer's records together.
    async fn copy_window(
        &self,
        window: &[Candidate],
        order: &SyncOrder,
        state: &State,
    ) -> Result<(), CacheError> {
        let mut by_writer: BTreeMap<PeerId, Vec<SealedRecord>> = BTreeMap::new();
        for candidate in window {
            let record = self.fetcher.disk.store().record(&candidate.key).map_err(failed)?;
            if let Some(record) = record {
                by_writer.entry(record.record().writer).or_default().push(record);
            }
        }
        for (writer, records) in by_writer {
            let began = Instant::now();
            let (mut taken, mut copied) = (Taken::default(), 0);
            // Listings first, then what they name.
            for _ in 0..2 {
                let lacking = self.lacking_of(&records)?;
                if lacking.is_empty() {
                    break;
                }
                let holders = self.holders_of(&records, writer);
                let named: Vec<&Record> = records.iter().map(SealedRecord::record).collect();
                let wanted: BTreeSet<Digest> = lacking.iter().copied().collect();
                let bases = self.fetcher.bases(&named, &wanted)?;
                for blobs in batches(&lacking) {
                    let want = Want {
                        what: format!("sync of {} records", records.len()),
                        blobs,
                        bases: &bases,
                        holders: holders.iter().copied().map(Who::Peer).collect(),
                        build_ms: None,
                        scope: self.scope(order),
                        rounds: ROUNDS,
                        priority: Priority::Background,
                        alike: self.fetcher.delta,
                        watch: &(),
                        landed: &|_, _, _| (),
                        course: &(),
                    };
                    let missing = self.fetcher.blobs(&want, &mut taken).await?;
                    let missing: BTreeSet<Digest> = missing.into_iter().collect();
                    let arrived = blobs.iter().filter(|blob| !missing.contains(blob));
                    let arrived: u64 = arrived.map(|blob| blob.size).sum();
                    copied += arrived;
                    update(state, |state| state.bytes_done += arrived);
                }
            }
            let mut artifacts_done = 0;
            for record in &records {
                let lacking = self.fetcher.disk.lacking(record.record())?;
                if lacking.is_empty() {
                    artifacts_done += artifacts(record);
                    self.fetcher.announce(record, false);
                }
            }
            let region = taken.origin().unwrap_or_default();
            let seconds = began.elapsed().as_secs_f64();
            self.count(region, artifacts_done, copied, taken.wire(), seconds, state);
            update(state, |state| state.artifacts_done += artifacts_done);
        }
        Ok(())
    }

    fn lacking_of(&self, records: &[SealedRecord]) -> Result<Vec<Digest>, CacheError> {
        let mut lacking = BTreeSet::new();
        for record in records {
            lacking.extend(self.fetcher.disk.lacking(record.record())?.blobs);
        }
        Ok(lacking.into_iter().collect())
    }

    /// Who has all of these records, as far as they said, and who wrote them.
    fn holders_of(&self, records: &[SealedRecord], writer: PeerId) -> BTreeSet<PeerId> {
        let mut all = records.iter().map(|r| self.fetcher.view.holders(&r.record().key));
        let first = all.next().unwrap_or_default();
        let mut holders = all.fold(first, |holders, more| &holders & &more);
        holders.insert(writer);
        holders
    }

    fn scope(&self, order: &SyncOrder) -> Scope {
        match &order.from {
            None => Scope::Mesh,
            // What another of this region has already need not cross again.
            Some(from) => {
                let here = self.fetcher.disk.region();
                Scope::Regions(BTreeSet::from([from.clone(), here]))
            }
        }
    }

    fn count(
        &self,
        from: &str,
        artifacts: u64,
        logical: u64,
        wire: u64,
        seconds: f64,
        state: &State,
    ) {
        let to = self.fetcher.disk.region();
        update(state, |state| {
            let at = state.pairs.iter().position(|pair| pair.from == from && pair.to == to);
            let at = at.unwrap_or_else(|| {
                state.pairs.push(Pair { from: from.to_owned(), to, ..Pair::default() });
                state.pairs.len() - 1
            });
            let pair = &mut state.pairs[at];
            pair.artifacts += artifacts;
            pair.bytes_logical += logical;
            pair.bytes_on_wire += wire;
            pair.seconds += seconds;
        });
    }
}

/// Cuts a list of blobs where [`BATCH`] bytes are full.
fn batches(blobs: &[Digest]) -> impl Iterator<Item = &[Digest]> {
    let mut bytes = 0_u64;
    blobs.chunk_by(move |blob, next| {
        bytes = bytes.saturating_add(blob.size);
        let fits = bytes.saturating_add(next.size) <= BATCH;
        bytes = if fits { bytes } else { 0 };
        fits
    })
}

/// Outputs that have content.
fn artifacts(record: &SealedRecord) -> u64 {
    let has_content = |kind: &OutputKind| {
        matches!(kind, OutputKind::File { .. } | OutputKind::Tree { .. } | OutputKind::Files { .. })
    };
    let outputs = &record.record().result.outputs;
    outputs.iter().filter(|output| has_content(&output.kind)).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_are_fetched_in_batches_and_large_ones_alone() {
        let blob = |size| Digest { size, ..Digest::of(b"") };
        let sizes = [1, BATCH - 1, 1, BATCH + 1, u64::MAX, 5, 6];
        let blobs = sizes.map(blob);
        let cut: Vec<usize> = batches(&blobs).map(<[Digest]>::len).collect();
        assert_eq!(cut, [2, 1, 1, 1, 2]);
        assert_eq!(batches(&[]).count(), 0);
    }
}
