//! One UDP port that serves and requests; owns every task of the data plane.

use crate::{
    auth::{self, Admits},
    congestion::Modelled,
    counters::{Counters, Tally},
    error::code,
    link::Samples,
    links::{Links, Quic},
    load::{Growth, Load},
    provider::{Provide, Provider},
    socket::{self, BindError},
};
use netbuild_core::{
    codec::Policy,
    link::Sample,
    peer::{Identity, PeerId},
};
use quinn::{ClientConfig, ServerConfig, TokioRuntime};
use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Longest time that [`Endpoint::shutdown`] waits for peers to take note and for reads of the
/// disk to end. Whatever is left then ends with the process.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// How often the connections and the load are looked at.
const MEASURE_INTERVAL: Duration = Duration::from_secs(1);

/// See [`Options::toll`].
pub type Toll = Arc<dyn Fn(&PeerId, u64) -> Duration + Send + Sync>;

/// What an [`Endpoint`] needs to know.
pub struct Options {
    /// UDP address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Who this agent is.
    pub identity: Identity,
    /// Who may ask it.
    pub admits: Admits,
    /// What it hands out.
    pub provide: Arc<dyn Provide>,
    /// How runs of chunks are coded for those who leave that to this end, and how others are to
    /// code what this end asks them for.
    pub policy: Policy,
    /// Says how long a piece of so many bytes waits before it is sent to a peer, by what was sent
    /// before; it counts as sent then. `None` when nothing limits what is sent.
    pub toll: Option<Toll>,
    /// Takes what the traffic shows of the links to peers; what finds no room is dropped and
    /// counted. For each open connection, whichever end opened it:
    ///
    /// - [`Sample::Rtt`] when it opens, and once a second if an acknowledgement came: QUIC's
    ///   smoothed estimate. The end that dialled sends a packet each second, so its estimate is
    ///   current; the other end's is so while it sends something itself.
    /// - [`Sample::Loss`] once a second if packets were sent whose fate can be known: those that
    ///   hold more than acknowledgements.
    /// - [`Sample::Goodput`] of chunks and probes that arrive, all on the connection together: at
    ///   the end of its first second, or of the transfer if that is earlier, the mean since the rate
    ///   has stopped to grow, and from then on what arrives in each second. A transfer that is over
    ///   before gives [`Sample::AtLeast`]. Windows count for nothing in which this end may have held
    ///   the holder back.
    pub samples: mpsc::Sender<(PeerId, Sample)>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("listen", &self.listen)
            .field("identity", &self.identity)
            .field("provide", &self.provide)
            .finish_non_exhaustive()
    }
}

/// The data plane of one agent. Cheap to clone; closed by [`Endpoint::shutdown`], or abruptly when
/// the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    local_addr: SocketAddr,
    quic: quinn::Endpoint,
    pub(crate) tasks: TaskTracker,
    pub(crate) closing: CancellationToken,
    pub(crate) links: Arc<Links>,
    pub(crate) tally: Arc<Tally>,
    /// How others are to code what they are asked for.
    pub(crate) policy: Policy,
    /// Bytes per second that were decoded lately; 0 before that.
    pub(crate) decodes: AtomicU64,
    served: Arc<Served>,
}

/// How much was served lately.
type Served = Mutex<Growth>;

