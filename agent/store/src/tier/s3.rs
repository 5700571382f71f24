//! A bucket of S3 as a tier: large blobs as pieces of their own, small ones and records packed into
//! segments.
//!
//! ```text
//! PREFIX/seg/TIME-HASH-HEAD     index, records, small blobs
//! PREFIX/blobs/ab/HASH-SIZE     a large blob
//! ```
//!
//! Nothing is ever changed, only written and deleted, and every key names its content: two agents
//! that write the same thing do no harm, whether or not the server keeps conditions. An agent knows the
//! indexes of all segments, so finding something small costs no request.

mod bucket;
mod failure;
mod http;
mod options;
mod segment;
mod shelf;
mod tend;
mod upload;

pub use options::S3Options;

use super::{
    Answer, Batch, Bring, ChangeCursor, Changes, Class, Counts, Kind, Limits, MAX_SMALL, Operation,
    Stored, Tended, Tier, TierError,
};
use crate::MAX_BLOB;
use bucket::{AT_ONCE, Bucket};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use netbuild_core::{digest::Digest, key::ActionKey};
use netbuild_proto::{DecodeError, record::SealedRecord, segment::Index};
use segment::{MAX_SEGMENT, Name, Segment};
use shelf::{Shelf, Spot};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;
use upload::{MAX_PACKED, SEGMENT};

/// What others put is known after this time at the latest, when something is looked for.
const FRESH: Duration = Duration::from_secs(5);
/// Records that one answer to `changes` has, about.
const PAGE: u64 = 4096;
/// Seconds by which the times of pieces in one bucket may differ from the order in which they came.
const OVERLAP: u64 = 600;
/// S3 takes nothing larger.
const S3_LIMIT: u64 = 5 << 40;

/// A bucket. Connects when it is first asked.
#[derive(Debug)]
pub struct S3Tier {
    options: S3Options,
    bucket: Arc<Bucket>,
    state: Mutex<State>,
    /// Held by who asks for the list of segments.
    refreshing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    shelf: Shelf,
    /// Segments of which the records were told by [`Tier::changes`].
    told: HashSet<Name>,
    /// Segments that cannot be understood.
    unusable: HashSet<Name>,
    refreshed: Option<Instant>,
    /// Beginnings of segments that were read for their indexes and whose records were not told yet.
    heads: Heads,
    /// When the list could not be had, and why.
    failed: Option<(Instant, Class)>,
}

/// Most bytes of such beginnings: what does not fit is read again.
const MAX_HEADS: usize = 64 << 20;

/// See [`State::heads`].
#[derive(Debug, Default)]
struct Heads {
    bytes: usize,
    by_name: HashMap<Name, Bytes>,
}

impl Heads {
    fn keep(&mut self, name: &Name, head: Bytes) {
        if self.bytes + head.len() <= MAX_HEADS && !self.by_name.contains_key(name) {
            self.bytes += head.len();
            self.by_name.insert(name.clone(), head);
        }
    }

    fn retain(&mut self, names: &HashSet<&Name>) {
        self.by_name.retain(|name, _| names.contains(name));
        self.bytes = self.by_name.values().map(Bytes::len).sum();
    }

    fn take(&mut self, name: &Name) -> Option<Bytes> {
        let head = self.by_name.remove(name)?;
        self.bytes -= head.len();
        Some(head)
    }
}

/// Numbers of blobs in a question, by the segment that holds them, each with its place there.
type Wanted = BTreeMap<Name, (Arc<Segment>, Vec<(usize, usize)>)>;

