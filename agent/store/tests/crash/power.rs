//! Loss of power: what was written and not synced is lost, in part, or in another order, as Pillai et
//! al. describe it ("All File Systems Are Not Created Equal", OSDI 2014).
//!
//! A child's file operations are recorded in the order in which they were done. For each cut a directory is
//! made as a disk could have it at that moment: what was synced is there, and of the rest what chance
//! leaves of it.

use crate::{
    asked,
    child::Orders,
    common::noise,
    interposer,
    script::{Model, op},
    seed,
};
use netbuild_store::{DiskStore, Store};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    rc::Rc,
};

/// Cuts of a run that nobody asked more of.
const CUTS: u64 = 60;
/// Operations of the child.
const OPERATIONS: u64 = 240;
/// A sector and a page: what a disk or a system writes as a whole.
const BLOCKS: [usize; 2] = [512, 4096];

/// One recorded operation.
#[derive(Clone, Debug)]
enum Event {
    Create(PathBuf, u64),
    Truncate(u64, u64),
    Write(u64, u64, Rc<[u8]>),
    /// With the file that had the name, if it was one.
    Rename(PathBuf, PathBuf, Option<u64>),
    Remove(PathBuf),
    MakeDir(PathBuf),
    SyncFile(u64),
    SyncDir(PathBuf),
    /// The child flushed all operations up to this one.
    Mark(u64),
}

/// Reads what `interpose.c` has written of a directory.
fn recorded(trace: &[u8], dir: &Path) -> Vec<Event> {
    struct Reader<'a>(&'a [u8]);
    impl<'a> Reader<'a> {
        fn take(&mut self, len: usize) -> &'a [u8] {
            let (head, rest) = self.0.split_at(len);
            self.0 = rest;
            head
        }
        fn number(&mut self) -> u64 {
            u64::from_ne_bytes(self.take(8).try_into().unwrap())
        }
        fn path(&mut self, dir: &Path) -> PathBuf {
            let len = u32::from_ne_bytes(self.take(4).try_into().unwrap());
            let path = PathBuf::from(std::str::from_utf8(self.take(len as usize)).unwrap());
            path.strip_prefix(dir).map(Path::to_owned).unwrap_or_default()
        }
    }
    let mut reader = Reader(trace);
    let (mut events, mut dirs) = (Vec::new(), vec![PathBuf::new()]);
    while !reader.0.is_empty() {
        let kind = reader.take(1)[0];
        let (a, b) = (reader.path(dir), reader.path(dir));
        let (inode, at, len) = (reader.number(), reader.number(), reader.number());
        let data = if kind == 3 { reader.take(len as usize) } else { &[] };
        let mark = a.to_str().and_then(|name| name.strip_prefix("mark-")?.parse().ok());
        events.push(match kind {
            1 => Event::Create(a, inode),
            2 => Event::Truncate(inode, at),
            3 => Event::Write(inode, at, data.into()),
            4 => {
                let moved = |dir: &PathBuf| Some(b.join(dir.strip_prefix(&a).ok()?));
                dirs.extend(dirs.iter().filter_map(moved).collect::<Vec<_>>());
                Event::Rename(a, b, None)
            }
            5 | 8 => Event::Remove(a),
            6 => match mark {
                Some(n) => Event::Mark(n),
                None => {
                    dirs.push(a.clone());
                    Event::MakeDir(a)
                }
            },
            _ if dirs.contains(&a) => Event::SyncDir(a),
            _ => Event::SyncFile(inode),
        });
    }
    events
}

/// A row of choices.
struct Chance {
    seed: u64,
    n: u64,
}

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.n += 1;
        let bytes = noise(8, self.seed.wrapping_add(self.n.wrapping_mul(0x9e37_79b9)));
        u64::from_le_bytes(bytes.try_into().unwrap()) % limit.max(1)
    }
}

/// What the disk does with what was not synced.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// It is gone.
    Lost,
    /// It came to the disk by chance.
    Kept,
    /// The first so many of a hundred came to the disk, as with an ordered journal.
    Prefix(u64),
    /// Each by chance, in whatever order, and writes in part.
    Torn,
    /// Names and lengths came to the disk, bytes did not.
    Zeros,
}

