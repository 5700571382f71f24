//! What peers ask and answer, handed to whom it concerns.

use super::{Action, Brain, admission::Told};
use crate::{
    ear::Fault,
    peers::{MAX_EARLY, Standing, Token},
};
use netbuild_core::{
    gossip::{Config, Verdict},
    peer::PeerId,
};
use netbuild_proto::{
    gossip,
    membership::{Request, Response},
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// How long a member that takes leave has to close its connection.
const PARTING: Duration = Duration::from_secs(5);

/// Questions of this agent that have no answer yet, by number. The driver reports an outcome for each.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    last: u64,
    purposes: BTreeMap<u64, Purpose>,
}

/// Why a question was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    /// To be admitted.
    Admission,
    /// To pass on gossip.
    Gossip,
    /// To learn of members.
    Roll,
    /// To take leave.
    Part,
}

impl UnderWay {
    fn begin(&mut self, purpose: Purpose) -> u64 {
        self.last += 1;
        self.purposes.insert(self.last, purpose);
        self.last
    }

    fn end(&mut self, number: u64) -> Option<Purpose> {
        self.purposes.remove(&number)
    }
}

impl Brain {
    /// Whether nothing that this agent said is under way or about to leave.
    pub(crate) fn is_quiet(&self, now: Instant) -> bool {
        let pace = Config::default().pace;
        self.under_way.purposes.is_empty()
            && self.gossip.next_timeout().is_none_or(|due| due > now + pace)
    }

    pub(super) fn ask_about_admission(&mut self, peer: PeerId, request: Request) -> u64 {
        self.ask(peer, Purpose::Admission, request)
    }

    pub(super) fn ask_about_gossip(&mut self, peer: PeerId, bytes: Vec<u8>) {
        self.ask(peer, Purpose::Gossip, Request::Gossip(bytes));
    }

    pub(super) fn ask_about_roll(&mut self, peer: PeerId, after: Option<PeerId>) -> u64 {
        self.ask(peer, Purpose::Roll, Request::Roll { after })
    }

    pub(super) fn ask_to_part(&mut self, peer: PeerId) {
        self.ask(peer, Purpose::Part, Request::Part);
    }

    fn ask(&mut self, peer: PeerId, purpose: Purpose, request: Request) -> u64 {
        let number = self.under_way.begin(purpose);
        self.actions.push_back(Action::Ask { peer, number, request });
        number
    }

    pub(crate) fn handle_request(
        &mut self,
        id: PeerId,
        token: Token,
        request: Request,
        now: Instant,
    ) {
        if let Request::Admit { proof, presence, seen, roll, heard } = request {
            self.handle_admit(id, token, &proof, presence, Told { seen, roll, heard }, now);
            return;
        }
        match self.peers.get_mut(&id).map(|peer| &mut peer.standing) {
            Some(Standing::Member(_)) => self.handle_members_request(id, token, request, now),
            Some(Standing::Probation { asked: Some(_), early, .. }) if early.len() < MAX_EARLY => {
                early.push_back((token, request));
            }
            _ => self.actions.push_back(Action::Ignore { token }),
        }
    }

    fn handle_members_request(&mut self, id: PeerId, token: Token, request: Request, now: Instant) {
        let response = match request {
            Request::Gossip(bytes) => {
                self.handle_gossip(id, &bytes, now);
                Some(Response::Taken)
            }
            Request::Exchange(question) => {
                self.actions.push_back(Action::Exchange { token, peer: id, question });
                return;
            }
            Request::Roll { after } => self.page_of_roll(&id, after, now),
            Request::Part => {
                if let Some(member) = self.peers.member_mut(&id) {
                    member.parting.get_or_insert(now + PARTING);
                }
                Some(Response::Taken)
            }
            Request::Admit { .. } => None,
        };
        self.actions.push_back(match response {
            Some(response) => Action::Answer { token, response },
            None => Action::Ignore { token },
        });
    }

