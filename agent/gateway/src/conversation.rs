//! One connection of the control socket: requests, and their answers one by one.

use crate::{
    door::{Door, OnStep},
    guests::{Recorded, Visit},
};
use netbuild_core::{
    cache::{CacheError, Content, FetchedAll, Hit},
    digest::Digest,
    key::ActionKey,
    moved::{Progress, Watch},
    record::Sandbox,
    sooner::{Building, Slow},
};
use netbuild_proto::control::{
    ContentReader, Request, Response, Rows, SyncOrder, VERSION, VerifyOrder, write_content,
};
use rustix::event::{PollFd, PollFlags, poll};
use std::{
    collections::BTreeSet,
    io::{self, BufReader},
    ops::ControlFlow,
    os::unix::net::UnixStream,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

/// How often a client whose request takes long hears that it is still worked on.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How often a client hears how far its transfer or its sync is: smooth to the eye, and soon enough
/// for the agent to see that the client of a sync has gone.
const PROGRESS: Duration = Duration::from_millis(200);
/// Most decisions in one answer: more than anybody reads.
const MAX_DECISIONS: u32 = 1000;

/// Serves a connection until its client goes, or does not keep to the protocol.
pub(crate) fn serve(stream: &UnixStream, door: &dyn Door, visit: &Visit) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(64 * 1024, stream);
    let mut writer = stream;
    let Some(Request::Hello { version }) = Request::read(&mut reader)? else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no greeting"));
    };
    Response::Welcome { version: VERSION }.write(&mut writer)?;
    if version != VERSION {
        return Ok(());
    }
    let guest = Guest { door, number: GUESTS.fetch_add(1, Ordering::Relaxed), visit };
    while let Some(request) = next(&mut reader)? {
        match request {
            Request::Hello { .. } => Response::Failed("greeted twice".into()).write(&mut writer)?,
            Request::Lookup(key) => {
                looking(&mut writer, &guest, &key, Sandbox::Loose, None)?;
            }
            Request::LookupFrom(key, least, building) => {
                looking(&mut writer, &guest, &key, least, building)?;
            }
            Request::Peek(key) => {
                let answer = contained(|| door.peek_sealed(&key)).map(|found| match found {
                    Some(record) => Response::Record(record),
                    None => Response::Missing,
                });
                let failed = |error: CacheError| Response::Failed(error.to_string());
                answer.unwrap_or_else(failed).write(&mut writer)?;
            }
            Request::Bring(keys) => {
                moving(&mut writer, |watch| {
                    door.bring(&keys, watch)?;
                    for key in &keys {
                        if let Some(record) = door.peek_sealed(key)? {
                            door.keep(guest.number, record.record());
                        }
                    }
                    Ok(Response::Done)
                })?;
            }
            Request::Fetch(blobs) => {
                moving(&mut writer, |watch| {
                    let FetchedAll { missing, fetched } = door.fetch_all(&blobs, watch)?;
                    Ok(Response::Fetched {
                        missing: places(&blobs, &missing),
                        source: fetched.source,
                        movement: fetched.movement,
                        seconds: fetched.seconds,
                    })
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
                let recorded = Recorded::from(&record);
                working(&mut writer, || {
                    door.put_record(record)?;
                    visit.recorded(&recorded);
                    Ok(Response::Done)
                })?;
            }
            Request::Flush => working(&mut writer, || door.flush().map(|()| Response::Done))?,
            Request::Drain { timeout_ms } => {
                let timeout = Duration::from_millis(timeout_ms);
                working(&mut writer, || door.drain(timeout).map(|()| Response::Done))?;
            }
            Request::Share(blob) => {
                working(&mut writer, || door.share(&blob).map(|()| Response::Done))?;
            }
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
            Request::Verify(order) => verifying(&mut writer, &order, door)?,
            Request::Space => stepping(&mut writer, |tell| door.space(tell).map(Response::Space))?,
            Request::Gc(order) => {
                stepping(&mut writer, |tell| door.gc(&order, tell).map(Response::Cleared))?;
            }
            Request::Pin { pin, label } => {
                working(&mut writer, || door.pin(pin, &label).map(done_or_missing))?;
            }
            Request::Unpin(pin) => {
                working(&mut writer, || door.unpin(&pin).map(done_or_missing))?;
            }
            Request::Pins => {
                working(&mut writer, || Ok(Response::Pins(Rows::fitting(door.pins()?))))?;
            }
        }
    }
    Ok(())
}

/// Numbers for connections, each used once.
static GUESTS: AtomicU64 = AtomicU64::new(1);

/// A connection, as those who promise it something know it.
struct Guest<'a> {
    door: &'a dyn Door,
    number: u64,
    /// What is counted of it.
    visit: &'a Visit,
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        self.door.leave(self.number);
    }
}

fn done_or_missing(done: bool) -> Response {
    if done { Response::Done } else { Response::Missing }
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

/// Where those that are missing stand among all, each as often as it stands there.
fn places(all: &[Digest], missing: &[Digest]) -> Vec<u32> {
    let missing: BTreeSet<&Digest> = missing.iter().collect();
    (0..).zip(all).filter(|(_, blob)| missing.contains(blob)).map(|(place, _)| place).collect()
}

/// The latest that there is to tell of work that goes on.
struct Latest<T>(Mutex<Option<T>>);

impl<T> Latest<T> {
    fn none() -> Self {
        Self(Mutex::new(None))
    }

    fn set(&self, news: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(news);
    }

    fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Progress for a client: the first of it at once, as it says that blobs are not here.
struct Client<'a> {
    latest: &'a Latest<Progress>,
    told: AtomicBool,
    wake: &'a (dyn Fn() + Sync),
    gone: &'a AtomicBool,
}

impl Watch for Client<'_> {
    fn moving(&self, progress: &Progress) {
        self.latest.set(progress.clone());
        if !self.told.swap(true, Ordering::Relaxed) {
            (self.wake)();
        }
    }

    fn is_over(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

/// Progress for a client that looks something up.
struct Lookup<'a> {
    watch: &'a dyn Watch,
    /// It uses no result that obtained less.
    least: Sandbox,
    building: Option<Building>,
    slow: Latest<Slow>,
}

impl Watch for Lookup<'_> {
    fn moving(&self, progress: &Progress) {
        self.watch.moving(progress);
    }

    fn least(&self) -> Sandbox {
        self.least
    }

    fn building(&self) -> Option<Building> {
        self.building
    }

    fn sooner_built(&self, slow: &Slow) {
        self.slow.set(*slow);
    }

    fn is_over(&self) -> bool {
        self.watch.is_over()
    }
}

