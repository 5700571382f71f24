//! Levels of hermeticity: what each keeps from a command, what it finds out, and that nothing else changes.
//!
//! All of them must be there where these tests run: a system without namespaces, Landlock or ptrace fails them.

use crate::support::{
    Agent, Place, Run, Running, Workspace, netbuild, runs, signal, through, wait_until,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{chown, symlink},
    path::Path,
    process::Command,
};

/// Levels that run in a directory with the declared inputs.
const STAGED: [&str; 3] = ["stage", "landlock", "ns"];
/// Levels that keep a command from what it names by an absolute path.
const CLOSED: [&str; 2] = ["landlock", "ns"];
/// Levels that start commands in another way than the ordinary one.
const OTHER: [&str; 4] = ["audit", "stage", "landlock", "ns"];

/// A graph of one task.
fn one(task: Value) -> Value {
    json!({"tasks": {"t": task}})
}

#[track_caller]
fn says(run: &Run, parts: &[&str]) {
    for part in parts {
        assert!(run.stderr.contains(part), "no `{part}` in: {}", run.stderr);
    }
}

#[track_caller]
fn fails(run: &Run, parts: &[&str]) {
    assert_eq!(run.code(), Some(1), "{}", run.stderr);
    says(run, parts);
}

#[test]
fn an_undeclared_input_is_missed_found_or_not_there_by_level() {
    let place = Place::new();
    let files = [("declared", "1"), ("sub/undeclared", "2")];
    let task = |level: &str, inputs: Value| {
        one(json!({"command": "cat declared sub/undeclared > out", "inputs": inputs,
                   "outputs": ["out"], "sandbox": level}))
    };
    let workspace = |level: &str| place.workspace(level, &task(level, json!(["declared"])), &files);

    // At `env` nobody knows, and an edit is missed: this is what the levels are for.
    let env = workspace("env");
    env.run(&[]).expect_success();
    env.write("sub/undeclared", "3");
    assert_eq!(env.run(&[]).expect_success().executed(), 0);

    let audit = workspace("audit");
    for _ in 0..2 {
        let run = audit.run(&[]).expect_success();
        says(&run, &["it read `sub/undeclared`, undeclared", "its result is not kept"]);
        assert_eq!(run.executed(), 1);
    }
    fails(&audit.run(&["--strict"]), &["it read `sub/undeclared`, undeclared"]);

    for level in STAGED {
        let staged = workspace(level);
        fails(&staged.run(&[]), &["sub/undeclared", "netbuild graph suggest t"]);
        assert!(!staged.exists("out"), "{level}");
    }
    for level in OTHER {
        let all = task(level, json!(["declared", "sub/*"]));
        let workspace = place.workspace(&format!("{level}-all"), &all, &files);
        let run = workspace.run(&["--strict"]).expect_success();
        assert_eq!(run.summary["sandbox"], json!({level: 1}), "{}", run.stderr);
        assert_eq!(workspace.read("out"), "12", "{level}");
        assert_eq!(workspace.run(&[]).expect_success().executed(), 0, "{level}");
        workspace.remove("out");
        assert_eq!(workspace.run(&[]).expect_success().count("/hits/disk"), 1, "{level}");
        assert_eq!(workspace.read("out"), "12", "{level}");
    }
}

#[test]
fn absolute_paths_lead_to_the_workspace_or_to_nothing_by_level() {
    // Below /tmp, which `ns` replaces, and elsewhere.
    for place in [Place::new(), Place::beside_the_build()] {
        for level in ["stage", "landlock", "ns"] {
            let root = place.path(level);
            let read = format!("cat {}/undeclared > out", root.display());
            let task = json!({"command": read, "inputs": [], "outputs": ["out"], "sandbox": level});
            let workspace = place.workspace(level, &one(task), &[("undeclared", "x")]);
            let run = workspace.run(&[]);
            assert_eq!(
                run.code(),
                Some(i32::from(CLOSED.contains(&level))),
                "{level} {}",
                run.stderr
            );
        }
        for level in CLOSED {
            let strays = [place.path("stray"), place.path(&format!("{level}.w/stray"))];
            let writes =
                strays.each_ref().map(|stray| format!("touch {};", stray.display())).concat();
            // They may succeed in a /tmp of the command's own.
            let command = format!("{writes} touch out");
            let task =
                json!({"command": command, "inputs": [], "outputs": ["out"], "sandbox": level});
            place.workspace(&format!("{level}.w"), &one(task), &[]).run(&[]).expect_success();
            assert!(strays.iter().all(|stray| !stray.exists()), "{level}");
        }
    }
}

#[test]
fn nothing_of_the_system_can_be_written_not_even_by_root() {
    let place = Place::new();
    let name = format!("netbuild-test-{}", std::process::id());
    for level in CLOSED {
        let command = format!(
            "for d in / /usr /etc /var /root /home /dev; do \
             if (: > $d/{name}) 2>/dev/null; then echo $d; fi; done > out"
        );
        let task = json!({"command": command, "inputs": [], "outputs": ["out"], "sandbox": level});
        let workspace = place.workspace(level, &one(task), &[]);
        workspace.run(&[]).expect_success();
        assert_eq!(workspace.read("out"), "", "{level}");
    }
    for directory in ["/", "/usr", "/etc", "/var", "/root", "/home", "/dev"] {
        assert!(!Path::new(directory).join(&name).exists(), "{directory}");
    }
}

