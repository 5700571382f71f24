//! How commands share what there is: pools, weights, the tokens of make; and what a run would do.

use crate::support::{
    Ledger, Place, Run, Running, Workspace, make_fifo, signal, snapshot, through, wait_until,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    path::PathBuf,
};

#[test]
fn tasks_of_a_full_pool_wait_and_others_do_not() {
    let place = Place::new();
    let alone = "mkdir busy && sleep 0.1 && rmdir busy";
    let mut list: serde_json::Map<String, Value> =
        (0..4).map(|i| (format!("linked{i}"), json!({"command": alone, "pool": "link"}))).collect();
    // It ends when another task runs beside it, which it would not in a pool of one.
    list.insert(
        "one".into(),
        json!({"command": "touch here; until [ -e there ]; do sleep 0.01; done"}),
    );
    list.insert(
        "other".into(),
        json!({"command": "touch there; until [ -e here ]; do sleep 0.01; done"}),
    );
    let graph = json!({"pools": {"link": 1}, "tasks": list});
    let run = place.workspace("w", &graph, &[]).run(&["-j4"]).expect_success();
    assert_eq!(run.executed(), 6);
}

#[test]
fn a_heavy_task_has_its_slots_for_itself() {
    let place = Place::new();
    let alone = "mkdir busy && sleep 0.1 && rmdir busy";
    let list = (0..3).map(|i| (format!("t{i}"), json!({"command": alone, "weight": 9})));
    let graph = json!({"tasks": Value::Object(list.collect())});
    let run = place.workspace("w", &graph, &[]).run(&["-j2"]).expect_success();
    assert_eq!(run.executed(), 3);
}

/// A makefile whose targets do `recipe` before they are made.
fn makefile(targets: &[&str], recipe: &str) -> String {
    let names = targets.join(" ");
    format!("all: {names}\n{names}:\n\t@{recipe}\n")
}

#[test]
fn make_in_a_task_uses_jobs_that_nothing_else_uses() {
    let place = Place::new();
    // Each target waits until all three are under way.
    let recipe =
        "touch $@.here; until [ -e a.here -a -e b.here -a -e c.here ]; do sleep 0.01; done";
    let graph = json!({"tasks": {"build": {"command": "make", "timeout": "60s"}}});
    let files = [("Makefile", &*makefile(&["a", "b", "c"], recipe))];
    let run = place.workspace("w", &graph, &files).run(&["-j3"]).expect_success();
    assert!(!run.stderr.contains("jobserver"), "{}", run.stderr);
}

#[test]
fn several_makes_take_no_more_jobs_than_there_are() {
    let place = Place::new();
    let recipe = "touch busy/$@; ls busy | wc -l >> counts; sleep 0.05; rm busy/$@";
    let targets = |name: char| ["1", "2", "3", "4"].map(|number| format!("{name}{number}"));
    let [a, b] = ['a', 'b'].map(targets);
    let file = |targets: &[String; 4]| makefile(&targets.each_ref().map(String::as_str), recipe);
    let graph = json!({"tasks": {
        "a": {"command": ["make", "-f", "a.mk"]}, "b": {"command": ["make", "-f", "b.mk"]}}});
    let files = [("a.mk", &*file(&a)), ("b.mk", &*file(&b)), ("busy/.keep", "")];
    let workspace = place.workspace("w", &graph, &files);
    workspace.run(&["-j2"]).expect_success();
    let most = workspace.read("counts").lines().map(|n| n.trim().parse::<u32>().unwrap()).max();
    assert!(most <= Some(2), "{most:?} at once");
}

#[test]
fn services_are_waited_for_and_end_in_reverse_order() {
    let place = Place::new();
    let order = place.path("order");
    let service = |name: &str, before_ready: &str| {
        format!(
            "trap 'echo {name} >> {0}; exit 0' TERM; {before_ready}; while :; do sleep 0.01; done",
            order.display()
        )
    };
    let (first, second) =
        (service("first", "sleep 0.1; echo all is well"), service("second", "touch up"));
    let graph = json!({"tasks": {
        "first": {"command": first, "persistent": {"ready_when": {"line": "is well"}}},
        "second": {"command": second, "deps": [{"task": "first", "kind": "order"}],
                   "persistent": {"ready_when": {"cmd": ["test", "-e", "up"]}}},
        "use": {"command": "test -e up && echo used > out", "inputs": [], "outputs": ["out"],
                "deps": [{"task": "second", "kind": "order"}]}}});
    let workspace = place.workspace("w", &graph, &[]);
    let run = workspace.run(&["use"]).expect_success();
    assert_eq!((run.executed(), workspace.read("out").as_str()), (3, "used\n"));
    assert_eq!(fs::read_to_string(&order).unwrap(), "second\nfirst\n");
}

