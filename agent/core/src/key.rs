//! The action key: one hash over everything that may change what a task produces.
//!
//! The format lasts: it is numbered ([`FORMAT`]) and pinned by a golden test. Nothing is ever
//! concatenated bare, and nothing that has an order is sorted.

use crate::{digest::Hash, encode::Encoder};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::LazyLock,
};

/// Number of the key format, the first field of every key; bumped by hand when the format changes.
pub const FORMAT: u8 = 1;

/// BLAKE3 key-derivation context; tells action keys apart from every other BLAKE3 hash.
const CONTEXT: &str = "netbuild 2026-11 action key v1";
/// A hasher that has taken the context in, which takes as long as hashing a short key.
static DERIVING: LazyLock<blake3::Hasher> =
    LazyLock::new(|| blake3::Hasher::new_derive_key(CONTEXT));

/// The cache key of an action, shown as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActionKey(pub [u8; 32]);

impl ActionKey {
    /// The first 12 hexadecimal digits, for messages to people.
    pub fn short(&self) -> String {
        Hash(self.0).short()
    }
}

impl fmt::Display for ActionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hash(self.0).fmt(f)
    }
}

impl fmt::Debug for ActionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ActionKey({self})")
    }
}

/// The platform that a result is good for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Platform {
    /// Operating system, as `std::env::consts::OS` says it.
    pub os: String,
    /// Processor architecture, as `std::env::consts::ARCH` says it.
    pub arch: String,
    /// C library and its major version, when `platform_key` asks for it.
    pub libc: Option<String>,
}

/// How the digest of a tool was made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ToolMode {
    /// Hash of the executable.
    Path,
    /// Hash of what its version command printed.
    Version,
    /// Hash of a value that the graph states.
    Value,
}

/// The shape of a declared output.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum OutputShape {
    /// One path.
    Path,
    /// A whole directory, exactly.
    Tree,
    /// Whatever a pattern matches.
    Glob,
}

/// One declared output.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OutputDeclaration {
    /// Path or pattern, relative to the workspace.
    pub pattern: String,
    /// Its shape.
    pub shape: OutputShape,
    /// Whether the task may leave it out.
    pub optional: bool,
}

impl OutputDeclaration {
    /// The path or pattern without the `/` at the end that a directory may be written with.
    pub fn place(&self) -> &str {
        self.pattern.trim_end_matches('/')
    }
}

/// A command with its inputs: all that the key depends on, and nothing else.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Action {
    /// Separate key space of the graph.
    pub namespace: Option<String>,
    /// Disowns every earlier result of the graph when changed.
    pub salt: Option<String>,
    /// Disowns every earlier result of the task when changed.
    pub key_salt: Option<String>,
    /// The argument list that is executed, the shell included.
    pub argv: Vec<String>,
    /// Normalised, `/`-separated, `.` for the workspace root.
    pub working_dir: String,
    /// Variables with keyed values.
    pub env: BTreeMap<String, String>,
    /// Variables taken from the caller; unset differs from empty.
    pub pass_env: BTreeMap<String, Option<Vec<u8>>>,
    /// Variables of which only the names count.
    pub secret_env: BTreeSet<String>,
    /// `None` when the result is good on every platform.
    pub platform: Option<Platform>,
    /// Tools by name.
    pub tools: BTreeMap<String, (ToolMode, Hash)>,
    /// Root of the tree of declared inputs and of the outputs of data dependencies.
    pub input_root: Hash,
    /// Declared outputs.
    pub outputs: BTreeSet<OutputDeclaration>,
    /// Whether declared outputs are removed before the command runs.
    pub clean: bool,
}

