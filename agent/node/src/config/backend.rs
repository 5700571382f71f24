//! The storage that is shared, as the configuration names it: the chain, and what is said of each tier.

use super::{ConfigError, variable};
use netbuild_core::{
    backend::{Bucket, Chain, Local, Place, RedisServer, Tier, TierKind, TierName},
    outbox::{Terms, Writing},
    secret::Secret,
};
use serde::Deserialize;
use std::{ffi::OsString, path::PathBuf, time::Duration};

/// Longest time that the end of a run may wait for tiers, in seconds: an hour.
const MAX_BUDGET: f64 = 3600.0;
/// Longest time in days after which something expires: ten years.
const MAX_DAYS: f64 = 3650.0;
/// Largest blob that Redis gets where another tier takes the larger ones: one large value holds up
/// all small ones behind it.
const REDIS_BESIDE: u64 = 1 << 20;
/// The same where there is no other tier.
const REDIS_ALONE: u64 = 256 << 20;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct CacheSection {
    pub(super) backend: Option<String>,
    exit_budget_seconds: Option<f64>,
    write_through_seconds: Option<f64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RedisSection {
    policy: Option<String>,
    min_size: Option<String>,
    max_size: Option<String>,
    mode: Option<String>,
    master: Option<String>,
    prefix: Option<String>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    expire_days: Option<f64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct S3Section {
    policy: Option<String>,
    min_size: Option<String>,
    max_size: Option<String>,
    endpoint: Option<String>,
    region: Option<String>,
    path_style: Option<String>,
    expire_days: Option<f64>,
}

/// How Redis servers belong together.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum RedisMode {
    /// One server.
    #[default]
    Single,
    /// Sentinels, which know where the master of this name is.
    Sentinel(String),
    /// The nodes of a cluster.
    Cluster,
}

/// A Redis tier.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RedisSettings {
    /// Where it is, and who asks it.
    pub server: RedisServer,
    /// How its servers belong together.
    pub mode: RedisMode,
    /// What all keys begin with.
    pub prefix: String,
    /// Certificates of authorities to trust instead of those of the system.
    pub ca_file: Option<PathBuf>,
    /// What was not written or needed for so long is gone; `None` leaves it to the server.
    pub expire: Option<Duration>,
}

/// An S3 tier.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct S3Settings {
    /// The bucket, and the part of it that is used.
    pub bucket: Bucket,
    /// Where the service is; `None` for AWS.
    pub endpoint: Option<String>,
    /// Its region; `None` for what AWS tools take.
    pub region: Option<String>,
    /// Whether the bucket stands in the path, and not in the name of the host.
    pub path_style: bool,
    /// What was not written or needed for so long is deleted; `None` for never.
    pub expire: Option<Duration>,
}

/// What there is to connect to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Backend {
    /// A Redis server, or several.
    Redis(RedisSettings),
    /// A bucket.
    S3(S3Settings),
}

/// One tier.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TierSettings {
    /// How it is shown.
    pub name: TierName,
    /// What it is given.
    pub terms: Terms,
    /// What there is to connect to.
    pub backend: Backend,
    /// Where it was said, for errors.
    pub origin: String,
}

/// The storage that is shared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CacheSettings {
    /// Where this agent itself keeps things, if the chain says so.
    pub local: Option<Local>,
    /// What it shares, in the order of the chain, which says nothing about who is asked first.
    pub tiers: Vec<TierSettings>,
    /// How long the end of a run without an agent waits for tiers to get its results.
    pub exit_budget: Duration,
    /// How long it waits for those that are written through, as long as they take what comes.
    pub write_through: Duration,
}

/// What the file and the defaults say of the tiers.
pub(super) struct Sections<'a> {
    pub(super) cache: [&'a CacheSection; 2],
    pub(super) redis: [&'a RedisSection; 2],
    pub(super) s3: [&'a S3Section; 2],
}

/// A value of the first section that has it.
fn first<'a, S, T>(sections: [&'a S; 2], value: impl Fn(&'a S) -> &'a Option<T>) -> Option<&'a T> {
    sections.into_iter().find_map(|section| value(section).as_ref())
}

