//! Where damaged blobs and indexes are put aside, so that a person can look at what happened.

use super::layout::create_dir;
use crate::error::FileError;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// Damaged things that are kept; the oldest give way, as a failing disk could fill itself with them.
const MAX_KEPT: usize = 64;

/// The quarantine directory. Names end in a number that grows: `<name>-<number>`.
#[derive(Debug)]
pub(super) struct Quarantine {
    dir: PathBuf,
    /// Held while something is put aside, as two must not get one number.
    busy: Mutex<()>,
}

impl Quarantine {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, busy: Mutex::default() }
    }

    /// Moves a file or directory here, and says where it is now.
    pub(super) fn take(&self, path: &Path, name: &str) -> Result<PathBuf, FileError> {
        let _busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        create_dir(&self.dir)?;
        let mut kept = self.kept()?;
        let number = kept.last().map_or(1, |(number, _)| number.saturating_add(1));
        let target = self.dir.join(format!("{name}-{number}"));
        fs::rename(path, &target).map_err(FileError::at(path))?;
        let surplus = (kept.len() + 1).saturating_sub(MAX_KEPT);
        for (_, old) in kept.drain(..surplus) {
            let removed = fs::remove_file(&old).or_else(|_| fs::remove_dir_all(&old));
            if let Err(error) = removed {
                tracing::debug!(path = %old.display(), %error, "quarantined item stays");
            }
        }
        Ok(target)
    }

    /// What is here, oldest first.
    fn kept(&self) -> Result<Vec<(u64, PathBuf)>, FileError> {
        let mut kept = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(FileError::at(&self.dir))? {
            let path = entry.map_err(FileError::at(&self.dir))?.path();
            let number =
                path.file_name().and_then(|name| name.to_str()?.rsplit_once('-')?.1.parse().ok());
            kept.extend(number.map(|number| (number, path)));
        }
        kept.sort();
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let quarantine = Quarantine::new(dir.path().join("quarantine"));
        let bad = dir.path().join("bad");
        fs::create_dir(&bad).unwrap();
        quarantine.take(&bad, "index").unwrap();
        for _ in 0..MAX_KEPT + 2 {
            fs::write(&bad, b"x").unwrap();
            quarantine.take(&bad, "blob").unwrap();
        }
        let kept = quarantine.kept().unwrap();
        assert_eq!(kept.len(), MAX_KEPT);
        assert_eq!(kept[0].0, 4);
        assert!(kept[0].1.ends_with("blob-4"));
    }
}
