//! A server as a process of its own.

use std::{
    env,
    fmt::Debug,
    fs::File,
    hash::{BuildHasher as _, RandomState},
    net::TcpListener,
    ops::Range,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long a server may take to be ready, on a machine that has much else to do.
const READY: Duration = Duration::from_secs(120);
/// Below those that Linux gives to whoever asks for any (`net.ipv4.ip_local_port_range`).
const PORTS: Range<u16> = 10_000..32_768;
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// A running server. It is killed when this is dropped, and when the thread that started it ends.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program that writes what it has to say to `log`.
    ///
    /// # Panics
    ///
    /// When it cannot be started; most likely it is not installed.
    pub fn start(program: &str, args: &[String], envs: &[(&str, &str)], log: &Path) -> Self {
        let output = File::create(log).unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let program = find(program);
        // The kernel ends the server when this thread ends, even if the test was killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&program).args(args);
        command.envs(envs.iter().copied()).stdin(Stdio::null());
        command.stdout(output.try_clone().expect("a file can be shared")).stderr(output);
        let child = command.spawn().unwrap_or_else(|error| panic!("setpriv (util-linux): {error}"));
        Self { child, log: log.to_owned() }
    }

    /// Waits until `ready` says so.
    ///
    /// # Panics
    ///
    /// When the server ends before, or is not ready after two minutes.
    pub fn wait(&mut self, ready: impl Fn() -> bool) {
        let since = Instant::now();
        while !ready() {
            let ended = self.child.try_wait().expect("a child can be asked");
            let late = since.elapsed() > READY;
            if let (ended @ Some(_), _) | (ended, true) = (ended, late) {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                panic!("the server is not ready, ended: {ended:?}; it says:\n{log}");
            }
            thread::sleep(PAUSE);
        }
    }

    /// Kills it as `kill -9` does.
    pub fn kill(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Stops it where it is (SIGSTOP) or lets it go on (SIGCONT).
    pub fn signal(&self, name: &str) {
        let done =
            Command::new("kill").args(["-s", name]).arg(self.child.id().to_string()).status();
        assert!(done.is_ok_and(|status| status.success()), "kill -s {name}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where the programs are that come from PyPI.
fn find(program: &str) -> PathBuf {
    let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let installed = home.join(".cache/netbuild-test/bin").join(program);
    if installed.exists() {
        return installed;
    }
    let paths = env::var_os("PATH").unwrap_or_default();
    let here = env::split_paths(&paths).map(|path| path.join(program)).find(|path| path.exists());
    here.unwrap_or_else(|| panic!("`{program}` is not installed; scripts/test.sh does that"))
}

/// A TCP port that nobody uses now, and neither the one `above` it, for servers that take both. It is none of those that
/// the kernel gives to whoever asks for any, as the tests at the same time do all the time. Somebody else may still be
/// faster, which fails the test in a way that says so.
pub fn free_port(above: u16) -> u16 {
    let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let ports = PORTS.end - PORTS.start - above;
    for _ in 0..1000 {
        let random = RandomState::new().hash_one(()) % u64::from(ports);
        let port = PORTS.start + random as u16;
        if free(port) && (above == 0 || free(port + above)) {
            return port;
        }
    }
    panic!("there is no free port with another one {above} above it")
}

/// Waits for something that is going to be true.
///
/// # Panics
///
/// When it is not after two minutes.
pub fn until(what: impl Debug, is: impl Fn() -> bool) {
    let since = Instant::now();
    while !is() {
        assert!(since.elapsed() < READY, "waited in vain: {what:?}");
        thread::sleep(PAUSE);
    }
}
