//! Blobs on their way in, from one source or from several at once.
//!
//! All attempts at one job share what is missing: [`Spread`] says who is asked for what. An attempt
//! that ends, however it ends, leaves what it was asked for to the others.

pub(crate) mod alike;
mod parts;
mod tier;

use crate::{
    attempts::{Reach, Told, Trial},
    disk_cache::failed,
    fault::SourceError,
    fetcher::Want,
    lists::Lists,
    underway::{After, OnItsWay, Underway},
    view::{Whom, source},
    wire,
};
use alike::{Later, Turn};
use bytes::Bytes;
use netbuild_core::{
    cache::{CacheError, Source},
    chunk::{Chunk, MAX_CHUNK},
    delta::MAX_BASE,
    digest::{Digest, Hash},
    moved::{Coding, Meter, Moved, Movement, Progress, Resumed, Watch},
    peer::PeerId,
    plan::Who,
    sooner::Speed,
    spread::{SourceId, Spread},
};
use netbuild_proto::data::Described;
use netbuild_store::{PartialBlob, Store, StoreError};
use netbuild_transfer::{Arrival, Coming, Endpoint, FetchError, Holder, Order, Patience, Terms};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::{ControlFlow, Deref},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::Notify, time::timeout};

/// How often an attempt that has nothing to ask for looks whether that has changed: what another one
/// owes becomes late by the mere passing of time.
const LOOK: Duration = Duration::from_millis(50);
/// How long a source may take to hear that it gave wrong bytes: others are at work meanwhile.
const COMPLAINT: Duration = Duration::from_secs(1);
/// How often whoever watches hears how far it is.
const NEWS: Duration = Duration::from_millis(100);
/// Bytes of chunks in one request for patches: two of their runs.
const PATCHED_BYTES: u64 = 16 << 20;
/// Chunks in one request for patches.
const PATCHED_CHUNKS: usize = 512;
/// Bytes that come as they are although patches were asked for, from which on it is not hoped for patches of the
/// rest, if these are most of it: two chunks.
const PLAIN_BYTES: u64 = 1 << 20;
/// Largest blob that is patched, and largest base, which is in memory as a whole at both ends.
const MAX_PATCHED: u64 = MAX_BASE as u64;
/// Largest sum of blobs whose lists of chunks are asked for before it is known who has them: the
/// lists are some 100 KiB then.
const LOOK_AHEAD_SIZE: u64 = 1 << 30;
/// Payload bytes per second of a link from which on looking for what differs takes longer than
/// sending everything.
const FAST: f64 = 100e6;
/// Share of the pace that is expected of a source at which it is not late: several fetches may share its link.
const LEAST_PACE: f64 = 0.125;
/// The outcome of a part of an attempt: what the source did, and apart from it what this agent's
/// own store did.
type Part<T> = Result<Result<T, FetchError>, CacheError>;

/// Blobs that are to be had.
pub(crate) struct Job<'a> {
    store: &'a Arc<dyn Store>,
    /// `None` where there are no peers to ask.
    endpoint: Option<&'a Endpoint>,
    want: Want<'a>,
    spread: RefCell<Spread>,
    /// What each item of the spread is.
    items: RefCell<Vec<Item>>,
    /// The item of each chunk: one that is wanted in several places comes once.
    by_chunk: RefCell<BTreeMap<Hash, usize>>,
    /// What may come as patches, and nobody was asked for yet.
    patches: RefCell<VecDeque<Patches>>,
    blobs: RefCell<Vec<Wanted>>,
    id: u64,
    /// What is on its way in, of all jobs.
    underway: &'a Arc<Underway>,
    /// Chunks of blobs that came with their records.
    lists: &'a Lists,
    /// Which of the blobs, of known chunks, are begun after all others, as they are like one that is on its way.
    later: RefCell<BTreeMap<usize, Later>>,
    /// Sources that told a manifest which was none; of these, no further one is taken.
    liars: RefCell<BTreeSet<PeerId>>,
    /// Who is asked now.
    sources: RefCell<BTreeSet<Who>>,
    /// Those of them who fetch for this agent, and may not have begun; and who has all of it by now.
    brings: RefCell<BTreeSet<PeerId>>,
    whole: RefCell<BTreeSet<PeerId>>,
    movement: RefCell<Movement>,
    /// What each source is sending.
    runs: RefCell<BTreeMap<SourceId, Run>>,
    /// Bytes that will not come, as nobody wants them any more.
    given_up: Cell<u64>,
    news: RefCell<News<'a>>,
    /// Somebody may have something to do now.
    changed: Notify,
}

/// Something that is asked for and verified as one.
#[derive(Clone, Debug)]
struct Item {
    chunk: Chunk,
    places: Vec<Place>,
}

/// Where an item belongs: which of the blobs, and which of its chunks.
#[derive(Clone, Copy, Debug)]
struct Place {
    blob: usize,
    at: usize,
}

/// Chunks of one blob that follow one another, with what they may be patched against.
#[derive(Debug)]
struct Patches {
    order: Order,
    items: Vec<usize>,
}

#[derive(Debug)]
struct Wanted {
    blob: Digest,
    state: State,
    /// Bytes that were sent for it, and who sent the first.
    sent: u64,
    from: Option<Source>,
}

#[derive(Debug)]
enum State {
    /// One chunk, which is asked for by the blob's own name: this item.
    Small(usize),
    /// Its chunks are not known.
    Unknown,
    Open(Open),
    Done,
    /// Nobody wants it any more.
    GivenUp,
    /// There cannot be such a blob: its hash is not that of nothing.
    Impossible,
}

/// A blob of many chunks, some of which are here.
#[derive(Debug)]
struct Open {
    told_by: PeerId,
    partial: Box<dyn PartialBlob>,
    /// Where each chunk begins.
    starts: Vec<u64>,
    /// How many chunks are missing.
    left: usize,
    /// Which list of chunks it is.
    list: u64,
    /// The item of each chunk; none of those that were here from the beginning.
    items: Vec<Option<usize>>,
    /// Others may be patched against it once it is here.
    underway: Option<OnItsWay>,
}

/// A run of chunks that a source is sending. None of them is here before all of it is.
#[derive(Debug)]
struct Run {
    /// Those that are not here yet.
    items: VecDeque<usize>,
    decoded: u64,
    wire: u64,
    /// Bytes of these items, as they will be, that have come.
    here: u64,
}

/// Tells whoever watches how far it is.
struct News<'a> {
    watch: &'a dyn Watch,
    total: u64,
    meter: Meter,
    told: Option<Instant>,
}

impl<'a> News<'a> {
    fn new(want: &Want<'a>) -> Self {
        let total = want.blobs.iter().map(|blob| blob.size).sum();
        Self { watch: want.watch, total, meter: Meter::default(), told: None }
    }
}

/// An attempt at a peer.
#[derive(Clone, Copy)]
struct Peering<'t> {
    trial: &'t Trial,
    whom: &'t Whom,
    endpoint: &'t Endpoint,
}

impl Deref for Peering<'_> {
    type Target = Trial;

    fn deref(&self) -> &Trial {
        self.trial
    }
}

