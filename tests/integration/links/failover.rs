//! A source that is lost in the middle of a transfer.

use super::sites::{REGIONS, Sites};
use crate::support::{Agent, Running, wait_until};

/// Bytes of the blob: two seconds from the primary.
const SIZE: usize = 24_000_000;

/// Fetches a blob that two regions have, and takes the first of them away on the way.
fn fetch_without(test: &str, lose: impl FnOnce(&Sites, &mut Agent)) {
    let sites = Sites::up(test, &REGIONS);
    let mut east = sites.agent("us-east", &[]);
    let west = sites.agent("us-west", &[&east]);
    let office = sites.agent("office", &[&east, &west]);
    wait_until("the nearest region is primary", || office.primary() == "us-east");
    let digest = sites.put(SIZE, &[&east, &west]);

    let out = sites.place.path("out");
    let get = ["get", &digest, "--json", "--output", out.to_str().expect("UTF-8")];
    let fetching = Running::start(&mut office.command(&get));
    wait_until("it is under way", || office.counter("data_bytes_fetched") > SIZE as u64 / 10);
    lose(&sites, &mut east);
    let got = fetching.wait().expect_success().summary;

    assert!(sites.is_blob(SIZE, &out));
    let sources = got["sources"].as_array().expect("a list");
    assert!(sources.iter().any(|source| source["region"] == "us-west"), "{got}");
    let why = office.why(&digest);
    let tried = why.attempts();
    assert_eq!(why.outcome(), "fetched");
    assert_eq!(why.fetched_from().region, "us-west", "{why:?}");
    let lost = tried.iter().find(|attempt| attempt.region == "us-east").expect("it was asked");
    assert!(lost.bytes > 0 && lost.outcome != "fetched", "{why:?}");
    // What had come was not fetched again.
    let bytes: u64 = tried.iter().map(|attempt| attempt.bytes).sum();
    assert_eq!(bytes, SIZE as u64, "{why:?}");
    assert!(office.counter("data_bytes_fetched") < SIZE as u64 * 3 / 2);
    drop(west);
}

#[test]
fn a_fetch_goes_on_elsewhere_when_its_source_is_killed() {
    fetch_without("killed", |_, east| east.kill());
}

#[test]
fn a_fetch_goes_on_elsewhere_when_the_link_is_cut() {
    fetch_without("cut", |sites, _| sites.set("us-east:office", "cut"));
}
