//! What makes a task run again, what does not, and how a run ends.
//!
//! | promise | test |
//! |---|---|
//! | the order of arguments counts, that of variables does not; `AB` and `A`, `B` differ | `the_order_of_arguments_counts_...`, and `core/key.rs` |
//! | the execute bit of an input counts, its times do not | `content_and_the_execute_bit_...` |
//! | an empty directory in an input tree counts | `a_directory_as_input_is_all_that_is_in_it` |
//! | `pass_env`: unset, empty and set differ; a prefix finds new variables | `a_variable_that_is_passed_...` |
//! | a secret is not keyed, and stands in no file | `a_secret_is_neither_keyed_...`; values that are keyed: `why.rs` |
//! | `PATH`, `HOME`, locale and time zone of the caller do not count | `nothing_else_of_the_callers_environment_counts` |
//! | a tool upgraded in place runs its tasks again | `a_tool_that_is_upgraded_in_place_...` |
//! | operating system, architecture and C library count unless `platform_key` says `any` | `core/key.rs`: `every_field_changes_the_key` |
//! | a task renamed, a description, layout, comments do not count | `what_only_people_read_...` |
//! | equal outputs end a rebuild early | `an_edit_that_does_not_change_what_a_task_makes_...` |
//! | an edit while the task runs, taken back, leaves nothing | `an_edit_during_a_task_that_is_taken_back_...` |
//! | a command that writes its own input is not cached, and the file named | `a_task_that_writes_to_its_own_input_...` |
//! | an input that is a pipe, socket, device, missing, unreadable, or vanishes is named; nothing hangs | `inputs_that_cannot_be_read_...`, `an_input_that_may_not_be_read_...` |
//! | an edit of the same size in the same instant is seen | `runner/files.rs` |
//! | times of inputs in 1970, in 2099, or that go back | `times_of_inputs_in_the_past_and_in_the_future_...` |
//! | a loop of links among the inputs ends | `links_among_the_inputs_...` |
//! | logs of any bytes and size; a command that reads, closes its output | `a_command_may_print_anything_...`; shown again: `why.rs` |
//! | a cache that cannot be read or written fails nothing | `a_cache_that_cannot_be_used_...` |
//! | two runs at once execute once | `two_runs_at_once_execute_a_task_once` |
//! | a thousand tasks within 256 descriptors | `a_thousand_tasks_need_few_descriptors` |
//! | `-k`, exit codes, retries, a command that is killed | `a_failed_task_ends_the_run_with_1_...`, `wrong_usage_...`, `a_task_that_fails_at_first_...`, `a_command_that_is_killed_...` |
//!
//! What a killed or interrupted run leaves: `interruption.rs`. Outputs: `restore.rs`. Damage: `integrity.rs`. Graphs that are wrong:
//! `bad_graphs.rs` and `core/tests`. `--dry-run` and `why` change nothing: `running.rs`, `why.rs`.

use crate::support::{
    Ledger, Place, Run, Workspace, make_fifo, through, wait_until, without_privileges,
};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        net::UnixListener,
    },
    path::Path,
    process::Stdio,
};

fn tasks(tasks: Value) -> Value {
    json!({ "tasks": tasks })
}

/// Runs everything, which must do well and execute so many tasks.
#[track_caller]
fn executes(workspace: &Workspace, expected: u64) -> Run {
    let run = workspace.run(&[]).expect_success();
    assert_eq!(run.executed(), expected, "{}", run.stderr);
    run
}

/// Likewise, with these variables in the caller's environment.
#[track_caller]
fn executes_with(workspace: &Workspace, variables: &[(&str, &str)], expected: u64) -> Run {
    let variables = variables.iter().copied();
    let run = Run::of(workspace.command(&["--json"]).envs(variables)).expect_success();
    assert_eq!(run.executed(), expected, "{}", run.stderr);
    run
}

#[track_caller]
fn fails(run: &Run, parts: &[&str]) {
    assert_eq!(run.code(), Some(1), "{}", run.stderr);
    for part in parts {
        assert!(run.stderr.contains(part), "no `{part}` in: {}", run.stderr);
    }
}

