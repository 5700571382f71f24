//! The schema of graph files, asked by a validator that is not ours.

use boon::{Compiler, Schemas};
use jsonc_parser::{JsonValue, ParseOptions, parse_to_value};
use netbuild_core::graph::SCHEMA;
use serde_json::Value;

/// Whether the schema accepts a text: JSON with comments and trailing commas.
pub(crate) fn accepts(text: &str) -> Result<(), String> {
    let text = text.trim_start_matches('\u{feff}');
    let parsed = parse_to_value(text, &ParseOptions::default()).map_err(|e| e.to_string())?;
    let value = plain(parsed.ok_or("an empty file")?);
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    let schema: Value = serde_json::from_str(SCHEMA).expect("the schema is JSON");
    compiler.add_resource("graph.json", schema).expect("a resource");
    let compiled = compiler.compile("graph.json", &mut schemas).expect("the schema is a schema");
    schemas.validate(&value, compiled).map_err(|error| format!("{error:#}"))
}

fn plain(value: JsonValue<'_>) -> Value {
    match value {
        JsonValue::Null => Value::Null,
        JsonValue::Boolean(boolean) => boolean.into(),
        JsonValue::Number(number) => serde_json::from_str(number).expect("a number"),
        JsonValue::String(text) => text.into_owned().into(),
        JsonValue::Array(array) => array.into_iter().map(plain).collect(),
        JsonValue::Object(object) => {
            object.into_iter().map(|(name, value)| (name.into_owned(), plain(value))).collect()
        }
    }
}
