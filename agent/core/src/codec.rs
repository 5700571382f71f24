//! Which codec pays on a link: identity, gzip or zstd at some level.
//!
//! Coding, sending and decoding overlap, so a transfer takes as long as the slowest of the three.
//! [`Choices::choose`] takes the codec with the least expected seconds, from what the link is
//! believed to give, what this machine was measured to code, and how well data of this kind was
//! seen to shrink. Nothing here is a constant of some machine: before much is sent, a codec of which
//! nothing is known is first to be measured, and only while a stronger one could still pay. Of
//! little, measuring would take longer than it saves: then it is guessed from what is known of
//! another level, and known once it was used.

use std::{
    collections::BTreeMap,
    fmt,
    str::FromStr,
    time::{Duration, Instant},
};

/// Levels of zstd that are considered, the fastest first. Between them lie levels that differ by
/// less than what is known of the link.
pub const LEVELS: [u8; 7] = [1, 3, 6, 9, 12, 15, 19];
/// Level of gzip that is considered when zstd is not accepted, and in the tiers: its usual one.
pub const GZIP_LEVEL: u8 = 6;
/// Strongest level of gzip.
pub const MAX_GZIP: u8 = 9;
/// Strongest level of zstd.
pub const MAX_ZSTD: u8 = 22;
/// What a link is taken to give, in bytes per second, before anything is known of it: 100 Mbit/s,
/// where a mistake costs least. A faster link shows soon, and on a slower one a fast level still
/// saves most of what can be saved.
pub const UNKNOWN_GOODPUT: f64 = 12.5e6;
/// From this goodput on, in bytes per second, the tiers do not compress: 100 Mbit/s.
const TIER_RAW: f64 = 12.5e6;
/// From this goodput on, in bytes per second, the tiers take gzip: 50 Mbit/s.
const TIER_GZIP: f64 = 6.25e6;
/// A sample that shrinks to more than this share of itself is not worth a try.
const INCOMPRESSIBLE: f64 = 0.95;
/// Kinds of data told apart by how well a sample shrinks.
const KINDS: f64 = 8.0;
/// Weight of a new observation: the last five count for two thirds.
const WEIGHT: f64 = 0.2;
/// Age at which a measurement is made anew. What was measured while the machine was busy must not
/// keep a codec out for ever.
const MAX_AGE: Duration = Duration::from_secs(60);
/// A codec takes the place of the one in use only when it is expected to come to less than this share
/// of its cost, so that estimates which waver do not make the codec waver.
const SWITCH: f64 = 0.97;
/// Seconds that a second of a core is worth: one that a build could have. Without a price the strongest level would
/// be taken wherever the link is busy for long enough, for ten times the work and a twentieth fewer bytes.
const CORE_PRICE: f64 = 0.05;
/// Each of [`LEVELS`] is about this much slower than the one before, or more.
const NEXT_SLOWER: f64 = 1.5;
/// Bytes to follow from which on measuring a codec pays.
const WORTH_MEASURING: u64 = 8 << 20;
/// What is guessed of the strongest level counts only if that takes less than this share of the time for which the link
/// is busy anyway: it took 0.24 s for 0.6 MB of text on a busy machine, twice what was guessed, and the link stood still.
const SURELY: f64 = 0.5;
/// Speed of each of [`LEVELS`], and coded bytes, as parts of those of the first: medians of what
/// zstd 1.5 did on a program, two C libraries and an archive, in blocks of 1 MiB (`zstd -b -B1M`).
const TYPICAL: [(f64, f64); LEVELS.len()] = [
    (1.0, 1.0),
    (0.63, 0.92),
    (0.24, 0.87),
    (0.16, 0.86),
    (0.097, 0.86),
    (0.035, 0.855),
    (0.011, 0.79),
];
/// Most runs in a row that are sent as they are without a look at them, once looks have shown again
/// and again that coding does not pay.
const MAX_UNSEEN: u32 = 16;

