//! Digests of files, read again only when a file may have changed.
//!
//! A digest is trusted as long as the file's stamp is the one it was read under, and that stamp
//! was already [old](is_old) when it was read: a file system with coarse time stamps may show the
//! same stamp for two contents written shortly after one another.

use crate::looks::{Looks, is_old, is_regular, look, newest, now_ns, of_directory, stamp_of};
use memchr::memmem::Finder;
use netbuild_core::{
    digest::{Digest, DigestBuilder, Hash},
    tree::Entry,
};
use netbuild_proto::workspace::{FileState, Look, Stamp};
use std::{
    cmp::Reverse,
    collections::HashMap,
    ffi::OsStr,
    fs::{File, Metadata, OpenOptions},
    io::{self, Read as _},
    os::fd::OwnedFd,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Bytes read at once, of small files and of large ones.
const LEAST_BUFFER: usize = 4096;
const BUFFER: usize = 256 * 1024;
/// Most bytes of a file that is read, some minutes on a fast disk. A larger one, such as a sparse one of a
/// terabyte, is told from others by its stamp: what depends on it runs when it may have changed, and it is not kept.
pub(crate) const LARGEST: u64 = 64 << 30;
/// How often a file that changes while it is read is read again.
const ATTEMPTS: usize = 3;

/// A file that cannot be digested.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// There is nothing at the path.
    #[error("`{}` does not exist", .0.display())]
    Missing(PathBuf),
    /// It is neither a file nor a link nor a directory.
    #[error("`{path}` is a {kind}, which cannot be cached", path = .0.display(), kind = .1)]
    Special(PathBuf, &'static str),
    /// It changes faster than it can be read.
    #[error("`{}` is still being written", .0.display())]
    Changing(PathBuf),
    /// The operating system refused.
    #[error("cannot read `{path}`: {error}", path = .0.display(), error = .1)]
    Io(PathBuf, #[source] io::Error),
}

impl FileError {
    fn from_io(path: &Path, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                Self::Missing(path.to_owned())
            }
            _ => Self::Io(path.to_owned(), error),
        }
    }
}

/// What stands at a path, with the stamp that says whether it still does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    pub(crate) entry: Entry,
    pub(crate) stamp: Stamp,
}

/// Known digests by path. Used from several threads.
#[derive(Debug)]
pub(crate) struct FileTable {
    root: PathBuf,
    directory: OwnedFd,
    known: Mutex<HashMap<Vec<u8>, Known>>,
    changed: AtomicBool,
    /// What else than files was looked at.
    looks: Looks,
}

/// A file.
#[derive(Clone, Copy, Debug)]
struct Known {
    state: FileState,
    /// Whether it was looked at since the table was made.
    looked_at: bool,
}

/// A file's digest, and whether its bytes contain what was searched for.
#[derive(Debug)]
pub(crate) struct Scanned {
    pub(crate) seen: Seen,
    pub(crate) found: bool,
}

impl FileTable {
    /// `looks` has what was looked at before.
    pub(crate) fn new(
        root: &Path,
        known: Vec<(Vec<u8>, FileState)>,
        looks: Looks,
    ) -> io::Result<Self> {
        Ok(Self {
            directory: File::open(root)?.into(),
            root: root.to_owned(),
            known: Mutex::new(
                known
                    .into_iter()
                    .map(|(path, state)| (path, Known { state, looked_at: false }))
                    .collect(),
            ),
            changed: AtomicBool::new(false),
            looks,
        })
    }

    /// All that was looked at, with the file `own` of ours, what changed last first; `None` when
    /// [`Self::forget_looks`] was called, or something changed so shortly before that another change would not
    /// show.
    pub(crate) fn looks(&self, own: &[u8]) -> Option<Vec<(Vec<u8>, Look)>> {
        let mut looks = self.looks.take()?;
        for (path, known) in self.known().iter().filter(|(_, known)| known.looked_at) {
            let stamp = known.state.stamp;
            if !is_old(&stamp, known.state.hashed_at_ns) {
                return None;
            }
            looks.push((path.clone(), Look::There(stamp)));
        }
        // It is never changed, only replaced.
        looks.push((own.to_vec(), Look::There(look(&self.directory, own, false).ok()??)));
        looks.sort_by_key(|(_, look)| match look {
            Look::There(stamp) | Look::Listed(stamp) => Reverse(newest(stamp)),
            Look::Absent | Look::Leads(_) => Reverse(0),
        });
        Some(looks)
    }

