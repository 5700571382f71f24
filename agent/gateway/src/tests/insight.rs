//! What an agent knows of the mesh, through the socket; and syncs.

use super::{PATIENCE, Shelf, ends, serve};
use crate::{ControlServer, Door, OnProgress, OnVerify, SocketCache};
use netbuild_core::{
    cache::{Cache, CacheError, Content, FetchedAll, Hit, NewRecord},
    digest::Digest,
    key::ActionKey,
    moved::Watch,
};
use netbuild_proto::{
    control::{
        ConflictRow, Decision, LinkRow, LinkSource, MonitorSnapshot, PlanReport, Request, Response,
        Status, SyncOrder, SyncProgress, SyncReport, VERSION, VerifyOrder, VerifyProgress,
        VerifyReport, Version,
    },
    record::SealedRecord,
};
use std::{
    io::Read,
    ops::ControlFlow,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{Arc, Mutex, mpsc},
    thread,
};
use tempfile::TempDir;

/// An agent that knows something of everything.
#[derive(Debug)]
struct Knowing {
    shelf: Shelf,
    /// Hears when a sync has been broken off.
    broken_off: Mutex<mpsc::Sender<()>>,
}

/// From this region a sync never comes to its end by itself.
const ENDLESS: &str = "endless";

impl Cache for Knowing {
    fn lookup(&self, key: &ActionKey, watch: &dyn Watch) -> Result<Option<Hit>, CacheError> {
        self.shelf.lookup(key, watch)
    }

    fn fetch_all(&self, blobs: &[Digest], watch: &dyn Watch) -> Result<FetchedAll, CacheError> {
        self.shelf.fetch_all(blobs, watch)
    }

    fn open(&self, blob: &Digest) -> Result<Option<Box<dyn Read + Send>>, CacheError> {
        self.shelf.open(blob)
    }

    fn put_blob(&self, blob: &Digest, content: Content<'_>) -> Result<(), CacheError> {
        self.shelf.put_blob(blob, content)
    }

    fn put_record(&self, record: NewRecord) -> Result<(), CacheError> {
        self.shelf.put_record(record)
    }

    fn flush(&self) -> Result<(), CacheError> {
        self.shelf.flush()
    }
}

impl Door for Knowing {
    fn lookup_sealed(
        &self,
        key: &ActionKey,
        watch: &dyn Watch,
    ) -> Result<Option<(SealedRecord, Hit)>, CacheError> {
        self.shelf.lookup_sealed(key, watch)
    }

    fn status(&self) -> Status {
        self.shelf.status()
    }

    fn links(&self) -> Result<Vec<LinkRow>, CacheError> {
        Ok(vec![link()])
    }

    fn plan(&self, blob: &Digest) -> Result<PlanReport, CacheError> {
        Ok(plan(blob))
    }

    fn decisions(&self, about: Option<&str>, limit: u32) -> Result<Vec<Decision>, CacheError> {
        let what = about.unwrap_or("anything").to_owned();
        let decision = Decision { what: what.clone(), ..Decision::default() };
        match what.as_str() {
            // More than an answer holds.
            "much" => Ok(vec![Decision { what: "x".repeat(10_000), ..decision }; limit as usize]),
            _ => Ok(vec![decision; limit as usize]),
        }
    }

    fn conflicts(&self) -> Result<Vec<ConflictRow>, CacheError> {
        Ok(vec![conflict()])
    }

    fn sync(&self, order: &SyncOrder, progress: OnProgress<'_>) -> Result<SyncReport, CacheError> {
        let mut artifacts = 0;
        let endless = order.from.as_deref() == Some(ENDLESS);
        while endless || artifacts < 3 {
            artifacts += 1;
            let so_far = SyncProgress { artifacts_done: artifacts, ..SyncProgress::default() };
            if progress(so_far).is_break() {
                self.broken_off.lock().unwrap().send(()).unwrap();
                return Err(CacheError::Failed("broken off".into()));
            }
            thread::yield_now();
        }
        Ok(SyncReport { artifacts, dry_run: order.dry_run, ..SyncReport::default() })
    }

