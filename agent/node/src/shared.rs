//! The tiers that this process shares with others: who knows what of them, and what waits for them.

mod asking;
mod following;
mod known;
mod log;
mod probing;
mod sending;
mod tending;

pub(crate) use sending::{Drained, Patience};

use crate::{
    config::CacheSettings,
    connect::{ConnectTierError, connect},
    fault::over_of_tier,
    view::View,
};
use known::Known;
use log::{Cursors, Log};
use netbuild_core::{
    backend::TierName,
    digest::Digest,
    key::ActionKey,
    link::{Belief, Sample},
    outbox::{Goods, Outbox, Parcel, Terms},
    peers::Over,
    plan::Who,
    score::predict,
    tiers::{TierId, Tiers, seconds_from},
};
use netbuild_proto::{outbox::Lane, record::SealedRecord};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{sync::Notify, time::timeout};

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

#[derive(Debug)]
struct State {
    outbox: Outbox,
    /// In which tiers records are known to be, and so what they name.
    known: Known,
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
        let (log, cursors, known) = match tiers.is_empty() {
            true => (Log::none(), Cursors::none(), Known::none()),
            false => {
                let (log, waiting) = Log::open(data_dir);
                for (lane, parcel) in waiting {
                    if let Some(tier) = tiers.iter().find(|tier| tier.lane() == lane) {
                        outbox.handle_wanted(tier.id, parcel);
                    }
                }
                let lanes = tiers.iter().map(|tier| tier.lane()).collect();
                (log, Cursors::load(data_dir), Known::load(data_dir, lanes))
            }
        };
        let state = State { outbox, known, doubted: BTreeSet::new(), compared: BTreeMap::new() };
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
        self.state().known.note(&key, tier, true);
    }

    /// It is not, or not with all that it names.
    pub(crate) fn note_missing(&self, key: &ActionKey, tier: TierId) {
        self.state().known.note(key, tier, false);
    }

    /// The tiers that are known to hold a record.
    pub(crate) fn holders(&self, key: &ActionKey) -> BTreeSet<Who> {
        self.holding(key).map(|tier| Who::Tier(tier.id)).collect()
    }

    fn holding(&self, key: &ActionKey) -> impl Iterator<Item = &Arc<Tier>> {
        let bits = self.state().known.tiers(key);
        self.tiers.iter().filter(move |tier| u32::from(bits) & (1 << tier.id.0) != 0)
    }

    /// How long it is expected to take to have a result, as blobs of these sizes, from the tiers that
    /// are known to hold it and answer; `None` when they lack one of the blobs.
    pub(crate) fn refetch(&self, key: &ActionKey, sizes: &[u64]) -> Option<Duration> {
        let open = self.holding(key).filter(|tier| tier.is_open());
        let holders: Vec<(Terms, Belief)> = open.map(|tier| (tier.terms(), tier.link())).collect();
        Duration::try_from_secs_f64(seconds_from(&holders, sizes)?).ok()
    }

    /// A blob by itself is kept here and is to be copied. To be called before it is acknowledged.
    pub(crate) fn put_blob(&self, blob: &Digest) {
        let parcel = Parcel { goods: Goods::Blob(blob.hash), bytes: blob.size };
        self.want(self.tiers.iter().filter(|tier| tier.takes(blob)), parcel);
    }

    /// A result came from a tier: those that are nearer get it too, so that it is there the next time.
    pub(crate) fn fill(&self, record: &SealedRecord, from: &TierName) {
        let parcel = parcel_of(record);
        let seconds = |tier: &Tier| predict(&tier.link(), parcel.bytes, 0).seconds();
        let Some(from) = self.tiers.iter().find(|tier| tier.name == *from) else { return };
        let slow = seconds(from);
        let nearer = |tier: &&Arc<Tier>| tier.id != from.id && tier.is_open();
        self.want(self.tiers.iter().filter(nearer).filter(|tier| seconds(tier) < slow), parcel);
    }

    /// Something is to be copied to these tiers, as far as they are written.
    fn want<'a>(&self, tiers: impl Iterator<Item = &'a Arc<Tier>>, parcel: Parcel) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = |tier: &&Arc<Tier>| self.state().outbox.handle_wanted(tier.id, parcel);
        let lanes: Vec<Lane> = tiers.filter(waits).map(|tier| tier.lane()).collect();
        if lanes.is_empty() {
            return;
        }
        log.added(lanes, parcel);
        drop(log);
        self.something.notify_waiters();
    }

    /// Writes down what tiers hold, now and then.
    fn keep_known(&self, all: bool) {
        let due = self.state().known.due(all);
        if let Some(due) = due {
            known::write(due);
        }
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

impl Drop for Shared {
    fn drop(&mut self) {
        self.keep_known(true);
    }
}

/// What waits when a record does.
fn parcel_of(record: &SealedRecord) -> Parcel {
    let bytes = record.record().blobs().map(|blob| blob.size).sum();
    Parcel::result(record.record().key, bytes)
}

impl Tier {
    /// Whether it may be asked for what somebody waits for.
    fn is_open(&self) -> bool {
        self.view.peers(|peers, now| peers.tiers().is_open_to(self.id, now))
    }

    /// What is believed of the way to it.
    fn link(&self) -> Belief {
        let link = self.view.peers(|peers, now| Some(peers.tiers().get(self.id)?.belief(now)));
        link.unwrap_or_default()
    }

    /// Which blobs it is given and can hold.
    fn terms(&self) -> Terms {
        let max_size = self.terms.max_size.min(self.backend.limits().blob);
        Terms { max_size, ..self.terms }
    }

    fn lane(&self) -> Lane {
        Lane::of(&self.name.place)
    }

    /// Whether it is given a blob.
    fn takes(&self, blob: &Digest) -> bool {
        self.terms().takes(blob.size)
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