    /// What was looked at is not all that counts.
    pub(crate) fn forget_looks(&self) {
        self.looks.forget();
    }

    /// Whether something is at `path`; links are not followed.
    pub(crate) fn is_there(&self, path: &[u8]) -> bool {
        match look(&self.directory, path, false) {
            Ok(None) => {
                self.looks.add(path, Look::Absent);
                false
            }
            found => {
                self.forget_looks();
                found.is_ok()
            }
        }
    }

    /// Whether a directory is at `path`.
    pub(crate) fn is_directory(&self, path: &[u8]) -> bool {
        match self.see(path) {
            Ok(seen) if seen.entry == Entry::Directory => true,
            _ => {
                self.forget_looks();
                self.absolute(path).is_dir()
            }
        }
    }

    /// Before what a file says is used without its digest.
    pub(crate) fn note_file(&self, path: &[u8]) {
        self.looks.note_there(&self.directory, path);
    }

    /// Before the names in a directory are listed.
    pub(crate) fn note_listed(&self, path: &[u8]) {
        self.looks.note_listed(&self.directory, path);
    }

    /// The path that `path` really is.
    pub(crate) fn real(&self, path: &Path) -> io::Result<PathBuf> {
        let real = path.canonicalize();
        let leads = real.as_ref().ok().map(|real| real.as_os_str().as_bytes().to_vec());
        self.looks.add(path.as_os_str().as_bytes(), Look::Leads(leads));
        real
    }

    /// What is known, to be remembered.
    pub(crate) fn snapshot(&self) -> Vec<(Vec<u8>, FileState)> {
        self.known().iter().map(|(path, known)| (path.clone(), known.state)).collect()
    }

    /// Has the system take it back, with the process.
    pub(crate) fn leave_memory(&self) {
        std::mem::forget(std::mem::take(&mut *self.known()));
    }

