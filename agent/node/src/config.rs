//! The configuration: the schema of `mesh.toml`, and the one place that resolves what is said where.

mod backend;
mod parse;

pub use backend::{Backend, CacheSettings, RedisMode, RedisSettings, S3Settings, TierSettings};

use backend::{CacheSection, RedisSection, S3Section, Sections, parse_cache, parse_chain};
use netbuild_core::{
    backend::Local,
    codec,
    evict::Amount,
    limit::{Limits, Rate},
    merge::Trust,
    peer::PeerId,
    plan::Policy,
    record::Sandbox,
};
use netbuild_gateway::HttpOptions;
use netbuild_mesh::Seed;
use netbuild_proto::{
    record::check_region,
    ticket::{MeshKey, Ticket},
};
use parse::{
    parse_announce, parse_http, parse_join, parse_log_format, parse_peers, parse_plan,
    parse_region, parse_scrub, parse_store, parse_sync, parse_transfer, parse_trust,
};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs, io,
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

/// The built-in defaults: the `mesh.toml` at the top of the repository.
pub const DEFAULT: &str = include_str!("../../../mesh.toml");

/// Names of the environment variables, all of them.
pub mod variable {
    /// Path of a configuration file.
    pub const CONFIG: &str = "NETBUILD_CONFIG";
    /// `agent.data_dir`.
    pub const DATA_DIR: &str = "NETBUILD_DATA_DIR";
    /// `agent.region`.
    pub const REGION: &str = "NETBUILD_REGION";
    /// `agent.region` too, as build systems name it.
    pub const BUILD_REGION: &str = "BUILD_REGION";
    /// `plan.primary`.
    pub const PRIMARY_CACHE: &str = "PRIMARY_CACHE";
    /// `plan.force`: `1` or `true`, or the region or peer that is forced.
    pub const FORCE_CACHE: &str = "FORCE_CACHE";
    /// What clouds set on their machines: hints at the region, when nobody names it.
    pub const HINTS: [&str; 7] = [
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "GOOGLE_CLOUD_REGION",
        "CLOUDSDK_COMPUTE_REGION",
        "AZURE_REGION",
        "FLY_REGION",
        "RAILWAY_REPLICA_REGION",
    ];
    /// `agent.listen`.
    pub const LISTEN: &str = "NETBUILD_LISTEN";
    /// `agent.announce`.
    pub const ANNOUNCE: &str = "NETBUILD_ANNOUNCE";
    /// `mesh.join`, entries separated by commas.
    pub const JOIN: &str = "NETBUILD_JOIN";
    /// `cache.backend`.
    pub const CACHE_BACKEND: &str = "CACHE_BACKEND";
    /// What a bare `redis://` in a chain stands for.
    pub const REDIS_URL: &str = "REDIS_URL";
    /// The password of Redis, where its address has none.
    pub const REDIS_PASSWORD: &str = "REDIS_PASSWORD";
    /// `s3.endpoint`, as AWS tools name it.
    pub const AWS_ENDPOINT_URL: &str = "AWS_ENDPOINT_URL";
    /// The same, for S3 alone.
    pub const AWS_ENDPOINT_URL_S3: &str = "AWS_ENDPOINT_URL_S3";
    /// `s3.region`.
    pub const AWS_REGION: &str = "AWS_REGION";
    /// `s3.region`, if the one before is not set.
    pub const AWS_DEFAULT_REGION: &str = "AWS_DEFAULT_REGION";
    /// `run.jobs`.
    pub const JOBS: &str = "NETBUILD_JOBS";
    /// `log.filter`.
    pub const LOG: &str = "NETBUILD_LOG";
    /// `log.format`.
    pub const LOG_FORMAT: &str = "NETBUILD_LOG_FORMAT";
    /// `http.listen`.
    pub const HTTP: &str = "NETBUILD_HTTP";
    /// `http.names`, separated by commas.
    pub const HTTP_NAMES: &str = "NETBUILD_HTTP_NAMES";
}

/// What cannot be used as configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration `{path}`: {error}", path = .0.display(), error = .1)]
    Read(PathBuf, #[source] io::Error),
    /// The file is not what it should be; the error tells line, column and key.
    #[error("`{file}`: {error}")]
    Parse {
        /// Name of the file.
        file: String,
        /// What is wrong.
        error: Box<toml::de::Error>,
    },
    /// A value cannot be used.
    #[error("{origin}: {problem}")]
    Value {
        /// Where it was said.
        origin: String,
        /// What is wrong.
        problem: String,
    },
    /// There is no directory to keep anything in.
    #[error("no data directory: neither HOME nor XDG_CACHE_HOME is set; say --data-dir")]
    NoHome,
}