/// A source of the job, until it is dropped.
struct Joined<'j, 'a> {
    job: &'j Job<'a>,
    who: Who,
    id: SourceId,
}

impl Drop for Joined<'_, '_> {
    fn drop(&mut self) {
        self.job.spread.borrow_mut().leave(self.id);
        self.job.runs.borrow_mut().remove(&self.id);
        self.job.sources.borrow_mut().remove(&self.who);
        self.job.changed.notify_waiters();
    }
}

impl<'a> Job<'a> {
    /// A job for blobs that are not here.
    pub(crate) fn new(
        store: &'a Arc<dyn Store>,
        endpoint: Option<&'a Endpoint>,
        underway: &'a Arc<Underway>,
        lists: &'a Lists,
        want: &Want<'a>,
    ) -> Result<Self, CacheError> {
        let job = Self {
            store,
            endpoint,
            id: underway.job(),
            underway,
            lists,
            later: RefCell::default(),
            want: want.clone(),
            spread: RefCell::default(),
            items: RefCell::default(),
            by_chunk: RefCell::default(),
            patches: RefCell::default(),
            blobs: RefCell::default(),
            liars: RefCell::default(),
            sources: RefCell::default(),
            brings: RefCell::default(),
            whole: RefCell::default(),
            movement: RefCell::default(),
            runs: RefCell::default(),
            given_up: Cell::new(0),
            news: RefCell::new(News::new(want)),
            changed: Notify::new(),
        };
        for blob in want.blobs {
            let state = if blob.size == 0 {
                match store.put_blob(blob, &mut [].as_slice()) {
                    Ok(()) => State::Done,
                    Err(StoreError::Mismatch(_)) => State::Impossible,
                    Err(error) => return Err(failed(error)),
                }
            } else if blob.size <= MAX_CHUNK as u64 {
                let chunk = Chunk { hash: blob.hash, len: blob.size as u32 };
                let item = job.add(chunk, Place { blob: job.blobs.borrow().len(), at: 0 });
                if let Some(bases) = want.bases.get(blob) {
                    job.offer(*blob, bases, &[(0, chunk, item)]);
                }
                State::Small(item)
            } else {
                State::Unknown
            };
            job.blobs.borrow_mut().push(Wanted { blob: *blob, state, sent: 0, from: None });
        }
        Ok(job)
    }

    /// One more chunk is missing at a place. Returns its item.
    fn add(&self, chunk: Chunk, place: Place) -> usize {
        let (mut by_chunk, mut items) = (self.by_chunk.borrow_mut(), self.items.borrow_mut());
        let mut spread = self.spread.borrow_mut();
        match by_chunk.get(&chunk.hash) {
            Some(index) if !spread.has(*index) => {
                items[*index].places.push(place);
                *index
            }
            _ => {
                let index = spread.add(chunk.len);
                by_chunk.insert(chunk.hash, index);
                items.push(Item { chunk, places: vec![place] });
                index
            }
        }
    }

    /// Chunks of a blob, each with its place and its item, may come as patches.
    fn offer(&self, target: Digest, bases: &[Digest], missing: &[(usize, Chunk, usize)]) {
        let bases: Vec<Digest> =
            bases.iter().filter(|base| base.size <= MAX_PATCHED).copied().collect();
        if bases.is_empty() || target.size > MAX_PATCHED {
            return;
        }
        self.want.course.patched();
        let mut left = missing;
        while let Some((first, ..)) = left.first() {
            let mut bytes = 0;
            let follows = left.iter().enumerate().take(PATCHED_CHUNKS).take_while(|(n, it)| {
                bytes += u64::from(it.1.len);
                it.0 == first + n && (bytes <= PATCHED_BYTES || *n == 0)
            });
            let (these, rest) = left.split_at(follows.count());
            left = rest;
            let chunks = these.iter().map(|it| it.1).collect();
            let order = Order::Patches { target, first: *first, chunks, bases: bases.clone() };
            let items = these.iter().map(|it| it.2).collect();
            self.patches.borrow_mut().push_back(Patches { order, items });
        }
    }

    /// What was sent so far.
    pub(crate) fn movement(&self) -> Movement {
        self.movement.borrow().clone()
    }

    /// Tells how far it is, but not too often.
    fn tell(&self, from: &Source, coding: Coding) {
        let now = Instant::now();
        if !self.is_time_for_news(now) {
            return;
        }
        let mut news = self.news.borrow_mut();
        news.told = Some(now);
        let unknown: u64 = self.unknown().iter().map(|(_, blob)| blob.size).sum();
        let left = (self.spread.borrow().left_bytes() + unknown).saturating_sub(self.arriving());
        let done = news.total.saturating_sub(left);
        let here = done.saturating_sub(self.given_up.get());
        let per_second = news.meter.per_second(now, here);
        let movement = self.movement.borrow();
        let Moved { mut logical, mut wire } = movement.total();
        for run in self.runs.borrow().values() {
            (logical, wire) = (logical + run.decoded, wire + run.wire);
        }
        let swells = logical as f64 / wire.max(1) as f64;
        self.want.course.moving(Speed { per_second, swells }, &|| self.left());
        let mut sources: Vec<Source> = vec![from.clone()];
        sources.extend(
            movement.parts.iter().map(|part| &part.source).filter(|it| *it != from).cloned(),
        );
        news.watch.moving(&Progress {
            total: news.total,
            done,
            wire: movement.total().wire,
            per_second,
            sources,
            coding: Some(coding),
            resumed: movement.resumed,
        });
    }

    fn is_time_for_news(&self, now: Instant) -> bool {
        let told = self.news.borrow().told;
        told.is_none_or(|told| now.duration_since(told) >= NEWS)
    }

    /// A source is at a run of what it was `asked` for.
    fn handle_coming(
        &self,
        id: SourceId,
        from: &Source,
        coming: &Coming,
        asked: &VecDeque<(usize, Option<Digest>)>,
    ) {
        if !self.is_time_for_news(Instant::now()) {
            return;
        }
        let Some(coding) = wire::coding(coming.coding) else { return };
        let &Coming { chunks, decoded, wire, here, .. } = coming;
        let items = asked.iter().take(chunks).map(|(index, _)| *index).collect();
        let here = (decoded as f64 * here as f64 / wire.max(1) as f64) as u64;
        self.runs.borrow_mut().insert(id, Run { items, decoded, wire, here });
        self.tell(from, coding);
    }

    /// An item of the run that a source was at is not on its way any more.
    fn handle_came(&self, id: SourceId, bytes: u64) {
        let mut runs = self.runs.borrow_mut();
        let Some(run) = runs.get_mut(&id) else { return };
        run.items.pop_front();
        run.here = run.here.saturating_sub(bytes);
        if run.items.is_empty() {
            runs.remove(&id);
        }
    }

    /// Bytes of what is missing that came in runs which are not here yet.
    fn arriving(&self) -> u64 {
        self.runs.borrow().values().map(|run| run.here).sum()
    }

