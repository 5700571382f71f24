//! What a source did wrong, be it a peer or a tier.

use crate::view::over_of_peer;
use netbuild_core::{digest::Digest, health::Fault, peers::Over, plan::Who, tiers::TierId};
use netbuild_store::TierError;
use netbuild_transfer::FetchError;

/// Why a source did not give what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// A peer failed.
    #[error(transparent)]
    Peer(#[from] FetchError),
    /// A tier failed.
    #[error("{1}")]
    Tier(TierId, #[source] TierError),
    /// A tier did not answer in time.
    #[error("{name} does not answer")]
    Silent {
        /// Which one.
        tier: TierId,
        /// Its name.
        name: String,
    },
    /// A tier gave bytes that are not those of the blob.
    #[error("{name} gave wrong bytes for blob {blob}; they were not used")]
    Wrong {
        /// Which one.
        tier: TierId,
        /// Its name.
        name: String,
        /// The blob.
        blob: Digest,
    },
}

impl SourceError {
    /// Whose fault it is.
    pub(crate) fn who(&self) -> Who {
        match self {
            Self::Peer(error) => Who::Peer(error.peer()),
            Self::Tier(tier, _) | Self::Silent { tier, .. } | Self::Wrong { tier, .. } => {
                Who::Tier(*tier)
            }
        }
    }
}

/// Whether a failed request says something about the source.
pub(crate) fn over_of_source<T>(answer: &Result<T, SourceError>) -> Over {
    match answer {
        Ok(_) => Over::Answered,
        Err(SourceError::Peer(error)) => over_of_peer(error),
        Err(SourceError::Tier(_, error)) => over_of_tier(error),
        Err(SourceError::Silent { .. }) => Over::Failed(Fault::Unavailable),
        Err(SourceError::Wrong { .. }) => Over::Failed(Fault::Hostile),
    }
}

/// Whether a failed request says something about the tier.
pub(crate) fn over_of_tier(error: &TierError) -> Over {
    match error.class().is_of_tier() {
        true => Over::Failed(Fault::Unavailable),
        false => Over::Answered,
    }
}
