//! Digests of the tools that a task names, each made once in a run.

use crate::{
    environment::{Environment, is_executable},
    files::FileError,
    process::Ending,
    run::Run,
    workspace::Workspace,
};
use netbuild_core::{
    digest::Hash,
    graph::{ToolSource, ToolSpec},
    key::ToolMode,
    tree::Entry,
};
use netbuild_proto::spawn::Command;
use std::{
    collections::HashMap,
    io::Read as _,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// A version command that takes longer hangs.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest first line of a script that is looked at for its interpreter, as in the kernel.
const SHEBANG: usize = 256;

/// A tool whose digest cannot be made.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ToolError {
    #[error("G029 tool `{0}` was not found in PATH or the workspace")]
    NotFound(String),
    #[error("tool `{0}`: {1}")]
    File(String, String),
    #[error("tool `{name}`: `{command}` {problem}")]
    Version { name: String, command: String, problem: String },
}

/// Digests by source and by the `PATH` they were found in.
#[derive(Debug, Default)]
pub(crate) struct Tools {
    versions: Mutex<HashMap<VersionKey, Result<Hash, ToolError>>>,
}

type VersionKey = (Vec<String>, Vec<(Vec<u8>, Vec<u8>)>);

impl Tools {
    /// The digest of a tool as a task with this environment would find it.
    pub(crate) fn digest(
        &self,
        tool: &ToolSpec,
        environment: &Environment,
        run: &Run<'_>,
    ) -> Result<(ToolMode, Hash), ToolError> {
        match &tool.source {
            ToolSource::Value(value) => Ok((ToolMode::Value, Hash::of(value.as_bytes()))),
            ToolSource::Path(path) => {
                Ok((ToolMode::Path, executable(&tool.name, path, environment, &run.workspace)?))
            }
            ToolSource::Version(argv) => {
                let key = (argv.clone(), environment.variables(Path::new("/nonexistent")));
                // What it is told by is not known.
                run.workspace.files.forget_looks();
                let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
                let hash = versions
                    .entry(key)
                    .or_insert_with(|| version(&tool.name, argv, environment, run))
                    .clone()?;
                Ok((ToolMode::Version, hash))
            }
        }
    }
}

/// Hash of an executable, and of the interpreter when it is a script.
fn executable(
    name: &str,
    path: &str,
    environment: &Environment,
    workspace: &Workspace,
) -> Result<Hash, ToolError> {
    let found =
        find(path, environment, workspace).ok_or_else(|| ToolError::NotFound(path.to_owned()))?;
    let hash = file_hash(name, &found, workspace)?;
    match interpreter(&found) {
        None => Ok(hash),
        Some(interpreter) => {
            let below = file_hash(name, &interpreter, workspace)?;
            Ok(Hash::of(&[hash.0, below.0].concat()))
        }
    }
}

fn find(path: &str, environment: &Environment, workspace: &Workspace) -> Option<PathBuf> {
    environment.places_of(path, &workspace.root).into_iter().find(|place| {
        let found = is_executable(place);
        if !found {
            // It may come to stand there.
            workspace.files.is_there(place.as_os_str().as_bytes());
        }
        found
    })
}

fn file_hash(name: &str, path: &Path, workspace: &Workspace) -> Result<Hash, ToolError> {
    let fail = |error: FileError| ToolError::File(name.to_owned(), error.to_string());
    let real = workspace.files.real(path);
    let real = real.map_err(|error| fail(FileError::Io(path.to_owned(), error)))?;
    match workspace.files.see(real.as_os_str().as_bytes()).map_err(fail)?.entry {
        Entry::File { digest, .. } => Ok(digest.hash),
        _ => Err(ToolError::NotFound(name.to_owned())),
    }
}

fn interpreter(script: &Path) -> Option<PathBuf> {
    let mut start = Vec::new();
    std::fs::File::open(script).ok()?.take(SHEBANG as u64).read_to_end(&mut start).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let program = std::str::from_utf8(line).ok()?.split_ascii_whitespace().next()?;
    Some(PathBuf::from(program)).filter(|path| path.is_absolute())
}

fn version(
    name: &str,
    argv: &[String],
    environment: &Environment,
    run: &Run<'_>,
) -> Result<Hash, ToolError> {
    let fail = |problem: String| ToolError::Version {
        name: name.to_owned(),
        command: argv.join(" "),
        problem,
    };
    let program = environment
        .find_program(&argv[0], &run.workspace.root)
        .ok_or_else(|| ToolError::NotFound(argv[0].clone()))?;
    let mut full: Vec<Vec<u8>> = argv.iter().map(|arg| arg.clone().into_bytes()).collect();
    full[0] = program.as_os_str().as_bytes().to_vec();
    let command = Command {
        argv: full,
        env: environment.variables(&std::env::temp_dir()),
        working_dir: run.workspace.root.as_os_str().as_bytes().to_vec(),
        jobserver: None,
        confinement: None,
        has_terminal: false,
    };
    let finished = run
        .command(&command, Some(VERSION_TIMEOUT), &[])
        .map_err(|error| fail(format!("could not be run: {error}")))?;
    match finished.ending {
        // Both streams count, each in its own order: their interleaving may vary.
        Ending::Code(0) => Ok(Hash::of(&finished.log.by_stream())),
        Ending::TimedOut => Err(fail(format!("took longer than {VERSION_TIMEOUT:?}"))),
        other => Err(fail(other.to_string())),
    }
}
