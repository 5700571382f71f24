//! Builds as the control socket sees them: which processes look results up and record them, what they
//! found, and what they missed.
//!
//! A build is a process of this machine with connections to the socket; its commands ask for results one by
//! one, from as many connections as it runs jobs. It may close all of them for a moment.

use netbuild_core::{
    backend::TierKind,
    cache::{Hit, NewRecord, Source},
    key::ActionKey,
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Builds that have ended and are remembered.
const MAX_ENDED: usize = 16;
/// Misses that are remembered, the latest: more than a page shows.
const MAX_MISSES: usize = 256;
/// Regions that hits are counted for; those of further ones count as of [`OTHER`].
const MAX_REGIONS: usize = 64;
/// See [`MAX_REGIONS`]. No region has this name, as it has a space in it.
const OTHER: &str = "other regions";
/// A process that comes back so soon goes on with the same build.
const PAUSE: Duration = Duration::from_secs(5);
/// Longest name of a workspace that is shown.
const MAX_NAME: usize = 64;

/// All builds next to one agent.
#[derive(Debug, Default)]
pub struct Guests {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    running: BTreeMap<i32, Running>,
    ended: VecDeque<(Instant, Build)>,
    misses: VecDeque<Miss>,
    totals: Totals,
}

#[derive(Debug)]
struct Running {
    build: Build,
    connections: u32,
}

/// A build, as far as it came to the control socket.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Build {
    /// Its process.
    pub pid: i32,
    /// Name of the directory that it runs in; empty where that cannot be told.
    pub workspace: String,
    /// When it first asked for something, in milliseconds since 1970; 0 before that.
    pub began_ms: u64,
    /// When it ended; `None` while it runs.
    pub ended_ms: Option<u64>,
    /// Results that it asked for and that are being looked for or brought now.
    pub looking: u32,
    /// Results that it asked for and got.
    pub hits: u64,
    /// Results that nobody had.
    pub misses: u64,
    /// Results that it recorded: tasks that ran.
    pub executed: u64,
    /// What the tasks of its hits took when they ran, less what the hits took, in seconds.
    pub saved_s: f64,
}

/// A result that nobody had.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Miss {
    /// The action.
    #[serde(skip)]
    pub key: ActionKey,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Name of the directory of the build that asked.
    pub workspace: String,
    /// The first output of the task, once it ran.
    pub output: Option<String>,
    /// Seconds that it ran, once it did.
    pub ran_s: Option<f64>,
}

/// What all builds came to since the agent started.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Totals {
    /// Builds that asked for something.
    pub builds: u64,
    /// Hits by kind of source (`disk`, `peer`, `redis`, `s3`, `memory`) and by region, which is empty for others
    /// than peers.
    pub hits: BTreeMap<(&'static str, String), u64>,
    /// Lookups of what nobody had.
    pub misses: u64,
    /// Lookups of what was sooner built.
    pub slow: u64,
    /// Lookups that failed.
    pub failed: u64,
    /// Results that were recorded.
    pub executed: u64,
    /// Seconds that these ran.
    pub executed_s: f64,
    /// What the tasks of all hits took when they ran, less what the hits took, in seconds.
    pub saved_s: f64,
}

