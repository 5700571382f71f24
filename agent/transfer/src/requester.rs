//! The asking end: requests to one holder, and the checks that make its answers believable.

use crate::{
    Endpoint, FetchError, Holder, Patience,
    answers::{Answers, Batches, CodedRun, Coming, Requests},
    codec::{BadBody, apply, decode},
    counters::{OneMore, add},
    links::Found,
};
use bytes::Bytes;
use netbuild_core::{
    chunk::{Chunk, MAX_CHUNK, MIN_CHUNK},
    codec::Policy,
    digest::Digest,
    key::ActionKey,
};
use netbuild_proto::{
    DecodeError,
    data::{
        Accept, Coding, Described, HEARTBEAT, MAX_BASES, MAX_BITMAP, MAX_ITEMS, MAX_MANIFEST,
        MAX_PROBE, MAX_SKETCH, Priority, Request, RunHeader, decode_bitmap, decode_manifest,
    },
    parts::{self, Parts},
    record::{MAX_RECORD, SealedRecord},
};
use std::{
    cell::RefCell,
    collections::VecDeque,
    iter,
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

/// Most bytes of one chunk in a manifest frame, and of what surrounds them all.
const MANIFEST_CHUNK: u64 = 37;
const MANIFEST_FRAME: u64 = 64 + 1 + MAX_SKETCH as u64;
/// Decoded bytes from which the time that it took tells how fast that is.
const MEASURED: usize = 64 * 1024;

/// How chunks are asked for.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Terms {
    /// How long the holder is waited for.
    pub patience: Patience,
    /// How soon the chunks are needed, against others on the same connection.
    pub priority: Priority,
    /// Bytes per second that the link to the holder is believed to give. What the connection itself
    /// has shown goes before.
    pub goodput: Option<f64>,
}

impl From<Patience> for Terms {
    fn from(patience: Patience) -> Self {
        Self { patience, ..Self::default() }
    }
}

impl Terms {
    pub(crate) fn accept(&self, policy: Policy) -> Accept {
        let goodput = self.goodput.map_or(0, |goodput| goodput as u64);
        Accept { goodput, policy, priority: self.priority, ..Accept::default() }
    }
}

/// One request for chunks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Order {
    /// Chunks of any blobs, at most [`MAX_ITEMS`].
    Chunks(Vec<Chunk>),
    /// Chunks of one blob as patches against another.
    Patches {
        /// The blob.
        target: Digest,
        /// The place of the first of the chunks in the blob's manifest.
        first: usize,
        /// The chunks, as they follow one another there; at most [`MAX_ITEMS`].
        chunks: Vec<Chunk>,
        /// Blobs that are here, what is deemed most similar first; at least one, and the first
        /// [`MAX_BASES`] count.
        bases: Vec<Digest>,
    },
}

impl Order {
    /// The chunks that are asked for.
    pub fn chunks(&self) -> &[Chunk] {
        match self {
            Self::Chunks(chunks) | Self::Patches { chunks, .. } => chunks,
        }
    }

    fn request(&self, accept: Accept) -> Request {
        let possible = |chunk: &Chunk| (1..=MAX_CHUNK).contains(&(chunk.len as usize));
        assert!((1..=MAX_ITEMS).contains(&self.chunks().len()));
        assert!(self.chunks().iter().all(possible));
        match self {
            Self::Chunks(chunks) => Request::Chunks { chunks: chunks.clone(), accept },
            Self::Patches { target, first, chunks, bases } => {
                // A holder takes a request without bases for malformed.
                assert!(!bases.is_empty());
                Request::Delta {
                    target: *target,
                    bases: bases.iter().take(MAX_BASES).copied().collect(),
                    // A manifest has far fewer chunks than fit in 32 bits, an order fewer still.
                    first: *first as u32,
                    count: chunks.len() as u32,
                    accept,
                }
            }
        }
    }
}

/// A chunk that came, and is the one asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// Its bytes. Those of small chunks share the memory of the run that they came in.
    pub bytes: Bytes,
    /// Its share of the bytes that crossed the link. Those of all chunks of a run add up to the
    /// run's frame.
    pub wire: u64,
    /// How it was coded.
    pub coding: Coding,
}

/// Gets the bytes of a base.
type Load = dyn Fn(&Digest) -> Option<Bytes> + Send + Sync;

/// What patches are applied to.
struct Held {
    load: Arc<Load>,
    /// The one that was used last: a blob that comes in several runs has the same for all.
    loaded: Mutex<Option<(Digest, Option<Bytes>)>>,
}

