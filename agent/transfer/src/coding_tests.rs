//! What two agents see of runs: how they are packed, coded, kept hot, patched and accounted for.

use crate::{
    Arrival, Coming, Endpoint, FetchError, Holder, Order, Patience, Terms,
    fixture::{
        Report, Rogue, Shelf, agent, chunk, coded_agent, everyone, fetch, gather, holder, no_base,
        noise, patches, prose, rogue, run_frame, soon, until,
    },
};
use bytes::Bytes;
use netbuild_core::{
    chunk::Manifest,
    codec::{Codec, Policy},
    digest::Digest,
};
use netbuild_proto::data::{Coding, MAX_BEATS, MAX_ITEMS, Priority, RUN_HEADER, Request};
use std::{
    cell::{Cell, RefCell},
    ops::ControlFlow,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::sync::Notify;

fn codings(report: &Report) -> Vec<Coding> {
    report.codings.keys().copied().collect()
}

/// Terms of a link that is believed to give so many Mbit/s.
fn mbit(rate: f64) -> Terms {
    Terms { goodput: Some(rate * 125_000.0), ..Terms::default() }
}

#[tokio::test]
async fn ten_thousand_small_blobs_come_in_few_frames() {
    let mut shelf = Shelf::default();
    let chunks = shelf.put((0..10_000).map(|number| prose(number, 2048)));
    let a = coded_agent(1, Policy::Fixed(Codec::Zstd(1)), shelf);
    let b = agent(2, everyone(), Shelf::default());
    let report = fetch(&b, &holder(1, &a), &chunks, Terms::default()).await.unwrap();
    assert_eq!((report.bytes, &report.missing[..]), (10_000 * 2048, &[][..]));
    assert_eq!(codings(&report), [Coding::Zstd]);
    assert!(report.bytes_on_wire() < report.bytes / 2, "{}", report.bytes_on_wire());
    // Ten requests, most of them of 2 MiB, which are two runs.
    let counters = a.counters();
    assert!(counters.runs_coded <= 20, "{counters:?}");
    assert_eq!(b.counters().requests_made, 1);
    assert_eq!(counters.bytes_served + 4 * counters.runs_coded, report.bytes_on_wire());
    assert_eq!(counters.logical_served, report.bytes);
}

#[tokio::test]
async fn what_is_not_coded_comes_in_short_frames_so_that_little_is_lost_with_one() {
    // Chunks as long as most are in a frame each; of short ones a quarter of a mebibyte together.
    for (count, len, frames) in [(6, 300_000, 6), (256, 2048, 2)] {
        let mut shelf = Shelf::default();
        let chunks = shelf.put((0..count).map(|number| noise(number, len)));
        let a = coded_agent(1, Policy::Off, shelf);
        let b = agent(2, everyone(), Shelf::default());
        let report = fetch(&b, &holder(1, &a), &chunks, Terms::default()).await.unwrap();
        assert_eq!((report.bytes, codings(&report)), (count * len as u64, vec![Coding::Identity]));
        let header = 4 + RUN_HEADER as u64;
        assert_eq!(report.bytes_on_wire() - report.bytes, frames * header);
    }
}

#[tokio::test]
async fn each_policy_codes_as_it_says() {
    let stock = || {
        let mut shelf = Shelf::default();
        let chunks = shelf.put((0..4).map(|number| prose(number, 300_000)));
        (shelf, chunks)
    };
    let policies = [
        (Policy::Off, 1.0, Coding::Identity),
        (Policy::Tiers, 200.0, Coding::Identity),
        (Policy::Tiers, 60.0, Coding::Gzip),
        (Policy::Fixed(Codec::Gzip(1)), 1e5, Coding::Gzip),
        (Policy::Fixed(Codec::Zstd(3)), 1e5, Coding::Zstd),
        (Policy::Adaptive, 1.0, Coding::Zstd),
    ];
    for (policy, rate, coding) in policies {
        // The window of a connection on loopback shows it to be faster than any tier.
        let wanted = if policy == Policy::Tiers && rate < 100.0 { continue } else { coding };
        let (shelf, chunks) = stock();
        let a = coded_agent(1, policy, shelf);
        let b = agent(2, everyone(), Shelf::default());
        let report = fetch(&b, &holder(1, &a), &chunks, mbit(rate)).await.unwrap();
        if policy != Policy::Adaptive {
            assert_eq!(codings(&report), [wanted], "{policy} of the provider");
        }
        let (shelf, chunks) = stock();
        let a = agent(1, everyone(), shelf);
        let b = coded_agent(2, policy, Shelf::default());
        let report = fetch(&b, &holder(1, &a), &chunks, mbit(rate)).await.unwrap();
        if policy != Policy::Adaptive {
            assert_eq!(codings(&report), [wanted], "{policy} of the requester");
        }
        assert_eq!(report.bytes, 1_200_000);
    }
}

#[tokio::test]
async fn what_does_not_shrink_is_sent_as_it_is_under_any_policy() {
    for policy in [Policy::Adaptive, Policy::Tiers, Policy::Fixed(Codec::Zstd(9))] {
        let mut shelf = Shelf::default();
        let chunks = shelf.put((0..4).map(|seed| noise(seed, 300_000)));
        let a = coded_agent(1, policy, shelf);
        let b = agent(2, everyone(), Shelf::default());
        let report = fetch(&b, &holder(1, &a), &chunks, mbit(1.0)).await.unwrap();
        assert_eq!((codings(&report), report.bytes), (vec![Coding::Identity], 1_200_000));
        assert!(report.bytes_on_wire() < report.bytes + 100);
    }
}

#[tokio::test]
async fn the_second_requester_of_a_run_costs_no_coding() {
    let mut shelf = Shelf::default();
    let chunks = shelf.put((0..8).map(|number| prose(number, 300_000)));
    let reads = shelf.reads.clone();
    let a = coded_agent(1, Policy::Fixed(Codec::Zstd(9)), shelf);
    let b = agent(2, everyone(), Shelf::default());
    let c = agent(3, everyone(), Shelf::default());
    let first = fetch(&b, &holder(1, &a), &chunks, Terms::default()).await.unwrap();
    let (coded, read) = (a.counters().runs_coded, reads.load(Ordering::Relaxed));
    let second = fetch(&c, &holder(1, &a), &chunks, Terms::default()).await.unwrap();
    assert_eq!(first.codings, second.codings);
    let counters = a.counters();
    assert_eq!((counters.runs_coded, counters.runs_hot), (coded, coded));
    assert_eq!(reads.load(Ordering::Relaxed), read);
}

#[tokio::test]
async fn lacking_chunks_are_told_in_runs_between_those_that_are_here() {
    let mut shelf = Shelf::default();
    let here = shelf.put((0..4).map(|number| prose(number, 3000)));
    let lacking: Vec<_> = (0..3000_u32).map(|number| chunk(&number.to_le_bytes())).collect();
    let chunks = [&lacking[..100], &here[..2], &lacking[100..], &here[2..]].concat();
    let a = agent(1, everyone(), shelf);
    let b = agent(2, everyone(), Shelf::default());
    let report = fetch(&b, &holder(1, &a), &chunks, Terms::default()).await.unwrap();
    let expected: Vec<_> = (0..100).chain(102..3002).collect();
    assert_eq!((&report.missing, report.bytes), (&expected, 12_000));
    until(|| a.counters().requests_served == 3).await;
    // Two runs before the end of the first request, the whole of the second, and one in the third.
    let (frames, lengths) = (a.counters().bytes_served, 4 * (4 + 2));
    assert_eq!(frames + lengths - report.bytes_on_wire(), 4 * 11);
}

#[tokio::test]
async fn a_request_says_what_the_requester_knows_and_how_soon_it_is_needed() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let told = asked.clone();
    let from = rogue(1, move |request, send| {
        told.lock().unwrap().push(request);
        async move { drop(send) }
    });
    let b = coded_agent(2, Policy::Tiers, Shelf::default());
    let terms = Terms { priority: Priority::Background, ..mbit(25.0) };
    assert!(fetch(&b, &from.holder, &[chunk(b"any")], terms).await.is_err());
    let asked = asked.lock().unwrap();
    let Request::Chunks { accept, .. } = &asked[0] else { panic!("{asked:?}") };
    assert_eq!((accept.goodput, accept.priority), (3_125_000, Priority::Background));
    assert_eq!(accept.policy, Policy::Tiers);
}

