//! Looking through all that a store holds: in steps, so that whoever asks decides how fast, shows how
//! far it is, and may go on another time.

use netbuild_core::{
    digest::{Digest, Hash},
    key::ActionKey,
};
use std::{fmt, num::NonZeroUsize, ops::ControlFlow, path::PathBuf, str::FromStr};

/// How to look.
#[derive(Clone, Copy)]
pub struct Inspect<'a> {
    /// Read all bytes, and check signatures; else names, sizes and places only.
    pub deep: bool,
    /// Put damage aside, drop entries that lie, take in what nobody knew of; else change nothing.
    pub repair: bool,
    /// Blobs that are read at once.
    pub threads: NonZeroUsize,
    /// Hears how many bytes were just read, 0 for a sign of life; may wait, and may break off.
    pub pace: &'a (dyn Fn(u64) -> ControlFlow<()> + Sync),
}

impl fmt::Debug for Inspect<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { deep, repair, threads, .. } = self;
        f.debug_struct("Inspect")
            .field("deep", deep)
            .field("repair", repair)
            .field("threads", threads)
            .finish_non_exhaustive()
    }
}

/// What is looked at, in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Stage {
    /// Blob files.
    #[default]
    Files,
    /// What the index says of blobs.
    Blobs,
    /// What the index says of records.
    Records,
}

impl Stage {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Files, "files"), (Self::Blobs, "blobs"), (Self::Records, "records")];
}

/// Up to where a store was looked through. It survives in its text form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Cursor {
    /// The stage.
    pub stage: Stage,
    /// The last name of that stage that was looked at; `None` before the first.
    pub after: Option<Hash>,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Stage::ALL.iter().find(|(stage, _)| *stage == self.stage);
        f.write_str(name.map_or("", |(_, name)| name))?;
        self.after.map_or(Ok(()), |hash| write!(f, " {hash}"))
    }
}

/// A text is no cursor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a place in a store")]
pub struct ParseCursorError;

impl FromStr for Cursor {
    type Err = ParseCursorError;

    fn from_str(text: &str) -> Result<Self, ParseCursorError> {
        let (name, after) = text.split_once(' ').map_or((text, None), |(a, b)| (a, Some(b)));
        let stage = Stage::ALL.iter().find(|(_, known)| *known == name).ok_or(ParseCursorError)?.0;
        let after = after.map(str::parse).transpose().map_err(|_| ParseCursorError)?;
        Ok(Self { stage, after })
    }
}

/// What something was found to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Its bytes are not those that its name says, or cannot be read.
    Damaged,
    /// The index has it, and it is not there.
    Missing,
    /// It is there, and the index does not have it.
    Orphaned,
    /// The index has it at another place than the journal.
    Misplaced,
    /// A file that is not netbuild's. It harms nobody, and is left where it is.
    Stray,
}

impl Fault {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::Missing => "missing",
            Self::Orphaned => "orphaned",
            Self::Misplaced => "misplaced",
            Self::Stray => "stray",
        }
    }

    /// Whether content was lost by it.
    pub fn is_loss(self) -> bool {
        matches!(self, Self::Damaged | Self::Missing)
    }
}

/// What a finding is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Subject {
    /// A blob.
    Blob(Digest),
    /// The record of an action.
    Record(ActionKey),
    /// A file.
    File(PathBuf),
    /// The index as a whole.
    Index,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blob(blob) => write!(f, "blob {blob}"),
            Self::Record(key) => write!(f, "record {key}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Index => f.write_str("index"),
        }
    }
}

/// Something that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What it is about.
    pub subject: Subject,
    /// What is wrong.
    pub fault: Fault,
    /// More about it, for people.
    pub detail: String,
    /// Whether the store is in order again. What was lost by the fault has to come from elsewhere.
    pub mended: bool,
}

impl Finding {
    pub(crate) fn new(subject: Subject, fault: Fault, detail: String) -> Self {
        Self { subject, fault, detail, mended: false }
    }
}

/// What came of one step.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Inspected {
    /// Where the next step begins; `None` at the end.
    pub next: Option<Cursor>,
    /// Blobs looked at.
    pub blobs: u64,
    /// Records looked at.
    pub records: u64,
    /// What was found.
    pub findings: Vec<Finding>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_as_text() {
        for (stage, _) in Stage::ALL {
            for after in [None, Some(Hash([7; 32]))] {
                let cursor = Cursor { stage, after };
                assert_eq!(cursor.to_string().parse(), Ok(cursor));
            }
        }
        for bad in ["", "file", "files ", "files x", "files 00 11"] {
            assert_eq!(bad.parse::<Cursor>(), Err(ParseCursorError), "{bad}");
        }
    }
}
