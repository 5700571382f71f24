//! What this agent knows of the others: fed by the mesh and by measurements, read by the cache.

use netbuild_core::{
    cache::Source,
    fallback::{CLASSICAL, Fallback},
    health::Fault,
    key::ActionKey,
    ledger::{Cost, Item, Ledger},
    link::Report,
    peer::PeerId,
    peers::{Over, Peer, Peers},
    plan::{Plan, Policy, Who},
    region::Detection,
    score::predict,
    tiers::Tiers,
};
use netbuild_mesh::Event;
use netbuild_proto::membership::Held;
use netbuild_transfer::{Blame, FetchError, Holder};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long a lookup waits for a member that has joined and whose records have not been compared
/// yet, and how long after its start an agent with seeds waits to meet one. Once for each member,
/// so that a build right after a join finds what it joined for, and one in a quiet mesh never waits.
pub(crate) const CATCH_UP_GRACE: Duration = Duration::from_secs(2);
/// How long an agent measures whoever it meets at once: it needs sources itself. Later it leaves those who join
/// their links for a while.
const YOUNG: Duration = Duration::from_secs(30);
/// Most sources of one plan that are asked.
const MAX_STEPS: usize = 6;

/// What is known of the mesh. Used from several threads.
#[derive(Debug)]
pub(crate) struct View {
    state: Mutex<State>,
    changed: Condvar,
    born: Instant,
}

#[derive(Debug)]
struct State {
    peers: Peers,
    ledger: Ledger,
    connected: BTreeSet<PeerId>,
    /// Until when lookups wait for each member whose records have not been compared yet.
    catching_up: BTreeMap<PeerId, Instant>,
    /// Members whose records could not be compared in time; they are asked.
    unknown: BTreeSet<PeerId>,
    /// Members that had the same records as this agent when they were compared last.
    compared: BTreeSet<PeerId>,
    /// Until when lookups wait for the first member.
    alone_until: Option<Instant>,
    /// Whether nobody shall wait any more.
    stopping: bool,
    tallies: BTreeMap<String, Tally>,
}

/// What came from a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tally {
    /// Fetches that were asked of it.
    pub(crate) asked: u64,
    /// Fetches that it answered with all that was wanted.
    pub(crate) hits: u64,
    /// Payload bytes.
    pub(crate) bytes_in: u64,
}

/// What a lookup finds before it asks anybody.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Known {
    /// These say to hold it.
    Holders(BTreeSet<PeerId>),
    /// Nobody has said so, but the records of these have not been compared yet.
    Perhaps(BTreeSet<PeerId>),
    /// It came here meanwhile, or was thought to be here.
    Here,
    /// Nobody has it.
    Nobody,
}

/// A peer to be asked, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Whom {
    pub(crate) peer: PeerId,
    pub(crate) region: String,
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Whom {
    /// The peer as the data plane is to find it.
    pub(crate) fn holder(&self) -> Holder {
        Holder { peer: self.peer, addresses: self.addresses.clone() }
    }
}

