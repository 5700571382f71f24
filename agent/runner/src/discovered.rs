//! Inputs that a command names in its `dep_file`, as compilers do for headers.
//!
//! They are known only after the command ran, and count from then on: the key that a result is kept
//! under has them, and a task whose dep file was never read in this workspace runs. As compilers are
//! tools, paths outside of the workspace are left out.

use crate::{
    beneath::shown,
    files::FileError,
    inputs::{self, InputError, Inputs},
    run::Run,
};
use netbuild_core::{depfile, graph::Task};
use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
    time::Duration,
};

/// How far the time stamps of a file system may lag behind the clock: a tick, at 100 Hz, twice.
const TICK: Duration = Duration::from_millis(20);

/// Paths of the workspace, sorted.
pub(crate) type Discovered = Vec<Vec<u8>>;

/// Adds what earlier runs discovered. What is gone since is no input: without it the key differs.
pub(crate) fn add(
    run: &Run<'_>,
    paths: &Discovered,
    inputs: &mut Inputs,
) -> Result<(), InputError> {
    for path in paths {
        match inputs::add_path(&run.workspace.files, inputs, path) {
            Ok(()) | Err(FileError::Missing(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What the command named, or why that cannot be told.
pub(crate) fn read(run: &Run<'_>, task: &Task, dep_file: &str) -> Result<Discovered, String> {
    let bad = |problem: String| format!("its dep file `{dep_file}` {problem}");
    let bytes = content(&run.workspace.files.absolute(dep_file.as_bytes()))
        .map_err(|error| bad(format!("cannot be read: {error}")))?;
    let named = depfile::parse(&bytes).map_err(|error| bad(format!("is no dep file: {error}")))?;
    let root = run.workspace.root.as_os_str().as_encoded_bytes();
    let mut paths: Vec<_> =
        named.iter().filter_map(|path| within(root, task.working_dir.as_bytes(), path)).collect();
    paths.sort();
    paths.dedup();
    Ok(paths)
}

fn content(path: &Path) -> io::Result<Vec<u8>> {
    // Without waiting for a writer, should it be a FIFO.
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(depfile::MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    match bytes.len() > depfile::MAX_BYTES {
        true => Err(io::Error::other("too large")),
        false => Ok(bytes),
    }
}

/// A path as the workspace has it, `None` outside of it.
fn within(root: &[u8], working_dir: &[u8], path: &[u8]) -> Option<Vec<u8>> {
    let mut names: Vec<&[u8]> = Vec::new();
    let rest = match path.strip_prefix(b"/") {
        None => {
            names.extend(working_dir.split(|b| *b == b'/').filter(|name| *name != b"."));
            path
        }
        Some(_) => path.strip_prefix(root)?.strip_prefix(b"/")?,
    };
    for name in rest.split(|b| *b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()?),
            name => names.push(name),
        }
    }
    (!names.is_empty()).then(|| names.join(&b'/'))
}

/// Whether an input that was not known before the command ran may have changed since it began, at
/// `started`, nanoseconds since the Unix epoch: then nobody knows which content the command read.
pub(crate) fn changed(run: &Run<'_>, known: &Inputs, now: &Inputs, started: i64) -> Option<String> {
    for (path, was) in known {
        if now.get(path).is_some_and(|is| is.entry != was.entry) {
            return Some(format!("input `{}` changed while the task ran", shown(path)));
        }
    }
    let since = started.saturating_sub(TICK.as_nanos() as i64);
    let new = now.iter().filter(|(path, _)| !known.contains_key(*path));
    let mut young = new.filter(|(_, seen)| seen.stamp.ctime_ns >= since);
    // What a task before this one left is young as well, and is what that task left.
    let late = young.find(|(path, seen)| run.left_at(path).as_ref() != Some(&seen.entry));
    late.map(|(path, _)| format!("input `{}` may have changed while the task ran", shown(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_compiler_names_is_found_in_the_workspace_or_left_out() {
        for (path, expected) in [
            ("a.h", Some("sub/a.h")),
            ("../x/./b.h", Some("x/b.h")),
            ("/w/c.h", Some("c.h")),
            ("/w/a/../d.h", Some("d.h")),
            ("/usr/include/stdio.h", None),
            ("/wide/a.h", None),
            ("../../a.h", None),
            ("/w", None),
        ] {
            let found = within(b"/w", b"sub", path.as_bytes());
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{path}");
        }
    }
}
