//! Windows of sequence numbers, so that a gossip message counts once.
//!
//! Gossipsub forgets what it has seen after a minute; a message that is sent again later would be
//! fresh to it. Its signed sequence numbers start at the sender's wall clock and grow by one, so a
//! sliding window per sender tells old from late.

use netbuild_core::peer::PeerId;
use std::collections::HashMap;

/// Numbers behind the highest that are still told apart: gossip arrives out of order by a few
/// messages, and a sender makes about ten in a second.
const WINDOW: u64 = 128;
/// Most senders remembered: several times the members that there can be, so that a former member is
/// still known for a while.
const MAX_SENDERS: usize = 256;

#[derive(Clone, Copy)]
struct Window {
    highest: u64,
    /// Bit `i` stands for `highest - i`.
    seen: u128,
}

/// What was seen of every sender.
#[derive(Default)]
pub(crate) struct Replays(HashMap<PeerId, Window>);

impl Replays {
    /// Takes note of a message; `false` when it was seen before or is too old to tell.
    pub(crate) fn is_new(&mut self, sender: PeerId, sequence: u64) -> bool {
        let Some(window) = self.0.get_mut(&sender) else {
            self.make_room();
            let window = Window { highest: sequence, seen: 1 };
            self.0.insert(sender, window);
            return true;
        };
        if sequence > window.highest {
            let ahead = sequence - window.highest;
            window.seen = match u32::try_from(ahead) {
                Ok(ahead) => window.seen.checked_shl(ahead).unwrap_or(0) | 1,
                Err(_) => 1,
            };
            window.highest = sequence;
            return true;
        }
        let behind = window.highest - sequence;
        if behind >= WINDOW || window.seen >> behind & 1 == 1 {
            return false;
        }
        window.seen |= 1 << behind;
        true
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

    #[test]
    fn senders_do_not_share_a_window_and_are_bounded() {
        let mut replays = Replays::default();
        for sender in 0..=u8::MAX {
            assert!(replays.is_new(PeerId([sender; 32]), 1000 + u64::from(sender)));
        }
        let mut more = [0; 32];
        more[0] = 1;
        assert!(replays.is_new(PeerId(more), 5000));
        assert_eq!(replays.0.len(), MAX_SENDERS);
        assert!(!replays.is_new(PeerId([9; 32]), 1009));
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
                let new = replays.is_new(sender, number);
                prop_assert!(!new || counted.insert(number), "{} counted twice", number);
                let recent = highest.is_none_or(|highest: u64| highest.saturating_sub(number) < WINDOW);
                prop_assert!(new || !recent || counted.contains(&number), "{} was lost", number);
                highest = highest.max(Some(number));
            }
        }
    }
}
