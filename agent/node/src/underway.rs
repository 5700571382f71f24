//! Large blobs on their way in, which others that are on their way as well may be patched against: programs that are
//! linked with the same libraries resemble one another, and whoever brings all of them has none to start from.

use netbuild_core::{digest::Digest, sketch::Sketch};
use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Most blobs that are remembered, since what comes is compared with each of them: of more than that at once, the rest
/// is patched against what is here by its turn.
pub(crate) const MOST: usize = 256;
/// How long a patch waits for what it starts from while nothing of that comes, nor of what that waits for. Whoever
/// brings it may be asked for it behind the patch, or not be able to bring it at all.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is on its way.
#[derive(Debug, Default)]
pub(crate) struct Underway {
    /// In the order in which they were begun.
    blobs: Mutex<Vec<Entry>>,
    changed: Condvar,
    jobs: AtomicU64,
}

/// A blob that is on its way.
#[derive(Debug)]
struct Entry {
    begun: Begun,
    /// What it is patched against, if that was on its way, too.
    after: Option<Digest>,
    /// When something of it came.
    moved: Instant,
}

/// A blob that may be on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun {
    pub(crate) blob: Digest,
    pub(crate) sketch: Sketch,
    /// Whether somebody waits for it: what somebody waits for does not wait for what nobody does.
    pub(crate) urgent: bool,
    /// Which job brings it. What one job brings comes on one way, so one thing is here when what comes after it is.
    pub(crate) job: u64,
}

/// What a blob comes after.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct After {
    pub(crate) blob: Digest,
    /// How much of it is alike.
    pub(crate) share: f64,
    /// Whether the same job brings it.
    pub(crate) same_job: bool,
}

impl Underway {
    /// A number for a job, that no other has.
    pub(crate) fn job(&self) -> u64 {
        self.jobs.fetch_add(1, Ordering::Relaxed)
    }

    /// A blob is on its way until the result is dropped.
    pub(crate) fn begin(self: &Arc<Self>, new: Begun) -> Option<OnItsWay> {
        self.add(&mut self.blobs(), new, None)
    }

    /// The same, but not if `is_enough` that it shares with one of the others: then it had better come after that.
    pub(crate) fn begin_unless_alike(
        self: &Arc<Self>,
        new: Begun,
        is_enough: impl Fn(f64) -> bool,
    ) -> Result<Option<OnItsWay>, Alike> {
        let mut blobs = self.blobs();
        match most_alike(&blobs, &new) {
            Some(after) if is_enough(after.share) => Err(Alike),
            _ => Ok(self.add(&mut blobs, new, None)),
        }
    }

    /// A blob comes after the one that is most like it, of equal ones one of the same job, and the latest, if `is_enough`
    /// that they share. What comes after another never is what that one comes after.
    pub(crate) fn begin_after(
        self: &Arc<Self>,
        new: Begun,
        is_enough: impl Fn(f64) -> bool,
    ) -> (Option<After>, Option<OnItsWay>) {
        let mut blobs = self.blobs();
        let after = most_alike(&blobs, &new).filter(|after| is_enough(after.share));
        (after, self.add(&mut blobs, new, after.map(|after| after.blob)))
    }

    fn add(
        self: &Arc<Self>,
        blobs: &mut Vec<Entry>,
        begun: Begun,
        after: Option<Digest>,
    ) -> Option<OnItsWay> {
        if blobs.len() >= MOST || find(blobs, &begun.blob).is_some() {
            return None;
        }
        blobs.push(Entry { begun, after, moved: Instant::now() });
        Some(OnItsWay { underway: Arc::clone(self), blob: begun.blob })
    }

    /// Whether a blob is on its way.
    pub(crate) fn has(&self, blob: &Digest) -> bool {
        find(&self.blobs(), blob).is_some()
    }

