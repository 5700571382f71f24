//! Which tiers are known to hold which results: `held` in the data directory. When space is short, it
//! decides what goes first; losing it costs that, until tiers tell again what comes into them.

use netbuild_core::{digest::Hash, key::ActionKey, tiers::TierId};
use netbuild_proto::outbox::Lane;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Most results of which it is remembered in which tiers they are: 20 MB in memory, 9 MB on disk.
const MAX_KNOWN: usize = 1_000_000;
/// Most tiers that a file tells of: a chain has as many.
const MAX_LANES: usize = netbuild_core::backend::MAX_TIERS;
/// What the file begins with; the last byte is the version.
const HEADER: [u8; 16] = *b"netbuild held  \x01";
/// Bytes of a result in the file: its name, and the tiers.
const ENTRY: usize = 9;
/// Most bytes of the file.
const MAX_FILE: u64 = (HEADER.len() + 1 + 8 * MAX_LANES + ENTRY * MAX_KNOWN + 32) as u64;
/// How often it is written while the process lives: a kill costs what came since.
const KEEP: Duration = Duration::from_secs(600);

/// Which tiers hold which results, as far as is known.
#[derive(Debug)]
pub(super) struct Known {
    /// `None` when there are no tiers.
    path: Option<PathBuf>,
    lanes: Vec<Lane>,
    /// The tiers as bits, by the first bytes of the action key: two that have them in common cost a wrong
    /// guess.
    held: BTreeMap<u64, u8>,
    /// Since when there is something that the file does not say.
    changed: Option<Instant>,
}

impl Known {
    /// Nothing, and nothing will be kept.
    pub(super) fn none() -> Self {
        Self { path: None, lanes: Vec::new(), held: BTreeMap::new(), changed: None }
    }

    /// What a data directory says of these tiers.
    pub(super) fn load(data_dir: &Path, lanes: Vec<Lane>) -> Self {
        let path = data_dir.join("held");
        let held = match read(&path) {
            Ok(bytes) => decode(&bytes, &lanes).unwrap_or_else(|| {
                tracing::info!(path = %path.display(), "not understood, and left out");
                BTreeMap::new()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                tracing::info!(path = %path.display(), %error, "cannot be read");
                BTreeMap::new()
            }
        };
        Self { path: Some(path), lanes, held, changed: None }
    }

    /// The tiers that hold a result, as bits.
    pub(super) fn tiers(&self, key: &ActionKey) -> u8 {
        self.held.get(&name(key)).copied().unwrap_or(0)
    }

    /// A tier holds a result, or does not.
    pub(super) fn note(&mut self, key: &ActionKey, tier: TierId, holds: bool) {
        let before = self.tiers(key);
        let bit = 1_u8.checked_shl(tier.0.into()).unwrap_or(0);
        let after = if holds { before | bit } else { before & !bit };
        if before == after {
            return;
        }
        if after == 0 {
            self.held.remove(&name(key));
        } else {
            if self.held.len() >= MAX_KNOWN && before == 0 {
                self.held.pop_first();
            }
            self.held.insert(name(key), after);
        }
        self.changed.get_or_insert_with(Instant::now);
    }

    /// What is to be written, and where, if that is due; with `all` whenever something changed.
    pub(super) fn due(&mut self, all: bool) -> Option<(PathBuf, Vec<u8>)> {
        let since = self.changed?;
        let path = self.path.clone()?;
        if !all && since.elapsed() < KEEP {
            return None;
        }
        self.changed = None;
        Some((path, self.encode()))
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = HEADER.to_vec();
        bytes.push(self.lanes.len() as u8);
        bytes.extend(self.lanes.iter().flat_map(|lane| lane.0));
        for (name, tiers) in &self.held {
            bytes.extend_from_slice(&name.to_be_bytes());
            bytes.push(*tiers);
        }
        let sum = Hash::of(&bytes);
        bytes.extend_from_slice(&sum.0);
        bytes
    }
}

fn name(key: &ActionKey) -> u64 {
    let mut name = [0; 8];
    name.copy_from_slice(&key.0[..8]);
    u64::from_be_bytes(name)
}

/// Writes the file whole or not at all.
pub(super) fn write((path, bytes): (PathBuf, Vec<u8>)) {
    let new = path.with_extension("new");
    if let Err(error) = fs::write(&new, bytes).and_then(|()| fs::rename(&new, &path)) {
        tracing::info!(path = %path.display(), %error, "cannot be written");
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What the file says of `lanes`; what it says of others is left out. `None` when it is damaged, or one
/// of another version.
fn decode(bytes: &[u8], lanes: &[Lane]) -> Option<BTreeMap<u64, u8>> {
    let (bytes, sum) = bytes.split_last_chunk::<32>()?;
    let rest = bytes.strip_prefix(&HEADER)?;
    if Hash::of(bytes).0 != *sum || bytes.len() as u64 + 32 > MAX_FILE {
        return None;
    }
    let (count, rest) = rest.split_first()?;
    let (told, entries) = rest.split_at_checked(8 * usize::from(*count))?;
    let told = told.chunks_exact(8).map(|lane| lanes.iter().position(|known| known.0 == *lane));
    let told: Vec<Option<usize>> = told.collect();
    let entry = |entry: &[u8]| {
        let name = u64::from_be_bytes(entry[..8].try_into().ok()?);
        let held = told.iter().enumerate().filter(|(at, _)| entry[8] & (1_u8 << (at % 8)) != 0);
        let tiers =
            held.filter_map(|(_, here)| *here).fold(0_u8, |tiers, at| tiers | 1 << (at % 8));
        (tiers != 0).then_some((name, tiers))
    };
    Some(entries.chunks_exact(ENTRY).filter_map(entry).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> ActionKey {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        ActionKey(key)
    }

    #[test]
    fn what_is_known_outlives_the_process_and_follows_the_tiers() {
        let dir = tempfile::tempdir().unwrap();
        let lane = |name: &str| Lane::of(name);
        let mut known = Known::load(dir.path(), vec![lane("a"), lane("b")]);
        assert_eq!(known.due(true), None);
        known.note(&key(1), TierId(0), true);
        known.note(&key(2), TierId(0), true);
        known.note(&key(2), TierId(1), true);
        known.note(&key(3), TierId(1), true);
        known.note(&key(3), TierId(1), false);
        assert_eq!(known.due(false), None, "not so soon");
        write(known.due(true).unwrap());
        // The chain is another one: `b` is the first, `a` is there no more.
        let known = Known::load(dir.path(), vec![lane("b"), lane("c")]);
        assert_eq!([1, 2, 3].map(|number| known.tiers(&key(number))), [0, 1, 0]);
    }

    #[test]
    fn a_damaged_file_is_left_out_and_memory_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut known = Known::load(dir.path(), vec![Lane::of("a")]);
        known.note(&key(1), TierId(0), true);
        let (path, bytes) = known.due(true).unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(decode(&damaged, &known.lanes), None, "byte {at}");
            assert_eq!(decode(&bytes[..at], &known.lanes), None, "{at} bytes");
        }
        write((path, bytes));
        assert_eq!(Known::load(dir.path(), vec![Lane::of("a")]).tiers(&key(1)), 1);
        for number in 0..MAX_KNOWN as u64 + 10 {
            known.note(&key(number), TierId(0), true);
        }
        assert_eq!(known.held.len(), MAX_KNOWN);
    }
}
