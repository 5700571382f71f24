//! Paths and patterns of a graph file in one form: relative to the workspace, `/` between names,
//! no `.`, no `..`.

use super::{code, report::quote};

/// Longest path in bytes, as on Linux.
const MAX_PATH: usize = 4096;

/// Whether `*?[{` in a path are special.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    Literal,
    Pattern,
}

/// A path in its one form.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Normal {
    /// `.` for the workspace itself.
    pub(super) path: String,
    /// It was written with a `/` at its end: a whole directory.
    pub(super) tree: bool,
    /// It has special characters.
    pub(super) pattern: bool,
}

/// Why a text cannot be a path of the workspace.
#[derive(Debug)]
pub(super) struct PathError {
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

fn error(code: &'static str, message: String, hint: &str) -> PathError {
    let hint = (!hint.is_empty()).then(|| hint.to_owned());
    PathError { code, message, hint }
}

pub(super) fn normalise(text: &str, syntax: Syntax) -> Result<Normal, PathError> {
    check(text)?;
    let mut names: Vec<&str> = Vec::new();
    let mut pattern = false;
    for name in text.split('/') {
        pattern |= syntax == Syntax::Pattern && name.contains(['*', '?', '[', '{', '}']);
        match name {
            "" | "." => {}
            ".." if pattern => {
                let message = format!("`..` after a special character in {}", quote(text));
                return Err(error(code::GLOB, message, ""));
            }
            ".." => {
                if names.pop().is_none() {
                    let message = format!("{} leaves the workspace", quote(text));
                    let hint = "paths are relative to the directory of the graph file";
                    return Err(error(code::PATH, message, hint));
                }
            }
            name => names.push(name),
        }
    }
    let path = if names.is_empty() { ".".to_owned() } else { names.join("/") };
    Ok(Normal { path, tree: text.ends_with('/'), pattern })
}

fn check(text: &str) -> Result<(), PathError> {
    let bytes = text.as_bytes();
    let drive = bytes.len() > 1 && bytes[0].is_ascii_alphabetic() && bytes[1] == b':';
    if text.is_empty() {
        Err(error(code::PATH, "an empty path".to_owned(), ""))
    } else if text.len() > MAX_PATH {
        let message = format!("a path of more than {MAX_PATH} bytes");
        Err(error(code::LIMIT, message, ""))
    } else if text.contains('\0') {
        Err(error(code::TEXT, "a NUL in a path".to_owned(), ""))
    } else if text.contains('\\') {
        let message = format!("a backslash in {}", quote(text));
        Err(error(code::PATH, message, "write `/` between names"))
    } else if bytes[0] == b'/' || drive {
        let message = format!("{} is absolute", quote(text));
        let hint = "paths are relative to the directory of the graph file";
        Err(error(code::PATH, message, hint))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_form() {
        for (text, path, tree, pattern) in [
            ("a/b", "a/b", false, false),
            ("./a//b/", "a/b", true, false),
            ("a/../b", "b", false, false),
            (".", ".", false, false),
            ("a/..", ".", false, false),
            ("./", ".", true, false),
            ("../x/../..", "", false, false),
            ("x/../../y", "", false, false),
            ("./a/../b/*.c", "b/*.c", false, true),
        ] {
            let normal = normalise(text, Syntax::Pattern);
            if path.is_empty() {
                assert_eq!(normal.unwrap_err().code, code::PATH, "{text}");
            } else {
                let path = path.to_owned();
                let want = Normal { path, tree, pattern };
                assert_eq!(normal.unwrap(), want);
            }
        }
        assert!(!normalise("a[b]", Syntax::Literal).unwrap().pattern);
    }
}