/// How bytes are coded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Codec {
    /// As they are.
    Identity,
    /// RFC 1952, at a level of 1 to [`MAX_GZIP`].
    Gzip(u8),
    /// RFC 8878, at a level of 1 to [`MAX_ZSTD`].
    Zstd(u8),
}

impl Codec {
    /// Whether its level exists.
    pub fn is_valid(self) -> bool {
        match self {
            Self::Identity => true,
            Self::Gzip(level) => (1..=MAX_GZIP).contains(&level),
            Self::Zstd(level) => (1..=MAX_ZSTD).contains(&level),
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity => write!(f, "identity"),
            Self::Gzip(level) => write!(f, "gzip-{level}"),
            Self::Zstd(level) => write!(f, "zstd-{level}"),
        }
    }
}

/// A set of codecs that a requester can read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Codecs(u8);

impl Codecs {
    /// Bytes as they are. Whoever asks can read that, so it is in every set.
    pub const IDENTITY: Self = Self(1);
    /// RFC 1952.
    pub const GZIP: Self = Self(1 << 1);
    /// RFC 8878.
    pub const ZSTD: Self = Self(1 << 2);
    /// Patches against a blob that the requester names.
    pub const DELTA: Self = Self(1 << 3);
    /// All of them.
    pub const ALL: Self = Self(0b1111);

    /// The set as bits, for the wire.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// The set of these bits. Those of codecs that are not known here are left out.
    pub fn from_bits(bits: u8) -> Self {
        Self((bits & Self::ALL.0) | Self::IDENTITY.0)
    }

    /// Both sets together.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in this set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether what `codec` makes can be read.
    pub fn reads(self, codec: Codec) -> bool {
        self.contains(match codec {
            Codec::Identity => Self::IDENTITY,
            Codec::Gzip(_) => Self::GZIP,
            Codec::Zstd(_) => Self::ZSTD,
        })
    }
}

/// How a codec is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Policy {
    /// By expected time.
    #[default]
    Adaptive,
    /// By the goodput of the link alone: from 100 Mbit/s on none, from 50 on gzip, below that zstd
    /// at its strongest.
    Tiers,
    /// Always this one.
    Fixed(Codec),
    /// Never any.
    Off,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Adaptive => write!(f, "adaptive"),
            Self::Tiers => write!(f, "tiers"),
            Self::Fixed(codec) => codec.fmt(f),
            Self::Off => write!(f, "off"),
        }
    }
}

/// A text names no policy.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is none of adaptive, tiers, off, identity, gzip-1 to gzip-9, zstd-1 to zstd-22")]
pub struct NoPolicy(String);

impl FromStr for Policy {
    type Err = NoPolicy;

    /// Reads what `Display` writes.
    fn from_str(text: &str) -> Result<Self, NoPolicy> {
        let fixed = |codec: fn(u8) -> Codec, level: &str| {
            level.parse().ok().map(codec).filter(|codec| codec.is_valid()).map(Self::Fixed)
        };
        let policy = match (text, text.split_once('-')) {
            ("adaptive", _) => Some(Self::Adaptive),
            ("tiers", _) => Some(Self::Tiers),
            ("off", _) => Some(Self::Off),
            ("identity", _) => Some(Self::Fixed(Codec::Identity)),
            (_, Some(("gzip", level))) => fixed(Codec::Gzip, level),
            (_, Some(("zstd", level))) => fixed(Codec::Zstd, level),
            _ => None,
        };
        policy.ok_or_else(|| NoPolicy(text.to_owned()))
    }
}

/// A kind of data: how well a sample of it shrinks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Kind(u8);

impl Kind {
    /// The kind of data of which a sample of `sampled` bytes was coded in `coded` bytes, by the
    /// fastest level; `None` when no codec can do anything for it.
    pub fn of(sampled: usize, coded: usize) -> Option<Self> {
        let ratio = coded as f64 / sampled as f64;
        (ratio <= INCOMPRESSIBLE).then_some(Self((ratio * KINDS) as u8))
    }
}

