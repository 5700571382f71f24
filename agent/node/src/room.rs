//! The space of the data directory: how much it may take, what takes it, and making some.

use crate::{
    config::StoreSettings,
    disk_cache::{DiskCache, failed},
};
use netbuild_core::{
    cache::CacheError,
    evict::{Amount, Limits, Pin, Why},
    key::ActionKey,
};
use netbuild_gateway::OnStep;
use netbuild_proto::control::{GcOrder, GcReport, GcRow, PinRow, Rows, SpaceReport, SpaceShare};
use netbuild_store::{Evicted, Evicting, Share, Store, Usage};
use std::{
    collections::BTreeMap,
    fmt,
    ops::ControlFlow,
    sync::{Arc, Condvar, Mutex, OnceLock, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Most that is kept unless the configuration says otherwise: results of weeks, of most projects.
const DEFAULT_SIZE: u64 = 50_000_000_000;
/// And of the file system, in per cent.
const DEFAULT_PERCENT: f64 = 20.0;
/// How soon after the start, and how often, it is looked whether space is short.
const FIRST: Duration = Duration::from_secs(2);
const INTERVAL: Duration = Duration::from_secs(10);
/// How often it is looked for what is too old.
const EXPIRING: Duration = Duration::from_secs(3600);
/// Bytes of the journal that are read or written in a second when it is written anew in the background:
/// a part of what any disk does.
const PACE: f64 = 32e6;
/// Times that things are given up in a row: what is given up in the journal comes back only when most of
/// a segment is dead, so that once may be too little.
const ROUNDS: usize = 3;

/// Says how long it is expected to take to have a result from elsewhere, by its key and the sizes of its
/// blobs.
type Refetch = dyn Fn(&ActionKey, &[u64]) -> Option<Duration> + Send + Sync;
/// Hears which results are gone.
type Lost = dyn Fn(&[ActionKey]) + Send + Sync;

/// What is known of other agents and of tiers, if there are any.
pub(crate) struct Elsewhere {
    pub(crate) refetch: Box<Refetch>,
    pub(crate) lost: Box<Lost>,
}

impl fmt::Debug for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Elsewhere")
    }
}

/// What settings come to on a file system of so many bytes.
pub(crate) fn limits(settings: &StoreSettings, capacity: u64) -> Limits {
    let least = || DEFAULT_SIZE.min(Amount::Percent(DEFAULT_PERCENT).of(capacity));
    Limits {
        max_bytes: settings.max_size.map_or_else(least, |size| size.of(capacity)),
        min_free: settings.min_free.of(capacity),
        max_age: settings.max_age,
        grace: settings.min_age,
    }
}

/// The space of a store.
#[derive(Debug)]
pub(crate) struct Room {
    store: Arc<dyn Store>,
    settings: StoreSettings,
    /// Set once an agent is assembled.
    elsewhere: OnceLock<Elsewhere>,
    expired: Mutex<Option<Instant>>,
    /// What was given up since the start, in number and bytes, by the reason.
    evicted: Mutex<BTreeMap<Why, (u64, u64)>>,
}

impl Room {
    pub(crate) fn new(store: Arc<dyn Store>, settings: StoreSettings) -> Self {
        let (elsewhere, expired, evicted) = (OnceLock::new(), Mutex::default(), Mutex::default());
        Self { store, settings, elsewhere, expired, evicted }
    }

    /// From now on it is known what others have.
    pub(crate) fn know(&self, elsewhere: Elsewhere) {
        // Set a second time, the first stays: there is one mesh for each agent.
        let _ = self.elsewhere.set(elsewhere);
    }

    fn limits(&self, usage: &Usage) -> Limits {
        limits(&self.settings, usage.capacity)
    }

    fn evict(
        &self,
        limits: &Limits,
        expire: bool,
        dry_run: bool,
        tell: OnStep<'_>,
    ) -> Result<Evicted, CacheError> {
        let elsewhere = self.elsewhere.get();
        let refetch = |key: &ActionKey, sizes: &[u64]| {
            elsewhere.and_then(|known| (known.refetch)(key, sizes))
        };
        let how = Evicting { refetch: &refetch, expire, dry_run, tell };
        let evicted = self.store.evict(limits, &how).map_err(failed)?;
        if let Some(known) = elsewhere.filter(|_| !dry_run) {
            (known.lost)(&evicted.forgotten);
        }
        if !dry_run {
            let mut all = self.evicted.lock().unwrap_or_else(PoisonError::into_inner);
            for (why, (count, bytes)) in &evicted.reasons {
                let sum = all.entry(*why).or_default();
                *sum = (sum.0 + count, sum.1 + bytes);
            }
        }
        Ok(evicted)
    }

