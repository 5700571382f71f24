//! What two agents see of one another: presence, probes, measurements, and the ways to a peer.

use crate::{
    Endpoint, FetchError, Holder, Patience,
    fixture::{
        self, Closed, Shelf, agent, chunk, everyone, gather, holder, identity, no_base, noise,
        only, orders, raw_connection, rogue, run_frame, sampled, sealed, soon, until,
    },
};
use bytes::Bytes;
use netbuild_core::{
    chunk::Chunk,
    digest::{Digest, Hash},
    key::ActionKey,
    link::Sample,
    peer::PeerId,
};
use netbuild_proto::data::{Coding, HEARTBEAT, MAX_PROBE, Request, encode_bitmap};
use std::{future::pending, ops::ControlFlow, time::Duration};
use tokio::sync::mpsc::{Receiver, channel};

fn patience() -> Patience {
    Patience::default()
}

/// Peer `number`, of which no address is known.
fn hidden(number: u8) -> Holder {
    Holder { peer: identity(number).peer_id(), addresses: Vec::new() }
}

fn blobs(chunks: &[Chunk]) -> Vec<Digest> {
    chunks.iter().map(|chunk| Digest { hash: chunk.hash, size: chunk.len.into() }).collect()
}

async fn fetch(from: &Holder, by: &Endpoint, chunks: &[Chunk]) -> Result<u64, FetchError> {
    fixture::fetch(by, from, chunks, patience()).await.map(|report| report.bytes)
}

fn frame(content: &[u8]) -> Vec<u8> {
    [&(content.len() as u32).to_le_bytes()[..], content].concat()
}

#[tokio::test]
async fn a_peer_without_an_address_is_asked_on_the_connection_that_it_opened() {
    let mut shelf = Shelf::default();
    let chunks = shelf.stock(4, 1000);
    let a = agent(1, everyone(), Shelf::default());
    let b = agent(2, everyone(), shelf);
    assert!(fetch(&hidden(2), &a, &chunks).await.is_err());
    soon(b.open(&holder(1, &a))).await.unwrap();
    until(|| a.rtt(&identity(2).peer_id()).is_some()).await;
    assert_eq!(fetch(&hidden(2), &a, &chunks).await, Ok(4000));
    assert_eq!(a.counters().dials + b.counters().dials, 2);
    soon(b.shutdown()).await;
    until(|| a.rtt(&identity(2).peer_id()).is_none()).await;
    assert!(fetch(&hidden(2), &a, &chunks).await.is_err());
}

#[tokio::test]
async fn who_is_dialled_and_not_admitted_gets_nothing_and_can_still_be_asked() {
    let mut shelf = Shelf::default();
    let chunks = shelf.stock(1, 1000);
    let mut other = Shelf::default();
    other.stock(1, 1000);
    let a = agent(1, everyone(), shelf);
    let b = agent(2, only(identity(3).peer_id()), other);
    let at = holder(1, &a);
    assert_eq!(fetch(&at, &b, &chunks).await, Ok(1000));
    let error = fetch(&hidden(2), &a, &chunks).await.unwrap_err();
    assert_eq!(error, FetchError::Refused { peer: identity(2).peer_id() });
    assert_eq!(fetch(&at, &b, &chunks).await, Ok(1000));
    assert_eq!(b.counters().dials, 1);
}

#[tokio::test]
async fn both_ends_may_dial_at_once() {
    let (mut one, mut two) = (Shelf::default(), Shelf::default());
    let chunks = one.stock(4, 1000);
    two.stock(4, 1000);
    let (a, b) = (agent(1, everyone(), one), agent(2, everyone(), two));
    let (to_a, to_b) = (holder(1, &a), holder(2, &b));
    let (one, two) = tokio::join!(fetch(&to_a, &b, &chunks), fetch(&to_b, &a, &chunks));
    assert_eq!((one, two), (Ok(4000), Ok(4000)));
    soon(a.shutdown()).await;
    assert!(fetch(&to_a, &b, &chunks).await.is_err());
}