    /// Waits until a blob is here, or is not on its way any more, or does not come on. Blocks.
    pub(crate) fn wait(&self, blob: &Digest) {
        let mut blobs = self.blobs();
        while let Some(moved) = last_moved(&blobs, blob) {
            let left = PATIENCE.saturating_sub(moved.elapsed());
            if left.is_zero() {
                return;
            }
            let waited = self.changed.wait_timeout(blobs, left);
            blobs = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn blobs(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something like it is on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Alike;

fn most_alike(blobs: &[Entry], new: &Begun) -> Option<After> {
    let others = blobs.iter().map(|entry| &entry.begun);
    let others = others.filter(|other| other.urgent || !new.urgent).map(|other| After {
        blob: other.blob,
        share: new.sketch.similarity(&other.sketch),
        same_job: other.job == new.job,
    });
    others.max_by(|one, other| {
        one.share.total_cmp(&other.share).then(one.same_job.cmp(&other.same_job))
    })
}

fn find<'a>(blobs: &'a [Entry], blob: &Digest) -> Option<&'a Entry> {
    blobs.iter().find(|entry| entry.begun.blob == *blob)
}

/// When something of a blob came, or of what it waits for; `None` if it is not on its way.
fn last_moved(blobs: &[Entry], blob: &Digest) -> Option<Instant> {
    let mut entry = find(blobs, blob)?;
    let mut moved = entry.moved;
    // What a blob comes after was begun before it, so this ends.
    while let Some(before) = entry.after.and_then(|after| find(blobs, &after)) {
        (entry, moved) = (before, moved.max(before.moved));
    }
    Some(moved)
}

/// A blob that is on its way, until it is dropped.
#[derive(Debug)]
pub(crate) struct OnItsWay {
    underway: Arc<Underway>,
    blob: Digest,
}

impl OnItsWay {
    /// Something of it came.
    pub(crate) fn handle_moved(&self) {
        let mut blobs = self.underway.blobs();
        if let Some(entry) = blobs.iter_mut().find(|entry| entry.begun.blob == self.blob) {
            entry.moved = Instant::now();
        }
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        let mut blobs = self.underway.blobs();
        blobs.retain(|entry| entry.begun.blob != self.blob);
        // It may be begun again, and come after one of these then.
        let after = blobs.iter_mut().filter(|entry| entry.after == Some(self.blob));
        after.for_each(|entry| entry.after = None);
        drop(blobs);
        self.underway.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::{digest::Hash, sketch::Sketcher};

    fn blob(number: u32) -> Begun {
        let bytes: Vec<u8> =
            (number..number + 2000).flat_map(|n| Hash::of(&n.to_le_bytes()).0).collect();
        let mut sketcher = Sketcher::new();
        sketcher.update(&bytes);
        Begun { blob: Digest::of(&bytes), sketch: sketcher.finish(), urgent: true, job: 0 }
    }

    #[test]
    fn what_comes_after_another_is_never_what_that_one_comes_after() {
        let underway = Arc::<Underway>::default();
        let (one, other, far) = (blob(0), blob(500), blob(90_000));
        let is_enough = |share| share >= 0.2;
        let begun = underway.begin_unless_alike(one, is_enough).unwrap();
        assert!(begun.is_some());
        assert_eq!(underway.begin_unless_alike(other, is_enough).map(drop), Err(Alike));
        assert!(underway.begin_unless_alike(far, is_enough).is_ok());
        let (after, way) = underway.begin_after(other, is_enough);
        assert_eq!(after.map(|after| after.blob), Some(one.blob));
        assert!(way.is_some());
        // It is on its way already, for somebody else.
        assert!(underway.begin(one).is_none());
        drop(begun);
        let (after, _way) = underway.begin_after(one, is_enough);
        assert_eq!(after.map(|after| after.blob), Some(other.blob));
        assert!(last_moved(&underway.blobs(), &one.blob).is_some());
    }

    #[test]
    fn of_equal_ones_the_latest_counts_and_there_is_a_bound() {
        let underway = Arc::<Underway>::default();
        let name = |number: usize| Begun { blob: Digest::of(&number.to_le_bytes()), ..blob(0) };
        let begun: Vec<_> = (0..MOST + 2).map(|n| underway.begin(name(n))).collect();
        assert_eq!(begun.iter().flatten().count(), MOST);
        let (after, way) = underway.begin_after(name(MOST), |_| true);
        let latest = name(MOST - 1).blob;
        assert_eq!((after.map(|after| after.blob), way.is_some()), (Some(latest), false));
    }

    #[test]
    fn of_equal_ones_one_of_the_same_job_counts() {
        let underway = Arc::<Underway>::default();
        let name = |number: usize| Begun { blob: Digest::of(&number.to_le_bytes()), ..blob(0) };
        let jobs = [underway.job(), underway.job()];
        assert_ne!(jobs[0], jobs[1]);
        let _mine = underway.begin(Begun { job: jobs[0], ..name(1) });
        let _other = underway.begin(Begun { job: jobs[1], ..name(2) });
        let (after, _way) = underway.begin_after(Begun { job: jobs[0], ..name(3) }, |_| true);
        assert_eq!(after, Some(After { blob: name(1).blob, share: 1.0, same_job: true }));
    }

    #[test]
    fn what_somebody_waits_for_does_not_come_after_what_nobody_waits_for() {
        let underway = Arc::<Underway>::default();
        let _copied = underway.begin(Begun { urgent: false, ..blob(0) });
        assert_eq!(underway.begin_after(blob(500), |_| true).0, None);
        let copied = Begun { urgent: false, ..blob(500) };
        assert!(underway.begin_after(copied, |_| true).0.is_some());
    }

    #[test]
    fn who_waits_for_a_blob_hears_when_it_ends() {
        let underway = Arc::<Underway>::default();
        let one = blob(0);
        underway.wait(&one.blob);
        let begun = underway.begin(one);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| underway.wait(&one.blob));
            drop(begun);
            waiting.join().unwrap();
        });
        assert!(!underway.has(&one.blob));
    }
}
