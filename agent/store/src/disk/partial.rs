//! Blobs that arrive over more than one run: `partial/HASH` has the bytes at their places, and
//! `partial/HASH.chunks` says which chunks are there.
//!
//! Nothing is made durable here. What a crash or a loss of power has torn is found by the hashes of
//! the chunks when the blob is begun again, and costs these chunks only.

use super::{
    chunk_log::ChunkLog,
    inner::Inner,
    layout::{open_or_create, remove_file},
};
use crate::{
    StoreError,
    arrival::{Arrival, Places},
    error::FileError,
};
use netbuild_core::{
    chunk::{Chunk, Manifest},
    digest::{Digest, Hash},
};
use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

/// Unfinished blobs that nobody is working on, at most: more than a build has large outputs that
/// could all be interrupted at once. The oldest give way.
const MAX_IDLE: usize = 64;
/// Bytes on disk of all of these: a large image with its layers. More would be room taken for what
/// may never be asked for again.
const MAX_IDLE_BYTES: u64 = 16 << 30;
/// How long nobody may have worked on one: over a holiday. By then the build has moved on.
const MAX_IDLE_AGE: Duration = Duration::from_secs(14 * 24 * 3600);

/// The blobs that are arriving.
#[derive(Debug)]
pub(super) struct Arrivals {
    dir: PathBuf,
    live: Mutex<HashMap<Hash, Live>>,
}

/// A blob that somebody is working on.
#[derive(Debug)]
struct Live {
    places: Arc<Places>,
    file: Arc<File>,
}

impl Arrivals {
    /// Those in `dir`, of which what is of no use any more is removed.
    pub(super) fn new(dir: PathBuf) -> Self {
        let arrivals = Self { dir, live: Mutex::default() };
        arrivals.prune(&arrivals.live());
        arrivals
    }

    fn live(&self) -> MutexGuard<'_, HashMap<Hash, Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn data(&self, hash: &Hash) -> PathBuf {
        self.dir.join(hash.to_string())
    }

    fn log(&self, hash: &Hash) -> PathBuf {
        self.data(hash).with_extension("chunks")
    }

    /// The file with a chunk of a blob that is arriving, and the chunk's offset in it.
    pub(super) fn find(&self, chunk: &Chunk) -> Option<(Arc<File>, u64)> {
        let live = self.live();
        live.values().find_map(|live| Some((live.file.clone(), live.places.find(chunk)?)))
    }

    /// The chunks of a blob that is arriving, and which of them have come.
    pub(super) fn so_far(&self, blob: &Digest) -> Option<(Manifest, Vec<bool>)> {
        let places = self.live().get(&blob.hash)?.places.clone();
        places.so_far().filter(|(manifest, _)| manifest.blob() == *blob)
    }

    /// Removes what is left of a blob that has come in another way, unless somebody is working on it.
    pub(super) fn forget(&self, hash: &Hash) {
        let live = self.live();
        if !live.contains_key(hash) {
            self.remove(hash);
        }
    }

    /// Removes unfinished blobs beyond the bounds, and what is not one. A failure leaves too much,
    /// which harms nobody.
    fn prune(&self, live: &HashMap<Hash, Live>) {
        let idle = match self.idle() {
            Ok(idle) => idle.into_iter().filter(|(hash, _)| !live.contains_key(hash)),
            Err(error) => {
                tracing::debug!(path = %error.path.display(), error = %error.source,
                    "cannot look for old transfers");
                return;
            }
        };
        for hash in surplus(idle.collect(), SystemTime::now()) {
            tracing::debug!(blob = %hash, "unfinished transfer is forgotten");
            self.remove(&hash);
        }
    }

    fn idle(&self) -> Result<HashMap<Hash, Idle>, FileError> {
        let mut found = HashMap::<Hash, Idle>::new();
        for entry in fs::read_dir(&self.dir).map_err(FileError::at(&self.dir))? {
            let entry = entry.map_err(FileError::at(&self.dir))?;
            let name = entry.file_name();
            let Some((name, part)) = name.to_str().map(|n| n.split_once('.').unwrap_or((n, "")))
            else {
                continue;
            };
            let (Ok(hash), Ok(meta)) = (name.parse(), entry.metadata()) else { continue };
            let idle = found.entry(hash).or_default();
            idle.data |= part.is_empty();
            idle.log |= part == "chunks";
            idle.bytes += meta.blocks() * 512;
            idle.used = idle.used.max(meta.modified().ok());
        }
        Ok(found)
    }

    fn remove(&self, hash: &Hash) {
        let (data, log) = (self.data(hash), self.log(hash));
        for path in [&log, &ChunkLog::unfinished(&log), &data] {
            if let Err(FileError { path, source }) = remove_file(path) {
                tracing::debug!(path = %path.display(), error = %source,
                    "unfinished transfer stays");
            }
        }
    }
}

