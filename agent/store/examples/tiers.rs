//! What tiers cost and how fast they are; `scripts/bench.sh store tiers` runs it.

#![expect(clippy::print_stdout, reason = "a benchmark prints")]
#![expect(clippy::unwrap_used, reason = "a step that fails ends the benchmark")]

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use netbuild_core::{
    backend::{Chain, Place},
    digest::Digest,
    hlc::Hlc,
    key::ActionKey,
    peer::Identity,
    record::{ActionResult, Execution, Output, OutputKind, Record, Sandbox},
};
use netbuild_proto::record::SealedRecord;
use netbuild_servers::{KEY, Redis, SECRET, Seaweed};
use netbuild_store::{
    Batch, Blob, ChangeCursor, Offer, Operation, RedisOptions, RedisTier, S3Options, S3Tier, Tier,
    Topology,
};
use object_store::{ClientOptions, ObjectStoreExt as _, aws::AmazonS3Builder, path::Path};
use std::{
    process::Command,
    time::{Duration, Instant},
};

const SMALL: usize = 10_000;
const SMALL_SIZE: usize = 2048;
const LARGE: usize = 8;
const LARGE_SIZE: usize = 32 << 20;
/// Requests at once of the plain client.
const AT_ONCE: usize = 8;

type Blobs = Vec<(Digest, Bytes)>;

/// Bytes that look random (SplitMix64).
fn noise(len: usize, mut seed: u64) -> Bytes {
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}

fn blobs(count: usize, size: usize) -> Blobs {
    let blobs = (0..count).map(|n| noise(size, (size + n) as u64));
    blobs.map(|bytes| (Digest::of(&bytes), bytes)).collect()
}

/// A record of an action with this one output.
fn offer(identity: &Identity, number: usize, blob: Digest) -> Offer {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&(number as u64).to_le_bytes());
    let kind = OutputKind::File { digest: blob, executable: false };
    let record = Record {
        key: ActionKey(key),
        result: ActionResult {
            exit_code: 0,
            outputs: vec![Output { path: b"out/some/file".to_vec(), kind }],
            log: None,
        },
        execution: Execution {
            duration_ms: 1000,
            finished_at_ms: 2,
            sandbox_asked: Sandbox::Env,
            sandbox_obtained: Sandbox::Env,
            tools: vec!["rustc".into()],
            netbuild_version: "0.1.0".into(),
            flaky: false,
            drift_checked: true,
            local: false,
            bound_to: None,
        },
        writer: identity.peer_id(),
        region: "eu-central".into(),
        hlc: Hlc(1),
    };
    Offer { record: SealedRecord::seal(record, identity).unwrap(), blobs: vec![blob] }
}

async fn timed<T>(what: impl Future<Output = T>) -> (f64, T) {
    let since = Instant::now();
    let done = what.await;
    (since.elapsed().as_secs_f64(), done)
}

fn print_counts(title: &str, tier: &dyn Tier) {
    for operation in Operation::ALL {
        let count = tier.counts().of(operation);
        if count.requests > 0 {
            println!(
                "  {title:<8} {:<8} {:>6} requests {:>12} B sent {:>12} B received",
                operation.as_str(),
                count.requests,
                count.sent,
                count.received
            );
        }
    }
}

/// Puts all with records, in batches as large as the tier says; reads all with another handle.
async fn small(tier: &dyn Tier, other: &dyn Tier, blobs: &Blobs) -> (f64, f64) {
    let identity = Identity::from_seed(&[1; 32]);
    let offers =
        blobs.iter().enumerate().map(|(number, (blob, _))| offer(&identity, number, *blob));
    let offers: Vec<_> = offers.collect();
    let per_batch = tier.limits().batch as usize / SMALL_SIZE;
    let (put, ()) = timed(async {
        for (blobs, offers) in blobs.chunks(per_batch).zip(offers.chunks(per_batch)) {
            let blobs = blobs.iter().map(|(blob, bytes)| (*blob, Blob::Bytes(bytes.clone())));
            let batch = Batch { blobs: blobs.collect(), records: offers.to_vec() };
            tier.put(batch).await.unwrap();
        }
    })
    .await;
    let (get, ()) = timed(async {
        let mut cursor = ChangeCursor::default();
        let mut records = 0;
        loop {
            let changes = other.changes(&cursor).await.unwrap();
            records += changes.records.len();
            cursor = changes.cursor;
            if !changes.more {
                break;
            }
        }
        assert_eq!(records, blobs.len());
        for blobs in blobs.chunks(1000) {
            let names: Vec<_> = blobs.iter().map(|(blob, _)| *blob).collect();
            let found = other.small(&names).await.unwrap();
            assert!(found.iter().all(Option::is_some));
        }
    })
    .await;
    (put, get)
}

async fn large(tier: &dyn Tier, other: &dyn Tier, blobs: &Blobs) -> (f64, f64) {
    let (put, ()) = timed(async {
        let blobs = blobs.iter().map(|(blob, bytes)| (*blob, Blob::Bytes(bytes.clone())));
        tier.put(Batch { blobs: blobs.collect(), records: Vec::new() }).await.unwrap();
    })
    .await;
    let (get, ()) = timed(async {
        let reads = blobs.iter().map(|(blob, _)| async move {
            let mut seen = netbuild_core::digest::DigestBuilder::new();
            let mut pieces = other.read(blob, 0..blob.size).await.unwrap().unwrap();
            while let Some(piece) = pieces.try_next().await.unwrap() {
                seen.update(&piece);
            }
            assert_eq!(seen.finish(), *blob);
        });
        stream::iter(reads).buffer_unordered(2).collect::<()>().await;
    })
    .await;
    (put, get)
}

