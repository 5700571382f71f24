//! Patches between versions of a file, in the manner of bsdiff but without its suffix array.
//!
//! A build that changes one line moves most of what a linker writes: nearly every instruction is
//! where it was relative to its neighbours, and nearly every address in it is another number.
//! Percival's bsdiff ("Naive Differences of Executable Code", 2003) showed that long copies *with
//! mismatches* describe that well, because the mismatches are few and much alike. Here the copies
//! are found by a bounded table of sampled windows, an [`Index`], in place of a suffix array; and
//! mismatches are differences of 32-bit words in place of bytes, since a word is what a moved
//! address is: without carries, one distance is one number wherever it occurs. Things that lie near
//! one another move by the same distance, so the difference is guessed from the word itself, and the
//! patch has what the guess is off by: mostly nothing.
//!
//! A [`Patch`] is four streams that are meant to be compressed one by one. It makes one segment of
//! a target, so a target is patched in parts that stream, resume and are verified alone. What a
//! patch makes is bounded by the length that the caller expects. It is not believed to be right:
//! the caller checks a digest.

mod apply;
mod choose;
mod diff;
mod index;
mod predict;
#[cfg(test)]
mod tests;
mod words;

pub use apply::{DeltaError, apply};
pub use choose::{Cost, Method, choose};
pub use diff::diff;
pub use index::{Index, MAX_BASE, MAX_TABLE};

/// Bytes that one adjustment changes, fewer at the end of a copy.
const WORD: usize = 4;

/// How one segment of a target is made of a base: four streams of bytes.
///
/// Numbers are little-endian base-128 varints; signed ones are zigzag-coded first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Patch {
    /// Instructions of three numbers each: where in the base to go on (signed, relative to the end
    /// of the last copy, at first to 0), how many bytes to copy from there, how many literals
    /// follow.
    pub control: Vec<u8>,
    /// For each adjustment, how many copied bytes lie between the word before it and its own.
    pub gaps: Vec<u8>,
    /// For each adjustment, the signed number that is added to the little-endian word there, less what
    /// is guessed from the words before.
    pub adjustments: Vec<u8>,
    /// Bytes of the target that are like nothing in the base.
    pub literals: Vec<u8>,
}

impl Patch {
    /// Whether the streams are as short as those of a patch for `len` bytes that is worth applying.
    ///
    /// Checked on both sides: it bounds the memory and the number of reads that a patch from a peer
    /// can cost.
    pub fn fits(&self, len: usize) -> bool {
        let streams = [&self.control, &self.gaps, &self.adjustments, &self.literals];
        streams.iter().zip(Self::limits(len)).all(|(stream, limit)| stream.len() <= limit)
    }

    /// Most bytes in each stream, in the order of the fields, of a patch for `len` bytes.
    pub fn limits(len: usize) -> [usize; 4] {
        // An instruction is made for ten equal bytes or more and takes some five; an adjustment
        // takes at most five bytes for a word, and its gap seldom more than one.
        [len / 2 + SLACK, len / 2 + SLACK, len + len / 2 + SLACK, len]
    }
}

/// What the limits of a patch allow beyond their share of the segment, for the shortest of them.
const SLACK: usize = 64;
