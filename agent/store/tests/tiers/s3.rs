//! S3 as two servers speak it: what it costs, what becomes of segments, and failures.

use crate::{
    common::noise,
    conformance::{batch, blob, changes, conforms, offer, read, tiny},
};
use netbuild_core::{digest::Digest, key::ActionKey};
use netbuild_servers::{Fault, KEY, Moto, Proxy, SECRET, Seaweed};
use netbuild_store::{Batch, Blob, ChangeCursor, Class, Operation, S3Options, S3Tier, Tier};
use std::{
    io,
    time::{Duration, Instant},
};

fn options(endpoint: &str, prefix: &str) -> S3Options {
    with(endpoint, &format!("netbuild/{prefix}"), KEY, SECRET)
}

fn with(endpoint: &str, bucket: &str, key: &str, secret: &str) -> S3Options {
    let vars = [("AWS_ACCESS_KEY_ID", key), ("AWS_SECRET_ACCESS_KEY", secret)];
    let vars = vars.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let mut options = S3Options::new(&bucket.parse().unwrap(), &vars);
    options.endpoint = Some(endpoint.to_owned());
    options.region = Some("us-east-1".to_owned());
    options
}

fn tier(endpoint: &str, prefix: &str) -> S3Tier {
    S3Tier::new(options(endpoint, prefix)).unwrap()
}

fn pair(endpoint: &str, prefix: &str) -> (S3Tier, S3Tier) {
    (tier(endpoint, prefix), tier(endpoint, prefix))
}

/// A proxy before a server, and a tier that goes through it and is patient for a second only.
fn behind(seaweed: &Seaweed, prefix: &str) -> (Proxy, S3Tier) {
    let proxy = Proxy::start(seaweed.port());
    let endpoint = format!("http://127.0.0.1:{}", proxy.port());
    let mut options = options(&endpoint, prefix);
    options.patience = Duration::from_secs(1);
    (proxy, S3Tier::new(options).unwrap())
}

#[tokio::test]
async fn seaweedfs_conforms() {
    let seaweed = Seaweed::start();
    conforms(|prefix| pair(&seaweed.endpoint(), &format!("deep/{prefix}"))).await;
    // Without a prefix.
    let tier = tier(&seaweed.endpoint(), "");
    let (name, bytes) = blob(2048);
    tier.put(batch(&[(name, bytes.clone())], &[])).await.unwrap();
    assert_eq!(self::tier(&seaweed.endpoint(), "").small(&[name]).await.unwrap(), [Some(bytes)]);
}

#[tokio::test]
async fn moto_conforms() {
    let moto = Moto::start();
    conforms(|prefix| pair(&moto.endpoint(), prefix)).await;
}

/// What a server that has never heard of conditional writes does with them: nothing.
#[tokio::test]
async fn a_server_that_ignores_conditions_conforms_and_loses_nothing_to_writers_at_once() {
    let moto = Moto::start();
    let proxy = Proxy::start(moto.port());
    proxy.set(Fault::Unconditional);
    let endpoint = format!("http://127.0.0.1:{}", proxy.port());
    conforms(|prefix| pair(&endpoint, prefix)).await;
    assert!(proxy.answered() > 0, "no write had a condition");
    // Four agents put the same blobs and records of their own, and tend, all at once.
    let agents: Vec<S3Tier> = (0..4).map(|_| tier(&endpoint, "at-once")).collect();
    let blobs: Vec<_> = [3000, 5000, 300 << 10].map(blob).into();
    let names: Vec<Digest> = blobs.iter().map(|(name, _)| *name).collect();
    for round in 0..6_u8 {
        let puts = agents.iter().zip(0..).map(|(agent, n)| {
            let offer = offer(round * 4 + n, 1, &names);
            let batch = batch(&blobs, &[offer]);
            async move {
                agent.put(batch).await.unwrap();
                agent.tend().await.unwrap();
            }
        });
        futures::future::join_all(puts).await;
    }
    let reader = tier(&endpoint, "at-once");
    let (told, _) = changes(&reader, ChangeCursor::default()).await;
    let keys: std::collections::BTreeSet<_> = told.iter().map(|told| told.record().key).collect();
    assert_eq!(keys.len(), 24);
    let keys: Vec<_> = keys.into_iter().collect();
    assert!(reader.records(&keys).await.unwrap().iter().all(Option::is_some));
    let small = reader.small(&names).await.unwrap();
    for ((_, bytes), small) in blobs.iter().zip(small) {
        assert_eq!(small.as_ref(), Some(bytes));
    }
}

