//! What peers are asked before blobs are: who has them, and whether a neighbour brings them.

use super::Fetcher;
use crate::{
    attempts::{Asked, Sources, Team, Trial, Tried, ask},
    flights::Claim,
    job::{Job, alike},
    view::over_of,
};
use futures::{StreamExt as _, future::join, stream::FuturesUnordered};
use netbuild_core::{
    cache::CacheError,
    crossing,
    digest::Digest,
    health::Health,
    peer::PeerId,
    peers::Over,
    plan::{Plan, Reason, Step, Who},
    score::goodput,
};
use netbuild_transfer::Patience;
use std::{collections::BTreeSet, time::Duration};
use tokio::time::{Instant, timeout, timeout_at};

/// Most peers that are asked whether they have something that nobody announced.
const MAX_QUERIED: usize = 6;
/// Those of them that are asked for the lists of chunks at the same time: a round trip less until the
/// first chunk comes.
const MAX_LOOKED_AHEAD: usize = 2;
/// How long their answers are waited for.
const QUERY_LIMIT: Duration = Duration::from_secs(1);
/// How long at least the others are waited for once one has said that it has it.
const QUERY_MARGIN: Duration = Duration::from_millis(50);
/// What another agent of the region may take to bring something, before this one fetches it itself:
/// so many times what that is expected to take...
const BRING_FACTOR: f64 = 4.0;
/// ...and this on top. One that is gone shows by its silence much sooner.
const BRING_MARGIN: Duration = Duration::from_secs(2);

impl Fetcher {
    /// Which of the best sources have a blob, as far as they say soon enough.
    pub(crate) async fn all_who_have(
        &self,
        steps: &[Step],
        blob: &Digest,
    ) -> Result<BTreeSet<Who>, CacheError> {
        self.query(steps, &[*blob], None, usize::MAX, |_| QUERY_LIMIT).await
    }

    /// The first of the best sources to say that they have all of `blobs`, at most `enough`: whoever
    /// is much later with that than the first would be late with the blobs as well. The best tell the
    /// job of which chunks they are.
    pub(super) async fn who_has(
        &self,
        steps: &[Step],
        blobs: &[Digest],
        job: &Job<'_>,
        enough: usize,
    ) -> Result<BTreeSet<Who>, CacheError> {
        self.query(steps, blobs, Some(job), enough, |first| first * 2 + QUERY_MARGIN).await
    }

    /// Asks the best sources at once, until so many said that they have all of `blobs`, or time is
    /// up: `limit` says when, by how long the first to have it took.
    async fn query(
        &self,
        steps: &[Step],
        blobs: &[Digest],
        job: Option<&Job<'_>>,
        enough: usize,
        limit: impl Fn(Duration) -> Duration,
    ) -> Result<BTreeSet<Who>, CacheError> {
        let whom = steps.iter().take(MAX_QUERIED).enumerate();
        let mut answers: FuturesUnordered<_> = whom
            .map(|(rank, step)| async move {
                let who = step.who;
                let has = match who {
                    Who::Peer(peer) => {
                        let job = job.filter(|_| rank < MAX_LOOKED_AHEAD);
                        let is_slow = alike::is_slow(goodput(&step.link));
                        self.peer_has(&peer, blobs, job, is_slow).await?
                    }
                    Who::Tier(tier) => match self.shared.tier(tier) {
                        Some(tier) => tier.has(blobs).await,
                        None => false,
                    },
                };
                Ok::<_, CacheError>((who, has))
            })
            .collect();
        let began = Instant::now();
        let mut deadline = began + QUERY_LIMIT;
        let mut holders = BTreeSet::new();
        while holders.len() < enough
            && let Ok(Some(answer)) = timeout_at(deadline, answers.next()).await
        {
            let (who, has) = answer?;
            if has && holders.is_empty() {
                deadline = deadline.min(began + limit(began.elapsed()));
            }
            if has {
                holders.insert(who);
            }
        }
        Ok(holders)
    }

