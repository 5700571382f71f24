//! What a patch may start from: what the same task left at the same place before.

use crate::disk_cache::{DiskCache, failed};
use netbuild_core::{cache::CacheError, digest::Digest, record::Record};
use std::collections::{BTreeMap, BTreeSet};

/// Most blobs that are named as possible bases of one.
pub(crate) const MAX_BASES: usize = 4;
/// Bytes below which a blob is sent as it is: a patch would hardly be smaller.
const LEAST: u64 = 4 * 1024;

/// Blobs that are here and may resemble one that is not, the likeliest first.
pub(crate) type Bases = BTreeMap<Digest, Vec<Digest>>;

impl DiskCache {
    /// For those of `lacking` that these records name: what earlier records name at the same paths,
    /// as far as it is here.
    pub(crate) fn bases(
        &self,
        records: &[&Record],
        lacking: &BTreeSet<Digest>,
    ) -> Result<Bases, CacheError> {
        let mut bases = Bases::new();
        let outputs = records.iter().flat_map(|record| &record.result.outputs);
        for output in outputs {
            let Some(blob) = output.blob() else { continue };
            let listing = output.listing();
            if !lacking.contains(&blob) && listing.is_none() {
                continue;
            }
            let mut before = self.store().previous(&output.path).map_err(failed)?;
            before.retain(|other| *other != blob);
            if let Some(listing) = listing.filter(|listing| !lacking.contains(listing)) {
                self.bases_of_files(&listing, &before, lacking, &mut bases)?;
            }
            self.add(blob, before, lacking, &mut bases)?;
        }
        Ok(bases)
    }

    /// For the files of a listing: those at the same paths of the last listing before that is here.
    fn bases_of_files(
        &self,
        listing: &Digest,
        before: &[Digest],
        lacking: &BTreeSet<Digest>,
        bases: &mut Bases,
    ) -> Result<(), CacheError> {
        let Some(files) = self.files(listing)? else { return Ok(()) };
        for earlier in before {
            let Some(earlier) = self.files(earlier)? else { continue };
            let earlier: BTreeMap<Vec<u8>, Digest> = earlier.into_iter().collect();
            for (path, file) in files {
                if let Some(before) = earlier.get(&path) {
                    self.add(file, vec![*before], lacking, bases)?;
                }
            }
            break;
        }
        Ok(())
    }

    fn add(
        &self,
        blob: Digest,
        before: Vec<Digest>,
        lacking: &BTreeSet<Digest>,
        bases: &mut Bases,
    ) -> Result<(), CacheError> {
        if blob.size < LEAST || !lacking.contains(&blob) {
            return Ok(());
        }
        for base in before {
            let known = bases.get(&blob).map_or(&[][..], Vec::as_slice);
            let is_new = base != blob && base.size >= LEAST && !known.contains(&base);
            if is_new && known.len() < MAX_BASES && self.store().has_blob(&base).map_err(failed)? {
                // Of what has none nothing is said, so that something else may be found for it.
                bases.entry(blob).or_default().push(base);
            }
        }
        Ok(())
    }
}
