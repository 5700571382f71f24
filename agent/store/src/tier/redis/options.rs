//! Where a Redis is and how it is used.

use crate::tier::{
    MAX_SMALL,
    address::{Address, AddressError, Secret},
};
use std::{path::PathBuf, time::Duration};

/// The port that Redis has when none is named.
const PORT: u16 = 6379;
/// The port that Sentinels have when none is named.
const SENTINEL_PORT: u16 = 26379;
/// Largest value that is put into Redis unless configured: one that takes longer keeps others waiting.
const LARGEST: u64 = MAX_SMALL;
/// How long an answer may take unless configured. A cache that takes longer is worth less than none.
const PATIENCE: Duration = Duration::from_secs(5);
/// Redis itself takes no longer values than this.
const REDIS_LIMIT: u64 = 512 << 20;

/// How the servers are arranged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Topology {
    /// One server.
    Single,
    /// Sentinels, which know who is the master of this name.
    Sentinel {
        /// The name of the set.
        master: String,
    },
    /// A Redis Cluster, of which some nodes are named.
    Cluster,
}

/// Where a Redis is and how it is used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RedisOptions {
    /// Servers, Sentinels or nodes of the cluster.
    pub nodes: Vec<(String, u16)>,
    /// How they are arranged.
    pub topology: Topology,
    /// Whether connections are encrypted.
    pub tls: bool,
    /// A file with the certificates, in PEM form, of the authorities that the servers' certificates
    /// are checked against; `None` for those of the system.
    pub ca: Option<PathBuf>,
    /// User of an access control list; `None` for the default user.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// Number of the database; always 0 in a cluster.
    pub db: u16,
    /// What all keys begin with, before a `:`.
    pub prefix: String,
    /// How long a blob or record is kept after it was last put; `None` leaves it to the server's
    /// eviction.
    pub ttl: Option<Duration>,
    /// Largest blob in bytes that is put here.
    pub largest: u64,
    /// How long an answer may take.
    pub patience: Duration,
    name: String,
}

impl RedisOptions {
    /// Understands `redis://`, `redis-sentinel://` and `redis-cluster://`, and the same with
    /// `rediss` for TLS:
    ///
    /// - `redis://[USER[:PASSWORD]@]HOST[:PORT][/DB]`
    /// - `redis-sentinel://[USER[:PASSWORD]@]HOST[:PORT],HOST[:PORT],.../MASTER[/DB]`
    /// - `redis-cluster://[USER[:PASSWORD]@]HOST[:PORT],HOST[:PORT],...`
    ///
    /// with the options `?prefix=TEXT&ttl=SECONDS&largest=BYTES&timeout=SECONDS&ca=FILE`. What has
    /// a meaning in addresses is written as `%XX` in the other parts. User and password are those of
    /// the servers; Sentinels are asked without.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let address = Address::parse(text)?;
        let (tls, kind) = match address.scheme.strip_prefix("rediss") {
            Some(kind) => (true, kind),
            None => (false, address.scheme.strip_prefix("redis").unwrap_or("?")),
        };
        let (topology, port, db) = match kind {
            "" => (Topology::Single, PORT, address.path),
            "-cluster" => (Topology::Cluster, PORT, address.path),
            "-sentinel" => {
                let (master, db) = address.path.split_once('/').unwrap_or((address.path, ""));
                if master.is_empty() {
                    return Err(
                        address.error("names no master behind the Sentinels, as in `/main`")
                    );
                }
                (Topology::Sentinel { master: master.to_owned() }, SENTINEL_PORT, db)
            }
            _ => return Err(address.error("is not the address of a Redis")),
        };
        let db = match db {
            "" => 0,
            db if topology != Topology::Cluster => {
                db.parse().map_err(|_| address.error("has no number of a database at its end"))?
            }
            _ => return Err(address.error("a cluster has no numbered databases")),
        };
        let mut options = Self {
            nodes: nodes(&address, port)?,
            topology,
            tls,
            ca: None,
            user: address.user.clone(),
            password: address.password.clone(),
            db,
            prefix: "netbuild".into(),
            ttl: None,
            largest: LARGEST,
            patience: PATIENCE,
            name: address.shown(),
        };
        if options.nodes.len() > 1 && options.topology == Topology::Single {
            return Err(
                address.error("several servers are a redis-cluster:// or a redis-sentinel://")
            );
        }
        for (key, value) in address.options(&["prefix", "ttl", "largest", "timeout", "ca"])? {
            match key {
                "prefix" => options.prefix = value,
                "ca" => options.ca = Some(value.into()),
                "ttl" => {
                    options.ttl = Some(address.number(key, &value)?)
                        .filter(|seconds| *seconds > 0)
                        .map(Duration::from_secs);
                }
                "largest" => {
                    options.largest = address.number(key, &value)?;
                    if options.largest > REDIS_LIMIT {
                        return Err(
                            address.error(format!("Redis takes {REDIS_LIMIT} bytes at most"))
                        );
                    }
                }
                _ => {
                    let seconds = address.number(key, &value)?.max(1);
                    options.patience = Duration::from_secs(seconds);
                }
            }
        }
        Ok(options)
    }

    /// The address without credentials and options.
    pub fn name(&self) -> &str {
        &self.name
    }
}

