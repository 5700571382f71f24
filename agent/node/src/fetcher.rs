//! Getting records and blobs from other agents: who is asked, in which order, and by how many of a
//! region.

mod ahead;
mod asking;
mod credits;
mod joining;
mod slow;

pub(crate) use credits::Credits;

use crate::{
    attempts::{Reach, Sources, Team, Told, Trial, Tried, ask},
    bases::Bases,
    config::FallbackWay,
    decisions::{Decisions, decision},
    disk_cache::{DiskCache, failed},
    fault::SourceError,
    flights::{Claim, Course, Errand, Flights},
    job::Job,
    lists::Lists,
    room::Elsewhere,
    shared::Shared,
    traffic::Traffic,
    underway::Underway,
    view::{Known, View, source},
};
use netbuild_core::{
    cache::{CacheError, Source},
    digest::Digest,
    key::ActionKey,
    ledger::{Cost, Item},
    moved::{Movement, Progress, Watch},
    peer::PeerId,
    peers::{Peer, Peers},
    plan::{MAX_TEAM, Plan, Who},
    record::Record,
    sooner::Slow,
};
use netbuild_mesh::Mesh;
use netbuild_proto::{data::Priority, membership::Held, record::SealedRecord};
use netbuild_store::Kept;
use netbuild_transfer::Endpoint;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

/// What a record is taken to weigh in a plan, in bytes.
const RECORD_SIZE: u64 = 1024;
/// Bytes below which everybody of a region fetches for itself: less than asking another would cost.
const CROSSING_SIZE: u64 = 64 * 1024;
/// Agents of one region that tell that they hold a record; one more is no news.
const MAX_ANNOUNCED: usize = 3;
/// Most records whose first use is still to be told as a hit of the source that they came from.
const MAX_UNUSED: usize = 100_000;
/// How often listings may lead to more blobs: a listing names files, never listings.
const MAX_ROUNDS: usize = 2;

/// Where other agents are reached.
#[derive(Clone, Debug)]
pub(crate) struct Net {
    pub(crate) endpoint: Endpoint,
    pub(crate) mesh: Mesh,
}

/// Gets what is not on this disk. Its futures read and write the disk: they are to be run on a
/// thread of their own.
#[derive(Debug)]
pub(crate) struct Fetcher {
    pub(crate) disk: Arc<DiskCache>,
    pub(crate) view: Arc<View>,
    /// `None` in a process that is no agent: it knows tiers, and no peers.
    pub(crate) net: Option<Net>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) decisions: Decisions,
    pub(crate) way: FallbackWay,
    /// Whether patches are asked for.
    pub(crate) delta: bool,
    /// Whether what is sooner built than fetched may be left to be built.
    pub(crate) builds: bool,
    pub(crate) flights: Flights,
    pub(crate) underway: Arc<Underway>,
    pub(crate) lists: Lists,
    /// Records that came in the background and were not used yet, with the source that had them.
    pub(crate) unused: Mutex<BTreeMap<ActionKey, Who>>,
    pub(crate) credits: Credits,
    pub(crate) traffic: Arc<Traffic>,
}

/// Who may be asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Scope {
    /// Everybody; of a region with several agents one fetches for all.
    Mesh,
    /// Everybody but those of the own region, which sent us.
    Abroad,
    /// The agents of these regions.
    Regions(BTreeSet<String>),
}

/// Blobs that are wanted.
#[derive(Clone)]
pub(crate) struct Want<'a> {
    /// For people: what it is about.
    pub(crate) what: String,
    pub(crate) blobs: &'a [Digest],
    /// What is here and may resemble them.
    pub(crate) bases: &'a Bases,
    /// Whether what looks like them may be looked for.
    pub(crate) alike: bool,
    /// Who is known to have them.
    pub(crate) holders: BTreeSet<Who>,
    /// How long they took to be made, if known.
    pub(crate) build_ms: Option<u64>,
    pub(crate) scope: Scope,
    /// How often each source is tried: once when a build is waiting that can do without.
    pub(crate) rounds: u32,
    /// How soon they are needed, against others that are fetched at the same time.
    pub(crate) priority: Priority,
    /// Hears how far it is.
    pub(crate) watch: &'a dyn Watch,
    /// Hears of each blob that is here, who sent of it first, and how many bytes were sent for it.
    pub(crate) landed: &'a dyn Fn(&Digest, Option<&Source>, u64),
    /// Those who wait for some of it.
    pub(crate) course: &'a dyn Course,
}

