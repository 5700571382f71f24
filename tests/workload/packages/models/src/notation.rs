//! The text form of every model: JSON without booleans, null, fractions and negative numbers.
//!
//! Maps keep the order in which they were written, so equal values have equal text.

use std::fmt::{self, Write as _};

/// How deep lists and maps may nest. Our own messages need five; the limit keeps a hostile message
/// from exhausting the stack.
const MAX_DEPTH: usize = 16;

/// A tree of notation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Number(u64),
    Text(String),
    List(Vec<Value>),
    Map(Vec<(String, Value)>),
}

/// Why bytes are not the text form of what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Not notation at all: what would have been right, and at which byte.
    Syntax { expected: &'static str, at: usize },
    /// Good notation, but not of this model.
    Field { name: &'static str, expected: &'static str },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Syntax { expected, at } => write!(f, "expected {expected} at byte {at}"),
            DecodeError::Field { name, expected } => write!(f, "field `{name}` is not {expected}"),
        }
    }
}

impl std::error::Error for DecodeError {}

impl Value {
    /// A map from names that the program knows.
    pub fn map<const N: usize>(fields: [(&str, Value); N]) -> Value {
        Value::Map(fields.map(|(name, value)| (name.to_owned(), value)).into())
    }

    /// Parses exactly one value, with nothing after it.
    pub fn parse(bytes: &[u8]) -> Result<Value, DecodeError> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| DecodeError::Syntax { expected: "UTF-8", at: error.valid_up_to() })?;
        let mut parser = Parser { text, at: 0 };
        let value = parser.value(0)?;
        parser.skip_space();
        if parser.at == text.len() { Ok(value) } else { Err(parser.expected("the end")) }
    }

    /// The field of a map, which must be there.
    pub fn field(&self, name: &'static str) -> Result<&Value, DecodeError> {
        let Value::Map(fields) = self else {
            return Err(DecodeError::Field { name, expected: "inside a map" });
        };
        let found = fields.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value).ok_or(DecodeError::Field { name, expected: "there" })
    }

    /// A number that fits the integer type asked for.
    pub fn number<T: TryFrom<u64>>(&self, name: &'static str) -> Result<T, DecodeError> {
        let error = DecodeError::Field { name, expected: "a number in range" };
        match self.field(name)? {
            Value::Number(number) => T::try_from(*number).map_err(|_| error),
            _ => Err(error),
        }
    }

    /// A text field.
    pub fn text(&self, name: &'static str) -> Result<&str, DecodeError> {
        match self.field(name)? {
            Value::Text(text) => Ok(text),
            _ => Err(DecodeError::Field { name, expected: "a text" }),
        }
    }

    /// A list field.
    pub fn list(&self, name: &'static str) -> Result<&[Value], DecodeError> {
        match self.field(name)? {
            Value::List(items) => Ok(items),
            _ => Err(DecodeError::Field { name, expected: "a list" }),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Number(number) => write!(f, "{number}"),
            Value::Text(text) => write_text(f, text),
            Value::List(items) => {
                f.write_char('[')?;
                for (index, item) in items.iter().enumerate() {
                    let comma = if index > 0 { "," } else { "" };
                    write!(f, "{comma}{item}")?;
                }
                f.write_char(']')
            }
            Value::Map(fields) => {
                f.write_char('{')?;
                for (index, (name, value)) in fields.iter().enumerate() {
                    f.write_str(if index > 0 { "," } else { "" })?;
                    write_text(f, name)?;
                    write!(f, ":{value}")?;
                }
                f.write_char('}')
            }
        }
    }
}

