//! What is fetched now, and what all fetches came to: for the page, and for metrics.

use metrics::Histogram;
use netbuild_core::{
    cache::Source,
    moved::{Coding, Moved, Movement, Progress, Watch},
    record::Sandbox,
    sooner::{Building, Slow},
};
use netbuild_gateway::Transfer;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Instant,
};
use tokio::sync::watch;

/// All fetches of a process.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    state: Mutex<State>,
    /// How many fetches somebody waits for.
    waited: watch::Sender<usize>,
    seconds: OnceLock<Seconds>,
}

#[derive(Debug, Default)]
struct State {
    begun: u64,
    running: BTreeMap<u64, Running>,
    totals: Totals,
}

#[derive(Debug)]
struct Running {
    what: String,
    background: bool,
    began: Instant,
    total: u64,
    progress: Progress,
}

/// What fetches that have ended came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Totals {
    /// Those that brought all.
    pub(crate) whole: u64,
    /// Those that did not.
    pub(crate) lacking: u64,
    /// Those that went on where an earlier one had stopped.
    pub(crate) resumed: u64,
    /// What came from peers and tiers, by how it was coded.
    pub(crate) codings: BTreeMap<Coding, Moved>,
}

/// How long fetches take, by whether they brought all.
#[derive(Debug)]
pub(crate) struct Seconds {
    pub(crate) whole: Histogram,
    pub(crate) lacking: Histogram,
}

impl Traffic {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, the time of each fetch is measured.
    pub(crate) fn measure(&self, seconds: Seconds) {
        // Set a second time, the first stays: there is one scrape for each agent.
        let _ = self.seconds.set(seconds);
    }

    /// A fetch of so many bytes begins; it ends when what is returned does.
    pub(crate) fn begin(self: &Arc<Self>, what: &str, total: u64, background: bool) -> Fetch {
        let (what, began, progress) = (what.to_owned(), Instant::now(), Progress::default());
        let running = Running { what, background, began, total, progress };
        let mut state = self.state();
        let number = state.begun;
        state.begun += 1;
        state.running.insert(number, running);
        self.tell(&state);
        drop(state);
        Fetch { traffic: Arc::clone(self), number }
    }

    /// The fetches that go on, at most `limit`: those that somebody waits for first, and of these the oldest;
    /// and how many more there are.
    pub(crate) fn running(&self, limit: usize) -> (Vec<Transfer>, u64) {
        let state = self.state();
        let mut all: Vec<(&u64, &Running)> = state.running.iter().collect();
        all.sort_by_key(|(number, running)| (running.background, **number));
        let left_out = all.len().saturating_sub(limit) as u64;
        (
            all.into_iter().take(limit).map(|(number, running)| running.shown(*number)).collect(),
            left_out,
        )
    }

    /// How many fetches go on that somebody waits for, now and from now on.
    pub(crate) fn waited(&self) -> watch::Receiver<usize> {
        self.waited.subscribe()
    }

    fn tell(&self, state: &State) {
        let waited = state.running.values().filter(|running| !running.background).count();
        self.waited.send_if_modified(|told| std::mem::replace(told, waited) != waited);
    }

    /// How many fetches go on.
    pub(crate) fn running_now(&self) -> usize {
        self.state().running.len()
    }

    /// What the others came to.
    pub(crate) fn totals(&self) -> Totals {
        self.state().totals.clone()
    }
}

impl Running {
    fn shown(&self, id: u64) -> Transfer {
        let Self { progress, .. } = self;
        Transfer {
            id,
            what: self.what.clone(),
            background: self.background,
            total: self.total.max(progress.total),
            done: progress.done,
            wire: progress.wire,
            per_second: progress.per_second,
            sources: progress.sources.iter().map(place).collect(),
            coding: progress.coding.map(|coding| coding.to_string()),
            running_s: self.began.elapsed().as_secs_f64(),
        }
    }
}

/// A source as people know it: the region of a peer, the place of a tier.
fn place(source: &Source) -> String {
    match source {
        Source::Peer { region, .. } if !region.is_empty() => region.clone(),
        other => other.to_string(),
    }
}

/// A fetch that goes on.
#[derive(Debug)]
pub(crate) struct Fetch {
    traffic: Arc<Traffic>,
    number: u64,
}

impl Fetch {
    /// It is over: this is what came, and whether that was all.
    pub(crate) fn ended(self, movement: &Movement, whole: bool) {
        let mut state = self.traffic.state();
        let began = state.running.get(&self.number).map(|running| running.began);
        let totals = &mut state.totals;
        *(if whole { &mut totals.whole } else { &mut totals.lacking }) += 1;
        totals.resumed += u64::from(movement.resumed.is_some());
        for (coding, moved) in &movement.codings {
            *totals.codings.entry(*coding).or_default() += *moved;
        }
        drop(state);
        if let Some((seconds, began)) = self.traffic.seconds.get().zip(began) {
            let of = if whole { &seconds.whole } else { &seconds.lacking };
            of.record(began.elapsed().as_secs_f64());
        }
    }

    /// Hears how far it is, and passes that on.
    pub(crate) fn watched<'a>(&'a self, by: &'a dyn Watch) -> Watched<'a> {
        Watched { fetch: self, by }
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        let mut state = self.traffic.state();
        state.running.remove(&self.number);
        self.traffic.tell(&state);
    }
}

/// See [`Fetch::watched`].
pub(crate) struct Watched<'a> {
    fetch: &'a Fetch,
    by: &'a dyn Watch,
}

impl Watch for Watched<'_> {
    fn moving(&self, progress: &Progress) {
        if let Some(running) = self.fetch.traffic.state().running.get_mut(&self.fetch.number) {
            running.progress.clone_from(progress);
        }
        self.by.moving(progress);
    }

    fn least(&self) -> Sandbox {
        self.by.least()
    }

    fn building(&self) -> Option<Building> {
        self.by.building()
    }

    fn sooner_built(&self, slow: &Slow) {
        self.by.sooner_built(slow);
    }

    fn is_over(&self) -> bool {
        self.by.is_over()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::{moved::Resumed, peer::PeerId};

    #[test]
    fn a_fetch_is_seen_while_it_lasts_and_counted_when_it_ends() {
        let traffic = Arc::new(Traffic::default());
        let waited = traffic.waited();
        let copy = traffic.begin("copy", 10, true);
        assert_eq!(*waited.borrow(), 0, "nobody waits for a copy");
        let fetch = traffic.begin("action x", 100, false);
        assert_eq!(*waited.borrow(), 1);
        let source = Source::Peer { peer: PeerId([7; 32]), region: "us-east".into() };
        let sources = vec![source.clone()];
        fetch.watched(&()).moving(&Progress { done: 60, sources, ..Progress::default() });
        let (shown, left_out) = traffic.running(1);
        assert_eq!((shown.len(), left_out), (1, 1));
        assert_eq!((shown[0].what.as_str(), shown[0].total, shown[0].done), ("action x", 100, 60));
        assert_eq!(shown[0].sources, ["us-east"]);

        let mut movement = Movement { resumed: Some(Resumed::default()), ..Movement::default() };
        movement.add(&source, Coding::Zstd, Moved { logical: 100, wire: 40 });
        fetch.ended(&movement, true);
        assert_eq!(*waited.borrow(), 0);
        drop(copy);
        assert_eq!(traffic.running_now(), 0);
        let codings = BTreeMap::from([(Coding::Zstd, Moved { logical: 100, wire: 40 })]);
        assert_eq!(traffic.totals(), Totals { whole: 1, lacking: 0, resumed: 1, codings });
    }
}
