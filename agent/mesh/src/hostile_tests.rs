//! Peers that speak libp2p but do not play by the rules, over real sockets.

use crate::{
    Event, Exchange, Mesh, Options, Seed, Timing,
    behaviour::{self, Behaviour, BehaviourEvent},
    border,
    conduct::MOST_OFFENCES,
    proof::Prover,
    voice::Voice,
};
use futures::StreamExt as _;
use libp2p::{
    Swarm,
    request_response::{self, Message},
    swarm::{SwarmEvent, dial_opts::DialOpts},
};
use netbuild_core::{
    gossip::{self, Body},
    hlc::Hlc,
    key::ActionKey,
    peer::{Identity, PeerId},
};
use netbuild_proto::{
    membership::{Announcement, Held, MAX_EXCHANGE, Presence, Request, Response},
    ticket::MeshKey,
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::sync::mpsc;

const KEY: MeshKey = MeshKey([7; 32]);
const DEADLINE: Duration = Duration::from_secs(60);
const RECORD: Held = Held { key: ActionKey([1; 32]), hlc: Hlc(1), sum: 2, build_ms: 3, bytes: 4 };

/// Answers every question with a secret.
#[derive(Debug)]
struct Teller;

impl Exchange for Teller {
    fn answer(&self, _: &PeerId, _: Vec<u8>) -> Option<Vec<u8>> {
        Some(b"secret".to_vec())
    }
}

fn options(seed: u8, seeds: Vec<Seed>) -> Options {
    Options {
        identity: Identity::from_seed(&[seed; 32]),
        mesh_key: KEY,
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        announce: None,
        allowed: None,
        region: String::new(),
        data_port: 1,
        seeds,
        mdns: false,
        exchange: Arc::new(Teller),
        timing: Timing {
            admission: Duration::from_millis(1500),
            batch: Duration::from_millis(10),
            walk: Duration::from_millis(100),
            ..Timing::default()
        },
    }
}

fn id(seed: u8) -> PeerId {
    Identity::from_seed(&[seed; 32]).peer_id()
}

/// The victim, and an honest member that it knows.
async fn mesh() -> ([Mesh; 2], mpsc::Receiver<Event>) {
    let (victim, mut events) = Mesh::start(options(1, Vec::new())).await.unwrap();
    let seeds = vec![Seed { peer: None, addresses: victim.addresses() }];
    let (member, _) = Mesh::start(options(2, seeds)).await.unwrap();
    while !matches!(next(&mut events).await, Event::Joined { peer, .. } if peer == id(2)) {}
    ([victim, member], events)
}

/// A swarm with all the protocols and nobody who decides, connected to `mesh`.
async fn connect(mesh: &Mesh, seed: u8) -> Swarm<Behaviour> {
    let mut swarm = behaviour::swarm(&options(seed, Vec::new())).unwrap();
    let victim = DialOpts::peer_id(border::to_libp2p(&id(1)).unwrap())
        .addresses(mesh.addresses().into_iter().map(border::to_multiaddr).collect())
        .build();
    swarm.dial(victim).unwrap();
    wait(&mut swarm, |event| {
        matches!(event, SwarmEvent::ConnectionEstablished { .. }).then_some(())
    })
    .await;
    swarm
}

/// The same, admitted as a member.
async fn join(mesh: &Mesh, seed: u8) -> Swarm<Behaviour> {
    let mut swarm = connect(mesh, seed).await;
    let presence =
        Presence { region: String::new(), mesh_addresses: Vec::new(), data_port: 1, started: 1000 };
    let seen = SocketAddr::from(([127, 0, 0, 1], 1));
    let proof = Prover::new(&KEY).prove(&id(seed), &id(1));
    ask(&mut swarm, Request::Admit { proof, presence, seen, roll: 0, heard: 0 });
    let answer = wait(&mut swarm, response).await;
    assert!(matches!(answer, Response::Admitted { .. }), "{answer:?}");
    swarm
}

fn ask(swarm: &mut Swarm<Behaviour>, request: Request) {
    let victim = border::to_libp2p(&id(1)).unwrap();
    swarm.behaviour_mut().requests.send_request(&victim, Ok(request));
}

fn say(swarm: &mut Swarm<Behaviour>, rumours: Vec<Body>) {
    let message = gossip::Message { rumours, ..gossip::Message::default() };
    ask(swarm, Request::Gossip(netbuild_proto::gossip::encode(&message).unwrap()));
}

async fn wait<T>(
    swarm: &mut Swarm<Behaviour>,
    mut answer: impl FnMut(SwarmEvent<BehaviourEvent>) -> Option<T>,
) -> T {
    let found = async {
        loop {
            if let Some(found) = answer(swarm.select_next_some().await) {
                return found;
            }
        }
    };
    tokio::time::timeout(DEADLINE, found).await.unwrap()
}

fn response(event: SwarmEvent<BehaviourEvent>) -> Option<Response> {
    match event {
        SwarmEvent::Behaviour(BehaviourEvent::Requests(request_response::Event::Message {
            message: Message::Response { response, .. },
            ..
        })) => Some(response),
        _ => None,
    }
}

fn closed(event: SwarmEvent<BehaviourEvent>) -> Option<()> {
    matches!(event, SwarmEvent::ConnectionClosed { .. }).then_some(())
}

async fn next(events: &mut mpsc::Receiver<Event>) -> Event {
    tokio::time::timeout(DEADLINE, events.recv()).await.unwrap().unwrap()
}

/// The next records that the victim hears of, while the hostile swarm goes on.
async fn next_held(
    events: &mut mpsc::Receiver<Event>,
    swarm: &mut Swarm<Behaviour>,
) -> (PeerId, Vec<Held>) {
    let heard = async {
        loop {
            if let Event::Held { peer, held } = next(events).await {
                return (peer, held);
            }
        }
    };
    tokio::select! {
        heard = heard => heard,
        () = async { loop { swarm.select_next_some().await; } } => unreachable!(),
    }
}

#[tokio::test]
async fn whoever_does_not_ask_to_be_admitted_learns_nothing_and_is_cut() {
    let ([victim, member], mut events) = mesh().await;
    let mut stranger = connect(&victim, 3).await;
    for request in [Request::Roll { after: None }, Request::Exchange(vec![1]), Request::Part] {
        ask(&mut stranger, request);
    }
    // It knows the mesh well enough to ask the way, and is not told.
    let to = border::to_libp2p(&id(1)).unwrap();
    let router = &mut stranger.behaviour_mut().router;
    router.route(&to, victim.addresses().into_iter().map(border::to_multiaddr));
    router.walk(vec![1; 32]);
    member.announce(vec![RECORD]);
    wait(&mut stranger, |event| match event {
        SwarmEvent::ConnectionClosed { .. } => Some(()),
        SwarmEvent::Behaviour(BehaviourEvent::Router(found)) => panic!("was told of {found:?}"),
        SwarmEvent::Behaviour(BehaviourEvent::Requests(request_response::Event::Message {
            ..
        })) => panic!("was asked or answered"),
        _ => None,
    })
    .await;
    assert_eq!(victim.counters().refused_admissions, 1);
    while let Ok(event) = events.try_recv() {
        let stranger = id(3);
        assert!(!matches!(event, Event::Joined { peer, .. } if peer == stranger));
    }
}

#[tokio::test]
async fn a_member_is_told_the_way() {
    let ([victim, _member], _events) = mesh().await;
    let mut third = join(&victim, 3).await;
    let to = border::to_libp2p(&id(1)).unwrap();
    let router = &mut third.behaviour_mut().router;
    router.route(&to, victim.addresses().into_iter().map(border::to_multiaddr));
    router.walk(vec![1; 32]);
    let found = wait(&mut third, |event| match event {
        SwarmEvent::Behaviour(BehaviourEvent::Router(found)) => Some(found.peer),
        _ => None,
    });
    assert_eq!(found.await, border::to_libp2p(&id(2)).unwrap());
}

#[tokio::test]
async fn a_member_cannot_speak_for_another() {
    let ([victim, _member], mut events) = mesh().await;
    let mut forger = join(&victim, 3).await;
    let news = Announcement::Held(vec![RECORD]);
    let voice = |seed: u8, key| Voice::new(Identity::from_seed(&[seed; 32]), key, 1000, &[9; 32]);
    let mut own = voice(3, &KEY);
    let honest: Body = own.say(&news).unwrap().body;
    let mut stolen = honest.to_vec();
    stolen[..32].copy_from_slice(&id(2).0);
    let unsealed = voice(3, &MeshKey([8; 32])).say(&news).unwrap().body;
    let mut changed = honest.to_vec();
    changed[50] ^= 1;
    let mut unsigned = honest.to_vec();
    let end = unsigned.len();
    unsigned[end - 64..].fill(0);
    let forged: Vec<Body> = vec![stolen.into(), unsealed, changed.into(), unsigned.into()];
    say(&mut forger, forged);
    say(&mut forger, vec![honest]);
    let heard = next_held(&mut events, &mut forger).await;
    assert_eq!(heard, (id(3), vec![RECORD]));
    assert_eq!(victim.counters().rejected_gossip, 4);
    assert_eq!(victim.counters().connected, 2);
}

#[tokio::test]
async fn a_member_that_goes_on_lying_is_shut_out_and_the_others_are_heard() {
    let ([victim, member], mut events) = mesh().await;
    let mut liar = join(&victim, 3).await;
    for n in 0..2 * MOST_OFFENCES {
        let body = [&id(2).0[..], &n.to_be_bytes(), &[0; 200]].concat();
        say(&mut liar, vec![body.into()]);
        if n % 4 == 3 {
            let _ = wait(&mut liar, |_| Some(())).await;
        }
    }
    wait(&mut liar, closed).await;
    assert_eq!(victim.counters().banned, 1);
    // It is not let in again, and an honest member is heard as before.
    let mut again = connect(&victim, 3).await;
    wait(&mut again, closed).await;
    member.announce(vec![RECORD]);
    let heard = next_held(&mut events, &mut again).await;
    assert_eq!(heard, (id(2), vec![RECORD]));
}

#[tokio::test]
async fn a_message_that_is_too_long_is_not_read_and_harms_nobody() {
    let ([victim, member], mut events) = mesh().await;
    let mut hostile = join(&victim, 3).await;
    ask(&mut hostile, Request::Exchange(vec![0; MAX_EXCHANGE + 1]));
    ask(&mut hostile, Request::Gossip(vec![0xff; MAX_EXCHANGE]));
    wait(&mut hostile, |event| match event {
        SwarmEvent::Behaviour(BehaviourEvent::Requests(
            request_response::Event::OutboundFailure { .. },
        )) => Some(()),
        _ => None,
    })
    .await;
    ask(&mut hostile, Request::Exchange(vec![1]));
    let answered = |event| match response(event) {
        Some(Response::Exchange(answer)) => Some(answer),
        _ => None,
    };
    assert_eq!(wait(&mut hostile, answered).await, b"secret");
    assert_eq!(victim.counters().rejected_messages, 1);
    assert_eq!(victim.counters().rejected_gossip, 1);
    member.announce(vec![RECORD]);
    assert_eq!(next_held(&mut events, &mut hostile).await.0, id(2));
}

#[tokio::test]
async fn what_a_member_repeats_is_heard_once_and_harms_nobody() {
    let ([victim, member], mut events) = mesh().await;
    let mut echo = join(&victim, 3).await;
    let mut voice = Voice::new(Identity::from_seed(&[3; 32]), &KEY, 1000, &[9; 32]);
    let mut said = |n: u64| -> Body {
        let held = vec![Held { sum: n, ..RECORD }; 2];
        voice.say(&Announcement::Held(held)).unwrap().body
    };
    let [first, second] = [said(1), said(2)];
    for _ in 0..8 {
        say(&mut echo, vec![Body::clone(&first)]);
        wait(&mut echo, response).await;
    }
    say(&mut echo, vec![second]);
    for sum in [1, 2] {
        let heard = next_held(&mut events, &mut echo).await;
        assert_eq!(heard, (id(3), vec![Held { sum, ..RECORD }; 2]));
    }
    // To repeat is no offence: it happens where two ways meet.
    assert_eq!((victim.counters().banned, victim.counters().connected), (0, 2));
    member.announce(vec![RECORD]);
    assert_eq!(next_held(&mut events, &mut echo).await, (id(2), vec![RECORD]));
}
