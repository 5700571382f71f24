//! A bottleneck in virtual time with the senders that share it: a drop-tail queue, a delay, loss
//! by dice, and acknowledgements that come back undelayed by any queue, one for two packets.

use super::super::Congestion;
use super::rival::Bbr;
use crate::wan::{Profile, Shape, Shaper, Verdict};
use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

const MBIT: u64 = 1_000_000;
/// Bytes of a packet on the wire.
const PACKET: u64 = 1_500;
/// Longest time that an acknowledgement waits for a second packet.
const ACK_DELAY: Duration = Duration::from_millis(25);
/// Packets acknowledged after a missing one before it is taken for lost.
const REORDERING: u64 = 3;

/// What a bottleneck is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) rtt: Duration,
    pub(super) mbit: u64,
    pub(super) loss_ppm: u32,
    /// Queue, in products of rate and round trip.
    pub(super) queue: f64,
}

impl Link {
    fn product(&self) -> f64 {
        (self.mbit * MBIT) as f64 / 8.0 * self.rtt.as_secs_f64()
    }

    fn profile(&self, queue_bytes: u64) -> &'static Profile {
        Box::leak(Box::new(Profile {
            name: "test",
            shape: Shape {
                delay_us: self.rtt.as_micros() as u64 / 2,
                rate_bits: self.mbit * MBIT,
                queue_bytes,
                loss_ppm: self.loss_ppm,
            },
            variation: None,
            about: "",
        }))
    }
}

/// Who decides how much is under way.
#[derive(Debug)]
enum Control {
    Ours(Box<Congestion>),
    /// RFC 9438, without its Reno-friendly region, in packets.
    Cubic {
        window: f64,
        peak: f64,
        since: Option<Instant>,
        threshold: f64,
        recovery: u64,
    },
    Bbr(Box<Bbr>),
}

/// A sender with its receiver.
#[derive(Debug)]
pub(super) struct Flow {
    control: Control,
    seed: u64,
    hint: u64,
    left: u64,
    next: u64,
    /// When each packet left that is neither acknowledged nor lost.
    under_way: BTreeMap<u64, Instant>,
    acked: u64,
    largest_acked: Option<u64>,
    rtt: Duration,
    /// Pacing as quinn does it.
    tokens: f64,
    tokens_at: Option<Instant>,
    wake: Option<Instant>,
    app_limited: bool,
    sent: u64,
    lost: u64,
    /// Packets that the receiver has yet to acknowledge, and when it will.
    pending: Vec<u64>,
    ack_at: Option<Instant>,
    /// Acknowledgements on their way.
    acks: VecDeque<(Instant, Vec<u64>)>,
}

impl Flow {
    fn new(control: Control, seed: u64) -> Self {
        Self {
            control,
            seed,
            hint: 0,
            left: 0,
            next: 0,
            under_way: BTreeMap::new(),
            acked: 0,
            largest_acked: None,
            rtt: Duration::from_millis(333),
            tokens: 10.0 * PACKET as f64,
            tokens_at: None,
            wake: None,
            app_limited: false,
            sent: 0,
            lost: 0,
            pending: Vec::new(),
            ack_at: None,
            acks: VecDeque::new(),
        }
    }

    pub(super) fn ours(seed: u64) -> Self {
        let model = Congestion::new(Instant::now(), PACKET as u16, seed);
        Self::new(Control::Ours(Box::new(model)), seed)
    }

    /// One of ours with a first window.
    pub(super) fn hinted(seed: u64, hint: u64) -> Self {
        Self { hint, ..Self::ours(seed) }
    }

    pub(super) fn cubic() -> Self {
        let control = Control::Cubic {
            window: 10.0,
            peak: 0.0,
            since: None,
            threshold: f64::INFINITY,
            recovery: 0,
        };
        Self::new(control, 0)
    }

    pub(super) fn bbr() -> Self {
        Self::new(Control::Bbr(Box::new(Bbr::new(Instant::now(), PACKET))), 0)
    }

