//! What every store promises, asked of each backend.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod common;

use common::{noise, put, read, record, sealed};
use netbuild_core::{
    chunk::{Chunk, Chunker, MAX_CHUNK, Manifest},
    digest::{Digest, Hash},
    key::ActionKey,
    merge::{Level, MAX_CONFLICTS, MAX_VARIANTS, Trust},
    peer::{Identity, PeerId},
    sketch::Sketcher,
};
use netbuild_proto::record::SealedRecord;
use netbuild_store::{Conflict, DiskStore, Kept, MAX_BLOB, MemoryStore, Store, StoreError};
use std::io::{self, Read};

/// Sizes on both sides of every boundary inside a store.
const SIZES: [usize; 8] =
    [0, 1, 16 * 1024, 16 * 1024 + 1, 300_000, MAX_CHUNK, MAX_CHUNK + 1, 7 << 20];

fn manifest_of(bytes: &[u8]) -> Manifest {
    let mut chunker = Chunker::new();
    chunker.update(bytes);
    chunker.finish()
}

fn blobs_come_back_as_they_were_put(store: &dyn Store) {
    for size in SIZES {
        let bytes = noise(size, size as u64);
        let blob = Digest::of(&bytes);
        assert!(!store.has_blob(&blob).unwrap());
        assert!(store.open_blob(&blob).unwrap().is_none());
        assert!(store.manifest(&blob).unwrap().is_none());
        store.put_blob(&blob, &mut &bytes[..]).unwrap();
        store.put_blob(&blob, &mut &bytes[..]).unwrap();
        assert_eq!(store.put_content(&mut &bytes[..]).unwrap(), blob);
        assert!(store.has_blob(&blob).unwrap());
        assert_eq!(read(store, &blob).as_ref(), Some(&bytes));
        assert_eq!(store.manifest(&blob).unwrap(), Some(manifest_of(&bytes)));
    }
    store.flush().unwrap();
    store.flush().unwrap();
    let stats = store.stats();
    assert_eq!(stats.blobs, SIZES.len() as u64);
    assert_eq!(stats.blob_bytes, SIZES.iter().sum::<usize>() as u64);
}

fn a_digest_with_another_size_is_another_blob(store: &dyn Store) {
    for size in [100, 100_000] {
        let bytes = noise(size, 5);
        let blob = store.put_content(&mut &bytes[..]).unwrap();
        for size in [0, blob.size - 1, blob.size + 1, 20_000, u64::MAX] {
            let other = Digest { size, ..blob };
            assert!(!store.has_blob(&other).unwrap());
            assert!(store.open_blob(&other).unwrap().is_none());
            assert!(store.manifest(&other).unwrap().is_none());
        }
        assert_eq!(read(store, &blob).as_ref(), Some(&bytes));
    }
    assert_eq!(store.stats().quarantined, 0);
}

fn wrong_content_is_refused_and_not_kept(store: &dyn Store) {
    for size in [100, 100_000, 3 << 20] {
        let bytes = noise(size, 1);
        let blob = Digest::of(&bytes);
        let longer = [&bytes[..], b"x"].concat();
        let mut flipped = bytes.clone();
        flipped[size / 2] ^= 1;
        for bad in [&bytes[1..], &longer, &flipped, b""] {
            let refused = store.put_blob(&blob, &mut &bad[..]);
            assert!(matches!(refused, Err(StoreError::Mismatch(named)) if named == blob));
            assert!(!store.has_blob(&Digest::of(bad)).unwrap());
        }
        // Content without an end is given up, not stored.
        assert!(store.put_blob(&blob, &mut io::repeat(7)).is_err());
        assert!(!store.has_blob(&blob).unwrap());
    }
    assert_eq!(store.stats().blobs, 0);
}

