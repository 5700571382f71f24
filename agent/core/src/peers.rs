//! The other agents as seen from here: where they are, what is believed of the links to them, and
//! whether they are asked.
//!
//! It keeps one estimate and one breaker for each peer, the matrix of links that others tell, and
//! the order of regions. Plans are made from all of these; see [`crate::plan`].

use crate::{
    health::{Breaker, Fault, Health},
    link::{Basis, Belief, Estimate, Report, STALE_RTT, Sample},
    peer::PeerId,
    plan::{Offer, Order, Plan, Policy, Who, plan, region_scores},
    region::{self, Detection},
    score::REFERENCE_SIZE,
    tiers::Tiers,
};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Most peers that are known at once, as many as the mesh knows.
pub const MAX_PEERS: usize = 4096;
/// Most links that one agent tells or is believed to have.
pub const MAX_REPORTS: usize = 64;
/// Most agents whose links are remembered: with [`MAX_REPORTS`] each some 1.5 MB.
const MAX_TELLERS: usize = 256;
/// What others told is forgotten after this.
const TOLD_FOR: Duration = Duration::from_secs(600);
/// In a mesh of more than so many, only peers that the mesh has a connection to are probed: they are
/// chosen to stand for their regions, and tell the others what they measure.
const PROBE_ALL: usize = 32;
/// Pause between two probes of one peer, however much one is wanted.
const PROBE_PAUSE: Duration = Duration::from_secs(5);
/// How long one that has just joined is left alone, which has its own sources to find: if all of a mesh measured
/// it at once, its link would be full for seconds.
const NEWCOMER_PAUSE: Duration = Duration::from_secs(10);
/// Pause after a probe that brought no goodput, so that a peer that does not answer probes is not
/// asked for one all the time.
const FRUITLESS_PAUSE: Duration = Duration::from_secs(20);
/// How long after a link became another one a probe without a result is soon made again: slow start
/// is over on such a connection, so that its rate takes seconds to grow.
const UNSETTLED: Duration = Duration::from_secs(20);
/// An agent within this is in the same building, whatever its region is called: the links from there are those from here.
const NEXT_DOOR: Duration = Duration::from_millis(2);
/// While the mesh has measured a round trip within this, those of the data plane do not count: QUIC
/// smooths them over eight and more, and tells of a change of the link when others know it.
const PING_COUNTS: Duration = Duration::from_secs(5);

/// One peer.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its region; empty when it has none.
    pub region: String,
    /// Addresses of its data plane, the best first.
    pub addresses: Vec<SocketAddr>,
    /// Whether it is in the mesh now.
    pub present: bool,
    /// Whether the mesh has a connection to it.
    pub connected: bool,
    /// Requests of this agent that it is working on.
    pub queue: u32,
    estimate: Estimate,
    breaker: Breaker,
    used: Option<Instant>,
    probed: Option<Instant>,
    probe_due: Option<Instant>,
    pinged: Option<Instant>,
    /// When its link became another one.
    moved: Option<Instant>,
    /// Whether it may not have heard of the links from here.
    untold: bool,
}

impl Peer {
    fn new(region: String, addresses: Vec<SocketAddr>) -> Self {
        Self {
            region,
            addresses,
            present: true,
            connected: false,
            queue: 0,
            estimate: Estimate::default(),
            breaker: Breaker::default(),
            used: None,
            probed: None,
            probe_due: None,
            pinged: None,
            moved: None,
            untold: true,
        }
    }

    fn measure(&mut self, sample: Sample, now: Instant) {
        if self.estimate.handle_sample(sample, now) {
            // Another link, which no probe of before says anything about.
            self.moved = Some(now);
            self.probe_due = self.probed.map(|probed| probed + PROBE_PAUSE);
        }
    }

    /// Whether it can be asked.
    pub fn health(&self, now: Instant) -> Health {
        self.breaker.health(now)
    }

    /// What this agent itself has measured.
    pub fn measured(&self, now: Instant) -> Belief {
        self.estimate.belief(now)
    }
}