#[test]
fn a_command_of_ns_finds_the_usual_devices_and_no_disk() {
    let place = Place::new();
    let command = "test -z \"$(find /dev -type b)\" && echo x >/dev/null && echo x >/dev/shm/x \
                   && test \"$(head -c 4 /dev/urandom | wc -c)\" = 4 \
                   && python3 -c 'import os; os.openpty()' && ! touch /dev/x 2>/dev/null";
    let task = json!({"command": command, "sandbox": "ns"});
    place.workspace("devices", &one(task), &[]).run(&[]).expect_success();
}

#[test]
fn what_is_behind_a_link_that_a_command_made_is_no_output_of_it() {
    let place = Place::new();
    let outside = place.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "x").unwrap();
    for level in ["stage", "landlock", "ns"] {
        for (name, output) in [("path", "gen/precious"), ("glob", "gen/*"), ("tree", "gen/")] {
            let command = format!("rm -rf gen; ln -s {} gen", outside.display());
            let task = json!({"command": command, "outputs": [output], "sandbox": level});
            let workspace = place.workspace(&format!("{level}-{name}"), &one(task), &[]);
            let run = workspace.run(&[]);
            assert!(!run.status.success(), "{level} {name}: {}", run.stderr);
            says(&run, &["leads out of the workspace"]);
            assert!(outside.join("precious").exists(), "{level} {name}");
        }
    }
}

#[test]
fn stages_are_neither_made_nor_removed_behind_a_link_of_the_repository() {
    let place = Place::new();
    let outside = place.path("outside");
    fs::create_dir_all(outside.join("left")).unwrap();
    fs::write(outside.join("left/precious"), "x").unwrap();
    for (level, works) in [("env", true), ("stage", false)] {
        let task = json!({"command": "echo x >out", "outputs": ["out"], "sandbox": level});
        let workspace = place.workspace(level, &one(task), &[]);
        // As if a run called `left` had been killed there.
        fs::create_dir_all(workspace.root.join(".netbuild/tmp")).unwrap();
        fs::write(workspace.root.join(".netbuild/tmp/left.lock"), "").unwrap();
        symlink(&outside, workspace.root.join(".netbuild/sandbox")).unwrap();
        let run = workspace.run(&[]);
        assert_eq!(run.status.success(), works, "{level}: {}", run.stderr);
        assert!(outside.join("left/precious").exists(), "{level}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{level}");
    }
}

#[test]
fn the_network_is_off_unless_a_task_asks_for_it() {
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let connect = ["bash", "-c", &format!("exec 3<>/dev/tcp/127.0.0.1/{port}")];
    for (level, network, reaches) in [
        ("env", None, true),
        ("stage", None, true),
        ("landlock", None, false),
        ("landlock", Some(true), true),
        ("ns", None, false),
        ("ns", Some(true), true),
    ] {
        let mut task = json!({"command": connect, "inputs": [], "outputs": [], "sandbox": level});
        if let Some(network) = network {
            task["network"] = network.into();
        }
        let run = place.workspace(&format!("{level}-{network:?}"), &one(task), &[]).run(&[]);
        assert_eq!(run.status.success(), reaches, "{level} {network:?} {}", run.stderr);
    }
    // A command of `ns` can still talk to itself.
    let own = "import socket; s = socket.create_server(('127.0.0.1', 0)); \
               socket.create_connection(s.getsockname())";
    let task =
        json!({"command": ["python3", "-c", own], "inputs": [], "outputs": [], "sandbox": "ns"});
    place.workspace("own", &one(task), &[]).run(&[]).expect_success();
    let task = json!({"command": "true", "inputs": [], "outputs": [], "network": false});
    let run = place.workspace("said", &one(task), &[]).run(&[]).expect_success();
    says(&run, &["`network: false` is not enforced at this level"]);
}

#[test]
fn a_command_of_ns_cannot_undo_what_keeps_it_in() {
    let place = Place::beside_the_build();
    let root = place.path("w");
    let root = root.display();
    // Mounts can be changed in further namespaces only, where those of before are locked.
    let undo = format!(
        "umount -l {root}; umount -l /proc; mount -o remount,bind,rw /usr; touch /usr/netbuild-test; \
         kill -KILL 1; cat {root}/undeclared && echo found > out"
    );
    let command =
        format!("{undo}; unshare -Urm sh -c '{undo}'; echo no >> out; ! grep -q found out");
    let task = json!({"command": command, "inputs": [], "outputs": ["out"], "sandbox": "ns"});
    let workspace = place.workspace("w", &one(task), &[("undeclared", "")]);
    workspace.run(&[]).expect_success();
    assert_eq!(workspace.read("out"), "no\n");
    assert!(!Path::new("/usr/netbuild-test").exists());
}

/// A command that does nothing for long and that no other test has.
fn sleep(number: u32) -> String {
    format!("sleep {}{number:03}", std::process::id())
}

#[test]
fn what_a_command_leaves_running_dies_with_it() {
    let place = Place::new();
    for (number, level) in (0..).zip(OTHER) {
        let daemon = sleep(number);
        let command = format!(
            "(setsid sh -c 'trap \"\" TERM INT HUP; {daemon} & : >$TMPDIR/there; wait' >/dev/null 2>&1 &); \
             until test -e $TMPDIR/there; do sleep 0.01; done"
        );
        let task = json!({"command": command, "sandbox": level});
        place.workspace(level, &one(task), &[]).run(&[]).expect_success();
        assert!(!runs(&daemon), "{level}");
    }
}

