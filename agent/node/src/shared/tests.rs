use super::*;
use crate::{
    config::FallbackWay,
    decisions::Decisions,
    disk_cache::DiskCache,
    far_cache::FarCache,
    fetcher::{Credits, Fetcher},
    flights::Flights,
};
use bytes::Bytes;
use netbuild_core::{
    backend::TierKind,
    cache::{Cache as _, Content, Hit, NewRecord, Source},
    merge::Trust,
    outbox::Writing,
    peer::Identity,
    plan::Policy,
    record::{ActionResult, Execution, Output, OutputKind, Sandbox},
    tree::Entry,
};
use netbuild_gateway::Door as _;
use netbuild_proto::{listing, record::SealedRecord};
use netbuild_store::{
    Answer, Batch, Bring, ChangeCursor, Changes, Counts, DiskStore, Evicting, Kind, Limits,
    MemoryStore, MemoryTier, Stored, Tended,
};
use std::{
    ops::Range,
    sync::atomic::{AtomicU8, AtomicU64, Ordering},
};
use tokio::{runtime::Runtime, task::JoinSet};
use tokio_util::sync::CancellationToken;

const KEY: ActionKey = ActionKey([7; 32]);
const WELL: u8 = 0;
const SILENT: u8 = 1;
const LYING: u8 = 2;
const SLOW: u8 = 3;
/// Of somebody who asked for it.
const PATIENT: Patience =
    Patience { any: Duration::from_secs(60), through: Duration::from_secs(60), away: true };
/// Of the end of a run.
const ENDING: Patience =
    Patience { any: Duration::from_secs(3), through: Duration::from_secs(40), away: false };

/// A tier that does what a test wants.
#[derive(Debug, Default)]
struct Moody {
    tier: MemoryTier,
    mood: AtomicU8,
    /// Questions for which somebody waits.
    asked: AtomicU64,
    probed: AtomicU64,
    /// All of them, by whomever.
    all: AtomicU64,
}

impl Moody {
    fn on(tier: &MemoryTier, mood: u8) -> Arc<Self> {
        Arc::new(Self { tier: tier.clone(), mood: AtomicU8::new(mood), ..Self::default() })
    }

    fn answer<'a, T: Send + 'a>(&self, answer: Answer<'a, T>) -> Answer<'a, T> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.background(answer)
    }

    fn background<'a, T: Send + 'a>(&self, answer: Answer<'a, T>) -> Answer<'a, T> {
        self.all.fetch_add(1, Ordering::Relaxed);
        match self.mood.load(Ordering::Relaxed) {
            SILENT => Box::pin(std::future::pending()),
            SLOW => Box::pin(async {
                tokio::time::sleep(Duration::from_millis(200)).await;
                answer.await
            }),
            _ => answer,
        }
    }

    fn lies(&self) -> bool {
        self.mood.load(Ordering::Relaxed) == LYING
    }
}

impl netbuild_store::Tier for Moody {
    fn name(&self) -> &str {
        "moody"
    }

    fn kind(&self) -> Kind {
        Kind::Memory
    }

    fn limits(&self) -> Limits {
        self.tier.limits()
    }

    fn find<'a>(&'a self, blobs: &'a [Digest]) -> Answer<'a, Vec<bool>> {
        self.background(self.tier.find(blobs))
    }

    fn small<'a>(&'a self, blobs: &'a [Digest]) -> Answer<'a, Vec<Option<Bytes>>> {
        let lie = |bytes: Bytes| Bytes::from(vec![b'x'; bytes.len()]);
        self.answer(Box::pin(async move {
            let bytes = self.tier.small(blobs).await?.into_iter();
            Ok(bytes.map(|it| if self.lies() { it.map(lie) } else { it }).collect())
        }))
    }