/// All known peers.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    known: BTreeMap<PeerId, Peer>,
    told: BTreeMap<PeerId, (Instant, Vec<Report>)>,
    order: Order,
    policy: Policy,
    region: String,
    /// Estimates of an earlier life, until the peer joins.
    remembered: BTreeMap<PeerId, Estimate>,
    tiers: Tiers,
}

impl Peers {
    /// Nobody yet. `region` is that of this agent; empty for none.
    pub fn new(policy: Policy, region: String) -> Self {
        Self { policy, region, ..Self::default() }
    }

    /// The same, beside storage that is shared.
    pub fn with_tiers(self, tiers: Tiers) -> Self {
        Self { tiers, ..self }
    }

    // -- getters --

    /// The tiers, which are sources like peers.
    pub fn tiers(&self) -> &Tiers {
        &self.tiers
    }

    /// The tiers, for what happens to them.
    pub fn tiers_mut(&mut self) -> &mut Tiers {
        &mut self.tiers
    }

    /// One peer.
    pub fn get(&self, peer: &PeerId) -> Option<&Peer> {
        self.known.get(peer)
    }

    /// All peers that are or were in the mesh.
    pub fn iter(&self) -> impl Iterator<Item = (&PeerId, &Peer)> {
        self.known.iter()
    }

    /// Whether the peer is in the mesh.
    pub fn is_present(&self, peer: &PeerId) -> bool {
        self.known.get(peer).is_some_and(|known| known.present)
    }

    /// The regions other than none, the primary first.
    pub fn order(&self) -> &Order {
        &self.order
    }

    /// What the configuration says about plans.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The region of this agent; empty for none.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// The peers of this agent's region that are in the mesh; none when it has no region.
    pub fn neighbours(&self) -> impl Iterator<Item = PeerId> {
        let here = |peer: &Peer| peer.present && !peer.region.is_empty();
        let here = move |(_, peer): &(&PeerId, &Peer)| here(peer) && peer.region == self.region;
        self.known.iter().filter(here).map(|(id, _)| *id)
    }

    /// Whether the links from a peer are about those from here.
    fn is_here(&self, peer: &Peer, now: Instant) -> bool {
        let same = !self.region.is_empty() && peer.region == self.region;
        same || peer.estimate.belief(now).rtt.is_some_and(|rtt| rtt <= NEXT_DOOR)
    }

    /// What is believed of the link to each peer that is or was in the mesh: measured here, else told
    /// by agents of this region or next door about it or about its region, else assumed.
    pub fn beliefs(&self, now: Instant) -> impl Iterator<Item = (&PeerId, &Peer, Belief)> {
        // Found once for all of them: there may be thousands, and as many reports.
        let hearsay = self.hearsay(now);
        self.known.iter().map(move |(id, peer)| (id, peer, hearsay.belief(id, peer, now)))
    }

    /// The same of one peer; of one that is not known, nothing.
    pub fn belief(&self, id: &PeerId, now: Instant) -> Belief {
        let Some(peer) = self.known.get(id) else { return Belief::default() };
        self.hearsay(now).belief(id, peer, now)
    }