/// What a codec was seen to do with one kind of data.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Seen {
    /// Bytes per second that one core codes.
    speed: f64,
    /// Coded bytes for each byte.
    ratio: f64,
    at: Instant,
}

/// What the codecs were seen to do on this machine, by kind of data. There are few of both, so it
/// stays small.
#[derive(Clone, Debug, Default)]
pub struct Speeds(BTreeMap<(Kind, Codec), Seen>);

impl Speeds {
    /// Notes that `codec` made `coded` bytes of `bytes` of one kind, in `elapsed`, when it had that
    /// `share` of a core.
    pub fn note(&mut self, now: Instant, kind: Kind, codec: Codec, work: Work) {
        let Work { bytes, coded, elapsed, share } = work;
        // Below a microsecond the clock says nothing.
        let seconds = elapsed.max(Duration::from_micros(1)).as_secs_f64() * share;
        let (speed, ratio) = (bytes as f64 / seconds, coded as f64 / bytes.max(1) as f64);
        let fresh = Seen { speed, ratio, at: now };
        self.0
            .entry((kind, codec))
            .and_modify(|seen| {
                *seen = if is_fresh(seen, now) {
                    // Of speeds the times are averaged: one run that was held up is not the rule.
                    let time = (1.0 - WEIGHT) / seen.speed + WEIGHT / speed;
                    let ratio = (1.0 - WEIGHT) * seen.ratio + WEIGHT * ratio;
                    Seen { speed: 1.0 / time, ratio, at: now }
                } else {
                    fresh
                };
            })
            .or_insert(fresh);
    }

    fn get(&self, now: Instant, kind: Kind, codec: Codec) -> Option<Seen> {
        self.0.get(&(kind, codec)).copied().filter(|seen| is_fresh(seen, now))
    }

    /// What a level of zstd may do with one kind of data, by what the nearest other one did lately.
    fn guess(&self, now: Instant, kind: Kind, codec: Codec) -> Option<Seen> {
        let place = |codec: Codec| match codec {
            Codec::Zstd(level) => LEVELS.iter().position(|known| *known == level),
            _ => None,
        };
        let at = place(codec)?;
        let of_kind =
            self.0.iter().filter(|((other, _), seen)| *other == kind && is_fresh(seen, now));
        let known = of_kind.filter_map(|((_, codec), seen)| Some((place(*codec)?, seen)));
        let (nearest, seen) = known.min_by_key(|(place, _)| place.abs_diff(at))?;
        let ((speed, ratio), (known_speed, known_ratio)) = (TYPICAL[at], TYPICAL[nearest]);
        Some(Seen {
            speed: seen.speed * speed / known_speed,
            ratio: seen.ratio * ratio / known_ratio,
            at: now,
        })
    }

    /// What a codec does with one kind of data, if it was measured lately: bytes per second of one
    /// core, and coded bytes for each byte.
    pub fn seen(&self, now: Instant, kind: Kind, codec: Codec) -> Option<(f64, f64)> {
        self.get(now, kind, codec).map(|seen| (seen.speed, seen.ratio))
    }
}

fn is_fresh(seen: &Seen, now: Instant) -> bool {
    now.saturating_duration_since(seen.at) < MAX_AGE
}

/// Coding that was done.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Work {
    /// Bytes that were coded.
    pub bytes: usize,
    /// What they became.
    pub coded: usize,
    /// How long that took.
    pub elapsed: Duration,
    /// Share of a core that there was for it, over 0 and at most 1.
    pub share: f64,
}

/// What a choice depends on besides the data.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Circumstances {
    /// Bytes per second that the link is believed to give to this request, if anything is known.
    pub goodput: Option<f64>,
    /// Bytes per second that the requester decodes, if it says so.
    pub decode: Option<f64>,
    /// What it can read.
    pub accepted: Codecs,
    /// Share of a core that there is for coding: over 0 and at most 1.
    pub share: f64,
    /// Seconds for which the link is busy with what was coded before: coding takes no time from it meanwhile.
    pub wait: f64,
    /// Bytes that are coded together now.
    pub run: u64,
    /// Bytes that are to follow in the same request.
    pub rest: u64,
}

