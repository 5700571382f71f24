//! The serving end of the control socket: one thread for each connection, since its clients are a
//! few commands on the same machine, and everything behind it blocks.

use netbuild_core::cache::{Cache, CacheError, Content, Hit};
use netbuild_proto::{
    control::{ContentReader, Request, Response, Status, VERSION, write_content},
    record::SealedRecord,
};
use rustix::event::{PollFd, PollFlags, poll};
use std::{
    collections::HashMap,
    fs::{self, DirBuilder, Permissions},
    io::{self, BufReader},
    net::Shutdown,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{DirBuilderExt as _, PermissionsExt as _},
            net::{UnixListener, UnixStream},
        },
    },
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::Duration,
};

/// Most connections at once. A run has at most one for each of its jobs.
const MAX_CONNECTIONS: usize = 256;
/// How often a client whose request takes long hears that it is still worked on.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long a client may stay silent in the middle of what it sends, or not read its answer.
const STALL: Duration = Duration::from_secs(30);

/// What the control socket leads to.
pub trait Door: Cache + 'static {
    /// A hit with the signed bytes of its record.
    fn lookup_sealed(
        &self,
        key: &netbuild_core::key::ActionKey,
    ) -> Result<Option<(SealedRecord, Hit)>, CacheError>;

    /// The state of the process.
    fn status(&self) -> Status;
}

/// A control socket that is served until the value is dropped.
#[derive(Debug)]
pub struct ControlServer {
    path: PathBuf,
    /// Closed to end the accepting thread.
    stop: Option<OwnedFd>,
    accepting: Option<JoinHandle<()>>,
    connections: Arc<Connections>,
}

/// The open connections, so that they can be shut down from outside.
#[derive(Debug, Default)]
struct Connections {
    open: Mutex<HashMap<u64, Served>>,
}

/// An open connection with the thread that serves it.
#[derive(Debug)]
struct Served {
    stream: Arc<UnixStream>,
    thread: JoinHandle<()>,
}

impl ControlServer {
    /// Binds the socket at `path`, replacing one that a killed process left. The caller owns the
    /// data directory, so no other process serves it.
    ///
    /// # Errors
    /// When the socket cannot be made there.
    pub fn start(path: &Path, door: Arc<dyn Door>) -> io::Result<Self> {
        let listener = bind(path)?;
        let (stopped, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let connections = Arc::new(Connections::default());
        let accepting = {
            let connections = Arc::clone(&connections);
            std::thread::Builder::new()
                .name("control".into())
                .spawn(move || accept(&listener, &stopped, &door, &connections))?
        };
        Ok(Self {
            path: path.to_owned(),
            stop: Some(stop),
            accepting: Some(accepting),
            connections,
        })
    }
}

/// Binds the socket where nobody else gets in, and moves it to its place when it is as closed as
/// it shall be.
fn bind(path: &Path) -> io::Result<UnixListener> {
    // No longer than `control.sock`, as there is a limit to the length of a path.
    let private = path.with_extension("d");
    match fs::remove_dir_all(&private) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    DirBuilder::new().mode(0o700).create(&private)?;
    let inside = private.join("s");
    let listener = UnixListener::bind(&inside)?;
    fs::set_permissions(&inside, Permissions::from_mode(0o600))?;
    fs::rename(&inside, path)?;
    fs::remove_dir(&private)?;
    Ok(listener)
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
        drop(self.stop.take());
        if let Some(accepting) = self.accepting.take()
            && accepting.join().is_err()
        {
            tracing::error!("the thread that accepts control connections panicked");
        }
        let open = std::mem::take(&mut *self.connections.list());
        for served in open.values() {
            // Clients see the end, and look for another owner of the data directory.
            drop(served.stream.shutdown(Shutdown::Both));
        }
        for served in open.into_values() {
            if served.thread.join().is_err() {
                tracing::error!("the thread of a control connection panicked");
            }
        }
    }
}