impl Held {
    /// What a body with a patch makes; `None` when its base cannot be had. Blocks.
    fn apply(
        &self,
        bases: &[Digest],
        body: &[u8],
        expected: usize,
    ) -> Result<Option<Bytes>, BadBody> {
        let Some((place, patch)) = body.split_first() else {
            return Err(BadBody::Short { len: 0, expected });
        };
        let base = bases.get(usize::from(*place)).ok_or(BadBody::Base(*place))?;
        let bytes = {
            let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
            match &*loaded {
                Some((one, bytes)) if one == base => bytes.clone(),
                _ => {
                    let bytes = (self.load)(base);
                    *loaded = Some((*base, bytes.clone()));
                    bytes
                }
            }
        };
        bytes.map(|bytes| apply(&bytes, patch, expected)).transpose()
    }
}

/// Divides the bytes of a frame among its chunks.
struct Share {
    wire: u64,
    decoded: u64,
}

impl Share {
    /// The share of the next chunk.
    fn of(&mut self, len: u64) -> u64 {
        // A frame is of a few mebibytes at most, so this does not overflow.
        let share = self.wire * len / self.decoded.max(1);
        (self.wire, self.decoded) = (self.wire - share, self.decoded - len);
        share
    }
}

/// What a probe has shown of the link to a holder.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Probed {
    /// Round trip as QUIC estimates it when the first byte comes, before the probe's own bytes can
    /// queue up anywhere.
    pub rtt: Duration,
    /// Payload bytes per second, if there was enough to fill the link: at least two windows of
    /// 64 KiB and 20 ms, a round trip apart, of which the later was not much faster. `None` on
    /// links that are too fast for the probe, or so long that it ended before it had filled them,
    /// or when the holder gave nothing as it was asked for too much lately.
    pub goodput: Option<f64>,
    /// From the request to the last byte.
    pub elapsed: Duration,
}

// All futures here may be dropped at any time: the holder is then told to send no more.
impl Endpoint {
    /// Makes sure that a connection to `holder` stands, and so that its round trip is measured,
    /// now and once a second. Whether the holder admits this agent shows with the first request.
    pub async fn open(&self, holder: &Holder) -> Result<(), FetchError> {
        self.inner.links.get(holder).await.map(|_| ())
    }

    /// Asks `holder` for records. Those that come are signed by their writers and are the ones
    /// asked for, in the same order; `None` where the holder has none.
    pub async fn records(
        &self,
        holder: &Holder,
        keys: &[ActionKey],
        patience: Patience,
    ) -> Result<Vec<Option<SealedRecord>>, FetchError> {
        let mut records = Vec::with_capacity(keys.len());
        let requests = Batches::of(keys, |keys| Request::Records(keys.to_vec()));
        let Some(mut answers) = self.ask(holder, requests, patience).await? else {
            return Ok(records);
        };
        for keys in keys.chunks(MAX_ITEMS) {
            for key in keys {
                let content = answers.next(MAX_RECORD).await?;
                let record = content.map_or(Ok(None), |content| open_record(key, &content));
                records.push(record.map_err(|why| answers.malformed(why))?);
            }
            answers.advance().await?;
        }
        Ok(records)
    }

    /// Asks `holder` for manifests, in the order of `blobs`; `None` where the holder has none.
    /// A manifest that comes can make up its blob, but only the blob's bytes prove that it does.
    /// The sketch that may come with it is a hint.
    pub async fn manifests(
        &self,
        holder: &Holder,
        blobs: &[Digest],
        patience: Patience,
    ) -> Result<Vec<Option<Described>>, FetchError> {
        let mut manifests = Vec::with_capacity(blobs.len());
        let requests = Batches::of(blobs, |blobs| Request::Manifests(blobs.to_vec()));
        let Some(mut answers) = self.ask(holder, requests, patience).await? else {
            return Ok(manifests);
        };
        for blobs in blobs.chunks(MAX_ITEMS) {
            for blob in blobs {
                let content = answers.next(manifest_limit(blob)).await?;
                let manifest = content.map(|content| decode_manifest(*blob, &content));
                let manifest = manifest.transpose();
                manifests.push(manifest.map_err(|error| answers.malformed(error.to_string()))?);
            }
            answers.advance().await?;
        }
        Ok(manifests)
    }

