//! A mesh of many agents in virtual time.
//!
//! Every agent runs the machines that the real agent runs; links, clocks, deaths and partitions are
//! made up here. One thread, one queue of events, one seed: a run can be repeated to the last byte,
//! and [`Sim::trace`] tells two runs apart. Simplified against the real thing:
//!
//! - Agents learn of the living members at once instead of from presences. Presences are sent and paid for.
//! - A connection is a reliable stream: a lost packet delays what follows it by a retransmission timeout.
//! - An open connection costs nothing by itself: keep-alives are the transport's matter.

mod agent;
mod fetch;
mod net;
mod queue;
mod records;
mod report;
mod topology;

pub use fetch::{Fetch, Fetched};
pub use net::{ACK, OVERHEAD};
pub use report::{Load, Spread};

use crate::{
    gossip::{self, Body, Gossip, Message, dice::Dice},
    peer::PeerId,
    wan::{self, Shape},
};
use agent::Agent;
use net::Net;
use queue::{Event, Micros, Queue};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// An agent of a simulation, by number; numbers are not used again.
pub type AgentNo = usize;
/// A rumour about a record, by number.
pub type RumourNo = usize;

/// Bytes of a rumour about one record: key 32, stamp 8, checksum 8, cost 8, and around it the origin 32, a
/// sequence number 8, a signature 64 and the tag of the seal 16.
pub const RECORD_RUMOUR: usize = 176;
/// Bytes of a rumour that says where an agent is: 200 and the same envelope.
pub const PRESENCE_RUMOUR: usize = 320;
/// How long until a message that is not acknowledged counts as lost.
const UNANSWERED: Micros = 10_000_000;
/// How often an agent looks whether it has the connections it wants.
const REVIEW: Micros = 2_000_000;

/// Agents near each other.
#[derive(Clone, Debug)]
pub struct Region {
    /// What it is called.
    pub name: String,
    /// Agents at the start.
    pub agents: usize,
}

/// How one agent behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Conduct {
    /// As it should.
    #[default]
    Honest,
    /// It takes all, announces all, and gives nothing.
    Withholding,
    /// It sends forged rumours, invented ids and asks for everything, a hundred messages per second to each
    /// neighbour.
    Flooding,
}

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Setup {
    /// All that is random follows from it.
    pub seed: u64,
    /// Any instant; virtual time starts there.
    pub start: Instant,
    /// The regions.
    pub regions: Vec<Region>,
    /// The link between two agents of one region.
    pub local: Shape,
    /// The link between regions that `links` does not name.
    pub remote: Shape,
    /// Links between two regions, by index. All agents of the two share its rate.
    pub links: Vec<(usize, usize, Shape)>,
    /// Bits per second that one agent can send.
    pub uplink_bits: u64,
    /// The wall clocks of the agents are wrong by up to this much, either way.
    pub skew: Duration,
    /// New records per second over all agents, at random agents and times.
    pub records_per_second: f64,
    /// Whether agents say now and then where they are.
    pub presence: bool,
    /// Whether agents keep records and reconcile them; for meshes of some dozens of agents.
    pub records: bool,
    /// Of the gossip machines.
    pub gossip: gossip::Config,
}

impl Setup {
    /// `agents` in each of `regions`, 100 ms apart, without load.
    pub fn new(seed: u64, start: Instant, regions: usize, agents: usize) -> Self {
        let shape = |name, otherwise: &wan::Profile| {
            wan::find(name).map_or(otherwise.shape, |profile| profile.shape)
        };
        let region = |n| Region { name: format!("region-{n}"), agents };
        Self {
            seed,
            start,
            regions: (0..regions).map(region).collect(),
            local: shape("datacenter", wan::CUT),
            remote: shape("us-west", wan::CUT),
            links: Vec::new(),
            uplink_bits: 100_000_000,
            skew: Duration::from_secs(2 * 3_600),
            records_per_second: 0.0,
            presence: false,
            records: false,
            gossip: gossip::Config::default(),
        }
    }
}

