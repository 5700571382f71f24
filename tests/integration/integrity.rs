//! What is damaged on a disk is never served: it is healed from another region, or built again.

use crate::{
    sample::{TASKS, Tree, built, sample},
    support::{Place, Run, Workspace, netbuild},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What may happen to a file on a disk.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// One bit of this byte is another.
    Flip(usize),
    /// The file ends here.
    Cut(usize),
    Gone,
}

impl Damage {
    /// Every kind, for a file of this length, with so many flips from its first byte to its last.
    fn all(len: usize, flips: usize) -> Vec<Self> {
        let last = len.saturating_sub(1);
        let flips = (1..=flips).map(|part| Self::Flip(last * part / flips));
        let all = flips.chain([Self::Flip(0), Self::Cut(len / 2), Self::Cut(last), Self::Gone]);
        all.filter(|damage| len > 0 || matches!(damage, Self::Gone)).collect()
    }

    fn apply(self, file: &Path) {
        let mut content = fs::read(file).expect("a file");
        match self {
            Self::Flip(at) => content[at] ^= 0x10,
            Self::Cut(len) => content.truncate(len),
            Self::Gone => return fs::remove_file(file).expect("a file"),
        }
        fs::write(file, content).expect("a file");
    }
}

/// The files below these parts of a data directory, with their lengths.
fn stored(data_dir: &Path, parts: &[&str]) -> Vec<(String, usize)> {
    let tree = Tree::of(data_dir);
    let files = tree.files().filter(|(name, _)| parts.iter().any(|part| name.starts_with(part)));
    let files: Vec<_> = files.map(|(name, content)| (name.to_owned(), content.len())).collect();
    for part in parts {
        assert!(files.iter().any(|(name, _)| name.starts_with(part)), "no {part}: {files:?}");
    }
    files
}

/// `cp -r`, into a directory that is not there yet.
fn copy(from: &Path, to: &Path) {
    drop(fs::remove_dir_all(to));
    let done = Command::new("cp").arg("-r").arg(from).arg(to).status().expect("cp runs");
    assert!(done.success());
}

/// The file of the large output, the largest of all blobs.
fn large_blob(data_dir: &Path) -> PathBuf {
    let largest = stored(data_dir, &["blobs/"]).into_iter().max_by_key(|(_, len)| *len);
    data_dir.join(largest.expect("a large blob").0)
}

/// Deletes the outputs and runs these tasks, or all; ends the test unless they are back as they should be.
#[track_caller]
fn expect_right(workspace: &Workspace, tasks: &[&str], outputs: &Tree, what: &str) -> Run {
    workspace.forget_outputs();
    let run = workspace.run(tasks);
    assert!(run.status.success(), "{what}: {}", run.stderr);
    assert!(!run.stderr.contains("panicked"), "{what}: {}", run.stderr);
    outputs.expect_same(&workspace.outputs());
    run
}

/// Damages every file below these parts of a data directory, one after the other and in every way;
/// returns the runs that followed, each with what had been done.
fn runs_after_damage(parts: &[&str], flips: usize) -> Vec<(String, Run)> {
    let place = Place::new();
    let workspace = sample(&place, "here");
    // All kinds of output but the large file, as every case takes its copy.
    let tasks = ["tree"];
    workspace.run(&tasks).expect_success();
    let outputs = workspace.outputs();
    let damaged = workspace.with_data_dir(&place.path("damaged"));
    let mut runs = Vec::new();
    for (name, len) in stored(&workspace.data_dir, parts) {
        for damage in Damage::all(len, flips) {
            copy(&workspace.data_dir, &damaged.data_dir);
            damage.apply(&damaged.data_dir.join(&name));
            let what = format!("{damage:?} of {name} ({len} bytes)");
            runs.push((what.clone(), expect_right(&damaged, &tasks, &outputs, &what)));
        }
    }
    runs
}

#[test]
fn whatever_is_damaged_in_the_journal_or_a_blob_the_outputs_are_right() {
    let runs = runs_after_damage(&["blobs/", "journal/"], 3);
    let rebuilt = runs.iter().filter(|(_, run)| run.executed() > 0).count();
    // The damage was in what the outputs are made of.
    assert!(rebuilt * 2 > runs.len(), "{rebuilt} of {}", runs.len());
}

#[test]
fn whatever_is_damaged_in_the_index_nothing_is_lost() {
    for (what, run) in runs_after_damage(&["index/", "index.seal"], 1) {
        assert_eq!(run.executed(), 0, "{what}");
    }
}

