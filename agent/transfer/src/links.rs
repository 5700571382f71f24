//! The open connections to peers. One that we dialled is kept for each, and dialled by one caller
//! at a time; where there is none, our requests go over one that the peer opened to us, which may
//! be the only way to a peer behind a firewall.
//!
//! When both ends dial at once both connections stay, each used by the end that dialled it: a
//! packet each second is cheaper than an agreement on which one to close.

use crate::{
    congestion,
    counters::add,
    dial::{Holder, dial},
    error::FetchError,
    link::{Link, Samples},
    provider::Provider,
    socket::{self, Control},
};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use netbuild_core::peer::PeerId;
use quinn::{ClientConfig, Connection, ServerConfig, VarInt};
use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

type Dial = Shared<BoxFuture<'static, Result<Arc<Link>, FetchError>>>;

/// What [`Links::get`] found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) link: Arc<Link>,
    /// Whether the connection was there before, and so may be dead without our knowing it.
    pub(crate) reused: bool,
}

/// The connections, by peer.
#[derive(Default)]
struct Open {
    /// Dialled here, or being dialled.
    dials: HashMap<PeerId, Dial>,
    /// Dialled by the peer, the newest last.
    accepted: HashMap<PeerId, Vec<Arc<Link>>>,
}

impl Open {
    /// An open connection to `peer`: ours, or else the newest of its own.
    fn link(&self, peer: &PeerId) -> Option<&Arc<Link>> {
        let dialled = || match self.dials.get(peer)?.peek()? {
            Ok(link) => Some(link).filter(|link| link.is_open()),
            Err(_) => None,
        };
        dialled().or_else(|| self.accepted(peer))
    }

    fn accepted(&self, peer: &PeerId) -> Option<&Arc<Link>> {
        self.accepted.get(peer)?.iter().rev().find(|link| link.is_open())
    }
}

/// Whether a dial goes on, or has led to a connection that is open.
fn is_usable(dial: &Dial) -> bool {
    match dial.peek() {
        None => true,
        Some(Ok(link)) => link.is_open(),
        Some(Err(_)) => false,
    }
}

/// What connections are made with.
#[derive(Clone)]
pub(crate) struct Quic {
    pub(crate) endpoint: quinn::Endpoint,
    pub(crate) client: ClientConfig,
    pub(crate) server: ServerConfig,
    pub(crate) control: Control,
}

/// All connections.
pub(crate) struct Links {
    quic: Quic,
    pub(crate) provider: Arc<Provider>,
    tasks: TaskTracker,
    closing: CancellationToken,
    samples: Samples,
    open: Mutex<Open>,
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").field("dials", &self.lock().dials.keys()).finish_non_exhaustive()
    }
}

impl Links {
    pub(crate) fn new(
        quic: Quic,
        provider: Arc<Provider>,
        tasks: TaskTracker,
        closing: CancellationToken,
        samples: Samples,
    ) -> Self {
        Self { quic, provider, tasks, closing, samples, open: Mutex::default() }
    }

    /// A connection to `holder`; dials when there is none. Callers that come while a dial is under
    /// way share its result.
    pub(crate) async fn get(&self, holder: &Holder) -> Result<Found, FetchError> {
        let peer = holder.peer;
        if self.closing.is_cancelled() {
            return Err(FetchError::Closed { peer });
        }
        match self.open_link(&peer) {
            Some(link) => Ok(Found { link, reused: true }),
            None => self.dialled(holder).await,
        }
    }