#[test]
fn no_process_is_left_when_the_run_is_killed_interrupted_or_late() {
    let place = Place::new();
    for (number, level) in (100..).step_by(10).zip(OTHER) {
        for (how, with) in [(0, Signal::KILL), (1, Signal::INT), (2, Signal::TERM)] {
            let sleep = sleep(number + how);
            let task = json!({"command": format!("{sleep}; :"), "sandbox": level});
            let workspace = place.workspace(&format!("{level}{how}"), &one(task), &[]);
            let run = Running::start(&mut workspace.command(&[]));
            wait_until("the command runs", || runs(&sleep));
            signal(run.pid(), with);
            let run = run.wait();
            let code = match with {
                Signal::INT => Some(130),
                Signal::TERM => Some(143),
                _ => None,
            };
            assert_eq!(run.code(), code, "{level} {}", run.stderr);
            wait_until("the command is gone", || !runs(&sleep));
            let left = fs::read_dir(workspace.root.join(".netbuild/sandbox"));
            // Who is killed removes nothing; the next run does.
            if with != Signal::KILL {
                assert_eq!(left.into_iter().flatten().count(), 0, "{level}");
            }
        }
        let sleep = sleep(number + 3);
        let task = json!({"command": format!("{sleep}; :"), "timeout": 0.5, "sandbox": level});
        let workspace = place.workspace(&format!("{level}-late"), &one(task), &[]);
        fails(&workspace.run(&[]), &["took longer than its timeout"]);
        assert!(!runs(&sleep), "{level}");
    }
    let workspace = place.workspace("stage0", &one(json!({"command": "true", "inputs": []})), &[]);
    workspace.run(&[]).expect_success();
    let left = fs::read_dir(workspace.root.join(".netbuild/sandbox")).unwrap();
    assert_eq!(left.count(), 0, "stages of a killed run stay");
}

#[test]
fn how_a_command_ends_is_told_at_every_level() {
    let place = Place::new();
    for level in OTHER {
        for (command, said) in [
            ("exit 7", "exited with code 7"),
            ("kill -SEGV $$", "ended by signal 11"),
            ("exec /none/such", "exited with code 127"),
        ] {
            let workspace =
                place.workspace("w", &one(json!({"command": command, "sandbox": level})), &[]);
            fails(&workspace.run(&[]), &[said]);
        }
        let task = json!({"command": ["/none/such"], "sandbox": level});
        fails(
            &place.workspace("w", &one(task), &[]).run(&[]),
            &["could not be started: `/none/such`"],
        );
        let task = json!({"command": "printf 'a\\n'; printf b >&2; cat; exit 1", "sandbox": level});
        fails(&place.workspace("w", &one(task), &[]).run(&[]), &["a\nb"]);
    }
}

#[test]
fn outputs_with_the_workspaces_path_are_the_same_everywhere_at_ns() {
    let place = Place::beside_the_build();
    let script = "{ pwd; readlink -f .; echo $TMPDIR; id -u; id -g; uname -n; cat src; } > sub/out";
    let task = |level: &str| {
        one(json!({"command": script, "inputs": ["src"], "outputs": ["sub/out"], "sandbox": level}))
    };
    let files = [("src", "x")];
    let [here, there] =
        ["here", "there/far"].map(|name| place.workspace(name, &task("ns"), &files));
    here.run(&[]).expect_success();
    there.run(&[]).expect_success();
    let text = here.read("sub/out");
    assert_eq!(text, "/netbuild/ws\n/netbuild/ws\n/tmp\n1000\n1000\nnetbuild\nx");
    assert_eq!(there.read("sub/out"), text);
    // So the result of one is good in the other.
    let third = place.workspace("third", &task("ns"), &files).with_data_dir(&here.data_dir);
    assert_eq!(third.run(&[]).expect_success().count("/hits/disk"), 1);
    assert_eq!(third.read("sub/out"), text);
    // What names its workspace is good nowhere else.
    for level in ["env", "stage"] {
        let [one, two] = ["1", "2"].map(|name| {
            place
                .workspace(&format!("{level}{name}"), &task(level), &files)
                .with_data_dir(&there.data_dir)
        });
        let key = |workspace: &Workspace| {
            let mut graph = task(level);
            graph["cache"] = json!({"salt": level});
            workspace.write("graph.json", &graph.to_string());
            workspace.run(&[]).expect_success().executed()
        };
        assert_eq!((key(&one), key(&two)), (1, 1), "{level}");
    }
}

#[test]
fn temporary_files_are_private_and_gone_afterwards() {
    let place = Place::new();
    let name = format!("netbuild-test-{}", std::process::id());
    for level in ["env", "audit", "stage", "landlock", "ns"] {
        let command =
            "[ -z \"$(ls -A $TMPDIR)\" ] && echo secret > $TMPDIR/mine && cat $TMPDIR/mine";
        let graph = json!({"tasks": {
            "a": {"command": command, "sandbox": level},
            "b": {"command": command, "sandbox": level, "deps": [{"task": "a", "kind": "order"}]}}});
        let workspace = place.workspace(level, &graph, &[]);
        let run = workspace.run(&["-j1"]).expect_success();
        assert_eq!(run.executed(), 2, "{level}");
        let mut grep = Command::new("grep");
        grep.args(["-r", "secret", ".netbuild/tmp"]).current_dir(&workspace.root);
        assert!(!grep.status().expect("grep").success(), "{level}");
    }
    let command = format!(
        "for d in /tmp /var/tmp /dev/shm; do [ ! -e $d/{name} ] && : > $d/{name} || exit 1; done"
    );
    let graph = json!({"tasks": {
        "a": {"command": command, "sandbox": "ns"},
        "b": {"command": command, "sandbox": "ns", "deps": [{"task": "a", "kind": "order"}]}}});
    place.workspace("whole", &graph, &[]).run(&[]).expect_success();
    for directory in ["/tmp", "/var/tmp", "/dev/shm"] {
        assert!(!Path::new(directory).join(&name).exists(), "{directory}");
    }
}