    fn read<'a>(&'a self, blob: &'a Digest, range: Range<u64>) -> Answer<'a, Option<Bring>> {
        let lying = |len: u64| -> Bring {
            Box::pin(futures::stream::iter([Ok(Bytes::from(vec![b'x'; len as usize]))]))
        };
        self.answer(Box::pin(async move {
            let len = range.end - range.start;
            let stream = self.tier.read(blob, range).await?;
            Ok(if self.lies() { stream.map(|_| lying(len)) } else { stream })
        }))
    }

    fn records<'a>(&'a self, keys: &'a [ActionKey]) -> Answer<'a, Vec<Option<SealedRecord>>> {
        self.answer(self.tier.records(keys))
    }

    fn put(&self, batch: Batch) -> Answer<'_, Stored> {
        self.background(self.tier.put(batch))
    }

    fn try_writing(&self) -> Answer<'_, ()> {
        self.background(self.tier.try_writing())
    }

    fn ahead(&self) -> Answer<'_, Option<i64>> {
        self.background(self.tier.ahead())
    }

    fn changes<'a>(&'a self, after: &'a ChangeCursor) -> Answer<'a, Changes> {
        self.background(self.tier.changes(after))
    }

    fn doubt<'a>(&'a self, blob: &'a Digest) -> Answer<'a, ()> {
        self.background(self.tier.doubt(blob))
    }

    fn probe(&self) -> Answer<'_, ()> {
        self.probed.fetch_add(1, Ordering::Relaxed);
        self.background(self.tier.probe())
    }

    fn tend(&self) -> Answer<'_, Tended> {
        self.tier.tend()
    }

    fn counts(&self) -> Counts {
        self.tier.counts()
    }
}

/// A process with a disk of its own and one tier.
struct Process {
    cache: FarCache,
    tasks: JoinSet<()>,
    runtime: Option<Runtime>,
    dir: tempfile::TempDir,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.cache.stop.cancel();
        if let Some(runtime) = self.runtime.take() {
            runtime.block_on(async { while self.tasks.join_next().await.is_some() {} });
        }
    }
}

fn terms() -> Terms {
    Terms { writing: Writing::Back, min_size: 0, max_size: u64::MAX }
}

fn name() -> TierName {
    TierName { kind: TierKind::S3, place: "s3://bucket".into() }
}

/// `busy`: it follows the tier, and copies to it.
fn process(seed: u8, tier: Arc<dyn netbuild_store::Tier>, busy: bool) -> Process {
    in_dir(seed, tier, busy, tempfile::tempdir().unwrap())
}

fn in_dir(
    seed: u8,
    tier: Arc<dyn netbuild_store::Tier>,
    busy: bool,
    dir: tempfile::TempDir,
) -> Process {
    with_tiers(seed, vec![(name(), terms(), tier)], Arc::new(MemoryStore::new()), busy, dir)
}

fn with_tiers(
    seed: u8,
    tiers: Vec<(TierName, Terms, Arc<dyn netbuild_store::Tier>)>,
    store: Arc<dyn netbuild_store::Store>,
    busy: bool,
    dir: tempfile::TempDir,
) -> Process {
    let identity = Identity::from_seed(&[seed; 32]);
    let (region, trust) = (String::new(), Trust::default());
    let disk = Arc::new(DiskCache::new(store, identity, region.clone(), trust, "test"));
    let names = Tiers::new(tiers.iter().map(|(name, ..)| name.clone()));
    let view = Arc::new(View::new(Policy::default(), region, names, false));
    let shared = Arc::new(Shared::new(dir.path(), &view, tiers));
    let fetcher = Arc::new(Fetcher {
        disk,
        view,
        net: None,
        shared,
        decisions: Decisions::default(),
        way: FallbackWay::Adaptive,
        delta: false,
        builds: true,
        flights: Flights::default(),
        underway: Arc::default(),
        lists: crate::lists::Lists::default(),
        unused: Mutex::default(),
        credits: Credits::default(),
        traffic: Arc::default(),
    });
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.unwrap();
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    if busy {
        let _inside = runtime.enter();
        fetcher.share(&mut tasks, &stop);
    }
    let cache = FarCache { fetcher, runtime: runtime.handle().clone(), stop };
    Process { cache, tasks, runtime: Some(runtime), dir }
}

