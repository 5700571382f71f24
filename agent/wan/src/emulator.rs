//! The loop between the devices: one thread, woken by packets, by the time of the next arrival, by
//! questions, and by the end.

use crate::{
    devices::{Devices, Packet},
    error::WanError,
    protocol::{LinkStatus, Request, Response, SiteStatus, Status},
    relay::PORTS,
};
use netbuild_core::wan::{Layout, Profile, Shaper, Target, Verdict, find};
use rustix::{
    event::epoll,
    io::Errno,
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

/// Most packets that are read from one device before others have their turn.
const READ_AT_ONCE: usize = 64;
/// Deliveries follow each other by at least this part of the delay of their link, and at most by
/// `MAX_MODERATION`: a stream is delivered in small batches, as network cards do it, since each
/// waking costs more than a packet. A lone packet is not late.
const MODERATION: u32 = 64;
/// As long as the timer of a busy machine may be late anyway.
const MAX_MODERATION: Duration = Duration::from_micros(500);
/// Most buffers that are kept for packets to come, some 6 MB; more are freed.
const POOL: usize = 4_096;
/// Events taken from the kernel at once: every device or door and the three others.
const EVENTS: usize = netbuild_core::wan::MAX_SITES * PORTS + 3;

/// What the events are about; below these, the number of a device.
const TIMER: u64 = u64::MAX;
const QUESTION: u64 = u64::MAX - 1;
const STOP: u64 = u64::MAX - 2;

/// Who the emulator is, for its status.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) sites: Vec<SiteStatus>,
    pub(crate) realtime: bool,
}

/// The emulator.
#[derive(Debug)]
pub(crate) struct Emulator {
    identity: Identity,
    layout: Layout,
    devices: Devices,
    /// From each site to each, row by row; none from a site to itself.
    directions: Vec<Option<Shaper<Packet>>>,
    pool: Vec<Packet>,
    unroutable: u64,
    undelivered: u64,
}

/// Where questions come from: the answer goes back by the same value.
pub(crate) trait Questions {
    /// Readable when there is a question.
    fn descriptor(&self) -> BorrowedFd<'_>;
    /// Answers all questions that there are.
    fn answer(&self, by: &mut dyn FnMut(&Request) -> Response);
}

impl Emulator {
    pub(crate) fn new(
        identity: Identity,
        layout: Layout,
        devices: Devices,
        seed: u64,
        now: Instant,
    ) -> Self {
        let count = layout.sites().len();
        let mut directions: Vec<_> = (0..count * count).map(|_| None).collect();
        for link in layout.links() {
            for index in [link.a * count + link.b, link.b * count + link.a] {
                // Seeds next to each other lead to unrelated sequences, see `wan::walk`.
                let seed = seed.wrapping_add(index as u64);
                directions[index] = Some(Shaper::new(link.profile, seed, now));
            }
        }
        let (unroutable, undelivered) = (0, 0);
        Self { identity, layout, devices, directions, pool: vec![], unroutable, undelivered }
    }

