//! The data directory and the disk below it.

use crate::{chain::chain, config::StoreSettings, room};
use netbuild_core::doctor::{Directory, FileSystem, Place, State};
use netbuild_store::{DiskStore, OpenError};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// What is written for a trial, in bytes.
const TRIAL: usize = 4096;
/// Times that it is written; the time in the middle counts.
const TIMES: usize = 3;

pub(super) fn look(path: &Path, settings: &StoreSettings, used: Option<u64>) -> Directory {
    let metadata = fs::metadata(path);
    let there = match &metadata {
        Ok(metadata) if metadata.is_dir() => State::There,
        Ok(_) => State::Unusable(format!("`{}` is no directory", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => State::Missing,
        Err(error) => State::Unusable(format!("`{}`: {error}", path.display())),
    };
    let state = match DiskStore::check(path) {
        // What the system refuses is found out below.
        Ok(()) | Err(OpenError::Io { .. }) => there,
        Err(error) => State::Unusable(chain(&error)),
    };
    let nearest = path.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new("/"));
    let file_system = file_system(nearest).ok();
    let limits = room::limits(settings, file_system.as_ref().map_or(0, |system| system.capacity));
    let place = metadata
        .ok()
        .filter(|metadata| metadata.is_dir())
        .map(|metadata| Place { owner: metadata.uid(), mode: metadata.mode() });
    let mut directory = Directory {
        path: path.display().to_string(),
        place,
        user: rustix::process::geteuid().as_raw(),
        refuses: None,
        file_system,
        fsync: None,
        reflink: None,
        max_bytes: limits.max_bytes,
        min_free: limits.min_free,
        used,
        state,
    };
    match directory.state {
        State::There => match try_writing(path) {
            Ok((fsync, reflink)) => {
                (directory.fsync, directory.reflink) = (Some(fsync), Some(reflink));
            }
            Err(error) => directory.refuses = Some(error.to_string()),
        },
        State::Missing => {
            use rustix::fs::{Access, AtFlags, CWD, accessat};
            let access = Access::WRITE_OK | Access::EXEC_OK;
            let may = accessat(CWD, nearest, access, AtFlags::EACCESS);
            directory.refuses = may
                .err()
                .map(|errno| format!("`{}`: {}", nearest.display(), io::Error::from(errno)));
        }
        State::Unusable(_) => {}
    }
    directory
}

/// Writes a small file durably, and tells how long that took, and whether another one can share its
/// blocks.
fn try_writing(path: &Path) -> io::Result<(Duration, bool)> {
    // Whatever is left there is removed when the directory is opened next.
    let tmp = path.join("tmp");
    let into = if tmp.is_dir() { tmp.as_path() } else { path };
    let name = |what| into.join(format!("doctor-{}-{what}", std::process::id()));
    let (written, cloned) = (Removed(name("written")), Removed(name("cloned")));
    let mut times = Vec::with_capacity(TIMES);
    let mut file = create(&written.0)?;
    for _ in 0..TIMES {
        let began = Instant::now();
        file.write_all(&[0; TRIAL])?;
        file.sync_all()?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    let clone = create(&cloned.0)?;
    let reflink = rustix::fs::ioctl_ficlone(&clone, &file).is_ok();
    Ok((times[TIMES / 2], reflink))
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// A file that is removed in the end.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        // It may not even have been made.
        let _ = fs::remove_file(&self.0);
    }
}

fn file_system(path: &Path) -> io::Result<FileSystem> {
    let stat = rustix::fs::statvfs(path)?;
    let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let real = path.canonicalize()?;
    Ok(FileSystem {
        kind: kind(&String::from_utf8_lossy(&mounts), &real).unwrap_or_default(),
        capacity: stat.f_blocks.saturating_mul(stat.f_frsize),
        free: stat.f_bavail.saturating_mul(stat.f_frsize),
        // Some have no fixed number of files, and say 0 of all of them.
        files: (stat.f_files > 0).then_some(stat.f_favail),
    })
}

/// The kind of the file system that a path is on, by the list of mounts.
fn kind(mounts: &str, path: &Path) -> Option<String> {
    let mut best: Option<(usize, &str)> = None;
    for line in mounts.lines() {
        let Some((mount, rest)) = line.split_once(" - ") else { continue };
        let (Some(at), Some(kind)) = (mount.split(' ').nth(4), rest.split(' ').next()) else {
            continue;
        };
        let at = PathBuf::from(unescaped(at));
        let depth = at.components().count();
        // Of two at one place, the later one covers the other.
        if path.starts_with(&at) && best.is_none_or(|(known, _)| depth >= known) {
            best = Some((depth, kind));
        }
    }
    best.map(|(_, kind)| kind.to_owned())
}

/// The kernel writes blanks and backslashes as octal numbers.
fn unescaped(text: &str) -> String {
    let codes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    codes.iter().fold(text.to_owned(), |text, (code, letter)| text.replace(code, letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_and_latest_mount_counts() {
        let mounts = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                      30 22 0:40 / /srv rw shared:1 - nfs4 host:/srv rw\n\
                      31 30 0:41 / /srv/my\\040cache rw - btrfs /dev/sdb rw\n\
                      32 22 0:42 / /tmp rw - tmpfs tmpfs rw\n\
                      33 32 0:43 / /tmp rw - xfs /dev/sdc rw\n\
                      nonsense\n";
        let of = |path: &str| kind(mounts, Path::new(path));
        assert_eq!(of("/home/me").as_deref(), Some("ext4"));
        assert_eq!(of("/srv/x").as_deref(), Some("nfs4"));
        assert_eq!(of("/srv/my cache/netbuild").as_deref(), Some("btrfs"));
        assert_eq!(of("/tmp/x").as_deref(), Some("xfs"));
        assert_eq!(of("/srvx").as_deref(), Some("ext4"));
        assert_eq!(kind("", Path::new("/")), None);
    }

    #[test]
    fn looking_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("a/b");
        let found = look(&missing, &StoreSettings::default(), None);
        assert_eq!((found.state, found.refuses, found.fsync), (State::Missing, None, None));
        assert!(!missing.exists());
        let found = look(dir.path(), &StoreSettings::default(), Some(7));
        assert_eq!((found.state, found.refuses, found.used), (State::There, None, Some(7)));
        assert!(found.fsync.is_some() && found.reflink.is_some());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        fs::write(dir.path().join("file"), "").unwrap();
        let found = look(&dir.path().join("file"), &StoreSettings::default(), None);
        assert!(matches!(found.state, State::Unusable(why) if why.contains("no directory")));
    }
}
