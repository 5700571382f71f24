//! The tiers that this process shares with others: who knows what of them, and what waits for them.

mod asking;
mod following;
mod log;
mod probing;
mod sending;
mod tending;

pub(crate) use sending::Drained;

use crate::{
    config::CacheSettings,
    connect::{ConnectTierError, connect},
    fault::over_of_tier,
    view::View,
};
use log::{Cursors, Log};
use netbuild_core::{
    backend::TierName,
    digest::Digest,
    key::ActionKey,
    link::Sample,
    outbox::{Outbox, Parcel, Terms},
    peers::Over,
    plan::Who,
    tiers::{TierId, Tiers},
};
use netbuild_proto::{outbox::Lane, record::SealedRecord};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{sync::Notify, time::timeout};

/// Most records of which it is remembered in which tiers they are: some 5 MB.
const MAX_KNOWN: usize = 100_000;
/// Most blobs that are remembered to be wrong somewhere.
const MAX_DOUBTED: usize = 10_000;
/// How long a tier may take to look again at a blob.
const DOUBT: Duration = Duration::from_secs(5);
/// Answers of at most so many bytes tell the round trip.
const SMALL_ANSWER: u64 = 64 << 10;
/// Answers of at least so many bytes tell what a tier gives in a second.
const LARGE_ANSWER: u64 = 256 << 10;

/// A tier, and how it is reached.
#[derive(Debug)]
pub(crate) struct Tier {
    pub(crate) id: TierId,
    pub(crate) name: TierName,
    pub(crate) terms: Terms,
    pub(crate) backend: Arc<dyn netbuild_store::Tier>,
    view: Arc<View>,
}

/// All tiers of this process.
#[derive(Debug)]
pub(crate) struct Shared {
    tiers: Vec<Arc<Tier>>,
    state: Mutex<State>,
    log: Mutex<Log>,
    cursors: Mutex<Cursors>,
    /// Something came to wait, or a tier is back.
    something: Notify,
    /// Something was copied, or failed.
    moved: Notify,
}

#[derive(Debug, Default)]
struct State {
    outbox: Outbox,
    /// In which tiers records are known to be, as bits, and so what they name.
    known: BTreeMap<ActionKey, u32>,
    /// Blobs that tiers gave wrongly, and that they are to get again when they are here.
    doubted: BTreeSet<(TierId, Digest)>,
    /// Since when all records of a tier are known here.
    compared: BTreeMap<TierId, Instant>,
}

/// The tiers of the configuration as sources of which nothing is known yet.
pub(crate) fn sources(settings: &CacheSettings) -> Tiers {
    Tiers::new(settings.tiers.iter().map(|tier| tier.name.clone()))
}

impl Shared {
    /// The tiers, in the order of the chain, which is that of the tiers in `view`, with what still
    /// waited for them when an earlier process of this data directory ended.
    pub(crate) fn new(
        data_dir: &Path,
        view: &Arc<View>,
        tiers: impl IntoIterator<Item = (TierName, Terms, Arc<dyn netbuild_store::Tier>)>,
    ) -> Self {
        let tier = |(id, (name, terms, backend))| {
            Arc::new(Tier { id, name, terms, backend, view: Arc::clone(view) })
        };
        let tiers: Vec<Arc<Tier>> = (0..).map(TierId).zip(tiers).map(tier).collect();
        let mut outbox = Outbox::new(tiers.iter().map(|tier| tier.terms));
        let (log, cursors) = match tiers.is_empty() {
            true => (Log::none(), Cursors::none()),
            false => {
                let (log, waiting) = Log::open(data_dir);
                for (lane, parcel) in waiting {
                    if let Some(tier) = tiers.iter().find(|tier| tier.lane() == lane) {
                        outbox.handle_wanted(tier.id, parcel);
                    }
                }
                (log, Cursors::load(data_dir))
            }
        };
        let state = State { outbox, ..State::default() };
        Self {
            tiers,
            state: Mutex::new(state),
            log: Mutex::new(log),
            cursors: Mutex::new(cursors),
            something: Notify::new(),
            moved: Notify::new(),
        }
    }

