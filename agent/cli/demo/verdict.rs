//! What a demo measured, and whether it is what it should be. Nothing here runs anything.

use crate::{
    table::{Align, Cell, Look, Style, Table},
    text::{percent, seconds, size},
};
use serde_json::{Value, json};

/// What a figure should be.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Target {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}

/// What a figure counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unit {
    /// One time divided by another.
    Ratio,
    Seconds,
    /// A part that was saved, from 0 to 1.
    Saved,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Ratio => "ratio",
            Self::Seconds => "seconds",
            Self::Saved => "saved",
        }
    }

    /// As precise as its targets are.
    fn show(self, value: f64) -> String {
        match self {
            Self::Ratio => format!("{value:.3}"),
            Self::Seconds => seconds(value),
            // Never more than it is: what was sent is not nothing.
            Self::Saved => format!("{:.1} %", (value * 1e3).floor() / 10.0),
        }
    }

    fn show_target(self, target: Target) -> String {
        let (word, value) = match target {
            Target::AtMost(most) => ("at most", most),
            Target::AtLeast(least) => ("at least", least),
        };
        match self {
            Self::Ratio => format!("{word} {value:.2}"),
            Self::Seconds => format!("{word} {value:.0} s"),
            Self::Saved => format!("{word} {:.0} %", value * 1e2),
        }
    }
}

/// One thing that was measured.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Figure {
    /// Its name for programs.
    pub(crate) name: &'static str,
    pub(crate) what: String,
    pub(crate) unit: Unit,
    pub(crate) value: f64,
    pub(crate) target: Option<Target>,
    /// What it was made of.
    pub(crate) detail: String,
}

