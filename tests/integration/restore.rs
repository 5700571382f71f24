//! What stands in the workspace after a run: exactly what the tasks made, however it came there.
//!
//! | promise | test |
//! |---|---|
//! | outputs deleted: back without a run; empty files and directories, execute bits, links, hard links | `every_kind_of_output_comes_back_as_it_was` |
//! | an output edited by hand is repaired, the rest is not touched | `an_output_changed_by_hand_is_repaired_...` |
//! | stale files of `dir/` and of patterns are gone | `files_of_an_earlier_build_are_gone_...` |
//! | set-user bits do not come back | `privileged_bits_do_not_come_back` |
//! | a link out of the workspace, a pipe: not kept, and told | `what_cannot_be_kept_is_told_and_runs_again` |
//! | a declared output that is missing fails the task, nothing is kept | `a_declared_output_that_is_not_made_...` |
//! | an optional output that is absent is absent after a hit | `the_absence_of_an_optional_output_...` |
//! | a directory for a file and the reverse | `a_directory_in_place_of_a_file_...` |
//! | editing one of two hard links later does not change the cache | `an_edit_of_an_output_does_not_reach_the_cache` |
//! | names with spaces, quotes, newlines, 255 bytes, no text | `any_name_is_a_good_name` |
//! | more outputs than a record names | `more_outputs_than_a_record_names_...`, `more_absent_outputs_...` |
//! | overlap of patterns that only a run shows | `patterns_that_meet_in_a_run_are_an_error_that_names_both` |
//! | a read-only directory is restored and cleaned | `a_read_only_directory_...` |
//! | nothing outside of the workspace is written, by outputs or by our own files | `nothing_is_written_outside_through_a_link`, `a_repository_cannot_lead_...` |
//! | no room for a restore: earlier outputs stay, the command runs | `without_room_for_a_restore_...` |
//! | no room for the command: it fails, nothing is kept | `a_command_that_fills_the_disk_fails_and_leaves_no_result` |
//! | clones and hard links hold the right bytes, and are never written through | `files_share_their_blocks_...`, `hard_links_are_made_...` |
//!
//! Outputs of many gigabytes are measured by `scripts/bench.sh`, not tested here.

use crate::support::{Ledger, Place, Run, Workspace, make_fifo, without_privileges};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

/// A workspace with one task that runs `command` and counts its executions.
fn one(place: &Place, command: &str, outputs: &Value) -> (Workspace, Ledger) {
    let ledger = Ledger::new(place);
    let command = format!("{}\n{command}", ledger.line());
    let graph = json!({"tasks": {"t": {"command": command, "inputs": [], "outputs": outputs}}});
    (place.workspace("w", &graph, &[]), ledger)
}

/// Everything below a directory: path, kind with permissions, content.
fn listing(root: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a list").flatten() {
            let path = entry.path();
            let meta = path.symlink_metadata().expect("a file");
            let what = if meta.is_dir() {
                directories.push(path.clone());
                "directory".to_owned()
            } else if meta.is_symlink() {
                format!("link to {:?}", fs::read_link(&path).expect("a link"))
            } else {
                let mode = meta.permissions().mode() & 0o7777;
                format!("{mode:o} {:?}", fs::read(&path).expect("a file"))
            };
            found
                .push((path.strip_prefix(root).expect("a path below").display().to_string(), what));
        }
    }
    found.sort();
    found
}

/// Runs, removes `outputs`, runs again: the second run restores what the first one made.
#[track_caller]
fn comes_back(workspace: &Workspace, outputs: &[&str]) {
    workspace.run(&[]).expect_success();
    let made: Vec<_> = without_ours(listing(&workspace.root));
    outputs.iter().for_each(|output| workspace.remove(output));
    let run = workspace.run(&[]).expect_success();
    assert_eq!((run.executed(), run.count("/hits/disk")), (0, 1), "{}", run.stderr);
    assert_eq!(without_ours(listing(&workspace.root)), made);
}

