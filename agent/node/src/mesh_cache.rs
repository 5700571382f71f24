//! The cache of an agent: its own disk first, then the other agents.
//!
//! A record of a peer becomes a hit only when every blob that it names is on this disk and
//! verified: blobs first, record second, announcement third.

use crate::{
    chain::chain,
    disk_cache::{DiskCache, failed},
    view::View,
};
use bytes::Bytes;
use netbuild_core::{
    cache::{Cache, CacheError, Content, Fetched, Hit, NewRecord, Source},
    chunk::{Chunk, MAX_CHUNK, Manifest},
    digest::Digest,
    key::ActionKey,
    peers::Candidate,
};
use netbuild_gateway::Door;
use netbuild_mesh::{Catalog, Mesh, format_multiaddr};
use netbuild_proto::{
    control::Status,
    membership::Held,
    record::SealedRecord,
    ticket::{MeshKey, Ticket},
};
use netbuild_store::{PartialBlob, StoreError};
use netbuild_transfer::{Endpoint, FetchError, Holder, Provide};
use std::{io::Read, ops::ControlFlow, sync::Arc};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// Most peers that are asked for one thing before it counts as missing: the nearest and two more.
const MAX_ASKED: usize = 3;
/// How often listings may lead to more blobs: a listing names files, never listings.
const MAX_ROUNDS: usize = 2;
/// Records read from the store at once for a page of the catalog.
const PAGE: usize = 4096;

/// The cache of an agent. Its calls block, and must not come from a thread of the runtime.
#[derive(Debug)]
pub(crate) struct MeshCache {
    disk: Arc<DiskCache>,
    view: Arc<View>,
    mesh: Mesh,
    endpoint: Endpoint,
    mesh_key: MeshKey,
    runtime: Handle,
    stop: CancellationToken,
}

/// What came from peers.
#[derive(Debug, Default)]
struct Taken {
    bytes: u64,
    /// The peer that sent most recently.
    from: Option<Candidate>,
}

/// Whether a peer that was asked is to be asked for more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Health {
    Answers,
    /// Each further question would cost a timeout, like the one before.
    Fails,
}

impl Health {
    /// By what [`MeshCache::judge`] made of an answer.
    fn of<T>(answer: &Option<T>) -> Self {
        if answer.is_some() { Self::Answers } else { Self::Fails }
    }
}

fn source(candidate: &Candidate) -> Source {
    Source::Peer { peer: candidate.peer, region: candidate.region.clone() }
}

fn holder(candidate: &Candidate) -> Holder {
    Holder { peer: candidate.peer, addresses: candidate.addresses.clone() }
}

impl MeshCache {
    pub(crate) fn new(
        disk: Arc<DiskCache>,
        view: Arc<View>,
        mesh: Mesh,
        endpoint: Endpoint,
        mesh_key: MeshKey,
        runtime: Handle,
    ) -> Self {
        let stop = CancellationToken::new();
        Self { disk, view, mesh, endpoint, mesh_key, runtime, stop }
    }

