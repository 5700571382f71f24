//! Errors as advice: what a person sees, with a hint where there is one, and the exit code.

use netbuild_core::{
    cache::CacheError,
    graph::{Problems, UnknownTask},
};
use netbuild_node::{AgentError, RunError, SessionError, chain};
use netbuild_runner::WorkspaceError;
use std::{error::Error, io::Write as _, path::Path, process::ExitCode};

/// A task failed, or what was asked for is not to be had.
pub(crate) const EXIT_FAILED: u8 = 1;
/// Wrong usage: arguments, configuration, graph, data directory.
pub(crate) const EXIT_USAGE: u8 = 2;

/// An error on its way to a person.
#[derive(Debug)]
pub(crate) struct CliError {
    message: String,
    hint: Option<String>,
    code: u8,
}

impl CliError {
    pub(crate) fn usage(error: impl Error) -> Self {
        Self { message: chain(&error), hint: None, code: EXIT_USAGE }
    }

    /// Wrong usage that no library has an error for.
    pub(crate) fn wrong(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, code: EXIT_USAGE }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, code: EXIT_FAILED }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    pub(crate) fn io(action: &str, path: &Path, error: &std::io::Error) -> Self {
        let message = format!("cannot {action} `{}`: {error}", path.display());
        Self { message, hint: None, code: EXIT_USAGE }
    }

    pub(crate) fn graph(file: &Path, problems: &Problems) -> Self {
        let message = problems.in_file(&file.display().to_string()).to_string();
        Self { message, hint: None, code: EXIT_USAGE }
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Prints the error and returns its exit code, which tells enough when nobody reads the rest.
    pub(crate) fn print(self, program: &str) -> ExitCode {
        let hint = self.hint.map(|hint| format!("  hint: {hint}\n")).unwrap_or_default();
        drop(write!(std::io::stderr().lock(), "{program}: {}\n{hint}", self.message));
        ExitCode::from(self.code)
    }
}

impl From<UnknownTask> for CliError {
    fn from(error: UnknownTask) -> Self {
        let hint = error.suggestion.as_ref().map(|name| format!("did you mean `{name}`?"));
        Self { hint, ..Self::usage(error) }
    }
}

impl From<SessionError> for CliError {
    fn from(error: SessionError) -> Self {
        let hint = match &error {
            SessionError::Open(error) => open_hint(error),
            _ => None,
        };
        Self { hint, ..Self::usage(error) }
    }
}

impl From<RunError> for CliError {
    fn from(error: RunError) -> Self {
        let hint = match &error {
            RunError::Agent(AgentError::Open(error)) => open_hint(error),
            RunError::Agent(AgentError::Mesh(_)) => {
                Some("another program may use the port; choose one with --listen".to_owned())
            }
            RunError::Agent(AgentError::Bind(_)) => Some(
                "choose the address with --listen, and the port with data_port in the configuration"
                    .to_owned(),
            ),
            _ => None,
        };
        Self { hint, ..Self::usage(error) }
    }
}

fn open_hint(error: &netbuild_node::OpenError) -> Option<String> {
    use netbuild_node::OpenError;
    match error {
        OpenError::InUse { .. } => Some(
            "stop that process, or give this one a data directory of its own with --data-dir"
                .to_owned(),
        ),
        OpenError::NewerFormat { .. } => Some(
            "use the newer netbuild, or another data directory with --data-dir; nothing was changed"
                .to_owned(),
        ),
        OpenError::BadFormat { .. } | OpenError::Foreign { .. } => {
            Some("name another data directory with --data-dir; nothing was changed".to_owned())
        }
        OpenError::Io { source, .. } => Some(refusal_hint(source.kind())?.to_owned()),
        OpenError::Index { .. } => None,
    }
}

/// What a person may do when the system refuses to let the data directory be used.
fn refusal_hint(kind: std::io::ErrorKind) -> Option<&'static str> {
    use std::io::ErrorKind;
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some("make room on that disk"),
        ErrorKind::ReadOnlyFilesystem => {
            Some("the disk is read-only; mount it for writing, or choose another with --data-dir")
        }
        ErrorKind::PermissionDenied => {
            Some("the data directory must be this user's; choose another with --data-dir")
        }
        _ => None,
    }
}

impl From<WorkspaceError> for CliError {
    fn from(error: WorkspaceError) -> Self {
        Self::usage(error).hint("netbuild needs to write `.netbuild/` beside the graph file")
    }
}

impl From<CacheError> for CliError {
    fn from(error: CacheError) -> Self {
        Self::failed(error.to_string())
    }
}
