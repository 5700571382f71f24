//! Measures QUIC without the engine: memory to memory, one connection, one stream. What it gives is
//! the yardstick for the engine.
//!
//! `raw BYTES` runs both ends in this process, each on a runtime of one thread; `raw serve ADDRESS`
//! and `raw get ADDRESS BYTES` are the two ends. Each prints one line of JSON for a transfer; CPU
//! seconds are those of the process. Options: `--cc cubic|newreno|bbr|ours` (quinn's default is
//! cubic), `--tuned` takes the transport parameters of the engine and its controller, `--packet N`
//! is the longest UDP payload.

#[path = "support/tls.rs"]
mod tls;

use bytes::Bytes;
use netbuild_transfer::{MAX_PACKET, Modelled, transport};
use quinn::{
    Connection, EndpointConfig, MtuDiscoveryConfig, TokioRuntime, TransportConfig,
    congestion::{BbrConfig, ControllerFactory, CubicConfig, NewRenoConfig},
};
use rustix::time::{ClockId, clock_gettime};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    error::Error,
    io::{Write, stdout},
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinSet,
};

type Failure = Box<dyn Error + Send + Sync>;

/// Bytes that are handed to QUIC at once: a chunk of the engine.
const PIECE: usize = 512 * 1024;

/// What the command line says.
#[derive(Default)]
struct Options {
    words: Vec<String>,
    control: Option<String>,
    tuned: bool,
    packet: Option<u16>,
}

impl Options {
    fn read() -> Result<Self, Failure> {
        let mut options = Self::default();
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            match word.as_str() {
                "--cc" => options.control = Some(value()?),
                "--tuned" => options.tuned = true,
                "--packet" => options.packet = Some(value()?.parse()?),
                _ => options.words.push(word),
            }
        }
        Ok(options)
    }

    fn transport(&self, peer: SocketAddr) -> Result<Arc<TransportConfig>, Failure> {
        let control: Option<Arc<dyn ControllerFactory + Send + Sync>> =
            match self.control.as_deref() {
                None => None,
                Some("ours") => Some(Arc::new(Modelled::new(1))),
                Some("cubic") => Some(Arc::new(CubicConfig::default())),
                Some("newreno") => Some(Arc::new(NewRenoConfig::default())),
                Some("bbr") => Some(Arc::new(BbrConfig::default())),
                Some(other) => return Err(format!("no congestion controller `{other}`").into()),
            };
        let mut config = if self.tuned {
            transport(peer, control.unwrap_or_else(|| Arc::new(Modelled::new(1))))
        } else {
            let mut config = TransportConfig::default();
            if let Some(control) = control {
                config.congestion_controller_factory(control);
            }
            config
        };
        if let Some(packet) = self.packet {
            let mut discovery = MtuDiscoveryConfig::default();
            discovery.upper_bound(packet);
            config.mtu_discovery_config(Some(discovery));
        }
        Ok(Arc::new(config))
    }

    fn endpoint(&self, address: SocketAddr, serves: bool) -> Result<quinn::Endpoint, Failure> {
        let mut config = EndpointConfig::default();
        if let Some(packet) = self.packet.or(self.tuned.then_some(MAX_PACKET)) {
            config.max_udp_payload_size(packet)?;
        }
        let server = if serves {
            let mut server = tls::server()?;
            server.transport_config(self.transport("127.0.0.1:1".parse()?)?);
            Some(server)
        } else {
            None
        };
        let socket = self.socket(address)?;
        Ok(quinn::Endpoint::new(config, server, socket, Arc::new(TokioRuntime))?)
    }

    /// With the buffers of the engine, or those of the system.
    fn socket(&self, address: SocketAddr) -> Result<UdpSocket, Failure> {
        const BUFFER: usize = 4 << 20;
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if self.tuned {
            socket.set_recv_buffer_size(BUFFER)?;
            socket.set_send_buffer_size(BUFFER)?;
        }
        socket.bind(&address.into())?;
        Ok(socket.into())
    }
}

fn runtime() -> Result<Runtime, Failure> {
    Ok(Builder::new_multi_thread().worker_threads(1).enable_all().build()?)
}

fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Serves all connections, for ever.
async fn serve(
    endpoint: quinn::Endpoint,
    options: Arc<Options>,
    tell: bool,
) -> Result<(), Failure> {
    let mut connections = JoinSet::new();
    while let Some(incoming) = endpoint.accept().await {
        let mut server = tls::server()?;
        server.transport_config(options.transport(incoming.remote_address())?);
        let accepting = incoming.accept_with(Arc::new(server))?;
        connections.spawn(async move {
            let (began, cpu_before) = (Instant::now(), cpu());
            let served = async { answer(&accepting.await?).await };
            match served.await {
                Ok((bytes, connection)) if tell => {
                    report("serve", bytes, began.elapsed(), cpu() - cpu_before, &connection)
                }
                Ok(_) => Ok(()),
                Err(error) => Ok(writeln!(stdout(), "{{\"error\":\"{error}\"}}")?),
            }
        });
    }
    Ok(())
}

async fn answer(connection: &Connection) -> Result<(u64, Connection), Failure> {
    let (mut send, mut receive) = connection.accept_bi().await?;
    let mut count = [0; 8];
    receive.read_exact(&mut count).await?;
    let bytes = u64::from_le_bytes(count);
    let piece = Bytes::from(vec![7; PIECE]);
    let mut left = bytes;
    while left > 0 {
        let piece = piece.slice(..piece.len().min(usize::try_from(left)?));
        left -= piece.len() as u64;
        send.write_chunk(piece).await?;
    }
    send.finish()?;
    connection.closed().await;
    Ok((bytes, connection.clone()))
}

async fn get(
    endpoint: quinn::Endpoint,
    options: Arc<Options>,
    address: SocketAddr,
    bytes: u64,
) -> Result<(), Failure> {
    let mut client = tls::client()?;
    client.transport_config(options.transport(address)?);
    let cpu_before = cpu();
    let connection = endpoint.connect_with(client, address, "raw")?.await?;
    let began = Instant::now();
    let (mut send, mut receive) = connection.open_bi().await?;
    send.write_all(&bytes.to_le_bytes()).await?;
    let mut arrived = 0;
    while let Some(chunk) = receive.read_chunk(usize::MAX, true).await? {
        arrived += chunk.bytes.len() as u64;
    }
    report("get", arrived, began.elapsed(), cpu() - cpu_before, &connection)?;
    connection.close(0u32.into(), b"");
    endpoint.wait_idle().await;
    Ok(())
}

fn report(
    role: &str,
    bytes: u64,
    elapsed: Duration,
    cpu: f64,
    connection: &Connection,
) -> Result<(), Failure> {
    let path = connection.stats().path;
    let seconds = elapsed.as_secs_f64();
    let mbit = bytes as f64 * 8e-6 / seconds;
    let gib = bytes as f64 / f64::from(1 << 30);
    writeln!(
        stdout(),
        "{{\"role\":\"{role}\",\"bytes\":{bytes},\"seconds\":{seconds:.3},\"mbit\":{mbit:.1},\
         \"cpu_seconds\":{cpu:.3},\"cpu_per_gib\":{:.3},\"sent_packets\":{},\"lost_packets\":{},\
         \"packet\":{},\"rtt_ms\":{:.2}}}",
        cpu / gib,
        path.sent_packets,
        path.lost_packets,
        path.current_mtu,
        path.rtt.as_secs_f64() * 1e3,
    )?;
    Ok(())
}

fn main() -> Result<(), Failure> {
    let options = Arc::new(Options::read()?);
    let words: Vec<_> = options.words.iter().map(String::as_str).collect();
    match words[..] {
        ["serve", address] => runtime()?.block_on(async {
            let endpoint = options.endpoint(address.parse()?, true)?;
            writeln!(stdout(), "{{\"listening\":\"{}\"}}", endpoint.local_addr()?)?;
            serve(endpoint, options.clone(), true).await
        }),
        ["get", address, bytes] => runtime()?.block_on(async {
            let address: SocketAddr = address.parse()?;
            let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let endpoint = options.endpoint(any.parse()?, false)?;
            get(endpoint, options.clone(), address, bytes.parse()?).await
        }),
        [bytes] => {
            let (there, here) = (runtime()?, runtime()?);
            let provider =
                there.block_on(async { options.endpoint("127.0.0.1:0".parse()?, true) })?;
            let address = provider.local_addr()?;
            there.spawn(serve(provider, options.clone(), false));
            here.block_on(async {
                let endpoint = options.endpoint("127.0.0.1:0".parse()?, false)?;
                get(endpoint, options.clone(), address, bytes.parse()?).await
            })
        }
        _ => Err("raw BYTES | raw serve ADDRESS | raw get ADDRESS BYTES".into()),
    }
}
