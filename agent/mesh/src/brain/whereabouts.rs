//! Where this agent and others are, and who is told.

use super::Brain;
use crate::addresses;
use netbuild_core::peer::PeerId;
use netbuild_proto::membership::MAX_ADDRESSES;
use std::{net::SocketAddr, time::Instant};

impl Brain {
    /// The addresses at which this agent listens have changed.
    pub(crate) fn handle_listening(&mut self, own: &[SocketAddr], now: Instant) {
        self.listening = own.to_vec();
        self.tell_addresses(now);
    }

    pub(super) fn hint(&mut self, teller: &PeerId, address: SocketAddr, now: Instant) {
        let on_loopback = self.is_on_loopback(teller);
        let own = self.presence.mesh_addresses.contains(&address);
        let known = || self.roster.iter().any(|(_, known)| known.mesh.contains(&address));
        for address in addresses::of_stranger(&[address], on_loopback) {
            if !own && !known() {
                self.dialer.hint(address, now);
            }
        }
    }

    /// A member that multicast DNS or the routing of the mesh found.
    pub(crate) fn handle_found(&mut self, id: PeerId, told: &[SocketAddr], now: Instant) {
        let known = self.roster.get(&id).is_some() || self.conduct.is_banned(&id, now);
        if id != self.me && !known && self.is_allowed(&id) {
            let told = addresses::of_stranger(told, false);
            self.dialer.hint_peer(id, told, self.turn(&id, now));
        }
    }

    /// When it is this agent's turn to dial a peer that hears of this agent at about the same time.
    pub(super) fn turn(&self, id: &PeerId, now: Instant) -> Instant {
        if self.me < *id { now } else { now + self.timing.first_redial }
    }

    pub(super) fn is_on_loopback(&self, id: &PeerId) -> bool {
        self.peers.get(id).is_some_and(|peer| peer.seen.ip().is_loopback())
    }

    pub(super) fn is_allowed(&self, id: &PeerId) -> bool {
        self.allowed.as_ref().is_none_or(|allowed| allowed.contains(id))
    }

    /// One address of each of some other members, for somebody seen at `asker`.
    pub(super) fn members_to_tell(&self, asker_id: &PeerId, asker: SocketAddr) -> Vec<SocketAddr> {
        self.peers
            .members()
            .filter(|(id, _, _)| *id != asker_id)
            .filter_map(|(id, _, _)| addresses::to_tell(&self.roster.get(id)?.mesh, asker))
            .take(MAX_ADDRESSES)
            .collect()
    }

    pub(super) fn tell_addresses(&mut self, now: Instant) {
        let told = self.observed.with_own(&self.listening);
        if told != self.presence.mesh_addresses {
            self.presence.mesh_addresses = told;
            self.say_presence_soon(now);
        }
    }
}
