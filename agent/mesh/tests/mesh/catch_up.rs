//! Records reach every member, whether it was there or not.

use crate::support::{Agent, MemoryCatalog, id, options, records, seed};
use netbuild_mesh::{Event, Options};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

fn keys(held: &[netbuild_proto::membership::Held]) -> BTreeSet<netbuild_core::key::ActionKey> {
    held.iter().map(|held| held.key).collect()
}

#[tokio::test]
async fn a_new_member_reads_everything_and_then_hears_the_news() {
    let catalog = Arc::new(MemoryCatalog::default());
    let old = records(0, 2500);
    catalog.add(&old);
    let mut a = Agent::start(Options { catalog: Arc::clone(&catalog) as _, ..options(1) }).await;
    let mut b = Agent::start(Options { seeds: vec![seed(&a)], ..options(2) }).await;

    let addresses = b.joined(id(1)).await;
    assert_eq!(addresses, ["127.0.0.1:1001".parse().unwrap()]);
    let mut read = BTreeSet::new();
    loop {
        match b.next().await {
            Event::Held { peer, held } if peer == id(1) => {
                read.extend(held.iter().map(|held| held.key));
            }
            Event::CaughtUp { peer } if peer == id(1) => break,
            _ => {}
        }
    }
    assert_eq!(read, keys(&old));

    a.joined(id(2)).await;
    let news = records(10_000, 1500);
    catalog.add(&news);
    a.mesh.announce(news.clone());
    a.mesh.flush().await;
    assert_eq!(b.holds(id(1), 1500).await, keys(&news));
}

#[tokio::test]
async fn what_a_slow_reader_could_not_take_comes_later() {
    let mut a = Agent::start(options(1)).await;
    let catalog = Arc::new(MemoryCatalog::default());
    let all = records(0, 60_000);
    catalog.add(&all);
    let b = Agent::start(Options {
        seeds: vec![seed(&a)],
        catalog: Arc::clone(&catalog) as _,
        ..options(2)
    })
    .await;
    a.joined(id(2)).await;
    // Nobody reads the events of the first while the second repeats itself.
    for round in 0..40 {
        b.mesh.announce(all[round * 1000..][..1000].to_vec());
        b.mesh.flush().await;
    }
    assert_eq!(a.holds(id(2), 60_000).await, keys(&all));
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
