//! Reading through the whole store in the background, a little at a time, so that damage is found and
//! healed before somebody needs what is damaged.

use crate::{
    chain::chain, config::ScrubSettings, decisions::wall_ms, mesh_cache::MeshCache,
    remembered::Kept, verify::Lost,
};
use netbuild_core::limit::Bucket;
use netbuild_proto::control::ScrubStatus;
use netbuild_store::{Cursor, Finding, Inspect};
use std::{
    num::NonZeroUsize,
    ops::ControlFlow,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// How often it is looked whether it is quiet.
const LOOK: Duration = Duration::from_secs(1);
/// Longest pause for the sake of others. On an agent that is never quiet it goes on after that, for as long as
/// [`TURN`].
const MAX_PAUSE: Duration = Duration::from_secs(3600);
/// See [`MAX_PAUSE`].
const TURN: Duration = Duration::from_secs(600);
/// After the store could not be read.
const AFTER_FAILURE: Duration = Duration::from_secs(60);
/// How often the position is written down, at most: what a crash loses of it is read once more.
const SAVE: Duration = Duration::from_secs(10);

/// The scrub of one agent.
#[derive(Debug)]
pub(crate) struct Scrub {
    /// `None` when it is off.
    settings: Option<ScrubSettings>,
    kept: Kept,
    state: Mutex<State>,
    /// When somebody last asked for something, in milliseconds since `began`.
    asked: AtomicU64,
    began: Instant,
}

/// How far it is.
#[derive(Clone, PartialEq, Debug, Default)]
struct State {
    /// Where it goes on; `None` between two passes.
    next: Option<Cursor>,
    began_ms: u64,
    read: u64,
    found: u64,
    healed: u64,
    last_ms: Option<u64>,
    last_bytes: u64,
    last_found: u64,
    last_healed: u64,
}

impl State {
    /// Lines of a name and a value. What cannot be read is left out.
    fn parse(text: &str) -> Self {
        let mut state = Self::default();
        for (name, value) in text.lines().filter_map(|line| line.split_once(' ')) {
            let number = || value.parse().unwrap_or_default();
            match name {
                "next" => state.next = value.parse().ok(),
                "began" => state.began_ms = number(),
                "read" => state.read = number(),
                "found" => state.found = number(),
                "healed" => state.healed = number(),
                "last" => state.last_ms = value.parse().ok(),
                "last_bytes" => state.last_bytes = number(),
                "last_found" => state.last_found = number(),
                "last_healed" => state.last_healed = number(),
                _ => {}
            }
        }
        state
    }

    fn to_text(&self) -> String {
        let next = self.next.map(|next| format!("next {next}\n")).unwrap_or_default();
        let last = self.last_ms.map(|last| format!("last {last}\n")).unwrap_or_default();
        let Self { began_ms, read, found, healed, .. } = self;
        let Self { last_bytes, last_found, last_healed, .. } = self;
        format!(
            "{next}began {began_ms}\nread {read}\nfound {found}\nhealed {healed}\n\
             {last}last_bytes {last_bytes}\nlast_found {last_found}\nlast_healed {last_healed}\n"
        )
    }

    fn begin(&mut self, now_ms: u64) -> Cursor {
        let next = Cursor::default();
        (self.next, self.began_ms) = (Some(next), now_ms);
        (self.read, self.found, self.healed) = (0, 0, 0);
        next
    }

    fn end(&mut self, now_ms: u64) {
        (self.next, self.last_ms) = (None, Some(now_ms));
        (self.last_bytes, self.last_found, self.last_healed) = (self.read, self.found, self.healed);
    }

    /// How long until the next pass may begin, so long after the beginning of the last one.
    fn due_in(&self, now_ms: u64, between: Duration) -> Duration {
        let passed = Duration::from_millis(now_ms.saturating_sub(self.began_ms));
        // A clock that was put back must not keep it from ever beginning.
        match self.last_ms {
            Some(_) if self.began_ms <= now_ms => between.saturating_sub(passed),
            _ => Duration::ZERO,
        }
    }
}

impl Scrub {
    /// The scrub of a data directory, where it stopped.
    pub(crate) fn new(data_dir: &Path, settings: Option<ScrubSettings>) -> Self {
        let kept = Kept::new(data_dir.join("scrub"));
        let state = Mutex::new(State::parse(&kept.load()));
        Self { settings, kept, state, asked: AtomicU64::new(0), began: Instant::now() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody asks for something: a build, or another agent.
    pub(crate) fn make_way(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.asked.store(now, Ordering::Relaxed);
    }

    fn is_quiet(&self, quiet: Duration) -> bool {
        let asked = Duration::from_millis(self.asked.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(asked) >= quiet
    }

    /// How far it is, of so many bytes; `None` when it is off.
    pub(crate) fn status(&self, bytes: u64) -> Option<ScrubStatus> {
        self.settings?;
        let state = self.state();
        Some(ScrubStatus {
            began_ms: state.next.map(|_| state.began_ms),
            done: if bytes == 0 { 0.0 } else { (state.read as f64 / bytes as f64).min(1.0) },
            last_ms: state.last_ms,
            last_bytes: state.last_bytes,
            last_found: state.last_found,
            last_healed: state.last_healed,
        })
    }
}

/// Scrubs until the agent stops. Blocks.
pub(crate) fn run(cache: &Arc<MeshCache>) {
    let Some(settings) = cache.scrub.settings else { return };
    let bucket = Mutex::new((Bucket::new(settings.rate, Instant::now()), None));
    let scrubber = Scrubber { cache, scrub: &cache.scrub, settings, bucket };
    // It ends by breaking off.
    let _: ControlFlow<()> = scrubber.run();
}

struct Scrubber<'a> {
    cache: &'a MeshCache,
    scrub: &'a Scrub,
    settings: ScrubSettings,
    /// With the beginning of its turn, after it has waited for others long enough.
    bucket: Mutex<(Bucket, Option<Instant>)>,
}

impl Scrubber<'_> {
    fn run(&self) -> ControlFlow<()> {
        self.sleep(self.settings.settle)?;
        loop {
            let going_on = self.scrub.state().next;
            if going_on.is_none() {
                let due_in = self.scrub.state().due_in(wall_ms(), self.settings.between);
                self.sleep(due_in)?;
            }
            let from = going_on.unwrap_or_else(|| self.scrub.state().begin(wall_ms()));
            self.pass(from)?;
        }
    }

    /// Waits; breaks off when the agent stops.
    fn sleep(&self, time: Duration) -> ControlFlow<()> {
        let sleeping = self.cache.far.stop.run_until_cancelled(tokio::time::sleep(time));
        match self.cache.far.runtime.block_on(sleeping) {
            Some(()) => ControlFlow::Continue(()),
            None => ControlFlow::Break(()),
        }
    }

    fn pass(&self, mut from: Cursor) -> ControlFlow<()> {
        let pace = |bytes| self.pace(bytes);
        let how = Inspect { deep: true, repair: true, threads: NonZeroUsize::MIN, pace: &pace };
        let mut saved = Instant::now();
        loop {
            match self.cache.far.fetcher.disk.store().inspect(&from, &how) {
                Ok(step) if step.next == Some(from) => {
                    self.save();
                    return ControlFlow::Break(());
                }
                Ok(step) => {
                    self.heal(&step.findings);
                    match step.next {
                        Some(next) => {
                            from = next;
                            self.scrub.state().next = Some(next);
                        }
                        None => {
                            self.scrub.state().end(wall_ms());
                            self.save();
                            return ControlFlow::Continue(());
                        }
                    }
                }
                Err(error) => {
                    let seconds = AFTER_FAILURE.as_secs();
                    tracing::warn!(error = chain(&error), "scrub waits for {seconds} s");
                    self.sleep(AFTER_FAILURE)?;
                }
            }
            if saved.elapsed() >= SAVE {
                self.save();
                saved = Instant::now();
            }
        }
    }

    fn save(&self) {
        let text = self.scrub.state().to_text();
        self.scrub.kept.save(&text);
    }

    fn heal(&self, findings: &[Finding]) {
        let lost: Vec<Lost> = findings.iter().filter_map(Lost::of).collect();
        self.scrub.state().found += lost.len() as u64;
        for finding in findings {
            let (subject, fault) = (&finding.subject, finding.fault.name());
            tracing::info!(%subject, fault, detail = finding.detail, "scrub has found something");
        }
        if lost.is_empty() {
            return;
        }
        match self.cache.far.heal(&lost) {
            Ok(healed) => {
                let healed = healed.into_iter().filter(|healed| *healed).count() as u64;
                self.scrub.state().healed += healed;
                tracing::info!(lost = lost.len(), healed, "got from others what was lost");
            }
            Err(error) => tracing::warn!(%error, "cannot get from others what was lost"),
        }
    }

    /// Counts bytes that were read, and waits as long as the budget and others want it to.
    fn pace(&self, bytes: u64) -> ControlFlow<()> {
        self.scrub.state().read += bytes;
        if self.cache.far.stop.is_cancelled() {
            return ControlFlow::Break(());
        }
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let (bucket, turn) = &mut *bucket;
        let quiet = || self.scrub.is_quiet(self.settings.quiet);
        if !quiet() && turn.is_none_or(|began| began.elapsed() >= TURN) {
            let paused = Instant::now();
            while !quiet() && paused.elapsed() < MAX_PAUSE {
                self.sleep(LOOK)?;
            }
            *turn = (!quiet()).then(Instant::now);
        }
        let wait = bucket.take(bytes, Instant::now());
        if wait > Duration::ZERO { self.sleep(wait) } else { ControlFlow::Continue(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::digest::Hash;
    use netbuild_store::Stage;

    #[test]
    fn a_pass_goes_on_where_it_was_and_the_last_one_is_remembered() {
        let mut state = State::default();
        state.begin(1000);
        (state.read, state.found, state.healed) = (70, 2, 1);
        state.next = Some(Cursor { stage: Stage::Blobs, after: Some(Hash([7; 32])) });
        assert_eq!(State::parse(&state.to_text()), state);
        state.end(5000);
        let again = State::parse(&state.to_text());
        assert_eq!(again, state);
        assert_eq!((again.next, again.last_ms, again.last_bytes), (None, Some(5000), 70));
        assert_eq!((again.last_found, again.last_healed), (2, 1));
        for nonsense in ["", "next nowhere\nlast x", "\u{0}\n \n next"] {
            assert_eq!(State::parse(nonsense), State::default(), "{nonsense:?}");
        }
    }

    #[test]
    fn the_next_pass_begins_a_while_after_the_last_one_has_begun() {
        let day = Duration::from_secs(24 * 3600);
        let mut state = State::default();
        assert_eq!(state.due_in(5000, day), Duration::ZERO);
        state.begin(1000);
        state.end(4000);
        assert_eq!(state.due_in(5000, day), day - Duration::from_secs(4));
        assert_eq!(state.due_in(u64::MAX, day), Duration::ZERO);
        // The clock was put back.
        assert_eq!(state.due_in(10, day), Duration::ZERO);
    }
}
