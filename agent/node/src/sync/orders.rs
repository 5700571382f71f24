//! Orders to copy between regions: carried out here, or by an agent of the region that is to have it.

use super::{
    Syncer,
    copying::{State, update},
    evidence,
};
use futures::future::join_all;
use netbuild_core::{cache::CacheError, peer::PeerId, reconcile::respond};
use netbuild_gateway::OnProgress;
use netbuild_mesh::Exchange;
use netbuild_proto::{
    control::{self, SyncPair, SyncProgress, SyncReport},
    exchange::{MAX_REASON, Request, Response, SyncOrder, SyncStatus},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
    time::Duration,
};
use tokio::time::{Instant, sleep, sleep_until};

/// Orders of others that run at once; an agent needs one for each region, and mostly has none.
const MAX_RUNNING: usize = 4;
/// Orders that are over and can still be asked about.
const MAX_OVER: usize = 64;
/// How often another agent is asked how far it is, and a person told.
const LOOK: Duration = Duration::from_millis(250);
/// How often in a row another agent may not answer before its part counts as failed.
const MAX_SILENT: u32 = 20;

/// After this, nobody is taken to wait for an order any more: whoever gave it has broken it off, or
/// is gone. Many times as long as a network that comes back needs.
const ABANDONED: Duration = Duration::from_secs(60);

/// An order of another agent.
#[derive(Debug)]
struct Job {
    state: State,
    asked: Mutex<Instant>,
}

impl Job {
    fn new() -> Self {
        Self { state: State::default(), asked: Mutex::new(Instant::now()) }
    }

    fn is_over(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).done
    }

    fn status(&self) -> SyncStatus {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns once nobody has asked about it for long.
    async fn abandoned(&self) {
        loop {
            let due = *self.asked.lock().unwrap_or_else(PoisonError::into_inner) + ABANDONED;
            if due <= Instant::now() {
                return;
            }
            sleep_until(due).await;
        }
    }
}

/// Orders of others.
#[derive(Debug, Default)]
pub(super) struct Jobs(Mutex<BTreeMap<u64, Arc<Job>>>);

impl Jobs {
    fn begin(&self) -> Option<(u64, Arc<Job>)> {
        let mut jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let over: Vec<u64> =
            jobs.iter().filter(|(_, job)| job.is_over()).map(|(id, _)| *id).collect();
        if jobs.len() - over.len() >= MAX_RUNNING {
            return None;
        }
        for id in over.iter().take(over.len().saturating_sub(MAX_OVER)) {
            jobs.remove(id);
        }
        let id = crate::random::nonce();
        let job = Arc::new(Job::new());
        jobs.insert(id, Arc::clone(&job));
        Some((id, job))
    }

    fn status(&self, id: u64) -> Option<SyncStatus> {
        let jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.get(&id).map(|job| job.status())
    }
}

impl Syncer {
    /// Carries out what a person orders, and reports what went between which regions.
    pub(crate) async fn order(
        &self,
        order: &control::SyncOrder,
        progress: OnProgress<'_>,
    ) -> Result<SyncReport, CacheError> {
        let began = Instant::now();
        let targets = self.targets(order)?;
        let what =
            SyncOrder { from: order.from.clone(), dry_run: order.dry_run, force: order.force };
        let parts: Vec<(String, State)> =
            targets.into_iter().map(|region| (region, State::default())).collect();
        let working = join_all(parts.iter().map(|(region, state)| self.part(region, &what, state)));
        tokio::pin!(working);
        loop {
            tokio::select! {
                _ = &mut working => break,
                () = sleep(LOOK) => {
                    if progress(summed(&parts)).is_break() {
                        return Err(CacheError::Failed(
                            "broken off; the same command goes on where it was".to_owned(),
                        ));
                    }
                }
            }
        }
        let _: ControlFlow<()> = progress(summed(&parts));
        Ok(report(&parts, order.dry_run, began.elapsed().as_secs_f64()))
    }

