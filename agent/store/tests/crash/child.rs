//! The process that is killed or refused: this program, started again by one of its tests.

use crate::script::{act, op};
use netbuild_store::{DiskStore, Store};
use std::{
    env,
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const DIR: &str = "NETBUILD_TEST_CRASH_DIR";
const LOG: &str = "NETBUILD_TEST_CRASH_LOG";
const SEED: &str = "NETBUILD_TEST_CRASH_SEED";
const FROM: &str = "NETBUILD_TEST_CRASH_FROM";
const COUNT: &str = "NETBUILD_TEST_CRASH_COUNT";
const MODE: &str = "NETBUILD_TEST_CRASH_MODE";

/// What a child is to do.
#[derive(Clone, Debug)]
pub(crate) struct Orders<'a> {
    /// `run`: as many operations as ordered. `marked`: with a mark in the directory after each flush.
    /// `refused`: go on when the system refuses, see `faults`.
    pub(crate) mode: &'a str,
    pub(crate) dir: &'a Path,
    pub(crate) log: &'a Path,
    pub(crate) seed: u64,
    pub(crate) from: u64,
    pub(crate) count: u64,
}

impl Orders<'_> {
    /// The command that carries them out.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "child::child", "--nocapture"]);
        command.env(DIR, self.dir).env(LOG, self.log).env(MODE, self.mode);
        command.env(SEED, self.seed.to_string()).env(FROM, self.from.to_string());
        command.env(COUNT, self.count.to_string()).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }
}

/// Not a test of its own: what a test below has ordered.
#[test]
fn child() {
    let Some(dir) = env::var_os(DIR).map(PathBuf::from) else { return };
    let number = |name| env::var(name).unwrap().parse().unwrap();
    let mut log = OpenOptions::new().append(true).create(true).open(env::var_os(LOG).unwrap());
    let log = log.as_mut().unwrap();
    let (seed, from, count): (u64, u64, u64) = (number(SEED), number(FROM), number(COUNT));
    let mode = env::var(MODE).unwrap();
    if mode == "refused" {
        return crate::faults::refused(&dir, seed, count, log);
    }
    if mode == "full" {
        return crate::full::on_a_small_disk(&dir);
    }
    let store = DiskStore::open(&dir, "child").unwrap();
    for n in from..from.saturating_add(count) {
        writeln!(log, "begun {n}").unwrap();
        act(&store, op(seed, n), n).unwrap();
        writeln!(log, "done {n}").unwrap();
        if mode == "marked" {
            store.flush().unwrap();
            fs::create_dir(dir.join(format!("mark-{n}"))).unwrap();
        }
    }
}

/// The operations that a log says were begun and done.
pub(crate) fn logged(log: &Path) -> (Option<u64>, Option<u64>) {
    let text = fs::read_to_string(log).unwrap_or_default();
    let last = |word: &str| {
        let mut lines = text.lines().rev();
        lines.find_map(|line| line.strip_prefix(word)?.trim().parse().ok())
    };
    (last("begun "), last("done "))
}