#[tokio::test]
async fn ten_thousand_tiny_blobs_cost_few_requests() {
    let seaweed = Seaweed::start();
    let (tier, empty) = pair(&seaweed.endpoint(), "tiny");
    let (blobs, offers) = tiny();
    // As a queue hands them on: as much at a time as the tier says is worth it.
    let per_batch = (tier.limits().batch / 2048) as usize;
    for (blobs, offers) in blobs.chunks(per_batch).zip(offers.chunks(per_batch)) {
        tier.put(batch(blobs, offers)).await.unwrap();
    }
    let put = tier.counts().of(Operation::Put);
    println!("put: {put:?}");
    assert!(put.requests <= 20, "{put:?}");
    let content = 10_000 * 2048;
    assert!(put.sent < content + content / 2, "{put:?}");

    let (records, _) = changes(&empty, ChangeCursor::default()).await;
    assert_eq!(records.len(), offers.len());
    // Each segment is read once, and the list.
    let told = empty.counts().of(Operation::Changes);
    println!("changes: {told:?}");
    assert!(told.requests <= put.requests + 2, "{told:?}, {put:?}");
    let names: Vec<_> = blobs.iter().map(|(name, _)| *name).collect();
    assert!(empty.find(&names).await.unwrap().iter().all(|found| *found));
    for blobs in blobs.chunks(1000) {
        let names: Vec<_> = blobs.iter().map(|(name, _)| *name).collect();
        for ((_, bytes), found) in blobs.iter().zip(empty.small(&names).await.unwrap()) {
            assert_eq!(found.as_ref(), Some(bytes));
        }
    }
    let total = empty.counts().total();
    println!("read by an empty agent: {total:?}");
    assert!(total.requests <= 40, "{total:?}");
    assert!(total.received < 2 * content, "{total:?}");
}

#[tokio::test]
async fn small_segments_are_put_together_while_others_read_and_do_the_same() {
    let seaweed = Seaweed::start();
    let (tier, other) = pair(&seaweed.endpoint(), "merge");
    let mut names = Vec::new();
    let mut records = Vec::new();
    for n in 0..40u8 {
        let bytes = noise(3000, u64::from(n));
        let name = Digest::of(&bytes);
        let record = offer(n, 1, &[name]);
        tier.put(batch(&[(name, bytes.into())], std::slice::from_ref(&record))).await.unwrap();
        names.push(name);
        records.push(record.record);
    }
    let (told, cursor) = changes(&other, ChangeCursor::default()).await;
    assert_eq!(told.len(), 40);
    let (one, two) = futures::future::join(tier.tend(), other.tend()).await;
    let merged = one.unwrap().merged + two.unwrap().merged;
    assert!(merged >= 40, "{merged}");
    // One more agent that knew the old segments, and a new one.
    let new = self::tier(&seaweed.endpoint(), "merge");
    for agent in [&tier, &other, &new] {
        let before = agent.counts().total().requests;
        for (name, found) in names.iter().zip(agent.small(&names).await.unwrap()) {
            assert!(found.is_some_and(|bytes| name.matches(&bytes)));
        }
        assert!(agent.counts().total().requests - before <= 6);
        let keys: Vec<_> = records.iter().map(|record| record.record().key).collect();
        let found = agent.records(&keys).await.unwrap();
        assert_eq!(found, records.iter().cloned().map(Some).collect::<Vec<_>>());
    }
    let (all, _) = changes(&new, ChangeCursor::default()).await;
    assert_eq!(all.len(), 40, "merged twice, told twice");
    let (_, cursor) = changes(&other, cursor).await;
    let late = offer(99, 1, &[]);
    tier.put(batch(&[], std::slice::from_ref(&late))).await.unwrap();
    let (told, _) = changes(&other, cursor).await;
    assert_eq!(told, [late.record]);
    assert_eq!(tier.tend().await.unwrap().merged, 0, "nothing is left to do");
}

#[tokio::test]
async fn a_reader_finds_what_was_moved_under_its_feet() {
    let seaweed = Seaweed::start();
    let (tier, reader) = pair(&seaweed.endpoint(), "moved");
    let mut names = Vec::new();
    for n in 0..20u64 {
        let bytes = noise(3000, n);
        names.push(Digest::of(&bytes));
        tier.put(batch(&[(names[n as usize], bytes.into())], &[])).await.unwrap();
    }
    assert!(reader.find(&names).await.unwrap().iter().all(|found| *found));
    assert!(tier.tend().await.unwrap().merged >= 20);
    for (name, found) in names.iter().zip(reader.small(&names).await.unwrap()) {
        assert!(found.is_some_and(|bytes| name.matches(&bytes)));
    }
    let part = read(&reader, &names[3], 5..9).await.unwrap();
    assert_eq!(part, noise(3000, 3)[5..9]);
}

