//! Asking tiers, within bounded time, while somebody waits.

use super::{Shared, Tier};
use futures::{StreamExt as _, stream::FuturesUnordered};
use netbuild_core::{backend::TierKind, digest::Digest, key::ActionKey, score::patience};
use netbuild_proto::record::SealedRecord;
use std::{sync::Arc, time::Duration};

/// Shortest time that an answer is waited for: a busy machine needs as much.
const LEAST: Duration = Duration::from_millis(100);
/// Longest time that an answer is waited for: what a build pays, once, for a tier that has become
/// silent.
const MOST: Duration = Duration::from_secs(1);
/// For so long, what was compared with a tier that costs nothing to follow is as good as an answer;
/// with others, where following costs money, for longer.
const FRESH: Duration = Duration::from_secs(5);
const FRESH_ENOUGH: Duration = Duration::from_secs(30);

impl Tier {
    /// How long a small answer is waited for.
    fn patience(&self) -> Duration {
        patience(&self.link(), LEAST, MOST)
    }

    /// Whether it has all of `blobs`, as far as it says so soon enough.
    pub(crate) async fn has(&self, blobs: &[Digest]) -> bool {
        if !blobs.iter().all(|blob| self.may_hold(blob)) {
            return false;
        }
        let found = self.ask(self.patience(), |_| 0, self.backend.find(blobs)).await;
        found.is_some_and(|found| found.len() == blobs.len() && found.iter().all(|found| *found))
    }
}

impl Shared {
    /// The tiers that can be asked now.
    fn open(&self) -> Vec<Arc<Tier>> {
        self.tiers.iter().filter(|tier| tier.is_open()).cloned().collect()
    }

    fn is_fresh(&self, tier: &Tier) -> bool {
        let fresh = match tier.name.kind {
            TierKind::S3 => FRESH_ENOUGH,
            TierKind::Redis | TierKind::Memory => FRESH,
        };
        self.compared(tier.id).is_some_and(|passed| passed < fresh)
    }

    /// The record of a key from the tiers of which not all records are known here, or with `all` from
    /// any: the first answer that has it. One question to each, all at once.
    pub(crate) async fn record(
        &self,
        key: &ActionKey,
        all: bool,
    ) -> Option<(SealedRecord, Arc<Tier>)> {
        let mut tiers = self.open();
        tiers.retain(|tier| all || !self.is_fresh(tier));
        let keys = [*key];
        let mut answers: FuturesUnordered<_> = tiers
            .into_iter()
            .map(|tier| async {
                let limit = tier.patience();
                let bytes = |records: &Vec<Option<SealedRecord>>| {
                    records.iter().flatten().map(|record| record.as_bytes().len() as u64).sum()
                };
                let answer = tier.backend.records(&keys);
                let record = tier.ask(limit, bytes, answer).await?.pop().flatten();
                let record = record.filter(|record| record.record().key == *key)?;
                Some((record, tier))
            })
            .collect();
        while let Some(answer) = answers.next().await {
            if let Some((record, tier)) = answer {
                self.note(*key, tier.id);
                return Some((record, tier));
            }
        }
        None
    }
}
