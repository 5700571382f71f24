//! The peers that are connected, and how far each has come: on probation, refused, or a member.

use crate::{addresses, catch_up::CatchUp};
use netbuild_core::{key::ActionKey, peer::PeerId};
use netbuild_proto::membership::{MAX_ADDRESSES, Presence};
use std::{collections::BTreeMap, net::SocketAddr, time::Instant};

/// Names one request of a peer until it is answered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Token(pub(crate) u64);

/// A page that a peer asked for before this agent knew it as a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct EarlyPage {
    pub(crate) token: Token,
    pub(crate) after: Option<ActionKey>,
}

/// How far a peer has come.
#[derive(Debug)]
pub(crate) enum Standing {
    /// It has not proved yet that it knows the mesh key.
    Probation {
        /// When it is cut.
        deadline: Instant,
        /// Number of the question that this agent asked it, if it dialled.
        asked: Option<u64>,
        /// The peer may have admitted this agent while the answer is still on its way, and ask; one
        /// page waits for that answer.
        early: Option<EarlyPage>,
    },
    /// It failed; it is cut as soon as it had time to read why.
    Refused {
        /// When it is cut.
        deadline: Instant,
    },
    /// It is a member.
    Member(Box<Member>),
}

/// What is known of a member.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) presence: Presence,
    /// Where its mesh port may be.
    pub(crate) mesh: Vec<SocketAddr>,
    pub(crate) catch_up: CatchUp,
    /// Whether it has dialled this agent since it is a member.
    pub(crate) dialled_again: bool,
}

/// One connected peer.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Where it was seen.
    pub(crate) seen: SocketAddr,
    pub(crate) standing: Standing,
}

impl Peer {
    pub(crate) fn member(&self) -> Option<&Member> {
        match &self.standing {
            Standing::Member(member) => Some(member),
            _ => None,
        }
    }

    pub(crate) fn member_mut(&mut self) -> Option<&mut Member> {
        match &mut self.standing {
            Standing::Member(member) => Some(member),
            _ => None,
        }
    }

    /// When it is to be cut.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.standing {
            Standing::Probation { deadline, .. } | Standing::Refused { deadline } => Some(deadline),
            Standing::Member(_) => None,
        }
    }
}

/// Every connected peer.
#[derive(Debug, Default)]
pub(crate) struct Peers(BTreeMap<PeerId, Peer>);

impl Peers {
    pub(crate) fn get(&self, peer: &PeerId) -> Option<&Peer> {
        self.0.get(peer)
    }

    pub(crate) fn get_mut(&mut self, peer: &PeerId) -> Option<&mut Peer> {
        self.0.get_mut(peer)
    }

    pub(crate) fn entry_or(&mut self, peer: PeerId, fresh: Peer) -> &mut Peer {
        self.0.entry(peer).or_insert(fresh)
    }

    pub(crate) fn remove(&mut self, peer: &PeerId) -> Option<Peer> {
        self.0.remove(peer)
    }

    pub(crate) fn member(&self, peer: &PeerId) -> Option<&Member> {
        self.get(peer).and_then(Peer::member)
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = (&PeerId, &Member)> {
        self.0.iter().filter_map(|(id, peer)| Some((id, peer.member()?)))
    }

    pub(crate) fn members_mut(&mut self) -> impl Iterator<Item = (&PeerId, &mut Member)> {
        self.0.iter_mut().filter_map(|(id, peer)| Some((id, peer.member_mut()?)))
    }

    /// Peers whose time to prove themselves, or to read a refusal, is over.
    pub(crate) fn overdue(&self, now: Instant) -> impl Iterator<Item = (&PeerId, &Peer)> {
        self.0
            .iter()
            .filter(move |(_, peer)| peer.deadline().is_some_and(|deadline| deadline <= now))
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.0.values().filter_map(Peer::deadline).min()
    }

    /// One address of each other member, for somebody seen at `asker`.
    pub(crate) fn to_tell(&self, asker_id: &PeerId, asker: SocketAddr) -> Vec<SocketAddr> {
        self.members()
            .filter(|(id, _)| *id != asker_id)
            .filter_map(|(_, member)| addresses::to_tell(&member.mesh, asker))
            .take(MAX_ADDRESSES)
            .collect()
    }
}
