//! Measures the data plane on loopback: one holder, one requester, each on a runtime of its own.
//!
//! `cargo run --release -p netbuild-transfer --example loopback [MEBIBYTES]`

#[path = "support/orders.rs"]
mod orders;

use netbuild_core::{
    chunk::{Chunk, Manifest},
    digest::{Digest, Hash},
    key::ActionKey,
    peer::{Identity, PeerId},
};
use netbuild_transfer::{Arrival, Endpoint, Holder, Options, Patience, Provide};
use rustix::time::{ClockId, clock_gettime};
use std::{
    io::{Write, stdout},
    ops::ControlFlow,
    sync::Arc,
    time::Instant,
};
use tokio::runtime::Builder;

const CHUNK: usize = 512 * 1024;

/// Hands out the same chunk for ever.
#[derive(Debug)]
struct One(Vec<u8>);

impl Provide for One {
    fn record(&self, _: &ActionKey) -> Option<Vec<u8>> {
        None
    }

    fn manifest(&self, _: &Digest) -> Option<Manifest> {
        None
    }

    fn chunk(&self, _: &Chunk) -> Option<Vec<u8>> {
        Some(self.0.clone())
    }

    fn has(&self, _: &Digest) -> bool {
        true
    }

    fn bring(&self, _: &PeerId, blobs: &[Digest]) -> Vec<bool> {
        vec![true; blobs.len()]
    }
}

fn endpoint(seed: u8) -> Result<Endpoint, Box<dyn std::error::Error>> {
    Ok(Endpoint::bind(Options {
        listen: "127.0.0.1:0".parse()?,
        identity: Identity::from_seed(&[seed; 32]),
        admits: Arc::new(|_| true),
        provide: Arc::new(One(vec![seed; CHUNK])),
        policy: netbuild_core::codec::Policy::default(),
        toll: None,
        samples: tokio::sync::mpsc::channel(1000).0,
    })?)
}

/// CPU seconds of this process.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mebibytes: usize = std::env::args().nth(1).map_or(Ok(1024), |text| text.parse())?;
    let runtime = || Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let (there, here) = (runtime()?, runtime()?);
    let provider = there.block_on(async { endpoint(1) })?;
    let requester = here.block_on(async { endpoint(2) })?;
    let holder = Holder {
        peer: Identity::from_seed(&[1; 32]).peer_id(),
        addresses: vec![provider.local_addr()],
    };
    let chunk = Chunk { hash: Hash::of(&[1; CHUNK]), len: CHUNK as u32 };
    let chunks = vec![chunk; mebibytes * 1024 * 1024 / CHUNK];
    let (started, cpu_before) = (Instant::now(), cpu());
    let mut bytes = 0;
    here.block_on(async {
        let next = orders::orders(&chunks);
        let deliver = |arrival: Option<Arrival>| {
            bytes += arrival.map_or(0, |arrival| arrival.bytes.len() as u64);
            ControlFlow::Continue(())
        };
        requester.chunks(&holder, next, |_| None, Patience::default(), |_| (), deliver).await
    })?;
    let seconds = started.elapsed().as_secs_f64();
    let rate = bytes as f64 / seconds / f64::from(1 << 20);
    let cost = (cpu() - cpu_before) / (bytes as f64 / f64::from(1 << 30));
    writeln!(
        stdout(),
        "{bytes} bytes, {seconds:.2} s, {rate:.0} MiB/s, {cost:.2} CPU seconds per GiB, both ends"
    )?;

    let keys = vec![ActionKey([0; 32]); 10_000];
    let started = Instant::now();
    here.block_on(requester.records(&holder, &keys, Patience::default()))?;
    let micros = started.elapsed().as_micros();
    writeln!(stdout(), "{} lookups in {micros} µs, batched", keys.len())?;
    let started = Instant::now();
    for key in &keys[..1000] {
        here.block_on(requester.records(&holder, std::slice::from_ref(key), Patience::default()))?;
    }
    let micros = started.elapsed().as_micros();
    writeln!(stdout(), "1000 lookups in {micros} µs, one by one")?;
    here.block_on(requester.shutdown());
    there.block_on(provider.shutdown());
    Ok(())
}
