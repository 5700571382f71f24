//! The handle of a running mesh.

use crate::{
    behaviour::{self, Behaviour},
    border,
    brain::{Birth, Brain},
    driver::{Command, Driver, Exchanges, View},
    event::{Counters, Event},
    options::Options,
};
use futures::{FutureExt as _, StreamExt as _};
use libp2p::{Swarm, TransportError, swarm::SwarmEvent};
use netbuild_core::peer::PeerId;
use netbuild_proto::membership::{Held, LinkReport, MAX_EXCHANGE, MAX_LINKS};
use std::{
    fmt, io,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::{Mutex, Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
};

/// Announcements that wait for the event loop; it takes them within a millisecond, unless the
/// machine is overloaded.
const COMMANDS: usize = 256;
/// Events that wait in the channel; what is more waits in the outbox, which knows what to shorten.
const EVENTS: usize = 64;
/// Questions of this agent that may be open at once; who asks more waits.
const MAX_ASKS: usize = 32;
/// How long the first address may take; the kernel is asked for its interfaces, nothing more.
const LISTEN_DEADLINE: Duration = Duration::from_secs(10);
/// How long an orderly end may take: two seconds for goodbyes, and the loop may be in a long turn.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(5);

/// Why a mesh could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The swarm could not be made, for instance because the identity is no key.
    #[error("could not set up the mesh")]
    Setup(#[source] Box<dyn std::error::Error + Send + Sync + 'static>),
    /// The mesh port cannot be had.
    #[error("could not listen on {address}/udp")]
    Listen {
        /// The port that was asked for.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

/// Why a question has no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AskError {
    /// There is no connection to such a member, or it broke before the answer came.
    #[error("not connected to this member")]
    NotConnected,
    /// The member did not answer in time.
    #[error("the member did not answer in time")]
    TimedOut,
    /// The member answers no such question, or has no time for it now.
    #[error("the member does not answer this")]
    Refused,
    /// This member is asked four questions already.
    #[error("too many questions to this member at once")]
    Busy,
    /// The question is longer than [`MAX_EXCHANGE`].
    #[error("the question is too long")]
    TooLong,
    /// The mesh has ended.
    #[error("the mesh has ended")]
    Closed,
}

/// A running mesh; it ends with [`Mesh::shutdown`], or at once when the last handle is dropped.
#[derive(Clone)]
pub struct Mesh(Arc<Inner>);

struct Inner {
    commands: mpsc::Sender<Command>,
    view: watch::Receiver<View>,
    /// Records that did not even reach the event loop.
    dropped: AtomicU64,
    asks: Semaphore,
    task: Mutex<JoinSet<()>>,
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh").field("view", &*self.0.view.borrow()).finish_non_exhaustive()
    }
}

impl Mesh {
    /// Starts a mesh; it listens when this returns. A slow receiver of events still sees every member
    /// come and go, unless both happened before it looked, and gets records later; if it is dropped,
    /// the mesh goes on without it.
    pub async fn start(options: Options) -> Result<(Self, mpsc::Receiver<Event>), StartError> {
        let mut swarm = behaviour::swarm(&options).map_err(StartError::Setup)?;
        let listening = listen(&mut swarm, options.listen).await?;
        let now = Instant::now();
        let (commands, command_receiver) = mpsc::channel(COMMANDS);
        let (events, event_receiver) = mpsc::channel(EVENTS);
        let (view_sender, view) = watch::channel(View::default());
        let birth = birth().map_err(|error| StartError::Setup(Box::new(error)))?;
        let mut driver = Driver::new(
            swarm,
            Brain::new(&options, &birth, now),
            Exchanges::new(Arc::clone(&options.exchange)),
            command_receiver,
            events,
            view_sender,
            options.announce,
        );
        driver.listens_at(listening, now);
        let mut task = JoinSet::new();
        task.spawn(driver.run());
        let inner = Inner {
            commands,
            view,
            dropped: AtomicU64::new(0),
            asks: Semaphore::new(MAX_ASKS),
            task: Mutex::new(task),
        };
        Ok((Self(Arc::new(inner)), event_receiver))
    }

    /// Tells the members that this agent holds these records. Never waits: what there is no room for
    /// is counted, and comes to light when members compare what they hold.
    pub fn announce(&self, held: Vec<Held>) {
        let count = u64::try_from(held.len()).unwrap_or(u64::MAX);
        if self.0.commands.try_send(Command::Announce(held)).is_err() {
            self.0.dropped.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Tells the members that this agent is in another region now; empty for none.
    pub fn set_region(&self, region: String) {
        if self.0.commands.try_send(Command::SetRegion(region)).is_err() {
            tracing::warn!("the mesh is too busy to take note of the region");
        }
    }

    /// Tells the members how this agent's links are, at most [`MAX_LINKS`] of them. The latest report
    /// waits its turn; an urgent one waits a second at most. Never waits for the mesh.
    pub fn report_links(&self, mut links: Vec<LinkReport>, urgent: bool) {
        links.truncate(MAX_LINKS);
        if self.0.commands.try_send(Command::ReportLinks { links, urgent }).is_err() {
            tracing::debug!("a report of links was dropped; the next will come");
        }
    }

    /// Asks a connected member; its [`crate::Exchange`] answers. Of all questions only so many are open
    /// at once, the others wait.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn ask(&self, peer: PeerId, request: Vec<u8>) -> Result<Vec<u8>, AskError> {
        if request.len() > MAX_EXCHANGE {
            return Err(AskError::TooLong);
        }
        let _place = self.0.asks.acquire().await.map_err(|_| AskError::Closed)?;
        let (reply, answer) = oneshot::channel();
        let command = Command::Ask { peer, question: request, reply };
        self.0.commands.send(command).await.map_err(|_| AskError::Closed)?;
        answer.await.map_err(|_| AskError::Closed)?
    }

    /// Sends what was announced so far without waiting for more.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.0.commands.send(Command::Flush(done)).await.is_ok() {
            // An error means that the mesh ended, and there is nobody to tell anything.
            let _ = flushed.await;
        }
    }

    /// Where others reach the mesh port, most useful first. On a wildcard these are the addresses of
    /// the interfaces, and they change when the interfaces do.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.view.borrow().addresses.clone()
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        let mut counters = self.0.view.borrow().counters;
        counters.dropped_announcements += self.0.dropped.load(Ordering::Relaxed);
        counters
    }

    /// Takes leave of every peer and ends; returns within a few seconds. Other handles stay, without
    /// effect.
    pub async fn shutdown(&self) {
        // A closed channel means that it has ended already.
        let _ = self.0.commands.send(Command::Shutdown).await;
        let mut task = self.0.task.lock().await;
        if tokio::time::timeout(SHUTDOWN_DEADLINE, task.join_next()).await.is_err() {
            tracing::warn!("the mesh did not end in time and is cut off");
            task.shutdown().await;
        }
    }
}

