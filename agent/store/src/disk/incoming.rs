//! Content on its way in: a file in `tmp` that is gone unless it is kept.

use super::{
    behind::Behind,
    cutting::{CUT_BESIDE, Cutting},
    inner::Inner,
    layout::{create_new, remove_file},
    partial::Durable,
    payload::INLINE_MAX,
    pieces::all_pieces,
};
use crate::{
    PartialBlob, StoreError,
    arrival::{Arrival, Verdict},
    error::FileError,
    store::{MAX_BLOB, SKETCHED},
};
use netbuild_core::{
    chunk::{Chunker, Manifest},
    digest::{Digest, DigestBuilder},
    sketch::{Sketch, Sketcher},
};
use std::{
    fmt,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

/// A file in `tmp`, removed when dropped.
#[derive(Debug)]
pub(super) struct TmpFile {
    path: PathBuf,
    file: File,
    behind: Behind,
    synced: bool,
    kept: bool,
}

impl TmpFile {
    pub(super) fn create(path: PathBuf) -> Result<Self, FileError> {
        let file = create_new(&path)?;
        Ok(Self { path, file, behind: Behind::default(), synced: false, kept: false })
    }

    fn at(&self) -> impl FnOnce(io::Error) -> FileError {
        FileError::at(&self.path)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.file.write_all(bytes).map_err(self.at())?;
        self.behind.wrote(&self.file, bytes.len() as u64);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), FileError> {
        self.file.write_all_at(bytes, offset).map_err(self.at())
    }

    /// Makes the bytes durable if the file is to replace another, which may be: after a loss of power
    /// the name must not mean something that was lost.
    pub(super) fn prepare(&mut self, path: &Path) -> Result<(), FileError> {
        self.behind.end().map_err(self.at())?;
        if !self.synced && fs::exists(path).unwrap_or(true) {
            self.file.sync_data().map_err(self.at())?;
            self.synced = true;
        }
        Ok(())
    }

    /// Gives the file its lasting name.
    pub(super) fn keep(mut self, path: &Path) -> Result<(), FileError> {
        self.prepare(path)?;
        fs::rename(&self.path, path).map_err(FileError::at(path))?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for TmpFile {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // Nobody needs these bytes any more, on the disk or not.
        let _ = self.behind.end();
        if let Err(FileError { path, source }) = remove_file(&self.path) {
            // The next opening empties `tmp`.
            tracing::debug!(path = %path.display(), error = %source, "temporary file stays");
        }
    }
}

/// Content that was read to its end and given its name.
pub(super) enum Received {
    Small(Digest, Vec<u8>),
    Large(Manifest, Option<Sketch>, Box<TmpFile>),
}

/// Reads content to its end, refusing what cannot be `expected`.
pub(super) fn receive(
    inner: &Inner,
    content: &mut dyn Read,
    expected: Option<&Digest>,
) -> Result<Received, StoreError> {
    let limit = expected.map_or(MAX_BLOB, |blob| blob.size);
    if limit > MAX_BLOB {
        return Err(StoreError::TooLarge { limit: MAX_BLOB });
    }
    // One byte more tells content that ends from content that goes on.
    let mut content = content.take(limit + 1);
    let mut head = Vec::new();
    content
        .by_ref()
        .take(INLINE_MAX as u64 + 1)
        .read_to_end(&mut head)
        .map_err(StoreError::Content)?;
    let received = if head.len() <= INLINE_MAX {
        Received::Small(Digest::of(&head), head)
    } else {
        receive_large(inner, &head, content, expected.map(|blob| blob.size))?
    };
    let blob = match &received {
        Received::Small(blob, _) => *blob,
        Received::Large(manifest, ..) => manifest.blob(),
    };
    match expected {
        Some(expected) if *expected != blob => Err(StoreError::Mismatch(*expected)),
        None if blob.size > limit => Err(StoreError::TooLarge { limit }),
        _ => Ok(received),
    }
}

fn receive_large(
    inner: &Inner,
    head: &[u8],
    mut content: impl Read,
    expected: Option<u64>,
) -> Result<Received, StoreError> {
    let mut tmp = TmpFile::create(inner.tmp_path())?;
    let mut sketcher = Sketcher::new();
    let sketched = |size: u64| size.max(expected.unwrap_or_default()) <= *SKETCHED.end();
    if sketched(0) {
        sketcher.update(head);
    }
    let mut whole = DigestBuilder::new();
    whole.update(head);
    let mut size = head.len() as u64;
    tmp.write(head)?;
    thread::scope(|scope| {
        let mut cutting = Cutting::begin(head);
        loop {
            let mut piece = cutting.buffer();
            let len = match content.read(&mut piece) {
                Ok(0) => break,
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) => return Err(StoreError::Content(error)),
            };
            let piece = Arc::new(piece);
            if size > CUT_BESIDE {
                cutting.beside(scope);
            }
            cutting.add(&piece, len);
            let bytes = &piece[..len];
            whole.update(bytes);
            size += len as u64;
            if sketched(size) {
                sketcher.update(bytes);
            }
            tmp.write(bytes)?;
            cutting.take_back(piece);
        }
        let sketch = SKETCHED.contains(&size).then(|| sketcher.finish());
        let manifest = cutting.end()?.finish(whole.finish());
        Ok(Received::Large(manifest, sketch, Box::new(tmp)))
    })
}

/// Where the chunks of an arriving blob are put.
#[derive(Debug)]
enum Content {
    Memory(Vec<u8>),
    /// Gone with the process: a blob of one chunk, or one that somebody else is working on.
    Tmp(TmpFile),
    Durable(Durable),
}

impl Content {
    /// Fills `bytes` with what was written at `offset`.
    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::Memory(blob) => {
                let start = offset as usize;
                bytes.copy_from_slice(&blob[start..start + bytes.len()]);
                Ok(())
            }
            Self::Tmp(tmp) => tmp.file.read_exact_at(bytes, offset),
            Self::Durable(durable) => durable.file().read_exact_at(bytes, offset),
        }
    }

    fn at(&self) -> impl FnOnce(io::Error) -> FileError {
        FileError::at(match self {
            Self::Memory(_) => Path::new(""),
            Self::Tmp(tmp) => &tmp.path,
            Self::Durable(durable) => durable.path(),
        })
    }
}

