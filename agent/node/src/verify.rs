//! Looking through the store of a data directory, mending it, and getting from others what was lost.

use crate::disk_cache::failed;
use netbuild_core::{cache::CacheError, digest::Digest, key::ActionKey};
use netbuild_gateway::OnVerify;
use netbuild_proto::control::{
    MAX_FINDINGS, VerifyFinding, VerifyOrder, VerifyProgress, VerifyReport,
};
use netbuild_store::{Cursor, Fault, Finding, Inspect, Stage, Store, Subject};
use std::{
    num::NonZeroUsize,
    ops::ControlFlow,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Blobs that are read at once, at most: enough for a fast disk, few enough to leave a machine with
/// many processors to the builds on it.
const MAX_READERS: usize = 4;
/// How often whoever ordered it hears how far it is.
const TOLD: Duration = Duration::from_millis(100);
/// Lost things that are looked for at others at once.
const HEALED_AT_ONCE: usize = 64;
/// Most lost things that are looked for at others; with more, most of the store is gone, and what a
/// build needs of it comes when it is needed.
const MAX_HEALED: usize = 100_000;

/// Something whose content was lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Lost {
    Blob(Digest),
    Record(ActionKey),
}

impl Lost {
    /// What a finding says is gone from here and has to come from elsewhere.
    pub(crate) fn of(finding: &Finding) -> Option<Self> {
        match &finding.subject {
            _ if !finding.fault.is_loss() || !finding.mended => None,
            Subject::Blob(blob) => Some(Self::Blob(*blob)),
            Subject::Record(key) => Some(Self::Record(*key)),
            Subject::File(_) | Subject::Index => None,
        }
    }
}

/// Gets lost things back, in the order asked: says of each whether it is here again.
pub(crate) type Heal<'a> = &'a (dyn Fn(&[Lost]) -> Result<Vec<bool>, CacheError> + Sync);

/// What is under way, told at most ten times a second whoever works on it.
struct Teller<'a> {
    progress: Mutex<(OnVerify<'a>, Option<Instant>)>,
    phase: Mutex<VerifyProgress>,
    bytes: AtomicU64,
    stop: AtomicBool,
}

