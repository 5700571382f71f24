//! Questions to a running emulator: from its own process, or through the control socket. A thread
//! of its own talks to clients of that, so that a slow one delays no packet; the emulator only
//! answers questions.

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

/// The end that asks.
#[derive(Debug)]
pub(crate) struct Asker {
    questions: SyncSender<Question>,
    bell: Arc<OwnedFd>,
}

impl Asker {
    /// The answer. `BrokenPipe` when the emulator is gone.
    pub(crate) fn ask(&self, request: Request) -> io::Result<Response> {
        let (reply, answer) = sync_channel(1);
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.questions.send((request, reply)).map_err(|_| gone(()))?;
        rustix::io::write(&*self.bell, &1u64.to_ne_bytes())?;
        answer.recv().map_err(|_| gone(()))
    }
}

/// The end of the emulator. Dropping it ends the thread of the socket with its next client.
#[derive(Debug)]
pub(crate) struct Control {
    questions: Receiver<Question>,
    bell: Arc<OwnedFd>,
}

impl Control {
    /// Both ends.
    pub(crate) fn pair() -> Result<(Self, Asker), WanError> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(WanError::io("make an eventfd"))?;
        let bell = Arc::new(bell);
        let (sender, questions) = sync_channel(1);
        let asker = Asker { questions: sender, bell: Arc::clone(&bell) };
        Ok((Self { questions, bell }, asker))
    }

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
        let (control, asker) = Self::pair()?;
        thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || serve(&listener, &asker))
            .map_err(WanError::io("start a thread"))?;
        Ok(control)
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
fn serve(listener: &UnixListener, asker: &Asker) {
    for client in listener.incoming() {
        let Ok(client) = client else {
            // Out of descriptors, at worst; the client tries again.
            thread::yield_now();
            continue;
        };
        match talk(&client, asker) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return,
            Err(error) => tracing::debug!(%error, "a client of the control socket"),
        }
    }
}

/// Serves one client. `BrokenPipe` when the emulator is gone.
fn talk(mut client: &UnixStream, asker: &Asker) -> io::Result<()> {
    let same_user = rustix::net::sockopt::socket_peercred(client)?.uid;
    if same_user != rustix::process::geteuid() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    client.set_read_timeout(Some(CLIENT_LIMIT))?;
    client.set_write_timeout(Some(CLIENT_LIMIT))?;
    let mut line = String::new();
    BufReader::new(client.take(MAX_REQUEST)).read_line(&mut line)?;
    let response = match serde_json::from_str(&line) {
        Ok(request) => asker.ask(request)?,
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
