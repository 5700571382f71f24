//! The state of a process and of the agents that it knows.

use bincode::{Decode, Encode};
use serde::Serialize;
use std::fmt;

/// Whether another agent, or a region, is asked at present.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Encode, Decode, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerState {
    /// It is asked.
    #[default]
    Ok,
    /// It failed too often and is left alone for a while: its circuit is open.
    Open,
    /// It was left alone for long enough, and one request tries whether it is back.
    HalfOpen,
    /// It is known, and cannot be reached.
    Away,
}

impl PeerState {
    /// The name that is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
            Self::Away => "away",
        }
    }
}

impl fmt::Display for PeerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The state of the process that owns a data directory.
#[derive(Clone, PartialEq, Debug, Default, Encode, Decode)]
pub struct Status {
    /// `agent` or `run`.
    pub role: String,
    /// Process id.
    pub pid: u32,
    /// Version of netbuild.
    pub version: String,
    /// Seconds since the process started.
    pub uptime_s: f64,
    /// Region; empty when it has none.
    pub region: String,
    /// How the region was found out, such as `configured`; empty without an agent.
    pub region_source: String,
    /// The region that measurements suggest, once they suggest one.
    pub detected_region: Option<String>,
    /// The region that is asked first, once there is one to ask.
    pub primary: Option<String>,
    /// Regions that are asked, best first.
    pub order: Vec<String>,
    /// Peer id in text form.
    pub peer: String,
    /// Multiaddresses of the mesh port; empty without a mesh.
    pub mesh_addresses: Vec<String>,
    /// UDP address of the data plane; empty without a mesh.
    pub data_address: String,
    /// The join ticket; empty without a mesh.
    pub ticket: String,
    /// URL of the page of the agent; `None` when it has none.
    pub page: Option<String>,
    /// Members of the mesh that this agent knows.
    pub members: Vec<Member>,
    /// The storage that it shares with others, the one that is asked first at the top.
    pub tiers: Vec<TierRow>,
    /// What is stored.
    pub store: StoreStatus,
    /// Named counters, sorted by name.
    pub counters: Vec<(String, u64)>,
}

/// Another agent as seen from here.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Member {
    /// Peer id in text form.
    pub peer: String,
    /// Region; empty when it has none.
    pub region: String,
    /// Addresses of its data plane.
    pub addresses: Vec<String>,
    /// Whether there is a connection of the mesh to it; if not, it is known by gossip.
    pub connected: bool,
    /// Whether it is asked at present.
    pub state: PeerState,
    /// Why it is not asked at present, if so.
    pub resting: Option<String>,
    /// Smoothed round-trip time in microseconds, once measured.
    pub rtt_us: Option<u64>,
    /// Requests of ours under way to it.
    pub queue: u32,
    /// Records that it announced.
    pub records: u64,
}

/// A tier as seen from here.
#[derive(Clone, PartialEq, Debug, Default, Encode, Decode, Serialize)]
pub struct TierRow {
    /// Where it is, such as `s3://bucket/prefix`.
    pub name: String,
    /// `redis` or `s3`.
    pub kind: String,
    /// How it is written: `write-back`, `write-through` or `read-only`.
    pub policy: String,
    /// Whether it is asked at present.
    pub state: PeerState,
    /// Why it is not asked at present, if so.
    pub resting: Option<String>,
    /// Round-trip time of small requests in milliseconds, once measured.
    pub rtt_ms: Option<f64>,
    /// Bytes per second of large answers, once measured.
    pub goodput: Option<u64>,
    /// Requests of this agent under way to it.
    pub queue: u32,
    /// Results that it does not have yet.
    pub waiting: u64,
    /// Bytes of their blobs.
    pub waiting_bytes: u64,
    /// Why they wait: what the last failure was; empty when nothing is in the way.
    pub why: String,
    /// Seconds until they are tried again, after a failure.
    pub tried_in_s: Option<f64>,
    /// Results that this process has copied to it.
    pub sent: u64,
    /// Results that it will not get: they could not be sent, or too many waited.
    pub left_out: u64,
    /// Blobs that it gave and that were wrong.
    pub wrong: u64,
    /// Seconds since all its records were known here.
    pub compared_s: Option<f64>,
    /// Requests that this process made of it.
    pub requests: u64,
    /// Bytes of content that were sent to it.
    pub bytes_sent: u64,
    /// Bytes of content that came from it.
    pub bytes_received: u64,
}

/// What a store holds.
#[derive(Clone, PartialEq, Debug, Default, Encode, Decode)]
pub struct StoreStatus {
    /// Blobs.
    pub blobs: u64,
    /// Bytes of these blobs.
    pub blob_bytes: u64,
    /// Records.
    pub records: u64,
    /// Damaged things put aside since the process started.
    pub quarantined: u64,
    /// What reading through the store in the background came to; `None` when that is off.
    pub scrub: Option<ScrubStatus>,
}

/// How far reading through the store in the background is, and what it found.
#[derive(Clone, PartialEq, Debug, Default, Encode, Decode, Serialize)]
pub struct ScrubStatus {
    /// When the pass under way began, in milliseconds since 1970; `None` between two passes.
    pub began_ms: Option<u64>,
    /// How much of all bytes the pass under way has read, from 0 to 1.
    pub done: f64,
    /// When the last whole pass ended, in milliseconds since 1970; `None` before the first.
    pub last_ms: Option<u64>,
    /// Bytes that the last whole pass read.
    pub last_bytes: u64,
    /// Things that the last whole pass found damaged or missing.
    pub last_found: u64,
    /// Of these, how many others had and are here again.
    pub last_healed: u64,
}