    /// Asks `holder` for the chunks of one order after the other, and hands the answers to `deliver`
    /// in the order of the chunks: a chunk that is verified, or `None` for one that the holder
    /// lacks. `next` gives the orders. It is asked when an order was answered, and as often as there is
    /// room for one more request on its way; when it has none and all are answered, it is over.
    ///
    /// `load` gets the bytes of the base of a patch; it blocks. The holder decides whether a patch
    /// pays, and sends something else if not. It lacks the chunks of an order of patches when it
    /// lacks all its bases or has no room for them, and they count as lacking when `load` gets no
    /// bytes.
    ///
    /// `hear` is told how far the next chunks are, whenever more of their bytes are here, and before they are verified.
    /// While `deliver` or `hear` works nothing is read, which holds back the holder; with
    /// [`ControlFlow::Break`] it ends the request. What was delivered before an error, or before the
    /// future was dropped, stays good.
    ///
    /// # Errors
    /// [`FetchError::WrongBytes`] for bytes that are not the chunk, and [`FetchError::Malformed`]
    /// for a run that is not what it claims to be; the connection to the holder is then closed,
    /// with all that is under way on it.
    ///
    /// # Panics
    /// For an order of no chunks, of more than [`MAX_ITEMS`], or of one whose length no chunk has,
    /// and for one of patches without bases.
    pub async fn chunks(
        &self,
        holder: &Holder,
        next: impl FnMut() -> Option<Order>,
        load: impl Fn(&Digest) -> Option<Bytes> + Send + Sync + 'static,
        terms: impl Into<Terms>,
        mut hear: impl FnMut(&Coming),
        mut deliver: impl FnMut(Option<Arrival>) -> ControlFlow<()>,
    ) -> Result<(), FetchError> {
        let (inner, terms) = (&self.inner, terms.into());
        let accept = terms.accept(inner.policy);
        let (next, asked) = (RefCell::new(next), RefCell::new(VecDeque::new()));
        let Some(first) = (next.borrow_mut())() else { return Ok(()) };
        add(&inner.tally.requests_made, 1);
        let is_waited_for = terms.priority != Priority::Background;
        let _fetching =
            is_waited_for.then(|| OneMore::of(inner.tally.clone(), |tally| &tally.fetching));
        let Found { link, reused } = inner.links.get(holder).await?;
        let these = requests(vec![first].into(), &next, &asked, accept);
        let answers = match Answers::begin(inner.clone(), link, these, terms.patience).await {
            Err(FetchError::Lost { peer, why }) if reused => {
                tracing::debug!(%peer, why, "connection had died, dialling again");
                let Found { link, .. } = inner.links.dialled(holder).await?;
                // Nothing of what it was asked was answered.
                let these = requests(asked.take(), &next, &asked, accept);
                Answers::begin(inner.clone(), link, these, terms.patience).await
            }
            answers => answers,
        };
        let mut answers = answers?;
        let held = Arc::new(Held { load: Arc::new(load), loaded: Mutex::default() });
        loop {
            // Taken out only now: whoever is asked again is asked for all that is in there.
            let Some(order) = asked.borrow_mut().pop_front() else { return Ok(()) };
            let taken = self.take(&mut answers, &order, &held, &mut hear, &mut deliver);
            if taken.await?.is_break() {
                return Ok(());
            }
            answers.advance().await?;
        }
    }

