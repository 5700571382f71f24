//! How much memory a store with many records takes, and how long it takes to put and read one.
//!
//! `cargo run --release -p netbuild-store --example resident -- RECORDS [DIRECTORY]`
//!
//! In a directory the store stays, and a second run measures a process that finds it filled.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use netbuild_core::{
    digest::{Digest, Hash},
    hlc::Hlc,
    key::ActionKey,
    ledger::{Cost, Item, Ledger},
    merge::Trust,
    peer::Identity,
    record::{ActionResult, Execution, Output, OutputKind, Record, Sandbox},
};
use netbuild_proto::record::SealedRecord;
use netbuild_store::{DiskStore, Store};
use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Records taken from the store at once, as an agent does it when it starts.
const PAGE: usize = 1000;
/// Output paths with and without `.d`, of which each record has one.
const PATHS: u64 = 100_000;
/// Records read to measure how long one takes.
const READS: u64 = 10_000;

fn key(n: u64) -> ActionKey {
    ActionKey(Hash::of(&n.to_le_bytes()).0)
}

/// A record of ordinary size: two outputs, each at a path that few others have, and a log.
fn record(n: u64, identity: &Identity) -> Record {
    let digest = Digest::of(&n.to_be_bytes());
    let output = |ending: &str| Output {
        path: format!("target/release/service-{}{ending}", n % PATHS).into(),
        kind: OutputKind::File { digest, executable: true },
    };
    Record {
        key: key(n),
        result: ActionResult {
            exit_code: 0,
            outputs: vec![output(""), output(".d")],
            log: Some(digest),
        },
        execution: Execution {
            duration_ms: n,
            finished_at_ms: 1_795_000_000_000 + n,
            sandbox_asked: Sandbox::Env,
            sandbox_obtained: Sandbox::Env,
            tools: vec!["rustc".into()],
            netbuild_version: env!("CARGO_PKG_VERSION").into(),
            flaky: false,
            drift_checked: true,
            bound_to: None,
            local: false,
        },
        writer: identity.peer_id(),
        region: "eu-central".into(),
        hlc: Hlc(n + 1),
    }
}

/// Resident memory of this process in MiB.
fn resident() -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).ok_or("no VmRSS")?;
    Ok(kib.parse::<u64>()? / 1024)
}

/// Puts records that are not there yet.
fn fill(dir: &Path, records: u64) -> Result<(), Box<dyn Error>> {
    let (identity, trust) = (Identity::from_seed(&[1; 32]), Trust::default());
    let store = DiskStore::open(dir, "example")?;
    let missing = store.stats().records..records;
    let count = missing.clone().count().max(1);
    let mut putting = Duration::ZERO;
    for n in missing {
        let sealed = SealedRecord::seal(record(n, &identity), &identity)?;
        let began = Instant::now();
        store.put_record(&sealed, &trust)?;
        putting += began.elapsed();
    }
    println!("filled: {} MiB, {:?} per record put", resident()?, putting.div_f64(count as f64));
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let records = args.next().map_or(Ok(100_000), |count| count.parse::<u64>())?;
    let scratch = tempfile::tempdir()?;
    let dir = args.next().map_or_else(|| scratch.path().to_owned(), PathBuf::from);
    println!("start: {} MiB", resident()?);
    if !dir.join("journal").exists() {
        fill(&dir, records)?;
        println!("closed: {} MiB", resident()?);
    }

    let began = Instant::now();
    let store = DiskStore::open(&dir, "example")?;
    println!("opened: {} MiB, {:?}", resident()?, began.elapsed());

    let began = Instant::now();
    for n in 0..READS {
        let n = n.wrapping_mul(7_919) % records;
        store.record(&key(n))?.ok_or("a record is missing")?;
    }
    let each = began.elapsed().div_f64(READS as f64);
    println!("{READS} read: {} MiB, {each:?} per record", resident()?);

    let began = Instant::now();
    let mut after = None;
    let mut ledger = Ledger::default();
    loop {
        let page = store.records_after(after.as_ref(), PAGE)?;
        let Some(last) = page.last() else { break };
        after = Some(last.key);
        for head in page {
            let item = Item { key: head.key, hlc: head.hlc, sum: head.sum };
            ledger.handle_have(item, Cost::default());
        }
    }
    println!("with a ledger of {}: {} MiB, {:?}", ledger.len(), resident()?, began.elapsed());
    drop((store, ledger));
    Ok(())
}
