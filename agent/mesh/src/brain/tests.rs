//! Stories of one agent among peers that are played by the test.

mod belonging;
mod gossiping;
mod strangers;

use super::{admission::REFUSAL_LINGER, *};
use crate::{
    conduct::MOST_OFFENCES, dialer::Target, event::Event, options::Exchange, roster::Signed,
    seed::Seed, voice::Voice,
};
use netbuild_core::{
    gossip::{Body, Message},
    hlc::Hlc,
    key::ActionKey,
    neighbourhood::MAX_INBOUND,
    peer::Identity,
};
use netbuild_proto::{
    gossip,
    membership::{Announcement, MAX_HELD},
    ticket::MeshKey,
};
use proptest::prelude::*;
use std::sync::Arc;

const KEY: MeshKey = MeshKey([7; 32]);
const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Silent;

impl Exchange for Silent {
    fn answer(&self, _: &PeerId, _: Vec<u8>) -> Option<Vec<u8>> {
        None
    }
}

fn brain(now: Instant) -> Brain {
    let options = Options {
        identity: identity(1),
        mesh_key: KEY,
        listen: address(1),
        announce: None,
        allowed: None,
        region: String::new(),
        data_port: 1,
        seeds: vec![Seed { peer: None, addresses: vec![address(2)] }],
        mdns: false,
        exchange: Arc::new(Silent),
        timing: Timing::default(),
    };
    Brain::new(&options, &Birth { started: 1000, entropy: [5; 32] }, now)
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}

fn identity(n: u8) -> Identity {
    Identity::from_seed(&[n; 32])
}

fn peer(n: u8) -> PeerId {
    identity(n).peer_id()
}

fn presence(data_port: u16) -> Presence {
    Presence { region: "r".into(), mesh_addresses: Vec::new(), data_port, started: 1000 }
}

/// One whose members are at this port.
fn presence_at(port: u16) -> Presence {
    Presence { mesh_addresses: vec![address(port)], ..presence(9) }
}

fn admit_as(brain: &Brain, id: PeerId, presence: Presence) -> Request {
    let proof = Prover::new(&KEY).prove(&id, &brain.me);
    let roll = brain.digest_for(&id);
    Request::Admit { proof, presence, seen: address(1), roll, heard: 0 }
}

fn admit(brain: &Brain, id: PeerId) -> Request {
    admit_as(brain, id, presence(9))
}

fn admitted(brain: &Brain, id: PeerId, members: Vec<SocketAddr>) -> Response {
    Response::Admitted {
        proof: Prover::new(&KEY).prove(&id, &brain.me),
        presence: presence(9),
        seen: address(1),
        roll: brain.digest_for(&id),
        heard: 0,
        members,
    }
}

fn actions(brain: &mut Brain, now: Instant) -> Vec<Action> {
    std::iter::from_fn(|| brain.poll_action(now)).collect()
}

fn events(brain: &mut Brain) -> Vec<Event> {
    std::iter::from_fn(|| brain.outbox_mut().pop()).collect()
}

fn held(count: usize) -> Vec<Held> {
    let one = |n: usize| Held {
        key: ActionKey(*blake3::hash(&n.to_be_bytes()).as_bytes()),
        hlc: Hlc(1),
        sum: 2,
        build_ms: 3,
        bytes: 4,
    };
    (0..count).map(one).collect()
}

/// Lets a peer in that dialled, and forgets what was done about it.
fn let_in(brain: &mut Brain, id: PeerId, now: Instant) {
    brain.handle_connected(id, address(u16::from(id.0[0]) + 1000), false, None, now);
    let request = admit(brain, id);
    brain.handle_request(id, Token(u64::from(id.0[0])), request, now);
    assert!(brain.can_ask(&id));
    actions(brain, now);
    events(brain);
}

/// The voice of a member.
fn voice(n: u8) -> Voice {
    Voice::new(identity(n), &KEY, 1000, &[n; 32])
}

fn rumour(voice: &mut Voice, announcement: &Announcement) -> Body {
    voice.say(announcement).map(|said| said.body).unwrap()
}

/// Rumours as one message of gossip.
fn carried(rumours: Vec<Body>) -> Request {
    let message = Message { rumours, ..Message::default() };
    Request::Gossip(gossip::encode(&message).unwrap())
}

fn hear(brain: &mut Brain, via: PeerId, rumours: Vec<Body>, now: Instant) {
    brain.handle_request(via, Token(99), carried(rumours), now);
}

/// What is said to a peer in a message of gossip among these actions.
fn said(done: &[Action]) -> Vec<Announcement> {
    let mut ear = Ear::new(&KEY);
    done.iter()
        .filter_map(|action| match action {
            Action::Ask { request: Request::Gossip(bytes), .. } => gossip::decode(bytes).ok(),
            _ => None,
        })
        .flat_map(|message| message.rumours)
        .filter_map(|body| Some(ear.hear(&body).ok()?.announcement))
        .collect()
}

/// All that is done until then, whatever it takes.
fn let_pass(brain: &mut Brain, from: Instant, until: Instant) -> Vec<Action> {
    let mut now = from;
    let mut done = actions(brain, now);
    while brain.next_timeout(now) <= until {
        now = brain.next_timeout(now).max(now);
        for action in actions(brain, now) {
            if let Action::Ask { peer, number, request: Request::Gossip(_) } = &action {
                brain.handle_response(*peer, *number, Response::Taken, now);
            }
            if let Action::Dial(dial) = &action {
                brain.handle_dial_failed(&dial.target, now);
            }
            done.push(action);
        }
    }
    done
}
