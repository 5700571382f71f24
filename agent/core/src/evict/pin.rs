//! What stays whatever else goes.

use crate::{
    digest::{Digest, Hash, ParseDigestError},
    key::ActionKey,
};
use std::{fmt, str::FromStr};

/// What somebody wants kept whatever else goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Pin {
    /// A blob.
    Blob(Digest),
    /// The record of an action, whichever it is, and all that it names.
    Action(ActionKey),
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blob(digest) => write!(f, "blob {digest}"),
            Self::Action(key) => write!(f, "action {key}"),
        }
    }
}

impl FromStr for Pin {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(' ') {
            Some(("blob", digest)) => digest.parse().map(Self::Blob),
            Some(("action", key)) => key.parse().map(|hash: Hash| Self::Action(ActionKey(hash.0))),
            _ => Err(ParseDigestError::Hash(text.to_owned())),
        }
    }
}
