//! A figure over the last minutes, as a line of bars.

use std::{collections::VecDeque, time::Duration};

/// Most bars of a trend.
pub(crate) const CELLS: usize = 30;
/// The time of one bar, unless the figure is taken more rarely: together three minutes, in which
/// one sees how a link behaves now and what it did before.
const CELL: Duration = Duration::from_secs(6);
/// The bars, lowest first.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// The least difference between lowest and highest bar, as a share of the highest: what varies by
/// less is shown as even.
const LEAST_SPAN: f64 = 0.2;

/// The mean of a figure in each of the last spans of time.
#[derive(Clone, Debug)]
pub(crate) struct Trend {
    /// How many samples make a bar.
    per_cell: u32,
    /// Samples of the last bar so far.
    samples: u32,
    /// Sum and number of the known samples of each bar, oldest first.
    cells: VecDeque<(f64, u32)>,
}

impl Trend {
    /// A trend of samples that are taken at this interval.
    pub(crate) fn new(interval: Duration) -> Self {
        let per_cell = CELL.as_secs_f64() / interval.as_secs_f64().max(1e-3);
        let per_cell = per_cell.round().max(1.0) as u32;
        Self { per_cell, samples: per_cell, cells: VecDeque::with_capacity(CELLS) }
    }

    /// Adds a sample; `None` when there was nothing to be measured.
    pub(crate) fn push(&mut self, value: Option<f64>) {
        if self.samples == self.per_cell {
            self.samples = 0;
            if self.cells.len() == CELLS {
                self.cells.pop_front();
            }
            self.cells.push_back((0.0, 0));
        }
        self.samples += 1;
        if let (Some(value), Some(cell)) = (value.filter(|v| v.is_finite()), self.cells.back_mut())
        {
            *cell = (cell.0 + value, cell.1 + 1);
        }
    }

    /// The last `cells` bars, blank where nothing was measured, and at the left before the first.
    pub(crate) fn bars(&self, cells: usize) -> String {
        let skipped = self.cells.len().saturating_sub(cells);
        let mean = |(sum, count): &(f64, u32)| (*count > 0).then(|| sum / f64::from(*count));
        let means: Vec<_> = self.cells.iter().skip(skipped).map(mean).collect();
        let known = || means.iter().flatten().copied();
        let (low, high) = (known().fold(f64::INFINITY, f64::min), known().fold(0.0, f64::max));
        let span = (high - low).max(high * LEAST_SPAN);
        let bar = |mean: &Option<f64>| match mean {
            None => ' ',
            // Nothing but zeros.
            Some(_) if span <= 0.0 => BARS[0],
            Some(mean) => {
                let step = (mean - low) / span * (BARS.len() - 1) as f64;
                BARS[(step.round() as usize).min(BARS.len() - 1)]
            }
        };
        std::iter::repeat_n(' ', cells.saturating_sub(means.len()))
            .chain(means.iter().map(bar))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trend(values: impl IntoIterator<Item = Option<f64>>) -> Trend {
        let mut trend = Trend::new(CELL);
        values.into_iter().for_each(|value| trend.push(value));
        trend
    }

    #[test]
    fn bars_show_what_rises_and_falls_and_what_is_not_known() {
        let values = [Some(50.0), Some(100.0), None, Some(150.0), Some(f64::NAN), Some(50.0)];
        assert_eq!(trend(values).bars(8), "  ▁▅ █ ▁");
        assert_eq!(trend(values).bars(3), "█ ▁");
        assert_eq!(trend([]).bars(2), "  ");
        assert_eq!(trend([Some(0.0), Some(0.0)]).bars(2), "▁▁");
    }

    #[test]
    fn noise_looks_like_noise() {
        assert_eq!(trend([50.0, 50.4, 49.8].map(Some)).bars(3), "▁▁▁");
    }

    #[test]
    fn a_bar_is_the_mean_of_its_time_and_old_ones_go() {
        let mut trend = Trend::new(CELL / 3);
        [10.0, 20.0, 30.0, 0.0].iter().for_each(|value| trend.push(Some(*value)));
        assert_eq!(trend.bars(2), "█▁");
        for _ in 0..1000 {
            trend.push(Some(1.0));
        }
        assert_eq!(trend.bars(100).trim_start().chars().count(), CELLS);
    }
}