fn a_reader_that_fails_leaves_nothing(store: &dyn Store) {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("gone"))
        }
    }
    for size in [100, 100_000] {
        let bytes = noise(size, 1);
        let failed = store.put_content(&mut (&bytes[..]).chain(Failing));
        assert!(matches!(failed, Err(StoreError::Content(_))));
    }
    assert_eq!(store.stats().blobs, 0);
}

fn every_chunk_of_every_blob_is_served(store: &dyn Store) {
    for size in SIZES {
        let bytes = noise(size, 9);
        store.put_content(&mut &bytes[..]).unwrap();
        for (offset, chunk) in manifest_of(&bytes).offsets() {
            let part = &bytes[offset as usize..][..chunk.len as usize];
            assert_eq!(store.chunk(&chunk).unwrap().as_deref(), Some(part));
            for len in [0, chunk.len - 1, chunk.len + 1, u32::MAX] {
                assert_eq!(store.chunk(&Chunk { len, ..chunk }).unwrap(), None);
            }
        }
    }
    let unknown = Chunk { hash: Hash([9; 32]), len: 5 };
    assert_eq!(store.chunk(&unknown).unwrap(), None);
}

fn a_blob_arrives_chunk_by_chunk_in_any_order(store: &dyn Store) {
    for size in SIZES {
        let bytes = noise(size, 3);
        let manifest = manifest_of(&bytes);
        let mut partial = store.begin_blob(&manifest).unwrap();
        let parts: Vec<_> = manifest.offsets().collect();
        for (index, (offset, chunk)) in parts.iter().enumerate().rev() {
            let part = &bytes[*offset as usize..][..chunk.len as usize];
            let mut wrong = part.to_vec();
            wrong[0] ^= 1;
            for bad in [&wrong[..], &part[1..], b""] {
                assert!(matches!(
                    partial.write_chunk(index, bad),
                    Err(StoreError::ChunkMismatch { .. })
                ));
            }
            partial.write_chunk(index, part).unwrap();
            partial.write_chunk(index, part).unwrap();
        }
        assert!(matches!(
            partial.write_chunk(parts.len(), b"x"),
            Err(StoreError::NoSuchChunk { .. })
        ));
        assert!(!store.has_blob(&manifest.blob()).unwrap());
        partial.finish().unwrap();
        assert_eq!(read(store, &manifest.blob()), Some(bytes));
    }
}

fn an_unfinished_or_lying_arrival_leaves_nothing(store: &dyn Store) {
    for size in [100, 100_000, 7 << 20] {
        let bytes = noise(size, 3);
        let honest = manifest_of(&bytes);
        let partial = store.begin_blob(&honest).unwrap();
        assert!(matches!(partial.finish(), Err(StoreError::Incomplete { .. })));

        let lie = Digest { hash: Hash([1; 32]), ..honest.blob() };
        let lying = Manifest::new(lie, honest.chunks().to_vec()).unwrap();
        let mut partial = store.begin_blob(&lying).unwrap();
        for (index, (offset, chunk)) in honest.offsets().enumerate() {
            let part = &bytes[offset as usize..][..chunk.len as usize];
            partial.write_chunk(index, part).unwrap();
        }
        assert!(matches!(partial.finish(), Err(StoreError::Mismatch(blob)) if blob == lie));
        assert!(!store.has_blob(&lie).unwrap());
    }
    let huge = Digest { hash: Hash([1; 32]), size: MAX_BLOB };
    let chunk = Chunk { hash: Hash([2; 32]), len: MAX_CHUNK as u32 };
    let chunks = vec![chunk; (MAX_BLOB / MAX_CHUNK as u64) as usize];
    drop(store.begin_blob(&Manifest::new(huge, chunks).unwrap()).unwrap());
    assert_eq!(store.stats().blobs, 0);
}

/// The bytes of a blob and of each of its chunks.
fn parts(manifest: &Manifest, bytes: &[u8]) -> Vec<Vec<u8>> {
    let part = |(at, chunk): (u64, Chunk)| bytes[at as usize..][..chunk.len as usize].to_vec();
    manifest.offsets().map(part).collect()
}

