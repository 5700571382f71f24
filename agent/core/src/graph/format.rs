//! One layout for graph files, comments kept.
//!
//! Two spaces for each level; what fits in a line and has no comment stands in one, except the
//! file itself and what is directly in it; no trailing commas. Order and content stay.

/// Longest line that an array or object may fill.
const WIDTH: usize = 100;
/// Levels that are never in one line: the file, and the fields of the file.
const OPEN: usize = 2;
/// Deepest nesting that is formatted; a graph that loads has less.
const MAX_NESTING: usize = 64;

#[derive(Debug)]
enum Node<'t> {
    Scalar(&'t str),
    /// An array or object by its brackets.
    Container(char, char, Vec<Item<'t>>, Vec<&'t str>),
}

/// An element or property with the comments before it and behind it in its line.
#[derive(Debug)]
struct Item<'t> {
    before: Vec<&'t str>,
    key: Option<&'t str>,
    value: Node<'t>,
    behind: Option<&'t str>,
}

/// Formats a text that [`load`](super::load) has read without a syntax error; `None` when it is not
/// JSON after all.
pub fn format(text: &str) -> Option<String> {
    let mut parser = Parser { text: text.trim_start_matches('\u{feff}'), at: 0 };
    let before = parser.comments();
    let root = parser.value(0)?;
    let after = parser.comments();
    if parser.at < parser.text.len() {
        return None;
    }
    let mut out = String::new();
    for comment in before {
        out += &format!("{comment}\n");
    }
    write(&root, 0, &mut out);
    out.push('\n');
    for comment in after {
        out += &format!("{comment}\n");
    }
    Some(out)
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Parser<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn skip(&mut self, white: impl Fn(char) -> bool) {
        self.at += self.rest().len() - self.rest().trim_start_matches(white).len();
    }

    /// A comment that begins here, without what is white behind it.
    fn comment(&mut self) -> Option<&'t str> {
        let rest = self.rest();
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(inside) = rest.strip_prefix("/*") {
            inside.find("*/")? + 4
        } else {
            return None;
        };
        self.at += length;
        Some(rest[..length].trim_end())
    }

    fn comments(&mut self) -> Vec<&'t str> {
        let mut comments = Vec::new();
        loop {
            self.skip(char::is_whitespace);
            match self.comment() {
                Some(comment) => comments.push(comment),
                None => return comments,
            }
        }
    }

    fn scalar(&mut self) -> Option<&'t str> {
        let rest = self.rest();
        let length = if rest.starts_with('"') {
            let mut escaped = false;
            let end = rest.bytes().skip(1).position(|byte| {
                let ends = byte == b'"' && !escaped;
                escaped = byte == b'\\' && !escaped;
                ends
            });
            end? + 2
        } else {
            let ends = |c: char| c.is_whitespace() || ",:[]{}/\"".contains(c);
            rest.find(ends).unwrap_or(rest.len())
        };
        self.at += length;
        (length > 0).then(|| &rest[..length])
    }

    fn value(&mut self, depth: usize) -> Option<Node<'t>> {
        let (open, close) = match self.rest().chars().next()? {
            '{' => ('{', '}'),
            '[' => ('[', ']'),
            _ => return self.scalar().map(Node::Scalar),
        };
        if depth == MAX_NESTING {
            return None;
        }
        self.at += 1;
        let mut items: Vec<Item<'t>> = Vec::new();
        loop {
            let mut before = self.comments();
            if self.rest().starts_with(close) {
                self.at += 1;
                return Some(Node::Container(open, close, items, before));
            }
            let key = match open {
                '{' => {
                    let key = self.scalar()?;
                    before.extend(self.comments());
                    self.at += self.rest().starts_with(':').then_some(1)?;
                    before.extend(self.comments());
                    Some(key)
                }
                _ => None,
            };
            let value = self.value(depth + 1)?;
            self.skip(|c| c == ' ' || c == '\t');
            let mut behind = self.comment();
            let more = self.comments();
            let comma = self.rest().starts_with(',');
            self.at += usize::from(comma);
            if comma && behind.is_none() && more.is_empty() {
                self.skip(|c| c == ' ' || c == '\t');
                behind = self.comment();
            }
            items.push(Item { before, key, value, behind });
            if !comma {
                let last = more;
                self.skip(char::is_whitespace);
                self.at += self.rest().starts_with(close).then_some(1)?;
                return Some(Node::Container(open, close, items, last));
            }
            if let Some(item) = items.last_mut() {
                // Between a value and its comma.
                item.before.extend(more);
            }
        }
    }
}

