//! Which chunks of an arriving blob have been written: a file that names the blob and its chunks,
//! and to which the number of each chunk is added when its bytes are in place.
//!
//! What it says is a hint: whoever goes on with the blob checks each chunk that it names.

use super::layout::{create_new, remove_file};
use crate::error::FileError;
use netbuild_core::chunk::Manifest;
use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Starts every log, and says which layout the rest has.
const MAGIC: [u8; 8] = *b"nbpart\x00\x01";
/// Bytes of an entry: the number of a chunk, and CRC-32C of the checksum of the head and that
/// number.
const ENTRY: usize = 4 + 4;

/// A log that is written to.
#[derive(Debug)]
pub(super) struct ChunkLog {
    path: PathBuf,
    file: File,
    end: u64,
    seal: u32,
}

/// What every log of this blob with these chunks begins with, and its checksum.
fn head(manifest: &Manifest) -> (Vec<u8>, u32) {
    let blob = manifest.blob();
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(blob.hash.as_bytes());
    bytes.extend_from_slice(&blob.size.to_le_bytes());
    bytes.extend_from_slice(&(manifest.chunks().len() as u64).to_le_bytes());
    for chunk in manifest.chunks() {
        bytes.extend_from_slice(chunk.hash.as_bytes());
        bytes.extend_from_slice(&chunk.len.to_le_bytes());
    }
    let seal = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&seal.to_le_bytes());
    (bytes, seal)
}