/// The chunks of a stranger who cuts wherever a million bytes are full.
fn foreign(bytes: &[u8]) -> Manifest {
    let chunk = |part: &[u8]| Chunk { hash: Hash::of(part), len: part.len() as u32 };
    Manifest::new(Digest::of(bytes), bytes.chunks(1_000_000).map(chunk).collect()).unwrap()
}

fn an_arrival_goes_on_where_the_last_one_ended(store: &dyn Store) {
    let bytes = noise(9 << 20, 30);
    let manifest = manifest_of(&bytes);
    let parts = parts(&manifest, &bytes);
    assert!(parts.len() > 9);
    // Of three runs each brings every third chunk, and some again.
    for run in 0..3 {
        let mut partial = store.begin_blob(&manifest).unwrap();
        for (index, part) in parts.iter().enumerate() {
            assert_eq!(partial.has(index), index % 3 < run, "chunk {index} in run {run}");
            if index % 3 <= run {
                partial.write_chunk(index, part).unwrap();
                assert!(partial.has(index));
            }
        }
        assert!(!partial.has(parts.len()));
        assert!(!store.has_blob(&manifest.blob()).unwrap());
        match run {
            0 => drop(partial),
            1 => assert!(matches!(partial.finish(), Err(StoreError::Incomplete { .. }))),
            _ => partial.finish().unwrap(),
        }
    }
    assert_eq!(read(store, &manifest.blob()), Some(bytes));
    assert_eq!(store.manifest(&manifest.blob()).unwrap(), Some(manifest));
}

fn chunks_of_another_list_or_of_a_blob_given_up_are_not_taken_up(store: &dyn Store) {
    let bytes = noise(5 << 20, 31);
    let (ours, theirs) = (manifest_of(&bytes), foreign(&bytes));
    let write = |manifest: &Manifest| {
        let mut partial = store.begin_blob(manifest).unwrap();
        assert!((0..manifest.chunks().len()).all(|index| !partial.has(index)));
        partial.write_chunk(1, &parts(manifest, &bytes)[1]).unwrap();
        partial
    };
    drop(write(&ours));
    drop(write(&theirs));
    write(&ours).discard();
    write(&ours).discard();
    assert_eq!(store.chunk(&ours.chunks()[1]).unwrap(), None);
    assert_eq!(store.stats().blobs, 0);
}

fn a_list_of_chunks_that_is_not_ours_is_not_kept(store: &dyn Store) {
    for (seed, reverse) in [(32, false), (33, true)] {
        let bytes = noise(5 << 20, seed);
        let theirs = foreign(&bytes);
        let mut partial = store.begin_blob(&theirs).unwrap();
        let parts = parts(&theirs, &bytes);
        for at in 0..parts.len() {
            let index = if reverse { parts.len() - 1 - at } else { at };
            partial.write_chunk(index, &parts[index]).unwrap();
        }
        partial.finish().unwrap();
        assert_eq!(store.manifest(&theirs.blob()).unwrap(), Some(manifest_of(&bytes)));
        assert!(store.chunk(&manifest_of(&bytes).chunks()[1]).unwrap().is_some());
        assert_eq!(store.chunk(&theirs.chunks()[1]).unwrap(), None);
    }
}

