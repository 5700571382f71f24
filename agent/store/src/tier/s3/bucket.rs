//! The requests that are made of a bucket.

use super::{
    failure,
    http::{Clock, OPERATION, Watch},
    options::S3Options,
    segment::Name,
};
use crate::tier::{Class, Meter, Operation, TierError};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use netbuild_core::digest::Digest;
use object_store::{
    BackoffConfig, ClientOptions, Error, GetOptions, GetResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt as _, PutMode, PutPayload, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey},
    path::Path,
};
use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime},
};

/// How long a connection may take to be made.
const DIAL: Duration = Duration::from_secs(3);
/// How often a request is tried again at most.
const RETRIES: usize = 2;
/// Time after which no request is tried again.
const RETRY_WITHIN: Duration = Duration::from_secs(10);
/// Pauses before another try.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Most keys that are listed at once; a bucket with more has other trouble.
const MAX_LISTED: usize = 1 << 20;
/// Gap between two ranges that is rather read than asked around.
const GAP: u64 = 256 << 10;
/// Bytes of one request for ranges, at most, but for a single longer one.
const MAX_RANGE: u64 = 16 << 20;
/// What is written to see whether that is allowed.
const TRIAL: &[u8] = b"netbuild looked whether it may write here\n";
/// Requests at once.
pub(super) const AT_ONCE: usize = 8;

/// A bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    name: String,
    prefix: String,
    store: AmazonS3,
    pub(super) clock: Arc<Clock>,
    pub(super) meter: Arc<Meter>,
}

impl Bucket {
    pub(super) fn new(options: &S3Options) -> Result<Self, TierError> {
        let (meter, clock) = (Arc::<Meter>::default(), Arc::<Clock>::default());
        let watch =
            Watch { meter: meter.clone(), clock: clock.clone(), patience: options.patience };
        let mut builder = AmazonS3Builder::new();
        for (name, value) in &options.settings {
            // Variables that the client does not know are for other programs.
            if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
                builder = builder.with_config(key, value.reveal());
            }
        }
        let plain = options.endpoint.as_ref().is_some_and(|url| url.starts_with("http://"));
        let client = ClientOptions::new()
            .with_connect_timeout(DIAL)
            .with_timeout_disabled()
            .with_allow_http(plain);
        builder = builder
            .with_bucket_name(&options.bucket)
            .with_virtual_hosted_style_request(!options.path_style)
            .with_client_options(client)
            .with_retry(RetryConfig {
                backoff: BackoffConfig {
                    init_backoff: FIRST_PAUSE,
                    max_backoff: LONGEST_PAUSE,
                    base: 2.0,
                },
                max_retries: RETRIES,
                retry_timeout: RETRY_WITHIN,
            })
            .with_http_connector(watch);
        if let Some(endpoint) = &options.endpoint {
            builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
        }
        if let Some(region) = &options.region {
            builder = builder.with_region(region);
        }
        let store = builder.build().map_err(|error| {
            TierError::new(options.name(), "configure", Class::Refused)
                .because(error.to_string())
                .from(error)
        })?;
        let (name, prefix) = (options.name().to_owned(), options.prefix.clone());
        Ok(Self { name, prefix, store, clock, meter })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn error(&self, operation: Operation, error: Error) -> TierError {
        let said = match failure::advice(&error) {
            Some(advice) => format!("{advice}: {error}"),
            None => error.to_string(),
        };
        TierError::new(&self.name, operation.as_str(), failure::class(&error))
            .because(said)
            .from(error)
    }

