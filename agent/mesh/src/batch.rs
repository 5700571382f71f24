//! Announcements that wait to be gossiped together.

use netbuild_proto::membership::{Held, MAX_HELD};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Most records that wait: sixteen full messages, a second of the fastest build. What is more comes
/// to light when the members compare what they hold.
const MAX_PENDING: usize = 16 * MAX_HELD;

/// Records that are to be announced.
#[derive(Debug)]
pub(crate) struct Batch {
    window: Duration,
    pending: VecDeque<Held>,
    due: Option<Instant>,
}

impl Batch {
    pub(crate) fn new(window: Duration) -> Self {
        Self { window, pending: VecDeque::new(), due: None }
    }

    /// Adds records; says how many had no room.
    pub(crate) fn add(&mut self, held: Vec<Held>, now: Instant) -> usize {
        let total = held.len();
        let room = MAX_PENDING - self.pending.len();
        self.pending.extend(held.into_iter().take(room));
        self.schedule(now + self.window);
        total.saturating_sub(room)
    }

    /// Makes everything due now.
    pub(crate) fn flush(&mut self, now: Instant) {
        self.schedule(now);
    }

    /// The next message, when it is full or due.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Vec<Held>> {
        let due = self.due?;
        if now < due && self.pending.len() < MAX_HELD {
            return None;
        }
        let count = self.pending.len().min(MAX_HELD);
        let message = self.pending.drain(..count).collect();
        if self.pending.is_empty() {
            self.due = None;
        }
        Some(message)
    }

    /// When [`Self::poll`] has something.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.due
    }

    fn schedule(&mut self, at: Instant) {
        if !self.pending.is_empty() {
            self.due = Some(self.due.map_or(at, |due| due.min(at)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::{hlc::Hlc, key::ActionKey};
    use proptest::prelude::*;

    const WINDOW: Duration = Duration::from_millis(100);

    fn held(count: usize) -> Vec<Held> {
        let one = Held { key: ActionKey([1; 32]), hlc: Hlc(2), sum: 3, build_ms: 4, bytes: 5 };
        vec![one; count]
    }

    #[test]
    fn records_of_one_window_share_a_message() {
        let (mut batch, now) = (Batch::new(WINDOW), Instant::now());
        batch.add(held(2), now);
        batch.add(held(3), now + WINDOW / 2);
        assert_eq!(batch.poll(now + WINDOW / 2), None);
        assert_eq!(batch.next_timeout(), Some(now + WINDOW));
        assert_eq!(batch.poll(now + WINDOW).unwrap().len(), 5);
        assert_eq!(batch.next_timeout(), None);
    }

    #[test]
    fn a_full_message_and_a_flush_do_not_wait() {
        let (mut batch, now) = (Batch::new(WINDOW), Instant::now());
        batch.add(held(MAX_HELD + 1), now);
        assert_eq!(batch.poll(now).unwrap().len(), MAX_HELD);
        assert_eq!(batch.poll(now), None);
        batch.flush(now);
        assert_eq!(batch.poll(now).unwrap().len(), 1);
        batch.flush(now);
        assert_eq!(batch.poll(now + WINDOW), None);
    }

    proptest! {
        #[test]
        fn every_record_is_sent_or_counted(sizes in prop::collection::vec(0usize..4000, 0..20)) {
            let (mut batch, now) = (Batch::new(WINDOW), Instant::now());
            let (mut sent, mut dropped) = (0, 0);
            for size in &sizes {
                dropped += batch.add(held(*size), now);
                if let Some(message) = batch.poll(now) {
                    prop_assert!(message.len() <= MAX_HELD);
                    sent += message.len();
                }
                prop_assert!(batch.pending.len() <= MAX_PENDING);
            }
            batch.flush(now);
            while let Some(message) = batch.poll(now) {
                sent += message.len();
            }
            prop_assert_eq!(sent + dropped, sizes.iter().sum::<usize>());
            prop_assert_eq!(batch.next_timeout(), None);
        }
    }
}
