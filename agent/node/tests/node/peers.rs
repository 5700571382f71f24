//! What an agent makes of what other agents have, say they have, and do not have.

use crate::support::{
    Answers, Goods, KEY, Region, Rogue, goods, noise, output, record, wait_until,
};
use netbuild_core::{
    cache::{Cache as _, Content, Source},
    chunk::Manifest,
    digest::Digest,
    hlc::Hlc,
    peer::Identity,
    record::OutputKind,
};
use std::{
    sync::atomic::Ordering,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

#[test]
fn what_one_region_built_is_whole_in_another_and_then_on_its_own_disk() {
    let first = Region::start(Vec::new());
    let goods = goods();
    first.keep(&goods);
    let mut second = Region::start(first.joining());
    second.wait_for(1, 1);
    let hit = second.lookup().expect("a hit");
    assert!(matches!(&hit.source, Source::Peer { region, .. } if region == "eu"), "{hit:?}");
    let size: u64 = goods.blobs.iter().map(|(digest, _)| digest.size).sum();
    let moved = hit.movement.total();
    assert_eq!((moved.logical, moved.wire), (size, hit.bytes));
    assert!((size..size + 1000).contains(&hit.bytes), "noise, and what frames it: {moved:?}");
    drop(first);
    let again = second.lookup().expect("a hit");
    assert_eq!((again.source, again.bytes), (Source::Disk, 0));
    assert_eq!(again.record, hit.record);
    for (digest, bytes) in &goods.blobs {
        assert_eq!(second.read(digest), *bytes);
    }
    // It holds the record now, and says so to whoever joins it.
    let third = Region::start(second.joining());
    third.wait_for(1, 1);
    assert!(third.lookup().is_some());
    second.stop();
}

#[test]
fn of_a_blob_that_is_partly_here_only_the_rest_is_fetched() {
    let first = Region::start(Vec::new());
    let old = noise(1, 8 << 20);
    let new = [&b"something in front"[..], &old].concat();
    let (old_name, new_name) = (Digest::of(&old), Digest::of(&new));
    first.session.put_blob(&new_name, Content::Bytes(&new)).unwrap();
    let second = Region::start(first.joining());
    second.session.put_blob(&old_name, Content::Bytes(&old)).unwrap();
    second.wait_for(1, 0);
    let fetched = second.session.fetch(&new_name, &()).unwrap().expect("the other has it");
    assert!((1..4 << 20).contains(&fetched.movement.total().wire), "{fetched:?}");
    assert_eq!(second.read(&new_name), new);
}

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

#[test]
fn a_record_from_the_far_future_is_not_taken() {
    let goods = goods();
    let region = Region::start(Vec::new());
    region.keep(&goods);
    let _rogue = Rogue::join(&region, |writer| Answers::of_record(&goods, writer, Hlc(u64::MAX)));
    region.wait_for(1, 1);
    let hit = region.lookup().expect("a hit");
    assert_eq!((hit.source, hit.record.region.as_str()), (Source::Disk, "eu"));
}

#[test]
fn an_agent_that_only_saw_the_winner_learns_of_the_conflict() {
    let goods = goods();
    let first = Region::start(Vec::new());
    first.session.put_record(record(Vec::new())).unwrap();
    // The same agent gets another result: the one before has lost when somebody joins.
    first.keep(&goods);
    let second = Region::start(first.joining());
    wait_until("the conflict is known", || {
        second.agent_socket().conflicts().unwrap().rows.len() == 1
    });
    assert_eq!(second.lookup().map(|hit| hit.record.result), Some(goods.record.result));
}

/// Answers about goods, signed by who gives them.
type Lie = fn(&Goods, &Identity) -> Answers;

/// What a peer says about goods that it does not have as it says.
fn lies() -> Vec<(&'static str, Lie)> {
    vec![
        ("no record after all", |_, _| Answers::default()),
        ("bytes that are no record", |goods, writer| Answers {
            record: Some(b"nonsense".to_vec()),
            ..Answers::of(goods, writer)
        }),
        ("a record without its blobs", |goods, writer| Answers {
            record: Answers::of(goods, writer).record,
            ..Answers::default()
        }),
        ("a record of which one blob is missing", |goods, writer| {
            let mut answers = Answers::of(goods, writer);
            answers.chunks.remove(&goods.blobs[1].0.hash);
            answers
        }),
        ("a manifest of other bytes", |goods, writer| {
            let mut answers = Answers::of(goods, writer);
            let blob = goods.blobs[0].0;
            let mut chunks = answers.manifests[&blob].chunks().to_vec();
            chunks.reverse();
            answers.manifests.insert(blob, Manifest::new(blob, chunks).unwrap());
            answers
        }),
        ("chunks of other bytes", |goods, writer| {
            let mut answers = Answers::of(goods, writer);
            answers.chunks.values_mut().for_each(|bytes| {
                if let Some(byte) = bytes.last_mut() {
                    *byte ^= 1;
                }
            });
            answers
        }),
        ("a listing that is none", |_, writer| {
            let bytes = b"not a listing".to_vec();
            let listing = Digest::of(&bytes);
            let record = record(vec![output("b", OutputKind::Tree { listing })]);
            Answers::of(&Goods { blobs: vec![(listing, bytes)], record }, writer)
        }),
        ("an empty blob that is not empty", |_, writer| {
            let digest = Digest { size: 0, ..Digest::of(b"something") };
            let record = record(vec![output("a", OutputKind::File { digest, executable: false })]);
            Answers::of(&Goods { blobs: Vec::new(), record }, writer)
        }),
    ]
}

#[test]
fn a_peer_that_does_not_have_what_it_says_makes_a_miss_and_stands_in_nobodys_way() {
    let goods = goods();
    for (lie, answers) in lies() {
        let region = Region::start(Vec::new());
        let rogue = Rogue::join(&region, |identity| answers(&goods, identity));
        region.wait_for_members(1);
        assert_eq!(region.session.lookup(&KEY, &()), Ok(None), "{lie}");
        drop(rogue);
        // The result that is built instead counts from then on.
        region.keep(&goods);
        assert_eq!(region.lookup().map(|hit| hit.source), Some(Source::Disk), "{lie}");
    }
}

#[test]
fn the_next_holder_is_asked_when_one_does_not_have_what_it_says() {
    let goods = goods();
    for (lie, answers) in lies() {
        let honest = Region::start(Vec::new());
        honest.keep(&goods);
        let region = Region::start(honest.joining());
        let _rogue = Rogue::join(&region, |identity| answers(&goods, identity));
        region.wait_for_members(2);
        let hit = region.lookup().unwrap_or_else(|| panic!("{lie}"));
        for (digest, bytes) in &goods.blobs {
            assert_eq!(region.read(digest), *bytes, "{lie}");
        }
        assert_eq!(hit.record.result, goods.record.result, "{lie}");
    }
}

#[test]
fn a_peer_that_fails_is_asked_no_further_and_its_record_is_not_forgotten() {
    let region = Region::start(Vec::new());
    let goods = goods();
    let rogue = Rogue::join(&region, |identity| {
        let mut answers = Answers::of(&goods, identity);
        answers.chunks.values_mut().for_each(|bytes| bytes.extend_from_slice(b"too long"));
        answers.chunks.insert(goods.blobs[3].0.hash, noise(9, goods.blobs[3].1.len()));
        answers
    });
    region.wait_for(1, 1);
    assert_eq!(region.lookup(), None);
    let asked = rogue.answers.manifests_asked.load(Ordering::Relaxed);
    let member = &region.status().members[0];
    assert!(member.resting.is_some(), "{member:?}");
    // While it rests, nobody asks it for bytes.
    assert_eq!(region.lookup(), None);
    assert_eq!(rogue.answers.manifests_asked.load(Ordering::Relaxed), asked);
    assert_eq!(region.status().members[0].records, 1, "it may come back");
}

#[test]
fn a_record_whose_blobs_cannot_be_had_does_not_hide_one_that_is_whole() {
    let goods = goods();
    let region = Region::start(Vec::new());
    region.keep(&goods);
    // Later, and so the winner; but it names what nobody has.
    let _rogue = Rogue::join(&region, |writer| {
        let digest = Digest::of(b"nobody has this");
        let record = record(vec![output("a", OutputKind::File { digest, executable: false })]);
        let hours = 3_600_000;
        let later = Hlc((now_ms() + 5 * hours) << 16);
        Answers::of_record(&Goods { blobs: Vec::new(), record }, writer, later)
    });
    wait_until("the conflict is known", || {
        !region.agent_socket().conflicts().unwrap().rows.is_empty()
    });
    let hit = region.lookup().expect("a hit");
    assert_eq!((hit.record.result, hit.source), (goods.record.result, Source::Disk));
}

#[test]
fn a_peer_without_the_record_is_not_asked_for_it_again() {
    let region = Region::start(Vec::new());
    let _rogue = Rogue::join(&region, |_| Answers::default());
    region.wait_for_members(1);
    assert_eq!(region.lookup(), None);
    assert_eq!(region.status().members[0].records, 0);
}

#[test]
fn the_chunks_of_large_blobs_are_known_before_somebody_wants_them() {
    let region = Region::start(Vec::new());
    let bytes = noise(7, 3 << 20);
    let digest = Digest::of(&bytes);
    let goods = Goods {
        record: record(vec![output("a", OutputKind::File { digest, executable: false })]),
        blobs: vec![(digest, bytes)],
    };
    let rogue = Rogue::join(&region, |identity| Answers::of(&goods, identity));
    let asked = || rogue.answers.manifests_asked.load(Ordering::Relaxed);
    wait_until("it is asked for chunks", || asked() == 1);
    assert!(region.lookup().is_some());
    assert_eq!(asked(), 1);
}

#[test]
fn records_that_did_not_come_are_asked_for_again_soon() {
    let region = Region::start_with(Vec::new(), |mut settings| {
        settings.sync.interval = Duration::from_secs(600);
        settings
    });
    let rogue = Rogue::join(&region, |identity| {
        let answers = Answers::of(&goods(), identity);
        answers.breaks.store(true, Ordering::Relaxed);
        answers
    });
    // Once more on another connection is part of one try.
    wait_until("it is tried again", || rogue.answers.records_asked.load(Ordering::Relaxed) > 2);
    rogue.answers.breaks.store(false, Ordering::Relaxed);
    region.wait_for(1, 1);
}

#[test]
fn a_peer_whose_answer_came_too_late_counts_as_idle_again() {
    let honest = Region::start(Vec::new());
    let bytes = noise(5, 100_000);
    let blob = Digest::of(&bytes);
    honest.session.put_blob(&blob, Content::Bytes(&bytes)).unwrap();
    let region = Region::start(honest.joining());
    let rogue = Rogue::join(&region, |_| Answers::default());
    region.wait_for_members(2);
    let closed = rogue.answers.has_gate.lock().unwrap();
    assert!(region.session.fetch(&blob, &()).unwrap().is_some());
    wait_until("nobody is asked any more", || {
        region.status().members.iter().all(|member| member.queue == 0)
    });
    drop(closed);
}
