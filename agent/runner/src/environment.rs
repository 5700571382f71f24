//! The environment of a command at level `env`: nothing of the caller's that the task does not ask
//! for, except where to find programs.

use netbuild_core::{digest::Hash, graph::Task};
use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

/// Variables that say where programs and toolchains are. A command sees them, and they are not
/// part of the key: two people with different home directories share results. What they lead to is
/// keyed through `tools`.
const LOCATIONS: [&str; 6] = ["PATH", "HOME", "USER", "LOGNAME", "RUSTUP_HOME", "CARGO_HOME"];
/// Variables with one value everywhere, part of every key.
const FIXED: [(&str, &str); 4] =
    [("LANG", "C.UTF-8"), ("TZ", "UTC"), ("TERM", "dumb"), ("NO_COLOR", "1")];
/// Variables about a terminal: those of the caller for what has it, which is never cached.
const OF_TERMINAL: [&str; 3] = ["TERM", "COLORTERM", "NO_COLOR"];
/// Set by the caller for reproducible time stamps; keyed when set.
const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";
/// Where programs are looked for when the caller has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The variables of whoever started the run.
#[derive(Clone, Debug, Default)]
pub struct Caller(BTreeMap<OsString, OsString>);

impl FromIterator<(OsString, OsString)> for Caller {
    fn from_iter<T: IntoIterator<Item = (OsString, OsString)>>(variables: T) -> Self {
        Self(variables.into_iter().collect())
    }
}

/// What one task sees, by what it means for the key.
#[derive(Debug)]
pub(crate) struct Environment {
    /// Names and values are keyed.
    pub(crate) keyed: BTreeMap<String, String>,
    /// Taken from the caller, keyed with presence.
    pub(crate) passed: BTreeMap<String, Option<Vec<u8>>>,
    /// Taken from the caller, names keyed.
    pub(crate) secret: BTreeMap<String, Option<Vec<u8>>>,
    locations: BTreeMap<String, Vec<u8>>,
}

impl Caller {
    fn get(&self, name: &str) -> Option<Vec<u8>> {
        self.0.get(OsStr::new(name)).map(|value| value.as_bytes().to_vec())
    }

    /// Where programs are.
    pub(crate) fn path(&self) -> Option<Vec<u8>> {
        self.get("PATH")
    }

    /// All variables, with those that a task sets: its environment at the level `loose`.
    pub(crate) fn loose(&self, task: &Task) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut all: BTreeMap<&[u8], &[u8]> = BTreeMap::new();
        all.extend(self.0.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
        all.extend(task.env.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
        all.into_iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
    }

    /// The environment of a task.
    pub(crate) fn environment(&self, task: &Task) -> Environment {
        let mut keyed: BTreeMap<String, String> =
            FIXED.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        if task.interactive {
            keyed.retain(|name, _| !OF_TERMINAL.contains(&name.as_str()));
        }
        if let Some(Ok(epoch)) = self.get(SOURCE_DATE_EPOCH).map(String::from_utf8) {
            keyed.insert(SOURCE_DATE_EPOCH.into(), epoch);
        }
        keyed.extend(task.env.clone());
        let of_terminal = if task.interactive { &OF_TERMINAL[..] } else { &[] };
        let mut locations: BTreeMap<String, Vec<u8>> = LOCATIONS
            .iter()
            .chain(of_terminal)
            .filter(|name| !keyed.contains_key(**name))
            .filter_map(|name| Some(((*name).to_owned(), self.get(name)?)))
            .collect();
        if !keyed.contains_key("PATH") {
            locations.entry("PATH".into()).or_insert_with(|| DEFAULT_PATH.into());
        }
        Environment {
            passed: self.select(&task.pass_env),
            secret: self.select(&task.secret_env),
            keyed,
            locations,
        }
    }

    /// A digest of what the keys of tasks have of these variables: those that they pass on, the secret ones, of which
    /// only the names count, and what is the same for all.
    pub(crate) fn digest(&self, passed: &[String], secret: &[String]) -> Hash {
        let of_all = ["PATH", SOURCE_DATE_EPOCH].map(str::to_owned);
        let passed = self.select(of_all.iter().chain(passed));
        let secret: Vec<String> = self.select(secret).into_keys().collect();
        Hash::of(format!("{passed:?} {secret:?}").as_bytes())
    }

    fn select<'w>(
        &self,
        wanted: impl IntoIterator<Item = &'w String>,
    ) -> BTreeMap<String, Option<Vec<u8>>> {
        let mut selected = BTreeMap::new();
        for name in wanted {
            let Some(prefix) = name.strip_suffix('*') else {
                selected.insert(name.clone(), self.get(name));
                continue;
            };
            for (name, value) in &self.0 {
                if let Some(name) = name.to_str().filter(|name| name.starts_with(prefix)) {
                    selected.insert(name.to_owned(), Some(value.as_bytes().to_vec()));
                }
            }
        }
        selected
    }
}

impl Environment {
    /// Every variable of the command, with its private directory for temporary files.
    pub(crate) fn variables(&self, tmpdir: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut all: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
        all.extend(self.locations.iter().map(|(name, value)| (name.as_str(), value.clone())));
        all.insert("TMPDIR", tmpdir.as_os_str().as_bytes().to_vec());
        for taken in [&self.passed, &self.secret] {
            let set = taken.iter().filter_map(|(name, value)| Some((name, value.clone()?)));
            all.extend(set.map(|(name, value)| (name.as_str(), value)));
        }
        all.extend(self.keyed.iter().map(|(name, value)| (name.as_str(), value.clone().into())));
        all.into_iter().map(|(name, value)| (name.into(), value)).collect()
    }

    /// The value of a variable that says where something is.
    pub(crate) fn location(&self, name: &str) -> Option<OsString> {
        match self.keyed.get(name) {
            Some(value) => Some(OsString::from(value)),
            None => self.locations.get(name).cloned().map(OsString::from_vec),
        }
    }

    /// Where the command finds a program; names with a `/` are paths from `working_dir`.
    pub(crate) fn find_program(&self, name: &str, working_dir: &Path) -> Option<PathBuf> {
        self.places_of(name, working_dir).into_iter().find(|path| is_executable(path))
    }

    /// Where the command looks for a program, one place after the other.
    pub(crate) fn places_of(&self, name: &str, working_dir: &Path) -> Vec<PathBuf> {
        if name.contains('/') {
            return vec![working_dir.join(name)];
        }
        let path = self.location("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .map(|directory| working_dir.join(directory).join(name))
            .collect()
    }
}

pub(crate) fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
