use super::*;
use crate::{
    config::FallbackWay, decisions::Decisions, disk_cache::DiskCache, far_cache::FarCache,
    fetcher::Fetcher, flights::Flights,
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
    Answer, Batch, Bring, ChangeCursor, Changes, Counts, Kind, Limits, MemoryStore, MemoryTier,
    Stored, Tended,
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

/// A tier that does what a test wants.
#[derive(Debug, Default)]
struct Moody {
    tier: MemoryTier,
    mood: AtomicU8,
    /// Questions for which somebody waits.
    asked: AtomicU64,
    probed: AtomicU64,
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
        match self.mood.load(Ordering::Relaxed) {
            SILENT => Box::pin(std::future::pending()),
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
    let identity = Identity::from_seed(&[seed; 32]);
    let store = Arc::new(MemoryStore::new());
    let (region, trust) = (String::new(), Trust::default());
    let disk = Arc::new(DiskCache::new(store, identity, region.clone(), trust, "test"));
    let view = Arc::new(View::new(Policy::default(), region, Tiers::new([name()]), false));
    let shared = Arc::new(Shared::new(dir.path(), &view, [(name(), terms(), tier)]));
    let fetcher = Arc::new(Fetcher {
        disk,
        view,
        net: None,
        shared,
        decisions: Decisions::default(),
        way: FallbackWay::Adaptive,
        delta: false,
        flights: Flights::default(),
        unused: Mutex::default(),
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
                    local,
                },
            })
            .unwrap();
    }

    fn lookup(&self) -> Option<Hit> {
        self.cache.lookup(&KEY, &()).unwrap()
    }

    fn drained(&self) -> Drained {
        self.cache.drained(Duration::from_secs(60), false)
    }

    fn shared(&self) -> &Shared {
        &self.cache.fetcher.shared
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
    assert_eq!(one.cache.drained(Duration::ZERO, true), Drained::Some);
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