#[test]
fn a_service_that_does_not_become_ready_fails_with_what_it_said() {
    let place = Place::new();
    let graph = |command: &str, ready_when: Value| {
        json!({"tasks": {
            "s": {"command": command, "persistent": {"ready_when": ready_when, "timeout": "1s"}},
            "t": {"command": "true", "deps": [{"task": "s", "kind": "order"}]}}})
    };
    // Nobody listens on port 1.
    for (command, ready_when, says) in [
        ("echo why; exit 3", json!({"line": "never"}), "exited with code 3 before it was ready"),
        ("echo why; sleep 1000", json!({"line": "never"}), "was not ready after 1s"),
        ("echo why; sleep 1000", json!({"port": 1}), "was not ready after 1s"),
        ("echo why; sleep 1000", json!({"cmd": ["false"]}), "was not ready after 1s"),
    ] {
        let workspace = place.workspace("w", &graph(command, ready_when), &[]);
        let run = workspace.run(&["t"]);
        assert_eq!((run.code(), run.count("/failed"), run.count("/skipped")), (Some(1), 1, 1));
        for part in ["the service", says, "why"] {
            assert!(run.stderr.contains(part), "no `{part}` in: {}", run.stderr);
        }
    }
}

#[test]
fn a_service_that_was_asked_for_stays_until_it_is_interrupted() {
    let place = Place::new();
    let command = "trap 'echo stopped > out; exit 0' TERM; touch up; while :; do sleep 0.01; done";
    let graph = json!({"tasks": {"s": {"command": command, "persistent": true}}});
    let workspace = place.workspace("w", &graph, &[]);
    let running = Running::start(&mut workspace.command(&["s"]));
    wait_until("the service is up", || workspace.exists("up"));
    signal(running.pid(), rustix::process::Signal::INT);
    assert_eq!(running.wait().code(), Some(130));
    assert_eq!(workspace.read("out"), "stopped\n");
}

#[test]
fn a_watch_runs_again_when_an_input_changes_and_only_then() {
    let place = Place::new();
    let ledger = Ledger::new(&place);
    let graph = json!({"tasks": {
        "t": {"command": format!("{}; cat $(find src -type f | sort) > out", ledger.line()), "inputs": ["src/**"],
              "outputs": ["out"]}}});
    let workspace = place.workspace("w", &graph, &[("src/a", "one"), ("notes", "")]);
    let mut command = workspace.command(&["--watch"]);
    let running = Running::start(&mut command);
    let made = |content: &str| {
        wait_until("the output is made", || {
            fs::read_to_string(workspace.root.join("out")).is_ok_and(|out| out == content)
        });
    };
    made("one");
    workspace.write("notes", "nothing depends on them");
    workspace.write("src/a", "two");
    made("two");
    workspace.write("src/deep/er/b", "in a new directory");
    // It has read its inputs by then, so that the next edit is not one of this run.
    made("twoin a new directory");
    // A graph that cannot be read is told, and the next one is read.
    workspace.write("graph.json", "{");
    workspace.write("src/a", "three");
    workspace.write("graph.json", &graph.to_string());
    made("threein a new directory");
    signal(running.pid(), rustix::process::Signal::INT);
    let run = running.wait();
    assert_eq!(run.code(), Some(130), "{}", run.stderr);
    assert_eq!(ledger.count(), 4, "{}", run.stderr);
}

/// What `--dry-run` says of each task, after seeing that it changed nothing.
fn predicted(place: &Place, workspace: &Workspace) -> BTreeMap<String, String> {
    let before = snapshot(&place.path(""));
    let run =
        Run::of(workspace.command(&["--dry-run", "--json"]).stderr(std::process::Stdio::piped()));
    assert_eq!(snapshot(&place.path("")), before);
    let rows = run.expect_success().summary;
    let rows = rows.as_array().expect("an array");
    let text = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    rows.iter().map(|row| (text(row, "task"), text(row, "would"))).collect()
}

