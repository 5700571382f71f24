//! Why a task ran, or where its result came from: what went into its key, beside what went into
//! earlier ones.
//!
//! Values of variables are kept as keyed hashes only. Those of secret variables never come here.

use crate::{
    cache::Source,
    digest::Hash,
    key::{Action, ActionKey, OutputDeclaration, Platform, ToolMode},
    tree::Entry,
};
use std::collections::{BTreeMap, BTreeSet};

/// Most inputs that are told one by one.
pub const MAX_INPUTS: usize = 50_000;

/// Tells values apart without telling them.
#[derive(Clone)]
pub struct Marker([u8; 32]);

impl std::fmt::Debug for Marker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Marker(***)")
    }
}

/// The keyed hash of a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark(pub [u8; 16]);

impl Marker {
    /// Marks of different secrets cannot be compared.
    pub fn new(secret: [u8; 32]) -> Self {
        Self(secret)
    }

    fn mark(&self, value: &[u8]) -> Mark {
        let mut mark = [0; 16];
        mark.copy_from_slice(&blake3::keyed_hash(&self.0, value).as_bytes()[..16]);
        Mark(mark)
    }
}

/// What an input was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InputKind {
    /// A file.
    File,
    /// A file that its owner may execute.
    Executable,
    /// A symbolic link.
    Symlink,
    /// A directory.
    Directory,
}

/// An input, shortly: enough to tell whether it changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InputMark {
    /// What it was.
    pub kind: InputKind,
    /// The beginning of the hash of its content, or of where it leads.
    pub content: u64,
}

impl InputMark {
    fn of(entry: &Entry) -> Self {
        let start = |hash: &Hash| {
            let [a, b, c, d, e, f, g, h, ..] = hash.0;
            u64::from_le_bytes([a, b, c, d, e, f, g, h])
        };
        let (kind, content) = match entry {
            Entry::File { digest, executable: false } => (InputKind::File, start(&digest.hash)),
            Entry::File { digest, .. } => (InputKind::Executable, start(&digest.hash)),
            Entry::Symlink { target } => (InputKind::Symlink, start(&Hash::of(target))),
            Entry::Directory => (InputKind::Directory, 0),
        };
        Self { kind, content }
    }
}

/// What went into the key of a task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ingredients {
    /// `cache.namespace`, `cache.salt` and `key_salt`, hashed.
    pub salts: [Option<Mark>; 3],
    /// The argument list.
    pub argv: Vec<String>,
    /// Where it runs.
    pub working_dir: String,
    /// Variables that the graph or netbuild sets.
    pub env: BTreeMap<String, Mark>,
    /// Variables of the caller, those that are not set among them.
    pub pass_env: BTreeMap<String, Option<Mark>>,
    /// Names of secret variables.
    pub secret_env: BTreeSet<String>,
    /// `None` when the result is good on every platform.
    pub platform: Option<Platform>,
    /// Tools by name.
    pub tools: BTreeMap<String, (ToolMode, Hash)>,
    /// Inputs by path; `None` when they were too many to be kept.
    pub inputs: Option<BTreeMap<Vec<u8>, InputMark>>,
    /// The hash of all inputs.
    pub input_root: Hash,
    /// Declared outputs.
    pub outputs: BTreeSet<OutputDeclaration>,
    /// Whether these are removed before the command runs.
    pub clean: bool,
}

impl Ingredients {
    /// Takes down an action and its inputs.
    pub fn of<'a>(
        action: &Action,
        inputs: impl ExactSizeIterator<Item = (&'a [u8], &'a Entry)>,
        marker: &Marker,
    ) -> Self {
        let mark = |value: &Option<String>| Some(marker.mark(value.as_ref()?.as_bytes()));
        let set = |(name, value): (&String, &String)| (name.clone(), marker.mark(value.as_bytes()));
        let passed = |(name, value): (&String, &Option<Vec<u8>>)| {
            (name.clone(), value.as_ref().map(|value| marker.mark(value)))
        };
        let few = inputs.len() <= MAX_INPUTS;
        Self {
            salts: [&action.namespace, &action.salt, &action.key_salt].map(mark),
            argv: action.argv.clone(),
            working_dir: action.working_dir.clone(),
            env: action.env.iter().map(set).collect(),
            pass_env: action.pass_env.iter().map(passed).collect(),
            secret_env: action.secret_env.clone(),
            platform: action.platform.clone(),
            tools: action.tools.clone(),
            inputs: few.then(|| {
                inputs.map(|(path, entry)| (path.to_vec(), InputMark::of(entry))).collect()
            }),
            input_root: action.input_root,
            outputs: action.outputs.clone(),
            clean: action.clean,
        }
    }
}

