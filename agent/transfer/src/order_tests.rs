//! What two agents see of orders: when they are taken, what one stream carries, and what becomes of
//! them when a connection has died.

use crate::{
    FetchError, Order, Terms,
    answers::{FEW_IN_FLIGHT, IN_FLIGHT, MAX_IN_FLIGHT},
    error::code,
    fixture::{
        Shelf, agent, everyone, gather, holder, no_base, noise, orders, patches, rogue_host,
        sampled, soon, until,
    },
};
use bytes::Bytes;
use netbuild_core::{chunk::MAX_CHUNK, digest::Digest};
use netbuild_proto::data::Coding;
use std::{
    cell::Cell,
    collections::HashMap,
    ops::ControlFlow,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::runtime::Runtime;

fn go_on(_: usize, _: &Bytes) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Terms of a link on which patches pay.
fn slow() -> Terms {
    Terms { goodput: Some(125_000.0), ..Terms::default() }
}

#[tokio::test]
async fn small_orders_are_taken_one_by_one_when_enough_are_under_way() {
    let mut shelf = Shelf::default();
    let chunks = shelf.stock(500, 100);
    let (a, b) = (agent(1, everyone(), shelf), agent(2, everyone(), Shelf::default()));
    let taken = Cell::new(0);
    let mut all = orders(&chunks, 1);
    let orders = all.by_ref().inspect(|_| taken.set(taken.get() + 1));
    let deliver = |index: usize, _: &Bytes| {
        assert_eq!(taken.get(), chunks.len().min(index + MAX_IN_FLIGHT));
        ControlFlow::Continue(())
    };
    let (report, result) =
        gather(&b, &holder(1, &a), orders, no_base, Terms::default(), deliver).await;
    assert_eq!((result, report.arrived.len()), (Ok(()), 500));
    assert_eq!(b.counters().requests_made, 1);
}

#[tokio::test]
async fn of_large_orders_a_few_are_taken_and_the_others_as_what_was_asked_arrives() {
    let mut shelf = Shelf::default();
    let chunks = vec![shelf.stock(1, MAX_CHUNK)[0]; 60];
    let (a, b) = (agent(1, everyone(), shelf), agent(2, everyone(), Shelf::default()));
    let taken = Cell::new(0);
    let orders = orders(&chunks, 2).inspect(|_| taken.set(taken.get() + 1));
    let order = 2 * MAX_CHUNK as u64;
    let deliver = |index: usize, _: &Bytes| {
        // Nothing is known of the link when the first orders are taken.
        let first = FEW_IN_FLIGHT.div_ceil(order);
        assert!(index > 1 || taken.get() == first, "{} instead of {first}", taken.get());
        let ahead = taken.get() - index as u64 / 2;
        assert!(ahead <= IN_FLIGHT.div_ceil(order), "{ahead} at {index}");
        ControlFlow::Continue(())
    };
    let (report, result) =
        gather(&b, &holder(1, &a), orders, no_base, Terms::default(), deliver).await;
    assert_eq!((result, report.arrived.len(), taken.get()), (Ok(()), 60, 30));
}

#[tokio::test]
async fn orders_that_are_not_taken_are_still_there_for_another_holder() {
    let mut shelf = Shelf::default();
    let chunks = shelf.stock(500, 100);
    let a = agent(1, everyone(), shelf);
    let b = agent(2, everyone(), Shelf::default());
    let mut left = orders(&chunks, 1);
    let enough = |_: usize, _: &Bytes| ControlFlow::Break(());
    let (_, result) =
        gather(&b, &holder(1, &a), left.by_ref(), no_base, Terms::default(), enough).await;
    assert_eq!(result, Ok(()));
    assert_eq!(left.count(), 500 - MAX_IN_FLIGHT);
}

#[tokio::test]
async fn patches_of_many_small_blobs_and_plain_chunks_share_one_stream() {
    const BLOBS: usize = 24;
    const LEN: usize = 100_000;
    let mut shelf = Shelf::default();
    let plain = shelf.put((0..BLOBS as u64).map(|seed| noise(1000 + seed, 5000)));
    let (mut olds, mut expected, mut mixed) = (HashMap::new(), Vec::new(), Vec::new());
    for (seed, plain) in plain.iter().enumerate() {
        let old = Bytes::from(noise(seed as u64, LEN));
        let new = Bytes::from([&old[..LEN / 2], b"something new", &old[LEN / 2..]].concat());
        let base = shelf.put_blob(&old).blob();
        let manifest = shelf.put_blob(&new);
        assert_eq!(manifest.chunks().len(), 1);
        mixed.extend(patches(&manifest, &[base], 1));
        mixed.push(Order::Chunks(vec![*plain]));
        expected.extend([new.to_vec(), shelf.chunks[&plain.hash].clone()]);
        olds.insert(base, old);
    }
    let a = agent(1, everyone(), shelf);
    let b = agent(2, everyone(), Shelf::default());
    let load = move |base: &Digest| olds.get(base).cloned();
    let mut came = Vec::new();
    let deliver = |_: usize, bytes: &Bytes| {
        came.push(bytes.to_vec());
        ControlFlow::Continue(())
    };
    let (report, result) =
        gather(&b, &holder(1, &a), mixed.into_iter(), load, slow(), deliver).await;
    assert_eq!((result, &report.missing[..]), (Ok(()), &[][..]));
    assert!(came == expected, "blobs and chunks in the order in which they were asked for");
    let patched = report.codings[&Coding::Delta];
    assert_eq!(patched.logical, (BLOBS * (LEN + 13)) as u64, "{report:?}");
    assert!(patched.wire < patched.logical / 100, "{report:?}");
    assert_eq!(report.bytes - patched.logical, (BLOBS * 5000) as u64);
    assert_eq!(b.counters().requests_made, 1);
    until(|| a.counters().requests_served == 2 * BLOBS as u64).await;
}

#[tokio::test]
async fn a_base_is_got_once_for_all_patches_in_a_row() {
    let mut shelf = Shelf::default();
    let mut olds = HashMap::new();
    let blobs = [1, 2].map(|seed| {
        let old = Bytes::from(noise(seed, 6 << 20));
        let new = Bytes::from([b"in front of ", &old[..]].concat());
        let base = shelf.put_blob(&old).blob();
        olds.insert(base, old);
        (base, shelf.put_blob(&new))
    });
    let [(first, _), (second, _)] = &blobs;
    let a = agent(1, everyone(), shelf);
    let b = agent(2, everyone(), Shelf::default());
    let loaded = Arc::new(Mutex::new(Vec::new()));
    let loads = loaded.clone();
    let load = move |base: &Digest| {
        loads.lock().unwrap().push(*base);
        olds.get(base).cloned()
    };
    // Each chunk is an order of its own.
    let orders = [0, 1, 0].into_iter().flat_map(|blob| {
        let (base, manifest) = &blobs[blob];
        assert!(manifest.chunks().len() > 3);
        patches(manifest, &[*base], 1)
    });
    let (report, result) = gather(&b, &holder(1, &a), orders, load, slow(), go_on).await;
    assert_eq!((result, &report.missing[..]), (Ok(()), &[][..]));
    assert_eq!(report.codings.keys().collect::<Vec<_>>(), [&Coding::Delta]);
    assert_eq!(*loaded.lock().unwrap(), [*first, *second, *first]);
}

#[test]
fn a_connection_that_had_died_unnoticed_loses_no_order_and_repeats_none() {
    let runtime = || Runtime::new().unwrap();
    let (here, there) = (runtime(), runtime());
    let mut shelf = Shelf::default();
    let chunks = shelf.stock(300, 100);
    let b = here.block_on(async { agent(2, everyone(), Shelf::default()) });
    let a = there.block_on(async { agent(1, everyone(), Shelf::default()) });
    let at = holder(1, &a);
    here.block_on(soon(b.open(&at))).unwrap();
    // All its tasks end where they stand: nobody is told.
    there.shutdown_timeout(Duration::from_secs(10));
    drop(a);
    let there = runtime();
    let (again, _samples) =
        there.block_on(async { sampled(1, at.addresses[0], everyone(), shelf) }).unwrap();
    let mut taken = 0;
    let orders = orders(&chunks, 1).inspect(|_| taken += 1);
    let (report, result) = here.block_on(gather(&b, &at, orders, no_base, Terms::default(), go_on));
    assert_eq!((result, report.arrived.len(), taken), (Ok(()), 300, 300));
    assert_eq!((b.counters().dials, b.counters().requests_made), (2, 1));
    here.block_on(until(|| again.counters().requests_served == 300));
}

#[tokio::test]
async fn a_holder_that_hangs_up_again_is_not_asked_a_third_time() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let from = rogue_host(1, move |connection| {
        let count = count.clone();
        async move {
            let (_send, mut receive) = connection.accept_bi().await.unwrap();
            receive.read_exact(&mut [0; 4]).await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            connection.close(code::INTERNAL, b"");
        }
    });
    let mut shelf = Shelf::default();
    let chunks = shelf.stock(100, 100);
    let b = agent(2, everyone(), Shelf::default());
    soon(b.open(&from.holder)).await.unwrap();
    let orders = orders(&chunks, 10);
    let (report, result) = gather(&b, &from.holder, orders, no_base, Terms::default(), go_on).await;
    assert!(matches!(result, Err(FetchError::Lost { .. })), "{result:?}");
    assert_eq!((report.arrived.len(), report.missing.len()), (0, 0));
    assert_eq!((asked.load(Ordering::Relaxed), b.counters().dials), (2, 2));
}
