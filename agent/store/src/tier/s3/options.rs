//! Where a bucket is and how it is used.

use netbuild_core::{backend::Bucket, secret::Secret};
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
    /// This bucket of AWS, with the credentials that the usual variables of AWS among `vars` lead to:
    /// `AWS_ACCESS_KEY_ID` and its like, else the profile `AWS_PROFILE` in the file
    /// `AWS_SHARED_CREDENTIALS_FILE` or `~/.aws/credentials`, else a web identity, a container or the
    /// instance. Reads the file of credentials.
    pub fn new(bucket: &Bucket, vars: &[(String, String)]) -> Self {
        let var = |name: &str| {
            let found = vars.iter().find(|(key, value)| key == name && !value.is_empty());
            found.map(|(_, value)| value.clone())
        };
        let mut options = Self {
            bucket: bucket.bucket.clone(),
            prefix: bucket.prefix.clone(),
            endpoint: None,
            region: None,
            path_style: true,
            patience: PATIENCE,
            expire: Some(EXPIRE),
            slack: SLACK,
            settings: Vec::new(),
            name: bucket.to_string(),
        };
        let settings =
            vars.iter().filter(|(key, value)| key.starts_with("AWS_") && !value.is_empty());
        options.settings =
            settings.map(|(key, value)| (key.clone(), Secret::new(value.clone()))).collect();
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
        options
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
                settings.push((key, Secret::new(value.trim())));
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
    fn credentials_are_taken_from_variables_and_shown_nowhere() {
        let vars = vars(&[
            ("AWS_SECRET_ACCESS_KEY", "hidden"),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SESSION_TOKEN", ""),
            ("PATH", "/bin"),
        ]);
        let options = S3Options::new(&"bucket/a/b/".parse().unwrap(), &vars);
        assert_eq!((options.bucket.as_str(), options.prefix.as_str()), ("bucket", "a/b"));
        assert_eq!((options.name(), options.settings.len()), ("s3://bucket/a/b", 2));
        assert!(!format!("{options:?}").contains("hidden"));
    }

    #[test]
    fn a_profile_is_found_in_the_file_of_credentials() {
        let text = "[default]\naws_access_key_id = a\naws_secret_access_key=b\n\n[ci]\n\
                    aws_access_key_id=c\nregion=x\naws_session_token = d=e\n";
        let keys = profile_of(text, "ci");
        let expected = [("AWS_ACCESS_KEY_ID", "c"), ("AWS_SESSION_TOKEN", "d=e")];
        let expected = expected.map(|(key, value)| (key.to_owned(), Secret::new(value)));
        assert_eq!(keys, expected);
        assert!(profile_of(text, "other").is_empty());
    }
}