fn lock(served: &Served) -> MutexGuard<'_, Growth> {
    served.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Endpoint {
    /// Opens the port and starts to serve. Must be called inside a tokio runtime.
    pub fn bind(options: Options) -> Result<Self, BindError> {
        let address = options.listen;
        let tls = |source| BindError::Tls { address, source };
        let os = |source| BindError::Socket { address, source };

        let identity = &options.identity;
        let server = auth::server(identity, options.admits.clone()).map_err(tls)?;
        let server = ServerConfig::with_crypto(Arc::new(server));
        let client = ClientConfig::new(Arc::new(auth::client(identity).map_err(tls)?));
        // Agents that share a link have different ids.
        let seed = identity
            .peer_id()
            .0
            .iter()
            .fold(0, |seed: u64, byte| seed.rotate_left(8) ^ u64::from(*byte));
        let quic = quinn::Endpoint::new(
            socket::endpoint_config(identity),
            Some(server.clone()),
            socket::bind(address)?,
            Arc::new(TokioRuntime),
        )
        .map_err(os)?;
        let local_addr = quic.local_addr().map_err(os)?;

        let (tasks, closing) = (TaskTracker::new(), CancellationToken::new());
        let tally = Arc::new(Tally::default());
        let provider = Provider::new(
            options.provide,
            options.admits,
            options.policy,
            options.toll,
            tasks.clone(),
            closing.clone(),
            tally.clone(),
        );
        let provider = Arc::new(provider);
        let links = Arc::new(Links::new(
            Quic { endpoint: quic.clone(), client, server, control: Arc::new(Modelled::new(seed)) },
            provider.clone(),
            tasks.clone(),
            closing.clone(),
            Samples { to: options.samples, tally: tally.clone() },
        ));
        let served = Arc::<Served>::default();
        tasks.spawn(provider.accept(quic.clone(), links.clone()));
        let measuring = measure(links.clone(), tally.clone(), served.clone());
        tasks.spawn(closing.clone().run_until_cancelled_owned(measuring));
        Ok(Self {
            inner: Arc::new(Inner {
                local_addr,
                quic,
                tasks,
                closing,
                links,
                tally,
                policy: options.policy,
                decodes: AtomicU64::new(0),
                served,
            }),
        })
    }

    /// The address that was bound, with its port.
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr
    }

    /// Round-trip time of the open connection to `peer`, as QUIC estimates it now. It may be one
    /// that the peer opened.
    pub fn rtt(&self, peer: &PeerId) -> Option<Duration> {
        let link = self.inner.links.open_link(peer)?;
        Some(link.connection.rtt())
    }

    /// Says what the link to `peer` is believed to carry from here, in bytes per second, and its
    /// round trip where that is known better than from the connection itself. What is sent next on
    /// a connection whose link has not shown itself yet then begins near that rate and not with a
    /// few packets. A belief that is wrong costs little: it is bounded, and given up with the first
    /// losses. Without an open connection nothing happens.
    pub fn expect(&self, peer: &PeerId, goodput: u64, rtt: Option<Duration>) {
        self.inner.links.expect(peer, goodput, rtt);
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.inner.tally.snapshot()
    }

    /// How much this endpoint does for others right now.
    pub fn load(&self) -> Load {
        let Inner { tally, served, .. } = &*self.inner;
        let bytes = tally.bytes_served.load(Ordering::Relaxed);
        Load {
            serving: tally.serving.load(Ordering::Relaxed),
            bytes_per_second: lock(served).per_second(Instant::now(), bytes),
        }
    }

    /// Stops: accepts nothing more, closes all connections with their transfers, and returns once
    /// peers were told and all tasks have ended, or after three seconds.
    pub async fn shutdown(&self) {
        let Inner { quic, tasks, .. } = &*self.inner;
        self.inner.close();
        tasks.close();
        let ended = async {
            tasks.wait().await;
            quic.wait_idle().await;
        };
        if timeout(SHUTDOWN_TIMEOUT, ended).await.is_err() {
            tracing::debug!("the data plane did not end in time");
        }
    }
}

/// Looks at the connections and at what was served, once a second, for ever.
async fn measure(links: Arc<Links>, tally: Arc<Tally>, served: Arc<Served>) {
    let mut tick = interval(MEASURE_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        lock(&served).note(Instant::now(), tally.bytes_served.load(Ordering::Relaxed));
        links.all().iter().for_each(|link| link.observe());
    }
}

impl Inner {
    fn close(&self) {
        self.closing.cancel();
        self.quic.close(code::SHUTDOWN, b"shutting down");
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Blame, FetchError, Holder, Patience,
        fixture::{
            Closed, Shelf, agent, agent_at, chunk, everyone, fetch, gather, holder, identity,
            no_base, noise, only, orders, sealed, soon, until,
        },
    };
    use netbuild_core::{
        chunk::Chunker,
        digest::{Digest, Hash},
        key::ActionKey,
    };
    use netbuild_proto::data::Described;
    use std::{
        ops::ControlFlow,
        sync::atomic::{AtomicBool, AtomicU64, Ordering},
    };

    /// Asks for one thing, to see whether the holder talks to us at all.
    async fn ask(endpoint: &Endpoint, holder: &Holder) -> Result<(), FetchError> {
        let records = endpoint.records(holder, &[ActionKey([0; 32])], Patience::default()).await?;
        assert_eq!(records, [None]);
        Ok(())
    }

