//! Hands [`netbuild_core::congestion`] to quinn.

use netbuild_core::congestion::{Congestion, hinted_window};
use quinn::{
    Connection,
    congestion::{Controller, ControllerFactory},
};
use quinn_proto::RttEstimator;
use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Makes controllers that model the link. quinn knows no connection by more than its controller,
/// so each carries the cell through which
/// [`Endpoint::expect`](crate::Endpoint::expect) reaches it.
#[derive(Debug)]
pub struct Modelled {
    /// Seed of the next controller.
    seed: AtomicU64,
}

impl Modelled {
    /// Agents that share a link should have different seeds, so that they do not probe in step.
    pub fn new(seed: u64) -> Self {
        Self { seed: AtomicU64::new(seed) }
    }
}

impl ControllerFactory for Modelled {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let seed = self.seed.fetch_add(1, Ordering::Relaxed);
        Box::new(Modeller { model: Congestion::new(now, current_mtu, seed), hint: Arc::default() })
    }
}

/// Says what the link of `connection` is believed to carry, in bytes per second, and its round trip
/// if that is not the one that the connection has measured. A connection that knows its link
/// already takes no notice.
pub(crate) fn expect(connection: &Connection, goodput: u64, rtt: Option<Duration>) {
    let rtt = rtt.unwrap_or_else(|| connection.rtt());
    if let Ok(modeller) = connection.congestion_state().into_any().downcast::<Modeller>() {
        modeller.hint.store(hinted_window(goodput, rtt), Ordering::Relaxed);
    }
}

/// The controller of one connection.
#[derive(Clone, Debug)]
struct Modeller {
    model: Congestion,
    /// What [`expect`] made of its belief: the first window in bytes, or 0.
    hint: Arc<AtomicU64>,
}

impl Controller for Modeller {
    fn on_sent(&mut self, now: Instant, bytes: u64, _: u64) {
        self.model.on_sent(now, bytes);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, _: bool, _: &RttEstimator) {
        self.model.on_ack(now, sent, bytes);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, _: Option<u64>) {
        self.model.on_end_acks(now, in_flight, app_limited);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        if lost_bytes == 0 {
            self.model.on_mark(now);
        } else {
            self.model.on_loss(now, sent, lost_bytes, is_persistent_congestion);
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.model.on_mtu(new_mtu);
    }

    fn window(&self) -> u64 {
        self.model.window(self.hint.load(Ordering::Relaxed))
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.model.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Patience,
        fixture::{Shelf, agent, everyone, holder, soon},
    };

    #[tokio::test]
    async fn a_belief_about_a_peer_reaches_its_connection() {
        let a = agent(1, everyone(), Shelf::default());
        let b = agent(2, everyone(), Shelf::default());
        let at = holder(1, &a);
        let rtt = Some(Duration::from_millis(100));
        // Without a connection there is nobody to tell.
        b.expect(&at.peer, 10_000_000, rtt);
        soon(b.records(&at, &[], Patience::default())).await.unwrap();
        let link = soon(b.inner.links.get(&at)).await.unwrap().link;
        let window = || link.connection.congestion_state().window();
        let cold = window();
        b.expect(&at.peer, 10_000_000, rtt);
        assert_eq!(window(), 700_000);
        b.expect(&at.peer, 0, rtt);
        assert_eq!(window(), cold);
    }
}