impl S3Tier {
    /// A tier that uses this bucket. Fails when the settings contradict each other.
    pub fn new(options: S3Options) -> Result<Self, TierError> {
        let bucket = Arc::new(Bucket::new(&options)?);
        let (state, refreshing) = (Mutex::default(), tokio::sync::Mutex::default());
        Ok(Self { options, bucket, state, refreshing })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn options_limit(&self) -> u64 {
        MAX_BLOB.min(S3_LIMIT)
    }

    /// Whether what was written then will be there for as long as something written now.
    fn is_young(&self, written: u64) -> bool {
        let kept = self.options.expire.map(|expire| expire.saturating_sub(self.options.slack));
        kept.is_none_or(|kept| self.bucket.clock.now() < written.saturating_add(kept.as_secs()))
    }

    /// Learns which segments there are, unless that was done within `age`.
    async fn refresh(&self, operation: Operation, age: Duration) -> Result<(), TierError> {
        let began = Instant::now();
        let _one = self.refreshing.lock().await;
        let (refreshed, failed) = {
            let state = self.state();
            (state.refreshed, state.failed)
        };
        if refreshed.is_some_and(|at| at.elapsed() < age) {
            return Ok(());
        }
        // Who waited while somebody else asked in vain does not ask again.
        if let Some((_, class)) = failed.filter(|(at, _)| *at >= began) {
            return Err(TierError::new(self.bucket.name(), operation.as_str(), class)
                .because("its segments could not be listed a moment ago"));
        }
        let learned = self.relearn(operation).await;
        if let Err(error) = &learned {
            self.state().failed = Some((Instant::now(), error.class()));
        }
        learned
    }

    async fn relearn(&self, operation: Operation) -> Result<(), TierError> {
        let asked = Instant::now();
        let listed = self.bucket.segments(operation).await?;
        let mut new = Vec::new();
        {
            let mut state = self.state();
            let names: HashSet<&Name> = listed.iter().map(|(name, ..)| name).collect();
            let gone = state.shelf.segments();
            // What was just written may have come after the list was made.
            let gone = gone.filter(|known| known.modified > 0 && !names.contains(&known.name));
            let gone = gone.map(|known| known.name.clone()).collect();
            state.shelf.remove(&gone);
            state.told.retain(|name| names.contains(name));
            state.unusable.retain(|name| names.contains(name));
            state.shelf.partial = !state.unusable.is_empty();
            for (name, size, modified) in listed {
                if state.shelf.knows(&name) {
                    state.shelf.listed(&name, modified);
                } else if !state.unusable.contains(&name) {
                    new.push((name, size, modified));
                }
            }
        }
        // The newest first: if not all can be known, they are worth most.
        new.sort_by_key(|(name, _, modified)| (std::cmp::Reverse(*modified), name.clone()));
        let asks = new.into_iter().map(|new| self.learn(operation, new).boxed());
        let asks: Vec<_> = asks.collect();
        stream::iter(asks).buffered(AT_ONCE).try_collect::<()>().await?;
        self.state().refreshed = Some(asked);
        Ok(())
    }

    /// Reads the index of a segment. One that is not to be understood is left out.
    async fn learn(
        &self,
        operation: Operation,
        (name, size, modified): (Name, u64, u64),
    ) -> Result<(), TierError> {
        if self.state().shelf.is_full() || size > MAX_SEGMENT || name.head > size {
            self.state().shelf.partial = true;
            return Ok(());
        }
        let path = self.bucket.segment(&name);
        let Some(head) = self.bucket.get(operation, &path, Some(0..name.head)).await? else {
            return Ok(());
        };
        let known = match Index::decode(&head) {
            Ok((index, len)) => Segment::new(name.clone(), size, modified, index, len),
            Err(error) => {
                if !matches!(error, DecodeError::Newer { .. }) {
                    tracing::warn!(tier = self.bucket.name(), %path, %error, "unusable segment");
                }
                None
            }
        };
        let mut state = self.state();
        match known {
            Some(segment) => {
                state.shelf.add(segment);
                // Who follows the changes asks for its records next.
                if operation == Operation::Changes {
                    state.heads.keep(&name, head);
                }
            }
            None => {
                state.shelf.partial = true;
                state.unusable.insert(name);
            }
        }
        Ok(())
    }

    /// Parts of segments, by number of the question. Those in segments that are gone are looked for
    /// again, once.
    async fn fetch(
        &self,
        operation: Operation,
        count: usize,
        spot: impl Fn(&Shelf, usize) -> Option<Spot>,
        range: impl Fn(&Segment, usize) -> Range<u64>,
    ) -> Result<Vec<Option<Bytes>>, TierError> {
        let mut found = vec![None; count];
        let mut open: Vec<usize> = (0..count).collect();
        for age in [FRESH, Duration::ZERO] {
            self.refresh(operation, age).await?;
            let mut wanted = Wanted::new();
            for number in std::mem::take(&mut open) {
                if let Some((segment, at)) = spot(&self.state().shelf, number) {
                    let entry = wanted.entry(segment.name.clone());
                    entry.or_insert_with(|| (segment, Vec::new())).1.push((number, at));
                }
            }
            let asks = wanted.into_values().map(|(segment, parts)| {
                let ranges: Vec<_> = parts.iter().map(|(_, at)| range(&segment, *at)).collect();
                async move {
                    let path = self.bucket.segment(&segment.name);
                    let got = self.bucket.ranges(operation, &path, &ranges).await?;
                    Ok::<_, TierError>((parts, got))
                }
                .boxed()
            });
            let asks: Vec<_> = asks.collect();
            let answers: Vec<_> = stream::iter(asks).buffered(2).try_collect().await?;
            for (parts, got) in answers {
                match got {
                    Some(got) => {
                        for ((number, _), bytes) in parts.into_iter().zip(got) {
                            found[number] = Some(bytes);
                        }
                    }
                    None => open.extend(parts.into_iter().map(|(number, _)| number)),
                }
            }
            if open.is_empty() {
                break;
            }
        }
        Ok(found)
    }

    async fn packed(
        &self,
        operation: Operation,
        blobs: &[Digest],
    ) -> Result<Vec<Option<Bytes>>, TierError> {
        let spot = |shelf: &Shelf, number: usize| shelf.blob(&blobs[number]);
        let mut found = self.fetch(operation, blobs.len(), spot, Segment::blob).await?;
        for (blob, found) in blobs.iter().zip(&mut found) {
            if found.as_ref().is_some_and(|bytes| !blob.matches(bytes)) {
                *found = None;
                self.state().shelf.damaged(blob);
            }
        }
        Ok(found)
    }

    async fn whole(&self, operation: Operation, blob: &Digest) -> Result<Option<Bytes>, TierError> {
        let found = self.bucket.get(operation, &self.bucket.blob(blob), None).await?;
        let sound = found.filter(|bytes| {
            let sound = blob.matches(bytes);
            if !sound {
                self.state().shelf.damaged(blob);
            }
            sound
        });
        Ok(sound)
    }

    async fn bring_small(&self, blobs: &[Digest]) -> Result<Vec<Option<Bytes>>, TierError> {
        let operation = Operation::Small;
        let packed: Vec<_> = blobs.iter().copied().filter(|blob| blob.size <= MAX_PACKED).collect();
        let packed = match packed.is_empty() {
            true => Vec::new(),
            false => self.packed(operation, &packed).await?,
        };
        let whole = blobs.iter().filter(|blob| (MAX_PACKED + 1..=MAX_SMALL).contains(&blob.size));
        let whole = whole.map(|blob| self.whole(operation, blob).boxed());
        let whole: Vec<_> = whole.collect();
        let whole: Vec<_> = stream::iter(whole).buffered(AT_ONCE).try_collect().await?;
        let (mut packed, mut whole) = (packed.into_iter(), whole.into_iter());
        let answer = |blob: &Digest| match blob.size {
            size if size <= MAX_PACKED => packed.next().flatten(),
            size if size <= MAX_SMALL => whole.next().flatten(),
            _ => None,
        };
        Ok(blobs.iter().map(answer).collect())
    }

    async fn find_all(&self, blobs: &[Digest]) -> Result<Vec<bool>, TierError> {
        if blobs.iter().any(|blob| blob.size <= MAX_PACKED) {
            self.refresh(Operation::Find, FRESH).await?;
        }
        let asks = blobs.iter().map(|blob| {
            async move {
                if blob.size <= MAX_PACKED {
                    return Ok(self.state().shelf.blob(blob).is_some());
                }
                let found = self.bucket.head(Operation::Find, &self.bucket.blob(blob)).await?;
                Ok(found.is_some() && !self.state().shelf.is_damaged(blob))
            }
            .boxed()
        });
        let asks: Vec<_> = asks.collect();
        stream::iter(asks).buffered(AT_ONCE).try_collect().await
    }

    async fn open(&self, blob: &Digest, range: Range<u64>) -> Result<Option<Bring>, TierError> {
        let operation = Operation::Read;
        if range.is_empty() {
            let found = self.find_all(&[*blob]).await?;
            return Ok(found[0].then(|| stream::empty().boxed()));
        }
        let mut got = None;
        if blob.size > MAX_PACKED {
            got = self.bucket.stream(operation, &self.bucket.blob(blob), range).await?;
        } else {
            for age in [FRESH, Duration::ZERO] {
                self.refresh(operation, age).await?;
                let Some((segment, at)) = self.state().shelf.blob(blob) else { return Ok(None) };
                let (path, start) = (self.bucket.segment(&segment.name), segment.blob(at).start);
                let range = start + range.start..start + range.end;
                got = self.bucket.stream(operation, &path, range).await?;
                if got.is_some() {
                    break;
                }
            }
        }
        let bucket = self.bucket.clone();
        Ok(got.map(|got| {
            got.into_stream().map_err(move |error| bucket.error(operation, error)).boxed()
        }))
    }

    async fn find_records(
        &self,
        keys: &[ActionKey],
    ) -> Result<Vec<Option<SealedRecord>>, TierError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let spot = |shelf: &Shelf, number: usize| shelf.record(&keys[number]);
        let found = self.fetch(Operation::Records, keys.len(), spot, Segment::record).await?;
        let records = keys.iter().zip(found).map(|(key, bytes)| {
            let record = SealedRecord::open(&bytes?).ok()?;
            (record.record().key == *key).then_some(record)
        });
        Ok(records.collect())
    }

