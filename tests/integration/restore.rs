//! What stands in the workspace after a run: exactly what the tasks made, however it came there.

use crate::support::{Ledger, Place, Run, Workspace, make_fifo, without_privileges};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
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
