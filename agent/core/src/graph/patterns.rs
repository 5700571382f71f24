//! Compiles the patterns of a file, each distinct one once, and expands groups.

use super::{
    code,
    paths::{Syntax, normalise},
    read::Located,
    report::{Report, quote},
    suggest::did_you_mean,
    task::InputPattern,
};
use crate::glob::Glob;
use std::{
    borrow::Borrow,
    collections::{HashMap, HashSet},
    hash::{Hash, Hasher},
    sync::Arc,
};

/// Most memory that patterns with braces may take, about, in bytes: braces make much of little
/// text, while all other patterns are bounded by the size of the file.
const MAX_WEIGHT: usize = 128 << 20;
/// Most entries that groups, defaults and global inputs may add to the tasks of a file.
const MAX_EXPANDED: usize = 4 << 20;

#[derive(Default)]
pub(super) struct Patterns {
    compiled: HashSet<ByText>,
    weight: usize,
    expanded: usize,
}

/// A pattern that is found by its text.
struct ByText(Arc<Glob>);

impl Borrow<str> for ByText {
    fn borrow(&self) -> &str {
        self.0.as_str()
    }
}

impl PartialEq for ByText {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for ByText {}

impl Hash for ByText {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.as_str().hash(state);
    }
}

/// The inputs of a task with the place of each.
#[derive(Default)]
pub(super) struct Inputs {
    pub(super) patterns: Vec<InputPattern>,
    pub(super) places: Vec<u32>,
}

/// The groups of a file by name.
pub(super) type Groups<'t> = HashMap<&'t str, Vec<InputPattern>>;

impl Patterns {
    /// Compiles a normalised pattern.
    pub(super) fn glob(&mut self, report: &mut Report, path: &str, at: u32) -> Option<Arc<Glob>> {
        if let Some(glob) = self.compiled.get(path) {
            return Some(Arc::clone(&glob.0));
        }
        let glob = match Glob::new(path) {
            Ok(glob) => Arc::new(glob),
            Err(error) => {
                report.error(at, code::GLOB, format!("bad pattern: {error}"));
                return None;
            }
        };
        self.weight = self.weight.saturating_add(glob.weight());
        if self.weight > MAX_WEIGHT {
            let message = "the patterns of the file expand to too much".to_owned();
            report.error(at, code::LIMIT, message);
            return None;
        }
        self.compiled.insert(ByText(Arc::clone(&glob)));
        Some(glob)
    }

    /// Whether a file may add `count` more entries to tasks; the first time too many is reported.
    pub(super) fn may_expand(&mut self, report: &mut Report, at: u32, count: usize) -> bool {
        let before = self.expanded;
        self.expanded = before.saturating_add(count);
        if before <= MAX_EXPANDED && self.expanded > MAX_EXPANDED {
            let message = format!("groups and defaults add more than {MAX_EXPANDED} entries");
            report.error(at, code::LIMIT, message);
        }
        self.expanded <= MAX_EXPANDED
    }

    /// Compiles one input: a path, `dir/`, a pattern, or one of these after `!`.
    pub(super) fn input(
        &mut self,
        report: &mut Report,
        text: Located<&str>,
    ) -> Option<InputPattern> {
        let (negated, path) = match text.value.strip_prefix('!') {
            Some(path) => (true, path),
            None => (false, text.value),
        };
        if path.starts_with('@') {
            let message = format!("{} where a group cannot stand", quote(text.value));
            let hint = "groups are not negated or nested; write `./@...` for a path";
            report.error_with(text.at, code::GROUP, message, hint.to_owned());
            return None;
        }
        let normal = match normalise(path, Syntax::Pattern) {
            Ok(normal) => normal,
            Err(error) => {
                report.error_with(text.at, error.code, error.message, error.hint);
                return None;
            }
        };
        let path = match (&*normal.path, normal.tree) {
            (".", _) => "**".to_owned(),
            (path, true) => format!("{path}/**"),
            (_, false) => normal.path,
        };
        let glob = self.glob(report, &path, text.at)?;
        Some(InputPattern { glob, negated })
    }

    /// The inputs of a task: its own with groups expanded, then those of all tasks.
    pub(super) fn inputs(
        &mut self,
        report: &mut Report,
        written: &[Located<&str>],
        groups: &Groups<'_>,
        global: &Inputs,
    ) -> Inputs {
        let mut inputs = Inputs::default();
        for text in written {
            let Some(name) = text.value.strip_prefix('@') else {
                if let Some(pattern) = self.input(report, *text) {
                    inputs.patterns.push(pattern);
                    inputs.places.push(text.at);
                }
                continue;
            };
            let Some(group) = groups.get(name) else {
                let message = format!("unknown group {}", quote(text.value));
                let hint = did_you_mean(name, groups.keys().copied()).unwrap_or_else(|| {
                    "declare it in `groups`; write `./@...` for a path".to_owned()
                });
                report.error_with(text.at, code::GROUP, message, hint);
                continue;
            };
            if self.may_expand(report, text.at, group.len()) {
                inputs.patterns.extend(group.iter().cloned());
                inputs.places.resize(inputs.patterns.len(), text.at);
            }
        }
        let at = global.places.first().copied().unwrap_or(0);
        if self.may_expand(report, at, global.patterns.len()) {
            inputs.patterns.extend(global.patterns.iter().cloned());
            inputs.places.extend(&global.places);
        }
        inputs
    }
}