impl Action {
    /// The key of this action.
    pub fn key(&self) -> ActionKey {
        let mut encoder = Encoder::default();
        encoder.field(0x01, |e| e.byte(FORMAT));
        for (tag, text) in [(0x02, &self.namespace), (0x03, &self.salt), (0x04, &self.key_salt)] {
            if let Some(text) = text {
                encoder.field(tag, |e| e.bytes(text.as_bytes()));
            }
        }
        encoder.field(0x05, |e| {
            e.count(self.argv.len());
            self.argv.iter().for_each(|arg| e.bytes(arg.as_bytes()));
        });
        encoder.field(0x06, |e| e.bytes(self.working_dir.as_bytes()));
        encoder.field(0x07, |e| {
            e.count(self.env.len());
            for (name, value) in &self.env {
                e.bytes(name.as_bytes());
                e.bytes(value.as_bytes());
            }
        });
        encoder.field(0x08, |e| {
            e.count(self.pass_env.len());
            for (name, value) in &self.pass_env {
                e.bytes(name.as_bytes());
                e.byte(u8::from(value.is_some()));
                e.bytes(value.as_deref().unwrap_or_default());
            }
        });
        encoder.field(0x09, |e| {
            e.count(self.secret_env.len());
            self.secret_env.iter().for_each(|name| e.bytes(name.as_bytes()));
        });
        if let Some(platform) = &self.platform {
            encoder.field(0x0a, |e| {
                e.bytes(platform.os.as_bytes());
                e.bytes(platform.arch.as_bytes());
                if let Some(libc) = &platform.libc {
                    e.bytes(libc.as_bytes());
                }
            });
        }
        encoder.field(0x0b, |e| {
            e.count(self.tools.len());
            for (name, (mode, hash)) in &self.tools {
                e.bytes(name.as_bytes());
                e.byte(match mode {
                    ToolMode::Path => 1,
                    ToolMode::Version => 2,
                    ToolMode::Value => 3,
                });
                e.bytes(hash.as_bytes());
            }
        });
        encoder.field(0x0c, |e| e.bytes(self.input_root.as_bytes()));
        encoder.field(0x0d, |e| {
            e.count(self.outputs.len());
            for output in &self.outputs {
                e.bytes(output.pattern.as_bytes());
                e.byte(match output.shape {
                    OutputShape::Path => 1,
                    OutputShape::Tree => 2,
                    OutputShape::Glob => 3,
                });
                e.byte(u8::from(output.optional));
            }
            e.byte(u8::from(self.clean));
        });
        // Constants today, so that a later change of either is a change of the key.
        encoder.field(0x0e, |e| {
            e.bytes(b"stdin=null");
            e.bytes(b"umask=022");
        });
        let mut hasher = DERIVING.clone();
        ActionKey(hasher.update(encoder.as_bytes()).finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn action() -> Action {
        Action {
            namespace: None,
            salt: None,
            key_salt: None,
            argv: vec!["/bin/sh".into(), "-c".into(), "cat a > b".into()],
            working_dir: ".".into(),
            env: [("A".into(), "1".into()), ("B".into(), "2".into())].into(),
            pass_env: [("GOFLAGS".into(), None)].into(),
            secret_env: ["TOKEN".into()].into(),
            platform: Some(Platform { os: "linux".into(), arch: "x86_64".into(), libc: None }),
            tools: [("cat".into(), (ToolMode::Path, Hash([3; 32])))].into(),
            input_root: Hash([4; 32]),
            outputs: [OutputDeclaration {
                pattern: "b".into(),
                shape: OutputShape::Path,
                optional: false,
            }]
            .into(),
            clean: true,
        }
    }

    #[test]
    fn the_format_is_pinned() {
        assert_eq!(
            action().key().to_string(),
            "0574eab81cf93e01bc4423c7ca42c25f443f858499e5b5e2c9a664be75929e13"
        );
    }

    #[test]
    fn every_field_changes_the_key() {
        let changes: Vec<fn(&mut Action)> = vec![
            |a| a.namespace = Some(String::new()),
            |a| a.salt = Some(String::new()),
            |a| a.key_salt = Some(String::new()),
            |a| a.argv.swap(1, 2),
            |a| a.argv.push(String::new()),
            |a| a.working_dir = "sub".into(),
            |a| a.env = [("AB".into(), "12".into())].into(),
            |a| a.env = [("A".into(), "1B".into()), ("".into(), "2".into())].into(),
            |a| drop(a.pass_env.insert("GOFLAGS".into(), Some(Vec::new()))),
            |a| a.secret_env.clear(),
            |a| a.platform = None,
            |a| a.platform.as_mut().unwrap().libc = Some("glibc2".into()),
            |a| a.tools.get_mut("cat").unwrap().0 = ToolMode::Value,
            |a| a.input_root = Hash([5; 32]),
            |a| a.outputs.clear(),
            |a| a.clean = false,
        ];
        let mut keys = BTreeSet::from([action().key()]);
        let count = changes.len();
        for change in changes {
            let mut changed = action();
            change(&mut changed);
            keys.insert(changed.key());
        }
        assert_eq!(keys.len(), count + 1);
    }

    proptest! {
        #[test]
        fn different_commands_and_environments_never_share_a_key(
            a in prop::collection::vec("[ab]{0,2}", 0..4), b in prop::collection::vec("[ab]{0,2}", 0..4),
            c in prop::collection::btree_map("[ab]{0,2}", "[ab]{0,2}", 0..3),
            d in prop::collection::btree_map("[ab]{0,2}", "[ab]{0,2}", 0..3),
        ) {
            let one = Action { argv: a.clone(), env: c.clone(), ..action() };
            let two = Action { argv: b.clone(), env: d.clone(), ..action() };
            prop_assert_eq!(one.key() == two.key(), a == b && c == d);
        }
    }
}
