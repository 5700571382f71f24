//! What must stay although space is short: what running builds were told is here, and what somebody pinned.
//!
//! Promises are kept in memory, by who was told, until that one is gone; pins in the file `pins`.

use super::{
    inner::Inner,
    layout::{Layout, create_new, remove_file, sync_dir},
};
use crate::{StoreError, error::FileError, space::Pinned};
use netbuild_core::{digest::Hash, evict::Pin};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    io::{self, Read as _, Write as _},
    time::{Duration, Instant},
};

/// How long an owner may be silent: a build that takes longer between two questions is no build.
const SILENCE: Duration = Duration::from_secs(12 * 3600);
/// How long what nobody owns is promised at least: the time between an answer and its owner's claim to it.
const PASSING: Duration = Duration::from_secs(60);
/// Owners at most; then the one that was silent for longest is forgotten. An agent serves fewer connections.
const MAX_OWNERS: usize = 4096;
/// Blobs that are promised to one owner at most; more are not: no build restores so many at once.
const MAX_EACH: usize = 200_000;
/// Pins at most: each is chosen by a person.
pub(super) const MAX_PINS: usize = 10_000;
/// Characters of a label that are kept.
const MAX_LABEL: usize = 200;
/// Bytes of the file of pins at most, each with its label.
const MAX_FILE: u64 = 8 << 20;
/// Starts the file of pins.
const HEAD: &str = "netbuild pins 1\n";

/// Blobs that somebody was told are here.
#[derive(Debug, Default)]
pub(super) struct Promises {
    owners: HashMap<u64, (Instant, HashSet<Hash>)>,
    /// To nobody yet: those of this time, and those of the time before.
    passing: Option<(Instant, HashSet<Hash>, HashSet<Hash>)>,
}

impl Promises {
    /// Promises blobs to an owner, or, without one, for a little while.
    pub(super) fn add(
        &mut self,
        owner: Option<u64>,
        blobs: impl Iterator<Item = Hash>,
        now: Instant,
    ) {
        let Some(owner) = owner else {
            let (since, newer, older) =
                self.passing.get_or_insert_with(|| (now, HashSet::new(), HashSet::new()));
            if now.saturating_duration_since(*since) > PASSING {
                *older = std::mem::take(newer);
                *since = now;
            }
            newer.extend(blobs.take(MAX_EACH.saturating_sub(newer.len())));
            return;
        };
        if self.owners.len() >= MAX_OWNERS && !self.owners.contains_key(&owner) {
            let quiet = self.owners.iter().min_by_key(|(_, (since, _))| *since);
            if let Some(quiet) = quiet.map(|(owner, _)| *owner) {
                self.owners.remove(&quiet);
            }
        }
        let (since, held) = self.owners.entry(owner).or_insert_with(|| (now, HashSet::new()));
        *since = now;
        held.extend(blobs.take(MAX_EACH.saturating_sub(held.len())));
    }

    /// An owner is gone.
    pub(super) fn release(&mut self, owner: u64) {
        self.owners.remove(&owner);
    }

    /// Whether a blob is promised to anybody.
    pub(super) fn has(&self, blob: &Hash, now: Instant) -> bool {
        let passing = self
            .passing
            .iter()
            .filter(|(since, ..)| now.saturating_duration_since(*since) <= 2 * PASSING);
        let mut passing = passing.flat_map(|(_, newer, older)| [newer, older]);
        passing.any(|held| held.contains(blob))
            || self.owners.values().any(|(since, held)| {
                now.saturating_duration_since(*since) <= SILENCE && held.contains(blob)
            })
    }
}

/// What somebody pinned, with what they called it.
#[derive(Debug, Default)]
pub(super) struct Pins(pub(super) BTreeMap<Pin, String>);

impl Pins {
    /// Reads the file. A line that is none is left out, as the rest is not worth less for it.
    pub(super) fn load(layout: &Layout) -> Result<Self, FileError> {
        let path = layout.pins();
        let mut text = String::new();
        let read =
            fs::File::open(&path).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) if error.kind() != io::ErrorKind::InvalidData => {
                return Err(FileError::at(&path)(error));
            }
            _ => {}
        }
        let lines = text.strip_prefix(HEAD).unwrap_or_default().lines();
        let pins: BTreeMap<Pin, String> = lines
            .filter_map(|line| {
                let (pin, label) = line.split_once('\t')?;
                Some((pin.parse().ok()?, label.to_owned()))
            })
            .take(MAX_PINS)
            .collect();
        if pins.is_empty() && !text.is_empty() && text != HEAD {
            tracing::warn!(path = %path.display(), "the file of pins is damaged; nothing is pinned");
        }
        Ok(Self(pins))
    }

    /// Writes the file anew.
    pub(super) fn save(&self, layout: &Layout) -> Result<(), FileError> {
        let (path, new) = (layout.pins(), layout.pins().with_extension("new"));
        remove_file(&new)?;
        let mut text = HEAD.to_owned();
        for (pin, label) in &self.0 {
            text.extend([&pin.to_string(), "\t", label, "\n"]);
        }
        let mut file = create_new(&new)?;
        file.write_all(text.as_bytes()).map_err(FileError::at(&new))?;
        file.sync_all().map_err(FileError::at(&new))?;
        fs::rename(&new, &path).map_err(FileError::at(&path))?;
        sync_dir(layout.root())
    }

    /// All of them.
    pub(super) fn list(&self) -> Vec<Pinned> {
        let each = self.0.iter();
        each.map(|(pin, label)| Pinned { pin: *pin, label: label.clone() }).collect()
    }
}

