//! One agent of the simulation.

use super::{AgentNo, Conduct, Load, RumourNo, Setup, queue::Micros, records::Records};
use crate::{
    gossip::{Body, Gossip, Verdict, dice::Dice},
    peer::PeerId,
};
use std::{collections::BTreeMap, time::Duration};

/// First byte of a rumour about a record.
pub(super) const RECORD: u8 = 1;
/// First byte of a rumour that says where an agent is.
pub(super) const PRESENCE: u8 = 2;
/// First byte of a rumour whose signature would not verify.
pub(super) const FORGED: u8 = 3;

/// A connection, as one end sees it.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) inbound: bool,
    /// When the last byte sent over it arrives.
    pub(super) last: Micros,
}

/// One agent.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) id: PeerId,
    pub(super) region: usize,
    pub(super) born: Micros,
    pub(super) died: Option<Micros>,
    pub(super) conduct: Conduct,
    pub(super) gossip: Gossip,
    pub(super) records: Option<Box<Records>>,
    /// Its wall clock minus the true time, in milliseconds.
    pub(super) skew_ms: i64,
    /// Where its monotonic clock started.
    pub(super) origin: Duration,
    pub(super) links: BTreeMap<AgentNo, Link>,
    /// Those that could not be reached, and until when they are left alone.
    pub(super) unreached: BTreeMap<AgentNo, Micros>,
    /// Its connections may not be those it wants.
    pub(super) unsettled: bool,
    /// Agents of one island reach each other.
    pub(super) island: u8,
    pub(super) uplink_free: Micros,
    pub(super) wake: Option<Micros>,
    /// When each rumour about a record was learnt; 0 for never.
    pub(super) knowledge: Vec<Micros>,
    /// Rumours learnt with the last message.
    pub(super) heard: Vec<RumourNo>,
    pub(super) load: Load,
}

impl Agent {
    pub(super) fn new(
        setup: &Setup,
        number: AgentNo,
        region: usize,
        now: Micros,
        dice: &mut Dice,
    ) -> Self {
        let seed = dice.roll();
        let id = blake3::hash(&[setup.seed.to_le_bytes(), number.to_le_bytes()].concat());
        let skew_ms = setup.skew.as_millis() as i64;
        Self {
            id: PeerId(*id.as_bytes()),
            region,
            born: now,
            died: None,
            conduct: Conduct::Honest,
            gossip: Gossip::new(setup.gossip.clone(), seed),
            records: setup.records.then(Box::default),
            skew_ms: dice.below(2 * skew_ms as u64 + 1) as i64 - skew_ms,
            origin: Duration::from_millis(dice.below(86_400_000)),
            links: BTreeMap::new(),
            unreached: BTreeMap::new(),
            unsettled: true,
            island: 0,
            uplink_free: 0,
            wake: None,
            knowledge: Vec::new(),
            heard: Vec::new(),
            load: Load::default(),
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.died.is_none()
    }

    pub(super) fn learn(&mut self, rumour: RumourNo, now: Micros) {
        learn(&mut self.knowledge, rumour, now);
    }
}

fn learn(knowledge: &mut Vec<Micros>, rumour: RumourNo, now: Micros) {
    if knowledge.len() <= rumour {
        knowledge.resize(rumour + 1, 0);
    }
    if knowledge[rumour] == 0 {
        knowledge[rumour] = now.max(1);
    }
}

/// What an agent thinks of a rumour; learns from it.
pub(super) fn judge(
    body: &Body,
    knowledge: &mut Vec<Micros>,
    heard: &mut Vec<RumourNo>,
    now: Micros,
) -> Verdict {
    let number = body.get(1..9).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
    match (body.first(), number) {
        (Some(&RECORD), Some(number)) => {
            learn(knowledge, number as RumourNo, now);
            heard.push(number as RumourNo);
            Verdict::Accept
        }
        (Some(&PRESENCE), Some(_)) => Verdict::Accept,
        _ => Verdict::Reject,
    }
}
