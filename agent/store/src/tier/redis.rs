//! Redis as a tier, for records and small blobs.
//!
//! Blobs and records are values under keys of their own, so that the server may evict any of them.
//! Both check themselves: a value that is not what its key says is deleted, and a miss.

mod failure;
mod link;
mod news;
mod options;

pub use options::{RedisOptions, Topology};

use super::{
    Answer, Batch, Bring, ChangeCursor, Changes, Counts, Kind, Limits, MAX_SMALL, Meter, Offer,
    Operation, Stored, Tended, Tier, TierError,
};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use link::{Answers, Links, Weight};
use netbuild_core::{digest::Digest, key::ActionKey};
use netbuild_proto::{DecodeError, record::SealedRecord};
use redis::{Cmd, RedisResult, Value, cmd};
use std::{fmt, ops::Range};

/// Commands without values in one batch: half a megabyte, and some milliseconds of the server.
const MAX_COMMANDS: usize = 4096;
/// Values in one batch.
const MAX_VALUES: usize = 2048;
/// Bytes of values in one batch, about: what others on the connection wait for.
const MAX_BYTES: u64 = 2 << 20;
/// Batches of values that are asked for at once.
const AT_ONCE: usize = 2;
/// Bytes that a record counts for when its size is not known: most have fewer.
const RECORD: u64 = 1024;
/// Bytes of one `put` from which on a second one is as cheap: the round trips that one takes are few
/// beside the time that so much takes on its way.
const WORTH: u64 = 4 * MAX_BYTES;
/// What is written to see whether that is allowed, and for how long it stays when it cannot be deleted.
const TRIAL: &[u8] = b"netbuild looked whether it may write here";
const TRIAL_SECONDS: u64 = 60;

/// A Redis. Connects when it is first asked.
pub struct RedisTier {
    options: RedisOptions,
    links: Links,
    meter: Meter,
}

impl fmt::Debug for RedisTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisTier").field("options", &self.options).finish_non_exhaustive()
    }
}

impl RedisTier {
    /// A tier that uses this Redis. Fails when the options contradict each other, or the file of
    /// certificates cannot be read.
    pub fn new(options: RedisOptions) -> Result<Self, TierError> {
        options.check()?;
        let links = Links::new(options.clone())?;
        Ok(Self { options, links, meter: Meter::default() })
    }

    fn blob_key(&self, blob: &Digest) -> String {
        format!("{}:b:{}-{}", self.options.prefix, blob.hash, blob.size)
    }

    fn record_key(&self, key: &ActionKey) -> String {
        format!("{}:r:{key}", self.options.prefix)
    }

    fn stream(&self) -> String {
        format!("{}:news", self.options.prefix)
    }

    /// What all keys of records match.
    fn pattern(&self) -> String {
        let mut pattern = String::new();
        for letter in self.options.prefix.chars() {
            if matches!(letter, '*' | '?' | '[' | ']' | '\\' | '^') {
                pattern.push('\\');
            }
            pattern.push(letter);
        }
        pattern + ":r:*"
    }

    fn key_of(&self, name: &[u8]) -> Option<ActionKey> {
        let name = std::str::from_utf8(name).ok()?.strip_prefix(&self.options.prefix)?;
        let hash: netbuild_core::digest::Hash = name.strip_prefix(":r:")?.parse().ok()?;
        Some(ActionKey(hash.0))
    }

    async fn ask(
        &self,
        weight: Weight,
        operation: Operation,
        commands: &[Cmd],
    ) -> Result<Vec<Value>, TierError> {
        let answers: Answers = self.links.ask(weight, operation, &self.meter, commands).await?;
        let answers: RedisResult<Vec<Value>> = answers.into_iter().collect();
        answers.map_err(|error| self.links.error(operation, error))
    }

    async fn ask_one(
        &self,
        weight: Weight,
        operation: Operation,
        command: Cmd,
    ) -> Result<Value, TierError> {
        let answers = self.ask(weight, operation, &[command]).await?;
        Ok(answers.into_iter().next().unwrap_or(Value::Nil))
    }

