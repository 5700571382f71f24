//! Redis in every arrangement, and when it is killed, flushed, full, slow or lying.

use crate::{
    common::noise,
    conformance::{batch, blob, changes, conforms, offer, tiny},
};
use netbuild_core::{
    backend::{Chain, Place},
    digest::Digest,
    key::ActionKey,
};
use netbuild_servers::{Fault, Proxy, Redis, RedisCluster, RedisSentinels};
use netbuild_store::{
    ChangeCursor, Class, Operation, RedisOptions, RedisTier, Tier as _, Topology,
};
use std::time::{Duration, Instant};

fn tier(url: &str) -> RedisTier {
    RedisTier::new(options(url)).unwrap()
}

/// What an address says, with the arrangement in the scheme, as the servers of the tests tell it, and
/// behind a `?` what configurations say otherwise: prefix, ttl, timeout and ca.
fn options(url: &str) -> RedisOptions {
    let (place, said) = url.split_once('?').unwrap_or((url, ""));
    let (mut place, mut topology) = (place.to_owned(), Topology::Single);
    if place.contains("-cluster:") {
        (place, topology) = (place.replace("-cluster:", ":"), Topology::Cluster);
    } else if place.contains("-sentinel:") {
        let (hosts, master) = place.rsplit_once('/').unwrap();
        topology = Topology::Sentinel { master: master.to_owned() };
        place = hosts.replace("-sentinel:", ":");
    }
    let chain: Chain = place.parse().unwrap();
    let Place::Redis(server) = &chain.tiers[0].place else { panic!("{url}") };
    let mut options = RedisOptions::new(server, topology);
    for (key, value) in said.split('&').filter_map(|pair| pair.split_once('=')) {
        let seconds = || Duration::from_secs(value.parse().unwrap());
        match key {
            "prefix" => options.prefix = value.to_owned(),
            "ca" => options.ca = Some(value.into()),
            "ttl" => options.ttl = Some(seconds()),
            "timeout" => options.patience = seconds(),
            other => panic!("{other}"),
        }
    }
    options
}

/// Two agents that use this Redis under a prefix of their own.
fn pair(url: &str, prefix: &str) -> (RedisTier, RedisTier) {
    let joint = if url.contains('?') { '&' } else { '?' };
    let url = format!("{url}{joint}prefix={prefix}");
    (tier(&url), tier(&url))
}

#[tokio::test]
async fn one_server_conforms() {
    let redis = Redis::start(&[]);
    conforms(|prefix| pair(&redis.url(), prefix)).await;
    conforms(|prefix| pair(&format!("{}/3?ttl=600", redis.url()), prefix)).await;
    let ttl: i64 = redis
        .cli(&["-n", "3", "TTL", &format!("counts_say_what_was_asked:r:{}", ActionKey([1; 32]))])
        .trim()
        .parse()
        .unwrap();
    assert!((1..=600).contains(&ttl), "{ttl}");
}

#[tokio::test]
async fn ten_thousand_tiny_blobs_cost_few_round_trips() {
    let redis = Redis::start(&[]);
    let (tier, empty) = pair(&redis.url(), "tiny");
    let (blobs, offers) = tiny();
    // As a queue hands them on: as much at a time as the tier says is worth it.
    let per_batch = (tier.limits().batch / 2048) as usize;
    for (blobs, offers) in blobs.chunks(per_batch).zip(offers.chunks(per_batch)) {
        tier.put(batch(blobs, offers)).await.unwrap();
    }
    let put = tier.counts().of(Operation::Put);
    println!("put: {put:?}");
    assert!(put.requests <= 60, "{put:?}");
    let (records, _) = changes(&empty, ChangeCursor::default()).await;
    assert_eq!(records.len(), offers.len());
    for blobs in blobs.chunks(1000) {
        let names: Vec<_> = blobs.iter().map(|(name, _)| *name).collect();
        for ((_, bytes), found) in blobs.iter().zip(empty.small(&names).await.unwrap()) {
            assert_eq!(found.as_ref(), Some(bytes));
        }
    }
    println!("read by an empty agent: {:?}", empty.counts().total());
}

#[tokio::test]
async fn a_cluster_conforms() {
    let cluster = RedisCluster::start();
    conforms(|prefix| pair(&cluster.url(), prefix)).await;
}

