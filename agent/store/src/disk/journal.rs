//! The journal: numbered segment files of frames, written at one end, read anywhere.
//!
//! It is the truth about records and small blobs. Nothing in it is ever changed, only added; a
//! segment whose frames are dead or also lie elsewhere is removed as a whole.

use super::{
    frame::{self, Frame, HEADER, Kind, MAX_PAYLOAD, OVERLAP},
    layout::{create_new, open_or_create, remove_file, sync_dir},
};
use crate::error::FileError;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

/// A segment that is at least this long, in bytes, gets no more frames: little enough to be written
/// anew when most of it is dead, enough that there are not thousands of them.
pub(super) const MAX_SEGMENT: u64 = 64 << 20;
/// Bytes of a segment that are read at once when it is read from end to end.
const WINDOW: usize = 4 << 20;
/// Segments kept open for reading. More are opened at need; file descriptors are scarce.
const MAX_OPEN: usize = 64;

/// Where a frame lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Location {
    pub(super) segment: u32,
    /// Offset of the frame in bytes.
    pub(super) offset: u64,
    /// Length of the payload in bytes.
    pub(super) len: u32,
}

/// A place between two frames.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct Position {
    pub(super) segment: u32,
    pub(super) offset: u64,
}

/// The segments, for reading.
#[derive(Debug)]
pub(super) struct Segments {
    dir: PathBuf,
    open: Mutex<BTreeMap<u32, Arc<File>>>,
}

/// The end of the last segment, for writing.
#[derive(Debug)]
pub(super) struct Tail {
    segment: u32,
    file: Arc<File>,
    end: u64,
}

/// What a replay found.
#[derive(Debug)]
pub(super) struct Replayed {
    /// Damaged stretches.
    pub(super) damaged: u64,
    /// End of the last intact frame of the last segment.
    pub(super) end: Position,
}

