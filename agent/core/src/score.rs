//! The score of a source: seconds that a given size is expected to take, weighted; lower is better.

use crate::link::{Basis, Belief};
use std::time::Duration;

/// Size in bytes at which regions are put in order: a large object file, a small archive.
pub const REFERENCE_SIZE: u64 = 4 * 1024 * 1024;
/// Round trips that a fetch needs before its bytes flow: the question, and the first answer.
const ROUND_TRIPS: f64 = 2.0;
/// Round-trip time of a peer of which nothing is known: the other end of a continent.
const ASSUMED_RTT: f64 = 0.1;
/// Bytes that an untried link is trusted to carry in one round trip.
const ASSUMED_WINDOW: f64 = 256.0 * 1024.0;
/// Goodput of an untried link in bytes per second, whatever its round-trip time: a slow and a fast
/// access line.
const ASSUMED_GOODPUT: (f64, f64) = (1e6, 100e6);
/// Payload bytes of a packet, for what loss lets through.
const PACKET: f64 = 1200.0;
/// By how much loss makes an untried link worse at most: what is known of it is the way there, not
/// the way back, and a probe that fills a link to its end loses as much as a bad one.
const MOST_FOR_LOSS: f64 = 4.0;

/// What counts how much. The default is 0.4 and 0.6.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Weights {
    /// Of the seconds until bytes flow.
    pub latency: f64,
    /// Of the seconds that they flow.
    pub transfer: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { latency: 0.4, transfer: 0.6 }
    }
}

/// Where the seconds of a fetch go.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Prediction {
    /// Until bytes flow: round trips and their jitter.
    pub latency: f64,
    /// While they flow.
    pub transfer: f64,
}

impl Prediction {
    /// Expected seconds of the whole fetch.
    pub fn seconds(&self) -> f64 {
        self.latency + self.transfer
    }

    /// The weighted seconds by which sources are put in order.
    pub fn score(&self, weights: Weights) -> f64 {
        weights.latency * self.latency + weights.transfer * self.transfer
    }
}

/// What a fetch of `size` bytes over a link is expected to take while `queue` other fetches share
/// the link. Finite and not negative for every input.
pub fn predict(link: &Belief, size: u64, queue: u32) -> Prediction {
    let rtt = link.rtt.map_or(ASSUMED_RTT, |rtt| rtt.as_secs_f64());
    let goodput = goodput(link).max(1.0) / f64::from(queue.saturating_add(1));
    Prediction {
        latency: ROUND_TRIPS * rtt + link.jitter.as_secs_f64(),
        transfer: size as f64 / goodput,
    }
}

/// Believed bytes per second; of an untried link what its length and its loss make likely.
///
/// The limit by loss is the macroscopic model of Mathis et al. (1997): a packet per round trip,
/// divided by the square root of the loss.
pub fn goodput(link: &Belief) -> f64 {
    if let Some(goodput) = link.goodput {
        return goodput;
    }
    let rtt = link.rtt.map_or(ASSUMED_RTT, |rtt| rtt.as_secs_f64()).max(1e-6);
    let (least, most) = ASSUMED_GOODPUT;
    let assumed = (ASSUMED_WINDOW / rtt).clamp(least, most);
    match link.loss {
        Some(loss) if loss > 0.0 => {
            let limit = 1.22 * PACKET / (rtt * loss.sqrt());
            assumed.min(limit.max(assumed / MOST_FOR_LOSS))
        }
        _ => assumed,
    }
}

/// How long to wait for the first answer before another source is asked as well: what this source
/// has taken so far, with room for its jitter, between `floor` and `ceiling`.
pub fn patience(link: &Belief, floor: Duration, ceiling: Duration) -> Duration {
    let known = match (link.rtt, link.basis) {
        (Some(rtt), Basis::Measured | Basis::Told) => rtt * 3 + link.jitter * 4 + floor,
        _ => ceiling,
    };
    known.clamp(floor, ceiling)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn link(rtt_ms: u64, mbit: f64) -> Belief {
        Belief {
            rtt: Some(Duration::from_millis(rtt_ms)),
            goodput: Some(mbit * 1e6 / 8.0),
            basis: Basis::Measured,
            ..Belief::default()
        }
    }

    fn score(link: &Belief, size: u64) -> f64 {
        predict(link, size, 0).score(Weights::default())
    }

    #[test]
    fn the_classical_weights_put_the_three_regions_in_order() {
        let regions = [link(50, 100.0), link(100, 50.0), link(150, 25.0)];
        for size in [0, 1000, REFERENCE_SIZE, 1 << 40] {
            let scores: Vec<f64> = regions.iter().map(|link| score(link, size)).collect();
            assert!(scores.is_sorted_by(|a, b| a < b), "{size}: {scores:?}");
        }
        // 4 MiB over 100 Mbit are 0.336 s, two round trips 0.1 s.
        let seconds = 0.4 * 0.1 + 0.6 * (4.0 * 1.048_576 * 8.0 / 100.0);
        assert!((score(&regions[0], REFERENCE_SIZE) - seconds).abs() < 1e-6);
    }

    #[test]
    fn the_size_decides_between_a_near_thin_and_a_far_thick_link() {
        let (near, far) = (link(5, 10.0), link(100, 1000.0));
        assert!(score(&near, 1000) < score(&far, 1000));
        assert!(score(&far, 10 << 20) < score(&near, 10 << 20));
    }

    #[test]
    fn load_and_loss_cost() {
        let base = link(50, 100.0);
        assert!(predict(&base, 1 << 20, 3).seconds() > predict(&base, 1 << 20, 0).seconds());
        let untried = Belief { goodput: None, ..base };
        let lossy = Belief { loss: Some(0.02), ..untried };
        assert!(goodput(&lossy) < goodput(&untried));
    }

    #[test]
    fn patience_follows_the_history_of_the_source() {
        let bounds = (Duration::from_millis(50), Duration::from_millis(700));
        let wait = |link: &Belief| patience(link, bounds.0, bounds.1);
        assert_eq!(wait(&link(50, 1.0)), Duration::from_millis(200));
        assert_eq!(wait(&link(600, 1.0)), bounds.1);
        assert_eq!(wait(&Belief::default()), bounds.1);
    }

    proptest! {
        #[test]
        fn a_score_is_finite_and_grows_with_size_and_distance(
            rtt in 0u64..60_000, mbit in 0.0f64..1e6, size in 0u64..1 << 50, queue: u32,
        ) {
            let link = link(rtt, mbit);
            let here = predict(&link, size, queue);
            prop_assert!(here.seconds().is_finite() && here.seconds() >= 0.0);
            let farther = Belief { rtt: link.rtt.map(|rtt| rtt * 2), ..link };
            prop_assert!(predict(&farther, size, queue).seconds() >= here.seconds());
            prop_assert!(predict(&link, size * 2, queue).seconds() >= here.seconds());
        }
    }
}