impl View {
    /// A view of nobody but tiers. `expects_members`: lookups wait a moment for the first one.
    pub(crate) fn new(policy: Policy, region: String, tiers: Tiers, expects_members: bool) -> Self {
        let alone_until = expects_members.then(|| Instant::now() + CATCH_UP_GRACE);
        let state = State {
            peers: Peers::new(policy, region).with_tiers(tiers),
            ledger: Ledger::default(),
            connected: BTreeSet::new(),
            catching_up: BTreeMap::new(),
            unknown: BTreeSet::new(),
            compared: BTreeSet::new(),
            alone_until,
            stopping: false,
            tallies: BTreeMap::new(),
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), born: Instant::now() }
    }

    /// Lets no lookup wait any more: the agent stops.
    pub(crate) fn stop(&self) {
        self.state().stopping = true;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Uses what is known of the peers.
    pub(crate) fn peers<T>(&self, with: impl FnOnce(&mut Peers, Instant) -> T) -> T {
        with(&mut self.state().peers, Instant::now())
    }

    /// Uses what is known of the records.
    pub(crate) fn ledger<T>(&self, with: impl FnOnce(&mut Ledger) -> T) -> T {
        with(&mut self.state().ledger)
    }

    // -- what came in --

    /// Takes an event of the mesh. Returns records that a member announced and that are not here.
    pub(crate) fn handle(&self, event: Event) -> Vec<Item> {
        let mut wanted = Vec::new();
        let now = Instant::now();
        let mut state = self.state();
        match event {
            Event::Joined { peer, presence, addresses, connected } => {
                tracing::info!(peer = %peer, region = %presence.region, "joined");
                state.peers.handle_joined(peer, presence.region, addresses);
                if now.saturating_duration_since(self.born) >= YOUNG {
                    state.peers.handle_newcomer(&peer, now);
                }
                if connected {
                    state.handle_connected(peer, now);
                }
            }
            Event::Updated { peer, presence, addresses } => {
                state.peers.handle_updated(&peer, presence.region, addresses);
            }
            Event::Connected { peer } => state.handle_connected(peer, now),
            Event::Disconnected { peer } => state.handle_disconnected(&peer),
            Event::Left { peer } => {
                tracing::info!(peer = %peer, "left");
                state.handle_disconnected(&peer);
                state.peers.handle_left(&peer);
                state.ledger.forget(&peer);
            }
            Event::Held { peer, held } => {
                tracing::debug!(peer = %peer.short(), records = held.len(), "announced");
                wanted = state.ledger.handle_announced(peer, held.iter().map(item));
            }
            Event::Links { peer, links } => {
                let reports = links.iter().map(crate::wire::report).collect();
                state.peers.handle_reports(peer, reports, now);
            }
            Event::Rtt { peer, rtt } => state.peers.handle_ping(&peer, rtt, now),
        }
        drop(state);
        self.changed.notify_all();
        wanted
    }

    /// The records of a member were compared with those here, and what was missing is here.
    pub(crate) fn handle_compared(&self, peer: &PeerId) {
        let mut state = self.state();
        state.catching_up.remove(peer);
        state.unknown.remove(peer);
        if state.connected.contains(peer) {
            state.compared.insert(*peer);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// The records of a member are not compared, or could not be: nobody waits for that, it is asked.
    pub(crate) fn handle_not_compared(&self, peer: &PeerId) {
        let mut state = self.state();
        if state.catching_up.remove(peer).is_some() {
            state.unknown.insert(*peer);
        }
        drop(state);
        self.changed.notify_all();
    }

    pub(crate) fn asked(&self, who: Who) {
        let (peers, now) = (&mut self.state().peers, Instant::now());
        match who {
            Who::Peer(peer) => peers.handle_asked(&peer, now),
            Who::Tier(tier) => peers.tiers_mut().handle_asked(tier, now),
        }
    }

    pub(crate) fn over(&self, who: Who, over: Over) {
        let (peers, dice, now) = (&mut self.state().peers, crate::random::unit(), Instant::now());
        match who {
            Who::Peer(peer) => peers.handle_over(&peer, over, dice, now),
            Who::Tier(tier) => peers.tiers_mut().handle_over(tier, over, dice, now),
        }
    }

    /// A record is not in the store; says whether it was thought to be.
    pub(crate) fn lost(&self, key: &ActionKey) -> bool {
        let ledger = &mut self.state().ledger;
        let lost = ledger.have(key).is_some();
        if lost {
            ledger.handle_lost(key);
        }
        lost
    }

    /// How long it is expected to take to have a record's blobs, of so many bytes, from the best of
    /// those who announced it and can be reached.
    pub(crate) fn refetch(&self, key: &ActionKey, bytes: u64) -> Option<Duration> {
        let (state, now) = (self.state(), Instant::now());
        let holders = state.ledger.holders(key).into_iter();
        let present = holders.filter(|peer| state.peers.is_present(peer));
        let seconds = present.map(|peer| {
            let link = state.peers.belief(&peer, now);
            predict(&link, bytes, 0).seconds()
        });
        let best = seconds.min_by(f64::total_cmp)?;
        // What is not finite or absurd is as good as nobody.
        Duration::try_from_secs_f64(best).ok()
    }

    pub(crate) fn missing(&self, peer: &PeerId, key: &ActionKey) {
        self.state().ledger.handle_missing(peer, key);
    }

    /// A fetch from a region ended: `hit` when it brought all that was wanted.
    pub(crate) fn handle_fetch(&self, region: &str, hit: bool, bytes: u64) {
        let mut state = self.state();
        let tally = state.tallies.entry(region.to_owned()).or_default();
        tally.asked += 1;
        tally.hits += u64::from(hit);
        tally.bytes_in += bytes;
    }

    // -- getters --

    /// What is known of who holds a record; waits a moment for members that have just joined.
    pub(crate) fn known(&self, key: &ActionKey) -> Known {
        let mut state = self.state();
        loop {
            let now = Instant::now();
            let holders = state.holders(key);
            if !holders.is_empty() {
                return Known::Holders(holders);
            }
            if state.ledger.have(key).is_some() {
                return Known::Here;
            }
            let Some(wait) = state.wait(now) else {
                let State { catching_up, unknown, .. } = &mut *state;
                unknown.extend(std::mem::take(catching_up).into_keys());
                return match unknown.is_empty() {
                    true => Known::Nobody,
                    false => Known::Perhaps(unknown.clone()),
                };
            };
            state = self.wait_for_change(state, wait);
        }
    }

    /// Waits a moment for members that have just joined, or are still to be met; says whether there
    /// were any to wait for, so that what was in vain before may be worth another try.
    pub(crate) fn settle(&self) -> bool {
        let mut state = self.state();
        let mut waited = false;
        while let Some(wait) = state.wait(Instant::now()) {
            waited = true;
            state = self.wait_for_change(state, wait);
        }
        waited
    }

    /// Whether lookups would wait for members that have just joined.
    pub(crate) fn is_settling(&self) -> bool {
        self.state().wait(Instant::now()).is_some()
    }

    fn wait_for_change<'a>(
        &self,
        state: MutexGuard<'a, State>,
        wait: Duration,
    ) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
    }

    /// The plan for a thing of `size` bytes among the peers for which `among` is true, and the tiers
    /// if `tiers`; those of `holders` are known to have it.
    pub(crate) fn plan(
        &self,
        size: u64,
        holders: &BTreeSet<Who>,
        among: &dyn Fn(&PeerId, &Peer) -> bool,
        tiers: bool,
    ) -> Plan {
        let state = self.state();
        let holds = |who: Who| holders.contains(&who).then_some(true);
        state.peers.plan(size, among, tiers, &holds, crate::random::unit(), Instant::now())
    }

    /// The attempts at a plan: by the way of the configuration.
    pub(crate) fn fallback(&self, plan: &Plan, rounds: u32, classical: bool) -> Fallback {
        if !classical {
            return Fallback::adaptive(
                plan.steps.len().min(MAX_STEPS),
                rounds,
                crate::random::unit(),
            );
        }
        let state = self.state();
        let regions = state.peers.order().regions();
        let rank = |region: &String| {
            regions.iter().position(|known| known == region).unwrap_or(regions.len())
        };
        let ranks: Vec<usize> = plan.steps.iter().map(|step| rank(&step.region)).collect();
        Fallback::ladder(&CLASSICAL, &ranks)
    }

    /// Where a peer is.
    pub(crate) fn whom(&self, peer: &PeerId) -> Option<Whom> {
        let state = self.state();
        let known = state.peers.get(peer).filter(|known| known.present)?;
        let (region, addresses) = (known.region.clone(), known.addresses.clone());
        Some(Whom { peer: *peer, region, addresses })
    }

    /// The holders of a record that are in the mesh, as far as they said.
    pub(crate) fn holders(&self, key: &ActionKey) -> BTreeSet<PeerId> {
        self.state().holders(key)
    }

    /// How many records a member has, as far as is known: those of this agent once they were
    /// compared, else those that it announced.
    pub(crate) fn records_of(&self, peer: &PeerId) -> usize {
        let state = self.state();
        let announced = state.ledger.count(peer);
        let compared = state.compared.contains(peer);
        if compared { announced.max(state.ledger.have_len()) } else { announced }
    }

    /// Members with a connection.
    pub(crate) fn connected(&self) -> Vec<PeerId> {
        self.state().connected.iter().copied().collect()
    }

    pub(crate) fn admits(&self, peer: &PeerId) -> bool {
        self.state().peers.is_present(peer)
    }

    pub(crate) fn tallies(&self) -> BTreeMap<String, Tally> {
        self.state().tallies.clone()
    }

    pub(crate) fn detect(&self, hint: Option<(&str, &str)>) -> Detection {
        self.state().peers.detect(hint, Instant::now())
    }

    pub(crate) fn reports(&self) -> Vec<Report> {
        self.state().peers.reports(Instant::now())
    }

    pub(crate) fn is_connected(&self, peer: &PeerId) -> bool {
        self.state().connected.contains(peer)
    }
}