#[test]
fn stray_writes_are_dropped_and_named() {
    let place = Place::new();
    let command =
        "echo stray > stray; mkdir -p deep/er; : > deep/er/x; echo more >> src; echo > out";
    let task = |level: &str| {
        one(json!({"command": command, "inputs": ["src"], "outputs": ["out"], "sandbox": level}))
    };
    for level in STAGED {
        let workspace = place.workspace(level, &task(level), &[("src", "source")]);
        let strict = workspace.run(&["--strict"]);
        fails(&strict, &["it wrote `deep/er/x`, `src`, `stray`, undeclared"]);
        let run = workspace.run(&[]).expect_success();
        says(&run, &["it wrote `deep/er/x`, `src`, `stray`, undeclared; that is not kept"]);
        assert_eq!(workspace.read("src"), "source", "{level}");
        assert!(workspace.exists("out") && !workspace.exists("stray") && !workspace.exists("deep"));
        assert_eq!(workspace.run(&[]).expect_success().executed(), 0, "{level}");
    }
    let audit = place.workspace("audit", &task("audit"), &[("src", "source")]);
    // Its own input has changed, so what it is a result of is not known.
    says(&audit.run(&[]), &["input `src` changed while the task ran"]);
    let graph = one(json!({"command": "echo > stray; rm -f old; echo > out", "inputs": [],
                           "outputs": ["out"], "sandbox": "audit"}));
    let audit = place.workspace("audit2", &graph, &[("old", "")]);
    let run = audit.run(&[]).expect_success();
    says(&run, &["it wrote `old`, `stray`, undeclared; its result is not kept"]);
    fails(&audit.run(&["--strict"]), &["it wrote `stray`, undeclared"]);
}

#[test]
fn outputs_of_a_stage_are_exact_and_a_failed_command_leaves_the_earlier_ones() {
    let place = Place::new();
    for level in STAGED {
        let script = "cat src; mkdir -p tree/sub && cat src > tree/sub/$(cat src) && ln -s sub tree/link && \
                      cat src > bin && chmod +x bin && ! grep -q bad src";
        let task = json!({"command": script, "inputs": ["src"], "outputs": ["tree/", "bin"],
                          "sandbox": level});
        let workspace = place.workspace(level, &one(task), &[("src", "one")]);
        workspace.run(&[]).expect_success();
        assert_eq!(workspace.read("tree/link/one"), "one");
        workspace.write("src", "two");
        workspace.run(&[]).expect_success();
        assert!(workspace.exists("tree/sub/two") && !workspace.exists("tree/sub/one"), "{level}");
        use std::os::unix::fs::PermissionsExt as _;
        let mode = workspace.root.join("bin").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{level}");
        workspace.write("src", "bad");
        fails(&workspace.run(&[]), &["exited with code 1"]);
        assert_eq!(workspace.read("bin"), "two", "{level}");
        // A result that lacks an output is none.
        let task = json!({"command": ":", "inputs": [], "outputs": ["bin"], "sandbox": level});
        workspace.write("graph.json", &one(task).to_string());
        fails(&workspace.run(&[]), &["declared output `bin` was not produced"]);
        // What is to be built upon is there.
        let task = json!({"command": "cat bin >> bin.new; echo more >> bin", "inputs": [],
                          "outputs": ["bin"], "clean": false, "sandbox": level});
        workspace.write("graph.json", &one(task).to_string());
        workspace.run(&[]).expect_success();
        assert_eq!(workspace.read("bin"), "twomore\n", "{level}");
    }
}

#[test]
fn a_stage_has_what_tasks_before_made_and_what_links_lead_to() {
    let place = Place::new();
    let outside = place.path("outside");
    fs::write(&outside, "far").unwrap();
    for level in STAGED {
        let graph = json!({"tasks": {
            "make": {"command": "mkdir -p gen && echo made > gen/x", "inputs": [], "outputs": ["gen/"]},
            "use": {"command": "cat ../gen/x near far > all", "working_dir": "sub", "deps": ["make"],
                    "inputs": ["sub/near", "sub/far"], "outputs": ["sub/all"], "sandbox": level}}});
        let workspace = place.workspace(level, &graph, &[("real", "near")]);
        fs::create_dir_all(workspace.root.join("sub")).unwrap();
        symlink("../real", workspace.root.join("sub/near")).unwrap();
        symlink(&outside, workspace.root.join("sub/far")).unwrap();
        workspace.run(&[]).expect_success();
        assert_eq!(workspace.read("sub/all"), "made\nnearfar", "{level}");
    }
}

