//! The declared inputs of a task as they stand on disk now.

use crate::{
    beneath::{join, shown},
    files::{FileError, FileTable, Seen},
};
use netbuild_core::{
    graph::InputPattern,
    tree::{Entry, TreeError},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::Path,
};

/// Directories that no pattern ever enters.
const NEVER: [&[u8]; 4] = [b".git", b".hg", b".svn", b".netbuild"];
/// Directories that no pattern enters when the workspace's `.gitignore` names them.
const WHEN_IGNORED: [&str; 2] = ["node_modules", "target"];
const GITIGNORE: &str = ".gitignore";
/// Where the key has what a link out of the workspace leads to. Nothing else can stand there.
pub(crate) const EXTERNAL: &[u8] = b".netbuild/external";

/// Inputs that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    #[error("input {0}")]
    File(#[from] FileError),
    #[error("input {0}")]
    Tree(#[from] TreeError),
}

/// Every input with its stamp, by path.
pub(crate) type Inputs = BTreeMap<Vec<u8>, Seen>;

/// What will stand at paths once the tasks before have had their turn.
pub(crate) type Awaited<'a> = BTreeMap<&'a [u8], &'a Entry>;

/// Directories that walks leave out.
#[derive(Debug)]
pub(crate) struct Ignored(BTreeSet<Vec<u8>>);

impl Ignored {
    pub(crate) fn read(table: &FileTable) -> Self {
        table.note_file(GITIGNORE.as_bytes());
        Self::read_from(&table.absolute(GITIGNORE.as_bytes()))
    }

    fn read_from(gitignore: &Path) -> Self {
        let mut names: BTreeSet<Vec<u8>> = NEVER.iter().map(|name| name.to_vec()).collect();
        let gitignore = fs::read_to_string(gitignore).unwrap_or_default();
        for line in gitignore.lines() {
            let name = line.trim().trim_matches('/');
            if WHEN_IGNORED.contains(&name) {
                names.insert(name.into());
            }
        }
        Self(names)
    }

    fn contains(&self, name: &[u8]) -> bool {
        self.0.contains(name)
    }
}

/// Finds and digests what the patterns select. What is `awaited` at a path that one names need not
/// stand there.
pub(crate) fn collect(
    table: &FileTable,
    ignored: &Ignored,
    patterns: &[InputPattern],
    awaited: &Awaited<'_>,
) -> Result<Inputs, InputError> {
    let mut inputs = Inputs::new();
    for pattern in patterns.iter().filter(|pattern| !pattern.negated) {
        let start = pattern.glob.literal_prefix().as_bytes();
        if !pattern.glob.is_literal() {
            walk(table, ignored, start, patterns, pattern, &mut inputs)?;
        } else if InputPattern::select(patterns, start)
            && !inputs.contains_key(start)
            && !awaited.contains_key(start)
        {
            let seen = table.see(start)?;
            if seen.entry == Entry::Directory {
                for (path, seen) in tree(table, start)? {
                    add(table, &mut inputs, join(start, &path), seen)?;
                }
            }
            add(table, &mut inputs, start.to_vec(), seen)?;
        }
    }
    Ok(inputs)
}

/// Patterns that match nothing, and so may be misspelt.
pub(crate) fn unmatched<'p>(
    patterns: &'p [InputPattern],
    inputs: &Inputs,
) -> impl Iterator<Item = &'p str> {
    let wanted = patterns.iter().filter(|pattern| !pattern.negated && !pattern.glob.is_literal());
    wanted
        .filter(|pattern| {
            // What a pattern matches stands behind its literal start in the order of paths.
            let start = pattern.glob.literal_prefix().as_bytes().to_vec();
            let below = inputs.range(start.clone()..);
            !below
                .take_while(|(path, _)| path.starts_with(&start))
                .any(|(path, _)| pattern.glob.matches(path))
        })
        .map(|pattern| pattern.glob.as_str())
}

/// Adds what stands at `path`, unless it is there already.
pub(crate) fn add_path(
    table: &FileTable,
    inputs: &mut Inputs,
    path: &[u8],
) -> Result<(), FileError> {
    if inputs.contains_key(path) {
        return Ok(());
    }
    let seen = table.see(path)?;
    add(table, inputs, path.to_vec(), seen)
}