fn what_has_come_is_served_while_the_rest_is_on_its_way(store: &dyn Store) {
    let bytes = noise(6 << 20, 34);
    let manifest = manifest_of(&bytes);
    let parts = parts(&manifest, &bytes);
    let none = vec![false; parts.len()];
    assert_eq!(store.held(&manifest).unwrap(), none);
    let mut partial = store.begin_blob(&manifest).unwrap();
    for (index, part) in parts.iter().enumerate() {
        assert_eq!(store.chunk(&manifest.chunks()[index]).unwrap(), None);
        partial.write_chunk(index, part).unwrap();
        assert_eq!(store.chunk(&manifest.chunks()[index]).unwrap().as_ref(), Some(part));
        let held = store.held(&manifest).unwrap();
        assert!(held.iter().enumerate().all(|(at, held)| *held == (at <= index)));
    }
    partial.finish().unwrap();
    assert_eq!(store.held(&manifest).unwrap(), vec![true; parts.len()]);
    // A blob that shares its first half with this one.
    let longer = [&bytes[..3 << 20], &noise(3 << 20, 35)].concat();
    let longer = manifest_of(&longer);
    let shared = longer.chunks().iter().map(|chunk| manifest.chunks().contains(chunk));
    let shared: Vec<bool> = shared.collect();
    assert!(shared.contains(&true) && shared.contains(&false));
    assert_eq!(store.held(&longer).unwrap(), shared);
}

fn two_arrivals_of_one_blob_do_each_other_no_harm(store: &dyn Store) {
    let bytes = noise(5 << 20, 36);
    let manifest = manifest_of(&bytes);
    let parts = parts(&manifest, &bytes);
    let mut first = store.begin_blob(&manifest).unwrap();
    first.write_chunk(0, &parts[0]).unwrap();
    let mut second = store.begin_blob(&manifest).unwrap();
    assert!(!second.has(0));
    for (index, part) in parts.iter().enumerate().rev() {
        second.write_chunk(index, part).unwrap();
    }
    second.finish().unwrap();
    assert_eq!(read(store, &manifest.blob()).as_ref(), Some(&bytes));
    for (index, part) in parts.iter().enumerate().skip(1) {
        assert!(first.has(0) && !first.has(index));
        first.write_chunk(index, part).unwrap();
    }
    first.finish().unwrap();
    assert_eq!(read(store, &manifest.blob()), Some(bytes));
    assert_eq!(store.stats().blobs, 1);
}

fn a_blob_is_read_into_memory_up_to_a_limit(store: &dyn Store) {
    for size in [0, 100, 100_000] {
        let bytes = noise(size, 37);
        let blob = Digest::of(&bytes);
        assert_eq!(store.blob_bytes(&blob, u64::MAX).unwrap(), None);
        store.put_content(&mut &bytes[..]).unwrap();
        assert_eq!(store.blob_bytes(&blob, blob.size).unwrap(), Some(bytes));
        if let Some(limit) = blob.size.checked_sub(1) {
            assert_eq!(store.blob_bytes(&blob, limit).unwrap(), None);
        }
    }
}

fn earlier_outputs_of_a_path_are_told_newest_first(store: &dyn Store) {
    let blob = |n: u8| Digest::of(&[n]);
    assert_eq!(store.previous(b"bin/a").unwrap(), []);
    for (action, hlc, outputs) in [
        (1, 5, vec![("bin/a", blob(1)), ("bin/b", blob(9))]),
        (2, 7, vec![("bin/a", blob(2))]),
        (3, 6, vec![("bin/a", blob(3))]),
        // The same bytes again, and a record that does not replace the one that is here.
        (4, 8, vec![("bin/a", blob(1))]),
        (2, 6, vec![("bin/a", blob(8))]),
    ] {
        put(store, &common::with_outputs(action, hlc, &outputs));
    }
    assert_eq!(store.previous(b"bin/a").unwrap(), [1, 2, 3].map(blob));
    assert_eq!(store.previous(b"bin/b").unwrap(), [blob(9)]);
    assert_eq!(store.previous(b"bin").unwrap(), []);
    store.put_content(&mut &[3_u8][..]).unwrap();
    for n in 10..30 {
        put(store, &common::with_outputs(n, n.into(), &[("bin/a", blob(n))]));
    }
    assert_eq!(store.previous(b"bin/a").unwrap(), [29, 28, 27, 3].map(blob));
}