    /// What agents from here told of late, the latest and fullest of each peer and region.
    fn hearsay(&self, now: Instant) -> Hearsay<'_> {
        let best = self.known.values().filter_map(|peer| peer.estimate.goodput());
        let mut hearsay = Hearsay { best: best.reduce(f64::max), ..Hearsay::default() };
        let from_here = |teller: &PeerId| {
            self.known.get(teller).is_some_and(|teller| self.is_here(teller, now))
        };
        let told = self.told.iter().filter(|(teller, (at, _))| {
            from_here(teller) && now.saturating_duration_since(*at) < TOLD_FOR
        });
        for (at, report) in told.flat_map(|(_, (at, all))| all.iter().map(move |one| (*at, one))) {
            keep_better(&mut hearsay.of_peers, report.peer, at, report);
            if let Some(peer) = self.known.get(&report.peer).filter(|peer| !peer.region.is_empty())
            {
                keep_better(&mut hearsay.of_regions, peer.region.as_str(), at, report);
            }
        }
        hearsay
    }

    /// Every link that is known: those of this agent, with `None` as its own end, and those told.
    pub fn links(&self, now: Instant) -> Vec<(Option<PeerId>, Report)> {
        let own = self
            .known
            .iter()
            .filter(|(_, peer)| peer.present)
            .filter_map(|(id, peer)| Some((None, report(id, &peer.estimate.belief(now))?)));
        let told = self.told.iter().flat_map(|(teller, (at, reports))| {
            let older = now.saturating_duration_since(*at);
            let report = move |report: &Report| Report { age: report.age + older, ..*report };
            reports.iter().map(move |told| (Some(*teller), report(told)))
        });
        own.chain(told).collect()
    }

    /// What this agent tells of its links: those measured, the freshest first.
    pub fn reports(&self, now: Instant) -> Vec<Report> {
        let mut reports: Vec<Report> = self
            .known
            .iter()
            .filter(|(_, peer)| peer.present)
            .filter_map(|(id, peer)| report(id, &peer.estimate.belief(now)))
            .filter(|report| report.age < STALE_RTT)
            .collect();
        reports.sort_by_key(|report| report.age);
        reports.truncate(MAX_REPORTS);
        reports
    }

    /// Whether a peer has joined who needs what is known of the links from here, and may not have heard it. It counts as
    /// told after that.
    pub fn poll_untold(&mut self, id: &PeerId, now: Instant) -> bool {
        let needs = |peer: &Peer| peer.present && peer.untold && self.is_here(peer, now);
        let needed = self.known.get(id).is_some_and(needs);
        if needed && let Some(known) = self.known.get_mut(id) {
            known.untold = false;
        }
        needed
    }

    /// Round-trip time and goodput of every measured link, to be remembered over a restart.
    pub fn to_remember(&self, now: Instant) -> Vec<Report> {
        let known = self.known.iter().map(|(id, peer)| (id, &peer.estimate));
        let all = known.chain(&self.remembered);
        all.filter_map(|(id, estimate)| report(id, &estimate.belief(now))).collect()
    }

    /// The sources that may be asked; `holds` says of each peer whether it has the thing.
    fn offers<'a>(
        &'a self,
        among: &'a dyn Fn(&PeerId, &Peer) -> bool,
        holds: &'a dyn Fn(Who) -> Option<bool>,
        now: Instant,
    ) -> impl Iterator<Item = Offer<'a>> {
        let meant = self.beliefs(now).filter(|(id, peer, _)| peer.present && among(id, peer));
        meant.map(move |(id, peer, link)| Offer {
            who: Who::Peer(*id),
            region: &peer.region,
            health: peer.breaker.health(now),
            link,
            queue: peer.queue,
            holds: holds(Who::Peer(*id)),
            unused: peer.used.map(|used| now.saturating_duration_since(used)),
        })
    }

    /// The plan for a thing of `size` bytes among the peers for which `among` is true, and all tiers
    /// if `tiers`. `holds` and `dice` are as in [`plan`].
    pub fn plan(
        &self,
        size: u64,
        among: &dyn Fn(&PeerId, &Peer) -> bool,
        tiers: bool,
        holds: &dyn Fn(Who) -> Option<bool>,
        dice: f64,
        now: Instant,
    ) -> Plan {
        let shared = tiers.then(|| self.tiers.offers(holds, now)).into_iter().flatten();
        let offers = self.offers(among, holds, now).chain(shared);
        plan(offers, size, self.order.primary(), &self.policy, dice)
    }

    /// What region this agent seems to be in; see [`region::detect`].
    pub fn detect(&self, hint: Option<(&str, &str)>, now: Instant) -> Detection {
        let measured = self.known.values().filter(|peer| peer.present).filter_map(|peer| {
            let rtt = peer.estimate.belief(now).rtt?;
            Some((peer.region.as_str(), rtt))
        });
        region::detect(hint, measured)
    }

    // -- what came in --

    /// This agent is in another region now.
    pub fn set_region(&mut self, region: String) {
        self.region = region;
    }

    /// Takes estimates of an earlier life, `since` then.
    pub fn remember(&mut self, reports: impl IntoIterator<Item = Report>, since: Instant) {
        let estimate =
            |report: &Report| Estimate::remembered(Some(report.rtt), report.goodput, since);
        let reports = reports.into_iter().take(MAX_PEERS);
        self.remembered.extend(reports.map(|report| (report.peer, estimate(&report))));
    }

    /// A peer joined. What failed before is forgotten. When there is no room, one that left makes
    /// it; a mesh of so many members is not fully known.
    pub fn handle_joined(&mut self, id: PeerId, region: String, addresses: Vec<SocketAddr>) {
        if self.known.len() >= MAX_PEERS && !self.known.contains_key(&id) {
            let left = self.known.iter().find(|(_, known)| !known.present);
            let Some(left) = left.map(|(left, _)| *left) else { return };
            self.known.remove(&left);
        }
        let before = self.known.remove(&id).map(|peer| peer.estimate);
        let estimate = before.or_else(|| self.remembered.remove(&id)).unwrap_or_default();
        self.known.insert(id, Peer { estimate, ..Peer::new(region, addresses) });
    }

    /// A peer has just joined a mesh in which this agent has been for long.
    pub fn handle_newcomer(&mut self, id: &PeerId, now: Instant) {
        if let Some(known) = self.known.get_mut(id) {
            known.probe_due = Some(now + NEWCOMER_PAUSE);
        }
    }

    /// A peer says something else of itself. What failed is forgotten only when it failed elsewhere.
    pub fn handle_updated(&mut self, id: &PeerId, region: String, addresses: Vec<SocketAddr>) {
        if let Some(known) = self.known.get_mut(id) {
            if known.addresses != addresses {
                known.breaker = Breaker::default();
            }
            (known.region, known.addresses) = (region, addresses);
        }
    }

    /// A peer is in the mesh no more.
    pub fn handle_left(&mut self, id: &PeerId) {
        if let Some(known) = self.known.get_mut(id) {
            (known.present, known.connected) = (false, false);
            known.queue = 0;
        }
        self.told.remove(id);
    }

    /// The mesh has, or has no more, a connection to a peer.
    pub fn handle_connected(&mut self, id: &PeerId, connected: bool) {
        if let Some(known) = self.known.get_mut(id) {
            known.connected = connected;
        }
    }

    /// The link to a peer was measured by the data plane.
    pub fn handle_sample(&mut self, id: &PeerId, sample: Sample, now: Instant) {
        let Some(known) = self.known.get_mut(id) else { return };
        let pinged =
            || known.pinged.is_some_and(|at| now.saturating_duration_since(at) < PING_COUNTS);
        if !matches!(sample, Sample::Rtt(_)) || !pinged() {
            known.measure(sample, now);
        }
    }

    /// The mesh measured one round trip to a peer.
    pub fn handle_ping(&mut self, id: &PeerId, rtt: Duration, now: Instant) {
        if let Some(known) = self.known.get_mut(id) {
            known.pinged = Some(now);
            known.measure(Sample::Rtt(rtt), now);
        }
    }

    /// An agent tells of its links.
    pub fn handle_reports(&mut self, teller: PeerId, mut reports: Vec<Report>, now: Instant) {
        if !self.known.contains_key(&teller) {
            return;
        }
        self.told.retain(|_, (at, _)| now.saturating_duration_since(*at) < TOLD_FOR);
        if self.told.len() >= MAX_TELLERS && !self.told.contains_key(&teller) {
            return;
        }
        reports.truncate(MAX_REPORTS);
        self.told.insert(teller, (now, reports));
    }

    /// A request to a peer goes out.
    pub fn handle_asked(&mut self, id: &PeerId, now: Instant) {
        if let Some(known) = self.known.get_mut(id) {
            known.queue = known.queue.saturating_add(1);
            known.used = Some(now);
            known.breaker.handle_asked(now);
        }
    }

    /// The request is over: the peer answered, or failed with this fault, or was not waited for.
    pub fn handle_over(&mut self, id: &PeerId, over: Over, dice: f64, now: Instant) {
        let Some(known) = self.known.get_mut(id) else { return };
        known.queue = known.queue.saturating_sub(1);
        match over {
            Over::Answered => known.breaker.handle_answer(),
            Over::Failed(fault) => known.breaker.handle_fault(fault, dice, now),
            Over::Dropped => known.breaker.handle_dropped(),
        }
    }

    /// A peer to probe now, because nothing fresh is known of its link or it failed and may be back.
    /// Without `measuring`, only one that may be back. The caller probes it, and says with
    /// [`Peers::handle_probed`] what came of it.
    pub fn poll_probe(&mut self, measuring: bool, now: Instant) -> Option<PeerId> {
        let all = self.known.len() <= PROBE_ALL;
        let wanted = |peer: &Peer| {
            let due = peer.probe_due.is_none_or(|due| due <= now);
            due && peer.present
                && (all || peer.connected)
                && match peer.breaker.health(now) {
                    Health::Closed => {
                        measuring && peer.estimate.wants_probe(now) && peer.queue == 0
                    }
                    Health::HalfOpen => true,
                    Health::Open(_) => false,
                }
        };
        let (id, peer) = self
            .known
            .iter_mut()
            .filter(|(_, peer)| wanted(peer))
            .min_by_key(|(_, peer)| peer.probe_due)?;
        peer.probed = Some(now);
        peer.probe_due = Some(now + PROBE_PAUSE);
        peer.queue += 1;
        peer.breaker.handle_asked(now);
        Some(*id)
    }

    /// A probe is over. `fruitful`: it measured a goodput.
    pub fn handle_probed(
        &mut self,
        id: &PeerId,
        over: Over,
        fruitful: bool,
        dice: f64,
        now: Instant,
    ) {
        self.handle_over(id, over, dice, now);
        if let Some(known) = self.known.get_mut(id)
            && over == Over::Answered
            && !fruitful
        {
            let is_unsettled = |moved: Instant| now.saturating_duration_since(moved) < UNSETTLED;
            if !known.moved.is_some_and(is_unsettled) {
                known.probe_due = Some(now + FRUITLESS_PAUSE);
            }
        }
    }

    /// Brings the order of regions up to date; says whether the primary changed. To be called
    /// about twice a second.
    pub fn handle_tick(&mut self, now: Instant) -> bool {
        let all = self.offers(&|_, _| true, &|_| None, now);
        let scores = region_scores(
            all.chain(self.tiers.offers(&|_| None, now)),
            REFERENCE_SIZE,
            self.policy.weights,
        );
        self.order.handle_scores(&scores, now)
    }
}

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Over {
    /// The peer answered, if only that it lacks what was asked for.
    Answered,
    /// It failed.
    Failed(Fault),
    /// It was given up before it came to anything.
    Dropped,
}