#[tokio::test]
async fn what_expired_is_deleted_unless_something_young_needs_it() {
    let seaweed = Seaweed::start();
    let make = |expire| {
        let mut options = options(&seaweed.endpoint(), "old");
        (options.expire, options.slack) = (Some(Duration::from_secs(expire)), Duration::ZERO);
        S3Tier::new(options).unwrap()
    };
    // To this one all is young, to the other one all that is older than a second is old.
    let (keeps, expires) = (make(3600), make(1));
    let (small, large) = (blob(5000), blob(300 << 10));
    let (needed, needed_large) = (blob(6000), blob(301 << 10));
    let first = [small.clone(), large.clone(), needed.clone(), needed_large.clone()];
    let old = offer(1, 1, &[small.0, large.0]);
    keeps.put(batch(&first, &[old])).await.unwrap();
    // The clock of the server has to go on; it has whole seconds.
    tokio::time::sleep(Duration::from_secs(3)).await;
    // This relies on blobs that are there already, as a new build does.
    let young = offer(2, 2, &[needed.0, needed_large.0]);
    let again = keeps.put(batch(&first[2..], std::slice::from_ref(&young))).await.unwrap();
    assert_eq!((again.present, again.blobs), (2, 0));
    let all = [small.0, large.0, needed.0, needed_large.0];
    let done = expires.tend().await.unwrap();
    assert!(done.deleted >= 2 && done.freed > 300 << 10, "{done:?}");
    let fresh = make(3600);
    assert_eq!(fresh.find(&all).await.unwrap(), [false, false, true, true]);
    let keys = [ActionKey([1; 32]), ActionKey([2; 32])];
    assert_eq!(fresh.records(&keys).await.unwrap(), [None, Some(young.record)]);
    assert_eq!(fresh.small(&[needed.0]).await.unwrap(), [Some(needed.1)]);
    // Who wants to rely on what is about to expire writes it again.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let stored = make(1).put(batch(&first[2..], &[])).await.unwrap();
    assert_eq!((stored.present, stored.blobs), (0, 2));
}

#[tokio::test]
async fn errors_are_what_they_are_and_name_the_tier() {
    let seaweed = Seaweed::start();
    let (proxy, tier) = behind(&seaweed, "harm");
    let (name, bytes) = blob(2048);
    let (large, content) = blob(300 << 10);
    let all = [(name, bytes.clone()), (large, content.clone())];
    tier.put(batch(&all, &[offer(1, 1, &[name, large])])).await.unwrap();
    let xml = |code| format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
    let slow_down = xml("SlowDown").leak();
    let skewed = xml("RequestTimeTooSkewed").leak();
    let denied = xml("AccessDenied").leak();
    for (fault, expected) in [
        (Fault::Answer("503 Slow Down", slow_down), Class::Throttled),
        (Fault::Answer("500 Internal Server Error", ""), Class::Unreachable),
        (Fault::Answer("403 Forbidden", skewed), Class::Refused),
        (Fault::Answer("403 Forbidden", denied), Class::Refused),
        (Fault::Answer("507 Insufficient Storage", ""), Class::Full),
        (Fault::Close, Class::Unreachable),
        (Fault::Stall, Class::Unreachable),
        (Fault::Cut(100), Class::Unreachable),
    ] {
        proxy.set(fault.clone());
        let since = Instant::now();
        let before = tier.counts().total().requests;
        let (one, more) = (blob(400 << 10), blob(3000));
        let errors = [
            tier.small(&[large]).await.map(drop).unwrap_err(),
            tier.put(batch(&[one], &[])).await.map(drop).unwrap_err(),
            tier.put(batch(&[more], &[])).await.map(drop).unwrap_err(),
            tier.changes(&ChangeCursor::default()).await.map(drop).unwrap_err(),
            tier.probe().await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.class(), expected, "{fault:?}: {error}");
            let text = error.to_string();
            assert!(text.contains("s3://netbuild/harm") && !text.contains(SECRET), "{text}");
        }
        let requests = tier.counts().total().requests - before;
        assert!(requests <= 5 * 4, "{fault:?} took {requests} requests");
        assert!(since.elapsed() < Duration::from_secs(120), "{fault:?}: {:?}", since.elapsed());
        proxy.set(Fault::None);
        assert_eq!(tier.small(&[name, large]).await.unwrap()[1].as_ref(), Some(&content));
    }
    proxy.set(Fault::Answer("403 Forbidden", skewed));
    let error = tier.probe().await.unwrap_err().to_string();
    assert!(error.contains("clock"), "{error}");
}

