//! How closed the environment of a command is, and what it did in it.
//!
//! A task asks for a level. One that the system does not have is an error, unless the task says that a lower one
//! will do; which one it was is part of the result. `supervisor` has the means, this module says what
//! they are to be used for.

mod audit;
mod stage;

pub(crate) use audit::{Findings, names, observation};
pub(crate) use stage::{Stage, StageError};

use crate::{environment::Environment, run::Run};
use netbuild_core::{graph::Task, key::OutputDeclaration, record::Sandbox};
use netbuild_proto::spawn::{Audit, Confinement, Landlock, Namespaces};
use std::{
    collections::BTreeSet,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

/// Where systems have what comes with them.
const SYSTEM: [&str; 15] = [
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/opt", "/nix", "/gnu", "/snap",
    "/proc", "/sys", "/dev", "/run",
];
/// Those of them whose files are no files: what is written there is gone with the process, or never was.
const OWN_OF_PROCESSES: [&str; 2] = ["/proc", "/dev"];
/// Variables that name toolchains.
const TOOLCHAINS: [&str; 2] = ["RUSTUP_HOME", "CARGO_HOME"];

/// The outputs that a task declares.
pub(crate) fn declared(task: &Task) -> &[OutputDeclaration] {
    task.outputs.as_deref().unwrap_or_default()
}

/// Whether a task may use the network at a level.
fn network(task: &Task, level: Sandbox) -> bool {
    task.network.unwrap_or(level.has_network())
}

/// Where a command runs.
pub(crate) struct Ground<'a> {
    pub(crate) level: Sandbox,
    pub(crate) stage: Option<&'a Stage>,
    /// An empty directory for it alone.
    pub(crate) scratch: &'a Path,
    /// The named pipe of the jobserver.
    pub(crate) pipe: Option<&'a Path>,
}

impl Ground<'_> {
    /// Where the command finds the workspace.
    pub(crate) fn root(&self, run: &Run<'_>) -> PathBuf {
        match (self.stage, self.level) {
            (Some(_), Sandbox::Ns) => PathBuf::from(Namespaces::WORKSPACE),
            (Some(stage), _) => stage.root.clone(),
            (None, _) => run.workspace.root.clone(),
        }
    }

    /// Where it has its temporary files.
    pub(crate) fn temporary(&self) -> &Path {
        match self.level {
            Sandbox::Ns => Path::new("/tmp"),
            _ => self.scratch,
        }
    }

    /// What keeps it in.
    pub(crate) fn confinement(
        &self,
        run: &Run<'_>,
        task: &Task,
        environment: &Environment,
    ) -> Option<Confinement> {
        let network = network(task, self.level);
        match (self.level, self.stage) {
            (Sandbox::Audit, _) => {
                // Toolchains keep locks and what they download in their own places.
                let own = toolchains(environment);
                let (untold, readable): (Vec<_>, Vec<_>) =
                    system_places(run, environment).into_iter().partition(|path| {
                        OWN_OF_PROCESSES.iter().any(|own| path == Path::new(own))
                            || own.contains(path)
                    });
                let untold = untold.iter().map(PathBuf::as_path).chain([self.scratch]);
                let untold = untold.map(bytes).collect();
                let readable = readable.iter().map(|path| bytes(path)).collect();
                Some(Confinement::Audit(Audit { untold, readable }))
            }
            (Sandbox::Landlock, Some(stage)) => {
                let readable = system_places(run, environment);
                let mut writable = vec![bytes(&stage.root), bytes(self.scratch)];
                writable.extend(self.pipe.map(bytes));
                let readable = readable.iter().map(|path| bytes(path)).collect();
                Some(Confinement::Landlock(Landlock { readable, writable, network }))
            }
            (Sandbox::Ns, Some(stage)) => Some(Confinement::Namespaces(Namespaces {
                stage: bytes(&stage.root),
                hidden: bytes(&run.workspace.root),
                root: bytes(self.scratch),
                jobserver: self.pipe.map(bytes),
                network,
            })),
            _ => None,
        }
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// What a task says of the network that its level cannot see to.
pub(crate) fn unenforced(task: &Task, level: Sandbox) -> Option<&'static str> {
    let closed = task.network == Some(false);
    (closed && level.has_network()).then_some("`network: false` is not enforced at this level")
}

/// Where toolchains are that keep more than programs beside them.
fn toolchains(environment: &Environment) -> BTreeSet<PathBuf> {
    let named = TOOLCHAINS.iter().filter_map(|name| environment.location(name));
    let home = environment.location("HOME").map(PathBuf::from);
    let usual = home.iter().flat_map(|home| [".rustup", ".cargo"].map(|name| home.join(name)));
    named.map(PathBuf::from).chain(usual).collect()
}

/// Directories of the system and of the toolchains that the environment names, none of which has the workspace
/// in it or is in it. Of a program's directory `bin`, what is beside it belongs to the program.
fn system_places(run: &Run<'_>, environment: &Environment) -> Vec<PathBuf> {
    let root = &run.workspace.root;
    let home = environment.location("HOME").map(PathBuf::from);
    let fits = |path: &Path| {
        path.is_absolute()
            && path.parent().is_some()
            && !root.starts_with(path)
            && !path.starts_with(root)
            && home.as_deref() != Some(path)
            && path != Path::new("/tmp")
            && path != Path::new("/home")
    };
    let mut places: BTreeSet<PathBuf> =
        SYSTEM.iter().map(PathBuf::from).filter(|path| fits(path)).collect();
    places.extend(toolchains(environment).into_iter().filter(|path| fits(path)));
    let path = environment.location("PATH").unwrap_or_default();
    for directory in std::env::split_paths(&path) {
        let real = directory.canonicalize().unwrap_or_else(|_| directory.clone());
        for directory in [directory, real] {
            let is_bin = directory.file_name().is_some_and(|name| name == "bin" || name == "sbin");
            let prefix = directory.parent().filter(|prefix| is_bin && fits(prefix));
            if let Some(prefix) = prefix {
                places.insert(prefix.to_owned());
            } else if fits(&directory) {
                places.insert(directory);
            }
        }
    }
    places.into_iter().collect()
}