    async fn ask_node(
        &self,
        node: Option<(String, u16)>,
        operation: Operation,
        command: Cmd,
    ) -> Result<Value, TierError> {
        self.links.ask_node(node, operation, &self.meter, command).await
    }

    /// Which blobs are there. With a time to live, those that are get all of it again, as something
    /// new may come to need them.
    async fn exist(&self, blobs: &[Digest], touch: bool) -> Result<Vec<bool>, TierError> {
        let operation = if touch { Operation::Put } else { Operation::Find };
        let mut found = Vec::with_capacity(blobs.len());
        for blobs in blobs.chunks(MAX_COMMANDS) {
            let commands = blobs.iter().map(|blob| match self.options.ttl.filter(|_| touch) {
                Some(ttl) => {
                    let mut expire = cmd("EXPIRE");
                    expire.arg(self.blob_key(blob)).arg(ttl.as_secs());
                    expire
                }
                None => {
                    let mut exists = cmd("EXISTS");
                    exists.arg(self.blob_key(blob));
                    exists
                }
            });
            let commands: Vec<_> = commands.collect();
            let answers = self.ask(Weight::Small, operation, &commands).await?;
            found.extend(answers.iter().map(|answer| *answer == Value::Int(1)));
        }
        Ok(found)
    }

    /// Values under keys, of about these sizes.
    async fn get(
        &self,
        weight: Weight,
        operation: Operation,
        wanted: Vec<(String, u64)>,
    ) -> Result<Vec<Option<Bytes>>, TierError> {
        let batches = split(wanted, |(_, size)| *size);
        let asked = batches.into_iter().map(|batch| {
            let commands = batch.into_iter().map(|(key, _)| {
                let mut get = cmd("GET");
                get.arg(key);
                get
            });
            let commands: Vec<_> = commands.collect();
            async move { self.ask(weight, operation, &commands).await }.boxed()
        });
        // Boxed and collected, as the compiler cannot see otherwise that it may go between threads.
        let asked: Vec<_> = asked.collect();
        let answers: Vec<_> = stream::iter(asked).buffered(AT_ONCE).try_collect().await?;
        let value = |value| match value {
            Value::BulkString(bytes) => Some(Bytes::from(bytes)),
            _ => None,
        };
        Ok(answers.into_iter().flatten().map(value).collect())
    }

    /// Blobs, checked; those that are damaged are deleted.
    async fn get_blobs(
        &self,
        blobs: &[Digest],
        operation: Operation,
    ) -> Result<Vec<Option<Bytes>>, TierError> {
        let wanted = blobs.iter().map(|blob| (self.blob_key(blob), blob.size)).collect();
        let mut values = self.get(Weight::Bulk, operation, wanted).await?;
        let mut damaged = Vec::new();
        for (blob, value) in blobs.iter().zip(&mut values) {
            if value.as_ref().is_some_and(|bytes| !blob.matches(bytes)) {
                *value = None;
                damaged.push(self.blob_key(blob));
            }
        }
        self.delete(damaged, operation).await?;
        Ok(values)
    }

    /// Records, checked; those that are damaged are deleted.
    async fn get_records(
        &self,
        keys: &[ActionKey],
        operation: Operation,
    ) -> Result<Vec<Option<SealedRecord>>, TierError> {
        let wanted = keys.iter().map(|key| (self.record_key(key), RECORD)).collect();
        let values = self.get(Weight::Small, operation, wanted).await?;
        let mut damaged = Vec::new();
        let mut records = Vec::with_capacity(keys.len());
        for (key, value) in keys.iter().zip(values) {
            let opened = value.map(|bytes| SealedRecord::open(&bytes));
            records.push(match opened {
                Some(Ok(record)) if record.record().key == *key => Some(record),
                // Somebody with a newer netbuild can use it.
                None | Some(Err(DecodeError::Newer { .. })) => None,
                Some(_) => {
                    damaged.push(self.record_key(key));
                    None
                }
            });
        }
        self.delete(damaged, operation).await?;
        Ok(records)
    }