impl Connections {
    fn list(&self) -> MutexGuard<'_, HashMap<u64, Served>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn accept(
    listener: &UnixListener,
    stopped: &OwnedFd,
    door: &Arc<dyn Door>,
    connections: &Arc<Connections>,
) {
    for id in 0_u64.. {
        let mut ready = [PollFd::new(listener, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        match poll(&mut ready, None) {
            // A signal was handled on this thread; nothing is known to be ready.
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return tracing::error!(%error, "no more control connections"),
            Ok(_) => {}
        }
        if !ready[1].revents().is_empty() {
            return;
        }
        match listener.accept() {
            Ok((stream, _)) => {
                if let Err(error) = open(id, stream, door, connections) {
                    tracing::warn!(%error, "cannot serve a control connection");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a control connection");
                // Out of descriptors, most likely; accepting at once would fail again at once.
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

/// Removes a connection from the list when its thread ends, however it ends. The thread must have
/// let go of the door by then: whoever waits for the threads on the list wants it closed.
struct Listed(u64, Arc<Connections>);

impl Drop for Listed {
    fn drop(&mut self) {
        self.1.list().remove(&self.0);
    }
}

fn open(
    id: u64,
    stream: UnixStream,
    door: &Arc<dyn Door>,
    connections: &Arc<Connections>,
) -> io::Result<()> {
    stream.set_read_timeout(Some(STALL))?;
    stream.set_write_timeout(Some(STALL))?;
    let stream = Arc::new(stream);
    // Held until the connection is on the list, so that its thread finds it there.
    let mut list = connections.list();
    if list.len() >= MAX_CONNECTIONS {
        // The client sees the end of the connection, and tries again.
        tracing::warn!("{MAX_CONNECTIONS} control connections are open already");
        return Ok(());
    }
    let (served, door, listed) = (Arc::clone(&stream), Arc::clone(door), Arc::clone(connections));
    let thread =
        std::thread::Builder::new().name("control connection".into()).spawn(move || {
            let _listed = Listed(id, listed);
            // Moved in here to be dropped before the one above.
            let (served, door) = (served, door);
            if let Err(error) = serve(&served, door.as_ref()) {
                tracing::debug!(%error, "a control connection ended");
            }
        })?;
    list.insert(id, Served { stream, thread });
    Ok(())
}

fn serve(stream: &UnixStream, door: &dyn Door) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(64 * 1024, stream);
    let mut writer = stream;
    let Some(Request::Hello { version }) = Request::read(&mut reader)? else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no greeting"));
    };
    Response::Welcome { version: VERSION }.write(&mut writer)?;
    if version != VERSION {
        return Ok(());
    }
    while let Some(request) = next(&mut reader)? {
        match request {
            Request::Hello { .. } => Response::Failed("greeted twice".into()).write(&mut writer)?,
            Request::Lookup(key) => {
                working(&mut writer, || match door.lookup_sealed(&key)? {
                    Some((record, hit)) => {
                        Ok(Response::Hit { record, source: hit.source, bytes: hit.bytes })
                    }
                    None => Ok(Response::Missing),
                })?;
            }
            Request::Fetch(blob) => {
                working(&mut writer, || match door.fetch(&blob)? {
                    Some(fetched) => {
                        Ok(Response::Fetched { source: fetched.source, bytes: fetched.bytes })
                    }
                    None => Ok(Response::Missing),
                })?;
            }
            Request::Open(blob) => match contained(|| door.open(&blob)) {
                Ok(Some(mut content)) => {
                    Response::Done.write(&mut writer)?;
                    if let Err(error) = write_content(&mut writer, &mut *content)? {
                        tracing::debug!(%blob, %error, "a blob could not be read to its end");
                    }
                }
                Ok(None) => Response::Missing.write(&mut writer)?,
                Err(error) => Response::Failed(error.to_string()).write(&mut writer)?,
            },
            Request::PutBlob(blob) => {
                let mut content = ContentReader::new(&mut reader);
                let mut rest = Ok(0);
                working(&mut writer, || {
                    let result = contained(|| door.put_blob(&blob, Content::Reader(&mut content)));
                    // What the cache did not want to read must not be taken for the next request.
                    rest = io::copy(&mut content, &mut io::sink());
                    result.map(|()| Response::Done)
                })?;
                rest?;
            }
            Request::PutRecord(record) => {
                working(&mut writer, || door.put_record(record).map(|()| Response::Done))?;
            }
            Request::Flush => working(&mut writer, || door.flush().map(|()| Response::Done))?,
            Request::Status => {
                working(&mut writer, || Ok(Response::Status(Box::new(door.status()))))?;
            }
        }
    }
    Ok(())
}

/// The next request, however long the client thinks about it; but once begun it must come.
fn next(reader: &mut BufReader<&UnixStream>) -> io::Result<Option<Request>> {
    while reader.buffer().is_empty() {
        match poll(&mut [PollFd::new(*reader.get_ref(), PollFlags::IN)], None) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => break,
        }
    }
    Request::read(reader)
}

/// A panic of the cache as an error, so that it costs one request and not the connection.
fn contained<T>(work: impl FnOnce() -> Result<T, CacheError>) -> Result<T, CacheError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(CacheError::Failed("the request panicked".into())))
}

/// Answers with what `work` comes to, and lets the client know meanwhile that it goes on.
fn working(
    writer: &mut &UnixStream,
    work: impl FnOnce() -> Result<Response, CacheError> + Send,
) -> io::Result<()> {
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(1);
        scope.spawn(move || drop(sender.send(contained(work))));
        loop {
            match receiver.recv_timeout(HEARTBEAT) {
                Ok(Ok(response)) => return response.write(writer),
                Ok(Err(error)) => return Response::Failed(error.to_string()).write(writer),
                Err(RecvTimeoutError::Timeout) => Response::Working.write(writer)?,
                // The thread sends before it ends.
                Err(RecvTimeoutError::Disconnected) => return Err(io::ErrorKind::Other.into()),
            }
        }
    })
}
