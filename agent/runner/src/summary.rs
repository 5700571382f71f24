//! What a run came to, in numbers.

use netbuild_core::{backend::TierKind, cache::Source, record::Sandbox};
use std::{collections::BTreeMap, time::Duration};

/// Hits by where their outputs came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hits {
    /// This agent's disk, or already in the workspace.
    pub disk: usize,
    /// Another agent.
    pub peer: usize,
    /// A Redis tier.
    pub redis: usize,
    /// An S3 tier.
    pub s3: usize,
}

impl Hits {
    /// All of them.
    pub fn total(self) -> usize {
        self.disk + self.peer + self.redis + self.s3
    }
}

/// What a run came to. Tasks without a command are not counted: they have nothing to do.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Summary {
    /// Tasks that the targets need: executed, hit, failed or skipped, each in one of these.
    pub tasks: usize,
    /// Commands that ran and succeeded.
    pub executed: usize,
    /// Commands that ran although others have their results, which were expected to come later.
    pub sooner_built: usize,
    /// How many of those that ran did so at which level of hermeticity.
    pub levels: BTreeMap<Sandbox, usize>,
    /// Results that came from a cache.
    pub hits: Hits,
    /// Tasks that failed.
    pub failed: usize,
    /// Tasks that did not run: for their platform, a failure before them, or a cancellation.
    pub skipped: usize,
    /// Hits from peers and tiers, by region and by place.
    pub sources: BTreeMap<String, usize>,
    /// Bytes that peers and tiers sent, as they were sent.
    pub bytes_fetched: u64,
    /// Wall time of the run.
    pub elapsed: Duration,
    /// What the commands of all hits took when they ran, less the time that the hits took now.
    pub saved: Duration,
    /// Whether the run was cancelled.
    pub cancelled: bool,
    /// Whether all stands that an earlier run looked at which had nothing to do, so that nothing else was asked.
    pub unchanged: bool,
}

impl Summary {
    /// Whether all that was asked for is done.
    pub fn is_success(&self) -> bool {
        self.failed == 0 && !self.cancelled
    }

    pub(crate) fn hit(&mut self, source: &Source, bytes: u64, saved: Duration, spent: Duration) {
        match source {
            Source::Disk => self.hits.disk += 1,
            Source::Peer { region, .. } => {
                self.hits.peer += 1;
                *self.sources.entry(region.clone()).or_default() += 1;
            }
            Source::Tier(tier) => {
                match tier.kind {
                    TierKind::Redis => self.hits.redis += 1,
                    TierKind::S3 => self.hits.s3 += 1,
                    // Of this process, and so as near as its disk.
                    TierKind::Memory => self.hits.disk += 1,
                }
                *self.sources.entry(tier.place.clone()).or_default() += 1;
            }
        }
        self.bytes_fetched += bytes;
        self.saved += saved.saturating_sub(spent);
    }
}
