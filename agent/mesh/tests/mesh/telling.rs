//! What members tell one another.

use crate::support::{Agent, id, options, records, seed, timing};
use netbuild_mesh::{Event, Options, Timing};
use netbuild_proto::membership::LinkReport;
use std::time::Duration;

#[tokio::test]
async fn news_reach_every_member() {
    let mut a = Agent::start(options(1)).await;
    let mut b = Agent::start(Options { seeds: vec![seed(&a)], ..options(2) }).await;
    assert_eq!(b.joined(id(1)).await, ["127.0.0.1:1001".parse().unwrap()]);
    a.joined(id(2)).await;
    let news = records(10_000, 1500);
    a.mesh.announce(news.clone());
    a.mesh.flush().await;
    assert_eq!(b.holds(id(1), 1500).await, news.iter().map(|held| held.key).collect());
    assert!(a.mesh.counters().gossip_sent_bytes > 1500 * 48);
}

#[tokio::test]
async fn a_slow_reader_of_events_loses_no_member_and_counts_what_it_lost() {
    let quick = Timing { batch: Duration::from_millis(1), ..timing() };
    let mut a = Agent::start(Options { timing: quick.clone(), ..options(1) }).await;
    let seeds = vec![seed(&a)];
    let b = Agent::start(Options { seeds: seeds.clone(), timing: quick, ..options(2) }).await;
    a.joined(id(2)).await;
    // Nobody reads the events of the first while the second repeats itself.
    let some = records(0, 1);
    let mut rounds = 0;
    while a.mesh.counters().dropped_held == 0 {
        rounds += 1;
        assert!(rounds < 100_000);
        b.mesh.announce(some.clone());
        b.mesh.flush().await;
    }
    let c = Agent::start(Options { seeds, ..options(3) }).await;
    c.counts(|counters| counters.connected == 2).await;
    a.joined(id(3)).await;
    b.mesh.shutdown().await;
    a.left(id(2)).await;
}

#[tokio::test]
async fn round_trips_are_measured() {
    let a = Agent::start(options(1)).await;
    let mut b = Agent::start(Options { seeds: vec![seed(&a)], ..options(2) }).await;
    let rtt = b.wait(|event| match event {
        Event::Rtt { peer, rtt } if peer == id(1) => Some(rtt),
        _ => None,
    });
    assert!(rtt.await < Duration::from_secs(2));
}

#[tokio::test]
async fn links_are_told_and_the_latest_counts() {
    let mut a = Agent::start(options(1)).await;
    let mut b = Agent::start(Options { seeds: vec![seed(&a)], ..options(2) }).await;
    a.joined(id(2)).await;
    b.joined(id(1)).await;
    let link = |rtt_us| LinkReport {
        peer: id(1),
        rtt_us,
        jitter_us: 10,
        loss_ppm: 1,
        goodput: 1_000_000,
        age_s: 0,
    };
    for (rtt, urgent) in [(1, false), (2, false), (3, false), (4, true)] {
        b.mesh.report_links(vec![link(rtt)], urgent);
    }
    a.wait(|event| match event {
        Event::Links { peer, links } if peer == id(2) => (links == [link(4)]).then_some(()),
        _ => None,
    })
    .await;
}
