//! Measures how files cross a link under each policy of coding.
//!
//! `codecs serve ADDRESS FILE...` hands out the files; `codecs get ADDRESS POLICY FILE... [--small N]`
//! gets them from there, reading the files only for their chunks, and prints a line of JSON for each:
//! bytes, bytes on the wire, seconds and codings. With `--small` there are also N blobs of 2 KiB.
//! `codecs loopback POLICY FILE...` does both in one process.

#[path = "support/orders.rs"]
mod orders;

use netbuild_core::{
    chunk::{Chunk, Chunker, Manifest},
    codec::Policy,
    digest::{Digest, Hash},
    key::ActionKey,
    peer::{Identity, PeerId},
};
use netbuild_proto::data::Coding;
use netbuild_transfer::{Arrival, Endpoint, Holder, Options, Patience, Provide};
use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    future::pending,
    io::{Write, stdout},
    net::SocketAddr,
    ops::ControlFlow,
    sync::Arc,
    time::Instant,
};
use tokio::{runtime::Builder, sync::mpsc};

type Anything<T> = Result<T, Box<dyn Error>>;

/// Length of a small blob.
const SMALL: usize = 2048;

/// Chunks in memory.
#[derive(Debug, Default)]
struct Shelf(HashMap<Hash, Vec<u8>>);

impl Provide for Shelf {
    fn record(&self, _: &ActionKey) -> Option<Vec<u8>> {
        None
    }

    fn manifest(&self, _: &Digest) -> Option<Manifest> {
        None
    }

    fn chunk(&self, chunk: &Chunk) -> Option<Vec<u8>> {
        self.0.get(&chunk.hash).cloned()
    }

    fn has(&self, _: &Digest) -> bool {
        true
    }

    fn bring(&self, _: &PeerId, blobs: &[Digest]) -> Vec<bool> {
        vec![true; blobs.len()]
    }
}

impl Shelf {
    fn put(&mut self, bytes: &[u8], chunks: &[Chunk]) {
        let mut rest = bytes;
        for chunk in chunks {
            let (these, later) = rest.split_at(chunk.len as usize);
            self.0.insert(chunk.hash, these.to_vec());
            rest = later;
        }
    }
}

fn chunks_of(bytes: &[u8]) -> Vec<Chunk> {
    let mut chunker = Chunker::new();
    chunker.update(bytes);
    chunker.finish().chunks().to_vec()
}

/// Small blobs that shrink to about half, like generated sources do.
fn small(number: u32) -> Vec<u8> {
    let line = |at: usize| {
        let hash = Hash::of(&[number.to_le_bytes(), (at as u32).to_le_bytes()].concat());
        format!("let value_{at} = {:?};\n", &hash.as_bytes()[..4])
    };
    let mut text: Vec<u8> = (0..SMALL / 16).flat_map(|at| line(at).into_bytes()).collect();
    text.truncate(SMALL);
    text
}

fn endpoint(seed: u8, listen: SocketAddr, policy: Policy, shelf: Shelf) -> Anything<Endpoint> {
    Ok(Endpoint::bind(Options {
        listen,
        identity: Identity::from_seed(&[seed; 32]),
        admits: Arc::new(|_| true),
        provide: Arc::new(shelf),
        policy,
        toll: None,
        samples: mpsc::channel(1000).0,
    })?)
}

/// A name, and what is to be got under it.
type Wanted = (String, Vec<Chunk>);

fn stock(files: &[String], blobs: u32) -> Anything<(Shelf, Vec<Wanted>)> {
    let (mut shelf, mut wanted) = (Shelf::default(), Vec::new());
    for file in files {
        let bytes = std::fs::read(file)?;
        let chunks = chunks_of(&bytes);
        shelf.put(&bytes, &chunks);
        wanted.push((file.clone(), chunks));
    }
    let mut all = Vec::new();
    for number in 0..blobs {
        let bytes = small(number);
        let chunks = chunks_of(&bytes);
        shelf.put(&bytes, &chunks);
        all.extend(chunks);
    }
    if blobs > 0 {
        wanted.push((format!("{blobs} blobs of {SMALL} bytes"), all));
    }
    Ok((shelf, wanted))
}