    /// Asks nobody any more; what is under way fails at once.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
        self.view.stop();
    }

    /// Blocks until something that needs others is done, or the agent stops.
    fn wait<T>(&self, what: impl Future<Output = Result<T, CacheError>>) -> Result<T, CacheError> {
        let done = self.runtime.block_on(self.stop.run_until_cancelled(what));
        done.unwrap_or_else(|| Err(CacheError::Failed("the agent is stopping".into())))
    }

    pub(crate) fn ticket(&self) -> Ticket {
        Ticket {
            peer: self.disk.peer_id(),
            addresses: self.mesh.addresses(),
            mesh_key: self.mesh_key,
        }
    }

    /// Where the mesh port is, as others may `--join` it once they have the mesh key.
    fn multiaddresses(&self) -> Vec<String> {
        let peer = self.disk.peer_id();
        let addresses = self.mesh.addresses();
        addresses.iter().map(|address| format_multiaddr(*address, Some(&peer))).collect()
    }

    fn announce(&self, record: &SealedRecord) {
        let record = record.record();
        if record.execution.is_shared() {
            self.mesh.announce(vec![Held { key: record.key, hlc: record.hlc }]);
        }
    }

    /// Gets the record of a key, and then all that it names, from the peers that hold it.
    async fn ask_holders(
        &self,
        key: &ActionKey,
    ) -> Result<Option<(SealedRecord, Hit)>, CacheError> {
        for candidate in self.view.holders(key).iter().take(MAX_ASKED) {
            let answer = self.endpoint.records(&holder(candidate), &[*key]).await;
            // One that failed may still have the record, once it has rested.
            let Some(mut records) = self.judge(candidate, answer) else { continue };
            let Some(record) = records.pop().flatten() else {
                self.view.missing(&candidate.peer, key);
                continue;
            };
            let Some(taken) = self.complete(&record).await? else { continue };
            self.disk.store().put_record(&record).map_err(failed)?;
            self.announce(&record);
            let hit = Hit {
                record: record.record().clone(),
                source: source(candidate),
                bytes: taken.bytes,
            };
            return Ok(Some((record, hit)));
        }
        Ok(None)
    }

    /// Gets what a record names and this disk lacks. `None` when something cannot be had.
    async fn complete(&self, record: &SealedRecord) -> Result<Option<Taken>, CacheError> {
        let mut taken = Taken::default();
        for _ in 0..MAX_ROUNDS {
            let lacking = self.disk.lacking(record.record())?;
            if lacking.blobs.is_empty() && !lacking.listings {
                return Ok(Some(taken));
            }
            let candidates = self.view.everybody(Some(&record.record().key));
            if !self.take(&lacking.blobs, &candidates, &mut taken).await?.is_empty() {
                return Ok(None);
            }
        }
        let lacking = self.disk.lacking(record.record())?;
        Ok((lacking.blobs.is_empty() && !lacking.listings).then_some(taken))
    }

    /// Brings blobs here from the first candidates that have them; returns what is still missing.
    async fn take(
        &self,
        blobs: &[Digest],
        candidates: &[Candidate],
        taken: &mut Taken,
    ) -> Result<Vec<Digest>, CacheError> {
        let mut missing = blobs.to_vec();
        for candidate in candidates.iter().take(MAX_ASKED) {
            if missing.is_empty() {
                break;
            }
            let before = taken.bytes;
            missing = self.take_from(&missing, candidate, taken).await?;
            if taken.bytes > before {
                taken.from = Some(candidate.clone());
                let (peer, region) = (candidate.peer.short(), &candidate.region);
                let bytes = taken.bytes - before;
                tracing::debug!(%peer, region, bytes, reason = %candidate.reason, "fetched");
            }
        }
        Ok(missing)
    }

    /// Asks one candidate for blobs, until it fails; returns what is missing then.
    async fn take_from(
        &self,
        blobs: &[Digest],
        candidate: &Candidate,
        taken: &mut Taken,
    ) -> Result<Vec<Digest>, CacheError> {
        let (small, large): (Vec<_>, Vec<_>) =
            blobs.iter().partition(|blob| blob.size <= MAX_CHUNK as u64);
        let (mut missing, mut health) = self.take_small(small, candidate, taken).await?;
        let mut manifests = Vec::new();
        if health == Health::Answers && !large.is_empty() {
            let answer = self.endpoint.manifests(&holder(candidate), &large).await;
            manifests = self.judge(candidate, answer).unwrap_or_default();
        }
        for (index, blob) in large.into_iter().enumerate() {
            let whole = match manifests.get(index).and_then(Option::as_ref) {
                Some(manifest) if health == Health::Answers => {
                    let whole;
                    (whole, health) = self.take_large(manifest, candidate, taken).await?;
                    whole
                }
                _ => false,
            };
            if !whole {
                missing.push(blob);
            }
        }
        Ok(missing)
    }

    /// Blobs of one chunk each, all in one request; returns what is missing.
    async fn take_small(
        &self,
        blobs: Vec<Digest>,
        candidate: &Candidate,
        taken: &mut Taken,
    ) -> Result<(Vec<Digest>, Health), CacheError> {
        let store = self.disk.store();
        let (empty, blobs): (Vec<_>, Vec<_>) = blobs.into_iter().partition(|blob| blob.size == 0);
        let mut missing = Vec::new();
        for blob in empty {
            match store.put_blob(&blob, &mut [].as_slice()) {
                Ok(()) => {}
                // A hash that is not that of nothing: there is no such blob.
                Err(StoreError::Mismatch(_)) => missing.push(blob),
                Err(error) => return Err(failed(error)),
            }
        }
        if blobs.is_empty() {
            return Ok((missing, Health::Answers));
        }
        let chunks: Vec<Chunk> =
            blobs.iter().map(|blob| Chunk { hash: blob.hash, len: blob.size as u32 }).collect();
        let mut arrived = vec![false; blobs.len()];
        let mut error = None;
        let deliver = |index: usize, bytes: Bytes| {
            taken.bytes += bytes.len() as u64;
            let flow = match store.put_blob(&blobs[index], &mut bytes.as_ref()) {
                Ok(()) => {
                    arrived[index] = true;
                    ControlFlow::Continue(())
                }
                Err(failure) => {
                    error = Some(failure);
                    ControlFlow::Break(())
                }
            };
            std::future::ready(flow)
        };
        let answer = self.endpoint.chunks(&holder(candidate), &chunks, deliver).await;
        let report = self.judge(candidate, answer);
        if let Some(error) = error {
            return Err(failed(error));
        }
        let absent = blobs.iter().zip(arrived).filter(|(_, arrived)| !arrived);
        missing.extend(absent.map(|(blob, _)| *blob));
        Ok((missing, Health::of(&report)))
    }

    /// A blob of many chunks; those that are in other blobs here are not asked for. Says whether
    /// the blob is here now.
    async fn take_large(
        &self,
        manifest: &Manifest,
        candidate: &Candidate,
        taken: &mut Taken,
    ) -> Result<(bool, Health), CacheError> {
        let store = self.disk.store();
        let mut partial = store.begin_blob(manifest).map_err(failed)?;
        let mut wanted = Vec::new();
        for (index, chunk) in manifest.chunks().iter().enumerate() {
            match store.chunk(chunk).map_err(failed)? {
                Some(bytes) => partial.write_chunk(index, &bytes).map_err(failed)?,
                None => wanted.push(index),
            }
        }
        let chunks: Vec<Chunk> = wanted.iter().map(|index| manifest.chunks()[*index]).collect();
        let mut error = None;
        let deliver = |index: usize, bytes: Bytes| {
            taken.bytes += bytes.len() as u64;
            let flow = match partial.write_chunk(wanted[index], &bytes) {
                Ok(()) => ControlFlow::Continue(()),
                Err(failure) => {
                    error = Some(failure);
                    ControlFlow::Break(())
                }
            };
            std::future::ready(flow)
        };
        let answer = self.endpoint.chunks(&holder(candidate), &chunks, deliver).await;
        let report = self.judge(candidate, answer);
        if let Some(error) = error {
            return Err(failed(error));
        }
        match report {
            Some(report) if report.missing.is_empty() => self.finish(partial, candidate),
            report => Ok((false, Health::of(&report))),
        }
    }

    fn finish(
        &self,
        partial: Box<dyn PartialBlob>,
        candidate: &Candidate,
    ) -> Result<(bool, Health), CacheError> {
        match partial.finish() {
            Ok(()) => Ok((true, Health::Answers)),
            // Every chunk was right, so the manifest was not.
            Err(error @ StoreError::Mismatch(_)) => {
                tracing::warn!(peer = %candidate.peer, %error, "a peer told a wrong manifest");
                self.view.failure(&candidate.peer);
                Ok((false, Health::Fails))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Remembers how a peer did; `None` when it failed.
    fn judge<T>(&self, candidate: &Candidate, answer: Result<T, FetchError>) -> Option<T> {
        match answer {
            Ok(answer) => {
                self.view.success(&candidate.peer, self.endpoint.rtt(&candidate.peer));
                Some(answer)
            }
            Err(error) => {
                tracing::warn!(region = %candidate.region, "{error}; going on without it");
                self.view.failure(&candidate.peer);
                None
            }
        }
    }
}

impl Cache for MeshCache {
    fn lookup(&self, key: &ActionKey) -> Result<Option<Hit>, CacheError> {
        Ok(self.lookup_sealed(key)?.map(|(_, hit)| hit))
    }

    fn fetch(&self, blob: &Digest) -> Result<Option<Fetched>, CacheError> {
        if let Some(fetched) = self.disk.fetch(blob)? {
            return Ok(Some(fetched));
        }
        let candidates = self.view.everybody(None);
        let mut taken = Taken::default();
        let missing = self.wait(self.take(&[*blob], &candidates, &mut taken))?;
        if !missing.is_empty() {
            return Ok(None);
        }
        let source = taken.from.as_ref().map_or(Source::Disk, source);
        Ok(Some(Fetched { source, bytes: taken.bytes }))
    }

    fn open(&self, blob: &Digest) -> Result<Option<Box<dyn Read + Send>>, CacheError> {
        self.disk.open(blob)
    }

    fn put_blob(&self, blob: &Digest, content: Content<'_>) -> Result<(), CacheError> {
        self.disk.put_blob(blob, content)
    }

    fn put_record(&self, record: NewRecord) -> Result<(), CacheError> {
        let record = self.disk.record(record)?;
        self.announce(&record);
        Ok(())
    }

    fn flush(&self) -> Result<(), CacheError> {
        self.disk.flush()?;
        self.wait(async {
            self.mesh.flush().await;
            Ok(())
        })
    }
}

impl Door for MeshCache {
    fn lookup_sealed(&self, key: &ActionKey) -> Result<Option<(SealedRecord, Hit)>, CacheError> {
        if let Some(found) = self.disk.lookup_sealed(key)? {
            return Ok(Some(found));
        }
        // A record that is here without all its blobs can be made whole again.
        if let Some(record) = self.disk.store().record(key).map_err(failed)?
            && let Some(taken) = self.wait(self.complete(&record))?
        {
            let hit = Hit {
                record: record.record().clone(),
                source: taken.from.as_ref().map_or(Source::Disk, source),
                bytes: taken.bytes,
            };
            return Ok(Some((record, hit)));
        }
        self.wait(self.ask_holders(key))
    }

    fn status(&self) -> Status {
        let (mesh, data) = (self.mesh.counters(), self.endpoint.counters());
        let counters = [
            ("data_bytes_fetched", data.bytes_fetched),
            ("data_bytes_served", data.bytes_served),
            ("data_connections_refused", data.connections_refused),
            ("data_requests_made", data.requests_made),
            ("data_requests_refused", data.requests_refused),
            ("data_requests_served", data.requests_served),
            ("mesh_dropped_announcements", mesh.dropped_announcements),
            ("mesh_members", mesh.members),
            ("mesh_published", mesh.published),
            ("mesh_refused_admissions", mesh.refused_admissions),
            ("mesh_refused_by_others", mesh.refused_by_others),
            ("mesh_refused_connections", mesh.refused_connections),
            ("mesh_rejected_gossip", mesh.rejected_gossip),
            ("mesh_rejected_messages", mesh.rejected_messages),
        ];
        Status {
            mesh_addresses: self.multiaddresses(),
            data_address: self.endpoint.local_addr().to_string(),
            ticket: self.ticket().to_string(),
            members: self.view.members(),
            counters: counters.map(|(name, count)| (name.to_owned(), count)).to_vec(),
            ..self.disk.status()
        }
    }
}

/// What an agent hands out: what its store has, of records only those that others may hear of.
#[derive(Debug)]
pub(crate) struct Shelf(pub(crate) Arc<DiskCache>);

impl Shelf {
    /// A failing store has nothing to hand out.
    fn said<T>(result: Result<Option<T>, impl std::error::Error + 'static>) -> Option<T> {
        result.unwrap_or_else(|error| {
            tracing::warn!(error = chain(&error), "cannot serve a peer");
            None
        })
    }
}

impl Provide for Shelf {
    fn record(&self, key: &ActionKey) -> Option<Vec<u8>> {
        let record = Self::said(self.0.complete(key))?;
        record.record().execution.is_shared().then(|| record.as_bytes().to_vec())
    }

    fn manifest(&self, blob: &Digest) -> Option<Manifest> {
        Self::said(self.0.store().manifest(blob))
    }

    fn chunk(&self, chunk: &Chunk) -> Option<Vec<u8>> {
        Self::said(self.0.store().chunk(chunk))
    }
}

impl Catalog for Shelf {
    fn held_after(&self, after: Option<&ActionKey>, limit: usize) -> Vec<Held> {
        let mut after = after.copied();
        let mut held = Vec::new();
        loop {
            let page = self.0.store().records_after(after.as_ref(), PAGE);
            let page = Self::said(page.map(Some)).unwrap_or_default();
            let Some(last) = page.last() else { return held };
            after = Some(last.key);
            let shared = page.iter().filter(|head| head.shared);
            held.extend(shared.map(|head| Held { key: head.key, hlc: head.hlc }));
            if held.len() >= limit {
                held.truncate(limit);
                return held;
            }
        }
    }
}
