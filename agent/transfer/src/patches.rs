//! Answers to requests for patches: runs of a blob against a base that both ends have.
//!
//! Bases of at most [`ROOM`] mebibytes are in memory, each with its index, and none when nobody asks:
//! an encoder lives until another base is asked for on its stream, or the stream ends.

use crate::{
    codec::encode,
    counters::add,
    delta::Encoder,
    frame::FrameWriter,
    hot::{Hot, RunKey},
    provider::{Provider, ServeError},
    runs::{Asked, Read, Run, Stream, bytes_of, plan, read},
};
use bytes::Bytes;
use netbuild_core::{
    codec::{Codec, Codecs},
    delta::{Cost, MAX_BASE, MAX_TABLE, Method, choose},
    digest::Digest,
};
use netbuild_proto::data::{Accept, MAX_RUN};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Mebibytes that the bases in memory may take with their indices: one of the largest, two of half its size, or many
/// of ordinary size. Who finds no room gets no patches.
const ROOM: usize = ((MAX_BASE + 2 * MAX_TABLE) >> 20) + 2;
/// Weight of a new observation of what a method costs.
const WEIGHT: f64 = 0.2;
/// Bytes in the middle of the first segment on which the methods are measured: with a base that is
/// unlike it, a method may be so slow that the requester would wait in vain for a whole segment.
const MEASURED: usize = 1 << 20;
/// The codec by which a patch is measured against having none.
const ORDINARY: Codec = Codec::Zstd(3);

/// A base in memory.
#[derive(Debug)]
pub(crate) struct Base {
    digest: Digest,
    encoder: Encoder,
    /// What the methods were seen to cost with this base; empty before the first run.
    costs: Mutex<Vec<(Method, Cost)>>,
    _room: OwnedSemaphorePermit,
}

/// The bases in memory.
#[derive(Debug)]
pub(crate) struct Bases {
    alive: Mutex<Vec<(Digest, Weak<Base>)>>,
    pub(crate) room: Arc<Semaphore>,
}

impl Default for Bases {
    fn default() -> Self {
        Self { alive: Mutex::default(), room: Arc::new(Semaphore::new(ROOM)) }
    }
}

impl Bases {
    fn get(&self, digest: &Digest) -> Option<Arc<Base>> {
        let alive = lock(&self.alive);
        alive.iter().find(|(one, _)| one == digest).and_then(|(_, base)| base.upgrade())
    }

    fn keep(&self, base: &Arc<Base>) {
        let mut alive = lock(&self.alive);
        // Those that live have room, so there are never more than a few.
        alive.retain(|(_, base)| base.strong_count() > 0);
        alive.push((base.digest, Arc::downgrade(base)));
    }
}

/// Against what runs are patched.
#[derive(Clone, Debug)]
pub(crate) struct Patching {
    base: Arc<Base>,
    /// The base's place in the request.
    place: u8,
    /// Where in the blob the first of the chunks begins.
    offset: u64,
}

/// What a requester asks for.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) target: Digest,
    pub(crate) bases: Vec<Digest>,
    pub(crate) first: u32,
    pub(crate) count: u32,
}

impl Provider {
    /// Sends what is here of the chunks, as patches where that pays. Without the blob's manifest
    /// and one of the bases nothing counts as here: the requester has better ways to get it then.
    pub(crate) async fn answer_delta(
        &self,
        wanted: Wanted,
        accept: Accept,
        stream: &mut Stream,
        writer: &mut FrameWriter,
    ) -> Result<(), ServeError> {
        let Wanted { target, bases, first, count } = wanted;
        let provide = self.provide.clone();
        let (first, count) = (first as usize, count as usize);
        let chunks = self.read(move || {
            let manifest = provide.manifest(&target)?;
            let (before, rest) = manifest.chunks().split_at_checked(first)?;
            Some((bytes_of(before), rest.get(..count)?.to_vec()))
        });
        let chunks = chunks.await?;
        let mut found = None;
        if let Some((offset, chunks)) = chunks
            && accept.codecs.contains(Codecs::DELTA)
        {
            for (place, digest) in bases.iter().enumerate() {
                if let Some(base) = self.base(stream, digest).await? {
                    let patching = Patching { base, place: place as u8, offset };
                    found = Some((chunks, patching));
                    break;
                }
            }
        }
        let Some((chunks, patching)) = found else {
            return self.send_absent(count, &accept, stream, writer).await;
        };
        stream.base = Some(patching.base.clone());
        let asked = Asked::new(chunks, accept, Some(patching), stream);
        self.answer_chunks(&asked, stream, writer).await
    }

    /// The base, if it is here and there is room for it.
    async fn base(
        &self,
        stream: &mut Stream,
        digest: &Digest,
    ) -> Result<Option<Arc<Base>>, ServeError> {
        if let Some(base) = stream.base.as_ref().filter(|base| base.digest == *digest) {
            return Ok(Some(base.clone()));
        }
        if let Some(base) = self.bases.get(digest) {
            return Ok(Some(base));
        }
        // The one before is not needed any more, and its room may be.
        stream.base = None;
        // An index of a small base is three times as large, at most.
        let size = digest.size.min(MAX_BASE as u64 + 1);
        let mebibytes = (size + (3 * size).min(MAX_TABLE as u64)) >> 20;
        let Ok(room) = self.bases.room.clone().try_acquire_many_owned(mebibytes as u32 + 1) else {
            return Ok(None);
        };
        let (provide, digest) = (self.provide.clone(), *digest);
        let bytes = self.read(move || provide.blob(&digest, MAX_BASE as u64)).await?;
        let Some(encoder) = bytes.and_then(|bytes| Encoder::new(bytes).ok()) else {
            return Ok(None);
        };
        let base = Arc::new(Base { digest, encoder, costs: Mutex::default(), _room: room });
        self.bases.keep(&base);
        Ok(Some(base))
    }

