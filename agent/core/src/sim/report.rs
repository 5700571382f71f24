//! What a run showed.

use super::{AgentNo, Conduct, RumourNo, Sim};
use std::time::Duration;

/// What one agent sent and received of gossip since [`Sim::count_from_now`], overhead of the transport
/// and acknowledgements included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Load {
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
    /// Messages sent, without acknowledgements.
    pub messages: u64,
    /// New rumours judged.
    pub rumours: u64,
    /// Bytes of reconciliation sent; not part of `sent`.
    pub reconciled: u64,
}

/// How far a rumour came, and how fast, among honest agents that lived from its birth until now.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Spread {
    /// Those that know it, of 1.
    pub known: f64,
    /// Until it was known to 99 % of them, if it is.
    pub most: Option<Duration>,
    /// Until all of them knew it, if they do.
    pub all: Option<Duration>,
}

impl Sim {
    /// Starts the counts of [`Sim::load`] afresh.
    pub fn count_from_now(&mut self) {
        self.counted_from = self.now;
        self.agents.iter_mut().for_each(|agent| agent.load = Load::default());
    }

    /// What an agent sent and received.
    pub fn load(&self, agent: AgentNo) -> Load {
        self.agents[agent].load
    }

    /// Bytes per second that each living agent sent and received: first the mean, then the greatest.
    pub fn rates(&self) -> [(f64, f64); 2] {
        let seconds = (self.now - self.counted_from) as f64 / 1e6;
        let living = self.living();
        let rate = |of: fn(&Load) -> u64| {
            let rates = living.iter().map(|agent| of(&self.agents[*agent].load) as f64 / seconds);
            let most = rates.clone().fold(0.0, f64::max);
            (rates.sum::<f64>() / living.len().max(1) as f64, most)
        };
        [rate(|load| load.sent), rate(|load| load.received)]
    }

    /// Number of rumours about records said so far.
    pub fn rumours(&self) -> usize {
        self.said.len()
    }

    /// When a rumour was said.
    pub fn said_at(&self, rumour: RumourNo) -> Duration {
        Duration::from_micros(self.said[rumour].at)
    }

    /// How a rumour spread. One that its origin's death swallowed has spread to nobody.
    pub fn spread(&self, rumour: RumourNo) -> Spread {
        let said = self.said[rumour];
        let audience = self.agents.iter().filter(|agent| {
            agent.is_alive() && agent.born <= said.at && agent.conduct == Conduct::Honest
        });
        let mut times: Vec<Option<u64>> = audience
            .map(|agent| agent.knowledge.get(rumour).copied().filter(|learnt| *learnt > 0))
            .collect();
        times.sort_by_key(|learnt| learnt.unwrap_or(u64::MAX));
        let known = times.iter().flatten().count();
        let at = |count: usize| {
            let learnt = times.get(count.checked_sub(1)?).copied().flatten()?;
            Some(Duration::from_micros(learnt.saturating_sub(said.at)))
        };
        Spread {
            known: known as f64 / times.len().max(1) as f64,
            most: at((times.len() * 99).div_ceil(100)),
            all: at(times.len()),
        }
    }

    /// Who said a rumour.
    pub fn origin(&self, rumour: RumourNo) -> AgentNo {
        self.said[rumour].by
    }

    /// Whether the agent that said a rumour still lives.
    pub fn origin_lives(&self, rumour: RumourNo) -> bool {
        self.agents[self.said[rumour].by].is_alive()
    }
}
