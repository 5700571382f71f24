//! The serving end of the control socket: one thread for each connection, since its clients are a
//! few commands on the same machine, and everything behind it blocks.

use crate::{conversation::serve, door::Door, guests::Guests};
use rustix::event::{PollFd, PollFlags, poll};
use std::{
    collections::HashMap,
    fs::{self, DirBuilder, Permissions},
    io,
    net::Shutdown,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{DirBuilderExt as _, PermissionsExt as _},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

/// Most connections at once. A run has at most one for each of its jobs.
const MAX_CONNECTIONS: usize = 256;
/// How long a client may stay silent in the middle of what it sends, or not read its answer.
const STALL: Duration = Duration::from_secs(30);

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
#[derive(Debug)]
struct Connections {
    open: Mutex<HashMap<u64, Served>>,
    guests: Arc<Guests>,
}

/// An open connection with the thread that serves it.
#[derive(Debug)]
struct Served {
    stream: Arc<UnixStream>,
    thread: JoinHandle<()>,
}

impl ControlServer {
    /// Binds the socket at `path`, replacing one that a killed process left. The caller owns the
    /// data directory, so no other process serves it. `guests` hears what builds look up.
    ///
    /// # Errors
    /// When the socket cannot be made there.
    pub fn start(path: &Path, door: Arc<dyn Door>, guests: Arc<Guests>) -> io::Result<Self> {
        let listener = bind(path)?;
        let (stopped, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let connections = Arc::new(Connections { open: Mutex::default(), guests });
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
    let guests = Arc::clone(&connections.guests);
    let thread =
        std::thread::Builder::new().name("control connection".into()).spawn(move || {
            let _listed = Listed(id, listed);
            // Moved in here to be dropped before the one above.
            let (served, door) = (served, door);
            // Who it is counts for what is shown of builds only.
            let who = rustix::net::sockopt::socket_peercred(&served)
                .map_or(0, |who| who.pid.as_raw_pid());
            let visit = guests.enter(who);
            if let Err(error) = serve(&served, door.as_ref(), &visit) {
                tracing::debug!(%error, "a control connection ended");
            }
        })?;
    list.insert(id, Served { stream, thread });
    Ok(())
}
