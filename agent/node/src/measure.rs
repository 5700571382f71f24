//! Keeping what is believed of the links fresh: samples from real traffic, a probe where there is
//! none, the order of regions, and telling others.

use crate::{
    region::RegionFinder,
    remembered::Links,
    traffic::Traffic,
    view::{View, over_of},
    wire,
};
use futures::future::try_join_all;
use netbuild_core::{
    link::Sample,
    peer::PeerId,
    peers::{Over, Peers},
};
use netbuild_mesh::Mesh;
use netbuild_proto::data::MAX_PROBE;
use netbuild_transfer::{Endpoint, FetchError};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinSet, spawn_blocking},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

/// How often the order of regions is looked at, and somebody to be probed looked for.
const TICK: Duration = Duration::from_millis(500);
/// Bytes of one request of a probe.
const PROBE_BYTES: u32 = MAX_PROBE;
/// Requests at once in each step of a probe, until one measures the link. The first step is over
/// before slow start is, on all but thin links; the next one begins with what it opened, and is long
/// enough for some round trips to pass on a full link. Together they are what a provider grants.
const PROBE_STEPS: [usize; 2] = [1, 3];
/// Bytes of a probe that only shows whether a peer answers.
const GREETING_BYTES: u32 = 1024;
/// Requests of probes that may be made at once: full probes of all peers that are probed in a small mesh.
const REQUESTS_SAVED: f64 = 128.0;
/// Time after which one more may be made. An agent that does nothing takes 60 MiB of probes in an
/// hour, however many others there are, as bytes between regions are paid for; what is used shows
/// its goodput without them.
const REQUEST_EARNED: Duration = Duration::from_secs(60);
/// Probes at once. Two on one thin access line would measure each other.
const MAX_PROBES: usize = 2;
/// Longest time of a probe; at its end, a link is known to be slower than that.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// Longest time for which probes give way to fetches that somebody waits for: a link that nobody uses is to be known, too.
const GIVES_WAY: Duration = Duration::from_secs(20);
/// How often links are told to the others when nothing special happens.
const REPORT: Duration = Duration::from_secs(5);
/// How often what is known of links is written down.
const REMEMBER: Duration = Duration::from_secs(60);

/// What is measured for whom.
pub(crate) struct Measuring {
    pub(crate) view: Arc<View>,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) endpoint: Endpoint,
    pub(crate) mesh: Mesh,
    pub(crate) finder: RegionFinder,
    pub(crate) links: Links,
    pub(crate) samples: mpsc::Receiver<(PeerId, Sample)>,
    pub(crate) stop: CancellationToken,
}

/// How a probe ended.
struct Probed {
    peer: PeerId,
    over: Over,
    fruitful: bool,
    /// How many requests were made.
    requests: usize,
}

/// How many requests of [`PROBE_BYTES`] may be made: a token bucket.
#[derive(Debug)]
struct Budget {
    left: f64,
    at: Instant,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self { left: REQUESTS_SAVED, at: now }
    }

    /// Bytes of the first request of the next probe, which is taken from what is left.
    fn next_probe(&mut self, now: Instant) -> u32 {
        let earned = (now - self.at).as_secs_f64() / REQUEST_EARNED.as_secs_f64();
        self.left = (self.left + earned).min(REQUESTS_SAVED);
        self.at = now;
        if self.left < 1.0 {
            return GREETING_BYTES;
        }
        self.left -= 1.0;
        PROBE_BYTES
    }

    /// A probe is over, which made so many requests.
    fn handle_probed(&mut self, requests: usize) {
        self.left -= requests.saturating_sub(1) as f64;
    }
}