fn entry(seal: u32, index: u32) -> [u8; ENTRY] {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&seal.to_le_bytes()), &index.to_le_bytes());
    let mut bytes = [0; ENTRY];
    bytes[..4].copy_from_slice(&index.to_le_bytes());
    bytes[4..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// For each chunk of `manifest` whether these bytes of a log say that it was written; `None` when
/// the log is of another blob or of other chunks. Damaged entries say nothing.
fn parse(manifest: &Manifest, log: &[u8]) -> Option<Vec<bool>> {
    let (head, seal) = head(manifest);
    let (entries, _torn) = log.strip_prefix(&head[..])?.as_chunks::<ENTRY>();
    let mut written = vec![false; manifest.chunks().len()];
    for bytes in entries {
        let index = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        if let Some(slot) = written.get_mut(index as usize).filter(|_| *bytes == entry(seal, index))
        {
            *slot = true;
        }
    }
    Some(written)
}

impl ChunkLog {
    /// What the log at `path` says of each chunk; `None` when there is none of these chunks.
    pub(super) fn read(path: &Path, manifest: &Manifest) -> Result<Option<Vec<bool>>, FileError> {
        let (head, _) = head(manifest);
        // A log of ours is never longer, whatever the file says.
        let limit = head.len() + manifest.chunks().len() * ENTRY;
        let mut bytes = Vec::new();
        match File::open(path).and_then(|file| file.take(limit as u64).read_to_end(&mut bytes)) {
            Ok(_) => Ok(parse(manifest, &bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(FileError::at(path)(error)),
        }
    }

    /// Makes a log that says that `written` chunks are there, in place of one that there may be.
    pub(super) fn create(
        path: &Path,
        manifest: &Manifest,
        written: impl Iterator<Item = u32>,
    ) -> Result<Self, FileError> {
        let (mut bytes, seal) = head(manifest);
        written.for_each(|index| bytes.extend_from_slice(&entry(seal, index)));
        let new = Self::unfinished(path);
        remove_file(&new)?;
        let file = create_new(&new)?;
        let made = file.write_all_at(&bytes, 0).map_err(FileError::at(&new));
        let made = made.and_then(|()| fs::rename(&new, path).map_err(FileError::at(path)));
        if let Err(error) = made {
            // The first error is the one to report.
            let _ = fs::remove_file(&new);
            return Err(error);
        }
        Ok(Self { path: path.to_owned(), file, end: bytes.len() as u64, seal })
    }

    /// The name of a log that is being made.
    pub(super) fn unfinished(path: &Path) -> PathBuf {
        path.with_extension("new")
    }

    /// Adds a chunk.
    pub(super) fn add(&mut self, index: u32) -> Result<(), FileError> {
        if let Err(error) = self.file.write_all_at(&entry(self.seal, index), self.end) {
            // The next entry is written over what came to be written of this one.
            let _ = self.file.set_len(self.end);
            return Err(FileError::at(&self.path)(error));
        }
        self.end += ENTRY as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::{
        chunk::Chunk,
        digest::{Digest, Hash},
    };
    use proptest::prelude::*;

    fn manifest(lens: &[u32]) -> Manifest {
        let chunk = |len: &u32| Chunk { hash: Hash::of(&len.to_le_bytes()), len: *len };
        let size = lens.iter().map(|len| u64::from(*len)).sum();
        let blob = Digest { hash: Hash([7; 32]), size };
        Manifest::new(blob, lens.iter().map(chunk).collect()).unwrap()
    }

    #[test]
    fn what_was_added_is_read_again_and_only_for_the_same_chunks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let ours = manifest(&[5, 6, 7, 8]);
        assert_eq!(ChunkLog::read(&path, &ours).unwrap(), None);
        let mut log = ChunkLog::create(&path, &ours, [2].into_iter()).unwrap();
        log.add(0).unwrap();
        let read = |manifest: &Manifest| ChunkLog::read(&path, manifest).unwrap();
        assert_eq!(read(&ours), Some(vec![true, false, true, false]));
        assert_eq!(read(&manifest(&[5, 6, 8, 7])), None);
        assert_eq!(read(&manifest(&[26])), None);
        assert!(!ChunkLog::unfinished(&path).exists());
    }

    #[test]
    fn the_layout_is_that_of_version_1() {
        let ours = manifest(&[5, 6]);
        let (mut log, seal) = head(&ours);
        log.extend(entry(seal, 1));
        let mut expected = b"nbpart\0\x01".to_vec();
        expected.extend([7; 32]);
        expected.extend([11, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        for chunk in ours.chunks() {
            expected.extend(chunk.hash.0);
            expected.extend([chunk.len as u8, 0, 0, 0]);
        }
        expected.extend([250, 80, 35, 157]);
        expected.extend([1, 0, 0, 0, 84, 153, 78, 141]);
        assert_eq!(log, expected);
    }

    #[test]
    fn any_flipped_bit_costs_one_entry_or_the_log_and_adds_nothing() {
        let ours = manifest(&[5, 6, 7]);
        let (mut good, seal) = head(&ours);
        let start = good.len();
        [2, 0].iter().for_each(|index| good.extend(entry(seal, *index)));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let expected = match (bit / 8).checked_sub(start) {
                None => None,
                Some(at) if at < ENTRY => Some(vec![true, false, false]),
                Some(_) => Some(vec![false, false, true]),
            };
            assert_eq!(parse(&ours, &bad), expected, "bit {bit}");
        }
        // The entries of a log of another blob say nothing of this one.
        let (_, other) = head(&manifest(&[5, 7, 6]));
        good.extend(entry(other, 1));
        assert_eq!(parse(&ours, &good), Some(vec![true, false, true]));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic_and_a_torn_log_says_no_more(
            added in prop::collection::vec(0_u32..4, 0..9), cut: prop::sample::Index,
            junk in prop::collection::vec(any::<u8>(), 0..60)
        ) {
            let ours = manifest(&[5, 6, 7, 8]);
            let (mut log, seal) = head(&ours);
            added.iter().for_each(|index| log.extend(entry(seal, *index)));
            let whole = parse(&ours, &log).unwrap();
            let torn = &log[..cut.index(log.len() + 1)];
            for log in [torn.to_vec(), [torn, &junk].concat(), junk] {
                let said = parse(&ours, &log).unwrap_or_default();
                prop_assert!(said.iter().zip(&whole).all(|(said, whole)| !said || *whole));
            }
        }
    }
}