/// Something of a size of its own, and the same with changes here and there.
fn versions(len: usize) -> (Bytes, Bytes) {
    let old = noise(7, len);
    let mut new = old.clone();
    for at in (1000..len).step_by(100_000) {
        new[at..at + 4].copy_from_slice(&[1, 2, 3, 4]);
    }
    new.splice(len / 2..len / 2, *b"a few bytes that move all that follows");
    (old.into(), new.into())
}

/// Asks for all of a blob against bases of which the first is at hand.
async fn patched(
    from: &Holder,
    by: &Endpoint,
    manifest: &Manifest,
    bases: &[Digest],
    at_hand: Option<Bytes>,
) -> (Vec<u8>, Result<Report, FetchError>, usize) {
    let loads = Arc::new(AtomicUsize::new(0));
    let loaded = loads.clone();
    let load = move |_: &Digest| {
        loaded.fetch_add(1, Ordering::Relaxed);
        at_hand.clone()
    };
    let mut made = Vec::new();
    let deliver = |_: usize, bytes: &Bytes| {
        made.extend_from_slice(bytes);
        ControlFlow::Continue(())
    };
    let orders = patches(manifest, bases, MAX_ITEMS);
    let (report, result) = gather(by, from, orders, load, mbit(1.0), deliver).await;
    let report = result.map(|()| report);
    let loads = loads.load(Ordering::Relaxed);
    (made, report, loads)
}

