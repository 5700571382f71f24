//! In which boot of the machine the index was opened.
//!
//! Nothing of the index is made durable while it is open: what a crash of the process loses of it is in
//! the journal, and the system still has what the process wrote. When the machine itself goes down,
//! any part of that may be lost, and an engine that notices most of it is not good enough.

use super::layout::{Layout, open_or_create, remove_file};
use crate::error::FileError;
use std::{
    fs::{self, File},
    io::{self, Read, Write},
};

/// Where the system says which boot this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Bytes read of it: the id has 36 and a line end.
const MAX_LEN: u64 = 64;

/// Whether all that was written to the index is there: it was closed, or the machine has been up since
/// it was opened, or nobody can tell.
pub(super) fn survived(layout: &Layout) -> bool {
    match (read(&layout.index_boot()), current()) {
        (Some(then), Some(now)) => then == now,
        _ => true,
    }
}

/// Notes this boot, as the index is open from now on. Without the note, the next opening is only
/// less sure.
pub(super) fn note(layout: &Layout) {
    let path = layout.index_boot();
    let Some(id) = current() else { return };
    let noted = open_or_create(&path).and_then(|mut file| {
        let written = file.write_all(&id).and_then(|()| file.set_len(id.len() as u64));
        // The note must not be what the loss of power takes.
        written.and_then(|()| file.sync_all()).map_err(FileError::at(&path))
    });
    if let Err(FileError { path, source }) = noted {
        tracing::debug!(path = %path.display(), error = %source, "boot was not noted");
    }
}

/// Takes the note away, as the index was closed and is durable.
pub(super) fn forget(layout: &Layout) {
    if let Err(FileError { path, source }) = remove_file(&layout.index_boot()) {
        // Then the index is made again after the next boot, without need.
        tracing::debug!(path = %path.display(), error = %source, "note of the boot stays");
    }
}

/// Removes an index that was being made and did not take the place of the other.
pub(super) fn remove_unfinished(layout: &Layout) -> Result<(), FileError> {
    let path = layout.index_new();
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::at(&path)(error)),
        _ => Ok(()),
    }
}

fn current() -> Option<Vec<u8>> {
    read(std::path::Path::new(BOOT_ID))
}

fn read(path: &std::path::Path) -> Option<Vec<u8>> {
    let mut id = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_LEN).read_to_end(&mut id)).ok()?;
    Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_trusted_while_the_machine_is_up_and_once_it_was_closed() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        assert!(survived(&layout));
        note(&layout);
        assert!(survived(&layout));
        fs::write(layout.index_boot(), "another boot\n").unwrap();
        assert!(!survived(&layout));
        note(&layout);
        assert!(survived(&layout));
        fs::write(layout.index_boot(), "another boot\n").unwrap();
        forget(&layout);
        assert!(survived(&layout));
    }
}
