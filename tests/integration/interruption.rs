//! Runs that end before their time leave no process, no half result and no lock.

use crate::support::{Ledger, Place, Run, Workspace, signal, wait_until};
use rustix::process::{Pid, Signal, test_kill_process};
use serde_json::{Value, json};
use std::{
    fs,
    io::Read as _,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

/// A running `netbuild run --json`; killed when dropped.
struct Running {
    child: Option<Child>,
}

impl Running {
    fn start(workspace: &Workspace, args: &[&str]) -> Self {
        let mut command = workspace.command(args);
        command.arg("--json").stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { child: Some(command.spawn().expect("netbuild starts")) }
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().expect("it has not ended").id()
    }

    fn signal(&self, number: Signal) {
        signal(self.pid(), number);
    }

    /// Waits for the end.
    fn end(mut self) -> Run {
        wait_until("the run has ended", || {
            self.child.as_mut().is_some_and(|child| child.try_wait().expect("a child").is_some())
        });
        let mut child = self.child.take().expect("it ends once");
        let mut text = [String::new(), String::new()];
        child.stdout.take().expect("piped").read_to_string(&mut text[0]).expect("text");
        child.stderr.take().expect("piped").read_to_string(&mut text[1]).expect("text");
        let [stdout, stderr] = text;
        let summary = serde_json::from_str(&stdout).unwrap_or_default();
        let run = Run { status: child.wait().expect("a child"), summary, stderr };
        run.check_counts();
        run
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// A task's processes, which write their ids into files of this directory.
struct Family {
    directory: PathBuf,
}

/// A child, a grandchild in a session of its own, and a daemon that forked twice. All of them
/// shrug off what is not SIGKILL.
const MEMBERS: [&str; 4] = ["task", "child", "session", "daemon"];

impl Family {
    fn new(place: &Place) -> Self {
        let directory = place.path("family");
        fs::create_dir(&directory).expect("a directory");
        Self { directory }
    }

    /// A command that starts all members and then goes on with `then`.
    fn script(&self, then: &str) -> String {
        let member = |name: &str| {
            let file = self.directory.join(name);
            format!(
                "trap '' INT TERM HUP; echo $$ > {0}.new; mv {0}.new {0}; \
                     while :; do sleep 1000; done",
                file.display()
            )
        };
        let [task, child, session, daemon] = MEMBERS;
        format!(
            "sh -c '{}' & setsid sh -c '{}' & (setsid sh -c '{}' &)\n\
             until [ -e {dir}/{child} ] && [ -e {dir}/{session} ] && [ -e {dir}/{daemon} ]\n\
             do sleep 0.01; done\n{then}\necho $$ > {dir}/{task}.new; mv {dir}/{task}.new {dir}/{task}\n",
            member(child).replace('\'', "'\\''"),
            member(session).replace('\'', "'\\''"),
            member(daemon).replace('\'', "'\\''"),
            dir = self.directory.display(),
        )
    }

    fn pids(&self) -> Vec<Pid> {
        let pid = |name: &&str| {
            let text = fs::read_to_string(self.directory.join(name)).ok()?;
            Pid::from_raw(text.trim().parse().ok()?)
        };
        MEMBERS.iter().filter_map(pid).collect()
    }

    fn wait_until_there(&self) {
        wait_until("all processes of the task run", || self.pids().len() == MEMBERS.len());
    }

    fn wait_until_gone(&self) {
        let pids = self.pids();
        assert!(pids.len() >= MEMBERS.len() - 1);
        wait_until("no process of the task is left", || pids.iter().all(|pid| is_gone(*pid)));
    }
}

/// Whether a process is gone, or at least dead: a reaper may take its time in a container.
fn is_gone(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).unwrap_or_default();
    test_kill_process(pid).is_err()
        || stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z"))
}

fn graph(command: &str) -> Value {
    json!({"tasks": {"t": {"command": command, "inputs": ["in"], "outputs": ["out"]}}})
}

const IGNORES: &str = "trap '' INT TERM";
const FOREVER: &str = "while :; do sleep 1000; done";

#[test]
fn a_killed_run_leaves_no_process_no_lock_and_no_half_output() {
    let place = Place::new();
    let family = Family::new(&place);
    let once = place.path("once");
    let command = format!(
        "if [ ! -e {once:?} ]; then : > {once:?}; printf ha > out\n{}\n{FOREVER}; fi\nprintf half > out",
        family.script("")
    );
    let workspace = place.workspace("w", &graph(&command), &[("in", "x")]);
    let running = Running::start(&workspace, &[]);
    family.wait_until_there();
    assert_eq!(workspace.read("out"), "ha");
    running.signal(Signal::KILL);
    assert_eq!(running.end().status.signal(), Some(9));
    family.wait_until_gone();
    let run = workspace.run(&[]).expect_success();
    assert_eq!((run.executed(), workspace.read("out").as_str()), (1, "half"));
    let left = fs::read_dir(workspace.root.join(".netbuild/tmp")).unwrap().count();
    assert_eq!(left, 0, "what the killed run had there is removed");
    assert_eq!(workspace.run(&[]).expect_success().count("/hits/disk"), 1);
}

#[test]
fn interrupt_and_terminate_end_the_run_and_its_tasks() {
    for (number, code, then) in [(Signal::INT, 130, "trap 'exit 0' INT"), (Signal::TERM, 143, "")] {
        let place = Place::new();
        let family = Family::new(&place);
        let command = format!("{}{FOREVER}", family.script(then));
        let workspace = place.workspace("w", &graph(&command), &[("in", "x")]);
        let running = Running::start(&workspace, &[]);
        family.wait_until_there();
        running.signal(number);
        let run = running.end();
        assert_eq!(run.code(), Some(code), "{}", run.stderr);
        family.wait_until_gone();
        assert_eq!(run.summary["result"], "cancelled");
        assert_eq!((run.count("/skipped"), run.count("/failed")), (1, 0), "{}", run.stderr);
        assert!(!workspace.exists("out"));
    }
}

#[test]
fn a_task_that_ignores_signals_is_killed_after_its_grace() {
    let place = Place::new();
    let family = Family::new(&place);
    let command = format!("{IGNORES}\n{}{FOREVER}", family.script(""));
    let workspace = place.workspace("w", &graph(&command), &[("in", "x")]);
    let running = Running::start(&workspace, &[]);
    family.wait_until_there();
    running.signal(Signal::TERM);
    assert_eq!(running.end().code(), Some(143));
    family.wait_until_gone();
}

#[test]
fn a_second_interrupt_kills() {
    let place = Place::new();
    let family = Family::new(&place);
    let asked = place.path("asked");
    // Says that it was asked to end, and goes on.
    let command = format!(
        "trap ': > {}' INT\n{}{}",
        asked.display(),
        family.script(""),
        "while :; do sleep 0.01; done"
    );
    let workspace = place.workspace("w", &graph(&command), &[("in", "x")]);
    let running = Running::start(&workspace, &[]);
    family.wait_until_there();
    running.signal(Signal::INT);
    wait_until("the task was asked", || asked.exists());
    running.signal(Signal::INT);
    let run = running.end();
    assert_eq!(run.code(), Some(130), "{}", run.stderr);
    assert!(run.summary["seconds"].as_f64() < Some(60.0));
    family.wait_until_gone();
}

#[test]
fn a_timeout_ends_the_whole_task() {
    let place = Place::new();
    let family = Family::new(&place);
    let command = format!("{}{FOREVER}", family.script(""));
    let graph = json!({"tasks": {
        "t": {"command": command, "timeout": "1s", "inputs": [], "outputs": ["out"]}}});
    let run = place.workspace("w", &graph, &[]).run(&[]);
    assert_eq!((run.code(), run.count("/failed")), (Some(1), 1));
    assert!(run.stderr.contains("took longer than its timeout"), "{}", run.stderr);
    family.wait_until_gone();
}

#[test]
fn what_a_task_leaves_running_ends_with_it_and_its_open_output_holds_nothing_up() {
    let place = Place::new();
    let family = Family::new(&place);
    let workspace =
        place.workspace("w", &graph(&format!("{}: > out", family.script(""))), &[("in", "")]);
    workspace.run(&[]).expect_success();
    assert!(family.pids().iter().all(|pid| is_gone(*pid)), "they are gone when the run is over");
}

#[test]
fn a_stranger_who_holds_the_output_of_a_task_holds_nothing_up() {
    let place = Place::new();
    let [pid, go] = ["pid", "go"].map(|name| place.path(name));
    let command = format!(
        "echo $$ > {0}.new; mv {0}.new {0}; until [ -e {go:?} ]; do sleep 0.01; done; : > out",
        pid.display()
    );
    let workspace = place.workspace("w", &graph(&command), &[("in", "")]);
    let running = Running::start(&workspace, &[]);
    wait_until("the task runs", || pid.exists());
    let task = fs::read_to_string(&pid).unwrap();
    let pipe = format!("/proc/{}/fd/1", task.trim());
    let _held = fs::File::options().write(true).open(pipe).unwrap();
    fs::write(&go, "").unwrap();
    assert_eq!(running.end().expect_success().executed(), 1);
}

#[test]
fn a_task_that_kills_its_group_hits_only_itself() {
    let place = Place::new();
    let graph = json!({"tasks": {
        "kills": {"command": "kill -9 0; sleep 1000"},
        "other": {"command": "true"}}});
    let run = place.workspace("w", &graph, &[]).run(&["--keep-going"]);
    assert_eq!((run.code(), run.count("/failed"), run.executed()), (Some(1), 1, 1));
    assert!(run.stderr.contains("was ended by signal 9"), "{}", run.stderr);
}

/// The parent of a process.
fn parent_of(pid: Pid) -> Pid {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).expect("a process");
    // After the command's name come its state and its parent.
    let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
    let parent = parent.and_then(|parent| Pid::from_raw(parent.parse().ok()?));
    parent.expect("the parent's id")
}

#[test]
fn killing_a_helper_process_fails_its_task_and_leaves_nothing() {
    for helper in ["supervisor", "spawner"] {
        let place = Place::new();
        let family = Family::new(&place);
        let command = format!("{}{FOREVER}", family.script(""));
        let workspace = place.workspace("w", &graph(&command), &[("in", "")]);
        let running = Running::start(&workspace, &[]);
        family.wait_until_there();
        let task = *family.pids().first().unwrap();
        let supervisor = parent_of(task);
        let victim = if helper == "supervisor" { supervisor } else { parent_of(supervisor) };
        rustix::process::kill_process(victim, Signal::KILL).unwrap();
        if helper == "spawner" {
            // The task goes on under its supervisor, and can still be ended.
            running.signal(Signal::TERM);
            assert_eq!(running.end().code(), Some(143));
        } else {
            let run = running.end();
            assert_eq!((run.code(), run.count("/failed")), (Some(1), 1), "{}", run.stderr);
            assert!(run.stderr.contains("lost its supervisor"), "{}", run.stderr);
        }
        family.wait_until_gone();
    }
}

#[test]
fn commands_go_on_when_somebody_kills_the_spawner_between_them() {
    let place = Place::new();
    // The parent of a command is its supervisor, and the parent of that the spawner.
    let kill_spawner = "read -r _ _ _ spawner _ < /proc/$PPID/stat; kill -9 \"$spawner\"";
    let graph = json!({ "tasks": {
        "first": { "command": kill_spawner },
        "second": { "command": "echo done > made", "deps": ["first"], "outputs": ["made"] },
    }});
    let workspace = place.workspace("family", &graph, &[]);
    workspace.run(&["-j", "1"]).expect_success();
    assert_eq!(workspace.read("made"), "done\n");
}

#[test]
fn a_run_that_waits_for_another_goes_on_when_that_is_killed() {
    let place = Place::new();
    let (ledger, go) = (Ledger::new(&place), place.path("go"));
    let command =
        format!("{}; until [ -e {go:?} ]; do sleep 0.01; done; echo x > out", ledger.line());
    let workspace = place.workspace("w", &graph(&command), &[("in", "")]);
    let first = Running::start(&workspace, &[]);
    wait_until("the task runs", || ledger.count() == 1);
    let second = Running::start(&workspace, &[]);
    wait_until("the other run waits", || staging_directories(&workspace.root) == 2);
    first.signal(Signal::KILL);
    drop(first.end());
    wait_until("the other run has taken over", || ledger.count() == 2);
    fs::write(&go, "").unwrap();
    let run = second.end().expect_success();
    assert_eq!((run.executed(), workspace.read("out").as_str()), (1, "x\n"));
}

fn staging_directories(root: &Path) -> usize {
    fs::read_dir(root.join(".netbuild/tmp"))
        .map_or(0, |list| list.flatten().filter(|entry| entry.path().is_dir()).count())
}
