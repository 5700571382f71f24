//! The cache as a command of netbuild sees it: the process that owns the data directory, or, when
//! there is none, this one, which then serves the others.
//!
//! The owner may go away at any moment. Then the next operation looks again: another process may
//! own the directory by now, or this one does.

use crate::{
    chain::chain,
    config::{CacheSettings, FallbackWay, StoreSettings},
    connect::ConnectTierError,
    decisions::Decisions,
    disk_cache::DiskCache,
    far_cache::FarCache,
    fetcher::{Credits, Fetcher},
    flights::Flights,
    keys,
    keys::KeyError,
    lists::Lists,
    room::Tidier,
    shared::{self, Drained, Patience, Shared},
    view::View,
};
use netbuild_core::{
    backend::Local,
    cache::{Cache, CacheError, Content, FetchedAll, Hit, NewRecord},
    digest::{Digest, Hash},
    evict::Pin,
    key::ActionKey,
    merge::Trust,
    moved::Watch,
    plan::Policy,
    record::Record,
};
use netbuild_gateway::{
    ConnectError, ControlServer, Door, OnStep, OnVerify, SocketCache, socket_path,
};
use netbuild_proto::control::{
    GcOrder, GcReport, PinRow, Rows, SpaceReport, Status, VerifyOrder, VerifyReport,
};
use netbuild_store::{DiskStore, MemoryStore, OpenError, Store};
use std::{
    io::Read,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};
