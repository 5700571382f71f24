//! The table of named profiles.

use std::{ops::RangeInclusive, time::Duration};

/// Least queue of a link: a slow link still takes a burst of some forty full packets.
const MIN_QUEUE_BYTES: u64 = 64 * 1024;

/// What a link does to packets at one time, in each direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Delay of one direction, in microseconds; half of the round-trip time.
    pub delay_us: u64,
    /// Bits of IP packets, headers included, that leave per second. 0: nothing passes.
    pub rate_bits: u64,
    /// Bytes that may wait for the rate; a packet that does not fit is dropped.
    pub queue_bytes: u64,
    /// Packets lost at random, of a million.
    pub loss_ppm: u32,
}

impl Shape {
    /// A shape whose queue holds one bandwidth-delay product of the round trip.
    const fn new(rtt_us: u64, rate_bits: u64, loss_ppm: u32) -> Self {
        // At most 600 ms * 10 Gbit/s, far from the limit of 64 bits.
        let product = rate_bits / 8 * rtt_us / 1_000_000;
        let queue_bytes = if product > MIN_QUEUE_BYTES { product } else { MIN_QUEUE_BYTES };
        Self { delay_us: rtt_us / 2, rate_bits, queue_bytes, loss_ppm }
    }

    /// Whether nothing passes.
    pub const fn is_cut(&self) -> bool {
        self.rate_bits == 0
    }

    /// Delay of one direction.
    pub const fn delay(&self) -> Duration {
        Duration::from_micros(self.delay_us)
    }

    /// How long `bytes` take to leave. `None` when nothing passes.
    pub fn time_to_send(&self, bytes: u64) -> Option<Duration> {
        let nanos = (u128::from(bytes) * 8_000_000_000).checked_div(u128::from(self.rate_bits))?;
        Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }
}

/// How the shape of a link changes by itself: a random walk that starts at the shape of the
/// profile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Variation {
    /// Range of the delay of one direction, in microseconds.
    pub delay_us: RangeInclusive<u64>,
    /// Range of the rate, in bits per second.
    pub rate_bits: RangeInclusive<u64>,
    /// Time between two steps of the walk.
    pub every: Duration,
}

/// A link by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Profile {
    /// What it is called on command lines.
    pub name: &'static str,
    /// What it does, or what it does first when it varies.
    pub shape: Shape,
    /// How it varies, if it does.
    pub variation: Option<Variation>,
    /// For whom it stands, for lists of profiles.
    pub about: &'static str,
}

impl Profile {
    const fn steady(name: &'static str, shape: Shape, about: &'static str) -> Self {
        Self { name, shape, variation: None, about }
    }

    /// The worse of two profiles as a whole, so that the result has a name: nothing passes before
    /// the longer delay before the smaller rate before the greater loss.
    #[must_use]
    pub fn worse<'a>(&'a self, other: &'a Self) -> &'a Self {
        let badness = |profile: &Self| {
            let Shape { delay_us, rate_bits, loss_ppm, .. } = profile.shape;
            (profile.shape.is_cut(), delay_us, std::cmp::Reverse(rate_bits), loss_ppm)
        };
        if badness(other) > badness(self) { other } else { self }
    }
}

const MBIT: u64 = 1_000_000;
const MS: u64 = 1_000;

/// A link on which nothing passes.
pub const CUT: &Profile = &PROFILES[PROFILES.len() - 1];

