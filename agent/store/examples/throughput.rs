//! What it costs to take in and to hand out one large blob, in CPU seconds for each GiB.
//!
//! `cargo run --release -p netbuild-store --example throughput -- [MIB] [DIRECTORY]`
//!
//! The blob (1 GiB unless told otherwise) is noise. It arrives chunk by chunk from memory, in order
//! and then in a shuffled order, and is handed out chunk by chunk from the page cache: first by the
//! store that took it in, then by one that has just been opened and has verified nothing yet. A
//! blob of up to 256 MiB is sketched on its way in, which shows when the size is no larger than
//! that. CPU is that of the whole process.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use netbuild_core::{
    chunk::{Chunker, Manifest},
    sketch::Sketcher,
};
use netbuild_store::{DiskStore, Store};
use std::{
    error::Error,
    fs,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

/// How long a file must lie before the store remembers that it was checked, and some more.
const SETTLE: Duration = Duration::from_secs(3);
/// Clock ticks in a second of `/proc/self/stat`, the same on every Linux.
const TICKS: f64 = 100.0;

/// User and system seconds of this process so far, to a hundredth.
fn cpu() -> Result<(f64, f64), Box<dyn Error>> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').ok_or("no name in stat")?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let mut next =
        || Ok::<_, Box<dyn Error>>(fields.next().ok_or("stat is short")?.parse::<f64>()? / TICKS);
    Ok((next()?, next()?))
}

/// Most memory that was resident since the last call, in MiB.
fn peak() -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).ok_or("no VmHWM")?;
    fs::write("/proc/self/clear_refs", "5")?;
    Ok(kib.parse::<u64>()? / 1024)
}

/// Runs one phase and prints what it cost.
fn phase<T>(
    name: &str,
    gib: f64,
    run: impl FnOnce() -> Result<T, Box<dyn Error>>,
) -> Result<T, Box<dyn Error>> {
    peak()?;
    let ((user, system), began) = (cpu()?, Instant::now());
    let value = run()?;
    let (took, (user_now, system_now)) = (began.elapsed().as_secs_f64(), cpu()?);
    let (user, system) = ((user_now - user) / gib, (system_now - system) / gib);
    println!(
        "{name:<34} {:.2} CPU-s/GiB (user {user:.2}, system {system:.2}), {:.2} s/GiB, peak {} MiB",
        user + system,
        took / gib,
        peak()?
    );
    Ok(value)
}

/// Bytes that look random and are the same everywhere (SplitMix64, Steele et al. 2014).
fn noise(len: usize, mut seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A blob arrives with its chunks in this order.
fn arrive(
    store: &DiskStore,
    manifest: &Manifest,
    bytes: &[u8],
    order: &[usize],
    how: &str,
) -> Result<(), Box<dyn Error>> {
    let gib = bytes.len() as f64 / f64::from(1 << 30);
    let places: Vec<_> = manifest.offsets().collect();
    // What the operating system takes for it, by how much of its memory it has to find first.
    let file = tempfile::tempfile()?;
    phase("(the same writes alone)", gib, || {
        for index in order {
            let (offset, chunk) = places[*index];
            file.write_all_at(&bytes[offset as usize..][..chunk.len as usize], offset)?;
        }
        Ok(())
    })?;
    drop(file);
    let mut partial = store.begin_blob(manifest)?;
    phase(&format!("write_chunk, {how}"), gib, || {
        for index in order {
            let (offset, chunk) = places[*index];
            partial.write_chunk(*index, &bytes[offset as usize..][..chunk.len as usize])?;
        }
        Ok(())
    })?;
    phase(&format!("finish, {how}"), gib, || Ok(partial.finish()?))
}

/// All chunks of a blob are handed out.
fn serve(
    store: &DiskStore,
    manifest: &Manifest,
    gib: f64,
    how: &str,
) -> Result<(), Box<dyn Error>> {
    phase(&format!("chunk, {how}"), gib, || {
        for chunk in manifest.chunks() {
            store.chunk(chunk)?.ok_or("a chunk is missing")?;
        }
        Ok(())
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let mib = args.next().map_or(Ok(1024), |count| count.parse::<usize>())?;
    let scratch = tempfile::tempdir()?;
    let dir = args.next().map_or_else(|| scratch.path().to_owned(), PathBuf::from);
    let gib = mib as f64 / 1024.0;
    for (seed, how) in [(1, "in order"), (2, "shuffled")] {
        let bytes = noise(mib << 20, seed);
        let mut chunker = Chunker::new();
        phase("(hash and cut in memory)", gib, || {
            chunker.update(&bytes);
            Ok(())
        })?;
        let manifest = chunker.finish();
        let mut sketcher = Sketcher::new();
        phase("(sketch in memory)", gib, || {
            bytes.chunks(1 << 20).for_each(|piece| sketcher.update(piece));
            Ok(())
        })?;
        let count = manifest.chunks().len();
        let mut order: Vec<usize> = (0..count).collect();
        if seed == 2 {
            order.sort_by_key(|index| index.wrapping_mul(7_919) % count.max(1));
        }
        let store = DiskStore::open(&dir, "example")?;
        arrive(&store, &manifest, &bytes, &order, how)?;
        drop(bytes);
        serve(&store, &manifest, gib, "by who took it in")?;
        drop(store);
        thread::sleep(SETTLE);
        let store = DiskStore::open(&dir, "example")?;
        serve(&store, &manifest, gib, "just opened")?;
        serve(&store, &manifest, gib, "the second time")?;
    }
    Ok(())
}
