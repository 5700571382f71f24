//! Kademlia as a way to members that nobody told of, for members only.
//!
//! libp2p's behaviour does the routing; here is what it lacks. A connection exists before its peer is
//! admitted, and a name of a protocol is no secret, so a *gate* in front of every connection refuses to
//! be asked the way until the peer is a member. And it dials nobody by itself: whom it wants to reach it
//! names, and the dialer decides. Nothing is stored, and only members are in the table.

use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    core::{Endpoint, transport::PortUse, upgrade::UpgradeInfo},
    kad::{self, BucketInserts, Mode, StoreInserts, store::MemoryStore},
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, NotifyHandler, SubstreamProtocol, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
        handler::{
            ConnectionEvent, FullyNegotiatedInbound, InboundUpgradeSend, ListenUpgradeError,
        },
    },
};
use netbuild_proto::ticket::MeshKey;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    num::NonZeroUsize,
    task::{Context, Poll},
    time::Duration,
};

/// Tells the name of the protocol apart from every other use of the mesh key.
const CONTEXT: &str = "netbuild 2026-11 routing protocol v1";
/// Members that a walk asks at most to agree on the nearest ones.
const WALK_BREADTH: NonZeroUsize = NonZeroUsize::new(8).expect("not zero");
/// How long a walk may take: some hops, one of which may have to be dialled first.
const WALK_TIMEOUT: Duration = Duration::from_secs(30);

type Kademlia = kad::Behaviour<MemoryStore>;

/// A peer that a walk wants to reach, and where others say that it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub(crate) peer: PeerId,
    pub(crate) addresses: Vec<Multiaddr>,
}

/// Kademlia among members.
pub(crate) struct Router {
    inner: Kademlia,
    members: BTreeSet<PeerId>,
    connections: BTreeMap<PeerId, BTreeSet<ConnectionId>>,
    to_open: VecDeque<(PeerId, ConnectionId)>,
}

impl Router {
    pub(crate) fn new(me: PeerId, mesh_key: &MeshKey) -> Self {
        let mut config = kad::Config::new(protocol(mesh_key));
        config
            .set_kbucket_inserts(BucketInserts::Manual)
            .set_record_filtering(StoreInserts::FilterBoth)
            .set_replication_interval(None)
            .set_publication_interval(None)
            .set_provider_publication_interval(None)
            .set_periodic_bootstrap_interval(None)
            .set_replication_factor(WALK_BREADTH)
            .set_query_timeout(WALK_TIMEOUT);
        let mut inner = Kademlia::with_config(me, MemoryStore::new(me), config);
        inner.set_mode(Some(Mode::Server));
        Self {
            inner,
            members: BTreeSet::new(),
            connections: BTreeMap::new(),
            to_open: VecDeque::new(),
        }
    }

    /// Lets a member ask the way, over the connections that it has and those that it makes.
    pub(crate) fn admit(&mut self, peer: PeerId) {
        if self.members.insert(peer) {
            let connections = self.connections.get(&peer).into_iter().flatten();
            self.to_open.extend(connections.map(|connection| (peer, *connection)));
        }
    }

    /// Takes note that a peer is no connected member any more. Its connections are about to be closed.
    pub(crate) fn dismiss(&mut self, peer: &PeerId) {
        self.members.remove(peer);
    }

    /// Names these addresses when others ask for this member; forgets it when there are none.
    pub(crate) fn route(&mut self, peer: &PeerId, addresses: impl Iterator<Item = Multiaddr>) {
        self.inner.remove_peer(peer);
        for address in addresses {
            self.inner.add_address(peer, address);
        }
    }

    /// Asks members for the members nearest to this key, and those in turn.
    pub(crate) fn walk(&mut self, key: Vec<u8>) {
        self.inner.get_closest_peers(key);
    }

    /// Members in the table.
    pub(crate) fn len(&mut self) -> usize {
        self.inner.kbuckets().map(|bucket| bucket.num_entries()).sum()
    }

    fn gate<H>(&mut self, peer: PeerId, connection: ConnectionId, inner: H) -> Gate<H> {
        self.connections.entry(peer).or_default().insert(connection);
        Gate { inner, open: self.members.contains(&peer) }
    }
}

/// The name of the protocol says nothing about the key, and differs between meshes.
fn protocol(mesh_key: &MeshKey) -> StreamProtocol {
    let hash = blake3::Hash::from_bytes(blake3::derive_key(CONTEXT, &mesh_key.0)).to_hex();
    let name = format!("/netbuild/routing/1/{}", &hash[..32]);
    StreamProtocol::try_from_owned(name).unwrap_or(StreamProtocol::new("/netbuild/routing/1"))
}

