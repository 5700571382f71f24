//! Blobs on their way in, from one source or from several at once.
//!
//! All attempts at one job share what has arrived: one that takes over asks only for what is still
//! missing, and two that run at once work from both ends until they meet.

use crate::{
    attempts::{Told, Trial},
    disk_cache::failed,
};
use bytes::Bytes;
use netbuild_core::{
    cache::CacheError,
    chunk::{Chunk, MAX_CHUNK, Manifest},
    digest::Digest,
    peer::PeerId,
};
use netbuild_store::{PartialBlob, Store, StoreError};
use netbuild_transfer::{Endpoint, FetchError};
use std::{cell::RefCell, collections::BTreeSet, ops::ControlFlow, sync::Arc};

/// The outcome of a part of an attempt: what the source did, and apart from it what this agent's
/// own store did.
type Part<T> = Result<Result<T, FetchError>, CacheError>;

/// Blobs that are to be had.
pub(crate) struct Job<'a> {
    store: &'a Arc<dyn Store>,
    endpoint: &'a Endpoint,
    small: RefCell<BTreeSet<Digest>>,
    large: RefCell<Vec<Large>>,
    /// Blobs that cannot be: their hash is not that of anything.
    impossible: Vec<Digest>,
    /// Sources that told a manifest which was none; of these, no further one is taken.
    liars: RefCell<BTreeSet<PeerId>>,
}

/// A blob of many chunks.
struct Large {
    blob: Digest,
    state: State,
}

enum State {
    /// Its chunks are not known.
    Unknown,
    Open {
        manifest: Manifest,
        told_by: PeerId,
        partial: Box<dyn PartialBlob>,
        done: Vec<bool>,
    },
    Done,
}

/// How a request for chunks ended.
enum Asked {
    /// The source said of each whether it has it.
    Everything,
    /// Another attempt has come to the same place from the other end. What that one has asked for
    /// may never come, so what is still missing is asked for anew.
    MetAnother,
}

impl<'a> Job<'a> {
    /// A job for blobs that are not here.
    pub(crate) fn new(
        store: &'a Arc<dyn Store>,
        endpoint: &'a Endpoint,
        blobs: &[Digest],
    ) -> Result<Self, CacheError> {
        let mut job = Self {
            store,
            endpoint,
            small: RefCell::default(),
            large: RefCell::default(),
            impossible: Vec::new(),
            liars: RefCell::default(),
        };
        for blob in blobs {
            if blob.size == 0 {
                match store.put_blob(blob, &mut [].as_slice()) {
                    Ok(()) => {}
                    Err(StoreError::Mismatch(_)) => job.impossible.push(*blob),
                    Err(error) => return Err(failed(error)),
                }
            } else if blob.size <= MAX_CHUNK as u64 {
                job.small.get_mut().insert(*blob);
            } else {
                job.large.get_mut().push(Large { blob: *blob, state: State::Unknown });
            }
        }
        Ok(job)
    }

    /// What has not arrived.
    pub(crate) fn missing(&self) -> Vec<Digest> {
        let large = self.large.borrow();
        let open = large.iter().filter(|large| !matches!(large.state, State::Done));
        let mut missing: Vec<Digest> = open.map(|large| large.blob).collect();
        missing.extend(self.small.borrow().iter());
        missing.extend(&self.impossible);
        missing
    }

    /// Takes from one source what it has of what is missing.
    pub(crate) async fn attempt(&self, trial: Trial) -> Part<Told<()>> {
        if let Err(error) = self.take_small(&trial).await? {
            return Ok(Err(error));
        }
        let count = self.large.borrow().len();
        for index in in_order(count, &trial) {
            if let Err(error) = self.take_large(index, &trial).await? {
                return Ok(Err(error));
            }
        }
        Ok(Ok(if self.missing().is_empty() { Told::Got(()) } else { Told::Missing }))
    }