fn without_ours(listing: Vec<(String, String)>) -> Vec<(String, String)> {
    listing.into_iter().filter(|(path, _)| !path.starts_with(".netbuild")).collect()
}

#[track_caller]
fn repairs(workspace: &Workspace, ledger: &Ledger) -> Run {
    let executions = ledger.count();
    let run = workspace.run(&[]).expect_success();
    assert_eq!(ledger.count(), executions, "it ran again: {}", run.stderr);
    run
}

#[test]
fn a_cache_that_is_new_to_a_built_workspace_comes_to_have_its_results() {
    let place = Place::new();
    let (workspace, ledger) = one(&place, "echo made > out", &json!(["out"]));
    workspace.run(&[]).expect_success();
    let other = workspace.with_data_dir(&place.path("other.data"));
    other.run(&[]).expect_success();
    other.remove("out");
    let run = other.run(&[]).expect_success();
    assert_eq!((run.executed(), run.count("/hits/disk")), (0, 1), "{}", run.stderr);
    let executions = ledger.count();
    // A cache that cannot be used is no reason to make again what stands.
    let nowhere = workspace.with_data_dir(&workspace.root.join("out/nowhere"));
    assert_eq!(nowhere.run(&[]).expect_success().executed(), 0);
    assert_eq!(ledger.count(), executions);
}

#[test]
fn every_kind_of_output_comes_back_as_it_was() {
    let place = Place::new();
    let command = "
        mkdir -p dir/empty/deeper dir/full; printf x > dir/full/file; : > dir/nothing
        printf '#!/bin/sh' > dir/tool; chmod 755 dir/tool; ln dir/tool dir/hardlink
        ln -s full/file dir/link; ln -s nowhere dir/dangling; ln -s ../single dir/up
        printf y > single; printf z > 'pat-1.txt'; printf z > 'pat-2.txt'";
    let outputs = json!(["dir/", "single", "pat-*.txt"]);
    let (workspace, _) = one(&place, command, &outputs);
    comes_back(&workspace, &["dir", "single", "pat-1.txt", "pat-2.txt"]);
}

