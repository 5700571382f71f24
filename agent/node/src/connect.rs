//! Making a tier of what the configuration says.

use crate::config::{Backend, RedisMode, RedisSettings, S3Settings, TierSettings};
use netbuild_store::{RedisOptions, RedisTier, S3Options, S3Tier, Tier, TierError, Topology};
use std::{env, sync::Arc};

/// A tier of the configuration cannot be used at all.
#[derive(Debug, thiserror::Error)]
#[error("{origin}: {problem}")]
pub struct ConnectTierError {
    /// Where the tier was said.
    origin: String,
    /// What is wrong with it.
    #[source]
    problem: TierError,
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

fn redis_tier(settings: &RedisSettings, largest: u64) -> Result<Arc<dyn Tier>, TierError> {
    let topology = match &settings.mode {
        RedisMode::Single => Topology::Single,
        RedisMode::Sentinel(master) => Topology::Sentinel { master: master.clone() },
        RedisMode::Cluster => Topology::Cluster,
    };
    let mut options = RedisOptions::new(&settings.server, topology);
    options.prefix.clone_from(&settings.prefix);
    options.ca.clone_from(&settings.ca_file);
    options.ttl = settings.expire;
    options.largest = options.largest.max(largest.min(REDIS_LARGEST));
    Ok(Arc::new(RedisTier::new(options)?))
}

/// Redis itself takes no longer values than this.
const REDIS_LARGEST: u64 = 512 << 20;

fn s3_tier(settings: &S3Settings) -> Result<Arc<dyn Tier>, TierError> {
    // Keys are where AWS tools have them: in variables, in the home directory, or with the machine.
    let of_aws = |name: &str| name.starts_with("AWS_") || name == "HOME";
    let variables: Vec<(String, String)> = env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| of_aws(name))
        .collect();
    let mut options = S3Options::new(&settings.bucket, &variables);
    options.endpoint.clone_from(&settings.endpoint);
    options.region.clone_from(&settings.region);
    options.path_style = settings.path_style;
    options.expire = settings.expire;
    Ok(Arc::new(S3Tier::new(options)?))
}