#[test]
fn a_level_that_is_not_there_fails_unless_a_lower_one_will_do() {
    let place = Place::new();
    // No further user namespaces below this one.
    let without = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"";
    let without =
        |command: &Command| through(&["unshare", "-Ur", "sh", "-c", without, "sh"], command);
    let task = |sandbox: Value| {
        one(json!({"command": "cat ../*/secret; echo > out", "inputs": [], "outputs": ["out"],
                   "sandbox": sandbox}))
    };
    let workspace = place.workspace("w", &task(json!("ns")), &[("secret", "")]);
    let run = Run::of(&mut without(&workspace.command(&["--json"])));
    fails(&run, &["level `ns` cannot be had here", "no namespaces", "\"fallback\": true"]);
    assert!(!workspace.exists("out"));

    workspace.write("graph.json", &task(json!({"level": "ns", "fallback": true})).to_string());
    let events = place.path("events");
    let events_argument = format!("--json-events={}", events.display());
    let args = ["--json", events_argument.as_str()];
    let run = Run::of(&mut without(&workspace.command(&args))).expect_success();
    says(&run, &["level ns cannot be had here", "executed at level landlock instead of ns"]);
    assert_eq!(run.summary["sandbox"], json!({"landlock": 1}));
    let finished = |events: &Path| -> Value {
        let text = fs::read_to_string(events).unwrap();
        let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut finished = events.filter(|event| event["event"] == "finished");
        finished.next().unwrap()["sandbox"].clone()
    };
    assert_eq!(finished(&events), json!({"asked": "ns", "obtained": "landlock"}));
    // The record has it as well.
    workspace.remove("out");
    let run = workspace.run(&[&events_argument]).expect_success();
    assert_eq!(run.count("/hits/disk"), 1);
    assert_eq!(finished(&events), json!({"asked": "ns", "obtained": "landlock"}));

    let show = |args: &[&str]| {
        let output = netbuild()
            .current_dir(&workspace.root)
            .args(["graph", "show", "t"])
            .args(args)
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    assert!(show(&[]).contains("level ns or a lower one"), "{}", show(&[]));
    let shown: Value = serde_json::from_str(&show(&["--json"])).unwrap();
    assert_eq!(shown["sandbox"], json!({"level": "ns", "fallback": true}));
}

#[test]
fn every_level_works_without_privileges() {
    let place = Place::new();
    let nobody = 65534;
    for level in OTHER {
        let task = json!({"command": "cat src > out; touch $TMPDIR/x; echo > stray", "inputs": ["src"],
                          "outputs": ["out"], "sandbox": level});
        let workspace = place.workspace(level, &one(task), &[("src", "x")]);
        fs::create_dir(&workspace.data_dir).unwrap();
        let mut command = workspace.command(&["--json"]);
        if rustix::process::geteuid().is_root() {
            chown(place.path("."), Some(nobody), None).unwrap();
            for path in [&workspace.root, &workspace.data_dir, &workspace.root.join("src")] {
                chown(path, Some(nobody), Some(nobody)).unwrap();
            }
            command =
                through(&["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"], &command);
        }
        let run = Run::of(&mut command).expect_success();
        assert_eq!(run.summary["sandbox"], json!({level: 1}), "{}", run.stderr);
        assert_eq!(workspace.read("out"), "x");
        says(&run, &["it wrote `stray`, undeclared"]);
    }
}

#[test]
fn results_of_loose_tasks_see_the_callers_environment_and_stay_here() {
    let place = Place::new();
    let graph = json!({"tasks": {
        "loose": {"command": "echo $FROM_CALLER > loose", "inputs": [], "outputs": ["loose"],
                  "sandbox": "loose"},
        "env": {"command": "echo .$FROM_CALLER > env", "inputs": [], "outputs": ["env"]}}});
    let [here, there] = ["here", "there"].map(|name| place.workspace(name, &graph, &[]));
    let first = Agent::start("one", &here.data_dir, &[]);
    let second = Agent::start("two", &there.data_dir, &[&first.ticket]);
    let run = Run::of(here.command(&["--json"]).env("FROM_CALLER", "x")).expect_success();
    assert_eq!(run.summary["sandbox"], json!({"env": 1, "loose": 1}));
    assert_eq!((here.read("loose"), here.read("env")), ("x\n".to_owned(), ".\n".to_owned()));
    second.wait_for_members(1, 1);
    let run = there.run(&[]).expect_success();
    assert_eq!((run.count("/hits/peer"), run.executed()), (1, 1), "{}", run.stderr);
    assert_eq!(there.read("loose"), "\n");
    // Here it counts.
    here.remove("loose");
    assert_eq!(here.run(&[]).expect_success().executed(), 0);
    // Whoever takes no less than `stage` takes neither.
    let config = place.path("strict.toml");
    fs::write(&config, "[run]\nmin_accept_level = \"stage\"\n").unwrap();
    here.remove("loose");
    here.remove("env");
    let run = here.run(&["--config", config.to_str().unwrap()]).expect_success();
    assert_eq!(run.executed(), 2);
    let mut why = netbuild();
    why.current_dir(&here.root).args(["why", "loose", "--data-dir"]).arg(&here.data_dir);
    let told = String::from_utf8(why.output().expect("netbuild runs").stdout).expect("text");
    let refused = "it was made at level `loose`, and `min_accept_level` is `stage`";
    assert!(told.contains(refused) && !told.contains("does not have that result"), "{told}");
    // A task that is closed now does not take what it saw when it was open.
    here.remove("loose");
    let graph_file = here.read("graph.json");
    here.write("graph.json", &graph_file.replace("\"sandbox\":\"loose\"", "\"sandbox\":\"env\""));
    let run = Run::of(here.command(&["--json"]).env("FROM_CALLER", "x")).expect_success();
    assert_eq!((run.executed(), here.read("loose")), (1, "\n".to_owned()));
}

#[test]
fn what_a_dep_file_names_is_declared_for_a_watched_command() {
    let place = Place::new();
    let graph = |named: &str| {
        let command = format!("cat a.c a.h > out; echo 'out: {named}' > out.d");
        json!({"tasks": {
            "gen": {"command": "cat from > a.h", "inputs": ["from"], "outputs": ["a.h"]},
            "t": {"command": command, "inputs": ["a.c"], "outputs": ["out", "out.d"],
                  "dep_file": "out.d", "sandbox": "audit",
                  "deps": [{"task": "gen", "kind": "order"}]}}})
    };
    let files = [("a.c", "c"), ("from", "1")];
    let named = place.workspace("named", &graph("a.c a.h"), &files);
    let run = named.run(&["--strict"]).expect_success();
    assert_eq!(run.summary["sandbox"], json!({"audit": 1, "env": 1}));
    named.remove("out");
    assert_eq!(named.run(&[]).expect_success().executed(), 0);
    named.write("from", "2");
    assert_eq!(named.run(&[]).expect_success().executed(), 2);
    assert_eq!(named.read("out"), "c2");
    let unnamed = place.workspace("unnamed", &graph("a.c"), &files);
    fails(&unnamed.run(&["--strict"]), &["it read `a.h`, undeclared"]);
}

/// Reads files in a thread, in a child by fork, and in one by vfork and exec, all while signals come; and stops
/// itself, to be continued by its child.
const READER: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
static volatile int ticks;
static void tick(int signal) { (void)signal; ticks++; }
static void *reads(void *path) {
    for (int i = 0; i < 300; i++) {
        int fd = open(path, O_RDONLY);
        if (fd < 0) exit(9);
        close(fd);
    }
    return 0;
}
int main(void) {
    // What goes past the filter is not there.
    if (syscall(SYS_io_uring_setup, 1, 0) != -1 || errno != ENOSYS) return 5;
    struct sigaction action = { .sa_handler = tick, .sa_flags = SA_RESTART };
    sigaction(SIGALRM, &action, 0);
    struct itimerval each = { { 0, 500 }, { 0, 500 } };
    setitimer(ITIMER_REAL, &each, 0);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], 0, reads, "by-thread");
    for (int i = 0; i < 4; i++) pthread_join(threads[i], 0);
    setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, 0);
    int status = 1;
    pid_t child = fork();
    if (child == 0) { reads("by-fork"); _exit(0); }
    if (waitpid(child, &status, 0) != child || status) return 8;
    child = vfork();
    if (child == 0) { execlp("cat", "cat", "by-vfork", (char *)0); _exit(1); }
    if (waitpid(child, &status, 0) != child || status) return 7;
    pid_t self = getpid();
    child = fork();
    if (child == 0) {
        for (;;) { usleep(2000); kill(self, SIGCONT); }
    }
    raise(SIGSTOP);
    kill(child, SIGKILL);
    if (waitpid(child, &status, 0) != child || !WIFSIGNALED(status)) return 6;
    reads("by-main");
    printf("%s\n", ticks > 0 ? "with signals" : "without signals");
    return 0;
}
"#;

