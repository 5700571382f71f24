//! How much this agent sends to others, and how long a piece has to wait for that.

use crate::{decisions::wall_ms, view::View};
use netbuild_core::{
    limit::{Bucket, DAY, Limits, Rate},
    peer::PeerId,
};
use netbuild_transfer::Toll;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The limits of the configuration, and what was sent within each. There are as many buckets as
/// limits, at most.
#[derive(Debug)]
struct Tolls {
    limits: Limits,
    view: Arc<View>,
    /// By region; `None` for all together.
    buckets: Mutex<BTreeMap<Option<String>, (Rate, Bucket)>>,
}

/// What the data plane asks before it sends, if there is any limit.
pub(crate) fn toll(limits: &Limits, view: &Arc<View>) -> Option<Toll> {
    let (limits, view) = (limits.clone(), Arc::clone(view));
    let tolls = Tolls { limits, view, buckets: Mutex::default() };
    (tolls.limits != Limits::default())
        .then(|| Arc::new(move |peer: &PeerId, bytes| tolls.take(peer, bytes)) as Toll)
}

impl Tolls {
    /// How long a piece of so many bytes waits before it may go to a peer. It counts as sent.
    fn take(&self, peer: &PeerId, bytes: u64) -> Duration {
        let (region, abroad) = self.view.peers(|peers, _| {
            let region = peers.get(peer).map(|known| known.region.clone()).unwrap_or_default();
            let abroad = region.is_empty() || region != peers.region();
            (region, abroad)
        });
        let second = (wall_ms() / 1000 % u64::from(DAY)) as u32;
        let together = self.limits.together.filter(|_| abroad).map(|rate| (None, rate));
        let own = self.limits.rate(&region, second).map(|rate| (Some(region), rate));
        let now = Instant::now();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = together.into_iter().chain(own).map(|(whose, rate)| {
            let (was, bucket) =
                buckets.entry(whose).or_insert_with(|| (rate, Bucket::new(rate, now)));
            if std::mem::replace(was, rate) != rate {
                bucket.set_rate(rate, now);
            }
            bucket.take(bytes, now)
        });
        waits.max().unwrap_or_default()
    }
}