    /// The next run as a patch, beginning with chunk number `from`; `None` when a patch does not
    /// pay. What it lacks is absent.
    pub(crate) async fn patch(
        &self,
        asked: &Asked,
        patching: &Patching,
        from: usize,
        goodput: f64,
    ) -> Result<Option<Run>, ServeError> {
        let left = &asked.chunks[from..];
        let this = &left[..plan(left, MAX_RUN as u64)];
        let len = bytes_of(left);
        let Patching { base, place, offset } = patching.clone();
        let at = offset + bytes_of(&asked.chunks[..from]);
        let key = RunKey::of_patch(&base.digest, this);
        if let Some(hot) = self.coder.hot_patch(&key) {
            add(&self.tally.runs_hot, 1);
            let decoded = bytes_of(this) as usize;
            return Ok(Some(Run::patch(this.len(), decoded, place, hot.body)));
        }
        if base.chosen(len, goodput) == Some(Method::Whole) {
            return Ok(None);
        }
        let (provide, this) = (self.provide.clone(), this.to_vec());
        let ((count, bytes), this) = match self.read(move || (read(&*provide, &this), this)).await?
        {
            (Read::Absent(count), _) => return Ok(Some(Run::absent(count))),
            (Read::Here { count, bytes }, this) => ((count, bytes), this),
        };
        let digest = base.digest;
        let patching = async {
            let busy = self.coder.begin();
            let permit = self.coder.room.clone().acquire_owned().await;
            let patching = self.block(move || {
                let patch = base.patch(&bytes, at, len, goodput);
                drop((busy, permit));
                (patch, bytes.len())
            });
            patching.await.map_err(|_| ServeError::Read)
        };
        let (patch, decoded) = asked.working(patching).await?;
        // With the place of the base before it, it has to be shorter than what it stands for.
        let Some(patch) = patch.filter(|patch| patch.len() + 1 < decoded) else {
            return Ok(None);
        };
        add(&self.tally.runs_coded, 1);
        let body = Bytes::from(patch);
        let key = RunKey::of_patch(&digest, &this[..count]);
        self.coder.keep_patch(key, Hot { codec: None, kind: None, body: body.clone() });
        Ok(Some(Run::patch(count, decoded, place, body)))
    }
}

impl Base {
    /// The method for the next `len` bytes, if the methods were measured before.
    fn chosen(&self, len: u64, goodput: f64) -> Option<Method> {
        let costs = lock(&self.costs);
        (!costs.is_empty()).then(|| choose(&costs, len, goodput))
    }

    /// The patch for a segment at `at`, by the method that takes the least time; `None` when none
    /// does as well as an ordinary codec. A part of the first segment is patched in every way, to
    /// see what they cost. Blocks.
    fn patch(&self, segment: &[u8], at: u64, len: u64, goodput: f64) -> Option<Vec<u8>> {
        if lock(&self.costs).is_empty() {
            self.measure(segment, at);
        }
        self.timed(segment, at, self.chosen(len, goodput)?)
    }

    fn measure(&self, segment: &[u8], at: u64) {
        let from = segment.len().saturating_sub(MEASURED) / 2;
        let sample = &segment[from..segment.len().min(from + MEASURED)];
        // The index is made once, and is no cost of the segment that is measured.
        let _ = self.encoder.encode(&[], at, Method::Patch);
        for method in [Method::Prefix, Method::Patch] {
            let _ = self.timed(sample, at + from as u64, method);
        }
        let begun = Instant::now();
        let coded = encode(ORDINARY, sample).map_or(sample.len(), |coded| coded.len());
        self.note(Method::Whole, sample.len(), coded, begun.elapsed());
    }

    fn timed(&self, segment: &[u8], at: u64, method: Method) -> Option<Vec<u8>> {
        if method == Method::Whole {
            return None;
        }
        let begun = Instant::now();
        let patch = self.encoder.encode(segment, at, method);
        let patch =
            patch.inspect_err(|error| tracing::warn!(%error, "cannot make a patch")).ok()?;
        self.note(method, segment.len(), patch.len(), begun.elapsed());
        Some(patch)
    }

    fn note(&self, method: Method, bytes: usize, coded: usize, elapsed: Duration) {
        let seconds = elapsed.max(Duration::from_micros(1)).as_secs_f64();
        let share = coded as f64 / bytes.max(1) as f64;
        // Decoding is faster than coding with each of them.
        let new = Cost { setup: 0.0, encode: bytes as f64 / seconds, decode: f64::INFINITY, share };
        let mut costs = lock(&self.costs);
        match costs.iter_mut().find(|(one, _)| *one == method) {
            Some((_, cost)) => {
                let mean = |old: f64, new: f64| old + (new - old) * WEIGHT;
                cost.encode = mean(cost.encode, new.encode);
                cost.share = mean(cost.share, new.share);
            }
            None => costs.push((method, new)),
        }
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}