    #[tokio::test]
    async fn records_and_manifests_come_in_the_order_asked() {
        let mut shelf = Shelf::default();
        let keys: Vec<_> =
            (0..3000_u32).map(|n| ActionKey(*Hash::of(&n.to_le_bytes()).as_bytes())).collect();
        for key in keys.iter().step_by(2) {
            let bytes = sealed(1, *key).as_bytes().to_vec();
            shelf.records.insert(*key, bytes);
        }
        let mut chunker = Chunker::new();
        (0..8_u8).for_each(|byte| chunker.update(&vec![byte; 1 << 20]));
        let manifest = chunker.finish();
        shelf.manifests.insert(manifest.blob(), manifest.clone());
        shelf.sketches.insert(manifest.blob(), vec![7; 99]);
        let (a, b) = (agent(1, everyone(), shelf), agent(2, everyone(), Shelf::default()));
        let at = holder(1, &a);

        let records = soon(b.records(&at, &keys, Patience::default())).await.unwrap();
        assert_eq!(records.len(), keys.len());
        for (number, (key, record)) in keys.iter().zip(&records).enumerate() {
            let found = record.as_ref().map(|record| record.record().key);
            assert_eq!(found, (number % 2 == 0).then_some(*key));
        }
        let other = Digest::of(b"not there");
        let manifests =
            soon(b.manifests(&at, &[other, manifest.blob()], Patience::default())).await;
        assert_eq!(
            manifests.unwrap(),
            [None, Some(Described { manifest, sketch: Some(vec![7; 99]) })]
        );
        // The connection is the same one, seen from its two ends.
        assert!(b.rtt(&at.peer).is_some() && a.rtt(&identity(2).peer_id()).is_some());
        assert_eq!(b.counters().dials, 1);
        until(|| a.counters().requests_served == 4).await;
    }

    #[tokio::test]
    async fn forty_mebibytes_of_chunks_arrive_and_the_lacking_ones_are_named() {
        let mut shelf = Shelf::default();
        let mut chunks = shelf.stock(80, 512 * 1024);
        chunks.extend(shelf.stock(2000, 100));
        chunks.insert(7, chunk(b"not there"));
        chunks.insert(9, chunk(b"nor this"));
        let (a, b) = (agent(1, everyone(), shelf), agent(2, everyone(), Shelf::default()));
        let report = fetch(&b, &holder(1, &a), &chunks, Patience::default()).await.unwrap();
        assert_eq!(report.missing, [7, 9]);
        assert_eq!(report.arrived.len(), 2080);
        assert_eq!(report.bytes, 40 * 1024 * 1024 + 200_000);
        let counters = b.counters();
        assert_eq!(counters.logical_fetched, report.bytes);
        // These repeat four bytes for ever.
        assert!(counters.bytes_fetched < report.bytes / 2);
        let logical: u64 = report.codings.values().map(|coded| coded.logical).sum();
        assert!(logical == report.bytes && report.bytes_on_wire() > counters.bytes_fetched);
    }

    #[tokio::test]
    async fn a_caller_that_has_enough_ends_the_request_and_the_connection_stays() {
        let mut shelf = Shelf::default();
        let chunks = shelf.stock(64, 512 * 1024);
        let (a, b) = (agent(1, everyone(), shelf), agent(2, everyone(), Shelf::default()));
        let at = holder(1, &a);
        for _ in 0..10 {
            let (in_order, enough) =
                (orders(&chunks, 16), |_: usize, _: &_| ControlFlow::Break(()));
            let (report, result) =
                gather(&b, &at, in_order, no_base, Patience::default(), enough).await;
            assert_eq!((result, report.bytes), (Ok(()), 512 * 1024));
        }
        assert_eq!(b.counters().dials, 1);
    }

    #[tokio::test]
    async fn first_uses_at_once_share_one_connection() {
        let (a, b) =
            (agent(1, everyone(), Shelf::default()), agent(2, everyone(), Shelf::default()));
        let at = holder(1, &a);
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..200 {
            let (b, at) = (b.clone(), at.clone());
            asking.spawn(async move { ask(&b, &at).await });
        }
        let results = soon(asking.join_all()).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        assert_eq!(b.counters().dials, 1);
    }

