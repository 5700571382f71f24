//! Amounts as a person writes them: bytes, a part of a disk, a time.

use std::{fmt, str::FromStr, time::Duration};

/// Units of bytes.
const BYTES: [(&str, f64); 9] = [
    ("B", 1.0),
    ("kB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("TB", 1e12),
    ("KiB", 1024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
    ("TiB", 1_099_511_627_776.0),
];
/// Units of time, in seconds.
const TIMES: [(&str, f64); 14] = [
    ("s", 1.0),
    ("second", 1.0),
    ("seconds", 1.0),
    ("min", 60.0),
    ("minute", 60.0),
    ("minutes", 60.0),
    ("h", 3600.0),
    ("hour", 3600.0),
    ("hours", 3600.0),
    ("d", 86_400.0),
    ("day", 86_400.0),
    ("days", 86_400.0),
    ("week", 604_800.0),
    ("weeks", 604_800.0),
];

/// An amount of disk: bytes, or a part of the whole file system.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Amount {
    /// Bytes.
    Bytes(u64),
    /// Per cent of the file system, from 0 to 100.
    Percent(f64),
}

/// What is no amount.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseAmountError {
    /// It is no number with a unit of bytes.
    #[error("`{0}` is not an amount of disk, such as \"50 GB\" or \"20 %\"")]
    Amount(String),
    /// It is no number with a unit of time.
    #[error("`{0}` is not a time, such as \"90 days\" or \"12 h\"")]
    Time(String),
}

impl Amount {
    /// Bytes of a file system that holds `capacity` bytes.
    pub fn of(self, capacity: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => (capacity as f64 * percent / 100.0) as u64,
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes} B"),
            Self::Percent(percent) => write!(f, "{percent} %"),
        }
    }
}

/// A number that is not negative, and what follows it.
fn number(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim_start()))
}

fn factor(unit: &str, units: &[(&str, f64)]) -> Option<f64> {
    units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor)
}

impl FromStr for Amount {
    type Err = ParseAmountError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseAmountError::Amount(text.to_owned());
        let (number, unit) = number(text).ok_or_else(error)?;
        match unit {
            "%" if number <= 100.0 => Ok(Self::Percent(number)),
            "" if number.fract() == 0.0 => Ok(Self::Bytes(number as u64)),
            unit => Ok(Self::Bytes((number * factor(unit, &BYTES).ok_or_else(error)?) as u64)),
        }
    }
}

/// Reads a time such as `90 days`.
pub fn parse_time(text: &str) -> Result<Duration, ParseAmountError> {
    let error = || ParseAmountError::Time(text.to_owned());
    let (number, unit) = number(text).ok_or_else(error)?;
    let seconds = number * factor(unit, &TIMES).ok_or_else(error)?;
    Duration::try_from_secs_f64(seconds).map_err(|_| error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_and_times_are_read_as_people_write_them() {
        for (text, amount) in [
            ("50 GB", Amount::Bytes(50_000_000_000)),
            ("1.5GiB", Amount::Bytes(1_610_612_736)),
            ("1000", Amount::Bytes(1000)),
            ("0", Amount::Bytes(0)),
            ("20 %", Amount::Percent(20.0)),
            ("0.5%", Amount::Percent(0.5)),
        ] {
            assert_eq!(text.parse(), Ok(amount), "{text}");
        }
        for text in ["", "GB", "5 gb", "-5 GB", "101 %", "5 GB x", "1.5", "1e3", "NaN"] {
            assert!(text.parse::<Amount>().is_err(), "{text}");
        }
        assert_eq!(Amount::Percent(20.0).of(1000), 200);
        assert_eq!(parse_time("90 days"), Ok(Duration::from_secs(90 * 86_400)));
        assert_eq!(parse_time("12h"), Ok(Duration::from_secs(12 * 3600)));
        assert_eq!(parse_time("1 min"), Ok(Duration::from_secs(60)));
        assert_eq!(parse_time("0 s"), Ok(Duration::ZERO));
        for text in ["", "90", "days", "-1 h", "5 GB", "99999999999999999999 weeks"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