/// The file as a person writes it; every key may be left out.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    agent: AgentSection,
    mesh: MeshSection,
    cache: CacheSection,
    redis: RedisSection,
    s3: S3Section,
    plan: PlanSection,
    transfer: TransferSection,
    sync: SyncSection,
    store: StoreSection,
    trust: TrustSection,
    run: RunSection,
    http: HttpSection,
    log: LogSection,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AgentSection {
    region: Option<String>,
    data_dir: Option<PathBuf>,
    listen: Option<String>,
    announce: Option<String>,
    data_port: Option<u16>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct MeshSection {
    join: Option<Vec<String>>,
    peers: Option<Vec<String>>,
    mdns: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PlanSection {
    latency_weight: Option<f64>,
    transfer_weight: Option<f64>,
    primary: Option<String>,
    force: Option<bool>,
    fallback: Option<String>,
    build: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TransferSection {
    codec: Option<String>,
    delta: Option<bool>,
    limit: Option<String>,
    limits: Option<Vec<LimitEntry>>,
}

/// A limit to what is sent to a region.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitEntry {
    region: String,
    rate: String,
    from: Option<String>,
    to: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SyncSection {
    background: Option<String>,
    bytes_per_second: Option<u64>,
    interval_seconds: Option<u64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct StoreSection {
    max_size: Option<String>,
    max_age: Option<String>,
    min_age: Option<String>,
    min_free: Option<String>,
    scrub: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TrustSection {
    default: Option<String>,
    peers: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RunSection {
    jobs: Option<usize>,
    min_publish_level: Option<String>,
    min_accept_level: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HttpSection {
    listen: Option<String>,
    names: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LogSection {
    filter: Option<String>,
    format: Option<String>,
}

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// `--region`.
    pub region: Option<String>,
    /// `--listen`.
    pub listen: Option<String>,
    /// `--announce`.
    pub announce: Option<String>,
    /// `--join`, all of them.
    pub join: Vec<String>,
    /// `--backend`.
    pub backend: Option<String>,
    /// `-j`.
    pub jobs: Option<usize>,
    /// `--http`.
    pub http: Option<String>,
    /// `--log-format`.
    pub log_format: Option<String>,
}

/// Who to meet first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Join {
    /// A member, with the key of its mesh.
    Ticket(Ticket),
    /// An address; the mesh key is known already.
    Address(Seed),
}

/// What is tried when a source fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FallbackWay {
    /// The next source of the plan at once, another beside one that is late.
    Adaptive,
    /// Fixed rungs with fixed pauses: [`netbuild_core::fallback::CLASSICAL`].
    Classical,
}

/// How blobs are sent to other agents.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TransferSettings {
    /// How they are coded.
    pub codec: codec::Policy,
    /// Whether only what differs is sent, where the other end has something alike.
    pub delta: bool,
    /// How much may be sent.
    pub limits: Limits,
}

/// What is copied from other agents although nobody asked for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Background {
    /// Nothing.
    Off,
    /// Records, so that every agent knows every result.
    Records,
    /// Records and the bytes that they name.
    All,
}

/// How agents are kept alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SyncSettings {
    /// What is copied in the background.
    pub background: Background,
    /// Payload bytes per second that copying in the background may take.
    pub bytes_per_second: u64,
    /// How often an agent compares its records with those of another one.
    pub interval: Duration,
}

/// How the store is read through in the background.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScrubSettings {
    /// How fast, at most.
    pub rate: Rate,
    /// From the start of an agent until it begins: others start at the same time.
    pub settle: Duration,
    /// From the beginning of one pass to that of the next, at least: a small store would else be read
    /// all the time.
    pub between: Duration,
    /// It pauses until nobody has asked for anything for so long; tasks of a build ask every few
    /// seconds.
    pub quiet: Duration,
}

/// How much the data directory may take.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct StoreSettings {
    /// At most this; `None` for the lesser of 50 GB and 20 % of the file system.
    pub max_size: Option<Amount>,
    /// What was not used for so long goes; `None` for never.
    pub max_age: Option<Duration>,
    /// What was used so short a time ago stays, however full it is.
    pub min_age: Duration,
    /// What stays free on the file system.
    pub min_free: Amount,
}

