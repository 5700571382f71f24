//! What the tests are told with: a place, the two programs in it, and waiting for what must happen.

use rustix::process::Signal;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How long anything may take before a test gives up. Far more than it does take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A directory of its own for a test, with workspaces and data directories in it.
pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    /// The same, but not in a directory for temporary files.
    pub(crate) fn beside_the_build() -> Self {
        let parent = env!("CARGO_TARGET_TMPDIR");
        Self { dir: tempfile::tempdir_in(parent).expect("a directory beside the build") }
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

    /// `netbuild run` with these arguments, not started yet. Tasks of tests take no time, so on a busy machine any
    /// of them might be sooner built: what others have is taken from them.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = self.choosing(&["--prefer-cache"]);
        command.args(args);
        command
    }

    /// The same, which builds what is sooner built than fetched.
    pub(crate) fn choosing(&self, args: &[&str]) -> Command {
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

/// The program `netbuild-agent`, likewise, with its page at a free port: the usual one is for one agent of a machine.
pub(crate) fn netbuild_agent() -> Command {
    let mut command = clean(Command::new(env!("CARGO_BIN_EXE_netbuild-agent")));
    command.env("NETBUILD_HTTP", "127.0.0.1:0");
    command
}

fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        let of_ours =
            ["NETBUILD_", "AWS_", "REDIS_", "CACHE_BACKEND", "PRIMARY_CACHE", "FORCE_CACHE"];
        if of_ours.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
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
        Self::from(command.output().expect("netbuild runs"))
    }

    pub(crate) fn from(Output { status, stdout, stderr }: Output) -> Self {
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        let run =
            Self { status, summary: serde_json::from_slice(&stdout).unwrap_or_default(), stderr };
        run.check_counts();
        run
    }

    /// Every task of a run is counted in exactly one place.
    pub(crate) fn check_counts(&self) {
        if !self.summary.get("tasks").is_some_and(Value::is_number) {
            return;
        }
        let hits = ["disk", "peer", "redis", "s3"].map(|tier| self.count(&format!("/hits/{tier}")));
        let ended = ["/executed", "/failed", "/skipped"].map(|way| self.count(way));
        let sum = hits.iter().chain(&ended).sum::<u64>();
        assert_eq!(sum, self.count("/tasks"), "{}", self.summary);
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

/// A run that goes on beside the test; killed when dropped.
pub(crate) struct Running(Option<Child>);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(Some(command.spawn().expect("netbuild starts")))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.as_ref().expect("it runs").id()
    }

    /// Waits for its end. What it says must fit into a pipe.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Run {
        let child = self.0.as_mut().expect("it runs");
        wait_until("the command has ended", || child.try_wait().expect("a child").is_some());
        Run::from(self.output())
    }

    /// Waits for its end, however long that takes; what it printed.
    pub(crate) fn output(mut self) -> Output {
        self.0.take().expect("it runs").wait_with_output().expect("its output")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// A command that must refuse to start: an agent that starts nevertheless does not stay.
#[track_caller]
pub(crate) fn refused(command: &mut Command) -> Run {
    let run = Running::start(command).wait();
    assert!(!run.status.success(), "{}", run.stderr);
    run
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
        Self::spawn(Self::on_loopback(region, data_dir, join), data_dir)
    }

    /// The command line of such an agent, not started yet.
    pub(crate) fn on_loopback(region: &str, data_dir: &Path, join: &[&str]) -> Command {
        let mut command = netbuild_agent();
        command.arg("--region").arg(region).arg("--data-dir").arg(data_dir);
        command.args(["--listen", "127.0.0.1:0"]);
        for ticket in join {
            command.arg("--join").arg(ticket);
        }
        command
    }

    /// Starts an agent by a command line of the test's own, and waits until it serves.
    pub(crate) fn spawn(mut command: Command, data_dir: &Path) -> Self {
        let log = Self::log(data_dir);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log).expect("a file"))
            .spawn()
            .expect("netbuild-agent starts");
        let mut ticket = String::new();
        let stdout = child.stdout.take().expect("standard output is piped");
        BufReader::new(stdout).read_line(&mut ticket).expect("a line");
        let said = || fs::read_to_string(&log).unwrap_or_default();
        assert!(!ticket.is_empty(), "the agent ended: {}", said());
        Self { child, ticket: ticket.trim().to_owned(), data_dir: data_dir.to_owned() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where the log of the agent of a data directory is: beside it.
    pub(crate) fn log(data_dir: &Path) -> PathBuf {
        data_dir.with_extension("log")
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
        self.end(Signal::TERM)
    }

    /// Sends a signal, and waits for the end.
    pub(crate) fn end(&mut self, with: Signal) -> ExitStatus {
        signal(self.child.id(), with);
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

pub(crate) fn signal(pid: u32, signal: Signal) {
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

/// Whether a process with this command line is there.
pub(crate) fn runs(command: &str) -> bool {
    let wanted = format!("{}\0", command.replace(' ', "\0")).into_bytes();
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    processes
        .filter_map(|process| fs::read(process.path().join("cmdline")).ok())
        .any(|c| c == wanted)
}

/// Counts executions in a file outside of the workspace, which no task declares.
pub(crate) struct Ledger(PathBuf);

impl Ledger {
    pub(crate) fn new(place: &Place) -> Self {
        Self::named(place, "ledger")
    }

    pub(crate) fn named(place: &Place, name: &str) -> Self {
        Self(place.path(name))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// What a script says to be counted.
    pub(crate) fn line(&self) -> String {
        format!("echo x >> {}", self.0.display())
    }

    pub(crate) fn count(&self) -> usize {
        fs::read_to_string(&self.0).map_or(0, |text| text.lines().count())
    }
}

pub(crate) fn make_fifo(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o644), 0).expect("a named pipe");
}

/// The same command, started by another program that takes it as its last arguments.
pub(crate) fn through(starter: &[&str], command: &Command) -> Command {
    let mut whole = clean(Command::new(starter[0]));
    whole.args(&starter[1..]).arg(command.get_program()).args(command.get_args());
    if let Some(directory) = command.get_current_dir() {
        whole.current_dir(directory);
    }
    whole
}

/// The same command, obeying the permissions of files, which root does not.
pub(crate) fn without_privileges(command: &Command) -> Command {
    if rustix::process::geteuid().is_root() {
        through(&["setpriv", "--bounding-set=-dac_override,-dac_read_search"], command)
    } else {
        through(&["env"], command)
    }
}

/// All that is below a directory: what it is and when it was changed.
pub(crate) fn snapshot(root: &Path) -> BTreeMap<PathBuf, (u32, i64, i64, Vec<u8>)> {
    let (mut found, mut directories) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(directory) = directories.pop() {
        let Ok(list) = fs::read_dir(&directory) else { continue };
        for path in list.map(|entry| entry.expect("an entry").path()) {
            let meta = path.symlink_metadata().expect("its state");
            let content =
                if meta.is_file() { fs::read(&path).expect("a file") } else { Vec::new() };
            found.insert(path.clone(), (meta.mode(), meta.mtime(), meta.mtime_nsec(), content));
            if meta.is_dir() {
                directories.push(path);
            }
        }
    }
    found
}
