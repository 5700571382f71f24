//! Bringing what lookups to come will want, of all of them at once: a build that asks for one
//! result after the other pays the round trips of each.

use super::{Fetcher, MAX_ROUNDS, Scope, Taken, Want};
use futures::{StreamExt as _, stream};
use netbuild_core::{
    cache::{CacheError, Source},
    chunk::MAX_CHUNK,
    digest::Digest,
    key::ActionKey,
    moved::Watch,
    plan::Who,
    record::Record,
};
use netbuild_proto::{data::Priority, record::SealedRecord};
use std::collections::{BTreeMap, BTreeSet};

/// Groups of records with the same holders that are brought at the same time.
const AT_ONCE: usize = 4;

impl Fetcher {
    /// Brings what the records of these keys name that are here. What cannot be had is left to the
    /// lookups.
    pub(crate) async fn bring(
        &self,
        keys: &[ActionKey],
        watch: &dyn Watch,
    ) -> Result<(), CacheError> {
        // Those that the same agents hold share their round trips.
        let mut groups: BTreeMap<BTreeSet<Who>, Vec<SealedRecord>> = BTreeMap::new();
        for key in keys {
            let Some(record) = self.disk.record_of(key)? else { continue };
            if !self.disk.lacking(record.record())?.is_empty() {
                groups.entry(self.holders(&record)).or_default().push(record);
            }
        }
        let bringing = groups.iter().map(|(who, records)| self.bring_group(who, records, watch));
        let mut bringing = stream::iter(bringing).buffer_unordered(AT_ONCE);
        while let Some(brought) = bringing.next().await {
            brought?;
        }
        Ok(())
    }

    async fn bring_group(
        &self,
        holders: &BTreeSet<Who>,
        records: &[SealedRecord],
        watch: &dyn Watch,
    ) -> Result<(), CacheError> {
        let named: Vec<&Record> = records.iter().map(SealedRecord::record).collect();
        let mut taken = Taken::default();
        for _ in 0..MAX_ROUNDS {
            let (mut worth, mut known) = (Vec::new(), BTreeSet::new());
            for record in &named {
                let blobs = self.disk.lacking(record)?.blobs;
                let size: u64 = blobs.iter().map(|blob| blob.size).sum();
                let saved = record.execution.duration_ms as f64 / size.max(1) as f64;
                let new = blobs.into_iter().filter(|blob| known.insert(*blob));
                worth.extend(new.map(|blob| (blob, saved)));
            }
            let listings: BTreeSet<Digest> =
                named.iter().flat_map(|record| record.listings()).collect();
            let lacking = in_order(worth, &listings);
            if lacking.is_empty() {
                break;
            }
            let bases = self.bases(&named, &known)?;
            let want = Want {
                what: format!("{} results", records.len()),
                blobs: &lacking,
                bases: &bases,
                holders: holders.clone(),
                build_ms: Some(named.iter().map(|record| record.execution.duration_ms).sum()),
                scope: Scope::Mesh,
                rounds: 1,
                priority: Priority::Normal,
                alike: self.delta,
                watch,
                landed: &|blob: &Digest, from: Option<&Source>, sent| {
                    if let Some(from) = from {
                        self.credits.add(*blob, from.clone(), sent);
                    }
                },
                course: &(),
            };
            if !self.blobs(&want, &mut taken).await?.is_empty() {
                break;
            }
        }
        for record in records {
            if self.disk.lacking(record.record())?.is_empty() {
                self.heal(record)?;
                self.came(record, &taken);
            }
        }
        Ok(())
    }
}

/// Blobs in the order in which they are to come, each with the milliseconds of building that a byte of its
/// result saves. What saves most comes first: if it comes to that, the rest is sooner built, and the link
/// and the processors share the work. But listings come before all, as whoever asked goes on by what they
/// name, and blobs of many chunks last, as the lists of these are asked for first.
fn in_order(mut worth: Vec<(Digest, f64)>, listings: &BTreeSet<Digest>) -> Vec<Digest> {
    worth.sort_by(|(one, saves), (other, saves_other)| {
        let class = |blob: &Digest| (!listings.contains(blob), blob.size > MAX_CHUNK as u64);
        class(one).cmp(&class(other)).then(saves_other.total_cmp(saves))
    });
    worth.into_iter().map(|(blob, _)| blob).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::digest::Hash;

    #[test]
    fn what_saves_most_for_its_bytes_comes_first_and_listings_before_it() {
        let blob = |n: u8, size| Digest { hash: Hash([n; 32]), size };
        let large = MAX_CHUNK as u64 + 1;
        let (listing, quick, long, huge, huge_long) =
            (blob(1, 100), blob(2, 1000), blob(3, 1000), blob(4, large), blob(5, large));
        let worth = vec![(quick, 0.1), (huge, 0.01), (huge_long, 0.5), (listing, 0.0), (long, 2.0)];
        let expected = [listing, long, quick, huge_long, huge];
        assert_eq!(in_order(worth, &BTreeSet::from([listing])), expected);
    }
}