    fn window(&self) -> u64 {
        match &self.control {
            Control::Bbr(bbr) => bbr.window(),
            Control::Ours(model) => model.window(self.hint),
            Control::Cubic { window, .. } => (*window * PACKET as f64) as u64,
        }
    }

    fn in_flight(&self) -> u64 {
        self.under_way.len() as u64 * PACKET
    }

    /// Whether a packet may leave now; otherwise says when to ask again, if time changes it.
    fn may_send(&mut self, now: Instant) -> bool {
        self.wake = None;
        if self.left == 0 {
            self.app_limited = true;
            return false;
        }
        self.app_limited = false;
        let window = self.window();
        if self.in_flight() + PACKET >= window {
            return false;
        }
        let rate = match &self.control {
            Control::Bbr(bbr) => bbr.pacing(),
            _ => None,
        };
        let rate = rate.unwrap_or(window as f64 * 1.25 / self.rtt.as_secs_f64());
        let capacity = (window as f64 * 0.002 / self.rtt.as_secs_f64())
            .clamp(10.0 * PACKET as f64, 256.0 * PACKET as f64);
        let since = self.tokens_at.map_or(Duration::ZERO, |at| now - at).as_secs_f64();
        self.tokens = (self.tokens + rate * since).min(capacity);
        self.tokens_at = Some(now);
        if self.tokens >= PACKET as f64 {
            return true;
        }
        let wait = Duration::from_secs_f64((capacity - self.tokens) / rate);
        self.wake = Some(now + wait.max(Duration::from_micros(1)));
        false
    }

    fn send(&mut self, now: Instant) -> u64 {
        let number = self.next;
        self.next += 1;
        self.sent += 1;
        self.left -= 1;
        self.tokens -= PACKET as f64;
        self.under_way.insert(number, now);
        match &mut self.control {
            Control::Ours(model) => model.on_sent(now, PACKET),
            Control::Bbr(bbr) => bbr.on_sent(now, PACKET),
            Control::Cubic { .. } => {}
        }
        number
    }

    fn received(&mut self, number: u64, now: Instant, delay: Duration) {
        let gap = self.pending.last().is_some_and(|last| last + 1 != number);
        self.pending.push(number);
        if self.pending.len() >= 2 || gap {
            self.acknowledge(now, delay);
        } else {
            self.ack_at = Some(now + ACK_DELAY);
        }
    }

    fn acknowledge(&mut self, now: Instant, delay: Duration) {
        self.ack_at = None;
        let at = self.acks.back().map_or(now + delay, |(at, _)| (now + delay).max(*at));
        self.acks.push_back((at, std::mem::take(&mut self.pending)));
    }

    fn on_ack(&mut self, numbers: &[u64], now: Instant) {
        let before = self.in_flight();
        for number in numbers {
            let Some(sent) = self.under_way.remove(number) else {
                continue;
            };
            self.acked += PACKET;
            self.largest_acked = self.largest_acked.max(Some(*number));
            self.rtt = if self.largest_acked == Some(0) {
                now - sent
            } else {
                (self.rtt * 7 + (now - sent)) / 8
            };
            match &mut self.control {
                Control::Ours(model) => model.on_ack(now, sent, PACKET),
                Control::Bbr(bbr) => bbr.on_ack(now, sent, PACKET),
                Control::Cubic { .. } => {}
            }
        }
        let in_flight = self.in_flight();
        match &mut self.control {
            Control::Ours(model) => model.on_end_acks(now, in_flight, self.app_limited),
            Control::Bbr(bbr) => bbr.on_end_acks(now, in_flight),
            Control::Cubic { window, peak, since, threshold, .. } => {
                let acked = (before - in_flight) as f64 / PACKET as f64;
                if *window < *threshold {
                    *window += acked;
                } else {
                    let k = (*peak * 0.3 / 0.4).cbrt();
                    let t = (now - *since.get_or_insert(now)).as_secs_f64();
                    let target = 0.4 * (t + self.rtt.as_secs_f64() - k).powi(3) + *peak;
                    *window += ((target - *window) / *window * acked)
                        .clamp(0.01 * acked / *window, 0.5 * acked);
                }
            }
        }
        self.find_lost(now);
    }

