//! Housekeeping of tiers: small pieces are put together, and what expired is deleted.

use super::Tier;
use netbuild_core::outbox::Writing;
use std::{sync::Arc, time::Duration};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How often a process does it. It costs a request or two where nothing is to do.
const PERIOD: Duration = Duration::from_secs(3600);
/// Longest time of one go. What it had done by then stays done.
const LIMIT: Duration = Duration::from_secs(600);

impl Tier {
    /// Tends the tier until the process stops. The first time is a moment of the first period that is
    /// chosen at random: so agents that start together do not do it all at once, and where there are
    /// only short builds, some of many do it.
    pub(super) async fn tend(self: Arc<Self>, stop: CancellationToken) {
        if self.terms.writing == Writing::Never {
            return;
        }
        let mut wait = PERIOD.mul_f64(crate::random::unit());
        while stop.run_until_cancelled(sleep(wait)).await.is_some() {
            wait = PERIOD;
            if !self.is_open() {
                continue;
            }
            let tending = timeout(LIMIT, self.backend.tend());
            match stop.run_until_cancelled(tending).await {
                None => return,
                Some(Ok(Ok(done))) => tracing::debug!(tier = %self.name, ?done, "tended"),
                Some(Ok(Err(error))) => tracing::info!("{error}; housekeeping waits"),
                Some(Err(_)) => tracing::info!(tier = %self.name, "housekeeping goes on later"),
            }
        }
    }
}
