//! Aligned columns, cut to the width of a terminal.

use crate::text::clean;

/// Between two columns.
const GAP: &str = "  ";

/// How things look where they are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Style {
    /// Colours may be used.
    pub(crate) colour: bool,
    /// Characters other than ASCII can be shown.
    pub(crate) unicode: bool,
}

impl Style {
    /// The style of standard output, a terminal or not.
    pub(crate) fn of_stdout(is_terminal: bool) -> Self {
        Self::new(is_terminal, |name| std::env::var(name).ok())
    }

    fn new(is_terminal: bool, variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        // The first that is set counts.
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set);
        let locale = locale.unwrap_or_default().to_ascii_lowercase();
        Self {
            colour: is_terminal
                && set("NO_COLOR").is_none()
                && set("TERM").is_none_or(|terminal| terminal != "dumb"),
            unicode: locale.contains("utf-8") || locale.contains("utf8"),
        }
    }
}

/// How a cell stands out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Look {
    Bold,
    Dim,
    Green,
    Yellow,
    Red,
}

impl Look {
    fn code(self) -> &'static str {
        match self {
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Green => "32",
            Self::Yellow => "33",
            Self::Red => "31",
        }
    }

    /// The text so that it stands out.
    pub(crate) fn paint(self, text: &str, style: Style) -> String {
        if style.colour && !text.is_empty() {
            format!("\x1b[{}m{text}\x1b[0m", self.code())
        } else {
            text.to_owned()
        }
    }
}

/// On which side a column is even.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A part of a row. Control characters in it are not shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Cell {
    text: String,
    look: Option<Look>,
}

impl Cell {
    pub(crate) fn look(mut self, look: Look) -> Self {
        self.look = Some(look);
        self
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: clean(text.as_ref()).into_owned(), look: None }
    }
}

/// Rows of cells below a header.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    columns: Vec<Align>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new<H: AsRef<str>>(header: impl IntoIterator<Item = (H, Align)>) -> Self {
        let (names, columns): (Vec<_>, _) = header
            .into_iter()
            .map(|(name, align)| (Cell::from(name).look(Look::Bold), align))
            .unzip();
        Self { columns, rows: vec![names] }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The columns that it takes on a terminal.
    pub(crate) fn width(&self) -> usize {
        let gaps = GAP.len() * self.columns.len().saturating_sub(1);
        self.widths().iter().sum::<usize>() + gaps
    }

    fn widths(&self) -> Vec<usize> {
        let width = |column| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell: &Cell| cell.text.chars().count()).max().unwrap_or(0)
        };
        (0..self.columns.len()).map(width).collect()
    }

    /// The lines, the header first, none longer than `width` characters.
    pub(crate) fn lines(&self, style: Style, width: usize) -> Vec<String> {
        let widths = self.widths();
        self.rows.iter().map(|row| self.line(row, &widths, style, width)).collect()
    }

    fn line(&self, row: &[Cell], widths: &[usize], style: Style, width: usize) -> String {
        let (mut line, mut room) = (String::new(), width);
        // Blanks that are due, written when something follows.
        let mut blanks = 0;
        for (index, cell) in row.iter().enumerate() {
            let length = cell.text.chars().count();
            let fill = widths.get(index).copied().unwrap_or(0).saturating_sub(length);
            let right = self.columns.get(index) == Some(&Align::Right);
            blanks += if right { fill } else { 0 };
            if length > 0 {
                let Some(left) = room.checked_sub(blanks) else { break };
                line.extend(std::iter::repeat_n(' ', blanks));
                let text: String = cell.text.chars().take(left).collect();
                line += &cell.look.map_or_else(|| text.clone(), |look| look.paint(&text, style));
                (room, blanks) = (left.saturating_sub(length), 0);
            }
            blanks += GAP.len() + if right { 0 } else { fill };
        }
        line
    }

    /// All of it, as wide as it is.
    pub(crate) fn to_text(&self, style: Style) -> String {
        self.lines(style, usize::MAX).into_iter().map(|line| line + "\n").collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table =
            Table::new([("region", Align::Left), ("rtt", Align::Right), ("", Align::Left)]);
        table.row(["us-east".into(), "50.1 ms".into(), Cell::from("ok").look(Look::Green)]);
        table.row(["eu".into(), "9.0 ms".into(), "".into()]);
        table
    }

    #[test]
    fn columns_are_even_and_lines_have_no_blanks_at_their_end() {
        assert_eq!(
            table().to_text(Style::default()),
            "region       rtt\nus-east  50.1 ms  ok\neu        9.0 ms\n"
        );
        assert_eq!(table().width(), 20);
    }

    #[test]
    fn colours_change_no_column_and_are_cut_with_the_text() {
        let style = Style { colour: true, unicode: false };
        let lines = table().lines(style, 19);
        assert_eq!(lines[0], "\x1b[1mregion\x1b[0m       \x1b[1mrtt\x1b[0m");
        assert_eq!(lines[1], "us-east  50.1 ms  \x1b[32mo\x1b[0m");
        assert_eq!(table().lines(style, 3)[1], "us-");
        assert_eq!(table().lines(style, 0)[1], "");
    }

    #[test]
    fn foreign_text_stays_in_its_cell() {
        let mut table = Table::new([("a", Align::Left)]);
        table.row(["x\r\n\u{1b}[31m".into()]);
        assert_eq!(table.to_text(Style::default()).lines().count(), 2);
    }

    #[test]
    fn the_environment_decides_about_colours_and_characters() {
        let style = |set: &[(&str, &str)], is_terminal| {
            Style::new(is_terminal, |name| {
                set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let plain = Style::default();
        assert_eq!(style(&[], false), plain);
        assert_eq!(style(&[], true), Style { colour: true, unicode: false });
        assert_eq!(style(&[("NO_COLOR", "1"), ("LANG", "C")], true), plain);
        assert_eq!(style(&[("TERM", "dumb")], true), plain);
        let unicode = Style { unicode: true, ..plain };
        assert_eq!(style(&[("LANG", "de_DE.UTF-8"), ("NO_COLOR", "1")], true), unicode);
        assert_eq!(style(&[("LC_ALL", "C"), ("LANG", "de_DE.UTF-8")], false), plain);
    }
}