    async fn delete(&self, keys: Vec<String>, operation: Operation) -> Result<(), TierError> {
        for keys in keys.chunks(MAX_COMMANDS) {
            tracing::warn!(
                tier = self.options.name(),
                count = keys.len(),
                "deleting damaged values"
            );
            let commands = keys.iter().map(|key| {
                let mut delete = cmd("DEL");
                delete.arg(key);
                delete
            });
            let commands: Vec<_> = commands.collect();
            self.ask(Weight::Small, operation, &commands).await?;
        }
        Ok(())
    }

    fn set(&self, key: String, value: &[u8]) -> Cmd {
        let mut set = cmd("SET");
        set.arg(key).arg(value);
        if let Some(ttl) = self.options.ttl {
            set.arg("EX").arg(ttl.as_secs());
        }
        set
    }

    async fn keep(&self, batch: Batch) -> Result<Stored, TierError> {
        batch.check(self.options.name(), self.options.largest)?;
        let mut stored = Stored::default();
        let names: Vec<Digest> = batch.blobs.iter().map(|(blob, _)| *blob).collect();
        let present = self.exist(&names, true).await?;
        stored.present = present.iter().filter(|present| **present).count() as u64;
        let absent = batch.blobs.into_iter().zip(present);
        let absent = absent.filter_map(|(blob, present)| (!present).then_some(blob)).collect();
        for blobs in split(absent, |(blob, _)| blob.size) {
            stored.blobs += blobs.len() as u64;
            stored.bytes += blobs.iter().map(|(blob, _)| blob.size).sum::<u64>();
            let loaded = super::load(self.options.name(), blobs).await?;
            let commands = loaded.iter().map(|(blob, bytes)| self.set(self.blob_key(blob), bytes));
            let commands: Vec<_> = commands.collect();
            self.ask(Weight::Bulk, Operation::Put, &commands).await?;
        }
        stored.records = self.keep_records(batch.records).await?;
        Ok(stored)
    }

    /// Keeps those records that are later than what is there. Between the look and the writing
    /// somebody else may write a later one, which is then lost here, and here only.
    async fn keep_records(&self, offers: Vec<Offer>) -> Result<u64, TierError> {
        let keys: Vec<_> = offers.iter().map(|offer| offer.record.record().key).collect();
        let known = self.get_records(&keys, Operation::Put).await?;
        let new = offers.into_iter().zip(known);
        let new = new.filter_map(|(offer, known)| {
            super::is_latest(&offer.record, known.as_ref()).then_some(offer.record)
        });
        let mut count = 0;
        for records in split(new.collect(), |record: &SealedRecord| record.as_bytes().len() as u64)
        {
            let keys: Vec<_> = records.iter().map(|record| record.record().key).collect();
            let commands = records.iter().zip(&keys);
            let commands =
                commands.map(|(record, key)| self.set(self.record_key(key), record.as_bytes()));
            let commands: Vec<_> = commands.collect();
            self.ask(Weight::Small, Operation::Put, &commands).await?;
            self.ask(Weight::Small, Operation::Put, &self.announce(&keys)).await?;
            count += records.len() as u64;
        }
        Ok(count)
    }
}

/// Splits what goes over a connection into batches that others can wait for.
fn split<T>(items: Vec<T>, size: impl Fn(&T) -> u64) -> Vec<Vec<T>> {
    let mut batches: Vec<Vec<T>> = Vec::new();
    let mut bytes = 0;
    for item in items {
        let len = size(&item);
        match batches.last_mut() {
            Some(batch) if batch.len() < MAX_VALUES && bytes + len <= MAX_BYTES => {
                bytes += len;
                batch.push(item);
            }
            _ => {
                bytes = len;
                batches.push(vec![item]);
            }
        }
    }
    batches
}

