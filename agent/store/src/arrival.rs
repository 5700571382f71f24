//! Which chunks of an arriving blob are here, where each belongs, and the check of the whole.

use crate::{StoreError, store::SKETCHED};
use netbuild_core::{
    chunk::{CUT_WINDOW, Chunk, Manifest, may_end},
    digest::{Digest, DigestBuilder, Hash},
    sketch::{Sketch, Sketcher},
};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Chunks that came out of order and are read back, at most, for each one that is written. More
/// than one, so that the whole catches up; few, so that no single write waits long.
const CATCH_UP: usize = 2;

/// One place of an arriving blob.
#[derive(Debug)]
struct Place {
    offset: u64,
    chunk: Chunk,
    came: AtomicBool,
}

/// The places of an arriving blob; shared with those who read what has come so far.
#[derive(Debug)]
pub(crate) struct Places {
    blob: Digest,
    /// In the order of the blob.
    places: Vec<Place>,
    /// Their numbers in the order of their hashes.
    by_hash: Vec<u32>,
}

impl Places {
    fn new(manifest: &Manifest) -> Self {
        let place = |(offset, chunk)| Place { offset, chunk, came: AtomicBool::new(false) };
        let places: Vec<Place> = manifest.offsets().map(place).collect();
        let mut by_hash: Vec<u32> = (0..places.len() as u32).collect();
        by_hash.sort_unstable_by_key(|index| places[*index as usize].chunk.hash);
        Self { blob: manifest.blob(), places, by_hash }
    }

    /// All chunks, and which of them have come.
    pub(crate) fn so_far(&self) -> Option<(Manifest, Vec<bool>)> {
        let chunks = self.places.iter().map(|place| place.chunk).collect();
        // It was one when the places were made of it.
        let manifest = Manifest::new(self.blob, chunks).ok()?;
        Some((manifest, (0..self.places.len()).map(|index| self.has(index)).collect()))
    }

    /// Whether the chunk at this place has come.
    pub(crate) fn has(&self, index: usize) -> bool {
        self.places.get(index).is_some_and(|place| place.came.load(Ordering::Acquire))
    }

    /// Whether nothing has come yet.
    pub(crate) fn is_empty(&self) -> bool {
        (0..self.places.len()).all(|index| !self.has(index))
    }

    /// Where a chunk that has come lies, in bytes from the start.
    pub(crate) fn find(&self, chunk: &Chunk) -> Option<u64> {
        let hash_at = |index: &u32| self.places[*index as usize].chunk.hash;
        let first = self.by_hash.partition_point(|index| hash_at(index) < chunk.hash);
        let equal = self.by_hash[first..].iter().take_while(|index| hash_at(index) == chunk.hash);
        let mut equal = equal.map(|index| &self.places[*index as usize]);
        equal.find(|at| at.chunk == *chunk && at.came.load(Ordering::Acquire)).map(|at| at.offset)
    }
}

/// Bookkeeping of one blob that arrives chunk by chunk.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    manifest: Manifest,
    places: Arc<Places>,
    whole: Whole,
}

