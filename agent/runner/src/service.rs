//! Tasks that stay: started, waited for until they are ready, and stopped when the run ends.

use crate::{
    process::{Cancel, Ending, Sink},
    run::Run,
    task::{Failure, TaskError},
};
use netbuild_core::graph::{Readiness, Service, Task};
use netbuild_proto::spawn::Command;
use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::unix::ffi::OsStrExt as _,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How often a service is asked whether it is ready.
const PROBE_INTERVAL: Duration = Duration::from_millis(50);
/// How much of what a service printed last is told when it fails, in bytes.
const TAIL: usize = 64 * 1024;

/// A service that was started.
#[derive(Debug)]
pub(crate) struct Running {
    name: String,
    stop: Arc<Cancel>,
    ear: Arc<Ear>,
    thread: JoinHandle<()>,
}

/// Listens to a service.
#[derive(Debug)]
pub(crate) struct Ear {
    /// What it prints when it is ready.
    text: Option<Vec<u8>>,
    heard: Mutex<Heard>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Heard {
    tail: Vec<u8>,
    found: bool,
    ended: Option<Ending>,
}

impl Ear {
    fn new(ready_when: &Readiness) -> Self {
        let text = match ready_when {
            Readiness::Line(text) => Some(text.clone().into_bytes()),
            _ => None,
        };
        Self { text, heard: Mutex::default(), changed: Condvar::new() }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the service printed.
    pub(crate) fn hear(&self, bytes: &[u8]) {
        let mut heard = self.heard();
        let start = heard.tail.len();
        heard.tail.extend_from_slice(bytes);
        if let Some(text) = &self.text
            && !heard.found
        {
            // It may have begun in what came before.
            let from = (start + 1).saturating_sub(text.len());
            heard.found = memchr::memmem::find(&heard.tail[from..], text).is_some();
            if heard.found {
                self.changed.notify_all();
            }
        }
        let over = heard.tail.len().saturating_sub(TAIL);
        heard.tail.drain(..over);
    }

    fn end(&self, ending: Ending) {
        self.heard().ended = Some(ending);
        self.changed.notify_all();
    }

    /// Waits a little, unless something happens before.
    fn wait<'a>(&self, heard: MutexGuard<'a, Heard>) -> MutexGuard<'a, Heard> {
        let waited = self.changed.wait_timeout(heard, PROBE_INTERVAL);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Starts the service of a task, and waits until it is ready.
pub(crate) fn start(
    run: &Run<'_>,
    task: &Task,
    argv: &[String],
    service: &Service,
) -> Result<Running, Failure> {
    let environment = run.environment(task);
    let working_dir = run.workspace.files.absolute(task.working_dir.as_bytes());
    if !working_dir.is_dir() {
        return Err(TaskError::WorkingDir(task.working_dir.clone()).into());
    }
    let scratch = run.workspace.scratch()?;
    let command = |argv: &[String]| Command {
        argv: argv.iter().map(|arg| arg.clone().into_bytes()).collect(),
        env: environment.variables(scratch.path()),
        working_dir: working_dir.as_os_str().as_bytes().to_vec(),
        jobserver: None,
        confinement: None,
        has_terminal: false,
    };
    let secrets: Vec<Vec<u8>> = environment.secret.values().flatten().cloned().collect();
    let ear = Arc::new(Ear::new(&service.ready_when));
    let process = run
        .start_service(&command(argv), &secrets, Sink::Ear(Arc::clone(&ear)))
        .map_err(TaskError::Supervise)?;
    let stop = Arc::new(Cancel::default());
    let (listening, stopping) = (Arc::clone(&ear), Arc::clone(&stop));
    let thread = std::thread::spawn(move || {
        let ending = process.wait(&stopping).map_or(Ending::Lost, |(finished, _)| finished.ending);
        listening.end(ending);
    });
    let running = Running { name: task.name.clone(), stop, ear, thread };
    let probe = |argv: &[String], left| {
        let finished = run.command(&command(argv), Some(left), &secrets);
        finished.is_ok_and(|finished| finished.ending == Ending::Code(0))
    };
    match running.wait_until_ready(run.cancel, service, &probe) {
        Ok(()) => Ok(running),
        Err(error) => {
            let log = running.ear.heard().tail.clone();
            running.stop(run.cancel);
            Err(Failure { error, log })
        }
    }
}

impl Running {
    fn wait_until_ready(
        &self,
        cancel: &Cancel,
        service: &Service,
        probe: &dyn Fn(&[String], Duration) -> bool,
    ) -> Result<(), TaskError> {
        let deadline = Instant::now() + service.timeout;
        let mut heard = self.ear.heard();
        loop {
            if let Some(ending) = &heard.ended {
                return Err(TaskError::Service(format!("{ending} before it was ready")));
            }
            if cancel.is_requested() {
                return Err(TaskError::Cancelled);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let timeout = service.timeout;
                return Err(TaskError::Service(format!("was not ready after {timeout:?}")));
            }
            let found = heard.found;
            drop(heard);
            let ready = match &service.ready_when {
                Readiness::Started => true,
                Readiness::Line(_) => found,
                Readiness::Port(port) => accepts(*port),
                Readiness::Command(argv) => probe(argv, left),
            };
            heard = self.ear.heard();
            // One that something else answers for is not ready when it has ended.
            if ready && heard.ended.is_none() {
                return Ok(());
            }
            if heard.ended.is_none() {
                heard = self.ear.wait(heard);
            }
        }
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&self) -> Option<String> {
        self.ear.heard().ended.as_ref().map(|ending| format!("`{}` {ending}", self.name))
    }

    /// Asks it to end, waits for that, and kills it when it takes too long, or at once when the run is
    /// cancelled for good.
    pub(crate) fn stop(self, cancel: &Cancel) {
        self.stop.request();
        let mut heard = self.ear.heard();
        while heard.ended.is_none() {
            if cancel.is_hard() {
                self.stop.request();
            }
            heard = self.ear.wait(heard);
        }
        drop(heard);
        if self.thread.join().is_err() {
            tracing::error!("the thread that watches over a service panicked");
        }
    }
}

/// Whether something accepts connections on a port of this machine.
fn accepts(port: u16) -> bool {
    let addresses = [
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    ];
    addresses.iter().any(|address| TcpStream::connect_timeout(address, PROBE_INTERVAL).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_heard_across_pieces_and_after_much_else() {
        let ear = Ear::new(&Readiness::Line("ready now".into()));
        ear.hear(&vec![b'x'; TAIL * 2]);
        ear.hear(b"re");
        ear.hear(b"ady no");
        assert!(!ear.heard().found);
        ear.hear(b"w\n");
        assert!(ear.heard().found);
        assert!(ear.heard().tail.len() <= TAIL);
    }
}
