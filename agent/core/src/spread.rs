//! Which source is asked for which of the missing items, while all of them send at once.
//!
//! An item is whatever is asked for and verified as one: a chunk, or a small blob. A source takes a
//! few items at a time, as many as its link carries in the next moment, and comes back for more: so
//! a fast one gets more than a slow one without a plan made in advance, which would be wrong as soon
//! as a link changes (self-scheduling: Polychronopoulos, Kuck 1987; the end game below: Cohen,
//! "Incentives build robustness in BitTorrent", 2003). A slow source is not given what the others will have got before it could. What is asked
//! of a source that has become late, and what would be last by far, is asked of another one as well;
//! whoever brings it first is the one that counts. A source that is still getting the items itself is
//! asked for those that it has by now, and is left alone with the rest by those who can have that from
//! elsewhere.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

/// How far ahead a source is asked, besides its round trip: long enough that its link does not run
/// dry while this end is busy, short enough that little has to be asked of another one when it
/// fails.
const AHEAD: Duration = Duration::from_secs(1);
/// The same of one that nobody is asked beside. Bytes are those of items, and what comes next may shrink to a fifth
/// on its way where what came before did not.
const AHEAD_ALONE: Duration = Duration::from_secs(4);
const LEAST_ALONE: u64 = 4 << 20;
/// Least and most bytes that are asked of a source ahead: two average chunks, and 1 Gbit/s over
/// 100 ms, which is less than a stream may have under way.
const LEAST_AHEAD: u64 = 1 << 20;
const MOST_AHEAD: u64 = 12 << 20;
/// What is handed out at once, as a part of what may be asked ahead: so there are always a few requests
/// on their way, and the link does not run dry while the next one is.
const PARTS: u64 = 4;
/// Most items that are handed out at once: as many of 2 KiB as are coded together.
const MOST_ITEMS: usize = 512;
/// Shortest time over which the rate of a source is measured.
const WINDOW: Duration = Duration::from_millis(200);
/// How much a new measurement of a rate counts against the old ones.
const INERTIA: f64 = 0.7;
/// How late the next item may be, in terms of its expected time, before the source is late.
const LENIENCE: f64 = 1.5;
/// Longest time that one item is granted on top: a chunk of 2 MiB at 8 Mbit/s.
const MOST_FOR_AN_ITEM: Duration = Duration::from_secs(3);
/// An item is asked of a second source when that one would have it in less than this part of the
/// time that the first still needs.
const SOONER: f64 = 0.5;
/// Within this time the first may finish undisturbed.
const SOON: Duration = Duration::from_millis(200);
/// Bytes per second below which no rate is believed to be.
const LEAST_RATE: f64 = 1.0;

/// One source among those of a [`Spread`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SourceId(u32);

/// What is known of the link to a source when it joins.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Pace {
    /// Round trip.
    pub rtt: Duration,
    /// Expected payload bytes per second.
    pub goodput: f64,
    /// How long it may say nothing, on top of what its next item takes, before it is late.
    pub patience: Duration,
    /// Whether it is the only one that is to be asked, as far as is known.
    pub alone: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Free,
    /// Asked of one source, or of a second one as well.
    Asked(SourceId, Option<SourceId>),
    Done,
}

#[derive(Clone, Copy, Debug)]
struct Item {
    len: u32,
    state: State,
    /// How many of the sources are known to lack it.
    lacking: u32,
    /// Whether it was claimed: it may come in far fewer bytes than it has.
    claimed: bool,
}

#[derive(Clone, Debug)]
struct Source {
    pace: Pace,
    rate: f64,
    measured: bool,
    /// What it was asked for and has not answered, in the order in which it will.
    asked: VecDeque<usize>,
    asked_bytes: u64,
    lacks: BTreeSet<usize>,
    /// Free items that another one lacks and this one does not.
    scarce: BTreeSet<usize>,
    /// Since when it owes a sign of life.
    quiet_since: Instant,
    /// Whether it has only what it was said to have.
    grows: bool,
    /// Whether nobody knows that it has anything, and it has given nothing.
    unsure: bool,
    /// Begin of the measurement that runs, and what came since.
    window: Option<(Instant, u64)>,
}