/// Each blob as a piece of its own, without any check.
async fn plain(endpoint: &str, prefix: &str, blobs: &Blobs) -> (f64, f64) {
    let store = AmazonS3Builder::new()
        .with_endpoint(endpoint)
        .with_bucket_name("netbuild")
        .with_access_key_id(KEY)
        .with_secret_access_key(SECRET)
        .with_client_options(
            ClientOptions::new().with_allow_http(true).with_timeout(Duration::from_secs(600)),
        )
        .build()
        .unwrap();
    let path = |blob: &Digest| Path::from(format!("{prefix}/{}", blob.hash));
    let (put, ()) = timed(async {
        let puts = blobs.iter().map(|(blob, bytes)| {
            let (path, bytes, store) = (path(blob), bytes.clone(), &store);
            async move { store.put(&path, bytes.into()).await.map(drop).unwrap() }
        });
        stream::iter(puts).buffer_unordered(AT_ONCE).collect::<()>().await;
    })
    .await;
    let (get, ()) = timed(async {
        let gets = blobs.iter().map(|(blob, bytes)| {
            let (path, len, store) = (path(blob), bytes.len(), &store);
            async move {
                let got = store.get(&path).await.unwrap().bytes().await.unwrap();
                assert_eq!(got.len(), len);
            }
        });
        stream::iter(gets).buffer_unordered(AT_ONCE).collect::<()>().await;
    })
    .await;
    (put, get)
}

/// Commands per second that redis-benchmark makes, in a pipeline as deep as ours.
fn redis_benchmark(port: u16, command: &str) -> f64 {
    let (port, count, size) = (port.to_string(), SMALL.to_string(), SMALL_SIZE.to_string());
    let output = Command::new("redis-benchmark")
        .args(["-h", "127.0.0.1", "-p", &port, "-n", &count, "-d", &size, "-c", "1", "-P", "128"])
        .args(["-r", &count, "--csv", "-t", command])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.to_lowercase().starts_with(&format!("\"{command}\"")));
    line.and_then(|line| line.split('"').nth(3)).and_then(|rate| rate.parse().ok()).unwrap()
}

fn row(what: &str, bytes: usize, (put, get): (f64, f64), beside: &str, (put1, get1): (f64, f64)) {
    let mib = bytes as f64 / f64::from(1 << 20);
    for (way, ours, theirs) in [("put", put, put1), ("get", get, get1)] {
        println!(
            "{what:<28} {way}  {ours:>7.2} s {:>7.1} MiB/s   {beside} {theirs:>7.2} s   ratio {:.2}",
            mib / ours,
            ours / theirs
        );
    }
}

#[tokio::main]
async fn main() {
    let (tiny, big) = (blobs(SMALL, SMALL_SIZE), blobs(LARGE, LARGE_SIZE));
    let bytes = SMALL * SMALL_SIZE;
    println!(
        "{SMALL} blobs of {SMALL_SIZE} B with their records; {LARGE} of {} MiB",
        LARGE_SIZE >> 20
    );
    println!(
        "ratio: our time / theirs, lower is better; ours checks every byte and has the records\n"
    );

    let redis = Redis::start(&[]);
    let make = || {
        let chain: Chain = redis.url().parse().expect("an address");
        let Place::Redis(server) = &chain.tiers[0].place else { panic!("{}", redis.url()) };
        RedisTier::new(RedisOptions::new(server, Topology::Single)).unwrap()
    };
    let (tier, other) = (make(), make());
    let ours = small(&tier, &other, &tiny).await;
    let rates = ["set", "get"].map(|command| SMALL as f64 / redis_benchmark(redis.port(), command));
    row("redis, small", bytes, ours, "redis-benchmark", (rates[0], rates[1]));
    print_counts("put", &tier);
    print_counts("get", &other);

    let seaweed = Seaweed::start();
    let make = |prefix: &str| {
        let vars = [("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)];
        let vars = vars.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let bucket = format!("netbuild/{prefix}").parse().expect("a bucket");
        let mut options = S3Options::new(&bucket, &vars);
        options.endpoint = Some(seaweed.endpoint());
        S3Tier::new(options).unwrap()
    };
    let (tier, other) = (make("small"), make("small"));
    let ours = small(&tier, &other, &tiny).await;
    let theirs = plain(&seaweed.endpoint(), "plain-small", &tiny).await;
    row("s3, small", bytes, ours, "one piece each ", theirs);
    print_counts("put", &tier);
    print_counts("get", &other);
    println!("  plain    put      {SMALL:>6} requests; get {SMALL:>6} requests, without records");
    let (tier, other) = (make("large"), make("large"));
    let ours = large(&tier, &other, &big).await;
    let theirs = plain(&seaweed.endpoint(), "plain-large", &big).await;
    row("s3, large", LARGE * LARGE_SIZE, ours, "one piece each ", theirs);
    print_counts("put", &tier);
    print_counts("get", &other);
}