    /// The regions that are to have everything.
    fn targets(&self, order: &control::SyncOrder) -> Result<BTreeSet<String>, CacheError> {
        let here = self.fetcher.disk.region();
        let mut known: BTreeSet<String> = self.fetcher.view.peers(|peers, _| {
            let present = peers.iter().filter(|(_, peer)| peer.present);
            present.map(|(_, peer)| peer.region.clone()).collect()
        });
        known.insert(here.clone());
        for region in order.from.iter().chain(&order.to) {
            if !known.contains(region) {
                let known: Vec<_> = known.into_iter().filter(|region| !region.is_empty()).collect();
                return Err(CacheError::Failed(format!(
                    "no agent of region `{region}` is in the mesh; the regions are: {}",
                    known.join(", ")
                )));
            }
        }
        let mut targets = match (&order.to, order.all) {
            (Some(to), _) => BTreeSet::from([to.clone()]),
            (None, true) => known.into_iter().filter(|r| !r.is_empty() || *r == here).collect(),
            (None, false) => BTreeSet::from([here]),
        };
        if let Some(from) = &order.from
            && targets.len() > 1
        {
            targets.remove(from);
        }
        Ok(targets)
    }

    /// The part of one region.
    async fn part(&self, region: &str, order: &SyncOrder, state: &State) {
        let done = if *region == self.fetcher.disk.region() {
            self.carry_out(order, state).await.map_err(|error| error.to_string())
        } else {
            self.delegate(region, order, state).await
        };
        update(state, |state| {
            state.done = true;
            state.error = done.err().or(state.error.take());
        });
    }

    /// Has an agent of another region do it.
    async fn delegate(&self, region: &str, order: &SyncOrder, state: &State) -> Result<(), String> {
        let mut why = format!("no agent of {region} is connected");
        for agent in self.agents_of(region) {
            let request = Request::Sync(order.clone());
            let id = match self.ask(agent, &request).await {
                Ok(Response::Sync { id }) => id,
                Ok(_) => continue,
                Err(error) => {
                    why = error;
                    continue;
                }
            };
            let mut silent = 0;
            loop {
                sleep(LOOK).await;
                match self.ask(agent, &Request::SyncStatus { id }).await {
                    Ok(Response::SyncStatus(status)) => {
                        silent = 0;
                        let (done, error) = (status.done, status.error.clone());
                        update(state, |state| *state = SyncStatus { done: false, ..status });
                        if done {
                            return error.map_or(Ok(()), Err);
                        }
                    }
                    Ok(_) => return Err("the agent answered something else".to_owned()),
                    Err(error) => {
                        silent += 1;
                        if silent >= MAX_SILENT {
                            return Err(error);
                        }
                    }
                }
            }
        }
        Err(why)
    }

    /// The agents of a region that can be asked, the nearest first.
    fn agents_of(&self, region: &str) -> Vec<PeerId> {
        let here = |_: &PeerId, peer: &netbuild_core::peers::Peer| peer.region == region;
        let plan = self.fetcher.view.plan(0, &BTreeSet::new(), &here, false);
        let peers = plan.steps.iter().filter_map(|step| step.who.peer());
        peers.filter(|peer| self.fetcher.view.is_connected(peer)).collect()
    }

    /// Starts an order of another agent; says under which number it can be asked about.
    fn accept(self: &Arc<Self>, order: SyncOrder) -> Option<u64> {
        let (id, job) = self.jobs.begin()?;
        let syncer = Arc::clone(self);
        // It ends soon after the agent's stop, which waits for it.
        self.orders.spawn_blocking(move || {
            let done = syncer.block_on(async {
                tokio::select! {
                    done = syncer.carry_out(&order, &job.state) => done,
                    () = job.abandoned() => {
                        Err(CacheError::Failed("nobody asks about it any more".to_owned()))
                    }
                }
            });
            let error = match done {
                Some(Ok(())) => None,
                Some(Err(error)) => Some(error.to_string()),
                None => Some("the agent is stopping".to_owned()),
            };
            update(&job.state, |state| {
                state.done = true;
                state.error = error.map(|error| error.chars().take(MAX_REASON).collect());
            });
        });
        Some(id)
    }
}

