//! What an agent knows of the mesh, as tables.
//!
//! The same names are the fields of what `--json` prints: seconds and milliseconds are numbers with
//! a fraction, sizes are bytes, rates are bytes per second, and times of the day are milliseconds
//! since 1970 by the clock of the agent. Texts may stem from other agents; whoever shows them on a
//! terminal must take control characters out.

use super::PeerState;
use crate::codec;
use bincode::{Decode, Encode};
use serde::Serialize;

/// Most encoded bytes of the rows in one answer: some 5,000 links, of which each takes about 200,
/// and little enough to be sent in one frame.
const MAX_ROWS_BYTES: usize = 1024 * 1024;

/// Rows of a table, as many as fit into an answer.
#[derive(Clone, PartialEq, Debug, Encode, Decode, Serialize)]
pub struct Rows<T> {
    /// The first rows.
    pub rows: Vec<T>,
    /// How many more there are.
    pub left_out: u64,
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), left_out: 0 }
    }
}

impl<T: Encode> Rows<T> {
    /// Keeps of `rows` the first ones, up to a megabyte.
    pub fn fitting(mut rows: Vec<T>) -> Self {
        let mut room = MAX_ROWS_BYTES;
        let fits = |row: &T| match room.checked_sub(codec::encode(row).len()) {
            Some(left) => {
                room = left;
                true
            }
            None => false,
        };
        let kept = rows.iter().map(fits).take_while(|fits| *fits).count();
        let left_out = (rows.len() - kept) as u64;
        rows.truncate(kept);
        Self { rows, left_out }
    }
}

/// Who measured a link.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Encode, Decode, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkSource {
    /// The agent that answers.
    Measured,
    /// The agent at one end of the link, which told it.
    Gossip,
}

/// A link between two agents: what is known of moving bytes from `from` to `to`.
#[derive(Clone, PartialEq, Debug, Encode, Decode, Serialize)]
pub struct LinkRow {
    /// Peer id of the agent that sends.
    pub from: String,
    /// Its region; empty when it has none.
    pub from_region: String,
    /// Peer id of the agent that receives.
    pub to: String,
    /// Its region; empty when it has none.
    pub to_region: String,
    /// Smoothed round-trip time, once measured.
    pub rtt_ms: Option<f64>,
    /// How much the round-trip time varies, once measured.
    pub jitter_ms: Option<f64>,
    /// Share of the packets that get lost, 0 to 1, once measured.
    pub loss: Option<f64>,
    /// Payload bytes per second, once measured.
    pub goodput: Option<u64>,
    /// Seconds since the last of these measurements.
    pub age_s: f64,
    /// Who measured it.
    pub source: LinkSource,
    /// Seconds that an artifact of the reference size is expected to take, if that can be told.
    pub score_s: Option<f64>,
}

/// How an agent would get a blob now, if it were asked.
#[derive(Clone, PartialEq, Debug, Encode, Decode, Serialize)]
pub struct PlanReport {
    /// The digest.
    pub what: String,
    /// Bytes.
    pub size: u64,
    /// Seconds that it took to build, where a record says so.
    pub build_s: Option<f64>,
    /// The sources, in the order in which they would be tried.
    pub steps: Vec<PlanStep>,
}

/// One source of a plan.
#[derive(Clone, PartialEq, Debug, Default, Encode, Decode, Serialize)]
pub struct PlanStep {
    /// `disk`, `build`, or `peer` with its short id and region.
    pub source: String,
    /// Region of a peer; empty otherwise.
    pub region: String,
    /// Seconds that the transfer or the build is expected to take.
    pub predicted_s: Option<f64>,
    /// What the sources are ordered by, in seconds: the prediction with its uncertainty.
    pub score_s: Option<f64>,
    /// Round-trip time to a peer.
    pub rtt_ms: Option<f64>,
    /// Payload bytes per second from a peer.
    pub goodput: Option<u64>,
    /// Share of the packets that get lost on the way, 0 to 1.
    pub loss: Option<f64>,
    /// Whether a peer is asked at present; `None` for the disk and a build.
    pub state: Option<PeerState>,
    /// Why it stands at this place, as a sentence without a full stop.
    pub reason: String,
    /// Whether it has the blob, as far as this agent knows.
    pub holds: Option<bool>,
}