fn the_most_similar_blob_is_found(store: &dyn Store) {
    let old = noise(1 << 20, 40);
    // Every fourth of 64 KiB is rewritten, in one of them every second.
    let edited = |every: usize, seed: u64| {
        let mut bytes = old.clone();
        for (index, part) in bytes.chunks_mut(1 << 16).enumerate() {
            if index % every == 0 {
                part.copy_from_slice(&noise(part.len(), seed + index as u64));
            }
        }
        bytes
    };
    let (near, far) = (edited(8, 100), edited(2, 200));
    let mut named = Vec::new();
    for bytes in [&old, &far, &noise(1 << 20, 41), &noise(40_000, 42)] {
        named.push(store.put_content(&mut &bytes[..]).unwrap());
    }
    // One that arrives in chunks, in a list of a stranger, is sketched like one that is put.
    let near_manifest = foreign(&near);
    let mut partial = store.begin_blob(&near_manifest).unwrap();
    for (index, part) in parts(&near_manifest, &near).iter().enumerate().rev() {
        partial.write_chunk(index, part).unwrap();
    }
    assert_eq!(store.sketch(&near_manifest.blob()).unwrap(), None);
    partial.finish().unwrap();

    let sketch = store.sketch(&near_manifest.blob()).unwrap().unwrap();
    let mut sketcher = Sketcher::new();
    sketcher.update(&near);
    assert_eq!(sketch, sketcher.finish());
    let alike = store.similar(&sketch, 9).unwrap();
    let order: Vec<Digest> = alike.iter().map(|(blob, _)| *blob).collect();
    assert_eq!(order[..3], [near_manifest.blob(), named[0], named[1]]);
    assert!((alike[0].1 - 1.0).abs() < f64::EPSILON);
    assert!(alike[1].1 > 0.5 && alike[1].1 > alike[2].1, "{alike:?}");
    assert!(order[3..].iter().all(|blob| *blob == named[2]), "{alike:?}");
    assert_eq!(store.similar(&sketch, 1).unwrap(), alike[..1]);
    // Too small to be sketched, and not here.
    assert_eq!(store.sketch(&named[3]).unwrap(), None);
    assert_eq!(store.sketch(&Digest { hash: Hash([5; 32]), size: 1 << 20 }).unwrap(), None);
}

fn the_newest_record_stays_whatever_the_order(store: &dyn Store) {
    let key = ActionKey([1; 32]);
    assert_eq!(store.record(&key).unwrap(), None);
    for (hlc, exit_code, expected) in [(5, 1, 1), (4, 2, 1), (6, 3, 3), (5, 4, 3)] {
        put(store, &record(1, hlc, exit_code));
        let kept = store.record(&key).unwrap().unwrap();
        assert_eq!(kept.record().result.exit_code, expected);
    }
    let (one, two) = (record(2, 7, 1), record(2, 7, 2));
    let winner = std::cmp::max_by_key(&one, &two, |sealed| Hash::of(sealed.as_bytes()));
    for order in [[&one, &two], [&two, &one]] {
        for sealed in order {
            put(store, sealed);
        }
        let kept = store.record(&ActionKey([2; 32])).unwrap();
        assert_eq!(kept.as_ref(), Some(winner));
    }
    assert_eq!(store.stats().records, 2);
}

/// The writer whose seed is this byte.
fn writer(seed: u8) -> PeerId {
    Identity::from_seed(&[seed; 32]).peer_id()
}

