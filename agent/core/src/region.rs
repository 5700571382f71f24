//! Which region an agent is in when nobody has said so.
//!
//! What a person says counts most, then what the cloud says of its machine, then what is measured:
//! the region whose nearest agent is near, and clearly nearer than those of other regions.

use std::{collections::BTreeMap, fmt, time::Duration};

/// A region whose nearest agent answers within this is this one: the round trip within a
/// metropolitan area, or between the zones of a cloud region.
pub const NEAR: Duration = Duration::from_millis(10);
/// Farther than that, a region is taken only when the next is at least so many times as far...
const CLEARLY: u32 = 2;
/// ...and itself not farther than this: half a continent away is another region.
pub const FAR: Duration = Duration::from_millis(40);

/// Where the name of the own region comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Evidence {
    /// The flag, the configuration or a variable says so.
    Said(String),
    /// A variable of a cloud or of a build system says so.
    Hint(String),
    /// The nearest agent of the region is so far away.
    Measured(Duration),
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Said(place) => write!(f, "{place} says so"),
            Self::Hint(variable) => write!(f, "{variable} hints at it"),
            Self::Measured(rtt) => {
                write!(f, "its nearest agent is {:.1} ms away", rtt.as_secs_f64() * 1e3)
            }
        }
    }
}

/// What came of looking for the own region.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Detection {
    /// This is it.
    Region {
        /// Its name.
        region: String,
        /// Why.
        evidence: Evidence,
    },
    /// It would be this one, but that is not certain enough to join it.
    Perhaps {
        /// Its name.
        region: String,
        /// Distance of its nearest agent.
        rtt: Duration,
        /// Why it is not certain.
        why: &'static str,
    },
    /// Nothing is known yet.
    Unknown,
}

impl Detection {
    /// The name of the region, if it is certain.
    pub fn region(&self) -> Option<&str> {
        match self {
            Self::Region { region, .. } => Some(region),
            Self::Perhaps { .. } | Self::Unknown => None,
        }
    }
}

impl fmt::Display for Detection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Region { region, evidence } => write!(f, "{region}: {evidence}"),
            Self::Perhaps { region, rtt, why } => write!(
                f,
                "none; it would be {region}, {:.1} ms away, but {why}",
                rtt.as_secs_f64() * 1e3
            ),
            Self::Unknown => f.write_str("none; no agent of a region has been measured yet"),
        }
    }
}

/// Detects the region. `hint` is a region that the environment names, with the variable's name; it
/// does not count when the agents of that region are measured to be far: such variables also choose
/// what a program on a laptop talks to. `measured` are round-trip times to agents with a region.
pub fn detect<'a>(
    hint: Option<(&str, &str)>,
    measured: impl IntoIterator<Item = (&'a str, Duration)>,
) -> Detection {
    let mut nearest: BTreeMap<&str, Duration> = BTreeMap::new();
    for (region, rtt) in measured.into_iter().filter(|(region, _)| !region.is_empty()) {
        let known = nearest.entry(region).or_insert(rtt);
        *known = rtt.min(*known);
    }
    if let Some((variable, region)) = hint
        && nearest.get(region).is_none_or(|rtt| *rtt <= FAR)
    {
        let evidence = Evidence::Hint(variable.to_owned());
        return Detection::Region { region: region.to_owned(), evidence };
    }
    let mut regions: Vec<(Duration, &str)> =
        nearest.into_iter().map(|(region, rtt)| (rtt, region)).collect();
    regions.sort_unstable();
    let Some(&(rtt, region)) = regions.first() else { return Detection::Unknown };
    let clearly = regions.get(1).is_none_or(|(next, _)| *next >= rtt * CLEARLY);
    let region = region.to_owned();
    if clearly && rtt <= FAR || rtt <= NEAR && regions.get(1).is_none_or(|(next, _)| *next > NEAR) {
        return Detection::Region { region, evidence: Evidence::Measured(rtt) };
    }
    let why = if rtt > FAR { "that is far" } else { "another region is about as near" };
    Detection::Perhaps { region, rtt, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detected(measured: &[(&'static str, u64)]) -> Detection {
        detect(None, measured.iter().map(|(region, ms)| (*region, Duration::from_millis(*ms))))
    }

    #[test]
    fn the_nearest_region_is_joined_when_it_is_near() {
        let at = |region: &str, ms| Detection::Region {
            region: region.into(),
            evidence: Evidence::Measured(Duration::from_millis(ms)),
        };
        assert_eq!(detected(&[("us", 2), ("us", 1), ("eu", 90)]), at("us", 1));
        assert_eq!(detected(&[("us", 9), ("eu", 11)]), at("us", 9));
        assert_eq!(detected(&[("us", 30)]), at("us", 30));
        assert_eq!(detected(&[("us", 30), ("eu", 90)]), at("us", 30));
    }

    #[test]
    fn what_is_not_certain_is_said_and_not_done() {
        let text = |measured| detected(measured).to_string();
        assert_eq!(detected(&[]).region(), None);
        assert_eq!(detected(&[("", 1)]), Detection::Unknown);
        assert_eq!(
            text(&[("us", 80), ("eu", 200)]),
            "none; it would be us, 80.0 ms away, but that is far"
        );
        assert_eq!(
            text(&[("us", 3), ("eu", 4)]),
            "none; it would be us, 3.0 ms away, but another region is about as near"
        );
        assert_eq!(detected(&[("us", 30), ("eu", 40)]).region(), None);
    }

    #[test]
    fn a_hint_of_the_environment_counts_more_than_what_is_measured() {
        let measured = [("eu", Duration::from_millis(1))];
        let detection = detect(Some(("AWS_REGION", "us-east-1")), measured);
        assert_eq!(detection.region(), Some("us-east-1"));
        assert_eq!(detection.to_string(), "us-east-1: AWS_REGION hints at it");
        let far = [("us-east-1", FAR * 2), ("eu", Duration::from_millis(1))];
        assert_eq!(detect(Some(("AWS_REGION", "us-east-1")), far).region(), Some("eu"));
    }
}
