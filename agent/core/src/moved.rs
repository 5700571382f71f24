//! What a transfer took and how far one is, for people and for whoever counts bytes.
//!
//! It is told from three sides: by source, by coding, and against what was here already. A
//! [`Movement`] is what has been, a [`Progress`] what goes on, and a [`Meter`] makes the speed
//! that people see of the bytes that came.

use crate::{
    cache::Source,
    digest::Digest,
    record::Sandbox,
    sooner::{Building, Slow},
};
use std::{
    collections::BTreeMap,
    fmt,
    iter::Sum,
    ops::AddAssign,
    time::{Duration, Instant},
};

/// How bytes are coded on their way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Coding {
    /// As they are.
    Identity,
    /// Compressed by gzip.
    Gzip,
    /// Compressed by zstd, at whatever level.
    Zstd,
    /// As what differs from another blob, the base, which the receiver has.
    Delta,
}

impl Coding {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Identity, Self::Gzip, Self::Zstd, Self::Delta];

    /// The name that is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Delta => "delta",
        }
    }
}

impl fmt::Display for Coding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Bytes that were sent, in two measures.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Moved {
    /// Bytes as they are at both ends.
    pub logical: u64,
    /// Bytes as they were sent: coded, with the headers of their frames.
    pub wire: u64,
}

impl AddAssign for Moved {
    fn add_assign(&mut self, more: Self) {
        self.logical = self.logical.saturating_add(more.logical);
        self.wire = self.wire.saturating_add(more.wire);
    }
}

impl Sum for Moved {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), |mut sum, part| {
            sum += part;
            sum
        })
    }
}

/// What one source sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// Which one.
    pub source: Source,
    /// How much.
    pub moved: Moved,
}

/// How much of something was here when its transfer began, from one that was broken off before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Resumed {
    /// Chunks that were here.
    pub chunks_here: u32,
    /// Chunks in all.
    pub chunks: u32,
}

impl fmt::Display for Resumed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "resumed at chunk {}/{}", self.chunks_here, self.chunks)
    }
}

impl AddAssign for Resumed {
    fn add_assign(&mut self, more: Self) {
        self.chunks_here = self.chunks_here.saturating_add(more.chunks_here);
        self.chunks = self.chunks.saturating_add(more.chunks);
    }
}

/// What was sent to bring something here. Nothing was when it is empty.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Movement {
    /// By source, each once, in the order in which they first sent something.
    pub parts: Vec<Part>,
    /// The same bytes by coding.
    pub codings: BTreeMap<Coding, Moved>,
    /// What was here from transfers that were broken off, if they were taken up again.
    pub resumed: Option<Resumed>,
    /// The blob that a delta was taken against; the first when there were several.
    pub base: Option<Digest>,
}

impl Movement {
    /// Adds what a source sent in some coding.
    pub fn add(&mut self, source: &Source, coding: Coding, moved: Moved) {
        self.add_part(source, moved);
        *self.codings.entry(coding).or_default() += moved;
    }

    /// Adds another movement, as if both had been one. That one's resumed chunks count beside the
    /// ones here, as they are of other blobs.
    pub fn merge(&mut self, other: &Self) {
        for part in &other.parts {
            self.add_part(&part.source, part.moved);
        }
        for (coding, moved) in &other.codings {
            *self.codings.entry(*coding).or_default() += *moved;
        }
        if let Some(more) = other.resumed {
            *self.resumed.get_or_insert_default() += more;
        }
        self.base = self.base.or(other.base);
    }

    /// All that was sent.
    pub fn total(&self) -> Moved {
        self.parts.iter().map(|part| part.moved).sum()
    }

    /// The source that sent most, if any sent anything.
    pub fn from(&self) -> Option<&Source> {
        self.by_size().first().map(|part| &part.source)
    }

    /// The sources that sent something, the one that sent most first.
    pub fn by_size(&self) -> Vec<&Part> {
        let sent = |part: &&Part| part.moved != Moved::default();
        let mut parts: Vec<&Part> = self.parts.iter().filter(sent).collect();
        parts.sort_by_key(|part| std::cmp::Reverse(part.moved.logical));
        parts
    }

    fn add_part(&mut self, source: &Source, moved: Moved) {
        match self.parts.iter_mut().find(|part| part.source == *source) {
            Some(part) => part.moved += moved,
            None => self.parts.push(Part { source: source.clone(), moved }),
        }
    }
}

/// How far a transfer is.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Progress {
    /// Bytes in all, as far as known.
    pub total: u64,
    /// Bytes of these that are here and verified, those from before included.
    pub done: u64,
    /// Bytes that were sent so far: see [`Moved::wire`].
    pub wire: u64,
    /// Bytes that come to be done per second, over the last seconds: see [`Meter`].
    pub per_second: f64,
    /// Who sends now.
    pub sources: Vec<Source>,
    /// How that is coded, once something came.
    pub coding: Option<Coding>,
    /// What was here from a transfer that was broken off.
    pub resumed: Option<Resumed>,
}

