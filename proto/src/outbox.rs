//! The log of what is still to be copied to tiers: results, and blobs by themselves, are added and done, in
//! frames of one size.
//!
//! A frame that is torn or damaged is skipped and costs what it said, no more: at worst a result is
//! not copied, or copied twice.

use crate::codec::DecodeError;
use netbuild_core::{
    digest::Hash,
    key::ActionKey,
    outbox::{Goods, MAX_WAITING, Parcel},
};
use std::collections::BTreeMap;

/// What a log begins with; the last byte is the version.
pub const HEADER: [u8; 16] = *b"netbuild outbox\x01";
/// Bytes of a frame: what happened, the tier, the key, the size, and the first bytes of the hash of
/// all these.
pub const FRAME: usize = 1 + 8 + 32 + 8 + 4;
/// Most bytes of a log that is read: some times the results that may wait, for eight tiers.
pub const MAX_LOG: usize = HEADER.len() + 16 * MAX_WAITING * FRAME;

const ADDED: u8 = 1;
const DONE: u8 = 2;
/// The same with a blob instead of a result.
const BLOB_ADDED: u8 = 3;
const BLOB_DONE: u8 = 4;

/// A tier in a log: the first bytes of the hash of its name, as names may be long.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Lane(pub [u8; 8]);

impl Lane {
    /// That of the tier with this name.
    pub fn of(name: &str) -> Self {
        let mut lane = [0; 8];
        lane.copy_from_slice(&Hash::of(name.as_bytes()).0[..8]);
        Self(lane)
    }
}

/// The frame that says that something waits for a tier.
pub fn added(lane: Lane, parcel: Parcel) -> [u8; FRAME] {
    frame([ADDED, BLOB_ADDED], lane, parcel)
}

/// The frame that says that it does no more.
pub fn done(lane: Lane, parcel: Parcel) -> [u8; FRAME] {
    frame([DONE, BLOB_DONE], lane, parcel)
}

fn frame([result, blob]: [u8; 2], lane: Lane, parcel: Parcel) -> [u8; FRAME] {
    let (what, name) = match parcel.goods {
        Goods::Result(key) => (result, key.0),
        Goods::Blob(hash) => (blob, hash.0),
    };
    let mut frame = [0; FRAME];
    frame[0] = what;
    frame[1..9].copy_from_slice(&lane.0);
    frame[9..41].copy_from_slice(&name);
    frame[41..49].copy_from_slice(&parcel.bytes.to_le_bytes());
    let sum = Hash::of(&frame[..49]);
    frame[49..].copy_from_slice(&sum.0[..4]);
    frame
}

/// What waits when a log ends.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Waiting {
    /// Results, each once for each tier, in the order in which they came.
    pub parcels: Vec<(Lane, Parcel)>,
    /// Frames that were damaged.
    pub damaged: usize,
}

/// Reads a log.
///
/// # Errors
/// When it is none, or one of a newer version.
pub fn read(log: &[u8]) -> Result<Waiting, DecodeError> {
    let Some(frames) = log.strip_prefix(&HEADER) else {
        return Err(DecodeError::Invalid("not an outbox of this version".to_owned()));
    };
    let mut waiting = Waiting::default();
    let mut live: BTreeMap<(Lane, Goods), (i64, usize, u64)> = BTreeMap::new();
    for (at, frame) in frames.chunks(FRAME).enumerate() {
        let Some((is_added, lane, parcel)) = parse(frame) else {
            waiting.damaged += 1;
            continue;
        };
        let (count, first, bytes) =
            live.entry((lane, parcel.goods)).or_insert((0, at, parcel.bytes));
        if is_added {
            if *count <= 0 {
                (*count, *first) = (0, at);
            }
            (*count, *bytes) = (*count + 1, parcel.bytes);
        } else {
            *count -= 1;
        }
    }
    let mut parcels: Vec<_> = live.into_iter().filter(|(_, (count, ..))| *count > 0).collect();
    parcels.sort_by_key(|(_, (_, first, _))| *first);
    let parcel = |((lane, goods), (_, _, bytes))| (lane, Parcel { goods, bytes });
    waiting.parcels = parcels.into_iter().map(parcel).collect();
    Ok(waiting)
}

