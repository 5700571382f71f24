//! An agent: store, mesh, data plane and control socket, started and stopped in order.

use crate::{
    chain::chain,
    config::Settings,
    connect::ConnectTierError,
    decisions::{Decisions, Hearer},
    disk_cache::{DiskCache, failed},
    far_cache::FarCache,
    fetcher::{Credits, Fetcher, Net},
    flights::Flights,
    keys::{self, KeyError},
    lists::Lists,
    measure::Measuring,
    mesh_cache::MeshCache,
    metrics::{Metrics, UPKEEP},
    region::RegionFinder,
    remembered::{Links, Remembered},
    room::Tidier,
    scrub::{self, Scrub},
    session::RUN_ROLE,
    shared::{self, Shared},
    shelf::Shelf,
    sync::{Answerer, Syncer},
    tolls::toll,
    view::View,
};
use netbuild_core::{
    backend::Local,
    cache::CacheError,
    ledger::{Cost, Item},
    link::Sample,
    peer::{Identity, PeerId},
};
use netbuild_gateway::{ControlServer, Door, Guests, HttpOptions, HttpServer, socket_path};
use netbuild_mesh::{Event, Mesh, StartError, Timing};
use netbuild_proto::ticket::Ticket;
use netbuild_store::{DiskStore, MemoryStore, OpenError, Store};
use netbuild_transfer::{BindError, Endpoint};
use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};
use tokio::{
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::{JoinError, JoinSet, spawn_blocking},
};
use tokio_util::sync::CancellationToken;

/// What the lock file says of an agent.
pub(crate) const AGENT_ROLE: &str = "netbuild-agent";
/// How long an agent waits for a command that owns its data directory.
const RUN_WAIT: Duration = Duration::from_secs(60);
/// How often it looks.
const POLL: Duration = Duration::from_millis(50);
/// Samples of links that wait to be taken; more are dropped, as later ones say the same.
const SAMPLES: usize = 1024;
/// Records whose heads are read at once when the agent starts.
const PAGE: usize = 4096;
/// How often what was put is made durable although nobody asks.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is looked whether the index has failed: without it small blobs and records are misses,
/// and making it again in vain, on a disk that stays full, must not keep the machine busy.
const MEND_INTERVAL: Duration = Duration::from_secs(10);

