//! Making the index again while the store is in use: beside the one that is there, from the same files,
//! and then in its place.

use super::{
    catalog::Catalog,
    entry::{BlobEntry, Place},
    index::Index,
    inner::Inner,
    journal::{Location, Position},
    open_error::OpenError,
    recover::{add_files, add_journal},
};
use crate::{Fault, Finding, StoreError, Subject};
use netbuild_core::{
    digest::{Digest, Hash},
    key::ActionKey,
    merge::Evidence,
};
use std::{
    fs, io,
    ops::ControlFlow,
    sync::{MutexGuard, PoisonError},
};

/// Entries that are compared at once.
const PAGE: usize = 1024;
/// Entries that are looked at once more under the lock, at most. When an index lies about more, the
/// number is of no use.
const MAX_SUSPECTS: usize = 10_000;

/// An entry that the files give and the index does not have, or not so.
#[derive(Clone, Copy, Debug)]
enum Suspect {
    Blob(Hash),
    Record(ActionKey),
}

/// An index that is being made.
struct Beside {
    index: Index,
    evidence: Evidence<Location>,
    upto: Position,
}

impl Inner {
    /// Makes the index again if it has failed; says whether it had. When that cannot be written, it
    /// is made in memory, so that all that is here can be read, and an error says why.
    pub(super) fn mend(&self) -> Result<bool, StoreError> {
        let _one = self.mending();
        // Its own threads may have been refused something that shows only now; that marks it.
        let healthy = self.index.persist().is_ok() && !self.index.is_damaged();
        if healthy && !self.index.is_in_memory() {
            return Ok(false);
        }
        let mended = self.mend_on_disk();
        if mended.is_err() && self.index.is_broken() {
            self.mend_in_memory()?;
        }
        mended
    }

    fn mend_in_memory(&self) -> Result<(), StoreError> {
        // Nothing changes meanwhile, and nothing could be written anyway.
        let mut catalog = self.catalog();
        let beside = Beside {
            index: Index::in_memory(&self.layout),
            evidence: Evidence::default(),
            upto: Position::default(),
        };
        catalog.touched = None;
        add_files(&self.layout, &beside.index, &|| ControlFlow::Continue(())).map_err(failed)?;
        let Beside { index, evidence, .. } = self.catch_up(&mut catalog, beside)?;
        self.index.become_memory(&index);
        catalog.evidence = evidence;
        catalog.tally.recount();
        Ok(())
    }

    fn mend_on_disk(&self) -> Result<bool, StoreError> {
        let beside = self.make_beside(&|| ControlFlow::Continue(()))?;
        if let Some(beside) = beside {
            let mut catalog = self.catalog();
            let beside = self.catch_up(&mut catalog, beside)?;
            self.exchange(&mut catalog, beside)?;
        }
        tracing::info!(dir = %self.layout.index().display(), "index was made again");
        Ok(true)
    }

    /// Compares the index with what the files give; with `repair`, makes them alike. `None` when
    /// `going` broke it off.
    pub(super) fn compare_index(
        &self,
        repair: bool,
        going: &dyn Fn() -> ControlFlow<()>,
    ) -> Result<Option<Vec<Finding>>, StoreError> {
        let _one = self.mending();
        let Some(beside) = self.make_beside(going)? else { return Ok(None) };
        let suspects = self.suspects(&beside.index);
        let mut catalog = self.catalog();
        let beside = self.catch_up(&mut catalog, beside)?;
        let mut findings: Vec<Finding> =
            suspects.iter().filter_map(|suspect| self.confirm(*suspect, &beside.index)).collect();
        if self.index.is_damaged() || self.index.is_broken() {
            let detail = "it failed while it was in use".to_owned();
            findings.push(Finding::new(Subject::Index, Fault::Damaged, detail));
        }
        if findings.is_empty() || !repair {
            self.discard(beside.index);
        } else {
            self.exchange(&mut catalog, beside)?;
            findings.iter_mut().for_each(|finding| finding.mended = true);
        }
        Ok(Some(findings))
    }

    fn mending(&self) -> MutexGuard<'_, ()> {
        self.mending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An index of what was here a moment ago. From then on, changes of blob files are noted.
    fn make_beside(
        &self,
        going: &dyn Fn() -> ControlFlow<()>,
    ) -> Result<Option<Beside>, StoreError> {
        super::boot::remove_unfinished(&self.layout)?;
        self.catalog().touched = Some(Vec::new());
        let index = Index::beside(&self.layout)?;
        let mut evidence = Evidence::default();
        let made = add_files(&self.layout, &index, going).and_then(|done| {
            let Some(()) = done else { return Ok(None) };
            add_journal(
                &self.layout,
                &self.segments,
                &index,
                &mut evidence,
                Position::default(),
                going,
            )
        });
        let made = made.map_err(failed);
        if let Ok(Some(upto)) = made {
            return Ok(Some(Beside { index, evidence, upto }));
        }
        self.catalog().touched = None;
        self.discard(index);
        made.map(|_| None)
    }