#[tokio::test]
async fn a_changed_blob_comes_as_a_patch_of_the_old_one() {
    let (old, new) = versions(20 << 20);
    let mut shelf = Shelf::default();
    let base = shelf.put_blob(&old).blob();
    let manifest = shelf.put_blob(&new);
    let a = agent(1, everyone(), shelf);
    let b = agent(2, everyone(), Shelf::default());
    let other = Digest::of(b"something that the provider lacks");
    let bases = [other, base];
    let (made, report, loads) =
        patched(&holder(1, &a), &b, &manifest, &bases, Some(old.clone())).await;
    let report = report.unwrap();
    assert_eq!((Digest::of(&made), loads), (manifest.blob(), 1));
    assert_eq!((codings(&report), report.missing.len()), (vec![Coding::Delta], 0));
    assert!(report.bytes_on_wire() < report.bytes / 100, "{}", report.bytes_on_wire());
    // The second requester gets what was made for the first.
    let c = agent(3, everyone(), Shelf::default());
    let coded = a.counters().runs_coded;
    let (made, ..) = patched(&holder(1, &a), &c, &manifest, &[base], Some(old)).await;
    assert_eq!((Digest::of(&made), a.counters().runs_coded), (manifest.blob(), coded));
    assert_eq!(a.counters().runs_hot, coded);
    until(|| a.load().serving == 0).await;
}

#[tokio::test]
async fn patches_that_cannot_be_had_or_made_use_of_are_told_as_missing() {
    let (old, new) = versions(3 << 20);
    let mut shelf = Shelf::default();
    let base = shelf.put_blob(&old).blob();
    let manifest = shelf.put_blob(&new);
    let unknown = Shelf::default().put_blob(&Bytes::from(noise(9, 3 << 20)));
    let a = agent(1, everyone(), shelf);
    let b = agent(2, everyone(), Shelf::default());
    let at = holder(1, &a);
    let other = Digest::of(b"something that the provider lacks");
    let all: Vec<_> = (0..manifest.chunks().len()).collect();
    for (manifest, bases, at_hand, loads) in [
        (&manifest, &[other][..], Some(&old), 0),
        (&manifest, &[base][..], None, 1),
        (&unknown, &[base][..], Some(&old), 0),
    ] {
        let (made, report, loaded) = patched(&at, &b, manifest, bases, at_hand.cloned()).await;
        let missing = report.unwrap().missing;
        assert_eq!((made.len(), loaded), (0, loads));
        assert_eq!(
            missing.len(),
            if manifest.blob() == unknown.blob() { unknown.chunks().len() } else { all.len() }
        );
    }
}

