//! What a workspace remembers between runs: digests of files as long as their stamps hold, what each task left
//! last, and what a run looked at that found nothing to do. Losing it costs time and nothing else.

use crate::{
    codec::{self, DecodeError},
    listing::EntryV1,
    record::{DigestV1, OutputV1, SandboxV1, output_from_wire, output_to_wire},
};
use bincode::{Decode, Encode};
use netbuild_core::{
    digest::{Digest, Hash},
    key::ActionKey,
    record::{Output, Sandbox},
    tree::Entry,
};
use std::sync::Arc;

/// First bytes of the files; the numbers are those of the formats.
const STATE: &[u8; 16] = b"netbuild state 5";
const WITNESS: &[u8; 16] = b"netbuild witns 1";
/// Most bytes of the file: some millions of files.
const MAX_STATE: usize = 1 << 30;

/// What tells one version of a file from another without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Encode, Decode)]
pub struct Stamp {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Time of the last change of content, nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
    /// Time of the last change of content or metadata; cannot be set by a user.
    pub ctime_ns: i64,
    /// Type and permissions.
    pub mode: u32,
    /// Number of hard links.
    pub nlink: u64,
}

/// The digest of a file at a stamp.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileState {
    /// The stamp.
    pub stamp: Stamp,
    /// When the file was read, nanoseconds since the Unix epoch.
    pub hashed_at_ns: i64,
    /// What was read.
    pub digest: Digest,
}

/// What a task left when it succeeded last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TaskState {
    /// Its action.
    pub key: ActionKey,
    /// The cache that has the result.
    pub cache: Hash,
    /// How long the command took, in milliseconds, wherever it ran.
    pub duration_ms: u64,
    /// The level of hermeticity that the task asked for.
    pub sandbox_asked: Sandbox,
    /// The one that it obtained.
    pub sandbox_obtained: Sandbox,
    /// Its outputs.
    pub outputs: Vec<Output>,
    /// Every file, link and directory of its outputs, with paths relative to the workspace.
    pub entries: Arc<Vec<(Vec<u8>, Entry)>>,
    /// Inputs that its command named in its dep file, as paths relative to the workspace.
    pub discovered: Vec<Vec<u8>>,
}

/// What was found at a path.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Encode, Decode)]
pub enum Look {
    /// Nothing.
    Absent,
    /// This, links not followed. Of a directory no size, times and links: only that it is one.
    There(Stamp),
    /// A directory with some names in it, links followed: with its times, which change when its names do.
    Listed(Stamp),
    /// The path that it really is, if it is one.
    Leads(Option<Vec<u8>>),
}

/// All that a run looked at which found nothing to do: as long as it stands, another one finds nothing, too.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Witness {
    /// What the run was asked.
    pub question: [u8; 32],
    /// Names of variables that count, those with a `*` at their ends as prefixes.
    pub variables: Vec<String>,
    /// Likewise, of variables of which only the names count.
    pub secret_variables: Vec<String>,
    /// What the run saw of these variables.
    pub environment: [u8; 32],
    /// What was said of the graph.
    pub said: Vec<String>,
    /// Tasks that were up to date.
    pub tasks: u64,
    /// What their commands took when they ran, in milliseconds.
    pub saved_ms: u64,
    /// What stood where, with paths relative to the workspace or absolute, what changed last first.
    pub looks: Vec<(Vec<u8>, Look)>,
}

impl Witness {
    /// The file's content: magic, BLAKE3 of the rest, the rest.
    pub fn encode(&self) -> Vec<u8> {
        seal(WITNESS, &codec::encode(self))
    }

    /// Reads the file; anything but what [`Witness::encode`] wrote is an error.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode::<Self, MAX_STATE>(open(WITNESS, bytes)?)
    }
}

fn seal(magic: &[u8; 16], body: &[u8]) -> Vec<u8> {
    [magic.as_slice(), Hash::of(body).as_bytes(), body].concat()
}

fn open<'b>(magic: &[u8; 16], bytes: &'b [u8]) -> Result<&'b [u8], DecodeError> {
    let rest = bytes
        .strip_prefix(magic)
        .ok_or_else(|| DecodeError::Invalid("workspace memory of another version".into()))?;
    let (hash, body) = rest
        .split_first_chunk::<32>()
        .ok_or_else(|| DecodeError::Malformed("the workspace memory is cut".into()))?;
    match Hash::of(body) == Hash(*hash) {
        true => Ok(body),
        false => Err(DecodeError::Malformed("the workspace memory is damaged".into())),
    }
}