/// The names and the bytes of a directory: what was synced, and what waits.
#[derive(Clone, Default)]
struct Disk {
    /// What a name means; `None` for a directory.
    names: BTreeMap<PathBuf, Option<u64>>,
    files: BTreeMap<u64, Vec<u8>>,
    waiting: Vec<Event>,
    /// Files by the names that the running system sees.
    seen: BTreeMap<PathBuf, u64>,
}

fn parent(path: &Path) -> PathBuf {
    path.parent().map(Path::to_owned).unwrap_or_default()
}

impl Disk {
    /// Takes an operation; those that a sync makes last are applied.
    fn take(&mut self, event: &Event) {
        let lasts = |waiting: &Event| match (event, waiting) {
            (Event::SyncFile(inode), Event::Write(of, ..) | Event::Truncate(of, _)) => of == inode,
            (Event::SyncDir(dir), Event::Create(path, _))
            | (Event::SyncDir(dir), Event::Remove(path) | Event::MakeDir(path)) => {
                parent(path) == *dir
            }
            (Event::SyncDir(dir), Event::Rename(_, to, _)) => parent(to) == *dir,
            _ => false,
        };
        match event {
            Event::SyncFile(_) | Event::SyncDir(_) => {
                let (now, later) = self.waiting.drain(..).partition(|waiting| lasts(waiting));
                self.waiting = later;
                let now: Vec<Event> = now;
                now.iter().for_each(|event| self.apply(event, None));
            }
            Event::Mark(_) => {}
            Event::Rename(from, to, _) => {
                // What waits inside of a directory that gets another name waits inside of it still.
                for waiting in &mut self.waiting {
                    if let Event::Create(path, _) | Event::Remove(path) | Event::MakeDir(path) =
                        waiting
                        && let Ok(rest) = path.strip_prefix(from)
                        && !rest.as_os_str().is_empty()
                    {
                        *path = to.join(rest);
                    }
                }
                let file = self.seen.remove(from);
                self.seen.extend(file.map(|inode| (to.clone(), inode)));
                self.waiting.push(Event::Rename(from.clone(), to.clone(), file));
            }
            other => {
                match other {
                    Event::Create(path, inode) => drop(self.seen.insert(path.clone(), *inode)),
                    Event::Remove(path) => drop(self.seen.remove(path)),
                    _ => {}
                }
                self.waiting.push(other.clone());
            }
        }
    }

    /// Does an operation for good; of a write only some blocks, or zeros, if so chosen.
    fn apply(&mut self, event: &Event, mut torn: Option<(&mut Chance, bool)>) {
        match event {
            Event::Create(path, inode) => {
                self.names.insert(path.clone(), Some(*inode));
            }
            Event::MakeDir(path) => {
                self.names.insert(path.clone(), None);
            }
            Event::Remove(path) => {
                self.names.remove(path);
            }
            Event::Rename(from, to, Some(inode)) => {
                self.names.remove(from);
                self.names.insert(to.clone(), Some(*inode));
            }
            Event::Rename(from, to, None) => {
                let moved: Vec<_> =
                    self.names.iter().filter(|(name, _)| name.starts_with(from)).collect();
                let moved: Vec<_> = moved.into_iter().map(|(n, i)| (n.clone(), *i)).collect();
                for (name, inode) in moved {
                    let rest = name.strip_prefix(from).unwrap();
                    let new = if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) };
                    self.names.remove(&name);
                    self.names.insert(new, inode);
                }
            }
            Event::Truncate(inode, len) => {
                self.files.entry(*inode).or_default().resize(*len as usize, 0);
            }
            Event::Write(inode, at, bytes) => {
                let file = self.files.entry(*inode).or_default();
                let (at, end) = (*at as usize, *at as usize + bytes.len());
                if file.len() < end {
                    file.resize(end, 0);
                }
                match &mut torn {
                    None => file[at..end].copy_from_slice(bytes),
                    Some((_, true)) => {}
                    Some((chance, false)) => {
                        let block = BLOCKS[chance.below(2) as usize];
                        let mut start = at;
                        while start < end {
                            // Blocks of the file, not of the write.
                            let stop = (start / block * block + block).min(end);
                            if chance.below(2) == 0 {
                                file[start..stop].copy_from_slice(&bytes[start - at..stop - at]);
                            }
                            start = stop;
                        }
                    }
                }
            }
            Event::SyncFile(_) | Event::SyncDir(_) | Event::Mark(_) => {}
        }
    }

    /// The power goes.
    fn cut(mut self, way: Way, chance: &mut Chance) -> Self {
        let waiting = std::mem::take(&mut self.waiting);
        let total = waiting.len() as u64;
        for (n, event) in (0_u64..).zip(&waiting) {
            match way {
                Way::Lost => {}
                Way::Kept => self.apply(event, None),
                Way::Prefix(percent) if n * 100 < total * percent => self.apply(event, None),
                Way::Prefix(_) => {}
                Way::Torn => match chance.below(3) {
                    0 => {}
                    1 => self.apply(event, None),
                    _ => self.apply(event, Some((chance, false))),
                },
                Way::Zeros => self.apply(event, Some((chance, true))),
            }
        }
        self
    }

    /// Makes the directory as it is when the machine is up again.
    fn write(&self, to: &Path) {
        for (name, inode) in &self.names {
            let path = to.join(name);
            match inode {
                None => fs::create_dir_all(path).unwrap(),
                Some(inode) => {
                    // What is left of a name whose directory is not.
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    let bytes = self.files.get(inode).map_or(&[][..], |bytes| bytes);
                    fs::write(path, bytes).unwrap();
                }
            }
        }
        // The machine was started again since then.
        let boot = to.join("index.boot");
        if boot.exists() {
            fs::write(boot, "a boot before this one\n").unwrap();
        }
    }
}