impl Want<'_> {
    fn errand(&self) -> Errand {
        match (&self.scope, self.priority) {
            (Scope::Abroad, _) => Errand::Neighbour,
            (_, Priority::Background) => Errand::Copy,
            _ => Errand::Build,
        }
    }
}

/// What came.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Taken {
    pub(crate) movement: Movement,
    /// The region from which a neighbour fetched what it then gave.
    pub(crate) brought_from: Option<String>,
    /// Why the rest is not waited for, if it could be had.
    pub(crate) slow: Option<Slow>,
}

impl Taken {
    /// Bytes that others sent, as they were sent.
    pub(crate) fn wire(&self) -> u64 {
        self.movement.total().wire
    }

    /// The region that all this is from.
    pub(crate) fn origin(&self) -> Option<&str> {
        self.brought_from.as_deref().or_else(|| match self.movement.from()? {
            Source::Peer { region, .. } => Some(region.as_str()),
            Source::Tier(tier) => Some(tier.place.as_str()),
            Source::Disk => None,
        })
    }
}

impl Fetcher {
    // -- records --

    /// The record of a key from those who hold it. It is in the store then, unless a better one was
    /// there already or its writer is not trusted.
    pub(crate) async fn record(&self, key: &ActionKey) -> Result<Option<Source>, CacheError> {
        let mut lost = false;
        let known = loop {
            let known = self.view.known(key);
            if self.disk.record_of(key)?.is_some() {
                // It came while somebody was waited for.
                return Ok(self.first_use(key));
            }
            // It was here and is damaged: the others have it, as they were told.
            if known == Known::Here && self.view.lost(key) {
                lost = true;
            } else {
                break known;
            }
        };
        if let Some(source) = self.peer_record(key, known, lost).await? {
            return Ok(Some(source));
        }
        let Some((record, tier)) = self.shared.record(key, lost).await else { return Ok(None) };
        self.keep(&record)?;
        Ok(Some(Source::Tier(tier.name.clone())))
    }

    /// The same from peers.
    async fn peer_record(
        &self,
        key: &ActionKey,
        known: Known,
        lost: bool,
    ) -> Result<Option<Source>, CacheError> {
        let (holders, among) = match known {
            Known::Nobody if lost => (BTreeSet::new(), self.view.connected().into_iter().collect()),
            Known::Nobody | Known::Here => return Ok(None),
            Known::Holders(holders) => (holders.iter().copied().map(Who::Peer).collect(), holders),
            Known::Perhaps(peers) => (BTreeSet::new(), peers),
        };
        let mut plan = self.view.plan(RECORD_SIZE, &holders, &|id, _| among.contains(id), false);
        let mut tried = Vec::new();
        let start = |trial: Trial| self.ask_record(trial, *key);
        let found = self.try_all(&mut plan, 1, Team::of_one(true), &mut tried, start).await?;
        let outcome = if found.is_some() { "fetched" } else { "not found" };
        let what = format!("record {key}");
        self.decisions.add(decision(what, &plan, &tried, None, outcome));
        Ok(found)
    }

    async fn ask_record(
        &self,
        trial: Trial,
        key: ActionKey,
    ) -> Result<Result<Told<Source>, SourceError>, CacheError> {
        let (Reach::Peer(whom), Some(net)) = (&trial.to, &self.net) else {
            return Ok(Ok(Told::Missing));
        };
        let answer = net.endpoint.records(&whom.holder(), &[key], trial.silence()).await;
        let record = match answer {
            Ok(mut records) => records.pop().flatten(),
            Err(error) => return Ok(Err(error.into())),
        };
        let Some(record) = record else {
            self.view.missing(&whom.peer, &key);
            return Ok(Ok(Told::Missing));
        };
        trial.count(record.as_bytes().len() as u64);
        self.keep(&record)?;
        Ok(Ok(Told::Got(source(whom))))
    }

    /// Keeps a record of another agent, if it is to be kept.
    pub(crate) fn keep(&self, record: &SealedRecord) -> Result<Kept, CacheError> {
        let kept = self.disk.keep(record)?;
        if kept == Kept::Stored {
            self.note(record);
        }
        Ok(kept)
    }

