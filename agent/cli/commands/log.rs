//! `netbuild log`.

use super::{session, tasks_in};
use crate::{args::LogArgs, errors::CliError, graph_file, settings};
use netbuild_core::cache::Cache as _;
use netbuild_proto::log::{MAX_LOG, Stream, frames};
use std::{
    io::{self, Read as _},
    process::ExitCode,
};

/// Room for what a log has beside its limit: the note that it is cut.
const ROOM: u64 = 4096;

/// Prints what the command of a task printed when its result came about, each stream to that of its
/// name, in the order in which it came.
pub(crate) fn log(args: &LogArgs) -> Result<ExitCode, CliError> {
    let settings = settings(&args.common.flags())?;
    let root = graph_file::root_of(&args.graph)?;
    let task = &args.task;
    let known = tasks_in(&root).into_iter().find(|(name, _)| name == task);
    let Some((_, state)) = known else {
        return Err(CliError::failed(format!("no result of `{task}` is known in this workspace"))
            .hint("run it first; the log of a command that failed is not kept"));
    };
    let session = session(&settings)?;
    let gone = || {
        CliError::failed(format!("the cache has no result of `{task}` any more"))
            .hint("its outputs stand; `netbuild run` makes the result again when they change")
    };
    let hit = session.lookup(&state.key, &())?.ok_or_else(gone)?;
    let Some(digest) = hit.record.result.log else { return Ok(ExitCode::SUCCESS) };
    let mut bytes = Vec::new();
    let reader = session.open(&digest)?.ok_or_else(gone)?;
    let read = reader.take(MAX_LOG as u64 + ROOM).read_to_end(&mut bytes);
    read.map_err(|error| CliError::failed(format!("the log cannot be read: {error}")))?;
    for frame in frames(&bytes).map_err(|error| CliError::failed(error.to_string()))? {
        let written = match frame.stream {
            Stream::Stdout => write(&mut io::stdout().lock(), frame.bytes),
            Stream::Stderr => write(&mut io::stderr().lock(), frame.bytes),
        };
        if written.is_err() {
            // A reader that has gone away has read enough.
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write(to: &mut impl io::Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}
