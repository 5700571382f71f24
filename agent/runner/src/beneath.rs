//! Changes in the workspace that cannot leave it, whatever links stand in the way.
//!
//! Every path is resolved by the kernel with `openat2(RESOLVE_BENEATH)`: a link inside the
//! workspace that stays inside is followed, one that leads out is an error.

use rustix::{
    fs::{AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags},
    io::Errno,
};
use std::{
    ffi::{CStr, OsStr},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

/// A path in the workspace cannot be changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BeneathError {
    #[error(
        "`{0}` leads out of the workspace through a symbolic link; replace the link by a \
         directory, or let the output stand outside of it"
    )]
    Escapes(String),
    #[error("cannot change `{path}`: {source}")]
    Io { path: String, source: io::Error },
}

/// A directory that nothing done through it ever leaves.
#[derive(Debug)]
pub(crate) struct Beneath {
    root: OwnedFd,
}

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC).union(OFlags::RDONLY);

impl Beneath {
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        Ok(Self { root: rustix::fs::open(root, DIRECTORY, Mode::empty())? })
    }

    /// Opens the directory that holds `path`, making it and those above it as needed.
    pub(crate) fn parent<'p>(&self, path: &'p [u8]) -> Result<(OwnedFd, &'p OsStr), BeneathError> {
        let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b"."[..], path),
        };
        Ok((self.directory(parent)?, OsStr::from_bytes(name)))
    }

    /// Opens the directory `path`, making it and those above it as needed.
    fn directory(&self, path: &[u8]) -> Result<OwnedFd, BeneathError> {
        match self.open_directory(path) {
            Err(Errno::NOENT) => {}
            other => return other.map_err(|error| wrap(path, error)),
        }
        let mut end = 0;
        while end < path.len() {
            end =
                path[end + 1..].iter().position(|b| *b == b'/').map_or(path.len(), |i| end + 1 + i);
            let prefix = &path[..end];
            if matches!(self.open_directory(prefix), Err(Errno::NOENT)) {
                let (parent, name) = self.parent(prefix)?;
                match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o777)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(wrap(prefix, error)),
                }
            }
        }
        self.open_directory(path).map_err(|error| wrap(path, error))
    }

    fn open_directory(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.root, OsStr::from_bytes(path), DIRECTORY, Mode::empty(), resolve)
    }

    /// Makes the directory `path` and those above it, and sees that its owner may change it. A file
    /// or link at `path` itself is replaced.
    pub(crate) fn make_directory(&self, path: &[u8]) -> Result<(), BeneathError> {
        let (parent, name) = self.parent(path)?;
        match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if is_directory(&stat) => {
                let whole = Mode::from_raw_mode(stat.st_mode).contains(Mode::RWXU);
                return match whole {
                    true => Ok(()),
                    false => open_all(&parent, name).map(drop).map_err(|error| wrap(path, error)),
                };
            }
            Ok(_) => remove_in(parent.as_fd(), name).map_err(|error| wrap(path, error))?,
            Err(Errno::NOENT) => {}
            Err(error) => return Err(wrap(path, error)),
        }
        rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o777))
            .map_err(|error| wrap(path, error))
    }

    /// Makes the directory that will hold `path`.
    pub(crate) fn make_parent(&self, path: &[u8]) -> Result<(), BeneathError> {
        self.parent(path).map(drop)
    }

    /// Moves the file or link `from` (an absolute path on the same file system) to `path`,
    /// replacing whatever stands there.
    pub(crate) fn place(&self, from: &Path, path: &[u8]) -> Result<(), BeneathError> {
        self.bring(CWD, from.as_os_str(), path)
    }

    /// The same with the file or link `path` of another such directory.
    pub(crate) fn place_from(&self, other: &Self, path: &[u8]) -> Result<(), BeneathError> {
        let (from, name) = other.parent(path)?;
        self.bring(from.as_fd(), name, path)
    }

    fn bring(&self, from: BorrowedFd<'_>, source: &OsStr, path: &[u8]) -> Result<(), BeneathError> {
        let (parent, name) = self.parent(path)?;
        let result = match rustix::fs::renameat(from, source, &parent, name) {
            Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => remove_in(parent.as_fd(), name)
                .and_then(|()| rustix::fs::renameat(from, source, &parent, name)),
            other => other,
        };
        result.map_err(|error| wrap(path, error))
    }

    /// Fails when a link leads from a directory, or from one above it, out of this one; that it is not there
    /// is fine.
    pub(crate) fn check(&self, directory: &[u8]) -> Result<(), BeneathError> {
        let directory = if directory.is_empty() { b"." } else { directory };
        match self.open_directory(directory) {
            Err(error @ (Errno::XDEV | Errno::LOOP)) => Err(wrap(directory, error)),
            _ => Ok(()),
        }
    }

    /// Moves what stands at `path` to `to` (an absolute path on the same file system). Says
    /// whether there was anything.
    pub(crate) fn take(&self, path: &[u8], to: &Path) -> Result<bool, BeneathError> {
        let (parent, name) = self.parent(path)?;
        let moved = match rustix::fs::renameat(&parent, name, CWD, to) {
            // Moving a directory changes its `..`, for which it must not be read-only.
            Err(Errno::ACCESS) => {
                open_all(&parent, name).and_then(|_| rustix::fs::renameat(&parent, name, CWD, to))
            }
            other => other,
        };
        match moved {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(wrap(path, error)),
        }
    }

    /// Removes whatever stands at `path`, with all that is in it.
    pub(crate) fn remove(&self, path: &[u8]) -> Result<(), BeneathError> {
        let (parent, name) = self.parent(path)?;
        remove_in(parent.as_fd(), name).map_err(|error| wrap(path, error))
    }
}