impl Segments {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, open: Mutex::default() }
    }

    fn path(&self, segment: u32) -> PathBuf {
        self.dir.join(format!("{segment:08}.log"))
    }

    /// Numbers and lengths of the segments, in their order.
    pub(super) fn list(&self) -> Result<BTreeMap<u32, u64>, FileError> {
        let at = || FileError::at(&self.dir);
        let mut segments = BTreeMap::new();
        for entry in fs::read_dir(&self.dir).map_err(at())? {
            let entry = entry.map_err(at())?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".log")?.parse().ok());
            // A foreign file that merely parses, say `1.log`, is not the segment of that number.
            if let Some(number) = number.filter(|n| self.path(*n).file_name() == Some(&name)) {
                segments.insert(number, entry.metadata().map_err(at())?.len());
            }
        }
        Ok(segments)
    }

    /// Visits every intact frame from `from` on.
    pub(super) fn replay(
        &self,
        from: Position,
        mut visit: impl FnMut(Location, Frame<'_>),
    ) -> Result<Replayed, FileError> {
        let (mut damaged, mut end) = (0, from);
        for (segment, len) in self.list()?.range(from.segment..) {
            let start = if *segment == from.segment { from.offset } else { 0 };
            end = Position { segment: *segment, offset: start };
            if *len <= start {
                continue;
            }
            let mut reader = SegmentReader::open(self, *segment, start)?;
            while reader.advance(&mut visit)? {}
            damaged += reader.damaged;
            end.offset = reader.end;
        }
        Ok(Replayed { damaged, end })
    }

    /// Removes a segment that is not written to any more. Who reads it goes on.
    pub(super) fn remove(&self, segment: u32) -> Result<(), FileError> {
        // Under the lock, so that nobody keeps it open, and its space taken, for later readers.
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        remove_file(&self.path(segment))?;
        open.remove(&segment);
        sync_dir(&self.dir)
    }

    /// The payload of the frame at `location`; `None` when no intact frame of that kind is there.
    pub(super) fn read(
        &self,
        location: Location,
        kind: Kind,
    ) -> Result<Option<Vec<u8>>, FileError> {
        if location.len as usize > MAX_PAYLOAD {
            return Ok(None);
        }
        let path = self.path(location.segment);
        let mut bytes = vec![0; HEADER + location.len as usize];
        let read = self
            .file(location.segment)
            .and_then(|file| file.read_exact_at(&mut bytes, location.offset));
        match read {
            Ok(()) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::UnexpectedEof
                        | io::ErrorKind::NotFound
                        | io::ErrorKind::InvalidInput
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(FileError::at(&path)(error)),
        }
        let fits = frame::parse(&bytes)
            .is_some_and(|frame| frame.kind == kind && frame.payload.len() == bytes.len() - HEADER);
        if fits {
            bytes.drain(..HEADER);
        }
        Ok(fits.then_some(bytes))
    }

    /// Whether a frame of that kind and length seems to be at `location`, by its header.
    pub(super) fn has_frame(&self, location: Location, kind: Kind) -> Result<bool, FileError> {
        let Location { segment, offset, len } = location;
        let mut header = [0; HEADER];
        let read = self.file(segment).and_then(|file| {
            let fits = offset.checked_add(HEADER as u64 + u64::from(len));
            let whole = fits.is_some_and(|end| file.metadata().is_ok_and(|meta| meta.len() >= end));
            if whole { file.read_exact_at(&mut header, offset).map(|()| true) } else { Ok(false) }
        });
        match read {
            Ok(whole) => Ok(whole && frame::is_header(&header, kind, len)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(FileError::at(&self.path(segment))(error)),
        }
    }

    fn file(&self, segment: u32) -> io::Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(&segment) {
            return Ok(file.clone());
        }
        let file = Arc::new(File::open(self.path(segment))?);
        if open.len() >= MAX_OPEN {
            open.pop_first();
        }
        open.insert(segment, file.clone());
        Ok(file)
    }

    /// Opens the end for writing, cutting what lies behind `end`. Says how many bytes were cut.
    pub(super) fn tail(&self, end: Position) -> Result<(Tail, u64), FileError> {
        let segment = end.segment.max(1);
        let path = self.path(segment);
        let file = open_or_create(&path)?;
        let len = file.metadata().map_err(FileError::at(&path))?.len();
        if len > end.offset {
            file.set_len(end.offset).map_err(FileError::at(&path))?;
        }
        let tail = Tail { segment, file: Arc::new(file), end: end.offset };
        Ok((tail, len.saturating_sub(end.offset)))
    }

    /// The end of a journal that is not written to.
    pub(super) fn tail_to_read(&self, end: Position) -> Result<Tail, FileError> {
        let segment = end.segment.max(1);
        let path = self.path(segment);
        let file = File::open(&path).map_err(FileError::at(&path))?;
        Ok(Tail { segment, file: Arc::new(file), end: end.offset })
    }

    /// Ends the segment of `tail` if it is at least `full` bytes long; returns the file that was
    /// ended.
    pub(super) fn rotate(
        &self,
        tail: &mut Tail,
        full: u64,
    ) -> Result<Option<Arc<File>>, FileError> {
        if tail.end < full {
            return Ok(None);
        }
        let segment = tail.segment + 1;
        let new = Arc::new(create_new(&self.path(segment))?);
        tail.segment = segment;
        tail.end = 0;
        Ok(Some(std::mem::replace(&mut tail.file, new)))
    }

    /// Adds a frame whose payload is `head` followed by `body`.
    pub(super) fn append(
        &self,
        tail: &mut Tail,
        kind: Kind,
        head: &[u8],
        body: &[u8],
    ) -> Result<Location, FileError> {
        let frame = frame::encode(kind, head, body);
        if let Err(error) = tail.file.write_all_at(&frame, tail.end) {
            // The next frame is written over what came to be written of this one; cutting it here
            // only saves a reader the search. The first error is the one to report.
            let _ = tail.file.set_len(tail.end);
            return Err(FileError::at(&self.path(tail.segment))(error));
        }
        let location = Location {
            segment: tail.segment,
            offset: tail.end,
            len: (frame.len() - HEADER) as u32,
        };
        tail.end += frame.len() as u64;
        Ok(location)
    }
}

