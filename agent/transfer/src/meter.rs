//! Goodput of a connection, from the payload that arrives on it anyway.
//!
//! What is measured: the bytes of chunks and probes of all requests on one connection together,
//! between two *marks*. A mark is the arrival of bytes for which a request had to wait, at a moment
//! when every other request on the connection waits as well. Nothing is then left in a buffer, so
//! what is read between two marks is what came over the link between them, whatever the caller did
//! in the meantime. Bytes of the first mark itself do not count, as they came before the window.
//!
//! A window is thrown away when so much had piled up unread that the holder may have been held back
//! by flow control, and when the holder says that the link had to wait for it to code something:
//! what is coded is chosen by the goodput, which must not be that of the coder. Nothing else tells
//! from here whether the holder was slow to send: goodput is what this holder gives over this link.
//!
//! A transfer lasts as long as any request is open on the connection. Its beginning is measured in
//! rounds of a round trip or longer, made of short windows: a burst that was kept somewhere on its
//! way makes a window fast, but hardly a round. The link is full once two rounds in a row are not
//! faster than what was best by a quarter, and gives the mean of the rounds from there on. (BBR tells
//! a full pipe by three such rounds. One is not enough: an end that got no processor for the length
//! of one looks like a thin link.) A transfer that ends before that tells only what the link carried at
//! least: the round before the fastest, or the mean from the fastest on.
//! After a second the mean is reported, and from then on the rate of each second.

use netbuild_core::link::Sample;
use std::time::{Duration, Instant};

/// A short window has at least this much payload, and takes at least this long: enough packets for
/// bursts of single ones not to matter, and longer than the batches in which a system hands them on.
const SHORT_BYTES: u64 = 64 * 1024;
const SHORT: Duration = Duration::from_millis(20);
/// Length of the beginning of a transfer, and of the windows after it.
const LONG: Duration = Duration::from_secs(1);
/// Growth of the rate, from one round to the next, below which the link may be full, and how many
/// rounds in a row have to show no more.
const FULL: f64 = 1.25;
const FULL_ROUNDS: u32 = 2;

/// Payload between two marks.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Goodput {
    pub(crate) bytes: u64,
    pub(crate) elapsed: Duration,
}

impl Goodput {
    /// Bytes per second.
    pub(crate) fn rate(&self) -> f64 {
        self.bytes as f64 / self.elapsed.as_secs_f64()
    }

    fn and(self, next: Self) -> Self {
        Self { bytes: self.bytes + next.bytes, elapsed: self.elapsed + next.elapsed }
    }
}

/// What a transfer says of the link.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Told {
    /// It carries this.
    Full(Goodput),
    /// It carried this before it was full.
    AtLeast(Goodput),
}

impl From<Told> for Sample {
    fn from(told: Told) -> Self {
        match told {
            Told::Full(Goodput { bytes, elapsed }) => Self::Goodput { bytes, elapsed },
            Told::AtLeast(Goodput { bytes, elapsed }) => Self::AtLeast { bytes, elapsed },
        }
    }
}

/// The beginning of a window.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    /// Payload of the transfer up to here.
    total: u64,
}

impl Mark {
    fn to(self, end: Self) -> Goodput {
        Goodput { bytes: end.total - self.total, elapsed: end.at - self.at }
    }
}

/// What the rounds of a transfer have shown.
#[derive(Clone, Copy, Debug)]
struct Shown {
    /// The fastest round, and those after it.
    goodput: Goodput,
    /// How many those are: none of them was clearly faster.
    since: u32,
    /// What was shown before the last growth.
    before: Option<Goodput>,
}

/// The state of one transfer.
#[derive(Debug, Default)]
struct Transfer {
    total: u64,
    began: Option<Instant>,
    /// Where the current window began.
    window: Option<Mark>,
    /// The last window, until more arrives: what ended it may tell that the holder was slow.
    last: Option<Goodput>,
    /// The windows of the current round, added up.
    round: Option<Goodput>,
    shown: Option<Shown>,
    /// Whether the beginning is over, so that windows are long.
    long: bool,
}

