//! Following what others put into a tier, so that a miss costs no round trip.

use super::Tier;
use crate::fetcher::Fetcher;
use netbuild_core::{backend::TierKind, cache::CacheError, plan::Who};
use netbuild_store::{Changes, Kept};
use std::time::{Duration, Instant};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How often a tier is looked at that costs nothing to look at.
const OFTEN: Duration = Duration::from_secs(2);
/// How often others are: a request to S3 costs money, and 10 seconds of them a few dollars a year.
const SELDOM: Duration = Duration::from_secs(10);
/// How often it is looked whether a tier that failed is back.
const LOOK: Duration = Duration::from_millis(500);
/// Longest time that one answer may take.
const LIMIT: Duration = Duration::from_secs(30);

impl Fetcher {
    /// Takes the records that come into a tier, until the process stops. Blocks a thread, as it reads
    /// and writes the disk.
    pub(super) async fn follow(&self, tier: &Tier, stop: &CancellationToken) {
        let pause = match tier.name.kind {
            TierKind::S3 => SELDOM,
            TierKind::Redis | TierKind::Memory => OFTEN,
        };
        let cursors = || self.shared.cursors.lock().unwrap_or_else(|poison| poison.into_inner());
        let mut cursor = cursors().get(tier.lane());
        loop {
            let open = tier.is_open();
            let mut wait = LOOK;
            if open {
                let bytes = |changes: &Changes| {
                    changes.records.iter().map(|record| record.as_bytes().len() as u64).sum()
                };
                let answer = tier.backend.changes(&cursor);
                let asked = Instant::now();
                let changes = tier.ask(LIMIT, bytes, answer);
                let Some(changes) = stop.run_until_cancelled(changes).await else { return };
                if let Some(changes) = changes {
                    match self.take_changes(tier, &changes) {
                        Ok(()) => {
                            self.shared.keep_known(false);
                            cursors().set(tier.lane(), changes.cursor.clone());
                            cursor = changes.cursor;
                            if !changes.more {
                                self.shared.state().compared.insert(tier.id, asked);
                            }
                            wait = if changes.more { Duration::ZERO } else { pause };
                        }
                        Err(error) => {
                            tracing::warn!(tier = %tier.name, %error, "records are not kept");
                            wait = pause;
                        }
                    }
                }
            }
            if stop.run_until_cancelled(sleep(wait)).await.is_none() {
                return;
            }
        }
    }

    fn take_changes(&self, tier: &Tier, changes: &Changes) -> Result<(), CacheError> {
        for record in &changes.records {
            let key = record.record().key;
            self.shared.note(key, tier.id);
            if self.keep(record)? == Kept::Stored {
                self.came_unasked(key, Who::Tier(tier.id));
            }
        }
        // What the cursor passes is here for good.
        if changes.records.is_empty() { Ok(()) } else { self.disk.flush_store() }
    }
}
