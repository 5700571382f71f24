//! The secrets of a data directory: who this agent is, and the key of its mesh.

use netbuild_core::{
    digest::Hash,
    peer::{Identity, PeerId},
};
use netbuild_proto::ticket::MeshKey;
use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// A secret that cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be used.
    #[error("cannot use the key file `{path}`: {error}", path = .0.display(), error = .1)]
    Io(PathBuf, #[source] io::Error),
    /// The file holds something else.
    #[error("`{}` does not hold a key of 64 hexadecimal digits", .0.display())]
    Malformed(PathBuf),
    /// The operating system has no randomness.
    #[error("the operating system gives no random bytes: {0}")]
    Random(String),
    /// The data directory has joined another mesh.
    #[error(
        "`{}` holds the key of another mesh than the ticket; use another data directory, or remove \
         that file to leave the other mesh", .0.display()
    )]
    OtherMesh(PathBuf),
}

/// The identity in `identity.key`, made at first use. The caller owns the data directory.
pub(crate) fn identity(data_dir: &Path) -> Result<Identity, KeyError> {
    let path = data_dir.join("identity.key");
    let seed = match read(&path)? {
        Some(seed) => seed,
        None => make(&path)?,
    };
    Ok(Identity::from_seed(&seed))
}

/// An identity for a process that has no data directory to keep one in.
pub(crate) fn for_now() -> Result<Identity, KeyError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| KeyError::Random(error.to_string()))?;
    Ok(Identity::from_seed(&seed))
}

/// Who the data directory belongs to, if it was ever used.
pub(crate) fn owner(data_dir: &Path) -> Option<PeerId> {
    let seed = read(&data_dir.join("identity.key")).ok()??;
    Some(Identity::from_seed(&seed).peer_id())
}

/// The mesh key in `mesh.key`. `joining` is the key of a ticket: it is kept when there is none
/// yet. Without either, the agent is the first of a new mesh and makes its key.
pub(crate) fn mesh_key(data_dir: &Path, joining: Option<MeshKey>) -> Result<MeshKey, KeyError> {
    let path = data_dir.join("mesh.key");
    let key = match (read(&path)?, joining) {
        (Some(known), Some(joining)) if known != joining.0 => {
            return Err(KeyError::OtherMesh(path));
        }
        (Some(known), _) => known,
        (None, Some(joining)) => {
            write(&path, &joining.0)?;
            joining.0
        }
        (None, None) => make(&path)?,
    };
    Ok(MeshKey(key))
}

/// The mesh key that a data directory has, if it has one.
pub(crate) fn known_mesh_key(data_dir: &Path) -> Result<Option<MeshKey>, KeyError> {
    Ok(read(&data_dir.join("mesh.key"))?.map(MeshKey))
}

fn read(path: &Path) -> Result<Option<[u8; 32]>, KeyError> {
    match fs::read_to_string(path) {
        Ok(text) => match text.trim().parse::<Hash>() {
            Ok(key) => Ok(Some(key.0)),
            Err(_) => Err(KeyError::Malformed(path.to_owned())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(KeyError::Malformed(path.to_owned()))
        }
        Err(error) => Err(KeyError::Io(path.to_owned(), error)),
    }
}

fn make(path: &Path) -> Result<[u8; 32], KeyError> {
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|error| KeyError::Random(error.to_string()))?;
    write(path, &key)?;
    Ok(key)
}

/// Writes a key so that it is there whole or not at all, for its owner only.
fn write(path: &Path, key: &[u8; 32]) -> Result<(), KeyError> {
    let new = path.with_extension("new");
    let write = || -> io::Result<()> {
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        writeln!(file, "{}", Hash(*key))?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().map_err(|error| KeyError::Io(path.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = identity(dir.path()).unwrap();
        assert_eq!(identity(dir.path()).unwrap().peer_id(), first.peer_id());
        let key = mesh_key(dir.path(), None).unwrap();
        assert_eq!(mesh_key(dir.path(), None).unwrap(), key);
        assert_eq!(mesh_key(dir.path(), Some(key)).unwrap(), key);
    }

    #[test]
    fn a_directory_belongs_to_one_mesh() {
        let dir = tempfile::tempdir().unwrap();
        mesh_key(dir.path(), Some(MeshKey([1; 32]))).unwrap();
        let other = mesh_key(dir.path(), Some(MeshKey([2; 32])));
        assert!(matches!(other, Err(KeyError::OtherMesh(_))));
        assert_eq!(mesh_key(dir.path(), None).unwrap(), MeshKey([1; 32]));
    }

    #[test]
    fn a_damaged_key_file_is_an_error_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.key");
        fs::write(&path, b"\xff\xfe").unwrap();
        assert!(matches!(identity(dir.path()), Err(KeyError::Malformed(_))));
        assert_eq!(fs::read(&path).unwrap(), b"\xff\xfe");
    }
}