/// Where a chain was said, and what it is.
pub(super) fn parse_chain(
    sections: &Sections<'_>,
    flag: Option<&str>,
    environment: &dyn Fn(&str) -> Option<OsString>,
    file_said: &dyn Fn(&str) -> String,
) -> Result<(Chain, String), ConfigError> {
    let said = environment(variable::CACHE_BACKEND);
    let (text, origin) = match (flag, said) {
        (Some(text), _) => (text.to_owned(), "--backend".to_owned()),
        (None, Some(text)) => {
            (text.to_string_lossy().into_owned(), variable::CACHE_BACKEND.to_owned())
        }
        (None, None) => {
            let text = first(sections.cache, |section| &section.backend).cloned();
            (text.unwrap_or_default(), file_said("cache.backend"))
        }
    };
    match text.parse::<Chain>() {
        Ok(chain) => Ok((chain, origin)),
        Err(error) => Err(ConfigError::Value { origin, problem: error.to_string() }),
    }
}

pub(super) fn parse_cache(
    sections: &Sections<'_>,
    (chain, origin): (Chain, String),
    environment: &dyn Fn(&str) -> Option<OsString>,
    file_said: &dyn Fn(&str) -> String,
) -> Result<CacheSettings, ConfigError> {
    let budget = |key: &str, said: Option<&f64>, default: f64| {
        let seconds = said.copied().unwrap_or(default);
        let budget = Duration::try_from_secs_f64(seconds).ok().filter(|_| seconds <= MAX_BUDGET);
        budget.ok_or_else(|| ConfigError::Value {
            origin: file_said(key),
            problem: format!("`{seconds}` is not a number of seconds from 0 to {MAX_BUDGET}"),
        })
    };
    let said = first(sections.cache, |section| &section.exit_budget_seconds);
    let exit_budget = budget("cache.exit_budget_seconds", said, 3.0)?;
    let said = first(sections.cache, |section| &section.write_through_seconds);
    let write_through = budget("cache.write_through_seconds", said, 60.0)?;
    let alone = chain.tiers.len() == 1;
    let reader = Reader { sections, environment, file_said, origin: &origin, alone };
    let tiers = chain.tiers.iter().map(|tier| reader.tier(tier)).collect::<Result<Vec<_>, _>>()?;
    // Two that `REDIS_URL` makes the same.
    for (at, tier) in tiers.iter().enumerate() {
        if tiers[..at].iter().any(|other| other.name == tier.name) {
            let problem = format!("`{}` is in the chain twice", tier.name);
            return Err(ConfigError::Value { origin, problem });
        }
    }
    Ok(CacheSettings { local: chain.local, tiers, exit_budget, write_through })
}

struct Reader<'a> {
    sections: &'a Sections<'a>,
    environment: &'a dyn Fn(&str) -> Option<OsString>,
    file_said: &'a dyn Fn(&str) -> String,
    origin: &'a str,
    /// Whether there is one tier only.
    alone: bool,
}

