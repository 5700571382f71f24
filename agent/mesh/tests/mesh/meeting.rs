//! Members meet, part and meet again by themselves.

use crate::support::{Agent, DEADLINE, id, options, records, seed, timing};
use netbuild_mesh::{Event, Mesh, Options, Seed, StartError, Timing};
use std::{io, net::UdpSocket};
use tokio::runtime::{Builder, Runtime};

#[tokio::test]
async fn whoever_knows_one_member_meets_all() {
    let mut a = Agent::start(options(1)).await;
    let mut b = Agent::start(Options { seeds: vec![seed(&a)], ..options(2) }).await;
    b.joined(id(1)).await;
    a.joined(id(2)).await;
    let mut c = Agent::start(Options { seeds: vec![seed(&a)], ..options(3) }).await;
    b.joined(id(3)).await;
    c.wait({
        let mut missing = vec![id(1), id(2)];
        move |event| {
            if let Event::Joined { peer, .. } = event {
                missing.retain(|id| *id != peer);
            }
            missing.is_empty().then_some(())
        }
    })
    .await;
    c.mesh.announce(records(0, 7));
    b.holds(id(3), 7).await;
    a.holds(id(3), 7).await;
    assert_eq!(b.mesh.counters().members, 2);
}

#[tokio::test]
async fn a_member_that_ends_has_left() {
    let mut a = Agent::start(options(1)).await;
    let b = Agent::start(Options { seeds: vec![seed(&a)], ..options(2) }).await;
    a.joined(id(2)).await;
    b.mesh.shutdown().await;
    a.left(id(2)).await;
    b.mesh.shutdown().await;
    b.mesh.announce(records(0, 1));
    b.mesh.flush().await;
}

/// An agent in a runtime of its own, which can be killed: its tasks and sockets go without a word.
fn killable(options: Options) -> (Runtime, Agent) {
    let runtime =
        Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");
    let agent = runtime.block_on(Agent::start(options));
    (runtime, agent)
}

#[test]
fn an_agent_that_is_killed_and_starts_anew_on_its_port_joins_again_by_itself() {
    let (runtime, mut a) = killable(options(1));
    let address = a.mesh.addresses()[0];
    let (others, mut b) = killable(Options { seeds: vec![seed(&a)], ..options(2) });
    others.block_on(b.joined(id(1)));
    others.block_on(a.joined(id(2)));
    runtime.shutdown_timeout(DEADLINE);
    drop(a);

    let (_runtime, mut again) =
        killable(Options { listen: address, data_port: 4000, ..options(1) });
    others.block_on(async {
        let at_new_port = b.wait(|event| match event {
            Event::Joined { addresses, .. } | Event::Updated { addresses, .. } => {
                addresses.iter().any(|address| address.port() == 4000).then_some(())
            }
            _ => None,
        });
        at_new_port.await;
        again.joined(id(2)).await;
        again.mesh.announce(records(0, 3));
        b.holds(id(1), 3).await;
    });
}

#[test]
fn an_agent_that_starts_anew_before_it_is_missed_is_heard_and_hears() {
    let (runtime, mut a) = killable(options(1));
    let address = a.mesh.addresses()[0];
    let idle = DEADLINE;
    let patient = |own| Options { timing: Timing { idle, ..timing() }, ..options(own) };
    let (others, mut b) = killable(Options { seeds: vec![seed(&a)], ..patient(2) });
    others.block_on(b.joined(id(1)));
    others.block_on(a.joined(id(2)));
    runtime.shutdown_timeout(DEADLINE);
    drop(a);

    let (_runtime, mut again) =
        killable(Options { listen: address, seeds: vec![seed(&b)], ..options(1) });
    others.block_on(async {
        b.left(id(1)).await;
        b.joined(id(1)).await;
        again.joined(id(2)).await;
        again.mesh.announce(records(0, 1));
        b.holds(id(1), 1).await;
        b.mesh.announce(records(1, 1));
        again.holds(id(2), 1).await;
    });
}

#[test]
fn an_agent_that_is_killed_has_left() {
    let (runtime, mut a) = killable(options(1));
    let (others, mut b) = killable(Options { seeds: vec![seed(&a)], ..options(2) });
    others.block_on(b.joined(id(1)));
    others.block_on(a.joined(id(2)));
    runtime.shutdown_timeout(DEADLINE);
    others.block_on(b.left(id(1)));
}

#[tokio::test]
async fn a_seed_may_start_later() {
    let reserved = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = reserved.local_addr().unwrap();
    let seeds = vec![Seed { peer: Some(id(1)), addresses: vec![address] }];
    let mut b = Agent::start(Options { seeds, ..options(2) }).await;
    drop(reserved);
    let mut a = Agent::start(Options { listen: address, ..options(1) }).await;
    a.joined(id(2)).await;
    b.joined(id(1)).await;
}

#[tokio::test]
async fn agents_that_are_each_others_seed_join_once() {
    let a = UdpSocket::bind("127.0.0.1:0").unwrap();
    let b = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (at_a, at_b) = (a.local_addr().unwrap(), b.local_addr().unwrap());
    drop((a, b));
    let both = |own| Options {
        listen: if own == 1 { at_a } else { at_b },
        seeds: vec![Seed { peer: None, addresses: vec![at_a, at_b] }],
        ..options(own)
    };
    let (mut a, mut b) = tokio::join!(Agent::start(both(1)), Agent::start(both(2)));
    a.joined(id(2)).await;
    b.joined(id(1)).await;
    a.mesh.announce(records(0, 1));
    b.holds(id(1), 1).await;
    assert_eq!(a.mesh.counters().members, 1);
    let again = |event: &Event| matches!(event, Event::Joined { .. } | Event::Left { .. });
    assert!(!a.seen().iter().any(again) && !b.seen().iter().any(again));
}

#[tokio::test]
async fn a_wildcard_is_told_as_the_addresses_of_the_interfaces() {
    let a = Agent::start(Options { listen: "0.0.0.0:0".parse().unwrap(), ..options(1) }).await;
    let addresses = a.mesh.addresses();
    assert!(!addresses.is_empty());
    assert!(addresses.iter().all(|address| !address.ip().is_unspecified()));
    let loopback: Vec<bool> = addresses.iter().map(|a| a.ip().is_loopback()).collect();
    assert!(loopback.is_sorted(), "loopback is last: {addresses:?}");
    let mut b = Agent::start(Options { seeds: vec![seed(&a)], ..options(2) }).await;
    b.joined(id(1)).await;
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = Mesh::start(Options { listen: address, ..options(1) }).await.unwrap_err();
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    let StartError::Listen { source, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(source.kind(), io::ErrorKind::AddrInUse);
}
