//! What moved and how far it is, as the control socket tells it.

use crate::{
    codec::DecodeError,
    record::{DigestV1, check_region},
};
use bincode::{Decode, Encode};
use netbuild_core::{
    backend::{TierKind, TierName},
    cache::Source,
    moved::{Coding, Moved, Movement, Part, Progress, Resumed},
    peer::PeerId,
};
use std::collections::BTreeMap;

#[derive(Encode, Decode)]
pub(super) enum SourceV4 {
    Disk,
    Peer { peer: [u8; 32], region: String },
    Tier { kind: TierKindV4, place: String },
}

#[derive(Clone, Copy, Encode, Decode)]
pub(super) enum TierKindV4 {
    Redis,
    S3,
    Memory,
}

/// Longest place of a tier in bytes: a bucket with its prefix, or the servers of a cluster.
const MAX_PLACE: usize = 8192;

#[derive(Clone, Copy, Encode, Decode)]
enum CodingV3 {
    Identity,
    Gzip,
    Zstd,
    Delta,
}

#[derive(Encode, Decode)]
struct MovedV3 {
    logical: u64,
    wire: u64,
}

#[derive(Encode, Decode)]
struct ResumedV3 {
    chunks_here: u32,
    chunks: u32,
}

#[derive(Encode, Decode)]
pub(super) struct MovementV3 {
    parts: Vec<(SourceV4, MovedV3)>,
    codings: Vec<(CodingV3, MovedV3)>,
    resumed: Option<ResumedV3>,
    base: Option<DigestV1>,
}

#[derive(Encode, Decode)]
pub(super) struct ProgressV3 {
    total: u64,
    done: u64,
    wire: u64,
    per_second: f64,
    sources: Vec<SourceV4>,
    coding: Option<CodingV3>,
    resumed: Option<ResumedV3>,
}

impl From<&Source> for SourceV4 {
    fn from(source: &Source) -> Self {
        match source {
            Source::Disk => Self::Disk,
            Source::Peer { peer, region } => Self::Peer { peer: peer.0, region: region.clone() },
            Source::Tier(TierName { kind, place }) => {
                let kind = match kind {
                    TierKind::Redis => TierKindV4::Redis,
                    TierKind::S3 => TierKindV4::S3,
                    TierKind::Memory => TierKindV4::Memory,
                };
                Self::Tier { kind, place: place.clone() }
            }
        }
    }
}

impl TryFrom<SourceV4> for Source {
    type Error = DecodeError;

    fn try_from(source: SourceV4) -> Result<Self, DecodeError> {
        match source {
            SourceV4::Disk => Ok(Self::Disk),
            SourceV4::Peer { peer, region } => {
                check_region(&region)?;
                Ok(Self::Peer { peer: PeerId(peer), region })
            }
            SourceV4::Tier { kind, place } => {
                if place.len() > MAX_PLACE || place.chars().any(char::is_control) {
                    return Err(DecodeError::Invalid("a tier without a proper place".to_owned()));
                }
                let kind = match kind {
                    TierKindV4::Redis => TierKind::Redis,
                    TierKindV4::S3 => TierKind::S3,
                    TierKindV4::Memory => TierKind::Memory,
                };
                Ok(Self::Tier(TierName { kind, place }))
            }
        }
    }
}

impl From<Coding> for CodingV3 {
    fn from(coding: Coding) -> Self {
        match coding {
            Coding::Identity => Self::Identity,
            Coding::Gzip => Self::Gzip,
            Coding::Zstd => Self::Zstd,
            Coding::Delta => Self::Delta,
        }
    }
}

impl From<CodingV3> for Coding {
    fn from(coding: CodingV3) -> Self {
        match coding {
            CodingV3::Identity => Self::Identity,
            CodingV3::Gzip => Self::Gzip,
            CodingV3::Zstd => Self::Zstd,
            CodingV3::Delta => Self::Delta,
        }
    }
}

impl From<Moved> for MovedV3 {
    fn from(Moved { logical, wire }: Moved) -> Self {
        Self { logical, wire }
    }
}

impl From<MovedV3> for Moved {
    fn from(MovedV3 { logical, wire }: MovedV3) -> Self {
        Self { logical, wire }
    }
}

impl From<Resumed> for ResumedV3 {
    fn from(Resumed { chunks_here, chunks }: Resumed) -> Self {
        Self { chunks_here, chunks }
    }
}

impl TryFrom<ResumedV3> for Resumed {
    type Error = DecodeError;

    fn try_from(ResumedV3 { chunks_here, chunks }: ResumedV3) -> Result<Self, DecodeError> {
        if chunks_here > chunks {
            let problem = format!("{chunks_here} chunks of {chunks} are here");
            return Err(DecodeError::Invalid(problem));
        }
        Ok(Self { chunks_here, chunks })
    }
}

