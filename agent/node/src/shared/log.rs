//! What outlives the process: the log of what waits for tiers, and how far each was followed.

use crate::chain::chain;
use netbuild_core::outbox::Parcel;
use netbuild_proto::outbox::{self, FRAME, HEADER, Lane, MAX_LOG};
use netbuild_store::{ChangeCursor, MAX_CURSOR};
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// Frames of a log from which on it is written anew, if most of them are history.
const LONG: u64 = 4096;
/// Most bytes of the file of cursors: eight tiers, and some that are configured no more.
const MAX_CURSORS: u64 = 64 * (MAX_CURSOR as u64 + 32);
/// Most tiers of which it is remembered how far they were followed.
const MAX_FOLLOWED: usize = 32;

/// The log of what waits: `outbox` in the data directory. It is written before a result is
/// acknowledged, and made durable together with the results.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    /// `None` when it cannot be written, which was said, or when there are no tiers.
    file: Option<File>,
    frames: u64,
}

impl Log {
    /// No log: there is nothing that results could wait for.
    pub(super) fn none() -> Self {
        Self { path: PathBuf::new(), file: None, frames: 0 }
    }

    /// Opens the log of a data directory, and says what waits.
    pub(super) fn open(data_dir: &Path) -> (Self, Vec<(Lane, Parcel)>) {
        let path = data_dir.join("outbox");
        let waiting = match read(&path) {
            Ok(waiting) => waiting,
            Err(error) => {
                // Put aside, as it may be one of a newer version.
                tracing::warn!(path = %path.display(), error, "what waited for tiers is not known");
                let aside = fs::rename(&path, path.with_extension("unreadable"));
                if let Err(error) = aside.or_else(missing_is_fine) {
                    tracing::warn!(path = %path.display(), %error, "cannot put it aside");
                }
                outbox::Waiting::default()
            }
        };
        if waiting.damaged > 0 {
            let (path, frames) = (path.display(), waiting.damaged);
            tracing::warn!(%path, frames, "damaged: some results may not be copied to tiers");
        }
        let mut log = Self { path, file: None, frames: 0 };
        log.rewrite(&waiting.parcels);
        (log, waiting.parcels)
    }

    /// Writes the log anew with nothing but what waits.
    fn rewrite(&mut self, waiting: &[(Lane, Parcel)]) {
        let written = || {
            let new = self.path.with_extension("new");
            let mut bytes = HEADER.to_vec();
            for (lane, parcel) in waiting {
                bytes.extend_from_slice(&outbox::added(*lane, *parcel));
            }
            let mut file = File::create(&new)?;
            file.write_all(&bytes)?;
            file.sync_data()?;
            fs::rename(&new, &self.path)?;
            OpenOptions::new().append(true).open(&self.path)
        };
        match written() {
            Ok(file) => (self.file, self.frames) = (Some(file), waiting.len() as u64),
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&mut self, error: &io::Error) {
        let path = self.path.display();
        tracing::warn!(%path, %error, "what waits for tiers is forgotten when this process ends");
        self.file = None;
    }

    /// Results wait for a tier.
    pub(super) fn added(&mut self, lanes: impl IntoIterator<Item = Lane>, parcel: Parcel) {
        self.write(lanes.into_iter().map(|lane| outbox::added(lane, parcel)));
    }

    /// Results do not wait any more. `waiting` says what does, in case the log is written anew.
    pub(super) fn done(
        &mut self,
        lane: Lane,
        parcels: &[Parcel],
        waiting: impl FnOnce() -> Vec<(Lane, Parcel)>,
    ) {
        self.write(parcels.iter().map(|parcel| outbox::done(lane, *parcel)));
        if self.file.is_some() && self.frames >= LONG {
            let waiting = waiting();
            if waiting.len() as u64 * 4 <= self.frames {
                self.rewrite(&waiting);
            }
        }
    }

    fn write(&mut self, frames: impl Iterator<Item = [u8; FRAME]>) {
        let frames: Vec<[u8; FRAME]> = frames.collect();
        let Some(file) = self.file.as_mut().filter(|_| !frames.is_empty()) else { return };
        // In one piece, so that a kill leaves whole frames.
        match file.write_all(frames.as_flattened()) {
            Ok(()) => self.frames += frames.len() as u64,
            Err(error) => self.failed(&error),
        }
    }

    /// Returns once all that was written survives the loss of power.
    pub(super) fn sync(&mut self) {
        if let Some(Err(error)) = self.file.as_ref().map(File::sync_data) {
            self.failed(&error);
        }
    }
}

fn missing_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn read(path: &Path) -> Result<outbox::Waiting, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(outbox::Waiting::default());
        }
        Err(error) => return Err(chain(&error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_LOG as u64).read_to_end(&mut bytes).map_err(|error| chain(&error))?;
    outbox::read(&bytes).map_err(|error| chain(&error))
}

