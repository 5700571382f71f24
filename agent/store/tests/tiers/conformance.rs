//! What every tier promises, asked of each of them.

use crate::common::{at, noise, with_outputs};
use bytes::Bytes;
use futures::TryStreamExt as _;
use netbuild_core::{digest::Digest, key::ActionKey};
use netbuild_proto::record::SealedRecord;
use netbuild_store::{Batch, Blob, ChangeCursor, Class, MAX_SMALL, MemoryTier, Offer, Tier};
use std::{io, ops::Range};

/// Sizes on both sides of the boundaries inside a tier.
const SIZES: [usize; 8] =
    [0, 1, 2048, 256 << 10, (256 << 10) + 1, MAX_SMALL as usize, MAX_SMALL as usize + 1, 20 << 20];

/// Bytes of this size with their name.
pub(crate) fn blob(size: usize) -> (Digest, Bytes) {
    let bytes = noise(size, size as u64 + 77);
    (Digest::of(&bytes), bytes.into())
}

/// The sizes that a tier takes.
fn sizes(tier: &dyn Tier) -> impl Iterator<Item = usize> {
    let largest = tier.limits().blob;
    SIZES.into_iter().filter(move |size| *size as u64 <= largest)
}

/// A record of the action `key` with these outputs, and what it consists of.
pub(crate) fn offer(key: u8, hlc: u64, blobs: &[Digest]) -> Offer {
    let outputs: Vec<_> = blobs.iter().map(|blob| ("out/a", *blob)).collect();
    Offer { record: with_outputs(key, hlc, &outputs), blobs: blobs.to_vec() }
}

pub(crate) fn batch(blobs: &[(Digest, Bytes)], records: &[Offer]) -> Batch {
    let blobs = blobs.iter().map(|(digest, bytes)| (*digest, Blob::Bytes(bytes.clone())));
    Batch { blobs: blobs.collect(), records: records.to_vec() }
}

/// Ten thousand blobs of 2 KiB, each the output of an action of its own.
pub(crate) fn tiny() -> (Vec<(Digest, Bytes)>, Vec<Offer>) {
    let blobs = (0..10_000u64).map(|n| {
        let bytes = noise(2048, n);
        (Digest::of(&bytes), bytes.into())
    });
    let blobs: Vec<(Digest, Bytes)> = blobs.collect();
    let offers = blobs.iter().zip(0u64..).map(|((digest, _), n)| {
        let mut key = [7; 32];
        key[..8].copy_from_slice(&(n * 2).to_le_bytes());
        Offer { record: at(1, ActionKey(key), 1, 0), blobs: vec![*digest] }
    });
    let offers = offers.collect();
    (blobs, offers)
}

pub(crate) async fn read(tier: &dyn Tier, blob: &Digest, range: Range<u64>) -> Option<Vec<u8>> {
    let pieces = tier.read(blob, range).await.unwrap()?;
    Some(pieces.try_collect::<Vec<_>>().await.unwrap().concat())
}

/// All records that came in since, and from where to go on.
pub(crate) async fn changes(
    tier: &dyn Tier,
    mut after: ChangeCursor,
) -> (Vec<SealedRecord>, ChangeCursor) {
    let mut records = Vec::new();
    loop {
        let changes = tier.changes(&after).await.unwrap();
        records.extend(changes.records);
        after = changes.cursor;
        if !changes.more {
            return (records, after);
        }
    }
}

async fn blobs_come_back_as_they_were_put(tier: &dyn Tier, other: &dyn Tier) {
    let blobs: Vec<_> = sizes(tier).map(blob).collect();
    let names: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
    assert_eq!(tier.find(&names).await.unwrap(), vec![false; names.len()]);
    assert_eq!(tier.small(&names).await.unwrap(), vec![None; names.len()]);
    for name in &names {
        assert!(tier.read(name, 0..name.size).await.unwrap().is_none());
    }
    let readers = blobs
        .iter()
        .map(|(digest, bytes)| (*digest, Blob::Reader(Box::new(io::Cursor::new(bytes.clone())))));
    let stored = tier.put(Batch { blobs: readers.collect(), records: Vec::new() }).await.unwrap();
    assert_eq!((stored.blobs, stored.present), (names.len() as u64, 0));
    for agent in [tier, other] {
        assert_eq!(agent.find(&names).await.unwrap(), vec![true; names.len()]);
        let small = agent.small(&names).await.unwrap();
        for ((name, bytes), small) in blobs.iter().zip(small) {
            assert_eq!(small, (name.size <= MAX_SMALL).then(|| bytes.clone()), "{name}");
            assert_eq!(read(agent, name, 0..name.size).await.as_deref(), Some(&bytes[..]));
        }
    }
}