    /// A record came from a source before anybody asked for it. Says from whom it came before, if it
    /// was not used since then.
    pub(crate) fn came_unasked(&self, key: ActionKey, from: Who) -> Option<Who> {
        let mut unused = self.unused.lock().unwrap_or_else(PoisonError::into_inner);
        if unused.len() >= MAX_UNUSED && !unused.contains_key(&key) {
            unused.pop_first();
        }
        unused.insert(key, from)
    }

    /// The source that a record came from in the background, at its first use.
    pub(crate) fn first_use(&self, key: &ActionKey) -> Option<Source> {
        let who = self.unused.lock().unwrap_or_else(PoisonError::into_inner).remove(key)?;
        match who {
            Who::Peer(peer) => {
                let region = |peers: &Peers| peers.get(&peer).map(|known| known.region.clone());
                let region = self.view.peers(|peers, _| region(peers)).unwrap_or_default();
                Some(Source::Peer { peer, region })
            }
            Who::Tier(tier) => Some(Source::Tier(self.shared.tier(tier)?.name.clone())),
        }
    }

    /// Remembers that a record is in the store.
    pub(crate) fn note(&self, record: &SealedRecord) {
        if record.record().execution.is_shared() {
            let (item, cost) = item_of(record);
            self.view.ledger(|ledger| ledger.handle_have(item, cost));
        }
    }

    /// Tells the others that this agent holds a record with all that it names. Its own results
    /// always; what it fetched only while few of its region hold it.
    pub(crate) fn announce(&self, record: &SealedRecord, own: bool) {
        if !record.record().execution.is_shared() {
            return;
        }
        if !own {
            let holders = self.view.holders(&record.record().key);
            let here = self
                .view
                .peers(|peers, _| peers.neighbours().filter(|peer| holders.contains(peer)).count());
            if here >= MAX_ANNOUNCED {
                return;
            }
        }
        let (item, cost) = item_of(record);
        let (key, hlc, sum) = (item.key, item.hlc, item.sum);
        let (build_ms, bytes) = (cost.build_ms, cost.bytes);
        if let Some(net) = &self.net {
            net.mesh.announce(vec![Held { key, hlc, sum, build_ms, bytes }]);
        }
    }

    /// What this disk may give up since others have it: peers that announced it, and tiers.
    pub(crate) fn elsewhere(&self) -> Elsewhere {
        let (view, shared, told) =
            (Arc::clone(&self.view), Arc::clone(&self.shared), Arc::clone(&self.view));
        Elsewhere {
            refetch: Box::new(move |key, sizes| {
                let peers = view.refetch(key, sizes.iter().sum());
                peers.into_iter().chain(shared.refetch(key, sizes)).min()
            }),
            lost: Box::new(move |keys| {
                for key in keys {
                    told.lost(key);
                }
            }),
        }
    }

    // -- blobs --

    /// What the blobs that these records name and this disk lacks may be patched against.
    pub(crate) fn bases(
        &self,
        records: &[&Record],
        lacking: &BTreeSet<Digest>,
    ) -> Result<Bases, CacheError> {
        if !self.delta {
            return Ok(Bases::new());
        }
        self.disk.bases(records, lacking)
    }

    /// Gets what a record names and this disk lacks. Says whether all of it is here then: something may
    /// not be to be had, or not as soon as it is built.
    pub(crate) async fn complete(
        &self,
        record: &SealedRecord,
        scope: &Scope,
        rounds: u32,
        watch: &dyn Watch,
        taken: &mut Taken,
    ) -> Result<bool, CacheError> {
        let key = record.record().key;
        for round in 0..MAX_ROUNDS {
            let lacking = self.disk.lacking(record.record())?;
            if lacking.is_empty() {
                self.heal(record)?;
                return Ok(true);
            }
            if round == 0 {
                let total = lacking.blobs.iter().map(|blob| blob.size).sum();
                watch.moving(&Progress { total, ..Progress::default() });
            }
            let holders = self.holders(record);
            let blobs: BTreeSet<Digest> = lacking.blobs.iter().copied().collect();
            let bases = self.bases(&[record.record()], &blobs)?;
            let want = Want {
                what: format!("action {key}"),
                blobs: &lacking.blobs,
                bases: &bases,
                holders,
                build_ms: Some(record.record().execution.duration_ms),
                scope: scope.clone(),
                rounds,
                priority: Priority::Normal,
                alike: self.delta,
                watch,
                landed: &|_, _, _| (),
                course: &(),
            };
            if !self.blobs(&want, taken).await?.is_empty() {
                // Whatever was thought to hold it all does not.
                for tier in self.shared.tiers().iter().filter(|_| taken.slow.is_none()) {
                    self.shared.note_missing(&key, tier.id);
                }
                return Ok(false);
            }
        }
        let lacking = self.disk.lacking(record.record())?;
        if !lacking.is_empty() {
            return Ok(false);
        }
        self.heal(record)?;
        Ok(true)
    }

