//! Making a tier of what the configuration says.

use crate::config::{Backend, RedisMode, RedisSettings, S3Settings, TierSettings};
use netbuild_store::{
    AddressError, RedisOptions, RedisTier, S3Options, S3Tier, Secret, Tier, TierError,
};
use std::{env, sync::Arc};

/// A tier of the configuration cannot be used at all.
#[derive(Debug, thiserror::Error)]
#[error("{origin}: {problem}")]
pub struct ConnectTierError {
    /// Where the tier was said.
    origin: String,
    /// What is wrong with it.
    #[source]
    problem: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error(transparent)]
    Tier(#[from] TierError),
}

/// A tier that nobody has asked yet.
///
/// # Errors
/// When what is said of it contradicts itself, or a file that it needs cannot be read.
pub(crate) fn connect(settings: &TierSettings) -> Result<Arc<dyn Tier>, ConnectTierError> {
    let tier = match &settings.backend {
        Backend::Redis(redis) => redis_tier(redis, settings.terms.max_size),
        Backend::S3(s3) => s3_tier(s3),
    };
    tier.map_err(|problem| ConnectTierError { origin: settings.origin.clone(), problem })
}

fn redis_tier(settings: &RedisSettings, largest: u64) -> Result<Arc<dyn Tier>, Problem> {
    let server = &settings.server;
    let tls = if server.tls { "rediss" } else { "redis" };
    // As it is shown, and so without what is secret.
    let shown = server.to_string();
    let (hosts, database) = match shown.split_once("://").unwrap_or_default().1.split_once('/') {
        Some((hosts, database)) => (hosts.to_owned(), format!("/{database}")),
        None => (shown.split_once("://").unwrap_or_default().1.to_owned(), String::new()),
    };
    let address = match &settings.mode {
        RedisMode::Single => format!("{tls}://{hosts}{database}"),
        RedisMode::Sentinel(master) => format!("{tls}-sentinel://{hosts}/{master}{database}"),
        RedisMode::Cluster => format!("{tls}-cluster://{hosts}{database}"),
    };
    let mut options = RedisOptions::parse(&address)?;
    options.user.clone_from(&server.user);
    options.password =
        server.password.as_ref().map(|password| Secret(password.reveal().to_owned()));
    options.prefix.clone_from(&settings.prefix);
    options.ca.clone_from(&settings.ca_file);
    options.ttl = settings.expire;
    options.largest = options.largest.max(largest.min(REDIS_LARGEST));
    Ok(Arc::new(RedisTier::new(options)?))
}

/// Redis itself takes no longer values than this.
const REDIS_LARGEST: u64 = 512 << 20;

fn s3_tier(settings: &S3Settings) -> Result<Arc<dyn Tier>, Problem> {
    // Keys are where AWS tools have them: in variables, in the home directory, or with the machine.
    let of_aws = |name: &str| name.starts_with("AWS_") || name == "HOME";
    let variables: Vec<(String, String)> = env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| of_aws(name))
        .collect();
    let mut options = S3Options::parse(&settings.bucket.to_string(), &variables)?;
    options.endpoint.clone_from(&settings.endpoint);
    options.region.clone_from(&settings.region);
    options.path_style = settings.path_style;
    options.expire = settings.expire;
    Ok(Arc::new(S3Tier::new(options)?))
}
