//! What is said through the control socket: one line of JSON each way.

use netbuild_core::wan::Shape;
use serde::{Deserialize, Serialize};

/// Longest request, in bytes. Names are short.
pub(crate) const MAX_REQUEST: u64 = 4 * 1024;
/// Longest answer, in bytes: 240 directions of links at less than 600 bytes.
pub(crate) const MAX_RESPONSE: u64 = 256 * 1024;

/// What is asked of a running emulator.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Give links another profile.
    Set {
        /// `all`, `SITE` or `A:B`.
        target: String,
        /// The name of the profile.
        profile: String,
    },
    /// Give links back the profile that they began with.
    Reset {
        /// `all`, `SITE` or `A:B`.
        target: String,
    },
    /// Tell the state.
    Status,
}

/// What the emulator answers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "snake_case")]
pub enum Response {
    /// So many links have changed.
    Changed {
        /// How many, counting both directions as one.
        links: usize,
    },
    /// The state.
    Status(Status),
    /// It cannot be done.
    Error {
        /// Why.
        message: String,
    },
}

/// The state of an emulator.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// Whether it routes in the namespace that it was started in.
    pub router: bool,
    /// Whether the kernel runs it before all ordinary processes; if not, delays grow when the
    /// machine is busy.
    pub realtime: bool,
    /// The sites.
    pub sites: Vec<SiteStatus>,
    /// Both directions of every link.
    pub links: Vec<LinkStatus>,
    /// Packets between no two sites, or not of IPv4.
    pub unroutable: u64,
    /// Packets that the kernel did not take at their end.
    pub undelivered: u64,
}

/// A site.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SiteStatus {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub prefix: String,
    /// The address of its namespace; none for a router.
    pub address: Option<String>,
    /// Its network namespace; none for a router.
    pub namespace: Option<String>,
}

/// One direction of a link.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
pub struct LinkStatus {
    /// What `set` calls it: `A:B`.
    pub link: String,
    /// Where the packets come from.
    pub from: String,
    /// Where they go.
    pub to: String,
    /// The name of its profile.
    pub profile: String,
    /// Whether nothing passes.
    pub cut: bool,
    /// Delay of this direction at the moment, in milliseconds.
    pub delay_ms: f64,
    /// Rate at the moment, in Mbit/s.
    pub rate_mbit: f64,
    /// Part of the packets that are lost at random, 0 to 1.
    pub loss: f64,
    /// Bytes that may wait.
    pub queue_bytes: u64,
    /// Bytes that wait now.
    pub queued_bytes: u64,
    /// Packets that wait or are on their way.
    pub held: usize,
    /// Packets that arrived.
    pub passed: u64,
    /// Bytes of those.
    pub passed_bytes: u64,
    /// Packets dropped because the queue was full.
    pub dropped_queue: u64,
    /// Packets lost at random.
    pub dropped_loss: u64,
    /// Packets dropped because nothing passes.
    pub dropped_cut: u64,
}

impl From<&Shape> for LinkStatus {
    /// What a shape says; the rest is nothing yet.
    fn from(shape: &Shape) -> Self {
        Self {
            cut: shape.is_cut(),
            delay_ms: shape.delay_us as f64 / 1e3,
            rate_mbit: shape.rate_bits as f64 / 1e6,
            loss: f64::from(shape.loss_ppm) / 1e6,
            queue_bytes: shape.queue_bytes,
            ..Self::default()
        }
    }
}