fn what_becomes_of_a_record_is_told(store: &dyn Store) {
    let trust = Trust::new(
        Level::Normal,
        [(writer(2), Level::Trusted), (writer(3), Level::Refused)].into(),
    );
    let steps = [
        (sealed(3, 1, 90, 3), Kept::Refused),
        (sealed(1, 1, 50, 1), Kept::Stored),
        (sealed(1, 1, 50, 1), Kept::Same),
        (sealed(1, 1, 40, 1), Kept::Older),
        (sealed(1, 1, 60, 1), Kept::Stored),
        (sealed(3, 1, 90, 3), Kept::Refused),
        // From a clock that is far behind, but whom this agent trusts more.
        (sealed(2, 1, 1, 2), Kept::Stored),
        (sealed(1, 1, 99, 1), Kept::Older),
        (sealed(2, 1, 2, 2), Kept::Stored),
    ];
    for (step, (record, expected)) in steps.iter().enumerate() {
        assert_eq!(store.put_record(record, &trust).unwrap(), *expected, "step {step}");
    }
    let kept = store.record(&ActionKey([1; 32])).unwrap().unwrap();
    assert_eq!((kept.record().writer, kept.record().hlc.0), (writer(2), 2));
    let others = &store.conflicts(9).unwrap()[0].others;
    assert_eq!(others.len(), 1);
    assert_eq!((others[0].record().writer, others[0].record().hlc.0), (writer(1), 99));
}

fn equal_results_are_no_conflict(store: &dyn Store) {
    for (by, hlc) in [(1, 1), (2, 2), (1, 3), (3, 1)] {
        put(store, &sealed(by, 4, hlc, 0));
    }
    assert_eq!(store.conflicts(9).unwrap(), []);
    assert_eq!(store.conflict(&ActionKey([4; 32])).unwrap(), None);
    assert_eq!(store.stats().conflicts, 0);
}

/// Every order of some records.
fn orders(records: &[SealedRecord]) -> Vec<Vec<&SealedRecord>> {
    let Some((first, rest)) = records.split_first() else { return vec![Vec::new()] };
    let insert = |order: Vec<_>| {
        (0..=order.len()).map(move |at| {
            let mut longer = order.clone();
            longer.insert(at, first);
            longer
        })
    };
    orders(rest).into_iter().flat_map(insert).collect()
}

fn different_results_are_the_same_conflict_in_any_order(store: &dyn Store) {
    // Two agents and three results, the greatest of which came by two records.
    let all = [sealed(1, 2, 10, 1), sealed(2, 2, 20, 2), sealed(1, 2, 30, 3), sealed(2, 2, 15, 3)];
    let conflicts: Vec<Conflict> = (0..)
        .zip(orders(&all))
        .map(|(key, order)| {
            for record in order {
                let record = record.record();
                let by = if record.writer == writer(1) { 1 } else { 2 };
                let moved = sealed(by, key, record.hlc.0, record.result.exit_code);
                put(store, &moved);
                put(store, &moved);
            }
            store.conflicts(1).unwrap().remove(0)
        })
        .collect();
    assert_eq!(store.stats().conflicts, 24);
    let stamp = |sealed: &SealedRecord| (sealed.record().hlc.0, sealed.record().result.exit_code);
    for conflict in &conflicts {
        assert_eq!(store.conflict(&conflict.key).unwrap().as_ref(), Some(conflict));
    }
    for (key, conflict) in (0..).zip(&conflicts) {
        assert_eq!(conflict.key, ActionKey([key; 32]));
        assert_eq!(store.record(&conflict.key).unwrap().as_ref(), Some(&conflict.kept));
        assert_eq!(stamp(&conflict.kept), (30, 3));
        let others: Vec<_> = conflict.others.iter().map(stamp).collect();
        assert_eq!(others, [(20, 2), (10, 1)]);
    }
    let newest: Vec<_> = store.conflicts(99).unwrap().into_iter().rev().collect();
    assert_eq!(newest, conflicts);
}

