//! The directory of one demo, which is gone when it ends.
//!
//! A demo that is killed cannot remove it; the next one of the same user does. Who is still there is
//! told by a lock, which the kernel lets go with the process.

use crate::errors::CliError;
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{self, DirBuilder, File},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

/// What the names of all demos begin with.
const PREFIX: &str = "netbuild-demo-";
/// The file that is locked.
const LOCK: &str = "lock";

/// A directory of a demo.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    _lock: File,
}

impl Place {
    /// Makes the directory of this process, and removes those of demos that were killed.
    pub(crate) fn make() -> Result<Self, CliError> {
        let parent = std::env::temp_dir();
        let parent = parent.canonicalize().map_err(|e| CliError::io("find", &parent, &e))?;
        sweep(&parent);
        let path = parent.join(format!("{PREFIX}{}", std::process::id()));
        // Never one that is there already: it would be somebody else's.
        DirBuilder::new().mode(0o700).create(&path).map_err(|error| {
            CliError::io("make", &path, &error).hint("choose another directory with TMPDIR")
        })?;
        let lock = path.join(LOCK);
        let made = File::create_new(&lock).and_then(|file| {
            flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            Ok(file)
        });
        let lock = made.map_err(|error| CliError::io("lock", &lock, &error))?;
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes a directory in it.
    pub(crate) fn directory(&self, name: &str) -> Result<PathBuf, CliError> {
        let path = self.join(name);
        fs::create_dir_all(&path).map_err(|error| CliError::io("make", &path, &error))?;
        Ok(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!("cannot remove `{}`: {error}", self.path.display());
        }
    }
}

/// Removes what killed demos of this user have left.
fn sweep(parent: &Path) {
    let me = rustix::process::geteuid().as_raw();
    let Ok(list) = fs::read_dir(parent) else { return };
    for path in list.filter_map(|entry| Some(entry.ok()?.path())) {
        let ours = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        let is_mine = |path: &Path| {
            path.symlink_metadata().is_ok_and(|meta| meta.is_dir() && meta.uid() == me)
        };
        if !ours || !is_mine(&path) {
            continue;
        }
        // One without the file was not made to its end, or is just being made.
        let Ok(lock) = File::open(path.join(LOCK)) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            drop(fs::remove_dir_all(&path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_demo_left_is_removed_and_one_that_runs_is_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = parent.path().join(name);
            fs::create_dir(&path).unwrap();
            File::create(path.join(LOCK)).unwrap()
        };
        drop(make("netbuild-demo-1"));
        drop(make("somebody-else"));
        let running = make("netbuild-demo-2");
        flock(&running, FlockOperation::NonBlockingLockExclusive).unwrap();
        sweep(parent.path());
        let mut left: Vec<_> = fs::read_dir(parent.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["netbuild-demo-2", "somebody-else"]);
    }
}