#[test]
fn an_audit_sees_static_programs_threads_and_children_whatever_signals_come() {
    let place = Place::new();
    let read = ["by-fork", "by-main", "by-thread", "by-vfork"];
    for (name, flags) in [("dynamic", &[][..]), ("static", &["-static"])] {
        let task = json!({"command": ["./reader"], "inputs": ["reader"], "outputs": [], "tools": ["cat"],
                          "sandbox": "audit"});
        let files = read.map(|file| (file, "x"));
        let workspace = place.workspace(name, &one(task), &files);
        let source = place.path("reader.c");
        fs::write(&source, READER).unwrap();
        let mut cc = Command::new("cc");
        cc.args(flags)
            .args(["-pthread", "-O1", "-o"])
            .arg(workspace.root.join("reader"))
            .arg(source);
        assert!(cc.status().expect("a C compiler").success());
        let run = workspace.run(&[]).expect_success();
        let names = read.map(|file| format!("`{file}`")).join(", ");
        says(&run, &[&format!("it read {names}, undeclared"), "with signals"]);
        assert!(!run.stderr.contains("`cat`"), "{}", run.stderr);
    }
}

#[test]
fn an_audit_names_programs_that_are_no_tools_and_says_when_it_cannot_see() {
    let place = Place::new();
    let task = json!({"command": "sed -n p src > out", "inputs": ["src"], "outputs": ["out"],
                      "sandbox": "audit"});
    let workspace = place.workspace("tools", &one(task), &[("src", "x")]);
    let run = workspace.run(&["--strict"]).expect_success();
    says(&run, &["/sed`, not among its `tools`"]);
    // The result is kept all the same: of what it depends on, that is not said to be all.
    assert_eq!(workspace.run(&[]).expect_success().executed(), 0);

    // Somebody else may do the work.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let connect = format!("exec 3<>/dev/tcp/127.0.0.1/{port}");
    let task = json!({"command": ["bash", "-c", connect], "inputs": [], "outputs": [],
                      "sandbox": "audit"});
    let workspace = place.workspace("talks", &one(task), &[]);
    for _ in 0..2 {
        let run = workspace.run(&[]).expect_success();
        says(&run, &["it talked to a process that is not its own", "its result is not kept"]);
        assert_eq!(run.executed(), 1);
    }
    fails(&workspace.run(&["--strict"]), &["it talked to a process that is not its own"]);
}