    fn loss_delay(&self) -> Duration {
        self.rtt * 9 / 8
    }

    fn find_lost(&mut self, now: Instant) {
        let Some(largest) = self.largest_acked else {
            return;
        };
        let old = |sent: Instant| now - sent >= self.loss_delay();
        let lost: Vec<_> = self
            .under_way
            .range(..largest)
            .filter(|(number, sent)| largest >= **number + REORDERING || old(**sent))
            .map(|(number, sent)| (*number, *sent))
            .collect();
        let Some((last, sent)) = lost.last().copied() else {
            return;
        };
        for (number, _) in &lost {
            self.under_way.remove(number);
        }
        self.lost += lost.len() as u64;
        self.left = self.left.saturating_add(lost.len() as u64);
        match &mut self.control {
            Control::Ours(model) => model.on_loss(now, sent, lost.len() as u64 * PACKET, false),
            Control::Bbr(bbr) => bbr.on_loss(sent, lost.len() as u64 * PACKET),
            Control::Cubic { window, peak, since, threshold, recovery } => {
                if last >= *recovery {
                    *peak = *window;
                    *window = (*window * 0.7).max(2.0);
                    *threshold = *window;
                    *since = Some(now);
                    *recovery = self.next;
                }
            }
        }
    }

    /// A probe after silence, as PTO has it: everything under way is given up.
    fn give_up_at(&self) -> Option<Instant> {
        let last = self.under_way.values().last()?;
        Some(*last + self.rtt * 3 + ACK_DELAY)
    }

    fn give_up(&mut self, now: Instant) {
        let count = self.under_way.len() as u64;
        let Some(sent) = self.under_way.values().last().copied() else {
            return;
        };
        self.under_way.clear();
        self.lost += count;
        self.left = self.left.saturating_add(count);
        match &mut self.control {
            Control::Ours(model) => model.on_loss(now, sent, count * PACKET, true),
            Control::Bbr(bbr) => bbr.on_loss(sent, count * PACKET),
            Control::Cubic { .. } => {}
        }
    }
}

/// A link with those who share it.
#[derive(Debug)]
pub(super) struct World {
    link: Link,
    now: Instant,
    shaper: Shaper<(usize, u64)>,
    flows: Vec<Flow>,
    /// Bytes in the queue, summed over the packets that came, and how many came.
    queue: (u64, u64),
    queue_most: u64,
    /// Packets that the queue refused before the counters were last reset.
    dropped_before: u64,
    passed_before: u64,
}

impl World {
    pub(super) fn new(link: Link, seed: u64) -> Self {
        let now = Instant::now();
        let queue = (link.product() * link.queue) as u64;
        Self {
            link,
            now,
            shaper: Shaper::new(link.profile(queue), seed, now),
            flows: Vec::new(),
            queue: (0, 0),
            queue_most: 0,
            dropped_before: 0,
            passed_before: 0,
        }
    }

    /// Adds a sender of so many bytes.
    pub(super) fn add(&mut self, mut flow: Flow, bytes: u64) -> usize {
        flow.left = bytes.div_ceil(PACKET);
        match &mut flow.control {
            Control::Ours(model) => {
                **model = Congestion::new(self.now, PACKET as u16, flow.seed);
            }
            Control::Bbr(bbr) => **bbr = Bbr::new(self.now, PACKET),
            Control::Cubic { .. } => {}
        }
        self.flows.push(flow);
        self.flows.len() - 1
    }

    /// Changes the link; the queue keeps its length in bytes.
    pub(super) fn change(&mut self, link: Link) {
        let queue = self.shaper.profile().shape.queue_bytes;
        self.link = link;
        self.shaper.set_profile(link.profile(queue), self.now);
    }