#[tokio::test]
async fn sentinels_conform_and_lead_to_the_new_master() {
    let mut sentinels = RedisSentinels::start();
    conforms(|prefix| pair(&sentinels.url(), prefix)).await;
    let (tier, _) = pair(&sentinels.url(), "f");
    let (name, bytes) = blob(2048);
    tier.put(batch(&[(name, bytes.clone())], &[])).await.unwrap();
    sentinels.fail_over();
    // The replica may have missed the end; what counts is that work goes on, with the same handle.
    let mut tries = 0;
    while let Err(error) = tier.put(batch(&[(name, bytes.clone())], &[])).await {
        assert_eq!(error.class(), Class::Unreachable, "{error}");
        tries += 1;
        assert!(tries < 50, "{error}");
    }
    assert_eq!(tier.small(&[name]).await.unwrap(), [Some(bytes)]);
}

#[tokio::test]
async fn tls_conforms_and_a_stranger_is_refused() {
    let redis = Redis::start_tls();
    let ca = redis.ca().display().to_string();
    conforms(|prefix| pair(&format!("{}?ca={ca}", redis.url()), prefix)).await;
    // Without the authority the certificate is one of anybody.
    let error = tier(&redis.url()).probe().await.unwrap_err();
    assert_eq!(error.class(), Class::Refused, "{error}");
}

#[tokio::test]
async fn a_user_with_rights_for_the_prefix_conforms_and_others_are_refused() {
    let redis = Redis::start(&[]);
    let rules = ["ACL", "SETUSER", "ci", "on", ">p@ss:geheim", "~acl:*", "+@read", "+@write"];
    let rules = [&rules[..], &["+@connection", "-@dangerous", "+@keyspace"]].concat();
    assert!(redis.cli(&rules).contains("OK"));
    assert!(redis.cli(&["ACL", "SETUSER", "default", "resetpass", ">other"]).contains("OK"));
    let url = redis.url().replace("://", "://ci:p%40ss%3Ageheim@");
    conforms(|prefix| pair(&url, &format!("acl:{prefix}"))).await;
    for (url, why) in [
        (redis.url(), "no password"),
        (redis.url().replace("://", "://ci:wrong@"), "a wrong one"),
        (format!("{url}?prefix=elsewhere"), "another prefix"),
    ] {
        let error = tier(&url).probe().await.unwrap_err();
        assert_eq!(error.class(), Class::Refused, "{why}: {error}");
        let text = format!("{error} {error:?}");
        assert!(text.contains("redis://127.0.0.1") && !text.contains("geheim"), "{text}");
    }
}

#[tokio::test]
async fn a_server_that_comes_back_is_used_again_and_what_it_lost_is_a_miss() {
    let mut redis = Redis::start(&[]);
    let (tier, other) = pair(&redis.url(), "k");
    let (name, bytes) = blob(2048);
    let record = offer(1, 1, &[name]);
    let all = || batch(&[(name, bytes.clone())], std::slice::from_ref(&record));
    tier.put(all()).await.unwrap();
    let (told, cursor) = changes(&other, ChangeCursor::default()).await;
    assert_eq!(told.len(), 1);
    redis.kill();
    for _ in 0..3 {
        let error = tier.find(&[name]).await.unwrap_err();
        assert_eq!(error.class(), Class::Unreachable, "{error}");
        assert!(error.to_string().contains(tier.name()), "{error}");
    }
    redis.restart();
    // The same handles, and the connection that broke is no error of the next call.
    assert_eq!(tier.find(&[name]).await.unwrap(), [false]);
    assert_eq!(tier.small(&[name]).await.unwrap(), [None]);
    assert_eq!(tier.records(&[ActionKey([1; 32])]).await.unwrap(), [None]);
    let (told, cursor) = changes(&other, cursor).await;
    assert!(told.is_empty());
    tier.put(all()).await.unwrap();
    let (told, cursor) = changes(&other, cursor).await;
    assert_eq!(told, std::slice::from_ref(&record.record));
    // Flushed: the same, without a restart.
    redis.cli(&["FLUSHALL"]);
    assert_eq!(tier.find(&[name]).await.unwrap(), [false]);
    let later = offer(2, 2, &[name]);
    tier.put(batch(&[(name, bytes.clone())], std::slice::from_ref(&later))).await.unwrap();
    let (told, _) = changes(&other, cursor).await;
    assert_eq!(told, [later.record]);
    // A connection that the server closes is made again without anybody noticing.
    redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    assert_eq!(tier.small(&[name]).await.unwrap(), [Some(bytes)]);
}

