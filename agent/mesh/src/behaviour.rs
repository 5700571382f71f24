//! The libp2p protocols that the mesh speaks, and their limits.

use crate::{
    border,
    codec::{Codec, PROTOCOL},
    dialer::MAX_MEMBERS,
    options::{Options, Timing},
};
use libp2p::{
    Swarm, SwarmBuilder,
    allow_block_list::{self, AllowedPeers},
    connection_limits::{self, ConnectionLimits},
    gossipsub::{
        self, IdentTopic, IdentityTransform, MessageAuthenticity, MessageId, TopicHash,
        ValidationMode, WhitelistSubscriptionFilter,
    },
    identify,
    identity::Keypair,
    ping,
    request_response::{self, ProtocolSupport},
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
};
use netbuild_proto::membership::MAX_GOSSIP;
use std::{collections::HashSet, error::Error, time::Duration};

/// What identify tells: the name and version of the mesh as a whole.
const MESH_PROTOCOL: &str = "/netbuild/1";
/// The one topic. Its name is no secret: what it carries is sealed.
const TOPIC: &str = "netbuild/announcements/1";

/// Most bytes of a gossip message with its nonce, tag, signature and framing.
const MAX_TRANSMIT: usize = MAX_GOSSIP + 16 * 1024;
/// Gossip messages that wait for one slow peer, some 3 MiB; what is more is left to catch-up.
const MAX_QUEUED: usize = 64;
/// Handshakes that others may have open at once.
const MAX_PENDING_INCOMING: u32 = 64;
/// Connections that others may have open without being members; members are not counted.
const MAX_STRANGERS: u32 = 64;
/// Connections with one peer: one each way, and one each way that is dead but not yet missed.
const MAX_PER_PEER: u32 = 4;
/// Requests of one peer that may be open at once; an honest one has two.
const MAX_REQUESTS: usize = 8;
/// Streams of one connection: gossip, ping, identify and the requests, with room to spare.
const MAX_STREAMS: u32 = 64;
/// Bytes in flight on a stream: many times the largest message.
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
    pub(crate) gossip: gossipsub::Behaviour<IdentityTransform, WhitelistSubscriptionFilter>,
    pub(crate) requests: request_response::Behaviour<Codec>,
    pub(crate) ping: ping::Behaviour,
    pub(crate) identify: identify::Behaviour,
}

/// The topic that announcements are gossiped on.
pub(crate) fn topic() -> TopicHash {
    IdentTopic::new(TOPIC).hash()
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
    fn new(
        keypair: &Keypair,
        options: &Options,
    ) -> Result<Self, Box<dyn Error + Send + Sync + 'static>> {
        let allowed = options.allowed.as_ref().map(|peers| {
            let mut list = allow_block_list::Behaviour::<AllowedPeers>::default();
            for peer in peers.iter().filter_map(border::to_libp2p) {
                list.allow_peer(peer);
            }
            list
        });
        let timing = &options.timing;
        let requests = request_response::Config::default()
            .with_request_timeout(2 * timing.admission)
            .with_max_concurrent_streams(MAX_REQUESTS);
        let ping = ping::Config::new().with_interval(timing.ping).with_timeout(timing.ping);
        let identify = identify::Config::new(MESH_PROTOCOL.into(), keypair.public())
            .with_agent_version(concat!("netbuild/", env!("CARGO_PKG_VERSION")).into())
            // A stranger is not to learn where else this agent can be reached.
            .with_hide_listen_addrs(true)
            .with_cache_size(0);
        Ok(Self {
            limits: connection_limits::Behaviour::new(limits()),
            allowed: allowed.into(),
            gossip: gossip(keypair, timing)?,
            requests: request_response::Behaviour::with_codec(
                Codec,
                [(PROTOCOL, ProtocolSupport::Full)],
                requests,
            ),
            ping: ping::Behaviour::new(ping),
            identify: identify::Behaviour::new(identify),
        })
    }
}

fn limits() -> ConnectionLimits {
    let members = u32::try_from(MAX_MEMBERS).unwrap_or(u32::MAX);
    ConnectionLimits::default()
        .with_max_pending_incoming(Some(MAX_PENDING_INCOMING))
        // A peer is favoured after its connection was counted, so members take places as well.
        .with_max_established_incoming(Some(MAX_STRANGERS + MAX_PER_PEER * members))
        .with_max_established_per_peer(Some(MAX_PER_PEER))
}

fn gossip(
    keypair: &Keypair,
    timing: &Timing,
) -> Result<
    gossipsub::Behaviour<IdentityTransform, WhitelistSubscriptionFilter>,
    Box<dyn Error + Send + Sync + 'static>,
> {
    let config = gossipsub::ConfigBuilder::default()
        .heartbeat_interval(timing.heartbeat)
        .heartbeat_initial_delay(timing.heartbeat)
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        .message_id_fn(message_id)
        .max_transmit_size(MAX_TRANSMIT)
        .connection_handler_queue_len(MAX_QUEUED)
        // Every member is connected to every other, so what is said goes straight to all of them:
        // strangers on probation could take all places of a gossip mesh and keep silent.
        .flood_publish(true)
        .build()?;
    let topics = WhitelistSubscriptionFilter(HashSet::from([topic()]));
    let author = MessageAuthenticity::Signed(keypair.clone());
    let mut gossip = gossipsub::Behaviour::new_with_subscription_filter(author, config, topics)?;
    gossip.subscribe(&IdentTopic::new(TOPIC))?;
    Ok(gossip)
}

/// A message is known by its content *and* its signed origin: were it the content alone, whoever
/// sends a copy under another name first would have the true one dropped as a duplicate.
fn message_id(message: &gossipsub::Message) -> MessageId {
    let mut hasher = blake3::Hasher::new();
    if let Some(source) = &message.source {
        hasher.update(&source.to_bytes());
    }
    hasher.update(&message.sequence_number.unwrap_or(0).to_be_bytes());
    hasher.update(&message.data);
    MessageId::new(hasher.finalize().as_bytes())
}
