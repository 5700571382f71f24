//! What is known of a machine, without any opinion.

use crate::record::Sandbox;
use std::{net::SocketAddr, time::Duration};

/// What came of looking at something.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Look<T> {
    /// There is nothing to look at.
    #[default]
    Nothing,
    /// It did not answer within this time.
    Late(Duration),
    /// It is like this.
    Seen(T),
}

impl<T> Look<Option<T>> {
    /// Without the option: there was nothing to look at.
    pub fn flatten(self) -> Look<T> {
        match self {
            Self::Seen(Some(found)) => Look::Seen(found),
            Self::Seen(None) | Self::Nothing => Look::Nothing,
            Self::Late(limit) => Look::Late(limit),
        }
    }
}

/// All that was looked at.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Facts {
    /// The configuration.
    pub configuration: Configuration,
    /// The data directory.
    pub directory: Look<Directory>,
    /// Who owns it at present.
    pub owner: Look<Owner>,
    /// The addresses of the agent that runs, or of the one that would.
    pub ports: Look<Vec<Port>>,
    /// The member to join.
    pub invitation: Look<Invitation>,
    /// The storage that is shared, by name.
    pub tiers: Vec<(String, Look<Tier>)>,
    /// The clock.
    pub clock: Look<Clock>,
    /// Buffers of UDP sockets.
    pub buffers: Look<Buffers>,
    /// What the system lets a process have.
    pub limits: Look<Limits>,
    /// Levels of hermeticity.
    pub levels: Look<Levels>,
}

/// The configuration.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Configuration {
    /// The file, if there is one.
    pub file: Option<String>,
    /// Why it cannot be used.
    pub error: Option<String>,
}

/// Whether something is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum State {
    /// It is.
    There,
    /// It is not, and can be made.
    Missing,
    /// It cannot be used, for this reason.
    Unusable(String),
}

/// The data directory.
#[derive(Clone, PartialEq, Debug)]
pub struct Directory {
    /// Its path.
    pub path: String,
    /// Whether it is there.
    pub state: State,
    /// Whose it is, and the bits of its mode; of one that is missing, nobody's.
    pub place: Option<Place>,
    /// The user that looks.
    pub user: u32,
    /// Why nothing can be written to it, or to where it would be made.
    pub refuses: Option<String>,
    /// The file system, of the nearest directory above it that is there.
    pub file_system: Option<FileSystem>,
    /// What a small file took to be written so that it survives a loss of power.
    pub fsync: Option<Duration>,
    /// Whether files may share their blocks.
    pub reflink: Option<bool>,
    /// Bytes that the directory may take.
    pub max_bytes: u64,
    /// Bytes that stay free for others.
    pub min_free: u64,
    /// Bytes that it takes, where somebody who knows was asked.
    pub used: Option<u64>,
}

/// Whose a directory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its owner.
    pub owner: u32,
    /// Permissions.
    pub mode: u32,
}

/// A file system.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileSystem {
    /// Its kind, such as `ext4`; empty where that is not known.
    pub kind: String,
    /// Bytes in all.
    pub capacity: u64,
    /// Bytes that are free for this user.
    pub free: u64,
    /// Files that can still be made; `None` where there is no limit.
    pub files: Option<u64>,
}

/// Who owns a data directory.
#[derive(Clone, PartialEq, Debug)]
pub enum Owner {
    /// Nobody.
    Nobody,
    /// A process of netbuild that answers.
    Answers(Known),
    /// A process that speaks another version of the control protocol.
    Version(u32),
    /// A process of another user.
    Stranger(u32),
    /// A process that holds the lock and serves nothing.
    Silent(String),
    /// It could not be asked.
    Failed(String),
}

/// A process of netbuild.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Known {
    /// Whether it is an agent, and not a command that owns the directory for a moment.
    pub is_agent: bool,
    /// Process id.
    pub pid: u32,
    /// Its version, and that of who asks.
    pub versions: [String; 2],
    /// Its region; empty for none.
    pub region: String,
    /// Other agents that it knows.
    pub members: Vec<Member>,
    /// Handshakes that others were refused, as they had not the mesh key or are not in `mesh.peers`.
    pub refused: u64,
    /// Times that this agent was refused so by others.
    pub refused_by_others: u64,
}

