//! The cache of a command, whoever owns the data directory.

use crate::support::{KEY, Region, goods};
use netbuild_core::{
    cache::{Cache as _, CacheError, Content},
    digest::Digest,
    merge::Trust,
};
use netbuild_node::Session;
use netbuild_proto::control::{Request, Response};
use std::{
    os::unix::net::UnixListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

#[test]
fn a_command_goes_on_by_itself_when_the_agent_stops() {
    let mut region = Region::start(Vec::new());
    region.keep(&goods());
    assert_eq!(region.status().role, "agent");
    region.stop();
    assert!(region.lookup().is_some());
    assert_eq!(region.status().role, "run");
    let digest = Digest::of(b"more");
    region.session.put_blob(&digest, Content::Bytes(b"more")).unwrap();
    assert_eq!(region.read(&digest), b"more");
}

#[test]
fn commands_that_come_and_go_share_one_data_directory() {
    let dir = tempfile::tempdir().unwrap();
    // Whoever is the owner leaves in the middle of what the others do.
    thread::scope(|scope| {
        for number in 0..4_u8 {
            let dir = dir.path();
            scope.spawn(move || {
                for round in 0..8_u8 {
                    let session = Session::new(dir, "", &Trust::default()).unwrap();
                    let bytes = [number, round];
                    let digest = Digest::of(&bytes);
                    session.put_blob(&digest, Content::Bytes(&bytes)).unwrap();
                    assert!(session.fetch(&digest, &()).unwrap().is_some());
                    assert_eq!(session.lookup(&KEY, &()), Ok(None));
                    session.flush().unwrap();
                }
            });
        }
    });
    let session = Session::new(dir.path(), "", &Trust::default()).unwrap();
    assert_eq!(session.status().unwrap().store.blobs, 32);
}

#[test]
fn an_owner_that_cannot_be_talked_to_is_not_tried_once_for_each_task() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("control.sock")).unwrap();
    let tries = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&tries);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            Request::read(&mut stream).unwrap();
            Response::Welcome { version: 77 }.write(&mut stream).unwrap();
        }
    });
    let session = Session::new(dir.path(), "", &Trust::default()).unwrap();
    for _ in 0..3 {
        let error = session.lookup(&KEY, &()).unwrap_err();
        assert!(matches!(&error, CacheError::Unreachable(_)), "{error}");
        assert!(error.to_string().contains("version 77"), "{error}");
    }
    assert_eq!(tries.load(Ordering::SeqCst), 1);
}

#[test]
fn a_place_where_no_socket_can_be_is_used_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("control.sock/in the way")).unwrap();
    let session = Session::new(dir.path(), "", &Trust::default()).unwrap();
    assert_eq!(session.lookup(&KEY, &()), Ok(None));
    assert_eq!(session.status().unwrap().role, "run");
}

#[test]
fn a_session_that_did_nothing_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    Session::new(&data_dir, "", &Trust::default()).unwrap().flush().unwrap();
    assert!(!data_dir.exists());
}