use tokio::{runtime::Runtime, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

/// What the lock file says of a command that owns the data directory.
pub(crate) const RUN_ROLE: &str = "netbuild";
/// How long a command looks for an owner that holds the lock and does not serve the socket: it is
/// starting or stopping.
const SETTLE: Duration = Duration::from_secs(5);
/// How often it looks.
const POLL: Duration = Duration::from_millis(10);
/// How long nobody looks again after that was in vain: a build must not wait once for each task.
const REST: Duration = Duration::from_secs(60);
/// Threads of a command that asks tiers: they only wait.
const WORKERS: usize = 2;
/// How long the end of a command waits for what it did in the background.
const ENDING: Duration = Duration::from_secs(2);
/// How many owners an operation may lose one after the other: commands that own the directory for
/// a moment each. More is no accident.
const MAX_OWNERS: u32 = 8;

/// A data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The owner of the data directory does not answer.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A key cannot be read or made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A tier of the chain cannot be used at all.
    #[error(transparent)]
    Tier(#[from] ConnectTierError),
    /// The operating system refuses threads.
    #[error("cannot start a runtime: {0}")]
    Runtime(std::io::Error),
}

/// The cache of a data directory, wherever it is. Opened with the first operation.
#[derive(Debug)]
pub struct Session {
    data_dir: PathBuf,
    region: String,
    trust: Trust,
    /// What this process shares with others when it owns the data directory, and how it asks.
    sharing: Option<(CacheSettings, Policy)>,
    backend: Mutex<Found>,
    id: OnceLock<Hash>,
    bounds: StoreSettings,
}

/// What came of looking for the owner of the data directory.
#[derive(Debug, Default)]
enum Found {
    /// Nobody has looked yet, or the one that was found has gone.
    #[default]
    Nothing,
    /// It can be used.
    Backend(Arc<Backend>),
    /// It cannot be used, and nobody looks again before the time is over.
    Unreachable { why: String, until: Instant },
}

#[derive(Debug)]
enum Backend {
    /// This process owns the data directory, and serves it to others if it can.
    Owner {
        cache: Arc<dyn Door>,
        _server: Option<ControlServer>,
        _tidier: Tidier,
        sharing: Option<Box<Sharing>>,
        /// The data directory, when it has the keys and the lock only.
        _lock: Option<Box<DiskStore>>,
    },
    /// Another one does.
    Remote(SocketCache),
}

/// What runs in this process for the tiers.
#[derive(Debug)]
struct Sharing {
    cache: Arc<FarCache>,
    tasks: JoinSet<()>,
    /// Taken when it ends.
    runtime: Option<Runtime>,
}

impl Drop for Sharing {
    /// What waits stays in the log; what is under way is given up.
    fn drop(&mut self) {
        self.cache.stop.cancel();
        let Some(runtime) = self.runtime.take() else { return };
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        // One that hangs in the disk does not keep the command from its end.
        let _ = runtime.block_on(async { timeout(ENDING, ended).await });
        runtime.shutdown_background();
    }
}

impl Backend {
    fn cache(&self) -> &dyn Cache {
        match self {
            Self::Owner { cache, .. } => cache.as_ref(),
            Self::Remote(cache) => cache,
        }
    }
}

impl Session {
    /// A session with the data directory, an absolute path. Records that this process itself
    /// writes say that they come from `region`; which of two it keeps, `trust` says.
    ///
    /// # Errors
    /// When the directory belongs to a newer version, or to something else altogether. Whatever
    /// else is wrong shows with the first operation.
    pub fn new(data_dir: &Path, region: &str, trust: &Trust) -> Result<Self, SessionError> {
        match DiskStore::check(data_dir) {
            // What the operating system refuses is trouble with the cache, and fails no build.
            Ok(()) | Err(OpenError::Io { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Self {
            data_dir: data_dir.to_owned(),
            region: region.to_owned(),
            trust: trust.clone(),
            sharing: None,
            backend: Mutex::default(),
            id: OnceLock::new(),
            bounds: StoreSettings::default(),
        })
    }

    /// The same with bounds to what the data directory takes, which hold while this process owns it.
    pub fn with_bounds(self, bounds: StoreSettings) -> Self {
        Self { bounds, ..self }
    }

    fn has_tiers(&self) -> bool {
        self.sharing.as_ref().is_some_and(|(settings, _)| !settings.tiers.is_empty())
    }

    /// What takes the space; `None` when `tell` broke it off.
    ///
    /// # Errors
    /// This one and those below: when the data directory cannot be used.
    pub fn space(&self, tell: OnStep<'_>) -> Result<Option<SpaceReport>, CacheError> {
        match self.backend()?.as_ref() {
            Backend::Owner { cache, .. } => cache.space(tell).map(Some),
            Backend::Remote(cache) => cache.space(tell),
        }
    }

    /// Makes space; `None` when `tell` broke it off.
    pub fn gc(&self, order: GcOrder, tell: OnStep<'_>) -> Result<Option<GcReport>, CacheError> {
        match self.backend()?.as_ref() {
            Backend::Owner { cache, .. } => cache.gc(&order, tell).map(Some),
            Backend::Remote(cache) => cache.gc(order, tell),
        }
    }

    /// Keeps something whatever else goes; says whether that is new.
    pub fn pin(&self, pin: Pin, label: &str) -> Result<bool, CacheError> {
        match self.backend()?.as_ref() {
            Backend::Owner { cache, .. } => cache.pin(pin, label),
            Backend::Remote(cache) => cache.pin(pin, label),
        }
    }

    /// Lets something go like anything else; says whether it was pinned.
    pub fn unpin(&self, pin: Pin) -> Result<bool, CacheError> {
        match self.backend()?.as_ref() {
            Backend::Owner { cache, .. } => cache.unpin(&pin),
            Backend::Remote(cache) => cache.unpin(pin),
        }
    }

    /// What is pinned.
    pub fn pins(&self) -> Result<Rows<PinRow>, CacheError> {
        match self.backend()?.as_ref() {
            Backend::Owner { cache, .. } => cache.pins().map(Rows::fitting),
            Backend::Remote(cache) => cache.pins(),
        }
    }

    /// The same with tiers, which this process uses when it owns the data directory itself.
    #[must_use]
    pub fn with_tiers(self, cache: &CacheSettings, policy: &Policy) -> Self {
        Self { sharing: Some((cache.clone(), policy.clone())), ..self }
    }

    /// The end of a command that put something: waits until the tiers have it, at most for the
    /// budgets of the configuration, and as long as `going` says. Says whether all was copied; what
    /// was not waits for the next process. With an agent there is nothing to wait for.
    pub fn finish(&self, going: &dyn Fn() -> bool) -> bool {
        let Found::Backend(backend) = &*self.found() else { return true };
        match (backend.as_ref(), &self.sharing) {
            (Backend::Owner { sharing: Some(sharing), .. }, Some((settings, _))) => {
                let (any, through) = (settings.exit_budget, settings.write_through);
                let patience = Patience { any, through, away: false };
                sharing.cache.drained(patience, going) == Drained::All
            }
            _ => true,
        }
    }

    /// A blob that was put, and that no result names, is to be copied to the tiers.
    ///
    /// # Errors
    /// When the data directory cannot be used.
    pub fn share(&self, blob: &Digest) -> Result<(), CacheError> {
        match self.backend()?.as_ref() {
            Backend::Owner { cache, .. } => cache.share(blob),
            Backend::Remote(cache) => cache.share(blob),
        }
    }

    /// Waits, at most so long, until the tiers have what is to be copied to them.
    ///
    /// # Errors
    /// When the cache cannot be reached.
    pub fn drain(&self, timeout: Duration) -> Result<(), CacheError> {
        match self.backend()?.as_ref() {
            Backend::Owner { cache, .. } => cache.drain(timeout),
            Backend::Remote(cache) => cache.drain(timeout),
        }
    }

    /// Tells this cache from others: the peer id of its data directory, and zeros until it has one.
    pub fn id(&self) -> Hash {
        if let Some(id) = self.id.get() {
            return *id;
        }
        match keys::owner(&self.data_dir) {
            Some(owner) => *self.id.get_or_init(|| Hash(owner.0)),
            None => Hash([0; 32]),
        }
    }

    /// The state of the owner of the data directory; of this process when there is no other.
    pub fn status(&self) -> Result<Status, CacheError> {
        match self.backend()?.as_ref() {
            Backend::Owner { cache, .. } => Ok(cache.status()),
            Backend::Remote(cache) => cache.status(),
        }
    }

    /// Looks through the store, whoever owns it. `None` when `progress` broke it off.
    ///
    /// # Errors
    /// When the data directory cannot be used, or the store cannot be read or mended.
    pub fn verify(
        &self,
        order: &VerifyOrder,
        progress: OnVerify<'_>,
    ) -> Result<Option<VerifyReport>, CacheError> {
        match self.backend()?.as_ref() {
            Backend::Remote(cache) => cache.verify(order, progress),
            Backend::Owner { cache, .. } => {
                let mut broken_off = false;
                let report = cache.verify(order, &mut |so_far| {
                    let going = progress(so_far);
                    broken_off |= going.is_break();
                    going
                });
                if broken_off { Ok(None) } else { report.map(Some) }
            }
        }
    }

    fn backend(&self) -> Result<Arc<Backend>, CacheError> {
        let mut found = self.found();
        match &*found {
            Found::Backend(backend) => return Ok(Arc::clone(backend)),
            Found::Unreachable { why, until } if Instant::now() < *until => {
                return Err(CacheError::Unreachable(why.clone()));
            }
            Found::Nothing | Found::Unreachable { .. } => {}
        }
        match open(self) {
            Ok(opened) => {
                let backend = Arc::new(opened);
                *found = Found::Backend(Arc::clone(&backend));
                Ok(backend)
            }
            Err(error) => {
                let why = chain(&error);
                *found = Found::Unreachable { why: why.clone(), until: Instant::now() + REST };
                Err(CacheError::Unreachable(why))
            }
        }
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.backend.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does an operation, and again with the next owner when the one before is gone.
    fn with<T>(
        &self,
        mut operation: impl FnMut(&dyn Cache) -> Result<T, CacheError>,
    ) -> Result<T, CacheError> {
        let mut lost = 0;
        loop {
            let backend = self.backend()?;
            match operation(backend.cache()) {
                Err(CacheError::Unreachable(why)) if lost < MAX_OWNERS => {
                    tracing::debug!(why, "looking for another owner of the data directory");
                    self.forget(&backend);
                    // One that is ending may still take connections, only to drop them.
                    std::thread::sleep(4 * POLL * lost);
                    lost += 1;
                }
                other => return other,
            }
        }
    }

    fn forget(&self, gone: &Arc<Backend>) {
        let mut found = self.found();
        if matches!(&*found, Found::Backend(current) if Arc::ptr_eq(current, gone)) {
            *found = Found::Nothing;
        }
    }
}

/// Finds the owner of the data directory, or becomes it.
fn open(session: &Session) -> Result<Backend, SessionError> {
    let data_dir = &session.data_dir;
    let deadline = Instant::now() + SETTLE;
    let socket = socket_path(data_dir);
    loop {
        match SocketCache::connect(&socket) {
            Ok(cache) => return Ok(Backend::Remote(cache)),
            Err(ConnectError::NobodyThere(_)) => {}
            Err(error) => return Err(error.into()),
        }
        match DiskStore::open(data_dir, RUN_ROLE) {
            Ok(store) => return own(session, Some(store), &socket),
            Err(OpenError::InUse { .. }) if Instant::now() < deadline => std::thread::sleep(POLL),
            Err(error @ OpenError::Io { .. }) if session.has_tiers() => {
                let error = chain(&error);
                tracing::warn!(dir = %data_dir.display(), error, "data directory cannot be used; \
                    what comes from the tiers is kept in memory, until this command ends");
                return own(session, None, &socket);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Becomes the owner of the data directory that is open; without one, of nothing but memory.
fn own(
    session: &Session,
    store: Option<DiskStore>,
    socket: &Path,
) -> Result<Backend, SessionError> {
    let identity = match &store {
        Some(_) => keys::identity(&session.data_dir)?,
        None => keys::for_now()?,
    };
    let (region, trust) = (session.region.clone(), session.trust.clone());
    let local = session.sharing.as_ref().and_then(|(settings, _)| settings.local.as_ref());
    let has_socket = store.is_some();
    let (store, lock): (Arc<dyn Store>, _) = match (local, store) {
        (Some(Local::Memory), lock) => (Arc::new(MemoryStore::new()), lock.map(Box::new)),
        (_, Some(store)) => (Arc::new(store), None),
        (_, None) => (Arc::new(MemoryStore::new()), None),
    };
    let disk = DiskCache::new(store, identity, region, trust, "run");
    let disk = Arc::new(disk.with_bounds(session.bounds));
    let sharing = match &session.sharing {
        Some((settings, policy)) if !settings.tiers.is_empty() => {
            Some(Box::new(share(session, Arc::clone(&disk), settings, policy)?))
        }
        _ => None,
    };
    let door: Arc<dyn Door> = match &sharing {
        Some(sharing) => Arc::<FarCache>::clone(&sharing.cache),
        None => Arc::<DiskCache>::clone(&disk),
    };
    let cache = Arc::clone(&door);
    // A file system without sockets is no reason to do without the cache.
    let start = || ControlServer::start(socket, door, Arc::default());
    let server = has_socket.then(start).and_then(|started| {
        let failed = |error: &std::io::Error| {
            let socket = socket.display();
            tracing::warn!(%socket, %error, "others cannot use the data directory meanwhile");
        };
        started.inspect_err(failed).ok()
    });
    if let Some(sharing) = &sharing {
        disk.room().know(sharing.cache.fetcher.elsewhere());
    }
    let tidier = Tidier::start(&disk);
    Ok(Backend::Owner { cache, _server: server, _tidier: tidier, sharing, _lock: lock })
}

/// Starts what the tiers need.
fn share(
    session: &Session,
    disk: Arc<DiskCache>,
    settings: &CacheSettings,
    policy: &Policy,
) -> Result<Sharing, SessionError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(SessionError::Runtime)?;
    let region = session.region.clone();
    let view = Arc::new(View::new(policy.clone(), region, shared::sources(settings), false));
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    let fetcher = Arc::new(Fetcher {
        disk,
        shared: Arc::new(Shared::of(settings, &session.data_dir, &view)?),
        view,
        net: None,
        decisions: Decisions::default(),
        way: FallbackWay::Adaptive,
        delta: false,
        builds: !policy.waits,
        flights: Flights::default(),
        underway: Arc::default(),
        lists: Lists::default(),
        unused: Mutex::default(),
        credits: Credits::default(),
        traffic: Arc::default(),
    });
    {
        let _inside = runtime.enter();
        fetcher.share(&mut tasks, &stop);
    }
    let cache = FarCache { fetcher, runtime: runtime.handle().clone(), stop };
    Ok(Sharing { cache: Arc::new(cache), tasks, runtime: Some(runtime) })
}

impl Cache for Session {
    fn lookup(&self, key: &ActionKey, watch: &dyn Watch) -> Result<Option<Hit>, CacheError> {
        self.with(|cache| cache.lookup(key, watch))
    }

    fn peek(&self, key: &ActionKey) -> Result<Option<Record>, CacheError> {
        self.with(|cache| cache.peek(key))
    }

    fn bring(&self, keys: &[ActionKey], watch: &dyn Watch) -> Result<(), CacheError> {
        self.with(|cache| cache.bring(keys, watch))
    }

    fn fetch_all(&self, blobs: &[Digest], watch: &dyn Watch) -> Result<FetchedAll, CacheError> {
        self.with(|cache| cache.fetch_all(blobs, watch))
    }

    fn open(&self, blob: &Digest) -> Result<Option<Box<dyn Read + Send>>, CacheError> {
        self.with(|cache| cache.open(blob))
    }

    fn path(&self, blob: &Digest) -> Option<PathBuf> {
        // The data directory is on this machine, whoever owns it.
        Some(netbuild_store::blob_path(&self.data_dir, &blob.hash))
    }

    fn put_blob(&self, blob: &Digest, content: Content<'_>) -> Result<(), CacheError> {
        match content {
            Content::Bytes(bytes) => self.with(|cache| cache.put_blob(blob, Content::Bytes(bytes))),
            Content::File(path) => self.with(|cache| cache.put_blob(blob, Content::File(path))),
            Content::Reader(reader) => {
                self.backend()?.cache().put_blob(blob, Content::Reader(reader))
            }
        }
    }

    fn put_record(&self, record: NewRecord) -> Result<(), CacheError> {
        self.with(|cache| cache.put_record(record.clone()))
    }

    fn flush(&self) -> Result<(), CacheError> {
        let opened = matches!(&*self.found(), Found::Backend(_));
        if opened { self.with(|cache| cache.flush()) } else { Ok(()) }
    }
}