#[test]
fn a_data_directory_without_its_index_loses_nothing() {
    let place = Place::new();
    let (workspace, outputs) = built(&place, "here");
    fs::remove_dir_all(workspace.data_dir.join("index")).expect("an index");
    assert_eq!(expect_right(&workspace, &[], &outputs, "no index").executed(), 0);
}

#[test]
fn a_damaged_blob_is_healed_once_and_stays_whole() {
    let place = Place::new();
    let (workspace, outputs) = built(&place, "here");
    Damage::Flip(3_000_000).apply(&large_blob(&workspace.data_dir));
    // Only what was damaged is built again, and it is said.
    let run = expect_right(&workspace, &[], &outputs, "one bit");
    assert_eq!((run.executed(), run.count("/hits/disk")), (1, TASKS - 1), "{}", run.summary);
    assert_eq!(expect_right(&workspace, &[], &outputs, "after that").executed(), 0);
}

#[test]
fn what_is_damaged_here_comes_from_the_region_that_has_it_whole() {
    let place = Place::new();
    let (east, west) = (sample(&place, "east"), sample(&place, "west"));
    let first = east.agent("us-east", &[]);
    east.run(&[]).expect_success();
    let mut second = west.agent("us-west", &[&first.ticket]);
    west.run(&[]).expect_from_peers("us-east");
    assert!(second.stop().success());

    let outputs = east.outputs();
    let damaged = west.with_data_dir(&place.path("damaged"));
    let journal = "journal/00000001.log";
    let journal_len = fs::read(west.data_dir.join(journal)).expect("a journal").len();
    let blob = large_blob(&west.data_dir);
    let blob = blob.strip_prefix(&west.data_dir).expect("it is below");
    let cases = [
        (blob, Damage::Flip(1_000_000)),
        (blob, Damage::Cut(1_000_000)),
        (blob, Damage::Gone),
        (Path::new(journal), Damage::Flip(journal_len / 2)),
        (Path::new(journal), Damage::Gone),
    ];
    for (name, damage) in cases {
        copy(&west.data_dir, &damaged.data_dir);
        damage.apply(&damaged.data_dir.join(name));
        let what = format!("{damage:?} of {}", name.display());
        let mut healing = damaged.agent("us-west", &[&first.ticket]);
        let run = expect_right(&damaged, &[], &outputs, &what);
        assert_eq!(run.executed(), 0, "{what}: {}", run.summary);
        assert!(run.count("/hits/peer") > 0, "{what}: {}", run.summary);
        assert!(healing.stop().success());
    }
}

#[test]
fn a_region_whose_own_copy_is_damaged_never_passes_it_on() {
    let place = Place::new();
    let (east, west) = (sample(&place, "east"), sample(&place, "west"));
    let first = east.agent("us-east", &[]);
    east.run(&[]).expect_success();
    let outputs = east.outputs();
    Damage::Flip(2_500_000).apply(&large_blob(&east.data_dir));
    let _second = west.agent("us-west", &[&first.ticket]);
    let run = west.run(&[]).expect_success();
    outputs.expect_same(&west.outputs());
    assert_eq!((run.executed(), run.count("/hits/peer")), (1, TASKS - 1), "{}", run.summary);
    // And the one with the damage gets it from the other now.
    let run = expect_right(&east, &[], &outputs, "the damaged one");
    assert_eq!(run.executed(), 0, "{}", run.summary);
}

#[test]
fn a_blob_that_is_asked_for_by_digest_is_healed_too() {
    let place = Place::new();
    let (east, west) = (sample(&place, "east"), sample(&place, "west"));
    let first = east.agent("us-east", &[]);
    east.run(&[]).expect_success();
    let second = west.agent("us-west", &[&first.ticket]);
    second.wait_for_members(1, TASKS);
    let file = east.root.join("out/large");
    let ask = |workspace: &Workspace, args: &[&str]| {
        let mut command = netbuild();
        command.args(args).arg("--data-dir").arg(&workspace.data_dir);
        command.output().expect("netbuild runs")
    };
    let put = ask(&east, &["put", &file.to_string_lossy()]);
    let digest = String::from_utf8(put.stdout).expect("a digest");
    let content = fs::read(&file).expect("a file");
    assert!(ask(&west, &["get", digest.trim()]).stdout == content);

    Damage::Flip(4_000_000).apply(&large_blob(&west.data_dir));
    let got = place.path("got");
    let output = ask(&west, &["get", digest.trim(), "-o", &got.to_string_lossy()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(fs::read(&got).expect("the file") == content);
}