impl Default for StoreSettings {
    fn default() -> Self {
        let min_age = Duration::from_secs(60);
        Self { max_size: None, max_age: None, min_age, min_free: Amount::Bytes(0) }
    }
}

/// How lines of the log look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// An object of JSON each.
    Json,
}

/// The region and where it was said.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RegionSettings {
    /// Its name; empty when nobody says it.
    pub name: String,
    /// Where it was said, such as `--region`.
    pub origin: String,
    /// A variable of a cloud, and the region that it hints at.
    pub hint: Option<(String, String)>,
}

/// The configuration as the programs use it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Absolute path of the data directory, which need not exist.
    pub data_dir: PathBuf,
    /// Region; empty when nobody says it.
    pub region: String,
    /// Where the region was said, and what hints at it.
    pub region_settings: RegionSettings,
    /// UDP address of the mesh.
    pub listen: SocketAddr,
    /// The host at which others reach this agent, if not where it listens.
    pub announce: Option<IpAddr>,
    /// UDP port of the data plane.
    pub data_port: u16,
    /// Whom to meet.
    pub join: Vec<Join>,
    /// The only peers to let in; `None` for every holder of the mesh key.
    pub allowed: Option<BTreeSet<PeerId>>,
    /// Whether members are looked for on the local network.
    pub mdns: bool,
    /// The storage that is shared with other agents.
    pub cache: CacheSettings,
    /// How sources are put in order.
    pub policy: Policy,
    /// What is tried when a source fails.
    pub fallback: FallbackWay,

    /// How blobs are sent.
    pub transfer: TransferSettings,
    /// How agents are kept alike.
    pub sync: SyncSettings,
    /// How much may be kept.
    pub store: StoreSettings,
    /// How the store is read through in the background; `None` when it is not.
    pub scrub: Option<ScrubSettings>,
    /// Who may write what.
    pub trust: Trust,
    /// Most commands at once.
    pub jobs: NonZeroUsize,
    /// The level of hermeticity from which on other agents hear of results.
    pub publish_from: Sandbox,
    /// The level from which on results are taken from a cache. Outputs that stand in the workspace count all the
    /// same.
    pub accept_from: Sandbox,
    /// Where the agent is watched by HTTP; `None` when it is not.
    pub http: Option<HttpOptions>,
    /// Directives for the log.
    pub log_filter: String,
    /// How its lines look.
    pub log_format: LogFormat,
}

impl Settings {
    /// The mesh key that a ticket among `join` brings.
    pub fn joining_key(&self) -> Option<MeshKey> {
        self.join.iter().find_map(|join| match join {
            Join::Ticket(ticket) => Some(ticket.mesh_key),
            Join::Address(_) => None,
        })
    }

    /// The members to dial.
    pub fn seeds(&self) -> Vec<Seed> {
        let seed = |join: &Join| match join {
            Join::Ticket(ticket) => {
                Seed { peer: Some(ticket.peer), addresses: ticket.addresses.clone() }
            }
            Join::Address(seed) => seed.clone(),
        };
        self.join.iter().map(seed).collect()
    }
}

/// A value with the place where it was said, for errors.
struct Said<T> {
    value: T,
    origin: String,
}

impl<T> Said<T> {
    fn parse<U, E: std::fmt::Display>(
        self,
        parse: impl FnOnce(T) -> Result<U, E>,
    ) -> Result<U, ConfigError> {
        let origin = self.origin;
        parse(self.value).map_err(|error| ConfigError::Value { origin, problem: error.to_string() })
    }
}

/// The configuration file, if somebody names one.
pub fn file_of(flags: &Flags, environment: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let variable = || environment(variable::CONFIG).filter(|value| !value.is_empty());
    flags.config.clone().or_else(|| variable().map(PathBuf::from))
}