impl NetworkBehaviour for Router {
    type ConnectionHandler = Gate<THandler<Kademlia>>;
    type ToSwarm = Found;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let inner =
            self.inner.handle_established_inbound_connection(connection, peer, local, remote)?;
        Ok(self.gate(peer, connection, inner))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let inner = self
            .inner
            .handle_established_outbound_connection(connection, peer, address, role, port_use)?;
        Ok(self.gate(peer, connection, inner))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ConnectionClosed(closed) = &event
            && let Some(connections) = self.connections.get_mut(&closed.peer_id)
        {
            connections.remove(&closed.connection_id);
            if connections.is_empty() {
                self.connections.remove(&closed.peer_id);
            }
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.inner.on_connection_handler_event(peer, connection, event);
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some((peer_id, connection)) = self.to_open.pop_front() {
            let handler = NotifyHandler::One(connection);
            return Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler, event: ToGate::Open });
        }
        loop {
            match std::task::ready!(self.inner.poll(context)) {
                ToSwarm::NotifyHandler { peer_id, handler, event } => {
                    let event = ToGate::Inner(event);
                    return Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler, event });
                }
                ToSwarm::Dial { opts } => {
                    if let Some(found) = self.found(&opts) {
                        return Poll::Ready(ToSwarm::GenerateEvent(found));
                    }
                }
                // It reports what it learns, which matters only to a user of its records.
                _ => {}
            }
        }
    }
}

impl Router {
    /// Whom a walk wants to have dialled.
    fn found(&mut self, dial: &libp2p::swarm::dial_opts::DialOpts) -> Option<Found> {
        let peer = dial.get_peer_id()?;
        let addresses = self
            .inner
            .handle_pending_outbound_connection(
                dial.connection_id(),
                Some(peer),
                &[],
                Endpoint::Dialer,
            )
            .ok()?;
        Some(Found { peer, addresses })
    }
}

/// What is said to one connection.
#[derive(Debug)]
pub(crate) enum ToGate<T> {
    /// Its peer is a member.
    Open,
    Inner(T),
}

/// One connection, which cannot be asked the way until the gate is open.
pub(crate) struct Gate<H> {
    inner: H,
    open: bool,
}

/// The protocols of `U`, or none.
pub(crate) struct Gated<U> {
    inner: U,
    open: bool,
}

impl<U: UpgradeInfo> UpgradeInfo for Gated<U> {
    type Info = U::Info;
    type InfoIter = std::iter::Flatten<std::option::IntoIter<U::InfoIter>>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.open.then(|| self.inner.protocol_info()).into_iter().flatten()
    }
}

impl<C, U: libp2p::core::upgrade::InboundUpgrade<C>> libp2p::core::upgrade::InboundUpgrade<C>
    for Gated<U>
{
    type Output = U::Output;
    type Error = U::Error;
    type Future = U::Future;

    fn upgrade_inbound(self, socket: C, info: Self::Info) -> Self::Future {
        self.inner.upgrade_inbound(socket, info)
    }
}

impl<H: ConnectionHandler> ConnectionHandler for Gate<H>
where
    H::InboundProtocol: UpgradeInfo + libp2p::core::upgrade::InboundUpgrade<libp2p::swarm::Stream>,
    Gated<H::InboundProtocol>: InboundUpgradeSend<
            Output = <H::InboundProtocol as InboundUpgradeSend>::Output,
            Error = <H::InboundProtocol as InboundUpgradeSend>::Error,
        >,
{
    type FromBehaviour = ToGate<H::FromBehaviour>;
    type ToBehaviour = H::ToBehaviour;
    type InboundProtocol = Gated<H::InboundProtocol>;
    type OutboundProtocol = H::OutboundProtocol;
    type InboundOpenInfo = H::InboundOpenInfo;
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, Self::InboundOpenInfo> {
        let open = self.open;
        self.inner.listen_protocol().map_upgrade(|inner| Gated { inner, open })
    }

    fn connection_keep_alive(&self) -> bool {
        self.inner.connection_keep_alive()
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<
        ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>,
    > {
        self.inner.poll(context)
    }

    fn poll_close(&mut self, context: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        self.inner.poll_close(context)
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        match event {
            ToGate::Open => self.open = true,
            ToGate::Inner(event) => self.inner.on_behaviour_event(event),
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            '_,
            Self::InboundProtocol,
            Self::OutboundProtocol,
            Self::InboundOpenInfo,
            Self::OutboundOpenInfo,
        >,
    ) {
        self.inner.on_connection_event(match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info }) => {
                ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info })
            }
            ConnectionEvent::ListenUpgradeError(ListenUpgradeError { info, error }) => {
                ConnectionEvent::ListenUpgradeError(ListenUpgradeError { info, error })
            }
            ConnectionEvent::FullyNegotiatedOutbound(event) => {
                ConnectionEvent::FullyNegotiatedOutbound(event)
            }
            ConnectionEvent::AddressChange(event) => ConnectionEvent::AddressChange(event),
            ConnectionEvent::DialUpgradeError(event) => ConnectionEvent::DialUpgradeError(event),
            ConnectionEvent::LocalProtocolsChange(event) => {
                ConnectionEvent::LocalProtocolsChange(event)
            }
            ConnectionEvent::RemoteProtocolsChange(event) => {
                ConnectionEvent::RemoteProtocolsChange(event)
            }
            _ => return,
        });
    }
}