    /// Adds what has come since then. Nothing more comes while the catalog is locked.
    fn catch_up(&self, catalog: &mut Catalog, beside: Beside) -> Result<Beside, StoreError> {
        let Beside { index, mut evidence, upto } = beside;
        let going = || ControlFlow::Continue(());
        let caught = add_journal(&self.layout, &self.segments, &index, &mut evidence, upto, &going);
        let caught = caught.map_err(failed).and_then(|_| {
            for hash in catalog.touched.take().unwrap_or_default() {
                note_file(&index, &hash, &fs::symlink_metadata(self.layout.blob(&hash)))?;
            }
            index.put_position(catalog.tail.position())
        });
        match caught {
            Ok(()) => Ok(Beside { index, evidence, upto: catalog.tail.position() }),
            Err(error) => {
                self.discard(index);
                Err(error)
            }
        }
    }

    fn exchange(&self, catalog: &mut Catalog, beside: Beside) -> Result<(), StoreError> {
        let Beside { index, evidence, .. } = beside;
        self.index.become_that(index, || {
            match self.quarantine.take(&self.layout.index(), "index") {
                Err(error) if error.source.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        })?;
        catalog.evidence = evidence;
        catalog.tally.recount();
        Ok(())
    }

    /// Lets go of an index that is not needed.
    fn discard(&self, index: Index) {
        drop(index);
        if let Err(error) = super::boot::remove_unfinished(&self.layout) {
            tracing::debug!(path = %error.path.display(), error = %error.source,
                "unfinished index stays");
        }
    }

    /// Entries of `fresh` that the index does not have so.
    fn suspects(&self, fresh: &Index) -> Vec<Suspect> {
        let mut suspects = Vec::new();
        let mut after = None;
        loop {
            let page = fresh.blobs_after(after.as_ref(), PAGE);
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            let lost = page.iter().filter(|(hash, entry)| self.index.blob(hash) != Some(*entry));
            suspects.extend(lost.map(|(hash, _)| Suspect::Blob(*hash)));
            if suspects.len() >= MAX_SUSPECTS {
                return suspects;
            }
        }
        let mut after = None;
        loop {
            let page = fresh.records_after(after.as_ref(), PAGE);
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            let lost = page.iter().filter(|(key, entry)| self.index.record(key) != Some(*entry));
            suspects.extend(lost.map(|(key, _)| Suspect::Record(*key)));
            if suspects.len() >= MAX_SUSPECTS {
                break;
            }
        }
        suspects
    }

    /// What is wrong with the entry, if the index still does not have what the files give.
    fn confirm(&self, suspect: Suspect, fresh: &Index) -> Option<Finding> {
        let (subject, lost) = match suspect {
            Suspect::Blob(hash) => {
                let entry =
                    fresh.blob(&hash).filter(|entry| self.index.blob(&hash) != Some(*entry))?;
                (Subject::Blob(Digest { hash, size: entry.size }), self.index.blob(&hash).is_none())
            }
            Suspect::Record(key) => {
                fresh.record(&key).filter(|entry| self.index.record(&key) != Some(*entry))?;
                (Subject::Record(key), self.index.record(&key).is_none())
            }
        };
        let (fault, detail) = if lost {
            (Fault::Orphaned, "it is here, but the index does not have it")
        } else {
            (Fault::Misplaced, "the index has it at another place")
        };
        Some(Finding::new(subject, fault, detail.to_owned()))
    }
}

/// Notes whether a blob has a file.
fn note_file(
    index: &Index,
    hash: &Hash,
    found: &io::Result<fs::Metadata>,
) -> Result<(), StoreError> {
    match found {
        Ok(meta) if meta.is_file() => {
            index.put_blob(hash, &BlobEntry { size: meta.len(), place: Place::File }, None)
        }
        _ if index.blob(hash).is_some_and(|entry| entry.place == Place::File) => {
            index.forget_blob(hash)
        }
        _ => Ok(()),
    }
}

fn failed(error: OpenError) -> StoreError {
    match error {
        OpenError::Io { path, source } => StoreError::Io { path, source },
        other => StoreError::Index(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DiskStore, Store};
    use std::io::Read;

    fn on() -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn filled(dir: &std::path::Path) -> (DiskStore, Vec<Digest>) {
        let store = DiskStore::open(dir, "test").unwrap();
        let put = |n: u8| {
            let bytes = vec![n; if n.is_multiple_of(2) { 30_000 } else { 300 }];
            store.put_content(&mut &bytes[..]).unwrap()
        };
        let blobs = (0..40).map(put).collect();
        (store, blobs)
    }

    fn read(store: &DiskStore, blob: &Digest) -> bool {
        let Some(mut reader) = store.open_blob(blob).unwrap() else { return false };
        reader.read_to_end(&mut Vec::new()).is_ok()
    }

    #[test]
    fn entries_that_the_index_has_lost_are_found_and_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let (store, blobs) = filled(dir.path());
        assert_eq!(store.check_index(false, &on).unwrap(), Some(Vec::new()));
        for blob in &blobs[..6] {
            store.inner.index.forget_blob(&blob.hash).unwrap();
        }
        for repair in [false, true] {
            let found = store.check_index(repair, &on).unwrap().unwrap();
            assert_eq!(found.len(), 6);
            assert!(found.iter().all(|one| one.fault == Fault::Orphaned && one.mended == repair));
            // A small one is not found by anything else.
            assert_eq!(read(&store, &blobs[1]), repair);
        }
        assert_eq!(store.check_index(false, &on).unwrap(), Some(Vec::new()));
        assert!(blobs.iter().all(|blob| read(&store, blob)));
        assert_eq!(store.stats().blobs, 40);
        drop(store);
        let store = DiskStore::open(dir.path(), "test").unwrap();
        assert!(blobs.iter().all(|blob| read(&store, blob)));
        // The index that lied was put aside, and no other.
        assert_eq!(fs::read_dir(dir.path().join("quarantine")).unwrap().count(), 1);
    }

    #[test]
    fn an_index_that_fails_is_made_again_while_the_store_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let (store, mut blobs) = filled(dir.path());
        assert!(!store.mend().unwrap());
        // What waits to be written to the engine would be found without it.
        drop(store);
        let store = DiskStore::open(dir.path(), "test").unwrap();
        store.inner.index.fail("page 7");
        // Large blobs are found by their names, others not, and nothing fails that only reads.
        assert!(read(&store, &blobs[0]) && !read(&store, &blobs[1]));
        let bytes = vec![77; 30_000];
        blobs.push(store.put_content(&mut &bytes[..]).unwrap());
        assert!(store.mend().unwrap());
        assert!(!store.mend().unwrap());
        assert!(blobs.iter().all(|blob| read(&store, blob)));
        blobs.push(store.put_content(&mut &b"and goes on"[..]).unwrap());
        assert_eq!(store.stats().blobs, 42);
        drop(store);
        let store = DiskStore::open(dir.path(), "test").unwrap();
        assert!(blobs.iter().all(|blob| read(&store, blob)));
        assert!(!dir.path().join("index.new").exists());
        assert!(!dir.path().join("index.damaged").exists());
    }