impl Reader<'_> {
    fn tier(&self, tier: &Tier) -> Result<TierSettings, ConfigError> {
        let origin = format!("{}, entry {}, `{}`", self.origin, tier.position, tier.name());
        let (redis, s3) = (self.sections.redis, self.sections.s3);
        let terms = match &tier.place {
            Place::Redis(_) => {
                let largest = if self.alone { REDIS_ALONE } else { REDIS_BESIDE };
                let sections = [
                    first(redis, |s| &s.policy),
                    first(redis, |s| &s.min_size),
                    first(redis, |s| &s.max_size),
                ];
                self.terms(tier, "redis", sections, largest)?
            }
            Place::S3(_) => {
                let sections = [
                    first(s3, |s| &s.policy),
                    first(s3, |s| &s.min_size),
                    first(s3, |s| &s.max_size),
                ];
                self.terms(tier, "s3", sections, u64::MAX)?
            }
        };
        let backend = match &tier.place {
            Place::Redis(server) => Backend::Redis(self.redis(server, &origin)?),
            Place::S3(bucket) => Backend::S3(self.s3(bucket, tier)?),
        };
        let name = match &backend {
            Backend::Redis(redis) => {
                TierName { kind: TierKind::Redis, place: redis.server.to_string() }
            }
            Backend::S3(_) => tier.name(),
        };
        Ok(TierSettings { name, terms, backend, origin })
    }

    /// What is said of a tier: in the chain, else in its section. With the place where.
    fn said<'t>(
        &self,
        tier: &'t Tier,
        section: &str,
        key: &str,
        file: Option<&'t String>,
    ) -> Option<(&'t str, String)> {
        match tier.options.get(key) {
            Some(value) => {
                let name = tier.name();
                let origin = format!("{}, entry {}, `{name}`, {key}", self.origin, tier.position);
                Some((value, origin))
            }
            None => file
                .map(|value| (value.as_str(), (self.file_said)(&format!("{section}.{key}"))))
                .filter(|(value, _)| !value.is_empty()),
        }
    }

    fn terms<'t>(
        &self,
        tier: &'t Tier,
        section: &str,
        [policy, min, max]: [Option<&'t String>; 3],
        largest: u64,
    ) -> Result<Terms, ConfigError> {
        let writing = match self.said(tier, section, "policy", policy) {
            Some((text, origin)) => text
                .parse::<Writing>()
                .map_err(|error| ConfigError::Value { origin, problem: error.to_string() })?,
            None => Writing::default(),
        };
        let size = |key, file, default| match self.said(tier, section, key, file) {
            Some((text, origin)) => {
                parse_size(text).map_err(|problem| ConfigError::Value { origin, problem })
            }
            None => Ok(default),
        };
        let min_size = size("min_size", min, 0)?;
        let max_size = size("max_size", max, largest)?;
        if min_size > max_size {
            let origin = format!("{}, entry {}, `{}`", self.origin, tier.position, tier.name());
            let problem = format!("min_size {min_size} is above max_size {max_size}");
            return Err(ConfigError::Value { origin, problem });
        }
        Ok(Terms { writing, min_size, max_size })
    }

    fn redis(&self, server: &RedisServer, origin: &str) -> Result<RedisSettings, ConfigError> {
        let redis = self.sections.redis;
        let mut server = server.clone();
        if server.hosts.is_empty() {
            server = self.redis_url(server)?;
        }
        if server.user.is_none() {
            server.user = first(redis, |s| &s.user).filter(|user| !user.is_empty()).cloned();
        }
        if server.password.is_none() {
            server.password = self.redis_password()?;
        }
        let master = first(redis, |s| &s.master).filter(|master| !master.is_empty());
        let mode = match first(redis, |s| &s.mode).map_or("single", |mode| mode) {
            "single" => Ok(RedisMode::Single),
            "cluster" => Ok(RedisMode::Cluster),
            "sentinel" => match master {
                Some(master) => Ok(RedisMode::Sentinel(master.clone())),
                None => Err("`sentinel` needs the name of a master: redis.master".to_owned()),
            },
            other => Err(format!("`{other}` is none of `single`, `sentinel` and `cluster`")),
        };
        let mode = mode.map_err(|problem| ConfigError::Value {
            origin: (self.file_said)("redis.mode"),
            problem,
        })?;
        if mode == RedisMode::Single && server.hosts.len() > 1 {
            let problem = "several servers need mode = \"sentinel\" or \"cluster\" in [redis]";
            return Err(ConfigError::Value { origin: origin.to_owned(), problem: problem.into() });
        }
        let prefix = first(redis, |s| &s.prefix).cloned().unwrap_or_default();
        let ca_file = first(redis, |s| &s.ca_file).filter(|path| !path.as_os_str().is_empty());
        let days = first(redis, |s| &s.expire_days);
        let expire = parse_days(days, &(self.file_said)("redis.expire_days"))?;
        Ok(RedisSettings { server, mode, prefix, ca_file: ca_file.cloned(), expire })
    }

    /// What `REDIS_URL` says, else this machine.
    fn redis_url(&self, server: RedisServer) -> Result<RedisServer, ConfigError> {
        let Some(url) = (self.environment)(variable::REDIS_URL) else {
            return Ok(RedisServer { hosts: vec![("localhost".to_owned(), 6379)], ..server });
        };
        let origin = || variable::REDIS_URL.to_owned();
        let chain = url.to_string_lossy().parse::<Chain>();
        let mut chain = chain
            .map_err(|error| ConfigError::Value { origin: origin(), problem: error.to_string() })?;
        match (chain.tiers.pop(), chain.tiers.is_empty()) {
            (Some(Tier { place: Place::Redis(server), .. }), true) if !server.hosts.is_empty() => {
                Ok(server)
            }
            _ => {
                let problem = "it is not `redis://HOST` or `rediss://HOST`".to_owned();
                Err(ConfigError::Value { origin: origin(), problem })
            }
        }
    }

    fn redis_password(&self) -> Result<Option<Secret>, ConfigError> {
        if let Some(password) = (self.environment)(variable::REDIS_PASSWORD) {
            return Ok(Some(Secret::new(password.to_string_lossy())));
        }
        let file = first(self.sections.redis, |s| &s.password_file);
        let Some(path) = file.filter(|path| !path.as_os_str().is_empty()) else { return Ok(None) };
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Value {
            origin: (self.file_said)("redis.password_file"),
            problem: format!("cannot read `{}`: {error}", path.display()),
        })?;
        Ok(Some(Secret::new(text.trim_end_matches(['\r', '\n']))))
    }

    fn s3(&self, bucket: &Bucket, tier: &Tier) -> Result<S3Settings, ConfigError> {
        let s3 = self.sections.s3;
        let env = |name: &str| {
            let text = (self.environment)(name)?.to_string_lossy().into_owned();
            Some((text, name.to_owned()))
        };
        let said = |key, file| {
            let said = self.said(tier, "s3", key, file);
            said.map(|(text, origin)| (text.to_owned(), origin))
        };
        let in_chain = |key: &str| tier.options.contains_key(key);
        let endpoint = match said("endpoint", first(s3, |s| &s.endpoint)) {
            Some(said) if in_chain("endpoint") => Some(said),
            file => env(variable::AWS_ENDPOINT_URL_S3)
                .or_else(|| env(variable::AWS_ENDPOINT_URL))
                .or(file),
        };
        let endpoint = match endpoint {
            Some((text, origin)) => Some(
                parse_endpoint(&text).map_err(|problem| ConfigError::Value { origin, problem })?,
            ),
            None => None,
        };
        let region = match said("region", first(s3, |s| &s.region)) {
            Some(said) if in_chain("region") => Some(said),
            file => {
                env(variable::AWS_REGION).or_else(|| env(variable::AWS_DEFAULT_REGION)).or(file)
            }
        };
        let style = said("path_style", first(s3, |s| &s.path_style));
        let path_style = match style.as_ref().map(|(text, _)| text.as_str()) {
            // Few servers but that of AWS have a name for each bucket.
            None | Some("auto") => endpoint.is_some(),
            Some("true" | "yes" | "1") => true,
            Some("false" | "no" | "0") => false,
            Some(other) => {
                let problem = format!("`{other}` is none of `auto`, `true` and `false`");
                let origin = style.map(|(_, origin)| origin).unwrap_or_default();
                return Err(ConfigError::Value { origin, problem });
            }
        };
        let region = region.map(|(region, _)| region);
        let days = first(s3, |s| &s.expire_days);
        let expire = parse_days(days, &(self.file_said)("s3.expire_days"))?;
        Ok(S3Settings { bucket: bucket.clone(), endpoint, region, path_style, expire })
    }
}