/// A rumour about a record.
#[derive(Clone, Copy, Debug)]
struct Said {
    at: Micros,
    by: AgentNo,
    /// The version that it is about, when records are kept.
    record: Option<records::Versioned>,
}

/// The simulation.
#[derive(Debug)]
pub struct Sim {
    setup: Setup,
    dice: Dice,
    now: Micros,
    queue: Queue,
    agents: Vec<Agent>,
    numbers: BTreeMap<PeerId, AgentNo>,
    net: Net,
    said: Vec<Said>,
    /// Presences said, to make each one unique.
    presences: u64,
    trace: u64,
    /// Since when loads are counted.
    counted_from: Micros,
}

impl Sim {
    /// A mesh at the time 0, all agents connected as they want to be.
    pub fn new(setup: Setup) -> Self {
        let mut sim = Self {
            dice: Dice::new(setup.seed),
            now: 0,
            queue: Queue::default(),
            agents: Vec::new(),
            numbers: BTreeMap::new(),
            net: Net::new(&setup),
            said: Vec::new(),
            presences: 0,
            trace: setup.seed,
            counted_from: 0,
            setup,
        };
        let sizes: Vec<usize> = sim.setup.regions.iter().map(|region| region.agents).collect();
        for (region, size) in sizes.into_iter().enumerate() {
            for _ in 0..size {
                sim.add(region);
            }
        }
        for agent in 0..sim.agents.len() {
            sim.review(agent);
            sim.plan_first_presence(agent);
        }
        (0..sim.agents.len()).for_each(|agent| sim.pump(agent));
        sim.plan_next_record();
        sim
    }

