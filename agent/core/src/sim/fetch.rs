//! Many agents of far regions fetch one blob from few holders.
//!
//! Who asks whom is decided by the machines of the real agent, [`crate::crossing`] and
//! [`crate::plan`]. Bytes flow like a fluid: each agent's uplink and each link between regions is
//! shared in equal parts by the transfers over it.

use crate::{
    crossing,
    digest::Hash,
    gossip::dice::Dice,
    health::Health,
    link::{Basis, Belief},
    peer::PeerId,
    plan::{Offer, Policy, Who, plan},
    wan::Shape,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Uploads that one agent makes at once; further requesters wait.
const UPLOADS: u32 = 4;
/// Virtual time moves in such steps.
const STEP: Duration = Duration::from_millis(50);
/// A run that has not ended by then never will.
const END: Duration = Duration::from_secs(3_600);

/// The setting.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// Names the agents and the blob.
    pub seed: u64,
    /// Agents in each region.
    pub regions: Vec<usize>,
    /// Agents of the first region that have the blob; all others want it.
    pub holders: usize,
    /// Bytes of the blob.
    pub size: u64,
    /// The link between two agents of one region.
    pub local: Shape,
    /// The link between each two regions.
    pub remote: Shape,
    /// Bits per second that one agent can send.
    pub uplink_bits: u64,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Fetched {
    /// Requesters that have the whole blob.
    pub finished: usize,
    /// When the last of them had it.
    pub slowest: Duration,
    /// Copies that came into each region from another one.
    pub crossings: Vec<u32>,
    /// The least bytes per second that a transfer under way ever got.
    pub least_rate: f64,
}

#[derive(Debug)]
struct Transfer {
    from: usize,
    to: usize,
    left: f64,
}

#[derive(Debug)]
struct Run<'a> {
    setting: &'a Fetch,
    regions: Vec<usize>,
    names: Vec<String>,
    ids: Vec<PeerId>,
    blob: Hash,
    has: BTreeSet<usize>,
    transfers: Vec<Transfer>,
    result: Fetched,
}

impl Fetch {
    /// Runs until everybody has the blob.
    pub fn run(&self) -> Fetched {
        let mut dice = Dice::new(self.seed);
        let regions: Vec<usize> = self
            .regions
            .iter()
            .enumerate()
            .flat_map(|(region, agents)| std::iter::repeat_n(region, *agents))
            .collect();
        let ids =
            regions.iter().map(|_| PeerId(*blake3::hash(&dice.roll().to_le_bytes()).as_bytes()));
        let mut run = Run {
            setting: self,
            ids: ids.collect(),
            names: (0..self.regions.len()).map(|region| format!("region-{region}")).collect(),
            regions,
            blob: Hash::of(&self.seed.to_le_bytes()),
            has: (0..self.holders).collect(),
            transfers: Vec::new(),
            result: Fetched {
                finished: 0,
                slowest: Duration::ZERO,
                crossings: vec![0; self.regions.len()],
                least_rate: f64::INFINITY,
            },
        };
        let mut now = Duration::ZERO;
        while run.has.len() < run.ids.len() && now < END {
            run.begin();
            now += STEP;
            run.advance(now);
        }
        run.result
    }
}

impl Run<'_> {
    /// Every agent that wants the blob and does nothing about it decides anew.
    fn begin(&mut self) {
        for agent in 0..self.ids.len() {
            let busy = self.transfers.iter().any(|transfer| transfer.to == agent);
            if !busy
                && !self.has.contains(&agent)
                && let Some(from) = self.source(agent)
            {
                self.transfers.push(Transfer { from, to: agent, left: self.setting.size as f64 });
            }
        }
    }

    /// Whom an agent fetches from now, if it is its turn.
    fn source(&self, agent: usize) -> Option<usize> {
        let region = self.regions[agent];
        let mut near = self.has.iter().copied().filter(|holder| self.regions[*holder] == region);
        let at_home = near.next().is_some();
        if !at_home {
            let here = (0..self.ids.len()).filter(|other| self.regions[*other] == region);
            let order = crossing::order(&self.blob, here.map(|other| self.ids[other]));
            if order.first() != Some(&self.ids[agent]) {
                return None;
            }
        }
        let holders = self.has.iter().copied();
        let holders = holders.filter(|holder| !at_home || self.regions[*holder] == region);
        let offers = holders.filter_map(|holder| {
            let queue = self.transfers.iter().filter(|it| it.from == holder).count() as u32;
            (queue < UPLOADS).then(|| Offer {
                who: Who::Peer(self.ids[holder]),
                region: &self.names[self.regions[holder]],
                health: Health::Closed,
                link: self.belief(holder, agent),
                queue,
                holds: Some(true),
                unused: None,
            })
        });
        let plan = plan(offers, self.setting.size, None, &Policy::default(), 1.0);
        let first = plan.steps.first()?.who.peer()?;
        self.ids.iter().position(|id| *id == first)
    }

    fn shape(&self, a: usize, b: usize) -> Shape {
        if self.regions[a] == self.regions[b] { self.setting.local } else { self.setting.remote }
    }

    /// What is measured of a link without load.
    fn belief(&self, from: usize, to: usize) -> Belief {
        let shape = self.shape(from, to);
        Belief {
            rtt: Some(shape.delay() * 2),
            loss: Some(f64::from(shape.loss_ppm) / 1e6),
            goodput: Some(shape.rate_bits.min(self.setting.uplink_bits) as f64 / 8.0),
            basis: Basis::Measured,
            ..Belief::default()
        }
    }

    fn advance(&mut self, now: Duration) {
        let mut uploads: BTreeMap<usize, f64> = BTreeMap::new();
        let mut links: BTreeMap<(usize, usize), f64> = BTreeMap::new();
        let way = |it: &Transfer| (self.regions[it.from], self.regions[it.to]);
        for transfer in &self.transfers {
            *uploads.entry(transfer.from).or_default() += 1.0;
            *links.entry(way(transfer)).or_default() += 1.0;
        }
        let rates: Vec<f64> = self
            .transfers
            .iter()
            .map(|it| {
                let up = self.setting.uplink_bits as f64 / uploads[&it.from];
                let rate = self.shape(it.from, it.to).rate_bits as f64;
                let crosses = self.regions[it.from] != self.regions[it.to];
                let link = if crosses { rate / links[&way(it)] } else { rate };
                up.min(link) / 8.0
            })
            .collect();
        for (transfer, rate) in self.transfers.iter_mut().zip(rates) {
            self.result.least_rate = self.result.least_rate.min(rate);
            transfer.left -= rate * STEP.as_secs_f64();
        }
        let done = self.transfers.extract_if(.., |transfer| transfer.left <= 0.0);
        for Transfer { from, to, .. } in done {
            self.has.insert(to);
            self.result.finished += 1;
            self.result.slowest = now;
            let region = self.regions[to];
            self.result.crossings[region] += u32::from(self.regions[from] != region);
        }
    }
}
