//! Redis servers.

use crate::process::{Process, free_port, until};
use std::{path::PathBuf, process::Command};
use tempfile::TempDir;

/// One Redis server.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    port: u16,
    args: Vec<String>,
    tls: bool,
    dir: TempDir,
}

impl Redis {
    /// A server that keeps nothing on disk, with further arguments of `redis-server`.
    pub fn start(args: &[&str]) -> Self {
        Self::begin(args.iter().map(|arg| (*arg).to_owned()).collect(), free_port(10_000), false)
    }

    /// A server that speaks TLS only, with a certificate of an authority that [`Redis::ca`] is.
    pub fn start_tls() -> Self {
        let dir = TempDir::new().expect("there is a temporary directory");
        let script = "set -e
            openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca \
                -keyout ca.key -out ca.crt
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost \
                -keyout key -out csr
            echo subjectAltName=IP:127.0.0.1,DNS:localhost > ext
            openssl x509 -req -in csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out crt";
        let made = Command::new("sh").args(["-c", script]).current_dir(dir.path()).output();
        let made = made.expect("there is a shell");
        assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
        let path = |name: &str| dir.path().join(name).display().to_string();
        let port = free_port(10_000);
        let args = ["--port", "0", "--tls-port", &port.to_string(), "--tls-auth-clients", "no"];
        let mut args: Vec<String> = args.map(str::to_owned).into();
        for (key, name) in [
            ("--tls-cert-file", "crt"),
            ("--tls-key-file", "key"),
            ("--tls-ca-cert-file", "ca.crt"),
        ] {
            args.extend([key.to_owned(), path(name)]);
        }
        Self::begin_in(args, port, true, dir)
    }

    fn begin(args: Vec<String>, port: u16, tls: bool) -> Self {
        Self::begin_in(args, port, tls, TempDir::new().expect("there is a temporary directory"))
    }

    fn begin_in(more: Vec<String>, port: u16, tls: bool, dir: TempDir) -> Self {
        let (at, here) = (port.to_string(), dir.path().display().to_string());
        let fixed = ["--bind", "127.0.0.1", "--port", &at, "--dir", &here, "--save", ""];
        let mut args: Vec<String> = fixed.map(str::to_owned).into();
        args.extend(["--appendonly", "no"].map(str::to_owned));
        args.extend(more);
        let process = Process::start("redis-server", &args, &[], &dir.path().join("log"));
        let mut redis = Self { process, port, args, tls, dir };
        redis.wait();
        redis
    }

    fn wait(&mut self) {
        let (port, tls) = (self.port, self.tls.then(|| self.ca()));
        self.process.wait(|| {
            let answer = cli(port, tls.as_ref(), &["PING"]);
            answer.contains("PONG") || answer.contains("NOAUTH")
        });
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address, without options.
    pub fn url(&self) -> String {
        let scheme = if self.tls { "rediss" } else { "redis" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// The file with the certificate of the authority.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    /// What `redis-cli` prints for a command.
    pub fn cli(&self, args: &[&str]) -> String {
        cli(self.port, self.tls.then(|| self.ca()).as_ref(), args)
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again after it was killed, empty, at the same port.
    pub fn restart(&mut self) {
        self.process.kill();
        let log = self.dir.path().join("log");
        self.process = Process::start("redis-server", &self.args, &[], &log);
        self.wait();
    }

    /// Stops it where it is, with all connections open.
    pub fn freeze(&self) {
        self.process.signal("STOP");
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.signal("CONT");
    }
}

fn cli(port: u16, ca: Option<&PathBuf>, args: &[&str]) -> String {
    let mut command = Command::new("redis-cli");
    command.args(["-h", "127.0.0.1", "-p", &port.to_string()]);
    if let Some(ca) = ca {
        command.arg("--tls").arg("--cacert").arg(ca);
    }
    let output =
        command.args(args).output().expect("redis-cli is there; scripts/test.sh installs it");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A cluster of three masters.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Redis>,
}

impl RedisCluster {
    /// Starts the three and gives each a third of the slots.
    pub fn start() -> Self {
        let args = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];
        let nodes: Vec<_> = (0..3).map(|_| Redis::start(&args)).collect();
        let addresses: Vec<_> =
            nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        let mut create = vec!["--cluster", "create"];
        create.extend(addresses.iter().map(String::as_str));
        create.push("--cluster-yes");
        let answer = nodes[0].cli(&create);
        let whole = |node: &Redis| {
            let info = node.cli(&["CLUSTER", "INFO"]);
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
        };
        until(answer, || nodes.iter().all(whole));
        Self { nodes }
    }

    /// Its address: one node of it.
    pub fn url(&self) -> String {
        format!("redis-cluster://127.0.0.1:{}", self.nodes[0].port)
    }

    /// Its nodes.
    pub fn nodes(&mut self) -> &mut [Redis] {
        &mut self.nodes
    }
}

/// A master with a replica and the Sentinel that watches them.
#[derive(Debug)]
pub struct RedisSentinels {
    master: Redis,
    replica: Redis,
    sentinel: Process,
    port: u16,
    _dir: TempDir,
}

impl RedisSentinels {
    /// Starts the three; the replica is in step when they are ready.
    pub fn start() -> Self {
        let master = Redis::start(&[]);
        let at = master.port.to_string();
        let replica = Redis::start(&["--replicaof", "127.0.0.1", &at]);
        until("a replica in step", || {
            replica.cli(&["INFO", "replication"]).contains("link_status:up")
        });
        let dir = TempDir::new().expect("there is a temporary directory");
        let file = dir.path().join("sentinel.conf");
        let port = free_port(0);
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor main 127.0.0.1 {at} 1\n\
             sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n",
            dir.path().display()
        );
        std::fs::write(&file, text).expect("a temporary file can be written");
        let args = [file.display().to_string(), "--sentinel".into()];
        let mut sentinel = Process::start("redis-server", &args, &[], &dir.path().join("log"));
        sentinel.wait(|| cli(port, None, &["SENTINEL", "replicas", "main"]).contains("name"));
        Self { master, replica, sentinel, port, _dir: dir }
    }

    /// Its address: a Sentinel that does not answer, and the one that does.
    pub fn url(&self) -> String {
        format!("redis-sentinel://127.0.0.1:1,127.0.0.1:{}/main", self.port)
    }

    /// Kills the master and waits until the replica has its place, for the Sentinel too.
    pub fn fail_over(&mut self) {
        self.master.kill();
        let (port, replica) = (self.port, self.replica.port.to_string());
        self.sentinel.wait(|| {
            let said = cli(port, None, &["SENTINEL", "get-master-addr-by-name", "main"]);
            let known = cli(port, None, &["SENTINEL", "master", "main"]);
            said.contains(&replica) && !known.contains("_down")
        });
    }
}
