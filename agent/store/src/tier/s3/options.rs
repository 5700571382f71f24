//! Where a bucket is and how it is used.

use crate::tier::address::{Address, AddressError, Secret};
use std::{path::PathBuf, time::Duration};

/// How long nothing may come before an answer is given up, unless configured.
const PATIENCE: Duration = Duration::from_secs(10);
/// What was not written or needed for so long is deleted, unless configured.
const EXPIRE: Duration = Duration::from_hours(24 * 30);
/// How much longer it is kept, against clocks that differ and agents that are slow.
const SLACK: Duration = Duration::from_hours(24);
/// Most bytes of a file of credentials; more is something else.
const MAX_FILE: u64 = 1 << 20;

/// Where a bucket is and how it is used.
#[derive(Clone, Debug)]
pub struct S3Options {
    /// The bucket.
    pub bucket: String,
    /// What all keys begin with, without a `/` at its ends; may be empty.
    pub prefix: String,
    /// Where the server is; `None` for AWS itself.
    pub endpoint: Option<String>,
    /// Region of the bucket.
    pub region: Option<String>,
    /// Whether the bucket is a part of the path, not of the host.
    pub path_style: bool,
    /// How long nothing may come before an answer is given up.
    pub patience: Duration,
    /// What was not written or needed for so long is deleted; `None` for never.
    pub expire: Option<Duration>,
    /// How much longer it is kept, and how much earlier it is written again.
    pub slack: Duration,
    /// Further settings of AWS, by the names of its variables.
    pub(super) settings: Vec<(String, Secret)>,
    name: String,
}

impl S3Options {
    /// Understands `s3://BUCKET[/PREFIX][?OPTIONS]` together with the usual variables of AWS among
    /// `vars`: `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_DEFAULT_REGION`, and for
    /// credentials `AWS_ACCESS_KEY_ID` and its like, else the profile `AWS_PROFILE` in the file
    /// `AWS_SHARED_CREDENTIALS_FILE` or `~/.aws/credentials`, else a web identity, a container or the
    /// instance.
    ///
    /// The options are `endpoint=URL`, `region=NAME`, `path_style=0` or `1`, `expire_days=N` where 0
    /// is never, and `timeout=SECONDS`. Reads the file of credentials.
    pub fn parse(text: &str, vars: &[(String, String)]) -> Result<Self, AddressError> {
        let address = Address::parse(text)?;
        if address.scheme != "s3" {
            return Err(address.error("is not the address of a bucket"));
        }
        if address.password.is_some() || address.user.is_some() {
            return Err(address
                .error("credentials belong into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"));
        }
        if address.hosts.is_empty() {
            return Err(address.error("names no bucket"));
        }
        let var = |name: &str| {
            let found = vars.iter().find(|(key, value)| key == name && !value.is_empty());
            found.map(|(_, value)| value.clone())
        };
        let mut options = Self {
            bucket: address.hosts.to_owned(),
            prefix: address.path.trim_matches('/').to_owned(),
            endpoint: var("AWS_ENDPOINT_URL_S3").or_else(|| var("AWS_ENDPOINT_URL")),
            region: var("AWS_REGION").or_else(|| var("AWS_DEFAULT_REGION")),
            path_style: true,
            patience: PATIENCE,
            expire: Some(EXPIRE),
            slack: SLACK,
            settings: Vec::new(),
            name: address.shown(),
        };
        let known = ["endpoint", "region", "path_style", "expire_days", "timeout"];
        for (key, value) in address.options(&known)? {
            match key {
                "endpoint" => options.endpoint = Some(value),
                "region" => options.region = Some(value),
                "path_style" => options.path_style = address.number(key, &value)? != 0,
                "expire_days" => {
                    let days = address.number(key, &value)?;
                    let hours = days.saturating_mul(24).min(24 * 36_500);
                    options.expire = (days > 0).then(|| Duration::from_hours(hours));
                }
                _ => {
                    let seconds = address.number(key, &value)?.max(1);
                    options.patience = Duration::from_secs(seconds);
                }
            }
        }
        let settings =
            vars.iter().filter(|(key, value)| key.starts_with("AWS_") && !value.is_empty());
        options.settings =
            settings.map(|(key, value)| (key.clone(), Secret(value.clone()))).collect();
        let chosen = ["AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"];
        if chosen.iter().all(|name| var(name).is_none()) {
            let home = var("HOME").map(|home| PathBuf::from(home).join(".aws/credentials"));
            let file = var("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from).or(home);
            let text = file.and_then(|file| {
                let small = std::fs::metadata(&file).is_ok_and(|file| file.len() <= MAX_FILE);
                small.then(|| std::fs::read_to_string(&file).ok()).flatten()
            });
            let profile = var("AWS_PROFILE").unwrap_or_else(|| "default".into());
            options.settings.extend(profile_of(&text.unwrap_or_default(), &profile));
        }
        Ok(options)
    }

    /// The address without options.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The keys of a profile in a file of credentials, by the names of their variables.
fn profile_of(text: &str, profile: &str) -> Vec<(String, Secret)> {
    let mut here = false;
    let mut settings = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            here = name.trim() == profile;
        } else if let Some((key, value)) = line.split_once('=').filter(|_| here) {
            let key = key.trim().to_ascii_uppercase();
            if ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"]
                .contains(&key.as_str())
            {
                settings.push((key, Secret(value.trim().to_owned())));
            }
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(vars: &[(&str, &str)]) -> Vec<(String, String)> {
        vars.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_usual_variables_count_and_options_before_them() {
        let vars = vars(&[
            ("AWS_ENDPOINT_URL", "http://a"),
            ("AWS_REGION", "eu-central-1"),
            ("AWS_SECRET_ACCESS_KEY", "hidden"),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("PATH", "/bin"),
        ]);
        let options = S3Options::parse("s3://bucket/a/b/?expire_days=0", &vars).unwrap();
        assert_eq!((options.bucket.as_str(), options.prefix.as_str()), ("bucket", "a/b"));
        assert_eq!(options.endpoint.as_deref(), Some("http://a"));
        assert_eq!((options.region.as_deref(), options.expire), (Some("eu-central-1"), None));
        assert_eq!(options.settings.len(), 4);
        assert!(!format!("{options:?}").contains("hidden"));
        let options = S3Options::parse("s3://bucket?endpoint=http%3A%2F%2Fb&path_style=0", &vars);
        let options = options.unwrap();
        assert_eq!((options.endpoint.as_deref(), options.path_style), (Some("http://b"), false));
        for bad in ["s3://", "s3://u:p@bucket", "gs://bucket", "s3://bucket?foo=1"] {
            S3Options::parse(bad, &vars).unwrap_err();
        }
    }

    #[test]
    fn a_profile_is_found_in_the_file_of_credentials() {
        let text = "[default]\naws_access_key_id = a\naws_secret_access_key=b\n\n[ci]\n\
                    aws_access_key_id=c\nregion=x\naws_session_token = d=e\n";
        let keys = profile_of(text, "ci");
        let expected = [("AWS_ACCESS_KEY_ID", "c"), ("AWS_SESSION_TOKEN", "d=e")];
        let expected = expected.map(|(key, value)| (key.to_owned(), Secret(value.into())));
        assert_eq!(keys, expected);
        assert!(profile_of(text, "other").is_empty());
    }
}