/// Resolves flags, environment, file and defaults, in this order.
pub fn resolve(
    flags: &Flags,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Settings, ConfigError> {
    let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
    let (file, file_name) = match &file_of(flags, environment) {
        Some(path) => {
            let text =
                fs::read_to_string(path).map_err(|error| ConfigError::Read(path.clone(), error))?;
            let name = path.display().to_string();
            (parse(&text, &name)?, name)
        }
        None => (File::default(), String::new()),
    };
    let resolver =
        Resolver { variable: &variable, file_name, default: parse(DEFAULT, "built-in mesh.toml")? };
    let default = resolver.default.clone();
    let text = |flag: (&str, Option<String>), name, key, from_file, from_default| {
        resolver.text(flag, name, key, from_file, from_default)
    };

    let region_name = if variable(variable::REGION).is_some() {
        variable::REGION
    } else {
        variable::BUILD_REGION
    };
    let region = text(
        ("--region", flags.region.clone()),
        region_name,
        "agent.region",
        file.agent.region,
        default.agent.region,
    );
    let region_origin = region.origin.clone();
    let region = region.parse(parse_region)?;
    let hint = variable::HINTS.iter().find_map(|name| {
        let region = variable(name)?.to_string_lossy().into_owned();
        // A variable of somebody else's that is no region is no error of ours.
        check_region(&region).is_ok().then(|| ((*name).to_owned(), region))
    });
    let listen = text(
        ("--listen", flags.listen.clone()),
        variable::LISTEN,
        "agent.listen",
        file.agent.listen,
        default.agent.listen,
    )
    .parse(|text| {
        text.parse::<SocketAddr>()
            .map_err(|_| format!("`{text}` is not ADDRESS:PORT, such as 0.0.0.0:4001"))
    })?;
    let announce = text(
        ("--announce", flags.announce.clone()),
        variable::ANNOUNCE,
        "agent.announce",
        file.agent.announce,
        default.agent.announce,
    )
    .parse(parse_announce)?;
    let jobs = text(
        ("-j", flags.jobs.map(|jobs| jobs.to_string())),
        variable::JOBS,
        "run.jobs",
        file.run.jobs.map(|jobs| jobs.to_string()),
        default.run.jobs.map(|jobs| jobs.to_string()),
    )
    .parse(|text| text.parse::<usize>().map_err(|_| format!("`{text}` is not a number of jobs")))?;
    let log_filter =
        text(("", None), variable::LOG, "log.filter", file.log.filter, default.log.filter).value;
    let log_format = text(
        ("--log-format", flags.log_format.clone()),
        variable::LOG_FORMAT,
        "log.format",
        file.log.format,
        default.log.format,
    )
    .parse(parse_log_format)?;
    let http = text(
        ("--http", flags.http.clone()),
        variable::HTTP,
        "http.listen",
        file.http.listen,
        default.http.listen,
    );
    let http_names = resolver.list(
        (&[], ""),
        variable::HTTP_NAMES,
        "http.names",
        file.http.names,
        default.http.names,
    );
    let file_said = |key: &str| format!("`{}`, {key}", resolver.file_name);
    let level = |said: Option<String>, default: Option<String>, key: &str| {
        Said { value: said.or(default).unwrap_or_default(), origin: file_said(key) }.parse(|word| {
            let words = Sandbox::ALL.map(Sandbox::as_str).join(", ");
            Sandbox::from_word(&word).ok_or_else(|| format!("`{word}` is not one of {words}"))
        })
    };
    let sections = Sections {
        cache: [&file.cache, &default.cache],
        redis: [&file.redis, &default.redis],
        s3: [&file.s3, &default.s3],
    };
    let backend = flags.backend.as_deref();
    let chain = parse_chain(&sections, backend, &variable, &file_said)?;
    let in_chain = match &chain.0.local {
        Some(Local::Directory(path)) => Some(PathBuf::from(path)),
        Some(Local::Memory) | None => None,
    };
    // The file's chain says no more than the file.
    let of_file = backend.is_none() && variable(variable::CACHE_BACKEND).is_none();
    let of_variable = in_chain.clone().filter(|_| !of_file);
    let data_dir = flags
        .data_dir
        .clone()
        .or_else(|| variable(variable::DATA_DIR).map(PathBuf::from))
        .or(of_variable)
        .or(file.agent.data_dir)
        .filter(|path| !path.as_os_str().is_empty())
        .or(in_chain);
    let join = resolver.list(
        (&flags.join, "--join"),
        variable::JOIN,
        "mesh.join",
        file.mesh.join,
        default.mesh.join,
    );
    let peers = Said {
        value: file.mesh.peers.or(default.mesh.peers).unwrap_or_default(),
        origin: format!("`{}`, mesh.peers", resolver.file_name),
    };
    let (policy, fallback) = parse_plan(&file.plan, &default.plan, &variable, &file_said)?;
    Ok(Settings {
        data_dir: absolute(data_dir.map_or_else(|| default_data_dir(&variable), Ok)?)?,
        region_settings: RegionSettings { name: region.clone(), origin: region_origin, hint },
        region,
        listen,
        announce,
        data_port: file.agent.data_port.or(default.agent.data_port).unwrap_or(0),
        join: join.parse(parse_join)?,
        allowed: peers.parse(parse_peers)?,
        mdns: file.mesh.mdns.or(default.mesh.mdns).unwrap_or(false),
        cache: parse_cache(&sections, chain, &variable, &file_said)?,
        policy,
        fallback,
        transfer: parse_transfer(&file.transfer, &default.transfer, &file_said)?,
        sync: parse_sync(&file.sync, &default.sync, &file_said)?,
        store: parse_store(&file.store, &default.store, &file_said)?,
        scrub: parse_scrub(&file.store, &default.store, &file_said)?,
        trust: parse_trust(&file.trust, &default.trust, &file_said)?,
        jobs: NonZeroUsize::new(jobs)
            .or_else(|| std::thread::available_parallelism().ok())
            .unwrap_or(NonZeroUsize::MIN),
        publish_from: level(
            file.run.min_publish_level,
            default.run.min_publish_level,
            "run.min_publish_level",
        )?,
        accept_from: level(
            file.run.min_accept_level,
            default.run.min_accept_level,
            "run.min_accept_level",
        )?,
        http: parse_http(http, http_names)?,
        log_filter,
        log_format,
    })
}

struct Resolver<'a> {
    variable: &'a dyn Fn(&str) -> Option<OsString>,
    file_name: String,
    default: File,
}

