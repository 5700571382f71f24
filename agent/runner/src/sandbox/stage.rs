//! A directory in which a command finds its declared inputs and nothing else of the workspace.
//!
//! Inputs are copied, as blocks that both share where the file system can, so that a command that writes to one
//! changes its copy only. When it did well, what it left at the declared places is moved into the
//! workspace; what else it left is named and goes with the stage.

use crate::{
    beneath::{Beneath, BeneathError, join, remove_all, shown},
    files::{FileTable, is_large},
    inputs::{EXTERNAL, Inputs, entries},
    looks::{Looks, stamp_of},
    outputs::{self, Collected, OutputError},
    restore,
    run::Run,
    workspace::WorkspaceError,
};
use memchr::memmem::Finder;
use netbuild_core::{
    glob::Glob,
    graph::Task,
    key::{OutputDeclaration, OutputShape},
    tree::Entry,
};
use netbuild_proto::workspace::Stamp;
use rustix::{
    fs::{Mode, OFlags, Timestamps},
    io::Errno,
};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

/// Most stray files that are counted.
const MOST_STRAYS: usize = 1_000;

/// A stage cannot be set up, or what stands on it cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StageError {
    #[error("cannot copy `{path}` to the stage: {error}", path = shown(.0), error = .1)]
    Copy(Vec<u8>, #[source] io::Error),
    #[error("on the stage: {0}")]
    Place(#[from] BeneathError),
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    #[error("cannot take the outputs: {0}")]
    Take(#[from] restore::RestoreError),
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// Removed when dropped.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) root: PathBuf,
    beneath: Beneath,
    /// What was put here, as it was then.
    put: BTreeMap<Vec<u8>, Stamp>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What cannot be removed now is removed by a later run.
        drop(remove_all(&self.root));
    }
}

impl Stage {
    /// A stage with these inputs, and with earlier outputs where the task does not want them removed.
    pub(crate) fn set(run: &Run<'_>, task: &Task, inputs: &Inputs) -> Result<Self, StageError> {
        let root = run.workspace.stage_path()?;
        let beneath = Beneath::open(&root).map_err(|error| StageError::Copy(Vec::new(), error))?;
        let mut stage = Self { root, beneath, put: BTreeMap::new() };
        let files = &run.workspace.files;
        let outside = |path: &[u8]| path.starts_with(&[EXTERNAL, b"/"].concat());
        // Links come last: in the place of a directory that was made for what is in it, none is needed.
        for (path, seen) in inputs {
            match &seen.entry {
                _ if outside(path) => {}
                Entry::File { executable, .. } => {
                    stage.copy(&files.absolute(path), path, *executable)?;
                }
                Entry::Directory => stage.beneath.make_directory(path)?,
                Entry::Symlink { .. } => {}
            }
        }
        for (path, seen) in inputs {
            if let Entry::Symlink { target } = &seen.entry {
                let leads_to = inputs.get(&[EXTERNAL, b"/", path].concat());
                stage.link(run, path, target, leads_to.map(|seen| &seen.entry))?;
            }
        }
        if !task.clean {
            stage.put_earlier_outputs(run, task)?;
        }
        for declaration in super::declared(task) {
            let path = declaration.place().as_bytes();
            match declaration.shape {
                OutputShape::Path | OutputShape::Tree => stage.beneath.make_parent(path)?,
                OutputShape::Glob => {
                    let glob = Glob::new(&declaration.pattern).map_err(OutputError::from)?;
                    let start = join(glob.literal_prefix().as_bytes(), b"x");
                    stage.beneath.make_parent(&start)?;
                }
            }
        }
        if task.working_dir != "." {
            stage.beneath.make_directory(task.working_dir.as_bytes())?;
        }
        Ok(stage)
    }

    /// A link to another input stands as it is. What is keyed with the link has to be there, too: in the
    /// workspace where the link says, from elsewhere in the place of the link.
    fn link(
        &mut self,
        run: &Run<'_>,
        path: &[u8],
        target: &[u8],
        leads_to: Option<&Entry>,
    ) -> Result<(), StageError> {
        let fail = |error| StageError::Copy(path.to_vec(), error);
        if let Some(Entry::File { executable, .. }) = leads_to {
            let real = run.workspace.files.absolute(path).canonicalize().map_err(fail)?;
            match real.strip_prefix(&run.workspace.root) {
                Ok(inside) => {
                    let inside = inside.as_os_str().as_bytes();
                    if !self.put.contains_key(inside) {
                        self.copy(&real, inside, *executable)?;
                    }
                }
                Err(_) => return self.copy(&real, path, *executable),
            }
        }
        let (parent, name) = self.beneath.parent(path)?;
        match rustix::fs::symlinkat(OsStr::from_bytes(target), &parent, name) {
            Ok(()) => self.remember(path),
            Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(fail(error.into())),
        }
    }

    fn put_earlier_outputs(&mut self, run: &Run<'_>, task: &Task) -> Result<(), StageError> {
        let files = &run.workspace.files;
        let mut directories = Vec::new();
        for declaration in super::declared(task) {
            let path = declaration.place().as_bytes();
            match declaration.shape {
                OutputShape::Path => self.put_earlier(run, path)?,
                OutputShape::Tree => directories.push(path.to_vec()),
                OutputShape::Glob => {
                    let glob = Glob::new(&declaration.pattern).map_err(OutputError::from)?;
                    for path in outputs::matching(files, &glob).map_err(OutputError::from)? {
                        self.put_earlier(run, &path)?;
                    }
                }
            }
        }
        while let Some(directory) = directories.pop() {
            for (name, is_directory) in entries(files, &directory).map_err(OutputError::from)? {
                let path = join(&directory, &name);
                if is_directory {
                    self.beneath.make_directory(&path)?;
                    directories.push(path);
                } else {
                    self.put_earlier(run, &path)?;
                }
            }
        }
        Ok(())
    }

    /// Puts an earlier output here, if there is one.
    fn put_earlier(&mut self, run: &Run<'_>, path: &[u8]) -> Result<(), StageError> {
        let absolute = run.workspace.files.absolute(path);
        let Ok(metadata) = absolute.symlink_metadata() else { return Ok(()) };
        if metadata.is_file() {
            self.copy(&absolute, path, metadata.mode() & 0o100 != 0)?;
        } else if metadata.is_symlink() {
            let target =
                fs::read_link(&absolute).map_err(|error| StageError::Copy(path.to_vec(), error))?;
            self.link(run, path, target.as_os_str().as_bytes(), None)?;
        }
        // It is an output, and no input that must stay as it is.
        self.put.remove(path);
        Ok(())
    }

    fn copy(&mut self, from: &Path, path: &[u8], executable: bool) -> Result<(), StageError> {
        let fail = |error| StageError::Copy(path.to_vec(), error);
        // Non-blocking, since it may have become a pipe since it was looked at.
        let source = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(from)
            .map_err(fail)?;
        let metadata = source.metadata().map_err(fail)?;
        if is_large(metadata.len()) {
            return Err(fail(io::Error::other("it is too large to be copied for one command")));
        }
        let (parent, name) = self.beneath.parent(path)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(if executable { 0o755 } else { 0o644 });
        let target = match rustix::fs::openat(&parent, name, flags, mode) {
            Ok(target) => File::from(target),
            // A link that leads to another input has brought it already.
            Err(Errno::EXIST) => return Ok(()),
            Err(error) => return Err(fail(error.into())),
        };
        let copied = copy_blocks(&source, &target).map_err(fail)?;
        if copied != metadata.len() {
            return Err(fail(io::Error::other("it changes while it is copied")));
        }
        // Whatever the umask of the run is. Tools that compare times find them as in the workspace.
        rustix::fs::fchmod(&target, mode)
            .and_then(|()| {
                let time = rustix::fs::Timespec {
                    tv_sec: metadata.mtime(),
                    tv_nsec: metadata.mtime_nsec(),
                };
                let times = Timestamps { last_access: time, last_modification: time };
                rustix::fs::futimens(&target, &times)
            })
            .map_err(|error| fail(error.into()))?;
        let stamp = stamp_of(&target.metadata().map_err(fail)?);
        self.put.insert(path.to_vec(), stamp);
        Ok(())
    }

    fn remember(&mut self, path: &[u8]) -> Result<(), StageError> {
        let metadata = self.absolute(path).symlink_metadata();
        let metadata = metadata.map_err(|error| StageError::Copy(path.to_vec(), error))?;
        self.put.insert(path.to_vec(), stamp_of(&metadata));
        Ok(())
    }

    fn absolute(&self, path: &[u8]) -> PathBuf {
        self.root.join(OsStr::from_bytes(path))
    }

    /// Finds and digests the declared outputs here.
    pub(crate) fn collect(
        &self,
        declared: &[OutputDeclaration],
        workspace: &Finder<'_>,
    ) -> Result<Collected, StageError> {
        let stage = Finder::new(self.root.as_os_str().as_bytes());
        // The command may have put links in the place of directories: what is behind them is not its.
        for declaration in declared {
            let path = declaration.pattern.trim_end_matches('/');
            match declaration.shape {
                OutputShape::Path => self.beneath.check(parent_of(path))?,
                OutputShape::Tree => self.beneath.check(path.as_bytes())?,
                OutputShape::Glob => {
                    let glob = Glob::new(&declaration.pattern).map_err(OutputError::from)?;
                    self.beneath.check(glob.literal_prefix().as_bytes())?;
                }
            }
        }
        let table = FileTable::new(&self.root, Vec::new(), Looks::none())
            .map_err(|error| StageError::Copy(Vec::new(), error))?;
        Ok(outputs::collect(&table, declared, workspace, Some(&stage))?)
    }

    /// Moves what was collected into the workspace, where it then stands alone.
    pub(crate) fn deliver(
        &self,
        run: &Run<'_>,
        collected: &Collected,
        cleaned: &[OutputDeclaration],
    ) -> Result<(), StageError> {
        let workspace = &run.workspace;
        let (outputs, entries) = (&collected.outputs, &collected.entries);
        for (path, entry) in entries {
            match entry {
                Entry::Directory => workspace.beneath.make_directory(path)?,
                Entry::Symlink { .. } => workspace.beneath.place_from(&self.beneath, path)?,
                Entry::File { digest, .. } => {
                    workspace.beneath.place_from(&self.beneath, path)?;
                    if !is_large(digest.size) {
                        workspace.files.learn(path, *digest);
                    }
                }
            }
        }
        for path in restore::strangers(workspace, outputs, entries, cleaned)? {
            workspace.beneath.remove(&path)?;
        }
        Ok(())
    }

    /// What the command left beside the outputs, which are sorted, and which inputs it changed here; sorted. What
    /// cannot be looked at counts as such.
    pub(crate) fn strays(&self, outputs: &[(Vec<u8>, Entry)]) -> Vec<String> {
        let mut found = Vec::new();
        let mut stray = |path: &[u8]| {
            if found.len() < MOST_STRAYS {
                found.push(shown(path));
            }
        };
        let mut standing = 0;
        let mut directories = vec![Vec::new()];
        while let Some(directory) = directories.pop() {
            let Ok(list) = fs::read_dir(self.absolute(&directory)) else {
                stray(if directory.is_empty() { b"." } else { &directory });
                continue;
            };
            for entry in list.flatten() {
                let path = join(&directory, entry.file_name().as_bytes());
                let metadata = entry.metadata().ok();
                if metadata.as_ref().is_some_and(fs::Metadata::is_dir) {
                    directories.push(path);
                    continue;
                }
                if outputs.binary_search_by(|(output, _)| output.cmp(&path)).is_ok() {
                    continue;
                }
                let was = self.put.get(&path);
                standing += usize::from(was.is_some());
                let is = metadata.as_ref().map(stamp_of);
                if is.is_none() || is.as_ref() != was {
                    stray(&path);
                }
            }
        }
        if standing < self.put.len() {
            let gone =
                self.put.keys().filter(|path| self.absolute(path).symlink_metadata().is_err());
            found.extend(gone.take(MOST_STRAYS).map(|path| shown(path)));
        }
        found.sort();
        found
    }
}

/// The directory that holds a path.
fn parent_of(path: &str) -> &[u8] {
    path.rsplit_once('/').map_or("", |(parent, _)| parent).as_bytes()
}

/// Copies all of a file, sharing its blocks where the file system can; how much it was.
fn copy_blocks(mut source: &File, mut target: &File) -> io::Result<u64> {
    if rustix::fs::ioctl_ficlone(target, source).is_ok() {
        return Ok(target.metadata()?.len());
    }
    // In the kernel, where it can.
    io::copy(&mut source, &mut target)
}