#[test]
fn a_dry_run_says_what_a_run_does_and_writes_nothing() {
    let place = Place::new();
    let ledger = Ledger::new(&place);
    let graph = json!({"tasks": {
        "a": {"command": format!("{}; cat x > a", ledger.line()), "inputs": ["x"], "outputs": ["a"]},
        "b": {"command": "cat a > b", "deps": ["a"], "outputs": ["b"]},
        "c": {"command": "cat y > c", "inputs": ["y"], "outputs": ["c"]},
        "always": {"command": "true"},
        "group": {"deps": ["a", "b"]},
        "elsewhere": {"command": "true", "platforms": ["windows"]}}});
    let workspace = place.workspace("w", &graph, &[("x", "1"), ("y", "1")]);
    let expect = |words: [&str; 5]| {
        let names = ["a", "b", "c", "always", "elsewhere"];
        assert_eq!(
            predicted(&place, &workspace),
            names.into_iter().zip(words).map(|(name, word)| (name.into(), word.into())).collect()
        );
    };
    let (stale, skipped) = ("would be restored or run", "would be skipped");
    expect([stale, "may run", stale, "would run", skipped]);
    assert!(!workspace.exists(".netbuild") && ledger.count() == 0);
    assert_eq!(workspace.run(&[]).expect_success().executed(), 4);
    expect(["up to date", "up to date", "up to date", "would run", skipped]);
    assert_eq!(workspace.run(&[]).expect_success().executed(), 1);
    workspace.write("x", "2");
    expect([stale, "may run", "up to date", "would run", skipped]);
    assert_eq!(workspace.run(&[]).expect_success().executed(), 3);
    workspace.remove("c");
    expect(["up to date", "up to date", stale, "would run", skipped]);
    let run = workspace.run(&[]).expect_success();
    assert_eq!((run.executed(), run.count("/hits/disk")), (1, 3));
    workspace.remove("y");
    expect(["up to date", "up to date", "would fail", "would run", skipped]);
    assert_eq!(workspace.run(&["-k"]).code(), Some(1));
}

#[test]
fn a_service_starts_with_the_first_command_that_needs_it_and_not_for_what_stands() {
    let place = Place::new();
    let ledger = Ledger::new(&place);
    let service = format!("{}; touch up; while :; do sleep 0.01; done", ledger.line());
    let graph = json!({"tasks": {
        "db": {"command": service, "persistent": {"ready_when": {"cmd": ["test", "-e", "up"]}}},
        "dev": {"deps": [{"task": "db", "kind": "order"}]},
        "use": {"command": "cat x > out", "inputs": ["x"], "outputs": ["out"],
                "deps": [{"task": "dev", "kind": "order"}]},
        "also": {"command": "cat x > also", "inputs": ["x"], "outputs": ["also"],
                 "deps": [{"task": "db", "kind": "order"}]}}});
    let workspace = place.workspace("w", &graph, &[("x", "1")]);
    let would = |task: &str| predicted(&place, &workspace)[task].clone();
    assert_eq!(would("db"), "may run");
    let run = workspace.run(&["use", "also"]).expect_success();
    assert_eq!((run.executed(), ledger.count()), (3, 1), "{}", run.stderr);
    assert_eq!(would("db"), "would be skipped");
    let run = workspace.run(&["use", "also"]).expect_success();
    assert_eq!((run.executed(), run.count("/skipped"), ledger.count()), (0, 1, 1));
    assert!(run.stderr.contains("db: skipped: nothing that ran needs it"), "{}", run.stderr);
    // Restored is not run, either.
    workspace.remove("out");
    let run = workspace.run(&["use", "also"]).expect_success();
    assert_eq!((run.count("/hits/disk"), ledger.count()), (2, 1));
    workspace.write("x", "2");
    let run = workspace.run(&["use", "also"]).expect_success();
    assert_eq!((run.executed(), ledger.count()), (3, 2), "{}", run.stderr);
}

/// What counts how many run at once; each is named by its shell.
fn counted(name: &str) -> String {
    format!("touch busy/{name}; ls busy | wc -l >> counts; sleep 0.05; rm busy/{name}")
}

fn most_at_once(workspace: &Workspace) -> u32 {
    let counts = workspace.read("counts");
    counts.lines().map(|count| count.trim().parse().expect("a number")).max().unwrap_or(0)
}