/// The node in one line, if it has no comment and fits.
fn inline(node: &Node<'_>, room: usize) -> Option<String> {
    let text = match node {
        Node::Scalar(text) => (*text).to_owned(),
        Node::Container(open, close, items, last) => {
            let mut text = String::from(*open);
            for (index, item) in items.iter().enumerate() {
                if !item.before.is_empty() || item.behind.is_some() {
                    return None;
                }
                text += if index > 0 { ", " } else { "" };
                if let Some(key) = item.key {
                    text += &format!("{key}: ");
                }
                text += &inline(&item.value, room.checked_sub(text.len())?)?;
            }
            text.push(*close);
            if *open == '{' && !items.is_empty() {
                text.insert(1, ' ');
                text.insert(text.len() - 1, ' ');
            }
            last.is_empty().then_some(text)?
        }
    };
    (text.chars().count() <= room).then_some(text)
}

fn write(node: &Node<'_>, depth: usize, out: &mut String) {
    let column = out.len() - out.rfind('\n').map_or(0, |at| at + 1);
    let Node::Container(open, close, items, last) = node else {
        if let Node::Scalar(text) = node {
            out.push_str(text);
        }
        return;
    };
    let empty = items.is_empty() && last.is_empty();
    if (depth >= OPEN || empty || *open == '[')
        && let Some(line) = inline(node, WIDTH.saturating_sub(column + 1))
    {
        out.push_str(&line);
        return;
    }
    let indent = "  ".repeat(depth + 1);
    out.push(*open);
    out.push('\n');
    for (index, item) in items.iter().enumerate() {
        for comment in &item.before {
            *out += &format!("{indent}{comment}\n");
        }
        out.push_str(&indent);
        if let Some(key) = item.key {
            *out += &format!("{key}: ");
        }
        write(&item.value, depth + 1, out);
        if index + 1 < items.len() {
            out.push(',');
        }
        if let Some(comment) = item.behind {
            *out += &format!(" {comment}");
        }
        out.push('\n');
    }
    for comment in last {
        *out += &format!("{indent}{comment}\n");
    }
    out.push_str(&"  ".repeat(depth));
    out.push(*close);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_one_layout_and_keeps_its_comments() {
        let text = "\u{feff}// top\n{ \"tasks\":{\"a\":{\"command\":\"x\\\"y\", // why\n\"deps\":[\"b\",\"c\",],},\n\
                    /* long */ \"b\":{\"command\":\"y\" /* last */}, // behind\n// end\n},\n\"version\":1}\n// tail";
        let expected = "// top\n{\n  \"tasks\": {\n    \"a\": {\n      \"command\": \"x\\\"y\", // why\n      \
            \"deps\": [\"b\", \"c\"]\n    },\n    /* long */\n    \"b\": {\n      \"command\": \"y\" /* last */\n    } // behind\n    // end\n  },\n  \"version\": 1\n}\n// tail\n";
        let formatted = format(text).unwrap();
        assert_eq!(formatted, expected);
        assert_eq!(format(&formatted).unwrap(), formatted);
        assert_eq!(
            format("{\"tasks\": {\"a\": {\"command\": \"x\"}}}").unwrap(),
            "{\n  \"tasks\": {\n    \"a\": { \"command\": \"x\" }\n  }\n}\n"
        );
        for bad in ["", "{", "[1", "{\"a\" 1}", "\"", "1 2", "/*"] {
            assert_eq!(format(bad), None, "{bad}");
        }
    }
}
