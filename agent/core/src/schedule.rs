//! Decides which task runs next: the one with the longest expected way to the end of the build.
//!
//! The caller asks [`Schedule::poll_ready`] for tasks as long as it has a free slot, runs them, and
//! reports each with [`Schedule::finish`], until [`Schedule::is_done`].

use crate::graph::{DependencyKind, Graph, PoolId, TaskId};
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

/// How a task ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It ran or was restored.
    Succeeded,
    /// It failed; nothing that depends on it runs.
    Failed,
    /// It does not run on this platform; what needs its data does not run either.
    Skipped,
}

/// What a failure means for tasks that do not depend on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnFailure {
    /// Start nothing new.
    #[default]
    Stop,
    /// Run all that can still run.
    KeepGoing,
}

/// A task that will not run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Skip {
    /// The task.
    pub task: TaskId,
    /// The task that failed or was skipped first.
    pub cause: TaskId,
}

/// How many tasks are in which state; the sum is the size of the schedule.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Neither handed out nor skipped.
    pub waiting: usize,
    /// Handed out and not finished.
    pub running: usize,
    /// Finished well.
    pub succeeded: usize,
    /// Finished badly.
    pub failed: usize,
    /// Skipped: for their platform, or because of another task.
    pub skipped: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Waiting,
    Ready,
    Running,
    Done,
}

/// A task of the schedule; indices are places in `Schedule::entries`.
#[derive(Clone, Debug)]
struct Entry {
    task: TaskId,
    state: State,
    /// Dependencies that have not ended.
    pending: u32,
    /// The task of another platform whose data it needs. It is skipped once its turn comes, so
    /// that what waits for it also waits for all that it waits for.
    lacks: Option<TaskId>,
    /// Slots that it takes of the jobs.
    weight: u32,
    /// Its place in `Schedule::pools`.
    pool: Option<usize>,
    dependents: Vec<(u32, DependencyKind)>,
}

/// Tasks that are ready, by rank.
type Ready = BinaryHeap<(Rank, u32)>;

/// A pool of the graph in this run; or, behind these, the terminal, which one task has at a time.
#[derive(Clone, Debug)]
struct Pool {
    depth: u32,
    free: u32,
    /// Tasks of the pool that are ready, and those only.
    ready: Ready,
}

/// The order in which ready tasks are handed out, greatest first.
type Rank = (u64, i32, Reverse<TaskId>);

/// The state of one run; by default of one without tasks.
#[derive(Clone, Debug, Default)]
pub struct Schedule {
    entries: Vec<Entry>,
    /// The entry of each task of the graph.
    places: Vec<Option<u32>>,
    ranks: Vec<Rank>,
    /// Tasks of no pool that are ready.
    ready: Ready,
    pools: Vec<Pool>,
    /// Slots of the jobs that nothing takes.
    free: u32,
    on_failure: OnFailure,
    counts: Counts,
}

impl Pool {
    fn new(depth: u32) -> Self {
        let depth = depth.max(1);
        Self { depth, free: depth, ready: BinaryHeap::new() }
    }

    /// Slots of the pool that a task of this weight takes: one that is heavier than the pool takes all.
    fn weight(&self, weight: u32) -> u32 {
        weight.min(self.depth)
    }
}