/// A decision where to get something from, and what came of it.
#[derive(Clone, PartialEq, Debug, Default, Encode, Decode, Serialize)]
pub struct Decision {
    /// When it was made.
    pub at_ms: u64,
    /// What was wanted: a digest or an action key, and the task where it is known.
    pub what: String,
    /// Bytes; 0 where they are not known.
    pub size: u64,
    /// Seconds that it took to build, where a record says so.
    pub build_s: Option<f64>,
    /// The sources that were asked, in this order, and those that were passed over.
    pub attempts: Vec<Attempt>,
    /// How it ended.
    pub outcome: String,
}

/// One source that a decision considered.
#[derive(Clone, PartialEq, Debug, Default, Encode, Decode, Serialize)]
pub struct Attempt {
    /// `disk`, `build`, or `peer` with its short id and region.
    pub source: String,
    /// Region of a peer; empty otherwise.
    pub region: String,
    /// Why it was asked at this place, or not asked.
    pub reason: String,
    /// Seconds that it was expected to take.
    pub predicted_s: Option<f64>,
    /// When it was asked, in milliseconds since 1970 by this agent's clock; 0 when it was not.
    pub began_ms: u64,
    /// Seconds that it took.
    pub actual_s: Option<f64>,
    /// Payload bytes that came from there.
    pub bytes: u64,
    /// `fetched`, `missing`, `failed: ` and why, `late` or `cancelled`.
    pub outcome: String,
}

/// An action for which agents recorded results that differ.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize)]
pub struct ConflictRow {
    /// The action key.
    pub key: String,
    /// Name of the task, where a record says it; empty otherwise.
    pub task_hint: String,
    /// The result that every agent serves.
    pub kept: Version,
    /// The others.
    pub others: Vec<Version>,
}

/// One result of an action.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode, Serialize)]
pub struct Version {
    /// Peer id of the agent that recorded it.
    pub writer: String,
    /// Region of that agent; empty when it has none.
    pub region: String,
    /// When it was recorded, by the hybrid logical clock of the mesh.
    pub hlc_ms: u64,
    /// How far its writer is trusted.
    pub trust: String,
    /// Exit code of the command.
    pub exit_code: i32,
    /// The outputs, sorted by path.
    pub outputs: Vec<Output>,
}

/// An output of an action.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize)]
pub struct Output {
    /// Path in the workspace.
    pub path: String,
    /// Digest of the file or of the listing.
    pub digest: String,
}

/// The mesh at one moment, by region, as an agent sees it.
#[derive(Clone, PartialEq, Debug, Default, Encode, Decode, Serialize)]
pub struct MonitorSnapshot {
    /// When it was taken.
    pub at_ms: u64,
    /// Region of the agent; empty when it has none.
    pub region: String,
    /// The region that is asked first, once there is one to ask.
    pub primary: Option<String>,
    /// One row for each region.
    pub rows: Vec<MonitorRow>,
    /// Records of the agent.
    pub records: u64,
    /// Actions with results that differ.
    pub conflicts: u64,
}

/// A region, as an agent sees it.
#[derive(Clone, PartialEq, Debug, Default, Encode, Decode, Serialize)]
pub struct MonitorRow {
    /// Its name; empty for the agents that have none.
    pub region: String,
    /// Its agents, as far as known.
    pub agents: u32,
    /// Round-trip time to the nearest of them.
    pub rtt_ms: Option<f64>,
    /// Payload bytes per second from the best of them.
    pub goodput: Option<u64>,
    /// Share of the packets that get lost on the way, 0 to 1.
    pub loss: Option<f64>,
    /// Share of the requests to it that were hits, 0 to 1, once there were any.
    pub hit_rate: Option<f64>,
    /// Hits that came from there.
    pub hits: u64,
    /// Payload bytes that came from there.
    pub bytes_in: u64,
    /// Payload bytes that went there.
    pub bytes_out: u64,
    /// Requests of ours under way to it.
    pub queue: u32,
    /// The best state of its agents.
    pub state: PeerState,
    /// Its place in the order in which regions are asked: 1 is the primary.
    pub order: Option<u32>,
    /// Whether it is the region of the agent itself.
    pub this: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_rows_as_fit_are_kept_and_the_others_counted() {
        let few = vec![MonitorRow::default(); 3];
        assert_eq!(Rows::fitting(few.clone()), Rows { rows: few, left_out: 0 });

        let row = |index| Decision { at_ms: index, what: "x".repeat(1000), ..Decision::default() };
        let many = Rows::fitting((0..2000).map(row).collect());
        assert_eq!(many.rows.len() as u64 + many.left_out, 2000);
        assert!(many.left_out > 0 && many.rows.len() > 1000);
        assert_eq!(many.rows.first(), Some(&row(0)));
        assert!(codec::encode(&many).len() <= MAX_ROWS_BYTES + 32);
    }
}
