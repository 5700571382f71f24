//! What the monitor waits for: snapshots of the agent, signals, the next interval.

use crate::{errors::CliError, signals::Interrupt};
use netbuild_core::cache::CacheError;
use netbuild_gateway::SocketCache;
use netbuild_proto::control::MonitorSnapshot;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};
use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        mpsc::{self, Receiver, SyncSender},
    },
    time::{Duration, Instant},
};

/// Something that the monitor reacts to.
pub(super) enum Event {
    /// The agent answered, or did not.
    Snapshot(Result<MonitorSnapshot, CacheError>),
    /// The terminal has another size.
    Resized,
    /// A signal asks for the end.
    Stopped(i32),
}

/// The events, one after the other.
pub(super) struct Events {
    interval: Duration,
    interrupt: Interrupt,
    /// A byte comes with each signal and each answer.
    wake: UnixStream,
    asked: SyncSender<()>,
    answers: Receiver<Result<MonitorSnapshot, CacheError>>,
    /// When the agent is asked again; `None` while it is asked.
    next: Option<Instant>,
}

impl Events {
    pub(super) fn start(agent: &Arc<SocketCache>, interval: Duration) -> Result<Self, CliError> {
        let interrupt = Interrupt::catch(&[SIGINT, SIGTERM, SIGHUP])?;
        let (wake, waker) = pair().map_err(CliError::usage)?;
        for signal in [SIGINT, SIGTERM, SIGHUP, SIGWINCH] {
            let waker = waker.try_clone().map_err(CliError::usage)?;
            signal_hook::low_level::pipe::register(signal, waker).map_err(CliError::usage)?;
        }
        let (asked, asking) = mpsc::sync_channel(1);
        let (answer, answers) = mpsc::sync_channel(1);
        let agent = Arc::clone(agent);
        // Ends with the channel, or with the process: an agent that hangs holds nobody up.
        std::thread::spawn(move || {
            for () in asking {
                if answer.send(agent.monitor()).is_err() {
                    return;
                }
                // When it is full, who waits wakes up anyway.
                drop((&waker).write(&[0]));
            }
        });
        let next = Some(Instant::now());
        Ok(Self { interval, interrupt, wake, asked, answers, next })
    }

    /// Waits for the next event.
    pub(super) fn next(&mut self, mut now: Instant) -> Result<Event, CliError> {
        let mut woken = false;
        loop {
            if let Some(signal) = self.interrupt.signal() {
                return Ok(Event::Stopped(signal));
            }
            if let Ok(answer) = self.answers.try_recv() {
                self.next = Some(now + self.interval);
                return Ok(Event::Snapshot(answer));
            }
            if woken {
                return Ok(Event::Resized);
            }
            if self.next.is_some_and(|next| next <= now) {
                self.next = None;
                self.asked.try_send(()).map_err(CliError::usage)?;
            }
            woken = self.wait(now).map_err(CliError::usage)?;
            now = Instant::now();
        }
    }

    /// Waits until the next question is due; whether something came before.
    fn wait(&mut self, now: Instant) -> io::Result<bool> {
        let timeout = self.next.map(|next| next.saturating_duration_since(now));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(&mut [PollFd::new(&self.wake, PollFlags::IN)], timeout.as_ref()) {
            // A signal was handled; its byte is there the next time.
            Err(rustix::io::Errno::INTR) | Ok(0) => return Ok(false),
            Err(error) => return Err(error.into()),
            Ok(_) => {}
        }
        let mut bytes = [0; 64];
        while matches!(self.wake.read(&mut bytes), Ok(1..)) {}
        Ok(true)
    }
}

/// Two ends that never block.
fn pair() -> io::Result<(UnixStream, UnixStream)> {
    let (one, other) = UnixStream::pair()?;
    one.set_nonblocking(true)?;
    other.set_nonblocking(true)?;
    Ok((one, other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::merge::Trust;
    use netbuild_gateway::socket_path;
    use netbuild_node::Session;
    use signal_hook::low_level::raise;

    #[test]
    fn answers_new_sizes_and_signals_arrive_as_they_come() {
        let dir = tempfile::tempdir().unwrap();
        // Serves the socket, and is no agent.
        let session = Session::new(dir.path(), "", &Trust::default()).unwrap();
        session.status().unwrap();
        let agent = Arc::new(SocketCache::connect(&socket_path(dir.path())).unwrap());
        let mut events = Events::start(&agent, Duration::from_secs(3600)).unwrap();
        let mut next = || events.next(Instant::now()).unwrap();
        let first = next();
        let Event::Snapshot(Err(error)) = first else { panic!("not an answer") };
        assert!(error.to_string().contains("no agent runs here"), "{error}");
        raise(SIGWINCH).unwrap();
        assert!(matches!(next(), Event::Resized));
        raise(SIGTERM).unwrap();
        assert!(matches!(next(), Event::Stopped(SIGTERM)));
    }
}
