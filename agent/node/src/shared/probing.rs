//! Finding out, in the background, whether a tier that failed is back, and how far each is.

use super::Shared;
use crate::view::View;
use netbuild_core::{health::Fault, tiers::TierId};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

/// How often it is looked whether a probe is due.
const TICK: Duration = Duration::from_millis(250);
/// Longest time of a probe.
const LIMIT: Duration = Duration::from_secs(3);

type Probed = (TierId, Result<Duration, Fault>);

impl Shared {
    /// Probes until the process stops.
    pub(super) async fn probe(self: Arc<Self>, view: Arc<View>, stop: CancellationToken) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut probes: JoinSet<Probed> = JoinSet::new();
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    while let Some(id) = view.peers(|peers, now| peers.tiers_mut().poll_probe(now)) {
                        self.start(id, &mut probes);
                    }
                }
                Some(probed) = probes.join_next() => match probed {
                    Ok(probed) => self.take(&view, probed),
                    Err(error) => tracing::error!(%error, "a probe failed"),
                },
                () = stop.cancelled() => break,
            }
        }
        probes.shutdown().await;
    }

    fn start(&self, id: TierId, probes: &mut JoinSet<Probed>) {
        let Some(tier) = self.tier(id).map(Arc::clone) else { return };
        probes.spawn(async move {
            let began = Instant::now();
            let answer = match timeout(LIMIT, tier.backend.probe()).await {
                Ok(Ok(())) => Ok(began.elapsed()),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "not back yet");
                    Err(Fault::Unavailable)
                }
                Err(_) => Err(Fault::Unavailable),
            };
            (id, answer)
        });
    }

    fn take(&self, view: &View, (id, answer): Probed) {
        let was_open = view.peers(|peers, now| {
            let was_open = peers.tiers().is_open_to(id, now);
            peers.tiers_mut().handle_probed(id, answer, crate::random::unit(), now);
            was_open
        });
        if answer.is_ok() && !was_open {
            if let Some(tier) = self.tier(id) {
                tracing::info!(tier = %tier.name, "back");
            }
            self.state().outbox.handle_back(id);
            self.something.notify_waiters();
        }
    }
}