/// Looks up an action, and tells how far its blobs are.
fn looking(
    writer: &mut &UnixStream,
    guest: &Guest<'_>,
    key: &ActionKey,
    least: Sandbox,
    building: Option<Building>,
) -> io::Result<()> {
    let told = guest.visit.looks();
    moving(writer, |watch| {
        let watch = Lookup { watch, least, building, slow: Latest::none() };
        let found = guest.door.lookup_sealed(key, &watch);
        let Some((record, hit)) = found.inspect_err(|_| told.failed())? else {
            let slow = watch.slow.take();
            told.missed(key, slow.is_some());
            return Ok(slow.map_or(Response::Missing, Response::SoonerBuilt));
        };
        told.hit(&hit);
        guest.door.keep(guest.number, record.record());
        let Hit { source, bytes, movement, .. } = hit;
        Ok(Response::Hit { record, source, bytes, movement })
    })
}

/// Answers with what `work` comes to, and lets the client know meanwhile that it goes on.
fn working(
    writer: &mut &UnixStream,
    work: impl FnOnce() -> Result<Response, CacheError> + Send,
) -> io::Result<()> {
    answer(writer, HEARTBEAT, || None, &AtomicBool::default(), |_| work())
}

/// The same for work that moves blobs, with how far they are.
fn moving(
    writer: &mut &UnixStream,
    work: impl FnOnce(&dyn Watch) -> Result<Response, CacheError> + Send,
) -> io::Result<()> {
    let (latest, gone) = (Latest::none(), AtomicBool::default());
    let news = || latest.take().map(Response::Moving);
    answer(writer, PROGRESS, news, &gone, |wake| {
        work(&Client { latest: &latest, told: AtomicBool::default(), wake, gone: &gone })
    })
}

/// The same for work in steps. A client that has gone ends it.
fn stepping(
    writer: &mut &UnixStream,
    work: impl FnOnce(OnStep<'_>) -> Result<Response, CacheError> + Send,
) -> io::Result<()> {
    let (latest, gone) = (Latest::none(), AtomicBool::default());
    let tell = |what: &str, part: f64| {
        latest.set((what.to_owned(), part));
        if gone.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    };
    let news = || latest.take().map(|(what, part)| Response::Doing { what, part });
    answer(writer, PROGRESS, news, &gone, |_| work(&tell))
}

/// Syncs, and tells the client how far it is. A client that has gone ends the sync.
fn syncing(writer: &mut &UnixStream, order: &SyncOrder, door: &dyn Door) -> io::Result<()> {
    telling(writer, Response::Syncing, |tell| door.sync(order, tell).map(Response::Synced))
}

/// Verifies, likewise.
fn verifying(writer: &mut &UnixStream, order: &VerifyOrder, door: &dyn Door) -> io::Result<()> {
    telling(writer, Response::Verifying, |tell| door.verify(order, tell).map(Response::Verified))
}

/// Does what takes long and ends early when the client has gone, and tells how far it is.
fn telling<P: Send>(
    writer: &mut &UnixStream,
    to_response: fn(P) -> Response,
    work: impl FnOnce(&mut (dyn FnMut(P) -> ControlFlow<()> + Send)) -> Result<Response, CacheError>
    + Send,
) -> io::Result<()> {
    let (latest, gone) = (Latest::none(), AtomicBool::default());
    let mut tell = |progress| {
        latest.set(progress);
        if gone.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    };
    let news = || latest.take().map(to_response);
    answer(writer, PROGRESS, news, &gone, |_| work(&mut tell))
}

/// Answers with what `work` comes to. Until then, the client hears at each `beat`, and when `work`
/// says so, what is new, and that it goes on. When it turns out that it is `gone`, that is set, but
/// the work waited for.
fn answer(
    writer: &mut &UnixStream,
    beat: Duration,
    news: impl Fn() -> Option<Response>,
    gone: &AtomicBool,
    work: impl FnOnce(&(dyn Fn() + Sync)) -> Result<Response, CacheError> + Send,
) -> io::Result<()> {
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(1);
        scope.spawn(move || {
            // What does not fit is behind a call that was not heard yet.
            let wake = || drop(sender.try_send(None));
            let result = contained(|| work(&wake));
            drop(sender.send(Some(result)));
        });
        let mut write = |response: Response| {
            response.write(writer).inspect_err(|_| gone.store(true, Ordering::Relaxed))
        };
        loop {
            let result = receiver.recv_timeout(beat);
            if let Some(news) = news() {
                write(news)?;
            }
            match result {
                Ok(Some(Ok(response))) => return write(response),
                Ok(Some(Err(error))) => return write(Response::Failed(error.to_string())),
                Ok(None) => {}
                Err(RecvTimeoutError::Timeout) => write(Response::Working)?,
                // The thread sends before it ends.
                Err(RecvTimeoutError::Disconnected) => return Err(io::ErrorKind::Other.into()),
            }
        }
    })
}
