//! What this agent knows of the others: fed by the mesh, read by the cache.

use netbuild_core::{
    holders::Holders,
    key::ActionKey,
    peer::PeerId,
    peers::{Candidate, Peers},
};
use netbuild_mesh::Event;
use std::{
    collections::BTreeMap,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long a lookup waits for a member that has joined and not yet told what it holds, and how
/// long after its start an agent with seeds waits to meet one. Once for each member, so that a
/// build right after a join finds what it joined for, and one in a quiet mesh never waits.
pub(crate) const CATCH_UP_GRACE: Duration = Duration::from_secs(2);

/// What is known of the mesh. Used from several threads.
#[derive(Debug)]
pub(crate) struct View {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    peers: Peers,
    holders: Holders,
    /// Until when lookups wait for each member that has not told yet what it holds.
    catching_up: BTreeMap<PeerId, Instant>,
    /// Until when lookups wait for the first member.
    alone_until: Option<Instant>,
    /// Whether nobody shall wait any more.
    stopping: bool,
}

impl View {
    /// A view of nobody. `expects_members`: lookups wait a moment for the first one.
    pub(crate) fn new(expects_members: bool) -> Self {
        let alone_until = expects_members.then(|| Instant::now() + CATCH_UP_GRACE);
        Self {
            state: Mutex::new(State { alone_until, ..State::default() }),
            changed: Condvar::new(),
        }
    }

    /// Lets no lookup wait any more: the agent stops.
    pub(crate) fn stop(&self) {
        self.state().stopping = true;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an event of the mesh.
    pub(crate) fn handle(&self, event: Event) {
        let mut state = self.state();
        match event {
            Event::Joined { peer, presence, addresses } => {
                tracing::info!(peer = %peer, region = %presence.region, "joined");
                state.peers.handle_joined(peer, presence.region, addresses);
                state.catching_up.insert(peer, Instant::now() + CATCH_UP_GRACE);
                state.alone_until = None;
            }
            Event::Updated { peer, presence, addresses } => {
                state.peers.handle_updated(&peer, presence.region, addresses);
            }
            Event::Left { peer } => {
                tracing::info!(peer = %peer, "left");
                state.peers.handle_left(&peer);
                state.holders.forget(&peer);
                state.catching_up.remove(&peer);
            }
            Event::Held { peer, held } => {
                tracing::debug!(peer = %peer.short(), records = held.len(), "announced");
                let held = held.into_iter().map(|held| (held.key, held.hlc));
                state.holders.handle_announced(peer, held);
            }
            Event::CaughtUp { peer } => {
                tracing::debug!(peer = %peer.short(), "caught up");
                state.catching_up.remove(&peer);
            }
            Event::Rtt { peer, rtt } => state.peers.handle_rtt(&peer, rtt),
        }
        drop(state);
        self.changed.notify_all();
    }

    /// The peers that hold a record, in the order in which to ask; waits a moment for members
    /// that have just joined.
    pub(crate) fn holders(&self, key: &ActionKey) -> Vec<Candidate> {
        let mut state = self.state();
        loop {
            let now = Instant::now();
            let holders = state.holders.of(key);
            if !holders.is_empty() {
                return state.peers.candidates(&holders, false, now);
            }
            let waits = state.catching_up.values().chain(&state.alone_until);
            let wait = waits.map(|until| until.saturating_duration_since(now)).max();
            let Some(wait) = wait.filter(|wait| !wait.is_zero() && !state.stopping) else {
                return Vec::new();
            };
            let waited = self.changed.wait_timeout(state, wait);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// All peers worth asking for a blob, holders of `key` first.
    pub(crate) fn everybody(&self, key: Option<&ActionKey>) -> Vec<Candidate> {
        let state = self.state();
        let holders = key.map(|key| state.holders.of(key)).unwrap_or_default();
        state.peers.candidates(&holders, true, Instant::now())
    }

    pub(crate) fn missing(&self, peer: &PeerId, key: &ActionKey) {
        self.state().holders.handle_missing(peer, key);
    }

    pub(crate) fn success(&self, peer: &PeerId, rtt: Option<Duration>) {
        let mut state = self.state();
        state.peers.handle_success(peer);
        if let Some(rtt) = rtt {
            state.peers.handle_rtt(peer, rtt);
        }
    }

    pub(crate) fn failure(&self, peer: &PeerId) {
        self.state().peers.handle_failure(peer, Instant::now());
    }

    pub(crate) fn admits(&self, peer: &PeerId) -> bool {
        self.state().peers.contains(peer)
    }

    /// What each peer looks like from here, for people.
    pub(crate) fn members(&self) -> Vec<netbuild_proto::control::Member> {
        let (state, now) = (self.state(), Instant::now());
        let resting = |peer: &netbuild_core::peers::Peer| {
            if !peer.connected {
                return Some("not connected".to_owned());
            }
            peer.rest(now).map(|rest| format!("failed; asked again in {:.0} s", rest.as_secs_f64()))
        };
        state
            .peers
            .iter()
            .map(|(id, peer)| netbuild_proto::control::Member {
                peer: id.to_string(),
                region: peer.region.clone(),
                addresses: peer.addresses.iter().map(ToString::to_string).collect(),
                rtt_us: peer.rtt().map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
                resting: resting(peer),
                records: state.holders.count(id) as u64,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::hlc::Hlc;
    use netbuild_proto::membership::{Held, Presence};
    use std::{sync::mpsc, thread};

    const KEY: ActionKey = ActionKey([7; 32]);
    const A: PeerId = PeerId([1; 32]);
    const B: PeerId = PeerId([2; 32]);

    fn joined(peer: PeerId) -> Event {
        let presence = Presence { region: String::new(), data_port: 0, mesh_addresses: Vec::new() };
        Event::Joined { peer, presence, addresses: Vec::new() }
    }

    fn held(peer: PeerId) -> Event {
        Event::Held { peer, held: vec![Held { key: KEY, hlc: Hlc(1) }] }
    }

    fn order(view: &View) -> Vec<PeerId> {
        view.holders(&KEY).into_iter().map(|candidate| candidate.peer).collect()
    }

    /// What a lookup finds that began before something happens.
    fn found_when(view: &View, happens: impl FnOnce()) -> Vec<PeerId> {
        let (begins, begun) = mpsc::channel();
        thread::scope(|scope| {
            let lookup = scope.spawn(move || {
                begins.send(()).unwrap();
                order(view)
            });
            begun.recv().unwrap();
            happens();
            lookup.join().unwrap()
        })
    }

    #[test]
    fn a_lookup_waits_for_what_a_new_member_holds() {
        let view = View::new(true);
        // For the member itself, and then for what it says.
        let found = found_when(&view, || {
            view.handle(joined(A));
            view.handle(held(A));
        });
        assert_eq!(found, [A]);
    }

    #[test]
    fn a_lookup_ends_when_a_new_member_has_said_all_leaves_or_the_agent_stops() {
        for end in [Event::CaughtUp { peer: A }, Event::Left { peer: A }] {
            let view = View::new(false);
            view.handle(joined(A));
            assert_eq!(found_when(&view, || view.handle(end)), []);
            let state = view.state();
            assert!(state.catching_up.is_empty() && state.alone_until.is_none());
        }
        let view = View::new(true);
        view.stop();
        assert_eq!(order(&view), []);
        let until = view.state().alone_until;
        assert!(until.is_some_and(|until| Instant::now() < until), "it did not wait");
    }

    #[test]
    fn a_member_that_never_says_what_it_holds_is_waited_for_once() {
        let view = View::new(false);
        view.handle(joined(A));
        assert_eq!(order(&view), []);
        let until = view.state().catching_up[&A];
        assert!(Instant::now() >= until);
        assert_eq!(order(&view), []);
    }

    #[test]
    fn the_nearest_holder_comes_first_and_one_that_left_holds_nothing() {
        let view = View::new(false);
        for (peer, ms) in [(A, 80), (B, 20)] {
            view.handle(joined(peer));
            view.handle(held(peer));
            view.handle(Event::Rtt { peer, rtt: Duration::from_millis(ms) });
        }
        assert_eq!(order(&view), [B, A]);
        view.handle(Event::Left { peer: B });
        assert_eq!(order(&view), [A]);
        // Until it has said so again.
        view.handle(joined(B));
        assert_eq!(order(&view), [A]);
    }
}