/// Measures the transfers of one connection.
#[derive(Debug)]
pub(crate) struct Arrivals {
    /// Unread bytes of one stream from which its holder may be held back.
    most_unread: u64,
    /// Requests that are open, and how many of them wait for bytes.
    open: usize,
    waiting: usize,
    transfer: Transfer,
}

impl Arrivals {
    pub(crate) fn new(most_unread: u64) -> Self {
        Self { most_unread, open: 0, waiting: 0, transfer: Transfer::default() }
    }

    /// A request is made.
    pub(crate) fn open(&mut self) {
        self.open += 1;
    }

    /// A request begins to wait, after it read so many bytes without a wait.
    pub(crate) fn wait(&mut self, unread: u64) {
        self.waiting += 1;
        self.transfer.total += unread;
        if unread >= self.most_unread {
            self.transfer.window = None;
        }
    }

    /// What came last tells that the link had to wait for the holder: the current window and the
    /// one which that ended show the pace of this.
    pub(crate) fn spoil(&mut self) {
        self.transfer.window = None;
        self.transfer.last = None;
    }

    /// Bytes came for which a request waited; returns what is to be reported.
    pub(crate) fn arrived(
        &mut self,
        now: Instant,
        bytes: u64,
        rtt: impl FnOnce() -> Duration,
    ) -> Option<Told> {
        self.waiting -= 1;
        self.transfer.total += bytes;
        // Somebody is busy with what came before, or has not yet read it.
        if self.waiting + 1 < self.open {
            return None;
        }
        self.transfer.mark(now, rtt).map(Told::Full)
    }

    /// A request is over; returns what is to be reported.
    pub(crate) fn close(&mut self, waiting: bool) -> Option<Told> {
        self.open -= 1;
        self.waiting -= usize::from(waiting);
        if self.open > 0 {
            return None;
        }
        let transfer = std::mem::take(&mut self.transfer);
        let last = transfer.last;
        if transfer.long { last.map(Told::Full) } else { transfer.told() }
    }

    /// What the current transfer has shown of the link.
    pub(crate) fn so_far(&self) -> Option<Goodput> {
        self.transfer.settled()
    }
}

impl Transfer {
    fn told(&self) -> Option<Told> {
        let Shown { goodput, since, before } = self.shown?;
        match since {
            0 => before.map(Told::AtLeast),
            FULL_ROUNDS.. => Some(Told::Full(goodput)),
            _ => Some(Told::AtLeast(goodput)),
        }
    }

    fn settled(&self) -> Option<Goodput> {
        self.shown.filter(|shown| shown.since >= FULL_ROUNDS).map(|shown| shown.goodput)
    }

    fn mark(&mut self, now: Instant, rtt: impl FnOnce() -> Duration) -> Option<Goodput> {
        let began = *self.began.get_or_insert(now);
        let told = self.last.take().and_then(|last| self.take(last, now - began, rtt));
        let end = Mark { at: now, total: self.total };
        let start = *self.window.get_or_insert(end);
        let goodput = start.to(end);
        let least = if self.long { LONG } else { SHORT };
        if goodput.elapsed >= least && goodput.bytes >= SHORT_BYTES {
            self.window = Some(end);
            self.last = Some(goodput);
        }
        told
    }

    /// Takes a window into account; returns what is to be reported.
    fn take(
        &mut self,
        window: Goodput,
        since: Duration,
        rtt: impl FnOnce() -> Duration,
    ) -> Option<Goodput> {
        if self.long {
            return Some(window);
        }
        let round = self.round.map_or(window, |round| round.and(window));
        self.round = Some(round).filter(|round| round.elapsed < rtt());
        if self.round.is_none() {
            self.shown = Some(self.shown.map_or(Shown::first(round), |shown| shown.then(round)));
        }
        let settled = self.settled().filter(|_| since >= LONG);
        self.long = settled.is_some();
        settled
    }
}