    fn verify(
        &self,
        order: &VerifyOrder,
        progress: OnVerify<'_>,
    ) -> Result<VerifyReport, CacheError> {
        let mut blobs = 0;
        // A deep one never ends here.
        while order.deep || blobs < 3 {
            blobs += 1;
            if progress(VerifyProgress { found: blobs, ..VerifyProgress::default() }).is_break() {
                self.broken_off.lock().unwrap().send(()).unwrap();
                return Err(CacheError::Failed("broken off".into()));
            }
            thread::yield_now();
        }
        Ok(VerifyReport { blobs, repair: order.repair, ..VerifyReport::default() })
    }

    fn monitor(&self) -> Result<MonitorSnapshot, CacheError> {
        Ok(MonitorSnapshot { records: 7, ..MonitorSnapshot::default() })
    }
}

fn link() -> LinkRow {
    LinkRow {
        from: "a".into(),
        from_region: "us-east".into(),
        to: "b".into(),
        to_region: "eu-central".into(),
        rtt_ms: Some(151.5),
        jitter_ms: Some(0.25),
        loss: None,
        goodput: Some(3_000_000),
        age_s: 4.0,
        source: LinkSource::Measured,
        score_s: Some(1.0),
    }
}

fn plan(blob: &Digest) -> PlanReport {
    PlanReport { what: blob.to_string(), size: blob.size, build_s: None, steps: Vec::new() }
}

fn conflict() -> ConflictRow {
    let (kept, others) = (Version::default(), vec![Version::default()]);
    ConflictRow { key: "af".into(), task_hint: String::new(), kept, others }
}

struct Served {
    cache: SocketCache,
    server: ControlServer,
    broken_off: mpsc::Receiver<()>,
    path: PathBuf,
    _dir: TempDir,
}

fn knowing() -> Served {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let (sender, broken_off) = mpsc::channel();
    let door = Knowing { shelf: Shelf::default(), broken_off: Mutex::new(sender) };
    let server = ControlServer::start(&path, Arc::new(door), Arc::default()).unwrap();
    let cache = SocketCache::connect(&path).unwrap();
    Served { cache, server, broken_off, path, _dir: dir }
}

fn endless() -> SyncOrder {
    SyncOrder { from: Some(ENDLESS.into()), ..SyncOrder::default() }
}

#[test]
fn what_an_agent_knows_arrives_as_it_is() {
    let served = knowing();
    let cache = &served.cache;
    let links = cache.links().unwrap();
    assert_eq!((links.rows, links.left_out), (vec![link()], 0));
    let blob = Digest::of(b"blob");
    assert_eq!(cache.plan(&blob).unwrap(), plan(&blob));
    assert_eq!(cache.conflicts().unwrap().rows, [conflict()]);
    assert_eq!(cache.monitor().unwrap().records, 7);
    let decisions = cache.decisions(Some("services/api"), 3).unwrap();
    assert_eq!(decisions.rows.len(), 3);
    assert!(decisions.rows.iter().all(|decision| decision.what == "services/api"));
}

#[test]
fn of_too_many_decisions_the_first_arrive_and_the_others_are_counted() {
    let served = knowing();
    let all = served.cache.decisions(None, u32::MAX).unwrap();
    assert_eq!((all.rows.len(), all.left_out), (1000, 0));
    let much = served.cache.decisions(Some("much"), 500).unwrap();
    assert!(!much.rows.is_empty() && much.left_out > 0);
    assert_eq!(much.rows.len() as u64 + much.left_out, 500);
}

#[test]
fn without_an_agent_nothing_is_known_and_it_says_so() {
    let served = serve();
    let cache = served.connect();
    let sync = cache.sync(&SyncOrder::default(), &mut |_| ControlFlow::Continue(()));
    let errors = [
        cache.links().map(drop),
        cache.plan(&Digest::of(b"")).map(drop),
        cache.decisions(None, 1).map(drop),
        cache.conflicts().map(drop),
        sync.map(drop),
        cache.monitor().map(drop),
    ];
    for error in errors {
        let error = error.unwrap_err();
        assert!(matches!(&error, CacheError::Failed(_)), "{error:?}");
        assert!(error.to_string().contains("no agent runs here"), "{error}");
    }
}

