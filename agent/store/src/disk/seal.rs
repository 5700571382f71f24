//! A checksum over the index's files, written when it is closed.
//!
//! sled notices much damage by a panic and some not at all. While the seal fits, the files are those that
//! were closed; when it does not, they are not even opened. There is no seal while the index is open, so a
//! crash leaves none.

use super::{
    layout::{Layout, create_new, remove_file},
    pieces::all_pieces,
};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
};

/// Largest index in bytes that is sealed. Reading more would be felt at every opening; damage to a larger
/// one is found by the engine and by the checksum of each value.
const MAX_SEALED: u64 = 64 << 20;
/// Bytes of a seal: the checksum in hexadecimal digits and a line end.
const LEN: usize = 9;
/// Directories below the index that are looked into; sled makes one.
const MAX_DEPTH: usize = 3;

/// What a seal says of the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// There is none: the index is new or large, or was not closed.
    Unsealed,
    Intact,
    Damaged,
}

/// Checks the index and takes the seal off, as it is about to be opened.
pub(super) fn check_and_remove(layout: &Layout) -> Verdict {
    let path = layout.index_seal();
    let mut seal = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(LEN as u64 + 1).read_to_end(&mut seal));
    if read.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Verdict::Unsealed;
    }
    let verdict = match checksum(&layout.index()) {
        Ok(Some(sum)) if sum.as_bytes() == seal => Verdict::Intact,
        _ => Verdict::Damaged,
    };
    match remove_file(&path) {
        Ok(()) => verdict,
        // It would be stale as soon as the index is written.
        Err(_) => Verdict::Damaged,
    }
}

/// Seals the index, which must be closed. Without a seal the next opening is only less sure.
pub(super) fn write(layout: &Layout) {
    let path = layout.index_seal();
    let sealed = checksum(&layout.index()).and_then(|sum| {
        let Some(sum) = sum else { return Ok(()) };
        create_new(&path).map_err(|error| error.source)?.write_all(sum.as_bytes())
    });
    if let Err(error) = sealed {
        tracing::debug!(%error, "index was not sealed");
    }
}

/// The checksum of names and bytes of all files; `None` when they are too large.
fn checksum(dir: &Path) -> io::Result<Option<String>> {
    let mut files = Vec::new();
    collect(dir, MAX_DEPTH, &mut files)?;
    files.sort();
    let (mut crc, mut total) = (0, 0);
    for path in files {
        let file = File::open(&path)?;
        let len = file.metadata()?.len();
        total += len;
        if total > MAX_SEALED {
            return Ok(None);
        }
        let name = path.strip_prefix(dir).unwrap_or(&path).as_os_str();
        crc = crc32c::crc32c_append(crc, name.as_encoded_bytes());
        crc = crc32c::crc32c_append(crc, &len.to_le_bytes());
        all_pieces(file.take(len), |piece| crc = crc32c::crc32c_append(crc, piece))?;
    }
    Ok(Some(format!("{crc:08x}\n")))
}

fn collect(dir: &Path, depth: usize, files: &mut Vec<std::path::PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            files.push(entry.path());
        } else if depth > 0 {
            collect(&entry.path(), depth - 1, files)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_fits_once_and_only_what_was_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        fs::create_dir_all(layout.index().join("blobs")).unwrap();
        fs::write(layout.index().join("db"), b"pages").unwrap();
        assert_eq!(check_and_remove(&layout), Verdict::Unsealed);
        write(&layout);
        assert_eq!(check_and_remove(&layout), Verdict::Intact);
        assert_eq!(check_and_remove(&layout), Verdict::Unsealed);

        write(&layout);
        fs::write(layout.index().join("db"), b"pagez").unwrap();
        assert_eq!(check_and_remove(&layout), Verdict::Damaged);
        write(&layout);
        fs::rename(layout.index().join("db"), layout.index().join("de")).unwrap();
        assert_eq!(check_and_remove(&layout), Verdict::Damaged);
        write(&layout);
        fs::write(layout.index_seal(), b"").unwrap();
        assert_eq!(check_and_remove(&layout), Verdict::Damaged);
    }
}