impl Process {
    /// Keeps a result with a large file and many small ones.
    fn put(&self, local: bool) {
        let large = large();
        let small: Vec<Vec<u8>> = (0..300_u32).map(|n| n.to_le_bytes().to_vec()).collect();
        let entry = |(n, bytes): (usize, &Vec<u8>)| {
            let digest = Digest::of(bytes);
            (format!("{n:05}").into_bytes(), Entry::File { digest, executable: false })
        };
        let listing = listing::encode(&small.iter().enumerate().map(entry).collect::<Vec<_>>());
        for bytes in small.iter().chain([&large, &listing]) {
            self.cache.put_blob(&Digest::of(bytes), Content::Bytes(bytes)).unwrap();
        }
        let output = |path: &[u8], kind| Output { path: path.to_vec(), kind };
        let file = OutputKind::File { digest: Digest::of(&large), executable: false };
        let tree = OutputKind::Tree { listing: Digest::of(&listing) };
        let outputs = vec![output(b"file", file), output(b"tree", tree)];
        self.cache
            .put_record(NewRecord {
                key: KEY,
                result: ActionResult { exit_code: 0, outputs, log: None },
                execution: execution(local),
            })
            .unwrap();
    }

    fn lookup(&self) -> Option<Hit> {
        self.cache.lookup(&KEY, &()).unwrap()
    }

    fn drained(&self) -> Drained {
        self.cache.drained(PATIENT, &|| true)
    }

    /// Keeps a small result of one file; returns the file.
    fn put_small(&self, key: ActionKey, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.cache.put_blob(&digest, Content::Bytes(bytes)).unwrap();
        let kind = OutputKind::File { digest, executable: false };
        let outputs = vec![Output { path: b"file".to_vec(), kind }];
        let result = ActionResult { exit_code: 0, outputs, log: None };
        self.cache.put_record(NewRecord { key, result, execution: execution(false) }).unwrap();
        digest
    }

    fn shared(&self) -> &Shared {
        &self.cache.fetcher.shared
    }
}

fn execution(local: bool) -> Execution {
    Execution {
        duration_ms: 1,
        finished_at_ms: 1,
        sandbox_asked: Sandbox::Env,
        sandbox_obtained: Sandbox::Env,
        tools: Vec::new(),
        netbuild_version: "0".into(),
        flaky: false,
        drift_checked: true,
        bound_to: None,
        local,
    }
}

/// A copy of what another process left.
fn dir_of(other: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(other.join("outbox"), dir.path().join("outbox")).unwrap();
    dir
}

/// 9 MiB, so that it comes in more than one range.
fn large() -> Vec<u8> {
    (0..9_u32 << 18).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect()
}

#[test]
fn two_that_share_nothing_but_a_tier_share_results() {
    let tier = MemoryTier::new();
    let one = process(1, Arc::new(tier.clone()), true);
    one.put(false);
    assert_eq!(one.drained(), Drained::All);
    for busy in [false, true] {
        let two = process(2, Arc::new(tier.clone()), busy);
        let hit = two.lookup().unwrap();
        assert_eq!(hit.source, Source::Tier(name()), "busy: {busy}");
        assert!(hit.bytes >= 9 << 20, "{}", hit.bytes);
        let again = two.lookup().unwrap();
        assert_eq!((again.source, again.bytes), (Source::Disk, 0));
        let row = &two.cache.status().tiers[0];
        assert_eq!((row.name.as_str(), row.state.as_str(), row.waiting), ("s3://bucket", "ok", 0));
        assert_eq!(two.cache.decisions(None, 9).unwrap()[0].attempts[0].source, "s3://bucket");
    }
    let nobody = process(3, Arc::new(MemoryTier::new()), false);
    assert_eq!(nobody.lookup(), None);
}

