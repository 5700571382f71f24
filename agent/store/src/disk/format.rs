//! The number of the data directory's format, so that an older netbuild never misreads a newer one; and
//! the steps from each format to the next.
//!
//! 1: the first. 2: the journal has notes of removal, which a reader of format 1 takes for damage, and so would
//! bring back what was removed; an index that is open says since which boot.

use super::{
    layout::{DIRECTORIES, Layout, create_new, open_or_create, remove_file, sync_dir},
    open_error::OpenError,
};
use crate::error::FileError;
use std::{
    fs::{self, File},
    io::{self, Read, Write},
};

/// The format that this code reads and writes.
const SUPPORTED: u64 = 2;
/// The oldest format that can be brought to it.
const OLDEST: u64 = 1;
/// Everything in the file before the number.
const PREFIX: &str = "netbuild data ";
/// Bytes read of the file: the prefix, any number and a line end, and something to tell garbage by.
const MAX_LEN: u64 = 64;

/// Refuses a directory of a newer format, or one that is somebody else's; changes nothing. Says what is
/// still to be done to the directory.
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
        Some(found) if (OLDEST..SUPPORTED).contains(&found) => Ok(Mark::Older(found)),
        Some(found) if found > SUPPORTED => {
            Err(OpenError::NewerFormat { file: path, found, supported: SUPPORTED })
        }
        _ => Err(OpenError::BadFormat { file: path }),
    }
}

/// What the format file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mark {
    Present,
    Missing,
    /// An older format, which [`migrate`] brings to this one.
    Older(u64),
}

/// Brings a directory to this format, step by step. A step may be broken off at any moment and is then done
/// again: each leaves alone what it has done already, and the number is changed when it is done.
pub(super) fn migrate(layout: &Layout, from: u64) -> Result<(), FileError> {
    for format in from..SUPPORTED {
        if format == 1 {
            doubt_open_index(layout)?;
        }
        write_number(layout, format + 1)?;
        tracing::info!(dir = %layout.root().display(), from = format, to = format + 1,
            "data directory was brought to a newer format");
    }
    Ok(())
}

/// Of an index that was not closed, format 1 does not say whether the machine has gone down since then. It is
/// made again, once.
fn doubt_open_index(layout: &Layout) -> Result<(), FileError> {
    let closed = fs::symlink_metadata(layout.index_seal()).is_ok();
    if !closed && fs::symlink_metadata(layout.index()).is_ok() {
        open_or_create(&layout.index_damaged())?;
        sync_dir(layout.root())?;
    }
    Ok(())
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
    write_number(layout, SUPPORTED)
}

fn write_number(layout: &Layout, number: u64) -> Result<(), FileError> {
    let path = layout.format();
    let new = path.with_extension("new");
    remove_file(&new)?;
    let mut file = create_new(&new)?;
    writeln!(file, "{PREFIX}{number}").map_err(FileError::at(&new))?;
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
            Err(OpenError::NewerFormat { found: 12, supported: 2, .. })
        ));
        fs::write(layout.format(), "netbuild data 1\n").unwrap();
        assert_eq!(check(&layout).unwrap(), Mark::Older(1));
        migrate(&layout, 1).unwrap();
        assert_eq!(fs::read_to_string(layout.format()).unwrap(), "netbuild data 2\n");
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
