//! A cache that gets what is not on this disk from farther away: from other agents, and from tiers.
//!
//! A record becomes a hit only when every blob that it names is on this disk and verified.

use crate::{
    bases::Bases,
    disk_cache::{DiskCache, from_disk},
    fetcher::{Fetcher, Scope, Taken, Want},
    reports,
    shared::{Drained, Patience},
    verify::{Lost, verify},
};
use netbuild_core::{
    cache::{Cache, CacheError, Content, Fetched, FetchedAll, Hit, NewRecord, Source},
    digest::Digest,
    evict::Pin,
    key::ActionKey,
    moved::{Movement, Watch},
    record::Record,
    sooner::Slow,
};
use netbuild_gateway::{Door, OnStep, OnVerify};
use netbuild_proto::{
    control::{
        Decision, GcOrder, GcReport, PinRow, PlanReport, SpaceReport, Status, VerifyOrder,
        VerifyReport,
    },
    data::Priority,
    record::SealedRecord,
};
use std::{
    collections::BTreeSet,
    io::Read,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{runtime::Handle, time::sleep};
use tokio_util::sync::CancellationToken;

/// How often each source is tried for something that a person waits for and nobody can build.
const PATIENT_ROUNDS: u32 = 3;

/// How often it is looked whether anybody still waits for what is brought.
const LOOK: Duration = Duration::from_millis(100);

/// What a lookup of a record came to.
enum Looked {
    Found(Box<(SealedRecord, Hit)>),
    /// Something that it names cannot be had, or there is none.
    Lacking,
    /// It is sooner built.
    Slow(Slow),
}

/// A cache with sources. Its calls block, and must not come from a thread of the runtime.
#[derive(Debug)]
pub(crate) struct FarCache {
    pub(crate) fetcher: Arc<Fetcher>,
    pub(crate) runtime: Handle,
    pub(crate) stop: CancellationToken,
}

impl FarCache {
    pub(crate) fn disk(&self) -> &DiskCache {
        &self.fetcher.disk
    }

    /// Blocks until something that needs others is done, or the process stops.
    pub(crate) fn wait<T>(
        &self,
        what: impl Future<Output = Result<T, CacheError>>,
    ) -> Result<T, CacheError> {
        let done = self.runtime.block_on(self.stop.run_until_cancelled(what));
        done.unwrap_or_else(|| Err(CacheError::Failed("the agent is stopping".into())))
    }

    /// Waits until the tiers have what is to be copied to them: see [`crate::shared::Shared::drain`].
    pub(crate) fn drained(&self, patience: Patience, going: &dyn Fn() -> bool) -> Drained {
        let drain = self.fetcher.shared.drain(patience, going);
        self.wait(async { Ok(drain.await) }).unwrap_or(Drained::Some)
    }

    /// Gets lost things from others; says of each whether it is here again.
    pub(crate) fn heal(&self, lost: &[Lost]) -> Result<Vec<bool>, CacheError> {
        let blob = |lost: &Lost| match lost {
            Lost::Blob(blob) => Some(*blob),
            Lost::Record(_) => None,
        };
        let blobs: Vec<Digest> = lost.iter().filter_map(blob).collect();
        let missing: BTreeSet<Digest> = self.fetch_all(&blobs, &())?.missing.into_iter().collect();
        let healed = lost.iter().map(|lost| match lost {
            Lost::Blob(blob) => Ok(!missing.contains(blob)),
            Lost::Record(key) => {
                if self.disk().record_of(key)?.is_none() {
                    self.wait(self.fetcher.record(key))?;
                }
                Ok(self.disk().record_of(key)?.is_some())
            }
        });
        healed.collect()
    }

    /// Makes a record that is in the store whole, and so a hit; unless who asks does not use it.
    async fn hit(
        &self,
        record: SealedRecord,
        told_by: Option<Source>,
        watch: &dyn Watch,
    ) -> Result<Looked, CacheError> {
        if record.record().execution.sandbox_obtained < watch.least() {
            let source = told_by.unwrap_or(Source::Disk);
            let (record_of, movement) = (record.record().clone(), Movement::default());
            let hit = Hit { record: record_of, source, bytes: 0, movement };
            return Ok(Looked::Found(Box::new((record, hit))));
        }
        let mut taken = Taken::default();
        if !self.fetcher.complete(&record, &Scope::Mesh, 1, watch, &mut taken).await? {
            let Some(slow) = taken.slow else { return Ok(Looked::Lacking) };
            // What came of it counts for no hit: it is built.
            self.fetcher.credits.take(&record.record().blobs().collect::<Vec<_>>());
            return Ok(Looked::Slow(slow));
        }
        if taken.wire() > 0 || told_by.is_some() {
            self.fetcher.came(&record, &taken);
        }
        let from = taken.movement.from().cloned().or(told_by);
        let hit = Hit {
            record: record.record().clone(),
            source: from.unwrap_or(Source::Disk),
            bytes: taken.wire(),
            movement: taken.movement,
        };
        Ok(Looked::Found(Box::new((record, hit))))
    }

    /// Counts what was sent before for what this hit names.
    fn credited(
        &self,
        (record, hit): (SealedRecord, Hit),
    ) -> Result<(SealedRecord, Hit), CacheError> {
        if self.fetcher.credits.is_empty() {
            return Ok((record, hit));
        }
        let named = self.disk().whole(record.record())?.unwrap_or_default();
        let Some((source, sent)) = self.fetcher.credits.take(&named) else {
            return Ok((record, hit));
        };
        let source = if hit.bytes > sent { hit.source } else { source };
        Ok((record, Hit { source, bytes: hit.bytes + sent, ..hit }))
    }
}

impl Cache for FarCache {
    fn lookup(&self, key: &ActionKey, watch: &dyn Watch) -> Result<Option<Hit>, CacheError> {
        Ok(self.lookup_sealed(key, watch)?.map(|(_, hit)| hit))
    }

    fn peek(&self, key: &ActionKey) -> Result<Option<Record>, CacheError> {
        self.disk().peek(key)
    }

    fn bring(&self, keys: &[ActionKey], watch: &dyn Watch) -> Result<(), CacheError> {
        let over = async {
            while !watch.is_over() {
                sleep(LOOK).await;
            }
        };
        self.wait(async {
            tokio::select! {
                brought = self.fetcher.bring(keys, watch) => brought,
                () = over => Ok(()),
            }
        })
    }

    fn fetch_all(&self, blobs: &[Digest], watch: &dyn Watch) -> Result<FetchedAll, CacheError> {
        let began = Instant::now();
        let here = self.disk().fetch_all(blobs, watch)?;
        if here.missing.is_empty() {
            return Ok(here);
        }
        let want = Want {
            what: match blobs {
                [blob] => format!("blob {blob}"),
                _ => format!("{} blobs", here.missing.len()),
            },
            blobs: &here.missing,
            bases: &Bases::new(),
            holders: BTreeSet::new(),
            build_ms: None,
            scope: Scope::Mesh,
            rounds: PATIENT_ROUNDS,
            priority: Priority::Urgent,
            alike: self.fetcher.delta,
            watch,
            landed: &|_, _, _| (),
            course: &(),
        };
        let mut taken = Taken::default();
        let lacking: BTreeSet<Digest> =
            self.wait(self.fetcher.blobs(&want, &mut taken))?.into_iter().collect();
        let missing = here.missing.iter().copied().filter(|blob| lacking.contains(blob)).collect();
        let fetched = Fetched {
            source: taken.movement.from().cloned().unwrap_or(Source::Disk),
            movement: taken.movement,
            seconds: began.elapsed().as_secs_f64(),
        };
        Ok(FetchedAll { missing, fetched })
    }

    fn open(&self, blob: &Digest) -> Result<Option<Box<dyn Read + Send>>, CacheError> {
        self.disk().open(blob)
    }

    fn put_blob(&self, blob: &Digest, content: Content<'_>) -> Result<(), CacheError> {
        self.disk().put_blob(blob, content)
    }

    fn put_record(&self, record: NewRecord) -> Result<(), CacheError> {
        let record = self.disk().record(record)?;
        self.fetcher.shared.put(&record);
        self.fetcher.first_use(&record.record().key);
        self.fetcher.note(&record);
        self.fetcher.announce(&record, true);
        Ok(())
    }

    fn flush(&self) -> Result<(), CacheError> {
        self.disk().flush()?;
        self.fetcher.shared.sync();
        let Some(net) = &self.fetcher.net else { return Ok(()) };
        self.wait(async {
            net.mesh.flush().await;
            Ok(())
        })
    }
}

impl Door for FarCache {
    fn lookup_sealed(
        &self,
        key: &ActionKey,
        watch: &dyn Watch,
    ) -> Result<Option<(SealedRecord, Hit)>, CacheError> {
        let came_from = self.fetcher.first_use(key);
        if let Some(found) = self.disk().complete(key)? {
            let (record, hit) = from_disk(found);
            let source = came_from.unwrap_or(Source::Disk);
            return self.credited((record, Hit { source, ..hit })).map(Some);
        }
        let found = self.wait(async {
            let here = self.disk().record_of(key)?;
            let (record, told_by) = match here {
                Some(record) => (record, came_from),
                None => {
                    let told_by = self.fetcher.record(key).await?;
                    let Some(record) = self.disk().record_of(key)? else {
                        return Ok(Looked::Lacking);
                    };
                    (record, told_by)
                }
            };
            let found = self.hit(record.clone(), told_by.clone(), watch).await?;
            if !matches!(found, Looked::Lacking) {
                return Ok(found);
            }
            // Somebody may have joined meanwhile, who has what was missing, or another result.
            let waited = self.fetcher.view.settle();
            let now = self.disk().record_of(key)?.unwrap_or_else(|| record.clone());
            if !waited && now.as_bytes() == record.as_bytes() {
                return Ok(found);
            }
            self.hit(now, told_by, watch).await
        })?;
        // It may have come in the background meanwhile.
        self.fetcher.first_use(key);
        let slow = match found {
            Looked::Found(found) => return self.credited(*found).map(Some),
            Looked::Lacking => None,
            Looked::Slow(slow) => Some(slow),
        };
        let second = self.disk().second_best(key)?.map(from_disk);
        if let Some(slow) = slow.filter(|_| second.is_none()) {
            watch.sooner_built(&slow);
        }
        Ok(second)
    }

    fn peek_sealed(&self, key: &ActionKey) -> Result<Option<SealedRecord>, CacheError> {
        self.disk().record_of(key)
    }

    fn status(&self) -> Status {
        Status { tiers: reports::tiers(&self.fetcher), ..self.disk().status() }
    }

    fn drain(&self, timeout: Duration) -> Result<(), CacheError> {
        let patience = Patience { any: timeout, through: timeout, away: true };
        self.drained(patience, &|| true);
        Ok(())
    }

    fn share(&self, blob: &Digest) -> Result<(), CacheError> {
        self.fetcher.shared.put_blob(blob);
        Ok(())
    }

    fn verify(
        &self,
        order: &VerifyOrder,
        progress: OnVerify<'_>,
    ) -> Result<VerifyReport, CacheError> {
        verify(self.disk().store().as_ref(), order, progress, &|lost| self.heal(lost))
    }

    fn keep(&self, connection: u64, record: &Record) {
        Door::keep(self.disk(), connection, record);
    }

    fn leave(&self, connection: u64) {
        self.disk().leave(connection);
    }

    fn space(&self, tell: OnStep<'_>) -> Result<SpaceReport, CacheError> {
        self.disk().space(tell)
    }

    fn gc(&self, order: &GcOrder, tell: OnStep<'_>) -> Result<GcReport, CacheError> {
        self.disk().gc(order, tell)
    }

    fn pin(&self, pin: Pin, label: &str) -> Result<bool, CacheError> {
        self.disk().pin(pin, label)
    }

    fn unpin(&self, pin: &Pin) -> Result<bool, CacheError> {
        self.disk().unpin(pin)
    }

    fn pins(&self) -> Result<Vec<PinRow>, CacheError> {
        self.disk().pins()
    }

    fn plan(&self, blob: &Digest) -> Result<PlanReport, CacheError> {
        self.wait(reports::plan(&self.fetcher, blob))
    }

    fn decisions(&self, about: Option<&str>, limit: u32) -> Result<Vec<Decision>, CacheError> {
        Ok(self.fetcher.decisions.about(about, limit as usize))
    }
}
