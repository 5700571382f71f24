//! Copying results to tiers, after they were acknowledged here.

use super::{Shared, Tier, parcel_of};
use crate::{
    disk_cache::{DiskCache, failed},
    fault::over_of_tier,
    fetcher::Fetcher,
};
use bytes::Bytes;
use netbuild_core::{
    cache::CacheError,
    digest::Digest,
    outbox::{Backlog, Failure, Goods, Parcel},
    peers::Over,
    plan::Who,
    tiers::TierId,
};
use netbuild_proto::{outbox::Lane, record::SealedRecord};
use netbuild_store::{Batch, Blob, Class, MAX_SMALL, Offer, TierError};
use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    task::JoinSet,
    time::{Instant as Moment, timeout},
};
use tokio_util::sync::CancellationToken;

/// How often a sender looks whether it may go on, when nothing tells it.
const LOOK: Duration = Duration::from_millis(500);
/// How often who waits for tiers looks whether to go on: what somebody at a terminal does not notice.
const GOING: Duration = Duration::from_millis(100);
/// Longest time of a batch that makes no progress to be seen: a tier ends its calls itself, this is
/// for one that does not.
const LIMIT: Duration = Duration::from_secs(600);

/// How much of what waited was copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Drained {
    /// All.
    All,
    /// Something still waits.
    Some,
}

/// How long tiers are waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Patience {
    /// For any of them.
    pub(crate) any: Duration,
    /// For one that is written through, as long as it takes what comes.
    pub(crate) through: Duration,
    /// Whether one that is away is waited for.
    pub(crate) away: bool,
}

/// What of a batch is still here, and what it needs.
#[derive(Default)]
struct Wanted {
    records: Vec<(SealedRecord, Vec<Digest>)>,
    blobs: BTreeSet<Digest>,
}

/// A batch, and what it is made of.
struct Load {
    batch: Batch,
    /// Records in it.
    records: Vec<SealedRecord>,
}

impl Shared {
    /// A result is kept here and is to be copied. To be called before it is acknowledged.
    pub(crate) fn put(&self, record: &SealedRecord) {
        if self.tiers.is_empty() || !record.record().execution.is_shared() {
            return;
        }
        let parcel = parcel_of(record);
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let lanes = self.state().outbox.handle_put(parcel);
        log.added(lanes.iter().filter_map(|id| Some(self.tier(*id)?.lane())), parcel);
        drop(log);
        self.something.notify_waiters();
    }

    /// Returns once what waits survives the loss of power.
    pub(crate) fn sync(&self) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).sync();
    }

    /// What waits for a tier.
    pub(crate) fn backlog(&self, tier: TierId) -> Backlog {
        self.state().outbox.backlog(tier, Instant::now())
    }

    /// Waits until nothing waits for any tier, as long as `patience` and `going` say.
    pub(crate) async fn drain(&self, patience: Patience, going: &dyn Fn() -> bool) -> Drained {
        let began = Moment::now();
        loop {
            let moved = self.moved.notified();
            let (empty, holds_up) = {
                let outbox = &self.state().outbox;
                (outbox.is_empty(), outbox.holds_up())
            };
            if empty {
                return Drained::All;
            }
            // Waiting for what is away would come to nothing.
            if !patience.away && !self.tiers.iter().any(|tier| self.waits_for(tier)) {
                return Drained::Some;
            }
            let budget = if holds_up { patience.any.max(patience.through) } else { patience.any };
            let left = budget.saturating_sub(began.elapsed());
            if left.is_zero() || !going() {
                return Drained::Some;
            }
            // Whether something moved or not, it is looked again.
            let _ = timeout(left.min(GOING), moved).await;
        }
    }

    /// Whether something waits for a tier that may be asked.
    fn waits_for(&self, tier: &Tier) -> bool {
        let waits = self.state().outbox.waiting(tier.id).next().is_some();
        waits && tier.is_open()
    }

    fn done(&self, tier: &Tier, parcels: &[Parcel]) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.done(tier.lane(), parcels, || {
            let outbox = &self.state().outbox;
            let of = |tier: &Arc<Tier>| {
                let lane = tier.lane();
                outbox.waiting(tier.id).map(move |parcel| (lane, parcel)).collect::<Vec<_>>()
            };
            self.tiers.iter().flat_map(of).collect::<Vec<(Lane, Parcel)>>()
        });
    }
}