impl Arrival {
    pub(crate) fn new(manifest: &Manifest) -> Self {
        Self {
            manifest: manifest.clone(),
            places: Arc::new(Places::new(manifest)),
            whole: Whole::new(manifest.blob().size),
        }
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(crate) fn blob(&self) -> Digest {
        self.manifest.blob()
    }

    pub(crate) fn places(&self) -> &Arc<Places> {
        &self.places
    }

    pub(crate) fn has(&self, index: usize) -> bool {
        self.places.has(index)
    }

    fn place(&self, index: usize) -> Result<&Place, StoreError> {
        let blob = self.blob();
        self.places.places.get(index).ok_or(StoreError::NoSuchChunk { blob, index })
    }

    /// Checks a chunk and says at which offset to write it; `None` when it is already here.
    pub(crate) fn admit(&self, index: usize, bytes: &[u8]) -> Result<Option<u64>, StoreError> {
        let place = self.place(index)?;
        let fits = bytes.len() as u64 == u64::from(place.chunk.len);
        if !fits || Hash::of(bytes) != place.chunk.hash {
            return Err(StoreError::ChunkMismatch { blob: self.blob(), index });
        }
        Ok((!self.has(index)).then_some(place.offset))
    }

    /// Takes a chunk that an earlier arrival of the blob is said to have written, if it is what it
    /// should be. Each chunk is asked for once, in the order of the blob.
    pub(crate) fn resume(
        &mut self,
        index: usize,
        read: impl FnOnce(&mut [u8], u64) -> io::Result<()>,
    ) -> io::Result<bool> {
        let Some(place) = self.places.places.get(index) else { return Ok(false) };
        let mut bytes = vec![0; place.chunk.len as usize];
        match read(&mut bytes, place.offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            read => read?,
        }
        let good = Hash::of(&bytes) == place.chunk.hash;
        if good {
            self.wrote(index, &bytes);
        }
        Ok(good)
    }

    /// Notes that an admitted chunk was written.
    pub(crate) fn wrote(&mut self, index: usize, bytes: &[u8]) {
        if let Some(place) = self.places.places.get(index) {
            place.came.store(true, Ordering::Release);
            if self.whole.next == index {
                self.whole.take(bytes);
            }
        }
    }

    /// Lets the whole catch up with what came out of order, by a few chunks that `read` reads back.
    pub(crate) fn catch_up(
        &mut self,
        read: impl FnMut(&mut [u8], u64) -> io::Result<()>,
    ) -> io::Result<()> {
        self.read_back(CATCH_UP, read)
    }

    fn read_back(
        &mut self,
        most: usize,
        mut read: impl FnMut(&mut [u8], u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        for _ in 0..most {
            let next = self.places.places.get(self.whole.next);
            let Some(place) = next.filter(|place| place.came.load(Ordering::Acquire)) else {
                break;
            };
            bytes.resize(place.chunk.len as usize, 0);
            read(&mut bytes, place.offset)?;
            self.whole.take(&bytes);
        }
        Ok(())
    }

    /// The sketch of a blob that was judged, if its size is one that is sketched.
    pub(crate) fn sketch(&self) -> Option<Sketch> {
        self.whole.sketcher.as_ref().map(Sketcher::finish)
    }

    /// Fails while chunks are missing.
    pub(crate) fn complete(&self) -> Result<(), StoreError> {
        match (0..self.places.places.len()).filter(|index| !self.has(*index)).count() {
            0 => Ok(()),
            missing => Err(StoreError::Incomplete { blob: self.blob(), missing }),
        }
    }

    /// Whether every chunk of a complete blob is still as it was written.
    pub(crate) fn intact(
        &self,
        mut read: impl FnMut(&mut [u8], u64) -> io::Result<()>,
    ) -> io::Result<bool> {
        let mut bytes = Vec::new();
        for Place { offset, chunk, .. } in &self.places.places {
            bytes.resize(chunk.len as usize, 0);
            read(&mut bytes, *offset)?;
            if Hash::of(&bytes) != chunk.hash {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The verdict on a complete blob. What has not been seen in order is read back by `read`.
    pub(crate) fn judge(
        &mut self,
        read: impl FnMut(&mut [u8], u64) -> io::Result<()>,
    ) -> io::Result<Verdict> {
        self.read_back(usize::MAX, read)?;
        Ok(if self.whole.seen.finish() != self.blob() {
            Verdict::Wrong
        } else if self.whole.foreign {
            Verdict::CutElsewhere
        } else {
            Verdict::Right
        })
    }
}

/// What a complete blob turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// The bytes are those of the blob, and every chunk ends where our own cut may end one.
    Right,
    /// The bytes are those of the blob, but the chunks are not ours.
    CutElsewhere,
    /// The bytes are not those of the blob.
    Wrong,
}

/// The whole of an arriving blob, as far as it has been seen from its start without a gap.
#[derive(Clone, Debug, Default)]
struct Whole {
    seen: DigestBuilder,
    /// The chunk that is taken next.
    next: usize,
    /// Length of the chunk that was taken last, and its last bytes.
    last: (usize, Vec<u8>),
    /// Whether a chunk has ended where our own cut ends none.
    foreign: bool,
    sketcher: Option<Sketcher>,
}

impl Whole {
    fn new(size: u64) -> Self {
        Self { sketcher: SKETCHED.contains(&size).then(Sketcher::new), ..Self::default() }
    }

    fn take(&mut self, bytes: &[u8]) {
        let (len, end) = &mut self.last;
        if self.next > 0 && !bytes.first().is_some_and(|next| may_end(*len, end, *next)) {
            self.foreign = true;
        }
        *len = bytes.len();
        end.clear();
        end.extend_from_slice(&bytes[bytes.len().saturating_sub(CUT_WINDOW - 1)..]);
        self.seen.update(bytes);
        if let Some(sketcher) = &mut self.sketcher {
            sketcher.update(bytes);
        }
        self.next += 1;
    }
}
