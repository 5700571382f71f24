//! The only code that names sled: ordered keys in checked leaves, with every failure contained.
//!
//! sled 0.34 may panic on a damaged file, when it opens it and later. Each call is therefore made where a
//! panic is caught and becomes an error; after the first one the engine is not asked again.

use super::leaf::{self, Item};
use crate::StoreError;
use std::{
    any::Any,
    cell::Cell,
    collections::BTreeMap,
    io,
    ops::Bound::{Excluded, Included, Unbounded},
    panic::{self, AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
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

/// Keys with their new values, or with none.
type Pending = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// An embedded ordered map. What is written is not durable until the engine is closed; after a crash all
/// changes up to some moment are there, and none after it.
#[derive(Debug)]
pub(super) struct Engine {
    /// `None` once closed.
    db: RwLock<Option<sled::Db>>,
    /// The newest changes, not written to `db` yet.
    pending: Mutex<Pending>,
    broken: AtomicBool,
    /// Batches that had one leaf take in another.
    merges: AtomicU64,
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
            merges: AtomicU64::new(0),
            in_memory: AtomicBool::new(false),
        })
    }

    /// An empty database that is nowhere but in memory.
    pub(super) fn in_memory() -> Self {
        Self {
            db: RwLock::new(None),
            pending: Mutex::default(),
            broken: AtomicBool::new(false),
            merges: AtomicU64::new(0),
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
        let Some((name, sealed)) = self.ask(|db| leaf_of(db, key))? else { return Ok(None) };
        let items = leaf::items(&name, &sealed).ok_or(EngineError::BadValue)?;
        let found = items.binary_search_by_key(&key, |(key, _)| key).ok();
        Ok(found.map(|at| items[at].1.to_vec()))
    }

    /// Takes all changes or none. `on_bad` is called for a damaged leaf, whose keys are lost.
    pub(super) fn write(
        &self,
        changes: Vec<Change>,
        on_bad: impl FnMut(),
    ) -> Result<(), EngineError> {
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
        if pending.len() < MAX_PENDING { Ok(()) } else { self.write_out(&mut pending, on_bad) }
    }

    /// Gives the system what waits to be written, so that it survives this process.
    pub(super) fn hand_over(&self, on_bad: impl FnMut()) -> Result<(), EngineError> {
        self.write_out(&mut self.pending(), on_bad)
    }

    /// Returns when all that was written is on the disk.
    pub(super) fn persist(&self, on_bad: impl FnMut()) -> Result<(), EngineError> {
        self.write_out(&mut self.pending(), on_bad)?;
        if self.is_in_memory() {
            return Ok(());
        }
        self.ask(|db| db.flush().map(drop))
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what is pending, in one batch and so all or nothing.
    fn write_out(
        &self,
        pending: &mut Pending,
        mut on_bad: impl FnMut(),
    ) -> Result<(), EngineError> {
        if pending.is_empty() || self.is_in_memory() {
            return Ok(());
        }
        self.ask(|db| {
            let (batch, merged) = batch_of(db, pending, &mut on_bad)?;
            // Before anybody can see it.
            self.merges.fetch_add(u64::from(merged), Ordering::SeqCst);
            db.apply_batch(batch)
        })?;
        pending.clear();
        Ok(())
    }

    /// At most `limit` keys with their values: those after `after` that start with `prefix`, in order. A
    /// damaged leaf is left out and `on_bad` called.
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
        let merges = {
            let mut pending = self.pending();
            self.write_out(&mut pending, &mut on_bad)?;
            self.merges.load(Ordering::SeqCst)
        };
        let found = self.scan(prefix, &start, limit, &mut on_bad)?;
        if self.merges.load(Ordering::SeqCst) == merges {
            return Ok(found);
        }
        // Keys may have gone from a leaf that was yet to be read into one that had been: once more, while nobody
        // writes.
        let _still = self.pending();
        self.scan(prefix, &start, limit, &mut on_bad)
    }

    /// At most `limit` keys with their values, of those in the database: from `start`, which is left out, to the
    /// end of those that start with `prefix`.
    fn scan(
        &self,
        prefix: u8,
        start: &[u8],
        limit: usize,
        on_bad: &mut dyn FnMut(),
    ) -> Result<Vec<Item>, EngineError> {
        self.ask(|db| {
            let first = leaf_of(db, start)?;
            let behind = first.as_ref().map_or(Unbounded, |(name, _)| Excluded(name.clone()));
            let first = first.into_iter().map(Ok);
            let mut found: Vec<Item> = Vec::new();
            for leaf in first.chain(db.range((behind, Excluded(sled::IVec::from(&[prefix + 1]))))) {
                let (name, sealed) = leaf?;
                let Some(items) = leaf::items(&name, &sealed) else {
                    on_bad();
                    continue;
                };
                for (key, value) in items {
                    // Not those of a leaf that was split after its first half was read.
                    let last = found.last().map_or(start, |(key, _)| key);
                    if key > last && key.first() == Some(&prefix) {
                        found.push((key.to_vec(), value.to_vec()));
                    }
                    if found.len() == limit {
                        return Ok(found);
                    }
                }
            }
            Ok(found)
        })
    }

    /// Writes everything out and lets the files go.
    pub(super) fn close(&mut self) -> Result<(), EngineError> {
        let is_open = self.db.get_mut().unwrap_or_else(PoisonError::into_inner).is_some();
        let mut is_bad = false;
        let written =
            if is_open { self.write_out(&mut self.pending(), || is_bad = true) } else { Ok(()) };
        let Some(db) = self.db.get_mut().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        self.let_go(db)?;
        if is_bad { Err(EngineError::BadValue) } else { written }
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

/// The leaf that a key is in if it is anywhere.
fn leaf_of(db: &sled::Db, key: &[u8]) -> sled::Result<Option<(sled::IVec, sled::IVec)>> {
    db.range((Unbounded, Included(sled::IVec::from(key)))).next_back().transpose()
}

/// The leaves as they are after the changes, and whether one took in another. One that is damaged begins anew.
fn batch_of(
    db: &sled::Db,
    changes: &Pending,
    on_bad: &mut dyn FnMut(),
) -> sled::Result<(sled::Batch, bool)> {
    let (mut batch, mut merged) = (sled::Batch::default(), false);
    let mut changed: Option<Changed> = None;
    for (key, value) in changes {
        let (name, sealed) = leaf_of(db, key)?.unwrap_or_default();
        // Changes are in the order of their keys, so that those of a leaf come together.
        while let Some(leaf) = changed.as_mut().filter(|leaf| leaf.last != name) {
            if leaf.take_in_next(db, &mut batch)? {
                merged = true;
            } else {
                put_leaves(&mut batch, &leaf.name, &leaf.items);
                changed = None;
            }
        }
        let Changed { items, .. } = changed.get_or_insert_with(|| {
            let items =
                if sealed.is_empty() { Some(Vec::new()) } else { leaf::owned(&name, &sealed) };
            let items = items.unwrap_or_else(|| {
                on_bad();
                Vec::new()
            });
            Changed { last: name.clone(), name, items }
        });
        match (items.binary_search_by(|(known, _)| known.cmp(key)), value) {
            (Ok(at), Some(value)) => items[at].1.clone_from(value),
            (Ok(at), None) => drop(items.remove(at)),
            (Err(at), Some(value)) => items.insert(at, (key.clone(), value.clone())),
            (Err(_), None) => {}
        }
    }
    if let Some(mut leaf) = changed {
        while leaf.take_in_next(db, &mut batch)? {
            merged = true;
        }
        put_leaves(&mut batch, &leaf.name, &leaf.items);
    }
    Ok((batch, merged))
}

/// A leaf that changes.
struct Changed {
    name: sled::IVec,
    /// The name of the last leaf that is in it: its own, or that of one that it took in.
    last: sled::IVec,
    items: Vec<Item>,
}

impl Changed {
    /// Takes in the leaf behind it if both are small, and says whether it did. Keys come and go at random, and
    /// leaves that only went when they were empty would become more and more for as many keys.
    fn take_in_next(&mut self, db: &sled::Db, batch: &mut sled::Batch) -> sled::Result<bool> {
        // An empty one is removed, which is less to write.
        let size = leaf::size(&self.items);
        if size == 0 || size > leaf::SMALL {
            return Ok(false);
        }
        let behind = (Excluded(self.last.clone()), Unbounded);
        let Some((name, sealed)) = db.range::<sled::IVec, _>(behind).next().transpose()? else {
            return Ok(false);
        };
        // One that is damaged is told of when it is asked for.
        let items = leaf::owned(&name, &sealed);
        let Some(items) = items.filter(|items| size + leaf::size(items) <= leaf::ROOMY) else {
            return Ok(false);
        };
        self.items.extend(items);
        batch.remove(&name);
        self.last = name;
        Ok(true)
    }
}

fn put_leaves(batch: &mut sled::Batch, name: &[u8], items: &[Item]) {
    // Its keys belong to the leaf before it then.
    if items.is_empty() {
        batch.remove(name);
        return;
    }
    for (name, sealed) in leaf::leaves(name.to_vec(), items) {
        batch.insert(name, sealed);
    }
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
        engine
            .write(
                ["b2", "a9", "b1", "c0", "b3"].map(|key| put(key.as_bytes())).into(),
                || panic!(),
            )
            .unwrap();
        engine.write(vec![(b"b3".to_vec(), None)], || panic!()).unwrap();
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
            engine.write(["b2", "a9", "b", "b1", "c", "b3"].map(put).into(), || panic!()).unwrap();
            engine.write(vec![(b"b3".to_vec(), None)], || panic!()).unwrap();
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

    /// A key at a random place, of a random table.
    fn random_key(seed: u64) -> Vec<u8> {
        let hash = netbuild_core::digest::Hash::of(&seed.to_le_bytes()).0;
        [&[b'a' + hash[0] % 3], &hash[..]].concat()
    }

    fn all_of(engine: &Engine, table: u8, limit: usize) -> Vec<Item> {
        let mut all: Vec<Item> = Vec::new();
        loop {
            let after = all.last().map_or(Vec::new(), |(key, _)| key[1..].to_vec());
            let page = engine.after(table, &after, limit, || panic!("bad value")).unwrap();
            if page.is_empty() {
                return all;
            }
            all.extend(page);
        }
    }

    #[test]
    fn leaves_become_no_more_as_keys_come_and_go() {
        const KEYS: u64 = 5_000;
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(dir.path()).unwrap();
        let mut model = BTreeMap::new();
        let leaves = || engine.ask(|db| Ok(db.len())).unwrap();
        let mut filled = 0;
        for number in 0..10 * KEYS {
            let value = vec![number as u8; number as usize % 80];
            model.insert(random_key(number), value.clone());
            let mut changes = vec![(random_key(number), Some(value))];
            if let Some(old) = number.checked_sub(KEYS) {
                model.remove(&random_key(old));
                changes.push((random_key(old), None));
            }
            engine.write(changes, || panic!("bad value")).unwrap();
            if number == KEYS {
                engine.hand_over(|| panic!("bad value")).unwrap();
                filled = leaves();
            }
        }
        let found: Vec<Item> =
            [b'a', b'b', b'c'].iter().flat_map(|table| all_of(&engine, *table, 100)).collect();
        assert!(found == model.into_iter().collect::<Vec<_>>());
        let after = leaves();
        assert!(after * 10 <= filled * 13, "{filled} leaves when it was filled, {after} later");
    }

    #[test]
    fn who_reads_on_misses_nothing_while_leaves_are_put_together() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(dir.path()).unwrap();
        let write = |keys: &[Vec<u8>], value: Option<Vec<u8>>| {
            let changes = keys.iter().map(|key| (key.clone(), value.clone())).collect();
            engine.write(changes, || panic!("bad value")).unwrap();
            engine.hand_over(|| panic!("bad value")).unwrap();
        };
        let mut passing: Vec<Vec<u8>> = (0..40_000).map(random_key).collect();
        passing.retain(|key| key[0] == b'b');
        write(&passing, Some(vec![0; 40]));
        let lasting: Vec<Vec<u8>> = passing.extract_if(.., |key| key[32] % 9 == 0).collect();
        // Neighbours together: such a batch is quick, beside a look at all keys.
        passing.sort_unstable();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for value in [None, Some(vec![0; 40])].into_iter().cycle().take(8) {
                    passing.chunks(200).for_each(|some| write(some, value.clone()));
                }
                over.store(true, Ordering::Relaxed);
            });
            while !over.load(Ordering::Relaxed) {
                let found = engine.after(b'b', &[], usize::MAX, || panic!("bad value")).unwrap();
                let found: std::collections::BTreeSet<Vec<u8>> =
                    found.into_iter().map(|(key, _)| key).collect();
                assert!(lasting.iter().all(|key| found.contains(key)));
            }
        });
        assert!(engine.merges.load(Ordering::SeqCst) > 0);
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
