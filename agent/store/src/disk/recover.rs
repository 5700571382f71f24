//! Opening the index, and making it again from the journal and the blob files when it is lost.

use super::{
    boot,
    engine::EngineError,
    entry::{BlobEntry, Place, RecordEntry},
    frame::{Frame, HEADER, Kind},
    index::Index,
    journal::{Location, Position, Segments, Tail},
    layout::{Layout, remove_file},
    open_error::OpenError,
    payload::{EvidenceHead, Gone, RecordHead, split_blob},
    quarantine::Quarantine,
    seal::{self, Verdict},
};
use crate::{StoreError, error::FileError};
use netbuild_core::{
    digest::Hash,
    merge::{Evidence, Rank, Variant},
};
use netbuild_proto::record::{SealedRecord, sum_of};
use std::{
    fs, io,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

/// An index that knows everything in the journal, and where the journal goes on.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) index: Index,
    pub(super) segments: Segments,
    pub(super) tail: Tail,
    pub(super) evidence: Evidence<Location>,
}

/// Opens the index and brings it up to date. When the system refuses to let it be written, it is made in
/// memory: what is here can then be read all the same.
pub(super) fn recover(layout: &Layout, quarantine: &Quarantine) -> Result<Recovered, OpenError> {
    let segments = Segments::new(layout.journal());
    boot::remove_unfinished(layout)?;
    let opened = match usable(layout, &segments) {
        Ok(Ok(index)) => Ok(index),
        Ok(Err(reason)) => replace(layout, quarantine, &reason),
        Err(error) => Err(error),
    };
    let filled = opened.and_then(|index| {
        boot::note(layout);
        fill(layout, &segments, index)
    });
    let (index, evidence, end) = match filled {
        Ok(filled) => filled,
        Err(error) => {
            tracing::warn!(error = %chain(&error), dir = %layout.index().display(),
                "index cannot be written; it is kept in memory until it can");
            fill(layout, &segments, Index::in_memory(layout))?
        }
    };
    if !index.is_in_memory() {
        remove_file(&layout.index_damaged())?;
    }
    let (tail, cut) = segments.tail(end)?;
    if cut > 0 {
        tracing::warn!(dir = %layout.journal().display(), bytes = cut, "torn end of the journal was cut");
    }
    if index.position() != Some(tail.position()) {
        index.put_position(tail.position()).map_err(|error| index_error(layout, &error))?;
    }
    Ok(Recovered { index, segments, tail, evidence })
}

/// Makes an index in memory of what is there, and changes nothing.
pub(super) fn recover_to_read(layout: &Layout) -> Result<Recovered, OpenError> {
    let segments = Segments::new(layout.journal());
    let (index, evidence, end) = fill(layout, &segments, Index::in_memory(layout))?;
    let tail = segments.tail_to_read(end)?;
    Ok(Recovered { index, segments, tail, evidence })
}

/// Adds to an index what it does not know of yet; says where the journal ends.
fn fill(
    layout: &Layout,
    segments: &Segments,
    index: Index,
) -> Result<(Index, Evidence<Location>, Position), OpenError> {
    let going = || ControlFlow::Continue(());
    let from = match index.position() {
        Some(position) => position,
        None => {
            add_files(layout, &index, &going)?;
            Position::default()
        }
    };
    let mut evidence = index.evidence();
    let added = add_journal(layout, segments, &index, &mut evidence, from, &going)?;
    Ok((index, evidence, added.unwrap_or(from)))
}

pub(super) fn chain(error: &OpenError) -> String {
    match error {
        OpenError::Io { path, source } => format!("`{}`: {source}", path.display()),
        other => other.to_string(),
    }
}

/// The index as it is, or why it cannot be used.
fn usable(layout: &Layout, segments: &Segments) -> Result<Result<Index, String>, OpenError> {
    let sealed = seal::check_and_remove(layout);
    let survived = boot::survived(layout);
    if fs::symlink_metadata(layout.index_damaged()).is_ok() {
        return Ok(Err("it was found damaged before".to_owned()));
    }
    if sealed == Verdict::Damaged {
        return Ok(Err("its files are not those that were closed".to_owned()));
    }
    if !survived {
        return Ok(Err("the machine went down while it was open".to_owned()));
    }
    let index = match Index::open(layout) {
        Ok(index) => index,
        Err(error) => return refused(layout, error).map(|error| Err(error.to_string())),
    };
    let list = segments.list()?;
    let fits = index
        .position()
        .is_none_or(|at| list.get(&at.segment).is_some_and(|len| *len >= at.offset));
    Ok(if fits && !index.is_damaged() {
        Ok(index)
    } else {
        Err("it does not fit the journal".to_owned())
    })
}

/// Puts the index aside and makes an empty one.
fn replace(layout: &Layout, quarantine: &Quarantine, reason: &str) -> Result<Index, OpenError> {
    match quarantine.take(&layout.index(), "index") {
        Ok(path) => {
            tracing::warn!(reason, old = %path.display(), "index is made again");
        }
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => {
            tracing::warn!(reason, "index is made again");
        }
        Err(error) => return Err(error.into()),
    }
    // An empty seal of the index that was put aside must not be taken for this one's.
    remove_file(&layout.index_seal())?;
    match Index::open(layout) {
        Ok(index) => Ok(index),
        Err(error) => Err(index_error(layout, &refused(layout, error)?)),
    }
}