/// The kind of a source, as `netbuild run --summary` counts hits.
fn kind(source: &Source) -> &'static str {
    match source {
        Source::Disk => "disk",
        Source::Peer { .. } => "peer",
        Source::Tier(tier) => match tier.kind {
            TierKind::Redis => "redis",
            TierKind::S3 => "s3",
            TierKind::Memory => "memory",
        },
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// The name of the directory that a process runs in.
fn workspace_of(pid: i32) -> String {
    let path = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_else(|_| PathBuf::new());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.chars().take(MAX_NAME).collect()
}

impl Guests {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection of a process, until what is returned is dropped.
    pub(crate) fn enter(self: &Arc<Self>, pid: i32) -> Visit {
        let mut state = self.state();
        let known =
            state.ended.iter().position(|(at, build)| build.pid == pid && at.elapsed() < PAUSE);
        let before = known.and_then(|at| state.ended.remove(at)).map(|(_, build)| build);
        let running = state.running.entry(pid).or_insert_with(|| Running {
            build: before.map_or_else(
                || Build { pid, ..Build::default() },
                |build| Build { ended_ms: None, ..build },
            ),
            connections: 0,
        });
        running.connections += 1;
        drop(state);
        Visit { guests: Arc::clone(self), pid }
    }

    /// The builds that run, and those that ended of late, the latest first.
    pub fn builds(&self) -> Vec<Build> {
        let state = self.state();
        let mut running: Vec<Build> = state
            .running
            .values()
            .map(|running| running.build.clone())
            .filter(|build| build.began_ms > 0)
            .collect();
        running.sort_by_key(|build| std::cmp::Reverse(build.began_ms));
        running.extend(state.ended.iter().rev().map(|(_, build)| build.clone()));
        running
    }

    /// How many builds run.
    pub fn running(&self) -> usize {
        self.state().running.values().filter(|running| running.build.began_ms > 0).count()
    }

    /// The last results that nobody had, the latest first and at most `limit`.
    pub fn misses(&self, limit: usize) -> Vec<Miss> {
        self.state().misses.iter().rev().take(limit).cloned().collect()
    }

    /// What all builds came to.
    pub fn totals(&self) -> Totals {
        self.state().totals.clone()
    }
}

/// A connection of a process.
#[derive(Debug)]
pub(crate) struct Visit {
    guests: Arc<Guests>,
    pid: i32,
}

impl Visit {
    fn with(&self, change: impl FnOnce(&mut Build, &mut Totals, &mut VecDeque<Miss>)) {
        let mut state = self.guests.state();
        let State { running, totals, misses, .. } = &mut *state;
        if let Some(running) = running.get_mut(&self.pid) {
            change(&mut running.build, totals, misses);
        }
    }

    /// It asks for a result.
    pub(crate) fn looks(&self) -> Looking<'_> {
        let new = {
            let state = self.guests.state();
            state.running.get(&self.pid).is_some_and(|running| running.build.began_ms == 0)
        };
        // Asked of the system without the lock, and once for each build.
        let workspace = new.then(|| workspace_of(self.pid));
        self.with(|build, totals, _| {
            if build.began_ms == 0 {
                build.began_ms = now_ms();
                build.workspace = workspace.unwrap_or_default();
                totals.builds += 1;
            }
            build.looking += 1;
        });
        Looking { visit: self, began: Instant::now() }
    }

    /// It recorded a result.
    pub(crate) fn recorded(&self, record: &Recorded) {
        self.with(|build, totals, misses| {
            build.executed += 1;
            totals.executed += 1;
            totals.executed_s += record.seconds;
            if let Some(miss) = misses.iter_mut().rev().find(|miss| miss.key == record.key) {
                miss.output.clone_from(&record.output);
                miss.ran_s = Some(record.seconds);
            }
        });
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut state = self.guests.state();
        let Some(running) = state.running.get_mut(&self.pid) else { return };
        running.connections -= 1;
        if running.connections > 0 {
            return;
        }
        let ended = state.running.remove(&self.pid).map(|running| running.build);
        // Who never asked for a result is no build.
        if let Some(build) = ended.filter(|build| build.began_ms > 0) {
            if state.ended.len() >= MAX_ENDED {
                state.ended.pop_front();
            }
            let build = Build { ended_ms: Some(now_ms()), ..build };
            state.ended.push_back((Instant::now(), build));
        }
    }
}

/// What is remembered of a result that is recorded.
#[derive(Debug)]
pub(crate) struct Recorded {
    key: ActionKey,
    output: Option<String>,
    seconds: f64,
}

impl From<&NewRecord> for Recorded {
    fn from(record: &NewRecord) -> Self {
        let output = record.result.outputs.first();
        Self {
            key: record.key,
            output: output.map(|output| String::from_utf8_lossy(&output.path).into_owned()),
            seconds: record.execution.duration_ms as f64 / 1e3,
        }
    }
}

/// A lookup under way.
#[derive(Debug)]
pub(crate) struct Looking<'a> {
    visit: &'a Visit,
    began: Instant,
}

