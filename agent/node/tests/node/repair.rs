//! Damage on the disk of an agent is found, and healed by those who have what was lost.

use crate::support::{Region, noise, wait_until};
use netbuild_core::{
    cache::{Cache as _, Content},
    digest::Digest,
    limit::Rate,
};
use netbuild_node::config::ScrubSettings;
use netbuild_proto::control::VerifyOrder;
use std::{fs, ops::ControlFlow, path::Path, time::Duration};

fn put(region: &Region, blobs: &[Vec<u8>]) {
    for bytes in blobs {
        region.session.put_blob(&Digest::of(bytes), Content::Bytes(bytes)).unwrap();
    }
    region.session.flush().unwrap();
}

/// Changes one byte of the file of a blob.
fn damage(data_dir: &Path, bytes: &[u8]) {
    let name = Digest::of(bytes).hash.to_string();
    let path = data_dir.join("blobs").join(&name[..2]).join(&name);
    let mut bad = bytes.to_vec();
    bad[7] ^= 1;
    fs::write(path, bad).unwrap();
}

#[test]
fn verify_heals_from_a_peer_what_it_finds_damaged_while_the_agent_runs() {
    let first = Region::start(Vec::new());
    let second = Region::start(first.joining());
    second.wait_for_members(1);
    let blobs: Vec<Vec<u8>> = (0..5).map(|n| noise(n, 60_000)).collect();
    // The last one is nowhere else.
    put(&first, &blobs[..4]);
    put(&second, &blobs);
    damage(&second.data_dir, &blobs[1]);
    damage(&second.data_dir, &blobs[4]);
    let verify = |repair| {
        let mut told = 0;
        let order = VerifyOrder { deep: true, repair };
        let report = second.session.verify(&order, &mut |_| {
            told += 1;
            ControlFlow::Continue(())
        });
        report.unwrap().expect("it was not broken off")
    };
    let report = verify(false);
    assert_eq!((report.damaged, report.remaining), (2, 2), "{report:?}");
    let report = verify(true);
    assert_eq!((report.damaged, report.healed, report.lost), (2, 1, 1), "{report:?}");
    assert_eq!(verify(true).remaining, 0);
    assert_eq!(second.read(&Digest::of(&blobs[1])), blobs[1]);
    assert!(second.session.open(&Digest::of(&blobs[4])).unwrap().is_none());
}

#[test]
fn a_scrub_finds_and_heals_by_itself_and_says_so() {
    let first = Region::start(Vec::new());
    let soon = Duration::from_millis(100);
    let scrub = ScrubSettings {
        rate: Rate::new(100_000_000).unwrap(),
        settle: Duration::ZERO,
        between: soon,
        quiet: Duration::ZERO,
    };
    let second = Region::start_with(first.joining(), |mut settings| {
        settings.scrub = Some(scrub);
        settings
    });
    second.wait_for_members(1);
    let blobs: Vec<Vec<u8>> = (0..5).map(|n| noise(n, 60_000)).collect();
    put(&first, &blobs);
    put(&second, &blobs);
    wait_until("a pass has found nothing wrong", || {
        let scrub = second.status().store.scrub.expect("it is on");
        scrub.last_ms.is_some() && scrub.last_bytes >= 5 * 60_000 && scrub.last_found == 0
    });
    damage(&second.data_dir, &blobs[2]);
    // Nobody asks for the blob.
    wait_until("the damage is put aside", || second.status().store.quarantined == 1);
    let name = Digest::of(&blobs[2]).hash.to_string();
    let path = second.data_dir.join("blobs").join(&name[..2]).join(&name);
    wait_until("the blob is healed", || fs::read(&path).is_ok_and(|bytes| bytes == blobs[2]));
    assert!(fs::read_to_string(second.data_dir.join("scrub")).is_ok());
}