    #[tokio::test]
    async fn who_is_not_admitted_is_refused_and_counted() {
        let friend = identity(3).peer_id();
        let (a, b) =
            (agent(1, only(friend), Shelf::default()), agent(2, everyone(), Shelf::default()));
        let c = agent(3, everyone(), Shelf::default());
        let at = holder(1, &a);
        let error = soon(ask(&b, &at)).await.unwrap_err();
        assert_eq!(error, FetchError::Refused { peer: at.peer });
        until(|| a.counters().connections_refused == 1).await;
        soon(ask(&c, &at)).await.unwrap();
    }

    #[tokio::test]
    async fn a_peer_that_is_no_longer_admitted_is_cut_off_even_when_it_resumes() {
        let open = Arc::new(AtomicBool::new(true));
        let admits = open.clone();
        let a = agent(1, Arc::new(move |_| admits.load(Ordering::SeqCst)), Shelf::default());
        let b = agent(2, everyone(), Shelf::default());
        let at = holder(1, &a);
        soon(ask(&b, &at)).await.unwrap();
        open.store(false, Ordering::SeqCst);
        for _ in 0..3 {
            let error = soon(ask(&b, &at)).await.unwrap_err();
            assert_eq!(error, FetchError::Refused { peer: at.peer });
        }
        assert_eq!(b.counters().dials, 3);
        open.store(true, Ordering::SeqCst);
        soon(ask(&b, &at)).await.unwrap();
    }

    #[tokio::test]
    async fn a_session_resumes_with_the_same_peer_only() {
        let asked = Arc::new(AtomicU64::new(0));
        let count = asked.clone();
        let admits: Admits = Arc::new(move |peer| {
            count.fetch_add(1, Ordering::SeqCst);
            *peer == identity(2).peer_id()
        });
        let a = agent(1, admits, Shelf::default());
        let b = agent(2, everyone(), Shelf::default());
        let at = holder(1, &a);
        let mut asked_before = 0;
        let mut per_dial = Vec::new();
        for _ in 0..3 {
            soon(ask(&b, &at)).await.unwrap();
            let link = b.inner.links.open_link(&at.peer).unwrap();
            Links::close(&link, code::SHUTDOWN);
            let now = asked.load(Ordering::SeqCst);
            per_dial.push(now - asked_before);
            asked_before = now;
        }
        // In the handshake, after it and for the request; a resumed handshake does not ask.
        assert_eq!(per_dial, [3, 2, 2]);
        let mut other = at.clone();
        other.peer = identity(9).peer_id();
        assert!(soon(ask(&b, &other)).await.is_err());
    }

    #[tokio::test]
    async fn only_the_expected_peer_is_accepted() {
        let a = agent(1, everyone(), Shelf::default());
        let b = agent(2, everyone(), Shelf::default());
        let mut at = holder(1, &a);
        at.peer = identity(9).peer_id();
        let error = soon(ask(&b, &at)).await.unwrap_err();
        assert!(matches!(error, FetchError::Connect { .. }), "{error}");
        assert_eq!((error.blame(), error.peer()), (Blame::Link, at.peer));
    }

    #[tokio::test]
    async fn a_dead_address_does_not_hide_a_live_one() {
        let a = agent(1, everyone(), Shelf::default());
        let b = agent(2, everyone(), Shelf::default());
        let silent = socket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut at = holder(1, &a);
        at.addresses.insert(0, silent.local_addr().unwrap());
        soon(ask(&b, &at)).await.unwrap();

        at = holder(1, &a);
        at.peer = identity(8).peer_id();
        at.addresses = vec![silent.local_addr().unwrap()];
        let error = soon(ask(&b, &at)).await.unwrap_err();
        assert!(error.to_string().contains("no answer"), "{error}");
        at.addresses.clear();
        assert!(soon(ask(&b, &at)).await.is_err());
    }

    #[tokio::test]
    async fn an_agent_on_any_address_talks_over_both_families() {
        // A machine without IPv6 has nothing to prove here.
        let Ok(a) = agent_at(1, "[::]:0".parse().unwrap()) else {
            return;
        };
        let b = agent(2, everyone(), Shelf::default());
        let mut at = holder(1, &a);
        at.addresses[0].set_ip([127, 0, 0, 1].into());
        soon(ask(&b, &at)).await.unwrap();
        soon(ask(&a, &holder(2, &b))).await.unwrap();
    }

