//! What leaves: asking for what is missing, and the messages.

use super::{Gossip, MAX_IDS, MAX_MESSAGE, Message, message, missing::patience};
use crate::peer::PeerId;
use std::time::Instant;

impl Gossip {
    pub(super) fn ask_for_missing(&mut self, now: Instant) {
        while let Some(due) = self.missing.poll(now) {
            if let Some(silent) = due.silent.and_then(|silent| self.neighbours.get_mut(&silent)) {
                silent.silences = silent.silences.saturating_add(1);
            }
            if due.announcers.is_empty() {
                self.counters.gave_up += 1;
                continue;
            }
            let known = due.announcers.iter().filter_map(|peer| {
                let neighbour = self.neighbours.get(peer)?;
                (neighbour.want.len() < MAX_IDS).then(|| (neighbour.rank(now), *peer))
            });
            let Some((_, peer)) = known.min() else {
                self.missing.ask(due.id, None, now);
                continue;
            };
            if let Some(neighbour) = self.neighbours.get_mut(&peer) {
                neighbour.want.push(due.id);
                let until = now + patience(neighbour.rtt, self.config.pace);
                let refuses = neighbour.refuses_until.is_some_and(|until| now < until);
                self.missing.ask(due.id, Some(peer), until);
                self.counters.asked += 1;
                if !refuses && self.is_pilot(due.id, now) {
                    self.graft(&peer);
                }
            }
        }
    }

    /// What goes to a neighbour that is ready; empty when it knows all.
    pub(super) fn compose(&mut self, peer: &PeerId, now: Instant) -> Option<Message> {
        let neighbour = self.neighbours.get_mut(peer)?;
        let mut first = self.memory.end();
        let mut message = Message {
            prune: std::mem::take(&mut neighbour.prune),
            graft: std::mem::take(&mut neighbour.graft),
            want: std::mem::take(&mut neighbour.want),
            ..Message::default()
        };
        if neighbour.tell_at.is_some_and(|at| at <= now) {
            first = neighbour.told;
            (message.have, neighbour.told) =
                self.memory.tell(neighbour.told, neighbour.slot, MAX_IDS);
            let rest = neighbour.told < self.memory.end();
            neighbour.tell_at = rest.then_some(now + self.config.pace);
            self.counters.announced += message.have.len() as u64;
        }
        let mut room = MAX_MESSAGE - message.wire_len();
        while let Some(&id) = neighbour.answers.front() {
            let Some(body) = self.memory.body(&id).cloned() else {
                neighbour.answers.pop_front();
                continue;
            };
            let cost = message::cost(&body);
            if cost > room || !neighbour.answer_bucket.take(cost as u64, now) {
                break;
            }
            neighbour.answers.pop_front();
            self.memory.mark(&id, neighbour.slot);
            room -= cost;
            message.rumours.push(body);
            self.counters.answered += 1;
        }
        while let Some(queued) = neighbour.pop(room) {
            room -= message::cost(&queued.body);
            first = first.min(queued.place);
            message.rumours.push(queued.body);
        }
        neighbour.paced = now + self.config.pace;
        if !message.is_empty() {
            neighbour.in_flight.push_back(first);
        }
        Some(message)
    }
}