/// What came of a request.
#[derive(Default)]
struct Report {
    /// Bytes of chunks, and of their shares in the frames, by coding.
    codings: BTreeMap<Coding, (u64, u64)>,
    missing: usize,
}

impl Report {
    fn count(&mut self, arrival: Option<Arrival>) {
        let Some(Arrival { bytes, wire, coding }) = arrival else {
            self.missing += 1;
            return;
        };
        let coded = self.codings.entry(coding).or_default();
        coded.0 += bytes.len() as u64;
        coded.1 += wire;
    }
}

fn tell(policy: Policy, name: &str, report: &Report, seconds: f64) -> Anything<()> {
    let coded = report.codings.iter();
    let codings: Vec<_> =
        coded.map(|(coding, (logical, wire))| format!("\"{coding}\":[{logical},{wire}]")).collect();
    let (bytes, wire) =
        report.codings.values().fold((0, 0), |sum, coded| (sum.0 + coded.0, sum.1 + coded.1));
    let (missing, codings) = (report.missing, codings.join(","));
    writeln!(
        stdout(),
        "{{\"policy\":\"{policy}\",\"what\":\"{name}\",\"bytes_logical\":{bytes},\
         \"bytes_on_wire\":{wire},\"seconds\":{seconds:.3},\"missing\":{missing},\
         \"codings\":{{{codings}}}}}",
    )?;
    Ok(())
}

async fn get(at: SocketAddr, policy: Policy, wanted: &[Wanted]) -> Anything<()> {
    let here: SocketAddr =
        if at.ip().is_loopback() { "127.0.0.1:0" } else { "0.0.0.0:0" }.parse()?;
    let requester = endpoint(2, here, policy, Shelf::default())?;
    let holder = Holder { peer: Identity::from_seed(&[1; 32]).peer_id(), addresses: vec![at] };
    requester.open(&holder).await?;
    for (name, chunks) in wanted {
        let begun = Instant::now();
        let mut report = Report::default();
        let deliver = |arrival| {
            report.count(arrival);
            ControlFlow::Continue(())
        };
        let next = orders::orders(chunks);
        requester.chunks(&holder, next, |_| None, Patience::default(), |_| (), deliver).await?;
        tell(policy, name, &report, begun.elapsed().as_secs_f64())?;
    }
    requester.shutdown().await;
    Ok(())
}

fn main() -> Anything<()> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let mut blobs = 0;
    if let Some(at) = args.iter().position(|arg| arg == "--small") {
        blobs = args.get(at + 1).ok_or("how many?")?.parse()?;
        args.drain(at..at + 2);
    }
    let runtime = || Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", at, ..] => {
            let (shelf, _) = stock(&args[2..], blobs)?;
            runtime()?.block_on(async {
                let _serving = endpoint(1, at.parse()?, Policy::Adaptive, shelf)?;
                pending().await
            })
        }
        ["get", at, policy, ..] => {
            let (_, wanted) = stock(&args[3..], blobs)?;
            runtime()?.block_on(get(at.parse()?, policy.parse()?, &wanted))
        }
        ["loopback", policy, ..] => {
            let (shelf, wanted) = stock(&args[2..], blobs)?;
            let there = runtime()?;
            let serving = there
                .block_on(async { endpoint(1, "127.0.0.1:0".parse()?, Policy::Adaptive, shelf) })?;
            runtime()?.block_on(get(serving.local_addr(), policy.parse()?, &wanted))
        }
        _ => Err("serve ADDRESS, get ADDRESS POLICY, or loopback POLICY, and files".into()),
    }
}
