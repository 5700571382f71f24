//! Members find each other, whatever each of them knows at first.

use crate::support::{Agent, DEADLINE, id, options, seed, timing};
use netbuild_core::peer::Identity;
use netbuild_mesh::{Options, Seed, Timing};
use netbuild_proto::ticket::MeshKey;
use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

/// Ports that are free now; a test that loses one to another process fails by name.
fn free(count: usize) -> Vec<SocketAddr> {
    let sockets: Vec<UdpSocket> =
        (0..count).map(|_| UdpSocket::bind("127.0.0.1:0").expect("a free port")).collect();
    sockets.iter().map(|socket| socket.local_addr().expect("bound")).collect()
}

#[tokio::test]
async fn a_chain_of_seeds_meets_in_whatever_order_it_starts() {
    let at = free(5);
    let mut agents = Vec::new();
    // Each knows the next only; the last knows nobody, and starts in the middle.
    for n in [1, 4, 2, 0, 3] {
        let seeds = at.get(n + 1).map(|next| Seed { peer: None, addresses: vec![*next] });
        let own = options(u8::try_from(n + 1).unwrap());
        let options = Options { listen: at[n], seeds: seeds.into_iter().collect(), ..own };
        agents.push(Agent::start(options).await);
    }
    for agent in &agents {
        agent.counts(|counters| counters.members == 4 && counters.connected == 4).await;
    }
}

#[tokio::test]
async fn two_meshes_that_meet_become_one() {
    let at = free(6);
    let mut agents = Vec::new();
    for n in 0..6 {
        let to = if n < 3 { 0 } else { 3 };
        let seeds = (n != to).then(|| Seed { peer: None, addresses: vec![at[to]] });
        let own = options(u8::try_from(n + 1).unwrap());
        let options = Options { listen: at[n], seeds: seeds.into_iter().collect(), ..own };
        agents.push(Agent::start(options).await);
    }
    for agent in &agents {
        agent.counts(|counters| counters.connected == 2).await;
    }
    let both = [at[1], at[4]].map(|address| Seed { peer: None, addresses: vec![address] });
    let between = Agent::start(Options { seeds: both.into(), ..options(7) }).await;
    for agent in agents.iter().chain([&between]) {
        agent.counts(|counters| counters.members == 6 && counters.connected == 6).await;
    }
}

#[tokio::test]
async fn members_can_be_asked_the_way() {
    // Presences are too rare to help here.
    let rare = || Timing { presence: DEADLINE, walk: Duration::from_millis(100), ..timing() };
    let at = free(3);
    let seeds = |n: usize| vec![Seed { peer: None, addresses: vec![at[n]] }];
    let a = Agent::start(Options { listen: at[0], timing: rare(), ..options(1) }).await;
    let b = Options { listen: at[1], seeds: seeds(0), timing: rare(), ..options(2) };
    let b = Agent::start(b).await;
    let c = Options { listen: at[2], seeds: seeds(1), timing: rare(), ..options(3) };
    let mut c = Agent::start(c).await;
    c.joined(id(2)).await;
    for agent in [&a, &b, &c] {
        agent.counts(|counters| counters.connected == 2 && counters.routed == 2).await;
    }
}

/// Agents that multicast lets meet nobody but one another, whatever else runs on this network.
fn multicast() -> [Options; 2] {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).expect("randomness");
    [0, 1].map(|n| {
        secret[0] = n;
        let identity = Identity::from_seed(&secret);
        Options { identity, mdns: true, mesh_key: MeshKey(secret_of(secret)), ..options(1) }
    })
}

/// The same for both.
fn secret_of(mut secret: [u8; 32]) -> [u8; 32] {
    secret[0] = 0;
    secret
}

#[tokio::test]
async fn multicast_does_no_harm_where_it_is_of_no_use() {
    let [first, second] = multicast();
    let peer = second.identity.peer_id();
    let mut a = Agent::start(first).await;
    let _b = Agent::start(Options { seeds: vec![seed(&a)], ..second }).await;
    a.joined(peer).await;
}

/// Whether what this machine says to a group comes back to it.
fn has_multicast() -> bool {
    let group = Ipv4Addr::new(239, 255, 77, 77);
    let heard = || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.join_multicast_v4(&group, &Ipv4Addr::UNSPECIFIED)?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.send_to(b"?", (group, socket.local_addr()?.port()))?;
        socket.recv(&mut [0; 1])
    };
    heard().is_ok()
}

/// Two agents that listen everywhere and know nobody.
#[tokio::test]
async fn agents_of_one_network_meet_by_multicast() {
    if !has_multicast() {
        eprintln!("this machine has no multicast, so nothing is tested here");
        return;
    }
    let listen: SocketAddr = "0.0.0.0:0".parse().unwrap();
    let [first, second] = multicast().map(|options| Options { listen, ..options });
    let (a, b) = (first.identity.peer_id(), second.identity.peer_id());
    let (mut first, mut second) = (Agent::start(first).await, Agent::start(second).await);
    first.joined(b).await;
    second.joined(a).await;
}