    /// Passes packets until `stop` is readable.
    pub(crate) fn run(
        &mut self,
        questions: &dyn Questions,
        stop: BorrowedFd<'_>,
    ) -> Result<(), WanError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(WanError::io("poll"))?;
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )
        .map_err(WanError::io("make a timer"))?;
        let numbered = self.devices.all().iter().enumerate();
        let sources = numbered.map(|(number, device)| (device.as_fd(), number as u64)).chain([
            (timer.as_fd(), TIMER),
            (questions.descriptor(), QUESTION),
            (stop, STOP),
        ]);
        for (source, about) in sources {
            epoll::add(&epoll, source, epoll::EventData::new_u64(about), epoll::EventFlags::IN)
                .map_err(WanError::io("poll"))?;
        }
        let mut events = Vec::with_capacity(EVENTS);
        // What the timer is set to; `None` when that is not known.
        let mut armed = None;
        let mut delivered = Instant::now();
        loop {
            let now = Instant::now();
            if self.deliver(now) > 0 {
                delivered = now;
            }
            let waiting = self.directions.iter().flatten();
            let next = waiting.filter_map(|shaper| wake_at(shaper, delivered)).min();
            if armed != Some(next) {
                arm(&timer, next).map_err(WanError::io("set a timer"))?;
                armed = Some(next);
            }
            match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None) {
                // A signal, or a container that was frozen and goes on.
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(WanError::io("poll")(error)),
            }
            for event in events.drain(..) {
                match event.data.u64() {
                    STOP => return Ok(()),
                    // It stays readable until it is set again.
                    TIMER => armed = None,
                    QUESTION => questions.answer(&mut |request| self.answer(request)),
                    device => self.take(device as usize)?,
                }
            }
        }
    }

    /// Writes all packets that have arrived. How many there were.
    fn deliver(&mut self, now: Instant) -> usize {
        let mut packets = 0;
        for shaper in self.directions.iter_mut().flatten() {
            while let Some(packet) = shaper.poll_packet(now) {
                packets += 1;
                if !self.devices.write(&packet) {
                    self.undelivered += 1;
                }
                recycle(&mut self.pool, packet);
            }
        }
        packets
    }

    /// Reads packets of a device into the shapers.
    fn take(&mut self, number: usize) -> Result<(), WanError> {
        let count = self.layout.sites().len();
        for _ in 0..READ_AT_ONCE {
            let mut packet = self.pool.pop().unwrap_or_else(Packet::new);
            let routed = match self.devices.read(number, &mut packet, &self.layout) {
                Ok(routed) => routed,
                Err(Errno::AGAIN | Errno::INTR) => {
                    recycle(&mut self.pool, packet);
                    return Ok(());
                }
                // Somebody removed the device or its namespace.
                Err(error) => return Err(WanError::io("read packets")(error)),
            };
            let shaper = routed.and_then(|(route, len)| {
                let shaper = self.directions.get_mut(route.from * count + route.to)?.as_mut()?;
                Some((shaper, len))
            });
            let Some((shaper, len)) = shaper else {
                self.unroutable += 1;
                recycle(&mut self.pool, packet);
                continue;
            };
            if let Verdict::Dropped(_, packet) = shaper.handle_packet(packet, len, Instant::now()) {
                recycle(&mut self.pool, packet);
            }
        }
        Ok(())
    }

    pub(crate) fn answer(&mut self, request: &Request) -> Response {
        let changed = match request {
            Request::Status => return Response::Status(self.status(Instant::now())),
            Request::Set { target, profile } => find(profile)
                .map_err(WanError::from)
                .and_then(|profile| self.change(target, Some(profile))),
            Request::Reset { target } => self.change(target, None),
        };
        match changed {
            Ok(links) => Response::Changed { links },
            Err(error) => Response::Error { message: error.to_string() },
        }
    }

    /// Gives links this profile, or else the one that they began with.
    fn change(
        &mut self,
        target: &str,
        profile: Option<&'static Profile>,
    ) -> Result<usize, WanError> {
        let selected = self.layout.select(&Target::from(target))?;
        let count = self.layout.sites().len();
        let now = Instant::now();
        for link in selected.iter().map(|index| self.layout.links()[*index]) {
            for index in [link.a * count + link.b, link.b * count + link.a] {
                if let Some(shaper) = &mut self.directions[index] {
                    for packet in shaper.set_profile(profile.unwrap_or(link.profile), now) {
                        recycle(&mut self.pool, packet);
                    }
                }
            }
        }
        Ok(selected.len())
    }

    pub(crate) fn status(&mut self, now: Instant) -> Status {
        let count = self.layout.sites().len();
        let mut links = Vec::new();
        for link in self.layout.links() {
            for (from, to) in [(link.a, link.b), (link.b, link.a)] {
                let Some(shaper) = &mut self.directions[from * count + to] else {
                    continue;
                };
                let counters = shaper.counters();
                let status = LinkStatus {
                    link: self.layout.link_name(link),
                    from: self.layout.sites()[from].name.clone(),
                    to: self.layout.sites()[to].name.clone(),
                    profile: shaper.profile().name.to_owned(),
                    queued_bytes: shaper.queued_bytes(now),
                    held: shaper.held(),
                    passed: counters.passed,
                    passed_bytes: counters.passed_bytes,
                    dropped_queue: counters.dropped_queue,
                    dropped_loss: counters.dropped_loss,
                    dropped_cut: counters.dropped_cut,
                    ..LinkStatus::from(&shaper.shape(now))
                };
                links.push(status);
            }
        }
        Status {
            name: self.identity.name.clone(),
            pid: std::process::id(),
            router: matches!(self.devices, Devices::Shared(_)),
            realtime: self.identity.realtime,
            sites: self.identity.sites.clone(),
            links,
            unroutable: self.unroutable,
            undelivered: self.undelivered,
        }
    }
}

