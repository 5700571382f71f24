//! What goes next when the store is full.
//!
//! To look at everything takes long in a large store, and more may be put meanwhile, by many at once, than one
//! thread takes away. So a look names more than what must go at once, and who puts something into a store
//! that is over its bound takes away of that first, and a little more than it adds: it pays for its own space,
//! and the bound holds however busy the machine is.

use super::{entry::Place, inner::Inner, layout::sync_dir, uses};
use crate::{
    StoreError,
    space::{Evicted, MAX_NAMED_GONE, Removed},
};
use netbuild_core::{
    digest::{Digest, Hash},
    evict::{Pin, Why},
};
use std::{
    collections::{BTreeSet, VecDeque},
    path::PathBuf,
    time::Duration,
};

/// Things that are named ahead, at most: about 10 MB.
pub(super) const MAX_AHEAD: usize = 32 * 1024;
/// Bytes that are taken away for each one that is added over the bound, so that the store comes back to it.
const PER_BYTE: i64 = 2;

/// How long who adds to a store that is over its bound waits to hear what goes, if that is looked for and
/// nothing is known: it has outrun who looks, and this lets that one catch up.
const PATIENCE: Duration = Duration::from_secs(1);

/// Something that may go.
#[derive(Debug)]
pub(super) struct Leaving {
    /// As it will be reported; its bytes are those that are expected.
    pub(super) removed: Removed,
    /// Whether its record stays, as others have what it names.
    pub(super) hint: bool,
    /// Whether its turn came before, when it had been used since it was looked.
    pub(super) spared: bool,
    /// Bytes of its record.
    pub(super) record: u64,
    /// Its blobs that go with it, with what each takes and where it lies.
    pub(super) parts: Vec<(Digest, u64, Place)>,
}

/// What goes next, in order.
#[derive(Debug)]
pub(super) struct Outgoing {
    next: VecDeque<Leaving>,
    /// When it was looked, in seconds since the Unix epoch.
    looked: u64,
    grace: Duration,
    /// Bytes that the store takes more than it may, as far as is known without looking; negative
    /// while there is room.
    over: i64,
    /// Whether somebody looks at this moment.
    looking: bool,
    /// Things that were named by the last look, and those whose turn came as something was added.
    named: usize,
    by_puts: usize,
    /// What went since that was last asked for.
    done: Evicted,
}

impl Default for Outgoing {
    /// Of a store whose bound nobody has told yet.
    fn default() -> Self {
        Self {
            next: VecDeque::new(),
            looked: 0,
            grace: Duration::ZERO,
            over: i64::MIN,
            looking: false,
            named: 0,
            by_puts: 0,
            done: Evicted::default(),
        }
    }
}

impl Outgoing {
    /// Takes note of what the store takes in bytes, and what it may.
    pub(super) fn measure(&mut self, used: u64, allowed: u64) {
        let [used, allowed] = [used, allowed].map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        self.over = used - allowed;
    }

    /// Says whether somebody looks from now on.
    pub(super) fn look(&mut self, looking: bool) {
        self.looking = looking;
    }

    /// From now on these go, in this order.
    pub(super) fn replace(&mut self, next: VecDeque<Leaving>, grace: Duration) {
        (self.named, self.by_puts) = (next.len(), 0);
        (self.next, self.grace, self.looked) = (next, grace, uses::now());
    }

    /// Bytes that the store takes more than it may.
    pub(super) fn over(&self) -> i64 {
        self.over
    }

    /// Whether what is next goes, to have no more than `goal` bytes over the bound. Not when half of
    /// what was named was needed by who adds: it is time to look again, before nothing is known.
    pub(super) fn is_wanted(&self, goal: i64) -> bool {
        let is_short = self.by_puts > self.named / 2;
        self.next.front().is_some_and(must_go) || (self.over > goal && !is_short)
    }

    /// Nothing goes until it has been looked again.
    pub(super) fn forget(&mut self) {
        self.next.clear();
    }

    /// Keeps no more names than have to be.
    pub(super) fn shorten(&mut self) {
        self.next.truncate(MAX_AHEAD);
        self.next.shrink_to_fit();
    }

    /// What went since this was last asked for.
    pub(super) fn take_done(&mut self) -> Evicted {
        std::mem::take(&mut self.done)
    }
}

