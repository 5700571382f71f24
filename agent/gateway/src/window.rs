//! What the HTTP door shows.

use crate::guests::Build;
use netbuild_proto::control::{ConflictRow, MonitorRow, TierRow};
use serde::Serialize;
use std::{collections::BTreeMap, fmt};

/// An agent as the HTTP door shows it. But for [`Window::is_serving`], calls may block.
pub trait Window: Send + Sync + fmt::Debug + 'static {
    /// Whether the agent serves; not any more once it stops.
    fn is_serving(&self) -> bool;

    /// Its metrics in the text format of Prometheus, those of the door with them.
    fn metrics(&self, door: &HttpCounts) -> String;

    /// All that the page shows.
    fn board(&self) -> Board;
}

/// What the door itself has done, and what it does now.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HttpCounts {
    /// Answers by path and status; paths that there are not count as `other`.
    pub requests: BTreeMap<(&'static str, u16), u64>,
    /// Connections that are open.
    pub connections: u64,
    /// Connections that there was no room for.
    pub refused: u64,
    /// Followers of the events.
    pub listeners: u64,
}

/// All that the page shows, bounded in every list. The names are those of the JSON; times, sizes and rates are
/// as in [`netbuild_proto::control`]. Texts may stem from other agents.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Board {
    /// When it was taken.
    pub at_ms: u64,
    /// Version of netbuild.
    pub version: String,
    /// Peer id of the agent.
    pub peer: String,
    /// Its region; empty when it has none.
    pub region: String,
    /// Seconds since it started.
    pub uptime_s: f64,
    /// The region that is asked first, once there is one to ask.
    pub primary: Option<String>,
    /// The regions of the mesh as this agent sees them, its own first.
    pub regions: Vec<MonitorRow>,
    /// How many more there are.
    pub regions_left_out: u64,
    /// The links between regions.
    pub links: Vec<Edge>,
    /// What builds next to the agent found.
    pub lookups: Lookups,
    /// Their hits by source.
    pub hits: Vec<HitShare>,
    /// Builds that run, and those that ended of late.
    pub builds: Vec<Build>,
    /// What is being fetched.
    pub transfers: Vec<Transfer>,
    /// How many more there are.
    pub transfers_left_out: u64,
    /// Payload bytes that came from other agents since the start, as they were sent.
    pub bytes_in: u64,
    /// Payload bytes that went to other agents, likewise.
    pub bytes_out: u64,
    /// The storage that is shared, the one that is asked first at the top.
    pub tiers: Vec<TierRow>,
    /// The data directory.
    pub store: StoreShare,
    /// How many actions have results that differ.
    pub conflicts_count: u64,
    /// Some of them, that which was last noticed first.
    pub conflicts: Vec<ConflictRow>,
    /// The last results that nobody had, the latest first.
    pub misses: Vec<MissRow>,
}

/// The best link between the agents of two regions, as far as bytes flow from one to the other.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Edge {
    /// The region that sends; empty for agents without one.
    pub from: String,
    /// The region that receives.
    pub to: String,
    /// The shortest round trip.
    pub rtt_ms: Option<f64>,
    /// The most payload bytes per second.
    pub goodput: Option<u64>,
    /// The least share of packets that get lost.
    pub loss: Option<f64>,
    /// Whether this agent measured it; else others told it.
    pub measured: bool,
}

/// What builds looked up.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Lookups {
    /// Builds since the agent started.
    pub builds: u64,
    /// Results that were found.
    pub hits: u64,
    /// Results that nobody had.
    pub misses: u64,
    /// Lookups that failed.
    pub failed: u64,
    /// Tasks that ran, and were recorded.
    pub executed: u64,
    /// Seconds that these ran.
    pub executed_s: f64,
    /// What the tasks of all hits took when they ran, less what the hits took.
    pub saved_s: f64,
}

/// Hits of one source.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct HitShare {
    /// `disk`, `peer`, `redis`, `s3` or `memory`.
    pub source: String,
    /// Region of peers; empty otherwise.
    pub region: String,
    /// How many.
    pub hits: u64,
}

/// Something that is being fetched.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Transfer {
    /// A number that stays while it lasts.
    pub id: u64,
    /// What it is about.
    pub what: String,
    /// Whether nobody waits for it.
    pub background: bool,
    /// Bytes in all.
    pub total: u64,
    /// Bytes of these that are here and verified.
    pub done: u64,
    /// Bytes that were sent so far.
    pub wire: u64,
    /// Bytes that come to be done per second.
    pub per_second: f64,
    /// Who sends now.
    pub sources: Vec<String>,
    /// How that is coded.
    pub coding: Option<String>,
    /// Seconds since it began.
    pub running_s: f64,
}

/// What takes the space of the data directory.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct StoreShare {
    /// Blobs.
    pub blobs: u64,
    /// Records.
    pub records: u64,
    /// Bytes on disk; `None` where they cannot be told.
    pub used: Option<u64>,
    /// What these may be at most.
    pub limit: Option<u64>,
    /// What is free on the file system.
    pub free: Option<u64>,
    /// Damaged things put aside since the start.
    pub quarantined: u64,
}

/// A result that nobody had, and why not.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct MissRow {
    /// When.
    pub at_ms: u64,
    /// The first digits of the action key.
    pub key: String,
    /// Name of the directory of the build that asked.
    pub workspace: String,
    /// The first output of the task, once it ran.
    pub output: Option<String>,
    /// Seconds that it ran, once it did.
    pub ran_s: Option<f64>,
    /// Why, as a sentence without a full stop.
    pub why: String,
}
