//! `turbo.json` with the npm, pnpm or yarn workspaces around it.
//!
//! Each task of each package becomes one task, `PACKAGE:TASK`, that runs `npm run TASK` (or pnpm, or
//! yarn) in the package; `TASK` alone stands for all of them. Packages without the script pass on
//! what they depend on, and their files.
//!
//! Where the two tools differ: file content counts and not what git tracks (`$TURBO_DEFAULT$` is the
//! package without its outputs and `node_modules`); what `env` names is keyed by value;
//! `passThroughEnv` is visible, not keyed, and masked in logs; outputs may be absent.

mod packages;
mod pipeline;
mod translate;

use super::{Files, ImportError, Imported};
use jsonc_parser::{JsonObject, JsonValue, ParseOptions, errors::ParseError, parse_to_value};

/// Reads the `turbo.json` at `path`, an absolute path whose directory is the workspace.
pub fn import(files: &dyn Files, path: &str) -> Result<Imported, ImportError> {
    let root = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    let packages = packages::find(files, root)?;
    let pipelines = pipeline::read(files, path, &packages)?;
    translate::translate(files, path, root, &packages, &pipelines)
}

fn error(file: &str, message: impl Into<String>, hint: &str) -> ImportError {
    ImportError {
        file: file.to_owned(),
        line: 0,
        column: 0,
        message: message.into(),
        hint: (!hint.is_empty()).then(|| hint.to_owned()),
    }
}

/// The text of a JSON file.
fn read(files: &dyn Files, path: &str) -> Result<String, ImportError> {
    let bytes = files.read(path).map_err(|message| error(path, message, ""))?;
    String::from_utf8(bytes).map_err(|_| error(path, "not UTF-8", ""))
}

/// The object that a JSON text is; comments and trailing commas are allowed.
fn parse<'t>(path: &str, text: &'t str) -> Result<JsonObject<'t>, ImportError> {
    let options = ParseOptions { allow_comments: true, ..ParseOptions::default() };
    let place = |problem: ParseError| ImportError {
        file: path.to_owned(),
        line: problem.line_display() as u32,
        column: problem.column_display() as u32,
        message: problem.kind().to_string(),
        hint: None,
    };
    match parse_to_value(text.trim_start_matches('\u{feff}'), &options).map_err(place)? {
        Some(JsonValue::Object(object)) => Ok(object),
        _ => Err(error(path, "not a JSON object", "")),
    }
}

/// The strings of an array field; none when there is no such field.
fn strings(
    file: &str,
    object: &JsonObject<'_>,
    name: &str,
) -> Result<Option<Vec<String>>, ImportError> {
    let wrong = || error(file, format!("`{name}` must be an array of strings"), "");
    match object.get(name) {
        None => Ok(None),
        Some(JsonValue::Array(array)) => {
            let text = |value: &JsonValue<'_>| match value {
                JsonValue::String(text) => Ok(text.clone().into_owned()),
                _ => Err(wrong()),
            };
            array.iter().map(text).collect::<Result<_, _>>().map(Some)
        }
        Some(_) => Err(wrong()),
    }
}