/// Why an agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A key cannot be read or made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The data plane has no port.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The mesh cannot start.
    #[error(transparent)]
    Mesh(#[from] StartError),
    /// The store cannot be read.
    #[error(transparent)]
    Read(#[from] CacheError),
    /// A tier of the chain cannot be used at all.
    #[error(transparent)]
    Tier(#[from] ConnectTierError),
    /// The control socket cannot be served.
    #[error("cannot serve the control socket `{path}`: {error}", path = .0.display(), error = .1)]
    Serve(PathBuf, #[source] std::io::Error),
    /// A part panicked while it started.
    #[error("a part of the agent failed: {0}")]
    Panicked(#[from] JoinError),
}

/// A running agent; it ends with [`Agent::shutdown`].
#[derive(Debug)]
pub struct Agent {
    cache: Arc<MeshCache>,
    disk: Arc<DiskCache>,
    control: ControlServer,
    /// `None` when it is off, or could not be opened.
    http: Option<HttpServer>,
    mesh: Mesh,
    endpoint: Endpoint,
    tasks: JoinSet<()>,
    tidier: Tidier,
    stop: CancellationToken,
    /// The data directory, when it has the keys and the lock only.
    lock: Option<DiskStore>,
}

impl Agent {
    /// Starts an agent. Returns once it serves its control socket and both its ports.
    pub async fn start(settings: &Settings) -> Result<Self, AgentError> {
        let data_dir = settings.data_dir.clone();
        let joining = settings.joining_key();
        let opening = data_dir.clone();
        let (store, identity, mesh_key, remembered) = spawn_blocking(move || {
            let store = open(&opening)?;
            let identity = keys::identity(&opening)?;
            let mesh_key = keys::mesh_key(&opening, joining)?;
            Ok::<_, AgentError>((store, identity, mesh_key, Remembered::load(&opening)))
        })
        .await??;
        let (store, lock): (Arc<dyn Store>, _) = match settings.cache.local {
            Some(Local::Memory) => (Arc::new(MemoryStore::new()), Some(store)),
            Some(Local::Directory(_)) | None => (Arc::new(store), None),
        };
        let finder;
        let disk = {
            let (name, hint) = (&settings.region_settings.name, &settings.region_settings.hint);
            let hinted = hint.as_ref().map_or("", |(_, region)| region);
            let region = if name.is_empty() { hinted } else { name };
            let (identity, trust) = (identity.clone(), settings.trust.clone());
            let disk = DiskCache::new(store, identity, region.to_owned(), trust, "agent");
            let disk = Arc::new(disk.with_bounds(settings.store));
            finder = RegionFinder::new(settings.region_settings.clone(), Arc::clone(&disk));
            disk
        };
        let seeds: Vec<_> = settings.seeds().into_iter().chain(remembered.seeds()).collect();
        let (policy, sources) = (settings.policy.clone(), shared::sources(&settings.cache));
        let view = Arc::new(View::new(policy, disk.region(), sources, !seeds.is_empty()));
        let (tiers, seen) = (settings.cache.clone(), Arc::clone(&view));
        let shared_in = data_dir.clone();
        let shared = spawn_blocking(move || Shared::of(&tiers, &shared_in, &seen)).await??;
        let links = Links::new(&data_dir);
        let knowing = (Arc::clone(&disk), Arc::clone(&view), links.clone());
        spawn_blocking(move || recall(&knowing.0, &knowing.1, &knowing.2)).await??;

        let stop = CancellationToken::new();
        let scrub = Arc::new(Scrub::new(&data_dir, settings.scrub));
        let shelf = Arc::new(Shelf::new(Arc::clone(&disk), Arc::clone(&scrub), stop.clone()));
        let (taken, samples) = mpsc::channel(SAMPLES);
        let endpoint = bind(settings, &identity, &view, &shelf, &taken, remembered.data_port())?;
        let answerer = Arc::new(Answerer::default());
        let options = netbuild_mesh::Options {
            identity,
            mesh_key,
            listen: settings.listen,
            announce: settings.announce,
            allowed: settings.allowed.clone(),
            region: disk.region(),
            data_port: endpoint.local_addr().port(),
            seeds,
            // On loopback there is no local network to look at.
            mdns: settings.mdns && !settings.listen.ip().is_loopback(),
            exchange: Arc::<Answerer>::clone(&answerer),
            timing: Timing::default(),
        };
        // What has started is stopped when what follows fails, so that the data directory and the
        // ports are free again.
        let (mesh, events) = match listen(options, remembered.mesh_port()).await {
            Ok(started) => started,
            Err(error) => {
                endpoint.shutdown().await;
                return Err(error.into());
            }
        };
        let fetcher = Arc::new(Fetcher {
            disk: Arc::clone(&disk),
            view: Arc::clone(&view),
            net: Some(Net { endpoint: endpoint.clone(), mesh: mesh.clone() }),
            shared: Arc::new(shared),
            decisions: Decisions::default(),
            way: settings.fallback,
            delta: settings.transfer.delta,
            builds: !settings.policy.waits,
            flights: Flights::default(),
            underway: Arc::default(),
            lists: Lists::default(),
            unused: Mutex::default(),
            credits: Credits::default(),
            traffic: Arc::default(),
        });
        shelf.bring_with(&fetcher);
        let net = Net { endpoint: endpoint.clone(), mesh: mesh.clone() };
        let syncing = (Arc::clone(&fetcher), net.clone());
        let syncer = Arc::new(Syncer::new(syncing.0, syncing.1, settings.sync, stop.clone()));
        answerer.answer_with(&syncer);
        let guests = Arc::<Guests>::default();
        let cache = Arc::new(MeshCache {
            far: FarCache {
                fetcher: Arc::clone(&fetcher),
                runtime: Handle::current(),
                stop: stop.clone(),
            },
            net,
            syncer: Arc::clone(&syncer),
            finder: finder.clone(),
            scrub,
            mesh_key,
            started: Instant::now(),
            metrics: Metrics::new(Arc::clone(&guests), &fetcher.traffic),
            page: OnceLock::new(),
        });
        let control = match serve(settings, &cache, guests).await {
            Ok(control) => control,
            Err(error) => {
                mesh.shutdown().await;
                endpoint.shutdown().await;
                return Err(error);
            }
        };
        let http = open_http(settings, remembered.http_port(), &cache).await;
        let remembered = remembered.with_ports(
            mesh.addresses().first().map_or(0, SocketAddr::port),
            endpoint.local_addr().port(),
            http.as_ref().map_or(0, |http| http.address().port()),
        );
        disk.room().know(fetcher.elsewhere());
        let tidier = Tidier::start(&disk);
        let mut tasks = JoinSet::new();
        let measuring = Measuring {
            view: Arc::clone(&view),
            traffic: Arc::clone(&fetcher.traffic),
            endpoint: endpoint.clone(),
            mesh: mesh.clone(),
            finder,
            links,
            samples,
            stop: stop.clone(),
        };
        tasks.spawn(measuring.run());
        tasks.spawn(Arc::clone(&syncer).run());
        tasks.spawn(listen_to(events, view, syncer, remembered, stop.clone()));
        tasks.spawn(keep_durable(Arc::clone(&disk), stop.clone()));
        fetcher.share(&mut tasks, &stop);
        tasks.spawn(keep_whole(Arc::clone(&disk), stop.clone()));
        tasks.spawn(keep_metrics(Arc::clone(&cache), stop.clone()));
        let scrubbed = Arc::clone(&cache);
        tasks.spawn_blocking(move || scrub::run(&scrubbed));
        Ok(Self { cache, disk, control, http, mesh, endpoint, tasks, tidier, stop, lock })
    }

    /// Has somebody hear of each decision from now on.
    pub fn tell_decisions(&self, hearer: Hearer) {
        self.cache.far.fetcher.decisions.tell(hearer);
    }

    /// What another machine needs to join.
    pub fn ticket(&self) -> Ticket {
        self.cache.ticket()
    }

    /// Where the mesh port can be reached.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.mesh.addresses()
    }

    /// Where the data plane listens.
    pub fn data_address(&self) -> SocketAddr {
        self.endpoint.local_addr()
    }

    /// URL of its page; `None` when it has none.
    pub fn page(&self) -> Option<String> {
        self.http.as_ref().map(HttpServer::url)
    }

    /// This agent's peer id.
    pub fn peer_id(&self) -> PeerId {
        self.disk.peer_id()
    }

    /// Stops: first no new work from here, then none from peers, then what was put is made durable.
    pub async fn shutdown(self) {
        let Self { cache, disk, control, http, mesh, endpoint, mut tasks, tidier, stop, lock } =
            self;
        cache.stop();
        // Waits for the requests of commands that are under way.
        report(spawn_blocking(move || drop(control)).await);
        mesh.shutdown().await;
        endpoint.shutdown().await;
        stop.cancel();
        while let Some(ended) = tasks.join_next().await {
            report(ended);
        }
        // Last of all that others see: until here it says that the agent stops.
        if let Some(http) = http {
            http.shutdown().await;
        }
        drop(cache);
        report(spawn_blocking(move || drop(tidier)).await);
        report(spawn_blocking(move || flush(&disk)).await);
        drop(lock);
    }
}

/// Runs an agent until SIGINT or SIGTERM; a second one ends the process at once. `ready` is called
/// when the agent serves.
pub fn run(settings: &Settings, ready: impl FnOnce(&Agent)) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Runtime)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Runtime)?;
        let mut signalled = async || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        let agent = tokio::select! {
            started = Agent::start(settings) => started?,
            () = signalled() => return Ok(()),
        };
        ready(&agent);
        signalled().await;
        tracing::info!("stopping");
        tokio::select! {
            () = agent.shutdown() => tracing::info!("stopped"),
            () = signalled() => tracing::warn!("stopped without waiting"),
        }
        Ok(())
    })
}

