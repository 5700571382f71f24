//! Dependency files as compilers write them (`gcc -MD`): rules of make without commands.

/// Most bytes of a file that are read.
pub const MAX_BYTES: usize = 64 << 20;
/// Most paths in one file.
const MAX_PATHS: usize = 1 << 20;

/// A dependency file that is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DepFileError {
    /// A path before any `:`.
    #[error("no `:` after its targets")]
    NoTarget,
    /// More than a million paths.
    #[error("more than {MAX_PATHS} paths")]
    TooMany,
}

/// What the targets depend on, sorted, each once. Spaces and `#` are written after a backslash, `$`
/// twice, and a backslash at the end of a line goes on with the next.
pub fn parse(bytes: &[u8]) -> Result<Vec<Vec<u8>>, DepFileError> {
    let mut paths = Vec::new();
    let (mut word, mut in_targets, mut any_target) = (Vec::new(), true, false);
    let mut at = 0;
    while at <= bytes.len() {
        let (byte, length) = match &bytes[at..] {
            [] => (b'\n', 1),
            [b'\\', b'\r', b'\n', ..] => (b' ', 3),
            [b'\\', b'\n', ..] => (b' ', 2),
            [b'\\', escaped @ (b' ' | b'#' | b':' | b'\\'), ..] => {
                word.push(*escaped);
                at += 2;
                continue;
            }
            [b'$', b'$', ..] => {
                word.push(b'$');
                at += 2;
                continue;
            }
            [byte, ..] => (*byte, 1),
        };
        let after = bytes.get(at + 1);
        at += length;
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => {}
            // A colon inside of a word is a part of it.
            b':' if in_targets && after.is_none_or(|next| b" \t\r\n\\".contains(next)) => {
                any_target |= !word.is_empty();
                word.clear();
                in_targets = false;
                continue;
            }
            byte => {
                word.push(byte);
                continue;
            }
        }
        if !word.is_empty() {
            let word = std::mem::take(&mut word);
            if !in_targets {
                paths.push(word);
            } else {
                any_target = true;
                if byte == b'\n' {
                    return Err(DepFileError::NoTarget);
                }
            }
            if paths.len() > MAX_PATHS {
                return Err(DepFileError::TooMany);
            }
        }
        in_targets |= byte == b'\n';
    }
    if !any_target && !paths.is_empty() {
        return Err(DepFileError::NoTarget);
    }
    paths.sort();
    paths.dedup();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Result<Vec<String>, DepFileError> {
        let paths = parse(text.as_bytes())?;
        Ok(paths.into_iter().map(|path| String::from_utf8(path).unwrap()).collect())
    }

    #[test]
    fn what_compilers_write_is_read() {
        let written =
            "a.o: a.c b\\ c.h \\\n  d\\#.h e$$.h\\\r\n f:g.h b\\ c.h\n\nd.h:\nx.o y.o : z\n";
        let expected = ["a.c", "b c.h", "d#.h", "e$.h", "f:g.h", "z"];
        assert_eq!(texts(written).unwrap(), expected);
        assert_eq!(texts("").unwrap(), [""; 0]);
        assert_eq!(texts("a.o:").unwrap(), [""; 0]);
        assert_eq!(texts("a.o: b").unwrap(), ["b"]);
        assert_eq!(texts("a.c b.c\n"), Err(DepFileError::NoTarget));
    }
}
