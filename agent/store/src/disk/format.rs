//! The number of the data directory's format, so that an older netbuild never misreads a newer one.

use super::{
    layout::{DIRECTORIES, Layout, create_new, remove_file, sync_dir},
    open_error::OpenError,
};
use crate::error::FileError;
use std::{
    fs::{self, File},
    io::{self, Read, Write},
};

/// The format that this code reads and writes.
const SUPPORTED: u64 = 1;
/// Everything in the file before the number.
const PREFIX: &str = "netbuild data ";
/// Bytes read of the file: the prefix, any number and a line end, and something to tell garbage by.
const MAX_LEN: u64 = 64;

/// Refuses a directory of a newer format, or one that is somebody else's; changes nothing. Says whether
/// the directory still has to be marked.
pub(super) fn check(layout: &Layout) -> Result<Mark, OpenError> {
    let path = layout.format();
    let mut text = Vec::new();
    match File::open(&path) {
        Ok(file) => file.take(MAX_LEN).read_to_end(&mut text).map_err(FileError::at(&path))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return refuse_foreign(layout).map(|()| Mark::Missing);
        }
        Err(error) => return Err(FileError::at(&path)(error).into()),
    };
    let number = std::str::from_utf8(&text)
        .ok()
        .and_then(|text| text.strip_prefix(PREFIX)?.strip_suffix('\n'))
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|digits| digits.parse::<u64>().ok());
    match number {
        Some(SUPPORTED) => Ok(Mark::Present),
        Some(found) if found > SUPPORTED => {
            Err(OpenError::NewerFormat { file: path, found, supported: SUPPORTED })
        }
        _ => Err(OpenError::BadFormat { file: path }),
    }
}

/// Whether the format file is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mark {
    Present,
    Missing,
}

/// A store empties its `tmp` directory; that of `/` or of a home directory must never be taken for it.
fn refuse_foreign(layout: &Layout) -> Result<(), OpenError> {
    let foreign =
        DIRECTORIES.iter().find(|name| fs::symlink_metadata(layout.root().join(name)).is_ok());
    match foreign {
        Some(name) => {
            Err(OpenError::Foreign { dir: layout.root().to_owned(), entry: (*name).to_owned() })
        }
        None => Ok(()),
    }
}

/// Marks a new data directory, before anything else is made in it.
pub(super) fn write(layout: &Layout) -> Result<(), FileError> {
    let path = layout.format();
    let new = path.with_extension("new");
    remove_file(&new)?;
    let mut file = create_new(&new)?;
    writeln!(file, "{PREFIX}{SUPPORTED}").map_err(FileError::at(&new))?;
    file.sync_all().map_err(FileError::at(&new))?;
    fs::rename(&new, &path).map_err(FileError::at(&path))?;
    sync_dir(layout.root())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_number_is_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        assert_eq!(check(&layout).unwrap(), Mark::Missing);
        write(&layout).unwrap();
        assert_eq!(check(&layout).unwrap(), Mark::Present);

        fs::write(layout.format(), "netbuild data 12\n").unwrap();
        assert!(matches!(
            check(&layout),
            Err(OpenError::NewerFormat { found: 12, supported: 1, .. })
        ));
        let long = "9".repeat(200);
        for bad in ["", "netbuild data 1", "netbuild data +1\n", "netbuild data 0\n", &long] {
            fs::write(layout.format(), bad).unwrap();
            assert!(matches!(check(&layout), Err(OpenError::BadFormat { .. })));
        }
    }

    #[test]
    fn a_directory_with_somebody_elses_tmp_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tmp")).unwrap();
        assert!(matches!(
            check(&Layout::new(dir.path())),
            Err(OpenError::Foreign { entry, .. }) if entry == "tmp"
        ));
    }
}
