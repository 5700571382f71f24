//! Asks the owner of a data directory about its space.

use super::{SocketCache, done, unexpected};
use crate::door::OnStep;
use netbuild_core::{cache::CacheError, evict::Pin};
use netbuild_proto::control::{GcOrder, GcReport, PinRow, Request, Response, Rows, SpaceReport};

impl SocketCache {
    /// What takes the space. `tell` hears several times a second how far it is; `None` when it broke
    /// it off, and the owner then ends it too.
    ///
    /// # Errors
    /// This one and those below: when nobody serves the socket, or it does not answer rightly.
    pub fn space(&self, tell: OnStep<'_>) -> Result<Option<SpaceReport>, CacheError> {
        match self.step(&Request::Space, tell)? {
            None => Ok(None),
            Some(Response::Space(report)) => Ok(Some(report)),
            Some(other) => Err(unexpected(&other)),
        }
    }

    /// Makes space; see [`SocketCache::space`].
    pub fn gc(&self, order: GcOrder, tell: OnStep<'_>) -> Result<Option<GcReport>, CacheError> {
        match self.step(&Request::Gc(order), tell)? {
            None => Ok(None),
            Some(Response::Cleared(report)) => Ok(Some(report)),
            Some(other) => Err(unexpected(&other)),
        }
    }

    /// Keeps something whatever else goes; says whether that is new.
    pub fn pin(&self, pin: Pin, label: &str) -> Result<bool, CacheError> {
        self.whether(&Request::Pin { pin, label: label.to_owned() })
    }

    /// Lets something go like anything else; says whether it was pinned.
    pub fn unpin(&self, pin: Pin) -> Result<bool, CacheError> {
        self.whether(&Request::Unpin(pin))
    }

    /// What is pinned.
    pub fn pins(&self) -> Result<Rows<PinRow>, CacheError> {
        match self.ask(&Request::Pins)? {
            Response::Pins(rows) => Ok(rows),
            other => Err(unexpected(&other)),
        }
    }

    fn whether(&self, request: &Request) -> Result<bool, CacheError> {
        match self.ask(request)? {
            Response::Done => Ok(true),
            Response::Missing => Ok(false),
            other => Err(unexpected(&other)),
        }
    }

    fn step(&self, request: &Request, tell: OnStep<'_>) -> Result<Option<Response>, CacheError> {
        let mut connection = self.pool.take()?;
        connection.send(request)?;
        let mut latest = (String::new(), 0.0);
        loop {
            match connection.next()? {
                Response::Working => {}
                Response::Doing { what, part } => latest = (what, part),
                response => {
                    connection.put_back();
                    return done(response).map(Some);
                }
            }
            if tell(&latest.0, latest.1).is_break() {
                // Closes the connection, by which the owner knows.
                return Ok(None);
            }
        }
    }
}