    /// Records of segments that came since. The place is the time of the last one that was told of,
    /// by the clock of the server; as several may come at one time, or a little out of order, those
    /// around it are told apart by name.
    async fn since(&self, after: &ChangeCursor) -> Result<Changes, TierError> {
        let (place, goes_on) = match after.0.strip_suffix(" more") {
            Some(place) => (place, true),
            None => (after.0.as_str(), false),
        };
        let place: u64 = place.parse().unwrap_or(0);
        let age = if goes_on { FRESH } else { Duration::ZERO };
        self.refresh(Operation::Changes, age).await?;
        let mut new: Vec<Arc<Segment>> = {
            let state = self.state();
            let segments = state.shelf.segments().filter(|segment| segment.modified > 0);
            let new = segments.filter(|segment| {
                let unheard = !state.told.contains(&segment.name);
                segment.modified > place || (segment.modified + OVERLAP > place && unheard)
            });
            new.cloned().collect()
        };
        new.sort_by(|a, b| (a.modified, &a.name).cmp(&(b.modified, &b.name)));
        let mut taken = 0;
        let here = new.iter().take_while(|segment| {
            let room = taken < PAGE;
            taken += segment.index.records.len() as u64;
            room
        });
        let here = here.count();
        let more = here < new.len();
        new.truncate(here);
        if !more {
            // Of those that are told of here, the beginning is at hand; others are asked for by nobody.
            let told: HashSet<&Name> = new.iter().map(|segment| &segment.name).collect();
            self.state().heads.retain(&told);
        }
        let last = new.last().map_or(place, |segment| segment.modified.max(place));
        let known = place.saturating_sub(OVERLAP);
        let asks = new.iter().filter(|segment| {
            // What was put together holds much that was told before.
            let merged = segment.index.merged;
            segment.index.records.iter().any(|filed| !merged || filed.written >= known)
        });
        let asks = asks.map(|segment| self.tell(segment.clone(), known).boxed());
        let asks: Vec<_> = asks.collect();
        let records: Vec<Vec<SealedRecord>> =
            stream::iter(asks).buffered(AT_ONCE).try_collect().await?;
        self.state().told.extend(new.iter().map(|segment| segment.name.clone()));
        let suffix = if more { " more" } else { "" };
        let cursor = ChangeCursor(format!("{last}{suffix}"));
        Ok(Changes { records: records.concat(), cursor, more })
    }

