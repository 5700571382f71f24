//! The commands that look after a data directory, as somebody at a terminal uses them: on a directory
//! of nobody, and on one whose agent runs.

use crate::{
    sample::{TASKS, built},
    support::{Agent, Place, Run, Workspace, netbuild, netbuild_agent, through},
};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

/// A workspace that was built, whose configuration lets go of what was used a moment ago.
struct Kept {
    workspace: Workspace,
    config: PathBuf,
    agent: Option<Agent>,
}

impl Kept {
    fn new(place: &Place, name: &str, with_agent: bool) -> Self {
        let (workspace, _) = built(place, name);
        let config = place.path(&format!("{name}.toml"));
        fs::write(&config, "[store]\nmin_age = \"0 s\"\n").expect("a file");
        let agent = with_agent.then(|| {
            let mut command = netbuild_agent();
            command.args(["--region", "here", "--listen", "127.0.0.1:0", "--config"]);
            command.arg(&config).arg("--data-dir").arg(&workspace.data_dir);
            Agent::spawn(command, &workspace.data_dir)
        });
        Self { workspace, config, agent }
    }

    fn output(&self, args: &[&str]) -> Output {
        let mut command = netbuild();
        command.args(args).arg("--config").arg(&self.config);
        command.arg("--data-dir").arg(&self.workspace.data_dir);
        command.current_dir(&self.workspace.root).output().expect("netbuild runs")
    }

