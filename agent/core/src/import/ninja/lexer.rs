//! The words of a manifest.

/// A part of a value that is not evaluated yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Piece<'t> {
    Text(&'t str),
    Variable(&'t str),
}

/// What a line begins with, or what stands between paths.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Token<'t> {
    /// `rule`, `build`, the name of a variable.
    Word(&'t str),
    /// The beginning of a line that belongs to the one before.
    Indent,
    Newline,
    Equals,
    Colon,
    Pipe,
    PipeTwice,
    PipeAt,
    End,
}

/// A mistake, at a byte of the text.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) at: usize,
    pub(super) message: String,
}

/// Goes through a text, without looking back.
#[derive(Debug)]
pub(super) struct Lexer<'t> {
    text: &'t str,
    at: usize,
    line_start: bool,
}

fn in_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, at: 0, line_start: true }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn error<T>(&self, message: impl Into<String>) -> Result<T, SyntaxError> {
        Err(SyntaxError { at: self.at, message: message.into() })
    }

    /// What is left, from any byte on.
    fn bytes(&self) -> &'t [u8] {
        &self.text.as_bytes()[self.at..]
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    /// Skips spaces, and line ends after a `$`.
    fn skip_spaces(&mut self) {
        loop {
            let rest = self.rest().as_bytes();
            match rest {
                [b' ', ..] => self.at += 1,
                [b'$', b'\n', ..] => self.at += 2,
                [b'$', b'\r', b'\n', ..] => self.at += 3,
                _ => return,
            }
        }
    }

    fn newline(&self) -> Option<usize> {
        match self.bytes() {
            [b'\n', ..] => Some(1),
            [b'\r', b'\n', ..] => Some(2),
            _ => None,
        }
    }

    /// The next token. Comments and blank lines are none.
    pub(super) fn next(&mut self) -> Result<Token<'t>, SyntaxError> {
        while self.line_start {
            let spaces = self.rest().bytes().take_while(|byte| *byte == b' ').count();
            match self.rest().as_bytes().get(spaces) {
                Some(b'#') => {
                    let end = self.rest().find('\n').map_or(self.text.len(), |n| self.at + n + 1);
                    self.at = end;
                }
                Some(b'\n') => self.at += spaces + 1,
                Some(b'\r') if self.rest().as_bytes().get(spaces + 1) == Some(&b'\n') => {
                    self.at += spaces + 2;
                }
                None => {
                    self.at = self.text.len();
                    return Ok(Token::End);
                }
                Some(_) => {
                    self.line_start = false;
                    if spaces > 0 {
                        self.at += spaces;
                        return Ok(Token::Indent);
                    }
                }
            }
        }
        self.skip_spaces();
        if let Some(length) = self.newline() {
            self.at += length;
            self.line_start = true;
            return Ok(Token::Newline);
        }
        let (token, length) = match self.rest().as_bytes() {
            [] => (Token::End, 0),
            [b'=', ..] => (Token::Equals, 1),
            [b':', ..] => (Token::Colon, 1),
            [b'|', b'|', ..] => (Token::PipeTwice, 2),
            [b'|', b'@', ..] => (Token::PipeAt, 2),
            [b'|', ..] => (Token::Pipe, 1),
            [b'\t', ..] => return self.error("a tab where only spaces may stand"),
            bytes => match bytes.iter().take_while(|byte| in_name(**byte)).count() {
                0 => return self.error(format!("unexpected `{}`", self.shown())),
                length => (Token::Word(&self.rest()[..length]), length),
            },
        };
        self.at += length;
        Ok(token)
    }

    /// The next token, which stays the next one.
    pub(super) fn peek(&mut self) -> Result<Token<'t>, SyntaxError> {
        let (at, line_start) = (self.at, self.line_start);
        let token = self.next();
        (self.at, self.line_start) = (at, line_start);
        token
    }

    /// Takes the next token if it is this one.
    pub(super) fn take(&mut self, wanted: Token<'_>) -> Result<bool, SyntaxError> {
        let (at, line_start) = (self.at, self.line_start);
        if self.next()? == wanted {
            return Ok(true);
        }
        (self.at, self.line_start) = (at, line_start);
        Ok(false)
    }

    /// Takes a token that must be this one.
    pub(super) fn expect(&mut self, wanted: Token<'_>, what: &str) -> Result<(), SyntaxError> {
        match self.take(wanted)? {
            true => Ok(()),
            false => self.error(format!("expected {what}, got `{}`", self.shown())),
        }
    }

    pub(super) fn name(&mut self, what: &str) -> Result<&'t str, SyntaxError> {
        match self.peek()? {
            Token::Word(name) => {
                self.next()?;
                Ok(name)
            }
            _ => self.error(format!("expected {what}, got `{}`", self.shown())),
        }
    }

    fn shown(&self) -> String {
        let rest = self.rest().trim_start_matches(' ');
        match rest.chars().next() {
            None => "the end of the file".to_owned(),
            Some('\n' | '\r') => "the end of the line".to_owned(),
            Some(_) => {
                rest.split(['\n', ' ']).next().unwrap_or_default().chars().take(40).collect()
            }
        }
    }

    /// Adds the pieces of a path, up to a space, `:`, `|` or the end of the line; none when there
    /// is no path here.
    pub(super) fn path(&mut self, pieces: &mut Vec<Piece<'t>>) -> Result<(), SyntaxError> {
        self.skip_spaces();
        self.pieces(pieces, |byte| matches!(byte, b' ' | b':' | b'|'))?;
        self.skip_spaces();
        Ok(())
    }

    /// Adds the pieces of a value, up to the end of the line.
    pub(super) fn value(&mut self, pieces: &mut Vec<Piece<'t>>) -> Result<(), SyntaxError> {
        self.skip_spaces();
        self.pieces(pieces, |_| false)?;
        if let Some(length) = self.newline() {
            self.at += length;
            self.line_start = true;
        }
        Ok(())
    }

    fn pieces(
        &mut self,
        pieces: &mut Vec<Piece<'t>>,
        ends: impl Fn(u8) -> bool,
    ) -> Result<(), SyntaxError> {
        let mut from = self.at;
        while let Some(&byte) = self.bytes().first() {
            if self.newline().is_some() || ends(byte) {
                break;
            }
            if byte != b'$' {
                self.at += 1;
                continue;
            }
            if from < self.at {
                pieces.push(Piece::Text(&self.text[from..self.at]));
            }
            pieces.extend(self.escape()?);
            from = self.at;
        }
        if from < self.at {
            pieces.push(Piece::Text(&self.text[from..self.at]));
        }
        Ok(())
    }

    /// What a `$` begins.
    fn escape(&mut self) -> Result<Option<Piece<'t>>, SyntaxError> {
        let rest = self.rest();
        let bytes = rest.as_bytes();
        let (piece, length) = match bytes {
            [_, b'$' | b' ' | b':', ..] => (Some(Piece::Text(&rest[1..2])), 2),
            [_, b'\n', ..] => (None, 2 + spaces(&bytes[2..])),
            [_, b'\r', b'\n', ..] => (None, 3 + spaces(&bytes[3..])),
            [_, b'{', inner @ ..] => {
                let length = inner.iter().take_while(|byte| in_name(**byte)).count();
                if length == 0 || inner.get(length) != Some(&b'}') {
                    return self.error("a `${` without a name and `}`");
                }
                (Some(Piece::Variable(&rest[2..2 + length])), length + 3)
            }
            _ => {
                let simple = |byte: &&u8| in_name(**byte) && **byte != b'.';
                let length = bytes[1..].iter().take_while(simple).count();
                if length == 0 {
                    return self.error("bad `$`-escape (literal `$` must be written as `$$`)");
                }
                (Some(Piece::Variable(&rest[1..=length])), length + 1)
            }
        };
        self.at += length;
        Ok(piece)
    }
}

fn spaces(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| **byte == b' ').count()
}