    /// Lets this much time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time.as_micros() as Micros;
        while let Some((at, event)) = self.queue.pop_until(end) {
            self.now = at;
            self.handle(event);
        }
        self.now = end;
    }

    /// Virtual time since the start.
    pub fn elapsed(&self) -> Duration {
        Duration::from_micros(self.now)
    }

    /// A number that two runs share when, and only when, the same messages arrived at the same times.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// The agents that live.
    pub fn living(&self) -> Vec<AgentNo> {
        (0..self.agents.len()).filter(|agent| self.agents[*agent].is_alive()).collect()
    }

    /// A living agent at random.
    pub fn any(&mut self) -> Option<AgentNo> {
        let living = self.living();
        living.get(self.dice.below(living.len() as u64) as usize).copied()
    }

    /// Changes how an agent behaves.
    pub fn set_conduct(&mut self, agent: AgentNo, conduct: Conduct) {
        self.agents[agent].conduct = conduct;
        if conduct == Conduct::Flooding {
            self.queue.push(self.now, Event::Flood { agent });
        }
    }

    /// The region of an agent, by index.
    pub fn region(&self, agent: AgentNo) -> usize {
        self.agents[agent].region
    }

    /// The gossip machine of an agent.
    pub fn gossip(&self, agent: AgentNo) -> &Gossip {
        &self.agents[agent].gossip
    }

    /// Whom an agent has a connection with.
    pub fn neighbours(&self, agent: AgentNo) -> Vec<AgentNo> {
        self.agents[agent].links.keys().copied().collect()
    }

    /// The id of an agent.
    pub fn peer(&self, agent: AgentNo) -> PeerId {
        self.agents[agent].id
    }

    /// A new agent comes to life and connects.
    pub fn join(&mut self, region: usize) -> AgentNo {
        let agent = self.add(region);
        self.review(agent);
        self.plan_first_presence(agent);
        self.pump(agent);
        agent
    }

    /// An agent dies without a word; its neighbours notice after a while.
    pub fn kill(&mut self, agent: AgentNo) {
        self.agents[agent].died = Some(self.now);
        for other in self.neighbours(agent) {
            self.break_later(agent, other);
        }
    }

    /// An agent has a new record and says so.
    pub fn say(&mut self, agent: AgentNo) -> RumourNo {
        let action = self.dice.roll();
        self.write(agent, action, 0)
    }

    /// From now on nothing is written but by [`Sim::say`] and [`Sim::write`].
    pub fn stop_writing(&mut self) {
        self.setup.records_per_second = 0.0;
    }

    fn say_body(&mut self, agent: AgentNo, body: Body) {
        let now = self.instant(agent);
        let said = self.agents[agent].gossip.say(body, now);
        debug_assert!(said.is_ok(), "every body made here is short");
        self.pump(agent);
    }

    /// A rumour with a head that tells what it is and a tail as incompressible as a signature.
    fn body(&mut self, kind: u8, number: u64, len: usize) -> Body {
        let mut body = Vec::with_capacity(len + 8);
        body.push(kind);
        body.extend_from_slice(&number.to_le_bytes());
        while body.len() < len {
            body.extend_from_slice(&self.dice.roll().to_le_bytes());
        }
        body.truncate(len);
        Arc::from(body)
    }

    fn add(&mut self, region: usize) -> AgentNo {
        let agent = self.agents.len();
        let fresh = Agent::new(&self.setup, agent, region, self.now, &mut self.dice);
        self.numbers.insert(fresh.id, agent);
        self.agents.push(fresh);
        let phase = self.dice.below(REVIEW);
        self.queue.push(self.now + phase, Event::Review { agent });
        agent
    }

    fn plan_first_presence(&mut self, agent: AgentNo) {
        if self.setup.presence {
            let phase = self.dice.below(self.presence_interval());
            self.queue.push(self.now + phase, Event::Presence { agent });
        }
    }

    /// Each agent says where it is every 30 s, and in a large mesh so rarely that all together say it
    /// ten times per second.
    fn presence_interval(&self) -> Micros {
        (self.agents.len() as u64 * 100_000).max(30_000_000)
    }

    fn plan_next_record(&mut self) {
        if self.setup.records_per_second > 0.0 {
            // Poisson arrivals.
            let wait = -(1.0 - self.dice.fraction()).ln() / self.setup.records_per_second;
            self.queue.push(self.now + (wait * 1e6) as Micros, Event::Record);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Deliver { from, to, message } => self.deliver(from, to, *message),
            Event::Acked { by, to } => self.acked(by, to),
            Event::Lost { from, to } => {
                let (peer, now) = (self.agents[to].id, self.instant(from));
                if self.agents[from].is_alive() && self.agents[from].links.contains_key(&to) {
                    self.agents[from].gossip.handle_unsent(&peer, now);
                    self.pump(from);
                }
            }
            Event::Wake { agent } => {
                if self.agents[agent].wake == Some(self.now) {
                    self.agents[agent].wake = None;
                    self.pump(agent);
                }
            }
            Event::Broken { a, b } => {
                if !self.reaches(a, b) {
                    self.disconnect(a, b);
                }
            }
            Event::Review { agent } => {
                if self.agents[agent].is_alive() {
                    if self.agents[agent].unsettled {
                        self.review(agent);
                        self.pump(agent);
                    }
                    self.queue.push(self.now + REVIEW, Event::Review { agent });
                }
            }
            Event::Presence { agent } => {
                if self.agents[agent].is_alive() {
                    self.presences += 1;
                    let body = self.body(agent::PRESENCE, self.presences, PRESENCE_RUMOUR);
                    self.say_body(agent, body);
                    let next = self.now + self.presence_interval();
                    self.queue.push(next, Event::Presence { agent });
                }
            }
            Event::Record => {
                if self.setup.records_per_second > 0.0
                    && let Some(agent) = self.any()
                {
                    self.say(agent);
                }
                self.plan_next_record();
            }
            Event::Flood { agent } => self.flood(agent),
            Event::Exchange { from, to, step } => self.exchange(from, to, *step),
        }
    }

    /// What an agent's own monotonic clock shows; no two agents share its origin.
    fn instant(&self, agent: AgentNo) -> Instant {
        self.setup.start + self.agents[agent].origin + Duration::from_micros(self.now)
    }

    fn deliver(&mut self, from: AgentNo, to: AgentNo, message: Message) {
        if !self.reaches(from, to) {
            self.queue.push(self.now + UNANSWERED, Event::Lost { from, to });
            return;
        }
        if !self.agents[to].links.contains_key(&from) {
            return;
        }
        let len = message.wire_len();
        let traced = self.now ^ ((from as u64) << 40) ^ ((to as u64) << 20) ^ len as u64;
        self.trace = gossip::dice::mix(self.trace ^ traced);
        self.agents[to].load.received += (len + OVERHEAD) as u64;
        let arrives = self.net.send(&mut self.agents, (to, from), ACK, self.now, &mut self.dice);
        self.queue.push(arrives, Event::Acked { by: to, to: from });
        let (peer, now, virtual_now) = (self.agents[from].id, self.instant(to), self.now);
        let Agent { gossip, knowledge, heard, load, .. } = &mut self.agents[to];
        let mut judge = |body: &Body| {
            load.rumours += 1;
            agent::judge(body, knowledge, heard, virtual_now)
        };
        gossip.handle_message(peer, message, &mut judge, now);
        self.pull_heard(to);
        self.pump(to);
    }

    fn acked(&mut self, by: AgentNo, to: AgentNo) {
        if self.reaches(by, to) && self.agents[to].links.contains_key(&by) {
            let (peer, now) = (self.agents[by].id, self.instant(to));
            self.agents[to].load.received += ACK as u64;
            self.agents[to].gossip.handle_sent(&peer, now);
            self.pump(to);
        }
    }

    /// Sends what an agent has to send and plans its next turn.
    fn pump(&mut self, agent: AgentNo) {
        let now = self.instant(agent);
        while let Some((peer, mut message)) = self.agents[agent].gossip.poll_message(now) {
            let Some(&to) = self.numbers.get(&peer) else { continue };
            if self.agents[agent].conduct == Conduct::Withholding {
                message.rumours.clear();
            }
            self.transmit(agent, to, message);
        }
        self.wake(agent);
    }

    fn transmit(&mut self, from: AgentNo, to: AgentNo, message: Message) {
        let bytes = message.wire_len() + OVERHEAD;
        let arrives = self.net.send(&mut self.agents, (from, to), bytes, self.now, &mut self.dice);
        self.agents[from].load.messages += 1;
        let message = Box::new(message);
        self.queue.push(arrives, Event::Deliver { from, to, message });
    }

    fn wake(&mut self, agent: AgentNo) {
        let Some(due) = self.agents[agent].gossip.next_timeout() else { return };
        let until = due.saturating_duration_since(self.instant(agent)).as_micros() as Micros;
        let at = self.now + until.max(1);
        if self.agents[agent].wake.is_none_or(|wake| at < wake) {
            self.agents[agent].wake = Some(at);
            self.queue.push(at, Event::Wake { agent });
        }
    }

    /// One round of a flooding agent: to each neighbour what it should not send.
    fn flood(&mut self, agent: AgentNo) {
        if !self.agents[agent].is_alive() {
            return;
        }
        for to in self.neighbours(agent) {
            let rumours = (0..8).map(|n| self.body(agent::FORGED, n, RECORD_RUMOUR)).collect();
            let mut ids = || (0..64).map(|_| gossip::RumourId(self.dice.roll())).collect();
            let (have, want) = (ids(), ids());
            let message = Message { rumours, have, want, prune: false, graft: true };
            self.transmit(agent, to, message);
        }
        self.queue.push(self.now + 10_000, Event::Flood { agent });
    }
}
