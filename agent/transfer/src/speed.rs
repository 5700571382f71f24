//! Codes runs on this machine, and remembers how fast that is.

use crate::{
    client::Client,
    codec::{coding, encode},
    hot::{Hot, HotRuns, RunKey},
};
use bytes::Bytes;
use netbuild_core::codec::{Circumstances, Codec, Kind, Speeds, Step, Work};
use netbuild_proto::data::Coding;
use std::{
    num::NonZero,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};
use tokio::sync::Semaphore;

/// Most runs that are coded at once, on however many cores: each takes up to 60 MB at the strongest
/// levels of zstd.
const MAX_CODERS: usize = 8;
/// Bytes at the beginning of a run on which a codec is measured.
const MEASURED: usize = 256 * 1024;
/// A run that is shorter than this is left as it is: its header is most of what could be saved.
pub(crate) const MIN_CODED: usize = 512;

/// What a run of data is coded for.
#[derive(Clone, Debug)]
pub(crate) struct Purpose {
    pub(crate) client: Arc<Client>,
    pub(crate) at: Circumstances,
    pub(crate) key: RunKey,
}

/// How a run is to be coded.
#[derive(Clone, Copy, Debug)]
pub(crate) enum How {
    /// With a codec that a policy names.
    With(Codec),
    /// With the one that takes the least time for data of this kind.
    AsPays(Kind),
}

/// All coding of one endpoint.
#[derive(Debug)]
pub(crate) struct Coder {
    cores: usize,
    /// Room for work that keeps a core busy.
    pub(crate) room: Arc<Semaphore>,
    /// Runs that are being coded or wait for it.
    busy: AtomicUsize,
    speeds: Mutex<Speeds>,
    hot: Mutex<HotRuns>,
}

impl Default for Coder {
    fn default() -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            cores,
            room: Arc::new(Semaphore::new(cores.min(MAX_CODERS))),
            busy: AtomicUsize::new(0),
            speeds: Mutex::default(),
            hot: Mutex::default(),
        }
    }
}

/// Counts a run among those that are coded, until it is dropped.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Coder>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Coder {
    /// Counts one more run as being coded.
    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// Share of a core that one more run would have.
    pub(crate) fn share(&self) -> f64 {
        self.share_of(self.busy.load(Ordering::Relaxed) + 1)
    }

    fn share_of(&self, busy: usize) -> f64 {
        (self.cores as f64 / busy.max(1) as f64).min(1.0)
    }

    /// The coded form of a run that was coded before, if it is the best one for this purpose.
    pub(crate) fn hot(&self, purpose: &Purpose, named: Option<Codec>) -> Option<(Coding, Bytes)> {
        let fits = |hot: &Hot| match (named, hot.kind) {
            (Some(codec), _) => hot.codec == Some(codec),
            (None, Some(kind)) => {
                let step = purpose.client.choices().choose(
                    Instant::now(),
                    &self.speeds(),
                    kind,
                    &purpose.at,
                );
                // Whatever is at hand and shrinks at least as well costs no work.
                hot.codec.is_some_and(|hot| {
                    let better = |codec| codec != Codec::Identity && hot >= codec;
                    purpose.at.accepted.reads(hot)
                        && matches!(step, Step::Take(codec) if better(codec))
                })
            }
            (None, None) => false,
        };
        let hot = lock(&self.hot).get(&purpose.key, fits)?;
        Some((coding(hot.codec?), hot.body))
    }

    /// A patch that was made before.
    pub(crate) fn hot_patch(&self, key: &RunKey) -> Option<Hot> {
        lock(&self.hot).get(key, |_| true)
    }

    /// Keeps a patch.
    pub(crate) fn keep_patch(&self, key: RunKey, patch: Hot) {
        lock(&self.hot).put(key, patch);
    }

    /// Codes a run as `how` says; `None` when it is best sent as it is. Blocks.
    pub(crate) fn code(&self, purpose: &Purpose, how: How, run: &[u8]) -> Option<(Coding, Bytes)> {
        let (codec, kind) = match how {
            How::With(codec) => (codec, None),
            How::AsPays(kind) => (self.choose(purpose, kind, run), Some(kind)),
        };
        if codec == Codec::Identity {
            return None;
        }
        let body = Bytes::from(self.timed(codec, kind, run)?);
        tracing::debug!(
            %codec, bytes = run.len(), coded = body.len(), goodput = ?purpose.at.goodput, rest = purpose.at.rest,
            "coded a run"
        );
        lock(&self.hot).put(purpose.key, Hot { codec: Some(codec), kind, body: body.clone() });
        Some((coding(codec), body))
    }

    fn choose(&self, purpose: &Purpose, kind: Kind, run: &[u8]) -> Codec {
        loop {
            let now = Instant::now();
            let step = purpose.client.choices().choose(now, &self.speeds(), kind, &purpose.at);
            match step {
                Step::Take(codec) => return codec,
                Step::Measure(codec) => {
                    self.timed(codec, Some(kind), &run[..run.len().min(MEASURED)]);
                }
            }
        }
    }

    /// Codes bytes and notes how fast that was.
    fn timed(&self, codec: Codec, kind: Option<Kind>, bytes: &[u8]) -> Option<Vec<u8>> {
        let share = self.share_of(self.busy.load(Ordering::Relaxed));
        let begun = Instant::now();
        let body = encode(codec, bytes);
        let now = Instant::now();
        if let Some(kind) = kind {
            let coded = body.as_ref().map_or(bytes.len(), Vec::len);
            let elapsed = now - begun;
            let work = Work { bytes: bytes.len(), coded, elapsed, share };
            self.speeds().note(now, kind, codec, work);
        }
        body
    }

    fn speeds(&self) -> MutexGuard<'_, Speeds> {
        lock(&self.speeds)
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}