fn summed(parts: &[(String, State)]) -> SyncProgress {
    let mut sum = SyncProgress::default();
    let mut busy = Vec::new();
    for (region, state) in parts {
        let state = state.lock().unwrap_or_else(PoisonError::into_inner);
        sum.artifacts_done += state.artifacts_done;
        sum.artifacts_total += state.artifacts_total;
        sum.bytes_done += state.bytes_done;
        sum.bytes_total += state.bytes_total;
        if !state.done {
            busy.push(region.as_str());
        }
    }
    let phase = if sum.artifacts_total == 0 { "comparing" } else { "copying" };
    sum.phase = format!("{phase} {}", busy.join(", ")).trim_end().to_owned();
    sum
}

fn report(parts: &[(String, State)], dry_run: bool, seconds: f64) -> SyncReport {
    let mut report = SyncReport { dry_run, seconds, ..SyncReport::default() };
    for (region, state) in parts {
        let state = state.lock().unwrap_or_else(PoisonError::into_inner);
        report.conflicts += state.conflicts;
        for pair in &state.pairs {
            report.artifacts += pair.artifacts;
            report.bytes_logical += pair.bytes_logical;
            report.bytes_on_wire += pair.bytes_on_wire;
            report.pairs.push(SyncPair {
                from: pair.from.clone(),
                to: pair.to.clone(),
                artifacts: pair.artifacts,
                bytes_logical: pair.bytes_logical,
                bytes_on_wire: pair.bytes_on_wire,
                seconds: pair.seconds,
                error: None,
            });
        }
        if let Some(error) = &state.error {
            let error = Some(error.clone());
            report.pairs.push(SyncPair { to: region.clone(), error, ..SyncPair::default() });
        }
    }
    report
}

/// The store of this agent failed; that is no matter of the one who asks.
fn refused(error: CacheError) -> Response {
    tracing::warn!(%error, "cannot answer a member");
    Response::Refused("this agent cannot read its store".to_owned())
}

/// Answers what other members ask.
#[derive(Debug, Default)]
pub(crate) struct Answerer(OnceLock<Weak<Syncer>>);

impl Answerer {
    /// From now on it answers; before, everything is refused.
    pub(crate) fn answer_with(&self, syncer: &Arc<Syncer>) {
        // Set a second time, the first stays: there is one syncer for each mesh.
        let _ = self.0.set(Arc::downgrade(syncer));
    }
}

impl Exchange for Answerer {
    fn answer(&self, _: &PeerId, request: Vec<u8>) -> Option<Vec<u8>> {
        let syncer = self.0.get()?.upgrade()?;
        let response = match Request::decode(&request).ok()? {
            Request::Reconcile(message) => {
                let answer = syncer.fetcher.view.ledger(|ledger| respond(ledger, &message));
                Response::Reconcile(answer.ok()?)
            }
            Request::Sync(order) => match syncer.accept(order) {
                Some(id) => Response::Sync { id },
                None => Response::Refused("too many orders are carried out already".to_owned()),
            },
            Request::SyncStatus { id } => match syncer.jobs.status(id) {
                Some(status) => Response::SyncStatus(status),
                None => Response::Refused("there is no such order".to_owned()),
            },
            Request::Evidence { summary } => {
                evidence::answer(&syncer, summary).unwrap_or_else(refused)
            }
            Request::Lost(wanted) => evidence::lost(&syncer, &wanted).unwrap_or_else(refused),
        };
        Some(response.encode())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_order_that_nobody_asks_about_is_given_up() {
        let (job, began) = (Job::new(), Instant::now());
        let waiting = async {
            sleep(ABANDONED / 2).await;
            job.status();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = job.abandoned() => {}
            () = waiting => {}
        }
        assert_eq!(began.elapsed(), ABANDONED / 2 + ABANDONED);
    }

    #[test]
    fn orders_are_few_and_those_that_are_over_make_room() {
        let jobs = Jobs::default();
        let running: Vec<_> = (0..MAX_RUNNING).map(|_| jobs.begin().unwrap()).collect();
        assert!(jobs.begin().is_none());
        for (id, job) in &running {
            update(&job.state, |state| state.done = true);
            assert!(jobs.status(*id).is_some_and(|status| status.done));
        }
        for _ in 0..2 * MAX_OVER {
            let (_, job) = jobs.begin().unwrap();
            update(&job.state, |state| state.done = true);
        }
        assert!(jobs.0.lock().unwrap().len() <= MAX_OVER + 1);
    }
}
