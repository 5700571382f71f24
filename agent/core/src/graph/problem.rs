//! What is wrong with a graph file, where, and what would help.

use std::fmt;

/// Whether a graph with the problem can run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can.
    Warning,
}

/// One finding in a graph file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Stable code, `G` and three digits.
    pub code: &'static str,
    /// Whether the graph can run all the same.
    pub severity: Severity,
    /// JSON pointer (RFC 6901) to the value; empty for the whole document.
    pub pointer: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What is wrong: a lower-case fragment.
    pub message: String,
    /// What would help.
    pub hint: Option<String>,
}

impl Problem {
    /// Shows the problem as `FILE:LINE:COLUMN: CODE MESSAGE`, with the hint on a line of its own.
    pub fn in_file<'a>(&'a self, file: &'a str) -> impl fmt::Display + 'a {
        fmt::from_fn(move |f| {
            let warning = match self.severity {
                Severity::Error => "",
                Severity::Warning => "warning: ",
            };
            let (line, column, code, message) = (self.line, self.column, self.code, &self.message);
            write!(f, "{file}:{line}:{column}: {warning}{code} {message}")?;
            match &self.hint {
                Some(hint) => write!(f, "\n  hint: {hint}"),
                None => Ok(()),
            }
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.in_file("graph.json").fmt(f)
    }
}

/// All that is wrong with a graph that cannot run, in the order of the file; at least one error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problems {
    pub(super) found: Vec<Problem>,
    pub(super) omitted: usize,
}

impl Problems {
    /// The problems in the order of the file, errors and warnings.
    pub fn as_slice(&self) -> &[Problem] {
        &self.found
    }

    /// How many more there were than are kept.
    pub fn omitted(&self) -> usize {
        self.omitted
    }

    /// Shows one problem after the other, each with the name of the file.
    pub fn in_file<'a>(&'a self, file: &'a str) -> impl fmt::Display + 'a {
        fmt::from_fn(move |f| {
            for (i, problem) in self.found.iter().enumerate() {
                let separator = if i == 0 { "" } else { "\n" };
                write!(f, "{separator}{}", problem.in_file(file))?;
            }
            match self.omitted {
                0 => Ok(()),
                more => write!(f, "\n{file}: {more} more problems are not shown"),
            }
        })
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.in_file("graph.json").fmt(f)
    }
}

impl std::error::Error for Problems {}
