//! The asking end of the control socket: a [`Cache`] whose work another process does.

mod insight;
mod room;

use netbuild_core::{
    cache::{Cache, CacheError, Content, Fetched, FetchedAll, Hit, NewRecord, Source},
    digest::{Digest, DigestBuilder},
    key::ActionKey,
    moved::{Movement, Watch},
    record::Record,
};
use netbuild_proto::control::{
    ContentReader, MAX_BRING, MAX_FETCH, Request, Response, Status, VERSION, write_content,
};
use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How long the other process may stay silent: it says every second that it is still at work.
const SILENCE: Duration = Duration::from_secs(10);
/// Most connections of one cache: more requests at once would not get done any sooner, and the
/// owner of the data directory has room for those of other commands.
const MAX_OPEN: usize = 32;

/// Nobody serves the control socket.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no socket, or nobody listens on it, or not to one more.
    #[error("nobody listens on `{}`", .0.display())]
    NobodyThere(PathBuf),
    /// The process there speaks another version.
    #[error(
        "the process that owns the data directory speaks control version {0}, this is version {VERSION}; restart it"
    )]
    Version(u32),
    /// The process there belongs to somebody else, and could tell anything.
    #[error("`{path}` is served by user {uid}, who is another", path = .0.display(), uid = .1)]
    Stranger(PathBuf, u32),
    /// Something else.
    #[error("cannot talk to `{path}`: {error}", path = .0.display(), error = .1)]
    Io(PathBuf, #[source] io::Error),
}

/// The cache of the process that serves a control socket.
#[derive(Debug)]
pub struct SocketCache {
    pool: Arc<Pool>,
}

/// The connections, kept for the next request.
#[derive(Debug)]
struct Pool {
    path: PathBuf,
    silence: Duration,
    state: Mutex<PoolState>,
    /// A connection became idle, or was closed.
    freed: Condvar,
}

#[derive(Debug, Default)]
struct PoolState {
    idle: Vec<UnixStream>,
    /// How many are in use.
    used: usize,
}

/// A connection in use. Closed when dropped, unless it was put back.
#[derive(Debug)]
struct Connection {
    /// `None` once put back.
    socket: Option<UnixStream>,
    pool: Arc<Pool>,
}

impl SocketCache {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// When nobody of this user listens there, or one who speaks another version.
    pub fn connect(path: &Path) -> Result<Self, ConnectError> {
        Self::with_silence(path, SILENCE)
    }

    pub(crate) fn with_silence(path: &Path, silence: Duration) -> Result<Self, ConnectError> {
        let (state, freed) = (Mutex::default(), Condvar::new());
        let pool = Arc::new(Pool { path: path.to_owned(), silence, state, freed });
        let first = pool.connect()?;
        pool.state().idle.push(first);
        Ok(Self { pool })
    }

    /// The state of the process.
    ///
    /// # Errors
    /// When the process does not answer, or not rightly.
    pub fn status(&self) -> Result<Status, CacheError> {
        match self.ask(&Request::Status)? {
            Response::Status(status) => Ok(*status),
            other => Err(unexpected(&other)),
        }
    }