impl Looking<'_> {
    /// It was found.
    pub(crate) fn hit(&self, hit: &Hit) {
        let ran = hit.record.execution.duration_ms as f64 / 1e3;
        let saved = (ran - self.began.elapsed().as_secs_f64()).max(0.0);
        let region = match &hit.source {
            Source::Peer { region, .. } => region.clone(),
            Source::Disk | Source::Tier(_) => String::new(),
        };
        self.visit.with(|build, totals, _| {
            build.hits += 1;
            build.saved_s += saved;
            totals.saved_s += saved;
            let mut of = (kind(&hit.source), region);
            if totals.hits.len() >= MAX_REGIONS && !totals.hits.contains_key(&of) {
                of.1 = OTHER.to_owned();
            }
            *totals.hits.entry(of).or_default() += 1;
        });
    }

    /// Nobody has it, or not as soon as it is built.
    pub(crate) fn missed(&self, key: &ActionKey, slow: bool) {
        self.visit.with(|build, totals, misses| {
            build.misses += 1;
            *(if slow { &mut totals.slow } else { &mut totals.misses }) += 1;
            if misses.len() >= MAX_MISSES {
                misses.pop_front();
            }
            let workspace = build.workspace.clone();
            let (key, at_ms) = (*key, now_ms());
            misses.push_back(Miss { key, at_ms, workspace, output: None, ran_s: None });
        });
    }

    /// It failed.
    pub(crate) fn failed(&self) {
        self.visit.with(|_, totals, _| totals.failed += 1);
    }
}

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        self.visit.with(|build, _, _| build.looking = build.looking.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::{
        hlc::Hlc,
        moved::Movement,
        peer::PeerId,
        record::{ActionResult, Execution, Output, OutputKind, Record, Sandbox},
    };

    const KEY: ActionKey = ActionKey([7; 32]);

    fn new(duration_ms: u64) -> NewRecord {
        let output = Output { path: b"out/app".to_vec(), kind: OutputKind::Absent };
        NewRecord {
            key: KEY,
            result: ActionResult { exit_code: 0, outputs: vec![output], log: None },
            execution: Execution {
                duration_ms,
                finished_at_ms: 1,
                sandbox_asked: Sandbox::Env,
                sandbox_obtained: Sandbox::Env,
                tools: Vec::new(),
                netbuild_version: "0".into(),
                flaky: false,
                drift_checked: true,
                bound_to: None,
                local: false,
            },
        }
    }

    fn hit(region: &str) -> Hit {
        let NewRecord { key, result, execution } = new(60_000);
        let (peer, hlc) = (PeerId([1; 32]), Hlc(1));
        let record = Record { key, result, execution, writer: peer, region: String::new(), hlc };
        let source = Source::Peer { peer, region: region.into() };
        Hit { record, source, bytes: 1, movement: Movement::default() }
    }

    #[test]
    fn a_build_is_told_from_its_first_lookup_to_its_end() {
        let guests = Arc::<Guests>::default();
        let pid = std::process::id() as i32;
        let (first, second) = (guests.enter(pid), guests.enter(pid));
        assert_eq!(guests.builds(), [], "it may be any command");
        let looking = first.looks();
        assert_eq!((guests.running(), guests.builds()[0].looking), (1, 1));
        assert!(!guests.builds()[0].workspace.is_empty());
        looking.hit(&hit("us-east"));
        drop(looking);
        second.looks().missed(&KEY, false);
        second.recorded(&Recorded::from(&new(1500)));
        drop((first, second));
        // It closes all of its connections for a moment.
        let again = guests.enter(pid);
        again.looks().hit(&hit("us-east"));
        let running = guests.builds();
        assert_eq!(running.len(), 1);
        let Build { hits, misses, executed, looking, ended_ms, .. } = running[0];
        assert_eq!((hits, misses, executed, looking, ended_ms), (2, 1, 1, 0, None));
        assert!(running[0].saved_s > 100.0, "{running:?}");
        drop(again);
        assert_eq!(guests.running(), 0);
        assert!(guests.builds()[0].ended_ms.is_some());

        let miss = guests.misses(10).pop().expect("a miss");
        assert_eq!((miss.output.as_deref(), miss.ran_s), (Some("out/app"), Some(1.5)));
        let totals = guests.totals();
        assert_eq!((totals.builds, totals.misses, totals.executed), (1, 1, 1));
        assert_eq!(totals.hits, BTreeMap::from([(("peer", "us-east".to_owned()), 2)]));
    }

    #[test]
    fn whatever_comes_takes_a_bounded_space() {
        let guests = Arc::<Guests>::default();
        for number in 1..1000 {
            let visit = guests.enter(-number);
            visit.looks().hit(&hit(&format!("region-{number}")));
            visit.looks().missed(&ActionKey([number as u8; 32]), false);
        }
        assert_eq!(guests.builds().len(), MAX_ENDED);
        assert_eq!(guests.misses(usize::MAX).len(), MAX_MISSES);
        let hits = guests.totals().hits;
        assert!(hits.len() <= MAX_REGIONS + 1, "{}", hits.len());
        assert_eq!(hits.values().sum::<u64>(), 999);
    }
}
