//! The terminal while the monitor has it.

use std::io::{self, Write as _};

/// The alternate screen, no cursor, and lines that end at the border.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
/// All of that undone.
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
/// The size of a terminal that does not tell it.
const USUAL: (usize, usize) = (80, 24);

/// The alternate screen of standard output, until the value is dropped.
#[derive(Debug)]
pub(super) struct Screen(());

impl Screen {
    pub(super) fn enter() -> Self {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // So that the message is where it can be read.
            drop(write(LEAVE));
            previous(info);
        }));
        drop(write(ENTER));
        Self(())
    }

    /// Columns and rows.
    pub(super) fn size(&self) -> (usize, usize) {
        match rustix::termios::tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                (usize::from(size.ws_col), usize::from(size.ws_row))
            }
            _ => USUAL,
        }
    }

    /// Draws the lines, of which there must not be more than rows; whether that went well.
    pub(super) fn draw(&self, lines: &[String]) -> bool {
        write(&frame(lines)).is_ok()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        drop(write(LEAVE));
    }
}

/// One write for all of it, without clearing what is drawn again, so that nothing flickers.
fn frame(lines: &[String]) -> String {
    // The rest of each line is cleared before it is written: at the border the cursor would stand
    // on the last character.
    let lines: Vec<_> = lines.iter().map(|line| format!("\x1b[2K{line}")).collect();
    format!("\x1b[H{}\x1b[0m\x1b[J", lines.join("\r\n"))
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_never_scrolls_and_leaves_nothing_of_the_one_before() {
        let frame = frame(&["one".to_owned(), "two".to_owned()]);
        assert_eq!(frame, "\x1b[H\x1b[2Kone\r\n\x1b[2Ktwo\x1b[0m\x1b[J");
    }
}
