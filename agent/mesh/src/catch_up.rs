//! Reading all that one member holds, page by page.
//!
//! A page is asked for only when there is room for it, so a slow user of the events slows the reading
//! and loses nothing. A member that does not keep the order of keys could make it endless, so its
//! pages are refused.

use netbuild_core::key::ActionKey;
use netbuild_proto::membership::{Held, MAX_HELD};
use std::time::{Duration, Instant};

/// Most pages of one catch-up: ten million records, more than an index is made for.
const MAX_PAGES: u32 = 10_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Nothing is asked until then; it begins with the first key.
    Waiting { due: Instant },
    /// The next page is asked for then.
    Ready { due: Instant },
    /// A page was asked for under this number.
    Asking { number: u64 },
}

/// What a page meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    /// It answers nothing that is still asked.
    Stale,
    /// There are more.
    More,
    /// It was the last.
    Complete,
    /// It broke the order of keys, or there are too many; nothing of it counts.
    Disorder,
}

/// The reading of one member.
#[derive(Debug)]
pub(crate) struct CatchUp {
    interval: Duration,
    retry: Duration,
    phase: Phase,
    after: Option<ActionKey>,
    pages: u32,
    /// Something was missed that this reading may have passed already.
    again: bool,
}

impl CatchUp {
    /// A reading that begins at once.
    pub(crate) fn new(interval: Duration, retry: Duration, now: Instant) -> Self {
        Self {
            interval,
            retry,
            phase: Phase::Ready { due: now },
            after: None,
            pages: 0,
            again: false,
        }
    }

    /// Reads everything again, after what is being read now.
    pub(crate) fn restart(&mut self, now: Instant) {
        match self.phase {
            Phase::Waiting { .. } => self.phase = Phase::Waiting { due: now },
            Phase::Ready { .. } | Phase::Asking { .. } => self.again = true,
        }
    }

    /// The key after which the next page is to be asked for, under `number`, if it is time.
    pub(crate) fn poll(&mut self, now: Instant, number: u64) -> Option<Option<ActionKey>> {
        match self.phase {
            Phase::Asking { .. } => return None,
            Phase::Waiting { due } | Phase::Ready { due } if now < due => return None,
            Phase::Waiting { .. } => self.begin(),
            Phase::Ready { .. } => {}
        }
        self.phase = Phase::Asking { number };
        Some(self.after)
    }

    /// When [`Self::poll`] has something.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Waiting { due } | Phase::Ready { due } => Some(due),
            Phase::Asking { .. } => None,
        }
    }

    /// Takes the page that was asked for under `number`.
    pub(crate) fn handle_page(&mut self, number: u64, page: &[Held], now: Instant) -> Progress {
        if self.phase != (Phase::Asking { number }) {
            return Progress::Stale;
        }
        let mut last = self.after;
        for held in page {
            if last.is_some_and(|last| held.key <= last) {
                return self.fail(now);
            }
            last = Some(held.key);
        }
        self.after = last;
        if page.len() < MAX_HELD {
            let pause = if self.again { Duration::ZERO } else { self.interval };
            self.phase = Phase::Waiting { due: now + pause };
            return Progress::Complete;
        }
        self.pages += 1;
        if self.pages >= MAX_PAGES {
            return self.fail(now);
        }
        self.phase = Phase::Ready { due: now };
        Progress::More
    }

    /// Takes note that the question with this number got no answer; it is asked again later.
    pub(crate) fn handle_failure(&mut self, number: u64, now: Instant) {
        if self.phase == (Phase::Asking { number }) {
            let due = now + self.retry;
            self.phase = Phase::Ready { due };
        }
    }

    fn fail(&mut self, now: Instant) -> Progress {
        let due = now + self.interval;
        self.phase = Phase::Waiting { due };
        Progress::Disorder
    }

    fn begin(&mut self) {
        (self.after, self.pages, self.again) = (None, 0, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::hlc::Hlc;
    use proptest::prelude::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const SECOND: Duration = Duration::from_secs(1);

    fn key(n: u32) -> ActionKey {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        ActionKey(bytes)
    }

    fn page(from: u32, count: u32) -> Vec<Held> {
        (from..from + count).map(|n| Held { key: key(n), hlc: Hlc(1) }).collect()
    }

    const FULL: u32 = 1000;

    #[test]
    fn pages_follow_one_another_until_a_short_one() {
        let now = Instant::now();
        let mut reading = CatchUp::new(HOUR, SECOND, now);
        assert_eq!(reading.poll(now, 1), Some(None));
        assert_eq!(reading.poll(now, 2), None);
        assert_eq!(reading.handle_page(1, &page(0, FULL), now), Progress::More);
        assert_eq!(reading.poll(now, 2), Some(Some(key(FULL - 1))));
        assert_eq!(reading.handle_page(2, &page(FULL, 3), now), Progress::Complete);
        assert_eq!(reading.next_timeout(), Some(now + HOUR));
        assert_eq!(reading.poll(now + HOUR, 3), Some(None));
    }

    #[test]
    fn a_failed_page_is_asked_for_again_and_its_late_answer_is_stale() {
        let now = Instant::now();
        let mut reading = CatchUp::new(HOUR, SECOND, now);
        reading.poll(now, 1);
        reading.handle_failure(1, now);
        assert_eq!(reading.handle_page(1, &page(0, 1), now), Progress::Stale);
        assert_eq!(reading.poll(now, 2), None);
        assert_eq!(reading.poll(now + SECOND, 2), Some(None));
    }

    #[test]
    fn what_was_missed_meanwhile_is_read_again_at_once() {
        let now = Instant::now();
        let mut reading = CatchUp::new(HOUR, SECOND, now);
        reading.poll(now, 1);
        reading.restart(now);
        assert_eq!(reading.handle_page(1, &[], now), Progress::Complete);
        assert_eq!(reading.poll(now, 2), Some(None));
        assert_eq!(reading.handle_page(2, &[], now), Progress::Complete);
        assert_eq!(reading.poll(now, 3), None);
        reading.restart(now);
        assert_eq!(reading.poll(now, 3), Some(None));
    }

    #[test]
    fn a_member_that_turns_in_circles_is_given_up() {
        let now = Instant::now();
        let mut reading = CatchUp::new(HOUR, SECOND, now);
        reading.poll(now, 1);
        reading.handle_page(1, &page(0, FULL), now);
        reading.poll(now, 2);
        assert_eq!(reading.handle_page(2, &page(0, FULL), now), Progress::Disorder);
        assert_eq!(reading.poll(now + SECOND, 3), None);
    }

    proptest! {
        /// However often pages fail, a reading that completes has brought every record.
        #[test]
        fn a_complete_reading_is_complete(
            total in 0u32..4500,
            failures in prop::collection::vec(any::<bool>(), 0..12),
        ) {
            let all = page(0, total);
            let (mut now, mut number) = (Instant::now(), 0);
            let mut reading = CatchUp::new(HOUR, SECOND, now);
            let (mut got, mut failures) = (Vec::new(), failures.into_iter());
            loop {
                number += 1;
                let Some(after) = reading.poll(now, number) else {
                    now = reading.next_timeout().unwrap();
                    continue;
                };
                if failures.next() == Some(true) {
                    reading.handle_failure(number, now);
                    continue;
                }
                let rest = all.iter().filter(|held| after.is_none_or(|after| held.key > after));
                let page: Vec<Held> = rest.take(MAX_HELD).copied().collect();
                got.extend_from_slice(&page);
                if reading.handle_page(number, &page, now) == Progress::Complete {
                    break;
                }
            }
            prop_assert_eq!(got, all);
        }
    }
}
