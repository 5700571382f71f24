//! Where a Redis is and how it is used.

use crate::tier::{Class, MAX_SMALL, TierError};
use netbuild_core::{backend::RedisServer, secret::Secret};
use std::{path::PathBuf, time::Duration};

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
    pub db: u32,
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
    /// These servers, arranged like this. User and password are those of the servers; Sentinels are
    /// asked without.
    pub fn new(server: &RedisServer, topology: Topology) -> Self {
        Self {
            nodes: server.hosts.clone(),
            topology,
            tls: server.tls,
            ca: None,
            user: server.user.clone(),
            password: server.password.clone(),
            db: server.database,
            prefix: "netbuild".into(),
            ttl: None,
            largest: LARGEST,
            patience: PATIENCE,
            name: server.to_string(),
        }
    }

    /// The address without credentials and options.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Refuses what contradicts itself.
    pub(super) fn check(&self) -> Result<(), TierError> {
        let problem = match &self.topology {
            _ if self.nodes.is_empty() => "it names no host",
            _ if self.largest > REDIS_LIMIT => "Redis takes no values over 512 MiB",
            Topology::Single if self.nodes.len() > 1 => {
                "several servers are a cluster, or Sentinels"
            }
            Topology::Cluster if self.db != 0 => "a cluster has no numbered databases",
            Topology::Sentinel { master } if master.is_empty() => {
                "Sentinels are asked for a master by its name"
            }
            _ => return Ok(()),
        };
        Err(TierError::new(&self.name, "configure", Class::Refused).because(problem))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(hosts: usize, database: u32) -> RedisServer {
        let hosts = (0..hosts).map(|n| (format!("h{n}"), 6379)).collect();
        let (user, password) = (Some("me".to_owned()), Some(Secret::new("geheim")));
        RedisServer { tls: false, hosts, user, password, database }
    }

    #[test]
    fn what_contradicts_itself_is_said_without_credentials() {
        let sentinel = |master: &str| Topology::Sentinel { master: master.to_owned() };
        for (hosts, database, topology, says) in [
            (0, 0, Topology::Single, "no host"),
            (2, 0, Topology::Single, "several servers"),
            (2, 1, Topology::Cluster, "numbered databases"),
            (2, 1, sentinel(""), "by its name"),
        ] {
            let options = RedisOptions::new(&server(hosts, database), topology);
            let text = format!("{} {options:?}", options.check().unwrap_err());
            assert!(text.contains(says) && !text.contains("geheim"), "{text}");
        }
        for (hosts, database, topology) in
            [(1, 3, Topology::Single), (2, 0, Topology::Cluster), (3, 2, sentinel("main"))]
        {
            RedisOptions::new(&server(hosts, database), topology).check().unwrap();
        }
        let large = RedisOptions {
            largest: REDIS_LIMIT + 1,
            ..RedisOptions::new(&server(1, 0), Topology::Single)
        };
        assert!(large.check().is_err());
    }
}
