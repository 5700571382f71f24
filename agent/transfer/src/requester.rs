//! The asking end: requests to one holder, and the checks that make its answers believable.

use crate::{
    Endpoint, FetchError, Holder,
    counters::add,
    endpoint::Inner,
    error::code,
    frame::{FrameError, FrameReader, PROGRESS_TIMEOUT},
    links::{Found, Link},
};
use bytes::Bytes;
use netbuild_core::{
    chunk::{Chunk, MAX_CHUNK, MIN_CHUNK, Manifest},
    digest::{Digest, Hash},
    key::ActionKey,
};
use netbuild_proto::{
    data::{MAX_ITEMS, MAX_MANIFEST, Request, decode_manifest},
    record::{MAX_RECORD, SealedRecord},
};
use quinn::{ReadError, WriteError};
use std::{future::Future, ops::ControlFlow, sync::Arc};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

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
}

impl Endpoint {
    /// Asks `holder` for records. Those that come are signed by their writers and are the ones
    /// asked for, in the same order; `None` where the holder has none.
    pub async fn records(
        &self,
        holder: &Holder,
        keys: &[ActionKey],
    ) -> Result<Vec<Option<SealedRecord>>, FetchError> {
        let mut records = Vec::with_capacity(keys.len());
        for keys in keys.chunks(MAX_ITEMS) {
            let request = Request::Records(keys.to_vec());
            let mut answers = self.ask(holder, &request).await?;
            for key in keys {
                let content = answers.next(MAX_RECORD).await?;
                let record = content.map(|content| open_record(key, &content));
                records.push(record.transpose().map_err(|why| answers.malformed(why))?);
            }
        }
        Ok(records)
    }

    /// Asks `holder` for manifests, in the order of `blobs`; `None` where the holder has none.
    /// A manifest that comes can make up its blob, but only the blob's bytes prove that it does.
    pub async fn manifests(
        &self,
        holder: &Holder,
        blobs: &[Digest],
    ) -> Result<Vec<Option<Manifest>>, FetchError> {
        let mut manifests = Vec::with_capacity(blobs.len());
        for blobs in blobs.chunks(MAX_ITEMS) {
            let request = Request::Manifests(blobs.to_vec());
            let mut answers = self.ask(holder, &request).await?;
            for blob in blobs {
                let content = answers.next(manifest_limit(blob)).await?;
                let manifest = content.map(|content| decode_manifest(*blob, &content));
                let manifest = manifest.transpose();
                manifests.push(manifest.map_err(|error| answers.malformed(error.to_string()))?);
            }
        }
        Ok(manifests)
    }

    /// Asks `holder` for chunks and hands each one that comes to `deliver`, with its index in
    /// `chunks`, after its bytes were verified. They come in order.
    ///
    /// While `deliver` works nothing is read, which holds back the holder; with
    /// [`ControlFlow::Break`] it ends the request, and the report tells how far that was. What was
    /// delivered before an error stays good.
    ///
    /// # Errors
    /// [`FetchError::WrongBytes`] for bytes that are not the chunk; the connection to the holder
    /// is then closed, with all that is under way on it.
    pub async fn chunks<F, R>(
        &self,
        holder: &Holder,
        chunks: &[Chunk],
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
        for wanted in wanted.chunks(MAX_ITEMS) {
            let request = Request::Chunks(wanted.iter().map(|index| chunks[*index]).collect());
            let mut answers = self.ask(holder, &request).await?;
            for &index in wanted {
                let Some(bytes) = answers.chunk(&chunks[index]).await? else {
                    report.missing.push(index);
                    continue;
                };
                report.bytes += bytes.len() as u64;
                if deliver(index, bytes).await.is_break() {
                    return Ok(report);
                }
            }
        }
        Ok(report)
    }