    #[tokio::test]
    async fn a_holder_that_came_back_on_its_port_is_dialled_again() {
        let b = agent(2, everyone(), Shelf::default());
        let a = agent(1, everyone(), Shelf::default());
        let at = holder(1, &a);
        soon(ask(&b, &at)).await.unwrap();
        soon(a.shutdown()).await;
        drop(a);
        // The socket is closed by a task of quinn, a moment after its last user is gone.
        let a = soon(async {
            loop {
                match agent_at(1, at.addresses[0]) {
                    Ok(endpoint) => break endpoint,
                    Err(BindError::InUse { .. }) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
        })
        .await;
        soon(ask(&b, &at)).await.unwrap();
        assert_eq!(b.counters().dials, 2);
        drop(a);
    }

    #[test]
    fn a_holder_that_was_killed_and_came_back_is_noticed_at_once() {
        let runtime = || tokio::runtime::Runtime::new().unwrap();
        let (here, there) = (runtime(), runtime());
        let b = here.block_on(async { agent(2, everyone(), Shelf::default()) });
        let a = there.block_on(async { agent(1, everyone(), Shelf::default()) });
        let at = holder(1, &a);
        here.block_on(soon(ask(&b, &at))).unwrap();
        // All its tasks end where they stand: nobody is told.
        there.shutdown_timeout(Duration::from_secs(10));
        drop(a);
        let there = runtime();
        let again = there.block_on(async { agent_at(1, at.addresses[0]).unwrap() });
        here.block_on(soon(ask(&b, &at))).unwrap();
        assert_eq!(b.counters().dials, 2);
        drop(again);
    }

    #[test]
    fn a_holder_that_dies_in_mid_transfer_is_an_error_in_bounded_time() {
        let runtime = || tokio::runtime::Runtime::new().unwrap();
        let (here, there) = (runtime(), runtime());
        let mut shelf = Shelf::default();
        let chunks = vec![shelf.put([noise(1, 512 * 1024)])[0]; 1000];
        let a = there.block_on(async { agent(1, everyone(), shelf) });
        let b = here.block_on(async { agent(2, everyone(), Shelf::default()) });
        let mut there = Some(there);
        let mut count = 0;
        let deliver = |_: usize, _: &_| {
            count += 1;
            if count == 20 {
                // Not from within a runtime's own worker.
                let there = there.take().unwrap();
                std::thread::spawn(|| drop(there)).join().unwrap();
            }
            ControlFlow::Continue(())
        };
        let (at, orders) = (holder(1, &a), orders(&chunks, 16));
        let (_, result) =
            here.block_on(gather(&b, &at, orders, no_base, Patience::default(), deliver));
        let error = result.unwrap_err();
        assert_eq!(error.blame(), Blame::Link, "{error}");
        assert!(count >= 20);
    }

    #[tokio::test]
    async fn a_provider_that_stalls_is_given_up_and_later_asked_again() {
        let mut shelf = Shelf::default();
        let chunks = shelf.stock(1, 1000);
        let gate = shelf.gate.clone();
        let a = agent(1, everyone(), shelf);
        let b = agent(2, everyone(), Shelf::default());
        let at = holder(1, &a);
        let closed = Closed::keep(gate);
        let error = fetch(&b, &at, &chunks, Patience::default()).await.unwrap_err();
        assert_eq!(error, FetchError::Stalled { peer: at.peer });
        closed.open();
        assert_eq!(fetch(&b, &at, &chunks, Patience::default()).await.unwrap().bytes, 1000);
    }

    #[tokio::test]
    async fn shutdown_returns_while_transfers_are_under_way() {
        let mut shelf = Shelf::default();
        let chunks = vec![shelf.stock(1, 512 * 1024)[0]; 1000];
        let a = agent(1, everyone(), shelf);
        let b = agent(2, everyone(), Shelf::default());
        let at = holder(1, &a);
        let (first, mut is_first) = mpsc::channel(1);
        let deliver = |_: usize, _: &_| {
            let _ = first.try_send(());
            ControlFlow::Continue(())
        };
        let in_order = orders(&chunks, 16);
        let transfer = gather(&b, &at, in_order, no_base, Patience::default(), deliver);
        let stop = async {
            is_first.recv().await;
            b.shutdown().await;
        };
        let ((_, result), ()) = soon(async { tokio::join!(transfer, stop) }).await;
        assert_eq!(result, Err(FetchError::Closed { peer: at.peer }));
        assert_eq!(soon(ask(&b, &at)).await, Err(FetchError::Closed { peer: at.peer }));
        soon(a.shutdown()).await;
        soon(a.shutdown()).await;
    }
}
