//! Checking what is in a data directory against its names, sizes and places.

use super::{
    entry::{BlobEntry, Place, RecordEntry},
    frame::Kind,
    inner::{FileId, Inner},
    payload::{RecordHead, split_blob},
    pieces::each_piece,
    recover::entries,
};
use crate::{
    Cursor, Fault, Finding, Inspect, Inspected, Stage, StoreError, Subject, error::FileError,
    store::SKETCHED,
};
use netbuild_core::{
    chunk::{Chunker, MAX_CHUNK, Manifest},
    digest::{Digest, DigestBuilder, Hash},
    key::ActionKey,
    sketch::{Sketch, Sketcher},
};
use netbuild_proto::record::{SealedRecord, sum_of};
use std::{
    fs::{self, File, Metadata},
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

/// Things that one step looks at: enough that finding them costs little beside, few enough that a
/// step is soon over.
const BATCH: usize = 256;

/// What a check of one thing comes to.
type Checked = Result<Option<Finding>, StoreError>;

impl Inner {
    /// Looks at what comes after `from`. When `pace` breaks off, the next step begins here again.
    pub(super) fn inspect(
        &self,
        from: &Cursor,
        how: &Inspect<'_>,
    ) -> Result<Inspected, StoreError> {
        let done = match from.stage {
            Stage::Files => self.inspect_files(from, how)?,
            Stage::Blobs => self.inspect_blobs(from, how)?,
            Stage::Records => self.inspect_records(from, how)?,
        };
        Ok(done.unwrap_or_else(|| Inspected { next: Some(*from), ..Inspected::default() }))
    }

    fn inspect_files(
        &self,
        from: &Cursor,
        how: &Inspect<'_>,
    ) -> Result<Option<Inspected>, StoreError> {
        let Some(listed) = self.list_files(from.after)? else {
            let next = Some(Cursor { stage: Stage::Blobs, after: None });
            return Ok(Some(Inspected { next, ..Inspected::default() }));
        };
        let Some(mut findings) = each(how, &listed.blobs, |hash| self.check_file(hash, how))?
        else {
            return Ok(None);
        };
        findings.extend(listed.strays.into_iter().map(|path| {
            Finding::new(Subject::File(path), Fault::Stray, "not a blob of netbuild".to_owned())
        }));
        let next = Some(Cursor { stage: Stage::Files, after: Some(listed.upto) });
        let blobs = listed.blobs.len() as u64;
        Ok(Some(Inspected { next, blobs, records: 0, findings }))
    }

    /// The blob files after a name, of one directory; `None` when there are no more.
    fn list_files(&self, after: Option<Hash>) -> Result<Option<Listed>, StoreError> {
        let first = after.map_or(0, |hash| hash.0[0]);
        for number in first..=u8::MAX {
            let dir = self.layout.blobs().join(format!("{number:02x}"));
            let mut listed = Listed::default();
            let found = match entries(&dir) {
                Ok(found) => found,
                Err(error) if error.source.kind() == io::ErrorKind::NotFound => continue,
                Err(error) if error.source.kind() == io::ErrorKind::NotADirectory => vec![dir],
                Err(error) => return Err(error.into()),
            };
            // Strays have no place in the order, and come with the first blobs of their directory.
            let is_first = after.is_none_or(|after| after.0[0] != number);
            for path in found {
                let name = path.file_name().and_then(|name| name.to_str()?.parse::<Hash>().ok());
                match name.filter(|hash| self.layout.blob(hash) == path) {
                    Some(hash) if after.is_none_or(|after| hash > after) => listed.blobs.push(hash),
                    None if is_first => listed.strays.push(path),
                    _ => {}
                }
            }
            listed.blobs.sort_unstable();
            let more = listed.blobs.len() > BATCH;
            listed.blobs.truncate(BATCH);
            let mut end = [u8::MAX; 32];
            end[0] = number;
            listed.upto = match listed.blobs.last() {
                Some(last) if more => *last,
                _ => Hash(end),
            };
            if !listed.blobs.is_empty() || !listed.strays.is_empty() {
                return Ok(Some(listed));
            }
        }
        Ok(None)
    }

    fn check_file(&self, hash: &Hash, how: &Inspect<'_>) -> Checked {
        let path = self.layout.blob(hash);
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            // It went meanwhile; if it should not have, the index tells.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(FileError::at(&path)(error).into()),
        };
        if !meta.is_file() {
            let detail = "it has the name of a blob, and is no file".to_owned();
            return Ok(Some(Finding::new(Subject::File(path), Fault::Stray, detail)));
        }
        let blob = Digest { hash: *hash, size: meta.len() };
        let entry = self.entry_of(hash);
        if let Some(size) = entry.map(|entry| entry.size).filter(|size| *size != meta.len()) {
            let detail = format!("its file has {} bytes", meta.len());
            let named = Digest { hash: *hash, size };
            return Ok(Some(self.damaged_file(named, &meta, detail, how)));
        }
        // What nobody knows is not taken in unread.
        if how.deep || (entry.is_none() && how.repair) {
            match self.read_file(blob, &path, how) {
                Ok(Some(true)) => {}
                Ok(Some(false)) => {
                    let detail = "its bytes are others".to_owned();
                    return Ok(Some(self.damaged_file(blob, &meta, detail, how)));
                }
                Ok(None) => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) if is_refusal(&error) => return Err(FileError::at(&path)(error).into()),
                Err(error) => {
                    let detail = format!("it cannot be read: {error}");
                    return Ok(Some(self.damaged_file(blob, &meta, detail, how)));
                }
            }
        }
        if entry.is_some() {
            return Ok(None);
        }
        let detail = "it is here, but the index does not have it".to_owned();
        let mut finding = Finding::new(Subject::Blob(blob), Fault::Orphaned, detail);
        if how.repair {
            self.adopt(&blob);
            finding.mended = self.index.blob(hash).is_some();
        }
        Ok(Some(finding))
    }

    /// What the index says of a blob with a file. A file that has just got its name is waited for.
    fn entry_of(&self, hash: &Hash) -> Option<BlobEntry> {
        self.index.blob(hash).or_else(|| {
            let _catalog = self.catalog();
            self.index.blob(hash)
        })
    }

    fn damaged_file(
        &self,
        blob: Digest,
        meta: &Metadata,
        detail: String,
        how: &Inspect<'_>,
    ) -> Finding {
        let mut finding = Finding::new(Subject::Blob(blob), Fault::Damaged, detail);
        if how.repair {
            self.quarantine(&blob.hash, FileId::of(meta));
            finding.mended = self.index.blob(&blob.hash).is_none();
        }
        finding
    }

    /// Whether the bytes of a file are those of the blob; `None` when it was broken off. On the way,
    /// with `repair`, what the index has lost of the blob is made again.
    fn read_file(&self, blob: Digest, path: &Path, how: &Inspect<'_>) -> io::Result<Option<bool>> {
        let file = File::open(path)?;
        let mut parts = if how.repair { Parts::lacking(self, &blob) } else { Parts::default() };
        let mut digest = DigestBuilder::new();
        let read = each_piece(file, |piece| {
            digest.update(piece);
            parts.update(piece);
            (how.pace)(piece.len() as u64)
        })?;
        if read.is_break() {
            return Ok(None);
        }
        let good = digest.finish() == blob;
        if good {
            parts.keep(self, &blob);
        }
        Ok(Some(good))
    }

    fn inspect_blobs(
        &self,
        from: &Cursor,
        how: &Inspect<'_>,
    ) -> Result<Option<Inspected>, StoreError> {
        let page = self.index.blobs_after(from.after.as_ref(), BATCH);
        let Some((last, _)) = page.last() else {
            let next = Some(Cursor { stage: Stage::Records, after: None });
            return Ok(Some(Inspected { next, ..Inspected::default() }));
        };
        let next = Some(Cursor { after: Some(*last), ..*from });
        let check = |(hash, entry): &(Hash, BlobEntry)| self.check_blob(hash, entry, how);
        let Some(findings) = each(how, &page, check)? else { return Ok(None) };
        // Those with files were counted as such.
        let small = page.iter().filter(|(_, entry)| entry.place != Place::File).count();
        Ok(Some(Inspected { next, blobs: small as u64, records: 0, findings }))
    }

    fn check_blob(&self, hash: &Hash, entry: &BlobEntry, how: &Inspect<'_>) -> Checked {
        let blob = Digest { hash: *hash, size: entry.size };
        let (fault, detail) = match entry.place {
            Place::File => {
                let path = self.layout.blob(hash);
                if fs::symlink_metadata(&path).is_ok() {
                    return Ok(None);
                }
                (Fault::Missing, format!("there is no `{}`", path.display()))
            }
            Place::Journal(at) => {
                let good = if how.deep {
                    let payload = self.segments.read(at, Kind::Blob)?;
                    let bytes = payload.as_deref().and_then(split_blob);
                    bytes.is_some_and(|(_, bytes)| blob.matches(bytes))
                } else {
                    self.segments.has_frame(at, Kind::Blob)?
                };
                if good {
                    return Ok(None);
                }
                (Fault::Damaged, format!("segment {} of the journal, at {}", at.segment, at.offset))
            }
        };
        if !self.still(|| self.index.blob(hash) == Some(*entry)) {
            return Ok(None);
        }
        let mut finding = Finding::new(Subject::Blob(blob), fault, detail);
        if how.repair {
            match entry.place {
                Place::File => self.lost_file(hash),
                Place::Journal(at) => self.lost_small(hash, at),
            }
            finding.mended = self.index.blob(hash) != Some(*entry);
        }
        Ok(Some(finding))
    }

    fn inspect_records(
        &self,
        from: &Cursor,
        how: &Inspect<'_>,
    ) -> Result<Option<Inspected>, StoreError> {
        let after = from.after.map(|hash| ActionKey(hash.0));
        let page = self.index.records_after(after.as_ref(), BATCH);
        let Some((last, _)) = page.last() else {
            return Ok(Some(Inspected::default()));
        };
        let next = Some(Cursor { after: Some(Hash(last.0)), ..*from });
        let check = |(key, entry): &(ActionKey, RecordEntry)| self.check_record(key, entry, how);
        let Some(findings) = each(how, &page, check)? else { return Ok(None) };
        Ok(Some(Inspected { next, blobs: 0, records: page.len() as u64, findings }))
    }

    fn check_record(&self, key: &ActionKey, entry: &RecordEntry, how: &Inspect<'_>) -> Checked {
        let at = entry.location;
        let good = if how.deep {
            let payload = self.segments.read(at, Kind::Record)?;
            let sealed = payload.as_deref().and_then(RecordHead::split);
            sealed.is_some_and(|(_, bytes)| {
                sum_of(&Hash::of(bytes)) == entry.sum
                    && SealedRecord::open(bytes).is_ok_and(|sealed| sealed.record().key == *key)
            })
        } else {
            self.segments.has_frame(at, Kind::Record)?
        };
        if good || !self.still(|| self.index.record(key) == Some(*entry)) {
            return Ok(None);
        }
        let detail = format!("segment {} of the journal, at {}", at.segment, at.offset);
        let mut finding = Finding::new(Subject::Record(*key), Fault::Damaged, detail);
        if how.repair {
            self.lost_record(key, at);
            finding.mended = self.index.record(key) != Some(*entry);
        }
        Ok(Some(finding))
    }

    /// Whether an entry that was found wrong is there when nobody is changing it.
    fn still(&self, there: impl FnOnce() -> bool) -> bool {
        let _catalog = self.catalog();
        there()
    }
}