/// What there is of an unfinished blob.
#[derive(Clone, Copy, Debug, Default)]
struct Idle {
    data: bool,
    log: bool,
    /// Bytes on disk.
    bytes: u64,
    /// When something was last written.
    used: Option<SystemTime>,
}

/// Which unfinished blobs are to be removed.
fn surplus(mut idle: Vec<(Hash, Idle)>, now: SystemTime) -> Vec<Hash> {
    idle.sort_by_key(|(hash, idle)| (std::cmp::Reverse(idle.used), *hash));
    let (mut count, mut bytes) = (0, 0_u64);
    let mut stays = |idle: &Idle| {
        // A clock that was put back makes none old.
        let age = idle.used.and_then(|used| now.duration_since(used).ok()).unwrap_or_default();
        if !(idle.data && idle.log) || age > MAX_IDLE_AGE {
            return false;
        }
        count += 1;
        bytes = bytes.saturating_add(idle.bytes);
        count <= MAX_IDLE && bytes <= MAX_IDLE_BYTES
    };
    idle.into_iter().filter(|(_, idle)| !stays(idle)).map(|(hash, _)| hash).collect()
}

/// An arriving blob that outlives the process. One at a time is worked on.
#[derive(Debug)]
pub(super) struct Durable {
    inner: Arc<Inner>,
    blob: Digest,
    places: Arc<Places>,
    file: Arc<File>,
    path: PathBuf,
    /// `None` until it is known what an earlier arrival has left.
    log: Option<ChunkLog>,
    synced: bool,
    removed: bool,
}

impl Durable {
    /// Begins a blob, or goes on with it if some of the same chunks came before; `None` when
    /// somebody else is working on it, and for a blob of one chunk, of which there is no half.
    pub(super) fn begin_if_many(
        inner: &Arc<Inner>,
        arrival: &mut Arrival,
    ) -> Result<Option<Self>, StoreError> {
        let blob = arrival.blob();
        if arrival.manifest().chunks().len() < 2 {
            return Ok(None);
        }
        let path = inner.arrivals.data(&blob.hash);
        let file = {
            let mut live = inner.arrivals.live();
            if live.contains_key(&blob.hash) {
                return Ok(None);
            }
            let file = Arc::new(open_or_create(&path)?);
            let places = arrival.places().clone();
            live.insert(blob.hash, Live { places, file: file.clone() });
            inner.arrivals.prune(&live);
            file
        };
        let places = arrival.places().clone();
        let (inner, removed) = (inner.clone(), false);
        let (log, synced) = (None, false);
        let mut durable = Self { inner, blob, places, file, path, log, synced, removed };
        durable.resume(arrival)?;
        Ok(Some(durable))
    }

