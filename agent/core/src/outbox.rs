//! What is still to be copied from this disk into the tiers of the chain, and when.
//!
//! A result is acknowledged once it is durable here; each tier gets it later, in the order in which
//! results came, one batch at a time. What fails waits, longer with each failure, and is tried
//! again; what a tier will never take is left out and counted. The shell keeps a log of what is added
//! and what is done, so that nothing is forgotten when the process ends.

use crate::{digest::Hash, health::backoff, key::ActionKey, tiers::TierId};
use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    str::FromStr,
    time::{Duration, Instant},
};

/// Most results that wait for one tier: 100,000 are some 10 MB of memory and 6 MB of log.
pub const MAX_WAITING: usize = 100_000;
/// Most results in one batch: what fails with it is sent again.
pub const MAX_BATCH: usize = 1024;
/// Pauses after failures that pass.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Pause after a refusal, which somebody has to mend.
const REFUSED: Duration = Duration::from_secs(60);

/// What becomes of a new result in a tier.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Writing {
    /// It follows later, but a run does not end before the tier has it or fails.
    Through,
    /// It follows later.
    #[default]
    Back,
    /// Nothing is written.
    Never,
}

/// A text that names no way of writing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is none of `write-back`, `write-through` and `read-only`")]
pub struct NoWriting(String);

impl FromStr for Writing {
    type Err = NoWriting;

    fn from_str(text: &str) -> Result<Self, NoWriting> {
        match text {
            "write-through" => Ok(Self::Through),
            "write-back" => Ok(Self::Back),
            "read-only" => Ok(Self::Never),
            other => Err(NoWriting(other.chars().take(80).collect())),
        }
    }
}

impl fmt::Display for Writing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Through => "write-through",
            Self::Back => "write-back",
            Self::Never => "read-only",
        })
    }
}

/// What a tier is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// How it is written.
    pub writing: Writing,
    /// Smallest blob in bytes that it gets.
    pub min_size: u64,
    /// Largest blob in bytes that it gets.
    pub max_size: u64,
}

impl Terms {
    /// Whether it gets a blob of so many bytes.
    pub fn takes(&self, size: u64) -> bool {
        (self.min_size..=self.max_size).contains(&size)
    }
}

/// What a tier is to get.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Goods {
    /// The result of an action: its record and all that it names.
    Result(ActionKey),
    /// A blob by itself, as `netbuild put` keeps it.
    Blob(Hash),
}

impl fmt::Display for Goods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Result(key) => write!(f, "the result of action {key}"),
            Self::Blob(hash) => write!(f, "blob {hash}"),
        }
    }
}

/// Something that waits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Parcel {
    /// What it is.
    pub goods: Goods,
    /// Bytes of its blobs.
    pub bytes: u64,
}

impl Parcel {
    /// A result whose blobs have so many bytes.
    pub fn result(key: ActionKey, bytes: u64) -> Self {
        Self { goods: Goods::Result(key), bytes }
    }
}

/// Why a batch came to nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The tier is away, slow, busy or full.
    Passes,
    /// The tier does not let this agent write: somebody has to mend that.
    Refused,
    /// Something in the batch cannot be sent at all.
    Content,
}

/// What waits for a tier, for people.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Backlog {
    /// Results that it does not have yet.
    pub waiting: u64,
    /// Bytes of their blobs.
    pub bytes: u64,
    /// Results that it has got from this process.
    pub sent: u64,
    /// Results that it will not get: they could not be sent, or too many waited.
    pub left_out: u64,
    /// Time until it is tried again, after a failure.
    pub rests: Option<Duration>,
    /// What the last failure was; empty after a success.
    pub why: String,
}

#[derive(Clone, Debug)]
struct Lane {
    terms: Terms,
    waiting: VecDeque<Parcel>,
    /// What waits, so that each does once.
    goods: BTreeSet<Goods>,
    bytes: u64,
    /// The batch under way.
    sent: Vec<Parcel>,
    /// Until something has gone through, one at a time: one of those before cannot be sent.
    alone: usize,
    failures: u32,
    rests_until: Option<Instant>,
    why: String,
    done: u64,
    left_out: u64,
}

impl Lane {
    fn add(&mut self, parcel: Parcel) -> bool {
        if self.goods.contains(&parcel.goods) {
            return false;
        }
        if self.waiting.len() >= MAX_WAITING {
            self.left_out += 1;
            return false;
        }
        self.goods.insert(parcel.goods);
        self.bytes = self.bytes.saturating_add(parcel.bytes);
        self.waiting.push_back(parcel);
        true
    }

    fn return_sent(&mut self) {
        for parcel in std::mem::take(&mut self.sent).into_iter().rev() {
            if self.goods.insert(parcel.goods) {
                self.bytes = self.bytes.saturating_add(parcel.bytes);
                self.waiting.push_front(parcel);
            }
        }
    }
}

