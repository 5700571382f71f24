//! Asks an agent what it knows of the mesh, and to sync.

use super::{SocketCache, done, unexpected};
use crate::door::OnProgress;
use netbuild_core::{cache::CacheError, digest::Digest};
use netbuild_proto::control::{
    ConflictRow, Decision, LinkRow, MonitorSnapshot, PlanReport, Request, Response, Rows,
    SyncOrder, SyncProgress, SyncReport,
};

impl SocketCache {
    /// What is known of the links between agents.
    ///
    /// # Errors
    /// This one and those below: when no agent serves the socket, or it does not answer rightly.
    pub fn links(&self) -> Result<Rows<LinkRow>, CacheError> {
        match self.ask(&Request::Links)? {
            Response::Links(rows) => Ok(rows),
            other => Err(unexpected(&other)),
        }
    }

    /// How `blob` would be had now.
    pub fn plan(&self, blob: &Digest) -> Result<PlanReport, CacheError> {
        match self.ask(&Request::Plan(*blob))? {
            Response::Plan(plan) => Ok(plan),
            other => Err(unexpected(&other)),
        }
    }

    /// The decisions of late, the latest first and at most `limit`; with `about`, only those about
    /// that, see `Door::decisions`.
    pub fn decisions(&self, about: Option<&str>, limit: u32) -> Result<Rows<Decision>, CacheError> {
        match self.ask(&Request::Why { about: about.map(str::to_owned), limit })? {
            Response::Why(rows) => Ok(rows),
            other => Err(unexpected(&other)),
        }
    }

    /// The actions with results that differ.
    pub fn conflicts(&self) -> Result<Rows<ConflictRow>, CacheError> {
        match self.ask(&Request::Conflicts)? {
            Response::Conflicts(rows) => Ok(rows),
            other => Err(unexpected(&other)),
        }
    }

    /// The mesh at this moment.
    pub fn monitor(&self) -> Result<MonitorSnapshot, CacheError> {
        match self.ask(&Request::Monitor)? {
            Response::Monitor(snapshot) => Ok(snapshot),
            other => Err(unexpected(&other)),
        }
    }

    /// Copies between regions. Calls `progress` several times a second, with the same again when
    /// there is nothing new. `None` when that broke it off; the agent then ends it too.
    pub fn sync(
        &self,
        order: &SyncOrder,
        progress: OnProgress<'_>,
    ) -> Result<Option<SyncReport>, CacheError> {
        let mut connection = self.pool.take()?;
        connection.send(&Request::Sync(order.clone()))?;
        let mut latest = SyncProgress::default();
        loop {
            match connection.next()? {
                Response::Working => {}
                Response::Syncing(progress) => latest = progress,
                response => {
                    connection.put_back();
                    return match done(response)? {
                        Response::Synced(report) => Ok(Some(report)),
                        other => Err(unexpected(&other)),
                    };
                }
            }
            if progress(latest.clone()).is_break() {
                // Closes the connection, by which the agent knows.
                return Ok(None);
            }
        }
    }
}
