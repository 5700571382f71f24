//! What was decided of late, and what came of it: the answer to `netbuild why`.

use crate::attempts::{Outcome, Tried};
use netbuild_core::plan::{Plan, Step, Who};
use netbuild_proto::control::{Attempt, Decision};
use std::{
    collections::VecDeque,
    fmt,
    sync::{Mutex, OnceLock, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

/// Decisions that are remembered: those of a large build, some 2 MB.
const MAX_DECISIONS: usize = 4096;
/// Sources that were passed over and are told of one decision.
const MAX_LEFT_OUT: usize = 8;

/// How the outcome begins of a decision not to wait for what is sooner built.
pub(crate) const LEFT_TO_BE_BUILT: &str = "left to be built";

/// Hears of each decision.
pub type Hearer = Box<dyn Fn(&Decision) + Send + Sync>;

/// The decisions of late, the latest last.
#[derive(Default)]
pub(crate) struct Decisions {
    list: Mutex<VecDeque<Decision>>,
    hearer: OnceLock<Hearer>,
}

impl fmt::Debug for Decisions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decisions").field("list", &self.list).finish_non_exhaustive()
    }
}

impl Decisions {
    /// Remembers one.
    pub(crate) fn add(&self, decision: Decision) {
        if let Some(hear) = self.hearer.get() {
            hear(&decision);
        }
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if list.len() >= MAX_DECISIONS {
            list.pop_front();
        }
        list.push_back(decision);
    }

    /// Has somebody hear of each from now on; only the first who asks does.
    pub(crate) fn tell(&self, hearer: Hearer) {
        drop(self.hearer.set(hearer));
    }

    /// Those about something, the latest first: `about` is how the digest or the key of what was wanted begins.
    pub(crate) fn about(&self, about: Option<&str>, limit: usize) -> Vec<Decision> {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted =
            |decision: &&Decision| about.is_none_or(|start| is_about(&decision.what, start));
        list.iter().rev().filter(wanted).take(limit).cloned().collect()
    }
}

/// Whether a decision was about what has a name that begins so.
fn is_about(what: &str, start: &str) -> bool {
    let named =
        what.split_once(' ').filter(|(kind, _)| ["action", "record", "blob"].contains(kind));
    named.is_some_and(|(_, name)| !start.is_empty() && name.starts_with(start))
}

/// What is told of a decision: `what` was wanted, these sources were asked, and it came to `outcome`.
pub(crate) fn decision(
    what: String,
    plan: &Plan,
    tried: &[Tried],
    build_ms: Option<u64>,
    outcome: &str,
) -> Decision {
    let mut attempts: Vec<Attempt> = tried.iter().map(attempt).collect();
    let left_out = plan
        .left_out
        .iter()
        .take(MAX_LEFT_OUT)
        .map(|step| Attempt { outcome: "passed over".into(), ..considered(step) });
    attempts.extend(left_out);
    Decision {
        at_ms: wall_ms(),
        what,
        size: plan.size,
        build_s: build_ms.map(|ms| ms as f64 / 1e3),
        attempts,
        outcome: outcome.to_owned(),
    }
}

/// Milliseconds since 1970 by this agent's clock.
pub(crate) fn wall_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

fn attempt(tried: &Tried) -> Attempt {
    let ago = u64::try_from(tried.began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Attempt {
        began_ms: wall_ms().saturating_sub(ago),
        actual_s: Some(tried.seconds),
        bytes: tried.bytes,
        outcome: match &tried.outcome {
            Outcome::Fetched => "fetched".into(),
            Outcome::Missing => "missing".into(),
            Outcome::Failed(why) => format!("failed: {why}"),
            Outcome::Late => "late".into(),
            Outcome::Cancelled => "cancelled".into(),
        },
        ..considered(&tried.step)
    }
}

fn considered(step: &Step) -> Attempt {
    Attempt {
        source: source(step),
        region: step.region.clone(),
        reason: step.reason.to_string(),
        predicted_s: Some(step.prediction.seconds()),
        ..Attempt::default()
    }
}

/// A source as people see it in a plan.
pub(crate) fn source(step: &Step) -> String {
    match step.who {
        Who::Peer(peer) => format!("peer {}", peer.short()),
        // The region of a tier is its place.
        Who::Tier(_) => step.region.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_is_about_what_its_name_begins_with_and_nothing_else() {
        let decisions = Decisions::default();
        for what in ["action 12ab", "record 12ab", "blob 2abc", "3 blobs", "sync of 12 records"] {
            decisions.add(Decision { what: what.to_owned(), ..Decision::default() });
        }
        let about = |start: &str| {
            let found = decisions.about(Some(start), 9).into_iter();
            found.map(|decision| decision.what).collect::<Vec<_>>()
        };
        assert_eq!(about("12"), ["record 12ab", "action 12ab"]);
        assert_eq!(about("2a"), ["blob 2abc"]);
        for nothing in ["a", "t", "b", "bl", "ab", "sync", "12ab ", ""] {
            assert!(about(nothing).is_empty(), "{nothing}");
        }
        assert_eq!(decisions.about(None, 2).len(), 2);
    }
}
