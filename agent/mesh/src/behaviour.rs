//! The libp2p protocols that the mesh speaks, and their limits.

use crate::{
    border,
    codec::{Codec, PROTOCOL},
    options::Options,
    router::Router,
};
use libp2p::{
    Swarm, SwarmBuilder,
    allow_block_list::{self, AllowedPeers},
    connection_limits::{self, ConnectionLimits},
    identity::Keypair,
    mdns, ping,
    request_response::{self, ProtocolSupport},
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
};
use netbuild_core::gossip::MAX_NEIGHBOURS;
use std::{error::Error, time::Duration};

/// Handshakes that others may have open at once.
const MAX_PENDING_INCOMING: u32 = 64;
/// Connections that others may have open without being members; members are not counted.
const MAX_STRANGERS: u32 = 64;
/// Connections with one peer: one each way, and one each way that is dead but not yet missed.
const MAX_PER_PEER: u32 = 4;
/// Requests of one peer that may be open at once: four messages of gossip, four questions of its user
/// and one of its roll, with room to spare.
const MAX_REQUESTS: usize = 16;
/// Streams of one connection: requests, ping and routing, with room to spare.
const MAX_STREAMS: u32 = 64;
/// Bytes in flight on a stream: several times the largest message.
const STREAM_WINDOW: u32 = 1 << 20;
/// Bytes in flight on a connection; with the number of strangers this bounds what they can make an
/// agent remember.
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Unused connections are kept: the mesh decides whom to cut, and QUIC notices who is dead.
const UNUSED: Duration = Duration::from_secs(365 * 24 * 3600);

#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) limits: connection_limits::Behaviour,
    pub(crate) allowed: Toggle<allow_block_list::Behaviour<AllowedPeers>>,
    pub(crate) requests: request_response::Behaviour<Codec>,
    pub(crate) ping: ping::Behaviour,
    pub(crate) router: Router,
    pub(crate) mdns: Toggle<mdns::tokio::Behaviour>,
}

/// A swarm that does not listen yet.
pub(crate) fn swarm(
    options: &Options,
) -> Result<Swarm<Behaviour>, Box<dyn Error + Send + Sync + 'static>> {
    let keypair = border::keypair(&options.identity)?;
    let (ping, idle) = (options.timing.ping, options.timing.idle);
    let swarm = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_quic_config(|mut config| {
            config.max_idle_timeout = u32::try_from(idle.as_millis()).unwrap_or(u32::MAX);
            config.keep_alive_interval = ping.min(idle / 3);
            config.handshake_timeout = options.timing.admission;
            config.max_concurrent_stream_limit = MAX_STREAMS;
            config.max_stream_data = STREAM_WINDOW;
            config.max_connection_data = CONNECTION_WINDOW;
            config
        })
        .with_behaviour(|keypair| Behaviour::new(keypair, options))?
        .with_swarm_config(|config| config.with_idle_connection_timeout(UNUSED))
        .build();
    Ok(swarm)
}

impl Behaviour {
    fn new(keypair: &Keypair, options: &Options) -> Self {
        let me = keypair.public().to_peer_id();
        let allowed = options.allowed.as_ref().map(|peers| {
            let mut list = allow_block_list::Behaviour::<AllowedPeers>::default();
            for peer in peers.iter().filter_map(border::to_libp2p) {
                list.allow_peer(peer);
            }
            list
        });
        let timing = &options.timing;
        let requests = request_response::Config::default()
            .with_request_timeout(timing.ask)
            .with_max_concurrent_streams(MAX_REQUESTS);
        // A lost answer is for the idle time of the connection to judge.
        let ping = ping::Config::new().with_interval(timing.ping).with_timeout(timing.idle);
        Self {
            limits: connection_limits::Behaviour::new(limits()),
            allowed: allowed.into(),
            requests: request_response::Behaviour::with_codec(
                Codec::default(),
                [(PROTOCOL, ProtocolSupport::Full)],
                requests,
            ),
            ping: ping::Behaviour::new(ping),
            router: Router::new(me, &options.mesh_key),
            mdns: options.mdns.then(|| multicast(me)).flatten().into(),
        }
    }
}

/// Multicast DNS, where the system lets it: containers often do not.
fn multicast(me: libp2p::PeerId) -> Option<mdns::tokio::Behaviour> {
    mdns::tokio::Behaviour::new(mdns::Config::default(), me)
        .inspect_err(|error| tracing::debug!(%error, "no multicast DNS on this machine"))
        .ok()
}

fn limits() -> ConnectionLimits {
    let members = u32::try_from(MAX_NEIGHBOURS).unwrap_or(u32::MAX);
    ConnectionLimits::default()
        .with_max_pending_incoming(Some(MAX_PENDING_INCOMING))
        // A peer is favoured after its connection was counted, so members take places as well.
        .with_max_established_incoming(Some(MAX_STRANGERS + MAX_PER_PEER * members))
        .with_max_established_per_peer(Some(MAX_PER_PEER))
}
