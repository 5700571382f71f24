//! Making space: what is here is looked through, `core::evict` says what goes, and it goes.
//!
//! Nothing waits for it. What is used, promised or pinned while it is under way stays, as each thing is
//! looked at once more before it goes.

use super::{
    entry::{BlobEntry, Place},
    inner::Inner,
    outgoing::{Leaving, MAX_AHEAD, must_go, report, sync_dirs},
    uses,
};
use crate::{
    StoreError,
    space::{Evicted, Evicting, Removed, Share, Survey, Tell},
};
use netbuild_core::{
    digest::{Digest, Hash},
    evict::{self, Holding, Limits, Part, Pin, Why},
    key::ActionKey,
    record::Record,
    tree::Entry,
};
use netbuild_proto::listing::{self, MAX_LISTING};
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    fs, io,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant, UNIX_EPOCH},
};

/// Entries of the index that are looked at together.
const PAGE: usize = 1024;
/// How long it is taken to build what no record tells of: somebody put it, and has it elsewhere as likely
/// as not.
const UNKNOWN_REBUILD: Duration = Duration::from_secs(10);
/// How long ago a small blob was used of which the index has lost when.
const UNKNOWN_IDLE: Duration = Duration::from_secs(24 * 3600);
/// Bytes of a blob's entries in the index, about.
const ENTRY: u64 = 128;
/// Part of the time that looking takes; removing takes the rest.
const LOOKING: f64 = 0.5;

/// What is here.
#[derive(Default)]
struct Found {
    blobs: Vec<(Hash, BlobEntry)>,
    /// When each was last used, in seconds since the Unix epoch, as far as that is known.
    used: Vec<Option<u64>>,
    parts: Vec<Part>,
    names: Vec<Name>,
    holdings: Vec<Holding>,
}

/// What a holding is called.
struct Name {
    what: Pin,
    /// The first path of its outputs.
    path: Vec<u8>,
    region: Arc<str>,
}

impl Found {
    fn leaving(&self, one: &evict::Gone) -> Leaving {
        let (name, holding) = (&self.names[one.holding], &self.holdings[one.holding]);
        let part = |part: &u32| {
            let (hash, entry) = self.blobs[*part as usize];
            (Digest { hash, size: entry.size }, self.parts[*part as usize].bytes, entry.place)
        };
        Leaving {
            removed: Removed {
                what: name.what,
                path: name.path.clone(),
                why: one.why,
                bytes: one.bytes,
                idle: holding.idle,
                rebuild: holding.rebuild,
                refetch: holding.refetch,
            },
            hint: one.hint,
            spared: false,
            record: holding.bytes,
            parts: one.parts.iter().map(part).collect(),
        }
    }
}

/// Bounds between the ages of [`Survey::ages`], in days.
const AGES: [u64; 4] = [1, 7, 30, 90];
/// Paths of [`Survey::paths`].
const MAX_PATHS: usize = 20;

impl Inner {
    /// Gives up what `limits` say.
    pub(super) fn evict(
        self: &Arc<Self>,
        limits: &Limits,
        how: &Evicting<'_>,
    ) -> Result<Evicted, StoreError> {
        let _one = self.evicting.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.reconciled.swap(true, Ordering::Relaxed) {
            self.reconcile()?;
        }
        let usage = self.usage()?;
        // What is dead in the journal comes back without anything that has to be given up for it.
        let used = usage.total().saturating_sub(usage.dead / 2);
        let excess = limits.excess(used, usage.free);
        if !how.dry_run {
            self.outgoing().measure(used, limits.allowed(used, usage.free));
        }
        if excess == 0 && !how.expire {
            return Ok(if how.dry_run { Evicted::default() } else { self.outgoing().take_done() });
        }
        self.write_uses();
        let looking = Looking::begin(self);
        let Some(found) = self.look(how.refetch, how.tell)? else {
            return Ok(Evicted { broken_off: true, ..Evicted::default() });
        };
        // In a full store, what is still here when as much has gone is next when more is put.
        let wanted = if excess == 0 { 0 } else { u64::MAX };
        let gone = evict::choose(&found.holdings, &found.parts, limits, wanted);
        let mut bytes = 0;
        let needed = gone.iter().take_while(|one| {
            bytes += one.bytes;
            bytes - one.bytes < excess || one.why == Why::Expired
        });
        let named = needed.count() + MAX_AHEAD;
        let leaving: VecDeque<Leaving> =
            gone.iter().take(named).map(|one| found.leaving(one)).collect();
        drop(found);
        if how.dry_run {
            return Ok(would_go(leaving, excess));
        }
        self.outgoing().replace(leaving, limits.grace);
        drop(looking);
        // Who adds meanwhile takes away, too.
        let start = self.outgoing().over();
        let goal = start.saturating_sub(i64::try_from(excess).unwrap_or(i64::MAX));
        let (mut count, mut dirs) = (0_usize, BTreeSet::new());
        let mut broken_off = false;
        while self.give_up_next(|outgoing| outgoing.is_wanted(goal), &mut dirs)?.is_some() {
            count += 1;
            if count.is_multiple_of(PAGE) {
                let freed = start.saturating_sub(self.outgoing().over()).max(0);
                let part = (freed as f64 / excess.max(1) as f64).min(1.0);
                if (how.tell)("removing", LOOKING + (1.0 - LOOKING) * part).is_break() {
                    broken_off = true;
                    break;
                }
            }
        }
        sync_dirs(&dirs)?;
        let mut outgoing = self.outgoing();
        outgoing.shorten();
        Ok(Evicted { broken_off, ..outgoing.take_done() })
    }