impl Inner {
    /// Pins something, or gives what is pinned another label; says whether it is new.
    pub(super) fn pin(&self, pin: Pin, label: &str) -> Result<bool, StoreError> {
        let label: String = label.chars().filter(|c| !c.is_control()).take(MAX_LABEL).collect();
        let is_new = self.change_pins(|pins| {
            if pins.len() >= MAX_PINS && !pins.contains_key(&pin) {
                return Err(StoreError::TooManyPins { limit: MAX_PINS });
            }
            Ok(pins.insert(pin, label).is_none())
        })?;
        // It could be among what goes next.
        self.outgoing().forget();
        Ok(is_new)
    }

    /// Lets go of what was pinned; says whether it was.
    pub(super) fn unpin(&self, pin: &Pin) -> Result<bool, StoreError> {
        self.change_pins(|pins| Ok(pins.remove(pin).is_some()))
    }

    fn change_pins(
        &self,
        change: impl FnOnce(&mut BTreeMap<Pin, String>) -> Result<bool, StoreError>,
    ) -> Result<bool, StoreError> {
        let mut pins = self.pins();
        let mut changed = Pins(pins.0.clone());
        let answer = change(&mut changed.0)?;
        changed.save(&self.layout)?;
        *pins = changed;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::{digest::Digest, key::ActionKey};

    fn hash(n: u8) -> Hash {
        Hash([n; 32])
    }

    #[test]
    fn a_promise_lasts_until_its_owner_is_gone_or_silent_for_long() {
        let (mut promises, start) = (Promises::default(), Instant::now());
        promises.add(Some(1), [hash(1)].into_iter(), start);
        promises.add(Some(2), [hash(1), hash(2)].into_iter(), start);
        promises.release(1);
        assert!(promises.has(&hash(1), start) && promises.has(&hash(2), start));
        let later = start + SILENCE;
        promises.add(Some(2), [].into_iter(), later);
        assert!(promises.has(&hash(2), later + SILENCE));
        assert!(!promises.has(&hash(2), later + SILENCE + Duration::from_secs(1)));
        promises.release(2);
        assert!(!promises.has(&hash(1), start));
    }

    #[test]
    fn what_nobody_owns_is_promised_for_a_while() {
        let (mut promises, mut now) = (Promises::default(), Instant::now());
        promises.add(None, [hash(1)].into_iter(), now);
        now += PASSING - Duration::from_secs(1);
        promises.add(None, [hash(2)].into_iter(), now);
        now += Duration::from_secs(2);
        promises.add(None, [hash(3)].into_iter(), now);
        assert!([1, 2, 3].iter().all(|n| promises.has(&hash(*n), now)));
        now += PASSING + Duration::from_secs(1);
        promises.add(None, [hash(4)].into_iter(), now);
        assert_eq!([1, 2, 3, 4].map(|n| promises.has(&hash(n), now)), [false, false, true, true]);
        assert!(!promises.has(&hash(4), now + 3 * PASSING));
    }

    #[test]
    fn promises_are_bounded() {
        let (mut promises, now) = (Promises::default(), Instant::now());
        for owner in 0..=MAX_OWNERS as u64 {
            promises.add(Some(owner), [hash(1)].into_iter(), now + Duration::from_secs(owner));
        }
        assert_eq!(promises.owners.len(), MAX_OWNERS);
        assert!(!promises.owners.contains_key(&0));
        let many = (0..=MAX_EACH as u64).map(|n| Hash::of(&n.to_le_bytes()));
        promises.add(Some(7), many, now);
        assert_eq!(promises.owners[&7].1.len(), MAX_EACH);
    }

    #[test]
    fn pins_are_read_as_they_were_written_and_damage_costs_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        assert!(Pins::load(&layout).unwrap().0.is_empty());
        let pins = Pins(BTreeMap::from([
            (Pin::Blob(Digest::of(b"x")), "a file".to_owned()),
            (Pin::Action(ActionKey([7; 32])), String::new()),
        ]));
        pins.save(&layout).unwrap();
        pins.save(&layout).unwrap();
        assert_eq!(Pins::load(&layout).unwrap().0, pins.0);
        let text = fs::read_to_string(layout.pins()).unwrap();
        fs::write(layout.pins(), text.replacen("blob ", "blub ", 1)).unwrap();
        assert_eq!(Pins::load(&layout).unwrap().0.len(), 1);
        fs::write(layout.pins(), b"\xff\xfe").unwrap();
        assert!(Pins::load(&layout).unwrap().0.is_empty());
    }
}