    #[test]
    fn what_comes_and_goes_while_the_index_is_made_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let (store, mut blobs) = filled(dir.path());
        let inner = &store.inner;
        let beside = inner.make_beside(&on).unwrap().unwrap();
        for n in 50..60_u8 {
            let bytes = vec![n; if n.is_multiple_of(2) { 30_000 } else { 300 }];
            blobs.push(store.put_content(&mut &bytes[..]).unwrap());
        }
        let gone = blobs.remove(0);
        fs::remove_file(inner.layout.blob(&gone.hash)).unwrap();
        inner.lost_file(&gone.hash);
        let mut catalog = inner.catalog();
        let beside = inner.catch_up(&mut catalog, beside).unwrap();
        inner.exchange(&mut catalog, beside).unwrap();
        drop(catalog);
        assert!(blobs.iter().all(|blob| read(&store, blob)));
        assert!(inner.index.blob(&gone.hash).is_none());
        assert_eq!(store.stats().blobs, 49);
    }

    #[test]
    fn a_comparison_that_is_broken_off_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = filled(dir.path());
        let broken_off = store.check_index(true, &|| ControlFlow::Break(())).unwrap();
        assert_eq!(broken_off, None);
        assert!(!dir.path().join("index.new").exists());
        assert_eq!(store.check_index(true, &on).unwrap(), Some(Vec::new()));
    }
}
