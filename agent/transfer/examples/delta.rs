//! `delta OLD NEW`: what each method of delta makes of a real pair of files, and at what cost.
//!
//! The new file is cut in segments of 8 MiB, each encoded and decoded alone and compared. Speeds are
//! bytes of the new file per CPU second of this one thread, the index included; memory is the most
//! that the process had while it encoded, so each method is a process of its own: without a method,
//! the example starts itself once for each.

#![expect(clippy::print_stdout, reason = "a program that shows a table")]

use bytes::Bytes;
use netbuild_core::delta::Method;
use netbuild_core::sketch::Sketcher;
use netbuild_transfer::delta::{Encoder, decode};
use std::error::Error;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::process::Command;

/// Bytes of a segment.
const SEGMENT: usize = 8 << 20;

const METHODS: [(&str, Method); 3] =
    [("patch", Method::Patch), ("prefix", Method::Prefix), ("whole", Method::Whole)];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [program, old, new, method @ ..] = arguments.as_slice() else {
        return Err("usage: delta OLD NEW [patch|prefix|whole]".into());
    };
    if let Some(name) = method.first() {
        let known = METHODS.iter().find(|(known, _)| known == name);
        let (name, method) = known.ok_or("no such method")?;
        return measure(old, new, name, *method);
    }
    let (similarity, speed) = similarity(old, new)?;
    println!("{old} -> {new}: alike by {similarity:.2}, sketched at {speed:.0} MB/s");
    println!("method        bytes  of new   encode   decode  memory");
    println!("                                MB/s     MB/s     MiB");
    for (name, _) in METHODS {
        if !Command::new(program).args([old, new, name]).status()?.success() {
            return Err(name.into());
        }
    }
    Ok(())
}

fn measure(old: &str, new: &str, name: &str, method: Method) -> Result<(), Box<dyn Error>> {
    let base = File::open(old)?;
    let len = base.metadata()?.len();
    let mut target = File::open(new)?;
    let mut offset = 0;
    let mut all = Vec::new();
    let start = cpu_seconds()?;
    let encoder = Encoder::new(Bytes::from(fs::read(old)?))?;
    loop {
        let mut segment = Vec::with_capacity(SEGMENT);
        (&mut target).take(SEGMENT as u64).read_to_end(&mut segment)?;
        if segment.is_empty() {
            break;
        }
        all.push((encoder.encode(&segment, offset, method)?, segment.len()));
        offset += segment.len() as u64;
    }
    let encoded = cpu_seconds()?;
    let memory = peak_memory()?;
    drop(encoder);

    let mut made = Vec::new();
    for (bytes, expected) in &all {
        let read = |at: u64, into: &mut [u8]| base.read_exact_at(into, at);
        made.push(decode(len, read, bytes, *expected)?);
    }
    let decoded = cpu_seconds()?;
    if made.concat() != fs::read(new)? {
        return Err("what was decoded is not the new file".into());
    }
    let sent: usize = all.iter().map(|(bytes, _)| bytes.len()).sum();
    let speed = |seconds: f64| offset as f64 / 1e6 / seconds.max(0.01);
    println!(
        "{name:<8} {sent:>10} {:>6.2}% {:>8.0} {:>8.0} {memory:>7}",
        sent as f64 * 100.0 / offset as f64,
        speed(encoded - start),
        speed(decoded - encoded),
    );
    Ok(())
}

/// How much the files are alike by their sketches, and how many MB were sketched per CPU second.
fn similarity(old: &str, new: &str) -> Result<(f64, f64), Box<dyn Error>> {
    let (old, new) = (fs::read(old)?, fs::read(new)?);
    let start = cpu_seconds()?;
    let sketch = |bytes: &[u8]| {
        let mut sketcher = Sketcher::new();
        sketcher.update(bytes);
        sketcher.finish()
    };
    let similarity = sketch(&old).similarity(&sketch(&new));
    let seconds = (cpu_seconds()? - start).max(0.01);
    Ok((similarity, (old.len() + new.len()) as f64 / 1e6 / seconds))
}

/// CPU seconds of this process, in the clock's hundredths.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? / 100.0)
}

/// The most memory that this process has had, in MiB.
fn peak_memory() -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).ok_or("no VmHWM")?;
    Ok(kib.parse::<u64>()? / 1024)
}
