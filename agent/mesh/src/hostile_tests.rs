//! Peers that speak libp2p but do not play by the rules, over real sockets.

use crate::{
    Catalog, Event, Mesh, Options, Seed, Timing,
    behaviour::{self, Behaviour, BehaviourEvent},
    border,
    proof::Prover,
    seal::{NONCE, Seal},
};
use futures::StreamExt as _;
use libp2p::{
    Swarm, gossipsub,
    request_response::{self, Message},
    swarm::{SwarmEvent, dial_opts::DialOpts},
};
use netbuild_core::{
    hlc::Hlc,
    key::ActionKey,
    peer::{Identity, PeerId},
};
use netbuild_proto::{
    membership::{Announcement, Held, Presence, Request, Response},
    ticket::MeshKey,
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::sync::mpsc;

const KEY: MeshKey = MeshKey([7; 32]);
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct OneRecord;

const RECORD: Held = Held { key: ActionKey([1; 32]), hlc: Hlc(1) };

impl Catalog for OneRecord {
    fn held_after(&self, after: Option<&ActionKey>, _: usize) -> Vec<Held> {
        after.is_none().then_some(RECORD).into_iter().collect()
    }
}

fn options(seed: u8, seeds: Vec<Seed>) -> Options {
    Options {
        identity: Identity::from_seed(&[seed; 32]),
        mesh_key: KEY,
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        allowed: None,
        region: String::new(),
        data_port: 1,
        seeds,
        catalog: Arc::new(OneRecord),
        timing: Timing {
            admission: Duration::from_millis(1500),
            heartbeat: Duration::from_millis(100),
            batch: Duration::from_millis(10),
            ..Timing::default()
        },
    }
}

fn id(seed: u8) -> PeerId {
    Identity::from_seed(&[seed; 32]).peer_id()
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

async fn next(events: &mut mpsc::Receiver<Event>) -> Event {
    tokio::time::timeout(DEADLINE, events.recv()).await.unwrap().unwrap()
}

#[tokio::test]
async fn whoever_does_not_ask_to_be_admitted_learns_nothing_and_is_cut() {
    let (mesh, mut events) = Mesh::start(options(1, Vec::new())).await.unwrap();
    let (member, _member_events) = {
        let addresses = mesh.addresses();
        let seeds = vec![Seed { peer: None, addresses }];
        Mesh::start(options(2, seeds)).await.unwrap()
    };
    let mut stranger = connect(&mesh, 3).await;
    let victim = border::to_libp2p(&id(1)).unwrap();
    let page = Request::Held { after: None };
    stranger.behaviour_mut().requests.send_request(&victim, page);
    member.announce(vec![RECORD]);
    let seal = Seal::new(&MeshKey([8; 32]));
    wait(&mut stranger, |event| match event {
        SwarmEvent::ConnectionClosed { .. } => Some(()),
        SwarmEvent::Behaviour(BehaviourEvent::Gossip(gossipsub::Event::Message {
            message,
            ..
        })) => {
            // It may be handed what goes around, but cannot read it.
            let sender = message.source.as_ref().and_then(border::from_libp2p).unwrap();
            assert_eq!(seal.open(&sender, &message.data), None);
            assert_eq!(Announcement::decode(&message.data).ok(), None);
            None
        }
        other => {
            assert_eq!(response(other), None);
            None
        }
    })
    .await;
    assert_eq!(mesh.counters().refused_admissions, 1);
    while let Ok(event) = events.try_recv() {
        let stranger = id(3);
        assert!(!matches!(event, Event::Joined { peer, .. } if peer == stranger));
    }
}

#[tokio::test]
async fn a_member_cannot_speak_for_another() {
    let (mesh, mut events) = Mesh::start(options(1, Vec::new())).await.unwrap();
    let mut forger = connect(&mesh, 3).await;
    let victim = border::to_libp2p(&id(1)).unwrap();
    let admit = Request::Admit {
        proof: Prover::new(&KEY).prove(&id(3), &id(1)),
        presence: Presence { region: String::new(), mesh_addresses: Vec::new(), data_port: 1 },
    };
    forger.behaviour_mut().requests.send_request(&victim, admit);
    let answer = wait(&mut forger, response).await;
    assert!(matches!(answer, Response::Admitted { .. }), "{answer:?}");

    let seal = Seal::new(&KEY);
    let news = Announcement::Held(vec![RECORD]).encode();
    let messages = [
        seal.seal(&id(2), [1; NONCE], &news).unwrap(),
        Seal::new(&MeshKey([8; 32])).seal(&id(3), [2; NONCE], &news).unwrap(),
        seal.seal(&id(3), [3; NONCE], b"no announcement").unwrap(),
        news.clone(),
        seal.seal(&id(3), [4; NONCE], &news).unwrap(),
    ];
    for message in messages {
        while forger.behaviour_mut().gossip.publish(behaviour::topic(), message.clone()).is_err() {
            // Until the victim's subscription has arrived.
            wait(&mut forger, |_| Some(())).await;
        }
    }
    let heard = async {
        loop {
            if let Event::Held { peer, held } = next(&mut events).await {
                return (peer, held);
            }
        }
    };
    let heard = tokio::select! {
        heard = heard => heard,
        () = async { loop { forger.select_next_some().await; } } => unreachable!(),
    };
    assert_eq!(heard, (id(3), vec![RECORD]));
    assert_eq!(mesh.counters().rejected_gossip, 4);
    assert_eq!(mesh.counters().members, 1);
}