    async fn peer_has(
        &self,
        peer: &PeerId,
        blobs: &[Digest],
        job: Option<&Job<'_>>,
        is_slow: bool,
    ) -> Result<bool, CacheError> {
        let (Some(whom), Some(net)) = (self.view.whom(peer), &self.net) else { return Ok(false) };
        let asked = Asked::new(&self.view, Who::Peer(*peer));
        let holder = whom.holder();
        let has = net.endpoint.has(&holder, blobs, Patience::default());
        let looked_ahead = async {
            match job {
                Some(job) => job.look_ahead(&net.endpoint, &whom, is_slow).await,
                None => Ok(()),
            }
        };
        let (answer, looked_ahead) = join(has, looked_ahead).await;
        asked.ends(over_of(&answer));
        looked_ahead?;
        Ok(answer.is_ok_and(|has| has.iter().all(|has| *has)))
    }

    /// Has another agent of this region bring blobs from afar, if it is its turn, and takes from it
    /// what it has of them as they come; says which.
    pub(super) async fn brought(
        &self,
        plan: &Plan,
        job: &Job<'_>,
        blobs: &[Digest],
        claim: &Claim<'_>,
        tried: &mut Vec<Tried>,
    ) -> Result<Option<PeerId>, CacheError> {
        let (Some(first), Some(net)) = (plan.steps.first(), &self.net) else { return Ok(None) };
        // What is shared is as near to every agent of the region.
        if first.who.peer().is_none() {
            return Ok(None);
        }
        let region = self.disk.region();
        if region.is_empty() || first.region == *region {
            return Ok(None);
        }
        let me = self.disk.peer_id();
        let near: Vec<PeerId> = self.view.peers(|peers, now| {
            let can = |peer: &PeerId| {
                peers.get(peer).is_some_and(|peer| peer.health(now) == Health::Closed)
            };
            peers.neighbours().filter(can).collect()
        });
        let Some(blob) = blobs.first() else { return Ok(None) };
        let order = crossing::order(&blob.hash, near.into_iter().chain([me]));
        let before_me = order.into_iter().take_while(|agent| *agent != me);
        for agent in before_me.take(crossing::MAX_ASKED) {
            let Some(whom) = self.view.whom(&agent) else { continue };
            let expected = Duration::try_from_secs_f64(BRING_FACTOR * first.prediction.seconds());
            let limit = expected.unwrap_or(Duration::MAX).saturating_add(BRING_MARGIN);
            let _delegated = claim.delegate();
            let taking = self.take_from_carrier(plan.size, job, agent, tried);
            let bringing = async {
                let asked = Asked::new(&self.view, Who::Peer(agent));
                let holder = whom.holder();
                let asking = net.endpoint.bring(&holder, blobs, Patience::default());
                let answer = timeout(limit, asking).await;
                // One that was still at it when the time was over did nothing wrong.
                asked.ends(answer.as_ref().map_or(Over::Dropped, over_of));
                let brought = matches!(&answer, Ok(Ok(has)) if has.iter().all(|has| *has));
                if brought {
                    job.handle_whole(agent);
                } else {
                    tracing::info!(peer = %agent.short(), ?answer, "brought nothing");
                }
                brought
            };
            tokio::pin!(taking, bringing);
            let brought = tokio::select! {
                // All of it came while it came there; or else the bringing says how it ended.
                taken = &mut taking => taken? || bringing.await,
                brought = &mut bringing => match brought {
                    // What it has is near: it is here in a moment, or asked for once more.
                    true => taking.await.map(|_| true)?,
                    false => false,
                },
            };
            if brought {
                return Ok(Some(agent));
            }
        }
        Ok(None)
    }

    /// Takes from one that was asked to bring something what it has by now; says whether that was
    /// all.
    async fn take_from_carrier(
        &self,
        size: u64,
        job: &Job<'_>,
        carrier: PeerId,
        tried: &mut Vec<Tried>,
    ) -> Result<bool, CacheError> {
        let holders = BTreeSet::from([Who::Peer(carrier)]);
        let mut plan = self.view.plan(size, &holders, &|peer, _| *peer == carrier, false);
        let Some(step) = plan.steps.first_mut() else { return Ok(false) };
        step.reason = Reason::Arriving;
        job.handle_brings(carrier);
        let fallback = self.view.fallback(&plan, 1, false);
        let team = Team::of_one(false);
        let mut log = Vec::new();
        let start = |trial: Trial| job.attempt(trial);
        let sources = Sources { view: &self.view, reach: &|who| self.reach(who) };
        let whole = ask(sources, &mut plan, fallback, team, &mut log, start).await?;
        tried.append(&mut log);
        Ok(whole.is_some())
    }
}