#[test]
fn a_sync_tells_how_far_it_is_and_what_it_did() {
    let served = knowing();
    let mut told = SyncProgress::default();
    let order = SyncOrder { dry_run: true, ..SyncOrder::default() };
    let report = served.cache.sync(&order, &mut |progress| {
        told = progress;
        ControlFlow::Continue(())
    });
    let report = report.unwrap().expect("it was not broken off");
    assert_eq!((report.artifacts, report.dry_run), (3, true));
    assert_eq!(told.artifacts_done, 3);
    // And the connection can be used again.
    assert_eq!(served.cache.monitor().unwrap().records, 7);
}

#[test]
fn a_sync_whose_client_breaks_it_off_ends_at_the_agent_too() {
    let served = knowing();
    let done = served.cache.sync(&endless(), &mut |progress| match progress.artifacts_done {
        0 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    });
    assert_eq!(done, Ok(None));
    served.broken_off.recv_timeout(PATIENCE).expect("the agent syncs on");
    assert_eq!(served.cache.monitor().unwrap().records, 7);
}

#[test]
fn a_verification_tells_how_far_it_is_and_ends_when_its_client_breaks_it_off() {
    let served = knowing();
    let mut told = VerifyProgress::default();
    let order = VerifyOrder { deep: false, repair: true };
    let report = served.cache.verify(&order, &mut |progress| {
        told = progress;
        ControlFlow::Continue(())
    });
    let report = report.unwrap().expect("it was not broken off");
    assert_eq!((report.blobs, report.repair, told.found), (3, true, 3));

    let endless = VerifyOrder { deep: true, repair: false };
    let done = served.cache.verify(&endless, &mut |progress| match progress.found {
        0 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    });
    assert_eq!(done, Ok(None));
    served.broken_off.recv_timeout(PATIENCE).expect("the agent verifies on");
    assert_eq!(served.cache.monitor().unwrap().records, 7);
}

#[test]
fn a_sync_whose_client_is_gone_ends() {
    let served = knowing();
    let mut stream = UnixStream::connect(&served.path).unwrap();
    Request::Hello { version: VERSION }.write(&mut stream).unwrap();
    Request::Sync(endless()).write(&mut stream).unwrap();
    assert_eq!(Response::read(&mut stream).unwrap(), Response::Welcome { version: VERSION });
    while !matches!(Response::read(&mut stream).unwrap(), Response::Syncing(_)) {}
    drop(stream);
    served.broken_off.recv_timeout(PATIENCE).expect("the agent syncs on");
}

#[test]
fn a_sync_does_not_hold_up_the_end_of_the_agent() {
    let Served { cache, server, broken_off, .. } = knowing();
    let (sender, begun) = mpsc::channel();
    let syncing = thread::spawn(move || {
        cache.sync(&endless(), &mut |_| {
            let _ = sender.send(());
            ControlFlow::Continue(())
        })
    });
    begun.recv_timeout(PATIENCE).unwrap();
    ends(move || drop(server));
    broken_off.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(syncing.join().unwrap(), Err(CacheError::Unreachable(_))));
}

#[test]
fn a_sync_that_has_nothing_to_tell_is_known_to_go_on() {
    /// Waits until it is broken off.
    fn talk(mut stream: UnixStream) {
        Request::read(&mut stream).unwrap();
        Response::Welcome { version: VERSION }.write(&mut stream).unwrap();
        Request::read(&mut stream).unwrap();
        let progress = SyncProgress { phase: "comparing".into(), ..SyncProgress::default() };
        Response::Syncing(progress).write(&mut stream).unwrap();
        while Response::Working.write(&mut stream).is_ok() {}
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let serving = thread::spawn(move || talk(listener.accept().unwrap().0));
    let cache = SocketCache::connect(&path).unwrap();
    let mut told = Vec::new();
    let done = cache.sync(&SyncOrder::default(), &mut |progress| {
        told.push(progress.phase);
        if told.len() < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    assert_eq!(done, Ok(None));
    assert_eq!(told, ["comparing"; 3]);
    serving.join().unwrap();
}
