//! The cache of one data directory: what its store holds, and nothing from farther away.

use crate::{chain::chain, config::StoreSettings, decisions::wall_ms, room::Room, verify::verify};
use netbuild_core::{
    cache::{Cache, CacheError, Content, Fetched, FetchedAll, Hit, NewRecord, Source},
    digest::Digest,
    evict::Pin,
    hlc::Hlc,
    key::ActionKey,
    merge::{Level, Trust},
    moved::{Movement, Watch},
    peer::{Identity, PeerId},
    record::Record,
    tree::Entry,
};
use netbuild_gateway::{Door, OnStep, OnVerify};
use netbuild_proto::{
    control::{
        GcOrder, GcReport, PinRow, SpaceReport, Status, StoreStatus, VerifyOrder, VerifyReport,
    },
    listing::{self, MAX_LISTING},
    record::SealedRecord,
};
use netbuild_store::{Kept, Store, StoreError};
use std::{
    collections::BTreeSet,
    fs::File,
    io::Read,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// How far ahead of this agent's clock a record of another agent may be stamped, in milliseconds: a
/// week. Clocks are off by hours or by years; a stamp from the far future would win for ever.
const MAX_AHEAD_MS: u64 = 7 * 24 * 3_600_000;
/// Stamped so far ahead, in milliseconds, a record says that a clock is wrong: its writer's or this one.
const SKEWED_MS: u64 = 60_000;

/// Under which this process itself is promised things: connections have greater numbers.
const OWN: u64 = 0;

/// Files with their paths.
type Files = Vec<(Vec<u8>, Digest)>;

/// A store with the identity that signs what is put into it.
#[derive(Debug)]
pub struct DiskCache {
    store: Arc<dyn Store>,
    identity: Identity,
    /// It may be found out while the agent runs.
    region: Mutex<String>,
    trust: Trust,
    role: &'static str,
    clock: Mutex<Hlc>,
    records_ahead: AtomicU64,
    room: Room,
}

/// What a record needs that is not on this disk.
#[derive(Debug, Default)]
pub(crate) struct Lacking {
    /// Blobs that are missing.
    pub(crate) blobs: Vec<Digest>,
    /// Whether a listing is among them, which may name more.
    pub(crate) listings: bool,
}

impl Lacking {
    /// Whether everything is here.
    pub(crate) fn is_empty(&self) -> bool {
        self.blobs.is_empty() && !self.listings
    }
}

impl DiskCache {
    /// A cache that signs as `identity`, says that it is in `region`, which may be empty, and keeps
    /// records by what `trust` says of their writers.
    pub fn new(
        store: Arc<dyn Store>,
        identity: Identity,
        region: String,
        trust: Trust,
        role: &'static str,
    ) -> Self {
        let (region, clock) = (Mutex::new(region), Mutex::default());
        let room = Room::new(Arc::clone(&store), StoreSettings::default());
        let records_ahead = AtomicU64::new(0);
        Self { store, identity, region, trust, role, clock, records_ahead, room }
    }

    /// The same with bounds to what it takes.
    pub fn with_bounds(self, settings: StoreSettings) -> Self {
        Self { room: Room::new(Arc::clone(&self.store), settings), ..self }
    }

    /// The space of the data directory.
    pub(crate) fn room(&self) -> &Room {
        &self.room
    }

    /// All that a record names, directly and through its listings; of a listing that is not here,
    /// only itself, and whether there is one.
    fn named(&self, record: &Record) -> Result<(BTreeSet<Digest>, bool), CacheError> {
        let mut named: BTreeSet<Digest> = record.blobs().collect();
        let mut unknown = false;
        for listing in record.listings() {
            match self.files(&listing)? {
                Some(files) => named.extend(files.into_iter().map(|(_, file)| file)),
                None => unknown = true,
            }
        }
        Ok((named, unknown))
    }

    /// The region of this agent; empty for none.
    pub(crate) fn region(&self) -> String {
        self.region.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on, this agent is in `region`.
    pub(crate) fn set_region(&self, region: String) {
        *self.region.lock().unwrap_or_else(PoisonError::into_inner) = region;
    }

    /// How far a writer is trusted.
    pub(crate) fn trust(&self, writer: &PeerId) -> Level {
        self.trust.level(writer)
    }

    /// Keeps a record of another agent, unless the one that is here stays.
    pub(crate) fn keep(&self, record: &SealedRecord) -> Result<Kept, CacheError> {
        let ahead = record.record().hlc.millis().saturating_sub(wall_ms());
        if ahead > SKEWED_MS {
            self.records_ahead.fetch_add(1, Ordering::Relaxed);
        }
        if ahead > MAX_AHEAD_MS {
            return Ok(Kept::Refused);
        }
        self.store.put_record(record, &self.trust).map_err(failed)
    }

    /// How many records of others came that were stamped more than a minute ahead of this clock.
    pub(crate) fn records_ahead(&self) -> u64 {
        self.records_ahead.load(Ordering::Relaxed)
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    pub(crate) fn peer_id(&self) -> PeerId {
        self.identity.peer_id()
    }

    /// Makes durable what was put.
    pub(crate) fn flush_store(&self) -> Result<(), CacheError> {
        self.store.flush().map_err(failed)
    }

    /// All blobs that a record names, directly and through its listings, if all of them are here.
    pub(crate) fn whole(&self, record: &Record) -> Result<Option<Vec<Digest>>, CacheError> {
        let (blobs, lacks_listings) = self.named(record)?;
        for blob in &blobs {
            if !self.store.has_blob(blob).map_err(failed)? {
                return Ok(None);
            }
        }
        Ok((!lacks_listings).then(|| blobs.into_iter().collect()))
    }

    /// What is missing here of all that a record names, directly and through its listings.
    pub(crate) fn lacking(&self, record: &Record) -> Result<Lacking, CacheError> {
        let (wanted, listings) = self.named(record)?;
        let wanted: Vec<Digest> = wanted.into_iter().collect();
        // What is here stays until whoever asks has been promised it.
        let blobs = self.store.promise(None, &wanted).map_err(failed)?;
        Ok(Lacking { blobs, listings })
    }

    /// The files that a listing names, with their paths; `None` when it is not here whole, or is none
    /// at all, as whoever wrote the record may say what it likes.
    pub(crate) fn files(&self, blob: &Digest) -> Result<Option<Files>, CacheError> {
        if blob.size > MAX_LISTING as u64 {
            tracing::warn!(%blob, "a listing is too large");
            return Ok(None);
        }
        let Some(mut reader) = self.store.open_blob(blob).map_err(failed)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        if reader.read_to_end(&mut bytes).is_err() {
            return Ok(None);
        }
        let entries = match listing::decode(&bytes) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(%blob, %error, "not a listing");
                return Ok(None);
            }
        };
        let file = |(path, entry)| match entry {
            Entry::File { digest, .. } => Some((path, digest)),
            Entry::Symlink { .. } | Entry::Directory => None,
        };
        Ok(Some(entries.into_iter().filter_map(file).collect()))
    }

    /// The record of a key, if it is here and its writer is not refused: it may have been kept when
    /// the configuration was another.
    pub(crate) fn record_of(&self, key: &ActionKey) -> Result<Option<SealedRecord>, CacheError> {
        let record = self.store.record(key).map_err(failed)?;
        Ok(record.filter(|record| self.trust(&record.record().writer) != Level::Refused))
    }

    /// The record of a key, if it is here with all that it names.
    pub(crate) fn complete(&self, key: &ActionKey) -> Result<Option<SealedRecord>, CacheError> {
        let Some(record) = self.record_of(key)? else { return Ok(None) };
        let lacking = self.lacking(record.record())?;
        Ok((lacking.is_empty()).then_some(record))
    }

    /// Another record of a key, which lost against the one that cannot be had whole, and is here
    /// with all that it names. Its writer is trusted as far.
    pub(crate) fn second_best(&self, key: &ActionKey) -> Result<Option<SealedRecord>, CacheError> {
        let Some(conflict) = self.store.conflict(key).map_err(failed)? else { return Ok(None) };
        let level = self.trust(&conflict.kept.record().writer);
        for other in conflict.others {
            if self.trust(&other.record().writer) != level {
                continue;
            }
            let lacking = self.lacking(other.record())?;
            if lacking.is_empty() {
                return Ok(Some(other));
            }
        }
        Ok(None)
    }

    /// Signs and keeps a result.
    pub(crate) fn record(&self, new: NewRecord) -> Result<SealedRecord, CacheError> {
        let earlier = self.store.record(&new.key).map_err(failed)?;
        let record = Record {
            key: new.key,
            result: new.result,
            execution: new.execution,
            writer: self.identity.peer_id(),
            region: self.region(),
            hlc: self.tick(earlier.map(|record| record.record().hlc)),
        };
        let sealed = SealedRecord::seal(record, &self.identity)
            .map_err(|error| CacheError::Failed(error.to_string()))?;
        self.store.put_record(&sealed, &self.trust).map_err(failed)?;
        Ok(sealed)
    }

    /// The next stamp, after every one given before and after `seen`.
    fn tick(&self, seen: Option<Hlc>) -> Hlc {
        let wall_ms = wall_ms();
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = seen {
            *clock = clock.observe(seen, wall_ms);
        }
        *clock = clock.tick(wall_ms);
        match seen {
            // Written by a clock that is absurdly ahead, which must not become this agent's time;
            // but a new result for the same action replaces it all the same.
            Some(seen) if seen >= *clock => seen.tick(wall_ms),
            _ => *clock,
        }
    }
}

/// A record that is here with all that it names, as a hit.
pub(crate) fn from_disk(sealed: SealedRecord) -> (SealedRecord, Hit) {
    let record = sealed.record().clone();
    let hit = Hit { record, source: Source::Disk, bytes: 0, movement: Movement::default() };
    (sealed, hit)
}

/// A failure of the store as the cache reports it.
pub(crate) fn failed(error: StoreError) -> CacheError {
    CacheError::Failed(chain(&error))
}

impl Cache for DiskCache {
    fn lookup(&self, key: &ActionKey, watch: &dyn Watch) -> Result<Option<Hit>, CacheError> {
        let found = self.lookup_sealed(key, watch)?;
        if let Some((record, _)) = &found {
            Door::keep(self, OWN, record.record());
        }
        Ok(found.map(|(_, hit)| hit))
    }

    fn peek(&self, key: &ActionKey) -> Result<Option<Record>, CacheError> {
        Ok(self.record_of(key)?.map(|sealed| sealed.record().clone()))
    }

    fn fetch_all(&self, blobs: &[Digest], _: &dyn Watch) -> Result<FetchedAll, CacheError> {
        let missing = self.store.promise(None, blobs).map_err(failed)?;
        let movement = Movement::default();
        let fetched = Fetched { source: Source::Disk, movement, seconds: 0.0 };
        Ok(FetchedAll { missing, fetched })
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
        self.flush_store()
    }
}

impl Door for DiskCache {
    fn lookup_sealed(
        &self,
        key: &ActionKey,
        _: &dyn Watch,
    ) -> Result<Option<(SealedRecord, Hit)>, CacheError> {
        let found = match self.complete(key)? {
            Some(sealed) => Some(sealed),
            None => self.second_best(key)?,
        };
        Ok(found.map(from_disk))
    }

    fn peek_sealed(&self, key: &ActionKey) -> Result<Option<SealedRecord>, CacheError> {
        self.record_of(key)
    }

    /// Without others nothing that was lost comes back.
    fn verify(
        &self,
        order: &VerifyOrder,
        progress: OnVerify<'_>,
    ) -> Result<VerifyReport, CacheError> {
        verify(self.store.as_ref(), order, progress, &|lost| Ok(vec![false; lost.len()]))
    }

    fn keep(&self, connection: u64, record: &Record) {
        let promised = self.named(record).and_then(|(named, _)| {
            let named: Vec<Digest> = named.into_iter().collect();
            self.store.promise(Some(connection), &named).map_err(failed)
        });
        if let Err(error) = promised {
            tracing::debug!(%error, "a build was not promised what it found");
        }
    }

    fn leave(&self, connection: u64) {
        self.store.release(connection);
    }

    fn space(&self, tell: OnStep<'_>) -> Result<SpaceReport, CacheError> {
        self.room.report(tell)
    }

    fn gc(&self, order: &GcOrder, tell: OnStep<'_>) -> Result<GcReport, CacheError> {
        self.room.gc(order, tell)
    }

    fn pin(&self, pin: Pin, label: &str) -> Result<bool, CacheError> {
        self.room.pin(pin, label)
    }

    fn unpin(&self, pin: &Pin) -> Result<bool, CacheError> {
        self.room.unpin(pin)
    }

    fn pins(&self) -> Result<Vec<PinRow>, CacheError> {
        Ok(self.room.pins())
    }

    fn status(&self) -> Status {
        let stats = self.store.stats();
        Status {
            role: self.role.into(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            region: self.region(),
            peer: self.peer_id().to_string(),
            store: StoreStatus {
                blobs: stats.blobs,
                blob_bytes: stats.blob_bytes,
                records: stats.records,
                quarantined: stats.quarantined,
                scrub: None,
            },
            ..Status::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::record::{ActionResult, Execution, Output, OutputKind, Sandbox};
    use netbuild_store::MemoryStore;

    const KEY: ActionKey = ActionKey([7; 32]);

    fn cache() -> DiskCache {
        let identity = Identity::from_seed(&[1; 32]);
        let store = Arc::new(MemoryStore::new());
        DiskCache::new(store, identity, String::new(), Trust::default(), "test")
    }

    fn new(kinds: impl IntoIterator<Item = OutputKind>) -> NewRecord {
        let output = |(path, kind)| Output { path: vec![path], kind };
        NewRecord {
            key: KEY,
            result: ActionResult {
                exit_code: 0,
                outputs: (b'a'..).zip(kinds).map(output).collect(),
                log: Some(Digest::of(b"log")),
            },
            execution: Execution {
                duration_ms: 1,
                finished_at_ms: 1,
                sandbox_asked: Sandbox::Env,
                sandbox_obtained: Sandbox::Env,
                tools: Vec::new(),
                netbuild_version: "0".into(),
                flaky: false,
                drift_checked: true,
                bound_to: None,
                local: false,
            },
        }
    }

    fn put(cache: &DiskCache, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        cache.put_blob(&digest, Content::Bytes(bytes)).unwrap();
        digest
    }

    #[test]
    fn a_record_is_a_hit_only_with_every_blob_that_it_and_its_listings_name() {
        let file = |name: &[u8], bytes| {
            (name.to_vec(), Entry::File { digest: Digest::of(bytes), executable: false })
        };
        let tree = listing::encode(&[(b"d".to_vec(), Entry::Directory), file(b"d/x", b"in tree")]);
        let files = listing::encode(&[file(b"y", b"in files"), file(b"z", b"in files")]);
        let record = || {
            new([
                OutputKind::File { digest: Digest::of(b"file"), executable: true },
                OutputKind::Tree { listing: Digest::of(&tree) },
                OutputKind::Files { listing: Digest::of(&files) },
                OutputKind::Symlink { target: b"file".to_vec() },
                OutputKind::Absent,
            ])
        };
        let blobs: [&[u8]; 6] = [b"file", b"log", b"in tree", b"in files", &tree, &files];
        for left_out in 0..=blobs.len() {
            let cache = cache();
            for (_, bytes) in blobs.iter().enumerate().filter(|(index, _)| *index != left_out) {
                put(&cache, bytes);
            }
            cache.put_record(record()).unwrap();
            let hit = cache.lookup(&KEY, &()).unwrap();
            assert_eq!(hit.is_some(), left_out == blobs.len(), "without blob {left_out}");
        }
    }

    #[test]
    fn a_listing_that_is_none_makes_a_miss_and_no_error() {
        let cache = cache();
        put(&cache, b"log");
        let listing = put(&cache, b"not a listing");
        cache.put_record(new([OutputKind::Tree { listing }])).unwrap();
        assert_eq!(cache.lookup(&KEY, &()), Ok(None));
        let listing = Digest { size: u64::MAX, ..listing };
        cache.put_record(new([OutputKind::Tree { listing }])).unwrap();
        assert_eq!(cache.lookup(&KEY, &()), Ok(None));
    }

    #[test]
    fn a_new_result_replaces_one_of_an_agent_whose_clock_is_ahead() {
        let (cache, other) = (cache(), Identity::from_seed(&[2; 32]));
        let own = cache.record(new([])).unwrap().record().hlc;
        for hours in [0, 2, 24 * 365] {
            let hlc = Hlc((own.millis() + hours * 3_600_000) << 16 | 0xffff);
            let NewRecord { key, result, execution } = new([]);
            let writer = other.peer_id();
            let record = Record { key, result, execution, writer, region: String::new(), hlc };
            let record = SealedRecord::seal(record, &other).unwrap();
            cache.store.put_record(&record, &Trust::default()).unwrap();
            cache.put_record(new([OutputKind::Absent])).unwrap();
            let kept = cache.store.record(&KEY).unwrap().unwrap();
            assert_eq!(kept.record().writer, cache.peer_id(), "{hours} hours ahead");
        }
        // But the time of this agent does not run away with it.
        let later = cache.record(NewRecord { key: ActionKey([8; 32]), ..new([]) }).unwrap();
        assert!(later.record().hlc.millis() < own.millis() + 3_600_000);
    }
}
