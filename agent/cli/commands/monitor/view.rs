//! What the monitor shows: the regions, with figures of now and of the last minutes.

use crate::{
    commands::peers::look,
    table::{Align, Cell, Look, Style, Table},
    text::{clean, count, known, millis, percent, rate, region, size},
    trend::{self, Trend},
};
use netbuild_proto::control::{MonitorRow, MonitorSnapshot};
use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

/// Bars of a trend on a terminal that is too narrow for all.
const FEW_CELLS: usize = 10;
/// What is shown, from wide to narrow.
const LAYOUTS: [Layout; 4] = [
    Layout { cells: trend::CELLS, details: true },
    Layout { cells: FEW_CELLS, details: true },
    Layout { cells: FEW_CELLS, details: false },
    Layout { cells: 0, details: false },
];

/// Which columns there are.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// Bars of each trend; without any there are no trends.
    cells: usize,
    /// Also what one rarely looks for.
    details: bool,
}

/// The latest snapshot and what came before.
#[derive(Debug)]
pub(super) struct View {
    interval: Duration,
    latest: MonitorSnapshot,
    /// Round-trip time and bandwidth of each region.
    trends: BTreeMap<String, [Trend; 2]>,
    /// Why there is no newer snapshot.
    lost: Option<String>,
}

impl View {
    /// A view of snapshots that are taken at this interval.
    pub(super) fn new(interval: Duration) -> Self {
        let (latest, trends) = (MonitorSnapshot::default(), BTreeMap::new());
        Self { interval, latest, trends, lost: None }
    }

    /// Takes in the next snapshot.
    pub(super) fn observe(&mut self, mut snapshot: MonitorSnapshot) {
        snapshot.rows.sort_by(|one, other| key(one).cmp(&key(other)));
        self.trends.retain(|name, _| snapshot.rows.iter().any(|row| row.region == *name));
        for row in &snapshot.rows {
            let new = || [Trend::new(self.interval), Trend::new(self.interval)];
            let [rtt, bandwidth] = self.trends.entry(row.region.clone()).or_insert_with(new);
            rtt.push(row.rtt_ms);
            bandwidth.push(row.goodput.map(|bytes| bytes as f64));
        }
        (self.latest, self.lost) = (snapshot, None);
    }

    /// Notes that there is no snapshot.
    pub(super) fn lost(&mut self, why: &str) {
        self.lost = Some(clean(why).into_owned());
    }

    /// All of it without trends, for paper.
    pub(super) fn to_text(&self, style: Style) -> String {
        let table = self.table(Layout { cells: 0, details: true }).to_text(style);
        format!("{}\n{table}", self.headline())
    }

    /// The lines for a terminal of this size.
    pub(super) fn lines(&self, width: usize, height: usize, style: Style) -> Vec<String> {
        let cells = |layout: &Layout| if style.unicode { layout.cells } else { 0 };
        let tables =
            || LAYOUTS.iter().map(|layout| self.table(Layout { cells: cells(layout), ..*layout }));
        let table = tables().find(|table| table.width() <= width).or_else(|| tables().next_back());
        let headline = match &self.lost {
            Some(why) => Look::Red.paint(&cut(why, width), style),
            None => cut(&self.headline(), width),
        };
        let mut lines = vec![headline, String::new()];
        lines.extend(table.map(|table| table.lines(style, width)).unwrap_or_default());
        if lines.len() > height {
            let hidden = count((lines.len() - height + 1) as u64, "more region");
            lines.truncate(height.saturating_sub(1));
            lines.push(cut(&hidden, width));
        }
        lines.truncate(height);
        lines
    }

    fn headline(&self) -> String {
        let MonitorSnapshot { region: own, primary, records, conflicts, .. } = &self.latest;
        let primary = known(primary.as_deref(), |name| region(name).to_owned());
        let (records, conflicts) = (count(*records, "record"), count(*conflicts, "conflict"));
        clean(&format!("region {}, primary {primary}, {records}, {conflicts}", region(own)))
            .into_owned()
    }

    /// The regions.
    fn table(&self, Layout { cells, details }: Layout) -> Table {
        let trend = ("trend", Align::Left, cells > 0);
        let detail = |name: &'static str| (name, Align::Right, details);
        let left = |name: &'static str| (name, Align::Left, true);
        let right = |name: &'static str| (name, Align::Right, true);
        let columns = [
            left("region"),
            right("order"),
            left("state"),
            right("agents"),
            right("RTT"),
            trend,
            right("bandwidth"),
            trend,
            detail("loss"),
            right("hit rate"),
            detail("hits"),
            right("queue"),
            detail("in"),
            detail("out"),
        ];
        let shown = |index: usize| columns.get(index).is_some_and(|(_, _, shown)| *shown);
        let mut table = Table::new(
            columns.iter().filter(|(.., shown)| *shown).map(|(name, align, _)| (*name, *align)),
        );
        for row in &self.latest.rows {
            let bars = |index: usize| {
                let trends = self.trends.get(&row.region);
                trends.map(|trends| trends[index].bars(cells)).unwrap_or_default()
            };
            let name = Cell::from(region(&row.region));
            let all: [Cell; 14] = [
                if row.this { name.look(Look::Bold) } else { name },
                if row.this {
                    "here".into()
                } else {
                    known(row.order, |place| place.to_string()).into()
                },
                Cell::from(row.state.as_str()).look(look(row.state)),
                row.agents.to_string().into(),
                known(row.rtt_ms, millis).into(),
                bars(0).into(),
                known(row.goodput, rate).into(),
                bars(1).into(),
                known(row.loss, percent).into(),
                known(row.hit_rate, percent).into(),
                row.hits.to_string().into(),
                row.queue.to_string().into(),
                size(row.bytes_in).into(),
                size(row.bytes_out).into(),
            ];
            table.row(
                all.into_iter()
                    .enumerate()
                    .filter(|(index, _)| shown(*index))
                    .map(|(_, cell)| cell),
            );
        }
        table
    }
}