#[test]
fn what_vanished_from_a_tier_is_a_miss_and_comes_back_with_the_next_result() {
    let tier = MemoryTier::new();
    let one = process(1, Arc::new(tier.clone()), true);
    one.put(false);
    assert_eq!(one.drained(), Drained::All);
    let two = process(2, Arc::new(tier.clone()), false);
    let (record, _) =
        two.cache.wait(async { Ok(two.shared().record(&KEY, true).await) }).unwrap().unwrap();
    two.cache.fetcher.keep(&record).unwrap();
    tier.flush();
    assert_eq!(two.lookup(), None, "the record is known, its blobs are gone");
    one.put(false);
    assert_eq!(one.drained(), Drained::All);
    assert_eq!(two.lookup().map(|hit| hit.source), Some(Source::Tier(name())));
}

#[test]
fn a_tier_that_says_nothing_costs_one_wait_and_is_asked_no_more() {
    let moody = Moody::on(&MemoryTier::new(), SILENT);
    let one = process(1, Arc::<Moody>::clone(&moody), false);
    for _ in 0..100 {
        assert_eq!(one.lookup(), None);
    }
    // Again when its rest is over by the clock, which a busy machine may see to.
    assert!(moody.asked.load(Ordering::Relaxed) <= 3);
    one.put(false);
    assert!(one.lookup().is_some_and(|hit| hit.source == Source::Disk));
    let no_time = Patience { any: Duration::ZERO, ..ENDING };
    assert_eq!(one.cache.drained(no_time, &|| true), Drained::Some);
}

#[test]
fn what_waits_goes_through_when_the_tier_is_back() {
    let tier = MemoryTier::new();
    let moody = Moody::on(&tier, SILENT);
    let one = process(1, Arc::<Moody>::clone(&moody), true);
    // It is found out that it is silent.
    assert_eq!(one.lookup(), None);
    one.put(false);
    assert_eq!(one.shared().backlog(TierId(0)).waiting, 1);
    moody.mood.store(WELL, Ordering::Relaxed);
    assert_eq!(one.drained(), Drained::All);
    let backlog = one.shared().backlog(TierId(0));
    assert_eq!((backlog.waiting, backlog.sent), (0, 1));
    assert!(process(2, Arc::new(tier), false).lookup().is_some());
}

#[test]
fn wrong_bytes_are_a_miss_and_told() {
    let tier = MemoryTier::new();
    let one = process(1, Arc::new(tier.clone()), true);
    one.put(false);
    assert_eq!(one.drained(), Drained::All);
    let liar = process(2, Moody::on(&tier, LYING), false);
    assert_eq!(liar.lookup(), None);
    let row = &liar.cache.status().tiers[0];
    assert_eq!((row.wrong, row.state.as_str()), (1, "open"));
    let decisions = liar.cache.decisions(None, 9).unwrap();
    assert!(decisions[0].attempts[0].outcome.contains("wrong bytes"), "{decisions:?}");
}

#[test]
fn what_waits_is_known_to_the_next_process_and_what_is_local_does_not_wait() {
    let tier = MemoryTier::new();
    let one = process(1, Arc::new(tier.clone()), false);
    one.put(true);
    assert_eq!(one.shared().backlog(TierId(0)).waiting, 0);
    one.put(false);
    // As when it is killed: nothing is closed in order.
    let waits = |busy| in_dir(1, Arc::new(tier.clone()), busy, dir_of(one.dir.path()));
    assert_eq!(waits(false).shared().backlog(TierId(0)).waiting, 1);
    let next = waits(true);
    // Its disk is another one, so that there is nothing to copy.
    assert_eq!(next.drained(), Drained::All);
}

