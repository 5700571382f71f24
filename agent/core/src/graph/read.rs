//! Typed access to the syntax tree: a value has the type that its field wants, or there is a
//! problem that names both.

use super::{
    code,
    report::{Report, quote},
    suggest::did_you_mean,
};
use jsonc_parser::{
    ast::{Object, ObjectProp, ObjectPropName, StringLit, Value},
    common::Ranged,
};
use std::borrow::Cow;

/// A value with its place in the text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) at: u32,
}

pub(super) fn at(value: &impl Ranged) -> u32 {
    // The size of a file is bounded far below this.
    value.start() as u32
}

fn kind(value: &Value<'_>) -> &'static str {
    match value {
        Value::StringLit(_) => "a string",
        Value::NumberLit(_) => "a number",
        Value::BooleanLit(_) => "a boolean",
        Value::Object(_) => "an object",
        Value::Array(_) => "an array",
        Value::NullKeyword(_) => "null",
    }
}

/// Reports that a field wants something else.
pub(super) fn mismatch(report: &mut Report, value: &Value<'_>, field: &str, wanted: &str) {
    let message = match value {
        Value::StringLit(text) => {
            format!("`{field}` must be {wanted}, not {}", quote(&text.value))
        }
        Value::NumberLit(number) => {
            format!("`{field}` must be {wanted}, not {}", quote(number.value))
        }
        _ => format!("`{field}` must be {wanted}, not {}", kind(value)),
    };
    report.error(at(value), code::VALUE, message);
}

/// A text that outlives the tree that it stands in.
pub(super) fn text<'t>(literal: &StringLit<'t>) -> &'t str {
    match literal.value {
        Cow::Borrowed(text) => text,
        Cow::Owned(_) => unreachable!("`document::lend` has put every text where it is lent from"),
    }
}

/// Likewise the name of a property.
pub(super) fn name_of<'t>(property: &ObjectProp<'t>) -> &'t str {
    match &property.name {
        ObjectPropName::String(literal) => text(literal),
        ObjectPropName::Word(word) => word.value,
    }
}

pub(super) fn string<'t>(
    report: &mut Report,
    value: &Value<'t>,
    field: &str,
) -> Option<Located<&'t str>> {
    match value {
        Value::StringLit(literal) => Some(Located { value: text(literal), at: at(value) }),
        _ => {
            mismatch(report, value, field, "a string");
            None
        }
    }
}

pub(super) fn boolean(report: &mut Report, value: &Value<'_>, field: &str) -> Option<bool> {
    match value {
        Value::BooleanLit(boolean) => Some(boolean.value),
        _ => {
            mismatch(report, value, field, "true or false");
            None
        }
    }
}

pub(super) fn object<'v, 't>(
    report: &mut Report,
    value: &'v Value<'t>,
    field: &str,
) -> Option<&'v Object<'t>> {
    if value.as_object().is_none() {
        mismatch(report, value, field, "an object");
    }
    value.as_object()
}

pub(super) fn array<'v, 't>(
    report: &mut Report,
    value: &'v Value<'t>,
    field: &str,
) -> Option<&'v [Value<'t>]> {
    if value.as_array().is_none() {
        mismatch(report, value, field, "an array");
    }
    value.as_array().map(|array| array.elements.as_slice())
}

/// An array of strings; elements that are something else are reported and left out.
pub(super) fn strings<'t>(
    report: &mut Report,
    value: &Value<'t>,
    field: &str,
) -> Option<Vec<Located<&'t str>>> {
    let element = format!("an element of {field}");
    let elements = array(report, value, field)?;
    let strings = elements
        .iter()
        .filter_map(|value| match value {
            Value::StringLit(_) => string(report, value, field),
            _ => {
                let message = format!("{element} must be a string, not {}", kind(value));
                report.error(at(value), code::VALUE, message);
                None
            }
        })
        .collect();
    Some(strings)
}

/// A whole number in a range.
pub(super) fn integer(
    report: &mut Report,
    value: &Value<'_>,
    field: &str,
    code: &'static str,
    range: std::ops::RangeInclusive<i64>,
) -> Option<i64> {
    let Value::NumberLit(number) = value else {
        mismatch(report, value, field, "a number");
        return None;
    };
    let parsed = number.value.parse().ok().filter(|n| range.contains(n));
    if parsed.is_none() {
        let (low, high) = (range.start(), range.end());
        let text = quote(number.value);
        let message = format!("`{field}` must be a whole number from {low} to {high}, not {text}");
        report.error(at(value), code, message);
    }
    parsed
}

/// One of the words of a field.
pub(super) fn word<T: Copy>(
    report: &mut Report,
    value: &Value<'_>,
    field: &str,
    words: &[(&str, T)],
) -> Option<T> {
    let text = string(report, value, field)?;
    let found = words.iter().find(|(word, _)| *word == text.value);
    if found.is_none() {
        let all: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let message = format!("`{field}` must be {}, not {}", all.join(" or "), quote(text.value));
        let hint = did_you_mean(text.value, words.iter().map(|(word, _)| *word));
        report.error_with(text.at, code::VALUE, message, hint);
    }
    found.map(|(_, meaning)| *meaning)
}

/// Reports a field that is not in the format, or not yet in this version of it.
pub(super) fn unknown_field(
    report: &mut Report,
    property: &ObjectProp<'_>,
    owner: &str,
    known: &[&str],
    later: &[&str],
) {
    let name = property.name.as_str();
    if later.contains(&name) {
        let message = format!("field {} is not supported yet by this version", quote(name));
        report.error(at(property), code::NOT_SUPPORTED, message);
    } else {
        let message = format!("unknown field {} of {owner}", quote(name));
        let hint = match report.is_full() {
            true => None,
            false => did_you_mean(name, known.iter().copied()),
        };
        report.error_with(at(property), code::UNKNOWN_FIELD, message, hint);
    }
}
