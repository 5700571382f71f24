//! Servers that speak S3.

use crate::process::{Process, free_port};
use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};
use tempfile::TempDir;

/// The access key that the servers know.
pub const KEY: &str = "netbuild-test";
/// Its secret.
pub const SECRET: &str = "netbuild-secret";

/// SeaweedFS, which checks signatures and conditions. It has the bucket `netbuild`.
#[derive(Debug)]
pub struct Seaweed {
    process: Process,
    port: u16,
    filer: u16,
    dir: TempDir,
    args: Vec<String>,
}

/// What keeps it small.
const SMALL: [(&str, &str); 4] = [
    ("GOGC", "50"),
    ("GOMEMLIMIT", "256MiB"),
    ("AWS_ACCESS_KEY_ID", KEY),
    ("AWS_SECRET_ACCESS_KEY", SECRET),
];

impl Seaweed {
    /// Starts one.
    pub fn start() -> Self {
        let dir = TempDir::new().expect("there is a temporary directory");
        let port = free_port(10_000);
        let mut args = vec!["mini".to_owned(), format!("-dir={}", dir.path().display())];
        args.extend(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-bucket=netbuild"].map(str::to_owned));
        args.extend(["-admin.ui=false", "-webdav=false"].map(str::to_owned));
        args.extend(["-s3.port.iceberg=0", "-s3.port.lance=0"].map(str::to_owned));
        args.push(format!("-s3.port={port}"));
        let filer = free_port(10_000);
        args.push(format!("-filer.port={filer}"));
        for part in ["master", "volume", "admin"] {
            args.push(format!("-{part}.port={}", free_port(10_000)));
        }
        let process = Process::start("weed", &args, &SMALL, &dir.path().join("log"));
        let mut seaweed = Self { process, port, filer, dir, args };
        seaweed.wait();
        seaweed
    }

    fn wait(&mut self) {
        let (port, filer) = (self.port, self.filer);
        // The bucket is made last, and is a directory to the filer.
        self.process.wait(|| {
            status(port, "GET", "/").is_some()
                && status(filer, "GET", "/buckets/netbuild/") == Some(200)
        });
    }

    /// Where it is.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The port of that.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again with what it had.
    pub fn restart(&mut self) {
        self.process.kill();
        self.process = Process::start("weed", &self.args, &SMALL, &self.dir.path().join("log"));
        self.wait();
    }
}

/// moto, which lets everybody in. It has the bucket `netbuild`.
#[derive(Debug)]
pub struct Moto {
    _process: Process,
    port: u16,
    _dir: TempDir,
}

impl Moto {
    /// Starts one.
    pub fn start() -> Self {
        let dir = TempDir::new().expect("there is a temporary directory");
        let port = free_port(0);
        let args = ["-H", "127.0.0.1", "-p", &port.to_string()].map(str::to_owned);
        let mut process = Process::start("moto_server", &args, &[], &dir.path().join("log"));
        process.wait(|| status(port, "PUT", "/netbuild") == Some(200));
        Self { _process: process, port, _dir: dir }
    }

    /// Where it is.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The port of that.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// The status of an answer to a bare request.
fn status(port: u16, method: &str, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).ok()?;
    std::str::from_utf8(&head).ok()?.split(' ').nth(1)?.parse().ok()
}