impl Tier for RedisTier {
    fn name(&self) -> &str {
        self.options.name()
    }

    fn kind(&self) -> Kind {
        Kind::Redis
    }

    fn limits(&self) -> Limits {
        Limits { blob: self.options.largest, batch: WORTH }
    }

    fn find<'a>(&'a self, blobs: &'a [Digest]) -> Answer<'a, Vec<bool>> {
        self.exist(blobs, false).boxed()
    }

    fn small<'a>(&'a self, blobs: &'a [Digest]) -> Answer<'a, Vec<Option<Bytes>>> {
        async move {
            let small: Vec<_> =
                blobs.iter().copied().filter(|blob| blob.size <= MAX_SMALL).collect();
            let mut found = self.get_blobs(&small, Operation::Small).await?.into_iter();
            let answer = |blob: &Digest| {
                if blob.size <= MAX_SMALL { found.next().flatten() } else { None }
            };
            Ok(blobs.iter().map(answer).collect())
        }
        .boxed()
    }

    fn read<'a>(&'a self, blob: &'a Digest, range: Range<u64>) -> Answer<'a, Option<Bring>> {
        async move {
            if blob.size > self.options.largest {
                return Ok(None);
            }
            // It fits one answer, and is checked.
            let found = self.get_blobs(&[*blob], Operation::Read).await?.pop().flatten();
            Ok(found.map(|bytes| {
                let part = bytes.slice(range.start as usize..range.end as usize);
                stream::once(async { Ok(part) }).boxed()
            }))
        }
        .boxed()
    }

    fn records<'a>(&'a self, keys: &'a [ActionKey]) -> Answer<'a, Vec<Option<SealedRecord>>> {
        self.get_records(keys, Operation::Records).boxed()
    }

    fn put(&self, batch: Batch) -> Answer<'_, Stored> {
        self.keep(batch).boxed()
    }

    fn changes<'a>(&'a self, after: &'a ChangeCursor) -> Answer<'a, Changes> {
        self.since(after).boxed()
    }

    fn doubt<'a>(&'a self, blob: &'a Digest) -> Answer<'a, ()> {
        async move {
            if blob.size <= self.options.largest {
                self.get_blobs(&[*blob], Operation::Tend).await?;
            }
            Ok(())
        }
        .boxed()
    }

    fn probe(&self) -> Answer<'_, ()> {
        // A question that the rights for the keys of the tier allow.
        async {
            let mut exists = cmd("EXISTS");
            exists.arg(self.stream());
            self.ask_one(Weight::Small, Operation::Probe, exists).await.map(drop)
        }
        .boxed()
    }

    fn try_writing(&self) -> Answer<'_, ()> {
        async {
            let key = format!("{}:trial", self.options.prefix);
            let (mut set, mut delete) = (cmd("SET"), cmd("DEL"));
            set.arg(&key).arg(TRIAL).arg("EX").arg(TRIAL_SECONDS);
            delete.arg(&key);
            self.ask(Weight::Small, Operation::Probe, &[set, delete]).await.map(drop)
        }
        .boxed()
    }

    fn ahead(&self) -> Answer<'_, Option<i64>> {
        async {
            let answer = self.ask_one(Weight::Small, Operation::Probe, cmd("TIME")).await;
            // Access control may leave it out.
            let Ok(Value::Array(parts)) = answer else { return Ok(None) };
            let Some(Value::BulkString(seconds)) = parts.first() else { return Ok(None) };
            let theirs =
                std::str::from_utf8(seconds).ok().and_then(|text| text.parse::<i64>().ok());
            Ok(theirs.map(|theirs| theirs.saturating_sub_unsigned(super::local_seconds())))
        }
        .boxed()
    }

    fn tend(&self) -> Answer<'_, Tended> {
        // The server evicts and expires by itself.
        async { Ok(Tended::default()) }.boxed()
    }

    fn counts(&self) -> Counts {
        self.meter.counts()
    }
}
