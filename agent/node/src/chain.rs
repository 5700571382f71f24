//! Errors as one line, with all that caused them.

use std::error::Error;

/// The error and its sources, joined by colons; a source whose text is in the line already is
/// left out.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot use `{0}`")]
    struct Outer(&'static str, #[source] io::Error);

    #[test]
    fn each_cause_is_told_once() {
        let full = || io::Error::other("disk full");
        assert_eq!(chain(&Outer("x", full())), "cannot use `x`: disk full");
        assert_eq!(chain(&Outer("disk full", full())), "cannot use `disk full`");
    }
}
