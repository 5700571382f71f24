//! How much an agent may send, where somebody set a limit: rates as people write them, the hours
//! of the day in which they hold, and the bucket that keeps to them.

use std::{
    str::FromStr,
    time::{Duration, Instant},
};

/// Bytes per second.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Rate(u64);

/// The units in which a rate may be written, with the bytes per second of one.
const UNITS: [(&str, f64); 10] = [
    ("bit/s", 0.125),
    ("kbit/s", 125.0),
    ("Mbit/s", 125e3),
    ("Gbit/s", 125e6),
    ("B/s", 1.0),
    ("kB/s", 1e3),
    ("MB/s", 1e6),
    ("GB/s", 1e9),
    ("KiB/s", 1024.0),
    ("MiB/s", 1_048_576.0),
];

impl Rate {
    /// The lowest rate that may be set: 8 kbit/s, at which a chunk takes minutes and whoever waits
    /// for it gives up.
    pub const LEAST: Self = Self(1000);
    /// The highest: 8 Tbit/s is none of today's links, but a slip.
    pub const MOST: Self = Self(1_000_000_000_000);

    /// A rate of so many bytes per second; `None` when that is not from [`Rate::LEAST`] to
    /// [`Rate::MOST`].
    pub fn new(bytes_per_second: u64) -> Option<Self> {
        let rate = Self(bytes_per_second);
        (Self::LEAST..=Self::MOST).contains(&rate).then_some(rate)
    }

    /// Bytes per second.
    pub fn bytes_per_second(self) -> u64 {
        self.0
    }
}

/// Why a text is not a rate.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseRateError {
    /// It is not a number with a unit behind it.
    #[error(
        "`{0}` is not a rate: bytes per second, or a number with a unit such as `10 Mbit/s` or `2 MB/s`"
    )]
    Malformed(String),
    /// There is no such unit.
    #[error(
        "`{0}` is not a unit of a rate: bit/s, kbit/s, Mbit/s, Gbit/s, B/s, kB/s, MB/s, GB/s, KiB/s or MiB/s"
    )]
    Unit(String),
    /// It is too low or too high.
    #[error("`{0}` is not from 1 kB/s to 1000 GB/s")]
    OutOfRange(String),
}

impl FromStr for Rate {
    type Err = ParseRateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let number: f64 = number.parse().map_err(|_| ParseRateError::Malformed(text.to_owned()))?;
        let unit = unit.trim_start();
        let factor = match unit {
            "" => Some(1.0),
            unit => UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor),
        };
        let factor = factor.ok_or_else(|| ParseRateError::Unit(unit.to_owned()))?;
        // A float beyond all integers becomes the greatest of them, which is out of range.
        Self::new((number * factor).round() as u64)
            .ok_or_else(|| ParseRateError::OutOfRange(text.to_owned()))
    }
}

/// Seconds of a day. Days without leap seconds: one more or less makes no difference here.
pub const DAY: u32 = 24 * 3600;

/// Hours of each day, in UTC: from a time on and until before another one, which may be of the next
/// day. UTC as the limit of a link concerns agents in several time zones, and has no hour that comes
/// twice or never.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Schedule {
    from: u32,
    to: u32,
}

/// Why two texts are not a schedule.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseScheduleError {
    /// One is not a time of the day.
    #[error("`{0}` is not a time of the day in UTC: HH:MM from 00:00 to 24:00")]
    Time(String),
    /// Both are the same.
    #[error("from {0} to {0} is no time at all; leave both out for the whole day")]
    Empty(String),
}

impl Schedule {
    /// The hours from `from` to `to`, both `HH:MM` in UTC. With the second not after the first, to
    /// the next day.
    ///
    /// # Errors
    /// When one is not a time, or both are the same.
    pub fn parse(from: &str, to: &str) -> Result<Self, ParseScheduleError> {
        let schedule = Self { from: time_of_day(from)? % DAY, to: time_of_day(to)? % DAY };
        if schedule.from == schedule.to && from != to {
            // From 00:00 to 24:00 is a whole day.
            return Ok(Self { from: 0, to: DAY });
        }
        if schedule.from == schedule.to {
            return Err(ParseScheduleError::Empty(from.to_owned()));
        }
        Ok(schedule)
    }

    /// Whether a time is among these hours, in seconds since midnight UTC.
    pub fn holds(&self, second_of_day: u32) -> bool {
        let second = second_of_day % DAY;
        if self.from < self.to {
            (self.from..self.to).contains(&second)
        } else {
            second >= self.from || second < self.to
        }
    }
}

fn time_of_day(text: &str) -> Result<u32, ParseScheduleError> {
    let error = || ParseScheduleError::Time(text.to_owned());
    let (hours, minutes) = text.split_once(':').ok_or_else(error)?;
    let number = |digits: &str| {
        let good = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        good.then(|| digits.parse::<u32>().ok()).flatten().ok_or_else(error)
    };
    let seconds = number(hours)? * 3600 + number(minutes)? * 60;
    if number(minutes)? > 59 || seconds > DAY {
        return Err(error());
    }
    Ok(seconds)
}

