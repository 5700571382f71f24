//! One connection of the control socket: requests, and their answers one by one.

use crate::door::Door;
use netbuild_core::cache::{CacheError, Content};
use netbuild_proto::control::{
    ContentReader, Request, Response, Rows, SyncOrder, SyncProgress, VERSION, write_content,
};
use rustix::event::{PollFd, PollFlags, poll};
use std::{
    io::{self, BufReader},
    ops::ControlFlow,
    os::unix::net::UnixStream,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

/// How often a client whose request takes long hears that it is still worked on.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How often a client hears how far its sync is: smooth to the eye, and soon enough for the agent
/// to see that the client has gone.
const SYNC_HEARTBEAT: Duration = Duration::from_millis(200);
/// Most decisions in one answer: more than anybody reads.
const MAX_DECISIONS: u32 = 1000;

/// Serves a connection until its client goes, or does not keep to the protocol.
pub(crate) fn serve(stream: &UnixStream, door: &dyn Door) -> io::Result<()> {
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
            Request::Links => {
                working(&mut writer, || Ok(Response::Links(Rows::fitting(door.links()?))))?;
            }
            Request::Plan(blob) => working(&mut writer, || door.plan(&blob).map(Response::Plan))?,
            Request::Why { about, limit } => {
                let limit = limit.min(MAX_DECISIONS);
                let decisions = || door.decisions(about.as_deref(), limit);
                working(&mut writer, || Ok(Response::Why(Rows::fitting(decisions()?))))?;
            }
            Request::Conflicts => {
                working(&mut writer, || Ok(Response::Conflicts(Rows::fitting(door.conflicts()?))))?;
            }
            Request::Sync(order) => syncing(&mut writer, &order, door)?,
            Request::Monitor => working(&mut writer, || door.monitor().map(Response::Monitor))?,
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

/// Syncs, and tells the client how far it is. A client that has gone ends the sync.
fn syncing(writer: &mut &UnixStream, order: &SyncOrder, door: &dyn Door) -> io::Result<()> {
    let (latest, gone) = (Mutex::<Option<SyncProgress>>::default(), AtomicBool::new(false));
    let take = || latest.lock().unwrap_or_else(PoisonError::into_inner).take();
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(1);
        let (latest, gone) = (&latest, &gone);
        let mut tell = |progress| {
            *latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
            if gone.load(Ordering::Relaxed) {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        };
        scope.spawn(move || drop(sender.send(contained(|| door.sync(order, &mut tell)))));
        // The scope waits for the thread, which hears with its next progress that nobody waits.
        let failed = |error| {
            gone.store(true, Ordering::Relaxed);
            Err(error)
        };
        loop {
            let result = receiver.recv_timeout(SYNC_HEARTBEAT);
            if let Some(progress) = take()
                && let Err(error) = Response::Syncing(progress).write(writer)
            {
                return failed(error);
            }
            match result {
                Ok(Ok(report)) => return Response::Synced(report).write(writer),
                Ok(Err(error)) => return Response::Failed(error.to_string()).write(writer),
                Err(RecvTimeoutError::Timeout) => {
                    if let Err(error) = Response::Working.write(writer) {
                        return failed(error);
                    }
                }
                // The thread sends before it ends.
                Err(RecvTimeoutError::Disconnected) => return Err(io::ErrorKind::Other.into()),
            }
        }
    })
}
