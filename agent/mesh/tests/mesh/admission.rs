//! Who is not a member stays outside.

use crate::support::{Agent, id, options, records, seed};
use netbuild_mesh::Options;
use netbuild_proto::ticket::MeshKey;
use std::collections::BTreeSet;

#[tokio::test]
async fn a_stranger_with_another_key_sees_nothing_and_is_counted() {
    let mut a = Agent::start(options(1)).await;
    let mut stranger =
        Agent::start(Options { seeds: vec![seed(&a)], mesh_key: MeshKey([1; 32]), ..options(2) })
            .await;
    a.counts(|counters| counters.refused_admissions >= 2).await;
    stranger.counts(|counters| counters.refused_by_others >= 2).await;
    assert_eq!(stranger.seen(), []);
    assert_eq!(a.seen(), []);
    assert_eq!(a.mesh.counters().members, 0);

    let mut b = Agent::start(Options { seeds: vec![seed(&a)], ..options(3) }).await;
    b.joined(id(1)).await;
    a.joined(id(3)).await;
    a.mesh.announce(records(0, 10));
    b.holds(id(1), 10).await;
    assert_eq!(stranger.seen(), []);
}

#[tokio::test]
async fn only_listed_peers_connect() {
    let mut a =
        Agent::start(Options { allowed: Some(BTreeSet::from([id(2)])), ..options(1) }).await;
    let mut unlisted = Agent::start(Options { seeds: vec![seed(&a)], ..options(3) }).await;
    let mut listed = Agent::start(Options { seeds: vec![seed(&a)], ..options(2) }).await;
    listed.joined(id(1)).await;
    a.joined(id(2)).await;
    a.counts(|counters| counters.refused_connections >= 2).await;
    assert_eq!(unlisted.seen(), []);
    assert_eq!(a.mesh.counters().members, 1);
}