fn write_text(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for character in text.chars() {
        match character {
            '"' | '\\' => write!(f, "\\{character}")?,
            '\n' => f.write_str("\\n")?,
            control if control < ' ' => write!(f, "\\u{:04x}", u32::from(control))?,
            other => f.write_char(other)?,
        }
    }
    f.write_char('"')
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn expected(&self, expected: &'static str) -> DecodeError {
        DecodeError::Syntax { expected, at: self.at }
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\n', '\r', '\t']).len();
    }

    /// Steps over the character if it comes next.
    fn take(&mut self, wanted: char) -> bool {
        self.skip_space();
        let found = self.rest().starts_with(wanted);
        self.at += if found { wanted.len_utf8() } else { 0 };
        found
    }

    fn value(&mut self, depth: usize) -> Result<Value, DecodeError> {
        if depth > MAX_DEPTH {
            return Err(self.expected("less nesting"));
        }
        self.skip_space();
        match self.rest().as_bytes().first() {
            Some(b'0'..=b'9') => self.number().map(Value::Number),
            Some(b'"') => self.string().map(Value::Text),
            Some(b'[') => self.items('[', ']', |parser| parser.value(depth + 1)).map(Value::List),
            Some(b'{') => self.items('{', '}', |parser| parser.entry(depth)).map(Value::Map),
            _ => Err(self.expected("a value")),
        }
    }

    fn entry(&mut self, depth: usize) -> Result<(String, Value), DecodeError> {
        self.skip_space();
        let name = self.string()?;
        if !self.take(':') {
            return Err(self.expected("a colon"));
        }
        Ok((name, self.value(depth + 1)?))
    }

    fn items<T>(
        &mut self,
        open: char,
        close: char,
        mut item: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let mut items = Vec::new();
        self.take(open);
        if self.take(close) {
            return Ok(items);
        }
        loop {
            items.push(item(self)?);
            if self.take(close) {
                return Ok(items);
            }
            if !self.take(',') {
                return Err(self.expected("a comma or the end of the list"));
            }
        }
    }

    fn number(&mut self) -> Result<u64, DecodeError> {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number = rest[..end].parse().map_err(|_| self.expected("a number below 2^64"))?;
        self.at += end;
        Ok(number)
    }

    fn string(&mut self) -> Result<String, DecodeError> {
        if !self.take('"') {
            return Err(self.expected("a text"));
        }
        let mut text = String::new();
        loop {
            let character = self.rest().chars().next().ok_or(self.expected("a closing quote"))?;
            self.at += character.len_utf8();
            match character {
                '"' => return Ok(text),
                '\\' => text.push(self.escape()?),
                control if control < ' ' => return Err(self.expected("an escaped control")),
                other => text.push(other),
            }
        }
    }

    /// What follows a backslash. Escapes that this notation never writes are refused.
    fn escape(&mut self) -> Result<char, DecodeError> {
        let error = self.expected("an escape");
        let (length, character) = match self.rest().as_bytes() {
            [quoted @ (b'"' | b'\\'), ..] => (1, char::from(*quoted)),
            [b'n', ..] => (1, '\n'),
            [b'u', digits @ ..] if digits.len() >= 4 && digits[..4].is_ascii() => {
                let digits = &self.rest()[1..5];
                let all_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
                let code = u32::from_str_radix(digits, 16).ok().filter(|_| all_hex);
                (5, code.and_then(char::from_u32).ok_or(error)?)
            }
            _ => return Err(error),
        };
        self.at += length;
        Ok(character)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_survives_its_text_form() {
        let value = Value::map([
            ("number", Value::Number(u64::MAX)),
            ("text", Value::Text("a \"quote\", a \\, a\nline, \u{1} and 茶".to_owned())),
            ("list", Value::List(vec![Value::List(vec![]), Value::map([])])),
        ]);
        assert_eq!(Value::parse(value.to_string().as_bytes()), Ok(value));
    }

    #[test]
    fn space_between_tokens_is_ignored() {
        let spaced = Value::parse(b" { \"a\" : [ 1 , 2 ] } ").unwrap();
        assert_eq!(spaced.to_string(), r#"{"a":[1,2]}"#);
    }

    #[test]
    fn damage_is_refused_with_its_place() {
        let cases = [
            (&b""[..], "a value", 0),
            (b"[1,]", "a value", 3),
            (b"[1 2]", "a comma or the end of the list", 3),
            (b"{\"a\" 1}", "a colon", 5),
            (b"\"open", "a closing quote", 5),
            (b"\"\\x\"", "an escape", 2),
            (b"\"\\u+041\"", "an escape", 2),
            (b"18446744073709551616", "a number below 2^64", 0),
            (b"1 1", "the end", 2),
            (b"\"\xff\"", "UTF-8", 1),
        ];
        for (bytes, expected, at) in cases {
            assert_eq!(Value::parse(bytes), Err(DecodeError::Syntax { expected, at }), "{bytes:?}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = "[".repeat(100_000);
        let error = DecodeError::Syntax { expected: "less nesting", at: MAX_DEPTH + 1 };
        assert_eq!(Value::parse(deep.as_bytes()), Err(error));
    }

    #[test]
    fn every_truncation_of_a_message_is_an_error() {
        let text = r#"{"id":7,"name":"A\u0001\n","lines":[{"sku":"tea"}]}"#;
        for end in 0..text.len() {
            assert!(Value::parse(&text.as_bytes()[..end]).is_err(), "{}", &text[..end]);
        }
    }
}