#[test]
fn what_was_flushed_survives_the_loss_of_power_and_nothing_wrong_is_served() {
    let (seed, cuts) = (seed(), asked("NETBUILD_CUTS", CUTS));
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("data");
    fs::create_dir(&dir).unwrap();
    let (log, trace) = (place.path().join("log"), place.path().join("trace"));
    let orders = Orders { mode: "marked", dir: &dir, log: &log, seed, from: 0, count: OPERATIONS };
    let mut child = orders.command();
    child.env("LD_PRELOAD", interposer()).env("NB_DIR", &dir).env("NB_TRACE", &trace);
    assert!(child.status().unwrap().success());
    let events = recorded(&fs::read(&trace).unwrap(), &dir);
    let marks = events.iter().filter(|event| matches!(event, Event::Mark(_))).count() as u64;
    assert_eq!(marks, OPERATIONS, "of {} events", events.len());

    let mut chance = Chance { seed, n: 0 };
    let mut at: Vec<usize> =
        (0..cuts).map(|_| chance.below(events.len() as u64 + 1) as usize).collect();
    at.sort_unstable();
    let mut disk = Disk::default();
    let (mut taken, mut model, mut flushed) = (0, Model::default(), 0);
    let (mut lost, mut opened) = (0, 0);
    for (cut, at) in at.into_iter().enumerate() {
        for event in &events[taken..at] {
            disk.take(event);
            if let Event::Mark(n) = event {
                (flushed..=*n).for_each(|n| model.done(op(seed, n), n));
                flushed = n + 1;
            }
        }
        taken = at;
        lost += disk.waiting.len();
        let way = match cut % 5 {
            0 => Way::Lost,
            1 => Way::Kept,
            2 => Way::Prefix(chance.below(100)),
            3 => Way::Torn,
            _ => Way::Zeros,
        };
        let what = format!("seed {seed}, cut {cut} before event {at} of {}, {way:?}", events.len());
        let after = tempfile::tempdir_in(place.path()).unwrap();
        disk.clone().cut(way, &mut chance).write(after.path());
        let store = match DiskStore::open(after.path(), "test") {
            Ok(store) => store,
            Err(error) => panic!("{what}: {error}"),
        };
        opened += 1;
        // The operation after the flush may have been begun.
        let mut model = model.clone();
        model.begun(op(seed, flushed), flushed);
        model.back(flushed, seed);
        model.check(&store, &what);
        // And it can be used.
        model.done(op(seed, flushed), flushed);
        crate::script::act(&store, op(seed, flushed), flushed).unwrap();
        store.flush().unwrap();
        drop(store);
        model.check(&DiskStore::open(after.path(), "test").unwrap(), &what);
    }
    println!("{opened} cuts in {} file operations, {lost} of them not synced", events.len());
    assert!(lost > 0);
}