/// A blob that arrives chunk by chunk.
pub(super) struct DiskBlob {
    inner: Arc<Inner>,
    arrival: Arrival,
    content: Content,
}

impl DiskBlob {
    pub(super) fn begin(inner: Arc<Inner>, manifest: &Manifest) -> Result<Self, StoreError> {
        let size = manifest.blob().size;
        let mut arrival = Arrival::new(manifest);
        let content = if size <= INLINE_MAX as u64 {
            Content::Memory(vec![0; size as usize])
        } else if let Some(durable) = Durable::begin_if_many(&inner, &mut arrival)? {
            Content::Durable(durable)
        } else {
            Content::Tmp(TmpFile::create(inner.tmp_path())?)
        };
        Ok(Self { inner, arrival, content })
    }

    /// The bytes are not those of the blob. Says whose fault it is: the manifest's, unless what was
    /// written does not come back.
    fn refuse(self) -> StoreError {
        let Self { arrival, content, .. } = self;
        let blob = arrival.blob();
        let intact = arrival.intact(|bytes, offset| content.read(bytes, offset));
        match intact.map_err(content.at()) {
            Ok(true) => {
                if let Content::Durable(durable) = content {
                    durable.discard();
                }
                StoreError::Mismatch(blob)
            }
            // The next arrival of the blob finds which chunks are still good.
            Ok(false) => {
                let why = "what was written does not come back";
                content.at()(io::Error::new(io::ErrorKind::InvalidData, why)).into()
            }
            Err(error) => error.into(),
        }
    }
}

impl PartialBlob for DiskBlob {
    fn has(&self, index: usize) -> bool {
        self.arrival.has(index)
    }

    fn write_chunk(&mut self, index: usize, bytes: &[u8]) -> Result<(), StoreError> {
        let Some(offset) = self.arrival.admit(index, bytes)? else {
            return Ok(());
        };
        match &mut self.content {
            Content::Memory(blob) => {
                let start = offset as usize;
                blob[start..start + bytes.len()].copy_from_slice(bytes);
            }
            Content::Tmp(tmp) => tmp.write_at(bytes, offset)?,
            Content::Durable(durable) => durable.write(index, bytes, offset)?,
        }
        self.arrival.wrote(index, bytes);
        // The chunk is here, whatever becomes of this; what cannot be read back fails the end.
        let _ = self.arrival.catch_up(|bytes, offset| self.content.read(bytes, offset));
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), StoreError> {
        self.arrival.complete()?;
        let verdict = self.arrival.judge(|bytes, offset| self.content.read(bytes, offset));
        let verdict = verdict.map_err(self.content.at())?;
        if verdict == Verdict::Wrong {
            return Err(self.refuse());
        }
        let Self { inner, arrival, content } = *self;
        match content {
            Content::Memory(bytes) => inner.keep_small(arrival.blob(), &bytes),
            Content::Tmp(mut tmp) => {
                let manifest = own_cut(&arrival, verdict, &tmp.path)?;
                tmp.prepare(&inner.layout.blob(&manifest.blob().hash))?;
                inner.keep_large(&manifest, arrival.sketch(), |path| tmp.keep(path))
            }
            Content::Durable(mut durable) => {
                let manifest = own_cut(&arrival, verdict, durable.path())?;
                durable.prepare(&inner.layout.blob(&manifest.blob().hash))?;
                inner.keep_large(&manifest, arrival.sketch(), |path| durable.keep(path))
            }
        }
    }

    fn discard(self: Box<Self>) {
        if let Content::Durable(durable) = self.content {
            durable.discard();
        }
    }
}

/// The chunks to keep of a blob that has arrived: those by which it came when they may be ours,
/// else those of our own cut. Another list would be as true, but others that hold the blob would
/// have none of its chunks.
fn own_cut(arrival: &Arrival, verdict: Verdict, path: &Path) -> Result<Manifest, StoreError> {
    if verdict == Verdict::Right {
        return Ok(arrival.manifest().clone());
    }
    let manifest = File::open(path).and_then(|mut file| cut(&mut file));
    let manifest = manifest.map_err(FileError::at(path))?;
    if manifest.blob() == arrival.blob() {
        Ok(manifest)
    } else {
        Err(StoreError::Mismatch(arrival.blob()))
    }
}

/// Reads and cuts what is left of a file.
pub(super) fn cut(file: &mut File) -> io::Result<Manifest> {
    let mut chunker = Chunker::new();
    all_pieces(file, |piece| chunker.update(piece))?;
    Ok(chunker.finish())
}

impl fmt::Debug for DiskBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskBlob")
            .field("blob", &self.arrival.blob())
            .field("content", &self.content)
            .finish_non_exhaustive()
    }
}
