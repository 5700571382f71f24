//! What a mesh is started with.

use crate::seed::Seed;
use netbuild_core::{
    key::ActionKey,
    peer::{Identity, PeerId},
};
use netbuild_proto::{membership::Held, ticket::MeshKey};
use std::{collections::BTreeSet, fmt::Debug, net::SocketAddr, sync::Arc, time::Duration};

/// What the agent holds.
pub trait Catalog: Send + Sync + Debug + 'static {
    /// The records that follow `after` in the order of their keys, at most `limit`; fewer only when
    /// there are no more. May block: it is never called on a thread that drives the network.
    fn held_after(&self, after: Option<&ActionKey>, limit: usize) -> Vec<Held>;
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
    /// The only peers that may connect; `None` for every holder of the mesh key.
    pub allowed: Option<BTreeSet<PeerId>>,
    /// The region to tell; empty for none.
    pub region: String,
    /// UDP port of this agent's data plane; 0 when it has none.
    pub data_port: u16,
    /// Members to dial until they answer.
    pub seeds: Vec<Seed>,
    /// What this agent holds. A record must be in it before it is announced.
    pub catalog: Arc<dyn Catalog>,
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
    /// How often an agent says that it is here.
    pub presence: Duration,
    /// How often everything that a member holds is asked for again.
    pub catch_up: Duration,
    /// How long after a failed catch-up the next begins.
    pub catch_up_retry: Duration,
    /// Pause before a peer that did not answer is dialled again; doubles each time.
    pub first_redial: Duration,
    /// Longest pause between two dials of the same peer.
    pub last_redial: Duration,
    /// How often a round trip to each member is measured.
    pub ping: Duration,
    /// A connection without any packet for this long is dead.
    pub idle: Duration,
    /// How often gossip repairs itself.
    pub heartbeat: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            // A handshake and two round trips, ten times over on the worst of links.
            admission: Duration::from_secs(5),
            // A build finishes tasks in bursts; a tenth of a second is nothing beside a transfer.
            batch: Duration::from_millis(100),
            presence: Duration::from_secs(30),
            // A safety net only: some 45 bytes for every record of every member.
            catch_up: Duration::from_secs(300),
            catch_up_retry: Duration::from_secs(2),
            first_redial: Duration::from_secs(1),
            last_redial: Duration::from_secs(30),
            ping: Duration::from_secs(5),
            // A killed peer is noticed in ten seconds, and two lost keep-alives are forgiven.
            idle: Duration::from_secs(8),
            heartbeat: Duration::from_secs(1),
        }
    }
}
