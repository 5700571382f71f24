//! What the tests are told with: a place, the two programs in it, and waiting for what must happen.

use serde_json::Value;
use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How long anything may take before a test gives up. Far more than it does take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A directory of its own for a test, with workspaces and data directories in it.
pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A workspace with this graph and these files.
    pub(crate) fn workspace(&self, name: &str, graph: &Value, files: &[(&str, &str)]) -> Workspace {
        let root = self.path(name);
        fs::create_dir_all(&root).expect("a workspace");
        let workspace = Workspace { root, data_dir: self.path(&format!("{name}.data")) };
        workspace.write("graph.json", &graph.to_string());
        files.iter().for_each(|(path, content)| workspace.write(path, content));
        workspace
    }
}

/// A workspace, and the data directory that it is run with.
#[derive(Clone)]
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) data_dir: PathBuf,
}

impl Workspace {
    /// The same workspace with another data directory.
    pub(crate) fn with_data_dir(&self, data_dir: &Path) -> Self {
        Self { data_dir: data_dir.to_owned(), ..self.clone() }
    }

    pub(crate) fn write(&self, path: &str, content: &str) {
        let path = self.root.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).expect("a directory");
        }
        fs::write(path, content).expect("a file");
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        self.root.join(path).symlink_metadata().is_ok()
    }

    pub(crate) fn remove(&self, path: &str) {
        let path = self.root.join(path);
        fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path)).expect("something to remove");
    }

    /// `netbuild run` with these arguments, not started yet.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = netbuild();
        command.current_dir(&self.root).arg("run").arg("--data-dir").arg(&self.data_dir).args(args);
        command
    }

    /// Runs `netbuild run --json` to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Run {
        Run::of(self.command(args).arg("--json"))
    }
}

/// The program `netbuild`, with nothing of the caller's environment that would change what it does.
pub(crate) fn netbuild() -> Command {
    clean(Command::new(env!("CARGO_BIN_EXE_netbuild")))
}

/// The program `netbuild-agent`, likewise.
pub(crate) fn netbuild_agent() -> Command {
    clean(Command::new(env!("CARGO_BIN_EXE_netbuild-agent")))
}

fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("NETBUILD_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// A run that has ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) status: ExitStatus,
    /// The summary; null when the run did not get that far.
    pub(crate) summary: Value,
    pub(crate) stderr: String,
}

impl Run {
    pub(crate) fn of(command: &mut Command) -> Self {
        let Output { status, stdout, stderr } = command.output().expect("netbuild runs");
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        Self { status, summary: serde_json::from_slice(&stdout).unwrap_or_default(), stderr }
    }

    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    pub(crate) fn executed(&self) -> u64 {
        self.count("/executed")
    }

    /// A number of the summary by its JSON pointer.
    pub(crate) fn count(&self, pointer: &str) -> u64 {
        self.summary.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| {
            panic!("no {pointer} in {}; {}; {}", self.summary, self.status, self.stderr)
        })
    }

    /// Ends the test unless the run did well.
    #[track_caller]
    pub(crate) fn expect_success(self) -> Self {
        assert!(self.status.success(), "{}: {}", self.status, self.stderr);
        self
    }
}

/// A running agent; killed when dropped.
pub(crate) struct Agent {
    child: Child,
    pub(crate) ticket: String,
    pub(crate) data_dir: PathBuf,
}

impl Agent {
    /// Starts an agent on loopback and waits until it serves.
    pub(crate) fn start(region: &str, data_dir: &Path, join: &[&str]) -> Self {
        let mut command = netbuild_agent();
        command.arg("--region").arg(region).arg("--data-dir").arg(data_dir);
        command.args(["--listen", "127.0.0.1:0"]);
        join.iter().for_each(|ticket| drop(command.arg("--join").arg(ticket)));
        Self::spawn(command, data_dir)
    }

    /// Starts an agent by a command line of the test's own.
    pub(crate) fn spawn(mut command: Command, data_dir: &Path) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("netbuild-agent starts");
        let mut ticket = String::new();
        let stdout = child.stdout.take().expect("standard output is piped");
        BufReader::new(stdout).read_line(&mut ticket).expect("a line");
        if ticket.is_empty() {
            let mut stderr = String::new();
            drop(child.stderr.take().expect("piped").read_to_string(&mut stderr));
            panic!("the agent ended: {stderr}");
        }
        // The log must not fill its pipe and stop the agent.
        let mut log = child.stderr.take().expect("standard error is piped");
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { child, ticket: ticket.trim().to_owned(), data_dir: data_dir.to_owned() }
    }

    pub(crate) fn status(&self) -> Value {
        let output = netbuild()
            .args(["status", "--json", "--data-dir"])
            .arg(&self.data_dir)
            .output()
            .expect("netbuild runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Waits until this agent knows so many others, all caught up with `records` records.
    pub(crate) fn wait_for_members(&self, members: usize, records: u64) {
        wait_until("the members are there", || {
            let status = self.status();
            let list = status["members"].as_array().expect("a list").clone();
            list.len() == members && list.iter().all(|m| m["records"].as_u64() >= Some(records))
        });
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("the agent can be killed");
        self.child.wait().expect("the agent has ended");
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        signal(self.child.id(), rustix::process::Signal::TERM);
        let child = &mut self.child;
        let mut status = None;
        wait_until("the agent has stopped", || {
            status = child.try_wait().expect("a child");
            status.is_some()
        });
        status.expect("it has stopped")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a process id");
    rustix::process::kill_process(pid, signal).expect("the process is there");
}

/// Asks again and again, with a short pause, until the answer is yes.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
