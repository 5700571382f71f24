//! Listings: the blobs that name the entries of a directory output.

use crate::{
    codec::{self, DecodeError},
    record::{DigestV1, check_path},
};
use bincode::{Decode, Encode};
use netbuild_core::tree::Entry;

/// Version of the format, the first byte of every listing.
const VERSION: u8 = 1;
/// Most bytes of a listing: a million entries with paths of ordinary length.
pub const MAX_LISTING: usize = 128 * 1024 * 1024;
/// Most bytes of one entry: a path and the target of a link, both at most as long as Linux takes
/// them (4096), and room.
const MAX_ENTRY: usize = 16 * 1024;

#[derive(Encode, Decode)]
pub(crate) enum EntryV1 {
    File { digest: DigestV1, executable: bool },
    Symlink { target: Vec<u8> },
    Directory,
}

impl From<Entry> for EntryV1 {
    fn from(entry: Entry) -> Self {
        match entry {
            Entry::File { digest, executable } => Self::File { digest: digest.into(), executable },
            Entry::Symlink { target } => Self::Symlink { target },
            Entry::Directory => Self::Directory,
        }
    }
}

impl From<EntryV1> for Entry {
    fn from(entry: EntryV1) -> Self {
        match entry {
            EntryV1::File { digest, executable } => {
                Self::File { digest: digest.into(), executable }
            }
            EntryV1::Symlink { target } => Self::Symlink { target },
            EntryV1::Directory => Self::Directory,
        }
    }
}

/// Encodes entries that are sorted by path, so that equal trees are equal blobs.
pub fn encode(entries: &[(Vec<u8>, Entry)]) -> Vec<u8> {
    debug_assert!(entries.is_sorted_by(|a, b| a.0 < b.0));
    let wire: Vec<(&[u8], EntryV1)> = entries
        .iter()
        .map(|(path, entry)| (path.as_slice(), EntryV1::from(entry.clone())))
        .collect();
    let mut bytes = vec![VERSION];
    bytes.extend(codec::encode(&wire));
    bytes
}

/// Decodes a listing; its paths are relative, stay inside, and come sorted without repetition.
pub fn decode(bytes: &[u8]) -> Result<Vec<(Vec<u8>, Entry)>, DecodeError> {
    let Some((&VERSION, body)) = bytes.split_first() else {
        return Err(DecodeError::Invalid("listing of an unknown version".into()));
    };
    if body.len() > MAX_LISTING {
        return Err(DecodeError::TooLong { len: body.len(), limit: MAX_LISTING });
    }
    let mut entries: Vec<(Vec<u8>, Entry)> = Vec::new();
    codec::decode_each::<(Vec<u8>, EntryV1), MAX_ENTRY>(body, |(path, entry)| {
        check_path(&path)?;
        if entries.last().is_some_and(|(last, _)| *last >= path) {
            return Err(DecodeError::Invalid("listing is not sorted".into()));
        }
        entries.push((path, entry.into()));
        Ok(())
    })?;
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::digest::Digest;
    use proptest::prelude::*;

    fn entries() -> Vec<(Vec<u8>, Entry)> {
        vec![
            (b"a".to_vec(), Entry::Directory),
            (b"a/\xff".to_vec(), Entry::File { digest: Digest::of(b"x"), executable: true }),
            (b"b".to_vec(), Entry::Symlink { target: b"a".to_vec() }),
        ]
    }

    #[test]
    fn the_format_is_pinned() {
        assert_eq!(
            Digest::of(&encode(&entries())).to_string(),
            "00a01d8469f75e75cf0e740f0c708d9f8d0e2ed335597d400096bbb1e143ad7b/49"
        );
        assert_eq!(decode(&encode(&entries())).unwrap(), entries());
    }

    #[test]
    fn entries_that_escape_or_repeat_are_refused() {
        for path in ["..", "/a", "a/../../b", ""] {
            assert!(decode(&encode(&[(path.into(), Entry::Directory)])).is_err(), "{path:?}");
        }
        let mut twice = vec![VERSION];
        let entry = || (b"a".to_vec(), EntryV1::Directory);
        twice.extend(codec::encode(&vec![entry(), entry()]));
        assert!(decode(&twice).is_err());
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }
}
