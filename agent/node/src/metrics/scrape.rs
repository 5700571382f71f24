//! One scrape: families of metrics filled with what the agent counts anyway.

use metrics::{Key, KeyName, Label, Level, Metadata, Recorder as _};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use std::{collections::BTreeSet, fmt::Write as _};

const METADATA: Metadata<'static> = Metadata::new("netbuild", Level::INFO, None);

/// Labels of a sample: names with values.
pub(super) type Labels<'a> = &'a [(&'static str, &'a str)];

/// What one scrape tells. Each has a recorder of its own, so that what is gone, such as a region, is told no
/// more.
pub(super) struct Scrape {
    recorder: PrometheusRecorder,
    described: BTreeSet<&'static str>,
    /// Counters with a fraction, which the recorder does not know.
    fractions: String,
}

impl Scrape {
    pub(super) fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        Self { recorder, described: BTreeSet::new(), fractions: String::new() }
    }

    /// A count since the start.
    pub(super) fn counter(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: Labels<'_>,
        count: u64,
    ) {
        if self.described.insert(name) {
            self.recorder.describe_counter(KeyName::from_const_str(name), None, help.into());
        }
        self.recorder.register_counter(&key(name, labels), &METADATA).absolute(count);
    }

    /// A count since the start that has a fraction, such as seconds. One sample.
    pub(super) fn fraction(&mut self, name: &'static str, help: &'static str, count: f64) {
        // Writing to a string does not fail.
        let _ = writeln!(
            self.fractions,
            "# HELP {name} {help}\n# TYPE {name} counter\n{name} {count}\n"
        );
    }

    /// Something that goes up and down.
    pub(super) fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: Labels<'_>,
        value: f64,
    ) {
        if self.described.insert(name) {
            self.recorder.describe_gauge(KeyName::from_const_str(name), None, help.into());
        }
        self.recorder.register_gauge(&key(name, labels), &METADATA).set(value);
    }

    /// The same where it may be unknown.
    pub(super) fn gauge_if(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: Labels<'_>,
        value: Option<f64>,
    ) {
        if let Some(value) = value {
            self.gauge(name, help, labels, value);
        }
    }

    /// All of it as text.
    pub(super) fn text(self) -> String {
        self.recorder.handle().render() + &self.fractions
    }
}

fn key(name: &'static str, labels: Labels<'_>) -> Key {
    let labels = labels.iter().map(|(name, value)| Label::new(*name, (*value).to_owned()));
    Key::from_parts(name, labels.collect::<Vec<_>>())
}