    /// Waits, at most so long, until the tiers of the owner have what is to be copied to them.
    ///
    /// # Errors
    /// When the process does not answer, or not rightly.
    pub fn drain(&self, timeout: Duration) -> Result<(), CacheError> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        match self.ask(&Request::Drain { timeout_ms })? {
            Response::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// A blob that was put, and that no result names, is to be copied to the tiers of the owner.
    ///
    /// # Errors
    /// When the process does not answer, or not rightly.
    pub fn share(&self, blob: &Digest) -> Result<(), CacheError> {
        match self.ask(&Request::Share(*blob))? {
            Response::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends a request and returns its answer.
    fn ask(&self, request: &Request) -> Result<Response, CacheError> {
        self.ask_watching(request, &())
    }

    /// The same, while `watch` hears of what moves meanwhile.
    fn ask_watching(&self, request: &Request, watch: &dyn Watch) -> Result<Response, CacheError> {
        let mut connection = self.pool.take()?;
        connection.send(request)?;
        let response = connection.answer(watch)?;
        connection.put_back();
        done(response)
    }
}

/// The answer, unless it is that the request failed.
fn done(response: Response) -> Result<Response, CacheError> {
    match response {
        Response::Failed(reason) => Err(CacheError::Failed(reason)),
        other => Ok(other),
    }
}

impl Pool {
    fn state(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(&self) -> Result<UnixStream, ConnectError> {
        use io::ErrorKind::{
            BrokenPipe, ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof,
        };
        let failed = |error: io::Error| match error.kind() {
            // The last three: it is shutting down, or has no room. As good as gone.
            NotFound | ConnectionRefused | BrokenPipe | ConnectionReset | UnexpectedEof => {
                ConnectError::NobodyThere(self.path.clone())
            }
            _ => ConnectError::Io(self.path.clone(), silent(error)),
        };
        let mut socket = UnixStream::connect(&self.path).map_err(failed)?;
        let there = rustix::net::sockopt::socket_peercred(&socket);
        let there = there.map_err(|error| failed(error.into()))?.uid;
        if there != rustix::process::geteuid() {
            return Err(ConnectError::Stranger(self.path.clone(), there.as_raw()));
        }
        socket.set_read_timeout(Some(self.silence)).map_err(failed)?;
        socket.set_write_timeout(Some(self.silence)).map_err(failed)?;
        Request::Hello { version: VERSION }.write(&mut socket).map_err(failed)?;
        match Response::read(&mut socket).map_err(failed)? {
            Response::Welcome { version: VERSION } => Ok(socket),
            Response::Welcome { version } => Err(ConnectError::Version(version)),
            other => Err(failed(io::Error::other(format!("greeted with {}", kind(&other))))),
        }
    }

    /// An idle connection, or a new one, or, when there are as many as may be, the next to become
    /// idle.
    fn take(self: &Arc<Self>) -> Result<Connection, CacheError> {
        let taken = |socket| Connection { socket, pool: Arc::clone(self) };
        let full = |state: &mut PoolState| state.idle.is_empty() && state.used >= MAX_OPEN;
        let waited = self.freed.wait_timeout_while(self.state(), self.silence, full);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if full(&mut state) {
            return Err(CacheError::Failed(format!("{MAX_OPEN} requests are under way already")));
        }
        state.used += 1;
        let mut connection = taken(state.idle.pop());
        drop(state);
        if connection.socket.is_none() {
            let connected = self.connect();
            connection.socket =
                Some(connected.map_err(|error| CacheError::Unreachable(error.to_string()))?);
        }
        Ok(connection)
    }

    /// A connection broke: the others go the same way, most likely.
    fn lost(&self, error: io::Error) -> CacheError {
        self.state().idle.clear();
        CacheError::Unreachable(format!("`{}`: {}", self.path.display(), silent(error)))
    }
}

impl Connection {
    fn send(&mut self, request: &Request) -> Result<(), CacheError> {
        request.write(self).map_err(|error| self.pool.lost(error))
    }

    fn answer(&mut self, watch: &dyn Watch) -> Result<Response, CacheError> {
        loop {
            match self.next()? {
                Response::Working => {}
                Response::Moving(progress) => watch.moving(&progress),
                response => return Ok(response),
            }
            if watch.is_over() {
                return Err(CacheError::Failed("nobody waits for the answer any more".to_owned()));
            }
        }
    }

    fn next(&mut self) -> Result<Response, CacheError> {
        Response::read(self).map_err(|error| self.pool.lost(error))
    }

    /// Keeps the connection for the next request: the answer to this one was read to its end.
    fn put_back(mut self) {
        if let Some(socket) = self.socket.take() {
            self.pool.state().idle.push(socket);
        }
    }

    fn socket(&self) -> io::Result<&UnixStream> {
        self.socket.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket()?.read(buffer)
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket()?.flush()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.pool.state().used -= 1;
        self.pool.freed.notify_one();
    }
}

/// Says what a timeout of the socket means.
fn silent(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            io::Error::new(io::ErrorKind::TimedOut, "it does not answer")
        }
        _ => error,
    }
}

fn unexpected(response: &Response) -> CacheError {
    CacheError::Failed(format!("the agent gave an answer that does not fit: {}", kind(response)))
}

/// An answer without what it carries, for messages.
fn kind(response: &Response) -> &'static str {
    match response {
        Response::Welcome { .. } => "a greeting",
        Response::Working => "that it is at work",
        Response::Moving(_) => "that something moves",
        Response::Missing => "that it is missing",
        Response::SoonerBuilt(_) => "that it is sooner built",
        Response::Hit { .. } | Response::Record(_) => "a record",
        Response::Fetched { .. } => "that it is fetched",
        Response::Done => "that it is done",
        Response::Failed(_) => "a failure",
        Response::Status(_) => "its state",
        Response::Links(_) => "links",
        Response::Plan(_) => "a plan",
        Response::Why(_) => "decisions",
        Response::Conflicts(_) => "conflicts",
        Response::Syncing(_) | Response::Synced(_) => "a sync",
        Response::Monitor(_) => "the mesh",
        Response::Verifying(_) | Response::Verified(_) => "a verification",
        Response::Doing { .. } => "how far it is",
        Response::Space(_) => "its space",
        Response::Cleared(_) => "what it gave up",
        Response::Pins(_) => "pins",
    }
}

impl Cache for SocketCache {
    fn lookup(&self, key: &ActionKey, watch: &dyn Watch) -> Result<Option<Hit>, CacheError> {
        let request = Request::LookupFrom(*key, watch.least(), watch.building());
        match self.ask_watching(&request, watch)? {
            Response::Missing => Ok(None),
            Response::SoonerBuilt(slow) => {
                watch.sooner_built(&slow);
                Ok(None)
            }
            Response::Hit { record, source, bytes, movement } if record.record().key == *key => {
                Ok(Some(Hit { record: record.record().clone(), source, bytes, movement }))
            }
            other => Err(unexpected(&other)),
        }
    }

