//! Bytes without meaning, and how many of them a peer may have.

use bytes::Bytes;
use netbuild_core::peer::PeerId;
use netbuild_proto::data::MAX_PROBE;
use std::{collections::HashMap, time::Instant};

/// Bytes that a peer may have at once, or have read for nothing: four probes of the greatest size.
const ALLOWANCE: f64 = 4.0 * MAX_PROBE as f64;
/// Bytes per second at which its allowance comes back: all of it in ten seconds. At most 3.4 Mbit/s
/// of each peer, which no build notices.
const RETURNS: f64 = ALLOWANCE / 10.0;

/// QUIC encrypts them, so to the link these are as incompressible as any.
static ZEROES: [u8; MAX_PROBE as usize] = [0; MAX_PROBE as usize];

/// The answer to a probe.
pub(crate) fn filling(bytes: u32) -> Bytes {
    Bytes::from_static(&ZEROES[..bytes.min(MAX_PROBE) as usize])
}

/// What peers may still have: a token bucket for each.
#[derive(Debug, Default)]
pub(crate) struct Allowances {
    /// Peers whose allowance is not full, with what was left when.
    left: HashMap<PeerId, (f64, Instant)>,
}

impl Allowances {
    /// Takes from the allowance of `peer`; `false` when there is not so much left.
    pub(crate) fn take(&mut self, peer: PeerId, bytes: u32, now: Instant) -> bool {
        let refilled = |left: f64, then: Instant| {
            left + now.saturating_duration_since(then).as_secs_f64() * RETURNS
        };
        // Those who asked in the last ten seconds, and so no more than are admitted.
        self.left.retain(|_, (left, then)| refilled(*left, *then) < ALLOWANCE);
        let left = self.left.get(&peer).map_or(ALLOWANCE, |(left, then)| refilled(*left, *then));
        let granted = left >= f64::from(bytes);
        let left = if granted { left - f64::from(bytes) } else { left };
        self.left.insert(peer, (left, now));
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_peer_has_four_mebibytes_in_ten_seconds_and_others_have_theirs() {
        let (a, b) = (PeerId([1; 32]), PeerId([2; 32]));
        let mut allowances = Allowances::default();
        let start = Instant::now();
        assert!((0..4).all(|_| allowances.take(a, MAX_PROBE, start)));
        assert!(!allowances.take(a, 1, start));
        assert!(allowances.take(b, MAX_PROBE, start));
        let later = start + Duration::from_millis(2600);
        assert!(allowances.take(a, MAX_PROBE, later));
        assert!(!allowances.take(a, MAX_PROBE, later));
        let much_later = later + Duration::from_secs(60);
        assert!((0..4).all(|_| allowances.take(a, MAX_PROBE, much_later)));
        assert!(!allowances.take(a, MAX_PROBE, much_later));
        assert_eq!(allowances.left.len(), 1);
    }
}
