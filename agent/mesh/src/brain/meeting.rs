//! Whom of the known members to be connected to, and when to look for more.

use super::{Action, Brain};
use netbuild_core::{
    neighbourhood::{self, FULL},
    peer::PeerId,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// Members come in bursts; the choice is made once for a burst.
const SETTLE: Duration = Duration::from_millis(100);
/// How often the choice is made again though nobody came or went: round trips change.
const RECONSIDER: Duration = Duration::from_secs(30);
/// A connection that is not wanted any more is kept for this long, so that a choice that wavers costs
/// nothing.
const LEAST_STAY: Duration = Duration::from_secs(30);
/// Connections are given up only in a mesh that is larger than this. Between [`FULL`] and this, those that
/// stand stay: a member that comes and goes must not make everybody part and meet again.
const PART_ABOVE: usize = FULL + FULL / 4;
/// How long a member that had no room is not asked again.
const FULL_REST: Duration = Duration::from_secs(60);
/// The choice differs between agents by their ids; a seed would make it differ between meshes too, for
/// which there is no need.
const SEED: u64 = 0;

/// The choice of connections.
#[derive(Debug)]
pub(super) struct Meeting {
    due: Option<Instant>,
    walk: Duration,
    walk_due: Instant,
    full: BTreeMap<PeerId, Instant>,
}

impl Meeting {
    pub(super) fn new(walk: Duration, now: Instant) -> Self {
        Self { due: None, walk, walk_due: now + walk, full: BTreeMap::new() }
    }

    /// Makes the choice again soon.
    pub(super) fn reconsider(&mut self, now: Instant) {
        let soon = now + SETTLE;
        self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
    }

    /// Takes note that a member has no room for a connection.
    pub(super) fn handle_full(&mut self, peer: PeerId, now: Instant) {
        self.full.retain(|_, until| *until > now);
        self.full.insert(peer, now + FULL_REST);
        self.reconsider(now);
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        Some(self.due.map_or(self.walk_due, |due| due.min(self.walk_due)))
    }
}

impl Brain {
    /// Makes the choice, or asks the way, when it is time; `false` if it is not.
    pub(super) fn meet(&mut self, now: Instant) -> bool {
        if self.meeting.walk_due <= now {
            self.meeting.walk_due = now + self.meeting.walk;
            if !self.is_alone() {
                self.actions.push_back(Action::Walk);
            }
            return true;
        }
        if self.meeting.due.is_none_or(|due| due > now) {
            return false;
        }
        self.meeting.due = Some(now + RECONSIDER);
        self.choose(now);
        true
    }

    fn choose(&mut self, now: Instant) {
        let full = &self.meeting.full;
        let rests = |peer: &PeerId| full.get(peer).is_some_and(|until| *until > now);
        let members = self.roster.iter().filter(|(peer, _)| !rests(peer)).map(|(peer, known)| {
            neighbourhood::Member {
                peer: *peer,
                region: &known.presence.region,
                rtt: known.rtt,
                connected: known.connected,
            }
        });
        let chosen = neighbourhood::choose(&self.me, &self.presence.region, members, SEED);
        let unconnected = chosen
            .iter()
            .filter_map(|peer| Some((*peer, self.roster.get(peer)?)))
            .filter(|(_, known)| !known.connected);
        let wanted: Vec<_> = unconnected.map(|(peer, known)| (peer, known.mesh.clone())).collect();
        for (peer, mesh) in wanted {
            self.dialer.heard_of(peer, mesh, now, self.turn(&peer, now));
        }
        let spared: BTreeSet<PeerId> = self
            .roster
            .iter()
            .filter(|(peer, known)| !known.connected && !chosen.contains(peer))
            .map(|(peer, _)| *peer)
            .collect();
        self.dialer.spare(spared);
        if self.roster.len() > PART_ABOVE {
            self.part_from_others(&chosen, now);
        }
    }

    /// Takes leave of members that this agent dialled and does not want any more. Those that dialled this
    /// agent know themselves what they want.
    fn part_from_others(&mut self, chosen: &BTreeSet<PeerId>, now: Instant) {
        let unwanted: Vec<PeerId> = self
            .peers
            .members()
            .filter(|(id, peer, member)| {
                peer.dialled
                    && !chosen.contains(id)
                    && member.parting.is_none()
                    && now.saturating_duration_since(member.since) >= LEAST_STAY
            })
            .map(|(id, _, _)| *id)
            .collect();
        for peer in unwanted {
            tracing::debug!(%peer, "parting from a member: there are nearer ones");
            if let Some(member) = self.peers.member_mut(&peer) {
                member.parting = Some(now + self.timing.admission);
            }
            self.ask_to_part(peer);
        }
    }
}
