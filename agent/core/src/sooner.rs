//! Whether a result is waited for or built: whichever is expected to be there sooner.
//!
//! Nobody knows beforehand how long a fetch takes: a patch or a codec makes it a hundredth of what
//! its size says, a link that breaks makes it last for ever. So what is measured while it comes
//! decides, as soon as something is. Until then it is waited as long as building would take, which
//! costs at most twice the better of both (the ski rental of Karlin, Manasse, Rudolph and Sleator,
//! "Competitive snoopy caching", 1988); what is believed of the link shortens that only where it
//! leaves no doubt (advice that may be wrong: Purohit, Svitkina and Kumar, "Improving online
//! algorithms via ML predictions", 2018).

use crate::chunk::MAX_CHUNK;
use std::{
    fmt,
    time::{Duration, Instant},
};

/// The part of the work that waits for a result by which its fetch may take longer. What is built may differ from
/// what others have (a date in it is enough), and then nothing of theirs is of use for that work.
const RISK: f64 = 0.05;
/// A fetch may take longer by so much, whatever it is for: some round trips, and the start of a command.
const LEAST: Duration = Duration::from_millis(150);
/// A fetch may be silent for so much longer than its patience: a machine that is busy holds up what comes, too.
const SILENCE: Duration = Duration::from_millis(150);
/// Waiting ends after so many times the patience, however soon the rest is expected again and again.
const MOST: f64 = 3.0;
/// What is believed of a link counts bytes as they are; coded, so many times as many may come.
const CODED: f64 = 4.0;
/// From this long after its first bytes on, a fetch tells its speed; and where the link is known, the better of
/// both counts earlier.
const FIRST: Duration = Duration::from_millis(300);
const FIRST_KNOWN: Duration = Duration::from_millis(100);
/// Until this long after its first bytes a fetch may be as fast as its link was before: connections
/// start slowly.
const STEADY: Duration = Duration::from_secs(1);

/// What it takes to build a result here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Building {
    /// How long its command took here when it ran last; `None` when it never did.
    pub own: Option<Duration>,
    /// How long the longest chain of tasks is expected to take that wait for it.
    pub after: Duration,
}

impl Building {
    /// How much longer a fetch may take for it to be waited for, when the command takes `time`. Building is not made
    /// dearer than waiting: who waits has a slot of the jobs, and its processor idles.
    pub fn patience(&self, time: Duration) -> Duration {
        time.saturating_add(self.after.mul_f64(RISK)).saturating_add(LEAST)
    }
}

/// How fast something comes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Speed {
    /// Bytes per second, as they are.
    pub per_second: f64,
    /// How many bytes, as they are, each byte that is sent stands for.
    pub swells: f64,
}

/// How a fetch goes that brings several things one after the other.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Pace {
    began: Instant,
    /// Seconds until bytes flow.
    latency: f64,
    /// Bytes per second then, if the link is known well.
    believed: Option<f64>,
    patched: bool,
    speed: Speed,
    /// When bytes came first, and last.
    came: Option<(Instant, Instant)>,
}

/// What is to be expected of a fetch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Outlook {
    /// How long it will still take; `None` when nothing tells.
    pub remaining: Option<Duration>,
    /// How long nothing has come that should have.
    pub quiet: Duration,
}

impl Pace {
    /// A fetch begins.
    pub fn new(now: Instant) -> Self {
        let speed = Speed { per_second: 0.0, swells: 1.0 };
        Self { began: now, latency: 0.0, believed: None, patched: false, speed, came: None }
    }

    /// What is believed of the link: how long until bytes flow, in seconds, and how many per second it carries,
    /// if that is known well.
    pub fn expect(&mut self, latency: f64, per_second: Option<f64>) {
        (self.latency, self.believed) = (latency, per_second);
    }

    /// Something may come as a patch, which is smaller than it by nobody knows how much: what is believed of
    /// the link tells nothing any more.
    pub fn handle_patched(&mut self) {
        self.patched = true;
    }

    /// Something came, at this speed so far.
    pub fn handle_progress(&mut self, speed: Speed, now: Instant) {
        let first = self.came.map_or(now, |(first, _)| first);
        (self.speed, self.came) = (speed, Some((first, now)));
    }

    /// Whether something came.
    pub fn is_moving(&self) -> bool {
        self.came.is_some()
    }

    /// What is to be expected of the next `left` bytes, while so many `others` come at the same time.
    pub fn outlook(&self, left: u64, others: usize, now: Instant) -> Outlook {
        let (left, shared_by) = (left as f64, (1 + others) as f64);
        let (latency, believed) = (self.latency, self.believed.map(|rate| rate / shared_by));
        let Some((first, last)) = self.came else {
            let waited = now.saturating_duration_since(self.began).as_secs_f64();
            // Before, it is not known what may come as a patch.
            let tells = waited >= latency && !self.patched;
            let remaining = believed.filter(|_| tells).map(|rate| left / (CODED * rate.max(1.0)));
            return Outlook { remaining: remaining.map(seconds), quiet: seconds(waited - latency) };
        };
        let (age, Speed { per_second, swells }) =
            (now.saturating_duration_since(first), self.speed);
        // What came tells how well the rest is coded, but of a patch nothing.
        let believed = believed.filter(|_| !self.patched).map(|rate| rate * swells);
        let first = if believed.is_some() { FIRST_KNOWN } else { FIRST };
        let measured = (age >= first && per_second > 0.0).then_some(per_second);
        let rate = match (measured, believed) {
            (Some(measured), Some(believed)) if age < STEADY => Some(measured.max(believed)),
            (Some(measured), _) => Some(measured),
            (None, _) => None,
        };
        // From a tier, news come with whole chunks; how they are coded, and who else fetches, is no part of that.
        let fastest = measured.unwrap_or(0.0).max(self.believed.unwrap_or(0.0));
        let chunk = if fastest > 0.0 { left.min(MAX_CHUNK as f64) / fastest } else { 0.0 };
        let quiet = now.saturating_duration_since(last).as_secs_f64() - chunk;
        Outlook { remaining: rate.map(|rate| seconds(left / rate)), quiet: seconds(quiet) }
    }
}

/// Why a result is built although it is known who has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slow {
    /// How long the command takes.
    pub build: Duration,
    /// How long the fetch would still have taken; `None` when nothing told.
    pub fetch: Option<Duration>,
    /// How long it was waited for.
    pub waited: Duration,
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (build, waited) = (self.build.as_secs_f64(), self.waited.as_secs_f64());
        match self.fetch {
            Some(fetch) => write!(
                f,
                "it takes {build:.1} s, and its result would have taken {:.1} s more",
                fetch.as_secs_f64()
            ),
            None => {
                write!(f, "it takes {build:.1} s, and its result did not come in {waited:.1} s")
            }
        }
    }
}

impl Outlook {
    /// What is to be expected of two fetches that are both waited for.
    pub fn and(self, other: Self) -> Self {
        let remaining = match (self.remaining, other.remaining) {
            (Some(one), Some(other)) => Some(one.max(other)),
            (known, None) | (None, known) => known,
        };
        Self { remaining, quiet: self.quiet.max(other.quiet) }
    }

    /// Whether a fetch that was waited for so long already is to be given up for building, when its `patience` is
    /// that of [`Building::patience`].
    pub fn is_too_late(&self, waited: Duration, patience: Duration) -> bool {
        self.quiet > patience.saturating_add(SILENCE)
            || self.remaining.is_some_and(|remaining| remaining > patience)
            || waited.as_secs_f64() > MOST * patience.as_secs_f64()
    }
}

/// A time of a calculation: what is below zero is none, and what is absurd is endless.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests;
