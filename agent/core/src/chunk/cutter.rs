//! Cutting a blob that arrives in pieces.
//!
//! The gear hash takes a step for each byte, and each waits for the one before it, which leaves most of a processor
//! idle. A hash has forgotten all but the last [`CUT_WINDOW`] bytes, so places that are further apart are looked at
//! at once: 0.32 s for a GiB of noise, and 0.58 one after the other (one core of a Xeon of 2023). Nothing of
//! the blob is copied: bytes are looked at and digested where they are.

use super::{AVG_CHUNK, CUT_WINDOW, Chunk, MAX_CHUNK, MIN_CHUNK, Manifest};
use crate::digest::{Digest, DigestBuilder};
use fastcdc::v2020::{Normalization, get_gear_with_seed, select_masks};
use std::{array, mem, sync::LazyLock};

/// Places that are looked at at once.
const LANES: usize = 4;
/// Bytes from one of them to the next.
const LANE: usize = 2048;

/// What the gear hash adds for each byte.
pub(super) struct Gear {
    table: [u64; 256],
    /// The same, shifted by one.
    shifted: [u64; 256],
}

pub(super) static GEAR: LazyLock<Gear> = LazyLock::new(|| {
    let (table, shifted) = get_gear_with_seed(0);
    Gear { table: array::from_fn(|at| table[at]), shifted: array::from_fn(|at| shifted[at]) }
});

/// What the hash must not have where a chunk of this length ends: more before the average length than behind it.
pub(super) fn mask(len: usize) -> u64 {
    let (before, behind) = select_masks(AVG_CHUNK, Normalization::Level2);
    if len < AVG_CHUNK { before } else { behind }
}

impl Gear {
    /// The hash behind these bytes too.
    pub(super) fn after(&self, hash: u64, bytes: &[u8]) -> u64 {
        let step = |hash: u64, byte: &u8| (hash << 1).wrapping_add(self.table[usize::from(*byte)]);
        bytes.iter().fold(hash, step)
    }

    /// The hashes behind each of two more bytes, of which the first is shifted by one.
    #[inline]
    fn pair(&self, hash: u64, [first, second]: [u8; 2]) -> (u64, u64) {
        let first = (hash << 2).wrapping_add(self.shifted[usize::from(first)]);
        (first, first.wrapping_add(self.table[usize::from(second)]))
    }

    /// Which of `bytes` is the first of the next chunk. They are looked at in pairs, as FastCDC-2020 does; `hash` is
    /// that of what is before them, and then of them too.
    fn find(&self, hash: &mut u64, mask: u64, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(block) = bytes[at..].first_chunk::<{ LANES * LANE }>() {
            let Some(after) = self.without_end(*hash, mask, block) else { break };
            *hash = after;
            at += block.len();
        }
        for pair in bytes[at..].as_chunks().0 {
            let (first, second) = self.pair(*hash, *pair);
            if first & (mask << 1) == 0 {
                return Some(at);
            }
            if second & mask == 0 {
                return Some(at + 1);
            }
            *hash = second;
            at += 2;
        }
        None
    }

    /// The hash behind a block in which no chunk ends.
    #[expect(clippy::needless_range_loop, reason = "only with indices are the lanes in registers")]
    fn without_end(&self, hash: u64, mask: u64, block: &[u8; LANES * LANE]) -> Option<u64> {
        let (lanes, _) = block.as_chunks::<LANE>();
        let mut hashes = [hash; LANES];
        for lane in 1..LANES {
            hashes[lane] = self.after(0, &lanes[lane - 1][LANE - CUT_WINDOW..]);
        }
        let pairs: [&[[u8; 2]]; LANES] =
            array::from_fn(|lane| &lanes[lane].as_chunks().0[..LANE / 2]);
        for at in 0..LANE / 2 {
            let mut ends = false;
            for lane in 0..LANES {
                let (first, second) = self.pair(hashes[lane], pairs[lane][at]);
                ends |= (first & (mask << 1) == 0) | (second & mask == 0);
                hashes[lane] = second;
            }
            if ends {
                return None;
            }
        }
        Some(hashes[LANES - 1])
    }
}

/// Cuts a blob that arrives in pieces, and digests its chunks.
#[derive(Debug, Default)]
pub struct Cutter {
    chunks: Vec<Chunk>,
    /// The chunk that comes.
    current: DigestBuilder,
    len: usize,
    hash: u64,
    /// A byte that came without the other one of its pair. A chunk that ends there ends before it only if there is
    /// another one.
    held: Option<u8>,
}

impl Cutter {
    /// Adds the next piece.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while let Some(next) = bytes.first() {
            if self.len < MIN_CHUNK {
                let taken = bytes.len().min(MIN_CHUNK - self.len);
                self.take(&bytes[..taken]);
                bytes = &bytes[taken..];
            } else if let Some(held) = self.held.take() {
                match self.end(&[held, *next]) {
                    // It begins the next chunk.
                    Some(0) => self.take(&[held]),
                    Some(_) => {}
                    None => bytes = &bytes[1..],
                }
            } else if bytes.len() == 1 {
                self.held = Some(*next);
                return;
            } else {
                let until = if self.len < AVG_CHUNK { AVG_CHUNK } else { MAX_CHUNK };
                let pairs = &bytes[..bytes.len().min(until - self.len) & !1];
                let taken = self.end(pairs).unwrap_or(pairs.len());
                bytes = &bytes[taken..];
            }
        }
    }

    /// Takes pairs up to where the chunk ends, or all of them.
    fn end(&mut self, pairs: &[u8]) -> Option<usize> {
        let found = GEAR.find(&mut self.hash, mask(self.len), pairs);
        self.take(&pairs[..found.unwrap_or(pairs.len())]);
        if found.is_some() || self.len == MAX_CHUNK {
            self.next();
        }
        found
    }

    fn take(&mut self, bytes: &[u8]) {
        self.current.update(bytes);
        self.len += bytes.len();
    }

    fn next(&mut self) {
        let Digest { hash, size } = mem::take(&mut self.current).finish();
        // No longer than the longest chunk.
        self.chunks.push(Chunk { hash, len: size as u32 });
        (self.len, self.hash) = (0, 0);
    }

    /// Ends the blob, whose digest is this one.
    pub fn finish(mut self, blob: Digest) -> Manifest {
        if let Some(single) = Manifest::single(blob) {
            return single;
        }
        if let Some(held) = self.held.take() {
            self.take(&[held]);
        }
        if self.len > 0 {
            self.next();
        }
        Manifest { blob, chunks: self.chunks }
    }
}

/// Cuts and digests a blob that arrives in pieces.
#[derive(Debug, Default)]
pub struct Chunker {
    cutter: Cutter,
    whole: DigestBuilder,
}

impl Chunker {
    /// A chunker that has seen no bytes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.whole.update(bytes);
        self.cutter.update(bytes);
    }

    /// Ends the blob.
    pub fn finish(self) -> Manifest {
        self.cutter.finish(self.whole.finish())
    }
}
