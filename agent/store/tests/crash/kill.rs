//! kill -9.

use crate::{
    asked,
    child::{Orders, logged},
    common::noise,
    script::{Model, op},
    seed,
};
use netbuild_store::{DiskStore, Store};
use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    thread,
    time::{Duration, Instant},
};

/// Kills of a run that nobody asked more of.
const KILLS: u64 = 40;
/// Longest life of a process, in milliseconds: from before it has opened the store to hundreds of
/// operations.
const LONGEST_LIFE: u64 = 600;
/// Within this a store is open again, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn nothing_that_was_acknowledged_is_lost_by_a_kill_at_any_moment() {
    let (seed, kills) = (seed(), asked("NETBUILD_KILLS", KILLS));
    let (dir, logs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let lives = noise(8 * kills as usize, seed);
    let (lives, _) = lives.as_chunks::<8>();
    let (mut model, mut next, mut longest) = (Model::default(), 0, Duration::ZERO);
    let (mut opening, mut operations) = (0, 0);
    for (kill, life) in lives.iter().enumerate() {
        let life = Duration::from_millis(u64::from_le_bytes(*life) % LONGEST_LIFE);
        let log = logs.path().join(kill.to_string());
        let count = u64::MAX;
        let orders = Orders { mode: "run", dir: dir.path(), log: &log, seed, from: next, count };
        let mut child = orders.command().spawn().unwrap();
        thread::sleep(life);
        child.kill().unwrap();
        let ended = child.wait().unwrap();
        assert_eq!(ended.signal(), Some(9), "kill {kill}: the child failed by itself");
        let (begun, done) = logged(&log);
        let done_to = done.map_or(next, |done| done + 1);
        (next..done_to).for_each(|n| model.done(op(seed, n), n));
        if let Some(begun) = begun.filter(|begun| *begun >= done_to) {
            model.begun(op(seed, begun), begun);
        }
        opening += u64::from(begun.is_none());
        operations += done_to - next;
        next = begun.map_or(next, |begun| begun + 1);
        fs::remove_file(&log).ok();
        // Often the next process finds what the kill has left, and nothing nicer.
        if kill % 3 == 1 {
            continue;
        }

        let began = Instant::now();
        let store = DiskStore::open(dir.path(), "test").unwrap();
        longest = longest.max(began.elapsed());
        let what =
            format!("seed {seed}, kill {kill} after {life:?} in {:?}", begun.map(|n| op(seed, n)));
        model.check(&store, &what);
        assert_eq!(store.stats().quarantined, 0, "{what}");
    }
    println!(
        "{kills} kills, {opening} of them while opening, {operations} operations, longest opening {longest:?}"
    );
    assert!(operations > kills);
    assert!(longest < PATIENCE, "{longest:?}");
}