    async fn tell(
        &self,
        segment: Arc<Segment>,
        known: u64,
    ) -> Result<Vec<SealedRecord>, TierError> {
        let path = self.bucket.segment(&segment.name);
        let known_head = self.state().heads.take(&segment.name);
        let head = match known_head {
            Some(head) => Some(head),
            None => self.bucket.get(Operation::Changes, &path, Some(0..segment.name.head)).await?,
        };
        // One that is gone by now was put together with others, of which the next list tells.
        let Some(head) = head else { return Ok(Vec::new()) };
        // Signatures take their time.
        let opened = tokio::task::spawn_blocking(move || {
            let index = &segment.index;
            let records = segment.open(&head).into_iter();
            let new = records
                .filter(|(number, _)| !index.merged || index.records[*number].written >= known);
            new.map(|(_, record)| record).collect()
        });
        opened.await.map_err(|error| {
            TierError::new(self.bucket.name(), Operation::Changes.as_str(), Class::Corrupt)
                .because("the records of a segment could not be checked")
                .from(error)
        })
    }
}

impl Tier for S3Tier {
    fn name(&self) -> &str {
        self.options.name()
    }

    fn kind(&self) -> Kind {
        Kind::S3
    }

    fn limits(&self) -> Limits {
        Limits { blob: self.options_limit(), batch: SEGMENT }
    }