/// Adds an input. A link counts with what it leads to: its text alone would miss an edit there.
fn add(table: &FileTable, inputs: &mut Inputs, path: Vec<u8>, seen: Seen) -> Result<(), FileError> {
    if let Entry::Symlink { .. } = seen.entry
        && let Ok(target) = table.real(&table.absolute(&path))
    {
        if target.is_file() {
            let target = target.as_os_str().as_bytes();
            inputs.insert([EXTERNAL, b"/", &path].concat(), table.see(target)?);
        } else {
            // It may become one.
            table.forget_looks();
        }
    }
    inputs.insert(path, seen);
    Ok(())
}

fn walk(
    table: &FileTable,
    ignored: &Ignored,
    start: &[u8],
    patterns: &[InputPattern],
    pattern: &InputPattern,
    inputs: &mut Inputs,
) -> Result<(), FileError> {
    let mut directories = vec![start.to_vec()];
    while let Some(directory) = directories.pop() {
        for (name, is_directory) in entries(table, &directory)? {
            let path = join(&directory, &name);
            if is_directory {
                if !ignored.contains(&name) && pattern.glob.may_match_below(&path) {
                    directories.push(path);
                }
            } else if pattern.glob.matches(&path)
                && InputPattern::select(patterns, &path)
                && !inputs.contains_key(&path)
            {
                let seen = table.see(&path)?;
                add(table, inputs, path, seen)?;
            }
        }
    }
    Ok(())
}

/// All files and links of a workspace that patterns can match, relative to it; names that are not UTF-8 are left
/// out.
///
/// # Errors
/// When the workspace itself cannot be listed.
pub fn standing(root: &Path) -> io::Result<BTreeSet<String>> {
    let ignored = Ignored::read_from(&root.join(GITIGNORE));
    let mut found = BTreeSet::new();
    fs::read_dir(root)?;
    let mut directories = vec![String::new()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(root.join(&directory)).into_iter().flatten().flatten() {
            let (Ok(name), Ok(kind)) = (entry.file_name().into_string(), entry.file_type()) else {
                continue;
            };
            let is_ignored = ignored.contains(name.as_bytes());
            let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
            if !kind.is_dir() {
                found.insert(path);
            } else if !is_ignored {
                directories.push(path);
            }
        }
    }
    Ok(found)
}

/// Names in a directory, and whether each is a directory itself; none when it does not exist.
pub(crate) fn entries(
    table: &FileTable,
    directory: &[u8],
) -> Result<Vec<(Vec<u8>, bool)>, FileError> {
    let absolute = table.absolute(directory);
    let io_error = |error| FileError::Io(absolute.clone(), error);
    table.note_listed(directory);
    let list = match fs::read_dir(&absolute) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(Vec::new()),
        Err(error) => return Err(io_error(error)),
    };
    let mut found = Vec::new();
    for entry in list {
        let entry = entry.map_err(io_error)?;
        let is_directory = entry.file_type().map_err(io_error)?.is_dir();
        found.push((entry.file_name().as_bytes().to_vec(), is_directory));
    }
    Ok(found)
}

/// All that is in a directory, with paths relative to it, sorted; directories too.
pub(crate) fn tree(table: &FileTable, root: &[u8]) -> Result<BTreeMap<Vec<u8>, Seen>, FileError> {
    let mut found = BTreeMap::new();
    let mut directories = vec![Vec::new()];
    while let Some(directory) = directories.pop() {
        for (name, is_directory) in entries(table, &join(root, &directory))? {
            let path = join(&directory, &name);
            found.insert(path.clone(), table.see(&join(root, &path))?);
            if is_directory {
                directories.push(path);
            }
        }
    }
    Ok(found)
}

/// What happened to an input while the command ran.
pub(crate) fn drift(before: &Inputs, after: &Inputs) -> Option<String> {
    for (path, was) in before {
        let Some(is) = after.get(path) else {
            return Some(format!("input `{}` was removed while the task ran", shown(path)));
        };
        if is.entry != was.entry {
            return Some(format!("input `{}` changed while the task ran", shown(path)));
        }
        // A new hard link to the file changes its stamp and nothing else.
        let linked = is.stamp.nlink != was.stamp.nlink && is.stamp.mtime_ns == was.stamp.mtime_ns;
        if is.stamp != was.stamp && !linked {
            return Some(format!(
                "input `{}` was written while the task ran, although it is the same again",
                shown(path)
            ));
        }
    }
    let new = after.keys().find(|path| !before.contains_key(*path))?;
    Some(format!("input `{}` appeared while the task ran", shown(new)))
}
