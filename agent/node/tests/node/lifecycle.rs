//! Agents start whole or not at all, stop in order, and are where they were.

use crate::support::{Region, settings, wait_until};
use netbuild_core::{
    cache::{Cache as _, Content},
    digest::Digest,
};
use netbuild_node::{Agent, AgentError, Session};
use std::{
    fs,
    net::{SocketAddr, UdpSocket},
};
use tokio::runtime::Runtime;

#[test]
fn an_agent_is_where_it_was_before() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::new().unwrap();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let settings = settings(dir.path(), Vec::new());
        let agent = runtime.block_on(Agent::start(&settings)).unwrap();
        seen.push((agent.peer_id(), agent.addresses(), agent.data_address(), agent.ticket()));
        let ports = [agent.addresses()[0], agent.data_address()];
        runtime.block_on(agent.shutdown());
        drop(ports.map(take));
    }
    assert_eq!(seen[0], seen[1]);
}

/// Takes a port of an agent that has stopped. The system hears of that a moment later, from tasks
/// that are nobody's.
fn take(port: SocketAddr) -> UdpSocket {
    let mut taken = None;
    wait_until("the port is free", || {
        taken = UdpSocket::bind(port).ok();
        taken.is_some()
    });
    taken.expect("it is taken")
}

#[test]
fn an_agent_whose_port_of_before_is_taken_finds_another() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::new().unwrap();
    let settings = settings(dir.path(), Vec::new());
    let agent = runtime.block_on(Agent::start(&settings)).unwrap();
    let (mesh, data) = (agent.addresses()[0], agent.data_address());
    runtime.block_on(agent.shutdown());
    let _taken = [mesh, data].map(take);
    let agent = runtime.block_on(Agent::start(&settings)).unwrap();
    assert!(agent.addresses()[0] != mesh && agent.data_address() != data);
    runtime.block_on(agent.shutdown());
}

#[test]
fn an_agent_that_cannot_start_lets_everything_go() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::new().unwrap();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut settings = settings(dir.path(), Vec::new());
    let start = |settings: &_| runtime.block_on(Agent::start(settings));

    settings.listen = taken.local_addr().unwrap();
    assert!(matches!(start(&settings), Err(AgentError::Mesh(_))));
    settings.listen.set_port(0);
    settings.data_port = taken.local_addr().unwrap().port();
    let error = start(&settings).map(drop);
    assert!(matches!(error, Err(AgentError::Bind(_))), "{error:?}");
    drop(taken);
    // The last thing that can fail, when both ports are open already.
    fs::create_dir_all(dir.path().join("control.sock/in the way")).unwrap();
    settings.listen.set_port(settings.data_port);
    settings.data_port = 0;
    assert!(matches!(start(&settings), Err(AgentError::Serve(..))));
    fs::remove_dir_all(dir.path().join("control.sock")).unwrap();

    let agent = start(&settings).unwrap();
    runtime.block_on(agent.shutdown());
}

#[test]
fn what_was_put_is_there_after_a_stop() {
    let mut region = Region::start(Vec::new());
    let digest = Digest::of(b"kept");
    region.session.put_blob(&digest, Content::Bytes(b"kept")).unwrap();
    region.stop();
    let session =
        Session::new(&region.data_dir, "", &netbuild_core::merge::Trust::default()).unwrap();
    assert!(session.fetch(&digest, &()).unwrap().is_some());
}