fn evidence_is_bounded(store: &dyn Store) {
    for exit_code in 0..10 {
        put(store, &sealed(1, 1, 10 + exit_code as u64, exit_code));
    }
    let conflict = store.conflicts(9).unwrap().remove(0);
    assert_eq!(conflict.kept.record().result.exit_code, 9);
    let others: Vec<_> =
        conflict.others.iter().map(|lost| lost.record().result.exit_code).collect();
    assert_eq!(others, [8, 7, 6, 5]);
    assert_eq!(others.len(), MAX_VARIANTS);
    for n in 0..MAX_CONFLICTS {
        let key = ActionKey(Hash::of(&n.to_le_bytes()).0);
        put(store, &common::at(1, key, 1, 0));
        put(store, &common::at(1, key, 2, 1));
    }
    assert_eq!(store.stats().conflicts, MAX_CONFLICTS as u64);
    let listed = store.conflicts(usize::MAX).unwrap();
    assert_eq!(listed.len(), MAX_CONFLICTS);
    // The first was quiet for longest.
    assert!(listed.iter().all(|conflict| conflict.key != ActionKey([1; 32])));
    assert!(store.record(&ActionKey([1; 32])).unwrap().is_some());
}

fn records_are_listed_in_pages(store: &dyn Store) {
    for key in [5, 1, 255, 3, 0] {
        put(store, &record(key, u64::from(key) + 7, 0));
    }
    let mut listed = Vec::new();
    let mut after = None;
    loop {
        let page = store.records_after(after.as_ref(), 2).unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 2);
        after = Some(last.key);
        for head in &page {
            let item = store.record(&head.key).unwrap().unwrap().item();
            assert_eq!((head.hlc, head.sum), (item.hlc, item.sum));
        }
        listed.extend(page.iter().map(|head| (head.key.0[0], head.hlc.0, head.shared)));
    }
    let expected = [0, 1, 3, 5, 255u8].map(|key| (key, u64::from(key) + 7, key % 2 == 0));
    assert_eq!(listed, expected);
    assert!(store.records_after(None, 0).unwrap().is_empty());
}

fn what_is_removed_is_gone_and_may_come_again(store: &dyn Store) {
    let contents: Vec<_> = SIZES.map(|size| noise(size, 70 + size as u64)).into();
    let blobs: Vec<_> = contents.iter().map(|bytes| Digest::of(bytes)).collect();
    for round in 0..2 {
        assert_eq!(store.find_missing(&blobs).unwrap(), blobs, "round {round}");
        for (blob, bytes) in blobs.iter().zip(&contents) {
            assert!(!store.remove_blob(blob).unwrap());
            store.put_blob(blob, &mut &bytes[..]).unwrap();
        }
        assert_eq!(store.find_missing(&blobs).unwrap(), []);
        for (blob, bytes) in blobs.iter().zip(&contents) {
            assert!(!store.remove_blob(&Digest { size: blob.size + 1, ..*blob }).unwrap());
            let mut reader = store.open_blob(blob).unwrap().unwrap();
            let manifest = store.manifest(blob).unwrap().unwrap();
            let sketch = store.sketch(blob).unwrap();
            assert!(store.remove_blob(blob).unwrap());
            assert!(!store.has_blob(blob).unwrap());
            assert!(store.open_blob(blob).unwrap().is_none());
            assert_eq!(store.manifest(blob).unwrap(), None);
            assert_eq!(store.sketch(blob).unwrap(), None);
            for chunk in manifest.chunks() {
                assert_eq!(store.chunk(chunk).unwrap(), None);
            }
            if let Some(sketch) = sketch {
                assert!(store.similar(&sketch, 9).unwrap().iter().all(|(like, _)| like != blob));
            }
            let mut read = Vec::new();
            reader.read_to_end(&mut read).unwrap();
            assert_eq!(&read, bytes, "a reader that was open before");
        }
        let stats = store.stats();
        assert_eq!((stats.blobs, stats.blob_bytes, stats.quarantined), (0, 0, 0));
    }
}