    /// Who is thought to hold all that a record names.
    fn holders(&self, record: &SealedRecord) -> BTreeSet<Who> {
        let key = record.record().key;
        let mut holders: BTreeSet<Who> =
            self.view.holders(&key).into_iter().map(Who::Peer).collect();
        // Who wrote it had all of it once.
        holders.insert(Who::Peer(record.record().writer));
        holders.extend(self.shared.holders(&key));
        holders
    }

    /// What a record names has come from others: these hear that it is here, and tiers get it.
    pub(crate) fn came(&self, record: &SealedRecord, taken: &Taken) {
        self.announce(record, false);
        if let Some(Source::Tier(tier)) = taken.movement.from() {
            self.shared.fill(record, tier);
        }
    }

    /// All of a record is here: tiers that gave something of it wrongly get it again.
    fn heal(&self, record: &SealedRecord) -> Result<(), CacheError> {
        if self.shared.has_doubts()
            && let Some(blobs) = self.disk.whole(record.record())?
        {
            self.shared.heal(record, &blobs);
        }
        Ok(())
    }

    /// Brings blobs here; returns what is still missing. Two that want the same blob at once fetch
    /// it once. Who would have built it sooner hears that by [`Taken::slow`].
    pub(crate) async fn blobs(
        &self,
        want: &Want<'_>,
        taken: &mut Taken,
    ) -> Result<Vec<Digest>, CacheError> {
        let mut missing = Vec::new();
        let mut wanted = want.blobs.to_vec();
        let (errand, waiting) = (want.errand(), self.waiting(want));
        loop {
            let claim = self.flights.claim(&wanted, errand);
            let mine = self.lacking(claim.mine())?;
            let coming = async {
                if !mine.is_empty() {
                    let want = Want { blobs: &mine, ..want.clone() };
                    missing.extend(self.take(&want, &claim, taken).await?);
                }
                let theirs = claim.others().to_vec();
                drop(claim);
                self.flights.landed(&theirs, errand).await;
                self.lacking(&theirs)
            };
            match self.unless_slow(waiting.as_ref(), want, &wanted, coming).await {
                Ok(left) => wanted = left?,
                Err(slow) => {
                    taken.slow = Some(slow);
                    return self.lacking(want.blobs);
                }
            }
            if wanted.is_empty() {
                return Ok(missing);
            }
        }
    }

    pub(crate) fn lacking(&self, blobs: &[Digest]) -> Result<Vec<Digest>, CacheError> {
        let mut lacking = Vec::new();
        for blob in blobs {
            if !self.disk.store().has_blob(blob).map_err(failed)? {
                lacking.push(*blob);
            }
        }
        Ok(lacking)
    }