/// A time in days; 0 for none.
fn parse_days(days: Option<&f64>, origin: &str) -> Result<Option<Duration>, ConfigError> {
    let days = days.copied().unwrap_or(0.0);
    let time = Duration::try_from_secs_f64(days * 86_400.0).ok().filter(|_| days <= MAX_DAYS);
    match time {
        Some(time) => Ok((!time.is_zero()).then_some(time)),
        None => Err(ConfigError::Value {
            origin: origin.to_owned(),
            problem: format!("`{days}` is not a number of days from 0 to {MAX_DAYS}"),
        }),
    }
}

fn parse_endpoint(text: &str) -> Result<String, String> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    if !["http", "https"].contains(&scheme) || rest.is_empty() {
        return Err("an endpoint is a URL such as `https://s3.example.com`".to_owned());
    }
    if rest.contains('@') {
        return Err("keys do not belong into an endpoint: AWS_ACCESS_KEY_ID has its own variable"
            .to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// A number of bytes, if wanted with a unit: `64 KiB`, `1MB`.
fn parse_size(text: &str) -> Result<u64, String> {
    let unknown = || format!("`{}` is not a size, such as `64 KiB` or `100 MB`", clip(text));
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| unknown())?;
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" | "k" => 1000,
        "kib" => 1 << 10,
        "mb" | "m" => 1_000_000,
        "mib" => 1 << 20,
        "gb" | "g" => 1_000_000_000,
        "gib" => 1 << 30,
        _ => return Err(unknown()),
    };
    number.checked_mul(factor).ok_or_else(unknown)
}

fn clip(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests;