    /// What is taken, and what may be; `None` where that cannot be told.
    pub(crate) fn figures(&self) -> Option<(Usage, Limits)> {
        let usage = self.store.usage().ok()?;
        let limits = self.limits(&usage);
        Some((usage, limits))
    }

    /// What was given up since the start, in number and bytes, by the reason.
    pub(crate) fn evicted(&self) -> [(Why, (u64, u64)); Why::ALL.len()] {
        let all = self.evicted.lock().unwrap_or_else(PoisonError::into_inner);
        Why::ALL.map(|why| (why, all.get(&why).copied().unwrap_or_default()))
    }

    /// Makes space if it is short, at a pace that disturbs nobody. `pause` waits, and says whether to
    /// go on.
    pub(crate) fn tidy(
        &self,
        pause: &(dyn Fn(Duration) -> ControlFlow<()> + Sync),
    ) -> Result<(), CacheError> {
        let expire = {
            let mut last = self.expired.lock().unwrap_or_else(PoisonError::into_inner);
            let due = last.is_none_or(|last| last.elapsed() >= EXPIRING);
            if due {
                *last = Some(Instant::now());
            }
            due && self.settings.max_age.is_some()
        };
        let tell = |_: &str, _: f64| pause(Duration::ZERO);
        for round in 0..ROUNDS {
            let limits = self.limits(&self.store.usage().map_err(failed)?);
            let evicted = self.evict(&limits, expire && round == 0, false, &tell)?;
            let mut pace = |bytes: u64| pause(Duration::from_secs_f64(bytes as f64 / PACE));
            let compacted = self.store.compact(&mut pace).map_err(failed)?;
            if evicted.bytes > 0 || compacted.segments > 0 {
                tracing::debug!(
                    results = evicted.actions.len(),
                    blobs = evicted.blobs,
                    bytes = evicted.bytes,
                    segments = compacted.segments,
                    "space was made"
                );
            }
            if evicted.bytes == 0 || evicted.broken_off {
                break;
            }
        }
        Ok(())
    }

    /// Makes space on somebody's order, as fast as it goes.
    pub(crate) fn gc(&self, order: &GcOrder, tell: OnStep<'_>) -> Result<GcReport, CacheError> {
        let began = Instant::now();
        let before = self.store.usage().map_err(failed)?;
        let mut limits = self.limits(&before);
        if let Some(max_bytes) = order.max_bytes {
            limits.max_bytes = max_bytes;
        }
        let mut report = GcReport {
            dry_run: order.dry_run,
            before: before.total(),
            max_bytes: limits.max_bytes,
            ..GcReport::default()
        };
        let mut rows = Vec::new();
        for round in 0..ROUNDS {
            let evicted = self.evict(&limits, round == 0, order.dry_run, tell)?;
            add(&mut report, &mut rows, &evicted);
            if order.dry_run {
                break;
            }
            let mut pace = |_: u64| tell("writing the journal anew", 1.0);
            self.store.compact(&mut pace).map_err(failed)?;
            if evicted.bytes == 0 || evicted.broken_off {
                break;
            }
        }
        let freed: u64 = report.reasons.iter().map(|reason| reason.bytes).sum();
        report.after = if order.dry_run {
            report.before.saturating_sub(freed)
        } else {
            self.store.usage().map_err(failed)?.total()
        };
        report.removed = Rows::fitting(rows);
        report.seconds = began.elapsed().as_secs_f64();
        Ok(report)
    }

