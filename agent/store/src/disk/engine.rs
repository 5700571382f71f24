//! The only code that names sled: ordered keys and checked values, with every failure contained.
//!
//! sled 0.34 may panic on a damaged file, when it opens it and later. Each call is therefore made where a
//! panic is caught and becomes an error; after the first one the engine is not asked again.

use crate::StoreError;
use std::{
    any::Any,
    cell::Cell,
    collections::BTreeMap,
    io,
    ops::Bound::Excluded,
    panic::{self, AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Memory for pages, in bytes as they are on disk; in memory they take about three times as much. After a
/// million records were put, a process has 125 MiB resident with this, and 240 MiB with four times this,
/// which makes puts no faster. sled's own default is a gigabyte, too much beside a build.
const CACHE: u64 = 16 << 20;
/// How long to wait for sled's own lock: a process that was killed keeps it until it is really gone.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// Wait between two tries for sled's lock.
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// Most changes that wait to be written together: about 400 kB, and what an opening after a crash indexes
/// again from the journal. sled writes through for each batch, so many small ones cost a disk access each.
const MAX_PENDING: usize = 4096;
/// Most changes of a database that is kept in memory as there is no room for it on disk: half a gigabyte or
/// so. It is better to do without than to take more from the builds on this machine.
const MAX_IN_MEMORY: usize = 2_000_000;
/// Version of the envelope and of what is in it, the first byte of each value. An index with values of
/// another version is made again.
const VERSION: u8 = 3;
/// Version and CRC-32C before each value.
const ENVELOPE: usize = 1 + 4;

/// Why the engine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum EngineError {
    #[error("engine failed: {0}")]
    Failed(#[from] sled::Error),
    #[error("engine panicked: {0}")]
    Panicked(String),
    #[error("a value is damaged")]
    BadValue,
    #[error("it has failed and is made again, by an agent within seconds, else at the next start")]
    Broken,
}

impl EngineError {
    /// The refusal of the operating system to let us read or write, which is no sign of damage.
    pub(super) fn refusal(self) -> Result<io::Error, Self> {
        use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        match self {
            Self::Failed(sled::Error::Io(error))
                if matches!(
                    error.kind(),
                    PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull
                ) =>
            {
                Ok(error)
            }
            other => Err(other),
        }
    }
}

impl From<EngineError> for StoreError {
    fn from(error: EngineError) -> Self {
        Self::Index(error.to_string())
    }
}

/// One write: a key with its new value, or with none to remove it.
pub(super) type Change = (Vec<u8>, Option<Vec<u8>>);

/// A key with its value.
pub(super) type Item = (Vec<u8>, Vec<u8>);

/// An embedded ordered map. What is written is not durable until the engine is closed; after a crash all
/// changes up to some moment are there, and none after it.
#[derive(Debug)]
pub(super) struct Engine {
    /// `None` once closed.
    db: RwLock<Option<sled::Db>>,
    /// The newest changes, not written to `db` yet.
    pending: Mutex<BTreeMap<Vec<u8>, Option<Vec<u8>>>>,
    broken: AtomicBool,
    /// Whether `pending` is all there is.
    in_memory: AtomicBool,
}

impl Engine {
    /// Opens or makes a database in `dir`.
    pub(super) fn open(dir: &Path) -> Result<Self, EngineError> {
        Ok(Self {
            db: RwLock::new(Some(open_patiently(dir)?)),
            pending: Mutex::default(),
            broken: AtomicBool::new(false),
            in_memory: AtomicBool::new(false),
        })
    }

    /// An empty database that is nowhere but in memory.
    pub(super) fn in_memory() -> Self {
        Self {
            db: RwLock::new(None),
            pending: Mutex::default(),
            broken: AtomicBool::new(false),
            in_memory: AtomicBool::new(true),
        }
    }

    /// Lets the files go, and has what another one has in memory.
    pub(super) fn become_that(&self, other: &Self) {
        let mut pending = self.pending();
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(db) = db.take() {
            self.let_go_of_old(db);
        }
        *pending = std::mem::take(&mut other.pending());
        self.in_memory.store(true, Ordering::Relaxed);
        self.broken.store(false, Ordering::Relaxed);
    }

    /// Whether it is nowhere but in memory.
    pub(super) fn is_in_memory(&self) -> bool {
        self.in_memory.load(Ordering::Relaxed)
    }

    /// Lets the files go, has `swap` put those of another database into `dir`, and goes on with
    /// them. Changes that wait are dropped: the other database must have them. Calls from other
    /// threads wait meanwhile.
    pub(super) fn exchange<E: From<EngineError>>(
        &self,
        dir: &Path,
        swap: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let mut pending = self.pending();
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(db) = db.take() {
            self.let_go_of_old(db);
        }
        pending.clear();
        self.in_memory.store(false, Ordering::Relaxed);
        self.broken.store(true, Ordering::Relaxed);
        swap()?;
        *db = Some(open_patiently(dir)?);
        self.broken.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Whether it is not asked any more.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        if let Some(pending) = self.pending().get(key) {
            return Ok(pending.clone());
        }
        if self.is_in_memory() {
            return Ok(None);
        }
        match self.ask(|db| db.get(key))? {
            Some(sealed) => open_value(key, &sealed).map(Some),
            None => Ok(None),
        }
    }

    /// Takes all changes or none.
    pub(super) fn write(&self, changes: Vec<Change>) -> Result<(), EngineError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(EngineError::Broken);
        }
        let mut pending = self.pending();
        pending.extend(changes);
        if self.is_in_memory() {
            if pending.len() > MAX_IN_MEMORY {
                self.broken.store(true, Ordering::Relaxed);
                return Err(EngineError::Broken);
            }
            return Ok(());
        }
        if pending.len() < MAX_PENDING { Ok(()) } else { self.write_out(&mut pending) }
    }

    /// Gives the system what waits to be written, so that it survives this process.
    pub(super) fn hand_over(&self) -> Result<(), EngineError> {
        self.write_out(&mut self.pending())
    }

    /// Returns when all that was written is on the disk.
    pub(super) fn persist(&self) -> Result<(), EngineError> {
        self.write_out(&mut self.pending())?;
        if self.is_in_memory() {
            return Ok(());
        }
        self.ask(|db| db.flush().map(drop))
    }

    fn pending(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Option<Vec<u8>>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what is pending, in one batch and so all or nothing.
    fn write_out(
        &self,
        pending: &mut BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    ) -> Result<(), EngineError> {
        if pending.is_empty() || self.is_in_memory() {
            return Ok(());
        }
        let mut batch = sled::Batch::default();
        for (key, value) in &*pending {
            match value {
                Some(value) => batch.insert(key.as_slice(), seal_value(key, value)),
                None => batch.remove(key.as_slice()),
            }
        }
        self.ask(|db| {
            db.apply_batch(batch)?;
            // What a write replaced is freed as later calls begin, a little with each, and a batch is
            // one call. Without these a million changes in a row would leave gigabytes behind.
            (0..pending.len()).try_for_each(|_| db.contains_key(b"").map(drop))
        })?;
        pending.clear();
        Ok(())
    }

    /// At most `limit` keys with their values: those after `after` that start with `prefix`, in order. A
    /// damaged value is left out and `on_bad` called.
    pub(super) fn after(
        &self,
        prefix: u8,
        after: &[u8],
        limit: usize,
        mut on_bad: impl FnMut(),
    ) -> Result<Vec<Item>, EngineError> {
        let start = [&[prefix], after].concat();
        if self.is_in_memory() {
            let behind = (Excluded(start), Excluded(vec![prefix + 1]));
            let pending = self.pending();
            let all = pending.range(behind);
            let there = all.filter_map(|(key, value)| Some((key.clone(), value.clone()?)));
            return Ok(there.take(limit).collect());
        }
        self.write_out(&mut self.pending())?;
        let found = self.ask(|db| {
            db.range(start.as_slice()..[prefix + 1].as_slice())
                .filter(|item| !matches!(item, Ok((key, _)) if **key == *start))
                .take(limit)
                .collect::<sled::Result<Vec<_>>>()
        })?;
        let mut values = Vec::with_capacity(found.len());
        for (key, sealed) in found {
            match open_value(&key, &sealed) {
                Ok(value) => values.push((key.to_vec(), value)),
                Err(_) => on_bad(),
            }
        }
        Ok(values)
    }

    /// Writes everything out and lets the files go.
    pub(super) fn close(&mut self) -> Result<(), EngineError> {
        let is_open = self.db.get_mut().unwrap_or_else(PoisonError::into_inner).is_some();
        let written = if is_open { self.write_out(&mut self.pending()) } else { Ok(()) };
        let Some(db) = self.db.get_mut().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        self.let_go(db)?;
        written
    }

    /// Lets go of what is replaced: what it fails at now nobody will miss.
    fn let_go_of_old(&self, db: sled::Db) {
        if let Err(error) = self.let_go(db) {
            tracing::debug!(%error, "index that was replaced was not closed cleanly");
        }
    }

    fn let_go(&self, db: sled::Db) -> Result<(), EngineError> {
        if self.is_broken() {
            // Its threads may be gone, and dropping it would wait for them.
            std::mem::forget(db);
            return Err(EngineError::Broken);
        }
        contain(|| {
            let flushed = db.flush().map(drop);
            drop(db);
            flushed
        })
    }

    /// Panics inside of a call.
    #[cfg(test)]
    pub(super) fn fail(&self, why: &str) -> EngineError {
        let asked = self.ask(|_| -> sled::Result<()> { panic!("{why}") });
        asked.err().unwrap_or(EngineError::Broken)
    }

    fn ask<T>(&self, call: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<T, EngineError> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let db = db.as_ref().filter(|_| !self.is_broken()).ok_or(EngineError::Broken)?;
        let answer = contain(|| call(db));
        if answer.is_err() {
            self.broken.store(true, Ordering::Relaxed);
        }
        answer
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::debug!(%error, "index was not closed cleanly");
        }
    }
}