    async fn within<T>(
        &self,
        operation: Operation,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, TierError> {
        let done = OPERATION.scope(operation, request).await;
        done.map_err(|error| self.error(operation, error))
    }

    fn path(&self, rest: &str) -> Path {
        let joint = if self.prefix.is_empty() { "" } else { "/" };
        Path::from(format!("{}{joint}{rest}", self.prefix))
    }

    /// Where a segment lies.
    pub(super) fn segment(&self, name: &Name) -> Path {
        self.path(&format!("seg/{}", name.text))
    }

    /// Where a blob lies that is a piece of its own.
    pub(super) fn blob(&self, blob: &Digest) -> Path {
        let hash = blob.hash.to_string();
        self.path(&format!("blobs/{}/{hash}-{}", &hash[..2], blob.size))
    }

    /// The segments, with their size and time.
    pub(super) async fn segments(
        &self,
        operation: Operation,
    ) -> Result<Vec<(Name, u64, u64)>, TierError> {
        let listed = self.list(operation, "seg").await?;
        let segments = listed.into_iter().filter_map(|meta| {
            let name = Name::parse(meta.location.filename()?)?;
            Some((name, meta.size, seconds(&meta)))
        });
        Ok(segments.collect())
    }

    /// The blobs that are pieces of their own, with their time.
    pub(super) async fn blobs(
        &self,
        operation: Operation,
    ) -> Result<Vec<(Digest, u64)>, TierError> {
        let listed = self.list(operation, "blobs").await?;
        let blobs = listed.into_iter().filter_map(|meta| {
            let (hash, size) = meta.location.filename()?.split_once('-')?;
            let digest = Digest { hash: hash.parse().ok()?, size: size.parse().ok()? };
            Some((digest, seconds(&meta)))
        });
        Ok(blobs.collect())
    }

    async fn list(&self, operation: Operation, what: &str) -> Result<Vec<ObjectMeta>, TierError> {
        let listed = self.store.list(Some(&self.path(what))).take(MAX_LISTED).try_collect();
        self.within(operation, listed).await
    }

    /// Size and time of a piece; `None` when there is none.
    pub(super) async fn head(
        &self,
        operation: Operation,
        path: &Path,
    ) -> Result<Option<(u64, u64)>, TierError> {
        let found = async { missing(self.store.head(path).await) };
        let found = self.within(operation, found).await?;
        Ok(found.map(|meta| (meta.size, seconds(&meta))))
    }

    /// A part of a piece, or the whole; `None` when there is none.
    pub(super) async fn get(
        &self,
        operation: Operation,
        path: &Path,
        range: Option<Range<u64>>,
    ) -> Result<Option<Bytes>, TierError> {
        // An empty range cannot be asked for.
        if range.as_ref().is_some_and(Range::is_empty) {
            return Ok(Some(Bytes::new()));
        }
        let got = async {
            match missing(self.open(path, range).await)? {
                Some(got) => got.bytes().await.map(Some),
                None => Ok(None),
            }
        };
        self.within(operation, got).await
    }

    /// The beginning of an answer; its body is still to come.
    pub(super) async fn stream(
        &self,
        operation: Operation,
        path: &Path,
        range: Range<u64>,
    ) -> Result<Option<GetResult>, TierError> {
        let opened = async { missing(self.open(path, Some(range)).await) };
        self.within(operation, opened).await
    }

    async fn open(
        &self,
        path: &Path,
        range: Option<Range<u64>>,
    ) -> object_store::Result<GetResult> {
        let options = GetOptions { range: range.map(Into::into), ..GetOptions::default() };
        self.store.get_opts(path, options).await
    }

    /// Parts of a piece, in the order of the question, with few requests for parts that lie near
    /// each other; `None` when there is no such piece.
    pub(super) async fn ranges(
        &self,
        operation: Operation,
        path: &Path,
        ranges: &[Range<u64>],
    ) -> Result<Option<Vec<Bytes>>, TierError> {
        let joined = join(ranges);
        let asked = joined.iter().map(|range| self.get(operation, path, Some(range.clone())));
        let asked: Vec<_> = asked.collect();
        let got: Vec<Option<Bytes>> = stream::iter(asked).buffered(AT_ONCE).try_collect().await?;
        let Some(got) = got.into_iter().collect::<Option<Vec<Bytes>>>() else { return Ok(None) };
        let parts = ranges.iter().map(|range| {
            let at = joined.partition_point(|joined| joined.end < range.end);
            let from = (range.start - joined[at].start) as usize;
            // The parts are small against what they were read in, which they shall not keep.
            let part = got[at].get(from..from + (range.end - range.start) as usize);
            Bytes::copy_from_slice(part.unwrap_or_default())
        });
        Ok(Some(parts.collect()))
    }

    /// Writes a piece whose key names its content; that it is there already is success.
    pub(super) async fn put(
        &self,
        operation: Operation,
        path: &Path,
        parts: Vec<Bytes>,
    ) -> Result<(), TierError> {
        let payload: PutPayload = parts.into_iter().collect();
        let put = async {
            match self.store.put_opts(path, payload.clone(), PutMode::Create.into()).await {
                Ok(_) | Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(()),
                // A server that knows no conditions.
                Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => {
                    self.store.put(path, payload).await.map(drop)
                }
                Err(error) if error.to_string().contains("<Code>NotImplemented</Code>") => {
                    self.store.put(path, payload).await.map(drop)
                }
                Err(error) => Err(error),
            }
        };
        self.within(operation, put).await
    }

    /// Writes a piece, over one that may be there.
    pub(super) async fn replace(
        &self,
        operation: Operation,
        path: &Path,
        bytes: Bytes,
    ) -> Result<(), TierError> {
        self.within(operation, self.store.put(path, bytes.into())).await.map(drop)
    }

    /// Begins a piece that is written in parts.
    pub(super) async fn begin(
        &self,
        operation: Operation,
        path: &Path,
    ) -> Result<Box<dyn MultipartUpload>, TierError> {
        self.within(operation, self.store.put_multipart(path)).await
    }

    /// Runs a step of such a piece.
    pub(super) async fn step<T>(
        &self,
        operation: Operation,
        step: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, TierError> {
        self.within(operation, step).await
    }

    /// Deletes pieces; that one is gone already is success.
    pub(super) async fn delete(
        &self,
        operation: Operation,
        paths: Vec<Path>,
    ) -> Result<(), TierError> {
        let paths = stream::iter(paths).map(Ok).boxed();
        let deleted = async {
            let mut answers = self.store.delete_stream(paths);
            while let Some(answer) = answers.next().await {
                missing(answer)?;
            }
            Ok(())
        };
        self.within(operation, deleted).await
    }

    /// Asks whether the bucket answers and lets us in, by a key that is most likely not there.
    pub(super) async fn probe(&self) -> Result<(), TierError> {
        let first = async {
            let path = self.path("seg");
            self.store.list_with_offset(Some(&path), &self.path("seg/~")).next().await.transpose()
        };
        self.within(Operation::Probe, first).await.map(drop)
    }

    /// Writes a piece that is no result, and deletes it.
    pub(super) async fn try_writing(&self) -> Result<(), TierError> {
        // Whoever else looks at the same moment writes another one.
        let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let name = format!("trial/{}-{}", std::process::id(), nanos.map_or(0, |it| it.as_nanos()));
        let path = self.path(&name);
        self.replace(Operation::Probe, &path, Bytes::from_static(TRIAL)).await?;
        self.delete(Operation::Probe, vec![path]).await
    }
}

/// That a piece is not there is no error; that the bucket is not there is one.
fn missing<T>(answer: object_store::Result<T>) -> object_store::Result<Option<T>> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(error @ Error::NotFound { .. }) if error.to_string().contains("NoSuchBucket") => {
            Err(error)
        }
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn seconds(meta: &ObjectMeta) -> u64 {
    meta.last_modified.timestamp().try_into().unwrap_or(0)
}

/// Ranges that cover these, in order.
fn join(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted = ranges.to_vec();
    sorted.sort_by_key(|range| (range.start, range.end));
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match joined.last_mut() {
            Some(last)
                if range.start <= last.end + GAP
                    && (range.end <= last.end || range.end - last.start <= MAX_RANGE) =>
            {
                last.end = last.end.max(range.end);
            }
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_ranges_are_asked_for_together() {
        let far = 10 * GAP;
        assert_eq!(join(&[5..6, 0..2, far..far + 1, 1..4]), [0..6, far..far + 1]);
        let pieces: Vec<_> = (0..100).map(|at| at * (1 << 20)..(at + 1) * (1 << 20)).collect();
        let joined = join(&pieces);
        assert_eq!(joined.len(), 7);
        assert!(joined.iter().all(|range| range.end - range.start <= MAX_RANGE));
        assert!(join(&[]).is_empty());
    }
}