    /// Standard output of a command that does well.
    #[track_caller]
    fn say(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        let text = self.say(&[args, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Bytes on disk, as `netbuild du` says.
    fn total(&self) -> u64 {
        number(&self.json(&["du"]), "total")
    }

    /// Runs the graph once more, from nothing but the cache; returns how many tasks had to run.
    fn executed(&self) -> u64 {
        self.workspace.forget_outputs();
        self.workspace.run(&[]).expect_success().executed()
    }

    /// The file of the largest blob.
    fn large_blob(&self) -> PathBuf {
        let mut files = Vec::new();
        for dir in fs::read_dir(self.workspace.data_dir.join("blobs")).expect("blobs") {
            for file in fs::read_dir(dir.expect("an entry").path()).expect("blobs") {
                files.push(file.expect("an entry").path());
            }
        }
        let len = |path: &PathBuf| fs::metadata(path).expect("a file").len();
        files.into_iter().max_by_key(len).expect("a blob")
    }
}

#[track_caller]
fn number(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("{field}: {report}"))
}

/// Does something on the directory of nobody, and on one with an agent.
fn both(test: impl Fn(&Place, &str, bool)) {
    let place = Place::new();
    test(&place, "alone", false);
    test(&place, "served", true);
}

#[test]
fn gc_says_what_would_go_lets_it_go_and_keeps_what_is_pinned() {
    both(|place, name, with_agent| {
        let kept = Kept::new(place, name, with_agent);
        let total = kept.total();
        assert!(total > 5_000_000, "{total}");
        // Within bounds nothing goes.
        let report = kept.json(&["gc"]);
        assert_eq!((number(&report, "results"), number(&report, "blobs")), (0, 0), "{report}");

        let would = kept.json(&["gc", "--dry-run", "--max-size", "1MB"]);
        assert_eq!(would["dry_run"], true);
        assert!(number(&would, "after") < number(&would, "before"), "{would}");
        let named = would["removed"]["rows"].as_array().expect("rows");
        assert!(named.iter().any(|row| row["path"] == "out/large"), "{would}");
        let text = kept.say(&["gc", "--dry-run", "--max-size", "1MB"]);
        assert!(text.contains("out/large: ") && text.contains("nothing was removed"), "{text}");
        assert_eq!(kept.executed(), 0, "a dry run removes nothing");

        kept.say(&["pin", "large"]);
        let pins = kept.json(&["pin"]);
        assert_eq!(pins["rows"][0]["label"], "large", "{pins}");
        assert_eq!(number(&kept.json(&["du"]), "pins"), 1);
        let report = kept.json(&["gc", "--max-size", "1MB"]);
        assert!(number(&report, "results") > 0, "{report}");
        let named = report["removed"]["rows"].as_array().expect("rows");
        assert!(named.iter().all(|row| row["path"] != "out/large"), "{report}");
        assert!(kept.large_blob().exists());
        let executed = kept.executed();
        assert!((1..TASKS).contains(&executed), "{executed} of {TASKS}: `large` is a hit");

        kept.say(&["unpin", "large"]);
        let unknown = kept.output(&["unpin", "large"]);
        let told = String::from_utf8_lossy(&unknown.stderr);
        assert!(!unknown.status.success() && told.contains("is not pinned"), "{told}");
        if let Some(agent) = &kept.agent {
            // It told the run a moment ago that this is here, so it is for a minute.
            kept.say(&["gc", "--max-size", "1MB"]);
            assert!(kept.large_blob().exists() && kept.total() > total / 2);
            assert!(agent.status()["peer"].is_string());
            return;
        }
        let report = kept.json(&["gc", "--max-size", "1MB"]);
        let named = report["removed"]["rows"].as_array().expect("rows");
        assert!(named.iter().any(|row| row["path"] == "out/large"), "{report}");
        assert!(kept.say(&["gc"]).contains("became"));
        assert!(kept.total() < total / 2, "{} of {total}: {report}", kept.total());
        assert!(kept.executed() > 0, "`large` has to run");
    });
}

#[test]
fn du_says_what_takes_the_space_in_words_and_figures() {
    both(|place, name, with_agent| {
        let kept = Kept::new(place, name, with_agent);
        let report = kept.json(&["du"]);
        assert_eq!(number(&report, "records"), TASKS);
        let large = fs::metadata(kept.large_blob()).expect("a file").len();
        assert!(number(&report, "blob_files") >= large && number(&report, "total") > large);
        assert_eq!(report["paths"][0]["name"], "out/large", "{report}");
        let text = kept.say(&["du"]);
        assert!(text.contains("last used") && text.contains("out/large (1 result)"), "{text}");
    });
}

#[test]
fn verify_finds_damage_mends_it_and_says_what_is_lost() {
    both(|place, name, with_agent| {
        let kept = Kept::new(place, name, with_agent);
        for args in [&["verify"][..], &["verify", "--deep"]] {
            let report = kept.json(args);
            assert_eq!((number(&report, "remaining"), number(&report, "damaged")), (0, 0));
            assert_eq!(number(&report, "records"), TASKS, "{report}");
        }
        assert!(kept.say(&["verify"]).contains("all is well"));

        let blob = kept.large_blob();
        let mut bytes = fs::read(&blob).expect("a blob");
        bytes[1000] ^= 1;
        fs::write(&blob, bytes).expect("a blob");
        // Of this only its bytes tell.
        assert_eq!(number(&kept.json(&["verify"]), "damaged"), 0);
        let output = kept.output(&["verify", "--deep", "--json"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!((number(&report, "damaged"), number(&report, "remaining")), (1, 1));
        assert_eq!(report["findings"][0]["outcome"], "left", "{report}");
        let told = kept.output(&["verify", "--deep"]).stdout;
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(told.contains("mend it with: netbuild verify --repair --deep"), "{told}");

        // Nobody else has it.
        let output = kept.output(&["verify", "--deep", "--repair", "--json"]);
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!((number(&report, "damaged"), number(&report, "lost")), (1, 1), "{report}");
        assert!(!blob.exists() && aside(&kept.workspace.data_dir) > 0, "it is put aside");
        assert_eq!(number(&kept.json(&["verify", "--deep"]), "remaining"), 0);
        assert_eq!(kept.executed(), 1, "what was lost is built again, and nothing else");
        assert_eq!(kept.executed(), 0);
    });
}

fn aside(data_dir: &Path) -> usize {
    fs::read_dir(data_dir.join("quarantine")).map_or(0, Iterator::count)
}

#[test]
fn what_is_not_there_is_said_with_what_to_do() {
    let place = Place::new();
    let missing = place.path("nothing");
    for args in [&["gc"][..], &["du"], &["verify"], &["pin"], &["unpin", "x"]] {
        let output = netbuild().args(args).arg("--data-dir").arg(&missing).output();
        let output = output.expect("netbuild runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.contains("there is no data directory"), "{told}");
        assert!(told.contains("hint: ") && !missing.exists(), "{told}");
    }
}

#[test]
fn a_data_directory_that_cannot_be_written_is_read_and_written_again_when_it_can_be() {
    let place = Place::new();
    let (workspace, outputs) = built(&place, "here");
    let script = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec \"$@\"";
    let data_dir = workspace.data_dir.to_str().expect("UTF-8");
    let starter = ["unshare", "--mount", "--map-root-user", "--", "sh", "-c", script, data_dir];
    let read_only = || {
        workspace.forget_outputs();
        Run::of(&mut through(&starter, &workspace.command(&["--json"]))).expect_success()
    };
    let run = read_only();
    assert_eq!((run.executed(), run.count("/hits/disk")), (0, TASKS), "{}", run.stderr);
    assert!(run.stderr.contains("data directory cannot be written"), "{}", run.stderr);
    workspace.outputs().expect_same(&outputs);
    // What is new is built, and kept by nobody.
    workspace.write("src/a.txt", "changed\n");
    let executed = read_only().executed();
    assert!((1..TASKS).contains(&executed), "{executed}");
    workspace.forget_outputs();
    assert_eq!(workspace.run(&[]).expect_success().executed(), executed);
    workspace.forget_outputs();
    assert_eq!(workspace.run(&[]).expect_success().executed(), 0);
    assert_eq!(read_only().executed(), 0);
}