    /// Sends a request and waits for the first sign of an answer. A connection from before may
    /// have died unnoticed; then, and only once, the request goes over a new one.
    async fn ask(&self, holder: &Holder, request: &Request) -> Result<Answers, FetchError> {
        add(&self.inner.tally.requests_made, 1);
        let Found { link, reused } = self.inner.links.get(holder).await?;
        match Answers::begin(self.inner.clone(), link, request).await {
            Err(FetchError::Lost { peer, why }) if reused => {
                tracing::debug!(%peer, why, "connection had died, dialling again");
                let Found { link, .. } = self.inner.links.get(holder).await?;
                Answers::begin(self.inner.clone(), link, request).await
            }
            answers => answers,
        }
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

/// The answers to one request, as they come.
struct Answers {
    inner: Arc<Inner>,
    link: Arc<Link>,
    frames: FrameReader,
    /// Length of the next frame, when it was read already.
    next_length: Option<usize>,
    _room: OwnedSemaphorePermit,
}

impl Answers {
    async fn begin(
        inner: Arc<Inner>,
        link: Arc<Link>,
        request: &Request,
    ) -> Result<Self, FetchError> {
        let room = match request {
            Request::Chunks(_) => &link.chunk_requests,
            Request::Records(_) | Request::Manifests(_) => &link.small_requests,
        };
        let Ok(room) = room.clone().acquire_owned().await else {
            return Err(FetchError::Closed { peer: link.peer });
        };
        let frames = match timeout(PROGRESS_TIMEOUT, send_request(&link, request)).await {
            Ok(Ok(receive)) => Ok(receive),
            Ok(Err(WriteError::ConnectionLost(error))) => {
                Err(FrameError::Read(ReadError::ConnectionLost(error)))
            }
            // The holder wants no more of the request; its answer says why.
            Ok(Err(WriteError::Stopped(code))) => Err(FrameError::Read(ReadError::Reset(code))),
            Ok(Err(_)) => Err(FrameError::Ended),
            Err(_) => Err(FrameError::Stalled),
        };
        let frames = frames.map_err(|error| fail(&inner, &link, error))?;
        let mut answers = Self { inner, link, frames, next_length: None, _room: room };
        answers.next_length = Some(answers.length().await?);
        Ok(answers)
    }

    /// The next answer of at most `limit` bytes; `None` when the holder lacks the thing.
    async fn next(&mut self, limit: usize) -> Result<Option<Bytes>, FetchError> {
        let length = match self.next_length.take() {
            Some(length) => length,
            None => self.length().await?,
        };
        match length {
            0 => Ok(None),
            _ if length <= limit => Ok(Some(self.content(length).await?)),
            _ => Err(self.malformed(format!("frame of {length} bytes, limit {limit}"))),
        }
    }

    /// The next answer, which must be exactly `chunk`.
    async fn chunk(&mut self, chunk: &Chunk) -> Result<Option<Bytes>, FetchError> {
        let Some(bytes) = self.next(chunk.len as usize).await? else {
            return Ok(None);
        };
        if bytes.len() == chunk.len as usize && Hash::of(&bytes) == chunk.hash {
            return Ok(Some(bytes));
        }
        let peer = self.link.peer;
        tracing::warn!(%peer, chunk = %chunk.hash, "peer sent wrong bytes, nothing of it is kept");
        self.inner.links.close(&self.link, code::WRONG_BYTES);
        Err(FetchError::WrongBytes { peer, chunk: chunk.hash })
    }

    async fn length(&mut self) -> Result<usize, FetchError> {
        let length = self.frames.length().await;
        length.map_err(|error| fail(&self.inner, &self.link, error))
    }

    async fn content(&mut self, length: usize) -> Result<Bytes, FetchError> {
        let content = self.frames.content(length).await;
        let content = content.map_err(|error| fail(&self.inner, &self.link, error))?;
        add(&self.inner.tally.bytes_fetched, length as u64);
        Ok(content)
    }

    fn malformed(&self, why: String) -> FetchError {
        malformed(&self.inner, &self.link, why)
    }
}

async fn send_request(link: &Link, request: &Request) -> Result<FrameReader, WriteError> {
    let (mut send, receive) = link.connection.open_bi().await?;
    let content = request.encode();
    // At most MAX_REQUEST, as no request has more than MAX_ITEMS things.
    let header = (content.len() as u32).to_le_bytes();
    send.write_all(&[&header[..], &content].concat()).await?;
    // Fails only when the holder wants no more; its answer says why.
    let _ = send.finish();
    Ok(FrameReader::new(receive))
}

/// What a frame that did not come means, and what becomes of the connection.
fn fail(inner: &Inner, link: &Arc<Link>, error: FrameError) -> FetchError {
    let peer = link.peer;
    if inner.closing.is_cancelled() {
        return FetchError::Closed { peer };
    }
    match error {
        FrameError::Stalled => {
            // The next request finds out on a new connection whether the peer is still there.
            inner.links.forget(link);
            FetchError::Stalled { peer }
        }
        FrameError::Ended => malformed(inner, link, error.to_string()),
        FrameError::Read(ReadError::ConnectionLost(error)) => {
            inner.links.forget(link);
            FetchError::of_connection(peer, &error)
        }
        FrameError::Read(ReadError::Reset(code)) => FetchError::of_code(peer, code, &error),
        FrameError::Read(_) => FetchError::Lost { peer, why: error.to_string() },
    }
}

fn malformed(inner: &Inner, link: &Arc<Link>, why: String) -> FetchError {
    let peer = link.peer;
    tracing::warn!(%peer, why, "peer does not follow the protocol");
    inner.links.close(link, code::MALFORMED);
    FetchError::Malformed { peer, why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Blame,
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
        let result = soon(endpoint.chunks(&from.holder, chunks, deliver)).await;
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
        let result = soon(endpoint.manifests(&from.holder, &[small])).await;
        assert!(matches!(result, Err(FetchError::Malformed { .. })), "{result:?}");

        let huge = Digest { size: u64::MAX, ..small };
        assert_eq!(manifest_limit(&huge), MAX_MANIFEST);
        let from = says((MAX_MANIFEST as u32).to_le_bytes().to_vec());
        let result = soon(endpoint.manifests(&from.holder, &[huge])).await;
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
            let error = soon(endpoint.records(&from.holder, &[asked])).await.unwrap_err();
            assert!(matches!(error, FetchError::Malformed { .. }), "{error}");
        }
        let from = says(frame(&right));
        let records = soon(endpoint.records(&from.holder, &[asked])).await.unwrap();
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
