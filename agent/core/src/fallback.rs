//! What is tried next when a source did not give what it was asked for.
//!
//! A source that lacks the thing is not asked again; one that failed is left at once for the next.
//! Only when all have been tried is one of them tried again, after a pause of its own that doubles.
//! The last step is always the local build, which is no source: [`Fallback::next`] then says `None`.

use crate::health::{FIRST_PAUSE, LONGEST_PAUSE, backoff};
use std::time::Duration;

/// Most steps of a ladder.
pub const MAX_RUNGS: usize = 32;
/// Longest pause before a rung.
pub const MAX_RUNG_PAUSE: Duration = Duration::from_secs(300);

/// One rung of a fixed ladder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rung {
    /// Which region, counted from the primary as 0.
    pub rank: usize,
    /// Pause before it.
    pub pause: Duration,
}

/// The ladder that build caches have had for long: primary, primary again after 1 s, secondary
/// after 2 s and 4 s, tertiary after 8 s, then local only.
pub const CLASSICAL: [Rung; 5] = [
    Rung { rank: 0, pause: Duration::ZERO },
    Rung { rank: 0, pause: Duration::from_secs(1) },
    Rung { rank: 1, pause: Duration::from_secs(2) },
    Rung { rank: 1, pause: Duration::from_secs(4) },
    Rung { rank: 2, pause: Duration::from_secs(8) },
];

/// The next source to ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// Its place in the plan.
    pub step: usize,
    /// How long to wait before.
    pub pause: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Untried,
    Failed(u32),
    /// It has not got it, or said nothing useful to go on with.
    Out,
}

#[derive(Clone, Debug)]
enum Way {
    /// All in the order of the plan, `rounds` times.
    Adaptive { rounds: u32, dice: f64 },
    /// Fixed rungs, with the rank of each step's region.
    Ladder { rungs: Vec<Rung>, ranks: Vec<usize> },
}

/// The attempts at one thing.
#[derive(Clone, Debug)]
pub struct Fallback {
    way: Way,
    states: Vec<State>,
    rung: usize,
}

impl Fallback {
    /// Attempts at `steps` sources in the order of the plan, each up to `rounds` times. `dice` is a
    /// random number from 0 to 1, which varies the pauses.
    pub fn adaptive(steps: usize, rounds: u32, dice: f64) -> Self {
        let way = Way::Adaptive { rounds: rounds.max(1), dice };
        Self { way, states: vec![State::Untried; steps], rung: 0 }
    }

    /// Attempts by a fixed ladder. `ranks` says for each step of the plan which rank its region has.
    pub fn ladder(rungs: &[Rung], ranks: &[usize]) -> Self {
        let rungs = rungs.iter().take(MAX_RUNGS).copied().collect();
        let states = vec![State::Untried; ranks.len()];
        Self { way: Way::Ladder { rungs, ranks: ranks.to_vec() }, states, rung: 0 }
    }

    /// The plan has one more step at its end, which is asked at once.
    pub fn handle_joined(&mut self) {
        self.states.push(State::Untried);
        if let Way::Ladder { ranks, .. } = &mut self.way {
            // No rung is of it.
            ranks.push(usize::MAX);
        }
    }

    /// The step lacks what was asked for, or is not to be asked again for another reason.
    pub fn handle_missing(&mut self, step: usize) {
        if let Some(state) = self.states.get_mut(step) {
            *state = State::Out;
        }
    }

    /// The step failed.
    pub fn handle_failed(&mut self, step: usize) {
        if let Some(state) = self.states.get_mut(step) {
            *state = match *state {
                State::Untried => State::Failed(1),
                State::Failed(times) => State::Failed(times.saturating_add(1)),
                State::Out => State::Out,
            };
        }
    }

    /// What to try next; `None` when only the local build is left. A step that is under way must
    /// not be asked for twice: the caller says with `busy` which are.
    pub fn next(&mut self, busy: &dyn Fn(usize) -> bool) -> Option<Attempt> {
        match &self.way {
            Way::Adaptive { rounds, dice } => self.next_adaptive(*rounds, *dice, busy),
            Way::Ladder { .. } => self.next_rung(busy),
        }
    }

