//! What a command left at the places that its task declares.

use crate::{
    beneath::{join, shown},
    files::{FileError, FileTable, LARGEST, is_large},
    inputs::entries,
};
use memchr::memmem::Finder;
use netbuild_core::{
    digest::Digest,
    glob::{Glob, GlobError},
    key::{OutputDeclaration, OutputShape},
    record::{MAX_OUTPUTS, Output, OutputKind},
    tree::Entry,
};
use netbuild_proto::listing;

/// Outputs that are not what the task declares: the task fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutputError {
    #[error("declared output `{0}` was not produced")]
    Missing(String),
    #[error("output `{0}` is declared as a file and is a directory; declare `{0}/`")]
    IsDirectory(String),
    #[error("output `{0}/` is declared as a directory and is a file; declare `{0}`")]
    IsFile(String),
    #[error("output {0}")]
    File(#[from] FileError),
    #[error("output pattern: {0}")]
    Glob(#[from] GlobError),
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    /// As the record has it.
    pub(crate) outputs: Vec<Output>,
    /// Every file, link and directory, with paths relative to the workspace.
    pub(crate) entries: Vec<(Vec<u8>, Entry)>,
    /// Listings that the outputs name, to be kept as blobs.
    pub(crate) listings: Vec<Vec<u8>>,
    /// Whether an output contains the path of the workspace.
    pub(crate) bound: bool,
    /// An output that contains the path of the stage that it was made on.
    pub(crate) names_stage: Option<Vec<u8>>,
    /// Why the result cannot be kept, although the task did well.
    pub(crate) uncacheable: Option<String>,
}

/// Finds, digests and checks the declared outputs.
pub(crate) fn collect(
    table: &FileTable,
    declared: &[OutputDeclaration],
    workspace: &Finder<'_>,
    stage: Option<&Finder<'_>>,
) -> Result<Collected, OutputError> {
    let mut collector = Collector { table, workspace, stage, collected: Collected::default() };
    let mut single = Vec::new();
    for declaration in declared {
        let path = declaration.place().as_bytes();
        match declaration.shape {
            OutputShape::Path => collector.path(path, declaration.optional, &mut single)?,
            OutputShape::Tree => collector.tree(path, declaration.optional)?,
            OutputShape::Glob => collector.glob(declaration, &mut single)?,
        }
    }
    let mut collected = collector.collected;
    collected.entries.extend(single.iter().cloned());
    if single.len() + collected.outputs.len() > MAX_OUTPUTS {
        single.sort();
        single.dedup();
        let bytes = listing::encode(&single);
        let kind = OutputKind::Files { listing: Digest::of(&bytes) };
        collected.outputs.push(Output { path: b"files".to_vec(), kind });
        collected.listings.push(bytes);
    } else {
        collected.outputs.extend(single.into_iter().map(|(path, entry)| output(path, entry)));
    }
    if collected.outputs.len() > MAX_OUTPUTS {
        let what = "directories, or optional and absent";
        collected.uncacheable = Some(format!("more than {MAX_OUTPUTS} of its outputs are {what}"));
    }
    collected.outputs.sort_by(|a, b| a.path.cmp(&b.path));
    collected.outputs.dedup();
    collected.entries.sort();
    collected.entries.dedup();
    Ok(collected)
}

fn output(path: Vec<u8>, entry: Entry) -> Output {
    let kind = match entry {
        Entry::File { digest, executable } => OutputKind::File { digest, executable },
        Entry::Symlink { target } => OutputKind::Symlink { target },
        // Only trees name directories, and they have listings.
        Entry::Directory => OutputKind::Absent,
    };
    Output { path, kind }
}

struct Collector<'a> {
    table: &'a FileTable,
    workspace: &'a Finder<'a>,
    stage: Option<&'a Finder<'a>>,
    collected: Collected,
}

