//! Files of a task as a Merkle tree: the input root of an action key, and the listing of a
//! directory output.

use crate::{
    digest::{Digest, Hash},
    encode::Encoder,
};
use std::collections::BTreeMap;

/// What stands at a path. Paths are bytes with `/` between names, relative to the workspace.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Entry {
    /// A regular file; of its mode only "may its owner execute it" counts.
    File {
        /// The file's content.
        digest: Digest,
        /// Whether the owner's execute bit is set.
        executable: bool,
    },
    /// A symbolic link, with its target verbatim.
    Symlink {
        /// The target's bytes, never followed.
        target: Vec<u8>,
    },
    /// A directory that is named for its own sake, so that an empty one counts too.
    Directory,
}

/// A set of paths cannot form one tree.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{}` is both a file and a directory", String::from_utf8_lossy(.0))]
pub struct TreeError(pub Vec<u8>);

#[derive(Debug)]
enum Node<'a> {
    Leaf(&'a Entry),
    Directory(BTreeMap<&'a [u8], Self>),
}

/// The digest of the tree that `entries` form; the same for every order in which they are given.
pub fn root_hash<'a>(
    entries: impl IntoIterator<Item = (&'a [u8], &'a Entry)>,
) -> Result<Hash, TreeError> {
    let mut root = BTreeMap::new();
    for (path, entry) in entries {
        insert(&mut root, path, entry)?;
    }
    Ok(directory_hash(&root))
}

fn insert<'a>(
    root: &mut BTreeMap<&'a [u8], Node<'a>>,
    path: &'a [u8],
    entry: &'a Entry,
) -> Result<(), TreeError> {
    let clash = || TreeError(path.to_vec());
    let mut names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).peekable();
    let mut directory = root;
    while let Some(name) = names.next() {
        if names.peek().is_some() || *entry == Entry::Directory {
            let node = directory.entry(name).or_insert_with(|| Node::Directory(BTreeMap::new()));
            let Node::Directory(inner) = node else {
                return Err(clash());
            };
            directory = inner;
        } else {
            match directory.get(name) {
                None => drop(directory.insert(name, Node::Leaf(entry))),
                Some(Node::Leaf(same)) if *same == entry => {}
                Some(_) => return Err(clash()),
            }
            return Ok(());
        }
    }
    Ok(())
}

fn directory_hash(directory: &BTreeMap<&[u8], Node<'_>>) -> Hash {
    let mut encoder = Encoder::default();
    encoder.count(directory.len());
    for (name, node) in directory {
        let kind = match node {
            Node::Leaf(Entry::File { .. }) => b'f',
            Node::Leaf(Entry::Symlink { .. }) => b'l',
            Node::Leaf(Entry::Directory) | Node::Directory(_) => b'd',
        };
        encoder.byte(kind);
        encoder.bytes(name);
        match node {
            Node::Leaf(Entry::File { digest, executable }) => {
                encoder.bytes(digest.hash.as_bytes());
                encoder.count(digest.size as usize);
                encoder.byte(u8::from(*executable));
            }
            Node::Leaf(Entry::Symlink { target }) => encoder.bytes(target),
            Node::Leaf(Entry::Directory) => {
                encoder.bytes(directory_hash(&BTreeMap::new()).as_bytes());
            }
            Node::Directory(inner) => encoder.bytes(directory_hash(inner).as_bytes()),
        }
    }
    Hash::of(encoder.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(content: &str, executable: bool) -> Entry {
        Entry::File { digest: Digest::of(content.as_bytes()), executable }
    }

    fn root(entries: &[(&str, Entry)]) -> Result<Hash, TreeError> {
        root_hash(entries.iter().map(|(path, entry)| (path.as_bytes(), entry)))
    }

    #[test]
    fn the_format_of_the_input_root_is_pinned() {
        let tree = [
            ("src/main.rs", file("fn main() {}", false)),
            ("src/run.sh", file("#!/bin/sh\n", true)),
            ("link", Entry::Symlink { target: b"src/main.rs".to_vec() }),
            ("empty", Entry::Directory),
        ];
        assert_eq!(
            root(&tree).unwrap().to_string(),
            "46a853a69b7f36505dbef57ca1f66bff0ea1aa9a230dfb7bf9047b8d93b7a030"
        );
        assert_eq!(
            root(&[]).unwrap().to_string(),
            "71e0a99173564931c0b8acc52d2685a8e39c64dc52e3d02390fdac2a12b155cb"
        );
    }

    #[test]
    fn every_property_of_a_tree_shows_in_its_root() {
        let base = [("a/b", file("x", false))];
        let others: [&[(&str, Entry)]; 6] = [
            &[("a/b", file("y", false))],
            &[("a/b", file("x", true))],
            &[("a/c", file("x", false))],
            &[("ab", file("x", false))],
            &[("a/b", file("x", false)), ("a/d", Entry::Directory)],
            &[("a/b", Entry::Symlink { target: b"x".to_vec() })],
        ];
        for other in others {
            assert_ne!(root(&base), root(other), "{other:?}");
        }
    }

    #[test]
    fn a_path_cannot_be_file_and_directory() {
        let (a, b) = (("a", file("x", false)), ("a/b", file("x", false)));
        assert!(root(&[a.clone(), b.clone()]).is_err());
        assert!(root(&[b, a]).is_err());
        assert!(root(&[("a", file("x", false)), ("a", file("y", false))]).is_err());
        assert!(root(&[("a", file("x", false)), ("a", file("x", false))]).is_ok());
    }

    proptest! {
        #[test]
        fn order_does_not_matter(
            paths in prop::collection::btree_map("[a-c]{1,2}(/[a-c-]{1,2}){0,2}", ".{0,4}", 0..8),
            rotate in 0usize..8,
        ) {
            let mut entries: Vec<_> =
                paths.iter().map(|(path, content)| (path.as_str(), file(content, false))).collect();
            let first = root(&entries);
            if !entries.is_empty() {
                let middle = rotate % entries.len();
                entries.rotate_left(middle);
            }
            entries.reverse();
            let second = root(&entries);
            prop_assert_eq!(first.is_ok(), second.is_ok());
            if let (Ok(first), Ok(second)) = (first, second) {
                prop_assert_eq!(first, second);
            }
        }
    }
}