impl Resolver<'_> {
    fn text(
        &self,
        (flag, value): (&str, Option<String>),
        name: &str,
        key: &str,
        from_file: Option<String>,
        from_default: Option<String>,
    ) -> Said<String> {
        if let Some(value) = value {
            return Said { value, origin: flag.to_owned() };
        }
        if let Some(value) = (self.variable)(name) {
            return Said { value: value.to_string_lossy().into_owned(), origin: name.to_owned() };
        }
        let origin = format!("`{}`, {key}", self.file_name);
        Said { value: from_file.or(from_default).unwrap_or_default(), origin }
    }

    /// The same for a list, whose entries are separated by commas in the environment.
    fn list(
        &self,
        (said, flag): (&[String], &str),
        name: &str,
        key: &str,
        from_file: Option<Vec<String>>,
        from_default: Option<Vec<String>>,
    ) -> Said<Vec<String>> {
        if !said.is_empty() {
            return Said { value: said.to_vec(), origin: flag.to_owned() };
        }
        if let Some(list) = (self.variable)(name) {
            let list = list.to_string_lossy();
            let value = list.split(',').map(|entry| entry.trim().to_owned()).collect();
            return Said { value, origin: name.to_owned() };
        }
        let origin = format!("`{}`, {key}", self.file_name);
        Said { value: from_file.or(from_default).unwrap_or_default(), origin }
    }
}

fn parse(text: &str, name: &str) -> Result<File, ConfigError> {
    toml::from_str(text)
        .map_err(|error| ConfigError::Parse { file: name.to_owned(), error: Box::new(error) })
}

