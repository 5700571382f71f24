//! The addresses of an agent, and those of a member that is to be joined.

use crate::{
    config::{Join, Settings},
    keys,
};
use futures::future::join_all;
use netbuild_core::{
    doctor::{Invitation, Port, PortState, Reached},
    peer::{Identity, PeerId},
};
use netbuild_mesh::parse_multiaddr;
use netbuild_proto::control::Status;
use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

/// Most addresses that are tried; a machine with more has them from containers.
const MOST: usize = 8;
const MESH: &str = "mesh";
const DATA: &str = "data";

/// The addresses of the agent that answered so, or those that one would take.
pub(super) fn look(settings: &Settings, status: Option<&Status>, limit: Duration) -> Vec<Port> {
    match status.filter(|status| !status.mesh_addresses.is_empty()) {
        Some(status) => of_agent(status, limit).unwrap_or_default(),
        None => {
            let data = SocketAddr::new(settings.listen.ip(), settings.data_port);
            [(MESH, settings.listen), (DATA, data)]
                .map(|(role, address)| Port { role, address, state: free(address) })
                .into()
        }
    }
}

fn free(address: SocketAddr) -> PortState {
    match UdpSocket::bind(address) {
        Ok(_) => PortState::Free,
        Err(error) => PortState::Refused(error.to_string()),
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
