//! What an agent hands out: what its store has, of records only those that others may hear of.

use crate::{
    bases::Bases,
    chain::chain,
    disk_cache::DiskCache,
    fetcher::{Fetcher, Scope, Taken, Want},
    scrub::Scrub,
};
use bytes::Bytes;
use netbuild_core::{
    chunk::{Chunk, Manifest},
    digest::Digest,
    key::ActionKey,
    peer::PeerId,
};
use netbuild_proto::{data::Priority, parts::Parts};
use netbuild_transfer::Provide;
use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock, Weak},
};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// The providing side of the data plane.
#[derive(Debug)]
pub(crate) struct Shelf {
    disk: Arc<DiskCache>,
    scrub: Arc<Scrub>,
    runtime: Handle,
    stop: CancellationToken,
    /// Set once the agent is assembled; until then nothing is brought for others.
    fetcher: OnceLock<Weak<Fetcher>>,
}

impl Shelf {
    pub(crate) fn new(disk: Arc<DiskCache>, scrub: Arc<Scrub>, stop: CancellationToken) -> Self {
        Self { disk, scrub, runtime: Handle::current(), stop, fetcher: OnceLock::new() }
    }

    /// From now on, it also brings what others of the region ask for.
    pub(crate) fn bring_with(&self, fetcher: &Arc<Fetcher>) {
        // Set a second time, the first stays: there is one fetcher for each shelf.
        let _ = self.fetcher.set(Arc::downgrade(fetcher));
    }

    /// A failing store has nothing to hand out.
    fn said<T>(result: Result<Option<T>, impl std::error::Error + 'static>) -> Option<T> {
        result.unwrap_or_else(|error| {
            tracing::warn!(error = chain(&error), "cannot serve a peer");
            None
        })
    }

    fn has_blob(&self, blob: &Digest) -> bool {
        Self::said(self.disk.store().has_blob(blob).map(Some)).unwrap_or(false)
    }
}

impl Provide for Shelf {
    fn record(&self, key: &ActionKey) -> Option<Vec<u8>> {
        let record = Self::said(self.disk.store().record(key))?;
        record.record().execution.is_shared().then(|| record.as_bytes().to_vec())
    }

    fn manifest(&self, blob: &Digest) -> Option<Manifest> {
        let store = self.disk.store();
        Self::said(store.manifest(blob)).or_else(|| Some(store.arriving(blob)?.0))
    }

    fn parts(&self, blob: &Digest) -> Parts {
        if self.has_blob(blob) {
            return Parts::Whole;
        }
        self.disk.store().arriving(blob).map_or(Parts::None, |(manifest, has)| Parts::Arriving {
            list: manifest.list_id(),
            has,
        })
    }

    fn doubt(&self, from_peer: &PeerId, chunk: &Chunk) -> bool {
        let store = self.disk.store();
        store.doubt(&Digest { hash: chunk.hash, size: chunk.len.into() });
        let here = self.chunk(chunk).is_some();
        let (peer, chunk) = (from_peer.short(), chunk.hash.short());
        tracing::warn!(peer, chunk, here, "a peer got wrong bytes of a chunk; it was checked anew");
        here
    }

    fn chunk(&self, chunk: &Chunk) -> Option<Vec<u8>> {
        self.scrub.make_way();
        Self::said(self.disk.store().chunk(chunk))
    }

    fn sketch(&self, blob: &Digest) -> Option<Vec<u8>> {
        Self::said(self.disk.store().sketch(blob)).map(|sketch| sketch.to_bytes().to_vec())
    }

    fn blob(&self, blob: &Digest, limit: u64) -> Option<Bytes> {
        self.scrub.make_way();
        Self::said(self.disk.store().blob_bytes(blob, limit)).map(Bytes::from)
    }

    fn has(&self, blob: &Digest) -> bool {
        self.has_blob(blob)
    }

    /// Fetches for another agent of this region, from other regions only: asked in a circle, the
    /// agents of a region would wait for one another.
    fn bring(&self, for_peer: &PeerId, blobs: &[Digest]) -> Vec<bool> {
        let lacking: Vec<Digest> =
            blobs.iter().filter(|blob| !self.has_blob(blob)).copied().collect();
        let fetcher = self.fetcher.get().and_then(Weak::upgrade);
        if let Some(fetcher) = fetcher.filter(|_| !lacking.is_empty()) {
            let want = Want {
                what: format!("for peer {}", for_peer.short()),
                blobs: &lacking,
                bases: &Bases::new(),
                holders: BTreeSet::new(),
                build_ms: None,
                scope: Scope::Abroad,
                rounds: 1,
                priority: Priority::Normal,
                alike: fetcher.delta,
                watch: &(),
                landed: &|_, _, _| (),
                course: &(),
            };
            let mut taken = Taken::default();
            let fetching = self.stop.run_until_cancelled(fetcher.blobs(&want, &mut taken));
            match self.runtime.block_on(fetching) {
                Some(Ok(_)) | None => {}
                Some(Err(error)) => tracing::warn!(%error, "cannot bring what a peer asks for"),
            }
        }
        blobs.iter().map(|blob| self.has_blob(blob)).collect()
    }
}
