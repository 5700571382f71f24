//! What a machine is like as a place for netbuild, and what to change about it.
//!
//! The shell gathers [`Facts`]; [`judge`] says what they mean. A fact that could not be had in time is
//! one as well.

mod facts;
mod machine;
mod network;
mod storage;
#[cfg(test)]
mod tests;

pub use facts::{
    Buffers, Cgroup, Clock, Configuration, Descriptors, Directory, Facts, FileSystem, Invitation,
    Known, Levels, Limits, Look, Member, Owner, PAGE, Place, Port, PortState, Reached, State, Tier,
    TierState, Trouble,
};

use std::{fmt, time::Duration};

/// How a finding is to be taken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Verdict {
    /// All is as it should be.
    Ok,
    /// Something to know, and nothing to mend.
    Note,
    /// Works, and not as well as it could.
    Warning,
    /// Does not work.
    Problem,
}

impl Verdict {
    /// The word that is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What came of one check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How to take it.
    pub verdict: Verdict,
    /// What it is like.
    pub says: String,
    /// A command or a setting that mends it.
    pub remedy: Option<String>,
}

impl Finding {
    fn new(check: &'static str, verdict: Verdict, says: impl Into<String>) -> Self {
        Self { check, verdict, says: says.into(), remedy: None }
    }

    fn ok(check: &'static str, says: impl Into<String>) -> Self {
        Self::new(check, Verdict::Ok, says)
    }

    fn note(check: &'static str, says: impl Into<String>) -> Self {
        Self::new(check, Verdict::Note, says)
    }

    fn warning(check: &'static str, says: impl Into<String>) -> Self {
        Self::new(check, Verdict::Warning, says)
    }

    fn problem(check: &'static str, says: impl Into<String>) -> Self {
        Self::new(check, Verdict::Problem, says)
    }

    fn fix(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// What the facts mean, in the order in which somebody would go through them.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![configuration(&facts.configuration)];
    let found = &mut findings;
    each(found, storage::DIRECTORY, &facts.directory, storage::directory);
    each(found, network::AGENT, &facts.owner, network::owner);
    each(found, network::PORTS, &facts.ports, |ports| network::ports(ports));
    each(found, network::JOIN, &facts.invitation, network::invitation);
    each(found, network::PEERS, &facts.owner, network::members);
    for (name, tier) in &facts.tiers {
        match tier {
            Look::Late(limit) => found.push(storage::silent_tier(name, *limit)),
            Look::Seen(tier) => found.extend(storage::tier(name, tier)),
            Look::Nothing => {}
        }
    }
    each(found, machine::CLOCK, &facts.clock, machine::clock);
    each(found, machine::BUFFERS, &facts.buffers, machine::buffers);
    each(found, machine::LIMITS, &facts.limits, machine::limits);
    each(found, machine::LEVELS, &facts.levels, machine::levels);
    findings
}

fn configuration(facts: &Configuration) -> Finding {
    const CHECK: &str = "configuration";
    let from = facts.file.as_deref().unwrap_or("built in");
    match &facts.error {
        Some(error) => Finding::problem(CHECK, error.clone()).fix(
            "mend what it names; mesh.toml of this version explains every setting. What needs a data \
             directory or an address was not checked",
        ),
        None => Finding::ok(CHECK, format!("{from}; all settings can be used")),
    }
}

fn each<T>(
    found: &mut Vec<Finding>,
    check: &'static str,
    look: &Look<T>,
    judge: impl FnOnce(&T) -> Vec<Finding>,
) {
    match look {
        Look::Seen(facts) => found.extend(judge(facts)),
        Look::Late(limit) => found.push(late(check, *limit)),
        Look::Nothing => {}
    }
}

/// Something did not answer in time, which a disk or a socket of this machine should.
fn late(check: &'static str, limit: Duration) -> Finding {
    let says = format!("no answer within {:.1} s", limit.as_secs_f64());
    Finding::warning(check, says).fix("look whether a disk or a process of this machine hangs")
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}