    /// Blobs of one chunk each, all in one request.
    async fn take_small(&self, trial: &Trial) -> Part<()> {
        loop {
            let wanted: Vec<Digest> = self.small.borrow().iter().copied().collect();
            let wanted: Vec<Digest> =
                in_order(wanted.len(), trial).map(|index| wanted[index]).collect();
            let chunk = |blob: &Digest| Chunk { hash: blob.hash, len: blob.size as u32 };
            let chunks: Vec<Chunk> = wanted.iter().map(chunk).collect();
            let keep = |at: usize, bytes: &[u8]| {
                if !self.small.borrow().contains(&wanted[at]) {
                    return Ok(false);
                }
                self.store.put_blob(&wanted[at], &mut &*bytes)?;
                Ok(self.small.borrow_mut().remove(&wanted[at]))
            };
            match self.ask(&chunks, trial, keep).await? {
                Ok(Asked::MetAnother) => {}
                Ok(Asked::Everything) => return Ok(Ok(())),
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    /// A blob of many chunks; those that are in other blobs here are not asked for.
    async fn take_large(&self, index: usize, trial: &Trial) -> Part<()> {
        if let Err(error) = self.open(index, trial).await? {
            return Ok(Err(error));
        }
        loop {
            let wanted = self.wanted(index);
            let wanted: Vec<(usize, Chunk)> =
                in_order(wanted.len(), trial).map(|at| wanted[at]).collect();
            let chunks: Vec<Chunk> = wanted.iter().map(|(_, chunk)| *chunk).collect();
            let keep = |at: usize, bytes: &[u8]| self.keep(index, wanted[at], bytes);
            match self.ask(&chunks, trial, keep).await? {
                Ok(Asked::MetAnother) => {}
                Ok(Asked::Everything) => return self.finish(index),
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    /// Asks one source for chunks, and hands those that come to `keep`, until that says that one of
    /// them is not wanted any more.
    async fn ask(
        &self,
        chunks: &[Chunk],
        trial: &Trial,
        mut keep: impl FnMut(usize, &[u8]) -> Result<bool, StoreError>,
    ) -> Part<Asked> {
        let mut kept = Ok(true);
        let due = |at: usize| trial.alive(chunks.get(at).map_or(0, |chunk| u64::from(chunk.len)));
        due(0);
        let deliver = |at: usize, bytes: Bytes| {
            kept = keep(at, &bytes);
            let flow = match kept {
                Ok(true) => {
                    trial.count(bytes.len() as u64);
                    ControlFlow::Continue(())
                }
                Ok(false) | Err(_) => ControlFlow::Break(()),
            };
            // After the disk had its time, which is not that of the source.
            due(at + 1);
            std::future::ready(flow)
        };
        let answer = self.endpoint.chunks(&trial.holder(), chunks, trial.silence(), deliver).await;
        let asked = if kept.map_err(failed)? { Asked::Everything } else { Asked::MetAnother };
        Ok(answer.map(|_| asked))
    }

    /// Gets the manifest of a blob, unless an attempt before did, and takes what is here already.
    async fn open(&self, index: usize, trial: &Trial) -> Part<()> {
        let blob = {
            let large = self.large.borrow();
            match large[index].state {
                State::Unknown => large[index].blob,
                State::Open { .. } | State::Done => return Ok(Ok(())),
            }
        };
        trial.alive(0);
        let patience = trial.silence();
        let manifest = match self.endpoint.manifests(&trial.holder(), &[blob], patience).await {
            Ok(mut manifests) => manifests.pop().flatten(),
            Err(error) => return Ok(Err(error)),
        };
        let Some(manifest) = manifest else { return Ok(Ok(())) };
        // Another attempt may have been faster.
        if !matches!(self.large.borrow()[index].state, State::Unknown) {
            return Ok(Ok(()));
        }
        if self.liars.borrow().contains(&trial.whom.peer) {
            return Ok(Ok(()));
        }
        let mut partial = self.store.begin_blob(&manifest).map_err(failed)?;
        let mut done = vec![false; manifest.chunks().len()];
        for (at, chunk) in manifest.chunks().iter().enumerate() {
            if let Some(bytes) = self.store.chunk(chunk).map_err(failed)? {
                partial.write_chunk(at, &bytes).map_err(failed)?;
                done[at] = true;
            }
        }
        let state = State::Open { manifest, told_by: trial.whom.peer, partial, done };
        self.large.borrow_mut()[index].state = state;
        Ok(Ok(()))
    }

    fn wanted(&self, index: usize) -> Vec<(usize, Chunk)> {
        match &self.large.borrow()[index].state {
            State::Open { manifest, done, .. } => {
                let chunks = manifest.chunks().iter().copied().enumerate();
                chunks.zip(done).filter(|(_, done)| !**done).map(|(chunk, _)| chunk).collect()
            }
            State::Unknown | State::Done => Vec::new(),
        }
    }

    /// Keeps a chunk; says whether it was still wanted.
    fn keep(
        &self,
        index: usize,
        (at, chunk): (usize, Chunk),
        bytes: &[u8],
    ) -> Result<bool, StoreError> {
        let mut large = self.large.borrow_mut();
        let State::Open { manifest, partial, done, .. } = &mut large[index].state else {
            return Ok(false);
        };
        // Another attempt has come to here from the other end; or the manifest that this chunk was
        // asked for by was wrong, and there is another one now.
        if manifest.chunks().get(at) != Some(&chunk) || done[at] {
            return Ok(false);
        }
        partial.write_chunk(at, bytes)?;
        done[at] = true;
        Ok(true)
    }

    fn finish(&self, index: usize) -> Part<()> {
        let mut large = self.large.borrow_mut();
        let slot = &mut large[index];
        match std::mem::replace(&mut slot.state, State::Unknown) {
            State::Open { partial, done, told_by, .. } if done.iter().all(|done| *done) => {
                match partial.finish() {
                    Ok(()) => slot.state = State::Done,
                    // Every chunk was right, so the manifest was not.
                    Err(error @ StoreError::Mismatch(_)) => {
                        tracing::warn!(peer = %told_by, %error, "a peer told a wrong manifest");
                        self.liars.borrow_mut().insert(told_by);
                        let why = "a manifest that is not of its blob".to_owned();
                        return Ok(Err(FetchError::Malformed { peer: told_by, why }));
                    }
                    Err(error) => return Err(failed(error)),
                }
            }
            state => slot.state = state,
        }
        Ok(Ok(()))
    }
}

/// One of two attempts that run at once starts at the other end.
fn in_order(count: usize, trial: &Trial) -> impl Iterator<Item = usize> {
    let reversed = trial.from_end;
    (0..count).map(move |index| if reversed { count - 1 - index } else { index })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Whom;
    use futures::FutureExt as _;
    use netbuild_core::{chunk::Chunker, digest::Hash, key::ActionKey, peer::Identity};
    use netbuild_store::MemoryStore;
    use netbuild_transfer::{Options, Provide};
    use std::{
        collections::BTreeMap,
        sync::{
            Mutex,
            mpsc::{Receiver, Sender, channel},
        },
    };
    use tokio::sync::{Notify, mpsc};

    /// A source that hands out chunks only once its gate is open.
    #[derive(Debug)]
    struct Source {
        chunks: BTreeMap<Hash, Vec<u8>>,
        manifest: Option<Manifest>,
        asked: Notify,
        gate: Mutex<Receiver<()>>,
    }

    impl Provide for Source {
        fn record(&self, _: &ActionKey) -> Option<Vec<u8>> {
            None
        }

        fn manifest(&self, _: &Digest) -> Option<Manifest> {
            self.manifest.clone()
        }

        fn chunk(&self, chunk: &Chunk) -> Option<Vec<u8>> {
            self.asked.notify_one();
            // Open is what nobody can close any more.
            let _ = self.gate.lock().unwrap().recv();
            self.chunks.get(&chunk.hash).cloned()
        }

        fn has(&self, _: &Digest) -> bool {
            false
        }

        fn bring(&self, _: &PeerId, blobs: &[Digest]) -> Vec<bool> {
            vec![false; blobs.len()]
        }
    }

    fn endpoint(seed: u8, source: &Arc<Source>) -> (Endpoint, Whom) {
        let identity = Identity::from_seed(&[seed; 32]);
        let peer = identity.peer_id();
        let endpoint = Endpoint::bind(Options {
            listen: "127.0.0.1:0".parse().unwrap(),
            identity,
            admits: Arc::new(|_| true),
            provide: Arc::<Source>::clone(source),
            samples: mpsc::channel(1).0,
        });
        let endpoint = endpoint.unwrap();
        let addresses = vec![endpoint.local_addr()];
        (endpoint, Whom { peer, region: String::new(), addresses })
    }

    /// A source of these bytes, one chunk each, and what opens its gate.
    fn source(all: &[Vec<u8>], manifest: Option<Manifest>) -> (Arc<Source>, Sender<()>) {
        let (opens, gate) = channel();
        let chunks = all.iter().map(|bytes| (Hash::of(bytes), bytes.clone())).collect();
        let (asked, gate) = (Notify::new(), Mutex::new(gate));
        (Arc::new(Source { chunks, manifest, asked, gate }), opens)
    }

    fn open((source, _): (Arc<Source>, Sender<()>)) -> Arc<Source> {
        source
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_one_of_two_lacks_the_other_is_asked_for_after_they_have_met() {
        let mut small: Vec<Vec<u8>> = (0..10_u8).map(|n| vec![n; 100]).collect();
        small.sort_by_key(|bytes| Digest::of(bytes));
        let (slow, opens) = source(&small, None);
        let quick = open(source(&small[..9], None));
        let (nobody, me) = (open(source(&[], None)), 9);
        let ((_slow_end, slow_at), (_quick_end, quick_at)) =
            (endpoint(1, &slow), endpoint(2, &quick));
        let (here, _) = endpoint(me, &nobody);
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let blobs: Vec<Digest> = small.iter().map(|bytes| Digest::of(bytes)).collect();
        let job = Job::new(&store, &here, &blobs).unwrap();

        let mut first = Box::pin(job.attempt(Trial::alone(slow_at, false)));
        assert!(first.as_mut().now_or_never().is_none());
        let second = job.attempt(Trial::alone(quick_at, true)).await.unwrap();
        assert!(matches!(second, Ok(Told::Missing)), "{second:?}");
        assert_eq!(job.missing(), [blobs[9]]);
        drop(opens);
        let first = first.await.unwrap();
        assert!(matches!(first, Ok(Told::Got(()))), "{first:?}");
        assert_eq!(job.missing(), []);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_chunk_of_a_wrong_manifest_that_comes_late_does_no_harm() {
        let bytes: Vec<u8> = (0..200_000_u32).flat_map(|n| Hash::of(&n.to_le_bytes()).0).collect();
        let mut chunker = Chunker::new();
        chunker.update(&bytes);
        let right = chunker.finish();
        let blob = right.blob();
        let part = |(at, chunk): (u64, Chunk)| bytes[at as usize..][..chunk.len as usize].to_vec();
        let chunks: Vec<Vec<u8>> = right.offsets().map(part).collect();
        let mut reversed = right.chunks().to_vec();
        reversed.reverse();
        let wrong = Manifest::new(blob, reversed).unwrap();

        let (liar, liar_opens) = source(&chunks, Some(wrong));
        let honest = open(source(&chunks, Some(right.clone())));
        let (late, late_opens) = source(&chunks, Some(right));
        let nobody = open(source(&[], None));
        let (_liar_end, liar_at) = endpoint(1, &liar);
        let (_honest_end, honest_at) = endpoint(2, &honest);
        let (_late_end, late_at) = endpoint(3, &late);
        let (here, _) = endpoint(9, &nobody);
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let job = Job::new(&store, &here, &[blob]).unwrap();

        let who_lied = liar_at.peer;
        let mut lying = Box::pin(job.attempt(Trial::alone(liar_at.clone(), false)));
        tokio::select! {
            told = &mut lying => panic!("{told:?}"),
            () = liar.asked.notified() => {}
        }
        // Its chunks are right, its manifest is not.
        let shown = job.attempt(Trial::alone(honest_at, true)).await.unwrap();
        assert_eq!(shown.unwrap_err().peer(), who_lied);
        let mut saved = Box::pin(job.attempt(Trial::alone(late_at, false)));
        tokio::select! {
            told = &mut saved => panic!("{told:?}"),
            () = late.asked.notified() => {}
        }
        // Now its first chunk comes, which is the last one of the blob.
        drop(liar_opens);
        let lied = lying.await.unwrap();
        assert!(matches!(lied, Ok(Told::Got(()))), "{lied:?}");
        drop(late_opens);
        assert!(matches!(saved.await.unwrap(), Ok(Told::Got(()))));
        assert_eq!(job.missing(), []);
        assert!(store.has_blob(&blob).unwrap());
    }
}
