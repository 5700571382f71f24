//! The control socket. A thread of its own talks to clients, so that a slow one delays no packet;
//! the emulator only answers questions.

use crate::{
    emulator::Questions,
    error::WanError,
    place::Place,
    protocol::{MAX_REQUEST, MAX_RESPONSE, Request, Response},
};
use rustix::event::{EventfdFlags, eventfd};
use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

/// How long a client may take for its request and for its answer. Clients come one by one.
const CLIENT_LIMIT: Duration = Duration::from_secs(2);
/// How long a client waits: others may be before it.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

type Question = (Request, SyncSender<Response>);

/// The end of the emulator. Dropping it ends the thread with its next client.
#[derive(Debug)]
pub(crate) struct Control {
    questions: Receiver<Question>,
    bell: Arc<OwnedFd>,
}

impl Control {
    /// Binds the socket, where only the same user gets to, and serves it on a thread.
    pub(crate) fn start(place: &Place) -> Result<Self, WanError> {
        let path = place.socket();
        // The name is taken, so whatever is there is a dead one's.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(WanError::file("remove", &path)(error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(WanError::file("serve", &path))?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(WanError::io("make an eventfd"))?;
        let bell = Arc::new(bell);
        let (sender, questions) = sync_channel(1);
        let ring = Arc::clone(&bell);
        thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || serve(&listener, &sender, &ring))
            .map_err(WanError::io("start a thread"))?;
        Ok(Self { questions, bell })
    }
}

impl Questions for Control {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    fn answer(&self, by: &mut dyn FnMut(&Request) -> Response) {
        // Before the questions, so that the bell of a later one is heard.
        let _ = rustix::io::read(&*self.bell, &mut [0; 8]);
        while let Ok((request, reply)) = self.questions.try_recv() {
            // A client that has gone away does not matter.
            drop(reply.send(by(&request)));
        }
    }
}

/// Talks to clients until the emulator is gone.
fn serve(listener: &UnixListener, questions: &SyncSender<Question>, bell: &OwnedFd) {
    for client in listener.incoming() {
        let Ok(client) = client else {
            // Out of descriptors, at worst; the client tries again.
            thread::yield_now();
            continue;
        };
        match talk(&client, questions, bell) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return,
            Err(error) => tracing::debug!(%error, "a client of the control socket"),
        }
    }
}

/// Serves one client. `BrokenPipe` when the emulator is gone.
fn talk(
    mut client: &UnixStream,
    questions: &SyncSender<Question>,
    bell: &OwnedFd,
) -> io::Result<()> {
    let same_user = rustix::net::sockopt::socket_peercred(client)?.uid;
    if same_user != rustix::process::geteuid() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    client.set_read_timeout(Some(CLIENT_LIMIT))?;
    client.set_write_timeout(Some(CLIENT_LIMIT))?;
    let mut line = String::new();
    BufReader::new(client.take(MAX_REQUEST)).read_line(&mut line)?;
    let response = match serde_json::from_str(&line) {
        Ok(request) => {
            let (reply, answer) = sync_channel(1);
            let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
            questions.send((request, reply)).map_err(|_| gone(()))?;
            rustix::io::write(bell, &1u64.to_ne_bytes())?;
            answer.recv().map_err(|_| gone(()))?
        }
        Err(error) => Response::Error { message: format!("not a request: {error}") },
    };
    let mut text = serde_json::to_string(&response)?;
    text.push('\n');
    // Its own end, not that of the emulator.
    client.write_all(text.as_bytes()).map_err(|error| io::Error::other(error.to_string()))
}

/// Asks the emulator of this name.
///
/// # Errors
/// When none runs, when it says no, or when it does not answer in time.
pub fn ask(name: &str, request: &Request) -> Result<Response, WanError> {
    if !rustix::process::geteuid().is_root() {
        return Err(WanError::NotRoot);
    }
    let place = Place::of(name)?;
    place.running()?;
    let failed = WanError::io("ask the emulator");
    match exchange(&place, request).map_err(failed)? {
        Response::Error { message } => Err(WanError::Refused(message)),
        response => Ok(response),
    }
}

fn exchange(place: &Place, request: &Request) -> io::Result<Response> {
    let mut stream = UnixStream::connect(place.socket())?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.set_write_timeout(Some(ANSWER_LIMIT))?;
    let text = serde_json::to_string(request)? + "\n";
    stream.write_all(text.as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_RESPONSE)).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}
