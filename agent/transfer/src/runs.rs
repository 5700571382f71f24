//! Answers to requests for chunks: runs of them, coded as it pays on the link.
//!
//! While one run is sent the next is read and coded. Of one request there are so in memory at most
//! two runs, each of at most [`LONG_RUN`] bytes as it is and as much coded, or for a patch
//! [`MAX_RUN`](netbuild_proto::data::MAX_RUN); of all requests together only as many runs are coded
//! at once as there are cores.

use crate::{
    Provide,
    client::{Client, ClientStream},
    codec::sample,
    counters::add,
    frame::FrameWriter,
    hot::RunKey,
    patches::{Base, Patching},
    provider::{Provider, ServeError},
    speed::{How, MIN_CODED, Purpose},
};
use bytes::Bytes;
use netbuild_core::{
    chunk::Chunk,
    codec::{Backlog, Circumstances, Codec, Kind, Policy},
    moved::Moved,
};
use netbuild_proto::data::{Accept, Coding, MAX_BEATS, RUN_HEADER, RunHeader};
use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::time::{MissedTickBehavior, interval_at};

/// Bytes up to which chunks are put in one run: enough for small ones to be coded together, and for
/// a frame to cost nothing beside them. A chunk may be longer.
const RUN: u64 = 1 << 20;
/// The same on a slow link. A debug binary takes 5 % less at level 9 in runs of this length than in
/// those of [`RUN`]; twice the length would save one more.
const LONG_RUN: u64 = 4 << 20;
/// The same of one that is sent as it is. What a kill leaves of a frame has to be sent again.
const SHORT_RUN: u64 = 256 << 10;

/// Time between signs of life while a run is worked on: several within the usual patience of a
/// requester.
const BEAT: Duration = Duration::from_millis(500);

/// What is asked for on one stream, and what was sent of it.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) chunks: Arc<Vec<Chunk>>,
    pub(crate) accept: Accept,
    pub(crate) patching: Option<Patching>,
    /// Whether nothing was sent on its stream before.
    first: bool,
    /// Whether a run of it is being coded, or waits for a core.
    working: AtomicBool,
}

impl Asked {
    pub(crate) fn new(
        chunks: Vec<Chunk>,
        accept: Accept,
        patching: Option<Patching>,
        stream: &Stream,
    ) -> Self {
        let (chunks, first) = (Arc::new(chunks), stream.backlog.is_none());
        Self { chunks, accept, patching, first, working: AtomicBool::new(false) }
    }

    /// Waits for work that keeps a core busy.
    pub(crate) async fn working<T>(&self, work: impl Future<Output = T>) -> T {
        self.working.store(true, Ordering::Relaxed);
        let done = work.await;
        self.working.store(false, Ordering::Relaxed);
        done
    }
}

/// What the answers on one stream have in common.
#[derive(Debug)]
pub(crate) struct Stream {
    client: ClientStream,
    backlog: Option<Backlog>,
    /// What the link was handed, were it all for this stream.
    queue: Backlog,
    /// What was patched against last.
    pub(crate) base: Option<Arc<Base>>,
}

impl Stream {
    pub(crate) fn new(client: &Arc<Client>) -> Self {
        Self {
            client: client.stream(),
            backlog: None,
            queue: Backlog::new(Instant::now()),
            base: None,
        }
    }

    pub(crate) fn client(&self) -> &Arc<Client> {
        self.client.client()
    }

    /// Seconds for which the link is at least busy with what it was handed for this stream.
    fn wait(&self) -> f64 {
        self.queue.wait(Instant::now(), self.client().most())
    }

    /// Makes the frames of a run of the first of these chunks, now that it is ready to be sent.
    fn frames(&mut self, run: Run, chunks: &[Chunk], accept: &Accept) -> Frames {
        let (now, goodput) = (Instant::now(), self.client().goodput(accept.goodput));
        let (coding, count, decoded) = (run.coding, run.count, run.decoded as u64);
        let runs = run.split(chunks);
        let wire = runs.iter().map(Run::wire).sum();
        // The first run is not late: before it nobody had asked for anything.
        let backlog = self.backlog.get_or_insert_with(|| Backlog::new(now));
        let mut late = backlog.add(now, wire, goodput);
        self.queue.add(now, wire, self.client.client().most());
        let mut parts = Vec::with_capacity(2 * runs.len());
        for run in runs {
            // What follows the first of them did not wait for anything.
            run.put(std::mem::take(&mut late), &mut parts);
        }
        Frames { parts, coding, wire, decoded, count }
    }
}

/// The answer to the next `count` chunks.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) coding: Coding,
    pub(crate) count: usize,
    pub(crate) decoded: usize,
    /// The place of the base of a patch in the request.
    pub(crate) base: Option<u8>,
    pub(crate) body: Bytes,
}

impl Run {
    pub(crate) fn absent(count: usize) -> Self {
        Self { coding: Coding::Absent, count, decoded: 0, base: None, body: Bytes::new() }
    }