impl State {
    /// The holders of a record that are in the mesh, as far as they said.
    fn holders(&self, key: &ActionKey) -> BTreeSet<PeerId> {
        let present = |peer: &PeerId| self.peers.is_present(peer);
        self.ledger.holders(key).into_iter().filter(present).collect()
    }

    /// How long a lookup waits for what somebody may tell soon; `None` when there is nobody.
    fn wait(&self, now: Instant) -> Option<Duration> {
        let waits = self.catching_up.values().chain(&self.alone_until);
        let wait = waits.map(|until| until.saturating_duration_since(now)).max();
        wait.filter(|wait| !wait.is_zero() && !self.stopping)
    }

    fn handle_connected(&mut self, peer: PeerId, now: Instant) {
        self.peers.handle_connected(&peer, true);
        self.connected.insert(peer);
        self.catching_up.insert(peer, now + CATCH_UP_GRACE);
        self.alone_until = None;
    }

    fn handle_disconnected(&mut self, peer: &PeerId) {
        self.peers.handle_connected(peer, false);
        self.connected.remove(peer);
        self.catching_up.remove(peer);
        self.unknown.remove(peer);
        self.compared.remove(peer);
    }
}

fn item(held: &Held) -> (Item, Cost) {
    let item = Item { key: held.key, hlc: held.hlc, sum: held.sum };
    (item, Cost { build_ms: held.build_ms, bytes: held.bytes })
}