/// What others tell, by what it is about. It fills gaps of what was measured here, and no more.
#[derive(Default)]
struct Hearsay<'a> {
    of_peers: BTreeMap<PeerId, (Instant, Report)>,
    of_regions: BTreeMap<&'a str, (Instant, Report)>,
    /// The greatest goodput that this agent has measured on any link.
    best: Option<f64>,
}

/// Keeps of two reports about the same the one that knows a goodput, and of such the later one.
fn keep_better<K: Ord>(
    told: &mut BTreeMap<K, (Instant, Report)>,
    about: K,
    at: Instant,
    report: &Report,
) {
    let rank = |(at, report): &(Instant, Report)| (report.goodput.is_some(), *at);
    let new = (at, *report);
    match told.entry(about) {
        Entry::Vacant(entry) => drop(entry.insert(new)),
        Entry::Occupied(mut entry) if rank(&new) >= rank(entry.get()) => drop(entry.insert(new)),
        Entry::Occupied(_) => {}
    }
}

impl Hearsay<'_> {
    fn belief(&self, id: &PeerId, peer: &Peer, now: Instant) -> Belief {
        let own = peer.estimate.belief(now);
        if own.rtt.is_some() && own.goodput.is_some() {
            return own;
        }
        let told = self.of_peers.get(id).or_else(|| self.of_regions.get(peer.region.as_str()));
        let Some((_, told)) = told else { return own };
        // Nobody's word makes a link better than the best that this agent has seen itself.
        let goodput = told.goodput.map(|goodput| self.best.map_or(goodput, |b| goodput.min(b)));
        if own.rtt.is_some() {
            return Belief { goodput, full: false, ..own };
        }
        Belief {
            rtt: Some(told.rtt),
            jitter: told.jitter,
            loss: None,
            goodput,
            rtt_age: told.age,
            goodput_age: told.age,
            full: false,
            basis: Basis::Told,
        }
    }
}

