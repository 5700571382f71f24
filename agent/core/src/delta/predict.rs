//! What an adjustment is likely to be.

/// Logarithm of the entries of the table: 64 KiB, made anew for each segment.
const ENTRIES_LOG: u32 = 14;
/// Bits of a word that say nothing of how far what it points at has moved. In a range of so many bytes
/// most things move alike: a linker puts strings in some thirty parts, each of which moves as a whole.
const RANGE_LOG: u32 = 14;

/// Remembers by how much words of about the same value were changed. A word that is an address or an
/// offset changes by as much as what lies there has moved.
#[derive(Debug)]
pub(super) struct Predictor {
    changes: Vec<u32>,
}

impl Default for Predictor {
    fn default() -> Self {
        Self { changes: vec![0; 1 << ENTRIES_LOG] }
    }
}

impl Predictor {
    /// By how much `word` of the base was most likely changed. [`learn`](Self::learn) is told the truth.
    pub(super) fn guess(&self, word: u32) -> u32 {
        self.changes[Self::entry(word)]
    }

    pub(super) fn learn(&mut self, word: u32, change: u32) {
        self.changes[Self::entry(word)] = change;
    }

    fn entry(word: u32) -> usize {
        ((word >> RANGE_LOG).wrapping_mul(0x9e37_79b1) >> (32 - ENTRIES_LOG)) as usize
    }
}
