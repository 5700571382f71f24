//! The part of a pattern between two slashes.

use super::{GlobErrorKind, braces::class_end};

/// A pattern for one name.
#[derive(Clone, Debug)]
pub(super) enum NamePattern {
    /// No special character: by far the most frequent, and one comparison.
    Literal(Box<[u8]>),
    Tokens(Box<[Token]>),
}

#[derive(Clone, Debug)]
pub(super) enum Token {
    Byte(u8),
    AnyCharacter,
    AnyText,
    Class { negated: bool, ranges: Box<[(char, char)]> },
}

impl NamePattern {
    /// `*`
    pub(super) fn any() -> Self {
        Self::Tokens([Token::AnyText].into())
    }

    /// Compiles a name; an error has its place in the name.
    pub(super) fn new(name: &[u8]) -> Result<Self, (usize, GlobErrorKind)> {
        if !name.iter().any(|byte| matches!(byte, b'*' | b'?' | b'[')) {
            return Ok(Self::Literal(name.into()));
        }
        let mut tokens = Vec::with_capacity(name.len());
        let mut at = 0;
        while at < name.len() {
            let token = match name[at] {
                b'*' if name.get(at + 1) == Some(&b'*') => {
                    return Err((at, GlobErrorKind::JoinedDoubleStar));
                }
                b'*' => Token::AnyText,
                b'?' => Token::AnyCharacter,
                b'[' => {
                    let end = class_end(name, at).ok_or((at, GlobErrorKind::UnclosedClass))?;
                    let class = class(&name[at + 1..end - 1])
                        .map_err(|(inner, kind)| (at + 1 + inner, kind))?;
                    tokens.push(class);
                    at = end;
                    continue;
                }
                byte => Token::Byte(byte),
            };
            tokens.push(token);
            at += 1;
        }
        Ok(Self::Tokens(tokens.into()))
    }

    /// Bytes behind the pointer of this pattern, those of classes not counted.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Literal(literal) => literal.len(),
            Self::Tokens(tokens) => size_of_val(&**tokens),
        }
    }

    pub(super) fn matches(&self, name: &[u8]) -> bool {
        match self {
            Self::Literal(literal) => **literal == *name,
            Self::Tokens(tokens) => matches_tokens(tokens, name),
        }
    }
}

fn class(members: &[u8]) -> Result<Token, (usize, GlobErrorKind)> {
    let (negated, skipped) = match members {
        [b'!', ..] => (true, 1),
        _ => (false, 0),
    };
    // Classes are cut out of a `str` at ASCII characters, so this replaces nothing.
    let text = String::from_utf8_lossy(&members[skipped..]);
    let mut ranges = Vec::new();
    let mut rest = text.char_indices().peekable();
    while let Some((at, low)) = rest.next() {
        let mut ahead = rest.clone();
        let high = match (ahead.next(), ahead.next()) {
            (Some((_, '-')), Some((_, high))) => {
                rest = ahead;
                high
            }
            _ => low,
        };
        if high < low {
            return Err((skipped + at, GlobErrorKind::BackwardRange));
        }
        ranges.push((low, high));
    }
    Ok(Token::Class { negated, ranges: ranges.into() })
}

/// Only the last `*` before a mismatch needs to be tried again with one character more.
fn matches_tokens(tokens: &[Token], name: &[u8]) -> bool {
    let (mut token, mut at) = (0, 0);
    let mut retry = None;
    loop {
        match tokens.get(token) {
            None if at == name.len() => return true,
            Some(Token::AnyText) => {
                token += 1;
                retry = Some((token, at));
                continue;
            }
            Some(single) => {
                if let Some(taken) = single.take(&name[at..]) {
                    token += 1;
                    at += taken;
                    continue;
                }
            }
            None => {}
        }
        match retry {
            Some((after, from)) if from < name.len() => {
                let next = from + first_character(&name[from..]).1;
                retry = Some((after, next));
                (token, at) = (after, next);
            }
            _ => return false,
        }
    }
}

impl Token {
    /// How many bytes at the start of `rest` this matches.
    fn take(&self, rest: &[u8]) -> Option<usize> {
        let first = *rest.first()?;
        match self {
            Self::Byte(byte) => (*byte == first).then_some(1),
            Self::AnyCharacter | Self::AnyText => Some(first_character(rest).1),
            Self::Class { negated, ranges } => {
                let (character, len) = first_character(rest);
                let member = character
                    .is_some_and(|c| ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)));
                (member != *negated).then_some(len)
            }
        }
    }
}

/// The first character of non-empty bytes with its length; one byte where they are not UTF-8.
fn first_character(bytes: &[u8]) -> (Option<char>, usize) {
    if bytes[0].is_ascii() {
        return (Some(char::from(bytes[0])), 1);
    }
    let head = &bytes[..bytes.len().min(4)];
    let valid = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default(),
    };
    match valid.chars().next() {
        Some(c) => (Some(c), c.len_utf8()),
        None => (None, 1),
    }
}
