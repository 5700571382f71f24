//! Results of actions, and the record that says who got them, when and at what cost.

use crate::{
    digest::{Digest, Hash},
    hlc::Hlc,
    key::ActionKey,
    peer::PeerId,
};

/// Most outputs that a record names one by one; more go into listings, so that a record stays
/// small enough to travel at once.
pub const MAX_OUTPUTS: usize = 256;

/// What a task left at one declared place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OutputKind {
    /// A regular file.
    File {
        /// Its content.
        digest: Digest,
        /// Whether the owner may execute it.
        executable: bool,
    },
    /// A symbolic link, whose target stays in the workspace.
    Symlink {
        /// The target's bytes.
        target: Vec<u8>,
    },
    /// A directory, exactly: what its listing does not name is removed on restore.
    Tree {
        /// The listing: a blob of entries with paths relative to the directory.
        listing: Digest,
    },
    /// Files that a pattern matched, too many to be named here.
    Files {
        /// The listing: a blob of entries with paths relative to the workspace.
        listing: Digest,
    },
    /// An optional output that the task did not make.
    Absent,
}

/// One output with its path: bytes with `/` between names, relative to the workspace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Output {
    /// Where it stands.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: OutputKind,
}

impl Output {
    /// The blob that this record names for the output: a file's content or a listing.
    pub fn blob(&self) -> Option<Digest> {
        match &self.kind {
            OutputKind::File { digest, .. } => Some(*digest),
            OutputKind::Tree { listing } | OutputKind::Files { listing } => Some(*listing),
            OutputKind::Symlink { .. } | OutputKind::Absent => None,
        }
    }

    /// The listing that names the files of the output, when it has one.
    pub fn listing(&self) -> Option<Digest> {
        match self.kind {
            OutputKind::Tree { listing } | OutputKind::Files { listing } => Some(listing),
            OutputKind::File { .. } | OutputKind::Symlink { .. } | OutputKind::Absent => None,
        }
    }
}

/// Outputs and exit of an action.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ActionResult {
    /// Exit code of the command.
    pub exit_code: i32,
    /// What it left, sorted by path.
    pub outputs: Vec<Output>,
    /// What it printed: a blob of log frames. `None` when it printed nothing.
    pub log: Option<Digest>,
}

/// How closed the environment of a command is, from open to closed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Sandbox {
    /// The caller's environment, in the workspace.
    Loose,
    /// Clean environment, null stdin, own session; drift and output checks.
    #[default]
    Env,
    /// The same, and every file that is read or written is recorded.
    Audit,
    /// In a directory with copies of the declared inputs, from which declared outputs are taken.
    Stage,
    /// The same, and the kernel refuses all files but these, system directories and temporary ones.
    Landlock,
    /// The same directory at a fixed path, in namespaces of its own: nothing else can be written, the rest of
    /// the workspace, other processes and the network are not there.
    Ns,
}

impl Sandbox {
    /// All levels, from open to closed.
    pub const ALL: [Self; 6] =
        [Self::Loose, Self::Env, Self::Audit, Self::Stage, Self::Landlock, Self::Ns];

    /// The word in `graph.json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loose => "loose",
            Self::Env => "env",
            Self::Audit => "audit",
            Self::Stage => "stage",
            Self::Landlock => "landlock",
            Self::Ns => "ns",
        }
    }

    /// The level of a word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.as_str() == word)
    }

    /// The next level that may stand for this one where the system does not have it. What is left has to be
    /// there on every system.
    pub fn fallback(self) -> Option<Self> {
        match self {
            Self::Ns => Some(Self::Landlock),
            Self::Landlock => Some(Self::Stage),
            Self::Audit => Some(Self::Env),
            Self::Loose | Self::Env | Self::Stage => None,
        }
    }

    /// Whether commands run in a directory of their own with copies of the declared inputs.
    pub fn is_staged(self) -> bool {
        self >= Self::Stage
    }

    /// Whether commands reach the network where the graph does not say.
    pub fn has_network(self) -> bool {
        self < Self::Landlock
    }
}

/// How a result came about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Execution {
    /// Wall time of the command in milliseconds.
    pub duration_ms: u64,
    /// When it ended, in milliseconds since the Unix epoch, by the writer's clock.
    pub finished_at_ms: u64,
    /// Level of hermeticity that was asked for.
    pub sandbox_asked: Sandbox,
    /// Level that was obtained.
    pub sandbox_obtained: Sandbox,
    /// Names of the tools that were keyed.
    pub tools: Vec<String>,
    /// Version of netbuild that ran it.
    pub netbuild_version: String,
    /// Whether it took a retry.
    pub flaky: bool,
    /// Whether every input was found unchanged after the command ended.
    pub drift_checked: bool,
    /// Hash of the workspace path when an output contains that path: the result is then good in
    /// that workspace only.
    pub bound_to: Option<Hash>,
    /// Whether the graph says that the result stays with this agent.
    pub local: bool,
}

impl Execution {
    /// Whether other agents may hear of the result.
    pub fn is_shared(&self) -> bool {
        !self.local && self.bound_to.is_none()
    }
}

/// An action result with its provenance; the only mutable value in the mesh, keyed by `key`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// The action.
    pub key: ActionKey,
    /// Its result.
    pub result: ActionResult,
    /// How it came about.
    pub execution: Execution,
    /// Who wrote it, and signed it.
    pub writer: PeerId,
    /// The writer's region; empty when it has none.
    pub region: String,
    /// When it was written, in mesh time.
    pub hlc: Hlc,
}

impl Record {
    /// The blobs that the record itself names. Listings name more.
    pub fn blobs(&self) -> impl Iterator<Item = Digest> + '_ {
        self.result.outputs.iter().filter_map(Output::blob).chain(self.result.log)
    }

    /// Those of them that are listings.
    pub fn listings(&self) -> impl Iterator<Item = Digest> + '_ {
        self.result.outputs.iter().filter_map(Output::listing)
    }
}