    /// What is still to come until each blob that is missing is here, in bytes: first what is on its way, wanted or
    /// not, then items in the order in which they were added, then blobs of which nobody has told the chunks.
    fn left(&self) -> Vec<(Digest, u64)> {
        let (blobs, spread) = (self.blobs.borrow(), self.spread.borrow());
        let (items, runs) = (self.items.borrow(), self.runs.borrow());
        let len = |item: &usize| u64::from(items[*item].chunk.len);
        let on_the_way: BTreeSet<usize> =
            runs.values().flat_map(|run| &run.items).copied().collect();
        let first = on_the_way.iter().map(len).sum::<u64>().saturating_sub(self.arriving());
        let mut sum = first;
        let up_to: Vec<u64> = (0..items.len())
            .map(|item| {
                if on_the_way.contains(&item) {
                    return first;
                }
                sum += if spread.has(item) { 0 } else { len(&item) };
                sum
            })
            .collect();
        let missing = |item: &usize| !spread.has(*item);
        blobs
            .iter()
            .filter_map(|wanted| {
                let left = match &wanted.state {
                    State::Small(item) => up_to[*item],
                    State::Open(open) => open
                        .items
                        .iter()
                        .flatten()
                        .filter(|item| missing(item))
                        .max()
                        .map_or(0, |item| up_to[*item]),
                    State::Unknown => {
                        sum += wanted.blob.size;
                        sum
                    }
                    State::Done | State::GivenUp | State::Impossible => return None,
                };
                Some((wanted.blob, left))
            })
            .collect()
    }

    /// What has not arrived and is wanted.
    pub(crate) fn missing(&self) -> Vec<Digest> {
        let blobs = self.blobs.borrow();
        let missing =
            blobs.iter().filter(|wanted| !matches!(wanted.state, State::Done | State::GivenUp));
        missing.map(|wanted| wanted.blob).collect()
    }

    /// What has not arrived, and what nobody wants any more.
    pub(crate) fn lacking(&self) -> Vec<Digest> {
        let blobs = self.blobs.borrow();
        let lacking = blobs.iter().filter(|wanted| !matches!(wanted.state, State::Done));
        lacking.map(|wanted| wanted.blob).collect()
    }

    /// Leaves out what nobody wants any more. What was asked for already still comes.
    fn give_up(&self) {
        let gone: BTreeSet<Digest> = self.want.course.given_up().into_iter().collect();
        if gone.is_empty() {
            return;
        }
        let (mut blobs, mut items) = (self.blobs.borrow_mut(), self.items.borrow_mut());
        let mut spread = self.spread.borrow_mut();
        for (index, wanted) in blobs.iter_mut().enumerate() {
            let is_over = matches!(wanted.state, State::Done | State::GivenUp | State::Impossible);
            if is_over || !gone.contains(&wanted.blob) {
                continue;
            }
            let before = spread.left_bytes();
            let mut leave = |item: usize| {
                items[item].places.retain(|place| place.blob != index);
                if items[item].places.is_empty() {
                    spread.handle_have(item);
                }
            };
            let mut unknown = 0;
            match std::mem::replace(&mut wanted.state, State::GivenUp) {
                State::Small(item) => leave(item),
                State::Open(open) => open.items.iter().flatten().for_each(|item| leave(*item)),
                _ => unknown = wanted.blob.size,
            }
            let freed = before - spread.left_bytes() + unknown;
            self.given_up.set(self.given_up.get() + freed);
        }
    }

    /// Whether a peer is asked now.
    pub(crate) fn is_asked(&self, peer: &PeerId) -> bool {
        self.sources.borrow().contains(&Who::Peer(*peer))
    }

    /// The peer was asked to fetch what is wanted: it counts as getting it even before it has any.
    pub(crate) fn handle_brings(&self, peer: PeerId) {
        self.brings.borrow_mut().insert(peer);
    }

    /// Bytes that are missing, and bytes per second at which they come, as far as that is known.
    pub(crate) fn outlook(&self) -> (u64, f64) {
        let unknown: u64 = self.unknown().iter().map(|(_, blob)| blob.size).sum();
        let spread = self.spread.borrow();
        (spread.left_bytes() + unknown, spread.total_rate())
    }

    /// A source is at it, until the result is dropped.
    fn join(&self, who: Who, trial: &Trial) -> Joined<'_, 'a> {
        let (mut spread, now) = (self.spread.borrow_mut(), Instant::now());
        let id = match (trial.arriving, trial.sure) {
            (true, _) => spread.join_without(trial.pace, now),
            (false, true) => spread.join(trial.pace, now),
            (false, false) => spread.join_unsure(trial.pace, now),
        };
        drop(spread);
        self.sources.borrow_mut().insert(who);
        Joined { job: self, who, id }
    }

    /// Takes from one source what it has of what is missing, until nothing is, or it has nothing
    /// more to give.
    pub(crate) async fn attempt(
        &self,
        trial: Trial,
    ) -> Result<Result<Told<()>, SourceError>, CacheError> {
        match (&trial.to, self.endpoint) {
            (Reach::Tier(tier), _) => self.attempt_tier(&trial, tier).await,
            (Reach::Peer(whom), Some(endpoint)) => {
                let peering = Peering { trial: &trial, whom, endpoint };
                Ok(self.attempt_peer(peering).await?.map_err(Into::into))
            }
            (Reach::Peer(_), None) => Ok(Ok(Told::Missing)),
        }
    }

    async fn attempt_peer(&self, trial: Peering<'_>) -> Part<Told<()>> {
        let joined = self.join(Who::Peer(trial.whom.peer), &trial);
        let id = joined.id;
        let grows = Cell::new(trial.arriving);
        if !trial.arriving {
            return self.take_on(id, &trial, &grows).await;
        }
        tokio::select! {
            taken = self.take_on(id, &trial, &grows) => taken,
            failed = async {
                match self.watch(id, &trial, &grows).await {
                    Ok(Ok(())) => std::future::pending().await,
                    Ok(Err(error)) => Ok(Err(error)),
                    Err(error) => Err(error),
                }
            } => failed,
        }
    }

    /// Goes on while the source has something, or `grows`.
    async fn take_on(
        &self,
        id: SourceId,
        trial: &Peering<'_>,
        grows: &Cell<bool>,
    ) -> Part<Told<()>> {
        // Blobs whose chunks it was asked to tell.
        let mut asked = BTreeSet::new();
        loop {
            let mut changed = pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            self.give_up();
            if let Err(error) = self.open(trial, &mut asked, grows.get()).await? {
                return Ok(Err(error));
            }
            if let Err(error) = self.take(id, trial).await? {
                return Ok(Err(error));
            }
            if self.missing().is_empty() {
                return Ok(Ok(Told::Got(())));
            }
            if !grows.get() && self.spread.borrow().is_exhausted(id) {
                return Ok(Ok(Told::Missing));
            }
            trial.rests();
            // Whether something changed or not, it is looked again.
            let _ = timeout(LOOK, changed).await;
        }
    }

