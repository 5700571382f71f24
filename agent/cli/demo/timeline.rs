//! When what ran in which region, as Perfetto and Chrome's tracing show it: the traces of single
//! runs, each at its time and place, below the chapters.

use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The process of the chapters; those of the sites follow.
const STORY: u64 = 1;
/// Processes that a site has: a run knows two.
const PER_SITE: u64 = 10;

/// All that happened.
#[derive(Debug)]
pub(crate) struct Timeline {
    began: Instant,
    sites: Vec<&'static str>,
    events: Vec<Value>,
}

impl Timeline {
    pub(crate) fn new(began: Instant) -> Self {
        let events = vec![named("process_name", STORY, "the story")];
        Self { began, sites: Vec::new(), events }
    }

    /// Something that the demo did from then until now.
    pub(crate) fn add(&mut self, name: &str, from: Instant) {
        self.events.push(json!({
            "ph": "X", "name": name, "cat": "story", "pid": STORY, "tid": 0,
            "ts": micros(from.saturating_duration_since(self.began)), "dur": micros(from.elapsed()),
        }));
    }

    /// The trace of a run at a site that began then. What is no trace adds nothing.
    pub(crate) fn add_run(&mut self, site: &'static str, from: Instant, trace: &str) {
        let trace: Value = serde_json::from_str(trace).unwrap_or_default();
        let offset = micros(from.saturating_duration_since(self.began));
        let known = self.sites.iter().position(|known| *known == site);
        let place = known.unwrap_or_else(|| {
            self.sites.push(site);
            self.sites.len() - 1
        });
        let first = STORY + PER_SITE * (place as u64 + 1);
        for event in trace["traceEvents"].as_array().into_iter().flatten() {
            let mut event = event.clone();
            event["pid"] = (first + event["pid"].as_u64().unwrap_or(0)).into();
            if let Some(at) = event["ts"].as_u64() {
                event["ts"] = (at + offset).into();
            }
            if event["name"] == "process_name" {
                let what = event["args"]["name"].as_str().unwrap_or_default();
                event["args"]["name"] = format!("{site}: {what}").into();
            }
            let is_name = event["ph"] == "M";
            if !is_name || !self.events.contains(&event) {
                self.events.push(event);
            }
        }
    }

    pub(crate) fn to_json(&self) -> String {
        json!({"traceEvents": self.events, "displayTimeUnit": "ms"}).to_string() + "\n"
    }
}

fn named(what: &str, process: u64, name: &str) -> Value {
    json!({"ph": "M", "name": what, "pid": process, "tid": 0, "args": {"name": name}})
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_stand_at_their_time_and_below_their_site() {
        let began = Instant::now();
        let mut timeline = Timeline::new(began);
        let run = json!({"traceEvents": [
            {"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "args": {"name": "tasks"}},
            {"ph": "X", "name": "build", "pid": 1, "tid": 0, "ts": 5, "dur": 7},
        ]});
        timeline.add_run("us-east", began + Duration::from_millis(1), &run.to_string());
        timeline.add_run("us-west", began + Duration::from_millis(2), &run.to_string());
        timeline.add_run("us-east", began + Duration::from_millis(3), &run.to_string());
        timeline.add_run("us-east", began, "not JSON");
        let json: Value = serde_json::from_str(&timeline.to_json()).unwrap();
        let events = json["traceEvents"].as_array().unwrap();
        let of =
            |phase: &str| events.iter().filter(|event| event["ph"] == phase).collect::<Vec<_>>();
        let names: Vec<_> = of("M").iter().map(|event| event["args"]["name"].clone()).collect();
        assert_eq!(names, ["the story", "us-east: tasks", "us-west: tasks"]);
        let at: Vec<_> =
            of("X").iter().map(|event| (event["pid"].clone(), event["ts"].clone())).collect();
        assert_eq!(
            at,
            [(json!(12), json!(1005)), (json!(22), json!(2005)), (json!(12), json!(3005))]
        );
    }
}
