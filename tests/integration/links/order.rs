//! Which region is asked first.

use super::sites::{REGIONS, Sites};
use crate::support::wait_until;
use serde_json::Value;

/// Round trip in milliseconds and bits per second of the profiles.
const PROFILES: [(&str, f64, f64); 3] =
    [("us-east", 50.0, 100e6), ("us-west", 100.0, 50e6), ("eu-central", 150.0, 25e6)];

fn order(status: &Value) -> Vec<&str> {
    status["order"].as_array().expect("a list").iter().filter_map(Value::as_str).collect()
}

#[test]
fn the_best_region_is_asked_first_and_another_one_while_its_link_is_bad() {
    let sites = Sites::up("order", &REGIONS);
    let east = sites.agent("us-east", &[]);
    let west = sites.agent("us-west", &[&east]);
    let central = sites.agent("eu-central", &[&east, &west]);
    let office = sites.agent("office", &[&east, &west, &central]);
    wait_until("the regions are in order", || {
        order(&office.status()) == ["us-east", "us-west", "eu-central"]
    });

    let links = || {
        let links = office.json(&["links"]);
        let links = links.as_array().expect("a list").clone();
        links.into_iter().filter(|link| link["source"] == "measured").collect::<Vec<_>>()
    };
    // A busy machine may keep a probe from measuring; the next one comes after a minute.
    wait_until("the bandwidth of most links is known", || {
        links().iter().filter(|link| link["goodput"].is_number()).count() >= PROFILES.len() - 1
    });
    for (region, rtt_ms, bits) in PROFILES {
        let link = links().into_iter().find(|l| l["from_region"] == region).expect("a link");
        // A busy machine makes a link seem longer, and its bytes come in bursts.
        let rtt = link["rtt_ms"].as_f64().expect("a number");
        assert!((rtt_ms..rtt_ms * 4.0).contains(&rtt), "{link}");
        if let Some(goodput) = link["goodput"].as_f64() {
            assert!((bits * 0.1..bits * 4.0).contains(&(goodput * 8.0)), "{link}");
        }
    }

    // A busy machine may make another region look best for a moment.
    wait_until("the monitor shows the regions in order", || {
        let monitor = office.json(&["monitor", "--once"]);
        let rows = monitor["rows"].as_array().expect("rows");
        let shown: Vec<_> = rows.iter().filter_map(|row| row["region"].as_str()).collect();
        (&monitor["primary"], &monitor["region"]) == (&"us-east".into(), &"office".into())
            && shown == ["office", "us-east", "us-west", "eu-central"]
    });

    sites.set("us-east:office", "satellite");
    wait_until("another region is primary", || office.primary() != "us-east");
    sites.reset("us-east:office");
    wait_until("the nearest region is primary again", || office.primary() == "us-east");
}
