//! `scripts/benchmark.sh`, with something tiny to build.

use crate::support::Place;
use serde_json::Value;
use std::{fs, path::Path, process::Command};

/// Tasks of the tiny build.
const TASKS: u64 = 3;

/// The row of a tool in the only table of a part: what it measured.
fn row<'a>(results: &'a Value, part: &str, tool: &str) -> &'a Value {
    let rows = results[part]["tables"][0]["rows"].as_array().expect("rows");
    let row = rows.iter().find(|row| row["tool"] == tool).unwrap_or_else(|| panic!("no {tool}"));
    assert!(row["not_run"].is_null(), "{part}, {tool}: {}", row["not_run"]);
    &row["median"]
}

#[test]
fn the_benchmark_measures_and_says_what_it_measured() {
    let place = Place::new();
    let (out, json) = (place.path("out"), place.path("results.json"));
    let programs = Path::new(env!("CARGO_BIN_EXE_netbuild")).parent().expect("a directory");
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/benchmark.sh"));
    command.args(["--fast", "--no-install", "--only", "local,near,update,sync"]);
    command.arg("--bin-dir").arg(programs).arg("--out").arg(&out).arg("--json").arg(&json);
    let ran = command.output().expect("the script runs");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}\n{}", String::from_utf8_lossy(&ran.stderr));

    let results: Value =
        serde_json::from_str(&fs::read_to_string(&json).expect("results")).expect("JSON");
    assert_eq!(row(&results, "near", "netbuild, built nowhere yet")["executed"], TASKS);
    for (part, tool) in [("near", "netbuild"), ("update", "netbuild")] {
        let measured = row(&results, part, tool);
        assert_eq!(measured["executed"], 0, "{part}: {measured}");
        assert!(measured["seconds"].as_f64() > Some(0.0), "{part}: {measured}");
        assert!(measured["wire_bytes"].as_u64() > Some(1000), "{part}: {measured}");
    }
    for tool in ["netbuild", "ninja", "make"] {
        assert!(row(&results, "local", tool)["noop_ms"].as_f64() > Some(0.0));
    }
    assert!(row(&results, "sync", "netbuild sync")["wire_bytes"].as_u64() > Some(1000));

    let report = fs::read_to_string(out.join("report.md")).expect("a report");
    for part in ["## local: ", "## near: ", "## update: ", "## sync: "] {
        assert!(report.contains(part), "{report}");
    }
    assert!(report.contains("| netbuild, built nowhere yet |"), "{report}");
    assert!(report.contains("links emulated by `netbuild wan`: 50 ms, 100 Mbit/s"), "{report}");
    assert!(said.contains(&report), "what is printed is what is written");
    let plot = fs::read_to_string(out.join("builds.svg")).expect("a plot");
    assert!(plot.starts_with("<svg ") && plot.trim_end().ends_with("</svg>"), "{plot}");
    assert!(plot.contains("prefers-color-scheme: dark"), "{plot}");
}

#[test]
fn the_benchmark_refuses_what_it_does_not_know() {
    let ran = |args: &[&str]| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/benchmark.sh");
        let ran = Command::new(script).args(args).output().expect("the script runs");
        (ran.status.code(), String::from_utf8_lossy(&ran.stderr).into_owned())
    };
    let (code, said) = ran(&["--only", "near,moon"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("no part 'moon', only local, near, far"), "{said}");
    let (code, said) = ran(&["--bin-dir", "/nowhere"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("cargo build --release --bins --locked"), "{said}");
}