    fn peek(&self, key: &ActionKey) -> Result<Option<Record>, CacheError> {
        match self.ask(&Request::Peek(*key))? {
            Response::Missing => Ok(None),
            Response::Record(record) if record.record().key == *key => {
                Ok(Some(record.record().clone()))
            }
            other => Err(unexpected(&other)),
        }
    }

    fn bring(&self, keys: &[ActionKey], watch: &dyn Watch) -> Result<(), CacheError> {
        for keys in keys.chunks(MAX_BRING) {
            match self.ask_watching(&Request::Bring(keys.to_vec()), watch)? {
                Response::Done => {}
                other => return Err(unexpected(&other)),
            }
        }
        Ok(())
    }

    fn fetch_all(&self, blobs: &[Digest], watch: &dyn Watch) -> Result<FetchedAll, CacheError> {
        if blobs.len() <= MAX_FETCH {
            return self.fetch_some(blobs, watch);
        }
        let (mut missing, mut movement, mut seconds) = (Vec::new(), Movement::default(), 0.0);
        for blobs in blobs.chunks(MAX_FETCH) {
            let all = self.fetch_some(blobs, watch)?;
            missing.extend(all.missing);
            movement.merge(&all.fetched.movement);
            seconds += all.fetched.seconds;
        }
        let source = movement.from().cloned().unwrap_or(Source::Disk);
        Ok(FetchedAll { missing, fetched: Fetched { source, movement, seconds } })
    }

    fn open(&self, blob: &Digest) -> Result<Option<Box<dyn Read + Send>>, CacheError> {
        let mut connection = self.pool.take()?;
        connection.send(&Request::Open(*blob))?;
        match connection.answer(&())? {
            Response::Done => Ok(Some(Box::new(Opened {
                expected: *blob,
                seen: DigestBuilder::new(),
                content: Some(ContentReader::new(connection)),
            }))),
            response => {
                connection.put_back();
                match done(response)? {
                    Response::Missing => Ok(None),
                    other => Err(unexpected(&other)),
                }
            }
        }
    }

    fn put_blob(&self, blob: &Digest, content: Content<'_>) -> Result<(), CacheError> {
        match content {
            Content::Bytes(mut bytes) => self.send_blob(blob, &mut bytes),
            Content::Reader(reader) => self.send_blob(blob, reader),
            Content::File(path) => {
                let mut file = File::open(path).map_err(|error| {
                    CacheError::Failed(format!("cannot read `{}`: {error}", path.display()))
                })?;
                self.send_blob(blob, &mut file)
            }
        }
    }

    fn put_record(&self, record: NewRecord) -> Result<(), CacheError> {
        match self.ask(&Request::PutRecord(record))? {
            Response::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn flush(&self) -> Result<(), CacheError> {
        match self.ask(&Request::Flush)? {
            Response::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }
}

impl SocketCache {
    /// Fetches no more blobs than one request may name.
    fn fetch_some(&self, blobs: &[Digest], watch: &dyn Watch) -> Result<FetchedAll, CacheError> {
        match self.ask_watching(&Request::Fetch(blobs.to_vec()), watch)? {
            Response::Fetched { missing, source, movement, seconds } => {
                let at = |place: u32| blobs.get(place as usize).copied();
                let missing: Option<_> = missing.into_iter().map(at).collect();
                let missing = missing.ok_or_else(|| {
                    CacheError::Failed("the agent misses what nobody asked for".to_owned())
                })?;
                Ok(FetchedAll { missing, fetched: Fetched { source, movement, seconds } })
            }
            other => Err(unexpected(&other)),
        }
    }

    fn send_blob(&self, blob: &Digest, content: &mut dyn Read) -> Result<(), CacheError> {
        let mut connection = self.pool.take()?;
        connection.send(&Request::PutBlob(*blob))?;
        let read = write_content(&mut connection, content);
        let read = read.map_err(|error| self.pool.lost(error))?;
        let response = connection.answer(&())?;
        connection.put_back();
        read.map_err(|error| CacheError::Failed(format!("cannot read blob {blob}: {error}")))?;
        match done(response)? {
            Response::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }
}

/// The content of a blob on its way through the socket, verified at this end too.
struct Opened {
    expected: Digest,
    seen: DigestBuilder,
    /// `None` once read to its end.
    content: Option<ContentReader<Connection>>,
}

impl Read for Opened {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if let Some(content) = &mut self.content {
            let count = content.read(buffer).map_err(silent)?;
            if count > 0 {
                self.seen.update(&buffer[..count]);
                return Ok(count);
            }
        }
        if let Some(content) = self.content.take() {
            content.into_inner().put_back();
        }
        if self.seen.finish() == self.expected {
            return Ok(0);
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("blob {} is damaged", self.expected),
        ))
    }
}