/// The own region first, then the others as they are asked, then those that are not.
fn key(row: &MonitorRow) -> (Reverse<bool>, u32, &str) {
    (Reverse(row.this), row.order.unwrap_or(u32::MAX), &row.region)
}

fn cut(text: &str, width: usize) -> String {
    text.chars().take(width).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_proto::control::PeerState;

    const UNICODE: Style = Style { colour: false, unicode: true };

    fn snapshot(rtt_ms: f64) -> MonitorSnapshot {
        let own = MonitorRow {
            region: "eu-central".into(),
            agents: 1,
            this: true,
            ..MonitorRow::default()
        };
        let primary = MonitorRow {
            region: "us-east".into(),
            agents: 3,
            rtt_ms: Some(rtt_ms),
            goodput: Some(3_000_000),
            loss: Some(0.001),
            hit_rate: Some(0.987),
            hits: 420,
            bytes_in: 33_000_000,
            queue: 2,
            order: Some(1),
            ..MonitorRow::default()
        };
        let away = MonitorRow {
            region: "us-west".into(),
            state: PeerState::Away,
            ..MonitorRow::default()
        };
        MonitorSnapshot {
            at_ms: 0,
            region: "eu-central".into(),
            primary: Some("us-east".into()),
            rows: vec![away, primary, own],
            records: 1234,
            conflicts: 1,
        }
    }

    fn view() -> View {
        let mut view = View::new(Duration::from_secs(6));
        [150.0, 200.0, 150.0].map(snapshot).into_iter().for_each(|snapshot| view.observe(snapshot));
        view
    }

    #[test]
    fn regions_are_shown_in_their_order_with_aligned_figures() {
        assert_eq!(
            view().to_text(Style::default()),
            "region eu-central, primary us-east, 1234 records, 1 conflict\n\
             region      order  state  agents     RTT  bandwidth    loss  hit rate  hits  queue       in  out\n\
             eu-central   here  ok          1       -          -       -         -     0      0      0 B  0 B\n\
             us-east         1  ok          3  150 ms   3.0 MB/s  0.10 %      99 %   420      2  33.0 MB  0 B\n\
             us-west         -  away        0       -          -       -         -     0      0      0 B  0 B\n"
        );
    }

    #[test]
    fn trends_and_details_are_shown_where_there_is_room_for_them() {
        let header = |width| view().lines(width, 50, UNICODE)[2].clone();
        let wide = view().lines(200, 50, UNICODE);
        assert!(wide[4].contains("150 ms                             ▁█▁   3.0 MB/s"), "{wide:?}");
        assert!(view().lines(130, 50, UNICODE)[4].contains("150 ms         ▁█▁"));
        assert!(header(130).ends_with("out"), "{}", header(130));
        assert!(header(110).contains("trend") && header(110).ends_with("queue"));
        assert!(!header(80).contains("trend") && header(80).ends_with("queue"));
        let ascii = view().lines(200, 50, Style::default()).join("\n");
        assert!(ascii.is_ascii() && !ascii.contains("trend"), "{ascii}");
    }

    #[test]
    fn every_size_of_a_terminal_has_its_lines() {
        let mut view = view();
        for lost in [false, true] {
            for (width, height) in [(1, 1), (0, 0), (40, 3), (80, 24), (10, 4), (500, 500)] {
                let lines = view.lines(width, height, UNICODE);
                assert!(lines.len() <= height, "{lines:?}");
                assert!(lines.iter().all(|line| line.chars().count() <= width), "{lines:?}");
            }
            if !lost {
                view.lost("the agent\x1b[2J is gone");
            }
        }
        assert_eq!(view.lines(80, 4, UNICODE)[3], "3 more regions");
        assert_eq!(view.lines(80, 9, UNICODE)[0], "the agent\u{fffd}[2J is gone");
        view.observe(MonitorSnapshot::default());
        assert_eq!(view.lines(80, 9, UNICODE)[0], "region none, primary -, 0 records, 0 conflicts");
        assert!(view.trends.is_empty());
    }

    #[test]
    fn states_stand_out_only_where_there_are_colours() {
        let lines = view().lines(200, 50, Style { colour: true, unicode: true });
        assert!(lines[4].contains("\x1b[32mok\x1b[0m"), "{lines:?}");
        assert!(!view().lines(200, 50, UNICODE).join("").contains('\x1b'));
    }
}
