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
    fs::{self, Permissions},
    io::{self, BufReader, Write as _},
    os::{
        fd::OwnedFd,
        unix::{
            fs::PermissionsExt as _,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
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
    open: Mutex<HashMap<u64, (UnixStream, Option<JoinHandle<()>>)>>,
}

impl ControlServer {
    /// Binds the socket at `path`, replacing one that a killed process left. The caller owns the
    /// data directory, so no other process serves it.
    pub fn start(path: &Path, door: Arc<dyn Door>) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
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

impl Drop for ControlServer {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
        drop(self.stop.take());
        if let Some(accepting) = self.accepting.take()
            && accepting.join().is_err()
        {
            tracing::error!("the thread that accepts control connections panicked");
        }
        let open: Vec<_> = {
            let mut open = self.connections.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.drain().map(|(_, connection)| connection).collect()
        };
        for (stream, _) in &open {
            // Clients see the end, and look for another owner of the data directory.
            drop(stream.shutdown(std::net::Shutdown::Both));
        }
        for (_, thread) in open {
            if thread.is_some_and(|thread| thread.join().is_err()) {
                tracing::error!("the thread of a control connection panicked");
            }
        }
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
        if poll(&mut ready, None).is_err_and(|error| error != rustix::io::Errno::INTR)
            || !ready[1].revents().is_empty()
        {
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

fn open(
    id: u64,
    stream: UnixStream,
    door: &Arc<dyn Door>,
    connections: &Arc<Connections>,
) -> io::Result<()> {
    stream.set_write_timeout(Some(STALL))?;
    let mut list = connections.open.lock().unwrap_or_else(PoisonError::into_inner);
    if list.len() >= MAX_CONNECTIONS {
        let full = format!("{MAX_CONNECTIONS} control connections are open already");
        return Response::Failed(full).write(&mut &stream);
    }
    list.insert(id, (stream.try_clone()?, None));
    let thread = {
        let (door, connections) = (Arc::clone(door), Arc::clone(connections));
        std::thread::Builder::new().name("control connection".into()).spawn(move || {
            if let Err(error) = serve(&stream, door.as_ref()) {
                tracing::debug!(%error, "a control connection ended");
            }
            connections.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        })
    };
    match thread {
        Ok(thread) => {
            if let Some((_, slot)) = list.get_mut(&id) {
                *slot = Some(thread);
            }
            Ok(())
        }
        Err(error) => {
            list.remove(&id);
            Err(error)
        }
    }
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
    while let Some(request) = Request::read(&mut reader)? {
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
            Request::Open(blob) => match door.open(&blob) {
                Ok(Some(mut content)) => {
                    Response::Done.write(&mut writer)?;
                    if let Err(error) = write_content(&mut writer, &mut *content)? {
                        tracing::debug!(%blob, %error, "a blob could not be read to its end");
                    }
                }
                Ok(None) => Response::Missing.write(&mut writer)?,
                Err(error) => Response::Failed(error.to_string()).write(&mut writer)?,
            },
            Request::PutBlob(blob) => put_blob(stream, &mut reader, door, &blob)?,
            Request::PutRecord(record) => {
                working(&mut writer, || door.put_record(record.clone()).map(|()| Response::Done))?;
            }
            Request::Flush => working(&mut writer, || door.flush().map(|()| Response::Done))?,
            Request::Status => Response::Status(Box::new(door.status())).write(&mut writer)?,
        }
        writer.flush()?;
    }
    Ok(())
}

fn put_blob(
    stream: &UnixStream,
    reader: &mut BufReader<&UnixStream>,
    door: &dyn Door,
    blob: &netbuild_core::digest::Digest,
) -> io::Result<()> {
    stream.set_read_timeout(Some(STALL))?;
    let mut content = ContentReader::new(reader);
    let result = door.put_blob(blob, Content::Reader(&mut content));
    // What the cache did not want to read must not be taken for the next request.
    io::copy(&mut content, &mut io::sink())?;
    stream.set_read_timeout(None)?;
    match result {
        Ok(()) => Response::Done,
        Err(error) => Response::Failed(error.to_string()),
    }
    .write(&mut &*stream)
}

/// Answers with what `work` comes to, and lets the client know meanwhile that it goes on.
fn working(
    writer: &mut &UnixStream,
    work: impl FnOnce() -> Result<Response, CacheError> + Send,
) -> io::Result<()> {
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(1);
        scope.spawn(move || drop(sender.send(work())));
        loop {
            match receiver.recv_timeout(HEARTBEAT) {
                Ok(Ok(response)) => return response.write(writer),
                Ok(Err(error)) => return Response::Failed(error.to_string()).write(writer),
                Err(RecvTimeoutError::Timeout) => Response::Working.write(writer)?,
                Err(RecvTimeoutError::Disconnected) => {
                    return Response::Failed("the request panicked".into()).write(writer);
                }
            }
        }
    })
}
