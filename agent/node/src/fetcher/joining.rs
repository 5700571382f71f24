//! Who turns up with something that is wanted while it is being fetched: an agent that has joined or come
//! back, or that has got it, or a part of it, meanwhile.

use super::{Fetcher, Want};
use crate::{attempts::Asked, job::Job, view::over_of};
use futures::{
    StreamExt as _,
    stream::{self, FuturesUnordered, LocalBoxStream},
};
use netbuild_core::{
    digest::Digest,
    peer::PeerId,
    peers::Peer,
    plan::{Reason, Step, Who},
};
use netbuild_proto::parts::Parts;
use netbuild_transfer::Patience;
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};
use tokio::time::{sleep, timeout};

/// How often the others are looked at while something is on its way here.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Agents that are asked each time, those first that would be the best sources.
const MAX_QUERIED: usize = 6;
/// How long an answer is waited for; who is slower with that would be no help.
const QUERY_LIMIT: Duration = Duration::from_secs(1);
/// How often one agent is taken in: one that says to have something and gives nothing is not asked
/// for ever.
const MAX_JOINS: u32 = 3;

impl Fetcher {
    /// Looks for sources of what is missing from `job` that are not asked yet.
    pub(super) fn joining<'a>(
        &'a self,
        job: &'a Job<'_>,
        want: &'a Want<'_>,
        among: &'a dyn Fn(&PeerId, &Peer) -> bool,
    ) -> LocalBoxStream<'a, Step> {
        let joins = BTreeMap::<PeerId, u32>::new();
        let found = VecDeque::new();
        let next = move |(mut joins, mut found): (BTreeMap<_, _>, VecDeque<Step>)| async move {
            loop {
                if let Some(step) = found.pop_front() {
                    if let Some(peer) = step.who.peer() {
                        *joins.entry(peer).or_default() += 1;
                    }
                    return Some((step, (joins, found)));
                }
                sleep(LOOK_AGAIN).await;
                let often =
                    |peer: &PeerId| joins.get(peer).is_some_and(|joins| *joins >= MAX_JOINS);
                let among = |peer: &PeerId, known: &Peer| {
                    among(peer, known) && !job.is_asked(peer) && !often(peer)
                };
                found = self.turned_up(job, want, &among).await.into();
            }
        };
        stream::unfold((joins, found), next).boxed_local()
    }

    /// Those of the best sources that have something of what is missing, and help to get it sooner.
    async fn turned_up(
        &self,
        job: &Job<'_>,
        want: &Want<'_>,
        among: &dyn Fn(&PeerId, &Peer) -> bool,
    ) -> Vec<Step> {
        let (left, rate) = job.outlook();
        let plan = self.view.plan(left, &want.holders, among, false);
        let worth = plan.steps.into_iter().filter(|step| step.helps(left, rate));
        let blobs: Vec<Digest> = job.first_missing().into_iter().map(|(_, blob)| blob).collect();
        let asking: FuturesUnordered<_> = worth
            .take(MAX_QUERIED)
            .filter_map(|step| Some((self.view.whom(&step.who.peer()?)?, step)))
            .map(|(whom, step)| {
                let blobs = &blobs;
                async move {
                    let asked = Asked::new(&self.view, Who::Peer(whom.peer));
                    let holder = whom.holder();
                    let net = self.net.as_ref()?;
                    let parts = net.endpoint.parts(&holder, blobs, Patience::default());
                    let parts = timeout(QUERY_LIMIT, parts).await.ok()?;
                    asked.ends(over_of(&parts));
                    let parts = parts.ok()?;
                    let whole = parts.iter().all(|part| *part == Parts::Whole);
                    let some = whole || job.lacks_any(&parts);
                    let reason = if whole { Reason::Joined } else { Reason::Arriving };
                    some.then_some(Step { reason, holds: Some(true), ..step })
                }
            })
            .collect();
        asking.filter_map(|told| async { told }).collect().await
    }
}
