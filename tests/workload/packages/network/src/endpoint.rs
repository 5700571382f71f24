//! Where another service is, written `tcp:HOST:PORT` or `exec:PROGRAM ARGUMENT...`.

use crate::Backoff;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::str::FromStr;
use std::thread;
use std::time::Duration;

/// The first wait, the longest wait and the number of tries for a service that is still starting:
/// about five seconds in all.
const CONNECT: (Duration, Duration, u32) = (Duration::from_millis(50), Duration::from_secs(1), 8);

/// The address of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// It listens already, or will soon.
    Tcp(String),
    /// It is started for us and talks over its standard input and output.
    Exec { program: String, arguments: Vec<String> },
}

/// Text that is not an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointError(String);

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is neither tcp:HOST:PORT nor exec:PROGRAM", self.0)
    }
}

impl std::error::Error for EndpointError {}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(address) = text.strip_prefix("tcp:").filter(|address| address.contains(':')) {
            return Ok(Endpoint::Tcp(address.to_owned()));
        }
        let mut words = text.strip_prefix("exec:").unwrap_or_default().split_whitespace();
        let program = words.next().ok_or_else(|| EndpointError(text.to_owned()))?.to_owned();
        Ok(Endpoint::Exec { program, arguments: words.map(str::to_owned).collect() })
    }
}

impl Endpoint {
    /// Connects, with patience for a service that is not listening yet.
    pub fn connect(&self) -> io::Result<Connection> {
        match self {
            Endpoint::Tcp(address) => {
                let (first, limit, tries) = CONNECT;
                let backoff = Backoff::new(first, limit, tries, std::process::id().into());
                let stream = backoff.retry(thread::sleep, || TcpStream::connect(address))?;
                // Requests are single small writes that wait for their answer.
                stream.set_nodelay(true)?;
                Ok(Connection::Tcp(stream))
            }
            Endpoint::Exec { program, arguments } => {
                let mut command = Command::new(program);
                command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
                let mut child = command.spawn()?;
                match (child.stdin.take(), child.stdout.take()) {
                    (Some(to), Some(from)) => Ok(Connection::Exec { child, to: Some(to), from }),
                    _ => Err(ErrorKind::BrokenPipe.into()),
                }
            }
        }
    }
}

/// An open connection to a service. Dropping it lets a service that we started end, and waits.
#[derive(Debug)]
pub enum Connection {
    Tcp(TcpStream),
    Exec { child: Child, to: Option<ChildStdin>, from: ChildStdout },
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Connection::Tcp(stream) => stream.read(buffer),
            Connection::Exec { from, .. } => from.read(buffer),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Connection::Tcp(stream) => stream.write(bytes),
            Connection::Exec { to: Some(to), .. } => to.write(bytes),
            Connection::Exec { to: None, .. } => Err(ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Connection::Tcp(stream) => stream.flush(),
            Connection::Exec { to: Some(to), .. } => to.flush(),
            Connection::Exec { to: None, .. } => Ok(()),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Connection::Exec { child, to, .. } = self {
            // The end of its input tells the service to stop; a failed wait has nobody to tell.
            drop(to.take());
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call;

    #[test]
    fn endpoints_are_read_from_text() {
        assert_eq!("tcp:[::1]:80".parse(), Ok(Endpoint::Tcp("[::1]:80".to_owned())));
        let arguments = vec!["--worker".to_owned(), "exec:bin/worker".to_owned()];
        let api = Endpoint::Exec { program: "bin/api".to_owned(), arguments };
        assert_eq!("exec:bin/api --worker exec:bin/worker".parse(), Ok(api));
    }

    #[test]
    fn other_text_is_refused_by_name() {
        for text in ["", "tcp:", "tcp:host", "exec:", "exec:  ", "http://host:80"] {
            let error = text.parse::<Endpoint>().unwrap_err();
            assert_eq!(error, EndpointError(text.to_owned()));
        }
    }

    #[test]
    fn a_started_program_is_talked_to_over_its_pipes() {
        let endpoint: Endpoint = "exec:cat".parse().unwrap();
        let mut echo = endpoint.connect().unwrap();
        assert_eq!(call(&mut echo, b"hello").unwrap(), b"hello");
    }

    #[test]
    fn a_program_that_does_not_exist_is_an_error() {
        let endpoint: Endpoint = "exec:./no-such-program".parse().unwrap();
        assert_eq!(endpoint.connect().unwrap_err().kind(), ErrorKind::NotFound);
    }
}