    fn find<'a>(&'a self, blobs: &'a [Digest]) -> Answer<'a, Vec<bool>> {
        self.find_all(blobs).boxed()
    }

    fn small<'a>(&'a self, blobs: &'a [Digest]) -> Answer<'a, Vec<Option<Bytes>>> {
        self.bring_small(blobs).boxed()
    }

    fn read<'a>(&'a self, blob: &'a Digest, range: Range<u64>) -> Answer<'a, Option<Bring>> {
        self.open(blob, range).boxed()
    }

    fn records<'a>(&'a self, keys: &'a [ActionKey]) -> Answer<'a, Vec<Option<SealedRecord>>> {
        self.find_records(keys).boxed()
    }

    fn put(&self, batch: Batch) -> Answer<'_, Stored> {
        self.keep(batch).boxed()
    }

    fn changes<'a>(&'a self, after: &'a ChangeCursor) -> Answer<'a, Changes> {
        self.since(after).boxed()
    }

    fn doubt<'a>(&'a self, blob: &'a Digest) -> Answer<'a, ()> {
        async move {
            if blob.size <= MAX_PACKED {
                self.packed(Operation::Tend, &[*blob]).await?;
                return Ok(());
            }
            let mut seen = netbuild_core::digest::DigestBuilder::new();
            let path = self.bucket.blob(blob);
            let got = self.bucket.stream(Operation::Tend, &path, 0..blob.size).await?;
            let Some(got) = got else { return Ok(()) };
            let mut pieces = got.into_stream();
            while let Some(piece) = pieces.next().await {
                seen.update(&piece.map_err(|error| self.bucket.error(Operation::Tend, error))?);
            }
            if seen.finish() != *blob {
                self.state().shelf.damaged(blob);
            }
            Ok(())
        }
        .boxed()
    }

    fn probe(&self) -> Answer<'_, ()> {
        self.bucket.probe().boxed()
    }

    fn try_writing(&self) -> Answer<'_, ()> {
        self.bucket.try_writing().boxed()
    }

    fn ahead(&self) -> Answer<'_, Option<i64>> {
        async { Ok(self.bucket.clock.ahead()) }.boxed()
    }

    fn tend(&self) -> Answer<'_, Tended> {
        self.tidy().boxed()
    }

    fn counts(&self) -> Counts {
        self.bucket.meter.counts()
    }
}