/// Whether something was added, else it is done; for which tier, and what.
fn parse(frame: &[u8]) -> Option<(bool, Lane, Parcel)> {
    let frame: &[u8; FRAME] = frame.try_into().ok()?;
    if Hash::of(&frame[..49]).0[..4] != frame[49..] {
        return None;
    }
    let (lane, name) = (frame[1..9].try_into().ok()?, frame[9..41].try_into().ok()?);
    let goods = match frame[0] {
        ADDED | DONE => Goods::Result(ActionKey(name)),
        BLOB_ADDED | BLOB_DONE => Goods::Blob(Hash(name)),
        _ => return None,
    };
    let bytes = u64::from_le_bytes(frame[41..49].try_into().ok()?);
    Some((matches!(frame[0], ADDED | BLOB_ADDED), Lane(lane), Parcel { goods, bytes }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parcel(number: u8) -> Parcel {
        Parcel::result(ActionKey([number; 32]), 1000 + u64::from(number))
    }

    fn log(frames: &[[u8; FRAME]]) -> Vec<u8> {
        HEADER.iter().copied().chain(frames.iter().flatten().copied()).collect()
    }

    #[test]
    fn the_format_is_this_one() {
        let log = log(&[added(Lane::of("s3://bucket"), parcel(1))]);
        assert_eq!(
            Hash::of(&log).to_string(),
            "4cca80f15f564b9ca7f62a28cf593d487ff2be5227af693433400a13f60ad4e6"
        );
    }

    #[test]
    fn what_was_added_and_not_done_waits_in_the_order_in_which_it_came() {
        let (a, b) = (Lane::of("a"), Lane::of("b"));
        let log = log(&[
            added(a, parcel(1)),
            added(b, parcel(1)),
            added(a, parcel(2)),
            done(a, parcel(1)),
            added(a, parcel(3)),
            // Again while it was on its way.
            added(a, parcel(2)),
            done(a, parcel(2)),
        ]);
        let waiting = read(&log).unwrap();
        assert_eq!(waiting.parcels, [(b, parcel(1)), (a, parcel(2)), (a, parcel(3))]);
        assert_eq!(read(&HEADER).unwrap(), Waiting::default());
        assert!(read(b"netbuild outbox\x02").is_err());
    }

    #[test]
    fn a_blob_and_a_result_of_one_name_are_two_things() {
        let lane = Lane::of("a");
        let blob = Parcel { goods: Goods::Blob(Hash([1; 32])), bytes: 5 };
        let mut frames = vec![added(lane, blob), added(lane, parcel(1)), added(lane, parcel(2))];
        frames.push(done(lane, parcel(1)));
        assert_eq!(read(&log(&frames)).unwrap().parcels, [(lane, blob), (lane, parcel(2))]);
        frames.push(done(lane, blob));
        assert_eq!(read(&log(&frames)).unwrap().parcels, [(lane, parcel(2))]);
    }

    #[test]
    fn a_damaged_frame_costs_what_it_said() {
        let lane = Lane::of("a");
        let mut log =
            log(&[added(lane, parcel(1)), added(lane, parcel(2)), added(lane, parcel(3))]);
        log[HEADER.len() + FRAME + 20] ^= 1;
        log.truncate(log.len() - 1);
        let waiting = read(&log).unwrap();
        assert_eq!((waiting.parcels, waiting.damaged), (vec![(lane, parcel(1))], 2));
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_read_within_bounds(
            bytes in prop::collection::vec(any::<u8>(), 0..400), headed: bool,
        ) {
            let log = if headed { [&HEADER[..], &bytes].concat() } else { bytes };
            if let Ok(waiting) = read(&log) {
                prop_assert!(waiting.parcels.len() + waiting.damaged <= log.len() / FRAME + 1);
            }
        }
    }
}
