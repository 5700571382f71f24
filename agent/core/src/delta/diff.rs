//! Finding what a segment has in common with a base.

use super::index::{Index, WINDOW, window};
use super::predict::Predictor;
use super::words::{load, put, zigzag};
use super::{Patch, WORD};

/// By how many equal bytes another place in the base must be better before the copy moves there:
/// about what an instruction and the mismatches around it cost.
const GAIN: usize = 10;
/// Bytes after a match over which two places are compared.
const AHEAD: usize = 64;
/// Bytes of a match that are counted; a longer one is good enough.
const LONG: usize = 256;
/// Every so many positions without a match the search takes longer steps, as LZ4 does, so that
/// unrelated bytes cost little.
const PATIENCE: usize = 512;
/// How often the steps grow, by two each time: odd steps meet the windows of the index, whose step is
/// a power of two, at every distance.
const MAX_HASTE: usize = 3;

/// A patch that makes `segment` of `base`, which is what `index` was made of.
///
/// `near` is where in the base the segment's start is likely to be found: its offset in the target.
/// A wrong one costs a few bytes.
pub fn diff(index: &Index, base: &[u8], segment: &[u8], near: usize) -> Patch {
    let mut out = Writer::default();
    Search { index, base, segment }.run(near, &mut out);
    out.patch
}

struct Search<'a> {
    index: &'a Index,
    base: &'a [u8],
    segment: &'a [u8],
}

/// A place of the segment and where the base is like it.
#[derive(Clone, Copy)]
struct Anchor {
    at: usize,
    base: usize,
}

impl Anchor {
    /// Where in the base `at` lies by this alignment.
    fn place(self, at: usize) -> Option<usize> {
        (self.base + at).checked_sub(self.at)
    }
}

impl Search<'_> {
    fn run(&self, near: usize, out: &mut Writer) {
        let mut current = Anchor { at: 0, base: near.min(self.base.len()) };
        let (mut at, mut written, mut misses) = (0, 0, 0);
        while let Some(window) = window(self.segment, at) {
            let equal = common(&self.segment[at..], self.there(current, at));
            if equal >= WINDOW {
                at += equal;
                misses = 0;
                continue;
            }
            let Some(next) = self.better(window, at, written, current) else {
                misses += 1;
                at += 1 + 2 * (misses / PATIENCE).min(MAX_HASTE);
                continue;
            };
            written = self.emit(out, written, current, Some(next));
            current = next;
            at = at.max(written);
            misses = 0;
        }
        self.emit(out, written, current, None);
    }

    /// The place in the base that is enough better at `at` than the alignment `current`.
    fn better(
        &self,
        window: &[u8; WINDOW],
        at: usize,
        written: usize,
        current: Anchor,
    ) -> Option<Anchor> {
        let mut best: Option<(usize, Anchor)> = None;
        for place in self.index.places(window) {
            let (Some(there), here) = (self.base.get(place..), &self.segment[at..]) else {
                continue;
            };
            let ahead = common(&here[..here.len().min(LONG)], there);
            if ahead < WINDOW {
                continue;
            }
            let behind = common_behind(&self.segment[written..at], &self.base[..place]);
            let from = at - behind;
            let until = (at + ahead + AHEAD).min(self.segment.len());
            let anchor = Anchor { at: from, base: place - behind };
            let equal = self.equal(anchor, from, until);
            let known = self.equal(current, from, until);
            if equal > known + GAIN {
                let gain = equal - known;
                if best.is_none_or(|(most, _)| gain > most) {
                    best = Some((gain, anchor));
                }
            }
        }
        best.map(|(_, anchor)| anchor)
    }

    /// What the base has where `at` lies by this alignment.
    fn there(&self, anchor: Anchor, at: usize) -> &[u8] {
        anchor.place(at).and_then(|place| self.base.get(place..)).unwrap_or(&[])
    }

    /// How many bytes of the segment's `from..until` are equal in the base.
    fn equal(&self, anchor: Anchor, from: usize, until: usize) -> usize {
        self.segment[from..until]
            .iter()
            .zip(self.there(anchor, from))
            .filter(|(a, b)| a == b)
            .count()
    }

    /// Writes what lies between `from` and the start of `next`, or the end: a copy by `current` as
    /// long as it is good, then literals. Returns where the copy of `next` starts.
    fn emit(&self, out: &mut Writer, from: usize, current: Anchor, next: Option<Anchor>) -> usize {
        let end = next.map_or(self.segment.len(), |next| next.at);
        let between = &self.segment[from..end];
        let forward = best_prefix(between, self.there(current, from));
        let backward = next.map_or(0, |next| best_suffix(between, &self.base[..next.base]));
        let (mut copy, mut start) = (from + forward, end - backward);
        if let (true, Some(next)) = (copy > start, next) {
            copy = self.split(current, next, start, copy);
            start = copy;
        }
        let place = current.place(from).unwrap_or(0);
        out.instruction(&self.segment[from..copy], self.base, place, &self.segment[copy..start]);
        start
    }

    /// Where in `from..until` it is best to go from one alignment to the other.
    fn split(&self, first: Anchor, second: Anchor, from: usize, until: usize) -> usize {
        let (first, second) = (self.there(first, from), self.there(second, from));
        let (mut best, mut gain, mut split) = (0i64, 0i64, from);
        for offset in 0..until - from {
            let byte = self.segment[from + offset];
            gain += i64::from(first.get(offset) == Some(&byte));
            gain -= i64::from(second.get(offset) == Some(&byte));
            if gain > best {
                best = gain;
                split = from + offset + 1;
            }
        }
        split
    }
}