fn wrap(path: &[u8], error: Errno) -> BeneathError {
    let path = String::from_utf8_lossy(path).into_owned();
    match error {
        Errno::XDEV => BeneathError::Escapes(path),
        error => BeneathError::Io { path, source: error.into() },
    }
}

fn is_directory(stat: &rustix::fs::Stat) -> bool {
    rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir()
}

/// Removes what stands at an absolute path, with all that is in it, read-only directories too.
pub(crate) fn remove_all(path: &Path) -> io::Result<()> {
    Ok(remove_in(CWD, path.as_os_str())?)
}

/// Opens a directory after its owner has every right to it.
fn open_all(parent: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = DIRECTORY | OFlags::NOFOLLOW;
    let directory = match rustix::fs::openat(&parent, name, flags, Mode::empty()) {
        // One that its owner may not even list.
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(&parent, name, Mode::RWXU, AtFlags::empty())?;
            rustix::fs::openat(&parent, name, flags, Mode::empty())?
        }
        other => other?,
    };
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&directory)?.st_mode);
    if !mode.contains(Mode::RWXU) {
        rustix::fs::fchmod(&directory, mode | Mode::RWXU)?;
    }
    Ok(directory)
}

/// Removes an entry of a directory, with all that is in it; that it is gone already is fine.
fn remove_in(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    // A task may leave directories that are read-only.
    let directory = open_all(parent, name)?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        if !is_dots(entry.file_name()) {
            names.push(entry.file_name().to_owned());
        }
    }
    for name in names {
        remove_in(directory.as_fd(), OsStr::from_bytes(name.to_bytes()))?;
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

/// Joins workspace-relative paths.
pub(crate) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory {
        b"" | b"." => name.to_vec(),
        directory => [directory, b"/", name].concat(),
    }
}

/// A path for people.
pub(crate) fn shown(path: &[u8]) -> String {
    PathBuf::from(OsStr::from_bytes(path)).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    #[test]
    fn nothing_outside_is_ever_touched() {
        let outside = tempfile::tempdir().unwrap();
        let workspace = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("precious"), "x").unwrap();
        symlink(outside.path(), workspace.path().join("out")).unwrap();
        let beneath = Beneath::open(workspace.path()).unwrap();
        let staged = workspace.path().join("staged");
        fs::write(&staged, "y").unwrap();
        assert!(matches!(beneath.place(&staged, b"out/precious"), Err(BeneathError::Escapes(_))));
        assert!(matches!(beneath.remove(b"out/precious"), Err(BeneathError::Escapes(_))));
        assert!(matches!(beneath.make_directory(b"out/new/deep"), Err(BeneathError::Escapes(_))));
        assert_eq!(fs::read_to_string(outside.path().join("precious")).unwrap(), "x");
        beneath.remove(b"out").unwrap();
        assert!(outside.path().join("precious").exists());
    }

    #[test]
    fn a_link_that_stays_inside_is_followed() {
        let workspace = tempfile::tempdir().unwrap();
        fs::create_dir(workspace.path().join("real")).unwrap();
        symlink("real", workspace.path().join("out")).unwrap();
        fs::write(workspace.path().join("staged"), "y").unwrap();
        let beneath = Beneath::open(workspace.path()).unwrap();
        beneath.place(&workspace.path().join("staged"), b"out/a/b/c").unwrap();
        assert_eq!(fs::read_to_string(workspace.path().join("real/a/b/c")).unwrap(), "y");
    }

    #[test]
    fn read_only_trees_are_removed_and_files_replace_directories() {
        let workspace = tempfile::tempdir().unwrap();
        fs::create_dir_all(workspace.path().join("d/e")).unwrap();
        fs::write(workspace.path().join("d/e/f"), "").unwrap();
        for directory in ["d/e", "d"] {
            let path = workspace.path().join(directory);
            fs::set_permissions(path, fs::Permissions::from_mode(0o555)).unwrap();
        }
        let beneath = Beneath::open(workspace.path()).unwrap();
        fs::write(workspace.path().join("staged"), "y").unwrap();
        beneath.place(&workspace.path().join("staged"), b"d").unwrap();
        assert_eq!(fs::read_to_string(workspace.path().join("d")).unwrap(), "y");
        beneath.make_directory(b"d").unwrap();
        assert!(workspace.path().join("d").is_dir());
    }
}