    async fn take(
        &self,
        want: &Want<'_>,
        claim: &Claim<'_>,
        taken: &mut Taken,
    ) -> Result<Vec<Digest>, CacheError> {
        let size = want.blobs.iter().map(|blob| blob.size).sum();
        let fetch = self.traffic.begin(&want.what, size, want.priority == Priority::Background);
        let watched = fetch.watched(want.watch);
        let landed = |blob: &Digest, from: Option<&Source>, sent| {
            // What was given up meanwhile was sent for no hit.
            (want.landed)(blob, from.filter(|_| claim.wants(blob)), sent);
            claim.landed(blob);
        };
        let want = &Want { watch: &watched, landed: &landed, course: claim, ..want.clone() };
        let store = self.disk.store();
        let endpoint = self.net.as_ref().map(|net| &net.endpoint);
        let job = Job::new(store, endpoint, &self.underway, &self.lists, want)?;
        let missing = job.missing();
        if missing.is_empty() {
            return Ok(missing);
        }
        let among = |_: &PeerId, peer: &Peer| self.is_in(&want.scope, peer);
        let tiers = !matches!(want.scope, Scope::Regions(_));
        let mut plan = self.view.plan(size, &want.holders, &among, tiers);
        if plan.steps.iter().all(|step| step.holds.is_none()) && plan.steps.len() > 1 {
            let enough = if size >= CROSSING_SIZE { MAX_TEAM } else { 1 };
            let holders = self.who_has(&plan.steps, &missing, &job, enough).await?;
            plan = self.view.plan(size, &holders, &among, tiers);
        }
        if let Some(first) = plan.steps.first().filter(|step| step.is_known()) {
            let carries = first.link.goodput.filter(|_| first.link.full);
            claim.expect(first.prediction.latency, carries);
        }
        let mut tried = Vec::new();
        let start = async |trial: Trial| {
            let told = job.attempt(trial).await;
            if let Ok(Err(SourceError::Wrong { tier, blob, .. })) = &told
                && let Some(tier) = self.shared.tier(*tier)
            {
                self.shared.doubt(tier, *blob).await;
            }
            told
        };
        let carrier = match want.scope {
            Scope::Mesh if size >= CROSSING_SIZE => {
                self.brought(&plan, &job, &missing, claim, &mut tried).await?
            }
            _ => None,
        };
        if let Some(carrier) = carrier {
            taken.brought_from = plan.steps.first().map(|step| step.region.clone());
            // It has them now, and is near.
            let holders = want.holders.iter().copied().chain([Who::Peer(carrier)]).collect();
            plan = self.view.plan(size, &holders, &among, tiers);
            if let Some(at) = plan.steps.iter().position(|step| step.who == Who::Peer(carrier)) {
                plan.steps[..=at].rotate_right(1);
            }
        }
        let whole = if job.missing().is_empty() {
            Some(())
        } else {
            let joining = self.joining(&job, want, &among);
            let team = Team { size: plan.team(), hedge: true, joining };
            let mut log = Vec::new();
            let whole = self.try_all(&mut plan, want.rounds, team, &mut log, start).await?;
            tried.append(&mut log);
            whole
        };
        for tried in &tried {
            let hit = whole.is_some() && tried.bytes > 0;
            self.view.handle_fetch(&tried.step.region, hit, tried.bytes);
        }
        let outcome = match (whole, tried.is_empty()) {
            (Some(()), _) => "fetched",
            (None, true) => "nobody to ask",
            (None, false) => "not found",
        };
        self.decisions.add(decision(want.what.clone(), &plan, &tried, want.build_ms, outcome));
        let (movement, missing) = (job.movement(), job.lacking());
        taken.movement.merge(&movement);
        fetch.ended(&movement, missing.is_empty());
        Ok(missing)
    }

    fn is_in(&self, scope: &Scope, peer: &Peer) -> bool {
        match scope {
            Scope::Mesh => true,
            Scope::Abroad => {
                peer.region.is_empty() || self.disk.region().as_str() != peer.region.as_str()
            }
            Scope::Regions(regions) => regions.contains(&peer.region),
        }
    }

    /// Asks the sources of a plan by the way of the configuration; the classical one is one after the
    /// other and does not hedge.
    async fn try_all<T, F, Fut>(
        &self,
        plan: &mut Plan,
        rounds: u32,
        team: Team<'_>,
        tried: &mut Vec<Tried>,
        start: F,
    ) -> Result<Option<T>, CacheError>
    where
        F: Fn(Trial) -> Fut,
        Fut: Future<Output = Result<Result<Told<T>, SourceError>, CacheError>>,
    {
        let classical = self.way == FallbackWay::Classical;
        let fallback = self.view.fallback(plan, rounds, classical);
        let team = if classical { Team::of_one(false) } else { team };
        let sources = Sources { view: &self.view, reach: &|who| self.reach(who) };
        ask(sources, plan, fallback, team, tried, start).await
    }

    /// How a source is reached; `None` when it has gone.
    pub(crate) fn reach(&self, who: &Who) -> Option<Reach> {
        match who {
            Who::Peer(peer) => self.view.whom(peer).map(Reach::Peer),
            Who::Tier(tier) => self.shared.tier(*tier).map(Arc::clone).map(Reach::Tier),
        }
    }
}

/// What is remembered and told of a record.
pub(crate) fn item_of(record: &SealedRecord) -> (Item, Cost) {
    let item = record.item();
    let record = record.record();
    let build_ms = u32::try_from(record.execution.duration_ms).unwrap_or(u32::MAX);
    (item, Cost { build_ms, bytes: record.blobs().map(|blob| blob.size).sum() })
}