impl From<&Movement> for MovementV3 {
    fn from(movement: &Movement) -> Self {
        let part = |part: &Part| ((&part.source).into(), part.moved.into());
        let codings = movement.codings.iter();
        Self {
            parts: movement.parts.iter().map(part).collect(),
            codings: codings.map(|(coding, moved)| ((*coding).into(), (*moved).into())).collect(),
            resumed: movement.resumed.map(Into::into),
            base: movement.base.map(Into::into),
        }
    }
}

impl TryFrom<MovementV3> for Movement {
    type Error = DecodeError;

    fn try_from(wire: MovementV3) -> Result<Self, DecodeError> {
        let part = |(source, moved): (SourceV4, MovedV3)| {
            Ok(Part { source: source.try_into()?, moved: moved.into() })
        };
        let mut codings = BTreeMap::new();
        for (coding, moved) in wire.codings {
            let coding = Coding::from(coding);
            if codings.insert(coding, moved.into()).is_some() {
                return Err(DecodeError::Invalid(format!("coding {coding} is told twice")));
            }
        }
        Ok(Self {
            parts: wire.parts.into_iter().map(part).collect::<Result<_, DecodeError>>()?,
            codings,
            resumed: wire.resumed.map(TryInto::try_into).transpose()?,
            base: wire.base.map(Into::into),
        })
    }
}

impl From<&Progress> for ProgressV3 {
    fn from(progress: &Progress) -> Self {
        Self {
            total: progress.total,
            done: progress.done,
            wire: progress.wire,
            per_second: progress.per_second,
            sources: progress.sources.iter().map(Into::into).collect(),
            coding: progress.coding.map(Into::into),
            resumed: progress.resumed.map(Into::into),
        }
    }
}

impl TryFrom<ProgressV3> for Progress {
    type Error = DecodeError;

    fn try_from(wire: ProgressV3) -> Result<Self, DecodeError> {
        let sources = wire.sources.into_iter().map(TryInto::try_into);
        Ok(Self {
            total: wire.total,
            done: wire.done,
            wire: wire.wire,
            per_second: check_figure(wire.per_second)?,
            sources: sources.collect::<Result<_, DecodeError>>()?,
            coding: wire.coding.map(Into::into),
            resumed: wire.resumed.map(TryInto::try_into).transpose()?,
        })
    }
}

/// A time or a speed: people are shown it, and divide by it.
pub(super) fn check_figure(figure: f64) -> Result<f64, DecodeError> {
    if figure.is_finite() && figure >= 0.0 {
        return Ok(figure);
    }
    Err(DecodeError::Invalid(format!("a figure of {figure}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::digest::Digest;

    fn movement() -> Movement {
        let mut movement = Movement {
            resumed: Some(Resumed { chunks_here: 60, chunks: 100 }),
            base: Some(Digest::of(b"base")),
            ..Movement::default()
        };
        let peer = Source::Peer { peer: PeerId([7; 32]), region: "us-east".into() };
        for (at, coding) in (1..).zip(Coding::ALL) {
            movement.add(&peer, coding, Moved { logical: u64::MAX / 8, wire: at });
        }
        movement.add(&Source::Disk, Coding::Identity, Moved { logical: 1, wire: 0 });
        let tier = TierName { kind: TierKind::S3, place: "s3://bucket/prefix".into() };
        movement.add(&Source::Tier(tier), Coding::Identity, Moved { logical: 1, wire: 1 });
        movement
    }

    fn progress() -> Progress {
        Progress {
            total: 100,
            done: 60,
            wire: 7,
            per_second: 1.5,
            sources: vec![Source::Disk],
            coding: Some(Coding::Delta),
            resumed: Some(Resumed { chunks_here: 1, chunks: 1 }),
        }
    }

    #[test]
    fn what_is_told_reads_back() {
        assert_eq!(Movement::try_from(MovementV3::from(&movement())).unwrap(), movement());
        assert_eq!(Progress::try_from(ProgressV3::from(&progress())).unwrap(), progress());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refuses = |progress| Progress::try_from(ProgressV3::from(&progress)).is_err();
        for per_second in [-1.0, f64::NAN, f64::INFINITY] {
            assert!(refuses(Progress { per_second, ..progress() }), "{per_second}");
        }
        let stranger = Source::Peer { peer: PeerId([7; 32]), region: "../us east".into() };
        assert!(refuses(Progress { sources: vec![stranger], ..progress() }));
        let resumed = Some(Resumed { chunks_here: 2, chunks: 1 });
        assert!(refuses(Progress { resumed, ..progress() }));
        let mut twice = MovementV3::from(&movement());
        twice.codings.push((CodingV3::Zstd, MovedV3 { logical: 1, wire: 1 }));
        assert!(Movement::try_from(twice).is_err());
    }
}