impl Circumstances {
    fn goodput(&self) -> f64 {
        self.goodput.filter(|goodput| *goodput > 0.0).unwrap_or(UNKNOWN_GOODPUT)
    }

    fn raw(&self) -> f64 {
        (self.run + self.rest) as f64 / self.goodput()
    }

    /// What choosing this costs, in seconds.
    fn cost(&self, seen: &Seen) -> f64 {
        self.seconds(seen) + CORE_PRICE * (self.run + self.rest) as f64 / seen.speed
    }

    /// Seconds that coding alone takes.
    fn coding(&self, seen: &Seen) -> f64 {
        (self.run + self.rest) as f64 / (seen.speed * self.share)
    }

    /// Seconds until everything is there and decoded, from when the link is free. Runs go through three stages: the
    /// first one through all of them, the others behind it at the pace of the slowest.
    fn seconds(&self, seen: &Seen) -> f64 {
        let bytes = (self.run + self.rest) as f64;
        let wire = bytes * seen.ratio / self.goodput();
        let decode = self.decode.filter(|speed| *speed > 0.0).map_or(0.0, |speed| bytes / speed);
        let coding = self.coding(seen);
        let first = self.run as f64 / bytes.max(1.0);
        (first * coding - self.wait).max(0.0)
            + first * (wire + decode)
            + (1.0 - first) * coding.max(wire).max(decode)
    }
}

/// What to do with a run of data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Code it with this.
    Take(Codec),
    /// Measure this on a part of the run, [`Speeds::note`] it, and choose again.
    Measure(Codec),
}

/// The codecs in use on one link.
#[derive(Clone, Debug, Default)]
pub struct Choices {
    by_kind: BTreeMap<Kind, Codec>,
    /// Looks in a row after which the data was left as it is, and how many runs are still to go
    /// without a look.
    in_vain: u32,
    unseen: u32,
}

impl Choices {
    /// The codec that a policy names without a look at the data; `None` when it takes one.
    pub fn unseen(&mut self, policy: Policy, at: &Circumstances) -> Option<Codec> {
        let codec = match policy {
            Policy::Adaptive if self.unseen == 0 => return None,
            Policy::Adaptive => {
                self.unseen -= 1;
                Codec::Identity
            }
            Policy::Off => Codec::Identity,
            Policy::Fixed(codec) => codec,
            Policy::Tiers => tier(at.goodput()),
        };
        Some(if at.accepted.reads(codec) { codec } else { Codec::Identity })
    }

    /// The codec for a run of this kind, [`Kind::of`] a sample.
    pub fn choose(
        &mut self,
        now: Instant,
        speeds: &Speeds,
        kind: Kind,
        at: &Circumstances,
    ) -> Step {
        let current = self.by_kind.get(&kind).copied();
        let mut best = (Codec::Identity, at.raw());
        let mut current_cost = (current == Some(Codec::Identity)).then_some(best.1);
        let strongest = LEVELS.last().copied().map(Codec::Zstd);
        for codec in candidates(at.accepted) {
            let seen = speeds.get(now, kind, codec);
            let is_guessed = seen.is_none();
            let guess = || speeds.guess(now, kind, codec).filter(|_| at.rest < WORTH_MEASURING);
            let Some(seen) = seen.or_else(guess) else {
                return Step::Measure(codec);
            };
            if is_guessed && Some(codec) == strongest && at.coding(&seen) > SURELY * at.wait {
                break;
            }
            let cost = at.cost(&seen);
            if Some(codec) == current {
                current_cost = Some(cost);
            }
            if cost < best.1 {
                best = (codec, cost);
            }
            if at.coding(&seen) * NEXT_SLOWER > best.1 + at.wait {
                break;
            }
        }
        let codec = match current.zip(current_cost) {
            Some((current, cost)) if best.1 >= cost * SWITCH => current,
            _ => best.0,
        };
        self.by_kind.insert(kind, codec);
        if codec == Codec::Identity {
            self.looked_in_vain();
        } else {
            self.in_vain = 0;
        }
        Step::Take(codec)
    }

