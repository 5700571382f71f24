//! Collects findings by their place in the text, and turns places into lines, columns and
//! pointers once, at the end: a check only has to know an offset.

use super::problem::{Problem, Severity};
use jsonc_parser::{
    ast::{ObjectProp, Value},
    common::Ranged,
};

/// Most problems that are kept; nobody reads more, and a hostile file could have millions.
const MAX_PROBLEMS: usize = 1000;
/// Longest excerpt of the file in a message, in characters.
const MAX_EXCERPT: usize = 100;

struct Found {
    at: u32,
    code: &'static str,
    severity: Severity,
    message: String,
    hint: Option<String>,
}

#[derive(Default)]
pub(super) struct Report {
    found: Vec<Found>,
    omitted: usize,
    errors: usize,
    /// How many of `found` are warnings.
    warnings: usize,
}

impl Report {
    pub(super) fn error(&mut self, at: u32, code: &'static str, message: String) {
        self.add(at, code, Severity::Error, message, None);
    }

    pub(super) fn error_with(
        &mut self,
        at: u32,
        code: &'static str,
        message: String,
        hint: impl Into<Option<String>>,
    ) {
        self.add(at, code, Severity::Error, message, hint.into());
    }

    pub(super) fn warn(&mut self, at: u32, code: &'static str, message: String, hint: &str) {
        self.add(at, code, Severity::Warning, message, Some(hint.to_owned()));
    }

    fn add(
        &mut self,
        at: u32,
        code: &'static str,
        severity: Severity,
        message: String,
        hint: Option<String>,
    ) {
        let is_error = severity == Severity::Error;
        self.errors += usize::from(is_error);
        if self.found.len() == MAX_PROBLEMS {
            self.omitted += 1;
            // A graph that cannot run must say why, so an error displaces a warning.
            if !is_error || self.warnings == 0 {
                return;
            }
            self.found.sort_by_key(|f| f.severity == Severity::Warning);
            self.found.pop();
            self.warnings -= 1;
        }
        self.warnings += usize::from(!is_error);
        self.found.push(Found { at, code, severity, message, hint });
    }

    /// Whether one more problem would only be counted, so that its hint is not worth a search.
    pub(super) fn is_full(&self) -> bool {
        self.found.len() == MAX_PROBLEMS
    }

    pub(super) fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// The problems in the order of the text, and how many were left out. `parse` makes the tree of
    /// the text once more, when there are any.
    pub(super) fn finish<'t>(
        mut self,
        text: &'t str,
        parse: impl FnOnce(&'t str) -> Option<Value<'t>>,
    ) -> (Vec<Problem>, usize) {
        let root = if self.found.is_empty() { None } else { parse(text) };
        self.found.sort_by_key(|found| (found.at, found.code));
        let mut place = Place::new(text);
        let problems = self.found.into_iter().map(|found| {
            let (line, column) = place.advance(found.at);
            Problem {
                code: found.code,
                severity: found.severity,
                pointer: root.as_ref().map_or_else(String::new, |root| pointer(root, found.at)),
                line,
                column,
                message: found.message,
                hint: found.hint,
            }
        });
        (problems.collect(), self.omitted)
    }
}

/// Line and column of offsets that only grow: the text is read once, however many problems it has.
struct Place<'t> {
    text: &'t str,
    at: usize,
    line: u32,
    column: u32,
}

impl<'t> Place<'t> {
    fn new(text: &'t str) -> Self {
        Self { text, at: 0, line: 1, column: 1 }
    }

    fn advance(&mut self, to: u32) -> (u32, u32) {
        let to = (to as usize).min(self.text.len());
        for byte in &self.text.as_bytes()[self.at..to] {
            match byte {
                b'\n' => {
                    self.line += 1;
                    self.column = 1;
                }
                // The bytes of a character after its first.
                0x80..=0xbf => {}
                _ => self.column += 1,
            }
        }
        self.at = to;
        (self.line, self.column)
    }
}

/// The pointer to the innermost value or property that starts at or before `at` and contains it.
fn pointer(root: &Value<'_>, at: u32) -> String {
    let at = at as usize;
    let mut pointer = String::new();
    let mut value = root;
    loop {
        let next = match value {
            Value::Object(object) => {
                let after = object.properties.partition_point(|p| p.start() <= at);
                let inside = |p: &&ObjectProp<'_>| at < p.end();
                let Some(property) = object.properties[..after].last().filter(inside) else {
                    return pointer;
                };
                pointer.push('/');
                pointer.push_str(&property.name.as_str().replace('~', "~0").replace('/', "~1"));
                &property.value
            }
            Value::Array(array) => {
                let after = array.elements.partition_point(|e| e.start() <= at);
                let inside = |e: &&Value<'_>| at < e.end();
                let Some(index) = after.checked_sub(1) else {
                    return pointer;
                };
                let Some(element) = array.elements.get(index).filter(inside) else {
                    return pointer;
                };
                pointer.push_str(&format!("/{index}"));
                element
            }
            _ => return pointer,
        };
        if at < next.start() {
            return pointer;
        }
        value = next;
    }
}

/// Text of the file as a message shows it: in backquotes, on one line, not too long.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::from("`");
    for c in text.chars().take(MAX_EXCERPT) {
        match c {
            c if c.is_control() => quoted.extend(c.escape_default()),
            c => quoted.push(c),
        }
    }
    if text.chars().nth(MAX_EXCERPT).is_some() {
        quoted.push_str("...");
    }
    quoted.push('`');
    quoted
}
