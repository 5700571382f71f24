//! Files of the workspace that share their bytes with the blobs of the cache: clones on file systems
//! that have them (Btrfs, XFS), which cost no copy and no space, or hard links for those who ask.
//!
//! Whatever is made is read once and compared with its digest before it is used.

use crate::{files::digest_of, run::Run};
use netbuild_core::digest::Digest;
use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
};
use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

/// How restored files come by their bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Link {
    /// As clones where the file system has them, else as copies.
    #[default]
    Copy,
    /// Those that are not executable as hard links to the blobs, read-only; others as above.
    Hard,
}

/// What of it works here, as far as it was tried.
#[derive(Debug, Default)]
pub(crate) struct Sharing {
    pub(crate) link: Link,
    no_clones: AtomicBool,
    no_links: AtomicBool,
}

impl Sharing {
    pub(crate) fn new(link: Link) -> Self {
        Self { link, ..Self::default() }
    }
}

/// Makes the file `path`, which is not there yet, of the blob's own bytes. False when that cannot be
/// done here, or the blob is damaged: then there is no file. A hard link is made only for what `may_link`.
pub(crate) fn share(
    run: &Run<'_>,
    digest: &Digest,
    executable: bool,
    may_link: bool,
    path: &Path,
) -> bool {
    let sharing = &run.sharing;
    let linked = sharing.link == Link::Hard && may_link && !executable;
    let link = linked && !sharing.no_links.load(Ordering::Relaxed);
    let clone = !sharing.no_clones.load(Ordering::Relaxed);
    if !link && !clone {
        return false;
    }
    let Some(source) = run.cache.path(digest) else { return false };
    let mut made = false;
    if link {
        made = tried(hard_link(&source, path), &sharing.no_links, "hard-link");
    }
    if !made && clone {
        let mode = if executable { 0o755 } else { 0o644 };
        made = tried(make_clone(&source, path, mode), &sharing.no_clones, "clone");
    }
    let whole = |file| digest_of(&file, None).is_ok_and(|(found, _)| found == *digest);
    if made && !File::open(path).is_ok_and(whole) {
        // Whoever reads the blob next finds out what is the matter with it.
        drop(fs::remove_file(path));
        made = false;
    }
    made
}

/// Whether it worked. What the file system does not have is not tried again.
fn tried(made: io::Result<()>, never_again: &AtomicBool, what: &str) -> bool {
    let Err(error) = made else { return true };
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    // A blob that is no file of its own, or that has just been evicted.
    if code != Some(Errno::NOENT) {
        never_again.store(true, Ordering::Relaxed);
        tracing::debug!(%error, "cannot {what} blobs into this workspace; copying");
    }
    false
}

fn hard_link(source: &Path, path: &Path) -> io::Result<()> {
    fs::hard_link(source, path)?;
    // Through a descriptor, so that it is a file and not a link that leads to one.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path);
    let read_only = opened.and_then(|file| file.set_permissions(Permissions::from_mode(0o444)));
    read_only.inspect_err(|_| drop(fs::remove_file(path)))
}

fn make_clone(source: &Path, path: &Path, mode: u32) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source = rustix::fs::openat(CWD, source, flags, Mode::empty())?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let cloned = rustix::fs::ioctl_ficlone(&file, &source).map_err(io::Error::from);
    cloned
        .and_then(|()| file.set_permissions(Permissions::from_mode(mode)))
        .inspect_err(|_| drop(fs::remove_file(path)))
}