async fn what_is_there_costs_no_second_writing(tier: &dyn Tier, other: &dyn Tier) {
    let blobs: Vec<_> = sizes(tier).map(blob).collect();
    tier.put(batch(&blobs, &[])).await.unwrap();
    for agent in [tier, other] {
        let stored = agent.put(batch(&blobs, &[])).await.unwrap();
        assert_eq!((stored.blobs, stored.present), (0, blobs.len() as u64));
        assert_eq!(stored.bytes, 0);
    }
}

async fn parts_of_blobs_are_read(tier: &dyn Tier, _: &dyn Tier) {
    for size in sizes(tier).filter(|size| *size > 1) {
        let (name, bytes) = blob(size);
        tier.put(batch(&[(name, bytes.clone())], &[])).await.unwrap();
        let size = size as u64;
        for range in [0..1, size - 1..size, size / 3..size / 2, size / 2..size] {
            let part = read(tier, &name, range.clone()).await;
            let expected = &bytes[range.start as usize..range.end as usize];
            assert_eq!(part.as_deref(), Some(expected), "{name} {range:?}");
        }
    }
}

async fn wrong_content_is_refused_and_not_kept(tier: &dyn Tier, _: &dyn Tier) {
    for size in sizes(tier).filter(|size| *size > 0) {
        let (name, bytes) = blob(size);
        let record = offer(1, 1, &[name]);
        for bad in [bytes.slice(1..), [&bytes[..], b"x"].concat().into(), noise(size, 3).into()] {
            for blob in [Blob::Bytes(bad.clone()), Blob::Reader(Box::new(io::Cursor::new(bad)))] {
                let batch = Batch { blobs: vec![(name, blob)], records: vec![record.clone()] };
                let refused = tier.put(batch).await.unwrap_err();
                assert_eq!(refused.class(), Class::Content, "{refused}");
                assert_eq!(refused.tier(), tier.name());
            }
        }
        assert_eq!(tier.find(&[name]).await.unwrap(), [false]);
    }
    assert_eq!(tier.records(&[ActionKey([1; 32])]).await.unwrap(), [None]);
}

async fn what_is_too_large_is_refused_as_such(tier: &dyn Tier, _: &dyn Tier) {
    let (hash, size) = (blob(1).0.hash, tier.limits().blob + 1);
    let large = (Digest { hash, size }, Blob::Reader(Box::new(io::repeat(0))));
    let batch = Batch { blobs: vec![large], records: Vec::new() };
    assert_eq!(tier.put(batch).await.unwrap_err().class(), Class::TooLarge);
}

async fn a_digest_with_another_size_is_another_blob(tier: &dyn Tier, _: &dyn Tier) {
    for size in [2048, 300 << 10] {
        let (name, bytes) = blob(size);
        tier.put(batch(&[(name, bytes.clone())], &[])).await.unwrap();
        for size in [0, name.size - 1, name.size + 1] {
            let other = Digest { size, ..name };
            assert_eq!(tier.find(&[other]).await.unwrap(), [false]);
            assert_eq!(tier.small(&[other]).await.unwrap(), [None]);
            assert!(tier.read(&other, 0..size).await.unwrap().is_none());
        }
        assert_eq!(tier.small(&[name]).await.unwrap(), [Some(bytes)]);
    }
}

async fn the_latest_record_counts(tier: &dyn Tier, other: &dyn Tier) {
    let key = ActionKey([4; 32]);
    assert_eq!(tier.records(&[key]).await.unwrap(), [None]);
    let versions = [offer(4, 10, &[]), offer(4, 30, &[]), offer(4, 20, &[])];
    for (version, expected) in versions.iter().zip([0, 1, 1]) {
        tier.put(batch(&[], std::slice::from_ref(version))).await.unwrap();
        for agent in [tier, other] {
            // What others put may be seen with the next changes only.
            changes(agent, ChangeCursor::default()).await;
            let found = agent.records(&[ActionKey([5; 32]), key]).await.unwrap();
            assert_eq!(found, [None, Some(versions[expected].record.clone())]);
        }
    }
}

