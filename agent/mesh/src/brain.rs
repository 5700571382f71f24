//! What the mesh does about all that happens, without a socket or a clock.
//!
//! The driver reports what happened with `handle_*`, tells the time, and carries out what
//! [`Brain::poll_action`] says. Each peer is on probation from its first connection on; whoever dials
//! proves first that it knows the mesh key, the other proves it in its answer, and until then neither
//! says anything else.

mod admission;
mod hearing;
mod meeting;
mod requests;
mod roll;
mod saying;
#[cfg(test)]
mod tests;
mod whereabouts;

use crate::{
    addresses::Observed,
    batch::Batch,
    conduct::Conduct,
    dialer::{Dial, Dialer},
    ear::Ear,
    event::Counters,
    links::Links,
    options::{Options, Timing},
    outbox::Outbox,
    peers::{Peers, Token},
    proof::Prover,
    roster::Roster,
    voice::Voice,
};
use meeting::Meeting;
use netbuild_core::{
    gossip::{Config, Gossip},
    peer::PeerId,
};
use netbuild_proto::membership::{Held, LinkReport, Presence, Request, Response};
use requests::UnderWay;
use roll::Rolls;
use saying::Saying;
use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Something for the driver to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// Dial, and report the outcome under this target.
    Dial(Dial),
    /// Send a request, and report its outcome under this number.
    Ask { peer: PeerId, number: u64, request: Request },
    /// Answer a request.
    Answer { token: Token, response: Response },
    /// Have the user of the mesh answer a question of a member.
    Exchange { token: Token, peer: PeerId, question: Vec<u8> },
    /// Leave a request without an answer.
    Ignore { token: Token },
    /// Close all connections to a peer.
    Close { peer: PeerId },
    /// Treat this peer as a member, or no longer: it is spared from limits and may ask the way.
    Favour { peer: PeerId, member: bool },
    /// Let others find this member at these addresses when they ask the way; at none if it is gone.
    Route { peer: PeerId, addresses: Vec<SocketAddr> },
    /// Ask the way to nobody in particular, to find members that nobody told of.
    Walk,
}

/// What a life of an agent begins with and cannot be known here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Birth {
    /// Microseconds since 1970 by the system's clock.
    pub(crate) started: u64,
    /// Fresh from the system's randomness.
    pub(crate) entropy: [u8; 32],
}

/// The state of the mesh as one agent sees it.
pub(crate) struct Brain {
    me: PeerId,
    presence: Presence,
    listening: Vec<SocketAddr>,
    observed: Observed,
    allowed: Option<BTreeSet<PeerId>>,
    timing: Timing,
    prover: Prover,
    voice: Voice,
    ear: Ear,
    gossip: Gossip,
    peers: Peers,
    roster: Roster,
    conduct: Conduct,
    dialer: Dialer,
    meeting: Meeting,
    rolls: Rolls,
    saying: Saying,
    batch: Batch,
    links: Links,
    outbox: Outbox,
    counters: Counters,
    actions: VecDeque<Action>,
    under_way: UnderWay,
}

impl Brain {
    pub(crate) fn new(options: &Options, birth: &Birth, now: Instant) -> Self {
        let me = options.identity.peer_id();
        let timing = options.timing.clone();
        let mut dialer = Dialer::new(timing.first_redial, timing.last_redial);
        for seed in options.seeds.iter().filter(|seed| seed.peer != Some(me)) {
            dialer.add_seed(seed.peer, &seed.addresses, now);
        }
        let mut seed = [0; 8];
        seed.copy_from_slice(&birth.entropy[..8]);
        let voice =
            Voice::new(options.identity.clone(), &options.mesh_key, birth.started, &birth.entropy);
        Self {
            me,
            presence: Presence {
                region: options.region.clone(),
                mesh_addresses: Vec::new(),
                data_port: options.data_port,
                started: birth.started,
            },
            listening: Vec::new(),
            observed: Observed::default(),
            allowed: options.allowed.clone(),
            prover: Prover::new(&options.mesh_key),
            voice,
            ear: Ear::new(&options.mesh_key),
            gossip: Gossip::new(Config::default(), u64::from_le_bytes(seed)),
            peers: Peers::default(),
            roster: Roster::default(),
            conduct: Conduct::new(timing.ban),
            dialer,
            meeting: Meeting::new(timing.walk, now),
            rolls: Rolls::default(),
            saying: Saying::new(now + timing.presence),
            batch: Batch::new(timing.batch),
            links: Links::default(),
            outbox: Outbox::default(),
            counters: Counters::default(),
            actions: VecDeque::new(),
            under_way: UnderWay::default(),
            timing,
        }
    }

