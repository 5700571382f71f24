//! Taking blobs and records out again. Whoever reads one at that moment reads on to its end.

use super::{
    entry::{BlobEntry, Place},
    frame::Kind,
    inner::Inner,
    layout::remove_file,
    payload::Gone,
};
use crate::StoreError;
use netbuild_core::{digest::Digest, key::ActionKey};
use std::time::{Duration, Instant};

impl Inner {
    /// Removes a blob; says whether it was here.
    pub(super) fn remove_blob(&self, blob: &Digest) -> Result<bool, StoreError> {
        self.remove_if(blob, || true)
    }

    /// Removes a blob unless it was used so short a time ago, or is promised; says whether it went.
    pub(super) fn remove_unused(&self, blob: &Digest, grace: Duration) -> Result<bool, StoreError> {
        self.remove_if(blob, || {
            !self.is_in_use(&blob.hash, grace) && !self.promises().has(&blob.hash, Instant::now())
        })
    }

    /// `may` is asked with the catalog locked, as it is when something is promised: who was promised
    /// a blob and then finds it here keeps it.
    fn remove_if(&self, blob: &Digest, may: impl FnOnce() -> bool) -> Result<bool, StoreError> {
        // A file that the index has lost in a crash is found by its name.
        let here = self.locate(blob).is_some();
        self.index.must_answer()?;
        if !here {
            return Ok(false);
        }
        {
            let mut catalog = self.catalog();
            if !may() {
                return Ok(false);
            }
            let old = self.index.blob(&blob.hash).filter(|entry| entry.size == blob.size);
            match old {
                Some(BlobEntry { place: Place::Journal(_), .. }) => {
                    let gone = Gone::Blob(blob.hash).encode();
                    let location = self.append(&mut catalog, Kind::Gone, &gone, b"")?;
                    catalog.tally.gone_added(&location);
                    self.index.remove_small(&blob.hash, catalog.tail.position())?;
                    catalog.tally.blob_changed(&blob.hash, old, None);
                    return Ok(true);
                }
                // The name of a file is all that says that it is here, so nothing else has to last.
                Some(BlobEntry { place: Place::File, .. }) => {
                    remove_file(&self.layout.blob(&blob.hash))?;
                    self.forget(&mut catalog, &blob.hash, old);
                }
                None => return Ok(false),
            }
        }
        self.checked.doubt(&blob.hash);
        // Without the lock, as there may be thousands of them. Of a blob that is put again meanwhile
        // some may go too: they are made again, or a chunk is fetched twice.
        self.index.forget_parts(blob)?;
        Ok(true)
    }

    /// Removes the record of an action and what lost against it; says whether it was here.
    pub(super) fn remove_record(&self, key: &ActionKey) -> Result<bool, StoreError> {
        let mut catalog = self.catalog();
        let entry = self.index.record(key);
        self.index.must_answer()?;
        let Some(entry) = entry else { return Ok(false) };
        // One that is damaged goes as well, but its outputs are then not known.
        let sealed = self.read_record(key, &entry)?;
        let gone = Gone::Record(*key).encode();
        let location = self.append(&mut catalog, Kind::Gone, &gone, b"")?;
        catalog.tally.gone_added(&location);
        let record = sealed.as_ref().map(|sealed| sealed.record());
        self.index.remove_record(key, record, catalog.tail.position())?;
        catalog.evidence.forget(key);
        catalog.tally.record_changed(key, Some(entry), None);
        Ok(true)
    }
}
