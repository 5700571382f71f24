//! Making a segment from a base and a patch.

use super::predict::Predictor;
use super::words::{Words, load, save, unzigzag};
use super::{Patch, WORD};

/// Why a patch cannot be applied. All but [`Read`](Self::Read) are the fault of who made it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DeltaError<E> {
    /// A stream ends early, has bytes left over, or has a number that is too long.
    #[error("the {0} of the patch are malformed")]
    Malformed(&'static str),
    /// A stream is longer than [`Patch::limits`] allows.
    #[error("the patch is too large for {0} bytes")]
    TooLarge(usize),
    /// It copies what is not in the base.
    #[error("the patch reads {len} bytes at {at}, outside a base of {base} bytes")]
    OutsideBase {
        /// Where the copy starts.
        at: i64,
        /// Its length in bytes.
        len: u64,
        /// Length of the base in bytes.
        base: u64,
    },
    /// It makes more or fewer bytes than expected.
    #[error("the patch makes {made} bytes and not {expected}")]
    Length {
        /// Bytes that were made, or would have been.
        made: u64,
        /// Bytes that were expected.
        expected: u64,
    },
    /// The base could not be read.
    #[error("the base of the patch cannot be read: {0}")]
    Read(E),
}

/// Makes the `expected` bytes that `patch` describes.
///
/// `read` fills a buffer with the bytes of the base at an offset; it is never asked for bytes
/// outside `base_len`. Memory is the segment that is made.
pub fn apply<E>(
    base_len: u64,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
    patch: &Patch,
    expected: usize,
) -> Result<Vec<u8>, DeltaError<E>> {
    if !patch.fits(expected) {
        return Err(DeltaError::TooLarge(expected));
    }
    let mut made = vec![0; expected];
    let mut adjuster = Adjuster::new(patch)?;
    let mut control = Words(&patch.control);
    let mut literals = patch.literals.as_slice();
    let (mut at, mut place) = (0, 0i64);
    while !control.is_empty() {
        let mut number = || control.next().ok_or(DeltaError::Malformed("instructions"));
        let (seek, copy, literal) = (unzigzag(number()?), number()?, number()?);
        let end = (at as u64).saturating_add(copy).saturating_add(literal);
        if end > expected as u64 {
            return Err(DeltaError::Length { made: end, expected: expected as u64 });
        }
        if copy == 0 && literal == 0 {
            return Err(DeltaError::Malformed("instructions"));
        }
        place = place.saturating_add(seek);
        let outside = DeltaError::OutsideBase { at: place, len: copy, base: base_len };
        let Ok(from) = u64::try_from(place) else { return Err(outside) };
        // What is left of the segment is longer than `copy`, so these fit a usize.
        let (middle, end) = (at + copy as usize, end as usize);
        if copy > 0 {
            if from.checked_add(copy).is_none_or(|end| end > base_len) {
                return Err(outside);
            }
            read(from, &mut made[at..middle]).map_err(DeltaError::Read)?;
            adjuster.adjust(&mut made[at..middle])?;
            place = place.saturating_add(copy as i64);
        }
        let Some((now, later)) = literals.split_at_checked(end - middle) else {
            return Err(DeltaError::Malformed("literals"));
        };
        made[middle..end].copy_from_slice(now);
        literals = later;
        at = end;
    }
    if at != expected {
        return Err(DeltaError::Length { made: at as u64, expected: expected as u64 });
    }
    if !literals.is_empty() {
        return Err(DeltaError::Malformed("literals"));
    }
    adjuster.finish()?;
    Ok(made)
}

/// Walks over the adjustments as the copied bytes go by.
struct Adjuster<'a> {
    gaps: Words<'a>,
    adjustments: Words<'a>,
    /// Copied bytes until the next adjustment, when there is one.
    gap: Option<u64>,
    predictor: Predictor,
}

impl<'a> Adjuster<'a> {
    fn new<E>(patch: &'a Patch) -> Result<Self, DeltaError<E>> {
        let (gaps, adjustments) = (Words(&patch.gaps), Words(&patch.adjustments));
        let mut adjuster = Self { gaps, adjustments, gap: None, predictor: Predictor::default() };
        adjuster.next_gap()?;
        Ok(adjuster)
    }

    fn next_gap<E>(&mut self) -> Result<(), DeltaError<E>> {
        self.gap = match self.gaps.is_empty() {
            true => None,
            false => Some(self.gaps.next().ok_or(DeltaError::Malformed("gaps"))?),
        };
        Ok(())
    }

    /// Adjusts the bytes of one copy.
    fn adjust<E>(&mut self, bytes: &mut [u8]) -> Result<(), DeltaError<E>> {
        let mut at = 0;
        while let Some(gap) = self.gap {
            let left = (bytes.len() - at) as u64;
            if gap >= left {
                self.gap = Some(gap - left);
                return Ok(());
            }
            at += gap as usize;
            let end = bytes.len().min(at + WORD);
            let off = self.adjustments.next().ok_or(DeltaError::Malformed("adjustments"))?;
            let place = &mut bytes[at..end];
            let word = load(place);
            let by = (unzigzag(off) as u32).wrapping_add(self.predictor.guess(word));
            self.predictor.learn(word, by);
            save(word.wrapping_add(by), place);
            at = end;
            self.next_gap()?;
        }
        Ok(())
    }

    fn finish<E>(self) -> Result<(), DeltaError<E>> {
        match (self.gap, self.adjustments.is_empty()) {
            (None, true) => Ok(()),
            (Some(_), _) => Err(DeltaError::Malformed("gaps")),
            (None, false) => Err(DeltaError::Malformed("adjustments")),
        }
    }
}