/// Why a command was run and not its result restored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cause {
    /// The graph says that it always runs.
    NeverCached,
    /// The inputs that its dep file names were not known yet.
    InputsUnknown,
    /// No result is known for the key.
    NoRecord,
    /// There is a result that is good in another workspace only.
    BoundElsewhere,
    /// The cache could not be asked.
    CacheFailed(String),
    /// There is a result, which could not be restored.
    NotRestored(String),
    /// An input changed while the command ran before.
    RanOver(String),
    /// There is a result, which was expected to take longer to come than to build.
    SoonerBuilt(String),
}

/// How the command ended, and what became of its result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RunEnd {
    /// Well, and its result was kept.
    Kept,
    /// Well; its result was not kept, for this reason.
    NotKept(String),
    /// It failed, in this way.
    Failed(String),
}

/// What was done about a task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Deed {
    /// Its outputs were restored, all of them verified.
    Restored {
        /// From where.
        source: Source,
        /// Bytes that others sent for it.
        bytes: u64,
    },
    /// Its command ran.
    Ran {
        /// Why.
        cause: Cause,
        /// How that ended.
        end: RunEnd,
    },
}

/// One turn of a task in which something was done about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Turn {
    /// The task.
    pub task: String,
    /// When it was over, milliseconds since 1970.
    pub at_ms: u64,
    /// What it took, in milliseconds.
    pub took_ms: u64,
    /// The key.
    pub key: ActionKey,
    /// What went into the key.
    pub ingredients: Ingredients,
    /// What was done.
    pub deed: Deed,
}

/// What happened to one of several named things.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Change {
    /// It was not there.
    Added,
    /// It is not there any more.
    Removed,
    /// It is another one.
    Modified,
    /// Of a file: only that it may be executed.
    MadeExecutable,
    /// Of a file: only that it may not be executed any more.
    MadeNotExecutable,
    /// It is something else, such as a link instead of a file.
    Replaced,
    /// Of a variable: it was set, and is not.
    Unset,
    /// Of a variable: it was not set, and is.
    Set,
}

/// One way in which two keys differ.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Difference {
    /// An input, by path.
    Input(Vec<u8>, Change),
    /// Inputs that were not kept one by one.
    Inputs,
    /// The command: the first argument that differs, before and now.
    Argument(usize, Option<String>, Option<String>),
    /// Where the command runs, before and now.
    WorkingDir(String, String),
    /// A variable that the graph sets.
    Env(String, Change),
    /// A variable of the caller.
    PassEnv(String, Change),
    /// A secret variable: only whether it is named counts.
    SecretEnv(String, Change),
    /// A tool, with how its digest is made now.
    Tool(String, Change),
    /// A declared output.
    Output(String, Change),
    /// Whether outputs are removed before the command runs.
    Clean(bool),
    /// The platform, before and now.
    Platform(String, String),
    /// A name in the graph that disowns results: `cache.namespace`, `cache.salt` or `key_salt`.
    Salt(&'static str),
}

/// All differences of `now` from `before`; none when the two have one key.
pub fn differences(before: &Ingredients, now: &Ingredients) -> Vec<Difference> {
    let mut found = Vec::new();
    inputs(before, now, &mut found);
    if before.argv != now.argv {
        let same = before.argv.iter().zip(&now.argv).take_while(|(a, b)| a == b).count();
        let at = |argv: &[String]| argv.get(same).cloned();
        found.push(Difference::Argument(same, at(&before.argv), at(&now.argv)));
    }
    if before.working_dir != now.working_dir {
        let (before, now) = (before.working_dir.clone(), now.working_dir.clone());
        found.push(Difference::WorkingDir(before, now));
    }
    let differ = |_: &Mark, _: &Mark| Change::Modified;
    changes(&before.env, &now.env, differ, |name, change| {
        found.push(Difference::Env(name.clone(), change));
    });
    let presence = |before: &Option<Mark>, now: &Option<Mark>| match (before, now) {
        (None, Some(_)) => Change::Set,
        (Some(_), None) => Change::Unset,
        _ => Change::Modified,
    };
    changes(&before.pass_env, &now.pass_env, presence, |name, change| {
        found.push(Difference::PassEnv(name.clone(), change));
    });
    members(&before.secret_env, &now.secret_env, |name, change| {
        found.push(Difference::SecretEnv(name.clone(), change));
    });
    let another = |before: &(ToolMode, Hash), now: &(ToolMode, Hash)| match before.0 == now.0 {
        true => Change::Modified,
        false => Change::Replaced,
    };
    changes(&before.tools, &now.tools, another, |name, change| {
        found.push(Difference::Tool(name.clone(), change));
    });
    outputs(before, now, &mut found);
    if before.clean != now.clean {
        found.push(Difference::Clean(now.clean));
    }
    if before.platform != now.platform {
        let (before, now) = (platform(&before.platform), platform(&now.platform));
        found.push(Difference::Platform(before, now));
    }
    for (index, name) in ["cache.namespace", "cache.salt", "key_salt"].into_iter().enumerate() {
        if before.salts[index] != now.salts[index] {
            found.push(Difference::Salt(name));
        }
    }
    found
}

