//! The open connections to holders: one for each, kept, and dialled by one caller at a time.

use crate::{
    counters::{Tally, add},
    dial::{Holder, dial},
    error::FetchError,
};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use netbuild_core::peer::PeerId;
use quinn::{ClientConfig, Connection, VarInt};
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Chunk requests under way on one connection. Three full stream windows leave a quarter of the
/// connection's window free, so a caller that is slow to take its chunks holds up no other.
const CHUNK_REQUESTS: usize = 3;
/// Other requests under way on one connection; with the above, below the provider's limit.
const SMALL_REQUESTS: usize = 32;

type Dial = Shared<BoxFuture<'static, Result<Arc<Link>, FetchError>>>;

/// A connection to a holder, with room for so many requests.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: PeerId,
    pub(crate) connection: Connection,
    pub(crate) chunk_requests: Arc<Semaphore>,
    pub(crate) small_requests: Arc<Semaphore>,
}

impl Link {
    fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }
}

/// What [`Links::get`] found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) link: Arc<Link>,
    /// Whether the connection was there before, and so may be dead without our knowing it.
    pub(crate) reused: bool,
}

/// All connections to holders.
pub(crate) struct Links {
    quic: quinn::Endpoint,
    config: ClientConfig,
    tasks: TaskTracker,
    closing: CancellationToken,
    tally: Arc<Tally>,
    dials: Mutex<HashMap<PeerId, Dial>>,
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").field("peers", &self.lock().keys()).finish_non_exhaustive()
    }
}

impl Links {
    pub(crate) fn new(
        quic: quinn::Endpoint,
        config: ClientConfig,
        tasks: TaskTracker,
        closing: CancellationToken,
        tally: Arc<Tally>,
    ) -> Self {
        Self { quic, config, tasks, closing, tally, dials: Mutex::default() }
    }

    /// The connection to `holder`; dials when there is none. Callers that come while a dial is
    /// under way share its result.
    pub(crate) async fn get(&self, holder: &Holder) -> Result<Found, FetchError> {
        let peer = holder.peer;
        if self.closing.is_cancelled() {
            return Err(FetchError::Closed { peer });
        }
        if let Some(link) = self.open_link(&peer) {
            return Ok(Found { link, reused: true });
        }
        let dial = self.dial_once(holder);
        let link = dial.await?;
        Ok(Found { link, reused: false })
    }

    /// The open connection to `peer`, if there is one.
    pub(crate) fn open_link(&self, peer: &PeerId) -> Option<Arc<Link>> {
        let dials = self.lock();
        let link = dials.get(peer)?.peek()?.as_ref().ok()?;
        link.is_open().then(|| link.clone())
    }

    /// Uses `link` for no further request. Requests that are under way on it go on.
    pub(crate) fn forget(&self, link: &Arc<Link>) {
        let mut dials = self.lock();
        let known = dials.get(&link.peer).and_then(Dial::peek);
        if matches!(known, Some(Ok(known)) if Arc::ptr_eq(known, link)) {
            dials.remove(&link.peer);
        }
    }

    /// Ends `link` with all that is under way on it.
    pub(crate) fn close(&self, link: &Arc<Link>, code: VarInt) {
        self.forget(link);
        link.connection.close(code, &[]);
    }

    fn dial_once(&self, holder: &Holder) -> Dial {
        let mut dials = self.lock();
        if let Some(dial) = dials.get(&holder.peer) {
            let usable = match dial.peek() {
                None => true,
                Some(Ok(link)) => link.is_open(),
                Some(Err(_)) => false,
            };
            if usable {
                return dial.clone();
            }
        }
        // What ended is of no use to anyone; dropped here, the map holds no more than is open.
        dials.retain(|_, dial| match dial.peek() {
            None => true,
            Some(Ok(link)) => link.is_open(),
            Some(Err(_)) => false,
        });
        let dial = self.start_dial(holder.clone());
        dials.insert(holder.peer, dial.clone());
        dial
    }

    /// Dials in a task, so that it goes on when the caller that began it gives up.
    fn start_dial(&self, holder: Holder) -> Dial {
        add(&self.tally.dials, 1);
        let peer = holder.peer;
        let (quic, config, closing) =
            (self.quic.clone(), self.config.clone(), self.closing.clone());
        let task = self.tasks.spawn(async move {
            let result = closing.run_until_cancelled(dial(&quic, &config, &holder)).await;
            result.unwrap_or(Err(FetchError::Closed { peer }))
        });
        let link = async move {
            let connection = task.await.unwrap_or(Err(FetchError::Closed { peer }))?;
            tracing::debug!(%peer, address = %connection.remote_address(), "connected");
            Ok(Arc::new(Link {
                peer,
                connection,
                chunk_requests: Arc::new(Semaphore::new(CHUNK_REQUESTS)),
                small_requests: Arc::new(Semaphore::new(SMALL_REQUESTS)),
            }))
        };
        link.boxed().shared()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PeerId, Dial>> {
        self.dials.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