    /// A connection to `holder` that is not one which died unnoticed, as far as that can be had.
    pub(crate) async fn dialled(&self, holder: &Holder) -> Result<Found, FetchError> {
        let dial = self.dial_once(holder);
        match dial.await {
            Ok(link) => Ok(Found { link, reused: false }),
            // The peer may have come to us, now or in the meantime.
            Err(error @ FetchError::Connect { .. }) => {
                let link = self.lock().accepted(&holder.peer).cloned();
                link.map(|link| Found { link, reused: true }).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// The open connection to `peer` on which requests would go now, if there is one.
    pub(crate) fn open_link(&self, peer: &PeerId) -> Option<Arc<Link>> {
        self.lock().link(peer).cloned()
    }

    /// All open connections, both ours and those of peers.
    pub(crate) fn all(&self) -> Vec<Arc<Link>> {
        let open = self.lock();
        let dialled = open.dials.values().filter_map(|dial| dial.peek()?.as_ref().ok());
        let all = dialled.chain(open.accepted.values().flatten());
        all.filter(|link| link.is_open()).cloned().collect()
    }

    /// Says what the link to `peer` is believed to carry; see [`crate::Endpoint::expect`].
    pub(crate) fn expect(&self, peer: &PeerId, goodput: u64, rtt: Option<Duration>) {
        let open = self.lock();
        let dialled = open.dials.get(peer).and_then(|dial| dial.peek()?.as_ref().ok());
        for link in dialled.into_iter().chain(open.accepted.get(peer).into_iter().flatten()) {
            congestion::expect(&link.connection, goodput, rtt);
        }
    }

    /// Parameters of a connection that comes from `address`.
    pub(crate) fn server_config(&self, address: SocketAddr) -> Arc<ServerConfig> {
        let mut server = self.quic.server.clone();
        server.transport_config(Arc::new(socket::transport(address, self.quic.control.clone())));
        Arc::new(server)
    }

    /// Lets requests go over a connection that `peer` opened, until the result is dropped.
    pub(crate) fn accept(self: &Arc<Self>, peer: PeerId, connection: Connection) -> Accepted {
        let link = Link::new(peer, connection, self.samples.clone());
        self.lock().accepted.entry(peer).or_default().push(link.clone());
        Accepted { links: self.clone(), link }
    }

    /// Ends `link` with all that is under way on it.
    pub(crate) fn close(link: &Link, code: VarInt) {
        link.connection.close(code, &[]);
    }

    fn dial_once(&self, holder: &Holder) -> Dial {
        let mut open = self.lock();
        if let Some(dial) = open.dials.get(&holder.peer).filter(|dial| is_usable(dial)) {
            return dial.clone();
        }
        // What ended is of no use to anyone; dropped here, the map holds no more than is open.
        open.dials.retain(|_, dial| is_usable(dial));
        let dial = self.start_dial(holder.clone());
        open.dials.insert(holder.peer, dial.clone());
        dial
    }

    /// Dials in a task, so that it goes on when the caller that began it gives up, and serves what
    /// the peer asks on the connection.
    fn start_dial(&self, holder: Holder) -> Dial {
        let samples = self.samples.clone();
        add(&samples.tally.dials, 1);
        let peer = holder.peer;
        let (quic, closing) = (self.quic.clone(), self.closing.clone());
        let (tasks, provider) = (self.tasks.clone(), self.provider.clone());
        let task = self.tasks.spawn(async move {
            let dialled = closing.run_until_cancelled(dial(&quic, &holder)).await;
            let connection = dialled.unwrap_or(Err(FetchError::Closed { peer }))?;
            tracing::debug!(%peer, address = %connection.remote_address(), "connected");
            tasks.spawn(provider.serve_dialled(connection.clone(), peer));
            Ok(Link::new(peer, connection, samples))
        });
        let link = task.map(move |link| link.unwrap_or(Err(FetchError::Closed { peer })));
        link.boxed().shared()
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection of a peer in [`Links`], until it is dropped.
#[derive(Debug)]
pub(crate) struct Accepted {
    links: Arc<Links>,
    link: Arc<Link>,
}

impl Drop for Accepted {
    fn drop(&mut self) {
        let mut open = self.links.lock();
        let peer = self.link.peer;
        if let Some(links) = open.accepted.get_mut(&peer) {
            links.retain(|link| !Arc::ptr_eq(link, &self.link));
            if links.is_empty() {
                open.accepted.remove(&peer);
            }
        }
    }
}