#[tokio::test]
async fn a_peer_tells_what_it_has_and_brings() {
    let mut shelf = Shelf::default();
    let chunks = shelf.stock(1500, 20);
    let mut asked = blobs(&chunks);
    asked[1] = Digest::of(b"not there");
    asked[1400] = Digest::of(b"nor this");
    let expected: Vec<bool> = (0..1500).map(|at| at != 1 && at != 1400).collect();
    let (a, b) = (agent(1, everyone(), shelf), agent(2, everyone(), Shelf::default()));
    let at = holder(1, &a);
    assert_eq!(soon(b.has(&at, &asked, patience())).await.unwrap(), expected);
    assert_eq!(soon(b.bring(&at, &asked, patience())).await.unwrap(), expected);
    assert_eq!(soon(b.has(&at, &[], patience())).await.unwrap(), []);
    assert_eq!(soon(b.bring(&at, &[], patience())).await.unwrap(), []);
}

#[tokio::test]
async fn bringing_gives_signs_of_life_and_is_bounded() {
    let mut shelf = Shelf::default();
    let asked = blobs(&shelf.stock(1, 20));
    let gate = shelf.gate.clone();
    let closed = Closed::keep(gate);
    let (a, b) = (agent(1, everyone(), shelf), agent(2, everyone(), Shelf::default()));
    let at = holder(1, &a);
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let (b, at, asked) = (b.clone(), at.clone(), asked.clone());
        // Less than the provider takes, and more than it keeps silent.
        let patience = Patience { between: Duration::from_secs(2), ..patience() };
        asking.spawn(async move { b.bring(&at, &asked, patience).await });
    }
    // The fifth finds no room; the other four wait.
    let first = soon(asking.join_next()).await.unwrap().unwrap();
    assert_eq!(first, Err(FetchError::Busy { peer: at.peer }));
    until(|| a.load().serving == 4).await;
    let other = soon(raw_connection(3, &at)).await;
    let (mut send, mut receive) = soon(other.open_bi()).await.unwrap();
    soon(send.write_all(&frame(&Request::Bring(asked).encode()))).await.unwrap();
    let mut signs = [0; 10];
    soon(receive.read_exact(&mut signs)).await.unwrap();
    assert_eq!(signs, *frame(&HEARTBEAT).repeat(2));
    closed.open();
    for here in soon(asking.join_all()).await {
        assert_eq!(here, Ok(vec![true]));
    }
    until(|| a.load().serving == 0).await;
}

#[tokio::test]
async fn who_waits_for_chunks_gives_no_link_to_probes() {
    let mut shelf = Shelf::default();
    let chunks = shelf.stock(1, 100);
    let closed = Closed::keep(shelf.gate.clone());
    let (source, busy) = (agent(1, everyone(), shelf), agent(2, everyone(), Shelf::default()));
    let (from, at) = (holder(1, &source), holder(2, &busy));
    let other = agent(3, everyone(), Shelf::default());
    let fetching = fetch(&from, &busy, &chunks);
    let meanwhile = async {
        until(|| source.load().serving == 1).await;
        soon(other.probe(&at, MAX_PROBE)).await.unwrap();
        assert_eq!(busy.counters().bytes_served, 0);
        closed.open();
    };
    assert_eq!(tokio::join!(fetching, meanwhile).0, Ok(100));
    soon(other.probe(&at, MAX_PROBE)).await.unwrap();
    assert_eq!(busy.counters().bytes_served, u64::from(MAX_PROBE));
}

#[tokio::test]
async fn a_sign_of_life_is_waited_for_no_longer_than_the_caller_says() {
    let from = rogue(1, |_, mut send| async move {
        let _ = send.write_all(&frame(&HEARTBEAT)).await;
        pending::<()>().await;
    });
    let b = agent(2, everyone(), Shelf::default());
    let between = Patience { between: Duration::from_millis(50), ..patience() };
    let error = soon(b.bring(&from.holder, &[Digest::of(b"")], between)).await.unwrap_err();
    assert_eq!(error, FetchError::Stalled { peer: from.holder.peer });
}