/// How far each tier was followed: `cursors` in the data directory, a line `LANE CURSOR` for each.
/// Losing it costs reading all records of a tier again.
#[derive(Debug)]
pub(super) struct Cursors {
    path: Option<PathBuf>,
    known: BTreeMap<Lane, ChangeCursor>,
}

impl Cursors {
    /// None, and none will be kept.
    pub(super) fn none() -> Self {
        Self { path: None, known: BTreeMap::new() }
    }

    /// Those of a data directory.
    pub(super) fn load(data_dir: &Path) -> Self {
        let path = data_dir.join("cursors");
        let small = fs::metadata(&path).is_ok_and(|meta| meta.len() <= MAX_CURSORS);
        let text =
            if small { fs::read_to_string(&path).unwrap_or_default() } else { String::new() };
        let known = text.lines().filter_map(parse).take(MAX_FOLLOWED).collect();
        Self { path: Some(path), known }
    }

    /// How far a tier was followed.
    pub(super) fn get(&self, lane: Lane) -> ChangeCursor {
        self.known.get(&lane).cloned().unwrap_or_default()
    }

    /// It was followed so far, and what came is durable. Written whole or not at all.
    pub(super) fn set(&mut self, lane: Lane, cursor: ChangeCursor) {
        let plain = !cursor.0.chars().any(char::is_control) && cursor.0.len() <= MAX_CURSOR;
        if !plain || self.known.get(&lane) == Some(&cursor) {
            return;
        }
        self.known.insert(lane, cursor);
        let Some(path) = &self.path else { return };
        let mut text = String::new();
        for (lane, cursor) in &self.known {
            text += &format!("{:016x} {}\n", u64::from_be_bytes(lane.0), cursor.0);
        }
        let new = path.with_extension("new");
        if let Err(error) = fs::write(&new, text).and_then(|()| fs::rename(&new, path)) {
            tracing::warn!(path = %path.display(), %error, "tiers will be read from their beginning");
        }
    }
}

fn parse(line: &str) -> Option<(Lane, ChangeCursor)> {
    let (lane, cursor) = line.split_once(' ')?;
    let lane = u64::from_str_radix(lane, 16).ok()?.to_be_bytes();
    (cursor.len() <= MAX_CURSOR).then(|| (Lane(lane), ChangeCursor(cursor.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::key::ActionKey;

    fn parcel(number: u8) -> Parcel {
        Parcel::result(ActionKey([number; 32]), 1)
    }

    #[test]
    fn what_waits_is_found_again_whatever_was_torn() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (Lane::of("a"), Lane::of("b"));
        let (mut log, waiting) = Log::open(dir.path());
        assert_eq!(waiting, []);
        log.added([a, b], parcel(1));
        log.added([a], parcel(2));
        log.done(a, &[parcel(1)], Vec::new);
        drop(log);
        let path = dir.path().join("outbox");
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend_from_slice(&outbox::added(a, parcel(3))[..20]);
        fs::write(&path, bytes).unwrap();
        for _ in 0..2 {
            let (_, waiting) = Log::open(dir.path());
            assert_eq!(waiting, [(b, parcel(1)), (a, parcel(2))]);
        }
    }

    #[test]
    fn a_log_that_is_none_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("outbox"), "netbuild outbox\x02").unwrap();
        let (mut log, waiting) = Log::open(dir.path());
        assert_eq!(waiting, []);
        log.added([Lane::of("a")], parcel(1));
        assert!(dir.path().join("outbox.unreadable").exists());
        assert_eq!(Log::open(dir.path()).1.len(), 1);
    }

    #[test]
    fn a_long_log_of_history_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let lane = Lane::of("a");
        let (mut log, _) = Log::open(dir.path());
        for _ in 0..LONG {
            log.added([lane], parcel(1));
            log.done(lane, &[parcel(1)], || vec![(lane, parcel(2))]);
        }
        let len = fs::metadata(dir.path().join("outbox")).unwrap().len();
        assert!(len < LONG * FRAME as u64 + 100, "{len}");
        log.added([lane], parcel(3));
        drop(log);
        let (_, waiting) = Log::open(dir.path());
        assert_eq!(waiting, [(lane, parcel(2)), (lane, parcel(3))]);
    }

    #[test]
    fn cursors_come_back_and_nonsense_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut cursors = Cursors::load(dir.path());
        let lane = Lane::of("s3://bucket");
        assert_eq!(cursors.get(lane), ChangeCursor::default());
        cursors.set(lane, ChangeCursor("7-1 x".into()));
        cursors.set(Lane::of("b"), ChangeCursor("a\nb".into()));
        assert_eq!(Cursors::load(dir.path()).get(lane), ChangeCursor("7-1 x".into()));
        assert_eq!(Cursors::load(dir.path()).get(Lane::of("b")), ChangeCursor::default());
        fs::write(dir.path().join("cursors"), "\nx y\n12\n").unwrap();
        assert_eq!(Cursors::load(dir.path()).get(lane), ChangeCursor::default());
    }
}
