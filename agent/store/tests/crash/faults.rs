//! A system that refuses: a full disk, one that can only be read, errors of the device, no more files,
//! no permission, at any operation.

use crate::{
    asked,
    child::Orders,
    common::noise,
    interposer,
    script::{Model, act, op},
    seed,
};
use netbuild_store::{DiskStore, OpenError, Store};
use rustix::io::Errno;
use std::{
    env,
    error::Error as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

/// Places where each kind of failure is tried in a run that nobody asked more of.
const FAULTS: u64 = 6;
/// Operations of the child.
const OPERATIONS: u64 = 60;

/// Says to the child which file ends the failures.
const OFF: &str = "NB_OFF";

/// What the child does: operations that may be refused, then, with the failures over, those that
/// were refused again; and everything has to be there.
pub(crate) fn refused(dir: &Path, seed: u64, count: u64, log: &mut fs::File) {
    let off = PathBuf::from(env::var_os(OFF).unwrap());
    let store = match DiskStore::open(dir, "child") {
        Ok(store) => store,
        Err(error) => {
            writeln!(log, "open: {error}").unwrap();
            assert!(names(&error.to_string(), dir) || error.source().is_some(), "{error}");
            assert!(
                !matches!(error, OpenError::Foreign { .. } | OpenError::BadFormat { .. }),
                "{error}"
            );
            fs::write(&off, b"").unwrap();
            DiskStore::open(dir, "child").unwrap()
        }
    };
    let mut model = Model::default();
    let mut again = Vec::new();
    for n in 0..count {
        let op = op(seed, n);
        match act(&store, op, n) {
            Ok(()) => model.done(op, n),
            Err(error) => {
                writeln!(log, "{op:?}: {error}").unwrap();
                if !off.exists() {
                    assert!(names(&error.to_string(), dir), "{op:?}: {error}");
                }
                model.begun(op, n);
                again.push(n);
            }
        }
    }
    writeln!(log, "refused {}", again.len()).unwrap();
    // There is room again, as an agent finds out by trying.
    fs::write(&off, b"").unwrap();
    store.mend().unwrap();
    store.flush().unwrap();
    model.check(&store, "after the failures");
    for n in count..2 * count {
        act(&store, op(seed, n), n).unwrap();
        model.done(op(seed, n), n);
    }
    store.flush().unwrap();
    model.check(&store, "after more");
    drop(store);
    model.check(&DiskStore::open(dir, "child").unwrap(), "opened again");
}

/// Whether an error tells where it happened.
fn names(error: &str, dir: &Path) -> bool {
    error.contains(dir.to_str().unwrap()) || error.contains("index")
}

fn ordered<'a>(dir: &'a Path, log: &'a Path, seed: u64) -> Orders<'a> {
    Orders { mode: "refused", dir, log, seed, from: 0, count: OPERATIONS }
}

#[test]
fn a_migration_that_is_refused_anywhere_is_done_again() {
    let place = tempfile::tempdir().unwrap();
    let old = place.path().join("old");
    let mut model = Model::default();
    let store = DiskStore::open(&old, "test").unwrap();
    for n in 0..OPERATIONS {
        act(&store, op(3, n), n).unwrap();
        model.done(op(3, n), n);
    }
    drop(store);
    // As a killed process of format 1 leaves it.
    fs::write(old.join("format"), "netbuild data 1\n").unwrap();
    fs::remove_file(old.join("index.seal")).unwrap();
    let (mut refusals, mut at) = (0, 1);
    loop {
        let dir = place.path().join(format!("at-{at}"));
        assert!(Command::new("cp").arg("-r").args([&old, &dir]).status().unwrap().success());
        let (log, off) = (place.path().join("log"), place.path().join(format!("off-{at}")));
        let mut child =
            Orders { mode: "run", dir: &dir, log: &log, seed: 3, from: 0, count: 0 }.command();
        child.env("LD_PRELOAD", interposer()).env("NB_DIR", &dir).env(OFF, &off);
        child
            .env("NB_FAIL_AT", at.to_string())
            .env("NB_ERRNO", Errno::IO.raw_os_error().to_string());
        // It dies where it is refused, and the next one goes on.
        let refused = !child.output().unwrap().status.success();
        let store = DiskStore::open(&dir, "test").unwrap();
        model.check(&store, &format!("refused at operation {at}"));
        assert_eq!(fs::read_to_string(dir.join("format")).unwrap(), "netbuild data 2\n");
        drop(store);
        fs::remove_dir_all(&dir).unwrap();
        if !refused && at > 12 {
            break;
        }
        refusals += u64::from(refused);
        at += 1;
    }
    println!("refused at {refusals} of {at} operations");
    assert!(refusals > 4, "{refusals}");
}

#[test]
fn whatever_the_system_refuses_earlier_data_stays_and_it_goes_on_when_it_can() {
    let (seed, faults) = (seed(), asked("NETBUILD_FAULTS", FAULTS));
    let place = tempfile::tempdir().unwrap();
    let run = |name: &str, with: &[(&str, String)]| {
        let (dir, log) = (place.path().join(name), place.path().join(format!("{name}.log")));
        let mut child = ordered(&dir, &log, seed).command();
        child.env("LD_PRELOAD", interposer()).env("NB_DIR", &dir);
        child.env(OFF, place.path().join(format!("{name}.off")));
        child.envs(with.iter().map(|(name, value)| (name, value)));
        let output = child.output().unwrap();
        let said = fs::read_to_string(&log).unwrap_or_default();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "seed {seed}, {name}, {with:?}:\n{said}\n{told}");
        drop(fs::remove_dir_all(&dir));
        said
    };
    let count = place.path().join("count");
    run("none", &[("NB_COUNT", count.display().to_string())]);
    // Of all operations, those of the first half of the child's work can fail.
    let operations: u64 = fs::read_to_string(&count).unwrap().parse().unwrap();
    let kinds = [
        ("ENOSPC", Errno::NOSPC, u64::MAX >> 1),
        ("EROFS", Errno::ROFS, u64::MAX >> 1),
        ("EACCES", Errno::ACCESS, u64::MAX >> 1),
        ("EIO", Errno::IO, 1),
        ("EIO for long", Errno::IO, u64::MAX >> 1),
        ("EMFILE", Errno::MFILE, 3),
    ];
    let mut refusals = 0;
    for (kind, errno, times) in kinds {
        let dice = noise(8 * faults as usize, seed ^ times ^ errno.raw_os_error() as u64);
        let (dice, _) = dice.as_chunks::<8>();
        let mut places: Vec<u64> =
            dice.iter().map(|dice| 1 + u64::from_le_bytes(*dice) % operations).collect();
        if faults >= operations {
            places = (1..=operations).collect();
        }
        for at in places {
            let said = run(
                &format!("{kind}-{at}"),
                &[
                    ("NB_FAIL_AT", at.to_string()),
                    ("NB_FAIL_COUNT", times.to_string()),
                    ("NB_ERRNO", errno.raw_os_error().to_string()),
                ],
            );
            refusals += u64::from(said.lines().any(|line| line.contains(": ")));
        }
    }
    println!("{operations} file operations; {refusals} runs in which something was refused");
    assert!(refusals > 0);
}