/// Items that are missing, and the sources that are asked for them.
#[derive(Clone, Debug, Default)]
pub struct Spread {
    items: Vec<Item>,
    left: usize,
    left_bytes: u64,
    /// Items that nobody is asked for and every source may have.
    free: BTreeSet<usize>,
    /// Bytes of all that nobody is asked for.
    free_bytes: u64,
    sources: BTreeMap<SourceId, Source>,
    joined: u32,
}

impl Source {
    /// Seconds until it has sent all that it was asked for and `more` bytes.
    fn finish(&self, more: u64) -> f64 {
        self.pace.rtt.as_secs_f64() + (self.asked_bytes + more) as f64 / self.rate
    }

    /// How many bytes it may be asked for ahead; `only` says that nobody has joined beside it.
    fn ahead(&self, only: bool) -> u64 {
        let (time, least) = match only && self.pace.alone {
            true => (AHEAD_ALONE, LEAST_ALONE),
            false => (AHEAD, LEAST_AHEAD),
        };
        let time = self.pace.rtt + time;
        ((self.rate * time.as_secs_f64()) as u64).clamp(least, MOST_AHEAD)
    }

    /// When it is late, if nothing comes until then.
    fn due(&self, items: &[Item]) -> Option<Instant> {
        let next = items[*self.asked.front()?];
        let seconds = LENIENCE * f64::from(next.len) / self.rate;
        // What is claimed may take its time to be made, and save far more on its way.
        let part = Duration::try_from_secs_f64(seconds).ok().filter(|_| !next.claimed);
        let part = part.unwrap_or(MOST_FOR_AN_ITEM);
        Some(self.quiet_since + self.pace.rtt + self.pace.patience + part.min(MOST_FOR_AN_ITEM))
    }

    fn is_late(&self, items: &[Item], now: Instant) -> bool {
        self.due(items).is_some_and(|due| due <= now)
    }

    fn handle_bytes(&mut self, bytes: u64, now: Instant) {
        let Some((since, sum)) = &mut self.window else {
            // What comes first has waited for its round trip, and says nothing of the rate.
            self.window = Some((now, 0));
            return;
        };
        *sum += bytes;
        let elapsed = now.saturating_duration_since(*since);
        if elapsed < WINDOW {
            return;
        }
        let rate = (*sum as f64 / elapsed.as_secs_f64()).max(LEAST_RATE);
        self.rate = if self.measured { INERTIA * self.rate + (1.0 - INERTIA) * rate } else { rate };
        self.measured = true;
        self.window = Some((now, 0));
    }

    fn forget(&mut self, index: usize, len: u32) -> bool {
        let Some(at) = self.asked.iter().position(|asked| *asked == index) else { return false };
        self.asked.remove(at);
        self.asked_bytes -= u64::from(len);
        true
    }
}

impl Spread {
    /// Nothing is missing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more item of `len` bytes is missing. Items are asked for in the order in which they are
    /// added. Returns its index: the first is 0, and each the next.
    pub fn add(&mut self, len: u32) -> usize {
        let index = self.items.len();
        self.items.push(Item { len, state: State::Free, lacking: 0, claimed: false });
        self.left += 1;
        self.left_bytes += u64::from(len);
        self.release(index);
        let growing = self.sources.iter().filter(|(_, source)| source.grows).map(|(id, _)| *id);
        for id in growing.collect::<Vec<_>>() {
            self.lack(id, index);
        }
        index
    }

    /// The item has come from elsewhere.
    pub fn handle_have(&mut self, index: usize) {
        self.done(index);
    }

    /// A source may be asked from now on. It is taken to have everything until it says otherwise.
    pub fn join(&mut self, pace: Pace, now: Instant) -> SourceId {
        let id = SourceId(self.joined);
        self.joined += 1;
        let goodput = if pace.goodput.is_finite() { pace.goodput } else { LEAST_RATE };
        let source = Source {
            pace,
            rate: goodput.max(LEAST_RATE),
            measured: false,
            asked: VecDeque::new(),
            asked_bytes: 0,
            lacks: BTreeSet::new(),
            scarce: self.lacked(),
            quiet_since: now,
            grows: false,
            unsure: false,
            window: None,
        };
        self.sources.insert(id, source);
        id
    }

