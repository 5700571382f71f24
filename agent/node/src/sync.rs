//! Keeping agents alike: comparing records with others, pulling those that are missing, and copying
//! the bytes that they name, in the background or when a person asks for it.

mod copying;
mod evidence;
mod orders;

pub(crate) use orders::Answerer;

use crate::{
    attempts::Asked,
    config::{Background, SyncSettings},
    disk_cache::failed,
    fetcher::{Fetcher, Net, Scope, Taken},
    lists::{Listed, Lists},
    view::over_of,
};
use netbuild_core::{
    cache::CacheError,
    digest::Digest,
    health::Fault,
    key::ActionKey,
    ledger::Item,
    peer::PeerId,
    peers::Over,
    plan::Who,
    reconcile::{Difference, Session, Step},
};
use netbuild_proto::exchange::{Request, Response};
use netbuild_store::Kept;
use netbuild_transfer::Patience;
use orders::Jobs;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound::{Excluded, Unbounded},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::Notify,
    task::{JoinError, JoinSet},
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Records asked for at once: some 100 KB of answer.
const PULL: usize = 256;
/// Comparisons and pulls that run at once.
const MAX_COMPARING: usize = 4;
/// Records that are copied at once in the background. They have room of their own: a lookup may be
/// waiting for a comparison, and copying takes as long as its budget wants it to.
const MAX_COPYING: usize = 4;
/// Most blobs of one pull, or of one comparison, whose chunks are worth asking for.
const MAX_LISTED: usize = 1024;
/// How often each source is tried for what is copied in the background.
const COPY_ROUNDS: u32 = 2;
/// How long announcements are collected before what they name is pulled.
const COLLECT: Duration = Duration::from_millis(50);
/// Most announced records that wait to be pulled; what is more comes with the next comparison.
const MAX_WANTED: usize = 100_000;
/// Most records of one member that wait to be pulled, so that one that announces without end leaves
/// room for the others.
const MAX_WANTED_OF_ONE: usize = MAX_WANTED / 8;
/// How soon a member is compared with once more with which it failed: that may have been a connection that had
/// died unnoticed, and until then what the member announced is not found here.
const AGAIN: Duration = Duration::from_secs(3);
/// How long one session may take: as many records as one finds, over the worst of links, take two
/// minutes.
const SESSION_LIMIT: Duration = Duration::from_secs(300);
/// Most versions that are remembered because they lost.
const MAX_SPARED: usize = 100_000;
/// Most records that wait for their bytes in the background.
const MAX_WAITING: usize = 100_000;

/// Keeps this agent and others alike.
#[derive(Debug)]
pub(crate) struct Syncer {
    fetcher: Arc<Fetcher>,
    net: Net,
    settings: SyncSettings,
    runtime: Handle,
    stop: CancellationToken,
    todo: Mutex<Todo>,
    something: Notify,
    /// Versions that were pulled and lost against those here.
    spared: Mutex<BTreeSet<(ActionKey, u64)>>,
    jobs: Jobs,
    /// Where the orders of others are carried out.
    orders: TaskTracker,
    compared: AtomicU64,
    pulled: AtomicU64,
}

#[derive(Debug, Default)]
struct Todo {
    /// Members whose records are to be compared.
    compare: BTreeSet<PeerId>,
    /// Members whose records are being compared. Two comparisons with one member would find the same
    /// records, and pull them twice.
    comparing: BTreeSet<PeerId>,
    /// Members whose records could not be compared, or not be pulled as they were announced.
    again: BTreeSet<PeerId>,
    /// Records that members announced.
    pull: BTreeMap<PeerId, Vec<Item>>,
    pulls: usize,
    /// Whose announcements were pulled last; next come those of somebody else.
    pulled_of: Option<PeerId>,
    /// Records whose bytes are to be copied in the background.
    copy: VecDeque<ActionKey>,
}

/// What was pulled from a member.
#[derive(Debug, Default)]
struct Pulled {
    /// How many records were kept.
    kept: usize,
    /// Large blobs that these name, at most [`MAX_LISTED`].
    large: Vec<Digest>,
}

/// What the background does next.
enum Work {
    Compare(PeerId),
    Pull(PeerId, Vec<Item>),
    Copy(ActionKey),
}