#[tokio::test]
async fn wrong_bytes_are_never_served_and_are_put_again() {
    let seaweed = Seaweed::start();
    let (proxy, tier) = behind(&seaweed, "lies");
    let (name, bytes) = blob(2048);
    let (large, content) = blob(300 << 10);
    let all = [(name, bytes.clone()), (large, content.clone())];
    let record = offer(1, 1, &[name, large]);
    let put = || batch(&all, std::slice::from_ref(&record));
    tier.put(put()).await.unwrap();
    proxy.set(Fault::Flip);
    assert_eq!(tier.small(&[name, large]).await.unwrap(), [None, None]);
    proxy.set(Fault::None);
    // They are not believed to be there, until they are written anew.
    assert_eq!(tier.find(&[name, large]).await.unwrap(), [false, false]);
    let stored = tier.put(put()).await.unwrap();
    assert_eq!((stored.blobs, stored.present), (2, 0));
    assert_eq!(tier.small(&[name, large]).await.unwrap(), [Some(bytes), Some(content)]);
    // An index that lies is not used, and a reader of the whole sees no wrong record.
    proxy.set(Fault::Flip);
    let fresh =
        S3Tier::new(options(&format!("http://127.0.0.1:{}", proxy.port()), "lies")).unwrap();
    if let Ok((told, _)) = fresh.changes(&ChangeCursor::default()).await.map(|c| (c.records, 0)) {
        assert!(told.iter().all(|told| *told == record.record));
    }
}

#[tokio::test]
async fn a_large_blob_goes_in_parts_and_is_read_on_after_a_cut() {
    let seaweed = Seaweed::start();
    let (proxy, tier) = behind(&seaweed, "large");
    let (name, bytes) = blob(20 << 20);
    let mut harmed = bytes.to_vec();
    harmed[19 << 20] ^= 1;
    let bad = Batch {
        blobs: vec![(name, Blob::Reader(Box::new(io::Cursor::new(harmed))))],
        records: Vec::new(),
    };
    assert_eq!(tier.put(bad).await.unwrap_err().class(), Class::Content);
    assert_eq!(tier.find(&[name]).await.unwrap(), [false]);
    tier.put(batch(&[(name, bytes.clone())], &[])).await.unwrap();
    let mut got = Vec::new();
    let mut cuts = 0;
    while got.len() < bytes.len() {
        proxy.set(Fault::None);
        let Ok(Some(mut pieces)) = tier.read(&name, got.len() as u64..name.size).await else {
            continue;
        };
        while let Some(piece) = futures::StreamExt::next(&mut pieces).await {
            match piece {
                Ok(piece) => got.extend_from_slice(&piece),
                Err(error) => {
                    assert_eq!(error.class(), Class::Unreachable, "{error}");
                    break;
                }
            }
            if cuts < 3 && got.len() > (cuts + 1) << 20 {
                proxy.set(Fault::Cut(10));
                cuts += 1;
            }
        }
    }
    assert!(cuts == 3 && got == bytes, "{cuts} cuts, {} bytes", got.len());
}

#[tokio::test]
async fn a_server_that_is_down_is_no_wait_and_comes_back() {
    let mut seaweed = Seaweed::start();
    let tier = tier(&seaweed.endpoint(), "down");
    let (name, bytes) = blob(300 << 10);
    tier.put(batch(&[(name, bytes.clone())], &[])).await.unwrap();
    seaweed.kill();
    for _ in 0..3 {
        let since = Instant::now();
        let error = tier.small(&[name]).await.unwrap_err();
        assert_eq!(error.class(), Class::Unreachable, "{error}");
        assert!(since.elapsed() < Duration::from_secs(60));
    }
    seaweed.restart();
    // It answers with errors of its own before it has all of its data again.
    let mut tries = 0;
    let found = loop {
        match tier.small(&[name]).await {
            Ok(found) => break found,
            Err(error) => assert_eq!(error.class(), Class::Unreachable, "{error}"),
        }
        tries += 1;
        assert!(tries < 200);
    };
    assert_eq!(found, [Some(bytes)]);
}

#[tokio::test]
async fn wrong_credentials_and_buckets_are_refused() {
    let seaweed = Seaweed::start();
    let endpoint = seaweed.endpoint();
    let with = |bucket: &str, key: &str, secret: &str| {
        S3Tier::new(with(&endpoint, bucket, key, secret)).unwrap()
    };
    for (tier, why) in [
        (with("netbuild/x", KEY, "hidden-wrong"), "a wrong secret"),
        (with("netbuild/x", "nobody", SECRET), "a wrong key"),
        (with("no-such-bucket/x", KEY, SECRET), "no bucket"),
    ] {
        let error = tier.probe().await.unwrap_err();
        assert_eq!(error.class(), Class::Refused, "{why}: {error}");
        let shown = format!("{error} {error:?} {tier:?}");
        assert!(!shown.contains("hidden-wrong") && !shown.contains(SECRET), "{shown}");
    }
    with("netbuild/x", KEY, SECRET).probe().await.unwrap();
}