async fn changes_are_told_once_and_survive_a_restart(tier: &dyn Tier, other: &dyn Tier) {
    let (none, cursor) = changes(other, ChangeCursor::default()).await;
    assert!(none.is_empty());
    let (name, bytes) = blob(2048);
    let first: Vec<_> = (0..100).map(|key| offer(key, 1, &[name])).collect();
    tier.put(batch(&[(name, bytes.clone())], &first)).await.unwrap();
    let sorted = |mut records: Vec<SealedRecord>| {
        records.sort_by_key(|record| record.record().key);
        records.dedup();
        records
    };
    let expected: Vec<_> = first.iter().map(|offer| offer.record.clone()).collect();
    let (told, cursor) = changes(other, cursor).await;
    assert_eq!(sorted(told), expected);
    assert_eq!(other.small(&[name]).await.unwrap(), [Some(bytes)]);
    let (again, cursor) = changes(other, cursor).await;
    assert!(again.is_empty(), "{}", again.len());
    tier.put(batch(&[], &[offer(200, 5, &[name])])).await.unwrap();
    let (told, _) = changes(other, cursor.clone()).await;
    assert_eq!(told, [offer(200, 5, &[name]).record]);
    let (all, _) = changes(other, ChangeCursor("nonsense".into())).await;
    assert_eq!(sorted(all).len(), 101);
}

async fn many_small_ones_come_in_one_go(tier: &dyn Tier, other: &dyn Tier) {
    let blobs: Vec<(Digest, Bytes)> = (0..700u64)
        .map(|n| noise(100 + n as usize * 3, n))
        .map(|bytes| (Digest::of(&bytes), bytes.into()))
        .collect();
    let names: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
    tier.put(batch(&blobs, &[offer(1, 1, &names[..5])])).await.unwrap();
    changes(other, ChangeCursor::default()).await;
    let missing = blob(99).0;
    let mut asked = names.clone();
    asked.insert(300, missing);
    let before = other.counts().total().requests;
    let mut found = other.small(&asked).await.unwrap();
    assert!(other.counts().total().requests - before <= 20);
    assert_eq!(found.remove(300), None);
    for ((name, bytes), found) in blobs.iter().zip(found) {
        assert_eq!(found.as_ref(), Some(bytes), "{name}");
    }
    for name in names.iter().step_by(100) {
        other.doubt(name).await.unwrap();
    }
    other.doubt(&missing).await.unwrap();
    assert_eq!(other.find(&names).await.unwrap(), vec![true; names.len()]);
}

async fn counts_say_what_was_asked(tier: &dyn Tier, _: &dyn Tier) {
    let (name, bytes) = blob(2048);
    tier.put(batch(&[(name, bytes)], &[offer(1, 1, &[name])])).await.unwrap();
    let before = tier.counts().total();
    assert!(before.requests > 0 && before.sent >= 2048, "{before:?}");
    tier.small(&[name]).await.unwrap();
    let after = tier.counts().total();
    assert!(after.requests > before.requests && after.received >= before.received + 2048);
    tier.probe().await.unwrap();
    tier.tend().await.unwrap();
}

async fn nothing_asked_is_nothing_answered(tier: &dyn Tier, _: &dyn Tier) {
    assert!(tier.find(&[]).await.unwrap().is_empty());
    assert!(tier.small(&[]).await.unwrap().is_empty());
    assert!(tier.records(&[]).await.unwrap().is_empty());
    assert_eq!(tier.put(Batch::default()).await.unwrap(), Default::default());
}

macro_rules! cases {
    ($($case:ident),* $(,)?) => {
        /// Asks a tier for everything that is promised. `make` makes two handles, as two agents have
        /// them, to a new empty tier of this name.
        pub(crate) async fn conforms<T: Tier>(make: impl Fn(&str) -> (T, T)) {
            $(
                println!("{}", stringify!($case));
                let (tier, other) = make(stringify!($case));
                Box::pin($case(&tier, &other)).await;
            )*
        }
    };
}

cases! {
    blobs_come_back_as_they_were_put,
    what_is_there_costs_no_second_writing,
    parts_of_blobs_are_read,
    wrong_content_is_refused_and_not_kept,
    what_is_too_large_is_refused_as_such,
    a_digest_with_another_size_is_another_blob,
    the_latest_record_counts,
    changes_are_told_once_and_survive_a_restart,
    many_small_ones_come_in_one_go,
    counts_say_what_was_asked,
    nothing_asked_is_nothing_answered,
}

#[tokio::test]
async fn memory_conforms() {
    conforms(|_| {
        let tier = MemoryTier::new();
        (tier.clone(), tier)
    })
    .await;
}