impl Shown {
    fn first(round: Goodput) -> Self {
        Self { goodput: round, since: 0, before: None }
    }

    fn then(self, round: Goodput) -> Self {
        if round.rate() >= self.goodput.rate() * FULL {
            // If the link looked full before, it was not.
            return Self { before: Some(self.goodput), ..Self::first(round) };
        }
        Self {
            goodput: self.goodput.and(round),
            since: self.since.saturating_add(1),
            before: self.before,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);
    const NONE: u64 = u64::MAX;

    /// One request on a link with this round trip; feeds bytes that each were waited for.
    struct Link {
        arrivals: Arrivals,
        now: Instant,
        rtt: Duration,
        reported: Vec<Told>,
    }

    impl Link {
        fn new(rtt: Duration) -> Self {
            let mut arrivals = Arrivals::new(NONE);
            arrivals.open();
            Self { arrivals, now: Instant::now(), rtt, reported: Vec::new() }
        }

        fn feed(&mut self, bytes: u64, after: Duration) {
            self.arrivals.wait(0);
            self.now += after;
            let rtt = self.rtt;
            self.reported.extend(self.arrivals.arrived(self.now, bytes, || rtt));
        }

        fn end(mut self) -> Vec<Told> {
            self.reported.extend(self.arrivals.close(false));
            self.reported
        }
    }

    /// What full links were told to carry.
    fn rates(told: &[Told]) -> Vec<u64> {
        let full = |told: &Told| match told {
            Told::Full(goodput) => Some(goodput.rate().round() as u64),
            Told::AtLeast(_) => None,
        };
        told.iter().filter_map(full).collect()
    }

    fn at_least(told: &[Told]) -> u64 {
        match told {
            [Told::AtLeast(goodput)] => goodput.rate().round() as u64,
            _ => panic!("{told:?}"),
        }
    }

    #[test]
    fn a_short_transfer_tells_the_link_once_at_its_end() {
        let mut link = Link::new(MILLISECOND);
        link.feed(10_000, MILLISECOND * 80);
        (0..100).for_each(|_| link.feed(10_000, MILLISECOND));
        assert!(link.reported.is_empty());
        assert_eq!(rates(&link.end()), [10_000_000]);
    }

    #[test]
    fn slow_start_is_not_told_as_the_goodput() {
        // The window doubles with each round trip, evenly paced.
        let mut link = Link::new(MILLISECOND * 100);
        for round in 0..7 {
            (0..100).for_each(|_| link.feed(140 << round, MILLISECOND));
        }
        // It carries at least a quarter of what it did in the last round.
        let told = at_least(&link.end());
        assert!(((140 << 4) * 1000..(140 << 6) * 1000).contains(&told), "{told}");
    }

    #[test]
    fn an_end_that_was_held_up_in_slow_start_is_no_thin_link() {
        let mut link = Link::new(MILLISECOND * 50);
        for round in 0..6 {
            (0..50).for_each(|_| link.feed(2800 << round, MILLISECOND));
            if round == 1 {
                link.feed(2800, MILLISECOND * 120);
            }
        }
        let told = at_least(&link.end());
        assert!(((2800 << 3) * 1000..(2800 << 5) * 1000).contains(&told), "{told}");
    }

    #[test]
    fn the_link_is_told_after_slow_start_has_filled_it() {
        let mut link = Link::new(MILLISECOND * 50);
        for round in 0..6 {
            (0..50).for_each(|_| link.feed(280 << round, MILLISECOND));
        }
        (0..150).for_each(|_| link.feed(280 << 5, MILLISECOND));
        assert_eq!(rates(&link.end()), [(280 << 5) * 1000]);
    }

    #[test]
    fn a_burst_is_not_told_as_the_goodput() {
        // Whoever hands the packets on is kept from it for 40 ms, and then catches up in 20.
        let mut link = Link::new(MILLISECOND * 100);
        for _ in 0..5 {
            (0..60).for_each(|_| link.feed(6000, MILLISECOND));
            link.feed(6000, MILLISECOND * 40);
            (0..10).for_each(|_| link.feed(30_000, MILLISECOND * 2));
        }
        let told = rates(&link.end());
        assert!(told.iter().all(|rate| (4_500_000..7_500_000).contains(rate)), "{told:?}");
        assert!(!told.is_empty());
    }

    #[test]
    fn a_long_transfer_tells_each_second() {
        let mut link = Link::new(MILLISECOND);
        (0..3500).for_each(|_| link.feed(5000, MILLISECOND));
        (0..1000).for_each(|_| link.feed(2500, MILLISECOND));
        let told = rates(&link.end());
        assert_eq!(told[..3], [5_000_000; 3]);
        assert_eq!(told.len(), 4);
        assert!((2_500_000..5_000_000).contains(&told[3]), "{told:?}");
    }

    #[test]
    fn few_bytes_or_little_time_tell_nothing() {
        let mut link = Link::new(MILLISECOND);
        (0..1000).for_each(|_| link.feed(60, MILLISECOND));
        assert!(link.end().is_empty());
        let mut link = Link::new(MILLISECOND);
        (0..10).for_each(|_| link.feed(1 << 20, MILLISECOND));
        assert!(link.end().is_empty());
    }

    #[test]
    fn what_piled_up_while_the_caller_was_busy_does_not_count_as_speed() {
        let mut link = Link::new(MILLISECOND);
        for _ in 0..20 {
            (0..10).for_each(|_| link.feed(10_000, MILLISECOND));
            // Busy for 15 ms; what came in the meantime is then read at once.
            link.now += MILLISECOND * 15;
            link.arrivals.wait(150_000);
            link.now += MILLISECOND;
            let rtt = link.rtt;
            link.reported.extend(link.arrivals.arrived(link.now, 10_000, || rtt));
        }
        assert_eq!(rates(&link.end()), [10_000_000]);
    }

    #[test]
    fn a_caller_that_may_have_held_the_holder_back_is_not_measured() {
        let mut link = Link::new(MILLISECOND);
        link.arrivals.most_unread = 1000;
        for _ in 0..100 {
            link.feed(100_000, MILLISECOND);
            link.arrivals.wait(1000);
            link.now += MILLISECOND * 30;
            assert_eq!(link.arrivals.arrived(link.now, 100_000, || MILLISECOND), None);
        }
        assert!(link.end().is_empty());
    }

    #[test]
    fn the_pace_of_a_holder_that_codes_is_not_taken_for_that_of_the_link() {
        let mut link = Link::new(MILLISECOND);
        for _ in 0..30 {
            // Half a second of work for what the link then carries in 50 ms.
            link.feed(1, MILLISECOND * 500);
            link.arrivals.spoil();
            (0..50).for_each(|_| link.feed(10_000, MILLISECOND));
        }
        let told = rates(&link.end());
        assert!(told.iter().all(|rate| *rate == 10_000_000), "{told:?}");
    }

    #[test]
    fn requests_at_once_are_added_up() {
        let mut arrivals = Arrivals::new(NONE);
        let mut now = Instant::now();
        arrivals.open();
        arrivals.open();
        for _ in 0..100 {
            arrivals.wait(0);
            arrivals.wait(0);
            now += MILLISECOND;
            assert_eq!(arrivals.arrived(now, 5000, || MILLISECOND), None);
            assert_eq!(arrivals.arrived(now, 5000, || MILLISECOND), None);
        }
        assert_eq!(arrivals.close(false), None);
        assert_eq!(rates(&Vec::from_iter(arrivals.close(false))), [10_000_000]);
        assert_eq!(arrivals.so_far(), None);
    }
}