#[tokio::test]
async fn what_is_unlike_its_base_is_coded_as_usual() {
    let mut shelf = Shelf::default();
    let old = Bytes::from(noise(1, 2 << 20));
    let new = Bytes::from(prose(5, 3 << 20));
    let base = shelf.put_blob(&old).blob();
    let manifest = shelf.put_blob(&new);
    let a = coded_agent(1, Policy::Fixed(Codec::Zstd(3)), shelf);
    let b = agent(2, everyone(), Shelf::default());
    let (made, report, _) = patched(&holder(1, &a), &b, &manifest, &[base], Some(old)).await;
    assert_eq!(Digest::of(&made), manifest.blob());
    let report = report.unwrap();
    assert!(report.bytes_on_wire() < report.bytes / 2, "{report:?}");
}

/// A peer that answers any request with these bytes.
fn says(bytes: Vec<u8>) -> Rogue {
    rogue(1, move |_, mut send| {
        let bytes = bytes.clone();
        async move {
            let _ = send.write_all(&bytes).await;
            let _ = send.finish();
        }
    })
}

#[tokio::test]
async fn patches_that_are_none_are_malformed_and_wrong_ones_are_wrong() {
    let (old, new) = versions(1 << 20);
    let mut shelf = Shelf::default();
    let manifest = shelf.put_blob(&new);
    let base = shelf.put_blob(&old).blob();
    let (count, len) = (manifest.chunks().len(), new.len());
    let encoder = crate::delta::Encoder::new(old.clone()).unwrap();
    for method in [netbuild_core::delta::Method::Patch, netbuild_core::delta::Method::Prefix] {
        let patch = encoder.encode(&new, 0, method).unwrap();
        let right = [&[0], &patch[..]].concat();
        let fetch = async |body: &[u8], base_bytes: &Bytes| {
            let from = says(run_frame(Coding::Delta, count, len, body));
            let b = agent(2, everyone(), Shelf::default());
            patched(&from.holder, &b, &manifest, &[base], Some(base_bytes.clone())).await
        };
        let (made, report, _) = fetch(&right, &old).await;
        assert!(report.is_ok() && made == new, "{report:?}");
        let mut of_another = right.clone();
        of_another[0] = 1;
        let more = [&right[..], b"more"].concat();
        for bad in [&of_another, &more, &right[..right.len() - 1].to_vec(), &vec![0; 2]] {
            let (made, report, _) = fetch(bad, &old).await;
            assert!(made.is_empty());
            assert!(matches!(report, Err(FetchError::Malformed { .. })), "{report:?}");
        }
        // Another base at this end, as if its digest lied.
        let (_, report, _) = fetch(&right, &Bytes::from(noise(3, old.len()))).await;
        let error = report.unwrap_err();
        assert!(
            matches!(error, FetchError::WrongBytes { .. } | FetchError::Malformed { .. }),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_base_for_which_there_is_no_room_is_as_good_as_none_until_there_is() {
    let mut shelf = Shelf::default();
    let pairs: Vec<_> = (0..2_u64)
        .map(|seed| {
            let old = Bytes::from(noise(seed, 600_000));
            let new = Bytes::from([&old[..], b"and more"].concat());
            let base = shelf.put_blob(&old).blob();
            (old, base, shelf.put_blob(&new))
        })
        .collect();
    let a = agent(1, everyone(), shelf);
    let b = agent(2, everyone(), Shelf::default());
    let at = holder(1, &a);
    let room = a.inner.links.provider.bases.room.clone();
    let all = room.available_permits();
    // A stream that is not at its end keeps its base.
    let connection = soon(crate::fixture::raw_connection(3, &at)).await;
    let (_, base, manifest) = &pairs[0];
    let request = Request::Delta {
        target: manifest.blob(),
        bases: vec![*base],
        first: 0,
        count: 1,
        accept: Default::default(),
    };
    let content = request.encode();
    let framed = [&(content.len() as u32).to_le_bytes()[..], &content].concat();
    let (mut send, mut receive) = soon(connection.open_bi()).await.unwrap();
    soon(send.write_all(&framed)).await.unwrap();
    soon(receive.read_exact(&mut [0; 11])).await.unwrap();
    let left = room.available_permits();
    assert!(left < all);
    // Others take what is left, for good.
    let _taken = room.try_acquire_many_owned(left as u32).unwrap();
    let (old, base, manifest) = &pairs[1];
    let other = async || patched(&at, &b, manifest, &[*base], Some(old.clone())).await;
    let (made, report, loads) = other().await;
    let missing = report.unwrap().missing.len();
    assert_eq!((made.len(), missing, loads), (0, manifest.chunks().len(), 0));
    drop((send, receive));
    connection.close(0_u32.into(), b"");
    soon(async { while other().await.0.is_empty() {} }).await;
}

#[tokio::test]
async fn a_holder_that_works_on_a_run_says_so_and_only_so_often_is_that_believed() {
    let content = prose(1, 500);
    let run = run_frame(Coding::Identity, 1, content.len(), &content);
    for (beats, believed) in [(MAX_BEATS, true), (MAX_BEATS + 1, false)] {
        let from = says([vec![0; 4 * beats as usize], run.clone()].concat());
        let b = agent(2, everyone(), Shelf::default());
        let report = fetch(&b, &from.holder, &[chunk(&content)], Terms::default()).await;
        let bytes = report.map(|report| (report.bytes, report.bytes_on_wire()));
        let wire = (run.len() + 4 * beats as usize) as u64;
        match believed {
            true => assert_eq!(bytes, Ok((500, wire))),
            false => assert_eq!(bytes, Err(FetchError::Stalled { peer: from.holder.peer })),
        }
    }
}

#[tokio::test]
async fn who_fetches_hears_of_a_run_while_it_comes() {
    let bytes = prose(1, 200_000);
    let run = run_frame(Coding::Identity, 1, bytes.len(), &bytes);
    let (heard, wanted) = (Arc::new(Notify::new()), chunk(&bytes));
    let half = heard.clone();
    let from = rogue(1, move |_, mut send| {
        let (half, run) = (half.clone(), run.clone());
        async move {
            let (first, rest) = run.split_at(100_000);
            let _ = send.write_all(first).await;
            half.notified().await;
            let _ = send.write_all(rest).await;
            let _ = send.finish();
            let _ = send.stopped().await;
        }
    });
    let b = agent(2, everyone(), Shelf::default());
    let mut orders = std::iter::once(Order::Chunks(vec![wanted]));
    let (hears, delivered) = (RefCell::new(Vec::new()), Cell::new(false));
    let hear = |coming: &Coming| {
        assert!(!delivered.get(), "it is here already");
        hears.borrow_mut().push(*coming);
        // All that was sent, but for the length and the header.
        if coming.here == 100_000 - 4 - RUN_HEADER as u64 {
            heard.notify_one();
        }
    };
    let deliver = |arrival: Option<Arrival>| {
        delivered.set(arrival.is_some_and(|arrival| arrival.bytes == bytes));
        ControlFlow::Continue(())
    };
    let next = || orders.next();
    soon(b.chunks(&from.holder, next, no_base, Terms::default(), hear, deliver)).await.unwrap();
    assert!(delivered.get());
    let hears = hears.into_inner();
    assert!(hears.is_sorted_by(|one, next| one.here < next.here), "{hears:?}");
    let (chunks, coding, size) = (1, Coding::Identity, bytes.len() as u64);
    let last = Coming { chunks, coding, decoded: size, wire: size, here: size };
    assert_eq!(hears.last(), Some(&last));
}

#[tokio::test]
async fn patience_holds_for_runs_as_for_anything() {
    let whole = run_frame(Coding::Identity, 1, 3, b"any");
    let from = rogue(1, move |_, mut send| {
        let cut = whole[..8].to_vec();
        async move {
            let _ = send.write_all(&cut).await;
            std::future::pending::<()>().await;
        }
    });
    let b = agent(2, everyone(), Shelf::default());
    let between = std::time::Duration::from_millis(50);
    let terms = Terms::from(Patience { between, ..Patience::default() });
    let error = fetch(&b, &from.holder, &[chunk(b"any")], terms).await.unwrap_err();
    assert_eq!(error, FetchError::Stalled { peer: from.holder.peer });
}
