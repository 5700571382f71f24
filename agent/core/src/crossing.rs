//! One crossing per region: who of a region fetches a blob from far away, for all of them.
//!
//! Every agent comes to the same answer without asking anybody: rendezvous hashing (Thaler and
//! Ravishankar, 1998) of the blob over the agents of the region. The others ask that agent to bring
//! the blob, and go to the next in the order, or fetch it themselves, when it does not.

use crate::{digest::Hash, peer::PeerId};

/// Most agents that are asked to bring a blob before the requester fetches it by itself: each that
/// does not answer costs a moment, and two dead ones in a row are rare.
pub const MAX_ASKED: usize = 2;

/// The agents of one region, `me` among them, in the order in which they are to fetch `blob` from
/// another region. The same on every agent that knows the same agents.
pub fn order(blob: &Hash, agents: impl IntoIterator<Item = PeerId>) -> Vec<PeerId> {
    let mut agents: Vec<(u64, PeerId)> =
        agents.into_iter().map(|agent| (weight(blob, &agent), agent)).collect();
    agents.sort_unstable_by(|a, b| b.cmp(a));
    agents.dedup();
    agents.into_iter().map(|(_, agent)| agent).collect()
}

fn weight(blob: &Hash, agent: &PeerId) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(blob.as_bytes()).update(&agent.0);
    let hash = hasher.finalize();
    let (head, _) = hash.as_bytes().split_first_chunk().unwrap_or((&[0; 8], &[]));
    u64::from_be_bytes(*head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn agents(count: u8) -> Vec<PeerId> {
        (0..count).map(|n| PeerId([n; 32])).collect()
    }

    #[test]
    fn blobs_are_spread_over_the_agents() {
        let mut first = [0_u32; 8];
        for n in 0..4000_u32 {
            let blob = Hash::of(&n.to_le_bytes());
            first[usize::from(order(&blob, agents(8))[0].0[0])] += 1;
        }
        assert!(first.iter().all(|count| (400..600).contains(count)), "{first:?}");
    }

    proptest! {
        #[test]
        fn everybody_agrees_and_one_who_leaves_changes_nothing_else(
            blob: [u8; 32], count in 2u8..20, gone in 0u8..20,
        ) {
            let blob = Hash(blob);
            let all = order(&blob, agents(count));
            let mut reversed = agents(count);
            reversed.reverse();
            prop_assert_eq!(&order(&blob, reversed), &all);
            let gone = PeerId([gone % count; 32]);
            let rest = order(&blob, agents(count).into_iter().filter(|agent| *agent != gone));
            let expected: Vec<_> = all.into_iter().filter(|agent| *agent != gone).collect();
            prop_assert_eq!(rest, expected);
        }
    }
}
