//! Tells the story as it happens: a heading for each chapter, a line for each thing that was
//! measured, and on a terminal what goes on at the moment.

use crate::table::{Look, Style};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io::{IsTerminal as _, Write as _},
    time::Duration,
};

/// Columns of what a line is about.
const SUBJECT: usize = 28;

/// Tells on standard output, or on standard error when that is for data.
#[derive(Debug)]
pub(crate) struct Teller {
    to_stderr: bool,
    style: Style,
    bar: ProgressBar,
    chapter: usize,
}

impl Teller {
    pub(crate) fn new(to_stderr: bool) -> Self {
        let is_terminal = match to_stderr {
            true => std::io::stderr().is_terminal(),
            false => std::io::stdout().is_terminal(),
        };
        let live = is_terminal && std::io::stderr().is_terminal();
        let bar = if live { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {wide_msg} {elapsed}") {
            bar.set_style(style);
        }
        Self { to_stderr, style: Style::of_stdout(is_terminal), bar, chapter: 0 }
    }

    pub(crate) fn style(&self) -> Style {
        self.style
    }

    /// Prints text. A reader that has gone away has read enough.
    pub(crate) fn print(&self, text: &str) {
        self.bar.suspend(|| {
            if self.to_stderr {
                drop(std::io::stderr().lock().write_all(text.as_bytes()));
            } else {
                let mut stdout = std::io::stdout().lock();
                drop(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()));
            }
        });
    }

    /// Begins a chapter.
    pub(crate) fn chapter(&mut self, title: &str) {
        self.chapter += 1;
        let heading = Look::Bold.paint(&format!("{}. {title}", self.chapter), self.style);
        self.print(&format!("\n{heading}\n"));
    }

    /// One thing that came out.
    pub(crate) fn line(&self, subject: &str, what: &str) {
        self.print(&format!("   {subject:<SUBJECT$}  {what}\n"));
    }

    /// An aside.
    pub(crate) fn note(&self, text: &str) {
        self.print(&format!("   {}\n", Look::Dim.paint(text, self.style)));
    }

    /// Says what goes on until the value is dropped, where somebody watches.
    pub(crate) fn doing(&self, what: &str) -> Doing<'_> {
        self.bar.reset();
        self.bar.set_message(what.to_owned());
        self.bar.enable_steady_tick(Duration::from_millis(200));
        Doing(self)
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Something that goes on.
#[derive(Debug)]
pub(crate) struct Doing<'a>(&'a Teller);

impl Drop for Doing<'_> {
    fn drop(&mut self) {
        self.0.bar.disable_steady_tick();
        self.0.bar.set_message("");
        self.0.bar.tick();
    }
}
