//! Patterns over workspace paths: `*`, `**`, `?`, `[a-z]`, `[!a]` and `{a,b}`.
//!
//! `*` and `?` stay within one name, `**` stands alone between slashes for any number of
//! directories, names that begin with a dot are names like all others. Paths are bytes, relative
//! to the workspace, with `/` between names; where they are UTF-8, `?` and `[...]` match one
//! character, elsewhere one byte. Matching takes at most time proportional to the length of the
//! path times the length of the pattern.

mod braces;
mod name;

use name::NamePattern;
use std::fmt;

/// Longest pattern in bytes: the longest path that Linux takes.
pub const MAX_PATTERN: usize = 4096;

/// A pattern, compiled.
#[derive(Clone)]
pub struct Glob {
    text: String,
    prefix: usize,
    literal: bool,
    /// None for a plain path.
    alternatives: Vec<Vec<Step>>,
}

/// One `/`-separated part of a pattern without braces.
#[derive(Clone, Debug)]
enum Step {
    /// `**`
    Directories,
    Name(NamePattern),
}

/// A text that is not a pattern.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{kind} at byte {at} of `{pattern}`")]
pub struct GlobError {
    /// The pattern as it was given.
    pub pattern: String,
    /// Where it goes wrong, in bytes from 0.
    pub at: usize,
    /// What is wrong there.
    pub kind: GlobErrorKind,
}

/// What is wrong with a pattern.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GlobErrorKind {
    /// A `[` without its `]` in the same name.
    #[error("unclosed `[`")]
    UnclosedClass,
    /// A range such as `[z-a]`.
    #[error("backward range")]
    BackwardRange,
    /// A `{` without its `}`.
    #[error("unclosed `{{`")]
    UnclosedBrace,
    /// A `}` without its `{`.
    #[error("`}}` without `{{`")]
    StrayBrace,
    /// Braces that stand for too many patterns.
    #[error("braces with more than {} alternatives", braces::MAX_ALTERNATIVES)]
    TooManyAlternatives,
    /// Braces inside braces inside braces.
    #[error("braces nested more than {} deep", braces::MAX_NESTING)]
    TooDeep,
    /// A `**` with something else in its name.
    #[error("`**` that does not stand alone between slashes")]
    JoinedDoubleStar,
    /// A `.` or `..` between slashes.
    #[error("`.` or `..` in a pattern")]
    Dots,
    /// A `\`: there are no escapes, and no path has it.
    #[error("backslash")]
    Backslash,
    /// A `/` at the start.
    #[error("absolute path")]
    Absolute,
    /// Nothing at all, or nothing in one of the alternatives.
    #[error("empty pattern")]
    Empty,
    /// More than [`MAX_PATTERN`] bytes.
    #[error("pattern of more than {MAX_PATTERN} bytes")]
    TooLong,
}

impl Glob {
    /// Compiles a pattern.
    pub fn new(pattern: &str) -> Result<Self, GlobError> {
        Self::compile(pattern).map_err(|(at, kind)| GlobError {
            pattern: pattern.chars().take(MAX_PATTERN).collect(),
            at,
            kind,
        })
    }

    fn compile(pattern: &str) -> Result<Self, (usize, GlobErrorKind)> {
        if pattern.len() > MAX_PATTERN {
            return Err((MAX_PATTERN, GlobErrorKind::TooLong));
        }
        if let Some(at) = pattern.find('\\') {
            return Err((at, GlobErrorKind::Backslash));
        }
        let mut alternatives = Vec::new();
        for alternative in braces::expand(pattern)? {
            alternatives.push(steps(&alternative)?);
        }
        let special = pattern.find(is_special);
        if special.is_none() && !pattern.ends_with('/') && !pattern.contains("//") {
            // It is compared as it is: a graph may have a hundred thousand of these.
            alternatives = Vec::new();
        }
        let prefix = match special {
            None => pattern.trim_end_matches('/').len(),
            Some(at) => pattern[..at].rfind('/').unwrap_or(0),
        };
        Ok(Self { prefix, literal: special.is_none(), text: pattern.to_owned(), alternatives })
    }

    /// The pattern as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the whole of `path` (relative, `/`-separated) matches.
    pub fn matches(&self, path: &[u8]) -> bool {
        if self.alternatives.is_empty() {
            return path == self.text.as_bytes();
        }
        !path.is_empty() && self.alternatives.iter().any(|steps| matches_all(steps, path))
    }

    /// Whether the pattern has no special character, and so matches exactly one path: itself.
    pub fn is_literal(&self) -> bool {
        self.literal
    }

