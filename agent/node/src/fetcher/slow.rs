//! Ending the wait for what is sooner built.

use super::{Fetcher, Want};
use crate::decisions::{LEFT_TO_BE_BUILT, decision};
use netbuild_core::{digest::Digest, plan::Plan, sooner::Slow};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// How often it is looked how a fetch goes.
const LOOK: Duration = Duration::from_millis(20);

/// Waiting for something that could be built instead.
pub(super) struct Waiting {
    began: Instant,
    build: Duration,
    patience: Duration,
}

impl Fetcher {
    /// `None` for who cannot build instead, or would not know how long that takes.
    pub(super) fn waiting(&self, want: &Want<'_>) -> Option<Waiting> {
        let building = want.watch.building().filter(|_| self.builds)?;
        let told = want.build_ms.filter(|ms| *ms > 0).map(Duration::from_millis);
        let build = building.own.or(told)?;
        Some(Waiting { began: Instant::now(), build, patience: building.patience(build) })
    }

    /// Waits for what is `coming`, unless the `wanted` blobs turn out to come later than they are built.
    pub(super) async fn unless_slow<T>(
        &self,
        waiting: Option<&Waiting>,
        want: &Want<'_>,
        wanted: &[Digest],
        coming: impl Future<Output = T>,
    ) -> Result<T, Slow> {
        let Some(waiting) = waiting else { return Ok(coming.await) };
        let slow = async {
            loop {
                sleep(LOOK).await;
                let waited = waiting.began.elapsed();
                let Some(outlook) = self.flights.outlook(wanted) else { continue };
                if outlook.is_too_late(waited, waiting.patience) {
                    return Slow { build: waiting.build, fetch: outlook.remaining, waited };
                }
            }
        };
        tokio::select! {
            biased;
            came = coming => Ok(came),
            slow = slow => {
                // Others may bring them among what they bring.
                self.flights.give_up(wanted);
                let size = wanted.iter().map(|blob| blob.size).sum();
                let (plan, outcome) = (Plan { size, ..Plan::default() }, format!("{LEFT_TO_BE_BUILT}: {slow}"));
                self.decisions.add(decision(want.what.clone(), &plan, &[], want.build_ms, &outcome));
                Err(slow)
            }
        }
    }
}