    /// Whether something was read since the table was made.
    pub(crate) fn is_changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    fn insert(&self, path: &[u8], state: FileState) {
        self.changed.store(true, Ordering::Relaxed);
        self.known().insert(path.to_vec(), Known { state, looked_at: true });
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The absolute path of a path relative to the workspace; absolute ones stay.
    pub(crate) fn absolute(&self, path: &[u8]) -> PathBuf {
        self.root.join(OsStr::from_bytes(path))
    }

    /// What stands at `path`; links are not followed.
    pub(crate) fn see(&self, path: &[u8]) -> Result<Seen, FileError> {
        // From the directory on, and without `Metadata`: this is most of what a run without work does.
        let stamp = match look(&self.directory, path, false) {
            Ok(Some(stamp)) => stamp,
            Ok(None) => {
                self.looks.add(path, Look::Absent);
                return Err(FileError::Missing(self.absolute(path)));
            }
            Err(error) => return Err(FileError::Io(self.absolute(path), error)),
        };
        if is_regular(&stamp)
            && let Some(known) = self.known().get_mut(path)
            && is_trusted(&known.state, &stamp)
        {
            known.looked_at = true;
            return Ok(Seen { entry: file_entry(known.state.digest, &stamp), stamp });
        }
        let absolute = self.absolute(path);
        let metadata =
            absolute.symlink_metadata().map_err(|error| FileError::from_io(&absolute, error))?;
        let seen = self.read(path, &absolute, &metadata, None)?.seen;
        match &seen.entry {
            Entry::File { digest, .. } if !is_large(digest.size) => {}
            _ => self.looks.add(path, Look::There(seen.stamp)),
        }
        Ok(seen)
    }

    /// Reads the file at `path` whatever is known of it, and searches it.
    pub(crate) fn scan(&self, path: &[u8], needle: &Finder<'_>) -> Result<Scanned, FileError> {
        let absolute = self.absolute(path);
        let metadata =
            absolute.symlink_metadata().map_err(|error| FileError::from_io(&absolute, error))?;
        self.read(path, &absolute, &metadata, Some(needle))
    }

    fn read(
        &self,
        path: &[u8],
        absolute: &Path,
        metadata: &Metadata,
        needle: Option<&Finder<'_>>,
    ) -> Result<Scanned, FileError> {
        let io_error = |error| FileError::from_io(absolute, error);
        let kind = metadata.file_type();
        if kind.is_symlink() {
            let target = std::fs::read_link(absolute).map_err(io_error)?;
            let target = target.as_os_str().as_bytes().to_vec();
            let found = needle.is_some_and(|needle| needle.find(&target).is_some());
            let seen = Seen { entry: Entry::Symlink { target }, stamp: stamp_of(metadata) };
            return Ok(Scanned { seen, found });
        }
        if kind.is_dir() {
            let seen = Seen { entry: Entry::Directory, stamp: of_directory(stamp_of(metadata)) };
            return Ok(Scanned { seen, found: false });
        }
        if !kind.is_file() {
            return Err(FileError::Special(absolute.to_owned(), special_name(metadata)));
        }
        if is_large(metadata.len()) {
            let stamp = stamp_of(metadata);
            let entry = file_entry(identity_of(&stamp), &stamp);
            return Ok(Scanned { seen: Seen { entry, stamp }, found: false });
        }
        for _ in 0..ATTEMPTS {
            // Non-blocking, since the file may have become a pipe since it was looked at.
            let file = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(absolute)
                .map_err(io_error)?;
            let before = file.metadata().map_err(io_error)?;
            if !before.is_file() {
                return Err(FileError::Special(absolute.to_owned(), special_name(&before)));
            }
            let (digest, found) = digest_of(&file, needle).map_err(io_error)?;
            let stamp = stamp_of(&before);
            if stamp_of(&file.metadata().map_err(io_error)?) == stamp && digest.size == stamp.size {
                let state = FileState { stamp, hashed_at_ns: now_ns(), digest };
                self.insert(path, state);
                return Ok(Scanned {
                    seen: Seen { entry: file_entry(digest, &stamp), stamp },
                    found,
                });
            }
        }
        Err(FileError::Changing(absolute.to_owned()))
    }

    /// Remembers a file that was just written with known content.
    pub(crate) fn learn(&self, path: &[u8], digest: Digest) {
        if let Ok(metadata) = self.absolute(path).symlink_metadata()
            && metadata.is_file()
        {
            let state = FileState { stamp: stamp_of(&metadata), hashed_at_ns: now_ns(), digest };
            self.insert(path, state);
        }
    }
}

fn is_trusted(known: &FileState, stamp: &Stamp) -> bool {
    known.stamp == *stamp && is_old(stamp, known.hashed_at_ns)
}

/// Whether a file of this size is not read.
pub(crate) fn is_large(size: u64) -> bool {
    size > LARGEST
}

/// What stands for the digest of a file that is not read.
fn identity_of(stamp: &Stamp) -> Digest {
    let Stamp { dev, ino, size, mtime_ns, ctime_ns, .. } = *stamp;
    let fields = [dev, ino, size, mtime_ns as u64, ctime_ns as u64];
    let bytes = fields.iter().flat_map(|field| field.to_le_bytes()).collect::<Vec<_>>();
    Digest { hash: Hash::of(&[b"netbuild large file\0", &bytes[..]].concat()), size }
}

fn file_entry(digest: Digest, stamp: &Stamp) -> Entry {
    Entry::File { digest, executable: stamp.mode & 0o100 != 0 }
}

pub(crate) fn digest_of(
    mut file: &File,
    needle: Option<&Finder<'_>>,
) -> io::Result<(Digest, bool)> {
    let overlap = needle.map_or(0, |needle| needle.needle().len().saturating_sub(1));
    let mut builder = DigestBuilder::new();
    let mut found = false;
    // Most files are small, and memory for large ones costs more than to read them.
    let room = file.metadata()?.len().clamp(LEAST_BUFFER as u64, BUFFER as u64) as usize;
    // The end of what was read before stays in front, so that a match across two reads is found.
    let mut buffer = vec![0; overlap + room];
    let mut kept = 0;
    loop {
        let count = match file.read(&mut buffer[kept..]) {
            Ok(0) => return Ok((builder.finish(), found)),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        builder.update(&buffer[kept..kept + count]);
        let filled = kept + count;
        found = found || needle.is_some_and(|needle| needle.find(&buffer[..filled]).is_some());
        kept = overlap.min(filled);
        buffer.copy_within(filled - kept..filled, 0);
    }
}

fn special_name(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    if kind.is_fifo() {
        "named pipe"
    } else if kind.is_socket() {
        "socket"
    } else if kind.is_block_device() || kind.is_char_device() {
        "device"
    } else {
        "special file"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::looks::RACY_NS;
    use std::{fs, os::unix::fs::PermissionsExt as _};

    fn table() -> (tempfile::TempDir, FileTable) {
        let dir = tempfile::tempdir().unwrap();
        let table = FileTable::new(dir.path(), Vec::new(), Looks::none()).unwrap();
        (dir, table)
    }

    fn file(content: &str, executable: bool) -> Entry {
        Entry::File { digest: Digest::of(content.as_bytes()), executable }
    }

    #[test]
    fn an_edit_of_the_same_size_in_the_same_instant_is_seen() {
        let (dir, table) = table();
        for content in ["one", "two", "six"] {
            fs::write(dir.path().join("a"), content).unwrap();
            assert_eq!(table.see(b"a").unwrap().entry, file(content, false));
        }
    }

    #[test]
    fn an_old_file_is_read_once_and_a_touched_one_again() {
        let (dir, table) = table();
        let path = dir.path().join("a");
        fs::write(&path, "x").unwrap();
        let seen = table.see(b"a").unwrap();
        let wrong = Digest::of(b"a digest that only the table can know");
        let old = Stamp { mtime_ns: 0, ctime_ns: 0, ..seen.stamp };
        let state = FileState { stamp: old, hashed_at_ns: RACY_NS, digest: wrong };
        assert!(is_trusted(&state, &old));
        assert!(!is_trusted(&state, &Stamp { ctime_ns: 1, ..old }));
        assert!(!is_trusted(&FileState { hashed_at_ns: RACY_NS - 1, ..state }, &old));
    }

    #[test]
    fn the_owners_execute_bit_counts_and_others_do_not() {
        let (dir, table) = table();
        let path = dir.path().join("a");
        fs::write(&path, "x").unwrap();
        for (mode, executable) in [(0o644, false), (0o744, true), (0o655, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(table.see(b"a").unwrap().entry, file("x", executable));
        }
    }

    #[test]
    fn a_file_too_large_to_be_read_is_told_from_others_by_its_stamp() {
        let (dir, table) = table();
        let path = dir.path().join("a");
        let seen = || table.see(b"a").unwrap();
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let first = seen();
        assert_eq!(first, seen());
        assert!(matches!(first.entry, Entry::File { digest, .. } if digest.size == 1 << 40));
        fs::remove_file(&path).unwrap();
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert_ne!(first.entry, seen().entry);
    }

    #[test]
    fn pipes_and_sockets_are_named_and_never_waited_for() {
        let (dir, table) = table();
        let socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
        assert!(matches!(table.see(b"s"), Err(FileError::Special(_, "socket"))));
        drop(socket);
        assert!(matches!(table.see(b"none"), Err(FileError::Missing(_))));
        assert!(matches!(table.see(b"s/x"), Err(FileError::Missing(_))));
    }

    #[test]
    fn a_needle_across_two_reads_is_found() {
        let (dir, table) = table();
        let needle = Finder::new("/some/workspace");
        for (at, expected) in [(BUFFER - 5, true), (BUFFER * 2 + 20, true), (0, true)] {
            let mut content = vec![b'-'; BUFFER * 3];
            content[at..at + 15].copy_from_slice(b"/some/workspace");
            fs::write(dir.path().join("a"), &content).unwrap();
            assert_eq!(table.scan(b"a", &needle).unwrap().found, expected, "{at}");
        }
        fs::write(dir.path().join("a"), vec![b'/'; BUFFER * 2]).unwrap();
        assert!(!table.scan(b"a", &needle).unwrap().found);
    }
}
