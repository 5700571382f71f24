//! The common part of the addresses of tiers: `SCHEME://[USER[:PASSWORD]@]WHERE[?KEY=VALUE&...]`.

use std::fmt;

/// Why an address of a tier is of no use. Says nothing of credentials.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{address}`: {problem}")]
pub struct AddressError {
    /// The address without its credentials.
    pub address: String,
    /// What is wrong with it.
    pub problem: String,
}

/// A text that is shown to nobody.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// An address taken apart.
#[derive(Debug)]
pub(super) struct Address<'a> {
    pub(super) scheme: &'a str,
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    /// Between the credentials and the first `/`.
    pub(super) hosts: &'a str,
    /// Behind the first `/`; empty when there is none.
    pub(super) path: &'a str,
    query: &'a str,
}

impl<'a> Address<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, AddressError> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| AddressError {
            // What it is instead is not known, so nothing of it is shown.
            address: "(no scheme)".into(),
            problem: "has no `://`".into(),
        })?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (Some(login), hosts),
            None => (None, authority),
        };
        let mut address = Self { scheme, user: None, password: None, hosts, path, query };
        if let Some(login) = login {
            let (user, password) = match login.split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (login, None),
            };
            address.user = Some(address.decode(user)?).filter(|user| !user.is_empty());
            address.password =
                password.map(|password| address.decode(password)).transpose()?.map(Secret);
        }
        Ok(address)
    }

    /// The address as it is shown.
    pub(super) fn shown(&self) -> String {
        let slash = if self.path.is_empty() { "" } else { "/" };
        format!("{}://{}{slash}{}", self.scheme, self.hosts, self.path)
    }

    pub(super) fn error(&self, problem: impl Into<String>) -> AddressError {
        AddressError { address: self.shown(), problem: problem.into() }
    }

    /// The options behind `?`; a key that is not `known` is an error.
    pub(super) fn options(
        &self,
        known: &[&'static str],
    ) -> Result<Vec<(&'static str, String)>, AddressError> {
        let pairs = self.query.split('&').filter(|pair| !pair.is_empty());
        pairs
            .map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                let known = known.iter().find(|known| **known == key).ok_or_else(|| {
                    self.error(format!("unknown option `{key}`; there are {}", known.join(", ")))
                })?;
                Ok((*known, self.decode(value)?))
            })
            .collect()
    }

    /// A number among the options.
    pub(super) fn number(&self, key: &str, value: &str) -> Result<u64, AddressError> {
        value.parse().map_err(|_| self.error(format!("option `{key}` is not a whole number")))
    }

    /// Resolves `%XX`.
    fn decode(&self, text: &str) -> Result<String, AddressError> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut parts = text.split('%');
        bytes.extend(parts.next().unwrap_or_default().bytes());
        for part in parts {
            let hex = part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
            bytes.push(hex.ok_or_else(|| self.error("has a `%` without two hexadecimal digits"))?);
            bytes.extend(part[2..].bytes());
        }
        String::from_utf8(bytes).map_err(|_| self.error("is not UTF-8 after decoding"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_decoded_and_never_shown() {
        let address = Address::parse("redis://me:p%40ss@cache:6379/2?ttl=5&prefix=a%2Fb").unwrap();
        assert_eq!(address.user.as_deref(), Some("me"));
        assert_eq!(address.password, Some(Secret("p@ss".into())));
        assert_eq!((address.hosts, address.path), ("cache:6379", "2"));
        let options = address.options(&["prefix", "ttl"]).unwrap();
        assert_eq!(options, [("ttl", "5".to_owned()), ("prefix", "a/b".to_owned())]);
        assert_eq!(address.shown(), "redis://cache:6379/2");
        let error = address.options(&["ttl"]).unwrap_err().to_string();
        for text in [error, format!("{address:?}")] {
            assert!(!text.contains("p@ss") && !text.contains("p%40ss"), "{text}");
        }
        let error = Address::parse("secret-without-scheme").unwrap_err();
        assert!(!error.to_string().contains("secret-without"), "{error}");
        assert!(Address::parse("s3://%zz@x").unwrap_err().to_string().contains('%'));
    }
}