/// A limit to what is sent to the agents of one region together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegionLimit {
    /// The region.
    pub region: String,
    /// At most so much.
    pub rate: Rate,
    /// In these hours; always when there are none.
    pub schedule: Option<Schedule>,
}

/// The limits to what an agent sends.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// To all agents outside its region together.
    pub together: Option<Rate>,
    /// To the agents of single regions.
    pub regions: Vec<RegionLimit>,
}

impl Limits {
    /// What may be sent to the agents of a region together at a time of the day, in seconds since
    /// midnight UTC: the lowest of the limits that hold. It counts beside [`Limits::together`].
    pub fn rate(&self, region: &str, second_of_day: u32) -> Option<Rate> {
        let holds = |limit: &&RegionLimit| {
            limit.region == region
                && limit.schedule.is_none_or(|schedule| schedule.holds(second_of_day))
        };
        self.regions.iter().filter(holds).map(|limit| limit.rate).min()
    }
}

/// How much may be sent at once after a pause: what the rate allows in this time, so that timers
/// which come late do not slow a transfer down...
const BURST: Duration = Duration::from_millis(50);
/// ...and at least so many bytes: a full frame of the data plane.
const LEAST_BURST: u64 = 64 * 1024;
/// The longest time that a single take is charged for, however much it asks: beyond it nobody waits.
const LONGEST: Duration = Duration::from_secs(3600);

