//! The UDP socket and the QUIC parameters of the data plane.

use netbuild_core::{digest::Hash, peer::Identity};
use quinn::{
    ConnectionId, ConnectionIdGenerator, EndpointConfig, IdleTimeout, MtuDiscoveryConfig,
    TransportConfig, VarInt,
    congestion::ControllerFactory,
    crypto::{CryptoError, HmacKey},
};
use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Bytes that a stream may have under way: 1 Gbit/s over 130 ms.
pub(crate) const STREAM_WINDOW: u32 = 16 << 20;
/// Bytes that all streams of a connection may have under way: [`STREAM_WINDOW`] for each chunk
/// stream that a requester opens at once, and one more for everything else.
const CONNECTION_WINDOW: u32 = 4 * STREAM_WINDOW;
/// Bytes that a provider keeps for retransmission on one connection: 2.5 Gbit/s over 100 ms.
const SEND_WINDOW: u64 = 32 << 20;
/// A packet each second, from the side that dialled: it keeps the mappings of firewalls alive, and
/// its acknowledgement is a round trip measured afresh, as often as link measurements are read.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// After four keep-alives without an answer, with what QUIC repeats in between, the peer is gone.
/// A link that loses every fifth packet gets there once in six hundred times, a dead one always,
/// soon enough for a build that waits to turn to somebody else.
const IDLE_TIMEOUT_MS: u32 = 4_000;
/// Requests that each end of a connection may have open.
pub(crate) const MAX_STREAMS: u32 = 64;
/// Kernel buffers in bytes, each way: 8 ms at 4 Gbit/s. The kernel may give less.
pub(crate) const SOCKET_BUFFER: usize = 4 << 20;
/// Length of our connection ids, which are in each packet that we get: four bytes tell the
/// connections of one endpoint apart.
const CONNECTION_ID: usize = 4;
/// Longest UDP payload that we send or take. Long packets cost least for each byte, but quinn hands
/// ten of them to the system at once, and the system takes 64 KiB.
pub const MAX_PACKET: u16 = 6_500;
/// UDP payload that goes through when the system does not say what does: Ethernet and IPv6.
const ETHERNET_PACKET: u16 = 1_452;
/// Bytes to which the longest packet is found out: each is a search of a round trip.
const MTU_STEP: u16 = 8;
/// Headers of IP and UDP.
const HEADERS_V4: u32 = 28;
const HEADERS_V6: u32 = 48;

/// The data plane cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process has the UDP port.
    #[error("UDP address {address} is in use by another process")]
    InUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The operating system refuses the address.
    #[error("cannot open UDP address {address}: {source}")]
    Socket {
        /// The address asked for.
        address: SocketAddr,
        /// What it says.
        source: io::Error,
    },
    /// TLS refuses our key.
    #[error("cannot set up TLS for UDP address {address}: {source}")]
    Tls {
        /// The address asked for.
        address: SocketAddr,
        /// What it says.
        source: rustls::Error,
    },
}

/// Opens the socket.
pub(crate) fn bind(address: SocketAddr) -> Result<UdpSocket, BindError> {
    open(address).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { address },
        _ => BindError::Socket { address, source },
    })
}

fn open(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.ip().is_ipv6() && address.ip().is_unspecified() {
        // Best effort: "any address" should mean IPv4 as well, where the system can do that.
        let _ = socket.set_only_v6(false);
    }
    // Best effort: a smaller buffer costs throughput, and only on a fast link.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Parameters of a connection that we dial.
pub(crate) fn dialled_transport(to: SocketAddr, control: Control) -> TransportConfig {
    let mut config = transport(to, control);
    config.keep_alive_interval(Some(KEEP_ALIVE));
    config
}

/// What makes the congestion controllers.
pub(crate) type Control = Arc<dyn ControllerFactory + Send + Sync>;

/// The longest UDP payload on the way to `address`, as far as this machine knows it: the way
/// beyond its own network is found out by QUIC, from here downwards.
fn longest_packet(address: SocketAddr) -> u16 {
    let known = || {
        let any: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect(address).ok()?;
        let (mtu, headers) = match address.ip().to_canonical() {
            IpAddr::V4(_) if address.is_ipv4() => (sockopt::ip_mtu(&socket).ok()?, HEADERS_V4),
            _ => (sockopt::ipv6_mtu(&socket).ok()?, HEADERS_V6),
        };
        u16::try_from(mtu.saturating_sub(headers).min(u32::from(MAX_PACKET))).ok()
    };
    known().unwrap_or(ETHERNET_PACKET)
}

/// Parameters of a connection with `peer`. Both ends may ask on a connection: a peer that cannot be
/// dialled can be asked on its own. Public for programs that measure what they are worth.
pub fn transport(peer: SocketAddr, control: Control) -> TransportConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(longest_packet(peer)).minimum_change(MTU_STEP);
    let mut config = TransportConfig::default();
    config
        .congestion_controller_factory(control)
        .mtu_discovery_config(Some(discovery))
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))));
    config
}

/// Parameters of the endpoint. Stateless resets are signed with a key that outlives the process:
/// the peers of an agent that was killed and started again on its port learn of it with their next
/// packet, and not by a timeout.
pub(crate) fn endpoint_config(identity: &Identity) -> EndpointConfig {
    let secret = Hash::of(&[b"netbuild stateless reset v1\0", &identity.seed()[..]].concat());
    let mut config = EndpointConfig::new(Arc::new(ResetKey(secret)));
    // Fails only out of bounds, which MAX_PACKET is not.
    let _ = config.max_udp_payload_size(MAX_PACKET);
    config.cid_generator(move || Box::new(ConnectionIds::new(secret)));
    config
}

/// BLAKE3 of secret and message, which is a MAC because BLAKE3 cannot be extended.
struct ResetKey(Hash);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature: &mut [u8]) {
        signature.copy_from_slice(Hash::of(&[self.0.as_bytes(), data].concat()).as_bytes());
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        // `Hash` of both hides where they differ from whoever measures the time.
        let mut expected = [0; 32];
        self.sign(data, &mut expected);
        if Hash::of(&expected) == Hash::of(signature) { Ok(()) } else { Err(CryptoError) }
    }
}

/// Connection ids that nobody can foresee. Quinn's own are recognised only by the process that
/// made them, which then sends no reset for those of the process before.
#[derive(Debug)]
struct ConnectionIds {
    secret: Hash,
    started: u128,
    made: u64,
}

impl ConnectionIds {
    fn new(secret: Hash) -> Self {
        let started =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        Self { secret, started, made: 0 }
    }
}

impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        self.made += 1;
        let text = [
            &b"netbuild connection id\0"[..],
            self.secret.as_bytes(),
            &self.started.to_le_bytes(),
            &self.made.to_le_bytes(),
        ];
        ConnectionId::new(&Hash::of(&text.concat()).as_bytes()[..CONNECTION_ID])
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_is_told_apart() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(address).unwrap_err();
        assert!(matches!(error, BindError::InUse { address: a } if a == address));
        let error = bind("192.0.2.1:0".parse().unwrap()).unwrap_err();
        assert!(
            matches!(error, BindError::Socket { .. }) && error.to_string().contains("192.0.2.1")
        );
    }
}