    /// Gets the chunks of blobs that nobody has told yet, and takes what is here already.
    /// Of one that `grows` they are asked for until it has begun.
    async fn open(
        &self,
        trial: &Peering<'_>,
        asked: &mut BTreeSet<usize>,
        grows: bool,
    ) -> Part<()> {
        if self.liars.borrow().contains(&trial.whom.peer) {
            return Ok(Ok(()));
        }
        let is_slow = alike::is_slow(trial.pace.goodput);
        let mut unknown = self.untold();
        unknown.retain(|(index, _)| asked.insert(*index));
        let mut unlisted = Vec::new();
        for (index, blob) in unknown {
            let Some(described) = self.lists.take(&blob, &trial.whom.peer) else {
                unlisted.push((index, blob));
                continue;
            };
            if let Err(error) = self.told(index, described, trial.whom.peer, is_slow)? {
                return Ok(Err(error));
            }
        }
        if unlisted.is_empty() {
            return Ok(Ok(()));
        }
        trial.alive(0);
        self.list(trial.endpoint, trial.whom, trial.silence(), unlisted, is_slow, |index| {
            if grows {
                asked.remove(&index);
            }
        })
        .await
    }

    /// Asks a peer for the chunks of all blobs that nobody has told, before it is known whether it
    /// has them; see [`Self::list`].
    pub(crate) async fn look_ahead(
        &self,
        endpoint: &Endpoint,
        whom: &Whom,
        is_slow: bool,
    ) -> Result<(), CacheError> {
        let unknown = self.untold();
        let size: u64 = unknown.iter().map(|(_, blob)| blob.size).sum();
        if unknown.is_empty() || size > LOOK_AHEAD_SIZE {
            return Ok(());
        }
        let patience = Patience::default();
        let listed = self.list(endpoint, whom, patience, unknown, is_slow, |_| ()).await?;
        if let Err(error) = listed {
            tracing::debug!(peer = %whom.peer.short(), %error, "did not tell chunks");
        }
        Ok(())
    }

    /// Asks a peer for the chunks of these blobs, and begins those that it tells, on a link that `is_slow` not those
    /// yet that may be patched against another that is on its way; `lacks` hears which it does not tell.
    async fn list(
        &self,
        endpoint: &Endpoint,
        whom: &Whom,
        patience: Patience,
        unknown: Vec<(usize, Digest)>,
        is_slow: bool,
        mut lacks: impl FnMut(usize),
    ) -> Part<()> {
        let blobs: Vec<Digest> = unknown.iter().map(|(_, blob)| *blob).collect();
        let manifests = match endpoint.manifests(&whom.holder(), &blobs, patience).await {
            Ok(manifests) => manifests,
            Err(error) => return Ok(Err(error)),
        };
        for ((index, _), manifest) in unknown.into_iter().zip(manifests) {
            let Some(described) = manifest else {
                lacks(index);
                continue;
            };
            if let Err(error) = self.told(index, described, whom.peer, is_slow)? {
                return Ok(Err(error));
            }
        }
        self.changed.notify_waiters();
        Ok(Ok(()))
    }

    /// The chunks of a blob are known.
    fn told(&self, blob: usize, described: Described, by: PeerId, is_slow: bool) -> Part<()> {
        if self.later.borrow().contains_key(&blob) || !self.is_unknown(blob) {
            // Another one was faster.
            return Ok(Ok(()));
        }
        match self.turn(&described, is_slow)? {
            Turn::Now(way) => self.begin(blob, &described, by, way, None),
            Turn::Later(sketch) => {
                self.later.borrow_mut().insert(blob, Later { described, sketch, told_by: by });
                Ok(Ok(()))
            }
        }
    }

    fn is_unknown(&self, blob: usize) -> bool {
        matches!(self.blobs.borrow()[blob].state, State::Unknown)
    }

    /// Begins a blob whose chunks are known, with those of them that are here. What is missing may come as patches, also
    /// of what it comes `after`.
    fn begin(
        &self,
        blob: usize,
        described: &Described,
        told_by: PeerId,
        underway: Option<OnItsWay>,
        after: Option<After>,
    ) -> Part<()> {
        let manifest = &described.manifest;
        let mut partial = self.store.begin_blob(manifest).map_err(failed)?;
        let held = self.store.held(manifest).map_err(failed)?;
        let (mut missing, mut before) = (Vec::new(), 0);
        let mut items = vec![None; manifest.chunks().len()];
        for (at, chunk) in manifest.chunks().iter().enumerate() {
            if partial.has(at) {
                before += 1;
                continue;
            }
            let here = if held[at] { self.store.chunk(chunk).map_err(failed)? } else { None };
            match here {
                Some(bytes) => partial.write_chunk(at, &bytes).map_err(failed)?,
                None => {
                    let item = self.add(*chunk, Place { blob, at });
                    items[at] = Some(item);
                    missing.push((at, *chunk, item));
                }
            }
        }
        if before > 0 {
            let chunks = u32::try_from(manifest.chunks().len()).unwrap_or(u32::MAX);
            let resumed = Resumed { chunks_here: before, chunks };
            *self.movement.borrow_mut().resumed.get_or_insert_default() += resumed;
        }
        let bases = self.bases(described, after)?;
        self.offer(manifest.blob(), &bases, &missing);
        let (list, left) = (manifest.list_id(), missing.len());
        let starts = manifest.offsets().map(|(start, _)| start).collect();
        let open = Open { told_by, partial, starts, left, list, items, underway };
        self.blobs.borrow_mut()[blob].state = State::Open(open);
        self.finish(blob)
    }