/// A token bucket: lets bytes through at a rate, and a little at once after a pause. It is kept as
/// the time at which it will be full again, which needs no timer to fill it (the virtual scheduling
/// form of the generic cell rate algorithm: ITU-T Recommendation I.371, annex A).
///
/// Whoever waits as it says, before each piece, sends in any time `t` at most a burst and `rate * t`.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    rate: Rate,
    full_at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, full_at: now }
    }

    /// From now on another rate counts. What is owed stays, in bytes.
    pub fn set_rate(&mut self, rate: Rate, now: Instant) {
        let owed = self.full_at.saturating_duration_since(now);
        let ratio = self.rate.0 as f64 / rate.0 as f64;
        let owed = Duration::try_from_secs_f64(owed.as_secs_f64() * ratio).unwrap_or(LONGEST);
        *self = Self { rate, full_at: now + owed.min(LONGEST) };
    }

    /// Takes so many bytes out; says how long to wait before they may be sent. They count as sent:
    /// nobody is to ask again for the same.
    pub fn take(&mut self, bytes: u64, now: Instant) -> Duration {
        let cost = self.time_of(bytes).min(LONGEST);
        self.full_at = self.full_at.max(now) + cost;
        let burst = self.time_of(LEAST_BURST).max(BURST);
        self.full_at.saturating_duration_since(now).saturating_sub(burst)
    }

    fn time_of(&self, bytes: u64) -> Duration {
        Duration::try_from_secs_f64(bytes as f64 / self.rate.0 as f64).unwrap_or(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rates_are_read_as_people_write_them() {
        let rate = |text: &str| text.parse::<Rate>().map(Rate::bytes_per_second);
        for (text, bytes) in [
            ("2000000", 2_000_000),
            ("10 Mbit/s", 1_250_000),
            ("10Mbit/s", 1_250_000),
            (" 2.5 MB/s ", 2_500_000),
            ("1 Gbit/s", 125_000_000),
            ("64 KiB/s", 65_536),
            ("8000 bit/s", 1000),
        ] {
            assert_eq!(rate(text), Ok(bytes), "{text}");
        }
        for (text, part) in [
            ("", "is not a rate"),
            ("fast", "is not a rate"),
            ("-5 MB/s", "is not a rate"),
            ("1.2.3 MB/s", "is not a rate"),
            ("10 mbit/s", "`mbit/s` is not a unit"),
            ("10 Mbit", "`Mbit` is not a unit"),
            ("0", "not from 1 kB/s"),
            ("1 bit/s", "not from 1 kB/s"),
            ("99999999999999999999999", "not from 1 kB/s"),
        ] {
            let error = rate(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn hours_of_the_day_may_go_past_midnight() {
        let hours = |from, to| Schedule::parse(from, to).unwrap();
        let at = |schedule: Schedule, hour: u32| schedule.holds(hour * 3600);
        let day = hours("08:00", "18:00");
        assert_eq!([7, 8, 17, 18].map(|hour| at(day, hour)), [false, true, true, false]);
        let night = hours("22:00", "06:00");
        assert_eq!([21, 22, 0, 5, 6].map(|hour| at(night, hour)), [false, true, true, true, false]);
        let evening = hours("18:30", "24:00");
        assert_eq!([18, 19, 23, 0].map(|hour| at(evening, hour)), [false, true, true, false]);
        let whole = hours("00:00", "24:00");
        assert!((0..24).all(|hour| at(whole, hour)));
        for (from, to) in [
            ("8:00", "18:00"),
            ("08:00", "25:00"),
            ("08:60", "18:00"),
            ("08", "18:00"),
            ("+8:00", "18:00"),
            ("24:01", "18:00"),
        ] {
            let error = Schedule::parse(from, to).unwrap_err();
            assert!(matches!(error, ParseScheduleError::Time(_)), "{from} {to}: {error}");
        }
        assert!(matches!(Schedule::parse("08:00", "08:00"), Err(ParseScheduleError::Empty(_))));
    }

    #[test]
    fn the_lowest_limit_of_the_hour_counts() {
        let rate = |bytes| Rate::new(bytes).unwrap();
        let limit = |region: &str, bytes, schedule| RegionLimit {
            region: region.to_owned(),
            rate: rate(bytes),
            schedule,
        };
        let office = Schedule::parse("08:00", "18:00").unwrap();
        let limits = Limits {
            together: Some(rate(9000)),
            regions: vec![
                limit("eu-central", 5000, None),
                limit("eu-central", 2000, Some(office)),
                limit("us-east", 3000, Some(office)),
            ],
        };
        let at = |region, hour: u32| limits.rate(region, hour * 3600).map(Rate::bytes_per_second);
        assert_eq!(
            [("eu-central", 7), ("eu-central", 12)].map(|(r, h)| at(r, h)),
            [Some(5000), Some(2000)]
        );
        assert_eq!([("us-east", 7), ("us-east", 12)].map(|(r, h)| at(r, h)), [None, Some(3000)]);
        assert_eq!(at("us-west", 12), None);
    }

    #[test]
    fn a_megabyte_a_second_lets_ten_megabytes_through_in_ten_seconds() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Rate::new(1_000_000).unwrap(), start);
        let mut now = start;
        for _ in 0..10_000_000 / 16_384 {
            now += bucket.take(16_384, now);
        }
        let took = now - start;
        assert!((9.8..=10.0).contains(&took.as_secs_f64()), "{took:?}");
        // A pause is not saved up for more than a burst.
        now += Duration::from_secs(3600);
        assert_eq!(bucket.take(LEAST_BURST, now), Duration::ZERO);
        assert!(bucket.take(LEAST_BURST, now) >= Duration::from_millis(60));
    }

    #[test]
    fn a_rate_that_changes_keeps_what_is_owed() {
        let now = Instant::now();
        let mut bucket = Bucket::new(Rate::new(1_000_000).unwrap(), now);
        bucket.take(1_000_000, now);
        bucket.set_rate(Rate::new(10_000_000).unwrap(), now);
        let wait = bucket.take(0, now).as_secs_f64();
        assert!((0.04..=0.06).contains(&wait), "{wait}");
    }

    #[test]
    fn a_take_beyond_all_measure_does_not_overflow() {
        let now = Instant::now();
        let mut bucket = Bucket::new(Rate::LEAST, now);
        for _ in 0..1000 {
            bucket.take(u64::MAX, now);
        }
        bucket.set_rate(Rate::MOST, now);
        bucket.set_rate(Rate::LEAST, now);
        assert!(bucket.take(u64::MAX, now) <= 2 * LONGEST);
    }

    proptest! {
        #[test]
        fn never_more_than_a_burst_above_the_rate_and_no_wait_below_it(
            rate in 1_000..200_000_000_u64,
            steps in prop::collection::vec((0..2_000_u64, 1..4_000_000_u64), 1..60),
        ) {
            let start = Instant::now();
            let mut bucket = Bucket::new(Rate::new(rate).unwrap(), start);
            let burst = LEAST_BURST.max((rate as f64 * BURST.as_secs_f64()) as u64) as f64;
            let (mut now, mut sent) = (start, 0.0);
            let mut owed = 0.0_f64;
            for (pause, bytes) in steps {
                now += Duration::from_millis(pause);
                // The same by the textbook: a level that drains at the rate.
                owed = (owed - rate as f64 * pause as f64 / 1e3).max(0.0) + bytes as f64;
                let cost = bytes as f64 / rate as f64;
                let wait = bucket.take(bytes, now);
                if cost < LONGEST.as_secs_f64() {
                    let expected = ((owed - burst) / rate as f64).max(0.0);
                    prop_assert!((wait.as_secs_f64() - expected).abs() < 1e-3 * (1.0 + expected), "{wait:?} {expected}");
                } else {
                    break;
                }
                owed = (owed - rate as f64 * wait.as_secs_f64()).max(0.0);
                now += wait;
                sent += bytes as f64;
                let allowed = burst + rate as f64 * (now - start).as_secs_f64();
                prop_assert!(sent <= allowed * (1.0 + 1e-6) + 1.0, "{sent} {allowed}");
            }
        }
    }
}