    /// A look at a run has shown that it is best left as it is: [`Kind::of`] it is none, or
    /// [`Choices::choose`] has found so.
    pub fn looked_in_vain(&mut self) {
        self.in_vain = (self.in_vain + 1).min(MAX_UNSEEN);
        // The first few looks may have met an exception.
        self.unseen = if self.in_vain > 2 { self.in_vain } else { 0 };
    }

    /// Whether the codecs in use are such that longer runs pay: on a link that is slow enough to do
    /// more than what is cheap, but not with levels so slow that the link would wait for a run.
    pub fn favours_long_runs(&self) -> bool {
        let strong = |codec: &Codec| matches!(codec, Codec::Zstd(6..=12));
        !self.by_kind.is_empty() && self.by_kind.values().all(strong)
    }
}

/// What is considered, the fastest first. Between peers gzip is never better than a level of zstd.
fn candidates(accepted: Codecs) -> impl Iterator<Item = Codec> {
    let zstd = LEVELS.iter().copied().map(Codec::Zstd).filter(move |codec| accepted.reads(*codec));
    let gzip = Codec::Gzip(GZIP_LEVEL);
    let gzip = (!accepted.contains(Codecs::ZSTD) && accepted.reads(gzip)).then_some(gzip);
    zstd.chain(gzip)
}

fn tier(goodput: f64) -> Codec {
    match goodput {
        goodput if goodput >= TIER_RAW => Codec::Identity,
        goodput if goodput >= TIER_GZIP => Codec::Gzip(GZIP_LEVEL),
        _ => Codec::Zstd(MAX_ZSTD),
    }
}

/// What waits to be sent on a link, as far as can be said from the bytes handed to it and its
/// goodput.
#[derive(Clone, Copy, Debug)]
pub struct Backlog {
    bytes: f64,
    at: Instant,
}

impl Backlog {
    /// Nothing waits.
    pub fn new(now: Instant) -> Self {
        Self { bytes: 0.0, at: now }
    }