#[test]
fn make_shares_the_jobs_of_the_run_at_every_level() {
    let place = Place::new();
    let recipe =
        "touch $@.here; until [ -e a.here -a -e b.here -a -e c.here ]; do sleep 0.01; done";
    let makefile = format!("all: a b c\na b c:\n\t@{recipe}\n");
    for level in OTHER {
        let task =
            json!({"command": "make", "inputs": ["Makefile"], "timeout": "60s", "sandbox": level});
        let workspace = place.workspace(level, &one(task), &[("Makefile", &*makefile)]);
        let run = workspace.run(&["-j3"]).expect_success();
        assert!(!run.stderr.contains("jobserver"), "{level} {}", run.stderr);
    }
}

#[test]
fn what_a_task_was_seen_to_use_is_proposed_and_written() {
    let place = Place::new();
    let text = "{\n  // Of the whole.\n  \"tasks\": {\n    \"gen\": { \"command\": \"cat a.in > gen.h\" },\n    \
                // Of cc.\n    \"cc\": {\n      \"command\": \"mkdir -p out; cat src/*.c lib/x.h gen.h > out/all; cp out/all out/copy\",\n      \
                \"deps\": [{ \"task\": \"gen\", \"kind\": \"order\" }],\n      \"inputs\": [\"lib/x.h\"] // Kept.\n    }\n  }\n}\n";
    let files = [
        ("a.in", "in"),
        ("src/a.c", "a"),
        ("src/b.c", "b"),
        ("lib/x.h", "x"),
        ("lib/unread.h", ""),
    ];
    let workspace = place.workspace("w", &Value::Null, &files);
    workspace.write("graph.json", text);
    let suggest = |args: &[&str]| {
        let mut command = netbuild();
        command.current_dir(&workspace.root).args(["graph", "suggest"]).args(args);
        let output = command.output().expect("netbuild runs");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{stderr}");
        String::from_utf8(output.stdout).expect("text")
    };
    let patch = suggest(&[]);
    assert_eq!(workspace.read("graph.json"), text);
    for added in ["a.in", "gen.h", "src/*.c", "out/", "\"gen\""] {
        let line = |line: &&str| line.starts_with('+') && line.contains(added);
        assert!(patch.lines().any(|text| line(&text)), "no {added} in {patch}");
    }
    for never in ["unread", "/usr", "\"cat\"", "-    // "] {
        assert!(!patch.contains(never), "{never} in {patch}");
    }
    // The patch says what is written.
    let by_hand = place.path("by-hand");
    fs::write(&by_hand, text).unwrap();
    let patch_file = place.path("patch");
    fs::write(&patch_file, &patch).unwrap();
    let patched = Command::new("patch").arg("-s").args([&by_hand, &patch_file]).status();
    assert!(patched.expect("patch").success());
    // As the first time, when it made the directory.
    workspace.remove("out");
    suggest(&["--write"]);
    let written = workspace.read("graph.json");
    assert_eq!(fs::read_to_string(&by_hand).unwrap(), written);
    for kept in ["// Of the whole.", "// Of cc.", "// Kept."] {
        assert!(written.contains(kept), "{written}");
    }
    assert_eq!(suggest(&[]), "");
    // With that, the tasks have all they need.
    let closed = written.replacen("\"tasks\"", "\"defaults\": {\"sandbox\": \"ns\"}, \"tasks\"", 1);
    workspace.write("graph.json", &closed);
    let run = workspace.run(&["--strict"]).expect_success();
    assert_eq!(run.summary["sandbox"], json!({"ns": 2}));
    assert_eq!(workspace.read("out/copy"), "abxin");
}

#[test]
fn nothing_runs_to_propose_for_a_file_that_cannot_be_edited() {
    let place = Place::new();
    let workspace = place.workspace("w", &Value::Null, &[]);
    workspace.write("build.ninja", "rule r\n  command = touch $out\nbuild made: r\n");
    let mut command = netbuild();
    command.current_dir(&workspace.root).args(["graph", "suggest", "--graph", "build.ninja"]);
    let output = command.output().expect("netbuild runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("`build.ninja` cannot be edited"), "{said}");
    assert!(!workspace.exists("made"));
}

#[test]
fn a_task_that_makes_nothing_is_not_proposed_to_be_skipped() {
    let place = Place::new();
    let files = [("in", "x")];
    let workspace = place.workspace("w", &one(json!({"command": "cat in >/dev/null"})), &files);
    let mut command = netbuild();
    command.current_dir(&workspace.root).args(["graph", "suggest", "--write"]);
    let output = command.output().expect("netbuild runs");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && stderr.contains("it makes nothing here"), "{stderr}");
    assert_eq!(workspace.run(&[]).expect_success().executed(), 1);
    assert_eq!(workspace.run(&[]).expect_success().executed(), 1);
}

#[test]
fn a_strict_run_leaves_the_workspace_as_it_was_when_a_staged_task_leaves_strays() {
    let place = Place::new();
    for level in STAGED {
        let task = json!({"command": "echo new > out; echo x > stray", "inputs": [],
                          "outputs": ["out"], "sandbox": level});
        let workspace = place.workspace(level, &one(task), &[("out", "old\n")]);
        fails(&workspace.run(&["--strict"]), &["it wrote `stray`, undeclared"]);
        assert_eq!(workspace.read("out"), "old\n", "{level}");
        says(&workspace.run(&[]).expect_success(), &["it wrote `stray`, undeclared"]);
        assert_eq!(workspace.read("out"), "new\n", "{level}");
        assert!(!workspace.exists("stray"), "{level}");
    }
}

