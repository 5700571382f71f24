//! The command `ip`, which does to namespaces, addresses and routes what would be a netlink client
//! of some size here.

use crate::error::WanError;
use std::{
    io::{self, Write as _},
    process::{Child, Command, Stdio},
};

/// A batch of commands that is on its way.
pub(crate) struct Batch(Child);

impl Batch {
    /// Starts `ip` on these lines, in this namespace or in the current one.
    pub(crate) fn start(namespace: Option<&str>, lines: &[String]) -> Result<Self, WanError> {
        let mut command = Command::new("ip");
        if let Some(namespace) = namespace {
            command.args(["-netns", namespace]);
        }
        Self::spawn(command.args(["-batch", "-"]), lines)
    }

    fn spawn(command: &mut Command, lines: &[String]) -> Result<Self, WanError> {
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => WanError::NoIp,
            _ => WanError::io("start `ip`")(error),
        })?;
        if let Some(mut stdin) = child.stdin.take() {
            // It stops reading at the first command that fails, and says so at its end.
            drop(stdin.write_all((lines.join("\n") + "\n").as_bytes()));
        }
        Ok(Self(child))
    }

    /// Waits for its end.
    pub(crate) fn finish(self) -> Result<(), WanError> {
        let output = self.0.wait_with_output().map_err(WanError::io("wait for `ip`"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(WanError::Ip(said.lines().collect::<Vec<_>>().join("; ")))
    }
}

/// Runs these lines to their end.
pub(crate) fn batch(namespace: Option<&str>, lines: &[String]) -> Result<(), WanError> {
    Batch::start(namespace, lines)?.finish()
}

/// Runs these lines, whether they succeed or not: removes what may or may not be there.
pub(crate) fn undo(lines: &[String]) -> Result<(), WanError> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut command = Command::new("ip");
    match Batch::spawn(command.args(["-force", "-batch", "-"]), lines)?.finish() {
        Err(WanError::Ip(_)) | Ok(()) => Ok(()),
        Err(error) => Err(error),
    }
}
