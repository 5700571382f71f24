//! The members of the mesh that this agent knows of, connected or not.
//!
//! A member is known from its admission, or from a presence that it signed and that gossip carried
//! here. Whoever is not connected and was not heard of for some intervals of presence is gone.

use netbuild_core::{gossip::Body, peer::PeerId};
use netbuild_proto::membership::{MAX_ROLL, MAX_ROLLED, Presence, Rolled};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Most members that are known, this agent not counted: some two megabytes, and four times the
/// largest mesh that is aimed at.
pub(crate) const MAX_KNOWN: usize = 4096;
/// Intervals of presence after which a member that is not connected is gone: two may be lost.
const SILENT_INTERVALS: u32 = 3;

/// A presence as its origin signed it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Signed {
    /// Its place among all that the origin says.
    pub(crate) sequence: u64,
    /// The rumour.
    pub(crate) body: Body,
}

/// What is known of a member.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) presence: Presence,
    /// Where its mesh port may be.
    pub(crate) mesh: Vec<SocketAddr>,
    pub(crate) connected: bool,
    /// Round trip to it, smoothed, once measured.
    pub(crate) rtt: Option<Duration>,
    heard: Instant,
    signed: Option<Signed>,
}

/// What a presence meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum News {
    /// The member was not known.
    Joined,
    /// It says something else than before.
    Updated,
    /// It says the same as before.
    Same,
    /// It is of an earlier life of the member, or older than what is known.
    Stale,
    /// There is no room for another member.
    NoRoom,
}

/// Every known member.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    known: BTreeMap<PeerId, Known>,
    connected: usize,
    digest: u64,
}

impl Roster {
    // -- getters --

    pub(crate) fn get(&self, peer: &PeerId) -> Option<&Known> {
        self.known.get(peer)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&PeerId, &Known)> {
        self.known.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    pub(crate) fn connected(&self) -> usize {
        self.connected
    }

    /// A digest of the ids of all known members and of this one besides.
    pub(crate) fn digest_with(&self, also: &PeerId) -> u64 {
        if self.known.contains_key(also) { self.digest } else { self.digest ^ short(also) }
    }

    /// A page of the presences that can be passed on, those of `asker` included: its last tells it
    /// where its sequence stood.
    pub(crate) fn roll(&self, after: Option<PeerId>, now: Instant) -> Vec<Rolled> {
        let from = match after {
            Some(after) => std::ops::Bound::Excluded(after),
            None => std::ops::Bound::Unbounded,
        };
        self.known
            .range((from, std::ops::Bound::Unbounded))
            .filter_map(|(_, known)| {
                let body = &known.signed.as_ref()?.body;
                let age = now.saturating_duration_since(known.heard).as_secs();
                (body.len() <= MAX_ROLLED).then(|| Rolled {
                    age_s: u32::try_from(age).unwrap_or(u32::MAX),
                    rumour: body.to_vec(),
                })
            })
            .take(MAX_ROLL)
            .collect()
    }

    // -- what came in --

    /// Takes the presence of a member that is connected, as it was told directly.
    pub(crate) fn handle_admitted(
        &mut self,
        peer: PeerId,
        presence: Presence,
        mesh: Vec<SocketAddr>,
        now: Instant,
    ) -> News {
        let news = self.take(peer, presence, mesh, None, now);
        if let Some(known) = self.known.get_mut(&peer)
            && !known.connected
        {
            known.connected = true;
            self.connected += 1;
        }
        news
    }

    /// Takes a presence that gossip or the roll brought, as it was at `heard`.
    pub(crate) fn handle_presence(
        &mut self,
        peer: PeerId,
        presence: Presence,
        mesh: Vec<SocketAddr>,
        signed: Signed,
        heard: Instant,
    ) -> News {
        match self.known.get(&peer) {
            None if self.known.len() >= MAX_KNOWN => return News::NoRoom,
            // A clock may have been set back between two lives, but whoever is connected told which it is.
            Some(known) if known.connected && presence.started < known.presence.started => {
                return News::Stale;
            }
            Some(Known { signed: Some(last), .. }) if signed.sequence <= last.sequence => {
                return News::Stale;
            }
            _ => {}
        }
        self.take(peer, presence, mesh, Some(signed), heard)
    }

    /// Takes note of a sign of life.
    pub(crate) fn handle_heard(&mut self, peer: &PeerId, now: Instant) {
        if let Some(known) = self.known.get_mut(peer) {
            known.heard = known.heard.max(now);
        }
    }

    /// Takes note of a round trip; one sample moves the estimate by an eighth, as in RFC 6298.
    pub(crate) fn handle_rtt(&mut self, peer: &PeerId, sample: Duration) {
        if let Some(known) = self.known.get_mut(peer) {
            known.rtt = Some(known.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
        }
    }

    /// Takes note that a member is not connected any more, but lives on.
    pub(crate) fn handle_parted(&mut self, peer: &PeerId, now: Instant) {
        if let Some(known) = self.known.get_mut(peer)
            && known.connected
        {
            (known.connected, known.heard) = (false, now);
            self.connected -= 1;
        }
    }

    /// Forgets a member.
    pub(crate) fn remove(&mut self, peer: &PeerId) -> Option<Known> {
        let known = self.known.remove(peer)?;
        self.connected -= usize::from(known.connected);
        self.digest ^= short(peer);
        Some(known)
    }

    /// Who has to go before `peer` is admitted: whoever is connected takes the place of the one that
    /// was only heard of, least recently.
    pub(crate) fn in_the_way_of(&self, peer: &PeerId) -> Option<PeerId> {
        if self.known.contains_key(peer) || self.known.len() < MAX_KNOWN {
            return None;
        }
        self.known
            .iter()
            .filter(|(_, known)| !known.connected)
            .min_by_key(|(_, known)| known.heard)
            .map(|(peer, _)| *peer)
    }

    /// The next member that was silent for too long, given how often members speak.
    pub(crate) fn next_silent(&self, interval: Duration, now: Instant) -> Option<PeerId> {
        let limit = interval.saturating_mul(SILENT_INTERVALS);
        self.known
            .iter()
            .find(|(_, known)| {
                !known.connected && now.saturating_duration_since(known.heard) > limit
            })
            .map(|(peer, _)| *peer)
    }

    fn take(
        &mut self,
        peer: PeerId,
        presence: Presence,
        mesh: Vec<SocketAddr>,
        signed: Option<Signed>,
        heard: Instant,
    ) -> News {
        let Some(known) = self.known.get_mut(&peer) else {
            let known = Known { presence, mesh, connected: false, rtt: None, heard, signed };
            self.known.insert(peer, known);
            self.digest ^= short(&peer);
            return News::Joined;
        };
        known.heard = known.heard.max(heard);
        if signed.is_some() {
            known.signed = signed;
        }
        if known.presence == presence && known.mesh == mesh {
            return News::Same;
        }
        (known.presence, known.mesh) = (presence, mesh);
        News::Updated
    }
}

/// Eight bytes of an id. Ids are keys, so they are spread evenly.
pub(crate) fn short(peer: &PeerId) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&peer.0[..8]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests;