impl Schedule {
    /// Schedules `targets` and all that they need, with `jobs` slots, at least 1: most weight of tasks
    /// that run at once. `cost` is the expected time of a task in milliseconds. Among tasks that are ready the one with the longest expected path to an end
    /// of the build goes first; then the one of higher priority; then the one that stands first in
    /// the file. One for which there are not enough slots waits for them, and all behind it wait
    /// too, or it might wait for ever; one whose pool is full is passed over.
    pub fn new(
        graph: &Graph,
        targets: &[TaskId],
        on_failure: OnFailure,
        jobs: u32,
        cost: impl Fn(TaskId) -> u64,
    ) -> Self {
        let jobs = jobs.max(1);
        let order = graph.closure(targets);
        let mut places = vec![None; graph.tasks().len()];
        let mut entries: Vec<Entry> = Vec::with_capacity(order.len());
        for (place, task) in (0..).zip(order) {
            let deps = &graph[task].deps;
            // Dependencies come first in the order, so each has its place by now.
            for dep in deps {
                if let Some(at) = places[dep.task.index()] {
                    let before: &mut Entry = &mut entries[at as usize];
                    before.dependents.push((place, dep.kind));
                }
            }
            places[task.index()] = Some(place);
            entries.push(Entry {
                task,
                state: State::Waiting,
                pending: deps.len() as u32,
                lacks: None,
                weight: graph[task].weight.clamp(1, jobs),
                pool: match graph[task].interactive {
                    true => Some(graph.pools().len()),
                    false => graph[task].pool.map(PoolId::index),
                },
                dependents: Vec::new(),
            });
        }
        let counts = Counts { waiting: entries.len(), ..Counts::default() };
        let mut schedule = Self {
            ranks: ranks(graph, &entries, cost),
            entries,
            places,
            ready: BinaryHeap::new(),
            pools: graph.pools().iter().map(|pool| pool.depth).chain([1]).map(Pool::new).collect(),
            free: jobs,
            on_failure,
            counts,
        };
        for place in 0..schedule.entries.len() as u32 {
            if schedule.entries[place as usize].pending == 0 {
                schedule.make_ready(place);
            }
        }
        schedule
    }

    /// The next task to start now, or `None` until another one finishes.
    pub fn poll_ready(&mut self) -> Option<TaskId> {
        if self.is_stopped() {
            return None;
        }
        let first = self.ready.peek().map(|first| (*first, None));
        let of_pools = self.pools.iter().enumerate().filter_map(|(index, pool)| {
            let first = *pool.ready.peek()?;
            let fits = pool.weight(self.entries[first.1 as usize].weight) <= pool.free;
            fits.then_some((first, Some(index)))
        });
        let ((_, place), pool) = first.into_iter().chain(of_pools).max()?;
        let entry = &mut self.entries[place as usize];
        self.free = self.free.checked_sub(entry.weight)?;
        match pool.map(|index| &mut self.pools[index]) {
            Some(pool) => {
                pool.free -= pool.weight(entry.weight);
                pool.ready.pop();
            }
            None => drop(self.ready.pop()),
        }
        entry.state = State::Running;
        self.counts.waiting -= 1;
        self.counts.running += 1;
        Some(entry.task)
    }

    /// Ends a task that [`Schedule::poll_ready`] handed out, and says what will not run because of
    /// it, nearest first. A task that is not running is ignored.
    pub fn finish(&mut self, task: TaskId, outcome: Outcome) -> Vec<Skip> {
        let place = self.places.get(task.index()).copied().flatten();
        let Some(place) = place.filter(|p| self.entries[*p as usize].state == State::Running)
        else {
            return Vec::new();
        };
        self.counts.running -= 1;
        let entry = &self.entries[place as usize];
        self.free += entry.weight;
        if let Some(pool) = entry.pool {
            let pool = &mut self.pools[pool];
            pool.free += pool.weight(entry.weight);
        }
        *match outcome {
            Outcome::Succeeded => &mut self.counts.succeeded,
            Outcome::Failed => &mut self.counts.failed,
            Outcome::Skipped => &mut self.counts.skipped,
        } += 1;
        self.entries[place as usize].state = State::Done;
        let mut skips = Vec::new();
        let mut ended = VecDeque::from([(place, outcome)]);
        while let Some((place, outcome)) = ended.pop_front() {
            // A task ends once, so its dependents are not needed again.
            for (next, kind) in std::mem::take(&mut self.entries[place as usize].dependents) {
                let entry = &mut self.entries[next as usize];
                entry.pending -= 1;
                if entry.state != State::Waiting {
                    continue;
                }
                if outcome == Outcome::Skipped && kind == DependencyKind::Data {
                    entry.lacks.get_or_insert(task);
                }
                let cause = match (outcome, entry.pending, entry.lacks) {
                    (Outcome::Failed, ..) => task,
                    (_, 0, Some(lacking)) => lacking,
                    (_, 0, None) => {
                        self.make_ready(next);
                        continue;
                    }
                    _ => continue,
                };
                entry.state = State::Done;
                self.counts.waiting -= 1;
                self.counts.skipped += 1;
                skips.push(Skip { task: entry.task, cause });
                let outcome = match outcome {
                    Outcome::Failed => Outcome::Failed,
                    _ => Outcome::Skipped,
                };
                ended.push_back((next, outcome));
            }
        }
        skips
    }