impl Progress {
    /// What it will still take at the speed of now; `None` when nothing comes.
    pub fn remaining(&self) -> Option<Duration> {
        let left = self.total.saturating_sub(self.done);
        if left == 0 {
            return Some(Duration::ZERO);
        }
        // An endless or absurd time is none that could be told.
        Duration::try_from_secs_f64(left as f64 / self.per_second)
            .ok()
            .filter(|time| *time < LONGEST_REMAINING)
    }
}

/// From here on, what a transfer still takes is no help to anybody: a week.
const LONGEST_REMAINING: Duration = Duration::from_secs(7 * 24 * 3600);

/// Hears how a transfer goes on. It is called several times a second, from the thread that waits
/// for the transfer or from others, and must not block.
pub trait Watch: Sync {
    /// This is how far it is.
    fn moving(&self, progress: &Progress);

    /// Results that obtained less are not used here, so what they name need not come.
    fn least(&self) -> Sandbox {
        Sandbox::Loose
    }

    /// What it would take to build here what is looked up; `None` when that is no choice. Then a lookup may
    /// end without a result that is known, for [`Watch::sooner_built`].
    fn building(&self) -> Option<Building> {
        None
    }

    /// The result is known, and is expected to be built sooner than it comes.
    fn sooner_built(&self, _: &Slow) {}

    /// Nobody waits for it any more, and what is not here yet need not come.
    fn is_over(&self) -> bool {
        false
    }
}

/// Watches nothing.
impl Watch for () {
    fn moving(&self, _: &Progress) {}
}

/// What came `MEMORY` ago counts for 1/e of what comes now: long enough that chunks of a megabyte
/// on a slow link do not make the figure jump, short enough to see a change.
const MEMORY: Duration = Duration::from_secs(2);
/// Times closer to each other are taken together: a rate over less says nothing.
const LEAST_STEP: Duration = Duration::from_millis(50);

/// Makes a smooth speed of a series of (time, bytes done): an average with exponentially fading
/// weights that is free of bias from its start on, so it is the plain average at first. How often it
/// is looked at makes no difference.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    last: Option<(Instant, u64)>,
    /// The weighted sum of speeds, and the sum of the weights.
    sum: f64,
    weight: f64,
}

