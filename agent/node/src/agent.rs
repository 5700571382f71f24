//! An agent: store, mesh, data plane and control socket, started and stopped in order.

use crate::{
    chain::chain,
    config::Settings,
    disk_cache::DiskCache,
    keys::{self, KeyError},
    mesh_cache::{MeshCache, Shelf},
    remembered::Remembered,
    session::RUN_ROLE,
    view::View,
};
use netbuild_core::peer::Identity;
use netbuild_gateway::{ControlServer, Door, socket_path};
use netbuild_mesh::{Event, Mesh, StartError, Timing};
use netbuild_proto::ticket::{MeshKey, Ticket};
use netbuild_store::{DiskStore, OpenError};
use netbuild_transfer::{BindError, Endpoint};
use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
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
/// How often what was put is made durable although nobody asks.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

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
    mesh: Mesh,
    endpoint: Endpoint,
    tasks: JoinSet<()>,
    stop: CancellationToken,
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
        let region = settings.region.clone();
        let disk = DiskCache::new(Arc::new(store), identity.clone(), region, "agent");
        let disk = Arc::new(disk);
        let seeds: Vec<_> = settings.seeds().into_iter().chain(remembered.seeds()).collect();
        let view = Arc::new(View::new(!seeds.is_empty()));
        let endpoint = bind(settings, &identity, &view, &disk, remembered.data_port())?;
        let options = netbuild_mesh::Options {
            identity,
            mesh_key,
            listen: settings.listen,
            allowed: settings.allowed.clone(),
            region: settings.region.clone(),
            data_port: endpoint.local_addr().port(),
            seeds,
            catalog: Arc::new(Shelf(Arc::clone(&disk))),
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
        let started =
            Self::assemble(settings, disk, &view, mesh.clone(), endpoint.clone(), mesh_key);
        let mut agent = match started.await {
            Ok(agent) => agent,
            Err(error) => {
                mesh.shutdown().await;
                endpoint.shutdown().await;
                return Err(error);
            }
        };
        let remembered = remembered.with_ports(
            agent.mesh.addresses().first().map_or(0, SocketAddr::port),
            agent.endpoint.local_addr().port(),
        );
        let stop = agent.stop.clone();
        agent.tasks.spawn(listen_to(events, view, remembered, stop));
        agent.tasks.spawn(keep_durable(Arc::clone(&agent.disk), agent.stop.clone()));
        Ok(agent)
    }

    async fn assemble(
        settings: &Settings,
        disk: Arc<DiskCache>,
        view: &Arc<View>,
        mesh: Mesh,
        endpoint: Endpoint,
        mesh_key: MeshKey,
    ) -> Result<Self, AgentError> {
        let cache = Arc::new(MeshCache::new(
            Arc::clone(&disk),
            Arc::clone(view),
            mesh.clone(),
            endpoint.clone(),
            mesh_key,
            Handle::current(),
        ));
        let socket = socket_path(&settings.data_dir);
        let door: Arc<dyn Door> = Arc::<MeshCache>::clone(&cache);
        let control = spawn_blocking(move || {
            ControlServer::start(&socket, door).map_err(|error| AgentError::Serve(socket, error))
        })
        .await??;
        let (tasks, stop) = (JoinSet::new(), CancellationToken::new());
        Ok(Self { cache, disk, control, mesh, endpoint, tasks, stop })
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

    /// This agent's peer id.
    pub fn peer_id(&self) -> netbuild_core::peer::PeerId {
        self.disk.peer_id()
    }

    /// Stops: first no new work from here, then none from peers, then what was put is made durable.
    pub async fn shutdown(self) {
        let Self { cache, disk, control, mesh, endpoint, mut tasks, stop } = self;
        cache.stop();
        // Waits for the requests of commands that are under way.
        report(spawn_blocking(move || drop(control)).await);
        mesh.shutdown().await;
        endpoint.shutdown().await;
        stop.cancel();
        while let Some(ended) = tasks.join_next().await {
            report(ended);
        }
        drop(cache);
        report(spawn_blocking(move || flush(&disk)).await);
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

fn bind(
    settings: &Settings,
    identity: &Identity,
    view: &Arc<View>,
    disk: &Arc<DiskCache>,
    remembered: Option<u16>,
) -> Result<Endpoint, BindError> {
    let admits = Arc::clone(view);
    let options = |port| netbuild_transfer::Options {
        listen: SocketAddr::new(settings.listen.ip(), port),
        identity: identity.clone(),
        admits: {
            let view = Arc::clone(&admits);
            Arc::new(move |peer| view.admits(peer))
        },
        provide: Arc::new(Shelf(Arc::clone(disk))),
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
        view.handle(event);
    }
}

async fn keep_durable(disk: Arc<DiskCache>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(FLUSH_INTERVAL)).await.is_some() {
        let disk = Arc::clone(&disk);
        report(spawn_blocking(move || flush(&disk)).await);
    }
}