    fn resume(&mut self, arrival: &mut Arrival) -> Result<(), StoreError> {
        let log = self.inner.arrivals.log(&self.blob.hash);
        let written = ChunkLog::read(&log, arrival.manifest())?;
        // What was written by another list of chunks is of no use; nor is what lies behind the end.
        let keep = if written.is_some() { self.blob.size } else { 0 };
        let len = self.file.metadata().map_err(self.at())?.len();
        if len > keep {
            self.file.set_len(keep).map_err(self.at())?;
        }
        let written = written.unwrap_or_default();
        let mut here = Vec::new();
        for index in (0..written.len()).filter(|index| written[*index]) {
            let read = |bytes: &mut [u8], offset| self.file.read_exact_at(bytes, offset);
            if arrival.resume(index, read).map_err(self.at())? {
                here.push(index as u32);
            }
        }
        if !here.is_empty() {
            tracing::debug!(blob = %self.blob, chunks = here.len(), of = written.len(),
                "transfer goes on");
        }
        self.log = Some(ChunkLog::create(&log, arrival.manifest(), here.into_iter())?);
        Ok(())
    }

    fn at(&self) -> impl FnOnce(io::Error) -> FileError {
        FileError::at(&self.path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Writes a chunk that was checked.
    pub(super) fn write(
        &mut self,
        index: usize,
        bytes: &[u8],
        offset: u64,
    ) -> Result<(), FileError> {
        self.file.write_all_at(bytes, offset).map_err(self.at())?;
        match &mut self.log {
            Some(log) => log.add(index as u32),
            None => Ok(()),
        }
    }

    /// Makes the bytes durable if the file is to replace another, which may be.
    pub(super) fn prepare(&mut self, path: &Path) -> Result<(), FileError> {
        if !self.synced && fs::exists(path).unwrap_or(true) {
            self.file.sync_data().map_err(self.at())?;
            self.synced = true;
        }
        Ok(())
    }

    /// Gives the file its lasting name.
    pub(super) fn keep(&mut self, path: &Path) -> Result<(), FileError> {
        self.prepare(path)?;
        fs::rename(&self.path, path).map_err(FileError::at(path))?;
        self.removed = true;
        Ok(())
    }

    /// Leaves nothing behind.
    pub(super) fn discard(mut self) {
        self.removed = true;
    }
}

impl Drop for Durable {
    fn drop(&mut self) {
        // Under the lock, so that nobody begins it anew meanwhile.
        let mut live = self.inner.arrivals.live();
        if self.removed || (self.log.is_some() && self.places.is_empty()) {
            self.inner.arrivals.remove(&self.blob.hash);
        }
        live.remove(&self.blob.hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle(n: u8, age: u64, bytes: u64) -> (Hash, Idle) {
        let used = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 - age));
        (Hash([n; 32]), Idle { data: true, log: true, bytes, used })
    }

    fn removed(all: &[(Hash, Idle)]) -> Vec<u8> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let mut removed: Vec<u8> =
            surplus(all.to_vec(), now).into_iter().map(|hash| hash.0[0]).collect();
        removed.sort_unstable();
        removed
    }

    #[test]
    fn the_oldest_transfers_are_forgotten_first() {
        let many: Vec<_> = (0..MAX_IDLE as u8 + 3).map(|n| idle(n, u64::from(n), 1)).collect();
        assert_eq!(removed(&many), [64, 65, 66]);
        let large = [idle(1, 9, MAX_IDLE_BYTES / 2), idle(2, 5, 1), idle(3, 1, MAX_IDLE_BYTES / 2)];
        assert_eq!(removed(&large), [1]);
        let age = MAX_IDLE_AGE.as_secs();
        assert_eq!(removed(&[idle(1, age, 1), idle(2, age + 1, 1)]), [2]);
    }

    #[test]
    fn half_of_a_transfer_is_of_no_use() {
        let (mut one, mut other) = (idle(1, 0, 1), idle(2, 0, 1));
        one.1.log = false;
        other.1.data = false;
        assert_eq!(removed(&[one, other, idle(3, 0, 1)]), [1, 2]);
    }
}