    fn identity(count: usize, bytes: Vec<u8>) -> Self {
        let decoded = bytes.len();
        Self { coding: Coding::Identity, count, decoded, base: None, body: bytes.into() }
    }

    pub(crate) fn patch(count: usize, decoded: usize, base: u8, body: Bytes) -> Self {
        Self { coding: Coding::Delta, count, decoded, base: Some(base), body }
    }

    /// Runs of few chunks each, where nothing is coded and so nothing lost by that: a requester keeps
    /// nothing of a frame that did not come whole. `chunks` begin with those of this run.
    fn split(mut self, chunks: &[Chunk]) -> Vec<Self> {
        if self.coding != Coding::Identity {
            return vec![self];
        }
        let (mut left, mut runs) = (&chunks[..self.count], Vec::new());
        while !left.is_empty() {
            let (these, rest) = left.split_at(plan(left, SHORT_RUN));
            left = rest;
            let decoded = bytes_of(these) as usize;
            let body = self.body.split_to(decoded);
            let (coding, count) = (Coding::Identity, these.len());
            runs.push(Self { coding, count, decoded, base: None, body });
        }
        runs
    }

    /// Bytes of its frame, as its length says.
    fn wire(&self) -> u64 {
        (RUN_HEADER + usize::from(self.base.is_some()) + self.body.len()) as u64
    }

    /// Adds its frame to what is to be sent.
    fn put(self, late: bool, parts: &mut Vec<Bytes>) {
        let length = (self.wire() as u32).to_le_bytes();
        let Self { coding, count, decoded, base, body } = self;
        let header = RunHeader { coding, late, count: count as u16, decoded: decoded as u32 };
        parts.push([&length[..], &header.encode(), base.as_slice()].concat().into());
        if !body.is_empty() {
            parts.push(body);
        }
    }
}

/// The frames that one run is sent in.
#[derive(Debug)]
struct Frames {
    parts: Vec<Bytes>,
    coding: Coding,
    wire: u64,
    decoded: u64,
    count: usize,
}

/// What was read of the next run.
pub(crate) enum Read {
    Absent(usize),
    Here { count: usize, bytes: Vec<u8> },
}