    fn next_adaptive(
        &self,
        rounds: u32,
        dice: f64,
        busy: &dyn Fn(usize) -> bool,
    ) -> Option<Attempt> {
        let free = || self.states.iter().enumerate().filter(|(step, _)| !busy(*step));
        if let Some((step, _)) = free().find(|(_, state)| **state == State::Untried) {
            return Some(Attempt { step, pause: Duration::ZERO });
        }
        let (step, failed) = free()
            .filter_map(|(step, state)| match state {
                State::Failed(times) if *times < rounds => Some((step, *times)),
                _ => None,
            })
            .min_by_key(|(step, times)| (*times, *step))?;
        Some(Attempt { step, pause: backoff(failed - 1, FIRST_PAUSE, LONGEST_PAUSE, dice) })
    }

    fn next_rung(&mut self, busy: &dyn Fn(usize) -> bool) -> Option<Attempt> {
        let Way::Ladder { rungs, ranks } = &self.way else { return None };
        while let Some(rung) = rungs.get(self.rung) {
            self.rung += 1;
            let usable = |step: &usize| {
                ranks[*step] == rung.rank && self.states[*step] != State::Out && !busy(*step)
            };
            if let Some(step) = (0..ranks.len()).find(usable) {
                return Some(Attempt { step, pause: rung.pause });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn idle(_: usize) -> bool {
        false
    }

    /// What is tried when everything fails: step and whole seconds of pause.
    fn trace(mut fallback: Fallback) -> Vec<(usize, u64)> {
        let mut trace = Vec::new();
        while let Some(attempt) = fallback.next(&idle) {
            trace.push((attempt.step, attempt.pause.as_secs()));
            fallback.handle_failed(attempt.step);
        }
        trace
    }

    #[test]
    fn a_failed_source_is_left_at_once_and_tried_again_after_a_pause() {
        assert_eq!(trace(Fallback::adaptive(3, 1, 0.5)), [(0, 0), (1, 0), (2, 0)]);
        assert_eq!(
            trace(Fallback::adaptive(2, 3, 0.5)),
            [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]
        );
        assert_eq!(trace(Fallback::adaptive(0, 3, 0.5)), []);
    }

    #[test]
    fn a_source_that_lacks_it_is_not_asked_again() {
        let mut fallback = Fallback::adaptive(2, 2, 0.5);
        fallback.handle_missing(0);
        assert_eq!(trace(fallback), [(1, 0), (1, 1)]);
    }

    #[test]
    fn the_classical_ladder_is_what_its_name_says() {
        let all = Fallback::ladder(&CLASSICAL, &[0, 1, 2]);
        assert_eq!(trace(all), [(0, 0), (0, 1), (1, 2), (1, 4), (2, 8)]);
        let mut missed = Fallback::ladder(&CLASSICAL, &[0, 1, 2]);
        missed.handle_missing(1);
        assert_eq!(trace(missed), [(0, 0), (0, 1), (2, 8)], "a region without it has no rung");
        assert_eq!(trace(Fallback::ladder(&CLASSICAL, &[1])), [(0, 2), (0, 4)]);
    }

    proptest! {
        #[test]
        fn attempts_end_and_never_repeat_what_is_busy(
            steps in 0usize..8, rounds in 0u32..5,
            outcomes in prop::collection::vec(0u8..3, 0..64),
        ) {
            let mut fallback = Fallback::adaptive(steps, rounds, 0.3);
            let mut busy = vec![false; steps];
            let mut asked = vec![0_u32; steps];
            for outcome in outcomes {
                let known = busy.clone();
                let Some(attempt) = fallback.next(&|step| known[step]) else { break };
                prop_assert!(!busy[attempt.step]);
                asked[attempt.step] += 1;
                match outcome {
                    0 => busy[attempt.step] = true,
                    1 => fallback.handle_missing(attempt.step),
                    _ => fallback.handle_failed(attempt.step),
                }
            }
            prop_assert!(asked.iter().all(|times| *times <= rounds.max(1)));
        }
    }
}
