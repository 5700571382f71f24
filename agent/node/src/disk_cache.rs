//! The cache of one data directory: what its store holds, and nothing from farther away.

use crate::chain::chain;
use netbuild_core::{
    cache::{Cache, CacheError, Content, Fetched, Hit, NewRecord, Source},
    digest::Digest,
    hlc::Hlc,
    key::ActionKey,
    peer::{Identity, PeerId},
    record::{OutputKind, Record},
    tree::Entry,
};
use netbuild_gateway::Door;
use netbuild_proto::{
    control::{Status, StoreStatus},
    listing::{self, MAX_LISTING},
    record::SealedRecord,
};
use netbuild_store::{Store, StoreError};
use std::{
    collections::BTreeSet,
    fs::File,
    io::Read,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

/// A store with the identity that signs what is put into it.
#[derive(Debug)]
pub struct DiskCache {
    store: Arc<dyn Store>,
    identity: Identity,
    region: String,
    role: &'static str,
    clock: Mutex<Hlc>,
}

/// What a record needs that is not on this disk.
#[derive(Debug, Default)]
pub(crate) struct Lacking {
    /// Blobs that are missing.
    pub(crate) blobs: Vec<Digest>,
    /// Whether a listing is among them, which may name more.
    pub(crate) listings: bool,
}

impl DiskCache {
    /// A cache that signs as `identity` and says that it is in `region`, which may be empty.
    pub fn new(
        store: Arc<dyn Store>,
        identity: Identity,
        region: String,
        role: &'static str,
    ) -> Self {
        Self { store, identity, region, role, clock: Mutex::default() }
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    pub(crate) fn peer_id(&self) -> PeerId {
        self.identity.peer_id()
    }

    /// What is missing here of all that a record names, directly and through its listings.
    pub(crate) fn lacking(&self, record: &Record) -> Result<Lacking, CacheError> {
        let mut wanted: BTreeSet<Digest> = record.blobs().collect();
        let mut lacking = Lacking::default();
        for output in &record.result.outputs {
            let (OutputKind::Tree { listing } | OutputKind::Files { listing }) = &output.kind
            else {
                continue;
            };
            match self.listing(listing)? {
                Some(entries) => {
                    wanted.extend(entries.iter().filter_map(|(_, entry)| match entry {
                        Entry::File { digest, .. } => Some(*digest),
                        _ => None,
                    }))
                }
                None => lacking.listings = true,
            }
        }
        for blob in wanted {
            if !self.store.has_blob(&blob).map_err(failed)? {
                lacking.blobs.push(blob);
            }
        }
        Ok(lacking)
    }

    /// Reads a listing; `None` when it is not here whole.
    fn listing(&self, blob: &Digest) -> Result<Option<Vec<(Vec<u8>, Entry)>>, CacheError> {
        if blob.size > MAX_LISTING as u64 {
            return Err(CacheError::Failed(format!("listing {blob} is too large")));
        }
        let Some(mut reader) = self.store.open_blob(blob).map_err(failed)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        if reader.read_to_end(&mut bytes).is_err() {
            return Ok(None);
        }
        let entries = listing::decode(&bytes)
            .map_err(|error| CacheError::Failed(format!("listing {blob}: {error}")))?;
        Ok(Some(entries))
    }

    /// The record of a key, if it is here with all that it names.
    pub(crate) fn complete(&self, key: &ActionKey) -> Result<Option<SealedRecord>, CacheError> {
        let Some(record) = self.store.record(key).map_err(failed)? else { return Ok(None) };
        let lacking = self.lacking(record.record())?;
        Ok((lacking.blobs.is_empty() && !lacking.listings).then_some(record))
    }

    /// Signs and keeps a result.
    pub(crate) fn record(&self, new: NewRecord) -> Result<SealedRecord, CacheError> {
        let earlier = self.store.record(&new.key).map_err(failed)?;
        let record = Record {
            key: new.key,
            result: new.result,
            execution: new.execution,
            writer: self.identity.peer_id(),
            region: self.region.clone(),
            hlc: self.tick(earlier.map(|record| record.record().hlc)),
        };
        let sealed = SealedRecord::seal(record, &self.identity)
            .map_err(|error| CacheError::Failed(error.to_string()))?;
        self.store.put_record(&sealed).map_err(failed)?;
        Ok(sealed)
    }

    /// The next stamp, after every one given before and after `seen`.
    fn tick(&self, seen: Option<Hlc>) -> Hlc {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = seen {
            *clock = clock.observe(seen, wall_ms);
        }
        *clock = clock.tick(wall_ms);
        *clock
    }
}

/// A failure of the store as the cache reports it.
pub(crate) fn failed(error: StoreError) -> CacheError {
    CacheError::Failed(chain(&error))
}

impl Cache for DiskCache {
    fn lookup(&self, key: &ActionKey) -> Result<Option<Hit>, CacheError> {
        Ok(self.lookup_sealed(key)?.map(|(_, hit)| hit))
    }

    fn fetch(&self, blob: &Digest) -> Result<Option<Fetched>, CacheError> {
        let here = self.store.has_blob(blob).map_err(failed)?;
        Ok(here.then_some(Fetched { source: Source::Disk, bytes: 0 }))
    }

    fn open(&self, blob: &Digest) -> Result<Option<Box<dyn Read + Send>>, CacheError> {
        self.store.open_blob(blob).map_err(failed)
    }

    fn put_blob(&self, blob: &Digest, content: Content<'_>) -> Result<(), CacheError> {
        match content {
            Content::Bytes(mut bytes) => self.store.put_blob(blob, &mut bytes),
            Content::Reader(reader) => self.store.put_blob(blob, reader),
            Content::File(path) => {
                let mut file = File::open(path).map_err(|error| {
                    CacheError::Failed(format!("cannot read `{}`: {error}", path.display()))
                })?;
                self.store.put_blob(blob, &mut file)
            }
        }
        .map_err(failed)
    }

    fn put_record(&self, record: NewRecord) -> Result<(), CacheError> {
        self.record(record).map(drop)
    }

    fn flush(&self) -> Result<(), CacheError> {
        self.store.flush().map_err(failed)
    }
}

impl Door for DiskCache {
    fn lookup_sealed(&self, key: &ActionKey) -> Result<Option<(SealedRecord, Hit)>, CacheError> {
        Ok(self.complete(key)?.map(|sealed| {
            let hit = Hit { record: sealed.record().clone(), source: Source::Disk, bytes: 0 };
            (sealed, hit)
        }))
    }

    fn status(&self) -> Status {
        let stats = self.store.stats();
        Status {
            role: self.role.into(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            region: self.region.clone(),
            peer: self.peer_id().to_string(),
            store: StoreStatus {
                blobs: stats.blobs,
                blob_bytes: stats.blob_bytes,
                records: stats.records,
                quarantined: stats.quarantined,
            },
            ..Status::default()
        }
    }
}