    /// Takes the answer to one order.
    async fn take<Q: Requests>(
        &self,
        answers: &mut Answers<Q>,
        order: &Order,
        held: &Arc<Held>,
        hear: &mut impl FnMut(&Coming),
        deliver: &mut impl FnMut(Option<Arrival>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, FetchError> {
        let mut left = order.chunks();
        while !left.is_empty() {
            let run = answers.run(left, hear).await?;
            let (these, rest) = left.split_at(run.header.count.into());
            left = rest;
            let (coding, wire) = (run.header.coding, run.wire);
            let bytes = match coding {
                Coding::Absent => None,
                _ => self.decoded(answers, run, order, held).await?,
            };
            let Some(mut bytes) = bytes else {
                if these.iter().any(|_| deliver(None).is_break()) {
                    return Ok(ControlFlow::Break(()));
                }
                continue;
            };
            let mut share = Share { wire, decoded: bytes.len() as u64 };
            for chunk in these {
                // The header was checked: it is as long as these chunks are together.
                let bytes = bytes.split_to(chunk.len as usize);
                answers.check(chunk, &bytes)?;
                let wire = share.of(chunk.len.into());
                if deliver(Some(Arrival { bytes, wire, coding })).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// What a run was coded from; `None` when the base of a patch cannot be had. Where that is work,
    /// it is done beside the runtime.
    async fn decoded<Q: Requests>(
        &self,
        answers: &Answers<Q>,
        run: CodedRun,
        order: &Order,
        held: &Arc<Held>,
    ) -> Result<Option<Bytes>, FetchError> {
        let CodedRun { header: RunHeader { coding, decoded, .. }, body, .. } = run;
        if coding == Coding::Identity {
            return Ok(Some(body));
        }
        let patched = match order {
            Order::Patches { bases, .. } if coding == Coding::Delta => {
                Some((held.clone(), bases.clone()))
            }
            _ => None,
        };
        let decoding = self.inner.tasks.spawn_blocking(move || {
            let begun = Instant::now();
            let decoded = match patched {
                Some((held, bases)) => held.apply(&bases, &body, decoded as usize),
                None => decode(coding, &body, decoded as usize).map(Some),
            };
            (decoded, begun.elapsed())
        });
        let Ok((result, elapsed)) = decoding.await else {
            return Err(FetchError::Closed { peer: answers.link().peer });
        };
        let bytes = result.map_err(|error| answers.bad_body(&error))?;
        if coding != Coding::Delta {
            self.note_decoding(decoded as usize, elapsed);
        }
        Ok(bytes)
    }

    /// Remembers how fast this end decodes.
    fn note_decoding(&self, bytes: usize, elapsed: Duration) {
        if bytes < MEASURED {
            return;
        }
        let speed = (bytes as f64 / elapsed.max(Duration::from_micros(1)).as_secs_f64()) as u64;
        let decodes = &self.inner.decodes;
        // Of two at once one may be forgotten; the next one comes soon.
        let before = decodes.load(Ordering::Relaxed);
        let now = if before == 0 { speed } else { before / 5 * 4 + speed / 5 };
        decodes.store(now, Ordering::Relaxed);
    }

    /// Asks `holder` which of these blobs it has whole, in the same order.
    pub async fn has(
        &self,
        holder: &Holder,
        blobs: &[Digest],
        patience: Patience,
    ) -> Result<Vec<bool>, FetchError> {
        let mut has = Vec::with_capacity(blobs.len());
        let requests = Batches::of(blobs, |blobs| Request::Has(blobs.to_vec()));
        let Some(mut answers) = self.ask(holder, requests, patience).await? else {
            return Ok(has);
        };
        for blobs in blobs.chunks(MAX_ITEMS) {
            let content = answers.next(MAX_BITMAP).await?.unwrap_or_default();
            let bits = decode_bitmap(blobs.len(), &content);
            has.extend(bits.map_err(|error| answers.malformed(error.to_string()))?);
            answers.advance().await?;
        }
        Ok(has)
    }

    /// Asks `holder` how much it has of each of these blobs, in the same order.
    pub async fn parts(
        &self,
        holder: &Holder,
        blobs: &[Digest],
        patience: Patience,
    ) -> Result<Vec<Parts>, FetchError> {
        let mut parts = Vec::with_capacity(blobs.len());
        let requests = Batches::of(blobs, |blobs| Request::Parts(blobs.to_vec()));
        let Some(mut answers) = self.ask(holder, requests, patience).await? else {
            return Ok(parts);
        };
        for blobs in blobs.chunks(MAX_ITEMS) {
            for blob in blobs {
                let content = answers.next(parts::most_bytes(blob)).await?.unwrap_or_default();
                let told = parts::decode(blob, &content);
                parts.push(told.map_err(|error| answers.malformed(error.to_string()))?);
            }
            answers.advance().await?;
        }
        Ok(parts)
    }

    /// Tells `holder` that what came from it as `chunk` was something else, so that it looks; says
    /// whether it has the chunk still. Without this it would hand it out again: it does not hash
    /// what it has found right before.
    ///
    /// # Errors
    /// [`FetchError::Busy`] when the holder has been told so much lately that it looks no more.
    pub async fn doubt(
        &self,
        holder: &Holder,
        chunk: &Chunk,
        patience: Patience,
    ) -> Result<bool, FetchError> {
        let requests = iter::once(Request::Doubt(vec![*chunk]));
        let Some(mut answers) = self.ask(holder, requests, patience).await? else {
            return Ok(false);
        };
        let content = answers.next(MAX_BITMAP).await?.unwrap_or_default();
        let bits = decode_bitmap(1, &content);
        Ok(bits.map_err(|error| answers.malformed(error.to_string()))?[0])
    }

    /// Asks `holder` to get these blobs from wherever it can, and then which of them it has, in
    /// the same order. Takes as long as the holder takes: it gives a sign of life twice a second,
    /// and only without one does `patience` end. Dropping the future ends the request; what the
    /// holder has begun it may end or not.
    ///
    /// # Errors
    /// [`FetchError::Busy`] when the holder has enough such requests already.
    pub async fn bring(
        &self,
        holder: &Holder,
        blobs: &[Digest],
        patience: Patience,
    ) -> Result<Vec<bool>, FetchError> {
        let mut here = Vec::with_capacity(blobs.len());
        // One after the other: the holder would have no use for the next one any earlier.
        for blobs in blobs.chunks(MAX_ITEMS) {
            let requests = iter::once(Request::Bring(blobs.to_vec()));
            let Some(mut answers) = self.ask(holder, requests, patience).await? else {
                break;
            };
            let content = loop {
                let content = answers.next(MAX_BITMAP).await?.unwrap_or_default();
                if content != HEARTBEAT[..] {
                    break content;
                }
                answers.forgive();
            };
            let bits = decode_bitmap(blobs.len(), &content);
            here.extend(bits.map_err(|error| answers.malformed(error.to_string()))?);
        }
        Ok(here)
    }

    /// Asks `holder` for `bytes` bytes without meaning, at most [`MAX_PROBE`], to learn how good
    /// the link to it is. What was measured also goes where all samples go. A holder gives each
    /// peer four mebibytes in ten seconds, and after that an empty answer.
    pub async fn probe(&self, holder: &Holder, bytes: u32) -> Result<Probed, FetchError> {
        let bytes = bytes.min(MAX_PROBE);
        let requests = iter::once(Request::Probe { bytes });
        let Some(mut answers) = self.ask(holder, requests, Patience::default()).await? else {
            return Err(FetchError::Closed { peer: holder.peer });
        };
        let rtt = answers.link().connection.rtt();
        answers.probe(bytes as usize).await?;
        let elapsed = answers.asked().elapsed();
        let goodput = answers.link().goodput().map(|goodput| goodput.rate());
        answers.link().observe();
        Ok(Probed { rtt, goodput, elapsed })
    }

    /// Sends requests and waits for the first sign of an answer; `None` when there is nothing to
    /// ask. A connection from before may have died unnoticed; then, and only once, the requests go
    /// over a new one.
    async fn ask<R: Requests + Clone>(
        &self,
        holder: &Holder,
        requests: R,
        patience: Patience,
    ) -> Result<Option<Answers<R>>, FetchError> {
        let inner = &self.inner;
        if requests.clone().next().is_none() {
            return Ok(None);
        }
        add(&inner.tally.requests_made, 1);
        let Found { link, reused } = inner.links.get(holder).await?;
        let answers = match Answers::begin(inner.clone(), link, requests.clone(), patience).await {
            Err(FetchError::Lost { peer, why }) if reused => {
                tracing::debug!(%peer, why, "connection had died, dialling again");
                let Found { link, .. } = inner.links.dialled(holder).await?;
                Answers::begin(inner.clone(), link, requests, patience).await
            }
            answers => answers,
        };
        answers.map(Some)
    }
}

/// The requests for these orders, and then for what `next` gives. All of them are noted in `asked`.
fn requests<'a, N: FnMut() -> Option<Order>>(
    first: VecDeque<Order>,
    next: &'a RefCell<N>,
    asked: &'a RefCell<VecDeque<Order>>,
    accept: Accept,
) -> impl Requests + use<'a, N> {
    let rest = iter::from_fn(|| (next.borrow_mut())());
    first.into_iter().chain(rest).map(move |order| {
        let request = order.request(accept);
        asked.borrow_mut().push_back(order);
        request
    })
}

/// A record of a newer netbuild is as good as none; nobody did anything wrong.
fn open_record(key: &ActionKey, content: &[u8]) -> Result<Option<SealedRecord>, String> {
    let record = match SealedRecord::open(content) {
        Ok(record) => record,
        Err(error @ DecodeError::Newer { .. }) => {
            tracing::debug!(key = %key.short(), %error, "left alone");
            return Ok(None);
        }
        Err(error) => return Err(error.to_string()),
    };
    if record.record().key == *key {
        return Ok(Some(record));
    }
    Err(format!("record {} instead of {}", record.record().key.short(), key.short()))
}

/// Longest manifest that a blob of this size can have. Without it a holder could answer for a
/// small blob with the manifest of a huge one, and have it kept in memory.
fn manifest_limit(blob: &Digest) -> usize {
    let most_chunks = blob.size / MIN_CHUNK as u64 + 1;
    let limit = most_chunks.saturating_mul(MANIFEST_CHUNK) + MANIFEST_FRAME;
    usize::try_from(limit).map_or(MAX_MANIFEST, |limit| limit.min(MAX_MANIFEST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Blame,
        codec::{coding, encode},
        error::code,
        fixture::{
            Coded, Report, Rogue, Shelf, agent, chunk, everyone, gather, holder, identity, no_base,
            orders, prose, rogue, run_frame, sealed, soon,
        },
    };
    use netbuild_core::{codec::Codec, peer::PeerId};
    use quinn::SendStream;
    use std::{collections::BTreeMap, future::pending};

    const ASKED: &[u8] = b"the chunk that was asked for";

    /// A peer that answers each request with these bytes and the end of the stream.
    fn says(bytes: Vec<u8>) -> Rogue {
        rogue(1, move |_, mut send: SendStream| {
            let bytes = bytes.clone();
            async move {
                // Errors when the requester has had enough, as it should.
                let _ = send.write_all(&bytes).await;
                let _ = send.finish();
            }
        })
    }

    fn run(chunk: &[u8]) -> Vec<u8> {
        run_frame(Coding::Identity, 1, chunk.len(), chunk)
    }

    fn frame(content: &[u8]) -> Vec<u8> {
        [&(content.len() as u32).to_le_bytes()[..], content].concat()
    }

    async fn fetch(from: &Rogue, chunks: &[Chunk]) -> (Report, Result<(), FetchError>) {
        let endpoint = agent(2, everyone(), Shelf::default());
        let go_on = |_: usize, _: &Bytes| ControlFlow::Continue(());
        let orders = orders(chunks, MAX_ITEMS);
        gather(&endpoint, &from.holder, orders, no_base, Patience::default(), go_on).await
    }

    fn peer() -> PeerId {
        identity(1).peer_id()
    }

    #[tokio::test]
    async fn a_flipped_bit_is_never_delivered() {
        let asked = chunk(ASKED);
        for bit in [0, 1, 100, ASKED.len() * 8 - 1] {
            let mut bytes = ASKED.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let from = says([run(ASKED), run(&bytes)].concat());
            let (report, result) = fetch(&from, &[asked, asked]).await;
            assert_eq!(report.arrived, [0]);
            let (peer, chunk) = (peer(), asked);
            assert_eq!(result, Err(FetchError::WrongBytes { peer, chunk }));
        }
    }

    #[tokio::test]
    async fn another_chunk_is_wrong() {
        for other in [&b"the chunk nobody asked for.."[..], b"THE CHUNK THAT WAS ASKED FOR"] {
            let (report, result) =
                fetch(&says(run_frame(Coding::Identity, 1, ASKED.len(), other)), &[chunk(ASKED)])
                    .await;
            assert!(report.arrived.is_empty());
            assert!(matches!(result, Err(FetchError::WrongBytes { .. })), "{result:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_cut_or_too_long_is_malformed() {
        let whole = run(ASKED);
        let short = run_frame(Coding::Identity, 1, 5, b"short");
        for bad in [&whole[..0], &whole[..3], &whole[..9], &whole[..15], &short, &[0xff; 4000]] {
            let (report, result) = fetch(&says(bad.to_vec()), &[chunk(ASKED)]).await;
            assert!(report.arrived.is_empty());
            let error = result.unwrap_err();
            assert!(matches!(error, FetchError::Malformed { .. }), "{error}");
            assert_eq!(error.blame(), Blame::Peer);
        }
    }

    type Bodies = [(Coding, Vec<u8>); 2];

    /// Some chunks that shrink, and one run of them in each coding.
    fn coded() -> (Vec<Chunk>, Vec<u8>, Bodies) {
        let contents: Vec<_> = (0..5).map(|number| prose(number, 2000)).collect();
        let chunks = contents.iter().map(|bytes| chunk(bytes)).collect();
        let whole = contents.concat();
        let bodies = [Codec::Gzip(6), Codec::Zstd(3)]
            .map(|codec| (coding(codec), encode(codec, &whole).unwrap()));
        (chunks, whole, bodies)
    }

    #[tokio::test]
    async fn runs_of_every_coding_are_taken_apart_and_accounted_for() {
        let (chunks, whole, bodies) = coded();
        for (coding, body) in bodies {
            let coded = run_frame(coding, 5, whole.len(), &body);
            let absent = run_frame(Coding::Absent, 2, 0, &[]);
            let plain = run_frame(Coding::Identity, 3, 6000, &whole[4000..]);
            let from = says([&coded[..], &absent, &plain].concat());
            let (report, result) = fetch(&from, &[&chunks[..], &chunks].concat()).await;
            assert_eq!(result, Ok(()));
            assert_eq!(report.arrived, [0, 1, 2, 3, 4, 7, 8, 9]);
            assert_eq!((&report.missing[..], report.bytes), (&[5, 6][..], 16_000));
            let expected = [
                (Coding::Identity, Coded { wire: 6011, logical: 6000 }),
                (coding, Coded { wire: coded.len() as u64, logical: 10_000 }),
            ];
            assert_eq!(report.codings, BTreeMap::from(expected));
        }
    }

    #[tokio::test]
    async fn a_coded_run_that_is_damaged_is_never_delivered() {
        let (chunks, whole, bodies) = coded();
        for (coding, body) in bodies {
            let bits = body.len() * 8;
            for bit in [0, 17, bits / 3, bits / 2, bits - 1] {
                let mut bad = body.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                let from = says(run_frame(coding, 5, whole.len(), &bad));
                // Before the damage there may be chunks that are right; `fetch` looks at each.
                let (report, result) = fetch(&from, &chunks).await;
                // A few bits, such as the name of the system that made it, mean nothing in gzip.
                let harmless = coding == Coding::Gzip && report.arrived.len() == 5;
                let detected = result.as_ref().is_err_and(|error| error.blame() == Blame::Peer);
                assert!(harmless || detected, "{coding} {bit} {result:?}");
            }
        }
    }

    #[tokio::test]
    async fn bombs_and_lies_about_lengths_and_counts_are_malformed() {
        let (chunks, whole, bodies) = coded();
        for (coding, body) in bodies {
            let len = whole.len();
            let codec = if coding == Coding::Gzip { Codec::Gzip(9) } else { Codec::Zstd(19) };
            let bomb = encode(codec, &vec![0; 8 << 20]).unwrap();
            let short = encode(codec, &whole[1..]).unwrap();
            let bad = [
                run_frame(coding, 5, len, &bomb[..bomb.len().min(len - 1)]),
                run_frame(coding, 5, len, &short),
                run_frame(coding, 5, len, &body[..body.len() - 1]),
                run_frame(coding, 5, len, &[&body[..], b"more"].concat()),
                run_frame(coding, 5, len + 1, &body),
                run_frame(coding, 4, len, &body),
                run_frame(coding, 6, len + 2000, &body),
                run_frame(coding, 0, 0, &body),
                run_frame(coding, 5, len, &vec![0; len]),
                run_frame(coding, u16::MAX.into(), u32::MAX as usize, &body),
                run_frame(Coding::Delta, 5, len, &body),
                vec![0; 100],
            ];
            for (number, bad) in bad.into_iter().enumerate() {
                let (report, result) = fetch(&says(bad), &chunks).await;
                assert!(report.arrived.is_empty(), "{coding} {number}");
                let malformed = matches!(result, Err(FetchError::Malformed { .. }));
                assert!(malformed, "{coding} {number}: {result:?}");
            }
        }
    }

    #[test]
    fn orders_that_no_holder_would_answer_are_bugs_of_the_caller() {
        let (asked, target) = (chunk(ASKED), Digest::of(ASKED));
        let patches =
            |bases: Vec<Digest>| Order::Patches { target, first: 0, chunks: vec![asked], bases };
        let request = |order: Order| {
            let made = std::panic::catch_unwind(|| order.request(Accept::default()));
            made.is_ok_and(|request| {
                Request::decode(&request.encode()).is_ok_and(|it| it == request)
            })
        };
        assert!(request(Order::Chunks(vec![asked; MAX_ITEMS])));
        assert!(request(patches(vec![target; MAX_BASES + 1])));
        for bad in [
            Order::Chunks(Vec::new()),
            Order::Chunks(vec![asked; MAX_ITEMS + 1]),
            Order::Chunks(vec![asked, Chunk { len: 0, ..asked }]),
            Order::Chunks(vec![asked, Chunk { len: MAX_CHUNK as u32 + 1, ..asked }]),
            patches(Vec::new()),
        ] {
            assert!(!request(bad.clone()), "{bad:?}");
        }
    }

    #[test]
    fn the_chunks_of_a_run_have_all_its_bytes_between_them() {
        let mut share = Share { wire: 1000, decoded: 31 };
        let shares: Vec<u64> = [10, 1, 20].map(|len| share.of(len)).to_vec();
        assert_eq!((shares.iter().sum::<u64>(), share.decoded), (1000, 0));
        assert_eq!(shares[0], 322);
    }

    #[tokio::test]
    async fn an_endless_answer_is_left_where_the_request_ends() {
        let from = rogue(1, |_, mut send| async move {
            let frames = run(ASKED).repeat(1000);
            while send.write_all(&frames).await.is_ok() {
                tokio::task::yield_now().await;
            }
        });
        let (report, result) = fetch(&from, &[chunk(ASKED); 3]).await;
        assert_eq!((result, report.arrived.len(), report.missing), (Ok(()), 3, Vec::new()));
    }

    #[tokio::test]
    async fn what_came_before_a_stall_stays_delivered() {
        let from = rogue(1, |_, mut send| async move {
            send.write_all(&run(ASKED)).await.unwrap();
            send.write_all(&run(ASKED)[..15]).await.unwrap();
            pending::<()>().await;
        });
        let (report, result) = fetch(&from, &[chunk(ASKED); 2]).await;
        assert_eq!(report.arrived, [0]);
        assert_eq!(result, Err(FetchError::Stalled { peer: peer() }));
    }

    #[tokio::test]
    async fn a_claimed_length_costs_no_memory_and_no_more_than_the_blob_can_need() {
        let endpoint = agent(2, everyone(), Shelf::default());
        let small = Digest::of(b"a small blob");
        assert_eq!(manifest_limit(&small), 101 + 161);
        let from = says(frame(&[0; 263]));
        let result = soon(endpoint.manifests(&from.holder, &[small], Patience::default())).await;
        assert!(matches!(result, Err(FetchError::Malformed { .. })), "{result:?}");

        let huge = Digest { size: u64::MAX, ..small };
        assert_eq!(manifest_limit(&huge), MAX_MANIFEST);
        let from = says((MAX_MANIFEST as u32).to_le_bytes().to_vec());
        let result = soon(endpoint.manifests(&from.holder, &[huge], Patience::default())).await;
        assert!(result.is_err(), "{result:?}");
    }

    #[tokio::test]
    async fn a_record_must_be_signed_and_be_the_one_asked_for() {
        let endpoint = agent(2, everyone(), Shelf::default());
        let (asked, other) = (ActionKey([1; 32]), ActionKey([2; 32]));
        let right = sealed(3, asked).as_bytes().to_vec();
        let mut forged = right.clone();
        forged[40] ^= 1;
        for bad in [forged, sealed(3, other).as_bytes().to_vec(), vec![0; MAX_RECORD + 1]] {
            let from = says(frame(&bad));
            let error = soon(endpoint.records(&from.holder, &[asked], Patience::default()))
                .await
                .unwrap_err();
            assert!(matches!(error, FetchError::Malformed { .. }), "{error}");
        }
        let from = says(frame(&right));
        let records =
            soon(endpoint.records(&from.holder, &[asked], Patience::default())).await.unwrap();
        assert_eq!(records, [Some(sealed(3, asked))]);
    }

    #[tokio::test]
    async fn a_record_of_a_newer_version_is_as_good_as_none_and_those_behind_it_come() {
        let keys = [1, 2, 3].map(|number| ActionKey([number; 32]));
        let mut shelf = Shelf::default();
        for key in keys {
            shelf.records.insert(key, sealed(1, key).as_bytes().to_vec());
        }
        shelf.records.get_mut(&keys[1]).unwrap()[0] = u8::MAX;
        let (from, endpoint) =
            (agent(1, everyone(), shelf), agent(2, everyone(), Shelf::default()));
        let at = holder(1, &from);
        for _ in 0..2 {
            let records = soon(endpoint.records(&at, &keys, Patience::default())).await.unwrap();
            assert_eq!(records, [Some(sealed(1, keys[0])), None, Some(sealed(1, keys[2]))]);
        }
    }

    #[tokio::test]
    async fn a_reset_is_no_misbehaviour() {
        let from = rogue(1, |_, mut send| async move {
            send.reset(code::BUSY).unwrap();
        });
        let (_, result) = fetch(&from, &[chunk(ASKED)]).await;
        assert_eq!(result, Err(FetchError::Busy { peer: peer() }));
    }

    #[tokio::test]
    async fn a_holder_looks_at_what_is_doubted_but_not_without_end() {
        let mut shelf = Shelf::default();
        let chunks = shelf.put([vec![1; MAX_CHUNK]]);
        let reads = shelf.reads.clone();
        let holder = agent(1, everyone(), shelf);
        let at = crate::fixture::holder(1, &holder);
        let other = agent(2, everyone(), Shelf::default());
        let doubt = |chunk| {
            let (at, other) = (at.clone(), other.clone());
            async move { soon(other.doubt(&at, &chunk, Patience::default())).await }
        };
        let lost = chunk(b"not here");
        assert_eq!(doubt(lost).await, Ok(false));
        assert_eq!(doubt(chunks[0]).await, Ok(true));
        let mut looked = 1;
        let refused = loop {
            match doubt(chunks[0]).await {
                Ok(true) => looked += 1,
                other => break other,
            }
        };
        assert_eq!(refused, Err(FetchError::Busy { peer: at.peer }));
        assert!(looked <= 3, "{looked}");
        assert_eq!(reads.load(Ordering::Relaxed), looked + 1);
    }

    #[tokio::test]
    async fn a_holder_says_how_much_it_has() {
        let mut shelf = Shelf::default();
        shelf.put([b"here".to_vec()]);
        let holder = agent(1, everyone(), shelf);
        let at = crate::fixture::holder(1, &holder);
        let other = agent(2, everyone(), Shelf::default());
        let blobs = [Digest::of(b"here"), Digest::of(b"not here")];
        let parts = soon(other.parts(&at, &blobs, Patience::default())).await;
        assert_eq!(parts, Ok(vec![Parts::Whole, Parts::None]));
    }
}