/// When to wake for a direction after the last delivery of any.
fn wake_at(shaper: &Shaper<Packet>, delivered: Instant) -> Option<Instant> {
    let pause = (shaper.profile().shape.delay() / MODERATION).min(MAX_MODERATION);
    Some(shaper.next_timeout()?.max(delivered + pause))
}

/// Sets the timer to the time, or to never.
fn arm(timer: &OwnedFd, next: Option<Instant>) -> Result<(), Errno> {
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let wait = next.map(|next| {
        // Nothing at all would mean never.
        let wait = next.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() }
    });
    let value = Itimerspec { it_interval: zero, it_value: wait.unwrap_or(zero) };
    timerfd_settime(timer, TimerfdTimerFlags::empty(), &value).map(|_| ())
}

fn recycle(pool: &mut Vec<Packet>, packet: Packet) {
    if pool.len() < POOL {
        pool.push(packet);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::wan::SiteSpec;
    use std::os::{fd::OwnedFd, unix::net::UnixDatagram};

    /// Two sites whose devices are sockets.
    fn emulator() -> (Emulator, [UnixDatagram; 2]) {
        let specs: Vec<SiteSpec> = ["a", "b"].iter().map(|name| name.parse().unwrap()).collect();
        let layout = Layout::new(&specs, &[]).unwrap();
        let (devices, ends): (Vec<OwnedFd>, Vec<_>) = (0..2)
            .map(|_| {
                let (device, end) = UnixDatagram::pair().unwrap();
                device.set_nonblocking(true).unwrap();
                end.set_nonblocking(true).unwrap();
                (OwnedFd::from(device), end)
            })
            .unzip();
        let identity = Identity { name: "test".to_owned(), sites: vec![], realtime: false };
        let devices = Devices::PerSite(devices);
        let emulator = Emulator::new(identity, layout, devices, 1, Instant::now());
        (emulator, ends.try_into().unwrap())
    }

    fn packet(from: u8, to: u8) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 24, 0, 0, 0, 0, 64, 17, 0, 0];
        packet.extend([10, 77, from, 1, 10, 77, to, 1]);
        packet.extend([1, 2, 3, 4]);
        packet
    }

    #[test]
    fn a_packet_arrives_at_the_other_site_unchanged_and_after_the_delay() {
        let (mut emulator, [a, b]) = emulator();
        a.send(&packet(1, 2)).unwrap();
        emulator.take(0).unwrap();
        let mut buffer = [0; 1501];
        let at = emulator.directions[1].as_ref().unwrap().next_timeout().unwrap();
        emulator.deliver(at - Duration::from_nanos(1));
        assert!(b.recv(&mut buffer).is_err());
        emulator.deliver(at);
        let len = b.recv(&mut buffer).unwrap();
        assert_eq!(buffer[..len], packet(1, 2));
        let status = emulator.status(at);
        assert_eq!(status.links.iter().map(|link| link.passed).sum::<u64>(), 1);
        assert_eq!(status.links[0].passed_bytes, 24);
    }

    #[test]
    fn what_goes_nowhere_is_counted() {
        let (mut emulator, [a, _b]) = emulator();
        for lost in [packet(1, 9), packet(1, 1), vec![0x60; 40], vec![0x45; 8], vec![0; 3_000]] {
            a.send(&lost).unwrap();
        }
        emulator.take(0).unwrap();
        assert_eq!(emulator.status(Instant::now()).unroutable, 5);
    }

    #[test]
    fn a_link_is_changed_both_ways_and_reset() {
        let (mut emulator, _ends) = emulator();
        let mut profiles = |request: Request| {
            let response = emulator.answer(&request);
            let links = emulator.status(Instant::now()).links;
            (response, links.into_iter().map(|link| link.profile).collect::<Vec<_>>())
        };
        let set = |target: &str, profile: &str| Request::Set {
            target: target.to_owned(),
            profile: profile.to_owned(),
        };
        let changed = Response::Changed { links: 1 };
        assert_eq!(
            profiles(set("b:a", "lossy")),
            (changed.clone(), vec!["lossy".to_owned(), "lossy".to_owned()])
        );
        let reset = Request::Reset { target: "all".to_owned() };
        assert_eq!(profiles(reset), (changed, vec!["datacenter".to_owned(); 2]));
        assert!(matches!(profiles(set("c", "lossy")).0, Response::Error { .. }));
        assert!(matches!(profiles(set("a", "moon")).0, Response::Error { .. }));
    }
}
