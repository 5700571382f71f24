//! How long bytes are under way.

use super::{AgentNo, Setup, agent::Agent, queue::Micros};
use crate::{gossip::dice::Dice, wan::Shape};
use std::time::Duration;

/// Bytes around a message: IP 20, UDP 8, QUIC short header and tag 30, a frame, rounded up.
pub const OVERHEAD: usize = 60;
/// Bytes of an acknowledged message's way back: as much without payload.
pub const ACK: usize = 40;
/// Full packets, of which each can be lost.
const PACKET: usize = 1200;
/// Least retransmission timeout (RFC 9002 would probe earlier; this is the pessimist's value).
const LEAST_RTO: Micros = 200_000;

/// A packet lost so often arrives with the next try.
const MAX_LOSSES: u32 = 16;
/// A day: how long bytes take where nothing passes. Partitions are made by [`super::Sim::cut`].
const NEVER: Micros = 86_400_000_000;

/// All links between regions, and when each is free again.
#[derive(Debug)]
pub(super) struct Net {
    regions: usize,
    shapes: Vec<Shape>,
    free: Vec<Micros>,
    uplink_bits: u64,
}

impl Net {
    pub(super) fn new(setup: &Setup) -> Self {
        let regions = setup.regions.len();
        let mut shapes = vec![setup.remote; regions * regions];
        for (a, b, shape) in &setup.links {
            shapes[a * regions + b] = *shape;
            shapes[b * regions + a] = *shape;
        }
        (0..regions).for_each(|region| shapes[region * regions + region] = setup.local);
        Self { regions, free: vec![0; shapes.len()], shapes, uplink_bits: setup.uplink_bits }
    }

    /// The round trip between two regions without load.
    pub(super) fn rtt(&self, a: usize, b: usize) -> Duration {
        self.shapes[a * self.regions + b].delay() * 2
    }

    /// When `bytes` that leave now arrive. They wait for the uplink of the sender, then for the link; a loss
    /// holds back all that follows on the same connection, which is a stream.
    pub(super) fn send(
        &mut self,
        agents: &mut [Agent],
        (from, to): (AgentNo, AgentNo),
        bytes: usize,
        now: Micros,
        dice: &mut Dice,
    ) -> Micros {
        let link = agents[from].region * self.regions + agents[to].region;
        let shape = self.shapes[link];
        let sender = &mut agents[from];
        sender.load.sent += bytes as u64;
        sender.uplink_free = sender.uplink_free.max(now) + micros(bytes, self.uplink_bits);
        let mut at = sender.uplink_free;
        // Within a region every pair of agents has a way of its own.
        if agents[from].region != agents[to].region {
            self.free[link] = self.free[link].max(at) + micros(bytes, shape.rate_bits);
            at = self.free[link];
        }
        at += shape.delay_us;
        for _ in 0..bytes.div_ceil(PACKET) {
            for _ in 0..MAX_LOSSES {
                if dice.below(1_000_000) >= u64::from(shape.loss_ppm) {
                    break;
                }
                at += LEAST_RTO.max(shape.delay_us * 4);
            }
        }
        if let Some(stream) = agents[from].links.get_mut(&to) {
            stream.last = stream.last.max(at);
            at = stream.last;
        }
        at
    }
}

/// How long `bytes` take at a rate.
fn micros(bytes: usize, bits: u64) -> Micros {
    (bytes as u64 * 8_000_000).checked_div(bits).unwrap_or(NEVER)
}