/// All profiles. The regions are round-trip times and rates between public clouds and a European
/// office as netbuild's users see them; the others are the classes that break caches.
pub const PROFILES: &[Profile] = &[
    Profile::steady("datacenter", Shape::new(MS / 2, 10_000 * MBIT, 0), "two racks of one site"),
    Profile::steady("us-east", Shape::new(50 * MS, 100 * MBIT, 0), "a near region"),
    Profile::steady("us-west", Shape::new(100 * MS, 50 * MBIT, 0), "the other coast"),
    Profile::steady("eu-central", Shape::new(150 * MS, 25 * MBIT, 0), "across an ocean"),
    Profile::steady("branch", Shape::new(80 * MS, 10 * MBIT, 0), "a branch office on a thin line"),
    Profile::steady("satellite", Shape::new(600 * MS, 20 * MBIT, 5_000), "a geostationary hop"),
    Profile {
        name: "mobile",
        shape: Shape::new(130 * MS, 17 * MBIT, 0),
        variation: Some(Variation {
            delay_us: 30 * MS..=100 * MS,
            rate_bits: 5 * MBIT..=30 * MBIT,
            every: Duration::from_secs(3),
        }),
        about: "a phone that moves",
    },
    Profile::steady("lossy", Shape::new(150 * MS, 25 * MBIT, 10_000), "a bad long path"),
    Profile::steady(
        "cut",
        Shape { delay_us: 0, rate_bits: 0, queue_bytes: 0, loss_ppm: 0 },
        "a partition: nothing passes",
    ),
];

/// No profile has this name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there is no profile `{name}`; there are {}", names())]
pub struct UnknownProfile {
    /// What was asked for.
    pub name: String,
}

fn names() -> String {
    PROFILES.iter().map(|profile| profile.name).collect::<Vec<_>>().join(", ")
}

/// The profile of a name.
///
/// # Errors
/// When there is none.
pub fn find(name: &str) -> Result<&'static Profile, UnknownProfile> {
    PROFILES
        .iter()
        .find(|profile| profile.name == name)
        .ok_or_else(|| UnknownProfile { name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_its_names_promise() {
        let told = |name: &str| {
            let shape = find(name).unwrap().shape;
            (shape.delay_us * 2, shape.rate_bits, shape.queue_bytes, shape.loss_ppm)
        };
        assert_eq!(told("datacenter"), (500, 10_000_000_000, 625_000, 0));
        assert_eq!(told("us-east"), (50_000, 100_000_000, 625_000, 0));
        assert_eq!(told("us-west"), (100_000, 50_000_000, 625_000, 0));
        assert_eq!(told("eu-central"), (150_000, 25_000_000, 468_750, 0));
        assert_eq!(told("satellite"), (600_000, 20_000_000, 1_500_000, 5_000));
        assert_eq!(told("lossy"), (150_000, 25_000_000, 468_750, 10_000));
        assert!(CUT.shape.is_cut());
        assert_eq!(CUT.name, "cut");
    }

    #[test]
    fn names_are_unique_and_varying_profiles_begin_inside_their_range() {
        for (i, profile) in PROFILES.iter().enumerate() {
            assert_eq!(PROFILES.iter().position(|other| other.name == profile.name), Some(i));
            assert_eq!(find(profile.name), Ok(profile));
            if let Some(variation) = &profile.variation {
                assert!(variation.delay_us.contains(&profile.shape.delay_us));
                assert!(variation.rate_bits.contains(&profile.shape.rate_bits));
            }
        }
    }

    #[test]
    fn a_link_takes_the_worse_of_two_profiles() {
        let worse = |a: &str, b: &str| {
            let (a, b) = (find(a).unwrap(), find(b).unwrap());
            assert_eq!(a.worse(b), b.worse(a));
            a.worse(b).name
        };
        assert_eq!(worse("us-east", "us-west"), "us-west");
        assert_eq!(worse("datacenter", "us-east"), "us-east");
        assert_eq!(worse("lossy", "eu-central"), "lossy");
        assert_eq!(worse("cut", "satellite"), "cut");
        assert_eq!(worse("us-east", "us-east"), "us-east");
    }

    #[test]
    fn an_unknown_name_is_answered_with_those_that_there_are() {
        let said = find("us-south").unwrap_err().to_string();
        assert!(said.contains("us-south") && said.contains("us-east") && said.contains("cut"));
    }
}
