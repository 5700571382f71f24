//! The peers that are connected, and how far each has come: on probation, refused, or a member.

use netbuild_core::peer::PeerId;
use netbuild_proto::membership::Request;
use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::Instant,
};

/// Requests of one peer that wait for its admission: a few messages of gossip and the first questions.
pub(crate) const MAX_EARLY: usize = 4;

/// Names one request of a peer until it is answered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Token(pub(crate) u64);

/// How far a peer has come.
#[derive(Debug)]
pub(crate) enum Standing {
    /// It has not proved yet that it knows the mesh key.
    Probation {
        /// When it is cut.
        deadline: Instant,
        /// Number of the question that this agent asked it, if it dialled.
        asked: Option<u64>,
        /// The peer may have admitted this agent while the answer is still on its way, and say more;
        /// a little waits for that answer, at most [`MAX_EARLY`].
        early: VecDeque<(Token, Request)>,
    },
    /// It failed; it is cut as soon as it had time to read why.
    Refused {
        /// When it is cut.
        deadline: Instant,
    },
    /// It is a member.
    Member(Member),
}

/// What is known of a connected member beside what the roster says.
#[derive(Debug)]
pub(crate) struct Member {
    /// Since when it is one.
    pub(crate) since: Instant,
    /// It closes its connection soon, or this agent does, and both go on living.
    pub(crate) parting: Option<Instant>,
    /// Pages of the roll that it was given.
    pub(crate) pages: u32,
    /// Offences that gossip has counted and this agent has charged.
    pub(crate) charged: u32,
}

impl Member {
    pub(crate) fn new(since: Instant) -> Self {
        Self { since, parting: None, pages: 0, charged: 0 }
    }
}

/// One connected peer.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Where it was seen.
    pub(crate) seen: SocketAddr,
    /// Whether this agent made the connection.
    pub(crate) dialled: bool,
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
        match &self.standing {
            Standing::Probation { deadline, .. } | Standing::Refused { deadline } => {
                Some(*deadline)
            }
            Standing::Member(member) => member.parting,
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

    pub(crate) fn is_member(&self, peer: &PeerId) -> bool {
        self.get(peer).and_then(Peer::member).is_some()
    }

    pub(crate) fn member_mut(&mut self, peer: &PeerId) -> Option<&mut Member> {
        self.get_mut(peer).and_then(Peer::member_mut)
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = (&PeerId, &Peer, &Member)> {
        self.0.iter().filter_map(|(id, peer)| Some((id, peer, peer.member()?)))
    }

    /// Members whose connection they made themselves.
    pub(crate) fn inbound(&self) -> usize {
        self.members().filter(|(_, peer, _)| !peer.dialled).count()
    }

    /// The next peer whose time to prove itself, to read a refusal, or to part is over.
    pub(crate) fn overdue(&self, now: Instant) -> Option<(PeerId, &Peer)> {
        self.0
            .iter()
            .find(|(_, peer)| peer.deadline().is_some_and(|deadline| deadline <= now))
            .map(|(id, peer)| (*id, peer))
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.0.values().filter_map(Peer::deadline).min()
    }
}