/// Why an agent ended without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not start.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The operating system refuses threads or signals.
    #[error("cannot start a runtime: {0}")]
    Runtime(std::io::Error),
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a part of the agent failed");
    }
}

fn flush(disk: &DiskCache) {
    if let Err(error) = disk.store().flush() {
        tracing::error!(error = chain(&error), "cannot make durable what was put");
    }
}

/// Opens the store; waits for a command that owns it, but not for another agent.
fn open(data_dir: &std::path::Path) -> Result<DiskStore, OpenError> {
    let deadline = Instant::now() + RUN_WAIT;
    let mut said = false;
    loop {
        match DiskStore::open(data_dir, AGENT_ROLE) {
            Err(OpenError::InUse { holder, .. })
                if holder.role.as_deref() != Some(AGENT_ROLE) && Instant::now() < deadline =>
            {
                if !std::mem::replace(&mut said, true) && holder.role.as_deref() == Some(RUN_ROLE) {
                    tracing::info!("the data directory is in use by {holder}; waiting for its end");
                }
                std::thread::sleep(POLL);
            }
            other => return other,
        }
    }
}

/// Tells the view which records are here, and what was believed of the links.
fn recall(disk: &DiskCache, view: &View, links: &Links) -> Result<(), CacheError> {
    let mut after = None;
    loop {
        let heads = disk.store().records_after(after.as_ref(), PAGE).map_err(failed)?;
        let Some(last) = heads.last() else { break };
        after = Some(last.key);
        view.ledger(|ledger| {
            for head in heads.iter().filter(|head| head.shared) {
                let item = Item { key: head.key, hlc: head.hlc, sum: head.sum };
                ledger.handle_have(item, Cost::default());
            }
        });
    }
    let (reports, age) = links.load();
    let now = Instant::now();
    let since = now.checked_sub(age).unwrap_or(now);
    view.peers(|peers, _| peers.remember(reports, since));
    Ok(())
}

