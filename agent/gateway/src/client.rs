//! The asking end of the control socket: a [`Cache`] whose work another process does.

use netbuild_core::{
    cache::{Cache, CacheError, Content, Fetched, Hit, NewRecord},
    digest::{Digest, DigestBuilder},
    key::ActionKey,
};
use netbuild_proto::control::{ContentReader, Request, Response, Status, VERSION, write_content};
use std::{
    fs::File,
    io::{self, Read},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// How long the other process may stay silent: it says every second that it is still at work.
const SILENCE: Duration = Duration::from_secs(10);
/// Most idle connections that are kept.
const MAX_IDLE: usize = 64;

/// Nobody serves the control socket.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no socket, or nobody listens on it.
    #[error("nobody listens on `{}`", .0.display())]
    NobodyThere(PathBuf),
    /// The process there speaks another version.
    #[error(
        "the process that owns the data directory speaks control version {0}, this is version {VERSION}; restart it"
    )]
    Version(u32),
    /// Something else.
    #[error("cannot talk to `{path}`: {error}", path = .0.display(), error = .1)]
    Io(PathBuf, #[source] io::Error),
}

/// The cache of the process that serves a control socket.
#[derive(Debug)]
pub struct SocketCache {
    pool: Arc<Pool>,
}

#[derive(Debug)]
struct Pool {
    path: PathBuf,
    idle: Mutex<Vec<UnixStream>>,
}

impl SocketCache {
    /// Connects to the socket at `path`.
    pub fn connect(path: &Path) -> Result<Self, ConnectError> {
        let pool = Arc::new(Pool { path: path.to_owned(), idle: Mutex::default() });
        let first = pool.connect()?;
        pool.put_back(first);
        Ok(Self { pool })
    }

    /// The state of the process.
    pub fn status(&self) -> Result<Status, CacheError> {
        match self.ask(&Request::Status)? {
            Response::Status(status) => Ok(*status),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends a request and returns its answer.
    fn ask(&self, request: &Request) -> Result<Response, CacheError> {
        let mut socket = self.pool.take()?;
        request.write(&mut socket).map_err(|error| self.pool.lost(&error))?;
        let response = self.pool.answer(&mut socket)?;
        self.pool.put_back(socket);
        match response {
            Response::Failed(reason) => Err(CacheError::Failed(reason)),
            other => Ok(other),
        }
    }
}

impl Pool {
    fn connect(&self) -> Result<UnixStream, ConnectError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ConnectError::NobodyThere(self.path.clone())
            }
            _ => ConnectError::Io(self.path.clone(), error),
        };
        let mut socket = UnixStream::connect(&self.path).map_err(failed)?;
        socket.set_read_timeout(Some(SILENCE)).map_err(failed)?;
        socket.set_write_timeout(Some(SILENCE)).map_err(failed)?;
        Request::Hello { version: VERSION }.write(&mut socket).map_err(failed)?;
        match Response::read(&mut socket) {
            Ok(Response::Welcome { version: VERSION }) => Ok(socket),
            Ok(Response::Welcome { version }) => Err(ConnectError::Version(version)),
            Ok(other) => Err(failed(io::Error::other(format!("answered {other:?}")))),
            // It is shutting down: as good as gone.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(ConnectError::NobodyThere(self.path.clone()))
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn take(&self) -> Result<UnixStream, CacheError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match idle {
            Some(socket) => Ok(socket),
            None => self.connect().map_err(|error| CacheError::Unreachable(error.to_string())),
        }
    }

    fn put_back(&self, socket: UnixStream) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(socket);
        }
    }

    fn answer(&self, socket: &mut UnixStream) -> Result<Response, CacheError> {
        loop {
            match Response::read(socket) {
                Ok(Response::Working) => {}
                Ok(response) => return Ok(response),
                Err(error) => return Err(self.lost(&error)),
            }
        }
    }

    /// The connection broke: the others go the same way, most likely.
    fn lost(&self, error: &io::Error) -> CacheError {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let silent = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        let why = if silent { "it does not answer".to_owned() } else { error.to_string() };
        CacheError::Unreachable(format!("`{}`: {why}", self.path.display()))
    }
}

fn unexpected(response: &Response) -> CacheError {
    CacheError::Failed(format!("the agent gave an answer that does not fit: {response:?}"))
}

impl Cache for SocketCache {
    fn lookup(&self, key: &ActionKey) -> Result<Option<Hit>, CacheError> {
        match self.ask(&Request::Lookup(*key))? {
            Response::Missing => Ok(None),
            Response::Hit { record, source, bytes } if record.record().key == *key => {
                Ok(Some(Hit { record: record.record().clone(), source, bytes }))
            }
            other => Err(unexpected(&other)),
        }
    }

    fn fetch(&self, blob: &Digest) -> Result<Option<Fetched>, CacheError> {
        match self.ask(&Request::Fetch(*blob))? {
            Response::Missing => Ok(None),
            Response::Fetched { source, bytes } => Ok(Some(Fetched { source, bytes })),
            other => Err(unexpected(&other)),
        }
    }

    fn open(&self, blob: &Digest) -> Result<Option<Box<dyn Read + Send>>, CacheError> {
        let mut socket = self.pool.take()?;
        Request::Open(*blob).write(&mut socket).map_err(|error| self.pool.lost(&error))?;
        match self.pool.answer(&mut socket)? {
            Response::Done => Ok(Some(Box::new(Opened {
                expected: *blob,
                seen: DigestBuilder::new(),
                content: Some(ContentReader::new(socket)),
                pool: Arc::clone(&self.pool),
            }))),
            Response::Missing => {
                self.pool.put_back(socket);
                Ok(None)
            }
            Response::Failed(reason) => {
                self.pool.put_back(socket);
                Err(CacheError::Failed(reason))
            }
            other => Err(unexpected(&other)),
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
    fn send_blob(&self, blob: &Digest, content: &mut dyn Read) -> Result<(), CacheError> {
        let mut socket = self.pool.take()?;
        let lost = |error: io::Error| self.pool.lost(&error);
        Request::PutBlob(*blob).write(&mut socket).map_err(lost)?;
        let read = write_content(&mut socket, content).map_err(lost)?;
        let response = self.pool.answer(&mut socket)?;
        self.pool.put_back(socket);
        match (read, response) {
            (Err(error), _) => Err(CacheError::Failed(format!("cannot read blob {blob}: {error}"))),
            (_, Response::Done) => Ok(()),
            (_, Response::Failed(reason)) => Err(CacheError::Failed(reason)),
            (_, other) => Err(unexpected(&other)),
        }
    }
}

/// The content of a blob on its way through the socket, verified at this end too.
struct Opened {
    expected: Digest,
    seen: DigestBuilder,
    content: Option<ContentReader<UnixStream>>,
    pool: Arc<Pool>,
}

impl Read for Opened {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(content) = &mut self.content else { return Ok(0) };
        let count = content.read(buffer)?;
        if count > 0 {
            self.seen.update(&buffer[..count]);
            return Ok(count);
        }
        if buffer.is_empty() {
            return Ok(0);
        }
        if let Some(content) = self.content.take() {
            self.pool.put_back(content.into_inner());
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