#[test]
fn an_output_that_names_its_stage_is_told_and_stays_here() {
    let place = Place::new();
    for (level, told) in [("stage", true), ("landlock", true), ("ns", false), ("env", false)] {
        let task = json!({"command": "pwd > out", "inputs": [], "outputs": ["out"],
                          "sandbox": level});
        let [here, there] = ["here", "there"]
            .map(|name| place.workspace(&format!("{level}-{name}"), &one(task.clone()), &[]));
        let there = there.with_data_dir(&here.data_dir);
        let run = here.run(&[]).expect_success();
        let message = "output `out` contains the path of its stage, which is gone";
        assert_eq!(run.stderr.contains(message), told, "{level}: {}", run.stderr);
        assert_eq!(here.run(&[]).expect_success().executed(), 0, "{level}");
        let elsewhere = there.run(&[]).expect_success().executed();
        assert_eq!(elsewhere, u64::from(level != "ns"), "{level}");
    }
}

#[test]
fn what_stands_at_a_level_that_is_not_taken_any_more_is_made_again() {
    let place = Place::new();
    let config = place.path("strict.toml");
    fs::write(&config, "[run]\nmin_accept_level = \"stage\"\n").unwrap();
    let strict = ["--config", config.to_str().unwrap()];
    for (level, executed) in [("env", 1), ("stage", 0)] {
        let task = json!({"command": "echo x > out", "inputs": [], "outputs": ["out"],
                          "sandbox": level});
        let workspace = place.workspace(level, &one(task), &[]);
        workspace.run(&[]).expect_success();
        assert_eq!(workspace.run(&[]).expect_success().executed(), 0, "{level}");
        assert_eq!(workspace.run(&strict).expect_success().executed(), executed, "{level}");
    }
}

#[test]
fn what_a_result_below_the_level_names_is_not_fetched() {
    let place = Place::new();
    let task = json!({"command": "seq 200000 > out", "inputs": [], "outputs": ["out"]});
    let [here, there] =
        ["here", "there"].map(|name| place.workspace(name, &one(task.clone()), &[]));
    let first = Agent::start("one", &here.data_dir, &[]);
    let second = Agent::start("two", &there.data_dir, &[&first.ticket]);
    here.run(&[]).expect_success();
    second.wait_for_members(1, 1);
    let config = place.path("strict.toml");
    fs::write(&config, "[run]\nmin_accept_level = \"ns\"\n").unwrap();
    let blobs = || second.status()["store"]["blobs"].as_u64().expect("a number");
    assert_eq!(blobs(), 0);
    // So nothing of its own comes into the store.
    let mut reads = one(task);
    reads["tasks"]["t"]["cache"] = "read-only".into();
    there.write("graph.json", &reads.to_string());
    let run = there.run(&["--config", config.to_str().unwrap()]).expect_success();
    assert_eq!(run.executed(), 1, "{}", run.stderr);
    assert_eq!(blobs(), 0, "{}", run.stderr);
    // The same with a level that will do.
    there.remove("out");
    assert_eq!(there.run(&[]).expect_success().count("/hits/peer"), 1);
    assert!(blobs() > 0);
}

#[test]
fn what_a_watched_command_makes_and_moves_or_removes_is_its_own() {
    let place = Place::new();
    let command = "mkdir tmp; echo x > tmp/a; mv tmp gone; mv gone/a out.tmp; mv out.tmp out; \
                   echo 'echo y' > probe; sh probe > sub.tmp; rm probe; mv sub.tmp sub/y; rmdir gone";
    let task = json!({"command": command, "inputs": [], "outputs": ["out", "sub/y"],
                      "sandbox": "audit"});
    let workspace = place.workspace("own", &one(task), &[]);
    workspace.run(&["--strict"]).expect_success();
    assert_eq!((workspace.read("out"), workspace.read("sub/y")), ("x\n".into(), "y\n".into()));
    assert_eq!(workspace.run(&[]).expect_success().executed(), 0);

    let task = json!({"command": "mv source out", "inputs": [], "outputs": ["out"],
                      "sandbox": "audit"});
    let workspace = place.workspace("other", &one(task), &[("source", "")]);
    fails(&workspace.run(&["--strict"]), &["it wrote `source`, undeclared"]);
}

#[test]
fn what_a_watched_command_writes_to_the_system_is_told() {
    let place = Place::new();
    let name = format!("/run/netbuild-test-{}", std::process::id());
    let command = format!("echo x > {name}; cat {name} > out; rm {name}; echo x >/dev/null");
    let task = |command: &str| {
        one(json!({"command": command, "inputs": [], "outputs": ["out"], "sandbox": "audit"}))
    };
    // What is gone in the end is nothing.
    place.workspace("gone", &task(&command), &[]).run(&["--strict"]).expect_success();
    let workspace = place.workspace("stays", &task(&format!("echo x > {name}; echo x > out")), &[]);
    let run = workspace.run(&[]).expect_success();
    fs::remove_file(&name).unwrap();
    says(&run, &[&format!("it wrote `{name}`, undeclared"), "its result is not kept"]);
}