/// Opens the HTTP door. An agent without one serves all the same.
async fn open_http(
    settings: &Settings,
    port_before: Option<u16>,
    cache: &Arc<MeshCache>,
) -> Option<HttpServer> {
    let options = HttpOptions { port_before, ..settings.http.clone()? };
    let listen = options.listen;
    let opened = HttpServer::start(options, Arc::<MeshCache>::clone(cache)).await;
    let failed =
        |error: &std::io::Error| tracing::warn!(%error, "no page and no metrics on {listen}");
    let http = opened.inspect_err(failed).ok()?;
    // It is opened once.
    let _ = cache.page.set(http.url());
    Some(http)
}

async fn serve(
    settings: &Settings,
    cache: &Arc<MeshCache>,
    guests: Arc<Guests>,
) -> Result<ControlServer, AgentError> {
    let socket = socket_path(&settings.data_dir);
    let door: Arc<dyn Door> = Arc::<MeshCache>::clone(cache);
    spawn_blocking(move || {
        ControlServer::start(&socket, door, guests)
            .map_err(|error| AgentError::Serve(socket, error))
    })
    .await?
}

fn bind(
    settings: &Settings,
    identity: &Identity,
    view: &Arc<View>,
    shelf: &Arc<Shelf>,
    samples: &mpsc::Sender<(PeerId, Sample)>,
    remembered: Option<u16>,
) -> Result<Endpoint, BindError> {
    let admits = Arc::clone(view);
    let toll = toll(&settings.transfer.limits, view);
    let options = |port| netbuild_transfer::Options {
        listen: SocketAddr::new(settings.listen.ip(), port),
        identity: identity.clone(),
        admits: {
            let view = Arc::clone(&admits);
            Arc::new(move |peer| view.admits(peer))
        },
        provide: Arc::<Shelf>::clone(shelf),
        policy: settings.transfer.codec,
        toll: toll.clone(),
        samples: samples.clone(),
    };
    if settings.data_port != 0 {
        return Endpoint::bind(options(settings.data_port));
    }
    // The port of last time, if nobody has taken it; any other is as good.
    let same = remembered.and_then(|port| Endpoint::bind(options(port)).ok());
    same.map_or_else(|| Endpoint::bind(options(0)), Ok)
}

async fn listen(
    mut options: netbuild_mesh::Options,
    remembered: Option<u16>,
) -> Result<(Mesh, mpsc::Receiver<Event>), StartError> {
    if options.listen.port() == 0
        && let Some(port) = remembered
    {
        let mut same = options.clone();
        same.listen.set_port(port);
        if let Ok(started) = Mesh::start(same).await {
            return Ok(started);
        }
        options.listen.set_port(0);
    }
    Mesh::start(options).await
}

/// Passes the events of the mesh on, and remembers the members for the next start.
async fn listen_to(
    mut events: mpsc::Receiver<Event>,
    view: Arc<View>,
    syncer: Arc<Syncer>,
    mut remembered: Remembered,
    stop: CancellationToken,
) {
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = stop.cancelled() => None,
        };
        let Some(event) = event else { return };
        if let Event::Joined { peer, presence, .. } | Event::Updated { peer, presence, .. } = &event
            && remembered.meet(*peer, &presence.mesh_addresses)
        {
            let saved = remembered.clone();
            report(spawn_blocking(move || saved.save()).await);
        }
        let asked = match &event {
            Event::Joined { peer, connected: true, .. } | Event::Connected { peer } => Some(*peer),
            _ => None,
        };
        let announcer = match &event {
            Event::Held { peer, .. } => Some(*peer),
            _ => None,
        };
        let wanted = view.handle(event);
        if let Some(peer) = asked {
            syncer.handle_connected(peer);
        }
        if let Some(peer) = announcer {
            syncer.handle_wanted(peer, &wanted);
        }
    }
}

async fn keep_durable(disk: Arc<DiskCache>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(FLUSH_INTERVAL)).await.is_some() {
        let disk = Arc::clone(&disk);
        report(spawn_blocking(move || flush(&disk)).await);
    }
}

async fn keep_metrics(cache: Arc<MeshCache>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(UPKEEP)).await.is_some() {
        cache.metrics.upkeep();
    }
}

/// Makes the index of the store again when it has failed, say because the disk was full.
async fn keep_whole(disk: Arc<DiskCache>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(MEND_INTERVAL)).await.is_some() {
        let disk = Arc::clone(&disk);
        let mended = spawn_blocking(move || {
            if let Err(error) = disk.store().mend() {
                let seconds = MEND_INTERVAL.as_secs();
                tracing::warn!(
                    error = chain(&error),
                    "the data directory cannot be written or mended yet; the next try is in {seconds} s"
                );
            }
        });
        report(mended.await);
    }
}
