//! quinn over links that exist only in memory, in virtual time: a transfer of minutes takes as
//! long as the processor needs for its packets, and goes the same way each time.

use super::tls;
use netbuild_core::wan::{Counters, Profile, Shaper};
use netbuild_transfer::{Modelled, transport};
use quinn::{
    AsyncUdpSocket, EndpointConfig, MtuDiscoveryConfig, TokioRuntime, TransportConfig, UdpPoller,
    congestion::{BbrConfig, ControllerFactory, CubicConfig, NewRenoConfig},
    udp::{EcnCodepoint, RecvMeta, Transmit},
};
use quinn_proto::RandomConnectionIdGenerator;
use std::{
    collections::VecDeque,
    error::Error,
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::{
    runtime::Builder,
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep_until},
};

type Failure = Box<dyn Error + Send + Sync>;

/// Headers of IPv4 and UDP, which a link carries as well.
const HEADERS: usize = 28;
/// Length of a connection id: the same as the engine's.
const CONNECTION_ID: usize = 4;
/// UDP payload of a full packet on Ethernet.
const PACKET: u16 = 1_472;

/// The controllers that can be compared, by name.
fn control(name: &str) -> Result<Arc<dyn ControllerFactory + Send + Sync>, String> {
    match name {
        "ours" => Ok(Arc::new(Modelled::new(1))),
        "cubic" => Ok(Arc::new(CubicConfig::default())),
        "newreno" => Ok(Arc::new(NewRenoConfig::default())),
        "bbr" => Ok(Arc::new(BbrConfig::default())),
        _ => Err(format!("no congestion controller `{name}`: ours, cubic, newreno, bbr")),
    }
}

/// What a transfer was like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Outcome {
    /// From the request to the last byte.
    pub(crate) elapsed: Duration,
    /// Payload, as a part of what the link carries in that time.
    pub(crate) used: f64,
    /// Packets that the queue refused, as a part of those that came.
    pub(crate) refused: f64,
    /// Mean of the queue that packets found, as a part of the largest.
    pub(crate) queue: f64,
}

/// Moves `bytes` over a link, from the side that accepted.
pub(crate) fn transfer(
    profile: &'static Profile,
    controller: &str,
    bytes: u64,
) -> Result<Outcome, Failure> {
    let control = control(controller)?;
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(async move {
        let (here, there): (SocketAddr, SocketAddr) =
            ("10.0.0.1:1".parse()?, "10.0.0.2:1".parse()?);
        let now = Instant::now().into_std();
        let up = Arc::new(Direction::new(Shaper::new(profile, 1, now)));
        let down = Arc::new(Direction::new(Shaper::new(profile, 2, now)));
        let mut tasks = JoinSet::new();
        tasks.spawn(up.clone().carry());
        tasks.spawn(down.clone().carry());
        let socket = |me, to: &Arc<Direction>, from: &Arc<Direction>| {
            Arc::new(Socket { me, to: to.clone(), from: from.clone() })
        };
        let mut config = EndpointConfig::default();
        config.rng_seed(Some([1; 32]));
        config.cid_generator(|| Box::new(RandomConnectionIdGenerator::new(CONNECTION_ID)));
        let runtime = || Arc::new(TokioRuntime);
        let mut server = tls::server()?;
        server.transport_config(parameters(here, control.clone()));
        let provider = quinn::Endpoint::new_with_abstract_socket(
            config.clone(),
            Some(server),
            socket(there, &down, &up),
            runtime(),
        )?;
        let requester = quinn::Endpoint::new_with_abstract_socket(
            config,
            None,
            socket(here, &up, &down),
            runtime(),
        )?;
        let mut client = tls::client()?;
        client.transport_config(parameters(there, control));
        tasks.spawn(async move {
            let connection = provider.accept().await.ok_or("closed")?.await?;
            let (mut send, _) = connection.accept_bi().await?;
            let piece = bytes::Bytes::from_static(&[7; 64 * 1024]);
            let mut left = bytes;
            while left > 0 {
                let piece = piece.slice(..piece.len().min(usize::try_from(left)?));
                left -= piece.len() as u64;
                send.write_chunk(piece).await?;
            }
            send.finish()?;
            connection.closed().await;
            Ok(())
        });
        let connection = requester.connect_with(client, there, "link")?.await?;
        let began = Instant::now();
        let (mut send, mut receive) = connection.open_bi().await?;
        send.write_all(b"go").await?;
        let mut arrived = 0;
        while let Some(chunk) = receive.read_chunk(usize::MAX, true).await? {
            arrived += chunk.bytes.len() as u64;
        }
        let elapsed = began.elapsed();
        connection.close(0u32.into(), b"");
        let rate = profile.shape.rate_bits as f64 / 8.0;
        let wire = down.wire();
        let Counters { passed, dropped_loss, dropped_queue, .. } = wire.shaper.counters();
        let came = passed + dropped_loss + dropped_queue;
        Ok(Outcome {
            elapsed,
            used: arrived as f64 / elapsed.as_secs_f64() / rate,
            refused: dropped_queue as f64 / came as f64,
            queue: wire.queued as f64 / came as f64 / profile.shape.queue_bytes as f64,
        })
    })
}