#[test]
fn an_output_changed_by_hand_is_repaired_and_what_is_right_stays_untouched() {
    let place = Place::new();
    let (workspace, ledger) = one(&place, "echo a > a; mkdir d; echo b > d/b", &json!(["a", "d/"]));
    workspace.run(&[]).expect_success();
    let modified = |path: &str| workspace.root.join(path).metadata().unwrap().modified().unwrap();
    let before = modified("d/b");
    workspace.write("a", "A\n");
    repairs(&workspace, &ledger);
    assert_eq!((workspace.read("a").as_str(), modified("d/b")), ("a\n", before));
    // The right size, another kind, another permission.
    let a = workspace.root.join("a");
    fs::set_permissions(&a, fs::Permissions::from_mode(0o755)).unwrap();
    workspace.remove("d/b");
    fs::create_dir_all(workspace.root.join("d/b/c")).unwrap();
    repairs(&workspace, &ledger);
    assert_eq!(a.metadata().unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(workspace.read("d/b"), "b\n");
    workspace.remove("d");
    workspace.write("d", "a file now");
    repairs(&workspace, &ledger);
    assert_eq!(workspace.read("d/b"), "b\n");
}

#[test]
fn files_of_an_earlier_build_are_gone_after_an_execution_and_after_a_hit() {
    let place = Place::new();
    let (workspace, ledger) =
        one(&place, "mkdir -p d; : > d/new; : > new.gen", &json!(["d/", "*.gen"]));
    for round in 0..3 {
        workspace.write("d/stale/deep", "");
        workspace.write("stale.gen", "");
        workspace.write("mine", "");
        // At first an execution, then a hit with all in place, then a hit that restores.
        if round == 2 {
            workspace.remove("d/new");
        }
        workspace.run(&[]).expect_success();
        let names = ["d/stale", "stale.gen", "d/new", "new.gen", "mine"];
        let there = names.map(|name| workspace.exists(name));
        assert_eq!(there, [false, false, true, true, true], "round {round}");
    }
    assert_eq!(ledger.count(), 1);
}

#[test]
fn a_declared_output_that_is_not_made_fails_the_task_and_nothing_is_kept() {
    let place = Place::new();
    for (number, outputs) in
        [json!(["out"]), json!(["out/"]), json!(["out/*.txt"])].iter().enumerate()
    {
        let graph = json!({"tasks": {"t": {"command": "true", "inputs": [], "outputs": outputs}}});
        let workspace = place.workspace(&number.to_string(), &graph, &[]);
        for _ in 0..2 {
            let run = workspace.run(&[]);
            assert_eq!((run.code(), run.count("/failed")), (Some(1), 1));
            assert!(run.stderr.contains("was not produced"), "{}", run.stderr);
        }
    }
}

#[test]
fn the_absence_of_an_optional_output_is_restored_too() {
    let place = Place::new();
    let optional = |path: &str| json!({"path": path, "optional": true});
    let outputs = json!(["out", optional("maybe"), optional("maybe-dir/"), optional("maybe-*.x")]);
    let (workspace, ledger) = one(&place, ": > out", &outputs);
    workspace.run(&[]).expect_success();
    workspace.write("maybe", "");
    workspace.write("maybe-dir/x", "");
    workspace.write("maybe-1.x", "");
    repairs(&workspace, &ledger);
    for path in ["maybe", "maybe-dir", "maybe-1.x"] {
        assert!(!workspace.exists(path), "{path}");
    }
}

#[test]
fn a_directory_in_place_of_a_file_and_the_reverse_fail_with_advice() {
    let place = Place::new();
    for (name, command, output, advice) in
        [("a", "mkdir out", "out", "declare `out/`"), ("b", ": > out", "out/", "declare `out`")]
    {
        let graph =
            json!({"tasks": {"t": {"command": command, "outputs": [output], "inputs": []}}});
        let run = place.workspace(name, &graph, &[]).run(&[]);
        assert_eq!(run.code(), Some(1));
        assert!(run.stderr.contains(advice), "{}", run.stderr);
    }
}

#[test]
fn what_cannot_be_kept_is_told_and_runs_again() {
    let place = Place::new();
    for (name, command, outputs, why) in [
        ("absolute", "ln -s /etc/passwd out", json!(["out"]), "`out` is a symbolic link out"),
        ("up", "mkdir d; ln -s ../../x d/l", json!(["d/"]), "`d/l` is a symbolic link out"),
        ("pipe", "mkfifo out", json!(["out"]), "out` is a named pipe"),
        ("pipe-in-tree", "mkdir d; mkfifo d/p", json!(["d/"]), "d/p` is a named pipe"),
    ] {
        let graph = json!({"tasks": {"t": {"command": command, "outputs": outputs, "inputs": []}}});
        let workspace = place.workspace(name, &graph, &[]);
        for _ in 0..2 {
            let run = workspace.run(&[]).expect_success();
            assert_eq!(run.executed(), 1, "{name}");
            assert!(run.stderr.contains(why), "{name}: {}", run.stderr);
            assert!(run.stderr.contains("its result is not kept"), "{name}: {}", run.stderr);
        }
    }
}

#[test]
fn privileged_bits_do_not_come_back() {
    let place = Place::new();
    let (workspace, _) = one(&place, ": > out; chmod 6755 out", &json!(["out"]));
    workspace.run(&[]).expect_success();
    workspace.remove("out");
    workspace.run(&[]).expect_success();
    let mode = workspace.root.join("out").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
}

#[test]
fn any_name_is_a_good_name() {
    let place = Place::new();
    let names = ["two words", "q'uo\"te", "do$lar", "new\nline", "😀", "-dash", "back\\slash", "*"];
    let long = "l".repeat(255);
    let script = place.path("make");
    let mut text = "#!/bin/sh\nmkdir -p d\n".to_owned();
    for name in names.iter().chain([&long.as_str()]) {
        let quoted = format!("'{}'", name.replace('\'', "'\\''"));
        text += &format!("printf %s {quoted} > d/{quoted}\n");
    }
    text += "printf x > \"$(printf 'd/\\377\\376')\"\n";
    fs::write(&script, text).unwrap();
    let command =
        format!("sh {}; printf y > ./-top; printf z > 'a b'; printf e > 😀", script.display());
    let (workspace, _) = one(&place, &command, &json!(["d/", "-top", "a b", "😀"]));
    comes_back(&workspace, &["d", "-top", "a b", "😀"]);
}

#[test]
fn more_outputs_than_a_record_names_come_back_too() {
    let make = "mkdir -p files; i=0; while [ $i -lt 300 ]; do echo $i > files/$i; i=$((i+1)); done";
    let literal: Vec<String> = (0..300).map(|i| format!("files/{i}")).collect();
    // With a directory of the very name that the list of files goes by in a record.
    let mixed = format!("{make}; mkdir -p many; cp files/* many");
    for (command, outputs) in
        [(make, json!(["files/*"])), (make, json!(literal)), (&mixed, json!(["many/*", "files/"]))]
    {
        let place = Place::new();
        let (workspace, _) = one(&place, command, &outputs);
        comes_back(&workspace, &["files"]);
    }
}

#[test]
fn more_absent_outputs_than_a_record_takes_are_no_trouble_with_the_cache() {
    let place = Place::new();
    let absent: Vec<_> =
        (0..300).map(|i| json!({"path": format!("no/{i}"), "optional": true})).collect();
    let (workspace, _) = one(&place, "true", &json!(absent));
    let run = workspace.run(&[]).expect_success();
    assert!(run.stderr.contains("more than 256 of its outputs"), "{}", run.stderr);
}

#[test]
fn a_read_only_directory_is_restored_and_cleaned() {
    let place = Place::new();
    let command = "mkdir -p d/e; echo $V > d/e/f; chmod 0555 d/e d";
    let graph = |version: u32| {
        json!({"tasks": {"t": {"command": command, "env": {"V": version.to_string()},
                               "inputs": [], "outputs": ["d/"]}}})
    };
    let workspace = place.workspace("w", &graph(1), &[]);
    let run = || Run::of(&mut without_privileges(&workspace.command(&["--json"]))).expect_success();
    assert_eq!(run().executed(), 1);
    workspace.write("graph.json", &graph(2).to_string());
    assert_eq!(run().executed(), 1);
    assert_eq!(workspace.read("d/e/f"), "2\n");
    workspace.write("graph.json", &graph(1).to_string());
    assert_eq!(run().count("/hits/disk"), 1);
    assert_eq!(workspace.read("d/e/f"), "1\n");
    let left = fs::read_dir(workspace.root.join(".netbuild/tmp")).unwrap().count();
    assert_eq!(left, 0, "nothing stays behind");
}

#[test]
fn an_output_with_the_path_of_its_workspace_is_good_only_there() {
    let place = Place::new();
    let ledger = Ledger::new(&place);
    let graph = json!({"tasks": {
        "bound": {"command": format!("pwd > bound; {}", ledger.line()), "inputs": [],
                  "outputs": ["bound"]},
        "free": {"command": format!("echo x > free; {}", ledger.line()), "inputs": [],
                 "outputs": ["free"]}}});
    let data = place.path("data");
    let [one, two] = ["one", "two"].map(|n| place.workspace(n, &graph, &[]).with_data_dir(&data));
    assert_eq!(one.run(&[]).expect_success().executed(), 2);
    let run = two.run(&[]).expect_success();
    assert_eq!((run.executed(), run.count("/hits/disk")), (1, 1));
    for workspace in [&one, &two] {
        let path = workspace.root.canonicalize().unwrap();
        assert_eq!(workspace.read("bound").trim(), path.display().to_string());
    }
    two.remove("bound");
    two.remove("free");
    assert_eq!(two.run(&[]).expect_success().executed(), 0);
}

#[test]
fn nothing_is_written_outside_through_a_link() {
    let place = Place::new();
    let outside = place.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "precious").unwrap();
    let outputs = json!(["out/file", "out/dir/", "out/*.x"]);
    let command = "mkdir -p out/dir; echo made > out/file; : > out/dir/a; : > out/1.x";
    let (workspace, ledger) = one(&place, command, &outputs);
    workspace.run(&[]).expect_success();
    workspace.remove("out");
    symlink(&outside, workspace.root.join("out")).unwrap();
    let run = workspace.run(&[]);
    assert_eq!(run.code(), Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("leads out of the workspace"), "{}", run.stderr);
    assert_eq!(listing(&outside).len(), 1);
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "precious");
    assert_eq!(ledger.count(), 1);
    // A link that stays inside is followed.
    workspace.remove("out");
    fs::create_dir(workspace.root.join("real")).unwrap();
    symlink("real", workspace.root.join("out")).unwrap();
    repairs(&workspace, &ledger);
    assert_eq!(workspace.read("real/file"), "made\n");
}

