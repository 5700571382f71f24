//! Who is connected to whom, and partitions.

use super::{
    AgentNo, Sim,
    agent::Link,
    queue::{Event, Micros},
};
use crate::neighbourhood;

/// How long until a dead or cut connection is noticed, at least; at most twice as long.
const SILENCE: Micros = 5_000_000;
/// How long one that could not be reached is left alone.
const REDIAL: Micros = 4_000_000;

impl Sim {
    /// From now on nothing passes between agents of `regions` and all others.
    pub fn cut(&mut self, regions: &[usize]) {
        for agent in &mut self.agents {
            agent.island = u8::from(regions.contains(&agent.region));
        }
        for agent in self.living() {
            for other in self.neighbours(agent) {
                if agent < other && !self.reaches(agent, other) {
                    self.break_later(agent, other);
                }
            }
        }
    }

    /// Everything passes again.
    pub fn heal(&mut self) {
        self.agents.iter_mut().for_each(|agent| agent.island = 0);
    }

    pub(super) fn reaches(&self, a: AgentNo, b: AgentNo) -> bool {
        let (a, b) = (&self.agents[a], &self.agents[b]);
        a.is_alive() && b.is_alive() && a.island == b.island
    }

    /// Makes the connections that an agent lacks.
    pub(super) fn review(&mut self, agent: AgentNo) {
        let me = &self.agents[agent];
        let (id, region) = (me.id, me.region);
        let (regions, seed) = (&self.setup.regions, self.setup.seed);
        let living = self.agents.iter().enumerate();
        let candidates = living.filter(|(other, it)| {
            it.is_alive() && me.unreached.get(other).is_none_or(|until| *until <= self.now)
        });
        let members = candidates.map(|(other, it)| neighbourhood::Member {
            peer: it.id,
            region: &regions[it.region].name,
            rtt: Some(self.net.rtt(region, it.region)),
            connected: me.links.contains_key(&other),
        });
        let chosen = neighbourhood::choose(&id, &regions[region].name, members, seed);
        let chosen = chosen.iter().filter_map(|peer| self.numbers.get(peer).copied());
        let wanted: Vec<AgentNo> = chosen.filter(|other| !me.links.contains_key(other)).collect();
        // One that could not be reached is tried again later, so the matter is not settled.
        self.agents[agent].unreached.retain(|_, until| *until > self.now);
        self.agents[agent].unsettled = !self.agents[agent].unreached.is_empty();
        for other in wanted {
            let inbound = self.agents[other].links.values().filter(|link| link.inbound).count();
            if self.reaches(agent, other) && inbound < neighbourhood::MAX_INBOUND {
                self.connect(agent, other);
            } else {
                self.agents[agent].unreached.insert(other, self.now + REDIAL);
                self.agents[agent].unsettled = true;
            }
        }
    }

    pub(super) fn connect(&mut self, a: AgentNo, b: AgentNo) {
        for (here, there, inbound) in [(a, b, false), (b, a, true)] {
            let (peer, now) = (self.agents[there].id, self.instant(here));
            let (region, other) = (self.agents[here].region, self.agents[there].region);
            let rtt = self.net.rtt(region, other);
            let agent = &mut self.agents[here];
            agent.links.insert(there, Link { inbound, last: 0 });
            agent.gossip.handle_neighbour(peer, region == other, now);
            agent.gossip.handle_rtt(&peer, rtt);
        }
        self.wake(b);
        self.start_exchange(a, b);
    }

    pub(super) fn disconnect(&mut self, a: AgentNo, b: AgentNo) {
        for (here, there) in [(a, b), (b, a)] {
            let (peer, now) = (self.agents[there].id, self.instant(here));
            let agent = &mut self.agents[here];
            if agent.links.remove(&there).is_some() {
                agent.gossip.handle_gone(&peer, now);
                agent.unsettled = true;
                if agent.is_alive() {
                    self.pump(here);
                }
            }
        }
    }

    pub(super) fn break_later(&mut self, a: AgentNo, b: AgentNo) {
        let noticed = self.now + SILENCE + self.dice.below(SILENCE);
        self.queue.push(noticed, Event::Broken { a, b });
    }
}