/// Blob files of one directory.
struct Listed {
    /// In order.
    blobs: Vec<Hash>,
    strays: Vec<PathBuf>,
    /// Up to where that is all there is.
    upto: Hash,
}

impl Default for Listed {
    fn default() -> Self {
        Self { blobs: Vec::new(), strays: Vec::new(), upto: Hash([0; 32]) }
    }
}

/// What the index has of a blob beside its place, and has lost.
#[derive(Default)]
struct Parts {
    chunker: Option<Chunker>,
    sketcher: Option<Sketcher>,
}

impl Parts {
    fn lacking(inner: &Inner, blob: &Digest) -> Self {
        let cut = blob.size > MAX_CHUNK as u64 && inner.index.manifest(*blob).is_none();
        let sketch = SKETCHED.contains(&blob.size) && inner.index.sketch(&blob.hash).is_none();
        Self { chunker: cut.then(Chunker::new), sketcher: sketch.then(Sketcher::new) }
    }

    fn update(&mut self, bytes: &[u8]) {
        if let Some(chunker) = &mut self.chunker {
            chunker.update(bytes);
        }
        if let Some(sketcher) = &mut self.sketcher {
            sketcher.update(bytes);
        }
    }

    fn keep(self, inner: &Inner, blob: &Digest) {
        let manifest: Option<Manifest> = self.chunker.map(Chunker::finish);
        let sketch: Option<Sketch> = self.sketcher.map(|sketcher| sketcher.finish());
        if let Some(manifest) = manifest {
            // It can be made again; a failure has marked the index already.
            let _ = inner.index.put_manifest(&manifest);
        }
        if let Some(sketch) = sketch {
            inner.keep_sketch(blob, &sketch);
        }
    }
}