impl Fetcher {
    /// Starts what tiers need in the background: it ends when `stop` is cancelled.
    pub(crate) fn share(self: &Arc<Self>, tasks: &mut JoinSet<()>, stop: &CancellationToken) {
        if self.shared.tiers().is_empty() {
            return;
        }
        tasks.spawn(Arc::clone(&self.shared).probe(Arc::clone(&self.view), stop.clone()));
        for tier in self.shared.tiers() {
            let runtime = tokio::runtime::Handle::current();
            let (fetcher, tier, ends) = (Arc::clone(self), Arc::clone(tier), stop.clone());
            let (sender, sent, sending) = (Arc::clone(self), Arc::clone(&tier), stop.clone());
            let handle = runtime.clone();
            tasks.spawn(Arc::clone(&tier).tend(stop.clone()));
            tasks.spawn_blocking(move || runtime.block_on(fetcher.follow(&tier, &ends)));
            tasks.spawn_blocking(move || handle.block_on(sender.send(&sent, &sending)));
        }
    }

    /// Copies to a tier what waits for it, until the process stops. Blocks a thread, as it reads the
    /// disk.
    async fn send(&self, tier: &Tier, stop: &CancellationToken) {
        loop {
            let something = self.shared.something.notified();
            let open = tier.is_open();
            let parcels = if open {
                let bytes = tier.backend.limits().batch;
                self.shared.state().outbox.poll(tier.id, bytes, Instant::now())
            } else {
                Vec::new()
            };
            if parcels.is_empty() {
                // Whether something came or not, it is looked again.
                let wait = timeout(LOOK, something);
                if stop.run_until_cancelled(wait).await.is_none() {
                    return;
                }
                continue;
            }
            if stop.run_until_cancelled(self.send_batch(tier, &parcels)).await.is_none() {
                self.shared.state().outbox.handle_dropped(tier.id);
                return;
            }
            self.shared.moved.notify_waiters();
        }
    }

    async fn send_batch(&self, tier: &Tier, parcels: &[Parcel]) {
        let sent = self.try_send(tier, parcels).await;
        let now = Instant::now();
        match sent {
            Ok(records) => {
                for record in &records {
                    self.shared.note(record.record().key, tier.id);
                }
                let parcels = self.shared.state().outbox.handle_sent(tier.id);
                self.shared.done(tier, &parcels);
            }
            Err((failure, why)) => {
                tracing::info!(tier = %tier.name, why, "results wait for it");
                let dice = crate::random::unit();
                let left_out = {
                    let outbox = &mut self.shared.state().outbox;
                    outbox.handle_failed(tier.id, failure, why, dice, now)
                };
                if let Some(parcel) = left_out {
                    tracing::warn!(tier = %tier.name, what = %parcel.goods, "not copied");
                    self.shared.done(tier, &[parcel]);
                }
            }
        }
    }

