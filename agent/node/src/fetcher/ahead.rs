//! Bringing what lookups to come will want, of all of them at once: a build that asks for one
//! result after the other pays the round trips of each.

use super::{Fetcher, MAX_ROUNDS, Scope, Taken, Want};
use futures::{StreamExt as _, stream};
use netbuild_core::{
    cache::{CacheError, Source},
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
            // In the order of the keys, which is that in which they are looked up; but listings first, as
            // whoever asked goes on by what they name.
            let (mut lacking, mut known) = (Vec::new(), BTreeSet::new());
            for record in &named {
                let blobs = self.disk.lacking(record)?.blobs;
                lacking.extend(blobs.into_iter().filter(|blob| known.insert(*blob)));
            }
            let listings: BTreeSet<Digest> =
                named.iter().flat_map(|record| record.listings()).collect();
            lacking.sort_by_key(|blob| !listings.contains(blob));
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