    /// A source of which it is not known whether it has anything may be asked from now on. Until it has given
    /// something it is asked for little, and nobody leaves anything to it.
    pub fn join_unsure(&mut self, pace: Pace, now: Instant) -> SourceId {
        let id = self.join(pace, now);
        if let Some(source) = self.sources.get_mut(&id) {
            source.unsure = true;
        }
        id
    }

    /// A source of which it is known that it has nothing yet may be asked from now on for what it is
    /// said to have by [`Spread::handle_offered`].
    pub fn join_without(&mut self, pace: Pace, now: Instant) -> SourceId {
        let id = self.join(pace, now);
        if let Some(source) = self.sources.get_mut(&id) {
            source.grows = true;
        }
        let missing = (0..self.items.len()).filter(|index| !self.has(*index));
        let missing: Vec<usize> = missing.collect();
        for index in missing {
            self.lack(id, index);
        }
        id
    }

    /// The source has an item by now that it lacked before.
    pub fn handle_offered(&mut self, id: SourceId, index: usize) {
        let Some(source) = self.sources.get_mut(&id) else { return };
        if source.lacks.remove(&index) {
            self.items[index].lacking -= 1;
            self.file(index);
        }
    }

    /// The source has everything from now on, as far as it says.
    pub fn handle_grown(&mut self, id: SourceId) {
        let Some(source) = self.sources.get_mut(&id) else { return };
        source.grows = false;
        for index in source.lacks.clone() {
            self.handle_offered(id, index);
        }
    }

    fn lack(&mut self, id: SourceId, index: usize) {
        let Some(source) = self.sources.get_mut(&id) else { return };
        if source.lacks.insert(index) {
            self.items[index].lacking += 1;
            self.file(index);
        }
    }

    /// Free items that a source lacks.
    fn lacked(&self) -> BTreeSet<usize> {
        let lacked = self.sources.values().flat_map(|source| &source.lacks).copied();
        lacked.filter(|index| self.items[*index].state == State::Free).collect()
    }

    /// The source is asked no more; what it was asked for is missing again.
    pub fn leave(&mut self, id: SourceId) {
        let Some(source) = self.sources.remove(&id) else { return };
        for index in source.lacks {
            self.items[index].lacking -= 1;
            self.file(index);
        }
        for index in source.asked {
            self.unask(index, id);
        }
    }

    /// What to ask the source for now, in this order; nothing when it has enough to do, or when the
    /// others are sooner done with what is left. It may be called at any time.
    pub fn poll(&mut self, id: SourceId, now: Instant) -> Vec<usize> {
        let mut handed = Vec::new();
        let mut bytes = 0;
        let only = self.sources.len() == 1;
        let most = match self.sources.get(&id) {
            None => 0,
            Some(source) if !source.unsure => source.ahead(only) / PARTS,
            Some(source) if source.asked.is_empty() => LEAST_AHEAD / PARTS,
            Some(_) => 0,
        };
        while handed.len() < MOST_ITEMS && bytes < most {
            let Some(source) = self.sources.get(&id) else { break };
            if source.asked_bytes >= source.ahead(only) {
                break;
            }
            let Some(index) = self.next_free(id, now).or_else(|| self.next_late(id, now)) else {
                break;
            };
            bytes += u64::from(self.items[index].len);
            self.ask(index, id, now);
            handed.push(index);
        }
        handed
    }

    /// Has the source bring items that nobody is asked for, in another way than by what it is polled
    /// for: in a patch, for example. Says whether it is to, which is all of them or none.
    pub fn claim(&mut self, id: SourceId, items: &[usize], now: Instant) -> bool {
        let Some(source) = self.sources.get(&id) else { return false };
        let is_free = |index: &usize| {
            self.items.get(*index).is_some_and(|item| item.state == State::Free)
                && !source.lacks.contains(index)
        };
        if !items.iter().all(is_free) {
            return false;
        }
        for index in items {
            self.ask(*index, id, now);
            self.items[*index].claimed = true;
        }
        true
    }

    /// The source does not bring an item in the way in which it was claimed; it may have it all the
    /// same.
    pub fn handle_unclaimed(&mut self, id: SourceId, index: usize, now: Instant) {
        let Some(item) = self.items.get(index) else { return };
        let Some(source) = self.sources.get_mut(&id) else { return };
        source.quiet_since = now;
        if source.forget(index, item.len) {
            self.unask(index, id);
        }
    }