    /// The directory to start a walk at: what stands before the first name with a special
    /// character, or the whole pattern when it is literal; without a `/` at its end. Empty for the
    /// workspace.
    pub fn literal_prefix(&self) -> &str {
        &self.text[..self.prefix]
    }

    /// About how many bytes the compiled pattern takes because of its braces.
    pub(crate) fn weight(&self) -> usize {
        if self.alternatives.len() == 1 {
            return 0;
        }
        let steps = self.alternatives.iter().map(|steps| {
            let names = steps.iter().map(|step| match step {
                Step::Directories => 0,
                Step::Name(pattern) => pattern.weight(),
            });
            size_of_val(steps) + size_of_val(steps.as_slice()) + names.sum::<usize>()
        });
        steps.sum()
    }

    /// Whether some path inside the directory `dir` may match; `dir` is empty for the workspace.
    pub fn may_match_below(&self, dir: &[u8]) -> bool {
        if self.alternatives.is_empty() {
            let rest = self.text.as_bytes().strip_prefix(dir);
            return dir.is_empty() || rest.is_some_and(|rest| rest.starts_with(b"/"));
        }
        self.alternatives.iter().any(|steps| may_continue(steps, dir))
    }
}

fn is_special(c: char) -> bool {
    matches!(c, '*' | '?' | '[' | '{' | '}')
}

/// Compiles a pattern whose braces are expanded.
fn steps(pattern: &braces::Expanded) -> Result<Vec<Step>, (usize, GlobErrorKind)> {
    if pattern.text.first() == Some(&b'/') {
        return Err((pattern.source[0], GlobErrorKind::Absolute));
    }
    let mut steps = Vec::new();
    let mut start = 0;
    for name in pattern.text.split(|byte| *byte == b'/') {
        let here = pattern.source.get(start).copied().unwrap_or(0);
        match name {
            b"" => {}
            b"." | b".." => return Err((here, GlobErrorKind::Dots)),
            // Two in a row say the same as one, and would only cost time.
            b"**" if matches!(steps.last(), Some(Step::Directories)) => {}
            b"**" => steps.push(Step::Directories),
            _ => {
                let name = NamePattern::new(name)
                    .map_err(|(at, kind)| (pattern.source[start + at], kind))?;
                steps.push(Step::Name(name));
            }
        }
        start += name.len() + 1;
    }
    match steps.last() {
        None => Err((pattern.source.first().copied().unwrap_or(0), GlobErrorKind::Empty)),
        // `dir/**` is what is in the directory, and not the directory itself.
        Some(Step::Directories) => {
            steps.push(Step::Name(NamePattern::any()));
            Ok(steps)
        }
        Some(Step::Name(_)) => Ok(steps),
    }
}

/// The first name of a path, and the rest when there is one.
fn split_name(path: &[u8]) -> (&[u8], Option<&[u8]>) {
    match path.iter().position(|byte| *byte == b'/') {
        Some(at) => (&path[..at], Some(&path[at + 1..])),
        None => (path, None),
    }
}

/// Only the last `**` before a mismatch needs to be tried again with one directory more: what an
/// earlier one could take in addition, the last one can take as well.
fn matches_all(steps: &[Step], path: &[u8]) -> bool {
    let (mut at, mut rest) = (0, Some(path));
    let mut retry: Option<(usize, &[u8])> = None;
    loop {
        match (steps.get(at), rest) {
            (None, None) => return true,
            (Some(Step::Directories), Some(path)) => {
                at += 1;
                retry = Some((at, path));
                continue;
            }
            (Some(Step::Name(pattern)), Some(path)) => {
                let (name, tail) = split_name(path);
                if pattern.matches(name) {
                    at += 1;
                    rest = tail;
                    continue;
                }
            }
            _ => {}
        }
        let Some((after, path)) = retry else {
            return false;
        };
        let (_, Some(tail)) = split_name(path) else {
            return false;
        };
        (at, rest, retry) = (after, Some(tail), Some((after, tail)));
    }
}

fn may_continue(steps: &[Step], dir: &[u8]) -> bool {
    let mut rest = (!dir.is_empty()).then_some(dir);
    for step in steps {
        let (pattern, path) = match (step, rest) {
            (Step::Directories, _) | (_, None) => return true,
            (Step::Name(pattern), Some(path)) => (pattern, path),
        };
        let (name, tail) = split_name(path);
        if !pattern.matches(name) {
            return false;
        }
        rest = tail;
    }
    false
}