    /// Whether nothing is running and nothing more will start. Tasks that were ready when another
    /// one failed may still be counted as waiting then.
    pub fn is_done(&self) -> bool {
        let nothing_ready =
            || self.ready.is_empty() && self.pools.iter().all(|pool| pool.ready.is_empty());
        self.counts.running == 0 && (self.is_stopped() || nothing_ready())
    }

    /// Milliseconds that the longest chain of tasks behind a task is expected to take, when the task
    /// itself costs so many.
    pub fn after(&self, task: TaskId, cost: u64) -> u64 {
        let place = self.places.get(task.index()).copied().flatten();
        place.map_or(0, |place| self.ranks[place as usize].0.saturating_sub(cost))
    }

    /// How far the run is.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn is_stopped(&self) -> bool {
        self.on_failure == OnFailure::Stop && self.counts.failed > 0
    }

    fn make_ready(&mut self, place: u32) {
        let entry = &mut self.entries[place as usize];
        entry.state = State::Ready;
        let ready = match entry.pool {
            Some(pool) => &mut self.pools[pool].ready,
            None => &mut self.ready,
        };
        ready.push((self.ranks[place as usize], place));
    }
}

/// The rank of each entry; entries come dependencies first.
fn ranks(graph: &Graph, entries: &[Entry], cost: impl Fn(TaskId) -> u64) -> Vec<Rank> {
    let mut ranks: Vec<Rank> = Vec::new();
    ranks.resize(entries.len(), (0, 0, Reverse(TaskId(0))));
    for (place, entry) in entries.iter().enumerate().rev() {
        let after = entry.dependents.iter().map(|(next, _)| ranks[*next as usize].0);
        let path = cost(entry.task).saturating_add(after.max().unwrap_or(0));
        ranks[place] = (path, graph[entry.task].priority, Reverse(entry.task));
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::load;
    use proptest::prelude::*;

    fn graph(tasks: &str) -> Graph {
        load(format!("{{\"tasks\":{{{tasks}}}}}").as_bytes()).unwrap()
    }

    fn schedule(graph: &Graph, on_failure: OnFailure) -> Schedule {
        Schedule::new(graph, graph.default_targets(), on_failure, 1000, |_| 1)
    }

    fn names(graph: &Graph, tasks: impl IntoIterator<Item = TaskId>) -> Vec<&str> {
        let tasks = tasks.into_iter();
        tasks.map(|task| graph[task].name.as_str()).collect()
    }

    fn skipped<'g>(graph: &'g Graph, skips: &[Skip]) -> Vec<&'g str> {
        names(graph, skips.iter().map(|skip| skip.task))
    }

    const DIAMOND: &str = r#"
        "base": {"command": "x"},
        "left": {"command": "x", "deps": ["base"]},
        "right": {"command": "x", "deps": [{"task": "base", "kind": "order"}]},
        "top": {"deps": ["left", {"task": "right", "kind": "order"}]}"#;

    #[test]
    fn the_longest_path_goes_first_then_priority_then_the_order_of_the_file() {
        let graph = graph(
            r#""a": {"command": "x"}, "b": {"command": "x"}, "c": {"command": "x", "priority": 1},
               "long": {"command": "x"}, "end": {"deps": ["long"]}"#,
        );
        let mut schedule = schedule(&graph, OnFailure::Stop);
        let order: Vec<_> = std::iter::from_fn(|| schedule.poll_ready()).collect();
        assert_eq!(names(&graph, order), ["long", "c", "a", "b"]);
        assert!(!schedule.is_done());
    }

    #[test]
    fn costs_decide_what_is_long() {
        let graph = graph(r#""cheap": {"command": "x"}, "dear": {"command": "x"}"#);
        let dear = graph.find("dear").unwrap();
        let cost = |task| if task == dear { u64::MAX } else { 1 };
        let mut schedule = Schedule::new(&graph, graph.default_targets(), OnFailure::Stop, 9, cost);
        assert_eq!(schedule.poll_ready(), Some(dear));
    }

    /// What starts when as much as can run has been started, one finishing after the other.
    fn rounds(graph: &Graph, jobs: u32) -> Vec<String> {
        let targets = graph.default_targets();
        let mut schedule = Schedule::new(graph, targets, OnFailure::Stop, jobs, |_| 1);
        let (mut running, mut rounds) = (VecDeque::new(), Vec::new());
        while !schedule.is_done() {
            let started: Vec<_> = std::iter::from_fn(|| schedule.poll_ready()).collect();
            rounds.push(names(graph, started.iter().copied()).join(" "));
            running.extend(started);
            let ended = running.pop_front().expect("something runs");
            schedule.finish(ended, Outcome::Succeeded);
        }
        assert_eq!((schedule.free, schedule.counts.running), (jobs, 0));
        rounds
    }

    #[test]
    fn a_full_pool_is_passed_over_and_missing_slots_are_waited_for() {
        let graph = load(
            br#"{"pools": {"link": 1}, "tasks": {
                "l1": {"command": "x", "pool": "link"}, "l2": {"command": "x", "pool": "link"},
                "c1": {"command": "x"}, "heavy": {"command": "x", "weight": 2},
                "c2": {"command": "x"}, "huge": {"command": "x", "weight": 99}}}"#,
        )
        .unwrap();
        // `l2` waits for `l1` only, `heavy` for two slots and `huge` for all of them.
        assert_eq!(
            rounds(&graph, 3),
            ["l1 c1", "l2", "heavy", "c2", "", "huge"].map(str::to_owned)
        );
        assert_eq!(rounds(&graph, 1), ["l1", "l2", "c1", "heavy", "c2", "huge"].map(str::to_owned));
    }

    #[test]
    fn one_task_at_a_time_has_the_terminal() {
        let graph = load(
            br#"{"pools": {"link": 1}, "defaults": {"pool": "link"}, "tasks": {
                "i1": {"command": "x", "interactive": true}, "l1": {"command": "x"},
                "i2": {"command": "x", "interactive": true}, "l2": {"command": "x"}}}"#,
        )
        .unwrap();
        assert_eq!(rounds(&graph, 9), ["i1 l1", "i2", "l2", ""].map(str::to_owned));
    }

    #[test]
    fn a_failure_skips_dependents_of_both_kinds() {
        let graph = graph(DIAMOND);
        let mut schedule = schedule(&graph, OnFailure::KeepGoing);
        let base = schedule.poll_ready().unwrap();
        assert_eq!(schedule.poll_ready(), None);
        let skips = schedule.finish(base, Outcome::Failed);
        assert_eq!(skipped(&graph, &skips), ["left", "right", "top"]);
        assert!(skips.iter().all(|skip| skip.cause == base));
        assert!(schedule.is_done());
        let counts = schedule.counts();
        assert_eq!((counts.failed, counts.skipped, counts.waiting), (1, 3, 0));
    }

    #[test]
    fn a_platform_skip_spares_what_only_waited() {
        let graph = graph(DIAMOND);
        let mut schedule = schedule(&graph, OnFailure::Stop);
        let base = schedule.poll_ready().unwrap();
        let skips = schedule.finish(base, Outcome::Skipped);
        assert_eq!(skipped(&graph, &skips), ["left"]);
        let right = schedule.poll_ready().unwrap();
        assert_eq!(graph[right].name, "right");
        let skips = schedule.finish(right, Outcome::Succeeded);
        assert_eq!(skipped(&graph, &skips), ["top"]);
        assert_eq!(skips[0].cause, base);
        assert!(schedule.is_done());
    }

    #[test]
    fn a_skipped_task_still_waits_for_what_it_waits_for() {
        let graph = graph(
            r#""slow": {"command": "x"}, "elsewhere": {"command": "x"},
               "middle": {"command": "x", "deps": ["slow", "elsewhere"]},
               "end": {"command": "x", "deps": [{"task": "middle", "kind": "order"}]}"#,
        );
        let mut schedule = schedule(&graph, OnFailure::Stop);
        let (slow, elsewhere) = (schedule.poll_ready().unwrap(), schedule.poll_ready().unwrap());
        assert!(schedule.finish(elsewhere, Outcome::Skipped).is_empty());
        assert_eq!(schedule.poll_ready(), None);
        let skips = schedule.finish(slow, Outcome::Succeeded);
        assert_eq!(skipped(&graph, &skips), ["middle"]);
        let end = schedule.poll_ready().unwrap();
        assert_eq!(graph[end].name, "end");
    }

    #[test]
    fn after_a_failure_nothing_new_starts_unless_asked_for() {
        let graph = graph(r#""a": {"command": "x"}, "b": {"command": "x"}, "c": {"command": "x"}"#);
        for (on_failure, started) in [(OnFailure::Stop, 2), (OnFailure::KeepGoing, 3)] {
            let mut schedule = schedule(&graph, on_failure);
            let (a, b) = (schedule.poll_ready().unwrap(), schedule.poll_ready().unwrap());
            schedule.finish(a, Outcome::Failed);
            assert!(!schedule.is_done(), "b is running");
            let third = schedule.poll_ready();
            assert_eq!(2 + usize::from(third.is_some()), started);
            schedule.finish(b, Outcome::Succeeded);
            if let Some(third) = third {
                schedule.finish(third, Outcome::Succeeded);
            }
            assert!(schedule.is_done());
            assert_eq!(schedule.counts().waiting, 3 - started);
        }
    }

    #[test]
    fn a_task_ends_once() {
        let graph = graph(DIAMOND);
        let mut schedule = schedule(&graph, OnFailure::Stop);
        let top = graph.find("top").unwrap();
        assert!(schedule.finish(top, Outcome::Failed).is_empty());
        let base = schedule.poll_ready().unwrap();
        schedule.finish(base, Outcome::Succeeded);
        assert!(schedule.finish(base, Outcome::Failed).is_empty());
        assert_eq!(schedule.counts().failed, 0);
    }

    #[test]
    fn a_long_chain_runs_in_order() {
        let count = 100_000;
        let mut tasks = String::from("\"t0\":{\"command\":\"x\"}");
        for i in 1..count {
            tasks.push_str(&format!(",\"t{i}\":{{\"deps\":[\"t{}\"]}}", i - 1));
        }
        let graph = graph(&tasks);
        let mut schedule = schedule(&graph, OnFailure::Stop);
        for i in 0..count {
            let task = schedule.poll_ready().unwrap();
            assert_eq!(task.index(), i);
            schedule.finish(task, Outcome::Succeeded);
        }
        assert!(schedule.is_done());
    }

    proptest! {
        #[test]
        fn every_task_ends_once_and_dependencies_first(
            edges in prop::collection::vec((0usize..40, 0usize..40, any::<bool>()), 0..120),
            outcomes in prop::collection::vec(0u8..10, 40),
            slots in 1usize..5,
        ) {
            let mut deps = vec![Vec::new(); 40];
            for (a, b, order) in edges {
                if a != b {
                    let kind = if order { "order" } else { "data" };
                    let dep = format!("{{\"task\":\"t{}\",\"kind\":\"{kind}\"}}", a.min(b));
                    deps[a.max(b)].push(dep);
                }
            }
            let tasks: Vec<_> = deps.iter().enumerate().map(|(i, deps)| {
                format!("\"t{i}\":{{\"command\":\"x\",\"deps\":[{}]}}", deps.join(","))
            }).collect();
            let graph = graph(&tasks.join(","));
            let mut schedule = schedule(&graph, OnFailure::KeepGoing);
            let mut ended = [None; 40];
            let mut running = Vec::new();
            while !schedule.is_done() {
                while running.len() < slots {
                    let Some(task) = schedule.poll_ready() else { break };
                    for dep in &graph[task].deps {
                        let fine = match ended[dep.task.index()] {
                            Some(Outcome::Succeeded) => true,
                            Some(Outcome::Skipped) => dep.kind == DependencyKind::Order,
                            _ => false,
                        };
                        prop_assert!(fine);
                    }
                    running.push(task);
                }
                prop_assert!(!running.is_empty());
                let task = running.remove(0);
                let outcome = match outcomes[task.index()] {
                    0 => Outcome::Failed,
                    1 => Outcome::Skipped,
                    _ => Outcome::Succeeded,
                };
                prop_assert!(ended[task.index()].replace(outcome).is_none());
                let skips = schedule.finish(task, outcome);
                // What a failure skips counts as failed: no dependent of it runs.
                let fate = if outcome == Outcome::Failed { outcome } else { Outcome::Skipped };
                for skip in skips {
                    prop_assert!(ended[skip.task.index()].replace(fate).is_none());
                }
            }
            prop_assert!(ended.iter().all(Option::is_some));
            let counts = schedule.counts();
            prop_assert_eq!(counts.succeeded + counts.failed + counts.skipped, 40);
        }
    }
}
