//! Errors as one line, with all that caused them.

use std::error::Error;

/// The error and its sources, joined by colons; a source whose text is in the line already is
/// left out.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        source = error.source();
    }
    text
}