/// A peer as the source of something.
pub(crate) fn source(whom: &Whom) -> Source {
    Source::Peer { peer: whom.peer, region: whom.region.clone() }
}

/// What a failed request says about the peer.
pub(crate) fn over_of_peer(error: &FetchError) -> Over {
    match error.blame() {
        Blame::Peer => Over::Failed(Fault::Hostile),
        Blame::Link | Blame::Nobody => Over::Failed(Fault::Unavailable),
    }
}

/// Whether a failed request says something about the peer.
pub(crate) fn over_of<T>(answer: &Result<T, FetchError>) -> Over {
    answer.as_ref().map_or_else(over_of_peer, |_| Over::Answered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::hlc::Hlc;
    use netbuild_proto::membership::Presence;
    use std::{sync::mpsc, thread};

    const KEY: ActionKey = ActionKey([7; 32]);
    const A: PeerId = PeerId([1; 32]);
    const B: PeerId = PeerId([2; 32]);

    fn view(expects_members: bool) -> View {
        View::new(Policy::default(), String::new(), Tiers::default(), expects_members)
    }

    fn joined(peer: PeerId) -> Event {
        let (region, mesh_addresses) = (String::new(), Vec::new());
        let presence = Presence { region, mesh_addresses, data_port: 0, started: 1 };
        Event::Joined { peer, presence, addresses: Vec::new(), connected: true }
    }

    fn held(peer: PeerId) -> Event {
        let held = Held { key: KEY, hlc: Hlc(1), sum: 1, build_ms: 1, bytes: 1 };
        Event::Held { peer, held: vec![held] }
    }

    fn holders(peers: &[PeerId]) -> Known {
        Known::Holders(peers.iter().copied().collect())
    }

    /// What a lookup finds that began before something happens.
    fn found_when(view: &View, happens: impl FnOnce()) -> Known {
        let (begins, begun) = mpsc::channel();
        thread::scope(|scope| {
            let lookup = scope.spawn(move || {
                begins.send(()).unwrap();
                view.known(&KEY)
            });
            begun.recv().unwrap();
            happens();
            lookup.join().unwrap()
        })
    }

    #[test]
    fn a_lookup_waits_for_what_a_new_member_holds() {
        let view = view(true);
        // For the member itself, and then for what it says.
        let found = found_when(&view, || {
            view.handle(joined(A));
            assert_eq!(view.handle(held(A)).len(), 1, "it is wanted");
        });
        assert_eq!(found, holders(&[A]));
    }

    #[test]
    fn a_lookup_ends_when_records_were_compared_or_the_member_left() {
        let ends: [&dyn Fn(&View); 3] = [
            &|view| view.handle_compared(&A),
            &|view| drop(view.handle(Event::Left { peer: A })),
            &|view| drop(view.handle(Event::Disconnected { peer: A })),
        ];
        for end in ends {
            let view = view(false);
            view.handle(joined(A));
            assert_eq!(found_when(&view, || end(&view)), Known::Nobody);
        }
    }

    #[test]
    fn a_lookup_ends_when_what_it_is_for_came_with_the_records_of_the_first_member() {
        let view = view(false);
        view.handle(joined(A));
        view.handle(joined(B));
        let found = found_when(&view, || {
            let item = Item { key: KEY, hlc: Hlc(1), sum: 1 };
            view.ledger(|ledger| ledger.handle_have(item, Cost { build_ms: 1, bytes: 1 }));
            view.handle_compared(&A);
        });
        assert_eq!(found, Known::Here);
    }

    #[test]
    fn an_agent_that_stops_waits_for_nobody() {
        let view = view(true);
        view.stop();
        assert_eq!(view.known(&KEY), Known::Nobody);
        let until = view.state().alone_until;
        assert!(until.is_some_and(|until| Instant::now() < until), "it did not wait");
    }

    #[test]
    fn a_member_that_cannot_be_compared_is_waited_for_once_and_then_asked() {
        let view = view(false);
        view.handle(joined(A));
        let perhaps = Known::Perhaps(BTreeSet::from([A]));
        assert_eq!(view.known(&KEY), perhaps);
        let began = Instant::now();
        assert_eq!(view.known(&KEY), perhaps);
        assert!(began.elapsed() < CATCH_UP_GRACE);
        view.handle_compared(&A);
        assert_eq!(view.known(&KEY), Known::Nobody);
    }

    #[test]
    fn a_member_whose_records_are_not_compared_is_asked_without_waiting() {
        let view = view(false);
        view.handle(joined(A));
        let found = found_when(&view, || view.handle_not_compared(&A));
        assert_eq!(found, Known::Perhaps(BTreeSet::from([A])));
    }

    #[test]
    fn one_that_left_holds_nothing() {
        let view = view(false);
        for peer in [A, B] {
            view.handle(joined(peer));
            view.handle(held(peer));
        }
        assert_eq!(view.known(&KEY), holders(&[A, B]));
        view.handle(Event::Left { peer: B });
        assert_eq!(view.known(&KEY), holders(&[A]));
        view.handle(joined(B));
        assert_eq!(view.known(&KEY), holders(&[A]), "until it has said so again");
    }
}