#[tokio::test]
async fn a_full_server_says_so_and_still_answers() {
    let redis = Redis::start(&[]);
    let (tier, _) = pair(&redis.url(), "full");
    let (name, bytes) = blob(2048);
    tier.put(batch(&[(name, bytes.clone())], &[])).await.unwrap();
    redis.cli(&["CONFIG", "SET", "maxmemory", "1mb"]);
    let error = tier.put(batch(&[blob(1 << 20)], &[])).await.unwrap_err();
    assert_eq!(error.class(), Class::Full, "{error}");
    assert_eq!(tier.small(&[name]).await.unwrap(), [Some(bytes)]);
    // With eviction it is never full, and forgets; what is left is right.
    redis.cli(&["CONFIG", "SET", "maxmemory", "12mb", "maxmemory-policy", "allkeys-lru"]);
    let mut names = Vec::new();
    for seed in 0..40u64 {
        let bytes = noise(600_000, seed);
        let name = Digest::of(&bytes);
        let record = offer(seed as u8, 1, &[name]);
        tier.put(batch(&[(name, bytes.into())], &[record])).await.unwrap();
        names.push(name);
    }
    let found = tier.find(&names).await.unwrap();
    let kept = found.iter().filter(|found| **found).count();
    assert!((1..40).contains(&kept), "{kept}");
    for (name, bytes) in names.iter().zip(tier.small(&names).await.unwrap()) {
        assert!(bytes.is_none_or(|bytes| name.matches(&bytes)));
    }
    changes(&tier, ChangeCursor::default()).await;
}

#[tokio::test]
async fn values_that_are_wrong_are_a_miss_and_deleted() {
    let redis = Redis::start(&[]);
    let (tier, _) = pair(&redis.url(), "w");
    let (name, bytes) = blob(2048);
    let record = offer(1, 1, &[name]);
    let key = format!("w:b:{}-{}", name.hash, name.size);
    let record_key = format!("w:r:{}", ActionKey([1; 32]));
    for harm in [["SETRANGE", "7", "x"], ["SET", "", "short"]] {
        tier.put(batch(&[(name, bytes.clone())], std::slice::from_ref(&record))).await.unwrap();
        for key in [&key, &record_key] {
            let [command, arg, value] = harm;
            let args: Vec<_> =
                [command, key, arg, value].into_iter().filter(|arg| !arg.is_empty()).collect();
            redis.cli(&args);
        }
        assert_eq!(tier.find(&[name]).await.unwrap(), [true]);
        assert_eq!(tier.small(&[name]).await.unwrap(), [None]);
        assert_eq!(tier.records(&[ActionKey([1; 32])]).await.unwrap(), [None]);
        assert_eq!(tier.find(&[name]).await.unwrap(), [false]);
        assert_eq!(redis.cli(&["EXISTS", &record_key]).trim(), "0");
    }
    // The record of another action under this key.
    tier.put(batch(&[], &[offer(2, 1, &[])])).await.unwrap();
    redis.cli(&["COPY", &format!("w:r:{}", ActionKey([2; 32])), &record_key]);
    assert_eq!(tier.records(&[ActionKey([1; 32])]).await.unwrap(), [None]);
    // Somebody else's kind of value.
    redis.cli(&["LPUSH", &key, "x"]);
    let error = tier.small(&[name]).await.unwrap_err();
    assert_eq!(error.class(), Class::Corrupt, "{error}");
}

#[tokio::test]
async fn a_slow_server_is_given_up_in_time() {
    let redis = Redis::start(&[]);
    let proxy = Proxy::start(redis.port());
    let url = format!("redis://127.0.0.1:{}?timeout=1", proxy.port());
    let tier = tier(&url);
    let (name, bytes) = blob(2048);
    tier.put(batch(&[(name, bytes.clone())], &[])).await.unwrap();
    for fault in [Fault::Stall, Fault::Close] {
        proxy.set(fault);
        let since = Instant::now();
        let error = tier.small(&[name]).await.unwrap_err();
        assert_eq!(error.class(), Class::Unreachable, "{error}");
        // Twice a second and the making of a connection at most; the rest is this machine.
        assert!(since.elapsed() < Duration::from_secs(30), "{:?}", since.elapsed());
        proxy.set(Fault::None);
        assert_eq!(tier.small(&[name]).await.unwrap(), [Some(bytes.clone())]);
    }
    // Frozen as a whole, with the connection open, as a machine that swaps is.
    redis.freeze();
    assert_eq!(tier.find(&[name]).await.unwrap_err().class(), Class::Unreachable);
    redis.thaw();
    assert_eq!(tier.find(&[name]).await.unwrap(), [true]);
    // Bits that turn over on the way are not served.
    let (large, content) = blob(100_000);
    tier.put(batch(&[(large, content)], &[])).await.unwrap();
    proxy.set(Fault::Flip);
    if let Ok(found) = tier.small(&[large]).await {
        assert_eq!(found, [None]);
    }
}