fn nodes(address: &Address<'_>, port: u16) -> Result<Vec<(String, u16)>, AddressError> {
    let nodes = address.hosts.split(',').map(|node| {
        // A colon inside brackets is one of an IPv6 address.
        let (host, port) = match node.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                let port = port.parse().map_err(|_| address.error("has a port that is none"))?;
                (host, port)
            }
            _ => (node, port),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            Err(address.error("names no host"))
        } else {
            Ok((host.to_owned(), port))
        }
    });
    nodes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: &str, port: u16) -> (String, u16) {
        (host.to_owned(), port)
    }

    #[test]
    fn every_arrangement_has_an_address() {
        let single = RedisOptions::parse("redis://cache").unwrap();
        assert_eq!(single.nodes, [node("cache", 6379)]);
        assert_eq!((single.topology.clone(), single.tls, single.db), (Topology::Single, false, 0));
        let tls = RedisOptions::parse("rediss://me:secret@[::1]:7000/3?ttl=60&largest=1000&ca=/a");
        let tls = tls.unwrap();
        assert_eq!((tls.nodes.clone(), tls.db, tls.tls), (vec![node("::1", 7000)], 3, true));
        assert_eq!((tls.ttl, tls.largest), (Some(Duration::from_secs(60)), 1000));
        assert_eq!(tls.name(), "rediss://[::1]:7000/3");
        assert!(!format!("{tls:?}").contains("secret"));
        let sentinel = RedisOptions::parse("redis-sentinel://a,b:1/main/2").unwrap();
        assert_eq!(sentinel.nodes, [node("a", 26379), node("b", 1)]);
        assert_eq!(sentinel.topology, Topology::Sentinel { master: "main".into() });
        assert_eq!(sentinel.db, 2);
        let cluster = RedisOptions::parse("rediss-cluster://a,b").unwrap();
        assert_eq!((cluster.topology, cluster.tls), (Topology::Cluster, true));
    }

    #[test]
    fn what_is_wrong_is_said_without_credentials() {
        for (text, says) in [
            ("redis://u:pw@h:x", "port"),
            ("redis://u:pw@", "no host"),
            ("redis://u:pw@h/x", "number of a database"),
            ("redis://u:pw@a,b", "several servers"),
            ("redis-cluster://u:pw@h/1", "no numbered databases"),
            ("redis-sentinel://u:pw@h", "no master"),
            ("redis-foo://u:pw@h", "not the address"),
            ("valkey://u:pw@h", "not the address"),
            ("redis://u:pw@h?ttl=x", "`ttl` is not a whole number"),
            ("redis://u:pw@h?tll=1", "unknown option `tll`"),
            ("redis://u:pw@h?largest=999999999999", "at most"),
        ] {
            let error = RedisOptions::parse(text).unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains("pw"), "{text}: {error}");
        }
    }
}