    /// The answer to the request of this number.
    pub(crate) fn handle_response(
        &mut self,
        id: PeerId,
        number: u64,
        response: Response,
        now: Instant,
    ) {
        match (self.under_way.end(number), response) {
            (Some(Purpose::Admission), response) => {
                self.handle_admission_answer(id, number, response, now);
            }
            (Some(Purpose::Gossip), Response::Taken) => self.gossip.handle_sent(&id, now),
            (Some(Purpose::Roll), Response::Roll(page)) => {
                self.handle_roll(id, number, page, now);
            }
            (Some(Purpose::Part), _) => self.actions.push_back(Action::Close { peer: id }),
            (Some(purpose), _) => {
                self.offend(id, 1, now);
                self.handle_failure(purpose, &id, number, now);
            }
            (None, _) => {}
        }
    }

    /// The request of this number gets no answer.
    pub(crate) fn handle_unanswered(&mut self, id: &PeerId, number: u64, now: Instant) {
        if let Some(purpose) = self.under_way.end(number) {
            self.handle_failure(purpose, id, number, now);
        }
    }

    fn handle_failure(&mut self, purpose: Purpose, id: &PeerId, number: u64, now: Instant) {
        match purpose {
            Purpose::Admission if self.is_asked(id, number) => self.cut(id, now),
            Purpose::Admission => {}
            Purpose::Gossip => self.gossip.handle_unsent(id, now),
            Purpose::Roll => self.handle_no_roll(number),
            Purpose::Part => self.actions.push_back(Action::Close { peer: *id }),
        }
    }

    /// A peer sent what cannot be read as a request or an answer.
    pub(crate) fn handle_broken(&mut self, id: &PeerId, now: Instant) {
        self.counters.rejected_messages += 1;
        self.offend(*id, 1, now);
    }

    /// Reads a message of gossip, and charges the sender for what is wrong with it.
    fn handle_gossip(&mut self, from: PeerId, bytes: &[u8], now: Instant) {
        let Ok(message) = gossip::decode(bytes) else {
            tracing::debug!(peer = %from, "a message of gossip that cannot be read");
            self.counters.rejected_gossip += 1;
            self.offend(from, 1, now);
            return;
        };
        let flooded = self.gossip.counters().flooded;
        let (mut heard, mut old) = (Vec::new(), 0);
        let (ear, counters) = (&mut self.ear, &mut self.counters);
        let mut judge = |body: &_| match ear.hear(body) {
            Ok(rumour) => {
                heard.push(rumour);
                Verdict::Accept
            }
            Err(fault) => {
                tracing::debug!(peer = %from, ?fault, "a rumour was not taken");
                match fault {
                    Fault::Forged => {
                        counters.rejected_gossip += 1;
                        return Verdict::Reject;
                    }
                    Fault::Heard => {}
                    Fault::Old => old += 1,
                }
                counters.replayed_gossip += 1;
                Verdict::Ignore
            }
        };
        self.gossip.handle_message(from, message, &mut judge, now);
        for rumour in heard {
            self.handle_rumour(&from, rumour, now);
        }
        let flooded = self.gossip.counters().flooded - flooded;
        let offences = self.gossip.offences(&from);
        let charged = self
            .peers
            .member_mut(&from)
            .map_or(offences, |member| std::mem::replace(&mut member.charged, offences));
        let flooded = u32::try_from(flooded).unwrap_or(u32::MAX);
        let charge = offences.saturating_sub(charged).saturating_add(old).saturating_add(flooded);
        self.offend(from, charge, now);
    }

    /// Charges a peer with offences; when there are too many it is cut and stays outside for a while.
    pub(super) fn offend(&mut self, id: PeerId, offences: u32, now: Instant) {
        if offences == 0 {
            return;
        }
        if let Some(until) = self.conduct.offend(id, offences, now) {
            tracing::warn!(peer = %id, "a peer broke the rules too often and is shut out");
            self.counters.banned += 1;
            self.dialer.suspend(&id, until);
            self.cut(&id, now);
        }
    }
}