    // -- getters --

    pub(crate) fn counters(&self) -> Counters {
        let gossip = self.gossip.counters();
        Counters {
            members: u64::try_from(self.roster.len()).unwrap_or(u64::MAX),
            connected: u64::try_from(self.roster.connected()).unwrap_or(u64::MAX),
            gossip_sent: gossip.messages_sent,
            gossip_sent_bytes: gossip.bytes_sent,
            gossip_received: gossip.messages_received,
            gossip_received_bytes: gossip.bytes_received,
            ..self.counters
        }
    }

    pub(crate) fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }

    pub(crate) fn outbox_mut(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Whether a peer is a member with a connection, so that it can be asked.
    pub(crate) fn can_ask(&self, peer: &PeerId) -> bool {
        self.peers.is_member(peer)
    }

    // -- what came in: commands --

    pub(crate) fn announce(&mut self, held: Vec<Held>, now: Instant) {
        let dropped = self.batch.add(held, now);
        let dropped = u64::try_from(dropped).unwrap_or(u64::MAX);
        self.counters.dropped_announcements =
            self.counters.dropped_announcements.saturating_add(dropped);
    }

    pub(crate) fn flush(&mut self, now: Instant) {
        self.batch.flush(now);
    }

    /// This agent is in another region now, which its neighbours hear soon.
    pub(crate) fn set_region(&mut self, region: String, now: Instant) {
        if self.presence.region != region {
            self.presence.region = region;
            self.say_presence_soon(now);
        }
    }

    pub(crate) fn report_links(&mut self, links: Vec<LinkReport>, urgent: bool) {
        self.links.report(links, urgent);
    }

    // -- what must go out --

    /// The next thing to do.
    pub(crate) fn poll_action(&mut self, now: Instant) -> Option<Action> {
        loop {
            if let Some(action) = self.actions.pop_front() {
                return Some(action);
            }
            if let Some(dial) = self.dialer.poll(now) {
                return Some(Action::Dial(dial));
            }
            let more = self.cut_overdue(now)
                || self.leave_silent(now)
                || self.meet(now)
                || self.speak(now)
                || self.pass_on(now);
            if !more {
                return None;
            }
        }
    }

    /// When to poll again if nothing happens before.
    pub(crate) fn next_timeout(&self, now: Instant) -> Instant {
        [
            self.peers.next_deadline(),
            self.dialer.next_timeout(),
            self.batch.next_timeout(),
            self.links.next_timeout(self.links_interval(), now),
            self.gossip.next_timeout(),
            self.meeting.next_timeout(),
        ]
        .into_iter()
        .flatten()
        .fold(self.saying.next_timeout(), Instant::min)
    }

    /// Hands the next message of gossip to the driver; `false` if there is none.
    fn pass_on(&mut self, now: Instant) -> bool {
        let Some((peer, message)) = self.gossip.poll_message(now) else {
            return false;
        };
        match netbuild_proto::gossip::encode(&message) {
            Some(bytes) => self.ask_about_gossip(peer, bytes),
            // No message of our own is beyond its bounds.
            None => self.gossip.handle_unsent(&peer, now),
        }
        true
    }

    /// How often an agent says that it is here: the more members, the more rarely, so that presences
    /// cost each of them the same.
    fn presence_interval(&self) -> Duration {
        scaled(self.timing.presence, PRESENCE_PER_MEMBER, self.roster.len())
    }

    fn links_interval(&self) -> Duration {
        scaled(self.timing.links, LINKS_PER_MEMBER, self.roster.len())
    }
}

/// What one more member adds to the interval of presences: ten presences in a second, whatever the
/// size of the mesh, some two kilobytes.
const PRESENCE_PER_MEMBER: Duration = Duration::from_millis(100);
/// What one more member adds to the interval of link reports: five in a second, which are longer.
const LINKS_PER_MEMBER: Duration = Duration::from_millis(200);

fn scaled(least: Duration, per_member: Duration, members: usize) -> Duration {
    least.max(per_member.saturating_mul(u32::try_from(members).unwrap_or(u32::MAX)))
}
