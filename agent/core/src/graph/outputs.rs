//! The field `outputs`: what a task may claim.

use super::{
    code,
    paths::{Syntax, normalise},
    patterns::Patterns,
    read::{Located, array, at, boolean, mismatch, string, unknown_field},
    report::{Report, quote},
};
use crate::{
    glob::Glob,
    key::{OutputDeclaration, OutputShape},
};
use jsonc_parser::ast::Value;
use std::sync::Arc;

/// Directories at the top of the workspace that belong to version control and to netbuild.
const RESERVED: &[&str] = &[".git", ".hg", ".svn", ".netbuild"];
/// What the graph file is called; a task that wrote it would change its own description.
const GRAPH_FILE: &str = "graph.json";

/// An output as the file has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct WrittenOutput<'t> {
    path: Located<&'t str>,
    optional: bool,
}

/// A checked output with its place.
#[derive(Clone, Debug)]
pub(super) struct Output {
    pub(super) declaration: OutputDeclaration,
    /// The compiled pattern of [`OutputShape::Glob`].
    pub(super) glob: Option<Arc<Glob>>,
    pub(super) at: u32,
}

pub(super) fn read<'t>(report: &mut Report, value: &Value<'t>) -> Option<Vec<WrittenOutput<'t>>> {
    let elements = array(report, value, "outputs")?;
    let outputs = elements.iter().filter_map(|value| element(report, value));
    Some(outputs.collect())
}

fn element<'t>(report: &mut Report, value: &Value<'t>) -> Option<WrittenOutput<'t>> {
    let mut optional = false;
    let path = match value {
        Value::StringLit(_) => string(report, value, "outputs")?,
        Value::Object(fields) => {
            let mut path = None;
            for property in &fields.properties {
                match property.name.as_str() {
                    "path" => path = string(report, &property.value, "path"),
                    "optional" => {
                        optional = boolean(report, &property.value, "optional").unwrap_or(false);
                    }
                    _ => unknown_field(report, property, "an output", &["path", "optional"], &[]),
                }
            }
            if fields.get("path").is_none() {
                let message = "an output without `path`".to_owned();
                report.error(at(value), code::VALUE, message);
            }
            path?
        }
        _ => {
            mismatch(report, value, "an output", "a path or {path, optional}");
            return None;
        }
    };
    Some(WrittenOutput { path, optional })
}

/// Checks one output and compiles its pattern.
pub(super) fn declare(
    report: &mut Report,
    patterns: &mut Patterns,
    written: WrittenOutput<'_>,
) -> Option<Output> {
    let text = written.path;
    if text.value.starts_with('!') {
        let message = format!("{} removes from nothing", quote(text.value));
        let hint = "outputs have no `!`; leave the path out";
        report.error_with(text.at, code::GLOB, message, hint.to_owned());
        return None;
    }
    let normal = match normalise(text.value, Syntax::Pattern) {
        Ok(normal) => normal,
        Err(error) => {
            report.error_with(text.at, error.code, error.message, error.hint);
            return None;
        }
    };
    if normal.pattern && normal.tree {
        let message = format!("pattern {} ends in `/`", quote(text.value));
        let hint = format!("write `{}/**`", normal.path);
        report.error_with(text.at, code::GLOB, message, hint);
        return None;
    }
    let glob = match normal.pattern {
        true => Some(patterns.glob(report, &normal.path, text.at)?),
        false => None,
    };
    check_place(report, text, &normal.path, glob.as_deref());
    let shape = match (&glob, normal.tree) {
        (Some(_), _) => OutputShape::Glob,
        (None, true) => OutputShape::Tree,
        (None, false) => OutputShape::Path,
    };
    let declaration = OutputDeclaration { pattern: normal.path, shape, optional: written.optional };
    Some(Output { declaration, glob, at: text.at })
}

/// Refuses outputs that would take the workspace, its history or its graph along.
fn check_place(report: &mut Report, text: Located<&str>, path: &str, glob: Option<&Glob>) {
    let first = path.split('/').next().unwrap_or(path);
    // File systems that ignore case would let `.GIT` through.
    let reserved = RESERVED.iter().find(|name| first.eq_ignore_ascii_case(name));
    let what = if path == "." {
        "the whole workspace"
    } else if let Some(name) = reserved {
        name
    } else if path == GRAPH_FILE || glob.is_some_and(|glob| glob.matches(GRAPH_FILE.as_bytes())) {
        "the graph file itself"
    } else {
        return;
    };
    let message = format!("output {} claims {what}", quote(text.value));
    report.error(text.at, code::RESERVED_OUTPUT, message);
}
