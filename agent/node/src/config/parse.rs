//! What is said in the configuration, checked and turned into what the programs use.

use super::{
    Background, ConfigError, FallbackWay, Join, LimitEntry, LogFormat, PlanSection, Said,
    ScrubSettings, StoreSection, StoreSettings, SyncSection, SyncSettings, TransferSection,
    TransferSettings, TrustSection, variable,
};
use netbuild_core::{
    codec::NoPolicy,
    evict::{Amount, parse_time},
    limit::{Limits, Rate, RegionLimit, Schedule},
    merge::{Level, Trust},
    peer::PeerId,
    plan::{Policy, Target},
    score::Weights,
};
use netbuild_gateway::HttpOptions;
use netbuild_mesh::parse_multiaddr;
use netbuild_proto::{
    record::{MAX_REGION, check_region},
    ticket::{PREFIX, Ticket},
};
use std::{
    collections::BTreeSet,
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

pub(super) fn parse_join(entries: Vec<String>) -> Result<Vec<Join>, String> {
    let parse = |entry: &String| {
        if entry.starts_with('/') {
            let seed = parse_multiaddr(entry).map_err(|error| error.to_string())?;
            return Ok(Join::Address(seed));
        }
        if !entry.starts_with(PREFIX) {
            return Err(format!(
                "`{entry}` is neither a ticket ({PREFIX}...) nor a multiaddress (/ip4/...)"
            ));
        }
        // Not shown: it is as good as a password.
        let ticket = entry.parse::<Ticket>();
        ticket
            .map(Join::Ticket)
            .map_err(|_| "this ticket is damaged; copy the whole line".to_owned())
    };
    let joins: Vec<Join> = entries.iter().map(parse).collect::<Result<_, String>>()?;
    let keys: BTreeSet<[u8; 32]> = joins
        .iter()
        .filter_map(|join| match join {
            Join::Ticket(ticket) => Some(ticket.mesh_key.0),
            Join::Address(_) => None,
        })
        .collect();
    match keys.len() {
        0 | 1 => Ok(joins),
        count => Err(format!("the tickets are of {count} different meshes")),
    }
}

pub(super) fn parse_announce(host: String) -> Result<Option<IpAddr>, String> {
    if host.is_empty() {
        return Ok(None);
    }
    let address = host.parse::<IpAddr>().ok();
    match address.filter(|address| !address.is_unspecified() && !address.is_multicast()) {
        Some(address) => Ok(Some(address)),
        None => Err(format!("`{host}` is not the IP address of a host, such as 192.0.2.1")),
    }
}

pub(super) fn parse_region(region: String) -> Result<String, String> {
    match check_region(&region) {
        Ok(()) => Ok(region),
        Err(_) => Err(format!(
            "`{region}` is not the name of a region: letters, digits, `.`, `_` and `-`, at most {MAX_REGION}"
        )),
    }
}

/// A peer id, the name of a region, or a tier or a kind of tiers; `None` for the empty text.
fn parse_target(text: &str) -> Result<Option<Target>, String> {
    match text.parse::<PeerId>() {
        _ if text.is_empty() => Ok(None),
        _ if text.contains("://") || ["redis", "s3"].contains(&text) => {
            if text.contains('@') {
                return Err("a tier is named without user and password".to_owned());
            }
            Ok(Some(Target::Tier(text.trim_end_matches('/').to_owned())))
        }
        Ok(peer) => Ok(Some(Target::Peer(peer))),
        Err(_) => parse_region(text.to_owned()).map(|region| Some(Target::Region(region))),
    }
}

/// Where the agent is watched, and by which names.
pub(super) fn parse_http(
    listen: Said<String>,
    names: Said<Vec<String>>,
) -> Result<Option<HttpOptions>, ConfigError> {
    let listen = listen.parse(|text| match text.as_str() {
        "off" => Ok(None),
        _ => text.parse::<SocketAddr>().map(Some).map_err(|_| {
            format!("`{text}` is neither ADDRESS:PORT, such as 127.0.0.1:7717, nor `off`")
        }),
    })?;
    let proper = |name: &String| {
        !name.is_empty()
            && name.len() <= 253
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
    };
    let names =
        names.parse(|names: Vec<String>| match names.iter().find(|name| !proper(name)) {
            Some(name) => Err(format!("`{name}` is not the name of a machine, without a port")),
            None => Ok(names),
        })?;
    Ok(listen.map(|listen| HttpOptions { listen, port_before: None, names }))
}

pub(super) fn parse_log_format(format: String) -> Result<LogFormat, String> {
    match format.as_str() {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        other => Err(format!("`{other}` is neither `text` nor `json`")),
    }
}

fn value<T>(origin: String, parsed: Result<T, String>) -> Result<T, ConfigError> {
    parsed.map_err(|problem| ConfigError::Value { origin, problem })
}

pub(super) fn parse_plan(
    file: &PlanSection,
    default: &PlanSection,
    variable: &dyn Fn(&str) -> Option<OsString>,
    file_said: &dyn Fn(&str) -> String,
) -> Result<(Policy, FallbackWay), ConfigError> {
    let weight = |key: &str, file: Option<f64>, default: Option<f64>| {
        let weight = file.or(default).unwrap_or_default();
        let good = weight.is_finite() && (0.0..=1e6).contains(&weight);
        let problem = || format!("`{weight}` is not a weight: a number from 0 to 1000000");
        value(file_said(key), good.then_some(weight).ok_or_else(problem))
    };
    let weights = Weights {
        latency: weight("plan.latency_weight", file.latency_weight, default.latency_weight)?,
        transfer: weight("plan.transfer_weight", file.transfer_weight, default.transfer_weight)?,
    };
    if weights.latency + weights.transfer <= 0.0 {
        let problem = "both weights are 0, so nothing could be put in order".to_owned();
        return Err(ConfigError::Value { origin: file_said("plan.transfer_weight"), problem });
    }
    let said = |name: &str| variable(name).map(|text| text.to_string_lossy().into_owned());
    let mut primary = match said(variable::PRIMARY_CACHE) {
        Some(text) => value(variable::PRIMARY_CACHE.to_owned(), parse_target(&text))?,
        None => {
            let text = file.primary.as_ref().or(default.primary.as_ref());
            value(file_said("plan.primary"), parse_target(text.map_or("", |text| text)))?
        }
    };
    let mut force = file.force.or(default.force).unwrap_or(false);
    match said(variable::FORCE_CACHE).as_deref() {
        None => {}
        Some("0" | "false" | "no") => force = false,
        Some("1" | "true" | "yes") => force = true,
        Some(text) => {
            primary = value(variable::FORCE_CACHE.to_owned(), parse_target(text))?;
            force = true;
        }
    }
    if force && primary.is_none() {
        let problem = "no primary is named that could be forced; set PRIMARY_CACHE or plan.primary";
        let origin = said(variable::FORCE_CACHE)
            .map_or_else(|| file_said("plan.force"), |_| variable::FORCE_CACHE.to_owned());
        return Err(ConfigError::Value { origin, problem: problem.to_owned() });
    }
    let way = file.fallback.as_ref().or(default.fallback.as_ref());
    let way = match way.map_or("adaptive", |way| way) {
        "adaptive" => Ok(FallbackWay::Adaptive),
        "classical" => Ok(FallbackWay::Classical),
        other => Err(format!("`{other}` is neither `adaptive` nor `classical`")),
    };
    let fallback = value(file_said("plan.fallback"), way)?;
    let build = file.build.as_ref().or(default.build.as_ref());
    let waits = match build.map_or("when-sooner", |build| build) {
        "when-sooner" => Ok(false),
        "last" => Ok(true),
        other => Err(format!("`{other}` is neither `when-sooner` nor `last`")),
    };
    let waits = value(file_said("plan.build"), waits)?;
    Ok((Policy { weights, primary, force, waits }, fallback))
}

pub(super) fn parse_transfer(
    file: &TransferSection,
    default: &TransferSection,
    file_said: &dyn Fn(&str) -> String,
) -> Result<TransferSettings, ConfigError> {
    let codec = file.codec.as_ref().or(default.codec.as_ref()).map_or("adaptive", |codec| codec);
    let limit = file.limit.as_ref().or(default.limit.as_ref()).map_or("", |limit| limit);
    let together = match limit {
        "" => None,
        text => Some(value(file_said("transfer.limit"), parse_rate(text))?),
    };
    let entries = file.limits.as_ref().or(default.limits.as_ref());
    let regions = entries.into_iter().flatten().map(|entry| {
        let origin = format!("{}, region `{}`", file_said("transfer.limits"), entry.region);
        value(origin, parse_limit(entry))
    });
    let regions = regions.collect::<Result<_, ConfigError>>()?;
    Ok(TransferSettings {
        codec: value(
            file_said("transfer.codec"),
            codec.parse().map_err(|error: NoPolicy| error.to_string()),
        )?,
        delta: file.delta.or(default.delta).unwrap_or(true),
        limits: Limits { together, regions },
    })
}

fn parse_rate(text: &str) -> Result<Rate, String> {
    text.parse::<Rate>().map_err(|error| error.to_string())
}

fn parse_limit(entry: &LimitEntry) -> Result<RegionLimit, String> {
    let region = parse_region(entry.region.clone())?;
    if region.is_empty() {
        return Err("the name is empty; what is sent to all together has `limit`".to_owned());
    }
    let schedule = match (&entry.from, &entry.to) {
        (None, None) => None,
        (Some(from), Some(to)) => {
            Some(Schedule::parse(from, to).map_err(|error| error.to_string())?)
        }
        _ => return Err("`from` and `to` are said both or not at all".to_owned()),
    };
    Ok(RegionLimit { region, rate: parse_rate(&entry.rate)?, schedule })
}

/// Longest pause between two comparisons of records with another agent.
const MAX_SYNC_INTERVAL: u64 = 24 * 3600;

pub(super) fn parse_sync(
    file: &SyncSection,
    default: &SyncSection,
    file_said: &dyn Fn(&str) -> String,
) -> Result<SyncSettings, ConfigError> {
    let background = file.background.as_ref().or(default.background.as_ref());
    let background = match background.map_or("records", |what| what) {
        "off" => Ok(Background::Off),
        "records" => Ok(Background::Records),
        "all" => Ok(Background::All),
        other => Err(format!("`{other}` is none of `off`, `records` and `all`")),
    };
    let interval = file.interval_seconds.or(default.interval_seconds).unwrap_or(30);
    let problem = || format!("`{interval}` is not from 1 to {MAX_SYNC_INTERVAL} seconds");
    let good = (1..=MAX_SYNC_INTERVAL).contains(&interval);
    value(file_said("sync.interval_seconds"), good.then_some(()).ok_or_else(problem))?;
    let rate = file.bytes_per_second.or(default.bytes_per_second).unwrap_or(u64::MAX);
    let some = (rate > 0).then_some(rate).ok_or_else(|| {
        "0 bytes per second would never copy anything; say background = \"off\"".to_owned()
    });
    Ok(SyncSettings {
        background: value(file_said("sync.background"), background)?,
        bytes_per_second: value(file_said("sync.bytes_per_second"), some)?,
        interval: Duration::from_secs(interval),
    })
}

/// See [`ScrubSettings::settle`].
const SCRUB_SETTLE: Duration = Duration::from_secs(60);
/// See [`ScrubSettings::between`].
const SCRUB_BETWEEN: Duration = Duration::from_secs(24 * 3600);
/// See [`ScrubSettings::quiet`].
const SCRUB_QUIET: Duration = Duration::from_secs(5);

pub(super) fn parse_scrub(
    file: &StoreSection,
    default: &StoreSection,
    file_said: &dyn Fn(&str) -> String,
) -> Result<Option<ScrubSettings>, ConfigError> {
    match file.scrub.as_ref().or(default.scrub.as_ref()).map_or("off", |text| text) {
        "off" => Ok(None),
        text => Ok(Some(ScrubSettings {
            rate: value(file_said("store.scrub"), parse_rate(text))?,
            settle: SCRUB_SETTLE,
            between: SCRUB_BETWEEN,
            quiet: SCRUB_QUIET,
        })),
    }
}

pub(super) fn parse_store(
    file: &StoreSection,
    default: &StoreSection,
    file_said: &dyn Fn(&str) -> String,
) -> Result<StoreSettings, ConfigError> {
    let text = |file: &Option<String>, default: &Option<String>| {
        file.as_ref().or(default.as_ref()).cloned().unwrap_or_default()
    };
    let amount = |key: &str, text: &str| {
        let parsed = text.parse::<Amount>().map_err(|error| error.to_string());
        value(file_said(key), parsed)
    };
    let max_size = text(&file.max_size, &default.max_size);
    let max_age = text(&file.max_age, &default.max_age);
    let age = parse_time(&max_age).map_err(|error| format!("{error}, or \"never\""));
    Ok(StoreSettings {
        max_size: match max_size.as_str() {
            "" => None,
            some => Some(amount("store.max_size", some)?),
        },
        max_age: match max_age.as_str() {
            "never" => None,
            _ => Some(value(file_said("store.max_age"), age)?),
        },
        min_age: value(
            file_said("store.min_age"),
            parse_time(&text(&file.min_age, &default.min_age)).map_err(|error| error.to_string()),
        )?,
        min_free: amount("store.min_free", &text(&file.min_free, &default.min_free))?,
    })
}

pub(super) fn parse_trust(
    file: &TrustSection,
    default: &TrustSection,
    file_said: &dyn Fn(&str) -> String,
) -> Result<Trust, ConfigError> {
    let level = |key: &str, text: &str| {
        let unknown = || format!("`{text}` is none of `refused`, `normal` and `trusted`");
        value(file_said(key), text.parse::<Level>().map_err(|_| unknown()))
    };
    let text = file.default.as_ref().or(default.default.as_ref());
    let usual = level("trust.default", text.map_or("normal", |text| text))?;
    let peers = file.peers.as_ref().or(default.peers.as_ref());
    let levels = peers
        .into_iter()
        .flatten()
        .map(|(peer, text)| {
            let id = peer.parse::<PeerId>().map_err(|error| error.to_string());
            Ok((value(file_said("trust.peers"), id)?, level("trust.peers", text)?))
        })
        .collect::<Result<_, ConfigError>>()?;
    Ok(Trust::new(usual, levels))
}

pub(super) fn parse_peers(peers: Vec<String>) -> Result<Option<BTreeSet<PeerId>>, String> {
    let parse = |peer: &String| peer.parse::<PeerId>().map_err(|error| error.to_string());
    let peers: BTreeSet<PeerId> = peers.iter().map(parse).collect::<Result<_, _>>()?;
    Ok((!peers.is_empty()).then_some(peers))
}