impl Measuring {
    /// Measures until the agent stops, and then writes down what is known.
    pub(crate) async fn run(mut self) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut probes = JoinSet::new();
        let mut budget = Budget::new(Instant::now());
        let mut calm = Instant::now();
        let (mut reported, mut remembered) = (Instant::now(), Instant::now());
        loop {
            tokio::select! {
                Some((peer, sample)) = self.samples.recv() => {
                    let needed = self.view.peers(|peers, now| {
                        peers.handle_sample(&peer, sample, now);
                        peers.poll_untold(&peer, now)
                    });
                    if needed {
                        reported = Instant::now();
                        self.report(true);
                    }
                }
                Some(probed) = probes.join_next() => self.take(probed, &mut budget),
                _ = ticks.tick() => {
                    let switched = self.tick(&mut probes, &mut budget, &mut calm);
                    if switched || reported.elapsed() >= REPORT {
                        reported = Instant::now();
                        self.report(switched);
                    }
                    if remembered.elapsed() >= REMEMBER {
                        remembered = Instant::now();
                        self.remember().await;
                    }
                }
                () = self.stop.cancelled() => break,
            }
        }
        probes.shutdown().await;
        self.remember().await;
    }

    /// Says whether another region is primary now. `calm` is when nobody waited for anything last.
    fn tick(
        &mut self,
        probes: &mut JoinSet<Probed>,
        budget: &mut Budget,
        calm: &mut Instant,
    ) -> bool {
        let switched = self.view.peers(|peers, now| {
            let name = |peers: &Peers| peers.order().primary().unwrap_or("none").to_owned();
            let before = name(peers);
            peers.handle_tick(now).then(|| (before, name(peers)))
        });
        if let Some((from, to)) = &switched {
            tracing::info!(from, to, "the primary region changed");
        }
        let (waited, now) = (self.traffic.waited(), Instant::now());
        let busy = *waited.borrow() > 0 || self.view.is_settling();
        if !busy {
            *calm = now;
        }
        let give_way = busy && now - *calm < GIVES_WAY;
        while probes.len() < MAX_PROBES
            && let Some(peer) = self.view.peers(|peers, now| peers.poll_probe(!give_way, now))
        {
            let bytes = if give_way { GREETING_BYTES } else { budget.next_probe(now) };
            let waited = (!busy).then(|| waited.clone());
            let (view, endpoint) = (Arc::clone(&self.view), self.endpoint.clone());
            probes.spawn(probe(view, endpoint, peer, bytes, waited));
        }
        self.finder.look(&self.view, &self.mesh);
        switched.is_some()
    }

    fn take(&self, probed: Result<Probed, tokio::task::JoinError>, budget: &mut Budget) {
        match probed {
            Ok(Probed { peer, over, fruitful, requests }) => {
                budget.handle_probed(requests);
                let dice = crate::random::unit();
                self.view.peers(|peers, now| {
                    peers.handle_probed(&peer, over, fruitful, dice, now);
                });
            }
            Err(error) => tracing::error!(%error, "a probe failed"),
        }
    }

    fn report(&self, urgent: bool) {
        let reports = self.view.reports();
        if !reports.is_empty() {
            self.mesh.report_links(reports.iter().map(wire::link_report).collect(), urgent);
        }
    }

    async fn remember(&self) {
        let reports = self.view.peers(|peers, now| peers.to_remember(now));
        let links = self.links.clone();
        if let Err(error) = spawn_blocking(move || links.save(&reports)).await {
            tracing::error!(%error, "what is known of links cannot be written down");
        }
    }
}

/// Probes a peer; ends as soon as something is `waited` for, which needs the link.
async fn probe(
    view: Arc<View>,
    endpoint: Endpoint,
    peer: PeerId,
    bytes: u32,
    waited: Option<watch::Receiver<usize>>,
) -> Probed {
    let Some(whom) = view.whom(&peer) else {
        return Probed { peer, over: Over::Dropped, fruitful: false, requests: 0 };
    };
    let holder = whom.holder();
    let mut requests = 0;
    let probing = async {
        // A greeting is told by one answer.
        let steps = if bytes == PROBE_BYTES { &PROBE_STEPS[..] } else { &PROBE_STEPS[..1] };
        for step in steps {
            requests += step;
            let answers = (0..*step).map(|_| endpoint.probe(&holder, bytes));
            let probed = try_join_all(answers).await?;
            if probed.iter().any(|probed| probed.goodput.is_some()) {
                return Ok(true);
            }
        }
        Ok::<bool, FetchError>(false)
    };
    let needed = async {
        match waited {
            Some(mut waited) => drop(waited.wait_for(|waited| *waited > 0).await),
            None => std::future::pending().await,
        }
    };
    let (over, fruitful) = tokio::select! {
        biased;
        answer = tokio::time::timeout(PROBE_LIMIT, probing) => match answer {
            Ok(answer) => (over_of(&answer), answer.is_ok_and(|fruitful| fruitful)),
            // It answers, but slowly: what did arrive was measured all the same.
            Err(_) => (Over::Answered, false),
        },
        () = needed => (Over::Dropped, false),
    };
    Probed { peer, over, fruitful, requests }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_agent_takes_no_more_than_its_budget_of_probes() {
        let mut now = Instant::now();
        let mut budget = Budget::new(now);
        // Thirty peers, of which each wants a probe each minute, for a day.
        let mut bytes = 0;
        for _ in 0..24 * 60 {
            for _ in 0..30 {
                let probe = budget.next_probe(now);
                let requests = if probe == PROBE_BYTES { PROBE_STEPS.iter().sum() } else { 1 };
                budget.handle_probed(requests);
                bytes += requests as u64 * u64::from(probe);
            }
            now += Duration::from_secs(60);
        }
        let greetings = 24 * 60 * 30 * u64::from(GREETING_BYTES);
        let full = (24 * 60 + 128 + 3) * u64::from(PROBE_BYTES);
        assert!(bytes <= full + greetings, "{bytes}");
        // All are measured at first, in full.
        let mut fresh = Budget::new(now);
        for _ in 0..32 {
            assert_eq!(fresh.next_probe(now), PROBE_BYTES);
            fresh.handle_probed(PROBE_STEPS.iter().sum());
        }
    }
}