fn default_data_dir(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<PathBuf, ConfigError> {
    let cache = variable("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".cache")));
    cache.map(|cache| cache.join("netbuild")).ok_or(ConfigError::NoHome)
}

fn absolute(path: PathBuf) -> Result<PathBuf, ConfigError> {
    std::path::absolute(&path).map_err(|error| ConfigError::Value {
        origin: format!("data directory `{}`", path.display()),
        problem: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::{codec::Codec, merge::Level, plan::Target, score::Weights};

    fn with(variables: &[(&str, &str)], flags: &Flags) -> Result<Settings, ConfigError> {
        resolve(flags, &|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    fn file(text: &str) -> (tempfile::TempDir, Flags) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("my.toml");
        fs::write(&path, text).unwrap();
        let flags = Flags { config: Some(path), ..Flags::default() };
        (dir, flags)
    }

    #[test]
    fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
        let home = ("HOME", "/home/me");
        assert_eq!(with(&[home], &Flags::default()).unwrap().region, "");
        let (_dir, mut flags) = file("[agent]\nregion = \"file\"\n");
        assert_eq!(with(&[home], &flags).unwrap().region, "file");
        let environment = [home, (variable::REGION, "environment")];
        assert_eq!(with(&environment, &flags).unwrap().region, "environment");
        flags.region = Some("flag".into());
        assert_eq!(with(&environment, &flags).unwrap().region, "flag");
    }

    #[test]
    fn the_order_of_sources_can_be_overridden() {
        let home = ("HOME", "/");
        let (_dir, flags) = file("[plan]\nprimary = \"eu\"\nfallback = \"classical\"\n");
        let settings = with(&[home], &flags).unwrap();
        assert_eq!(settings.policy.primary, Some(Target::Region("eu".into())));
        assert_eq!((settings.policy.force, settings.fallback), (false, FallbackWay::Classical));
        assert_eq!(settings.policy.weights, Weights { latency: 0.4, transfer: 0.6 });
        let forced = [home, (variable::FORCE_CACHE, "1")];
        assert!(with(&forced, &flags).unwrap().policy.force);
        let other = [home, (variable::PRIMARY_CACHE, "us"), (variable::BUILD_REGION, "ap")];
        let settings = with(&other, &flags).unwrap();
        assert_eq!(settings.policy.primary, Some(Target::Region("us".into())));
        assert_eq!(
            (settings.region.as_str(), settings.region_settings.origin.as_str()),
            ("ap", variable::BUILD_REGION)
        );
        let named = [home, (variable::FORCE_CACHE, "ap")];
        let policy = with(&named, &flags).unwrap().policy;
        assert_eq!((policy.primary, policy.force), (Some(Target::Region("ap".into())), true));
        let error = with(&forced, &Flags::default()).unwrap_err().to_string();
        assert!(error.starts_with("FORCE_CACHE: no primary"), "{error}");
    }

    #[test]
    fn trust_weights_and_sync_are_checked() {
        let home = [("HOME", "/")];
        let error = |text: &str| {
            let (_dir, flags) = file(text);
            with(&home, &flags).unwrap_err().to_string()
        };
        for (text, part) in [
            ("[trust]\ndefault = \"some\"\n", "trust.default: `some`"),
            ("[trust.peers]\nx = \"normal\"\n", "trust.peers"),
            ("[plan]\nlatency_weight = -1\n", "plan.latency_weight: `-1`"),
            ("[plan]\nlatency_weight = 0\ntransfer_weight = 0\n", "both weights"),
            ("[sync]\nbackground = \"some\"\n", "sync.background: `some`"),
            ("[sync]\ninterval_seconds = 0\n", "sync.interval_seconds"),
            ("[sync]\nbytes_per_second = 0\n", "sync.bytes_per_second"),
        ] {
            let message = error(text);
            assert!(message.contains(part), "{part}: {message}");
        }
        let peer = PeerId([7; 32]);
        let (_dir, flags) = file(&format!(
            "[trust]\ndefault = \"refused\"\npeers = {{ \"{peer}\" = \"trusted\" }}\n"
        ));
        let trust = with(&home, &flags).unwrap().trust;
        assert_eq!(trust.level(&peer), Level::Trusted);
        assert_eq!(trust.level(&PeerId([8; 32])), Level::Refused);
    }

    #[test]
    fn how_much_is_kept_is_bounded_by_default_and_checked() {
        let home = [("HOME", "/")];
        let read = |text: &str| {
            let (_dir, flags) = file(&format!("[store]\n{text}\n"));
            with(&home, &flags).map(|settings| settings.store)
        };
        let default = read("").unwrap();
        let days = Duration::from_secs(24 * 3600);
        let expected = StoreSettings {
            max_size: None,
            max_age: Some(90 * days),
            min_age: Duration::from_secs(60),
            min_free: Amount::Bytes(1_000_000_000),
        };
        assert_eq!(default, expected);
        let some =
            read("max_size = \"30 %\"\nmax_age = \"never\"\nmin_age = \"0 s\"\nmin_free = \"0\"")
                .unwrap();
        assert_eq!(some.max_size, Some(Amount::Percent(30.0)));
        assert_eq!((some.max_age, some.min_free), (None, Amount::Bytes(0)));
        assert_eq!(some.min_age, Duration::ZERO);
        for (text, part) in [
            ("max_size = \"much\"", "store.max_size: `much`"),
            ("max_age = \"90\"", "store.max_age: `90`"),
            ("min_age = \"soon\"", "store.min_age: `soon`"),
            ("min_free = \"-1 GB\"", "store.min_free: `-1 GB`"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn the_scrub_has_a_rate_or_is_off() {
        let read = |text: &str| {
            let (_dir, flags) = file(text);
            with(&[("HOME", "/")], &flags).map(|settings| settings.scrub.map(|scrub| scrub.rate))
        };
        assert_eq!(read("").unwrap(), Rate::new(4_000_000));
        assert_eq!(read("[store]\nscrub = \"1 MB/s\"\n").unwrap(), Rate::new(1_000_000));
        assert_eq!(read("[store]\nscrub = \"off\"\n").unwrap(), None);
        let error = read("[store]\nscrub = \"fast\"\n").unwrap_err().to_string();
        assert!(error.contains("store.scrub") && error.contains("fast"), "{error}");
    }

    #[test]
    fn codecs_and_limits_are_read_and_checked() {
        let home = [("HOME", "/")];
        let read = |text: &str| {
            let (_dir, flags) = file(&format!("[transfer]\n{text}\n"));
            with(&home, &flags).map(|settings| settings.transfer)
        };
        let default = with(&home, &Flags::default()).unwrap().transfer;
        let fixed = codec::Policy::Fixed;
        let (codec, limits) = (codec::Policy::Adaptive, Limits::default());
        assert_eq!(default, TransferSettings { codec, delta: true, limits });
        for (text, codec) in [
            ("tiers", codec::Policy::Tiers),
            ("off", codec::Policy::Off),
            ("identity", fixed(Codec::Identity)),
            ("gzip-6", fixed(Codec::Gzip(6))),
            ("zstd-1", fixed(Codec::Zstd(1))),
            ("zstd-19", fixed(Codec::Zstd(19))),
        ] {
            assert_eq!(read(&format!("codec = \"{text}\"")).unwrap().codec, codec);
        }

        let some = read(
            "delta = false\nlimit = \"10 Mbit/s\"\n\
             limits = [ { region = \"eu-central\", rate = \"5 Mbit/s\", from = \"08:00\", to = \"18:00\" },\n\
                        { region = \"us-west\", rate = \"1000000\" } ]",
        )
        .unwrap();
        assert!(!some.delta);
        let rate = |text: &str| Some(text.parse().unwrap());
        assert_eq!(some.limits.together, rate("1250000"));
        let at = |region, hour: u32| some.limits.rate(region, hour * 3600);
        assert_eq!([at("eu-central", 7), at("eu-central", 12)], [None, rate("625000")]);
        assert_eq!(at("us-west", 7), rate("1 MB/s"));

        let entry = |rest: &str| format!("limits = [ {{ region = \"eu\", {rest} }} ]");
        for (text, parts) in [
            ("codec = \"zstd-23\"", ["transfer.codec: `zstd-23`", "zstd-1"]),
            ("codec = \"brotli\"", ["transfer.codec: `brotli`", "adaptive"]),
            ("limit = \"fast\"", ["transfer.limit: `fast`", "10 Mbit/s"]),
            (&entry("rate = \"1 Mbit\""), ["transfer.limits, region `eu`: `Mbit`", "Mbit/s"]),
            (&entry("rate = \"1 MB/s\", from = \"08:00\""), ["region `eu`", "`to`"]),
            (&entry("rate = \"1 MB/s\", from = \"8\", to = \"9\""), ["region `eu`: `8`", "UTC"]),
            (&entry("rat = \"1 MB/s\""), ["rat", "line 2"]),
            ("limits = [ { region = \"\", rate = \"1 MB/s\" } ]", ["transfer.limits", "empty"]),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{parts:?}: {error}");
        }
    }

    #[test]
    fn the_door_is_on_loopback_elsewhere_or_off() {
        let home = ("HOME", "/");
        let at = |variables: &[(&str, &str)], flags: &Flags| {
            with(variables, flags).map(|settings| settings.http.map(|http| http.listen.to_string()))
        };
        assert_eq!(at(&[home], &Flags::default()).unwrap().as_deref(), Some("127.0.0.1:7717"));
        let (_dir, mut flags) = file("[http]\nlisten = \"off\"\nnames = [\"agent.example\"]\n");
        assert_eq!(at(&[home], &flags).unwrap(), None);
        let elsewhere = [home, (variable::HTTP, "0.0.0.0:80")];
        assert_eq!(at(&elsewhere, &flags).unwrap().as_deref(), Some("0.0.0.0:80"));
        flags.http = Some("[::1]:0".into());
        assert_eq!(at(&elsewhere, &flags).unwrap().as_deref(), Some("[::1]:0"));
        let names =
            |variables: &[(&str, &str)]| with(variables, &flags).unwrap().http.unwrap().names;
        assert_eq!(names(&[home]), ["agent.example"]);
        assert_eq!(names(&[home, (variable::HTTP_NAMES, "a, b")]), ["a", "b"]);
        for (listen, names, part) in [
            ("7717", "", "--http: `7717` is neither"),
            ("127.0.0.1:1", "*", "NETBUILD_HTTP_NAMES: `*` is not the name of a machine"),
            ("127.0.0.1:1", "agent:7717", "`agent:7717` is not the name of a machine"),
        ] {
            let flags = Flags { http: Some(listen.into()), ..Flags::default() };
            let variables = [home, (variable::HTTP_NAMES, names)];
            let error = with(&variables, &flags).unwrap_err().to_string();
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn logs_are_text_or_json() {
        let format = |said: &str| {
            with(&[("HOME", "/"), (variable::LOG_FORMAT, said)], &Flags::default())
                .map(|settings| settings.log_format)
        };
        assert_eq!(
            (format("").unwrap(), format("json").unwrap()),
            (LogFormat::Text, LogFormat::Json)
        );
        let error = format("xml").unwrap_err().to_string();
        assert!(error.starts_with("NETBUILD_LOG_FORMAT: `xml` is neither"), "{error}");
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let (_dir, flags) = file("[agent]\nregion = \"x\"\nregoin = \"y\"\n");
        let error = with(&[("HOME", "/")], &flags).unwrap_err().to_string();
        for part in ["my.toml", "line 3", "regoin", "region"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn a_bad_value_says_where_it_stands() {
        let error = |flags: &Flags, variables: &[(&str, &str)]| {
            with(variables, flags).unwrap_err().to_string()
        };
        let flags = Flags { listen: Some("here".into()), ..Flags::default() };
        assert!(error(&flags, &[("HOME", "/")]).starts_with("--listen: `here` is not"));
        for bad in ["build.example", "192.0.2.1:4001", "0.0.0.0", "224.0.0.1"] {
            let bad_host = [("HOME", "/"), (variable::ANNOUNCE, bad)];
            let message = error(&Flags::default(), &bad_host);
            assert!(
                message.starts_with(&format!("NETBUILD_ANNOUNCE: `{bad}` is not")),
                "{message}"
            );
        }
        let announced = |host: &str| {
            with(&[("HOME", "/"), (variable::ANNOUNCE, host)], &Flags::default()).unwrap().announce
        };
        assert_eq!(announced("192.0.2.1"), Some([192, 0, 2, 1].into()));
        assert_eq!(announced(""), None);
        let bad_region = [("HOME", "/"), (variable::REGION, "a b")];
        assert!(error(&Flags::default(), &bad_region).starts_with("NETBUILD_REGION:"));
        let (_dir, flags) = file("[mesh]\njoin = [\"nonsense\"]\n");
        let message = error(&flags, &[("HOME", "/")]);
        assert!(message.contains("mesh.join") && message.contains("ticket"), "{message}");
    }

    #[test]
    fn the_data_directory_follows_the_usual_places() {
        let dir =
            |variables: &[(&str, &str)]| with(variables, &Flags::default()).map(|s| s.data_dir);
        assert_eq!(dir(&[("HOME", "/h")]).unwrap(), Path::new("/h/.cache/netbuild"));
        let xdg = [("HOME", "/h"), ("XDG_CACHE_HOME", "/c")];
        assert_eq!(dir(&xdg).unwrap(), Path::new("/c/netbuild"));
        assert_eq!(dir(&[(variable::DATA_DIR, "/d")]).unwrap(), Path::new("/d"));
        assert!(matches!(dir(&[]), Err(ConfigError::NoHome)));
    }
}