    /// Looks through everything; `None` when it was broken off.
    fn look(
        self: &Arc<Self>,
        refetch: &dyn Fn(&ActionKey, &[u64]) -> Option<Duration>,
        tell: Tell<'_>,
    ) -> Result<Option<Found>, StoreError> {
        let mut regions = BTreeSet::<Arc<str>>::new();
        let nowhere: Arc<str> = Arc::from("");
        let now = uses::now();
        let mut found = Found::default();
        let mut places = HashMap::new();
        let pins = self.pins().list();
        let pinned: BTreeSet<Pin> = pins.into_iter().map(|pinned| pinned.pin).collect();
        let totals = self.totals();
        let all = (totals.blobs + totals.records).max(1) as f64;
        let mut after = None;
        loop {
            let page = self.index.blobs_after(after.as_ref(), PAGE);
            let Some((last, _)) = page.last() else { break };
            let uses = self.index.uses_between(after.as_ref(), last);
            after = Some(*last);
            for (hash, entry) in page {
                let blob = Digest { hash, size: entry.size };
                found.used.push(self.uses.last_of(&hash, &uses));
                let kept =
                    pinned.contains(&Pin::Blob(blob)) || self.promises().has(&hash, Instant::now());
                places.insert(hash, found.blobs.len() as u32);
                found.blobs.push((hash, entry));
                found.parts.push(Part { bytes: entry.size + ENTRY, kept });
            }
            if tell("looking", LOOKING * found.blobs.len() as f64 / all).is_break() {
                return Ok(None);
            }
        }
        let mut named = vec![false; found.blobs.len()];
        let mut after = None;
        loop {
            let page = self.index.records_after(after.as_ref(), PAGE);
            let Some((last, _)) = page.last() else { break };
            let name = |key: &ActionKey| Hash(key.0);
            let uses = self.index.uses_between(after.as_ref().map(name).as_ref(), &name(last));
            after = Some(*last);
            for (key, entry) in page {
                let Some(sealed) = self.read_record(&key, &entry)? else { continue };
                let record = sealed.record();
                let (here, whole) = self.parts_of(record, &places);
                here.iter().for_each(|part| named[*part as usize] = true);
                let kept = pinned.contains(&Pin::Action(key));
                if kept {
                    here.iter().for_each(|part| found.parts[*part as usize].kept = true);
                }
                let sizes: Vec<u64> =
                    here.iter().map(|part| found.blobs[*part as usize].1.size).collect();
                let last = here
                    .iter()
                    .filter_map(|part| found.used[*part as usize])
                    .chain(self.uses.last_of(&name(&key), &uses))
                    .chain([record.hlc.millis() / 1000])
                    .max()
                    .unwrap_or(0);
                found.holdings.push(Holding {
                    bytes: u64::from(entry.location.len) + ENTRY,
                    parts: here,
                    whole,
                    idle: Duration::from_secs(now.saturating_sub(last)),
                    rebuild: Duration::from_millis(record.execution.duration_ms),
                    refetch: refetch(&key, &sizes),
                    kept,
                });
                let path = record.result.outputs.first().map(|output| output.path.clone());
                let known = regions.get(record.region.as_str()).cloned();
                let region = known.unwrap_or_else(|| Arc::from(record.region.as_str()));
                regions.insert(Arc::clone(&region));
                let path = path.unwrap_or_default();
                found.names.push(Name { what: Pin::Action(key), path, region });
            }
            let looked = found.blobs.len() + found.holdings.len();
            if tell("looking", LOOKING * looked as f64 / all).is_break() {
                return Ok(None);
            }
        }
        for (part, (hash, entry)) in found.blobs.iter().enumerate().filter(|(at, _)| !named[*at]) {
            found.holdings.push(Holding {
                bytes: 0,
                parts: vec![part as u32],
                whole: true,
                idle: self.idle_of(found.used[part], hash, entry, now),
                rebuild: UNKNOWN_REBUILD,
                refetch: None,
                kept: found.parts[part].kept,
            });
            let blob = Digest { hash: *hash, size: entry.size };
            let region = Arc::clone(&nowhere);
            found.names.push(Name { what: Pin::Blob(blob), path: Vec::new(), region });
        }
        Ok(Some(found))
    }