    pub(super) fn more(&mut self, flow: usize, bytes: u64) {
        self.flows[flow].left += bytes.div_ceil(PACKET);
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.step();
            let acks = self.flows.iter().filter_map(|flow| flow.acks.front()).map(|(at, _)| *at);
            let timers = self.flows.iter().flat_map(|f| [f.wake, f.ack_at, f.give_up_at()]);
            let next = self
                .shaper
                .next_timeout()
                .into_iter()
                .chain(acks)
                .chain(timers.flatten())
                .min()
                .filter(|at| *at <= end);
            let Some(next) = next else {
                self.now = end;
                return;
            };
            self.now = next.max(self.now);
        }
    }

    fn step(&mut self) {
        let now = self.now;
        let delay = self.link.rtt / 2;
        while let Some((flow, number)) = self.shaper.poll_packet(now) {
            self.flows[flow].received(number, now, delay);
        }
        for (index, flow) in self.flows.iter_mut().enumerate() {
            if flow.ack_at.is_some_and(|at| at <= now) {
                flow.acknowledge(now, delay);
            }
            while let Some((_, numbers)) = flow.acks.pop_front_if(|(at, _)| *at <= now) {
                flow.on_ack(&numbers, now);
            }
            if flow.give_up_at().is_some_and(|at| at <= now) {
                flow.give_up(now);
            }
            while flow.may_send(now) {
                let number = flow.send(now);
                let queued = self.shaper.queued_bytes(now);
                self.queue = (self.queue.0 + queued, self.queue.1 + 1);
                self.queue_most = self.queue_most.max(queued);
                // What is dropped does not arrive; that is all the sender learns.
                let _: Verdict<_> =
                    self.shaper.handle_packet((index, number), PACKET as usize, now);
            }
        }
    }

    pub(super) fn delivered(&self, flow: usize) -> u64 {
        self.flows[flow].acked
    }

    pub(super) fn is_done(&self, flow: usize) -> bool {
        self.flows[flow].left == 0 && self.flows[flow].under_way.is_empty()
    }

    /// Bytes as a part of the link over so many seconds, in percent.
    pub(super) fn share(&self, bytes: u64, seconds: f64) -> f64 {
        bytes as f64 * 800.0 / seconds / (self.link.mbit * MBIT) as f64
    }

    pub(super) fn reset_queue(&mut self) {
        self.queue = (0, 0);
        self.queue_most = 0;
        self.dropped_before = self.shaper.counters().dropped_queue;
        self.passed_before = self.shaper.counters().passed;
    }

    /// Mean of the queue that packets found, in products of the link.
    pub(super) fn mean_queue(&self) -> f64 {
        self.queue.0 as f64 / self.queue.1.max(1) as f64 / self.link.product()
    }

    /// Packets that the queue refused, in percent.
    pub(super) fn drops(&self) -> f64 {
        let counters = self.shaper.counters();
        let dropped = (counters.dropped_queue - self.dropped_before) as f64;
        dropped * 100.0 / (dropped + (counters.passed - self.passed_before) as f64).max(1.0)
    }

    pub(super) fn report(&self, flow: usize) -> String {
        let flow = &self.flows[flow];
        let phase = match &flow.control {
            Control::Ours(model) => format!(
                "{:?} contended {} ceiling {:?} window {} rate {:.1}",
                model.phase,
                model.contended,
                model.ceiling,
                model.window(0),
                model.model.rate() * 8e-6
            ),
            Control::Cubic { window, .. } => format!("{window:.0}"),
            Control::Bbr(bbr) => format!("{bbr:?}"),
        };
        format!(
            "queue mean {:.2} most {:.2} drops {:.2}% {phase}",
            self.mean_queue(),
            self.queue_most as f64 / self.link.product(),
            self.drops()
        )
    }
}