impl Collector<'_> {
    fn path(
        &mut self,
        path: &[u8],
        optional: bool,
        single: &mut Vec<(Vec<u8>, Entry)>,
    ) -> Result<(), OutputError> {
        match self.entry(path) {
            Ok(Some(Entry::Directory)) => Err(OutputError::IsDirectory(shown(path))),
            Ok(Some(entry)) => {
                single.push((path.to_vec(), entry));
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(FileError::Missing(_)) if optional => {
                self.absent(path);
                Ok(())
            }
            Err(FileError::Missing(_)) => Err(OutputError::Missing(shown(path))),
            Err(error) => Err(error.into()),
        }
    }

    fn tree(&mut self, root: &[u8], optional: bool) -> Result<(), OutputError> {
        match self.entry(root) {
            Ok(Some(Entry::Directory)) => {}
            Ok(_) => return Err(OutputError::IsFile(shown(root))),
            Err(FileError::Missing(_)) if optional => {
                self.absent(root);
                return Ok(());
            }
            Err(FileError::Missing(_)) => {
                return Err(OutputError::Missing(format!("{}/", shown(root))));
            }
            Err(error) => return Err(error.into()),
        }
        let mut found = Vec::new();
        let mut directories = vec![Vec::new()];
        while let Some(directory) = directories.pop() {
            for (name, is_directory) in entries(self.table, &join(root, &directory))? {
                let path = join(&directory, &name);
                if let Some(entry) = self.entry(&join(root, &path))? {
                    found.push((path.clone(), entry));
                }
                if is_directory {
                    directories.push(path);
                }
            }
        }
        found.sort();
        let bytes = listing::encode(&found);
        let kind = OutputKind::Tree { listing: Digest::of(&bytes) };
        self.collected.outputs.push(Output { path: root.to_vec(), kind });
        self.collected.listings.push(bytes);
        self.collected.entries.push((root.to_vec(), Entry::Directory));
        let below = found.into_iter().map(|(path, entry)| (join(root, &path), entry));
        self.collected.entries.extend(below);
        Ok(())
    }

    fn glob(
        &mut self,
        declaration: &OutputDeclaration,
        single: &mut Vec<(Vec<u8>, Entry)>,
    ) -> Result<(), OutputError> {
        let found = matching(self.table, &Glob::new(&declaration.pattern)?)?;
        if found.is_empty() && !declaration.optional {
            return Err(OutputError::Missing(declaration.pattern.clone()));
        }
        for path in found {
            if let Some(entry) = self.entry(&path)? {
                single.push((path, entry));
            }
        }
        Ok(())
    }

    fn absent(&mut self, path: &[u8]) {
        self.collected.outputs.push(Output { path: path.to_vec(), kind: OutputKind::Absent });
    }

    /// What stands at `path`; `None` when it cannot be kept, which then holds for the result.
    fn entry(&mut self, path: &[u8]) -> Result<Option<Entry>, FileError> {
        let scanned = match self.table.scan(path, self.workspace) {
            Err(error @ FileError::Special(..)) => {
                self.collected.uncacheable = Some(format!("output {error}"));
                return Ok(None);
            }
            other => other?,
        };
        self.collected.bound |= scanned.found;
        // The stage is in the workspace, so that few files are read twice.
        if let Some(stage) = self.stage.filter(|_| scanned.found)
            && self.table.scan(path, stage)?.found
        {
            self.collected.names_stage.get_or_insert_with(|| path.to_vec());
        }
        if let Entry::File { digest, .. } = &scanned.seen.entry
            && is_large(digest.size)
        {
            let (path, most) = (shown(path), LARGEST >> 30);
            self.collected.uncacheable = Some(format!(
                "output `{path}` has more than the {most} GiB that are read of a file"
            ));
        }
        if let Entry::Symlink { target } = &scanned.seen.entry
            && leaves_workspace(path, target)
        {
            self.collected.uncacheable = Some(format!(
                "output `{}` is a symbolic link out of the workspace, to `{}`",
                shown(path),
                shown(target)
            ));
        }
        Ok(Some(scanned.seen.entry))
    }
}

/// Files and links that a pattern matches now.
pub(crate) fn matching(table: &FileTable, glob: &Glob) -> Result<Vec<Vec<u8>>, FileError> {
    let mut found = Vec::new();
    let mut directories = vec![glob.literal_prefix().as_bytes().to_vec()];
    while let Some(directory) = directories.pop() {
        for (name, is_directory) in entries(table, &directory)? {
            let path = join(&directory, &name);
            if is_directory {
                if glob.may_match_below(&path) {
                    directories.push(path);
                }
            } else if glob.matches(&path) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a link at `path` points out of the workspace, by its text alone.
fn leaves_workspace(path: &[u8], target: &[u8]) -> bool {
    if target.starts_with(b"/") {
        return true;
    }
    // The link's own directory is as deep as its path has slashes.
    let mut depth = path.iter().filter(|byte| **byte == b'/').count();
    for name in target.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." if depth == 0 => return true,
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_judged_by_their_text() {
        for (path, target, leaves) in [
            ("a", "b", false),
            ("a", "../b", true),
            ("d/a", "../b", false),
            ("d/a", "../../b", true),
            ("d/a", "/etc/passwd", true),
            ("d/e/a", "x/../../../b", false),
            ("d/e/a", "x/../../../../b", true),
        ] {
            assert_eq!(
                leaves_workspace(path.as_bytes(), target.as_bytes()),
                leaves,
                "{path} {target}"
            );
        }
    }
}