/// Length of what `a` and `b` start with alike.
fn common(a: &[u8], b: &[u8]) -> usize {
    let len = a.len().min(b.len());
    let (a, b) = (&a[..len], &b[..len]);
    let words = a.chunks_exact(8).zip(b.chunks_exact(8)).take_while(|(a, b)| a == b).count() * 8;
    words + a[words..].iter().zip(&b[words..]).take_while(|(a, b)| a == b).count()
}

/// Length of what `a` and `b` end with alike.
fn common_behind(a: &[u8], b: &[u8]) -> usize {
    a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count()
}

/// The length at which copying `a` from `b` forward, mismatches included, is best: most equal bytes
/// less the mismatches, which is bsdiff's measure.
fn best_prefix(a: &[u8], b: &[u8]) -> usize {
    best(a.iter().zip(b).map(|(a, b)| a == b))
}

/// The same backward from the ends.
fn best_suffix(a: &[u8], b: &[u8]) -> usize {
    best(a.iter().rev().zip(b.iter().rev()).map(|(a, b)| a == b))
}

/// Bytes after the best length at which looking further ends.
const DESPAIR: i64 = 256;

fn best(equal: impl Iterator<Item = bool>) -> usize {
    let (mut score, mut most, mut len) = (0i64, 0i64, 0);
    for (at, equal) in equal.enumerate() {
        score += if equal { 1 } else { -1 };
        if score > most {
            most = score;
            len = at + 1;
        } else if score < most - DESPAIR {
            break;
        }
    }
    len
}

/// Writes the streams.
#[derive(Default)]
struct Writer {
    patch: Patch,
    /// End of the last copy in the base.
    place: usize,
    /// Copied bytes since the last adjustment.
    gap: usize,
    predictor: Predictor,
}

impl Writer {
    /// Copies `bytes` from `place` with mismatches, and adds `literals`.
    fn instruction(&mut self, bytes: &[u8], base: &[u8], place: usize, literals: &[u8]) {
        if bytes.is_empty() && literals.is_empty() {
            return;
        }
        let place = if bytes.is_empty() { self.place } else { place };
        put(&mut self.patch.control, zigzag(place as i64 - self.place as i64));
        put(&mut self.patch.control, bytes.len() as u64);
        put(&mut self.patch.control, literals.len() as u64);
        self.patch.literals.extend_from_slice(literals);
        self.place = place + bytes.len();
        let base = &base[place..place + bytes.len()];
        let mut at = 0;
        while at < bytes.len() {
            let equal = common(&bytes[at..], &base[at..]);
            self.gap += equal;
            at += equal;
            if at == bytes.len() {
                break;
            }
            let len = (bytes.len() - at).min(WORD);
            let word = load(&base[at..at + len]);
            let by = load(&bytes[at..at + len]).wrapping_sub(word);
            let off = by.wrapping_sub(self.predictor.guess(word));
            self.predictor.learn(word, by);
            put(&mut self.patch.gaps, self.gap as u64);
            put(&mut self.patch.adjustments, zigzag(i64::from(off as i32)));
            self.gap = 0;
            at += len;
        }
    }
}
