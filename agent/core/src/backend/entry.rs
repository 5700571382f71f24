//! One tier of a chain.

use crate::{graph::did_you_mean, secret::Secret};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// What may be said of every tier behind its `?`, instead of its section of `mesh.toml`.
pub const TIER_OPTIONS: [&str; 3] = ["policy", "min_size", "max_size"];
/// What may be said of S3 as well.
pub const S3_OPTIONS: [&str; 3] = ["endpoint", "region", "path_style"];

/// The port of Redis.
const REDIS_PORT: u16 = 6379;
/// Most servers of one entry: Sentinels, or the nodes of a cluster to begin with.
const MAX_SERVERS: usize = 16;
/// Longest prefix in bytes; the keys of S3 end at 1024.
const MAX_PREFIX: usize = 512;

/// Redis servers, and who asks them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RedisServer {
    /// Whether over TLS.
    pub tls: bool,
    /// Host and port of each; none for what `REDIS_URL` says, else this machine.
    pub hosts: Vec<(String, u16)>,
    /// User of an access list.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// Number of the database.
    pub database: u32,
}

/// A bucket and the part of it that is used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bucket {
    /// Its name.
    pub bucket: String,
    /// What all keys begin with, without a slash at its ends; empty for none.
    pub prefix: String,
}

impl RedisServer {
    /// Parses `[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]]...[/DATABASE]`.
    pub(super) fn parse(text: &str, tls: bool) -> Result<Self, String> {
        // A password may have an `@` in it, a host not.
        let (who, at) = text.rsplit_once('@').map_or((None, text), |(who, at)| (Some(who), at));
        let (user, password) = match who.map(|who| who.split_once(':').unwrap_or((who, ""))) {
            Some((user, password)) => (some(&decode(user)?), some(&decode(password)?)),
            None => (None, None),
        };
        let (hosts, database) = at.split_once('/').unwrap_or((at, ""));
        let database = match database {
            "" => 0,
            number => number
                .parse()
                .map_err(|_| "behind the `/` stands the number of a database".to_owned())?,
        };
        let hosts: Vec<_> = match hosts {
            "" => Vec::new(),
            hosts => hosts.split(',').map(host).collect::<Result<_, _>>()?,
        };
        if hosts.len() > MAX_SERVERS {
            return Err(format!("more than {MAX_SERVERS} servers"));
        }
        Ok(Self { tls, hosts, user, password: password.map(Secret::new), database })
    }
}

impl fmt::Display for RedisServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "rediss" } else { "redis" };
        let host = |(host, port): &(String, u16)| match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        let hosts: Vec<String> = self.hosts.iter().map(host).collect();
        write!(f, "{scheme}://{}", hosts.join(","))?;
        if self.database == 0 { Ok(()) } else { write!(f, "/{}", self.database) }
    }
}

impl FromStr for Bucket {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('@') {
            return Err("keys do not belong here: they are taken from AWS_ACCESS_KEY_ID and \
                        AWS_SECRET_ACCESS_KEY, or where AWS tools find them"
                .to_owned());
        }
        let (bucket, prefix) = text.split_once('/').unwrap_or((text, ""));
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if bucket.is_empty() {
            return Err("a bucket is missing: `s3://BUCKET` or `s3://BUCKET/PREFIX`".to_owned());
        }
        if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(good) {
            return Err(format!(
                "`{bucket}` is not the name of a bucket: 3 to 63 letters, digits, `.` and `-`"
            ));
        }
        let prefix = prefix.trim_matches('/');
        let bad = |part: &str| part.is_empty() || part == "." || part == "..";
        if prefix.len() > MAX_PREFIX
            || prefix.contains(|c: char| c.is_control() || c == '\\')
            || (!prefix.is_empty() && prefix.split('/').any(bad))
        {
            return Err(format!(
                "the prefix is a path of names, at most {MAX_PREFIX} bytes, without `.` and `..`"
            ));
        }
        Ok(Self { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

/// Parses `NAME=VALUE&NAME=VALUE`.
pub(super) fn options(text: &str, is_s3: bool) -> Result<BTreeMap<String, String>, String> {
    let known = || TIER_OPTIONS.into_iter().chain(S3_OPTIONS.into_iter().filter(|_| is_s3));
    let mut options = BTreeMap::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !known().any(|known| known == name) {
            let hint = did_you_mean(name, known())
                .unwrap_or_else(|| format!("there are {}", known().collect::<Vec<_>>().join(", ")));
            return Err(format!("there is no option `{name}`; {hint}"));
        }
        if options.insert(name.to_owned(), decode(value)?).is_some() {
            return Err(format!("`{name}` is said twice"));
        }
    }
    Ok(options)
}

/// An entry without what is secret in it, and without what a terminal would act on.
pub(super) fn redacted(entry: &str) -> String {
    let shown = match (entry.split_once("://"), entry.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://***@{rest}"),
        (None, Some((_, rest))) => format!("***@{rest}"),
        (_, None) => entry.to_owned(),
    };
    shown.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(200).collect()
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn host(text: &str) -> Result<(String, u16), String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(text) => {
            let (host, port) = text.split_once(']').ok_or("a `]` is missing")?;
            (host, port.strip_prefix(':').unwrap_or(port))
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
    if host.is_empty() || !host.bytes().all(good) {
        return Err("a host is a name or an address, such as `redis://cache.example:6379`".into());
    }
    let port = match port {
        "" => REDIS_PORT,
        port => port.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
            // Not shown: a password without its `@` would stand here.
            "behind the `:` of the host stands a port, from 1 to 65535".to_owned()
        })?,
    };
    Ok((host.to_owned(), port))
}

/// Undoes `%41`.
fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let code = rest.get(..2).and_then(|code| std::str::from_utf8(code).ok());
        let code = code.filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let code = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        bytes.push(code.ok_or("behind a `%` stand two hex digits; `%25` is a `%`")?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| "what `%` stands for is not UTF-8".to_owned())
}
