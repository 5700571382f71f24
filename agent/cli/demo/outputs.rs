//! What a build made in a workspace.

use crate::errors::CliError;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Where the example puts everything.
const DIRECTORY: &str = "out";

/// All outputs, byte for byte.
#[derive(PartialEq, Eq, Default, Debug)]
pub(crate) struct Outputs(BTreeMap<PathBuf, Vec<u8>>);

impl Outputs {
    /// Reads those of a workspace.
    pub(crate) fn of(workspace: &Path) -> Result<Self, CliError> {
        let root = workspace.join(DIRECTORY);
        let (mut files, mut open) = (BTreeMap::new(), vec![root.clone()]);
        while let Some(directory) = open.pop() {
            let failed = |error| CliError::io("read", &directory, &error);
            for entry in fs::read_dir(&directory).map_err(failed)? {
                let path = entry.map_err(failed)?.path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    let content = fs::read(&path);
                    let content = content.map_err(|error| CliError::io("read", &path, &error))?;
                    let name = path.strip_prefix(&root).unwrap_or(&path);
                    files.insert(name.to_owned(), content);
                }
            }
        }
        Ok(Self(files))
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.values().map(|content| content.len() as u64).sum()
    }

    /// Bytes of the files that are new or not what they were.
    pub(crate) fn changed_since(&self, before: &Self) -> u64 {
        let changed = self.0.iter().filter(|(name, content)| before.0.get(*name) != Some(content));
        changed.map(|(_, content)| content.len() as u64).sum()
    }

    /// A file that is not the same in both.
    pub(crate) fn first_that_differs(&self, other: &Self) -> Option<String> {
        let mut names = self.0.keys().chain(other.0.keys());
        let differs = names.find(|name| self.0.get(*name) != other.0.get(*name))?;
        Some(Path::new(DIRECTORY).join(differs).display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_counted_in_whole_files() {
        let of = |files: &[(&str, &str)]| {
            let place = tempfile::tempdir().unwrap();
            for (name, content) in files {
                let path = place.path().join(DIRECTORY).join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content).unwrap();
            }
            Outputs::of(place.path()).unwrap()
        };
        let before = of(&[("bin/a", "one"), ("b", "two")]);
        let after = of(&[("bin/a", "three"), ("b", "two"), ("c", "four")]);
        assert_eq!((after.bytes(), after.changed_since(&before)), (12, 9));
        assert_eq!(after.first_that_differs(&before).as_deref(), Some("out/bin/a"));
        assert_eq!(after.first_that_differs(&after), None);
    }
}