/// The whole memory of a workspace.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// Files by path: relative to the workspace, or absolute for tools.
    pub files: Vec<(Vec<u8>, FileState)>,
    /// Tasks by name.
    pub tasks: Vec<(String, TaskState)>,
}

#[derive(Encode, Decode)]
struct FileV1 {
    path: Vec<u8>,
    stamp: Stamp,
    hashed_at_ns: i64,
    digest: DigestV1,
}

#[derive(Encode, Decode)]
struct TaskV1 {
    name: String,
    key: [u8; 32],
    cache: [u8; 32],
    duration_ms: u64,
    sandbox_asked: SandboxV1,
    sandbox_obtained: SandboxV1,
    outputs: Vec<OutputV1>,
    entries: Vec<(Vec<u8>, EntryV1)>,
    discovered: Vec<Vec<u8>>,
}

#[derive(Encode, Decode)]
struct StateV1 {
    files: Vec<FileV1>,
    tasks: Vec<TaskV1>,
}

impl State {
    /// The file's content: magic, BLAKE3 of the rest, the rest.
    pub fn encode(self) -> Vec<u8> {
        let file = |(path, file): (Vec<u8>, FileState)| FileV1 {
            path,
            stamp: file.stamp,
            hashed_at_ns: file.hashed_at_ns,
            digest: file.digest.into(),
        };
        let task = |(name, task): (String, TaskState)| TaskV1 {
            name,
            key: task.key.0,
            cache: task.cache.0,
            duration_ms: task.duration_ms,
            sandbox_asked: task.sandbox_asked.into(),
            sandbox_obtained: task.sandbox_obtained.into(),
            outputs: task.outputs.iter().map(output_to_wire).collect(),
            entries: Arc::unwrap_or_clone(task.entries)
                .into_iter()
                .map(|(p, e)| (p, EntryV1::from(e)))
                .collect(),
            discovered: task.discovered,
        };
        let body = codec::encode(&StateV1 {
            files: self.files.into_iter().map(file).collect(),
            tasks: self.tasks.into_iter().map(task).collect(),
        });
        seal(STATE, &body)
    }

    /// Reads the file; anything but what [`State::encode`] wrote is an error.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let wire = codec::decode::<StateV1, MAX_STATE>(open(STATE, bytes)?)?;
        let file = |file: FileV1| {
            let FileV1 { path, stamp, hashed_at_ns, digest } = file;
            (path, FileState { stamp, hashed_at_ns, digest: digest.into() })
        };
        let task = |task: TaskV1| {
            let entries = task.entries.into_iter().map(|(p, e)| (p, Entry::from(e)));
            let entries = Arc::new(entries.collect());
            let outputs = task.outputs.into_iter().map(output_from_wire);
            let outputs = outputs.collect::<Result<_, _>>()?;
            let state = TaskState {
                key: ActionKey(task.key),
                cache: Hash(task.cache),
                duration_ms: task.duration_ms,
                sandbox_asked: task.sandbox_asked.into(),
                sandbox_obtained: task.sandbox_obtained.into(),
                outputs,
                entries,
                discovered: task.discovered,
            };
            Ok((task.name, state))
        };
        Ok(Self {
            files: wire.files.into_iter().map(file).collect(),
            tasks: wire.tasks.into_iter().map(task).collect::<Result<_, DecodeError>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::record::OutputKind;

    #[test]
    fn a_state_reads_back_and_a_damaged_one_does_not() {
        let stamp = Stamp { dev: 1, ino: 2, size: 3, mtime_ns: -4, ctime_ns: 5, mode: 6, nlink: 7 };
        let digest = Digest::of(b"x");
        let entry = Entry::File { digest, executable: true };
        let state = State {
            files: vec![(b"a".to_vec(), FileState { stamp, hashed_at_ns: 9, digest })],
            tasks: vec![(
                "t".into(),
                TaskState {
                    key: ActionKey([8; 32]),
                    cache: Hash([9; 32]),
                    duration_ms: 10,
                    sandbox_asked: Sandbox::Ns,
                    sandbox_obtained: Sandbox::Landlock,
                    outputs: vec![Output { path: b"d".to_vec(), kind: OutputKind::Absent }],
                    entries: vec![(b"d/e".to_vec(), entry)].into(),
                    discovered: vec![b"x.h".to_vec()],
                },
            )],
        };
        let bytes = state.clone().encode();
        assert_eq!(State::decode(&bytes).unwrap(), state);
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(State::decode(&bad).is_err(), "byte {at}");
        }
    }
}
