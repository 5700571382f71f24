//! What happens when.

use super::{AgentNo, records::Step};
use crate::gossip::Message;
use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
};

/// Virtual time since the start, in microseconds.
pub(super) type Micros = u64;

/// Something that will happen.
#[derive(Debug)]
pub(super) enum Event {
    Deliver { from: AgentNo, to: AgentNo, message: Box<Message> },
    Acked { by: AgentNo, to: AgentNo },
    Lost { from: AgentNo, to: AgentNo },
    Wake { agent: AgentNo },
    Broken { a: AgentNo, b: AgentNo },
    Review { agent: AgentNo },
    Presence { agent: AgentNo },
    Record,
    Flood { agent: AgentNo },
    Exchange { from: AgentNo, to: AgentNo, step: Box<Step> },
}

#[derive(Debug)]
struct Entry {
    at: Micros,
    /// Events of one time happen in the order in which they were planned.
    number: u64,
    event: Event,
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

/// The events to come.
#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: BinaryHeap<Reverse<Entry>>,
    planned: u64,
}

impl Queue {
    pub(super) fn push(&mut self, at: Micros, event: Event) {
        self.planned += 1;
        self.entries.push(Reverse(Entry { at, number: self.planned, event }));
    }

    /// The next event, if it happens before `end`.
    pub(super) fn pop_until(&mut self, end: Micros) -> Option<(Micros, Event)> {
        let next = self.entries.peek().is_some_and(|Reverse(entry)| entry.at < end);
        if !next {
            return None;
        }
        let Reverse(entry) = self.entries.pop()?;
        Some((entry.at, entry.event))
    }
}