/// Whether a file cannot be read for a reason that says nothing about its bytes.
fn is_refusal(error: &io::Error) -> bool {
    use rustix::io::Errno;
    error.kind() == io::ErrorKind::PermissionDenied
        || [Errno::MFILE, Errno::NFILE, Errno::NOMEM]
            .iter()
            .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Checks all items, some at once; `None` when it was broken off.
fn each<T: Sync>(
    how: &Inspect<'_>,
    items: &[T],
    check: impl Fn(&T) -> Checked + Sync,
) -> Result<Option<Vec<Finding>>, StoreError> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let found: Mutex<Result<Vec<Finding>, StoreError>> = Mutex::new(Ok(Vec::new()));
    let work = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if stop.load(Ordering::Relaxed) || (how.pace)(0) == ControlFlow::Break(()) {
                stop.store(true, Ordering::Relaxed);
                return;
            }
            let checked = check(item);
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            match (checked, &mut *found) {
                (Ok(finding), Ok(findings)) => findings.extend(finding),
                (Err(error), found @ Ok(_)) => {
                    stop.store(true, Ordering::Relaxed);
                    *found = Err(error);
                }
                (_, Err(_)) => {}
            }
        }
    };
    thread::scope(|scope| {
        let more = how.threads.get().min(items.len()).saturating_sub(1);
        for _ in 0..more {
            scope.spawn(work);
        }
        work();
    });
    let findings = found.into_inner().unwrap_or_else(PoisonError::into_inner)?;
    // The last of them may have been broken off in the middle.
    let broken_off = stop.into_inner() || (how.pace)(0).is_break();
    Ok((!broken_off).then_some(findings))
}