impl PartialEq for Glob {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Glob {}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Glob({:?})", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn glob(pattern: &str) -> Glob {
        Glob::new(pattern).unwrap()
    }

    #[test]
    fn patterns_match_what_they_say() {
        for (pattern, yes, no) in [
            ("a/b", &["a/b"][..], &["a", "a/b/c", "a/bc", "b"][..]),
            ("*", &["a", ".a"], &["a/b"]),
            ("*.rs", &["a.rs", ".rs"], &["a.rsx", "a/b.rs"]),
            ("a*b*c", &["abc", "aXbYc", "abbcc"], &["ab", "abcd", "a/bc"]),
            ("a?c", &["abc", "aéc"], &["ac", "abbc", "a/c"]),
            ("[a-cx]1", &["a1", "c1", "x1"], &["d1", "1", "-1"]),
            ("[!a-c]", &["d", "é"], &["a", "c", "dd"]),
            ("[]-]", &["]", "-"], &["["]),
            ("[à-ü]", &["é"], &["e"]),
            ("[{,}*]", &["{", ",", "}", "*"], &["a"]),
            ("**", &["a", "a/b", ".a/.b"], &[]),
            ("a/**", &["a/b", "a/b/c"], &["a", "ab/c"]),
            ("**/a", &["a", "x/a", "x/y/a"], &["a/x", "xa"]),
            ("a/**/b", &["a/b", "a/x/b", "a/x/y/b"], &["a", "ab", "a/bx"]),
            ("a/**/**/b", &["a/b", "a/x/b"], &["a/x"]),
            ("**/a/**/b", &["a/b", "a/a/x/b", "x/a/b/b"], &["b", "a/b/x"]),
            ("go.{mod,sum}", &["go.mod", "go.sum"], &["go.", "go.mo"]),
            ("{a,b/{c,d}}/e", &["a/e", "b/c/e", "b/d/e"], &["b/e", "c/e"]),
            ("a{,.bak}", &["a", "a.bak"], &["a."]),
            ("{src/**,lib}/x", &["src/x", "src/y/x", "lib/x"], &["x"]),
            ("a,b", &["a,b"], &["a"]),
            ("a//b/", &["a/b"], &["a"]),
        ] {
            let glob = glob(pattern);
            for path in yes {
                assert!(glob.matches(path.as_bytes()), "{pattern} {path}");
            }
            for path in no {
                assert!(!glob.matches(path.as_bytes()), "{pattern} {path}");
            }
        }
    }

    #[test]
    fn a_path_need_not_be_utf8() {
        assert!(glob("a*?").matches(b"a\xff\xfe"));
        assert!(glob("?[!x]").matches(b"\xff\xfe"));
        assert!(!glob("[a-z]").matches(b"\xff"));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        use GlobErrorKind as K;
        for (pattern, at, kind) in [
            ("", 0, K::Empty),
            ("{a,}", 0, K::Empty),
            ("ab[c", 2, K::UnclosedClass),
            ("x/[a/b]", 2, K::UnclosedClass),
            ("[z-a]", 1, K::BackwardRange),
            ("a{b,c", 1, K::UnclosedBrace),
            ("a}b", 1, K::StrayBrace),
            ("src/**.rs", 4, K::JoinedDoubleStar),
            ("a/{..,b}/c", 3, K::Dots),
            ("a\\b", 1, K::Backslash),
            ("/a", 0, K::Absolute),
            ("{a,/b}", 3, K::Absolute),
        ] {
            let error = Glob::new(pattern).unwrap_err();
            assert_eq!((error.at, error.kind), (at, kind), "{error}");
        }
        let many = "{0,1}".repeat(20);
        let deep = format!("{}a{}", "{".repeat(2000), "}".repeat(2000));
        let kind = |pattern: &str| Glob::new(pattern).unwrap_err().kind;
        assert_eq!(kind(&many), K::TooManyAlternatives);
        assert_eq!(kind(&deep), K::TooDeep);
        assert_eq!(kind(&"a".repeat(MAX_PATTERN + 1)), K::TooLong);
    }

    #[test]
    fn many_stars_do_not_explode() {
        let path = b"a".repeat(4000);
        assert!(!glob(&format!("{}b", "a*".repeat(1000))).matches(&path));
        let deep = b"a/".repeat(2000);
        let deep = &deep[..deep.len() - 1];
        assert!(!glob(&format!("{}b", "**/a/".repeat(500))).matches(deep));
    }

    #[test]
    fn a_walk_starts_at_the_literal_prefix() {
        for (pattern, prefix, literal) in [
            ("a/b/*.c", "a/b", false),
            ("a/b", "a/b", true),
            ("a/b/", "a/b", true),
            ("*", "", false),
            ("ab*/c", "", false),
            ("{a,b}/c", "", false),
            ("a/b{c,d}", "a", false),
        ] {
            let glob = glob(pattern);
            assert_eq!((glob.literal_prefix(), glob.is_literal()), (prefix, literal));
        }
    }

    #[test]
    fn a_walk_skips_directories_that_cannot_match() {
        for (pattern, dir, may) in [
            ("a/*/c", "", true),
            ("a/*/c", "a", true),
            ("a/*/c", "a/x", true),
            ("a/*/c", "a/x/c", false),
            ("a/*/c", "b", false),
            ("a/**/c", "a/x/y/z", true),
            ("a/**", "a", true),
            ("a", "a", false),
            ("{a,b/c}/d", "b", true),
            ("{a,b/c}/d", "b/d", false),
        ] {
            assert_eq!(glob(pattern).may_match_below(dir.as_bytes()), may, "{pattern} {dir}");
        }
    }

    /// A matcher that tries everything, for patterns without classes.
    fn naive(pattern: &str, path: &str) -> bool {
        if let Some(open) = pattern.find('{') {
            let close = open + pattern[open..].find('}').unwrap();
            return pattern[open + 1..close].split(',').any(|middle| {
                naive(&format!("{}{middle}{}", &pattern[..open], &pattern[close + 1..]), path)
            });
        }
        let names = |text: &str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
        naive_names(&names(pattern), &names(path))
    }

    fn naive_names(patterns: &[String], names: &[String]) -> bool {
        match (patterns, names) {
            ([], names) => names.is_empty(),
            ([last], names) if last == "**" => !names.is_empty(),
            ([first, rest @ ..], names) if first == "**" => {
                (0..=names.len()).any(|skipped| naive_names(rest, &names[skipped..]))
            }
            (_, []) => false,
            ([pattern, patterns @ ..], [name, names @ ..]) => {
                naive_name(pattern.as_bytes(), name.as_bytes()) && naive_names(patterns, names)
            }
        }
    }

    fn naive_name(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern, name) {
            ([], name) => name.is_empty(),
            ([b'*', rest @ ..], name) => {
                (0..=name.len()).any(|taken| naive_name(rest, &name[taken..]))
            }
            ([b'?', pattern @ ..], [_, name @ ..]) => naive_name(pattern, name),
            ([a, pattern @ ..], [b, name @ ..]) => a == b && naive_name(pattern, name),
            (_, []) => false,
        }
    }

    fn pattern() -> impl Strategy<Value = String> {
        let name = prop_oneof![
            3 => "[ab*?]{1,4}(\\{[ab]{1,2},[ab*]{1,2}\\})?".prop_map(|name| {
                let mut name = name;
                while name.contains("**") {
                    name = name.replace("**", "*");
                }
                // A star before braces and one in them would make `**`.
                name.replace("*{", "a{")
            }),
            1 => Just("**".to_owned()),
        ];
        prop::collection::vec(name, 1..5).prop_map(|names| names.join("/"))
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_naive_matcher(
            pattern in pattern(), path in "[ab]{1,4}(/[ab]{1,4}){0,4}"
        ) {
            let glob = Glob::new(&pattern).unwrap();
            prop_assert_eq!(glob.matches(path.as_bytes()), naive(&pattern, &path));
        }

        #[test]
        fn a_walk_reaches_all_that_matches(
            pattern in pattern(), path in "[ab]{1,4}(/[ab]{1,4}){0,4}"
        ) {
            let glob = Glob::new(&pattern).unwrap();
            if glob.matches(path.as_bytes()) {
                prop_assert!(path.starts_with(glob.literal_prefix()));
                prop_assert!(glob.may_match_below(b""));
                for (at, _) in path.match_indices('/') {
                    prop_assert!(glob.may_match_below(&path.as_bytes()[..at]));
                }
            }
        }

        #[test]
        fn no_text_and_no_path_panics(
            pattern in "[a/*?\\[\\]{},!.\\\\é-]{0,24}", path: Vec<u8>
        ) {
            match Glob::new(&pattern) {
                Ok(glob) => {
                    glob.matches(&path);
                    glob.may_match_below(&path);
                }
                Err(error) => prop_assert!(error.at <= pattern.len()),
            }
        }
    }
}