/// The parameters of the engine, for a link with the packets of Ethernet whatever this machine has.
fn parameters(
    peer: SocketAddr,
    control: Arc<dyn ControllerFactory + Send + Sync>,
) -> Arc<TransportConfig> {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(PACKET);
    let mut config = transport(peer, control);
    config.mtu_discovery_config(Some(discovery));
    Arc::new(config)
}

/// A packet on its way.
type Packet = (SocketAddr, Vec<u8>, Option<EcnCodepoint>);

/// One direction of the link, with those packets that have arrived.
#[derive(Debug)]
struct Wire {
    shaper: Shaper<Packet>,
    arrived: VecDeque<Packet>,
    reader: Option<Waker>,
    /// Bytes in the queue, summed over the packets that came.
    queued: u64,
}

#[derive(Debug)]
struct Direction {
    wire: Mutex<Wire>,
    changed: Notify,
}

impl Direction {
    fn new(shaper: Shaper<Packet>) -> Self {
        let wire = Wire { shaper, arrived: VecDeque::new(), reader: None, queued: 0 };
        Self { wire: Mutex::new(wire), changed: Notify::new() }
    }

    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets packets arrive when it is time, for ever.
    async fn carry(self: Arc<Self>) -> Result<(), Failure> {
        loop {
            let next = {
                let mut wire = self.wire();
                while let Some(packet) = wire.shaper.poll_packet(Instant::now().into_std()) {
                    wire.arrived.push_back(packet);
                }
                if !wire.arrived.is_empty()
                    && let Some(reader) = wire.reader.take()
                {
                    reader.wake();
                }
                wire.shaper.next_timeout()
            };
            match next {
                Some(at) => sleep_until(at.into()).await,
                None => self.changed.notified().await,
            }
        }
    }
}

/// One end of the link.
#[derive(Debug)]
struct Socket {
    me: SocketAddr,
    to: Arc<Direction>,
    from: Arc<Direction>,
}

#[derive(Debug)]
struct Writable;

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let now = Instant::now().into_std();
        let packet = (self.me, transmit.contents.to_vec(), transmit.ecn);
        let mut wire = self.to.wire();
        wire.queued += wire.shaper.queued_bytes(now);
        let length = packet.1.len() + HEADERS;
        // What is dropped does not arrive; UDP says no more.
        let _ = wire.shaper.handle_packet(packet, length, now);
        drop(wire);
        self.to.changed.notify_one();
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut wire = self.from.wire();
        let mut count = 0;
        for (buffer, meta) in buffers.iter_mut().zip(metas) {
            let Some((from, packet, ecn)) = wire.arrived.pop_front() else {
                break;
            };
            let len = packet.len().min(buffer.len());
            buffer[..len].copy_from_slice(&packet[..len]);
            *meta = RecvMeta::default();
            (meta.addr, meta.len, meta.stride, meta.ecn) = (from, len, len, ecn);
            count += 1;
        }
        if count == 0 {
            wire.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.me)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}