    /// The tiers of the configuration; nothing is asked of them yet.
    ///
    /// # Errors
    /// When one cannot be used at all; the error names it.
    pub(crate) fn of(
        settings: &CacheSettings,
        data_dir: &Path,
        view: &Arc<View>,
    ) -> Result<Self, ConnectTierError> {
        let connected = |tier: &crate::config::TierSettings| {
            Ok((tier.name.clone(), tier.terms, connect(tier)?))
        };
        let tiers =
            settings.tiers.iter().map(connected).collect::<Result<Vec<_>, ConnectTierError>>()?;
        Ok(Self::new(data_dir, view, tiers))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tiers(&self) -> &[Arc<Tier>] {
        &self.tiers
    }

    pub(crate) fn tier(&self, id: TierId) -> Option<&Arc<Tier>> {
        self.tiers.get(usize::from(id.0))
    }

    /// A record, and so what it names, is in a tier.
    pub(crate) fn note(&self, key: ActionKey, tier: TierId) {
        let known = &mut self.state().known;
        if known.len() >= MAX_KNOWN && !known.contains_key(&key) {
            known.pop_first();
        }
        *known.entry(key).or_default() |= 1 << tier.0;
    }

    /// It is not, or not with all that it names.
    pub(crate) fn note_missing(&self, key: &ActionKey, tier: TierId) {
        if let Some(bits) = self.state().known.get_mut(key) {
            *bits &= !(1 << tier.0);
        }
    }

    /// The tiers that are known to hold a record.
    pub(crate) fn holders(&self, key: &ActionKey) -> BTreeSet<Who> {
        let bits = self.state().known.get(key).copied().unwrap_or(0);
        let held = |tier: &&Arc<Tier>| bits & (1 << tier.id.0) != 0;
        self.tiers.iter().filter(held).map(|tier| Who::Tier(tier.id)).collect()
    }

    /// A tier gave wrong bytes for a blob: it is to look again, and will get it again once it is here.
    pub(crate) async fn doubt(&self, tier: &Tier, blob: Digest) {
        {
            let doubted = &mut self.state().doubted;
            if doubted.len() >= MAX_DOUBTED {
                doubted.pop_first();
            }
            doubted.insert((tier.id, blob));
        }
        match timeout(DOUBT, tier.backend.doubt(&blob)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::info!(%blob, "{error}"),
            Err(_) => tracing::info!(tier = %tier.name, %blob, "it did not look again"),
        }
    }

    /// All that a record names is here and right: tiers that gave something of it wrongly get it
    /// again.
    pub(crate) fn heal(&self, record: &SealedRecord, blobs: &[Digest]) {
        let parcel = parcel_of(record);
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        for tier in &self.tiers {
            let mut state = self.state();
            let before = state.doubted.len();
            state.doubted.retain(|(of, blob)| *of != tier.id || !blobs.contains(blob));
            let waits = before > state.doubted.len() && state.outbox.handle_wanted(tier.id, parcel);
            drop(state);
            if waits {
                log.added([tier.lane()], parcel);
                self.something.notify_waiters();
            }
        }
    }

    /// Whether any tier gave something wrongly that it did not get again.
    pub(crate) fn has_doubts(&self) -> bool {
        !self.state().doubted.is_empty()
    }

    /// Since when all records of a tier are known here, if they are.
    pub(crate) fn compared(&self, tier: TierId) -> Option<Duration> {
        self.state().compared.get(&tier).map(Instant::elapsed)
    }
}

/// What waits when a record does.
fn parcel_of(record: &SealedRecord) -> Parcel {
    let bytes = record.record().blobs().map(|blob| blob.size).sum();
    Parcel { key: record.record().key, bytes }
}

impl Tier {
    /// Whether it may be asked for what somebody waits for.
    fn is_open(&self) -> bool {
        self.view.peers(|peers, now| peers.tiers().is_open_to(self.id, now))
    }

    fn lane(&self) -> Lane {
        Lane::of(&self.name.place)
    }

    /// Whether it is given a blob.
    fn takes(&self, blob: &Digest) -> bool {
        self.terms.takes(blob.size) && self.may_hold(blob)
    }

    /// Whether it may hold a blob.
    pub(crate) fn may_hold(&self, blob: &Digest) -> bool {
        blob.size <= self.backend.limits().blob
    }

    /// Asks the tier for something small, at most so long, and counts the answer for or against it.
    /// `None`: it does not answer, or it failed, which was said.
    pub(crate) async fn ask<T>(
        &self,
        limit: Duration,
        bytes: impl Fn(&T) -> u64,
        answer: netbuild_store::Answer<'_, T>,
    ) -> Option<T> {
        let asked = crate::attempts::Asked::new(&self.view, Who::Tier(self.id));
        let began = Instant::now();
        match timeout(limit, answer).await {
            Ok(Ok(answer)) => {
                asked.ends(Over::Answered);
                self.measured(bytes(&answer), began.elapsed());
                Some(answer)
            }
            Ok(Err(error)) => {
                tracing::info!("{error}; going on without it");
                asked.ends(over_of_tier(&error));
                None
            }
            Err(_) => {
                tracing::info!(tier = %self.name, ?limit, "late; going on without it");
                asked.ends(Over::Failed(netbuild_core::health::Fault::Unavailable));
                None
            }
        }
    }

    /// An answer of so many bytes took so long.
    pub(crate) fn measured(&self, bytes: u64, elapsed: Duration) {
        let sample = match bytes {
            0..=SMALL_ANSWER => Sample::Rtt(elapsed),
            LARGE_ANSWER.. => Sample::Goodput { bytes, elapsed },
            _ => return,
        };
        self.view.peers(|peers, now| peers.tiers_mut().handle_sample(self.id, sample, now));
    }
}

#[cfg(test)]
mod tests;