#[test]
fn a_pipe_that_somebody_put_in_place_of_an_output_hangs_nothing() {
    let place = Place::new();
    let (workspace, ledger) = one(&place, ": > out; mkdir d; : > d/a", &json!(["out", "d/"]));
    workspace.run(&[]).expect_success();
    for path in ["out", "d/a"] {
        workspace.remove(path);
        make_fifo(&workspace.root.join(path));
    }
    make_fifo(&workspace.root.join("d/more"));
    repairs(&workspace, &ledger);
    assert!(workspace.root.join("out").metadata().unwrap().is_file());
    assert!(!workspace.exists("d/more"));
}

/// A file system of its own for a test.
struct Mount(PathBuf);

impl Mount {
    fn new(at: PathBuf, arguments: &[&str]) -> Self {
        fs::create_dir(&at).expect("a directory");
        told("mount", &[arguments, &[&at.display().to_string()]].concat());
        Self(at)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// What a program printed that does well.
#[track_caller]
fn told(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect(program);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}, which needs root: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn without_room_for_a_restore_the_command_runs_and_nothing_is_lost_before() {
    let place = Place::new();
    // It writes into the file that is there, for which there is room, and not for a second one.
    let graph = |version: u32| {
        let command = "head -c 3000000 /dev/zero | tr '\\0' $V > big; echo $V > small";
        json!({"tasks": {"t": {"command": command, "env": {"V": version.to_string()}, "inputs": [],
                               "outputs": ["big", "small"], "clean": false}}})
    };
    let data = place.path("data");
    let roomy = place.workspace("roomy", &graph(2), &[]).with_data_dir(&data);
    roomy.run(&[]).expect_success();
    let mount = Mount::new(place.path("full"), &["-t", "tmpfs", "-o", "size=5m", "tmpfs"]);
    let workspace = place.workspace("full", &graph(1), &[]).with_data_dir(&data);
    workspace.run(&[]).expect_success();
    workspace.write("graph.json", &graph(2).to_string());
    let run = workspace.run(&[]).expect_success();
    assert_eq!(run.executed(), 1, "{}", run.stderr);
    let why = "its result cannot be restored: cannot write";
    assert!(run.stderr.contains(why) && run.stderr.contains("No space left"), "{}", run.stderr);
    assert_eq!(workspace.read("small"), "2\n");
    assert!(workspace.read("big") == "2".repeat(3_000_000));
    // With a command that cannot do without the room either, what stood there stands there still.
    let graph = |version: u32| {
        let command = "test -e ../ok && head -c 3000000 /dev/zero > big";
        json!({"tasks": {"t": {"command": command, "env": {"V": version.to_string()}, "inputs": [],
                               "outputs": ["big"], "clean": false}}})
    };
    fs::write(place.path("ok"), "").unwrap();
    roomy.write("graph.json", &graph(3).to_string());
    roomy.run(&[]).expect_success();
    fs::remove_file(place.path("ok")).unwrap();
    workspace.write("graph.json", &graph(3).to_string());
    assert_eq!(workspace.run(&[]).code(), Some(1));
    assert!(workspace.read("big") == "2".repeat(3_000_000));
    drop(mount);
}

#[test]
fn files_share_their_blocks_with_the_cache_where_the_file_system_can() {
    let place = Place::new();
    let image = place.path("image");
    fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
    told("mkfs.btrfs", &["-q", &image.display().to_string()]);
    let mount = Mount::new(place.path("btrfs"), &["-o", "loop", &image.display().to_string()]);
    let command = "head -c 3000000 /dev/urandom > big; cp big tool; chmod 755 tool; echo x > small";
    let graph = json!({"tasks": {"t": {"command": command, "inputs": [],
                                       "outputs": ["big", "tool", "small"]}}});
    let place = mount.0.clone();
    let workspace = Workspace { root: place.join("w"), data_dir: place.join("data") };
    workspace.write("graph.json", &graph.to_string());
    workspace.run(&[]).expect_success();
    let made = ["big", "tool", "small"].map(|name| fs::read(workspace.root.join(name)).unwrap());
    ["big", "tool", "small"].iter().for_each(|name| workspace.remove(name));
    let run = workspace.run(&[]).expect_success();
    assert_eq!(run.count("/hits/disk"), 1, "{}", run.stderr);
    for (name, content, mode) in [("big", 0, 0o644), ("tool", 1, 0o755), ("small", 2, 0o644)] {
        let path = workspace.root.join(name);
        assert!(fs::read(&path).unwrap() == made[content], "{name}");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, mode, "{name}");
    }
    told("sync", &["-f", &place.display().to_string()]);
    let extents = told("filefrag", &["-v", &workspace.root.join("big").display().to_string()]);
    assert!(extents.contains("shared"), "{extents}");

    // A damaged blob is not passed on by this way, either.
    let blob = blobs_of(&workspace.data_dir).into_iter().find(|b| fs::read(b).unwrap() == made[0]);
    let mut bad = made[0].clone();
    bad[1_000_000] ^= 1;
    fs::write(blob.expect("a blob"), bad).unwrap();
    workspace.remove("big");
    workspace.run(&[]).expect_success();
    // Whether the blob was healed by the other file of these bytes or the task ran again: what stands is
    // what was made together.
    assert!(
        fs::read(workspace.root.join("big")).unwrap()
            == fs::read(workspace.root.join("tool")).unwrap()
    );
    assert_eq!(workspace.run(&[]).expect_success().executed(), 0);
}

fn blobs_of(data_dir: &Path) -> Vec<PathBuf> {
    let list = |directory: &Path| fs::read_dir(directory).expect("a list").flatten();
    let directories = list(&data_dir.join("blobs"));
    directories.flat_map(|directory| list(&directory.path()).map(|blob| blob.path())).collect()
}

#[test]
fn hard_links_are_made_on_request_read_only_and_never_written_through() {
    let place = Place::new();
    let command = "head -c 100000 /dev/zero | tr '\\0' $V > big; cp big tool; chmod 755 tool; echo $V > small";
    let graph = |version: u32| {
        json!({"tasks": {"t": {"command": command, "env": {"V": version.to_string()}, "inputs": [],
                               "outputs": ["big", "tool", "small"]}}})
    };
    let workspace = place.workspace("w", &graph(1), &[]);
    let meta = |name: &str| workspace.root.join(name).metadata().unwrap();
    let is_version = |version: &str| {
        assert!(workspace.read("big") == version.repeat(100_000), "another version than {version}");
        assert_eq!(workspace.read("small"), format!("{version}\n"));
    };
    workspace.run(&["--link=hard"]).expect_success();
    assert_eq!(meta("big").nlink(), 1, "what was made is the workspace's own");
    ["big", "tool", "small"].iter().for_each(|name| workspace.remove(name));
    let run = workspace.run(&["--link=hard"]).expect_success();
    assert_eq!(run.count("/hits/disk"), 1, "{}", run.stderr);
    is_version("1");
    assert_eq!((meta("big").nlink(), meta("big").mode() & 0o7777), (2, 0o444));
    assert_eq!((meta("tool").nlink(), meta("tool").mode() & 0o7777), (1, 0o755));
    // It stands, for a run with links and for one without.
    for arguments in [&["--link=hard"][..], &[]] {
        assert_eq!(workspace.run(arguments).expect_success().executed(), 0);
        assert_eq!(meta("big").nlink(), 2);
    }
    // The command makes new files, and does not write into the cache through the old ones.
    workspace.write("graph.json", &graph(2).to_string());
    assert_eq!(workspace.run(&["--link=hard"]).expect_success().executed(), 1);
    is_version("2");
    workspace.write("graph.json", &graph(1).to_string());
    let run = workspace.run(&[]).expect_success();
    assert_eq!((run.executed(), run.count("/hits/disk")), (0, 1), "{}", run.stderr);
    is_version("1");
    assert_eq!((meta("big").nlink(), meta("big").mode() & 0o7777), (1, 0o644));

    // A task whose command finds its old outputs would write into a link: it gets copies.
    let mut kept = graph(1);
    kept["tasks"]["t"]["clean"] = json!(false);
    workspace.write("graph.json", &kept.to_string());
    workspace.run(&[]).expect_success();
    ["big", "tool", "small"].iter().for_each(|name| workspace.remove(name));
    assert_eq!(workspace.run(&["--link=hard"]).expect_success().count("/hits/disk"), 1);
    assert_eq!(meta("big").nlink(), 1);
}

#[test]
fn a_repository_cannot_lead_our_own_files_out_of_the_workspace() {
    let graph =
        json!({"tasks": {"t": {"command": "echo x > out", "inputs": [], "outputs": ["out"]}}});
    let ours = ["", "/tmp", "/history", "/tasks.lock", "/.gitignore", "/state"];
    for name in ours.map(|name| format!(".netbuild{name}")) {
        let place = Place::new();
        let outside = place.path("outside");
        // As what a killed run leaves, which a later one removes.
        fs::create_dir_all(outside.join("precious")).unwrap();
        for file in ["precious.lock", "precious/file", "tasks.lock"] {
            fs::write(outside.join(file), "precious").unwrap();
        }
        let workspace = place.workspace("w", &graph, &[]);
        let link = workspace.root.join(&name);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        let is_directory = [".netbuild", ".netbuild/tmp"].contains(&&*name);
        let target = if is_directory { outside.clone() } else { outside.join("new") };
        symlink(&target, &link).unwrap();
        let before = listing(&outside);
        for _ in 0..2 {
            let run = workspace.run(&[]);
            if is_directory {
                assert!(run.stderr.contains("a link or a file stands there"), "{}", run.stderr);
            }
            assert_eq!(listing(&outside), before, "{name}: {}", run.stderr);
        }
    }
}

#[test]
fn patterns_that_meet_in_a_run_are_an_error_that_names_both() {
    let place = Place::new();
    let graph = |one: &str, other: &str| {
        let make = |path: &str| format!("mkdir -p gen && echo x > gen/{path}");
        json!({"tasks": {
            "a": {"command": make(one), "inputs": [], "outputs": ["gen/*.x"]},
            "b": {"command": make(other), "inputs": [], "outputs": ["gen/?1*"],
                  "deps": [{"task": "a", "kind": "order"}]}}})
    };
    let workspace = place.workspace("w", &graph("a0.x", "b1.y"), &[]);
    workspace.run(&[]).expect_success();
    // One that makes what the other's pattern matches, and one whose file the other would remove.
    for (one, other, owner) in [("a0.x", "b1.x", "a"), ("a1.x", "b1.y", "b")] {
        let workspace = place.workspace(&format!("{one}-{other}"), &graph(one, other), &[]);
        for _ in 0..2 {
            let run = workspace.run(&[]);
            assert_eq!(run.code(), Some(1), "{}", run.stderr);
            assert!(run.stderr.contains("G011 `gen/"), "{}", run.stderr);
            let says = format!("is an output of `{owner}`, too");
            assert!(run.stderr.contains(&says), "{}", run.stderr);
            assert!(workspace.exists(&format!("gen/{one}")), "what `a` made stays");
        }
    }
}

#[test]
fn an_edit_of_an_output_does_not_reach_the_cache() {
    let place = Place::new();
    let command = "head -c 100000 /dev/zero > one; ln one other";
    let (workspace, ledger) = one(&place, command, &json!(["one", "other"]));
    workspace.run(&[]).expect_success();
    let made = workspace.read("one");
    for _ in 0..2 {
        // In place, as an editor or a tool would: at first of what was made, then of what was restored.
        fs::File::options()
            .append(true)
            .open(workspace.root.join("one"))
            .unwrap()
            .set_len(7)
            .unwrap();
        repairs(&workspace, &ledger);
        assert!(workspace.read("one") == made && workspace.read("other") == made);
    }
}

#[test]
fn a_command_that_fills_the_disk_fails_and_leaves_no_result() {
    let place = Place::new();
    let mount = Mount::new(place.path("small"), &["-t", "tmpfs", "-o", "size=2m", "tmpfs"]);
    let command = "head -c 4000000 /dev/zero > out";
    let graph = json!({"tasks": {"t": {"command": command, "inputs": ["x"], "outputs": ["out"]}}});
    let workspace = place.workspace("small", &graph, &[("x", "")]);
    for _ in 0..2 {
        let run = workspace.run(&[]);
        assert_eq!((run.code(), run.count("/failed")), (Some(1), 1), "{}", run.stderr);
        assert!(run.stderr.contains("No space left"), "{}", run.stderr);
    }
    drop(mount);
}

#[test]
fn a_file_of_a_terabyte_is_not_read_and_what_depends_on_it_follows_it() {
    let place = Place::new();
    let graph = json!({"tasks": {
        "big": {"command": "truncate -s 1T big; cat version", "inputs": ["version"], "outputs": ["big"]},
        "after": {"command": "stat -c %s big > size; echo x >> ../runs", "deps": ["big"],
                  "outputs": ["size"]}}});
    let workspace = place.workspace("w", &graph, &[("version", "1")]);
    for runs in 1..=2 {
        let run = workspace.run(&[]).expect_success();
        let told = "output `big` has more than the 64 GiB that are read of a file";
        assert!(run.stderr.contains(told), "{}", run.stderr);
        assert_eq!(workspace.read("size"), "1099511627776\n");
        // It is made anew each time, and so another one.
        assert_eq!(workspace.read("../runs").lines().count(), runs);
    }
    // As an input it is the same until it changes.
    let graph = json!({"tasks": {
        "t": {"command": "stat -c %s big > size", "inputs": ["big"], "outputs": ["size"]}}});
    workspace.write("graph.json", &graph.to_string());
    for executed in [1, 0] {
        assert_eq!(workspace.run(&[]).expect_success().executed(), executed);
    }
    fs::OpenOptions::new()
        .write(true)
        .open(workspace.root.join("big"))
        .unwrap()
        .set_len(2 << 40)
        .unwrap();
    assert_eq!(workspace.run(&[]).expect_success().executed(), 1);
    assert_eq!(workspace.read("size"), format!("{}\n", 2_u64 << 40));
}