impl Inner {
    /// Says that so many bytes were added, and makes room for them if there is none.
    pub(super) fn added(&self, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let mut owed = {
            let mut outgoing = self.outgoing();
            outgoing.over = outgoing.over.saturating_add(bytes);
            outgoing.over.min(bytes.saturating_mul(PER_BYTE))
        };
        let mut waited = false;
        while owed > 0 {
            let count = |outgoing: &mut Outgoing| {
                outgoing.by_puts += 1;
                true
            };
            match self.give_up_next(count, &mut BTreeSet::new()) {
                Ok(Some(freed)) => owed -= i64::try_from(freed).unwrap_or(i64::MAX),
                Ok(None) if !waited => {
                    waited = true;
                    let outgoing = self.outgoing();
                    let nothing = |it: &mut Outgoing| it.looking && it.next.is_empty();
                    // Poisoned or not, it goes on.
                    drop(self.looked.wait_timeout_while(outgoing, PATIENCE, nothing));
                }
                Ok(None) => return,
                // It is here all the same; who makes space will meet the error, and tell it.
                Err(error) => {
                    tracing::debug!(%error, "no room was made for what was put");
                    return;
                }
            }
        }
    }

    /// Gives up what is next if it `may` go, and says how many bytes that gave back: none if it was used
    /// since. `None` when nothing is next.
    pub(super) fn give_up_next(
        &self,
        may: impl FnOnce(&mut Outgoing) -> bool,
        dirs: &mut BTreeSet<PathBuf>,
    ) -> Result<Option<u64>, StoreError> {
        let (mut leaving, grace, since) = {
            let mut outgoing = self.outgoing();
            if !may(&mut outgoing) {
                return Ok(None);
            }
            let Some(leaving) = outgoing.next.pop_front() else { return Ok(None) };
            let since = Duration::from_secs(uses::now().saturating_sub(outgoing.looked));
            (leaving, outgoing.grace, since)
        };
        // A second chance, as in the clock algorithm (Corbató 1968): its turn comes again after all others.
        if !leaving.spared && self.is_any_in_use(&leaving, since) {
            leaving.spared = true;
            self.outgoing().next.push_back(leaving);
            return Ok(Some(0));
        }
        let Some((bytes, blobs)) = self.give_up(&leaving, grace, dirs)? else {
            return Ok(Some(0));
        };
        let mut outgoing = self.outgoing();
        outgoing.over = outgoing.over.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        report(&mut outgoing.done, leaving, bytes, blobs);
        Ok(Some(bytes))
    }

    /// Says how many bytes and blobs went; nothing when it was used meanwhile.
    fn give_up(
        &self,
        leaving: &Leaving,
        grace: Duration,
        dirs: &mut BTreeSet<PathBuf>,
    ) -> Result<Option<(u64, u64)>, StoreError> {
        let mut bytes = 0;
        if let Pin::Action(key) = leaving.removed.what {
            if self.is_in_use(&Hash(key.0), grace) {
                return Ok(None);
            }
            if !leaving.hint && self.remove_record(&key)? {
                bytes += leaving.record;
            }
        }
        let mut blobs = 0;
        for (blob, size, place) in &leaving.parts {
            if self.remove_unused(blob, grace)? {
                bytes += size;
                blobs += 1;
                let dir = self.layout.blob(&blob.hash).parent().map(PathBuf::from);
                dirs.extend(dir.filter(|_| *place == Place::File));
            }
        }
        Ok(Some((bytes, blobs)))
    }

    fn is_any_in_use(&self, leaving: &Leaving, grace: Duration) -> bool {
        let action = match leaving.removed.what {
            Pin::Action(key) => Some(Hash(key.0)),
            Pin::Blob(_) => None,
        };
        let blobs = leaving.parts.iter().map(|(blob, ..)| blob.hash);
        action.into_iter().chain(blobs).any(|name| self.is_in_use(&name, grace))
    }

    /// Whether something was used so short a time ago that it stays.
    pub(super) fn is_in_use(&self, name: &Hash, grace: Duration) -> bool {
        let last = self.uses.last(name, &self.index);
        last.is_some_and(|last| uses::now().saturating_sub(last) < grace.as_secs())
    }
}

/// Syncs directories from which files were removed.
pub(super) fn sync_dirs(dirs: &BTreeSet<PathBuf>) -> Result<(), StoreError> {
    Ok(dirs.iter().try_for_each(|dir| sync_dir(dir))?)
}

/// Adds what went, as so many bytes and blobs.
pub(super) fn report(done: &mut Evicted, leaving: Leaving, bytes: u64, blobs: u64) {
    let Leaving { removed, hint, .. } = leaving;
    if let Pin::Action(key) = removed.what {
        done.actions.push(key);
        if hint {
            done.hints += 1;
        } else {
            done.forgotten.push(key);
        }
    }
    done.blobs += blobs;
    done.bytes += bytes;
    let (count, sum) = done.reasons.entry(removed.why).or_default();
    *count += 1;
    *sum += bytes;
    if done.named.len() < MAX_NAMED_GONE {
        done.named.push(Removed { bytes, ..removed });
    }
}

/// Whether something goes whatever room there is.
pub(super) fn must_go(leaving: &Leaving) -> bool {
    leaving.removed.why == Why::Expired
}
