//! Interactive tasks, in a terminal of their own: what they have of it, who has it after them, and what keys do.

// What is sent to a shell while it starts a command (vfork) may be lost on it, so signals and stops are for Python here.

use crate::support::{Place, Run, Workspace, netbuild, runs, signal, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read as _, Write as _},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

/// Runs its arguments in a new terminal: what it reads are keys, what it prints is the screen.
const IN_TERMINAL: &str = "import os, pty, sys; \
     sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])) & 255)";

/// A command in a terminal. Killed when dropped.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    screen: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    fn start(command: &Command) -> Self {
        let mut whole = Command::new("python3");
        whole.args(["-c", IN_TERMINAL]).arg(command.get_program()).args(command.get_args());
        whole.current_dir(command.get_current_dir().expect("a directory"));
        whole.env("TERM", "xterm-test").env_remove("NO_COLOR");
        whole.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = whole.spawn().expect("python3 starts");
        let keys = child.stdin.take().expect("keys");
        let mut output = child.stdout.take().expect("a screen");
        let screen = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&screen);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                seen.lock().expect("the screen").extend_from_slice(&buffer[..count]);
            }
        });
        Self { child, keys, screen, reader: Some(reader) }
    }

    /// An interactive shell, whose prompt is `$`.
    fn shell(directory: &Path) -> Self {
        let mut bash = Command::new("env");
        bash.args(["PS1=$ ", "TERM=dumb", "bash", "--norc", "--noprofile", "-i"]);
        bash.current_dir(directory);
        let shell = Self::start(&bash);
        shell.wait_for("$ ");
        shell
    }

    fn keys(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("keys are taken");
    }

    /// All that was on the screen so far.
    fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().expect("the screen")).into_owned()
    }

    #[track_caller]
    fn wait_for(&self, text: &str) {
        self.wait_for_again(text, 1);
    }

    /// Waits until a text has come so often.
    #[track_caller]
    fn wait_for_again(&self, text: &str, times: usize) {
        wait_until(&format!("`{text}` is on the screen"), || {
            self.screen().matches(text).count() >= times
        });
    }

    /// Waits for the end; the exit code and the screen.
    #[track_caller]
    fn wait(mut self) -> (Option<i32>, String) {
        let mut status = None;
        wait_until("the command in the terminal has ended", || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        self.reader.take().expect("a reader").join().expect("it reads");
        (status.and_then(|status| status.code()), self.screen())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            drop(writeln!(std::io::stderr(), "on the screen: {}", self.screen()));
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A workspace with a task `t` that has the terminal, and one after it.
fn workspace(place: &Place, name: &str, command: &str) -> Workspace {
    let graph = json!({"tasks": {
        "t": {"command": command, "outputs": [{"path": "out", "optional": true}], "interactive": true},
        "after": {"command": "cp out copy", "deps": ["t"], "outputs": ["copy"]}}});
    place.workspace(name, &graph, &[])
}

/// Says that it is ready, and what it is told then.
const ASKS: &str = "echo ready; read line; echo \"heard <$line>\"; echo $line $TERM > out";

/// How a shell would start the run.
fn typed(workspace: &Workspace) -> String {
    let command = workspace.command(&[]);
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| format!("'{}'", word.display())).collect::<Vec<_>>().join(" ")
}

/// A command that does nothing for long and that no other test has.
fn sleep(number: u32) -> String {
    format!("sleep 8{}{number:02}", std::process::id())
}

#[test]
fn an_interactive_task_has_the_terminal_and_always_runs() {
    let place = Place::new();
    let has = "test -t 0 && test -t 1 && test -t 2 || exit 3; set -- $(cat /proc/$$/stat); \
               test $5 = $8 || exit 4";
    let workspace = workspace(&place, "w", &format!("{has}; {ASKS}"));
    for line in ["one", "two"] {
        let mut terminal = Terminal::start(&workspace.command(&[]));
        terminal.wait_for("ready");
        terminal.keys(&format!("{line}\n"));
        let (code, screen) = terminal.wait();
        assert_eq!(code, Some(0), "{screen}");
        assert!(screen.contains(&format!("heard <{line}>")), "{screen}");
        assert!(screen.contains("2 executed"), "{screen}");
        assert_eq!(workspace.read("copy"), format!("{line} xterm-test\n"));
    }
}

#[test]
fn what_others_have_to_say_waits_until_the_terminal_is_free() {
    let place = Place::new();
    let graph = json!({"tasks": {
        "t": {"command": ASKS, "interactive": true, "priority": 1},
        "u": {"command": "echo second; echo x > two", "interactive": true},
        "other": {"command": "until [ -e go ]; do sleep 0.01; done; echo said; touch done"}}});
    let workspace = place.workspace("w", &graph, &[]);
    let mut terminal = Terminal::start(&workspace.command(&["-j3"]));
    terminal.wait_for("ready");
    workspace.write("go", "");
    wait_until("the other task has ended", || workspace.exists("done"));
    assert!(!terminal.screen().contains("second"), "two have the terminal");
    assert!(!terminal.screen().contains("said"), "{}", terminal.screen());
    terminal.keys("x\n");
    let (code, screen) = terminal.wait();
    assert_eq!(code, Some(0), "{screen}");
    let place_of = |text: &str| screen.find(text).unwrap_or_else(|| panic!("{text}: {screen}"));
    assert!(place_of("heard <x>") < place_of("said"), "{screen}");
    assert!(place_of("heard <x>") < place_of("second"), "{screen}");
}

#[test]
fn ctrl_c_is_for_the_task_first() {
    let place = Place::new();
    let catches = "import os, signal, time\n\
                   def caught(*_):\n    \
                       os.write(1, b'caught\\n')\n    \
                       open('out', 'w').close()\n    \
                       os._exit(0)\n\
                   signal.signal(signal.SIGINT, caught)\n\
                   os.write(1, b'ready\\n')\n\
                   time.sleep(1000)\n";
    let workspace_of = |name: &str, command: &str, script: &str| {
        let workspace = workspace(&place, name, command);
        workspace.write("script.py", script);
        workspace
    };
    let mut terminal =
        Terminal::start(&workspace_of("catches", "exec python3 script.py", catches).command(&[]));
    terminal.wait_for("ready");
    terminal.keys("\u{3}");
    let (code, screen) = terminal.wait();
    assert_eq!(code, Some(0), "{screen}");
    assert!(screen.contains("caught") && screen.contains("2 executed"), "{screen}");

    let sleep = sleep(1);
    let ends = "import os, signal, time\n\
                signal.signal(signal.SIGINT, signal.SIG_DFL)\n\
                os.write(1, b'ready\\n')\n\
                time.sleep(1000)\n";
    let command = format!("(setsid {sleep} &); exec python3 script.py");
    let ends = workspace_of("ends", &command, ends);
    let mut terminal = Terminal::start(&ends.command(&[]));
    terminal.wait_for("ready");
    terminal.keys("\u{3}");
    let (code, screen) = terminal.wait();
    assert_eq!(code, Some(130), "{screen}");
    assert!(screen.contains("cancelled") && !ends.exists("copy"), "{screen}");
    assert!(!runs(&sleep));
}

#[test]
fn no_process_is_left_when_the_run_is_killed_or_late() {
    let place = Place::new();
    for (number, with) in (10..).zip([Signal::KILL, Signal::TERM]) {
        let sleep = sleep(number);
        let command = format!("(setsid {sleep} &); echo ready $PPID; {sleep}; :");
        let workspace = workspace(&place, &format!("w{number}"), &command);
        let terminal = Terminal::start(&workspace.command(&[]));
        terminal.wait_for("ready");
        wait_until("the command runs", || runs(&sleep));
        signal(run_in(&terminal), with);
        wait_until("the command is gone", || !runs(&sleep));
        let (code, screen) = terminal.wait();
        let expected = if with == Signal::TERM { 143 } else { 256 - 9 };
        assert_eq!(code, Some(expected), "{screen}");
    }
    let sleep = sleep(20);
    let mut graph: Value =
        serde_json::from_str(&workspace(&place, "late", "").read("graph.json")).unwrap();
    graph["tasks"]["t"]["command"] = format!("{sleep}; :").into();
    graph["tasks"]["t"]["timeout"] = 0.5.into();
    let late = place.workspace("late", &graph, &[]);
    let (code, screen) = Terminal::start(&late.command(&[])).wait();
    assert_eq!(code, Some(1), "{screen}");
    assert!(screen.contains("took longer than its timeout"), "{screen}");
    assert!(!runs(&sleep));
}

/// The process that runs in a terminal.
fn run_in(terminal: &Terminal) -> u32 {
    let children = format!("/proc/{0}/task/{0}/children", terminal.child.id());
    let children = fs::read_to_string(children).expect("its children");
    children.trim().parse().expect("one child")
}

#[test]
fn ctrl_z_stops_the_run_and_it_goes_on_where_it_was() {
    let place = Place::new();
    let workspace = workspace(&place, "w", &format!("python3 waits.py; {ASKS}"));
    let waits = "import os, signal, time\n\
                 signal.signal(signal.SIGCONT, lambda *_: os.write(1, b'continued\\n'))\n\
                 os.write(1, b'running\\n')\n\
                 while not os.path.exists('go'): time.sleep(0.05)\n";
    workspace.write("waits.py", waits);
    let mut shell = Terminal::shell(&workspace.root);
    shell.keys(&format!("{}\n", typed(&workspace)));
    shell.wait_for("running\r\n");
    for times in 1..=2 {
        shell.keys("\u{1a}");
        shell.wait_for_again("Stopped", times);
        shell.keys("echo prompt $((40 + 2))\n");
        shell.wait_for_again("prompt 42", times);
        shell.keys("fg\n");
        shell.wait_for_again("continued\r\n", times);
    }
    workspace.write("go", "");
    shell.wait_for("ready\r\n");
    shell.keys("after that\n");
    shell.wait_for("heard <after that>");
    shell.wait_for("2 executed");
    shell.keys("echo code $?\n");
    shell.wait_for("code 0");
    shell.keys("exit\n");
    shell.wait();
}

#[test]
fn a_run_in_the_background_waits_for_the_terminal() {
    let place = Place::new();
    let workspace = workspace(&place, "w", ASKS);
    let mut shell = Terminal::shell(&workspace.root);
    shell.keys(&format!("{} &\n", typed(&workspace)));
    shell.wait_for("say `fg` to the shell");
    assert!(!shell.screen().contains("ready\r\n"));
    shell.keys("fg\n");
    shell.wait_for("ready\r\n");
    shell.keys("x\n");
    shell.wait_for("2 executed");
    shell.keys("exit\n");
    shell.wait();
}

#[test]
fn the_terminal_is_as_it_was_whatever_the_task_did_to_it() {
    let place = Place::new();
    let workspace = workspace(&place, "w", "stty -echo -icanon; kill -KILL $$");
    let mut command = Command::new("sh");
    command.current_dir(&workspace.root);
    command.args(["-c", &format!("stty -a; {}; stty -a", typed(&workspace))]);
    let (_, screen) = Terminal::start(&command).wait();
    assert!(screen.contains("ended by signal 9"), "{screen}");
    assert_eq!(screen.matches(" echo ").count(), 2, "{screen}");
    assert_eq!(screen.matches(" icanon ").count(), 2, "{screen}");
}

#[test]
fn standard_output_is_for_the_run_when_it_prints_json() {
    let place = Place::new();
    let workspace = workspace(&place, "w", "echo x | tee out");
    let mut command = Command::new("sh");
    command.current_dir(&workspace.root);
    command.args(["-c", &format!("{} --json > summary", typed(&workspace))]);
    let (code, screen) = Terminal::start(&command).wait();
    assert_eq!(code, Some(0), "{screen}");
    let summary: Value = serde_json::from_str(&workspace.read("summary")).expect("JSON");
    assert_eq!(summary["executed"], 2);
}

#[test]
fn without_a_terminal_an_interactive_task_fails_and_says_why() {
    let place = Place::new();
    let workspace = workspace(&place, "w", ASKS);
    let run = workspace.run(&[]);
    assert_eq!(run.code(), Some(1));
    assert!(
        run.stderr.contains("it is interactive, and this run has no terminal"),
        "{}",
        run.stderr
    );
    let run = Run::of(&mut workspace.command(&["--dry-run", "--json"]));
    assert_eq!(run.summary[0]["would"], "would fail", "{}", run.summary);
}

#[test]
fn bash_completes_names_of_tasks() {
    let place = Place::new();
    let task = || json!({"command": "true"});
    let graph = json!({"tasks": {"build": task(), "web:test": task(), "web:lint": task()}});
    let workspace = place.workspace("w", &graph, &[]);
    workspace.write("other.json", &json!({"tasks": {"elsewhere": task()}}).to_string());
    let script = netbuild().args(["completions", "bash"]).output().expect("a script");
    fs::write(workspace.root.join("script"), script.stdout).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_netbuild")).parent().unwrap().display().to_string();
    let lines = [
        ("netbuild run b\t", "netbuild run build "),
        ("netbuild run -k build web:t\t", "netbuild run -k build web:test "),
        ("netbuild graph show web:l\t", "netbuild graph show web:lint "),
        ("netbuild why --graph other.json e\t", "netbuild why --graph other.json elsewhere "),
        ("netbuild run --keep\t", "netbuild run --keep-going "),
        ("netbuild comp\t", "netbuild completions "),
    ];
    for (typed, completed) in lines {
        let mut shell = Terminal::shell(&workspace.root);
        shell.keys(&format!("PATH={program}:$PATH; source ./script; echo sourced $?\n"));
        shell.wait_for("sourced 0\r\n$ ");
        shell.keys(typed);
        shell.wait_for(completed);
    }
}