/// Of earlier turns the one that is least different from `now`, the latest of equals.
pub fn nearest<'t>(
    earlier: impl IntoIterator<Item = &'t Turn>,
    now: &Turn,
) -> Option<(&'t Turn, Vec<Difference>)> {
    let compared =
        earlier.into_iter().map(|turn| (turn, differences(&turn.ingredients, &now.ingredients)));
    compared.min_by_key(|(turn, found)| (found.len(), std::cmp::Reverse(turn.at_ms)))
}

fn inputs(before: &Ingredients, now: &Ingredients, found: &mut Vec<Difference>) {
    if before.input_root == now.input_root {
        return;
    }
    let (Some(before), Some(now)) = (&before.inputs, &now.inputs) else {
        found.push(Difference::Inputs);
        return;
    };
    let change = |before: &InputMark, now: &InputMark| match (before.kind, now.kind) {
        (InputKind::File, InputKind::Executable) if before.content == now.content => {
            Change::MadeExecutable
        }
        (InputKind::Executable, InputKind::File) if before.content == now.content => {
            Change::MadeNotExecutable
        }
        (InputKind::File | InputKind::Executable, InputKind::File | InputKind::Executable) => {
            Change::Modified
        }
        (before, now) if before == now => Change::Modified,
        _ => Change::Replaced,
    };
    changes(before, now, change, |path, change| {
        found.push(Difference::Input(path.clone(), change));
    });
}

fn outputs(before: &Ingredients, now: &Ingredients, found: &mut Vec<Difference>) {
    // By pattern, so that one whose shape or option changed is one difference.
    let by_pattern = |outputs: &BTreeSet<OutputDeclaration>| -> BTreeMap<_, _> {
        outputs.iter().map(|output| (output.pattern.clone(), output.clone())).collect()
    };
    let differ = |_: &OutputDeclaration, _: &OutputDeclaration| Change::Modified;
    changes(&by_pattern(&before.outputs), &by_pattern(&now.outputs), differ, |pattern, change| {
        found.push(Difference::Output(pattern.clone(), change));
    });
}

fn changes<K: Ord, V: PartialEq>(
    before: &BTreeMap<K, V>,
    now: &BTreeMap<K, V>,
    differ: impl Fn(&V, &V) -> Change,
    mut tell: impl FnMut(&K, Change),
) {
    for (name, was) in before {
        match now.get(name) {
            None => tell(name, Change::Removed),
            Some(is) if is != was => tell(name, differ(was, is)),
            Some(_) => {}
        }
    }
    for name in now.keys().filter(|name| !before.contains_key(*name)) {
        tell(name, Change::Added);
    }
}

fn members(
    before: &BTreeSet<String>,
    now: &BTreeSet<String>,
    mut tell: impl FnMut(&String, Change),
) {
    before.difference(now).for_each(|name| tell(name, Change::Removed));
    now.difference(before).for_each(|name| tell(name, Change::Added));
}