/// Opens or makes a database, and waits a little for one who is letting it go.
fn open_patiently(dir: &Path) -> Result<sled::Db, EngineError> {
    let patience = Instant::now() + LOCK_PATIENCE;
    loop {
        match contain(|| open_db(dir)) {
            Err(EngineError::Failed(error)) if is_locked(&error) && Instant::now() < patience => {
                thread::sleep(LOCK_PAUSE);
            }
            opened => return opened,
        }
    }
}

fn open_db(dir: &Path) -> sled::Result<sled::Db> {
    // No flushing in the background: the journal and the blob files are the truth, and a thread that
    // wakes twice a second is a cost to every short run.
    sled::Config::new()
        .path(dir)
        .cache_capacity(CACHE)
        .mode(sled::Mode::LowSpace)
        .flush_every_ms(None)
        .open()
}

/// sled tells a held lock from other failures by its text only.
fn is_locked(error: &sled::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

thread_local! {
    /// Whether a panic of this thread will be caught and told as an error.
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Keeps panics of the index that become errors from being told on standard error too. For programs,
/// to be called once, before any store is opened; other panics are told as before.
pub fn hush_contained_panics() {
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        // The engine's own threads catch their panics; the next call then fails.
        let engines = thread::current().name().is_some_and(|name| name.starts_with("sled-"));
        if !engines && !CONTAINED.get() {
            tell(panic);
        }
    }));
}

