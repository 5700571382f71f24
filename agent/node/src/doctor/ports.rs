//! The addresses of an agent, and those of a member that is to be joined.

use crate::{
    config::{Join, Settings},
    keys,
};
use futures::future::join_all;
use netbuild_core::{
    doctor::{Invitation, PAGE, Port, PortState, Reached},
    peer::{Identity, PeerId},
};
use netbuild_mesh::parse_multiaddr;
use netbuild_proto::control::Status;
use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

/// Most addresses that are tried; a machine with more has them from containers.
const MOST: usize = 8;
const MESH: &str = "mesh";
const DATA: &str = "data";

/// The addresses of the agent that answered so, or those that one would take.
pub(super) fn look(settings: &Settings, status: Option<&Status>, limit: Duration) -> Vec<Port> {
    if let Some(status) = status.filter(|status| !status.mesh_addresses.is_empty()) {
        let mut ports = of_agent(status, limit).unwrap_or_default();
        ports.extend(status.page.as_deref().and_then(|page| page_of(page, limit)));
        return ports;
    }
    let data = SocketAddr::new(settings.listen.ip(), settings.data_port);
    let udp = [(MESH, settings.listen), (DATA, data)].map(|(role, address)| Port {
        role,
        address,
        state: free(UdpSocket::bind(address)),
    });
    let page = settings.http.as_ref().map(|http| Port {
        role: PAGE,
        address: http.listen,
        state: free(TcpListener::bind(http.listen)),
    });
    udp.into_iter().chain(page).collect()
}

fn free<S>(bound: io::Result<S>) -> PortState {
    match bound {
        Ok(_) => PortState::Free,
        Err(error) => PortState::Refused(error.to_string()),
    }
}

/// Where an agent says that it is watched; `None` when that is not an address.
fn page_of(page: &str, limit: Duration) -> Option<Port> {
    let address = page.strip_prefix("http://")?.trim_end_matches('/').parse().ok()?;
    let began = Instant::now();
    let reached = match healthz(address, limit) {
        Ok(()) => Reached::Yes(began.elapsed()),
        Err(error) => Reached::No(error.to_string()),
    };
    Some(Port { role: PAGE, address, state: PortState::Ours(reached) })
}

fn healthz(address: SocketAddr, limit: Duration) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    write!(stream, "GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    match &answer {
        b"HTTP/1.1 200" => Ok(()),
        other => Err(io::Error::other(String::from_utf8_lossy(other).into_owned())),
    }
}

fn of_agent(status: &Status, limit: Duration) -> Option<Vec<Port>> {
    let peer: PeerId = status.peer.parse().ok()?;
    let data: SocketAddr = status.data_address.parse().ok()?;
    let mesh = status.mesh_addresses.iter().filter_map(|text| parse_multiaddr(text).ok());
    let mesh: Vec<_> = mesh.flat_map(|seed| seed.addresses).take(MOST).collect();
    let mut ports: Vec<_> = mesh.iter().map(|address| (MESH, *address)).collect();
    match data.ip().is_unspecified() {
        true => ports
            .extend(mesh.iter().map(|address| (DATA, SocketAddr::new(address.ip(), data.port())))),
        false => ports.push((DATA, data)),
    }
    let reached = reach(ports.iter().map(|(role, address)| (*role, *address, Some(peer))), limit)?;
    let ports = ports.into_iter().zip(reached).map(|((role, address), reached)| Port {
        role,
        address,
        state: PortState::Ours(reached),
    });
    Some(ports.collect())
}

/// Whom the configuration and the command line want to be met.
pub(super) fn invitation(settings: &Settings, limit: Duration) -> Option<Invitation> {
    if settings.join.is_empty() {
        return None;
    }
    let known = keys::known_mesh_key(&settings.data_dir).ok().flatten();
    let ticket = settings.joining_key();
    let other_mesh = known.zip(ticket).is_some_and(|(known, ticket)| known != ticket);
    let addresses = settings.join.iter().flat_map(|join| {
        let (peer, addresses) = match join {
            Join::Ticket(ticket) => (Some(ticket.peer), &ticket.addresses),
            Join::Address(seed) => (seed.peer, &seed.addresses),
        };
        addresses.iter().map(move |address| (MESH, *address, peer))
    });
    let addresses: Vec<_> = addresses.take(MOST).collect();
    let reached = reach(addresses.iter().copied(), limit).unwrap_or_default();
    let addresses = addresses.into_iter().map(|(_, address, _)| address).zip(reached).collect();
    Some(Invitation { other_mesh, no_key: known.is_none() && ticket.is_none(), addresses })
}

/// Shakes hands with all of these at once; `None` where this machine has no means to.
fn reach(
    ports: impl Iterator<Item = (&'static str, SocketAddr, Option<PeerId>)>,
    limit: Duration,
) -> Option<Vec<Reached>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let stranger = keys::for_now().ok()?;
    let reached = ports.map(|port| shake(port, &stranger, limit));
    let reached = runtime.block_on(join_all(reached));
    let of = |result: Result<Duration, String>| result.map_or_else(Reached::No, Reached::Yes);
    Some(reached.into_iter().map(of).collect())
}

async fn shake(
    (role, address, peer): (&'static str, SocketAddr, Option<PeerId>),
    stranger: &Identity,
    limit: Duration,
) -> Result<Duration, String> {
    match (role, peer) {
        (DATA, Some(peer)) => netbuild_transfer::reach(address, peer, stranger, limit).await,
        _ => netbuild_mesh::reach(address, peer, stranger, limit).await,
    }
}
