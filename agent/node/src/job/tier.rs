//! What a tier gives to a job: small blobs in batches, chunks of large ones by range beside the peers,
//! and, where nobody tells the chunks of a blob, the whole of it in ranges that follow one another.

use super::{Job, Place, State};
use crate::{
    attempts::{Told, Trial},
    disk_cache::failed,
    fault::SourceError,
    shared::Tier,
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use netbuild_core::{
    cache::{CacheError, Source},
    digest::{Digest, Hash},
    moved::{Coding, Moved},
    plan::Who,
    spread::SourceId,
};
use netbuild_store::{MAX_SMALL, StoreError, TierError};
use std::{
    collections::BTreeSet,
    io::{self, Read},
    ops::Range,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::mpsc::{self, Receiver},
    task::spawn_blocking,
    time::timeout,
};

/// Bytes of one request where a blob comes whole: on a fast link, the time of one round trip.
const RANGE: u64 = 8 << 20;
/// Such requests at once: they are in memory until those before have come.
const RANGES: usize = 4;
/// How often a range that breaks off is taken up again without a byte in between.
const TRIES: u32 = 2;
/// Bytes of small blobs in one request.
const BATCH: u64 = 4 << 20;
/// Pieces of a blob on their way to the disk.
const PIECES: usize = 8;
/// Bytes per second that every tier is granted, whatever is believed of it.
const LEAST_RATE: f64 = 100e3;

/// The outcome of a part of an attempt.
type Part<T> = Result<Result<T, SourceError>, CacheError>;

/// An item that a tier is asked for: its place in the spread, the blob, and which bytes of it.
struct Asked {
    item: usize,
    blob: Digest,
    range: Range<u64>,
    hash: Hash,
}

impl Job<'_> {
    pub(super) async fn attempt_tier(&self, trial: &Trial, tier: &Tier) -> Part<Told<()>> {
        let joined = self.join(Who::Tier(tier.id), trial);
        let id = joined.id;
        // Blobs that it was asked for as a whole.
        let mut asked = BTreeSet::new();
        loop {
            let mut changed = pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            self.give_up();
            let run = self.spread.borrow_mut().poll(id, Instant::now());
            if !run.is_empty() {
                let came = self.take_run(id, trial, tier, run).await;
                self.spread.borrow_mut().handle_given_up(id);
                if let Err(error) = came? {
                    return Ok(Err(error));
                }
                continue;
            }
            if self.missing().is_empty() {
                return Ok(Ok(Told::Got(())));
            }
            // A peer that is at it tells the chunks, and then they are shared out.
            let mut unknown = self.unknown();
            unknown.retain(|(index, _)| !asked.contains(index));
            let alone = self.sources.borrow().len() == 1;
            match unknown.first() {
                Some((index, blob)) if alone => {
                    asked.insert(*index);
                    if let Err(error) = self.whole(*index, *blob, trial, tier).await? {
                        return Ok(Err(error));
                    }
                    continue;
                }
                None if self.spread.borrow().is_exhausted(id) => return Ok(Ok(Told::Missing)),
                Some(_) | None => {}
            }
            trial.rests();
            // Whether something changed or not, it is looked again.
            let _ = timeout(super::LOOK, changed).await;
        }
    }

    /// Which bytes of which blob an item is.
    fn asked(&self, item: usize) -> Option<Asked> {
        let items = self.items.borrow();
        let (chunk, Place { blob, at }) = (items[item].chunk, *items[item].places.first()?);
        let wanted = &self.blobs.borrow()[blob];
        let start = match &wanted.state {
            State::Open(open) => *open.starts.get(at)?,
            State::Small(_) | State::Unknown | State::Done | State::GivenUp | State::Impossible => {
                0
            }
        };
        let range = start..start + u64::from(chunk.len);
        Some(Asked { item, blob: wanted.blob, range, hash: chunk.hash })
    }

    /// Takes what the spread says that this source is to give.
    async fn take_run(
        &self,
        id: SourceId,
        trial: &Trial,
        tier: &Tier,
        run: Vec<usize>,
    ) -> Part<()> {
        let asked = run.into_iter().filter_map(|item| self.asked(item));
        let is_small =
            |asked: &Asked| asked.blob.size <= MAX_SMALL && asked.range == (0..asked.blob.size);
        let (small, ranges): (Vec<Asked>, Vec<Asked>) = asked.partition(is_small);
        let mut left = small.as_slice();
        while !left.is_empty() {
            let mut bytes = 0;
            let fits = |asked: &&Asked| {
                bytes += asked.blob.size;
                bytes <= BATCH
            };
            let (batch, rest) = left.split_at(left.iter().take_while(fits).count().max(1));
            left = rest;
            if let Err(error) = self.take_small(id, trial, tier, batch).await? {
                return Ok(Err(error));
            }
        }
        for together in joined(&ranges) {
            if let Err(error) = self.take_range(id, trial, tier, together).await? {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    async fn take_small(
        &self,
        id: SourceId,
        trial: &Trial,
        tier: &Tier,
        batch: &[Asked],
    ) -> Part<()> {
        let blobs: Vec<Digest> = batch.iter().map(|asked| asked.blob).collect();
        let bytes = blobs.iter().map(|blob| blob.size).sum();
        let began = Instant::now();
        let answer = match limited(trial, tier, bytes, tier.backend.small(&blobs)).await {
            Ok(answer) => answer,
            Err(error) => return Ok(Err(error)),
        };
        let came = answer.iter().flatten().map(|bytes| bytes.len() as u64).sum();
        tier.measured(came, began.elapsed());
        for (asked, bytes) in batch.iter().zip(answer) {
            if let Err(error) = self.take_item(id, trial, tier, asked, bytes)? {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    /// Takes chunks of one blob that follow one another.
    async fn take_range(
        &self,
        id: SourceId,
        trial: &Trial,
        tier: &Tier,
        together: &[Asked],
    ) -> Part<()> {
        let (Some(first), Some(last)) = (together.first(), together.last()) else {
            return Ok(Ok(()));
        };
        let range = first.range.start..last.range.end;
        let bytes = match part(trial, tier, first.blob, range).await {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Err(error)),
        };
        for asked in together {
            let at = |place: u64| (place - first.range.start) as usize;
            let bytes =
                bytes.as_ref().map(|all| all.slice(at(asked.range.start)..at(asked.range.end)));
            if let Err(error) = self.take_item(id, trial, tier, asked, bytes)? {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    fn take_item(
        &self,
        id: SourceId,
        trial: &Trial,
        tier: &Tier,
        asked: &Asked,
        bytes: Option<Bytes>,
    ) -> Part<()> {
        let Some(bytes) = bytes else {
            self.spread.borrow_mut().handle_absent(id, asked.item, Instant::now());
            self.changed.notify_waiters();
            return Ok(Ok(()));
        };
        if Hash::of(&bytes) != asked.hash {
            return Ok(Err(wrong(tier, asked.blob)));
        }
        let place = self.items.borrow()[asked.item].places.first().copied();
        self.count(trial, tier, place.map(|place| place.blob), bytes.len() as u64);
        let kept = self.keep(id, asked.item, &bytes)?;
        self.changed.notify_waiters();
        Ok(kept.map_err(Into::into))
    }

    fn count(&self, trial: &Trial, tier: &Tier, blob: Option<usize>, bytes: u64) {
        let from = Source::Tier(tier.name.clone());
        trial.count(bytes);
        if let Some(blob) = blob {
            self.charge(blob, &from, bytes);
        }
        let moved = Moved { logical: bytes, wire: bytes };
        self.movement.borrow_mut().add(&from, Coding::Identity, moved);
        self.tell(&from, Coding::Identity);
    }

    /// Takes a blob as a whole: nobody tells its chunks.
    async fn whole(&self, index: usize, blob: Digest, trial: &Trial, tier: &Tier) -> Part<()> {
        let (pieces, rest) = mpsc::channel(PIECES);
        let store = Arc::clone(self.store);
        let writing =
            spawn_blocking(move || store.put_blob(&blob, &mut Pieces { rest, now: Bytes::new() }));
        let ranges = (0..blob.size).step_by(RANGE as usize);
        let ranges = ranges.map(|start| start..blob.size.min(start + RANGE));
        let parts = futures::stream::iter(ranges)
            .map(|range| part(trial, tier, blob, range))
            .buffered(RANGES);
        let mut parts = pin!(parts);
        let mut given = Ok(true);
        while let Some(part) = parts.next().await {
            match part {
                Ok(Some(bytes)) => {
                    self.count(trial, tier, Some(index), bytes.len() as u64);
                    // The writer ends before the last piece only when it failed, which it says.
                    if pieces.send(bytes).await.is_err() {
                        break;
                    }
                }
                Ok(None) => given = Ok(false),
                Err(error) => given = Err(error),
            }
            if !matches!(given, Ok(true)) {
                break;
            }
        }
        drop(pieces);
        let written = writing.await.map_err(|error| CacheError::Failed(error.to_string()))?;
        match (given, written) {
            (Err(error), _) => Ok(Err(error)),
            (Ok(false), _) => Ok(Ok(())),
            (Ok(true), Ok(())) => {
                self.landed(index);
                self.changed.notify_waiters();
                Ok(Ok(()))
            }
            (Ok(true), Err(StoreError::Mismatch(_))) => Ok(Err(wrong(tier, blob))),
            (Ok(true), Err(error)) => Err(failed(error)),
        }
    }
}

fn wrong(tier: &Tier, blob: Digest) -> SourceError {
    SourceError::Wrong { tier: tier.id, name: tier.name.to_string(), blob }
}

fn silent(tier: &Tier) -> SourceError {
    SourceError::Silent { tier: tier.id, name: tier.name.to_string() }
}

/// Those that follow one another in the same blob, together, at most [`RANGE`] bytes if several.
fn joined(asked: &[Asked]) -> impl Iterator<Item = &[Asked]> {
    let mut bytes = 0;
    asked.chunk_by(move |one, next| {
        bytes += one.range.end - one.range.start;
        let follows = one.blob == next.blob && one.range.end == next.range.start;
        let fits = follows && bytes < RANGE;
        if !fits {
            bytes = 0;
        }
        fits
    })
}

/// How long a tier may take for so many bytes.
fn limit(trial: &Trial, bytes: u64) -> Duration {
    let rate = trial.goodput.unwrap_or(LEAST_RATE).max(LEAST_RATE);
    trial.silence().first + Duration::from_secs_f64(3.0 * bytes as f64 / rate)
}

async fn limited<T>(
    trial: &Trial,
    tier: &Tier,
    bytes: u64,
    answer: netbuild_store::Answer<'_, T>,
) -> Result<T, SourceError> {
    trial.alive(bytes);
    let answer = timeout(limit(trial, bytes), answer).await;
    trial.alive(0);
    answer.map_err(|_| silent(tier))?.map_err(|error| failure(tier, error))
}

fn failure(tier: &Tier, error: TierError) -> SourceError {
    SourceError::Tier(tier.id, error)
}

/// A range of a blob. Where it breaks off it goes on; `None` when the tier lacks the blob.
async fn part(
    trial: &Trial,
    tier: &Tier,
    blob: Digest,
    range: Range<u64>,
) -> Result<Option<Bytes>, SourceError> {
    let mut bytes = BytesMut::with_capacity((range.end - range.start) as usize);
    let (mut tries, began) = (0, Instant::now());
    loop {
        let before = bytes.len();
        let from = range.start + before as u64;
        if from >= range.end {
            tier.measured(bytes.len() as u64, began.elapsed());
            return Ok(Some(bytes.freeze()));
        }
        let reading = async {
            let reading = tier.backend.read(&blob, from..range.end);
            let Some(mut stream) = limited(trial, tier, 0, reading).await? else {
                return Ok(false);
            };
            while let Some(piece) =
                timeout(trial.silence().between, stream.next()).await.map_err(|_| silent(tier))?
            {
                let piece = piece.map_err(|error| failure(tier, error))?;
                let room = (range.end - range.start) as usize - bytes.len();
                if piece.len() > room {
                    // More than was asked for cannot be right.
                    return Err(wrong(tier, blob));
                }
                bytes.extend_from_slice(&piece);
                trial.alive(0);
            }
            Ok(true)
        };
        match reading.await {
            Ok(true) if bytes.len() > before => tries = 0,
            Ok(false) => return Ok(None),
            Err(error @ SourceError::Wrong { .. }) => return Err(error),
            Err(error) if bytes.len() == before && tries >= TRIES => return Err(error),
            Ok(true) | Err(_) => {
                tries += 1;
                if tries > TRIES && bytes.len() == before {
                    return Err(silent(tier));
                }
            }
        }
    }
}

/// Pieces that arrive, as a reader on a thread of its own. Ends where they end.
struct Pieces {
    rest: Receiver<Bytes>,
    now: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.now.is_empty() {
            match self.rest.blocking_recv() {
                Some(piece) => self.now = piece,
                None => return Ok(0),
            }
        }
        let count = self.now.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.now.split_to(count));
        Ok(count)
    }
}
