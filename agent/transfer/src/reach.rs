//! Whether the data plane of a peer can be reached, for somebody who looks for what is wrong.

use crate::{
    auth,
    congestion::Modelled,
    error::code,
    socket::{self, SOCKET_BUFFER, dialled_transport},
};
use netbuild_core::peer::{Identity, PeerId};
use quinn::{ClientConfig, TokioRuntime};
use socket2::SockRef;
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::timeout;

/// What a UDP socket of the data plane gets, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Buffers {
    /// What it asks for, each way.
    pub wanted: usize,
    /// What the system gives for packets that come.
    pub receive: usize,
    /// What it gives for packets that go.
    pub send: usize,
}

impl Buffers {
    /// Opens a socket as an endpoint does, and looks.
    pub fn look() -> io::Result<Self> {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let socket = socket::bind(any).map_err(io::Error::other)?;
        let socket = SockRef::from(&socket);
        // Linux doubles what is asked for, for its own bookkeeping, and tells the double.
        let (receive, send) = (socket.recv_buffer_size()? / 2, socket.send_buffer_size()? / 2);
        Ok(Self { wanted: SOCKET_BUFFER, receive, send })
    }
}

/// Shakes hands with the data plane of `peer` at an address, from a port of its own and as somebody whom
/// it need not admit, and says how long that took. The peer's key is verified.
///
/// # Errors
/// Why not, in words.
pub async fn reach(
    address: SocketAddr,
    peer: PeerId,
    identity: &Identity,
    limit: Duration,
) -> Result<Duration, String> {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = socket::bind((any, 0).into()).map_err(|error| error.to_string())?;
    let config = socket::endpoint_config(identity);
    let endpoint = quinn::Endpoint::new(config, None, socket, Arc::new(TokioRuntime))
        .map_err(|error| error.to_string())?;
    let client = auth::client(identity).map_err(|error| error.to_string())?;
    let mut client = ClientConfig::new(Arc::new(client));
    client.transport_config(Arc::new(dialled_transport(address, Arc::new(Modelled::new(0)))));
    let began = Instant::now();
    let connecting = endpoint
        .connect_with(client, address, &auth::server_name(&peer))
        .map_err(|error| error.to_string())?;
    let reached = match timeout(limit, connecting).await {
        Ok(Ok(_)) => Ok(began.elapsed()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {:.1} s", limit.as_secs_f64())),
    };
    endpoint.close(code::SHUTDOWN, b"only looked");
    reached
}