    /// What the source was asked for by claims comes no smaller than it is: from now on it is like anything else
    /// that the source was asked for, which others may take over.
    pub fn handle_plain(&mut self, id: SourceId) {
        let Some(source) = self.sources.get(&id) else { return };
        for index in &source.asked {
            self.items[*index].claimed = false;
        }
    }

    /// Some bytes of the next item came from the source.
    pub fn handle_coming(&mut self, id: SourceId, now: Instant) {
        if let Some(source) = self.sources.get_mut(&id) {
            source.quiet_since = now;
        }
    }

    /// An item came from the source, verified. Says whether it was still missing.
    pub fn handle_arrived(&mut self, id: SourceId, index: usize, now: Instant) -> bool {
        let Some(item) = self.items.get(index) else { return false };
        let len = item.len;
        if let Some(source) = self.sources.get_mut(&id) {
            source.forget(index, len);
            source.unsure = false;
            source.quiet_since = now;
            source.handle_bytes(u64::from(len), now);
            if source.asked.is_empty() {
                source.window = None;
            }
        }
        self.done(index)
    }

    /// The source lacks an item.
    pub fn handle_absent(&mut self, id: SourceId, index: usize, now: Instant) {
        let Some(item) = self.items.get(index) else { return };
        let Some(source) = self.sources.get_mut(&id) else { return };
        let asked = source.forget(index, item.len);
        source.quiet_since = now;
        if source.asked.is_empty() {
            source.window = None;
        }
        if item.state == State::Done {
            return;
        }
        self.lack(id, index);
        if asked {
            self.unask(index, id);
        }
    }

    /// Gives back what the source was asked for and has not sent: its requests were given up.
    pub fn handle_given_up(&mut self, id: SourceId) {
        let Some(source) = self.sources.get_mut(&id) else { return };
        let asked = std::mem::take(&mut source.asked);
        source.asked_bytes = 0;
        source.window = None;
        for index in asked {
            self.unask(index, id);
        }
    }

    /// Whether nothing is missing.
    pub fn is_whole(&self) -> bool {
        self.left == 0
    }

    /// Whether this item is here.
    pub fn has(&self, index: usize) -> bool {
        self.items.get(index).is_some_and(|item| item.state == State::Done)
    }

    /// Bytes that are missing.
    pub fn left_bytes(&self) -> u64 {
        self.left_bytes
    }

    /// Whether somebody is asked for each item that is missing.
    pub fn is_all_asked(&self) -> bool {
        self.free_bytes == 0
    }

    /// Whether the source was asked for nothing that it has not answered, and lacks all that is
    /// missing.
    pub fn is_exhausted(&self, id: SourceId) -> bool {
        let Some(source) = self.sources.get(&id) else { return true };
        source.asked.is_empty() && source.lacks.len() == self.left
    }

    /// Payload bytes per second that the source gives, as far as it is known.
    pub fn rate(&self, id: SourceId) -> Option<f64> {
        self.sources.get(&id).map(|source| source.rate)
    }

    /// Payload bytes per second that all sources give together.
    pub fn total_rate(&self) -> f64 {
        self.sources.values().map(|source| source.rate).sum()
    }

    /// When the next source becomes late if nothing comes; whoever has nothing to do should then be
    /// polled again.
    pub fn next_timeout(&self, now: Instant) -> Option<Instant> {
        let due = self.sources.values().filter_map(|source| source.due(&self.items));
        due.filter(|due| *due > now).min()
    }

    /// The first item that nobody is asked for, unless others will have got all of them before this
    /// source could.
    fn next_free(&self, id: SourceId, now: Instant) -> Option<usize> {
        let source = &self.sources[&id];
        // What another one lacks comes first: that other one can take the rest. One that is still
        // getting things goes from the beginning, mostly; to meet it is best done from the end.
        let grows = self.sources.iter().any(|(other, source)| *other != id && source.grows);
        let scarce = if grows { source.scarce.last() } else { source.scarce.first() };
        let index = *scarce.or_else(|| self.free.first())?;
        let others = || {
            let others = self.sources.iter().filter(|(other, _)| **other != id);
            others
                .map(|(_, other)| other)
                .filter(|other| !other.is_late(&self.items, now) && !other.unsure)
                .filter(|other| !other.lacks.contains(&index))
        };
        let rate: f64 = others().map(|other| other.rate).sum();
        if rate == 0.0 {
            return Some(index);
        }
        let asked: u64 = others().map(|other| other.asked_bytes).sum();
        let theirs = (self.free_bytes + asked) as f64 / rate;
        let nearest = others().map(|other| other.pace.rtt).min().unwrap_or_default();
        let len = u64::from(self.items[index].len);
        let mine = source.finish(len);
        // Whoever has it first takes it in any case: else all might leave it to the others.
        let best = || others().all(|other| mine <= other.finish(len));
        (mine <= theirs + nearest.as_secs_f64() || best()).then_some(index)
    }