fn report(peer: &PeerId, belief: &Belief) -> Option<Report> {
    Some(Report {
        peer: *peer,
        rtt: belief.rtt?,
        jitter: belief.jitter,
        loss: belief.loss.unwrap_or(0.0),
        goodput: belief.goodput,
        age: belief.rtt_age,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerId = PeerId([1; 32]);
    const B: PeerId = PeerId([2; 32]);
    const C: PeerId = PeerId([3; 32]);
    const D: PeerId = PeerId([4; 32]);
    const UNAVAILABLE: Over = Over::Failed(Fault::Unavailable);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A 20 ms away in us, B 80 ms in eu, C unmeasured without a region; this agent is in us.
    fn peers(now: Instant) -> Peers {
        let mut peers = Peers::new(Policy::default(), "us".into());
        for (id, region) in [(A, "us"), (B, "eu"), (C, "")] {
            peers.handle_joined(id, region.into(), Vec::new());
        }
        peers.handle_sample(&A, Sample::Rtt(ms(20)), now);
        peers.handle_sample(&B, Sample::Rtt(ms(80)), now);
        peers.handle_tick(now);
        peers
    }

    fn order(peers: &Peers, now: Instant) -> Vec<PeerId> {
        let plan = peers.plan(1000, &|_, _| true, false, &|_| None, 1.0, now);
        plan.steps.into_iter().filter_map(|step| step.who.peer()).collect()
    }

    #[test]
    fn the_nearest_comes_first_and_regions_are_in_order() {
        let now = Instant::now();
        let peers = peers(now);
        assert_eq!(order(&peers, now), [A, B, C]);
        assert_eq!(peers.order().regions(), ["us", "eu"]);
        assert_eq!(peers.neighbours().collect::<Vec<_>>(), [A]);
    }

    #[test]
    fn one_that_failed_is_left_out_until_its_probe_came_back() {
        let mut now = Instant::now();
        let mut peers = peers(now);
        peers.handle_asked(&A, now);
        peers.handle_over(&A, UNAVAILABLE, 0.5, now);
        assert_eq!(order(&peers, now), [B, C]);
        peers.handle_tick(now);
        assert_eq!(peers.order().regions(), ["eu", "us"], "at once");
        now += ms(1000);
        assert_eq!(order(&peers, now), [B, C, A], "the last resort until it is probed");
        let mut probed = Vec::new();
        while let Some(peer) = peers.poll_probe(true, now) {
            let fruitful = peer == A;
            peers.handle_probed(&peer, Over::Answered, fruitful, 0.5, now);
            probed.push(peer);
        }
        assert_eq!(probed.len(), 3);
        assert_eq!(order(&peers, now), [A, B, C]);
    }

    #[test]
    fn one_that_has_just_joined_is_left_alone_for_a_while() {
        let mut peers = Peers::new(Policy::default(), String::new());
        let now = Instant::now();
        for id in [A, B] {
            peers.handle_joined(id, "us".into(), Vec::new());
        }
        peers.handle_newcomer(&A, now);
        assert_eq!(peers.poll_probe(true, now), Some(B));
        assert_eq!(peers.poll_probe(true, now), None);
        assert_eq!(peers.poll_probe(true, now + NEWCOMER_PAUSE), Some(A));
    }

    #[test]
    fn while_nothing_is_to_be_measured_only_one_that_failed_is_probed() {
        let mut peers = Peers::new(Policy::default(), String::new());
        let mut now = Instant::now();
        for id in [A, B] {
            peers.handle_joined(id, "us".into(), Vec::new());
        }
        peers.handle_asked(&A, now);
        peers.handle_over(&A, UNAVAILABLE, 0.5, now);
        assert_eq!(peers.poll_probe(false, now), None);
        now += Duration::from_secs(60);
        assert_eq!(peers.poll_probe(false, now), Some(A));
        assert_eq!(peers.poll_probe(false, now), None);
        assert_eq!(peers.poll_probe(true, now), Some(B));
    }

    #[test]
    fn a_link_that_became_another_one_is_probed_anew() {
        let mut now = Instant::now();
        let mut peers = Peers::new(Policy::default(), String::new());
        peers.handle_joined(A, "us".into(), Vec::new());
        peers.handle_ping(&A, ms(20), now);
        let probe = |peers: &mut Peers, now| {
            let probed = peers.poll_probe(true, now);
            probed.into_iter().for_each(|peer| {
                peers.handle_probed(&peer, Over::Answered, false, 0.5, now);
            });
            probed
        };
        assert_eq!(probe(&mut peers, now), Some(A));
        now += PROBE_PAUSE;
        assert_eq!(probe(&mut peers, now), None, "the last one was fruitless");
        for _ in 0..2 {
            // What QUIC has smoothed counts for nothing beside a ping.
            peers.handle_sample(&A, Sample::Rtt(ms(20)), now);
            peers.handle_ping(&A, ms(600), now);
        }
        assert_eq!(peers.belief(&A, now).rtt, Some(ms(600)));
        assert_eq!(probe(&mut peers, now), Some(A));
        assert_eq!(probe(&mut peers, now), None);
        now += PROBE_PAUSE;
        assert_eq!(probe(&mut peers, now), Some(A), "it takes a while to show what it can");
        now += UNSETTLED;
        assert_eq!(probe(&mut peers, now), Some(A));
        now += PROBE_PAUSE;
        assert_eq!(probe(&mut peers, now), None);
    }

    #[test]
    fn a_peer_that_left_is_not_asked_until_it_joins_again_and_its_link_is_remembered() {
        let now = Instant::now();
        let mut peers = peers(now);
        peers.handle_left(&A);
        assert_eq!(order(&peers, now), [B, C]);
        peers.handle_joined(A, "us".into(), Vec::new());
        assert_eq!(order(&peers, now), [A, B, C]);
        assert_eq!(peers.get(&A).unwrap().measured(now).rtt, Some(ms(20)));
        // Also over a restart.
        let mut next = Peers::new(Policy::default(), String::new());
        next.remember(peers.to_remember(now), now);
        next.handle_joined(B, "eu".into(), Vec::new());
        assert_eq!(next.get(&B).unwrap().measured(now).rtt, Some(ms(80)));
        assert!(next.poll_probe(true, now).is_some(), "but measured anew");
    }

    #[test]
    fn a_failure_is_forgotten_when_the_peer_is_elsewhere() {
        let now = Instant::now();
        let mut peers = peers(now);
        peers.handle_asked(&B, now);
        peers.handle_over(&B, UNAVAILABLE, 0.5, now);
        peers.handle_updated(&B, "eu".into(), Vec::new());
        assert_eq!(order(&peers, now), [A, C]);
        peers.handle_updated(&B, "eu".into(), vec!["192.0.2.1:7".parse().unwrap()]);
        assert_eq!(order(&peers, now), [A, B, C]);
    }

    #[test]
    fn what_a_neighbour_tells_stands_in_for_what_was_not_measured() {
        let now = Instant::now();
        let mut peers = peers(now);
        let told = |peer, rtt, goodput| Report {
            peer,
            rtt: ms(rtt),
            jitter: Duration::ZERO,
            loss: 0.0,
            goodput: Some(goodput),
            age: Duration::ZERO,
        };
        // B is in another region: how far it has C says nothing about this agent.
        peers.handle_reports(B, vec![told(C, 1, 5e6)], now);
        assert_eq!(peers.belief(&C, now).basis, Basis::Assumed);
        peers.handle_reports(A, vec![told(C, 7, 5e6), told(B, 70, 9e6)], now);
        let belief = peers.belief(&C, now);
        assert_eq!((belief.rtt, belief.basis), (Some(ms(7)), Basis::Told));
        let belief = peers.belief(&B, now);
        assert_eq!((belief.rtt, belief.goodput), (Some(ms(80)), Some(9e6)));
        // What is better than anything that was measured here is not believed.
        let mut wary = peers.clone();
        let elapsed = Duration::from_secs(1);
        wary.handle_sample(&A, Sample::Goodput { bytes: 3_000_000, elapsed }, now);
        assert_eq!(wary.belief(&B, now).goodput, Some(3e6));
        assert_eq!(peers.links(now).len(), 2 + 3);
        assert_eq!(peers.belief(&C, now + TOLD_FOR).basis, Basis::Assumed);
    }

    #[test]
    fn next_door_the_links_are_the_same_whatever_the_region_is_called() {
        let now = Instant::now();
        let mut peers = peers(now);
        let report = Report {
            peer: B,
            rtt: ms(70),
            jitter: Duration::ZERO,
            loss: 0.0,
            goodput: Some(9e6),
            age: Duration::ZERO,
        };
        peers.handle_reports(C, vec![report], now);
        assert_eq!(peers.belief(&B, now).basis, Basis::Measured);
        assert_eq!(peers.belief(&B, now).goodput, None);
        for _ in 0..20 {
            peers.handle_sample(&C, Sample::Rtt(Duration::from_micros(300)), now);
        }
        assert_eq!(peers.belief(&B, now).goodput, Some(9e6));
    }

    #[test]
    fn who_joins_next_door_or_in_this_region_is_told_once() {
        let now = Instant::now();
        let mut peers = peers(now);
        assert!(peers.poll_untold(&A, now), "it is of this region");
        assert!(!peers.poll_untold(&A, now));
        peers.handle_joined(D, "elsewhere".into(), Vec::new());
        assert!(!peers.poll_untold(&D, now), "it may be far away");
        peers.handle_sample(&D, Sample::Rtt(Duration::from_micros(300)), now);
        assert!(peers.poll_untold(&D, now));
        assert!(!peers.poll_untold(&D, now) && !peers.poll_untold(&B, now));
    }

    #[test]
    fn a_peer_that_left_makes_room_for_one_that_joins() {
        let peer = |number: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_le_bytes());
            PeerId(id)
        };
        let mut peers = Peers::default();
        (0..=MAX_PEERS).for_each(|n| peers.handle_joined(peer(n), String::new(), Vec::new()));
        assert!(!peers.is_present(&peer(MAX_PEERS)), "nobody left, so there was no room");
        peers.handle_left(&peer(7));
        peers.handle_joined(peer(MAX_PEERS), String::new(), Vec::new());
        assert!(peers.is_present(&peer(MAX_PEERS)) && !peers.is_present(&peer(7)));
        assert_eq!(peers.iter().count(), MAX_PEERS);
    }

    #[test]
    fn the_region_is_detected_from_round_trips() {
        let now = Instant::now();
        assert_eq!(peers(now).detect(None, now).region(), Some("us"));
    }
}