/// What the end of a run waits for a tier that takes its time, by a clock that only moves while
/// everybody waits.
async fn waited(writing: Writing, going: &dyn Fn() -> bool) -> Duration {
    let tier = Moody::on(&MemoryTier::new(), SILENT);
    let view = Arc::new(View::new(Policy::default(), String::new(), Tiers::new([name()]), false));
    let dir = tempfile::tempdir().unwrap();
    let terms = Terms { writing, ..terms() };
    let shared = Shared::new(dir.path(), &view, [(name(), terms, tier as _)]);
    shared.put_blob(&Digest::of(b"blob"));
    let began = tokio::time::Instant::now();
    assert_eq!(shared.drain(ENDING, going).await, Drained::Some);
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_run_waits_for_its_budget_and_no_longer() {
    assert_eq!(waited(Writing::Back, &|| true).await, ENDING.any);
    assert_eq!(waited(Writing::Through, &|| true).await, ENDING.through);
    // Somebody presses Ctrl-C.
    let looks = AtomicU64::new(0);
    let going = || looks.fetch_add(1, Ordering::Relaxed) < 3;
    assert!(waited(Writing::Through, &going).await < Duration::from_secs(1));
}

#[test]
fn a_tier_that_is_dead_costs_a_build_of_many_tasks_no_more_than_one_of_few() {
    let dead = Moody::on(&MemoryTier::new(), SILENT);
    let one = process(1, Arc::<Moody>::clone(&dead), true);
    // Until it is known to be dead, questions are under way that began before.
    assert_eq!(one.lookup(), None);
    while one.cache.status().tiers[0].state.as_str() == "ok" {
        assert_eq!(one.lookup(), None);
    }
    let (all, probed) = (dead.all.load(Ordering::Relaxed), dead.probed.load(Ordering::Relaxed));
    for task in 0..500_u32 {
        let mut key = [9; 32];
        key[..4].copy_from_slice(&task.to_be_bytes());
        assert_eq!(one.cache.lookup(&ActionKey(key), &()).unwrap(), None);
        one.put_small(ActionKey(key), &task.to_le_bytes());
    }
    one.cache.flush().unwrap();
    assert_eq!(one.cache.drained(ENDING, &|| true), Drained::Some);
    // Nothing was asked but by probes, whose pauses double.
    let probes = dead.probed.load(Ordering::Relaxed) - probed;
    assert!(dead.all.load(Ordering::Relaxed) - all <= probes + 2, "{probes} probes");
    assert_eq!(one.shared().backlog(TierId(0)).waiting, 500);
}

#[test]
fn a_blob_that_was_put_by_itself_reaches_those_who_share_a_tier_only() {
    let tier = MemoryTier::new();
    let one = process(1, Arc::new(tier.clone()), true);
    for bytes in [b"small".to_vec(), large()] {
        let blob = Digest::of(&bytes);
        one.cache.put_blob(&blob, Content::Bytes(&bytes)).unwrap();
        assert_eq!(one.drained(), Drained::All, "a blob of a build waits for its result");
        let two = process(2, Arc::new(tier.clone()), false);
        assert_eq!(two.cache.fetch_all(&[blob], &()).unwrap().missing, [blob]);
        one.cache.share(&blob).unwrap();
        // It outlives the process, as results do.
        let next = in_dir(1, Arc::new(MemoryTier::new()), false, dir_of(one.dir.path()));
        let waits = next.shared().backlog(TierId(0)).waiting + one.shared().backlog(TierId(0)).sent;
        assert!(waits >= 1);
        assert_eq!(one.drained(), Drained::All);
        assert_eq!(two.cache.fetch_all(&[blob], &()).unwrap().missing, []);
    }
}

#[test]
fn a_hit_from_a_slow_tier_is_written_to_the_faster_one_if_that_is_written_at_all() {
    let redis = || TierName { kind: TierKind::Redis, place: "redis://host:6379".into() };
    for writing in [Writing::Back, Writing::Never] {
        let (slow, fast) = (MemoryTier::new(), MemoryTier::new());
        let one = process(1, Arc::new(slow.clone()), true);
        one.put(false);
        assert_eq!(one.drained(), Drained::All);
        let tiers: Vec<(TierName, Terms, Arc<dyn netbuild_store::Tier>)> = vec![
            (name(), terms(), Moody::on(&slow, SLOW)),
            (redis(), Terms { writing, max_size: 1 << 20, ..terms() }, Arc::new(fast.clone())),
        ];
        let dir = tempfile::tempdir().unwrap();
        let two = with_tiers(2, tiers, Arc::new(MemoryStore::new()), true, dir);
        let measured = || {
            let tiers = two.cache.status().tiers;
            tiers.iter().all(|tier| tier.rtt_ms.is_some() && tier.compared_s.is_some())
        };
        while !measured() {
            two.cache
                .wait(async {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    Ok(())
                })
                .unwrap();
        }
        assert_eq!(two.lookup().map(|hit| hit.source), Some(Source::Tier(name())));
        assert_eq!(two.drained(), Drained::All);
        let three = process(3, Arc::new(fast), false);
        let record = three.cache.wait(async { Ok(three.shared().record(&KEY, true).await) });
        let filled = record.unwrap().is_some();
        assert_eq!(filled, writing == Writing::Back);
        // What is larger than it is given is not there.
        assert_eq!(three.lookup(), None);
        if filled {
            let small = Digest::of(&7_u32.to_le_bytes());
            assert_eq!(three.cache.fetch_all(&[small], &()).unwrap().missing, []);
        }
    }
}

#[test]
fn what_a_tier_holds_goes_first_and_comes_back_from_it() {
    let (tier, dir) = (MemoryTier::new(), tempfile::tempdir().unwrap());
    let open = |dir: &Path| Arc::new(DiskStore::open(dir, "test").unwrap());
    let tiers = || -> Vec<(TierName, Terms, Arc<dyn netbuild_store::Tier>)> {
        vec![(name(), terms(), Arc::new(tier.clone()))]
    };
    let key = |number: u8| ActionKey([number; 32]);
    let content = |number: u8| vec![number; 100_000];
    let outbox = tempfile::tempdir().unwrap();
    let kept = outbox.path().to_owned();
    {
        let one = with_tiers(1, tiers(), open(dir.path()), true, outbox);
        for number in 1..=10 {
            one.put_small(key(number), &content(number));
        }
        assert_eq!(one.drained(), Drained::All);
        // The next process knows it too.
        let next = tempfile::tempdir().unwrap();
        one.shared().keep_known(true);
        std::fs::copy(kept.join("held"), next.path().join("held")).unwrap();
        let sizes = [100_000];
        let later = with_tiers(1, tiers(), Arc::new(MemoryStore::new()), false, next);
        let elsewhere = later.cache.fetcher.elsewhere();
        assert!((elsewhere.refetch)(&key(1), &sizes).is_some());
        assert!((elsewhere.refetch)(&key(11), &sizes).is_none());
    }
    let one = with_tiers(1, tiers(), open(dir.path()), false, tempfile::tempdir().unwrap());
    for number in 1..=10 {
        one.shared().note(key(number), TierId(0));
    }
    // Not copied: nobody else has these.
    for number in 11..=20 {
        one.put_small(key(number), &content(number));
    }
    let elsewhere = one.cache.fetcher.elsewhere();
    let refetch = |key: &ActionKey, sizes: &[u64]| (elsewhere.refetch)(key, sizes);
    let store = one.cache.disk().store();
    let max_bytes = store.usage().unwrap().total() * 3 / 4;
    let limits = netbuild_core::evict::Limits {
        max_bytes,
        min_free: 0,
        max_age: None,
        grace: Duration::ZERO,
    };
    let tell = |_: &str, _: f64| std::ops::ControlFlow::Continue(());
    let how = Evicting { refetch: &refetch, expire: false, dry_run: false, tell: &tell };
    let evicted = store.evict(&limits, &how).unwrap();
    assert!(!evicted.actions.is_empty());
    assert!(evicted.actions.iter().all(|gone| gone.0[0] <= 10), "{evicted:?}");
    for gone in evicted.actions {
        let hit = one.cache.lookup(&gone, &()).unwrap().unwrap();
        assert_eq!((hit.source, hit.bytes), (Source::Tier(name()), 100_000));
    }
}