impl Meter {
    /// So much is done at this time. Says how many bytes a second come. What is done at the first
    /// call was done before. Fewer than before, as when something has to be fetched again, count
    /// as none.
    pub fn per_second(&mut self, now: Instant, done: u64) -> f64 {
        let Some((then, before)) = self.last else {
            self.last = Some((now, done));
            return 0.0;
        };
        let step = now.saturating_duration_since(then);
        if step >= LEAST_STEP {
            let seconds = step.as_secs_f64();
            let speed = done.saturating_sub(before) as f64 / seconds;
            let kept = (-seconds / MEMORY.as_secs_f64()).exp();
            self.sum = self.sum * kept + speed * (1.0 - kept);
            self.weight = self.weight * kept + (1.0 - kept);
            self.last = Some((now, done));
        }
        if self.weight > 0.0 { self.sum / self.weight } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::PeerId;
    use proptest::prelude::*;

    fn peer(number: u8) -> Source {
        Source::Peer { peer: PeerId([number; 32]), region: format!("region-{number}") }
    }

    fn moved(logical: u64, wire: u64) -> Moved {
        Moved { logical, wire }
    }

    #[test]
    fn a_movement_tells_the_same_bytes_by_source_and_by_coding() {
        let mut movement = Movement::default();
        assert_eq!((movement.total(), movement.from()), (Moved::default(), None));
        movement.add(&peer(1), Coding::Zstd, moved(100, 40));
        movement.add(&peer(2), Coding::Identity, moved(300, 310));
        movement.add(&peer(1), Coding::Identity, moved(50, 52));
        let by_coding: Moved = movement.codings.values().copied().sum();
        assert_eq!((movement.total(), by_coding), (moved(450, 402), moved(450, 402)));
        assert_eq!(movement.parts[0], Part { source: peer(1), moved: moved(150, 92) });
        assert_eq!(movement.from(), Some(&peer(2)));
    }

    #[test]
    fn what_was_asked_and_sent_nothing_is_not_where_something_came_from() {
        let mut movement = Movement::default();
        movement.add(&peer(1), Coding::Identity, Moved::default());
        assert_eq!((movement.parts.len(), movement.from()), (1, None));
    }

    #[test]
    fn two_movements_are_one() {
        let base = Digest::of(b"base");
        let mut first = Movement { base: Some(base), ..Movement::default() };
        first.add(&peer(1), Coding::Delta, moved(100, 4));
        let mut second = Movement {
            resumed: Some(Resumed { chunks_here: 60, chunks: 100 }),
            base: Some(Digest::of(b"another")),
            ..Movement::default()
        };
        second.add(&peer(2), Coding::Delta, moved(10, 5));
        second.add(&peer(1), Coding::Gzip, moved(1, 1));
        first.merge(&second);
        first.merge(&second);
        assert_eq!(first.parts.len(), 2);
        assert_eq!(first.total(), moved(122, 16));
        assert_eq!(first.codings[&Coding::Delta], moved(120, 14));
        assert_eq!(first.resumed.map(|resumed| resumed.to_string()), {
            Some("resumed at chunk 120/200".to_owned())
        });
        assert_eq!(first.base, Some(base));
    }

    #[test]
    fn the_remaining_time_is_told_when_it_can_be() {
        let progress =
            Progress { total: 1000, done: 400, per_second: 200.0, ..Progress::default() };
        assert_eq!(progress.remaining(), Some(Duration::from_secs(3)));
        let with = |per_second| Progress { per_second, ..progress.clone() }.remaining();
        assert_eq!([0.0, -1.0, f64::NAN, 1e-9].map(with), [None; 4]);
        let done = Progress { done: 1000, per_second: 0.0, ..progress };
        assert_eq!(done.remaining(), Some(Duration::ZERO));
    }

    /// The speed after steps of (milliseconds, bytes), and the highest and lowest seen on the way.
    fn metered(steps: impl IntoIterator<Item = (u64, u64)>) -> (f64, f64, f64) {
        let (mut meter, mut now, mut done) = (Meter::default(), Instant::now(), 0);
        let (mut high, mut low) = (0.0_f64, f64::INFINITY);
        meter.per_second(now, done);
        let mut speed = 0.0;
        for (ms, bytes) in steps {
            now += Duration::from_millis(ms);
            done += bytes;
            speed = meter.per_second(now, done);
            (high, low) = (high.max(speed), low.min(speed));
        }
        (speed, high, low)
    }

    #[test]
    fn a_speed_is_right_from_the_start_and_follows_a_change_within_seconds() {
        let steady = |seconds: u64, speed: u64| (0..seconds * 10).map(move |_| (100, speed / 10));
        let (speed, high, low) = metered(steady(3, 10_000_000));
        assert!((speed - 1e7).abs() < 1.0 && high - low < 1.0, "{speed} {high} {low}");
        let (slowed, ..) = metered(steady(10, 10_000_000).chain(steady(6, 1_000_000)));
        assert!((1e6..1.6e6).contains(&slowed), "{slowed}");
        let (stalled, ..) = metered(steady(10, 10_000_000).chain(steady(20, 0)));
        assert!(stalled < 1e4, "{stalled}");
    }

    #[test]
    fn large_chunks_on_a_slow_link_do_not_make_the_speed_jump() {
        // A megabyte every second, looked at five times a second.
        let steps = (0..100).map(|step| (200, if step % 5 == 4 { 1_000_000 } else { 0 }));
        let settled = steps.clone().take(50);
        let (_, high, low) = metered(steps);
        let (before, ..) = metered(settled);
        assert!(high < 1.5e6 && (0.7e6..1.5e6).contains(&before), "{high} {low} {before}");
    }

    #[test]
    fn bytes_that_have_to_be_fetched_again_do_not_make_a_negative_speed() {
        let now = Instant::now();
        let mut meter = Meter::default();
        meter.per_second(now, 1000);
        let speed = meter.per_second(now + Duration::from_secs(1), 10);
        assert!(speed.abs() < f64::EPSILON, "{speed}");
    }

    proptest! {
        #[test]
        fn a_speed_lies_between_the_slowest_and_the_fastest_that_there_was(
            steps in prop::collection::vec((50..5_000_u64, 0..1_u64 << 40), 1..50),
        ) {
            let speeds = steps.iter().map(|(ms, bytes)| *bytes as f64 / (*ms as f64 / 1e3));
            let (least, most) = speeds.fold((f64::INFINITY, 0.0_f64), |(least, most), speed| {
                (least.min(speed), most.max(speed))
            });
            let (speed, ..) = metered(steps);
            let slack = 1e-6 * most + 1e-6;
            prop_assert!(speed >= least - slack && speed <= most + slack, "{} {} {}", least, speed, most);
        }

        #[test]
        fn movements_merged_in_any_way_sum_to_the_same(
            sent in prop::collection::vec((0..4_u8, 0..4_usize, any::<u32>(), any::<u32>()), 0..30),
            cut in any::<prop::sample::Index>(),
        ) {
            let add = |movement: &mut Movement, sent: &[(u8, usize, u32, u32)]| {
                for (source, coding, logical, wire) in sent {
                    let moved = moved(u64::from(*logical), u64::from(*wire));
                    movement.add(&peer(*source), Coding::ALL[*coding], moved);
                }
            };
            let cut = cut.index(sent.len() + 1);
            let (mut whole, mut first, mut second) = Default::default();
            add(&mut whole, &sent);
            add(&mut first, &sent[..cut]);
            add(&mut second, &sent[cut..]);
            first.merge(&second);
            prop_assert_eq!(&first, &whole);
            let by_coding: Moved = whole.codings.values().copied().sum();
            prop_assert_eq!(whole.total(), by_coding);
        }
    }
}
