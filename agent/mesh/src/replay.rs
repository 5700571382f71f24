//! Windows of sequence numbers, so that a gossip message counts once.
//!
//! The tree that carries rumours forgets what it has seen after some minutes; a rumour that is sent
//! again later would be fresh to it. Signed sequence numbers start at the sender's wall clock and grow
//! by one, so a sliding window per sender tells old from late.

use crate::roster::MAX_KNOWN;
use netbuild_core::peer::PeerId;
use std::collections::HashMap;

/// Numbers behind the highest that are still told apart: an agent says some ten things in a second, and
/// a slow way may hold them back for a minute and a half.
const WINDOW: u64 = 1024;
/// Most senders remembered: twice the members that there can be, so that a former member is still
/// known for a while.
const MAX_SENDERS: usize = 2 * MAX_KNOWN;

const WORDS: usize = 16;
const _: () = assert!(WINDOW == 64 * WORDS as u64);

#[derive(Clone, Copy)]
struct Window {
    highest: u64,
    /// Number `n` has bit `n` modulo the window; the bits of the last [`WINDOW`] numbers are valid.
    seen: [u64; WORDS],
    /// Of what replaces what was said before, the latest.
    latest: u64,
}

impl Window {
    fn place(number: u64) -> (usize, u64) {
        let bit = number % WINDOW;
        (usize::try_from(bit / 64).unwrap_or(0), 1 << (bit % 64))
    }

    fn has(&self, number: u64) -> bool {
        let (word, bit) = Self::place(number);
        self.seen[word] & bit != 0
    }

    fn add(&mut self, number: u64) {
        if number > self.highest {
            if number - self.highest >= WINDOW {
                self.seen = [0; WORDS];
            } else {
                for between in self.highest + 1..number {
                    let (word, bit) = Self::place(between);
                    self.seen[word] &= !bit;
                }
            }
            self.highest = number;
        }
        if self.highest - number < WINDOW {
            let (word, bit) = Self::place(number);
            self.seen[word] |= bit;
        }
    }

    fn age(&self, number: u64) -> Age {
        if number > self.highest {
            return Age::New;
        }
        match self.highest - number {
            WINDOW.. => Age::Old,
            _ if self.has(number) => Age::Seen,
            _ => Age::New,
        }
    }
}

/// Whether a number counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Age {
    /// It was not seen yet.
    New,
    /// It was seen a short while ago.
    Seen,
    /// It is too far behind the others to tell.
    Old,
}

/// What was seen of every sender.
#[derive(Default)]
pub(crate) struct Replays(HashMap<PeerId, Window>);

impl Replays {
    /// Whether a message of this number would count.
    pub(crate) fn age(&self, sender: &PeerId, sequence: u64) -> Age {
        self.0.get(sender).map_or(Age::New, |window| window.age(sequence))
    }

    /// The highest number of a sender; 0 when nothing is known of it.
    pub(crate) fn highest(&self, sender: &PeerId) -> u64 {
        self.0.get(sender).map_or(0, |window| window.highest)
    }

    /// Takes note of a message; `false` when it was seen before or is too old to tell.
    pub(crate) fn is_new(&mut self, sender: PeerId, sequence: u64) -> bool {
        let window = self.window(sender, sequence);
        let new = window.age(sequence) == Age::New;
        window.add(sequence);
        new
    }

    /// Takes note of a message that replaces those of its kind before it; `false` when it is not later
    /// than these, however old it is otherwise.
    pub(crate) fn is_latest(&mut self, sender: PeerId, sequence: u64) -> bool {
        let window = self.window(sender, sequence);
        let later = sequence > window.latest;
        window.latest = window.latest.max(sequence);
        window.add(sequence);
        later
    }

    fn window(&mut self, sender: PeerId, first: u64) -> &mut Window {
        if !self.0.contains_key(&sender) {
            self.make_room();
        }
        // What came before the first that is heard may still be on its way.
        let fresh = Window { highest: first, seen: [0; WORDS], latest: 0 };
        self.0.entry(sender).or_insert(fresh)
    }

    /// Forgets the sender whose last message is oldest when there are too many.
    fn make_room(&mut self) {
        if self.0.len() < MAX_SENDERS {
            return;
        }
        let oldest = self.0.iter().min_by_key(|(_, window)| window.highest);
        if let Some(sender) = oldest.map(|(sender, _)| *sender) {
            self.0.remove(&sender);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn sender(number: usize) -> PeerId {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.to_be_bytes());
        PeerId(id)
    }

    #[test]
    fn senders_do_not_share_a_window_and_are_bounded() {
        let mut replays = Replays::default();
        for number in 0..=MAX_SENDERS {
            assert!(replays.is_new(sender(number), 1000 + number as u64));
        }
        assert_eq!(replays.0.len(), MAX_SENDERS);
        assert!(!replays.is_new(sender(9), 1009));
    }

    proptest! {
        #[test]
        fn every_number_counts_at_most_once(
            numbers in prop::collection::vec(prop_oneof![0u64..400, any::<u64>()], 1..200),
        ) {
            let (mut replays, mut counted) = (Replays::default(), BTreeSet::new());
            let sender = PeerId([1; 32]);
            let mut highest = None;
            for number in numbers {
                let age = replays.age(&sender, number);
                let new = replays.is_new(sender, number);
                prop_assert_eq!(new, age == Age::New);
                prop_assert!(!new || counted.insert(number), "{} counted twice", number);
                let recent = highest.is_none_or(|highest: u64| highest.saturating_sub(number) < WINDOW);
                prop_assert!(new || !recent || counted.contains(&number), "{} was lost", number);
                highest = highest.max(Some(number));
            }
        }
    }
}