    /// Seconds until the link, which gives `goodput` bytes per second, has sent all that it was handed.
    pub fn wait(&self, now: Instant, goodput: f64) -> f64 {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.bytes / goodput - elapsed).max(0.0)
    }

    /// More is handed to the link, which gives `goodput` bytes per second. Says whether it had to
    /// wait for that: then the pace at which bytes arrive is not its own.
    pub fn add(&mut self, now: Instant, bytes: u64, goodput: f64) -> bool {
        let sent = now.saturating_duration_since(self.at).as_secs_f64() * goodput;
        let late = sent > self.bytes;
        *self = Self { bytes: (self.bytes - sent).max(0.0) + bytes as f64, at: now };
        late
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: usize = 1 << 20;

    /// Speeds in MB/s and ratios of a debug binary, as zstd 1.5 has them on some machine: what
    /// matters here is their order.
    const BINARY: [(u8, f64, f64); 7] = [
        (1, 430.0, 0.219),
        (3, 300.0, 0.204),
        (6, 100.0, 0.192),
        (9, 48.0, 0.185),
        (12, 22.0, 0.183),
        (15, 8.0, 0.182),
        (19, 1.9, 0.165),
    ];

    fn kind() -> Kind {
        Kind::of(1000, 300).unwrap()
    }

    fn mbit(mbit: f64) -> Circumstances {
        Circumstances {
            goodput: Some(mbit * 125_000.0),
            decode: None,
            accepted: Codecs::ALL,
            share: 1.0,
            wait: 0.0,
            run: MIB as u64,
            rest: 63 * MIB as u64,
        }
    }

    fn measured(codec: Codec) -> Work {
        let Codec::Zstd(level) = codec else {
            return Work {
                bytes: MIB,
                coded: MIB / 4,
                elapsed: Duration::from_millis(10),
                share: 1.0,
            };
        };
        let (_, speed, ratio) = BINARY.iter().find(|(one, ..)| *one == level).unwrap();
        Work {
            bytes: MIB,
            coded: (MIB as f64 * ratio) as usize,
            elapsed: Duration::from_secs_f64(MIB as f64 / (speed * 1e6)),
            share: 1.0,
        }
    }

    /// Chooses, measuring what is to be measured; returns what was, too.
    fn choose(
        choices: &mut Choices,
        speeds: &mut Speeds,
        now: Instant,
        at: &Circumstances,
    ) -> (Codec, Vec<Codec>) {
        let mut tried = Vec::new();
        loop {
            match choices.choose(now, speeds, kind(), at) {
                Step::Take(codec) => return (codec, tried),
                Step::Measure(codec) => {
                    speeds.note(now, kind(), codec, measured(codec));
                    tried.push(codec);
                }
            }
        }
    }

    fn chosen(at: &Circumstances) -> (Codec, Vec<Codec>) {
        choose(&mut Choices::default(), &mut Speeds::default(), Instant::now(), at)
    }

    #[test]
    fn the_slower_the_link_the_stronger_the_codec() {
        let codecs: Vec<_> = [10_000.0, 1000.0, 100.0, 25.0, 1.0]
            .iter()
            .map(|rate| chosen(&mbit(*rate)).0)
            .collect();
        assert_eq!(codecs[0], Codec::Identity);
        assert!(codecs.is_sorted(), "{codecs:?}");
        assert_eq!(codecs[4], Codec::Zstd(19));
    }

    #[test]
    fn slow_codecs_are_not_even_measured_on_a_fast_link() {
        let (codec, tried) = chosen(&mbit(10_000.0));
        assert_eq!((codec, tried), (Codec::Identity, vec![Codec::Zstd(1)]));
        let (_, tried) = chosen(&mbit(200.0));
        assert!(!tried.contains(&Codec::Zstd(15)), "{tried:?}");
    }

    #[test]
    fn on_a_link_of_25_mbit_adaptive_beats_the_tiers_and_saves_most_of_the_time() {
        let at = mbit(25.0);
        let mut speeds = Speeds::default();
        let now = Instant::now();
        let (codec, _) = choose(&mut Choices::default(), &mut speeds, now, &at);
        let seconds = |codec| {
            speeds.clone().note(now, kind(), codec, measured(codec));
            at.seconds(&speeds.get(now, kind(), codec).unwrap())
        };
        assert!(seconds(codec) < at.raw() * 0.44);
        // The strongest is at most as fast as the strongest that was measured here.
        let strongest = measured(Codec::Zstd(19));
        let strongest = at.coding(&Seen {
            speed: strongest.bytes as f64 / strongest.elapsed.as_secs_f64(),
            ratio: 0.165,
            at: now,
        });
        assert!(seconds(codec) < strongest / 2.0);
    }

    #[test]
    fn what_does_not_shrink_is_left_alone_and_looked_at_less_and_less() {
        assert_eq!(Kind::of(1000, 999), None);
        let (mut choices, at) = (Choices::default(), mbit(1.0));
        let mut looks = 0;
        for _ in 0..1000 {
            if choices.unseen(Policy::Adaptive, &at).is_none() {
                looks += 1;
                choices.looked_in_vain();
            }
        }
        assert!((50..90).contains(&looks), "{looks}");
    }

    #[test]
    fn a_codec_in_use_stays_until_another_is_clearly_better() {
        let (mut choices, mut speeds, now) =
            (Choices::default(), Speeds::default(), Instant::now());
        let mut last = choose(&mut choices, &mut speeds, now, &mbit(40.0)).0;
        let mut switches = 0;
        for turn in 0..100 {
            let rate = if turn % 2 == 0 { 36.0 } else { 44.0 };
            let codec = choose(&mut choices, &mut speeds, now, &mbit(rate)).0;
            switches += usize::from(codec != last);
            last = codec;
        }
        assert!(switches <= 1, "{switches}");
        assert_eq!(choose(&mut choices, &mut speeds, now, &mbit(10_000.0)).0, Codec::Identity);
    }

    #[test]
    fn competing_work_makes_for_faster_codecs() {
        let alone = chosen(&mbit(25.0)).0;
        let busy = chosen(&Circumstances { share: 0.1, ..mbit(25.0) }).0;
        assert!(busy < alone, "{busy} {alone}");
        // What was measured beside other work is not held against the codec afterwards.
        let (mut speeds, now) = (Speeds::default(), Instant::now());
        let work = measured(Codec::Zstd(3));
        let beside = Work { elapsed: work.elapsed * 4, share: 0.25, ..work };
        speeds.note(now, kind(), Codec::Zstd(3), beside);
        let (speed, _) = speeds.seen(now, kind(), Codec::Zstd(3)).unwrap();
        assert!((speed / 300e6 - 1.0).abs() < 0.01, "{speed}");
    }

    #[test]
    fn of_little_only_the_fastest_is_measured_and_the_others_are_known_by_their_use() {
        let at = Circumstances { rest: 0, ..mbit(25.0) };
        let (mut choices, mut speeds, now) =
            (Choices::default(), Speeds::default(), Instant::now());
        let (first, tried) = choose(&mut choices, &mut speeds, now, &at);
        assert_eq!(tried, [Codec::Zstd(1)]);
        assert!((Codec::Zstd(3)..=Codec::Zstd(12)).contains(&first), "{first}");
        // It turns out to be far slower here than elsewhere.
        let slow = Work { elapsed: Duration::from_secs(1), ..measured(first) };
        speeds.note(now, kind(), first, slow);
        let (then, tried) = choose(&mut choices, &mut speeds, now, &at);
        assert!(then < first && tried.is_empty(), "{then}");
    }

    #[test]
    fn what_is_coded_while_the_link_is_busy_is_coded_well_but_not_for_next_to_nothing() {
        let of_link = |mbit_s, wait| chosen(&Circumstances { wait, rest: 0, ..mbit(mbit_s) }).0;
        let (idle, busy) = (of_link(25.0, 0.0), of_link(25.0, 0.1));
        assert!(idle < busy, "{idle} {busy}");
        let codecs: Vec<_> = [0.0, 0.01, 0.02, 0.1, 1.0].map(|wait| of_link(25.0, wait)).into();
        assert!(codecs.is_sorted(), "{codecs:?}");
        // The strongest level would take half a second of a core for a hundredth of one.
        assert!(codecs[4] < Codec::Zstd(15), "{codecs:?}");
        assert_eq!(of_link(1.0, 10.0), Codec::Zstd(19));
    }

    #[test]
    fn a_slow_requester_is_not_given_what_it_cannot_decode_in_time() {
        let at = Circumstances { decode: Some(1e6), ..mbit(100.0) };
        assert_eq!(chosen(&at).0, Codec::Identity);
    }

    #[test]
    fn old_measurements_are_made_anew() {
        let (mut choices, mut speeds, now) =
            (Choices::default(), Speeds::default(), Instant::now());
        let held_up = Work { elapsed: Duration::from_secs(60), ..measured(Codec::Zstd(1)) };
        speeds.note(now, kind(), Codec::Zstd(1), held_up);
        assert_eq!(choose(&mut choices, &mut speeds, now, &mbit(100.0)).0, Codec::Identity);
        let later = now + MAX_AGE;
        let (codec, tried) = choose(&mut choices, &mut speeds, later, &mbit(100.0));
        assert!(tried.contains(&Codec::Zstd(1)) && codec != Codec::Identity);
    }

    #[test]
    fn policies_do_what_they_say_and_never_what_the_requester_cannot_read() {
        let (mut choices, only) = (Choices::default(), Codecs::IDENTITY);
        let mut take = |policy, rate, accepted| {
            choices.unseen(policy, &Circumstances { accepted, ..mbit(rate) }).unwrap()
        };
        assert_eq!(take(Policy::Off, 1.0, Codecs::ALL), Codec::Identity);
        assert_eq!(take(Policy::Tiers, 100.0, Codecs::ALL), Codec::Identity);
        assert_eq!(take(Policy::Tiers, 99.0, Codecs::ALL), Codec::Gzip(6));
        assert_eq!(take(Policy::Tiers, 50.0, Codecs::ALL), Codec::Gzip(6));
        assert_eq!(take(Policy::Tiers, 49.0, Codecs::ALL), Codec::Zstd(22));
        assert_eq!(take(Policy::Tiers, 49.0, only), Codec::Identity);
        let fixed = Policy::Fixed(Codec::Zstd(3));
        assert_eq!(take(fixed, 1e6, Codecs::ALL), Codec::Zstd(3));
        assert_eq!(take(fixed, 1e6, Codecs::GZIP), Codec::Identity);
        assert_eq!(chosen(&Circumstances { accepted: only, ..mbit(1.0) }).0, Codec::Identity);
        let accepted = Codecs::IDENTITY.and(Codecs::GZIP);
        assert_eq!(chosen(&Circumstances { accepted, ..mbit(1.0) }).0, Codec::Gzip(6));
    }

    #[test]
    fn policies_read_back_from_their_names() {
        let fixed = [Codec::Identity, Codec::Gzip(9), Codec::Zstd(22)].map(Policy::Fixed);
        for policy in [Policy::Adaptive, Policy::Tiers, Policy::Off].into_iter().chain(fixed) {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        for bad in ["", "zstd", "zstd-0", "zstd-23", "gzip-10", "gzip-x", "lz4-1", "Adaptive"] {
            assert!(bad.parse::<Policy>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_link_that_had_to_wait_for_the_coder_is_known() {
        let mut now = Instant::now();
        let mut backlog = Backlog::new(now);
        backlog.add(now, 1000, 1000.0);
        assert_eq!(backlog.wait(now, 500.0), 2.0);
        now += Duration::from_millis(900);
        assert!((backlog.wait(now, 1000.0) - 0.1).abs() < 1e-9);
        assert!(!backlog.add(now, 1000, 1000.0));
        now += Duration::from_millis(1200);
        assert_eq!(backlog.wait(now, 1000.0), 0.0);
        assert!(backlog.add(now, 10, 1000.0));
    }

    proptest! {
        #[test]
        fn a_choice_is_found_whatever_the_figures(
            goodput in prop::option::of(-1.0..1e12_f64),
            decode in prop::option::of(-1.0..1e12_f64),
            share in 0.001..1.0_f64,
            wait in 0.0..1e6_f64,
            (run, rest) in (0..u64::from(u32::MAX), 0..u64::MAX / 4),
            bits in any::<u8>(),
            works in prop::collection::vec((0..10_000_000_usize, 0..10_000_000_usize, 0..10_000_u64), 9),
        ) {
            let accepted = Codecs::from_bits(bits);
            let at = Circumstances { goodput, decode, accepted, share, wait, run, rest };
            let (mut choices, mut speeds, now) =
                (Choices::default(), Speeds::default(), Instant::now());
            let mut works = works.into_iter();
            let codec = loop {
                match choices.choose(now, &speeds, kind(), &at) {
                    Step::Take(codec) => break codec,
                    // No codec is measured twice, or this runs out.
                    Step::Measure(codec) => {
                        let (bytes, coded, millis) = works.next().unwrap();
                        let elapsed = Duration::from_millis(millis);
                        speeds.note(now, kind(), codec, Work { bytes, coded, elapsed, share });
                    }
                }
            };
            prop_assert!(accepted.reads(codec) && codec.is_valid());
        }
    }
}