/// Turns a panic into an error. What sled leaves half done is never looked at again, see `Engine::ask`.
fn contain<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, EngineError> {
    CONTAINED.set(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    CONTAINED.set(false);
    match result {
        Ok(answer) => Ok(answer?),
        Err(panic) => Err(EngineError::Panicked(panic_text(&*panic))),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("no message").to_owned()
}

/// The checksum covers the key too, so that a value never counts under another key.
fn checksum(key: &[u8], value: &[u8]) -> [u8; 4] {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&[VERSION]), key);
    crc32c::crc32c_append(crc, value).to_le_bytes()
}

fn seal_value(key: &[u8], value: &[u8]) -> Vec<u8> {
    [&[VERSION], &checksum(key, value)[..], value].concat()
}

fn open_value(key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, EngineError> {
    let (head, value) = sealed.split_at_checked(ENVELOPE).ok_or(EngineError::BadValue)?;
    if head[0] != VERSION || head[1..] != checksum(key, value) {
        return Err(EngineError::BadValue);
    }
    Ok(value.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn values_survive_a_close_and_come_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut engine = Engine::open(dir.path()).unwrap();
        let put = |key: &[u8]| (key.to_vec(), Some([key, b"!"].concat()));
        engine.write(["b2", "a9", "b1", "c0", "b3"].map(|key| put(key.as_bytes())).into()).unwrap();
        engine.write(vec![(b"b3".to_vec(), None)]).unwrap();
        assert_eq!(engine.get(b"b2").unwrap().unwrap(), b"b2!");
        assert_eq!(engine.get(b"b3").unwrap(), None);
        engine.close().unwrap();
        let engine = Engine::open(dir.path()).unwrap();
        let keys = |after: &[u8], limit| -> Vec<Vec<u8>> {
            let found = engine.after(b'b', after, limit, || panic!("bad value"));
            found.unwrap().into_iter().map(|(key, _)| key).collect()
        };
        assert_eq!(keys(b"", 9), [b"b1", b"b2"]);
        assert_eq!(keys(b"", 1), [b"b1"]);
        assert_eq!(keys(b"1", 9), [b"b2"]);
        assert_eq!(engine.get(b"b2").unwrap().unwrap(), b"b2!");
    }

    #[test]
    fn what_is_in_memory_only_is_as_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let (memory, disk) = (Engine::in_memory(), Engine::open(dir.path()).unwrap());
        for engine in [&memory, &disk] {
            let put = |key: &str| (key.as_bytes().to_vec(), Some(key.as_bytes().to_vec()));
            engine.write(["b2", "a9", "b", "b1", "c", "b3"].map(put).into()).unwrap();
            engine.write(vec![(b"b3".to_vec(), None)]).unwrap();
        }
        for (after, limit) in [(&b""[..], 9), (b"", 1), (b"1", 9), (b"2", 9)] {
            let found = |engine: &Engine| engine.after(b'b', after, limit, || panic!()).unwrap();
            assert_eq!(found(&memory), found(&disk), "{after:?}, {limit}");
        }
        assert_eq!(memory.get(b"b3").unwrap(), None);
        // And takes the place of one that has failed.
        disk.fail("page 7");
        disk.become_that(&memory);
        assert_eq!(disk.get(b"b2").unwrap().unwrap(), b"b2");
        assert!(disk.is_in_memory() && !disk.is_broken());
    }

    #[test]
    fn any_flipped_bit_of_a_value_is_noticed() {
        let good = seal_value(b"key", b"value");
        assert_eq!(open_value(b"key", &good).unwrap(), b"value");
        assert!(open_value(b"kez", &good).is_err());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(open_value(b"key", &bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn only_panics_that_become_errors_are_hushed() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let (this, telling) = (thread::current().id(), Arc::clone(&told));
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            // Other tests run in this process at the same time.
            if thread::current().id() == this {
                telling.lock().unwrap().push(panic_text(panic.payload()));
            }
        }));
        hush_contained_panics();
        assert!(contain(|| -> sled::Result<()> { panic!("contained") }).is_err());
        assert!(catch_unwind(|| panic!("a bug")).is_err());
        panic::set_hook(before);
        assert_eq!(*told.lock().unwrap(), ["a bug"]);
    }

    #[test]
    fn a_panic_inside_the_engine_is_an_error_and_the_last_call() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(dir.path()).unwrap();
        let error = engine.ask(|_| -> sled::Result<()> { panic!("page {}", 7) });
        assert!(matches!(error, Err(EngineError::Panicked(text)) if text == "page 7"));
        assert!(matches!(engine.get(b"a"), Err(EngineError::Broken)));
    }
}
