//! Why a tier could not do what it was asked.

use std::{error::Error, fmt};

/// What kind of failure it was, which says what to do next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Class {
    /// It could not be reached, took too long, broke off or is starting: try again later.
    Unreachable,
    /// It asks for fewer requests: try again later, and slower.
    Throttled,
    /// It does not let this agent do that: credentials, permissions, a bucket that is not there, a
    /// clock that is wrong. Trying again is of no use before somebody mends it.
    Refused,
    /// It has no room for more; what is there can still be read.
    Full,
    /// It says what cannot be true, more than once.
    Corrupt,
    /// It does not take anything as large. This concerns the batch, not the tier.
    TooLarge,
    /// The content that was handed in could not be read, or is not what its digest says. This
    /// concerns the batch, not the tier.
    Content,
}

impl Class {
    /// The word in logs and labels of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Throttled => "throttled",
            Self::Refused => "refused",
            Self::Full => "full",
            Self::Corrupt => "corrupt",
            Self::TooLarge => "too large",
            Self::Content => "content",
        }
    }

    /// Whether the same call may succeed later although nobody mends anything.
    pub fn passes(self) -> bool {
        matches!(self, Self::Unreachable | Self::Throttled | Self::Full | Self::Corrupt)
    }

    /// Whether the tier is to blame, and not what it was asked.
    pub fn is_of_tier(self) -> bool {
        !matches!(self, Self::TooLarge | Self::Content)
    }
}

/// Why a tier could not do what it was asked. Names the tier, never its credentials.
#[derive(Debug)]
pub struct TierError(Box<Failure>);

#[derive(Debug)]
struct Failure {
    tier: String,
    doing: &'static str,
    class: Class,
    because: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl TierError {
    /// The failure of what this tier was doing.
    pub(crate) fn new(tier: &str, doing: &'static str, class: Class) -> Self {
        let (because, source) = (String::new(), None);
        Self(Box::new(Failure { tier: tier.to_owned(), doing, class, because, source }))
    }

    /// Says more.
    pub(crate) fn because(mut self, text: impl Into<String>) -> Self {
        self.0.because = text.into();
        self
    }

    /// Names what it came from.
    pub(crate) fn from(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What kind of failure it was.
    pub fn class(&self) -> Class {
        self.0.class
    }

    /// The name of the tier.
    pub fn tier(&self) -> &str {
        &self.0.tier
    }
}

impl fmt::Display for TierError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { tier, doing, class, because, .. } = &*self.0;
        write!(f, "{doing} at {tier}: {}", class.as_str())?;
        if because.is_empty() { Ok(()) } else { write!(f, " ({because})") }
    }
}

impl Error for TierError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}
