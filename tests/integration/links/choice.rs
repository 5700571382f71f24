//! What people say about where to look, and where an agent finds itself.

use super::sites::{REGIONS, Sites};
use crate::support::{Agent, wait_until};

/// Bytes of what is fetched.
const SIZE: usize = 3_000_000;

/// Three regions, of which the first two have a blob, and an office with a configuration.
struct Office {
    sites: Sites,
    digest: String,
    office: Agent,
    regions: Vec<Agent>,
}

fn office(test: &str, config: &str) -> Office {
    let sites = Sites::up(test, &REGIONS);
    let east = sites.agent("us-east", &[]);
    let west = sites.agent("us-west", &[&east]);
    let digest = sites.put(SIZE, &[&east, &west]);
    let office =
        sites.agent_of("office", "office", &["--region", "office"], config, &[&east, &west]);
    Office { sites, digest, office, regions: vec![east, west] }
}

impl Office {
    fn get(&self) -> bool {
        let out = self.sites.place.path("out");
        let get = ["get", &self.digest, "--output", out.to_str().expect("UTF-8")];
        let got = self.office.command(&get).output().expect("netbuild runs").status.success();
        assert!(!got || self.sites.is_blob(SIZE, &out));
        got
    }
}

#[test]
fn a_plan_says_what_is_then_done_and_how_long_it_takes() {
    let office = office("plan", "");
    wait_until("the nearest region is primary", || office.office.primary() == "us-east");
    let plan = office.office.json(&["plan", &office.digest]);
    let steps = plan["steps"].as_array().expect("a list");
    let regions: Vec<_> = steps.iter().filter_map(|step| step["region"].as_str()).collect();
    assert_eq!(regions[..2], ["us-east", "us-west"], "{plan}");
    assert!(steps[..2].iter().all(|step| step["holds"] == true), "{plan}");
    let expected = steps[0]["predicted_s"].as_f64().expect("a number");

    assert!(office.get());
    let fetched = office.office.why(&office.digest).attempts().remove(0);
    assert_eq!(fetched.region.as_str(), "us-east", "{fetched:?}");
    let (predicted, actual) = (fetched.predicted_s.expect("one"), fetched.actual_s.expect("one"));
    // By far wider than what is expected, for a busy machine.
    assert!((0.2..5.0).contains(&(predicted / expected)), "{fetched:?}, {plan}");
    assert!((0.05..20.0).contains(&(actual / predicted)), "{fetched:?}");
}

#[test]
fn a_primary_that_is_named_is_asked_first_and_another_one_without_it() {
    let mut office = office("named", "[plan]\nprimary = \"us-west\"\n");
    assert!(office.get());
    // On a busy machine another one may help out.
    let first = office.office.why(&office.digest).attempts().remove(0);
    assert_eq!(first.region, "us-west");
    assert!(first.reason.contains("PRIMARY_CACHE"), "{first:?}");

    let digest = office.sites.put(SIZE + 1, &[&office.regions[0], &office.regions[1]]);
    office.regions[1].kill();
    let out = office.sites.place.path("other");
    office.office.ask(&["get", &digest, "--output", out.to_str().expect("UTF-8")]);
    assert!(office.sites.is_blob(SIZE + 1, &out));
    assert_eq!(office.office.why(&digest).fetched_from().region, "us-east");
}

#[test]
fn a_primary_that_is_forced_is_the_only_one_that_is_asked() {
    let config = "[plan]\nprimary = \"us-west\"\nforce = true\n";
    let mut office = office("forced", config);
    assert!(office.get());
    assert_eq!(office.office.why(&office.digest).fetched_from().region, "us-west");

    let digest = office.sites.put(SIZE + 1, &[&office.regions[0], &office.regions[1]]);
    office.regions[1].kill();
    let got = office.office.command(&["get", &digest]).output().expect("netbuild runs");
    assert!(!got.status.success(), "the other region is not asked");
    let why = office.office.why(&digest);
    assert!(why.attempts().iter().all(|a| a.region != "us-east" || a.outcome == "passed over"));
}

#[test]
fn the_classical_ladder_asks_the_primary_twice_and_then_the_secondary() {
    let config = "[plan]\nfallback = \"classical\"\n";
    let mut office = office("classical", config);
    wait_until("the nearest region is primary", || office.office.primary() == "us-east");
    office.regions[0].kill();
    assert!(office.get());
    let why = office.office.why(&office.digest);
    assert_eq!(why.fetched_from().region, "us-west");
    let asked = |region: &str| why.attempts().iter().filter(|a| a.region == region).count();
    assert!(asked("us-east") <= 2 && asked("us-west") == 1, "{why:?}");
}

#[test]
fn an_agent_without_a_region_joins_the_nearest_or_says_which_that_would_be() {
    let sites = ["us-east", "us-west", "eu-central", "office=datacenter"];
    let sites = Sites::up("nearest", &sites);
    let east = sites.agent("us-east", &[]);
    let west = sites.agent("us-west", &[&east]);
    let unnamed = |site: &str, name: &str| sites.agent_of(site, name, &[], "", &[&east, &west]);

    let near = unnamed("us-east", "near");
    wait_until("it has joined the nearest region", || near.status()["region"] == "us-east");
    let source = near.status()["region_source"].to_string();
    assert!(source.contains("ms away"), "{source}");
    let as_seen = || {
        let members = west.members();
        members.iter().filter(|member| member.region() == "us-east").count()
    };
    wait_until("the others see it there", || as_seen() == 2);

    let far = unnamed("office", "far");
    wait_until("it says what it would be", || {
        far.status()["region_source"].to_string().contains("it would be us-east")
    });
    assert_eq!(far.status()["region"], "");
}