impl Figure {
    /// A time beside another.
    pub(crate) fn ratio(
        (name, what): (&'static str, &str),
        (took, of): (f64, f64),
        target: Option<f64>,
    ) -> Self {
        Self {
            name,
            what: what.to_owned(),
            unit: Unit::Ratio,
            value: took / of.max(f64::MIN_POSITIVE),
            target: target.map(Target::AtMost),
            detail: format!("{} of {}", seconds(took), seconds(of)),
        }
    }

    /// Bytes that crossed a link instead of others.
    pub(crate) fn bytes_saved(
        (name, what): (&'static str, &str),
        (sent, whole): (u64, u64),
        least: f64,
    ) -> Self {
        Self {
            name,
            what: what.to_owned(),
            unit: Unit::Saved,
            value: 1.0 - sent as f64 / whole.max(1) as f64,
            target: Some(Target::AtLeast(least)),
            detail: format!("{} of {}", size(sent), size(whole)),
        }
    }

    /// A time instead of another.
    pub(crate) fn time_saved(
        (name, what): (&'static str, &str),
        (took, instead_of): (f64, f64),
        least: Option<f64>,
    ) -> Self {
        Self {
            name,
            what: what.to_owned(),
            unit: Unit::Saved,
            value: 1.0 - took / instead_of.max(f64::MIN_POSITIVE),
            target: least.map(Target::AtLeast),
            detail: format!("{} of {}", seconds(took), seconds(instead_of)),
        }
    }

    /// Whether it is what it should be; nothing where nobody says.
    pub(crate) fn is_met(&self) -> Option<bool> {
        self.target.map(|target| target.is_met(self.value))
    }

    fn to_json(&self) -> Value {
        let rounded = (self.value * 1e4).round() / 1e4;
        let target = self.target.map(|target| match target {
            Target::AtMost(most) => json!({ "at_most": most }),
            Target::AtLeast(least) => json!({ "at_least": least }),
        });
        json!({
            "name": self.name, "what": self.what, "unit": self.unit.name(), "value": rounded,
            "target": target, "met": self.is_met(), "detail": self.detail,
        })
    }
}

/// What a region did for the others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Region {
    pub(crate) name: String,
    /// Bytes that it sent to other agents.
    pub(crate) served: u64,
    pub(crate) requests: u64,
    pub(crate) fetched: u64,
}

/// All of a demo.
#[derive(Clone, Default, Debug)]
pub(crate) struct Verdict {
    pub(crate) figures: Vec<Figure>,
    pub(crate) regions: Vec<Region>,
}

impl Verdict {
    /// Regions of which the others got nothing.
    pub(crate) fn idle(&self) -> Vec<&str> {
        let idle = self.regions.iter().filter(|region| region.served == 0);
        idle.map(|region| region.name.as_str()).collect()
    }

    pub(crate) fn to_text(&self, style: Style) -> String {
        let mut table = Table::new([
            ("measured", Align::Left),
            ("", Align::Right),
            ("of what", Align::Left),
            ("target", Align::Left),
            ("", Align::Left),
        ]);
        for figure in &self.figures {
            let (target, met) = match (figure.target, figure.is_met()) {
                (Some(target), Some(true)) => {
                    (figure.unit.show_target(target), Cell::from("met").look(Look::Green))
                }
                (Some(target), _) => {
                    (figure.unit.show_target(target), Cell::from("MISSED").look(Look::Red))
                }
                (None, _) => (String::new(), Cell::from("")),
            };
            table.row([
                Cell::from(&figure.what),
                Cell::from(figure.unit.show(figure.value)),
                Cell::from(&figure.detail),
                Cell::from(target),
                met,
            ]);
        }
        let mut text = table.to_text(style);
        if self.regions.is_empty() {
            return text;
        }
        let mut table = Table::new([
            ("region", Align::Left),
            ("sent to others", Align::Right),
            ("requests", Align::Right),
            ("got from others", Align::Right),
            ("share", Align::Right),
        ]);
        let all: u64 = self.regions.iter().map(|region| region.served).sum();
        for region in &self.regions {
            table.row([
                Cell::from(&region.name),
                size(region.served).into(),
                region.requests.to_string().into(),
                size(region.fetched).into(),
                percent(region.served as f64 / all.max(1) as f64).into(),
            ]);
        }
        text += "\n";
        text += &table.to_text(style);
        text
    }

    pub(crate) fn to_json(&self) -> Value {
        let region = |region: &Region| {
            json!({
                "region": region.name, "bytes_served": region.served,
                "requests_served": region.requests, "bytes_fetched": region.fetched,
            })
        };
        json!({
            "figures": self.figures.iter().map(Figure::to_json).collect::<Vec<_>>(),
            "regions": self.regions.iter().map(region).collect::<Vec<_>>(),
        })
    }
}

/// How long a fetch of so many bytes would have taken had nothing been lost when its source was:
/// what was here by then came from all sources, the rest comes from the one that is left.
pub(crate) fn undisturbed(bytes: u64, (at, here): (f64, u64), rate: f64) -> f64 {
    at + bytes.saturating_sub(here) as f64 / rate.max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict() -> Verdict {
        let region = |name: &str, served| Region {
            name: name.to_owned(),
            served,
            requests: 7,
            fetched: 1_000_000,
        };
        Verdict {
            figures: vec![
                Figure::ratio(("warm_near", "warm, near"), (0.5, 12.5), Some(0.08)),
                Figure::ratio(("warm_west", "warm, us-west"), (1.0, 12.5), None),
                Figure::bytes_saved(("update", "an update"), (60_000, 1_500_000), 0.97),
                Figure::time_saved(("slow", "slow link"), (2.0, 10.0), Some(0.7)),
            ],
            regions: vec![region("us-east", 3_000_000), region("us-west", 0)],
        }
    }

    #[test]
    fn a_target_that_is_missed_is_said_to_be() {
        assert_eq!(
            verdict().to_text(Style::default()),
            "measured               of what            target\n\
             warm, near      0.040  500 ms of 12.5 s   at most 0.08   met\n\
             warm, us-west   0.080  1.0 s of 12.5 s\n\
             an update      96.0 %  60.0 kB of 1.5 MB  at least 97 %  MISSED\n\
             slow link      80.0 %  2.0 s of 10.0 s    at least 70 %  met\n\
             \n\
             region   sent to others  requests  got from others  share\n\
             us-east          3.0 MB         7           1.0 MB  100 %\n\
             us-west             0 B         7           1.0 MB    0 %\n"
        );
    }

    #[test]
    fn json_has_every_figure_with_its_target_and_every_region() {
        let json = verdict().to_json();
        assert_eq!(
            json["figures"][0],
            json!({
                "name": "warm_near", "what": "warm, near", "unit": "ratio", "value": 0.04,
                "target": { "at_most": 0.08 }, "met": true, "detail": "500 ms of 12.5 s",
            })
        );
        assert_eq!(
            (&json["figures"][1]["met"], &json["figures"][2]["met"]),
            (&json!(null), &json!(false))
        );
        assert_eq!(json["regions"][1]["bytes_served"], 0);
        assert_eq!(verdict().idle(), ["us-west"]);
    }

    #[test]
    fn a_lost_source_is_compared_with_what_was_left_of_the_links() {
        assert!((undisturbed(20_000_000, (1.0, 8_000_000), 6_000_000.0) - 3.0).abs() < 1e-9);
        assert!((undisturbed(5, (1.0, 8), 0.0) - 1.0).abs() < 1e-9);
    }
}