    /// What a source is to be asked for next, with the items of that; patches first, as what they do
    /// not bring has to be asked for anew, but those of what is on its way last.
    fn order(&self, id: SourceId, trial: &Peering<'_>) -> Part<Option<(Order, Vec<usize>)>> {
        loop {
            let next = self.next_order(id, trial);
            if next.is_some() {
                return Ok(Ok(next));
            }
            let (is_all_asked, is_exhausted) = {
                let spread = self.spread.borrow();
                (spread.is_all_asked(), spread.is_exhausted(id))
            };
            if !is_all_asked && !is_exhausted {
                return Ok(Ok(None));
            }
            // What nobody is asked for may never come.
            match self.begin_later(is_all_asked)? {
                Ok(true) => {}
                Ok(false) => return Ok(Ok(None)),
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    fn next_order(&self, id: SourceId, trial: &Peering<'_>) -> Option<(Order, Vec<usize>)> {
        self.give_up();
        let mut spread = self.spread.borrow_mut();
        while trial.pace.goodput < FAST
            && let Some(Patches { order, items }) = self.patches.borrow_mut().pop_front()
        {
            if spread.claim(id, &items, Instant::now()) {
                return Some((order, items));
            }
        }
        let run = spread.poll(id, Instant::now());
        let items = self.items.borrow();
        let chunks = run.iter().map(|index| items[*index].chunk).collect();
        (!run.is_empty()).then_some((Order::Chunks(chunks), run))
    }

    /// Asks a source for what it is to give, until that is nothing for now.
    async fn take(&self, id: SourceId, trial: &Peering<'_>) -> Part<()> {
        let from = source(trial.whom);
        loop {
            // Items that were asked for and not answered; those in patches with the likeliest base.
            let asked = RefCell::new(VecDeque::<(usize, Option<Digest>)>::new());
            let due = || {
                let asked = asked.borrow();
                if let Some((_, Some(base))) = asked.front()
                    && self.underway.has(base)
                {
                    // It waits for that, however long that takes.
                    return trial.rests();
                }
                trial.alive(match asked.front() {
                    // A patch may take its time to be made.
                    Some((_, Some(_))) => u64::MAX,
                    Some((index, None)) => self.items.borrow()[*index].chunk.len.into(),
                    None => 0,
                });
            };
            let mut failed_to_begin = Ok(Ok(()));
            let next = || {
                let (order, items) = match self.order(id, trial) {
                    Ok(Ok(next)) => next?,
                    failure => {
                        failed_to_begin = failure.map(|of_source| of_source.map(drop));
                        return None;
                    }
                };
                let base = match &order {
                    Order::Patches { bases, .. } => bases.first().copied(),
                    Order::Chunks(_) => None,
                };
                let idle = asked.borrow().is_empty();
                asked.borrow_mut().extend(items.into_iter().map(|index| (index, base)));
                if idle {
                    due();
                }
                Some(order)
            };
            let (mut kept, mut answered) = (Ok(Ok(())), false);
            // Bytes that were asked for as patches, and came so, or otherwise.
            let (mut patched, mut plain) = (0_u64, 0_u64);
            let deliver = |arrival: Option<Arrival>| {
                answered = true;
                let Some((index, base)) = asked.borrow_mut().pop_front() else {
                    return ControlFlow::Break(());
                };
                let bytes = self.items.borrow()[index].chunk.len.into();
                match arrival {
                    Some(arrival) => {
                        self.note(&from, index, &arrival, base, trial);
                        match (base, wire::coding(arrival.coding)) {
                            (None, _) => {}
                            (Some(_), Some(Coding::Delta)) => patched += arrival.bytes.len() as u64,
                            (Some(_), _) => plain += arrival.bytes.len() as u64,
                        }
                        if plain >= PLAIN_BYTES && plain > patched {
                            self.spread.borrow_mut().handle_plain(id);
                        }
                        kept = self.keep(id, index, &arrival.bytes);
                    }
                    None => {
                        let (mut spread, now) = (self.spread.borrow_mut(), Instant::now());
                        match base {
                            Some(_) => spread.handle_unclaimed(id, index, now),
                            None => spread.handle_absent(id, index, now),
                        }
                    }
                }
                self.handle_came(id, bytes);
                self.changed.notify_waiters();
                // After the disk had its time, which is not that of the source.
                due();
                if matches!(kept, Ok(Ok(()))) && !self.spread.borrow().is_whole() {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            };
            let (store, underway) = (Arc::clone(self.store), Arc::clone(self.underway));
            let load = move |base: &Digest| {
                underway.wait(base);
                match store.blob_bytes(base, MAX_PATCHED) {
                    Ok(bytes) => bytes.map(Bytes::from),
                    Err(error) => {
                        tracing::warn!(%base, %error, "cannot read what a patch starts from");
                        None
                    }
                }
            };
            let terms = Terms {
                patience: trial.silence(),
                priority: self.want.priority,
                goodput: trial.goodput,
            };
            let holder = trial.whom.holder();
            // Bytes of the run that comes by which whoever sends it was last known not to be late: one may be of
            // megabytes.
            let heard = Cell::new(0);
            let pace = trial.pace.goodput * trial.pace.patience.as_secs_f64();
            let step = ((pace * LEAST_PACE) as u64).max(1);
            let hear = |run: &Coming| {
                let before = if run.here < heard.get() { 0 } else { heard.get() };
                heard.set(before);
                if run.here - before >= step {
                    heard.set(run.here);
                    due();
                    self.spread.borrow_mut().handle_coming(id, Instant::now());
                }
                self.handle_coming(id, &from, run, &asked.borrow());
            };
            let answer = trial.endpoint.chunks(&holder, next, load, terms, hear, deliver).await;
            self.runs.borrow_mut().remove(&id);
            self.spread.borrow_mut().handle_given_up(id);
            for part in [kept, failed_to_begin] {
                if let Err(error) = part? {
                    return Ok(Err(error));
                }
            }
            match answer {
                Err(error) => {
                    self.complain(trial.endpoint, &holder, &error).await;
                    return Ok(Err(error));
                }
                Ok(()) if !answered => return Ok(Ok(())),
                Ok(()) => {}
            }
        }
    }

    /// Tells a source which gave wrong bytes of which chunk, so that it looks for what is damaged.
    async fn complain(&self, endpoint: &Endpoint, holder: &Holder, error: &FetchError) {
        let FetchError::WrongBytes { peer, chunk } = error else { return };
        self.changed.notify_waiters();
        let told = endpoint.doubt(holder, chunk, Patience::default());
        let told = timeout(COMPLAINT, told).await;
        tracing::info!(peer = %peer.short(), chunk = %chunk.hash.short(), ?told, "told of wrong bytes");
    }

    /// Counts what came for an item.
    fn note(
        &self,
        from: &Source,
        index: usize,
        arrival: &Arrival,
        base: Option<Digest>,
        trial: &Peering<'_>,
    ) {
        let moved = Moved { logical: arrival.bytes.len() as u64, wire: arrival.wire };
        trial.count(moved.logical);
        let Some(coding) = wire::coding(arrival.coding) else { return };
        {
            let mut movement = self.movement.borrow_mut();
            movement.add(from, coding, moved);
            if coding == Coding::Delta {
                movement.base = movement.base.or(base);
            }
        }
        let place = self.items.borrow()[index].places.first().copied();
        if let Some(Place { blob, .. }) = place {
            self.charge(blob, from, moved.wire);
        }
        self.tell(from, coding);
    }

    /// Counts what was sent for a blob: of a chunk that is wanted in several places, for the first.
    fn charge(&self, blob: usize, from: &Source, sent: u64) {
        let wanted = &mut self.blobs.borrow_mut()[blob];
        wanted.sent += sent;
        wanted.from.get_or_insert_with(|| from.clone());
    }

    /// A blob is here.
    fn landed(&self, blob: usize) {
        let wanted = &mut self.blobs.borrow_mut()[blob];
        wanted.state = State::Done;
        (self.want.landed)(&wanted.blob, wanted.from.as_ref(), wanted.sent);
    }

    /// Keeps an item, unless it has come from another source meanwhile.
    fn keep(&self, id: SourceId, index: usize, bytes: &[u8]) -> Part<()> {
        if self.spread.borrow().has(index) {
            self.spread.borrow_mut().handle_arrived(id, index, Instant::now());
            return Ok(Ok(()));
        }
        let places = std::mem::take(&mut self.items.borrow_mut()[index].places);
        for Place { blob: index, at } in &places {
            let is_whole = {
                let Wanted { blob, state, .. } = &mut self.blobs.borrow_mut()[*index];
                match state {
                    State::Small(_) => {
                        self.store.put_blob(blob, &mut &*bytes).map_err(failed)?;
                        true
                    }
                    State::Open(open) => {
                        open.partial.write_chunk(*at, bytes).map_err(failed)?;
                        open.left -= 1;
                        if let Some(way) = &open.underway {
                            way.handle_moved();
                        }
                        false
                    }
                    State::Unknown | State::Done | State::GivenUp | State::Impossible => false,
                }
            };
            if is_whole {
                self.landed(*index);
            }
        }
        self.spread.borrow_mut().handle_arrived(id, index, Instant::now());
        for Place { blob, .. } in places {
            if let Err(error) = self.finish(blob)? {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    /// Keeps a blob all of whose chunks have arrived.
    fn finish(&self, index: usize) -> Part<()> {
        let open = {
            let state = &mut self.blobs.borrow_mut()[index].state;
            if !matches!(state, State::Open(open) if open.left == 0) {
                return Ok(Ok(()));
            }
            std::mem::replace(state, State::Unknown)
        };
        let State::Open(open) = open else { return Ok(Ok(())) };
        match open.partial.finish() {
            Ok(()) => {
                self.landed(index);
                Ok(Ok(()))
            }
            // Every chunk was right, so the manifest was not.
            Err(error @ StoreError::Mismatch(_)) => {
                let peer = open.told_by;
                tracing::warn!(%peer, %error, "a peer told a wrong manifest");
                self.liars.borrow_mut().insert(peer);
                let why = "a manifest that is not of its blob".to_owned();
                Ok(Err(FetchError::Malformed { peer, why }))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// The blobs of which nobody has told the chunks.
    fn untold(&self) -> Vec<(usize, Digest)> {
        let (mut untold, later) = (self.unknown(), self.later.borrow());
        untold.retain(|(index, _)| !later.contains_key(index));
        untold
    }

    /// The blobs that are not begun.
    fn unknown(&self) -> Vec<(usize, Digest)> {
        let blobs = self.blobs.borrow();
        let unknown = |(_, wanted): &(usize, &Wanted)| matches!(wanted.state, State::Unknown);
        blobs.iter().enumerate().filter(unknown).map(|(index, it)| (index, it.blob)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bases::Bases, fetcher::Scope, flights::Course, lists::Listed, underway::Begun, view::Whom,
    };
    use futures::FutureExt as _;
    use netbuild_core::{
        chunk::{Chunker, Manifest},
        codec::Policy,
        key::ActionKey,
        peer::Identity,
    };
    use netbuild_proto::data::Priority;
    use netbuild_store::MemoryStore;
    use netbuild_transfer::{Options, Provide};
    use std::{
        collections::BTreeMap,
        sync::{
            Mutex,
            mpsc::{Receiver, Sender, channel},
        },
    };
    use tokio::sync::{Notify, mpsc};

    /// A source that hands out chunks only once its gate is open.
    #[derive(Debug)]
    struct Source {
        chunks: BTreeMap<Hash, Vec<u8>>,
        manifest: Option<Manifest>,
        asked: Notify,
        gate: Mutex<Receiver<()>>,
        doubted: Mutex<Vec<Chunk>>,
    }

    impl Provide for Source {
        fn record(&self, _: &ActionKey) -> Option<Vec<u8>> {
            None
        }

        fn manifest(&self, _: &Digest) -> Option<Manifest> {
            self.manifest.clone()
        }

        fn chunk(&self, chunk: &Chunk) -> Option<Vec<u8>> {
            self.asked.notify_one();
            // Open is what nobody can close any more.
            let _ = self.gate.lock().unwrap().recv();
            self.chunks.get(&chunk.hash).cloned()
        }

        fn has(&self, _: &Digest) -> bool {
            false
        }

        fn doubt(&self, _: &PeerId, chunk: &Chunk) -> bool {
            self.doubted.lock().unwrap().push(*chunk);
            false
        }

        fn bring(&self, _: &PeerId, blobs: &[Digest]) -> Vec<bool> {
            vec![false; blobs.len()]
        }
    }

    fn endpoint<P: Provide>(seed: u8, source: &Arc<P>) -> (Endpoint, Whom) {
        let identity = Identity::from_seed(&[seed; 32]);
        let peer = identity.peer_id();
        let endpoint = Endpoint::bind(Options {
            listen: "127.0.0.1:0".parse().unwrap(),
            identity,
            admits: Arc::new(|_| true),
            provide: Arc::<P>::clone(source),
            policy: Policy::default(),
            toll: None,
            samples: mpsc::channel(1).0,
        });
        let endpoint = endpoint.unwrap();
        let addresses = vec![endpoint.local_addr()];
        (endpoint, Whom { peer, region: String::new(), addresses })
    }

    /// A source of these bytes, one chunk each, and what opens its gate.
    fn source(all: &[Vec<u8>], manifest: Option<Manifest>) -> (Arc<Source>, Sender<()>) {
        let (opens, gate) = channel();
        let chunks = all.iter().map(|bytes| (Hash::of(bytes), bytes.clone())).collect();
        let (asked, gate, doubted) = (Notify::new(), Mutex::new(gate), Mutex::default());
        (Arc::new(Source { chunks, manifest, asked, gate, doubted }), opens)
    }

    fn want(blobs: &[Digest]) -> Want<'_> {
        static NONE: Bases = Bases::new();
        Want {
            what: String::new(),
            blobs,
            bases: &NONE,
            holders: BTreeSet::new(),
            build_ms: None,
            scope: Scope::Mesh,
            rounds: 1,
            alike: true,
            priority: Priority::Normal,
            watch: &(),
            landed: &|_, _, _| (),
            course: &(),
        }
    }

    fn open((source, _): (Arc<Source>, Sender<()>)) -> Arc<Source> {
        source
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_the_second_of_two_lacks_comes_from_the_first_though_it_is_late() {
        let mut small: Vec<Vec<u8>> = (0..10_u8).map(|n| vec![n; 100]).collect();
        small.sort_by_key(|bytes| Digest::of(bytes));
        let (slow, opens) = source(&small, None);
        let quick = open(source(&small[..9], None));
        let (nobody, me) = (open(source(&[], None)), 9);
        let ((_slow_end, slow_at), (_quick_end, quick_at)) =
            (endpoint(1, &slow), endpoint(2, &quick));
        let (here, _) = endpoint(me, &nobody);
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let blobs: Vec<Digest> = small.iter().map(|bytes| Digest::of(bytes)).collect();
        let (underway, lists) = (Arc::default(), Lists::default());
        let job = Job::new(&store, Some(&here), &underway, &lists, &want(&blobs)).unwrap();

        let mut first = Box::pin(job.attempt(Trial::alone(slow_at)));
        assert!(first.as_mut().now_or_never().is_none());
        let second = job.attempt(Trial::alone(quick_at)).await.unwrap();
        assert!(matches!(second, Ok(Told::Missing)), "{second:?}");
        assert_eq!(job.missing(), [blobs[9]]);
        drop(opens);
        let first = first.await.unwrap();
        assert!(matches!(first, Ok(Told::Got(()))), "{first:?}");
        assert_eq!(job.missing(), []);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_chunk_of_a_wrong_manifest_that_comes_late_does_no_harm() {
        let bytes: Vec<u8> = (0..200_000_u32).flat_map(|n| Hash::of(&n.to_le_bytes()).0).collect();
        let mut chunker = Chunker::new();
        chunker.update(&bytes);
        let right = chunker.finish();
        let blob = right.blob();
        let part = |(at, chunk): (u64, Chunk)| bytes[at as usize..][..chunk.len as usize].to_vec();
        let chunks: Vec<Vec<u8>> = right.offsets().map(part).collect();
        let mut reversed = right.chunks().to_vec();
        reversed.reverse();
        let wrong = Manifest::new(blob, reversed).unwrap();

        let (liar, liar_opens) = source(&chunks, Some(wrong));
        let honest = open(source(&chunks, Some(right.clone())));
        let (late, late_opens) = source(&chunks, Some(right));
        let nobody = open(source(&[], None));
        let (_liar_end, liar_at) = endpoint(1, &liar);
        let (_honest_end, honest_at) = endpoint(2, &honest);
        let (_late_end, late_at) = endpoint(3, &late);
        let (here, _) = endpoint(9, &nobody);
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let blobs = [blob];
        let (underway, lists) = (Arc::default(), Lists::default());
        let job = Job::new(&store, Some(&here), &underway, &lists, &want(&blobs)).unwrap();

        let who_lied = liar_at.peer;
        let mut lying = Box::pin(job.attempt(Trial::alone(liar_at.clone())));
        tokio::select! {
            told = &mut lying => panic!("{told:?}"),
            () = liar.asked.notified() => {}
        }
        // Its chunks are right, its manifest is not.
        let shown = job.attempt(Trial::alone(honest_at)).await.unwrap();
        assert_eq!(shown.unwrap_err().who(), Who::Peer(who_lied));
        let mut saved = Box::pin(job.attempt(Trial::alone(late_at)));
        tokio::select! {
            told = &mut saved => panic!("{told:?}"),
            () = late.asked.notified() => {}
        }
        // Now its first chunk comes, which is the last one of the blob.
        drop(liar_opens);
        let lied = lying.await.unwrap();
        assert!(matches!(lied, Ok(Told::Got(()))), "{lied:?}");
        drop(late_opens);
        assert!(matches!(saved.await.unwrap(), Ok(Told::Got(()))));
        assert_eq!(job.missing(), []);
        assert!(store.has_blob(&blob).unwrap());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn one_that_gives_wrong_bytes_hears_of_it_and_nothing_of_them_is_kept() {
        let bytes = vec![7; 100_000];
        let chunk = Chunk { hash: Hash::of(&bytes), len: bytes.len() as u32 };
        let mut bad = bytes.clone();
        bad[5] ^= 1;
        let nobody = open(source(&[], None));
        let (source, opens) = source(&[], None);
        drop(opens);
        let mut source = Arc::into_inner(source).unwrap();
        source.chunks.insert(chunk.hash, bad);
        let source = Arc::new(source);
        let (_end, at) = endpoint(1, &source);
        let (here, _) = endpoint(9, &nobody);
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let blobs = [Digest::of(&bytes)];
        let (underway, lists) = (Arc::default(), Lists::default());
        let job = Job::new(&store, Some(&here), &underway, &lists, &want(&blobs)).unwrap();
        let error = job.attempt(Trial::alone(at.clone())).await.unwrap().unwrap_err();
        let wrong = FetchError::WrongBytes { peer: at.peer, chunk };
        assert_eq!(error.to_string(), wrong.to_string());
        assert_eq!(*source.doubted.lock().unwrap(), [chunk]);
        assert_eq!(job.missing(), blobs);
    }

    /// Remembers how fast it went, and gives up what it is told to.
    #[derive(Default)]
    struct Wayside {
        speeds: Mutex<Vec<Speed>>,
        given_up: Mutex<Vec<Digest>>,
    }

    impl Course for Wayside {
        fn moving(&self, speed: Speed, _: &dyn Fn() -> Vec<(Digest, u64)>) {
            self.speeds.lock().unwrap().push(speed);
        }

        fn given_up(&self) -> Vec<Digest> {
            std::mem::take(&mut self.given_up.lock().unwrap())
        }
    }

    #[tokio::test]
    async fn what_has_come_of_a_run_counts_before_the_run_is_here() {
        let three: Vec<Vec<u8>> = (0..3_u8).map(|n| vec![n; 100]).collect();
        let blobs: Vec<Digest> = three.iter().map(|bytes| Digest::of(bytes)).collect();
        let (store, nobody) = (Arc::new(MemoryStore::default()), open(source(&[], None)));
        let (store, (_end, whom)): (Arc<dyn Store>, _) = (store, endpoint(1, &nobody));
        let course = Wayside::default();
        let (underway, lists) = (Arc::default(), Lists::default());
        let job =
            Job::new(&store, None, &underway, &lists, &Want { course: &course, ..want(&blobs) })
                .unwrap();
        let left = || job.left().into_iter().map(|(_, left)| left).collect::<Vec<_>>();
        assert_eq!(left(), [100, 200, 300]);

        let (from, trial) = (super::source(&whom), Trial::alone(whom.clone()));
        let joined = job.join(Who::Peer(whom.peer), &trial);
        let mut asked = VecDeque::from([(0, None), (1, None), (2, None)]);
        let zstd = netbuild_proto::data::Coding::Zstd;
        let run = Coming { chunks: 2, coding: zstd, decoded: 200, wire: 80, here: 20 };
        job.handle_coming(joined.id, &from, &run, &asked);
        // A quarter of the two that come together.
        assert_eq!((left(), job.arriving()), (vec![150, 150, 250], 50));
        course.given_up.lock().unwrap().push(blobs[0]);
        job.give_up();
        // What was asked for still comes.
        assert_eq!(left(), [150, 250]);
        assert_eq!(course.speeds.lock().unwrap().pop().unwrap().swells, 2.5);

        for bytes in &three[..2] {
            let (index, _) = asked.pop_front().unwrap();
            job.keep(joined.id, index, bytes).unwrap().unwrap();
            job.handle_came(joined.id, 100);
        }
        assert_eq!((left(), job.arriving()), (vec![100], 0));
        assert!(job.runs.borrow().is_empty());

        job.news.borrow_mut().told = None;
        let run = Coming { chunks: 1, coding: zstd, decoded: 100, wire: 50, here: 40 };
        job.handle_coming(joined.id, &from, &run, &asked);
        assert_eq!(left(), [20]);
        // What a source that is gone had begun comes from another.
        drop(joined);
        assert_eq!(left(), [100]);
    }
    /// A source that has what a store has, and hears when it reads a whole blob to make patches of it.
    #[derive(Debug, Default)]
    struct Stocked {
        store: MemoryStore,
        patches: Notify,
    }

    impl Provide for Stocked {
        fn record(&self, _: &ActionKey) -> Option<Vec<u8>> {
            None
        }

        fn manifest(&self, blob: &Digest) -> Option<Manifest> {
            self.store.manifest(blob).unwrap()
        }

        fn chunk(&self, chunk: &Chunk) -> Option<Vec<u8>> {
            self.store.chunk(chunk).unwrap()
        }

        fn sketch(&self, blob: &Digest) -> Option<Vec<u8>> {
            self.store.sketch(blob).unwrap().map(|sketch| sketch.to_bytes().to_vec())
        }

        fn blob(&self, blob: &Digest, limit: u64) -> Option<Bytes> {
            self.patches.notify_one();
            self.store.blob_bytes(blob, limit).unwrap().map(Bytes::from)
        }

        fn has(&self, blob: &Digest) -> bool {
            self.store.has_blob(blob).unwrap()
        }

        fn bring(&self, _: &PeerId, blobs: &[Digest]) -> Vec<bool> {
            vec![false; blobs.len()]
        }
    }

    /// Two blobs of noise that share all but a byte in two hundred, so that no chunk of them is equal.
    fn alike() -> [Vec<u8>; 2] {
        let one: Vec<u8> = (0..100_000_u32).flat_map(|n| Hash::of(&n.to_le_bytes()).0).collect();
        let mut other = one.clone();
        other.iter_mut().step_by(200).for_each(|byte| *byte ^= 1);
        [one, other]
    }

    fn stocked(contents: &[Vec<u8>]) -> (Arc<Stocked>, Vec<Digest>) {
        let stocked = Stocked::default();
        let put = |bytes: &Vec<u8>| {
            let blob = Digest::of(bytes);
            stocked.store.put_blob(&blob, &mut bytes.as_slice()).unwrap();
            blob
        };
        let blobs = contents.iter().map(put).collect();
        (Arc::new(stocked), blobs)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn of_blobs_alike_that_come_together_patches_of_the_first_are_asked_for_the_second() {
        let (stocked, blobs) = stocked(&alike());
        let (_end, at) = endpoint(1, &stocked);
        let (here, _) = endpoint(9, &open(source(&[], None)));
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let (underway, lists) = (Arc::<Underway>::default(), Lists::default());
        let job = Job::new(&store, Some(&here), &underway, &lists, &want(&blobs)).unwrap();
        let told = job.attempt(Trial::alone(at)).await.unwrap();
        assert!(matches!(told, Ok(Told::Got(()))), "{told:?}");
        assert!(blobs.iter().all(|blob| store.has_blob(blob).unwrap()));
        // Whether patches pay on this machine is for the source to say, but it has looked.
        assert!(stocked.patches.notified().now_or_never().is_some());
        let sketch = stocked.store.sketch(&blobs[0]).unwrap().unwrap();
        let first = Begun { blob: blobs[0], sketch, urgent: true, job: u64::MAX };
        assert_eq!(underway.begin_after(first, |_| true).0, None);
    }

    #[tokio::test]
    async fn what_resembles_another_is_asked_for_after_it() {
        let (stocked, blobs) = stocked(&alike());
        let (_end, at) = endpoint(1, &stocked);
        let (here, _) = endpoint(9, &open(source(&[], None)));
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let (underway, lists) = (Arc::default(), Lists::default());
        for is_slow in [true, false] {
            let job = Job::new(&store, Some(&here), &underway, &lists, &want(&blobs)).unwrap();
            for (index, blob) in blobs.iter().enumerate() {
                let manifest = stocked.manifest(blob).unwrap();
                let described = Described { manifest, sketch: stocked.sketch(blob) };
                job.told(index, described, at.peer, is_slow).unwrap().unwrap();
            }
            let trial = Trial::alone(at.clone());
            let joined = job.join(Who::Peer(at.peer), &trial);
            let peering = Peering { trial: &trial, whom: &at, endpoint: &here };
            let mut orders = Vec::new();
            while let Some((order, items)) = job.order(joined.id, &peering).unwrap().unwrap() {
                orders.push(order);
                // As if it had come, so that there is room for more.
                for item in items {
                    job.spread.borrow_mut().handle_arrived(joined.id, item, Instant::now());
                }
            }
            let of_first = stocked.manifest(&blobs[0]).unwrap().chunks().len();
            let plain = |order: &&Order| matches!(order, Order::Chunks(_));
            let chunks: usize = orders.iter().filter(plain).map(|it| it.chunks().len()).sum();
            match orders.last() {
                Some(Order::Patches { target, bases, .. }) if is_slow => {
                    assert_eq!(
                        (*target, bases.as_slice(), chunks),
                        (blobs[1], &blobs[..1], of_first)
                    );
                }
                _ => assert!(!is_slow && chunks > of_first, "{orders:?}"),
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_would_come_as_a_patch_of_something_that_does_not_come_comes_as_it_is() {
        let (stocked, blobs) = stocked(&alike());
        let (_end, at) = endpoint(1, &stocked);
        let (here, _) = endpoint(9, &open(source(&[], None)));
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let (underway, lists) = (Arc::<Underway>::default(), Lists::default());
        // Another job has begun the first.
        let sketch = stocked.store.sketch(&blobs[0]).unwrap().unwrap();
        let coming = underway.begin(Begun { blob: blobs[0], sketch, urgent: true, job: u64::MAX });
        assert!(coming.is_some());
        let job = Job::new(&store, Some(&here), &underway, &lists, &want(&blobs[1..])).unwrap();
        let given_up = async {
            stocked.patches.notified().await;
            drop(coming);
        };
        let (told, ()) = tokio::join!(job.attempt(Trial::alone(at)), given_up);
        assert!(matches!(told, Ok(Ok(Told::Got(())))), "{told:?}");
        assert!(store.has_blob(&blobs[1]).unwrap());
        assert!(job.movement().total().wire > blobs[1].size);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_list_that_came_before_is_not_asked_for_and_one_that_was_wrong_does_no_harm() {
        let [bytes, _] = alike();
        let (stocked, blobs) = stocked(std::slice::from_ref(&bytes));
        let right = stocked.store.manifest(&blobs[0]).unwrap().unwrap();
        let mut reversed = right.chunks().to_vec();
        reversed.reverse();
        let wrong = Manifest::new(blobs[0], reversed).unwrap();
        let part = |(at, chunk): (u64, Chunk)| bytes[at as usize..][..chunk.len as usize].to_vec();
        let chunks: Vec<Vec<u8>> = right.offsets().map(part).collect();
        // It has the chunks, and tells nobody any more which these are.
        let (_silent_end, silent) = endpoint(1, &open(source(&chunks, None)));
        let (_end, honest) = endpoint(2, &stocked);
        let (here, _) = endpoint(9, &open(source(&[], None)));
        for manifest in [right, wrong.clone()] {
            let is_wrong = manifest == wrong;
            let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
            let (underway, lists) = (Arc::default(), Lists::default());
            let (described, by) = (Described { manifest, sketch: None }, silent.peer);
            lists.put(blobs[0], Listed { described, by });
            let job = Job::new(&store, Some(&here), &underway, &lists, &want(&blobs)).unwrap();
            let told = job.attempt(Trial::alone(silent.clone())).await.unwrap();
            if is_wrong {
                assert_eq!(told.unwrap_err().who(), Who::Peer(silent.peer));
                let told = job.attempt(Trial::alone(honest.clone())).await.unwrap();
                assert!(matches!(told, Ok(Told::Got(()))), "{told:?}");
            } else {
                assert!(matches!(told, Ok(Told::Got(()))), "{told:?}");
            }
            assert!(store.has_blob(&blobs[0]).unwrap());
        }
    }
}
