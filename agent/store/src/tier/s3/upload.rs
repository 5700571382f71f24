//! How a batch comes into a bucket: large blobs each as a piece of its own, what is small packed into
//! segments, and the records in the last of these.

use super::{
    S3Tier,
    bucket::AT_ONCE,
    segment::{ENTRY, Pack, Packed},
};
use crate::tier::{
    self, Batch, Blob, Class, MAX_NAMED, Offer, Operation, Stored, TierError, batch::Pieces,
};
use bytes::Bytes;
use futures::{
    FutureExt as _, StreamExt as _, TryStreamExt as _, stream, stream::FuturesUnordered,
};
use netbuild_core::digest::Digest;
use netbuild_proto::segment::Held;
use object_store::{MultipartUpload, UploadPart, path::Path};

/// Largest blob that is packed with others. Of a larger one the request costs little against its bytes.
pub(super) const MAX_PACKED: u64 = 256 << 10;
/// Content of a segment, about.
pub(super) const SEGMENT: u64 = 16 << 20;
/// Largest blob that is sent in one piece, and the least that a part has; S3 takes no parts below 5 MiB.
const PART: u64 = 8 << 20;
/// Most parts that S3 takes, and some room.
const MAX_PARTS: u64 = 9_500;
/// Parts on their way at once.
const PARTS_AT_ONCE: usize = 4;
/// Large blobs on their way at once.
const LARGE_AT_ONCE: usize = 2;

const PUT: Operation = Operation::Put;

impl S3Tier {
    pub(super) async fn keep(&self, batch: Batch) -> Result<Stored, TierError> {
        batch.check(self.bucket.name(), self.options_limit())?;
        let mut stored = Stored::default();
        if batch.blobs.is_empty() && batch.records.is_empty() {
            return Ok(stored);
        }
        self.refresh(PUT, super::FRESH).await?;
        let names: Vec<Digest> = batch.blobs.iter().map(|(blob, _)| *blob).collect();
        let present = self.present(&names).await?;
        stored.present = present.iter().filter(|present| **present).count() as u64;
        let absent = batch.blobs.into_iter().zip(present);
        let absent = absent.filter_map(|(blob, present)| (!present).then_some(blob));
        let (small, large): (Vec<_>, Vec<_>) =
            absent.partition(|(blob, _)| blob.size <= MAX_PACKED);
        stored.blobs = (small.len() + large.len()) as u64;
        stored.bytes = small.iter().chain(&large).map(|(blob, _)| blob.size).sum();
        stored.records = batch.records.len() as u64;
        let sent = large.into_iter().map(|(blob, content)| self.send(blob, content).boxed());
        let sent: Vec<_> = sent.collect();
        stream::iter(sent).buffer_unordered(LARGE_AT_ONCE).try_collect::<()>().await?;
        self.pack(small, batch.records).await?;
        Ok(stored)
    }

    /// Which blobs are there and will be for as long as a record lives that is written now.
    async fn present(&self, blobs: &[Digest]) -> Result<Vec<bool>, TierError> {
        let asked = blobs.iter().map(|blob| {
            async move {
                if blob.size > MAX_PACKED {
                    let found = self.bucket.head(PUT, &self.bucket.blob(blob)).await?;
                    let found = found.filter(|_| !self.state().shelf.is_damaged(blob));
                    return Ok(found.is_some_and(|(_, modified)| self.is_young(modified)));
                }
                let spot = self.state().shelf.blob(blob);
                Ok(spot.is_some_and(|(segment, at)| self.is_young(segment.index.blobs[at].written)))
            }
            .boxed()
        });
        let asked: Vec<_> = asked.collect();
        stream::iter(asked).buffered(AT_ONCE).try_collect().await
    }

    async fn pack(&self, small: Vec<(Digest, Blob)>, offers: Vec<Offer>) -> Result<(), TierError> {
        let written = self.bucket.clock.now();
        let mut pack = Pack::default();
        let mut group = Vec::new();
        let mut bytes = 0;
        for (blob, content) in small {
            bytes += blob.size + ENTRY;
            group.push((blob, content));
            if bytes >= SEGMENT {
                bytes = 0;
                self.fill(&mut pack, std::mem::take(&mut group), written).await?;
                self.write(std::mem::take(&mut pack)).await?;
            }
        }
        self.fill(&mut pack, group, written).await?;
        for offer in offers {
            let record = offer.record.record();
            let (key, hlc) = (record.key, record.hlc.0);
            let bytes = Bytes::copy_from_slice(offer.record.as_bytes());
            pack.add_record(Packed { key, hlc, written, bytes, blobs: offer.blobs });
            if pack.bytes() >= 2 * SEGMENT - MAX_NAMED as u64 * ENTRY {
                self.write(std::mem::take(&mut pack)).await?;
            }
        }
        self.write(pack).await
    }

    async fn fill(
        &self,
        pack: &mut Pack,
        group: Vec<(Digest, Blob)>,
        written: u64,
    ) -> Result<(), TierError> {
        if !group.is_empty() {
            for (digest, bytes) in tier::load(self.bucket.name(), group).await? {
                pack.add_blob(Held { digest, written }, bytes);
            }
        }
        Ok(())
    }

    async fn write(&self, pack: Pack) -> Result<(), TierError> {
        if pack.is_empty() {
            return Ok(());
        }
        let Some((segment, parts)) = pack.finish(self.bucket.clock.now()) else {
            return Err(TierError::new(self.bucket.name(), PUT.as_str(), Class::TooLarge)
                .because("the batch does not fit a segment"));
        };
        self.bucket.put(PUT, &self.bucket.segment(&segment.name), parts).await?;
        self.state().shelf.add(segment);
        Ok(())
    }

    /// Sends a large blob.
    async fn send(&self, blob: Digest, content: Blob) -> Result<(), TierError> {
        let path = self.bucket.blob(&blob);
        if blob.size <= PART {
            let loaded = tier::load(self.bucket.name(), vec![(blob, content)]).await?;
            for (_, bytes) in loaded {
                self.bucket.replace(PUT, &path, bytes).await?;
            }
        } else {
            self.send_parts(blob, content, &path).await?;
        }
        self.state().shelf.mended(&blob);
        Ok(())
    }

    async fn send_parts(&self, blob: Digest, content: Blob, path: &Path) -> Result<(), TierError> {
        let mut upload = self.bucket.begin(PUT, path).await?;
        let sent = self.parts(&mut *upload, blob, content.pieces(blob)).await;
        match sent {
            Ok(()) => self.bucket.step(PUT, upload.complete()).await.map(drop),
            Err(error) => {
                // What was sent is of no use, and the bucket's rules remove it if this does not.
                if let Err(error) = self.bucket.step(PUT, upload.abort()).await {
                    tracing::debug!(%error, "an upload could not be given up");
                }
                Err(error)
            }
        }
    }

    async fn parts(
        &self,
        upload: &mut dyn MultipartUpload,
        blob: Digest,
        mut pieces: Pieces,
    ) -> Result<(), TierError> {
        let len = PART.max(blob.size.div_ceil(MAX_PARTS));
        let mut sending: FuturesUnordered<UploadPart> = FuturesUnordered::new();
        loop {
            let (left, piece) = pieces.next(len, self.bucket.name()).await?;
            pieces = left;
            let Some(piece) = piece else { break };
            sending.push(upload.put_part(piece.into()));
            while sending.len() >= PARTS_AT_ONCE {
                self.bucket.step(PUT, sending.next().map(Option::transpose)).await?;
            }
        }
        while self.bucket.step(PUT, sending.next().map(Option::transpose)).await?.is_some() {}
        Ok(())
    }
}
