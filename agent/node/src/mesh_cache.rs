//! The cache of an agent: its own disk first, then the other agents.
//!
//! What it keeps and gets is that of [`FarCache`]; here is what it knows of the mesh.

use crate::{
    board::board,
    far_cache::FarCache,
    fetcher::{Fetcher, Net},
    metrics::Metrics,
    region::RegionFinder,
    reports,
    scrub::Scrub,
    sync::Syncer,
};
use netbuild_core::{
    cache::{Cache, CacheError, Content, FetchedAll, Hit, NewRecord},
    digest::Digest,
    evict::Pin,
    key::ActionKey,
    moved::Watch,
    record::Record,
    region::Detection,
};
use netbuild_gateway::{Board, Door, HttpCounts, OnProgress, OnStep, OnVerify, Window};
use netbuild_mesh::format_multiaddr;
use netbuild_proto::{
    control::{
        ConflictRow, Decision, GcOrder, GcReport, LinkRow, MonitorSnapshot, PinRow, PlanReport,
        SpaceReport, Status, SyncOrder, SyncReport, VerifyOrder, VerifyReport,
    },
    record::SealedRecord,
    ticket::{MeshKey, Ticket},
};
use std::{
    io::Read,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

/// The cache of an agent. Its calls block, and must not come from a thread of the runtime.
#[derive(Debug)]
pub(crate) struct MeshCache {
    pub(crate) far: FarCache,
    pub(crate) net: Net,
    pub(crate) syncer: Arc<Syncer>,
    pub(crate) finder: RegionFinder,
    pub(crate) scrub: Arc<Scrub>,
    pub(crate) mesh_key: MeshKey,
    pub(crate) started: Instant,
    pub(crate) metrics: Metrics,
    /// Where the page is, once it is anywhere.
    pub(crate) page: OnceLock<String>,
}

impl MeshCache {
    /// Asks nobody any more; what is under way fails at once.
    pub(crate) fn stop(&self) {
        self.far.stop.cancel();
        self.fetcher().view.stop();
    }

    fn fetcher(&self) -> &Fetcher {
        &self.far.fetcher
    }

    pub(crate) fn ticket(&self) -> Ticket {
        Ticket {
            peer: self.far.disk().peer_id(),
            addresses: self.net.mesh.addresses(),
            mesh_key: self.mesh_key,
        }
    }

    /// Where the mesh port is, as others may `--join` it once they have the mesh key.
    fn multiaddresses(&self) -> Vec<String> {
        let peer = self.far.disk().peer_id();
        let addresses = self.net.mesh.addresses();
        addresses.iter().map(|address| format_multiaddr(*address, Some(&peer))).collect()
    }
}

impl Window for MeshCache {
    fn is_serving(&self) -> bool {
        !self.far.stop.is_cancelled()
    }

    fn metrics(&self, door: &HttpCounts) -> String {
        self.metrics.text(self, door)
    }

    fn board(&self) -> Board {
        board(self, self.metrics.guests())
    }
}

impl Cache for MeshCache {
    fn lookup(&self, key: &ActionKey, watch: &dyn Watch) -> Result<Option<Hit>, CacheError> {
        self.far.lookup(key, watch)
    }

    fn peek(&self, key: &ActionKey) -> Result<Option<Record>, CacheError> {
        self.far.peek(key)
    }

    fn bring(&self, keys: &[ActionKey], watch: &dyn Watch) -> Result<(), CacheError> {
        self.scrub.make_way();
        self.far.bring(keys, watch)
    }

    fn fetch_all(&self, blobs: &[Digest], watch: &dyn Watch) -> Result<FetchedAll, CacheError> {
        self.scrub.make_way();
        self.far.fetch_all(blobs, watch)
    }

    fn open(&self, blob: &Digest) -> Result<Option<Box<dyn Read + Send>>, CacheError> {
        self.scrub.make_way();
        self.far.open(blob)
    }

    fn put_blob(&self, blob: &Digest, content: Content<'_>) -> Result<(), CacheError> {
        self.scrub.make_way();
        self.far.put_blob(blob, content)
    }

    fn put_record(&self, record: NewRecord) -> Result<(), CacheError> {
        self.far.put_record(record)
    }

    fn flush(&self) -> Result<(), CacheError> {
        self.far.flush()
    }
}

impl Door for MeshCache {
    fn lookup_sealed(
        &self,
        key: &ActionKey,
        watch: &dyn Watch,
    ) -> Result<Option<(SealedRecord, Hit)>, CacheError> {
        self.scrub.make_way();
        self.far.lookup_sealed(key, watch)
    }

    fn peek_sealed(&self, key: &ActionKey) -> Result<Option<SealedRecord>, CacheError> {
        self.far.peek_sealed(key)
    }

    fn drain(&self, timeout: Duration) -> Result<(), CacheError> {
        self.far.drain(timeout)
    }

    fn share(&self, blob: &Digest) -> Result<(), CacheError> {
        self.far.share(blob)
    }

    fn keep(&self, connection: u64, record: &Record) {
        self.far.keep(connection, record);
    }

    fn leave(&self, connection: u64) {
        self.far.leave(connection);
    }

    fn space(&self, tell: OnStep<'_>) -> Result<SpaceReport, CacheError> {
        self.far.disk().space(tell)
    }

    fn gc(&self, order: &GcOrder, tell: OnStep<'_>) -> Result<GcReport, CacheError> {
        self.far.disk().gc(order, tell)
    }

    fn pin(&self, pin: Pin, label: &str) -> Result<bool, CacheError> {
        self.far.disk().pin(pin, label)
    }

    fn unpin(&self, pin: &Pin) -> Result<bool, CacheError> {
        self.far.disk().unpin(pin)
    }

    fn pins(&self) -> Result<Vec<PinRow>, CacheError> {
        self.far.disk().pins()
    }

    fn status(&self) -> Status {
        let detection = self.finder.detection();
        let (primary, order) = self.fetcher().view.peers(|peers, _| {
            (peers.order().primary().map(str::to_owned), peers.order().regions().to_vec())
        });
        let mut status = self.far.status();
        status.store.scrub = self.scrub.status(status.store.blob_bytes);
        Status {
            uptime_s: self.started.elapsed().as_secs_f64(),
            region_source: match &detection {
                Detection::Region { evidence, .. } => evidence.to_string(),
                Detection::Perhaps { .. } | Detection::Unknown => detection.to_string(),
            },
            detected_region: self.fetcher().view.detect(None).region().map(str::to_owned),
            primary,
            order,
            mesh_addresses: self.multiaddresses(),
            data_address: self.net.endpoint.local_addr().to_string(),
            ticket: self.ticket().to_string(),
            page: self.page.get().cloned(),
            members: reports::members(&self.fetcher().view),
            counters: reports::counters(self.fetcher(), &self.net, &self.syncer),
            ..status
        }
    }

    fn links(&self) -> Result<Vec<LinkRow>, CacheError> {
        Ok(reports::links(self.fetcher()))
    }

    fn plan(&self, blob: &Digest) -> Result<PlanReport, CacheError> {
        self.far.plan(blob)
    }

    fn decisions(&self, about: Option<&str>, limit: u32) -> Result<Vec<Decision>, CacheError> {
        self.far.decisions(about, limit)
    }

    fn conflicts(&self) -> Result<Vec<ConflictRow>, CacheError> {
        reports::conflicts(self.far.disk(), reports::MAX_CONFLICTS)
    }

    fn sync(&self, order: &SyncOrder, progress: OnProgress<'_>) -> Result<SyncReport, CacheError> {
        self.far.wait(self.syncer.order(order, progress))
    }

    fn verify(
        &self,
        order: &VerifyOrder,
        progress: OnVerify<'_>,
    ) -> Result<VerifyReport, CacheError> {
        self.far.verify(order, progress)
    }

    fn monitor(&self) -> Result<MonitorSnapshot, CacheError> {
        Ok(reports::monitor(self.fetcher()))
    }
}
