//! The chain of storage behind an agent, as `CACHE_BACKEND` says it:
//! `redis://host:6379+s3://bucket/prefix`, `local://.cache+s3://bucket`, `memory://`.
//!
//! The chain says what there is, and nothing about who is asked first: that is measured. Entries are
//! separated by `+`; one that is no separator, as in a password, is not followed by `scheme://`.

mod entry;

pub use entry::{Bucket, RedisServer, S3_OPTIONS, TIER_OPTIONS};

use crate::graph::did_you_mean;
use std::{collections::BTreeMap, fmt, str::FromStr};

/// Most tiers of one chain: each costs a connection, a follower and a queue.
pub const MAX_TIERS: usize = 8;
/// Longest chain in bytes.
const MAX_CHAIN: usize = 8192;
/// All schemes, for suggestions.
const SCHEMES: [&str; 5] = ["local", "memory", "redis", "rediss", "s3"];

/// A kind of storage that several agents share.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum TierKind {
    /// A Redis server, or several of them.
    Redis,
    /// A bucket of S3, or of what speaks like it.
    S3,
    /// Memory of this process, in tests; no chain names it.
    Memory,
}

impl TierKind {
    /// The name that is shown and that `PRIMARY_CACHE` takes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::S3 => "s3",
            Self::Memory => "memory",
        }
    }
}

impl fmt::Display for TierKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A tier as people know it: its kind, and where it is, such as `s3://bucket/prefix`. It never has a
/// password in it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TierName {
    /// Its kind.
    pub kind: TierKind,
    /// Where it is, with the scheme.
    pub place: String,
}

impl fmt::Display for TierName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.place)
    }
}

/// Where this agent itself keeps things.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Local {
    /// In this directory, as it was said: it may be relative.
    Directory(String),
    /// In memory, for as long as the process lives.
    Memory,
}

/// Storage that several agents share.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// See [`TierKind::Redis`].
    Redis(RedisServer),
    /// See [`TierKind::S3`].
    S3(Bucket),
}

/// One tier of a chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tier {
    /// Where it is.
    pub place: Place,
    /// What was said behind its `?`, by name: one of [`TIER_OPTIONS`], for S3 also one of [`S3_OPTIONS`].
    pub options: BTreeMap<String, String>,
    /// Its place in the chain, from 1, for errors.
    pub position: usize,
}

impl Tier {
    /// How it is shown.
    pub fn name(&self) -> TierName {
        match &self.place {
            Place::Redis(server) => TierName { kind: TierKind::Redis, place: server.to_string() },
            Place::S3(bucket) => TierName { kind: TierKind::S3, place: bucket.to_string() },
        }
    }
}

/// A chain of storage.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Chain {
    /// Where this agent keeps things; `None` when nothing is said of it.
    pub local: Option<Local>,
    /// What it shares with others, as written.
    pub tiers: Vec<Tier>,
}

/// A chain that is none.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChainError {
    /// It is longer than any.
    #[error("the chain is longer than {MAX_CHAIN} bytes")]
    TooLong,
    /// More tiers than there may be.
    #[error("{count} shared tiers are more than {MAX_TIERS}")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// One entry is wrong.
    #[error("entry {position} of {count}, `{entry}`: {problem}")]
    Entry {
        /// Which one, from 1.
        position: usize,
        /// How many there are.
        count: usize,
        /// The entry without what is secret in it.
        entry: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
}

impl FromStr for Chain {
    type Err = ChainError;

    fn from_str(text: &str) -> Result<Self, ChainError> {
        if text.len() > MAX_CHAIN {
            return Err(ChainError::TooLong);
        }
        let mut chain = Self::default();
        if text.trim().is_empty() {
            return Ok(chain);
        }
        let entries = split(text.trim());
        let count = entries.len();
        for (position, entry) in (1..).zip(entries) {
            chain.take(entry, position).map_err(|problem| ChainError::Entry {
                position,
                count,
                entry: entry::redacted(entry),
                problem,
            })?;
        }
        match chain.tiers.len() {
            count if count > MAX_TIERS => Err(ChainError::TooMany { count }),
            _ => Ok(chain),
        }
    }
}

impl Chain {
    fn take(&mut self, entry: &str, position: usize) -> Result<(), String> {
        let Some((scheme, rest)) = entry.split_once("://") else {
            return Err("an entry is SCHEME://PLACE, such as `s3://bucket`".to_owned());
        };
        let local = match scheme {
            "local" if rest.is_empty() => {
                return Err(
                    "a directory is missing: `local://.cache` or `local:///var/cache`".into()
                );
            }
            "local" => Local::Directory(rest.to_owned()),
            "memory" if rest.is_empty() => Local::Memory,
            "memory" => return Err("`memory://` has nothing behind it".to_owned()),
            "redis" | "rediss" | "s3" => return self.take_tier(scheme, rest, position),
            other => {
                let hint = did_you_mean(other, SCHEMES)
                    .unwrap_or_else(|| "there are local, memory, redis, rediss and s3".to_owned());
                return Err(format!("there is no storage `{other}`; {hint}"));
            }
        };
        match self.local.replace(local) {
            None => Ok(()),
            Some(_) => Err("only one entry can be `local://` or `memory://`".to_owned()),
        }
    }

    fn take_tier(&mut self, scheme: &str, rest: &str, position: usize) -> Result<(), String> {
        let (at, options) = match rest.split_once('?') {
            Some((at, options)) => (at, entry::options(options, scheme == "s3")?),
            None => (rest, BTreeMap::new()),
        };
        let place = match scheme {
            "s3" => Place::S3(at.parse()?),
            _ => Place::Redis(RedisServer::parse(at, scheme == "rediss")?),
        };
        if self.tiers.iter().any(|tier| tier.place == place) {
            return Err("it is in the chain already".to_owned());
        }
        self.tiers.push(Tier { place, options, position });
        Ok(())
    }
}

/// Splits at every `+` that a `scheme://` follows.
fn split(text: &str) -> Vec<&str> {
    let mut entries = Vec::new();
    let mut rest = text;
    let starts_entry = |text: &str| {
        text.split_once("://").is_some_and(|(scheme, _)| {
            !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
        })
    };
    let mut from = 0;
    while let Some(at) = rest[from..].find('+').map(|at| at + from) {
        // What stands behind the last one has to be an entry: it is said what is wrong with it.
        if starts_entry(&rest[at + 1..]) || rest[at + 1..].is_empty() {
            entries.push(&rest[..at]);
            (rest, from) = (&rest[at + 1..], 0);
        } else {
            from = at + 1;
        }
    }
    entries.push(rest);
    entries
}

#[cfg(test)]
mod tests;