impl Teller<'_> {
    fn update(&self, change: impl FnOnce(&mut VerifyProgress)) {
        change(&mut self.phase.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Counts what was read; says whether to go on.
    fn pace(&self, bytes: u64) -> ControlFlow<()> {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if self.stop.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        // Somebody else is telling.
        let Ok(mut progress) = self.progress.try_lock() else { return ControlFlow::Continue(()) };
        let (tell, told) = &mut *progress;
        if told.is_some_and(|told| told.elapsed() < TOLD) {
            return ControlFlow::Continue(());
        }
        *told = Some(Instant::now());
        let mut now = self.phase.lock().unwrap_or_else(PoisonError::into_inner).clone();
        now.bytes_done = self.bytes.load(Ordering::Relaxed);
        let going = tell(now);
        if going.is_break() {
            self.stop.store(true, Ordering::Relaxed);
        }
        going
    }
}

/// Looks through a store as ordered.
pub(crate) fn verify(
    store: &dyn Store,
    order: &VerifyOrder,
    progress: OnVerify<'_>,
    heal: Heal<'_>,
) -> Result<VerifyReport, CacheError> {
    let began = Instant::now();
    let stats = store.stats();
    let teller = Teller {
        progress: Mutex::new((progress, None)),
        phase: Mutex::new(VerifyProgress {
            blobs_total: stats.blobs,
            records_total: stats.records,
            bytes_total: if order.deep { stats.blob_bytes } else { 0 },
            ..VerifyProgress::default()
        }),
        bytes: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    let mut report = Report::new(order);
    if order.repair {
        store.mend().map_err(failed)?;
    }
    if order.deep {
        teller.update(|progress| progress.phase = "index".to_owned());
        let found = store.check_index(order.repair, &|| teller.pace(0)).map_err(failed)?;
        report.take(found.ok_or_else(broken_off)?, &teller);
    }
    let threads = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN).get();
    let how = Inspect {
        deep: order.deep,
        repair: order.repair,
        threads: NonZeroUsize::new(threads.min(MAX_READERS)).unwrap_or(NonZeroUsize::MIN),
        pace: &|bytes| teller.pace(bytes),
    };
    let mut from = Some(Cursor::default());
    while let Some(cursor) = from {
        let phase = if cursor.stage == Stage::Records { "records" } else { "blobs" };
        teller.update(|progress| progress.phase = phase.to_owned());
        let step = store.inspect(&cursor, &how).map_err(failed)?;
        if step.next == Some(cursor) {
            return Err(broken_off());
        }
        report.report.blobs += step.blobs;
        report.report.records += step.records;
        let (blobs, records) = (report.report.blobs, report.report.records);
        teller.update(|progress| (progress.blobs_done, progress.records_done) = (blobs, records));
        report.take(step.findings, &teller);
        from = step.next;
    }
    if order.repair {
        teller.update(|progress| progress.phase = "healing".to_owned());
        report.heal(heal, &teller)?;
        store.flush().map_err(failed)?;
    }
    Ok(report.finish(teller.bytes.into_inner(), began.elapsed()))
}

fn broken_off() -> CacheError {
    CacheError::Failed("broken off; what was mended stays so".to_owned())
}

/// A report that is being made.
struct Report {
    report: VerifyReport,
    /// What was lost, and which finding of the report tells of it.
    lost: Vec<(Lost, Option<usize>)>,
    unmended: u64,
}

impl Report {
    fn new(order: &VerifyOrder) -> Self {
        let VerifyOrder { deep, repair } = *order;
        let report = VerifyReport { deep, repair, ..VerifyReport::default() };
        Self { report, lost: Vec::new(), unmended: 0 }
    }

    fn take(&mut self, findings: Vec<Finding>, teller: &Teller<'_>) {
        for finding in findings {
            let report = &mut self.report;
            match finding.fault {
                Fault::Damaged => report.damaged += 1,
                Fault::Missing => report.missing += 1,
                Fault::Orphaned | Fault::Misplaced => report.orphaned += 1,
                Fault::Stray => report.stray += 1,
            }
            self.unmended += u64::from(!finding.mended && finding.fault != Fault::Stray);
            let told = (report.findings.len() < MAX_FINDINGS).then_some(report.findings.len());
            if let Some(lost) = Lost::of(&finding) {
                self.lost.push((lost, told));
            }
            if told.is_some() {
                let outcome = if finding.mended { "mended" } else { "left" };
                report.findings.push(VerifyFinding {
                    what: finding.subject.to_string(),
                    fault: finding.fault.name().to_owned(),
                    detail: finding.detail,
                    outcome: outcome.to_owned(),
                });
            }
        }
        let VerifyReport { damaged, missing, orphaned, .. } = self.report;
        teller.update(|progress| progress.found = damaged + missing + orphaned);
    }

    /// Gets what was lost from others. That they cannot be asked is no failure.
    fn heal(&mut self, heal: Heal<'_>, teller: &Teller<'_>) -> Result<(), CacheError> {
        for lost in self.lost.iter().take(MAX_HEALED).collect::<Vec<_>>().chunks(HEALED_AT_ONCE) {
            if teller.pace(0).is_break() {
                return Err(broken_off());
            }
            let wanted: Vec<Lost> = lost.iter().map(|(lost, _)| lost.clone()).collect();
            let healed = heal(&wanted)?;
            for ((_, told), healed) in lost.iter().zip(healed) {
                self.report.healed += u64::from(healed);
                if let Some(finding) = told.and_then(|at| self.report.findings.get_mut(at)) {
                    let outcome = if healed { "healed" } else { "lost" };
                    outcome.clone_into(&mut finding.outcome);
                }
            }
        }
        Ok(())
    }

    fn finish(mut self, bytes: u64, took: Duration) -> VerifyReport {
        self.report.lost = self.lost.len() as u64 - self.report.healed;
        self.report.remaining = self.unmended + self.report.lost;
        self.report.bytes = bytes;
        self.report.seconds = took.as_secs_f64();
        self.report
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_store::DiskStore;
    use std::{fs, path::Path};

    fn filled(dir: &Path) -> (DiskStore, Vec<Digest>) {
        let store = DiskStore::open(dir, "test").unwrap();
        let blobs = (0..12_u8).map(|n| store.put_content(&mut &vec![n; 40_000][..]).unwrap());
        let blobs = blobs.collect();
        (store, blobs)
    }

    fn damage(dir: &Path, blob: &Digest) {
        let name = blob.hash.to_string();
        fs::write(dir.join("blobs").join(&name[..2]).join(&name), vec![99; 40_000]).unwrap();
    }

    #[test]
    fn what_is_lost_comes_from_others_and_what_they_lack_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (store, blobs) = filled(dir.path());
        blobs[..3].iter().for_each(|blob| damage(dir.path(), blob));
        let go_on = &mut |_| ControlFlow::Continue(());
        let nobody: Heal<'_> = &|lost| Ok(vec![false; lost.len()]);
        let look = VerifyOrder { deep: true, repair: false };
        let report = verify(&store, &look, go_on, nobody).unwrap();
        assert_eq!((report.blobs, report.damaged, report.remaining), (12, 3, 3));
        assert!(report.findings.iter().all(|one| one.outcome == "left"), "{report:?}");
        assert!(report.bytes >= 12 * 40_000);

        // Another one has the first two.
        let heal = |lost: &[Lost]| -> Result<Vec<bool>, CacheError> {
            let one = |lost: &Lost| match blobs[..2].iter().position(|b| Lost::Blob(*b) == *lost) {
                Some(n) => store.put_content(&mut &vec![n as u8; 40_000][..]).is_ok(),
                None => false,
            };
            Ok(lost.iter().map(one).collect())
        };
        let repair = VerifyOrder { deep: true, repair: true };
        let report = verify(&store, &repair, go_on, &heal).unwrap();
        assert_eq!((report.damaged, report.healed, report.lost, report.remaining), (3, 2, 1, 1));
        let healed = report.findings.iter().filter(|one| one.outcome == "healed").count();
        assert_eq!(healed, 2);
        let report = verify(&store, &repair, go_on, &heal).unwrap();
        assert_eq!((report.blobs, report.remaining, report.findings.len()), (11, 0, 0));
    }

    #[test]
    fn it_ends_soon_when_nobody_wants_it_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = filled(dir.path());
        let nobody: Heal<'_> = &|lost| Ok(vec![false; lost.len()]);
        for order in [false, true].map(|deep| VerifyOrder { deep, repair: true }) {
            let report = verify(&store, &order, &mut |_| ControlFlow::Break(()), nobody);
            assert!(report.unwrap_err().to_string().contains("broken off"));
        }
    }
}