fn platform(platform: &Option<Platform>) -> String {
    match platform {
        None => "any".to_owned(),
        Some(Platform { os, arch, libc: None }) => format!("{os}/{arch}"),
        Some(Platform { os, arch, libc: Some(libc) }) => format!("{os}/{arch}/{libc}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{digest::Digest, key::OutputShape, tree};

    type Files = Vec<(&'static [u8], Entry)>;

    fn file(content: &[u8], executable: bool) -> Entry {
        Entry::File { digest: Digest::of(content), executable }
    }

    fn action() -> (Action, Files) {
        let files: Files = vec![(b"a", file(b"1", false)), (b"b", file(b"2", false))];
        let output =
            OutputDeclaration { pattern: "o".into(), shape: OutputShape::Path, optional: false };
        let action = Action {
            namespace: None,
            salt: None,
            key_salt: None,
            argv: vec!["cc".into(), "-O1".into(), "a".into()],
            working_dir: ".".into(),
            env: [("A".into(), "hidden-1".into())].into(),
            pass_env: [("P".into(), Some(b"hidden-2".to_vec())), ("Q".into(), None)].into(),
            secret_env: ["S".into()].into(),
            platform: Some(Platform { os: "linux".into(), arch: "x86_64".into(), libc: None }),
            tools: [("cc".into(), (ToolMode::Path, Hash([1; 32])))].into(),
            input_root: Hash([0; 32]),
            outputs: [output].into(),
            clean: true,
        };
        (action, files)
    }

    fn ingredients(change: impl FnOnce(&mut Action, &mut Files)) -> Ingredients {
        let (mut action, mut files) = action();
        change(&mut action, &mut files);
        let entries = || files.iter().map(|(path, entry)| (*path, entry));
        action.input_root = tree::root_hash(entries()).unwrap();
        Ingredients::of(&action, entries(), &Marker::new([7; 32]))
    }

    #[test]
    fn every_field_of_a_key_has_a_difference_of_its_own() {
        use Change::*;
        use Difference::*;
        type Case = (fn(&mut Action, &mut Files), Difference);
        let cases: Vec<Case> = vec![
            (|_, f| f[0].1 = file(b"9", false), Input(b"a".to_vec(), Modified)),
            (|_, f| f[0].1 = file(b"1", true), Input(b"a".to_vec(), MadeExecutable)),
            (|_, f| f[0].1 = Entry::Directory, Input(b"a".to_vec(), Replaced)),
            (|_, f| drop(f.remove(1)), Input(b"b".to_vec(), Removed)),
            (|_, f| f.push((b"c", file(b"3", false))), Input(b"c".to_vec(), Added)),
            (|a, _| a.argv[1] = "-O2".into(), Argument(1, Some("-O1".into()), Some("-O2".into()))),
            (|a, _| drop(a.argv.pop()), Argument(2, Some("a".into()), None)),
            (|a, _| a.working_dir = "w".into(), WorkingDir(".".into(), "w".into())),
            (|a, _| drop(a.env.insert("A".into(), "x".into())), Env("A".into(), Modified)),
            (|a, _| drop(a.env.insert("B".into(), "x".into())), Env("B".into(), Added)),
            (
                |a, _| drop(a.pass_env.insert("P".into(), Some(vec![]))),
                PassEnv("P".into(), Modified),
            ),
            (|a, _| drop(a.pass_env.insert("P".into(), None)), PassEnv("P".into(), Unset)),
            (|a, _| drop(a.pass_env.insert("Q".into(), Some(vec![]))), PassEnv("Q".into(), Set)),
            (|a, _| a.secret_env.clear(), SecretEnv("S".into(), Removed)),
            (|a, _| a.tools.get_mut("cc").unwrap().1 = Hash([2; 32]), Tool("cc".into(), Modified)),
            (
                |a, _| a.tools.get_mut("cc").unwrap().0 = ToolMode::Value,
                Tool("cc".into(), Replaced),
            ),
            (|a, _| a.outputs.clear(), Output("o".into(), Removed)),
            (|a, _| a.clean = false, Clean(false)),
            (|a, _| a.platform = None, Platform("linux/x86_64".into(), "any".into())),
            (|a, _| a.namespace = Some("n".into()), Salt("cache.namespace")),
            (|a, _| a.salt = Some("s".into()), Salt("cache.salt")),
            (|a, _| a.key_salt = Some("k".into()), Salt("key_salt")),
        ];
        let before = ingredients(|_, _| {});
        assert_eq!(differences(&before, &before), []);
        for (change, expected) in cases {
            assert_eq!(differences(&before, &ingredients(change)), [expected]);
        }
        let shown = format!("{before:?}");
        assert!(!shown.contains("hidden"), "{shown}");
    }

    #[test]
    fn the_nearest_of_earlier_turns_has_the_fewest_differences() {
        let turn = |at_ms, ingredients| Turn {
            task: "t".into(),
            at_ms,
            took_ms: 1,
            key: ActionKey([0; 32]),
            ingredients,
            deed: Deed::Ran { cause: Cause::NoRecord, end: RunEnd::Kept },
        };
        let one = turn(1, ingredients(|a, _| a.clean = false));
        let two = turn(2, ingredients(|a, f| (a.clean, _) = (false, f.pop())));
        let three = turn(3, ingredients(|a, _| a.argv.clear()));
        let now = turn(9, ingredients(|_, _| {}));
        let all = [one, two, three];
        assert_eq!(nearest(&all, &now).unwrap().0.at_ms, 3);
        assert_eq!(nearest(&all[..2], &now).unwrap().0.at_ms, 1);
        assert_eq!(nearest(&[], &now), None);
    }
}
