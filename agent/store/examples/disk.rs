//! What the store costs on a disk, beside plain files; `scripts/bench.sh store disk` runs it.
//!
//! `cargo run --release -p netbuild-store --example disk -- PART DIRECTORY SIZE... `
//!
//! - `copy DIRECTORY MIB RUNS`: one blob is put and read, beside a plain write with fsync and a plain read
//!   with BLAKE3
//! - `index DIRECTORY RECORDS BLOBS`: an index of so many records and small blobs, each of one chunk
//! - `rebuild DIRECTORY BLOBS`: the index is made again; half of the blobs have files of their own
//! - `crowd DIRECTORY SECONDS MIB`: 64 threads put and read while space is made
//!
//! The directory must not exist. Each result is a line of JSON on standard output.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use netbuild_core::{
    digest::{Digest, DigestBuilder, Hash},
    evict::Limits,
    hlc::Hlc,
    key::ActionKey,
    merge::Trust,
    peer::Identity,
    record::{ActionResult, Execution, Output, OutputKind, Record, Sandbox},
};
use netbuild_proto::record::SealedRecord;
use netbuild_store::{DiskStore, Evicting, Store};
use std::{
    error::Error,
    fs::{self, File},
    io::{Read, Write},
    ops::ControlFlow,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

type Done<T = ()> = Result<T, Box<dyn Error>>;

/// Bytes that are written or read at once by the plain copies.
const BUFFER: usize = 1 << 20;
/// Look-ups that are timed one by one.
const LOOKUPS: u64 = 100_000;
/// Threads that put, and as many that read.
const WRITERS: u64 = 32;
/// Bytes of a blob in the journal, and of one with a file, when the index is made again.
const SIZES: [usize; 2] = [2_000, 17_000];

/// Bytes that look random and are the same everywhere (SplitMix64, Steele et al. 2014).
fn noise(len: usize, mut seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&next(&mut seed).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// One result: a figure, what it is measured beside, and what it should be.
fn row(what: &str, figure: f64, unit: &str, beside: Option<f64>, target: Option<(&str, f64)>) {
    let mut text = format!("{{\"what\":\"{what}\",\"figure\":{figure:.6},\"unit\":\"{unit}\"");
    if let Some(beside) = beside {
        text += &format!(",\"beside\":{beside:.6}");
    }
    if let Some((sense, bound)) = target {
        let met = if sense == "at most" { figure <= bound } else { figure >= bound };
        text += &format!(",\"target\":\"{sense} {bound}\",\"met\":{met}");
    }
    println!("{text}}}");
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn timed(work: impl FnOnce() -> Done) -> Done<f64> {
    let began = Instant::now();
    work()?;
    Ok(began.elapsed().as_secs_f64())
}

fn copy(dir: &Path, mib: usize, runs: u64) -> Done {
    let plain = dir.join("plain");
    let store = DiskStore::open(&dir.join("store"), "disk")?;
    let [mut put, mut write, mut get, mut read] = [(); 4].map(|()| Vec::new());
    // One after the other, so that a disk that is slower for a while is that for all.
    for run in 0..runs {
        let bytes = noise(mib << 20, run);
        let blob = Digest::of(&bytes);
        let writing = || {
            let mut file = File::create_new(&plain)?;
            bytes.chunks(BUFFER).try_for_each(|piece| file.write_all(piece))?;
            Ok(file.sync_all()?)
        };
        // Each has as much memory that was just freed: the host of a virtual machine may have to find any other,
        // which takes longer than to write it.
        let free = || -> Done {
            writing()?;
            Ok(fs::remove_file(&plain)?)
        };
        free()?;
        put.push(timed(|| {
            store.put_blob(&blob, &mut &bytes[..])?;
            Ok(store.flush()?)
        })?);
        free()?;
        write.push(timed(writing)?);
        let mut buffer = vec![0; BUFFER];
        let mut drain = |mut from: Box<dyn Read>, hash: bool| -> Done {
            let mut seen = DigestBuilder::new();
            loop {
                match from.read(&mut buffer)? {
                    0 => break,
                    len if hash => seen.update(&buffer[..len]),
                    _ => {}
                }
            }
            if hash && seen.finish() != blob {
                return Err("the plain file is another one".into());
            }
            Ok(())
        };
        read.push(timed(|| drain(Box::new(File::open(&plain)?), true))?);
        // It checks what it gives, so that nobody else has to.
        get.push(timed(|| drain(store.open_blob(&blob)?.ok_or("it is gone")?, false))?);
        store.remove_blob(&blob)?;
        fs::remove_file(&plain)?;
    }
    let rate = |seconds: f64| mib as f64 / seconds;
    for (what, ours, theirs) in [("put", put, write), ("get", get, read)] {
        let (ours, theirs) = (rate(median(ours)), rate(median(theirs)));
        row(&format!("{what} of {mib} MiB"), ours, "MiB/s", Some(theirs), None);
        let ratio = ours / theirs;
        row(&format!("{what} of {mib} MiB, ratio"), ratio, "", None, Some(("at least", 0.8)));
    }
    Ok(())
}

fn key(n: u64) -> ActionKey {
    ActionKey(Hash::of(&n.to_le_bytes()).0)
}

fn record(n: u64, outputs: &[Digest], identity: &Identity) -> Done<SealedRecord> {
    let output = |(at, digest): (usize, &Digest)| Output {
        path: format!("target/release/service-{}/{at}", n % 100_000).into(),
        kind: OutputKind::File { digest: *digest, executable: true },
    };
    let outputs = outputs.iter().enumerate().map(output).collect();
    let record = Record {
        key: key(n),
        result: ActionResult { exit_code: 0, outputs, log: None },
        execution: Execution {
            duration_ms: n % 10_000,
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
    };
    Ok(SealedRecord::seal(record, identity)?)
}

/// Resident memory of this process in bytes.
fn resident() -> Done<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).ok_or("no VmRSS")?;
    Ok(kib.parse::<f64>()? * 1024.0)
}

fn tiny(n: u64) -> [u8; 16] {
    let mut bytes = *b"blob            ";
    bytes[8..].copy_from_slice(&n.to_le_bytes());
    bytes
}

fn index(dir: &Path, records: u64, blobs: u64) -> Done {
    let (identity, trust) = (Identity::from_seed(&[1; 32]), Trust::default());
    let store = DiskStore::open(dir, "disk")?;
    for n in 0..blobs {
        store.put_content(&mut &tiny(n)[..])?;
    }
    for n in 0..records {
        let outputs = [3 * n, 3 * n + 1, 3 * n + 2].map(|n| Digest::of(&tiny(n % blobs.max(1))));
        store.put_record(&record(n, &outputs, &identity)?, &trust)?;
    }
    store.flush()?;
    drop(store);
    // In a process that has not filled it.
    let arguments = ["opened".to_owned(), dir.display().to_string(), records.to_string()];
    let opened =
        Command::new(std::env::current_exe()?).args(arguments).arg(blobs.to_string()).status()?;
    if opened.success() { Ok(()) } else { Err("the process that opens it failed".into()) }
}

fn opened(dir: &Path, records: u64, blobs: u64) -> Done {
    let what = format!("{records} records, {blobs} chunks");
    let before = resident()?;
    let began = Instant::now();
    let store = DiskStore::open(dir, "disk")?;
    let took = began.elapsed().as_secs_f64();
    row(&format!("{what}: open"), took, "s", None, Some(("at most", 2.0)));
    let mut seed = 7;
    let mut times = Vec::with_capacity(LOOKUPS as usize);
    for _ in 0..LOOKUPS {
        let n = next(&mut seed);
        let began = Instant::now();
        let found = if n.is_multiple_of(4) {
            store.record(&key((n >> 2) % records.max(1)))?.is_some()
        } else {
            let blob = Digest::of(&tiny((n >> 2) % blobs.max(1)));
            store.manifest(&blob)?.is_some() && store.has_blob(&blob)?
        };
        times.push(began.elapsed().as_secs_f64());
        if !found {
            return Err("something is missing".into());
        }
    }
    times.sort_by(f64::total_cmp);
    let p99 = times[times.len() * 99 / 100] * 1e3;
    row(&format!("{what}: random look-up, p99"), p99, "ms", None, Some(("at most", 1.0)));
    let (mib, most) = (resident()? / f64::from(1 << 20), Some(("at most", 300.0)));
    row(&format!("{what}: resident"), mib, "MiB", Some(before / f64::from(1 << 20)), most);
    Ok(())
}

fn rebuild(dir: &Path, blobs: u64) -> Done {
    let store = DiskStore::open(dir, "disk")?;
    for n in 0..blobs {
        store.put_content(&mut &noise(SIZES[(n % 2) as usize], n)[..])?;
    }
    store.flush()?;
    drop(store);
    fs::remove_dir_all(dir.join("index"))?;
    let began = Instant::now();
    let store = DiskStore::open(dir, "disk")?;
    let took = began.elapsed().as_secs_f64();
    if store.stats().blobs != blobs {
        return Err(format!("{} of {blobs} blobs came back", store.stats().blobs).into());
    }
    row(&format!("index of {blobs} blobs made again"), took, "s", None, Some(("at most", 60.0)));
    Ok(())
}

/// What the threads of a crowd share.
struct Crowd {
    store: DiskStore,
    ends: Instant,
    put: AtomicU64,
    read: AtomicU64,
    gone: AtomicU64,
    errors: AtomicU64,
    over: AtomicBool,
}

impl Crowd {
    fn going(&self) -> bool {
        Instant::now() < self.ends && !self.over.load(Ordering::Relaxed)
    }

    fn blob(number: u64) -> Vec<u8> {
        // From 100 bytes to a quarter of a MiB, most of them small.
        let size = 100 + (Hash::of(&number.to_le_bytes()).0[0] as usize).pow(2) * 4;
        noise(size, number)
    }

    fn failed(&self, what: &str, error: &dyn Error) {
        if self.errors.fetch_add(1, Ordering::Relaxed) < 10 {
            println!("{{\"error\":\"{what}: {}\"}}", error.to_string().replace('"', "'"));
        }
    }

    fn write(&self, identity: &Identity) -> Done {
        let trust = Trust::default();
        while self.going() {
            let number = self.put.fetch_add(1, Ordering::Relaxed);
            let bytes = Self::blob(number);
            let blob = Digest::of(&bytes);
            self.store.put_blob(&blob, &mut &bytes[..])?;
            self.store.put_record(&record(number, &[blob], identity)?, &trust)?;
        }
        Ok(())
    }

    fn check(&self, mut seed: u64) -> Done {
        while self.going() {
            let put = self.put.load(Ordering::Relaxed).saturating_sub(WRITERS);
            if put == 0 {
                thread::yield_now();
                continue;
            }
            let bytes = Self::blob(next(&mut seed) % put);
            match self.store.open_blob(&Digest::of(&bytes))? {
                Some(mut reader) => {
                    let mut got = Vec::with_capacity(bytes.len());
                    reader.read_to_end(&mut got)?;
                    if got != bytes {
                        return Err("wrong bytes".into());
                    }
                    self.read.fetch_add(1, Ordering::Relaxed);
                }
                None => drop(self.gone.fetch_add(1, Ordering::Relaxed)),
            }
        }
        Ok(())
    }

    /// Makes space as an agent does, only more often.
    fn tidy(&self, max_bytes: u64) -> Done {
        let limits = Limits { max_bytes, min_free: 0, max_age: None, grace: Duration::ZERO };
        let tell = |_: &str, _: f64| ControlFlow::Continue(());
        let how = Evicting { refetch: &|_, _| None, expire: false, dry_run: false, tell: &tell };
        while self.going() {
            self.store.evict(&limits, &how)?;
            self.store.compact(&mut |_| ControlFlow::Continue(()))?;
            thread::yield_now();
        }
        Ok(())
    }
}

/// The most of the first and of the second half, the beginning left out in which all is filled.
fn halves(samples: &[f64]) -> (f64, f64) {
    let settled = &samples[samples.len() / 5..];
    let (first, second) = settled.split_at(settled.len() / 2);
    let most = |part: &[f64]| part.iter().copied().fold(0.0, f64::max);
    (most(first), most(second))
}

fn crowd(dir: &Path, seconds: u64, mib: u64) -> Done {
    let began = Instant::now();
    let crowd = Crowd {
        store: DiskStore::open(dir, "disk")?,
        ends: began + Duration::from_secs(seconds),
        put: AtomicU64::new(0),
        read: AtomicU64::new(0),
        gone: AtomicU64::new(0),
        errors: AtomicU64::new(0),
        over: AtomicBool::new(false),
    };
    let (mut memory, mut disk) = (Vec::new(), Vec::new());
    thread::scope(|scope| -> Done {
        let crowd = &crowd;
        let watched = |what: &'static str, done: Done| {
            if let Err(error) = done {
                crowd.failed(what, error.as_ref());
            }
        };
        for n in 0..WRITERS {
            scope.spawn(move || watched("put", crowd.write(&Identity::from_seed(&[n as u8; 32]))));
            scope.spawn(move || watched("get", crowd.check(n)));
        }
        scope.spawn(move || watched("evict", crowd.tidy(mib << 20)));
        let (mut sampled, every) = (0, Duration::from_secs(seconds).div_f64(100.0));
        let mut sampling = || -> Done {
            while crowd.going() {
                // Until the next sample; the threads of the crowd go on.
                thread::park_timeout(every);
                memory.push(resident()?);
                disk.push(crowd.store.usage()?.total() as f64);
                sampled += 1;
            }
            Ok(())
        };
        let done = sampling();
        crowd.over.store(true, Ordering::Relaxed);
        done
    })?;
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    let count = |of: &AtomicU64| of.load(Ordering::Relaxed) as f64;
    row("crowd: minutes", minutes, "min", None, None);
    row("crowd: puts", count(&crowd.put), "", None, None);
    row("crowd: reads, all right", count(&crowd.read), "", Some(count(&crowd.gone)), None);
    row("crowd: errors", count(&crowd.errors), "", None, Some(("at most", 0.0)));
    let scale = f64::from(1 << 20);
    for (what, samples, unit) in [("memory", &memory, "MiB"), ("disk", &disk, "MiB")] {
        let (first, second) = halves(samples);
        row(
            &format!("crowd: {what}, second half"),
            second / scale,
            unit,
            Some(first / scale),
            None,
        );
        let growth = second / first.max(1.0);
        row(&format!("crowd: {what}, growth"), growth, "", None, Some(("at most", 1.1)));
    }
    Ok(())
}

fn main() -> Done {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>();
    match arguments[..] {
        ["copy", dir, mib, runs] => {
            fs::create_dir_all(dir)?;
            copy(Path::new(dir), number(mib)? as usize, number(runs)?.max(1))
        }
        ["index", dir, records, blobs] => index(Path::new(dir), number(records)?, number(blobs)?),
        ["opened", dir, records, blobs] => opened(Path::new(dir), number(records)?, number(blobs)?),
        ["rebuild", dir, blobs] => rebuild(Path::new(dir), number(blobs)?),
        ["crowd", dir, seconds, mib] => crowd(Path::new(dir), number(seconds)?, number(mib)?),
        _ => Err("usage: disk copy|index|rebuild|crowd DIRECTORY SIZE...; see the source".into()),
    }
}