#[test]
fn a_run_below_a_make_takes_its_jobs_from_there() {
    let place = Place::new();
    let list = (0..5).map(|i| (format!("t{i}"), json!({"command": counted(&format!("t{i}"))})));
    let graph = json!({"tasks": Value::Object(list.collect())});
    let workspace = place.workspace("w", &graph, &[("busy/.keep", "")]);
    let run = workspace.command(&["-q", "-j8"]);
    let words = [run.get_program()].into_iter().chain(run.get_args());
    let words: Vec<_> = words.map(|word| word.to_str().expect("text")).collect();
    let makefile = format!(
        "all: run other more\nrun:\n\t+{}\nother more:\n\t{}\n",
        words.join(" "),
        counted("$@")
    );
    workspace.write("Makefile", &makefile);
    let mut make = through(&["make", "-j2"], &std::process::Command::new("all"));
    let output = make.current_dir(&workspace.root).output().expect("make runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(workspace.read("counts").lines().count(), 7);
    assert!(most_at_once(&workspace) <= 2, "{}", workspace.read("counts"));
}

#[test]
fn a_run_takes_tokens_from_a_named_pipe_and_gives_all_of_them_back() {
    let place = Place::new();
    let tokens = place.path("tokens");
    make_fifo(&tokens);
    let mut pipe = fs::File::options().read(true).write(true).open(&tokens).unwrap();
    pipe.write_all(b"ab").unwrap();
    // Its own job and two tokens make three, and these wait for each other.
    let meet = |i| {
        let all = "-e a -a -e b -a -e c";
        format!("touch {i}; until [ {all} ]; do sleep 0.01; done; {}", counted(i))
    };
    let mut list: serde_json::Map<String, Value> = ["a", "b", "c"]
        .map(|i| (i.to_owned(), json!({"command": meet(i), "priority": 1})))
        .into_iter()
        .collect();
    list.extend((0..4).map(|i| (format!("t{i}"), json!({"command": counted(&format!("t{i}"))}))));
    let workspace = place.workspace("w", &json!({"tasks": list}), &[("busy/.keep", "")]);
    let flags = format!(" -j3 --jobserver-auth=fifo:{}", tokens.display());
    Run::of(workspace.command(&["-j8", "--json"]).env("MAKEFLAGS", flags)).expect_success();
    assert!(most_at_once(&workspace) <= 3, "{}", workspace.read("counts"));
    let mut back = [0; 2];
    pipe.read_exact(&mut back).unwrap();
    back.sort_unstable();
    assert_eq!(&back, b"ab");
}

#[test]
fn cargo_in_a_task_takes_its_jobs_from_the_run() {
    let place = Place::new();
    let manifest =
        "[package]\nname = \"x\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n";
    let build = "fn main() { std::fs::write(\"flags\", std::env::var(\"CARGO_MAKEFLAGS\").unwrap()).unwrap() }";
    let graph = json!({"tasks": {"build": {"command": "cargo build --offline -q"}}});
    let files = [("Cargo.toml", manifest), ("build.rs", build), ("src/main.rs", "fn main() {}")];
    let workspace = place.workspace("w", &graph, &files);
    workspace.run(&["-j2"]).expect_success();
    // What cargo hands on is the pipe of the run, by its name or as the descriptors of old makes.
    let flags = workspace.read("flags");
    assert!(flags.contains("/.netbuild/tmp/") || flags.contains("auth=30,31"), "{flags}");
}

#[test]
fn several_ninjas_take_no_more_jobs_than_there_are() {
    let place = Place::new();
    // One of the version that knows the named pipe, without a make, which would decide on another kind.
    let bin = place.path("bin");
    fs::create_dir(&bin).unwrap();
    for name in ["sh", "touch", "ls", "wc", "sleep", "rm"] {
        std::os::unix::fs::symlink(format!("/bin/{name}"), bin.join(name)).unwrap();
    }
    let ninja = PathBuf::from(std::env::var_os("HOME").expect("a home directory"))
        .join(".cache/netbuild-test/bin/ninja");
    assert!(ninja.exists(), "no {}; scripts/test.sh installs it", ninja.display());
    std::os::unix::fs::symlink(ninja, bin.join("ninja")).unwrap();
    let manifest = |name: char| {
        let rule = format!("rule count\n  command = {}\n", counted("$out"));
        let builds = (0..4).map(|i| format!("build {name}{i}: count\n"));
        rule + &builds.collect::<String>()
    };
    let task = |name| json!({"command": ["ninja", "-f", format!("{name}.ninja")]});
    let graph = json!({"tasks": {"a": task('a'), "b": task('b')}});
    let (a, b) = (manifest('a'), manifest('b'));
    let files = [("a.ninja", &*a), ("b.ninja", &*b), ("busy/.keep", "")];
    let workspace = place.workspace("w", &graph, &files);
    let run = Run::of(workspace.command(&["-j2", "--json"]).env("PATH", &bin)).expect_success();
    assert_eq!(workspace.read("counts").lines().count(), 8, "{}", run.stderr);
    assert!(most_at_once(&workspace) <= 2, "{}", workspace.read("counts"));
}