/// Waits for a run, and tells the requester when it is worked on. A disk that stalls is no work:
/// the requester does better to turn to somebody else.
async fn while_alive<T>(
    asked: &Asked,
    writer: &mut FrameWriter,
    mut work: Pin<&mut impl Future<Output = T>>,
) -> Result<T, ServeError> {
    let mut beat = interval_at(tokio::time::Instant::now() + BEAT, BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // After that many the requester takes them for no sign of life any more.
    for _ in 0..MAX_BEATS {
        tokio::select! {
            done = &mut work => return Ok(done),
            _ = beat.tick() => {
                if asked.working.load(Ordering::Relaxed) {
                    writer.send_frame(Bytes::new()).await?;
                }
            }
        }
    }
    Ok(work.await)
}

/// How many of these chunks make the next run: as many as fit in `most`, and at least one.
pub(crate) fn plan(chunks: &[Chunk], most: u64) -> usize {
    let mut sum = 0;
    let fits = chunks.iter().take_while(|chunk| {
        sum += u64::from(chunk.len);
        sum <= most
    });
    fits.count().clamp(1, u16::MAX.into())
}

/// Reads chunks until one is lacking, or has turned up again. Blocks.
pub(crate) fn read(provide: &dyn Provide, chunks: &[Chunk]) -> Read {
    let mut read = chunks
        .iter()
        .map(|chunk| provide.chunk(chunk).filter(|bytes| bytes.len() == chunk.len as usize));
    let Some(Some(mut bytes)) = read.next() else {
        return Read::Absent(1 + read.take_while(Option::is_none).count());
    };
    let mut count = 1;
    while let Some(Some(more)) = read.next() {
        bytes.extend_from_slice(&more);
        count += 1;
    }
    Read::Here { count, bytes }
}

pub(crate) fn bytes_of(chunks: &[Chunk]) -> u64 {
    chunks.iter().map(|chunk| u64::from(chunk.len)).sum()
}

impl Provider {
    /// Sends what is here of the chunks, in order.
    pub(crate) async fn answer_chunks(
        &self,
        asked: &Asked,
        stream: &mut Stream,
        writer: &mut FrameWriter,
    ) -> Result<(), ServeError> {
        if asked.chunks.is_empty() {
            return Ok(());
        }
        let client = stream.client().clone();
        let mut answered = 0;
        let first = self.run(asked, answered, &client, stream.wait());
        let mut run = Some(while_alive(asked, writer, pin!(first)).await??);
        while let Some(ready) = run {
            let mut frames = stream.frames(ready, &asked.chunks[answered..], &asked.accept);
            answered += frames.count;
            let wait = stream.wait();
            let next = async {
                if answered == asked.chunks.len() {
                    return Ok(None);
                }
                self.run(asked, answered, &client, wait).await.map(Some)
            };
            let mut next = pin!(next);
            let mut ready = None;
            {
                let mut sending = pin!(writer.send(&mut frames.parts));
                loop {
                    tokio::select! {
                        sent = &mut sending => break sent?,
                        run = &mut next, if ready.is_none() => ready = Some(run),
                    }
                }
            }
            self.count(&frames);
            run = match ready {
                Some(run) => run?,
                None => while_alive(asked, writer, next).await??,
            };
        }
        Ok(())
    }

    /// Tells that `count` chunks are lacking.
    pub(crate) async fn send_absent(
        &self,
        count: usize,
        accept: &Accept,
        stream: &mut Stream,
        writer: &mut FrameWriter,
    ) -> Result<(), ServeError> {
        let mut frames = stream.frames(Run::absent(count), &[], accept);
        writer.send(&mut frames.parts).await?;
        self.count(&frames);
        Ok(())
    }

    fn count(&self, frames: &Frames) {
        let moved = Moved { logical: frames.decoded, wire: frames.wire };
        self.tally.served(frames.coding, moved);
    }

    /// Reads and codes the next run, that begins with chunk number `from`, while the link is busy for `wait` seconds.
    async fn run(
        &self,
        asked: &Asked,
        from: usize,
        client: &Arc<Client>,
        wait: f64,
    ) -> Result<Run, ServeError> {
        let accept = &asked.accept;
        let goodput = client.goodput(accept.goodput);
        if let Some(patching) = &asked.patching
            && let Some(run) = self.patch(asked, patching, from, goodput).await?
        {
            return Ok(run);
        }
        let policy = self.policy(accept);
        // The first run is short, so that sending begins soon.
        let long = (from > 0 || !asked.first)
            && policy == Policy::Adaptive
            && client.choices().favours_long_runs();
        let left = &asked.chunks[from..];
        let count = plan(left, if long { LONG_RUN } else { RUN });
        let (this, rest) = left.split_at(count);
        let at = Circumstances {
            goodput: Some(goodput),
            decode: Some(accept.decode as f64),
            accepted: accept.codecs,
            share: self.coder.share(),
            wait,
            run: bytes_of(this),
            rest: bytes_of(rest),
        };
        let key = RunKey::of(this);
        let purpose = Purpose { client: client.clone(), at, key };
        let named = if at.run < MIN_CODED as u64 {
            Some(Codec::Identity)
        } else {
            client.choices().unseen(policy, &at)
        };
        if named != Some(Codec::Identity)
            && let Some((coding, body)) = self.coder.hot(&purpose, named)
        {
            add(&self.tally.runs_hot, 1);
            let decoded = at.run as usize;
            return Ok(Run { coding, count, decoded, base: None, body });
        }
        let (provide, chunks) = (self.provide.clone(), asked.chunks.clone());
        let read = self.read(move || {
            let read = read(&*provide, &chunks[from..from + count]);
            let how = match (&read, named) {
                (Read::Absent(_), _) | (_, Some(Codec::Identity)) => None,
                (_, Some(codec)) => Some(How::With(codec)),
                (Read::Here { bytes, .. }, None) => {
                    let (looked, coded) = sample(bytes);
                    Kind::of(looked, coded).map(How::AsPays)
                }
            };
            (read, how)
        });
        match read.await? {
            (Read::Absent(count), _) => Ok(Run::absent(count)),
            (Read::Here { count, bytes }, Some(how)) => {
                let key = RunKey::of(&left[..count]);
                asked.working(self.coded(Purpose { key, ..purpose }, how, count, bytes)).await
            }
            (Read::Here { count, bytes }, None) => {
                if named.is_none() {
                    client.choices().looked_in_vain();
                }
                Ok(Run::identity(count, bytes))
            }
        }
    }

    /// Codes a run as it pays.
    async fn coded(
        &self,
        purpose: Purpose,
        how: How,
        count: usize,
        bytes: Vec<u8>,
    ) -> Result<Run, ServeError> {
        let busy = self.coder.begin();
        let permit = self.coder.room.clone().acquire_owned().await;
        let coder = self.coder.clone();
        let coding = self.block(move || {
            let coded = coder.code(&purpose, how, &bytes);
            drop((busy, permit));
            match coded {
                Some((coding, body)) => {
                    Run { coding, count, decoded: bytes.len(), base: None, body }
                }
                None => Run::identity(count, bytes),
            }
        });
        let run = coding.await.map_err(|_| ServeError::Read)?;
        if run.coding != Coding::Identity {
            add(&self.tally.runs_coded, 1);
        }
        Ok(run)
    }

    /// How the codec is chosen: as the requester wants it, or else as it is configured here.
    pub(crate) fn policy(&self, accept: &Accept) -> Policy {
        match accept.policy {
            Policy::Adaptive => self.policy,
            policy => policy,
        }
    }
}