fn a_removed_record_takes_its_outputs_and_its_evidence_with_it(store: &dyn Store) {
    let key = ActionKey([4; 32]);
    let blob = store.put_content(&mut &b"content"[..]).unwrap();
    assert!(!store.remove_record(&key).unwrap());
    for _ in 0..2 {
        put(store, &common::with_outputs(4, 5, &[("out", blob)]));
        put(store, &record(6, 1, 1));
        put(store, &sealed(2, 4, 4, 9));
        assert_eq!(store.conflicts(9).unwrap().len(), 1);
        assert!(store.remove_record(&key).unwrap());
        assert_eq!(store.record(&key).unwrap(), None);
        assert_eq!(store.conflict(&key).unwrap(), None);
        assert_eq!(store.conflicts(9).unwrap(), []);
        assert_eq!(store.previous(b"out").unwrap(), []);
        assert_eq!(store.records_after(None, 9).unwrap().len(), 1);
        assert_eq!((store.stats().records, store.stats().conflicts), (1, 0));
        assert!(store.has_blob(&blob).unwrap());
        // An older one is as welcome as any: nothing remembers that there was another.
        put(store, &record(4, 1, 1));
        assert_eq!(store.record(&key).unwrap(), Some(record(4, 1, 1)));
        assert!(store.remove_record(&key).unwrap());
    }
}

fn many_threads_may_use_it_at_once(store: &dyn Store) {
    std::thread::scope(|scope| {
        for thread in 0..16u64 {
            scope.spawn(move || {
                for round in 0..12u64 {
                    // Half of the blobs are everybody's, so that equal puts meet.
                    let seed = if round % 2 == 0 { round } else { thread * 100 + round };
                    let bytes = noise(5_000 * (round as usize + 1), seed);
                    let blob = Digest::of(&bytes);
                    store.put_blob(&blob, &mut &bytes[..]).unwrap();
                    assert_eq!(read(store, &blob), Some(bytes));
                    let sealed = record(thread as u8, round + 1, round as i32);
                    put(store, &sealed);
                    assert_eq!(store.record(&sealed.record().key).unwrap(), Some(sealed));
                    store.flush().unwrap();
                }
            });
        }
    });
    assert_eq!(store.stats().blobs, 6 + 16 * 6);
    assert_eq!(store.stats().records, 16);
    assert_eq!(store.stats().quarantined, 0);
}

macro_rules! conformance {
    ($($promise:ident)*) => {
        mod memory {
            $(#[test] fn $promise() { super::$promise(&super::MemoryStore::new()); })*
        }
        mod disk {
            $(#[test] fn $promise() {
                let dir = tempfile::tempdir().unwrap();
                super::$promise(&super::DiskStore::open(dir.path(), "test").unwrap());
                for name in ["tmp", "partial"] {
                    let left = std::fs::read_dir(dir.path().join(name)).unwrap().count();
                    assert_eq!(left, 0, "files in {name}");
                }
            })*
        }
    };
}

conformance! {
    blobs_come_back_as_they_were_put
    a_digest_with_another_size_is_another_blob
    wrong_content_is_refused_and_not_kept
    a_reader_that_fails_leaves_nothing
    every_chunk_of_every_blob_is_served
    a_blob_arrives_chunk_by_chunk_in_any_order
    an_unfinished_or_lying_arrival_leaves_nothing
    an_arrival_goes_on_where_the_last_one_ended
    chunks_of_another_list_or_of_a_blob_given_up_are_not_taken_up
    a_list_of_chunks_that_is_not_ours_is_not_kept
    what_has_come_is_served_while_the_rest_is_on_its_way
    two_arrivals_of_one_blob_do_each_other_no_harm
    a_blob_is_read_into_memory_up_to_a_limit
    earlier_outputs_of_a_path_are_told_newest_first
    the_most_similar_blob_is_found
    the_newest_record_stays_whatever_the_order
    what_becomes_of_a_record_is_told
    equal_results_are_no_conflict
    different_results_are_the_same_conflict_in_any_order
    evidence_is_bounded
    records_are_listed_in_pages
    what_is_removed_is_gone_and_may_come_again
    a_removed_record_takes_its_outputs_and_its_evidence_with_it
    many_threads_may_use_it_at_once
}
