//! Records in the simulation: who has which version, and how agents that met again become equal.

use super::{AgentNo, RumourNo, Said, Sim, net::OVERHEAD, queue::Event};
use crate::{
    digest::Hash,
    hlc::Hlc,
    key::ActionKey,
    ledger::{Cost, Item, Ledger},
    merge::{Evidence, Outcome, Trust, Variant, Version, merge},
    reconcile::{self, Session},
};
use std::collections::{BTreeMap, BTreeSet};

/// The time 0 of a run on a right wall clock, in milliseconds since the Unix epoch.
const EPOCH_MS: u64 = 1_800_000_000_000;
/// Bytes of a record on its way, sealed.
const SEALED: usize = 400;

/// One version of one record.
pub(super) type Versioned = (ActionKey, Version);

/// Something that passes between two agents about records. Like the real thing it goes over a reliable
/// stream, whose loss ends the exchange.
#[derive(Debug)]
pub(super) enum Step {
    /// A question of the initiator.
    Ask(reconcile::Message),
    /// What the responder says to it.
    Answer(reconcile::Message),
    /// Send me these.
    Pull(Vec<Item>),
    /// Here they are.
    Give(Vec<Versioned>),
}

/// The records of one agent.
#[derive(Debug, Default)]
pub(super) struct Records {
    ledger: Ledger,
    kept: BTreeMap<ActionKey, Version>,
    evidence: Evidence<Version>,
    clock: Hlc,
    sessions: BTreeMap<AgentNo, Session>,
}

impl Records {
    /// Takes a version. The one that lost by it, when its being here before was news to nobody else.
    fn put(&mut self, (key, new): Versioned, trust: &Trust, wall_ms: u64) -> Option<Versioned> {
        self.clock = self.clock.observe(new.hlc, wall_ms);
        let Some(kept) = self.kept.get(&key).copied() else {
            self.keep(key, new);
            return None;
        };
        let outcome = merge(&kept, &new, trust);
        if matches!(outcome, Outcome::Replaces { .. }) {
            self.keep(key, new);
        }
        match outcome {
            Outcome::Replaces { conflict: true } => {
                self.lose(key, kept, &new, trust);
                Some((key, kept))
            }
            Outcome::Stays { conflict: true } => {
                self.lose(key, new, &kept, trust);
                None
            }
            _ => None,
        }
    }

    fn keep(&mut self, key: ActionKey, version: Version) {
        self.ledger.handle_have(item(&key, &version), Cost::default());
        self.kept.insert(key, version);
    }

    fn lose(&mut self, key: ActionKey, lost: Version, kept: &Version, trust: &Trust) {
        let variant = Variant { rank: lost.rank(trust), result: lost.result, place: lost };
        self.evidence.add(key, &kept.result, variant);
    }

    /// The version that an item names, if it is kept here or is evidence.
    fn find(&self, wanted: &Item) -> Option<Versioned> {
        let lost = self.evidence.variants(&wanted.key).iter().map(|variant| &variant.place);
        let mut all = self.kept.get(&wanted.key).into_iter().chain(lost);
        let found = all.find(|version| item(&wanted.key, version) == *wanted)?;
        Some((wanted.key, *found))
    }
}

fn item(key: &ActionKey, version: &Version) -> Item {
    let mut sum = [0; 8];
    sum.copy_from_slice(&version.hash.as_bytes()[..8]);
    Item { key: *key, hlc: version.hlc, sum: u64::from_le_bytes(sum) }
}

impl Sim {
    /// An agent ran the action number `action` and got the result number `result`; it says so.
    pub fn write(&mut self, agent: AgentNo, action: u64, result: u64) -> RumourNo {
        let wall_ms = self.wall_ms(agent);
        let (writer, nonce) = (self.agents[agent].id, self.dice.roll());
        let key = ActionKey(*blake3::hash(&action.to_le_bytes()).as_bytes());
        let trust = Trust::default();
        if let Some(records) = &mut self.agents[agent].records {
            records.clock = records.clock.tick(wall_ms);
            let version = Version {
                writer,
                hlc: records.clock,
                hash: Hash::of(&nonce.to_le_bytes()),
                result: Hash::of(&result.to_le_bytes()),
                bound_to: None,
            };
            records.put((key, version), &trust, wall_ms);
            return self.say_about(agent, Some((key, version)));
        }
        self.say_about(agent, None)
    }

    /// The records that an agent has: the result and the writer of each action.
    pub fn kept(&self, agent: AgentNo) -> BTreeMap<ActionKey, Version> {
        self.agents[agent].records.as_ref().map(|it| it.kept.clone()).unwrap_or_default()
    }

