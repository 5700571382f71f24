//! Copying between regions on somebody's order. The names are those of what `--json` prints, as in
//! [`Rows`](super::Rows) and the like.

use bincode::{Decode, Encode};
use serde::Serialize;

/// What `netbuild sync` asks for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct SyncOrder {
    /// The region to copy from; all of them when there is none.
    pub from: Option<String>,
    /// The region to copy to; that of the agent when there is none.
    pub to: Option<String>,
    /// To every region, from every other.
    pub all: bool,
    /// Only count what would be copied.
    pub dry_run: bool,
    /// Also read what is there already, and copy again what is damaged.
    pub force: bool,
}

/// How far a sync is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode, Serialize)]
pub struct SyncProgress {
    /// What it does now, such as `comparing` or `copying`, with the regions.
    pub phase: String,
    /// Artifacts that are done.
    pub artifacts_done: u64,
    /// Artifacts in all, as far as known.
    pub artifacts_total: u64,
    /// Bytes of these artifacts that are done.
    pub bytes_done: u64,
    /// Bytes in all, as far as known.
    pub bytes_total: u64,
}

/// What a sync did.
#[derive(Clone, PartialEq, Debug, Default, Encode, Decode, Serialize)]
pub struct SyncReport {
    /// From each region to each.
    pub pairs: Vec<SyncPair>,
    /// Artifacts copied.
    pub artifacts: u64,
    /// Bytes of these artifacts.
    pub bytes_logical: u64,
    /// Payload bytes that were sent for them: less, as chunks that were there are not sent again.
    pub bytes_on_wire: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// Conflicts that came to light.
    pub conflicts: u64,
    /// Whether nothing was copied, only counted.
    pub dry_run: bool,
}

/// What a sync did between two regions.
#[derive(Clone, PartialEq, Debug, Default, Encode, Decode, Serialize)]
pub struct SyncPair {
    /// The region copied from.
    pub from: String,
    /// The region copied to.
    pub to: String,
    /// Artifacts copied.
    pub artifacts: u64,
    /// Bytes of these artifacts.
    pub bytes_logical: u64,
    /// Payload bytes that were sent for them.
    pub bytes_on_wire: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// Why it did not come to its end, if so.
    pub error: Option<String>,
}
