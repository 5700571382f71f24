//! Which of the known members to be connected to.
//!
//! All of them in a small mesh. In a large one: some of the own region, one of each other region, and
//! some from anywhere. The last keep the graph connected whatever the regions look like: a random graph
//! in which everybody picks even three others is connected with overwhelming probability (Fenner,
//! Frieze: "On the connectivity of random m-orientable graphs and digraphs", 1982). Ties are broken by
//! rendezvous hashing (Thaler, Ravishankar 1998) and not by the last millisecond, so that nobody is
//! everybody's nearest, and so that the choice stays when nothing relevant changed.

use crate::{gossip::dice::mix, peer::PeerId};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// In a mesh of at most this many members everybody is connected to everybody.
pub const FULL: usize = 32;
/// Connections to members of the own region.
pub const NEAR: usize = 5;
/// Most connections to members of other regions, one to each.
pub const FAR: usize = 8;
/// Connections to members from anywhere.
pub const ANYWHERE: usize = 3;
/// How many connections from other regions each member of a region may expect. A region of few
/// members in a large mesh is left out by most, or all would flock to these few.
const FLOCK: usize = 8;
/// Most connections that others made to be accepted. Four times what each makes on average, as choices by
/// hash spread like a Poisson distribution; below what `core::gossip` can have as neighbours, together
/// with those of one's own making.
pub const MAX_INBOUND: usize = 48;
/// Members whose round trip is within twice the best one's and this are equally near.
const ALIKE: Duration = Duration::from_millis(10);

const _: () = assert!(MAX_INBOUND + NEAR + FAR + ANYWHERE <= crate::gossip::MAX_NEIGHBOURS);
const _: () = assert!(FULL <= crate::gossip::MAX_NEIGHBOURS);

/// A member that could be connected to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member<'a> {
    /// Who.
    pub peer: PeerId,
    /// Its region; empty when it has none, which counts as a region.
    pub region: &'a str,
    /// The smoothed round trip, if it was ever measured.
    pub rtt: Option<Duration>,
    /// Whether there is a connection now, whoever made it.
    pub connected: bool,
}

impl Member<'_> {
    /// The round trip as it counts: that of a connected member is halved, so that a connection is
    /// given up only for one that is twice as good.
    fn distance(&self) -> Duration {
        /// Assumed when it was never measured.
        const UNMEASURED: Duration = Duration::from_millis(100);
        let rtt = self.rtt.unwrap_or(UNMEASURED);
        if self.connected { rtt / 2 } else { rtt }
    }
}

/// The members that `me` should be connected to. Connections beyond these that others made are theirs to
/// close. Members that lately refused should be left out by the caller. The seed is one for the whole mesh or
/// any other that stays; with another seed other members are chosen.
pub fn choose<'a>(
    me: &PeerId,
    region: &str,
    members: impl IntoIterator<Item = Member<'a>>,
    seed: u64,
) -> BTreeSet<PeerId> {
    let members: Vec<Member<'a>> = members.into_iter().filter(|it| it.peer != *me).collect();
    if members.len() < FULL {
        return members.iter().map(|member| member.peer).collect();
    }
    let here = seed ^ fold(&me.0);
    let weight = |bytes: &[u8]| mix(here ^ fold(bytes).rotate_left(1));
    // These are set aside first: they depend on no distance, and would take turns with the others.
    let mut anywhere: Vec<PeerId> = members.iter().map(|member| member.peer).collect();
    anywhere.sort_by_cached_key(|peer| Reverse(mix(weight(&peer.0))));
    let mut chosen: BTreeSet<PeerId> = anywhere.into_iter().take(ANYWHERE).collect();
    let mut regions: BTreeMap<&str, Vec<Member<'a>>> = BTreeMap::new();
    for member in members.iter().filter(|member| !chosen.contains(&member.peer)) {
        regions.entry(member.region).or_default().push(*member);
    }
    let near = regions.remove(region).unwrap_or_default();
    chosen.extend(best(near, NEAR, weight));
    let mut far: Vec<(u64, Vec<Member<'a>>)> = Vec::new();
    for (name, there) in regions {
        // This agent's share of the agents outside that region that may connect to it.
        let others = members.len() + 1 - there.len();
        let share = ((FLOCK * there.len()) as u128) << 64;
        let draw = weight(name.as_bytes());
        if u128::from(draw) * (others as u128) < share {
            far.push((draw, there));
        }
    }
    far.sort_by_key(|(draw, _)| *draw);
    chosen.extend(far.into_iter().take(FAR).flat_map(|(_, there)| best(there, 1, weight)));
    chosen
}

/// The `count` best of members of one region: among those that are equally near the connected first,
/// then by weight.
fn best<'a>(
    mut members: Vec<Member<'a>>,
    count: usize,
    weight: impl Fn(&[u8]) -> u64,
) -> impl Iterator<Item = PeerId> {
    let nearest = members.iter().filter_map(|member| member.rtt).min().unwrap_or_default();
    let alike = nearest * 2 + ALIKE;
    members.sort_by_cached_key(|member| {
        let beyond = member.distance().saturating_sub(alike);
        (beyond, !member.connected, Reverse(weight(&member.peer.0)))
    });
    members.into_iter().take(count).map(|member| member.peer)
}

/// 64 bits that depend on all bytes. Not for secrets: an agent that wants to be near another one can
/// choose its key so; it gains a neighbour.
fn fold(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(bytes.len() as u64, |folded, chunk| {
        let word = chunk.iter().fold(0, |word, byte| (word << 8) | u64::from(*byte));
        mix(folded ^ word)
    })
}

#[cfg(test)]
mod tests;