    /// Who takes the space.
    pub(super) fn survey(self: &Arc<Self>, tell: Tell<'_>) -> Result<Option<Survey>, StoreError> {
        let Some(found) = self.look(&|_, _| None, tell)? else { return Ok(None) };
        let mut users = vec![0_u64; found.parts.len()];
        found.holdings.iter().flat_map(|one| &one.parts).for_each(|at| users[*at as usize] += 1);
        let mut survey = Survey::default();
        let mut paths = HashMap::<&[u8], Share>::new();
        for (name, holding) in found.names.iter().zip(&found.holdings) {
            let shares = holding.parts.iter().map(|at| *at as usize);
            let bytes = shares.map(|at| found.parts[at].bytes / users[at]).sum::<u64>();
            let bytes = bytes + holding.bytes;
            let days = holding.idle.as_secs() / (24 * 3600);
            let age = AGES.iter().take_while(|bound| days >= **bound).count();
            let region = survey.regions.entry(name.region.to_string()).or_default();
            let path = paths.entry(&name.path).or_default();
            for share in [&mut survey.ages[age], region, path] {
                share.count += 1;
                share.bytes += bytes;
            }
        }
        let mut paths: Vec<_> = paths.into_iter().collect();
        paths.sort_unstable_by_key(|(path, share)| (std::cmp::Reverse(share.bytes), *path));
        paths.truncate(MAX_PATHS);
        survey.paths = paths.into_iter().map(|(path, share)| (path.to_vec(), share)).collect();
        Ok(Some(survey))
    }

    /// The blobs of a record that are here, each once, and whether these are all.
    fn parts_of(
        self: &Arc<Self>,
        record: &Record,
        places: &HashMap<Hash, u32>,
    ) -> (Vec<u32>, bool) {
        let mut wanted: BTreeSet<Digest> = record.blobs().collect();
        let mut whole = true;
        for listing in record.listings() {
            match self.files_of(&listing) {
                Some(files) => wanted.extend(files),
                None => whole = false,
            }
        }
        let here: Vec<u32> =
            wanted.iter().filter_map(|blob| places.get(&blob.hash).copied()).collect();
        whole &= here.len() == wanted.len();
        (here, whole)
    }

    fn files_of(self: &Arc<Self>, listing: &Digest) -> Option<Vec<Digest>> {
        if listing.size > MAX_LISTING as u64 {
            return None;
        }
        let mut bytes = Vec::new();
        // Not through the reader of a user, as looking is no use.
        let mut reader = self.open_unused(listing).ok().flatten()?;
        io::Read::read_to_end(&mut reader, &mut bytes).ok()?;
        let entries = listing::decode(&bytes).ok()?;
        let file = |entry| match entry {
            Entry::File { digest, .. } => Some(digest),
            Entry::Symlink { .. } | Entry::Directory => None,
        };
        Some(entries.into_iter().filter_map(|(_, entry)| file(entry)).collect())
    }

    fn idle_of(&self, used: Option<u64>, hash: &Hash, entry: &BlobEntry, now: u64) -> Duration {
        if let Some(last) = used {
            return Duration::from_secs(now.saturating_sub(last));
        }
        let written = match entry.place {
            Place::File => fs::symlink_metadata(self.layout.blob(hash)).and_then(|m| m.modified()),
            Place::Journal(_) => return UNKNOWN_IDLE,
        };
        let written = written.ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        written.map_or(UNKNOWN_IDLE, |at| Duration::from_secs(now.saturating_sub(at.as_secs())))
    }

    /// Takes in blob files that the index has lost in a crash, which would never be given up, and
    /// forgets entries whose files are gone.
    fn reconcile(&self) -> Result<(), StoreError> {
        for dir in super::recover::entries(&self.layout.blobs())?.iter().filter(|dir| dir.is_dir())
        {
            for path in super::recover::entries(dir)? {
                let name = path.file_name().and_then(|name| name.to_str()?.parse::<Hash>().ok());
                let hash = name.filter(|hash| self.layout.blob(hash) == path);
                let Some(hash) = hash.filter(|hash| self.index.blob(hash).is_none()) else {
                    continue;
                };
                if let Ok(meta) = fs::symlink_metadata(&path)
                    && meta.is_file()
                {
                    self.adopt(&Digest { hash, size: meta.len() });
                }
            }
        }
        let mut after = None;
        loop {
            let page = self.index.blobs_after(after.as_ref(), PAGE);
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(*last);
            let files = page.iter().filter(|(_, entry)| entry.place == Place::File);
            for (hash, _) in files {
                if !fs::exists(self.layout.blob(hash)).unwrap_or(true) {
                    self.lost_file(hash);
                }
            }
        }
    }
}

/// Says that somebody looks, until it is dropped.
struct Looking<'a>(&'a Inner);

impl<'a> Looking<'a> {
    fn begin(inner: &'a Inner) -> Self {
        inner.outgoing().look(true);
        Self(inner)
    }
}

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        self.0.outgoing().look(false);
        self.0.looked.notify_all();
    }
}

/// What would go for so many bytes.
fn would_go(leaving: VecDeque<Leaving>, excess: u64) -> Evicted {
    let mut done = Evicted::default();
    for one in leaving {
        if done.bytes >= excess && !must_go(&one) {
            break;
        }
        let (bytes, blobs) = (one.removed.bytes, one.parts.len() as u64);
        report(&mut done, one, bytes, blobs);
    }
    done
}