/// Fails when the system refused; gives other errors back. A full disk must not cost a good index.
fn refused(layout: &Layout, error: EngineError) -> Result<EngineError, OpenError> {
    match error.refusal() {
        Ok(source) => Err(FileError::at(&layout.index())(source).into()),
        Err(other) => Ok(other),
    }
}

/// Notes every blob that has a file. What the files hold is checked when they are read. `None` when
/// `going` broke it off.
pub(super) fn add_files(
    layout: &Layout,
    index: &Index,
    going: &dyn Fn() -> ControlFlow<()>,
) -> Result<Option<()>, OpenError> {
    for dir in entries(&layout.blobs())? {
        if going().is_break() {
            return Ok(None);
        }
        if !dir.is_dir() {
            continue;
        }
        for path in entries(&dir)? {
            let hash = path
                .file_name()
                .and_then(|name| name.to_str()?.parse::<Hash>().ok())
                .filter(|hash| layout.blob(hash) == path);
            let meta = match fs::symlink_metadata(&path) {
                Ok(meta) => meta,
                // It was removed meanwhile, when the store is in use.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(FileError::at(&path)(error).into()),
            };
            if let Some(hash) = hash.filter(|_| meta.is_file()) {
                let entry = BlobEntry { size: meta.len(), place: Place::File };
                index.put_blob(&hash, &entry, None).map_err(|error| index_error(layout, &error))?;
            }
        }
    }
    Ok(Some(()))
}

pub(super) fn entries(dir: &Path) -> Result<Vec<PathBuf>, FileError> {
    let read = fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>());
    read.map_err(FileError::at(dir))
}

/// Notes everything in the journal from `from` on; says where the journal ends. `None` when `going`
/// broke it off.
pub(super) fn add_journal(
    layout: &Layout,
    segments: &Segments,
    index: &Index,
    evidence: &mut Evidence<Location>,
    from: Position,
    going: &dyn Fn() -> ControlFlow<()>,
) -> Result<Option<Position>, OpenError> {
    let mut noted = Ok(());
    let mut broken_off = false;
    let replayed = segments.replay(from, |location, frame| {
        broken_off = broken_off || going().is_break();
        if noted.is_ok() && !broken_off {
            noted = add_frame(index, evidence, location, frame);
        }
    })?;
    noted.map_err(|error| index_error(layout, &error))?;
    if replayed.damaged > 0 {
        tracing::warn!(dir = %layout.journal().display(), places = replayed.damaged,
            "damaged bytes in the journal were skipped");
    }
    Ok((!broken_off).then_some(replayed.end))
}

fn add_frame(
    index: &Index,
    evidence: &mut Evidence<Location>,
    location: Location,
    frame: Frame<'_>,
) -> Result<(), StoreError> {
    let end = Position {
        segment: location.segment,
        offset: location.offset + (HEADER + frame.payload.len()) as u64,
    };
    match frame.kind {
        Kind::Blob => {
            let Some((hash, bytes)) = split_blob(frame.payload) else {
                return Ok(());
            };
            let entry = BlobEntry { size: bytes.len() as u64, place: Place::Journal(location) };
            index.put_blob(&hash, &entry, Some(end))
        }
        Kind::Record => {
            let Some((head, bytes)) = RecordHead::split(frame.payload) else {
                return Ok(());
            };
            let Ok(sealed) = SealedRecord::reopen(bytes) else {
                return Ok(());
            };
            // The journal has records in the order in which they won, so the last one stays.
            let sum = sum_of(&Hash::of(bytes));
            let entry = RecordEntry { location, hlc: head.hlc, shared: head.shared, sum };
            index.put_record(sealed.record(), &entry, end)
        }
        Kind::Evidence => {
            let Some((head, bytes)) = EvidenceHead::split(frame.payload) else {
                return Ok(());
            };
            let Ok(lost) = SealedRecord::reopen(bytes) else {
                return Ok(());
            };
            let version = lost.version();
            let rank = Rank { level: head.level, hlc: version.hlc, hash: version.hash };
            let variant = Variant { rank, result: version.result, place: location };
            let key = lost.record().key;
            let forgotten = evidence.add(key, &head.kept, variant);
            for key in [Some(key), forgotten].iter().flatten() {
                index.put_evidence(key, evidence, end)?;
            }
            Ok(())
        }
        Kind::Gone => match Gone::decode(frame.payload) {
            Some(Gone::Blob(hash)) => index.remove_small(&hash, end),
            Some(Gone::Record(key)) => {
                evidence.forget(&key);
                // Its outputs stay as hints at what a patch may be made of, which nobody else has.
                index.remove_record(&key, None, end)
            }
            None => Ok(()),
        },
    }
}

fn index_error(layout: &Layout, reason: &dyn std::fmt::Display) -> OpenError {
    OpenError::Index { dir: layout.index(), reason: reason.to_string() }
}