    /// Copies a batch: what of it is still here and still the result. The blobs that the tier has
    /// already are not read.
    async fn try_send(
        &self,
        tier: &Tier,
        parcels: &[Parcel],
    ) -> Result<Vec<SealedRecord>, (Failure, String)> {
        let asked = crate::attempts::Asked::new(&self.view, Who::Tier(tier.id));
        let loading = async {
            let wanted = still_wanted(&self.disk, parcels).map_err(local)?;
            let named = wanted.records.iter().flat_map(|(_, blobs)| blobs);
            let blobs: BTreeSet<Digest> = named.chain(&wanted.blobs).copied().collect();
            let blobs: Vec<Digest> = blobs.into_iter().filter(|blob| tier.takes(blob)).collect();
            let there = match blobs.is_empty() {
                true => Vec::new(),
                false => tier.backend.find(&blobs).await.map_err(|error| away(&error))?,
            };
            let there: BTreeSet<Digest> =
                blobs.iter().zip(&there).filter(|(_, there)| **there).map(|(b, _)| *b).collect();
            load(&self.disk, wanted, &blobs, &there).map_err(local)
        };
        let sent: Result<Vec<SealedRecord>, (Failure, String, Over)> = async {
            let Load { batch, records } = loading.await?;
            if batch.records.is_empty() && batch.blobs.is_empty() {
                return Ok(records);
            }
            match timeout(LIMIT, tier.backend.put(batch)).await {
                Ok(Ok(_)) => Ok(records),
                Ok(Err(error)) => Err(away(&error)),
                Err(_) => {
                    let why = format!("{} took longer than {LIMIT:?}", tier.name);
                    let fault = netbuild_core::health::Fault::Unavailable;
                    Err((Failure::Passes, why, Over::Failed(fault)))
                }
            }
        }
        .await;
        match sent {
            Ok(records) => {
                asked.ends(Over::Answered);
                Ok(records)
            }
            Err((failure, why, over)) => {
                asked.ends(over);
                Err((failure, why))
            }
        }
    }
}

/// A failure of this agent's own store, which says nothing about the tier.
fn local(error: CacheError) -> (Failure, String, Over) {
    (Failure::Passes, error.to_string(), Over::Dropped)
}

fn away(error: &TierError) -> (Failure, String, Over) {
    let failure = match error.class() {
        Class::Refused => Failure::Refused,
        Class::TooLarge | Class::Content => Failure::Content,
        Class::Unreachable | Class::Throttled | Class::Full | Class::Corrupt => Failure::Passes,
    };
    // A tier that is full or refuses writing can still be read.
    let over = match error.class() {
        Class::Full | Class::Refused => Over::Answered,
        _ => over_of_tier(error),
    };
    (failure, error.to_string(), over)
}

/// The records of a batch that are still here with all that they name, and what that is; and the blobs by
/// themselves. Others are wanted by nobody, or another agent has a newer result.
fn still_wanted(disk: &DiskCache, parcels: &[Parcel]) -> Result<Wanted, CacheError> {
    let mut wanted = Wanted::default();
    for parcel in parcels {
        match parcel.goods {
            Goods::Result(key) => {
                let Some(record) = disk.record_of(&key)? else { continue };
                if let Some(blobs) = disk.whole(record.record())? {
                    wanted.records.push((record, blobs));
                }
            }
            Goods::Blob(hash) => {
                let blob = Digest { hash, size: parcel.bytes };
                if disk.store().has_blob(&blob).map_err(failed)? {
                    wanted.blobs.insert(blob);
                }
            }
        }
    }
    Ok(wanted)
}

fn load(
    disk: &DiskCache,
    wanted: Wanted,
    blobs: &[Digest],
    there: &BTreeSet<Digest>,
) -> Result<Load, CacheError> {
    let mut lost = BTreeSet::new();
    let mut batch = Batch::default();
    for blob in blobs.iter().filter(|blob| !there.contains(blob)) {
        let content = if blob.size <= MAX_SMALL {
            let bytes = disk.store().blob_bytes(blob, MAX_SMALL).map_err(failed)?;
            bytes.map(|bytes| Blob::Bytes(Bytes::from(bytes)))
        } else {
            disk.store().open_blob(blob).map_err(failed)?.map(Blob::Reader)
        };
        match content {
            Some(content) => batch.blobs.push((*blob, content)),
            None => drop(lost.insert(*blob)),
        }
    }
    let mut records = Vec::new();
    for (record, blobs) in wanted.records {
        if !blobs.iter().any(|blob| lost.contains(blob)) {
            records.push(record.clone());
            batch.records.push(Offer { record, blobs });
        }
    }
    Ok(Load { batch, records })
}