impl Syncer {
    pub(crate) fn new(
        fetcher: Arc<Fetcher>,
        net: Net,
        settings: SyncSettings,
        stop: CancellationToken,
    ) -> Self {
        Self {
            fetcher,
            net,
            settings,
            runtime: Handle::current(),
            stop,
            todo: Mutex::default(),
            something: Notify::new(),
            spared: Mutex::default(),
            jobs: Jobs::default(),
            orders: TaskTracker::new(),
            compared: AtomicU64::new(0),
            pulled: AtomicU64::new(0),
        }
    }

    fn todo(&self) -> MutexGuard<'_, Todo> {
        self.todo.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many comparisons were made, and how many records were pulled.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.compared.load(Ordering::Relaxed), self.pulled.load(Ordering::Relaxed))
    }

    // -- what came in --

    /// A member can be asked now: its records are compared with those here.
    pub(crate) fn handle_connected(&self, peer: PeerId) {
        if self.settings.background == Background::Off {
            self.fetcher.view.handle_not_compared(&peer);
            return;
        }
        self.todo().compare.insert(peer);
        self.something.notify_one();
    }

    /// A member announced records that are not here.
    pub(crate) fn handle_wanted(&self, peer: PeerId, wanted: &[Item]) {
        if self.settings.background == Background::Off || wanted.is_empty() {
            return;
        }
        let wanted: Vec<Item> =
            wanted.iter().filter(|item| !self.is_spared(item.key, item.sum)).copied().collect();
        let mut todo = self.todo();
        let waiting = todo.pull.get(&peer).map_or(0, Vec::len);
        let of_one = MAX_WANTED_OF_ONE.saturating_sub(waiting);
        let room = MAX_WANTED.saturating_sub(todo.pulls).min(of_one).min(wanted.len());
        if room == 0 {
            return;
        }
        todo.pulls += room;
        todo.pull.entry(peer).or_default().extend(&wanted[..room]);
        drop(todo);
        self.something.notify_one();
    }

    // -- the background --

    /// Works through what is to be done until the agent stops.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut ticks = interval(self.settings.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut again = interval(AGAIN.min(self.settings.interval));
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut comparing, mut copying) = (JoinSet::new(), JoinSet::new());
        loop {
            while comparing.len() < MAX_COMPARING
                && let Some(work) = self.next_comparison()
            {
                self.start(&mut comparing, work);
            }
            while copying.len() < MAX_COPYING
                && let Some(work) = self.next_copy()
            {
                self.start(&mut copying, work);
            }
            tokio::select! {
                Some(done) = comparing.join_next() => report(done),
                Some(done) = copying.join_next() => report(done),
                () = self.something.notified() => {
                    // What is announced in one burst is pulled in one request.
                    sleep(COLLECT).await;
                }
                _ = ticks.tick() => self.compare_with_one(),
                _ = again.tick() => self.compare_again(),
                () = self.stop.cancelled() => break,
            }
        }
        // They end soon: each of them hears of the stop.
        while let Some(done) = comparing.join_next().await {
            report(done);
        }
        while let Some(done) = copying.join_next().await {
            report(done);
        }
        self.orders.close();
        self.orders.wait().await;
    }

    fn start(self: &Arc<Self>, working: &mut JoinSet<()>, work: Work) {
        let syncer = Arc::clone(self);
        working.spawn_blocking(move || syncer.work(&work));
    }

    /// With whom it failed; one that is not connected is compared with when it is back.
    fn compare_again(&self) {
        let again = std::mem::take(&mut self.todo().again);
        if !again.is_empty() {
            let connected = self.fetcher.view.connected();
            connected
                .iter()
                .filter(|peer| again.contains(peer))
                .for_each(|peer| self.handle_connected(*peer));
        }
    }

    /// One member at random: what one agent misses, it finds at another.
    fn compare_with_one(&self) {
        let connected = self.fetcher.view.connected();
        let at = (crate::random::unit() * connected.len() as f64) as usize;
        if let Some(peer) = connected.get(at.min(connected.len().saturating_sub(1))) {
            self.handle_connected(*peer);
        }
    }

    fn next_comparison(&self) -> Option<Work> {
        let mut todo = self.todo();
        if let Some(peer) = todo.compare.difference(&todo.comparing).next().copied() {
            todo.compare.remove(&peer);
            todo.comparing.insert(peer);
            return Some(Work::Compare(peer));
        }
        let after = todo.pulled_of.map_or(Unbounded, Excluded);
        let next = todo.pull.range((after, Unbounded)).next().or(todo.pull.first_key_value());
        let peer = next.map(|(peer, _)| *peer)?;
        let items = todo.pull.remove(&peer)?;
        todo.pulls -= items.len();
        todo.pulled_of = Some(peer);
        Some(Work::Pull(peer, items))
    }

    fn next_copy(&self) -> Option<Work> {
        self.todo().copy.pop_front().map(Work::Copy)
    }

    /// Does one piece of work, on a thread of its own.
    fn work(&self, work: &Work) {
        let done = match work {
            Work::Compare(peer) => self.block_on(self.compare(peer)),
            Work::Pull(peer, items) => self.block_on(async {
                let pulled = self.pull(peer, items).await?;
                self.list(peer, &pulled.large).await
            }),
            Work::Copy(key) => self.block_on(self.copy(key)),
        };
        if let Work::Compare(peer) = work {
            self.todo().comparing.remove(peer);
        }
        match (done, work) {
            (Some(Ok(())), Work::Compare(_)) => {
                self.compared.fetch_add(1, Ordering::Relaxed);
            }
            (Some(Err(why)), Work::Compare(peer)) => {
                tracing::debug!(peer = %peer.short(), why, "records were not compared");
                self.fetcher.view.handle_not_compared(peer);
                self.todo().again.insert(*peer);
            }
            (Some(Err(why)), Work::Pull(peer, _)) => {
                tracing::debug!(peer = %peer.short(), why, "records were not pulled");
                self.todo().again.insert(*peer);
            }
            (Some(Err(why)), Work::Copy(_)) => tracing::debug!(why, "a record was not copied"),
            (Some(Ok(())), _) | (None, _) => {}
        }
    }

    fn block_on<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.runtime.block_on(self.stop.run_until_cancelled(work))
    }

    /// Finds in which records this agent and a member differ, and pulls what is missing here. The
    /// member does the same for itself.
    async fn compare(&self, peer: &PeerId) -> Result<(), String> {
        let mut large = Vec::new();
        loop {
            let session = tokio::time::timeout(SESSION_LIMIT, self.compare_once(peer)).await;
            let difference = session.map_err(|_| "it took too long".to_owned())??;
            let theirs =
                difference.theirs.into_iter().filter(|item| !self.is_spared(item.key, item.sum));
            let pulled = self.pull(peer, &theirs.collect::<Vec<_>>()).await?;
            large.extend(pulled.large);
            large.truncate(MAX_LISTED);
            // Sets that differ in very much are compared part by part, as long as that leads
            // anywhere: a member may not have what it lists.
            if difference.complete || pulled.kept == 0 {
                // The records are the same now, whatever becomes of what lost; lookups wait for that.
                self.fetcher.view.handle_compared(peer);
                if let Err(why) = self.list(peer, &large).await {
                    tracing::debug!(peer = %peer.short(), why, "did not tell chunks");
                }
                if let Err(why) = evidence::compare(self, peer).await {
                    tracing::debug!(peer = %peer.short(), why, "evidence was not compared");
                }
                return Ok(());
            }
        }
    }

    async fn compare_once(&self, peer: &PeerId) -> Result<Difference, String> {
        let view = &self.fetcher.view;
        let nonce = crate::random::nonce();
        let (mut session, mut message) = view.ledger(|ledger| Session::start(ledger, nonce));
        loop {
            let answer = self.ask(*peer, &Request::Reconcile(message)).await?;
            let Response::Reconcile(answer) = answer else {
                return Err("the answer is to another question".to_owned());
            };
            let step = view.ledger(|ledger| session.handle(ledger, &answer));
            match step.map_err(|error| error.to_string())? {
                Step::Send(next) => message = next,
                Step::Done(difference) => return Ok(difference),
            }
        }
    }

    async fn ask(&self, peer: PeerId, request: &Request) -> Result<Response, String> {
        let answer = self.net.mesh.ask(peer, request.encode()).await;
        let answer = answer.map_err(|error| error.to_string())?;
        match Response::decode(&answer) {
            Ok(Response::Refused(why)) => Err(why),
            Ok(response) => Ok(response),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Notes a version that was pulled and not kept, so that it is not pulled again: agents that
    /// trust otherwise keep it, and would offer it each time.
    fn spare(&self, key: ActionKey, sum: u64) {
        let mut spared = self.spared();
        if spared.len() >= MAX_SPARED {
            spared.pop_first();
        }
        spared.insert((key, sum));
    }

    fn is_spared(&self, key: ActionKey, sum: u64) -> bool {
        self.spared().contains(&(key, sum))
    }

    fn spared(&self) -> MutexGuard<'_, BTreeSet<(ActionKey, u64)>> {
        self.spared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gets records from a member and keeps those that are to be kept.
    async fn pull(&self, peer: &PeerId, items: &[Item]) -> Result<Pulled, String> {
        let view = &self.fetcher.view;
        let mut pulled = Pulled::default();
        // From anywhere on: whoever joins finds the same missing with several members, and what one
        // has given by then is not asked of the next.
        let (end, begin) = items.split_at((crate::random::unit() * items.len() as f64) as usize);
        for items in begin.chunks(PULL).chain(end.chunks(PULL)) {
            let wanted: Vec<&Item> = view.ledger(|ledger| {
                items.iter().filter(|item| ledger.have(&item.key) != Some(**item)).collect()
            });
            let keys: Vec<ActionKey> = wanted.iter().map(|item| item.key).collect();
            let whom = view.whom(peer).ok_or("it is gone")?;
            let holder = whom.holder();
            let answer = self.net.endpoint.records(&holder, &keys, Patience::default()).await;
            let over = over_of(&answer);
            if over == Over::Failed(Fault::Hostile) {
                Asked::new(view, Who::Peer(*peer)).ends(over);
            }
            let records = answer.map_err(|error| error.to_string())?;
            for (item, record) in wanted.iter().zip(records) {
                let key = &item.key;
                let Some(record) = record else {
                    view.missing(peer, key);
                    continue;
                };
                self.pulled.fetch_add(1, Ordering::Relaxed);
                // Before it can be used.
                let before = self.fetcher.came_unasked(*key, Who::Peer(*peer));
                let stays = self.fetcher.keep(&record).map_err(|error| error.to_string());
                if !matches!(stays, Ok(Kept::Stored)) {
                    self.fetcher.first_use(key);
                    if let Some(before) = before {
                        self.fetcher.came_unasked(*key, before);
                    }
                }
                match stays? {
                    Kept::Stored => {
                        pulled.kept += 1;
                        let large = record.record().blobs().filter(Lists::is_worth_asking);
                        let room = MAX_LISTED.saturating_sub(pulled.large.len());
                        pulled.large.extend(large.take(room));
                    }
                    // It came another way in the meantime.
                    Kept::Same => continue,
                    Kept::Older | Kept::Refused => {
                        // The version that came, and the one that was announced.
                        self.spare(*key, record.item().sum);
                        self.spare(*key, item.sum);
                        continue;
                    }
                }
                if self.copies_all() {
                    let mut todo = self.todo();
                    if todo.copy.len() < MAX_WAITING {
                        todo.copy.push_back(*key);
                    }
                }
            }
        }
        if self.copies_all() {
            self.something.notify_one();
        }
        Ok(pulled)
    }

    /// Asks a member for the chunks of what it was found to have, which somebody may want soon; the first ones if that
    /// is much.
    async fn list(&self, peer: &PeerId, large: &[Digest]) -> Result<(), String> {
        let fetcher = &self.fetcher;
        let Some(whom) = fetcher.view.whom(peer).filter(|_| !self.copies_all()) else {
            return Ok(());
        };
        let blobs = fetcher.lacking(&fetcher.lists.unknown(large));
        let blobs = blobs.map_err(|error| error.to_string())?;
        let told = self.net.endpoint.manifests(&whom.holder(), &blobs, Patience::default()).await;
        let told = told.map_err(|error| error.to_string())?;
        for (blob, described) in blobs.into_iter().zip(told) {
            if let Some(described) = described {
                fetcher.lists.put(blob, Listed { described, by: *peer });
            }
        }
        Ok(())
    }

    fn copies_all(&self) -> bool {
        self.settings.background == Background::All
    }

    /// Copies what one record names, within the budget of the background.
    async fn copy(&self, key: &ActionKey) -> Result<(), String> {
        let record = self.fetcher.disk.store().record(key).map_err(failed);
        let Some(record) = record.map_err(|error: CacheError| error.to_string())? else {
            return Ok(());
        };
        let mut taken = Taken::default();
        let came = self.fetcher.complete(&record, &Scope::Mesh, COPY_ROUNDS, &(), &mut taken).await;
        if came.map_err(|error| error.to_string())? && taken.wire() > 0 {
            self.fetcher.announce(&record, false);
            let rate = self.settings.bytes_per_second as f64 / MAX_COPYING as f64;
            sleep(Duration::from_secs_f64(taken.wire() as f64 / rate)).await;
        }
        Ok(())
    }
}

fn report(done: Result<(), JoinError>) {
    if let Err(error) = done {
        tracing::error!(%error, "a part of keeping agents alike failed");
    }
}