/// What waits for all tiers.
#[derive(Clone, Debug, Default)]
pub struct Outbox(Vec<Lane>);

impl Outbox {
    /// Nothing waits, for tiers with these terms.
    pub fn new(terms: impl IntoIterator<Item = Terms>) -> Self {
        let lane = |terms| Lane {
            terms,
            waiting: VecDeque::new(),
            goods: BTreeSet::new(),
            bytes: 0,
            sent: Vec::new(),
            alone: 0,
            failures: 0,
            rests_until: None,
            why: String::new(),
            done: 0,
            left_out: 0,
        };
        Self(terms.into_iter().map(lane).collect())
    }

    fn lane(&self, tier: TierId) -> Option<&Lane> {
        self.0.get(usize::from(tier.0))
    }

    fn lane_mut(&mut self, tier: TierId) -> Option<&mut Lane> {
        self.0.get_mut(usize::from(tier.0))
    }

    // -- getters --

    /// What a tier is given.
    pub fn terms(&self, tier: TierId) -> Option<Terms> {
        self.lane(tier).map(|lane| lane.terms)
    }

    /// What waits for a tier.
    pub fn backlog(&self, tier: TierId, now: Instant) -> Backlog {
        let Some(lane) = self.lane(tier) else { return Backlog::default() };
        let under_way: u64 = lane.sent.iter().map(|parcel| parcel.bytes).sum();
        Backlog {
            waiting: (lane.waiting.len() + lane.sent.len()) as u64,
            bytes: lane.bytes.saturating_add(under_way),
            sent: lane.done,
            left_out: lane.left_out,
            rests: lane.rests_until.map(|until| until.saturating_duration_since(now)),
            why: lane.why.clone(),
        }
    }