#[tokio::test]
async fn bitmaps_that_are_none_are_malformed() {
    let two = encode_bitmap(&[true; 2]);
    for bad in [&two[..2], &[], &HEARTBEAT, &encode_bitmap(&[true; 3]), &[0; 4000], &[2, 0, 0xff]] {
        let bad = frame(bad);
        let from = rogue(1, move |_, mut send| {
            let bad = bad.clone();
            async move {
                let _ = send.write_all(&bad).await;
                let _ = send.finish();
            }
        });
        let b = agent(2, everyone(), Shelf::default());
        let asked = [Digest::of(b"1"), Digest::of(b"2")];
        let error = soon(b.has(&from.holder, &asked, patience())).await.unwrap_err();
        assert!(matches!(error, FetchError::Malformed { .. }), "{error}");
        let error = soon(b.bring(&from.holder, &asked, patience())).await.unwrap_err();
        assert!(matches!(error, FetchError::Malformed { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_probe_measures_and_is_bounded() {
    let (a, b) = (agent(1, everyone(), Shelf::default()), agent(2, everyone(), Shelf::default()));
    let at = holder(1, &a);
    for _ in 0..8 {
        let probed = soon(b.probe(&at, u32::MAX)).await.unwrap();
        assert!(probed.rtt > Duration::ZERO && probed.elapsed > Duration::ZERO);
    }
    until(|| a.counters().requests_served == 8).await;
    let served = a.counters().bytes_served;
    assert!((4..8).contains(&(served / u64::from(MAX_PROBE))), "{served}");

    let short = rogue(1, |_, mut send| async move {
        let _ = send.write_all(&frame(&[0; 10])).await;
    });
    let error = soon(b.probe(&short.holder, 11)).await;
    // The same peer, so the connection to the agent is still used.
    assert!(error.is_ok());
    let c = agent(3, everyone(), Shelf::default());
    let error = soon(c.probe(&short.holder, 11)).await.unwrap_err();
    assert!(matches!(error, FetchError::Malformed { .. }), "{error}");
}

async fn next(measured: &mut Receiver<(PeerId, Sample)>, is_it: fn(&Sample) -> bool) -> PeerId {
    soon(async {
        loop {
            let (peer, sample) = measured.recv().await.expect("the endpoint is open");
            if is_it(&sample) {
                return peer;
            }
        }
    })
    .await
}

#[tokio::test]
async fn both_ends_measure_a_connection() {
    let mut shelf = Shelf::default();
    let chunks = vec![shelf.put([noise(1, 512 * 1024)])[0]; 400];
    let listen = "127.0.0.1:0".parse().unwrap();
    let (a, mut of_a) = sampled(1, listen, everyone(), shelf).unwrap();
    let (b, mut of_b) = sampled(2, listen, everyone(), Shelf::default()).unwrap();
    let (one, two) = (identity(1).peer_id(), identity(2).peer_id());
    let at = holder(1, &a);
    soon(b.open(&at)).await.unwrap();
    assert_eq!(next(&mut of_a, |sample| matches!(sample, Sample::Rtt(_))).await, two);
    assert_eq!(next(&mut of_b, |sample| matches!(sample, Sample::Rtt(_))).await, one);
    let took = fetch(&at, &b, &chunks).await;
    assert_eq!(took, Ok(400 * 512 * 1024));
    assert_eq!(next(&mut of_b, |sample| matches!(sample, Sample::Goodput { .. })).await, one);
    let lost = |sample: &Sample| matches!(sample, Sample::Loss { sent, .. } if *sent > 1000);
    assert_eq!(next(&mut of_a, lost).await, two);
    assert!(a.load().bytes_per_second > 1 << 20, "{:?}", a.load());
    assert_eq!(b.load().bytes_per_second, 0);
}

#[tokio::test]
async fn an_endpoint_whose_samples_nobody_takes_goes_on() {
    let (a, b) = (agent(1, everyone(), Shelf::default()), agent(2, everyone(), Shelf::default()));
    soon(b.open(&holder(1, &a))).await.unwrap();
    assert!(b.counters().samples_dropped > 0);
    assert_eq!(fetch(&holder(1, &a), &b, &[]).await, Ok(0));
}

#[tokio::test]
async fn two_holders_are_asked_at_once_and_the_slow_one_is_dropped() {
    let mut shelf = Shelf::default();
    let chunks = shelf.stock(3, 1000);
    let first = b"\0\0\0\0".repeat(250);
    assert_eq!(chunk(&first), chunks[0]);
    let (told, mut is_told) = channel(1);
    let slow = rogue(3, move |_, mut send| {
        let (told, first) = (told.clone(), first.clone());
        async move {
            send.write_all(&run_frame(Coding::Identity, 1, first.len(), &first)).await.unwrap();
            // Until the requester wants no more.
            let stopped = send.stopped().await;
            let _ = told.send(matches!(stopped, Ok(Some(_)))).await;
        }
    });
    let (a, b) = (agent(1, everyone(), shelf), agent(2, everyone(), Shelf::default()));
    let (came, mut has_come) = channel(1);
    let deliver = |index: usize, bytes: &Bytes| {
        came.try_send((index, bytes.len())).unwrap();
        ControlFlow::Continue(())
    };
    let patience = Patience { first: Duration::from_secs(60), between: Duration::from_secs(60) };
    let hedge = async {
        assert_eq!(has_come.recv().await, Some((0, 1000)));
        fetch(&holder(1, &a), &b, &chunks).await
    };
    tokio::select! {
        slow = gather(&b, &slow.holder, orders(&chunks, 3), no_base, patience, deliver) => {
            panic!("{slow:?}")
        }
        bytes = soon(hedge) => assert_eq!(bytes, Ok(3000)),
    }
    assert_eq!(soon(is_told.recv()).await, Some(true));
    // The connection to it is still good.
    assert!(b.rtt(&slow.holder.peer).is_some());
}

#[tokio::test]
async fn a_late_answer_is_given_up_when_the_caller_says_so() {
    let from = rogue(1, |_, send| async move {
        let _kept = send;
        pending::<()>().await;
    });
    let b = agent(2, everyone(), Shelf::default());
    soon(b.open(&from.holder)).await.unwrap();
    let hasty = Patience { first: Duration::from_millis(20), ..patience() };
    for _ in 0..3 {
        let error = soon(b.records(&from.holder, &[ActionKey([0; 32])], hasty)).await.unwrap_err();
        assert_eq!(error, FetchError::Stalled { peer: from.holder.peer });
    }
    assert_eq!(b.counters().dials, 1);
}

#[tokio::test]
async fn many_requests_of_one_stream_are_answered_in_order() {
    let mut shelf = Shelf::default();
    let chunks = shelf.stock(5000, 10);
    let keys: Vec<_> =
        (0..5_u32).map(|n| ActionKey(*Hash::of(&n.to_le_bytes()).as_bytes())).collect();
    shelf.records.insert(keys[3], sealed(1, keys[3]).as_bytes().to_vec());
    let (a, b) = (agent(1, everyone(), shelf), agent(2, everyone(), Shelf::default()));
    let at = holder(1, &a);
    let in_order = orders(&chunks, 512);
    let mut next = 0;
    let deliver = |index: usize, bytes: &Bytes| {
        assert_eq!((index, chunk(bytes)), (next, chunks[next]));
        next += 1;
        ControlFlow::Continue(())
    };
    let (report, result) = gather(&b, &at, in_order, no_base, patience(), deliver).await;
    assert_eq!((result, report.bytes, report.missing), (Ok(()), 50_000, Vec::new()));
    assert_eq!(next, 5000);
    until(|| a.counters().requests_served == 10).await;
    assert_eq!(b.counters().requests_made, 1);
}
