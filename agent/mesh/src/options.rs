//! What a mesh is started with.

use crate::seed::Seed;
use netbuild_core::peer::{Identity, PeerId};
use netbuild_proto::ticket::MeshKey;
use std::{
    collections::BTreeSet,
    fmt::Debug,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

/// Answers what other members ask by [`crate::Mesh::ask`].
pub trait Exchange: Send + Sync + Debug + 'static {
    /// The answer to a request of the member `from`, at most
    /// [`netbuild_proto::membership::MAX_EXCHANGE`] bytes; `None` refuses. May block: it is never
    /// called on a thread that drives the network.
    fn answer(&self, from: &PeerId, request: Vec<u8>) -> Option<Vec<u8>>;
}

/// What a mesh is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who this agent is.
    pub identity: Identity,
    /// The secret that members share.
    pub mesh_key: MeshKey,
    /// UDP address to listen on; port 0 takes any. `[::]` listens on IPv6 only.
    pub listen: SocketAddr,
    /// The host at which others reach the ports of this agent, when that is not where it listens.
    pub announce: Option<IpAddr>,
    /// The only peers that may connect; `None` for every holder of the mesh key.
    pub allowed: Option<BTreeSet<PeerId>>,
    /// The region to tell; empty for none.
    pub region: String,
    /// UDP port of this agent's data plane; 0 when it has none.
    pub data_port: u16,
    /// Members to dial until they answer.
    pub seeds: Vec<Seed>,
    /// Whether to look for members on the local network by multicast DNS. Whoever is found there has
    /// to prove itself like any other.
    pub mdns: bool,
    /// Answers what other members ask.
    pub exchange: Arc<dyn Exchange>,
    /// How long everything takes.
    pub timing: Timing,
}

/// How long everything takes. The default is for use; tests shorten it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timing {
    /// Within this, a connected peer proves that it knows the mesh key, or is cut.
    pub admission: Duration,
    /// How long an announcement waits for others to share its message.
    pub batch: Duration,
    /// How often an agent says that it is here, in a small mesh.
    pub presence: Duration,
    /// How often links are reported at most, in a small mesh.
    pub links: Duration,
    /// Pause before a peer that did not answer is dialled again; doubles each time.
    pub first_redial: Duration,
    /// Longest pause between two dials of the same peer.
    pub last_redial: Duration,
    /// How often a round trip to each connected member is measured.
    pub ping: Duration,
    /// A connection without any packet for this long is dead.
    pub idle: Duration,
    /// How long a question of [`crate::Mesh::ask`] waits for its answer.
    pub ask: Duration,
    /// How often the mesh is searched for members that nobody told of.
    pub walk: Duration,
    /// How long a peer that broke the rules stays outside.
    pub ban: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            // A handshake and two round trips, ten times over on the worst of links.
            admission: Duration::from_secs(5),
            // A build finishes tasks in bursts; a tenth of a second is nothing beside a transfer.
            batch: Duration::from_millis(100),
            presence: Duration::from_secs(30),
            links: Duration::from_secs(5),
            first_redial: Duration::from_secs(1),
            // A partition that ends is noticed within this; a dial into the void is a few packets.
            last_redial: Duration::from_secs(5),
            ping: Duration::from_secs(1),
            // A killed peer is noticed in ten seconds, and lost keep-alives are forgiven.
            idle: Duration::from_secs(8),
            // A quarter of a megabyte over a bad link, after the store has been asked.
            ask: Duration::from_secs(20),
            // A safety net: gossip tells of everybody within a minute or so.
            walk: Duration::from_secs(300),
            ban: Duration::from_secs(600),
        }
    }
}
