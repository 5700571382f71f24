//! What takes the space of a data directory.

use super::{compact::evidence_bytes, inner::Inner};
use crate::{StoreError, error::FileError, space::Usage};
use std::{fs, io, path::Path};

/// Directories below one that is measured that are looked into; sled makes one, and the quarantine may have
/// an index in it.
const MAX_DEPTH: usize = 4;

impl Inner {
    /// What takes space. The index is gone through when this is first asked for.
    pub(super) fn usage(&self) -> Result<Usage, StoreError> {
        let totals = self.totals();
        let segments = self.segments.list()?;
        let (evidence, gone) = {
            let catalog = self.catalog();
            let evidence: u64 = evidence_bytes(&catalog).values().sum();
            (evidence, segments.keys().map(|segment| catalog.tally.gone(*segment)).sum::<u64>())
        };
        let journal: u64 = segments.values().sum();
        let live: u64 = {
            let catalog = self.catalog();
            segments.keys().map(|segment| catalog.tally.live(*segment)).sum()
        };
        let notes = evidence + gone;
        let at = |path: &Path| size_of_dir(path, MAX_DEPTH).map_err(FileError::at(path));
        let root = self.layout.root();
        let stat = rustix::fs::statvfs(root).map_err(|errno| FileError::at(root)(errno.into()))?;
        Ok(Usage {
            blobs: totals.blobs,
            blob_files: totals.file_bytes,
            small_blobs: live.saturating_sub(totals.record_bytes),
            records: totals.records,
            record_bytes: totals.record_bytes,
            notes,
            dead: journal.saturating_sub(live + notes),
            index: at(&self.layout.index())?,
            arriving: at(&self.layout.partial())? + at(&self.layout.tmp())?,
            quarantine: at(&self.layout.quarantine())?,
            capacity: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }
}

/// Bytes of all files below a directory, as they are on disk: those of an arriving blob have holes.
fn size_of_dir(dir: &Path, depth: usize) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut sum = 0;
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        match entry.metadata() {
            Ok(meta) if meta.is_dir() && depth > 0 => {
                sum += size_of_dir(&entry.path(), depth - 1)?;
            }
            Ok(meta) => sum += meta.blocks() * 512,
            // It went meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sum)
}