    /// What waits for a tier or is on its way there.
    pub fn waiting(&self, tier: TierId) -> impl Iterator<Item = Parcel> + '_ {
        let lane = self.lane(tier).into_iter();
        lane.flat_map(|lane| lane.sent.iter().chain(&lane.waiting)).copied()
    }

    /// Whether every tier has all.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|lane| lane.waiting.is_empty() && lane.sent.is_empty())
    }

    /// Whether a run has to wait for a tier that is written through: it lacks something, and its last
    /// batch did not fail.
    pub fn holds_up(&self) -> bool {
        self.0.iter().any(|lane| {
            lane.terms.writing == Writing::Through
                && lane.failures == 0
                && !(lane.waiting.is_empty() && lane.sent.is_empty())
        })
    }

    /// When [`Outbox::poll`] may say something else although nothing comes in.
    pub fn next_timeout(&self, tier: TierId) -> Option<Instant> {
        let lane = self.lane(tier).filter(|lane| !lane.waiting.is_empty())?;
        lane.rests_until
    }

    // -- what came in --

    /// There is a new result. Returns the tiers for which it waits now and did not before: the shell
    /// writes that down.
    pub fn handle_put(&mut self, parcel: Parcel) -> Vec<TierId> {
        let lanes = (0..).map(TierId).zip(&mut self.0);
        let writable = lanes.filter(|(_, lane)| lane.terms.writing != Writing::Never);
        writable.filter_map(|(tier, lane)| lane.add(parcel).then_some(tier)).collect()
    }

    /// A result waits for one tier, as the log says or because the tier has lost it.
    pub fn handle_wanted(&mut self, tier: TierId, parcel: Parcel) -> bool {
        let lane = self.lane_mut(tier).filter(|lane| lane.terms.writing != Writing::Never);
        lane.is_some_and(|lane| lane.add(parcel))
    }

    /// The next batch for a tier, at most so many bytes if more than one; empty when there is nothing
    /// to send now. How it ends has to be said before there is another.
    pub fn poll(&mut self, tier: TierId, bytes: u64, now: Instant) -> Vec<Parcel> {
        let Some(lane) = self.lane_mut(tier) else { return Vec::new() };
        if !lane.sent.is_empty() || lane.rests_until.is_some_and(|until| now < until) {
            return Vec::new();
        }
        let most = if lane.alone > 0 { 1 } else { MAX_BATCH };
        let mut sum = 0_u64;
        while lane.sent.len() < most
            && let Some(next) = lane.waiting.front()
        {
            sum = sum.saturating_add(next.bytes);
            if sum > bytes && !lane.sent.is_empty() {
                break;
            }
            let Some(parcel) = lane.waiting.pop_front() else { break };
            lane.goods.remove(&parcel.goods);
            lane.bytes = lane.bytes.saturating_sub(parcel.bytes);
            lane.sent.push(parcel);
        }
        lane.sent.clone()
    }

    /// The tier has the batch, or what of it is still wanted. Returns what it was, for the log.
    pub fn handle_sent(&mut self, tier: TierId) -> Vec<Parcel> {
        let Some(lane) = self.lane_mut(tier) else { return Vec::new() };
        lane.alone = lane.alone.saturating_sub(1);
        (lane.failures, lane.rests_until) = (0, None);
        lane.why.clear();
        lane.done += lane.sent.len() as u64;
        std::mem::take(&mut lane.sent)
    }

    /// The batch was given up before it came to anything.
    pub fn handle_dropped(&mut self, tier: TierId) {
        if let Some(lane) = self.lane_mut(tier) {
            lane.return_sent();
        }
    }

    /// The batch failed. `dice` is a random number from 0 to 1. Returns what is left out for good,
    /// for the log.
    pub fn handle_failed(
        &mut self,
        tier: TierId,
        failure: Failure,
        why: String,
        dice: f64,
        now: Instant,
    ) -> Option<Parcel> {
        let lane = self.lane_mut(tier).filter(|lane| !lane.sent.is_empty())?;
        lane.why = why;
        let pause = match failure {
            Failure::Content => {
                lane.alone = lane.alone.max(lane.sent.len());
                if lane.sent.len() > 1 {
                    lane.return_sent();
                    return None;
                }
                lane.alone = lane.alone.saturating_sub(1);
                lane.left_out += 1;
                return lane.sent.pop();
            }
            Failure::Passes => backoff(lane.failures, PAUSES.0, PAUSES.1, dice),
            Failure::Refused => REFUSED,
        };
        lane.failures = lane.failures.saturating_add(1);
        lane.rests_until = Some(now + pause);
        lane.return_sent();
        None
    }

    /// A tier answers again: what waits for it is tried at once.
    pub fn handle_back(&mut self, tier: TierId) {
        if let Some(lane) = self.lane_mut(tier) {
            lane.rests_until = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const A: TierId = TierId(0);
    const B: TierId = TierId(1);
    const MIDDLE: f64 = 0.5;

    fn terms(writing: Writing) -> Terms {
        Terms { writing, min_size: 0, max_size: u64::MAX }
    }

    fn outbox(writing: &[Writing]) -> Outbox {
        Outbox::new(writing.iter().map(|writing| terms(*writing)))
    }

    fn parcel(number: u8, bytes: u64) -> Parcel {
        Parcel::result(ActionKey([number; 32]), bytes)
    }

    #[test]
    fn each_result_waits_once_for_each_tier_that_is_written() {
        let now = Instant::now();
        let mut outbox = outbox(&[Writing::Back, Writing::Never]);
        assert_eq!(outbox.handle_put(parcel(1, 10)), [A]);
        assert_eq!(outbox.handle_put(parcel(1, 10)), []);
        assert_eq!(outbox.backlog(A, now).bytes, 10);
        assert_eq!(outbox.poll(A, 100, now), [parcel(1, 10)]);
        assert_eq!(outbox.poll(B, 100, now), []);
        // While it is under way it has a new result, which waits again.
        assert_eq!(outbox.handle_put(parcel(1, 20)), [A]);
        assert_eq!(outbox.handle_sent(A), [parcel(1, 10)]);
        assert_eq!(outbox.poll(A, 100, now), [parcel(1, 20)]);
        outbox.handle_sent(A);
        assert!(outbox.is_empty());
        assert_eq!(outbox.backlog(A, now).sent, 2);
    }

    #[test]
    fn batches_are_bounded_and_in_order() {
        let now = Instant::now();
        let mut outbox = outbox(&[Writing::Back]);
        for (number, bytes) in [(1, 60), (2, 30), (3, 30), (4, 500)] {
            outbox.handle_put(parcel(number, bytes));
        }
        assert_eq!(outbox.poll(A, 100, now), [parcel(1, 60), parcel(2, 30)]);
        assert_eq!(outbox.poll(A, 100, now), [], "one at a time");
        outbox.handle_dropped(A);
        assert_eq!(outbox.poll(A, 100, now).len(), 2, "in the order of before");
        outbox.handle_sent(A);
        assert_eq!(outbox.poll(A, 100, now), [parcel(3, 30)]);
        outbox.handle_sent(A);
        assert_eq!(outbox.poll(A, 100, now), [parcel(4, 500)], "one may be larger");
        for number in 0..=MAX_BATCH as u16 {
            let mut key = [9; 32];
            key[..2].copy_from_slice(&number.to_be_bytes());
            outbox.handle_put(Parcel::result(ActionKey(key), 0));
        }
        outbox.handle_sent(A);
        assert_eq!(outbox.poll(A, 100, now).len(), MAX_BATCH);
    }

    #[test]
    fn a_tier_that_fails_rests_longer_each_time_and_all_goes_through_afterwards() {
        let mut now = Instant::now();
        let mut outbox = outbox(&[Writing::Through]);
        outbox.handle_put(parcel(1, 1));
        assert!(outbox.holds_up());
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(outbox.poll(A, 100, now).len(), 1);
            outbox.handle_failed(A, Failure::Passes, "away".into(), MIDDLE, now);
            assert!(!outbox.holds_up(), "no run waits for one that fails");
            let backlog = outbox.backlog(A, now);
            assert_eq!(backlog.rests, Some(Duration::from_secs(seconds)));
            assert_eq!((backlog.waiting, backlog.why.as_str()), (1, "away"));
            assert_eq!(outbox.poll(A, 100, now), []);
            now = outbox.next_timeout(A).unwrap();
        }
        outbox.poll(A, 100, now);
        outbox.handle_sent(A);
        assert!(outbox.is_empty() && outbox.backlog(A, now).why.is_empty());
        outbox.handle_put(parcel(2, 1));
        outbox.poll(A, 100, now);
        outbox.handle_failed(A, Failure::Passes, String::new(), MIDDLE, now);
        outbox.handle_back(A);
        assert_eq!(outbox.poll(A, 100, now).len(), 1, "at once when it is known to be back");
    }

    #[test]
    fn one_that_cannot_be_sent_is_found_and_left_out() {
        let now = Instant::now();
        let mut outbox = outbox(&[Writing::Back]);
        for number in 0..10 {
            outbox.handle_put(parcel(number, 1));
        }
        let mut left_out = Vec::new();
        while !outbox.is_empty() {
            let batch = outbox.poll(A, 100, now);
            if batch.contains(&parcel(7, 1)) {
                let why = "damaged".to_owned();
                left_out.extend(outbox.handle_failed(A, Failure::Content, why, MIDDLE, now));
            } else {
                outbox.handle_sent(A);
            }
        }
        assert_eq!(left_out, [parcel(7, 1)]);
        let backlog = outbox.backlog(A, now);
        assert_eq!((backlog.sent, backlog.left_out), (9, 1));
    }

    #[test]
    fn more_than_the_bound_are_counted_and_not_kept() {
        let mut outbox = outbox(&[Writing::Back]);
        for number in 0..=MAX_WAITING as u64 {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_le_bytes());
            outbox.handle_put(Parcel::result(ActionKey(key), u64::MAX));
        }
        let backlog = outbox.backlog(A, Instant::now());
        assert_eq!((backlog.waiting, backlog.left_out), (MAX_WAITING as u64, 1));
    }

    #[test]
    fn words_of_the_configuration_are_read_back() {
        for writing in [Writing::Through, Writing::Back, Writing::Never] {
            assert_eq!(writing.to_string().parse(), Ok(writing));
        }
        assert!("back".parse::<Writing>().unwrap_err().to_string().contains("`write-back`"));
    }

    proptest! {
        /// Whatever fails and in whatever order, the log of what was added and taken away names all
        /// that waits. (It may name one more: a result that came anew while it was sent in vain.)
        #[test]
        fn the_log_and_the_queue_agree(
            events in prop::collection::vec((0u8..6, 0u8..6, 0.0f64..1.0), 0..200),
        ) {
            let mut outbox = outbox(&[Writing::Back]);
            let mut log: BTreeMap<Goods, i32> = BTreeMap::new();
            let mut now = Instant::now();
            for (event, number, dice) in events {
                match event {
                    0 | 1 => {
                        let parcel = parcel(number, 1);
                        for _ in outbox.handle_put(parcel) {
                            *log.entry(parcel.goods).or_default() += 1;
                        }
                    }
                    2 => drop(outbox.poll(A, 3, now)),
                    3 => for parcel in outbox.handle_sent(A) {
                        *log.entry(parcel.goods).or_default() -= 1;
                    },
                    4 => {
                        let failure = [Failure::Passes, Failure::Content][usize::from(number % 2)];
                        let out = outbox.handle_failed(A, failure, String::new(), dice, now);
                        if let Some(parcel) = out {
                            *log.entry(parcel.goods).or_default() -= 1;
                        }
                    }
                    _ => now += Duration::from_secs(61),
                }
                let live: BTreeSet<_> =
                    log.iter().filter(|(_, count)| **count > 0).map(|(key, _)| *key).collect();
                let waiting: BTreeSet<_> = outbox.0[0]
                    .waiting.iter().chain(&outbox.0[0].sent).map(|parcel| parcel.goods).collect();
                prop_assert!(live.is_superset(&waiting));
                let bytes: u64 = outbox.0[0].waiting.iter().map(|parcel| parcel.bytes).sum();
                prop_assert_eq!(bytes, outbox.0[0].bytes);
            }
        }
    }
}