/// What this life of the agent begins with.
fn birth() -> Result<Birth, getrandom::Error> {
    let mut entropy = [0; 32];
    getrandom::fill(&mut entropy)?;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Birth { started: u64::try_from(since.as_micros()).unwrap_or(u64::MAX), entropy })
}

/// Listens, and returns the addresses once the first is known.
async fn listen(
    swarm: &mut Swarm<Behaviour>,
    address: SocketAddr,
) -> Result<Vec<SocketAddr>, StartError> {
    let failed =
        |source| StartError::Listen { address, source: as_the_system_says(address, source) };
    swarm.listen_on(border::to_multiaddr(address)).map_err(|error| match error {
        TransportError::Other(source) => failed(source),
        TransportError::MultiaddrNotSupported(_) => failed(io::ErrorKind::AddrNotAvailable.into()),
    })?;
    let mut listening = Vec::new();
    let first = async {
        while listening.is_empty() {
            take_address(swarm.select_next_some().await, &mut listening)?;
        }
        Ok(())
    };
    match tokio::time::timeout(LISTEN_DEADLINE, first).await {
        Ok(result) => result.map_err(failed)?,
        Err(_) => return Err(failed(io::ErrorKind::TimedOut.into())),
    }
    // The other interfaces of a wildcard come at once.
    while let Some(Some(event)) = swarm.next().now_or_never() {
        take_address(event, &mut listening).map_err(failed)?;
    }
    Ok(listening)
}

/// Why the port cannot be had, in the system's own words: the transport wraps its error beyond
/// recognition, so the system is asked again.
fn as_the_system_says(address: SocketAddr, error: io::Error) -> io::Error {
    UdpSocket::bind(address).err().unwrap_or(error)
}

fn take_address<T>(event: SwarmEvent<T>, listening: &mut Vec<SocketAddr>) -> io::Result<()> {
    match event {
        SwarmEvent::NewListenAddr { address, .. } => {
            listening.extend(border::from_multiaddr(&address));
            Ok(())
        }
        SwarmEvent::ListenerClosed { reason: Err(error), .. } => Err(error),
        _ => Ok(()),
    }
}
