//! Expansion of `{a,b}` into patterns without braces, each byte with its place in the original.

use super::GlobErrorKind;

/// Most patterns that the braces of one pattern may stand for; each is matched on its own.
pub(super) const MAX_ALTERNATIVES: usize = 256;
/// Deepest nesting of braces; people write two.
pub(super) const MAX_NESTING: usize = 8;

/// A pattern without braces.
#[derive(Clone, Default)]
pub(super) struct Expanded {
    pub(super) text: Vec<u8>,
    /// Where each byte of `text` stands in the original.
    pub(super) source: Vec<usize>,
}

/// Braces that are open: the alternatives that are complete, and the ones being written.
struct Open {
    at: usize,
    done: Vec<Expanded>,
    outer: Vec<Expanded>,
}

pub(super) fn expand(pattern: &str) -> Result<Vec<Expanded>, (usize, GlobErrorKind)> {
    let bytes = pattern.as_bytes();
    let mut stack: Vec<Open> = Vec::new();
    let mut current = vec![Expanded::default()];
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'{' if stack.len() == MAX_NESTING => return Err((at, GlobErrorKind::TooDeep)),
            b'{' => {
                let outer = std::mem::replace(&mut current, vec![Expanded::default()]);
                let done = Vec::new();
                stack.push(Open { at, done, outer });
            }
            b',' if !stack.is_empty() => {
                if let Some(open) = stack.last_mut() {
                    open.done.append(&mut current);
                    current.push(Expanded::default());
                }
            }
            b'}' => {
                let Some(mut open) = stack.pop() else {
                    return Err((at, GlobErrorKind::StrayBrace));
                };
                open.done.append(&mut current);
                current = product(&open.outer, &open.done)
                    .ok_or((open.at, GlobErrorKind::TooManyAlternatives))?;
            }
            b'[' => {
                let end = class_end(bytes, at).ok_or((at, GlobErrorKind::UnclosedClass))?;
                push(&mut current, bytes, at..end);
                at = end;
                continue;
            }
            _ => push(&mut current, bytes, at..at + 1),
        }
        at += 1;
    }
    match stack.pop() {
        Some(open) => Err((open.at, GlobErrorKind::UnclosedBrace)),
        None => Ok(current),
    }
}

fn push(current: &mut [Expanded], bytes: &[u8], range: std::ops::Range<usize>) {
    for expanded in current {
        expanded.text.extend_from_slice(&bytes[range.clone()]);
        expanded.source.extend(range.clone());
    }
}

/// Every start with every end; `None` when these are too many.
fn product(starts: &[Expanded], ends: &[Expanded]) -> Option<Vec<Expanded>> {
    if starts.len() * ends.len() > MAX_ALTERNATIVES {
        return None;
    }
    let mut all = Vec::with_capacity(starts.len() * ends.len());
    for start in starts {
        for end in ends {
            let mut joined = start.clone();
            joined.text.extend_from_slice(&end.text);
            joined.source.extend_from_slice(&end.source);
            all.push(joined);
        }
    }
    Some(all)
}

/// The index after the `]` of the class that opens at `open`; braces and commas in a class are
/// ordinary characters.
pub(super) fn class_end(bytes: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    if bytes.get(at) == Some(&b'!') {
        at += 1;
    }
    // A `]` in the first place is a member.
    at += 1;
    loop {
        match bytes.get(at)? {
            b']' => return Some(at + 1),
            _ => at += 1,
        }
    }
}
