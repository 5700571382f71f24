//! From bytes to a syntax tree: text, size, nesting and duplicate keys are checked here.

use super::{
    code,
    report::{Report, quote},
};
use jsonc_parser::{
    CollectOptions, ParseOptions,
    ast::{ObjectPropName, Value},
    common::Ranged,
    errors::ParseErrorKind,
    parse_to_ast,
};
use std::{borrow::Cow, collections::HashSet};

/// Largest file in bytes; 500,000 tasks of 130 bytes each.
pub(super) const MAX_BYTES: usize = 64 << 20;
/// Deepest nesting of arrays and objects; the format itself needs eight.
const MAX_NESTING: usize = 64;
/// Most values in a file, some more than [`MAX_BYTES`] of tasks have; a value takes about 100 bytes in memory.
const MAX_VALUES: usize = 8 << 20;

/// Properties of an object that are compared each with all before it.
const COMPARED_DIRECTLY: usize = 16;

/// JSON with comments and trailing commas; nothing else that is not JSON.
const SYNTAX: ParseOptions = ParseOptions {
    allow_comments: true,
    allow_trailing_commas: true,
    allow_loose_object_property_names: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

/// The text of a file without its byte order mark: all of it, or what comes before the first
/// byte that is not text.
pub(super) fn text<'b>(bytes: &'b [u8], report: &mut Report) -> &'b str {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if bytes.len() > MAX_BYTES {
        let message = format!("a file of more than {} MiB", MAX_BYTES >> 20);
        report.error(0, code::LIMIT, message);
        return "";
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let end = error.valid_up_to();
            report.error(end as u32, code::TEXT, "not UTF-8".to_owned());
            std::str::from_utf8(&bytes[..end]).unwrap_or_default()
        }
    };
    match text.find('\0') {
        Some(end) => {
            report.error(end as u32, code::TEXT, "a NUL character".to_owned());
            &text[..end]
        }
        None => text,
    }
}

/// Parses the text; `None` when there is no tree to look at.
pub(super) fn parse<'t>(text: &'t str, report: &mut Report) -> Option<Value<'t>> {
    let values = text.bytes().filter(|b| matches!(b, b',' | b'[' | b'{'));
    if values.count() > MAX_VALUES {
        let message = format!("more than {MAX_VALUES} values");
        report.error(0, code::LIMIT, message);
        return None;
    }
    let root = match parse_to_ast(text, &CollectOptions::default(), &SYNTAX) {
        Ok(parsed) => parsed.value,
        Err(error) => {
            let at = error.range().start as u32;
            match error.kind() {
                ParseErrorKind::NestingDepthExceeded => too_deep(at, report),
                kind => report.error(at, code::NOT_JSON, sentence(&kind.to_string())),
            }
            return None;
        }
    };
    if root.is_none() {
        report.error(0, code::NOT_JSON, "an empty file".to_owned());
    }
    root.filter(|root| check_tree(root, report))
}

/// Takes the texts out of a tree that do not stand in the file as they are, because of escapes; see
/// [`lend`].
pub(super) fn take_texts(root: &mut Value<'_>) -> Vec<String> {
    let mut texts = Vec::new();
    for_each_text(root, |text| {
        if let Cow::Owned(text) = text {
            texts.push(std::mem::take(text));
        }
    });
    texts
}

/// Puts the texts into the tree again. None of it belongs to the tree then, and what is made of it may
/// outlive it.
pub(super) fn lend<'t>(root: &mut Value<'t>, texts: &'t [String]) {
    let mut texts = texts.iter();
    for_each_text(root, |text| {
        if let Cow::Owned(_) = text {
            *text = Cow::Borrowed(texts.next().map_or("", String::as_str));
        }
    });
}

/// Visits every text and name of a tree, always in the same order.
fn for_each_text<'t>(root: &mut Value<'t>, mut visit: impl FnMut(&mut Cow<'t, str>)) {
    let mut pending = vec![root];
    while let Some(value) = pending.pop() {
        match value {
            Value::StringLit(literal) => visit(&mut literal.value),
            Value::Object(object) => {
                for property in &mut object.properties {
                    if let ObjectPropName::String(literal) = &mut property.name {
                        visit(&mut literal.value);
                    }
                    pending.push(&mut property.value);
                }
            }
            Value::Array(array) => pending.extend(&mut array.elements),
            _ => {}
        }
    }
}

fn too_deep(at: u32, report: &mut Report) {
    let message = format!("nested more than {MAX_NESTING} deep");
    report.error(at, code::LIMIT, message);
}

/// The parser's messages begin with a capital; ours do not.
fn sentence(message: &str) -> String {
    let mut chars = message.chars();
    let first = chars.next().into_iter().flat_map(char::to_lowercase);
    first.chain(chars).collect()
}

/// Whether the tree is flat enough to be read; reports every duplicate key on the way.
fn check_tree(root: &Value<'_>, report: &mut Report) -> bool {
    let mut flat = true;
    let mut pending = vec![(root, 1)];
    while let Some((value, depth)) = pending.pop() {
        let inner = match value {
            Value::Object(_) | Value::Array(_) if depth > MAX_NESTING => {
                if flat {
                    too_deep(value.start() as u32, report);
                }
                flat = false;
                continue;
            }
            Value::Object(object) => {
                let properties = &object.properties;
                let mut seen = HashSet::new();
                for (index, property) in properties.iter().enumerate() {
                    let (name, at) = (property.name.as_str(), property.start() as u32);
                    // A set would be made, and most names hashed, for each task of a large graph.
                    let is_known = if properties.len() <= COMPARED_DIRECTLY {
                        properties[..index].iter().any(|before| before.name.as_str() == name)
                    } else {
                        !seen.insert(name)
                    };
                    if is_known {
                        let message = format!("duplicate key {}", quote(name));
                        let hint = "JSON readers keep only one of them; remove or rename the other";
                        report.error_with(at, code::DUPLICATE, message, hint.to_owned());
                    }
                }
                pending.extend(object.properties.iter().map(|p| (&p.value, depth + 1)));
                continue;
            }
            Value::Array(array) => &array.elements,
            _ => continue,
        };
        pending.extend(inner.iter().map(|value| (value, depth + 1)));
    }
    flat
}