    /// What takes the space.
    pub(crate) fn report(&self, tell: OnStep<'_>) -> Result<SpaceReport, CacheError> {
        let usage = self.store.usage().map_err(failed)?;
        let limits = self.limits(&usage);
        let survey = self.store.survey(tell).map_err(failed)?.unwrap_or_default();
        let named = |name: String, share: &Share| SpaceShare {
            name,
            results: share.count,
            bytes: share.bytes,
        };
        let ages = ["less than a day", "1 to 7 days", "7 to 30 days", "30 to 90 days", "more"];
        let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        Ok(SpaceReport {
            total: usage.total(),
            max_bytes: limits.max_bytes,
            min_free: limits.min_free,
            free: usage.free,
            blobs: usage.blobs,
            blob_files: usage.blob_files,
            small_blobs: usage.small_blobs,
            records: usage.records,
            record_bytes: usage.record_bytes,
            notes: usage.notes,
            dead: usage.dead,
            index: usage.index,
            arriving: usage.arriving,
            quarantine: usage.quarantine,
            pins: self.store.pins().len() as u64,
            regions: survey
                .regions
                .iter()
                .map(|(name, share)| named(name.clone(), share))
                .collect(),
            paths: survey.paths.iter().map(|(path, share)| named(text(path), share)).collect(),
            ages: (0..)
                .zip(ages)
                .map(|(at, name)| named(name.to_owned(), &survey.ages[at]))
                .collect(),
        })
    }

    pub(crate) fn pin(&self, pin: Pin, label: &str) -> Result<bool, CacheError> {
        self.store.pin(pin, label).map_err(failed)
    }

    pub(crate) fn unpin(&self, pin: &Pin) -> Result<bool, CacheError> {
        self.store.unpin(pin).map_err(failed)
    }

    pub(crate) fn pins(&self) -> Vec<PinRow> {
        let pins = self.store.pins().into_iter();
        pins.map(|pinned| PinRow { what: pinned.pin.to_string(), label: pinned.label }).collect()
    }
}

fn add(report: &mut GcReport, rows: &mut Vec<GcRow>, evicted: &Evicted) {
    report.results += evicted.actions.len() as u64;
    report.hints += evicted.hints;
    report.blobs += evicted.blobs;
    for (why, (count, bytes)) in &evicted.reasons {
        let known = report.reasons.iter().position(|reason| reason.name == why.as_str());
        let at = known.unwrap_or_else(|| {
            report
                .reasons
                .push(SpaceShare { name: why.as_str().to_owned(), ..SpaceShare::default() });
            report.reasons.len() - 1
        });
        report.reasons[at].results += count;
        report.reasons[at].bytes += bytes;
    }
    rows.extend(evicted.named.iter().map(|gone| GcRow {
        what: gone.what.to_string(),
        path: String::from_utf8_lossy(&gone.path).into_owned(),
        why: gone.why.as_str().to_owned(),
        bytes: gone.bytes,
        idle_s: gone.idle.as_secs(),
        rebuild_s: gone.rebuild.as_secs_f64(),
        refetch_s: gone.refetch.map(|time| time.as_secs_f64()),
    }));
}

/// The thread that makes space in the background; it ends with this.
#[derive(Debug)]
pub(crate) struct Tidier {
    thread: Option<JoinHandle<()>>,
    stop: Arc<(Mutex<bool>, Condvar)>,
}

impl Tidier {
    /// Starts it. A process that may have no more threads does without: space is made by the next.
    pub(crate) fn start(disk: &Arc<DiskCache>) -> Self {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let (disk, stopped) = (Arc::clone(disk), Arc::clone(&stop));
        let pause = move |time: Duration| {
            let (stop, changed) = &*stopped;
            let stop = stop.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = changed.wait_timeout_while(stop, time, |stop| !*stop);
            let (stop, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if *stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let work = move || {
            let mut wait = FIRST;
            while pause(wait).is_continue() {
                if let Err(error) = disk.room().tidy(&pause) {
                    tracing::warn!(%error, "space cannot be made; the next try is in {} s", INTERVAL.as_secs());
                }
                wait = INTERVAL;
            }
        };
        let thread = thread::Builder::new().name("netbuild-room".to_owned()).spawn(work);
        let thread = thread
            .inspect_err(|error| tracing::warn!(%error, "no space is made in the background"))
            .ok();
        Self { thread, stop }
    }
}

impl Drop for Tidier {
    fn drop(&mut self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that makes space panicked");
        }
    }
}
