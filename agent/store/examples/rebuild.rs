//! How long it takes to make the index again from blobs and records, beside reading the same files.
//!
//! `cargo run --release -p netbuild-store --example rebuild -- BLOBS RECORDS DIRECTORY`
//!
//! Half of the blobs have files of their own. A directory that was filled before is used as it is.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use netbuild_core::{
    digest::{Digest, Hash},
    hlc::Hlc,
    key::ActionKey,
    merge::Trust,
    peer::Identity,
    record::{ActionResult, Execution, Output, OutputKind, Record, Sandbox},
};
use netbuild_proto::record::SealedRecord;
use netbuild_store::{DiskStore, Store};
use std::{error::Error, fs, path::Path, time::Instant};

/// Bytes of a blob in the journal, and of one with a file.
const SIZES: [usize; 2] = [2_000, 17_000];

fn blob(n: u64) -> Vec<u8> {
    let size = SIZES[(n % 2) as usize];
    let block = |at: u64| Hash::of(&[n.to_le_bytes(), at.to_le_bytes()].concat()).0;
    (0..size.div_ceil(32) as u64).flat_map(block).take(size).collect()
}

fn record(n: u64, identity: &Identity) -> Result<SealedRecord, Box<dyn Error>> {
    let path = format!("target/release/service-{}", n % 100_000).into();
    let kind = OutputKind::File { digest: Digest::of(&n.to_be_bytes()), executable: true };
    let record = Record {
        key: ActionKey(Hash::of(&n.to_le_bytes()).0),
        result: ActionResult { exit_code: 0, outputs: vec![Output { path, kind }], log: None },
        execution: Execution {
            duration_ms: n,
            finished_at_ms: n,
            sandbox_asked: Sandbox::Env,
            sandbox_obtained: Sandbox::Env,
            tools: Vec::new(),
            netbuild_version: env!("CARGO_PKG_VERSION").into(),
            flaky: false,
            drift_checked: true,
            local: false,
            bound_to: None,
        },
        writer: identity.peer_id(),
        region: "us-east".into(),
        hlc: Hlc(n + 1),
    };
    Ok(SealedRecord::seal(record, identity)?)
}

fn fill(dir: &Path, blobs: u64, records: u64) -> Result<(), Box<dyn Error>> {
    let store = DiskStore::open(dir, "rebuild")?;
    for n in 0..blobs {
        store.put_content(&mut &blob(n)[..])?;
    }
    let identity = Identity::from_seed(&[1; 32]);
    for n in 0..records {
        store.put_record(&record(n, &identity)?, &Trust::default())?;
    }
    store.flush()?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [blobs, records, dir] = &arguments[..] else {
        return Err("usage: rebuild BLOBS RECORDS DIRECTORY".into());
    };
    let (blobs, records, dir) = (blobs.parse()?, records.parse()?, Path::new(dir));
    if !dir.exists() {
        fill(dir, blobs, records)?;
    }
    let began = Instant::now();
    drop(DiskStore::open(dir, "rebuild")?);
    let clean = began.elapsed();
    let began = Instant::now();
    let journal: u64 = fs::read_dir(dir.join("journal"))?
        .map(|entry| Ok(fs::read(entry?.path())?.len() as u64))
        .sum::<std::io::Result<u64>>()?;
    let reading = began.elapsed();
    fs::remove_dir_all(dir.join("index"))?;
    let began = Instant::now();
    let store = DiskStore::open(dir, "rebuild")?;
    let rebuilt = began.elapsed();
    let stats = store.stats();
    println!("{} blobs, {} records, {journal} bytes of journal", stats.blobs, stats.records);
    println!(
        "opened clean in {clean:.2?}; journal read in {reading:.2?}; index made again in {rebuilt:.2?}"
    );
    let one = record(7, &Identity::from_seed(&[1; 32]))?;
    let path = &one.record().result.outputs[0].path;
    println!("outputs at one path: {}", store.previous(path)?.len());
    Ok(())
}