    /// The actions of which an agent has seen more than one result.
    pub fn conflicts(&self, agent: AgentNo) -> BTreeSet<ActionKey> {
        let records = self.agents[agent].records.as_ref();
        records.map(|it| it.evidence.newest().into_iter().collect()).unwrap_or_default()
    }

    /// What an agent's own wall clock shows.
    fn wall_ms(&self, agent: AgentNo) -> u64 {
        (EPOCH_MS + self.now / 1_000).saturating_add_signed(self.agents[agent].skew_ms)
    }

    pub(super) fn say_about(&mut self, agent: AgentNo, record: Option<Versioned>) -> RumourNo {
        let number = self.said.len();
        self.said.push(Said { at: self.now, by: agent, record });
        let body = self.body(super::agent::RECORD, number as u64, super::RECORD_RUMOUR);
        self.agents[agent].learn(number, self.now);
        self.say_body(agent, body);
        number
    }

    /// `agent` learnt of rumours, and pulls the records that it lacks from those that said so.
    pub(super) fn pull_heard(&mut self, agent: AgentNo) {
        let heard = std::mem::take(&mut self.agents[agent].heard);
        let Some(records) = &self.agents[agent].records else { return };
        let mut wanted: BTreeMap<AgentNo, Vec<Item>> = BTreeMap::new();
        for rumour in heard {
            let Some(Said { by, record: Some((key, version)), .. }) = self.said.get(rumour) else {
                continue;
            };
            let item = item(key, version);
            if records.find(&item).is_none() {
                wanted.entry(*by).or_default().push(item);
            }
        }
        for (holder, items) in wanted {
            self.pass(agent, holder, Step::Pull(items));
        }
    }

    /// Two agents have a connection from now on: the one that made it asks in what they differ.
    pub(super) fn start_exchange(&mut self, a: AgentNo, b: AgentNo) {
        let nonce = self.dice.roll();
        let Some(records) = &mut self.agents[a].records else { return };
        let (session, message) = Session::start(&records.ledger, nonce);
        records.sessions.insert(b, session);
        self.pass(a, b, Step::Ask(message));
    }

    fn pass(&mut self, from: AgentNo, to: AgentNo, step: Step) {
        let bytes = OVERHEAD
            + match &step {
                Step::Ask(message) | Step::Answer(message) => message.as_bytes().len(),
                Step::Pull(items) => items.len() * 48,
                Step::Give(records) => records.len() * SEALED,
            };
        let sent = self.agents[from].load.sent;
        let at = self.net.send(&mut self.agents, (from, to), bytes, self.now, &mut self.dice);
        let load = &mut self.agents[from].load;
        (load.sent, load.reconciled) = (sent, load.reconciled + bytes as u64);
        self.queue.push(at, Event::Exchange { from, to, step: Box::new(step) });
    }

    pub(super) fn exchange(&mut self, from: AgentNo, to: AgentNo, step: Step) {
        if !self.reaches(from, to) {
            return;
        }
        let (trust, wall_ms) = (Trust::default(), self.wall_ms(to));
        let Some(records) = &mut self.agents[to].records else { return };
        match step {
            Step::Ask(message) => {
                if let Ok(answer) = reconcile::respond(&records.ledger, &message) {
                    self.pass(to, from, Step::Answer(answer));
                }
            }
            Step::Answer(message) => {
                let Some(mut session) = records.sessions.remove(&from) else { return };
                match session.handle(&records.ledger, &message) {
                    Ok(reconcile::Step::Send(message)) => {
                        records.sessions.insert(from, session);
                        self.pass(to, from, Step::Ask(message));
                    }
                    Ok(reconcile::Step::Done(difference)) => {
                        let ours = difference.ours.iter();
                        let ours = ours.filter_map(|item| records.find(item)).collect();
                        self.pass(to, from, Step::Give(ours));
                        self.pass(to, from, Step::Pull(difference.theirs));
                    }
                    Err(_) => {}
                }
            }
            Step::Pull(items) => {
                let found = items.iter().filter_map(|item| records.find(item)).collect();
                self.pass(to, from, Step::Give(found));
            }
            Step::Give(versions) => {
                let puts = versions.into_iter();
                let lost: Vec<Versioned> =
                    puts.filter_map(|version| records.put(version, &trust, wall_ms)).collect();
                // A version that lost is in no ledger any more. Who had it says so, or those who
                // only ever had the other one would not hear of the conflict.
                for version in lost {
                    self.say_about(to, Some(version));
                }
            }
        }
    }
}