/// Reads the frames of one segment from end to end, a window at a time.
#[derive(Debug)]
pub(super) struct SegmentReader {
    segment: u32,
    path: PathBuf,
    file: File,
    window: Vec<u8>,
    /// Offset from which on frames were not visited yet.
    next: u64,
    /// End of the last intact frame.
    pub(super) end: u64,
    /// Damaged stretches so far.
    pub(super) damaged: u64,
}

impl SegmentReader {
    pub(super) fn open(segments: &Segments, segment: u32, start: u64) -> Result<Self, FileError> {
        let path = segments.path(segment);
        let file = File::open(&path).map_err(FileError::at(&path))?;
        Ok(Self { segment, path, file, window: Vec::new(), next: start, end: start, damaged: 0 })
    }

    /// Visits the frames of the next window; says whether there may be more.
    pub(super) fn advance(
        &mut self,
        mut visit: impl FnMut(Location, Frame<'_>),
    ) -> Result<bool, FileError> {
        self.window.clear();
        // A segment of ours is never longer, whatever the file says.
        let limit = (MAX_SEGMENT + OVERLAP as u64).saturating_sub(self.next);
        let read = self.file.seek(SeekFrom::Start(self.next)).and_then(|_| {
            let most = limit.min(WINDOW as u64);
            self.file.by_ref().take(most).read_to_end(&mut self.window)
        });
        read.map_err(FileError::at(&self.path))?;
        let more = self.window.len() == WINDOW;
        let until = if more { WINDOW - OVERLAP } else { self.window.len() };
        let (segment, start) = (self.segment, self.next);
        let scanned = frame::scan(&self.window, until, |at, frame| {
            let offset = start + at as u64;
            visit(Location { segment, offset, len: frame.payload.len() as u32 }, frame);
        });
        if scanned.end > 0 {
            self.end = start + scanned.end as u64;
        }
        self.next = start + scanned.next as u64;
        self.damaged += scanned.damaged;
        Ok(more)
    }
}

impl Tail {
    pub(super) fn position(&self) -> Position {
        Position { segment: self.segment, offset: self.end }
    }

    /// The file being written, to be synced without holding up writers.
    pub(super) fn file(&self) -> Arc<File> {
        self.file.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_again_across_segments() {
        let dir = tempfile::tempdir().unwrap();
        let segments = Segments::new(dir.path().to_owned());
        let (mut tail, _) = segments.tail(Position::default()).unwrap();
        let first = segments.append(&mut tail, Kind::Blob, b"a", b"b").unwrap();
        assert!(segments.rotate(&mut tail, MAX_SEGMENT).unwrap().is_none());
        tail.end = MAX_SEGMENT;
        assert!(segments.rotate(&mut tail, MAX_SEGMENT).unwrap().is_some());
        let second = segments.append(&mut tail, Kind::Record, b"", b"c").unwrap();

        let mut seen = Vec::new();
        let replayed = segments
            .replay(Position::default(), |at, frame| {
                seen.push((at, frame.payload.to_vec()));
            })
            .unwrap();
        assert_eq!(seen, [(first, b"ab".to_vec()), (second, b"c".to_vec())]);
        assert_eq!((replayed.end, replayed.damaged), (tail.position(), 0));
        assert_eq!(segments.read(first, Kind::Blob).unwrap().unwrap(), b"ab");
        assert_eq!(segments.read(first, Kind::Record).unwrap(), None);
    }

    #[test]
    fn a_location_that_holds_something_else_is_a_miss() {
        let dir = tempfile::tempdir().unwrap();
        let segments = Segments::new(dir.path().to_owned());
        let (mut tail, _) = segments.tail(Position::default()).unwrap();
        let good = segments.append(&mut tail, Kind::Blob, b"", b"abc").unwrap();
        for (segment, offset, len) in
            [(1, 1, 3), (1, 0, 2), (1, 0, u32::MAX), (9, 0, 3), (1, u64::MAX >> 1, 3)]
        {
            let bad = Location { segment, offset, len };
            assert_eq!(segments.read(bad, Kind::Blob).unwrap(), None, "{bad:?}");
        }
        assert!(segments.read(good, Kind::Blob).unwrap().is_some());
    }
}