#[test]
fn the_order_of_arguments_counts_and_that_of_variables_does_not() {
    let place = Place::new();
    let ledger = Ledger::new(&place);
    let graph = |arguments: [&str; 2], env: &str| {
        let script = ledger.line();
        let [a, b] = arguments;
        format!(
            r#"{{"tasks": {{"t": {{"command": ["sh", "-c", {script:?}, {a:?}, {b:?}],
                 "env": {env}, "inputs": []}}}}}}"#
        )
    };
    let workspace = place.workspace("w", &Value::Null, &[]);
    let steps = [
        (["a", "b"], r#"{"A": "1", "B": "2"}"#, 1),
        (["a", "b"], r#"{"B": "2", "A": "1"}"#, 0),
        (["b", "a"], r#"{"A": "1", "B": "2"}"#, 1),
        (["a b", ""], r#"{"A": "1", "B": "2"}"#, 1),
        (["a", "b"], r#"{"AB": "12"}"#, 1),
        (["a", "b"], r#"{"A": "B12"}"#, 1),
    ];
    for (arguments, env, expected) in steps {
        workspace.write("graph.json", &graph(arguments, env));
        executes(&workspace, expected);
    }
    assert_eq!(ledger.count(), 5);
}

#[test]
fn content_and_the_execute_bit_of_an_input_count_and_its_times_do_not() {
    let place = Place::new();
    let graph =
        tasks(json!({"t": {"command": "cat in > out", "inputs": ["in"], "outputs": ["out"]}}));
    let workspace = place.workspace("w", &graph, &[("in", "one")]);
    let input = workspace.root.join("in");
    executes(&workspace, 1);
    fs::set_permissions(&input, fs::Permissions::from_mode(0o755)).unwrap();
    executes(&workspace, 1);
    for seconds in [0, 4_000_000_000] {
        let file = fs::File::options().append(true).open(&input).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        file.set_times(fs::FileTimes::new().set_modified(time)).unwrap();
        executes(&workspace, 0);
    }
    // As large as before, and so soon that the times may be the same.
    workspace.write("in", "two");
    executes(&workspace, 1);
    assert_eq!(workspace.read("out"), "two");
    workspace.write("undeclared", "x");
    executes(&workspace, 0);
}

#[test]
fn a_variable_that_is_passed_counts_whether_unset_empty_or_set() {
    let place = Place::new();
    let graph = tasks(json!({
        "t": {"command": "echo \"${MODE-unset}\" > out", "pass_env": ["MODE", "OPT_*"],
              "inputs": [], "outputs": ["out"]}}));
    let workspace = place.workspace("w", &graph, &[]);
    executes(&workspace, 1);
    assert_eq!(workspace.read("out"), "unset\n");
    executes_with(&workspace, &[("MODE", "")], 1);
    assert_eq!(workspace.read("out"), "\n");
    executes_with(&workspace, &[("MODE", "fast")], 1);
    assert_eq!(workspace.read("out"), "fast\n");
    executes_with(&workspace, &[("MODE", "fast"), ("OTHER", "1")], 0);
    executes_with(&workspace, &[("MODE", "fast"), ("OPT_NEW", "1")], 1);
    executes(&workspace, 0);
    assert_eq!(workspace.read("out"), "unset\n");
}

#[test]
fn nothing_else_of_the_callers_environment_counts() {
    let place = Place::new();
    let graph = tasks(json!({
        "t": {"command": "echo \"$LANG ${LC_ALL-} $TZ\" > out", "inputs": [], "outputs": ["out"]}}));
    let workspace = place.workspace("w", &graph, &[]);
    executes(&workspace, 1);
    assert_eq!(workspace.read("out"), "C.UTF-8  UTC\n");
    let path = format!("/nowhere:{}", std::env::var("PATH").unwrap());
    let different = [
        ("PATH", path.as_str()),
        ("HOME", "/nowhere"),
        ("LC_ALL", "tr_TR.UTF-8"),
        ("LANG", "C"),
        ("TZ", "Asia/Tokyo"),
    ];
    executes_with(&workspace, &different, 0);
    workspace.remove("out");
    executes_with(&workspace, &different, 0);
    // And it does not reach a command that does run.
    workspace.remove(".netbuild");
    let fresh = workspace.with_data_dir(&place.path("fresh"));
    executes_with(&fresh, &different, 1);
    assert_eq!(workspace.read("out"), "C.UTF-8  UTC\n");
}

#[test]
fn a_secret_is_neither_keyed_nor_kept_nor_shown() {
    const SECRET: &str = "s3cret-of-the-test-9f2a";
    let place = Place::new();
    let graph = tasks(json!({
        "t": {"command": "echo \"token $TOKEN.\"; printf %s \"${TOKEN#s3}\" >&2; echo done > out",
              "secret_env": ["TOKEN"], "inputs": [], "outputs": ["out"]},
        "failing": {"command": "echo $TOKEN >&2; exit 3", "secret_env": ["TOKEN"]}}));
    let workspace = place.workspace("w", &graph, &[]);
    let run = |secret| {
        let mut command = workspace.command(&["t", "failing", "--json", "-v", "--keep-going"]);
        Run::of(command.env("TOKEN", secret))
    };
    let first = run(SECRET);
    assert_eq!((first.executed(), first.count("/failed")), (1, 1), "{}", first.stderr);
    assert!(first.stderr.contains("token ***."), "{}", first.stderr);
    let second = run("another-value");
    assert_eq!(second.count("/hits/disk"), 1, "{}", second.stderr);
    assert!(!first.stderr.contains(SECRET), "{}", first.stderr);
    for directory in [workspace.root.join(".netbuild"), workspace.data_dir.clone()] {
        for file in files_below(&directory) {
            let bytes = fs::read(&file).unwrap();
            let found = bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
            assert!(!found, "the secret is in {}", file.display());
        }
    }
}

fn files_below(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("a list").flatten() {
        match entry.file_type().expect("a kind") {
            kind if kind.is_dir() => files.extend(files_below(&entry.path())),
            kind if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
    files
}

#[test]
fn what_only_people_read_in_a_graph_does_not_count() {
    let place = Place::new();
    let workspace = place.workspace("w", &Value::Null, &[("in", "x")]);
    let texts = [
        (r#"{"tasks":{"t":{"command":"cat in > out","inputs":["in"],"outputs":["out"]}}}"#, 1),
        (
            "{ // a comment\n \"tasks\": {\n\n \"t\": {\"outputs\": [\"out\"], \"inputs\": [\"in\"],\n\
             \t\"command\": \"cat in > out\", } /* and one more */ } }",
            0,
        ),
        (
            r#"{"version": "1", "graphs": {"renamed": {"description": "What it does", "priority": 3,
                "command": "cat in > out", "inputs": ["in"], "outputs": ["out"],
                "timeout": "10m", "retries": 2}}}"#,
            0,
        ),
        (r#"{"tasks":{"t":{"command":"cat in  > out","inputs":["in"],"outputs":["out"]}}}"#, 1),
    ];
    for (text, expected) in texts {
        workspace.write("graph.json", text);
        executes(&workspace, expected);
    }
}

#[test]
fn an_edit_that_does_not_change_what_a_task_makes_stops_there() {
    let place = Place::new();
    let (compile, link) = (Ledger::new(&place), Ledger::named(&place, "link"));
    let graph = tasks(json!({
        "compile": {"command": format!("grep -v '^#' src > obj; {}", compile.line()),
                    "inputs": ["src"], "outputs": ["obj"]},
        "link": {"command": format!("cat obj > bin; {}", link.line()), "deps": ["compile"],
                 "inputs": [], "outputs": ["bin"]}}));
    let workspace = place.workspace("w", &graph, &[("src", "# a comment\ncode\n")]);
    executes(&workspace, 2);
    workspace.write("src", "# another comment\ncode\n");
    executes(&workspace, 1);
    assert_eq!((compile.count(), link.count()), (2, 1));
    workspace.write("src", "# another comment\nbetter code\n");
    executes(&workspace, 2);
    assert_eq!(workspace.read("bin"), "better code\n");
}

#[test]
fn a_tool_that_is_upgraded_in_place_runs_its_tasks_again() {
    let place = Place::new();
    let graph = json!({
        "tools": {"by-path": {"path": "./gen"}, "by-version": {"version": ["./gen", "--version"]}},
        "tasks": {
            "a": {"command": ["./gen"], "tools": ["by-path"], "inputs": [], "outputs": ["a/out"],
                  "env": {"OUT": "a/out"}},
            "b": {"command": ["./gen"], "tools": ["by-version"], "inputs": [],
                  "outputs": ["b/out"], "env": {"OUT": "b/out"}},
            "untold": {"command": ["./gen"], "inputs": [], "outputs": ["c/out"],
                       "env": {"OUT": "c/out"}}}});
    let workspace = place.workspace("w", &graph, &[]);
    let install = |version: u32, comment: &str| {
        let text = format!(
            "#!/bin/sh\n# {comment}\n[ \"$1\" = --version ] && exec echo {version}\n\
             echo {version} > $OUT\n"
        );
        workspace.write("gen", &text);
        let path = workspace.root.join("gen");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    install(1, "one");
    executes(&workspace, 3);
    executes(&workspace, 0);
    install(2, "one");
    executes(&workspace, 2);
    assert_eq!((workspace.read("a/out"), workspace.read("b/out")), ("2\n".into(), "2\n".into()));
    install(2, "the same version with other bytes");
    executes(&workspace, 1);
}

#[test]
fn a_task_of_another_platform_is_skipped_with_what_needs_its_data() {
    let place = Place::new();
    let graph = tasks(json!({
        "elsewhere": {"command": "exit 1", "platforms": ["windows"]},
        "needs": {"command": "exit 1", "deps": ["elsewhere"]},
        "waits": {"command": "true", "deps": [{"task": "elsewhere", "kind": "order"}]},
        "here": {"command": "true", "platforms": ["linux"]}}));
    let run = executes(&place.workspace("w", &graph, &[]), 2);
    assert_eq!(run.count("/skipped"), 2);
    assert!(run.stderr.contains("elsewhere: skipped: not for linux"), "{}", run.stderr);
    assert!(run.stderr.contains("needs: skipped: it needs `elsewhere`"), "{}", run.stderr);
}

#[test]
fn an_edit_during_a_task_that_is_taken_back_leaves_no_wrong_result() {
    let place = Place::new();
    let [edited, read, reverted] = ["edited", "read", "reverted"].map(|name| place.path(name));
    let graph = tasks(json!({
        "t": {"command": format!(
                  "touch started; until [ -e {edited:?} ]; do sleep 0.01; done; cat in > out; \
                   touch {read:?}; until [ -e {reverted:?} ]; do sleep 0.01; done"),
              "inputs": ["in"], "outputs": ["out"]}}));
    let workspace = place.workspace("w", &graph, &[("in", "right")]);
    let run = {
        let mut command = workspace.command(&["--json"]);
        let running = std::thread::spawn(move || Run::of(&mut command));
        wait_until("the task runs", || workspace.exists("started"));
        workspace.write("in", "wrong");
        fs::write(&edited, "").unwrap();
        wait_until("the task has read", || read.exists());
        workspace.write("in", "right");
        fs::write(&reverted, "").unwrap();
        running.join().unwrap().expect_success()
    };
    assert!(run.stderr.contains("`in`"), "{}", run.stderr);
    assert!(run.stderr.contains("it runs again"), "{}", run.stderr);
    assert_eq!(workspace.read("out"), "right");
    workspace.remove("out");
    executes(&workspace, 0);
    assert_eq!(workspace.read("out"), "right");
}

#[test]
fn a_task_that_writes_to_its_own_input_is_not_cached() {
    let place = Place::new();
    let ledger = Ledger::new(&place);
    let graph = tasks(json!({
        "t": {"command": format!("echo more >> in; cat in > out; {}", ledger.line()),
              "inputs": ["in", "other"], "outputs": ["out"]}}));
    let workspace = place.workspace("w", &graph, &[("in", "x\n"), ("other", "")]);
    let run = executes(&workspace, 1);
    assert!(run.stderr.contains("input `in` changed while the task ran"), "{}", run.stderr);
    assert!(run.stderr.contains("its result is not kept"), "{}", run.stderr);
    assert_eq!(ledger.count(), 2, "it is run once more, in case that somebody else wrote");
    executes(&workspace, 1);
}

#[test]
fn inputs_that_cannot_be_read_end_the_task_with_their_names() {
    let place = Place::new();
    let graph = tasks(json!({
        "pipe": {"command": "cat in/pipe", "inputs": ["in/pipe"]},
        "glob": {"command": "true", "inputs": ["in/*"]},
        "socket": {"command": "true", "inputs": ["in/socket"]},
        "missing": {"command": "true", "inputs": ["in/missing"]},
        "device": {"command": "true", "inputs": ["device"]},
        "fine": {"command": "true", "inputs": ["in/file"]}}));
    let workspace = place.workspace("w", &graph, &[("in/file", "")]);
    make_fifo(&workspace.root.join("in/pipe"));
    let _socket = UnixListener::bind(workspace.root.join("in/socket")).unwrap();
    // A link is followed to what it stands for, which never ends here.
    symlink("/dev/zero", workspace.root.join("device")).unwrap();
    let run = workspace.run(&["--keep-going"]);
    fails(
        &run,
        &["in/pipe` is a named pipe", "in/socket` is a socket", "in/missing` does not exist"],
    );
    assert_eq!((run.count("/failed"), run.executed()), (4, 2), "{}", run.stderr);
}

#[test]
fn links_among_the_inputs_are_followed_to_files_and_never_in_circles() {
    let place = Place::new();
    let graph = tasks(json!({
        "t": {"command": "cat src/link > out", "inputs": ["src/**"], "outputs": ["out"]}}));
    let workspace = place.workspace("w", &graph, &[("real", "one"), ("src/a/b", "")]);
    symlink("../real", workspace.root.join("src/link")).unwrap();
    symlink("..", workspace.root.join("src/a/up")).unwrap();
    symlink("self", workspace.root.join("src/self")).unwrap();
    executes(&workspace, 1);
    executes(&workspace, 0);
    workspace.write("real", "two");
    executes(&workspace, 1);
    assert_eq!(workspace.read("out"), "two");
}

#[test]
fn a_directory_as_input_is_all_that_is_in_it() {
    let place = Place::new();
    let graph = tasks(json!({"t": {"command": "true", "inputs": ["dir"]}}));
    let workspace = place.workspace("w", &graph, &[("dir/a/b", "")]);
    executes(&workspace, 1);
    workspace.write("dir/a/c", "");
    executes(&workspace, 1);
    fs::create_dir(workspace.root.join("dir/empty")).unwrap();
    executes(&workspace, 1);
    workspace.remove("dir/a/c");
    workspace.remove("dir/empty");
    executes(&workspace, 0);
}

#[test]
fn a_pattern_that_matches_nothing_is_told_once() {
    let place = Place::new();
    let graph = json!({
        "inputs": ["shared/*.txt"],
        "tasks": {
            "a": {"command": "true", "inputs": ["src/**/*.rs", "here/*"]},
            "b": {"command": "true", "inputs": []}}});
    let run = executes(&place.workspace("w", &graph, &[("here/x", "")]), 2);
    for pattern in ["src/**/*.rs", "shared/*.txt"] {
        let told = run.stderr.matches(&format!("G026 input pattern `{pattern}`")).count();
        assert_eq!(told, 1, "{}", run.stderr);
    }
    assert!(!run.stderr.contains("here/*"), "{}", run.stderr);
}

#[test]
fn a_failed_task_ends_the_run_with_1_and_with_keep_going_only_what_needs_it_is_skipped() {
    let place = Place::new();
    let graph = tasks(json!({
        "bad": {"command": "echo told >&2; exit 7"},
        "after-bad": {"command": "true", "deps": ["bad"]},
        "after-that": {"command": "true", "deps": [{"task": "after-bad", "kind": "order"}]},
        "good": {"command": "true"},
        "after-good": {"command": "true", "deps": ["good"]}}));
    let workspace = place.workspace("w", &graph, &[]);
    let run = workspace.run(&["--keep-going"]);
    fails(&run, &["bad: FAILED: the command exited with code 7", "told", "it needs `bad`"]);
    let counts = ["/tasks", "/executed", "/failed", "/skipped"].map(|at| run.count(at));
    assert_eq!(counts, [5, 2, 1, 2]);
    assert_eq!(run.summary["result"], "failure");
    let run = workspace.run(&["-j1"]);
    assert_eq!(run.code(), Some(1));
    assert_eq!((run.count("/tasks"), run.count("/failed")), (5, 1));
}

#[test]
fn wrong_usage_ends_with_2() {
    let place = Place::new();
    let workspace = place.workspace("w", &tasks(json!({"t": {"command": "true"}})), &[]);
    for args in [&["--no-such-flag"][..], &["-j0"], &["no-such-task"], &["--graph", "none.json"]] {
        assert_eq!(workspace.run(args).code(), Some(2), "{args:?}");
    }
    assert!(!workspace.exists(".netbuild"));
}

#[test]
fn the_summary_has_the_documented_fields_and_no_others() {
    let place = Place::new();
    let graph = tasks(json!({
        "group": {"deps": ["a", "b"]},
        "a": {"command": "true"},
        "b": {"command": "true", "inputs": []}}));
    let workspace = place.workspace("w", &graph, &[]);
    executes(&workspace, 2);
    let file = place.path("summary.json");
    let status = workspace.command(&["--summary"]).arg(&file).stderr(Stdio::null()).status();
    assert!(status.unwrap().success());
    let text = fs::read_to_string(&file).unwrap();
    let mut summary: Value = serde_json::from_str(&text).unwrap();
    for time in ["seconds", "seconds_saved"] {
        assert!(summary[time].as_f64().is_some_and(|seconds| seconds >= 0.0), "{text}");
        summary.as_object_mut().unwrap().remove(time);
    }
    let path = summary.as_object_mut().unwrap().remove("critical_path").unwrap();
    assert_eq!(path["tasks"], json!(["a"]), "{text}");
    assert!(path["seconds"].as_f64().is_some_and(|seconds| seconds >= 0.0), "{text}");
    let expected = json!({
        "result": "success", "unchanged": false, "tasks": 2, "executed": 1, "sooner_built": 0, "failed": 0, "skipped": 0, "sandbox": {"env": 1},
        "hits": {"disk": 1, "peer": 0, "redis": 0, "s3": 0}, "sources": {}, "bytes_fetched": 0});
    assert_eq!(summary, expected);
}

#[test]
fn a_task_that_fails_at_first_is_tried_again() {
    let place = Place::new();
    let ledger = Ledger::new(&place);
    let retry = json!({"max_attempts": 3, "initial_delay_ms": 1});
    let graph = tasks(json!({
        "flaky": {"command": format!("{}; echo x > out; [ $(wc -l < {}) -ge 3 ]", ledger.line(),
                                     ledger.path().display()),
                  "inputs": [], "outputs": ["out"], "retry": retry},
        "hopeless": {"command": "exit 1", "retry": {"max_attempts": 2, "initial_delay_ms": 1}}}));
    let workspace = place.workspace("w", &graph, &[]);
    let run = workspace.run(&["flaky"]).expect_success();
    assert_eq!((run.executed(), ledger.count()), (1, 3));
    assert!(run.stderr.contains("trying again"), "{}", run.stderr);
    workspace.remove("out");
    assert_eq!(workspace.run(&["flaky"]).expect_success().count("/hits/disk"), 1);
    fails(&workspace.run(&["hopeless"]), &["exited with code 1"]);
}

#[test]
fn two_runs_at_once_execute_a_task_once() {
    let place = Place::new();
    let ledger = Ledger::new(&place);
    let go = place.path("go");
    let graph = tasks(json!({
        "t": {"command": format!("{}; until [ -e {go:?} ]; do sleep 0.01; done; echo x > out",
                                 ledger.line()),
              "inputs": [], "outputs": ["out"]}}));
    let workspace = place.workspace("w", &graph, &[]);
    let locked = || {
        fs::read_dir(workspace.root.join(".netbuild/tmp"))
            .map_or(0, |list| list.flatten().filter(|e| e.path().is_dir()).count())
    };
    let start = || {
        let mut command = workspace.command(&["--json"]);
        std::thread::spawn(move || Run::of(&mut command))
    };
    let first = start();
    wait_until("the task runs", || ledger.count() == 1);
    let second = start();
    wait_until("the other run has begun", || locked() == 2);
    fs::write(&go, "").unwrap();
    let (first, second) = (first.join().unwrap(), second.join().unwrap());
    assert_eq!(first.expect_success().executed(), 1);
    assert_eq!(second.expect_success().count("/hits/disk"), 1);
    assert_eq!((ledger.count(), workspace.read("out").as_str()), (1, "x\n"));
}

#[test]
fn one_job_runs_tasks_in_the_same_order_every_time() {
    let place = Place::new();
    let mut list = serde_json::Map::new();
    for name in ["c", "a", "d", "b"] {
        list.insert(
            format!("{name}1"),
            json!({"command": format!("echo {name}1 >> $LEDGER"),
            "pass_env": ["LEDGER"]}),
        );
        list.insert(
            format!("{name}2"),
            json!({"command": format!("echo {name}2 >> $LEDGER"),
            "pass_env": ["LEDGER"], "deps": [format!("{name}1")]}),
        );
    }
    let graph = tasks(Value::Object(list));
    let orders: Vec<String> = (0..3)
        .map(|number| {
            let workspace = place.workspace(&format!("w{number}"), &graph, &[]);
            let ledger = place.path(&format!("order{number}"));
            let mut command = workspace.command(&["-j1", "--json"]);
            Run::of(command.env("LEDGER", &ledger)).expect_success();
            fs::read_to_string(ledger).unwrap()
        })
        .collect();
    assert_eq!(orders[0].lines().count(), 8);
    assert!(orders.iter().all(|order| *order == orders[0]), "{orders:?}");
}

#[test]
fn a_thousand_tasks_need_few_descriptors() {
    let place = Place::new();
    let list = (0..1000)
        .map(|i| (format!("t{i}"), json!({"command": ["true", i.to_string()], "inputs": []})));
    let workspace = place.workspace("w", &tasks(Value::Object(list.collect())), &[]);
    let run = run_after(&workspace, "ulimit -n 256").expect_success();
    assert_eq!(run.executed(), 1000);
}

/// Runs in a shell that did something before.
fn run_after(workspace: &Workspace, before: &str) -> Run {
    let script = format!("{before}; exec \"$0\" \"$@\"");
    Run::of(&mut through(&["sh", "-c", &script], &workspace.command(&["--json", "-q"])))
}

#[test]
fn a_command_gets_none_of_the_callers_open_files() {
    let place = Place::new();
    let graph =
        tasks(json!({"t": {"command": "[ -e /proc/self/fd/0 ] && [ ! -e /proc/self/fd/7 ]"}}));
    run_after(&place.workspace("w", &graph, &[]), "exec 7< /dev/null").expect_success();
}

#[test]
fn a_task_that_removes_our_directory_fails_nothing() {
    let place = Place::new();
    let ledger = Ledger::new(&place);
    let graph = tasks(json!({
        "clean": {"command": "rm -rf .netbuild"},
        "next": {"command": format!("{}; [ ! -e out ] && echo x > out", ledger.line()),
                 "deps": ["clean"], "inputs": ["in"], "outputs": ["out"]}}));
    let workspace = place.workspace("w", &graph, &[("in", ""), ("out", "stale")]);
    executes(&workspace, 2);
    workspace.write("in", "edited");
    executes(&workspace, 2);
    workspace.remove("out");
    assert_eq!(workspace.run(&[]).expect_success().count("/hits/disk"), 1);
    assert_eq!(ledger.count(), 2);
}

#[test]
fn a_link_that_a_dependency_made_counts_with_what_it_leads_to() {
    let place = Place::new();
    let graph = tasks(json!({
        "link": {"command": "mkdir -p gen; ln -s ../real gen/link", "inputs": [],
                 "outputs": ["gen/link"]},
        "use": {"command": "cat gen/link > out", "deps": ["link"], "outputs": ["out"]}}));
    let workspace = place.workspace("w", &graph, &[("real", "one")]);
    executes(&workspace, 2);
    workspace.write("real", "two");
    executes(&workspace, 1);
    assert_eq!(workspace.read("out"), "two");
}

#[test]
fn a_missing_program_is_named_and_earlier_outputs_stay() {
    let place = Place::new();
    let graph = tasks(json!({
        "t": {"command": ["no-such-program", "-x"], "inputs": [],
              "outputs": ["out", "dir/", "many/*.txt"]}}));
    let files = [("out", "earlier"), ("dir/x/y", "earlier"), ("many/a.txt", "earlier")];
    let workspace = place.workspace("w", &graph, &files);
    fails(&workspace.run(&[]), &["`no-such-program`", "No such file or directory"]);
    for (path, content) in files {
        assert_eq!(workspace.read(path), content);
    }
}

#[test]
fn a_working_directory_may_come_from_a_dependency_and_a_missing_one_is_named() {
    let place = Place::new();
    let graph = tasks(json!({
        "make": {"command": "mkdir -p gen/deep", "inputs": [], "outputs": ["gen/"]},
        "use": {"command": "pwd > where", "working_dir": "gen/deep", "deps": ["make"],
                "outputs": ["other/"], "cache": false, "description": "x"},
        "lost": {"command": "true", "working_dir": "nowhere"}}));
    let workspace = place.workspace("w", &graph, &[]);
    workspace.write(
        "graph.json",
        &graph.to_string().replace("pwd > where", "pwd; mkdir -p ../../other; pwd > ../../other/x"),
    );
    workspace.run(&["use"]).expect_success();
    assert!(workspace.read("other/x").ends_with("/gen/deep\n"));
    fails(&workspace.run(&["lost"]), &["G030 working directory `nowhere` does not exist"]);
}

#[test]
fn a_command_may_print_anything_and_read_nothing() {
    let place = Place::new();
    let graph = tasks(json!({
        "reads": {"command": "cat; read line || echo 'nothing to read'"},
        "much": {"command": "head -c 20000000 /dev/zero | tr '\\0' 'x'", "log": "none"},
        "bytes": {"command": ["printf", "before\\377\\376\\000after"]},
        "closes": {"command": "exec >&- 2>&-; sleep 0.1; : > closed", "inputs": [],
                   "outputs": ["closed"]}}));
    let run = executes(&place.workspace("w", &graph, &[]), 4);
    assert!(run.stderr.contains("nothing to read"), "{}", run.stderr);
    assert!(run.stderr.contains("before") && run.stderr.contains("after"), "{}", run.stderr);
}

#[test]
fn a_cache_that_cannot_be_used_fails_no_build_and_is_told_once() {
    let place = Place::new();
    let graph = tasks(json!({
        "a": {"command": "echo a > a", "inputs": [], "outputs": ["a"]},
        "b": {"command": "echo b > b", "inputs": [], "outputs": ["b"], "deps": ["a"]}}));
    let file = place.path("a-file");
    fs::write(&file, "in the way").unwrap();
    for (number, data_dir) in
        [file.clone(), file.join("below"), "/proc/netbuild".into(), "/dev/null/x".into()]
            .iter()
            .enumerate()
    {
        let workspace = place.workspace(&number.to_string(), &graph, &[]);
        let run = executes(&workspace.with_data_dir(data_dir), 2);
        assert_eq!(
            run.stderr.matches("warning:").count(),
            1,
            "{}: {}",
            data_dir.display(),
            run.stderr
        );
        // What stands in the workspace is still known.
        executes(&workspace.with_data_dir(data_dir), 0);
        workspace.remove("a");
        executes(&workspace.with_data_dir(data_dir), 1);
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "in the way");
}

#[test]
fn times_of_inputs_in_the_past_and_in_the_future_change_nothing() {
    let place = Place::new();
    let graph =
        tasks(json!({"t": {"command": "cat x > out", "inputs": ["x"], "outputs": ["out"]}}));
    let workspace = place.workspace("w", &graph, &[("x", "1")]);
    let set = |time: &str| {
        let path = workspace.root.join("x");
        let output = std::process::Command::new("touch").args(["-d", time]).arg(path).output();
        assert!(output.expect("touch runs").status.success());
    };
    executes(&workspace, 1);
    for time in ["1970-01-01 00:00:00 UTC", "2099-01-01 00:00:00 UTC", "2001-01-01 00:00:00 UTC"] {
        set(time);
        executes(&workspace, 0);
        // An edit of the same size, under the very time that the file had before.
        let edited = if workspace.read("x") == "1" { "2" } else { "1" };
        workspace.write("x", edited);
        set(time);
        workspace.run(&[]).expect_success();
        assert_eq!(workspace.read("out"), edited, "{time}");
    }
}

#[test]
fn a_command_that_is_killed_leaves_no_result_and_is_told_by_its_signal() {
    let place = Place::new();
    let graph = tasks(json!({
        "t": {"command": "echo x > out; kill -9 $$", "inputs": [], "outputs": ["out"]}}));
    let workspace = place.workspace("w", &graph, &[]);
    for _ in 0..2 {
        let run = workspace.run(&[]);
        assert_eq!((run.code(), run.count("/failed")), (Some(1), 1), "{}", run.stderr);
        assert!(run.stderr.contains("was ended by signal 9"), "{}", run.stderr);
    }
}

#[test]
fn an_input_that_may_not_be_read_or_that_vanishes_is_named() {
    let place = Place::new();
    let graph = tasks(json!({
        "unreadable": {"command": "true", "inputs": ["in/closed"]},
        "hidden": {"command": "true", "inputs": ["in/dir/**"]},
        "vanishes": {"command": "rm in/short; echo x > out", "inputs": ["in/short"],
                     "outputs": ["out"]},
        "device": {"command": "true", "inputs": ["in/null"]}}));
    let files = [("in/closed", "x"), ("in/dir/x", ""), ("in/short", "x")];
    let workspace = place.workspace("w", &graph, &files);
    for (path, mode) in [("in/closed", 0o000), ("in/dir", 0o000)] {
        let path = workspace.root.join(path);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    // A link to a device has the same end, and needs no root.
    symlink("/dev/null", workspace.root.join("in/null")).unwrap();
    let run = Run::of(&mut without_privileges(&workspace.command(&["-k", "--json"])));
    let open = workspace.root.join("in/dir");
    fs::set_permissions(open, fs::Permissions::from_mode(0o755)).unwrap();
    fails(
        &run,
        &[
            "cannot read `",
            "in/closed`: Permission denied",
            "in/dir`: Permission denied",
            "in/short` does not exist; it runs again",
            "vanishes: FAILED: input `",
        ],
    );
    // The link itself is an input, and what is behind it is no file.
    assert_eq!((run.count("/failed"), run.executed()), (3, 1), "{}", run.stderr);
}