    /// An item that another source was asked for and that this one would have sooner.
    fn next_late(&self, id: SourceId, now: Instant) -> Option<usize> {
        let source = &self.sources[&id];
        let open = |index: &&usize| {
            matches!(self.items[**index].state, State::Asked(_, None))
                && !source.lacks.contains(index)
        };
        let others = || self.sources.iter().filter(|(other, _)| **other != id);
        // All that a late one was asked for is looked for elsewhere, what is due first at first.
        let late = others().filter(|(_, other)| other.is_late(&self.items, now));
        if let Some(index) = late.flat_map(|(_, other)| &other.asked).find(open) {
            return Some(*index);
        }
        // As long as there is something else to do, whoever can do it is not disturbed.
        if self.free_bytes > 0 {
            return None;
        }
        // When something claimed comes is not known, as long as it is not late.
        let timed = |index: &&usize| open(index) && !self.items[**index].claimed;
        let (finish, last) = others()
            .filter_map(|(_, other)| Some((other.finish(0), other.asked.iter().rev().find(timed)?)))
            .max_by(|a, b| a.0.total_cmp(&b.0))?;
        let mine = source.finish(u64::from(self.items[*last].len));
        (finish > SOON.as_secs_f64() && mine < SOONER * finish).then_some(*last)
    }

    fn ask(&mut self, index: usize, id: SourceId, now: Instant) {
        let item = &mut self.items[index];
        let len = u64::from(item.len);
        item.state = match item.state {
            State::Asked(first, None) => State::Asked(first, Some(id)),
            _ => {
                self.free_bytes -= len;
                State::Asked(id, None)
            }
        };
        self.unfile(index);
        if let Some(source) = self.sources.get_mut(&id) {
            if source.asked.is_empty() {
                source.quiet_since = now;
            }
            source.asked.push_back(index);
            source.asked_bytes += len;
        }
    }

    /// The source will not send an item that it was asked for.
    fn unask(&mut self, index: usize, id: SourceId) {
        let item = &mut self.items[index];
        item.state = match item.state {
            State::Asked(first, Some(second)) if first == id => State::Asked(second, None),
            State::Asked(first, Some(second)) if second == id => State::Asked(first, None),
            State::Asked(first, None) if first == id => {
                return self.release(index);
            }
            state => state,
        };
    }

    fn release(&mut self, index: usize) {
        let item = &mut self.items[index];
        item.state = State::Free;
        item.claimed = false;
        self.free_bytes += u64::from(item.len);
        self.file(index);
    }

    /// Puts a free item where it belongs.
    fn file(&mut self, index: usize) {
        let item = self.items[index];
        if item.state != State::Free {
            return;
        }
        self.unfile(index);
        if item.lacking == 0 {
            self.free.insert(index);
            return;
        }
        for source in self.sources.values_mut().filter(|source| !source.lacks.contains(&index)) {
            source.scarce.insert(index);
        }
    }

    fn unfile(&mut self, index: usize) {
        if !self.free.remove(&index) {
            for source in self.sources.values_mut() {
                source.scarce.remove(&index);
            }
        }
    }

    fn done(&mut self, index: usize) -> bool {
        let Some(item) = self.items.get_mut(index) else { return false };
        let len = item.len;
        match std::mem::replace(&mut item.state, State::Done) {
            State::Done => return false,
            State::Free => {
                self.free_bytes -= u64::from(len);
                self.unfile(index);
            }
            // Who else was asked for it still sends it, and is taken to until it has.
            State::Asked(..) => {}
        }
        for source in self.sources.values_mut() {
            source.lacks.remove(&index);
        }
        self.left -= 1;
        self.left_bytes -= u64::from(len);
        true
    }
}

#[cfg(test)]
mod tests;
