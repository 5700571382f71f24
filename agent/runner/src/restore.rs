//! Makes the outputs of a task exactly what a record says.
//!
//! First everything is brought into the staging directory, verified; only then is the workspace
//! touched. What is right already keeps its place and its times.

use crate::{
    beneath::{BeneathError, join},
    files::FileError,
    inputs, outputs,
    run::Run,
    sharing::share,
    workspace::{Workspace, WorkspaceError},
};
use netbuild_core::{
    cache::{Cache, CacheError},
    digest::Digest,
    glob::Glob,
    key::{OutputDeclaration, OutputShape},
    record::{Output, OutputKind},
    tree::Entry,
};
use netbuild_proto::listing;
use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions, Permissions},
    io::{self, Read as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

/// Fewest entries for which another thread is worth its start.
const SHARE: usize = 64;
/// Most bytes copied at once.
const BUFFER: usize = 256 * 1024;

/// Outputs that could not be restored. The workspace is untouched unless said otherwise; the
/// task runs instead.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    #[error("blob {0} is not in the cache any more, or is damaged")]
    Lost(Digest),
    #[error("the record of the result is malformed: {0}")]
    Malformed(String),
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error("cannot write `{path}`: {error}", path = .0.display(), error = .1)]
    Staging(PathBuf, #[source] io::Error),
    #[error(transparent)]
    Workspace(#[from] BeneathError),
    #[error(transparent)]
    Ours(#[from] WorkspaceError),
    #[error(transparent)]
    Look(#[from] FileError),
}

/// Every file, link and directory that a record's outputs stand for, sorted by path.
pub(crate) fn expand(
    outputs: &[Output],
    cache: &dyn Cache,
) -> Result<Vec<(Vec<u8>, Entry)>, RestoreError> {
    let mut entries = Vec::new();
    for output in outputs {
        let path = output.path.clone();
        match &output.kind {
            OutputKind::File { digest, executable } => {
                entries.push((path, Entry::File { digest: *digest, executable: *executable }));
            }
            OutputKind::Symlink { target } => {
                entries.push((path, Entry::Symlink { target: target.clone() }));
            }
            OutputKind::Tree { listing } => {
                let below = read_listing(listing, cache)?;
                entries.extend(below.into_iter().map(|(name, entry)| (join(&path, &name), entry)));
                entries.push((path, Entry::Directory));
            }
            OutputKind::Files { listing } => entries.extend(read_listing(listing, cache)?),
            OutputKind::Absent => {}
        }
    }
    entries.sort();
    Ok(entries)
}

fn read_listing(digest: &Digest, cache: &dyn Cache) -> Result<Vec<(Vec<u8>, Entry)>, RestoreError> {
    if digest.size > listing::MAX_LISTING as u64 {
        return Err(RestoreError::Malformed(format!("listing {digest} is too large")));
    }
    let mut bytes = Vec::new();
    let mut reader = cache.open(digest)?.ok_or(RestoreError::Lost(*digest))?;
    reader.read_to_end(&mut bytes).map_err(|_| RestoreError::Lost(*digest))?;
    listing::decode(&bytes).map_err(|error| RestoreError::Malformed(error.to_string()))
}

/// Whether the workspace has exactly these outputs. What cannot be looked at is not as it was.
pub(crate) fn is_exact(
    workspace: &Workspace,
    outputs: &[Output],
    entries: &[(Vec<u8>, Entry)],
    cleaned: &[OutputDeclaration],
) -> bool {
    let stands = |(path, expected): &(Vec<u8>, Entry)| {
        workspace.files.see(path).is_ok_and(|seen| seen.entry == *expected)
    };
    entries.iter().all(stands)
        && strangers(workspace, outputs, entries, cleaned).is_ok_and(|found| found.is_empty())
}

/// What would not be there if the task had just run: in its directories, at the places of absent
/// outputs, and where a pattern that is `cleaned` before a run matches. Of a directory with all
/// that is in it, only the directory.
pub(crate) fn strangers(
    workspace: &Workspace,
    outputs: &[Output],
    entries: &[(Vec<u8>, Entry)],
    cleaned: &[OutputDeclaration],
) -> Result<Vec<Vec<u8>>, RestoreError> {
    let known: BTreeSet<&[u8]> = entries.iter().map(|(path, _)| path.as_slice()).collect();
    let mut strangers = Vec::new();
    for pattern in cleaned.iter().filter(|declared| declared.shape == OutputShape::Glob) {
        let glob = Glob::new(&pattern.pattern)
            .map_err(|error| RestoreError::Malformed(error.to_string()))?;
        let found = outputs::matching(&workspace.files, &glob)?;
        strangers.extend(found.into_iter().filter(|path| !known.contains(path.as_slice())));
    }
    let mut directories = Vec::new();
    for Output { path, kind } in outputs {
        match kind {
            OutputKind::Absent => {
                strangers.extend(workspace.files.is_there(path).then(|| path.clone()));
            }
            OutputKind::Tree { .. } => directories.push(path.clone()),
            _ => {}
        }
    }
    while let Some(directory) = directories.pop() {
        for (name, is_directory) in inputs::entries(&workspace.files, &directory)? {
            let path = join(&directory, &name);
            if !known.contains(path.as_slice()) {
                strangers.push(path);
            } else if is_directory {
                directories.push(path);
            }
        }
    }
    Ok(strangers)
}

/// Restores the outputs. `entries` is what [`expand`] made of them.
pub(crate) fn restore(
    run: &Run<'_>,
    outputs: &[Output],
    entries: &[(Vec<u8>, Entry)],
    cleaned: &[OutputDeclaration],
) -> Result<(), RestoreError> {
    let workspace = &run.workspace;
    let staged = stage_all(run, entries, !cleaned.is_empty())?;
    // From here on the workspace changes. Directories come before what is in them, as the entries
    // are sorted.
    for (path, entry, from) in staged {
        match from {
            None => workspace.beneath.make_directory(path)?,
            Some(from) => workspace.beneath.place(&from, path)?,
        }
        if let Entry::File { digest, .. } = entry {
            workspace.files.learn(path, *digest);
        }
    }
    for path in strangers(workspace, outputs, entries, cleaned)? {
        workspace.beneath.remove(&path)?;
    }
    Ok(())
}

/// An entry that has to be put into its place, and where it waits for that.
type Staged<'e> = (&'e [u8], &'e Entry, Option<PathBuf>);

/// Brings what is not in its place already into the staging directory, in the order of `entries`. When
/// something of it cannot be had, all is removed again: the space may be what is missing, and the
/// command that now runs needs it. Only what `may_link` is made of hard links.
fn stage_all<'e>(
    run: &Run<'_>,
    entries: &'e [(Vec<u8>, Entry)],
    may_link: bool,
) -> Result<Vec<Staged<'e>>, RestoreError> {
    let share = entries.len().div_ceil(run.jobs).max(SHARE);
    let mut all = Vec::with_capacity(entries.len());
    let mut failed = None;
    let mut take = |(some, error): (Vec<_>, Option<RestoreError>)| {
        all.extend(some);
        failed = failed.take().or(error);
    };
    if entries.len() <= share {
        take(stage_some(run, entries, may_link));
    } else {
        std::thread::scope(|scope| {
            let threads: Vec<_> = entries
                .chunks(share)
                .map(|some| scope.spawn(move || stage_some(run, some, may_link)))
                .collect();
            for thread in threads {
                take(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
        });
    }
    let Some(error) = failed else { return Ok(all) };
    for path in all.iter().filter_map(|(_, _, staged)| staged.as_ref()) {
        // What cannot be removed goes with the staging directory.
        drop(std::fs::remove_file(path));
    }
    Err(error)
}

/// What was brought before something could not be, and why that could not.
fn stage_some<'e>(
    run: &Run<'_>,
    entries: &'e [(Vec<u8>, Entry)],
    may_link: bool,
) -> (Vec<Staged<'e>>, Option<RestoreError>) {
    let workspace = &run.workspace;
    let mut staged = Vec::with_capacity(entries.len());
    let mut buffer = Vec::new();
    for (path, entry) in entries {
        match workspace.files.see(path) {
            // A directory may be read-only, when something in it has to change.
            Ok(seen) if seen.entry == *entry && *entry != Entry::Directory => continue,
            Ok(_) | Err(FileError::Missing(_) | FileError::Special(..)) => {}
            Err(error) => return (staged, Some(error.into())),
        }
        match stage(run, entry, may_link, &mut buffer) {
            Ok(from) => staged.push((path.as_slice(), entry, from)),
            Err(error) => return (staged, Some(error)),
        }
    }
    (staged, None)
}

/// Brings one file or link into the staging directory; nothing for a directory.
fn stage(
    run: &Run<'_>,
    entry: &Entry,
    may_link: bool,
    buffer: &mut Vec<u8>,
) -> Result<Option<PathBuf>, RestoreError> {
    if *entry == Entry::Directory {
        return Ok(None);
    }
    let path = run.workspace.staging_path()?;
    let staging = |error| RestoreError::Staging(path.clone(), error);
    match entry {
        Entry::Directory => {}
        Entry::Symlink { target } => {
            use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};
            symlink(OsStr::from_bytes(target), &path).map_err(staging)?;
        }
        Entry::File { digest, executable } => {
            if !share(run, digest, *executable, may_link, &path) {
                let copied = copy_of(run.cache, digest, *executable, &path, buffer);
                copied.inspect_err(|_| drop(std::fs::remove_file(&path)))?;
            }
        }
    }
    Ok(Some(path))
}

fn copy_of(
    cache: &dyn Cache,
    digest: &Digest,
    executable: bool,
    path: &Path,
    buffer: &mut Vec<u8>,
) -> Result<(), RestoreError> {
    let reader = cache.open(digest)?.ok_or(RestoreError::Lost(*digest))?;
    let file = copy(reader, digest, path, buffer)?;
    // As if the file had been made under the umask of the commands.
    let mode = if executable { 0o755 } else { 0o644 };
    file.set_permissions(Permissions::from_mode(mode))
        .map_err(|error| RestoreError::Staging(path.to_owned(), error))
}

/// Copies a blob, telling apart that it cannot be read and that it cannot be written. The reader
/// verifies the bytes.
fn copy(
    mut reader: Box<dyn io::Read + Send>,
    digest: &Digest,
    path: &Path,
    buffer: &mut Vec<u8>,
) -> Result<File, RestoreError> {
    let staging = |error| RestoreError::Staging(path.to_owned(), error);
    let room = digest.size.clamp(1, BUFFER as u64) as usize;
    if buffer.len() < room {
        buffer.resize(room, 0);
    }
    let options = OpenOptions::new().write(true).create_new(true).mode(0o600).clone();
    let mut file = options.open(path).map_err(staging)?;
    loop {
        match reader.read(buffer) {
            Ok(0) => return Ok(file),
            Ok(count) => io::Write::write_all(&mut file, &buffer[..count]).map_err(staging)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(RestoreError::Lost(*digest)),
        }
    }
}
