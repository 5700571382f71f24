//! The asking end: requests to one holder, and the checks that make its answers believable.

use crate::{
    Endpoint, FetchError, Holder, Patience,
    answers::{Answers, Batches, Requests},
    counters::add,
    links::Found,
};
use bytes::Bytes;
use netbuild_core::{
    chunk::{Chunk, MAX_CHUNK, MIN_CHUNK, Manifest},
    digest::Digest,
    key::ActionKey,
};
use netbuild_proto::{
    data::{
        HEARTBEAT, MAX_BITMAP, MAX_ITEMS, MAX_MANIFEST, MAX_PROBE, Request, decode_bitmap,
        decode_manifest,
    },
    record::{MAX_RECORD, SealedRecord},
};
use std::{future::Future, iter, ops::ControlFlow, time::Duration};

/// Most bytes of one chunk in a manifest frame, and of what surrounds them all.
const MANIFEST_CHUNK: u64 = 37;
const MANIFEST_FRAME: u64 = 64;

/// What came of a request for chunks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChunkReport {
    /// Indices of the chunks that the holder lacks.
    pub missing: Vec<usize>,
    /// Payload bytes that were received and delivered.
    pub bytes: u64,
    /// From the request, on a connection that stands, to the first byte of its answer.
    pub first_byte: Duration,
    /// From the same moment to the end, with the time that was taken to deliver.
    pub elapsed: Duration,
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
                let record = content.map(|content| open_record(key, &content));
                records.push(record.transpose().map_err(|why| answers.malformed(why))?);
            }
            answers.advance().await?;
        }
        Ok(records)
    }

    /// Asks `holder` for manifests, in the order of `blobs`; `None` where the holder has none.
    /// A manifest that comes can make up its blob, but only the blob's bytes prove that it does.
    pub async fn manifests(
        &self,
        holder: &Holder,
        blobs: &[Digest],
        patience: Patience,
    ) -> Result<Vec<Option<Manifest>>, FetchError> {
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

    /// Asks `holder` for chunks and hands each one that comes to `deliver`, with its index in
    /// `chunks`, after its bytes were verified. They come in order.
    ///
    /// While `deliver` works nothing is read, which holds back the holder; with
    /// [`ControlFlow::Break`] it ends the request, and the report tells how far that was. What was
    /// delivered before an error, or before the future was dropped, stays good. So the same chunks
    /// may be asked of two holders at once, and the slower one dropped.
    ///
    /// # Errors
    /// [`FetchError::WrongBytes`] for bytes that are not the chunk; the connection to the holder
    /// is then closed, with all that is under way on it.
    pub async fn chunks<F, R>(
        &self,
        holder: &Holder,
        chunks: &[Chunk],
        patience: Patience,
        mut deliver: F,
    ) -> Result<ChunkReport, FetchError>
    where
        F: FnMut(usize, Bytes) -> R,
        R: Future<Output = ControlFlow<()>>,
    {
        let mut report = ChunkReport::default();
        // No manifest names a chunk of an impossible length, so no holder has one.
        let possible = |index: &usize| (1..=MAX_CHUNK).contains(&(chunks[*index].len as usize));
        let (wanted, absent): (Vec<_>, Vec<_>) = (0..chunks.len()).partition(possible);
        report.missing = absent;
        let asked: Vec<_> = wanted.iter().map(|index| chunks[*index]).collect();
        let requests = Batches::of(&asked, |chunks| Request::Chunks(chunks.to_vec()));
        let Some(mut answers) = self.ask(holder, requests, patience).await? else {
            return Ok(report);
        };
        report.first_byte = answers.first_byte();
        'requests: for wanted in wanted.chunks(MAX_ITEMS) {
            for &index in wanted {
                let Some(bytes) = answers.chunk(&chunks[index]).await? else {
                    report.missing.push(index);
                    continue;
                };
                report.bytes += bytes.len() as u64;
                if deliver(index, bytes).await.is_break() {
                    break 'requests;
                }
            }
            answers.advance().await?;
        }
        report.elapsed = answers.asked().elapsed();
        Ok(report)
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

fn open_record(key: &ActionKey, content: &[u8]) -> Result<SealedRecord, String> {
    let record = SealedRecord::open(content).map_err(|error| error.to_string())?;
    if record.record().key == *key {
        return Ok(record);
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
        error::code,
        fixture::{Rogue, Shelf, agent, chunk, everyone, identity, rogue, sealed, soon},
    };
    use netbuild_core::peer::PeerId;
    use quinn::SendStream;
    use std::future::pending;

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

    fn frame(content: &[u8]) -> Vec<u8> {
        [&(content.len() as u32).to_le_bytes()[..], content].concat()
    }

    async fn fetch(
        from: &Rogue,
        chunks: &[Chunk],
    ) -> (Vec<usize>, Result<ChunkReport, FetchError>) {
        let endpoint = agent(2, everyone(), Shelf::default());
        let mut delivered = Vec::new();
        let deliver = |index: usize, bytes: Bytes| {
            assert_eq!(chunk(&bytes), chunks[index], "delivered unverified");
            delivered.push(index);
            async { ControlFlow::Continue(()) }
        };
        let result =
            soon(endpoint.chunks(&from.holder, chunks, Patience::default(), deliver)).await;
        (delivered, result)
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
            let from = says([frame(ASKED), frame(&bytes)].concat());
            let (delivered, result) = fetch(&from, &[asked, asked]).await;
            assert_eq!(delivered, [0]);
            let (peer, chunk) = (peer(), asked.hash);
            assert_eq!(result, Err(FetchError::WrongBytes { peer, chunk }));
        }
    }

    #[tokio::test]
    async fn another_chunk_of_the_same_or_another_length_is_wrong() {
        for other in [&b"the chunk nobody asked for.."[..], b"short"] {
            let (delivered, result) = fetch(&says(frame(other)), &[chunk(ASKED)]).await;
            assert!(delivered.is_empty());
            assert!(matches!(result, Err(FetchError::WrongBytes { .. })), "{result:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_cut_or_too_long_is_malformed() {
        let whole = frame(ASKED);
        for bad in [&whole[..0], &whole[..3], &whole[..9], &[0xff; 4000]] {
            let (delivered, result) = fetch(&says(bad.to_vec()), &[chunk(ASKED)]).await;
            assert!(delivered.is_empty());
            let error = result.unwrap_err();
            assert!(matches!(error, FetchError::Malformed { .. }), "{error}");
            assert_eq!(error.blame(), Blame::Peer);
        }
    }

    #[tokio::test]
    async fn an_endless_answer_is_left_where_the_request_ends() {
        let from = rogue(1, |_, mut send| async move {
            let frames = frame(ASKED).repeat(1000);
            while send.write_all(&frames).await.is_ok() {
                tokio::task::yield_now().await;
            }
        });
        let (delivered, result) = fetch(&from, &[chunk(ASKED); 3]).await;
        assert_eq!((delivered.len(), result.unwrap().missing), (3, Vec::new()));
    }

    #[tokio::test]
    async fn what_came_before_a_stall_stays_delivered() {
        let from = rogue(1, |_, mut send| async move {
            send.write_all(&frame(ASKED)).await.unwrap();
            send.write_all(&frame(ASKED)[..10]).await.unwrap();
            pending::<()>().await;
        });
        let (delivered, result) = fetch(&from, &[chunk(ASKED); 2]).await;
        assert_eq!(delivered, [0]);
        assert_eq!(result, Err(FetchError::Stalled { peer: peer() }));
    }

    #[tokio::test]
    async fn a_claimed_length_costs_no_memory_and_no_more_than_the_blob_can_need() {
        let endpoint = agent(2, everyone(), Shelf::default());
        let small = Digest::of(b"a small blob");
        assert_eq!(manifest_limit(&small), 101);
        let from = says(frame(&[0; 102]));
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
    async fn a_reset_is_no_misbehaviour() {
        let from = rogue(1, |_, mut send| async move {
            send.reset(code::BUSY).unwrap();
        });
        let (_, result) = fetch(&from, &[chunk(ASKED)]).await;
        assert_eq!(result, Err(FetchError::Busy { peer: peer() }));
    }
}