/// Another agent.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Member {
    /// The end of its peer id.
    pub name: String,
    /// Its region; empty for none.
    pub region: String,
    /// Whether it is asked at present.
    pub is_asked: bool,
    /// Why not, or what it is waited for.
    pub resting: Option<String>,
    /// Round-trip time, once measured.
    pub rtt: Option<Duration>,
    /// Since when nothing was measured of it.
    pub heard: Option<Duration>,
}

/// The role of the address where an agent is watched by HTTP.
pub const PAGE: &str = "page";

/// An address of an agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// `mesh` or `data`, which are UDP, or [`PAGE`].
    pub role: &'static str,
    /// The address.
    pub address: SocketAddr,
    /// What is with it.
    pub state: PortState,
}

/// What is with an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PortState {
    /// An agent could take it.
    Free,
    /// It cannot be had, for this reason.
    Refused(String),
    /// Our agent has it.
    Ours(Reached),
}

/// What came of a handshake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reached {
    /// It was the right one, after this time.
    Yes(Duration),
    /// It failed, for this reason.
    No(String),
}

/// The member that a ticket or an address names.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Invitation {
    /// Whether the data directory has the key of another mesh.
    pub other_mesh: bool,
    /// Whether no mesh key is known at all: an address alone does not have it.
    pub no_key: bool,
    /// Its addresses.
    pub addresses: Vec<(SocketAddr, Reached)>,
}

/// Storage that is shared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tier {
    /// Whether it is a bucket, whose requests are signed with the time.
    pub is_bucket: bool,
    /// Whether it is to be written.
    pub writes: bool,
    /// How it answered.
    pub state: TierState,
    /// Seconds by which its clock is ahead of this one.
    pub ahead_s: Option<i64>,
}

/// How a tier answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TierState {
    /// It takes and gives; a small request took this time.
    Works(Duration),
    /// It gives, and does not take.
    ReadOnly(Trouble),
    /// It cannot be used.
    Fails(Trouble),
}

/// Why a tier does not do what it is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trouble {
    /// It is there, and does not let this machine in.
    pub refused: bool,
    /// It has no room.
    pub full: bool,
    /// What it said.
    pub says: String,
}

/// The clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clock {
    /// Milliseconds since 1970 by this machine.
    pub wall_ms: u64,
    /// Records of others that came to the agent, stamped more than a minute ahead of it.
    pub records_ahead: u64,
}

/// What a UDP socket got of what it asked for, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Buffers {
    /// Asked for, each way.
    pub wanted: u64,
    /// Got for what comes.
    pub receive: u64,
    /// Got for what goes.
    pub send: u64,
}

/// What the system lets a process have.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// Files that this process may have open.
    pub files: Descriptors,
    /// Files that the agent may have open.
    pub agent_files: Option<Descriptors>,
    /// Directories that this user may watch; `None` where the system does not say.
    pub watches: Option<u64>,
    /// Why nothing can be watched at all.
    pub no_watch: Option<String>,
    /// The control group.
    pub cgroup: Cgroup,
}

/// Open files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Descriptors {
    /// The limit in force; `None` for none.
    pub soft: Option<u64>,
    /// Up to which the process may raise it itself.
    pub hard: Option<u64>,
}

/// Limits of the control group; `None` where there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cgroup {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Processes.
    pub processes: Option<u64>,
}

/// Levels of hermeticity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Levels {
    /// Levels that were tried, and why one cannot be had.
    pub tried: Vec<(Sandbox, Option<String>)>,
    /// The version of Landlock that the kernel has; 0 for none.
    pub landlock: u32,
    /// The level from which on others hear of a result.
    pub publish_from: Sandbox,
    /// The level from which on a result is taken.
    pub accept_from: Sandbox,
}
